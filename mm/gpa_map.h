// SPDX-License-Identifier: MIT
/*
 * mm/gpa_map.h - a number for each guest page, kept as ordered spans (mm/ internal).
 *
 * Most pages have 0, the default, and cost nothing. Spans are ordered, not empty, don't overlap and
 * have a value other than 0; neighbours that touch have different values.
 *
 * Concurrency: none here; whoever owns the map guards it.
 */
#ifndef COWSLIP_MM_GPA_MAP_H
#define COWSLIP_MM_GPA_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gpa_span {
	uint64_t start, end; /* guest-physical, half-open */
	unsigned value;
};

/* Zeroed: every page has 0. */
struct gpa_map {
	struct gpa_span *span;
	size_t count, room;
};

/* Make room for `sets` calls of gpa_map_set(). Return: 0; -ENOMEM, nothing changed. */
int gpa_map_reserve(struct gpa_map *m, size_t sets);

/* [start, end) has `value` from now on. Room was made before: cannot fail. start < end. */
void gpa_map_set(struct gpa_map *m, uint64_t start, uint64_t end, unsigned value);

/* The value at `at`, and in *stop how far it reaches: at most to `limit`, which lies above. */
unsigned gpa_map_get(const struct gpa_map *m, uint64_t at, uint64_t limit, uint64_t *stop);

/* Free and empty. */
void gpa_map_fini(struct gpa_map *m);

/* Return: true when the spans are as they should be. */
bool gpa_map_audit(const struct gpa_map *m);

#endif
