// SPDX-License-Identifier: MIT
/*
 * vmm/cli_outlet.c - two buffers: one is filled while the other is written.
 *
 * Invariants: `kept` is what was put and is not written yet: all of `coming`, and of `going` what
 * lies behind the bytes written. `going` is the writer's alone.
 */
#include "vmm/cli_outlet.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mm/types.h"
#include "vmm/cli.h"
#include "vmm/console.h"

/* What a pipe takes in one piece. */
#define PIECE 4096u

struct bytes {
	char *data;
	size_t size, room;
};

struct outlet {
	pthread_mutex_t lock;
	pthread_cond_t filled;  /* for the writer: there is something, or the end */
	pthread_cond_t drained; /* the writer has written something, or is done */
	pthread_t writer;
	struct bytes coming; /* lock */
	struct bytes going;
	atomic_size_t kept; /* written with the lock held */
	bool closing, done; /* lock */
};

static bool is_full(const struct outlet *o)
{
	return atomic_load(&o->kept) >= OUTLET_ROOM;
}

/* Lock held, dropped meanwhile. Return: false when it is `until_ns`. */
static bool wait_drained(struct outlet *o, uint64_t until_ns)
{
	const struct timespec t = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};

	return pthread_cond_timedwait(&o->drained, &o->lock, &t) != ETIMEDOUT;
}

/* ---- the writer ---- */

/* Up to the last line's end that fits, or else all that does. */
static size_t piece(const char *data, size_t size)
{
	const size_t most = min_u64(size, PIECE);
	const char *end = memrchr(data, '\n', most);

	return end ? (size_t)(end - data) + 1 : most;
}

static void note_written(struct outlet *o, size_t size)
{
	pthread_mutex_lock(&o->lock);
	atomic_fetch_sub(&o->kept, size);
	pthread_cond_broadcast(&o->drained);
	pthread_mutex_unlock(&o->lock);
}

static void write_going(struct outlet *o)
{
	for (size_t at = 0, n; at < o->going.size; at += n) {
		n = piece(o->going.data + at, o->going.size - at);
		cli_put(o->going.data + at, n);
		note_written(o, n);
	}
	o->going.size = 0;
}

/* Lock held, dropped meanwhile. Return: false at the end: there is nothing more. */
static bool take_coming(struct outlet *o)
{
	struct bytes empty = o->going;

	while (o->coming.size == 0 && !o->closing)
		pthread_cond_wait(&o->filled, &o->lock);
	o->going = o->coming;
	o->coming = empty;
	return o->going.size > 0;
}

static void *writer_main(void *arg)
{
	struct outlet *o = arg;

	pthread_mutex_lock(&o->lock);
	while (take_coming(o)) {
		pthread_mutex_unlock(&o->lock);
		write_going(o);
		pthread_mutex_lock(&o->lock);
	}
	o->done = true;
	pthread_cond_broadcast(&o->drained);
	pthread_mutex_unlock(&o->lock);
	return NULL;
}

/* ---- those who put ---- */

static void append(struct bytes *b, const void *data, size_t size)
{
	const size_t want = b->size + size;
	char *more;

	if (want > b->room) {
		more = realloc(b->data, 2 * want);
		if (!more) {
			cli_error("output of the guests: %s; run fewer at once", strerror(ENOMEM));
			exit(CLI_FAILED);
		}
		b->data = more;
		b->room = 2 * want;
	}
	memcpy(b->data + b->size, data, size);
	b->size = want;
}

void outlet_put(struct outlet *o, const void *data, size_t size)
{
	if (size == 0)
		return;
	pthread_mutex_lock(&o->lock);
	append(&o->coming, data, size);
	atomic_fetch_add(&o->kept, size);
	pthread_cond_signal(&o->filled);
	pthread_mutex_unlock(&o->lock);
}

bool outlet_has_room(struct outlet *o, uint64_t wait_ns)
{
	uint64_t until;

	if (!is_full(o))
		return true;
	until = clock_ns() + wait_ns;
	pthread_mutex_lock(&o->lock);
	while (is_full(o) && wait_drained(o, until))
		;
	pthread_mutex_unlock(&o->lock);
	return !is_full(o);
}

/* ---- first and last ---- */

static void outlet_free(struct outlet *o)
{
	pthread_cond_destroy(&o->drained);
	pthread_cond_destroy(&o->filled);
	pthread_mutex_destroy(&o->lock);
	free(o->coming.data);
	free(o->going.data);
	free(o);
}

int outlet_open(struct outlet **out)
{
	struct outlet *o = calloc(1, sizeof(*o));
	pthread_condattr_t attr;
	int r;

	if (!o)
		return -ENOMEM;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&o->lock, NULL);
	pthread_cond_init(&o->filled, NULL);
	pthread_cond_init(&o->drained, &attr);
	pthread_condattr_destroy(&attr);
	r = pthread_create(&o->writer, NULL, writer_main, o);
	if (r) {
		outlet_free(o);
		return -r;
	}
	*out = o;
	return 0;
}

/* Lock held, dropped meanwhile. Until the writer is done, or the reader has been idle so long. */
static void wait_done(struct outlet *o, uint64_t patience_ns)
{
	size_t left = atomic_load(&o->kept);
	uint64_t since = clock_ns();

	while (!o->done) {
		if (!patience_ns)
			pthread_cond_wait(&o->drained, &o->lock);
		else if (!wait_drained(o, since + patience_ns) && !o->done &&
		         atomic_load(&o->kept) == left)
			return;
		if (atomic_load(&o->kept) == left)
			continue;
		left = atomic_load(&o->kept);
		since = clock_ns();
	}
}

size_t outlet_close(struct outlet *o, uint64_t patience_ns)
{
	size_t left;

	if (!o)
		return 0;
	pthread_mutex_lock(&o->lock);
	o->closing = true;
	pthread_cond_signal(&o->filled);
	wait_done(o, patience_ns);
	left = o->done ? 0 : atomic_load(&o->kept);
	pthread_mutex_unlock(&o->lock);
	if (left > 0)
		return left;
	pthread_join(o->writer, NULL);
	outlet_free(o);
	return 0;
}
