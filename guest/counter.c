// SPDX-License-Identifier: MIT
/*
 * guest/counter.c - a template worth cloning, whose clones show any leak between them.
 *
 * Warms up: draws a nonce that exists in RAM only, fills a table from it, starts a counter on each
 * of a few pages at a value that follows from it, prints
 *
 *     template nonce 0123456789abcdef table 4 MiB
 *
 * and rings READY. What goes on from there, the template (clone 0) or a clone, checks that every
 * counter still has the template's value, counts each up as many times as its own number says,
 * checks table pages, and prints one line:
 *
 *     nonce 0123456789abcdef clone 17 increments 17 table ok [arg "..."]
 *
 * Arguments: table=SIZE (default 4M); check=all to check all of the table, not 16 pages of it;
 * ready=N to ring READY N times (default 1), for chains of clones of clones: only what goes on from
 * the last one works.
 * Exits 0; 3 when the table is wrong, 4 when a counter holds what this VM never wrote (LEAK).
 * A clone writes COUNTERS pages, its stack and the console's.
 */
#include "guest/isa.h"

#define COUNTERS       8u
#define SAMPLE         16u
#define PAGE_WORDS     (GUEST_PAGE / sizeof(uint64_t))
#define ENTROPY_ROUNDS 64u

/* On each counter page: the counter, and last the number of the VM that moved it. */
struct counter_page {
	volatile uint64_t count;
	uint64_t unused[PAGE_WORDS - 2];
	volatile uint64_t owner;
};
_Static_assert(sizeof(struct counter_page) == GUEST_PAGE, "one page");

struct warm {
	uint64_t nonce;
	uint64_t checksum; /* over the table, as it was filled */
	uint64_t table_words;
	uint64_t *table;
	struct counter_page *counters;
};

/* Lies in RAM across the snapshot, like everything here. */
static struct warm warm;

/* From timing jitter: of page faults (these pages are touched for the first time) and the rest. */
static uint64_t draw_nonce(struct counter_page *counters)
{
	uint64_t nonce = isa_cycles();

	for (unsigned i = 0; i < ENTROPY_ROUNDS; i++) {
		counters[i % COUNTERS].owner = 0;
		isa_relax();
		nonce = mix64(nonce + isa_cycles());
	}
	return nonce;
}

static uint64_t table_word(uint64_t index)
{
	return mix64(warm.nonce + index);
}

static uint64_t counter_start(unsigned i)
{
	return mix64(~warm.nonce - i);
}

static bool warm_up(void)
{
	uint64_t room, bytes;
	struct counter_page *heap = guest_heap(GUEST_PAGE, &room);

	if (!arg_size("table=", 4u << 20, &bytes))
		return false;
	bytes &= ~(GUEST_PAGE - 1);
	if (bytes < SAMPLE * GUEST_PAGE || room < COUNTERS * GUEST_PAGE ||
	    bytes > room - COUNTERS * GUEST_PAGE) {
		print("counter: table of %lu KiB does not fit %lu KiB of heap (least: %lu KiB)\n",
		      bytes >> 10, room >> 10, SAMPLE * GUEST_PAGE >> 10);
		return false;
	}
	warm.nonce = draw_nonce(heap);
	warm.counters = heap;
	warm.table = (uint64_t *)(heap + COUNTERS);
	warm.table_words = bytes / sizeof(uint64_t);
	for (unsigned i = 0; i < COUNTERS; i++)
		heap[i].count = counter_start(i);
	for (uint64_t i = 0; i < warm.table_words; i++) {
		warm.table[i] = table_word(i);
		warm.checksum += warm.table[i];
	}
	return true;
}

/* Count up in memory, one by one. Return: false after printing the line of a leak. */
static bool count(uint64_t clone)
{
	for (unsigned i = 0; i < COUNTERS; i++) {
		struct counter_page *c = &warm.counters[i];

		if (c->count != counter_start(i) || c->owner != 0) {
			print("nonce %016lx clone %lu LEAK counter %u: found %016lx of VM %lu, ",
			      warm.nonce, clone, i, c->count, c->owner);
			print("template had %016lx\n", counter_start(i));
			return false;
		}
		for (uint64_t n = 0; n < clone; n++)
			c->count++;
		c->owner = clone;
	}
	return true;
}

/* What the counters have moved by, UINT64_MAX when they disagree. */
static uint64_t increments(void)
{
	uint64_t moved = warm.counters[0].count - counter_start(0);

	for (unsigned i = 1; i < COUNTERS; i++)
		if (warm.counters[i].count - counter_start(i) != moved)
			return UINT64_MAX;
	return moved;
}

static bool table_page_ok(uint64_t page)
{
	for (uint64_t i = page * PAGE_WORDS; i < (page + 1) * PAGE_WORDS; i++)
		if (warm.table[i] != table_word(i))
			return false;
	return true;
}

/* A sample spread over the whole table; clones look at different pages. */
static bool table_sample_ok(uint64_t clone)
{
	uint64_t pages = warm.table_words / PAGE_WORDS;

	for (uint64_t i = 0; i < SAMPLE; i++)
		if (!table_page_ok((i * pages / SAMPLE + clone) % pages))
			return false;
	return true;
}

static bool table_all_ok(void)
{
	uint64_t checksum = 0;

	for (uint64_t page = 0; page < warm.table_words / PAGE_WORDS; page++)
		if (!table_page_ok(page))
			return false;
	for (uint64_t i = 0; i < warm.table_words; i++)
		checksum += warm.table[i];
	return checksum == warm.checksum;
}

int guest_main(void)
{
	static const char *const allowed[] = {"table=", "check=", "ready=", NULL};
	const struct abi_request *self;
	uint64_t links;
	bool ok;

	if (!args_allowed(allowed) || !arg_size("ready=", 1, &links) || !warm_up())
		return GUEST_USAGE;
	print("template nonce %016lx table %lu MiB\n", warm.nonce,
	      warm.table_words * sizeof(uint64_t) >> 20);
	do {
		self = guest_ready();
	} while (links-- > 1);

	if (!count(self->clone))
		return GUEST_LEAK;
	ok = word_is(arg_find("check="), "all") ? table_all_ok() : table_sample_ok(self->clone);
	ok = ok && increments() == self->clone;
	print("nonce %016lx clone %lu increments %lu table %s", warm.nonce, self->clone,
	      increments(), ok ? "ok" : "WRONG");
	if (self->args[0])
		print(" arg \"%s\"", self->args);
	print("\n");
	return ok ? GUEST_OK : GUEST_MISMATCH;
}
