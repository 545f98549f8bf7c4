// SPDX-License-Identifier: MIT
/*
 * vmm/snapshot.c - looking at snapshot files: open as an image, describe; and the helpers that
 * reader and writer share.
 *
 * Invariants:
 *   1. snapshot_open() reads no guest memory; the image's extents name the files' frames
 *   2. a file descriptor has one owner: snap_file until the store takes it, then the store
 *
 * Concurrency: no state; each call belongs to one thread.
 */
#include "vmm/snapshot.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "mm/store.h"
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

static void describe_layers(const struct snap_file *f, struct snapshot_info *info)
{
	info->layered = true;
	info->layers = f->header.layer_count;
	info->pieces = f->header.piece_count;
	for (uint32_t i = 0; f->layers && i < f->header.layer_count; i++) {
		const struct snap_layer *l = &f->layers[i];

		info->layer_bytes += l->pages << MM_PAGE_SHIFT;
		if (!(l->flags & SNAP_LAYER_PARENT))
			continue;
		snprintf(info->parent, sizeof(info->parent), "%s", snap_layer_name(f, i));
		memcpy(info->parent_hash, l->hash, sizeof(l->hash));
	}
}

void snap_describe(const struct snap_file *f, struct snapshot_info *info)
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
	snap_content_hash(h, info->hash);
	if (h->features_required & SNAPSHOT_LAYERED)
		describe_layers(f, info);
}

static struct extent slot_extent(const struct snap_extent *e, struct store *store)
{
	return (struct extent){
		.gpa = {e->gpa},
		.pages = e->pages,
		.frame = {(uint32_t)(e->offset >> MM_PAGE_SHIFT)},
		.store = store,
	};
}

static struct extent piece_extent(const struct snap_piece *p, const struct snapshot_base *base)
{
	return (struct extent){
		.gpa = {p->gpa},
		.pages = p->pages,
		.frame = {(uint32_t)(p->offset >> MM_PAGE_SHIFT)},
		.store = base->file[p->layer].store,
	};
}

/* The table's entries as extents. Return: 0 and an array to free; -ENOMEM. */
static int make_extents(const struct snap_file *f, const struct snapshot_base *base,
                        struct extent **out, size_t *count)
{
	bool layered = f->header.features_required & SNAPSHOT_LAYERED;
	struct extent *e;

	*count = layered ? f->header.piece_count : f->header.extent_count;
	e = calloc(*count ? *count : 1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	for (size_t i = 0; i < *count; i++)
		e[i] = layered ? piece_extent(&f->pieces[i], base)
		               : slot_extent(&f->extents[i], base->file[0].store);
	*out = e;
	return 0;
}

static int make_image(const struct snap_file *f, const struct snapshot_base *base,
                      struct image **out, struct snapshot_error *err)
{
	struct image_parts parts = {
		.ram = f->ram,
		.ram_count = f->header.region_count,
		.state = f->state,
		.state_size = f->header.state_size,
	};
	struct extent *extents;
	int ret;

	ret = make_extents(f, base, &extents, &parts.extent_count);
	if (!ret) {
		parts.extents = extents;
		ret = image_create(&parts, out);
		free(extents);
	}
	if (ret)
		snap_fail(err, ret, "%s cannot be made an image: %s", f->path, strerror(-ret));
	return ret;
}

int snapshot_open_base(const char *path, uint32_t isa, struct image **out,
                       struct snapshot_base **base, struct snapshot_info *info,
                       struct snapshot_error *err)
{
	struct snapshot_base *b;
	struct snap_file f;
	int ret;

	ret = snap_file_open(&f, path, isa, err);
	if (ret)
		return ret;
	ret = snap_base_open(&f, &b, err);
	if (ret)
		goto out_close;
	ret = make_image(&f, b, out, err);
	if (!ret && info)
		snap_describe(&f, info);
	if (!ret && base)
		*base = b;
	else
		snapshot_base_free(b);
out_close:
	snap_file_close(&f);
	return ret;
}

int snapshot_open(const char *path, uint32_t isa, struct image **out, struct snapshot_info *info,
                  struct snapshot_error *err)
{
	return snapshot_open_base(path, isa, out, NULL, info, err);
}

int snapshot_stat(const char *path, struct snapshot_info *info, struct snapshot_error *err)
{
	struct snap_file f;
	int ret;

	ret = snap_file_open(&f, path, SNAP_ANY_ISA, err);
	if (ret)
		return ret;
	snap_describe(&f, info);
	snap_file_close(&f);
	return 0;
}
