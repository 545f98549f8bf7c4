// SPDX-License-Identifier: MIT
#include "vmm/tick.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "mm/check.h"
#include "vmm/vm_internal.h"

/* Of CPU time. The scheduler's tick, 1 to 10 ms, is what it comes to. */
#define PERIOD_NS 1000000

/* A timer of CPU time is the thread's that made it. Return: 0 or -errno. */
static int make_timer(struct tick *t, pid_t thread)
{
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL};

	ev._sigev_un._tid = thread;
	if (timer_create(CLOCK_THREAD_CPUTIME_ID, &ev, &t->timer) < 0)
		return -errno;
	t->thread = thread;
	return 0;
}

/* Return: 0; -ESRCH when the timer's thread is gone. */
static int set_period(const struct tick *t, long ns)
{
	const struct itimerspec when = {{0, ns}, {0, ns}};

	return timer_settime(t->timer, 0, &when, NULL) < 0 ? -errno : 0;
}

/* A thread may have the number of one that is gone: then the timer is not its. */
static bool start_again(const struct tick *t, pid_t thread)
{
	return t->thread == thread && set_period(t, PERIOD_NS) == 0;
}

int tick_start(struct tick *t)
{
	pid_t self = gettid();
	int r = 0;

	if (!start_again(t, self)) {
		tick_fini(t);
		r = make_timer(t, self);
		if (r == 0)
			r = set_period(t, PERIOD_NS);
	}
	t->going = r == 0;
	return r;
}

void tick_stop(struct tick *t)
{
	if (t->going)
		(void)set_period(t, 0);
	t->going = false;
}

void tick_fini(struct tick *t)
{
	if (t->thread)
		CHECK(timer_delete(t->timer) == 0);
	*t = (struct tick){0};
}
