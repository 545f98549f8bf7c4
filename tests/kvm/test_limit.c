// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_limit.c - guests that want more than they may have: they stand still, nothing of
 * theirs is lost, what they can be given lets them go on, and nobody else notices.
 *
 * guest/stamp checks all it has written, and would end with 3 or 4.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
	cr_assert_gt(used, use.limit_frames);
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
			cr_assert_eq(r.event, VM_NOMEM);
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
	refused(ARGS("ctl", sock, "limit", "4M", "all"), "which VM");
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
