// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_bench_hist.c - what the host makes of a guest's histograms.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#include "bench/hist.h"
#include "guest/memwalk.h"
#include "tests/unit/helpers.h"

#define GHZ UINT64_C(1000000000)

static struct memwalk_histogram *new_hist(void)
{
	struct memwalk_histogram *h = calloc(1, sizeof(*h));

	cr_assert(h);
	return h;
}

static void add_many(struct memwalk_histogram *h, uint64_t value, unsigned times)
{
	for (unsigned i = 0; i < times; i++)
		memwalk_histogram_add(h, value);
}

static json_int_t field(const json_t *latency, const char *key)
{
	const json_t *v = json_object_get(latency, key);

	cr_assert(json_is_integer(v), "%s", key);
	return json_integer_value(v);
}

/* 999 touches of 100 and one of 1,000,000: the slow one is p99.9 and the largest, no less. */
Test(bench_hist, one_slow_touch_in_a_thousand)
{
	struct memwalk_histogram *h = new_hist();
	json_t *j;

	add_many(h, 100, 999);
	add_many(h, 1000000, 1);
	j = hist_latency_json(h, GHZ);
	cr_assert_eq(field(j, "count"), 1000);
	cr_assert_eq(field(j, "mean"), 1100, "(999 * 100 + 1,000,000) / 1,000 = 1,099.9");
	cr_assert_eq(field(j, "p50"), 101, "the top of 100's bucket, which is 2 wide");
	cr_assert_eq(field(j, "p99"), 101);
	cr_assert_eq(field(j, "p99.9"), 1000000);
	cr_assert_eq(field(j, "max"), 1000000);
	json_decref(j);
	free(h);
}

/* At 2 GHz a cycle is half a nanosecond; at an unknown frequency cycles stay cycles. */
Test(bench_hist, cycles_to_ns)
{
	cr_assert_float_eq(hist_ns(3000, 2 * GHZ), 1500, 1e-9);
	cr_assert_float_eq(hist_ns(3000, 0), 3000, 1e-9);
}

Test(bench_hist, empty)
{
	struct memwalk_histogram *h = new_hist();
	json_t *j = hist_latency_json(h, GHZ), *cdf = hist_cdf_json(h, GHZ);

	cr_assert_eq(field(j, "count"), 0);
	cr_assert(json_is_null(json_object_get(j, "p99.9")));
	cr_assert(json_is_null(json_object_get(j, "max")));
	cr_assert_eq(json_array_size(cdf), 0);
	cr_assert_eq(hist_check(h), 0);
	json_decref(j);
	json_decref(cdf);
	free(h);
}

Test(bench_hist, merge)
{
	struct memwalk_histogram *a = new_hist(), *b = new_hist();

	add_many(a, 10, 3);
	add_many(b, 10, 2);
	add_many(b, 5000, 1);
	cr_assert_eq(hist_merge(a, b), 0);
	cr_assert_eq(a->count, 6);
	cr_assert_eq(a->sum, 5050);
	cr_assert_eq(a->max, 5000);
	cr_assert_eq(a->bucket[10], 5);
	cr_assert_eq(hist_check(a), 0);
	free(a);
	free(b);
}

Test(bench_hist, merge_that_does_not_fit)
{
	struct memwalk_histogram *a = new_hist(), *b = new_hist();

	add_many(a, 10, 3);
	add_many(b, 10, 1);
	b->bucket[10] = UINT32_MAX - 2;
	cr_assert_eq(hist_merge(a, b), -EOVERFLOW);
	cr_assert_eq(a->count, 3, "unchanged");
	b->bucket[10] = 1;
	b->sum = UINT64_MAX;
	cr_assert_eq(hist_merge(a, b), -EOVERFLOW);
	cr_assert_eq(a->sum, 30, "unchanged");
	free(a);
	free(b);
}

/* What a guest could say and no memwalk would. */
Test(bench_hist, check_finds)
{
	struct memwalk_histogram *h = new_hist(), whole;

	add_many(h, 100, 5);
	add_many(h, 200, 5);
	cr_assert_eq(hist_check(h), 0);
	whole = *h;
	h->count++;
	cr_assert_eq(hist_check(h), -EBADMSG, "count");
	*h = whole;
	h->bucket[memwalk_bucket_of(100)]--;
	cr_assert_eq(hist_check(h), -EBADMSG, "a bucket");
	*h = whole;
	h->max = 100;
	cr_assert_eq(hist_check(h), -EBADMSG, "max below the last bucket");
	*h = whole;
	h->max = 100000;
	cr_assert_eq(hist_check(h), -EBADMSG, "max above the last bucket");
	*h = whole;
	h->sum = 199;
	cr_assert_eq(hist_check(h), -EBADMSG, "sum below max");
	*h = whole;
	h->sum = 10 * 200 + 1;
	cr_assert_eq(hist_check(h), -EBADMSG, "sum above what count values can make");
	*h = (struct memwalk_histogram){.max = 1};
	cr_assert_eq(hist_check(h), -EBADMSG, "max of nothing");
	*h = (struct memwalk_histogram){.count = 2, .bucket[0] = 2};
	cr_assert_eq(hist_check(h), 0, "all zero is possible");
	free(h);
}

static double at(const json_t *cdf, size_t i, size_t which)
{
	return json_number_value(json_array_get(json_array_get(cdf, i), which));
}

static void expect_rising(const json_t *cdf)
{
	size_t n = json_array_size(cdf);

	cr_assert_gt(n, 0);
	for (size_t i = 1; i < n; i++) {
		cr_assert_gt(at(cdf, i, 0), at(cdf, i - 1, 0), "point %zu", i);
		cr_assert_gt(at(cdf, i, 1), at(cdf, i - 1, 1), "point %zu", i);
	}
	cr_assert_eq(at(cdf, n - 1, 1), 1);
}

Test(bench_hist, cdf_by_hand)
{
	struct memwalk_histogram *h = new_hist();
	json_t *cdf;

	add_many(h, 10, 5);
	add_many(h, 20, 3);
	add_many(h, 1001, 2);
	cdf = hist_cdf_json(h, GHZ);
	cr_assert_eq(json_array_size(cdf), 3);
	cr_assert_eq(at(cdf, 0, 0), 10);
	cr_assert_eq(at(cdf, 0, 1), 0.5);
	cr_assert_eq(at(cdf, 1, 0), 20);
	cr_assert_eq(at(cdf, 1, 1), 0.8);
	cr_assert_eq(at(cdf, 2, 0), 1001, "max, not the top of its bucket");
	expect_rising(cdf);
	json_decref(cdf);
	free(h);
}

/* Whatever was counted; at 100 GHz a hundred buckets share a nanosecond. */
Test(bench_hist, cdf_rises)
{
	static const uint64_t hz[] = {0, GHZ, 3 * GHZ, 100 * GHZ};
	struct rng rng = {test_seed()};

	for (unsigned round = 0; round < 40; round++) {
		struct memwalk_histogram *h = new_hist();
		json_t *cdf;

		for (unsigned i = 0; i <= rng_below(&rng, 3000); i++)
			memwalk_histogram_add(h, rng_next(&rng) >> (rng_below(&rng, 38) + 26));
		cr_assert_eq(hist_check(h), 0);
		cdf = hist_cdf_json(h, hz[round % 4]);
		expect_rising(cdf);
		json_decref(cdf);
		free(h);
	}
}
