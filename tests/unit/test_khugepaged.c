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

#define THP        "/sys/kernel/mm/transparent_hugepage"
#define SLEEP      THP "/khugepaged/scan_sleep_millisecs"
#define FULL_SCANS THP "/khugepaged/full_scans"

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

/* Let it see all of this process from beginning to end, and what it leaves for later once more. */
static void let_it_run(void)
{
	int turn = open(THP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long sleep = read_number(SLEEP), scans;
	bool hurries, seen = false;

	if (turn < 0 || sleep < 0)
		cr_skip_test("khugepaged: %s: %s", SLEEP, strerror(errno));
	while (flock(turn, LOCK_EX) < 0)
		cr_assert_eq(errno, EINTR);
	have_it_look();
	sleep = read_number(SLEEP);
	scans = read_number(FULL_SCANS);
	hurries = write_number(SLEEP, 1);
	for (int i = 0; hurries && !seen && i < 6000; i++) {
		usleep(10 * 1000);
		seen = read_number(FULL_SCANS) >= scans + 3;
	}
	if (hurries)
		(void)write_number(SLEEP, sleep);
	close(turn);
	if (!seen)
		cr_skip_test("khugepaged: %s",
		             hurries ? "it does not run" : "may not be told to hurry");
}

/* A block that came in by one touch, went, and is in use again by small frames. */
Test(khugepaged, small_frames)
{
	struct pool *p = new_pool(16 * MIB);
	frame_t block, small[3];

	cr_assert_eq(pool_alloc(p, MM_BLOCK_ORDER, FRAME_NONE, &block), 0);
	cr_assert_eq(pool_collapse(p, block), 0);
	pool_unref(p, block);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(pool_alloc(p, 2 * i, block, &small[i]), 0);
		cr_assert_eq(align_down(small[i].n, MM_BLOCK_PAGES), block.n);
		cr_assert_eq(pool_fill(p, small[i], UINT32_C(1) << 2 * i), 0);
	}
	let_it_run();
	cr_assert_eq(committed_frames(p), 1 + 4 + 16);
	for (unsigned i = 0; i < 3; i++)
		pool_unref(p, small[i]);
	expect_all_gone(p);
}

TEST_BOTH_PATHS(khugepaged, half_discarded)
{
	struct pool *pool = new_pool(16 * MIB);
	struct ram_region ram = ram_at(0, 2 * BLOCK, PAGE_SIZE_2M);
	struct space *s;

	s = make_space(&(struct space_config){
		.pool = pool, .ram = &ram, .ram_count = 1, .faults = faults});
	for (uint64_t at = 0; at < 2 * BLOCK; at += PAGE)
		guest_store(s, at, 1 + at);
	for (uint64_t at = 0; at < 2 * BLOCK; at += BLOCK)
		cr_assert_eq(space_discard(s, (struct gpa_range){{at}, BLOCK / 2}), 0);
	cr_assert_eq(committed_frames(pool), MM_BLOCK_PAGES);
	let_it_run();
	cr_assert_eq(committed_frames(pool), MM_BLOCK_PAGES,
	             "what was given back stays the host's");
	guest_store(s, PAGE, 7);
	cr_assert_eq(committed_frames(pool), MM_BLOCK_PAGES + 1, "and comes in page by page");
	cr_assert_eq(guest_load(s, 0), 0);
	cr_assert_eq(guest_load(s, PAGE), 7);
	cr_assert_eq(guest_load(s, BLOCK / 2), 1 + BLOCK / 2);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
}

/*
 * Parts of a huge page that somebody holds on to: the host cannot take it apart. It has all of it
 * back with the last part.
 */
Test(khugepaged, parts_of_a_held_page)
{
	struct pool *p = new_pool(16 * MIB);
	frame_t block, half[2];
	struct iovec page;
	int fds[2];

	cr_assert_eq(pool_alloc(p, MM_BLOCK_ORDER, FRAME_NONE, &block), 0);
	pool_unref(p, block);
	for (unsigned i = 0; i < 2; i++)
		cr_assert_eq(pool_alloc(p, MM_BLOCK_ORDER - 1, block, &half[i]), 0);
	cr_assert_eq(half[1].n, half[0].n + MM_BLOCK_PAGES / 2);
	/* As a host would that has huge pages for everybody. */
	cr_assert_eq(pool_collapse(p, half[0]), 0);
	memset(pool_frame_ptr(p, half[0]), 0x5a, BLOCK);
	page = (struct iovec){pool_frame_ptr(p, half[0]), PAGE};
	cr_assert_eq(pipe(fds), 0);
	cr_assert_eq(vmsplice(fds[1], &page, 1, 0), (ssize_t)PAGE);
	pool_unref(p, half[1]);
	cr_assert_eq(first_nonzero(pool_frame_ptr(p, half[1]), BLOCK / 2), BLOCK / 2);
	cr_assert_eq(committed_frames(p), MM_BLOCK_PAGES, "it could not be taken apart");
	pool_unref(p, half[0]);
	cr_assert_eq(committed_frames(p), 0);
	close(fds[0]);
	close(fds[1]);
	expect_all_gone(p);
}
