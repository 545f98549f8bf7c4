// SPDX-License-Identifier: MIT
/*
 * vmm/cli_output.c - the command line's messages, its output, and the statistics file.
 *
 * Invariant: a line on stderr is one write(2), so lines of several processes do not mix.
 * Concurrency: no state of its own.
 * Does not: decide what to say; commands do.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli.h"

#define LINE_MAX_BYTES 2048u
#define PREFIX         "cowslip: "

/* A message that cannot be written has nowhere else to go: the result is dropped. */
static void put_line(const char *lead, const char *text, size_t size)
{
	char line[LINE_MAX_BYTES];
	int n = snprintf(line, sizeof(line) - 1, PREFIX "%s%.*s", lead, (int)size, text);
	size_t len = (size_t)n < sizeof(line) - 1 ? (size_t)n : sizeof(line) - 2;

	for (size_t i = 0; i < len; i++)
		if (line[i] == '\n' || line[i] == '\r')
			line[i] = ' ';
	line[len] = '\n';
	(void)cli_write(STDERR_FILENO, line, len + 1);
}

void cli_error(const char *format, ...)
{
	char text[LINE_MAX_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	put_line("", text, strlen(text));
}

void cli_report(const char *lead, const char *text)
{
	const char *end;

	for (;;) {
		end = strchrnul(text, '\n');
		put_line(lead, text, (size_t)(end - text));
		if (*end == '\0' || end[1] == '\0')
			return;
		text = end + 1;
		lead = "";
	}
}

static void wait_writable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	(void)poll(&p, 1, -1);
}

int cli_write(int fd, const void *data, size_t size)
{
	const char *at = data;
	ssize_t n;

	while (size > 0) {
		n = write(fd, at, size);
		if (n >= 0) {
			at += n;
			size -= (size_t)n;
		} else if (errno == EAGAIN) {
			wait_writable(fd);
		} else if (errno != EINTR) {
			return -errno;
		}
	}
	return 0;
}

static void complain_stdout(int err)
{
	cli_error("cannot write to standard output: %s; %s", strerror(err),
	          err == EPIPE ? "its reader has gone" : "send it elsewhere");
}

void cli_put(const void *data, size_t size)
{
	int r = cli_write(STDOUT_FILENO, data, size);

	if (r == 0)
		return;
	complain_stdout(-r);
	exit(CLI_FAILED);
}

int cli_flush_stdout(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return CLI_OK;
	complain_stdout(errno ? errno : EIO);
	return CLI_FAILED;
}

int cli_put_json(json_t *json)
{
	char *text = json ? json_dumps(json, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;

	json_decref(json);
	if (!text) {
		cli_error("no memory for the JSON text");
		return CLI_FAILED;
	}
	printf("%s\n", text);
	free(text);
	return cli_flush_stdout();
}

static const char *kvm_remedy(int err)
{
	switch (err) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return "load the kvm module or, in a virtual machine, have nested virtualization "
		       "switched on";
	case EACCES:
	case EPERM:
		return "add yourself to group kvm or run as root";
	case ENOTTY:
		return "it is not KVM's device; find out what put it there";
	case ENOTSUP:
		return "this KVM speaks another API than version 12";
	default:
		return "guests need it";
	}
}

const char *cli_shortage_remedy(enum vm_shortage s)
{
	switch (s) {
	case SHORT_OF_LIMIT:
		return "; allow more with --limit";
	case SHORT_OF_POOL:
		return "; fork less, or have a larger pool with a larger --mem";
	case SHORT_OF_NOTHING:
	case SHORT_OF_HOST:
		break;
	}
	return "";
}

int cli_open_kvm(struct kvm *k)
{
	int r = kvm_open(k, NULL);

	if (r)
		cli_error("/dev/kvm: %s; %s; `cowslip doctor` tells more", strerror(-r),
		          kvm_remedy(-r));
	return r;
}

int cli_stats_choose(struct cli_stats *s, const char *text)
{
	if (!text) {
		s->text = true;
	} else if (strcmp(text, "json") == 0) {
		s->json = true;
	} else {
		cli_error("--stats=%s: not a kind of statistics; use --stats or --stats=json",
		          text);
		return -EINVAL;
	}
	return 0;
}

bool cli_stats_wanted(const struct cli_stats *s)
{
	return s->text || s->json || s->path;
}

/* The file keeps what it holds until there is something to put there instead. */
int cli_stats_open(struct cli_stats *s)
{
	int r;

	if (!s->path)
		return 0;
	s->fd = open(s->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	s->made = s->fd >= 0;
	if (s->fd < 0 && errno == EEXIST)
		s->fd = open(s->path, O_WRONLY | O_CLOEXEC);
	if (s->fd < 0) {
		r = -errno;
		cli_error("--stats-file %s: %s; name a file that can be written", s->path,
		          strerror(-r));
		return r;
	}
	s->opened = true;
	return 0;
}

static int put_file(struct cli_stats *s, const char *text)
{
	int r;

	/* A pipe or a terminal cannot be cut, and need not be. */
	if (ftruncate(s->fd, 0) < 0 && errno != EINVAL) {
		r = -errno;
	} else {
		r = cli_write(s->fd, text, strlen(text));
	}
	if (r)
		cli_error("--stats-file %s: %s; the statistics are lost", s->path, strerror(-r));
	else
		s->made = false;
	return r;
}

int cli_stats_put(struct cli_stats *s, const json_t *json)
{
	char *text, *line;
	int r = 0;

	if (!s->json && !s->path)
		return 0;
	text = json ? json_dumps(json, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
	if (!text || asprintf(&line, "%s\n", text) < 0) {
		free(text);
		cli_error("no memory for the statistics; they are lost");
		return -ENOMEM;
	}
	if (s->opened)
		r = put_file(s, line);
	else
		(void)cli_write(STDERR_FILENO, line, strlen(line));
	free(line);
	free(text);
	return r;
}

void cli_stats_close(struct cli_stats *s)
{
	if (!s->opened)
		return;
	close(s->fd);
	if (s->made)
		unlink(s->path);
	s->opened = false;
}
