// SPDX-License-Identifier: MIT
/*
 * vmm/snapshot.h - images as files (format: vmm/image_format.md).
 *
 * A file is written once, under a temporary name, fsynced, renamed over the name asked for, and the
 * directory fsynced. A temporary that a killed writer left goes with the next save of that name.
 * Opening maps: no RAM is read. The open file is a store that extents name directly, so clones map
 * their windows from the file.
 *
 * Concurrency: any number of processes may open one file at once; replacing or removing the
 * name does not disturb them. Changing or truncating the file itself does: images are
 * replaced, never edited.
 */
#ifndef COWSLIP_VMM_SNAPSHOT_H
#define COWSLIP_VMM_SNAPSHOT_H

#include <stdbool.h>
#include <stdint.h>

#include "mm/image.h"
#include "vmm/atomic_file.h"

#define SNAPSHOT_ERROR_MAX 512u

/* Why an operation failed, one line without newline: what, on what, why, at which offset. */
struct snapshot_error {
	char text[SNAPSHOT_ERROR_MAX];
};

struct snapshot_info {
	uint32_t version; /* of the format */
	uint32_t isa;     /* EM_ number */
	uint32_t cpus;
	char build[64];      /* of the cowslip that wrote it */
	uint64_t created;    /* seconds since 1970-01-01 UTC */
	uint64_t id[2];      /* random, differs in every snapshot ever written */
	uint64_t generation; /* random: what clones derive their own generation numbers from */
	uint64_t ram_bytes;
	uint64_t data_bytes; /* of guest memory held in the file: non-zero pages */
	uint64_t file_bytes; /* length, holes included */
	uint64_t disk_bytes; /* allocated by the file system */
	uint64_t state_bytes;
	uint64_t extents;
	struct ram_region ram[IMAGE_MAX_REGIONS];
	uint32_t ram_count;
	uint64_t hash[2]; /* names the contents: differs where any byte does */

	/* Of a layered image; else 0 and empty. */
	bool layered;
	uint32_t layers;         /* other files it names */
	uint64_t pieces;         /* runs of pages that its memory is made of */
	uint64_t layer_bytes;    /* of guest memory that lie in those files */
	char parent[256];        /* path or name of the image it was cloned from, cut to this */
	uint64_t parent_hash[2]; /* that image's hash */
};

/* For whoever wants to see something move. Zeroed: nobody. */
struct snapshot_progress {
	void (*step)(void *ctx, uint64_t done, uint64_t total); /* bytes */
	void *ctx;
};

/*
 * The files that an opened image lies in: what a snapshot of its clone need not store again. Like
 * the image it keeps them open, whatever becomes of their names.
 */
struct snapshot_base;

void snapshot_base_free(struct snapshot_base *base); /* NULL is ignored */

/* What is to be saved, and where. Everything is borrowed for the call. */
struct snapshot_request {
	const struct image *image;
	uint32_t isa, cpus; /* go into the header */
	const char *path;
	/*
	 * What lies in these files is named, not stored: the image becomes a layered one. A file
	 * that the image replaces, or that is gone from its place, is not built upon. NULL:
	 * everything is stored.
	 */
	const struct snapshot_base *base;
	struct atomic_file_hook hook; /* hears of the temporary file */
};

/*
 * Write an image to a file. Pages that are all zero take no space. A symbolic link is followed:
 * what it names is replaced. The file is readable by its owner only (0600): it holds a guest's
 * memory. A process over its file size limit gets SIGXFSZ from the kernel before this can return
 * -EFBIG: ignore that signal. err may be NULL. Return: 0; -errno of the failing call (-ENOSPC,
 * -EDQUOT, -EFBIG, -EIO, -EACCES, ...) with *err set: the name then still holds what it held before
 * and no temporary is left (but for a failed fsync of the directory: then the name holds the new
 * file, and a power cut may bring the old one back); -EINVAL when the name is taken by what is not
 * a regular file; -E2BIG when state or RAM are larger than the format holds; -EIO when a file the
 * image lies in has been cut short.
 */
int snapshot_write(const struct snapshot_request *r, struct snapshot_error *err);

/* The same: everything is stored, and nobody needs to hear of the temporary. */
int snapshot_save(const struct image *image, uint32_t isa, uint32_t cpus, const char *path,
                  struct snapshot_error *err);

/*
 * Open `path` and make an image over it; `isa` is what this build runs. The header, the state and
 * the tables are read and checked, the memory is not: see snapshot_verify(). Of a layered image
 * each file that its memory lies in is found (beside `path` first, then where it was), known by its
 * hash, and mapped directly, however deep the line. The cost does not grow with the memory held
 * but for 32 bytes of table per 2 MiB. info, base and err may be NULL.
 * Return: 0 with one reference in *out and what the image lies in in *base; -errno of open/read;
 * -EBADMSG for what is not a (whole, unflipped) snapshot, or lies in a file that has been replaced;
 * -ENOENT also when such a file is missing; -ENOTSUP for another format version, unknown required
 * features or another ISA; -ENOMEM. *err says it in one line.
 */
int snapshot_open_base(const char *path, uint32_t isa, struct image **out,
                       struct snapshot_base **base, struct snapshot_info *info,
                       struct snapshot_error *err);
int snapshot_open(const char *path, uint32_t isa, struct image **out, struct snapshot_info *info,
                  struct snapshot_error *err);

/*
 * What snapshot_open() would tell, of a snapshot for any ISA, without making an image and without
 * looking for other files.
 * Return: as snapshot_open().
 */
int snapshot_stat(const char *path, struct snapshot_info *info, struct snapshot_error *err);

/*
 * Read the whole file, and those it lies in, and compare every checksum in them; what has none must
 * be zero. `isa` as for snapshot_open(), or 0 for any.
 * Return: 0; -EBADMSG for the first block that differs, *err names its file and offset; otherwise
 * as snapshot_open().
 */
int snapshot_verify(const char *path, uint32_t isa, struct snapshot_error *err);
int snapshot_verify_progress(const char *path, uint32_t isa,
                             const struct snapshot_progress *progress, struct snapshot_error *err);

/* The same of files that are open already. */
int snapshot_verify_base(const struct snapshot_base *base, const struct snapshot_progress *progress,
                         struct snapshot_error *err);

#endif
