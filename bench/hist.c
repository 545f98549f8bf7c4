// SPDX-License-Identifier: MIT
#include "bench/hist.h"

#include <errno.h>

#include "guest/memwalk.h"

/* Index of the last bucket that is not empty, -1 when all are. */
static int last_bucket(const struct memwalk_histogram *h)
{
	for (int b = (int)MEMWALK_BUCKETS - 1; b >= 0; b--)
		if (h->bucket[b])
			return b;
	return -1;
}

int hist_check(const struct memwalk_histogram *h)
{
	uint64_t count = 0;
	int last = last_bucket(h);

	for (unsigned b = 0; b < MEMWALK_BUCKETS; b++)
		count += h->bucket[b];
	if (count != h->count)
		return -EBADMSG;
	if (count == 0)
		return h->sum || h->max ? -EBADMSG : 0;
	if (memwalk_bucket_of(h->max) != (unsigned)last || h->sum < h->max)
		return -EBADMSG;
	/* No value is above max: by a quotient, because the product may not fit. */
	if (h->sum > 0 && (h->sum - 1) / h->max >= count)
		return -EBADMSG;
	return 0;
}

int hist_merge(struct memwalk_histogram *to, const struct memwalk_histogram *from)
{
	uint64_t sum;

	if (__builtin_add_overflow(to->sum, from->sum, &sum))
		return -EOVERFLOW;
	for (unsigned b = 0; b < MEMWALK_BUCKETS; b++)
		if (from->bucket[b] > UINT32_MAX - to->bucket[b])
			return -EOVERFLOW;
	memwalk_histogram_merge(to, from);
	return 0;
}

double hist_ns(double cycles, uint64_t hz)
{
	return hz ? cycles * 1e9 / (double)hz : cycles;
}

static json_int_t round_ns(double cycles, uint64_t hz)
{
	double ns = hist_ns(cycles, hz) + 0.5;

	/* A guest may say what it likes: what JSON's integers cannot hold is cut. */
	return ns < 9e18 ? (json_int_t)ns : (json_int_t)9e18;
}

static json_t *whole_ns(double cycles, uint64_t hz)
{
	return json_integer(round_ns(cycles, hz));
}

static json_t *percentile(const struct memwalk_histogram *h, uint32_t ppm, uint64_t hz)
{
	return whole_ns((double)memwalk_histogram_at(h, ppm), hz);
}

json_t *hist_latency_json(const struct memwalk_histogram *h, uint64_t hz)
{
	if (h->count == 0)
		return json_pack("{s:i, s:n, s:n, s:n, s:n, s:n, s:n}", "count", 0, "mean", "p50",
		                 "p90", "p99", "p99.9", "max");
	return json_pack("{s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "count", (json_int_t)h->count,
	                 "mean", whole_ns((double)h->sum / (double)h->count, hz), "p50",
	                 percentile(h, 500000, hz), "p90", percentile(h, 900000, hz), "p99",
	                 percentile(h, 990000, hz), "p99.9", percentile(h, 999000, hz), "max",
	                 whole_ns((double)h->max, hz));
}

/* Buckets narrower than a nanosecond: the later point takes the place of the earlier. */
static int add_point(json_t *points, json_int_t ns, double fraction)
{
	size_t n = json_array_size(points);
	json_t *last = n ? json_array_get(points, n - 1) : NULL;

	if (last && json_integer_value(json_array_get(last, 0)) == ns)
		return json_array_set_new(last, 1, json_real(fraction));
	return json_array_append_new(points, json_pack("[I, f]", ns, fraction));
}

/* The largest value of a bucket that is not empty. */
static uint64_t top_of(const struct memwalk_histogram *h, unsigned b, uint64_t seen)
{
	return seen == h->count ? h->max : memwalk_bucket_top(b);
}

json_t *hist_cdf_json(const struct memwalk_histogram *h, uint64_t hz)
{
	json_t *points = json_array();
	uint64_t seen = 0;

	for (unsigned b = 0; points && b < MEMWALK_BUCKETS; b++) {
		json_int_t ns;

		if (h->bucket[b] == 0)
			continue;
		seen += h->bucket[b];
		ns = round_ns((double)top_of(h, b, seen), hz);
		if (add_point(points, ns, (double)seen / (double)h->count)) {
			json_decref(points);
			return NULL;
		}
	}
	return points;
}
