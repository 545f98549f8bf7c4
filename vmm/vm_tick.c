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

/* ---- walks of writes through the image's memory (space_look) ---- */

/* Fewer faults than this since the last look are no walk. */
#define FOLLOW_FAULTS 24u

/*
 * Of a vCPU's time a look may take this part, and less where looks find nothing: half as much with
 * each such look, down to an eighth.
 */
#define FOLLOW_PART      16u
#define FOLLOW_FRUITLESS 3u

/* ... but looks so far apart, 64 ms, show nothing. */
#define FOLLOW_PAUSE_NS UINT64_C(64000000)

/* Blocks copied before anybody else has a say: some milliseconds. */
#define FOLLOW_BATCH 8u

static bool wants_follow(const struct vm *vm)
{
	return space_may_follow(vm->space);
}

/* One vCPU looks at a time, for all of them. */
static void tick_follow(struct vcpu *v, uint64_t faults)
{
	struct vm_follow *f = &v->vm->follow;
	uint64_t start = clock_ns(), pause;
	int r;

	v->unseen += faults;
	if (v->unseen < FOLLOW_FAULTS || start < atomic_load(&f->not_before) ||
	    atomic_exchange(&f->busy, true))
		return;
	v->unseen = 0;
	r = space_look(v->vm->space);
	f->fruitless = r > 0 ? 0 : (unsigned)min_u64(f->fruitless + 1, FOLLOW_FRUITLESS);
	pause = ((clock_ns() - start) * FOLLOW_PART) << f->fruitless;
	atomic_store(&f->not_before, clock_ns() + min_u64(pause, FOLLOW_PAUSE_NS));
	atomic_store(&f->busy, false);
	if (r > 0)
		vm_tick_ask_stopped(v);
}

/* Where others wait to go on, or somebody for the VM, the rest is left for the next tick. */
static void stopped_follow(struct vm *vm)
{
	while (space_follow(vm->space, FOLLOW_BATCH) && vm->cpu_count == 1 &&
	       !atomic_load(&vm->kicked) && (!vm->deadline_ns || clock_ns() < vm->deadline_ns))
		;
}

/* ---- users ---- */

static const struct tick_user users[] = {
	{vm_limit_wants, vm_limit_tick, NULL},
	{wants_follow, tick_follow, stopped_follow},
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
