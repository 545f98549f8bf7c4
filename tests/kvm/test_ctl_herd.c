// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_ctl_herd.c - VMs that run at once and are forked while they run (vmm/ctl_herd.h).
 *
 * guest/stamp does the looking: it would end with 3 or 4 for a stamp of its own that is missing, or
 * one of another VM's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/kvm/lab.h"
#include "tests/kvm/pace.h"
#include "vmm/ctl_herd.h"

TestSuite(herd, .timeout = 600);

#define POOL_BYTES (1024 * MIB)
#define RAM        (32 * MIB)
#define IDS        512u

struct watched {
	struct lab l;
	struct herd *herd;
	pthread_t runner;
	pthread_mutex_t lock;
	char last[IDS][128]; /* what each VM said last; lock */
	unsigned ended, failed;
	unsigned bad; /* did not exit with 0 */
	char why[VM_TEXT_MAX];
	unsigned on_ready; /* READYs */
	pthread_cond_t ready;
};

static void on_output(void *ctx, uint64_t id, const void *data, size_t size)
{
	struct watched *w = ctx;
	size_t n = size < sizeof(w->last[0]) - 1 ? size : sizeof(w->last[0]) - 1;

	if (id >= IDS)
		return;
	pthread_mutex_lock(&w->lock);
	memcpy(w->last[id], (const char *)data + size - n, n);
	w->last[id][n] = '\0';
	pthread_mutex_unlock(&w->lock);
}

static bool on_ready(void *ctx, struct vm *vm)
{
	struct watched *w = ctx;

	(void)vm;
	pthread_mutex_lock(&w->lock);
	w->on_ready++;
	pthread_cond_broadcast(&w->ready);
	pthread_mutex_unlock(&w->lock);
	return true;
}

static bool on_ended(void *ctx, struct vm *vm, const struct vm_report *r)
{
	struct watched *w = ctx;

	pthread_mutex_lock(&w->lock);
	w->ended++;
	if (r->event != VM_EXITED || r->code != 0) {
		w->bad++;
		snprintf(w->why, sizeof(w->why), "VM %lu: event %d, %d: %.100s; it said %s",
		         vm_number(vm), r->event, r->code, r->text,
		         vm_number(vm) < IDS ? w->last[vm_number(vm)] : "");
	}
	pthread_mutex_unlock(&w->lock);
	return false;
}

static void on_failed(void *ctx, uint64_t id, int error, const char *why)
{
	struct watched *w = ctx;

	pthread_mutex_lock(&w->lock);
	w->failed++;
	snprintf(w->why, sizeof(w->why), "VM %lu: %d: %s", id, error, why);
	pthread_mutex_unlock(&w->lock);
}

static const struct family_hooks hooks_of_all = {.output = on_output,
                                                 .ready = on_ready,
                                                 .ended = on_ended,
                                                 .failed = on_failed};

static void *runner(void *arg)
{
	struct watched *w = arg;

	herd_run(w->herd);
	return NULL;
}

/* A herd of one, which runs `guest`. `more`: what else its configuration says. */
static struct watched *begin_with(const struct family_config *more, const char *guest,
                                  const char *args, unsigned cpus, enum fault_choice faults)
{
	struct watched *w = calloc(1, sizeof(*w));
	struct family_hooks hooks = hooks_of_all;
	struct family_config c = *more;
	struct vm_error err;
	int r;

	cr_assert_not_null(w);
	lab_open(&w->l, POOL_BYTES);
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->ready, NULL);
	hooks.ctx = w;
	c.vm = lab_config(&w->l, RAM, cpus, faults, NULL);
	c.first_child = 1;
	c.hooks = &hooks;
	r = herd_create(&c, &w->herd, &err);
	cr_assert_eq(r, 0, "%s", err.text);
	r = vm_boot_elf(herd_root(w->herd), lab_guest(guest), args, &err);
	cr_assert_eq(r, 0, "%s", err.text);
	cr_assert_eq(pthread_create(&w->runner, NULL, runner, w), 0);
	return w;
}

static struct watched *begin(const char *guest, const char *args, unsigned cpus,
                             enum fault_choice faults)
{
	return begin_with(&(struct family_config){0}, guest, args, cpus, faults);
}

static void wait_ready(struct watched *w)
{
	pthread_mutex_lock(&w->lock);
	while (w->on_ready == 0)
		pthread_cond_wait(&w->ready, &w->lock);
	pthread_mutex_unlock(&w->lock);
}

/* herd_run() has returned: `count` VMs have ended, all with 0. */
static void finish(struct watched *w, unsigned count)
{
	herd_destroy(w->herd);
	cr_assert_eq(w->bad + w->failed, 0, "%s", w->why);
	cr_assert_eq(w->ended, count, "%u ended, not %u", w->ended, count);
	lab_close(&w->l);
	free(w);
}

static void end(struct watched *w, unsigned count)
{
	pthread_join(w->runner, NULL);
	finish(w, count);
}

static struct herd_child must_fork(struct watched *w, uint64_t id)
{
	struct herd_child child;
	struct vm_error err;
	int r = herd_fork(w->herd, id, &child, &err);

	cr_assert_eq(r, 0, "fork of %lu: %s", id, err.text);
	cr_assert_gt(child.start_ns, child.pause.total_ns);
	cr_assert_leq(child.pause.longest_ns, child.pause.total_ns);
	return child;
}

typedef int order_fn(struct herd *h, uint64_t id, struct herd_touched *out, size_t *count,
                     struct vm_error *err);

static size_t must(struct watched *w, order_fn *order, uint64_t id)
{
	struct herd_touched touched[HERD_MOST];
	struct vm_error err;
	size_t count;
	int r = order(w->herd, id, touched, &count, &err);

	cr_assert_eq(r, 0, "%s", err.text);
	return count;
}

static int audit(void *ctx, struct vm *vm, struct vm_error *err)
{
	const struct watched *w = ctx;
	int r = space_audit(vm_space(vm));

	if (r == 0)
		r = pool_audit(w->l.pool);
	snprintf(err->text, sizeof(err->text), "audit");
	return r;
}

static void must_audit(struct watched *w, uint64_t id)
{
	struct vm_error err;
	uint64_t pause_ns;

	cr_assert_eq(herd_do(w->herd, id, audit, w, &pause_ns, &err), 0, "%s", err.text);
}

/* ---- forks of running guests ---- */

static void forks_of_one(unsigned cpus, enum fault_choice faults)
{
	struct watched *w = begin("stamp", "size=8M rounds=0", cpus, faults);

	wait_ready(w);
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(must_fork(w, 0).id, i + 1);
		must_audit(w, i + 1);
		usleep(3000 * i);
	}
	/* Some rounds more, each of which is looked at. */
	usleep((useconds_t)pace_patience(200000));
	cr_assert_eq(must(w, herd_stop, HERD_ALL), 5);
	end(w, 5);
}

TEST_BOTH_PATHS(herd, forks)
{
	forks_of_one(1, faults);
}

TEST_BOTH_PATHS(herd, forks_of_two_vcpus)
{
	forks_of_one(2, faults);
}

/* Each is forked while it runs, from one that was. */
TEST_BOTH_PATHS(herd, depth)
{
	struct watched *w = begin("stamp", "size=4M rounds=0", 1, faults);

	wait_ready(w);
	for (uint64_t i = 0; i < 8; i++) {
		cr_assert_eq(must_fork(w, i).id, i + 1);
		usleep(2000);
	}
	for (uint64_t i = 0; i <= 8; i++)
		must_audit(w, i);
	/* Ancestors go first, while their descendants run on. */
	for (uint64_t i = 0; i < 8; i++)
		cr_assert_eq(must(w, herd_stop, i), 1);
	must_audit(w, 8);
	usleep(20000);
	must(w, herd_stop, 8);
	end(w, 9);
}

/* Nothing stays behind of children that are gone. */
Test(herd, sixty_four)
{
	unsigned forks = pace_rounds(64, 8);
	struct watched *w = begin("stamp", "size=8M rounds=0", 1, FAULTS_AUTO);
	struct footprint before = {0};
	struct pool_stats first = {0}, last;

	wait_ready(w);
	for (unsigned i = 0; i < forks; i++) {
		struct herd_child child = must_fork(w, 0);

		must_audit(w, child.id);
		must(w, herd_stop, child.id);
		must_audit(w, 0);
		/* The first leaves what an allocator and stacks keep. */
		if (i == 0) {
			before = footprint_now();
			pool_stats(w->l.pool, &first);
		}
	}
	usleep(50000);
	footprint_expect(before, 400);
	pool_stats(w->l.pool, &last);
	/* What the source can see, and no more than its image over again. */
	cr_assert_leq(last.used_frames, 2 * first.used_frames + MM_BLOCK_PAGES);
	must(w, herd_stop, HERD_ALL);
	end(w, forks + 1);
}

/* What a guest forks itself starts at once, and is one of the herd. */
TEST_BOTH_PATHS(herd, guest_forks)
{
	struct watched *w = begin("forktree", "3 2", 1, faults);

	end(w, 15);
}

/* ---- standing still ---- */

static int hash_memory(void *ctx, struct vm *vm, struct vm_error *err)
{
	uint64_t *out = ctx, hash = 0, page[MM_PAGE_SIZE / 8] = {0};

	(void)err;
	for (uint64_t at = RAM / 4; at < RAM; at += sizeof(page)) {
		cr_assert_eq(space_read(vm_space(vm), (gpa_t){at}, page, sizeof(page)), 0);
		for (size_t i = 0; i < MM_PAGE_SIZE / 8; i++)
			hash = (hash ^ page[i]) * UINT64_C(0x100000001b3);
	}
	*out = hash;
	return 0;
}

static uint64_t hash_of(struct watched *w, uint64_t id, uint64_t *pause_ns)
{
	struct vm_error err;
	uint64_t hash;

	cr_assert_eq(herd_do(w->herd, id, hash_memory, &hash, pause_ns, &err), 0, "%s", err.text);
	return hash;
}

static enum herd_state state_of(struct watched *w, uint64_t id)
{
	static struct herd_entry all[HERD_MOST];
	size_t n = herd_list(w->herd, all);

	for (size_t i = 0; i < n; i++)
		if (all[i].id == id)
			return all[i].state;
	return HERD_ENDED;
}

Test(herd, pause)
{
	struct watched *w = begin("stamp", "size=16M rounds=0", 2, FAULTS_AUTO);
	struct herd_touched touched[HERD_MOST];
	uint64_t was, pause_ns;
	struct vm_error err;
	size_t count;

	wait_ready(w);
	cr_assert_eq(must(w, herd_pause, 0), 1);
	cr_assert_eq(must(w, herd_pause, 0), 1);
	cr_assert_eq(state_of(w, 0), HERD_PAUSED);
	was = hash_of(w, 0, &pause_ns);
	cr_assert_eq(pause_ns, 0);
	usleep(30000);
	cr_assert_eq(hash_of(w, 0, &pause_ns), was);
	/* A child of one that is paused runs; its parent does not. */
	must_fork(w, 0);
	usleep(30000);
	cr_assert_eq(state_of(w, 1), HERD_RUNS);
	cr_assert_neq(hash_of(w, 1, &pause_ns), was);
	cr_assert_gt(pause_ns, 0);
	cr_assert_eq(hash_of(w, 0, &pause_ns), was);
	cr_assert_eq(herd_resume(w->herd, 0, touched, &count, &err), 0);
	cr_assert_eq(count, 1);
	cr_assert_geq(touched[0].ns, 60000000);
	usleep(30000);
	cr_assert_neq(hash_of(w, 0, &pause_ns), was);
	cr_assert_eq(must(w, herd_pause, HERD_ALL), 2);
	cr_assert_eq(must(w, herd_resume, HERD_ALL), 2);
	must(w, herd_pause, 1);
	must(w, herd_stop, 1);
	must(w, herd_stop, HERD_ALL);
	end(w, 2);
}

/* Time that is paused away is not the guest's. */
Test(herd, pause_and_timeout)
{
	const struct family_config c = {.timeout_ns = pace_patience(SECOND / 4)};
	struct watched *w = begin_with(&c, "stamp", "size=1M rounds=0", 1, FAULTS_AUTO);

	wait_ready(w);
	must(w, herd_pause, 0);
	usleep((useconds_t)(c.timeout_ns / 1000 * 2));
	must(w, herd_resume, 0);
	cr_assert_eq(state_of(w, 0), HERD_RUNS);
	pthread_join(w->runner, NULL);
	cr_assert(w->bad == 1 && strstr(w->why, "event 4"), "%s", w->why);
	_Static_assert(VM_TIMEOUT == 4, "the event that is looked for");
	herd_destroy(w->herd);
	lab_close(&w->l);
	free(w);
}

/* ---- refusals ---- */

Test(herd, refusals)
{
	const struct family_config c = {.max_members = 2};
	struct watched *w = begin_with(&c, "stamp", "size=1M rounds=0", 1, FAULTS_AUTO);
	struct herd_touched touched[HERD_MOST];
	struct herd_child child;
	uint64_t pause_ns;
	struct vm_error err;
	size_t count;

	wait_ready(w);
	must_fork(w, 0);
	child.pause.stops = 99;
	cr_assert_eq(herd_fork(w->herd, 0, &child, &err), -EAGAIN);
	cr_assert(strstr(err.text, "no child"), "%s", err.text);
	cr_assert_eq(child.pause.stops, 99, "nobody was stopped for it");
	cr_assert_eq(herd_fork(w->herd, 7, &child, &err), -ESRCH);
	cr_assert(strstr(err.text, "VM 7"), "%s", err.text);
	cr_assert_eq(herd_do(w->herd, 7, audit, w, &pause_ns, &err), -ESRCH);
	cr_assert_eq(herd_stop(w->herd, 7, touched, &count, &err), -ESRCH);
	must(w, herd_stop, 0);
	cr_assert_eq(herd_fork(w->herd, 0, &child, &err), -ESRCH);
	/* There is room again. */
	cr_assert_eq(must_fork(w, 1).id, 2);
	cr_assert_eq(must(w, herd_stop, HERD_ALL), 2);
	pthread_join(w->runner, NULL);
	cr_assert_eq(herd_fork(w->herd, 1, &child, &err), -ESRCH);
	cr_assert_eq(must(w, herd_pause, HERD_ALL), 0);
	finish(w, 3);
}

/* No descriptors for a child: it was never there, and its source goes on. */
Test(herd, child_cannot_be_made)
{
	struct watched *w = begin("stamp", "size=1M rounds=0", 1, FAULTS_AUTO);
	struct rlimit before, none;
	struct herd_child child;
	struct vm_error err;
	int next;

	wait_ready(w);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	next = dup(STDERR_FILENO);
	cr_assert(next >= 0 && close(next) == 0);
	/* One descriptor: enough to look at its memory. */
	none = (struct rlimit){(rlim_t)next + 1, before.rlim_max};
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	cr_assert_eq(herd_fork(w->herd, 0, &child, &err), -EMFILE, "%s", err.text);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
	must_audit(w, 0);
	cr_assert_eq(must_fork(w, 0).id, 2);
	must(w, herd_stop, HERD_ALL);
	end(w, 2);
}

/* ---- all at once ---- */

struct hand {
	struct watched *w;
	uint64_t seed;
	unsigned steps, forks;
};

/* Anything to anybody; what is refused, is. */
static void *fumble(void *arg)
{
	static order_fn *const orders[] = {herd_pause, herd_resume, herd_stop};
	struct herd_touched touched[HERD_MOST];
	struct herd_entry *all = calloc(HERD_MOST, sizeof(*all));
	struct hand *hand = arg;

	cr_assert_not_null(all);
	for (unsigned i = 0; i < hand->steps; i++) {
		uint64_t id = lab_random(&hand->seed) % (i + 2), pause_ns;
		unsigned what = (unsigned)(lab_random(&hand->seed) % 8);
		struct herd_child child;
		struct vm_error err;
		size_t count;

		if (what < 3)
			hand->forks += herd_fork(hand->w->herd, id, &child, &err) == 0;
		else if (what < 6 && !(what == 5 && id == 0))
			(void)orders[what - 3](hand->w->herd, id, touched, &count, &err);
		else if (what == 6)
			(void)herd_do(hand->w->herd, id, audit, hand->w, &pause_ns, &err);
		else
			(void)herd_list(hand->w->herd, all);
	}
	free(all);
	return NULL;
}

Test(herd, storm)
{
	const struct family_config c = {.max_members = 8};
	struct watched *w = begin_with(&c, "stamp", "size=1M rounds=0", 2, FAULTS_AUTO);
	struct hand hands[3];
	pthread_t threads[3];
	uint64_t seed = lab_seed();
	unsigned forks = 0;

	wait_ready(w);
	for (unsigned i = 0; i < 3; i++) {
		hands[i] = (struct hand){w, seed + i, pace_rounds(100, 20), 0};
		cr_assert_eq(pthread_create(&threads[i], NULL, fumble, &hands[i]), 0);
	}
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(threads[i], NULL);
		forks += hands[i].forks;
	}
	must_audit(w, 0);
	must(w, herd_stop, HERD_ALL);
	end(w, forks + 1);
}
