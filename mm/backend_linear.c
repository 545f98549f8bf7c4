// SPDX-License-Identifier: MIT
/*
 * mm/backend_linear.c - RAM that is memory of the embedder's: mapped by it before the space was
 * made, and by it unmapped afterwards.
 *
 * Nothing here maps, unmaps or registers anything: what an access finds absent is between the host
 * kernel and the mapping's owner. The pool is not asked for frames.
 */
#include <sys/mman.h>

#include "mm/space_internal.h"

/* Nothing to bring in: all of the block may be touched, and could have been before. */
static int linear_fill(struct space *s, struct block *b, struct violation v, struct gpa_range *done)
{
	(void)v;
	*b = (struct block){.state = BLOCK_LINEAR};
	*done = block_range(s, block_of(s, b));
	return 0;
}

static int populate_regions(struct space *s)
{
	for (size_t i = 0; i < s->region_count; i++) {
		struct gpa_range r = s->ram[i].range;

		if (madvise(window_ptr(s, r.start), r.size, MADV_POPULATE_WRITE) < 0)
			return -errno;
	}
	return 0;
}

int linear_premap(struct space *s, bool populate)
{
	for (size_t i = 0; i < s->block_count; i++) {
		struct gpa_range ram = block_range(s, i);
		struct violation v = {ram.start, ACCESS_READ};
		int r = ram.size ? linear_fill(s, &s->blocks[i], v, &ram) : 0;

		if (r)
			return r;
	}
	return populate ? populate_regions(s) : 0;
}

const struct backend_ops backend_linear = {
	.name = "linear",
	.fill = linear_fill,
};
