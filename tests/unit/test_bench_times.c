// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_bench_times.c - times of many things in a few repeats: worked out by hand.
 */
#include <criterion/criterion.h>

#include "bench/report.h"
#include "bench/times.h"
#include "guest/memwalk.h"

/* A repeat of `count` times of 1 us, and one of `slowest`. */
static void repeat(struct times *t, unsigned count, uint64_t slowest_us, bool counts)
{
	for (unsigned i = 0; i < count; i++)
		cr_assert_eq(times_add(t, 1000), 0);
	cr_assert_eq(times_add(t, slowest_us * 1000), 0);
	cr_assert_eq(times_end_repeat(t, counts), 0);
}

static double at(const json_t *row, const char *key)
{
	cr_assert(json_is_number(json_object_get(row, key)), "%s", key);
	return json_number_value(json_object_get(row, key));
}

/* One slow one in three repeats: a median of the repeats' own maxima would not show it. */
Test(bench_times, tail_is_of_all_repeats)
{
	struct times t = {0};
	json_t *row = json_object();

	repeat(&t, 9, 77, false);
	repeat(&t, 9, 1, true);
	repeat(&t, 9, 500, true);
	repeat(&t, 9, 1, true);
	cr_assert_eq(times_set(&t, row), 0);
	cr_assert_eq(at(row, "count"), 30);
	cr_assert_eq(at(row, "us_max"), 500);
	cr_assert_eq(at(row, "us_p99"), 500);
	cr_assert_eq(at(row, "us_p90"), 1);
	cr_assert_eq(at(row, "us_p50"), 1);
	cr_assert_eq(report_figure(row, "us_p50").count, SPREAD_LEAST);
	json_decref(row);
	times_fini(&t);
}

/* The median is of the repeats' medians. A repeat without samples has none. */
Test(bench_times, median_is_of_the_repeats)
{
	struct times t = {0};
	json_t *row = json_object();

	for (uint64_t us = 1; us <= 3; us++) {
		for (unsigned i = 0; i < 3; i++)
			cr_assert_eq(times_add(&t, us * 1000), 0);
		cr_assert_eq(times_end_repeat(&t, true), 0);
		cr_assert_eq(times_end_repeat(&t, true), 0);
	}
	cr_assert_eq(times_set(&t, row), 0);
	cr_assert_eq(t.p50.count, 3);
	cr_assert_eq(report_figure(row, "us_p50").median, 2);
	cr_assert_eq(report_figure(row, "us_p50").q1, 1.5);
	json_decref(row);
	times_fini(&t);
}

Test(bench_times, nothing_measured)
{
	struct times t = {0};
	json_t *row = json_object();

	cr_assert_eq(times_end_repeat(&t, true), 0);
	cr_assert_eq(times_set(&t, row), 0);
	cr_assert_eq(at(row, "count"), 0);
	cr_assert(json_is_null(json_object_get(row, "us_p50")));
	cr_assert(json_is_null(json_object_get(row, "us_max")));
	json_decref(row);
}

/* Of times and of touches: what the slowest share reaches. Values below 64 have own buckets. */
Test(bench_times, one_definition_of_ranks)
{
	for (unsigned n = 1; n <= 60; n++) {
		struct memwalk_histogram h = {0};
		struct series s = {0};

		for (unsigned v = 1; v <= n; v++) {
			h.bucket[memwalk_bucket_of(v)]++;
			h.count++;
			h.sum += v;
			h.max = v;
			cr_assert_eq(series_add(&s, v), 0);
		}
		series_sort(&s);
		for (unsigned percent = 1; percent <= 100; percent++)
			cr_assert_eq(series_rank(&s, percent),
			             memwalk_histogram_at(&h, percent * 10000), "%u of %u", percent,
			             n);
		series_fini(&s);
	}
}
