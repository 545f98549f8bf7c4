// SPDX-License-Identifier: MIT
/*
 * vmm/cli_image_pack.c - `cowslip image pack` and `unpack`.
 *
 * `-` is stdout and stdin. What has been done is said on stderr.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli_image.h"
#include "vmm/cli_save.h"
#include "vmm/pack.h"

#define MIB (1024.0 * 1024.0)

static bool is_standard(const char *path)
{
	return strcmp(path, "-") == 0;
}

static int no_output(const char *what)
{
	cli_error("no name to write to; `cowslip image %s`", what);
	return CLI_FAILED;
}

static int put_stdout(void *ctx, const void *data, size_t size)
{
	(void)ctx;
	return cli_write(STDOUT_FILENO, data, size);
}

static void say_packed(const char *path, const struct pack_info *i, uint64_t ns)
{
	fprintf(stderr, "packed %s: ", path);
	if (i->files > 1)
		fprintf(stderr, "%" PRIu32 " files, ", i->files);
	fprintf(stderr, "%.1f MiB of guest memory in %.1f MiB, %" PRIu64 " ms\n",
	        (double)i->data_bytes / MIB, (double)i->packed_bytes / MIB,
	        (ns + 500000) / 1000000);
}

int cli_image_pack(const struct image_command *c)
{
	struct cli_bar bar = {0};
	struct pack_request r = {
		.image = c->path[0],
		.level = (unsigned)c->level,
		.path = c->output,
		.put = put_stdout,
		.progress = cli_bar_progress(&bar),
	};
	uint64_t start = clock_ns();
	struct snapshot_error err;
	struct pack_info info;
	int e;

	if (!c->output)
		return no_output("pack IMAGE -o FILE");
	if (is_standard(c->output)) {
		if (isatty(STDOUT_FILENO)) {
			cli_error("a packed image is nothing for a terminal; redirect stdout");
			return CLI_FAILED;
		}
		r.path = NULL;
	}
	r.hook = cli_guard_begin();
	e = pack_image(&r, &info, &err);
	cli_guard_end();
	cli_bar_clear(&bar);
	if (e)
		return cli_image_failed(&err);
	say_packed(c->path[0], &info, clock_ns() - start);
	return CLI_OK;
}

static int unpack_from(const struct image_command *c, int fd, const char *name)
{
	struct cli_bar bar = {0};
	struct unpack_request r = {
		.from = fd,
		.name = name,
		.path = c->output,
		.progress = cli_bar_progress(&bar),
	};
	uint64_t start = clock_ns();
	struct snapshot_error err;
	int e;

	r.hook = cli_guard_begin();
	e = unpack_image(&r, NULL, &err);
	cli_guard_end();
	cli_bar_clear(&bar);
	if (e)
		return cli_image_failed(&err);
	cli_say_saved(c->output, clock_ns() - start);
	return CLI_OK;
}

int cli_image_unpack(const struct image_command *c)
{
	int fd, status;

	if (!c->output)
		return no_output("unpack FILE -o IMAGE");
	if (is_standard(c->output)) {
		cli_error("an image goes to a file, not to stdout; name one with -o");
		return CLI_FAILED;
	}
	if (cli_image_may_replace(c->output))
		return CLI_FAILED;
	if (is_standard(c->path[0]))
		return unpack_from(c, STDIN_FILENO, "stdin");
	fd = open(c->path[0], O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		cli_error("%s cannot be opened: %s", c->path[0], strerror(errno));
		return CLI_FAILED;
	}
	status = unpack_from(c, fd, c->path[0]);
	close(fd);
	return status;
}
