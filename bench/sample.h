// SPDX-License-Identifier: MIT
/*
 * bench/sample.h - what a few repeats of one measurement say: median, quartiles, paired ratios.
 *
 * A ratio is taken within each repeat, of two rows measured right after one another, and only
 * then summed up: what slows the whole host for a while slows both and drops out.
 *
 * Quartiles are interpolated linearly between the ordered samples: of n samples the quantile p lies
 * at position p * (n - 1), counted from 0. So of five samples they are the second and the fourth.
 *
 * Concurrency: none; values.
 */
#ifndef COWSLIP_BENCH_SAMPLE_H
#define COWSLIP_BENCH_SAMPLE_H

#include <stdbool.h>

#define SAMPLE_MAX 100u /* repeats */

/* Beyond it a figure says more of the host than of what was measured. */
#define SPREAD_NOISY 0.10

/* A change that is smaller than this is none, however steady the figures. */
#define SPREAD_MATTERS 0.05

/* One figure per repeat, in the order of the repeats. Zeroed: empty. */
struct sample {
	double v[SAMPLE_MAX];
	unsigned count;
};

/* Of fewer repeats the quartiles say nothing. */
#define SPREAD_LEAST 3u

/* count 0: nothing was measured, and the rest is 0. */
struct spread {
	double median, q1, q3;
	unsigned count;
};

/* Return: 0; -ENOSPC when SAMPLE_MAX are in it; -EDOM when `v` is no finite number. */
int sample_add(struct sample *s, double v);

struct spread sample_spread(const struct sample *s);

/*
 * Of the ratios a/b repeat by repeat. Repeats that only one of them has, or where b is 0, do not
 * count.
 */
struct spread sample_ratio(const struct sample *a, const struct sample *b);

/* (q3 - q1) / median; 0 when the median is 0. */
double spread_relative(const struct spread *s);

/* Do at least SPREAD_LEAST repeats say how much the figure varies? */
bool spread_known(const struct spread *s);

/* spread_relative() > SPREAD_NOISY; false where the spread is not known. */
bool spread_noisy(const struct spread *s);

/*
 * Has the figure changed beyond noise? The medians lie further apart than both quartiles' ranges
 * together are wide, and than SPREAD_MATTERS of the older median. (That the ranges do not overlap
 * is not enough: of five samples each, drawn from the same distribution, those of every fifth pair
 * do not; this rule is wrong about every twentieth.)
 * Return: -1 lower than before, 1 higher, 0 neither, or one of the spreads is not known.
 */
int spread_change(const struct spread *before, const struct spread *after);

#endif
