// SPDX-License-Identifier: MIT
/*
 * bench/driver.c - runs one bench command, from its arguments to its report.
 */
#include "bench/driver.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arch/arch.h"
#include "bench/guest_run.h"

#define DEFAULT_REPEAT 5u

/* What cli_parse() hands on. The command's state begins with a struct bench_run. */
struct parsing {
	const struct bench_command *command;
	struct bench_run *run;
};

/* ---- options ---- */

static int take_option(void *to, int key, const char *arg)
{
	struct parsing *p = to;

	int e;

	if (key == BENCH_KEY_REPEAT)
		return cli_count("--repeat", arg, 1, SAMPLE_MAX, &p->run->repeat);
	if (key == BENCH_KEY_DIR)
		return cli_name("--dir", arg, &p->run->dir);
	e = bench_take_output(&p->run->output, key, arg);
	return e == -ENOENT ? p->command->cli.option(p->run, key, arg) : e;
}

static int take_argument(void *to, unsigned index, bool after, const char *arg)
{
	const struct parsing *p = to;

	(void)index;
	(void)after;
	cli_error("%s: bench %s takes no argument; everything is an option", arg, p->command->name);
	return -EINVAL;
}

static enum cli_parsed parse(const struct bench_command *c, struct bench_run *run, int argc,
                             char **argv)
{
	struct parsing to = {.command = c, .run = run};
	struct cli_command cli = c->cli;
	char name[64], *given = argv[0];
	enum cli_parsed parsed;

	snprintf(name, sizeof(name), "cowslip bench %s", c->name);
	argv[0] = name;
	cli.option = take_option;
	cli.argument = take_argument;
	parsed = cli_parse(&cli, argc, argv, &to);
	argv[0] = given;
	return parsed;
}

/* ---- for commands ---- */

void bench_step(struct bench_run *run, const char *what)
{
	progress_step(&run->progress, run->done++, what);
}

int bench_check_memory(const struct bench_run *run, uint64_t needed)
{
	uint64_t room = host_memory_room(&run->host);

	if (needed <= room)
		return 0;
	cli_error("%s: the run needs %" PRIu64 " MiB of this host's memory, and %" PRIu64
	          " MiB can be had; ask for less",
	          run->what, needed >> 20, room >> 20);
	return -ENOMEM;
}

int bench_check_size(struct bench_run *run, uint64_t size)
{
	if (!is_aligned(size, MM_PAGE_SIZE)) {
		cli_error("--size %" PRIu64 ": not a multiple of 4 KiB; give whole pages", size);
		return -EINVAL;
	}
	snprintf(run->what, sizeof(run->what), "--size %" PRIu64 " MiB", size >> 20);
	return bench_check_memory(run, size);
}

void bench_path(const struct bench_run *run, const char *suffix, char *path, size_t size)
{
	snprintf(path, size, "%s/cowslip-bench-%d.%s", run->dir, (int)getpid(), suffix);
}

int bench_through_file(const struct bench_run *run, const struct image *image, struct image **out,
                       struct vm_error *err)
{
	struct snapshot_error why;
	char path[4096];
	int e;

	bench_path(run, "cow", path, sizeof(path));
	e = snapshot_save(image, arch_info.isa, 1, path, &why);
	if (e == 0)
		e = snapshot_open(path, arch_info.isa, out, NULL, &why);
	(void)unlink(path);
	return e ? bench_fail(err, e, "--dir %s: %s", run->dir, why.text) : 0;
}

/* ---- the run ---- */

static int run_rounds(const struct bench_command *c, struct bench_run *run, struct vm_error *err)
{
	int e = 0;

	if (c->set_up) {
		progress_step(&run->progress, 0, "making ready");
		e = c->set_up(run, err);
	}
	for (unsigned round = 0; e == 0 && round <= run->repeat; round++)
		e = c->round(run, round, err);
	return e;
}

static int measure(const struct bench_command *c, struct bench_run *run)
{
	struct vm_error err = {.text = "its figures make no sense, or there is no memory for them"};
	struct host_watch watch;
	int e;

	if (host_warm(c->memory(run)) &&
	    report_warn(run->doc, "not all memory that the run uses could be warmed up first"))
		return -ENOMEM;
	progress_start(&run->progress, STDERR_FILENO, (unsigned)(run->repeat + 1) * run->steps);
	host_watch_start(&watch);
	e = run_rounds(c, run, &err);
	progress_end(&run->progress);
	if (e)
		cli_error("bench %s: %s", c->name, err.text);
	else
		host_watch_end(&watch, report_say, run->doc);
	return e;
}

static int run_and_report(const struct bench_command *c, struct bench_run *run)
{
	if (bench_output_open(&run->output, run->doc) || measure(c, run))
		return CLI_FAILED;
	if (c->finish(run)) {
		cli_error("no memory for the report");
		return CLI_FAILED;
	}
	return bench_output_put(&run->output, run->doc);
}

static int with_kvm(const struct bench_command *c, struct bench_run *run)
{
	int status = CLI_FAILED;

	if (cli_open_kvm(&run->kvm))
		return CLI_FAILED;
	if (!c->check || c->check(run) == 0) {
		run->doc = report_new(c->name, c->parameters(run),
		                      c->baseline ? c->baseline(run) : NULL, &run->host);
		if (run->doc) {
			host_warn(&run->host, report_say, run->doc);
			status = run_and_report(c, run);
		}
		bench_output_close(&run->output);
		json_decref(run->doc);
	}
	return status;
}

static int prepare(const struct bench_command *c, struct bench_run *run)
{
	int e = bench_check_output(&run->output);

	if (e)
		return e;
	host_read(&run->host);
	e = c->prepare(run);
	if (e == 0)
		e = bench_check_memory(run, c->memory(run));
	return e ? e : bench_find_guest(&run->output, c->guest, run->program, sizeof(run->program));
}

int bench_main(const struct bench_command *c, int argc, char **argv)
{
	struct bench_run *run = calloc(1, c->size);
	int status = CLI_FAILED;
	enum cli_parsed parsed;

	if (!run) {
		cli_error("no memory to start");
		return CLI_FAILED;
	}
	run->repeat = DEFAULT_REPEAT;
	run->dir = ".";
	run->steps = 1;
	c->defaults(run);
	parsed = parse(c, run, argc, argv);
	if (parsed != CLI_GO)
		status = cli_parsed_status(parsed);
	else if (prepare(c, run) == 0)
		status = with_kvm(c, run);
	/* VMs go before the KVM that they are of. */
	if (c->fini)
		c->fini(run);
	kvm_close(&run->kvm);
	free(run);
	return status;
}
