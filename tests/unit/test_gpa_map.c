// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_gpa_map.c - spans against a plain array, and what a set may cost.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "mm/gpa_map.h"
#include "tests/unit/helpers.h"

TestSuite(gpa_map, .timeout = 60);

static void set(struct gpa_map *m, uint64_t start, uint64_t end, unsigned value)
{
	cr_assert_eq(gpa_map_reserve(m, 1), 0);
	gpa_map_set(m, start, end, value);
	cr_assert(gpa_map_audit(m));
}

Test(gpa_map, empty)
{
	struct gpa_map m = {0};
	uint64_t stop;

	cr_assert(gpa_map_audit(&m));
	cr_assert_eq(gpa_map_get(&m, 5, 100, &stop), 0);
	cr_assert_eq(stop, 100);
	gpa_map_set(&m, 0, 10, 0);
	cr_assert_eq(m.count, 0, "the default takes no room");
	gpa_map_fini(&m);
}

Test(gpa_map, split_trim_and_join)
{
	struct gpa_map m = {0};
	uint64_t stop;

	set(&m, 10, 20, 1);
	set(&m, 30, 40, 1);
	set(&m, 20, 30, 1);
	cr_assert_eq(m.count, 1, "three that touch are one");
	set(&m, 15, 18, 2);
	cr_assert_eq(m.count, 3);
	cr_assert_eq(gpa_map_get(&m, 15, 17, &stop), 2);
	cr_assert_eq(stop, 17);
	cr_assert_eq(gpa_map_get(&m, 18, 100, &stop), 1);
	cr_assert_eq(stop, 40);
	set(&m, 15, 18, 1);
	cr_assert_eq(m.count, 1);
	set(&m, 0, 100, 0);
	cr_assert_eq(m.count, 0);
	gpa_map_fini(&m);
}

Test(gpa_map, random_sets_equal_an_array)
{
	enum { PAGES = 200 };
	struct rng rng = {test_seed()};
	struct gpa_map m = {0};
	uint8_t want[PAGES] = {0};

	for (unsigned step = 0; step < 20000 / SLOWDOWN; step++) {
		uint64_t start = rng_below(&rng, PAGES - 1);
		uint64_t end = start + 1 + rng_below(&rng, min_u64(PAGES - start, 30));
		unsigned value = (unsigned)rng_below(&rng, 4);

		end = min_u64(end, PAGES);
		set(&m, start, end, value);
		memset(want + start, (int)value, end - start);
		for (uint64_t at = 0, stop; at < PAGES; at = stop) {
			unsigned got = gpa_map_get(&m, at, PAGES, &stop);

			cr_assert(stop > at && stop <= PAGES);
			for (uint64_t i = at; i < stop; i++)
				cr_assert_eq(want[i], got);
			cr_assert(stop == PAGES || want[stop] != got, "as far as it reaches");
		}
	}
	gpa_map_fini(&m);
}

/* Room made for n sets is enough for any n sets. */
Test(gpa_map, reserve_is_enough)
{
	struct rng rng = {test_seed()};

	for (unsigned round = 0; round < 200; round++) {
		struct gpa_map m = {0};

		for (unsigned k = 0; k < 10; k++) {
			cr_assert_eq(gpa_map_reserve(&m, 20), 0);
			for (unsigned i = 0; i < 20; i++) {
				uint64_t start = rng_below(&rng, 1000);

				gpa_map_set(&m, start, start + 1 + rng_below(&rng, 40),
				            (unsigned)rng_below(&rng, 3));
				cr_assert(gpa_map_audit(&m));
			}
		}
		gpa_map_fini(&m);
	}
}
