// SPDX-License-Identifier: MIT
/*
 * bench/times.h - how long something took that happens many times in each repeat.
 *
 * The median is taken in each repeat, and then the median of those, with their quartiles: what it
 * varies by from repeat to repeat. What tells of the tail (p90, p99, the maximum) is of all repeats
 * together: a repeat alone has too few samples for it, and a median of maxima is no maximum. Ranks
 * are series_rank()'s.
 *
 * Concurrency: none; one thread.
 */
#ifndef COWSLIP_BENCH_TIMES_H
#define COWSLIP_BENCH_TIMES_H

#include <jansson.h>
#include <stdbool.h>

#include "bench/sample.h"
#include "vmm/series.h"

/* Zeroed: empty. */
struct times {
	struct series repeat; /* ns, of the present one */
	struct series all;    /* ns, of all repeats that count */
	struct sample p50;    /* us, by repeat; one without samples has none */
};

/* Return: 0; -ENOMEM. */
int times_add(struct times *t, uint64_t ns);

/* The repeat is over; what it measured is dropped unless it counts. Return: 0; -ENOMEM; -ENOSPC. */
int times_end_repeat(struct times *t, bool counts);

/* us_p50 (_spread), us_p90, us_p99, us_max and count of a row. Return: 0; -ENOMEM. */
int times_set(struct times *t, json_t *row);

void times_fini(struct times *t);

#endif
