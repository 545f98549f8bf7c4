// SPDX-License-Identifier: MIT
/*
 * vmm/pack_format.h - the bytes of a packed image, version 1, and what its reader and writer share.
 * Private to vmm/pack*.c and unpack.c; the prose is in vmm/image_format.md.
 *
 *     0     header, 64 bytes             own checksum, the entries included
 *     64    an entry for each file       304 bytes; the image is the last
 *     ...   one zstd frame, to the end   for each file in turn: its front (header, state, tables),
 *                                        then for each extent a map of its slot's non-zero pages
 *                                        and those pages
 *
 * Everything is little-endian and laid out without padding.
 */
#ifndef COWSLIP_VMM_PACK_FORMAT_H
#define COWSLIP_VMM_PACK_FORMAT_H

#include "vmm/pack.h"
#include "vmm/snapshot_format.h"

#define PACK_MAGIC      "COWPACK\x1a"
#define PACK_MAGIC_SIZE 8u
#define PACK_VERSION    1u

/* Of the frame: what its reader must keep in memory. */
#define PACK_WINDOW_LOG 23

#define PACK_NAME_SIZE 256u

/* A bit for each page of a slot. */
#define PACK_MAP_SIZE (MM_BLOCK_PAGES / 8)

/* More than state and tables of any image take: what passes it is read before they are checked. */
#define PACK_FRONT_MAX (UINT64_C(1) << 30)

struct pack_header {
	char magic[PACK_MAGIC_SIZE];
	uint32_t version;
	uint32_t header_size; /* entries included */
	uint64_t header_sum;  /* XXH3-64 of header_size bytes with this field zero */
	uint32_t file_count;
	uint32_t entry_size;
	uint64_t stream_size; /* of the frame's contents */
	uint64_t reserved[3];
};

struct pack_entry {
	uint64_t hash[2];   /* snap_content_hash() of the file's header */
	uint64_t file_size; /* as in that header */
	uint64_t front;     /* bytes up to the end of its last table */
	uint64_t extents;
	uint64_t pages;            /* sum of their non-zero pages */
	char name[PACK_NAME_SIZE]; /* last part of the path; ends in zeros */
};

/* As it lies at the front of a packed file, as far as there are entries. */
struct pack_table {
	struct pack_header header;
	struct pack_entry entry[SNAPSHOT_FILES_MAX];
};

_Static_assert(sizeof(struct pack_header) == 64, "layout");
_Static_assert(sizeof(struct pack_entry) == 304, "layout");
_Static_assert(sizeof(struct pack_table) == 64 + 304 * SNAPSHOT_FILES_MAX, "layout");

/* Where the metadata of a file ends. */
static inline uint64_t pack_front(const struct snap_header *h)
{
	if (h->features_required & SNAPSHOT_LAYERED)
		return h->layers_offset + h->layers_size;
	return h->extents_offset + h->extent_count * sizeof(struct snap_extent);
}

/* Of the entry's part of the stream. */
static inline uint64_t pack_entry_bytes(const struct pack_entry *e)
{
	return e->front + e->extents * PACK_MAP_SIZE + (e->pages << MM_PAGE_SHIFT);
}

static inline uint32_t pack_table_size(const struct pack_table *t)
{
	return (uint32_t)(sizeof(t->header) + t->header.file_count * sizeof(t->entry[0]));
}

/* Is page `i` of a slot there? */
static inline bool pack_has(const uint8_t *map, uint32_t i)
{
	return map[i / 8] & 1u << i % 8;
}

/* Where the pages from `i` on that are all there, or all not, end; at most `pages`. */
static inline uint32_t pack_run(const uint8_t *map, uint32_t i, uint32_t pages)
{
	bool there = pack_has(map, i);

	while (i < pages && pack_has(map, i) == there)
		i++;
	return i;
}

/* The last part of a path. */
static inline const char *pack_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* What a packed file of `packed_bytes` with this table holds. */
void pack_describe(const struct pack_table *t, uint64_t packed_bytes, struct pack_info *out);

/* The checksum of a table, whatever its header_sum says. Its size is valid. */
uint64_t pack_table_sum(const struct pack_table *t);

/* What a path holds now. */
enum pack_kind {
	PACK_OTHER, /* also nothing, or what is no regular file */
	PACK_IMAGE,
	PACK_PACKED,
};

/* Return: 0; -errno when it is there and cannot be read. */
int pack_kind_of(const char *path, enum pack_kind *out);

/* ---- pack_read.c: a packed file as a stream ---- */

struct pack_reader;

/*
 * Read and check the front; the table is valid until the reader is closed. `name` is borrowed.
 * Return: 0; as unpack_image().
 */
int pack_reader_open(int fd, const char *name, struct pack_reader **out,
                     struct snapshot_error *err);
const struct pack_table *pack_reader_table(const struct pack_reader *r);

/* The next `size` bytes of the contents. Return: 0; -EBADMSG when there are fewer; -errno. */
int pack_reader_take(struct pack_reader *r, void *to, size_t size, struct snapshot_error *err);

/* Everything has been taken, and nothing follows. Return: 0; -EBADMSG; -errno. */
int pack_reader_finish(struct pack_reader *r, struct snapshot_error *err);

/* Bytes of the packed file that have been read. */
uint64_t pack_reader_offset(const struct pack_reader *r);

/* NULL is ignored. The descriptor stays the caller's. */
void pack_reader_close(struct pack_reader *r);

#endif
