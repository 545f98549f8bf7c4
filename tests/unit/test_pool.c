// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_pool.c - the pool: limits, zeroed frames, references, memory given back, threads.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mm/pool.h"
#include "tests/unit/helpers.h"
#include "tests/unit/inject.h"

static frame_t take(struct pool *p, unsigned order)
{
	frame_t f;

	cr_assert_eq(pool_alloc(p, order, FRAME_NONE, &f), 0, "order %u", order);
	return f;
}

Test(pool, refuses_bad_limits)
{
	struct pool *p;

	cr_assert_eq(pool_create(0, &p), -EINVAL);
	cr_assert_eq(pool_create(4095, &p), -EINVAL);
	cr_assert_eq(pool_create(PAGE + 1, &p), -EINVAL);
	cr_assert_eq(pool_create((UINT64_C(8) << 40) + PAGE, &p), -EINVAL);
	cr_assert_eq(pool_create(UINT64_MAX & ~(PAGE - 1), &p), -EINVAL);
	expect_all_gone(new_pool(PAGE));
	/* ThreadSanitizer has no room for the largest. */
	if (SLOWDOWN < 10)
		expect_all_gone(new_pool(UINT64_C(8) << 40));
}

Test(pool, put_takes_null)
{
	pool_put(NULL);
}

Test(pool, every_order)
{
	struct pool *p = new_pool(3 * GIB);
	frame_t f;

	for (unsigned order = 0; order <= MM_HUGE_ORDER; order++) {
		uint32_t last = (UINT32_C(1) << order) - 1;

		f = take(p, order);
		cr_assert(is_aligned(f.n, UINT64_C(1) << order));
		cr_assert_eq(pool_order(p, f), (int)order);
		cr_assert_eq(pool_order(p, (frame_t){f.n + last}), (int)order);
		cr_assert_eq(pool_refs(p, (frame_t){f.n + last / 2}), 1);
		cr_assert_eq(used_frames(p), UINT64_C(1) << order);
		pool_unref(p, (frame_t){f.n + last});
		cr_assert_eq(pool_order(p, f), -1);
		cr_assert_eq(pool_audit(p), 0);
	}
	cr_assert_eq(pool_alloc(p, MM_HUGE_ORDER + 1, FRAME_NONE, &f), -EINVAL);
	expect_all_gone(p);
}

Test(pool, neighbours_by_hint)
{
	struct pool *p = new_pool(64 * MIB);
	frame_t f[8], any;

	f[0] = take(p, 9);
	for (unsigned i = 1; i < 8; i++) {
		cr_assert_eq(pool_alloc(p, 9, (frame_t){f[i - 1].n + 512}, &f[i]), 0);
		cr_assert_eq(f[i].n, f[i - 1].n + 512);
	}
	cr_assert_eq(pool_alloc(p, 9, f[3], &any), 0, "a hint that is in use is only a hint");
	pool_unref(p, any);
	for (unsigned i = 0; i < 8; i++)
		pool_unref(p, f[i]);
	expect_all_gone(p);
}

/* A GiB as blocks that come and go one by one; when the last is back it is one run again. */
Test(pool, blocks_in_a_run)
{
	struct pool *p = new_pool(GIB + BLOCK);
	frame_t f, g;

	cr_assert_eq(pool_alloc_blocks(p, 8, FRAME_NONE, &f), -EINVAL);
	cr_assert_eq(pool_alloc_blocks(p, 19, FRAME_NONE, &f), -EINVAL);
	cr_assert_eq(pool_alloc_blocks(p, 18, FRAME_NONE, &f), 0);
	cr_assert_eq(pool_alloc_blocks(p, 18, FRAME_NONE, &g), -ENOMEM);
	cr_assert_eq(used_frames(p), GIB / PAGE);
	for (unsigned i = 0; i < 512; i++) {
		g = (frame_t){f.n + 512 * i};
		cr_assert_eq(pool_order(p, g), 9);
		cr_assert_eq(pool_refs(p, g), 1);
	}
	cr_assert_eq(pool_audit(p), 0);
	for (unsigned i = 0; i < 512; i++)
		pool_unref(p, (frame_t){f.n + 512 * (i * 77 % 512)});
	cr_assert_eq(pool_audit(p), 0);
	cr_assert_eq(pool_alloc_blocks(p, 18, f, &g), 0);
	cr_assert_eq(g.n, f.n);
	for (unsigned i = 0; i < 512; i++)
		pool_unref(p, (frame_t){g.n + 512 * i});
	expect_all_gone(p);
}

Test(pool, limit_is_exact)
{
	static const uint64_t limits[] = {PAGE, 2 * MIB, 2 * MIB + 3 * PAGE, 5 * MIB - PAGE};

	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		struct pool *p = new_pool(limits[i]);
		uint32_t n = (uint32_t)(limits[i] / PAGE);
		struct pool_stats st;
		frame_t f;

		for (uint32_t k = 0; k < n; k++)
			take(p, 0);
		cr_assert_eq(pool_alloc(p, 0, FRAME_NONE, &f), -ENOMEM);
		cr_assert_eq(pool_alloc(p, 0, (frame_t){n}, &f), -ENOMEM, "nor by hint");
		pool_stats(p, &st);
		cr_assert_eq(st.used_frames, n);
		cr_assert_eq(st.limit_frames, n);
		cr_assert_eq(st.peak_frames, n);
		pool_unref(p, (frame_t){n / 2});
		cr_assert_eq(take(p, 0).n, n / 2, "the one that came back");
		for (uint32_t k = 0; k < n; k++)
			pool_unref(p, (frame_t){k});
		expect_all_gone(p);
	}
}

/* A large block is refused when frames are left but no run of that size. */
Test(pool, fragmented)
{
	struct pool *p = new_pool(4 * MIB);
	frame_t f;

	for (uint32_t k = 0; k < 1024; k++)
		take(p, 0);
	for (uint32_t k = 0; k < 1024; k += 2)
		pool_unref(p, (frame_t){k});
	cr_assert_eq(used_frames(p), 512);
	cr_assert_eq(pool_alloc(p, 1, FRAME_NONE, &f), -ENOMEM);
	for (uint32_t k = 1; k < 1024; k += 2)
		pool_unref(p, (frame_t){k});
	f = take(p, 10);
	pool_unref(p, f);
	expect_all_gone(p);
}

/* Anonymous memory of this process: without the libraries it is still bringing in. */
static uint64_t resident_now(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	char line[128], *at = line;
	unsigned long pages[3];

	cr_assert_not_null(f);
	cr_assert_not_null(fgets(line, sizeof(line), f));
	fclose(f);
	for (unsigned i = 0; i < 3; i++)
		pages[i] = strtoul(at, &at, 10);
	cr_assert_gt(pages[1], 0);
	return (pages[1] - pages[2]) * PAGE;
}

/* What a limit costs before anything is used: next to nothing, and little after. */
Test(pool, big_limit_costs_nothing)
{
	uint64_t before, after;
	struct pool_stats st;
	struct pool *p = NULL;
	frame_t f;
	int e;

	/* Once beforehand: what the C library sets aside at first use is not the pool's. */
	expect_all_gone(new_pool(64 * GIB));
	(void)resident_now();
	before = resident_now();
	e = pool_create(64 * GIB, &p);
	after = resident_now();
	cr_assert_eq(e, 0);
	/* Sanitizers keep memory of their own for what is mapped. */
	if (SLOWDOWN == 1)
		cr_assert_lt(after, before + 64 * 1024, "%ld bytes", (long)(after - before));
	pool_stats(p, &st);
	cr_assert_eq(st.committed_frames, 0);
	cr_assert_lt(st.metadata_bytes, 64 * 1024);
	f = take(p, 9);
	pool_stats(p, &st);
	cr_assert_gt(st.metadata_bytes, 0);
	cr_assert_lt(st.metadata_bytes, 64 * 1024);
	pool_unref(p, f);
	expect_all_gone(p);
}

/* The last frame of a large pool brings in all before it: an entry for each GiB. */
Test(pool, last_frame_of_a_big_limit)
{
	struct pool *p = new_pool(64 * GIB);
	const uint32_t last = (uint32_t)(64 * GIB / PAGE) - 1;
	struct pool_stats st;
	frame_t f;

	cr_assert_eq(pool_alloc(p, 0, (frame_t){last}, &f), 0);
	cr_assert_eq(f.n, last);
	pool_stats(p, &st);
	cr_assert_lt(st.metadata_bytes, 1024 * 1024);
	pool_unref(p, f);
	expect_all_gone(p);
}

/* Metadata is counted to its last page and no further: the table ends on a page's edge here. */
Test(pool, metadata_of_a_whole_table)
{
	struct pool *p = new_pool(1 * GIB);
	struct pool_stats one, split;
	frame_t f = take(p, MM_HUGE_ORDER), small;

	pool_stats(p, &one);
	cr_assert_eq(one.metadata_bytes, PAGE, "one head: one page of the table");
	pool_unref(p, f);
	small = take(p, 0);
	pool_stats(p, &split);
	cr_assert_gt(split.metadata_bytes, one.metadata_bytes);
	pool_unref(p, small);
	expect_all_gone(p);
}

/* Which pages of a block to look at: its ends, and some between. */
static void dirty(struct pool *p, frame_t f, unsigned order)
{
	uint32_t n = UINT32_C(1) << order, step = n > 64 ? n / 64 : 1;

	for (uint32_t i = 0; i < n; i += step)
		memset(pool_frame_ptr(p, (frame_t){f.n + i}), 0xa5, PAGE);
	memset(pool_frame_ptr(p, (frame_t){f.n + n - 1}), 0x5a, PAGE);
}

static void expect_clean(struct pool *p, frame_t f, unsigned order)
{
	uint32_t n = UINT32_C(1) << order, step = n > 64 ? n / 64 : 1;

	for (uint32_t i = 0; i < n; i += step)
		cr_assert_eq(first_nonzero(pool_frame_ptr(p, (frame_t){f.n + i}), PAGE), PAGE,
		             "order %u, frame %u", order, i);
	cr_assert_eq(first_nonzero(pool_frame_ptr(p, (frame_t){f.n + n - 1}), PAGE), PAGE);
}

Test(pool, frames_read_zero_after_reuse)
{
	struct pool *p = new_pool(1 * GIB);

	for (unsigned order = 0; order <= MM_HUGE_ORDER; order++) {
		frame_t again, f = take(p, order);

		expect_clean(p, f, order);
		dirty(p, f, order);
		pool_unref(p, f);
		cr_assert_eq(committed_frames(p), 0, "order %u: memory is given back", order);
		cr_assert_eq(pool_alloc(p, order, f, &again), 0);
		cr_assert_eq(again.n, f.n);
		expect_clean(p, again, order);
		pool_unref(p, again);
	}
	expect_all_gone(p);
}

/* Freeing one block leaves its neighbours' bytes alone, also inside one huge page. */
Test(pool, punch_stops_at_the_edges)
{
	struct pool *p = new_pool(4 * MIB);
	frame_t f[512];

	for (unsigned i = 0; i < 512; i++) {
		f[i] = take(p, 0);
		memset(pool_frame_ptr(p, f[i]), 1 + (int)i % 255, PAGE);
	}
	(void)pool_collapse(p, (frame_t){(uint32_t)align_down(f[0].n, 512)});
	for (unsigned i = 0; i < 512; i += 2)
		pool_unref(p, f[i]);
	for (unsigned i = 1; i < 512; i += 2) {
		const uint8_t *b = pool_frame_ptr(p, f[i]);

		cr_assert(b[0] == 1 + i % 255 && memcmp(b, b + 1, PAGE - 1) == 0, "frame %u", i);
		pool_unref(p, f[i]);
	}
	expect_all_gone(p);
}

Test(pool, three_hundred_sharers)
{
	struct pool *p = new_pool(8 * MIB);
	frame_t f = take(p, 9);

	memset(pool_frame_ptr(p, f), 7, PAGE);
	for (uint32_t i = 1; i < 300; i++) {
		cr_assert_eq(pool_ref(p, (frame_t){f.n + i}), 0);
		cr_assert_eq(pool_refs(p, f), i + 1);
	}
	for (uint32_t i = 300; i > 1; i--) {
		pool_unref(p, (frame_t){f.n + i % 512});
		cr_assert_eq(pool_refs(p, f), i - 1);
		cr_assert_eq(*(uint8_t *)pool_frame_ptr(p, f), 7);
	}
	cr_assert_eq(used_frames(p), 512);
	pool_unref(p, f);
	expect_all_gone(p);
}

Test(pool, underflow_aborts, .signal = SIGABRT)
{
	struct pool *p = new_pool(1 * MIB);
	frame_t f = take(p, 2);

	pool_unref(p, f);
	pool_unref(p, f);
}

Test(pool, reference_on_a_free_block_aborts, .signal = SIGABRT)
{
	(void)pool_ref(new_pool(1 * MIB), (frame_t){3});
}

Test(pool, destroyed_with_frames_out_aborts, .signal = SIGABRT)
{
	struct pool *p = new_pool(1 * MIB);

	take(p, 0);
	pool_put(p);
}

Test(pool, fill_puts_memory_behind_frames)
{
	struct pool *p = new_pool(8 * MIB);
	frame_t f = take(p, 9);

	memset(pool_frame_ptr(p, (frame_t){f.n + 3}), 9, PAGE);
	cr_assert_eq(pool_fill(p, f, 16), 0);
	cr_assert_eq(committed_frames(p), 16);
	cr_assert_eq(*(uint8_t *)pool_frame_ptr(p, (frame_t){f.n + 3}), 9, "what was there stays");
	cr_assert_eq(pool_fill(p, f, 512), 0);
	cr_assert_eq(committed_frames(p), 512);
	pool_unref(p, f);
	expect_all_gone(p);
}

Test(pool, collapse_keeps_contents)
{
	struct pool *p = new_pool(8 * MIB);
	frame_t f = take(p, 9);
	int e;

	memset(pool_frame_ptr(p, (frame_t){f.n + 77}), 9, PAGE);
	e = pool_collapse(p, f);
	cr_assert(e == 0 || e == -EAGAIN || e == -ENOMEM || e == -EINVAL, "%s", strerror(-e));
	for (uint32_t i = 0; i < 512; i++) {
		const uint8_t *b = pool_frame_ptr(p, (frame_t){f.n + i});

		cr_assert(b[0] == (i == 77 ? 9 : 0) && memcmp(b, b + 1, PAGE - 1) == 0);
	}
	if (e == 0)
		cr_assert_eq(committed_frames(p), 512);
	pool_unref(p, f);
	expect_all_gone(p);
}

/* An empty block needs no collapse, for which every CPU would be waited for. */
Test(pool, collapse_of_nothing)
{
	struct pool *p = new_pool(16 * MIB);

	if (!pool_huge(p))
		cr_skip_test("this host gives a file no huge pages");
	cr_assert_not_null(pool_twin_ptr(p, (frame_t){0}));
	for (unsigned i = 0; i < 4; i++) {
		frame_t f = take(p, 9);
		int e;

		inject_arm(0);
		e = pool_collapse(p, f);
		inject_disarm();
		cr_assert_eq(e, 0, "%s", strerror(-e));
		cr_assert_eq(inject_reached(INJECT_MADVISE), 0);
		cr_assert_eq(committed_frames(p), 512);
		cr_assert_eq(*(uint8_t *)pool_frame_ptr(p, (frame_t){f.n + 300}), 0);
		pool_unref(p, f);
		cr_assert_eq(committed_frames(p), 0);
	}
	expect_all_gone(p);
}

/* --- huge pages at first touch --------------------------------------------------------------- */

/* Write to the block's second page through a mapping of which `advice` has been given. */
static void touch_mapped(struct pool *p, frame_t f, int advice)
{
	uint8_t *room = mmap(NULL, 4 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *at = (uint8_t *)align_up((uintptr_t)room, 2 * MIB);

	cr_assert_neq(room, MAP_FAILED);
	cr_assert_neq(mmap(at, 2 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
	                   pool_store(p)->fd, (off_t)f.n * PAGE),
	              MAP_FAILED);
	cr_assert_eq(madvise(at, 2 * MIB, advice), 0);
	at[PAGE] = 1;
	munmap(room, 4 * MIB);
}

/* The pool's own mapping brings in what is touched; only who asks gets 2 MiB. */
Test(pool, first_touch)
{
	struct pool *p = new_pool(16 * MIB);
	frame_t f = take(p, 9), g = take(p, 9), h = take(p, 3);
	uint64_t whole = pool_huge(p) ? 512 : 1;

	cr_assert(pool_block_empty(p, f));
	memset(pool_frame_ptr(p, f), 1, 1);
	cr_assert_eq(committed_frames(p), 1);
	cr_assert_not(pool_block_empty(p, f));
	cr_assert(pool_block_empty(p, g), "a neighbour's memory is not its own");
	touch_mapped(p, g, MADV_NORMAL);
	cr_assert_eq(committed_frames(p), 2);
	pool_zero(p, g, 512);
	touch_mapped(p, g, MADV_HUGEPAGE);
	cr_assert_eq(committed_frames(p), 1 + whole);
	touch_mapped(p, f, MADV_HUGEPAGE);
	cr_assert_eq(committed_frames(p), 2 + whole, "a block that has pages gets no huge one");
	memset(pool_frame_ptr(p, h), 4, 8 * PAGE);
	cr_assert_eq(committed_frames(p), 10 + whole, "small blocks take small pages");
	pool_unref(p, g);
	cr_assert_eq(committed_frames(p), 10);
	pool_unref(p, f);
	pool_unref(p, h);
	expect_all_gone(p);
}

/* Small blocks inside what was one huge page: freed one by one, all of it goes. */
Test(pool, a_huge_page_goes_in_pieces)
{
	struct pool *p = new_pool(2 * MIB);
	frame_t f[512];

	for (unsigned i = 0; i < 512; i++)
		f[i] = take(p, 0);
	(void)pool_collapse(p, (frame_t){0});
	memset(pool_frame_ptr(p, (frame_t){0}), 7, 2 * MIB);
	cr_assert_eq(committed_frames(p), 512);
	for (unsigned i = 0; i < 512; i++)
		pool_unref(p, f[(i * 37) % 512]);
	expect_all_gone(p);
}

/* A host that lets us have no filesystem of our own: the same frames, by 4 KiB. */
Test(pool, plain_file)
{
	struct pool *p;
	frame_t f;

	inject_plain_pools(true);
	p = new_pool(8 * MIB);
	inject_plain_pools(false);
	cr_assert_not(pool_huge(p));
	f = take(p, 9);
	memset(pool_frame_ptr(p, f), 1, PAGE);
	cr_assert_eq(pool_fill(p, f, 100), 0);
	cr_assert_geq(committed_frames(p), 100);
	pool_unref(p, f);
	expect_all_gone(p);
}

/* --- threads --------------------------------------------------------------------------------- */

enum { THREADS = 8, LIVE = 24 };

struct storm {
	struct pool *pool;
	uint64_t seed;
	pthread_t thread;
	const char *wrong;
};

struct live {
	frame_t f;
	unsigned order;
};

/* First and last page carry the thread's mark as long as the block is its own. */
static bool mark_block(struct pool *p, struct live *l, uint64_t mark)
{
	uint64_t *first = pool_frame_ptr(p, l->f);
	uint64_t *last = pool_frame_ptr(p, (frame_t){l->f.n + (UINT32_C(1) << l->order) - 1});

	if (first_nonzero(first, PAGE) != PAGE || first_nonzero(last, PAGE) != PAGE)
		return false;
	*first = *last = mark;
	return true;
}

static bool drop_block(struct pool *p, struct live *l, uint64_t mark)
{
	uint64_t *first = pool_frame_ptr(p, l->f);
	uint64_t *last = pool_frame_ptr(p, (frame_t){l->f.n + (UINT32_C(1) << l->order) - 1});
	bool mine = *first == mark && *last == mark;

	pool_unref(p, l->f);
	return mine;
}

static void *run_storm(void *arg)
{
	struct storm *st = arg;
	struct rng rng = {st->seed};
	struct live live[LIVE];
	unsigned n = 0;

	for (unsigned i = 0; i < 2000 / SLOWDOWN && !st->wrong; i++) {
		struct live *l = &live[n];

		if (n < LIVE && rng_below(&rng, 2)) {
			l->order = (unsigned)rng_below(&rng, 7);
			if (pool_alloc(st->pool, l->order, FRAME_NONE, &l->f))
				continue;
			if (!mark_block(st->pool, l, st->seed))
				st->wrong = "a frame handed out is not zero";
			n++;
		} else if (n > 0) {
			unsigned k = (unsigned)rng_below(&rng, n);

			if (!drop_block(st->pool, &live[k], st->seed))
				st->wrong = "somebody else wrote into a block";
			live[k] = live[--n];
		}
	}
	while (n > 0)
		if (!drop_block(st->pool, &live[--n], st->seed))
			st->wrong = "somebody else wrote into a block";
	return NULL;
}

/* Small enough that threads run into the limit and into each other's freed blocks. */
Test(pool, threads_alloc_and_free, .timeout = 120)
{
	struct pool *p = new_pool(5 * MIB + 3 * PAGE);
	struct storm st[THREADS] = {0};

	for (unsigned i = 0; i < THREADS; i++) {
		st[i] = (struct storm){.pool = p, .seed = i + 1};
		cr_assert_eq(pthread_create(&st[i].thread, NULL, run_storm, &st[i]), 0);
	}
	for (unsigned i = 0; i < 20; i++)
		cr_assert_eq(pool_audit(p), 0, "in the middle of it");
	for (unsigned i = 0; i < THREADS; i++) {
		cr_assert_eq(pthread_join(st[i].thread, NULL), 0);
		cr_assert_null(st[i].wrong, "%s", st[i].wrong);
	}
	expect_all_gone(p);
}

static void *ref_and_unref(void *arg)
{
	struct storm *st = arg;

	for (unsigned i = 0; i < 5000 / SLOWDOWN; i++) {
		if (pool_ref(st->pool, (frame_t){i % 512}))
			st->wrong = "a reference was refused";
		pool_unref(st->pool, (frame_t){(i + 7) % 512});
	}
	return NULL;
}

Test(pool, threads_share_one_block, .timeout = 120)
{
	struct pool *p = new_pool(2 * MIB);
	frame_t f = take(p, 9);
	struct storm st[THREADS] = {0};

	for (unsigned i = 0; i < THREADS; i++) {
		st[i].pool = p;
		cr_assert_eq(pthread_create(&st[i].thread, NULL, ref_and_unref, &st[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		cr_assert_eq(pthread_join(st[i].thread, NULL), 0);
		cr_assert_null(st[i].wrong);
	}
	cr_assert_eq(pool_refs(p, f), 1);
	pool_unref(p, f);
	expect_all_gone(p);
}
