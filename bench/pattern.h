// SPDX-License-Identifier: MIT
/*
 * bench/pattern.h - orders: which pages memwalk touches, in which order, reading or writing.
 *
 *     seq          0, 1, 2, ...                                   every page at most once
 *     stride:N     0, N, 2N, ..., then 1, N+1, ...                every page at most once
 *     random       a shuffle                                      every page at most once
 *     zipf[:THETA] the k-th favourite page with a probability in proportion to 1 / k^THETA;
 *                  which page is whose favourite is a shuffle (THETA: 0.99)
 *     trace:FILE   what the file says
 *
 * A trace is text. A line is a page's number and `r` or `w`; empty lines, and what follows a #, say
 * nothing:
 *
 *     # pages 4
 *     0 w
 *     3 r
 *
 * Everything follows from the specification alone: same specification, same order, on any host with
 * the same <math.h> (zipf only).
 *
 * Concurrency: none; orders are the caller's.
 */
#ifndef COWSLIP_BENCH_PATTERN_H
#define COWSLIP_BENCH_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest/memwalk.h"

#define PATTERN_THETA     0.99
#define PATTERN_THETA_MAX 10.0
#define PATTERN_ERROR_MAX 512u

enum pattern_kind {
	PATTERN_SEQ,
	PATTERN_STRIDE,
	PATTERN_RANDOM,
	PATTERN_ZIPF,
	PATTERN_TRACE,
};

struct pattern {
	enum pattern_kind kind;
	uint64_t stride;  /* pages, >= 1 */
	double theta;     /* 0 (all alike) .. PATTERN_THETA_MAX */
	const char *path; /* of the trace; borrowed */
};

struct order_spec {
	struct pattern pattern;
	unsigned write_percent; /* of touches, each by its own draw; a trace says it itself */
	uint64_t pages;         /* of the walked memory, 1..MEMWALK_MAX_PAGES */
	uint64_t touches;       /* 0: as many as pages; of a trace, all */
	uint64_t seed;
};

/* Why there is no order, one line. */
struct pattern_error {
	char text[PATTERN_ERROR_MAX];
};

/* "seq", "stride:7", ... The path is borrowed from `text`. Return: 0; -EINVAL. */
int pattern_parse(const char *text, struct pattern *out);

/* "read", "write", "rw:PCT" (PCT of 0..100 touches write). Return: 0; -EINVAL. */
int pattern_parse_access(const char *text, unsigned *write_percent);

/* Whether the pattern touches no page twice, so that touches are at most pages. */
bool pattern_once(const struct pattern *p);

/*
 * Make an order, flags included; free() it. *size is its length in bytes.
 * Return: 0; -EINVAL (no pages, too many, more touches than a once-only pattern has pages or a
 * trace has lines, a line that makes no sense or names a page beyond the memory); -ENOMEM;
 * -errno of reading the trace. err->text says it.
 */
int pattern_make(const struct order_spec *s, struct memwalk_order **out, size_t *size,
                 struct pattern_error *err);

/*
 * Write an order as a trace, whole or not at all, in place of what `path` names.
 * Return: 0; -errno with err->text.
 */
int pattern_record(const struct memwalk_order *o, uint64_t pages, const char *path,
                   struct pattern_error *err);

#endif
