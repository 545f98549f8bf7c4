// SPDX-License-Identifier: MIT
/*
 * vmm/image_dir.h - the images of one directory, and which of them lie partly in which.
 *
 * A look at the directory at one moment. Only files that begin as images do are in it, hidden
 * ones (unfinished saves) are not; directories below are not searched.
 *
 * Concurrency: none. What others do to the directory meanwhile is not seen.
 */
#ifndef COWSLIP_VMM_IMAGE_DIR_H
#define COWSLIP_VMM_IMAGE_DIR_H

#include <stdbool.h>
#include <stddef.h>

#include "vmm/snapshot.h"

#define IMAGE_DIR_NONE SIZE_MAX

struct image_ref; /* a layer, private */

struct image_entry {
	char *name;   /* in the directory */
	bool damaged; /* cannot be read: `error` says why, and `info` means nothing */
	struct snapshot_error error;
	struct snapshot_info info;
	size_t parent; /* entry it was cloned from; IMAGE_DIR_NONE: none, or not here */

	/* Private. */
	struct image_ref *refs;
	size_t ref_count;
};

struct image_dir {
	char *path;
	struct image_entry *entry; /* by name */
	size_t count;
};

/*
 * Look at a directory. Return: 0; -ENOMEM; -errno of opening or reading it, *err names it.
 * image_dir_free() ends it.
 */
int image_dir_read(const char *path, struct image_dir *out, struct snapshot_error *err);

/* The directory that a file is in, with image_dir_read(); *index is the file's entry, or none. */
int image_dir_of(const char *file, struct image_dir *out, size_t *index,
                 struct snapshot_error *err);

/* The entry that is `file`, whatever it is called there; IMAGE_DIR_NONE: none is. */
size_t image_dir_find(const struct image_dir *d, const char *file);

/* Zeroed is fine. */
void image_dir_free(struct image_dir *d);

/* Does entry `i` lie partly in entry `in`? Then it cannot be used without it. */
bool image_dir_needs(const struct image_dir *d, size_t i, size_t in);

/* The next entry at or above `from` that needs `in`; IMAGE_DIR_NONE: no more. */
size_t image_dir_next_user(const struct image_dir *d, size_t in, size_t from);

#endif
