// SPDX-License-Identifier: MIT
/*
 * vmm/elf.h - static ELF64 programs into guest memory.
 *
 * Reads the file with bounds checked at every step, refuses what is not a statically linked
 * ELF64 executable for the ISA asked for, and writes segments through space_write().
 * Source of the format: System V gABI, chapter 4 and 5; <elf.h>.
 */
#ifndef COWSLIP_VMM_ELF_H
#define COWSLIP_VMM_ELF_H

#include <stddef.h>
#include <stdint.h>

#include "mm/space.h"
#include "mm/types.h"

struct elf_image {
	gpa_t entry; /* guest-physical, also where the file's virtual addresses differ */
	gpa_t low;   /* lowest address loaded */
	gpa_t high;  /* end of the highest segment, bss included */
};

/*
 * Load `path` into `s`, whose memory at the segments has not been written yet: bss is not
 * touched but for the tail of the page in which a segment's file bytes end. Segments must lie in
 * RAM at or above `load_min` (physical addresses, p_paddr), not overlap, and not overflow.
 * Nothing is written until every header has been checked. `isa` is an EM_ number.
 * Return: 0; -ENOEXEC for what cannot be run here (not ELF64, wrong ISA, dynamic, truncated,
 * bad segment); -errno of open and read; -ENOMEM (host memory or frames), -EACCES (RAM that may
 * not be written). On failure `why` (of `why_size` bytes) says what in one line that names
 * the path.
 */
int elf_load(struct space *s, const char *path, uint32_t isa, gpa_t load_min, struct elf_image *out,
             char *why, size_t why_size);

#endif
