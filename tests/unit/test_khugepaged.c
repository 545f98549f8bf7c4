// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_khugepaged.c - the kernel's daemon that makes huge pages of small ones leaves
 * alone what is small on purpose: blocks in use part by part, and blocks that gave a part back.
 *
 * It is told to hurry for the time of a test. Tests take turns, over all programs.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/unit/helpers.h"
#include "tests/unit/inject.h"

#define THP        "/sys/kernel/mm/transparent_hugepage"
#define SLEEP      THP "/khugepaged/scan_sleep_millisecs"
#define FULL_SCANS THP "/khugepaged/full_scans"

/* Of a test that has its turn; none waits for more than a few others. */
#define PATIENCE_S 15

/* Return: the number in the file, -1: there is none. */
static long read_number(const char *path)
{
	char text[32];
	FILE *f = fopen(path, "re");
	long n = -1;

	if (!f)
		return -1;
	if (fgets(text, sizeof(text), f))
		n = strtol(text, NULL, 10);
	fclose(f);
	return n;
}

static bool write_number(const char *path, long n)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && dprintf(fd, "%ld", n) > 0;

	if (fd >= 0)
		close(fd);
	return done;
}

/* It looks at processes that have touched memory for which they had asked for huge pages. */
static void have_it_look(void)
{
	uint8_t *at =
		mmap(NULL, 2 * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(at, MAP_FAILED);
	cr_assert_eq(madvise(at, 2 * BLOCK, MADV_HUGEPAGE), 0);
	memset(at, 1, 2 * BLOCK);
}

/* Until it has seen all of this process from beginning to end. Return: whether it has. */
static bool wait_for_scans(long scans)
{
	for (unsigned i = 0; i < PATIENCE_S * 100; i++) {
		if (read_number(FULL_SCANS) >= scans)
			return true;
		usleep(10 * 1000);
	}
	return false;
}

/* What it leaves for later once more, too. Nothing here ends the test before it is slow again. */
static void let_it_run(void)
{
	int turn = open(THP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool hurries, seen;
	long pause;

	if (turn < 0)
		cr_skip_test("khugepaged: %s: %s", THP, strerror(errno));
	while (flock(turn, LOCK_EX) < 0)
		cr_assert_eq(errno, EINTR);
	have_it_look();
	pause = read_number(SLEEP);
	hurries = pause >= 0 && write_number(SLEEP, 1);
	seen = hurries && wait_for_scans(read_number(FULL_SCANS) + 3);
	if (hurries)
		(void)write_number(SLEEP, pause);
	close(turn);
	if (!seen)
		cr_skip_test("khugepaged %s",
		             hurries ? "does not run" : "may not be told to hurry");
}

static struct pool *huge_pool(void)
{
	struct pool *p = new_pool(16 * MIB);

	if (!pool_huge(p))
		cr_skip_test("this host gives a file no huge pages");
	return p;
}

static frame_t take(struct pool *p, unsigned order, frame_t hint)
{
	frame_t f;

	cr_assert_eq(pool_alloc(p, order, hint, &f), 0);
	return f;
}

/* A block of huge_pool()'s in one page. */
static frame_t take_huge(struct pool *p)
{
	frame_t f = take(p, MM_BLOCK_ORDER, FRAME_NONE);
	int e = pool_collapse(p, f);

	if (e)
		cr_skip_test("a huge page: %s", strerror(-e));
	return f;
}

/* The block at `f` is nobody's. Some of it gets into use, by small frames, and no more. */
static void use_bit_by_bit(struct pool *p, frame_t f)
{
	uint64_t others = committed_frames(p);
	frame_t small[3];

	for (unsigned i = 0; i < 3; i++) {
		small[i] = take(p, 2 * i, f);
		cr_assert_eq(align_down(small[i].n, MM_BLOCK_PAGES), f.n);
		cr_assert_eq(pool_fill(p, small[i], UINT32_C(1) << 2 * i), 0);
	}
	let_it_run();
	cr_assert_eq(committed_frames(p), others + 1 + 4 + 16);
	for (unsigned i = 0; i < 3; i++)
		pool_unref(p, small[i]);
	cr_assert_eq(committed_frames(p), others);
}

/* A block that came in by one touch, went, and is in use again by small frames. */
Test(khugepaged, small_frames)
{
	struct pool *p = huge_pool();
	frame_t f = take_huge(p);

	pool_unref(p, f);
	use_bit_by_bit(p, f);
	expect_all_gone(p);
}

/* The same when the pool had to do without the place where it touches blocks. */
Test(khugepaged, small_frames_after_a_refusal)
{
	struct pool *p = huge_pool();
	frame_t f = take_huge(p), other = take(p, MM_BLOCK_ORDER, FRAME_NONE);
	int e;

	inject_arm_call(1, INJECT_MREMAP);
	e = pool_collapse(p, other);
	inject_disarm();
	cr_assert(inject_fired());
	if (e)
		cr_skip_test("a huge page: %s", strerror(-e));
	pool_unref(p, f);
	use_bit_by_bit(p, f);
	pool_unref(p, other);
	expect_all_gone(p);
}

/* --- what guests give back ------------------------------------------------------------------- */

#define RAM (2 * BLOCK)

static struct space *huge_space(struct pool *p, enum fault_choice faults)
{
	struct ram_region ram = ram_at(0, RAM, PAGE_SIZE_2M);

	return make_space(
		&(struct space_config){.pool = p, .ram = &ram, .ram_count = 1, .faults = faults});
}

static void discard_halves(struct space *s)
{
	for (uint64_t at = 0; at < RAM; at += BLOCK)
		cr_assert_eq(space_discard(s, (struct gpa_range){{at}, BLOCK / 2}), 0);
}

TEST_BOTH_PATHS(khugepaged, half_discarded)
{
	struct pool *pool = huge_pool();
	struct space *s = huge_space(pool, faults);

	for (uint64_t at = 0; at < RAM; at += PAGE)
		guest_store(s, at, 1 + at);
	cr_assert_eq(committed_frames(pool), RAM / PAGE);
	discard_halves(s);
	cr_assert_eq(committed_frames(pool), RAM / PAGE / 2);
	let_it_run();
	cr_assert_eq(committed_frames(pool), RAM / PAGE / 2, "what was given back stays so");
	guest_store(s, PAGE, 7);
	cr_assert_eq(committed_frames(pool), RAM / PAGE / 2 + 1, "and comes in page by page");
	cr_assert_eq(guest_load(s, 0), 0);
	cr_assert_eq(guest_load(s, PAGE), 7);
	cr_assert_eq(guest_load(s, BLOCK / 2), 1 + BLOCK / 2);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* A block that was to be a huge page when the host had none. */
Test(khugepaged, half_discarded_after_a_refusal)
{
	static const unsigned walk[] = {200, 230, 240};
	struct pool *pool = huge_pool();
	struct violation next = {{256 * PAGE}, ACCESS_WRITE};
	struct space *s;

	require_path(FAULTS_UFFD);
	s = new_space(pool, RAM, FAULTS_UFFD);
	for (size_t i = 0; i < sizeof(walk) / sizeof(walk[0]); i++)
		guest_store(s, walk[i] * PAGE, 1);
	inject_arm_call(1, INJECT_MADVISE);
	cr_assert_eq(space_violation(s, next), OUTCOME_RESOLVED);
	inject_disarm();
	cr_assert(inject_fired());
	for (uint64_t at = 0; at < BLOCK; at += PAGE)
		guest_store(s, at, 1 + at);
	cr_assert_eq(space_discard(s, (struct gpa_range){{0}, BLOCK / 2}), 0);
	let_it_run();
	cr_assert_eq(committed_frames(pool), BLOCK / PAGE / 2);
	space_destroy(s);
	expect_all_gone(pool);
}

/* A block that goes as a whole is not half full: where 2 MiB were asked for they come back. */
Test(khugepaged, whole_and_reset_on_the_kernel_path)
{
	struct pool *pool = huge_pool();
	struct space *s = huge_space(pool, FAULTS_KERNEL);

	guest_store(s, 0, 1);
	if (committed_frames(pool) != BLOCK / PAGE)
		cr_skip_test("the host had no huge page");
	cr_assert_eq(space_discard(s, (struct gpa_range){{0}, BLOCK}), 0);
	cr_assert_eq(committed_frames(pool), 0);
	guest_store(s, 0, 2);
	cr_assert_eq(committed_frames(pool), BLOCK / PAGE);
	/* In parts, what is empty by and by stays small until it goes as a whole. */
	for (uint64_t at = 0; at < BLOCK; at += BLOCK / 2)
		cr_assert_eq(space_discard(s, (struct gpa_range){{at}, BLOCK / 2}), 0);
	guest_store(s, 0, 3);
	cr_assert_eq(committed_frames(pool), 1);
	cr_assert_eq(space_discard(s, (struct gpa_range){{0}, BLOCK}), 0);
	guest_store(s, 0, 4);
	cr_assert_eq(committed_frames(pool), BLOCK / PAGE);
	discard_halves(s);
	cr_assert_eq(committed_frames(pool), BLOCK / PAGE / 2);
	cr_assert_eq(space_reset(s), 0);
	cr_assert_eq(committed_frames(pool), 0);
	guest_store(s, 0, 5);
	cr_assert_eq(committed_frames(pool), BLOCK / PAGE, "as it was at first");
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* What was discarded as a whole is not there: not in the figures, and to be populated again. */
TEST_BOTH_PATHS(khugepaged, discarded_and_populated)
{
	struct pool *pool = huge_pool();
	struct space *s = huge_space(pool, faults);
	struct space_stats st;

	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(space_populate(s, (struct gpa_range){{0}, RAM}), 0);
		cr_assert_eq(committed_frames(pool), RAM / PAGE);
		guest_store(s, 0, 7);
		cr_assert_eq(space_discard(s, (struct gpa_range){{0}, RAM}), 0);
		cr_assert_eq(committed_frames(pool), 0);
		cr_assert_eq(space_stats(s, &st), 0);
		cr_assert_eq(st.huge_blocks, 0);
		cr_assert_eq(guest_load(s, BLOCK), 0);
		cr_assert_eq(space_discard(s, (struct gpa_range){{0}, RAM}), 0);
	}
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/* --- pages that cannot be taken apart -------------------------------------------------------- */

/* Two halves of a huge page, as there are where a host has huge pages for everybody. */
static void take_halves(struct pool *p, frame_t half[2])
{
	frame_t block = take(p, MM_BLOCK_ORDER, FRAME_NONE);
	int e;

	pool_unref(p, block);
	for (unsigned i = 0; i < 2; i++)
		half[i] = take(p, MM_BLOCK_ORDER - 1, block);
	cr_assert_eq(half[1].n, half[0].n + MM_BLOCK_PAGES / 2);
	e = pool_collapse(p, half[0]);
	if (e)
		cr_skip_test("a huge page: %s", strerror(-e));
	memset(pool_frame_ptr(p, half[0]), 0x5a, BLOCK);
}

/* Somebody holds on to it: the host cannot take it apart, and has all of it back with the end. */
static void give_back_held(bool fail)
{
	struct pool *p = huge_pool();
	frame_t half[2], again;
	struct pool_stats st;
	struct iovec page;
	int fds[2];

	take_halves(p, half);
	page = (struct iovec){pool_frame_ptr(p, half[0]), PAGE};
	cr_assert_eq(pipe(fds), 0);
	cr_assert_eq(vmsplice(fds[1], &page, 1, 0), (ssize_t)PAGE);
	pool_unref(p, half[1]);
	cr_assert_eq(first_nonzero(pool_frame_ptr(p, half[1]), BLOCK / 2), BLOCK / 2);
	cr_assert_eq(committed_frames(p), MM_BLOCK_PAGES, "it could not be taken apart");
	if (fail)
		inject_arm_call(2, INJECT_FALLOCATE);
	pool_unref(p, half[0]);
	cr_assert_eq(inject_disarm(), fail ? 2 : 0);
	pool_stats(p, &st);
	cr_assert_eq(st.committed_frames, fail ? MM_BLOCK_PAGES : 0);
	cr_assert_eq(st.used_frames, 0);
	cr_assert_eq(st.retired_frames, 0, "it is as good as any");
	cr_assert_eq(st.peak_frames, MM_BLOCK_PAGES);
	cr_assert_eq(pool_audit(p), 0);
	close(fds[0]);
	close(fds[1]);
	again = take(p, MM_BLOCK_ORDER, half[0]);
	cr_assert_eq(again.n, half[0].n);
	cr_assert_eq(first_nonzero(pool_frame_ptr(p, again), BLOCK), BLOCK);
	pool_unref(p, again);
	expect_all_gone(p);
}

Test(khugepaged, parts_of_a_held_page)
{
	give_back_held(false);
}

Test(khugepaged, parts_of_a_held_page_and_no_second_time)
{
	give_back_held(true);
}
