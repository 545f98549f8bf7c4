// SPDX-License-Identifier: MIT
/*
 * vmm/snapshot_format.h - the bytes of a snapshot file, version 1, and what its reader and writer
 * share. Private to vmm/snapshot*.c; the prose is vmm/image_format.md.
 *
 *     0        header, one page            own checksum; names all that follows
 *     4096     state                       checksum in the header
 *     ...      extent table, 8-aligned     checksum in the header
 *     ...      layered images only: piece table, layer table, both 8-aligned, same
 *     ...      (hole)
 *     2 MiB*k  data: slots of 2 MiB        one checksum for each extent, in the table
 *
 * Everything is little-endian and laid out without padding, so that on the hosts there
 * are (all little-endian) the structs are the bytes.
 */
#ifndef COWSLIP_VMM_SNAPSHOT_FORMAT_H
#define COWSLIP_VMM_SNAPSHOT_FORMAT_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "mm/image.h"
#include "mm/types.h"
#include "vmm/snapshot.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the structs are the file's bytes");

#define SNAPSHOT_MAGIC       "COWSLIP\x1a"
#define SNAPSHOT_MAGIC_SIZE  8u
#define SNAPSHOT_VERSION     1u
#define SNAPSHOT_HEADER_SIZE 4096u

/* Bits of features_required this reader knows. */
#define SNAPSHOT_LAYERED  UINT64_C(1) /* the memory lies in several files: pieces and layers */
#define SNAPSHOT_FEATURES SNAPSHOT_LAYERED

/* Far above any VM's: keeps a crafted header from asking for all of the host's memory. */
#define SNAPSHOT_STATE_MAX (UINT64_C(256) << 20)

/* The same for a layered image's tables: files that one may lie in, names' bytes, pieces. */
#define SNAPSHOT_LAYERS_MAX      256u
#define SNAPSHOT_FILES_MAX       (SNAPSHOT_LAYERS_MAX + 1) /* itself and its layers */
#define SNAPSHOT_LAYERS_SIZE_MAX (UINT64_C(1) << 21)
#define SNAPSHOT_PIECES_MAX      (UINT64_C(1) << 24)

/* A frame number of a file store has 32 bits, and the last value means none. */
#define SNAPSHOT_FILE_MAX ((uint64_t)UINT32_MAX << MM_PAGE_SHIFT)

struct snap_region {
	uint64_t start;      /* guest-physical, 2 MiB aligned */
	uint64_t size;       /* bytes */
	uint32_t page_shift; /* 0: left to the policy; 12, 21, 30 */
	uint32_t reserved;   /* 0 */
};

struct snap_header {
	char magic[SNAPSHOT_MAGIC_SIZE];
	uint32_t version;
	uint32_t header_size;
	uint64_t header_sum; /* XXH3-64 of the header page with this field zero */
	uint32_t isa;
	uint32_t cpus;
	uint32_t page_size;
	uint32_t block_size;
	uint64_t features_required; /* a reader that does not know a bit must refuse */
	uint64_t features_optional; /* ... may go on */
	uint64_t created;
	uint64_t id[2];
	uint64_t generation;
	uint64_t ram_bytes;
	uint64_t state_offset;
	uint64_t state_size;
	uint64_t state_sum;
	uint64_t extents_offset;
	uint64_t extent_count;
	uint64_t extents_sum;
	uint64_t data_offset;
	uint64_t data_size;
	uint64_t data_pages; /* non-zero ones */
	uint64_t file_size;
	uint32_t extent_size; /* bytes of one table entry */
	uint32_t region_count;
	uint64_t reserved0;
	char build[64];
	struct snap_region regions[IMAGE_MAX_REGIONS];
	uint64_t pieces_offset; /* from here on 0 unless LAYERED */
	uint64_t piece_count;
	uint64_t pieces_sum;
	uint64_t layers_offset;
	uint64_t layers_size; /* bytes: entries, then names */
	uint64_t layers_sum;
	uint32_t layer_count;
	uint32_t piece_size;
	uint8_t reserved1[SNAPSHOT_HEADER_SIZE - 0x2b8];
};

struct snap_extent {
	uint64_t gpa;     /* start of a 2 MiB block of the guest */
	uint64_t offset;  /* of its slot in the file, 2 MiB aligned */
	uint32_t pages;   /* 512, fewer where the RAM region ends inside the block */
	uint32_t nonzero; /* of those, how many are not all zero: 1..pages */
	uint64_t sum;     /* XXH3-64 of the pages' bytes, holes as zeros */
};

/* A run of guest pages and where it lies. Inside one 2 MiB block. */
struct snap_piece {
	uint64_t gpa;
	uint64_t offset; /* in its file; in this one: its place in the block's slot */
	uint32_t pages;
	uint32_t layer; /* 0: this file; n: entry n - 1 of the layer table */
};

#define SNAP_LAYER_PARENT 1u /* the image this one's VM was cloned from; at most one */

/* Another file that pieces name. */
struct snap_layer {
	uint64_t hash[2]; /* of its header: snap_content_hash() */
	uint64_t data_offset, file_size;
	uint64_t pages;       /* of pieces that name it; 0: not needed, named for the record */
	uint32_t name_offset; /* in the section; ends in a zero byte that is not counted */
	uint32_t name_size;
	uint32_t flags;
	uint32_t reserved0;
	uint64_t reserved1;
};

_Static_assert(sizeof(struct snap_piece) == 24, "layout");
_Static_assert(sizeof(struct snap_layer) == 64, "layout");
_Static_assert(sizeof(struct snap_region) == 24, "layout");
_Static_assert(sizeof(struct snap_extent) == 32, "layout");
_Static_assert(sizeof(struct snap_header) == SNAPSHOT_HEADER_SIZE, "layout");
_Static_assert(offsetof(struct snap_header, header_sum) == 0x10, "layout");
_Static_assert(offsetof(struct snap_header, features_required) == 0x28, "layout");
_Static_assert(offsetof(struct snap_header, state_offset) == 0x60, "layout");
_Static_assert(offsetof(struct snap_header, file_size) == 0xa8, "layout");
_Static_assert(offsetof(struct snap_header, build) == 0xc0, "layout");
_Static_assert(offsetof(struct snap_header, regions) == 0x100, "layout");
_Static_assert(offsetof(struct snap_header, pieces_offset) == 0x280, "layout");
_Static_assert(offsetof(struct snap_header, reserved1) == 0x2b8, "layout");

/* A file whose metadata has been read and found good. Nothing of its data has been. */
struct snap_file {
	const char *path; /* borrowed, for messages */
	int fd;
	uint64_t size; /* of the file, at least header.file_size */
	uint64_t disk_bytes;
	struct snap_header header;
	struct ram_region ram[IMAGE_MAX_REGIONS];
	void *state;                 /* header.state_size bytes, or NULL */
	struct snap_extent *extents; /* header.extent_count, or NULL */
	struct snap_piece *pieces;   /* header.piece_count, or NULL */
	struct snap_layer *layers;   /* header.layer_count, or NULL; names follow */
};

static inline bool snap_is_zero(const void *p, size_t size)
{
	const uint8_t *bytes = p;

	return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

/* Any ISA will do. */
#define SNAP_ANY_ISA 0u

/* ---- snapshot_read.c ---- */

/*
 * Open and check everything but the data and other files.
 * Return: as snapshot_open(); on failure nothing is kept. snap_file_close() ends it.
 */
int snap_file_open(struct snap_file *f, const char *path, uint32_t isa, struct snapshot_error *err);

/* The same of an open descriptor, which stays the caller's on failure; `path` is for messages. */
int snap_file_open_fd(struct snap_file *f, int fd, const char *path, uint32_t isa,
                      struct snapshot_error *err);

/* An fd of -1 has been taken over by someone else. */
void snap_file_close(struct snap_file *f);

/* Open a regular file for reading, never waiting. Return: 0; -EBADMSG for another kind; -errno. */
int snap_open_regular(const char *path, int *fd, struct snapshot_error *err);

/* ---- snapshot_layers.c ---- */

/* One file of an image. */
struct snap_base_file {
	struct store *store; /* one reference; NULL: not needed, so not opened */
	uint64_t hash[2];
	uint64_t data_offset, file_size;
	char *path; /* absolute, if that could be found out */
	uint32_t flags;
};

/* The files that an image lies in. The first is the one opened; then its layers in their order. */
struct snapshot_base {
	size_t count;
	struct snap_base_file file[];
};

/* Check layers and pieces against each other and the rest. Return: 0; -EBADMSG with *err set. */
int snap_check_layers(const struct snap_file *f, struct snapshot_error *err);

/* The name of layer `i` (0..layer_count - 1) as it was written: a path, or a name beside `f`. */
const char *snap_layer_name(const struct snap_file *f, uint32_t i);

/*
 * Open the files `f` lies in, itself included: its descriptor is taken over on success.
 * Return: 0; -ENOENT when a layer is missing, -EBADMSG when there is another image in its place,
 * -ENOMEM, -errno: *err is one line that names both files. snapshot_base_free() ends it.
 */
int snap_base_open(struct snap_file *f, struct snapshot_base **out, struct snapshot_error *err);

/*
 * A file of a base that is open, once more: with a descriptor of its own, as closing `f` closes it.
 * Return: as snap_file_open_fd(); -errno of fcntl.
 */
int snap_base_file_open(struct snap_file *f, const struct snap_base_file *file,
                        struct snapshot_error *err);

/* What names an image's contents: its header holds the checksums of everything else. */
void snap_content_hash(const struct snap_header *h, uint64_t hash[2]);

/* ---- snapshot_verify.c ---- */

/*
 * Are `bytes` (e->pages of them) what the extent says? Return: 0; -EBADMSG, *err names the offsets.
 */
int snap_check_extent(const struct snap_file *f, const struct snap_extent *e, const uint8_t *bytes,
                      struct snapshot_error *err);

/* Read the extent's pages into `to` (room for a block) and check. Return: 0; -EBADMSG; -errno. */
int snap_read_extent(const struct snap_file *f, const struct snap_extent *e, uint8_t *to,
                     struct snapshot_error *err);

/*
 * Is what lies between the sections before the data zero? `buffer` has room for a block. Return: 0;
 * -EBADMSG; -errno of reading.
 */
int snap_check_borders(const struct snap_file *f, uint8_t *buffer, struct snapshot_error *err);

/* ---- snapshot.c ---- */

/* Say why in *err (which may be NULL), cut to its size. Return: `code`, to be passed on. */
__attribute__((format(printf, 3, 4))) int snap_fail(struct snapshot_error *err, int code,
                                                    const char *format, ...);

/* What snapshot_stat() tells of it. */
void snap_describe(const struct snap_file *f, struct snapshot_info *info);

/* The checksum of a header, whatever its header_sum says. */
uint64_t snap_header_sum(const struct snap_header *h);

static inline uint32_t snap_page_shift(enum page_size s)
{
	switch (s) {
	case PAGE_SIZE_4K:
		return 12;
	case PAGE_SIZE_2M:
		return 21;
	case PAGE_SIZE_1G:
		return 30;
	case PAGE_SIZE_AUTO:
		break;
	}
	return 0;
}

/* Return: 0; -EINVAL for a shift the format does not know. */
static inline int snap_page_size(uint32_t shift, enum page_size *out)
{
	static const enum page_size known[] = {PAGE_SIZE_AUTO, PAGE_SIZE_4K, PAGE_SIZE_2M,
	                                       PAGE_SIZE_1G};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		if (snap_page_shift(known[i]) == shift) {
			*out = known[i];
			return 0;
		}
	}
	return -EINVAL;
}

#endif
