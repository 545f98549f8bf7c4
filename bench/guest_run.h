// SPDX-License-Identifier: MIT
/*
 * bench/guest_run.h - a guest program run to a certain point, and images of warm ones.
 *
 * Concurrency: one thread; the console may be called by any vCPU's, one at a time.
 */
#ifndef COWSLIP_BENCH_GUEST_RUN_H
#define COWSLIP_BENCH_GUEST_RUN_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/vm.h"

#define GUEST_SAID_MAX 512u

/* Fill err->text and hand the code on. */
int bench_fail(struct vm_error *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* pool_create(), of `bytes` rounded up to blocks; err->text says when there is none. */
int bench_pool(uint64_t bytes, struct pool **out, struct vm_error *err);

/* A VM that runs, and the first of what it printed: for a report that it failed. */
struct guest_run {
	struct vm *vm; /* NULL: none */
	uint64_t timeout_ns;
	char said[GUEST_SAID_MAX];
	size_t said_size;
};

/* A console_write_fn; ctx is a struct guest_run. */
void guest_console(void *ctx, const void *data, size_t size);

/*
 * Run until `event` (VM_EXITED: with 0). Return: 0; -ETIMEDOUT; -ECHILD when something else
 * happened. err->text says it, with what the guest printed.
 */
int guest_run_until(struct guest_run *g, enum vm_event event, struct vm_error *err);

/* A template to be: a program that rings READY `depth` times. */
struct guest_chain {
	struct vm_config vm; /* of the first machine; console and image are filled in */
	const char *program, *args;
	unsigned depth; /* >= 1 */
	uint64_t timeout_ns;
};

/*
 * Boot it, save it when it is warm; run a clone of that to the next READY and save the clone, and
 * so on: the last image is the depth-th of its chain. No VM is left.
 * Return: 0 with a reference in *out; as vm_create(), vm_boot_elf(), guest_run_until(),
 * vm_snapshot().
 */
int guest_chain_make(const struct guest_chain *c, struct image **out, struct vm_error *err);

#endif
