// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_engine.c - many clones in worker processes: each reported once, however it ends,
 * with what it wrote and what it cost.
 *
 * Environment: COWSLIP_CLONES: how many live and die in `generations` (600; `make soak-clones` has
 * 100,000).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/kvm/fleet.h"
#include "tests/kvm/pace.h"

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
	/* One VM in each worker; only the first clone in it was not in another's. */
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
	bool told;

	f->config.hold = true;
	fleet_run(f);
	expect_all(f, CLONE_EXITED);
	told = f->last[1].kvm_tables_known;
	for (unsigned i = 1; i <= count; i++) {
		const struct clone_result *r = &f->last[i];
		uint64_t bytes = r->space.private_frames << MM_PAGE_SHIFT;

		cr_assert_eq(r->space.owned_committed, 0);
		cr_assert(bytes >= 8 * MM_PAGE_SIZE && bytes <= 256 << 10, "%lu", bytes);
		cr_assert_eq(clone_unique_bytes(r), bytes + r->table_bytes + r->kvm_table_bytes);
		cr_assert_eq(r->kvm_tables_known, told, "clone %u", i);
		cr_assert(!told || r->kvm_table_bytes >= 4 * MM_PAGE_SIZE, "clone %u: %lu", i,
		          r->kvm_table_bytes);
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
	cr_assert_gt(s->before.available_bytes, 0);
	cr_assert_gt(s->held.available_bytes, 0);
	cr_assert_gt(s->after.available_bytes, 0);
	if (s->held.kernel_bytes > s->before.kernel_bytes + count * (UINT64_C(64) << 10))
		expect_given_back(&s->before, &s->held);
	fleet_free(f);
}

/* Clones one after the other in one machine, in a machine each, and all alive at once. */
static void live_and_die(unsigned round, uint64_t count)
{
	struct fleet *f = fleet_make(guest_image("counter", NULL, 64 * MIB, VM_READY), count, 2);

	f->config.no_reuse = round % 3 == 1;
	f->config.hold = round % 3 == 2;
	fleet_run(f);
	expect_all(f, CLONE_EXITED);
	expect_counters(f);
	fleet_free(f);
}

/* What a round leaves is looked for in fleet_run(); here, whether something stays by and by. */
Test(engine, generations)
{
	const char *given = getenv("COWSLIP_CLONES");
	uint64_t count = given ? strtoull(given, NULL, 10) : pace_rounds(600, 60);
	uint64_t each = min_u64(1000, count / 6), done = 0;
	struct procmem before = {0}, after;
	struct hostmem first = {0}, last;

	cr_assert_gt(each, 0);
	for (unsigned round = 0; done < count; round++, done += each) {
		live_and_die(round, each);
		if (round != 2)
			continue;
		cr_assert_eq(procmem_read(getpid(), &before), 0);
		hostmem_read(&first);
	}
	cr_assert_eq(procmem_read(getpid(), &after), 0);
	hostmem_read(&last);
	printf("%" PRIu64 " clones: anonymous memory %" PRIu64 " to %" PRIu64
	       " KiB, kernel memory %" PRIu64 " to %" PRIu64 " KiB\n",
	       done, before.anonymous_bytes >> 10, after.anonymous_bytes >> 10,
	       first.kernel_bytes >> 10, last.kernel_bytes >> 10);
	cr_assert_leq(after.anonymous_bytes, before.anonymous_bytes + 2 * MIB);
	cr_assert_leq(after.page_table_bytes, before.page_table_bytes + MIB / 4);
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

/* The first clone takes its time. */
static enum clone_ready wait_for_first(void *ctx, struct vm *vm, struct vm_error *why)
{
	(void)ctx;
	(void)why;
	if (vm_number(vm) == 1)
		usleep(500000);
	return CLONE_GOES_ON;
}

/* Behind it is room for the last ones: that the other worker is full makes no third one. */
Test(engine, held_clones_wait_for_room)
{
	struct image *image = guest_image("memwalk", "size=64K ready=2", 16 * MIB, VM_READY);
	struct fleet *f = fleet_make(image, 16, 2);

	f->config.per_process = 8;
	f->config.hold = true;
	f->config.ready = wait_for_first;
	fleet_run(f);
	expect_all(f, CLONE_EXITED);
	cr_assert_eq(f->summary.workers, 2, "%u workers", f->summary.workers);
	cr_assert_eq(f->summary.alive, 16);
	fleet_free(f);
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
	script_request(s.vm, leave, ABI_EXIT, 0, 0, 0);
	f = fleet_make(script_image(&s), 3, 1);
	f->config.limit_bytes = 2 * MIB;
	fleet_run(f);
	expect_all(f, CLONE_FAILED);
	for (unsigned i = 1; i <= 3; i++)
		cr_assert(f->last[i].short_of == SHORT_OF_LIMIT &&
		                  strstr(f->last[i].text, "limit 2 MiB, in use "),
		          "%s", f->last[i].text);
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
