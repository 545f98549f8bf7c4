// SPDX-License-Identifier: MIT
/*
 * mm/window.c - the only mmap calls that touch a window.
 *
 * Every call replaces whole pages of an existing mapping (..._FIXED) inside the reserved run, so it
 * never leaves a hole and never moves anything. The kernel checks the number of mappings before it
 * unmaps the old one: a refused call leaves the old mapping in place. (Not so where the kernel is
 * out of memory for the mapping itself: before Linux 6.12, and in mremap().) When it returns, the
 * MMU notifiers have run: no vCPU sees the old frames any more. In memory of the embedder's no call
 * is ever made.
 */
#include <sys/mman.h>

#include "mm/check.h"
#include "mm/space_internal.h"

static const int prots[] = {
	[PROTECT_RW] = PROT_READ | PROT_WRITE,
	[PROTECT_RO] = PROT_READ,
	[PROTECT_NONE] = PROT_NONE,
	[PROTECT_UNMAPPED] = PROT_NONE,
};

/* One call for each stretch with the same permissions. */
static int map_fixed(struct space *s, struct gpa_range r, int flags, int fd, uint64_t offset)
{
	uint64_t end = gpa_range_end(r);

	CHECK(!s->linear);
	for (uint64_t at = r.start.v, stop; at < end; offset += stop - at, at = stop) {
		int prot = prots[guard_get(s, at, end, &stop)];

		if (mmap(window_ptr(s, (gpa_t){at}), stop - at, prot,
		         flags | MAP_FIXED | MAP_NORESERVE, fd, (off_t)offset) == MAP_FAILED)
			return -errno;
		atomic_fetch_add_explicit(&s->windows, 1, memory_order_relaxed);
	}
	return 0;
}

/* What the guard says of [at, end), again. Makes no mapping that was not there: cannot fail. */
static void unprotect(struct space *s, uint64_t at, uint64_t end)
{
	for (uint64_t stop; at < end; at = stop) {
		int prot = prots[guard_get(s, at, end, &stop)];

		CHECK(mprotect(window_ptr(s, (gpa_t){at}), stop - at, prot) == 0);
	}
}

int window_protect(struct space *s, struct gpa_range r, enum protection p)
{
	uint64_t end = gpa_range_end(r);

	/* A hole between regions is not to be touched, and has no permissions to change. */
	for (size_t i = 0; i < s->region_count; i++) {
		struct gpa_range ram = s->ram[i].range;
		uint64_t from = max_u64(ram.start.v, r.start.v);
		uint64_t to = min_u64(gpa_range_end(ram), end);
		int e;

		if (from >= to)
			continue;
		if (mprotect(window_ptr(s, (gpa_t){from}), to - from, prots[p]) == 0)
			continue;
		e = -errno;
		/* It may have come half way. */
		unprotect(s, r.start.v, to);
		return e;
	}
	return 0;
}

/* Return: 0 or -errno, the old mapping is kept. */
static int map_twin(struct space *s, struct gpa_range r, frame_t frame)
{
	void *twin = pool_twin_ptr(s->pool, frame);

	if (!twin || !guard_is_rw(s, r.start.v, gpa_range_end(r)))
		return -EOPNOTSUPP;
	if (mremap(twin, 0, r.size, MREMAP_MAYMOVE | MREMAP_FIXED, window_ptr(s, r.start)) ==
	    MAP_FAILED)
		return -errno;
	atomic_fetch_add_explicit(&s->windows, 1, memory_order_relaxed);
	return 0;
}

/*
 * Huge pages must be asked for (mm/pool_file.c). Where that takes a call of its own, a vCPU that
 * is there before gets a small one, and a host that refuses costs speed: no bytes are lost.
 */
int window_map_owned(struct space *s, struct gpa_range r, frame_t frame, bool huge)
{
	int e;

	CHECK(!s->linear);
	if (huge && map_twin(s, r, frame) == 0)
		return 0;
	e = map_fixed(s, r, MAP_SHARED, pool_store(s->pool)->fd,
	              (uint64_t)frame.n << MM_PAGE_SHIFT);
	if (e == 0 && huge && pool_huge(s->pool))
		madvise(window_ptr(s, r.start), r.size, MADV_HUGEPAGE);
	return e;
}

void window_keep_small(struct space *s, struct gpa_range r)
{
	if (pool_huge(s->pool))
		(void)madvise(window_ptr(s, r.start), r.size, MADV_NOHUGEPAGE);
}

bool window_becomes_huge(struct space *s, size_t i)
{
	const struct block *b = &s->blocks[i];
	struct gpa_range ram = block_range(s, i);

	if (!pool_huge(s->pool) || b->partial)
		return false;
	return b->huge || (space_region(s, ram.start)->ram.page_size == PAGE_SIZE_2M &&
	                   madvise(window_ptr(s, ram.start), ram.size, MADV_HUGEPAGE) == 0);
}

int window_map_huge(struct space *s, const struct huge_page *p)
{
	return map_fixed(s, p->ram, MAP_SHARED, hugetlb_fd(p->huge), p->offset);
}

void window_remap_huge(struct space *s, size_t end)
{
	struct huge_page p;

	for (size_t i = 0; next_huge(s, &i, end, &p);)
		CHECK(window_map_huge(s, &p) == 0);
}

void window_remap_owned(struct space *s, size_t end)
{
	struct owned_run run;

	for (size_t i = 0; next_owned(s, &i, end, &run);) {
		CHECK(window_map_owned(s, run.ram, run.frame, run.huge) == 0);
		/* Mapping over an armed block disarms it: the kernel fills the rest from now on. */
		for (size_t k = run.first; k < run.first + run.count; k++)
			block_disarmed(&s->blocks[k]);
	}
}

int window_map_private(struct space *s, gpa_t a, uint64_t pages, const struct store *store,
                       frame_t frame)
{
	struct gpa_range r = {a, pages << MM_PAGE_SHIFT};

	return map_fixed(s, r, MAP_PRIVATE, store->fd, (uint64_t)frame.n << MM_PAGE_SHIFT);
}

int window_map_zero(struct space *s, struct gpa_range r)
{
	int e = map_fixed(s, r, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	/* A page touched is a page given: a host set to "always" would give 2 MiB for each. */
	if (e == 0)
		madvise(window_ptr(s, r.start), r.size, MADV_NOHUGEPAGE);
	return e;
}

/* Aligned so that a 2 MiB (or 1 GiB) run of the guest is one of the host. */
static uint64_t window_align(const struct space *s)
{
	for (size_t i = 0; i < s->region_count; i++)
		if (s->ram[i].page_size == PAGE_SIZE_1G)
			return MM_HUGE_SIZE;
	return MM_BLOCK_SIZE;
}

int window_reserve(struct space *s, void *memory)
{
	uint64_t align = window_align(s);
	uint64_t spare = s->size + align;
	uint8_t *got, *base;
	int r;

	if (memory) {
		s->window = memory;
		return 0;
	}
	got = mmap(NULL, spare, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (got == MAP_FAILED)
		return -errno;
	/* The guest's address 0 lies on a boundary, be it where the window does not reach. */
	base = got + ((s->first.v - (uintptr_t)got) & (align - 1));
	if (base > got)
		munmap(got, (size_t)(base - got));
	munmap(base + s->size, (size_t)(got + spare - (base + s->size)));
	s->window = base;
	for (size_t i = 0; i < s->region_count; i++) {
		r = window_map_zero(s, s->ram[i].range);
		if (r) {
			window_release(s);
			return r;
		}
	}
	return 0;
}

void window_release(struct space *s)
{
	if (s->window && !s->linear)
		munmap(s->window, s->size);
	s->window = NULL;
}
