// SPDX-License-Identifier: MIT
/*
 * guest/memwalk.c - touches memory page by page, checks it, and times every touch.
 *
 * Arguments (defaults first):
 *     size=16M                        how much of the free heap, over all vCPUs, in equal parts
 *     pattern=seq|stride:N|random     order of the pages; every page once
 *     access=write|read|rw            what a touch does to one word of the page
 *     verify=1|0                      check whole pages; after the walk, all once more
 *     seed=1                          of the random order and of what is written
 *     ready=0|1                       fill the memory first, ring READY, walk afterwards: a clone
 *                                     walks a warm image
 *
 * What a page holds is known at any time: one word (which one follows from the page) and zeros. The
 * word is zero at first, a stamp after ready=1's filling, another (with the clone's number)
 * after a walk that writes. So a first write also shows that the rest of the page was zero.
 *
 * Prints the mean and the percentiles of a touch. Times are the cycle counter's, less what reading
 * it twice costs; a percentile is the upper end of its histogram bucket (1/32 wide), max is exact.
 * Exits 0, or 3 with a line naming the first wrong page.
 */
#include "guest/isa.h"

#define PAGE_WORDS (GUEST_PAGE / sizeof(uint64_t))

/* ---- histogram: 32 linear buckets per power of two ---- */

#define SUB_BITS 5u
#define SUBS     (1u << SUB_BITS)
#define OCTAVES  40u /* longer times count as the longest */
#define BUCKETS  (OCTAVES * SUBS)

struct histogram {
	uint64_t count;
	uint64_t sum;
	uint64_t max;
	uint32_t bucket[BUCKETS];
};

static unsigned bucket_of(uint64_t v)
{
	unsigned shift, index;

	if (v < SUBS)
		return (unsigned)v;
	shift = 63 - (unsigned)__builtin_clzl(v) - SUB_BITS;
	if (shift + 1 >= OCTAVES)
		return BUCKETS - 1;
	index = (unsigned)(v >> shift) - SUBS;
	return (shift + 1) * SUBS + index;
}

/* The largest value that falls into bucket `b`. */
static uint64_t bucket_top(unsigned b)
{
	unsigned shift;

	if (b < SUBS)
		return b;
	shift = b / SUBS - 1;
	return ((uint64_t)(b % SUBS + SUBS + 1) << shift) - 1;
}

static void histogram_add(struct histogram *h, uint64_t v)
{
	h->count++;
	h->sum += v;
	if (v > h->max)
		h->max = v;
	h->bucket[bucket_of(v)]++;
}

static void histogram_merge(struct histogram *to, const struct histogram *from)
{
	to->count += from->count;
	to->sum += from->sum;
	if (from->max > to->max)
		to->max = from->max;
	for (unsigned b = 0; b < BUCKETS; b++)
		to->bucket[b] += from->bucket[b];
}

/* The value that `permille` thousandths of all do not exceed. */
static uint64_t histogram_at(const struct histogram *h, unsigned permille)
{
	uint64_t rank = (h->count * permille + 999) / 1000;
	uint64_t seen = 0;

	for (unsigned b = 0; b < BUCKETS; b++) {
		seen += h->bucket[b];
		if (seen >= rank)
			return bucket_top(b) < h->max ? bucket_top(b) : h->max;
	}
	return h->max;
}

/* ---- the plan: what to do, the same for every vCPU ---- */

enum pattern {
	PATTERN_STRIDE, /* sequential is a stride of 1 */
	PATTERN_RANDOM,
};

enum touch {
	TOUCH_READ = 1,
	TOUCH_WRITE = 2,
};

struct plan {
	enum pattern pattern;
	uint64_t stride;
	unsigned touch; /* enum touch, set of bits */
	const char *order_name;
	const char *touch_name;
	uint64_t verify;
	uint64_t seed;
	uint64_t ready;
	uint64_t clone;
	uint64_t overhead; /* cycles of reading the counter twice */
	unsigned cpus;
	uint64_t pages; /* of one vCPU's part */
	uint64_t *memory;
	struct histogram *histograms; /* one per vCPU */
};

static struct {
	struct plan plan;
	struct barrier barrier;
	uint32_t failed;
} walk;

/* ---- order: each page of a part once ---- */

struct cursor {
	const struct plan *plan;
	uint64_t at;     /* stride: next page; random: next number to permute */
	uint64_t column; /* stride: where this round began */
	unsigned half;   /* random: bits of half a Feistel block */
};

static struct cursor cursor_start(const struct plan *p)
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

	c->at += c->plan->stride;
	if (c->at >= c->plan->pages)
		c->at = ++c->column;
	return page;
}

/* To be called `pages` times. */
static uint64_t cursor_next(struct cursor *c)
{
	return c->plan->pattern == PATTERN_RANDOM ? next_random(c) : next_stride(c);
}

/* ---- contents ---- */

static uint64_t stamped_word(const struct plan *p, uint64_t page)
{
	return mix64(p->seed + page) % PAGE_WORDS;
}

static uint64_t fill_stamp(const struct plan *p, uint64_t page)
{
	return mix64(p->seed ^ mix64(page));
}

static uint64_t before(const struct plan *p, uint64_t page)
{
	return p->ready ? fill_stamp(p, page) : 0;
}

static uint64_t after(const struct plan *p, uint64_t page)
{
	if (!(p->touch & TOUCH_WRITE))
		return before(p, page);
	return mix64(fill_stamp(p, page) + 1 + p->clone);
}

static bool fail(uint64_t page, uint64_t word, uint64_t found, uint64_t expected)
{
	__atomic_store_n(&walk.failed, 1, __ATOMIC_RELAXED);
	print("memwalk: page %lu word %lu holds %016lx, should be %016lx\n", page, word, found,
	      expected);
	return false;
}

static bool check_page(const struct plan *p, uint64_t page, uint64_t expected)
{
	const volatile uint64_t *words = p->memory + page * PAGE_WORDS;
	uint64_t stamped = stamped_word(p, page);

	for (uint64_t i = 0; i < PAGE_WORDS; i++) {
		uint64_t found = words[i];

		if (found != (i == stamped ? expected : 0))
			return fail(page, i, found, i == stamped ? expected : 0);
	}
	return true;
}

/* ---- the walk ---- */

static inline uint64_t touch(volatile uint64_t *word, unsigned how, uint64_t value, uint64_t *found)
{
	uint64_t start = isa_cycles();

	if (how & TOUCH_READ)
		*found = *word;
	if (how & TOUCH_WRITE)
		*word = value;
	return isa_cycles() - start;
}

static bool touch_page(const struct plan *p, uint64_t page, struct histogram *h)
{
	uint64_t word = stamped_word(p, page);
	uint64_t old = before(p, page), new = after(p, page), found = old;
	uint64_t cycles = touch(&p->memory[page * PAGE_WORDS + word], p->touch, new, &found);

	histogram_add(h, cycles > p->overhead ? cycles - p->overhead : 0);
	if (found != old)
		return fail(page, word, found, old);
	return !p->verify || check_page(p, page, new);
}

static void fill_part(const struct plan *p, uint64_t first)
{
	for (uint64_t page = first; page < first + p->pages; page++)
		p->memory[page * PAGE_WORDS + stamped_word(p, page)] = fill_stamp(p, page);
}

static bool walk_part(const struct plan *p, uint64_t first, struct histogram *h)
{
	struct cursor c = cursor_start(p);

	for (uint64_t i = 0; i < p->pages; i++)
		if (!touch_page(p, first + cursor_next(&c), h))
			return false;
	for (uint64_t page = first; p->verify && page < first + p->pages; page++)
		if (!check_page(p, page, after(p, page)))
			return false;
	return true;
}

/* What every vCPU does with its part, once the plan stands. */
static void take_part(unsigned index)
{
	const struct plan *p = &walk.plan;
	uint64_t first = index * p->pages;

	barrier_wait(&walk.barrier, p->cpus);
	if (p->ready) {
		fill_part(p, first);
		barrier_wait(&walk.barrier, p->cpus);
		if (index == 0)
			walk.plan.clone = guest_ready()->clone;
		barrier_wait(&walk.barrier, p->cpus);
	}
	walk_part(p, first, &p->histograms[index]);
	barrier_wait(&walk.barrier, p->cpus);
}

void guest_cpu(unsigned index)
{
	/* The plan is vCPU 0's to make; only then is the number of vCPUs known to be right. */
	while (!__atomic_load_n(&walk.plan.histograms, __ATOMIC_ACQUIRE))
		isa_relax();
	take_part(index);
}

/* ---- arguments ---- */

static bool read_pattern(struct plan *p)
{
	static const char stride[] = "stride:";
	const char *value = arg_find("pattern=");

	p->pattern = PATTERN_STRIDE;
	p->stride = 1;
	p->order_name = "seq";
	if (!value || word_is(value, "seq"))
		return true;
	if (word_is(value, "random")) {
		p->pattern = PATTERN_RANDOM;
		p->order_name = "random";
		return true;
	}
	p->order_name = "stride";
	if (memcmp(value, stride, sizeof(stride) - 1) == 0 &&
	    parse_size(value + sizeof(stride) - 1, &p->stride) == 0 && p->stride > 0)
		return true;
	print("memwalk: pattern= wants seq, stride:N or random\n");
	return false;
}

static bool read_access(struct plan *p)
{
	static const struct {
		const char *name;
		unsigned touch;
	} kinds[] = {
		{"write", TOUCH_WRITE},
		{"read", TOUCH_READ},
		{"rw", TOUCH_READ | TOUCH_WRITE},
	};
	const char *value = arg_find("access=");

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (value && !word_is(value, kinds[i].name))
			continue;
		p->touch = kinds[i].touch;
		p->touch_name = kinds[i].name;
		return true;
	}
	print("memwalk: access= wants read, write or rw\n");
	return false;
}

/* Histograms lie in front of the walked memory, which starts on a block boundary. */
static bool place(struct plan *p, uint64_t size, struct histogram **histograms)
{
	uint64_t room, front;

	*histograms = guest_heap(GUEST_PAGE, &room);
	p->memory = (uint64_t *)(((uintptr_t)(*histograms + p->cpus) + GUEST_BLOCK - 1) &
	                         ~(GUEST_BLOCK - 1));
	p->pages = size / GUEST_PAGE / p->cpus;
	front = (uintptr_t)p->memory - (uintptr_t)*histograms;
	room = room > front ? room - front : 0;
	if (p->pages > 0 && p->pages <= room / GUEST_PAGE / p->cpus)
		return true;
	print("memwalk: size of %lu KiB: wants a page per vCPU and at most %lu KiB here\n",
	      size >> 10, room >> 10);
	return false;
}

static bool make_plan(struct plan *p, struct histogram **histograms)
{
	static const char *const allowed[] = {
		"size=", "pattern=", "access=", "verify=", "seed=", "ready=", NULL};
	uint64_t size;

	p->cpus = guest_cpus();
	return args_allowed(allowed) && arg_size("size=", 16u << 20, &size) &&
	       arg_size("verify=", 1, &p->verify) && arg_size("seed=", 1, &p->seed) &&
	       arg_size("ready=", 0, &p->ready) && read_pattern(p) && read_access(p) &&
	       place(p, size, histograms);
}

static uint64_t timer_overhead(void)
{
	uint64_t least = UINT64_MAX;

	for (unsigned i = 0; i < 64; i++) {
		uint64_t start = isa_cycles();
		uint64_t cycles = isa_cycles() - start;

		least = cycles < least ? cycles : least;
	}
	return least;
}

/* ---- report ---- */

/* Cycles as nanoseconds, or as they are when the counter's frequency is unknown. */
static uint64_t to_ns(uint64_t cycles)
{
	uint64_t hz = guest_boot->cycles_per_sec;

	if (hz == 0)
		return cycles;
	return cycles / hz * 1000000000 + cycles % hz * 1000000000 / hz;
}

static void report(const struct plan *p)
{
	struct histogram *all = &p->histograms[0];
	uint64_t mean;

	for (unsigned i = 1; i < p->cpus; i++)
		histogram_merge(all, &p->histograms[i]);
	mean = to_ns(all->sum) / all->count;
	print("memwalk: %lu pages, %s", all->count, p->order_name);
	if (p->stride > 1)
		print(" %lu", p->stride);
	print(" %s, %u vCPU%s, clone %lu: %lu.%03lu us/page\n", p->touch_name, p->cpus,
	      p->cpus == 1 ? "" : "s", p->clone, mean / 1000, mean % 1000);
	print("memwalk: touch %s p50 %lu p90 %lu p99 %lu p99.9 %lu max %lu\n",
	      guest_boot->cycles_per_sec ? "ns" : "cycles", to_ns(histogram_at(all, 500)),
	      to_ns(histogram_at(all, 900)), to_ns(histogram_at(all, 990)),
	      to_ns(histogram_at(all, 999)), to_ns(all->max));
	print("memwalk: %s ok\n", p->verify ? "every word" : "touched words");
}

int guest_main(void)
{
	struct plan *p = &walk.plan;
	struct histogram *histograms;

	if (!make_plan(p, &histograms))
		return GUEST_USAGE;
	p->overhead = timer_overhead();
	__atomic_store_n(&p->histograms, histograms, __ATOMIC_RELEASE);
	take_part(0);
	if (walk.failed)
		return GUEST_MISMATCH;
	report(p);
	return GUEST_OK;
}
