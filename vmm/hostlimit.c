// SPDX-License-Identifier: MIT
#include "vmm/hostlimit.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* A call that maps may need a few more at once: so near to the limit it is the cause. */
#define NEAR_MAPS 8u

/* A file with one number. 0: it cannot be read. */
static uint64_t read_number(const char *path)
{
	char text[32];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	return strtoull(text, NULL, 10);
}

/* Lines of /proc/self/maps: one for each mapping. */
static uint64_t count_maps(void)
{
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	uint64_t count = 0;
	char part[4096];
	ssize_t n;

	if (fd < 0)
		return 0;
	while ((n = read(fd, part, sizeof(part))) > 0)
		for (ssize_t i = 0; i < n; i++)
			count += part[i] == '\n';
	close(fd);
	return count;
}

static void say_maps(uint64_t more, char *buf, size_t size)
{
	uint64_t most = read_number("/proc/sys/vm/max_map_count"), have = count_maps();

	if (most == 0 || have + more + NEAR_MAPS < most)
		return;
	snprintf(buf, size,
	         "; a process may have %" PRIu64 " mappings, this one has %" PRIu64
	         ", and needs more: raise sysctl vm.max_map_count",
	         most, have);
}

static void say_files(char *buf, size_t size)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) == 0)
		snprintf(buf, size, "; this process may have %" PRIu64 ": raise ulimit -n",
		         (uint64_t)r.rlim_cur);
}

const char *hostlimit_why(int code, uint64_t maps, char buf[HOSTLIMIT_TEXT_MAX])
{
	size_t len;

	snprintf(buf, HOSTLIMIT_TEXT_MAX, "%s", strerror(-code));
	len = strlen(buf);
	switch (-code) {
	case ENOMEM:
		say_maps(maps, buf + len, HOSTLIMIT_TEXT_MAX - len);
		break;
	case EMFILE:
		say_files(buf + len, HOSTLIMIT_TEXT_MAX - len);
		break;
	case ENFILE:
		snprintf(buf + len, HOSTLIMIT_TEXT_MAX - len,
		         "; the host may have %" PRIu64 ": raise sysctl fs.file-max",
		         read_number("/proc/sys/fs/file-max"));
		break;
	case EAGAIN:
		snprintf(buf + len, HOSTLIMIT_TEXT_MAX - len,
		         "; threads and processes are limited by ulimit -u and by the cgroup's "
		         "pids.max");
		break;
	default:
		break;
	}
	return buf;
}
