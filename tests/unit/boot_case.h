// SPDX-License-Identifier: MIT
/*
 * tests/unit/boot_case.h - a kernel image made byte by byte, memory to load it into, and what can
 * be asked of both afterwards.
 *
 * Images are made from the published layouts, by number: nothing here knows how the loader goes
 * about it. Guest memory is a buffer that remembers which of its pages were written. One case
 * at a time, in `bc`; Criterion gives each test a process of its own.
 */
#ifndef COWSLIP_TESTS_UNIT_BOOT_CASE_H
#define COWSLIP_TESTS_UNIT_BOOT_CASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arch/arch.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

#define RAM_SIZE    (64 * MIB)
#define IMAGE_SIZE  (64 * KIB)
#define INITRD_SIZE (5 * KIB + 13)

/* bzImage: offsets in the file and the zero page. */
#define H_SECTS      0x1f1
#define H_SYSSIZE    0x1f4
#define H_BOOT_FLAG  0x1fe
#define H_JUMP       0x201
#define H_MAGIC      0x202
#define H_VERSION    0x206
#define H_LOADER     0x210
#define H_LOADFLAGS  0x211
#define H_RAMDISK    0x218
#define H_RD_SIZE    0x21c
#define H_CMDLINE    0x228
#define H_INITRD_MAX 0x22c
#define H_ALIGN      0x230
#define H_XLOADFLAGS 0x236
#define H_CMD_SIZE   0x238
#define H_PREF       0x258
#define H_INIT_SIZE  0x260
#define Z_RSDP       0x070
#define Z_E820_COUNT 0x1e8
#define Z_E820       0x2d0

#define PREF      (16 * MIB)
#define INIT_SIZE (3 * MIB)
#define SECTS     5u
#define PAYLOAD   ((SECTS + 1) * 512u)
#define SYSSIZE   ((IMAGE_SIZE - PAYLOAD - 100) / 16) /* a tail that is not the kernel's */

struct boot_case {
	uint8_t *ram;
	bool written[RAM_SIZE / 4096];
	int writes_left, reads_left; /* then -EIO and -EREMOTEIO; negative: no limit */
	uint8_t image[IMAGE_SIZE], initrd[8192];
	char why[512];
	struct arch_kernel kernel;
	struct arch_kernel_entry entry;
};

extern struct boot_case bc;
extern const struct ram_region bc_one_region[];

/* Empty memory, a machine to be loaded, an image of nothing in particular. */
void bc_setup(void);
/* The same with a good bzImage. */
void bc_make_bzimage(void);
void bc_free(void);

/* Load. Return: as arch_kernel_load(). */
int bc_load(void);
/* Load, which must succeed. */
void bc_loads(void);
/* Load, which must fail with `err`, say `said`, in one line, and write nothing. */
void bc_refused(int err, const char *said);
bool bc_untouched(void);

/* Change the image. */
void bc_put16(size_t at, uint16_t v);
void bc_put32(size_t at, uint32_t v);
void bc_put64(size_t at, uint64_t v);

/* A little-endian number of `size` bytes in memory. */
uint64_t bc_get(uint64_t at, size_t size);

#endif
