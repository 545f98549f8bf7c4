// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_bench_sample.c - medians, quartiles, paired ratios, noise: worked out by hand.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>

#include "bench/sample.h"

static struct sample sample_of(const double *v, unsigned count)
{
	struct sample s = {.count = 0};

	for (unsigned i = 0; i < count; i++)
		cr_assert_eq(sample_add(&s, v[i]), 0);
	return s;
}

#define SAMPLE(...)                                                                                \
	sample_of((const double[]){__VA_ARGS__},                                                   \
	          sizeof((const double[]){__VA_ARGS__}) / sizeof(double))

static void expect(struct spread s, double q1, double median, double q3, unsigned count)
{
	cr_assert_float_eq(s.q1, q1, 1e-9, "q1 %g", s.q1);
	cr_assert_float_eq(s.median, median, 1e-9, "median %g", s.median);
	cr_assert_float_eq(s.q3, q3, 1e-9, "q3 %g", s.q3);
	cr_assert_eq(s.count, count);
}

Test(bench_sample, quartiles)
{
	struct sample five = SAMPLE(5, 1, 4, 2, 3), four = SAMPLE(40, 10, 30, 20);
	struct sample two = SAMPLE(4, 8), one = SAMPLE(7), none = {.count = 0};

	expect(sample_spread(&five), 2, 3, 4, 5);
	expect(sample_spread(&four), 17.5, 25, 32.5, 4);
	expect(sample_spread(&two), 5, 6, 7, 2);
	expect(sample_spread(&one), 7, 7, 7, 1);
	expect(sample_spread(&none), 0, 0, 0, 0);
	cr_assert_eq(five.v[0], 5, "the order of the repeats stays");
}

/* 2, 4 and 1.5: the median is 2, where the quotient of the medians would be 3. */
Test(bench_sample, ratios_are_paired)
{
	struct sample a = SAMPLE(10, 40, 30), b = SAMPLE(5, 10, 20);

	expect(sample_ratio(&a, &b), 1.75, 2, 3, 3);
}

Test(bench_sample, ratios_without_a_partner)
{
	struct sample a = SAMPLE(10, 40, 30, 90), b = SAMPLE(5, 0, 10), none = {.count = 0};

	expect(sample_ratio(&a, &b), 2.25, 2.5, 2.75, 2);
	expect(sample_ratio(&a, &none), 0, 0, 0, 0);
}

Test(bench_sample, refuses)
{
	struct sample s = {.count = 0};

	cr_assert_eq(sample_add(&s, NAN), -EDOM);
	cr_assert_eq(sample_add(&s, INFINITY), -EDOM);
	for (unsigned i = 0; i < SAMPLE_MAX; i++)
		cr_assert_eq(sample_add(&s, i), 0);
	cr_assert_eq(sample_add(&s, 1), -ENOSPC);
	cr_assert_eq(s.count, SAMPLE_MAX);
}

Test(bench_sample, noise)
{
	struct spread ten = {.median = 10, .q1 = 9.5, .q3 = 10.5, .count = 5};
	struct spread more = {.median = 10, .q1 = 9.4, .q3 = 10.5, .count = 5};
	struct spread few = {.median = 10, .q1 = 1, .q3 = 20, .count = 2};
	struct spread zero = {.median = 0, .q1 = 0, .q3 = 1, .count = 5};

	cr_assert_float_eq(spread_relative(&ten), 0.1, 1e-9);
	cr_assert(!spread_noisy(&ten), "10 %% is not beyond 10 %%");
	cr_assert(spread_noisy(&more));
	cr_assert(!spread_noisy(&few), "two repeats say nothing");
	cr_assert_eq(spread_relative(&zero), 0);
}

Test(bench_sample, change)
{
	/* 9 wide. */
	const struct spread before = {.median = 100, .q1 = 95, .q3 = 104, .count = 5};
	const struct spread steady = {.median = 100, .q1 = 100, .q3 = 100, .count = 5};
	static const struct {
		struct spread now;
		int change;
	} cases[] = {
		{{100, 95, 104, 5}, 0},  {{120, 116, 126, 5}, 1}, /* 20 apart, 19 wide together */
		{{120, 115, 126, 5}, 0},                          /* 20 apart, 20 wide */
		{{80, 75, 85, 5}, -1},   {{80, 70, 85, 5}, 0},    /* 24 wide */
		{{118, 105, 126, 5}, 0} /* the ranges do not overlap: not enough */
	};

	cr_assert_eq(spread_change(&steady, &(struct spread){105, 105, 105, 5}), 0,
	             "5 %% do not matter");
	cr_assert_eq(spread_change(&steady, &(struct spread){105.1, 105, 105.1, 5}), 1);
	cr_assert_eq(spread_change(&steady, &(struct spread){94.9, 94.9, 95, 5}), -1);
	cr_assert_eq(spread_change(&steady, &(struct spread){200, 200, 200, 2}), 0,
	             "two repeats have no spread");
	cr_assert_eq(spread_change(&(struct spread){200, 200, 200, 1}, &steady), 0);
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		cr_assert_eq(spread_change(&before, &cases[i].now), cases[i].change, "case %u", i);
}
