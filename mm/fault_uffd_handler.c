// SPDX-License-Identifier: MIT
/*
 * mm/fault_uffd_handler.c - the two threads of a space on the uffd path.
 *
 * The handler reads events in batches, decides each with violation_resolve() and wakes the range
 * that has been served. Events for what was served meanwhile resolve at once. An event that
 * ends in NOMEM is not answered: its thread waits until space_resume() wakes it or detach lets
 * everyone go.
 *
 * The watch sees to it that nobody waits for ever for a handler that answers no more:
 *
 *     it gave up    poll, read or wake failed, or every answer is "try again": uffd_break()
 *     it is stuck   in an answer, or asleep over an event, for longer than the space's patience
 *
 * and tells the owner, from its own thread and with no lock, once. It looks a few times in that
 * time, so a process that was stopped meanwhile, or a host that was suspended, is not taken for
 * a stuck one. Nor is a handler that waits for the lock while its holder gets on with something
 * long (space_gets_on()). The handler pays two additions for each event.
 *
 * What is not found: a thread of the owner's that waits for the space's lock because the handler is
 * stuck with it. It waits for as long as that takes.
 */
#include <linux/userfaultfd.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "mm/check.h"
#include "mm/space_internal.h"

#define EVENT_BATCH 32

/* Answers of "try again" with no other between: the host will not change its mind. */
#define MOST_RETRIES 10000u

/* Times that the watch looks before its patience is over. */
#define LOOKS 4u

/* Of who waits for the handler to end. */
#define SHORTEST_NAP_NS UINT64_C(20000)
#define LONGEST_NAP_NS  UINT64_C(10000000)

/*
 * Of each thread. The default is megabytes, and where huge pages are given without being asked for,
 * one of them lies under every stack.
 */
#define THREAD_STACK ((size_t)256 << 10)

/* Both threads see it: nobody reads it. */
static void end_threads(struct space *s)
{
	const uint64_t one = 1;

	CHECK(write(s->fault.stop, &one, sizeof(one)) == sizeof(one));
}

void uffd_break(struct space *s, int error)
{
	int works = 0;

	if (atomic_compare_exchange_strong(&s->fault.error, &works, error))
		end_threads(s);
}

/* ---- the handler ---- */

static struct violation to_violation(const struct space *s, const struct uffd_msg *m)
{
	uintptr_t at = (uintptr_t)align_down(m->arg.pagefault.address, MM_PAGE_SIZE);
	bool write = m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE;

	return (struct violation){space_gpa(s, (hva_t){at}), write ? ACCESS_WRITE : ACCESS_READ};
}

static void answer(struct space *s, const struct uffd_msg *m)
{
	struct violation v = to_violation(s, m);
	struct gpa_range page = {v.gpa, MM_PAGE_SIZE};
	struct gpa_range done = page;
	enum outcome o = violation_resolve(s, v, &done);

	s->fault.retries = o == OUTCOME_RETRY ? s->fault.retries + 1 : 0;
	switch (o) {
	case OUTCOME_RESOLVED:
		s->faults->wake(s, done);
		break;
	case OUTCOME_NOMEM:
		if (s->nomem)
			s->nomem(s->ctx, v);
		break;
	case OUTCOME_RETRY:
		if (s->fault.retries > MOST_RETRIES)
			uffd_break(s, -EAGAIN);
		else
			s->faults->wake(s, page);
		break;
	case OUTCOME_MMIO:
	case OUTCOME_DENIED:
		s->faults->wake(s, page);
		break;
	}
}

static void turn(struct space *s)
{
	atomic_fetch_add_explicit(&s->fault.beat, 1, memory_order_relaxed);
}

/* Return: 0, or -errno: there is nothing to be read from this descriptor any more. */
static int drain(struct space *s)
{
	struct uffd_msg msgs[EVENT_BATCH];
	ssize_t n = read(s->fault.uffd, msgs, sizeof(msgs));

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -EIO;
	for (ssize_t i = 0; i * (ssize_t)sizeof(msgs[0]) < n; i++) {
		if (msgs[i].event != UFFD_EVENT_PAGEFAULT)
			continue;
		atomic_fetch_add_explicit(&s->events, 1, memory_order_relaxed);
		turn(s);
		answer(s, &msgs[i]);
		turn(s);
	}
	return 0;
}

/* Wait for events and answer them. Return: 0; 1 when it is time to end; -errno: no more events. */
static int serve(struct space *s)
{
	struct pollfd fds[] = {
		{.fd = s->fault.uffd, .events = POLLIN},
		{.fd = s->fault.stop, .events = POLLIN},
	};

	if (poll(fds, 2, -1) < 0)
		return errno == EINTR ? 0 : -errno;
	if (fds[1].revents)
		return 1;
	if (fds[0].revents & POLLNVAL)
		return -EBADF;
	return fds[0].revents ? drain(s) : 0;
}

static void *handler(void *arg)
{
	struct space *s = arg;
	int r;

	do
		r = serve(s);
	while (r == 0);
	if (r < 0)
		uffd_break(s, r);
	return NULL;
}

/* ---- the watch ---- */

/* The handler is at an event, or there is one to be read. */
static bool has_work(const struct space *s, uint32_t beat)
{
	struct pollfd events = {.fd = s->fault.uffd, .events = POLLIN};

	return beat % 2 == 1 || poll(&events, 1, 0) > 0;
}

/* Return: false when there is no more to be watched. */
static bool look(struct space *s, uint32_t *seen, unsigned *idle)
{
	struct pollfd stop = {.fd = s->fault.stop, .events = POLLIN};
	int period = (int)(s->fault.patience_ms / LOOKS);
	uint32_t beat;

	if (poll(&stop, 1, period) != 0 && stop.revents)
		return false;
	beat = atomic_load_explicit(&s->fault.beat, memory_order_relaxed);
	*idle = beat == *seen && has_work(s, beat) ? *idle + 1 : 0;
	*seen = beat;
	if (*idle >= LOOKS)
		uffd_break(s, -ETIMEDOUT);
	return true;
}

static void *watch(void *arg)
{
	struct space *s = arg;
	uint32_t seen = 0;
	unsigned idle = 0;
	int error;

	while (look(s, &seen, &idle))
		;
	error = atomic_load(&s->fault.error);
	if (error && s->broken)
		s->broken(s->ctx, error);
	return NULL;
}

/* ---- starting, ending ---- */

static int start_thread(struct space *s, pthread_t *thread, void *(*run)(void *))
{
	pthread_attr_t attr;
	int r = pthread_attr_init(&attr);

	if (r)
		return -r;
	r = pthread_attr_setstacksize(&attr, THREAD_STACK);
	if (r == 0)
		r = pthread_create(thread, &attr, run, s);
	pthread_attr_destroy(&attr);
	return -r;
}

int uffd_start(struct space *s)
{
	int r = start_thread(s, &s->fault.watch, watch);

	if (r)
		return r;
	r = start_thread(s, &s->fault.thread, handler);
	if (r) {
		end_threads(s);
		pthread_join(s->fault.watch, NULL);
	}
	return r;
}

/*
 * By time slept, not by a clock: one that is set, or that goes on while the process is stopped or
 * the host suspended, says nothing of what the thread could have done. Return: it has ended.
 */
static bool join_within(pthread_t thread, unsigned ms)
{
	uint64_t left = ms * UINT64_C(1000000), nap = SHORTEST_NAP_NS;

	while (pthread_tryjoin_np(thread, NULL)) {
		struct timespec t;

		if (left == 0)
			return false;
		nap = min_u64(nap, left);
		t = (struct timespec){.tv_nsec = (long)nap};
		nanosleep(&t, NULL);
		left -= nap;
		nap = min_u64(2 * nap, LONGEST_NAP_NS);
	}
	return true;
}

void uffd_stop(struct space *s)
{
	end_threads(s);
	pthread_join(s->fault.watch, NULL);
	if (join_within(s->fault.thread, s->fault.patience_ms))
		return;
	uffd_break(s, -ETIMEDOUT);
	s->fault.abandoned = true;
	pthread_detach(s->fault.thread);
}
