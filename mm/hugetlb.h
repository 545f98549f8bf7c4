// SPDX-License-Identifier: MIT
/*
 * mm/hugetlb.h - huge pages that the host has set aside (mm/ internal).
 *
 * One object stands for one run of guest memory that such pages may back: a hugetlb file as long as
 * the run, in which every page has the place it has in the guest. So nothing is allocated but
 * pages: a file offset is an address less the run's start, and there is no frame table.
 *
 *     free --take--> used, zero --put--> free          (put may not fail: see below)
 *
 * The host puts a page into the file, zeroed, with take, or says there and then that it has none:
 * what is used is there, and no access to it ends in SIGBUS. Pages are never shared between
 * objects; what other spaces are to see is copied out first (mm/backend_hugetlb.c).
 *
 * A page that the host will not take back (put) is zeroed and stays in the file: kept, no page of
 * the guest's, and the next to be taken there.
 *
 * Concurrency: none here; the lock of the space that owns the object guards it.
 */
#ifndef COWSLIP_MM_HUGETLB_H
#define COWSLIP_MM_HUGETLB_H

#include <stdint.h>

#include "mm/types.h"

struct hugetlb;

/*
 * For `size` bytes of guest memory in pages of `page_bytes` (2 MiB or 1 GiB), of which it is a
 * multiple. Takes no page.
 * Return: 0; -ENOTSUP when the host knows no such pages; -EINVAL; -EMFILE, -ENFILE; -ENOMEM.
 */
int hugetlb_create(uint64_t page_bytes, uint64_t size, struct hugetlb **out);

/* All pages are the host's again. Nothing maps the file any more. NULL is ignored. */
void hugetlb_destroy(struct hugetlb *h);

/* Bytes of a page. */
uint64_t hugetlb_page_bytes(const struct hugetlb *h);

/* What to map, shared and without reserving anything, at offsets of pages that are used. */
int hugetlb_fd(const struct hugetlb *h);

/*
 * The page at `offset`, free until now, is used and reads as zero.
 * Return: 0; -ENOMEM: the host has none free, or this process may have no more.
 */
int hugetlb_take(struct hugetlb *h, uint64_t offset);

/* The page at `offset`, used until now, is free. Nobody maps it any more. Cannot fail. */
void hugetlb_put(struct hugetlb *h, uint64_t offset);

/* Where a used page can be read and written, whatever the guest may do with it. */
void *hugetlb_ptr(struct hugetlb *h, uint64_t offset);

/* Bytes in used pages. */
uint64_t hugetlb_used(const struct hugetlb *h);

/* Compare with what the host says is in the file. Return: NULL, or what is wrong. */
const char *hugetlb_audit(const struct hugetlb *h);

#endif
