// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_policy.c - what one violation brings in, and what whole walks then cost.
 *
 * No memory here: a model of a space carries the answers out as mm/backend_alloc.c does, and counts
 * events and the pages that the host would have to put memory behind.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "mm/policy.h"
#include "tests/unit/helpers.h"

enum kind { NONE, CLUSTERS, SMALL, WHOLE };

enum { BACKED = 1, MAPPED = 2 };

enum { MAX_BLOCKS = 1024, MAX_PAGES = MAX_BLOCKS * 512 };

struct model {
	struct policy_history history;
	enum page_size page_size;
	uint32_t blocks;
	uint32_t at_once; /* of whole blocks; 0: as many as there is room for */
	uint32_t room;    /* 0: as much as there is */
	uint32_t events;
	uint64_t committed; /* pages */
	uint64_t touched;
	uint8_t kind[MAX_BLOCKS];
	uint8_t there[MAX_PAGES]; /* set of BACKED, MAPPED */
	uint8_t seen[MAX_PAGES];  /* touched by the guest */
};

static struct model *new_model(uint32_t blocks)
{
	struct model *m = calloc(1, sizeof(*m));

	cr_assert_not_null(m);
	cr_assert_leq(blocks, MAX_BLOCKS);
	m->blocks = blocks;
	return m;
}

static uint32_t fresh_in_a_row(const struct model *m, uint64_t block, int way)
{
	uint32_t n = 0;

	while (n < POLICY_AHEAD - 1) {
		uint64_t next = way > 0 ? block + n + 1 : block - n - 1;

		if (next >= m->blocks || m->kind[next] != NONE)
			break;
		n++;
	}
	return n;
}

static void back(struct model *m, uint64_t page, uint64_t count)
{
	for (uint64_t p = page; p < page + count; p++) {
		m->committed += !m->there[p];
		m->there[p] |= BACKED;
	}
}

static void bring_in(struct model *m, uint64_t page, uint64_t count)
{
	back(m, page, count);
	for (uint64_t p = page; p < page + count; p++)
		m->there[p] |= MAPPED;
}

static void carry_out(struct model *m, uint64_t page, struct policy_choice c)
{
	uint64_t block = page / 512;

	if (policy_in_pages(c.kind)) {
		cr_assert(c.first <= page && page < c.first + c.count);
		cr_assert_eq(c.first / 512, block);
		cr_assert_eq((c.first + c.count - 1) / 512, block, "inside one block");
		/* As costly as it can be: the whole block is there for its proof. */
		if (c.kind == POLICY_PROOF && m->kind[block] == NONE)
			back(m, block * 512, 512);
		m->kind[block] = CLUSTERS;
		bring_in(m, c.first, c.count);
		return;
	}
	cr_assert(c.first <= block && block < c.first + c.count);
	for (uint64_t b = c.first; b < c.first + c.count; b++) {
		bool mine = b == block;

		if (c.kind == POLICY_WHOLE) {
			cr_assert_lt(b, m->blocks);
			cr_assert(mine || m->kind[b] == NONE, "whole blocks are fresh ones");
			m->kind[b] = WHOLE;
			/* The touched one may hold clusters: it is made whole there and then. */
			if (mine || (m->at_once == 1))
				bring_in(m, b * 512, 512);
		} else if (b < m->blocks && (m->kind[b] == NONE || m->kind[b] == CLUSTERS)) {
			m->kind[b] = SMALL;
		}
	}
}

static void touch(struct model *m, uint64_t page)
{
	uint64_t block = page / 512;

	for (unsigned tries = 0; m->kind[block] < SMALL && !(m->there[page] & MAPPED); tries++) {
		struct policy_event e = {
			.page_size = m->page_size,
			.page = page,
			.fresh = m->kind[block] == NONE,
			.below = fresh_in_a_row(m, block, -1),
			.above = fresh_in_a_row(m, block, 1),
			.room = m->room ? m->room : POLICY_AROUND,
		};

		e.at_once = m->at_once ? m->at_once : e.room;
		cr_assert_lt(tries, 1, "one answer is enough");
		carry_out(m, page, policy_choose(&m->history, &e));
		m->events++;
	}
	if (m->kind[block] == WHOLE)
		bring_in(m, block * 512, 512);
	else
		bring_in(m, page, 1);
	m->touched += !m->seen[page];
	m->seen[page] = 1;
}

/* What issue and README promise of random touches, and what a walk must keep too. */
static void expect_modest(const struct model *m)
{
	cr_assert_leq(m->committed, 2 * m->touched + 32 * MIB / PAGE, "%lu pages for %lu",
	              (unsigned long)m->committed, (unsigned long)m->touched);
}

static uint64_t whole_blocks(const struct model *m)
{
	uint64_t n = 0;

	for (uint32_t b = 0; b < m->blocks; b++)
		n += m->kind[b] == WHOLE;
	return n;
}

/* --- walks ----------------------------------------------------------------------------------- */

Test(policy, a_walk_upwards)
{
	struct model *m = new_model(128);

	for (uint64_t p = 0; p < 128 * 512; p++)
		touch(m, p);
	cr_assert_leq(m->events, 12, "%u events for 256 MiB", m->events);
	cr_assert_eq(whole_blocks(m), 128);
	free(m);
}

Test(policy, a_walk_downwards)
{
	struct model *m = new_model(128);

	for (uint64_t p = 128 * 512; p-- > 0;)
		touch(m, p);
	cr_assert_leq(m->events, 12, "%u events for 256 MiB", m->events);
	cr_assert_geq(whole_blocks(m), 126);
	free(m);
}

/* Wherever it stops, it has not been given much more than it walked through. */
Test(policy, a_walk_that_stops)
{
	for (uint64_t end = 1; end < 40 * 512; end += 211) {
		struct model *m = new_model(64);

		for (uint64_t p = 0; p < end; p++)
			touch(m, p);
		expect_modest(m);
		cr_assert_leq(m->committed, end + 512 + 64, "nor more than a block beyond it");
		free(m);
	}
}

/* A walk that turns into touches far apart is found out at its next proof. */
Test(policy, a_walk_that_thins_out)
{
	struct model *m = new_model(1024);
	uint64_t walked = 8 * 512;

	for (uint64_t p = 0; p < walked; p++)
		touch(m, p);
	for (uint64_t p = walked; p < 1024 * 512; p += 512)
		touch(m, p);
	cr_assert_leq(whole_blocks(m), 3 * 8, "%lu whole", (unsigned long)whole_blocks(m));
	expect_modest(m);
	free(m);
}

/* So is one of several, wherever: none spends without end what the others have earned. */
Test(policy, walks_that_thin_out)
{
	for (uint64_t walked = 1; walked < 200; walked += 33) {
		for (uint64_t walks = 1; walks <= 4; walks++) {
			struct model *m = new_model(1024);
			uint64_t each = 1024 / walks;

			for (uint64_t p = 0; p < walked * 512; p++)
				for (uint64_t w = 0; w < walks; w++)
					touch(m, w * each * 512 + p);
			for (uint64_t b = walked; b < each; b++)
				for (uint64_t w = 0; w < walks; w++)
					touch(m, (w * each + b) * 512);
			expect_modest(m);
			free(m);
		}
	}
}

/* Dense only where a proof is asked for, thin behind it: each grant is walked into and left. */
Test(policy, walks_begun_and_left)
{
	struct model *m = new_model(1024);

	for (uint64_t b = 0; b + 8 <= 1024; b += 8)
		for (uint64_t p = 0; p < 40; p++)
			touch(m, b * 512 + p);
	/* Each has been given two blocks by its own proof, and none by another's. */
	cr_assert_leq(whole_blocks(m), 2 * 1024 / 8);
	free(m);
}

Test(policy, several_walks_at_once)
{
	struct model *m = new_model(512);

	for (uint64_t p = 0; p < 128 * 512; p++)
		for (uint64_t walk = 0; walk < 4; walk++)
			touch(m, walk * 128 * 512 + (walk & 1 ? 128 * 512 - 1 - p : p));
	cr_assert_leq(m->events, 4 * 20);
	cr_assert_geq(whole_blocks(m), 508);
	free(m);
}

Test(policy, dense_strides_are_walks)
{
	for (uint64_t stride = 2; stride <= 16; stride *= 2) {
		struct model *m = new_model(128);

		for (uint64_t p = 0; p < 128 * 512; p += stride)
			touch(m, p);
		cr_assert_leq(m->events, 20, "stride %lu: %u", (unsigned long)stride, m->events);
		cr_assert_eq(whole_blocks(m), 128);
		free(m);
	}
}

/* From the start of each block, from its end, from anywhere: not dense, so not whole. */
Test(policy, sparse_strides_are_none)
{
	static const uint64_t strides[] = {32, 64, 100, 256, 511, 512, 513, 1024, 5000};

	for (size_t i = 0; i < sizeof(strides) / sizeof(strides[0]); i++) {
		for (uint64_t from = 0; from < 512; from += 511) {
			struct model *m = new_model(1024);

			for (uint64_t p = from; p < 1024 * 512; p += strides[i])
				touch(m, p);
			cr_assert_eq(whole_blocks(m), 0, "stride %lu", (unsigned long)strides[i]);
			cr_assert_leq(m->events, 60, "stride %lu: %u events",
			              (unsigned long)strides[i], m->events);
			expect_modest(m);
			free(m);
		}
	}
}

/* --- lone touches ---------------------------------------------------------------------------- */

Test(policy, random_touches_are_soon_the_kernels)
{
	struct rng rng = {test_seed()};
	struct model *m = new_model(512);

	for (unsigned i = 0; i < 4096; i++)
		touch(m, rng_below(&rng, 512 * 512));
	cr_assert_leq(m->events, 60, "%u events", m->events);
	expect_modest(m);
	free(m);
}

/* In little memory as well: what a random walk covers in the end is not known at its beginning. */
Test(policy, random_touches_of_little_memory)
{
	struct rng rng = {test_seed()};

	for (uint32_t blocks = 1; blocks <= 64; blocks *= 2) {
		struct model *m = new_model(blocks);

		for (unsigned i = 0; i < 40 * blocks; i++)
			touch(m, rng_below(&rng, blocks * 512));
		cr_assert_leq(m->events, 60);
		expect_modest(m);
		free(m);
	}
}

/* Touches here and there first, as of a booting guest, must not spoil the walk that follows. */
Test(policy, a_walk_after_lone_touches)
{
	struct rng rng = {test_seed()};
	struct model *m = new_model(1024);

	for (unsigned i = 0; i < 20; i++)
		touch(m, rng_below(&rng, 64 * 512));
	for (uint64_t p = 256 * 512; p < 1024 * 512; p++)
		touch(m, p);
	cr_assert_geq(whole_blocks(m), 600, "%lu whole", (unsigned long)whole_blocks(m));
	cr_assert_leq(m->history.lone, 4, "a walk that proves itself counts against them");
	free(m);
}

Test(policy, a_lone_touch_gets_little)
{
	struct model *m = new_model(16);

	touch(m, 3000);
	cr_assert_eq(m->events, 1);
	cr_assert_leq(m->committed, 16);
	free(m);
}

/* --- limits, page sizes ---------------------------------------------------------------------- */

/* Where each block must be collapsed, or little room is left, one answer gives one block. */
Test(policy, one_block_at_a_time)
{
	struct model *m = new_model(128);

	m->at_once = 1;
	for (uint64_t p = 0; p < 128 * 512; p++)
		touch(m, p);
	cr_assert_leq(m->events, 128 + 20);
	cr_assert_geq(m->events, 128);
	cr_assert_eq(whole_blocks(m), 128);
	free(m);
}

Test(policy, no_more_than_there_is_room_for)
{
	static const enum page_size sizes[] = {PAGE_SIZE_AUTO, PAGE_SIZE_4K, PAGE_SIZE_2M};

	for (uint32_t room = 1; room <= 512; room *= 2) {
		for (unsigned i = 0; i < 3; i++) {
			struct policy_history h = {.lone = 1000};
			struct policy_event e = {sizes[i], 100 * 512, true, 63, 63, room, room};

			for (unsigned k = 0; k < 8; k++) {
				struct policy_choice c = policy_choose(&h, &e);
				bool in_pages = policy_in_pages(c.kind);

				cr_assert(in_pages || c.count <= room);
				e.page = (c.first + c.count) * (in_pages ? 1 : 512);
			}
		}
	}
}

Test(policy, small_pages_are_never_whole)
{
	struct model *m = new_model(64);

	m->page_size = PAGE_SIZE_4K;
	for (uint64_t p = 0; p < 64 * 512; p++)
		touch(m, p);
	cr_assert_eq(whole_blocks(m), 0);
	cr_assert_leq(m->events, 20);
	cr_assert_leq(m->committed, 64 * 512);
	free(m);
}

Test(policy, large_pages_come_whole)
{
	struct rng rng = {test_seed()};
	struct model *m = new_model(64);

	m->page_size = PAGE_SIZE_2M;
	for (unsigned i = 0; i < 1000; i++)
		touch(m, rng_below(&rng, 64 * 512));
	cr_assert_eq(whole_blocks(m), 64);
	free(m);
}

/* Two vCPUs that wait for one page are two events; the second one says nothing new. */
Test(policy, repeats_are_not_counted)
{
	struct policy_history h = {0};
	struct policy_event e = {PAGE_SIZE_AUTO, 1000, true, 63, 63, 512, 512};

	(void)policy_choose(&h, &e);
	e.fresh = false;
	for (unsigned i = 0; i < 50; i++)
		cr_assert_eq(policy_choose(&h, &e).kind, POLICY_CLUSTER);
	cr_assert_eq(h.lone, 1);
}

/* --- accesses known beforehand --------------------------------------------------------------- */

Test(policy, known_accesses_get_what_they_touch)
{
	static const enum page_size sizes[] = {PAGE_SIZE_AUTO, PAGE_SIZE_4K, PAGE_SIZE_2M};

	for (unsigned i = 0; i < 3; i++) {
		for (uint64_t page = 0; page < 512; page += 7) {
			for (uint64_t n = 1; page + n <= 512; n += 5) {
				struct policy_choice c =
					policy_choose_known(sizes[i], 512 * 9 + page, n);

				if (c.kind == POLICY_WHOLE) {
					cr_assert(sizes[i] == PAGE_SIZE_2M || n >= 256);
					cr_assert_neq(sizes[i], PAGE_SIZE_4K);
					cr_assert_eq(c.first, 9);
					cr_assert_eq(c.count, 1);
					continue;
				}
				cr_assert_eq(c.kind, POLICY_CLUSTER);
				cr_assert(c.first >= 512 * 9 && c.first <= 512 * 9 + page);
				cr_assert(c.first + c.count >= 512 * 9 + page + n);
				cr_assert(c.first + c.count <= 512 * 10);
				cr_assert_lt(c.count, n + 32);
			}
		}
	}
}

/* --- following walks of writes through shared memory ----------------------------------------- */

struct clone {
	struct policy_history history;
	uint32_t room; /* blocks there are frames for; 0: as many as wanted */
	uint32_t blocks;
	uint64_t touched; /* pages written at least once */
	uint64_t asked;   /* pages that the kernel had to copy */
	uint8_t own[MAX_BLOCKS];
	uint8_t wrote[MAX_PAGES];
	uint8_t fresh[MAX_PAGES]; /* private since the last look */
};

static struct clone *policy_clone(uint32_t blocks)
{
	struct clone *c = calloc(1, sizeof(*c));

	cr_assert_not_null(c);
	c->blocks = blocks;
	return c;
}

static void clone_write(struct clone *c, uint64_t page)
{
	c->touched += !c->wrote[page];
	if (!c->wrote[page] && !c->own[page / 512]) {
		c->fresh[page] = 1;
		c->asked++;
	}
	c->wrote[page] = 1;
}

static uint32_t may_own(const struct clone *c, uint64_t block, int way)
{
	uint32_t n = 0;

	while (n <= POLICY_AHEAD && block < c->blocks && !c->own[block]) {
		n++;
		block += (uint64_t)(int64_t)way;
	}
	return n;
}

static void clone_ask(struct clone *c, struct policy_growth g)
{
	struct policy_follow f;

	g.room = c->room ? c->room : POLICY_AHEAD + 1;
	g.above = may_own(c, g.high / 512, 1);
	g.below = g.low ? may_own(c, (g.low - 1) / 512, -1) : 0;
	f = policy_follow(&c->history, &g);
	cr_assert_leq(f.count, g.room);
	for (uint64_t b = f.first; b < f.first + f.count; b++) {
		cr_assert_lt(b, c->blocks);
		cr_assert_not(c->own[b], "copied twice");
		c->own[b] = 1;
	}
}

static void clone_look(struct clone *c)
{
	struct policy_growth g = {0};

	for (uint64_t p = 0; p < c->blocks * UINT64_C(512); p++) {
		if (!c->fresh[p])
			continue;
		c->fresh[p] = 0;
		if (g.pages > 0 && p - g.high > 3) {
			clone_ask(c, g);
			g.pages = 0;
		}
		if (g.pages++ == 0)
			g.low = p;
		g.high = p + 1;
	}
	if (g.pages > 0)
		clone_ask(c, g);
}

/* What it has alone: whole blocks, and the pages in between. */
static uint64_t clone_owns(const struct clone *c)
{
	uint64_t pages = 0;

	for (uint64_t p = 0; p < c->blocks * UINT64_C(512); p++)
		pages += c->own[p / 512] || c->wrote[p];
	return pages;
}

static void expect_modest_clone(const struct clone *c)
{
	cr_assert_leq(clone_owns(c), 2 * c->touched + 32 * MIB / PAGE, "%lu pages for %lu",
	              (unsigned long)clone_owns(c), (unsigned long)c->touched);
}

/* A look after every so many pages that the kernel had to copy. */
static void clone_writes(struct clone *c, uint64_t page, unsigned tick)
{
	uint64_t before = c->asked / tick;

	clone_write(c, page);
	if (c->asked / tick != before)
		clone_look(c);
}

Test(policy, follows_a_walk)
{
	for (unsigned tick = 20; tick <= 1000; tick *= 3) {
		for (int down = 0; down < 2; down++) {
			struct clone *c = policy_clone(128);

			for (uint64_t p = 0; p < 128 * 512; p++)
				clone_writes(c, down ? 128 * 512 - 1 - p : p, tick);
			/* Two looks, one for each doubling, what is left at the end. */
			cr_assert_leq(c->asked, 11 * max_u64(tick, 512), "tick %u, down %d: %lu",
			              tick, down, (unsigned long)c->asked);
			free(c);
		}
	}
}

/* One growth is no walk; nothing is copied for it, however long it is. */
Test(policy, follows_what_has_proved_itself)
{
	struct clone *c = policy_clone(64);

	for (uint64_t p = 1000; p < 9000; p++)
		clone_write(c, p);
	clone_look(c);
	cr_assert_eq(clone_owns(c), 8000);
	for (uint64_t p = 20000; p < 20400; p++)
		clone_write(c, p);
	clone_look(c);
	cr_assert_eq(clone_owns(c), 8400, "another walk's beginning");
	free(c);
}

/* Wherever it stops, it has not been given much more than it walked through. */
Test(policy, follows_no_further_than_it_walked)
{
	for (uint64_t end = 1; end < 200 * 512; end += 1777) {
		struct clone *c = policy_clone(256);

		for (uint64_t p = 0; p < end; p++)
			clone_writes(c, p, 40);
		expect_modest_clone(c);
		cr_assert_leq(clone_owns(c), 2 * end + 3 * 512);
		free(c);
	}
}

Test(policy, follows_several_walks)
{
	struct clone *c = policy_clone(512);

	for (uint64_t p = 0; p < 128 * 512; p++)
		for (uint64_t walk = 0; walk < 4; walk++)
			clone_writes(c, walk * 128 * 512 + (walk & 1 ? 128 * 512 - 1 - p : p), 160);
	cr_assert_leq(c->asked, 4 * 12 * 512, "%lu", (unsigned long)c->asked);
	expect_modest_clone(c);
	free(c);
}

/* Every other page: followed a block at a time, and what was walked through has doubled. */
Test(policy, follows_small_strides_slowly)
{
	struct clone *c = policy_clone(256);

	for (uint64_t p = 0; p < 250 * 512; p += 2) {
		clone_writes(c, p, 40);
		if (p % 1024 == 0)
			expect_modest_clone(c);
	}
	cr_assert_leq(c->asked, 250 * 512 / 2 / 3, "%lu", (unsigned long)c->asked);
	free(c);
}

Test(policy, follows_no_large_strides)
{
	for (uint64_t stride = 3; stride <= 600; stride += stride / 2) {
		struct clone *c = policy_clone(256);

		for (uint64_t p = 0; p < 256 * 512; p += stride)
			clone_writes(c, p, 40);
		cr_assert_eq(clone_owns(c), c->touched, "stride %lu", (unsigned long)stride);
		free(c);
	}
}

Test(policy, follows_no_random_writes)
{
	struct rng rng = {test_seed()};

	for (unsigned tick = 20; tick <= 2000; tick *= 10) {
		struct clone *c = policy_clone(128);

		for (unsigned i = 0; i < 4096; i++)
			clone_writes(c, rng_below(&rng, 128 * 512), tick);
		cr_assert_eq(clone_owns(c), c->touched);
		/* In the end all of it. */
		for (unsigned i = 0; i < 1000 * 1000; i++) {
			clone_writes(c, rng_below(&rng, 128 * 512), tick);
			if (i % 10000 == 0)
				expect_modest_clone(c);
		}
		free(c);
	}
}

Test(policy, follows_within_the_room_there_is)
{
	for (uint32_t room = 1; room <= 64; room *= 4) {
		struct clone *c = policy_clone(128);

		c->room = room;
		for (uint64_t p = 0; p < 128 * 512; p++)
			clone_writes(c, p, 40);
		cr_assert_leq(c->asked, 128 * 512 / room, "%lu", (unsigned long)c->asked);
		free(c);
	}
}

/* At the first and the last page of memory, and beside blocks that must not be copied. */
Test(policy, follows_to_the_end_and_no_further)
{
	struct policy_history h = {0};
	struct policy_growth g = {.low = 600, .high = 640, .pages = 40, .room = 65};

	cr_assert_eq(policy_follow(&h, &g).count, 0);
	g = (struct policy_growth){.low = 560, .high = 600, .pages = 40, .below = 2, .room = 65};
	struct policy_follow f = policy_follow(&h, &g);

	cr_assert(f.first == 0 && f.count == 2 && f.way == -1);
	g = (struct policy_growth){.low = 5000, .high = 5040, .pages = 40, .above = 9, .room = 0};
	cr_assert_eq(policy_follow(&h, &g).count, 0);
	g = (struct policy_growth){.low = 5040, .high = 5080, .pages = 40, .above = 9, .room = 0};
	cr_assert_eq(policy_follow(&h, &g).count, 0, "no frames");
	g = (struct policy_growth){.low = 5080, .high = 5120, .pages = 40, .above = 0, .room = 9};
	cr_assert_eq(policy_follow(&h, &g).count, 0, "nothing that may be copied");
	g = (struct policy_growth){.low = 5120, .high = 5160, .pages = 40, .above = 1, .room = 9};
	f = policy_follow(&h, &g);
	cr_assert(f.first == 10 && f.count == 1 && f.way == 1);
}
