// SPDX-License-Identifier: MIT
/*
 * vmm/snapshot_write.c - an image into a snapshot file: the file, its metadata, its layers.
 *
 * One pass over the memory (snapshot_block.c). Metadata goes last, when the tables are known; the
 * space for it at the front is reserved from upper bounds.
 *
 * Invariants:
 *   1. the name asked for is touched by one rename(2), after everything has reached the disk
 *   2. an image does not build upon the file it replaces
 *
 * Concurrency: the image is immutable; any number of saves may run at once, also to one name (the
 * last rename wins).
 *
 * Not done here: compression (vmm/pack.c).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "mm/store.h"
#include "vmm/fileio.h"
#include "vmm/snapshot_writer.h"
#include "vmm/version.h"

int writer_fail(struct writer *w, int code, const char *doing)
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

int writer_put(struct writer *w, const void *from, size_t size, uint64_t offset)
{
	size_t done;
	int ret = fileio_write_at(w->out.fd, from, size, offset, &done);

	return ret ? fail_write(w, ret, offset + done) : 0;
}

/* ---- layers ---- */

/* It is still where its path says, and is not what the new file replaces. */
static bool is_usable(const struct writer *w, const struct snap_base_file *file)
{
	struct stat named, open;

	if (!file->store || atomic_file_replaces(&w->out, file->store->fd))
		return false;
	return stat(file->path, &named) == 0 && fstat(file->store->fd, &open) == 0 &&
	       named.st_dev == open.st_dev && named.st_ino == open.st_ino;
}

/* A layer of the base's file `i`. Beside the new file only the last part of its path is noted. */
static void add_layer(struct writer *w, size_t i)
{
	const struct snap_base_file *file = &w->request->base->file[i];
	struct snap_layer *l = (struct snap_layer *)w->layers + w->header.layer_count++;
	const char *name = file->path;
	size_t size;

	if (atomic_file_is_beside(&w->out, name) && strrchr(name, '/'))
		name = strrchr(name, '/') + 1;
	size = strlen(name);
	*l = (struct snap_layer){
		.hash = {file->hash[0], file->hash[1]},
		.data_offset = file->data_offset,
		.file_size = file->file_size,
		.name_offset = (uint32_t)w->names,
		.name_size = (uint32_t)size,
		.flags = i == 0 ? SNAP_LAYER_PARENT : 0,
	};
	memcpy(w->layers + w->names, name, size + 1);
	w->names += size + 1;
	w->layer[i] = w->header.layer_count;
}

uint32_t writer_layer(struct writer *w, const struct store *s)
{
	const struct snapshot_base *base = w->request->base;
	size_t i = 0;

	if (!w->pieces)
		return OWN_LAYER;
	while (i < base->count && base->file[i].store != s)
		i++;
	if (i == base->count || !w->usable[i])
		return OWN_LAYER;
	if (w->layer[i] == OWN_LAYER && w->header.layer_count < SNAPSHOT_LAYERS_MAX)
		add_layer(w, i);
	return w->layer[i];
}

/* Room for what the base's files may need. Return: 0; -ENOMEM with *err set. */
static int plan_layers(struct writer *w)
{
	const struct snapshot_base *base = w->request->base;
	struct snap_header *h = &w->header;
	bool any = false;

	for (size_t i = 0; base && i < base->count; i++) {
		w->usable[i] = is_usable(w, &base->file[i]);
		any |= w->usable[i];
	}
	if (!any)
		return 0;
	image_extents(w->image, &w->piece_cap);
	w->names = base->count * sizeof(struct snap_layer);
	h->layers_size = w->names;
	for (size_t i = 0; i < base->count; i++)
		h->layers_size += strlen(base->file[i].path) + 1;
	w->pieces = calloc(w->piece_cap + 1, sizeof(*w->pieces));
	w->layers = calloc(1, h->layers_size);
	if (!w->pieces || !w->layers)
		return writer_fail(w, -ENOMEM, "preparing");
	h->features_required |= SNAPSHOT_LAYERED;
	h->piece_size = sizeof(struct snap_piece);
	/* The parent is named whether or not anything of it is left. */
	if (w->usable[0])
		add_layer(w, 0);
	return 0;
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
		return writer_fail(w, ret, "drawing random numbers");
	clock_gettime(CLOCK_REALTIME, &now);
	h->created = (uint64_t)now.tv_sec;
	snprintf(h->build, sizeof(h->build), "%s", COWSLIP_BUILD);
	return 0;
}

/* Where the tables will be: the extents', then the pieces', then the layers'. */
static int plan_sections(struct writer *w)
{
	struct snap_header *h = &w->header;
	uint64_t end;

	h->extents_offset = align_up(h->state_offset + h->state_size, 8);
	end = h->extents_offset + w->cap * sizeof(struct snap_extent);
	if (w->pieces) {
		h->pieces_offset = end;
		h->layers_offset = end + w->piece_cap * sizeof(struct snap_piece);
		end = h->layers_offset + h->layers_size;
	}
	h->data_offset = align_up(end, MM_BLOCK_SIZE);
	if (w->cap > (SNAPSHOT_FILE_MAX - h->data_offset) >> MM_BLOCK_SHIFT ||
	    w->piece_cap > SNAPSHOT_PIECES_MAX)
		return writer_fail(w, -E2BIG, "more than the format holds");
	return 0;
}

/* Everything known before the data. The table has at most one entry for each block touched. */
static int plan(struct writer *w)
{
	struct snap_header *h = &w->header;
	uint64_t blocks = count_blocks(w->image);
	size_t state_size;
	int ret;

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
		return writer_fail(w, -E2BIG, "more than the format holds");
	w->cap = blocks;
	ret = plan_layers(w);
	if (!ret)
		ret = plan_sections(w);
	return ret ? ret : put_identity(w);
}

static int write_layers(struct writer *w)
{
	struct snap_header *h = &w->header;
	size_t pieces_size = h->piece_count * sizeof(struct snap_piece);
	int ret;

	h->layers_size = w->names;
	h->pieces_sum = XXH3_64bits(w->pieces, pieces_size);
	h->layers_sum = XXH3_64bits(w->layers, h->layers_size);
	ret = writer_put(w, w->pieces, pieces_size, h->pieces_offset);
	return ret ? ret : writer_put(w, w->layers, h->layers_size, h->layers_offset);
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
	ret = writer_put(w, state, state_size, h->state_offset);
	if (!ret)
		ret = writer_put(w, w->table, table_size, h->extents_offset);
	if (!ret && w->pieces)
		ret = write_layers(w);
	h->header_sum = snap_header_sum(h);
	if (!ret)
		ret = writer_put(w, h, sizeof(*h), 0);
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
		return writer_fail(w, -ENOMEM, "preparing");
	return 0;
}

static void release(struct writer *w)
{
	free(w->buffer);
	free(w->table);
	free(w->pieces);
	free(w->layers);
}

static int write_file(struct writer *w)
{
	const char *step;
	int ret;

	ret = plan(w);
	if (!ret)
		ret = allocate(w);
	if (!ret)
		ret = writer_put_memory(w);
	if (!ret)
		ret = write_metadata(w);
	if (ret)
		return ret;
	ret = atomic_file_commit(&w->out, &step);
	return ret ? writer_fail(w, ret, step) : 0;
}

int snapshot_write(const struct snapshot_request *r, struct snapshot_error *err)
{
	struct writer *w = calloc(1, sizeof(*w));
	const char *step = "preparing";
	int ret;

	if (!w)
		return snap_fail(err, -ENOMEM, "%s cannot be saved: %s: %s", r->path, step,
		                 strerror(ENOMEM));
	*w = (struct writer){.request = r, .image = r->image, .err = err, .path = r->path};
	ret = atomic_file_open(&w->out, r->path, &r->hook, &step);
	if (ret) {
		writer_fail(w, ret, step);
	} else {
		ret = write_file(w);
		atomic_file_close(&w->out);
	}
	release(w);
	free(w);
	return ret;
}

int snapshot_save(const struct image *image, uint32_t isa, uint32_t cpus, const char *path,
                  struct snapshot_error *err)
{
	const struct snapshot_request r = {.image = image, .isa = isa, .cpus = cpus, .path = path};

	return snapshot_write(&r, err);
}
