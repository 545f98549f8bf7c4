// SPDX-License-Identifier: MIT
/*
 * mm/frame.h - the frame table and the buddy system over it: numbers only, no memory.
 *
 * What is known of a block stands at its head; the frames behind the head know nothing. Two arrays
 * hold heads, so that large blocks don't touch table memory for each small frame they could be
 * split into:
 *
 *     big[f / 512]    heads of order 9..18; SPLIT: the 512 frames are described in small[]
 *     small[f]        heads of order 0..8
 *
 * Both are anonymous NORESERVE mappings: a table entry costs memory once it is written, and
 * all-zero means "no head here". Frames are brought in from the limit's low end in chunks
 * of at most 1 GiB, when an allocation first needs them.
 *
 * Concurrency: none here; the pool's lock guards all of it.
 */
#ifndef COWSLIP_MM_FRAME_H
#define COWSLIP_MM_FRAME_H

#include <stdbool.h>
#include <stdint.h>

#include "mm/types.h"

enum frame_state {
	FRAME_NO_HEAD = 0, /* inside a larger block, or never brought in */
	FRAME_FREE,        /* in a free list */
	FRAME_USED,        /* handed out, refs >= 1 */
	FRAME_DYING,       /* last reference dropped, its memory is being given back */
	FRAME_RETIRED,     /* its memory could not be given back: never handed out again */
	FRAME_SPLIT,       /* big[] only: look in small[] */
};

struct frame_info {
	uint32_t refs;
	uint32_t prev, next; /* free list of the order, FRAME_NONE at the ends */
	uint8_t order;
	uint8_t state; /* enum frame_state */
};

struct frame_table {
	struct frame_info *big;
	struct frame_info *small;
	uint32_t count;   /* frames in all: the limit */
	uint32_t grown;   /* frames below this have been brought in */
	uint32_t used;    /* in USED and DYING blocks */
	uint32_t peak;    /* the highest `used` was */
	uint32_t retired; /* in RETIRED blocks */
	uint32_t free_head[MM_HUGE_ORDER + 1];
};

/* Return: 0; -ENOMEM. `count` >= 1. */
int frame_table_init(struct frame_table *t, uint32_t count);
/* Takes a zeroed table too. */
void frame_table_fini(struct frame_table *t);

/*
 * Hand out 2^order frames with refs = 1, at `hint` if that is free and aligned.
 * Return: 0; -ENOMEM. order <= 18.
 */
int frame_alloc(struct frame_table *t, unsigned order, frame_t hint, frame_t *out);

/* The head of the block that holds `f`, or NULL when `f` was never brought in. */
struct frame_info *frame_find(struct frame_table *t, frame_t f, frame_t *head);

/* Return: 0; -EOVERFLOW. Aborts when f is not in a USED block. */
int frame_ref(struct frame_table *t, frame_t f);

/*
 * A USED block of order >= 9 with one reference becomes as many USED blocks of order 9, each with
 * one reference.
 */
void frame_split(struct frame_table *t, frame_t head);

/*
 * Drop one. True when it was the last: the block is DYING and the caller owes frame_free()
 * or frame_retire(). Aborts when f is not in a USED block.
 */
bool frame_unref(struct frame_table *t, frame_t f, frame_t *head, unsigned *order);

/*
 * A DYING block becomes free and is joined with its free buddies. True when that made one block of
 * order 9 or more of what had been handed out in parts.
 */
bool frame_free(struct frame_table *t, frame_t head);
/*
 * The block of order 9 at `head` is DYING once more, if all of it is free, and used; `peak` hears
 * nothing of it. The caller owes frame_free().
 */
bool frame_recall(struct frame_table *t, frame_t head);
/* A DYING block is never used again. */
void frame_retire(struct frame_table *t, frame_t head);

/* Walk everything and compare. Return: NULL, or what is wrong. */
const char *frame_table_audit(const struct frame_table *t);

#endif
