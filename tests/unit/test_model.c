// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_model.c - random operations against a flat array of bytes (tests/unit/model.h).
 *
 * Everything is checked after each operation, and now and then a space is read as a guest would,
 * which touches all of it. COWSLIP_SEED repeats a run. COWSLIP_MODEL_STEPS says how far the soak
 * goes; of what is beyond its first chapter every hundredth operation is checked.
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/helpers.h"
#include "tests/unit/model.h"
#include "tests/unit/reserve.h"

enum {
	STEPS = 1600 / SLOWDOWN,
	WALK_EVERY = 32, /* checks */
	CHAPTER = 10000, /* operations of the soak with one model */
	SOAK_EVERY = 100,
};

struct draw {
	uint64_t seed;
	struct rng rng;
	bool hugetlb;
};

static uint64_t draw_below(void *ctx, uint64_t n)
{
	struct draw *d = ctx;

	return rng_below(&d->rng, n);
}

static void draw_failed(void *ctx, const char *text)
{
	const struct draw *d = ctx;

	cr_assert_fail("COWSLIP_SEED=%" PRIu64 ", %s", d->seed, text);
}

/* Check after every `every`-th operation. Return: operations that ran out of frames. */
static uint64_t run_steps(struct draw *d, enum fault_choice faults, uint64_t pool_bytes,
                          uint64_t count, uint64_t every)
{
	struct model_env env = {draw_below, draw_failed, d, faults, d->hugetlb};
	struct model *m = model_open(&env, pool_bytes);

	d->rng = (struct rng){d->seed};
	for (uint64_t step = 0; step < count; step++) {
		model_step(m);
		if (step % every == 0)
			model_check(m, step / every % WALK_EVERY == 0);
	}
	model_check(m, true);
	return model_close(m);
}

static void run_model(enum fault_choice faults, uint64_t pool_bytes)
{
	struct draw d = {.seed = test_seed()};
	uint64_t refused = run_steps(&d, faults, pool_bytes, STEPS, 1);

	if (pool_bytes == MODEL_POOL_SHORT && STEPS > 1000)
		cr_assert_gt(refused, 0);
}

TestSuite(model, .timeout = 300);

TEST_BOTH_PATHS(model, random_operations)
{
	run_model(faults, MODEL_POOL_ROOMY);
}

/* Spaces of both paths over the same images. */
Test(model, random_operations_mixed)
{
	require_path(FAULTS_UFFD);
	run_model(FAULTS_AUTO, MODEL_POOL_ROOMY);
}

TEST_BOTH_PATHS(model, random_operations_short_of_frames)
{
	run_model(faults, MODEL_POOL_SHORT);
}

/* The same with memory in huge pages of the host's reserve, of which there may be too few. */
static void run_hugetlb(enum fault_choice faults, uint64_t pool_bytes, unsigned pages)
{
	struct draw d = {.seed = test_seed(), .hugetlb = true};

	reserve_pages(PAGE_SIZE_2M, pages);
	(void)run_steps(&d, faults, pool_bytes, STEPS, 1);
	release_pages();
}

TEST_BOTH_PATHS(model, hugetlb)
{
	run_hugetlb(faults, MODEL_POOL_ROOMY, MODEL_HUGE_PAGES);
}

Test(model, hugetlb_mixed)
{
	require_path(FAULTS_UFFD);
	run_hugetlb(FAULTS_AUTO, MODEL_POOL_ROOMY, MODEL_HUGE_PAGES);
}

TEST_BOTH_PATHS(model, hugetlb_short_of_frames)
{
	run_hugetlb(faults, MODEL_POOL_SHORT, MODEL_HUGE_PAGES);
}

TEST_BOTH_PATHS(model, hugetlb_short_of_pages)
{
	run_hugetlb(faults, MODEL_POOL_ROOMY, 3);
}

/*
 * Chapter after chapter, spaces of both paths, each with the next seed; an odd one has a short
 * pool.
 * A chapter that fails is repeated, and all of it checked, by its seed.
 */
Test(model, soak, .timeout = 86400)
{
	const char *text = getenv("COWSLIP_MODEL_STEPS");
	uint64_t left = text ? strtoull(text, NULL, 0) : 2 * STEPS, refused = 0, n;
	struct draw d = {.seed = test_seed()};
	const bool both = left >= 2 * (text ? CHAPTER : STEPS); /* pools */

	require_path(FAULTS_UFFD);
	cr_assert_gt(left, 0);
	for (uint64_t every = 1; left > 0; left -= n, every = SOAK_EVERY, d.seed++) {
		n = min_u64(left, text ? CHAPTER : STEPS);
		refused += run_steps(&d, FAULTS_AUTO,
		                     d.seed & 1 ? MODEL_POOL_SHORT : MODEL_POOL_ROOMY, n, every);
		fprintf(stderr, "%" PRIu64 " left, %" PRIu64 " ran out of frames\n", left - n,
		        refused);
	}
	if (both && STEPS > 1000)
		cr_assert_gt(refused, 0);
}
