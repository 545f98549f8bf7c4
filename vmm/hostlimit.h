// SPDX-License-Identifier: MIT
/*
 * vmm/hostlimit.h - why the host refused something, for people: its limits by name and value.
 *
 * Concurrency: no state.
 */
#ifndef COWSLIP_VMM_HOSTLIMIT_H
#define COWSLIP_VMM_HOSTLIMIT_H

#include <stddef.h>
#include <stdint.h>

#define HOSTLIMIT_TEXT_MAX 224u

/*
 * strerror() of -errno `code`; and where a limit of the host's is what was reached, which one, what
 * it is and how to raise it: open files (EMFILE, ENFILE), threads and processes (EAGAIN), mappings
 * of a process (ENOMEM). `maps`: mappings that the refused operation has undone again, or would
 * have made; they count with those there are. Reads /proc. Return: buf.
 */
const char *hostlimit_why(int code, uint64_t maps, char buf[HOSTLIMIT_TEXT_MAX]);

#endif
