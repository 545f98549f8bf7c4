// SPDX-License-Identifier: MIT
/*
 * tests/kvm/pace.c - the slowness of the machine, as whoever runs the tests says it.
 */
#include "tests/kvm/pace.h"

#include <stdlib.h>

static unsigned slowness(void)
{
	const char *given = getenv("COWSLIP_SLOWNESS");
	unsigned long n = given ? strtoul(given, NULL, 10) : 1;

	return n > 0 ? (unsigned)n : 1;
}

unsigned pace_rounds(unsigned full, unsigned least)
{
	unsigned n = full / slowness();

	return n > least ? n : least;
}

uint64_t pace_patience(uint64_t time)
{
	return time * slowness();
}
