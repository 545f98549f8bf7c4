/* SPDX-License-Identifier: MIT */
/*
 * guest/poke.h - what guest/poke.c and whoever runs it agree on.
 */
#ifndef COWSLIP_GUEST_POKE_H
#define COWSLIP_GUEST_POKE_H

#include <stdint.h>

#define POKES_MAX 64u

/* One access to eight bytes. */
struct poke {
	uint64_t at;
	uint64_t store; /* 1: store `value`; 0: load */
	uint64_t value;
};

#endif
