// SPDX-License-Identifier: MIT
/*
 * vmm/tick.h - a tick: KICK_SIGNAL comes to a thread every few milliseconds that it computes.
 *
 * It makes KVM_RUN come out with EINTR, and the run loop looks whether there is anything to be done
 * for a guest that never exits by itself. The clock is the thread's own CPU time, which in KVM_RUN
 * is the guest's: one that waits costs nothing and a clone that lives less than a
 * period never sees a tick. Such timers expire at the scheduler's tick (Linux
 * Documentation/timers/no_hz.rst), so in steps of 1/CONFIG_HZ; and system calls of the thread's are
 * interrupted only where they compute.
 *
 * Concurrency: all calls for one object come from one thread at a time; not always the same.
 */
#ifndef COWSLIP_VMM_TICK_H
#define COWSLIP_VMM_TICK_H

#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

/* All-zero: there is none. */
struct tick {
	timer_t timer;
	pid_t thread; /* of whom; 0: no timer */
	bool going;
};

/*
 * From now on the calling thread gets ticks. Costs a microsecond the first time, then a third.
 * Return: 0; -EAGAIN, -ENOMEM: the host has no timer to give (a user may have so many), no ticks.
 */
int tick_start(struct tick *t);

/* No more of them; one may be on its way. The timer stays, for the next time. */
void tick_stop(struct tick *t);

/* The timer goes. */
void tick_fini(struct tick *t);

#endif
