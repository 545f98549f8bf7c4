// SPDX-License-Identifier: MIT
/*
 * mm/image.h - an immutable, reference-counted picture of a guest's memory and machine state.
 *
 * An image is flat: a sorted array of extents, each naming its frames directly. There is no
 * parent to walk, so cloning a snapshot of a snapshot of a snapshot costs what
 * cloning the first did. What no extent covers reads as zero.
 *
 *     extent   {gpa run -> store, frame run}; lies inside one 2 MiB-aligned block of the guest
 *              and inside one block of its pool; holds one reference on it
 *     run      neighbours in gpa, store and frame joined: what one mmap call maps
 *     state    bytes the VMM saved beside the memory; mm/ never looks into them
 *
 * Concurrency: after image_create() nothing changes but the atomic count, so any number of
 * threads and (after fork) processes may read one image.
 */
#ifndef COWSLIP_MM_IMAGE_H
#define COWSLIP_MM_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "mm/store.h"
#include "mm/types.h"

struct extent {
	gpa_t gpa;           /* 4 KiB aligned */
	uint32_t pages;      /* 1..512 */
	frame_t frame;       /* first frame in the store */
	struct store *store; /* not counted here: the frame reference keeps it */
};

struct run {
	gpa_t gpa;
	uint64_t pages;
	frame_t frame;
	struct store *store;
};

#define IMAGE_MAX_REGIONS 16u

struct image;

/* What an image is made of; everything is copied, the caller keeps its own. */
struct image_parts {
	const struct ram_region *ram; /* ordered, not overlapping, 1..IMAGE_MAX_REGIONS */
	size_t ram_count;
	const struct extent *extents; /* ordered by gpa, not overlapping, inside RAM */
	size_t extent_count;
	const void *state; /* may be NULL when state_size is 0 */
	size_t state_size;
};

/*
 * Make an image with one reference. Takes one frame reference for each extent (store_frame_get).
 * Return: 0; -ENOMEM; -EINVAL when regions or extents are unordered, overlap, leave RAM, cross a
 * 2 MiB boundary, are empty, or name frames beyond their store; -EOVERFLOW from a frame count.
 * On failure no reference is kept.
 */
int image_create(const struct image_parts *parts, struct image **out);

struct image *image_get(struct image *i);
/* NULL is ignored. The last reference drops every extent's frame reference. */
void image_put(struct image *i);

/* Borrowed views, valid as long as the caller holds the image. */
const struct extent *image_extents(const struct image *i, size_t *count);
const struct run *image_runs(const struct image *i, size_t *count);
const struct ram_region *image_ram(const struct image *i, size_t *count);
const void *image_state(const struct image *i, size_t *size);

/*
 * The first extent that ends above `a` (index into image_extents()); extent count when none does.
 */
size_t image_find(const struct image *i, gpa_t a);

/* Pages named by extents: the most that clones can share. */
uint64_t image_pages(const struct image *i);

/* References now held on the image. For tests and reports. */
uint32_t image_refs(const struct image *i);

/*
 * Drop all that lies at `from`, the start of an extent, or above. Only of an image that nobody else
 * knows of yet: one reference (aborts otherwise).
 */
void image_trim(struct image *i, gpa_t from);

/*
 * The same memory with other saved state: shares every frame.
 * Return: 0; -ENOMEM; -EOVERFLOW.
 */
int image_with_state(const struct image *i, const void *state, size_t size, struct image **out);

/* Check order, bounds and that every extent's block is alive. Return: 0 or -EUCLEAN (printed). */
int image_audit(const struct image *i);

#endif
