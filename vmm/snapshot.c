// SPDX-License-Identifier: MIT
/*
 * vmm/snapshot.c - looking at snapshot files: open as an image, describe, verify; and the helpers
 * that reader and writer share.
 *
 * Invariants:
 *   1. snapshot_open() reads no guest memory; the image's extents name the file's frames
 *   2. the file descriptor has one owner: snap_file until the store takes it, then the store
 *
 * Concurrency: no state; each call belongs to one thread.
 */
#include "vmm/snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "mm/store.h"
#include "vmm/fileio.h"
#include "vmm/snapshot_format.h"

int snap_fail(struct snapshot_error *err, int code, const char *format, ...)
{
	va_list args;

	if (err) {
		va_start(args, format);
		vsnprintf(err->text, sizeof(err->text), format, args);
		va_end(args);
	}
	return code;
}

uint64_t snap_header_sum(const struct snap_header *h)
{
	struct snap_header copy = *h;

	copy.header_sum = 0;
	return XXH3_64bits(&copy, sizeof(copy));
}

static void describe(const struct snap_file *f, struct snapshot_info *info)
{
	const struct snap_header *h = &f->header;

	*info = (struct snapshot_info){
		.version = h->version,
		.isa = h->isa,
		.cpus = h->cpus,
		.created = h->created,
		.id = {h->id[0], h->id[1]},
		.generation = h->generation,
		.ram_bytes = h->ram_bytes,
		.data_bytes = h->data_pages << MM_PAGE_SHIFT,
		.file_bytes = h->file_size,
		.disk_bytes = f->disk_bytes,
		.state_bytes = h->state_size,
		.extents = h->extent_count,
		.ram_count = h->region_count,
	};
	_Static_assert(sizeof(info->build) == sizeof(h->build), "copied whole");
	memcpy(info->build, h->build, sizeof(info->build));
	memcpy(info->ram, f->ram, h->region_count * sizeof(f->ram[0]));
}

/* The table's entries as extents of `store`. Return: 0 and an array to free; -ENOMEM. */
static int make_extents(const struct snap_file *f, struct store *store, struct extent **out)
{
	size_t count = f->header.extent_count;
	struct extent *e = calloc(count ? count : 1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		e[i] = (struct extent){
			.gpa = {f->extents[i].gpa},
			.pages = f->extents[i].pages,
			.frame = {(uint32_t)(f->extents[i].offset >> MM_PAGE_SHIFT)},
			.store = store,
		};
	}
	*out = e;
	return 0;
}

static int make_image(struct snap_file *f, struct image **out, struct snapshot_error *err)
{
	struct image_parts parts = {
		.ram = f->ram,
		.ram_count = f->header.region_count,
		.extent_count = f->header.extent_count,
		.state = f->state,
		.state_size = f->header.state_size,
	};
	struct extent *extents;
	struct store *store;
	int ret;

	ret = store_open_file(f->fd, f->header.file_size, &store);
	if (ret)
		goto out;
	f->fd = -1;
	ret = make_extents(f, store, &extents);
	if (ret)
		goto out_put_store;
	parts.extents = extents;
	ret = image_create(&parts, out);
	free(extents);
out_put_store:
	store_put(store);
out:
	if (ret)
		snap_fail(err, ret, "%s cannot be made an image: %s", f->path, strerror(-ret));
	return ret;
}

int snapshot_open(const char *path, uint32_t isa, struct image **out, struct snapshot_info *info,
                  struct snapshot_error *err)
{
	struct snap_file f;
	int ret;

	ret = snap_file_open(&f, path, isa, err);
	if (ret)
		return ret;
	ret = make_image(&f, out, err);
	if (!ret && info)
		describe(&f, info);
	snap_file_close(&f);
	return ret;
}

int snapshot_stat(const char *path, struct snapshot_info *info, struct snapshot_error *err)
{
	struct snap_file f;
	int ret;

	ret = snap_file_open(&f, path, SNAP_ANY_ISA, err);
	if (ret)
		return ret;
	describe(&f, info);
	snap_file_close(&f);
	return 0;
}

static uint32_t count_nonzero(const uint8_t *buffer, uint32_t pages)
{
	static const uint8_t zeros[MM_PAGE_SIZE];
	uint32_t n = 0;

	for (uint32_t i = 0; i < pages; i++)
		n += memcmp(buffer + i * MM_PAGE_SIZE, zeros, MM_PAGE_SIZE) != 0;
	return n;
}

static int verify_extent(const struct snap_file *f, const struct snap_extent *e, uint8_t *buffer,
                         struct snapshot_error *err)
{
	size_t size = (size_t)e->pages << MM_PAGE_SHIFT;
	uint64_t sum;
	size_t got;
	int ret;

	ret = fileio_read_at(f->fd, buffer, size, e->offset, &got);
	if (ret)
		return snap_fail(err, ret, "%s cannot be read at offset %" PRIu64 ": %s", f->path,
		                 e->offset, strerror(-ret));
	if (got < size)
		return snap_fail(err, -EBADMSG, "%s is truncated: it ends at offset %" PRIu64,
		                 f->path, e->offset + got);
	sum = XXH3_64bits(buffer, size);
	if (sum != e->sum)
		return snap_fail(err, -EBADMSG,
		                 "%s is damaged between offsets %" PRIu64 " and %" PRIu64
		                 " (guest memory at 0x%" PRIx64 "): checksum %016" PRIx64
		                 ", should be %016" PRIx64,
		                 f->path, e->offset, e->offset + size, e->gpa, sum, e->sum);
	if (count_nonzero(buffer, e->pages) != e->nonzero)
		return snap_fail(err, -EBADMSG,
		                 "%s: the block at offset %" PRIu64 " does not hold "
		                 "the %" PRIu32 " pages its extent counts",
		                 f->path, e->offset, e->nonzero);
	return 0;
}

int snapshot_verify(const char *path, uint32_t isa, struct snapshot_error *err)
{
	struct snap_file f;
	uint8_t *buffer;
	int ret;

	ret = snap_file_open(&f, path, isa, err);
	if (ret)
		return ret;
	buffer = malloc(MM_BLOCK_SIZE);
	if (!buffer) {
		ret = snap_fail(err, -ENOMEM, "%s cannot be verified: %s", path, strerror(ENOMEM));
		goto out_close;
	}
	for (size_t i = 0; !ret && i < f.header.extent_count; i++)
		ret = verify_extent(&f, &f.extents[i], buffer, err);
	free(buffer);
out_close:
	snap_file_close(&f);
	return ret;
}
