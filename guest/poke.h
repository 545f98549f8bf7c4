/* SPDX-License-Identifier: MIT */
/*
 * guest/poke.h - what guest/poke.c and whoever runs it agree on.
 */
#ifndef COWSLIP_GUEST_POKE_H
#define COWSLIP_GUEST_POKE_H

#include <stdint.h>

#define POKES_MAX 64u

enum poke_kind {
	POKE_LOAD,
	POKE_STORE, /* `value` */
	POKE_ROOT,  /* run on the page tables at `at` */
	POKE_INPUT, /* the VMM stores `value`: it is the input's, and asked for again */
	POKE_WIDE,  /* `value` times 16 bytes to the device at `at` */
};

/* One access to eight bytes, or what they are reached through. */
struct poke {
	uint64_t at;
	uint64_t kind;
	uint64_t value;
};

#endif
