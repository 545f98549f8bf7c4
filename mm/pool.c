// SPDX-License-Identifier: MIT
/*
 * mm/pool.c - memory behind the frame table: one file, and the pool's own mappings of all of it.
 *
 * A frame's life: reserved by the buddy system under the lock; filled by the host when first
 * touched; punched out, outside the lock, while its block is DYING and so cannot be
 * handed out; free. Punching before freeing is what makes every frame read as zero.
 */
#include "mm/pool.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mm/check.h"
#include "mm/frame.h"
#include "mm/lock.h"
#include "mm/pool_internal.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

#define POOL_MAX_BYTES (UINT64_C(1) << 43)
#define COLLAPSE_TRIES 3

struct pool {
	struct store store; /* what extents name; its count is the pool's */
	bool huge;          /* pool_huge(); never changes, like the mapping */
	uint8_t *alias;     /* the whole file, touched 4 KiB by 4 KiB */
	/* NULL: there are none. Both lie in `room`, of twin_room_size(). */
	uint8_t *room, *twin; /* pool_twin_ptr(); never change */
	uint8_t *slot;        /* a block's place, 2 MiB aligned; slot_lock */
	/* Head of the block khugepaged may find there, or FRAME_NONE; slot_lock to change it. */
	_Atomic uint32_t in_slot;
	struct lock slot_lock;
	struct lock lock;
	struct frame_table frames; /* lock */
};

static uint64_t frame_offset(frame_t f)
{
	return (uint64_t)f.n << MM_PAGE_SHIFT;
}

static uint64_t order_bytes(unsigned order)
{
	return MM_PAGE_SIZE << order;
}

/*
 * Map the whole file at a 2 MiB boundary: a block can be one huge page only where its address
 * is aligned too. Fork copies page tables of what it copies; no child wants this mapping.
 */
static int map_alias(struct pool *p)
{
	size_t size = align_up(p->store.size, MM_BLOCK_SIZE) + MM_BLOCK_SIZE;
	uint8_t *room =
		mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *at, *end;

	if (room == MAP_FAILED)
		return -errno;
	at = (uint8_t *)(uintptr_t)align_up((uintptr_t)room, MM_BLOCK_SIZE);
	end = at + align_up(p->store.size, MM_BLOCK_SIZE);
	if (mmap(at, p->store.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
	         p->store.fd, 0) == MAP_FAILED) {
		int r = -errno;

		munmap(room, size);
		return r;
	}
	if (at > room)
		munmap(room, (size_t)(at - room));
	if (room + size > end)
		munmap(end, (size_t)(room + size - end));
	madvise(at, p->store.size, MADV_DONTFORK);
	madvise(at, p->store.size, MADV_NOHUGEPAGE);
	p->alias = at;
	return 0;
}

static size_t twin_room_size(const struct pool *p)
{
	return p->store.size + 3 * MM_BLOCK_SIZE;
}

/* All but the slot's place, when that has been given up: it may be somebody else's. */
static void unmap_twin(struct pool *p)
{
	uint8_t *slot = p->twin - MM_PAGE_SIZE - MM_BLOCK_SIZE;
	uint8_t *behind = p->slot ? slot : slot + MM_BLOCK_SIZE;

	if (slot > p->room)
		munmap(p->room, (size_t)(slot - p->room));
	munmap(behind, (size_t)(p->room + twin_room_size(p) - behind));
}

/*
 * The twin does not lie aligned as the file is, so that khugepaged passes it by: it would fill up
 * every block of which a page is there. Nor would a fault there bring in 2 MiB; the slot is for
 * that. Nothing depends on them but speed.
 */
static void map_twin(struct pool *p)
{
	size_t size = twin_room_size(p);
	uint8_t *room, *slot, *twin;

	if (!p->huge)
		return;
	room = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return;
	slot = (uint8_t *)(uintptr_t)align_up((uintptr_t)room, MM_BLOCK_SIZE);
	twin = slot + MM_BLOCK_SIZE + MM_PAGE_SIZE;
	if (mmap(twin, p->store.size, PROT_READ | PROT_WRITE,
	         MAP_SHARED | MAP_FIXED | MAP_NORESERVE, p->store.fd, 0) == MAP_FAILED ||
	    madvise(twin, p->store.size, MADV_HUGEPAGE) < 0) {
		munmap(room, size);
		return;
	}
	p->room = room;
	p->slot = slot;
	p->twin = twin;
}

int pool_create(uint64_t limit, struct pool **out)
{
	struct pool *p;
	int r;

	if (limit == 0 || !is_aligned(limit, MM_PAGE_SIZE) || limit > POOL_MAX_BYTES)
		return -EINVAL;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->store = (struct store){.refs = 1, .size = limit, .pool = p};
	p->in_slot = FRAME_NONE.n;
	r = pool_file_open(&p->huge);
	if (r < 0)
		goto free_pool;
	p->store.fd = r;
	if (ftruncate(p->store.fd, (off_t)limit) < 0) {
		r = -errno;
		goto close_fd;
	}
	r = frame_table_init(&p->frames, (uint32_t)(limit >> MM_PAGE_SHIFT));
	if (r)
		goto close_fd;
	r = map_alias(p);
	if (r)
		goto fini_frames;
	map_twin(p);
	lock_init(&p->lock, LOCK_POOL);
	lock_init(&p->slot_lock, LOCK_POOL);
	*out = p;
	return 0;

fini_frames:
	frame_table_fini(&p->frames);
close_fd:
	close(p->store.fd);
free_pool:
	free(p);
	return r;
}

void pool_destroy(struct pool *p)
{
	CHECK(p->frames.used == 0);
	munmap(p->alias, align_up(p->store.size, MM_BLOCK_SIZE));
	if (p->room)
		unmap_twin(p);
	frame_table_fini(&p->frames);
	lock_fini(&p->slot_lock);
	lock_fini(&p->lock);
	close(p->store.fd);
	free(p);
}

struct pool *pool_get(struct pool *p)
{
	store_get(&p->store);
	return p;
}

void pool_put(struct pool *p)
{
	if (p)
		store_put(&p->store);
}

struct store *pool_store(struct pool *p)
{
	return &p->store;
}

bool pool_huge(const struct pool *p)
{
	return p->huge;
}

int pool_alloc(struct pool *p, unsigned order, frame_t hint, frame_t *out)
{
	int r;

	if (order > MM_HUGE_ORDER)
		return -EINVAL;
	lock_take(&p->lock);
	r = frame_alloc(&p->frames, order, hint, out);
	lock_drop(&p->lock);
	return r;
}

int pool_alloc_blocks(struct pool *p, unsigned order, frame_t hint, frame_t *out)
{
	int r;

	if (order < MM_BLOCK_ORDER || order > MM_HUGE_ORDER)
		return -EINVAL;
	lock_take(&p->lock);
	r = frame_alloc(&p->frames, order, hint, out);
	if (r == 0)
		frame_split(&p->frames, *out);
	lock_drop(&p->lock);
	return r;
}

int pool_ref(struct pool *p, frame_t f)
{
	int r;

	lock_take(&p->lock);
	r = frame_ref(&p->frames, f);
	lock_drop(&p->lock);
	return r;
}

static bool overlaps(uint32_t block, frame_t f, uint64_t bytes)
{
	return block < f.n + (bytes >> MM_PAGE_SHIFT) && f.n < (uint64_t)block + MM_BLOCK_PAGES;
}

/*
 * khugepaged passes the slot's block by from now on, till the next one comes: it would fill it up,
 * of which memory is given back. The caller sees to it that these frames do not come meanwhile.
 */
static void leave_slot(struct pool *p, frame_t f, uint64_t bytes)
{
	if (!overlaps(atomic_load_explicit(&p->in_slot, memory_order_relaxed), f, bytes))
		return;
	lock_take(&p->slot_lock);
	if (p->slot && overlaps(p->in_slot, f, bytes) &&
	    madvise(p->slot, MM_BLOCK_SIZE, MADV_NOHUGEPAGE) == 0)
		p->in_slot = FRAME_NONE.n;
	lock_drop(&p->slot_lock);
}

/* Give the memory of frames back to the host, so that they read as zero. */
static int punch(struct pool *p, frame_t f, uint64_t bytes)
{
	int r;

	leave_slot(p, f, bytes);
	do {
		r = fallocate(p->store.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		              (off_t)frame_offset(f), (off_t)bytes);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

/*
 * The block at `f` has become free part by part. Where the host could not take a part out of a huge
 * page it has zeroed it and kept it: all of it goes now, unless somebody has taken the block since.
 */
static void give_back_rest(struct pool *p, frame_t f)
{
	bool ours;

	if (pool_block_empty(p, f))
		return;
	lock_take(&p->lock);
	ours = frame_recall(&p->frames, f);
	lock_drop(&p->lock);
	if (!ours)
		return;
	/* It reads as zero in any case. */
	(void)punch(p, f, MM_BLOCK_SIZE);
	lock_take(&p->lock);
	(void)frame_free(&p->frames, f);
	lock_drop(&p->lock);
}

void pool_unref(struct pool *p, frame_t f)
{
	frame_t head;
	unsigned order;
	bool last, joined = false;
	int r;

	lock_take(&p->lock);
	last = frame_unref(&p->frames, f, &head, &order);
	lock_drop(&p->lock);
	if (!last)
		return;
	r = punch(p, head, order_bytes(order));
	lock_take(&p->lock);
	if (r == 0)
		joined = frame_free(&p->frames, head);
	else
		frame_retire(&p->frames, head);
	lock_drop(&p->lock);
	if (joined)
		give_back_rest(p, (frame_t){(uint32_t)align_down(head.n, MM_BLOCK_PAGES)});
}

uint32_t pool_refs(struct pool *p, frame_t f)
{
	frame_t head;
	const struct frame_info *e;
	uint32_t refs;

	lock_take(&p->lock);
	e = frame_find(&p->frames, f, &head);
	refs = e && e->state == FRAME_USED ? e->refs : 0;
	lock_drop(&p->lock);
	return refs;
}

int pool_order(struct pool *p, frame_t f)
{
	frame_t head;
	const struct frame_info *e;
	int order;

	lock_take(&p->lock);
	e = frame_find(&p->frames, f, &head);
	order = e && e->state == FRAME_USED ? e->order : -1;
	lock_drop(&p->lock);
	return order;
}

void *pool_frame_ptr(struct pool *p, frame_t f)
{
	return p->alias + frame_offset(f);
}

void *pool_twin_ptr(struct pool *p, frame_t f)
{
	return p->twin ? p->twin + frame_offset(f) : NULL;
}

bool pool_block_empty(struct pool *p, frame_t f)
{
	off_t start = (off_t)frame_offset(f);
	off_t data = lseek(p->store.fd, start, SEEK_DATA);

	return data < 0 ? errno == ENXIO : data >= start + (off_t)MM_BLOCK_SIZE;
}

/*
 * What touches of a block through the alias bring in: 2 MiB, or 4 KiB as everywhere else in it.
 * Only for a moment: what is mapped so, khugepaged fills up by itself. Return: 0 or -errno.
 */
static int advise_block(struct pool *p, frame_t f, int advice)
{
	return madvise(pool_frame_ptr(p, f), MM_BLOCK_SIZE, advice) < 0 ? -errno : 0;
}

/* Pages of [at, at + size) that are in memory; 0 when the kernel won't say. */
static uint64_t resident_bytes(void *at, size_t size)
{
	enum { CHUNK = 1 << 14 };
	unsigned char vec[CHUNK];
	uint64_t pages = 0;

	for (size_t done = 0; done < size; done += (size_t)CHUNK << MM_PAGE_SHIFT) {
		size_t left = (size - done + MM_PAGE_SIZE - 1) >> MM_PAGE_SHIFT;
		size_t n = left < CHUNK ? left : CHUNK;

		if (mincore((uint8_t *)at + done, n << MM_PAGE_SHIFT, vec) < 0)
			return 0;
		for (size_t i = 0; i < n; i++)
			pages += vec[i] & 1u;
	}
	return pages << MM_PAGE_SHIFT;
}

/* Touch a block in the slot, where it stays until the next one comes. */
static void touch_in_slot(struct pool *p, frame_t f)
{
	void *twin = pool_twin_ptr(p, f);

	lock_take(&p->slot_lock);
	if (p->slot &&
	    mremap(twin, 0, MM_BLOCK_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, p->slot) == MAP_FAILED) {
		/* As leave_slot(). What is there may be somebody else's from now on. */
		(void)madvise(p->slot, MM_BLOCK_SIZE, MADV_NOHUGEPAGE);
		p->slot = NULL;
	}
	p->in_slot = p->slot ? f.n : FRAME_NONE.n;
	if (p->slot)
		(void)*(volatile uint8_t *)p->slot;
	lock_drop(&p->slot_lock);
}

/* An empty block comes in by one touch, if the host has a huge page. Return: whether it did. */
static bool bring_in(struct pool *p, frame_t f)
{
	uint8_t *at = pool_frame_ptr(p, f);

	if (!p->twin || resident_bytes(at, MM_BLOCK_SIZE) > 0)
		return false;
	touch_in_slot(p, f);
	if (resident_bytes(at, MM_BLOCK_SIZE) == MM_BLOCK_SIZE)
		return true;
	leave_slot(p, f, MM_BLOCK_SIZE);
	return false;
}

int pool_collapse(struct pool *p, frame_t f)
{
	uint8_t *at = pool_frame_ptr(p, f);
	int r;

	CHECK(is_aligned(f.n, MM_BLOCK_PAGES));
	/* Else there is something to collapse: a wait until every CPU has flushed its lists. */
	if (bring_in(p, f))
		return 0;
	r = advise_block(p, f, MADV_HUGEPAGE);
	if (r)
		return r;
	/* An empty range has nothing to collapse (EINVAL). */
	(void)*(volatile uint8_t *)at;
	r = -EAGAIN;
	for (int i = 0; i < COLLAPSE_TRIES && r == -EAGAIN; i++)
		r = madvise(at, MM_BLOCK_SIZE, MADV_COLLAPSE) < 0 ? -errno : 0;
	(void)advise_block(p, f, MADV_NOHUGEPAGE);
	return r;
}

/* Through the mapping, which has small pages; what fallocate() brings in is the file's affair. */
int pool_fill(struct pool *p, frame_t f, uint32_t frames)
{
	uint8_t *at = pool_frame_ptr(p, f);
	int r;

	do {
		r = madvise(at, (size_t)frames << MM_PAGE_SHIFT, MADV_POPULATE_WRITE);
	} while (r < 0 && (errno == EINTR || errno == EAGAIN));
	if (r < 0)
		return errno == EFAULT ? -ENOMEM : -errno;
	return 0;
}

void pool_zero(struct pool *p, frame_t f, uint64_t frames)
{
	uint64_t bytes = frames << MM_PAGE_SHIFT;

	if (punch(p, f, bytes))
		memset(pool_frame_ptr(p, f), 0, bytes);
}

uint64_t pool_free_frames(struct pool *p)
{
	const struct frame_table *t = &p->frames;
	uint64_t n;

	lock_take(&p->lock);
	n = (uint64_t)t->count - t->used - t->retired;
	lock_drop(&p->lock);
	return n;
}

void pool_stats(struct pool *p, struct pool_stats *out)
{
	struct stat st = {0};
	const struct frame_table *t = &p->frames;
	size_t small_used, big_used;

	(void)fstat(p->store.fd, &st);
	lock_take(&p->lock);
	*out = (struct pool_stats){
		.limit_frames = t->count,
		.used_frames = t->used,
		.peak_frames = t->peak,
		.retired_frames = t->retired,
		.committed_frames = (uint64_t)st.st_blocks * 512u >> MM_PAGE_SHIFT,
	};
	small_used = (size_t)t->grown * sizeof(*t->small);
	big_used = (size_t)(align_up(t->grown, MM_BLOCK_PAGES) >> MM_BLOCK_ORDER) * sizeof(*t->big);
	lock_drop(&p->lock);
	out->metadata_bytes =
		resident_bytes(t->small, small_used) + resident_bytes(t->big, big_used);
}

int pool_audit(struct pool *p)
{
	const char *wrong;

	lock_take(&p->lock);
	wrong = frame_table_audit(&p->frames);
	lock_drop(&p->lock);
	if (!wrong)
		return 0;
	fprintf(stderr, "cowslip: pool audit: %s\n", wrong);
	return -EUCLEAN;
}
