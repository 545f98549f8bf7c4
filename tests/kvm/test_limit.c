// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_limit.c - guests that want more than they may have: they stand still, nothing of
 * theirs is lost, what they can be given lets them go on, and nobody else notices.
 *
 * guest/stamp checks all it has written, and would end with 3 or 4.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/memwalk.h"
#include "tests/kvm/command.h"
#include "tests/kvm/lab.h"
#include "tests/kvm/pace.h"

TestSuite(limit, .init = scratch_make, .fini = scratch_remove, .timeout = 600);

#define POOL (512 * MIB)

/*
 * The most that one vCPU copies in a period of its ticks, the scheduler's at longest 10 ms, and
 * until it stands still, at not less than 2.5 us a page.
 */
#define OVERSHOOT_PAGES 4096u

static struct space_use use_of(struct vm *vm)
{
	struct space_use use;

	cr_assert_eq(space_use(vm_space(vm), &use), 0);
	return use;
}

/* A clone that may have `limit` bytes. */
static struct vm *limited_clone(const struct lab *l, struct image *image, unsigned number,
                                uint64_t limit, enum fault_choice faults)
{
	struct vm_config c = lab_config(l, 0, 0, faults, NULL);

	c.image = image;
	c.number = number;
	c.limit_bytes = limit;
	c.limit_copies = true;
	return lab_make(&c);
}

/* A stamp that has written all its pages once. */
static struct image *stamps(const struct lab *l, unsigned cpus, const char *args)
{
	struct vm_config c = lab_config(l, 96 * MIB, cpus, FAULTS_AUTO, NULL);
	struct vm *vm = lab_boot(&c, "stamp", args);
	struct image *image;

	lab_expect(vm, VM_READY, 0);
	image = lab_snapshot(vm);
	vm_destroy(vm);
	return image;
}

/* It stands still because of `limit` bytes: not far above them, and it says so. */
static void expect_over(struct vm *vm, const struct vm_report *r, uint64_t limit)
{
	struct space_use use = use_of(vm);
	uint64_t used = use.owned_frames + use.copied_frames;
	uint64_t most = (limit >> MM_PAGE_SHIFT) + vm_cpus(vm) * (uint64_t)OVERSHOOT_PAGES;
	char text[64];

	cr_assert_eq(r->event, VM_NOMEM, "event %d: %s", r->event, r->text);
	cr_assert_eq(r->short_of, SHORT_OF_LIMIT);
	snprintf(text, sizeof(text), "limit %lu MiB, in use ", limit / MIB);
	cr_assert(strstr(r->text, text), "%s", r->text);
	cr_assert(strstr(r->text, " own, ") && strstr(r->text, " copies"), "%s", r->text);
	cr_assert_eq(use.limit_frames, limit >> MM_PAGE_SHIFT);
	cr_assert_gt(used, use.limit_frames, "%s", r->text);
	cr_assert_leq(used, most, "%lu pages above the limit", used - use.limit_frames);
}

/* Over its limit by what it copies, again and again; at last it has all and is right. */
TEST_BOTH_PATHS(limit, copies)
{
	struct lab l;

	lab_open(&l, POOL);
	for (unsigned cpus = 1; cpus <= 4; cpus *= 4) {
		struct image *image = stamps(&l, cpus, "size=64M rounds=2");
		uint64_t limit = 4 * MIB;
		struct vm *vm = limited_clone(&l, image, 1, limit, faults);
		struct vm_report r;
		unsigned stops = 0;

		while ((r = lab_run(vm)).event != VM_EXITED) {
			expect_over(vm, &r, limit);
			lab_audit(&l, vm);
			/* It has been said, and is not forgotten: it does not get a tick more. */
			r = lab_run(vm);
			cr_assert_eq(r.event, VM_NOMEM, "event %d: %s", r.event, r.text);
			limit = align_up((use_of(vm).owned_frames + use_of(vm).copied_frames)
			                         << MM_PAGE_SHIFT,
			                 MIB) +
			        8 * MIB;
			space_resume(vm_space(vm), limit >> MM_PAGE_SHIFT);
			stops++;
		}
		cr_assert_eq(r.code, 0, "%d", r.code);
		cr_assert_geq(stops, 2);
		vm_destroy(vm);
		image_put(image);
	}
	lab_close(&l);
}

/* Saved where it stands; clones of that go on, and so does it, with what it has now: nothing. */
Test(limit, snapshot_over_it)
{
	struct lab l;
	struct image *image, *over;
	struct vm *vm, *clone;
	struct vm_report r;

	lab_open(&l, POOL);
	image = stamps(&l, 2, "size=64M rounds=2");
	vm = limited_clone(&l, image, 1, 16 * MIB, FAULTS_AUTO);
	r = lab_run(vm);
	expect_over(vm, &r, 16 * MIB);
	over = lab_snapshot(vm);
	cr_assert_eq(use_of(vm).copied_frames, 0);
	clone = lab_clone(&l, over, 2, FAULTS_AUTO, NULL);
	lab_expect(clone, VM_EXITED, 0);
	vm_destroy(clone);
	while ((r = lab_run(vm)).event == VM_NOMEM)
		space_resume(vm_space(vm), 2 * use_of(vm).limit_frames);
	cr_assert(r.event == VM_EXITED && r.code == 0, "%d %d %s", r.event, r.code, r.text);
	vm_destroy(vm);
	image_put(over);
	image_put(image);
	lab_close(&l);
}

/* The same where it waits for a frame, if this kernel can take it out of the wait. */
Test(limit, snapshot_that_waits)
{
	struct lab l;
	struct image *over;
	struct vm *vm, *clone;
	struct vm_report r;
	struct vm_config c;

	require_path(FAULTS_UFFD);
	lab_open(&l, POOL);
	c = lab_config(&l, 64 * MIB, 2, FAULTS_UFFD, NULL);
	c.limit_bytes = 16 * MIB;
	c.limit_copies = true;
	vm = lab_boot(&c, "stamp", "size=32M rounds=2");
	r = lab_run(vm);
	cr_assert_eq(r.event, VM_NOMEM, "event %d: %s", r.event, r.text);
	cr_assert_eq(r.short_of, SHORT_OF_LIMIT);
	cr_assert(strstr(r.text, "no frame for guest address 0x"), "%s", r.text);
	cr_assert(strstr(r.text, "limit 16 MiB, in use 16 MiB: 16 MiB own, 0 KiB copies"), "%s",
	          r.text);
	cr_assert_leq(use_of(vm).owned_frames, use_of(vm).limit_frames);
	if (!lab_frames_can_wait()) {
		lab_expect_given_up(vm);
	} else {
		over = lab_snapshot(vm);
		clone = lab_clone(&l, over, 2, FAULTS_AUTO, NULL);
		lab_expect(clone, VM_READY, 0);
		lab_expect(clone, VM_EXITED, 0);
		vm_destroy(clone);
		space_resume(vm_space(vm), 64 * MIB >> MM_PAGE_SHIFT);
		lab_expect(vm, VM_READY, 0);
		lab_expect(vm, VM_EXITED, 0);
		image_put(over);
	}
	vm_destroy(vm);
	lab_close(&l);
}

/* Two VMs, one pool: the greedy one is told; the other finishes, and what it had is the first's. */
Test(limit, pool_of_two)
{
	struct lab l;
	struct vm_config c;
	struct vm *greedy, *modest;
	struct vm_report r;

	require_path(FAULTS_UFFD);
	lab_open(&l, 48 * MIB);
	c = lab_config(&l, 64 * MIB, 1, FAULTS_UFFD, NULL);
	modest = lab_boot(&c, "stamp", "size=8M rounds=3");
	lab_expect(modest, VM_READY, 0);
	greedy = lab_boot(&c, "stamp", "size=34M rounds=2");
	r = lab_run(greedy);
	cr_assert_eq(r.event, VM_NOMEM, "event %d: %s", r.event, r.text);
	cr_assert_eq(r.short_of, SHORT_OF_POOL, "%s", r.text);
	cr_assert(strstr(r.text, "the pool is exhausted: 48 MiB of 48 MiB in use"), "%s", r.text);
	lab_audit(&l, greedy);
	lab_expect(modest, VM_EXITED, 0);
	vm_destroy(modest);
	if (lab_frames_can_wait()) {
		lab_expect(greedy, VM_READY, 0);
		lab_expect(greedy, VM_EXITED, 0);
	}
	vm_destroy(greedy);
	lab_close(&l);
}

/* ---- commands ---- */

/* Input for memwalk: write the first `pages` pages of what it walks. */
static void write_order(const char *path, uint32_t pages)
{
	struct memwalk_order head = {
		.magic = MEMWALK_MAGIC, .version = MEMWALK_VERSION, .touches = pages};
	FILE *f = fopen(path, "w");

	cr_assert_not_null(f);
	cr_assert_eq(fwrite(&head, sizeof(head), 1, f), 1);
	for (uint32_t i = 0; i < pages; i++) {
		uint32_t entry = i | MEMWALK_WRITE | MEMWALK_PAGE |
		                 (i % (uint32_t)MM_BLOCK_PAGES ? 0 : MEMWALK_BLOCK);

		cr_assert_eq(fwrite(&entry, sizeof(entry), 1, f), 1);
	}
	cr_assert_eq(fclose(f), 0);
}

/* One greedy clone among twelve: it fails with a line of its own, the others are as they were. */
Test(limit, one_greedy_clone)
{
	const char *image = scratch("t.cow"), *inputs = scratch("inputs");
	struct said s = run(ARGS("run", "--mem", "64M", "--save", image, guest("memwalk"), "--",
	                         "size=32M", "order=input", "ready=1"));

	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	cr_assert_eq(mkdir(inputs, 0700), 0);
	for (unsigned i = 1; i <= 12; i++) {
		char path[4096];

		snprintf(path, sizeof(path), "%s/%02u", inputs, i);
		write_order(path, i == 7 ? 8192 : 100);
	}
	s = run(ARGS("clone", "-j", "2", "--limit", "4M", "--inputs", inputs, "--output",
	             scratch("out"), image));
	cr_assert_eq(s.status, 125, "%d: %s", s.status, s.err);
	cr_assert_eq(lines(s.err), 1, "%s", s.err);
	cr_assert(strstr(s.err, "cowslip: clone 7: out of memory: limit 4 MiB, in use "), "%s",
	          s.err);
	cr_assert(strstr(s.err, "; allow more with --limit"), "%s", s.err);
	said_free(&s);
	s = run(ARGS("clone", "--limit", "64M", "--inputs", inputs, "--output", scratch("out2"),
	             image));
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
}

/* After it was saved a guest copies what it had; that counts as well. */
Test(limit, run_that_goes_on)
{
	const char *image = scratch("t.cow");
	struct said s = run(ARGS("run", "--limit", "24M", "--mem", "64M", "--save", image,
	                         "--go-on", guest("stamp"), "--", "size=16M", "rounds=3"));

	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	/* Its frames are the image's now: with 12 MiB of its own it fails, 16 fit. */
	s = run(ARGS("clone", "--limit", "12M", image));
	cr_assert_eq(s.status, 125, "%s", s.err);
	cr_assert(strstr(s.err, "clone 1: out of memory: limit 12 MiB, in use 1"), "%s", s.err);
	said_free(&s);
	s = run(ARGS("clone", "--limit", "20M", image));
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
}

/* ---- --ctl ---- */

static json_t *must(const char *const *args)
{
	struct said s = run(args);
	json_t *reply;

	cr_assert_eq(s.status, 0, "%s %s: %s", args[0], args[2], s.err);
	reply = last_json(s.out);
	said_free(&s);
	return reply;
}

static json_t *vm_of(json_t *stats, json_int_t id)
{
	json_t *vms = json_object_get(stats, "vms");

	for (size_t i = 0; i < json_array_size(vms); i++)
		if (json_at(json_array_get(vms, i), "id") == id)
			return json_array_get(vms, i);
	cr_assert(false, "no VM %lld", id);
	return NULL;
}

/* Wait until VM `id` is in `state`. Return: its use in bytes. */
static json_int_t wait_state(const char *sock, json_int_t id, const char *state)
{
	for (unsigned i = 0; i < pace_patience(1000); i++) {
		json_t *stats = must(ARGS("ctl", sock, "stats")), *vm = vm_of(stats, id);
		const char *is = json_string_value(json_object_get(vm, "state"));
		json_int_t used = json_at(vm, "used_bytes");
		bool starved = strcmp(is, "starved") == 0, found = strcmp(is, state) == 0;

		if (found && starved)
			cr_assert(json_object_get(vm, "why") && used > json_at(vm, "limit_bytes"));
		cr_assert(starved || !json_object_get(vm, "why"));
		json_decref(stats);
		if (found)
			return used;
		usleep(10000);
	}
	cr_assert(false, "VM %lld never was %s", id, state);
	return 0;
}

/*
 * A child over its limit stands still while its parent runs; it can be looked at, paused, saved,
 * forked, given more, and stopped.
 */
Test(limit, ctl)
{
	const char *sock = scratch("sock"), *image = scratch("over.cow");
	struct running r = start(ARGS("run", "--ctl", sock, "--mem", "64M", guest("stamp"), "--",
	                              "size=16M", "rounds=0", "every=1"),
	                         NULL);
	struct said s;
	json_t *reply;

	for (unsigned i = 0; i < pace_patience(1000) && access(sock, F_OK); i++)
		usleep(10000);
	wait_state(sock, 0, "running");
	reply = must(ARGS("ctl", sock, "fork"));
	cr_assert_eq(json_at(reply, "id"), 1);
	json_decref(reply);
	reply = must(ARGS("ctl", sock, "limit", "6M", "1"));
	cr_assert_eq(json_at(reply, "limit_bytes"), 6 << 20);
	json_decref(reply);
	wait_state(sock, 1, "starved");
	wait_state(sock, 0, "running");
	/* To try again is not enough. */
	json_decref(must(ARGS("ctl", sock, "resume", "1")));
	wait_state(sock, 1, "starved");
	json_decref(must(ARGS("ctl", sock, "pause", "1")));
	wait_state(sock, 1, "starved");
	json_decref(must(ARGS("ctl", sock, "save", image, "1")));
	/* With a higher limit it only is as paused as it was told to be. */
	json_decref(must(ARGS("ctl", sock, "limit", "1G", "1")));
	wait_state(sock, 1, "paused");
	json_decref(must(ARGS("ctl", sock, "resume", "1")));
	wait_state(sock, 1, "running");
	json_decref(must(ARGS("ctl", sock, "limit", "4M", "1")));
	wait_state(sock, 1, "starved");
	/* Its child has copied nothing yet, and may have as much. */
	reply = must(ARGS("ctl", sock, "fork", "1"));
	cr_assert_eq(json_at(reply, "id"), 2);
	json_decref(reply);
	wait_state(sock, 2, "starved");
	json_decref(must(ARGS("ctl", sock, "stop", "1")));
	json_decref(must(ARGS("ctl", sock, "limit", "64M", "2")));
	wait_state(sock, 2, "running");
	refused(ARGS("ctl", sock, "limit", "5000", "2"), "whole pages");
	refused(ARGS("ctl", sock, "limit"), "to how much?");
	refused(ARGS("ctl", sock, "limit", "4M", "all"), "one VM at a time");
	refused(ARGS("ctl", sock, "limit", "4M", "1"), "VM 1: there is none");
	wait_state(sock, 0, "running");
	json_decref(must(ARGS("ctl", sock, "stop")));
	s = finish(&r);
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_geq(lines_with(s.err, "cowslip: VM 1, a fork, stands still, out of memory: "), 3,
	              "%s", s.err);
	cr_assert_eq(lines_with(s.err, "cowslip: VM 2, a fork, stands still, out of memory: "), 1,
	             "%s", s.err);
	cr_assert_eq(lines_with(s.err, "cowslip: the guest"), 0, "%s", s.err);
	said_free(&s);
	/* What was saved goes on. */
	s = run(ARGS("clone", "--timeout", "2", image));
	cr_assert_eq(s.status, 124, "%s", s.err);
	cr_assert_gt(lines_with(s.out, "round "), 0, "%s", s.out);
	said_free(&s);
}

/* ---- the host's limits ---- */

/* All mappings that this process may have, but for a few. */
struct crowd {
	uint8_t *start;
	size_t size;
};

static struct crowd crowd_in(void)
{
	struct crowd c = {.size = 4 * UINT64_C(70000) * MM_PAGE_SIZE};

	c.start = mmap(NULL, c.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	cr_assert_neq(c.start, MAP_FAILED);
	for (size_t at = 0; at < c.size; at += 2 * MM_PAGE_SIZE)
		if (mprotect(c.start + at, MM_PAGE_SIZE, PROT_READ) < 0)
			return c;
	munmap(c.start, c.size);
	cr_skip_test("this host permits more mappings than fit");
	return c;
}

static void crowd_out(struct crowd c)
{
	cr_assert_eq(munmap(c.start, c.size), 0);
}

/* No mapping for a block: the guest stands still, the report says why; later it goes on. */
Test(limit, mappings_of_a_guest)
{
	struct lab l;
	struct vm_config c;
	struct vm_report r;
	struct image *image;
	struct vm_error err;
	struct crowd crowd;
	struct vm *vm, *other;
	int e;

	require_path(FAULTS_UFFD);
	lab_open(&l, POOL);
	c = lab_config(&l, 64 * MIB, 1, FAULTS_UFFD, NULL);
	vm = lab_boot(&c, "stamp", "size=16M rounds=2");
	crowd = crowd_in();
	r = lab_run(vm);
	cr_assert_eq(r.event, VM_NOMEM, "event %d: %s", r.event, r.text);
	cr_assert_eq(r.short_of, SHORT_OF_HOST);
	cr_assert(strstr(r.text, "no frame for guest address") &&
	                  strstr(r.text, "raise sysctl vm.max_map_count"),
	          "%s", r.text);
	e = vm_create(&c, &other, &err);
	cr_assert_eq(e, -ENOMEM, "%d", e);
	cr_assert(strstr(err.text, "raise sysctl vm.max_map_count"), "%s", err.text);
	crowd_out(crowd);
	lab_audit(&l, vm);
	if (lab_frames_can_wait()) {
		lab_expect(vm, VM_READY, 0);
		crowd = crowd_in();
		e = vm_snapshot(vm, &image, &err);
		crowd_out(crowd);
		cr_assert(e == 0 || strstr(err.text, "vm.max_map_count"), "%s", err.text);
		if (e == 0)
			image_put(image);
		lab_audit(&l, vm);
		lab_expect(vm, VM_EXITED, 0);
	}
	vm_destroy(vm);
	lab_close(&l);
}

/*
 * Where nobody would look whether a guest copies too much, it does not run; one that has no limit
 * does.
 */
Test(limit, no_timer)
{
	struct lab l;
	struct rlimit before;
	struct vm *vm, *free;
	struct vm_report r;

	lab_open(&l, POOL);
	{
		struct image *image = stamps(&l, 1, "size=16M rounds=2");

		vm = limited_clone(&l, image, 1, 8 * MIB, FAULTS_AUTO);
		free = limited_clone(&l, image, 2, 0, FAULTS_AUTO);
		image_put(image);
	}
	cr_assert_eq(getrlimit(RLIMIT_SIGPENDING, &before), 0);
	cr_assert_eq(setrlimit(RLIMIT_SIGPENDING, &(struct rlimit){0, before.rlim_max}), 0);
	vm_run(vm, 0, &r);
	cr_assert_eq(r.event, VM_FAILED, "event %d: %s", r.event, r.text);
	cr_assert_eq(r.code, -EAGAIN, "%d", r.code);
	cr_assert(strstr(r.text, "a timer for the limit"), "%s", r.text);
	vm_run(free, 0, &r);
	cr_assert(r.event == VM_EXITED && r.code == 0, "event %d: %s", r.event, r.text);
	cr_assert_eq(setrlimit(RLIMIT_SIGPENDING, &before), 0);
	vm_destroy(vm);
	vm_destroy(free);
	lab_close(&l);
}

static struct vm_report in_thread;

/* KVM_RUN finds no memory, in this thread and for ever: as when KVM cannot make tables. */
static void *run_without_memory(void *vm)
{
	lab_refuse_ioctl(KVM_RUN, ENOMEM);
	vm_run(vm, 0, &in_thread);
	return vm;
}

/* It stands still; another thread, with memory, takes it on. */
Test(limit, no_memory_in_kvm)
{
	struct lab l;
	struct vm_config c;
	pthread_t thread;
	struct vm *vm;

	lab_open(&l, POOL);
	c = lab_config(&l, 64 * MIB, 1, FAULTS_AUTO, NULL);
	vm = lab_boot(&c, "stamp", "size=4M rounds=2");
	lab_expect(vm, VM_READY, 0);
	cr_assert_eq(pthread_create(&thread, NULL, run_without_memory, vm), 0);
	cr_assert_eq(pthread_join(thread, NULL), 0);
	cr_assert_eq(in_thread.event, VM_NOMEM, "event %d: %s", in_thread.event, in_thread.text);
	cr_assert_eq(in_thread.short_of, SHORT_OF_HOST);
	cr_assert(strstr(in_thread.text, "KVM_RUN: the host has none: Cannot allocate memory"),
	          "%s", in_thread.text);
	lab_expect(vm, VM_EXITED, 0);
	vm_destroy(vm);
	lab_close(&l);
}

/* Too few descriptors for this or that: one line, which names the limit; enough of them will do. */
Test(limit, descriptors)
{
	const char *image = scratch("t.cow");
	unsigned refusals = 0;
	struct said s = run(ARGS("run", "--save", image, guest("counter")));

	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	for (unsigned i = 0; i < 2; i++) {
		const char *const *args = i ? ARGS("clone", "-n", "2", "-j", "1", image)
		                            : ARGS("run", guest("hello"));

		for (unsigned files = 4; files <= 24; files++) {
			char named[64];

			s = run_in(args, &(struct circumstances){.files = files});
			snprintf(named, sizeof(named), "may have %u: raise ulimit -n", files);
			refusals += s.status == 125;
			cr_assert(s.status == 0 || s.status == 125, "%s %u: %d", args[0], files,
			          s.status);
			if (s.status)
				cr_assert(lines_with(s.err, "cowslip: ") == lines(s.err) &&
				                  strstr(s.err, named),
				          "%s, %u: %s", args[0], files, s.err);
			cr_assert(files < 24 || s.status == 0, "%s", s.err);
			said_free(&s);
		}
	}
	cr_assert_geq(refusals, 6);
}

/* Forks that there are no descriptors for: refused, and the parent runs on. */
Test(limit, descriptors_of_forks)
{
	const char *sock = scratch("sock");
	struct running r = start(ARGS("run", "--ctl", sock, "--mem", "16M", guest("stamp"), "--",
	                              "size=1M", "rounds=0"),
	                         &(struct circumstances){.files = 40});
	unsigned forks = 0;
	struct said s;

	for (unsigned i = 0; i < pace_patience(1000) && access(sock, F_OK); i++)
		usleep(10000);
	do {
		s = run(ARGS("ctl", sock, "fork"));
		if (s.status == 0)
			said_free(&s);
	} while (s.status == 0 && ++forks < 40);
	cr_assert_eq(s.status, 125);
	cr_assert(lines(s.err) == 1 && strstr(s.err, "may have 40: raise ulimit -n"), "%s", s.err);
	cr_assert_geq(forks, 2);
	said_free(&s);
	wait_state(sock, 0, "running");
	wait_state(sock, 1, "running");
	json_decref(must(ARGS("ctl", sock, "stop", "1")));
	/* Room again. */
	json_decref(must(ARGS("ctl", sock, "fork")));
	json_decref(must(ARGS("ctl", sock, "stop")));
	s = finish(&r);
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_str_empty(s.err);
	said_free(&s);
}
