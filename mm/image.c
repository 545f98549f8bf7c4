// SPDX-License-Identifier: MIT
#include "mm/image.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mm/check.h"
#include "mm/pool.h"
#include "mm/ram.h"

struct image {
	_Atomic uint32_t refs;
	struct ram_region ram[IMAGE_MAX_REGIONS];
	size_t ram_count;
	struct extent *extents;
	size_t extent_count;
	struct run *runs;
	size_t run_count;
	uint64_t pages;
	void *state;
	size_t state_size;
};

int ram_check(const struct ram_region *ram, size_t count)
{
	uint64_t end = 0;

	if (count == 0 || count > IMAGE_MAX_REGIONS)
		return -EINVAL;
	for (size_t i = 0; i < count; i++) {
		const struct gpa_range r = ram[i].range;
		uint64_t page = page_size_bytes(ram[i].page_size);
		struct gpa_range same;

		if (gpa_range_make(r.start.v, r.size, page, &same))
			return -EINVAL;
		/* State is kept by 2 MiB block: two regions must not meet inside one. */
		if (!is_aligned(r.start.v, MM_BLOCK_SIZE) || (i > 0 && r.start.v < end))
			return -EINVAL;
		end = gpa_range_end(r);
		if (end > RAM_END_MAX)
			return -EINVAL;
	}
	return 0;
}

const struct ram_region *ram_find(const struct ram_region *ram, size_t count, gpa_t a)
{
	for (size_t i = 0; i < count; i++)
		if (gpa_range_has(ram[i].range, a))
			return &ram[i];
	return NULL;
}

static uint64_t extent_end(const struct extent *e)
{
	return e->gpa.v + ((uint64_t)e->pages << MM_PAGE_SHIFT);
}

static bool extent_ok(const struct image_parts *p, const struct extent *e, uint64_t after)
{
	const struct ram_region *r = ram_find(p->ram, p->ram_count, e->gpa);

	if (!r || e->pages == 0 || !e->store || !is_aligned(e->gpa.v, MM_PAGE_SIZE))
		return false;
	if (e->gpa.v < after || extent_end(e) > gpa_range_end(r->range))
		return false;
	if (align_down(e->gpa.v, MM_BLOCK_SIZE) != align_down(extent_end(e) - 1, MM_BLOCK_SIZE))
		return false;
	return ((uint64_t)e->frame.n + e->pages) << MM_PAGE_SHIFT <=
	       align_up(e->store->size, MM_PAGE_SIZE);
}

static int parts_check(const struct image_parts *p)
{
	uint64_t after = 0;

	if (ram_check(p->ram, p->ram_count))
		return -EINVAL;
	for (size_t i = 0; i < p->extent_count; i++) {
		if (!extent_ok(p, &p->extents[i], after))
			return -EINVAL;
		after = extent_end(&p->extents[i]);
	}
	return 0;
}

static bool run_joins(const struct run *r, const struct extent *e)
{
	return r->store == e->store && r->gpa.v + (r->pages << MM_PAGE_SHIFT) == e->gpa.v &&
	       r->frame.n + r->pages == e->frame.n;
}

/* Copy the extents and join neighbours into runs. Return: 0 or -ENOMEM. */
static int copy_extents(struct image *img, const struct image_parts *p)
{
	size_t n = p->extent_count;

	if (n == 0)
		return 0;
	img->extents = malloc(n * sizeof(*img->extents));
	img->runs = malloc(n * sizeof(*img->runs));
	if (!img->extents || !img->runs)
		return -ENOMEM;
	memcpy(img->extents, p->extents, n * sizeof(*img->extents));
	for (size_t i = 0; i < n; i++) {
		const struct extent *e = &img->extents[i];
		struct run *last = img->run_count ? &img->runs[img->run_count - 1] : NULL;

		img->pages += e->pages;
		if (last && run_joins(last, e))
			last->pages += e->pages;
		else
			img->runs[img->run_count++] =
				(struct run){e->gpa, e->pages, e->frame, e->store};
	}
	return 0;
}

static int copy_state(struct image *img, const struct image_parts *p)
{
	if (p->state_size == 0)
		return 0;
	img->state = malloc(p->state_size);
	if (!img->state)
		return -ENOMEM;
	memcpy(img->state, p->state, p->state_size);
	img->state_size = p->state_size;
	return 0;
}

static void image_free(struct image *img)
{
	for (size_t i = 0; i < img->extent_count; i++)
		store_frame_put(img->extents[i].store, img->extents[i].frame);
	free(img->extents);
	free(img->runs);
	free(img->state);
	free(img);
}

int image_create(const struct image_parts *parts, struct image **out)
{
	struct image *img;
	int r = parts_check(parts);

	if (r)
		return r;
	img = calloc(1, sizeof(*img));
	if (!img)
		return -ENOMEM;
	img->refs = 1;
	memcpy(img->ram, parts->ram, parts->ram_count * sizeof(*img->ram));
	img->ram_count = parts->ram_count;
	r = copy_extents(img, parts);
	if (r == 0)
		r = copy_state(img, parts);
	/* extent_count grows with the references taken: image_free() drops exactly those. */
	for (size_t i = 0; r == 0 && i < parts->extent_count; i++) {
		r = store_frame_get(img->extents[i].store, img->extents[i].frame);
		if (r == 0)
			img->extent_count++;
	}
	if (r) {
		image_free(img);
		return r;
	}
	*out = img;
	return 0;
}

struct image *image_get(struct image *i)
{
	CHECK(atomic_fetch_add_explicit(&i->refs, 1, memory_order_relaxed) > 0);
	return i;
}

void image_put(struct image *i)
{
	uint32_t before;

	if (!i)
		return;
	before = atomic_fetch_sub_explicit(&i->refs, 1, memory_order_acq_rel);
	CHECK(before > 0);
	if (before == 1)
		image_free(i);
}

const struct extent *image_extents(const struct image *i, size_t *count)
{
	*count = i->extent_count;
	return i->extents;
}

const struct run *image_runs(const struct image *i, size_t *count)
{
	*count = i->run_count;
	return i->runs;
}

const struct ram_region *image_ram(const struct image *i, size_t *count)
{
	*count = i->ram_count;
	return i->ram;
}

const void *image_state(const struct image *i, size_t *size)
{
	*size = i->state_size;
	return i->state;
}

size_t image_find(const struct image *i, gpa_t a)
{
	size_t low = 0, high = i->extent_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (extent_end(&i->extents[mid]) <= a.v)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

void image_trim(struct image *i, gpa_t from)
{
	CHECK(image_refs(i) == 1);
	while (i->extent_count > 0 && i->extents[i->extent_count - 1].gpa.v >= from.v) {
		const struct extent *e = &i->extents[--i->extent_count];
		struct run *last = &i->runs[i->run_count - 1];

		store_frame_put(e->store, e->frame);
		i->pages -= e->pages;
		last->pages -= e->pages;
		i->run_count -= last->pages == 0;
	}
}

uint64_t image_pages(const struct image *i)
{
	return i->pages;
}

uint32_t image_refs(const struct image *i)
{
	return atomic_load_explicit(&i->refs, memory_order_relaxed);
}

int image_with_state(const struct image *i, const void *state, size_t size, struct image **out)
{
	struct image_parts parts = {
		.ram = i->ram,
		.ram_count = i->ram_count,
		.extents = i->extents,
		.extent_count = i->extent_count,
		.state = state,
		.state_size = size,
	};

	return image_create(&parts, out);
}

int image_audit(const struct image *i)
{
	struct image_parts parts = {
		.ram = i->ram,
		.ram_count = i->ram_count,
		.extents = i->extents,
		.extent_count = i->extent_count,
	};

	if (image_refs(i) == 0 || parts_check(&parts)) {
		fprintf(stderr, "cowslip: image audit: extents out of order or bounds\n");
		return -EUCLEAN;
	}
	for (size_t k = 0; k < i->extent_count; k++) {
		const struct extent *e = &i->extents[k];

		if (e->store->pool && pool_refs(e->store->pool, e->frame) == 0) {
			fprintf(stderr, "cowslip: image audit: extent %zu names a free block\n", k);
			return -EUCLEAN;
		}
	}
	return 0;
}
