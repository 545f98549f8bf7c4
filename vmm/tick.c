// SPDX-License-Identifier: MIT
#include "vmm/tick.h"

#include <signal.h>
#include <unistd.h>

#include "mm/check.h"
#include "vmm/vm_internal.h"

/* Of CPU time. The scheduler's tick, 1 to 10 ms, is what it comes to. */
#define PERIOD_NS 1000000

/* A timer of CPU time is the thread's that made it. */
static bool make_timer(struct tick *t, pid_t thread)
{
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL};

	ev._sigev_un._tid = thread;
	if (timer_create(CLOCK_THREAD_CPUTIME_ID, &ev, &t->timer) < 0)
		return false;
	t->thread = thread;
	return true;
}

static void set_period(const struct tick *t, long ns)
{
	const struct itimerspec when = {{0, ns}, {0, ns}};

	/* Refused only when the thread is gone, and then there is nothing to tick for. */
	(void)timer_settime(t->timer, 0, &when, NULL);
}

void tick_start(struct tick *t)
{
	pid_t self = gettid();

	if (t->thread != self) {
		tick_fini(t);
		if (!make_timer(t, self))
			return;
	}
	set_period(t, PERIOD_NS);
	t->going = true;
}

void tick_stop(struct tick *t)
{
	if (t->going)
		set_period(t, 0);
	t->going = false;
}

void tick_fini(struct tick *t)
{
	if (t->thread)
		CHECK(timer_delete(t->timer) == 0);
	*t = (struct tick){0};
}
