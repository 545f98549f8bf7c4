// SPDX-License-Identifier: MIT
/*
 * vmm/cli_sink.c - output of many clones: to stdout line by line, or to a file each.
 */
#include "vmm/cli_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/cli.h"
#include "vmm/cli_outlet.h"

#define FILE_MODE 0666

static _Noreturn void give_up(const char *what, const char *why, const char *remedy)
{
	cli_error("%s: %s; %s", what, why, remedy);
	exit(CLI_FAILED);
}

static _Noreturn void no_memory(void)
{
	give_up("output of the clones", strerror(ENOMEM), "run fewer at once");
}

/* Return: 0 when `dir` is, or now is, a directory that can be written; -errno. */
static int make_dir(const char *dir)
{
	struct stat st;

	if (mkdir(dir, 0777) == 0)
		return 0;
	if (errno != EEXIST || stat(dir, &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	return access(dir, W_OK | X_OK) < 0 ? -errno : 0;
}

int sink_open(struct sink *s, const char *dir, bool raw)
{
	int e;

	*s = (struct sink){.dir = dir, .raw = raw};
	e = dir ? make_dir(dir) : 0;
	if (e)
		cli_error("--output %s: %s; name a directory that can be written", dir,
		          strerror(-e));
	return e;
}

static int by_number(const void *a, const void *b)
{
	const struct sink_clone *x = a, *y = b;

	return (x->number > y->number) - (x->number < y->number);
}

struct sink_clone *sink_find(struct sink *s, uint64_t number)
{
	const struct sink_clone key = {.number = number};
	struct sink_clone **at = tfind(&key, &s->clones, by_number);
	struct sink_clone *c;

	if (at)
		return *at;
	c = calloc(1, sizeof(*c));
	if (!c)
		no_memory();
	*c = (struct sink_clone){.number = number, .fd = -1};
	if (!tsearch(c, &s->clones, by_number)) {
		free(c);
		no_memory();
	}
	return c;
}

/* ---- a file each ---- */

static void file_path(const struct sink *s, const struct sink_clone *c, char *path, size_t size)
{
	snprintf(path, size, "%s/clone-%" PRIu64 ".out", s->dir, c->number);
}

static _Noreturn void file_failed(const struct sink *s, const struct sink_clone *c, int err)
{
	char path[4096];

	file_path(s, c, path, sizeof(path));
	give_up(path, strerror(err), "its clone's output would be lost");
}

static void file_open(const struct sink *s, struct sink_clone *c)
{
	char path[4096];

	if (c->has_file)
		return;
	file_path(s, c, path, sizeof(path));
	c->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, FILE_MODE);
	if (c->fd < 0)
		file_failed(s, c, errno);
	c->has_file = true;
}

static void file_put(const struct sink *s, struct sink_clone *c, const void *data, size_t size)
{
	int r;

	file_open(s, c);
	r = cli_write(c->fd, data, size);
	if (r)
		file_failed(s, c, -r);
}

/* A clone that printed nothing has an empty file. */
static void file_end(const struct sink *s, struct sink_clone *c)
{
	file_open(s, c);
	if (c->fd < 0)
		return;
	if (close(c->fd) < 0)
		file_failed(s, c, errno);
	c->fd = -1;
}

/* ---- lines ---- */

static void keep(struct sink_clone *c, const char *data, size_t size)
{
	size_t want = c->len + size;
	char *line;

	if (want > c->room) {
		line = realloc(c->line, 2 * want);
		if (!line)
			no_memory();
		c->line = line;
		c->room = 2 * want;
	}
	memcpy(c->line + c->len, data, size);
	c->len = want;
}

static void put_line(const struct sink *s, struct sink_clone *c)
{
	char number[32];
	int n = snprintf(number, sizeof(number), "[%" PRIu64 "] ", c->number);

	keep(c, "\n", 1);
	keep(c, number, (size_t)n);
	/* One write, so that readers see whole lines: the prefix goes from the end to the front. */
	memmove(c->line + n, c->line, c->len - (size_t)n);
	memcpy(c->line, number, (size_t)n);
	if (s->outlet)
		outlet_put(s->outlet, c->line, c->len);
	else
		cli_put(c->line, c->len);
	c->len = 0;
}

static void lines_put(const struct sink *s, struct sink_clone *c, const char *data, size_t size)
{
	const char *newline;
	size_t part;

	while (size > 0) {
		part = min_u64(size, SINK_LINE_MAX - c->len);
		newline = memchr(data, '\n', part);
		if (newline)
			part = (size_t)(newline - data);
		keep(c, data, part);
		data += part;
		size -= part;
		if (newline) {
			data++;
			size--;
		}
		if (newline || c->len == SINK_LINE_MAX)
			put_line(s, c);
	}
}

/* ---- both ---- */

void sink_put(struct sink *s, uint64_t number, const void *data, size_t size)
{
	if (s->dir)
		file_put(s, sink_find(s, number), data, size);
	else if (s->raw)
		cli_put(data, size);
	else
		lines_put(s, sink_find(s, number), data, size);
}

void sink_end(struct sink *s, uint64_t number)
{
	struct sink_clone *c = sink_find(s, number);

	if (s->dir)
		file_end(s, c);
	else if (c->len > 0)
		put_line(s, c);
	free(c->line);
	c->line = NULL;
	c->room = 0;
}

static void forget(void *clone)
{
	struct sink_clone *c = clone;

	if (c->fd >= 0)
		close(c->fd);
	free(c->line);
	free(c);
}

void sink_close(struct sink *s)
{
	tdestroy(s->clones, forget);
	s->clones = NULL;
}
