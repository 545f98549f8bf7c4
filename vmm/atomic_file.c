// SPDX-License-Identifier: MIT
/*
 * vmm/atomic_file.c - a file that appears under its name whole or not at all.
 *
 * The directory is held open from the start, so that all steps speak of the same one even when it
 * is renamed meanwhile.
 *
 * Not done here: O_TMPFILE, because linkat(2) cannot take the place of an existing name.
 */
#include "vmm/atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEMP_TRIES 16
#define TEMP_STEM  200 /* bytes of the final name, so that the rest fits NAME_MAX */

static int resolve_target(struct atomic_file *f, const char *path, const char **step)
{
	struct stat st;

	*step = "looking at what has the name now";
	f->target = realpath(path, NULL);
	if (f->target) {
		if (stat(f->target, &st))
			return -errno;
		*step = "it is there and not a regular file";
		return S_ISREG(st.st_mode) ? 0 : -EINVAL;
	}
	if (errno != ENOENT)
		return -errno;
	f->target = strdup(path);
	return f->target ? 0 : -ENOMEM;
}

static int open_directory(struct atomic_file *f, const char **step)
{
	char *slash = strrchr(f->target, '/');
	const char *dir = ".";

	*step = "its name is not a file's";
	f->name = f->target;
	if (slash) {
		*slash = '\0';
		f->name = slash + 1;
		dir = slash == f->target ? "/" : f->target;
	}
	if (f->name[0] == '\0')
		return slash ? -EISDIR : -EINVAL;
	*step = "opening its directory";
	f->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return f->dir < 0 ? -errno : 0;
}

static int create_temp(struct atomic_file *f, const char **step)
{
	uint64_t tag;

	*step = "creating a temporary file beside it";
	for (int i = 0; i < TEMP_TRIES; i++) {
		/* Up to 256 bytes come whole and without EINTR, once the pool is ready. */
		if (getrandom(&tag, sizeof(tag), 0) != (ssize_t)sizeof(tag))
			return errno ? -errno : -EIO;
		snprintf(f->temp, sizeof(f->temp), ".%.*s.%012" PRIx64 ".tmp", TEMP_STEM, f->name,
		         tag >> 16);
		f->fd = openat(f->dir, f->temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (f->fd >= 0)
			return 0;
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

int atomic_file_open(struct atomic_file *f, const char *path, const char **step)
{
	int ret;

	*f = (struct atomic_file){.fd = -1, .dir = -1};
	ret = resolve_target(f, path, step);
	if (!ret)
		ret = open_directory(f, step);
	if (ret)
		goto err_free;
	ret = create_temp(f, step);
	if (ret)
		goto err_close_dir;
	return 0;

err_close_dir:
	close(f->dir);
err_free:
	free(f->target);
	return ret;
}

int atomic_file_commit(struct atomic_file *f, const char **step)
{
	*step = "flushing it to disk";
	if (fsync(f->fd))
		return -errno;
	*step = "renaming it into place";
	if (renameat(f->dir, f->temp, f->dir, f->name))
		return -errno;
	f->temp[0] = '\0';
	*step = "flushing its directory to disk";
	/* EINVAL: a file system whose directories cannot be flushed. */
	if (fsync(f->dir) && errno != EINVAL)
		return -errno;
	return 0;
}

void atomic_file_close(struct atomic_file *f)
{
	if (f->temp[0] != '\0')
		unlinkat(f->dir, f->temp, 0);
	close(f->fd);
	close(f->dir);
	free(f->target);
}
