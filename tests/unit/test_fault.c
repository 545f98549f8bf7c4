// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_fault.c - violations: every outcome, one decision for many threads, waiting for
 * frames, the end of a space with somebody waiting.
 *
 * Threads here stand for vCPUs: they touch the window with plain loads and stores.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mm/space.h"
#include "mm/space_internal.h"
#include "tests/unit/helpers.h"
#include "tests/unit/inject.h"

TestSuite(fault, .timeout = 120);

enum { THREADS = 8 };

static enum outcome violate(struct space *s, uint64_t gpa, enum access access)
{
	return space_violation(s, (struct violation){{gpa}, access});
}

static struct space_stats stats_of(struct space *s)
{
	struct space_stats st;

	cr_assert_eq(space_stats(s, &st), 0);
	return st;
}

/* --- one thread ------------------------------------------------------------------------------ */

TEST_BOTH_PATHS(fault, every_outcome)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, 4 * MIB + PAGE, faults);

	cr_assert_eq(violate(s, 5, ACCESS_READ), OUTCOME_RESOLVED);
	cr_assert_eq(violate(s, 5, ACCESS_WRITE), OUTCOME_RESOLVED);
	cr_assert_eq(violate(s, 4 * MIB + PAGE - 1, ACCESS_EXEC), OUTCOME_RESOLVED);
	cr_assert_eq(violate(s, 4 * MIB + PAGE, ACCESS_READ), OUTCOME_MMIO);
	cr_assert_eq(violate(s, UINT64_MAX, ACCESS_WRITE), OUTCOME_MMIO);
	cr_assert_eq(space_block_state(s, (gpa_t){0}), BLOCK_OWNED);
	s->regions[0].permits = ACCESS_READ | ACCESS_EXEC;
	cr_assert_eq(violate(s, 5, ACCESS_WRITE), OUTCOME_DENIED);
	cr_assert_eq(violate(s, 2 * MIB, ACCESS_WRITE), OUTCOME_DENIED);
	cr_assert_eq(space_write(s, (gpa_t){0}, "x", 1), -EACCES);
	cr_assert_eq(violate(s, 5, ACCESS_READ), OUTCOME_RESOLVED);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Deciding again what is decided takes nothing and moves nothing. */
TEST_BOTH_PATHS(fault, idempotent)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, 4 * MIB, faults);
	frame_t f;

	put(s, 3 * PAGE, 88);
	f = s->blocks[0].frame;
	for (unsigned i = 0; i < 600; i++) {
		cr_assert_eq(violate(s, (i % 512) * PAGE, i & 1 ? ACCESS_READ : ACCESS_WRITE),
		             OUTCOME_RESOLVED);
		cr_assert_eq(s->blocks[0].frame.n, f.n);
	}
	cr_assert_eq(get(s, 3 * PAGE), 88, "what was there stays");
	expect_zero(s, 4 * PAGE, BLOCK - 4 * PAGE);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

TEST_BOTH_PATHS(fault, clone_blocks_are_decided_once)
{
	struct pool *pool = new_pool(32 * MIB);
	struct space *s = new_space(pool, 6 * MIB, faults), *clone;
	struct image *image;

	tag_pages(s, 0, 2 * MIB, 5);
	image = publish(s);
	clone = new_clone(pool, image, faults);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(violate(clone, 7 * PAGE, ACCESS_READ), OUTCOME_RESOLVED);
	cr_assert_eq(space_block_state(clone, (gpa_t){0}), BLOCK_SHARED);
	expect_tags(clone, 0, 2 * MIB, 5);
	cr_assert_eq(violate(clone, 7 * PAGE, ACCESS_WRITE), OUTCOME_RESOLVED);
	cr_assert_eq(private_frames(clone), 0, "a decision is no write");
	cr_assert_eq(violate(clone, 3 * MIB, ACCESS_WRITE), OUTCOME_RESOLVED);
	put(clone, 3 * MIB, 6);
	expect_zero(s, 2 * MIB, 4 * MIB);
	image_put(image);
	space_destroy(s);
	expect_sound_alone(pool, clone);
	space_destroy(clone);
	expect_all_gone(pool);
}

/* A walk costs about one event per block; a lone touch brings in a cluster and no more. */
Test(fault, events_are_few)
{
	struct pool *pool = new_pool(64 * MIB);
	struct ram_region ram[] = {ram_at(0, 32 * MIB, PAGE_SIZE_AUTO),
	                           ram_at(32 * MIB, 2 * MIB, PAGE_SIZE_2M),
	                           ram_at(34 * MIB, 2 * MIB, PAGE_SIZE_4K)};
	struct space *s;

	require_path(FAULTS_UFFD);
	s = make_space(&(struct space_config){
		.pool = pool, .ram = ram, .ram_count = 3, .faults = FAULTS_UFFD});
	guest_store(s, 34 * MIB + 100 * PAGE, 1);
	cr_assert_eq(stats_of(s).events, 1);
	cr_assert_leq(committed_frames(pool), 64);
	guest_store(s, 32 * MIB + 100 * PAGE, 1);
	cr_assert_eq(stats_of(s).events, 2, "a 2 MiB page is one event");
	for (uint64_t a = 32 * MIB; a < 34 * MIB; a += PAGE)
		guest_store(s, a, 1);
	cr_assert_eq(stats_of(s).events, 2);
	for (uint64_t a = 0; a < 32 * MIB; a += PAGE)
		guest_store(s, a, a);
	cr_assert_leq(stats_of(s).events, 2 + 16 + 4);
	cr_assert_geq(stats_of(s).violations, stats_of(s).events);
	for (uint64_t a = 0; a < 32 * MIB; a += PAGE)
		cr_assert_eq(guest_load(s, a), a);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* A walk is given what it will get to; what it does not get to has cost nothing. */
Test(fault, grants_cost_nothing_untouched)
{
	struct pool *pool = new_pool(512 * MIB);
	struct space *s;

	require_path(FAULTS_UFFD);
	s = new_space(pool, 256 * MIB, FAULTS_UFFD);
	for (uint64_t a = 0; a < 40 * MIB; a += PAGE)
		guest_store(s, a, a + 1);
	cr_assert_leq(committed_frames(pool), (40 + 2) * MIB / PAGE);
	cr_assert_leq(stats_of(s).events, 40);
	cr_assert_leq(stats_of(s).huge_blocks, 21);
	cr_assert_eq(stats_of(s).owned_committed, committed_frames(pool));
	if (pool_huge(pool))
		cr_assert_gt(used_frames(pool), 42 * MIB / PAGE, "more was given than touched");
	for (uint64_t a = 0; a < 40 * MIB; a += PAGE)
		cr_assert_eq(guest_load(s, a), a + 1);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Frames given ahead of a walk come back when others want them: every block of the pool is used. */
Test(fault, grants_are_taken_back)
{
	const uint64_t blocks = 40, walked = 6;
	struct pool *pool = new_pool(blocks * BLOCK);
	struct space *s;
	uint64_t used;

	require_path(FAULTS_UFFD);
	s = new_space(pool, 256 * MIB, FAULTS_UFFD);
	for (uint64_t a = 0; a < walked * BLOCK; a += PAGE)
		guest_store(s, a, a + 1);
	used = used_frames(pool) / 512;
	if (pool_huge(pool))
		cr_assert_gt(used, walked);
	for (uint64_t i = walked; i < blocks; i++)
		put(s, (i + 60) * BLOCK + 5 * PAGE, i);
	cr_assert_eq(used_frames(pool), blocks * 512);
	cr_assert_eq(violate(s, 120 * BLOCK, ACCESS_WRITE), OUTCOME_NOMEM, "now there are none");
	for (uint64_t a = 0; a < walked * BLOCK; a += PAGE)
		cr_assert_eq(guest_load(s, a), a + 1);
	for (uint64_t i = walked; i < blocks; i++)
		cr_assert_eq(guest_load(s, (i + 60) * BLOCK + 5 * PAGE), i);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Random touches cost a few events and no memory but their own; an image gets them all. */
Test(fault, random_touches)
{
	struct pool *pool = new_pool(1 * GIB);
	struct rng rng = {test_seed()}, again = rng;
	struct space *s, *clone;
	struct image *image;

	require_path(FAULTS_UFFD);
	s = new_space(pool, 512 * MIB, FAULTS_UFFD);
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t page = rng_below(&rng, 512 * MIB / PAGE);

		guest_store(s, page * PAGE, page + 1);
	}
	cr_assert_leq(stats_of(s).events, 60);
	cr_assert_leq(committed_frames(pool) + private_frames(s), 2 * 1000 + 32 * MIB / PAGE);
	image = publish(s);
	clone = new_clone(pool, image, FAULTS_KERNEL);
	rng = again;
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t page = rng_below(&rng, 512 * MIB / PAGE);

		cr_assert_eq(guest_load(s, page * PAGE), page + 1);
		cr_assert_eq(guest_load(clone, page * PAGE), page + 1);
		cr_assert_eq(guest_load(clone, (page ^ 1) * PAGE + 8), 0);
	}
	cr_assert_leq(committed_frames(pool), 2 * 1000 + 32 * MIB / PAGE, "nor by the clone");
	expect_sound(&(struct world){pool, (struct space *[]){s, clone}, 2, &image, 1});
	image_put(image);
	space_destroy(s);
	space_destroy(clone);
	expect_all_gone(pool);
}

/* The same walks where no file has huge pages: each block is collapsed. */
Test(fault, walk_in_a_plain_pool)
{
	struct pool *pool;
	struct space *s;

	require_path(FAULTS_UFFD);
	inject_plain_pools(true);
	pool = new_pool(128 * MIB);
	inject_plain_pools(false);
	s = new_space(pool, 64 * MIB, FAULTS_UFFD);
	for (uint64_t a = 0; a < 64 * MIB; a += PAGE)
		guest_store(s, a, a + 1);
	cr_assert_leq(stats_of(s).events, 32 + 20);
	for (uint64_t a = 0; a < 64 * MIB; a += PAGE)
		cr_assert_eq(guest_load(s, a), a + 1);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* --- many threads ---------------------------------------------------------------------------- */

struct vcpu {
	struct space *s;
	pthread_barrier_t *start;
	uint64_t first, step, count; /* the words it stores */
	uint64_t value;
	uint64_t bad;    /* words that were not what they should have been */
	uint64_t before; /* what it expects there, where it looks */
	bool look;
	_Atomic bool done;
	pthread_t thread;
};

static void *run_vcpu(void *arg)
{
	struct vcpu *v = arg;

	if (v->start)
		pthread_barrier_wait(v->start);
	for (uint64_t i = 0; i < v->count; i++) {
		uint64_t at = v->first + i * v->step;

		if (v->look && guest_load(v->s, at) != v->before)
			v->bad++;
		guest_store(v->s, at, v->value + i);
	}
	atomic_store(&v->done, true);
	return NULL;
}

static void launch(struct vcpu *v)
{
	cr_assert_eq(pthread_create(&v->thread, NULL, run_vcpu, v), 0);
}

/* Start all at once, wait for all, look at every store. */
static void race(struct vcpu *v, unsigned n)
{
	pthread_barrier_t start;

	cr_assert_eq(pthread_barrier_init(&start, NULL, n), 0);
	for (unsigned i = 0; i < n; i++) {
		v[i].start = &start;
		launch(&v[i]);
	}
	for (unsigned i = 0; i < n; i++) {
		cr_assert_eq(pthread_join(v[i].thread, NULL), 0);
		cr_assert_eq(v[i].bad, 0);
	}
	pthread_barrier_destroy(&start);
	for (unsigned i = 0; i < n; i++)
		for (uint64_t k = 0; k < v[i].count; k++)
			cr_assert_eq(guest_load(v[i].s, v[i].first + k * v[i].step), v[i].value + k,
			             "thread %u, store %lu", i, (unsigned long)k);
}

/* All threads store into one page that is not there: one allocation, every store survives. */
TEST_BOTH_PATHS(fault, one_page_many_threads)
{
	for (unsigned round = 0; round < 40 / SLOWDOWN + 4; round++) {
		struct pool *pool = new_pool(16 * MIB);
		struct space *s = new_space(pool, 2 * MIB, faults);
		struct vcpu v[THREADS] = {0};

		for (unsigned i = 0; i < THREADS; i++)
			v[i] = (struct vcpu){.s = s,
			                     .first = 5 * PAGE + 8 * i,
			                     .step = 1,
			                     .count = 1,
			                     .value = i + 1,
			                     .look = true};
		race(v, THREADS);
		cr_assert_eq(used_frames(pool), 512, "exactly one allocation");
		expect_sound_alone(pool, s);
		space_destroy(s);
		expect_all_gone(pool);
	}
}

/* The same for pages all over one block. */
TEST_BOTH_PATHS(fault, one_block_many_threads)
{
	for (unsigned round = 0; round < 20 / SLOWDOWN + 2; round++) {
		struct pool *pool = new_pool(16 * MIB);
		struct space *s = new_space(pool, 2 * MIB, faults);
		struct vcpu v[THREADS] = {0};

		for (unsigned i = 0; i < THREADS; i++)
			v[i] = (struct vcpu){.s = s,
			                     .first = i * PAGE,
			                     .step = THREADS * PAGE,
			                     .count = 64,
			                     .value = 1000 * (i + 1),
			                     .look = true};
		race(v, THREADS);
		cr_assert_eq(used_frames(pool), 512);
		expect_sound_alone(pool, s);
		space_destroy(s);
		expect_all_gone(pool);
	}
}

/* All walk through all of memory at once, each with its own word of each page. */
TEST_BOTH_PATHS(fault, all_blocks_many_threads)
{
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = new_space(pool, 16 * MIB + 3 * PAGE, faults);
	struct vcpu v[THREADS] = {0};

	for (unsigned i = 0; i < THREADS; i++)
		v[i] = (struct vcpu){.s = s,
		                     .first = 8 * i,
		                     .step = PAGE,
		                     .count = 4096 + 3,
		                     .value = (uint64_t)i << 32 | 1,
		                     .look = true};
	race(v, THREADS);
	cr_assert_eq(used_frames(pool), 9 * 512);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* In a clone, every thread finds the image's word first, then every store survives. */
TEST_BOTH_PATHS(fault, clone_many_threads)
{
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = new_space(pool, 6 * MIB, faults), *clone;
	struct vcpu v[THREADS] = {0};
	struct image *image;

	for (uint64_t a = 0; a < 4 * MIB; a += PAGE)
		for (unsigned i = 0; i < THREADS; i++)
			guest_store(s, a + 8 * i, 77 + i);
	image = publish(s);
	for (unsigned round = 0; round < 4; round++) {
		clone = new_clone(pool, image, faults);
		for (unsigned i = 0; i < THREADS; i++)
			v[i] = (struct vcpu){.s = clone,
			                     .first = 8 * i,
			                     .step = PAGE,
			                     .count = 1024,
			                     .value = 5000 * i,
			                     .look = true,
			                     .before = 77 + i};
		race(v, THREADS);
		cr_assert_eq(guest_load(s, 16), 79);
		expect_sound(&(struct world){pool, (struct space *[]){s, clone}, 2, &image, 1});
		space_destroy(clone);
	}
	image_put(image);
	space_destroy(s);
	expect_all_gone(pool);
}

static void *run_host(void *arg)
{
	struct vcpu *v = arg;

	pthread_barrier_wait(v->start);
	for (uint64_t i = 0; i < v->count; i++) {
		uint64_t at = v->first + i * v->step, value = v->value + i, back = 0;

		if (space_write(v->s, (gpa_t){at}, &value, 8) ||
		    space_read(v->s, (gpa_t){at}, &back, 8) || back != value)
			v->bad++;
	}
	return NULL;
}

/* The VMM and a vCPU bring in the same blocks at the same time. */
TEST_BOTH_PATHS(fault, host_and_guest_at_once)
{
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = new_space(pool, 8 * MIB, faults);
	pthread_barrier_t start;
	struct vcpu v[4];

	cr_assert_eq(pthread_barrier_init(&start, NULL, 4), 0);
	for (unsigned i = 0; i < 4; i++) {
		v[i] = (struct vcpu){.s = s,
		                     .start = &start,
		                     .first = 8 * i,
		                     .step = 3 * PAGE,
		                     .count = 600,
		                     .value = 10000 * (i + 1)};
		cr_assert_eq(pthread_create(&v[i].thread, NULL, i & 1 ? run_host : run_vcpu, &v[i]),
		             0);
	}
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(pthread_join(v[i].thread, NULL), 0);
		cr_assert_eq(v[i].bad, 0);
	}
	for (unsigned i = 0; i < 4; i++)
		for (uint64_t k = 0; k < 600; k++)
			cr_assert_eq(get(s, v[i].first + k * v[i].step), v[i].value + k);
	cr_assert_eq(used_frames(pool), 2048);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Clones come and go while others run on the same image. */
static void *come_and_go(void *arg)
{
	struct vcpu *v = arg;

	for (unsigned round = 0; round < 12 / SLOWDOWN + 1; round++) {
		struct space *clone = NULL;
		struct space_config c = {.pool = v->s->pool,
		                         .image = space_image(v->s),
		                         .faults = round & 1 ? FAULTS_KERNEL : FAULTS_AUTO};

		if (space_create(&c, &clone)) {
			v->bad++;
			continue;
		}
		for (uint64_t a = 0; a < 4 * MIB; a += 7 * PAGE) {
			v->bad += guest_load(clone, a) != 3 + a / PAGE;
			guest_store(clone, a, v->value);
		}
		if (round % 3 == 0) {
			struct image *image = NULL;

			v->bad += space_publish(clone, NULL, 0, &image) != 0;
			v->bad += guest_load(clone, 7 * PAGE) != v->value;
			image_put(image);
		}
		space_destroy(clone);
	}
	return NULL;
}

TEST_BOTH_PATHS(fault, clones_in_many_threads)
{
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = new_space(pool, 4 * MIB, faults);
	struct vcpu v[4] = {0};
	struct image *image;

	tag_pages(s, 0, 4 * MIB, 3);
	image = publish(s);
	for (unsigned i = 0; i < 4; i++) {
		v[i] = (struct vcpu){.s = s, .value = i + 100};
		cr_assert_eq(pthread_create(&v[i].thread, NULL, come_and_go, &v[i]), 0);
	}
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(pthread_join(v[i].thread, NULL), 0);
		cr_assert_eq(v[i].bad, 0);
	}
	expect_tags(s, 0, 4 * MIB, 3);
	expect_sound(&(struct world){pool, &s, 1, &image, 1});
	image_put(image);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Blocks are taken back from under vCPUs that are about to touch them: no store is lost. */
Test(fault, taken_back_while_touched)
{
	for (unsigned round = 0; round < 20 / SLOWDOWN + 2; round++) {
		struct pool *pool = new_pool(512 * MIB);
		struct vcpu v[4] = {0};
		struct space *s;
		bool running = true;

		require_path(FAULTS_UFFD);
		s = new_space(pool, 128 * MIB, FAULTS_UFFD);
		for (uint64_t a = 0; a < 16 * MIB; a += PAGE)
			guest_store(s, a, 1);
		for (unsigned i = 0; i < 4; i++) {
			v[i] = (struct vcpu){.s = s,
			                     .first = 16 * MIB + 8 * i,
			                     .step = (i + 1) * 100 * PAGE,
			                     .count = 280 / (i + 1),
			                     .value = 1000 * (i + 1),
			                     .look = true};
			launch(&v[i]);
		}
		while (running) {
			lock_take(&s->lock);
			(void)alloc_take_back(s, 1);
			lock_drop(&s->lock);
			running = false;
			for (unsigned i = 0; i < 4; i++)
				running |= !atomic_load(&v[i].done);
		}
		for (unsigned i = 0; i < 4; i++) {
			cr_assert_eq(pthread_join(v[i].thread, NULL), 0);
			cr_assert_eq(v[i].bad, 0);
			for (uint64_t k = 0; k < v[i].count; k++)
				cr_assert_eq(guest_load(s, v[i].first + k * v[i].step),
				             v[i].value + k);
		}
		expect_sound_alone(pool, s);
		space_destroy(s);
		expect_all_gone(pool);
	}
}

/* --- waiting for frames ---------------------------------------------------------------------- */

struct told {
	_Atomic unsigned times;
	_Atomic uint64_t gpa;
	_Atomic int access;
};

static void tell(void *ctx, struct violation v)
{
	struct told *t = ctx;

	atomic_store(&t->gpa, v.gpa.v);
	atomic_store(&t->access, (int)v.access);
	atomic_fetch_add(&t->times, 1);
}

static void wait_told(struct told *t, unsigned times)
{
	const struct timespec nap = {.tv_nsec = 1000000};

	while (atomic_load(&t->times) < times)
		nanosleep(&nap, NULL);
}

static struct space *limited(struct pool *pool, uint64_t frames, struct told *t)
{
	struct ram_region ram = ram_at(0, 8 * MIB, PAGE_SIZE_AUTO);

	require_path(FAULTS_UFFD);
	return make_space(&(struct space_config){.pool = pool,
	                                         .ram = &ram,
	                                         .ram_count = 1,
	                                         .limit_frames = frames,
	                                         .nomem = tell,
	                                         .ctx = t});
}

/* A vCPU over the limit waits, is reported, loses nothing and goes on when the limit is raised. */
Test(fault, waits_for_frames_and_goes_on)
{
	const struct timespec nap = {.tv_nsec = 30000000};
	struct pool *pool = new_pool(64 * MIB);
	struct told told = {0};
	struct space *s = limited(pool, 1024, &told);
	struct vcpu v = {.s = s, .step = PAGE, .count = 2048, .value = 1, .look = true};

	launch(&v);
	wait_told(&told, 1);
	cr_assert_eq(told.gpa, 4 * MIB);
	cr_assert_eq(told.access, ACCESS_READ);
	nanosleep(&nap, NULL);
	cr_assert_not(v.done);
	cr_assert_eq(stats_of(s).nomem, 1);
	cr_assert_eq(used_frames(pool), 1024);
	expect_sound_alone(pool, s);
	space_resume(s, 1536);
	wait_told(&told, 2);
	cr_assert_eq(told.gpa, 6 * MIB);
	space_resume(s, 0);
	wait_told(&told, 3);
	cr_assert_not(v.done, "nothing was given");
	space_resume(s, 2048);
	cr_assert_eq(pthread_join(v.thread, NULL), 0);
	cr_assert_eq(v.bad, 0);
	for (uint64_t i = 0; i < 2048; i++)
		cr_assert_eq(get(s, i * PAGE), 1 + i);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Several wait, for different blocks and for the same. */
Test(fault, many_wait_for_frames)
{
	struct pool *pool = new_pool(64 * MIB);
	struct told told = {0};
	struct space *s = limited(pool, 512, &told);
	struct vcpu v[6] = {0};

	put(s, 0, 1);
	for (unsigned i = 0; i < 6; i++) {
		v[i] = (struct vcpu){.s = s,
		                     .first = (1 + i % 3) * BLOCK + 8 * i,
		                     .step = 1,
		                     .count = 1,
		                     .value = i + 1};
		launch(&v[i]);
	}
	wait_told(&told, 6);
	space_resume(s, 2048);
	for (unsigned i = 0; i < 6; i++) {
		cr_assert_eq(pthread_join(v[i].thread, NULL), 0);
		cr_assert_eq(get(s, v[i].first), i + 1);
	}
	cr_assert_eq(used_frames(pool), 2048);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* The end of a space whose vCPU waits: it is let go and finds zero memory. */
Test(fault, shutdown_lets_the_waiting_go)
{
	struct pool *pool = new_pool(64 * MIB);
	struct told told = {0};
	struct space *s = limited(pool, 512, &told);
	struct vcpu v = {.s = s, .step = PAGE, .count = 2048, .value = 1, .look = true};

	launch(&v);
	wait_told(&told, 1);
	space_shutdown(s);
	space_shutdown(s);
	cr_assert_eq(pthread_join(v.thread, NULL), 0);
	cr_assert_eq(v.bad, 0);
	cr_assert_eq(used_frames(pool), 512);
	space_destroy(s);
	expect_all_gone(pool);
}

/* From another thread, while the handler sleeps: everyone waiting goes on. */
Test(fault, let_go_by_another_thread)
{
	struct pool *pool = new_pool(64 * MIB);
	struct told told = {0};
	struct space *s = limited(pool, 512, &told);
	const struct timespec nap = {.tv_nsec = 30000000};
	struct vcpu v[3] = {0};

	for (unsigned i = 0; i < 3; i++) {
		v[i] = (struct vcpu){.s = s,
		                     .first = 8 * i,
		                     .step = PAGE,
		                     .count = 2048,
		                     .value = 1,
		                     .look = true};
		launch(&v[i]);
	}
	wait_told(&told, 3);
	nanosleep(&nap, NULL);
	space_let_go(s);
	space_let_go(s);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(pthread_join(v[i].thread, NULL), 0);
		cr_assert_eq(v[i].bad, 0);
	}
	space_destroy(s);
	expect_all_gone(pool);
}

static void give_up(void *ctx, struct violation v)
{
	(void)v;
	space_let_go(atomic_load((struct space * _Atomic *)ctx));
}

/* From the handler's own thread: what a VM does that has nothing left to wait for. */
Test(fault, let_go_by_the_handler)
{
	struct pool *pool = new_pool(4 * MIB);
	struct ram_region ram = ram_at(0, 8 * MIB, PAGE_SIZE_AUTO);
	struct space *_Atomic s = NULL;
	struct vcpu v = {.step = PAGE, .count = 2048, .value = 1, .look = true};

	require_path(FAULTS_UFFD);
	s = make_space(&(struct space_config){.pool = pool,
	                                      .ram = &ram,
	                                      .ram_count = 1,
	                                      .faults = FAULTS_UFFD,
	                                      .nomem = give_up,
	                                      .ctx = &s});
	v.s = s;
	launch(&v);
	cr_assert_eq(pthread_join(v.thread, NULL), 0);
	cr_assert_eq(v.bad, 0);
	space_destroy(s);
	expect_all_gone(pool);
}

/* The same in a clone of a file, whose mappings userfaultfd knows nothing of. */
Test(fault, let_go_in_a_clone_of_a_file)
{
	struct pool *pool = new_pool(64 * MIB);
	struct ram_region ram = ram_at(0, 8 * MIB, PAGE_SIZE_AUTO);
	struct extent e = {.gpa = {BLOCK}, .pages = 512};
	struct image_parts parts = {.ram = &ram, .ram_count = 1, .extents = &e, .extent_count = 1};
	struct told told = {0};
	struct image *image;
	struct space *s;
	struct vcpu v = {.step = BLOCK, .count = 4, .value = 1, .look = true};
	FILE *file = tmpfile();

	require_path(FAULTS_UFFD);
	cr_assert_not_null(file);
	cr_assert_eq(ftruncate(fileno(file), BLOCK), 0);
	cr_assert_eq(store_open_file(dup(fileno(file)), BLOCK, &e.store), 0);
	fclose(file);
	cr_assert_eq(image_create(&parts, &image), 0);
	store_put(e.store);
	s = make_space(&(struct space_config){.pool = pool,
	                                      .image = image,
	                                      .faults = FAULTS_UFFD,
	                                      .limit_frames = 512,
	                                      .nomem = tell,
	                                      .ctx = &told});
	image_put(image);
	v.s = s;
	launch(&v);
	wait_told(&told, 1);
	cr_assert_eq(told.gpa, 2 * BLOCK);
	cr_assert_eq(space_block_state(s, (gpa_t){BLOCK}), BLOCK_SHARED);
	space_let_go(s);
	cr_assert_eq(pthread_join(v.thread, NULL), 0);
	cr_assert_eq(v.bad, 0);
	space_destroy(s);
	expect_all_gone(pool);
}

/* A forked process that holds every descriptor of this one keeps nobody waiting. */
Test(fault, let_go_beside_a_forked_process)
{
	struct pool *pool = new_pool(64 * MIB);
	struct told told = {0};
	struct space *s = limited(pool, 512, &told);
	struct vcpu v = {.s = s, .step = PAGE, .count = 2048, .value = 1, .look = true};
	int hold[2];
	pid_t child;

	cr_assert_eq(pipe(hold), 0);
	child = fork();
	cr_assert_geq(child, 0);
	if (child == 0) {
		char c;

		close(hold[1]);
		_exit(read(hold[0], &c, 1) != 0);
	}
	launch(&v);
	wait_told(&told, 1);
	space_let_go(s);
	cr_assert_eq(pthread_join(v.thread, NULL), 0);
	cr_assert_eq(v.bad, 0);
	space_destroy(s);
	expect_all_gone(pool);
	close(hold[1]);
	cr_assert_eq(waitpid(child, NULL, 0), child);
}

/* A space that nobody waits in ends at once, again and again. */
TEST_BOTH_PATHS(fault, shutdown_when_idle)
{
	struct pool *pool = new_pool(16 * MIB);

	for (unsigned i = 0; i < 20; i++) {
		struct space *s = new_space(pool, 4 * MIB, faults);

		if (i & 1)
			put(s, 0, 1);
		if (i & 2)
			space_shutdown(s);
		space_destroy(s);
	}
	expect_all_gone(pool);
}
