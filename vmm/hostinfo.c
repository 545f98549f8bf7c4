// SPDX-License-Identifier: MIT
#include "vmm/hostinfo.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "mm/types.h"

#define TEXT_MAX       256u
#define PATH_MAX_BYTES (4 * TEXT_MAX)

static FILE *open_file(const char *root, const char *path)
{
	char whole[PATH_MAX_BYTES];
	int n = snprintf(whole, sizeof(whole), "%s%s", root, path);

	if (n < 0 || (size_t)n >= sizeof(whole)) {
		errno = ENAMETOOLONG;
		return NULL;
	}
	return fopen(whole, "re");
}

int hostinfo_line(const char *root, const char *path, char *text, size_t size)
{
	FILE *f = open_file(root, path);
	int r = 0;

	text[0] = '\0';
	if (!f)
		return -errno;
	if (!fgets(text, (int)size, f)) {
		text[0] = '\0';
		r = -ENODATA;
	}
	fclose(f);
	text[strcspn(text, "\n")] = '\0';
	return r;
}

int hostinfo_number(const char *root, const char *path, uint64_t *out)
{
	char text[TEXT_MAX], *end;
	int r = hostinfo_line(root, path, text, sizeof(text));

	if (r)
		return r;
	*out = strtoull(text, &end, 10);
	return end == text ? -EINVAL : 0;
}

void hostinfo_chosen(char *text)
{
	char *from = strchr(text, '['), *to = from ? strchr(from, ']') : NULL;

	if (!to)
		return;
	*to = '\0';
	memmove(text, from + 1, (size_t)(to - from));
}

/* "NAME", blanks, a colon: what follows, or NULL. */
static char *after_name(char *line, const char *name)
{
	size_t len = strlen(name);

	if (strncmp(line, name, len) != 0)
		return NULL;
	len += strspn(line + len, " \t");
	return line[len] == ':' ? line + len + 1 : NULL;
}

int hostinfo_field(const char *root, const char *path, const char *name, char *text, size_t size)
{
	FILE *f = open_file(root, path);
	char line[PATH_MAX_BYTES], *at = NULL;

	text[0] = '\0';
	if (!f)
		return -errno;
	while (!at && fgets(line, sizeof(line), f))
		at = after_name(line, name);
	fclose(f);
	if (!at)
		return -ENOENT;
	at += strspn(at, " \t");
	at[strcspn(at, "\n")] = '\0';
	for (char *end = at + strlen(at); end > at && end[-1] == ' ';)
		*--end = '\0';
	snprintf(text, size, "%s", at);
	return 0;
}

uint64_t hostinfo_meminfo(const char *root, const char *name)
{
	char text[TEXT_MAX];

	(void)hostinfo_field(root, "/proc/meminfo", name, text, sizeof(text));
	return strtoull(text, NULL, 10) * 1024;
}

/* ---- huge pages ---- */

/* One of the numbers kept for pages of `bytes`; *path is its file. */
static int huge_number(const char *root, uint64_t bytes, const char *name, char *path, size_t size,
                       uint64_t *out)
{
	*out = 0;
	snprintf(path, size, "/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB/%s", bytes >> 10,
	         name);
	return hostinfo_number(root, path, out);
}

int hostinfo_huge(const char *root, uint64_t bytes, struct hostinfo_huge *out)
{
	uint64_t promised, more, surplus;
	char path[sizeof(out->file)];

	(void)huge_number(root, bytes, "free_hugepages", path, sizeof(path), &out->free);
	(void)huge_number(root, bytes, "resv_hugepages", path, sizeof(path), &promised);
	(void)huge_number(root, bytes, "nr_overcommit_hugepages", path, sizeof(path), &more);
	(void)huge_number(root, bytes, "surplus_hugepages", path, sizeof(path), &surplus);
	out->free -= min_u64(out->free, promised);
	out->free += more - min_u64(more, surplus);
	return huge_number(root, bytes, "nr_hugepages", out->file, sizeof(out->file), &out->all);
}

/* ---- cgroups ---- */

/* Is `name` one of the comma-separated `list`, which ends at `end`? */
static bool listed(const char *list, const char *end, const char *name)
{
	size_t len = strlen(name);

	while (list < end) {
		size_t word = strcspn(list, ",:");

		if (word == len && memcmp(list, name, len) == 0)
			return true;
		list += word + 1;
	}
	return false;
}

/*
 * A line of /proc/self/cgroup, "4:memory:/a/b" or "0::/a/b". *v1: of a hierarchy of this
 * controller's own. Return: the path in it, NULL when the controller is another.
 */
static const char *path_of(char *line, const char *controller, bool *v1)
{
	char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;

	if (!path)
		return NULL;
	path[1 + strcspn(path + 1, "\n")] = '\0';
	*v1 = path > names + 1;
	if (*v1 && !listed(names + 1, path, controller))
		return NULL;
	return path + 1;
}

struct cgroup {
	bool v1;
	char path[TEXT_MAX];
};

static int find_cgroup(const char *root, const char *controller, struct cgroup *out)
{
	FILE *f = open_file(root, "/proc/self/cgroup");
	char line[PATH_MAX_BYTES];
	bool v1, found = false;

	*out = (struct cgroup){0};
	while (f && fgets(line, sizeof(line), f)) {
		const char *path = path_of(line, controller, &v1);

		if (!path || (found && !v1))
			continue;
		out->v1 = v1;
		snprintf(out->path, sizeof(out->path), "%s", path);
		found = true;
	}
	if (f)
		fclose(f);
	return found ? 0 : -ENOENT;
}

int hostinfo_cgroup(const char *root, const char *controller, char *text, size_t size)
{
	struct cgroup c;
	int r = find_cgroup(root, controller, &c);

	snprintf(text, size, "%s", c.path);
	return r;
}

/* From the cgroup up to the root: `look` at each directory. */
static void walk_up(const char *root, const char *controller,
                    void (*look)(const char *root, const char *dir, bool v1, void *to), void *to)
{
	struct cgroup c;
	char dir[2 * TEXT_MAX], *slash;

	if (find_cgroup(root, controller, &c))
		return;
	for (;;) {
		snprintf(dir, sizeof(dir), "/sys/fs/cgroup%s%s%s", c.v1 ? "/" : "",
		         c.v1 ? controller : "", c.path);
		look(root, dir, c.v1, to);
		slash = strrchr(c.path, '/');
		if (!slash)
			return;
		*slash = '\0';
	}
}

static void look_memory(const char *root, const char *dir, bool v1, void *to)
{
	uint64_t *least = to, n;
	char file[PATH_MAX_BYTES];

	snprintf(file, sizeof(file), "%s/%s", dir, v1 ? "memory.limit_in_bytes" : "memory.max");
	/* Version 2 says "max" for none, version 1 a number near 2^63. */
	if (hostinfo_number(root, file, &n) == 0 && n < UINT64_C(1) << 60)
		*least = min_u64(*least, n);
}

uint64_t hostinfo_memory_limit(const char *root)
{
	uint64_t least = UINT64_MAX;

	walk_up(root, "memory", look_memory, &least);
	return least;
}

/* Time it may use and out of how much, as text; "max" and "-1" are no limit. */
static void read_quota(const char *root, const char *dir, bool v1, char *text, size_t size)
{
	char file[PATH_MAX_BYTES], period[32];
	size_t len;

	snprintf(file, sizeof(file), "%s/%s", dir, v1 ? "cpu.cfs_quota_us" : "cpu.max");
	if (hostinfo_line(root, file, text, size) || !v1)
		return;
	snprintf(file, sizeof(file), "%s/cpu.cfs_period_us", dir);
	(void)hostinfo_line(root, file, period, sizeof(period));
	len = strlen(text);
	snprintf(text + len, size - len, " %s", period);
}

static void look_cpu(const char *root, const char *dir, bool v1, void *to)
{
	double *least = to, quota, period;
	char text[64], *end;

	read_quota(root, dir, v1, text, sizeof(text));
	quota = strtod(text, &end);
	period = strtod(end, NULL);
	if (quota > 0 && period > 0 && (*least == 0 || quota / period < *least))
		*least = quota / period;
}

double hostinfo_cpu_limit(const char *root)
{
	double least = 0;

	walk_up(root, "cpu", look_cpu, &least);
	return least;
}

const char *hostinfo_kvm(const char **told_by)
{
	*told_by = arch_kvm_told_by();
	return arch_kvm_kind();
}
