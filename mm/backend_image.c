// SPDX-License-Identifier: MIT
/*
 * mm/backend_image.c - blocks of an image, mapped copy-on-write when first touched.
 *
 * What the image has of a block is mapped MAP_PRIVATE; what it does not have reads as zero and
 * is the kernel's to fill. A block the image knows nothing of is filled as by alloc.
 *
 * A block is decided upwards, and an extent's range stays armed until it is mapped over, so no vCPU
 * ever finds zeros where the image has bytes. If the host refuses a call half way,
 * `mapped` says how far it came: the part below is decided (a guest may have written
 * there already), the next violation goes on from it.
 */
#include "mm/space_internal.h"

struct piece {
	uint64_t start, end; /* of the block's undecided part that one extent covers */
};

/* The part of extent `e` inside [from, to). */
static struct piece clip(const struct extent *e, uint64_t from, uint64_t to)
{
	uint64_t end = e->gpa.v + ((uint64_t)e->pages << MM_PAGE_SHIFT);

	return (struct piece){max_u64(e->gpa.v, from), min_u64(end, to)};
}

static int map_piece(struct space *s, const struct extent *e, struct piece p)
{
	uint32_t skip = (uint32_t)((p.start - e->gpa.v) >> MM_PAGE_SHIFT);

	return window_map_private(s, (gpa_t){p.start}, (p.end - p.start) >> MM_PAGE_SHIFT, e->store,
	                          (frame_t){e->frame.n + skip});
}

/* Nothing of the image in [from, to): zero memory the kernel may fill. */
static int free_gap(struct space *s, uint64_t from, uint64_t to)
{
	if (from == to)
		return 0;
	return s->faults->disarm(s, (struct gpa_range){{from}, to - from});
}

int image_map(struct space *s, uint64_t from, uint64_t to, uint64_t *reached)
{
	size_t count;
	const struct extent *e = image_extents(s->image, &count);
	int r;

	*reached = from;
	for (size_t i = image_find(s->image, (gpa_t){from}); i < count && e[i].gpa.v < to; i++) {
		struct piece p = clip(&e[i], from, to);

		r = free_gap(s, *reached, p.start);
		if (r)
			return r;
		*reached = p.start;
		r = map_piece(s, &e[i], p);
		if (r)
			return r;
		*reached = p.end;
	}
	r = free_gap(s, *reached, to);
	if (r == 0)
		*reached = to;
	return r;
}

static bool image_has(const struct space *s, struct gpa_range r)
{
	size_t count, i;
	const struct extent *e;

	if (!s->image)
		return false;
	e = image_extents(s->image, &count);
	i = image_find(s->image, r.start);
	return i < count && e[i].gpa.v < gpa_range_end(r);
}

static int image_fill(struct space *s, struct block *b, struct violation v, struct gpa_range *done)
{
	struct gpa_range ram = block_range(s, block_of(s, b));
	uint64_t from = ram.start.v + ((uint64_t)b->mapped << MM_PAGE_SHIFT);
	uint64_t reached;
	int r;

	if (b->state == BLOCK_EMPTY && !image_has(s, ram))
		return alloc_fill(s, b, v, done);
	r = image_map(s, from, gpa_range_end(ram), &reached);
	if (reached > ram.start.v) {
		b->state = BLOCK_SHARED;
		b->partial = reached < gpa_range_end(ram);
		b->mapped = b->partial ? (uint16_t)((reached - ram.start.v) >> MM_PAGE_SHIFT) : 0;
	}
	*done = ram;
	/* What the violation asked for may be there although the rest is not. */
	return reached > v.gpa.v ? 0 : r;
}

const struct backend_ops backend_image = {
	.name = "image",
	.fill = image_fill,
};
