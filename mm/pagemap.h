// SPDX-License-Identifier: MIT
/*
 * mm/pagemap.h - which pages of a private mapping are our own: the kernel's truth (mm/ internal).
 *
 * A private page is anonymous memory: present or swapped out, and not a page of the mapped
 * file. Read with the PAGEMAP_SCAN ioctl (Linux 6.7) or, before it, from /proc/self/pagemap's
 * words; both are always compiled in.
 * Source: Linux Documentation/admin-guide/mm/pagemap.rst.
 *
 * A page that was only read where nothing is mapped (the zero page) counts as private by the
 * old interface, which does not tell; callers must not mind.
 */
#ifndef COWSLIP_MM_PAGEMAP_H
#define COWSLIP_MM_PAGEMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mm/types.h"

struct page_run {
	uintptr_t start; /* host address */
	uint64_t pages;
};

static inline uintptr_t page_run_end(const struct page_run *r)
{
	return r->start + (r->pages << MM_PAGE_SHIFT);
}

/* Growing array of runs, in ascending order. Zeroed: empty. */
struct page_runs {
	struct page_run *run;
	size_t count;
	size_t room;
};

enum pagemap_how {
	PAGEMAP_BEST, /* SCAN where the kernel has it */
	PAGEMAP_WORDS,
	PAGEMAP_IOCTL,
};

/*
 * Append the private pages of [start, start + size) to `out`; touching runs are joined.
 * Return: 0; -ENOMEM; -errno of open or reading; -ENOTTY when PAGEMAP_IOCTL was asked for and
 * is not there. What was appended before a failure stays in `out`.
 */
int pagemap_private(uintptr_t start, uint64_t size, enum pagemap_how how, struct page_runs *out);

/* Append pages that lie above all in `out`; touching runs are joined. Return: 0; -ENOMEM. */
int page_runs_add(struct page_runs *out, uintptr_t start, uint64_t pages);

/* A part of a run that a list covers all of, or none of. */
struct page_part {
	struct page_run run;
	bool covered;
};

/*
 * The next such part of [*at, end); *at moves to its end. *k: the first run of `list` that may end
 * above *at; 0 for the first of several ranges in ascending order, and then left alone.
 * Return: false when there is none left.
 */
bool page_runs_part(const struct page_runs *list, size_t *k, uintptr_t *at, uintptr_t end,
                    struct page_part *out);

/* Only the first `count` runs stay. Cannot fail. */
void page_runs_truncate(struct page_runs *r, size_t count);

/* Free and empty. */
void page_runs_fini(struct page_runs *r);

/* Pages in all runs. */
uint64_t page_runs_pages(const struct page_runs *r);

#endif
