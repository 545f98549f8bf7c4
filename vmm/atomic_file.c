// SPDX-License-Identifier: MIT
/*
 * vmm/atomic_file.c - a file that appears under its name whole or not at all.
 *
 * The directory is held open from the start, so that all steps speak of the same one even when it
 * is renamed meanwhile.
 *
 * A temporary is locked right after it is created. In between someone who sweeps may take it for
 * one of a dead writer, lock it and unlink it: so whoever has got the lock looks whether the file
 * is still there, and begins anew if not.
 *
 * Not done here: O_TMPFILE, because linkat(2) cannot take the place of an existing name.
 */
#include "vmm/atomic_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEMP_TRIES 16
#define TEMP_STEM  200 /* bytes of the final name, so that the rest fits NAME_MAX */
#define TEMP_TAG   12u /* hexadecimal digits */
#define TEMP_END   ".tmp"

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

/* ---- temporaries that dead writers have left ---- */

/* Is `entry` what create_temp() would call a temporary of this name? */
static bool is_temp(const struct atomic_file *f, const char *entry)
{
	size_t stem = strnlen(f->name, TEMP_STEM);
	const char *tag;

	if (strlen(entry) != stem + 2 + TEMP_TAG + strlen(TEMP_END) || entry[0] != '.' ||
	    memcmp(entry + 1, f->name, stem) != 0 || entry[stem + 1] != '.')
		return false;
	tag = entry + stem + 2;
	return strspn(tag, "0123456789abcdef") == TEMP_TAG && strcmp(tag + TEMP_TAG, TEMP_END) == 0;
}

/* What is locked has a writer. */
static void sweep_one(const struct atomic_file *f, const char *entry)
{
	int fd = openat(f->dir, entry, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		unlinkat(f->dir, entry, 0);
	close(fd);
}

/* Whoever may not sweep may still write: failures do not count. */
static void sweep(const struct atomic_file *f)
{
	int fd = openat(f->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!d) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((e = readdir(d)))
		if (is_temp(f, e->d_name))
			sweep_one(f, e->d_name);
	closedir(d);
}

/* ---- the temporary ---- */

static void tell(const struct atomic_file *f, const char *name)
{
	if (f->hook.temporary)
		f->hook.temporary(f->hook.ctx, f->dir, name);
}

/* Return: 0; -EAGAIN when someone has swept it away meanwhile; -errno of fstat. */
static int lock_temp(const struct atomic_file *f)
{
	struct stat st;

	if (flock(f->fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
		return -EAGAIN;
	/* Other errors: no locks here, so nobody sweeps either. */
	if (fstat(f->fd, &st))
		return -errno;
	return st.st_nlink ? 0 : -EAGAIN;
}

/* Return: 0 and f->fd; -EEXIST for a name that is taken; -errno. */
static int try_temp(struct atomic_file *f)
{
	uint64_t tag;
	int ret;

	/* Up to 256 bytes come whole and without EINTR, once the pool is ready. */
	if (getrandom(&tag, sizeof(tag), 0) != (ssize_t)sizeof(tag))
		return errno ? -errno : -EIO;
	snprintf(f->temp, sizeof(f->temp), ".%.*s.%012" PRIx64 TEMP_END, TEMP_STEM, f->name,
	         tag >> 16);
	/* Before it is there: a signal in between must not leave it. */
	tell(f, f->temp);
	do
		f->fd = openat(f->dir, f->temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	while (f->fd < 0 && errno == EINTR);
	ret = f->fd < 0 ? -errno : lock_temp(f);
	if (ret == 0)
		return 0;
	if (f->fd >= 0) {
		unlinkat(f->dir, f->temp, 0);
		close(f->fd);
	}
	tell(f, NULL);
	return ret;
}

static int create_temp(struct atomic_file *f, const char **step)
{
	int ret = -EEXIST;

	*step = "creating a temporary file beside it";
	for (int i = 0; i < TEMP_TRIES && (ret == -EEXIST || ret == -EAGAIN); i++)
		ret = try_temp(f);
	return ret;
}

int atomic_file_open(struct atomic_file *f, const char *path, const struct atomic_file_hook *hook,
                     const char **step)
{
	int ret;

	*f = (struct atomic_file){.fd = -1, .dir = -1};
	if (hook)
		f->hook = *hook;
	ret = resolve_target(f, path, step);
	if (!ret)
		ret = open_directory(f, step);
	if (ret)
		goto err_free;
	sweep(f);
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

static bool same(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

bool atomic_file_replaces(const struct atomic_file *f, int fd)
{
	struct stat now, st;

	return fstatat(f->dir, f->name, &now, 0) == 0 && fstat(fd, &st) == 0 && same(&now, &st);
}

bool atomic_file_is_beside(const struct atomic_file *f, const char *path)
{
	char *copy = strdup(path);
	struct stat here, there;
	bool beside;

	if (!copy)
		return false;
	beside = stat(dirname(copy), &there) == 0 && fstat(f->dir, &here) == 0 &&
	         same(&here, &there);
	free(copy);
	return beside;
}

static int flush(int fd)
{
	while (fsync(fd))
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* Killed in between, the temporary is a second name, which the next writer sweeps away. */
static int add_name(const struct atomic_file *f)
{
	if (linkat(f->dir, f->temp, f->dir, f->name, 0))
		return -errno;
	unlinkat(f->dir, f->temp, 0);
	return 0;
}

static int name_it(const struct atomic_file *f)
{
	if (f->add)
		return add_name(f);
	while (renameat(f->dir, f->temp, f->dir, f->name))
		if (errno != EINTR)
			return -errno;
	return 0;
}

int atomic_file_commit(struct atomic_file *f, const char **step)
{
	int ret;

	*step = "flushing it to disk";
	ret = flush(f->fd);
	if (ret)
		return ret;
	*step = "renaming it into place";
	ret = name_it(f);
	if (ret)
		return ret;
	tell(f, NULL);
	f->temp[0] = '\0';
	*step = "flushing its directory to disk";
	ret = flush(f->dir);
	/* EINVAL: a file system whose directories cannot be flushed. */
	return ret == -EINVAL ? 0 : ret;
}

void atomic_file_close(struct atomic_file *f)
{
	if (f->temp[0] != '\0') {
		unlinkat(f->dir, f->temp, 0);
		tell(f, NULL);
	}
	close(f->fd);
	close(f->dir);
	free(f->target);
}
