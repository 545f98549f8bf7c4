// SPDX-License-Identifier: MIT
/*
 * bench/clone.c - `cowslip bench clone`: how long until a clone of a warm guest does its work.
 *
 * A guest (counter) is booted, saved when it is warm, and cloned from the file by the engine,
 * just as `cowslip run --save` and `cowslip clone` do. Each repeat runs all clones of each
 * kind, and which comes first alternates:
 *
 *     new        every clone has a VM made for it (`cowslip clone --no-reuse`)
 *     reused     clones have VMs that were another's, reset (vmm/shell.h), as `cowslip clone` has
 *                it. The first of each worker, for which there is none yet, are in clones/s and in
 *                no row
 *     floor      no clones: one VM of this process, whose registers and devices are set back when
 *                its memory has been already (bench/clone_floor.h)
 *
 * Phases, each since the worker has begun with the clone, to make a VM or to reset one:
 *
 *     created            it has a VM: the clone could run
 *     first instruction  its first KVM_RUN is entered. (The guest's counter of cycles goes on from
 *                        where the template's stood, so the guest cannot say more.)
 *     first output       its first byte has reached the console
 *     exit               it has ended itself
 *
 * Not in them: the way of the request to a worker, and the time it waits there for the clones
 * before it. Both stand in clones/s only.
 *
 * Concurrency: one thread, as the engine forks.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arch/arch.h"
#include "bench/clone_floor.h"
#include "bench/driver.h"
#include "bench/guest_run.h"
#include "bench/times.h"

#define DEFAULT_COUNT 100u
#define DEFAULT_MEM   (UINT64_C(64) << 20)
#define MOST_CLONES   100000u
#define MOST_JOBS     4096u
#define MOST_LINKS    100u
#define TIMEOUT_NS    UINT64_C(60000000000) /* of one guest */
#define POOL_SPARE    (UINT64_C(64) << 20)
#define OWN_MEMORY    (UINT64_C(64) << 20)
#define CLONE_MEMORY  (UINT64_C(2) << 20) /* what a clone takes at most, tables included */

enum kind { KIND_NEW, KIND_REUSED, KIND_FLOOR, KINDS };

enum phase {
	PHASE_CREATED,
	PHASE_INSTRUCTION,
	PHASE_OUTPUT,
	PHASE_EXIT,
	PHASES,
};

static const struct {
	const char *name;
	const char *rows[PHASES];
	const char *rate; /* NULL: none */
} kinds[KINDS] = {
	{"new",
         {"new: created", "new: first instruction", "new: first output", "new: exit"},
         "new_clones_per_s"},
	{"reused",
         {"reused: created", "reused: first instruction", "reused: first output", "reused: exit"},
         "reused_clones_per_s"},
	{"floor",
         {"floor: created", "floor: first instruction", "floor: first output", "floor: exit"},
         NULL},
};

/* Of clones with VMs of one kind. */
struct kind_figures {
	struct times phases[PHASES];
	struct sample clones_per_s;
};

struct clone_bench {
	struct bench_run run;

	/* As asked for. */
	uint64_t count, per_process, mem, depth;
	uint64_t jobs; /* 0: not given */
	bool wanted[KINDS];

	/* As it goes. */
	struct image *image;
	struct floor floor;
	struct kind_figures kinds[KINDS];

	/* Of one run of all clones. */
	enum kind kind;
	uint64_t failed;          /* clones that did not end with 0 */
	int error;                /* no memory for a sample */
	struct clone_result lost; /* the first that failed */
};

/* ---- options ---- */

enum key {
	KEY_COUNT = 'n',
	KEY_JOBS = 'j',
	KEY_PER_PROCESS = BENCH_KEY_OWN,
	KEY_REUSE,
	KEY_NO_REUSE,
	KEY_MEM,
	KEY_DEPTH,
};

static const struct argp_option options[] = {
	{"count", KEY_COUNT, "COUNT", 0, "How many clones in each repeat (100)", 1},
	{"jobs", KEY_JOBS, "JOBS", 0,
         "Worker processes that run guests at once (CPUs online, half of COUNT at most)", 1},
	{"per-process", KEY_PER_PROCESS, "K", 0, "Virtual machines in one worker at most (8)", 1},
	{"reuse", KEY_REUSE, NULL, 0, "Only clones with machines that were another's (both kinds)",
         1},
	{"no-reuse", KEY_NO_REUSE, NULL, 0, "Only clones with machines made for them (both kinds)",
         1},
	{"mem", KEY_MEM, "SIZE", 0, "RAM of the guest (64M)", 2},
	{"depth", KEY_DEPTH, "N", 0, "Clone a clone of a clone ...: N snapshots in a chain (1)", 2},
	BENCH_DIR_OPTION,
	BENCH_COMMON_OPTIONS,
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
	case KEY_REUSE:
		b->wanted[KIND_NEW] = false;
		return 0;
	case KEY_NO_REUSE:
		b->wanted[KIND_REUSED] = b->wanted[KIND_FLOOR] = false;
		return 0;
	case KEY_MEM:
		return cli_size("--mem", arg, &b->mem);
	case KEY_DEPTH:
		return cli_count("--depth", arg, 1, MOST_LINKS, &b->depth);
	}
	return -EINVAL;
}

/* ---- the template ---- */

static int boot_chain(struct clone_bench *b, struct pool *pool, struct image **out,
                      struct vm_error *err)
{
	char args[32];
	const struct guest_chain chain = {
		.vm = {.kvm = &b->run.kvm, .pool = pool, .ram_bytes = b->mem, .cpus = 1},
		.program = b->run.program,
		.args = args,
		.depth = (unsigned)b->depth,
		.timeout_ns = TIMEOUT_NS,
	};

	snprintf(args, sizeof(args), "ready=%" PRIu64, b->depth);
	return guest_chain_make(&chain, out, err);
}

static int make_template(void *state, struct vm_error *err)
{
	struct clone_bench *b = state;
	struct image *image;
	struct pool *pool;
	int e = bench_pool(b->mem + b->depth * MM_BLOCK_SIZE + POOL_SPARE, &pool, err);

	if (e)
		return e;
	e = boot_chain(b, pool, &image, err);
	if (e == 0) {
		e = bench_through_file(&b->run, image, &b->image, err);
		image_put(image);
	}
	pool_put(pool);
	if (e == 0 && b->wanted[KIND_FLOOR])
		e = floor_open(&b->floor, &b->run.kvm, b->image, TIMEOUT_NS, err);
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
		int e = at[p] ? times_add(&b->kinds[b->kind].phases[p], at[p] - t->asked) : 0;

		b->error = b->error ? b->error : e;
	}
}

static void on_ended(void *ctx, const struct clone_result *r)
{
	struct clone_bench *b = ctx;

	if (r->end != CLONE_EXITED || r->code != 0) {
		if (b->failed++ == 0)
			b->lost = *r;
	} else if (r->reused == (b->kind == KIND_REUSED)) {
		add_times(b, &r->times);
	}
}

static int judge(const struct clone_bench *b, struct vm_error *err)
{
	if (b->failed)
		return bench_fail(err, -ECHILD, "clone %" PRIu64 " did not end well (%d): %.200s",
		                  b->lost.number, b->lost.code, b->lost.text);
	if (b->kinds[b->kind].phases[PHASE_CREATED].repeat.count == 0)
		return bench_fail(err, -ENODATA, "no clone had a %s virtual machine",
		                  kinds[b->kind].name);
	return b->error;
}

static int end_kind(struct clone_bench *b, uint64_t wall_ns, bool counts)
{
	struct kind_figures *f = &b->kinds[b->kind];
	int e = 0;

	if (counts)
		e = sample_add(&f->clones_per_s, (double)b->count * 1e9 / (double)wall_ns);
	for (unsigned p = 0; e == 0 && p < PHASES; p++)
		e = times_end_repeat(&f->phases[p], counts);
	return e;
}

static int run_clones(struct clone_bench *b, uint64_t *wall_ns, struct vm_error *err)
{
	const struct engine_config config = {
		.kvm = &b->run.kvm,
		.image = b->image,
		.count = b->count,
		.jobs = (unsigned)b->jobs,
		.per_process = (unsigned)b->per_process,
		.no_reuse = b->kind == KIND_NEW,
		.timeout_ns = TIMEOUT_NS,
		.quick = true,
		.ctx = b,
		.output = on_output,
		.ended = on_ended,
	};
	struct engine_summary summary;
	int e;

	e = engine_run(&config, &summary, err);
	*wall_ns = summary.wall_ns;
	return e ? e : judge(b, err);
}

static int run_floor(struct clone_bench *b, uint64_t *wall_ns, struct vm_error *err)
{
	uint64_t start = clock_ns();
	int e = 0;

	for (uint64_t i = 0; e == 0 && i < b->count; i++) {
		struct vm_times t;

		e = floor_run(&b->floor, &t, err);
		if (e == 0)
			add_times(b, &t);
	}
	*wall_ns = clock_ns() - start;
	return e ? e : b->error;
}

static int run_kind(struct clone_bench *b, enum kind kind, bool counts, struct vm_error *err)
{
	uint64_t wall_ns;
	int e;

	b->kind = kind;
	e = kind == KIND_FLOOR ? run_floor(b, &wall_ns, err) : run_clones(b, &wall_ns, err);
	return e ? e : end_kind(b, wall_ns, counts);
}

static int run_round(void *state, unsigned round, struct vm_error *err)
{
	struct clone_bench *b = state;
	int e = 0;

	for (unsigned i = 0; e == 0 && i < KINDS; i++) {
		enum kind kind = (enum kind)((i + round) % KINDS);

		if (!b->wanted[kind])
			continue;
		bench_step(&b->run, kinds[kind].name);
		e = run_kind(b, kind, round > 0, err);
	}
	return e;
}

/* ---- the document ---- */

static json_t *only(bool yes)
{
	return yes ? json_true() : json_null();
}

static json_t *parameters_json(const void *state)
{
	const struct clone_bench *b = state;

	return json_pack("{s:I, s:I, s:I, s:o, s:o, s:I, s:I, s:I}", "count", (json_int_t)b->count,
	                 "jobs", (json_int_t)b->jobs, "per_process", (json_int_t)b->per_process,
	                 "reuse", only(!b->wanted[KIND_NEW]), "no_reuse",
	                 only(!b->wanted[KIND_REUSED]), "mem", (json_int_t)b->mem, "depth",
	                 (json_int_t)b->depth, "repeat", (json_int_t)b->run.repeat);
}

static int add_row(struct clone_bench *b, enum kind kind, enum phase p)
{
	json_t *row = json_pack("{s:s}", "name", kinds[kind].rows[p]);
	int e = row ? times_set(&b->kinds[kind].phases[p], row) : -ENOMEM;

	if (e == 0)
		return report_add_row(b->run.doc, row);
	json_decref(row);
	return e;
}

/* How many times as long `kind` takes to the first byte as `base` does. */
static int add_ratio(const struct clone_bench *b, json_t *summary, const char *name, enum kind kind,
                     enum kind base)
{
	struct spread ratio = sample_ratio(&b->kinds[kind].phases[PHASE_OUTPUT].p50,
	                                   &b->kinds[base].phases[PHASE_OUTPUT].p50);

	return b->wanted[kind] && b->wanted[base] ? report_set_figure(summary, name, &ratio) : 0;
}

/* The ratios; and how many had a VM that was another's. */
static int add_comparison(const struct clone_bench *b, json_t *summary)
{
	const struct times *reused = &b->kinds[KIND_REUSED].phases[PHASE_OUTPUT];
	int e = add_ratio(b, summary, "first_output_ratio", KIND_NEW, KIND_REUSED);

	if (e == 0)
		e = add_ratio(b, summary, "floor_ratio", KIND_REUSED, KIND_FLOOR);
	return e ? e : report_set(summary, "reused", json_integer((json_int_t)reused->all.count));
}

static int finish(void *state)
{
	struct clone_bench *b = state;
	struct report_item rates[KINDS];
	size_t count = 0;
	int e = 0;

	for (unsigned k = 0; k < KINDS; k++) {
		if (!b->wanted[k])
			continue;
		for (unsigned p = 0; e == 0 && p < PHASES; p++)
			e = add_row(b, (enum kind)k, (enum phase)p);
		if (kinds[k].rate)
			rates[count++] = (struct report_item){
				kinds[k].rate, &b->kinds[k].clones_per_s, ITEM_FIGURE};
	}
	if (e == 0)
		e = report_set_summary(b->run.doc, rates, count);
	return e ? e : add_comparison(b, json_object_get(b->run.doc, "summary"));
}

/* ---- the command ---- */

/* Each worker's first clone has a new VM. */
static int check_reuse(struct clone_bench *b)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (!b->wanted[KIND_NEW] && !b->wanted[KIND_REUSED]) {
		cli_error("--reuse and --no-reuse: nothing is left to measure; give one of them");
		return -EINVAL;
	}
	if (b->jobs == 0) {
		b->jobs = cpus > 0 ? min_u64((uint64_t)cpus, MOST_JOBS) : 1;
		b->jobs = max_u64(1, min_u64(b->jobs, b->count / 2));
	}
	if (!b->wanted[KIND_REUSED] || b->count > b->jobs)
		return 0;
	cli_error("-n %" PRIu64 ": no more clones than workers (-j %" PRIu64
	          "), so none would reuse a virtual machine; ask for more, or for --no-reuse",
	          b->count, b->jobs);
	return -EINVAL;
}

static int prepare(void *state)
{
	struct ram_region ram[ARCH_MAX_RAM_REGIONS];
	struct clone_bench *b = state;

	snprintf(b->run.what, sizeof(b->run.what), "-n %" PRIu64, b->count);
	b->run.steps = b->wanted[KIND_NEW] + b->wanted[KIND_REUSED] + b->wanted[KIND_FLOOR];
	if (arch_ram_layout(b->mem, PAGE_SIZE_AUTO, ram) >= 0)
		return check_reuse(b);
	cli_error("--mem %" PRIu64 ": a guest's RAM is whole 4 KiB pages, from %" PRIu64
	          " KiB to %" PRIu64 " GiB",
	          b->mem, arch_info.load_min.v >> 10, arch_info.max_ram >> 30);
	return -EINVAL;
}

static uint64_t memory_needed(const void *state)
{
	const struct clone_bench *b = state;

	return OWN_MEMORY + min_u64(b->count, b->jobs * b->per_process) * CLONE_MEMORY;
}

static void set_defaults(void *state)
{
	struct clone_bench *b = state;

	b->count = DEFAULT_COUNT;
	b->per_process = ENGINE_PER_PROCESS;
	b->mem = DEFAULT_MEM;
	b->depth = 1;
	for (unsigned k = 0; k < KINDS; k++)
		b->wanted[k] = true;
}

static void fini(void *state)
{
	struct clone_bench *b = state;

	floor_close(&b->floor);
	image_put(b->image);
	for (unsigned k = 0; k < KINDS; k++)
		for (unsigned p = 0; p < PHASES; p++)
			times_fini(&b->kinds[k].phases[p]);
}

const struct bench_command bench_clone = {
	.cli = {.options = options,
                .args_doc = "",
                .doc = "Clone a warm guest from its file, with a virtual machine made for each "
                       "clone and with machines that were another's, and say when each clone was "
                       "made, entered, heard and done.\vExit status: 0; 125 when it cannot be "
                       "measured.",
                .option = take_option},
	.name = "clone",
	.guest = "counter.elf",
	.size = sizeof(struct clone_bench),
	.defaults = set_defaults,
	.prepare = prepare,
	.memory = memory_needed,
	.parameters = parameters_json,
	.set_up = make_template,
	.round = run_round,
	.finish = finish,
	.fini = fini,
};
