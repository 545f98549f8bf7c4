// SPDX-License-Identifier: MIT
/*
 * mm/violation.c - the one function that decides what a stage-2 violation becomes.
 *
 * Idempotent: of N threads that violate one block, one finds it undecided under the lock; the
 * others find the decision made. What a backend cannot do leaves the block as it was.
 */
#include "mm/space_internal.h"

const char *outcome_name(enum outcome o)
{
	static const char *const names[] = {
		[OUTCOME_RESOLVED] = "resolved", [OUTCOME_RETRY] = "retry", [OUTCOME_MMIO] = "mmio",
		[OUTCOME_DENIED] = "denied",     [OUTCOME_NOMEM] = "nomem",
	};

	return names[o];
}

/* Lock held. Return: 0 and *done, or -errno of the backend. */
static int decide(struct space *s, const struct region *region, struct violation v,
                  struct gpa_range *done)
{
	struct block *b = &s->blocks[block_index(s, v.gpa)];

	if (block_undecided(b))
		return region->backend->fill(s, b, v, done);
	if (b->state == BLOCK_OWNED && b->partial)
		return alloc_fill(s, b, v, done);
	/* Mapped: the access passes; on SHARED memory the host kernel makes the private copy. */
	*done = block_range(s, block_of(s, b));
	return 0;
}

/* Lock held. Return: as decide(); -EFAULT, -EACCES: the guard forbids it. */
static int resolve(struct space *s, const struct region *region, struct violation v,
                   struct gpa_range *done)
{
	int r = guard_check(s, (struct gpa_range){v.gpa, 1}, v.access);

	return r ? r : decide(s, region, v, done);
}

static enum outcome to_outcome(struct space *s, int r)
{
	switch (r) {
	case 0:
		return OUTCOME_RESOLVED;
	case -EAGAIN:
		return OUTCOME_RETRY;
	case -EFAULT:
		return OUTCOME_MMIO;
	case -EACCES:
		return OUTCOME_DENIED;
	default:
		atomic_fetch_add_explicit(&s->nomems, 1, memory_order_relaxed);
		return OUTCOME_NOMEM;
	}
}

enum outcome violation_resolve(struct space *s, struct violation v, struct gpa_range *done)
{
	const struct region *region = space_region(s, v.gpa);
	int r;

	atomic_fetch_add_explicit(&s->violations, 1, memory_order_relaxed);
	if (!region)
		return OUTCOME_MMIO;
	if (((unsigned)v.access & region->permits) != (unsigned)v.access)
		return OUTCOME_DENIED;
	lock_take(&s->lock);
	r = resolve(s, region, v, done);
	lock_drop(&s->lock);
	return to_outcome(s, r);
}

enum outcome violation_resolve_known(struct space *s, struct gpa_range r, enum access access)
{
	struct violation last = {{gpa_range_end(r) - 1}, access};
	const struct region *region = space_region(s, r.start);
	struct block *b = &s->blocks[block_index(s, r.start)];
	struct gpa_range done;
	int e;

	atomic_fetch_add_explicit(&s->violations, 1, memory_order_relaxed);
	lock_take(&s->lock);
	if (b->state == BLOCK_EMPTY && region->backend != &backend_hugetlb &&
	    !image_has(s, block_range(s, block_of(s, b))))
		e = alloc_fill_known(s, b, r);
	else
		e = decide(s, region, last, &done);
	lock_drop(&s->lock);
	return to_outcome(s, e);
}

enum outcome space_violation(struct space *s, struct violation v)
{
	struct gpa_range done;

	return violation_resolve(s, v, &done);
}
