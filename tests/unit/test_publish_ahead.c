// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_publish_ahead.c - what is done for a publish while the guest runs, or in stops of
 * its own: no byte changes, no frame is lost, and the publish has less to do.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "mm/space.h"
#include "mm/space_internal.h"
#include "tests/unit/helpers.h"

TestSuite(publish_ahead, .timeout = 120);

#define RAM (16 * MIB)

/* A clone of tagged memory that has written all of blocks 1 to 5, and a page of each other. */
static struct space *busy_clone(struct pool *pool, enum fault_choice faults, struct image **image)
{
	struct space *parent = new_space(pool, RAM, faults), *s;

	tag_pages(parent, 0, RAM, 7);
	*image = publish(parent);
	s = new_clone(pool, *image, faults);
	space_destroy(parent);
	tag_pages(s, BLOCK, 5 * BLOCK, 7000);
	guest_store(s, 8, 1);
	guest_store(s, 6 * BLOCK + 8, 6);
	guest_store(s, 7 * BLOCK + 8, 7);
	return s;
}

static void expect_busy(struct space *s)
{
	expect_tags(s, 0, BLOCK, 7);
	expect_tags(s, BLOCK, 5 * BLOCK, 7000);
	expect_tags(s, 6 * BLOCK, 2 * BLOCK, 7);
	cr_assert_eq(guest_load(s, 8), 1);
	cr_assert_eq(guest_load(s, 6 * BLOCK + 8), 6);
	cr_assert_eq(guest_load(s, 7 * BLOCK + 8), 7);
}

/* Publish, look at the image through a clone, take all down. */
static void finish(struct pool *pool, struct space *s, struct image *image, uint64_t frames)
{
	struct image *images[2] = {image, publish(s)};
	struct space *spaces[2] = {s, new_clone(pool, images[1], FAULTS_KERNEL)};

	cr_assert_eq(used_frames(pool), frames);
	expect_busy(spaces[0]);
	expect_busy(spaces[1]);
	expect_sound(&(struct world){pool, spaces, 2, images, 2});
	for (unsigned i = 0; i < 2; i++) {
		space_destroy(spaces[i]);
		image_put(images[i]);
	}
	expect_all_gone(pool);
}

/* The frames that were brought in are those that are used, and all of them. */
TEST_BOTH_PATHS(publish_ahead, frames_are_used)
{
	struct pool *pool = new_pool(64 * MIB);
	struct image *image;
	struct space *s = busy_clone(pool, faults, &image);
	uint64_t used = used_frames(pool);

	cr_assert_eq(space_publish_ahead(s), 5);
	/* Five blocks, and three pages in packs of two and one. */
	cr_assert_eq(used_frames(pool), used + 5 * 512 + 3);
	cr_assert_eq(space_publish_ahead(s), 5);
	cr_assert_eq(used_frames(pool), used + 5 * 512 + 3);
	expect_busy(s);
	expect_sound(&(struct world){pool, &s, 1, &image, 1});
	finish(pool, s, image, used + 5 * 512 + 3);
}

/* A few blocks at a time, contents as they were; what is owned is written to freely. */
TEST_BOTH_PATHS(publish_ahead, copied_in_parts)
{
	struct pool *pool = new_pool(64 * MIB);
	struct image *image;
	struct space *s = busy_clone(pool, faults, &image);
	uint64_t used = used_frames(pool);

	for (unsigned left = 5; left > 0; left -= left > 1 ? 2 : 1) {
		cr_assert_eq(space_publish_ahead(s), (int)left);
		cr_assert_eq(space_copy_ahead(s, 2), 0);
		expect_busy(s);
		expect_sound(&(struct world){pool, &s, 1, &image, 1});
	}
	cr_assert_eq(count_owned(s, RAM), 5);
	cr_assert_eq(space_publish_ahead(s), 0);
	guest_store(s, 2 * BLOCK + 8, 1);
	cr_assert_eq(private_frames(s), 3);
	finish(pool, s, image, used + 5 * 512 + 3);
}

/* Without frames beforehand it is done all the same. */
/* A fresh space that has been published finds its image under blocks it has copied since. */
TEST_BOTH_PATHS(publish_ahead, copied_then_reset)
{
	struct pool *pool = new_pool(4 * RAM);
	struct space *s = new_space(pool, RAM, faults);
	struct image *image;

	tag_pages(s, 0, RAM, 7);
	image = publish(s);
	tag_pages(s, BLOCK, 2 * BLOCK, 7000);
	cr_assert_eq(space_copy_ahead(s, 8), 0);
	cr_assert_eq(space_block_state(s, (gpa_t){BLOCK}), BLOCK_OWNED);
	cr_assert_eq(space_reset(s), 0);
	expect_tags(s, 0, RAM, 7);
	expect_sound(&(struct world){pool, &s, 1, &image, 1});
	image_put(image);
	space_destroy(s);
	expect_all_gone(pool);
}

Test(publish_ahead, copied_without_spares)
{
	struct pool *pool = new_pool(64 * MIB);
	struct image *image;
	struct space *s = busy_clone(pool, FAULTS_KERNEL, &image);
	uint64_t used = used_frames(pool);

	cr_assert_eq(space_copy_ahead(s, 0), 0);
	cr_assert_eq(count_owned(s, RAM), 0);
	cr_assert_eq(space_copy_ahead(s, 100), 0);
	cr_assert_eq(count_owned(s, RAM), 5);
	finish(pool, s, image, used + 5 * 512 + 3);
}

/* What was brought in and not needed after all goes back. */
Test(publish_ahead, not_needed)
{
	struct pool *pool = new_pool(64 * MIB);
	struct image *image;
	struct space *s = busy_clone(pool, FAULTS_KERNEL, &image);
	uint64_t used = used_frames(pool);
	struct image *again;

	cr_assert_eq(space_publish_ahead(s), 5);
	cr_assert_eq(space_reset(s), 0);
	expect_tags(s, 0, RAM, 7);
	again = publish(s);
	cr_assert_leq(used_frames(pool), used);
	image_put(again);
	tag_pages(s, BLOCK, 5 * BLOCK, 7000);
	cr_assert_eq(space_publish_ahead(s), 5);
	space_destroy(s);
	image_put(image);
	expect_all_gone(pool);
}

/* Frames for what must be packed come first; a pool without any leaves all to the publish. */
Test(publish_ahead, small_pools)
{
	for (uint64_t spare = 0; spare <= 6; spare++) {
		struct pool *pool = new_pool(RAM + spare * BLOCK);
		struct image *image, *out;
		struct space *s = busy_clone(pool, FAULTS_KERNEL, &image);
		int r;

		cr_assert_eq(space_publish_ahead(s), 5);
		expect_busy(s);
		r = space_publish(s, NULL, 0, &out);
		cr_assert_eq(r, spare < 6 ? -ENOMEM : 0, "%lu: %d", spare, r);
		expect_busy(s);
		if (r == 0)
			image_put(out);
		space_destroy(s);
		image_put(image);
		expect_all_gone(pool);
	}
}

Test(publish_ahead, refused)
{
	struct pool *pool = new_pool(64 * MIB);
	struct ram_region ram = ram_at(0, RAM, PAGE_SIZE_AUTO);
	void *memory = mmap(NULL, RAM + BLOCK, PROT_READ | PROT_WRITE,
	                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct space_config c = {.pool = pool, .ram = &ram, .ram_count = 1};
	struct space *s;
	struct hold h;

	cr_assert_neq(memory, MAP_FAILED);
	c.memory = (void *)(uintptr_t)align_up((uintptr_t)memory, BLOCK);
	s = make_space(&c);
	cr_assert_eq(space_publish_ahead(s), -ENOTSUP);
	cr_assert_eq(space_copy_ahead(s, 1), -ENOTSUP);
	cr_assert_eq(space_share_ahead(s), -ENOTSUP);
	space_destroy(s);
	munmap(memory, RAM + BLOCK);
	s = new_space(pool, RAM, FAULTS_KERNEL);
	cr_assert_eq(space_publish_ahead(s), 0);
	cr_assert_eq(space_hold(s, (gpa_t){0}, PAGE, ACCESS_READ, &h), 0);
	cr_assert_eq(space_publish_ahead(s), 0);
	cr_assert_eq(space_copy_ahead(s, 1), -EBUSY);
	space_release(&h);
	cr_assert_eq(space_copy_ahead(s, 1), 0);
	space_destroy(s);
	expect_all_gone(pool);
}

/* ---- beside a guest that writes, and each other ---- */

struct beside {
	struct space *s;
	atomic_bool stop;
};

static void *write_on(void *arg)
{
	struct beside *b = arg;

	for (uint64_t i = 1; !atomic_load(&b->stop); i++)
		for (uint64_t at = 0; at < RAM; at += PAGE)
			guest_store(b->s, at + 16, i);
	return NULL;
}

static void *look_ahead(void *arg)
{
	struct beside *b = arg;

	while (!atomic_load(&b->stop))
		cr_assert_geq(space_publish_ahead(b->s), 0);
	return NULL;
}

TEST_BOTH_PATHS(publish_ahead, beside_a_writer)
{
	struct pool *pool = new_pool(128 * MIB);
	struct space *s = new_space(pool, RAM, faults);
	struct beside writer, looks = {s, false};
	pthread_t w, l[2];
	struct image *image = NULL;

	tag_pages(s, 0, RAM, 3);
	for (unsigned i = 0; i < 2; i++)
		cr_assert_eq(pthread_create(&l[i], NULL, look_ahead, &looks), 0);
	for (unsigned i = 0; i < 20 / SLOWDOWN + 2; i++) {
		writer = (struct beside){s, false};
		cr_assert_eq(pthread_create(&w, NULL, write_on, &writer), 0);
		cr_assert_geq(space_publish_ahead(s), 0);
		atomic_store(&writer.stop, true);
		pthread_join(w, NULL);
		cr_assert_eq(space_copy_ahead(s, i % 4), 0);
		image_put(image);
		image = publish(s);
		expect_tags(s, 0, RAM, 3);
	}
	atomic_store(&looks.stop, true);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(l[i], NULL);
	expect_sound(&(struct world){pool, &s, 1, &image, 1});
	space_destroy(s);
	image_put(image);
	expect_all_gone(pool);
}
