// SPDX-License-Identifier: MIT
/*
 * mm/own_block.c - a SHARED block becomes OWNED: what it holds is copied into frames of its own.
 *
 * What is copied is what a read finds, private pages and the image's bytes in between, so that
 * nothing changes for the guest but what its next touches cost. It stands still meanwhile.
 *
 * Frames are those that were brought in for the block before (space.spare), or any.
 */
#include <string.h>

#include "mm/space_internal.h"

struct gpa_range run_range(const struct space *s, const struct page_run *r)
{
	return (struct gpa_range){space_gpa(s, (hva_t){r->start}), r->pages << MM_PAGE_SHIFT};
}

struct gpa_range range_clip(struct gpa_range r, struct gpa_range in)
{
	uint64_t start = max_u64(r.start.v, in.start.v);
	uint64_t end = min_u64(gpa_range_end(r), gpa_range_end(in));

	return (struct gpa_range){{start}, end > start ? end - start : 0};
}

void skip_runs(const struct space *s, const struct page_runs *runs, uint64_t end, size_t *run)
{
	while (*run < runs->count && gpa_range_end(run_range(s, &runs->run[*run])) <= end)
		++*run;
}

/*
 * What the image has of [at, end) into `to`, zero memory; what has no memory behind it gets none.
 * Return: 0 or -errno of reading the store.
 */
static int copy_image(const struct space *s, uint64_t at, uint64_t end, uint8_t *to)
{
	uint64_t from = at;
	struct image_piece piece;

	while (at < end && image_next(s, &at, end, &piece)) {
		int r = store_read(piece.store, piece.frame, piece.pages,
		                   to + (piece.gpa.v - from));

		if (r)
			return r;
	}
	return 0;
}

/*
 * Put what the block holds into `to`: private pages, and the image's bytes in between.
 * Return: 0 or -errno of reading the store.
 */
static int copy_block(struct space *s, struct gpa_range ram, const struct page_runs *private,
                      size_t run, uint8_t *to)
{
	uint64_t at = ram.start.v;

	for (; run < private->count; run++) {
		struct gpa_range part = range_clip(run_range(s, &private->run[run]), ram);
		int r;

		if (part.size == 0)
			break;
		r = copy_image(s, at, part.start.v, to + (at - ram.start.v));
		if (r)
			return r;
		memcpy(to + (part.start.v - ram.start.v), window_ptr(s, part.start), part.size);
		at = gpa_range_end(part);
	}
	return copy_image(s, at, gpa_range_end(ram), to + (at - ram.start.v));
}

/* Frames for block `b`: those that were brought in for it, or any. Return: as alloc_reserve(). */
static int block_frames(struct space *s, const struct block *b, struct spare *out)
{
	int r;

	if (limit_room(s, MM_BLOCK_PAGES) < MM_BLOCK_PAGES)
		return -ENOMEM;
	for (size_t i = 0; i < s->spare.blocks; i++) {
		if (s->spare.block[i].index != block_of(s, b))
			continue;
		*out = s->spare.block[i];
		s->spare.block[i] = s->spare.block[--s->spare.blocks];
		return 0;
	}
	r = alloc_reserve(s, b, &out->frame);
	/* Most of it will be written. */
	if (r == 0)
		out->huge = pool_collapse(s->pool, out->frame) == 0;
	return r;
}

int own_block(struct space *s, struct block *b, const struct page_runs *private, size_t run)
{
	struct gpa_range ram = block_range(s, block_of(s, b));
	struct spare to;
	int r = block_frames(s, b, &to);

	if (r)
		return r;
	space_gets_on(s);
	r = copy_block(s, ram, private, run, pool_frame_ptr(s->pool, to.frame));
	if (r == 0)
		r = window_map_owned(s, ram, to.frame, to.huge);
	if (r) {
		pool_unref(s->pool, to.frame);
		return r;
	}
	alloc_commit(s, b, to.frame);
	b->huge = to.huge;
	return 0;
}
