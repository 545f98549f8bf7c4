// SPDX-License-Identifier: MIT
#include "mm/gpa_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mm/check.h"

/* A set leaves at most two spans more than there were: its own, and the rest of one it split. */
#define SPANS_PER_SET 2u

int gpa_map_reserve(struct gpa_map *m, size_t sets)
{
	size_t need = m->count + sets * SPANS_PER_SET;
	struct gpa_span *more;

	if (need <= m->room)
		return 0;
	need += need / 2;
	more = realloc(m->span, need * sizeof(*more));
	if (!more)
		return -ENOMEM;
	m->span = more;
	m->room = need;
	return 0;
}

/* The first span that ends above `a`. */
static size_t find(const struct gpa_map *m, uint64_t a)
{
	size_t low = 0, high = m->count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (m->span[mid].end <= a)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* Put `n` spans in the place of spans [first, last). */
static void replace(struct gpa_map *m, size_t first, size_t last, const struct gpa_span *with,
                    size_t n)
{
	size_t count = m->count - (last - first) + n;

	if (count == 0) {
		m->count = 0;
		return;
	}
	CHECK(count <= m->room);
	memmove(&m->span[first + n], &m->span[last], (m->count - last) * sizeof(*m->span));
	for (size_t i = 0; i < n; i++)
		m->span[first + i] = with[i];
	m->count = count;
}

/* Join span `i` with the one behind it, where they are alike. */
static void join(struct gpa_map *m, size_t i)
{
	if (i + 1 >= m->count || m->span[i].end != m->span[i + 1].start ||
	    m->span[i].value != m->span[i + 1].value)
		return;
	m->span[i].end = m->span[i + 1].end;
	replace(m, i + 1, i + 2, NULL, 0);
}

void gpa_map_set(struct gpa_map *m, uint64_t start, uint64_t end, unsigned value)
{
	struct gpa_span with[3];
	size_t first = find(m, start), last = first, n = 0;

	CHECK(start < end);
	while (last < m->count && m->span[last].start < end)
		last++;
	if (first < last && m->span[first].start < start)
		with[n++] = (struct gpa_span){m->span[first].start, start, m->span[first].value};
	if (value)
		with[n++] = (struct gpa_span){start, end, value};
	if (first < last && m->span[last - 1].end > end)
		with[n++] = (struct gpa_span){end, m->span[last - 1].end, m->span[last - 1].value};
	replace(m, first, last, with, n);
	/* Only neighbours of what is new can have become alike: from the back to the front. */
	for (size_t i = first + n + 1; i-- > (first ? first - 1 : 0);)
		join(m, i);
}

unsigned gpa_map_get(const struct gpa_map *m, uint64_t at, uint64_t limit, uint64_t *stop)
{
	size_t i = m->count ? find(m, at) : 0;
	const struct gpa_span *span;

	*stop = limit;
	if (i == m->count)
		return 0;
	span = &m->span[i];
	if (span->start > at) {
		*stop = span->start < limit ? span->start : limit;
		return 0;
	}
	*stop = span->end < limit ? span->end : limit;
	return span->value;
}

void gpa_map_fini(struct gpa_map *m)
{
	free(m->span);
	*m = (struct gpa_map){0};
}

bool gpa_map_audit(const struct gpa_map *m)
{
	for (size_t i = 0; i < m->count; i++) {
		const struct gpa_span *span = &m->span[i];

		if (span->start >= span->end || span->value == 0)
			return false;
		if (i == 0)
			continue;
		if (span[-1].end > span->start ||
		    (span[-1].end == span->start && span[-1].value == span->value))
			return false;
	}
	return m->count <= m->room;
}
