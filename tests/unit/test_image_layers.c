// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_image_layers.c - images of clones: only what differs is stored, and it all comes
 * back whatever happens around the files.
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "mm/space.h"
#include "tests/unit/snapshot_model.h"
#include "vmm/snapshot_format.h"

TestSuite(image_layers, .init = st_setup, .fini = st_teardown, .timeout = 120);

/* A clone of the image in a file, as a space. */
struct clone {
	struct image *image;
	struct snapshot_base *base;
	struct space *space;
};

static void clone_open(struct clone *c, const char *path)
{
	struct space_config config = {
		.pool = st.pool, .ram = st_ram, .ram_count = 2, .faults = FAULTS_KERNEL};
	int ret = snapshot_open_base(path, ISA, &c->image, &c->base, NULL, &st.error);

	cr_assert_eq(ret, 0, "%s", st.error.text);
	config.image = c->image;
	cr_assert_eq(space_create(&config, &c->space), 0);
}

/* New random bytes in guest and model; `zero`: zeros. */
static void clone_write(struct clone *c, uint64_t gpa, uint32_t pages, bool zero)
{
	if (zero)
		memset(st.bytes + gpa, 0, pages * PAGE);
	else
		st_fill(st.bytes + gpa, pages * PAGE);
	cr_assert_eq(space_write(c->space, (gpa_t){gpa}, st.bytes + gpa, pages * PAGE), 0);
}

static int clone_try_save(struct clone *c, const char *path)
{
	struct snapshot_request r = {.isa = ISA, .cpus = 1, .path = path, .base = c->base};
	struct image *image;
	int ret;

	cr_assert_eq(space_publish(c->space, st_state, sizeof(st_state), &image), 0);
	r.image = image;
	ret = snapshot_write(&r, &st.error);
	image_put(image);
	return ret;
}

static void clone_close(struct clone *c)
{
	space_destroy(c->space);
	snapshot_base_free(c->base);
	image_put(c->image);
}

static void clone_save(struct clone *c, const char *path)
{
	int ret = clone_try_save(c, path);

	cr_assert_eq(ret, 0, "%s", st.error.text);
	clone_close(c);
}

/* The file holds the model's memory, and is whole with all it lies in. */
static struct snapshot_info expect(const char *path)
{
	struct snapshot_info info;
	struct image *image = st_open(path, &info);

	st_expect_memory(image);
	image_put(image);
	cr_assert_eq(snapshot_verify(path, ISA, &st.error), 0, "%s", st.error.text);
	return info;
}

/* base.cow, and child.cow with a page changed, a page zeroed, and a block that was empty. */
static void make_pair(void)
{
	struct clone c;

	st_save_mixed(st_path("base.cow"));
	clone_open(&c, st_path("base.cow"));
	clone_write(&c, 17 * PAGE, 1, false);
	clone_write(&c, 30 * PAGE, 2, true);
	clone_write(&c, 2 * BLOCK + 7 * PAGE, 3, false);
	clone_save(&c, st_path("child.cow"));
}

Test(image_layers, only_what_differs_is_stored)
{
	struct snapshot_info base, child;

	make_pair();
	child = expect(st_path("child.cow"));
	cr_assert_eq(snapshot_stat(st_path("base.cow"), &base, &st.error), 0);
	cr_assert(child.layered && !base.layered);
	cr_assert_eq(child.data_bytes, 4 * PAGE);
	cr_assert_leq(child.disk_bytes, 64 * 1024);
	cr_assert_eq(child.layers, 1);
	cr_assert_str_eq(child.parent, "base.cow");
	cr_assert_arr_eq(child.parent_hash, base.hash, sizeof(base.hash));
	cr_assert_eq(child.layer_bytes, (4 * 512 - 3 - 3) * PAGE);
	cr_assert_eq(st_count_files(st.dir), 2);
}

Test(image_layers, nothing_changed_and_all_changed)
{
	struct snapshot_info info;
	struct clone c;

	st_save_mixed(st_path("base.cow"));
	clone_open(&c, st_path("base.cow"));
	clone_save(&c, st_path("same.cow"));
	info = expect(st_path("same.cow"));
	cr_assert_eq(info.data_bytes, 0);
	cr_assert_eq(info.extents, 0);
	clone_open(&c, st_path("base.cow"));
	clone_write(&c, 0, LOW_SIZE / PAGE, false);
	clone_write(&c, HIGH_START, HIGH_SIZE / PAGE, false);
	clone_save(&c, st_path("all.cow"));
	info = expect(st_path("all.cow"));
	cr_assert_eq(info.data_bytes, RAM_SIZE);
	cr_assert_eq(info.layer_bytes, 0);
	/* It does not lie in its parent: that one may go. */
	cr_assert_eq(unlink(st_path("base.cow")), 0);
	expect(st_path("all.cow"));
	cr_assert_eq(st_open_bad(st_path("same.cow")), -ENOENT);
}

/* The last page of each region, alone. */
Test(image_layers, one_page_at_the_very_end)
{
	struct snapshot_info info;
	struct clone c;

	st_add_random(0, 512);
	image_put(st_image(NULL, 0));
	memset(st.bytes, 0, BLOCK);
	st_save_mixed(st_path("base.cow"));
	clone_open(&c, st_path("base.cow"));
	clone_write(&c, HIGH_END - PAGE, 1, false);
	clone_save(&c, st_path("a.cow"));
	info = expect(st_path("a.cow"));
	cr_assert_eq(info.data_bytes, PAGE);
	clone_open(&c, st_path("a.cow"));
	clone_write(&c, LOW_SIZE - PAGE, 1, false);
	clone_write(&c, HIGH_END - PAGE, 1, true);
	clone_save(&c, st_path("b.cow"));
	info = expect(st_path("b.cow"));
	cr_assert_eq(info.data_bytes, PAGE);
}

#define DEPTH 64u

static const char *level(unsigned n)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/level-%u.cow", st.dir, n);
	return path;
}

/* Each level changes some pages at random, sometimes to zero; each is right when opened alone. */
Test(image_layers, sixty_four_deep)
{
	uint8_t *at[DEPTH + 1], *now = st.bytes;
	struct snapshot_info info;
	struct clone c;
	uint32_t files = 0;

	st_save_mixed(level(0));
	for (unsigned n = 0; n <= DEPTH; n++) {
		at[n] = malloc(HIGH_END);
		if (n > 0) {
			clone_open(&c, level(n - 1));
			for (unsigned k = 0; k < 6; k++)
				clone_write(&c, st_random() % (LOW_SIZE / PAGE - 8) * PAGE,
				            1 + (uint32_t)(st_random() % 8), st_random() % 4 == 0);
			clone_save(&c, level(n));
		}
		memcpy(at[n], now, HIGH_END);
	}
	for (unsigned n = 0; n <= DEPTH; n++) {
		st.bytes = at[n];
		info = expect(level(n));
		files = info.layers;
		cr_assert_leq(files, n);
	}
	cr_assert_gt(files, 1);
	/* No block is in scraps, however long the line: 16 pieces of others, own ones between. */
	cr_assert_leq(info.pieces, 7 * 33, "%" PRIu64, info.pieces);
	for (unsigned n = 0; n <= DEPTH; n++) {
		cr_assert_eq(unlink(level(n)), 0);
		free(at[n]);
	}
	st.bytes = now;
}

/* ---- a guest larger than the host ---- */

#define FAR_PAGES 6u

/* Pages at both ends of RAM and in between, each with its address and a generation in it. */
static void far_page(uint64_t gpa, uint64_t generation, uint64_t page[MM_PAGE_SIZE / 8])
{
	memset(page, 0, PAGE);
	page[0] = gpa + 1;
	page[511] = generation;
}

static void far_check(const char *path, uint64_t ram, const uint64_t *gpa, uint64_t changed)
{
	struct snapshot_info info;
	struct image *image = st_open(path, &info);
	struct space_config config = {.pool = st.pool, .image = image, .faults = FAULTS_KERNEL};
	uint64_t page[MM_PAGE_SIZE / 8], want[MM_PAGE_SIZE / 8];
	struct space *space;

	cr_assert_eq(info.ram_bytes, ram);
	cr_assert_leq(info.disk_bytes, 128 * 1024);
	cr_assert_eq(snapshot_verify(path, ISA, &st.error), 0, "%s", st.error.text);
	cr_assert_eq(space_create(&config, &space), 0);
	for (size_t i = 0; i < FAR_PAGES; i++) {
		far_page(gpa[i], gpa[i] == changed ? 2 : 1, want);
		cr_assert_eq(space_read(space, (gpa_t){gpa[i]}, page, PAGE), 0);
		cr_assert_arr_eq(page, want, PAGE, "%#" PRIx64, gpa[i]);
		/* And what lies beside it is zero. */
		cr_assert_eq(space_read(space, (gpa_t){gpa[i] ^ PAGE}, page, PAGE), 0);
		cr_assert_eq(page[0], 0);
	}
	space_destroy(space);
	image_put(image);
}

Test(image_layers, guest_larger_than_host_memory)
{
	uint64_t host = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t ram = align_up(2 * host, BLOCK), page[MM_PAGE_SIZE / 8];
	const uint64_t gpa[FAR_PAGES] = {0,       ram / 4, ram / 2 - 7 * BLOCK,
	                                 ram / 2, host,    ram - PAGE};
	struct ram_region region = {{{0}, ram}, PAGE_SIZE_AUTO};
	struct space_config config = {.pool = st.pool, .faults = FAULTS_KERNEL};
	struct image_parts parts = {.ram = &region, .ram_count = 1, .extent_count = FAR_PAGES};
	struct snapshot_request r = {.isa = ISA, .cpus = 1, .path = st_path("b.cow")};
	struct snapshot_base *base;
	struct image *image;
	struct space *space;

	for (size_t i = 0; i < FAR_PAGES; i++) {
		far_page(gpa[i], 1, page);
		memcpy(st_add_pages(gpa[i], 1), page, PAGE);
	}
	parts.extents = st.extents;
	cr_assert_eq(image_create(&parts, &image), 0);
	for (size_t i = 0; i < FAR_PAGES; i++)
		pool_unref(st.pool, st.extents[i].frame);
	st_save(image, st_path("a.cow"));
	image_put(image);
	far_check(st_path("a.cow"), ram, gpa, UINT64_MAX);

	cr_assert_eq(snapshot_open_base(st_path("a.cow"), ISA, &config.image, &base, NULL, NULL),
	             0);
	cr_assert_eq(space_create(&config, &space), 0);
	far_page(gpa[5], 2, page);
	cr_assert_eq(space_write(space, (gpa_t){gpa[5]}, page, PAGE), 0);
	cr_assert_eq(space_publish(space, NULL, 0, &image), 0);
	r.image = image;
	r.base = base;
	cr_assert_eq(snapshot_write(&r, &st.error), 0, "%s", st.error.text);
	far_check(st_path("b.cow"), ram, gpa, gpa[5]);
	image_put(image);
	image_put(config.image);
	snapshot_base_free(base);
	space_destroy(space);
}

/* ---- where the files are ---- */

static void move(const char *from, const char *to)
{
	cr_assert_eq(rename(from, to), 0, "%s to %s", from, to);
}

static const char *other_dir(const char *name)
{
	static char paths[2][160];
	static unsigned next;
	char *path = paths[next++ % 2];

	snprintf(path, sizeof(paths[0]), "%s.other/%s", st.dir, name);
	return path;
}

Test(image_layers, found_beside_first_then_where_it_was)
{
	struct clone c;

	make_pair();
	cr_assert_eq(mkdir(other_dir(""), 0700), 0);
	/* Both moved: the name is enough. */
	move(st_path("base.cow"), other_dir("base.cow"));
	move(st_path("child.cow"), other_dir("child.cow"));
	expect(other_dir("child.cow"));
	/* In another directory from the start: by its whole path. */
	clone_open(&c, other_dir("child.cow"));
	clone_write(&c, 5 * PAGE, 1, false);
	clone_save(&c, st_path("far.cow"));
	expect(st_path("far.cow"));
	/* Beside goes first, also when what is there is something else. */
	st_save_mixed(st_path("spare.cow"));
	move(st_path("spare.cow"), st_path("child.cow"));
	cr_assert_eq(snapshot_verify(st_path("far.cow"), ISA, &st.error), 0, "%s", st.error.text);
	st_empty_dir(other_dir(""));
	cr_assert_eq(st_open_bad(st_path("far.cow")), -EBADMSG);
	rmdir(other_dir(""));
}

Test(image_layers, missing_or_wrong_parent_names_both_files)
{
	make_pair();
	move(st_path("base.cow"), st_path("kept.cow"));
	cr_assert_eq(st_open_bad(st_path("child.cow")), -ENOENT);
	cr_assert_not_null(strstr(st.error.text, "base.cow, which is missing"), "%s",
	                   st.error.text);
	cr_assert_eq(snapshot_verify(st_path("child.cow"), ISA, &st.error), -ENOENT);
	st_save_mixed(st_path("base.cow"));
	cr_assert_eq(st_open_bad(st_path("child.cow")), -EBADMSG);
	cr_assert_not_null(strstr(st.error.text, "base.cow is not that image any more"), "%s",
	                   st.error.text);
	/* Not an image at all, cut short, a directory. */
	cr_assert_eq(truncate(st_path("base.cow"), 100), 0);
	cr_assert_eq(st_open_bad(st_path("child.cow")), -EBADMSG);
	move(st_path("kept.cow"), st_path("base.cow"));
	cr_assert_eq(truncate(st_path("base.cow"), 4 * BLOCK), 0);
	cr_assert_eq(st_open_bad(st_path("child.cow")), -EBADMSG);
	cr_assert_eq(unlink(st_path("base.cow")), 0);
	cr_assert_eq(mkdir(st_path("base.cow"), 0700), 0);
	cr_assert_eq(st_open_bad(st_path("child.cow")), -EBADMSG);
}

/* What is open stays whole, and is stored whole when it is not where it was. */
Test(image_layers, files_gone_from_under_a_clone)
{
	struct snapshot_info info;
	struct clone c;

	make_pair();
	clone_open(&c, st_path("child.cow"));
	cr_assert_eq(unlink(st_path("base.cow")), 0);
	clone_write(&c, 9 * PAGE, 1, false);
	clone_save(&c, st_path("next.cow"));
	info = expect(st_path("next.cow"));
	cr_assert_eq(info.layers, 1);
	cr_assert_str_eq(info.parent, "child.cow");
	cr_assert_gt(info.data_bytes, 1000 * PAGE);
	/* All of it replaced by something else: nothing is built upon. */
	clone_open(&c, st_path("next.cow"));
	st_save(c.image, st_path("child.cow"));
	st_save(c.image, st_path("next.cow"));
	clone_write(&c, 10 * PAGE, 1, false);
	clone_save(&c, st_path("last.cow"));
	info = expect(st_path("last.cow"));
	cr_assert(!info.layered);
}

/* An image never lies in the file that it replaces. */
Test(image_layers, saved_over_itself_and_over_its_parent)
{
	struct snapshot_info info;
	struct clone c;

	make_pair();
	clone_open(&c, st_path("child.cow"));
	clone_write(&c, 9 * PAGE, 1, false);
	clone_save(&c, st_path("child.cow"));
	info = expect(st_path("child.cow"));
	cr_assert_eq(info.data_bytes, 5 * PAGE);
	cr_assert_eq(info.layers, 1, "what lies in base.cow still does");
	cr_assert_str_eq(info.parent, "");
	clone_open(&c, st_path("child.cow"));
	clone_write(&c, 11 * PAGE, 1, false);
	cr_assert_eq(symlink("base.cow", st_path("link.cow")), 0);
	clone_save(&c, st_path("link.cow"));
	info = expect(st_path("base.cow"));
	cr_assert_eq(info.layers, 1);
	cr_assert_str_eq(info.parent, "child.cow");
	/* Less two pages zeroed and two that lie in child.cow. */
	cr_assert_eq(info.data_bytes, (512 + 37 + 1 + 509 - 2 - 2) * PAGE);
	/* That took from child.cow what it lay in. */
	cr_assert_eq(st_open_bad(st_path("child.cow")), -EBADMSG);
}

/* ---- tables made to mislead ---- */

struct tables {
	struct snap_header h;
	struct snap_piece piece[64];
	uint8_t layers[4096];
};

static void read_tables(const char *path, struct tables *t)
{
	st_read_at(path, &t->h, sizeof(t->h), 0);
	cr_assert_leq(t->h.piece_count, 64);
	st_read_at(path, t->piece, t->h.piece_count * sizeof(t->piece[0]), t->h.pieces_offset);
	st_read_at(path, t->layers, t->h.layers_size, t->h.layers_offset);
}

static void write_tables(const char *path, const struct tables *t)
{
	struct snap_header h = t->h;

	h.pieces_sum = XXH3_64bits(t->piece, h.piece_count * sizeof(t->piece[0]));
	h.layers_sum = XXH3_64bits(t->layers, h.layers_size);
	h.header_sum = snap_header_sum(&h);
	st_write_at(path, t->piece, h.piece_count * sizeof(t->piece[0]), h.pieces_offset);
	st_write_at(path, t->layers, h.layers_size, h.layers_offset);
	st_write_at(path, &h, sizeof(h), 0);
}

Test(image_layers, crafted_tables)
{
	const char *path = st_path("child.cow");
	struct tables good, t;
	struct snap_layer *l = (struct snap_layer *)t.layers;
	size_t own = 0;

	make_pair();
	read_tables(path, &good);
	while (good.piece[own].layer != 0)
		own++;
#define BROKEN(change)                                                                             \
	do {                                                                                       \
		t = good;                                                                          \
		change;                                                                            \
		write_tables(path, &t);                                                            \
		cr_assert_eq(st_open_bad(path), -EBADMSG, #change);                                \
	} while (0)
	BROKEN(t.piece[0].gpa += 1);
	BROKEN(t.piece[0].gpa = LOW_SIZE);
	BROKEN(t.piece[0].gpa = UINT64_MAX - BLOCK + 1);
	BROKEN(t.piece[1].gpa = t.piece[0].gpa);
	BROKEN(t.piece[0].pages = 0);
	BROKEN(t.piece[0].pages = 513);
	BROKEN(t.piece[0].pages = UINT32_MAX);
	BROKEN(t.piece[0].layer = 2);
	BROKEN(t.piece[0].layer = UINT32_MAX);
	BROKEN(t.piece[0].offset += 1);
	BROKEN(t.piece[0].offset = 0);
	BROKEN(t.piece[0].offset = l->file_size);
	BROKEN(t.piece[0].offset = UINT64_MAX - PAGE + 1);
	BROKEN(t.piece[own].offset += PAGE);
	BROKEN(t.piece[own].offset = good.h.file_size);
	BROKEN(t.piece[own].pages = 512);
	BROKEN(l->pages++);
	BROKEN(l->pages = 0);
	BROKEN(l->name_offset = 0);
	BROKEN(l->name_offset = UINT32_MAX);
	BROKEN(l->name_size = 0);
	BROKEN(l->name_size = UINT32_MAX);
	BROKEN(l->name_size--);
	BROKEN(l->data_offset = 4096);
	BROKEN(l->data_offset = 2 * l->file_size);
	BROKEN(l->file_size = UINT64_MAX - BLOCK + 1);
	BROKEN(l->hash[0] ^= 1);
	BROKEN(l->hash[1] ^= 1);
	BROKEN(l->flags = 2);
	BROKEN(t.layers[good.h.layers_size - 1] = 'x');
	BROKEN(t.h.piece_size = 32);
	BROKEN(t.h.layer_count = 0);
	BROKEN(t.h.layer_count = 2);
	BROKEN(t.h.layers_size = 63);
#undef BROKEN
	write_tables(path, &good);
	expect(path);
}

static void write_header(const char *path, struct snap_header h)
{
	h.header_sum = snap_header_sum(&h);
	st_write_at(path, &h, sizeof(h), 0);
}

/* Sections that lie where they cannot. */
Test(image_layers, crafted_header)
{
#define F(field) offsetof(struct snap_header, field), sizeof(good.field)
	const char *path = st_path("child.cow");
	struct snap_header good;
	const struct {
		size_t at, size;
		uint64_t value;
	} cases[] = {
		{F(pieces_offset), 0},
		{F(pieces_offset), 4},
		{F(pieces_offset), UINT64_MAX - 7},
		{F(piece_count), UINT64_MAX},
		{F(piece_count), UINT64_MAX / 24},
		{F(piece_count), SNAPSHOT_PIECES_MAX + 1},
		{F(layers_offset), 0},
		{F(layers_offset), 2},
		{F(layers_offset), UINT64_MAX - 7},
		{F(layers_size), 0},
		{F(layers_size), UINT64_MAX},
		{F(layer_count), UINT32_MAX},
		{F(layer_count), 257},
		{F(piece_size), 0},
		{F(features_required), 2},
	};
#undef F

	make_pair();
	st_read_at(path, &good, sizeof(good), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct snap_header h = good;

		memcpy((char *)&h + cases[i].at, &cases[i].value, cases[i].size);
		write_header(path, h);
		cr_assert_eq(st_open_bad(path),
		             cases[i].value == 2 && cases[i].size == 8 && cases[i].at == 0x28
		                     ? -ENOTSUP
		                     : -EBADMSG,
		             "case %zu: %s", i, st.error.text);
	}
	write_header(path, good);
	expect(path);
}

Test(image_layers, keeps_no_descriptor)
{
	int before = st_open_fds();
	struct clone c;

	make_pair();
	cr_assert_eq(st_open_fds(), before);
	clone_open(&c, st_path("child.cow"));
	cr_assert_eq(st_open_fds(), before + 2);
	clone_close(&c);
	cr_assert_eq(st_open_fds(), before);
	cr_assert_eq(unlink(st_path("base.cow")), 0);
	st_open_bad(st_path("child.cow"));
	cr_assert_eq(st_open_fds(), before);
}
