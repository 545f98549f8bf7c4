// SPDX-License-Identifier: MIT
/*
 * vmm/vm_tick.c - what is done for a running guest from time to time.
 *
 * Work comes as a const table of users. Of each, `wants` says whether the VM has any use for it,
 * before it runs; `tick` is called on a vCPU's thread between two entries while the other vCPUs
 * run; and when that asks for it (tick_ask_stopped()), `stopped` is called on the thread of the
 * VM's owner with every vCPU stopped, after which the guest goes on. vm_run() does not return
 * for it.
 *
 * How many pages may have become private since the last look follows from the faults that the
 * vCPU's thread has taken: it takes one for each.
 */
#include <sys/resource.h>

#include "mm/check.h"
#include "vmm/vm_internal.h"

struct tick_user {
	bool (*wants)(const struct vm *vm);
	void (*tick)(struct vcpu *v, uint64_t faults);
	void (*stopped)(struct vm *vm);
};

static const struct tick_user users[] = {
	{vm_limit_wants, vm_limit_tick, NULL},
	{vm_follow_wants, vm_follow_tick, vm_follow_stopped},
};
#define USERS (sizeof(users) / sizeof(users[0]))

/* Faults that the calling thread has taken so far, on its own or in the kernel. */
static uint64_t thread_faults(void)
{
	struct rusage usage;

	CHECK(getrusage(RUSAGE_THREAD, &usage) == 0);
	return (uint64_t)usage.ru_minflt + (uint64_t)usage.ru_majflt;
}

int vm_tick_start(struct vcpu *v)
{
	bool wanted = false;
	int r;

	for (unsigned i = 0; i < USERS; i++)
		wanted = wanted || users[i].wants(v->vm);
	if (!wanted)
		return 0;
	v->faults = thread_faults();
	r = tick_start(&v->tick);
	/* To follow walks is worth something, and no more. */
	return r && vm_limit_wants(v->vm) ? r : 0;
}

void vm_tick_stop(struct vcpu *v)
{
	tick_stop(&v->tick);
}

void vm_tick(struct vcpu *v)
{
	uint64_t before = v->faults;

	if (!v->tick.going)
		return;
	v->faults = thread_faults();
	for (unsigned i = 0; i < USERS; i++)
		if (users[i].wants(v->vm))
			users[i].tick(v, v->faults - before);
}

void vm_tick_ask_stopped(struct vcpu *v)
{
	atomic_store(&v->vm->tick_due, true);
	vcpu_stop_others(v);
}

void vm_tick_stopped(struct vm *vm)
{
	if (!atomic_exchange(&vm->tick_due, false))
		return;
	for (unsigned i = 0; i < USERS; i++)
		if (users[i].stopped && users[i].wants(vm))
			users[i].stopped(vm);
}
