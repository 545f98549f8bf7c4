// SPDX-License-Identifier: MIT
#include "mm/pagemap.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "mm/types.h"

/* Linux 6.7, <linux/fs.h>; Debian 12's headers are older. */
struct scan_region {
	uint64_t start, end, categories;
};
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN_IOCTL   _IOWR('f', 16, struct scan_arg)
#define SCAN_FILE    (UINT64_C(1) << 2)
#define SCAN_PRESENT (UINT64_C(1) << 3)
#define SCAN_SWAPPED (UINT64_C(1) << 4)
#define SCAN_PFNZERO (UINT64_C(1) << 5)
#define SCAN_REGIONS 256

/* A word of /proc/self/pagemap. */
#define WORD_PRESENT (UINT64_C(1) << 63)
#define WORD_SWAPPED (UINT64_C(1) << 62)
#define WORD_FILE    (UINT64_C(1) << 61)
#define WORDS        512

int page_runs_add(struct page_runs *out, uintptr_t start, uint64_t pages)
{
	struct page_run *last = out->count ? &out->run[out->count - 1] : NULL;

	if (last && last->start + (last->pages << MM_PAGE_SHIFT) == start) {
		last->pages += pages;
		return 0;
	}
	if (!out->run || out->count == out->room) {
		size_t room = out->room ? 2 * out->room : 64;
		struct page_run *more = realloc(out->run, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		out->run = more;
		out->room = room;
	}
	out->run[out->count++] = (struct page_run){start, pages};
	return 0;
}

static int scan_ioctl(int fd, uintptr_t start, uint64_t size, struct page_runs *out)
{
	struct scan_region regions[SCAN_REGIONS];
	uint64_t end = start + size;
	struct scan_arg arg = {
		.size = sizeof(arg),
		.start = start,
		.end = end,
		.vec = (uintptr_t)regions,
		.vec_len = SCAN_REGIONS,
		.category_inverted = SCAN_FILE | SCAN_PFNZERO,
		.category_mask = SCAN_FILE | SCAN_PFNZERO,
		.category_anyof_mask = SCAN_PRESENT | SCAN_SWAPPED,
		.return_mask = SCAN_PRESENT | SCAN_SWAPPED,
	};

	while (arg.start < end) {
		int n = ioctl(fd, SCAN_IOCTL, &arg);

		if (n < 0)
			return -errno;
		for (int i = 0; i < n; i++) {
			int r = page_runs_add(out, regions[i].start,
			                      (regions[i].end - regions[i].start) >> MM_PAGE_SHIFT);

			if (r)
				return r;
		}
		arg.start = arg.walk_end;
	}
	return 0;
}

static bool word_private(uint64_t w)
{
	return (w & (WORD_PRESENT | WORD_SWAPPED)) && !(w & WORD_FILE);
}

static int scan_words(int fd, uintptr_t start, uint64_t size, struct page_runs *out)
{
	uint64_t words[WORDS];
	uint64_t left = size >> MM_PAGE_SHIFT;

	while (left > 0) {
		size_t want = left < WORDS ? (size_t)left : WORDS;
		ssize_t got = pread(fd, words, want * sizeof(words[0]),
		                    (off_t)((start >> MM_PAGE_SHIFT) * sizeof(words[0])));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < (ssize_t)sizeof(words[0]))
			return got < 0 ? -errno : -EIO;
		want = (size_t)got / sizeof(words[0]);
		for (size_t i = 0; i < want; i++) {
			int r = 0;

			if (word_private(words[i]))
				r = page_runs_add(out, start + (i << MM_PAGE_SHIFT), 1);
			if (r)
				return r;
		}
		start += want << MM_PAGE_SHIFT;
		left -= want;
	}
	return 0;
}

int pagemap_private(uintptr_t start, uint64_t size, enum pagemap_how how, struct page_runs *out)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int r = -ENOTTY;

	if (fd < 0)
		return -errno;
	if (how != PAGEMAP_WORDS)
		r = scan_ioctl(fd, start, size, out);
	/* A kernel without the ioctl says so with its first call: nothing has been appended. */
	if (how == PAGEMAP_WORDS || (how == PAGEMAP_BEST && r == -ENOTTY))
		r = scan_words(fd, start, size, out);
	close(fd);
	return r;
}

bool page_runs_part(const struct page_runs *list, size_t *k, uintptr_t *at, uintptr_t end,
                    struct page_part *out)
{
	uintptr_t start = *at;
	const struct page_run *next;

	if (start >= end)
		return false;
	while (*k < list->count && page_run_end(&list->run[*k]) <= start)
		++*k;
	next = *k < list->count ? &list->run[*k] : NULL;
	out->covered = next && next->start <= start;
	if (next)
		end = min_u64(end, out->covered ? page_run_end(next) : next->start);
	out->run = (struct page_run){start, (end - start) >> MM_PAGE_SHIFT};
	*at = end;
	return true;
}

void page_runs_truncate(struct page_runs *r, size_t count)
{
	struct page_run *less;

	if (count >= r->count)
		return;
	if (count == 0) {
		page_runs_fini(r);
		return;
	}
	r->count = count;
	less = realloc(r->run, count * sizeof(*less));
	if (!less)
		return;
	r->run = less;
	r->room = count;
}

void page_runs_fini(struct page_runs *r)
{
	free(r->run);
	*r = (struct page_runs){0};
}

uint64_t page_runs_pages(const struct page_runs *r)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < r->count; i++)
		sum += r->run[i].pages;
	return sum;
}
