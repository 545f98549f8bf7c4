// SPDX-License-Identifier: MIT
/*
 * mm/types.h - the words of the memory manager: addresses, frames, ranges, access.
 *
 * Addresses of different worlds are different one-field structs, so that mixing
 * them does not compile. Ranges are half-open {start, size}; the one constructor
 * refuses what is empty, misaligned or overflowing and never rounds.
 */
#ifndef COWSLIP_MM_TYPES_H
#define COWSLIP_MM_TYPES_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MM_PAGE_SHIFT 12u
#define MM_PAGE_SIZE  (UINT64_C(1) << MM_PAGE_SHIFT)

/* A block of a space: the unit in which a space keeps state. Order of a 2 MiB run of frames. */
#define MM_BLOCK_ORDER 9u
#define MM_BLOCK_PAGES (UINT64_C(1) << MM_BLOCK_ORDER)
#define MM_BLOCK_SHIFT (MM_PAGE_SHIFT + MM_BLOCK_ORDER)
#define MM_BLOCK_SIZE  (UINT64_C(1) << MM_BLOCK_SHIFT)

#define MM_HUGE_ORDER 18u /* 1 GiB, the largest order a pool hands out */
#define MM_HUGE_SIZE  (UINT64_C(1) << (MM_PAGE_SHIFT + MM_HUGE_ORDER))

/* Guest-physical address: what a guest's page tables and devices speak. */
typedef struct {
	uint64_t v;
} gpa_t;

/* Host-virtual address inside a space's window. */
typedef struct {
	uintptr_t v;
} hva_t;

/* Index of a 4 KiB frame in its store (byte offset / 4096). 32 bits reach 16 TiB. */
typedef struct {
	uint32_t n;
} frame_t;

#define FRAME_NONE ((frame_t){UINT32_MAX})

/* A half-open run of guest-physical addresses. Only gpa_range_make() builds one from input. */
struct gpa_range {
	gpa_t start;
	uint64_t size; /* bytes, > 0, start + size does not overflow */
};

/* What an access wants. Bits, because a region's permission is a set of them. */
enum access {
	ACCESS_READ = 1,
	ACCESS_WRITE = 2,
	ACCESS_EXEC = 4,
};

/* The frame size a region is backed by. AUTO leaves it to the policy, block by block. */
enum page_size {
	PAGE_SIZE_AUTO,
	PAGE_SIZE_4K,
	PAGE_SIZE_2M,
	PAGE_SIZE_1G,
};

/* One contiguous piece of guest RAM, and the frame size it is backed by. */
struct ram_region {
	struct gpa_range range;
	enum page_size page_size;
};

static inline bool gpa_eq(gpa_t a, gpa_t b)
{
	return a.v == b.v;
}

static inline bool frame_eq(frame_t a, frame_t b)
{
	return a.n == b.n;
}

/* `align` is a power of two. */
static inline bool is_aligned(uint64_t v, uint64_t align)
{
	return (v & (align - 1)) == 0;
}

static inline uint64_t align_down(uint64_t v, uint64_t align)
{
	return v & ~(align - 1);
}

/* The caller knows that v + align does not overflow. */
static inline uint64_t align_up(uint64_t v, uint64_t align)
{
	return align_down(v + align - 1, align);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline uint64_t gpa_range_end(struct gpa_range r)
{
	return r.start.v + r.size;
}

static inline bool gpa_range_has(struct gpa_range r, gpa_t a)
{
	return a.v >= r.start.v && a.v - r.start.v < r.size;
}

static inline bool gpa_range_overlaps(struct gpa_range a, struct gpa_range b)
{
	return a.start.v < gpa_range_end(b) && b.start.v < gpa_range_end(a);
}

/*
 * Build a range from untrusted numbers. `align` is a power of two.
 * Return: 0; -EINVAL when size is 0, start or size is not aligned, or start + size overflows.
 */
static inline int gpa_range_make(uint64_t start, uint64_t size, uint64_t align,
                                 struct gpa_range *out)
{
	if (size == 0 || !is_aligned(start, align) || !is_aligned(size, align))
		return -EINVAL;
	if (start + size < start)
		return -EINVAL;
	*out = (struct gpa_range){{start}, size};
	return 0;
}

/* Bytes of a region's frame; AUTO aligns as 4K. */
static inline uint64_t page_size_bytes(enum page_size s)
{
	switch (s) {
	case PAGE_SIZE_2M:
		return MM_BLOCK_SIZE;
	case PAGE_SIZE_1G:
		return MM_HUGE_SIZE;
	case PAGE_SIZE_AUTO:
	case PAGE_SIZE_4K:
		break;
	}
	return MM_PAGE_SIZE;
}

#endif
