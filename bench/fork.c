// SPDX-License-Identifier: MIT
/*
 * bench/fork.c - `cowslip bench fork`: for how long a running guest stands still to be forked, and
 * how soon its child runs.
 *
 * The guest (stamp) has written all of its memory and goes on writing to it, a page after the
 * other, for as long as it lives. It is forked as `cowslip ctl fork` does it (vmm/ctl_herd.h):
 * stopped, remapped, on again; then the child is made. Rows, each of many forks:
 *
 *     stop and go        the guest is stopped and goes on, nothing else: the floor
 *     first fork         the pause of a guest that was never forked: all frames are its own
 *     first child        from the request until its child was about to run
 *     next fork          the pause of one that was forked --every milliseconds before, and has
 *                        written since, each first time into a private copy
 *     next child         from the request until its child was about to run
 *     first fork, 4k     as above, of a guest on frames of 4 KiB
 *
 * A pause is from the request to stop the guest until it went on, the longest one where a fork
 * takes several; while its vCPU is on its way out the guest still runs, so the guest feels less.
 * The child is stopped before the next request, and has done nothing but write as its parent did.
 * --rate bounds how many pages a second they write.
 *
 * Concurrency: one thread, and those of the herd that is measured.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "arch/arch.h"
#include "bench/driver.h"
#include "bench/guest_run.h"
#include "bench/times.h"
#include "vmm/console.h"
#include "vmm/ctl_herd.h"

#define DEFAULT_SIZE  (UINT64_C(1) << 30)
#define DEFAULT_COUNT 2u
#define DEFAULT_FORKS 8u
#define DEFAULT_EVERY 20u /* ms */
#define MOST_COUNT    1000u
#define MOST_FORKS    100000u
#define MOST_EVERY    60000u
#define MOST_RATE     10000000u
#define STOPS         8u /* of each source */
#define GUEST_OWN     (UINT64_C(8) << 20)
#define OWN_MEMORY    (UINT64_C(128) << 20)
#define FORK_MS       500u                  /* what a fork may take besides, on a busy host */
#define WRITTEN_MS    (UINT64_C(256) << 10) /* bytes copied in a millisecond, at most */

enum row {
	ROW_STOP,
	ROW_FIRST,
	ROW_FIRST_CHILD,
	ROW_NEXT,
	ROW_NEXT_CHILD,
	ROW_SMALL,
	ROWS,
};

static const char *const row_names[ROWS] = {
	[ROW_STOP] = "stop and go",        [ROW_FIRST] = "first fork",
	[ROW_FIRST_CHILD] = "first child", [ROW_NEXT] = "next fork",
	[ROW_NEXT_CHILD] = "next child",   [ROW_SMALL] = "first fork, 4k",
};

struct fork_bench {
	struct bench_run run;

	/* As asked for. */
	uint64_t size, count, forks, every_ms, rate;
	bool no_small;

	/* As it goes. */
	char args[96];
	struct pool *pool;
	struct times rows[ROWS];
};

/* ---- a guest to be forked, and its children ---- */

struct source {
	struct herd *herd;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool ready, failed;    /* lock */
	char why[VM_TEXT_MAX]; /* lock; of the first that failed */
};

static void note_failure(struct source *s, const char *why)
{
	pthread_mutex_lock(&s->lock);
	if (!s->failed)
		snprintf(s->why, sizeof(s->why), "%s", why);
	s->failed = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

static bool on_ready(void *ctx, struct vm *vm)
{
	struct source *s = ctx;

	(void)vm;
	pthread_mutex_lock(&s->lock);
	s->ready = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	return true;
}

/* It never ends by itself. */
static bool on_ended(void *ctx, struct vm *vm, const struct vm_report *r)
{
	char why[VM_TEXT_MAX];

	(void)vm;
	if (r->event == VM_EXITED && r->code == 0)
		return false;
	snprintf(why, sizeof(why), "the guest ended early, with %d: %.500s", r->code, r->text);
	note_failure(ctx, why);
	return false;
}

static void on_failed(void *ctx, uint64_t number, int error, const char *why)
{
	(void)number;
	(void)error;
	note_failure(ctx, why);
}

static void *run_source(void *arg)
{
	struct source *s = arg;

	herd_run(s->herd);
	return NULL;
}

static uint64_t ram_bytes(const struct fork_bench *b)
{
	return align_up(b->size, MM_BLOCK_SIZE) + GUEST_OWN;
}

static int boot(struct fork_bench *b, bool small, struct source *s, struct vm_error *err)
{
	const struct family_hooks hooks = {
		.ctx = s, .ready = on_ready, .ended = on_ended, .failed = on_failed};
	const struct family_config c = {
		.vm = {.kvm = &b->run.kvm,
	               .pool = b->pool,
	               .ram_bytes = ram_bytes(b),
	               .cpus = 1,
	               .page_size = small ? PAGE_SIZE_4K : PAGE_SIZE_AUTO},
		.first_child = 1,
		.hooks = &hooks,
	};
	int e = herd_create(&c, &s->herd, err);

	if (e == 0)
		e = vm_boot_elf(herd_root(s->herd), b->run.program, b->args, err);
	if (e == 0) {
		e = -pthread_create(&s->thread, NULL, run_source, s);
		if (e)
			bench_fail(err, e, "a thread for the guest: %s", strerror(-e));
	}
	if (e)
		herd_destroy(s->herd);
	return e;
}

/* It has written all its memory. Return: 0; -ECHILD when it never came so far. */
static int wait_ready(struct source *s, struct vm_error *err)
{
	int e = 0;

	pthread_mutex_lock(&s->lock);
	while (!s->ready && !s->failed)
		pthread_cond_wait(&s->changed, &s->lock);
	if (s->failed)
		e = bench_fail(err, -ECHILD, "%s", s->why);
	pthread_mutex_unlock(&s->lock);
	return e;
}

/* Return: `e`; else -ECHILD when a guest has failed meanwhile. */
static int end_source(struct source *s, int e, struct vm_error *err)
{
	struct herd_touched *touched = calloc(HERD_MOST, sizeof(*touched));
	struct vm_error ignored;
	size_t count;

	/* Then it ends with the process: the run has failed. */
	if (!touched)
		return bench_fail(err, -ENOMEM, "out of memory");
	(void)herd_stop(s->herd, HERD_ALL, touched, &count, &ignored);
	free(touched);
	pthread_join(s->thread, NULL);
	herd_destroy(s->herd);
	return e || !s->failed ? e : bench_fail(err, -ECHILD, "%s", s->why);
}

/* Its own, and what it and a child write of it between two forks: all of it at most. */
static uint64_t memory_needed(const void *state)
{
	const struct fork_bench *b = state;
	uint64_t ram = ram_bytes(b), copies = (b->every_ms + FORK_MS) * WRITTEN_MS;

	return ram + 2 * min_u64(ram, copies) + OWN_MEMORY;
}

/* ---- measuring ---- */

static int nothing(void *ctx, struct vm *vm, struct vm_error *err)
{
	(void)ctx;
	(void)vm;
	(void)err;
	return 0;
}

static int time_stops(struct fork_bench *b, struct source *s, struct vm_error *err)
{
	int e = 0;

	for (unsigned i = 0; e == 0 && i < STOPS; i++) {
		uint64_t pause_ns;

		e = herd_do(s->herd, 0, nothing, NULL, &pause_ns, err);
		if (e == 0)
			e = times_add(&b->rows[ROW_STOP], pause_ns);
	}
	return e;
}

/* One fork; the child's row is behind its parent's. */
static int time_fork(struct fork_bench *b, struct source *s, enum row row, bool child_too,
                     struct vm_error *err)
{
	struct herd_touched touched[1];
	struct herd_child child;
	size_t count;
	int e = herd_fork(s->herd, 0, &child, err);

	if (e == 0)
		e = times_add(&b->rows[row], child.pause.longest_ns);
	if (e == 0 && child_too)
		e = times_add(&b->rows[row + 1], child.start_ns);
	return e ? e : herd_stop(s->herd, child.id, touched, &count, err);
}

static int time_next_forks(struct fork_bench *b, struct source *s, struct vm_error *err)
{
	const struct timespec gap = {(time_t)(b->every_ms / 1000),
	                             (long)(b->every_ms % 1000 * 1000000)};
	int e = 0;

	for (uint64_t i = 0; e == 0 && i < b->forks; i++) {
		nanosleep(&gap, NULL);
		e = time_fork(b, s, ROW_NEXT, true, err);
	}
	return e;
}

static int time_source(struct fork_bench *b, bool small, struct vm_error *err)
{
	struct source s = {0};
	int e;

	/* What lies free for seconds goes back to where a virtual host has it from. */
	(void)host_warm(memory_needed(b));
	pthread_mutex_init(&s.lock, NULL);
	pthread_cond_init(&s.changed, NULL);
	e = boot(b, small, &s, err);
	if (e == 0) {
		e = wait_ready(&s, err);
		if (e == 0 && !small)
			e = time_stops(b, &s, err);
		if (e == 0)
			e = time_fork(b, &s, small ? ROW_SMALL : ROW_FIRST, !small, err);
		if (e == 0 && !small)
			e = time_next_forks(b, &s, err);
		e = end_source(&s, e, err);
	}
	pthread_cond_destroy(&s.changed);
	pthread_mutex_destroy(&s.lock);
	return e;
}

static int run_round(void *state, unsigned round, struct vm_error *err)
{
	struct fork_bench *b = state;
	int e = 0;

	bench_step(&b->run, "2 MiB frames");
	for (uint64_t i = 0; e == 0 && i < b->count; i++)
		e = time_source(b, false, err);
	if (e == 0 && !b->no_small) {
		bench_step(&b->run, "4 KiB frames");
		e = time_source(b, true, err);
	}
	for (unsigned i = 0; e == 0 && i < ROWS; i++)
		e = times_end_repeat(&b->rows[i], round > 0);
	return e;
}

/* ---- options ---- */

enum key {
	KEY_COUNT = 'n',
	KEY_SIZE = BENCH_KEY_OWN,
	KEY_FORKS,
	KEY_EVERY,
	KEY_RATE,
	KEY_NO_SMALL,
};

static const struct argp_option options[] = {
	{"size", KEY_SIZE, "SIZE", 0, "Memory that the guest has written, and goes on writing (1G)",
         1},
	{"rate", KEY_RATE, "PAGES", 0, "How many pages a second it writes (as many as it can)", 1},
	{"every", KEY_EVERY, "MS", 0, "Milliseconds between the forks of one guest (20)", 2},
	{"forks", KEY_FORKS, "COUNT", 0, "Further forks of each guest, after its first (8)", 3},
	{"count", KEY_COUNT, "COUNT", 0, "Guests that are booted and forked in a repeat (2)", 3},
	{"no-small", KEY_NO_SMALL, NULL, 0, "Leave out the guest on frames of 4 KiB", 3},
	BENCH_COMMON_OPTIONS,
	CLI_COMMON_OPTIONS,
};

static int take_option(void *to, int key, const char *arg)
{
	struct fork_bench *b = to;

	switch ((enum key)key) {
	case KEY_COUNT:
		return cli_count("-n", arg, 1, MOST_COUNT, &b->count);
	case KEY_SIZE:
		return cli_size("--size", arg, &b->size);
	case KEY_FORKS:
		return cli_count("--forks", arg, 1, MOST_FORKS, &b->forks);
	case KEY_EVERY:
		return cli_count("--every", arg, 0, MOST_EVERY, &b->every_ms);
	case KEY_RATE:
		return cli_count("--rate", arg, 1, MOST_RATE, &b->rate);
	case KEY_NO_SMALL:
		b->no_small = true;
		return 0;
	}
	return -EINVAL;
}

/* ---- the document ---- */

static json_t *parameters_json(const void *state)
{
	const struct fork_bench *b = state;

	return json_pack("{s:I, s:o, s:I, s:I, s:I, s:b, s:I}", "size", (json_int_t)b->size, "rate",
	                 b->rate ? json_integer((json_int_t)b->rate) : json_null(), "every",
	                 (json_int_t)b->every_ms, "forks", (json_int_t)b->forks, "count",
	                 (json_int_t)b->count, "no_small", b->no_small, "repeat",
	                 (json_int_t)b->run.repeat);
}

static int add_row(struct fork_bench *b, enum row i)
{
	json_t *row = json_pack("{s:s}", "name", row_names[i]);
	int e = row ? times_set(&b->rows[i], row) : -ENOMEM;

	if (e == 0)
		return report_add_row(b->run.doc, row);
	json_decref(row);
	return e;
}

static int finish(void *state)
{
	struct fork_bench *b = state;
	int e = 0;

	for (unsigned i = 0; e == 0 && i < ROWS; i++)
		if (i != ROW_SMALL || !b->no_small)
			e = add_row(b, (enum row)i);
	return e;
}

/* ---- the command ---- */

static int prepare(void *state)
{
	struct ram_region ram[ARCH_MAX_RAM_REGIONS];
	struct fork_bench *b = state;
	int e = bench_check_size(&b->run, b->size);

	if (e)
		return e;
	if (b->size > arch_info.max_ram / 2 ||
	    arch_ram_layout(ram_bytes(b), PAGE_SIZE_AUTO, ram) < 0) {
		cli_error("%s: too large; %s has no guest with so much RAM", b->run.what,
		          arch_info.name);
		return -EFBIG;
	}
	b->run.steps = b->no_small ? 1 : 2;
	snprintf(b->args, sizeof(b->args), "size=%" PRIu64 " rate=%" PRIu64 " rounds=0 verify=0",
	         b->size, b->rate);
	return 0;
}

static int set_up(void *state, struct vm_error *err)
{
	struct fork_bench *b = state;

	return bench_pool(4 * ram_bytes(b), &b->pool, err);
}

static void tear_down(void *state)
{
	struct fork_bench *b = state;

	for (unsigned i = 0; i < ROWS; i++)
		times_fini(&b->rows[i]);
	pool_put(b->pool);
}

static void set_defaults(void *state)
{
	struct fork_bench *b = state;

	b->size = DEFAULT_SIZE;
	b->count = DEFAULT_COUNT;
	b->forks = DEFAULT_FORKS;
	b->every_ms = DEFAULT_EVERY;
}

const struct bench_command bench_fork = {
	.cli = {.options = options,
                .args_doc = "",
                .doc = "Fork a guest that runs and writes: how long it stands still, and how soon "
                       "its child runs.\vExit status: 0; 125 when it cannot be measured.",
                .option = take_option},
	.name = "fork",
	.guest = "stamp.elf",
	.size = sizeof(struct fork_bench),
	.defaults = set_defaults,
	.prepare = prepare,
	.memory = memory_needed,
	.parameters = parameters_json,
	.set_up = set_up,
	.round = run_round,
	.finish = finish,
	.fini = tear_down,
};
