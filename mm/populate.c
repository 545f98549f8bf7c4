// SPDX-License-Identifier: MIT
/*
 * mm/populate.c - memory behind a range now, instead of when it is touched.
 *
 *     EMPTY            gets frames, filled, or a reserved huge page; where an image has something,
 *                      becomes SHARED
 *     HUGETLB          nothing to do
 *     OWNED            the frames it has are filled; by a 2 MiB page where a touch would bring one
 *     SHARED           the image's pages are mapped for reading; copies stay the guest's to make
 *     LINEAR           the host is asked to fill the embedder's mapping
 *
 * Frames for EMPTY blocks are taken and filled first and mapped last. Where any step before that
 * fails those blocks stay EMPTY and their frames are the pool's again; zeros brought into OWNED
 * blocks stay. A block that is mapped belongs to the guest, which may have written to it before
 * the next one could be mapped: where the host refuses a mapping, those before it keep their
 * frames.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "mm/space_internal.h"

/* An EMPTY block that is to have frames; or the first one of a reserved huge page. */
struct fresh {
	size_t index;
	frame_t frame;
	bool huge;
	bool reserved;
};

struct plan {
	struct fresh *fresh;
	size_t count;
};

/* The part of block `index` in `r`. */
static struct gpa_range part_of(const struct space *s, size_t index, struct gpa_range r)
{
	struct gpa_range ram = block_range(s, index);
	uint64_t start = max_u64(ram.start.v, r.start.v);
	uint64_t end = min_u64(gpa_range_end(ram), gpa_range_end(r));

	return (struct gpa_range){{start}, end - start};
}

static bool is_fresh(const struct space *s, size_t index)
{
	struct gpa_range ram = block_range(s, index);
	uint64_t at = ram.start.v;
	struct image_piece p;

	return s->blocks[index].state == BLOCK_EMPTY && !image_next(s, &at, gpa_range_end(ram), &p);
}

static int fill_frames(struct space *s, frame_t f, struct gpa_range ram, struct gpa_range part)
{
	uint32_t skip = (uint32_t)((part.start.v - ram.start.v) >> MM_PAGE_SHIFT);

	return pool_fill(s->pool, (frame_t){f.n + skip}, (uint32_t)(part.size >> MM_PAGE_SHIFT));
}

/* Take frames for block `index` and fill `part` of them. Return: 0 or -errno, none taken. */
static int take_fresh(struct space *s, size_t index, struct gpa_range part, struct fresh *out)
{
	struct gpa_range ram = block_range(s, index);
	bool want_huge = part.size == MM_BLOCK_SIZE &&
	                 space_region(s, ram.start)->ram.page_size != PAGE_SIZE_4K;
	int r;

	*out = (struct fresh){.index = index};
	r = alloc_reserve(s, &s->blocks[index], &out->frame);
	if (r)
		return r;
	out->huge = want_huge && pool_collapse(s->pool, out->frame) == 0;
	r = out->huge ? 0 : fill_frames(s, out->frame, ram, part);
	if (r) {
		pool_unref(s->pool, out->frame);
		return r;
	}
	/* Counted now, so that the limit holds for all of them. */
	s->owned_frames += MM_BLOCK_PAGES;
	return 0;
}

/* The reserved huge page that block `index` would be in. Return: 0 or -errno, not taken. */
static int take_reserved(struct space *s, const struct huge_page *p, struct fresh *out)
{
	*out = (struct fresh){.index = p->first, .reserved = true};
	return huge_take(s, p);
}

/* Block `index` can be a part of a reserved huge page, which is *p. */
static bool is_reserved(const struct space *s, size_t index, struct huge_page *p)
{
	if (space_region(s, block_gpa(s, index))->backend != &backend_hugetlb)
		return false;
	*p = huge_page_of(s, index);
	return huge_fits(s, p);
}

/* That page has been taken for a block below. */
static bool is_taken(const struct plan *plan, const struct huge_page *p)
{
	const struct fresh *last = plan->count > 0 ? &plan->fresh[plan->count - 1] : NULL;

	return last && last->reserved && last->index == p->first;
}

/* Return: 0 or -errno, nothing taken. */
static int plan_fresh(struct space *s, struct plan *plan, size_t index, struct gpa_range part)
{
	struct fresh *next = &plan->fresh[plan->count];
	struct huge_page p;
	int r;

	if (!is_reserved(s, index, &p))
		r = take_fresh(s, index, part, next);
	else if (is_taken(plan, &p))
		return 0;
	else
		r = take_reserved(s, &p, next);
	plan->count += r == 0;
	return r;
}

/* One that was granted to the kernel is to have its 2 MiB page now. Return: 0 or -errno. */
static int fill_owned(struct space *s, struct block *b, struct gpa_range part)
{
	bool had = b->huge && !b->granted;

	b->granted = false;
	if (b->huge && (had || pool_collapse(s->pool, b->frame) == 0))
		return 0;
	return fill_frames(s, b->frame, block_range(s, block_of(s, b)), part);
}

/* The limit has room for the pages of `part` that are not private yet. Return: 0; -ENOMEM; ... */
static int check_room(struct space *s, struct gpa_range part)
{
	uint64_t want = part.size >> MM_PAGE_SHIFT;
	struct page_runs private = {0};
	int r;

	if (!s->limit_copies || limit_room(s, want) >= want)
		return 0;
	r = pagemap_private((uintptr_t)window_ptr(s, part.start), part.size, PAGEMAP_BEST,
	                    &private);
	want -= page_runs_pages(&private);
	page_runs_fini(&private);
	if (r == 0 && limit_room(s, want) < want)
		r = -ENOMEM;
	return r;
}

/*
 * Let the image be seen in the part, and map what can be read. A block that was left to the kernel,
 * or whose frames were given back where it fills everything, has no image: its zeros are made the
 * space's own. Return: 0 or -errno.
 */
static int fill_shared(struct space *s, size_t index, struct gpa_range part)
{
	uint64_t end = gpa_range_end(part);
	bool left = (s->faults->lazy || !s->image) && !image_has(s, block_range(s, index));
	enum access access = left ? ACCESS_WRITE : ACCESS_READ;
	int advice = left ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
	int r = left ? check_room(s, part) : 0;

	if (r == 0)
		r = space_decide_block(s, index);
	for (uint64_t at = part.start.v, stop; r == 0 && at < end; at = stop) {
		enum protection p = guard_get(s, at, end, &stop);

		if ((guard_permits(p) & (unsigned)access) &&
		    madvise(window_ptr(s, (gpa_t){at}), stop - at, advice) < 0)
			r = -errno;
	}
	return r;
}

/* All that may fail but mapping what is new. Return: 0 or -errno. */
static int fill_block(struct space *s, struct plan *plan, size_t index, struct gpa_range part)
{
	struct block *b = &s->blocks[index];

	space_gets_on(s);
	if (is_fresh(s, index))
		return plan_fresh(s, plan, index, part);
	if (b->state == BLOCK_HUGETLB)
		return 0;
	if (b->state == BLOCK_OWNED)
		return fill_owned(s, b, part);
	return fill_shared(s, index, part);
}

/* Frames that are not mapped go back. */
static void drop_fresh(struct space *s, const struct plan *plan, size_t from)
{
	for (size_t k = from; k < plan->count; k++) {
		const struct fresh *f = &plan->fresh[k];
		struct huge_page p;

		if (f->reserved) {
			p = huge_page_of(s, f->index);
			huge_put(s, &p);
			continue;
		}
		s->owned_frames -= MM_BLOCK_PAGES;
		pool_unref(s->pool, f->frame);
	}
}

/* What `f` is to back. */
static struct gpa_range fresh_range(const struct space *s, const struct fresh *f)
{
	return f->reserved ? huge_page_of(s, f->index).ram : block_range(s, f->index);
}

/* Return: 0 or -errno, the window as before. */
static int map_one(struct space *s, const struct fresh *f)
{
	struct huge_page p;
	int r;

	if (f->reserved) {
		p = huge_page_of(s, f->index);
		r = window_map_huge(s, &p);
		if (r == 0)
			huge_set(s, &p, BLOCK_HUGETLB);
		return r;
	}
	r = window_map_owned(s, block_range(s, f->index), f->frame, f->huge);
	if (r == 0)
		s->blocks[f->index] =
			(struct block){.frame = f->frame, .state = BLOCK_OWNED, .huge = f->huge};
	return r;
}

/* Who waited for one of the first `count`, with no frame to be had, has one now. */
static void wake_fresh(struct space *s, const struct plan *plan, size_t count)
{
	for (size_t k = 0; k < count; k++)
		s->faults->wake(s, fresh_range(s, &plan->fresh[k]));
}

/* Return: 0, or -errno: those before the one refused are mapped, it and the rest are EMPTY. */
static int map_fresh(struct space *s, const struct plan *plan)
{
	for (size_t k = 0; k < plan->count; k++) {
		int r = map_one(s, &plan->fresh[k]);

		if (r) {
			drop_fresh(s, plan, k);
			wake_fresh(s, plan, k);
			return r;
		}
	}
	return 0;
}

/* Lock held. */
static int populate(struct space *s, struct gpa_range r)
{
	size_t first = block_index(s, r.start);
	size_t last = block_index(s, (gpa_t){gpa_range_end(r) - 1});
	struct plan plan = {.fresh = calloc(last - first + 1, sizeof(*plan.fresh))};
	int e = plan.fresh ? guard_check(s, r, (enum access)0) : -ENOMEM;

	for (size_t i = first; e == 0 && i <= last; i++)
		e = fill_block(s, &plan, i, part_of(s, i, r));
	if (e)
		drop_fresh(s, &plan, 0);
	else
		e = map_fresh(s, &plan);
	free(plan.fresh);
	return e;
}

/* `r`, and all of the reserved huge pages at its ends. */
static struct gpa_range widen(const struct space *s, struct gpa_range r)
{
	size_t first = block_index(s, r.start);
	size_t last = block_index(s, (gpa_t){gpa_range_end(r) - 1});
	uint64_t start = r.start.v, end = gpa_range_end(r);

	if (s->blocks[first].state == BLOCK_HUGETLB)
		start = huge_page_of(s, first).ram.start.v;
	if (s->blocks[last].state == BLOCK_HUGETLB)
		end = gpa_range_end(huge_page_of(s, last).ram);
	return (struct gpa_range){{start}, end - start};
}

int space_populate(struct space *s, struct gpa_range r)
{
	int e = space_check_range(s, r);

	if (e)
		return e;
	if (s->linear)
		return madvise(window_ptr(s, r.start), r.size, MADV_POPULATE_WRITE) < 0 ? -errno
		                                                                        : 0;
	lock_take(&s->lock);
	e = populate(s, r);
	r = widen(s, r);
	lock_drop(&s->lock);
	if (e == 0)
		s->faults->wake(s, r);
	return e;
}
