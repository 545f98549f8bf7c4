// SPDX-License-Identifier: MIT
/*
 * mm/access.c - the VMM's own way into guest memory, by the same violation path as a guest's.
 *
 * Blocks nobody has decided are decided here, so that running out of frames is an error returned
 * and not a thread that waits. Pages still absent in a block that is decided are brought in by the
 * touch itself, like a vCPU's.
 */
#include <string.h>

#include "mm/check.h"
#include "mm/space_internal.h"

static int to_errno(enum outcome o)
{
	switch (o) {
	case OUTCOME_RESOLVED:
	case OUTCOME_RETRY:
		return 0;
	case OUTCOME_MMIO:
		return -EFAULT;
	case OUTCOME_DENIED:
		return -EACCES;
	case OUTCOME_NOMEM:
		break;
	}
	return -ENOMEM;
}

/* Make the block that holds `r` decided at least up to its end. */
static int decide_block(struct space *s, struct gpa_range r, enum access access)
{
	struct block *b = &s->blocks[block_index(s, r.start)];
	enum outcome o;
	bool undecided;

	do {
		lock_take(&s->lock);
		undecided = block_undecided(b);
		/* About to be touched: nobody takes it back before. */
		b->granted &= undecided;
		lock_drop(&s->lock);
		if (!undecided)
			return 0;
		o = violation_resolve_known(s, r, access);
	} while (o == OUTCOME_RETRY);
	return to_errno(o);
}

/* Block by block. A range in one region: permitted as a whole, or not at all. */
static int decide_range(struct space *s, struct gpa_range r, enum access access)
{
	uint64_t end = gpa_range_end(r);

	for (uint64_t at = r.start.v; at < end;) {
		uint64_t stop = min_u64(end, align_down(at, MM_BLOCK_SIZE) + MM_BLOCK_SIZE);
		int e = decide_block(s, (struct gpa_range){{at}, stop - at}, access);

		if (e)
			return e;
		at = stop;
	}
	return 0;
}

int space_hold(struct space *s, gpa_t a, size_t size, enum access access, struct hold *out)
{
	const struct region *region = space_region(s, a);
	struct gpa_range r;
	int e;

	if (size == 0)
		return -EINVAL;
	if (!region)
		return -EFAULT;
	if (((unsigned)access & region->permits) != (unsigned)access)
		return -EACCES;
	r = (struct gpa_range){a, min_u64(size, gpa_range_end(region->ram.range) - a.v)};
	lock_take(&s->lock);
	e = guard_check(s, r, access);
	if (e == 0)
		s->holds++;
	lock_drop(&s->lock);
	if (e)
		return e;
	*out = (struct hold){window_ptr(s, a), (size_t)r.size, s};
	e = decide_range(s, r, access);
	if (e)
		space_release(out);
	return e;
}

void space_release(struct hold *h)
{
	struct space *s = h->space;

	lock_take(&s->lock);
	CHECK(s->holds > 0);
	s->holds--;
	lock_drop(&s->lock);
	*h = (struct hold){0};
}

static int check_access(struct space *s, gpa_t a, size_t size, enum access access)
{
	while (size > 0) {
		const struct region *region = space_region(s, a);
		uint64_t n;
		int e;

		if (!region)
			return -EFAULT;
		n = min_u64(size, gpa_range_end(region->ram.range) - a.v);
		lock_take(&s->lock);
		e = guard_check(s, (struct gpa_range){a, n}, access);
		lock_drop(&s->lock);
		if (e)
			return e;
		size -= n;
		a.v += n;
	}
	return 0;
}

/* One of `to` and `from` is NULL: the direction. */
static int copy(struct space *s, gpa_t a, void *to, const void *from, size_t size)
{
	enum access access = to ? ACCESS_READ : ACCESS_WRITE;
	size_t done = 0;
	int e = check_access(s, a, size, access);

	while (e == 0 && done < size) {
		struct hold h;

		e = space_hold(s, (gpa_t){a.v + done}, size - done, access, &h);
		if (e)
			break;
		if (to)
			memcpy((uint8_t *)to + done, h.ptr, h.size);
		else
			memcpy(h.ptr, (const uint8_t *)from + done, h.size);
		done += h.size;
		space_release(&h);
	}
	return e;
}

int space_read(struct space *s, gpa_t from, void *to, size_t size)
{
	return copy(s, from, to, NULL, size);
}

int space_write(struct space *s, gpa_t to, const void *from, size_t size)
{
	return copy(s, to, NULL, from, size);
}
