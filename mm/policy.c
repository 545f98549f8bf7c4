// SPDX-License-Identifier: MIT
#include "mm/policy.h"

/* A walk goes on within this many pages of where it was expected: larger strides are no walk. */
#define SLACK_PAGES 16u

/* Events in a row, where they were expected, that make a block dense. */
#define PROOF 2u

/* Small enough that touches 32 pages apart are no walk, for a block of them is mostly unused. */
#define CLUSTER_PAGES 16u

/* Of a walk's later proofs. */
#define PROOF_PAGES 4u

/* Blocks that walks may be given unproven beyond as many as have been proven to be walked. */
#define TRUST 16u

/* Lone touches that get clusters; then a neighbourhood doubles with every second one. */
#define LONE_CLUSTERS 8u

static uint64_t block_number(uint64_t page)
{
	return page >> MM_BLOCK_ORDER;
}

static struct policy_choice cluster(uint64_t page, uint64_t pages)
{
	return (struct policy_choice){POLICY_CLUSTER, align_down(page, pages), pages};
}

/* 1: `page` is where the stream goes on upwards, -1: downwards, 0: neither. */
static int follows(const struct policy_stream *s, uint64_t page)
{
	if (s->used == 0)
		return 0;
	if (s->way >= 0 && page >= s->high && page - s->high < SLACK_PAGES)
		return 1;
	if (s->way <= 0 && page < s->low && s->low - page <= SLACK_PAGES)
		return -1;
	return 0;
}

static struct policy_stream *find_stream(struct policy_history *h, uint64_t page, int *way)
{
	for (unsigned i = 0; i < POLICY_STREAMS; i++) {
		*way = follows(&h->streams[i], page);
		if (*way)
			return &h->streams[i];
	}
	return NULL;
}

/* Somebody asks for what a stream was given: another vCPU, whose event came later. */
static bool is_repeat(const struct policy_history *h, const struct policy_event *e)
{
	for (unsigned i = 0; i < POLICY_STREAMS; i++) {
		const struct policy_stream *s = &h->streams[i];

		if (s->used && !e->fresh && e->page >= s->low && e->page < s->high)
			return true;
	}
	return false;
}

static struct policy_stream *oldest_stream(struct policy_history *h)
{
	struct policy_stream *oldest = &h->streams[0];

	for (unsigned i = 1; i < POLICY_STREAMS; i++)
		if (h->streams[i].used < oldest->used)
			oldest = &h->streams[i];
	return oldest;
}

/* What the stream was given last is where it is expected to go on. */
static void remember(struct policy_stream *s, struct policy_choice c)
{
	unsigned shift = policy_in_pages(c.kind) ? 0 : MM_BLOCK_ORDER;

	s->low = c.first << shift;
	s->high = (c.first + c.count) << shift;
}

/* The touched block and at most `more` of those that the stream comes to next. */
static struct policy_choice blocks_ahead(const struct policy_event *e, int way, uint32_t more)
{
	uint64_t block = block_number(e->page);
	enum policy_kind kind = e->page_size == PAGE_SIZE_4K ? POLICY_SMALL : POLICY_WHOLE;
	uint64_t n = min_u64(more, way < 0 ? e->below : e->above);

	n = min_u64(n, e->room - 1);
	if (kind == POLICY_WHOLE)
		n = min_u64(n, e->at_once - 1);
	return (struct policy_choice){kind, way < 0 ? block - n : block, n + 1};
}

/* The stream may have so many blocks more without a proof: they were earned, by it or by others. */
static bool is_trusted(const struct policy_history *h, const struct policy_stream *s,
                       uint32_t blocks)
{
	return s->ahead > 0 && h->unproven + blocks <= h->walked + TRUST;
}

/* The stream is dense behind what it was given: it walked through that. */
static void prove(struct policy_history *h, struct policy_stream *s)
{
	h->walked += s->unproven;
	h->unproven -= s->unproven;
	s->unproven = 0;
}

static void allow(struct policy_history *h, struct policy_stream *s, uint32_t blocks)
{
	s->unproven += blocks;
	h->unproven += blocks;
}

/*
 * New credit for a stream that has none left. Small pages that nobody touches cost nothing: no
 * proof is wanted for them. Return: false when it must prove itself first.
 */
static bool extend(struct policy_history *h, struct policy_stream *s, enum page_size page_size)
{
	uint32_t ahead = s->ahead ? (uint32_t)min_u64(2u * s->ahead, POLICY_AHEAD) : 1;

	if (page_size != PAGE_SIZE_4K) {
		/* One more than it gets, for its next proof. */
		if (!is_trusted(h, s, ahead + 2)) {
			if (++s->hits < PROOF)
				return false;
			prove(h, s);
		}
		allow(h, s, ahead + 1);
	}
	s->ahead = (uint16_t)ahead;
	s->credit = (uint16_t)(ahead + 1);
	s->hits = 0;
	h->lone /= 2;
	return true;
}

/*
 * A few pages, to see whether it comes to those behind them. Their block may be brought in whole,
 * so it counts like those that are given.
 */
static struct policy_choice prove_again(struct policy_history *h, struct policy_stream *s,
                                        const struct policy_event *e)
{
	struct policy_choice c = cluster(e->page, s->ahead ? PROOF_PAGES : CLUSTER_PAGES);

	if (s->ahead == 0 || !is_trusted(h, s, 1))
		return c;
	c.kind = POLICY_PROOF;
	if (e->fresh)
		allow(h, s, 1);
	return c;
}

static struct policy_choice go_on(struct policy_history *h, struct policy_stream *s,
                                  const struct policy_event *e, int way)
{
	struct policy_choice c;

	s->way = (int8_t)way;
	if (s->credit == 0 && !extend(h, s, e->page_size))
		return prove_again(h, s, e);
	c = blocks_ahead(e, way, s->credit - 1u);
	s->credit = (uint16_t)(s->credit - c.count);
	return c;
}

/* The aligned 2^n blocks around the touched one. The caller leaves out what is beyond RAM. */
static struct policy_choice neighbourhood(const struct policy_event *e, uint32_t doublings)
{
	uint64_t n = 1;

	while (n < POLICY_AROUND && doublings-- > 0 && 2 * n <= e->room)
		n *= 2;
	return (struct policy_choice){POLICY_SMALL, align_down(block_number(e->page), n), n};
}

static struct policy_choice lone_touch(struct policy_history *h, const struct policy_event *e)
{
	uint32_t before = h->lone;

	if (h->lone < UINT32_MAX)
		h->lone++;
	if (e->page_size == PAGE_SIZE_4K)
		return neighbourhood(e, before);
	if (before < LONE_CLUSTERS)
		return cluster(e->page, CLUSTER_PAGES);
	return neighbourhood(e, (before - LONE_CLUSTERS) / 2);
}

struct policy_choice policy_choose(struct policy_history *h, const struct policy_event *e)
{
	struct policy_stream *s;
	struct policy_choice c;
	int way;

	if (e->page_size == PAGE_SIZE_2M || e->page_size == PAGE_SIZE_1G)
		return blocks_ahead(e, 1, POLICY_AHEAD);
	s = find_stream(h, e->page, &way);
	if (!s && is_repeat(h, e))
		return cluster(e->page, CLUSTER_PAGES);
	if (s) {
		c = go_on(h, s, e, way);
	} else {
		s = oldest_stream(h);
		*s = (struct policy_stream){0};
		c = lone_touch(h, e);
	}
	s->used = ++h->tick;
	remember(s, c);
	return c;
}

struct policy_choice policy_choose_known(enum page_size page_size, uint64_t page, uint64_t count)
{
	const struct policy_choice whole = {POLICY_WHOLE, block_number(page), 1};
	uint64_t first = align_down(page, CLUSTER_PAGES);
	uint64_t end = align_up(page + count, CLUSTER_PAGES);

	switch (page_size) {
	case PAGE_SIZE_2M:
	case PAGE_SIZE_1G:
		return whole;
	case PAGE_SIZE_AUTO:
		if (count >= MM_BLOCK_PAGES / 2)
			return whole;
		break;
	case PAGE_SIZE_4K:
		break;
	}
	return (struct policy_choice){POLICY_CLUSTER, first, end - first};
}

/* ---- following walks through shared memory ---- */

/* Fewer pages are not worth a thought: any program writes a few in a row. */
#define GROWTH_PAGES 16u

/* Every other page at least; and three of four for more than one block ahead. */
static bool is_walk(const struct policy_growth *g)
{
	return g->pages >= GROWTH_PAGES && 2 * g->pages >= g->high - g->low;
}

static bool is_dense(const struct policy_growth *g)
{
	return 4 * g->pages >= 3 * (g->high - g->low);
}

static bool is_near(uint64_t a, uint64_t b)
{
	return (a > b ? a - b : b - a) < SLACK_PAGES;
}

static struct policy_stream *find_grown(struct policy_history *h, const struct policy_growth *g,
                                        int *way)
{
	for (unsigned i = 0; i < POLICY_STREAMS; i++) {
		struct policy_stream *s = &h->streams[i];

		*way = 0;
		if (s->used && s->way >= 0 && is_near(s->high, g->low))
			*way = 1;
		else if (s->used && s->way <= 0 && is_near(s->low, g->high))
			*way = -1;
		if (*way)
			return s;
	}
	return NULL;
}

/* The block that the walk stands in, and what it may have ahead. */
static struct policy_follow walk_ahead(struct policy_stream *s, const struct policy_growth *g)
{
	uint64_t n, most = min_u64(s->way < 0 ? g->below : g->above, g->room);
	struct policy_follow f = {.way = s->way};

	s->ahead = (uint16_t)(s->ahead && is_dense(g) ? min_u64(2u * s->ahead, POLICY_AHEAD) : 1);
	n = min_u64(s->ahead + 1u, most);
	if (n == 0)
		return f;
	f.count = n;
	f.first = s->way < 0 ? block_number(g->low - 1) - (n - 1) : block_number(g->high);
	if (s->way < 0)
		s->low = f.first << MM_BLOCK_ORDER;
	else
		s->high = (f.first + n) << MM_BLOCK_ORDER;
	return f;
}

struct policy_follow policy_follow(struct policy_history *h, const struct policy_growth *g)
{
	struct policy_follow none = {0};
	struct policy_stream *s;
	int way;

	if (!is_walk(g))
		return none;
	s = find_grown(h, g, &way);
	if (!s) {
		s = oldest_stream(h);
		*s = (struct policy_stream){.low = g->low, .high = g->high, .used = ++h->tick};
		return none;
	}
	s->way = (int8_t)way;
	s->used = ++h->tick;
	s->low = g->low;
	s->high = g->high;
	return walk_ahead(s, g);
}
