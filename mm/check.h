// SPDX-License-Identifier: MIT
/*
 * mm/check.h - CHECK(): broken invariants end the process, in every build.
 *
 * For what cannot be unless our own code is wrong (a count going below zero, a
 * commit step failing after its prepare). Never for input, never for a resource
 * that may run out: those are returned as -errno.
 */
#ifndef COWSLIP_MM_CHECK_H
#define COWSLIP_MM_CHECK_H

/* Print the broken condition and where it stands, then abort. Does not return. */
_Noreturn void mm_check_failed(const char *what, const char *file, int line);

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (__builtin_expect(!(cond), 0))                                                  \
			mm_check_failed(#cond, __FILE__, __LINE__);                                \
	} while (0)

#endif
