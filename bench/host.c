// SPDX-License-Identifier: MIT
#include "bench/host.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "mm/types.h"
#include "vmm/hostinfo.h"

#define MIB        (UINT64_C(1) << 20)
#define STEAL_MUCH 0.02
#define WARM_STEP  (64 * MIB)

/* ---- reading ---- */

static void read_kernel(struct host *h)
{
	struct utsname u;
	const char *told_by;

	if (uname(&u) == 0)
		snprintf(h->kernel, sizeof(h->kernel), "%.40s %.60s %.20s", u.sysname, u.release,
		         u.machine);
	snprintf(h->kvm, sizeof(h->kvm), "%s", hostinfo_kvm(&told_by));
	snprintf(h->kvm_told_by, sizeof(h->kvm_told_by), "%s", told_by);
}

static void read_load(struct host *h, const char *root)
{
	char text[HOST_TEXT_MAX], *at = text;

	(void)hostinfo_line(root, "/proc/loadavg", text, sizeof(text));
	for (unsigned i = 0; i < 3; i++)
		h->load[i] = strtod(at, &at);
}

/* "0-3,5" is five CPUs. */
static unsigned count_listed(const char *list)
{
	unsigned count = 0;
	char *at = (char *)list, *end;

	for (;;) {
		unsigned long first = strtoul(at, &end, 10), last = first;

		if (end == at)
			return count;
		if (*end == '-')
			last = strtoul(end + 1, &end, 10);
		count += last >= first ? (unsigned)(last - first + 1) : 0;
		at = *end == ',' ? end + 1 : end;
	}
}

static void read_cpu(struct host *h, const char *root)
{
	char text[HOST_TEXT_MAX];

	(void)hostinfo_field(root, "/proc/cpuinfo", "model name", h->cpu, sizeof(h->cpu));
	(void)hostinfo_line(root, "/sys/devices/system/cpu/online", text, sizeof(text));
	h->cpus = count_listed(text);
	h->cpu_max = hostinfo_cpu_limit(root);
	read_load(h, root);
}

static void read_huge(struct host *h, const char *root)
{
	static const char thp[] = "/sys/kernel/mm/transparent_hugepage/";
	static const char pools[] = "/sys/kernel/mm/hugepages/hugepages-";
	char path[HOST_TEXT_MAX];

	snprintf(path, sizeof(path), "%senabled", thp);
	(void)hostinfo_line(root, path, h->thp, sizeof(h->thp));
	hostinfo_chosen(h->thp);
	snprintf(path, sizeof(path), "%sshmem_enabled", thp);
	(void)hostinfo_line(root, path, h->shmem_thp, sizeof(h->shmem_thp));
	hostinfo_chosen(h->shmem_thp);
	(void)hostinfo_line(root, "/sys/module/kvm/parameters/nx_huge_pages", h->nx_huge_pages,
	                    sizeof(h->nx_huge_pages));
	snprintf(path, sizeof(path), "%s2048kB/nr_hugepages", pools);
	(void)hostinfo_number(root, path, &h->huge_2m);
	snprintf(path, sizeof(path), "%s1048576kB/nr_hugepages", pools);
	(void)hostinfo_number(root, path, &h->huge_1g);
}

void host_read_under(struct host *h, const char *root)
{
	*h = (struct host){0};
	read_kernel(h);
	read_cpu(h, root);
	read_huge(h, root);
	h->memory_total = hostinfo_meminfo(root, "MemTotal");
	h->memory_available = hostinfo_meminfo(root, "MemAvailable");
	(void)hostinfo_cgroup(root, "memory", h->cgroup, sizeof(h->cgroup));
	h->memory_max = hostinfo_memory_limit(root);
}

void host_read(struct host *h)
{
	host_read_under(h, "");
}

/* ---- telling ---- */

/* NULL is JSON's null to json_pack("s?"). */
static const char *or_null(const char *text)
{
	return text[0] ? text : NULL;
}

json_t *host_json(const struct host *h)
{
	json_t *memory_max =
		h->memory_max == UINT64_MAX ? json_null() : json_integer((json_int_t)h->memory_max);
	json_t *cpu_max = h->cpu_max > 0 ? json_real(h->cpu_max) : json_null();

	return json_pack("{s:s, s:{s:s, s:s}, s:s?, s:I, s:[f, f, f], s:s?, s:s?, s:s?, "
	                 "s:{s:I, s:I}, s:{s:I, s:I}, s:{s:s?, s:o, s:o}}",
	                 "kernel", h->kernel, "kvm", "kind", h->kvm, "told_by", h->kvm_told_by,
	                 "cpu", or_null(h->cpu), "cpus", (json_int_t)h->cpus, "load", h->load[0],
	                 h->load[1], h->load[2], "thp", or_null(h->thp), "shmem_thp",
	                 or_null(h->shmem_thp), "nx_huge_pages", or_null(h->nx_huge_pages),
	                 "huge_pages", "2m", (json_int_t)h->huge_2m, "1g", (json_int_t)h->huge_1g,
	                 "memory", "total_bytes", (json_int_t)h->memory_total, "available_bytes",
	                 (json_int_t)h->memory_available, "cgroup", "path", or_null(h->cgroup),
	                 "memory_max_bytes", memory_max, "cpu_max", cpu_max);
}

uint64_t host_memory_room(const struct host *h)
{
	return min_u64(h->memory_available, h->memory_max);
}

void host_warn(const struct host *h, host_say_fn *say, void *ctx)
{
	char text[2 * HOST_TEXT_MAX];

	if (h->cpus > 0 && h->load[0] > 0.5 * h->cpus) {
		snprintf(text, sizeof(text),
		         "the host was busy before the run: load %.2f on %u CPUs", h->load[0],
		         h->cpus);
		say(ctx, text);
	}
	if (h->cpu_max > 0 && h->cpu_max < h->cpus) {
		snprintf(text, sizeof(text),
		         "the cgroup may use %.2f of %u CPUs: long runs are throttled", h->cpu_max,
		         h->cpus);
		say(ctx, text);
	}
}

/* ---- what comes between ---- */

/* "cpu  user nice system idle iowait irq softirq steal guest guest_nice": guest is in user. */
void host_watch_read(struct host_watch *w, const char *root)
{
	enum { STEAL = 7, COLUMNS = 8 };
	char text[HOST_TEXT_MAX * 2], *at = text, *end;

	*w = (struct host_watch){0};
	if (hostinfo_line(root, "/proc/stat", text, sizeof(text)) || strncmp(text, "cpu ", 4) != 0)
		return;
	at += 4;
	for (unsigned i = 0; i < COLUMNS; i++, at = end) {
		uint64_t ticks = strtoull(at, &end, 10);

		w->total += ticks;
		if (i == STEAL)
			w->steal = ticks;
	}
}

void host_watch_judge(const struct host_watch *before, const struct host_watch *after,
                      host_say_fn *say, void *ctx)
{
	char text[HOST_TEXT_MAX];
	double share;

	if (after->total <= before->total || after->steal <= before->steal)
		return;
	share = (double)(after->steal - before->steal) / (double)(after->total - before->total);
	if (share <= STEAL_MUCH)
		return;
	snprintf(text, sizeof(text),
	         "the hypervisor under this host took %.0f %% of the CPUs' time during the run",
	         100 * share);
	say(ctx, text);
}

void host_watch_start(struct host_watch *w)
{
	host_watch_read(w, "");
}

void host_watch_end(const struct host_watch *w, host_say_fn *say, void *ctx)
{
	struct host_watch now;

	host_watch_read(&now, "");
	host_watch_judge(w, &now, say, ctx);
}

/* ---- warming up ---- */

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

/* Where the kernel cannot populate, by hand. */
static int touch(volatile char *at, size_t size)
{
	if (madvise((void *)at, size, MADV_POPULATE_WRITE) == 0)
		return 0;
	if (errno != EINVAL)
		return -ENOMEM;
	for (size_t i = 0; i < size; i += MM_PAGE_SIZE)
		at[i] = 1;
	return 0;
}

static int warm(uint64_t bytes, int advice)
{
	char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
	                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int r = 0;

	if (at == MAP_FAILED)
		return -ENOMEM;
	(void)madvise(at, bytes, advice);
	for (uint64_t done = 0; done < bytes && r == 0; done += WARM_STEP)
		r = touch(at + done, min_u64(WARM_STEP, bytes - done));
	munmap(at, bytes);
	return r;
}

/*
 * The kernel's free memory lies in lists by size, and the last freed is the first taken: small
 * pages come from what is left of broken blocks, which leaves cold what huge ones are taken from.
 */
int host_warm(uint64_t bytes)
{
	int r = warm(bytes, MADV_NOHUGEPAGE);

	return r ? r : warm(bytes, MADV_HUGEPAGE);
}
