// SPDX-License-Identifier: MIT
/*
 * vmm/snapshot_verify.c - reading all of an image and comparing every checksum.
 *
 * Every byte of a file is either under a checksum or must be zero: the rest of a slot whose RAM
 * region ends inside the block, borders between sections, what follows the last slot. So no bit of
 * a file can change unseen.
 *
 * Concurrency: no state. The position of a file's descriptor is moved; nobody relies on it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "mm/store.h"
#include "vmm/fileio.h"
#include "vmm/snapshot_format.h"

struct verify {
	const struct snap_file *f;
	const struct snapshot_progress *progress;
	struct snapshot_error *err;
	uint8_t *buffer; /* a block */
	uint64_t done, total;
};

static uint32_t count_nonzero(const uint8_t *buffer, uint32_t pages)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < pages; i++)
		n += !snap_is_zero(buffer + i * MM_PAGE_SIZE, MM_PAGE_SIZE);
	return n;
}

/* Into the buffer. Return: 0; -EBADMSG when the file ends before; -errno. */
static int read_all(const struct verify *v, uint64_t offset, size_t size)
{
	size_t got;
	int ret = fileio_read_at(v->f->fd, v->buffer, size, offset, &got);

	if (ret)
		return snap_fail(v->err, ret, "%s cannot be read at offset %" PRIu64 ": %s",
		                 v->f->path, offset, strerror(-ret));
	if (got < size)
		return snap_fail(v->err, -EBADMSG, "%s is truncated: it ends at offset %" PRIu64,
		                 v->f->path, offset + got);
	return 0;
}

int snap_check_extent(const struct snap_file *f, const struct snap_extent *e, const uint8_t *bytes,
                      struct snapshot_error *err)
{
	size_t size = (size_t)e->pages << MM_PAGE_SHIFT;
	uint64_t sum = XXH3_64bits(bytes, size);

	if (sum != e->sum)
		return snap_fail(err, -EBADMSG,
		                 "%s is damaged between offsets %" PRIu64 " and %" PRIu64
		                 " (guest memory at 0x%" PRIx64 "): checksum %016" PRIx64
		                 ", should be %016" PRIx64,
		                 f->path, e->offset, e->offset + size, e->gpa, sum, e->sum);
	if (count_nonzero(bytes, e->pages) != e->nonzero)
		return snap_fail(err, -EBADMSG,
		                 "%s: the block at offset %" PRIu64 " does not hold "
		                 "the %" PRIu32 " pages its extent counts",
		                 f->path, e->offset, e->nonzero);
	return 0;
}

static int verify_extent(const struct verify *v, const struct snap_extent *e)
{
	int ret = read_all(v, e->offset, (size_t)e->pages << MM_PAGE_SHIFT);

	return ret ? ret : snap_check_extent(v->f, e, v->buffer, v->err);
}

int snap_read_extent(const struct snap_file *f, const struct snap_extent *e, uint8_t *to,
                     struct snapshot_error *err)
{
	const struct verify v = {.f = f, .err = err, .buffer = to};

	return verify_extent(&v, e);
}

/* The bytes of [from, to) that are not in a hole of the file must be zero all the same. */
static int verify_zero(const struct verify *v, uint64_t from, uint64_t to)
{
	while (from < to) {
		off_t data = lseek(v->f->fd, (off_t)from, SEEK_DATA);
		size_t size;
		int ret;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data > 0)
			from = max_u64(from, (uint64_t)data);
		if (from >= to)
			return 0;
		size = min_u64(to - from, MM_BLOCK_SIZE);
		ret = read_all(v, from, size);
		if (ret)
			return ret;
		if (!snap_is_zero(v->buffer, size))
			return snap_fail(v->err, -EBADMSG,
			                 "%s is damaged between offsets %" PRIu64 " and %" PRIu64
			                 ": nothing but zeros should be there",
			                 v->f->path, from, from + size);
		from += size;
	}
	return 0;
}

/* What lies between the sections before the data. */
static int verify_borders(const struct verify *v)
{
	const struct snap_header *h = &v->f->header;
	uint64_t at = h->extents_offset + h->extent_count * sizeof(struct snap_extent);
	int ret = verify_zero(v, SNAPSHOT_HEADER_SIZE, h->state_offset);

	if (!ret)
		ret = verify_zero(v, h->state_offset + h->state_size, h->extents_offset);
	if (!ret && h->features_required & SNAPSHOT_LAYERED) {
		ret = verify_zero(v, at, h->pieces_offset);
		at = h->pieces_offset + h->piece_count * sizeof(struct snap_piece);
		if (!ret)
			ret = verify_zero(v, at, h->layers_offset);
		at = h->layers_offset + h->layers_size;
	}
	return ret ? ret : verify_zero(v, at, h->data_offset);
}

int snap_check_borders(const struct snap_file *f, uint8_t *buffer, struct snapshot_error *err)
{
	const struct verify v = {.f = f, .err = err, .buffer = buffer};

	return verify_borders(&v);
}

static void step(struct verify *v, uint64_t bytes)
{
	v->done += bytes;
	if (v->progress && v->progress->step)
		v->progress->step(v->progress->ctx, v->done, v->total);
}

static int verify_file(struct verify *v)
{
	const struct snap_file *f = v->f;
	uint64_t at = f->header.data_offset;
	int ret = verify_borders(v);

	for (size_t i = 0; !ret && i < f->header.extent_count; i++) {
		const struct snap_extent *e = &f->extents[i];

		ret = verify_zero(v, at, e->offset);
		if (!ret)
			ret = verify_extent(v, e);
		at = e->offset + ((uint64_t)e->pages << MM_PAGE_SHIFT);
		step(v, MM_BLOCK_SIZE);
	}
	return ret ? ret : verify_zero(v, at, f->size);
}

static int verify_one(struct verify *v, const struct snap_base_file *file)
{
	struct snap_file f;
	int ret = snap_base_file_open(&f, file, v->err);

	if (ret)
		return ret;
	v->f = &f;
	ret = verify_file(v);
	v->f = NULL;
	snap_file_close(&f);
	return ret;
}

int snapshot_verify_base(const struct snapshot_base *base, const struct snapshot_progress *progress,
                         struct snapshot_error *err)
{
	struct verify v = {.progress = progress, .err = err, .buffer = malloc(MM_BLOCK_SIZE)};
	int ret = 0;

	if (!v.buffer)
		return snap_fail(err, -ENOMEM, "%s cannot be verified: %s", base->file[0].path,
		                 strerror(ENOMEM));
	for (size_t i = 0; i < base->count; i++)
		if (base->file[i].store)
			v.total += base->file[i].file_size - base->file[i].data_offset;
	for (size_t i = 0; !ret && i < base->count; i++)
		if (base->file[i].store)
			ret = verify_one(&v, &base->file[i]);
	free(v.buffer);
	return ret;
}

int snapshot_verify_progress(const char *path, uint32_t isa,
                             const struct snapshot_progress *progress, struct snapshot_error *err)
{
	struct snapshot_base *base;
	struct snap_file f;
	int ret;

	ret = snap_file_open(&f, path, isa, err);
	if (ret)
		return ret;
	ret = snap_base_open(&f, &base, err);
	snap_file_close(&f);
	if (ret)
		return ret;
	ret = snapshot_verify_base(base, progress, err);
	snapshot_base_free(base);
	return ret;
}

int snapshot_verify(const char *path, uint32_t isa, struct snapshot_error *err)
{
	return snapshot_verify_progress(path, isa, NULL, err);
}
