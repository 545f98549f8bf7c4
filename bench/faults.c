// SPDX-License-Identifier: MIT
/*
 * bench/faults.c - `cowslip bench faults`: how fast a guest gets its memory, and what it feels.
 *
 * Every repeat walks once on each row's memory, in an order that moves on by one from repeat to
 * repeat, so that no row always follows the same other. A round before them warms up and does not
 * count. Template, orders and pools are made outside of what is timed.
 *
 * Concurrency: one thread, but for what a VM and uffd-4k have of their own.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arch/arch.h"
#include "bench/driver.h"
#include "bench/faults_row.h"
#include "bench/guest_run.h"
#include "bench/pattern.h"
#include "vmm/console.h"

#define DEFAULT_SIZE     (UINT64_C(64) << 20)
#define MOST_LINKS       100u
#define MOST_ROWS        16u
#define TIMEOUT_NS       UINT64_C(600000000000) /* of one walk */
#define OWN_MEMORY       (UINT64_C(64) << 20)   /* this program's, beside guests' */
#define OFF_CPU_TOO_LONG 0.10                   /* share of a walk */
#define ACCOUNTED_SLIP   0.05                   /* between histograms and the whole walk */

struct faults {
	struct bench_run run;

	/* As asked for. */
	struct order_spec order;
	const char *pattern, *access, *memory;
	bool access_given, faults_given, no_latency;
	uint64_t size, cpus;
	uint64_t depth; /* of the template's chain; 0: fresh memory */
	int page_size, faults;
	const char *record, *row_names;

	/* As it goes. */
	struct walk_spec spec;
	struct memwalk_order *touches;
	struct walk_template template;
	struct faults_row rows[MOST_ROWS];
	unsigned row_count;
};

/* ---- options ---- */

enum key {
	KEY_PATTERN = BENCH_KEY_OWN,
	KEY_ACCESS,
	KEY_MEMORY,
	KEY_SIZE,
	KEY_TOUCHES,
	KEY_PAGE_SIZE,
	KEY_FAULTS,
	KEY_VCPUS,
	KEY_SEED,
	KEY_ROWS,
	KEY_RECORD,
	KEY_NO_LATENCY,
};

static const struct argp_option options[] = {
	{"pattern", KEY_PATTERN, "NAME", 0,
         "Order of the pages: seq, stride:N, random, zipf[:THETA], trace:FILE (seq)", 1},
	{"access", KEY_ACCESS, "NAME", 0, "read, write, rw:PCT, of which PCT % write (write)", 1},
	{"touches", KEY_TOUCHES, "N", 0, "How many (one for each page)", 1},
	{"no-latency", KEY_NO_LATENCY, NULL, 0,
         "Time whole walks only, in all rows: touches then do not wait for the clock", 1},
	{"seed", KEY_SEED, "N", 0, "Of what is drawn at random (1)", 1},
	{"record-trace", KEY_RECORD, "FILE", 0, "Write the touches down, for trace:FILE", 1},
	{"memory", KEY_MEMORY, "NAME", 0, "What is touched: fresh, clone, clone-depth:N (fresh)",
         2},
	{"size", KEY_SIZE, "SIZE", 0, "How much memory is walked (64M)", 2},
	{"page-size", KEY_PAGE_SIZE, "SIZE", 0, "Frames of the library's rows: auto, 4k, 2m (auto)",
         2},
	{"faults", KEY_FAULTS, "PATH", 0, "The library's row: auto, kernel, uffd (auto)", 2},
	{"vcpus", KEY_VCPUS, "N", 0, "Virtual CPUs, each with its part of the touches (1)", 2},
	{"rows", KEY_ROWS, "NAME,...", 0,
         "What to measure: auto, kernel, uffd, kernel-4k, kernel-thp, private-4k, uffd-4k, "
         "populate (auto and all baselines)",
         3},
	BENCH_COMMON_OPTIONS,
	CLI_COMMON_OPTIONS,
};

static const struct cli_word page_words[] = {{"auto", PAGE_SIZE_AUTO},
                                             {"4k", PAGE_SIZE_4K},
                                             {"2m", PAGE_SIZE_2M},
                                             {0}};

static int take_pattern(struct faults *f, const char *arg)
{
	f->pattern = arg;
	if (pattern_parse(arg, &f->order.pattern) == 0)
		return 0;
	cli_error("--pattern %s: must be one of seq, stride:N, random, zipf, zipf:THETA (0 to %g), "
	          "trace:FILE",
	          arg, PATTERN_THETA_MAX);
	return -EINVAL;
}

static int take_access(struct faults *f, const char *arg)
{
	f->access = arg;
	f->access_given = true;
	if (pattern_parse_access(arg, &f->order.write_percent) == 0)
		return 0;
	cli_error("--access %s: must be one of read, write, rw:PCT (0 to 100)", arg);
	return -EINVAL;
}

static int take_memory(struct faults *f, const char *arg)
{
	static const char deep[] = "clone-depth:";

	f->memory = arg;
	f->depth = strcmp(arg, "clone") == 0;
	if (f->depth || strcmp(arg, "fresh") == 0)
		return 0;
	if (strncmp(arg, deep, sizeof(deep) - 1) == 0)
		return cli_count("--memory clone-depth:", arg + sizeof(deep) - 1, 1, MOST_LINKS,
		                 &f->depth);
	cli_error("--memory %s: must be one of fresh, clone, clone-depth:N", arg);
	return -EINVAL;
}

static int take_option(void *to, int key, const char *arg)
{
	struct faults *f = to;

	switch ((enum key)key) {
	case KEY_PATTERN:
		return take_pattern(f, arg);
	case KEY_ACCESS:
		return take_access(f, arg);
	case KEY_MEMORY:
		return take_memory(f, arg);
	case KEY_SIZE:
		return cli_size("--size", arg, &f->size);
	case KEY_TOUCHES:
		return cli_count("--touches", arg, 1, UINT32_MAX, &f->order.touches);
	case KEY_PAGE_SIZE:
		return cli_choose("--page-size", arg, page_words, &f->page_size);
	case KEY_FAULTS:
		f->faults_given = true;
		return cli_choose("--faults", arg, cli_fault_words, &f->faults);
	case KEY_VCPUS:
		return cli_count("--vcpus", arg, 1, VM_MAX_CPUS, &f->cpus);
	case KEY_SEED:
		return cli_count("--seed", arg, 0, INT64_MAX, &f->order.seed);
	case KEY_ROWS:
		return cli_name("--rows", arg, &f->row_names);
	case KEY_RECORD:
		return cli_name("--record-trace", arg, &f->record);
	case KEY_NO_LATENCY:
		f->no_latency = true;
		return 0;
	}
	return -EINVAL;
}

/* ---- rows ---- */

static bool fits(const struct faults *f, const struct memory_kind *kind)
{
	return f->depth ? kind->clones : kind->fresh;
}

static int add_row(struct faults *f, const struct memory_kind *kind)
{
	for (unsigned i = 0; i < f->row_count; i++) {
		if (f->rows[i].kind == kind) {
			cli_error("--rows: %s twice; name each once", kind->name);
			return -EINVAL;
		}
	}
	if (!fits(f, kind)) {
		cli_error("--rows: %s %s, so it has no row with --memory %s; leave it out",
		          kind->name,
		          f->depth ? "cannot hold an image" : "is a mapping of an image's file",
		          f->memory);
		return -EINVAL;
	}
	f->rows[f->row_count++].kind = kind;
	return 0;
}

static const struct memory_kind *library_kind(int faults)
{
	const struct memory_kind *k = memory_kinds;

	while (!k->library || (int)k->faults != faults)
		k++;
	return k;
}

/* The library's row is the one --faults says; without --rows all baselines that fit follow. */
static int default_rows(struct faults *f)
{
	int e = add_row(f, library_kind(f->faults));

	for (const struct memory_kind *k = memory_kinds; e == 0 && k->name; k++)
		if (!k->library && fits(f, k))
			e = add_row(f, k);
	return e;
}

static int add_named(struct faults *f, const char *name)
{
	const struct memory_kind *kind = memory_find(name);

	if (kind)
		return add_row(f, kind);
	cli_error("--rows: %s: no such row; there are auto, kernel, uffd, kernel-4k, kernel-thp, "
	          "private-4k, uffd-4k and populate",
	          name);
	return -EINVAL;
}

static int named_rows(struct faults *f)
{
	char *names = strdup(f->row_names), *rest = names, *name;
	int e = names ? 0 : -ENOMEM;

	if (e)
		cli_error("no memory to start");
	while (e == 0 && (name = strsep(&rest, ",")))
		e = add_named(f, name);
	free(names);
	return e;
}

static bool has_row(const struct faults *f, const struct memory_kind *kind)
{
	for (unsigned i = 0; i < f->row_count; i++)
		if (f->rows[i].kind == kind)
			return true;
	return false;
}

static int choose_rows(struct faults *f)
{
	int e;

	if (!f->row_names)
		return default_rows(f);
	e = named_rows(f);
	if (e == 0 && f->faults_given && !has_row(f, library_kind(f->faults)))
		e = add_row(f, library_kind(f->faults));
	return e;
}

/* What the table compares with: the plainest of what there is. NULL: no baseline is measured. */
static const char *main_baseline(const void *state)
{
	const struct faults *f = state;
	const char *first = NULL;

	for (unsigned i = 0; i < f->row_count; i++) {
		if (strcmp(f->rows[i].kind->name, "kernel-4k") == 0)
			return f->rows[i].kind->name;
		if (!first && !f->rows[i].kind->library)
			first = f->rows[i].kind->name;
	}
	return first;
}

/* ---- checks before anything runs ---- */

static int make_order(struct faults *f)
{
	struct pattern_error err;
	int e;

	f->order.pages = f->size / MM_PAGE_SIZE;
	if (f->order.pattern.kind == PATTERN_TRACE && f->access_given) {
		cli_error("--access %s: a trace says itself what reads and what writes; leave it "
		          "out",
		          f->access);
		return -EINVAL;
	}
	e = pattern_make(&f->order, &f->touches, &f->spec.order_size, &err);
	if (e)
		cli_error("--pattern %s: %s", f->pattern, err.text);
	return e;
}

/* All RAM of the guest is one region, as memwalk wants it. */
static int check_ram(const struct faults *f)
{
	struct ram_region ram[ARCH_MAX_RAM_REGIONS];
	uint64_t bytes = walk_ram(&f->spec);
	int n = arch_ram_layout(bytes, (enum page_size)f->page_size, ram);

	if (n == 1)
		return 0;
	cli_error("--size %" PRIu64 ": too large; a guest that walks it needs %" PRIu64
	          " MiB of RAM in one piece, and %s has less; ask for less",
	          f->size, bytes >> 20, arch_info.name);
	return -EFBIG;
}

static int check_cpus(void *state)
{
	const struct faults *f = state;

	if (f->cpus > f->run.kvm.caps.max_vcpus) {
		cli_error("--vcpus %" PRIu64 ": this KVM has at most %u", f->cpus,
		          f->run.kvm.caps.max_vcpus);
		return -EINVAL;
	}
	if (f->cpus <= f->touches->touches)
		return 0;
	cli_error("--vcpus %" PRIu64 ": more than the %" PRIu64 " touches; give each at least one",
	          f->cpus, f->touches->touches);
	return -EINVAL;
}

/* A walk's guest; of clones also the template and a copy of it. */
static uint64_t memory_needed(const void *state)
{
	const struct faults *f = state;

	return walk_ram(&f->spec) * (f->depth ? 3 : 1) + f->spec.order_size + OWN_MEMORY;
}

static int prepare(void *state)
{
	struct faults *f = state;
	int e = choose_rows(f);

	/* Before an order of that length is made. */
	if (e == 0)
		e = bench_check_size(&f->run, f->size);
	if (e == 0)
		e = make_order(f);
	if (e)
		return e;
	f->run.steps = f->row_count;
	f->spec = (struct walk_spec){
		.kvm = &f->run.kvm,
		.program = f->run.program,
		.size = f->size,
		.cpus = (unsigned)f->cpus,
		.page_size = (enum page_size)f->page_size,
		.untimed = f->no_latency,
		.order = f->touches,
		.order_size = f->spec.order_size,
		.timeout_ns = TIMEOUT_NS,
	};
	return check_ram(f);
}

/* ---- measuring ---- */

/*
 * Memory is warmed up before each walk, not once: a host that is a virtual machine itself may hand
 * what lies free for two seconds back to its own host (free page reporting), and touching it again
 * costs many times more. Rows with huge pages are hit most, and which row it is would be chance.
 */
static int walk_row(struct faults *f, struct faults_row *row, bool counts, struct vm_error *err)
{
	struct walk_result *w = malloc(sizeof(*w));
	struct vm_error why = {.text = "no memory"};
	int e = w ? 0 : -ENOMEM;

	if (e == 0) {
		/* What cannot be warmed up was told before the first walk. */
		(void)host_warm(walk_ram(&f->spec));
		e = walk_template_warm(&f->template);
	}
	if (e == 0) {
		e = walk_run(&f->spec, row->kind, &f->template, w, &why);
	}
	if (e == 0 && counts) {
		e = faults_row_add(row, w, f->size, f->depth > 0);
		if (e)
			bench_fail(&why, e, "its figures make no sense: %s", strerror(-e));
	}
	free(w);
	return e ? bench_fail(err, e, "%s: %.200s", row->kind->name, why.text) : 0;
}

/* Round 0 warms up: page cache, the kernel's caches, the guest's file. */
static int run_round(void *state, unsigned round, struct vm_error *err)
{
	struct faults *f = state;
	int e = 0;

	for (unsigned i = 0; e == 0 && i < f->row_count; i++) {
		struct faults_row *row = &f->rows[(i + round) % f->row_count];

		bench_step(&f->run, row->kind->name);
		e = walk_row(f, row, round > 0, err);
	}
	return e;
}

static int record_order(const struct faults *f, struct vm_error *err)
{
	struct pattern_error why;
	int e = f->record ? pattern_record(f->touches, f->order.pages, f->record, &why) : 0;

	return e ? bench_fail(err, e, "--record-trace %s; name a file that can be written",
	                      why.text)
	         : 0;
}

static int set_up(void *state, struct vm_error *err)
{
	struct faults *f = state;
	struct vm_error why;
	bool copy = false;
	int e = record_order(f, err);

	if (e || f->depth == 0)
		return e;
	for (unsigned i = 0; i < f->row_count; i++)
		copy |= !f->rows[i].kind->library;
	e = walk_template_make(&f->spec, (unsigned)f->depth, copy, &f->template, &why);
	return e ? bench_fail(err, e, "the template of the clones: %.200s", why.text) : 0;
}

/* ---- the document ---- */

static json_t *parameters_json(const void *state)
{
	const struct faults *f = state;
	bool trace = f->order.pattern.kind == PATTERN_TRACE;

	return json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:I, s:b, s:I, s:I}", "pattern",
	                 f->pattern, "access", trace ? "trace" : f->access, "memory", f->memory,
	                 "size", (json_int_t)f->size, "touches", (json_int_t)f->touches->touches,
	                 "page_size", page_words[f->page_size].word, "faults",
	                 cli_fault_words[f->faults].word, "vcpus", (json_int_t)f->cpus, "latency",
	                 !f->no_latency, "repeat", (json_int_t)f->run.repeat, "seed",
	                 (json_int_t)f->order.seed);
}

/* A row that is named for huge pages and got none says more of the host than of them. */
static int warn_of_huge(const struct faults *f, const struct faults_row *r)
{
	if (!r->kind->huge || sample_spread(&r->huge_bytes).median > 0)
		return 0;
	return report_warn(f->run.doc,
	                   "%s: the host gave no huge page (transparent huge pages: %s); the row "
	                   "shows 4 KiB pages",
	                   r->kind->name, f->run.host.thp);
}

/* A guest that waits for nobody, and yet does not run all the time, shares its CPU. */
static int warn_of_neighbours(const struct faults *f, const struct faults_row *r)
{
	double share = sample_spread(&r->off_cpu).median;

	if (share <= OFF_CPU_TOO_LONG || sample_spread(&r->events).median > 0)
		return 0;
	return report_warn(f->run.doc,
	                   "%s: the guest had no CPU for %.0f %% of the walk; other programs' time "
	                   "is in this figure, and in all others",
	                   r->kind->name, share * 100);
}

/* The times of single touches must add up to the walk, else one of the two clocks is wrong. */
static int warn_of_accounts(const struct faults *f, const struct faults_row *r)
{
	double share = sample_spread(&r->accounted).median;

	if (f->cpus > 1 || (share > 1 - ACCOUNTED_SLIP && share < 1 + ACCOUNTED_SLIP))
		return 0;
	return report_warn(f->run.doc,
	                   "%s: the times of all touches add up to %.0f %% of the walk; something "
	                   "came in between, and latency does not show it",
	                   r->kind->name, share * 100);
}

static int finish(void *state)
{
	struct faults *f = state;
	int e = 0;

	for (unsigned i = 0; e == 0 && i < f->row_count; i++) {
		const struct faults_row *r = &f->rows[i];
		json_t *row = faults_row_json(r, f->rows, f->row_count);

		e = row ? report_add_row(f->run.doc, row) : -ENOMEM;
		if (e == 0)
			e = warn_of_huge(f, r);
		if (e == 0)
			e = warn_of_neighbours(f, r);
		if (e == 0)
			e = warn_of_accounts(f, r);
	}
	return e;
}

/* ---- the command ---- */

static void set_defaults(void *state)
{
	struct faults *f = state;

	f->pattern = "seq";
	f->access = "write";
	f->memory = "fresh";
	f->size = DEFAULT_SIZE;
	f->cpus = 1;
	f->order = (struct order_spec){.pattern = {.stride = 1}, .write_percent = 100, .seed = 1};
}

static void fini(void *state)
{
	struct faults *f = state;

	walk_template_fini(&f->template);
	free(f->touches);
}

const struct bench_command bench_faults = {
	.cli = {.options = options,
                .args_doc = "",
                .doc = "Have a guest touch memory page by page, and time every touch; beside it "
                       "the same guest on memory as other VMMs have it."
                       "\vRows: auto, kernel, uffd are cowslip's own memory by fault path. "
                       "kernel-4k is anonymous memory, kernel-thp with huge pages, private-4k a "
                       "private mapping of an image's file in memory, uffd-4k one UFFDIO_COPY per "
                       "page, populate filled beforehand. On fresh memory there is no private-4k; "
                       "on clones, baselines are those that can hold an image's bytes.\n\n"
                       "Exit status: 0; 125 when it cannot be measured.",
                .option = take_option},
	.name = "faults",
	.guest = "memwalk.elf",
	.size = sizeof(struct faults),
	.defaults = set_defaults,
	.prepare = prepare,
	.memory = memory_needed,
	.check = check_cpus,
	.parameters = parameters_json,
	.baseline = main_baseline,
	.set_up = set_up,
	.round = run_round,
	.finish = finish,
	.fini = fini,
};
