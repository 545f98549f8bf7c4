// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_reset.c - reset: each way memory can have been changed, and what goes back where.
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mm/space.h"
#include "mm/space_internal.h"
#include "tests/unit/helpers.h"

TestSuite(reset, .timeout = 120);

#define RAM (8 * MIB)

static void reset(struct space *s)
{
	int e = space_reset(s);

	cr_assert_eq(e, 0, "space_reset: %s", strerror(-e));
}

static void sound(struct pool *pool, struct space *s, struct image *image)
{
	expect_sound(&(struct world){.pool = pool,
	                             .spaces = &s,
	                             .space_count = 1,
	                             .images = &image,
	                             .image_count = image != NULL});
}

/* An image whose every page is tagged; what it was made from is gone. */
static struct image *template(struct pool *pool, uint64_t tag)
{
	struct space *s = new_space(pool, RAM, FAULTS_KERNEL);
	struct image *image;

	tag_pages(s, 0, RAM, tag);
	image = publish(s);
	space_destroy(s);
	return image;
}

/* Through the window, as a guest would read. */
static void expect_guest_tags(struct space *s, uint64_t size, uint64_t tag)
{
	for (uint64_t at = 0; at < size; at += PAGE)
		cr_assert_eq(guest_load(s, at), tag + at / PAGE, "at %#" PRIx64, at);
}

/* Fresh memory is zero again, its memory is the host's again, and it can be used again. */
TEST_BOTH_PATHS(reset, fresh_memory)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, RAM - PAGE, faults);

	for (unsigned round = 0; round < 3; round++) {
		tag_pages(s, 0, 4 * MIB, round);
		for (uint64_t at = 4 * MIB; at < RAM - PAGE; at += 7 * PAGE)
			guest_store(s, at, at + 1);
		reset(s);
		cr_assert_eq(committed_frames(pool), 0);
		cr_assert_eq(used_frames(pool), faults == FAULTS_UFFD ? 0 : 2048);
		sound(pool, s, NULL);
		for (uint64_t at = 0; at < RAM - PAGE; at += PAGE)
			cr_assert_eq(guest_load(s, at), 0);
		sound(pool, s, NULL);
	}
	space_destroy(s);
	expect_all_gone(pool);
}

/* What is counted is counted for whoever uses the space now. */
Test(reset, counters)
{
	struct pool *pool = new_pool(4 * MIB);
	struct space_stats st;
	struct space *s;

	require_path(FAULTS_UFFD);
	s = new_space(pool, RAM, FAULTS_UFFD);
	for (unsigned round = 0; round < 2; round++) {
		guest_store(s, 0, 1);
		guest_store(s, BLOCK, 1);
		cr_assert_eq(space_violation(s, (struct violation){{2 * BLOCK}, ACCESS_WRITE}),
		             OUTCOME_NOMEM);
		cr_assert_eq(space_stats(s, &st), 0);
		cr_assert(st.events == 2 && st.violations == 3 && st.nomem == 1);
		cr_assert_gt(st.windows, 0);
		reset(s);
		cr_assert_eq(space_stats(s, &st), 0);
		cr_assert_eq(st.events + st.violations + st.nomem + st.windows, 0);
	}
	space_destroy(s);
	expect_all_gone(pool);
}

/* Few pages are overwritten and stay; what the statistics say of them is what is there. */
TEST_BOTH_PATHS(reset, few_private_pages_are_copied_back)
{
	struct pool *pool = new_pool(32 * MIB);
	struct image *image = template(pool, 50);
	struct space *s = new_clone(pool, image, faults);
	uint64_t committed = committed_frames(pool);
	struct space_stats st;

	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 100; i++)
			guest_store(s, i * 17 * PAGE + 8 * i, ~UINT64_C(0));
		for (unsigned i = 0; i < 5; i++)
			put(s, 5 * MIB + i * PAGE, 1);
		reset(s);
		cr_assert_eq(space_stats(s, &st), 0);
		cr_assert_eq(st.kept_frames, 105, "they are still memory of this space's");
		cr_assert_eq(st.private_frames, 0, "and nothing it has changed");
		cr_assert_eq(committed_frames(pool), committed);
		expect_guest_tags(s, RAM, 50);
		for (unsigned i = 1; i < 100; i++)
			cr_assert_eq(guest_load(s, i * 17 * PAGE + 8 * i), 0);
		sound(pool, s, image);
	}
	image_put(image);
	space_destroy(s);
	expect_all_gone(pool);
}

/* A snapshot of a space that is used again takes what its present user wrote, no more. */
TEST_BOTH_PATHS(reset, kept_pages_are_not_published)
{
	struct pool *pool = new_pool(32 * MIB);
	struct image *image[2] = {template(pool, 50)};
	struct space *s = new_clone(pool, image[0], faults), *t;
	uint64_t used = used_frames(pool);
	struct space_stats st;
	size_t extents;

	for (unsigned i = 0; i < 460; i++)
		guest_store(s, i * 4 * PAGE + 8, 1);
	for (unsigned i = 0; i < 40; i++)
		guest_store(s, (4 * 460 + i) * PAGE + 8, 1);
	reset(s);
	guest_store(s, 8 * PAGE + 8, 2);
	guest_store(s, 9 * PAGE + 8, 2);
	guest_store(s, (4 * 460 + 20) * PAGE + 8, 2);
	cr_assert_eq(space_stats(s, &st), 0);
	cr_assert_eq(st.private_frames, 3);
	cr_assert_eq(st.kept_frames, 498);
	image[1] = publish(s);
	cr_assert_eq(used_frames(pool), used + 3);
	image_extents(image[1], &extents);
	cr_assert_leq(extents, 4 + 2 + 1 + 2);
	cr_assert_eq(private_frames(s), 0);
	t = new_clone(pool, image[1], faults);
	for (unsigned i = 0; i < 2; i++) {
		struct space *each = i ? t : s;

		expect_guest_tags(each, RAM, 50);
		for (uint64_t page = 0; page < RAM / PAGE; page++)
			cr_assert_eq(guest_load(each, page * PAGE + 8),
			             page == 8 || page == 9 || page == 1860 ? 2 : 0);
	}
	expect_sound(&(struct world){pool, (struct space *[]){s, t}, 2, image, 2});
	image_put(image[0]);
	image_put(image[1]);
	space_destroy(s);
	space_destroy(t);
	expect_all_gone(pool);
}

/* Of many the most are dropped: their memory is the host's again. A long run is dropped whole. */
TEST_BOTH_PATHS(reset, many_private_pages_are_dropped)
{
	struct pool *pool = new_pool(32 * MIB);
	struct image *image = template(pool, 60);
	struct space *s = new_clone(pool, image, faults);
	struct space_stats st;

	for (uint64_t at = 0; at < RAM; at += 2 * PAGE)
		guest_store(s, at, 1);
	cr_assert_eq(private_frames(s), 1024);
	reset(s);
	cr_assert_eq(space_stats(s, &st), 0);
	cr_assert_eq(st.private_frames, 0);
	cr_assert_eq(st.kept_frames, 512, "cost has no step where they become too many");
	expect_guest_tags(s, RAM, 60);
	for (uint64_t at = 0; at < RAM; at += PAGE)
		guest_store(s, at, 1);
	reset(s);
	cr_assert_eq(space_stats(s, &st), 0);
	cr_assert_eq(st.private_frames + st.kept_frames, 0);
	expect_guest_tags(s, RAM, 60);
	sound(pool, s, image);
	image_put(image);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Where the image has nothing, zeros; where it has scraps of a block, the scraps. */
TEST_BOTH_PATHS(reset, image_with_holes)
{
	struct pool *pool = new_pool(32 * MIB);
	struct space *s = new_space(pool, RAM, FAULTS_KERNEL), *t;
	struct image *image = publish(s), *scraps;

	t = new_clone(pool, image, FAULTS_KERNEL);
	for (uint64_t at = 3 * PAGE; at < 4 * MIB; at += 100 * PAGE)
		put(t, at, at);
	scraps = publish(t);
	space_destroy(s);
	space_destroy(t);
	image_put(image);
	s = new_clone(pool, scraps, faults);
	for (unsigned round = 0; round < 3; round++) {
		/* First many, then few. */
		for (uint64_t at = 0; at < RAM; at += (1 + 20 * round) * PAGE)
			put(s, at + 16, at + 1);
		reset(s);
		for (uint64_t at = 0; at < RAM; at += PAGE) {
			bool has = at < 4 * MIB && (at / PAGE) % 100 == 3;

			cr_assert_eq(guest_load(s, at), has ? at : 0, "at %#" PRIx64, at);
			cr_assert_eq(guest_load(s, at + 16), 0);
		}
		sound(pool, s, scraps);
	}
	image_put(scraps);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Siblings, the image and its other clones see nothing of it. */
TEST_BOTH_PATHS(reset, leaves_siblings_alone)
{
	struct pool *pool = new_pool(32 * MIB);
	struct image *image = template(pool, 70);
	struct space *s[2] = {new_clone(pool, image, faults), new_clone(pool, image, faults)};

	for (uint64_t at = 0; at < RAM; at += 3 * PAGE) {
		put(s[0], at, 1);
		put(s[1], at, 2);
	}
	reset(s[0]);
	for (uint64_t at = 0; at < RAM; at += 3 * PAGE)
		cr_assert_eq(guest_load(s[1], at), 2);
	reset(s[1]);
	expect_guest_tags(s[0], RAM, 70);
	expect_guest_tags(s[1], RAM, 70);
	expect_sound(&(struct world){pool, s, 2, &image, 1});
	image_put(image);
	space_destroy(s[0]);
	space_destroy(s[1]);
	expect_all_gone(pool);
}

/* Clone of clone of clone, reset at each level: a space goes back to what it published last. */
TEST_BOTH_PATHS(reset, at_each_level)
{
	struct pool *pool = new_pool(64 * MIB);
	struct image *image[4] = {template(pool, 1000)};
	struct space *s[3];

	for (unsigned i = 0; i < 3; i++) {
		s[i] = new_clone(pool, image[i], faults);
		for (unsigned page = i; page < 2048; page += 5)
			put(s[i], page * PAGE + 8, i + 1);
		image[i + 1] = publish(s[i]);
		for (unsigned page = 0; page < 2048; page += 3)
			put(s[i], page * PAGE + 8, 99);
	}
	for (unsigned i = 0; i < 3; i++) {
		reset(s[i]);
		cr_assert_eq(space_image(s[i]), image[i + 1]);
		for (unsigned page = 0; page < 2048; page++) {
			unsigned by = page % 5;

			cr_assert_eq(guest_load(s[i], page * PAGE), 1000 + page);
			cr_assert_eq(guest_load(s[i], page * PAGE + 8), by <= i ? by + 1 : 0);
		}
	}
	expect_sound(&(struct world){pool, s, 3, image, 4});
	for (unsigned i = 0; i < 4; i++)
		image_put(image[i]);
	for (unsigned i = 0; i < 3; i++)
		space_destroy(s[i]);
	expect_all_gone(pool);
}

/* A clone's blocks beyond its image, its own by uffd, go back to the pool. */
Test(reset, blocks_beyond_the_image_are_given_back)
{
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = new_space(pool, RAM, FAULTS_UFFD);
	struct image *image;
	uint64_t used;

	require_path(FAULTS_UFFD);
	put(s, 0, 5);
	image = publish(s);
	used = used_frames(pool);
	for (uint64_t at = BLOCK; at < RAM; at += PAGE)
		guest_store(s, at, at);
	cr_assert_eq(space_block_state(s, (gpa_t){BLOCK}), BLOCK_OWNED);
	reset(s);
	cr_assert_eq(space_block_state(s, (gpa_t){BLOCK}), BLOCK_EMPTY);
	cr_assert_eq(used_frames(pool), used);
	for (uint64_t at = BLOCK; at < RAM; at += PAGE)
		cr_assert_eq(guest_load(s, at), 0);
	cr_assert_eq(guest_load(s, 0), 5);
	sound(pool, s, image);
	image_put(image);
	space_destroy(s);
	expect_all_gone(pool);
}

/* From a file, as clones of saved images have it. */
TEST_BOTH_PATHS(reset, image_in_a_file)
{
	struct pool *pool = new_pool(16 * MIB);
	struct ram_region ram = ram_at(0, 2 * BLOCK, PAGE_SIZE_AUTO);
	int fd = memfd_create("image", MFD_CLOEXEC);
	struct extent e[2];
	struct image_parts parts = {.ram = &ram, .ram_count = 1, .extents = e, .extent_count = 2};
	struct image *image = NULL;
	struct store *store;
	struct space *s;

	cr_assert_geq(fd, 0);
	for (uint64_t page = 0; page < 512; page++) {
		uint64_t word[PAGE / 8] = {[0] = page + 7};

		cr_assert_eq(pwrite(fd, word, PAGE, (off_t)(page * PAGE)), (ssize_t)PAGE);
	}
	cr_assert_eq(store_open_file(fd, 512 * PAGE, &store), 0);
	e[0] = (struct extent){{0}, 300, {0}, store};
	e[1] = (struct extent){{BLOCK + 5 * PAGE}, 200, {300}, store};
	cr_assert_eq(image_create(&parts, &image), 0);
	store_put(store);
	s = new_clone(pool, image, faults);
	for (unsigned step = 1; step < 30; step += 14) {
		for (uint64_t page = 0; page < 1024; page += step)
			put(s, page * PAGE, 1);
		reset(s);
		for (uint64_t page = 0; page < 1024; page++) {
			uint64_t want = page < 300 ? page + 7 : 0;

			if (page >= 517 && page < 717)
				want = page - 517 + 300 + 7;
			cr_assert_eq(guest_load(s, page * PAGE), want, "page %" PRIu64, page);
		}
		sound(pool, s, image);
	}
	image_put(image);
	space_destroy(s);
	expect_all_gone(pool);
}

TEST_BOTH_PATHS(reset, refused)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, 4 * MIB, faults);
	struct hold h;

	put(s, 0, 3);
	cr_assert_eq(space_hold(s, (gpa_t){0}, 8, ACCESS_READ, &h), 0);
	cr_assert_eq(space_reset(s), -EBUSY);
	cr_assert_eq(get(s, 0), 3);
	space_release(&h);
	reset(s);
	cr_assert_eq(get(s, 0), 0);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Memory the host will not drop is overwritten instead. */
TEST_BOTH_PATHS(reset, locked_memory)
{
	struct pool *pool = new_pool(32 * MIB);
	struct image *image = template(pool, 80);
	struct space *s = new_clone(pool, image, faults);

	expect_tags(s, 0, RAM, 80);
	for (uint64_t at = 0; at < RAM; at += 2 * PAGE)
		put(s, at, 1);
	/* AddressSanitizer makes mlock() do nothing. */
	if (syscall(SYS_mlock, space_hva(s, (gpa_t){0}).v, RAM) < 0)
		cr_skip_test("mlock: %s", strerror(errno));
	reset(s);
	cr_assert_geq(private_frames(s), 1024);
	expect_guest_tags(s, RAM, 80);
	sound(pool, s, image);
	image_put(image);
	space_destroy(s);
	expect_all_gone(pool);
}

/* A space at its limit has it all to use again. */
Test(reset, out_of_frames)
{
	struct pool *pool = new_pool(4 * MIB);
	struct space *s;

	require_path(FAULTS_UFFD);
	s = new_space(pool, RAM, FAULTS_UFFD);
	for (unsigned round = 0; round < 3; round++) {
		uint64_t at = round * BLOCK;
		struct violation v = {{at + 4 * MIB}, ACCESS_WRITE};

		put(s, at, 1);
		put(s, at + BLOCK, 2);
		v.gpa.v %= RAM;
		cr_assert_eq(space_violation(s, v), OUTCOME_NOMEM);
		reset(s);
		cr_assert_eq(used_frames(pool), 0);
	}
	expect_zero(s, 0, 4 * MIB);
	space_destroy(s);
	expect_all_gone(pool);
}

/* After a reset a fresh space can be published and cloned as if nothing had been. */
TEST_BOTH_PATHS(reset, publish_after_reset)
{
	struct pool *pool = new_pool(32 * MIB);
	struct image *image = template(pool, 90), *again;
	struct space *s = new_clone(pool, image, faults), *t;

	put(s, 3 * PAGE, 1);
	reset(s);
	put(s, 4 * PAGE + 8, 2);
	again = publish(s);
	t = new_clone(pool, again, faults);
	expect_guest_tags(t, RAM, 90);
	cr_assert_eq(guest_load(t, 4 * PAGE + 8), 2);
	expect_sound(&(struct world){pool, (struct space *[]){s, t}, 2,
	                             (struct image *[]){image, again}, 2});
	image_put(image);
	image_put(again);
	space_destroy(s);
	space_destroy(t);
	expect_all_gone(pool);
}
