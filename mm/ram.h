// SPDX-License-Identifier: MIT
/*
 * mm/ram.h - lists of RAM regions, as images and spaces have them (mm/ internal).
 */
#ifndef COWSLIP_MM_RAM_H
#define COWSLIP_MM_RAM_H

#include <stddef.h>

#include "mm/types.h"

/* What the widest guest-physical addresses we know reach: 52 bits. */
#define RAM_END_MAX (UINT64_C(1) << 52)

/*
 * Regions are ordered, don't overlap, start at a 2 MiB boundary, are whole pages of their own page
 * size, end at or below RAM_END_MAX, and are 1..IMAGE_MAX_REGIONS. Return: 0 or -EINVAL.
 */
int ram_check(const struct ram_region *ram, size_t count);

/* The region that holds `a`, or NULL. */
const struct ram_region *ram_find(const struct ram_region *ram, size_t count, gpa_t a);

#endif
