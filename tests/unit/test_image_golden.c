// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_image_golden.c - images as every released writer wrote them must open for ever.
 *
 * tests/golden/NAME.inc holds a file as rows of bytes that are not zero, so that it is small and
 * can be read by people and by the compiler. `make golden` writes those of the present writer that
 * are still empty. A change of format adds files; it never changes one.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/snapshot_model.h"
#include "vmm/image_diff.h"
#include "vmm/pack.h"

struct row {
	uint64_t offset;
	const char *hex;
};

static const struct row plain_v1[] = {
#include "tests/golden/plain-v1.inc"
};

static const struct row layered_v1[] = {
#include "tests/golden/layered-v1.inc"
};

static const struct row packed_v1[] = {
#include "tests/golden/packed-v1.inc"
};

static const struct golden {
	const char *name; /* of the image, which others may name */
	const struct row *row;
	size_t rows;
	uint64_t size;
	bool layered;
} goldens[] = {
	{"plain-v1.cow", plain_v1, sizeof(plain_v1) / sizeof(plain_v1[0]), 4 * BLOCK, false},
	{"layered-v1.cow", layered_v1, sizeof(layered_v1) / sizeof(layered_v1[0]), 2 * BLOCK, true},
};
#define GOLDENS (sizeof(goldens) / sizeof(goldens[0]))

/* Both of them, packed. How long it is depends on the library that compressed. */
static const struct golden packed = {"packed-v1.pack", packed_v1,
                                     sizeof(packed_v1) / sizeof(packed_v1[0]), 1194, false};

TestSuite(image_golden, .init = st_setup, .fini = st_teardown, .timeout = 60);

/* ---- what they hold ---- */

/* A word at the start of some pages, one at the end of the last. */
static void fill_plain(uint8_t *pages, uint64_t gpa, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		uint64_t word = 0x676f6c64656e0000 + (gpa >> MM_PAGE_SHIFT) + i;

		memset(pages + i * PAGE, 0, PAGE);
		memcpy(pages + i * PAGE, &word, sizeof(word));
	}
	pages[count * PAGE - 1] = 0x5a;
}

static void add_filled(uint64_t gpa, uint32_t count)
{
	fill_plain(st.bytes + gpa, gpa, count);
	memcpy(st_add_pages(gpa, count), st.bytes + gpa, count * PAGE);
}

static struct image *make_plain(void)
{
	add_filled(3 * PAGE, 2);
	add_filled(BLOCK + 511 * PAGE, 1);
	add_filled(HIGH_END - PAGE, 1);
	return st_image("golden", 6);
}

/* Over the plain one: a page changed, a page zeroed, and what the rest is of. */
static struct image *make_layered(const struct image *plain)
{
	size_t count;
	const struct extent *e = image_extents(plain, &count);
	struct extent part = e[0];
	uint8_t *changed;

	part.pages = 3;
	st_add_extent(part);
	changed = st_add_pages(3 * PAGE, 1);
	st.bytes[3 * PAGE + 100] = 7;
	memcpy(changed, st.bytes + 3 * PAGE, PAGE);
	memset(st.bytes + 4 * PAGE, 0, PAGE);
	part.gpa.v += 5 * PAGE;
	part.frame.n += 5;
	part.pages = e[0].pages - 5;
	st_add_extent(part);
	for (size_t i = 1; i < count; i++)
		st_add_extent(e[i]);
	return st_image("layered", 7);
}

/* ---- reading ---- */

static void expand(const struct golden *g)
{
	int fd = open(st_path(g->name), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, (off_t)g->size), 0);
	for (size_t i = 0; i < g->rows; i++) {
		uint8_t bytes[64];
		size_t n = 0;

		for (const char *at = g->row[i].hex; at[0]; at += 2) {
			const char two[] = {at[0], at[1], '\0'};

			bytes[n++] = (uint8_t)strtoul(two, NULL, 16);
		}
		cr_assert_eq(pwrite(fd, bytes, n, (off_t)g->row[i].offset), (ssize_t)n);
	}
	/* The last row may be longer than what it holds. */
	cr_assert_eq(ftruncate(fd, (off_t)g->size), 0);
	close(fd);
}

static void expect_golden(const struct golden *g, const struct image *want)
{
	struct snapshot_info info;
	struct image_diff d;
	struct image *image = st_open(st_path(g->name), &info);

	cr_assert_eq(snapshot_verify(st_path(g->name), ISA, &st.error), 0, "%s", st.error.text);
	st_expect_memory(image);
	cr_assert_eq(info.version, 1);
	cr_assert_eq(info.isa, ISA);
	cr_assert_eq(info.cpus, 2);
	cr_assert_eq(info.ram_bytes, RAM_SIZE);
	cr_assert_eq(info.layered, g->layered);
	cr_assert_eq(image_diff(image, want, NULL, NULL, &d), 0);
	cr_assert_not(image_diff_any(&d), "%s", g->name);
	image_put(image);
}

/* Both are there, and hold what they held. */
static void expect_goldens(void)
{
	struct image *plain = make_plain(), *over, *opened;

	expect_golden(&goldens[0], plain);
	opened = st_open(st_path("plain-v1.cow"), NULL);
	over = make_layered(opened);
	expect_golden(&goldens[1], over);
	image_put(over);
	image_put(opened);
	image_put(plain);
}

Test(image_golden, all_open)
{
	for (size_t i = 0; i < GOLDENS; i++)
		expand(&goldens[i]);
	expect_goldens();
}

Test(image_golden, packed_ones_open)
{
	struct unpack_request r = {.name = "golden", .path = st_path("layered-v1.cow")};

	expand(&packed);
	r.from = open(st_path(packed.name), O_RDONLY | O_CLOEXEC);
	cr_assert_eq(unpack_image(&r, NULL, &st.error), 0, "%s", st.error.text);
	close(r.from);
	expect_goldens();
}

/* ---- writing ---- */

static bool is_zero(const uint8_t *p, size_t size)
{
	return p[0] == 0 && memcmp(p, p + 1, size - 1) == 0;
}

static void dump(const char *name, const char *dir)
{
	char out[256];
	uint8_t row[32];
	struct stat there;
	FILE *to;
	int fd = open(st_path(name), O_RDONLY | O_CLOEXEC);

	snprintf(out, sizeof(out), "%s/%.*s.inc", dir, (int)strcspn(name, "."), name);
	if (stat(out, &there) == 0 && there.st_size > 0)
		goto out_close;
	to = fopen(out, "we");
	cr_assert_not_null(to, "%s", out);
	fprintf(to, "/* SPDX-License-Identifier: MIT */\n");
	for (uint64_t at = 0; pread(fd, row, sizeof(row), (off_t)at) > 0;
	     at += sizeof(row), memset(row, 0, sizeof(row))) {
		if (is_zero(row, sizeof(row)))
			continue;
		fprintf(to, "{0x%06" PRIx64 ", \"", at);
		for (size_t i = 0; i < sizeof(row); i++)
			fprintf(to, "%02x", row[i]);
		fprintf(to, "\"},\n");
	}
	fclose(to);
out_close:
	close(fd);
}

/* What is written now holds the same; COWSLIP_GOLDEN names a directory to keep it in. */
Test(image_golden, written_now)
{
	const char *dir = getenv("COWSLIP_GOLDEN");
	struct snapshot_request r = {.isa = ISA, .cpus = 2, .path = st_path("layered-v1.cow")};
	struct snapshot_base *base;
	struct pack_request pack = {.image = r.path, .path = st_path(packed.name)};
	struct image *plain = make_plain(), *opened, *over;
	struct snapshot_info info;

	st_save(plain, st_path("plain-v1.cow"));
	cr_assert_eq(snapshot_open_base(st_path("plain-v1.cow"), ISA, &opened, &base, &info, NULL),
	             0);
	cr_assert_eq(info.file_bytes, goldens[0].size);
	over = make_layered(opened);
	r.image = over;
	r.base = base;
	cr_assert_eq(snapshot_write(&r, &st.error), 0, "%s", st.error.text);
	cr_assert_eq(snapshot_stat(r.path, &info, NULL), 0);
	cr_assert_eq(info.file_bytes, goldens[1].size, "%" PRIu64, info.file_bytes);
	cr_assert_eq(pack_image(&pack, NULL, &st.error), 0, "%s", st.error.text);
	if (dir) {
		dump(packed.name, dir);
		dump("plain-v1.cow", dir);
		dump("layered-v1.cow", dir);
	}
	snapshot_base_free(base);
	image_put(over);
	image_put(opened);
	image_put(plain);
}
