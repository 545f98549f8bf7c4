// SPDX-License-Identifier: MIT
#include "vmm/cli_inputs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/cli.h"

#define READ_AT_ONCE 65536u

/* Room for one more in a growing array. Return: 0 or -ENOMEM. */
static int grow(void **list, size_t count, size_t *room, size_t each)
{
	size_t more = *room ? 2 * *room : 64;
	void *at;

	if (count < *room)
		return 0;
	at = reallocarray(*list, more, each);
	if (!at)
		return -ENOMEM;
	*list = at;
	*room = more;
	return 0;
}

static int add_input(struct cli_inputs *in, const uint8_t *data, size_t size)
{
	int r = grow((void **)&in->list, in->count, &in->room, sizeof(*in->list));

	if (r == 0)
		in->list[in->count++] = (struct cli_input){data, size};
	return r;
}

/* All of a file, to its end. The block is kept with the inputs. Return: 0 or -errno. */
static int read_all(struct cli_inputs *in, int fd, const uint8_t **data, size_t *size)
{
	uint8_t *block = NULL, *more;
	size_t used = 0, room = 0;
	ssize_t n;
	int r = grow((void **)&in->blocks, in->block_count, &in->block_room, sizeof(*in->blocks));

	if (r)
		return r;
	do {
		if (room - used < READ_AT_ONCE) {
			room = 2 * room + READ_AT_ONCE;
			more = realloc(block, room);
			if (!more) {
				free(block);
				return -ENOMEM;
			}
			block = more;
		}
		n = read(fd, block + used, room - used);
		if (n > 0)
			used += (size_t)n;
	} while (n > 0 || (n < 0 && errno == EINTR));
	if (n < 0) {
		r = -errno;
		free(block);
		return r;
	}
	in->blocks[in->block_count++] = block;
	*data = block;
	*size = used;
	return 0;
}

/* A last line without newline is one; behind the last newline there is none. */
static int read_lines(struct cli_inputs *in, int fd)
{
	const uint8_t *at = NULL, *end, *newline;
	size_t size = 0;
	int r = read_all(in, fd, &at, &size);

	for (end = r ? NULL : at + size; r == 0 && at < end; at = newline + 1) {
		newline = memchr(at, '\n', (size_t)(end - at));
		if (!newline)
			newline = end;
		r = add_input(in, at, (size_t)(newline - at));
	}
	return r;
}

static int read_file(struct cli_inputs *in, int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	const uint8_t *data = NULL;
	struct stat st = {0};
	size_t size = 0;
	int r = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		r = -errno;
	if (r == 0 && S_ISREG(st.st_mode)) {
		r = read_all(in, fd, &data, &size);
		if (r == 0)
			r = add_input(in, data, size);
	}
	if (fd >= 0)
		close(fd);
	return r;
}

static int visible(const struct dirent *e)
{
	return e->d_name[0] != '.';
}

static int read_dir(struct cli_inputs *in, int fd)
{
	struct dirent **names;
	int n = scandirat(fd, ".", &names, visible, alphasort);
	int r = n < 0 ? -errno : 0;

	for (int i = 0; i < n; i++) {
		if (r == 0)
			r = read_file(in, fd, names[i]->d_name);
		free(names[i]);
	}
	if (n >= 0)
		free(names);
	return r;
}

static int read_from(struct cli_inputs *in, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) ? read_dir(in, fd) : read_lines(in, fd);
}

int cli_inputs_read(struct cli_inputs *in, const char *path)
{
	bool standard = strcmp(path, "-") == 0;
	int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
	int r = fd < 0 ? -errno : read_from(in, fd);

	if (fd >= 0 && !standard)
		close(fd);
	if (r)
		cli_error("--inputs %s: %s; name a file of lines, a directory of files, or -", path,
		          strerror(-r));
	else if (in->count == 0) {
		cli_error("--inputs %s: holds no input; a line, or a file, is one", path);
		r = -ENODATA;
	}
	return r;
}

void cli_inputs_free(struct cli_inputs *in)
{
	for (size_t i = 0; i < in->block_count; i++)
		free(in->blocks[i]);
	free(in->blocks);
	free(in->list);
	*in = (struct cli_inputs){0};
}
