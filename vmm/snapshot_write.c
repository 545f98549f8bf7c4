// SPDX-License-Identifier: MIT
/*
 * vmm/snapshot_write.c - an image into a snapshot file.
 *
 * One pass over the extents, 2 MiB block by block: find the block's non-zero pages, hash them,
 * write them to the block's slot in as few calls as their runs allow. Metadata goes last, when the
 * table is known; the space for it at the front is reserved from an upper bound.
 *
 * Invariants:
 *   1. the name asked for is touched by one rename(2), after everything has reached the disk
 *   2. stores are read through their descriptor, pool and file alike: read(2) gives zeros for
 *      a hole, where a mapping would allocate the page and leave page tables behind
 *
 * Concurrency: the image is immutable; any number of saves may run at once, also to one name (the
 * last rename wins). The position of a file store's descriptor is moved; nobody relies on it.
 *
 * Not done here: sharing blocks with other files, compression.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "mm/store.h"
#include "vmm/atomic_file.h"
#include "vmm/fileio.h"
#include "vmm/snapshot_format.h"
#include "vmm/version.h"

/* Between looks for the next data: small, so that little of a sparse block is read for nothing. */
#define READ_CHUNK (UINT64_C(256) << 10)

struct writer {
	struct atomic_file out;
	const struct snapshot_request *request;
	const char *path; /* as asked for, for messages */
	const struct image *image;
	struct snapshot_error *err;
	struct snap_header header;
	struct snap_extent *table; /* header.extent_count of `cap` used */
	size_t cap;

	/* The block at hand. */
	uint64_t block; /* gpa */
	uint8_t *buffer;
	bool data[MM_BLOCK_PAGES]; /* the page is in the buffer and not all zero */
};

static int fail_errno(struct writer *w, int code, const char *doing)
{
	return snap_fail(w->err, code, "%s cannot be saved: %s: %s", w->path, doing,
	                 strerror(-code));
}

static int fail_write(struct writer *w, int code, uint64_t offset)
{
	return snap_fail(w->err, code, "%s cannot be saved: writing at offset %" PRIu64 ": %s",
	                 w->path, offset, strerror(-code));
}

/* ---- the file ---- */

static int random_bytes(void *to, size_t size)
{
	ssize_t n = getrandom(to, size, 0);

	if (n < 0)
		return -errno;
	return (size_t)n == size ? 0 : -EIO;
}

static int write_at(struct writer *w, const void *from, size_t size, uint64_t offset)
{
	const char *p = from;

	while (size > 0) {
		ssize_t n = pwrite(w->out.fd, p, size, (off_t)offset);
		int ret;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			ret = n < 0 ? -errno : -EIO;
			return fail_write(w, ret, offset);
		}
		p += n;
		size -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

/* ---- the pages of a block ---- */

static bool is_zero(const uint8_t *page)
{
	static const uint8_t zeros[MM_PAGE_SIZE];

	return memcmp(page, zeros, MM_PAGE_SIZE) == 0;
}

/* `size` bytes of a store at `offset`, which are guest memory at `gpa` of the block at hand. */
static int read_pages(struct writer *w, const struct store *s, uint64_t offset, size_t size,
                      uint64_t gpa)
{
	size_t first = (gpa - w->block) >> MM_PAGE_SHIFT;
	uint8_t *to = w->buffer + (gpa - w->block);
	size_t got;
	int ret;

	ret = fileio_read_at(s->fd, to, size, offset, &got);
	if (!ret && got < size)
		ret = -EIO;
	if (ret)
		return snap_fail(w->err, ret,
		                 "%s cannot be saved: reading guest memory 0x%" PRIx64
		                 " from its store at offset %" PRIu64 ": %s",
		                 w->path, gpa, offset, strerror(-ret));
	for (size_t i = 0; i < size >> MM_PAGE_SHIFT; i++)
		w->data[first + i] = !is_zero(to + i * MM_PAGE_SIZE);
	return 0;
}

/* Beyond its end a file reads as a hole: one cut short must not pass for zeros. */
static int check_store_file(struct writer *w, const struct extent *e)
{
	struct stat st;
	int ret;

	if (fstat(e->store->fd, &st)) {
		ret = -errno;
		return fail_errno(w, ret, "examining the file below the memory");
	}
	if ((uint64_t)st.st_size < ((uint64_t)e->frame.n + e->pages) << MM_PAGE_SHIFT)
		return fail_errno(w, -EIO, "the file below the memory has been cut short");
	return 0;
}

/*
 * The first page with data at or after `from`; some offset at or after `end` when there is none.
 * SEEK_HOLE is not asked: it walks to the end of the data, which may be gigabytes away.
 */
static int next_data(const struct store *s, uint64_t from, uint64_t end, uint64_t *at)
{
	off_t data = lseek(s->fd, (off_t)from, SEEK_DATA);

	if (data >= 0)
		*at = align_down((uint64_t)data, MM_PAGE_SIZE);
	else if (errno == ENXIO)
		*at = end;
	else if (errno == EINVAL)
		*at = from; /* a file system that does not know its holes */
	else
		return -errno;
	return 0;
}

static int collect(struct writer *w, const struct extent *e)
{
	uint64_t start = (uint64_t)e->frame.n << MM_PAGE_SHIFT;
	uint64_t end = start + ((uint64_t)e->pages << MM_PAGE_SHIFT);
	uint64_t at = start;
	int ret = 0;

	if (!e->store->pool)
		ret = check_store_file(w, e);
	while (!ret && at < end) {
		uint64_t size;

		ret = next_data(e->store, at, end, &at);
		if (ret)
			return fail_errno(w, ret, "looking for data in a store");
		if (at >= end)
			break;
		size = min_u64(end - at, READ_CHUNK);
		ret = read_pages(w, e->store, at, size, e->gpa.v + (at - start));
		at += size;
	}
	return ret;
}

/* ---- a block into its slot ---- */

static uint32_t count_data(const struct writer *w, size_t pages)
{
	uint32_t n = 0;

	for (size_t i = 0; i < pages; i++)
		n += w->data[i];
	return n;
}

/* Pages nobody has read still hold the bytes of another block. */
static void zero_holes(struct writer *w, size_t pages)
{
	for (size_t i = 0; i < pages; i++) {
		if (!w->data[i])
			memset(w->buffer + i * MM_PAGE_SIZE, 0, MM_PAGE_SIZE);
	}
}

/* Each run of non-zero pages in one call. */
static int write_pages(struct writer *w, size_t pages, uint64_t slot)
{
	int ret = 0;

	for (size_t i = 0; !ret && i < pages;) {
		size_t first = i;

		while (i < pages && w->data[i])
			i++;
		ret = write_at(w, w->buffer + first * MM_PAGE_SIZE, (i - first) * MM_PAGE_SIZE,
		               slot + first * MM_PAGE_SIZE);
		while (i < pages && !w->data[i])
			i++;
	}
	return ret;
}

/* Pages of the block at hand that are RAM: a region starts with a block but may end inside one. */
static size_t block_pages(const struct writer *w)
{
	size_t count;
	const struct ram_region *ram = image_ram(w->image, &count);

	for (size_t i = 0; i < count; i++) {
		if (gpa_range_has(ram[i].range, (gpa_t){w->block}))
			return min_u64(gpa_range_end(ram[i].range) - w->block, MM_BLOCK_SIZE) >>
			       MM_PAGE_SHIFT;
	}
	return 0;
}

/* A slot, and an extent for it, unless all of the block is zero. */
static int emit_block(struct writer *w)
{
	size_t pages = block_pages(w);
	struct snap_extent e = {
		.gpa = w->block,
		.offset = w->header.data_offset + w->header.data_size,
		.pages = (uint32_t)pages,
	};

	e.nonzero = count_data(w, pages);
	if (e.nonzero == 0)
		return 0;
	zero_holes(w, pages);
	e.sum = XXH3_64bits(w->buffer, pages * MM_PAGE_SIZE);
	w->table[w->header.extent_count++] = e;
	w->header.data_pages += e.nonzero;
	w->header.data_size += MM_BLOCK_SIZE;
	return write_pages(w, pages, e.offset);
}

static int write_blocks(struct writer *w)
{
	size_t count;
	const struct extent *e = image_extents(w->image, &count);
	int ret = 0;

	for (size_t i = 0; !ret && i < count;) {
		w->block = align_down(e[i].gpa.v, MM_BLOCK_SIZE);
		memset(w->data, 0, sizeof(w->data));
		for (; !ret && i < count && e[i].gpa.v - w->block < MM_BLOCK_SIZE; i++)
			ret = collect(w, &e[i]);
		if (!ret)
			ret = emit_block(w);
	}
	return ret;
}

/* ---- metadata ---- */

static uint64_t count_blocks(const struct image *image)
{
	size_t count;
	const struct extent *e = image_extents(image, &count);
	uint64_t blocks = 0;

	for (size_t i = 0; i < count; i++) {
		if (i == 0 || (e[i].gpa.v ^ e[i - 1].gpa.v) >> MM_BLOCK_SHIFT)
			blocks++;
	}
	return blocks;
}

static void put_regions(struct snap_header *h, const struct image *image)
{
	size_t count;
	const struct ram_region *ram = image_ram(image, &count);

	for (size_t i = 0; i < count; i++) {
		h->regions[i] = (struct snap_region){
			.start = ram[i].range.start.v,
			.size = ram[i].range.size,
			.page_shift = snap_page_shift(ram[i].page_size),
		};
		h->ram_bytes += ram[i].range.size;
	}
	h->region_count = (uint32_t)count;
}

static int put_identity(struct writer *w)
{
	struct snap_header *h = &w->header;
	struct timespec now;
	int ret;

	ret = random_bytes(h->id, sizeof(h->id));
	if (!ret)
		ret = random_bytes(&h->generation, sizeof(h->generation));
	if (ret)
		return fail_errno(w, ret, "drawing random numbers");
	clock_gettime(CLOCK_REALTIME, &now);
	h->created = (uint64_t)now.tv_sec;
	snprintf(h->build, sizeof(h->build), "%s", COWSLIP_BUILD);
	return 0;
}

/* Everything known before the data. The table has at most one entry for each block touched. */
static int plan(struct writer *w)
{
	struct snap_header *h = &w->header;
	uint64_t blocks = count_blocks(w->image);
	size_t state_size;

	image_state(w->image, &state_size);
	*h = (struct snap_header){
		.version = SNAPSHOT_VERSION,
		.header_size = SNAPSHOT_HEADER_SIZE,
		.isa = w->request->isa,
		.cpus = w->request->cpus,
		.page_size = MM_PAGE_SIZE,
		.block_size = MM_BLOCK_SIZE,
		.extent_size = sizeof(struct snap_extent),
		.state_offset = SNAPSHOT_HEADER_SIZE,
		.state_size = state_size,
	};
	memcpy(h->magic, SNAPSHOT_MAGIC, sizeof(h->magic));
	put_regions(h, w->image);
	if (state_size > SNAPSHOT_STATE_MAX || blocks >= SNAPSHOT_FILE_MAX >> MM_BLOCK_SHIFT)
		return fail_errno(w, -E2BIG, "more than the format holds");
	w->cap = blocks;
	h->extents_offset = align_up(h->state_offset + state_size, 8);
	h->data_offset =
		align_up(h->extents_offset + w->cap * sizeof(struct snap_extent), MM_BLOCK_SIZE);
	if (blocks > (SNAPSHOT_FILE_MAX - h->data_offset) >> MM_BLOCK_SHIFT)
		return fail_errno(w, -E2BIG, "more than the format holds");
	return put_identity(w);
}

static int write_metadata(struct writer *w)
{
	struct snap_header *h = &w->header;
	size_t table_size = h->extent_count * sizeof(struct snap_extent);
	size_t state_size;
	const void *state = image_state(w->image, &state_size);
	int ret;

	h->file_size = h->data_offset + h->data_size;
	h->state_sum = XXH3_64bits(state_size ? state : "", state_size);
	h->extents_sum = XXH3_64bits(w->table, table_size);
	h->header_sum = snap_header_sum(h);
	ret = write_at(w, state, state_size, h->state_offset);
	if (!ret)
		ret = write_at(w, w->table, table_size, h->extents_offset);
	if (!ret)
		ret = write_at(w, h, sizeof(*h), 0);
	if (ret)
		return ret;
	/* The last slot may end in a hole. */
	while (!ret && ftruncate(w->out.fd, (off_t)h->file_size))
		ret = errno == EINTR ? 0 : -errno;
	return ret ? fail_write(w, ret, h->file_size) : 0;
}

/* ---- all of it ---- */

static int allocate(struct writer *w)
{
	w->table = calloc(w->cap ? w->cap : 1, sizeof(*w->table));
	w->buffer = malloc(MM_BLOCK_SIZE);
	if (!w->table || !w->buffer)
		return fail_errno(w, -ENOMEM, "preparing");
	return 0;
}

static void release(struct writer *w)
{
	free(w->buffer);
	free(w->table);
}

static int write_file(struct writer *w)
{
	const char *step;
	int ret;

	ret = atomic_file_open(&w->out, w->path, &w->request->hook, &step);
	if (ret)
		return fail_errno(w, ret, step);
	ret = write_blocks(w);
	if (!ret)
		ret = write_metadata(w);
	if (!ret) {
		ret = atomic_file_commit(&w->out, &step);
		if (ret)
			fail_errno(w, ret, step);
	}
	atomic_file_close(&w->out);
	return ret;
}

int snapshot_write(const struct snapshot_request *r, struct snapshot_error *err)
{
	struct writer w = {.request = r, .image = r->image, .err = err, .path = r->path};
	int ret;

	ret = plan(&w);
	if (ret)
		return ret;
	ret = allocate(&w);
	if (!ret)
		ret = write_file(&w);
	release(&w);
	return ret;
}

int snapshot_save(const struct image *image, uint32_t isa, uint32_t cpus, const char *path,
                  struct snapshot_error *err)
{
	const struct snapshot_request r = {.image = image, .isa = isa, .cpus = cpus, .path = path};

	return snapshot_write(&r, err);
}
