// SPDX-License-Identifier: MIT
/*
 * tests/unit/reserve.h - huge pages that the host sets aside for the running test.
 *
 * Tests that use them take turns, over all programs: each finds as many free as it asked for, and
 * afterwards there are as many as before. Criterion runs each test in a process of its own.
 */
#ifndef COWSLIP_TESTS_UNIT_RESERVE_H
#define COWSLIP_TESTS_UNIT_RESERVE_H

#include <stdint.h>

#include "mm/types.h"

/*
 * At least `pages` of `size` (2M or 1G) are free until release_pages(), and nobody else's. Skips
 * the running test, with the reason, where the host has fewer and lets us change nothing, or has no
 * memory for more. For several sizes: one call each.
 */
void reserve_pages(enum page_size size, unsigned pages);

/* What the host set aside for the test it may have for other things. */
void release_pages(void);

/* Pages of `size` that are free now. */
unsigned long free_pages(enum page_size size);

#endif
