// SPDX-License-Identifier: MIT
/*
 * mm/space.h - one VM's guest-physical address space.
 *
 * A space is a window (one reserved run of host addresses: hva = window + gpa - base), ordered
 * regions of RAM in it, and a state for every 2 MiB block:
 *
 *     EMPTY    no frame; the first violation asks the region's backend
 *     OWNED    frames from the pool, this space alone, mapped MAP_SHARED
 *     SHARED   frames of an image (or none: zero), mapped MAP_PRIVATE; the first write to a page
 *              makes a private copy in anonymous memory
 *     HUGETLB  a part of a huge page that the host has set aside, this space's alone; all blocks of
 *              the page are. Regions of 1 GiB pages have them, those of 2 MiB where asked for,
 *              until they are published; a clone has none
 *     LINEAR   memory of the embedder's; all blocks of a space are, or none
 *
 *     EMPTY --violation--> OWNED --publish--> SHARED --clone--> SHARED (in the clone)
 *     OWNED --reset--> EMPTY, or SHARED where the kernel path has an image
 *     OWNED --discard--> EMPTY (uffd path)
 *     EMPTY --violation--> HUGETLB --reset, discard of a page--> EMPTY
 *     HUGETLB --publish, protection of a part: copied--> OWNED
 *
 * Which pages of a SHARED block are private is the host kernel's truth, read from
 * pagemap when it is needed; running guests pay nothing for it.
 *
 * Invariants (space_audit):
 *   1. every OWNED block holds one whole order-9 pool block with one reference
 *   2. the base image covers no OWNED block's reads: an OWNED block hides it
 *   3. what no violation has reached reads as zero, or as the base image
 *   4. a failed operation leaves states, counts and contents as they were
 *
 * Concurrency: one mutex per space (rank SPACE) guards block states and mappings.
 * space_violation/read/write/hold may be called from any thread. publish, reset and
 * destroy want the guest stopped: no vCPU running in the window.
 */
#ifndef COWSLIP_MM_SPACE_H
#define COWSLIP_MM_SPACE_H

#include <stddef.h>
#include <stdint.h>

#include "mm/image.h"
#include "mm/pool.h"
#include "mm/types.h"

struct space;

/* How violations reach us (mm/fault.h). AUTO picks by rule and says why. */
enum fault_choice {
	FAULTS_AUTO,
	FAULTS_KERNEL,
	FAULTS_UFFD,
};

/* A stage-2 fault that needs a decision. */
struct violation {
	gpa_t gpa;
	enum access access;
};

enum outcome {
	OUTCOME_RESOLVED, /* the access may be tried again and will pass */
	OUTCOME_RETRY,    /* nothing decided (the host asked for a retry); try the access again */
	OUTCOME_MMIO,     /* no RAM there: a device's, or nobody's */
	OUTCOME_DENIED,   /* RAM, but this access is forbidden */
	OUTCOME_NOMEM,    /* no frame left or over the limit; nothing changed, may be tried again */
};

/* "resolved", "retry", ... */
const char *outcome_name(enum outcome o);

enum block_state {
	BLOCK_EMPTY = 0,
	BLOCK_OWNED,
	BLOCK_SHARED,
	BLOCK_LINEAR,
	BLOCK_HUGETLB,
};

struct space_config {
	struct pool *pool;            /* frames; the space takes a reference */
	const struct ram_region *ram; /* ordered, not overlapping; ignored when image is set */
	size_t ram_count;
	struct image *image; /* NULL: fresh memory. Else the space is a clone of it */
	enum fault_choice faults;
	bool populate; /* give every block its frames now (fresh memory or `memory` only) */
	bool hugetlb;  /* fresh regions of 2 MiB pages, too, get ones that the host has set aside */
	uint64_t limit_frames; /* the most this space may have; 0: as much as its RAM */

	/*
	 * What the limit counts. Not set: frames it owns; where violations come to us none above
	 * the limit are ever taken. Set: private copies as well, which the host kernel makes
	 * without asking; somebody must ask space_check_limit() while the guest runs, and stop it.
	 */
	bool limit_copies;

	/*
	 * Memory of the caller's to use as the window, or NULL. space_window_size() bytes, readable
	 * and writable, starting at a 2 MiB boundary; address a of the guest lies a - f bytes into
	 * it, f being where the first region starts, and each region must lie at a boundary of its
	 * page size. It outlives the space, which never maps, unmaps or registers anything in it
	 * and takes no frames for it; limit_frames means nothing. The host kernel resolves every
	 * fault, so faults == UFFD is refused. With an image, only its layout is used: the caller
	 * vouches that the memory holds what the image does. For memory shared with other
	 * processes, and to compare ways of backing a guest.
	 */
	void *memory;

	/*
	 * Nobody but threads of this process ever takes a fault in the window: no KVM with an
	 * interrupt controller, which may have a thread of the kernel's do it. Then a reset after
	 * which nothing of this process has faulted at all need not look for what was changed, and
	 * what a limit counts of private copies follows from faults alone (space_check_limit()).
	 */
	bool own_faults;

	/*
	 * Called without locks, from the thread that found it, when a vCPU's violation ended in
	 * NOMEM: the vCPU waits until space_resume() or the end of the space. May be NULL.
	 */
	void (*nomem)(void *ctx, struct violation v);

	/*
	 * Called once, without locks, from a thread of the space's own, when violations are
	 * answered no more: -ETIMEDOUT, one has not been for `patience_ms` (0: ten seconds;
	 * nomem() returns well within it); else -errno of what failed. Who waits on one waits
	 * until space_let_go() or the end of the space, and nothing else may follow. May be NULL.
	 */
	void (*broken)(void *ctx, int error);
	uint32_t patience_ms;
	void *ctx;
};

/* The counts of violations, events and mappings begin anew with space_reset(). */
struct space_stats {
	uint64_t violations;      /* that reached us; the kernel counts what it resolves */
	uint64_t events;          /* messages read from the fault path */
	uint64_t nomem;           /* of those, ended in NOMEM */
	uint64_t owned_frames;    /* in OWNED and HUGETLB blocks */
	uint64_t reserve_frames;  /* of those, in HUGETLB ones */
	uint64_t owned_committed; /* of those, with memory behind them */
	uint64_t shared_frames;   /* pages of the base image this space can see */
	uint64_t private_frames;  /* private copies, by pagemap, but for: */
	uint64_t kept_frames;     /* those that a reset has kept, not written to since */
	uint64_t huge_blocks;     /* OWNED blocks filled as one 2 MiB page */
	uint64_t followed_blocks; /* copied by space_follow(); begins anew with space_reset() */
	uint64_t windows;         /* mappings made in the window */
	const char *fault_path;   /* "kernel" or "uffd" */
	const char *fault_why;    /* why that one, a sentence */
};

/*
 * Bytes of window that these regions need: from the start of the first to the end of the last,
 * whole blocks. 0 for regions that space_create() would refuse.
 */
uint64_t space_window_size(const struct ram_region *ram, size_t count);

/*
 * Make a space and its window. With an image, this is the memory half of a clone: a few mmaps
 * and one reference on the image, whatever the RAM.
 * Return: 0; -EINVAL for bad regions (see image_create), populate with an image but without
 * memory, memory that is misaligned or comes with faults == UFFD; -ENOMEM (host memory, mappings
 * or frames; the host has set aside too few huge pages); -ENOTSUP when it knows no huge pages of
 * that size; -EPERM when faults == UFFD and userfaultfd is not permitted;
 * -EMFILE; as MADV_POPULATE_WRITE where memory is to be populated. On failure nothing is kept.
 */
int space_create(const struct space_config *config, struct space **out);

/*
 * Unmap the window, drop frames and the image. NULL is ignored. No vCPU may use the window any
 * more. A space whose thread is stuck in a violation for longer than its patience is left as it is:
 * window, frames and references are never given back.
 */
void space_destroy(struct space *s);

/* RAM regions, ordered. Borrowed. */
const struct ram_region *space_ram(const struct space *s, size_t *count);

/* Where a RAM address lies in the window: for a VM's memory slots. `a` is inside a region. */
hva_t space_hva(const struct space *s, gpa_t a);

/* The inverse of space_hva(). */
gpa_t space_gpa(const struct space *s, hva_t h);

/*
 * The one violation function: idempotent, any thread.
 *   1. already permitted -> RESOLVED     2. not RAM -> MMIO      3. region forbids -> DENIED
 *   4. EMPTY -> the backend fills it     5. write on SHARED -> private copy by the host kernel
 *   6. no frames left or over the limit -> NOMEM
 */
enum outcome space_violation(struct space *s, struct violation v);

/*
 * Copy between the caller's buffer and guest memory, through the violation path. Crosses blocks
 * and regions that touch; nothing is copied unless the whole range is RAM and permits it.
 * Return: 0; -EFAULT when any byte is not RAM; -EACCES when denied; -ENOMEM when NOMEM (what
 * lies before the block that could not be had may have been copied).
 */
int space_read(struct space *s, gpa_t from, void *to, size_t size);
int space_write(struct space *s, gpa_t to, const void *from, size_t size);

/*
 * A pinned, contiguous run of guest memory. While any is held, space_publish(), space_reset(),
 * space_discard(), space_protect() and space_unmap() fail with -EBUSY.
 */
struct hold {
	void *ptr;
	size_t size;
	struct space *space;
};

/*
 * Pin the run at `a` for `access`: at most `size` bytes, never beyond the region's end;
 * out->size says how many. The caller drops it with space_release().
 * Return: as space_read, and -EINVAL when size is 0.
 */
int space_hold(struct space *s, gpa_t a, size_t size, enum access access, struct hold *out);
void space_release(struct hold *h);

/*
 * The memory half of a snapshot: the stopped space's memory becomes an immutable image and the
 * space goes on as a clone of it. OWNED blocks change hands without a copy; private pages are
 * copied, packed, into fresh frames. `state` is kept with the image.
 * Return: 0; -EBUSY while holds are out; -ENOTSUP when the memory is the embedder's; -ENOMEM
 * (frames, host memory); -errno of reading pagemap; -EMFILE, -ENFILE where reserved huge pages are
 * to be copied. On failure the space's contents are as before;
 * blocks that are mostly private may have been copied whole and so have become OWNED, and so may
 * reserved huge pages, all of which are copied: into frames that follow each other in the pool, so
 * it must have such a run for each.
 */
int space_publish(struct space *s, const void *state, size_t state_size, struct image **out);

/*
 * Get ready for space_publish() while the guest runs: look what it would have to copy by now, and
 * bring in frames for that, which are kept until the next one. Makes it shorter; it needs none.
 * Return: how many blocks are mostly private copies and would be copied whole; -ENOTSUP when the
 * memory is the embedder's; -ENOMEM (host memory), -errno of reading pagemap: nothing changed.
 */
int space_publish_ahead(struct space *s);

/*
 * Copy up to `most` of those blocks now, with the guest stopped: they become OWNED, contents stay,
 * and space_publish() need not copy them.
 * Return: 0; -EBUSY while holds are out; otherwise as space_publish_ahead().
 */
int space_copy_ahead(struct space *s, unsigned most);

/*
 * Of a space without an image, most of what space_publish() would have to do, done while the guest
 * runs, some blocks at a time: those that are OWNED become SHARED, with an image of the space's own
 * that holds their frames. Contents stay; what the guest writes from then on are private pages,
 * which space_publish() copies. So it is to follow soon; if it does not, space_reset() goes back to
 * no moment that anybody knows of (and to zero where nothing was shared), and the frames count as
 * an image's, not as this space's. Holds the lock all the while: a violation waits.
 * Does nothing where there is an image, where there are reserved huge pages, or where the pool has
 * not the frames to copy all that is shared.
 * Return: 0; -EBUSY while holds are out; -ENOTSUP when the memory is the embedder's; -ENOMEM (host
 * memory, mappings): what has become SHARED is so, the rest stays OWNED.
 */
int space_share_ahead(struct space *s);

/*
 * Nothing tells what a guest writes to memory that it shares with an image: the kernel copies each
 * page by itself. Whoever runs the guest may look from time to time, when there have been faults
 * since the last time: pages that have become private in a row, twice, are a walk, and what is
 * ahead of it can be copied a block at a time, for a small part of what the kernel takes. How much:
 * see mm/policy.h.
 */

/* It has an image, and memory that is its own: looking may be of use. */
bool space_may_follow(const struct space *s);

/*
 * Look what has become private since the last look, by page tables: costs what has been touched.
 * The guest may run. Return: 1 when space_follow() has something to copy and no hold is out, else
 * 0; -ENOMEM (host memory), -errno of reading pagemap: nothing changed.
 */
int space_look(struct space *s);

/*
 * Copy up to `most` blocks of that, with the guest stopped: they become OWNED, contents stay. A
 * block for which there are no frames stays as it is, and those behind it. While holds are out
 * nothing is done: what is left waits. Return: 1 when more can be copied now, else 0.
 */
int space_follow(struct space *s, unsigned most);

/*
 * Back to the image, or to zero memory where there is none: what was changed since is dropped and
 * costs, not RAM. Counts of space_stats begin anew. A few hundred private pages at most are
 * overwritten in place: they stay memory of the space's, with the image's bytes, as kept_frames.
 * Return: 0; -EBUSY while holds are out; -ENOTSUP when the memory is the embedder's; -ENOMEM (host
 * memory, mappings), -errno of reading pagemap: nothing changed. -errno of reading the image's
 * file where a page could be neither dropped nor overwritten: the rest is reset; try again.
 */
int space_reset(struct space *s);

/*
 * [r) reads as zero from now on, until written again; its memory is the host's again, and whole
 * blocks' frames the pool's where the uffd path hands them out. Any part of a block will do; but a
 * part of a reserved huge page is only overwritten, and the host has the page back when all of it
 * is discarded at once. Of a 2 MiB page that is the pool's the part goes, and small pages come in
 * its place: in the window that may cost two mappings more. The guest may run: what it writes there
 * meanwhile may be lost. A reset brings the image back.
 * Return: 0; -EINVAL when `r` is not whole pages; -EFAULT when any of it is not RAM; -EACCES when
 * any may not be written; -EBUSY while holds are out; -ENOTSUP when the memory is the embedder's;
 * -ENOMEM (host memory): nothing changed.
 */
int space_discard(struct space *s, struct gpa_range r);

/*
 * Memory behind all of [r) now: own frames filled, the image's pages mapped for reading, the
 * embedder's memory filled by the host. Contents stay. The guest may run.
 * Return: 0; -EINVAL when `r` is not whole pages; -EFAULT when any of it is not RAM; -ENOMEM
 * (frames, limit, host memory): no block has frames that it had not before; -ENOMEM (mappings):
 * some may have, and keep them; -errno of MADV_POPULATE_READ or _WRITE: as for frames.
 */
int space_populate(struct space *s, struct gpa_range r);

/* What may be done with a page. Read-write unless said otherwise. */
enum protection {
	PROTECT_RW = 0,
	PROTECT_RO,       /* reading and executing: stage 2 tells them apart nowhere we run */
	PROTECT_NONE,     /* RAM, but every access is DENIED */
	PROTECT_UNMAPPED, /* by space_unmap(): no RAM any more, MMIO */
};

/*
 * Give [r) protection `p` (not UNMAPPED), whatever it had. Contents stay; so does the protection,
 * whatever is published, reset or discarded. The VMM's own accesses are bound by it too. In KVM a
 * guest's access that the window refuses ends KVM_RUN without saying where: make memory slots after
 * space_protection() (vm_protect() does).
 * Return: 0; -EINVAL when `r` is not whole pages; -EFAULT when any of it is not RAM; -EBUSY while
 * holds are out; -ENOTSUP when the memory is the embedder's; -ENOMEM (host memory, mappings;
 * frames, because a block of which a part is protected gets its own); -EMFILE. On failure nothing
 * changed, but blocks at either end may have been given their frames.
 *
 * A reserved huge page of which `r` is a part is copied first, into frames that follow each other
 * in the pool; a guest that writes to it meanwhile waits. Where there is no userfaultfd for that
 * (mm/freeze.h) the guest must be stopped.
 */
int space_protect(struct space *s, struct gpa_range r, enum protection p);

/*
 * [r) is no RAM any more: discarded, and an access finds MMIO. For good: a reset does not bring it
 * back. An image published later has RAM there, zero.
 * Return: as space_protect().
 */
int space_unmap(struct space *s, struct gpa_range r);

/*
 * What holds at `a`, and in *stop how far: at most to `limit`, which lies above. `a` is RAM, or was
 * before space_unmap().
 */
enum protection space_protection(struct space *s, gpa_t a, uint64_t limit, uint64_t *stop);

/*
 * Raise (or lower) the limit and let vCPUs that wait on NOMEM try again. 0 keeps the limit. Below
 * what the space has nothing is taken away from it: it only gets no more, and is over.
 */
void space_resume(struct space *s, uint64_t limit_frames);

/* The limit now, in frames. */
uint64_t space_limit(struct space *s);

/*
 * Does the space have more than its limit? Any thread, as often as it likes, while the guest runs:
 * without copies a comparison; with them a system call (1 us), and private pages are only looked
 * for when the process has faulted so often since the last look that there may be too many. Where
 * own_faults is not set they are also looked for when the last look is 100 ms old.
 *
 * Who asks every t CPU seconds of each vCPU, and stops the guest when told, bounds what it has
 * above the limit: the pages that its vCPUs copy in t each, and until they stand still. What an
 * image gets in space_publish() is no longer the space's.
 * Return: 0; -ENOMEM: it has; -errno of reading pagemap: it may have.
 */
int space_check_limit(struct space *s);

/* What the limit is compared with. A limit of RAM or more says nothing. */
struct space_use {
	uint64_t limit_frames;
	uint64_t owned_frames;  /* whole blocks of the pool, touched or not */
	uint64_t copied_frames; /* private copies, but for those that a reset kept */
	bool counts_copies;     /* as configured: the sum of both is limited, else the first */
};

/*
 * Reads pagemap. Return: 0; -errno of that, then copied_frames is 0.
 */
int space_use(struct space *s, struct space_use *out);

/*
 * Let every thread go that waits on a violation: it finds zero memory where nothing was mapped,
 * so the guest must not run on. For a host that cannot interrupt the wait (Linux before 6.2);
 * may be called from the nomem callback. Only space_shutdown() and space_destroy() may follow.
 */
void space_let_go(struct space *s);

/*
 * Stop handling violations: every thread that waits on one is let go and finds zero memory
 * where nothing was mapped. For ending a VM whose vCPU waits; only space_destroy() may follow.
 */
void space_shutdown(struct space *s);

/* State of the block that holds `a`; BLOCK_EMPTY outside RAM. For tests and reports. */
enum block_state space_block_state(struct space *s, gpa_t a);

/* Its memory is the embedder's (space_config.memory). */
bool space_is_linear(const struct space *s);

/* A run of guest pages of which all the same is true. */
struct space_mapping {
	struct gpa_range range; /* never beyond a block's end */
	enum block_state state;
	/*
	 * What a read finds: `frame` of `store` at the start, the next ones behind it. NULL and
	 * FRAME_NONE: zero memory, a private copy, or the embedder's memory.
	 */
	const struct store *store; /* borrowed, as long as the space does not change */
	frame_t frame;
	uint64_t page_bytes; /* by which it is filled: 1 GiB, 2 MiB or 4 KiB */
	uint32_t sharers; /* references on the pool block that holds the frame; 0: not in a pool */
	bool is_private;  /* private copies of SHARED memory */
	enum protection protection;
};

/*
 * What is at the page that holds `a`, and as far as it goes on from there. Reads pagemap where
 * memory is SHARED.
 * Return: 0; -EFAULT when `a` is not RAM; -ENOMEM, -errno of reading pagemap.
 */
int space_query(struct space *s, gpa_t a, struct space_mapping *out);

/*
 * Walk: the run at *at, or the first above it; *at moves to its end. Start at 0.
 * Return: 0; -ENOENT when there is no RAM at or above *at; as space_query().
 */
int space_next(struct space *s, gpa_t *at, struct space_mapping *out);

/*
 * Has nobody written to any page of `range`, whole pages of RAM, since the space became a clone of
 * its image? A page that resets keep counts as written. The guest is stopped. Reads pagemap.
 * Return: true; false, also where it cannot be told.
 */
bool space_untouched(struct space *s, struct gpa_range range);

/*
 * The image this space is a clone of, borrowed, or NULL. Not beside space_publish() or
 * space_share_ahead() on another thread.
 */
struct image *space_image(const struct space *s);

/*
 * Reads pagemap, and the image where a reset has kept pages: not for hot paths.
 * Return: 0, or -errno of that (the rest is filled all the same).
 */
int space_stats(struct space *s, struct space_stats *out);

/* Recompute every count of this space and compare. Return: 0 or -EUCLEAN after printing it. */
int space_audit(struct space *s);

#endif
