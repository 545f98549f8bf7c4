// SPDX-License-Identifier: MIT
/*
 * bench/options.h - what the bench commands have in common on the command line: where the document
 * goes, which guest program runs, how much memory there may be.
 *
 *     stdout       the tables; or the document (--json), or CSV (--csv), and then nothing else
 *     --json=FILE, --csv=FILE, --markdown FILE, --plot FILE     as well, whole or not at all
 *     --compare OLD.json    what changed, behind the tables (on stderr when stdout has data)
 *
 * Everything that can be known to be wrong is, before the run starts. Part of the command line: it
 * prints.
 *
 * BENCH_KEY_REPEAT and BENCH_KEY_DIR are bench/driver.h's to take.
 *
 * Concurrency: one thread.
 */
#ifndef COWSLIP_BENCH_OPTIONS_H
#define COWSLIP_BENCH_OPTIONS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/atomic_file.h"
#include "vmm/cli.h"

/* A command's own keys start at BENCH_KEY_OWN. */
enum bench_key {
	BENCH_KEY_JSON = CLI_KEY_OWN,
	BENCH_KEY_CSV,
	BENCH_KEY_MARKDOWN,
	BENCH_KEY_PLOT,
	BENCH_KEY_COMPARE,
	BENCH_KEY_GUEST,
	BENCH_KEY_REPEAT,
	BENCH_KEY_DIR,
	BENCH_KEY_OWN,
};

/* Of those that keep a file meanwhile. */
#define BENCH_DIR_OPTION                                                                           \
	{                                                                                          \
		"dir", BENCH_KEY_DIR, "DIR", 0,                                                    \
			"Where files are kept meanwhile (the working directory)", 3                \
	}

#define BENCH_COMMON_OPTIONS                                                                       \
	{"repeat", BENCH_KEY_REPEAT, "N", 0, "How many times (5)", 3},                             \
		{"json",                                                                           \
	         BENCH_KEY_JSON,                                                                   \
	         "FILE",                                                                           \
	         OPTION_ARG_OPTIONAL,                                                              \
	         "Print the document as JSON, or write it to FILE as well",                        \
	         8},                                                                               \
		{"csv",                                                                            \
	         BENCH_KEY_CSV,                                                                    \
	         "FILE",                                                                           \
	         OPTION_ARG_OPTIONAL,                                                              \
	         "Print a line per row, or write them to FILE as well",                            \
	         8},                                                                               \
		{"markdown", BENCH_KEY_MARKDOWN, "FILE", 0, "Write the tables as Markdown", 8},    \
		{"plot", BENCH_KEY_PLOT, "FILE", 0, "Draw it, as SVG (wants gnuplot)", 8},         \
		{"compare",                                                                        \
	         BENCH_KEY_COMPARE,                                                                \
	         "OLD.json",                                                                       \
	         0,                                                                                \
	         "Say what changed beyond noise since an earlier run's --json=FILE",               \
	         8},                                                                               \
	{                                                                                          \
		"guest", BENCH_KEY_GUEST, "FILE", 0,                                               \
			"The guest program (found beside cowslip, or in $COWSLIP_GUESTS)", 9       \
	}

/* A file to be. */
struct bench_file {
	const char *option, *path; /* path NULL: not asked for */
	struct atomic_file file;
	bool opened;
};

/* Zeroed: tables on stdout. */
struct bench_output {
	bool json, csv; /* on stdout */
	struct bench_file json_file, csv_file, markdown_file, plot_file;
	const char *compare;
	json_t *before; /* what to compare with */
	const char *guest;
};

/*
 * One of the options above. Return: 0; -ENOENT when the key is none of them; -EINVAL after an error
 * line.
 */
int bench_take_output(struct bench_output *o, int key, const char *arg);

/* --rows of a document are made by one command: refuse what cannot be answered. After parsing. */
int bench_check_output(const struct bench_output *o);

/*
 * Load what `doc` (without rows) is to be compared with, open the files, look for gnuplot.
 * Return: 0, or -errno after an error line. bench_output_close() in any case.
 */
int bench_output_open(struct bench_output *o, const json_t *doc);

/* Judge the document for noise, print and write it. Return: exit status. */
int bench_output_put(struct bench_output *o, json_t *doc);

void bench_output_close(struct bench_output *o);

/*
 * The guest program `name` ("memwalk.elf"): --guest's, else in $COWSLIP_GUESTS, else in guest/
 * beside this program or beside its directory. Return: 0, or -errno after an error line.
 */
int bench_find_guest(const struct bench_output *o, const char *name, char *path, size_t size);

#endif
