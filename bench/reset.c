// SPDX-License-Identifier: MIT
/*
 * bench/reset.c - `cowslip bench reset`: what it takes a clone to go back to its image.
 *
 *     memcpy              the same pages, copied from the image to pages of anonymous memory that
 *                         lie as scattered: what a reset cannot do without
 *     memory              space_reset(): they are found and put right
 *     memory RAM x 16     the same in a guest with 16 times the RAM, nothing in it
 *     machine             vm_reset(): memory, vCPU, devices, a fresh identity. The next clone could
 *                         run
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
#include "bench/driver.h"
#include "bench/guest_run.h"
#include "bench/times.h"
#include "guest/memwalk.h"
#include "vmm/console.h"

#define DEFAULT_SIZE  (UINT64_C(256) << 20)
#define DEFAULT_DIRTY 176u
#define DEFAULT_COUNT 200u
#define MOST_DIRTY    16384u
#define MOST_COUNT    100000u
#define BIG           16u /* times the RAM */
#define QUARTERS_MOST 8u  /* of --dirty, in the row with most */
#define TIMEOUT_NS    UINT64_C(600000000000)
#define POOL_SPARE    (UINT64_C(64) << 20)
#define OWN_MEMORY    (UINT64_C(64) << 20)
#define SEED          UINT64_C(0x9e3779b97f4a7c15)

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
	struct times times;
};

struct reset_bench {
	struct bench_run run;

	/* As asked for. */
	uint64_t size, dirty, count;

	/* As it goes. */
	char args[64];
	struct pool *pool;
	struct image *images[2]; /* [1]: BIG */
	gpa_t *pages[2];         /* to be written, in the order of a random choice */
	size_t page_count;
	uint8_t *copy; /* where memcpy copies to */
	struct row rows[ROWS];
	struct sample fixed, per_page, r2;
};

/* ---- options ---- */

enum key {
	KEY_COUNT = 'n',
	KEY_SIZE = BENCH_KEY_OWN,
	KEY_DIRTY,
};

static const struct argp_option options[] = {
	{"size", KEY_SIZE, "SIZE", 0, "Memory that the image has data in (256M)", 1},
	{"dirty", KEY_DIRTY, "PAGES", 0, "Pages that are written before each reset (176)", 1},
	{"count", KEY_COUNT, "COUNT", 0, "Resets of each kind in a repeat (200)", 3},
	BENCH_DIR_OPTION,
	BENCH_COMMON_OPTIONS,
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
	}
	return -EINVAL;
}

/* ---- images and clones ---- */

static uint64_t ram_bytes(const struct reset_bench *b, bool big)
{
	uint64_t ram = memwalk_ram(b->size, 1, 1);

	return big ? BIG * ram : ram;
}

static int make_image(struct reset_bench *b, bool big, struct vm_error *err)
{
	const struct guest_chain chain = {
		.vm = {.kvm = &b->run.kvm,
	               .pool = b->pool,
	               .ram_bytes = ram_bytes(b, big),
	               .cpus = 1},
		.program = b->run.program,
		.args = b->args,
		.depth = 1,
		.timeout_ns = TIMEOUT_NS,
	};
	struct image *image;
	int e = guest_chain_make(&chain, &image, err);

	if (e)
		return e;
	e = bench_through_file(&b->run, image, &b->images[big], err);
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

static int make_clone(struct reset_bench *b, size_t i, struct vm_error *err)
{
	const struct row_spec *spec = &specs[i];
	const struct vm_config c = {.kvm = &b->run.kvm,
	                            .pool = b->pool,
	                            .image = b->images[spec->big],
	                            .number = 1 + i};

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

static int by_address(const void *x, const void *y)
{
	const gpa_t *a = x, *c = y;

	return (a->v > c->v) - (a->v < c->v);
}

static int set_up(void *state, struct vm_error *err)
{
	struct reset_bench *b = state;
	int e = bench_pool(ram_bytes(b, false) + ram_bytes(b, true) + POOL_SPARE, &b->pool, err);

	for (int big = 0; e == 0 && big < 2; big++) {
		e = make_image(b, big, err);
		if (e == 0)
			e = choose_pages(b, big, err);
	}
	for (size_t i = 0; e == 0 && i < ROWS; i++)
		e = make_clone(b, i, err);
	/* memcpy's way through memory is the reset's. */
	if (e == 0)
		qsort(b->pages[0], b->rows[BASELINE].dirty, sizeof(gpa_t), by_address);
	return e ? e : make_copy_target(b, err);
}

static void tear_down(void *state)
{
	struct reset_bench *b = state;

	for (size_t i = 0; i < ROWS; i++) {
		vm_destroy(b->rows[i].vm);
		times_fini(&b->rows[i].times);
	}
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
	return e ? e : times_add(&row->times, clock_ns() - start);
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
		y = b->rows[i].times.p50.v[repeat];
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

static int run_round(void *state, unsigned repeat, struct vm_error *err)
{
	struct reset_bench *b = state;
	int e = 0;

	bench_step(&b->run, "resets");
	for (uint64_t round = 0; e == 0 && round < b->count; round++)
		for (size_t k = 0; e == 0 && k < ROWS; k++)
			e = time_row(b, (round + k) % ROWS, round, err);
	for (size_t i = 0; e == 0 && i < ROWS; i++)
		e = times_end_repeat(&b->rows[i].times, repeat > 0);
	return e || repeat == 0 ? e : add_fit(b, repeat - 1);
}

/* ---- the document ---- */

static json_t *parameters_json(const void *state)
{
	const struct reset_bench *b = state;

	return json_pack("{s:I, s:I, s:I, s:I}", "size", (json_int_t)b->size, "dirty",
	                 (json_int_t)b->dirty, "count", (json_int_t)b->count, "repeat",
	                 (json_int_t)b->run.repeat);
}

static const char *baseline(const void *state)
{
	(void)state;
	return specs[BASELINE].name;
}

static int add_row(struct reset_bench *b, size_t i)
{
	struct row *r = &b->rows[i], *base = &b->rows[BASELINE];
	struct spread ratio = sample_ratio(&base->times.p50, &r->times.p50);
	json_t *row =
		json_pack("{s:s, s:I}", "name", specs[i].name, "dirty_pages", (json_int_t)r->dirty);
	int e = row ? times_set(&r->times, row) : -ENOMEM;

	if (e == 0 && r->dirty == base->dirty)
		e = report_set_ratio(row, specs[BASELINE].name, &ratio);
	if (e == 0)
		return report_add_row(b->run.doc, row);
	json_decref(row);
	return e;
}

static int finish(void *state)
{
	struct reset_bench *b = state;
	const struct report_item items[] = {{"fixed_us", &b->fixed, ITEM_FIGURE},
	                                    {"us_per_page", &b->per_page, ITEM_FIGURE},
	                                    {"r2", &b->r2, ITEM_FIGURE}};
	int e = 0;

	for (size_t i = 0; e == 0 && i < ROWS; i++)
		e = add_row(b, i);
	return e ? e : report_set_summary(b->run.doc, items, REPORT_COUNT(items));
}

/* ---- the command ---- */

static int prepare(void *state)
{
	struct reset_bench *b = state;
	struct ram_region ram[ARCH_MAX_RAM_REGIONS];
	int e = bench_check_size(&b->run, b->size);

	if (e)
		return e;
	if (b->size > arch_info.max_ram / BIG ||
	    arch_ram_layout(ram_bytes(b, false), PAGE_SIZE_AUTO, ram) != 1 ||
	    arch_ram_layout(ram_bytes(b, true), PAGE_SIZE_AUTO, ram) < 0) {
		cli_error("%s: too large; %s has no guest with %u times as much RAM", b->run.what,
		          arch_info.name, BIG);
		return -EFBIG;
	}
	snprintf(b->args, sizeof(b->args), "size=%" PRIu64 " verify=0 ready=1", b->size);
	return 0;
}

/* In the pool and in page cache, of both images. */
static uint64_t memory_needed(const void *state)
{
	return 4 * ram_bytes(state, false) + OWN_MEMORY;
}

static void set_defaults(void *state)
{
	struct reset_bench *b = state;

	b->size = DEFAULT_SIZE;
	b->dirty = DEFAULT_DIRTY;
	b->count = DEFAULT_COUNT;
}

const struct bench_command bench_reset = {
	.cli = {.options = options,
                .args_doc = "",
                .doc = "Send a clone back to its image after it has written some pages, beside a "
                       "plain copy of these pages.\vExit status: 0; 125 when it cannot be "
                       "measured.",
                .option = take_option},
	.name = "reset",
	.guest = "memwalk.elf",
	.size = sizeof(struct reset_bench),
	.defaults = set_defaults,
	.prepare = prepare,
	.memory = memory_needed,
	.parameters = parameters_json,
	.baseline = baseline,
	.set_up = set_up,
	.round = run_round,
	.finish = finish,
	.fini = tear_down,
};
