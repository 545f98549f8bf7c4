// SPDX-License-Identifier: MIT
/*
 * mm/publish.c - the memory half of a snapshot: a stopped space becomes an image and its clone.
 *
 *     OWNED block      its frames change hands; the window is remapped MAP_PRIVATE. No copy.
 *     SHARED block     what the old image has of it, less the pages the guest has made private;
 *                      those are copied, packed, into fresh frames
 *     EMPTY block      what the old image has of it
 *
 * Private pages that a reset has overwritten are the old image's as long as they have its bytes.
 *
 * A block with so many private pages that clones would pay for the scraps (each run of pages is two
 * more mappings in every clone) is copied whole first and so becomes OWNED.
 *
 * What is copied is copied while the guest stands still; publish_ahead.c makes that shorter.
 *
 * Prepare (scan, copy, build the image) may fail and leaves everything as it was. Commit first
 * remaps OWNED blocks, the only step of it that can fail, and undoes that by the
 * same calls the other way round, which need no mapping more than there are. Then
 * the new image is in place; packed pages are remapped last and at leisure: one
 * that the host refuses stays private, with the same bytes.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "mm/check.h"
#include "mm/pagemap.h"
#include "mm/space_internal.h"

/* A block with this many private runs, or pages, is copied whole. */
#define WHOLE_RUNS  64u
#define WHOLE_PAGES (MM_BLOCK_PAGES / 2)

/*
 * Blocks in a row that were never touched and so stay out of the image. A touch in a clone would
 * put memory behind them, in the image; but each such hole is a mapping more in every clone.
 */
#define HOLE_BLOCKS 8u

struct extents {
	struct extent *e;
	size_t count, room;
};

struct plan {
	struct extents image;     /* the new one's, in order */
	struct extents packed;    /* of those, the ones that hold private pages */
	struct page_runs private; /* of all SHARED blocks, in order */
	uint64_t to_pack;         /* private pages not packed yet */
	frame_t *packs;           /* pool blocks taken for them, one reference each */
	size_t pack_count, pack_room;
	frame_t next; /* first unused frame of the last pack */
	uint32_t left;
};

static void plan_fini(struct space *s, struct plan *p)
{
	for (size_t i = 0; i < p->pack_count; i++)
		pool_unref(s->pool, p->packs[i]);
	free(p->packs);
	free(p->image.e);
	free(p->packed.e);
	page_runs_fini(&p->private);
}

static int add_extent(struct extents *list, struct extent e)
{
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 64;
		struct extent *more = realloc(list->e, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		list->e = more;
		list->room = room;
	}
	list->e[list->count++] = e;
	return 0;
}

/* ---- whole blocks ---- */

/* Private pages but for those of blocks that have become OWNED since they were found. */
static uint64_t count_to_pack(const struct space *s, const struct plan *p)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < p->private.count; i++) {
		struct gpa_range all = run_range(s, &p->private.run[i]), part;

		for (; all.size > 0; all.start.v += part.size, all.size -= part.size) {
			size_t index = block_index(s, all.start);

			part = range_clip(all,
			                  (struct gpa_range){block_gpa(s, index), MM_BLOCK_SIZE});
			if (s->blocks[index].state != BLOCK_OWNED)
				pages += part.size >> MM_PAGE_SHIFT;
		}
	}
	return pages;
}

/*
 * Enough of block `ram` is private to copy all of it. `run`: the first run that ends above its
 * start.
 */
static bool is_scrappy(const struct space *s, const struct page_runs *private, struct gpa_range ram,
                       size_t run)
{
	uint64_t pages = 0, runs = 0;

	for (; run < private->count; run++, runs++) {
		uint64_t part = range_clip(run_range(s, &private->run[run]), ram).size;

		if (part == 0)
			break;
		pages += part >> MM_PAGE_SHIFT;
	}
	return runs >= WHOLE_RUNS || pages >= WHOLE_PAGES;
}

struct block *publish_next_scrappy(struct space *s, const struct page_runs *private, size_t *at,
                                   size_t *run)
{
	for (; *at < s->block_count; ++*at) {
		struct block *b = &s->blocks[*at];
		struct gpa_range ram = block_range(s, *at);

		skip_runs(s, private, ram.start.v, run);
		if (b->state == BLOCK_SHARED && !b->partial && ram.size > 0 &&
		    guard_is_rw(s, ram.start.v, gpa_range_end(ram)) &&
		    is_scrappy(s, private, ram, *run)) {
			++*at;
			return b;
		}
	}
	return NULL;
}

bool publish_has_room(const struct space *s, const struct page_runs *private)
{
	return pool_free_frames(s->pool) >= MM_BLOCK_PAGES + page_runs_pages(private);
}

void publish_own_scrappy(struct space *s, const struct page_runs *private, unsigned most)
{
	size_t at = 0, run = 0;
	unsigned owned = 0;
	struct block *b;

	while (owned < most && (b = publish_next_scrappy(s, private, &at, &run)))
		if (publish_has_room(s, private))
			owned += own_block(s, b, private, run) == 0;
}

/* ---- packing ---- */

unsigned publish_pack_order(uint64_t pages)
{
	unsigned order = 0;

	while (order < MM_BLOCK_ORDER && (UINT64_C(2) << order) <= pages)
		order++;
	return order;
}

int publish_alloc_pack(struct space *s, unsigned *order, frame_t *out)
{
	int r;

	while ((r = pool_alloc(s->pool, *order, FRAME_NONE, out)) == -ENOMEM && *order > 0)
		--*order;
	return r;
}

/*
 * A fresh block for what is left to pack, at most 2 MiB and never more than is needed; one that was
 * brought in for this, if there is.
 */
static int new_pack(struct space *s, struct plan *p)
{
	unsigned order = publish_pack_order(p->to_pack);
	int r = 0;

	if (p->pack_count == p->pack_room) {
		size_t room = p->pack_room ? 2 * p->pack_room : 16;
		frame_t *more = realloc(p->packs, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		p->packs = more;
		p->pack_room = room;
	}
	if (s->spare.packs > 0) {
		p->next = s->spare.pack[--s->spare.packs].frame;
		order = s->spare.pack[s->spare.packs].order;
	} else {
		r = publish_alloc_pack(s, &order, &p->next);
	}
	if (r)
		return r;
	p->packs[p->pack_count++] = p->next;
	p->left = UINT32_C(1) << order;
	return 0;
}

/*
 * Out of the window, also where it may not be read: opened for as long as it takes, with the guest
 * stopped. Return: 0 or -errno of opening it.
 */
static int copy_private(struct space *s, struct gpa_range r, uint8_t *to)
{
	uint64_t end = gpa_range_end(r);

	for (uint64_t at = r.start.v, stop; at < end; at = stop) {
		enum protection p = guard_get(s, at, end, &stop);
		struct gpa_range part = {{at}, stop - at};
		bool closed = !(guard_permits(p) & ACCESS_READ);
		int e = closed ? window_protect(s, part, PROTECT_RO) : 0;

		if (e)
			return e;
		memcpy(to + (at - r.start.v), window_ptr(s, part.start), part.size);
		if (closed)
			CHECK(window_protect(s, part, p) == 0);
	}
	return 0;
}

/* Copy the private pages of `r` into packs; one extent for each pack they touch. */
static int pack(struct space *s, struct plan *p, struct gpa_range r)
{
	while (r.size > 0) {
		struct extent packed;
		uint32_t n;
		int e = p->left ? 0 : new_pack(s, p);

		if (e)
			return e;
		n = (uint32_t)min_u64(r.size >> MM_PAGE_SHIFT, p->left);
		e = copy_private(s, (struct gpa_range){r.start, (uint64_t)n << MM_PAGE_SHIFT},
		                 pool_frame_ptr(s->pool, p->next));
		if (e)
			return e;
		packed = (struct extent){r.start, n, p->next, pool_store(s->pool)};
		e = add_extent(&p->image, packed);
		if (e == 0)
			e = add_extent(&p->packed, packed);
		if (e)
			return e;
		p->next.n += n;
		p->left -= n;
		p->to_pack -= n;
		r.start.v += (uint64_t)n << MM_PAGE_SHIFT;
		r.size -= (uint64_t)n << MM_PAGE_SHIFT;
	}
	return 0;
}

/* ---- the new image's extents ---- */

/* What the old image has in [from, to). */
static int keep_old(struct space *s, struct plan *p, uint64_t from, uint64_t to)
{
	struct image_piece old;

	while (from < to && image_next(s, &from, to, &old)) {
		int r = add_extent(&p->image,
		                   (struct extent){old.gpa, old.pages, old.frame, old.store});

		if (r)
			return r;
	}
	return 0;
}

/*
 * Old image and private pages of a block that is not OWNED. *run: the first run that ends above it.
 */
static int merge_block(struct space *s, struct plan *p, struct gpa_range ram, size_t *run)
{
	uint64_t at = ram.start.v;

	while (*run < p->private.count) {
		struct gpa_range all = run_range(s, &p->private.run[*run]);
		struct gpa_range part = range_clip(all, ram);
		int r;

		if (part.size == 0)
			break;
		r = keep_old(s, p, at, part.start.v);
		if (r == 0)
			r = pack(s, p, part);
		if (r)
			return r;
		at = gpa_range_end(part);
		if (gpa_range_end(all) > gpa_range_end(ram))
			break;
		++*run;
	}
	return keep_old(s, p, at, gpa_range_end(ram));
}

struct extent publish_extent(const struct space *s, size_t index)
{
	struct gpa_range ram = block_range(s, index);

	return (struct extent){ram.start, (uint32_t)(ram.size >> MM_PAGE_SHIFT),
	                       s->blocks[index].frame, pool_store(s->pool)};
}

static int plan_extents(struct space *s, struct plan *p)
{
	size_t run = 0;

	for (size_t i = 0; i < s->block_count; i++) {
		const struct block *b = &s->blocks[i];
		struct gpa_range ram = block_range(s, i);
		int r;

		space_gets_on(s);
		if (ram.size == 0)
			continue;
		if (b->state == BLOCK_OWNED) {
			skip_runs(s, &p->private, gpa_range_end(ram), &run);
			r = add_extent(&p->image, publish_extent(s, i));
		} else {
			r = merge_block(s, p, ram, &run);
		}
		if (r)
			return r;
	}
	return 0;
}

/* Everything that may fail before the first change: scan, copy, list. */
static int prepare(struct space *s, struct plan *p)
{
	int r;

	/* No image can name reserved huge pages. */
	r = huge_demote_all(s);
	if (r)
		return r;
	(void)alloc_take_back(s, HOLE_BLOCKS);
	r = space_changed_runs(s, &p->private, NULL);
	if (r)
		return r;
	publish_own_scrappy(s, &p->private, UINT_MAX);
	p->to_pack = count_to_pack(s, p);
	return plan_extents(s, p);
}

/* ---- commit ---- */

int publish_map_run(struct space *s, const struct owned_run *run)
{
	return window_map_private(s, run->ram.start, run->ram.size >> MM_PAGE_SHIFT,
	                          pool_store(s->pool), run->frame);
}

void publish_give_up(struct space *s, struct block *b)
{
	pool_unref(s->pool, b->frame);
	*b = (struct block){.state = BLOCK_SHARED};
	s->owned_frames -= MM_BLOCK_PAGES;
}

/*
 * From here on the guest's writes no longer reach the frames. Return: 0, or -errno and all undone.
 */
static int protect_owned(struct space *s)
{
	struct owned_run run;

	for (size_t i = 0; next_owned(s, &i, s->block_count, &run);) {
		int r = publish_map_run(s, &run);

		if (r) {
			window_remap_owned(s, run.first + run.count);
			return r;
		}
	}
	return 0;
}

void publish_take_image(struct space *s, struct image *image)
{
	/* What was cut of the old image is no part of the new one. */
	gpa_map_fini(&s->cut);
	image_put(s->image);
	s->image = image_get(image);
	for (size_t i = 0; i < s->region_count; i++)
		s->regions[i].backend = &backend_image;
}

/* The image holds the frames now: blocks give theirs up. */
static void hand_over(struct space *s, struct image *image)
{
	for (size_t i = 0; i < s->block_count; i++)
		if (s->blocks[i].state == BLOCK_OWNED)
			publish_give_up(s, &s->blocks[i]);
	publish_take_image(s, image);
}

/* Let go of the private copies: the window reads the packed ones from now on. */
static void drop_private(struct space *s, const struct plan *p)
{
	for (size_t i = 0; i < p->packed.count; i++) {
		const struct extent *e = &p->packed.e[i];

		/* Refused: the page stays private, its bytes are the same. */
		(void)window_map_private(s, e->gpa, e->pages, e->store, e->frame);
	}
}

int space_publish(struct space *s, const void *state, size_t state_size, struct image **out)
{
	struct plan p = {0};
	struct image_parts parts;
	struct image *image;
	int r;

	if (s->linear)
		return -ENOTSUP;
	lock_take(&s->lock);
	r = s->holds ? -EBUSY : prepare(s, &p);
	if (r)
		goto done;
	parts = (struct image_parts){
		.ram = s->ram,
		.ram_count = s->region_count,
		.extents = p.image.e,
		.extent_count = p.image.count,
		.state = state,
		.state_size = state_size,
	};
	r = image_create(&parts, &image);
	if (r)
		goto done;
	r = protect_owned(s);
	if (r) {
		image_put(image);
		goto done;
	}
	hand_over(s, image);
	drop_private(s, &p);
	follow_forget(s);
	*out = image;
done:
	plan_fini(s, &p);
	publish_drop_spares(s);
	lock_drop(&s->lock);
	return r;
}
