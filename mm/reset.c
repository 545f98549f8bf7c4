// SPDX-License-Identifier: MIT
/*
 * mm/reset.c - a space goes back to its image, or to empty, dropping only what it has changed.
 *
 *     OWNED block      uffd path: its frames go back to the pool; it is EMPTY and armed again.
 *                      kernel path: the image is mapped again; without one the block keeps its
 *                      frames, as all blocks there do, and their memory is given back
 *     private page     of a SHARED block: few are overwritten with the image's bytes and stay
 *                      private, for the next round will write to them again; many are dropped
 *     EMPTY block      nothing to do
 *
 * What it costs follows from what was changed: private pages are found through page tables, which
 * are there only for what has been touched.
 *
 * Remapping OWNED blocks may fail and is undone while their frames are still theirs. What follows
 * cannot fail, but where the host refuses to drop a page (locked memory) and the image's file
 * cannot be read either.
 */
#include <string.h>
#include <sys/mman.h>

#include "mm/check.h"
#include "mm/pagemap.h"
#include "mm/space_internal.h"

/*
 * Up to so many private pages stay. A page copied back costs 0.1 to 0.6 us and no fault later; one
 * dropped costs 1.5 us, and 2 (of a thread) to 25 us (of a guest) with the next write.
 */
#define KEEP_PAGES MM_BLOCK_PAGES

/* ---- OWNED blocks ---- */

/* On the kernel path fresh memory has its frames from beginning to end. */
static bool keeps_frames(const struct space *s)
{
	return !s->faults->lazy && !s->image;
}

/* The window shows what lies beneath the run: the image, or nothing yet. Return: 0 or -errno. */
static int uncover(struct space *s, const struct owned_run *run)
{
	uint64_t reached;
	int r = window_map_zero(s, run->ram);

	if (r)
		return r;
	if (s->faults->lazy)
		return s->faults->arm(s, run->ram);
	return image_map(s, run->ram.start.v, gpa_range_end(run->ram), &reached);
}

/* All OWNED blocks; they keep their frames until give_back(). Return: 0, or -errno and undone. */
static int uncover_owned(struct space *s)
{
	struct owned_run run;

	for (size_t i = 0; next_owned(s, &i, s->block_count, &run);) {
		int r = uncover(s, &run);

		if (r) {
			window_remap_owned(s, run.first + run.count);
			return r;
		}
	}
	return 0;
}

/* Nothing maps them any more. */
static void give_back(struct space *s)
{
	uint8_t state = s->faults->lazy ? BLOCK_EMPTY : BLOCK_SHARED;

	for (size_t i = 0; s->owned_frames > 0 && i < s->block_count; i++) {
		struct block *b = &s->blocks[i];

		if (b->state != BLOCK_OWNED)
			continue;
		pool_unref(s->pool, b->frame);
		s->owned_frames -= MM_BLOCK_PAGES;
		*b = (struct block){.state = state};
	}
}

static void zero_owned(struct space *s)
{
	struct owned_run run;

	for (size_t i = 0; next_owned(s, &i, s->block_count, &run);) {
		pool_zero(s->pool, run.frame, run.ram.size >> MM_PAGE_SHIFT);
		for (size_t k = 0; k < run.count; k++)
			s->blocks[run.first + k].huge = false;
	}
}

/* ---- private pages ---- */

/* `pages` of an extent, from its page `skip` on. Return: 0 or -errno of reading a file. */
static int copy_extent(const struct space *s, const struct extent *e, uint64_t skip, uint64_t pages,
                       void *to)
{
	frame_t f = {e->frame.n + (uint32_t)skip};

	/* Another process's pool is mapped there, not here: only its file can be read. */
	if (e->store->pool != s->pool)
		return store_read(e->store, f, pages, to);
	memcpy(to, pool_frame_ptr(s->pool, f), pages << MM_PAGE_SHIFT);
	return 0;
}

/* What the image has of [start, end) over private pages there. Return: as copy_extent(). */
static int copy_back(struct space *s, uint64_t start, uint64_t end)
{
	size_t count = 0;
	const struct extent *e = s->image ? image_extents(s->image, &count) : NULL;
	size_t i = s->image ? image_find(s->image, (gpa_t){start}) : 0;
	uint64_t at = start;

	for (; i < count && e[i].gpa.v < end; i++) {
		uint64_t from = max_u64(e[i].gpa.v, start);
		uint64_t to = min_u64(e[i].gpa.v + ((uint64_t)e[i].pages << MM_PAGE_SHIFT), end);
		int r;

		memset(window_ptr(s, (gpa_t){at}), 0, from - at);
		r = copy_extent(s, &e[i], (from - e[i].gpa.v) >> MM_PAGE_SHIFT,
		                (to - from) >> MM_PAGE_SHIFT, window_ptr(s, (gpa_t){from}));
		if (r)
			return r;
		at = to;
	}
	memset(window_ptr(s, (gpa_t){at}), 0, end - at);
	return 0;
}

static int drop(const struct page_run *run)
{
	return madvise((void *)run->start, run->pages << MM_PAGE_SHIFT, MADV_DONTNEED) < 0 ? -errno
	                                                                                   : 0;
}

static int restore_run(struct space *s, const struct page_run *run, bool keep)
{
	uint64_t start = space_gpa(s, (hva_t){run->start}).v;
	uint64_t end = start + (run->pages << MM_PAGE_SHIFT);

	if (keep)
		return copy_back(s, start, end) ? drop(run) : 0;
	return drop(run) ? copy_back(s, start, end) : 0;
}

/* Goes on behind a run that could not be restored. Return: 0 or the first -errno. */
static int restore_private(struct space *s, const struct page_runs *private)
{
	bool keep = page_runs_pages(private) <= KEEP_PAGES;
	int first = 0;

	for (size_t i = 0; i < private->count; i++) {
		int r = restore_run(s, &private->run[i], keep);

		first = first ? first : r;
	}
	return first;
}

int space_reset(struct space *s)
{
	struct page_runs private = {0};
	int r;

	if (s->linear)
		return -ENOTSUP;
	lock_take(&s->lock);
	r = s->holds ? -EBUSY : space_private_runs(s, &private);
	if (r == 0 && !keeps_frames(s))
		r = uncover_owned(s);
	if (r == 0) {
		if (keeps_frames(s))
			zero_owned(s);
		else
			give_back(s);
		r = restore_private(s, &private);
	}
	lock_drop(&s->lock);
	page_runs_fini(&private);
	return r;
}
