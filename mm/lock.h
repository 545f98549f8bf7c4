// SPDX-License-Identifier: MIT
/*
 * mm/lock.h - mutexes with a rank: VM > SPACE > IMAGE > POOL.
 *
 * A thread may take a lock only if its rank is below every lock it holds. Debug
 * builds (no NDEBUG) keep a per-thread set of held ranks and CHECK() the order on every
 * take; release builds compile to a plain pthread mutex.
 */
#ifndef COWSLIP_MM_LOCK_H
#define COWSLIP_MM_LOCK_H

#include <pthread.h>

enum lock_rank {
	LOCK_POOL = 1,
	LOCK_IMAGE = 2,
	LOCK_SPACE = 3,
	LOCK_VM = 4,
};

struct lock {
	pthread_mutex_t mutex;
	enum lock_rank rank;
};

/* Never fails: a default mutex needs no resources. */
void lock_init(struct lock *l, enum lock_rank rank);
/* The lock is not held. */
void lock_fini(struct lock *l);

/* Aborts in debug builds when the calling thread holds a lock of the same or a lower rank. */
void lock_take(struct lock *l);
void lock_drop(struct lock *l);

#endif
