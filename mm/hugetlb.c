// SPDX-License-Identifier: MIT
/*
 * mm/hugetlb.c - a hugetlb memfd, filled page by page with fallocate().
 *
 * Not left to first touches: those take pages of the host's too, but end in SIGBUS where there is
 * none. Not reserved by mmap() either: a reservation is for the whole run, and is lost with the
 * mapping.
 *
 * Source: Linux Documentation/admin-guide/mm/hugetlbpage.rst; memfd_create(2).
 */
#include "mm/hugetlb.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mm/check.h"

#define SIZE_SHIFT 26u /* MFD_HUGE_SHIFT: log2 of the page size stands above it */

enum page_state {
	PAGE_FREE = 0,
	PAGE_USED,
	PAGE_KEPT, /* zero, and no page of the guest's, but the host has not taken it back */
};

struct hugetlb {
	int fd;
	unsigned shift; /* log2 of a page's bytes */
	uint64_t size;
	uint8_t *alias;    /* the whole file; touched only where pages are used */
	size_t used, kept; /* pages in those states */
	uint8_t state[];   /* enum page_state, by page */
};

/* A size that the kernel or the machine does not know. */
static int open_file(unsigned shift)
{
	int fd = memfd_create("cowslip-hugetlb", MFD_CLOEXEC | MFD_HUGETLB | shift << SIZE_SHIFT);

	if (fd >= 0)
		return fd;
	return errno == ENODEV || errno == EINVAL || errno == ENOENT ? -ENOTSUP : -errno;
}

int hugetlb_create(uint64_t page_bytes, uint64_t size, struct hugetlb **out)
{
	unsigned shift =
		page_bytes == MM_HUGE_SIZE ? MM_PAGE_SHIFT + MM_HUGE_ORDER : MM_BLOCK_SHIFT;
	struct hugetlb *h;
	void *at;
	int r;

	if (page_bytes != UINT64_C(1) << shift || size == 0 || !is_aligned(size, page_bytes))
		return -EINVAL;
	h = calloc(1, sizeof(*h) + (size >> shift));
	if (!h)
		return -ENOMEM;
	h->shift = shift;
	h->size = size;
	h->fd = open_file(shift);
	r = h->fd < 0 ? h->fd : 0;
	if (r)
		goto free_it;
	if (ftruncate(h->fd, (off_t)size) < 0) {
		r = -errno;
		goto close_fd;
	}
	at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, h->fd, 0);
	if (at == MAP_FAILED) {
		r = -errno;
		goto close_fd;
	}
	h->alias = at;
	madvise(at, size, MADV_DONTFORK);
	*out = h;
	return 0;

close_fd:
	close(h->fd);
free_it:
	free(h);
	return r;
}

void hugetlb_destroy(struct hugetlb *h)
{
	if (!h)
		return;
	munmap(h->alias, h->size);
	close(h->fd);
	free(h);
}

uint64_t hugetlb_page_bytes(const struct hugetlb *h)
{
	return UINT64_C(1) << h->shift;
}

int hugetlb_fd(const struct hugetlb *h)
{
	return h->fd;
}

static uint8_t *state_of(struct hugetlb *h, uint64_t offset)
{
	CHECK(offset < h->size && is_aligned(offset, hugetlb_page_bytes(h)));
	return &h->state[offset >> h->shift];
}

/* Return: 0 or -errno. */
static int change_file(const struct hugetlb *h, int mode, uint64_t offset)
{
	int r;

	do {
		r = fallocate(h->fd, mode, (off_t)offset, (off_t)hugetlb_page_bytes(h));
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

int hugetlb_take(struct hugetlb *h, uint64_t offset)
{
	uint8_t *state = state_of(h, offset);

	CHECK(*state != PAGE_USED);
	/* Whatever the reason, it is a page that cannot be had. */
	if (*state == PAGE_FREE && change_file(h, 0, offset))
		return -ENOMEM;
	h->kept -= *state == PAGE_KEPT;
	h->used++;
	*state = PAGE_USED;
	return 0;
}

void hugetlb_put(struct hugetlb *h, uint64_t offset)
{
	uint8_t *state = state_of(h, offset);

	CHECK(*state == PAGE_USED);
	h->used--;
	*state = PAGE_FREE;
	if (change_file(h, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset) == 0)
		return;
	memset(h->alias + offset, 0, hugetlb_page_bytes(h));
	h->kept++;
	*state = PAGE_KEPT;
}

void *hugetlb_ptr(struct hugetlb *h, uint64_t offset)
{
	CHECK(h->state[offset >> h->shift] == PAGE_USED);
	return h->alias + offset;
}

uint64_t hugetlb_used(const struct hugetlb *h)
{
	return (uint64_t)h->used << h->shift;
}

const char *hugetlb_audit(const struct hugetlb *h)
{
	size_t in_state[PAGE_KEPT + 1] = {0};
	struct stat st;

	for (size_t i = 0; i < h->size >> h->shift; i++)
		in_state[h->state[i]]++;
	if (in_state[PAGE_USED] != h->used || in_state[PAGE_KEPT] != h->kept)
		return "count of reserved huge pages";
	if (fstat(h->fd, &st) < 0)
		return "reserved huge pages: no file";
	if ((uint64_t)st.st_blocks * 512 != (uint64_t)(h->used + h->kept) << h->shift)
		return "reserved huge pages: the file has more or fewer";
	return NULL;
}
