// SPDX-License-Identifier: MIT
/*
 * mm/space.c - life cycle of a space: regions, the block table, the choice of a fault path.
 */
#include "mm/space.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mm/check.h"
#include "mm/ram.h"
#include "mm/space_internal.h"

/* The host may take seconds for a block of memory where it has to look for it. */
#define PATIENCE_MS 10000u

/* ---- regions and blocks ---- */

const struct region *space_region(const struct space *s, gpa_t a)
{
	const struct ram_region *ram = ram_find(s->ram, s->region_count, a);

	return ram ? &s->regions[ram - s->ram] : NULL;
}

struct gpa_range block_range(const struct space *s, size_t index)
{
	gpa_t start = block_gpa(s, index);
	const struct ram_region *ram = ram_find(s->ram, s->region_count, start);
	uint64_t left = ram ? gpa_range_end(ram->range) - start.v : 0;

	return (struct gpa_range){start, min_u64(left, MM_BLOCK_SIZE)};
}

int space_check_range(const struct space *s, struct gpa_range r)
{
	struct gpa_range same;

	if (gpa_range_make(r.start.v, r.size, MM_PAGE_SIZE, &same))
		return -EINVAL;
	while (r.size > 0) {
		const struct ram_region *ram = ram_find(s->ram, s->region_count, r.start);
		uint64_t n;

		if (!ram)
			return -EFAULT;
		n = min_u64(r.size, gpa_range_end(ram->range) - r.start.v);
		r.start.v += n;
		r.size -= n;
	}
	return 0;
}

const struct ram_region *space_ram(const struct space *s, size_t *count)
{
	*count = s->region_count;
	return s->ram;
}

hva_t space_hva(const struct space *s, gpa_t a)
{
	return (hva_t){(uintptr_t)window_ptr(s, a)};
}

gpa_t space_gpa(const struct space *s, hva_t h)
{
	return (gpa_t){s->first.v + (h.v - (uintptr_t)s->window)};
}

/* ---- creation ---- */

static uint64_t ram_bytes(const struct space *s)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < s->region_count; i++)
		sum += s->ram[i].range.size;
	return sum;
}

uint64_t space_window_size(const struct ram_region *ram, size_t count)
{
	if (ram_check(ram, count))
		return 0;
	return align_up(gpa_range_end(ram[count - 1].range), MM_BLOCK_SIZE) - ram[0].range.start.v;
}

/* Backed by huge pages that the host has set aside. */
static bool from_reserve(const struct space_config *c, const struct ram_region *ram)
{
	if (c->memory || c->image)
		return false;
	return ram->page_size == PAGE_SIZE_1G || (c->hugetlb && ram->page_size == PAGE_SIZE_2M);
}

static const struct backend_ops *choose_backend(const struct space_config *c,
                                                const struct ram_region *ram)
{
	if (c->memory)
		return &backend_linear;
	if (c->image)
		return &backend_image;
	return from_reserve(c, ram) ? &backend_hugetlb : &backend_alloc;
}

static int take_regions(struct space *s, const struct space_config *c)
{
	const struct ram_region *ram = c->ram;
	size_t count = c->ram_count;

	if (c->image)
		ram = image_ram(c->image, &count);
	s->size = space_window_size(ram, count);
	if (s->size == 0)
		return -EINVAL;
	for (size_t i = 0; i < count; i++) {
		s->ram[i] = ram[i];
		s->regions[i] = (struct region){
			.ram = ram[i],
			.backend = choose_backend(c, &ram[i]),
			.permits = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC,
		};
	}
	s->region_count = count;
	s->first = ram[0].range.start;
	s->block_count = (size_t)(s->size >> MM_BLOCK_SHIFT);
	return 0;
}

/* What the host keeps for them, where regions have reserved pages. Return: 0 or -errno. */
static int open_reserve(struct space *s)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < s->region_count; i++) {
		struct region *region = &s->regions[i];

		if (region->backend == &backend_hugetlb)
			r = hugetlb_create(page_size_bytes(region->ram.page_size),
			                   region->ram.range.size, &region->huge);
	}
	return r;
}

static size_t blocks_bytes(const struct space *s)
{
	return s->block_count * sizeof(*s->blocks);
}

/* Untouched entries cost nothing: all-zero is EMPTY. */
static int map_blocks(struct space *s)
{
	void *p = mmap(NULL, blocks_bytes(s), PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	s->blocks = p;
	return 0;
}

static bool has_limit(const struct space *s, const struct space_config *c)
{
	return c->limit_frames && c->limit_frames < ram_bytes(s) >> MM_PAGE_SHIFT;
}

/* A limit that can only be kept where every block is decided by us. */
static bool must_decide(const struct space *s, const struct space_config *c)
{
	return has_limit(s, c) && !(c->limit_copies && c->image);
}

/*
 * The rule of FAULTS_AUTO. A clone mostly reads pages that are there and copies single ones: the
 * kernel is quickest at that. Fresh memory is filled fastest a block at a time.
 */
static const struct fault_ops *choose_path(const struct space *s, const struct space_config *c,
                                           const char **why)
{
	if (s->linear) {
		*why = "the memory is the embedder's: nothing in it is decided here";
		return &fault_kernel;
	}
	switch (c->faults) {
	case FAULTS_KERNEL:
		*why = "asked for";
		return &fault_kernel;
	case FAULTS_UFFD:
		*why = "asked for";
		return &fault_uffd;
	case FAULTS_AUTO:
		break;
	}
	if (must_decide(s, c)) {
		*why = "a limit below RAM needs every block decided here";
		return &fault_uffd;
	}
	if (c->image) {
		*why = "a clone's pages are the image's: the kernel maps and copies them fastest";
		return &fault_kernel;
	}
	if (c->populate) {
		*why = "populated: no violation is left to handle";
		return &fault_kernel;
	}
	*why = "fresh memory is filled fastest a block at a time";
	return &fault_uffd;
}

static int attach(struct space *s, const struct space_config *c)
{
	int r;

	s->faults = choose_path(s, c, &s->faults_why);
	r = s->faults->attach(s);
	if (r == 0 || c->faults != FAULTS_AUTO || must_decide(s, c))
		return r;
	if (r != -EPERM && r != -ENOSYS)
		return r;
	s->faults = &fault_kernel;
	s->faults_why = "userfaultfd is not permitted here (see cowslip doctor)";
	return s->faults->attach(s);
}

/* Frames for block `i`; `fill`: with memory behind them. Return: 0 or -errno. */
static int own_frames(struct space *s, size_t i, struct gpa_range ram, bool fill)
{
	enum page_size page_size = space_region(s, ram.start)->ram.page_size;
	struct block *b = &s->blocks[i];
	frame_t f;
	int r = alloc_reserve(s, b, &f);

	if (r)
		return r;
	alloc_commit(s, b, f);
	b->granted = !fill;
	b->huge = pool_huge(s->pool) && page_size == PAGE_SIZE_2M;
	if (!fill)
		return 0;
	b->huge = page_size != PAGE_SIZE_4K && pool_collapse(s->pool, f) == 0;
	return b->huge ? 0 : pool_fill(s->pool, f, (uint32_t)(ram.size >> MM_PAGE_SHIFT));
}

/* The reserved huge page that begins with block `i`. Return: 0 or -errno. */
static int own_huge(struct space *s, size_t i)
{
	struct huge_page p = huge_page_of(s, i);
	int r = huge_take(s, &p);

	if (r == 0)
		huge_set(s, &p, BLOCK_HUGETLB);
	return r;
}

/*
 * Frames for every block, so that the kernel path has something to map. Reserved huge pages always
 * with memory: the kernel would take them at a touch, but kill the toucher where there is none.
 */
static int own_all(struct space *s, bool fill)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < s->block_count; i++) {
		struct gpa_range ram = block_range(s, i);

		if (ram.size == 0 || s->blocks[i].state != BLOCK_EMPTY)
			continue;
		if (space_region(s, ram.start)->huge)
			r = own_huge(s, i);
		else
			r = own_frames(s, i, ram, fill);
	}
	return r;
}

/* Block `b` goes on where the run ends, in the guest and in the pool. */
static bool joins(const struct space *s, const struct owned_run *run, size_t b)
{
	struct gpa_range r = block_range(s, b);

	return s->blocks[b].state == BLOCK_OWNED && r.size > 0 &&
	       gpa_range_end(run->ram) == r.start.v && s->blocks[b].huge == run->huge &&
	       s->blocks[b].frame.n == run->frame.n + run->count * MM_BLOCK_PAGES;
}

bool next_owned(const struct space *s, size_t *at, size_t end, struct owned_run *out)
{
	size_t i = *at;

	while (i < end && s->blocks[i].state != BLOCK_OWNED)
		i++;
	*at = i;
	if (i == end)
		return false;
	*out = (struct owned_run){i, 1, block_range(s, i), s->blocks[i].frame, s->blocks[i].huge};
	while (++i < end && joins(s, out, i)) {
		out->ram.size += block_range(s, i).size;
		out->count++;
	}
	*at = i;
	return true;
}

static int map_owned(struct space *s)
{
	struct owned_run run;

	for (size_t i = 0; next_owned(s, &i, s->block_count, &run);) {
		int r = window_map_owned(s, run.ram, run.frame, run.huge);

		if (r)
			return r;
	}
	return 0;
}

/*
 * A clone on the kernel path: the image's runs over zero memory, all of it the kernel's to fault.
 */
static int map_image(struct space *s)
{
	size_t count;
	const struct run *run = image_runs(s->image, &count);

	for (size_t i = 0; i < count; i++) {
		int r = window_map_private(s, run[i].gpa, run[i].pages, run[i].store, run[i].frame);

		if (r)
			return r;
	}
	for (size_t i = 0; i < s->block_count; i++)
		s->blocks[i].state = BLOCK_SHARED;
	return 0;
}

static int premap(struct space *s, const struct space_config *c)
{
	int r;

	if (s->linear)
		return linear_premap(s, c->populate);
	if (s->faults->lazy && !c->populate)
		return 0;
	if (s->image)
		return map_image(s);
	r = own_all(s, c->populate);
	if (r == 0)
		r = map_owned(s);
	return r ? r : huge_map_all(s);
}

/* The embedder's memory is aligned as the regions on it are: a clone runs on an image's pages. */
static bool memory_fits(const struct space_config *c)
{
	uintptr_t zero; /* where address 0 would be */

	if (!is_aligned((uintptr_t)c->memory, MM_BLOCK_SIZE))
		return false;
	if (c->image)
		return true;
	if (ram_check(c->ram, c->ram_count))
		return false;
	zero = (uintptr_t)c->memory - c->ram[0].range.start.v;
	for (size_t i = 0; i < c->ram_count; i++)
		if (!is_aligned(zero, page_size_bytes(c->ram[i].page_size)))
			return false;
	return true;
}

static int check_config(const struct space_config *c)
{
	if (c->populate && c->image && !c->memory)
		return -EINVAL;
	if (c->memory && c->faults == FAULTS_UFFD)
		return -EINVAL;
	return c->memory && !memory_fits(c) ? -EINVAL : 0;
}

int space_create(const struct space_config *c, struct space **out)
{
	struct space *s;
	int r = check_config(c);

	if (r)
		return r;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->fault.uffd = s->fault.stop = -1;
	s->fault.patience_ms = c->patience_ms ? c->patience_ms : PATIENCE_MS;
	s->nomem = c->nomem;
	s->broken = c->broken;
	s->ctx = c->ctx;
	s->linear = c->memory != NULL;
	s->own_faults = c->own_faults;
	s->limit_copies = c->limit_copies;
	s->pool = pool_get(c->pool);
	s->image = c->image ? image_get(c->image) : NULL;
	lock_init(&s->lock, LOCK_SPACE);
	r = take_regions(s, c);
	if (r)
		goto fail;
	/* Whole blocks are counted: RAM that ends inside one must not run into its own size. */
	s->limit_frames =
		has_limit(s, c) ? c->limit_frames : (uint64_t)s->block_count << MM_BLOCK_ORDER;
	/*
	 * The window first: one too large for the host is refused before its block table is made.
	 */
	r = window_reserve(s, c->memory);
	if (r == 0)
		r = map_blocks(s);
	if (r == 0)
		r = open_reserve(s);
	if (r == 0)
		r = attach(s, c);
	if (r == 0)
		r = premap(s, c);
	if (r)
		goto fail;
	*out = s;
	return 0;

fail:
	space_destroy(s);
	return r;
}

/* Also for a space that was made only in part. Frames go after the window that mapped them. */
void space_destroy(struct space *s)
{
	if (!s)
		return;
	CHECK(s->holds == 0);
	space_shutdown(s);
	if (s->fault.abandoned)
		return;
	window_release(s);
	for (size_t i = 0; s->blocks && i < s->block_count; i++)
		if (s->blocks[i].state == BLOCK_OWNED)
			pool_unref(s->pool, s->blocks[i].frame);
	if (s->blocks)
		munmap(s->blocks, blocks_bytes(s));
	for (size_t i = 0; i < s->region_count; i++)
		hugetlb_destroy(s->regions[i].huge);
	publish_drop_spares(s);
	follow_forget(s);
	page_runs_fini(&s->kept);
	gpa_map_fini(&s->cut);
	gpa_map_fini(&s->guard);
	image_put(s->image);
	pool_put(s->pool);
	lock_fini(&s->lock);
	free(s);
}

void space_let_go(struct space *s)
{
	s->faults->let_go(s);
}

void space_shutdown(struct space *s)
{
	if (s->faults)
		s->faults->detach(s);
}

bool space_is_linear(const struct space *s)
{
	return s->linear;
}

struct image *space_image(const struct space *s)
{
	return s->image;
}
