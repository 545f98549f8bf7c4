// SPDX-License-Identifier: MIT
/*
 * mm/policy.h - how much to bring in for one violation: a pure function of what is known.
 *
 * A lone event in user space costs about four times the kernel's own 4 KiB fault, and one event
 * that brings in a whole 2 MiB block costs about fifteen; so a guest that touches a block here and
 * there should get clusters, and one that walks through memory should get blocks.
 */
#ifndef COWSLIP_MM_POLICY_H
#define COWSLIP_MM_POLICY_H

#include <stdbool.h>

#include "mm/types.h"

struct policy_input {
	enum page_size page_size; /* of the region */
	unsigned page;            /* touched, in its block: 0..511 */
	unsigned events;          /* that this block has had before this one */
	bool before_full;         /* the block below is whole */
	bool after_full;          /* the block above is whole */
};

/* Pages [first, first + pages) of the block; pages == 512 means the block as one. */
struct policy_choice {
	unsigned first;
	unsigned pages;
};

/* Always covers `page`; first is a multiple of pages, pages a power of two. */
struct policy_choice policy_choose(const struct policy_input *in);

#endif
