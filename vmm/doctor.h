// SPDX-License-Identifier: MIT
/*
 * vmm/doctor.h - what this host offers to guests, and what to change.
 *
 * Asks the kernel, tries what can be tried, and leaves nothing behind. Prints nothing.
 *
 * Concurrency: none; one thread.
 */
#ifndef COWSLIP_VMM_DOCTOR_H
#define COWSLIP_VMM_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>

#define DOCTOR_MAX 40u

enum doctor_level {
	DOCTOR_OK,   /* as it should be */
	DOCTOR_NOTE, /* good to know */
	DOCTOR_WARN, /* works, but slower or less of it */
	DOCTOR_FAIL, /* guests cannot run */
};

struct doctor_finding {
	const char *check;
	enum doctor_level level;
	char found[200];
	char advice[200]; /* empty: nothing to do */
};

struct doctor_report {
	struct doctor_finding findings[DOCTOR_MAX];
	size_t count;
	bool can_run; /* no finding is DOCTOR_FAIL */
};

/* "ok", "note", ... */
const char *doctor_level_name(enum doctor_level l);

/* Examine this host. Takes some milliseconds. */
void doctor_examine(struct doctor_report *r);

#endif
