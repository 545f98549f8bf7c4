// SPDX-License-Identifier: MIT
/*
 * vmm/snapshot_read.c - reading and checking a snapshot file's metadata.
 *
 * Checks go from the outside in, so that each message is true: is it a snapshot, of a
 * version we read, is its header whole, for us, is the file as long as that says, are state and
 * extent table whole, does every extent make sense. Checksums find accidents; a file may also
 * be made to mislead, so whatever passes them is still bounds-checked before it is used.
 *
 * Concurrency: no state.
 *
 * Not done here: reading the data (vmm/snapshot_verify.c); other files that a layered image lies in
 * (vmm/snapshot_layers.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "vmm/fileio.h"
#include "vmm/hostlimit.h"
#include "vmm/snapshot_format.h"

static int fail_read(const struct snap_file *f, struct snapshot_error *err, int code,
                     uint64_t offset)
{
	return snap_fail(err, code, "%s cannot be read at offset %" PRIu64 ": %s", f->path, offset,
	                 strerror(-code));
}

/* A header field at `at` that contradicts another one or the format. */
static int fail_field(const struct snap_file *f, struct snapshot_error *err, size_t at,
                      const char *what)
{
	return snap_fail(err, -EBADMSG, "%s: the header's %s (offset %zu) makes no sense", f->path,
	                 what, at);
}

#define FIELD(f, err, field, what)                                                                 \
	fail_field((f), (err), offsetof(struct snap_header, field), (what))

/* O_NONBLOCK: a FIFO must not make us wait for a writer before we can refuse it. */
int snap_open_regular(const char *path, int *fd, struct snapshot_error *err)
{
	char why[HOSTLIMIT_TEXT_MAX];
	struct stat st;
	int ret;

	*fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (*fd < 0) {
		ret = -errno;
		return snap_fail(err, ret, "%s cannot be opened: %s", path,
		                 hostlimit_why(ret, 0, why));
	}
	if (fstat(*fd, &st) == 0 && S_ISREG(st.st_mode))
		return 0;
	close(*fd);
	return snap_fail(err, -EBADMSG, "%s is not a regular file", path);
}

static int read_size(struct snap_file *f, struct snapshot_error *err)
{
	struct stat st;

	if (fstat(f->fd, &st))
		return fail_read(f, err, -errno, 0);
	f->size = (uint64_t)st.st_size;
	f->disk_bytes = (uint64_t)st.st_blocks * 512;
	return 0;
}

static int read_header(struct snap_file *f, struct snapshot_error *err)
{
	struct snap_header *h = &f->header;
	uint64_t sum;
	size_t got;
	int ret;

	ret = fileio_read_at(f->fd, h, sizeof(*h), 0, &got);
	if (ret)
		return fail_read(f, err, ret, 0);
	if (got < sizeof(h->magic) || memcmp(h->magic, SNAPSHOT_MAGIC, sizeof(h->magic)) != 0)
		return snap_fail(err, -EBADMSG, "%s is not a cowslip image: no magic at offset 0",
		                 f->path);
	if (got < sizeof(*h))
		return snap_fail(err, -EBADMSG,
		                 "%s is truncated: %zu bytes, the header alone "
		                 "takes %zu",
		                 f->path, got, sizeof(*h));
	if (h->version != SNAPSHOT_VERSION)
		return snap_fail(err, -ENOTSUP,
		                 "%s has format version %" PRIu32 " (offset %zu), "
		                 "this cowslip reads %u",
		                 f->path, h->version, offsetof(struct snap_header, version),
		                 SNAPSHOT_VERSION);
	sum = snap_header_sum(h);
	if (sum != h->header_sum)
		return snap_fail(err, -EBADMSG,
		                 "%s: the header (offset 0, %zu bytes) is damaged: "
		                 "checksum %016" PRIx64 ", should be %016" PRIx64,
		                 f->path, sizeof(*h), sum, h->header_sum);
	return 0;
}

static int check_target(const struct snap_file *f, uint32_t isa, struct snapshot_error *err)
{
	const struct snap_header *h = &f->header;

	if (h->features_required & ~SNAPSHOT_FEATURES)
		return snap_fail(err, -ENOTSUP,
		                 "%s needs features 0x%" PRIx64 " (offset %zu) that "
		                 "this cowslip does not know",
		                 f->path, h->features_required & ~SNAPSHOT_FEATURES,
		                 offsetof(struct snap_header, features_required));
	if (isa != SNAP_ANY_ISA && h->isa != isa)
		return snap_fail(err, -ENOTSUP,
		                 "%s is for machine %" PRIu32 " (ELF number, offset "
		                 "%zu), this cowslip runs %" PRIu32,
		                 f->path, h->isa, offsetof(struct snap_header, isa), isa);
	return 0;
}

/* [offset, offset + size) lies between `from` and `to`. */
static bool fits(uint64_t offset, uint64_t size, uint64_t from, uint64_t to)
{
	return offset >= from && offset <= to && size <= to - offset;
}

static int check_layered_layout(const struct snap_file *f, struct snapshot_error *err)
{
	const struct snap_header *h = &f->header;
	uint64_t extents_end = h->extents_offset + h->extent_count * sizeof(struct snap_extent);
	uint64_t pieces_end = h->pieces_offset + h->piece_count * sizeof(struct snap_piece);

	if (h->piece_size != sizeof(struct snap_piece))
		return FIELD(f, err, piece_size, "piece size");
	if (!is_aligned(h->pieces_offset, 8) || h->piece_count > SNAPSHOT_PIECES_MAX ||
	    !fits(h->pieces_offset, h->piece_count * sizeof(struct snap_piece), extents_end,
	          h->data_offset))
		return FIELD(f, err, pieces_offset, "piece table");
	if (h->layer_count > SNAPSHOT_LAYERS_MAX)
		return FIELD(f, err, layer_count, "number of layers");
	if (!is_aligned(h->layers_offset, 8) || h->layers_size > SNAPSHOT_LAYERS_SIZE_MAX ||
	    h->layers_size < h->layer_count * sizeof(struct snap_layer) ||
	    !fits(h->layers_offset, h->layers_size, pieces_end, h->data_offset))
		return FIELD(f, err, layers_offset, "layer table");
	return 0;
}

static int check_layout(const struct snap_file *f, struct snapshot_error *err)
{
	const struct snap_header *h = &f->header;
	uint64_t state_end = h->state_offset + h->state_size;

	if (h->header_size != SNAPSHOT_HEADER_SIZE)
		return FIELD(f, err, header_size, "own size");
	if (h->page_size != MM_PAGE_SIZE)
		return FIELD(f, err, page_size, "page size");
	if (h->block_size != MM_BLOCK_SIZE)
		return FIELD(f, err, block_size, "block size");
	if (h->extent_size != sizeof(struct snap_extent))
		return FIELD(f, err, extent_size, "extent size");
	if (!is_aligned(h->data_offset, MM_BLOCK_SIZE) || h->data_offset > SNAPSHOT_FILE_MAX)
		return FIELD(f, err, data_offset, "data offset");
	if (!is_aligned(h->data_size, MM_BLOCK_SIZE) ||
	    h->data_size > SNAPSHOT_FILE_MAX - h->data_offset)
		return FIELD(f, err, data_size, "data size");
	if (h->file_size != h->data_offset + h->data_size)
		return FIELD(f, err, file_size, "file size");
	if (h->state_size > SNAPSHOT_STATE_MAX ||
	    !fits(h->state_offset, h->state_size, SNAPSHOT_HEADER_SIZE, h->data_offset))
		return FIELD(f, err, state_offset, "state section");
	/* Each extent has a slot of its own, which bounds what is allocated for the table. */
	if (!is_aligned(h->extents_offset, 8) || h->extent_count > h->data_size >> MM_BLOCK_SHIFT ||
	    !fits(h->extents_offset, h->extent_count * sizeof(struct snap_extent), state_end,
	          h->data_offset))
		return FIELD(f, err, extents_offset, "extent table");
	if (h->build[sizeof(h->build) - 1] != '\0')
		return FIELD(f, err, build, "build");
	return h->features_required & SNAPSHOT_LAYERED ? check_layered_layout(f, err) : 0;
}

static int check_regions(struct snap_file *f, struct snapshot_error *err)
{
	const struct snap_header *h = &f->header;
	uint64_t end = 0;
	uint64_t sum = 0;

	if (h->region_count == 0 || h->region_count > IMAGE_MAX_REGIONS)
		return FIELD(f, err, region_count, "number of RAM regions");
	for (uint32_t i = 0; i < h->region_count; i++) {
		const struct snap_region *r = &h->regions[i];
		size_t at = offsetof(struct snap_header, regions) + i * sizeof(*r);
		struct ram_region *ram = &f->ram[i];

		if (snap_page_size(r->page_shift, &ram->page_size) ||
		    !is_aligned(r->start, MM_BLOCK_SIZE) ||
		    gpa_range_make(r->start, r->size, page_size_bytes(ram->page_size), &ram->range))
			return fail_field(f, err, at, "RAM region");
		if (r->start < end)
			return fail_field(f, err, at, "order of RAM regions");
		end = gpa_range_end(ram->range);
		sum += r->size;
	}
	if (sum != h->ram_bytes)
		return FIELD(f, err, ram_bytes, "RAM size");
	return 0;
}

/* A section into fresh memory, compared with its checksum. *out is NULL when size is 0. */
static int read_section(const struct snap_file *f, uint64_t offset, uint64_t size, uint64_t want,
                        const char *what, void **out, struct snapshot_error *err)
{
	void *p = NULL;
	size_t got = 0;
	uint64_t sum;
	int ret = 0;

	if (size) {
		p = malloc(size);
		if (!p)
			return snap_fail(err, -ENOMEM,
			                 "%s: no memory for its %s (%" PRIu64 " bytes)", f->path,
			                 what, size);
		ret = fileio_read_at(f->fd, p, size, offset, &got);
	}
	if (ret) {
		fail_read(f, err, ret, offset);
		goto err_free;
	}
	if (got < size) {
		ret = snap_fail(err, -EBADMSG,
		                "%s is truncated: it ends at offset %" PRIu64 ", inside its %s",
		                f->path, offset + got, what);
		goto err_free;
	}
	sum = XXH3_64bits(p ? p : "", size);
	if (sum != want) {
		ret = snap_fail(err, -EBADMSG,
		                "%s: the %s (offset %" PRIu64 ", %" PRIu64
		                " bytes) is damaged: checksum %016" PRIx64
		                ", should be %016" PRIx64,
		                f->path, what, offset, size, sum, want);
		goto err_free;
	}
	*out = p;
	return 0;

err_free:
	free(p);
	return ret;
}

/* Pages of the block at `gpa` that are RAM, 0 for none. */
static uint64_t ram_pages(const struct snap_file *f, uint64_t gpa)
{
	for (uint32_t i = 0; i < f->header.region_count; i++) {
		struct gpa_range r = f->ram[i].range;

		if (gpa_range_has(r, (gpa_t){gpa}))
			return min_u64(gpa_range_end(r) - gpa, MM_BLOCK_SIZE) >> MM_PAGE_SHIFT;
	}
	return 0;
}

/* What is wrong with an extent, or NULL. `before` is the one before it, NULL for the first. */
static const char *extent_fault(const struct snap_file *f, const struct snap_extent *e,
                                const struct snap_extent *before)
{
	const struct snap_header *h = &f->header;

	if (!is_aligned(e->gpa, MM_BLOCK_SIZE))
		return "does not start a 2 MiB block";
	if (before && e->gpa <= before->gpa)
		return "is not above the one before it";
	if (ram_pages(f, e->gpa) == 0)
		return "lies outside RAM";
	if (e->pages != ram_pages(f, e->gpa))
		return "does not cover its block";
	if (e->nonzero == 0 || e->nonzero > e->pages)
		return "miscounts its pages";
	if (!is_aligned(e->offset, MM_BLOCK_SIZE) ||
	    !fits(e->offset, MM_BLOCK_SIZE, h->data_offset, h->file_size))
		return "names no slot of the data section";
	if (before && e->offset <= before->offset)
		return "has a slot that is not above the one before it";
	return NULL;
}

static int check_extents(const struct snap_file *f, struct snapshot_error *err)
{
	const struct snap_header *h = &f->header;
	const struct snap_extent *before = NULL;
	uint64_t pages = 0;

	for (size_t i = 0; f->extents && i < h->extent_count; i++) {
		const struct snap_extent *e = &f->extents[i];
		const char *fault = extent_fault(f, e, before);

		if (fault)
			return snap_fail(err, -EBADMSG,
			                 "%s: extent %zu (offset %" PRIu64 ", guest "
			                 "address 0x%" PRIx64 ") %s",
			                 f->path, i, h->extents_offset + i * sizeof(*e), e->gpa,
			                 fault);
		pages += e->nonzero;
		before = e;
	}
	if (pages != h->data_pages)
		return FIELD(f, err, data_pages, "number of data pages");
	return 0;
}

static int read_layers(struct snap_file *f, struct snapshot_error *err)
{
	const struct snap_header *h = &f->header;
	void *table = NULL;
	int ret;

	ret = read_section(f, h->pieces_offset, h->piece_count * sizeof(struct snap_piece),
	                   h->pieces_sum, "piece table", &table, err);
	if (ret)
		return ret;
	f->pieces = table;
	table = NULL;
	ret = read_section(f, h->layers_offset, h->layers_size, h->layers_sum, "layer table",
	                   &table, err);
	f->layers = table;
	return ret;
}

static int read_metadata(struct snap_file *f, struct snapshot_error *err)
{
	const struct snap_header *h = &f->header;
	void *table = NULL;
	int ret;

	ret = read_section(f, h->state_offset, h->state_size, h->state_sum, "VM state", &f->state,
	                   err);
	if (ret)
		return ret;
	ret = read_section(f, h->extents_offset, h->extent_count * sizeof(struct snap_extent),
	                   h->extents_sum, "extent table", &table, err);
	if (ret)
		return ret;
	f->extents = table;
	return h->features_required & SNAPSHOT_LAYERED ? read_layers(f, err) : 0;
}

static int check_file(struct snap_file *f, uint32_t isa, struct snapshot_error *err)
{
	int ret;

	ret = read_size(f, err);
	if (!ret)
		ret = read_header(f, err);
	if (!ret)
		ret = check_target(f, isa, err);
	if (!ret)
		ret = check_layout(f, err);
	if (!ret && f->size < f->header.file_size)
		ret = snap_fail(err, -EBADMSG,
		                "%s is truncated: %" PRIu64 " bytes of %" PRIu64
		                ", the rest is missing from offset %" PRIu64,
		                f->path, f->size, f->header.file_size, f->size);
	if (!ret)
		ret = check_regions(f, err);
	if (!ret)
		ret = read_metadata(f, err);
	if (!ret)
		ret = check_extents(f, err);
	if (!ret && f->header.features_required & SNAPSHOT_LAYERED)
		ret = snap_check_layers(f, err);
	return ret;
}

int snap_file_open_fd(struct snap_file *f, int fd, const char *path, uint32_t isa,
                      struct snapshot_error *err)
{
	int ret;

	*f = (struct snap_file){.path = path, .fd = fd};
	ret = check_file(f, isa, err);
	if (ret) {
		f->fd = -1;
		snap_file_close(f);
	}
	return ret;
}

int snap_file_open(struct snap_file *f, const char *path, uint32_t isa, struct snapshot_error *err)
{
	int fd;
	int ret = snap_open_regular(path, &fd, err);

	if (ret)
		return ret;
	ret = snap_file_open_fd(f, fd, path, isa, err);
	if (ret)
		close(fd);
	return ret;
}

void snap_file_close(struct snap_file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	free(f->state);
	free(f->extents);
	free(f->pieces);
	free(f->layers);
	*f = (struct snap_file){.path = f->path, .fd = -1};
}
