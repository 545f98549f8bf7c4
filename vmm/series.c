// SPDX-License-Identifier: MIT
#include "vmm/series.h"

#include <errno.h>
#include <stdlib.h>

int series_add(struct series *s, uint64_t sample)
{
	size_t room = s->room ? 2 * s->room : 64;
	uint64_t *v;

	if (s->count == s->room) {
		v = reallocarray(s->v, room, sizeof(*v));
		if (!v)
			return -ENOMEM;
		s->v = v;
		s->room = room;
	}
	s->v[s->count++] = sample;
	return 0;
}

static int compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

void series_sort(struct series *s)
{
	if (s->count > 1)
		qsort(s->v, s->count, sizeof(*s->v), compare);
}

uint64_t series_rank(const struct series *s, unsigned percent)
{
	size_t rank = s->count * percent / 100 + 1;

	if (s->count == 0)
		return 0;
	return s->v[(rank < s->count ? rank : s->count) - 1];
}

void series_fini(struct series *s)
{
	free(s->v);
	*s = (struct series){0};
}
