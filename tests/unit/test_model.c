// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_model.c - random operations against a flat array of bytes (tests/unit/model.h).
 *
 * Everything is checked after each operation, and now and then a space is read as a guest would,
 * which touches all of it. COWSLIP_SEED repeats a run. COWSLIP_MODEL_STEPS makes it longer: past
 * the first 10,000 operations every hundredth is checked.
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/helpers.h"
#include "tests/unit/model.h"

enum { STEPS = 1600 / SLOWDOWN, CHECK_ALL = 10000, CHECK_EVERY = 100, WALK_EVERY = 32 };

struct draw {
	uint64_t seed;
	struct rng rng;
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

static uint64_t steps(void)
{
	const char *text = getenv("COWSLIP_MODEL_STEPS");

	return text ? strtoull(text, NULL, 0) : STEPS;
}

static void run_model(enum fault_choice faults, uint64_t pool_bytes)
{
	struct draw d = {.seed = test_seed()};
	struct model_env env = {draw_below, draw_failed, &d, faults};
	struct model *m = model_open(&env, pool_bytes);
	uint64_t count = steps(), checks = 0, refused;

	d.rng = (struct rng){d.seed};
	for (uint64_t step = 0; step < count; step++) {
		model_step(m);
		if (step < CHECK_ALL || step % CHECK_EVERY == 0)
			model_check(m, checks++ % WALK_EVERY == 0);
	}
	refused = model_close(m);
	fprintf(stderr,
	        "%" PRIu64 " operations, %" PRIu64 " of them checked, %" PRIu64 " out of frames\n",
	        count, checks, refused);
	if (pool_bytes == MODEL_POOL_SHORT && count > 1000)
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
