/* SPDX-License-Identifier: MIT */
/*
 * guest/memwalk.h - what memwalk and whoever runs it agree on: orders, histograms, records.
 *
 * An order says which pages to touch, one after the other. memwalk makes one itself, or takes it
 * from its input (order=input): a struct memwalk_order. vCPU i of N takes the entries
 * [i * touches / N, (i + 1) * touches / N).
 *
 * Unless told not to, memwalk times every touch and counts it in a histogram: 32 linear buckets per
 * power of two, so a value is known to 1/32. Times are cycles of guest_boot's counter, less what
 * reading it twice costs.
 *
 * memwalk's output is three records, all from vCPU 0: START when everything is prepared, just
 * before the walk; END just behind it; RESULT when everything is checked and counted up. Between
 * START and END nothing but the walk runs.
 *
 * A host reads records and histograms as bytes from a guest: sizes are to be checked.
 * Little-endian. Includes nothing but <stdint.h>; used by guest and host alike.
 */
#ifndef COWSLIP_GUEST_MEMWALK_H
#define COWSLIP_GUEST_MEMWALK_H

#include <stdint.h>

/* ---- orders ---- */

#define MEMWALK_MAGIC   UINT64_C(0x6b6c61776d656d77) /* "wmemwalk", little-endian */
#define MEMWALK_VERSION 2u

/* An entry: the page's index in the walked memory, and what kind of touch it is. */
#define MEMWALK_INDEX (UINT32_C(0x1fffffff))
#define MEMWALK_PAGE  (UINT32_C(1) << 29) /* the order's first touch of the page */
#define MEMWALK_BLOCK (UINT32_C(1) << 30) /* and its first in the page's 2 MiB; with PAGE only */
#define MEMWALK_WRITE (UINT32_C(1) << 31) /* a store; else a load */

struct memwalk_order {
	uint64_t magic; /* MEMWALK_MAGIC */
	uint32_t version;
	uint32_t reserved; /* 0 */
	uint64_t touches;  /* how many entries, at least 1 */
	uint32_t entries[];
};

/* The kinds of touches that are counted apart. */
enum memwalk_class {
	MEMWALK_READ_REPEAT, /* the page has been touched before */
	MEMWALK_READ_PAGE,   /* first of the page, not of its block */
	MEMWALK_READ_BLOCK,  /* first of the block */
	MEMWALK_WRITE_REPEAT,
	MEMWALK_WRITE_PAGE,
	MEMWALK_WRITE_BLOCK,
	MEMWALK_CLASSES,
};

static inline enum memwalk_class memwalk_class_of(uint32_t entry)
{
	return (enum memwalk_class)((entry >> 31) * 3 + (entry >> 30 & 1) + (entry >> 29 & 1));
}

/* ---- histograms ---- */

#define MEMWALK_SUB_BITS 5u
#define MEMWALK_SUBS     (1u << MEMWALK_SUB_BITS)
#define MEMWALK_OCTAVES  40u /* longer times count as the longest; `max` and `sum` are exact */
#define MEMWALK_BUCKETS  (MEMWALK_OCTAVES * MEMWALK_SUBS)

struct memwalk_histogram {
	uint64_t count;
	uint64_t sum;
	uint64_t max;
	uint32_t bucket[MEMWALK_BUCKETS];
};

static inline unsigned memwalk_bucket_of(uint64_t v)
{
	unsigned shift;

	if (v < MEMWALK_SUBS)
		return (unsigned)v;
	shift = 63 - (unsigned)__builtin_clzll(v) - MEMWALK_SUB_BITS;
	if (shift + 1 >= MEMWALK_OCTAVES)
		return MEMWALK_BUCKETS - 1;
	return shift * MEMWALK_SUBS + (unsigned)(v >> shift);
}

/* The largest value that falls into bucket `b`; in the last one lies all that is larger, too. */
static inline uint64_t memwalk_bucket_top(unsigned b)
{
	unsigned shift;

	if (b < MEMWALK_SUBS)
		return b;
	shift = b / MEMWALK_SUBS - 1;
	return ((uint64_t)(b % MEMWALK_SUBS + MEMWALK_SUBS + 1) << shift) - 1;
}

static inline void memwalk_histogram_add(struct memwalk_histogram *h, uint64_t v)
{
	h->count++;
	h->sum += v;
	if (v > h->max)
		h->max = v;
	h->bucket[memwalk_bucket_of(v)]++;
}

static inline void memwalk_histogram_merge(struct memwalk_histogram *to,
                                           const struct memwalk_histogram *from)
{
	to->count += from->count;
	to->sum += from->sum;
	if (from->max > to->max)
		to->max = from->max;
	for (unsigned b = 0; b < MEMWALK_BUCKETS; b++)
		to->bucket[b] += from->bucket[b];
}

/*
 * The percentile for `ppm` millionths (99.9 %: 999000): the value at rank floor(count * p) + 1, at
 * most count, in ascending order. It is what the slowest (1 - p) of all reach, so 1 slow touch
 * in 1,000 shows in p99.9. Given is the top of its bucket, at most max; 0 for no values.
 */
static inline uint64_t memwalk_histogram_at(const struct memwalk_histogram *h, uint32_t ppm)
{
	uint64_t rank = h->count / 1000000 * ppm + h->count % 1000000 * ppm / 1000000 + 1;
	uint64_t seen = 0;

	if (rank > h->count)
		rank = h->count;
	for (unsigned b = 0; b < MEMWALK_BUCKETS - 1; b++) {
		seen += h->bucket[b];
		if (seen >= rank)
			return memwalk_bucket_top(b) < h->max ? memwalk_bucket_top(b) : h->max;
	}
	return h->max;
}

/* ---- records ---- */

enum memwalk_kind {
	MEMWALK_START = 1,
	MEMWALK_END = 2,
	MEMWALK_RESULT = 3,
};

/* What every record starts with; all of START and END. */
struct memwalk_record {
	uint32_t kind; /* enum memwalk_kind */
	uint32_t size; /* bytes, of these too */
};

struct memwalk_result {
	struct memwalk_record record;
	uint64_t magic; /* MEMWALK_MAGIC */
	uint32_t version;
	uint32_t cpus;           /* that walked */
	uint64_t touches;        /* made, by all vCPUs */
	uint64_t cycles_per_sec; /* 0: unknown */
	uint64_t timer_overhead; /* cycles of reading the counter twice; taken off every time */
	uint64_t walk_cycles;    /* from the barrier before the walk to the one behind it */
	uint64_t errors;         /* words that were not what they should be */

	/*
	 * What the loop costs per touch beside the times counted, the overhead included, where
	 * nothing faults: with one vCPU, walk_cycles is about sum + count * loop_cycles.
	 */
	uint64_t loop_cycles;

	/* By enum memwalk_class, all vCPUs. Empty, and loop_cycles 0, when nothing was timed. */
	struct memwalk_histogram classes[MEMWALK_CLASSES];
};

/* ---- memory ---- */

#define MEMWALK_PAGE_SIZE  UINT64_C(4096)
#define MEMWALK_BLOCK_SIZE UINT64_C(0x200000)

static inline uint64_t memwalk_round(uint64_t size, uint64_t to)
{
	return (size + to - 1) / to * to;
}

/*
 * RAM that suffices to walk `size` bytes by an order from the input of `touches` entries, for a
 * machine whose RAM starts at 0 and is one region. Sizes far from overflow.
 */
static inline uint64_t memwalk_ram(uint64_t size, uint64_t touches, unsigned cpus)
{
	const uint64_t program = 4 * MEMWALK_BLOCK_SIZE, stack = 4 * MEMWALK_PAGE_SIZE;
	uint64_t part = memwalk_round(sizeof(struct memwalk_result), MEMWALK_PAGE_SIZE);
	uint64_t order = sizeof(struct memwalk_order) + touches * sizeof(uint32_t);

	return memwalk_round(program + cpus * (part + stack), MEMWALK_BLOCK_SIZE) +
	       memwalk_round(size, MEMWALK_BLOCK_SIZE) + memwalk_round(order, MEMWALK_BLOCK_SIZE);
}

#endif
