// SPDX-License-Identifier: MIT
/*
 * vmm/vm_follow.c - a clone that walks through its image's memory by writes is found out while it
 * runs, and blocks ahead of it are copied (mm/follow.c): when to look, and how long.
 */
#include "vmm/vm_internal.h"

/* Fewer faults than this since the last look are no walk. */
#define LEAST_FAULTS 24u

/*
 * Of a vCPU's time a look may take this part, and less where looks find nothing: half as much with
 * each such look, down to an eighth.
 */
#define TIME_PART      16u
#define MOST_FRUITLESS 3u

/* ... but looks so far apart, 64 ms, show nothing. */
#define MOST_PAUSE_NS UINT64_C(64000000)

/* Blocks copied before anybody else has a say: some milliseconds. */
#define BATCH 8u

bool vm_follow_wants(const struct vm *vm)
{
	return space_may_follow(vm->space);
}

/* One vCPU looks at a time, for all of them. */
void vm_follow_tick(struct vcpu *v, uint64_t faults)
{
	struct vm_follow *f = &v->vm->follow;
	uint64_t start = clock_ns(), pause;
	int r;

	v->unseen += faults;
	if (v->unseen < LEAST_FAULTS || start < atomic_load(&f->not_before) ||
	    atomic_exchange(&f->busy, true))
		return;
	v->unseen = 0;
	/* Not worth it for one that may be over by the next tick. */
	if (!atomic_exchange(&f->begun, true)) {
		atomic_store(&f->busy, false);
		return;
	}
	r = space_look(v->vm->space);
	f->fruitless = r > 0 ? 0 : (unsigned)min_u64(f->fruitless + 1, MOST_FRUITLESS);
	pause = ((clock_ns() - start) * TIME_PART) << f->fruitless;
	atomic_store(&f->not_before, clock_ns() + min_u64(pause, MOST_PAUSE_NS));
	atomic_store(&f->busy, false);
	if (r > 0)
		vm_tick_ask_stopped(v);
}

/* Where others wait to go on, or somebody for the VM, the rest is left for the next tick. */
void vm_follow_stopped(struct vm *vm)
{
	while (space_follow(vm->space, BATCH) && vm->cpu_count == 1 && !atomic_load(&vm->kicked) &&
	       (!vm->deadline_ns || clock_ns() < vm->deadline_ns))
		;
}
