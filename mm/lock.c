// SPDX-License-Identifier: MIT
/*
 * mm/lock.c - ranked mutexes. The held set is a bit per rank, one word per thread.
 */
#include "mm/lock.h"

#include "mm/check.h"

#ifndef NDEBUG

static _Thread_local unsigned held_ranks;

static void note_take(enum lock_rank rank)
{
	/* Bits 0..rank: a lock of this rank or of a lower one is held already. */
	unsigned at_or_below = (2u << rank) - 1u;

	CHECK((held_ranks & at_or_below) == 0);
	held_ranks |= 1u << rank;
}

static void note_drop(enum lock_rank rank)
{
	CHECK(held_ranks & (1u << rank));
	held_ranks &= ~(1u << rank);
}

#else

static void note_take(enum lock_rank rank)
{
	(void)rank;
}

static void note_drop(enum lock_rank rank)
{
	(void)rank;
}

#endif

void lock_init(struct lock *l, enum lock_rank rank)
{
	CHECK(pthread_mutex_init(&l->mutex, NULL) == 0);
	l->rank = rank;
}

void lock_fini(struct lock *l)
{
	CHECK(pthread_mutex_destroy(&l->mutex) == 0);
}

void lock_take(struct lock *l)
{
	note_take(l->rank);
	CHECK(pthread_mutex_lock(&l->mutex) == 0);
}

void lock_drop(struct lock *l)
{
	note_drop(l->rank);
	CHECK(pthread_mutex_unlock(&l->mutex) == 0);
}
