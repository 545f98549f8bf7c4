// SPDX-License-Identifier: MIT
/*
 * bench/bench.c - finds the bench command and runs it.
 */
#include "bench/bench.h"

#include <errno.h>
#include <string.h>

#include "bench/driver.h"
#include "vmm/cli.h"

static const struct bench_command *const commands[] = {&bench_faults, &bench_clone, &bench_reset,
                                                       &bench_fork, &bench_snapshot};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static const struct argp_option options[] = {CLI_COMMON_OPTIONS};

static int unknown_command(void *to, unsigned index, bool after, const char *arg)
{
	(void)to;
	(void)index;
	(void)after;
	cli_error("bench %s: unknown; there are bench faults, clone, reset, fork and snapshot",
	          arg);
	return -EINVAL;
}

static const struct cli_command top = {
	.options = options,
	.args_doc = "faults|clone|reset|fork|snapshot [OPTION...]",
	.doc = "Measure what a guest feels."
	       "\v  faults      first touches of memory, beside how others back theirs\n"
	       "  clone       from the request for a clone to its output\n"
	       "  reset       a clone back to its image\n"
	       "  fork        a guest forked while it runs\n"
	       "  snapshot    pausing, saving and loading\n\n"
	       "`cowslip bench COMMAND --help` lists a command's options.",
	.argument = unknown_command,
};

int cli_bench(int argc, char **argv)
{
	enum cli_parsed p;

	for (size_t i = 0; argc > 1 && i < COMMANDS; i++)
		if (strcmp(argv[1], commands[i]->name) == 0)
			return bench_main(commands[i], argc - 1, argv + 1);
	p = cli_parse(&top, argc, argv, NULL);
	if (p != CLI_GO)
		return cli_parsed_status(p);
	cli_error("nothing to measure given; there are bench faults, clone, reset, fork and "
	          "snapshot");
	return CLI_FAILED;
}
