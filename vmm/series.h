// SPDX-License-Identifier: MIT
/*
 * vmm/series.h - samples of whole numbers, as many as come, and their percentiles.
 *
 * Concurrency: none; one thread.
 */
#ifndef COWSLIP_VMM_SERIES_H
#define COWSLIP_VMM_SERIES_H

#include <stddef.h>
#include <stdint.h>

/* Growing array of samples. Zeroed: empty. */
struct series {
	uint64_t *v;
	size_t count;
	size_t room;
};

/* Return: 0; -ENOMEM, then the sample is not in it. */
int series_add(struct series *s, uint64_t sample);

/* Put the samples in order, as series_rank() wants them. */
void series_sort(struct series *s);

/*
 * What the slowest (100 - percent) % of all reach or exceed: the sample at rank
 * floor(count * percent / 100) + 1, at most count; percent in 1..100. So one slow sample in 100
 * shows in p99. Of a sorted series; 0 when it is empty.
 */
uint64_t series_rank(const struct series *s, unsigned percent);

void series_fini(struct series *s);

#endif
