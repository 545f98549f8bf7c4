// SPDX-License-Identifier: MIT
/*
 * vmm/image_diff.h - comparing the memory of two images, page by page.
 *
 * Pages that both have in the same place of the same file are not read.
 */
#ifndef COWSLIP_VMM_IMAGE_DIFF_H
#define COWSLIP_VMM_IMAGE_DIFF_H

#include <stdbool.h>
#include <stdint.h>

#include "mm/image.h"

enum image_diff_kind {
	DIFF_SHARED, /* the same bytes of the same file */
	DIFF_EQUAL,  /* equal and not all zero */
	DIFF_ZERO,   /* zero in both, as far as it was read */
	DIFF_ONLY_A, /* zero in the other */
	DIFF_ONLY_B,
	DIFF_CHANGED, /* different, zero in neither */
};
#define DIFF_KINDS 6u

struct image_diff {
	uint64_t pages[DIFF_KINDS];
	bool ram_differs;   /* the regions are not the same; memory that one lacks counts as zero */
	bool state_differs; /* what is saved beside the memory */
};

/* A run of pages of one of the last three kinds; they come by address. */
typedef void image_diff_fn(void *ctx, enum image_diff_kind kind, gpa_t from, uint64_t pages);

/* Return: 0; -ENOMEM; -errno of reading. `found` may be NULL. */
int image_diff(const struct image *a, const struct image *b, image_diff_fn *found, void *ctx,
               struct image_diff *out);

static inline bool image_diff_any(const struct image_diff *d)
{
	return d->ram_differs || d->state_differs || d->pages[DIFF_ONLY_A] ||
	       d->pages[DIFF_ONLY_B] || d->pages[DIFF_CHANGED];
}

#endif
