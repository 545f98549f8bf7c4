// SPDX-License-Identifier: MIT
/*
 * guest/smp.c - all vCPUs in the same memory at once.
 *
 * An atomic counter that everybody adds to; then blocks of 2 MiB whose pages are dealt out in turn,
 * so that every vCPU's first touches race for the same block. In even blocks each vCPU first reads
 * every page of the block (never written: zero), then writes its own; in odd ones the first touch
 * is the write, and the rest of the page must still be zero. vCPU 0 then checks every word.
 *
 * Argument: blocks=N (default 2). Prints `smp: 4 vCPUs ok`; exits 3 with a line on a mismatch.
 */
#include "guest/isa.h"

#define ADDS        10000u
#define PAGE_WORDS  (GUEST_PAGE / sizeof(uint64_t))
#define BLOCK_PAGES (GUEST_BLOCK / GUEST_PAGE)

static struct {
	struct barrier barrier;
	uint64_t counter;
	uint64_t blocks;
	uint64_t *memory; /* `blocks` blocks */
	uint64_t bad;     /* words found wrong by any vCPU, atomic */
} shared;

static uint64_t stamp(uint64_t page, uint64_t word, unsigned index)
{
	return mix64((page * PAGE_WORDS + word) * isa_max_cpus() + index);
}

static void fail(const char *what, uint64_t page, uint64_t word, uint64_t found)
{
	if (__atomic_fetch_add(&shared.bad, 1, __ATOMIC_RELAXED) < 8)
		print("smp: %s: page %lu word %lu holds %016lx\n", what, page, word, found);
}

/* Every word of a page from `first` on. */
static void check_zero(const char *what, uint64_t page, uint64_t first)
{
	const uint64_t *words = shared.memory + page * PAGE_WORDS;

	for (uint64_t i = first; i < PAGE_WORDS; i++)
		if (words[i] != 0)
			fail(what, page, i, words[i]);
}

static void write_page(uint64_t page, unsigned index)
{
	volatile uint64_t *words = shared.memory + page * PAGE_WORDS;

	words[0] = stamp(page, 0, index);
	check_zero("not zero behind a first write", page, 1);
	for (uint64_t i = 1; i < PAGE_WORDS; i++)
		words[i] = stamp(page, i, index);
}

/* Each vCPU starts elsewhere in the block, so that not all wait for the same page. */
static void walk_block(uint64_t block, unsigned index, unsigned cpus)
{
	uint64_t first = block * BLOCK_PAGES;

	barrier_wait(&shared.barrier, cpus);
	if (block % 2 == 0) {
		for (uint64_t i = 0; i < BLOCK_PAGES; i++)
			check_zero("not zero before a write",
			           first + (i + index * BLOCK_PAGES / cpus) % BLOCK_PAGES, 0);
		barrier_wait(&shared.barrier, cpus);
	}
	for (uint64_t i = index; i < BLOCK_PAGES; i += cpus)
		write_page(first + i, index);
}

static void take_part(unsigned index)
{
	unsigned cpus = guest_cpus();

	barrier_wait(&shared.barrier, cpus);
	for (unsigned i = 0; i < ADDS; i++)
		__atomic_fetch_add(&shared.counter, 1, __ATOMIC_RELAXED);
	for (uint64_t block = 0; block < shared.blocks; block++)
		walk_block(block, index, cpus);
	barrier_wait(&shared.barrier, cpus);
}

static void check_all(unsigned cpus)
{
	for (uint64_t page = 0; page < shared.blocks * BLOCK_PAGES; page++) {
		unsigned owner = (unsigned)(page % BLOCK_PAGES % cpus);

		for (uint64_t i = 0; i < PAGE_WORDS; i++) {
			uint64_t found = shared.memory[page * PAGE_WORDS + i];

			if (found != stamp(page, i, owner))
				fail("not what its vCPU wrote", page, i, found);
		}
	}
}

void guest_cpu(unsigned index)
{
	take_part(index);
}

int guest_main(void)
{
	static const char *const allowed[] = {"blocks=", NULL};
	unsigned cpus = guest_cpus();
	uint64_t room;

	if (!args_allowed(allowed) || !arg_size("blocks=", 2, &shared.blocks))
		return GUEST_USAGE;
	shared.memory = guest_heap(GUEST_BLOCK, &room);
	if (shared.blocks == 0 || shared.blocks > room / GUEST_BLOCK) {
		print("smp: %lu blocks of 2 MiB do not fit %lu KiB of heap\n", shared.blocks,
		      room >> 10);
		return GUEST_USAGE;
	}
	take_part(0);
	check_all(cpus);
	if (shared.counter != (uint64_t)ADDS * cpus) {
		print("smp: counter is %lu, should be %lu\n", shared.counter,
		      (uint64_t)ADDS * cpus);
		return GUEST_MISMATCH;
	}
	if (shared.bad) {
		print("smp: %lu words wrong\n", shared.bad);
		return GUEST_MISMATCH;
	}
	print("smp: %u vCPUs ok\n", cpus);
	return GUEST_OK;
}
