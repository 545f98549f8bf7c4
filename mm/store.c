// SPDX-License-Identifier: MIT
#include "mm/store.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/check.h"
#include "mm/pool.h"
#include "mm/pool_internal.h"

int store_open_file(int fd, uint64_t size, struct store **out)
{
	struct store *s;

	if (fd < 0 || size == 0)
		return -EINVAL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	*s = (struct store){.refs = 1, .fd = fd, .size = size};
	*out = s;
	return 0;
}

struct store *store_get(struct store *s)
{
	CHECK(atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed) > 0);
	return s;
}

void store_put(struct store *s)
{
	uint32_t before;

	if (!s)
		return;
	before = atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel);
	CHECK(before > 0);
	if (before > 1)
		return;
	if (s->pool) {
		pool_destroy(s->pool);
		return;
	}
	if (atomic_load(&s->map))
		munmap(atomic_load(&s->map), s->size);
	close(s->fd);
	free(s);
}

int store_frame_get(struct store *s, frame_t f)
{
	int r = s->pool ? pool_ref(s->pool, f) : 0;

	if (r)
		return r;
	store_get(s);
	return 0;
}

void store_frame_put(struct store *s, frame_t f)
{
	if (s->pool)
		pool_unref(s->pool, f);
	store_put(s);
}

int store_read(const struct store *s, frame_t f, uint64_t count, void *to)
{
	uint64_t at = (uint64_t)f.n << MM_PAGE_SHIFT;
	uint64_t left = count << MM_PAGE_SHIFT;
	uint8_t *p = to;

	while (left > 0) {
		ssize_t n = pread(s->fd, p, left, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0) {
			memset(p, 0, left);
			return 0;
		}
		p += n;
		at += (uint64_t)n;
		left -= (uint64_t)n;
	}
	return 0;
}

const void *store_map(struct store *s, frame_t f, uint64_t count)
{
	uint64_t end = ((uint64_t)f.n + count) << MM_PAGE_SHIFT;
	void *map = atomic_load(&s->map), *before = NULL;

	if (s->pool || end > s->size)
		return NULL;
	if (!map) {
		map = mmap(NULL, s->size, PROT_READ, MAP_SHARED | MAP_NORESERVE, s->fd, 0);
		if (map == MAP_FAILED)
			return NULL;
		/* Two threads at once: one map is enough. */
		if (!atomic_compare_exchange_strong(&s->map, &before, map)) {
			munmap(map, s->size);
			map = before;
		}
	}
	return (const uint8_t *)map + ((uint64_t)f.n << MM_PAGE_SHIFT);
}

/* Bytes of the next data in [*from, end); *from is moved to its start. 0: none. */
static uint64_t next_data(const struct store *s, uint64_t *from, uint64_t end)
{
	off_t data = lseek(s->fd, (off_t)*from, SEEK_DATA);
	off_t hole;

	if (data < 0 || (uint64_t)data >= end)
		return 0;
	hole = lseek(s->fd, data, SEEK_HOLE);
	if (hole < 0)
		return 0;
	*from = (uint64_t)data;
	return min_u64((uint64_t)hole, end) - (uint64_t)data;
}

uint64_t store_data_frames(const struct store *s, frame_t f, uint64_t count)
{
	uint64_t at = (uint64_t)f.n << MM_PAGE_SHIFT;
	uint64_t end = at + (count << MM_PAGE_SHIFT);
	uint64_t sum = 0, n;

	for (; (n = next_data(s, &at, end)) > 0; at += n)
		sum += n;
	return align_up(sum, MM_PAGE_SIZE) >> MM_PAGE_SHIFT;
}
