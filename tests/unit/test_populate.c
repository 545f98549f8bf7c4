// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_populate.c - memory behind a range before it is touched, or none at all.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "mm/space.h"
#include "mm/space_internal.h"
#include "tests/unit/helpers.h"

TestSuite(populate, .timeout = 60);

#define RAM (8 * MIB)

static void populate(struct space *s, uint64_t start, uint64_t size)
{
	int e = space_populate(s, (struct gpa_range){{start}, size});

	cr_assert_eq(e, 0, "space_populate: %s", strerror(-e));
}

static uint64_t events(struct space *s)
{
	struct space_stats st;

	cr_assert_eq(space_stats(s, &st), 0);
	return st.events;
}

static void sound(struct pool *pool, struct space *s, struct image *image)
{
	expect_sound(&(struct world){.pool = pool,
	                             .spaces = &s,
	                             .space_count = 1,
	                             .images = &image,
	                             .image_count = image != NULL});
}

/* Exactly the range has memory, and touching it is no event any more. */
TEST_BOTH_PATHS(populate, fresh_memory)
{
	struct pool *pool = new_pool(16 * MIB);
	struct ram_region ram = ram_at(0, RAM, PAGE_SIZE_4K);
	struct space *s = make_space(&(struct space_config){
		.pool = pool, .ram = &ram, .ram_count = 1, .faults = faults});

	put(s, 3 * BLOCK + 100 * PAGE, 9);
	cr_assert_eq(space_discard(s, (struct gpa_range){{3 * BLOCK}, BLOCK}), 0);
	populate(s, BLOCK - 3 * PAGE, BLOCK + 10 * PAGE);
	cr_assert_eq(committed_frames(pool), 512 + 10);
	for (uint64_t at = BLOCK - 3 * PAGE; at < 2 * BLOCK + 7 * PAGE; at += PAGE) {
		cr_assert_eq(guest_load(s, at), 0);
		guest_store(s, at, at);
	}
	cr_assert_eq(committed_frames(pool), 512 + 10);
	cr_assert_eq(events(s), 0);
	populate(s, 0, RAM);
	cr_assert_eq(committed_frames(pool), RAM / PAGE);
	for (uint64_t at = BLOCK - 3 * PAGE; at < 2 * BLOCK + 7 * PAGE; at += PAGE)
		cr_assert_eq(get(s, at), at);
	sound(pool, s, NULL);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Whole blocks as huge pages, where those are not ruled out. */
Test(populate, huge)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space_stats st;
	struct space *s;

	require_path(FAULTS_UFFD);
	s = new_space(pool, RAM, FAULTS_UFFD);
	populate(s, 0, RAM);
	cr_assert_eq(space_stats(s, &st), 0);
	cr_assert_eq(st.huge_blocks, 4);
	cr_assert_eq(st.owned_committed, RAM / PAGE);
	sound(pool, s, NULL);
	space_destroy(s);
	expect_all_gone(pool);
}

/* One block too many: nothing. */
Test(populate, all_or_nothing)
{
	struct pool *pool = new_pool(6 * MIB);
	struct ram_region ram = ram_at(0, RAM, PAGE_SIZE_AUTO);
	struct space_config c = {.pool = pool, .ram = &ram, .ram_count = 1, .faults = FAULTS_UFFD};
	const struct gpa_range all = {{0}, RAM};
	struct space *s;

	require_path(FAULTS_UFFD);
	s = make_space(&c);
	cr_assert_eq(space_populate(s, all), -ENOMEM);
	cr_assert_eq(used_frames(pool), 0);
	cr_assert_eq(committed_frames(pool), 0);
	sound(pool, s, NULL);
	populate(s, BLOCK, 3 * BLOCK);
	space_destroy(s);
	c.limit_frames = 1024;
	s = make_space(&c);
	cr_assert_eq(space_populate(s, (struct gpa_range){{0}, 3 * BLOCK}), -ENOMEM, "the limit");
	cr_assert_eq(used_frames(pool), 0);
	populate(s, 0, 2 * BLOCK);
	sound(pool, s, NULL);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Sharing is not lost by it. */
TEST_BOTH_PATHS(populate, clone)
{
	struct pool *pool = new_pool(32 * MIB);
	struct space *s = new_space(pool, RAM, FAULTS_KERNEL), *clone;
	struct image *image;

	tag_pages(s, 0, RAM, 5);
	image = publish(s);
	space_destroy(s);
	clone = new_clone(pool, image, faults);
	cr_assert_eq(space_protect(clone, (struct gpa_range){{9 * PAGE}, PAGE}, PROTECT_NONE), 0);
	populate(clone, 0, RAM);
	cr_assert_eq(private_frames(clone), 0);
	cr_assert_eq(used_frames(pool), RAM / PAGE);
	cr_assert_eq(space_protect(clone, (struct gpa_range){{0}, RAM}, PROTECT_RW), 0);
	for (uint64_t at = 0; at < RAM; at += PAGE)
		cr_assert_eq(guest_load(clone, at), 5 + at / PAGE);
	cr_assert_eq(events(clone), 0);
	sound(pool, clone, image);
	image_put(image);
	space_destroy(clone);
	expect_all_gone(pool);
}

TEST_BOTH_PATHS(populate, refused)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, 4 * MIB, faults);

	cr_assert_eq(space_populate(s, (struct gpa_range){{0}, 0}), -EINVAL);
	cr_assert_eq(space_populate(s, (struct gpa_range){{1}, PAGE}), -EINVAL);
	cr_assert_eq(space_populate(s, (struct gpa_range){{2 * MIB}, 4 * MIB}), -EFAULT);
	cr_assert_eq(space_unmap(s, (struct gpa_range){{BLOCK}, PAGE}), 0);
	cr_assert_eq(space_populate(s, (struct gpa_range){{0}, 4 * MIB}), -EFAULT);
	space_destroy(s);
	expect_all_gone(pool);
}
