/* SPDX-License-Identifier: MIT */
/*
 * guest/giveback.h - what guest/giveback.c says to whoever runs it.
 */
#ifndef COWSLIP_GUEST_GIVEBACK_H
#define COWSLIP_GUEST_GIVEBACK_H

/* A word of output each, when this has been done. */
enum giveback_step {
	GIVEBACK_FULL,        /* every page has been written */
	GIVEBACK_GIVEN,       /* all of it is given back */
	GIVEBACK_FULL_AGAIN,  /* and has been written again */
	GIVEBACK_GIVEN_AGAIN, /* all but a few pages at either end is given back */
	GIVEBACK_STEPS,
};

#endif
