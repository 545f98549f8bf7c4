// SPDX-License-Identifier: MIT
/*
 * vmm/shell.h - VMs kept to be used again: descriptors, vCPUs, threads, slots and window of a clone
 * that has ended serve the next clone of the same image.
 *
 *     shells_take ──> run it ──> shells_give ──┬── kept, to be taken again
 *          ^                                   └── destroyed: what it did may outlast a reset
 *          └──────────── kept
 *
 * A shell is reset when it is taken (vm_reuse), so that nothing of one clone is ever visible in the
 * next: memory, vCPUs, devices, what was typed, where output goes, mailbox, counters. Kept is only
 * a VM whose guest ended by itself, that was never out of frames, kicked or snapshotted and has
 * nothing protected. One that cannot be reset after all is destroyed, and a new one made.
 *
 * Concurrency: any thread; one mutex, not held while a VM is made, reset or destroyed. A shell's
 * vm_run() may come from another thread each time.
 */
#ifndef COWSLIP_VMM_SHELL_H
#define COWSLIP_VMM_SHELL_H

#include <stdint.h>

#include "vmm/vm.h"

struct shells;

struct shells_stats {
	uint64_t made;    /* VMs created */
	uint64_t reused;  /* clones that got one which was kept */
	uint64_t refused; /* given back, or taken, and destroyed as unfit */
	unsigned idle;    /* kept now */
};

/* Keep up to `most` VMs that nobody uses. Return: 0; -ENOMEM. */
int shells_create(unsigned most, struct shells **out);

/* Destroys those it keeps; VMs that are out are their holders'. NULL is ignored. */
void shells_destroy(struct shells *s);

/*
 * vm_create(), with an image and without memory of the caller's, or what has the same effect: a VM
 * of that image, pool, fault path and limit that is kept, reset. Return: as vm_create().
 */
int shells_take(struct shells *s, const struct vm_config *c, struct vm **out, struct vm_error *err);

/*
 * Done with a VM from shells_take(), which is stopped: it is kept, or destroyed. `end`: how its
 * last vm_run() ended; VM_READY where it has not run at all.
 */
void shells_give(struct shells *s, struct vm *vm, enum vm_event end);

/*
 * Have `count` VMs ready for clones like `c`, if so many may be kept. Return: 0; as vm_create(),
 * those made before stay.
 */
int shells_prepare(struct shells *s, const struct vm_config *c, unsigned count,
                   struct vm_error *err);

void shells_stats(struct shells *s, struct shells_stats *out);

#endif
