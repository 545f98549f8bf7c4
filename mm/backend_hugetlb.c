// SPDX-License-Identifier: MIT
/*
 * mm/backend_hugetlb.c - memory in huge pages that the host has set aside (mm/hugetlb.h): 1 GiB, or
 * 2 MiB where those were asked for.
 *
 *     blocks of one page, all EMPTY --violation--> all HUGETLB, mapped by one call
 *     HUGETLB --discard of the page, reset--> EMPTY; the page is the host's again
 *     HUGETLB --demote--> OWNED, all of them
 *
 * Such a page is one space's alone and one thing: a mapping of it cannot be cut anywhere inside, it
 * cannot be protected in part, and a private mapping would copy all of it, out of what the host has
 * set aside, at the first write. So whatever needs less than a page, and whatever is to be shared,
 * is preceded by a demotion: the page is copied into ordinary frames of the pool, and its blocks
 * are OWNED like any others. What is zero is not copied.
 *
 * A page is had whole or not at all. Where one of its blocks is something else already (demoted,
 * left to the kernel), the rest is filled as by alloc, and so is all memory of a clone: what it
 * touches is a page here and there.
 *
 * The window changes by one mmap call, from a page to frames that follow each other: there is no
 * moment in which a guest could find something else, nor a half that could fail.
 */
#include <stdlib.h>
#include <string.h>

#include "mm/freeze.h"
#include "mm/space_internal.h"

struct huge_page huge_page_of(const struct space *s, size_t block)
{
	const struct region *region = space_region(s, block_gpa(s, block));
	struct gpa_range ram = region->ram.range;
	uint64_t bytes = hugetlb_page_bytes(region->huge);
	uint64_t offset = align_down(block_gpa(s, block).v - ram.start.v, bytes);
	gpa_t start = {ram.start.v + offset};

	return (struct huge_page){
		.first = block_index(s, start),
		.count = (size_t)(bytes >> MM_BLOCK_SHIFT),
		.ram = {start, bytes},
		.huge = region->huge,
		.offset = offset,
	};
}

bool next_huge(const struct space *s, size_t *at, size_t end, struct huge_page *out)
{
	while (*at < end && s->blocks[*at].state != BLOCK_HUGETLB)
		++*at;
	if (*at >= end)
		return false;
	*out = huge_page_of(s, *at);
	*at = out->first + out->count;
	return true;
}

/* ---- taking and giving ---- */

/* All of its blocks are in one state, and have one protection. */
static bool is_uniform(const struct space *s, const struct huge_page *p, enum block_state state)
{
	uint64_t end = gpa_range_end(p->ram), stop;

	(void)guard_get(s, p->ram.start.v, end, &stop);
	for (size_t i = 0; i < p->count; i++)
		if (s->blocks[p->first + i].state != state)
			return false;
	return stop == end;
}

bool huge_fits(const struct space *s, const struct huge_page *p)
{
	return is_uniform(s, p, BLOCK_EMPTY);
}

static uint64_t page_frames(const struct huge_page *p)
{
	return p->ram.size >> MM_PAGE_SHIFT;
}

int huge_take(struct space *s, const struct huge_page *p)
{
	int r;

	if (limit_room(s, page_frames(p)) < page_frames(p))
		return -ENOMEM;
	r = hugetlb_take(p->huge, p->offset);
	if (r == 0)
		s->owned_frames += page_frames(p);
	return r;
}

void huge_put(struct space *s, const struct huge_page *p)
{
	hugetlb_put(p->huge, p->offset);
	s->owned_frames -= page_frames(p);
}

void huge_set(struct space *s, const struct huge_page *p, enum block_state state)
{
	for (size_t i = 0; i < p->count; i++)
		s->blocks[p->first + i] = (struct block){.state = (uint8_t)state};
}

int huge_map_all(struct space *s)
{
	struct huge_page p;

	for (size_t i = 0; next_huge(s, &i, s->block_count, &p);) {
		int r = window_map_huge(s, &p);

		if (r)
			return r;
	}
	return 0;
}

static int bring_in(struct space *s, const struct huge_page *p)
{
	int r = huge_take(s, p);

	if (r)
		return r;
	r = window_map_huge(s, p);
	if (r)
		huge_put(s, p);
	else
		huge_set(s, p, BLOCK_HUGETLB);
	return r;
}

static int huge_fill(struct space *s, struct block *b, struct violation v, struct gpa_range *done)
{
	struct huge_page p = huge_page_of(s, block_of(s, b));

	if (!huge_fits(s, &p))
		return alloc_fill(s, b, v, done);
	*done = p.ram;
	return bring_in(s, &p);
}

/* ---- demotion ---- */

static frame_t block_frame(frame_t first, size_t i)
{
	return (frame_t){first.n + (uint32_t)(i << MM_BLOCK_ORDER)};
}

static void drop_frames(struct space *s, const struct huge_page *p, frame_t first)
{
	for (size_t i = 0; i < p->count; i++)
		pool_unref(s->pool, block_frame(first, i));
}

static bool is_zero(const uint8_t *p, size_t size)
{
	return p[0] == 0 && memcmp(p, p + 1, size - 1) == 0;
}

/*
 * A block's bytes into frames, as one 2 MiB page where that can be had; *b is what it becomes.
 * Return: 0; -ENOMEM.
 */
static int copy_block(struct space *s, const uint8_t *from, frame_t f, struct block *b)
{
	int r;

	*b = (struct block){.frame = f, .state = BLOCK_OWNED};
	if (is_zero(from, MM_BLOCK_SIZE)) {
		b->huge = pool_huge(s->pool);
		b->granted = true;
		return 0;
	}
	b->huge = pool_collapse(s->pool, f) == 0;
	r = b->huge ? 0 : pool_fill(s->pool, f, MM_BLOCK_PAGES);
	if (r == 0)
		memcpy(pool_frame_ptr(s->pool, f), from, MM_BLOCK_SIZE);
	return r;
}

/* Into frames from `first` on. Return: 0; -ENOMEM. */
static int copy_page(struct space *s, const struct huge_page *p, frame_t first, struct block *to)
{
	const uint8_t *from = hugetlb_ptr(p->huge, p->offset);
	int r = 0;

	for (size_t i = 0; r == 0 && i < p->count; i++) {
		space_gets_on(s);
		r = copy_block(s, from + (i << MM_BLOCK_SHIFT), block_frame(first, i), &to[i]);
	}
	return r;
}

/* Frames of its own instead of the page: copied, and mapped by one call. Return: 0 or -errno. */
static int replace(struct space *s, const struct huge_page *p, struct block *to)
{
	unsigned order = p->count == 1 ? MM_BLOCK_ORDER : MM_HUGE_ORDER;
	frame_t first;
	int r = alloc_frames(s, p->first, order, &first);

	if (r)
		return r;
	r = copy_page(s, p, first, to);
	if (r == 0)
		r = window_map_owned(s, p->ram, first, true);
	if (r)
		drop_frames(s, p, first);
	for (size_t i = 0; r == 0 && i < p->count; i++)
		if (!to[i].huge)
			window_keep_small(s, block_range(s, p->first + i));
	return r;
}

int huge_demote(struct space *s, const struct huge_page *p)
{
	struct block *to = calloc(p->count, sizeof(*to));
	struct freeze freeze;
	int r = to ? space_freeze(s, p->ram, &freeze) : -ENOMEM;

	if (r)
		goto done;
	r = replace(s, p, to);
	if (r == 0) {
		memcpy(&s->blocks[p->first], to, p->count * sizeof(*to));
		hugetlb_put(p->huge, p->offset);
	}
	space_thaw(s, &freeze, r == 0);
done:
	free(to);
	return r;
}

int huge_demote_all(struct space *s)
{
	struct huge_page p;

	for (size_t i = 0; next_huge(s, &i, s->block_count, &p);) {
		int r = huge_demote(s, &p);

		if (r)
			return r;
	}
	return 0;
}

/* ---- audit ---- */

static const char *audit_region(const struct space *s, const struct region *region)
{
	size_t at = block_index(s, region->ram.range.start);
	size_t end = at + (size_t)(region->ram.range.size >> MM_BLOCK_SHIFT);
	uint64_t bytes = 0;
	struct huge_page p;

	for (; next_huge(s, &at, end, &p); bytes += p.ram.size)
		if (!is_uniform(s, &p, BLOCK_HUGETLB))
			return "reserved huge page that is not one thing";
	if (bytes != hugetlb_used(region->huge))
		return "reserved huge pages: more or fewer than blocks say";
	return hugetlb_audit(region->huge);
}

const char *huge_audit(const struct space *s)
{
	const char *wrong = NULL;

	for (size_t i = 0; i < s->region_count && !wrong; i++)
		if (s->regions[i].huge)
			wrong = audit_region(s, &s->regions[i]);
	return wrong;
}

const struct backend_ops backend_hugetlb = {
	.name = "hugetlb",
	.fill = huge_fill,
};
