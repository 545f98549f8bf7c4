// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_image_torture.c - any flipped bit and any missing end is noticed, and hurts
 * nothing that looks at images.
 *
 * TORTURE_TIMES in the environment says how often; `make torture-image` sets it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/snapshot_model.h"
#include "vmm/image_diff.h"
#include "vmm/image_dir.h"
#include "vmm/image_map.h"
#include "vmm/snapshot_format.h"

#define FLIPS 240u /* by default; a tenth as many cuts */

TestSuite(image_torture, .init = st_setup, .fini = st_teardown, .timeout = 7200);

/* The two files, and the bytes they should have. */
static struct victim {
	const char *path;
	uint8_t *bytes;
	uint64_t size;
} victims[2];

static unsigned times(void)
{
	const char *text = getenv("TORTURE_TIMES");

	return text ? (unsigned)strtoul(text, NULL, 10) : FLIPS;
}

static void load(struct victim *v, const char *path)
{
	struct stat now;

	cr_assert_eq(stat(path, &now), 0);
	*v = (struct victim){path, malloc((size_t)now.st_size), (uint64_t)now.st_size};
	cr_assert_not_null(v->bytes);
	st_read_at(path, v->bytes, v->size, 0);
}

/* base.cow, and child.cow which lies partly in it. */
static void make_victims(void)
{
	struct snapshot_base *base;
	struct image *image;
	size_t count;

	st_save_mixed(st_path("base.cow"));
	cr_assert_eq(snapshot_open_base(st_path("base.cow"), ISA, &image, &base, NULL, NULL), 0);
	for (size_t i = 0; i < 4; i++) {
		struct extent e = image_extents(image, &count)[i];

		/* Its last pages are changed, but for the last block. */
		if (i < 3) {
			e.pages -= 9;
			st_add_random(e.gpa.v + e.pages * PAGE, 9);
		}
		st_add_extent(e);
	}
	st_save_over(base, st_path("child.cow"));
	image_put(image);
	load(&victims[0], st_path("base.cow"));
	load(&victims[1], st_path("child.cow"));
}

static void free_victims(void)
{
	free(victims[0].bytes);
	free(victims[1].bytes);
}

/* Everything else that looks at images, whatever it says. */
static void look(const char *path)
{
	struct snapshot_info info;
	struct image *image, *other;
	struct image_dir dir;
	struct image_map map;
	struct image_diff diff;

	(void)snapshot_stat(path, &info, NULL);
	if (image_map_read(path, &map, NULL) == 0)
		image_map_free(&map);
	if (image_dir_read(st.dir, &dir, NULL) == 0) {
		(void)image_dir_next_user(&dir, 0, 0);
		image_dir_free(&dir);
	}
	if (snapshot_open(path, 0, &image, NULL, NULL))
		return;
	cr_assert_eq(image_audit(image), 0);
	if (snapshot_open(victims[0].path, 0, &other, NULL, NULL) == 0) {
		(void)image_diff(image, other, NULL, NULL, &diff);
		image_put(other);
	}
	image_put(image);
}

static void expect_noticed(const char *path, const char *what, uint64_t at)
{
	/* The child too, whichever file it is. */
	cr_assert_lt(snapshot_verify(path, ISA, &st.error), 0, "%s at %" PRIu64 " of %s", what, at,
	             path);
	cr_assert_lt(snapshot_verify(victims[1].path, ISA, &st.error), 0,
	             "%s at %" PRIu64 " of %s is not seen by the child", what, at, path);
	cr_assert_neq(st.error.text[0], '\0');
	cr_assert_null(strchr(st.error.text, '\n'));
}

/* Half of them in what is not zero, a quarter in the header. */
static uint64_t choose_byte(const struct victim *v)
{
	uint64_t kind = st_random() % 4, at = st_random() % v->size;

	if (kind == 0)
		return at % SNAPSHOT_HEADER_SIZE;
	while (kind < 3 && v->bytes[at] == 0)
		at = (at * 31 + 4099) % v->size;
	return at;
}

Test(image_torture, every_flipped_bit_is_noticed)
{
	unsigned n = times();

	make_victims();
	for (unsigned i = 0; i < n; i++) {
		const struct victim *v = &victims[st_random() % 2];
		uint64_t at = choose_byte(v);
		uint8_t bad = v->bytes[at] ^ (uint8_t)(1u << (st_random() % 8));

		st_write_at(v->path, &bad, 1, at);
		expect_noticed(v->path, "a flipped bit", at);
		look(victims[1].path);
		st_write_at(v->path, &v->bytes[at], 1, at);
	}
	cr_assert_eq(snapshot_verify(victims[1].path, ISA, &st.error), 0, "%s", st.error.text);
	free_victims();
}

static void restore_from(const struct victim *v, uint64_t at)
{
	cr_assert_eq(truncate(v->path, (off_t)v->size), 0);
	for (uint64_t end; at < v->size; at = end) {
		end = min_u64(v->size, at - at % PAGE + PAGE);
		if (v->bytes[at] || memcmp(v->bytes + at, v->bytes + at + 1, end - at - 1) != 0)
			st_write_at(v->path, v->bytes + at, end - at, at);
	}
}

Test(image_torture, every_missing_end_is_noticed)
{
	unsigned n = times() / 10;

	make_victims();
	for (unsigned i = 0; i < n; i++) {
		const struct victim *v = &victims[st_random() % 2];
		uint64_t at = st_random() % (i % 4 ? v->size : 3 * SNAPSHOT_HEADER_SIZE);

		cr_assert_eq(truncate(v->path, (off_t)at), 0);
		expect_noticed(v->path, "an end", at);
		look(victims[1].path);
		restore_from(v, at);
	}
	cr_assert_eq(snapshot_verify(victims[1].path, ISA, &st.error), 0, "%s", st.error.text);
	free_victims();
}
