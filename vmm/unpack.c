// SPDX-License-Identifier: MIT
/*
 * vmm/unpack.c - an image, and the files it lies in, out of a packed file.
 *
 * Each file is made under a temporary name: its front, which is then read and checked as any
 * image's, and its slots, each compared with its checksum before it is written. When all are there
 * and the stream has ended as it should, they get their names: the image last, so that it is never
 * there without what it lies in.
 *
 * Invariants:
 *   1. no file has its name before everything has been checked
 *   2. what is written of a file is what the front of the packed file says of it, and there was
 *      room for all of it on the disk
 *
 * Concurrency: none; two that unpack the same at once end with one of the two files.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "vmm/fileio.h"
#include "vmm/pack_format.h"

/* One of the files. */
struct target {
	struct atomic_file file;
	bool open;   /* `file` is */
	bool kept;   /* that image is there already, and stays */
	char *path;  /* where it goes */
	char *label; /* for messages: its name, and that of the packed file */
};

struct unpacker {
	const struct unpack_request *request;
	struct snapshot_error *err;
	struct pack_reader *reader;
	const struct pack_table *table;
	struct target *target; /* one for each entry */
	uint64_t done;         /* of the contents */
	uint8_t *block;
};

static int fail(const struct unpacker *u, int code, const char *doing)
{
	return snap_fail(u->err, code, "%s cannot be unpacked: %s: %s", u->request->name, doing,
	                 strerror(-code));
}

static int fail_target(const struct unpacker *u, const struct target *t, int code,
                       const char *doing)
{
	return snap_fail(u->err, code, "%s cannot be unpacked: %s: %s", t->label, doing,
	                 strerror(-code));
}

static int fail_entry(const struct unpacker *u, uint32_t i, const char *what)
{
	return snap_fail(u->err, -EBADMSG, "%s %s", u->target[i].label, what);
}

/* ---- where everything goes ---- */

/* Beside the image. Return: 0 or -ENOMEM. */
static int name_target(struct unpacker *u, uint32_t i)
{
	const char *path = u->request->path, *name = pack_name(path);
	const struct pack_entry *e = &u->table->entry[i];
	struct target *t = &u->target[i];
	int n;

	if (i + 1 == u->table->header.file_count)
		n = asprintf(&t->path, "%s", path);
	else
		n = asprintf(&t->path, "%.*s%s", (int)(name - path), path, e->name);
	if (n < 0)
		t->path = NULL;
	else if (asprintf(&t->label, "%s in %s", e->name, u->request->name) < 0)
		t->label = NULL;
	return t->path && t->label ? 0 : fail(u, -ENOMEM, "preparing");
}

/* A file that the image lies in: its name is free, or it is there. */
static int check_layer(struct unpacker *u, uint32_t i)
{
	const struct pack_entry *e = &u->table->entry[i];
	struct target *t = &u->target[i];
	struct snapshot_info info;

	if (strcmp(e->name, pack_name(u->request->path)) == 0)
		return snap_fail(u->err, -EEXIST,
		                 "%s cannot be unpacked as %s: a file it lies in has that name",
		                 u->request->name, u->request->path);
	if (access(t->path, F_OK))
		return 0;
	t->kept = snapshot_stat(t->path, &info, NULL) == 0 && info.hash[0] == e->hash[0] &&
	          info.hash[1] == e->hash[1];
	if (t->kept)
		return 0;
	return snap_fail(u->err, -EEXIST,
	                 "%s cannot be unpacked: %s is there already and is something else; "
	                 "unpack into another directory",
	                 t->label, t->path);
}

/* What all files need, before any of it is written. What cannot be found out is not refused. */
static int check_room(struct unpacker *u)
{
	const char *path = u->request->path;
	uint64_t need = 0, room;
	struct statvfs fs;
	char *dir;
	int ret;

	for (uint32_t i = 0; i < u->table->header.file_count; i++) {
		const struct pack_entry *e = &u->table->entry[i];

		need += e->front + (u->target[i].kept ? 0 : e->pages << MM_PAGE_SHIFT);
	}
	if (asprintf(&dir, "%.*s.", (int)(pack_name(path) - path), path) < 0)
		return fail(u, -ENOMEM, "preparing");
	ret = statvfs(dir, &fs);
	free(dir);
	if (ret)
		return 0;
	room = fs.f_bavail * fs.f_frsize;
	return need <= room ? 0
	                    : snap_fail(u->err, -ENOSPC,
	                                "%s cannot be unpacked: it takes %" PRIu64
	                                " MiB, and there are %" PRIu64 " MiB where %s goes",
	                                u->request->name, need >> 20, room >> 20, path);
}

/* An image may be replaced, a packed one is not. */
static int check_output(const struct unpacker *u)
{
	enum pack_kind kind;
	int ret = pack_kind_of(u->request->path, &kind);

	if (ret)
		return snap_fail(u->err, ret, "%s cannot be read: %s", u->request->path,
		                 strerror(-ret));
	if (kind != PACK_PACKED)
		return 0;
	return snap_fail(u->err, -EEXIST,
	                 "%s is a packed image: unpack to another name, or remove it",
	                 u->request->path);
}

static int plan(struct unpacker *u)
{
	uint32_t count = u->table->header.file_count;
	int ret = 0;

	u->block = malloc(MM_BLOCK_SIZE);
	u->target = calloc(count, sizeof(*u->target));
	if (!u->block || !u->target)
		return fail(u, -ENOMEM, "preparing");
	ret = check_output(u);
	for (uint32_t i = 0; !ret && i < count; i++)
		ret = name_target(u, i);
	for (uint32_t i = 0; !ret && i + 1 < count; i++)
		ret = check_layer(u, i);
	return ret ? ret : check_room(u);
}

/* ---- one file ---- */

static int take(struct unpacker *u, void *to, size_t size)
{
	const struct snapshot_progress *progress = &u->request->progress;
	int ret = pack_reader_take(u->reader, to, size, u->err);

	u->done += size;
	if (!ret && progress->step)
		progress->step(progress->ctx, u->done, u->table->header.stream_size);
	return ret;
}

static int put(struct unpacker *u, const struct target *t, const void *from, size_t size,
               uint64_t offset)
{
	size_t done;
	int ret = fileio_write_at(t->file.fd, from, size, offset, &done);

	return ret ? fail_target(u, t, ret, "writing") : 0;
}

static int take_front(struct unpacker *u, uint32_t i)
{
	const struct pack_entry *e = &u->table->entry[i];
	const struct target *t = &u->target[i];
	int ret = 0;

	for (uint64_t at = 0; !ret && at < e->front; at += MM_BLOCK_SIZE) {
		size_t size = min_u64(e->front - at, MM_BLOCK_SIZE);

		ret = take(u, u->block, size);
		if (!ret)
			ret = put(u, t, u->block, size, at);
	}
	while (!ret && ftruncate(t->file.fd, (off_t)e->file_size))
		ret = errno == EINTR ? 0 : fail_target(u, t, -errno, "setting its length");
	return ret;
}

/* The front, as it lies on the disk now, is an image's: the one the entry speaks of. */
static int open_front(struct unpacker *u, uint32_t i, struct snap_file *f)
{
	const struct pack_entry *e = &u->table->entry[i];
	const struct target *t = &u->target[i];
	int fd = fcntl(t->file.fd, F_DUPFD_CLOEXEC, 0);
	uint64_t hash[2];
	int ret = fd < 0 ? fail_target(u, t, -errno, "reading it again") : 0;

	if (ret)
		return ret;
	ret = snap_file_open_fd(f, fd, t->label, SNAP_ANY_ISA, u->err);
	if (ret) {
		close(fd);
		return ret;
	}
	snap_content_hash(&f->header, hash);
	if (hash[0] != e->hash[0] || hash[1] != e->hash[1])
		ret = fail_entry(u, i, "is not the image that the front names");
	else if (f->header.file_size != e->file_size || pack_front(&f->header) != e->front ||
	         f->header.extent_count != e->extents || f->header.data_pages != e->pages)
		ret = fail_entry(u, i, "is not as large as the front says");
	else
		ret = snap_check_borders(f, u->block, u->err);
	if (ret)
		snap_file_close(f);
	return ret;
}

static bool is_packed(const struct unpacker *u, const struct snap_file *f, uint32_t layer)
{
	const struct snap_layer *l = &f->layers[layer];

	for (uint32_t i = 0; i + 1 < u->table->header.file_count; i++) {
		const struct pack_entry *e = &u->table->entry[i];

		if (e->hash[0] == l->hash[0] && e->hash[1] == l->hash[1])
			return strcmp(e->name, pack_name(snap_layer_name(f, layer))) == 0;
	}
	return false;
}

/* Of the image itself: with it comes all that it lies in. */
static int check_layers(struct unpacker *u, const struct snap_file *f)
{
	uint32_t count = f->layers ? f->header.layer_count : 0;

	for (uint32_t i = 0; i < count; i++)
		if (f->layers[i].pages && !is_packed(u, f, i))
			return snap_fail(u->err, -EBADMSG,
			                 "%s lies partly in %s, which is not packed with it",
			                 f->path, snap_layer_name(f, i));
	return 0;
}

/* Pages of a slot into the block. Return: as pack_reader_take(). */
static int take_pages(struct unpacker *u, const uint8_t *map, uint32_t pages)
{
	int ret = 0;

	for (uint32_t i = 0, end; !ret && i < pages; i = end) {
		uint8_t *at = u->block + i * MM_PAGE_SIZE;
		size_t size;

		end = pack_run(map, i, pages);
		size = (end - i) * MM_PAGE_SIZE;
		if (pack_has(map, i))
			ret = take(u, at, size);
		else
			memset(at, 0, size);
	}
	return ret;
}

static int put_pages(struct unpacker *u, const struct target *t, const uint8_t *map,
                     const struct snap_extent *e)
{
	int ret = 0;

	for (uint32_t i = 0, end; !ret && i < e->pages; i = end) {
		end = pack_run(map, i, e->pages);
		if (pack_has(map, i))
			ret = put(u, t, u->block + i * MM_PAGE_SIZE, (end - i) * MM_PAGE_SIZE,
			          e->offset + i * MM_PAGE_SIZE);
	}
	return ret;
}

static int take_slot(struct unpacker *u, uint32_t i, const struct snap_file *f,
                     const struct snap_extent *e)
{
	uint8_t map[PACK_MAP_SIZE];
	uint32_t count = 0;
	int ret = take(u, map, sizeof(map));

	if (ret)
		return ret;
	/* One beyond the slot's pages is one too many. */
	for (uint32_t n = 0; n < MM_BLOCK_PAGES; n++)
		if (pack_has(map, n))
			count += n < e->pages ? 1 : MM_BLOCK_PAGES;
	if (count != e->nonzero)
		return fail_entry(u, i, "has a slot whose map miscounts its pages");
	ret = take_pages(u, map, e->pages);
	if (!ret)
		ret = snap_check_extent(f, e, u->block, u->err);
	return ret || u->target[i].kept ? ret : put_pages(u, &u->target[i], map, e);
}

static int take_file(struct unpacker *u, uint32_t i)
{
	struct target *t = &u->target[i];
	struct snap_file f;
	const char *step;
	int ret = atomic_file_open(&t->file, t->path, &u->request->hook, &step);

	if (ret)
		return fail_target(u, t, ret, step);
	t->open = true;
	t->file.add = i + 1 < u->table->header.file_count;
	ret = take_front(u, i);
	if (!ret)
		ret = open_front(u, i, &f);
	if (ret)
		return ret;
	if (!t->file.add)
		ret = check_layers(u, &f);
	for (uint64_t n = 0; !ret && n < f.header.extent_count; n++)
		ret = take_slot(u, i, &f, &f.extents[n]);
	snap_file_close(&f);
	return ret;
}

/* ---- all of them ---- */

static int commit(struct unpacker *u)
{
	int ret = 0;

	for (uint32_t i = 0; !ret && i < u->table->header.file_count; i++) {
		struct target *t = &u->target[i];
		const char *step;

		ret = t->kept ? 0 : atomic_file_commit(&t->file, &step);
		if (ret)
			fail_target(u, t, ret, step);
	}
	return ret;
}

static int unpack_files(struct unpacker *u)
{
	int ret = plan(u);

	for (uint32_t i = 0; !ret && i < u->table->header.file_count; i++)
		ret = take_file(u, i);
	if (!ret)
		ret = pack_reader_finish(u->reader, u->err);
	return ret ? ret : commit(u);
}

static void release(struct unpacker *u)
{
	for (uint32_t i = 0; u->target && i < u->table->header.file_count; i++) {
		if (u->target[i].open)
			atomic_file_close(&u->target[i].file);
		free(u->target[i].path);
		free(u->target[i].label);
	}
	free(u->target);
	free(u->block);
	pack_reader_close(u->reader);
}

int unpack_image(const struct unpack_request *r, struct pack_info *info, struct snapshot_error *err)
{
	struct unpacker u = {.request = r, .err = err};
	int ret = pack_reader_open(r->from, r->name, &u.reader, err);

	if (ret)
		return ret;
	u.table = pack_reader_table(u.reader);
	ret = unpack_files(&u);
	if (!ret && info)
		pack_describe(u.table, pack_reader_offset(u.reader), info);
	release(&u);
	return ret;
}
