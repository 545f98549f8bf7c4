// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_pagemap.c - private pages, by both of the kernel's interfaces.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/pagemap.h"
#include "tests/unit/helpers.h"

enum { PAGES = 3000 };

struct view {
	int fd;
	uint8_t *at;
	bool ours[PAGES];
};

/* A private mapping of a file with data in its every page. */
static void open_view(struct view *v)
{
	memset(v, 0, sizeof(*v));
	v->fd = memfd_create("cowslip-test", MFD_CLOEXEC);
	cr_assert_geq(v->fd, 0);
	cr_assert_eq(ftruncate(v->fd, PAGES * PAGE), 0);
	v->at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, v->fd, 0);
	cr_assert_neq(v->at, MAP_FAILED);
}

static void close_view(struct view *v)
{
	munmap(v->at, PAGES * PAGE);
	close(v->fd);
}

static void write_page(struct view *v, unsigned page)
{
	v->at[page * PAGE + 5] = 1;
	v->ours[page] = true;
}

/* Ordered, joined, not overlapping, and page for page what was written. */
static void compare(const struct view *v, const struct page_runs *r, unsigned from, unsigned to)
{
	bool seen[PAGES] = {0};
	uint64_t sum = 0;

	for (size_t i = 0; i < r->count; i++) {
		unsigned first = (unsigned)((r->run[i].start - (uintptr_t)v->at) / PAGE);

		cr_assert_gt(r->run[i].pages, 0);
		cr_assert(i == 0 || r->run[i - 1].start + r->run[i - 1].pages * PAGE <
		                            r->run[i].start,
		          "runs that touch are joined");
		for (unsigned k = 0; k < r->run[i].pages; k++)
			seen[first + k] = true;
		sum += r->run[i].pages;
	}
	cr_assert_eq(page_runs_pages(r), sum);
	for (unsigned i = 0; i < PAGES; i++)
		cr_assert_eq(seen[i], v->ours[i] && i >= from && i < to, "page %u", i);
}

static int scan(const struct view *v, enum pagemap_how how, unsigned from, unsigned to,
                struct page_runs *out)
{
	*out = (struct page_runs){0};
	return pagemap_private((uintptr_t)v->at + from * PAGE, (to - from) * PAGE, how, out);
}

static void check_all(const struct view *v, unsigned from, unsigned to)
{
	static const enum pagemap_how hows[] = {PAGEMAP_BEST, PAGEMAP_WORDS, PAGEMAP_IOCTL};

	for (unsigned i = 0; i < 3; i++) {
		struct page_runs r;
		int e = scan(v, hows[i], from, to, &r);

		if (hows[i] == PAGEMAP_IOCTL && e == -ENOTTY)
			continue; /* a kernel before 6.7 */
		cr_assert_eq(e, 0, "%s", strerror(-e));
		compare(v, &r, from, to);
		page_runs_fini(&r);
		cr_assert(!r.run && r.count == 0);
	}
}

Test(pagemap, nothing_written)
{
	struct view v;

	open_view(&v);
	check_all(&v, 0, PAGES);
	close_view(&v);
}

Test(pagemap, reading_is_not_writing)
{
	struct view v;
	unsigned sum = 0;

	open_view(&v);
	for (unsigned i = 0; i < PAGES; i++)
		sum += ((volatile uint8_t *)v.at)[i * PAGE];
	cr_assert_eq(sum, 0);
	check_all(&v, 0, PAGES);
	write_page(&v, 17);
	check_all(&v, 0, PAGES);
	close_view(&v);
}

/* First and last page, neighbours, a run over the size of one read, part of the range. */
Test(pagemap, edges)
{
	struct view v;

	open_view(&v);
	write_page(&v, 0);
	write_page(&v, PAGES - 1);
	for (unsigned i = 500; i < 1100; i++)
		write_page(&v, i);
	check_all(&v, 0, PAGES);
	check_all(&v, 1, PAGES - 1);
	check_all(&v, 600, 700);
	check_all(&v, 499, 500);
	close_view(&v);
}

/* More runs than one call reports. */
Test(pagemap, every_other_page)
{
	struct view v;
	struct page_runs r;

	open_view(&v);
	for (unsigned i = 1; i < PAGES; i += 2)
		write_page(&v, i);
	check_all(&v, 0, PAGES);
	cr_assert_eq(scan(&v, PAGEMAP_BEST, 0, PAGES, &r), 0);
	cr_assert_eq(r.count, PAGES / 2);
	page_runs_fini(&r);
	close_view(&v);
}

Test(pagemap, random_pages)
{
	struct rng rng = {test_seed()};
	struct view v;

	for (unsigned round = 0; round < 10; round++) {
		open_view(&v);
		for (unsigned i = 0; i < 1u << round; i++)
			write_page(&v, (unsigned)rng_below(&rng, PAGES));
		check_all(&v, 0, PAGES);
		close_view(&v);
	}
}

Test(pagemap, appends)
{
	struct view v;
	struct page_runs r = {0};

	open_view(&v);
	write_page(&v, 3);
	write_page(&v, 4);
	cr_assert_eq(pagemap_private((uintptr_t)v.at, 4 * PAGE, PAGEMAP_BEST, &r), 0);
	cr_assert_eq(r.count, 1);
	cr_assert_eq(pagemap_private((uintptr_t)v.at + 4 * PAGE, 4 * PAGE, PAGEMAP_BEST, &r), 0);
	cr_assert_eq(r.count, 1, "joined over two calls");
	cr_assert_eq(page_runs_pages(&r), 2);
	page_runs_fini(&r);
	close_view(&v);
}

/* Memory shared with a file is never ours, written or not. */
Test(pagemap, shared_mapping)
{
	struct view v;
	uint8_t *shared;

	open_view(&v);
	shared = mmap(v.at, 100 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, v.fd, 0);
	cr_assert_eq(shared, v.at);
	memset(shared, 1, 100 * PAGE);
	write_page(&v, 100);
	check_all(&v, 0, PAGES);
	close_view(&v);
}
