// SPDX-License-Identifier: MIT
/*
 * mm/reset.c - a space goes back to its image, or to empty, dropping only what it has changed.
 *
 *     OWNED block      uffd path: its frames go back to the pool; it is EMPTY and armed again.
 *                      kernel path: the image is mapped again; without one the block keeps its
 *                      frames, as all blocks there do, and their memory is given back
 *     HUGETLB block    uffd path: its page goes back to the host's reserve; EMPTY and armed again.
 *                      kernel path: the page is zeroed and stays
 *     private page     of a SHARED block: the first few hundred are overwritten with the image's
 *                      bytes and stay private, for the next round will write to them again; the
 *                      rest is dropped
 *     cut              what the image has there is mapped again
 *     EMPTY block      nothing to do
 *
 * What it costs follows from what was changed: private pages are found through page tables, which
 * are there only for what has been touched. A guest that is reset again and again writes to the
 * same pages, which stay private: then they need not even be looked for. A page becomes private by
 * a fault, of whatever thread, and the kernel counts these for each process.
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
 * The first so many private pages stay, whole runs of them. A page copied back costs 0.1 to 0.6 us
 * and no fault later; one dropped costs 1.5 us, and 2 (of a thread) to 25 us (of a guest) with the
 * next write.
 */
#define KEEP_PAGES MM_BLOCK_PAGES

/* But of a limit that counts copies no more than this part: they are in its bound (limit.c). */
#define KEEP_PART 4u

/* ---- OWNED blocks ---- */

/* On the kernel path fresh memory has its frames from beginning to end. */
static bool keeps_frames(const struct space *s)
{
	return !s->faults->lazy && !s->image;
}

/*
 * Blocks become EMPTY and armed. With protections in the space they become SHARED instead, because
 * a block with several must not be EMPTY.
 */
static bool rearms(const struct space *s)
{
	return s->faults->lazy && s->guard.count == 0;
}

/* The window shows what lies beneath `ram`: the image, or nothing yet. Return: 0 or -errno. */
static int uncover(struct space *s, struct gpa_range ram)
{
	uint64_t reached;
	int r = window_map_zero(s, ram);

	if (r)
		return r;
	if (rearms(s))
		return s->faults->arm(s, ram);
	return image_map(s, ram.start.v, gpa_range_end(ram), &reached);
}

/* All OWNED blocks; they keep their frames until give_back(). Return: 0, or -errno and undone. */
static int uncover_owned(struct space *s)
{
	struct owned_run run;

	for (size_t i = 0; next_owned(s, &i, s->block_count, &run);) {
		int r = uncover(s, run.ram);

		if (r) {
			window_remap_owned(s, run.first + run.count);
			return r;
		}
	}
	return 0;
}

/* The same of reserved huge pages, which lie over no image. */
static int uncover_huge(struct space *s)
{
	struct huge_page p;

	for (size_t i = 0; next_huge(s, &i, s->block_count, &p);) {
		int r = uncover(s, p.ram);

		if (r) {
			window_remap_huge(s, i);
			return r;
		}
	}
	return 0;
}

/* Both, or neither. Return: 0 or -errno. */
static int uncover_all(struct space *s)
{
	int r = uncover_owned(s);

	if (r)
		return r;
	r = uncover_huge(s);
	if (r)
		window_remap_owned(s, s->block_count);
	return r;
}

/* Nothing maps them any more. */
static void give_back(struct space *s)
{
	uint8_t state = rearms(s) ? BLOCK_EMPTY : BLOCK_SHARED;
	struct huge_page p;

	for (size_t i = 0; next_huge(s, &i, s->block_count, &p);) {
		huge_put(s, &p);
		huge_set(s, &p, (enum block_state)state);
	}
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
	struct huge_page p;

	for (size_t i = 0; next_huge(s, &i, s->block_count, &p);)
		memset(hugetlb_ptr(p.huge, p.offset), 0, p.ram.size);

	for (size_t i = 0; next_owned(s, &i, s->block_count, &run);) {
		pool_zero(s->pool, run.frame, run.ram.size >> MM_PAGE_SHIFT);
		for (size_t k = 0; k < run.count; k++) {
			s->blocks[run.first + k].huge = window_becomes_huge(s, run.first + k);
			s->blocks[run.first + k].granted = true;
		}
	}
}

/* ---- private pages ---- */

/* What the image has of [start, end) over private pages there. Return: as image_copy(). */
static int copy_back(struct space *s, uint64_t start, uint64_t end)
{
	return image_copy(s, start, end, window_ptr(s, (gpa_t){start}));
}

/* The same where pages may not be written: opened for as long as it takes. */
static int copy_back_opened(struct space *s, uint64_t start, uint64_t end)
{
	int r = 0;

	for (uint64_t stop; r == 0 && start < end; start = stop) {
		enum protection p = guard_get(s, start, end, &stop);
		struct gpa_range part = {{start}, stop - start};

		r = p == PROTECT_RW ? 0 : window_protect(s, part, PROTECT_RW);
		if (r)
			return r;
		r = copy_back(s, start, stop);
		if (p != PROTECT_RW)
			CHECK(window_protect(s, part, p) == 0);
	}
	return r;
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

	if (keep && guard_is_rw(s, start, end))
		return copy_back(s, start, end) ? drop(run) : 0;
	return drop(run) ? copy_back_opened(s, start, end) : 0;
}

/* The runs from the first on that may be kept, together. Return: how many. */
static size_t count_kept(const struct space *s, const struct page_runs *private)
{
	uint64_t most = KEEP_PAGES, pages = 0;
	size_t n = 0;

	if (s->limit_copies)
		most = min_u64(most, s->limit_frames / KEEP_PART);
	for (; n < private->count; n++) {
		pages += private->run[n].pages;
		if (pages > most)
			break;
	}
	return n;
}

/*
 * Goes on behind a run that could not be restored. What is kept of the list becomes the space's.
 * Return: 0 or the first -errno.
 */
static int restore_private(struct space *s, struct page_runs *private)
{
	size_t kept = count_kept(s, private);
	int first = 0;

	for (size_t i = 0; i < private->count; i++) {
		int r = restore_run(s, &private->run[i], i < kept);

		first = first ? first : r;
	}
	if (private != &s->kept) {
		page_runs_fini(&s->kept);
		s->kept = *private;
		*private = (struct page_runs){0};
	}
	page_runs_truncate(&s->kept, kept);
	return first;
}

/* ---- cuts ---- */

/* A cut touches so many blocks; each takes two changes of the map at most. */
static int reserve_cuts(struct space *s)
{
	size_t parts = 0;

	for (size_t i = 0; i < s->cut.count; i++)
		parts += block_index(s, (gpa_t){s->cut.span[i].end - 1}) -
		         block_index(s, (gpa_t){s->cut.span[i].start}) + 1;
	parts = 2 * parts + s->guard.count;
	return parts ? gpa_map_reserve(&s->cut, parts) : 0;
}

/* Map what the image has of [at, end), all of it on zero memory now. Return: 0 or -errno. */
static int map_pieces(struct space *s, uint64_t at, uint64_t end)
{
	struct image_piece p;

	while (image_next(s, &at, end, &p)) {
		int r = window_map_private(s, p.gpa, p.pages, p.store, p.frame);

		if (r)
			return r;
	}
	return 0;
}

/*
 * The cut [start, end) inside one block goes. Where the host refuses to map the image there, the
 * pages are overwritten with its bytes; they are private then, and the cut stays under them.
 * Return: 0 or -errno of reading a file.
 */
static int uncut_part(struct space *s, uint64_t start, uint64_t end)
{
	const struct block *b = &s->blocks[block_index(s, (gpa_t){start})];
	uint64_t to = end;
	int r;

	/* Of a block half decided, the rest finds the image with its next violation. */
	if (b->partial)
		to = min_u64(end, align_down(start, MM_BLOCK_SIZE) +
		                          ((uint64_t)b->mapped << MM_PAGE_SHIFT));
	gpa_map_set(&s->cut, start, end, 0);
	if (b->state != BLOCK_SHARED || to <= start || map_pieces(s, start, to) == 0)
		return 0;
	r = copy_back_opened(s, start, to);
	gpa_map_set(&s->cut, start, to, 1);
	return r;
}

/* What has been unmapped stays so, whatever the image has there. */
static void cut_unmapped(struct space *s)
{
	for (size_t i = 0; s->image && i < s->guard.count; i++) {
		const struct gpa_span *span = &s->guard.span[i];

		if (span->value == PROTECT_UNMAPPED)
			gpa_map_set(&s->cut, span->start, span->end, 1);
	}
}

/* Return: 0 or the first -errno. */
static int uncut_all(struct space *s)
{
	int first = 0;

	/* From behind, because a span may become several. */
	for (size_t i = s->cut.count; i-- > 0;) {
		struct gpa_span span = s->cut.span[i];

		for (uint64_t at = span.start, next; at < span.end; at = next) {
			int r;

			next = min_u64(align_down(at, MM_BLOCK_SIZE) + MM_BLOCK_SIZE, span.end);
			r = uncut_part(s, at, next);
			first = first ? first : r;
		}
	}
	cut_unmapped(s);
	return first;
}

/* ---- finding them, or not having to ---- */

/* May what a reset keeps be all that is private, until something faults? */
static bool can_settle(const struct space *s)
{
	return s->own_faults && s->image && !s->faults->lazy && s->owned_frames == 0 &&
	       s->cut.count == 0 && s->guard.count == 0;
}

/* Is private what the last reset kept, and nothing else? */
static bool nothing_new(const struct space *s)
{
	return s->settled.image && s->settled.image == s->image && can_settle(s) &&
	       s->settled.windows == atomic_load_explicit(&s->windows, memory_order_relaxed) &&
	       s->settled.faults == process_faults();
}

/* After a reset that has kept all private pages. */
static void settle(struct space *s)
{
	if (!can_settle(s))
		return;
	s->settled.image = s->image;
	s->settled.windows = atomic_load_explicit(&s->windows, memory_order_relaxed);
	s->settled.faults = process_faults();
}

/* What a reset space says of itself is its own, not that of whoever used it before. */
static void zero_counters(struct space *s)
{
	_Atomic uint64_t *const counters[] = {&s->violations, &s->events, &s->nomems, &s->windows,
	                                      &s->followed};

	for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++)
		atomic_store_explicit(counters[i], 0, memory_order_relaxed);
}

/* What cannot be undone. Return: as space_reset() says. */
static int commit(struct space *s, struct page_runs *private)
{
	size_t runs = private->count;
	int r, e;

	if (keeps_frames(s))
		zero_owned(s);
	else
		give_back(s);
	r = restore_private(s, private);
	e = uncut_all(s);
	zero_counters(s);
	follow_forget(s);
	if (r == 0 && e == 0 && s->kept.count == runs)
		settle(s);
	return r ? r : e;
}

/* Lock held. Return: as space_reset(). */
static int reset(struct space *s)
{
	bool known = nothing_new(s);
	struct page_runs found = {0};
	int r = known ? 0 : space_private_runs(s, &found);

	s->settled.image = NULL;
	if (r == 0)
		r = reserve_cuts(s);
	if (r == 0 && !keeps_frames(s))
		r = uncover_all(s);
	if (r == 0)
		r = commit(s, known ? &s->kept : &found);
	page_runs_fini(&found);
	return r;
}

int space_reset(struct space *s)
{
	int r;

	if (s->linear)
		return -ENOTSUP;
	lock_take(&s->lock);
	r = s->holds ? -EBUSY : reset(s);
	lock_drop(&s->lock);
	return r;
}
