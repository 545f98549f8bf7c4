// SPDX-License-Identifier: MIT
/*
 * vmm/atomic_file.h - a file that appears under its name whole or not at all.
 *
 * Bytes go to a temporary name in the same directory, ".<name>.<12 hex digits>.tmp"; commit fsyncs
 * them, renames, fsyncs the directory. A crash at any moment leaves the old file or the
 * new one under the name; killed before the rename, the temporary stays behind until the next file
 * of that name is begun.
 *
 * Concurrency: one thread per struct. Several may write to one name at once: the last commit wins.
 * A temporary is locked (flock) as long as its writer lives, which is how one that nobody writes
 * any more is known; on a file system without such locks none is ever taken for that.
 */
#ifndef COWSLIP_VMM_ATOMIC_FILE_H
#define COWSLIP_VMM_ATOMIC_FILE_H

#include <stdbool.h>

/* For whoever must remove the temporary when the process is told to end. Zeroed: nobody. */
struct atomic_file_hook {
	/*
	 * The temporary `name` in `dir` is about to be there; NULL: it is gone, and `dir` will be
	 * closed. Both are valid from the one call to the other.
	 */
	void (*temporary)(void *ctx, int dir, const char *name);
	void *ctx;
};

struct atomic_file {
	int fd;   /* open for reading and writing until close */
	bool add; /* the caller's: a commit replaces nothing, but fails with -EEXIST */

	/* Private. */
	struct atomic_file_hook hook;
	int dir;
	char *target;     /* links resolved; `name` points into it */
	const char *name; /* in dir */
	char temp[256];   /* in dir; empty once renamed */
};

/*
 * Create the temporary for `path`, mode 0600, and remove those that dead writers of that name have
 * left. A symbolic link is followed: what it names will be replaced. `hook` (may be NULL) is
 * copied. On failure *step says what was being done ("opening its directory"); nothing is kept.
 * Return: 0; -EINVAL when the name is taken by what is not a regular file, or is empty; -EISDIR
 * when it ends in a slash; -ENOMEM; -errno of the failing call.
 */
int atomic_file_open(struct atomic_file *f, const char *path, const struct atomic_file_hook *hook,
                     const char **step);

/* Is `fd` the file that has the name now, and so the one that a commit replaces? */
bool atomic_file_replaces(const struct atomic_file *f, int fd);

/* Is `path` in the same directory? False when it cannot be found out. */
bool atomic_file_is_beside(const struct atomic_file *f, const char *path);

/*
 * Make what was written to f->fd the file. To be followed by atomic_file_close() in any case.
 * Return: 0; -errno of fsync or renameat (linkat) with *step set: the name holds what it held
 * before, but for a failed fsync of the directory: then it holds the new file, and a power cut may
 * bring the old one back.
 */
int atomic_file_commit(struct atomic_file *f, const char **step);

/* Remove the temporary unless committed, close. */
void atomic_file_close(struct atomic_file *f);

#endif
