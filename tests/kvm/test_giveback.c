// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_giveback.c - guests that give memory back: the host really has it again, from a
 * fresh machine, from clones, on both fault paths, and from several vCPUs at once.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/giveback.h"
#include "tests/kvm/lab.h"
#include "tests/kvm/script.h"

#define POOL  (256 * MIB)
#define RAM   (32 * MIB)
#define SIZE  (8 * MIB)
#define PAGE  MM_PAGE_SIZE
#define PAGES (SIZE / PAGE)
#define SLACK 16u /* pages the guest and the VMM touch meanwhile */

/* What a VM's memory costs the host, in pages. */
struct cost {
	uint64_t frames; /* behind the pool's file: its st_blocks */
	uint64_t copies; /* private copies of the space's */
	uint64_t rss;    /* resident in this process, of memory and no file (its share) */
};

struct watcher {
	const struct lab *lab;
	struct vm *vm;
	unsigned steps;
	struct cost cost[GIVEBACK_STEPS];
};

/*
 * As a walk over the mappings finds it: the counters that are cheap to read lag behind. Without
 * files, whose share depends on who else runs the same libraries just then.
 */
static uint64_t resident_pages(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "re");
	uint64_t pages = 0;
	char line[128];

	cr_assert(f);
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, "Pss_Anon:", 9) == 0 || strncmp(line, "Pss_Shmem:", 10) == 0)
			pages += strtoull(strchr(line, ':') + 1, NULL, 10) / (PAGE >> 10);
	cr_assert_eq(fclose(f), 0);
	cr_assert_gt(pages, 0);
	return pages;
}

/* On the vCPU's thread, between two of the guest's steps. */
static void look(void *ctx, const void *data, size_t size)
{
	struct watcher *w = ctx;
	struct space_stats ss;
	struct pool_stats ps;
	uint64_t step;

	cr_assert_eq(size, sizeof(step));
	memcpy(&step, data, sizeof(step));
	cr_assert_eq(step, w->steps);
	cr_assert_lt(step, GIVEBACK_STEPS);
	pool_stats(w->lab->pool, &ps);
	cr_assert_eq(space_stats(vm_space(w->vm), &ss), 0);
	w->cost[w->steps++] =
		(struct cost){ps.committed_frames, ss.private_frames, resident_pages()};
}

static void expect_given(const struct watcher *w, unsigned full, uint64_t least)
{
	const struct cost *a = &w->cost[full], *b = &w->cost[full + 1];

	cr_assert_geq(a->frames + a->copies, b->frames + b->copies + least,
	              "frames %lu to %lu, copies %lu to %lu", a->frames, b->frames, a->copies,
	              b->copies);
	cr_assert_geq(a->rss, b->rss + least, "resident pages: %lu to %lu", a->rss, b->rss);
}

static void run_to_end(struct watcher *w)
{
	w->steps = 0;
	lab_expect(w->vm, VM_EXITED, 0);
	cr_assert_eq(w->steps, GIVEBACK_STEPS);
	expect_given(w, GIVEBACK_FULL, PAGES - SLACK);
	expect_given(w, GIVEBACK_FULL_AGAIN, PAGES - 6 - SLACK);
	lab_audit(w->lab, w->vm);
}

static struct vm_config watched(struct lab *l, struct watcher *w, enum fault_choice faults)
{
	struct vm_config c = lab_config(l, RAM, 1, faults, NULL);

	w->lab = l;
	c.mailbox = (struct vm_mailbox){.output = look, .ctx = w};
	return c;
}

TEST_BOTH_PATHS(giveback, fresh_machine)
{
	struct watcher w = {0};
	struct vm_config c;
	struct lab l;

	lab_open(&l, POOL);
	c = watched(&l, &w, faults);
	w.vm = lab_boot(&c, "giveback", "size=8M");
	lab_expect(w.vm, VM_READY, 0);
	run_to_end(&w);
	vm_destroy(w.vm);
	lab_close(&l);
}

/* A clone gives back its copies, not the image; another clone, and a reset, find that unharmed. */
TEST_BOTH_PATHS(giveback, clones)
{
	struct watcher w = {0};
	struct image *image;
	struct vm_config c;
	struct lab l;

	lab_open(&l, POOL);
	c = watched(&l, &w, faults);
	w.vm = lab_boot(&c, "giveback", "size=8M");
	lab_expect(w.vm, VM_READY, 0);
	image = lab_snapshot(w.vm);
	vm_destroy(w.vm);
	c.image = image;
	for (c.number = 1; c.number <= 2; c.number++) {
		struct vm_error err = {""};

		w.vm = lab_make(&c);
		run_to_end(&w);
		cr_assert_eq(vm_reset(w.vm, 10 + c.number, "", &err), 0, "%s", err.text);
		run_to_end(&w);
		vm_destroy(w.vm);
	}
	image_put(image);
	lab_close(&l);
}

#define REQUEST(n) (SCRIPT_REQUEST + (uint64_t)(n)*0x2000)

static int32_t discard_once(struct vm *vm, uint64_t start, uint64_t size)
{
	const struct step steps[] = {{STEP_RING, REQUEST(0), 0}, {STEP_RING, REQUEST(1), 0}};

	script_request(vm, REQUEST(0), ABI_DISCARD, 0, start, size);
	script_request(vm, REQUEST(1), ABI_EXIT, 0, 0, 0);
	script_list(vm, 0, steps, 2);
	lab_expect(vm, VM_EXITED, 0);
	return script_result(vm, REQUEST(0));
}

/* Every answer the ABI names that needs no shortage; what is refused has changed nothing. */
TEST_BOTH_PATHS(giveback, answers)
{
	static const struct {
		uint64_t start, size;
		int32_t result;
	} cases[] = {
		{SCRIPT_DATA, PAGE, 0},
		{SCRIPT_DATA, SCRIPT_RAM - SCRIPT_DATA, 0},
		{SCRIPT_DATA, 0, -EINVAL},
		{SCRIPT_DATA + 1, PAGE, -EINVAL},
		{SCRIPT_DATA, PAGE + 1, -EINVAL},
		{SCRIPT_DATA, -PAGE, -EINVAL},
		{SCRIPT_DATA, SCRIPT_RAM, -EFAULT},
		{-PAGE, PAGE, -EINVAL},
		{UINT64_C(0xd0000000), PAGE, -EFAULT},
		{SCRIPT_RAM - PAGE, 2 * PAGE, -EFAULT},
		{SCRIPT_DATA + 2 * PAGE, PAGE, -EACCES},
		{SCRIPT_DATA, 3 * PAGE, -EACCES},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct vm_error err = {""};
		struct vm_config c;
		struct lab l;
		struct vm *vm;

		lab_open(&l, POOL);
		c = lab_config(&l, SCRIPT_RAM, 1, faults, NULL);
		vm = lab_make(&c);
		script_boot(vm);
		script_set_word(vm, SCRIPT_DATA, 77);
		if (cases[i].result == -EACCES)
			cr_assert_eq(vm_protect(vm,
			                        (struct gpa_range){{SCRIPT_DATA + 2 * PAGE}, PAGE},
			                        PROTECT_RO, &err),
			             0, "%s", err.text);
		cr_assert_eq(discard_once(vm, cases[i].start, cases[i].size), cases[i].result,
		             "case %zu", i);
		cr_assert_eq(script_word(vm, SCRIPT_DATA), cases[i].result ? 77 : 0, "case %zu", i);
		lab_audit(&l, vm);
		vm_destroy(vm);
		lab_close(&l);
	}
}

/* A request that is itself given back is answered, in memory that reads as zero but for that. */
TEST_BOTH_PATHS(giveback, the_request_too)
{
	struct abi_request answer;
	struct vm_config c;
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	c = lab_config(&l, SCRIPT_RAM, 1, faults, NULL);
	vm = lab_make(&c);
	script_boot(vm);
	cr_assert_eq(discard_once(vm, REQUEST(0), PAGE), 0);
	script_answer(vm, REQUEST(0), &answer);
	cr_assert_eq(answer.op, 0);
	cr_assert_eq(answer.size, 0);
	vm_destroy(vm);
	lab_close(&l);
}

/* vCPUs give back and write areas of their own in one block at once: nobody loses a store. */
TEST_BOTH_PATHS(giveback, many_at_once)
{
	enum { CPUS = 4, ROUNDS = 10, MINE = 5 };
	struct step steps[3 * ROUNDS + 1];
	struct vm_config c;
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	c = lab_config(&l, SCRIPT_RAM, CPUS, faults, NULL);
	vm = lab_make(&c);
	script_boot(vm);
	for (uint64_t cpu = 0; cpu < CPUS; cpu++) {
		uint64_t at = SCRIPT_DATA + cpu * MINE * PAGE;

		script_request(vm, REQUEST(cpu), ABI_DISCARD, 0, at, (MINE - 1) * PAGE);
		for (unsigned i = 0; i < ROUNDS; i++) {
			steps[3 * i] = (struct step){STEP_TOUCH, at, MINE};
			steps[3 * i + 1] = (struct step){STEP_RING, REQUEST(cpu), 0};
			steps[3 * i + 2] = (struct step){STEP_COUNT, at + (MINE - 1) * PAGE + 8, 0};
		}
		steps[3 * ROUNDS] = (struct step){STEP_HALT, 0, 0};
		script_list(vm, (unsigned)cpu, steps, 3 * ROUNDS);
	}
	lab_run_for(vm, SECOND);
	for (uint64_t cpu = 0; cpu < CPUS; cpu++) {
		uint64_t at = SCRIPT_DATA + cpu * MINE * PAGE, kept = at + (MINE - 1) * PAGE;

		/* Busy, the last time, where another vCPU's request was being served. */
		int64_t r = script_result(vm, REQUEST(cpu));

		cr_assert(r == 0 || r == -EBUSY, "vCPU %lu: %ld", cpu, r);
		cr_assert_eq(script_word(vm, kept), kept);
		cr_assert_eq(script_word(vm, kept + 8), ROUNDS, "vCPU %lu", cpu);
		for (uint64_t page = at; page < kept; page += PAGE)
			cr_assert_eq(script_word(vm, page), r ? page : 0);
	}
	lab_audit(&l, vm);
	vm_destroy(vm);
	lab_close(&l);
}
