// SPDX-License-Identifier: MIT
/*
 * bench/hist.h - a guest's histograms of touches (guest/memwalk.h), read by the host.
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

/* Cycles in nanoseconds; the cycles themselves when `hz` is 0 (the frequency is not known). */
double hist_ns(double cycles, uint64_t hz);

/*
 * {"count", "mean", "p50", "p90", "p99", "p99.9", "max"}: whole nanoseconds, percentiles as
 * memwalk_histogram_at() defines them; of an empty one count is 0 and the rest null.
 * Return: a new reference; NULL when there is no memory.
 */
json_t *hist_latency_json(const struct memwalk_histogram *h, uint64_t hz);

/*
 * [[ns, fraction], ...] for plots: `fraction` of all touches took at most `ns`. Both rise from
 * point to point (equal ns are joined), the last fraction is 1. Empty for an empty histogram.
 * Return: a new reference; NULL when there is no memory.
 */
json_t *hist_cdf_json(const struct memwalk_histogram *h, uint64_t hz);

#endif
