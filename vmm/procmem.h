// SPDX-License-Identifier: MIT
/*
 * vmm/procmem.h - what a process costs the host, and what the host has left, as the kernel counts
 * it.
 *
 * Source: Linux Documentation/filesystems/proc.rst, smaps_rollup, status and meminfo;
 * Documentation/admin-guide/cgroup-v2.rst, memory.stat; cgroup-v1/memory.rst, kernel memory.
 */
#ifndef COWSLIP_VMM_PROCMEM_H
#define COWSLIP_VMM_PROCMEM_H

#include <stdint.h>
#include <sys/types.h>

struct procmem {
	uint64_t pss_bytes;        /* its share of every page: may be summed over processes */
	uint64_t private_bytes;    /* pages nobody else maps */
	uint64_t anonymous_bytes;  /* pages of no file: heap, stacks, what was copied on write */
	uint64_t page_table_bytes; /* VmPTE */
};

/*
 * Return: 0; -errno of opening (-ESRCH, -ENOENT: gone; -EACCES: not ours); -EBADMSG: no such line.
 */
int procmem_read(pid_t pid, struct procmem *out);

/* Page tables of this process, in bytes; 0 when the kernel won't say. */
uint64_t procmem_tables(void);

/*
 * 0: the kernel does not say. Of the two figures for free memory MemAvailable is the better one to
 * compare: a file that is read moves pages from free to cached, and they can be had all the same.
 */
struct hostmem {
	uint64_t available_bytes;  /* of the host: what could be had without swapping */
	uint64_t free_bytes;       /* of the host: what nobody uses, not even as a cache */
	uint64_t kvm_tables_bytes; /* of the host: KVM's page tables for guests (Linux 6.1) */
	uint64_t kernel_bytes;     /* kernel memory of this process's cgroup and those below */
};

void hostmem_read(struct hostmem *out);

#endif
