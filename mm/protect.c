// SPDX-License-Identifier: MIT
/*
 * mm/protect.c - what may be done with a range of a space, down to one page; and ranges taken away.
 *
 * Kept as a map by guest address (space.guard), read-write where it says nothing. It is enforced
 * three times: violations are DENIED, the VMM's own accesses are refused, and the window's mappings
 * have these permissions, so no thread gets past them. A guest's stage-2 follows the window, but
 * what KVM tells of an access the window refuses has no address in it; an embedder that wants one
 * leaves the range out of its writable memory slots (space_protection() says where).
 *
 * A block with several permissions in it is never EMPTY: it is decided first, so that every later
 * mapping of an EMPTY block is a single call, which is made or refused as a whole. A reserved huge
 * page of which a part is protected is demoted to ordinary frames first: see mm/backend_hugetlb.c.
 *
 * Protection is not content: neither reset nor publish changes it, and an image knows none.
 */
#include "mm/space_internal.h"

enum protection space_protection(struct space *s, gpa_t a, uint64_t limit, uint64_t *stop)
{
	enum protection p;

	lock_take(&s->lock);
	p = guard_get(s, a.v, limit, stop);
	lock_drop(&s->lock);
	return p;
}

/* Lock held. Return: 0; -EFAULT where a page is taken away; -EACCES where one forbids `access`. */
int guard_check(const struct space *s, struct gpa_range r, enum access access)
{
	uint64_t end = gpa_range_end(r);

	for (uint64_t at = r.start.v, stop; at < end; at = stop) {
		enum protection p = guard_get(s, at, end, &stop);

		if (p == PROTECT_UNMAPPED)
			return -EFAULT;
		if ((unsigned)access & ~guard_permits(p))
			return -EACCES;
	}
	return 0;
}

/* Not by a reserved huge page: one could not be protected in part. */
static int fill_small(struct space *s, const struct region *region, struct block *b,
                      struct violation v, struct gpa_range *done)
{
	if (region->backend == &backend_hugetlb)
		return alloc_fill(s, b, v, done);
	return region->backend->fill(s, b, v, done);
}

int space_decide_block(struct space *s, size_t index)
{
	struct block *b = &s->blocks[index];
	struct gpa_range ram = block_range(s, index), done;
	int r = 0;

	/* The last page: a block of an image is decided upwards. */
	while ((r == 0 || r == -EAGAIN) && block_undecided(b)) {
		struct violation v = {{gpa_range_end(ram) - MM_PAGE_SIZE}, ACCESS_READ};

		r = fill_small(s, space_region(s, ram.start), b, v, &done);
	}
	return r;
}

/* The blocks of which `r` is a part only: none, one or two. Return: 0 or -errno. */
static int decide_edges(struct space *s, struct gpa_range r)
{
	uint64_t end = gpa_range_end(r);
	size_t first = block_index(s, r.start), last = block_index(s, (gpa_t){end - 1});
	struct gpa_range head = block_range(s, first), tail = block_range(s, last);
	int e = 0;

	if (head.start.v < r.start.v || gpa_range_end(head) > end)
		e = space_decide_block(s, first);
	if (e == 0 && last != first && gpa_range_end(tail) > end)
		e = space_decide_block(s, last);
	return e;
}

/* The reserved huge page that holds `a`, if `r` is only a part of it. Return: 0 or -errno. */
static int split_huge(struct space *s, gpa_t a, struct gpa_range r)
{
	size_t index = block_index(s, a);
	struct huge_page p;

	if (s->blocks[index].state != BLOCK_HUGETLB)
		return 0;
	p = huge_page_of(s, index);
	if (p.ram.start.v >= r.start.v && gpa_range_end(p.ram) <= gpa_range_end(r))
		return 0;
	return huge_demote(s, &p);
}

static int split_edges(struct space *s, struct gpa_range r)
{
	int e = split_huge(s, r.start, r);

	return e ? e : split_huge(s, (gpa_t){gpa_range_end(r) - 1}, r);
}

/* Lock held. What may fail of giving `r` protection `p`; nothing has changed where it does. */
static int prepare(struct space *s, struct gpa_range r, enum protection p)
{
	int e = s->holds ? -EBUSY : guard_check(s, r, (enum access)0);

	if (e == 0)
		e = gpa_map_reserve(&s->guard, 1);
	if (e == 0 && p == PROTECT_UNMAPPED && s->image)
		e = gpa_map_reserve(&s->cut, 1);
	if (e == 0)
		e = decide_edges(s, r);
	if (e == 0)
		e = split_edges(s, r);
	return e ? e : window_protect(s, r, p);
}

static int change(struct space *s, struct gpa_range r, enum protection p)
{
	int e = space_check_range(s, r);

	if (e)
		return e;
	if (s->linear)
		return -ENOTSUP;
	lock_take(&s->lock);
	e = prepare(s, r, p);
	if (e == 0) {
		gpa_map_set(&s->guard, r.start.v, gpa_range_end(r), p);
		if (p == PROTECT_UNMAPPED)
			discard_range(s, r);
	}
	lock_drop(&s->lock);
	return e;
}

int space_protect(struct space *s, struct gpa_range r, enum protection p)
{
	return p == PROTECT_UNMAPPED ? -EINVAL : change(s, r, p);
}

int space_unmap(struct space *s, struct gpa_range r)
{
	return change(s, r, PROTECT_UNMAPPED);
}
