// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_engine.c - many clones in worker processes: each reported once, whatever happens
 * to the workers, and no process or descriptor left when it is over.
 *
 * Images go through a file, as they do for whoever clones them later.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch/arch.h"
#include "tests/kvm/lab.h"
#include "tests/kvm/pace.h"
#include "tests/kvm/script.h"
#include "vmm/engine.h"
#include "vmm/snapshot.h"

#define MOST 1024u /* numbers looked at one by one */

/* What became of the clones. */
struct fleet {
	struct kvm kvm;
	struct image *image;
	struct engine_config config;
	struct engine_summary summary;

	struct tape tapes[MOST]; /* by number */
	uint64_t hashes[MOST];   /* of all output */
	unsigned ends[MOST][CLONE_LOST + 1];
	struct clone_result last[MOST];
	unsigned messages[MOST];
	uint64_t message_bytes[MOST];
	unsigned reports;
	uint64_t spilt; /* bytes of output of VMs with higher numbers */

	/* What a test wants done when a clone is heard of; 0: nothing. */
	uint64_t act_on_output, act_on_end;
	void (*act)(struct fleet *f);
	pid_t victim;
};

static uint64_t hash_bytes(uint64_t h, const uint8_t *p, size_t size)
{
	for (size_t i = 0; i < size; i++)
		h = (h ^ p[i]) * UINT64_C(0x100000001b3);
	return h;
}

static void on_output(void *ctx, uint64_t number, const void *data, size_t size)
{
	struct fleet *f = ctx;

	if (number >= MOST) {
		f->spilt += size;
		return;
	}
	tape_write(&f->tapes[number], data, size);
	f->hashes[number] = hash_bytes(f->hashes[number], data, size);
	if (number == f->act_on_output) {
		f->act_on_output = 0;
		f->act(f);
	}
}

static void on_end(void *ctx, const struct clone_result *r)
{
	struct fleet *f = ctx;

	cr_assert_lt(r->number, MOST, "number %lu", r->number);
	f->reports++;
	f->ends[r->number][r->end]++;
	f->last[r->number] = *r;
	if (r->number == f->act_on_end) {
		f->act_on_end = 0;
		f->act(f);
	}
}

/* ---- images ---- */

static struct image *through_file(struct image *image)
{
	char path[] = "/tmp/cowslip-fleet-XXXXXX";
	int fd = mkstemp(path);
	struct snapshot_error err;
	struct image *opened;
	int r;

	cr_assert_geq(fd, 0);
	close(fd);
	r = snapshot_save(image, arch_info.isa, 1, path, &err);
	cr_assert_eq(r, 0, "%s", err.text);
	r = snapshot_open(path, arch_info.isa, &opened, NULL, &err);
	cr_assert_eq(r, 0, "%s", err.text);
	unlink(path);
	return opened;
}

/* The image of a VM that has just rung; the VM and its pool are gone. */
static struct image *saved(struct lab *l, struct vm *vm, enum vm_event event)
{
	struct image *image, *opened;

	lab_expect(vm, event, 0);
	image = lab_snapshot(vm);
	vm_destroy(vm);
	opened = through_file(image);
	image_put(image);
	lab_close(l);
	return opened;
}

static struct image *guest_image(const char *guest, const char *args, uint64_t ram,
                                 enum vm_event event)
{
	struct lab l;
	struct vm_config c;

	lab_open(&l, 512 * MIB);
	c = lab_config(&l, ram, 1, FAULTS_AUTO, NULL);
	return saved(&l, lab_boot(&c, guest, args), event);
}

/* A scripted guest that rings READY and then does `steps`. */
struct scripted {
	struct lab l;
	struct vm *vm;
};

static void script_make(struct scripted *s, const struct step *steps, size_t count)
{
	struct step list[64] = {{STEP_RING, SCRIPT_REQUEST, 0}};
	struct vm_config c;

	cr_assert_lt(count, 63);
	memcpy(list + 1, steps, count * sizeof(*steps));
	lab_open(&s->l, 256 * MIB);
	c = lab_config(&s->l, SCRIPT_RAM, 1, FAULTS_AUTO, NULL);
	s->vm = lab_make(&c);
	script_boot(s->vm);
	script_request(s->vm, SCRIPT_REQUEST, ABI_READY, 0, 0, 0);
	script_list(s->vm, 0, list, count + 1);
}

static struct image *script_image(struct scripted *s)
{
	return saved(&s->l, s->vm, VM_READY);
}

/* Says "up" and is busy for ever. */
static struct image *busy_image(void)
{
	const uint64_t say = SCRIPT_REQUEST + 0x1000;
	const struct step steps[] = {
		{STEP_RING, say, 0},
		{STEP_COUNT, SCRIPT_DATA, 0},
		{STEP_GOTO, SCRIPT_LIST(0) + 2 * sizeof(struct step), 0},
	};
	struct scripted s;

	script_make(&s, steps, 3);
	cr_assert_eq(space_write(vm_space(s.vm), (gpa_t){SCRIPT_DATA + 64}, "up\n", 3), 0);
	script_request(s.vm, say, ABI_WRITE, 0, SCRIPT_DATA + 64, 3);
	return script_image(&s);
}

/* ---- fleets ---- */

static struct fleet *fleet_make(struct image *image, uint64_t count, unsigned jobs)
{
	struct fleet *f = calloc(1, sizeof(*f));

	cr_assert(f);
	cr_assert_eq(kvm_open(&f->kvm, NULL), 0);
	f->image = image;
	f->config = (struct engine_config){
		.kvm = &f->kvm,
		.image = image,
		.count = count,
		.jobs = jobs,
		.timeout_ns = 60 * SECOND,
		.ctx = f,
		.output = on_output,
		.ended = on_end,
	};
	return f;
}

static void no_children(void)
{
	cr_assert(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD, "a process is left");
}

static void fleet_run(struct fleet *f)
{
	struct footprint before = footprint_now();
	struct vm_error err = {""};
	int r = engine_run(&f->config, &f->summary, &err);

	cr_assert_eq(r, 0, "%d: %s", r, err.text);
	no_children();
	footprint_expect(before, 16);
}

static void fleet_free(struct fleet *f)
{
	cr_assert_eq(image_refs(f->image), 1);
	image_put(f->image);
	kvm_close(&f->kvm);
	free(f);
}

static unsigned count_ends(const struct fleet *f, enum clone_end end)
{
	unsigned n = 0;

	for (unsigned i = 0; i < MOST; i++)
		n += f->ends[i][end];
	return n;
}

/* Every number has one report, and it is this. */
static void expect_all(const struct fleet *f, enum clone_end end)
{
	cr_assert_eq(f->reports, f->config.count);
	for (uint64_t i = 1; i <= f->config.count; i++)
		cr_assert_eq(f->ends[i][end], 1, "clone %lu: end %d: %s", i, f->last[i].end,
		             f->last[i].text);
	cr_assert_eq(f->summary.workers_lost, 0);
}

/* Every clone printed its own line, nonce and all. */
static void expect_counters(const struct fleet *f)
{
	uint64_t nonce = tape_hex(&f->tapes[1], "nonce");

	for (uint64_t i = 1; i <= f->config.count; i++) {
		char want[128];

		snprintf(want, sizeof(want), "nonce %016lx clone %lu increments %lu table ok%s\n",
		         nonce, i, i, f->config.arg ? " arg \"a b\"" : "");
		cr_assert_str_eq(f->tapes[i].text, want);
		cr_assert_eq(f->last[i].code, 0);
	}
}

Test(engine, hundred_clones)
{
	struct fleet *f = fleet_make(guest_image("counter", NULL, 64 * MIB, VM_READY), 100, 2);
	unsigned fresh = 0;

	f->config.arg = "a b";
	fleet_run(f);
	expect_all(f, CLONE_EXITED);
	expect_counters(f);
	for (unsigned i = 1; i <= 100; i++) {
		const struct clone_result *r = &f->last[i];

		cr_assert_str_eq(r->space.fault_path, "kernel");
		cr_assert(r->space.private_frames > 0 && r->space.shared_frames > 1000);
		cr_assert(r->exits > 0 && r->worker > 0);
		cr_assert(r->times.first_output > r->times.asked);
		cr_assert(r->times.ended >= r->times.first_output);
	}
	cr_assert(f->summary.workers == 2 && f->summary.alive == 0 && f->summary.pss_bytes == 0);
	/* One VM in each worker; the first clone in it is the only one that was not in another's. */
	cr_assert(f->summary.shells_made == 2 && f->summary.shells_reused == 98);
	cr_assert_eq(f->summary.shells_refused, 0);
	for (unsigned i = 1; i <= 100; i++)
		fresh += !f->last[i].reused;
	cr_assert_eq(fresh, 2);
	fleet_free(f);
}

/* The same in a VM of its own each. */
Test(engine, no_reuse)
{
	struct fleet *f = fleet_make(guest_image("counter", NULL, 64 * MIB, VM_READY), 20, 2);

	f->config.no_reuse = true;
	fleet_run(f);
	expect_all(f, CLONE_EXITED);
	expect_counters(f);
	for (unsigned i = 1; i <= 20; i++)
		cr_assert_not(f->last[i].reused);
	cr_assert(f->summary.shells_made == 20 && f->summary.shells_reused == 0);
	fleet_free(f);
}

TEST_BOTH_PATHS(engine, hold_and_share)
{
	struct fleet *f = fleet_make(guest_image("counter", NULL, 64 * MIB, VM_READY), 100, 2);

	f->config.hold = true;
	f->config.faults = faults;
	fleet_run(f);
	expect_all(f, CLONE_EXITED);
	expect_counters(f);
	cr_assert_eq(f->summary.alive, 100);
	cr_assert_eq(f->summary.workers, (100 + ENGINE_PER_PROCESS - 1) / ENGINE_PER_PROCESS);
	cr_assert_gt(f->summary.pss_bytes, 0);
#ifndef __SANITIZE_ADDRESS__
	cr_assert_lt(f->summary.pss_bytes, (64 * MIB) + 100 * (512u << 10), "%lu KiB",
	             f->summary.pss_bytes >> 10);
#endif
	fleet_free(f);
}

/* Kernel memory is given back some time after its owner is gone, and not only ours is counted. */
static void expect_given_back(const struct hostmem *before, const struct hostmem *held)
{
	uint64_t most = before->kernel_bytes + (held->kernel_bytes - before->kernel_bytes) / 2;
	struct hostmem now;

	for (unsigned i = 0; i < 200; i++) {
		hostmem_read(&now);
		if (now.kernel_bytes <= most)
			return;
		usleep(100000);
	}
	cr_assert_fail("kernel memory: %lu KiB before, %lu with all alive, %lu now",
	               before->kernel_bytes >> 10, held->kernel_bytes >> 10,
	               now.kernel_bytes >> 10);
}

/* What clones say they have alone is what the kernel says their workers have, and no more. */
Test(engine, memory_adds_up)
{
	const unsigned count = pace_rounds(1000, 50);
	struct fleet *f = fleet_make(guest_image("counter", NULL, 64 * MIB, VM_READY), count, 2);
	const struct engine_summary *s = &f->summary;
	uint64_t private = 0, tables = 0;

	f->config.hold = true;
	fleet_run(f);
	expect_all(f, CLONE_EXITED);
	for (unsigned i = 1; i <= count; i++) {
		const struct clone_result *r = &f->last[i];
		uint64_t bytes = r->space.private_frames << MM_PAGE_SHIFT;

		cr_assert_eq(r->space.owned_committed, 0);
		cr_assert(bytes >= 8 * MM_PAGE_SIZE && bytes <= 256 << 10, "%lu", bytes);
		cr_assert_eq(clone_unique_bytes(r), bytes + r->table_bytes);
		cr_assert_leq(clone_unique_bytes(r), 192 << 10, "clone %u: %lu", i,
		              clone_unique_bytes(r));
		private += bytes;
		tables += r->table_bytes;
	}
	cr_assert_eq(s->alive, count);
	cr_assert_leq(private, s->private_bytes);
	cr_assert_leq(private, s->anonymous_bytes);
	cr_assert_leq(tables, s->page_table_bytes);
#ifndef __SANITIZE_ADDRESS__
	/* A worker's own heap, stack and tables. */
	cr_assert_lt(s->private_bytes - private, s->workers * MIB);
	cr_assert_lt(s->page_table_bytes - tables, s->workers * MIB / 2);
#endif
	cr_assert_gt(s->held.available_bytes, 0);
	if (s->held.kernel_bytes > s->before.kernel_bytes + count * (UINT64_C(64) << 10))
		expect_given_back(&s->before, &s->held);
	fleet_free(f);
}

/* Few and many, more jobs than clones, one VM in each process. */
Test(engine, counts)
{
	static const struct {
		uint64_t count;
		unsigned jobs, per_process;
		bool hold, quick;
		unsigned workers;
	} cases[] = {
		{1, 1, 0, false, false, 1},        {1, 16, 0, false, true, 1},
		{2, 16, 0, true, false, 2},        {9, 2, 1, true, true, 9},
		{9, 3, UINT32_MAX, true, true, 3}, {13, 0, 0, false, true, 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct image *image = guest_image("counter", "table=64K", 16 * MIB, VM_READY);
		struct fleet *f = fleet_make(image, cases[i].count, cases[i].jobs);

		f->config.per_process = cases[i].per_process;
		f->config.hold = cases[i].hold;
		f->config.quick = cases[i].quick;
		fleet_run(f);
		expect_all(f, CLONE_EXITED);
		expect_counters(f);
		cr_assert_eq(!f->last[1].space.fault_path, cases[i].quick, "case %zu", i);
		if (cases[i].workers)
			cr_assert_leq(f->summary.workers, cases[i].workers, "case %zu: %u workers",
			              i, f->summary.workers);
		fleet_free(f);
	}
}

Test(engine, bad_wishes)
{
	struct fleet *f = fleet_make(guest_image("counter", "table=64K", 16 * MIB, VM_READY), 0, 1);
	struct vm_error err;

	cr_assert_eq(engine_run(&f->config, &f->summary, &err), -EINVAL);
	f->config.count = UINT64_MAX;
	cr_assert_eq(engine_run(&f->config, &f->summary, &err), -EINVAL);
	f->config.count = 1;
	f->config.ended = NULL;
	cr_assert_eq(engine_run(&f->config, &f->summary, &err), -EINVAL);
	cr_assert_eq(f->reports, 0);
	fleet_free(f);
}

/* ---- guests that misbehave ---- */

Test(engine, timeouts)
{
	struct fleet *f = fleet_make(busy_image(), 5, 2);

	f->config.timeout_ns = pace_patience(SECOND / 10);
	fleet_run(f);
	expect_all(f, CLONE_TIMEOUT);
	for (unsigned i = 1; i <= 5; i++)
		cr_assert_str_eq(f->tapes[i].text, "up\n");
	fleet_free(f);
}

Test(engine, crashes)
{
	const struct step ring = {STEP_RING, UINT64_C(0x123456789000), 0};
	struct scripted s;
	struct fleet *f;

	script_make(&s, &ring, 1);
	f = fleet_make(script_image(&s), 7, 2);
	fleet_run(f);
	expect_all(f, CLONE_CRASHED);
	for (unsigned i = 1; i <= 7; i++)
		cr_assert(strstr(f->last[i].text, "0x123456789000"), "%s", f->last[i].text);
	cr_assert(f->summary.shells_made == 7 && f->summary.shells_refused == 7);
	fleet_free(f);
}

/* A clone over its limit fails alone, and says why. */
Test(engine, limits)
{
	const uint64_t leave = SCRIPT_REQUEST + 0x1000;
	const struct step steps[] = {
		{STEP_TOUCH, SCRIPT_DATA + 2 * MIB, 6 * 256},
		{STEP_RING, leave, 0},
	};
	struct scripted s;
	struct fleet *f;

	script_make(&s, steps, 2);
	require_path(FAULTS_UFFD);
	script_request(s.vm, leave, ABI_EXIT, 0, 0, 0);
	f = fleet_make(script_image(&s), 3, 1);
	f->config.limit_bytes = 2 * MIB;
	fleet_run(f);
	expect_all(f, CLONE_FAILED);
	for (unsigned i = 1; i <= 3; i++)
		cr_assert(strstr(f->last[i].text, "no frame"), "%s", f->last[i].text);
	fleet_free(f);
}

#define FLOOD_CHUNK (UINT64_C(1) << 20)
#define FLOOD_TIMES 8u

/* Much output from several clones at once arrives whole, in order, under the right number. */
Test(engine, floods)
{
	const uint64_t write = SCRIPT_REQUEST + 0x1000, leave = SCRIPT_REQUEST + 0x2000;
	struct step steps[FLOOD_TIMES + 1];
	uint8_t *text = malloc(FLOOD_CHUNK);
	uint64_t seed = 42, want = 0;
	struct scripted s;
	struct fleet *f;

	cr_assert(text);
	for (unsigned i = 0; i < FLOOD_TIMES; i++)
		steps[i] = (struct step){STEP_RING, write, 0};
	steps[FLOOD_TIMES] = (struct step){STEP_RING, leave, 0};
	script_make(&s, steps, FLOOD_TIMES + 1);
	for (uint64_t i = 0; i < FLOOD_CHUNK; i++)
		text[i] = (uint8_t)lab_random(&seed);
	cr_assert_eq(space_write(vm_space(s.vm), (gpa_t){SCRIPT_DATA}, text, FLOOD_CHUNK), 0);
	script_request(s.vm, write, ABI_WRITE, 0, SCRIPT_DATA, FLOOD_CHUNK);
	script_request(s.vm, leave, ABI_EXIT, 0, 0, 0);
	for (unsigned i = 0; i < FLOOD_TIMES; i++)
		want = hash_bytes(want, text, FLOOD_CHUNK);
	free(text);
	f = fleet_make(script_image(&s), 6, 3);
	fleet_run(f);
	expect_all(f, CLONE_EXITED);
	for (unsigned i = 1; i <= 6; i++) {
		cr_assert_eq(f->tapes[i].total, FLOOD_TIMES * FLOOD_CHUNK);
		cr_assert_eq(f->hashes[i], want, "clone %u", i);
	}
	fleet_free(f);
}

static void on_message(void *ctx, uint64_t number, const void *data, size_t size)
{
	struct fleet *f = ctx;

	f->messages[number]++;
	f->message_bytes[number] += size;
	f->hashes[number] = hash_bytes(f->hashes[number], data, size);
}

/* Clone n finds n bytes from the n-th on. */
static const void *letter(void *ctx, uint64_t number, size_t *size)
{
	static const char text[] = "abcdefghijklmnopqrstuvwxyz";

	(void)ctx;
	*size = number;
	return text + number;
}

/* Messages of any size arrive whole, what was written for a clone arrives there; NEXT ends it. */
Test(engine, letters_and_messages)
{
	const uint64_t fetch = SCRIPT_REQUEST + 0x1000, small = SCRIPT_REQUEST + 0x2000;
	const uint64_t large = SCRIPT_REQUEST + 0x3000, next = SCRIPT_REQUEST + 0x4000;
	const struct step steps[] = {{STEP_RING, fetch, 0}, {STEP_RING, small, 0},
	                             {STEP_RING, large, 0}, {STEP_RING, small, 0},
	                             {STEP_RING, next, 0},  {STEP_RING, large, 0}};
	uint8_t *bytes = calloc(1, FLOOD_CHUNK);
	struct scripted s;
	struct fleet *f;

	cr_assert(bytes);
	script_make(&s, steps, 6);
	script_request(s.vm, fetch, ABI_INPUT, 0, SCRIPT_DATA, 10);
	script_request(s.vm, small, ABI_OUTPUT, 0, SCRIPT_DATA, 10);
	script_request(s.vm, large, ABI_OUTPUT, 0, SCRIPT_DATA, FLOOD_CHUNK);
	script_request(s.vm, next, ABI_NEXT, 0, 0, 0);
	f = fleet_make(script_image(&s), 9, 2);
	f->config.message = on_message;
	f->config.letter = letter;
	fleet_run(f);
	expect_all(f, CLONE_EXITED);
	for (uint64_t i = 1; i <= 9; i++) {
		size_t size;
		const void *mine = letter(NULL, i, &size);
		uint64_t want;

		memset(bytes, 0, 10);
		memcpy(bytes, mine, size);
		want = hash_bytes(0, bytes, 10);
		want = hash_bytes(want, bytes, FLOOD_CHUNK);
		want = hash_bytes(want, bytes, 10);
		cr_assert_eq(f->messages[i], 3);
		cr_assert_eq(f->message_bytes[i], 20 + FLOOD_CHUNK);
		cr_assert_eq(f->hashes[i], want, "clone %lu", i);
	}
	free(bytes);
	fleet_free(f);
}

/* One that never stops talking does not keep the engine from hearing the others. */
Test(engine, endless_talker)
{
	const uint64_t write = SCRIPT_REQUEST + 0x1000;
	const struct step steps[] = {
		{STEP_RING, write, 0},
		{STEP_GOTO, SCRIPT_LIST(0) + sizeof(struct step), 0},
	};
	struct scripted s;
	struct fleet *f;

	script_make(&s, steps, 2);
	script_request(s.vm, write, ABI_WRITE, 0, SCRIPT_DATA, 4096);
	f = fleet_make(script_image(&s), 4, 2);
	f->config.timeout_ns = SECOND / 2;
	fleet_run(f);
	expect_all(f, CLONE_TIMEOUT);
	for (unsigned i = 1; i <= 4; i++)
		cr_assert_gt(f->tapes[i].total, 4096);
	fleet_free(f);
}

/* Clones that fork: their children have numbers of their own and are reported too. */
Test(engine, families)
{
	struct fleet *f = fleet_make(guest_image("forktree", "3 2", 16 * MIB, VM_FORK), 9, 2);

	for (int hold = 0; hold < 2; hold++) {
		f->config.hold = hold;
		f->reports = 0;
		memset(f->ends, 0, sizeof(f->ends));
		fleet_run(f);
		/* Each clone is a child of level 1: two at level 2, four at level 3. */
		cr_assert_eq(f->reports, 9 * 7);
		for (unsigned i = 1; i <= 9; i++)
			cr_assert_eq(f->ends[i][CLONE_EXITED], 1);
		for (unsigned i = 0; i < MOST; i++) {
			cr_assert_leq(f->ends[i][CLONE_EXITED], 1, "number %u twice", i);
			if (f->ends[i][CLONE_EXITED])
				cr_assert_eq(f->last[i].code, 0, "%u: %s", i, f->tapes[i].text);
		}
		cr_assert_eq(count_ends(f, CLONE_EXITED), 9 * 7);
	}
	fleet_free(f);
}

/* ---- workers that die ---- */

/* Children of process `of` except this one. Return: how many were stored. */
static unsigned children(pid_t of, pid_t not_this, pid_t *out, unsigned most)
{
	char path[64], line[1024] = "";
	unsigned n = 0;
	char *at, *end;
	FILE *list;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", of, of);
	list = fopen(path, "re");
	if (!list)
		return 0;
	at = fgets(line, sizeof(line), list);
	fclose(list);
	while (at && n < most) {
		pid_t pid = (pid_t)strtol(at, &end, 10);

		if (end == at)
			break;
		at = end;
		if (pid != not_this)
			out[n++] = pid;
	}
	return n;
}

static pid_t any_child(void)
{
	pid_t pid;

	cr_assert_eq(children(getpid(), 0, &pid, 1), 1);
	return pid;
}

static void kill_any(struct fleet *f)
{
	f->victim = any_child();
	kill(f->victim, SIGKILL);
}

/* Until process `pid` waits for a message. */
static void await_idle(pid_t pid)
{
	uint64_t deadline = clock_ns() + 20 * SECOND;
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	do {
		cr_assert_lt(clock_ns(), deadline, "worker %d does not come to rest", pid);
		usleep(1000);
		f = fopen(path, "re");
		cr_assert(f, "%s", path);
		if (!fgets(line, sizeof(line), f))
			line[0] = '\0';
		fclose(f);
	} while (strtol(line, NULL, 10) != SYS_recvfrom); /* "running" is 0: not that either */
}

static void stop_any(struct fleet *f)
{
	f->victim = any_child();
	kill(f->victim, SIGSTOP);
}

static void kill_worker_of_1(struct fleet *f)
{
	kill(f->last[1].worker, SIGKILL);
}

/* Killed while its clone runs: that clone is lost, every other runs. */
Test(engine, worker_killed)
{
	const unsigned count = pace_rounds(20, 6);
	struct fleet *f = fleet_make(busy_image(), count, 1);
	unsigned lost = 0;

	f->config.timeout_ns = pace_patience(SECOND / 10);
	f->act_on_output = count / 2;
	f->act = kill_any;
	fleet_run(f);
	cr_assert_eq(f->reports, count);
	for (unsigned i = 1; i <= count; i++) {
		cr_assert_eq(f->ends[i][CLONE_LOST] + f->ends[i][CLONE_TIMEOUT], 1, "clone %u", i);
		if (!f->ends[i][CLONE_LOST])
			continue;
		lost++;
		cr_assert_eq(f->last[i].worker, f->victim);
		cr_assert(strstr(f->last[i].text, "killed by signal 9"), "%s", f->last[i].text);
	}
	cr_assert_eq(lost, 1);
	cr_assert_eq(f->summary.workers_lost, 1);
	fleet_free(f);
}

/*
 * Killed with numbers in its queue that it has not read, and results that nobody has read yet:
 * what it had finished counts.
 */
static void wait_and_kill(struct fleet *f)
{
	await_idle(any_child()); /* the other clones in its queue have ended then */
	kill_any(f);
	usleep(50000);
}

Test(engine, worker_killed_unheard)
{
	const uint64_t leave = SCRIPT_REQUEST + 0x1000, say = SCRIPT_REQUEST + 0x2000;
	const struct step steps[] = {{STEP_RING, say, 0}, {STEP_RING, leave, 0}};
	struct scripted s;
	struct fleet *f;

	script_make(&s, steps, 2);
	cr_assert_eq(space_write(vm_space(s.vm), (gpa_t){SCRIPT_DATA}, "up\n", 3), 0);
	script_request(s.vm, say, ABI_WRITE, 0, SCRIPT_DATA, 3);
	script_request(s.vm, leave, ABI_EXIT, 0, 0, 0);
	f = fleet_make(script_image(&s), 4, 1);
	f->act_on_output = 1;
	f->act = wait_and_kill;
	fleet_run(f);
	/* All four had ended before; no number was lost and none was run again. */
	cr_assert_eq(f->reports, 4);
	for (unsigned i = 1; i <= 4; i++) {
		cr_assert_eq(f->ends[i][CLONE_EXITED], 1, "clone %u: %s", i, f->last[i].text);
		cr_assert_str_eq(f->tapes[i].text, "up\n");
	}
	cr_assert_eq(f->summary.workers_lost, 1);
	fleet_free(f);
}

/* The same with a clone under way: the one before it has ended, those behind it run elsewhere. */
static void kill_in_second(struct fleet *f)
{
	/* The first has timed out then, and the second is busy. */
	usleep((useconds_t)pace_patience(150000));
	kill_any(f);
	usleep(50000);
}

Test(engine, worker_killed_half_heard)
{
	struct fleet *f = fleet_make(busy_image(), 4, 1);

	f->config.timeout_ns = pace_patience(SECOND / 10);
	f->act_on_output = 1;
	f->act = kill_in_second;
	fleet_run(f);
	cr_assert_eq(f->reports, 4);
	cr_assert_eq(f->ends[1][CLONE_TIMEOUT], 1, "%s", f->last[1].text);
	cr_assert_eq(count_ends(f, CLONE_LOST), 1);
	cr_assert_eq(count_ends(f, CLONE_TIMEOUT), 3);
	for (unsigned i = 1; i <= 4; i++)
		if (f->ends[i][CLONE_TIMEOUT])
			cr_assert_str_eq(f->tapes[i].text, "up\n");
	fleet_free(f);
}

/* Killed while it holds clones: those are lost too, and only those. */
Test(engine, worker_killed_holding)
{
	struct fleet *f =
		fleet_make(guest_image("counter", "table=64K", 16 * MIB, VM_READY), 12, 1);

	f->config.hold = true;
	f->config.per_process = 3;
	f->act_on_end = 8;
	f->act = kill_worker_of_1;
	fleet_run(f);
	cr_assert_eq(f->reports, 12 + 3);
	cr_assert_eq(count_ends(f, CLONE_EXITED), 12);
	for (unsigned i = 1; i <= 12; i++)
		cr_assert_eq(f->ends[i][CLONE_LOST], i <= 3, "clone %u", i);
	cr_assert(f->summary.workers == 4 && f->summary.workers_lost == 1);
	cr_assert_eq(f->summary.alive, 9);
	fleet_free(f);
}

/* In a process of its own. */
static _Noreturn void kill_children(pid_t of, unsigned most)
{
	pid_t found[8];

	for (unsigned killed = 0; killed < most; usleep(500)) {
		unsigned n = children(of, getpid(), found, 8);

		for (unsigned i = 0; i < n; i++)
			killed += kill(found[i], SIGKILL) == 0;
	}
	_exit(0);
}

/* Killed as soon as they are born, for a while: every clone is reported once all the same. */
Test(engine, workers_killed_young)
{
	struct fleet *f =
		fleet_make(guest_image("counter", "table=64K", 16 * MIB, VM_READY), 60, 2);
	struct vm_error err;
	pid_t self = getpid(), killer = fork();

	cr_assert_geq(killer, 0);
	if (killer == 0)
		kill_children(self, 15);
	cr_assert_eq(engine_run(&f->config, &f->summary, &err), 0, "%s", err.text);
	kill(killer, SIGKILL);
	cr_assert_eq(waitpid(killer, NULL, 0), killer);
	no_children();
	cr_assert_eq(f->reports, 60);
	for (unsigned i = 1; i <= 60; i++)
		cr_assert_eq(f->ends[i][CLONE_LOST] + f->ends[i][CLONE_EXITED], 1, "clone %u", i);
	cr_assert_geq(f->summary.workers_lost, 1);
	/* One at most by each of them: those that were between two clones cost none. */
	cr_assert_leq(count_ends(f, CLONE_LOST), f->summary.workers_lost);
	fleet_free(f);
}

/* One that is stopped is given up some time after its clone's time was over. */
Test(engine, worker_stopped)
{
	struct fleet *f = fleet_make(busy_image(), 4, 2);

	f->config.timeout_ns = pace_patience(SECOND / 10);
	f->config.silence_ns = pace_patience(SECOND / 2);
	f->act_on_output = 2;
	f->act = stop_any;
	fleet_run(f);
	cr_assert_eq(f->reports, 4);
	cr_assert_eq(count_ends(f, CLONE_LOST), 1);
	cr_assert_eq(count_ends(f, CLONE_TIMEOUT), 3);
	for (unsigned i = 1; i <= 4; i++)
		if (f->ends[i][CLONE_LOST])
			cr_assert(strstr(f->last[i].text, "did not answer"), "%s", f->last[i].text);
	fleet_free(f);
}

/* ---- a host that has nothing left ---- */

Test(engine, no_process_to_be_had)
{
	struct fleet *f = fleet_make(guest_image("counter", "table=64K", 16 * MIB, VM_READY), 5, 2);
	const struct rlimit none = {0, 0};
	struct footprint before = footprint_now();
	struct vm_error err = {""};

	/* The limit is not for root. */
	cr_assert_eq(setrlimit(RLIMIT_NPROC, &none), 0);
	if (geteuid() == 0)
		cr_assert_eq(seteuid(65534) | setresuid(65534, 65534, 0), 0);
	cr_assert_eq(engine_run(&f->config, &f->summary, &err), -EAGAIN);
	cr_assert(strstr(err.text, "worker"), "%s", err.text);
	cr_assert_eq(f->reports, 0);
	cr_assert_eq(seteuid(0), 0);
	footprint_expect(before, 8);
	no_children();
	fleet_free(f);
}

/* From too few descriptors for one worker to enough: an error, or every clone reported once. */
Test(engine, few_descriptors)
{
	struct image *image = guest_image("counter", "table=64K", 16 * MIB, VM_READY);
	struct fleet *f = fleet_make(image, 5, 2);
	unsigned refused = 0, failed = 0, more = 0;
	int free_fd = dup(0);
	struct rlimit all, few;

	close(free_fd);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &all), 0);
	for (few = all;; more++) {
		struct footprint before = footprint_now();
		struct vm_error err = {""};
		int r;

		f->reports = 0;
		memset(f->ends, 0, sizeof(f->ends));
		few.rlim_cur = (rlim_t)free_fd + more;
		cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
		r = engine_run(&f->config, &f->summary, &err);
		cr_assert_eq(setrlimit(RLIMIT_NOFILE, &all), 0);
		no_children();
		footprint_expect(before, 16);
		if (r) {
			cr_assert_eq(r, -EMFILE, "%d: %s", r, err.text);
			refused++;
			continue;
		}
		cr_assert_eq(f->reports, 5, "%u more: %u reports", more, f->reports);
		if (count_ends(f, CLONE_EXITED) == 5)
			break;
		for (unsigned i = 1; i <= 5; i++)
			if (f->ends[i][CLONE_FAILED])
				cr_assert(f->last[i].text[0]);
		failed++;
		cr_assert_lt(more, 50);
	}
	cr_assert(refused > 0 && failed > 0, "%u refused, %u failed", refused, failed);
	fleet_free(f);
}
