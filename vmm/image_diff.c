// SPDX-License-Identifier: MIT
/*
 * vmm/image_diff.c - comparing the memory of two images, page by page.
 *
 * Block by block: where each page lies in either image is noted; if any two pages do not lie in the
 * same place, what both hold of the block is read and compared.
 *
 * Concurrency: images are immutable; nothing else is touched.
 */
#include "vmm/image_diff.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "mm/ram.h"

/* Where a page lies. A store is known by its file: each image has a store of its own for it. */
struct place {
	bool there;
	dev_t dev;
	ino_t ino;
	uint64_t frame;
};

struct side {
	const struct image *image;
	const struct store *last; /* whose identity `st` holds */
	struct stat st;
	struct place place[MM_BLOCK_PAGES];
	uint8_t bytes[MM_BLOCK_SIZE];
};

struct comparison {
	struct side side[2];
	struct image_diff *out;
	image_diff_fn *found;
	void *ctx;
	/* The run at hand. */
	enum image_diff_kind kind;
	uint64_t from, pages;
};

/* ---- one block of one image ---- */

/* The part of `e` that is in the block. Return: its pages. */
static uint32_t clip(const struct extent *e, uint64_t block, uint64_t *skip)
{
	uint64_t end = e->gpa.v + ((uint64_t)e->pages << MM_PAGE_SHIFT);
	uint64_t from = max_u64(e->gpa.v, block);

	*skip = (from - e->gpa.v) >> MM_PAGE_SHIFT;
	return (uint32_t)((min_u64(end, block + MM_BLOCK_SIZE) - from) >> MM_PAGE_SHIFT);
}

static int identify(struct side *s, const struct store *store)
{
	if (s->last == store)
		return 0;
	if (fstat(store->fd, &s->st))
		return -errno;
	s->last = store;
	return 0;
}

static int note_extent(struct side *s, const struct extent *e, uint64_t block)
{
	uint64_t skip;
	uint32_t pages = clip(e, block, &skip);
	size_t first = (e->gpa.v + (skip << MM_PAGE_SHIFT) - block) >> MM_PAGE_SHIFT;
	int r = identify(s, e->store);

	for (uint32_t i = 0; r == 0 && i < pages; i++)
		s->place[first + i] =
			(struct place){true, s->st.st_dev, s->st.st_ino, e->frame.n + skip + i};
	return r;
}

static int read_extent(struct side *s, const struct extent *e, uint64_t block)
{
	uint64_t skip;
	uint32_t pages = clip(e, block, &skip);
	uint64_t at = e->gpa.v + (skip << MM_PAGE_SHIFT) - block;

	return store_read(e->store, (frame_t){e->frame.n + (uint32_t)skip}, pages, s->bytes + at);
}

/* Call one of the above for all extents that reach into the block. */
static int each_extent(struct side *s, uint64_t block,
                       int (*call)(struct side *s, const struct extent *e, uint64_t block))
{
	size_t count;
	const struct extent *e = image_extents(s->image, &count);
	int r = 0;

	for (size_t i = image_find(s->image, (gpa_t){block});
	     r == 0 && i < count && e[i].gpa.v < block + MM_BLOCK_SIZE; i++)
		r = call(s, &e[i], block);
	return r;
}

/* ---- both ---- */

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, MM_PAGE_SIZE - 1) == 0;
}

static bool same_place(const struct place *a, const struct place *b)
{
	if (!a->there || !b->there)
		return a->there == b->there;
	return a->dev == b->dev && a->ino == b->ino && a->frame == b->frame;
}

static enum image_diff_kind compare_bytes(const uint8_t *a, const uint8_t *b)
{
	bool zero_a = is_zero(a), zero_b = is_zero(b);

	if (zero_a && zero_b)
		return DIFF_ZERO;
	if (zero_a)
		return DIFF_ONLY_B;
	if (zero_b)
		return DIFF_ONLY_A;
	return memcmp(a, b, MM_PAGE_SIZE) == 0 ? DIFF_EQUAL : DIFF_CHANGED;
}

static enum image_diff_kind compare_page(const struct comparison *c, size_t i)
{
	const struct place *a = &c->side[0].place[i], *b = &c->side[1].place[i];

	if (same_place(a, b))
		return a->there ? DIFF_SHARED : DIFF_ZERO;
	return compare_bytes(c->side[0].bytes + i * MM_PAGE_SIZE,
	                     c->side[1].bytes + i * MM_PAGE_SIZE);
}

static void end_run(struct comparison *c)
{
	if (c->pages && c->found && c->kind >= DIFF_ONLY_A)
		c->found(c->ctx, c->kind, (gpa_t){c->from}, c->pages);
	c->pages = 0;
}

static void add_page(struct comparison *c, enum image_diff_kind kind, uint64_t gpa)
{
	c->out->pages[kind]++;
	if (c->pages == 0 || c->kind != kind || c->from + (c->pages << MM_PAGE_SHIFT) != gpa) {
		end_run(c);
		c->kind = kind;
		c->from = gpa;
	}
	c->pages++;
}

static bool all_in_place(const struct comparison *c)
{
	for (size_t i = 0; i < MM_BLOCK_PAGES; i++)
		if (!same_place(&c->side[0].place[i], &c->side[1].place[i]))
			return false;
	return true;
}

static int compare_block(struct comparison *c, uint64_t block, size_t pages)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < 2; i++) {
		memset(c->side[i].place, 0, sizeof(c->side[i].place));
		r = each_extent(&c->side[i], block, note_extent);
	}
	for (size_t i = 0; r == 0 && !all_in_place(c) && i < 2; i++) {
		memset(c->side[i].bytes, 0, sizeof(c->side[i].bytes));
		r = each_extent(&c->side[i], block, read_extent);
	}
	for (size_t i = 0; r == 0 && i < pages; i++)
		add_page(c, compare_page(c, i), block + i * MM_PAGE_SIZE);
	return r;
}

/* Blocks in which neither has anything are many in a large guest, and zero. */
static bool has_any(const struct image *image, uint64_t from, uint64_t to)
{
	size_t count;
	const struct extent *e = image_extents(image, &count);
	size_t i = image_find(image, (gpa_t){from});

	return i < count && e[i].gpa.v < to;
}

/* RAM of one image, less what lies in RAM of the other when `skip` is given. */
static int compare_ram(struct comparison *c, const struct image *image, const struct image *skip)
{
	size_t count, skip_count = 0;
	const struct ram_region *ram = image_ram(image, &count);
	const struct ram_region *other = skip ? image_ram(skip, &skip_count) : NULL;
	int r = 0;

	for (size_t i = 0; i < count; i++) {
		uint64_t end = gpa_range_end(ram[i].range);

		for (uint64_t a = ram[i].range.start.v; r == 0 && a < end; a += MM_BLOCK_SIZE) {
			size_t pages = min_u64(end - a, MM_BLOCK_SIZE) >> MM_PAGE_SHIFT;

			if (other && ram_find(other, skip_count, (gpa_t){a}))
				continue;
			if (has_any(c->side[0].image, a, a + MM_BLOCK_SIZE) ||
			    has_any(c->side[1].image, a, a + MM_BLOCK_SIZE))
				r = compare_block(c, a, pages);
			else
				c->out->pages[DIFF_ZERO] += pages;
		}
	}
	return r;
}

static bool same_ram(const struct image *a, const struct image *b)
{
	size_t count_a, count_b;
	const struct ram_region *ra = image_ram(a, &count_a), *rb = image_ram(b, &count_b);

	if (count_a != count_b)
		return false;
	for (size_t i = 0; i < count_a; i++)
		if (ra[i].range.start.v != rb[i].range.start.v ||
		    ra[i].range.size != rb[i].range.size || ra[i].page_size != rb[i].page_size)
			return false;
	return true;
}

static bool same_state(const struct image *a, const struct image *b)
{
	size_t size_a, size_b;
	const void *sa = image_state(a, &size_a), *sb = image_state(b, &size_b);

	return size_a == size_b && (size_a == 0 || memcmp(sa, sb, size_a) == 0);
}

int image_diff(const struct image *a, const struct image *b, image_diff_fn *found, void *ctx,
               struct image_diff *out)
{
	struct comparison *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	*out = (struct image_diff){.ram_differs = !same_ram(a, b),
	                           .state_differs = !same_state(a, b)};
	c->side[0].image = a;
	c->side[1].image = b;
	c->out = out;
	c->found = found;
	c->ctx = ctx;
	r = compare_ram(c, a, NULL);
	end_run(c);
	if (r == 0 && out->ram_differs)
		r = compare_ram(c, b, a);
	end_run(c);
	free(c);
	return r;
}
