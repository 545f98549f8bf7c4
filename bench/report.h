// SPDX-License-Identifier: MIT
/*
 * bench/report.h - the one document that a bench command makes, and its renderings.
 *
 * A command builds a JSON document with the functions below; table, Markdown, CSV, plot and
 * comparison are made from it and have nothing it does not have.
 *
 *     schema      1. Keys may be added under the same number; it rises when one goes or changes
 *     command     "faults", "clone", "reset", "fork" or "snapshot"
 *     build       version of cowslip
 *     parameters  object: what was asked for, flat, keys as the options are called; sizes ("size",
 *                 "mem") in bytes. null or false: not asked for. --compare wants the same but for
 *                 "repeat"
 *     baseline    name of the row that the main table compares with; left out: none
 *     host        bench/host.h
 *     noisy       bool: some figure varies by more than 10 % (report_judge())
 *     warnings    strings: what spoils the figures. Not empty does not mean worthless
 *     rows        objects, in the order of the table; "name" is unique
 *     summary     object of figures of the whole run that belong to no row; may be left out
 *
 * Figures are medians over the repeats. F_spread beside a figure F is [q1, q3], the quartiles over
 * the repeats; null for fewer than SPREAD_LEAST, of which nothing of the kind is known. Rows of all
 * commands may have
 *
 *     ratio_to, ratio_spread    {"BASELINE": ratio}, {"BASELINE": [q1, q3]}: how many times as fast
 *                    as the row BASELINE, repeat by repeat; above 1 is faster
 *
 * and by command
 *
 *     faults      us_per_page (_spread), pages_per_s (_spread), latency_ns (bench/hist.h: of all
 *                 touches), kinds {"zero"|"shared"|"cow"|"huge": as latency_ns}, touches,
 *                 violations, events, committed_bytes, private_bytes, prepare_us (work done before
 *                 the walk), kvm {counter: value} (left out where KVM counts nothing), cdf
 *                 ([[ns, fraction], ...])
 *     clone       a row per kind of VM and phase ("new: created", "reused: first output", ...;
 *                 bench/clone.c): us_p50 (_spread), us_p90, us_p99, us_max, count, each since a
 *                 worker has begun with the clone. summary: new_clones_per_s,
 *                 reused_clones_per_s (_spread), first_output_ratio (_spread: how many times as
 *                 soon with a reused VM), floor_ratio (_spread: how many times as long as the
 *                 floor a reused VM takes to its first byte), reused (clones in its rows)
 *     reset       a row per kind of reset and number of dirty pages: dirty_pages, us_p50
 *                 (_spread), us_p90, us_p99, us_max, count. summary: fixed_us, us_per_page, r2
 *                 (_spread)
 *     fork        a row per kind of pause, and of child (bench/fork.c): us_p50 (_spread), us_p90,
 *                 us_p99, us_max, count
 *     snapshot    a row per operation: us (_spread), bytes, gb_per_s (_spread; 10^9 bytes)
 *
 * us_p50 is the median over the repeats of each repeat's median; us_p90, us_p99 and us_max are of
 * all repeats together (bench/times.h).
 *
 * A figure that was not measured is null or left out; every rendering shows it as "-" or empty.
 *
 * Functions that add to a document return 0 or -ENOMEM. A reference given is taken in any case.
 * Concurrency: none; one thread.
 */
#ifndef COWSLIP_BENCH_REPORT_H
#define COWSLIP_BENCH_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "bench/sample.h"

#define REPORT_COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define REPORT_SCHEMA 1

struct host;

/*
 * A document without rows; `host` may be NULL (then null in it), `baseline` too.
 * Return: a new reference; NULL when there is no memory.
 */
json_t *report_new(const char *command, json_t *parameters, const char *baseline,
                   const struct host *host);

int report_add_row(json_t *doc, json_t *row);
int report_warn(json_t *doc, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* host_say_fn with the document as ctx. A sentence for which there is no memory is lost. */
void report_say(void *doc, const char *sentence);

/* A row, or a summary: KEY and KEY_spread. An empty spread makes null of both; see SPREAD_LEAST. */
int report_set_figure(json_t *row, const char *key, const struct spread *s);

/* json_object_set_new() that takes a NULL value for no memory. */
int report_set(json_t *to, const char *key, json_t *value);

/* What a row tells of a sample. */
struct report_item {
	const char *key;
	const struct sample *sample;
	enum {
		ITEM_FIGURE, /* report_set_figure() */
		ITEM_MEDIAN, /* that, without the spread */
		ITEM_WHOLE,  /* the median of what is counted, not timed: a whole number */
	} form;
};
int report_set_items(json_t *row, const struct report_item *items, size_t count);
int report_set_summary(json_t *doc, const struct report_item *items, size_t count);

/* An entry of ratio_to and of ratio_spread. */
int report_set_ratio(json_t *row, const char *baseline, const struct spread *s);

/*
 * KEY and KEY_spread read back, for renderings and comparison; count is 0 when there is no such
 * figure, 1 when it has no spread, else SPREAD_LEAST (how many repeats made it is not kept).
 */
struct spread report_figure(const json_t *row, const char *key);
struct spread report_ratio(const json_t *row, const char *baseline);

/*
 * After the last row: a warning for every row of which a ratio, or a figure where these count
 * (report_own_figures()), has a spread beyond SPREAD_NOISY; it begins with "host too noisy" and
 * names row and figure. The summary is judged like a row without ratios. One warning instead when
 * fewer than three repeats (parameters' "repeat") leave the spread unknown.
 */
int report_judge(json_t *doc);

/* Did report_judge() find noise? */
bool report_is_noisy(const json_t *doc);

/* The row's name, borrowed; "" when it has none. */
const char *report_name(const json_t *row);

/* Too few repeats to know how much the figures vary. */
bool report_few_repeats(const json_t *doc);

/* Is the row called `name` one that others are compared with? */
bool report_is_baseline(const json_t *doc, const char *name);

/*
 * Are the row's own figures what it is judged and compared by? Not those of a row with ratios,
 * which say it better, nor of a baseline: what moves it moves whatever is compared with it, too.
 */
bool report_own_figures(const json_t *doc, const json_t *row);

/* Is `key` F_spread? Then F is in `figure`. */
bool report_spread_key(const char *key, char *figure, size_t size);

/*
 * "faults: pattern random, access write, size 64M": the command and its parameters less the `count`
 * keys in `without`, cut to `size`.
 */
void report_describe(const json_t *doc, const char *const *without, size_t count, char *text,
                     size_t size);

enum report_form {
	REPORT_TEXT,     /* tables for people, then host, then warnings; at most 100 columns */
	REPORT_MARKDOWN, /* the same as tables of Markdown */
	REPORT_CSV,      /* one line per row; below */
	REPORT_JSON,     /* the document itself, a row per line */
};

/*
 * CSV: the first line names the columns, each a path into the row, joined by dots:
 * `ratio_to.kernel-4k`, `latency_ns.p99`; a spread's two ends are `.q1` and `.q3`. All paths of any
 * row, in the order of their first appearance; cdf is left out. A missing value is empty. RFC 4180
 * but for the line end, which is a newline.
 *
 * Return: 0; -ENOMEM; -EIO when `to` cannot be written.
 */
int report_put(const json_t *doc, enum report_form form, FILE *to);

#endif
