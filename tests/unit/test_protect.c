// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_protect.c - permissions down to a page, and ranges taken away.
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>

#include "mm/space.h"
#include "mm/space_internal.h"
#include "tests/unit/helpers.h"

TestSuite(protect, .timeout = 120);

#define RAM (8 * MIB)

static void protect(struct space *s, uint64_t start, uint64_t size, enum protection p)
{
	int e = space_protect(s, (struct gpa_range){{start}, size}, p);

	cr_assert_eq(e, 0, "space_protect: %s", strerror(-e));
}

static void sound(struct pool *pool, struct space *s, struct image *image)
{
	expect_sound(&(struct world){.pool = pool,
	                             .spaces = &s,
	                             .space_count = 1,
	                             .images = &image,
	                             .image_count = image != NULL});
}

/* --- accesses that the window refuses -------------------------------------------------------- */

static sigjmp_buf out;

static void on_fault(int signal)
{
	siglongjmp(out, signal);
}

/* Return: true when the access passed. */
static bool access_passes(struct space *s, uint64_t gpa, bool write)
{
	const struct sigaction sa = {.sa_handler = on_fault};
	struct sigaction old;
	volatile bool passed = false;

	cr_assert_eq(sigaction(SIGSEGV, &sa, &old), 0);
	if (sigsetjmp(out, 1) == 0) {
		volatile uint8_t *at = (volatile uint8_t *)space_hva(s, (gpa_t){gpa}).v;

		if (write)
			*at = *at;
		else
			(void)*at;
		passed = true;
	}
	cr_assert_eq(sigaction(SIGSEGV, &old, NULL), 0);
	return passed;
}

/* All three ways agree on what protection `p` permits at `gpa`. */
static void expect_protection(struct space *s, uint64_t gpa, enum protection p)
{
	const struct violation read = {{gpa}, ACCESS_READ}, write = {{gpa}, ACCESS_WRITE};
	enum outcome no = p == PROTECT_UNMAPPED ? OUTCOME_MMIO : OUTCOME_DENIED;
	int refused = p == PROTECT_UNMAPPED ? -EFAULT : -EACCES;
	bool r = p == PROTECT_RW || p == PROTECT_RO, w = p == PROTECT_RW;
	uint64_t stop;
	uint8_t b = 0;

	cr_assert_eq(space_protection(s, (gpa_t){gpa}, gpa + 1, &stop), p);
	cr_assert_eq(space_violation(s, read), r ? OUTCOME_RESOLVED : no, "at %#" PRIx64, gpa);
	cr_assert_eq(space_violation(s, write), w ? OUTCOME_RESOLVED : no);
	cr_assert_eq(space_read(s, (gpa_t){gpa}, &b, 1), r ? 0 : refused);
	if (!w)
		cr_assert_eq(space_write(s, (gpa_t){gpa}, &b, 1), refused);
	cr_assert_eq(access_passes(s, gpa, false), r, "read at %#" PRIx64, gpa);
	cr_assert_eq(access_passes(s, gpa, true), w, "write at %#" PRIx64, gpa);
}

/* RO, none and back, page by page and over the edges of blocks; contents and neighbours stay. */
static void check_cycles(struct space *s, uint64_t tag)
{
	static const struct {
		uint64_t start, size;
	} ranges[] = {{5 * PAGE, PAGE},
	              {BLOCK - PAGE, 2 * PAGE},
	              {BLOCK, BLOCK},
	              {7 * PAGE, 3 * BLOCK},
	              {0, RAM}};
	static const enum protection kinds[] = {PROTECT_RO, PROTECT_NONE, PROTECT_RO, PROTECT_RW};

	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		uint64_t start = ranges[i].start, end = start + ranges[i].size;

		for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
			protect(s, start, end - start, kinds[k]);
			expect_protection(s, start, kinds[k]);
			expect_protection(s, end - 1, kinds[k]);
			if (start > 0)
				expect_protection(s, start - 1, PROTECT_RW);
			if (end < RAM)
				expect_protection(s, end, PROTECT_RW);
		}
		expect_tags(s, 0, RAM, tag);
		cr_assert_eq(s->guard.count, 0);
	}
}

TEST_BOTH_PATHS(protect, owned_memory)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, RAM, faults);

	tag_pages(s, 0, RAM, 10);
	check_cycles(s, 10);
	sound(pool, s, NULL);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Write access given back to shared frames reaches a private copy, never the frames. */
TEST_BOTH_PATHS(protect, shared_memory)
{
	struct pool *pool = new_pool(32 * MIB);
	struct space *s = new_space(pool, RAM, FAULTS_KERNEL), *clone;
	struct image *image;

	tag_pages(s, 0, RAM, 20);
	image = publish(s);
	clone = new_clone(pool, image, faults);
	check_cycles(clone, 20);
	protect(clone, 0, RAM, PROTECT_RO);
	protect(clone, 0, RAM, PROTECT_RW);
	for (uint64_t at = 0; at < RAM; at += PAGE)
		guest_store(clone, at, 1);
	expect_tags(s, 0, RAM, 20);
	expect_sound(&(struct world){pool, (struct space *[]){s, clone}, 2, &image, 1});
	image_put(image);
	space_destroy(s);
	space_destroy(clone);
	expect_all_gone(pool);
}

/* Memory nothing has touched yet: zeros, and no frames but for blocks protected in part. */
TEST_BOTH_PATHS(protect, untouched_memory)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, RAM, faults);

	protect(s, 2 * MIB, 4 * MIB, PROTECT_NONE);
	cr_assert_eq(used_frames(pool), faults == FAULTS_UFFD ? 0 : RAM / PAGE);
	protect(s, 2 * MIB, 4 * MIB, PROTECT_RO);
	expect_protection(s, 3 * MIB, PROTECT_RO);
	expect_zero(s, 0, RAM);
	protect(s, 7 * MIB, PAGE, PROTECT_RO);
	expect_protection(s, 7 * MIB, PROTECT_RO);
	expect_protection(s, 7 * MIB + PAGE, PROTECT_RW);
	expect_protection(s, 7 * MIB - PAGE, PROTECT_RW);
	sound(pool, s, NULL);
	space_destroy(s);
	expect_all_gone(pool);
}

/* What cannot be read is published all the same, and stays as it was protected. */
TEST_BOTH_PATHS(protect, publish_and_reset)
{
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = new_space(pool, RAM, faults), *clone;
	struct image *image[2];

	tag_pages(s, 0, RAM, 30);
	protect(s, PAGE, 10 * PAGE, PROTECT_NONE);
	protect(s, BLOCK + 3 * PAGE, BLOCK, PROTECT_RO);
	image[0] = publish(s);
	expect_protection(s, PAGE, PROTECT_NONE);
	expect_protection(s, BLOCK + 3 * PAGE, PROTECT_RO);
	expect_protection(s, 2 * BLOCK + 3 * PAGE, PROTECT_RW);
	clone = new_clone(pool, image[0], faults);
	expect_tags(clone, 0, RAM, 30);
	for (uint64_t page = 0; page < 40; page++)
		put(clone, page * PAGE, 1000 + page);
	protect(clone, 4 * PAGE, 3 * PAGE, PROTECT_NONE);
	protect(clone, 20 * PAGE, 3 * PAGE, PROTECT_RO);
	image[1] = publish(clone);
	protect(clone, 4 * PAGE, 3 * PAGE, PROTECT_RW);
	for (uint64_t page = 0; page < 40; page++)
		cr_assert_eq(get(clone, page * PAGE), 1000 + page);
	put(clone, 6 * PAGE, 5);
	protect(clone, 6 * PAGE, PAGE, PROTECT_NONE);
	put(clone, 9 * PAGE, 6);
	cr_assert_eq(space_reset(clone), 0);
	expect_protection(clone, 6 * PAGE, PROTECT_NONE);
	protect(clone, 6 * PAGE, PAGE, PROTECT_RW);
	for (uint64_t page = 0; page < 40; page++)
		cr_assert_eq(guest_load(clone, page * PAGE), 1000 + page);
	expect_sound(&(struct world){pool, (struct space *[]){s, clone}, 2, image, 2});
	image_put(image[0]);
	image_put(image[1]);
	space_destroy(s);
	space_destroy(clone);
	expect_all_gone(pool);
}

TEST_BOTH_PATHS(protect, reset_of_fresh_memory)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, RAM, faults);

	tag_pages(s, 0, RAM, 40);
	protect(s, 3 * PAGE, PAGE, PROTECT_NONE);
	protect(s, BLOCK, BLOCK, PROTECT_RO);
	for (unsigned round = 0; round < 2; round++) {
		cr_assert_eq(space_reset(s), 0);
		expect_protection(s, 3 * PAGE, PROTECT_NONE);
		expect_protection(s, BLOCK, PROTECT_RO);
		expect_zero(s, 0, 3 * PAGE);
		expect_zero(s, 4 * PAGE, RAM - 4 * PAGE);
		put(s, 0, 1);
	}
	sound(pool, s, NULL);
	space_destroy(s);
	expect_all_gone(pool);
}

/* A write that meets a forbidden page anywhere changes nothing. */
TEST_BOTH_PATHS(protect, accesses_that_cross)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, RAM, faults);
	uint8_t buf[4 * PAGE];
	struct hold h;

	memset(buf, 0xaa, sizeof(buf));
	protect(s, 3 * PAGE, PAGE, PROTECT_RO);
	cr_assert_eq(space_write(s, (gpa_t){0}, buf, sizeof(buf)), -EACCES);
	expect_zero(s, 0, 4 * PAGE);
	cr_assert_eq(space_write(s, (gpa_t){0}, buf, 3 * PAGE), 0);
	cr_assert_eq(space_read(s, (gpa_t){0}, buf, sizeof(buf)), 0);
	cr_assert_eq(space_hold(s, (gpa_t){2 * PAGE}, 2 * PAGE, ACCESS_WRITE, &h), -EACCES);
	cr_assert_eq(space_hold(s, (gpa_t){2 * PAGE}, 2 * PAGE, ACCESS_READ, &h), 0);
	cr_assert_eq(space_protect(s, (struct gpa_range){{0}, PAGE}, PROTECT_RO), -EBUSY);
	space_release(&h);
	cr_assert_eq(space_discard(s, (struct gpa_range){{2 * PAGE}, 2 * PAGE}), -EACCES);
	cr_assert_eq(get(s, 2 * PAGE), UINT64_C(0xaaaaaaaaaaaaaaaa));
	space_destroy(s);
	expect_all_gone(pool);
}

/* --- unmapping ------------------------------------------------------------------------------- */

static void unmap(struct space *s, uint64_t start, uint64_t size)
{
	int e = space_unmap(s, (struct gpa_range){{start}, size});

	cr_assert_eq(e, 0, "space_unmap: %s", strerror(-e));
}

/* A part of a 2 MiB block goes, its memory with it; the rest of the block stays. */
TEST_BOTH_PATHS(protect, unmap_owned)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, RAM, faults), *clone;
	struct image *image;

	tag_pages(s, 0, RAM, 50);
	unmap(s, 5 * PAGE, 3 * PAGE);
	unmap(s, BLOCK, 2 * BLOCK);
	cr_assert_eq(committed_frames(pool), RAM / PAGE - 3 - 1024);
	expect_protection(s, 5 * PAGE, PROTECT_UNMAPPED);
	expect_protection(s, 3 * BLOCK - 1, PROTECT_UNMAPPED);
	expect_tags(s, 0, 5 * PAGE, 50);
	expect_tags(s, 8 * PAGE, BLOCK - 8 * PAGE, 50);
	cr_assert_eq(space_protect(s, (struct gpa_range){{4 * PAGE}, 2 * PAGE}, PROTECT_RW),
	             -EFAULT, "for good");
	cr_assert_eq(space_unmap(s, (struct gpa_range){{5 * PAGE}, PAGE}), -EFAULT);
	sound(pool, s, NULL);
	image = publish(s);
	expect_protection(s, 5 * PAGE, PROTECT_UNMAPPED);
	clone = new_clone(pool, image, faults);
	expect_zero(clone, 5 * PAGE, 3 * PAGE);
	expect_zero(clone, BLOCK, 2 * BLOCK);
	cr_assert_eq(get(clone, 8 * PAGE), 58);
	cr_assert_eq(space_reset(s), 0);
	expect_protection(s, BLOCK, PROTECT_UNMAPPED);
	image_put(image);
	space_destroy(s);
	space_destroy(clone);
	expect_all_gone(pool);
}

/* Of a clone: neither a reset nor an image made later brings back what its image has there. */
TEST_BOTH_PATHS(protect, unmap_shared)
{
	struct pool *pool = new_pool(32 * MIB);
	struct space *s = new_space(pool, RAM, FAULTS_KERNEL), *clone, *child;
	struct image *image[2];

	tag_pages(s, 0, RAM, 60);
	image[0] = publish(s);
	clone = new_clone(pool, image[0], faults);
	put(clone, 6 * PAGE, 1);
	protect(clone, 7 * PAGE, PAGE, PROTECT_NONE);
	unmap(clone, 5 * PAGE, 3 * PAGE);
	cr_assert_eq(private_frames(clone), 0);
	cr_assert_eq(space_reset(clone), 0);
	expect_protection(clone, 5 * PAGE, PROTECT_UNMAPPED);
	expect_protection(clone, 7 * PAGE, PROTECT_UNMAPPED);
	image[1] = publish(clone);
	child = new_clone(pool, image[1], faults);
	expect_zero(child, 5 * PAGE, 3 * PAGE);
	expect_tags(child, 8 * PAGE, RAM - 8 * PAGE, 60);
	expect_tags(s, 0, RAM, 60);
	expect_sound(&(struct world){pool, (struct space *[]){s, clone, child}, 3, image, 2});
	image_put(image[0]);
	image_put(image[1]);
	space_destroy(s);
	space_destroy(clone);
	space_destroy(child);
	expect_all_gone(pool);
}

Test(protect, refused)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, 4 * MIB + PAGE, FAULTS_KERNEL);
	static const struct {
		uint64_t start, size;
		int want;
	} bad[] = {{0, 0, -EINVAL},
	           {8, PAGE, -EINVAL},
	           {0, 8, -EINVAL},
	           {4 * MIB, 2 * PAGE, -EFAULT},
	           {GIB, PAGE, -EFAULT}};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct gpa_range r = {{bad[i].start}, bad[i].size};

		cr_assert_eq(space_protect(s, r, PROTECT_RO), bad[i].want);
		cr_assert_eq(space_unmap(s, r), bad[i].want);
	}
	cr_assert_eq(space_protect(s, (struct gpa_range){{0}, PAGE}, PROTECT_UNMAPPED), -EINVAL);
	space_destroy(s);
	expect_all_gone(pool);
}
