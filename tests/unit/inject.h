// SPDX-License-Identifier: MIT
/*
 * tests/unit/inject.h - fault injection: makes one chosen call of the code under test fail.
 *
 * The test program is linked with --wrap for each call below. A wrapped call that could fail is a
 * step; while armed, steps are counted and the k-th of them fails, as the kernel or the C library
 * would make it fail, without having done anything.
 *
 * Not steps: munmap (cannot fail for what it is used for; only counted), UFFDIO_WAKE (likewise).
 *
 * Concurrency: inject_arm() is for the calling thread's calls, inject_arm_all() for every thread's.
 * One armed window at a time. Counting is atomic.
 */
#ifndef COWSLIP_TESTS_UNIT_INJECT_H
#define COWSLIP_TESTS_UNIT_INJECT_H

#include <stdbool.h>

enum inject_call {
	INJECT_MMAP,
	INJECT_MREMAP,
	INJECT_MPROTECT,
	INJECT_MADVISE,
	INJECT_FALLOCATE,
	INJECT_MALLOC,
	INJECT_CALLOC,
	INJECT_REALLOC,
	INJECT_IOCTL,
	INJECT_MEMFD_CREATE,
	INJECT_PTHREAD_CREATE,
	INJECT_EVENTFD,
	INJECT_OPEN,
	INJECT_PREAD,
	INJECT_FTRUNCATE,
	INJECT_FSOPEN,
	/* From here on not calls of mm/: of files that are written. */
	INJECT_OPENAT,
	INJECT_PWRITE,
	INJECT_FSYNC,
	INJECT_RENAMEAT,
	INJECT_MUNMAP, /* never fails */
	INJECT_CALLS,
};

const char *inject_name(enum inject_call call);

/* From now on the `step`-th step of this thread / of the process fails; 0: none, only count. */
void inject_arm(unsigned step);
void inject_arm_all(unsigned step);

/* The same, but only calls of one kind are steps. */
void inject_arm_call(unsigned step, enum inject_call call);
void inject_arm_call_all(unsigned step, enum inject_call call);

/*
 * The same, and the call fails with error `with`; pwrite may also write half of what it should, and
 * a call may go on as if nothing were armed.
 */
#define INJECT_SHORT (-1)
#define INJECT_PASS  (-2)
void inject_arm_error(unsigned step, enum inject_call call, int with);

/*
 * Call meanwhile(ctx) when the armed step is reached, before it fails or goes on: what another
 * thread might do at that moment. Until disarmed.
 */
void inject_meanwhile(void (*meanwhile)(void *ctx), void *ctx);

/*
 * From now on, armed or not, pools find no filesystem with huge pages / the host's own answer.
 */
void inject_plain_pools(bool plain);

/* Return: the steps counted since arming. Nothing fails any more. */
unsigned inject_disarm(void);

/* The armed step was reached: one call has failed, or was let pass. Valid until the next arming. */
bool inject_fired(void);
/* Which one. */
enum inject_call inject_failed_call(void);

/* Times each call was reached, armed, since the program began; and times it was made to fail. */
unsigned inject_reached(enum inject_call call);
unsigned inject_failures(enum inject_call call);

#endif
