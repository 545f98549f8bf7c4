// SPDX-License-Identifier: MIT
/*
 * vmm/snapshot_layers.c - images whose memory lies in several files.
 *
 *     child.cow                         base.cow
 *     pieces   gpa 0      -> layer 1 ----> data     found beside child.cow, else where it was
 *              gpa 2 MiB  -> own slot               when child.cow was written
 *              gpa 4 MiB  -> layer 1 ---->
 *     layers   1: base.cow, its hash
 *
 * The piece table is flat: it names each file directly, so a line of any length opens as fast as
 * its first image, and a file in the middle that nothing lies in any more may be missing.
 *
 * Invariants:
 *   1. a layer is known by the hash of its header, never by its name: another image in its place is
 *      refused
 *   2. pieces lie inside the data section that the layer's header (so its hash) says
 *
 * Concurrency: no state.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "mm/store.h"
#include "vmm/fileio.h"
#include "vmm/hostlimit.h"
#include "vmm/snapshot_format.h"

void snap_content_hash(const struct snap_header *h, uint64_t hash[2])
{
	XXH128_hash_t sum = XXH3_128bits(h, sizeof(*h));

	hash[0] = sum.low64;
	hash[1] = sum.high64;
}

const char *snap_layer_name(const struct snap_file *f, uint32_t i)
{
	return (const char *)f->layers + f->layers[i].name_offset;
}

/* ---- checking the tables ---- */

/* What is wrong with a layer, or NULL. */
static const char *layer_fault(const struct snap_file *f, uint32_t i)
{
	const struct snap_layer *l = &f->layers[i];
	uint64_t size = f->header.layers_size;
	uint64_t names = f->header.layer_count * sizeof(*l);

	if (l->name_offset < names || l->name_offset >= size ||
	    l->name_size >= size - l->name_offset || l->name_size == 0)
		return "has no name";
	if (strnlen(snap_layer_name(f, i), l->name_size + 1) != l->name_size)
		return "has a name with no end";
	if (!is_aligned(l->data_offset, MM_BLOCK_SIZE) || l->data_offset > l->file_size ||
	    l->file_size > SNAPSHOT_FILE_MAX)
		return "has no place for data";
	if (l->flags & ~SNAP_LAYER_PARENT)
		return "has unknown flags";
	return NULL;
}

static int check_layer_table(const struct snap_file *f, struct snapshot_error *err)
{
	uint32_t parents = 0;

	for (uint32_t i = 0; i < f->header.layer_count; i++) {
		const char *fault = layer_fault(f, i);

		parents += f->layers[i].flags & SNAP_LAYER_PARENT;
		if (!fault && parents > 1)
			fault = "is a second parent";
		if (fault)
			return snap_fail(
				err, -EBADMSG, "%s: layer %" PRIu32 " (offset %" PRIu64 ") %s",
				f->path, i + 1,
				f->header.layers_offset + i * sizeof(struct snap_layer), fault);
	}
	return 0;
}

/* The slot that an own piece must lie in; *next moves on with ascending pieces. */
static const struct snap_extent *find_slot(const struct snap_file *f, uint64_t gpa, size_t *next)
{
	uint64_t block = align_down(gpa, MM_BLOCK_SIZE);

	while (*next < f->header.extent_count && f->extents[*next].gpa < block)
		++*next;
	if (*next == f->header.extent_count || f->extents[*next].gpa != block)
		return NULL;
	return &f->extents[*next];
}

/* [offset, offset + size) inside [from, to). */
static bool inside(uint64_t offset, uint64_t size, uint64_t from, uint64_t to)
{
	return offset >= from && offset <= to && size <= to - offset;
}

static bool in_ram(const struct snap_file *f, uint64_t gpa, uint64_t size)
{
	for (uint32_t i = 0; i < f->header.region_count; i++) {
		const struct gpa_range r = f->ram[i].range;

		if (gpa_range_has(r, (gpa_t){gpa}))
			return size <= gpa_range_end(r) - gpa;
	}
	return false;
}

/* What is wrong with a piece, or NULL. */
static const char *piece_fault(const struct snap_file *f, const struct snap_piece *p,
                               uint64_t after, size_t *slot)
{
	uint64_t size = (uint64_t)p->pages << MM_PAGE_SHIFT;
	uint64_t in_block = p->gpa & (MM_BLOCK_SIZE - 1);
	const struct snap_extent *e;

	if (!is_aligned(p->gpa, MM_PAGE_SIZE) || !is_aligned(p->offset, MM_PAGE_SIZE))
		return "does not start a page";
	if (p->pages == 0 || size > MM_BLOCK_SIZE - in_block)
		return "does not lie inside a block";
	if (p->gpa < after)
		return "is not above the one before it";
	if (!in_ram(f, p->gpa, size))
		return "lies outside RAM";
	if (p->layer > f->header.layer_count)
		return "names no layer";
	if (p->layer > 0)
		return inside(p->offset, size, f->layers[p->layer - 1].data_offset,
		              f->layers[p->layer - 1].file_size)
		               ? NULL
		               : "lies outside its layer";
	e = find_slot(f, p->gpa, slot);
	return e && p->offset == e->offset + in_block ? NULL : "does not lie in its block's slot";
}

/* Each layer counts the pages that lie in it: a file that is not needed must not be asked for. */
static int check_counts(const struct snap_file *f, const uint64_t *pages,
                        struct snapshot_error *err)
{
	for (uint32_t i = 0; i < f->header.layer_count; i++)
		if (f->layers[i].pages != pages[i])
			return snap_fail(err, -EBADMSG,
			                 "%s: layer %" PRIu32 " (offset %" PRIu64
			                 ") miscounts its pages",
			                 f->path, i + 1,
			                 f->header.layers_offset + i * sizeof(struct snap_layer));
	return 0;
}

int snap_check_layers(const struct snap_file *f, struct snapshot_error *err)
{
	uint64_t pages[SNAPSHOT_LAYERS_MAX] = {0};
	uint64_t after = 0;
	size_t slot = 0;
	int ret = check_layer_table(f, err);

	for (size_t i = 0; !ret && i < f->header.piece_count; i++) {
		const struct snap_piece *p = &f->pieces[i];
		const char *fault = piece_fault(f, p, after, &slot);

		if (fault)
			return snap_fail(err, -EBADMSG,
			                 "%s: piece %zu (offset %" PRIu64
			                 ", guest address 0x%" PRIx64 ") %s",
			                 f->path, i, f->header.pieces_offset + i * sizeof(*p),
			                 p->gpa, fault);
		after = p->gpa + ((uint64_t)p->pages << MM_PAGE_SHIFT);
		if (p->layer)
			pages[p->layer - 1] += p->pages;
	}
	return ret ? ret : check_counts(f, pages, err);
}

/* ---- finding the files ---- */

/* The directory of `path`, links resolved where that can be, with a slash; "" for the present. */
static void directory_of(const char *path, char out[PATH_MAX])
{
	char *real = realpath(path, NULL);
	const char *from = real ? real : path;
	const char *slash = strrchr(from, '/');

	snprintf(out, PATH_MAX, "%.*s", slash ? (int)(slash - from + 1) : 0, from);
	free(real);
}

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* The file at `path` if it is the one whose hash is known. Return: 0; -ENOENT; -EBADMSG; -errno. */
static int open_known(const char *path, const struct snap_layer *want, int *fd)
{
	struct snap_header h;
	struct stat st;
	uint64_t hash[2];
	size_t got;
	int ret = snap_open_regular(path, fd, NULL);

	if (ret)
		return ret;
	ret = fileio_read_at(*fd, &h, sizeof(h), 0, &got);
	if (!ret && fstat(*fd, &st))
		ret = -errno;
	if (ret)
		goto err_close;
	ret = -EBADMSG;
	if (got < sizeof(h))
		goto err_close;
	snap_content_hash(&h, hash);
	if (hash[0] == want->hash[0] && hash[1] == want->hash[1] &&
	    h.data_offset == want->data_offset && h.file_size == want->file_size &&
	    (uint64_t)st.st_size >= want->file_size)
		return 0;
err_close:
	close(*fd);
	return ret;
}

static int fail_layer(const struct snap_file *f, uint32_t i, int code, const char *where,
                      struct snapshot_error *err)
{
	const char *name = snap_layer_name(f, i);
	char why[HOSTLIMIT_TEXT_MAX];

	if (code == -ENOENT)
		return snap_fail(err, code,
		                 "%s lies partly in %s, which is missing: put it beside it, or "
		                 "back to where it was",
		                 f->path, name);
	if (code == -EBADMSG)
		return snap_fail(err, code,
		                 "%s lies partly in %s, but %s is not that image any more (content "
		                 "%016" PRIx64 "%016" PRIx64 " is wanted): put that back",
		                 f->path, name, where, f->layers[i].hash[1], f->layers[i].hash[0]);
	return snap_fail(err, code, "%s lies partly in %s, but %s cannot be opened: %s", f->path,
	                 name, where, hostlimit_why(code, 0, why));
}

/* Beside `f` first, so that a directory of images can be moved; then where it was. */
static int open_layer(const struct snap_file *f, uint32_t i, const char *dir, int *fd,
                      char path[PATH_MAX], struct snapshot_error *err)
{
	const char *name = snap_layer_name(f, i);
	char beside[PATH_MAX];
	int first, second = -ENOENT;

	if (snprintf(beside, sizeof(beside), "%s%s", dir, last_part(name)) >= (int)sizeof(beside))
		return fail_layer(f, i, -ENAMETOOLONG, name, err);
	first = open_known(beside, &f->layers[i], fd);
	if (first && name[0] == '/')
		second = open_known(name, &f->layers[i], fd);
	if (first && second)
		return first == -ENOENT ? fail_layer(f, i, second, name, err)
		                        : fail_layer(f, i, first, beside, err);
	snprintf(path, PATH_MAX, "%s", first ? name : beside);
	return 0;
}

/* Takes over `fd` on success. */
static int add_file(struct snapshot_base *b, int fd, const char *path, uint64_t file_size)
{
	struct snap_base_file *to = &b->file[b->count];
	int ret;

	to->path = realpath(path, NULL);
	if (!to->path)
		to->path = strdup(path);
	if (!to->path)
		return -ENOMEM;
	b->count++;
	if (fd < 0)
		return 0;
	ret = store_open_file(fd, file_size, &to->store);
	return ret;
}

static int add_layer(struct snapshot_base *b, const struct snap_file *f, uint32_t i,
                     const char *dir, struct snapshot_error *err)
{
	const struct snap_layer *l = &f->layers[i];
	struct snap_base_file *to = &b->file[b->count];
	char path[PATH_MAX];
	int fd = -1;
	int ret;

	to->hash[0] = l->hash[0];
	to->hash[1] = l->hash[1];
	to->data_offset = l->data_offset;
	to->file_size = l->file_size;
	to->flags = l->flags;
	if (l->pages) {
		ret = open_layer(f, i, dir, &fd, path, err);
		if (ret)
			return ret;
	} else {
		snprintf(path, sizeof(path), "%s%s", snap_layer_name(f, i)[0] == '/' ? "" : dir,
		         snap_layer_name(f, i));
	}
	ret = add_file(b, fd, path, l->file_size);
	if (ret && fd >= 0)
		close(fd);
	if (ret)
		snap_fail(err, ret, "%s cannot be made an image: %s", f->path, strerror(-ret));
	return ret;
}

/* Last, because it takes the descriptor over. */
static int add_self(struct snapshot_base *b, struct snap_file *f, struct snapshot_error *err)
{
	struct snap_base_file *self = &b->file[0];
	int ret = store_open_file(f->fd, f->header.file_size, &self->store);

	if (ret)
		return snap_fail(err, ret, "%s cannot be made an image: %s", f->path,
		                 strerror(-ret));
	f->fd = -1;
	return 0;
}

int snap_base_open(struct snap_file *f, struct snapshot_base **out, struct snapshot_error *err)
{
	const struct snap_header *h = &f->header;
	uint32_t layers = f->layers ? h->layer_count : 0;
	char dir[PATH_MAX];
	struct snapshot_base *b;
	int ret;

	b = calloc(1, sizeof(*b) + (layers + 1) * sizeof(b->file[0]));
	ret = b ? add_file(b, -1, f->path, 0) : -ENOMEM;
	if (ret) {
		free(b);
		return snap_fail(err, ret, "%s cannot be made an image: %s", f->path,
		                 strerror(-ret));
	}
	snap_content_hash(h, b->file[0].hash);
	b->file[0].data_offset = h->data_offset;
	b->file[0].file_size = h->file_size;
	directory_of(f->path, dir);
	for (uint32_t i = 0; !ret && i < layers; i++)
		ret = add_layer(b, f, i, dir, err);
	if (!ret)
		ret = add_self(b, f, err);
	if (ret) {
		snapshot_base_free(b);
		return ret;
	}
	*out = b;
	return 0;
}

int snap_base_file_open(struct snap_file *f, const struct snap_base_file *file,
                        struct snapshot_error *err)
{
	int fd = fcntl(file->store->fd, F_DUPFD_CLOEXEC, 0);
	int ret = fd < 0 ? -errno : 0;

	if (ret)
		return snap_fail(err, ret, "%s cannot be read: %s", file->path, strerror(-ret));
	ret = snap_file_open_fd(f, fd, file->path, SNAP_ANY_ISA, err);
	if (ret)
		close(fd);
	return ret;
}

void snapshot_base_free(struct snapshot_base *base)
{
	if (!base)
		return;
	for (size_t i = 0; i < base->count; i++) {
		store_put(base->file[i].store);
		free(base->file[i].path);
	}
	free(base);
}
