// SPDX-License-Identifier: MIT
/*
 * vmm/ctl_herd_internal.h - the inside of a herd, shared by ctl_herd.c (its members and their
 * threads) and ctl_herd_ask.c (what others want of them).
 */
#ifndef COWSLIP_VMM_CTL_HERD_INTERNAL_H
#define COWSLIP_VMM_CTL_HERD_INTERNAL_H

#include <pthread.h>

#include "vmm/ctl_herd.h"

/* Something to be done to a VM that stands still. On the stack of who waits for it. */
struct request {
	struct request *next;
	herd_work *work;
	void *ctx;
	uint64_t asked_ns; /* 0: the VM stood still already */
	uint64_t pause_ns;
	int result;
	bool done;
	struct vm_error err;
};

/* Fields without a remark are guarded by the herd's lock. */
struct member {
	struct herd *herd; /* constant, as are the two numbers */
	uint64_t id, parent;
	struct member *next;
	pthread_t thread;    /* herd_run()'s to join */
	struct image *image; /* its thread's; NULL once the VM is made, and for the root */
	struct vm *vm;       /* NULL: not made yet, or gone */
	enum herd_state state;
	bool asked_for;       /* constant: herd_fork() hears why it could not be made */
	bool hold, stop;      /* it shall stand still, end */
	bool starved;         /* it stands still until there is memory for it; why_starved */
	uint64_t limit_bytes; /* of its VM when that is made, and of its children's; 0: RAM */
	bool gone;            /* its thread touches nothing any more: it can be reaped */
	unsigned viewers;     /* who look at vm: it stays */
	unsigned waiters;     /* who wait: the member stays */
	struct request *first, **last;
	uint64_t held_ns; /* since when it is paused */
	uint64_t deadline_ns;
	uint64_t started_ns; /* it was about to enter the guest; 0: not yet */
	int error;           /* why it could not be made */
	struct vm_error why;
	char why_starved[VM_TEXT_MAX];
};

static inline bool stands_still(const struct member *m)
{
	return m->state == HERD_PAUSED || m->state == HERD_STARVED;
}

struct herd {
	struct family_config config;
	struct family_hooks hooks; /* constant */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_mutex_t hook_lock; /* one hook at a time; taken before `lock` */
	struct member *first, **last;
	struct member *gone; /* to be reaped */
	unsigned members;    /* without those */
	uint64_t next_number;
	bool stopping; /* no more members */
};

/* Fill err->text and hand the code on. */
int herd_say(struct vm_error *err, int code, const char *what);

/* The same about VM `id`. Return: -ESRCH. */
int herd_unknown(struct vm_error *err, uint64_t id, const char *why);

/* Lock held. NULL: there is none, or it has ended. */
struct member *herd_find(struct herd *h, uint64_t id);

/* Its thread looks at what is asked of it soon. Lock held. */
void herd_nudge(struct member *m);

/* A child may be added: there are not too many, and they are not being stopped. Lock held. */
bool herd_has_room(const struct herd *h);

/*
 * A new member from an image, of which it takes the reference in any case; *out, unless NULL, with
 * a waiter. Return: its number; -EAGAIN, -ENOMEM, -errno of the thread.
 */
int herd_start_child(struct herd *h, uint64_t parent, struct image *image, struct member **out);

#endif
