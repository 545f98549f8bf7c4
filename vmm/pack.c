// SPDX-License-Identifier: MIT
/*
 * vmm/pack.c - an image, with every file it lies in, into one compressed stream.
 *
 * The files are looked at twice: for the sizes that go to the front, then for their bytes. They are
 * held open from the start, and never change.
 *
 * Invariant: what goes into the stream has passed its checksum.
 *
 * Concurrency: none here; the library compresses with a thread for each CPU, if it was built so.
 */
#include "vmm/pack.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

#include "mm/store.h"
#include "vmm/fileio.h"
#include "vmm/pack_format.h"

struct packer {
	const struct pack_request *request;
	struct snapshot_error *err;
	struct snapshot_base *base;
	size_t file[SNAPSHOT_FILES_MAX]; /* of the base, in order of entries */
	struct pack_table table;
	struct atomic_file out; /* request->path only */
	uint64_t offset;        /* bytes put so far */
	uint64_t done;          /* of the contents */
	ZSTD_CCtx *zstd;
	void *packed; /* what the library puts out */
	size_t packed_size;
	uint8_t *block;
};

static int fail(const struct packer *p, int code, const char *doing)
{
	return snap_fail(p->err, code, "%s cannot be packed: %s: %s", p->request->image, doing,
	                 strerror(-code));
}

/* ---- out ---- */

static int put(struct packer *p, const void *data, size_t size)
{
	size_t done = 0;
	int ret;

	if (size == 0)
		return 0;
	if (p->request->path)
		ret = fileio_write_at(p->out.fd, data, size, p->offset, &done);
	else
		ret = p->request->put(p->request->ctx, data, size);
	if (ret)
		return snap_fail(
			p->err, ret, "%s cannot be packed: writing at offset %" PRIu64 " of %s: %s",
			p->request->image, p->offset + done,
			p->request->path ? p->request->path : "the output", strerror(-ret));
	p->offset += size;
	return 0;
}

/* One call of the library, and what comes out of it. *left: 0 when all of `end` is done. */
static int compress(struct packer *p, ZSTD_inBuffer *in, ZSTD_EndDirective end, size_t *left)
{
	ZSTD_outBuffer out = {.dst = p->packed, .size = p->packed_size};

	*left = ZSTD_compressStream2(p->zstd, &out, in, end);
	if (ZSTD_isError(*left))
		return snap_fail(p->err, -ENOMEM, "%s cannot be packed: compressing: %s",
		                 p->request->image, ZSTD_getErrorName(*left));
	return put(p, out.dst, out.pos);
}

static int feed(struct packer *p, const void *data, size_t size)
{
	const struct snapshot_progress *progress = &p->request->progress;
	ZSTD_inBuffer in = {.src = data, .size = size};
	size_t left;
	int ret = 0;

	while (!ret && in.pos < size)
		ret = compress(p, &in, ZSTD_e_continue, &left);
	p->done += size;
	if (!ret && progress->step)
		progress->step(progress->ctx, p->done, p->table.header.stream_size);
	return ret;
}

static int feed_end(struct packer *p)
{
	ZSTD_inBuffer in = {.src = NULL};
	size_t left = 1;
	int ret = 0;

	while (!ret && left > 0)
		ret = compress(p, &in, ZSTD_e_end, &left);
	return ret;
}

/* ---- one file ---- */

static int feed_front(struct packer *p, const struct snap_file *f)
{
	uint64_t end = pack_front(&f->header);
	int ret = snap_check_borders(f, p->block, p->err);

	for (uint64_t at = 0; !ret && at < end; at += MM_BLOCK_SIZE) {
		size_t size = min_u64(end - at, MM_BLOCK_SIZE), got;

		ret = fileio_read_at(f->fd, p->block, size, at, &got);
		if (!ret && got < size)
			ret = -EIO;
		ret = ret ? fail(p, ret, "reading it again") : feed(p, p->block, size);
	}
	return ret;
}

static int feed_slot(struct packer *p, const struct snap_file *f, const struct snap_extent *e)
{
	uint8_t map[PACK_MAP_SIZE] = {0};
	int ret = snap_read_extent(f, e, p->block, p->err);

	if (ret)
		return ret;
	for (uint32_t i = 0; i < e->pages; i++)
		if (!snap_is_zero(p->block + i * MM_PAGE_SIZE, MM_PAGE_SIZE))
			map[i / 8] |= (uint8_t)(1u << i % 8);
	ret = feed(p, map, sizeof(map));
	for (uint32_t i = 0, end; !ret && i < e->pages; i = end) {
		end = pack_run(map, i, e->pages);
		if (pack_has(map, i))
			ret = feed(p, p->block + i * MM_PAGE_SIZE, (end - i) * MM_PAGE_SIZE);
	}
	return ret;
}

static int feed_file(struct packer *p, uint32_t i)
{
	struct snap_file f;
	int ret = snap_base_file_open(&f, &p->base->file[p->file[i]], p->err);

	if (ret)
		return ret;
	ret = feed_front(p, &f);
	for (uint64_t n = 0; !ret && n < f.header.extent_count; n++)
		ret = feed_slot(p, &f, &f.extents[n]);
	snap_file_close(&f);
	return ret;
}

/* ---- the front ---- */

static int add_entry(struct packer *p, size_t index, const char *name)
{
	struct pack_header *h = &p->table.header;
	struct pack_entry *e = &p->table.entry[h->file_count];
	struct snap_file f;
	int ret;

	for (uint32_t i = 0; i < h->file_count; i++)
		if (strcmp(p->table.entry[i].name, name) == 0)
			return snap_fail(p->err, -EEXIST,
			                 "%s cannot be packed: two of the files it lies in are "
			                 "called %s; flatten it first",
			                 p->request->image, name);
	if (strlen(name) >= PACK_NAME_SIZE)
		return fail(p, -ENAMETOOLONG, name);
	ret = snap_base_file_open(&f, &p->base->file[index], p->err);
	if (ret)
		return ret;
	*e = (struct pack_entry){
		.file_size = f.header.file_size,
		.front = pack_front(&f.header),
		.extents = f.header.extent_count,
		.pages = f.header.data_pages,
	};
	snap_content_hash(&f.header, e->hash);
	memcpy(e->name, name, strlen(name));
	p->file[h->file_count++] = index;
	h->stream_size += pack_entry_bytes(e);
	snap_file_close(&f);
	return e->front > PACK_FRONT_MAX ? fail(p, -E2BIG, name) : 0;
}

/* The files it lies in, as it names them; then itself. */
static int add_entries(struct packer *p, const struct snap_file *f)
{
	int ret = 0;

	for (size_t i = 1; !ret && i < p->base->count; i++)
		if (p->base->file[i].store)
			ret = add_entry(p, i, pack_name(snap_layer_name(f, (uint32_t)i - 1)));
	return ret ? ret : add_entry(p, 0, pack_name(p->request->image));
}

static int put_front(struct packer *p)
{
	struct pack_header *h = &p->table.header;

	memcpy(h->magic, PACK_MAGIC, sizeof(h->magic));
	h->version = PACK_VERSION;
	h->entry_size = sizeof(struct pack_entry);
	h->header_size = pack_table_size(&p->table);
	h->header_sum = pack_table_sum(&p->table);
	return put(p, &p->table, h->header_size);
}

/* ---- all of it ---- */

static int prepare(struct packer *p)
{
	unsigned level = p->request->level ? p->request->level : PACK_LEVEL;

	if (level > PACK_LEVEL_MOST)
		return fail(p, -EINVAL, "choosing the level");
	p->packed_size = ZSTD_CStreamOutSize();
	p->packed = malloc(p->packed_size);
	p->block = malloc(MM_BLOCK_SIZE);
	p->zstd = ZSTD_createCCtx();
	if (!p->packed || !p->block || !p->zstd)
		return fail(p, -ENOMEM, "preparing");
	ZSTD_CCtx_setParameter(p->zstd, ZSTD_c_compressionLevel, (int)level);
	ZSTD_CCtx_setParameter(p->zstd, ZSTD_c_checksumFlag, 1);
	/* Refused by a library without threads, which then works on this one. */
	(void)ZSTD_CCtx_setParameter(p->zstd, ZSTD_c_nbWorkers, (int)sysconf(_SC_NPROCESSORS_ONLN));
	ZSTD_CCtx_setPledgedSrcSize(p->zstd, p->table.header.stream_size);
	return 0;
}

static int write_packed(struct packer *p)
{
	int ret = put_front(p);

	for (uint32_t i = 0; !ret && i < p->table.header.file_count; i++)
		ret = feed_file(p, i);
	return ret ? ret : feed_end(p);
}

static int fail_output(const struct packer *p, int code, const char *doing)
{
	return snap_fail(p->err, code, "%s cannot be written: %s: %s", p->request->path, doing,
	                 strerror(-code));
}

/* A packed file may be replaced, an image is not. */
static int check_output(const struct packer *p)
{
	enum pack_kind kind;
	int ret = pack_kind_of(p->request->path, &kind);

	if (ret)
		return fail_output(p, ret, "looking at what has the name now");
	if (kind != PACK_IMAGE)
		return 0;
	return snap_fail(p->err, -EEXIST, "%s is an image: pack to another name, or remove it",
	                 p->request->path);
}

static int pack_to_file(struct packer *p)
{
	const char *step;
	int ret = check_output(p);

	if (ret)
		return ret;
	ret = atomic_file_open(&p->out, p->request->path, &p->request->hook, &step);
	if (ret)
		return fail_output(p, ret, step);
	ret = write_packed(p);
	if (!ret) {
		ret = atomic_file_commit(&p->out, &step);
		if (ret)
			fail_output(p, ret, step);
	}
	atomic_file_close(&p->out);
	return ret;
}

static int open_files(struct packer *p)
{
	struct snap_file f;
	int ret = snap_file_open(&f, p->request->image, SNAP_ANY_ISA, p->err);

	if (ret)
		return ret;
	ret = snap_base_open(&f, &p->base, p->err);
	if (!ret)
		ret = add_entries(p, &f);
	snap_file_close(&f);
	return ret;
}

int pack_image(const struct pack_request *r, struct pack_info *info, struct snapshot_error *err)
{
	struct packer *p = calloc(1, sizeof(*p));
	int ret;

	if (!p)
		return snap_fail(err, -ENOMEM, "%s cannot be packed: %s", r->image,
		                 strerror(ENOMEM));
	p->request = r;
	p->err = err;
	ret = open_files(p);
	if (!ret)
		ret = prepare(p);
	if (!ret)
		ret = r->path ? pack_to_file(p) : write_packed(p);
	if (!ret && info)
		pack_describe(&p->table, p->offset, info);
	ZSTD_freeCCtx(p->zstd);
	free(p->packed);
	free(p->block);
	snapshot_base_free(p->base);
	free(p);
	return ret;
}
