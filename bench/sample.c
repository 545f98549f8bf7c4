// SPDX-License-Identifier: MIT
#include "bench/sample.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

int sample_add(struct sample *s, double v)
{
	if (!isfinite(v))
		return -EDOM;
	if (s->count == SAMPLE_MAX)
		return -ENOSPC;
	s->v[s->count++] = v;
	return 0;
}

static int compare(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* Of n > 0 ordered samples; p in [0, 1]. */
static double quantile(const double *v, unsigned n, double p)
{
	double at = p * (n - 1);
	unsigned below = (unsigned)at, above = below + 1 < n ? below + 1 : below;

	return v[below] + (v[above] - v[below]) * (at - below);
}

struct spread sample_spread(const struct sample *s)
{
	struct sample ordered = *s;

	if (s->count == 0)
		return (struct spread){0};
	qsort(ordered.v, ordered.count, sizeof(ordered.v[0]), compare);
	return (struct spread){
		.median = quantile(ordered.v, ordered.count, 0.5),
		.q1 = quantile(ordered.v, ordered.count, 0.25),
		.q3 = quantile(ordered.v, ordered.count, 0.75),
		.count = ordered.count,
	};
}

struct spread sample_ratio(const struct sample *a, const struct sample *b)
{
	struct sample ratios = {.count = 0};

	for (unsigned i = 0; i < a->count && i < b->count; i++)
		if (b->v[i] != 0)
			(void)sample_add(&ratios, a->v[i] / b->v[i]);
	return sample_spread(&ratios);
}

double spread_relative(const struct spread *s)
{
	return s->median != 0 ? (s->q3 - s->q1) / fabs(s->median) : 0;
}

bool spread_known(const struct spread *s)
{
	return s->count >= SPREAD_LEAST;
}

bool spread_noisy(const struct spread *s)
{
	return spread_known(s) && spread_relative(s) > SPREAD_NOISY;
}

int spread_change(const struct spread *before, const struct spread *after)
{
	double apart = after->median - before->median;
	double noise = (before->q3 - before->q1) + (after->q3 - after->q1);

	if (!spread_known(before) || !spread_known(after))
		return 0;
	if (fabs(apart) <= noise || fabs(apart) <= SPREAD_MATTERS * fabs(before->median))
		return 0;
	return apart > 0 ? 1 : -1;
}
