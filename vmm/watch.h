// SPDX-License-Identifier: MIT
/*
 * vmm/watch.h - waits for a line of console output that matches a regular expression.
 *
 * Fed with output as it comes; a match may lie anywhere in a line, and in one that is not ended yet
 * (a prompt). Lines longer than WATCH_LINE are looked at by their end.
 *
 * Concurrency: none of its own; feed it from where output arrives in order.
 */
#ifndef COWSLIP_VMM_WATCH_H
#define COWSLIP_VMM_WATCH_H

#include <regex.h>
#include <stdbool.h>
#include <stddef.h>

#define WATCH_LINE 1024u

struct watch {
	regex_t regex;
	char line[WATCH_LINE + 1]; /* what has come of the present line */
	size_t len;
};

/*
 * `pattern`: POSIX extended. Return: 0; -EINVAL for a bad pattern, with one line in `why`.
 */
int watch_init(struct watch *w, const char *pattern, char *why, size_t why_size);
void watch_fini(struct watch *w);

/* More output. Return: true when a line matched (the rest of `data` is not looked at). */
bool watch_feed(struct watch *w, const void *data, size_t size);

#endif
