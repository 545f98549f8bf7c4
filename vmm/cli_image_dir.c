// SPDX-License-Identifier: MIT
/*
 * vmm/cli_image_dir.c - `cowslip image ls`, `rm` and `flatten`: a directory of images as a whole.
 *
 * JSON of `image ls`: a list, by name, of name, hash, created, ram_bytes, data_bytes, disk_bytes,
 * layer_bytes, used (images beside it that lie partly in it), parent (name beside it, or null); of
 * a damaged image only name and error.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli_image.h"
#include "vmm/cli_save.h"
#include "vmm/image_dir.h"

#define MIB (1024.0 * 1024.0)

/* ---- ls ---- */

static unsigned count_users(const struct image_dir *d, size_t i)
{
	unsigned n = 0;

	for (size_t u = image_dir_next_user(d, i, 0); u != IMAGE_DIR_NONE;
	     u = image_dir_next_user(d, i, u + 1))
		n++;
	return n;
}

static json_t *entry_json(const struct image_dir *d, size_t i)
{
	const struct image_entry *e = &d->entry[i];
	char hash[CLI_HASH_SIZE];

	if (e->damaged)
		return json_pack("{s:s, s:s}", "name", e->name, "error", e->error.text);
	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:i, s:s?}", "name", e->name, "hash",
	                 cli_hash(e->info.hash, hash), "created", (json_int_t)e->info.created,
	                 "ram_bytes", (json_int_t)e->info.ram_bytes, "data_bytes",
	                 (json_int_t)e->info.data_bytes, "disk_bytes",
	                 (json_int_t)e->info.disk_bytes, "layer_bytes",
	                 (json_int_t)e->info.layer_bytes, "used", (int)count_users(d, i), "parent",
	                 e->parent == IMAGE_DIR_NONE ? NULL : d->entry[e->parent].name);
}

static json_t *dir_json(const struct image_dir *d)
{
	json_t *list = json_array();

	for (size_t i = 0; i < d->count; i++) {
		if (json_array_append_new(list, entry_json(d, i))) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static void put_entry(const struct image_dir *d, size_t i, unsigned depth, int width)
{
	const struct image_entry *e = &d->entry[i];
	char when[64];

	printf("%*s%-*s", (int)(2 * depth), "", width - (int)(2 * depth), e->name);
	if (e->damaged) {
		printf("  damaged: `cowslip image info` says how\n");
		return;
	}
	printf(" %9.1f %9.1f %9.1f %9.1f %5u  %.16s", (double)e->info.ram_bytes / MIB,
	       (double)e->info.data_bytes / MIB, (double)e->info.disk_bytes / MIB,
	       (double)e->info.layer_bytes / MIB, count_users(d, i),
	       cli_when(e->info.created, when, sizeof(when)));
	if (e->info.parent[0] && e->parent == IMAGE_DIR_NONE)
		printf("  (of %s, which is not here)", e->info.parent);
	printf("\n");
}

/*
 * How deep an entry stands. A line that leads back to itself, which only a forged file can, ends.
 */
static unsigned depth_of(const struct image_dir *d, size_t i)
{
	unsigned depth = 0;

	while (d->entry[i].parent != IMAGE_DIR_NONE && depth < d->count) {
		i = d->entry[i].parent;
		depth++;
	}
	return depth;
}

static int name_width(const struct image_dir *d)
{
	size_t most = 5;

	for (size_t i = 0; i < d->count; i++) {
		size_t width = strlen(d->entry[i].name) + 2 * (size_t)depth_of(d, i);

		most = width > most ? width : most;
	}
	return (int)most;
}

static void put_below(const struct image_dir *d, size_t parent, unsigned depth, int width)
{
	for (size_t i = 0; i < d->count && depth < d->count; i++) {
		if (d->entry[i].parent != parent)
			continue;
		put_entry(d, i, depth, width);
		put_below(d, i, depth + 1, width);
	}
}

static int put_tree(const struct image_dir *d)
{
	int width = name_width(d);

	printf("%-*s %9s %9s %9s %9s %5s  CREATED (UTC), sizes in MiB\n", width, "IMAGE", "RAM",
	       "OWN", "DISK", "SHARED", "USED");
	put_below(d, IMAGE_DIR_NONE, 0, width);
	return cli_flush_stdout();
}

int cli_image_ls(const struct image_command *c)
{
	struct snapshot_error err;
	struct image_dir d;
	int status;

	if (image_dir_read(c->count ? c->path[0] : ".", &d, &err))
		return cli_image_failed(&err);
	status = c->json ? cli_put_json(dir_json(&d)) : put_tree(&d);
	image_dir_free(&d);
	return status;
}

/* ---- rm ---- */

/* Everything that lies in a marked image is marked too. */
static void mark_users(const struct image_dir *d, bool *marked)
{
	bool more = true;

	while (more) {
		more = false;
		for (size_t i = 0; i < d->count; i++)
			for (size_t u = 0; marked[i] && u < d->count; u++) {
				if (marked[u] || !image_dir_needs(d, u, i))
					continue;
				marked[u] = more = true;
			}
	}
}

static void say_used(const struct image_dir *d, size_t i, size_t user, const char *what, char *why,
                     size_t size)
{
	unsigned others = count_users(d, i) - 1;

	if (others)
		snprintf(why, size, "%s: %s and %u more lie partly in it; %s", d->entry[i].name,
		         d->entry[user].name, others, what);
	else
		snprintf(why, size, "%s: %s lies partly in it; %s", d->entry[i].name,
		         d->entry[user].name, what);
}

static int check_marked(const struct image_dir *d, const bool *marked)
{
	char why[VM_TEXT_MAX];

	for (size_t i = 0; i < d->count; i++)
		for (size_t u = 0; marked[i] && u < d->count; u++) {
			if (marked[u] || !image_dir_needs(d, u, i))
				continue;
			say_used(d, i, u, "remove that first, or all with --cascade", why,
			         sizeof(why));
			cli_error("%s", why);
			return -EBUSY;
		}
	return 0;
}

static int remove_entry(const struct image_dir *d, size_t i)
{
	char *path;
	int e = 0;

	if (asprintf(&path, "%s/%s", d->path, d->entry[i].name) < 0) {
		cli_error("no memory to remove %s", d->entry[i].name);
		return -ENOMEM;
	}
	if (unlink(path)) {
		e = -errno;
		cli_error("%s cannot be removed: %s", path, strerror(-e));
	} else {
		printf("removed %s\n", path);
	}
	free(path);
	return e;
}

static bool has_marked_user(const struct image_dir *d, const bool *marked, size_t i)
{
	for (size_t u = 0; u < d->count; u++)
		if (marked[u] && image_dir_needs(d, u, i))
			return true;
	return false;
}

/* Users first: whatever stops us, no image is left without what it lies in. */
static int remove_marked(const struct image_dir *d, bool *marked)
{
	bool more = true;

	while (more) {
		more = false;
		for (size_t i = 0; i < d->count; i++) {
			if (!marked[i] || has_marked_user(d, marked, i))
				continue;
			if (remove_entry(d, i))
				return CLI_FAILED;
			marked[i] = false;
			more = true;
		}
	}
	return cli_flush_stdout();
}

/* Mark the images of path[0]'s directory. Return: 0, or -EINVAL after an error line. */
static int mark_named(const struct image_command *c, struct image_dir *d, bool **out)
{
	struct snapshot_error err;
	size_t index;

	if (image_dir_of(c->path[0], d, &index, &err)) {
		cli_error("%s", err.text);
		return -EINVAL;
	}
	*out = calloc(d->count + 1, sizeof(**out));
	if (!*out) {
		cli_error("no memory to remove %s", c->path[0]);
		return -ENOMEM;
	}
	for (size_t i = 0; i < c->count; i++) {
		index = image_dir_find(d, c->path[i]);
		if (index == IMAGE_DIR_NONE) {
			cli_error("%s: not an image in %s; images of one directory at a time",
			          c->path[i], d->path);
			return -EINVAL;
		}
		(*out)[index] = true;
	}
	return 0;
}

int cli_image_rm(const struct image_command *c)
{
	struct image_dir d = {0};
	bool *marked = NULL;
	int status = CLI_FAILED;

	if (mark_named(c, &d, &marked))
		goto out;
	if (c->cascade)
		mark_users(&d, marked);
	if (check_marked(&d, marked) == 0)
		status = remove_marked(&d, marked);
out:
	free(marked);
	image_dir_free(&d);
	return status;
}

/* ---- flatten ---- */

bool cli_image_why_not(const char *path, char *why, size_t size)
{
	struct image_dir d;
	size_t index, user;

	/* What cannot be looked at is the writer's to complain of. */
	if (access(path, F_OK) || image_dir_of(path, &d, &index, NULL))
		return false;
	user = index == IMAGE_DIR_NONE ? index : image_dir_next_user(&d, index, 0);
	if (user != IMAGE_DIR_NONE)
		say_used(&d, index, user, "save under another name, or flatten that first", why,
		         size);
	image_dir_free(&d);
	return user != IMAGE_DIR_NONE;
}

int cli_image_may_replace(const char *path)
{
	char why[VM_TEXT_MAX];

	if (!cli_image_why_not(path, why, sizeof(why)))
		return 0;
	cli_error("%s", why);
	return -EBUSY;
}

int cli_image_flatten(const struct image_command *c)
{
	struct snapshot_request r = {.path = c->path[1]};
	struct snapshot_info info;
	struct snapshot_error err;
	uint64_t start = clock_ns();
	struct image *image;
	int e;

	if (cli_image_may_replace(c->path[1]))
		return CLI_FAILED;
	if (snapshot_open(c->path[0], 0, &image, &info, &err))
		return cli_image_failed(&err);
	r.image = image;
	r.isa = info.isa;
	r.cpus = info.cpus;
	e = cli_write_image(&r, &err);
	image_put(image);
	if (e)
		return cli_image_failed(&err);
	cli_say_saved(c->path[1], clock_ns() - start);
	return CLI_OK;
}
