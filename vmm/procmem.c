// SPDX-License-Identifier: MIT
#include "vmm/procmem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
		{"Private_Clean", &out->private_bytes},
		{"Private_Dirty", &out->private_bytes},
	};
	const struct wanted status[] = {{"VmPTE", &out->page_table_bytes}};
	int r;

	*out = (struct procmem){0};
	r = read_lines(pid, "smaps_rollup", rollup, 3);
	return r ? r : read_lines(pid, "status", status, 1);
}
