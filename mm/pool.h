// SPDX-License-Identifier: MIT
/*
 * mm/pool.h - the frame allocator: one file, a buddy system over its offsets, a hard limit.
 *
 * A frame is 4 KiB; a block is 2^order frames, order 0..18, aligned to its size. Allocating a
 * block reserves offsets and counts against the limit; the host gives memory when
 * a page is first touched. A freed block is punched out of the memfd before it can be
 * handed out again, so every frame a pool hands out reads as zero.
 *
 * The frame table (mm/frame.h) is address space until used: an idle pool with a limit of 64 GiB
 * costs a few pages.
 *
 * Concurrency: every function may be called from any thread. One mutex (rank POOL)
 * guards the free lists and the frame table; punching, zeroing and collapsing happen outside it.
 */
#ifndef COWSLIP_MM_POOL_H
#define COWSLIP_MM_POOL_H

#include <stdint.h>

#include "mm/store.h"
#include "mm/types.h"

struct pool;

struct pool_stats {
	uint64_t limit_frames;     /* may be handed out at once */
	uint64_t used_frames;      /* handed out now */
	uint64_t peak_frames;      /* the most ever handed out */
	uint64_t retired_frames;   /* could not be punched, never handed out again */
	uint64_t committed_frames; /* behind which the host has really put memory */
	uint64_t metadata_bytes;   /* of the frame table, resident */
};

/*
 * Create a pool that never hands out more than `limit` bytes.
 * Return: 0; -EINVAL when limit is 0, not a multiple of 4 KiB, or above 8 TiB;
 * -ENOMEM; -EMFILE/-ENFILE from memfd_create.
 */
int pool_create(uint64_t limit, struct pool **out);

/*
 * The caller's reference is dropped; the pool goes when no extent and no space holds it any more.
 */
void pool_put(struct pool *p);
struct pool *pool_get(struct pool *p);

/* The store that extents of this pool name. Borrowed: lives as long as the pool. */
struct store *pool_store(struct pool *p);

/*
 * A first touch of frames mapped MAP_SHARED with MADV_HUGEPAGE brings in a whole 2 MiB page, if the
 * block was empty. Else only pool_collapse() makes huge pages.
 */
bool pool_huge(const struct pool *p);

/*
 * Reserve a block of 2^order frames with one reference. Its contents read as zero. `hint`
 * (or FRAME_NONE) is where the caller would like it: taken when free, so that runs that are
 * neighbours in a guest are neighbours in the store and map with one call.
 * Return: 0; -EINVAL when order > 18; -ENOMEM at the limit or when no run of this size is left.
 */
int pool_alloc(struct pool *p, unsigned order, frame_t hint, frame_t *out);

/*
 * 2^order frames, order 9 to 18, as blocks of 2 MiB one after the other, each with one reference.
 * Return: as pool_alloc().
 */
int pool_alloc_blocks(struct pool *p, unsigned order, frame_t hint, frame_t *out);

/*
 * Another reference on the block that holds frame `f` (any frame of it).
 * Return: 0; -EOVERFLOW when the 32-bit count is at its maximum.
 */
int pool_ref(struct pool *p, frame_t f);

/*
 * Drop a reference on the block that holds frame `f`; the last one punches the block's
 * memory and frees it. The caller has unmapped it first. Aborts if the block is not handed out.
 */
void pool_unref(struct pool *p, frame_t f);

/* References on the block that holds `f`, 0 when it is free. For audits and tests. */
uint32_t pool_refs(struct pool *p, frame_t f);

/* Order of the block that holds `f`, or -1 when it is free. */
int pool_order(struct pool *p, frame_t f);

/*
 * Back a whole 2 MiB block (order 9, `f` its head) by one huge page, through the pool's own
 * mappings: by one touch where it is empty and pool_huge(), else by MADV_COLLAPSE. What the block
 * already holds stays. Works with shmem THP "never" (Linux 6.1 and later).
 * Return: 0; -errno of madvise (no huge page to be had): the block is still usable, 4 KiB by 4 KiB.
 */
int pool_collapse(struct pool *p, frame_t f);

/*
 * Frame `f` in a second mapping of the whole pool, shared and with MADV_HUGEPAGE: what mremap()
 * copies from there (an old size of 0) is mapped and asked to be huge by one call, where each call
 * waits until no fault of the process is being resolved. Not to be touched. NULL: there is none.
 */
void *pool_twin_ptr(struct pool *p, frame_t f);

/*
 * The pool's own mapping of frame `f`: for copying into frames that no guest can see yet.
 * Valid for the rest of f's block; a touch commits 4 KiB. Not for frames a guest runs on: use
 * space_read/write/hold.
 */
void *pool_frame_ptr(struct pool *p, frame_t f);

/*
 * Nothing of the block at `f` (order 9) has memory behind it: it was never touched. Says false when
 * the kernel won't tell. What is true may change while anybody has the block mapped.
 */
bool pool_block_empty(struct pool *p, frame_t f);

/*
 * Put memory behind `frames` frames from `f` on, 4 KiB by 4 KiB, all inside one block. What is
 * there stays.
 * Return: 0; -ENOMEM when the host has none (some may have been filled: they stay until freed).
 */
int pool_fill(struct pool *p, frame_t f, uint32_t frames);

/*
 * `frames` frames from `f` on, of blocks handed out, read as zero from now on; the host has their
 * memory back, where it takes it. Cannot fail.
 */
void pool_zero(struct pool *p, frame_t f, uint64_t frames);

/* Frames that may still be handed out, together; cheap, unlike pool_stats(). */
uint64_t pool_free_frames(struct pool *p);

void pool_stats(struct pool *p, struct pool_stats *out);

/*
 * Walk the whole frame table and the free lists and compare with the counters.
 * Return: 0, or -EUCLEAN after printing the first difference to stderr.
 */
int pool_audit(struct pool *p);

#endif
