// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_report.c - what a space says is at an address, and a walk over all of it.
 */
#include <criterion/criterion.h>

#include "mm/space.h"
#include "mm/space_internal.h"
#include "tests/unit/helpers.h"

TestSuite(report, .timeout = 60);

static struct space_mapping query(struct space *s, uint64_t a)
{
	struct space_mapping m;

	cr_assert_eq(space_query(s, (gpa_t){a}, &m), 0);
	return m;
}

static void expect_range(const struct space_mapping *m, uint64_t start, uint64_t end)
{
	cr_assert_eq(m->range.start.v, start, "starts at %#lx", m->range.start.v);
	cr_assert_eq(gpa_range_end(m->range), end, "ends at %#lx", gpa_range_end(m->range));
}

Test(report, fresh_memory_by_uffd)
{
	struct pool *pool = new_pool(16 * MIB);
	struct ram_region ram[] = {ram_at(2 * MIB, 4 * MIB, PAGE_SIZE_2M),
	                           ram_at(8 * MIB, 5 * PAGE, PAGE_SIZE_4K)};
	struct space_mapping m;
	struct space *s;
	gpa_t at = {0};

	require_path(FAULTS_UFFD);
	s = make_space(&(struct space_config){
		.pool = pool, .ram = ram, .ram_count = 2, .faults = FAULTS_UFFD});
	m = query(s, 2 * MIB + 100);
	expect_range(&m, 2 * MIB, 4 * MIB);
	cr_assert_eq(m.state, BLOCK_EMPTY);
	cr_assert_null(m.store);
	put(s, 4 * MIB + 5 * PAGE, 1);
	m = query(s, 4 * MIB + 5 * PAGE + 9);
	expect_range(&m, 4 * MIB + 5 * PAGE, 6 * MIB);
	cr_assert_eq(m.state, BLOCK_OWNED);
	cr_assert_eq(m.store, pool_store(pool));
	cr_assert_eq(m.frame.n, s->blocks[1].frame.n + 5);
	cr_assert_eq(m.sharers, 1);
	cr_assert_eq(m.page_bytes, s->blocks[1].huge ? BLOCK : PAGE);
	cr_assert_eq(space_query(s, (gpa_t){6 * MIB}, &m), -EFAULT);
	cr_assert_eq(space_query(s, (gpa_t){8 * MIB + 5 * PAGE}, &m), -EFAULT);
	cr_assert_eq(space_next(s, &at, &m), 0);
	expect_range(&m, 2 * MIB, 4 * MIB);
	cr_assert_eq(space_next(s, &at, &m), 0);
	expect_range(&m, 4 * MIB, 6 * MIB);
	cr_assert_eq(space_next(s, &at, &m), 0);
	expect_range(&m, 8 * MIB, 8 * MIB + 5 * PAGE);
	cr_assert_eq(space_next(s, &at, &m), -ENOENT);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Shared frames, how many share them, private copies between them, and cuts. */
TEST_BOTH_PATHS(report, clone)
{
	struct pool *pool = new_pool(32 * MIB);
	struct space *s = new_space(pool, 8 * MIB, FAULTS_KERNEL), *clone;
	struct image *image, *mine;
	struct space_mapping m;

	tag_pages(s, 0, 8 * MIB, 1);
	image = publish(s);
	space_destroy(s);
	clone = new_clone(pool, image, faults);
	m = query(clone, BLOCK + PAGE);
	expect_range(&m, BLOCK + PAGE, 2 * BLOCK);
	cr_assert_eq(m.store, pool_store(pool));
	cr_assert_eq(m.sharers, 1);
	put(clone, 10 * PAGE, 5);
	put(clone, 11 * PAGE, 5);
	m = query(clone, 0);
	expect_range(&m, 0, 10 * PAGE);
	cr_assert_eq(m.state, BLOCK_SHARED);
	cr_assert(!m.is_private);
	m = query(clone, 10 * PAGE);
	expect_range(&m, 10 * PAGE, 12 * PAGE);
	cr_assert(m.is_private);
	cr_assert_null(m.store);
	m = query(clone, 12 * PAGE);
	expect_range(&m, 12 * PAGE, BLOCK);
	mine = publish(clone);
	m = query(clone, 10 * PAGE);
	cr_assert(!m.is_private);
	expect_range(&m, 10 * PAGE, 12 * PAGE);
	cr_assert_eq(m.sharers, 1);
	m = query(clone, 12 * PAGE);
	cr_assert_eq(m.sharers, 3, "the old image's extent, and two of the new one's");
	cr_assert_eq(space_discard(clone, (struct gpa_range){{20 * PAGE}, 5 * PAGE}), 0);
	m = query(clone, 12 * PAGE);
	expect_range(&m, 12 * PAGE, 20 * PAGE);
	m = query(clone, 20 * PAGE);
	expect_range(&m, 20 * PAGE, 25 * PAGE);
	cr_assert_null(m.store);
	cr_assert_eq(m.frame.n, FRAME_NONE.n);
	image_put(image);
	image_put(mine);
	space_destroy(clone);
	expect_all_gone(pool);
}

/* Of an image with data in its first half. */
TEST_BOTH_PATHS(report, untouched)
{
	struct pool *pool = new_pool(32 * MIB);
	struct space *s = new_space(pool, 8 * MIB, FAULTS_KERNEL), *clone;
	const struct gpa_range all = {{0}, 8 * MIB};
	struct image *image;

	cr_assert(!space_untouched(s, all), "it is a clone of nothing");
	tag_pages(s, 0, 4 * MIB, 1);
	image = publish(s);
	space_destroy(s);
	clone = new_clone(pool, image, faults);
	cr_assert(space_untouched(clone, all));
	(void)get(clone, 3 * PAGE);
	cr_assert(space_untouched(clone, all), "reading is no touch");
	cr_assert(!space_untouched(clone, (struct gpa_range){{4 * MIB}, 8 * MIB}), "not all RAM");
	cr_assert(!space_untouched(clone, (struct gpa_range){{100}, PAGE}), "no whole page");

	put(clone, 10 * PAGE, 5);
	cr_assert(!space_untouched(clone, (struct gpa_range){{10 * PAGE}, PAGE}));
	cr_assert(space_untouched(clone, (struct gpa_range){{11 * PAGE}, 100 * PAGE}));
	/* Kept by the reset, or dropped. */
	cr_assert_eq(space_reset(clone), 0);
	cr_assert(space_untouched(clone, (struct gpa_range){{0}, 10 * PAGE}));

	/* What the image does not have, written or given back. */
	put(clone, 6 * MIB, 5);
	cr_assert(!space_untouched(clone, (struct gpa_range){{6 * MIB}, PAGE}));
	cr_assert(space_untouched(clone, (struct gpa_range){{4 * MIB}, BLOCK}));
	cr_assert_eq(space_discard(clone, (struct gpa_range){{6 * MIB}, BLOCK}), 0);
	cr_assert(!space_untouched(clone, (struct gpa_range){{6 * MIB + PAGE}, PAGE}));
	cr_assert_eq(space_discard(clone, (struct gpa_range){{20 * PAGE}, PAGE}), 0);
	cr_assert(!space_untouched(clone, (struct gpa_range){{19 * PAGE}, 2 * PAGE}));
	cr_assert(space_untouched(clone, (struct gpa_range){{21 * PAGE}, PAGE}));
	cr_assert_eq(space_reset(clone), 0);
	cr_assert(space_untouched(clone, (struct gpa_range){{20 * PAGE}, PAGE}));

	cr_assert_eq(space_protect(clone, (struct gpa_range){{30 * PAGE}, PAGE}, PROTECT_RO), 0);
	cr_assert(!space_untouched(clone, (struct gpa_range){{30 * PAGE}, PAGE}));
	space_destroy(clone);
	image_put(image);
	expect_all_gone(pool);
}
