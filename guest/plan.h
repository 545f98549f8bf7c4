/* SPDX-License-Identifier: MIT */
/*
 * guest/plan.h - what memwalk is asked to do, read from its arguments, and where everything lies.
 *
 * The free heap from its start: a part for each vCPU, the page for calibration, memwalk's own
 * order, up to the next 2 MiB the walked memory, and at the next 2 MiB behind it an order from the
 * input, with all the room there is: how long it is shows only after the last READY.
 *
 * vCPU 0 makes the plan; the others read it once it stands.
 */
#ifndef COWSLIP_GUEST_PLAN_H
#define COWSLIP_GUEST_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/contents.h"
#include "guest/memwalk.h"
#include "guest/order.h"

#define NO_DELAY UINT64_MAX

/* Each vCPU counts in one of its own; vCPU 0's becomes the sum. */
struct part {
	struct memwalk_result result;
} __attribute__((aligned(GUEST_PAGE)));

/* What the loop is calibrated on. */
#define WARM_TOUCHES 1024u
#define WARM_ROUNDS  8u
struct warm {
	uint64_t page[PAGE_WORDS];
	uint32_t entries[WARM_TOUCHES];
} __attribute__((aligned(GUEST_PAGE)));

/* What to do, the same for every vCPU. */
struct plan {
	bool input;            /* order=input */
	struct order_plan own; /* if not */
	const char *order_name;
	const char *touch_name;
	bool read_first; /* a touch that writes reads before */
	uint64_t verify;
	uint64_t times; /* every touch is timed */
	uint64_t ready;
	uint64_t clone;
	uint64_t delay_at;     /* an index in the order, or NO_DELAY */
	uint64_t delay_cycles; /* > 0 if there is one */
	uint64_t overhead;     /* cycles of reading the counter twice */
	unsigned cpus;
	struct contents contents;
	struct part *parts; /* one per vCPU */
	struct warm *warm;
	void *order;   /* where it goes */
	uint64_t room; /* bytes there, for one from the input */

	/* The order, once it is there. */
	const uint32_t *entries;
	uint64_t touches;
};

/*
 * Read the arguments and lay everything out; memwalk's own order is made, one from the input is
 * still to come. *p is zeroed. Return: false, after printing a line, when that cannot be done.
 */
bool plan_make(struct plan *p);

#endif
