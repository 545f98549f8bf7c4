// SPDX-License-Identifier: MIT
/*
 * vmm/console.h - where a guest's output goes, whichever device it came through.
 *
 * Concurrency: `write` is called by vCPU threads, one call at a time per VM (the console's lock).
 */
#ifndef COWSLIP_VMM_CONSOLE_H
#define COWSLIP_VMM_CONSOLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The embedder's end: takes all of `size` bytes, does not block for long. */
typedef void console_write_fn(void *ctx, const void *data, size_t size);

/*
 * Is there room for more? Waits for it, for `wait_ns` at most. A VM asks before it enters its
 * guest, and does not as long as there is none: it can be kicked, and its time can run out.
 * So an end that has to wait for somebody takes what it is given, and says here that it is full.
 * Any of the vCPUs' threads, at once.
 */
typedef bool console_room_fn(void *ctx, uint64_t wait_ns);

struct console {
	console_write_fn *write; /* NULL: output is dropped. Guarded by lock */
	console_room_fn *room;   /* NULL: always. This one and ctx stay while the VM runs */
	void *ctx;
	pthread_mutex_t lock;
	uint64_t first_ns; /* CLOCK_MONOTONIC of the first byte, 0: none yet. Guarded by lock */
	uint64_t bytes;    /* written so far. Guarded by lock */
};

void console_init(struct console *c, console_write_fn *write, console_room_fn *room, void *ctx);
void console_fini(struct console *c);

/* From now on output goes there, and counts from nothing. The VM is stopped. */
void console_redirect(struct console *c, console_write_fn *write, console_room_fn *room, void *ctx);

void console_put(struct console *c, const void *data, size_t size);

/* As console_room_fn says. */
static inline bool console_has_room(const struct console *c, uint64_t wait_ns)
{
	return !c->room || c->room(c->ctx, wait_ns);
}

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t clock_ns(void);

#endif
