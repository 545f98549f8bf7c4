// SPDX-License-Identifier: MIT
#include "vmm/procmem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/hostinfo.h"

/* "Name:   123 kB" lines to look for. */
struct wanted {
	const char *name;
	uint64_t *sum;
};

static void take_line(const char *line, const struct wanted *w, size_t count, unsigned *found)
{
	for (size_t i = 0; i < count; i++) {
		size_t n = strlen(w[i].name);
		char *end;
		uint64_t kib;

		if (strncmp(line, w[i].name, n) != 0 || line[n] != ':')
			continue;
		kib = strtoull(line + n + 1, &end, 10);
		if (end == line + n + 1)
			continue;
		*w[i].sum += kib << 10;
		++*found;
	}
}

static int read_lines(pid_t pid, const char *file, const struct wanted *w, size_t count)
{
	char text[256];
	unsigned found = 0;
	FILE *f;

	snprintf(text, sizeof(text), "/proc/%d/%s", (int)pid, file);
	f = fopen(text, "re");
	if (!f)
		return -errno;
	while (fgets(text, sizeof(text), f))
		take_line(text, w, count, &found);
	fclose(f);
	return found == count ? 0 : -EBADMSG;
}

int procmem_read(pid_t pid, struct procmem *out)
{
	const struct wanted rollup[] = {
		{"Pss", &out->pss_bytes},
		{"Anonymous", &out->anonymous_bytes},
		{"Private_Clean", &out->private_bytes},
		{"Private_Dirty", &out->private_bytes},
	};
	const struct wanted status[] = {{"VmPTE", &out->page_table_bytes}};
	int r;

	*out = (struct procmem){0};
	r = read_lines(pid, "smaps_rollup", rollup, 4);
	return r ? r : read_lines(pid, "status", status, 1);
}

uint64_t procmem_tables(void)
{
	char text[64];

	if (hostinfo_field("", "/proc/self/status", "VmPTE", text, sizeof(text)))
		return 0;
	return strtoull(text, NULL, 10) << 10;
}

/* Version 1 has a file for it, version 2 a line "kernel 123" in one. */
static uint64_t cgroup_kernel(void)
{
	char cgroup[512], path[640], line[256];
	uint64_t bytes = 0;
	FILE *f;

	if (hostinfo_cgroup("", "memory", cgroup, sizeof(cgroup)))
		return 0;
	snprintf(path, sizeof(path), "/sys/fs/cgroup/memory%s/memory.kmem.usage_in_bytes", cgroup);
	if (hostinfo_number("", path, &bytes) == 0)
		return bytes;
	snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.stat", cgroup);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, "kernel ", 7) == 0)
			bytes = strtoull(line + 7, NULL, 10);
	if (f)
		fclose(f);
	return bytes;
}

void hostmem_read(struct hostmem *out)
{
	*out = (struct hostmem){
		.available_bytes = hostinfo_meminfo("", "MemAvailable"),
		.free_bytes = hostinfo_meminfo("", "MemFree"),
		.kvm_tables_bytes = hostinfo_meminfo("", "SecPageTables"),
		.kernel_bytes = cgroup_kernel(),
	};
}
