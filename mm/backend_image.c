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
#include <string.h>

#include "mm/space_internal.h"

/* The first part of extent `e` in [*from, end) that no cut hides; *from is left at its end. */
static bool visible(const struct space *s, const struct extent *e, uint64_t *from, uint64_t end,
                    struct image_piece *out)
{
	uint64_t to = min_u64(e->gpa.v + ((uint64_t)e->pages << MM_PAGE_SHIFT), end);
	uint64_t at = max_u64(e->gpa.v, *from);

	while (at < to && gpa_map_get(&s->cut, at, to, from))
		at = *from;
	if (at >= to)
		return false;
	*out = (struct image_piece){
		.gpa = {at},
		.pages = (uint32_t)((*from - at) >> MM_PAGE_SHIFT),
		.frame = {e->frame.n + (uint32_t)((at - e->gpa.v) >> MM_PAGE_SHIFT)},
		.store = e->store,
	};
	return true;
}

bool image_next(const struct space *s, uint64_t *at, uint64_t end, struct image_piece *out)
{
	size_t count;
	const struct extent *e;

	if (!s->image)
		return false;
	e = image_extents(s->image, &count);
	for (size_t i = image_find(s->image, (gpa_t){*at}); i < count && e[i].gpa.v < end; i++)
		if (visible(s, &e[i], at, end, out))
			return true;
	return false;
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
	struct image_piece p;
	int r;

	*reached = from;
	while (image_next(s, &from, to, &p)) {
		r = free_gap(s, *reached, p.gpa.v);
		if (r)
			return r;
		*reached = p.gpa.v;
		r = window_map_private(s, p.gpa, p.pages, p.store, p.frame);
		if (r)
			return r;
		*reached = image_piece_end(&p);
	}
	r = free_gap(s, *reached, to);
	if (r == 0)
		*reached = to;
	return r;
}

bool image_has(const struct space *s, struct gpa_range r)
{
	uint64_t at = r.start.v;
	struct image_piece p;

	return image_next(s, &at, gpa_range_end(r), &p);
}

/* Return: 0 or -errno of reading a file. */
static int copy_piece(const struct space *s, const struct image_piece *p, uint8_t *to)
{
	const void *from;

	/* Another process's pool is mapped there, not here: only its file can be read. */
	if (p->store->pool == s->pool)
		from = pool_frame_ptr(s->pool, p->frame);
	else
		from = store_map(p->store, p->frame, p->pages);
	if (!from)
		return store_read(p->store, p->frame, p->pages, to);
	memcpy(to, from, (size_t)p->pages << MM_PAGE_SHIFT);
	return 0;
}

/*
 * A memset of nothing is a store with an empty mask in some C libraries; where the page it points
 * to may not be written, the one behind what has been copied, a CPU takes longer for it than for
 * the copy of a page.
 */
static void zero(uint8_t *to, uint64_t size)
{
	if (size > 0)
		memset(to, 0, size);
}

int image_copy(const struct space *s, uint64_t start, uint64_t end, uint8_t *to)
{
	uint64_t done = start, at = start;
	struct image_piece p;

	while (image_next(s, &at, end, &p)) {
		int r = copy_piece(s, &p, to + (p.gpa.v - start));

		if (r)
			return r;
		zero(to + (done - start), p.gpa.v - done);
		done = at;
	}
	zero(to + (done - start), end - done);
	return 0;
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
