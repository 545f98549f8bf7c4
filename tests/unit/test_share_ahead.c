// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_share_ahead.c - blocks that change hands while the guest runs: no byte changes,
 * nothing that is written meanwhile is lost, and a publish finds all of it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "mm/space.h"
#include "mm/space_internal.h"
#include "tests/unit/helpers.h"
#include "tests/unit/inject.h"

TestSuite(share_ahead, .timeout = 120);

#define BLOCKS 8u
#define RAM    (BLOCKS * BLOCK)

/* Publish, and look at it through a clone; take all down. */
static void finish(struct pool *pool, struct space *s, uint64_t tag)
{
	struct image *image = publish(s);
	struct space *spaces[2] = {s, new_clone(pool, image, FAULTS_KERNEL)};

	for (unsigned i = 0; i < 2; i++)
		expect_tags(spaces[i], 0, RAM, tag);
	expect_sound(&(struct world){pool, spaces, 2, &image, 1});
	for (unsigned i = 0; i < 2; i++)
		space_destroy(spaces[i]);
	image_put(image);
	expect_all_gone(pool);
}

/* All of it, once; what is written afterwards is private and what is published. */
TEST_BOTH_PATHS(share_ahead, all)
{
	struct pool *pool = new_pool(4 * RAM);
	struct space *s = new_space(pool, RAM, faults);
	uint64_t used;

	tag_pages(s, 0, RAM, 7);
	used = used_frames(pool);
	cr_assert_eq(space_share_ahead(s), 0);
	cr_assert_eq(count_owned(s, RAM), 0);
	cr_assert_eq(used_frames(pool), used);
	expect_tags(s, 0, RAM, 7);
	expect_sound_alone(pool, s);
	guest_store(s, 3 * BLOCK + 8, 1);
	cr_assert_eq(private_frames(s), 1);
	cr_assert_eq(space_share_ahead(s), 0, "there is an image now");
	cr_assert_eq(private_frames(s), 1);
	tag_pages(s, 3 * BLOCK, BLOCK, 70000);
	tag_pages(s, 3 * BLOCK, BLOCK, 7);
	finish(pool, s, 7);
}

/* Not what was never touched, what still raises violations, nor what is protected. */
Test(share_ahead, what_may)
{
	struct pool *pool = new_pool(4 * RAM);
	struct space *s;
	struct image *image;

	require_path(FAULTS_UFFD);
	s = new_space(pool, RAM, FAULTS_UFFD);
	tag_pages(s, 0, 4 * BLOCK, 7);
	guest_store(s, 5 * BLOCK, 5); /* a cluster, or more, of this block */
	cr_assert_eq(space_protect(s, (struct gpa_range){{2 * BLOCK + 8 * PAGE}, PAGE}, PROTECT_RO),
	             0);
	lock_take(&s->lock);
	s->blocks[5].partial = true;
	lock_drop(&s->lock);
	cr_assert_eq(space_share_ahead(s), 0);
	for (unsigned i = 0; i < BLOCKS; i++) {
		enum block_state is = space_block_state(s, (gpa_t){i * BLOCK});

		if (i < 4 && i != 2)
			cr_assert_eq(is, BLOCK_SHARED, "block %u", i);
		else
			cr_assert_neq(is, BLOCK_SHARED, "block %u", i);
	}
	expect_tags(s, 0, 4 * BLOCK, 7);
	cr_assert_eq(guest_load(s, 5 * BLOCK), 5);
	guest_store(s, 7 * BLOCK, 7);
	guest_store(s, 2 * BLOCK + 8, 2);
	cr_assert_eq(space_write(s, (gpa_t){2 * BLOCK + 8 * PAGE}, "x", 1), -EACCES);
	expect_sound_alone(pool, s);
	image = publish(s);
	cr_assert_eq(guest_load(s, 7 * BLOCK), 7);
	cr_assert_eq(guest_load(s, 2 * BLOCK + 8), 2);
	expect_tags(s, 0, 4 * BLOCK, 7);
	expect_sound(&(struct world){pool, &s, 1, &image, 1});
	image_put(image);
	space_destroy(s);
	expect_all_gone(pool);
}

/* What was given to the kernel and never touched stays its own, and so what it counts. */
Test(share_ahead, untouched_grants)
{
	struct pool *pool = new_pool(4 * RAM);
	struct space *s = new_space(pool, RAM, FAULTS_KERNEL);
	struct space_use use;

	for (unsigned i = 0; i < BLOCKS; i += 2)
		guest_store(s, i * BLOCK + 5 * PAGE, i + 1);
	cr_assert_eq(count_owned(s, RAM), BLOCKS);
	cr_assert_eq(space_share_ahead(s), 0);
	for (unsigned i = 0; i < BLOCKS; i++)
		cr_assert_eq(space_block_state(s, (gpa_t){i * BLOCK}),
		             i % 2 ? BLOCK_OWNED : BLOCK_SHARED);
	guest_store(s, 8, 1);
	guest_store(s, 3 * BLOCK, 3);
	cr_assert_eq(space_use(s, &use), 0);
	cr_assert_eq(use.owned_frames, BLOCKS / 2 * MM_BLOCK_PAGES);
	cr_assert_eq(use.copied_frames, 1);
	expect_sound_alone(pool, s);
	cr_assert_eq(space_discard(s, (struct gpa_range){{0}, 2 * BLOCK}), 0);
	expect_zero(s, 0, 2 * BLOCK);
	cr_assert_eq(guest_load(s, 2 * BLOCK + 5 * PAGE), 3);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* A publish needs no frame for what is a space's own; it must not need some because of this. */
Test(share_ahead, pool_without_room)
{
	struct pool *pool = new_pool(RAM);
	struct space *s = new_space(pool, RAM, FAULTS_KERNEL);

	tag_pages(s, 0, RAM, 7);
	cr_assert_eq(space_share_ahead(s), 0);
	cr_assert_eq(count_owned(s, RAM), BLOCKS);
	guest_store(s, 0, 7);
	finish(pool, s, 7);
}

/* One with an image, or with a hold, is left alone. */
Test(share_ahead, left_alone)
{
	struct pool *pool = new_pool(4 * RAM);
	struct space *s = new_space(pool, RAM, FAULTS_KERNEL);
	struct hold h;

	tag_pages(s, 0, RAM, 7);
	cr_assert_eq(space_hold(s, (gpa_t){0}, PAGE, ACCESS_READ, &h), 0);
	cr_assert_eq(space_share_ahead(s), -EBUSY);
	cr_assert_eq(count_owned(s, RAM), BLOCKS);
	space_release(&h);
	image_put(publish(s));
	tag_pages(s, 0, RAM, 8);
	cr_assert_eq(space_copy_ahead(s, 100), 0);
	cr_assert_eq(count_owned(s, RAM), BLOCKS, "copied whole");
	cr_assert_eq(space_share_ahead(s), 0);
	cr_assert_eq(count_owned(s, RAM), BLOCKS);
	finish(pool, s, 8);
}

/* The k-th step fails: what has changed hands has, the rest is as it was, and all has its bytes. */
TEST_BOTH_PATHS(share_ahead, each_step_fails)
{
	const struct gpa_range cut = {{2 * BLOCK}, PAGE};
	unsigned met = 0, parts = 0;
	bool fired = true;

	for (unsigned k = 1; fired; k++) {
		struct pool *pool = new_pool(4 * RAM);
		struct space *s = new_space(pool, RAM, faults);
		unsigned left;
		int r;

		tag_pages(s, 0, RAM, 7);
		/* Protected, it makes two runs of what is around it. */
		cr_assert_eq(space_protect(s, cut, PROTECT_RO), 0);
		inject_arm(k);
		r = space_share_ahead(s);
		inject_disarm();
		fired = inject_fired();
		cr_assert_eq(r, fired ? -ENOMEM : 0, "step %u: %d", k, r);
		if (fired)
			met |= 1u << inject_failed_call();
		left = count_owned(s, RAM);
		cr_assert(fired || left == 1);
		cr_assert_eq(space_image(s) != NULL, left < BLOCKS);
		if (left == BLOCKS) {
			cr_assert_eq(space_share_ahead(s), 0, "it can be tried again");
			cr_assert_eq(count_owned(s, RAM), 1);
		}
		parts += fired && left < BLOCKS;
		cr_assert_eq(space_protect(s, cut, PROTECT_RW), 0);
		expect_sound_alone(pool, s);
		expect_tags(s, 0, RAM, 7);
		tag_pages(s, 0, RAM, 8);
		expect_sound_alone(pool, s);
		finish(pool, s, 8);
	}
	cr_assert(met & 1u << INJECT_MALLOC && met & 1u << INJECT_CALLOC && met & 1u << INJECT_MMAP,
	          "met %x", met);
	cr_assert_geq(parts, 1, "a part was shared");
}

/* ---- beside a guest that writes ---- */

struct writer {
	struct space *s;
	_Atomic bool stop;
	uint64_t done; /* stores; its own until it has ended */
	pthread_t thread;
};

static uint64_t place_of(uint64_t n)
{
	return n * 37 % (RAM / PAGE) * PAGE + 16;
}

/* The n-th store is n, at a page of its own, round after round. */
static void *write_on(void *arg)
{
	struct writer *w = arg;

	while (!atomic_load(&w->stop)) {
		guest_store(w->s, place_of(w->done), w->done);
		w->done++;
	}
	return NULL;
}

/* Every store before the stop is in the guest and in the image, and none is older than a round. */
static void expect_stores(struct space *s, uint64_t done)
{
	uint64_t pages = RAM / PAGE, from = done > pages ? done - pages : 0;

	for (uint64_t n = from; n < done; n++)
		cr_assert_eq(guest_load(s, place_of(n)), n);
}

TEST_BOTH_PATHS(share_ahead, beside_a_writer)
{
	for (unsigned i = 0; i < 20 / SLOWDOWN + 2; i++) {
		struct pool *pool = new_pool(4 * RAM);
		struct space *s = new_space(pool, RAM, faults), *clone;
		struct writer w = {.s = s};
		struct image *image;

		tag_pages(s, 0, RAM, 7);
		cr_assert_eq(pthread_create(&w.thread, NULL, write_on, &w), 0);
		while (guest_load(s, place_of(100 + i)) < 100)
			;
		cr_assert_eq(space_share_ahead(s), 0);
		cr_assert_geq(space_publish_ahead(s), 0);
		atomic_store(&w.stop, true);
		pthread_join(w.thread, NULL);
		image = publish(s);
		clone = new_clone(pool, image, FAULTS_KERNEL);
		expect_stores(s, w.done);
		expect_stores(clone, w.done);
		expect_tags(clone, 0, RAM, 7);
		expect_sound(&(struct world){pool, (struct space *[]){s, clone}, 2, &image, 1});
		space_destroy(s);
		space_destroy(clone);
		image_put(image);
		expect_all_gone(pool);
	}
}
