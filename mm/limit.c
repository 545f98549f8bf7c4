// SPDX-License-Identifier: MIT
/*
 * mm/limit.c - what a space may have, and what it has.
 *
 * Own frames are counted where they are taken. Private copies are the kernel's to make: it is not
 * told beforehand, and looking for them walks page tables. But a page becomes private by a fault,
 * one page by each (no mapping with private pages asks for huge ones), of whatever thread of this
 * process; and the kernel counts those. So
 *
 *     private now <= private when they were last looked for + faults of the process since
 *
 * holds at all times, costs a guest that runs nothing, and a system call whoever asks. Only where
 * that bound is over the limit are the pages looked for, and the bound starts anew. Pages that a
 * reset has kept are in the bound, for they change without a fault; what has not changed is not in
 * the count.
 *
 * Where threads of the kernel may take a guest's faults (own_faults not set), the bound does not
 * hold: there it also starts anew at times. Those are faults on pages that had to be read from a
 * disk first, so few become private meanwhile.
 *
 * Concurrency: the space's lock is held. Where the guest runs on, the answer is that of a moment.
 * A fault that is just being counted by its thread may be missing until the next time; never later.
 */
#include <sys/resource.h>
#include <time.h>

#include "mm/check.h"
#include "mm/space_internal.h"

/* Copies of which we may not be told are looked for so often, when somebody asks. */
#define LOOK_AGAIN_NS UINT64_C(100000000)

uint64_t process_faults(void)
{
	struct rusage usage;

	CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
	return (uint64_t)usage.ru_minflt + (uint64_t)usage.ru_majflt;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
	return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

/* Look for private copies; the bound starts anew. Return: 0 and *changed, or -errno. */
static int count_copies(struct space *s, uint64_t *changed)
{
	/* Before the look: who faults meanwhile is counted twice, rather than not at all. */
	uint64_t faults = process_faults(), kept;
	struct page_runs private = {0};
	int r = space_changed_runs(s, &private, &kept);

	*changed = r ? 0 : page_runs_pages(&private);
	page_runs_fini(&private);
	if (r)
		return r;
	s->copies.most = *changed + kept;
	s->copies.faults = faults;
	s->copies.looked_ns = s->own_faults ? 0 : now_ns();
	return 0;
}

/* No more private copies than this. UINT64_MAX: that cannot be said without a look. */
static uint64_t most_copies(const struct space *s)
{
	if (!s->own_faults && now_ns() - s->copies.looked_ns > LOOK_AGAIN_NS)
		return UINT64_MAX;
	return s->copies.most + (process_faults() - s->copies.faults);
}

static uint64_t left(const struct space *s, uint64_t copies)
{
	uint64_t used = copies > UINT64_MAX - s->owned_frames ? copies : s->owned_frames + copies;

	return s->limit_frames - min_u64(used, s->limit_frames);
}

/* Is the use above the limit if there are so many copies? */
static bool is_over(const struct space *s, uint64_t copies)
{
	return s->owned_frames > s->limit_frames || copies > s->limit_frames - s->owned_frames;
}

uint64_t limit_room(struct space *s, uint64_t want)
{
	uint64_t copies;

	if (!s->limit_copies || !limit_binds(s))
		return left(s, 0);
	copies = most_copies(s);
	if (left(s, copies) >= want)
		return left(s, copies);
	/* What cannot be looked for may be there. */
	if (count_copies(s, &copies))
		return 0;
	return left(s, copies);
}

int space_check_limit(struct space *s)
{
	uint64_t copies = 0;
	int r = 0;

	lock_take(&s->lock);
	if (!s->linear && limit_binds(s)) {
		if (s->limit_copies && is_over(s, most_copies(s)))
			r = count_copies(s, &copies);
		if (r == 0 && is_over(s, copies))
			r = -ENOMEM;
	}
	lock_drop(&s->lock);
	return r;
}

int space_use(struct space *s, struct space_use *out)
{
	int r;

	lock_take(&s->lock);
	*out = (struct space_use){
		.limit_frames = s->limit_frames,
		.owned_frames = s->owned_frames,
		.counts_copies = s->limit_copies,
	};
	r = s->linear ? 0 : count_copies(s, &out->copied_frames);
	lock_drop(&s->lock);
	return r;
}

void space_resume(struct space *s, uint64_t limit_frames)
{
	lock_take(&s->lock);
	if (limit_frames)
		s->limit_frames = limit_frames;
	lock_drop(&s->lock);
	for (size_t i = 0; i < s->region_count; i++)
		s->faults->wake(s, s->ram[i].range);
}

uint64_t space_limit(struct space *s)
{
	uint64_t limit;

	lock_take(&s->lock);
	limit = s->limit_frames;
	lock_drop(&s->lock);
	return limit;
}
