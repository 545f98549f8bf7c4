// SPDX-License-Identifier: MIT
/*
 * guest/stamp.c - writes to all its pages in order, over and over, and would notice any write of
 * another VM's among its own, and any of its own that is missing: for forks of a running guest.
 *
 * Each vCPU has a ring of pages. Its n-th stamp goes to page n - 1 modulo their number, at the
 * page's start and once more at its end: n, the cycle counter, how many stamps the next vCPU had
 * made, and a digest of all that and of the stamp before. A fork makes two of a guest that go on
 * with the same numbers; counters and so digests differ from the first stamp on.
 *
 * Before a stamp is written its page must hold the one of the round before, or nothing: not yet
 * what another VM wrote there. After each round all pages must hold one unbroken chain of digests,
 * which ends with the last stamp; and what was seen of the next vCPU must still be so.
 *
 * vCPU 0 rings READY after the first round of all, when every page has been written once.
 *
 * Arguments: size=SIZE of memory (default 8M); rounds=N (default 8), 0: for ever; rate=N stamps a
 * second for each vCPU (default 0: as fast as may be); verify=0: only write; every=N: print
 * `round 17 ok` after each N rounds (default 0: never); who=1: ask after each round who this VM is,
 * and print `vm 3 generation 0123456789abcdef entropy ...` when that is new.
 * Prints `stamps 16384 ok` and exits 0; 3 when something is missing or broken, 4 when a page holds
 * what this VM never wrote (LEAK).
 */
#include "guest/isa.h"

#define PAGE_WORDS (GUEST_PAGE / sizeof(uint64_t))
#define MAX_CPUS   64u

struct stamp {
	uint64_t number; /* from 1; 0: none */
	uint64_t cycles;
	uint64_t seen; /* of the next vCPU */
	uint64_t digest;
};

struct page {
	struct stamp head;
	uint64_t unused[PAGE_WORDS - 2 * sizeof(struct stamp) / sizeof(uint64_t)];
	struct stamp tail;
};
_Static_assert(sizeof(struct page) == GUEST_PAGE, "one page");

struct ring {
	uint64_t done; /* stamps made; atomic: others look at it */
	uint64_t digest;
	volatile struct page *pages;
};

static struct {
	struct barrier end;
	uint64_t rounds, rate, every;
	bool verify, who;
	uint64_t pages; /* of each ring */
	struct ring ring[MAX_CPUS];
	int code; /* of the first vCPU that found something; atomic */
} all;

static struct ring *ring_of(unsigned index)
{
	return &all.ring[index % guest_cpus()];
}

static uint64_t done_of(unsigned index)
{
	return __atomic_load_n(&ring_of(index)->done, __ATOMIC_ACQUIRE);
}

static volatile struct page *page_of(const struct ring *r, uint64_t number)
{
	return &r->pages[(number - 1) % all.pages];
}

static uint64_t digest(uint64_t before, uint64_t number, uint64_t cycles, uint64_t seen)
{
	return mix64(mix64(before ^ mix64(number)) ^ mix64(cycles) ^ seen);
}

static int fault(unsigned index, int code, const char *what, uint64_t number, uint64_t found)
{
	int none = 0;

	print("vCPU %u stamp %lu after %lu: %s, found %lu\n", index, number, done_of(index), what,
	      found);
	__atomic_compare_exchange_n(&all.code, &none, code, false, __ATOMIC_RELAXED,
	                            __ATOMIC_RELAXED);
	return code;
}

/* ---- looking ---- */

/* The page of stamp `number` is as it was left a round ago. Return: an exit code. */
static int check_before(unsigned index, uint64_t number)
{
	volatile const struct page *p = page_of(ring_of(index), number);
	uint64_t old = number > all.pages ? number - all.pages : 0;

	if (p->head.number > old)
		return fault(index, GUEST_LEAK, "LEAK, written by another VM", number,
		             p->head.number);
	if (p->head.number != old || p->tail.number != old || p->head.digest != p->tail.digest)
		return fault(index, GUEST_MISMATCH, "the stamp before it is missing", number,
		             p->head.number);
	return GUEST_OK;
}

/* Stamp `number` follows from the one before, whose digest is *last. Return: an exit code. */
static int check_link(unsigned index, uint64_t number, bool first, uint64_t *last)
{
	volatile const struct page *p = page_of(ring_of(index), number);
	uint64_t want = digest(*last, number, p->head.cycles, p->head.seen);

	if (p->head.number != number || p->tail.number != number)
		return fault(index, p->head.number > number ? GUEST_LEAK : GUEST_MISMATCH,
		             "another stamp in its place", number, p->head.number);
	if (!first && (p->head.digest != want || p->tail.digest != want))
		return fault(index, GUEST_LEAK, "LEAK, it does not follow from the last", number,
		             p->head.digest);
	*last = p->head.digest;
	return GUEST_OK;
}

/* What this vCPU saw of the next one's stamps. Return: an exit code. */
static int check_seen(unsigned index, uint64_t seen)
{
	uint64_t now = done_of(index + 1);
	volatile const struct page *p;

	if (seen > now)
		return fault(index, GUEST_MISMATCH, "the next vCPU had made more", seen, now);
	if (seen == 0)
		return GUEST_OK;
	p = page_of(ring_of(index + 1), seen);
	if (p->head.number < seen)
		return fault(index, GUEST_MISMATCH, "the next vCPU's is missing", seen,
		             p->head.number);
	return GUEST_OK;
}

static int check_ring(unsigned index)
{
	const struct ring *r = ring_of(index);
	uint64_t first = r->done > all.pages ? r->done - all.pages + 1 : 1, last = 0;

	for (uint64_t n = first; n <= r->done; n++) {
		int code = check_link(index, n, n == first, &last);

		if (code == GUEST_OK)
			code = check_seen(index, page_of(r, n)->head.seen);
		if (code != GUEST_OK)
			return code;
	}
	if (last != r->digest)
		return fault(index, GUEST_MISMATCH, "the last one is not", r->done, last);
	return GUEST_OK;
}

/* ---- writing ---- */

static void write_stamp(unsigned index, uint64_t number)
{
	struct ring *r = ring_of(index);
	volatile struct page *p = page_of(r, number);
	struct stamp s = {number, isa_cycles(), done_of(index + 1), 0};

	s.digest = digest(r->digest, number, s.cycles, s.seen);
	p->head = s;
	p->tail = s;
	r->digest = s.digest;
	__atomic_store_n(&r->done, number, __ATOMIC_RELEASE);
}

static void wait_until(uint64_t cycles)
{
	while ((int64_t)(isa_cycles() - cycles) < 0)
		isa_relax();
}

/* Return: an exit code. */
static int write_round(unsigned index)
{
	uint64_t gap = all.rate ? guest_boot->cycles_per_sec / all.rate : 0, next = isa_cycles();

	for (uint64_t i = 0; i < all.pages; i++, next += gap) {
		uint64_t number = ring_of(index)->done + 1;
		int code = all.verify ? check_before(index, number) : GUEST_OK;

		if (code != GUEST_OK)
			return code;
		write_stamp(index, number);
		if (gap)
			wait_until(next + gap);
	}
	return all.verify ? check_ring(index) : GUEST_OK;
}

/* With who=1: who this is, when that is new. A fork from outside shows in nothing else. */
static void tell_who(void)
{
	static uint64_t generation;
	const struct abi_request *self;

	if (!all.who)
		return;
	self = guest_identity();
	if (self->result != 0 || self->generation == generation)
		return;
	generation = self->generation;
	print("vm %lu generation %016lx entropy %016lx\n", self->clone, generation,
	      *(const uint64_t *)self->entropy);
	print_flush();
}

static void tell(uint64_t round)
{
	tell_who();
	if (all.every == 0 || round % all.every)
		return;
	print("round %lu ok\n", round);
	print_flush();
}

static void run(unsigned index)
{
	for (uint64_t round = 1; all.rounds == 0 || round <= all.rounds; round++) {
		int code = write_round(index);

		/* The pages of all are there when vCPU 0 says so. */
		if (round == 1)
			barrier_wait(&all.end, guest_cpus());
		if (code != GUEST_OK)
			break;
		if (index > 0)
			continue;
		tell(round);
		if (round == 1)
			(void)guest_ready();
	}
	barrier_wait(&all.end, guest_cpus());
}

void guest_cpu(unsigned index)
{
	/* Not before the rings are laid out. */
	barrier_wait(&all.end, guest_cpus());
	run(index);
}

static bool set_up(void)
{
	static const char *const allowed[] = {
		"size=", "rounds=", "rate=", "verify=", "every=", "who=", NULL};
	uint64_t size, room, verify, who;
	struct page *heap = guest_heap(GUEST_BLOCK, &room);

	if (!args_allowed(allowed) || !arg_size("size=", 8u << 20, &size) ||
	    !arg_size("rounds=", 8, &all.rounds) || !arg_size("rate=", 0, &all.rate) ||
	    !arg_size("verify=", 1, &verify) || !arg_size("every=", 0, &all.every) ||
	    !arg_size("who=", 0, &who))
		return false;
	all.who = who != 0;
	all.verify = verify != 0;
	all.pages = size / GUEST_PAGE / guest_cpus();
	if (all.pages < 2 || size > room) {
		print("stamp: %lu KiB do not fit %lu KiB of heap, or are too little\n", size >> 10,
		      room >> 10);
		return false;
	}
	for (unsigned i = 0; i < guest_cpus(); i++)
		all.ring[i].pages = heap + i * all.pages;
	return true;
}

int guest_main(void)
{
	if (!set_up())
		return GUEST_USAGE;
	barrier_wait(&all.end, guest_cpus());
	run(0);
	if (all.code == GUEST_OK)
		print("stamps %lu ok\n", done_of(0));
	return all.code;
}
