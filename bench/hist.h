// SPDX-License-Identifier: MIT
/*
 * bench/hist.h - a guest's histograms of touches (guest/memwalk.h), read by the host.
 *
 * Percentiles: the value at rank floor(count * p) + 1, at most count, in ascending order: what the
 * slowest 1 - p of all reach. So one slow touch in 1,000 shows in p99.9. A value is known to 1/32:
 * it is told as the upper end of its bucket, but never as more than the largest of all.
 *
 * What a guest says is checked (hist_check()) before it is used.
 * Concurrency: none; the caller's memory.
 */
#ifndef COWSLIP_BENCH_HIST_H
#define COWSLIP_BENCH_HIST_H

#include <jansson.h>
#include <stdint.h>

struct memwalk_histogram;

/* Return: 0; -EBADMSG when the buckets do not add up to count, or max or sum contradict them. */
int hist_check(const struct memwalk_histogram *h);

/* Return: 0; -EOVERFLOW when a bucket would not hold it: `to` is then unchanged. */
int hist_merge(struct memwalk_histogram *to, const struct memwalk_histogram *from);

/* The percentile `permille` (0..1000), in cycles; 0 when the histogram is empty. */
uint64_t hist_at(const struct memwalk_histogram *h, unsigned permille);

/* Cycles in nanoseconds; the cycles themselves when `hz` is 0 (the frequency is not known). */
double hist_ns(double cycles, uint64_t hz);

/*
 * {"count", "mean", "p50", "p90", "p99", "p99.9", "max"}: whole nanoseconds; of an empty one count
 * is 0 and the rest null. Return: a new reference; NULL when there is no memory.
 */
json_t *hist_latency_json(const struct memwalk_histogram *h, uint64_t hz);

/*
 * [[ns, fraction], ...] for plots: `fraction` of all touches took at most `ns`. Both rise from
 * point to point (equal ns are joined), the last fraction is 1. Empty for an empty histogram.
 * Return: a new reference; NULL when there is no memory.
 */
json_t *hist_cdf_json(const struct memwalk_histogram *h, uint64_t hz);

#endif
