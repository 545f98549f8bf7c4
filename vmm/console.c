// SPDX-License-Identifier: MIT
#include "vmm/console.h"

#include <time.h>

uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

void console_init(struct console *c, console_write_fn *write, console_room_fn *room, void *ctx)
{
	*c = (struct console){.write = write, .room = room, .ctx = ctx};
	pthread_mutex_init(&c->lock, NULL);
}

void console_fini(struct console *c)
{
	pthread_mutex_destroy(&c->lock);
}

void console_redirect(struct console *c, console_write_fn *write, console_room_fn *room, void *ctx)
{
	pthread_mutex_lock(&c->lock);
	c->write = write;
	c->room = room;
	c->ctx = ctx;
	c->first_ns = c->bytes = 0;
	pthread_mutex_unlock(&c->lock);
}

void console_put(struct console *c, const void *data, size_t size)
{
	if (size == 0)
		return;
	pthread_mutex_lock(&c->lock);
	if (c->first_ns == 0)
		c->first_ns = clock_ns();
	c->bytes += size;
	if (c->write)
		c->write(c->ctx, data, size);
	pthread_mutex_unlock(&c->lock);
}
