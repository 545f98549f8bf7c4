// SPDX-License-Identifier: MIT
/*
 * mm/fault.h - fault paths: how violations reach the violation function (mm/ internal).
 *
 *     kernel   the whole window is mapped when the space is made; the host kernel resolves every
 *              violation. Lowest latency for a lone 4 KiB page; we have no say and no record.
 *     uffd     absent memory is registered with userfaultfd; a thread of the space reads events
 *              and answers each with space_violation(). One event can map a whole block.
 *
 * A path is a const table. What a path calls "arming" a range: an access to a page that is absent
 * there becomes a violation of ours instead of the kernel's business. A path that gets violations
 * on the vCPU's own thread would implement the same table with an empty wake.
 *
 * A path that can answer no more says so once, by space_config.broken.
 */
#ifndef COWSLIP_MM_FAULT_H
#define COWSLIP_MM_FAULT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "mm/types.h"

struct space;

struct fault_ops {
	const char *name;
	bool lazy; /* violations come to us: map on demand. Else everything is mapped at creation */

	/*
	 * Start. The window is reserved. Return: 0; -EPERM, -ENOSYS: not to be had; -EMFILE;
	 * -ENOMEM.
	 */
	int (*attach)(struct space *s);

	/*
	 * Nothing is armed any more; whoever waited is let go and finds zero memory where
	 * nothing was mapped. Any thread, the path's own included; only detach may follow. No
	 * lock held.
	 */
	void (*let_go)(struct space *s);

	/*
	 * Stop: nothing is armed any more, whoever waited has been let go (and finds zero memory
	 * where nothing was mapped). Idempotent. No lock held. A thread of the path's that does not
	 * end within the space's patience is left behind: fault_state.abandoned.
	 */
	void (*detach)(struct space *s);

	/* Arm a range whose mapping has just been made. Lock held. Return: 0 or -errno. */
	int (*arm)(struct space *s, struct gpa_range r);

	/* The kernel resolves faults here from now on. Lock held. Return: 0 or -errno. */
	int (*disarm)(struct space *s, struct gpa_range r);

	/*
	 * Fill the absent pages of an armed range with zeros. Lock held. Return: 0, -EAGAIN,
	 * -ENOMEM.
	 */
	int (*fill_zero)(struct space *s, struct gpa_range r);

	/*
	 * Arm a range whose mapping has just been made and whose pages are all in memory: an
	 * access to one that is not mapped yet is a violation. Lock held. Return: 0; -EOPNOTSUPP:
	 * this path or this kernel cannot; -errno.
	 */
	int (*watch)(struct space *s, struct gpa_range r);

	/* Map pages of a watched range. Lock held. Return: 0, -EAGAIN, -ENOMEM. */
	int (*let_in)(struct space *s, struct gpa_range r);

	/* Let everyone who waits for a page of `r` try again. */
	void (*wake)(struct space *s, struct gpa_range r);
};

extern const struct fault_ops fault_kernel;
extern const struct fault_ops fault_uffd;

/* What a path keeps in its space. */
struct fault_state {
	int uffd; /* -1: none */
	int stop; /* eventfd, -1: none; readable: both threads are to end */
	pthread_t thread, watch;
	bool running;
	bool abandoned;       /* the thread never ended: what it may use is never freed */
	bool can_watch;       /* this kernel tells of pages that are in memory and not mapped */
	unsigned patience_ms; /* an event unanswered for so long: broken */
	unsigned retries;     /* in a row; the thread's alone */
	_Atomic bool gone;    /* let go: nothing is armed any more */
	_Atomic int error;    /* -errno of what broke the path; 0: it works */
	/* Odd while the thread answers an event: +1 at each turn, +2 by space_gets_on(). */
	_Atomic uint32_t beat;
};

/*
 * Return: a userfaultfd (close-on-exec, nonblocking, kernel faults included), or -EPERM, -ENOSYS,
 * ...
 */
int fault_uffd_open(void);

/* The same with these UFFD_FEATUREs. Return: also -EINVAL where this kernel has not got them. */
int fault_uffd_open_for(uint64_t features);

/* ---- fault_uffd_handler.c: the threads of the uffd path ---- */

/*
 * Start answering what the descriptors of `s` say. Return: 0; -EAGAIN, -ENOMEM: nothing has been
 * started.
 */
int uffd_start(struct space *s);

/* End the threads; fault_state.abandoned says whether the handler was left behind. */
void uffd_stop(struct space *s);

/* Violations are answered no more, because of -errno `error`. Any thread, locks or not. */
void uffd_break(struct space *s, int error);

#endif
