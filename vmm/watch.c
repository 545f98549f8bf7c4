// SPDX-License-Identifier: MIT
#include "vmm/watch.h"

#include <errno.h>
#include <string.h>

int watch_init(struct watch *w, const char *pattern, char *why, size_t why_size)
{
	int r;

	*w = (struct watch){0};
	r = regcomp(&w->regex, pattern, REG_EXTENDED | REG_NOSUB);
	if (r == 0)
		return 0;
	regerror(r, &w->regex, why, why_size);
	return -EINVAL;
}

void watch_fini(struct watch *w)
{
	regfree(&w->regex);
}

static bool matches(struct watch *w)
{
	w->line[w->len] = '\0';
	return w->len > 0 && regexec(&w->regex, w->line, 0, NULL, 0) == 0;
}

/* A line too long keeps its newer half. */
static void add(struct watch *w, char c)
{
	if (w->len == WATCH_LINE) {
		memmove(w->line, w->line + WATCH_LINE / 2, WATCH_LINE / 2);
		w->len = WATCH_LINE / 2;
	}
	w->line[w->len++] = c;
}

bool watch_feed(struct watch *w, const void *data, size_t size)
{
	const char *c = data;

	for (size_t i = 0; i < size; i++) {
		if (c[i] != '\n' && c[i] != '\r' && c[i] != '\0') {
			add(w, c[i]);
			continue;
		}
		if (matches(w))
			return true;
		w->len = 0;
	}
	return matches(w);
}
