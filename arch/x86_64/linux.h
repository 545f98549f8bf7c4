// SPDX-License-Identifier: MIT
/*
 * arch/x86_64/linux.h - what the two ways to boot a kernel share; included by linux.c, bzimage.c
 * and pvh.c only.
 *
 * A format reads its headers into a plan; linux.c carries the plan out:
 *
 *     probe   is the file this format at all?
 *     plan    check every header against the file and RAM: which bytes go where, where to start
 *     (linux.c places the initrd, checks the command line, copies)
 *     inform  write the boot information, which names all of that
 *
 * Concurrency: a plan belongs to one call.
 */
#ifndef COWSLIP_ARCH_X86_64_LINUX_H
#define COWSLIP_ARCH_X86_64_LINUX_H

#include "arch/arch.h"
#include "arch/x86_64/x86.h"

/* Kinds of memory, the same numbers in every map a kernel is given. */
enum x86_memory {
	X86_MEMORY_RAM = 1,
	X86_MEMORY_RESERVED = 2,
	X86_MEMORY_PMEM = 12,
};

#define X86_MAP_MAX (ARCH_MAX_RAM_REGIONS + 5 + ARCH_MAX_PMEM)

struct x86_map {
	size_t count;
	struct x86_map_entry {
		uint64_t start, size;
		enum x86_memory type;
	} entry[X86_MAP_MAX];
};

/* Bytes of the image and where they go. */
struct x86_piece {
	uint64_t offset, size;
	uint64_t to;
};
#define X86_PIECES_MAX 32u

/* How the CPU starts: arch_kernel_entry.mode. */
enum x86_start {
	X86_START_LONG = 1,      /* 64-bit mode, the zero page's address in RSI */
	X86_START_PROTECTED = 2, /* 32-bit mode without paging, hvm_start_info's address in EBX */
};

#define X86_HEADER_MAX 0x290u

struct x86_plan {
	const struct arch_kernel *k;
	struct x86_why why;
	struct x86_map map;

	/* By plan(). */
	struct x86_piece piece[X86_PIECES_MAX];
	size_t pieces;
	struct gpa_range kernel; /* all the kernel needs for itself, inside low RAM */
	uint64_t initrd_end;     /* the initrd must end at or before */
	uint64_t cmdline_max;    /* characters the kernel takes */
	uint64_t start;
	uint8_t header[X86_HEADER_MAX]; /* the format's own: the file's first bytes */

	uint64_t initrd; /* address, 0: there is none */
};

struct x86_kernel_format {
	const char *name;
	enum x86_start mode;
	uint64_t info; /* address of the boot information */
	/* Return: 0 and *yes; the reader's -errno. */
	int (*probe)(const struct arch_reader *file, bool *yes);
	/* Return: 0; as arch_kernel_load(), explained. */
	int (*plan)(struct x86_plan *p);
	/* Return: 0; the writer's -errno. */
	int (*inform)(const struct x86_plan *p, const struct arch_writer *w);
};

extern const struct x86_kernel_format x86_bzimage;
extern const struct x86_kernel_format x86_pvh;

/* The end of the RAM that begins at address 0. */
static inline uint64_t x86_low_end(const struct arch_kernel *k)
{
	return gpa_range_end(k->ram[0].range);
}

/*
 * Read from the image, whose length has been compared. Return: 0; -errno of the reader, explained.
 */
int x86_image_read(const struct x86_plan *p, uint64_t offset, void *to, size_t size);

#endif
