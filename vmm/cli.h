// SPDX-License-Identifier: MIT
/*
 * vmm/cli.h - what the parts of the command line share: options, messages, exit statuses.
 *
 * The command line is the only part that prints or ends the process. Its rules:
 *   1. an error is one line on stderr: `cowslip: what failed, on what, why; what to do`
 *      (a crashed guest's report may have several, each with the prefix)
 *   2. stdout carries guests' output, or what was asked for, and nothing else
 *   3. with --stats=json the JSON object is the last line on stderr
 *   4. a command returns its exit status to main(); output that cannot be written ends the
 *      process at once, because a guest may never stop writing
 *
 * Concurrency: one thread, but for cli_put(), which a vCPU's thread may call, and cli_error() and
 * cli_report(), which any may.
 */
#ifndef COWSLIP_VMM_CLI_H
#define COWSLIP_VMM_CLI_H

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "vmm/kvm.h"
#include "vmm/stats.h"
#include "vmm/vm.h"

/* Exit statuses that are not a guest's own code. */
enum cli_status {
	CLI_OK = 0,
	CLI_TIMEOUT = 124, /* the guest did not end in time */
	CLI_FAILED = 125,  /* cowslip failed, or was asked for what it cannot do */
	CLI_CRASHED = 126, /* the guest crashed */
};

/* ---- commands (argv[0] is the command's name as users type it). Return: exit status ---- */

int cli_run(int argc, char **argv);
int cli_clone(int argc, char **argv);
int cli_ctl(int argc, char **argv);
int cli_image(int argc, char **argv);
int cli_doctor(int argc, char **argv);

/* ---- messages and output (cli_output.c) ---- */

/* One line on stderr; newlines inside become blanks. */
void cli_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* `lead`, then `text`, which may have several lines: each becomes a line with the prefix. */
void cli_report(const char *lead, const char *text);

/*
 * Write all of it, whatever it takes (short writes, EINTR, a full non-blocking pipe).
 * Return: 0 or -errno of write.
 */
int cli_write(int fd, const void *data, size_t size);

/* cli_write() to stdout; on failure one error line, and the process exits with CLI_FAILED. */
void cli_put(const void *data, size_t size);

/* Flush what printf() left. Return: CLI_OK, or CLI_FAILED after an error line. */
int cli_flush_stdout(void);

/* Print JSON for people and programs; takes the reference. Return: as cli_flush_stdout(). */
int cli_put_json(json_t *json);

/* What to do about it, for the end of a line: "" where the line says so, else "; ...". */
const char *cli_shortage_remedy(enum vm_shortage s);

/* kvm_open(NULL). Return: 0; -errno after an error line that names the remedy. */
int cli_open_kvm(struct kvm *k);

/* ---- options (cli_options.c) ---- */

/* Long-only options of all commands; a command's own keys start at CLI_KEY_OWN. */
enum cli_key {
	CLI_KEY_HELP = 256,
	CLI_KEY_VERSION,
	CLI_KEY_OWN = 300,
};

/* clang-format off: argp_option has two fields too many to fit */
#define CLI_COMMON_OPTIONS                                                                         \
	{"help", CLI_KEY_HELP, NULL, 0, "Print this and exit", -1},                                \
		{"version", CLI_KEY_VERSION, NULL, 0, "Print the version and exit", -1},           \
	{                                                                                          \
		0                                                                                  \
	}
/* clang-format on */

/*
 * A command, or a command of a command. Callbacks get `to` as given to cli_parse() and return 0,
 * or -errno after an error line.
 */
struct cli_command {
	const struct argp_option *options; /* ends with CLI_COMMON_OPTIONS */
	const char *args_doc;
	const char *doc;
	int (*option)(void *to, int key, const char *arg); /* NULL: it has none of its own */
	/* `after`: it follows a "--". The string lives as long as argv. */
	int (*argument)(void *to, unsigned index, bool after, const char *arg);
};

enum cli_parsed {
	CLI_GO,    /* go on */
	CLI_DONE,  /* --help, --version: printed; exit with CLI_OK */
	CLI_WRONG, /* one error line was printed; exit with CLI_FAILED */
};

/* Options and arguments in the order given; argv is not permuted. */
enum cli_parsed cli_parse(const struct cli_command *c, int argc, char **argv, void *to);

/* The status to exit with when cli_parse() did not say CLI_GO. */
int cli_parsed_status(enum cli_parsed p);

/*
 * Values of options. Each returns 0, or -EINVAL after an error line that names `option`.
 * size: a whole number of bytes with an optional K, M, G or T (powers of 1024), above 0.
 * count: a whole number in [least, most]. seconds: above 0, with a fraction if need be.
 */
int cli_size(const char *option, const char *text, uint64_t *bytes);
int cli_count(const char *option, const char *text, uint64_t least, uint64_t most, uint64_t *out);
int cli_seconds(const char *option, const char *text, uint64_t *ns);

/* The name of a file or directory: anything but nothing. */
int cli_name(const char *option, const char *text, const char **out);

/* One of a list of words; `word` NULL ends the list. */
struct cli_word {
	const char *word;
	int value;
};
int cli_choose(const char *option, const char *text, const struct cli_word *words, int *out);

extern const struct cli_word cli_fault_words[]; /* enum fault_choice */
extern const struct cli_word cli_page_words[];  /* enum page_size */

/* ---- --stats and --stats-file (cli_output.c) ---- */

/* Zeroed: no statistics wanted. */
struct cli_stats {
	bool text;
	bool json;
	const char *path; /* of --stats-file, or NULL: JSON goes to stderr */
	int fd;
	bool opened;
	bool made; /* the file is ours: there was none */
};

/* The value of --stats, NULL for a bare one. Return: 0, or -EINVAL after an error line. */
int cli_stats_choose(struct cli_stats *s, const char *text);

bool cli_stats_wanted(const struct cli_stats *s);

/* Open the file before the work starts. Return: 0, or -errno after an error line. */
int cli_stats_open(struct cli_stats *s);

/*
 * Write `json` (may be NULL: no memory for it) where it goes. The reference stays the caller's.
 * Return: 0, or -errno after an error line.
 */
int cli_stats_put(struct cli_stats *s, const json_t *json);

/* Close; a file that is ours and was never written goes. */
void cli_stats_close(struct cli_stats *s);

#endif
