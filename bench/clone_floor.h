// SPDX-License-Identifier: MIT
/*
 * bench/clone_floor.h - what no clone can do without: a VM that exists, with all its memory in
 * place, has its registers and devices set and runs.
 *
 * Concurrency: one thread.
 */
#ifndef COWSLIP_BENCH_CLONE_FLOOR_H
#define COWSLIP_BENCH_CLONE_FLOOR_H

#include "bench/guest_run.h"

/* Zeroed: none. */
struct floor {
	struct pool *pool;
	struct guest_run run;
};

/*
 * A clone of `image` that has run to its end once, so that whatever it touches is there. The image
 * is borrowed. Return: 0; as vm_create(); -ECHILD, -ETIMEDOUT when it did not end with 0.
 */
int floor_open(struct floor *f, const struct kvm *kvm, struct image *image, uint64_t timeout_ns,
               struct vm_error *err);

/*
 * From the image's registers to its end again; its memory has been put right before the times
 * begin. Return: as floor_open(); as vm_rewind(), space_reset().
 */
int floor_run(struct floor *f, struct vm_times *out, struct vm_error *err);

void floor_close(struct floor *f);

#endif
