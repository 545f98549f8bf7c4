/* SPDX-License-Identifier: MIT */
/*
 * guest/order.h - orders of touches as memwalk walks them (guest/memwalk.h): made here, or checked
 * when they come from outside.
 *
 * No shared state: one vCPU makes an order, the others read it behind a barrier.
 */
#ifndef COWSLIP_GUEST_ORDER_H
#define COWSLIP_GUEST_ORDER_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/memwalk.h"

/* An order that touches each page once, a part of the memory for each vCPU. */
struct order_plan {
	bool random;
	uint64_t stride; /* in pages, if not random; 1 is sequential, 0 is none */
	uint64_t seed;   /* of the random order, which is the same in each part */
	bool write;
	uint64_t pages; /* of one part, >= 1; all parts together at most MEMWALK_INDEX + 1 */
	uint64_t parts;
};

/* Bytes that order_make() wants at `entries`: the entries, and what it keeps behind them. */
uint64_t order_bytes(uint64_t pages);

/* Make the order in zeroed memory: pages * parts entries, the parts one behind the other. */
void order_make(const struct order_plan *p, uint32_t *entries);

/*
 * Is this, `size` bytes from outside, an order over `pages` pages?
 * Return: NULL, or what is wrong with it, in a few words; *at is then the entry it is about.
 */
const char *order_check(const struct memwalk_order *o, uint64_t size, uint64_t pages, uint64_t *at);

#endif
