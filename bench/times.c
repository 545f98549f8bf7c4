// SPDX-License-Identifier: MIT
#include "bench/times.h"

#include <errno.h>

#include "bench/report.h"

int times_add(struct times *t, uint64_t ns)
{
	return series_add(&t->repeat, ns);
}

static double us_at(const struct series *s, unsigned percent)
{
	return (double)series_rank(s, percent) / 1e3;
}

static int take_repeat(struct times *t)
{
	int e = 0;

	if (t->repeat.count == 0)
		return 0;
	for (size_t i = 0; e == 0 && i < t->repeat.count; i++)
		e = series_add(&t->all, t->repeat.v[i]);
	series_sort(&t->repeat);
	return e ? e : sample_add(&t->p50, us_at(&t->repeat, 50));
}

int times_end_repeat(struct times *t, bool counts)
{
	int e = counts ? take_repeat(t) : 0;

	series_fini(&t->repeat);
	return e;
}

int times_set(struct times *t, json_t *row)
{
	static const struct {
		const char *key;
		unsigned percent;
	} tail[] = {{"us_p90", 90}, {"us_p99", 99}, {"us_max", 100}};
	struct spread p50 = sample_spread(&t->p50);
	int e = report_set_figure(row, "us_p50", &p50);

	series_sort(&t->all);
	for (size_t i = 0; e == 0 && i < sizeof(tail) / sizeof(tail[0]); i++)
		e = report_set(row, tail[i].key,
		               t->all.count ? json_real(us_at(&t->all, tail[i].percent))
		                            : json_null());
	return e ? e : report_set(row, "count", json_integer((json_int_t)t->all.count));
}

void times_fini(struct times *t)
{
	series_fini(&t->repeat);
	series_fini(&t->all);
	*t = (struct times){0};
}
