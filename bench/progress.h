// SPDX-License-Identifier: MIT
/*
 * bench/progress.h - a line that says how far a long run is, where somebody watches.
 *
 * Drawn only on a terminal, at most ten times a second, and gone when it ends: what follows finds a
 * clean line. Elsewhere nothing is written.
 *
 * Concurrency: one thread.
 */
#ifndef COWSLIP_BENCH_PROGRESS_H
#define COWSLIP_BENCH_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct progress {
	int fd;
	bool shown; /* fd is a terminal */
	unsigned total;
	uint64_t started_ns, drawn_ns; /* CLOCK_MONOTONIC */
};

/* A run of `total` steps, told on `fd`. */
void progress_start(struct progress *p, int fd, unsigned total);

/* `done` steps are over; `what` (a few words) is next. */
void progress_step(struct progress *p, unsigned done, const char *what);

/* Take the line away. May be called again. */
void progress_end(struct progress *p);

/*
 * The line itself, cut to `width` columns, without a newline:
 * "[#####.....] 5/10  12 s left  random kernel-4k". The time left is shown once it can be known.
 */
void progress_line(char *line, size_t size, unsigned width, unsigned done, unsigned total,
                   uint64_t elapsed_ns, const char *what);

#endif
