// SPDX-License-Identifier: MIT
/*
 * mm/store.h - where an extent's bytes live: a pool of frames, or a read-only image file.
 *
 * A store is a file descriptor that windows are mapped from, plus a reference
 * count. A pool store also counts references on its blocks; the frames of a file store
 * live as long as the store does.
 *
 * Concurrency: count and map are atomic; the other fields never change after creation.
 */
#ifndef COWSLIP_MM_STORE_H
#define COWSLIP_MM_STORE_H

#include <stdatomic.h>
#include <stdint.h>

#include "mm/types.h"

struct pool;

struct store {
	_Atomic uint32_t refs;
	int fd;              /* owned; closed with the last reference */
	uint64_t size;       /* bytes that may be mapped */
	struct pool *pool;   /* NULL: a read-only file */
	_Atomic(void *) map; /* all of a file; NULL: not mapped */
};

/*
 * A store over a read-only image file. Takes ownership of `fd` on success only.
 * `size` is the file's length in bytes; frames beyond it are never mapped.
 * Return: 0; -ENOMEM; -EINVAL when fd is negative or size is 0.
 */
int store_open_file(int fd, uint64_t size, struct store **out);

/* Another reference; the caller holds one. Returns `s`. */
struct store *store_get(struct store *s);

/* Drop a reference. NULL is ignored. The last one closes the file or destroys the pool. */
void store_put(struct store *s);

/*
 * One reference on whatever keeps frame `f` alive: its block in a pool, the whole store
 * for a file. Every extent of an image holds exactly one.
 * Return: 0; -EOVERFLOW when the count is at its maximum (nothing changed).
 */
int store_frame_get(struct store *s, frame_t f);
void store_frame_put(struct store *s, frame_t f);

/*
 * Read `count` frames from `f` on into `to`. What the store does not hold (a hole, or beyond the
 * end of a file) reads as zero, and reading it puts no memory there, as a read through a mapping
 * would.
 * Return: 0; -errno of pread.
 */
int store_read(const struct store *s, frame_t f, uint64_t count, void *to);

/*
 * The bytes of `count` frames from `f` on, where the file is mapped to be read: all of it, with the
 * first call, for as long as the store lives. Of a file store. Like a read through a window, it
 * ends in SIGBUS when the file has lost its end.
 * Return: NULL when they are not all inside the file or it cannot be mapped; for a pool.
 */
const void *store_map(struct store *s, frame_t f, uint64_t count);

/*
 * Frames of [f, f + count) that hold data; the rest are holes. 0 when the kernel won't say. Takes
 * time in proportion to the data from `f` to the next hole after the range: ask for long runs.
 */
uint64_t store_data_frames(const struct store *s, frame_t f, uint64_t count);

#endif
