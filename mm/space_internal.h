// SPDX-License-Identifier: MIT
/*
 * mm/space_internal.h - the inside of a space, shared by the files that implement it:
 *
 *     space.c          life cycle, regions
 *     window.c         the only mmap calls in a window
 *     freeze.c         nobody writes to a part of it
 *     violation.c      the one decision function
 *     backend_*.c      how an EMPTY block is filled
 *     fault_*.c        how violations reach us, and who answers them
 *     access.c         read, write, hold
 *     publish.c        a space becomes an image
 *     publish_ahead.c  ... sooner, for what is done before
 *     own_block.c      a block of it gets frames of its own
 *     follow.c         ... ahead of a walk through it
 *     reset.c          and goes back to it
 *     kept.c           what a reset left private is not changed
 *     discard.c        ranges given back
 *     populate.c       memory behind a range now
 *     protect.c        permissions, ranges taken away
 *     limit.c          what it may have, and what it has
 *     report.c         state by address, statistics, audit
 */
#ifndef COWSLIP_MM_SPACE_INTERNAL_H
#define COWSLIP_MM_SPACE_INTERNAL_H

#include <stdatomic.h>

#include "mm/fault.h"
#include "mm/gpa_map.h"
#include "mm/hugetlb.h"
#include "mm/image.h"
#include "mm/lock.h"
#include "mm/pagemap.h"
#include "mm/policy.h"
#include "mm/pool.h"
#include "mm/space.h"

/* One 2 MiB block of the window. All-zero: EMPTY. Guarded by the space's lock. */
struct block {
	frame_t frame;   /* OWNED: head of its order-9 pool block */
	uint8_t state;   /* enum block_state */
	bool partial;    /* OWNED: only clusters are filled; SHARED: only pages below `mapped` are
	                   mapped; the rest still raises violations */
	bool watched;    /* OWNED and partial: all of it is in memory, and is let in by clusters */
	bool huge;       /* OWNED: one 2 MiB page, or mapped so that the first touch makes it one */
	bool granted;    /* OWNED: the kernel fills it when it is touched; perhaps it never was */
	uint16_t mapped; /* SHARED and partial: pages of the block decided so far, 1..511 */
};

/*
 * A backend fills an EMPTY or partial block of its regions.
 * Lock: the space's, held. Return: 0 and *done, what may be tried again now; -ENOMEM; -EAGAIN.
 * On failure nothing has changed.
 */
struct backend_ops {
	const char *name;
	int (*fill)(struct space *s, struct block *b, struct violation v, struct gpa_range *done);
};
extern const struct backend_ops backend_alloc;   /* zeroed frames of the pool */
extern const struct backend_ops backend_image;   /* the image's frames, else as alloc */
extern const struct backend_ops backend_linear;  /* memory of the embedder's */
extern const struct backend_ops backend_hugetlb; /* reserved huge pages, else as alloc */

struct region {
	struct ram_region ram;
	const struct backend_ops *backend;
	unsigned permits;     /* set of enum access */
	struct hugetlb *huge; /* where its reserved huge pages are; NULL: it has none */
};

/* A block of the pool that is kept for something, with one reference. */
struct spare {
	frame_t frame;
	size_t index;   /* of the guest's block that it is for */
	unsigned order; /* of a pack */
	bool huge;      /* it is one 2 MiB page */
};

struct space {
	struct lock lock;

	/* Constant after space_create(). */
	struct pool *pool;
	struct region regions[IMAGE_MAX_REGIONS];
	struct ram_region ram[IMAGE_MAX_REGIONS]; /* the same, as callers see them */
	size_t region_count;
	gpa_t first;                   /* gpa of the window's start, 2 MiB aligned */
	uint64_t size;                 /* bytes of window, 2 MiB aligned */
	uint8_t *window;               /* `first` is here */
	bool linear;                   /* the window is the embedder's */
	bool own_faults, limit_copies; /* as configured */
	size_t block_count;
	const struct fault_ops *faults;
	const char *faults_why;
	void (*nomem)(void *ctx, struct violation v);
	void (*broken)(void *ctx, int error);
	void *ctx;

	/* Guarded by `lock`. */
	/* What SHARED and EMPTY blocks read; may be NULL. Whether it is, may be asked without. */
	struct image *_Atomic image;
	struct gpa_map cut;   /* 1: discarded, the image is not to be seen there */
	struct gpa_map guard; /* enum protection */
	struct block *blocks; /* [block_count] */
	uint64_t limit_frames;
	uint64_t owned_frames;
	struct policy_history history;
	unsigned unwatched; /* proofs to come for which no huge page is asked for */
	int64_t place; /* frame at which `first` would lie in the pool, so that runs stay runs */
	unsigned holds;

	/* limit.c's: private pages there were, kept ones included, at so many faults. */
	struct {
		uint64_t most, faults, looked_ns;
	} copies;

	/* Frames for what the next publish has to copy, brought in before; publish_ahead.c's. */
	struct {
		struct spare *block, *pack;
		size_t blocks, packs;
	} spare;

	struct page_runs kept; /* private pages that the last reset overwrote (kept.c) */
	/* How things stood when those were all private pages; image NULL: never, or no more. */
	struct {
		const struct image *image;
		uint64_t windows, faults;
	} settled;

	/* Walks of writes through shared memory; follow.c's. */
	struct {
		struct page_runs seen; /* private pages at the last look */
		bool looked;           /* there was one */
		struct policy_history history;
		struct policy_follow want[POLICY_STREAMS]; /* blocks to copy ... */
		unsigned wanted;                           /* ... so many of them */
	} follow;

	/* Owned by the fault path. */
	struct fault_state fault;

	_Atomic uint64_t violations;
	_Atomic uint64_t events;
	_Atomic uint64_t nomems;
	_Atomic uint64_t windows;
	_Atomic uint64_t followed;
};

/*
 * Long work with the lock has come a step further: who waits for the lock meanwhile is not stuck
 * (fault_uffd_handler.c). Lock held.
 */
static inline void space_gets_on(struct space *s)
{
	atomic_fetch_add_explicit(&s->fault.beat, 2, memory_order_relaxed);
}

/* ---- blocks ---- */

static inline size_t block_index(const struct space *s, gpa_t a)
{
	return (size_t)((a.v - s->first.v) >> MM_BLOCK_SHIFT);
}

static inline gpa_t block_gpa(const struct space *s, size_t index)
{
	return (gpa_t){s->first.v + ((uint64_t)index << MM_BLOCK_SHIFT)};
}

static inline size_t block_of(const struct space *s, const struct block *b)
{
	return (size_t)(b - s->blocks);
}

/* Nothing of an OWNED block raises violations any more. */
static inline void block_disarmed(struct block *b)
{
	b->partial = b->watched = false;
}

/* The region that holds `a`, or NULL. */
const struct region *space_region(const struct space *s, gpa_t a);

/* The part of block `index` that is RAM: a region may end inside its last block. */
struct gpa_range block_range(const struct space *s, size_t index);

/* OWNED blocks with neighbouring frames, mapped alike: one mapping serves them. */
struct owned_run {
	size_t first, count;  /* blocks */
	struct gpa_range ram; /* what they cover */
	frame_t frame;        /* of the first */
	bool huge;            /* of all */
};

/*
 * The next such run among blocks [*at, end), as long as it can be; *at moves behind it. Lock held.
 * Return: false when there is none left.
 */
bool next_owned(const struct space *s, size_t *at, size_t end, struct owned_run *out);

/* ---- backend_hugetlb.c: all with the lock held ---- */

/* The part of a region with reserved huge pages that one of them backs, or could. */
struct huge_page {
	size_t first, count;  /* blocks */
	struct gpa_range ram; /* what they cover */
	struct hugetlb *huge;
	uint64_t offset; /* in that */
};

/* The one that block `block` of such a region belongs to. */
struct huge_page huge_page_of(const struct space *s, size_t block);

/*
 * The next one that is there (HUGETLB) among blocks [*at, end); *at moves behind it. Return: false
 * when there is none left.
 */
bool next_huge(const struct space *s, size_t *at, size_t end, struct huge_page *out);

/* All of its blocks are EMPTY and have one protection: it can be had as one page. */
bool huge_fits(const struct space *s, const struct huge_page *p);

/* Take it from the host and count it, or the reverse; blocks and window stay. Return: 0; -ENOMEM */
int huge_take(struct space *s, const struct huge_page *p);
void huge_put(struct space *s, const struct huge_page *p);

/* All of its blocks are in `state` from now on, and know nothing more. */
void huge_set(struct space *s, const struct huge_page *p, enum block_state state);

/* Map all that are there. Return: 0 or -errno. */
int huge_map_all(struct space *s);

/*
 * Copy it into frames of the pool; its blocks become OWNED. The guest may run (but see
 * mm/freeze.h). huge_demote_all(): every one, one after the other.
 * Return: 0; -ENOMEM (frames, the pool having no run of that size left; host memory; mappings);
 * as space_freeze(). The page in hand is as it was.
 */
int huge_demote(struct space *s, const struct huge_page *p);
int huge_demote_all(struct space *s);

/* Return: NULL, or what is wrong. */
const char *huge_audit(const struct space *s);

/* ---- protect.c ---- */

/* The protection at `at`, and how far it reaches. Lock held. */
static inline enum protection guard_get(const struct space *s, uint64_t at, uint64_t limit,
                                        uint64_t *stop)
{
	return (enum protection)gpa_map_get(&s->guard, at, limit, stop);
}

/* The set of enum access it permits. */
static inline unsigned guard_permits(enum protection p)
{
	if (p == PROTECT_RW)
		return ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC;
	return p == PROTECT_RO ? ACCESS_READ | ACCESS_EXEC : 0;
}

/* All of [start, end) is read-write. Lock held. */
static inline bool guard_is_rw(const struct space *s, uint64_t start, uint64_t end)
{
	uint64_t stop;

	return guard_get(s, start, end, &stop) == PROTECT_RW && stop == end;
}

/*
 * Lock held. Return: 0; -EFAULT when any of `r`, RAM, has been unmapped; -EACCES when any forbids
 * `access`.
 */
int guard_check(const struct space *s, struct gpa_range r, enum access access);

/* Bring block `index` to where no violation maps anything in it. Lock held. Return: 0; -ENOMEM. */
int space_decide_block(struct space *s, size_t index);

/* ---- limit.c ---- */

/* Less than all of it. */
static inline bool limit_binds(const struct space *s)
{
	return s->limit_frames < (uint64_t)s->block_count << MM_BLOCK_ORDER;
}

/*
 * Frames that may still be taken, whether the pool has them or not: exact where they are fewer than
 * `want`, else at least so many. Lock held. Cannot fail: what cannot be found out is taken.
 */
uint64_t limit_room(struct space *s, uint64_t want);

/* Faults that threads of this process have taken so far, on their own or in the kernel. */
uint64_t process_faults(void);

/* ---- own_block.c ---- */

/* What a run of pages of the window is to the guest. */
struct gpa_range run_range(const struct space *s, const struct page_run *r);

/* The part of `r` inside `in`; size 0 when there is none. */
struct gpa_range range_clip(struct gpa_range r, struct gpa_range in);

/* From *run on, to the first that ends above `end`. */
void skip_runs(const struct space *s, const struct page_runs *runs, uint64_t end, size_t *run);

/*
 * Make a SHARED block that is decided and read-write OWNED by copying it. `private` are its private
 * pages, perhaps others', `run` the first of them that ends above the block's start. Contents stay.
 * Lock held, the guest stopped. Return: 0; -ENOMEM (pool, limit, mappings), -errno of reading the
 * store: nothing changed.
 */
int own_block(struct space *s, struct block *b, const struct page_runs *private, size_t run);

/* ---- follow.c ---- */

/* What was learnt of the guest's walks is past: what is private has changed. Lock held. */
void follow_forget(struct space *s);

/* ---- publish.c ---- */

/*
 * The next SHARED block from *at on that a publish would rather copy whole, and the first of the
 * `private` runs that ends in it or above. Start with both 0. Lock held. Return: NULL when there is
 * none left.
 */
struct block *publish_next_scrappy(struct space *s, const struct page_runs *private, size_t *at,
                                   size_t *run);

/* One more of them would not take the frames that the private pages of all others need. */
bool publish_has_room(const struct space *s, const struct page_runs *private);

/* At most `most` of them become OWNED; as own_block(). One without frames is left to be packed. */
void publish_own_scrappy(struct space *s, const struct page_runs *private, unsigned most);

/* An OWNED block as an extent of an image. */
struct extent publish_extent(const struct space *s, size_t index);

/*
 * Map `run` copy-on-write over its own frames: writes of the guest's reach them no more. Return: 0
 * or -errno, the old mapping is kept.
 */
int publish_map_run(struct space *s, const struct owned_run *run);

/* An image holds its frames and it is mapped so: the block gives its own up. Lock held. */
void publish_give_up(struct space *s, struct block *b);

/* What SHARED and EMPTY blocks read is `image` from now on. Lock held. */
void publish_take_image(struct space *s, struct image *image);

/* The largest order that `pages` fill, at most a block's. */
unsigned publish_pack_order(uint64_t pages);

/* Frames of that order, or a smaller one where the pool is too scattered. Return: 0 or -ENOMEM. */
int publish_alloc_pack(struct space *s, unsigned *order, frame_t *out);

/* ---- publish_ahead.c ---- */

/* Give up the frames that were brought in ahead. Lock held, or nobody else is left. */
void publish_drop_spares(struct space *s);

/* ---- discard.c ---- */

/* `r` reads as zero from now on. Lock held, room for a cut made. */
void discard_range(struct space *s, struct gpa_range r);

/* Return: 0; -EINVAL when `r` is not whole pages; -EFAULT when any byte of it is not RAM. */
int space_check_range(const struct space *s, struct gpa_range r);

/* Private pages of all SHARED blocks, in order. Lock held. Return: as pagemap_private(). */
int space_private_runs(struct space *s, struct page_runs *out);

/* ---- kept.c ---- */

/*
 * The same without those that a reset has kept and that hold the image's bytes; *kept (may be NULL)
 * says how many there are. `out` is empty before. Lock held. Return: as pagemap_private(); -errno
 * of reading the image's file.
 */
int space_changed_runs(struct space *s, struct page_runs *out, uint64_t *kept);

/* ---- window.c: every mapping made in a window ---- */

/*
 * Reserve the window, every region readable, writable and zero; or take the embedder's `memory`.
 * Return: 0 or -ENOMEM.
 */
int window_reserve(struct space *s, void *memory);
void window_release(struct space *s);

/*
 * Map pool frames shared, so that the guest's writes land in them. `huge`: a first touch may
 * bring in 2 MiB. Here and below each page gets the permissions the guard says. Return: 0 or
 * -errno, then the old mapping is kept; of a range with several permissions, which takes several
 * calls, a part may have been mapped.
 */
int window_map_owned(struct space *s, struct gpa_range r, frame_t frame, bool huge);

/*
 * OWNED blocks that are not (any more) `huge`: their pages come in one by one, and khugepaged does
 * not fill up again what has been given back. Only where the pool gives huge pages to who asks:
 * elsewhere no window does. A host that refuses costs that memory.
 */
void window_keep_small(struct space *s, struct gpa_range r);

/*
 * Whether OWNED block `i`, which is empty now, will be `huge` at the next touch: as it is mapped,
 * or because a region of 2 MiB pages is to have one there again.
 */
bool window_becomes_huge(struct space *s, size_t i);

/* Map a reserved huge page that has been taken. Return: 0 or -errno, the old mapping is kept. */
int window_map_huge(struct space *s, const struct huge_page *p);

/*
 * Undo of what was mapped over HUGETLB blocks below `end`, as below.
 */
void window_remap_huge(struct space *s, size_t end);

/*
 * Undo of what was mapped over OWNED blocks below `end`: their own frames again. Nothing was
 * written in between. Cannot fail: it needs no mapping more than there were.
 */
void window_remap_owned(struct space *s, size_t end);

/* Map a run of an image copy-on-write. Return: as above. */
int window_map_private(struct space *s, gpa_t a, uint64_t pages, const struct store *store,
                       frame_t frame);

/* Back to zero memory. Return: as above. */
int window_map_zero(struct space *s, struct gpa_range r);

/*
 * The mappings of `r` permit what `p` does from now on; until then they permit what the guard says.
 * Return: 0, or -errno and nothing changed.
 */
int window_protect(struct space *s, struct gpa_range r, enum protection p);

static inline void *window_ptr(const struct space *s, gpa_t a)
{
	return s->window + (a.v - s->first.v);
}

/* ---- backends ---- */

/*
 * A cluster, or whole blocks from the pool, as the policy has it; also what backend_image does
 * where its image has nothing. Frames granted and never touched are taken back before it gives
 * up.
 */
int alloc_fill(struct space *s, struct block *b, struct violation v, struct gpa_range *done);

/* A part of one extent that the space can see: no cut hides any of it. */
struct image_piece {
	gpa_t gpa;
	uint32_t pages;
	frame_t frame;
	struct store *store;
};

static inline uint64_t image_piece_end(const struct image_piece *p)
{
	return p->gpa.v + ((uint64_t)p->pages << MM_PAGE_SHIFT);
}

/*
 * The next such part in [*at, end); *at moves to its end. Lock held. Return: false when there is
 * none left.
 */
bool image_next(const struct space *s, uint64_t *at, uint64_t end, struct image_piece *out);

/* The same for a fresh block of which the VMM itself is about to access `r`. */
int alloc_fill_known(struct space *s, struct block *b, struct gpa_range r);

/*
 * Blocks that were given to the kernel and never touched become EMPTY, or SHARED where violations
 * do not come to us: zero either way. Only runs of `least` of them or more: each is two
 * mappings more. What the host refuses stays as it is. Lock held; on a path that is not
 * lazy the guest is stopped. Return: blocks taken back.
 */
size_t alloc_take_back(struct space *s, size_t least);

/* Find out which blocks that were given to the kernel have been touched by now. Lock held. */
void alloc_look_at_grants(struct space *s);

/*
 * Map what the image has of [from, to), zero memory in between; the kernel faults all of it.
 * *reached tells how far it came. Lock held. Return: 0 or -errno.
 */
int image_map(struct space *s, uint64_t from, uint64_t to, uint64_t *reached);

/*
 * 2^order frames (pool_alloc_blocks()) for blocks from `block` on, next to their neighbours' where
 * that can be had; the limit is not asked. Lock held. Return: 0; -ENOMEM.
 */
int alloc_frames(struct space *s, size_t block, unsigned order, frame_t *out);

/*
 * The same for block `b` alone. Return: 0; -ENOMEM (pool or limit). Lock held.
 */
int alloc_reserve(struct space *s, const struct block *b, frame_t *out);

/* `b` becomes OWNED with frames from alloc_reserve(). Lock held. */
void alloc_commit(struct space *s, struct block *b, frame_t f);

/* Every block LINEAR; with `populate`, every page there. Return: 0; -errno of madvise. */
int linear_premap(struct space *s, bool populate);

/* ---- backend_image.c ---- */

/* The space's image has bytes for some of `r`. */
bool image_has(const struct space *s, struct gpa_range r);

/*
 * What the image has of [start, end), zeros between, into `to`. Lock held.
 * Return: 0; -errno of reading the image's file: some may have been copied.
 */
int image_copy(const struct space *s, uint64_t start, uint64_t end, uint8_t *to);

/* ---- violation.c ---- */

/* True when a block has something left that only a violation can bring in whole. Lock held. */
static inline bool block_undecided(const struct block *b)
{
	return b->state == BLOCK_EMPTY || (b->state == BLOCK_SHARED && b->partial);
}

/* space_violation() that also says which range may be tried again (for wake-ups). */
enum outcome violation_resolve(struct space *s, struct violation v, struct gpa_range *done);

/*
 * The same for an access of the VMM's own, known beforehand: `r` lies inside one block, of which a
 * part is undecided.
 */
enum outcome violation_resolve_known(struct space *s, struct gpa_range r, enum access access);

#endif
