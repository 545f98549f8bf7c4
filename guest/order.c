// SPDX-License-Identifier: MIT
/*
 * guest/order.c - makes and checks orders of touches.
 *
 * Which entry is the first of its block is found by a byte per block behind the entries. An order
 * from outside is believed in that: its flags only say what is counted as what.
 */
#include "guest/order.h"

#include <stddef.h>

#include "guest/runtime.h"

#define BLOCK_PAGES (MEMWALK_BLOCK_SIZE / MEMWALK_PAGE_SIZE)

/* ---- each page of a part once ---- */

struct cursor {
	const struct order_plan *plan;
	uint64_t at;     /* stride: next page; random: next number to permute */
	uint64_t column; /* stride: where this round began */
	unsigned half;   /* random: bits of half a Feistel block */
};

static struct cursor cursor_start(const struct order_plan *p)
{
	struct cursor c = {.plan = p, .half = 1};

	while (UINT64_C(1) << 2 * c.half < p->pages)
		c.half++;
	return c;
}

/* Permute the numbers of 2 * half bits: four Feistel rounds, which are one to one. */
static uint64_t permute(uint64_t x, unsigned half, uint64_t seed)
{
	uint64_t mask = (UINT64_C(1) << half) - 1;
	uint64_t left = x >> half, right = x & mask;

	for (uint64_t round = 1; round <= 4; round++) {
		uint64_t next = left ^ (mix64(right ^ mix64(seed ^ round << 56)) & mask);

		left = right;
		right = next;
	}
	return left << half | right;
}

/* Numbers that the permutation sends beyond the part are skipped: at most three of four. */
static uint64_t next_random(struct cursor *c)
{
	uint64_t page;

	do {
		page = permute(c->at++, c->half, c->plan->seed);
	} while (page >= c->plan->pages);
	return page;
}

static uint64_t next_stride(struct cursor *c)
{
	uint64_t page = c->at;

	/* Compared before it is added: a stride may be as large as it likes. */
	if (c->plan->stride < c->plan->pages - page)
		c->at += c->plan->stride;
	else
		c->at = ++c->column;
	return page;
}

/* To be called `pages` times. */
static uint64_t cursor_next(struct cursor *c)
{
	return c->plan->random ? next_random(c) : next_stride(c);
}

/* ---- orders ---- */

uint64_t order_bytes(uint64_t pages)
{
	return pages * sizeof(uint32_t) + pages / BLOCK_PAGES + 1;
}

void order_make(const struct order_plan *p, uint32_t *entries)
{
	const uint32_t kind = MEMWALK_PAGE | (p->write ? MEMWALK_WRITE : 0);
	uint8_t *seen = (uint8_t *)(entries + p->pages * p->parts);

	for (uint64_t part = 0; part < p->parts; part++) {
		struct cursor c = cursor_start(p);

		for (uint64_t i = 0; i < p->pages; i++) {
			uint64_t page = part * p->pages + cursor_next(&c);
			uint8_t *block = &seen[page / BLOCK_PAGES];

			*entries++ = (uint32_t)page | kind | (*block ? 0 : MEMWALK_BLOCK);
			*block = 1;
		}
	}
}

const char *order_check(const struct memwalk_order *o, uint64_t size, uint64_t pages, uint64_t *at)
{
	*at = 0;
	if (size < sizeof(*o))
		return "shorter than its head";
	if (o->magic != MEMWALK_MAGIC)
		return "no order at all (magic)";
	if (o->version != MEMWALK_VERSION || o->reserved != 0)
		return "another version's";
	if (o->touches == 0)
		return "empty";
	if (o->touches != (size - sizeof(*o)) / sizeof(o->entries[0]) || size % 4 != 0)
		return "not as long as it says";
	for (uint64_t i = 0; i < o->touches; i++) {
		uint32_t e = o->entries[i];

		*at = i;
		if ((e & MEMWALK_INDEX) >= pages)
			return "a page beyond size=";
		if ((e & MEMWALK_BLOCK) && !(e & MEMWALK_PAGE))
			return "first of a block, but not of its page";
	}
	return NULL;
}
