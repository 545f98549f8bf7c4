// SPDX-License-Identifier: MIT
/*
 * mm/policy.h - what to do about one violation of fresh memory: a pure function of the event and
 * of a small history that the caller keeps.
 *
 * An event in user space costs several times the kernel's own 4 KiB fault; a 2 MiB page costs about
 * twenty and saves 511. So an event is answered in one of these ways:
 *
 *     CLUSTER   a few pages now; the rest of the block goes on to raise events
 *     PROOF     the same of a block that will most likely be wanted whole: it may be so already
 *     WHOLE     blocks as 2 MiB pages, more of them than were touched where a walk will get to them
 *     SMALL     blocks that raise no events any more: the kernel fills them 4 KiB by 4 KiB
 *
 * A walk (sequential, either way, or in strides of a few pages) is a stream: events where the last
 * answer ended. When two follow each other so, the block they are in is taken to be dense, and the
 * stream gets it and blocks ahead of it: 1, 2, 4, ... POLICY_AHEAD. Behind what it was given it
 * must prove itself again, by the first pages of one block more; but not while all that walks were
 * allowed since they last did so is within 32 MiB of what they have proven to have walked through.
 * So what is committed stays below about twice that and 32 MiB, and two blocks for each walk that
 * was begun; and a walk costs one or two events for each doubling.
 *
 * A touch that no stream expects is lone. The first few get clusters; then neighbourhoods of the
 * touched block are handed to the kernel, the larger the more lone touches there were, so that a
 * random walk costs some dozen events and then runs as fast as the kernel does, with no
 * memory committed that was not touched. A walk that leaves such a neighbourhood is a stream again.
 *
 * Concurrency: none here; a space's lock guards its history.
 */
#ifndef COWSLIP_MM_POLICY_H
#define COWSLIP_MM_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "mm/types.h"

#define POLICY_STREAMS 8u
#define POLICY_AHEAD   64u  /* blocks given ahead of a walk, at most */
#define POLICY_AROUND  512u /* blocks of a neighbourhood, at most; a power of two */

/* A walk, or a touch that may become one. All-zero: not in use. Pages count from the window. */
struct policy_stream {
	uint64_t low, high; /* what it was given last: [low, high) */
	uint32_t used;      /* tick of its last event; 0: not in use */
	uint32_t unproven;  /* blocks it was allowed since it last proved itself */
	uint16_t credit;    /* blocks it may have before it must prove itself again */
	uint16_t ahead;     /* blocks it was allowed last, 0: none yet */
	uint8_t hits;       /* events where it was expected, since it was allowed the last */
	int8_t way;         /* 1 upwards, -1 downwards, 0 not known yet */
};

/* All-zero: nothing is known. */
struct policy_history {
	struct policy_stream streams[POLICY_STREAMS];
	uint32_t tick;
	uint32_t lone; /* lone touches, halved whenever a walk is allowed more */
	/* Of all walks, the forgotten too: blocks proven to be walked, and those allowed beyond. */
	uint64_t walked, unproven;
};

struct policy_event {
	enum page_size page_size; /* of the region */
	uint64_t page;            /* touched; counts from the window's start */
	bool fresh;               /* its block has no frames yet; else clusters of it are there */
	uint32_t below, above;    /* blocks without frames next to it, to POLICY_AHEAD - 1 */
	uint32_t at_once;         /* >= 1: whole blocks that one answer may give */
	uint32_t room;            /* >= 1: blocks that may be given at all */
};

enum policy_kind {
	POLICY_CLUSTER,
	POLICY_PROOF,
	POLICY_WHOLE,
	POLICY_SMALL,
};

/*
 * CLUSTER, PROOF: pages [first, first + count), inside one block, the touched page among them.
 * WHOLE: blocks [first, first + count), counted from the window's start: the touched one and
 * neighbours without frames. SMALL: blocks, likewise, but others lie among them: those are
 * to be left alone.
 */
struct policy_choice {
	enum policy_kind kind;
	uint64_t first, count;
};

/* `first` and `count` are pages, not blocks. */
static inline bool policy_in_pages(enum policy_kind kind)
{
	return kind == POLICY_CLUSTER || kind == POLICY_PROOF;
}

/* The answer; `h` remembers it. */
struct policy_choice policy_choose(struct policy_history *h, const struct policy_event *e);

/*
 * The same for an access of the VMM's own to `count` pages from `page` on, inside one block: it is
 * known beforehand, and says nothing about the guest.
 */
struct policy_choice policy_choose_known(enum page_size page_size, uint64_t page, uint64_t count);

/*
 * Following a walk of writes through memory that is shared with an image. The host's kernel copies
 * each page it comes to by itself, so nothing tells of it; from time to time somebody looks which
 * pages have become private since the last time: a growth. Two that join are a walk. The block that
 * it stands in and 1, 2, 4, ... POLICY_AHEAD beyond it may be copied whole before it gets there,
 * and again when it comes out behind them. What is copied so stays below about twice what was
 * walked through, and two blocks for each stream.
 *
 * A walk that leaves out some pages, at most every other, is followed one block at a time: what is
 * ahead of it would be written in part only. Writes that lie further apart are no walk.
 */
struct policy_growth {
	uint64_t low, high;    /* pages [low, high), from the window's start ... */
	uint64_t pages;        /* ... of which so many are newly private */
	uint32_t below, above; /* blocks that may be copied, in a row, from the one that holds page
	                          low - 1 downwards, and page `high` upwards; to POLICY_AHEAD + 1 */
	uint32_t room;         /* blocks that there are frames for */
};

/* Blocks [first, first + count), from the window's start; in which order a walk comes to them. */
struct policy_follow {
	uint64_t first, count; /* count 0: none */
	int way;               /* 1 upwards, -1 downwards */
};

/* The answer; `h`, a history for this alone, remembers it as carried out. */
struct policy_follow policy_follow(struct policy_history *h, const struct policy_growth *g);

#endif
