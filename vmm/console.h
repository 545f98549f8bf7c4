// SPDX-License-Identifier: MIT
/*
 * vmm/console.h - where a guest's output goes, whichever device it came through.
 *
 * Concurrency: `write` is called by vCPU threads, one call at a time per VM (the console's lock).
 */
#ifndef COWSLIP_VMM_CONSOLE_H
#define COWSLIP_VMM_CONSOLE_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

/* The embedder's end: takes all of `size` bytes, does not block for long. */
typedef void console_write_fn(void *ctx, const void *data, size_t size);

struct console {
	console_write_fn *write; /* NULL: output is dropped. Guarded by lock */
	void *ctx;
	pthread_mutex_t lock;
	uint64_t first_ns; /* CLOCK_MONOTONIC of the first byte, 0: none yet. Guarded by lock */
	uint64_t bytes;    /* written so far. Guarded by lock */
};

void console_init(struct console *c, console_write_fn *write, void *ctx);
void console_fini(struct console *c);

/* From now on output goes there, and counts from nothing. */
void console_redirect(struct console *c, console_write_fn *write, void *ctx);

void console_put(struct console *c, const void *data, size_t size);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t clock_ns(void);

#endif
