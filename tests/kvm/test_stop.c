// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_stop.c - stopping vCPUs: deadlines, kicks from other threads, events of several
 * vCPUs at once, snapshots in the middle of it.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/kvm/lab.h"
#include "tests/kvm/pace.h"
#include "tests/kvm/script.h"
#include "vmm/family.h"

#define POOL (512 * MIB)

static const struct step forever = {STEP_GOTO, SCRIPT_LIST(0), 0};

/* A scripted VM whose vCPUs all have empty lists. */
static struct vm *scripted(const struct lab *l, unsigned cpus, enum fault_choice faults,
                           struct tape *t)
{
	struct vm_config c = lab_config(l, SCRIPT_RAM, cpus, faults, t);
	struct vm *vm = lab_make(&c);

	script_boot(vm);
	for (unsigned i = 0; i < cpus; i++)
		script_list(vm, i, NULL, 0);
	return vm;
}

/* vCPU `cpu` adds 1 to a word of its own for ever. */
static uint64_t counter_of(unsigned cpu)
{
	return SCRIPT_DATA + cpu * UINT64_C(0x1000);
}

static void count_for_ever(struct vm *vm, unsigned cpu)
{
	const struct step list[] = {
		{STEP_COUNT, counter_of(cpu), 0},
		{STEP_GOTO, SCRIPT_LIST(cpu), 0},
	};

	script_list(vm, cpu, list, 2);
}

/* ---- deadlines ---- */

static void expect_timeout(struct vm *vm)
{
	const uint64_t wanted = pace_patience(SECOND / 20);
	uint64_t start = clock_ns(), took;
	struct vm_report r = lab_run_for(vm, wanted);

	took = clock_ns() - start;
	cr_assert_eq(r.event, VM_TIMEOUT, "event %d: %s", r.event, r.text);
	cr_assert_geq(took, wanted);
	cr_assert_leq(took, wanted + 10 * SECOND);
}

TEST_BOTH_PATHS(stop, deadline)
{
	static struct tape t;
	struct lab l;
	struct vm_config c;
	struct vm *vm;

	lab_open(&l, POOL);
	c = lab_config(&l, 16 * MIB, 1, faults, &t);
	vm = lab_boot(&c, "crash", "hang");
	for (int i = 0; i < 5; i++)
		expect_timeout(vm);
	cr_assert(strstr(t.text, "hanging"));
	vm_destroy(vm);
	lab_close(&l);
}

Test(stop, deadline_in_the_past)
{
	struct lab l;
	struct vm *vm;
	struct vm_report r;

	lab_open(&l, POOL);
	vm = scripted(&l, 2, FAULTS_AUTO, NULL);
	count_for_ever(vm, 0);
	vm_run(vm, 1, &r);
	cr_assert_eq(r.event, VM_TIMEOUT);
	vm_destroy(vm);
	lab_close(&l);
}

/* vCPU 0 has halted; the deadline counts for the others all the same, and a kick too. */
Test(stop, deadline_of_halted_vcpu_0)
{
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, 2, FAULTS_AUTO, NULL);
	count_for_ever(vm, 1);
	for (int i = 0; i < 3; i++) {
		uint64_t before = script_word(vm, counter_of(1));

		expect_timeout(vm);
		cr_assert_gt(script_word(vm, counter_of(1)), before);
		vm_kick(vm);
		lab_expect(vm, VM_KICKED, 0);
	}
	vm_destroy(vm);
	lab_close(&l);
}

/* A user may have so many timers: then there is no deadline, and that is said. */
Test(stop, no_timer_to_be_had)
{
	struct rlimit none = {0, 0};
	struct vm_report r;
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, 1, FAULTS_AUTO, NULL);
	count_for_ever(vm, 0);
	cr_assert_eq(setrlimit(RLIMIT_SIGPENDING, &none), 0);
	r = lab_run_for(vm, SECOND);
	cr_assert_eq(r.event, VM_FAILED, "event %d", r.event);
	cr_assert_eq(r.code, -EAGAIN);
	cr_assert(strstr(r.text, "timer"), "%s", r.text);
	vm_destroy(vm);
	lab_close(&l);
}

/* ---- kicks ---- */

struct kicker {
	struct vm *vm;
	pthread_t thread;
	_Atomic uint64_t wanted, given;
	_Atomic bool storm, quit;
};

/*
 * One kick for each that is wanted, or as many as it can. A storm abates by and by: on a slow
 * machine the next kick would else be there before the guest has got to its next instruction.
 */
static void *kicker(void *arg)
{
	struct kicker *k = arg;

	while (!atomic_load(&k->quit)) {
		uint64_t given;

		if (!atomic_load(&k->storm) && atomic_load(&k->given) >= atomic_load(&k->wanted)) {
			sched_yield();
			continue;
		}
		vm_kick(k->vm);
		given = atomic_fetch_add(&k->given, 1);
		if (atomic_load(&k->storm))
			usleep(20 + (useconds_t)(given / 256));
	}
	return NULL;
}

static void kicker_start(struct kicker *k)
{
	cr_assert_eq(pthread_create(&k->thread, NULL, kicker, k), 0);
}

static void kicker_stop(struct kicker *k)
{
	atomic_store(&k->quit, true);
	pthread_join(k->thread, NULL);
}

/* No kick is lost, whatever vm_run() is just doing. */
static void every_kick_counts(struct vm *vm, unsigned times)
{
	struct kicker k = {.vm = vm};

	kicker_start(&k);
	for (uint64_t i = 1; i <= times; i++) {
		struct vm_report r;

		atomic_store(&k.wanted, i);
		r = lab_run_for(vm, 5 * SECOND);
		cr_assert_eq(r.event, VM_KICKED, "kick %lu: event %d", i, r.event);
		/* The kick may still be under way: it belongs to this round. */
		while (atomic_load(&k.given) < i)
			sched_yield();
	}
	kicker_stop(&k);
}

TEST_BOTH_PATHS(stop, every_kick_counts)
{
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, 1, faults, NULL);
	count_for_ever(vm, 0);
	every_kick_counts(vm, pace_rounds(2000, 300));
	vm_destroy(vm);
	lab_close(&l);
}

Test(stop, every_kick_counts_smp)
{
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, 4, FAULTS_AUTO, NULL);
	for (unsigned i = 0; i < 4; i++)
		count_for_ever(vm, i);
	every_kick_counts(vm, pace_rounds(300, 60));
	vm_destroy(vm);
	lab_close(&l);
}

/* Kicks need no signal queued; deadlines would: timers come out of the same allowance. */
Test(stop, no_signals_queued)
{
	struct rlimit none = {0, 0};
	struct kicker k = {.vm = NULL};
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, 2, FAULTS_AUTO, NULL);
	count_for_ever(vm, 0);
	count_for_ever(vm, 1);
	cr_assert_eq(setrlimit(RLIMIT_SIGPENDING, &none), 0);
	k.vm = vm;
	kicker_start(&k);
	for (uint64_t i = 1; i <= 20; i++) {
		struct vm_report r;

		atomic_store(&k.wanted, i);
		vm_run(vm, 0, &r);
		cr_assert_eq(r.event, VM_KICKED, "kick %lu: event %d", i, r.event);
		while (atomic_load(&k.given) < i)
			sched_yield();
	}
	kicker_stop(&k);
	vm_destroy(vm);
	lab_close(&l);
}

/* A thread that has the signal blocked can be stopped all the same. */
Test(stop, signals_blocked)
{
	sigset_t all;
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	vm = scripted(&l, 2, FAULTS_AUTO, NULL);
	count_for_ever(vm, 0);
	count_for_ever(vm, 1);
	expect_timeout(vm);
	every_kick_counts(vm, 20);
	vm_destroy(vm);
	lab_close(&l);
}

/*
 * A kick whose reason has been seen already, because another came in between, is over: it does not
 * keep the guest from running when nobody kicks any more.
 */
Test(stop, late_kicks)
{
	struct kicker k[2] = {{.storm = true}, {.storm = true}};
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, 1, FAULTS_AUTO, NULL);
	count_for_ever(vm, 0);
	for (unsigned round = 0; round < pace_rounds(20, 5); round++) {
		uint64_t before, until = clock_ns() + SECOND / 50;
		struct vm_report r;

		for (int i = 0; i < 2; i++) {
			k[i].vm = vm;
			atomic_store(&k[i].quit, false);
			kicker_start(&k[i]);
		}
		while (clock_ns() < until)
			lab_run(vm);
		/* The kickers end while the vCPU runs. */
		atomic_store(&k[0].quit, true);
		atomic_store(&k[1].quit, true);
		do {
			before = script_word(vm, counter_of(0));
			r = lab_run_for(vm, pace_patience(SECOND / 50));
		} while (r.event == VM_KICKED);
		cr_assert_eq(r.event, VM_TIMEOUT);
		cr_assert_gt(script_word(vm, counter_of(0)), before + 100, "round %u", round);
		for (int i = 0; i < 2; i++)
			pthread_join(k[i].thread, NULL);
	}
	vm_destroy(vm);
	lab_close(&l);
}

/* Run to the end through a storm of kicks, which blows already when the guest is let go. */
static void run_through_storm(struct vm *vm, enum vm_event end)
{
	struct kicker k = {.vm = vm, .storm = true};
	uint64_t deadline = clock_ns() + 60 * SECOND, kicked = 0;
	struct vm_report r;

	kicker_start(&k);
	while (atomic_load(&k.given) == 0)
		sched_yield();
	do {
		vm_run(vm, deadline, &r);
		kicked += r.event == VM_KICKED;
	} while (r.event == VM_KICKED);
	kicker_stop(&k);
	cr_assert_eq(r.event, end, "event %d: %s", r.event, r.text);
	cr_assert_gt(kicked, 0);
}

/* Kicks that come late, early or twice keep nobody from getting on. */
TEST_BOTH_PATHS(stop, storm_of_kicks)
{
	static struct tape t;
	struct lab l;
	struct vm_config c;
	struct vm *vm;

	lab_open(&l, POOL);
	c = lab_config(&l, 64 * MIB, 2, faults, &t);
	vm = lab_boot(&c, "memwalk", "size=24M pattern=random access=rw");
	run_through_storm(vm, VM_EXITED);
	lab_audit(&l, vm);
	vm_destroy(vm);
	lab_close(&l);
}

#define TOUCHED 2000u

/* A page that the most privileged code waits for when a kick comes holds what was stored there. */
TEST_BOTH_PATHS(stop, storm_and_first_touches)
{
	const struct step list[] = {
		{STEP_TOUCH, SCRIPT_DATA, TOUCHED},
		{STEP_RING, SCRIPT_REQUEST, 0},
	};
	struct lab l;

	lab_open(&l, POOL);
	for (unsigned round = 0; round < pace_rounds(10, 3); round++) {
		struct vm_config c = lab_config(&l, SCRIPT_RAM, 1, faults, NULL);
		struct vm *vm;

		c.page_size = PAGE_SIZE_4K; /* as many violations as can be had */
		vm = lab_make(&c);
		script_boot(vm);
		script_request(vm, SCRIPT_REQUEST, ABI_EXIT, 0, 0, 0);
		script_list(vm, 0, list, 2);
		run_through_storm(vm, VM_EXITED);
		for (uint64_t i = 0; i < TOUCHED; i++) {
			uint64_t at = SCRIPT_DATA + i * MM_PAGE_SIZE;

			cr_assert_eq(script_word(vm, at), at, "round %u page %lu: %#lx", round, i,
			             script_word(vm, at));
		}
		vm_destroy(vm);
	}
	lab_close(&l);
}

/*
 * Out of frames in privileged code, which a software KVM interprets and cannot always interrupt: it
 * is said, and after that the guest goes on with all it stored or is given up; never with less.
 */
Test(stop, nomem_in_privileged_code)
{
	const struct step list[] = {
		{STEP_TOUCH, SCRIPT_DATA, TOUCHED},
		{STEP_RING, SCRIPT_REQUEST, 0},
	};
	struct image *image;
	struct vm_error err;
	struct vm_report r;
	struct vm_config c;
	struct vm *vm;
	struct lab l;

	require_path(FAULTS_UFFD);
	lab_open(&l, POOL);
	c = lab_config(&l, SCRIPT_RAM, 1, FAULTS_UFFD, NULL);
	c.limit_bytes = 10 * MIB;
	vm = lab_make(&c);
	script_boot(vm);
	script_request(vm, SCRIPT_REQUEST, ABI_EXIT, 0, 0, 0);
	script_list(vm, 0, list, 2);
	lab_expect(vm, VM_NOMEM, 0);
	space_resume(vm_space(vm), SCRIPT_RAM >> MM_PAGE_SHIFT);
	r = lab_run(vm);
	if (r.event == VM_FAILED) {
		cr_assert_eq(r.code, -ENOTRECOVERABLE);
		cr_assert(strstr(r.text, "out of frames"), "%s", r.text);
		cr_assert_eq(vm_snapshot(vm, &image, &err), -ENOTRECOVERABLE);
	} else {
		cr_assert_eq(r.event, VM_EXITED, "event %d: %s", r.event, r.text);
		for (uint64_t at = SCRIPT_DATA, i = 0; i < TOUCHED; i++, at += MM_PAGE_SIZE)
			cr_assert_eq(script_word(vm, at), at);
	}
	vm_destroy(vm);
	lab_close(&l);
}

#define PRINTED 2000u

/* One instruction that prints much is not cut short by a stop in the middle of it. */
Test(stop, storm_and_string_output)
{
	static struct tape t;
	static uint8_t text[PRINTED];
	const struct step list[] = {
		{STEP_PRINT, SCRIPT_DATA, PRINTED},
		{STEP_RING, SCRIPT_REQUEST, 0},
	};
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, 1, FAULTS_AUTO, &t);
	for (unsigned i = 0; i < PRINTED; i++)
		text[i] = (uint8_t)('!' + i % 90);
	cr_assert_eq(space_write(vm_space(vm), (gpa_t){SCRIPT_DATA}, text, PRINTED), 0);
	script_request(vm, SCRIPT_REQUEST, ABI_EXIT, 0, 0, 0);
	script_list(vm, 0, list, 2);
	run_through_storm(vm, VM_EXITED);
	cr_assert_eq(t.total, PRINTED, "%lu bytes printed", t.total);
	cr_assert_eq(memcmp(t.text, text, PRINTED), 0);
	vm_destroy(vm);
	lab_close(&l);
}

/* ---- halted vCPUs ---- */

/* Halted is halted: no stop, no snapshot makes a vCPU go on behind its halt. */
Test(stop, halted_stays_halted)
{
	struct image *image;
	struct vm *vm, *clone;
	struct lab l;

	lab_open(&l, POOL);
	vm = scripted(&l, 3, FAULTS_AUTO, NULL);
	count_for_ever(vm, 1);
	for (int i = 0; i < 5; i++)
		expect_timeout(vm);
	image = lab_snapshot(vm);
	clone = lab_clone(&l, image, 1, FAULTS_AUTO, NULL);
	image_put(image);
	expect_timeout(clone);
	cr_assert_gt(script_word(clone, counter_of(1)), script_word(vm, counter_of(1)));
	expect_timeout(vm);
	cr_assert_eq(script_word(vm, SCRIPT_WOKEN), 0);
	cr_assert_eq(script_word(clone, SCRIPT_WOKEN), 0);
	vm_destroy(vm);
	vm_destroy(clone);
	lab_close(&l);
}

Test(stop, all_halted)
{
	struct vm_report r;
	struct lab l;

	lab_open(&l, POOL);
	for (unsigned cpus = 1; cpus <= 4; cpus++) {
		struct vm *vm = scripted(&l, cpus, FAULTS_AUTO, NULL);

		r = lab_run(vm);
		cr_assert_eq(r.event, VM_CRASHED);
		cr_assert(strstr(r.text, "halted"), "%s", r.text);
		cr_assert_eq(script_word(vm, SCRIPT_WOKEN), 0);
		vm_destroy(vm);
	}
	lab_close(&l);
}

/* ---- snapshots of busy machines ---- */

/* vCPUs 0 to n - 1 count on from `at`: each of them, some time. */
static void expect_counting(struct vm *vm, const uint64_t *at, unsigned n)
{
	unsigned on = 0;

	for (int tries = 0; on < n && tries < 200; tries++) {
		struct vm_report r = lab_run_for(vm, SECOND / 20);

		cr_assert_eq(r.event, VM_TIMEOUT, "event %d: %s", r.event, r.text);
		while (on < n && script_word(vm, counter_of(on)) > at[on])
			on++;
	}
	cr_assert_eq(on, n, "vCPU %u stands still", on);
}

/* Four vCPUs stopped anywhere: all four go on from there, in every clone and in the VM. */
TEST_BOTH_PATHS(stop, smp_snapshot)
{
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, 4, faults, NULL);
	for (unsigned i = 0; i < 4; i++)
		count_for_ever(vm, i);
	for (unsigned round = 0; round < pace_rounds(10, 3); round++) {
		struct vm_report r = lab_run_for(vm, SECOND / 50);
		uint64_t at[4];
		struct image *image;
		struct vm *clone;

		cr_assert_eq(r.event, VM_TIMEOUT);
		for (unsigned i = 0; i < 4; i++)
			at[i] = script_word(vm, counter_of(i));
		image = lab_snapshot(vm);
		clone = lab_clone(&l, image, round + 1, faults, NULL);
		image_put(image);
		for (unsigned i = 0; i < 4; i++)
			cr_assert_eq(script_word(clone, counter_of(i)), at[i]);
		expect_counting(clone, at, 4);
		for (unsigned i = 0; i < 4; i++)
			cr_assert_eq(script_word(vm, counter_of(i)), at[i]);
		lab_audit(&l, clone);
		vm_destroy(clone);
	}
	vm_destroy(vm);
	lab_close(&l);
}

/* ---- events of several vCPUs at once ---- */

#define RINGERS 4u

static uint64_t request_of(unsigned cpu)
{
	return SCRIPT_REQUEST + cpu * UINT64_C(0x1000);
}

/* A VM whose vCPUs all ring for `op` at once. */
static struct vm *ring_together(const struct lab *l, uint32_t op)
{
	struct vm *vm = scripted(l, RINGERS, FAULTS_AUTO, NULL);

	for (unsigned i = 0; i < RINGERS; i++) {
		const struct step list[] = {{STEP_RING, request_of(i), 0}};

		script_request(vm, request_of(i), op, 0, 0, 0);
		script_list(vm, i, list, 1);
	}
	return vm;
}

/* Each of them is an event of its own, and each is answered. */
Test(stop, ready_from_all_vcpus)
{
	struct lab l;

	lab_open(&l, POOL);
	for (unsigned round = 0; round < pace_rounds(30, 10); round++) {
		struct vm *vm = ring_together(&l, ABI_READY);
		unsigned seen = 0;

		for (unsigned i = 0; i < RINGERS; i++) {
			struct vm_report r = lab_run(vm);

			cr_assert_eq(r.event, VM_READY, "event %d: %s", r.event, r.text);
			cr_assert_eq(seen & (1u << r.vcpu), 0, "vCPU %u twice", r.vcpu);
			seen |= 1u << r.vcpu;
		}
		lab_expect(vm, VM_CRASHED, 0);
		for (unsigned i = 0; i < RINGERS; i++)
			cr_assert_eq(script_result(vm, request_of(i)), 0, "vCPU %u", i);
		vm_destroy(vm);
	}
	lab_close(&l);
}

/* A clone made at the first of them has the others still before it. */
Test(stop, ready_from_all_vcpus_cloned)
{
	struct lab l;

	lab_open(&l, POOL);
	for (uint64_t round = 1; round < pace_rounds(20, 7); round++) {
		struct vm *vm = ring_together(&l, ABI_READY), *clone;
		struct image *image;

		lab_expect(vm, VM_READY, 0);
		image = lab_snapshot(vm);
		vm_destroy(vm);
		clone = lab_clone(&l, image, round, FAULTS_AUTO, NULL);
		image_put(image);
		for (unsigned i = 1; i < RINGERS; i++)
			lab_expect(clone, VM_READY, 0);
		lab_expect(clone, VM_CRASHED, 0);
		for (unsigned i = 0; i < RINGERS; i++) {
			struct abi_request a;

			script_answer(clone, request_of(i), &a);
			cr_assert_eq(a.result, 0);
			cr_assert_eq(a.clone, round, "vCPU %u knows %lu", i, a.clone);
		}
		vm_destroy(clone);
	}
	lab_close(&l);
}

/* The answer goes to the vCPU whose FORK was reported. */
Test(stop, fork_from_all_vcpus)
{
	struct lab l;

	lab_open(&l, POOL);
	for (unsigned round = 0; round < pace_rounds(30, 10); round++) {
		struct vm *vm = ring_together(&l, ABI_FORK);

		for (int32_t i = 0; i < (int32_t)RINGERS; i++) {
			struct vm_report r = lab_run(vm);

			cr_assert_eq(r.event, VM_FORK, "event %d: %s", r.event, r.text);
			cr_assert_eq(vm_answer_fork(vm, 70 + i), 0);
			cr_assert_eq(script_result(vm, request_of(r.vcpu)), 70 + i);
		}
		lab_expect(vm, VM_CRASHED, 0);
		vm_destroy(vm);
	}
	lab_close(&l);
}

/* A FORK that is reported while a kick is due still waits for its answer. */
Test(stop, fork_through_storm)
{
	const struct step list[] = {
		{STEP_RING, SCRIPT_REQUEST, 0},
		{STEP_GOTO, SCRIPT_LIST(1), 0},
	};
	struct kicker k = {.storm = true};
	unsigned forks = 0;
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, 2, FAULTS_AUTO, NULL);
	count_for_ever(vm, 0);
	script_request(vm, SCRIPT_REQUEST, ABI_FORK, 0, 0, 0);
	script_list(vm, 1, list, 2);
	k.vm = vm;
	kicker_start(&k);
	while (forks < pace_rounds(300, 100)) {
		struct vm_report r = lab_run(vm);

		if (r.event == VM_KICKED)
			continue;
		cr_assert_eq(r.event, VM_FORK, "event %d: %s", r.event, r.text);
		forks++;
		cr_assert_eq(vm_answer_fork(vm, (int32_t)forks), 0, "fork %u", forks);
		cr_assert_eq(script_result(vm, SCRIPT_REQUEST), (int32_t)forks);
	}
	kicker_stop(&k);
	vm_destroy(vm);
	lab_close(&l);
}

/* EXIT of one vCPU while another rings READY without end: the guest does end. */
Test(stop, exit_beats_ready)
{
	const struct step ready[] = {{STEP_RING, request_of(0), 0}, forever};
	const struct step leave[] = {{STEP_RING, request_of(3), 0}};
	struct lab l;

	lab_open(&l, POOL);
	for (unsigned round = 0; round < pace_rounds(30, 10); round++) {
		struct vm *vm = scripted(&l, 4, FAULTS_AUTO, NULL);
		struct vm_report r;
		unsigned events = 0;

		script_request(vm, request_of(0), ABI_READY, 0, 0, 0);
		script_list(vm, 0, ready, 2);
		script_request(vm, request_of(3), ABI_EXIT, 9, 0, 0);
		script_list(vm, 3, leave, 1);
		do
			r = lab_run(vm);
		while (r.event == VM_READY && ++events < 1000);
		cr_assert_eq(r.event, VM_EXITED, "%u events, then %d", events, r.event);
		cr_assert_eq(r.code, 9);
		cr_assert_eq(r.vcpu, 3);
		vm_destroy(vm);
	}
	lab_close(&l);
}

/* ---- forks without end ---- */

struct storm {
	unsigned ended;
	uint64_t numbers[64];
};

static bool storm_ended(void *ctx, struct vm *vm, const struct vm_report *r)
{
	struct storm *s = ctx;

	/* Refused forks go on for ever: only the deadline ends such a guest. */
	cr_assert_eq(r->event, VM_TIMEOUT, "event %d: %s", r->event, r->text);
	cr_assert_lt(s->ended, 64);
	s->numbers[s->ended++] = vm_number(vm);
	return false;
}

/* Everybody forks for ever: there are as many as allowed, no more, and all end. */
Test(stop, fork_storm)
{
	const struct step list[] = {{STEP_RING, SCRIPT_REQUEST, 0}, forever};
	struct storm s = {0};
	const struct family_hooks hooks = {.ctx = &s, .ended = storm_ended};
	struct family_config c;
	struct vm_error err;
	struct family *f;
	struct lab l;

	lab_open(&l, POOL);
	c = (struct family_config){
		.vm = lab_config(&l, SCRIPT_RAM, 1, FAULTS_AUTO, NULL),
		.timeout_ns = SECOND / 10,
		.first_child = 1,
		.max_members = 20,
		.hooks = &hooks,
	};
	cr_assert_eq(family_create(&c, &f, &err), 0, "%s", err.text);
	script_boot(family_root(f));
	script_request(family_root(f), SCRIPT_REQUEST, ABI_FORK, 0, 0, 0);
	script_list(family_root(f), 0, list, 2);
	family_run(f);
	family_destroy(f);
	cr_assert_eq(s.ended, 20, "%u members", s.ended);
	for (unsigned i = 0; i < s.ended; i++)
		cr_assert_eq(s.numbers[i], i);
	lab_close(&l);
}
