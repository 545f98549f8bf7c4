// SPDX-License-Identifier: MIT
/*
 * vmm/procmem.h - what a process costs the host, as the kernel counts it.
 *
 * Source: Linux Documentation/filesystems/proc.rst, smaps_rollup and status.
 */
#ifndef COWSLIP_VMM_PROCMEM_H
#define COWSLIP_VMM_PROCMEM_H

#include <stdint.h>
#include <sys/types.h>

struct procmem {
	uint64_t pss_bytes;        /* its share of every page: may be summed over processes */
	uint64_t private_bytes;    /* pages nobody else maps */
	uint64_t page_table_bytes; /* VmPTE */
};

/*
 * Return: 0; -errno of opening (-ESRCH, -ENOENT: gone; -EACCES: not ours); -EBADMSG: no such line.
 */
int procmem_read(pid_t pid, struct procmem *out);

#endif
