// SPDX-License-Identifier: MIT
/*
 * vmm/hostinfo.h - what the host's kernel says of itself in files, read in one place.
 *
 * `root` stands in front of every path: "" is this host, anything else a tree of a test's.
 *
 * Concurrency: none; any thread.
 */
#ifndef COWSLIP_VMM_HOSTINFO_H
#define COWSLIP_VMM_HOSTINFO_H

#include <stddef.h>
#include <stdint.h>

/* The first line of a file, cut to `size`. Return: 0; -ENODATA; -errno of opening. `text` is then
 * empty. */
int hostinfo_line(const char *root, const char *path, char *text, size_t size);

/* The number a file begins with. Return: 0; -EINVAL when it begins with none; as above. */
int hostinfo_number(const char *root, const char *path, uint64_t *out);

/* "always [madvise] never" -> "madvise", in place; any other text stays. */
void hostinfo_chosen(char *text);

/*
 * What follows "NAME" and a colon on the first line of a file that begins so, without blanks around
 * it. Return: 0; -ENOENT when there is no such line; -errno of opening. `text` is then empty.
 */
int hostinfo_field(const char *root, const char *path, const char *name, char *text, size_t size);

/* A line "MemAvailable:   123 kB" of /proc/meminfo, in bytes; 0 when it is not there. */
uint64_t hostinfo_meminfo(const char *root, const char *name);

/* Huge pages that the kernel has set aside (hugetlb). */
struct hostinfo_huge {
	uint64_t all;  /* of one size */
	uint64_t free; /* of those, and of what it may set aside when asked: promised to nobody */
	char file[96]; /* where to write how many there should be */
};

/* Those of `bytes` each. Return: 0; -errno of opening: the kernel knows none of this size. */
int hostinfo_huge(const char *root, uint64_t bytes, struct hostinfo_huge *out);

/*
 * This process's cgroup, by the controller's name ("memory", "cpu"): its own hierarchy of version
 * 1 if it has one, else the one of version 2. Return: 0; -ENOENT when it is in none; `text` is then
 * empty.
 */
int hostinfo_cgroup(const char *root, const char *controller, char *text, size_t size);

/* The smallest memory limit from this process's cgroup up to the root. UINT64_MAX: none. */
uint64_t hostinfo_memory_limit(const char *root);

/* CPUs' worth of time that this process's cgroup and those above it may use; 0: no limit. */
double hostinfo_cpu_limit(const char *root);

/* arch_kvm_kind(), and in *told_by what told it. */
const char *hostinfo_kvm(const char **told_by);

#endif
