// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_memwalk_hist.c - histograms, percentiles and classes of guest/memwalk.h, which
 * guest and host share.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "guest/memwalk.h"

#define LAST_TOP (memwalk_bucket_top(MEMWALK_BUCKETS - 1))

/* Buckets follow each other without a gap, each at most 1/32 of its values wide. */
Test(memwalk_hist, buckets)
{
	for (unsigned b = 0; b < MEMWALK_BUCKETS; b++) {
		uint64_t top = memwalk_bucket_top(b);
		uint64_t bottom = b ? memwalk_bucket_top(b - 1) + 1 : 0;

		cr_assert_leq(bottom, top);
		cr_assert_eq(memwalk_bucket_of(bottom), b);
		cr_assert_eq(memwalk_bucket_of(top), b);
		cr_assert_leq((top - bottom) * MEMWALK_SUBS, bottom, "bucket %u", b);
	}
	cr_assert_eq(memwalk_bucket_of(LAST_TOP + 1), MEMWALK_BUCKETS - 1);
	cr_assert_eq(memwalk_bucket_of(UINT64_MAX), MEMWALK_BUCKETS - 1);
}

/* One slow value in 1,000 is p99.9, one in 1,001 is not. */
Test(memwalk_hist, one_slow_in_a_thousand)
{
	struct memwalk_histogram h = {0};

	for (unsigned i = 0; i < 999; i++)
		memwalk_histogram_add(&h, 10);
	memwalk_histogram_add(&h, 1000000);
	cr_assert_eq(memwalk_histogram_at(&h, 999000), 1000000);
	cr_assert_eq(memwalk_histogram_at(&h, 998999), 10);
	memwalk_histogram_add(&h, 10);
	cr_assert_eq(memwalk_histogram_at(&h, 999000), 10);
	cr_assert_eq(memwalk_histogram_at(&h, 1000000), 1000000);
}

Test(memwalk_hist, few_values)
{
	struct memwalk_histogram h = {0};

	cr_assert_eq(memwalk_histogram_at(&h, 500000), 0);
	memwalk_histogram_add(&h, 7);
	cr_assert_eq(memwalk_histogram_at(&h, 0), 7);
	cr_assert_eq(memwalk_histogram_at(&h, 1000000), 7);
	memwalk_histogram_add(&h, 3);
	cr_assert_eq(memwalk_histogram_at(&h, 0), 3);
	cr_assert_eq(memwalk_histogram_at(&h, 499999), 3);
	cr_assert_eq(memwalk_histogram_at(&h, 500000), 7);
}

/* Values too long for any bucket are counted, and named as exactly as can be. */
Test(memwalk_hist, longer_than_the_last_bucket)
{
	struct memwalk_histogram h = {0};

	memwalk_histogram_add(&h, LAST_TOP + 5);
	memwalk_histogram_add(&h, 1);
	cr_assert_eq(h.count, 2);
	cr_assert_eq(h.sum, LAST_TOP + 6);
	cr_assert_eq(h.max, LAST_TOP + 5);
	cr_assert_eq(memwalk_histogram_at(&h, 999000), LAST_TOP + 5);
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Against sorted values: the same bucket at every rank; and two halves merged are the whole. */
Test(memwalk_hist, percentiles_and_merge)
{
	enum { COUNT = 12345 };
	static uint64_t values[COUNT];
	static struct memwalk_histogram whole, half[2];
	uint64_t random = 88172645463325252;

	for (unsigned i = 0; i < COUNT; i++) {
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		values[i] = random >> (24 + random % 40);
		memwalk_histogram_add(&whole, values[i]);
		memwalk_histogram_add(&half[i % 2], values[i]);
	}
	qsort(values, COUNT, sizeof(values[0]), by_value);
	for (uint32_t ppm = 0; ppm <= 1000000; ppm += 500) {
		uint64_t rank = (uint64_t)COUNT * ppm / 1000000 + 1;
		uint64_t value = values[(rank > COUNT ? COUNT : rank) - 1];
		uint64_t got = memwalk_histogram_at(&whole, ppm);

		cr_assert_eq(memwalk_bucket_of(got), memwalk_bucket_of(value), "%u ppm", ppm);
		cr_assert(got >= value && got <= whole.max);
	}
	memwalk_histogram_merge(&half[0], &half[1]);
	cr_assert_arr_eq(&half[0], &whole, sizeof(whole));
}

Test(memwalk_hist, classes)
{
	const uint32_t page = MEMWALK_PAGE, block = MEMWALK_PAGE | MEMWALK_BLOCK;

	cr_assert_eq(memwalk_class_of(0), MEMWALK_READ_REPEAT);
	cr_assert_eq(memwalk_class_of(MEMWALK_INDEX), MEMWALK_READ_REPEAT);
	cr_assert_eq(memwalk_class_of(page | 3), MEMWALK_READ_PAGE);
	cr_assert_eq(memwalk_class_of(block | MEMWALK_INDEX), MEMWALK_READ_BLOCK);
	cr_assert_eq(memwalk_class_of(MEMWALK_WRITE | 9), MEMWALK_WRITE_REPEAT);
	cr_assert_eq(memwalk_class_of(MEMWALK_WRITE | page), MEMWALK_WRITE_PAGE);
	cr_assert_eq(memwalk_class_of(MEMWALK_WRITE | block), MEMWALK_WRITE_BLOCK);
}
