// SPDX-License-Identifier: MIT
/*
 * bench/host.h - the state of the host that a figure was measured on; what of it spoils figures.
 *
 * Reads what the kernel shows in files and changes nothing, but for host_warm(), which takes memory
 * for a while.
 *
 *     JSON           {"kernel", "kvm": {"kind", "told_by"}, "cpu", "cpus", "load": [1, 5, 15 min],
 *                    "thp", "shmem_thp", "nx_huge_pages", "huge_pages": {"2m", "1g"} (reserved),
 *                    "memory": {"total_bytes", "available_bytes"},
 *                    "cgroup": {"path", "memory_max_bytes", "cpu_max"}}
 *                    null stands for no limit and for what this kernel does not have
 *
 * Concurrency: none; one thread.
 */
#ifndef COWSLIP_BENCH_HOST_H
#define COWSLIP_BENCH_HOST_H

#include <jansson.h>
#include <stdint.h>

#define HOST_TEXT_MAX 128u

/* Strings are empty when this kernel has no such thing. */
struct host {
	char kernel[HOST_TEXT_MAX];      /* "Linux 6.18.44 x86_64" */
	char kvm[HOST_TEXT_MAX];         /* arch_kvm_kind() */
	char kvm_told_by[HOST_TEXT_MAX]; /* arch_kvm_told_by() */
	char cpu[HOST_TEXT_MAX];         /* the model's name */
	unsigned cpus;                   /* online */
	double load[3];
	char thp[HOST_TEXT_MAX];       /* "always", "madvise", "never" */
	char shmem_thp[HOST_TEXT_MAX]; /* of memory in files: the pool */
	char nx_huge_pages[HOST_TEXT_MAX];
	uint64_t huge_2m, huge_1g; /* hugetlb pages reserved */
	uint64_t memory_total, memory_available;
	char cgroup[HOST_TEXT_MAX]; /* the memory controller's path */
	uint64_t memory_max;        /* least of the cgroup and those above it; UINT64_MAX: none */
	double cpu_max;             /* CPUs' worth of time the cgroup may use; 0: no limit */
};

/* What cannot be found out stays empty or 0. */
void host_read(struct host *h);

/* The same, of files under `root` instead of "": for tests. Kernel and KVM are the real ones. */
void host_read_under(struct host *h, const char *root);

/* Return: a new reference; NULL when there is no memory. */
json_t *host_json(const struct host *h);

/* How much a run may use at most: what is available, less what the cgroup forbids. Bytes. */
uint64_t host_memory_room(const struct host *h);

/*
 * What of this spoils figures, before anything has run: one call of `say` for each thing, with a
 * sentence. Load (more than half of the CPUs busy already), a CPU limit below the CPUs there are.
 */
typedef void host_say_fn(void *ctx, const char *sentence);
void host_warn(const struct host *h, host_say_fn *say, void *ctx);

/*
 * What came between during a run. start, then the run, then end: warns when the hypervisor under
 * this host took more than 2 % of the CPUs' time (steal).
 */
struct host_watch {
	uint64_t total, steal; /* clock ticks of all CPUs since boot */
};
void host_watch_start(struct host_watch *w);
void host_watch_end(const struct host_watch *w, host_say_fn *say, void *ctx);
/* The same of a /proc/stat of the caller's: for tests. */
void host_watch_read(struct host_watch *w, const char *root);
void host_watch_judge(const struct host_watch *before, const struct host_watch *after,
                      host_say_fn *say, void *ctx);

/*
 * Touch `bytes` of memory in 4 KiB pages, then in 2 MiB ones where the host has them, and give it
 * back: memory that the host itself has never used, or has handed back to a host of its own, costs
 * many times more on its first touch, and would be charged to whoever runs first.
 * Return: 0; -ENOMEM when there is not that much (what there is was touched).
 */
int host_warm(uint64_t bytes);

#endif
