// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_limit.c - limits: of what a space has copied, and of a pool that several share.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mm/space.h"
#include "tests/unit/helpers.h"
#include "tests/unit/inject.h"

#define RAM   (8 * MIB)
#define PAGES (RAM / PAGE)
#define TAG   700u

struct bed {
	struct pool *pool;
	struct image *image;
	struct space *s;
};

/* A clone of an image that has the first `used` bytes. */
static struct bed make_bed(uint64_t used, enum fault_choice faults, uint64_t limit, bool own_faults)
{
	struct bed b = {.pool = new_pool(64 * MIB)};
	struct ram_region ram = ram_at(0, RAM, PAGE_SIZE_AUTO);
	/* No more frames than that: what is given ahead would be the image's. */
	struct space *s = make_space(
		&(struct space_config){.pool = b.pool,
	                               .ram = &ram,
	                               .ram_count = 1,
	                               .limit_frames = used / PAGE,
	                               .faults = used < RAM ? FAULTS_UFFD : FAULTS_KERNEL});
	struct space_config c = {.pool = b.pool,
	                         .faults = faults,
	                         .limit_frames = limit,
	                         .limit_copies = true,
	                         .own_faults = own_faults};

	tag_pages(s, 0, used, TAG);
	b.image = publish(s);
	space_destroy(s);
	c.image = b.image;
	b.s = make_space(&c);
	return b;
}

static void check_bed(const struct bed *b)
{
	expect_sound(&(struct world){.pool = b->pool,
	                             .spaces = &b->s,
	                             .space_count = 1,
	                             .images = &b->image,
	                             .image_count = 1});
}

static void free_bed(struct bed *b)
{
	check_bed(b);
	image_put(b->image);
	space_destroy(b->s);
	expect_all_gone(b->pool);
}

/* As a vCPU: the kernel copies the page. */
static void copy_page(struct space *s, uint64_t page)
{
	guest_store(s, page * PAGE + 8, ~page);
}

static void copy_pages(struct space *s, uint64_t first, uint64_t end)
{
	for (uint64_t i = first; i < end; i++)
		copy_page(s, i);
}

static struct space_use use_of(struct space *s)
{
	struct space_use use;

	cr_assert_eq(space_use(s, &use), 0);
	return use;
}

/* space_check_limit(). Return: how often private pages were looked for. */
static unsigned looks(struct space *s, int want)
{
	unsigned before;
	int e;

	inject_arm(0);
	before = inject_reached(INJECT_OPEN);
	e = space_check_limit(s);
	before = inject_reached(INJECT_OPEN) - before;
	inject_disarm();
	cr_assert_eq(e, want);
	return before;
}

static void wait_ms(long ms)
{
	const struct timespec nap = {.tv_nsec = ms * 1000000};

	nanosleep(&nap, NULL);
}

/* ---- copies ---- */

/* To the page: at the limit is within, one more is over; within again when pages are given back. */
TEST_BOTH_PATHS(limit, copies_to_the_page)
{
	struct bed b = make_bed(RAM, faults, 256, true);
	struct space_stats stats;

	for (uint64_t i = 0; i < 256; i++) {
		cr_assert_eq(space_check_limit(b.s), 0, "with %lu pages", i);
		copy_page(b.s, 7 * i);
	}
	cr_assert_eq(space_check_limit(b.s), 0);
	copy_page(b.s, 7 * 256);
	cr_assert_eq(space_check_limit(b.s), -ENOMEM);
	cr_assert_eq(space_check_limit(b.s), -ENOMEM, "it stays so");
	cr_assert_eq(use_of(b.s).copied_frames, 257);
	cr_assert_eq(use_of(b.s).owned_frames, 0);
	cr_assert_eq(use_of(b.s).limit_frames, 256);
	cr_assert(use_of(b.s).counts_copies);
	cr_assert_eq(space_stats(b.s, &stats), 0);
	cr_assert_str_eq(stats.fault_path, faults == FAULTS_UFFD ? "uffd" : "kernel");
	space_resume(b.s, 257);
	cr_assert_eq(space_check_limit(b.s), 0);
	space_resume(b.s, 10);
	cr_assert_eq(space_check_limit(b.s), -ENOMEM);
	cr_assert_eq(space_discard(b.s, (struct gpa_range){{0}, 7 * 247 * PAGE}), 0);
	cr_assert_eq(space_check_limit(b.s), 0);
	copy_page(b.s, 0);
	cr_assert_eq(space_check_limit(b.s), -ENOMEM);
	free_bed(&b);
}

/* A clone with a limit needs no decisions of ours; without its copies counted it does. */
Test(limit, which_path)
{
	struct bed b = make_bed(RAM, FAULTS_AUTO, 256, true);
	struct space_config c = {.pool = b.pool, .image = b.image, .limit_frames = 256};
	struct space_stats stats;
	struct space *other;

	cr_assert_eq(space_stats(b.s, &stats), 0);
	cr_assert_str_eq(stats.fault_path, "kernel");
	require_path(FAULTS_UFFD);
	other = make_space(&c);
	cr_assert_eq(space_stats(other, &stats), 0);
	cr_assert_str_eq(stats.fault_path, "uffd");
	copy_pages(other, 0, PAGES);
	cr_assert_eq(space_check_limit(other), 0, "copies are not its business");
	cr_assert_not(use_of(other).counts_copies);
	space_destroy(other);
	free_bed(&b);
}

/* Nobody looks at page tables before there may be too many; reading is no copying. */
Test(limit, looks_when_it_must)
{
	struct bed b = make_bed(RAM, FAULTS_KERNEL, 1024, true);
	unsigned n = 0;

	cr_assert_eq(space_check_limit(b.s), 0);
	for (unsigned i = 0; i < 1000; i++)
		n += looks(b.s, 0);
	cr_assert_leq(n, 2, "%u looks, and nothing was done", n);
	copy_pages(b.s, 0, 200);
	cr_assert_leq(looks(b.s, 0), 1);
	for (uint64_t i = 0; i < PAGES; i++)
		(void)guest_load(b.s, i * PAGE);
	cr_assert_leq(looks(b.s, 0), 1);
	cr_assert_eq(use_of(b.s).copied_frames, 200);
	/* 800 pages one by one, a check after each: the bound halves what is left, at worst. */
	n = 0;
	for (uint64_t i = 200; i < 1024; i++) {
		copy_page(b.s, i);
		n += looks(b.s, 0);
	}
	cr_assert_leq(n, 30 * SLOWDOWN, "%u looks", n);
	copy_page(b.s, 1024);
	cr_assert_eq(looks(b.s, -ENOMEM), 1);
	free_bed(&b);
}

static void *copy_many(void *arg)
{
	copy_pages(arg, 0, 400);
	return NULL;
}

/* Whoever of the process faults, also one that is gone since. */
Test(limit, copies_of_other_threads)
{
	struct bed b = make_bed(RAM, FAULTS_KERNEL, 399, true);
	pthread_t thread;

	cr_assert_eq(space_check_limit(b.s), 0);
	cr_assert_eq(pthread_create(&thread, NULL, copy_many, b.s), 0);
	cr_assert_eq(pthread_join(thread, NULL), 0);
	cr_assert_eq(space_check_limit(b.s), -ENOMEM);
	free_bed(&b);
}

/* Another process writes our memory: its faults, our pages. As a thread of the kernel's might. */
static bool copy_from_outside(struct space *s, uint64_t pages)
{
	pid_t parent = getpid(), pid = fork();
	uint64_t value = 5;
	int status;

	cr_assert_geq(pid, 0);
	if (pid == 0) {
		for (uint64_t i = 0; i < pages; i++) {
			struct iovec here = {&value, sizeof(value)};
			struct iovec there = {(void *)space_hva(s, (gpa_t){i * PAGE}).v,
			                      sizeof(value)};

			if (process_vm_writev(parent, &here, 1, &there, 1, 0) < 0)
				_exit(1);
		}
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return status == 0;
}

Test(limit, copies_that_others_make)
{
	struct bed b = make_bed(RAM, FAULTS_KERNEL, 1500, false);
	int e = 0;

	cr_assert_eq(space_check_limit(b.s), 0);
	if (!copy_from_outside(b.s, 1501))
		cr_skip_test("this process's memory cannot be written from outside");
	for (unsigned i = 0; e == 0 && i < 10; i++) {
		e = space_check_limit(b.s);
		wait_ms(50);
	}
	cr_assert_eq(e, -ENOMEM);
	free_bed(&b);
}

/* Pages that a reset has kept are no use; written to again, without any fault, they are. */
Test(limit, kept_pages)
{
	struct bed b = make_bed(RAM, FAULTS_KERNEL, 400, true);
	struct space_stats stats;

	copy_pages(b.s, 0, 90);
	cr_assert_eq(space_reset(b.s), 0);
	cr_assert_eq(space_stats(b.s, &stats), 0);
	cr_assert_eq(stats.kept_frames, 90);
	cr_assert_eq(use_of(b.s).copied_frames, 0);
	/* 90 of these are there already. */
	copy_pages(b.s, 0, 400);
	cr_assert_eq(space_check_limit(b.s), 0);
	cr_assert_eq(use_of(b.s).copied_frames, 400);
	copy_page(b.s, 400);
	cr_assert_eq(space_check_limit(b.s), -ENOMEM);
	/* Little is kept beside the limit, so that most checks are decided by the bound. */
	cr_assert_eq(space_reset(b.s), 0);
	cr_assert_eq(space_stats(b.s, &stats), 0);
	cr_assert_leq(stats.kept_frames, 100);
	cr_assert_eq(space_check_limit(b.s), 0);
	/* Others than those, up to the limit. */
	copy_pages(b.s, 1000, 1400);
	cr_assert_eq(space_check_limit(b.s), 0);
	copy_page(b.s, 0);
	cr_assert_eq(space_check_limit(b.s), -ENOMEM, "no fault, and yet one more");
	free_bed(&b);
}

/* ---- copies and frames together ---- */

static enum outcome violate(struct space *s, uint64_t block)
{
	return space_violation(s, (struct violation){{block * BLOCK}, ACCESS_WRITE});
}

/* An image of one block, 300 pages of it copied, the rest of RAM empty and asked of us. */
static struct bed make_mixed(uint64_t limit)
{
	struct bed b = make_bed(BLOCK, FAULTS_UFFD, limit, true);

	cr_assert_eq(violate(b.s, 0), OUTCOME_RESOLVED);
	copy_pages(b.s, 0, 300);
	return b;
}

/* Frames are handed out as long as they and the copies fit, to the frame. */
Test(limit, frames_beside_copies)
{
	struct bed b;

	require_path(FAULTS_UFFD);
	b = make_mixed(300 + 512);
	cr_assert_eq(violate(b.s, 1), OUTCOME_RESOLVED);
	cr_assert_eq(use_of(b.s).owned_frames, 512);
	cr_assert_eq(use_of(b.s).copied_frames, 300);
	/* The block that was granted and not touched would be taken back, so it is. */
	put(b.s, BLOCK, 1);
	cr_assert_eq(space_check_limit(b.s), 0, "at the limit");
	cr_assert_eq(violate(b.s, 2), OUTCOME_NOMEM);
	check_bed(&b);
	space_resume(b.s, 300 + 1023);
	cr_assert_eq(violate(b.s, 2), OUTCOME_NOMEM, "one frame is missing");
	space_resume(b.s, 300 + 1024);
	cr_assert_eq(violate(b.s, 2), OUTCOME_RESOLVED);
	put(b.s, 2 * BLOCK, 2);
	copy_page(b.s, 300);
	cr_assert_eq(space_check_limit(b.s), -ENOMEM);
	/* What it gives back may be had as frames. */
	cr_assert_eq(violate(b.s, 3), OUTCOME_NOMEM);
	cr_assert_eq(space_discard(b.s, (struct gpa_range){{0}, 301 * PAGE}), 0);
	cr_assert_eq(space_check_limit(b.s), 0);
	space_resume(b.s, 1536);
	cr_assert_eq(violate(b.s, 3), OUTCOME_RESOLVED);
	cr_assert_eq(get(b.s, BLOCK), 1);
	cr_assert_eq(get(b.s, 2 * BLOCK), 2);
	free_bed(&b);
}

/* A block that was left to the kernel and of which it has filled some. */
static uint64_t first_left(struct space *s)
{
	struct space_mapping m;
	gpa_t at = {0};

	while (space_next(s, &at, &m) == 0)
		if (m.state == BLOCK_SHARED && m.is_private)
			return m.range.start.v & ~(BLOCK - 1);
	cr_assert(false, "no block was left to the kernel");
	return 0;
}

/* Memory behind a range that is the kernel's to fill: all of it fits, or nothing changes. */
Test(limit, populate)
{
	const uint64_t size = 128 * MIB, pages = size / PAGE;
	struct pool *pool = new_pool(2 * size);
	struct ram_region ram = ram_at(0, size, PAGE_SIZE_AUTO);
	struct space_config c = {.pool = pool,
	                         .ram = &ram,
	                         .ram_count = 1,
	                         .faults = FAULTS_UFFD,
	                         .limit_copies = true,
	                         .own_faults = true};
	struct space *s;
	uint64_t left;

	require_path(FAULTS_UFFD);
	s = make_space(&c);
	/* Scattered touches: neighbourhoods are left to the kernel. */
	for (uint64_t i = 0; i < 60; i++)
		guest_store(s, (i * 7919 % pages) * PAGE, i);
	cr_assert_gt(use_of(s).copied_frames, 0);
	left = first_left(s);
	space_resume(s, use_of(s).owned_frames + use_of(s).copied_frames + 500);
	cr_assert_eq(space_populate(s, (struct gpa_range){{left}, BLOCK}), -ENOMEM);
	cr_assert_eq(space_check_limit(s), 0);
	/* What is there already takes no room. */
	space_resume(s, use_of(s).owned_frames + use_of(s).copied_frames + 512 - 1);
	cr_assert_eq(space_populate(s, (struct gpa_range){{left}, BLOCK}), 0);
	cr_assert_eq(space_check_limit(s), 0);
	cr_assert_eq(space_populate(s, (struct gpa_range){{left}, BLOCK}), 0);
	cr_assert_eq(space_audit(s), 0);
	space_resume(s, 2 * pages);
	cr_assert_eq(space_populate(s, (struct gpa_range){{0}, size}), 0);
	cr_assert_eq(space_audit(s), 0);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Who is over its limit can be published, is within it then, and its clones are as it was. */
TEST_BOTH_PATHS(limit, publish_over_it)
{
	struct bed b = make_bed(RAM, faults, 100, true);
	struct image *image;
	struct space *clone;

	copy_pages(b.s, 0, 700);
	for (uint64_t i = 1000; i < PAGES; i += 9)
		copy_page(b.s, i);
	cr_assert_eq(space_check_limit(b.s), -ENOMEM);
	cr_assert_geq(space_publish_ahead(b.s), 0);
	cr_assert_eq(space_copy_ahead(b.s, 1), 0);
	cr_assert_eq(space_check_limit(b.s), -ENOMEM);
	image = publish(b.s);
	cr_assert_eq(space_check_limit(b.s), 0);
	clone = new_clone(b.pool, image, FAULTS_KERNEL);
	for (uint64_t i = 0; i < PAGES; i++) {
		bool copied = i < 700 || (i >= 1000 && (i - 1000) % 9 == 0);

		cr_assert_eq(get(clone, i * PAGE), TAG + i);
		cr_assert_eq(get(clone, i * PAGE + 8), copied ? ~i : 0);
	}
	space_destroy(clone);
	image_put(image);
	free_bed(&b);
}

/* ---- calls that fail ---- */

/* Each step of a check that has to look fails once; then it is not known to be within, and is. */
Test(limit, inject_check)
{
	unsigned k = 1;

	for (;; k++) {
		struct bed b = make_bed(RAM, FAULTS_KERNEL, 300, true);
		bool fired;
		int e;

		copy_pages(b.s, 0, 300);
		for (uint64_t i = 400; i < 700; i++)
			(void)guest_load(b.s, i * PAGE);
		inject_arm(k);
		e = space_check_limit(b.s);
		inject_disarm();
		fired = inject_fired();
		if (fired && inject_failed_call() != INJECT_IOCTL)
			cr_assert_neq(e, 0, "step %u: %s", k, inject_name(inject_failed_call()));
		cr_assert_eq(space_check_limit(b.s), 0, "step %u", k);
		check_bed(&b);
		free_bed(&b);
		if (!fired)
			break;
	}
	cr_assert_gt(k, 2);
}

/* The same of a violation for which frames would be taken: it waits, and may be tried again. */
Test(limit, inject_violation)
{
	unsigned k = 1;

	require_path(FAULTS_UFFD);
	for (;; k++) {
		struct bed b = make_mixed(300 + 512);
		enum outcome o;
		bool fired;

		inject_arm(k);
		o = violate(b.s, 1);
		inject_disarm();
		fired = inject_fired();
		cr_assert(o == OUTCOME_RESOLVED || (fired && o == OUTCOME_NOMEM), "step %u", k);
		cr_assert_leq(use_of(b.s).owned_frames + use_of(b.s).copied_frames, 812);
		check_bed(&b);
		cr_assert_eq(violate(b.s, 1), OUTCOME_RESOLVED, "step %u", k);
		put(b.s, BLOCK, 9);
		cr_assert_eq(violate(b.s, 2), OUTCOME_NOMEM, "step %u", k);
		cr_assert_eq(get(b.s, BLOCK), 9);
		free_bed(&b);
		if (!fired)
			break;
	}
	cr_assert_gt(k, 3);
}

/* ---- one pool, two spaces ---- */

/*
 * One takes all there is. The other, which has what it needs, does not notice until it wants more;
 * both are told, and what one gives back the other may have.
 */
Test(limit, pool_of_two)
{
	struct pool *pool = new_pool(4 * BLOCK);
	struct space *s[2];
	struct world w = {.pool = pool, .spaces = s, .space_count = 2};

	require_path(FAULTS_UFFD);
	for (unsigned i = 0; i < 2; i++) {
		s[i] = new_space(pool, RAM, FAULTS_UFFD);
		put(s[i], 0, 10 + i);
	}
	for (uint64_t block = 1; block < 3; block++) {
		cr_assert_eq(violate(s[0], block), OUTCOME_RESOLVED);
		put(s[0], block * BLOCK, block);
	}
	cr_assert_eq(pool_free_frames(pool), 0);
	cr_assert_eq(violate(s[0], 3), OUTCOME_NOMEM);
	expect_sound(&w);
	for (uint64_t i = 0; i < MM_BLOCK_PAGES; i++)
		put(s[1], i * PAGE + 8, i);
	for (uint64_t i = 0; i < MM_BLOCK_PAGES; i++)
		cr_assert_eq(get(s[1], i * PAGE + 8), i);
	cr_assert_eq(violate(s[1], 1), OUTCOME_NOMEM);
	cr_assert_eq(space_check_limit(s[0]), 0, "it is the pool's limit, not theirs");
	cr_assert_eq(space_discard(s[0], (struct gpa_range){{BLOCK}, BLOCK}), 0);
	cr_assert_eq(violate(s[1], 1), OUTCOME_RESOLVED);
	put(s[1], BLOCK, 77);
	cr_assert_eq(violate(s[0], 1), OUTCOME_NOMEM);
	space_destroy(s[1]);
	s[1] = NULL;
	cr_assert_eq(violate(s[0], 1), OUTCOME_RESOLVED);
	cr_assert_eq(get(s[0], BLOCK), 0, "and it reads as zero");
	cr_assert_eq(get(s[0], 2 * BLOCK), 2);
	expect_sound(&w);
	space_destroy(s[0]);
	expect_all_gone(pool);
}
