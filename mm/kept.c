// SPDX-License-Identifier: MIT
/*
 * mm/kept.c - private pages that a reset overwrote and kept, and that still hold the image's bytes.
 *
 * They are memory of the space's, and yet nothing that it has changed: a snapshot does not copy
 * them and statistics count them apart. The reset leaves a list of the pages it kept
 * (space.kept). Whether one has been written to since only its bytes can tell, so those are
 * compared when it is asked for; a list that is out of date costs time and makes no difference.
 * What is not on the list is not compared: it has been written to.
 *
 * Concurrency: the space's lock is held. Where the guest runs on, the answer is that of a moment.
 */
#include <string.h>

#include "mm/space_internal.h"

/* Pages of the image that are looked at together. */
#define READ_PAGES 8u

/*
 * Sort the pages of [at, end), at most READ_PAGES, all private and all on the list: those that
 * differ from the image go to `out`.
 */
static int sort_few(struct space *s, uint64_t at, uint64_t end, struct page_runs *out)
{
	uint8_t want[READ_PAGES * MM_PAGE_SIZE];
	uint64_t start = at, stop;
	int r = image_copy(s, at, end, want);

	for (; r == 0 && at < end; at += MM_PAGE_SIZE) {
		const uint8_t *page = window_ptr(s, (gpa_t){at});
		enum protection p = guard_get(s, at, end, &stop);

		/* What may not be read counts as changed: as good, and it is rare. */
		if (!(guard_permits(p) & ACCESS_READ) ||
		    memcmp(page, want + (at - start), MM_PAGE_SIZE) != 0)
			r = page_runs_add(out, (uintptr_t)page, 1);
	}
	return r;
}

/* The same of as many pages as there are. */
static int sort_many(struct space *s, uint64_t at, uint64_t end, struct page_runs *out)
{
	int r = 0;

	for (uint64_t next; r == 0 && at < end; at = next) {
		next = min_u64(at + READ_PAGES * MM_PAGE_SIZE, end);
		r = sort_few(s, at, next, out);
	}
	return r;
}

/*
 * The pages of `run` that are changed go to `out`. *k: the first run of the list that ends above.
 */
static int sort_run(struct space *s, const struct page_run *run, size_t *k, struct page_runs *out)
{
	uintptr_t at = run->start;
	struct page_part part;
	int r = 0;

	while (r == 0 && page_runs_part(&s->kept, k, &at, page_run_end(run), &part)) {
		struct gpa_range pages = run_range(s, &part.run);

		r = part.covered ? sort_many(s, pages.start.v, gpa_range_end(pages), out)
		                 : page_runs_add(out, part.run.start, part.run.pages);
	}
	return r;
}

int space_changed_runs(struct space *s, struct page_runs *out, uint64_t *kept)
{
	struct page_runs all = {0};
	int r = space_private_runs(s, &all);
	size_t k = 0;

	for (size_t i = 0; r == 0 && i < all.count; i++)
		r = sort_run(s, &all.run[i], &k, out);
	if (kept)
		*kept = r ? 0 : page_runs_pages(&all) - page_runs_pages(out);
	page_runs_fini(&all);
	return r;
}
