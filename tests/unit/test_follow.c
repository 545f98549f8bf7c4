// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_follow.c - walks of writes through memory shared with an image: found, followed,
 * and not a byte of it different from what the image and the writer say.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "mm/space.h"
#include "mm/space_internal.h"
#include "tests/unit/helpers.h"
#include "tests/unit/inject.h"

TestSuite(follow, .timeout = 120);

#define BLOCKS 24u
#define RAM    (BLOCKS * BLOCK)
#define PAGES  (RAM / PAGE)

/* Pages written between two looks. */
#define TICK 40u

struct world_of_one {
	struct pool *pool;
	struct image *image;
	struct space *s;
};

/* A clone of tagged memory. */
static struct world_of_one setup_in(uint64_t pool_bytes, uint64_t limit_frames)
{
	struct world_of_one w = {.pool = new_pool(pool_bytes)};
	struct space *parent = new_space(w.pool, RAM, FAULTS_KERNEL);
	struct space_config c = {
		.pool = w.pool, .faults = FAULTS_KERNEL, .limit_frames = limit_frames};

	tag_pages(parent, 0, RAM, 7);
	w.image = publish(parent);
	space_destroy(parent);
	c.image = w.image;
	w.s = make_space(&c);
	return w;
}

static struct world_of_one setup(void)
{
	return setup_in(4 * RAM, 0);
}

static void teardown(struct world_of_one *w)
{
	expect_sound(&(struct world){w->pool, &w->s, 1, &w->image, 1});
	space_destroy(w->s);
	image_put(w->image);
	expect_all_gone(w->pool);
}

static uint64_t followed(struct space *s)
{
	struct space_stats st;

	cr_assert_eq(space_stats(s, &st), 0);
	return st.followed_blocks;
}

/* What a tick does. */
static void look_and_follow(struct space *s)
{
	int r = space_look(s);

	cr_assert_geq(r, 0);
	while (r > 0)
		r = space_follow(s, 3);
}

/* Behind the tag of page p, which stays. */
static void write_page(struct space *s, uint64_t p)
{
	guest_store(s, p * PAGE + 8, p + 1);
	guest_store(s, p * PAGE + PAGE - 8, ~p);
}

static void expect_written(struct space *s, uint64_t p, bool written)
{
	cr_assert_eq(guest_load(s, p * PAGE + 8), written ? p + 1 : 0, "page %lu",
	             (unsigned long)p);
	cr_assert_eq(guest_load(s, p * PAGE + PAGE - 8), written ? ~p : 0);
}

static void expect_memory(struct space *s, uint64_t from, uint64_t to)
{
	expect_tags(s, 0, RAM, 7);
	for (uint64_t p = 0; p < PAGES; p++)
		expect_written(s, p, p >= from && p < to);
}

static void walk(struct space *s, uint64_t from, uint64_t to, bool down)
{
	for (uint64_t i = 0; i < to - from; i++) {
		write_page(s, down ? to - 1 - i : from + i);
		if (i % TICK == TICK - 1)
			look_and_follow(s);
	}
}

Test(follow, a_walk_either_way)
{
	for (int down = 0; down < 2; down++) {
		struct world_of_one w = setup();

		walk(w.s, 0, PAGES, down);
		cr_assert_geq(count_owned(w.s, RAM), BLOCKS - 2, "%u owned", count_owned(w.s, RAM));
		cr_assert_eq(followed(w.s), count_owned(w.s, RAM));
		expect_memory(w.s, 0, PAGES);
		teardown(&w);
	}
}

/* Wherever it ends, what is beyond is the image's, and stays so. */
Test(follow, a_walk_that_ends)
{
	for (uint64_t end = 30; end < PAGES; end += 1999) {
		struct world_of_one w = setup();

		walk(w.s, 0, end, false);
		expect_memory(w.s, 0, end);
		cr_assert_leq(count_owned(w.s, RAM), 2 * end / 512 + 3);
		teardown(&w);
	}
}

Test(follow, nothing_at_random)
{
	struct world_of_one w = setup();
	struct rng rng = {test_seed()};

	for (unsigned i = 0; i < 2000; i++) {
		write_page(w.s, rng_below(&rng, PAGES));
		if (i % TICK == 0)
			cr_assert_eq(space_look(w.s), 0);
	}
	cr_assert_eq(count_owned(w.s, RAM), 0);
	teardown(&w);
}

/* What was written before, and is no part of the walk, is copied too. */
Test(follow, over_pages_that_are_private_already)
{
	struct world_of_one w = setup();

	for (uint64_t p = 100; p < PAGES; p += 100)
		write_page(w.s, p);
	look_and_follow(w.s);
	walk(w.s, 0, PAGES / 2, false);
	cr_assert_geq(count_owned(w.s, RAM), BLOCKS / 2 - 2);
	for (uint64_t p = 0; p < PAGES; p++)
		expect_written(w.s, p, p < PAGES / 2 || p % 100 == 0);
	expect_tags(w.s, 0, RAM, 7);
	teardown(&w);
}

/* A reset brings the image back, and the next walk must prove itself as the first one did. */
Test(follow, reset_and_again)
{
	struct world_of_one w = setup();

	for (unsigned round = 0; round < 3; round++) {
		walk(w.s, 0, PAGES / 2, false);
		cr_assert_geq(count_owned(w.s, RAM), 8);
		cr_assert_eq(space_reset(w.s), 0);
		cr_assert_eq(count_owned(w.s, RAM), 0);
		cr_assert_eq(followed(w.s), 0);
		expect_memory(w.s, 0, 0);
		walk(w.s, PAGES / 2, PAGES / 2 + TICK, false);
		cr_assert_eq(count_owned(w.s, RAM), 0, "once is no proof");
		cr_assert_eq(space_reset(w.s), 0);
		expect_memory(w.s, 0, 0);
	}
	teardown(&w);
}

/* Pages that a reset has kept are not what the guest has written since. */
Test(follow, kept_pages_are_not_new)
{
	struct world_of_one w = setup();

	for (uint64_t p = 0; p < 2 * TICK; p++)
		write_page(w.s, p);
	cr_assert_eq(space_reset(w.s), 0);
	cr_assert_eq(space_look(w.s), 0);
	cr_assert_eq(w.s->follow.history.tick, 0, "nothing has grown");
	for (uint64_t p = 2 * TICK; p < 3 * TICK; p++)
		write_page(w.s, p);
	cr_assert_eq(space_look(w.s), 0);
	cr_assert_eq(w.s->follow.history.tick, 1);
	teardown(&w);
}

/* Half way it is published: the image has it all, and both go on. */
Test(follow, published_half_way)
{
	struct world_of_one w = setup();
	struct image *image;
	struct space *child;

	walk(w.s, 0, PAGES / 2, false);
	cr_assert_geq(count_owned(w.s, RAM), 8);
	image = publish(w.s);
	child = new_clone(w.pool, image, FAULTS_KERNEL);
	walk(w.s, PAGES / 2, PAGES, false);
	cr_assert_geq(count_owned(w.s, RAM), 8, "an image again, and its walks");
	expect_memory(child, 0, PAGES / 2);
	expect_memory(w.s, 0, PAGES);
	walk(child, PAGES / 2, PAGES - 1, true);
	expect_memory(child, 0, PAGES - 1);
	expect_sound(&(struct world){w.pool, (struct space *[]){w.s, child}, 2,
	                             (struct image *[]){w.image, image}, 2});
	space_destroy(child);
	space_destroy(w.s);
	image_put(image);
	image_put(w.image);
	expect_all_gone(w.pool);
}

/* Neither past what may not be written nor where memory has been given back. */
Test(follow, beside_protected_and_discarded_memory)
{
	struct world_of_one w = setup();
	const struct gpa_range closed = {{6 * BLOCK + 9 * PAGE}, PAGE};
	const struct gpa_range gone = {{2 * BLOCK + PAGE}, BLOCK};

	cr_assert_eq(space_protect(w.s, closed, PROTECT_RO), 0);
	cr_assert_eq(space_discard(w.s, gone), 0);
	walk(w.s, 0, 6 * 512, false);
	cr_assert_geq(count_owned(w.s, RAM), 4);
	cr_assert_eq(space_block_state(w.s, closed.start), BLOCK_SHARED);
	for (uint64_t p = 0; p < 7 * 512; p++)
		expect_written(w.s, p, p < 6 * 512);
	expect_tags(w.s, 0, gone.start.v, 7);
	for (uint64_t at = gone.start.v; at < gpa_range_end(gone); at += PAGE)
		cr_assert_eq(guest_load(w.s, at), 0);
	cr_assert_eq(space_discard(w.s, (struct gpa_range){{0}, 4 * BLOCK}), 0);
	expect_zero(w.s, 0, 4 * BLOCK);
	teardown(&w);
}

/* Not one frame beyond the limit, and the pool is not drained. */
Test(follow, within_limits)
{
	for (uint64_t blocks = 0; blocks < 12; blocks += 3) {
		struct world_of_one w = setup_in(4 * RAM, blocks * 512 + 100);
		struct world_of_one tight = setup_in(RAM + blocks * BLOCK, 0);

		walk(w.s, 0, PAGES, false);
		cr_assert_leq(count_owned(w.s, RAM), blocks);
		expect_memory(w.s, 0, PAGES);
		walk(tight.s, 0, PAGES, false);
		cr_assert_leq(count_owned(tight.s, RAM), blocks);
		expect_memory(tight.s, 0, PAGES);
		teardown(&w);
		teardown(&tight);
	}
}

/* No clone, or somebody holds a page: nothing happens. */
Test(follow, not_now)
{
	struct world_of_one w = setup();
	struct space *fresh = new_space(w.pool, 4 * MIB, FAULTS_KERNEL);
	struct hold h;

	cr_assert_not(space_may_follow(fresh));
	cr_assert_eq(space_look(fresh), 0);
	cr_assert_eq(space_follow(fresh, 1), 0);
	space_destroy(fresh);
	cr_assert(space_may_follow(w.s));
	for (unsigned i = 0; i < 2; i++) {
		for (uint64_t p = i * TICK; p < (i + 1) * TICK; p++)
			write_page(w.s, p);
		cr_assert_eq(space_look(w.s), (int)i);
	}
	cr_assert_eq(space_hold(w.s, (gpa_t){0}, PAGE, ACCESS_READ, &h), 0);
	cr_assert_eq(space_follow(w.s, 10), 0,
	             "or who goes on until nothing is left would for ever");
	cr_assert_eq(count_owned(w.s, RAM), 0);
	cr_assert_eq(space_look(w.s), 0, "no reason to stop the guest");
	space_release(&h);
	cr_assert_eq(space_look(w.s), 1, "still to be done");
	cr_assert_eq(space_follow(w.s, 1), 1);
	cr_assert_eq(space_follow(w.s, 10), 0);
	cr_assert_eq(count_owned(w.s, RAM), 2);
	expect_memory(w.s, 0, 2 * TICK);
	teardown(&w);
}

/* Looks that are far apart say nothing: what was scattered is dense by then. */
Test(follow, not_after_a_long_time)
{
	struct world_of_one w = setup();

	for (unsigned round = 0; round < 4; round++) {
		for (uint64_t p = round * 1100; p < (round + 1) * 1100; p++)
			write_page(w.s, p);
		cr_assert_eq(space_look(w.s), 0);
	}
	teardown(&w);
}

/* ---- failures ---- */

/* A look that fails can be had again; what cannot be copied stays as it is. Nothing is lost. */
static bool fail_step(unsigned k, unsigned *met)
{
	struct world_of_one w = setup();
	bool fired;
	int r;

	for (uint64_t p = 200; p < 240; p++)
		write_page(w.s, p);
	cr_assert_eq(space_look(w.s), 0);
	for (uint64_t p = 240; p < 280; p++)
		write_page(w.s, p);
	inject_arm(k);
	r = space_look(w.s);
	if (r > 0)
		cr_assert_eq(space_follow(w.s, 10), 0);
	(void)inject_disarm();
	fired = inject_fired();
	if (fired)
		*met |= 1u << inject_failed_call();
	expect_memory(w.s, 200, 280);
	if (r < 0) {
		cr_assert_eq(count_owned(w.s, RAM), 0);
		cr_assert_eq(space_look(w.s), 1);
		cr_assert_eq(space_follow(w.s, 10), 0);
		cr_assert_eq(count_owned(w.s, RAM), 2);
		expect_memory(w.s, 200, 280);
	}
	cr_assert(fired || count_owned(w.s, RAM) == 2);
	teardown(&w);
	return fired;
}

Test(follow, each_step_fails)
{
	const unsigned must = 1u << INJECT_OPEN | 1u << INJECT_IOCTL | 1u << INJECT_REALLOC |
	                      1u << INJECT_PREAD | 1u << INJECT_MMAP;
	unsigned met = 0;

	for (int plain = 0; plain < 2; plain++) {
		unsigned k = 1;

		inject_plain_pools(plain);
		while (fail_step(k, &met))
			cr_assert_lt(k++, 100);
		cr_assert_geq(k, 8);
	}
	inject_plain_pools(false);
	cr_assert_eq(met & must, must, "met %x", met);
}

/* ---- beside a guest that writes ---- */

/* A guest of two threads, each with a half of memory; between two writes it can be stopped. */
struct guest {
	struct space *s;
	pthread_rwlock_t run; /* read: a thread is in the guest */
	atomic_uint ended;
};

struct half {
	struct guest *g;
	uint64_t from, to;
	bool down;
};

static void *write_half(void *arg)
{
	struct half *h = arg;

	for (uint64_t i = 0; i < h->to - h->from; i++) {
		pthread_rwlock_rdlock(&h->g->run);
		write_page(h->g->s, h->down ? h->to - 1 - i : h->from + i);
		pthread_rwlock_unlock(&h->g->run);
	}
	atomic_fetch_add(&h->g->ended, 1);
	return NULL;
}

Test(follow, beside_two_writers)
{
	for (unsigned round = 0; round < 8 / SLOWDOWN + 1; round++) {
		struct world_of_one w = setup();
		struct guest g = {.s = w.s};
		struct half h[2] = {{&g, 0, PAGES / 2, round & 1},
		                    {&g, PAGES / 2, PAGES, round & 2}};
		pthread_t t[2];

		pthread_rwlock_init(&g.run, NULL);
		for (unsigned i = 0; i < 2; i++)
			cr_assert_eq(pthread_create(&t[i], NULL, write_half, &h[i]), 0);
		while (atomic_load(&g.ended) < 2) {
			if (space_look(w.s) <= 0)
				continue;
			pthread_rwlock_wrlock(&g.run);
			(void)space_follow(w.s, 2);
			pthread_rwlock_unlock(&g.run);
		}
		for (unsigned i = 0; i < 2; i++)
			pthread_join(t[i], NULL);
		pthread_rwlock_destroy(&g.run);
		expect_memory(w.s, 0, PAGES);
		teardown(&w);
	}
}
