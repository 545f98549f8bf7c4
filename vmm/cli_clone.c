// SPDX-License-Identifier: MIT
/*
 * vmm/cli_clone.c - `cowslip clone`: run clones of a saved guest, and say how each of them ended.
 *
 * The status is 0 when every clone ended with 0; else that of the failed clone with the lowest
 * number, as `cowslip run` would give it, and CLI_FAILED for a clone that was lost.
 *
 * Concurrency: one thread, as the engine forks; its workers never return here.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arch/arch.h"
#include "guest/abi.h"
#include "vmm/cli.h"
#include "vmm/cli_image.h"
#include "vmm/cli_inputs.h"
#include "vmm/cli_save.h"
#include "vmm/cli_sink.h"
#include "vmm/console.h"
#include "vmm/engine.h"
#include "vmm/snapshot.h"

#define MOST_CLONES    1000000u
#define MOST_JOBS      4096u
#define NO_NUMBER      UINT64_MAX
#define PROGRESS_NS    UINT64_C(100000000)
#define PROGRESS_WIDTH 30u

struct clone_command {
	/* As asked for. */
	uint64_t count, resets, jobs, per_process, timeout_ns, limit; /* 0: not said */
	int faults;
	bool hold, no_reuse;
	int verify; /* enum verify_when */
	const char *path, *arg, *input, *inputs_path, *dir, *save;
	struct cli_stats stats;

	/* As it goes. */
	struct kvm kvm;
	struct image *image;
	struct snapshot_base *base;
	struct cli_inputs inputs;
	struct sink sink;
	struct stats_clone numbers;
	uint64_t started;
	bool saved;             /* --save's is there */
	uint64_t ended;         /* clones, of those asked for */
	bool progress;          /* a bar is wanted */
	bool bar;               /* ... and on the screen */
	uint64_t drawn_ns;      /* when */
	uint64_t failed_number; /* lowest number of a clone that did not end with 0 */
	int status;             /* and its status */
};

/* ---- options ---- */

/* When the blocks of an image are compared with their checksums. */
enum verify_when {
	VERIFY_LATER, /* when someone asks for it: `cowslip image verify` */
	VERIFY_EAGER, /* before the first clone is made */
};

static const struct cli_word verify_words[] = {{"later", VERIFY_LATER},
                                               {"eager", VERIFY_EAGER},
                                               {NULL, 0}};

enum key {
	KEY_COUNT = 'n',
	KEY_JOBS = 'j',
	KEY_PER_PROCESS = CLI_KEY_OWN,
	KEY_HOLD,
	KEY_RESET,
	KEY_NO_REUSE,
	KEY_ARG,
	KEY_INPUT,
	KEY_INPUTS,
	KEY_SAVE,
	KEY_VERIFY,
	KEY_TIMEOUT,
	KEY_FAULTS,
	KEY_LIMIT,
	KEY_STATS,
	KEY_STATS_FILE,
	KEY_OUTPUT,
};

static const struct argp_option options[] = {
	{"count", KEY_COUNT, "COUNT", 0, "How many clones (1, or as many as there are inputs)", 1},
	{"jobs", KEY_JOBS, "JOBS", 0, "Worker processes that run guests at once (CPUs online)", 1},
	{"per-process", KEY_PER_PROCESS, "K", 0, "Virtual machines in one worker at most (8)", 1},
	{"hold", KEY_HOLD, NULL, 0, "Keep all clones alive until every one has ended", 1},
	{"reset", KEY_RESET, "COUNT", 0,
         "So many clones one after the other in one virtual machine, which is reset (-j: in so "
         "many)",
         1},
	{"no-reuse", KEY_NO_REUSE, NULL, 0, "Make a virtual machine for every clone", 1},
	{"arg", KEY_ARG, "STRING", 0, "Argument for every clone; each also knows its number", 2},
	{"input", KEY_INPUT, "LINE", 0,
         "Type LINE on every clone's serial console; %n is its number", 2},
	{"inputs", KEY_INPUTS, "FILE", 0,
         "Give clone N the N-th line of FILE (-: of stdin), or the N-th file of a directory, as "
         "the input that its guest asks for",
         2},
	{"faults", KEY_FAULTS, "PATH", 0, "Who resolves violations: auto, kernel, uffd (auto)", 2},
	{"limit", KEY_LIMIT, "SIZE", 0,
         "The most memory one clone may have, what it copies of the image included (all its RAM)",
         2},
	{"verify", KEY_VERIFY, "WHEN", 0,
         "Compare the image's memory with its checksums: eager, before a clone is made, or later, "
         "by `cowslip image verify` (later)",
         2},
	{"save", KEY_SAVE, "IMAGE", 0,
         "Save the one clone when it says again that it is ready, and end", 3},
	{"output", KEY_OUTPUT, "DIR", 0, "Write DIR/clone-N.out for clone N, nothing to stdout", 3},
	{"timeout", KEY_TIMEOUT, "SECONDS", 0, "Stop a clone that runs longer (exit status 124)",
         4},
	{"stats", KEY_STATS, "json", OPTION_ARG_OPTIONAL, "Say what it cost, on stderr", 5},
	{"stats-file", KEY_STATS_FILE, "FILE", 0, "Write the statistics to FILE, as JSON", 5},
	CLI_COMMON_OPTIONS,
};

static int take_arg(struct clone_command *c, const char *arg)
{
	if (strlen(arg) >= ABI_ARGS_MAX) {
		cli_error("--arg: longer than %u bytes; give a shorter one", ABI_ARGS_MAX - 1);
		return -E2BIG;
	}
	c->arg = arg;
	return 0;
}

static int take_option(void *to, int key, const char *arg)
{
	struct clone_command *c = to;

	switch ((enum key)key) {
	case KEY_COUNT:
		return cli_count("-n", arg, 1, MOST_CLONES, &c->count);
	case KEY_JOBS:
		return cli_count("-j", arg, 1, MOST_JOBS, &c->jobs);
	case KEY_PER_PROCESS:
		return cli_count("--per-process", arg, 1, MOST_CLONES, &c->per_process);
	case KEY_HOLD:
		c->hold = true;
		return 0;
	case KEY_RESET:
		return cli_count("--reset", arg, 1, MOST_CLONES, &c->resets);
	case KEY_NO_REUSE:
		c->no_reuse = true;
		return 0;
	case KEY_ARG:
		return take_arg(c, arg);
	case KEY_INPUT:
		c->input = arg;
		return 0;
	case KEY_INPUTS:
		return cli_name("--inputs", arg, &c->inputs_path);
	case KEY_SAVE:
		return cli_name("--save", arg, &c->save);
	case KEY_VERIFY:
		return cli_choose("--verify", arg, verify_words, &c->verify);
	case KEY_TIMEOUT:
		return cli_seconds("--timeout", arg, &c->timeout_ns);
	case KEY_FAULTS:
		return cli_choose("--faults", arg, cli_fault_words, &c->faults);
	case KEY_LIMIT:
		return cli_size("--limit", arg, &c->limit);
	case KEY_STATS:
		return cli_stats_choose(&c->stats, arg);
	case KEY_STATS_FILE:
		return cli_name("--stats-file", arg, &c->stats.path);
	case KEY_OUTPUT:
		return cli_name("--output", arg, &c->dir);
	}
	return -EINVAL;
}

static int take_argument(void *to, unsigned index, bool after, const char *arg)
{
	struct clone_command *c = to;

	(void)after;
	if (index == 0) {
		c->path = arg;
		return 0;
	}
	cli_error("%s: one image at a time; an argument for the clones goes into --arg", arg);
	return -EINVAL;
}

static const struct cli_command command = {
	.options = options,
	.args_doc = "IMAGE",
	.doc = "Run clones of IMAGE, which `cowslip run --save` has made. Of one clone stdout has "
	       "the output as it is, of several each line with the clone's number: `[17] text`."
	       "\vExit status: 0 when every clone ended with 0; else that of the first, by number, "
	       "that did not: its own code; 124 it ran out of time; 125 cowslip failed, its "
	       "worker died, or there was no memory for it (--limit); 126 it crashed.",
	.option = take_option,
	.argument = take_argument,
};

/* ---- progress: a bar on a terminal that shows nothing else ---- */

static void clear_bar(struct clone_command *c)
{
	static const char blank[] = "\r\033[K";

	if (c->bar)
		(void)cli_write(STDERR_FILENO, blank, sizeof(blank) - 1);
	c->bar = false;
}

static void draw_bar(struct clone_command *c)
{
	static const char full[] = "##############################";
	uint64_t now = clock_ns();
	int done = (int)(c->ended * PROGRESS_WIDTH / c->count);
	char text[128];
	int n;

	if (!c->progress || now - c->drawn_ns < PROGRESS_NS)
		return;
	_Static_assert(sizeof(full) == PROGRESS_WIDTH + 1, "a bar's width");
	n = snprintf(text, sizeof(text), "\r[%-*.*s] %" PRIu64 "/%" PRIu64, (int)PROGRESS_WIDTH,
	             done, full, c->ended, c->count);
	(void)cli_write(STDERR_FILENO, text, (size_t)n);
	c->bar = true;
	c->drawn_ns = now;
}

/* ---- while they run ---- */

static void note_status(struct clone_command *c, uint64_t number, int status)
{
	if (status == CLI_OK || number >= c->failed_number)
		return;
	c->failed_number = number;
	c->status = status;
}

static void on_output(void *ctx, uint64_t number, const void *data, size_t size)
{
	struct clone_command *c = ctx;

	sink_put(&c->sink, number, data, size);
}

/* In the worker. What a clone has forked is not what was asked for. */
static enum clone_ready on_ready(void *ctx, struct vm *vm, struct vm_error *why)
{
	const struct clone_command *c = ctx;
	uint64_t start = clock_ns();
	struct snapshot_error err;

	if (vm_number(vm) > c->count)
		return CLONE_GOES_ON;
	if (cli_save(vm, c->save, c->base, &err)) {
		snprintf(why->text, sizeof(why->text), "%s", err.text);
		return CLONE_FAILS;
	}
	cli_say_saved(c->save, clock_ns() - start);
	return CLONE_STOPS;
}

/* In a worker, which has the inputs since it was forked. */
static const void *letter(void *ctx, uint64_t number, size_t *size)
{
	const struct clone_command *c = ctx;

	if (number > c->inputs.count) {
		*size = 0;
		return NULL;
	}
	*size = c->inputs.list[number - 1].size;
	return c->inputs.list[number - 1].data;
}

/* A lone guest's own code needs no words; of several one wants to know which. */
static int exited(const struct clone_command *c, const struct clone_result *r)
{
	if (r->code != 0 && c->count > 1)
		cli_error("clone %" PRIu64 ": ended with %d", r->number, r->code);
	return r->code;
}

static int end_status(const struct clone_command *c, const struct clone_result *r)
{
	char lead[64];

	switch (r->end) {
	case CLONE_EXITED:
		return exited(c, r);
	case CLONE_CRASHED:
		snprintf(lead, sizeof(lead), "clone %" PRIu64 ": ", r->number);
		cli_report(lead, r->text);
		return CLI_CRASHED;
	case CLONE_TIMEOUT:
		cli_error("clone %" PRIu64
		          ": ran for %g s and was stopped; allow more with --timeout",
		          r->number, (double)c->timeout_ns / 1e9);
		return CLI_TIMEOUT;
	case CLONE_FAILED:
		if (r->short_of != SHORT_OF_NOTHING)
			cli_error("clone %" PRIu64 ": out of memory: %s%s", r->number, r->text,
			          cli_shortage_remedy(r->short_of));
		else
			cli_error("clone %" PRIu64 ": failed: %s", r->number, r->text);
		return CLI_FAILED;
	case CLONE_LOST:
		break;
	}
	cli_error("clone %" PRIu64 ": %s", r->number, r->text);
	return CLI_FAILED;
}

static uint64_t *counter(struct stats_clone *s, enum sink_state state)
{
	switch (state) {
	case SINK_OK:
		return &s->ok;
	case SINK_LOST:
		return &s->lost;
	case SINK_RUNS:
	case SINK_BAD:
		break;
	}
	return &s->failed;
}

/* A clone may end well and then be lost with the worker that kept it: it counts once, as lost. */
static void count_end(struct clone_command *c, struct sink_clone *record, enum sink_state state,
                      const struct clone_result *r)
{
	bool first = record->state == SINK_RUNS;

	if (!first)
		--*counter(&c->numbers, record->state);
	record->state = state;
	++*counter(&c->numbers, state);
	if (!first)
		return;
	c->ended += r->number <= c->count;
	if (r->end != CLONE_LOST && stats_clone_add(&c->numbers, r))
		cli_error("clone %" PRIu64 ": no memory for its statistics", r->number);
}

static void on_ended(void *ctx, const struct clone_result *r)
{
	struct clone_command *c = ctx;
	enum sink_state state = SINK_OK;
	int status;

	if (r->end != CLONE_EXITED || r->code != 0)
		clear_bar(c);
	sink_end(&c->sink, r->number);
	c->saved |= r->stopped;
	status = end_status(c, r);
	note_status(c, r->number, status);
	if (r->end == CLONE_LOST)
		state = SINK_LOST;
	else if (status != CLI_OK)
		state = SINK_BAD;
	count_end(c, sink_find(&c->sink, r->number), state, r);
	draw_bar(c);
}

/* ---- the command ---- */

static int put_stats(struct clone_command *c)
{
	json_t *json;
	int e;

	if (!cli_stats_wanted(&c->stats))
		return 0;
	c->numbers.total_ns = clock_ns() - c->started;
	stats_clone_finish(&c->numbers);
	if (c->stats.text)
		stats_clone_text(&c->numbers, stderr);
	json = stats_clone_json(&c->numbers);
	e = cli_stats_put(&c->stats, json);
	json_decref(json);
	return e;
}

/* A clone that crashed or ran out of time has said so. */
static int final_status(const struct clone_command *c)
{
	if (!c->save || c->saved || c->status == CLI_CRASHED || c->status == CLI_TIMEOUT ||
	    c->status == CLI_FAILED)
		return c->status;
	cli_error("%s: nothing saved: the clone ended (%d) before it rang READY again", c->save,
	          c->status);
	return CLI_FAILED;
}

static int run_clones(struct clone_command *c)
{
	struct engine_config config = {
		.kvm = &c->kvm,
		.image = c->image,
		.count = c->count,
		.jobs = (unsigned)c->jobs,
		.per_process = (unsigned)c->per_process,
		.hold = c->hold,
		.no_reuse = c->no_reuse,
		.arg = c->arg,
		.input = c->input,
		.letter = letter,
		.quick = !cli_stats_wanted(&c->stats),
		.timeout_ns = c->timeout_ns,
		.faults = c->faults,
		.limit_bytes = c->limit,
		.ctx = c,
		.output = on_output,
		/* A mailbox is for those who fill it: others want their guests' text alone. */
		.message = c->inputs_path || c->resets ? on_output : NULL,
		.ended = on_ended,
		.ready = c->save ? on_ready : NULL,
	};
	struct vm_error err;
	int e = engine_run(&config, &c->numbers.engine, &err);

	clear_bar(c);
	if (e)
		cli_error("%s: clones cannot be run: %s", c->path, err.text);
	else
		e = put_stats(c);
	if (e && c->status == CLI_OK)
		return CLI_FAILED;
	return final_status(c);
}

/* Return: 0, or -errno after an error line that names file and offset. */
static int verify(struct clone_command *c)
{
	struct cli_bar bar = {0};
	const struct snapshot_progress progress = cli_bar_progress(&bar);
	struct snapshot_error err;
	int e;

	if (c->verify != VERIFY_EAGER)
		return 0;
	e = snapshot_verify_base(c->base, &progress, &err);
	cli_bar_clear(&bar);
	if (e)
		cli_error("%s", err.text);
	return e;
}

static int open_and_run(struct clone_command *c)
{
	struct snapshot_error err;
	int status = CLI_FAILED;

	if (cli_open_kvm(&c->kvm))
		return CLI_FAILED;
	if (snapshot_open_base(c->path, arch_info.isa, &c->image, &c->base, &c->numbers.image,
	                       &err)) {
		cli_error("%s", err.text);
		goto close_kvm;
	}
	if (verify(c) == 0 && sink_open(&c->sink, c->dir, c->count == 1) == 0)
		status = run_clones(c);
	sink_close(&c->sink);
	snapshot_base_free(c->base);
	image_put(c->image);
close_kvm:
	kvm_close(&c->kvm);
	return status;
}

static int check(const struct clone_command *c)
{
	if (!c->path) {
		cli_error("no image given; `cowslip run --save IMAGE KERNEL` makes one");
		return -EINVAL;
	}
	if (c->save && cli_image_may_replace(c->save))
		return -EBUSY;
	if (!is_aligned(c->limit, MM_PAGE_SIZE)) {
		cli_error("--limit %" PRIu64 ": not a multiple of 4 KiB; give whole pages",
		          c->limit);
		return -EINVAL;
	}
	if (c->resets && (c->count || c->hold || c->no_reuse)) {
		cli_error("--reset %" PRIu64 ": says how many clones, in a machine that is used "
		          "again; leave out %s",
		          c->resets,
		          c->count  ? "-n"
		          : c->hold ? "--hold"
		                    : "--no-reuse");
		return -EINVAL;
	}
	return 0;
}

static uint64_t online_cpus(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n > 0 ? min_u64((uint64_t)n, MOST_JOBS) : 1;
}

/* How many clones, and how many at once, when all is known that may say so. */
static int settle(struct clone_command *c)
{
	int e = c->inputs_path ? cli_inputs_read(&c->inputs, c->inputs_path) : 0;

	if (e)
		return e;
	if (c->resets)
		c->count = c->resets;
	else if (c->count == 0)
		c->count = c->inputs.count ? c->inputs.count : 1;
	if (c->inputs.count && c->count > c->inputs.count) {
		cli_error("--inputs %s: %zu inputs for %" PRIu64 " clones; give one for each",
		          c->inputs_path, c->inputs.count, c->count);
		return -EINVAL;
	}
	if (c->count > MOST_CLONES) {
		cli_error("--inputs %s: %zu inputs; the most clones at a time are %u",
		          c->inputs_path, c->inputs.count, MOST_CLONES);
		return -EINVAL;
	}
	if (c->save && c->count > 1) {
		cli_error("--save: of one clone, not of %" PRIu64 "; leave out %s", c->count,
		          c->resets         ? "--reset"
		          : c->inputs.count ? "--inputs"
		                            : "-n");
		return -EINVAL;
	}
	if (c->jobs == 0)
		c->jobs = c->resets ? 1 : online_cpus();
	return 0;
}

static int run_all(struct clone_command *c)
{
	int status = CLI_FAILED;

	if (check(c) || settle(c) || cli_stats_open(&c->stats))
		goto free_inputs;
	c->numbers.jobs = (unsigned)c->jobs;
	c->numbers.per_process = (unsigned)c->per_process;
	/* Output to the same terminal would run into the bar. */
	c->progress = c->count > 1 && isatty(STDERR_FILENO) && (c->dir || !isatty(STDOUT_FILENO));
	status = open_and_run(c);
	cli_stats_close(&c->stats);
	stats_clone_fini(&c->numbers);
free_inputs:
	cli_inputs_free(&c->inputs);
	return status;
}

int cli_clone(int argc, char **argv)
{
	struct clone_command *c = calloc(1, sizeof(*c));
	enum cli_parsed parsed;
	int status;

	if (!c) {
		cli_error("no memory to start");
		return CLI_FAILED;
	}
	c->per_process = ENGINE_PER_PROCESS;
	c->failed_number = NO_NUMBER;
	c->started = clock_ns();
	parsed = cli_parse(&command, argc, argv, c);
	status = parsed == CLI_GO ? run_all(c) : cli_parsed_status(parsed);
	free(c);
	return status;
}
