// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_space.c - spaces: regions and their ends, limits, the VMM's own access, reports.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "mm/space.h"
#include "mm/space_internal.h"
#include "tests/unit/helpers.h"

TestSuite(space, .timeout = 60);

TEST_BOTH_PATHS(space, fresh_memory_reads_zero)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, 8 * MIB, faults);

	expect_zero(s, 0, 8 * MIB);
	for (uint64_t a = 0; a < 8 * MIB; a += PAGE)
		cr_assert_eq(guest_load(s, a + 8), 0);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

TEST_BOTH_PATHS(space, what_is_written_is_read)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, 8 * MIB, faults);

	tag_pages(s, 0, 4 * MIB, 1000);
	for (uint64_t a = 4 * MIB; a < 8 * MIB; a += PAGE)
		guest_store(s, a, 1000 + a / PAGE);
	expect_tags(s, 0, 8 * MIB, 1000);
	for (uint64_t a = 0; a < 8 * MIB; a += PAGE)
		cr_assert_eq(guest_load(s, a), 1000 + a / PAGE);
	cr_assert_eq(space_block_state(s, (gpa_t){5 * MIB}), BLOCK_OWNED);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Frames another space has dirtied come back as zeros. */
TEST_BOTH_PATHS(space, recycled_frames_read_zero)
{
	struct pool *pool = new_pool(8 * MIB);

	for (unsigned round = 0; round < 4; round++) {
		struct space *s = new_space(pool, 8 * MIB, faults);

		expect_zero(s, 0, 8 * MIB);
		tag_pages(s, 0, 8 * MIB, 7);
		space_destroy(s);
	}
	expect_all_gone(pool);
}

/* --- sizes and ends -------------------------------------------------------------------------- */

static void check_end(struct space *s, uint64_t start, uint64_t size)
{
	uint8_t b = 0x77, back[2];

	cr_assert_eq(space_write(s, (gpa_t){start + size - 1}, &b, 1), 0, "the last byte");
	cr_assert_eq(space_read(s, (gpa_t){start + size - 1}, back, 1), 0);
	cr_assert_eq(back[0], 0x77);
	cr_assert_eq(space_read(s, (gpa_t){start + size - 1}, back, 2), -EFAULT, "one too far");
	cr_assert_eq(space_read(s, (gpa_t){start + size}, back, 1), -EFAULT);
	cr_assert_eq(space_violation(s, (struct violation){{start + size - 1}, ACCESS_WRITE}),
	             OUTCOME_RESOLVED);
	cr_assert_eq(space_violation(s, (struct violation){{start + size}, ACCESS_READ}),
	             OUTCOME_MMIO);
	cr_assert_eq(space_block_state(s, (gpa_t){start + size}), BLOCK_EMPTY);
}

/* Sizes that end inside a block: whole memory, its last byte, publish and clone of it. */
TEST_BOTH_PATHS(space, odd_sizes)
{
	static const uint64_t sizes[] = {PAGE,  3 * PAGE,     BLOCK - PAGE,
	                                 BLOCK, BLOCK + PAGE, 5 * MIB + 3 * PAGE};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct pool *pool = new_pool(16 * MIB);
		struct space *s = new_space(pool, sizes[i], faults), *clone;
		struct image *image;

		expect_zero(s, 0, sizes[i]);
		tag_pages(s, 0, sizes[i], 5);
		check_end(s, 0, sizes[i]);
		expect_sound_alone(pool, s);
		image = publish(s);
		cr_assert_eq(image_pages(image), sizes[i] / PAGE);
		clone = new_clone(pool, image, faults);
		expect_tags(clone, 0, sizes[i], 5);
		check_end(clone, 0, sizes[i]);
		image_put(image);
		space_destroy(s);
		expect_sound_alone(pool, clone);
		space_destroy(clone);
		expect_all_gone(pool);
	}
}

/* RAM below 3 GiB and from 4 GiB on, as a PC has it. */
TEST_BOTH_PATHS(space, two_regions_with_a_gap)
{
	struct pool *pool = new_pool(4 * GIB);
	struct ram_region ram[] = {ram_at(0, 3 * GIB, PAGE_SIZE_AUTO),
	                           ram_at(4 * GIB, 3 * MIB + PAGE, PAGE_SIZE_AUTO)};
	struct space *s = make_space(
		&(struct space_config){.pool = pool, .ram = ram, .ram_count = 2, .faults = faults});
	uint64_t buf[1024] = {1, 2, 3};

	check_end(s, 0, 3 * GIB);
	check_end(s, 4 * GIB, 3 * MIB + PAGE);
	cr_assert_eq(space_write(s, (gpa_t){4 * GIB - 8}, buf, 16), -EFAULT);
	cr_assert_eq(space_write(s, (gpa_t){3 * GIB - 8}, buf, 16), -EFAULT);
	cr_assert_eq(get(s, 3 * GIB - 8), UINT64_C(0x77) << 56, "nothing was copied");
	put(s, 4 * GIB, 42);
	cr_assert_eq(guest_load(s, 4 * GIB), 42);
	cr_assert_eq(space_hva(s, (gpa_t){4 * GIB}).v - space_hva(s, (gpa_t){0}).v, 4 * GIB);
	cr_assert_eq(space_gpa(s, space_hva(s, (gpa_t){4 * GIB + 5})).v, 4 * GIB + 5);
	cr_assert(is_aligned(space_hva(s, (gpa_t){0}).v, BLOCK));
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Regions that touch are one run for a copy, and two for a hold. */
TEST_BOTH_PATHS(space, copies_cross_blocks_and_regions)
{
	struct pool *pool = new_pool(32 * MIB);
	struct ram_region ram[] = {ram_at(0, 4 * MIB, PAGE_SIZE_AUTO),
	                           ram_at(4 * MIB, 4 * MIB, PAGE_SIZE_4K),
	                           ram_at(8 * MIB, 2 * MIB + PAGE, PAGE_SIZE_AUTO)};
	struct space *s = make_space(
		&(struct space_config){.pool = pool, .ram = ram, .ram_count = 3, .faults = faults});
	size_t size = 10 * MIB + PAGE - 3 - 5, count;
	uint8_t *out = malloc(size), *in = malloc(size);
	struct rng rng = {3};
	struct hold h;

	cr_assert(in && out);
	for (size_t i = 0; i < size; i++)
		out[i] = (uint8_t)rng_next(&rng);
	cr_assert_eq(space_write(s, (gpa_t){3}, out, size), 0);
	cr_assert_eq(space_read(s, (gpa_t){3}, in, size), 0);
	cr_assert_eq(memcmp(in, out, size), 0);
	cr_assert_eq(get(s, 10 * MIB + PAGE - 8) >> 24, 0, "the tail was not touched");
	cr_assert_eq(space_hold(s, (gpa_t){4 * MIB - 10}, 100, ACCESS_READ, &h), 0);
	cr_assert_eq(h.size, 10, "a hold ends with its region");
	cr_assert_eq(memcmp(h.ptr, out + 4 * MIB - 13, 10), 0);
	space_release(&h);
	space_ram(s, &count);
	cr_assert_eq(count, 3);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
	free(in);
	free(out);
}

/* --- what is refused ------------------------------------------------------------------------- */

static int try_create(const struct space_config *c)
{
	struct space *s = NULL;
	int e = space_create(c, &s);

	if (e == 0)
		space_destroy(s);
	return e;
}

TEST_BOTH_PATHS(space, refuses_bad_configs)
{
	struct pool *pool = new_pool(16 * MIB);
	struct ram_region r[2] = {ram_at(0, 2 * MIB, PAGE_SIZE_AUTO),
	                          ram_at(4 * MIB, 2 * MIB, PAGE_SIZE_AUTO)};
	struct space_config c = {.pool = pool, .ram = r, .ram_count = 2, .faults = faults};
	struct space *s;
	struct image *image;

	cr_assert_eq(try_create(&c), 0);
	c.ram_count = 0;
	cr_assert_eq(try_create(&c), -EINVAL);
	c.ram_count = 2;
	r[1].range.start.v = 4 * MIB + PAGE;
	cr_assert_eq(try_create(&c), -EINVAL);
	r[1].range.start.v = 0;
	cr_assert_eq(try_create(&c), -EINVAL);
	r[1] = (struct ram_region){{{4 * MIB}, 100}, PAGE_SIZE_AUTO};
	cr_assert_eq(try_create(&c), -EINVAL);
	r[1] = (struct ram_region){{{4 * MIB}, 3 * PAGE}, PAGE_SIZE_2M};
	cr_assert_eq(try_create(&c), -EINVAL);
	r[1] = (struct ram_region){{{4 * MIB}, GIB}, PAGE_SIZE_1G};
	cr_assert_eq(try_create(&c), -EINVAL);
	r[1] = (struct ram_region){{{GIB}, GIB + BLOCK}, PAGE_SIZE_1G};
	cr_assert_eq(try_create(&c), -EINVAL);
	r[1] = ram_at(UINT64_C(1) << 51, 2 * MIB, PAGE_SIZE_AUTO);
	cr_assert_eq(try_create(&c), -ENOMEM, "no host has a window that large");
	c.ram_count = 1;
	s = make_space(&c);
	image = publish(s);
	c.image = image;
	c.populate = true;
	cr_assert_eq(try_create(&c), -EINVAL);
	image_put(image);
	space_destroy(s);
	expect_all_gone(pool);
}

Test(space, destroy_takes_null)
{
	space_destroy(NULL);
}

Test(space, every_outcome_has_a_name)
{
	cr_assert_str_eq(outcome_name(OUTCOME_RESOLVED), "resolved");
	cr_assert_str_eq(outcome_name(OUTCOME_RETRY), "retry");
	cr_assert_str_eq(outcome_name(OUTCOME_MMIO), "mmio");
	cr_assert_str_eq(outcome_name(OUTCOME_DENIED), "denied");
	cr_assert_str_eq(outcome_name(OUTCOME_NOMEM), "nomem");
}

/* The kernel path needs all its frames at once; a pool or a limit too small is said at once. */
Test(space, kernel_path_wants_its_frames_at_creation)
{
	struct pool *pool = new_pool(4 * MIB);
	struct ram_region ram = ram_at(0, 6 * MIB, PAGE_SIZE_AUTO);
	struct space_config c = {
		.pool = pool, .ram = &ram, .ram_count = 1, .faults = FAULTS_KERNEL};

	cr_assert_eq(try_create(&c), -ENOMEM);
	cr_assert_eq(used_frames(pool), 0);
	ram.range.size = 4 * MIB;
	c.limit_frames = 1023;
	cr_assert_eq(try_create(&c), -ENOMEM);
	c.limit_frames = 1024;
	cr_assert_eq(try_create(&c), 0);
	expect_all_gone(pool);
}

/* --- populate -------------------------------------------------------------------------------- */

TEST_BOTH_PATHS(space, populate_gives_every_page)
{
	struct pool *pool = new_pool(16 * MIB);
	struct ram_region ram = ram_at(0, 5 * MIB + PAGE, PAGE_SIZE_4K);
	struct space_config c = {
		.pool = pool, .ram = &ram, .ram_count = 1, .faults = faults, .populate = true};
	struct space *s = make_space(&c);
	struct space_stats st;

	cr_assert_eq(committed_frames(pool), ram.range.size / PAGE);
	expect_zero(s, 0, ram.range.size);
	for (uint64_t a = 0; a < ram.range.size; a += PAGE)
		guest_store(s, a, a);
	cr_assert_eq(space_stats(s, &st), 0);
	cr_assert_eq(st.events, 0, "no violation is left");
	cr_assert_eq(st.owned_frames, 3 * 512);
	cr_assert_eq(st.owned_committed, ram.range.size / PAGE);
	cr_assert_eq(st.huge_blocks, 0, "4 KiB pages were asked for");
	expect_sound_alone(pool, s);
	space_destroy(s);
	ram.range.size = 32 * MIB;
	cr_assert_eq(try_create(&c), -ENOMEM, "all or nothing");
	expect_all_gone(pool);
}

/* --- limits ---------------------------------------------------------------------------------- */

static enum outcome touch(struct space *s, uint64_t gpa)
{
	return space_violation(s, (struct violation){{gpa}, ACCESS_WRITE});
}

Test(space, limit_is_kept_and_can_be_raised)
{
	struct pool *pool = new_pool(32 * MIB);
	struct ram_region ram = ram_at(0, 8 * MIB, PAGE_SIZE_AUTO);
	struct space *s;
	struct space_stats st;
	uint64_t v = 9;

	require_path(FAULTS_UFFD);
	s = make_space(&(struct space_config){.pool = pool,
	                                      .ram = &ram,
	                                      .ram_count = 1,
	                                      .faults = FAULTS_UFFD,
	                                      .limit_frames = 1024});
	put(s, 0, 1);
	put(s, 6 * MIB, 2);
	cr_assert_eq(touch(s, 2 * MIB), OUTCOME_NOMEM);
	cr_assert_eq(space_write(s, (gpa_t){4 * MIB}, &v, 8), -ENOMEM);
	cr_assert_eq(space_block_state(s, (gpa_t){2 * MIB}), BLOCK_EMPTY);
	cr_assert_eq(touch(s, 0), OUTCOME_RESOLVED, "what is there stays usable");
	cr_assert_eq(used_frames(pool), 1024);
	expect_sound_alone(pool, s);
	cr_assert_eq(space_stats(s, &st), 0);
	cr_assert_geq(st.nomem, 2);
	space_resume(s, 1536);
	cr_assert_eq(touch(s, 2 * MIB), OUTCOME_RESOLVED);
	cr_assert_eq(space_write(s, (gpa_t){4 * MIB}, &v, 8), -ENOMEM);
	space_resume(s, 0);
	cr_assert_eq(space_write(s, (gpa_t){4 * MIB}, &v, 8), -ENOMEM, "0 keeps the limit");
	space_resume(s, 2048);
	cr_assert_eq(space_write(s, (gpa_t){4 * MIB}, &v, 8), 0);
	cr_assert_eq(get(s, 0), 1);
	cr_assert_eq(get(s, 6 * MIB), 2);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Two spaces, one pool: what the first gives back the second can have. */
Test(space, pool_exhausted_and_refilled)
{
	struct pool *pool = new_pool(4 * MIB);
	struct space *a, *b;

	require_path(FAULTS_UFFD);
	a = new_space(pool, 4 * MIB, FAULTS_UFFD);
	b = new_space(pool, 4 * MIB, FAULTS_UFFD);
	put(a, 0, 1);
	put(b, 0, 2);
	cr_assert_eq(touch(a, 2 * MIB), OUTCOME_NOMEM);
	cr_assert_eq(touch(b, 2 * MIB), OUTCOME_NOMEM);
	cr_assert_eq(get(b, 0), 2);
	space_destroy(a);
	cr_assert_eq(touch(b, 2 * MIB), OUTCOME_RESOLVED);
	cr_assert_eq(get(b, 2 * MIB), 0, "a's frames, zeroed");
	space_destroy(b);
	expect_all_gone(pool);
}

/* --- the choice of a path -------------------------------------------------------------------- */

static void expect_path(const struct space_config *c, const char *want)
{
	struct space *s = make_space(c);
	struct space_stats st;

	cr_assert_eq(space_stats(s, &st), 0);
	cr_assert_str_eq(st.fault_path, want, "%s: %s", st.fault_path, st.fault_why);
	cr_assert_gt(strlen(st.fault_why), 0);
	space_destroy(s);
}

Test(space, auto_chooses_by_rule)
{
	struct pool *pool = new_pool(64 * MIB);
	struct ram_region ram = ram_at(0, 8 * MIB, PAGE_SIZE_AUTO);
	struct space_config c = {.pool = pool, .ram = &ram, .ram_count = 1};
	struct space *s;

	require_path(FAULTS_UFFD);
	expect_path(&c, "uffd");
	c.populate = true;
	expect_path(&c, "kernel");
	c.populate = false;
	c.limit_frames = 2048;
	expect_path(&c, "uffd");
	s = make_space(&c);
	c.image = publish(s);
	expect_path(&c, "kernel");
	c.limit_frames = 2047;
	expect_path(&c, "uffd");
	c.limit_frames = 0;
	c.faults = FAULTS_UFFD;
	expect_path(&c, "uffd");
	c.faults = FAULTS_KERNEL;
	expect_path(&c, "kernel");
	image_put(c.image);
	space_destroy(s);
	expect_all_gone(pool);
}

/* --- holds ----------------------------------------------------------------------------------- */

TEST_BOTH_PATHS(space, holds)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, 5 * MIB, faults);
	struct image *image;
	struct hold a, b;

	cr_assert_eq(space_hold(s, (gpa_t){0}, 0, ACCESS_READ, &a), -EINVAL);
	cr_assert_eq(space_hold(s, (gpa_t){5 * MIB}, 1, ACCESS_READ, &a), -EFAULT);
	cr_assert_eq(space_hold(s, (gpa_t){MIB}, 3 * MIB, ACCESS_WRITE, &a), 0);
	cr_assert_eq(a.size, 3 * MIB);
	memset(a.ptr, 0x11, a.size);
	cr_assert_eq(space_hold(s, (gpa_t){4 * MIB}, 100 * MIB, ACCESS_READ, &b), 0);
	cr_assert_eq(b.size, MIB, "up to the region's end");
	cr_assert_eq(first_nonzero(b.ptr, b.size), b.size);
	cr_assert_eq(space_publish(s, NULL, 0, &image), -EBUSY);
	space_release(&a);
	cr_assert_null(a.ptr);
	cr_assert_eq(space_publish(s, NULL, 0, &image), -EBUSY, "one is still out");
	space_release(&b);
	image = publish(s);
	cr_assert_eq(get(s, MIB), UINT64_C(0x1111111111111111));
	image_put(image);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* A hold that could not be had leaves no trace. */
Test(space, failed_hold_is_not_held)
{
	struct pool *pool = new_pool(2 * MIB);
	struct space *s;
	struct image *image;
	struct hold h;

	require_path(FAULTS_UFFD);
	s = new_space(pool, 8 * MIB, FAULTS_UFFD);
	cr_assert_eq(space_hold(s, (gpa_t){MIB}, 2 * MIB, ACCESS_WRITE, &h), -ENOMEM);
	image = publish(s);
	image_put(image);
	space_destroy(s);
	expect_all_gone(pool);
}

/* --- reports --------------------------------------------------------------------------------- */

TEST_BOTH_PATHS(space, statistics)
{
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = new_space(pool, 8 * MIB, faults), *clone;
	struct space_stats st;
	struct image *image;

	tag_pages(s, 0, 8 * MIB, 1);
	cr_assert_eq(space_stats(s, &st), 0);
	cr_assert_eq(st.owned_frames, 2048);
	cr_assert_eq(st.owned_committed, 2048);
	cr_assert_eq(st.shared_frames, 0);
	cr_assert_eq(st.private_frames, 0);
	cr_assert_gt(st.windows, 0);
	image = publish(s);
	clone = new_clone(pool, image, faults);
	for (unsigned i = 0; i < 10; i++)
		put(clone, i * 3 * PAGE + MIB, i);
	cr_assert_eq(space_stats(clone, &st), 0);
	cr_assert_eq(st.owned_frames, 0);
	cr_assert_eq(st.shared_frames, 2048);
	cr_assert_eq(st.private_frames, 10);
	cr_assert_eq(st.huge_blocks, 0);
	image_put(image);
	space_destroy(s);
	space_destroy(clone);
	expect_all_gone(pool);
}

/* The audit sees what is wrong: each planted error is reported. */
Test(space, audit_finds_planted_errors)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, 4 * MIB, FAULTS_KERNEL);
	struct block keep = s->blocks[1];

	cr_assert_eq(space_audit(s), 0);
	s->owned_frames += 512;
	cr_assert_eq(space_audit(s), -EUCLEAN);
	s->owned_frames -= 512;
	s->blocks[1].state = 77;
	cr_assert_eq(space_audit(s), -EUCLEAN);
	s->blocks[1].state = BLOCK_EMPTY;
	cr_assert_eq(space_audit(s), -EUCLEAN);
	s->blocks[1] = keep;
	s->blocks[1].frame.n++;
	cr_assert_eq(space_audit(s), -EUCLEAN);
	s->blocks[1] = keep;
	cr_assert_eq(pool_ref(pool, keep.frame), 0);
	cr_assert_eq(space_audit(s), -EUCLEAN, "shared with somebody");
	pool_unref(pool, keep.frame);
	cr_assert_eq(space_audit(s), 0);
	space_destroy(s);
	expect_all_gone(pool);
}
