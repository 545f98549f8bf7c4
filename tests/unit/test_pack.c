// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_pack.c - packed images: all comes back to the byte, or nothing appears at all.
 *
 * Images are packed in the test's directory and unpacked into one below it. TORTURE_TIMES in the
 * environment says how many bits are flipped.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "tests/unit/inject.h"
#include "tests/unit/snapshot_model.h"
#include "vmm/pack_format.h"

#define FLIPS 1000u /* by default */

static void setup(void)
{
	st_setup();
	cr_assert_eq(mkdir(st_path("out"), 0700), 0);
}

static void teardown(void)
{
	st_empty_dir(st_path("out"));
	st_teardown();
}

TestSuite(pack, .init = setup, .fini = teardown, .timeout = 600);

/* ---- packing and unpacking ---- */

static const char *out_path(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "out/%s", name);
	return st_path(path);
}

static int pack(const char *image, const char *to, struct pack_info *info)
{
	const struct pack_request r = {.image = st_path(image), .path = st_path(to)};

	st.error.text[0] = '\0';
	return pack_image(&r, info, &st.error);
}

static int unpack_named(const char *from, const char *to)
{
	struct unpack_request r = {.name = from, .path = out_path(to)};
	int ret;

	r.from = open(from, O_RDONLY | O_CLOEXEC);
	cr_assert_geq(r.from, 0);
	st.error.text[0] = '\0';
	ret = unpack_image(&r, NULL, &st.error);
	close(r.from);
	return ret;
}

static int unpack(const char *from, const char *to)
{
	return unpack_named(st_path(from), to);
}

/* Refused with one line that has `text` in it, and nothing new is there. */
static void expect_refused(int ret, int want, const char *text, int files)
{
	cr_assert_eq(ret, want, "%d: %s", ret, st.error.text);
	cr_assert_not_null(strstr(st.error.text, text), "%s", st.error.text);
	cr_assert_null(strchr(st.error.text, '\n'));
	cr_assert_eq(st_count_files(st_path("out")), files, "%d files: %s",
	             st_count_files(st_path("out")), st.error.text);
}

static bool same_file(const char *a, const char *b)
{
	static uint8_t x[BLOCK], y[BLOCK];
	int fa = open(a, O_RDONLY | O_CLOEXEC), fb = open(b, O_RDONLY | O_CLOEXEC);
	ssize_t na = 1, nb;
	bool same = true;

	cr_assert(fa >= 0 && fb >= 0);
	while (same && na > 0) {
		na = read(fa, x, sizeof(x));
		nb = read(fb, y, sizeof(y));
		same = na == nb && memcmp(x, y, (size_t)na) == 0;
	}
	close(fa);
	close(fb);
	return same;
}

static void expect_same(const char *image, const char *to)
{
	struct snapshot_info a, b;

	cr_assert(same_file(st_path(image), out_path(to)), "%s", to);
	cr_assert_eq(snapshot_verify(out_path(to), ISA, &st.error), 0, "%s", st.error.text);
	cr_assert_eq(snapshot_stat(st_path(image), &a, NULL), 0);
	cr_assert_eq(snapshot_stat(out_path(to), &b, NULL), 0);
	cr_assert_arr_eq(a.hash, b.hash, sizeof(a.hash));
	/* Holes are holes. */
	cr_assert_leq(b.disk_bytes, a.disk_bytes + 8 * PAGE);
}

/* ---- images ---- */

/* Little of everything: a few pages in three slots. */
static void save_small(const char *name)
{
	struct image *image;

	memset(st_add_pages(3 * PAGE, 2), 0x11, 2 * PAGE);
	memset(st_add_pages(BLOCK + 511 * PAGE, 1), 0x22, PAGE);
	memset(st_add_pages(HIGH_END - PAGE, 1), 0x33, PAGE);
	image = st_image(st_state, sizeof(st_state));
	st_save(image, st_path(name));
	image_put(image);
}

/* The image of a clone of `from` that has changed three pages. */
static void save_over(const char *from, const char *name)
{
	struct snapshot_base *base;
	struct image *image;
	const struct extent *e;
	size_t count;

	cr_assert_eq(snapshot_open_base(st_path(from), ISA, &image, &base, NULL, NULL), 0);
	e = image_extents(image, &count);
	for (size_t i = 1; i < count; i++)
		st_add_extent(e[i]);
	st_fill(st_add_pages(5 * PAGE, 3), 3 * PAGE);
	st_save_over(base, st_path(name));
	image_put(image);
}

/* a.cow, b.cow over it, c.cow over that: c lies in all three. */
static void save_line(void)
{
	save_small("a.cow");
	save_over("a.cow", "b.cow");
	save_over("b.cow", "c.cow");
}

/* ---- what comes back ---- */

Test(pack, comes_back_to_the_byte)
{
	struct pack_info info;
	struct stat packed;

	st_save_mixed(st_path("a.cow"));
	cr_assert_eq(pack("a.cow", "a.pack", &info), 0, "%s", st.error.text);
	cr_assert_eq(stat(st_path("a.pack"), &packed), 0);
	cr_assert_eq(info.files, 1);
	cr_assert_eq(info.packed_bytes, (uint64_t)packed.st_size);
	cr_assert_eq(packed.st_mode & 0777, 0600);
	/* Random pages do not get smaller, and holes take nothing. */
	cr_assert_lt(info.packed_bytes, info.data_bytes + 64 * 1024);
	cr_assert_eq(unpack("a.pack", "b.cow"), 0, "%s", st.error.text);
	expect_same("a.cow", "b.cow");
	/* Over itself, and again packed over the packed one. */
	cr_assert_eq(unpack("a.pack", "b.cow"), 0, "%s", st.error.text);
	cr_assert_eq(pack("a.cow", "a.pack", NULL), 0, "%s", st.error.text);
	cr_assert_eq(st_count_files(st_path("out")), 1);
}

Test(pack, every_level)
{
	struct pack_request r = {.image = st_path("a.cow"), .path = st_path("a.pack")};
	struct pack_info info = {0}, quick = {0};

	save_small("a.cow");
	for (r.level = PACK_LEVEL_LEAST; r.level <= PACK_LEVEL_MOST; r.level++) {
		cr_assert_eq(pack_image(&r, r.level == 1 ? &quick : &info, &st.error), 0, "%s",
		             st.error.text);
		cr_assert_eq(unpack("a.pack", "a.cow"), 0, "%u: %s", r.level, st.error.text);
		expect_same("a.cow", "a.cow");
	}
	cr_assert_leq(info.packed_bytes, quick.packed_bytes);
	cr_assert_eq(pack_image(&r, &info, &st.error), -EINVAL);
}

Test(pack, with_all_it_lies_in)
{
	struct snapshot_info info;
	struct pack_info packed;

	save_line();
	cr_assert_eq(pack("c.cow", "c.pack", &packed), 0, "%s", st.error.text);
	cr_assert_eq(packed.files, 2);
	cr_assert_eq(unpack("c.pack", "new.cow"), 0, "%s", st.error.text);
	expect_same("c.cow", "new.cow");
	expect_same("a.cow", "a.cow");
	cr_assert_eq(snapshot_stat(out_path("new.cow"), &info, NULL), 0);
	cr_assert_str_eq(info.parent, "b.cow");
	cr_assert_eq(st_count_files(st_path("out")), 2);
	/* What is there already is that image, and stays the file it is. */
	cr_assert_eq(unpack("c.pack", "c.cow"), 0, "%s", st.error.text);
	cr_assert_eq(st_count_files(st_path("out")), 3);
}

Test(pack, an_image_without_memory)
{
	struct image *image = st_image(NULL, 0);

	st_save(image, st_path("a.cow"));
	image_put(image);
	cr_assert_eq(pack("a.cow", "a.pack", NULL), 0, "%s", st.error.text);
	cr_assert_eq(unpack("a.pack", "a.cow"), 0, "%s", st.error.text);
	expect_same("a.cow", "a.cow");
}

/* ---- what is not overwritten ---- */

Test(pack, one_kind_does_not_replace_the_other)
{
	struct stat before, now;

	save_line();
	cr_assert_eq(stat(st_path("a.cow"), &before), 0);
	expect_refused(pack("c.cow", "a.cow", NULL), -EEXIST, "is an image", 0);
	expect_refused(pack("a.cow", "a.cow", NULL), -EEXIST, "is an image", 0);
	cr_assert_eq(stat(st_path("a.cow"), &now), 0);
	cr_assert_eq(now.st_ino, before.st_ino);
	cr_assert_eq(pack("c.cow", "c.pack", NULL), 0);
	cr_assert_eq(pack("a.cow", "out/a.pack", NULL), 0);
	expect_refused(unpack("c.pack", "a.pack"), -EEXIST, "is a packed image", 1);
	expect_refused(unpack("c.pack", "a.cow"), -EEXIST, "has that name", 1);
	expect_refused(unpack("a.cow", "b.cow"), -EBADMSG, "is an image already", 1);
	/* Another image, and another kind of file, where one belongs that it lies in. */
	save_small("out/a.cow");
	expect_refused(unpack("c.pack", "c.cow"), -EEXIST, "is something else", 2);
	st_write_at(out_path("a.cow"), "x", 1, 0);
	expect_refused(unpack("c.pack", "c.cow"), -EEXIST, "is something else", 2);
}

/* What only the name that is given in the end can tell: a link to nothing. */
Test(pack, a_name_that_is_taken_after_all)
{
	save_line();
	cr_assert_eq(pack("c.cow", "c.pack", NULL), 0);
	cr_assert_eq(symlink("elsewhere", out_path("a.cow")), 0);
	expect_refused(unpack("c.pack", "c.cow"), -EEXIST, "renaming it into place", 1);
}

Test(pack, two_files_of_one_name)
{
	struct snapshot_request r = {.isa = ISA, .cpus = 1};
	struct snapshot_base *base;
	struct image *image;

	/* out/x.cow lies in x.cow. */
	save_small("x.cow");
	save_over("x.cow", "out/y.cow");
	cr_assert_eq(rename(out_path("y.cow"), out_path("x.cow")), 0);
	cr_assert_eq(pack("out/x.cow", "x.pack", NULL), -EEXIST);
	cr_assert_not_null(strstr(st.error.text, "flatten it first"), "%s", st.error.text);
	cr_assert_eq(access(st_path("x.pack"), F_OK), -1);
	/* Flat, it is. */
	cr_assert_eq(snapshot_open_base(out_path("x.cow"), ISA, &image, &base, NULL, NULL), 0);
	r.image = image;
	r.path = st_path("flat.cow");
	cr_assert_eq(snapshot_write(&r, &st.error), 0);
	image_put(image);
	snapshot_base_free(base);
	cr_assert_eq(pack("flat.cow", "x.pack", NULL), 0, "%s", st.error.text);
}

/* What is not whole is not packed. */
Test(pack, damage_is_found_on_the_way_in)
{
	uint8_t byte;

	save_small("a.cow");
	st_read_at(st_path("a.cow"), &byte, 1, BLOCK + 3 * PAGE);
	byte ^= 4;
	st_write_at(st_path("a.cow"), &byte, 1, BLOCK + 3 * PAGE);
	expect_refused(pack("a.cow", "a.pack", NULL), -EBADMSG, "is damaged between", 0);
	cr_assert_eq(st_count_files(st.dir), 2);
	save_small("a.cow");
	st_write_at(st_path("a.cow"), "x", 1, SNAPSHOT_HEADER_SIZE + sizeof(st_state));
	expect_refused(pack("a.cow", "a.pack", NULL), -EBADMSG, "nothing but zeros", 0);
	cr_assert_eq(pack("none.cow", "a.pack", NULL), -ENOENT);
	cr_assert_eq(st_count_files(st.dir), 2);
}

/* ---- damage ---- */

/* A file in memory. */
struct bytes {
	uint8_t *at;
	size_t size;
};

static struct bytes load(const char *path)
{
	struct stat now;
	struct bytes b;

	cr_assert_eq(stat(path, &now), 0);
	b = (struct bytes){malloc((size_t)now.st_size + 1), (size_t)now.st_size};
	cr_assert_not_null(b.at);
	st_read_at(path, b.at, b.size, 0);
	return b;
}

static void store(const char *path, const void *bytes, size_t size)
{
	FILE *f = fopen(path, "we");

	cr_assert_not_null(f);
	cr_assert_eq(fwrite(bytes, 1, size, f), size);
	cr_assert_eq(fclose(f), 0);
}

static unsigned flips(void)
{
	const char *text = getenv("TORTURE_TIMES");

	return text ? (unsigned)strtoul(text, NULL, 10) : FLIPS;
}

/* Nothing is there, or all of it and right: the library does not look at each bit of a frame. */
static bool expect_right_or_nothing(int ret, const char *what, size_t at)
{
	if (ret == 0) {
		expect_same("c.cow", "c.cow");
		expect_same("a.cow", "a.cow");
		unlink(out_path("c.cow"));
		unlink(out_path("a.cow"));
	} else {
		cr_assert_neq(st.error.text[0], '\0');
		cr_assert_null(strchr(st.error.text, '\n'));
	}
	cr_assert_eq(st_count_files(st_path("out")), 0, "%s at %zu: %s", what, at, st.error.text);
	return ret == 0;
}

Test(pack, flipped_bits_never_give_a_wrong_image, .timeout = 7200)
{
	struct bytes b;
	unsigned unseen = 0;
	int fds;

	save_line();
	cr_assert_eq(pack("c.cow", "c.pack", NULL), 0);
	b = load(st_path("c.pack"));
	fds = st_open_fds();
	for (unsigned i = 0; i < flips(); i++) {
		size_t at = st_random() % b.size;
		uint8_t bit = (uint8_t)(1u << st_random() % 8);

		b.at[at] ^= bit;
		store(st_path("bad.pack"), b.at, b.size);
		b.at[at] ^= bit;
		unseen += expect_right_or_nothing(unpack("bad.pack", "c.cow"), "a flip", at);
	}
	cr_assert_leq(unseen, flips() / 100, "%u", unseen);
	cr_assert_eq(st_open_fds(), fds);
	free(b.at);
}

Test(pack, every_missing_end_is_noticed, .timeout = 7200)
{
	struct bytes b;

	save_line();
	cr_assert_eq(pack("c.cow", "c.pack", NULL), 0);
	b = load(st_path("c.pack"));
	for (size_t size = 0; size < b.size; size += size < 700 ? 1 : 1 + b.size / 500) {
		store(st_path("bad.pack"), b.at, size);
		expect_refused(unpack("bad.pack", "c.cow"), -EBADMSG, size < 8 ? "magic" : "trunc",
		               0);
	}
	b.at[b.size] = 0;
	store(st_path("bad.pack"), b.at, b.size + 1);
	expect_refused(unpack("bad.pack", "c.cow"), -EBADMSG, "follows its end", 0);
	free(b.at);
}

/* ---- made to mislead ---- */

/* A packed file taken apart. */
struct forgery {
	struct pack_table table;
	struct bytes stream;
	int window; /* log of the frame's; 0: the library's choice */
};

static struct forgery *take_apart(const char *path)
{
	struct forgery *f = calloc(1, sizeof(*f));
	struct bytes b = load(path);
	size_t front;

	cr_assert_not_null(f);
	memcpy(&f->table.header, b.at, sizeof(f->table.header));
	front = f->table.header.header_size;
	memcpy(&f->table, b.at, front);
	f->stream.size = f->table.header.stream_size;
	f->stream.at = malloc(f->stream.size + PAGE);
	cr_assert_not_null(f->stream.at);
	cr_assert_eq(ZSTD_decompress(f->stream.at, f->stream.size, b.at + front, b.size - front),
	             f->stream.size);
	free(b.at);
	return f;
}

/* With checksums that fit; the size as it is. */
static void put_together(struct forgery *f, const char *path)
{
	size_t room = ZSTD_compressBound(f->stream.size) + PAGE, n;
	ZSTD_CCtx *c = ZSTD_createCCtx();
	uint8_t *frame = malloc(room);
	ZSTD_inBuffer in = {.src = f->stream.at, .size = f->stream.size};
	ZSTD_outBuffer out = {.dst = frame, .size = room};
	FILE *to = fopen(path, "we");

	cr_assert(c && frame && to);
	ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
	if (f->window)
		ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, f->window);
	/* In two steps: else the library makes the window as small as the contents. */
	n = ZSTD_compressStream2(c, &out, &in, f->window ? ZSTD_e_flush : ZSTD_e_end);
	cr_assert_not(ZSTD_isError(n));
	cr_assert_eq(ZSTD_compressStream2(c, &out, &in, ZSTD_e_end), 0);
	f->table.header.header_sum = pack_table_sum(&f->table);
	cr_assert_eq(fwrite(&f->table, f->table.header.header_size, 1, to), 1);
	cr_assert_eq(fwrite(frame, out.pos, 1, to), 1);
	cr_assert_eq(fclose(to), 0);
	ZSTD_freeCCtx(c);
	free(frame);
}

static void free_forgery(struct forgery *f)
{
	free(f->stream.at);
	free(f);
}

static void try_forgery(struct forgery *f, const char *text)
{
	put_together(f, st_path("bad.pack"));
	expect_refused(unpack("bad.pack", "c.cow"), -EBADMSG, text, 0);
	free_forgery(f);
}

static struct forgery *fresh_forgery(void)
{
	return take_apart(st_path("c.pack"));
}

Test(pack, fronts_made_to_mislead)
{
	static const char *const bad_names[] = {"", ".", "..", "a/b", "../a.cow", "a\nb", "\x1b[m"};
	struct forgery *f;

	save_line();
	cr_assert_eq(pack("c.cow", "c.pack", NULL), 0);
	for (size_t i = 0; i < sizeof(bad_names) / sizeof(bad_names[0]); i++) {
		f = fresh_forgery();
		snprintf(f->table.entry[0].name, PACK_NAME_SIZE, "%s", bad_names[i]);
		try_forgery(f, "name of a file");
	}
	f = fresh_forgery();
	memset(f->table.entry[0].name, 'a', PACK_NAME_SIZE);
	try_forgery(f, "name of a file");
	f = fresh_forgery();
	memcpy(f->table.entry[0].name, f->table.entry[1].name, PACK_NAME_SIZE);
	try_forgery(f, "second file of a name");
	f = fresh_forgery();
	f->table.entry[0].front = 1;
	try_forgery(f, "size of a file");
	f = fresh_forgery();
	f->table.entry[0].file_size = UINT64_MAX;
	try_forgery(f, "size of a file");
	f = fresh_forgery();
	f->table.entry[0].pages = 0;
	try_forgery(f, "number of a file's pages");
	f = fresh_forgery();
	f->table.header.stream_size++;
	try_forgery(f, "front's size");
	f = fresh_forgery();
	f->table.entry[0].hash[1]++;
	try_forgery(f, "is not the image that the front names");
	f = fresh_forgery();
	f->table.entry[0].extents++;
	f->table.entry[0].front -= PACK_MAP_SIZE;
	try_forgery(f, "a.cow in ");
	/* Another version, and another number of files than there are. */
	f = fresh_forgery();
	f->table.header.version = 2;
	put_together(f, st_path("bad.pack"));
	expect_refused(unpack("bad.pack", "c.cow"), -ENOTSUP, "version 2", 0);
	free_forgery(f);
	f = fresh_forgery();
	put_together(f, st_path("bad.pack"));
	f->table.header.file_count = SNAPSHOT_FILES_MAX + 1;
	f->table.header.header_size = pack_table_size(&f->table);
	st_write_at(st_path("bad.pack"), &f->table.header, sizeof(f->table.header), 0);
	expect_refused(unpack("bad.pack", "c.cow"), -EBADMSG, "own size", 0);
	free_forgery(f);
}

/* Small files that would be large. */
Test(pack, bombs)
{
	struct forgery *f;

	save_line();
	cr_assert_eq(pack("c.cow", "c.pack", NULL), 0);
	/* The front asks for more than any disk has. */
	f = fresh_forgery();
	f->table.entry[0].file_size = SNAPSHOT_FILE_MAX;
	f->table.entry[0].extents = UINT64_C(1) << 22;
	f->table.entry[0].pages = UINT64_C(1) << 31;
	f->table.header.stream_size =
		pack_entry_bytes(&f->table.entry[0]) + pack_entry_bytes(&f->table.entry[1]);
	put_together(f, st_path("bad.pack"));
	expect_refused(unpack("bad.pack", "c.cow"), -ENOSPC, "it takes 8388608 MiB", 0);
	free_forgery(f);
	/* The stream has more than the front says. */
	f = fresh_forgery();
	memset(f->stream.at + f->stream.size, 0, PAGE);
	f->stream.size += PAGE;
	try_forgery(f, "holds more than its front says");
	/* And less. */
	f = fresh_forgery();
	f->stream.size -= 1;
	try_forgery(f, "holds less than its front says");
	/* A window that would take 128 MiB. */
	f = fresh_forgery();
	f->window = 27;
	try_forgery(f, "requires too much memory");
}

Test(pack, contents_made_to_mislead)
{
	struct forgery *f;
	uint8_t *map;

	save_line();
	cr_assert_eq(pack("c.cow", "c.pack", NULL), 0);
	/* A page of a.cow differs, as does where its pages lie. */
	f = fresh_forgery();
	map = f->stream.at + f->table.entry[0].front;
	map[PACK_MAP_SIZE + 9] ^= 1;
	try_forgery(f, "a.cow in ");
	f = fresh_forgery();
	map = f->stream.at + f->table.entry[0].front;
	cr_assert_eq(map[0], 0x18);
	map[0] = 0x0c;
	try_forgery(f, "is damaged between");
	f = fresh_forgery();
	map = f->stream.at + f->table.entry[0].front;
	map[0] = 0x38;
	try_forgery(f, "miscounts its pages");
	/* Something where only zeros are: the last byte before a.cow's extent table. */
	f = fresh_forgery();
	f->stream.at[SNAPSHOT_HEADER_SIZE + sizeof(st_state)] = 1;
	try_forgery(f, "nothing but zeros");
	/* The image without what it lies in. */
	f = fresh_forgery();
	f->stream.size = pack_entry_bytes(&f->table.entry[1]);
	memmove(f->stream.at, f->stream.at + pack_entry_bytes(&f->table.entry[0]), f->stream.size);
	f->table.entry[0] = f->table.entry[1];
	f->table.header.file_count = 1;
	f->table.header.header_size = pack_table_size(&f->table);
	f->table.header.stream_size = f->stream.size;
	try_forgery(f, "which is not packed with it");
}

/* ---- failures ---- */

/* Each call of one kind in turn. Return: how many there were. */
static unsigned fail_each(int (*work)(void), enum inject_call call, int error, int files)
{
	unsigned k = 0;
	int ret, fds = st_open_fds();

	do {
		st.error.text[0] = '\0';
		inject_arm_error(++k, call, error);
		ret = work();
		inject_disarm();
		if (!inject_fired())
			break;
		cr_assert_eq(ret, -error, "%s %u: %d %s", inject_name(call), k, ret, st.error.text);
		cr_assert(strstr(st.error.text, strerror(error)) ||
		                  strstr(st.error.text, "no memory"),
		          "%s", st.error.text);
		cr_assert_null(strchr(st.error.text, '\n'));
		cr_assert_eq(st_count_files(st_path("out")), files, "%s %u", inject_name(call), k);
		cr_assert_eq(st_open_fds(), fds);
	} while (true);
	cr_assert_eq(ret, 0, "%s", st.error.text);
	return k - 1;
}

static int pack_c(void)
{
	return pack("c.cow", "out/c.pack", NULL);
}

static int unpack_c(void)
{
	return unpack("c.pack", "c.cow");
}

/* Until it is there, right; then it goes. */
static unsigned fail_each_unpack(enum inject_call call, int error)
{
	unsigned n = fail_each(unpack_c, call, error, 0);

	expect_same("c.cow", "c.cow");
	expect_same("a.cow", "a.cow");
	st_empty_dir(st_path("out"));
	return n;
}

Test(pack, failures_leave_nothing)
{
	save_line();
	cr_assert_geq(fail_each(pack_c, INJECT_PWRITE, ENOSPC, 0), 2);
	cr_assert_eq(unlink(out_path("c.pack")), 0);
	cr_assert_eq(fail_each(pack_c, INJECT_RENAMEAT, EIO, 0), 1);
	/* From now on what was there stays. */
	cr_assert_gt(fail_each(pack_c, INJECT_PREAD, EIO, 1), 5);
	cr_assert_gt(fail_each(pack_c, INJECT_MALLOC, ENOMEM, 1), 3);
	cr_assert_gt(fail_each(pack_c, INJECT_CALLOC, ENOMEM, 1), 2);
	cr_assert_eq(unlink(out_path("c.pack")), 0);

	cr_assert_eq(pack("c.cow", "c.pack", NULL), 0);
	/* Two fronts, and four slots of one run each. */
	cr_assert_eq(fail_each_unpack(INJECT_PWRITE, ENOSPC), 6);
	cr_assert_eq(fail_each_unpack(INJECT_FTRUNCATE, EIO), 2);
	cr_assert_gt(fail_each_unpack(INJECT_PREAD, EIO), 4);
	cr_assert_gt(fail_each_unpack(INJECT_MALLOC, ENOMEM), 3);
	cr_assert_gt(fail_each_unpack(INJECT_CALLOC, ENOMEM), 1);
}
