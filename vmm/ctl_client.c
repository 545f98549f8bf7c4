// SPDX-License-Identifier: MIT
/*
 * vmm/ctl_client.c - asking, and what both ends of a control socket share.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/ctl_internal.h"

#define REPLY_MAX (16u << 20)

int ctl_fail(struct vm_error *err, int code, const char *path, const char *why)
{
	snprintf(err->text, sizeof(err->text), "%.400s: %s", path, why);
	return code;
}

int ctl_address(const char *path, struct sockaddr_un *out, struct vm_error *err)
{
	char why[96];

	*out = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) < sizeof(out->sun_path)) {
		memcpy(out->sun_path, path, strlen(path));
		return 0;
	}
	snprintf(why, sizeof(why), "too long for a socket; %zu bytes are the most, so go nearer",
	         sizeof(out->sun_path) - 1);
	return ctl_fail(err, -ENAMETOOLONG, path, why);
}

int ctl_send(int fd, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t n = send(fd, data, size, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		size -= (size_t)n;
	}
	return 0;
}

static int connect_to(const char *path, int *out, struct vm_error *err)
{
	struct sockaddr_un address;
	int r = ctl_address(path, &address, err);
	int fd;

	if (r)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return ctl_fail(err, -errno, path, strerror(errno));
	while ((r = connect(fd, (struct sockaddr *)&address, sizeof(address))) < 0)
		if (errno != EINTR)
			break;
	if (r < 0) {
		r = -errno;
		close(fd);
		return ctl_fail(err, r, path,
		                r == -ECONNREFUSED ? "nobody listens there any more"
		                                   : strerror(-r));
	}
	*out = fd;
	return 0;
}

/* A whole line, however long it takes. Return: 0; -ECONNRESET; -EMSGSIZE; -ENOMEM. */
static int receive_line(int fd, char **out)
{
	size_t len = 0, room = 4096;
	char *line = malloc(room), *more, *end;
	int r = line ? 0 : -ENOMEM;

	while (r == 0) {
		ssize_t n = recv(fd, line + len, room - len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			r = -ECONNRESET;
			break;
		}
		end = memchr(line + len, '\n', (size_t)n);
		len += (size_t)n;
		if (end) {
			*end = '\0';
			*out = line;
			return 0;
		}
		if (len < room)
			continue;
		if (room >= REPLY_MAX) {
			r = -EMSGSIZE;
			break;
		}
		more = realloc(line, room *= 2);
		if (!more)
			r = -ENOMEM;
		else
			line = more;
	}
	free(line);
	return r;
}

static int ask(int fd, const char *line, char **reply)
{
	int r = ctl_send(fd, line, strlen(line));

	if (r == 0)
		r = ctl_send(fd, "\n", 1);
	/* Whoever refuses before it has read has still said why. */
	return r == 0 || r == -EPIPE ? receive_line(fd, reply) : r;
}

int ctl_ask(const char *path, const char *line, char **reply, struct vm_error *err)
{
	int fd = -1, r = connect_to(path, &fd, err);

	if (r)
		return r;
	r = ask(fd, line, reply);
	close(fd);
	if (r == -ECONNRESET || r == -EPIPE)
		return ctl_fail(err, -ECONNRESET, path, "it ended without an answer");
	return r ? ctl_fail(err, r, path, strerror(-r)) : 0;
}
