// SPDX-License-Identifier: MIT
#include "vmm/image_dir.h"

#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/fileio.h"
#include "vmm/snapshot_format.h"

struct image_ref {
	uint64_t hash[2];
	bool needed; /* memory lies in it */
	bool parent;
	char *name; /* the last part of its path */
};

static int fail(struct snapshot_error *err, int code, const char *path)
{
	return snap_fail(err, code, "%s cannot be searched for images: %s", path, strerror(-code));
}

static void entry_fini(struct image_entry *e)
{
	for (size_t i = 0; i < e->ref_count; i++)
		free(e->refs[i].name);
	free(e->refs);
	free(e->name);
}

void image_dir_free(struct image_dir *d)
{
	for (size_t i = 0; i < d->count; i++)
		entry_fini(&d->entry[i]);
	free(d->entry);
	free(d->path);
	*d = (struct image_dir){0};
}

/* ---- one file ---- */

static char *join(const char *dir, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

static bool begins_as_image(const char *path)
{
	char magic[SNAPSHOT_MAGIC_SIZE];
	size_t got = 0;
	int fd;

	if (snap_open_regular(path, &fd, NULL))
		return false;
	if (fileio_read_at(fd, magic, sizeof(magic), 0, &got))
		got = 0;
	close(fd);
	return got == sizeof(magic) && memcmp(magic, SNAPSHOT_MAGIC, sizeof(magic)) == 0;
}

static int note_layers(struct image_entry *e, const struct snap_file *f)
{
	uint32_t count = f->layers ? f->header.layer_count : 0;

	e->refs = calloc(count + 1, sizeof(*e->refs));
	if (!e->refs)
		return -ENOMEM;
	for (; e->ref_count < count; e->ref_count++) {
		const struct snap_layer *l = &f->layers[e->ref_count];
		const char *name = snap_layer_name(f, (uint32_t)e->ref_count);
		const char *slash = strrchr(name, '/');
		struct image_ref *r = &e->refs[e->ref_count];

		*r = (struct image_ref){
			.hash = {l->hash[0], l->hash[1]},
			.needed = l->pages > 0,
			.parent = l->flags & SNAP_LAYER_PARENT,
			.name = strdup(slash ? slash + 1 : name),
		};
		if (!r->name)
			return -ENOMEM;
	}
	return 0;
}

/* Return: 0, also for a damaged image; -ENOMEM. */
static int look_at(struct image_entry *e, const char *path)
{
	struct snap_file f;
	int ret;

	if (snap_file_open(&f, path, SNAP_ANY_ISA, &e->error)) {
		e->damaged = true;
		return 0;
	}
	snap_describe(&f, &e->info);
	ret = note_layers(e, &f);
	snap_file_close(&f);
	return ret;
}

static int add(struct image_dir *d, const char *name)
{
	struct image_entry *more, *e;
	char *path = join(d->path, name);
	int ret = path ? 0 : -ENOMEM;

	if (ret || !begins_as_image(path))
		goto out;
	ret = -ENOMEM;
	more = realloc(d->entry, (d->count + 1) * sizeof(*more));
	if (!more)
		goto out;
	d->entry = more;
	e = &more[d->count];
	*e = (struct image_entry){.name = strdup(name), .parent = IMAGE_DIR_NONE};
	if (!e->name)
		goto out;
	d->count++;
	ret = look_at(e, path);
out:
	free(path);
	return ret;
}

/* ---- all of them ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct image_entry *)a)->name, ((const struct image_entry *)b)->name);
}

/* A damaged file has no hash to be known by: there the name must do. */
static bool is_entry(const struct image_ref *r, const struct image_entry *e)
{
	if (e->damaged)
		return strcmp(r->name, e->name) == 0;
	return r->hash[0] == e->info.hash[0] && r->hash[1] == e->info.hash[1];
}

/* Of copies of one image, the one that has the name. */
static size_t find_layer(const struct image_dir *d, const struct image_ref *r)
{
	size_t found = IMAGE_DIR_NONE;

	for (size_t i = 0; i < d->count; i++) {
		if (!is_entry(r, &d->entry[i]))
			continue;
		if (found == IMAGE_DIR_NONE || strcmp(r->name, d->entry[i].name) == 0)
			found = i;
	}
	return found;
}

static void find_parents(struct image_dir *d)
{
	for (size_t i = 0; i < d->count; i++) {
		struct image_entry *e = &d->entry[i];

		for (size_t k = 0; k < e->ref_count; k++)
			if (e->refs[k].parent)
				e->parent = find_layer(d, &e->refs[k]);
	}
}

/* Return: 0; -ENOMEM; -errno of reading the directory. */
static int add_all(struct image_dir *d, DIR *dir)
{
	struct dirent *e;
	int ret = 0;

	while (!ret) {
		errno = 0;
		e = readdir(dir);
		if (!e)
			return -errno;
		if (e->d_name[0] != '.')
			ret = add(d, e->d_name);
	}
	return ret;
}

int image_dir_read(const char *path, struct image_dir *out, struct snapshot_error *err)
{
	DIR *dir = opendir(path);
	int ret;

	*out = (struct image_dir){0};
	if (!dir)
		return fail(err, errno ? -errno : -EIO, path);
	out->path = strdup(path);
	ret = out->path ? add_all(out, dir) : -ENOMEM;
	closedir(dir);
	if (ret) {
		image_dir_free(out);
		fail(err, ret, path);
		return ret;
	}
	if (out->count)
		qsort(out->entry, out->count, sizeof(*out->entry), by_name);
	find_parents(out);
	return 0;
}

size_t image_dir_find(const struct image_dir *d, const char *file)
{
	struct stat want, st;
	size_t found = IMAGE_DIR_NONE;

	if (stat(file, &want))
		return found;
	for (size_t i = 0; found == IMAGE_DIR_NONE && i < d->count; i++) {
		char *path = join(d->path, d->entry[i].name);

		if (path && stat(path, &st) == 0 && st.st_dev == want.st_dev &&
		    st.st_ino == want.st_ino)
			found = i;
		free(path);
	}
	return found;
}

int image_dir_of(const char *file, struct image_dir *out, size_t *index, struct snapshot_error *err)
{
	char *real = realpath(file, NULL);
	char *copy = real ? real : strdup(file);
	int ret;

	if (!copy)
		return fail(err, -ENOMEM, file);
	ret = image_dir_read(dirname(copy), out, err);
	free(copy);
	if (ret == 0)
		*index = image_dir_find(out, file);
	return ret;
}

bool image_dir_needs(const struct image_dir *d, size_t i, size_t in)
{
	const struct image_entry *e = &d->entry[i];

	if (i == in)
		return false;
	for (size_t k = 0; k < e->ref_count; k++)
		if (e->refs[k].needed && find_layer(d, &e->refs[k]) == in)
			return true;
	return false;
}

size_t image_dir_next_user(const struct image_dir *d, size_t in, size_t from)
{
	for (size_t i = from; i < d->count; i++)
		if (image_dir_needs(d, i, in))
			return i;
	return IMAGE_DIR_NONE;
}
