// SPDX-License-Identifier: MIT
/*
 * vmm/pack.h - images compressed for transport (format: vmm/image_format.md, "Packed images").
 *
 * A packed file holds an image and every file that its memory lies in, each as it was: unpacked,
 * all have the contents, hashes and parents that they had. It is one stream, read and written from
 * the front to the back, so it goes through pipes. It cannot be cloned from.
 *
 * Concurrency: a call belongs to one thread; compression uses more where the library can.
 */
#ifndef COWSLIP_VMM_PACK_H
#define COWSLIP_VMM_PACK_H

#include <stdint.h>

#include "vmm/snapshot.h"

/* Compression levels: quick and large to slow and small. */
#define PACK_LEVEL_LEAST 1u
#define PACK_LEVEL_MOST  19u
#define PACK_LEVEL       3u

/* What has been packed or unpacked. */
struct pack_info {
	uint32_t files;        /* the image and those it lies in */
	uint64_t data_bytes;   /* of guest memory in them: pages that are not zero */
	uint64_t packed_bytes; /* the packed file, whole */
};

/* Everything is borrowed for the call. */
struct pack_request {
	const char *image;
	unsigned level; /* 0: PACK_LEVEL */

	/* Where to: a file, which appears whole or not at all; or, with NULL, bytes in order. */
	const char *path;
	int (*put)(void *ctx, const void *data, size_t size); /* 0 or -errno, passed on */
	void *ctx;

	struct snapshot_progress progress; /* bytes before compression */
	struct atomic_file_hook hook;
};

/*
 * Pack an image of any ISA. Every checksum in the files is compared on the way. `path` may be taken
 * by another packed file, which is replaced, but not by an image. info and err may be NULL.
 * Return: 0; as snapshot_verify() for an image that is not whole; -EEXIST when `path` is an image,
 * or when two of the files have one name; -EINVAL for the level; -ENOMEM; as snapshot_write() for a
 * file that cannot be written. *err says it in one line; the name then holds what it held before.
 */
int pack_image(const struct pack_request *r, struct pack_info *info, struct snapshot_error *err);

/* Everything is borrowed for the call. */
struct unpack_request {
	int from;         /* read from its present position to its end */
	const char *name; /* of it, for messages */
	const char *path; /* the image goes there, what it lies in beside it */
	struct snapshot_progress progress;
	struct atomic_file_hook hook; /* hears of several files at once */
};

/*
 * Unpack. Nothing appears under any name before everything has been read and every checksum and
 * hash compared; then the files appear, the image last. `path` is replaced if it is an image or
 * anything else but a packed file. Of the other files one that is there already and is that image
 * stays as it is. Memory and disk space needed are known, and refused, from what the file's front
 * says: what is behind it cannot ask for more. info and err may be NULL.
 * Return: 0; -EBADMSG for what is not a (whole, unflipped) packed file; -ENOTSUP for another
 * version; -EEXIST when the name of a file is taken by something else; -ENOSPC; -ENOMEM; -errno of
 * reading or writing. *err says it in one line, and the names hold what they held before, but for
 * failures of renaming and of flushing directories: then some files may have appeared, whole.
 */
int unpack_image(const struct unpack_request *r, struct pack_info *info,
                 struct snapshot_error *err);

#endif
