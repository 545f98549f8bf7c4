// SPDX-License-Identifier: MIT
/*
 * mm/follow.c - walks of writes through memory shared with an image are found, and blocks ahead of
 * them copied whole.
 *
 * The kernel copies a page at each first write and tells nobody; a clone that writes through its
 * memory pays for each page what a block of 512 costs many times less of. So somebody who runs the
 * guest looks at it from time to time:
 *
 *     space_look()     which pages have become private since the last look; joined to growths, and
 *                      the policy asked about each. The guest runs.
 *     space_follow()   the blocks it chose become OWNED (own_block.c). The guest stands still.
 *
 * Invariants:
 *   1. nothing that a guest can see changes; a block that cannot be copied stays what it is
 *   2. what was seen is a list that may be out of date: it decides what is worth copying, never
 *      what is copied
 *
 * Concurrency: the space's lock guards all of it.
 */
#include <stdlib.h>

#include "mm/space_internal.h"

/* New pages this close to each other are one growth, and so are those of every other page. */
#define GAP_PAGES 3u

/* More runs than this are no walk, and not worth remembering. */
#define MOST_RUNS 16384u

/*
 * More new pages than this, and than this part of all there are, say that the last look was too
 * long ago: scattered writes lie close to each other by then.
 */
#define STALE_PAGES 1024u
#define STALE_PART  16u

/* Where frames are scarce, one look takes at most this part of them. */
#define ROOM_PART 4u

bool space_may_follow(const struct space *s)
{
	return s->image && !s->linear;
}

void follow_forget(struct space *s)
{
	page_runs_fini(&s->follow.seen);
	s->follow.history = (struct policy_history){0};
	s->follow.looked = false;
	s->follow.wanted = 0;
}

/* ---- what is new ---- */

/* Of `run`, what no run of `old` covers from *k on goes to `out`. Return: 0; -ENOMEM. */
static int add_new(const struct page_run *run, const struct page_runs *old, size_t *k,
                   struct page_runs *out)
{
	uintptr_t at = run->start;
	struct page_part part;
	int r = 0;

	while (r == 0 && page_runs_part(old, k, &at, page_run_end(run), &part))
		if (!part.covered)
			r = page_runs_add(out, part.run.start, part.run.pages);
	return r;
}

static int find_new(const struct page_runs *now, const struct page_runs *old, struct page_runs *out)
{
	size_t k = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < now->count; i++)
		r = add_new(&now->run[i], old, &k, out);
	return r;
}

/* ---- what may be copied ---- */

static bool may_follow(const struct space *s, const struct region *region, size_t index)
{
	struct gpa_range ram;

	if (index >= s->block_count || s->blocks[index].state != BLOCK_SHARED || /* or below 0 */
	    s->blocks[index].partial)
		return false;
	ram = block_range(s, index);
	return ram.size > 0 && space_region(s, ram.start) == region &&
	       guard_is_rw(s, ram.start.v, gpa_range_end(ram));
}

/* Blocks from `index` on that may be copied, `way` being 1 or -1. */
static uint32_t in_a_row(const struct space *s, const struct region *region, size_t index, int way)
{
	uint32_t n = 0;

	while (n <= POLICY_AHEAD && may_follow(s, region, way < 0 ? index - n : index + n))
		n++;
	return n;
}

/* Blocks that there are frames for, beside those that the private pages need to be published. */
static uint32_t room(struct space *s, const struct page_runs *private)
{
	uint64_t own = limit_room(s, (uint64_t)(POLICY_AHEAD + 1) << MM_BLOCK_ORDER);
	uint64_t free = pool_free_frames(s->pool), kept = page_runs_pages(private);
	uint64_t left = free - min_u64(kept, free);
	uint64_t blocks = min_u64(own, left) >> MM_BLOCK_ORDER;

	if (left < own || limit_binds(s))
		blocks /= ROOM_PART;
	return (uint32_t)min_u64(blocks, POLICY_AHEAD + 1);
}

/* ---- looking ---- */

static void ask(struct space *s, struct policy_growth *g, uint32_t frames)
{
	const struct region *region =
		space_region(s, (gpa_t){s->first.v + (g->low << MM_PAGE_SHIFT)});
	struct policy_follow f;

	g->room = frames;
	g->above = in_a_row(s, region, (size_t)(g->high >> MM_BLOCK_ORDER), 1);
	g->below = g->low ? in_a_row(s, region, (size_t)((g->low - 1) >> MM_BLOCK_ORDER), -1) : 0;
	f = policy_follow(&s->follow.history, g);
	if (f.count > 0 && s->follow.wanted < POLICY_STREAMS)
		s->follow.want[s->follow.wanted++] = f;
}

/* Pages that lie close to each other are one growth. */
static void ask_about(struct space *s, const struct page_runs *fresh, uint32_t frames)
{
	struct policy_growth g = {0};

	for (size_t i = 0; i < fresh->count; i++) {
		const struct page_run *run = &fresh->run[i];
		uint64_t low = (run->start - (uintptr_t)s->window) >> MM_PAGE_SHIFT;

		if (g.pages > 0 && low - g.high > GAP_PAGES) {
			ask(s, &g, frames);
			g = (struct policy_growth){0};
		}
		if (g.pages == 0)
			g.low = low;
		g.high = low + run->pages;
		g.pages += run->pages;
	}
	if (g.pages > 0)
		ask(s, &g, frames);
}

static int look(struct space *s)
{
	struct page_runs now = {0}, fresh = {0};
	uint64_t pages = s->size >> MM_PAGE_SHIFT;
	int r = space_private_runs(s, &now);

	if (r == 0)
		r = find_new(&now, s->follow.looked ? &s->follow.seen : &s->kept, &fresh);
	if (r == 0 && page_runs_pages(&fresh) <= max_u64(STALE_PAGES, pages / STALE_PART))
		ask_about(s, &fresh, room(s, &now));
	page_runs_fini(&fresh);
	if (r || now.count > MOST_RUNS) {
		page_runs_fini(&now);
		return r;
	}
	page_runs_fini(&s->follow.seen);
	s->follow.seen = now;
	s->follow.looked = true;
	return 0;
}

/* There is something to copy, and it can be done now. */
static bool may_copy(const struct space *s)
{
	return s->follow.wanted > 0 && s->holds == 0;
}

int space_look(struct space *s)
{
	int r = 0;

	if (!space_may_follow(s))
		return 0;
	lock_take(&s->lock);
	if (s->image && s->follow.wanted == 0)
		r = look(s);
	if (r == 0)
		r = may_copy(s);
	lock_drop(&s->lock);
	return r;
}

/* ---- following ---- */

/*
 * Copy of `f` what the walk comes to first, at most *most blocks; `f` becomes what is left of it.
 * Return: 0, or -errno: there are no frames for the rest.
 */
static int follow_walk(struct space *s, struct policy_follow *f, unsigned *most)
{
	struct gpa_range ram = {block_gpa(s, (size_t)f->first), f->count << MM_BLOCK_SHIFT};
	struct page_runs private = {0};
	const struct region *region = space_region(s, ram.start);
	int r = pagemap_private((uintptr_t)window_ptr(s, ram.start), ram.size, PAGEMAP_BEST,
	                        &private);

	for (; r == 0 && f->count > 0 && *most > 0; --*most, --f->count) {
		size_t index = (size_t)(f->way < 0 ? f->first + f->count - 1 : f->first), run = 0;

		if (!may_follow(s, region, index)) {
			r = -ESTALE;
			break;
		}
		skip_runs(s, &private, block_gpa(s, index).v, &run);
		r = own_block(s, &s->blocks[index], &private, run);
		if (r)
			break;
		f->first += f->way > 0;
		atomic_fetch_add_explicit(&s->followed, 1, memory_order_relaxed);
	}
	page_runs_fini(&private);
	return r;
}

int space_follow(struct space *s, unsigned most)
{
	int left;

	lock_take(&s->lock);
	while (may_copy(s) && most > 0) {
		struct policy_follow *f = &s->follow.want[s->follow.wanted - 1];

		if (follow_walk(s, f, &most) || f->count == 0)
			s->follow.wanted--;
	}
	left = may_copy(s);
	lock_drop(&s->lock);
	return left;
}
