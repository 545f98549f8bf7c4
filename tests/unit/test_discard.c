// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_discard.c - ranges given back: zeros, memory returned, what stays beside them.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "mm/space.h"
#include "mm/space_internal.h"
#include "tests/unit/helpers.h"

TestSuite(discard, .timeout = 120);

#define RAM (8 * MIB)

static int try_discard(struct space *s, uint64_t start, uint64_t size)
{
	return space_discard(s, (struct gpa_range){{start}, size});
}

static void discard(struct space *s, uint64_t start, uint64_t size)
{
	int e = try_discard(s, start, size);

	cr_assert_eq(e, 0, "space_discard: %s", strerror(-e));
}

static void sound(struct pool *pool, struct space *s, struct image *image)
{
	expect_sound(&(struct world){.pool = pool,
	                             .spaces = &s,
	                             .space_count = 1,
	                             .images = &image,
	                             .image_count = image != NULL});
}

/* Tags of all pages but [hole, end), which read zero; as a guest sees them. */
static void expect_but(struct space *s, uint64_t tag, uint64_t hole, uint64_t end)
{
	for (uint64_t at = 0; at < RAM; at += PAGE) {
		uint64_t want = at >= hole && at < end ? 0 : tag + at / PAGE;

		cr_assert_eq(guest_load(s, at), want, "at %#" PRIx64, at);
	}
}

/* Ranges inside a block, over edges of blocks, whole blocks, all. */
static const struct {
	uint64_t start, size;
} ranges[] = {
	{0, PAGE},
	{511 * PAGE, 2 * PAGE},
	{BLOCK, BLOCK},
	{BLOCK - PAGE, 2 * BLOCK + 2 * PAGE},
	{7 * PAGE, RAM - 11 * PAGE},
	{RAM - PAGE, PAGE},
	{0, RAM},
};
#define RANGES (sizeof(ranges) / sizeof(ranges[0]))

/* Memory of this space alone: its frames hold nothing afterwards, and take stores again. */
TEST_BOTH_PATHS(discard, owned_memory_returns)
{
	for (size_t i = 0; i < RANGES; i++) {
		struct pool *pool = new_pool(16 * MIB);
		struct space *s = new_space(pool, RAM, faults);
		uint64_t end = ranges[i].start + ranges[i].size;

		tag_pages(s, 0, RAM, 10);
		cr_assert_eq(committed_frames(pool), RAM / PAGE);
		discard(s, ranges[i].start, ranges[i].size);
		cr_assert_eq(committed_frames(pool), (RAM - ranges[i].size) / PAGE);
		sound(pool, s, NULL);
		expect_but(s, 10, ranges[i].start, end);
		for (uint64_t at = ranges[i].start; at < end; at += PAGE)
			guest_store(s, at, 10 + at / PAGE);
		expect_but(s, 10, 0, 0);
		sound(pool, s, NULL);
		space_destroy(s);
		expect_all_gone(pool);
	}
}

/* By uffd whole blocks go back to the pool: another space can have them. */
Test(discard, whole_blocks_go_back_to_the_pool)
{
	struct pool *pool = new_pool(4 * MIB);
	struct space *s, *t;

	require_path(FAULTS_UFFD);
	s = new_space(pool, RAM, FAULTS_UFFD);
	t = new_space(pool, RAM, FAULTS_UFFD);
	put(s, 0, 1);
	put(s, BLOCK, 2);
	cr_assert_eq(space_violation(t, (struct violation){{0}, ACCESS_WRITE}), OUTCOME_NOMEM);
	discard(s, 0, BLOCK);
	cr_assert_eq(space_block_state(s, (gpa_t){0}), BLOCK_EMPTY);
	put(t, 0, 3);
	cr_assert_eq(get(s, BLOCK), 2);
	cr_assert_eq(space_violation(s, (struct violation){{0}, ACCESS_WRITE}), OUTCOME_NOMEM);
	expect_sound(&(struct world){pool, (struct space *[]){s, t}, 2, NULL, 0});
	space_destroy(s);
	space_destroy(t);
	expect_all_gone(pool);
}

/* A clone: the image is hidden there, private copies go; a reset shows it again. */
TEST_BOTH_PATHS(discard, shared_memory)
{
	for (size_t i = 0; i < RANGES; i++) {
		struct pool *pool = new_pool(32 * MIB);
		struct space *s = new_space(pool, RAM, FAULTS_KERNEL), *clone;
		uint64_t end = ranges[i].start + ranges[i].size;
		struct space_stats st;
		struct image *image;

		tag_pages(s, 0, RAM, 20);
		image = publish(s);
		space_destroy(s);
		clone = new_clone(pool, image, faults);
		for (uint64_t at = ranges[i].start; at < end; at += 3 * PAGE)
			put(clone, at + 8, 1);
		discard(clone, ranges[i].start, ranges[i].size);
		cr_assert_eq(private_frames(clone), 0);
		cr_assert_eq(committed_frames(pool), RAM / PAGE);
		cr_assert_eq(space_stats(clone, &st), 0);
		cr_assert_eq(st.shared_frames, (RAM - ranges[i].size) / PAGE);
		sound(pool, clone, image);
		expect_but(clone, 20, ranges[i].start, end);
		for (uint64_t at = ranges[i].start; at < end; at += 2 * PAGE)
			guest_store(clone, at, 5);
		cr_assert_eq(space_reset(clone), 0);
		expect_but(clone, 20, 0, 0);
		cr_assert_eq(clone->cut.count, 0);
		sound(pool, clone, image);
		image_put(image);
		space_destroy(clone);
		expect_all_gone(pool);
	}
}

/* Before anything has touched the clone. */
TEST_BOTH_PATHS(discard, untouched_clone)
{
	struct pool *pool = new_pool(32 * MIB);
	struct space *s = new_space(pool, RAM, FAULTS_KERNEL), *clone;
	struct image *image;

	tag_pages(s, 0, RAM, 30);
	image = publish(s);
	clone = new_clone(pool, image, faults);
	discard(clone, 100 * PAGE, 1000 * PAGE);
	expect_but(clone, 30, 100 * PAGE, 1100 * PAGE);
	expect_but(s, 30, 0, 0);
	expect_sound(&(struct world){pool, (struct space *[]){s, clone}, 2, &image, 1});
	image_put(image);
	space_destroy(s);
	space_destroy(clone);
	expect_all_gone(pool);
}

/* An image of a space with discarded ranges has nothing there, at any depth. */
TEST_BOTH_PATHS(discard, published)
{
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = new_space(pool, RAM, faults), *clone, *child;
	struct image *image[2];

	tag_pages(s, 0, RAM, 40);
	discard(s, 10 * PAGE, 10 * PAGE);
	image[0] = publish(s);
	expect_but(s, 40, 10 * PAGE, 20 * PAGE);
	clone = new_clone(pool, image[0], faults);
	discard(clone, 20 * PAGE, 2 * BLOCK);
	put(clone, BLOCK, 7);
	image[1] = publish(clone);
	child = new_clone(pool, image[1], faults);
	cr_assert_eq(guest_load(child, BLOCK), 7);
	put(child, BLOCK, 0);
	expect_but(child, 40, 10 * PAGE, 20 * PAGE + 2 * BLOCK);
	cr_assert_eq(space_reset(clone), 0);
	cr_assert_eq(guest_load(clone, BLOCK), 7);
	cr_assert_eq(guest_load(clone, 30 * PAGE), 0, "its new image has nothing there");
	expect_sound(&(struct world){pool, (struct space *[]){s, clone, child}, 3, image, 2});
	for (unsigned i = 0; i < 2; i++)
		image_put(image[i]);
	space_destroy(s);
	space_destroy(clone);
	space_destroy(child);
	expect_all_gone(pool);
}

/* One page in the middle of a 2 MiB page. */
Test(discard, inside_a_huge_page)
{
	struct pool *pool = new_pool(16 * MIB);
	struct ram_region ram = ram_at(0, RAM, PAGE_SIZE_2M);
	struct space_stats st;
	struct space *s;

	require_path(FAULTS_UFFD);
	s = make_space(&(struct space_config){
		.pool = pool, .ram = &ram, .ram_count = 1, .faults = FAULTS_UFFD});
	tag_pages(s, 0, RAM, 50);
	for (uint64_t at = 5 * PAGE; at < RAM; at += BLOCK)
		discard(s, at, PAGE);
	cr_assert_eq(space_stats(s, &st), 0);
	cr_assert_eq(st.huge_blocks, 0);
	cr_assert_eq(committed_frames(pool), RAM / PAGE - 4, "it is split to give one page back");
	for (uint64_t at = 0; at < RAM; at += PAGE)
		cr_assert_eq(guest_load(s, at), at % BLOCK == 5 * PAGE ? 0 : 50 + at / PAGE);
	sound(pool, s, NULL);
	space_destroy(s);
	expect_all_gone(pool);
}

TEST_BOTH_PATHS(discard, refused)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, 4 * MIB + PAGE, faults);
	struct hold h;

	put(s, 0, 1);
	cr_assert_eq(try_discard(s, 0, 0), -EINVAL);
	cr_assert_eq(try_discard(s, 8, PAGE), -EINVAL);
	cr_assert_eq(try_discard(s, 0, PAGE + 8), -EINVAL);
	cr_assert_eq(try_discard(s, UINT64_MAX - PAGE + 1, 2 * PAGE), -EINVAL);
	cr_assert_eq(try_discard(s, 4 * MIB, 2 * PAGE), -EFAULT);
	cr_assert_eq(try_discard(s, GIB, PAGE), -EFAULT);
	cr_assert_eq(space_hold(s, (gpa_t){0}, 8, ACCESS_READ, &h), 0);
	cr_assert_eq(try_discard(s, 0, PAGE), -EBUSY);
	space_release(&h);
	cr_assert_eq(get(s, 0), 1);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Page by page, all of a clone, then back; many cuts side by side join. */
TEST_BOTH_PATHS(discard, page_by_page)
{
	struct pool *pool = new_pool(32 * MIB);
	struct space *s = new_space(pool, RAM, FAULTS_KERNEL), *clone;
	struct image *image;

	tag_pages(s, 0, RAM, 60);
	image = publish(s);
	space_destroy(s);
	clone = new_clone(pool, image, faults);
	for (uint64_t at = 0; at < RAM; at += 2 * PAGE)
		discard(clone, at, PAGE);
	for (uint64_t at = 0; at < RAM; at += PAGE)
		cr_assert_eq(guest_load(clone, at), at % (2 * PAGE) ? 60 + at / PAGE : 0);
	for (uint64_t at = PAGE; at < RAM; at += 2 * PAGE)
		discard(clone, at, PAGE);
	cr_assert_eq(clone->cut.count, 1);
	expect_but(clone, 60, 0, RAM);
	cr_assert_eq(space_reset(clone), 0);
	expect_but(clone, 60, 0, 0);
	sound(pool, clone, image);
	image_put(image);
	space_destroy(clone);
	expect_all_gone(pool);
}
