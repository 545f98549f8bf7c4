// SPDX-License-Identifier: MIT
/*
 * bench/clone.c - `cowslip bench clone`: how long until a clone of a warm guest does its work.
 *
 * A guest (counter) is booted, saved when it is warm, and cloned from the file by the engine,
 * just as `cowslip run --save` and `cowslip clone` do. Phases, each since vm_create() was
 * entered in the worker, when the request had reached it:
 *
 *     created            vm_create() has returned: the clone could run
 *     first instruction  its first KVM_RUN is entered. (The guest's counter of cycles goes on from
 *                        where the template's stood, so the guest cannot say more.)
 *     first output       its first byte has reached the console
 *     exit               it has ended itself
 *
 * Not in them: the way of the request to a worker, which stands in clones/s only.
 *
 * Concurrency: one thread, as the engine forks.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arch/arch.h"
#include "bench/commands.h"
#include "bench/guest_run.h"
#include "bench/options.h"
#include "bench/progress.h"
#include "bench/report.h"
#include "vmm/cowslip.h"
#include "vmm/series.h"

#define DEFAULT_COUNT  100u
#define DEFAULT_MEM    (UINT64_C(64) << 20)
#define DEFAULT_REPEAT 5u
#define MOST_CLONES    100000u
#define MOST_JOBS      4096u
#define MOST_LINKS     100u
#define TIMEOUT_NS     UINT64_C(60000000000) /* of one guest */
#define POOL_SPARE     (UINT64_C(64) << 20)
#define OWN_MEMORY     (UINT64_C(64) << 20)
#define CLONE_MEMORY   (UINT64_C(2) << 20) /* what a clone takes at most, tables included */

enum phase {
	PHASE_CREATED,
	PHASE_INSTRUCTION,
	PHASE_OUTPUT,
	PHASE_EXIT,
	PHASES,
};

static const char *const phase_names[PHASES] = {"created", "first instruction", "first output",
                                                "exit"};

/* Of one phase over the repeats. */
struct phase_figures {
	struct sample p50, p90, p99, max; /* us */
	uint64_t count;
};

struct clone_bench {
	/* As asked for. */
	uint64_t count, jobs, per_process, mem, depth, repeat;
	const char *dir;
	struct bench_output output;

	/* As it goes. */
	struct kvm kvm;
	struct host host;
	char program[4096];
	struct image *image;
	json_t *doc;
	struct phase_figures phases[PHASES];
	struct sample clones_per_s;

	/* Of one repeat. */
	struct series series[PHASES]; /* ns */
	uint64_t failed;              /* clones that did not end with 0 */
	int error;                    /* no memory for a sample */
};

/* ---- options ---- */

enum key {
	KEY_COUNT = 'n',
	KEY_JOBS = 'j',
	KEY_PER_PROCESS = BENCH_KEY_OWN,
	KEY_MEM,
	KEY_DEPTH,
	KEY_REPEAT,
	KEY_DIR,
};

static const struct argp_option options[] = {
	{"count", KEY_COUNT, "COUNT", 0, "How many clones in each repeat (100)", 1},
	{"jobs", KEY_JOBS, "JOBS", 0, "Worker processes that run guests at once (CPUs online)", 1},
	{"per-process", KEY_PER_PROCESS, "K", 0, "Virtual machines in one worker at most (8)", 1},
	{"mem", KEY_MEM, "SIZE", 0, "RAM of the guest (64M)", 2},
	{"depth", KEY_DEPTH, "N", 0, "Clone a clone of a clone ...: N snapshots in a chain (1)", 2},
	{"repeat", KEY_REPEAT, "N", 0, "How many times (5)", 3},
	{"dir", KEY_DIR, "DIR", 0, "Where the image is kept meanwhile (the working directory)", 3},
	BENCH_OUTPUT_OPTIONS,
	CLI_COMMON_OPTIONS,
};

static int take_option(void *to, int key, const char *arg)
{
	struct clone_bench *b = to;

	switch ((enum key)key) {
	case KEY_COUNT:
		return cli_count("-n", arg, 1, MOST_CLONES, &b->count);
	case KEY_JOBS:
		return cli_count("-j", arg, 1, MOST_JOBS, &b->jobs);
	case KEY_PER_PROCESS:
		return cli_count("--per-process", arg, 1, MOST_CLONES, &b->per_process);
	case KEY_MEM:
		return cli_size("--mem", arg, &b->mem);
	case KEY_DEPTH:
		return cli_count("--depth", arg, 1, MOST_LINKS, &b->depth);
	case KEY_REPEAT:
		return cli_count("--repeat", arg, 1, SAMPLE_MAX, &b->repeat);
	case KEY_DIR:
		return cli_name("--dir", arg, &b->dir);
	}
	return bench_take_output(&b->output, key, arg);
}

static int take_argument(void *to, unsigned index, bool after, const char *arg)
{
	(void)to;
	(void)index;
	(void)after;
	cli_error("%s: bench clone takes no argument; everything is an option", arg);
	return -EINVAL;
}

static const struct cli_command command = {
	.options = options,
	.args_doc = "",
	.doc = "Clone a warm guest from its file, and say when each clone was made, entered, heard "
	       "and done.\vExit status: 0; 125 when it cannot be measured.",
	.option = take_option,
	.argument = take_argument,
};

/* ---- the template ---- */

static int boot_chain(struct clone_bench *b, struct pool *pool, struct image **out,
                      struct vm_error *err)
{
	char args[32];
	const struct guest_chain chain = {
		.vm = {.kvm = &b->kvm, .pool = pool, .ram_bytes = b->mem, .cpus = 1},
		.program = b->program,
		.args = args,
		.depth = (unsigned)b->depth,
		.timeout_ns = TIMEOUT_NS,
	};

	snprintf(args, sizeof(args), "ready=%" PRIu64, b->depth);
	return guest_chain_make(&chain, out, err);
}

/* The image goes through its file; the name goes as soon as it is open. */
static int reopen(struct clone_bench *b, const struct image *image)
{
	struct snapshot_error err;
	char path[4096];
	int e;

	snprintf(path, sizeof(path), "%s/cowslip-bench-%d.cow", b->dir, (int)getpid());
	e = snapshot_save(image, arch_info.isa, 1, path, &err);
	if (e == 0)
		e = snapshot_open(path, arch_info.isa, &b->image, NULL, &err);
	if (e)
		cli_error("--dir %s: %s", b->dir, err.text);
	(void)unlink(path);
	return e;
}

static int make_template(struct clone_bench *b)
{
	uint64_t bytes = align_up(b->mem, MM_BLOCK_SIZE) + b->depth * MM_BLOCK_SIZE + POOL_SPARE;
	struct image *image;
	struct vm_error err;
	struct pool *pool;
	int e = pool_create(bytes, &pool);

	if (e) {
		cli_error("bench clone: memory for the guest: %s", strerror(-e));
		return e;
	}
	e = boot_chain(b, pool, &image, &err);
	if (e) {
		cli_error("bench clone: the guest to be cloned: %s", err.text);
	} else {
		e = reopen(b, image);
		image_put(image);
	}
	pool_put(pool);
	return e;
}

/* ---- measuring ---- */

static void on_output(void *ctx, uint64_t number, const void *data, size_t size)
{
	(void)ctx;
	(void)number;
	(void)data;
	(void)size;
}

static void add_times(struct clone_bench *b, const struct vm_times *t)
{
	const uint64_t at[PHASES] = {t->created, t->running, t->first_output, t->ended};

	for (unsigned p = 0; p < PHASES; p++) {
		int e = at[p] ? series_add(&b->series[p], at[p] - t->asked) : 0;

		b->error = b->error ? b->error : e;
	}
}

static void on_ended(void *ctx, const struct clone_result *r)
{
	struct clone_bench *b = ctx;

	if (r->end == CLONE_EXITED && r->code == 0) {
		add_times(b, &r->times);
		return;
	}
	if (b->failed++ == 0)
		cli_error("bench clone: clone %" PRIu64 " did not end well (%d): %s", r->number,
		          r->code, r->text);
}

/* Of one repeat, in microseconds. */
static int add_figures(struct phase_figures *to, struct series *from)
{
	int e;

	series_sort(from);
	to->count += from->count;
	e = sample_add(&to->p50, (double)series_rank(from, 50) / 1e3);
	if (e == 0)
		e = sample_add(&to->p90, (double)series_rank(from, 90) / 1e3);
	if (e == 0)
		e = sample_add(&to->p99, (double)series_rank(from, 99) / 1e3);
	if (e == 0)
		e = sample_add(&to->max, (double)series_rank(from, 100) / 1e3);
	return e;
}

static int add_repeat(struct clone_bench *b, const struct engine_summary *s)
{
	int e = sample_add(&b->clones_per_s, (double)b->count * 1e9 / (double)s->wall_ns);

	for (unsigned p = 0; e == 0 && p < PHASES; p++)
		e = add_figures(&b->phases[p], &b->series[p]);
	return e;
}

static int run_once(struct clone_bench *b, bool counts)
{
	const struct engine_config config = {
		.kvm = &b->kvm,
		.image = b->image,
		.count = b->count,
		.jobs = (unsigned)b->jobs,
		.per_process = (unsigned)b->per_process,
		.timeout_ns = TIMEOUT_NS,
		.quick = true,
		.ctx = b,
		.output = on_output,
		.ended = on_ended,
	};
	struct engine_summary summary;
	struct vm_error err;
	int e = engine_run(&config, &summary, &err);

	if (e)
		cli_error("bench clone: clones cannot be run: %s", err.text);
	else if (b->failed)
		e = -ECHILD;
	else if (b->error || (counts && add_repeat(b, &summary))) {
		cli_error("bench clone: no memory for the figures");
		e = -ENOMEM;
	}
	for (unsigned p = 0; p < PHASES; p++)
		series_fini(&b->series[p]);
	return e;
}

/* Round 0 warms up. */
static int measure(struct clone_bench *b)
{
	struct host_watch watch;
	struct progress progress;
	int e = make_template(b);

	if (e)
		return e;
	progress_start(&progress, STDERR_FILENO, (unsigned)b->repeat + 1);
	host_watch_start(&watch);
	for (unsigned round = 0; e == 0 && round <= b->repeat; round++) {
		progress_step(&progress, round, "clones");
		e = run_once(b, round > 0);
	}
	progress_end(&progress);
	if (e == 0)
		host_watch_end(&watch, report_say, b->doc);
	image_put(b->image);
	return e;
}

/* ---- the document ---- */

static json_t *parameters_json(const struct clone_bench *b)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "count", (json_int_t)b->count, "jobs",
	                 (json_int_t)b->jobs, "per_process", (json_int_t)b->per_process, "mem",
	                 (json_int_t)b->mem, "depth", (json_int_t)b->depth, "repeat",
	                 (json_int_t)b->repeat);
}

static int set_median(json_t *row, const char *key, const struct sample *s)
{
	return bench_set(row, key, json_real(sample_spread(s).median));
}

static int add_row(const struct clone_bench *b, enum phase p)
{
	const struct phase_figures *f = &b->phases[p];
	struct spread p50 = sample_spread(&f->p50);
	json_t *row = json_pack("{s:s}", "name", phase_names[p]);
	int e = row ? report_set_figure(row, "us_p50", &p50) : -ENOMEM;

	if (e == 0)
		e = set_median(row, "us_p90", &f->p90);
	if (e == 0)
		e = set_median(row, "us_p99", &f->p99);
	if (e == 0)
		e = set_median(row, "us_max", &f->max);
	if (e == 0)
		e = bench_set(row, "count", json_integer((json_int_t)f->count));
	if (e == 0)
		return report_add_row(b->doc, row);
	json_decref(row);
	return e;
}

static int finish(const struct clone_bench *b)
{
	struct spread rate = sample_spread(&b->clones_per_s);
	json_t *summary = json_object();
	int e = 0;

	for (unsigned p = 0; e == 0 && p < PHASES; p++)
		e = add_row(b, (enum phase)p);
	if (e == 0)
		e = summary ? report_set_figure(summary, "clones_per_s", &rate) : -ENOMEM;
	if (e == 0)
		return report_set_summary(b->doc, summary);
	json_decref(summary);
	return e;
}

/* ---- the command ---- */

static int check(struct clone_bench *b)
{
	struct ram_region ram[ARCH_MAX_RAM_REGIONS];
	char what[64];
	int e = bench_check_output(&b->output);

	if (e)
		return e;
	if (arch_ram_layout(b->mem, PAGE_SIZE_AUTO, ram) < 0) {
		cli_error("--mem %" PRIu64 ": a guest's RAM is whole 4 KiB pages, from %" PRIu64
		          " KiB to %" PRIu64 " GiB",
		          b->mem, arch_info.load_min.v >> 10, arch_info.max_ram >> 30);
		return -EINVAL;
	}
	snprintf(what, sizeof(what), "-n %" PRIu64, b->count);
	host_read(&b->host);
	e = bench_check_memory(
		&b->host, OWN_MEMORY + min_u64(b->count, b->jobs * b->per_process) * CLONE_MEMORY,
		what);
	return e ? e : bench_find_guest(&b->output, "counter.elf", b->program, sizeof(b->program));
}

static int run_and_report(struct clone_bench *b)
{
	if (bench_output_open(&b->output, b->doc) || measure(b))
		return CLI_FAILED;
	if (finish(b)) {
		cli_error("no memory for the report");
		return CLI_FAILED;
	}
	return bench_output_put(&b->output, b->doc);
}

static int with_kvm(struct clone_bench *b)
{
	int status = CLI_FAILED;

	if (cli_open_kvm(&b->kvm))
		return CLI_FAILED;
	b->doc = report_new("clone", parameters_json(b), NULL, &b->host);
	if (b->doc) {
		host_warn(&b->host, report_say, b->doc);
		status = run_and_report(b);
	}
	bench_output_close(&b->output);
	json_decref(b->doc);
	kvm_close(&b->kvm);
	return status;
}

int bench_clone(int argc, char **argv)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct clone_bench *b = calloc(1, sizeof(*b));
	enum cli_parsed parsed;
	int status = CLI_FAILED;

	if (!b) {
		cli_error("no memory to start");
		return CLI_FAILED;
	}
	b->count = DEFAULT_COUNT;
	b->jobs = cpus > 0 ? min_u64((uint64_t)cpus, MOST_JOBS) : 1;
	b->per_process = ENGINE_PER_PROCESS;
	b->mem = DEFAULT_MEM;
	b->depth = 1;
	b->repeat = DEFAULT_REPEAT;
	b->dir = ".";
	parsed = cli_parse(&command, argc, argv, b);
	if (parsed != CLI_GO)
		status = cli_parsed_status(parsed);
	else if (check(b) == 0)
		status = with_kvm(b);
	free(b);
	return status;
}
