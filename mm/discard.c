// SPDX-License-Identifier: MIT
/*
 * mm/discard.c - a range of a space reads as zero from now on, and its memory is the host's again.
 *
 *     OWNED block, whole, uffd path     its frames go back to the pool; EMPTY and armed again
 *     OWNED, a part, or kernel path     the frames stay the block's, their memory is given back
 *     HUGETLB, a whole page             the host has it back; EMPTY and armed again, or SHARED
 *     HUGETLB, a part                   overwritten with zeros; the page stays
 *     SHARED                            zero memory is mapped over the part, private copies go
 *     EMPTY                             nothing to do
 *
 * What the image has there is hidden by a cut (space_internal.h) until the next reset; the frames
 * stay the image's.
 *
 * A part of a reserved huge page is not worth taking the page apart for: all the rest of it would
 * have to be copied into memory that is not reserved, to save less than that.
 *
 * Once there is room for the cut nothing can fail: where the host refuses a mapping, the pages are
 * overwritten with zeros instead and keep their memory.
 */
#include <string.h>
#include <sys/mman.h>

#include "mm/space_internal.h"

/* Map zero memory over SHARED pages, or overwrite them; what is unmapped nobody will see. */
static void zero_shared(struct space *s, struct gpa_range r)
{
	if (window_map_zero(s, r) == 0)
		return;
	if (guard_is_rw(s, r.start.v, gpa_range_end(r)))
		memset(window_ptr(s, r.start), 0, r.size);
	else
		(void)madvise(window_ptr(s, r.start), r.size, MADV_DONTNEED);
}

static void zero_frames(struct space *s, struct block *b, struct gpa_range ram, struct gpa_range r)
{
	uint32_t skip = (uint32_t)((r.start.v - ram.start.v) >> MM_PAGE_SHIFT);
	bool whole = r.size == ram.size;

	if (b->huge && !whole)
		window_keep_small(s, ram);
	pool_zero(s->pool, (frame_t){b->frame.n + skip}, r.size >> MM_PAGE_SHIFT);
	b->huge = whole && window_becomes_huge(s, block_of(s, b));
	b->granted |= whole && !b->partial;
}

/*
 * Arm zero memory that has just been mapped. Pages that the guest has touched in between are
 * dropped: an EMPTY block has none, or the next violation would map over them. Return: 0, or
 * -errno and the kernel fills it.
 */
static int arm_zero(struct space *s, struct gpa_range r)
{
	int e = s->faults->arm(s, r);

	if (e)
		return e;
	if (madvise(window_ptr(s, r.start), r.size, MADV_DONTNEED) == 0)
		return 0;
	e = -errno;
	(void)s->faults->disarm(s, r);
	return e;
}

/* A whole OWNED block on the uffd path. Return: false when the host refuses, nothing changed. */
static bool give_back(struct space *s, struct block *b, struct gpa_range ram)
{
	frame_t f = b->frame;

	if (window_map_zero(s, ram))
		return false;
	/* Not armed, it is the kernel's to fill with zeros: as good, only not ours to watch. */
	*b = (struct block){.state = arm_zero(s, ram) ? BLOCK_SHARED : BLOCK_EMPTY};
	s->owned_frames -= MM_BLOCK_PAGES;
	pool_unref(s->pool, f);
	return true;
}

static void discard_owned(struct space *s, struct block *b, struct gpa_range ram,
                          struct gpa_range r)
{
	bool whole = r.size == ram.size;

	if (!whole || !s->faults->lazy || !give_back(s, b, ram))
		zero_frames(s, b, ram, r);
}

/* Whole reserved page `p`. Return: as give_back(). */
static bool give_back_huge(struct space *s, const struct huge_page *p)
{
	bool armed;

	if (window_map_zero(s, p->ram))
		return false;
	armed = s->faults->lazy && arm_zero(s, p->ram) == 0;
	huge_put(s, p);
	huge_set(s, p, armed ? BLOCK_EMPTY : BLOCK_SHARED);
	return true;
}

static void discard_huge(struct space *s, const struct huge_page *p, struct gpa_range r)
{
	if (r.size < p->ram.size || !give_back_huge(s, p))
		memset((uint8_t *)hugetlb_ptr(p->huge, p->offset) + (r.start.v - p->ram.start.v), 0,
		       r.size);
}

/* `r`: pages of SHARED block `b`. What is not decided of it yet is cut, and so will be zero. */
static void discard_shared(struct space *s, struct block *b, struct gpa_range ram,
                           struct gpa_range r)
{
	uint64_t decided = ram.start.v + ((uint64_t)b->mapped << MM_PAGE_SHIFT);

	if (b->partial)
		r.size = decided > r.start.v ? min_u64(r.size, decided - r.start.v) : 0;
	if (r.size > 0)
		zero_shared(s, r);
}

/* The part `r` of block `index`, which is no part of a reserved page. */
static void discard_part(struct space *s, size_t index, struct gpa_range r)
{
	struct block *b = &s->blocks[index];
	struct gpa_range ram = block_range(s, index);

	switch ((enum block_state)b->state) {
	case BLOCK_OWNED:
		discard_owned(s, b, ram, r);
		break;
	case BLOCK_SHARED:
		discard_shared(s, b, ram, r);
		break;
	case BLOCK_EMPTY:
	case BLOCK_LINEAR:
	case BLOCK_HUGETLB:
		break;
	}
}

/* As much of [at, end) as lies in one block, or in one reserved page. Return: where that ends. */
static uint64_t discard_next(struct space *s, uint64_t at, uint64_t end)
{
	size_t index = block_index(s, (gpa_t){at});
	struct huge_page p;

	if (s->blocks[index].state == BLOCK_HUGETLB) {
		p = huge_page_of(s, index);
		end = min_u64(gpa_range_end(p.ram), end);
		discard_huge(s, &p, (struct gpa_range){{at}, end - at});
		return end;
	}
	end = min_u64(align_down(at, MM_BLOCK_SIZE) + MM_BLOCK_SIZE, end);
	discard_part(s, index, (struct gpa_range){{at}, end - at});
	return end;
}

void discard_range(struct space *s, struct gpa_range r)
{
	uint64_t end = gpa_range_end(r);

	for (uint64_t at = r.start.v; at < end;)
		at = discard_next(s, at, end);
	if (s->image)
		gpa_map_set(&s->cut, r.start.v, end, 1);
}

int space_discard(struct space *s, struct gpa_range r)
{
	int e = space_check_range(s, r);

	if (e)
		return e;
	if (s->linear)
		return -ENOTSUP;
	lock_take(&s->lock);
	e = s->holds ? -EBUSY : guard_check(s, r, ACCESS_WRITE);
	if (e == 0 && s->image)
		e = gpa_map_reserve(&s->cut, 1);
	if (e == 0)
		discard_range(s, r);
	lock_drop(&s->lock);
	return e;
}
