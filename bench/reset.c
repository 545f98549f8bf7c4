// SPDX-License-Identifier: MIT
/*
 * bench/reset.c - `cowslip bench reset`: what it takes a clone to go back to its image.
 *
 *     memcpy              the same pages, copied from the image to pages of anonymous memory that
 *                         lie as scattered: what a reset cannot do without
 *     memory              space_reset(): they are found and put right
 *     memory RAM x 16     the same in a guest with 16 times the RAM, nothing in it
 *     machine             vm_reset(): memory, vCPU, devices, a fresh identity. A clone could run
 *     memory x 1/4 ...    other numbers of dirty pages, for the fit
 *
 * The image is a file, as for `cowslip clone`. The dirty pages are the same each time, spread at
 * random over what the guest has written, as a guest that does the same work again has them. Each
 * row but memcpy has a clone of its own. In every round each row has its turn, and another one
 * begins; its pages are written, then its clock starts.
 *
 * The fit is the line through the rows "memory": us = fixed_us + us_per_page * pages, by least
 * squares over one repeat's medians; r2 is the share of their variation that the line explains.
 *
 * Concurrency: one thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arch/arch.h"
#include "bench/commands.h"
#include "bench/guest_run.h"
#include "bench/options.h"
#include "bench/progress.h"
#include "bench/report.h"
#include "guest/memwalk.h"
#include "vmm/console.h"
#include "vmm/cowslip.h"
#include "vmm/series.h"

#define DEFAULT_SIZE   (UINT64_C(256) << 20)
#define DEFAULT_DIRTY  176u
#define DEFAULT_COUNT  200u
#define DEFAULT_REPEAT 5u
#define MOST_DIRTY     16384u
#define MOST_COUNT     100000u
#define BIG            16u /* times the RAM */
#define QUARTERS_MOST  8u  /* of --dirty, in the row with most */
#define TIMEOUT_NS     UINT64_C(600000000000)
#define POOL_SPARE     (UINT64_C(64) << 20)
#define OWN_MEMORY     (UINT64_C(64) << 20)
#define SEED           UINT64_C(0x9e3779b97f4a7c15)

enum operation { OP_COPY, OP_MEMORY, OP_MACHINE };

static const struct row_spec {
	const char *name;
	enum operation op;
	unsigned quarters; /* of --dirty */
	bool big;
	bool fits; /* a point of the fit */
} specs[] = {
	{"memcpy", OP_COPY, 4, false, false},
	{"memory", OP_MEMORY, 4, false, true},
	{"memory RAM x 16", OP_MEMORY, 4, true, false},
	{"machine", OP_MACHINE, 4, false, false},
	{"memory x 1/4", OP_MEMORY, 1, false, true},
	{"memory x 1/2", OP_MEMORY, 2, false, true},
	{"memory x 2", OP_MEMORY, QUARTERS_MOST, false, true},
};
#define ROWS     (sizeof(specs) / sizeof(specs[0]))
#define BASELINE 0u

struct row {
	struct vm *vm;
	size_t dirty;
	struct series times; /* ns, of one repeat */
	struct sample p50, p90, p99, max;
	uint64_t count;
};

struct reset_bench {
	/* As asked for. */
	uint64_t size, dirty, count, repeat;
	const char *dir;
	struct bench_output output;

	/* As it goes. */
	struct kvm kvm;
	struct host host;
	char program[4096], args[64];
	struct pool *pool;
	struct image *images[2]; /* [1]: BIG */
	gpa_t *pages[2];         /* to be written, in the order of a random choice */
	size_t page_count;
	uint8_t *copy; /* where memcpy copies to */
	struct row rows[ROWS];
	struct sample fixed, per_page, r2;
	json_t *doc;
};

/* ---- options ---- */

enum key {
	KEY_COUNT = 'n',
	KEY_SIZE = BENCH_KEY_OWN,
	KEY_DIRTY,
	KEY_REPEAT,
	KEY_DIR,
};

static const struct argp_option options[] = {
	{"size", KEY_SIZE, "SIZE", 0, "Memory that the image has data in (256M)", 1},
	{"dirty", KEY_DIRTY, "PAGES", 0, "Pages that are written before each reset (176)", 1},
	{"count", KEY_COUNT, "COUNT", 0, "Resets of each kind in a repeat (200)", 3},
	{"repeat", KEY_REPEAT, "N", 0, "How many times (5)", 3},
	{"dir", KEY_DIR, "DIR", 0, "Where the images are kept meanwhile (the working directory)",
         3},
	BENCH_OUTPUT_OPTIONS,
	CLI_COMMON_OPTIONS,
};

static int take_option(void *to, int key, const char *arg)
{
	struct reset_bench *b = to;

	switch ((enum key)key) {
	case KEY_COUNT:
		return cli_count("-n", arg, 1, MOST_COUNT, &b->count);
	case KEY_SIZE:
		return cli_size("--size", arg, &b->size);
	case KEY_DIRTY:
		return cli_count("--dirty", arg, 4, MOST_DIRTY, &b->dirty);
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
	cli_error("%s: bench reset takes no argument; everything is an option", arg);
	return -EINVAL;
}

static const struct cli_command command = {
	.options = options,
	.args_doc = "",
	.doc = "Send a clone back to its image after it has written some pages, beside a plain "
	       "copy of these pages.\vExit status: 0; 125 when it cannot be measured.",
	.option = take_option,
	.argument = take_argument,
};

/* ---- images and clones ---- */

static uint64_t ram_bytes(const struct reset_bench *b, bool big)
{
	uint64_t ram = memwalk_ram(b->size, 1, 1);

	return big ? BIG * ram : ram;
}

static int reopen(struct reset_bench *b, const struct image *image, struct image **out,
                  struct vm_error *err)
{
	struct snapshot_error why;
	char path[4096];
	int e;

	snprintf(path, sizeof(path), "%s/cowslip-bench-%d.cow", b->dir, (int)getpid());
	e = snapshot_save(image, arch_info.isa, 1, path, &why);
	if (e == 0)
		e = snapshot_open(path, arch_info.isa, out, NULL, &why);
	(void)unlink(path);
	return e ? bench_fail(err, e, "%s", why.text) : 0;
}

static int make_image(struct reset_bench *b, bool big, struct vm_error *err)
{
	const struct guest_chain chain = {
		.vm = {.kvm = &b->kvm, .pool = b->pool, .ram_bytes = ram_bytes(b, big), .cpus = 1},
		.program = b->program,
		.args = b->args,
		.depth = 1,
		.timeout_ns = TIMEOUT_NS,
	};
	struct image *image;
	int e = guest_chain_make(&chain, &image, err);

	if (e)
		return e;
	e = reopen(b, image, &b->images[big], err);
	image_put(image);
	return e;
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Every page with data, in random order. The guest's own and its tables are not among them. */
static int choose_pages(struct reset_bench *b, bool big, struct vm_error *err)
{
	const struct image *image = b->images[big];
	uint64_t room = image_pages(image), state = SEED;
	size_t count, n = 0;
	const struct extent *e = image_extents(image, &count);
	gpa_t *pages = calloc(room, sizeof(*pages));

	if (!pages)
		return bench_fail(err, -ENOMEM, "no memory for a list of pages");
	b->pages[big] = pages;
	for (size_t i = 0; i < count; i++)
		for (uint64_t k = 0; k < e[i].pages; k++)
			if (e[i].gpa.v + (k << MM_PAGE_SHIFT) >= 2 * MM_BLOCK_SIZE)
				pages[n++] = (gpa_t){e[i].gpa.v + (k << MM_PAGE_SHIFT)};
	b->page_count = n;
	if (n < b->dirty * QUARTERS_MOST / 4)
		return bench_fail(err, -EINVAL,
		                  "--dirty %" PRIu64 ": twice as many are more than "
		                  "the %zu pages of --size %" PRIu64 "M",
		                  b->dirty, n, b->size >> 20);
	for (size_t i = 0; i < n; i++) {
		size_t k = i + next_random(&state) % (n - i);
		gpa_t t = pages[i];

		pages[i] = pages[k];
		pages[k] = t;
	}
	return 0;
}

static int by_address(const void *x, const void *y)
{
	const gpa_t *a = x, *c = y;

	return (a->v > c->v) - (a->v < c->v);
}

static int make_clone(struct reset_bench *b, size_t i, struct vm_error *err)
{
	const struct row_spec *spec = &specs[i];
	const struct vm_config c = {
		.kvm = &b->kvm, .pool = b->pool, .image = b->images[spec->big], .number = 1 + i};

	b->rows[i].dirty = b->dirty * spec->quarters / 4;
	return vm_create(&c, &b->rows[i].vm, err);
}

static int make_copy_target(struct reset_bench *b, struct vm_error *err)
{
	uint64_t bytes = ram_bytes(b, false);

	b->copy = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (b->copy == MAP_FAILED) {
		b->copy = NULL;
		return bench_fail(err, -errno, "memory to copy to: %s", strerror(errno));
	}
	(void)madvise(b->copy, bytes, MADV_NOHUGEPAGE);
	return 0;
}

static int set_up(struct reset_bench *b, struct vm_error *err)
{
	uint64_t bytes = ram_bytes(b, false) + ram_bytes(b, true) + POOL_SPARE;
	int e = pool_create(bytes, &b->pool);

	if (e)
		return bench_fail(err, e, "a pool of %" PRIu64 " MiB: %s", bytes >> 20,
		                  strerror(-e));
	for (int big = 0; e == 0 && big < 2; big++) {
		e = make_image(b, big, err);
		if (e == 0)
			e = choose_pages(b, big, err);
	}
	for (size_t i = 0; e == 0 && i < ROWS; i++)
		e = make_clone(b, i, err);
	return e ? e : make_copy_target(b, err);
}

static void tear_down(struct reset_bench *b)
{
	for (size_t i = 0; i < ROWS; i++)
		vm_destroy(b->rows[i].vm);
	for (int big = 0; big < 2; big++) {
		image_put(b->images[big]);
		free(b->pages[big]);
	}
	if (b->copy)
		munmap(b->copy, ram_bytes(b, false));
	pool_put(b->pool);
}

/* ---- measuring ---- */

static int write_pages(const struct reset_bench *b, size_t i, uint64_t value)
{
	const gpa_t *pages = b->pages[specs[i].big];
	int e = 0;

	for (size_t k = 0; e == 0 && k < b->rows[i].dirty; k++)
		e = space_write(vm_space(b->rows[i].vm), pages[k], &value, sizeof(value));
	return e;
}

/* In the order of addresses, as a reset does. The clone of this row is never written to. */
static void copy_pages(const struct reset_bench *b, size_t i)
{
	const struct space *s = vm_space(b->rows[i].vm);

	for (size_t k = 0; k < b->rows[i].dirty; k++) {
		gpa_t at = b->pages[0][k];

		memcpy(b->copy + at.v, (const void *)space_hva(s, at).v, MM_PAGE_SIZE);
	}
}

static int time_row(struct reset_bench *b, size_t i, uint64_t round, struct vm_error *err)
{
	struct row *row = &b->rows[i];
	uint64_t start;
	int e = specs[i].op == OP_COPY ? 0 : write_pages(b, i, round + 1);

	if (e)
		return bench_fail(err, e, "writing to a clone: %s", strerror(-e));
	start = clock_ns();
	switch (specs[i].op) {
	case OP_COPY:
		copy_pages(b, i);
		break;
	case OP_MEMORY:
		e = space_reset(vm_space(row->vm));
		if (e)
			bench_fail(err, e, "reset of memory: %s", strerror(-e));
		break;
	case OP_MACHINE:
		e = vm_reset(row->vm, round + 1, NULL, err);
		break;
	}
	return e ? e : series_add(&row->times, clock_ns() - start);
}

/* Of one repeat, in microseconds. */
static int add_figures(struct row *row)
{
	struct series *t = &row->times;
	int e;

	series_sort(t);
	row->count += t->count;
	e = sample_add(&row->p50, (double)series_rank(t, 50) / 1e3);
	if (e == 0)
		e = sample_add(&row->p90, (double)series_rank(t, 90) / 1e3);
	if (e == 0)
		e = sample_add(&row->p99, (double)series_rank(t, 99) / 1e3);
	return e ? e : sample_add(&row->max, (double)series_rank(t, 100) / 1e3);
}

/* The line through this repeat's medians of the rows that take part. */
static int add_fit(struct reset_bench *b, unsigned repeat)
{
	double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0, syy = 0, slope, vx, vy, cov;
	int e;

	for (size_t i = 0; i < ROWS; i++) {
		double x = (double)b->rows[i].dirty, y;

		if (!specs[i].fits)
			continue;
		y = b->rows[i].p50.v[repeat];
		n++;
		sx += x;
		sy += y;
		sxx += x * x;
		sxy += x * y;
		syy += y * y;
	}
	vx = sxx - sx * sx / n;
	vy = syy - sy * sy / n;
	cov = sxy - sx * sy / n;
	slope = cov / vx;
	e = sample_add(&b->per_page, slope);
	if (e == 0)
		e = sample_add(&b->fixed, (sy - slope * sx) / n);
	return e ? e : sample_add(&b->r2, vy > 0 ? cov * cov / (vx * vy) : 1);
}

/* `repeat` counts from 0; a round that only warms up does not count. */
static int run_repeat(struct reset_bench *b, bool counts, unsigned repeat, struct vm_error *err)
{
	int e = 0;

	for (uint64_t round = 0; e == 0 && round < b->count; round++)
		for (size_t k = 0; e == 0 && k < ROWS; k++)
			e = time_row(b, (round + k) % ROWS, round, err);
	for (size_t i = 0; e == 0 && counts && i < ROWS; i++)
		e = add_figures(&b->rows[i]);
	if (e == 0 && counts)
		e = add_fit(b, repeat);
	for (size_t i = 0; i < ROWS; i++)
		series_fini(&b->rows[i].times);
	return e;
}

static int run_all(struct reset_bench *b, struct vm_error *err)
{
	struct host_watch watch;
	struct progress progress;
	int e = 0;

	progress_start(&progress, STDERR_FILENO, (unsigned)b->repeat + 1);
	host_watch_start(&watch);
	for (unsigned i = 0; e == 0 && i <= b->repeat; i++) {
		progress_step(&progress, i, "resets");
		e = run_repeat(b, i > 0, i - 1, err);
	}
	progress_end(&progress);
	if (e == 0)
		host_watch_end(&watch, report_say, b->doc);
	return e;
}

/* memcpy's way through memory is the reset's. */
static void sort_pages(struct reset_bench *b)
{
	qsort(b->pages[0], b->rows[BASELINE].dirty, sizeof(gpa_t), by_address);
}

static int measure(struct reset_bench *b)
{
	struct vm_error err = {.text = "its figures make no sense"};
	int e = set_up(b, &err);

	if (e == 0) {
		sort_pages(b);
		e = run_all(b, &err);
	}
	if (e)
		cli_error("bench reset: %s", err.text);
	tear_down(b);
	return e;
}

/* ---- the document ---- */

static json_t *parameters_json(const struct reset_bench *b)
{
	return json_pack("{s:I, s:I, s:I, s:I}", "size", (json_int_t)b->size, "dirty",
	                 (json_int_t)b->dirty, "count", (json_int_t)b->count, "repeat",
	                 (json_int_t)b->repeat);
}

static int set_median(json_t *row, const char *key, const struct sample *s)
{
	return bench_set(row, key, json_real(sample_spread(s).median));
}

static int add_row(const struct reset_bench *b, size_t i)
{
	const struct row *r = &b->rows[i];
	struct spread p50 = sample_spread(&r->p50);
	struct spread ratio = sample_ratio(&b->rows[BASELINE].p50, &r->p50);
	json_t *row = json_pack("{s:s, s:I, s:I}", "name", specs[i].name, "dirty_pages",
	                        (json_int_t)r->dirty, "count", (json_int_t)r->count);
	int e = row ? report_set_figure(row, "us_p50", &p50) : -ENOMEM;

	if (e == 0)
		e = set_median(row, "us_p90", &r->p90);
	if (e == 0)
		e = set_median(row, "us_p99", &r->p99);
	if (e == 0)
		e = set_median(row, "us_max", &r->max);
	if (e == 0 && r->dirty == b->rows[BASELINE].dirty)
		e = report_set_ratio(row, specs[BASELINE].name, &ratio);
	if (e == 0)
		return report_add_row(b->doc, row);
	json_decref(row);
	return e;
}

static int finish(const struct reset_bench *b)
{
	const struct spread fixed = sample_spread(&b->fixed), r2 = sample_spread(&b->r2),
			    per_page = sample_spread(&b->per_page);
	json_t *summary = json_object();
	int e = 0;

	for (size_t i = 0; e == 0 && i < ROWS; i++)
		e = add_row(b, i);
	if (e == 0)
		e = summary ? report_set_figure(summary, "fixed_us", &fixed) : -ENOMEM;
	if (e == 0)
		e = report_set_figure(summary, "us_per_page", &per_page);
	if (e == 0)
		e = report_set_figure(summary, "r2", &r2);
	if (e == 0)
		return report_set_summary(b->doc, summary);
	json_decref(summary);
	return e;
}

/* ---- the command ---- */

static int check(struct reset_bench *b)
{
	struct ram_region ram[ARCH_MAX_RAM_REGIONS];
	char what[64];
	int e = bench_check_output(&b->output);

	if (e)
		return e;
	if (!is_aligned(b->size, MM_PAGE_SIZE)) {
		cli_error("--size %" PRIu64 ": not a multiple of 4 KiB; give whole pages", b->size);
		return -EINVAL;
	}
	snprintf(what, sizeof(what), "--size %" PRIu64 " MiB", b->size >> 20);
	if (b->size > arch_info.max_ram / BIG ||
	    arch_ram_layout(ram_bytes(b, false), PAGE_SIZE_AUTO, ram) != 1 ||
	    arch_ram_layout(ram_bytes(b, true), PAGE_SIZE_AUTO, ram) < 0) {
		cli_error("%s: too large; %s has no guest with %u times as much RAM", what,
		          arch_info.name, BIG);
		return -EFBIG;
	}
	host_read(&b->host);
	/* In the pool and in page cache, of both images. */
	e = bench_check_memory(&b->host, 4 * ram_bytes(b, false) + OWN_MEMORY, what);
	return e ? e : bench_find_guest(&b->output, "memwalk.elf", b->program, sizeof(b->program));
}

static int run_and_report(struct reset_bench *b)
{
	if (bench_output_open(&b->output, b->doc) || measure(b))
		return CLI_FAILED;
	if (finish(b)) {
		cli_error("no memory for the report");
		return CLI_FAILED;
	}
	return bench_output_put(&b->output, b->doc);
}

static int with_kvm(struct reset_bench *b)
{
	int status = CLI_FAILED;

	if (cli_open_kvm(&b->kvm))
		return CLI_FAILED;
	b->doc = report_new("reset", parameters_json(b), specs[BASELINE].name, &b->host);
	if (b->doc) {
		host_warn(&b->host, report_say, b->doc);
		status = run_and_report(b);
	}
	bench_output_close(&b->output);
	json_decref(b->doc);
	kvm_close(&b->kvm);
	return status;
}

int bench_reset(int argc, char **argv)
{
	struct reset_bench *b = calloc(1, sizeof(*b));
	enum cli_parsed parsed;
	int status = CLI_FAILED;

	if (!b) {
		cli_error("no memory to start");
		return CLI_FAILED;
	}
	b->size = DEFAULT_SIZE;
	b->dirty = DEFAULT_DIRTY;
	b->count = DEFAULT_COUNT;
	b->repeat = DEFAULT_REPEAT;
	b->dir = ".";
	parsed = cli_parse(&command, argc, argv, b);
	if (parsed != CLI_GO)
		status = cli_parsed_status(parsed);
	else if (check(b) == 0) {
		snprintf(b->args, sizeof(b->args), "size=%" PRIu64 " verify=0 ready=1", b->size);
		status = with_kvm(b);
	}
	free(b);
	return status;
}
