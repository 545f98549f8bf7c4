// SPDX-License-Identifier: MIT
/*
 * vmm/main.c - finds the command and runs it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "vmm/cli.h"

static const struct {
	const char *name;
	const char *full; /* what the command calls itself */
	int (*run)(int argc, char **argv);
} commands[] = {
	{"run", "cowslip run", cli_run},       {"clone", "cowslip clone", cli_clone},
	{"ctl", "cowslip ctl", cli_ctl},       {"image", "cowslip image", cli_image},
	{"bench", "cowslip bench", cli_bench}, {"doctor", "cowslip doctor", cli_doctor},
};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static const struct argp_option options[] = {CLI_COMMON_OPTIONS};

static int unknown_command(void *to, unsigned index, bool after, const char *arg)
{
	(void)to;
	(void)index;
	(void)after;
	cli_error("%s: unknown command; there are run, clone, ctl, image, bench, doctor "
	          "(`cowslip --help`)",
	          arg);
	return -EINVAL;
}

static const struct cli_command top = {
	.options = options,
	.args_doc = "COMMAND [ARGUMENT...]",
	.doc = "Fork virtual machines: boot a guest, save it warm, run clones of it by the hundred "
	       "that share its memory copy-on-write."
	       "\v  run KERNEL [-- ARG...]    boot a guest; its console is stdout\n"
	       "  clone IMAGE               run clones of a saved guest\n"
	       "  ctl SOCK ACTION ...       fork, save, pause guests while they run\n"
	       "  image ACTION ...          look at saved guests, and look after them\n"
	       "  bench COMMAND             measure faults, clones, snapshots\n"
	       "  doctor                    what this host offers, what to change\n\n"
	       "`cowslip COMMAND --help` lists a command's options.\n\n"
	       "Exit status: the guest's own code; 124 it ran out of time; 125 cowslip failed; "
	       "126 the guest crashed.",
	.argument = unknown_command,
};

static int run_top(int argc, char **argv)
{
	char name[] = "cowslip";
	enum cli_parsed p;

	if (argc < 2) {
		cli_error("no command given; there are run, clone, ctl, image, bench, doctor "
		          "(`cowslip --help` says more)");
		return CLI_FAILED;
	}
	argv[0] = name;
	p = cli_parse(&top, argc, argv, NULL);
	if (p != CLI_GO)
		return cli_parsed_status(p);
	cli_error("no command given; `cowslip --help` lists them");
	return CLI_FAILED;
}

/*
 * A standard descriptor that is closed would be given to the next file opened, and guests' output
 * would go there. What takes its place can be neither read nor written.
 */
static void fill_standard_fds(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
			(void)open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

int main(int argc, char **argv)
{
	fill_standard_fds();
	/* A closed pipe and a full quota are errors of the write that meets them. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);

	for (size_t i = 0; argc > 1 && i < COMMANDS; i++) {
		if (strcmp(argv[1], commands[i].name) == 0) {
			argv[1] = (char *)(uintptr_t)commands[i].full;
			return commands[i].run(argc - 1, argv + 1);
		}
	}
	return run_top(argc, argv);
}
