// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_vm.c - real guests in real VMs: what they print, what their clones see, and that
 * nothing stays behind when they go, in whatever order.
 */
#include <stdio.h>
#include <string.h>

#include "guest/abi.h"
#include "tests/kvm/lab.h"
#include "tests/kvm/pace.h"
#include "vmm/family.h"

#define POOL (512 * MIB)

/* ---- every program ---- */

TEST_BOTH_PATHS(vm, hello)
{
	static struct tape t;
	struct lab l;

	lab_open(&l, POOL);
	for (unsigned cpus = 1; cpus <= 4; cpus *= 2) {
		struct vm_config c = lab_config(&l, 16 * MIB, cpus, faults, &t);
		struct vm *vm = lab_boot(&c, "hello", "one two");
		struct vm_times times;
		char line[64];

		t = (struct tape){0};
		lab_expect(vm, VM_EXITED, 0);
		snprintf(line, sizeof(line), "%u vCPU%s, 16 MiB RAM, arguments: \"one two\"\n",
		         cpus, cpus == 1 ? "" : "s");
		cr_assert(strstr(t.text, line), "%s", t.text);
		vm_times(vm, &times);
		cr_assert(times.asked < times.created && times.created <= times.running &&
		          times.running < times.first_output && times.first_output < times.ended);
		lab_audit(&l, vm);
		vm_destroy(vm);
	}
	lab_close(&l);
}

/* Reads zeros, writes, and checks what the others wrote: from racing vCPUs. */
TEST_BOTH_PATHS(vm, smp)
{
	static struct tape t;
	struct lab l;

	lab_open(&l, POOL);
	for (unsigned cpus = 1; cpus <= 4; cpus *= 2) {
		struct vm_config c = lab_config(&l, 32 * MIB, cpus, faults, &t);
		struct vm *vm = lab_boot(&c, "smp", "blocks=4");
		char line[64];

		t = (struct tape){0};
		lab_expect(vm, VM_EXITED, 0);
		snprintf(line, sizeof(line), "smp: %u vCPUs ok\n", cpus);
		cr_assert_str_eq(t.text, line);
		lab_audit(&l, vm);
		vm_destroy(vm);
	}
	lab_close(&l);
}

TEST_BOTH_PATHS(vm, memwalk)
{
	static const char *const plans[] = {
		"size=8M pattern=seq access=write",
		"size=8M pattern=random access=rw seed=7",
		"size=8M pattern=stride:17 access=read",
	};
	struct lab l;

	lab_open(&l, POOL);
	for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
		static struct tape t;
		struct vm_config c = lab_config(&l, 32 * MIB, 2, faults, &t);
		struct vm *vm = lab_boot(&c, "memwalk", plans[i]);

		t = (struct tape){0};
		lab_expect(vm, VM_EXITED, 0);
		cr_assert(t.total > 0);
		lab_audit(&l, vm);
		vm_destroy(vm);
	}
	lab_close(&l);
}

Test(vm, exit_codes)
{
	static const struct {
		const char *args;
		int code;
	} cases[] = {{"exit 0", 0}, {"exit 7", 7}, {"exit 255", 255}, {"nonsense", 2}};
	struct lab l;

	lab_open(&l, POOL);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct vm_config c = lab_config(&l, 16 * MIB, 1, FAULTS_AUTO, NULL);
		struct vm *vm = lab_boot(&c, "crash", cases[i].args);

		lab_expect(vm, VM_EXITED, cases[i].code);
		vm_destroy(vm);
	}
	lab_close(&l);
}

/* A crash names where and with what registers. */
TEST_BOTH_PATHS(vm, crashes)
{
	static const struct {
		const char *args, *what, *registers;
	} cases[] = {
		{"triple", "triple fault", "rip="}, {"port", "trap 13", "pc 0x"},
		{"jump", "trap 14", "pc 0x"},       {"write", "trap 14", "address 0x123456789000"},
		{"halt", "trap 13", "r15 "},        {"illegal", "trap 6", "sp 0x"},
	};
	struct lab l;

	lab_open(&l, POOL);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct vm_config c = lab_config(&l, 16 * MIB, 1, faults, NULL);
		struct vm *vm = lab_boot(&c, "crash", cases[i].args);
		struct vm_report r = lab_run(vm);

		cr_assert_eq(r.event, VM_CRASHED, "%s: event %d", cases[i].args, r.event);
		cr_assert(strstr(r.text, cases[i].what), "%s: %s", cases[i].args, r.text);
		cr_assert(strstr(r.text, cases[i].registers), "%s: %s", cases[i].args, r.text);
		cr_assert_lt(strlen(r.text), sizeof(r.text) - 1, "cut off");
		lab_audit(&l, vm);
		vm_destroy(vm);
	}
	lab_close(&l);
}

/* ---- clones ---- */

/* Run to the end and check the line that a counter prints: its own number, the nonce it must. */
static void expect_counter(struct vm *vm, struct tape *t, uint64_t nonce, uint64_t number)
{
	char want[128];

	lab_expect(vm, VM_EXITED, 0);
	snprintf(want, sizeof(want), "nonce %016lx clone %lu increments %lu table ok", nonce,
	         number, number);
	cr_assert(strstr(t->text, want), "want \"%s\" in \"%s\"", want, t->text);
}

/* Siblings and the VM they come from, each after the other has written the same pages. */
TEST_BOTH_PATHS(vm, clones_are_isolated)
{
	static struct tape t, clone_tape[3];
	struct image *image;
	struct vm *clone[3];
	struct lab l;
	struct vm_config c;
	struct vm *vm;
	uint64_t nonce;

	lab_open(&l, POOL);
	c = lab_config(&l, 32 * MIB, 1, faults, &t);
	vm = lab_boot(&c, "counter", "check=all");
	lab_expect(vm, VM_READY, 0);
	nonce = tape_hex(&t, "nonce");
	image = lab_snapshot(vm);
	lab_audit(&l, vm);
	for (unsigned i = 0; i < 2; i++)
		clone[i] = lab_clone(&l, image, i + 5, faults, &clone_tape[i]);
	expect_counter(clone[0], &clone_tape[0], nonce, 5);
	expect_counter(vm, &t, nonce, 0);
	vm_destroy(vm);
	clone[2] = lab_clone(&l, image, 1000, faults, &clone_tape[2]);
	image_put(image);
	expect_counter(clone[2], &clone_tape[2], nonce, 1000);
	expect_counter(clone[1], &clone_tape[1], nonce, 6);
	for (unsigned i = 0; i < 3; i++) {
		lab_audit(&l, clone[i]);
		vm_destroy(clone[i]);
	}
	lab_close(&l);
}

/* What a clone learns of itself differs from what its sibling learns. */
Test(vm, clones_have_argument)
{
	static struct tape t;
	struct vm_error err;
	struct image *image;
	struct vm *vm, *clone;
	struct lab l;
	struct vm_config c;
	char longest[ABI_ARGS_MAX + 1];

	lab_open(&l, POOL);
	c = lab_config(&l, 32 * MIB, 1, FAULTS_AUTO, NULL);
	vm = lab_boot(&c, "counter", NULL);
	lab_expect(vm, VM_READY, 0);
	image = lab_snapshot(vm);
	vm_destroy(vm);

	c = lab_config(&l, 0, 0, FAULTS_AUTO, &t);
	c.image = image;
	c.number = 1;
	memset(longest, 'x', sizeof(longest));
	longest[ABI_ARGS_MAX] = '\0';
	c.arg = longest;
	cr_assert_eq(vm_create(&c, &clone, &err), -EINVAL);
	longest[ABI_ARGS_MAX - 1] = '\0';
	clone = lab_make(&c);
	lab_expect(clone, VM_EXITED, 0);
	cr_assert(strstr(t.text, longest));
	vm_destroy(clone);
	image_put(image);
	lab_close(&l);
}

/* A snapshot is a snapshot: taken again without a step in between, it is the same machine. */
TEST_BOTH_PATHS(vm, snapshot_of_idle_clone)
{
	static struct tape t, u;
	struct image *first, *second;
	struct vm *vm, *clone, *again;
	struct lab l;
	struct vm_config c;
	uint64_t nonce;

	lab_open(&l, POOL);
	c = lab_config(&l, 32 * MIB, 1, faults, &t);
	vm = lab_boot(&c, "counter", NULL);
	lab_expect(vm, VM_READY, 0);
	nonce = tape_hex(&t, "nonce");
	first = lab_snapshot(vm);
	vm_destroy(vm);
	clone = lab_clone(&l, first, 3, faults, NULL);
	image_put(first);
	second = lab_snapshot(clone);
	vm_destroy(clone);
	again = lab_clone(&l, second, 4, faults, &u);
	image_put(second);
	/* Who it is was written when the first clone was made, and is memory like any other. */
	expect_counter(again, &u, nonce, 3);
	lab_audit(&l, again);
	vm_destroy(again);
	lab_close(&l);
}

#define CHAIN 4u

/* forktree to its next fork; the child that comes of it, or NULL when it has ended. */
static struct vm *fork_chain(const struct lab *l, struct vm *vm, uint64_t number,
                             enum fault_choice faults)
{
	struct image *image;
	struct vm *child;

	lab_expect(vm, VM_FORK, 0);
	image = lab_snapshot(vm);
	child = lab_clone(l, image, number, faults, NULL);
	image_put(image);
	cr_assert_eq(vm_answer_fork(vm, (int32_t)number), 0);
	cr_assert_eq(vm_answer_fork(vm, (int32_t)number), -EINVAL);
	return child;
}

/* The n-th order of CHAIN things. */
static void permutation(unsigned n, unsigned *order)
{
	unsigned left[CHAIN];

	for (unsigned i = 0; i < CHAIN; i++)
		left[i] = i;
	for (unsigned i = 0; i < CHAIN; i++) {
		unsigned k = n % (CHAIN - i);

		n /= CHAIN - i;
		order[i] = left[k];
		memmove(left + k, left + k + 1, (CHAIN - i - 1 - k) * sizeof(*left));
	}
}

/*
 * A VM, its clone, the clone's clone and that one's clone, ending in every order. Each checks its
 * ancestors' data when it ends, with whoever has ended before it gone.
 */
TEST_BOTH_PATHS(vm, chain_dies_in_any_order)
{
	/* In steps of 5 too, each of them is the first to end once. */
	const unsigned step = pace_rounds(24, 5) == 24 ? 1 : 5;
	struct lab l;

	lab_open(&l, POOL);
	for (unsigned n = 0; n < 24; n += step) {
		struct vm_config c = lab_config(&l, 16 * MIB, 1, faults, NULL);
		struct vm *vm[CHAIN];
		unsigned order[CHAIN];

		vm[0] = lab_boot(&c, "forktree", "3");
		for (unsigned i = 1; i < CHAIN; i++)
			vm[i] = fork_chain(&l, vm[i - 1], i, faults);
		permutation(n, order);
		for (unsigned i = 0; i < CHAIN; i++) {
			lab_expect(vm[order[i]], VM_EXITED, 0);
			lab_audit(&l, vm[order[i]]);
			vm_destroy(vm[order[i]]);
		}
	}
	lab_close(&l);
}

/* A FORK that nobody makes a child for fails in the guest, which says so. */
Test(vm, unanswered_fork)
{
	static struct tape t;
	struct lab l;
	struct vm_config c;
	struct vm *vm;

	lab_open(&l, POOL);
	c = lab_config(&l, 16 * MIB, 1, FAULTS_AUTO, &t);
	vm = lab_boot(&c, "forktree", "1");
	lab_expect(vm, VM_FORK, 0);
	lab_expect(vm, VM_EXITED, 5);
	cr_assert(strstr(t.text, "fork failed: errno 11"), "%s", t.text);
	cr_assert_eq(vm_answer_fork(vm, 1), -EINVAL);
	vm_destroy(vm);
	lab_close(&l);
}

/* ---- out of frames ---- */

/* Lift the limit block by block whenever the VM stops for want of frames. Return: how often. */
static unsigned run_hungry(struct vm *vm, uint64_t limit_frames, uint64_t step_frames)
{
	unsigned stops = 0;

	for (;;) {
		struct vm_report r = lab_run(vm);

		if (r.event == VM_EXITED) {
			cr_assert_eq(r.code, 0);
			return stops;
		}
		cr_assert_eq(r.event, VM_NOMEM, "event %d: %s", r.event, r.text);
		cr_assert(strstr(r.text, "no frame for guest address 0x"), "%s", r.text);
		stops++;
		limit_frames += step_frames;
		space_resume(vm_space(vm), limit_frames);
	}
}

/* Where the kernel cannot pause it, it has been reported as well, before it is given up. */
static void run_starving(struct vm *vm)
{
	lab_expect(vm, VM_NOMEM, 0);
	space_resume(vm_space(vm), 32 * MIB >> MM_PAGE_SHIFT);
	lab_expect_given_up(vm);
}

Test(vm, nomem_resumes)
{
	struct lab l;

	require_path(FAULTS_UFFD);
	lab_open(&l, POOL);
	for (unsigned cpus = 1; cpus <= 4; cpus *= 2) {
		static struct tape t;
		struct vm_config c = lab_config(&l, 32 * MIB, cpus, FAULTS_UFFD, &t);
		struct vm *vm;

		c.limit_bytes = 4 * MIB;
		vm = lab_boot(&c, "memwalk", "size=16M pattern=random");
		if (lab_frames_can_wait())
			cr_assert_geq(run_hungry(vm, 4 * MIB >> MM_PAGE_SHIFT, 2 * MM_BLOCK_PAGES),
			              3);
		else
			run_starving(vm);
		lab_audit(&l, vm);
		vm_destroy(vm);
	}
	lab_close(&l);
}

/* A VM that waits for a frame can be given up. */
Test(vm, nomem_destroyed)
{
	struct footprint before = {0};
	struct lab l;

	require_path(FAULTS_UFFD);
	lab_open(&l, 8 * MIB);
	for (int i = 0; i < 6; i++) {
		struct vm_config c = lab_config(&l, 32 * MIB, 4, FAULTS_UFFD, NULL);
		struct vm *vm;

		/* The first of them fills caches. */
		if (i == 1)
			before = footprint_now();
		vm = lab_boot(&c, "memwalk", "size=24M");
		lab_expect(vm, VM_NOMEM, 0);
		lab_audit(&l, vm);
		vm_destroy(vm);
	}
	footprint_expect(before, 16);
	lab_close(&l);
}

/* ---- the family ---- */

struct births {
	unsigned ended, failed;
	uint64_t numbers[64];
	int code;
};

static bool count_end(void *ctx, struct vm *vm, const struct vm_report *r)
{
	struct births *b = ctx;

	cr_assert_eq(r->event, VM_EXITED, "%s", r->text);
	b->code |= r->code;
	b->numbers[b->ended++ % 64] = vm_number(vm);
	return false;
}

static void count_failure(void *ctx, uint64_t number, int error, const char *why)
{
	struct births *b = ctx;

	(void)number;
	(void)error;
	fprintf(stderr, "%s\n", why);
	b->failed++;
}

static struct births run_family(struct lab *l, const struct vm_config *vm, const char *guest,
                                const char *args, unsigned max_members)
{
	struct births b = {0};
	const struct family_hooks hooks = {.ctx = &b, .ended = count_end, .failed = count_failure};
	const struct family_config c = {
		.vm = *vm,
		.timeout_ns = 60 * SECOND,
		.first_child = 100,
		.child_step = 3,
		.max_members = max_members,
		.hooks = &hooks,
	};
	struct vm_error err;
	struct family *f;

	cr_assert_eq(family_create(&c, &f, &err), 0, "%s", err.text);
	cr_assert_eq(vm_boot_elf(family_root(f), lab_guest(guest), args, &err), 0, "%s", err.text);
	family_run(f);
	cr_assert_eq(family_next_number(f), 100 + 3 * (uint64_t)(b.ended - 1));
	family_destroy(f);
	cr_assert_eq(pool_audit(l->pool), 0);
	return b;
}

TEST_BOTH_PATHS(vm, family_tree)
{
	struct lab l;
	struct vm_config c;
	struct births b;

	lab_open(&l, POOL);
	c = lab_config(&l, 16 * MIB, 1, faults, NULL);
	b = run_family(&l, &c, "forktree", "3 3", 0);
	cr_assert_eq(b.ended, 1 + 3 + 9 + 27);
	cr_assert_eq(b.failed, 0);
	cr_assert_eq(b.code, 0);
	for (unsigned i = 1; i < b.ended; i++)
		cr_assert_eq(b.numbers[i], 100 + 3 * (uint64_t)(i - 1));
	lab_close(&l);
}

/* Sixteen generations, each running when its ancestors are gone. */
TEST_BOTH_PATHS(vm, family_line)
{
	struct lab l;
	struct vm_config c;
	struct births b;

	lab_open(&l, POOL);
	c = lab_config(&l, 16 * MIB, 1, faults, NULL);
	b = run_family(&l, &c, "forktree", "16", 0);
	cr_assert_eq(b.ended, 17);
	cr_assert_eq(b.code, 0);
	lab_close(&l);
}

/* What populates a fresh machine is no matter of its children. */
Test(vm, populated_family)
{
	struct lab l;
	struct vm_config c;
	struct births b;

	lab_open(&l, POOL);
	c = lab_config(&l, 16 * MIB, 1, FAULTS_AUTO, NULL);
	c.populate = true;
	b = run_family(&l, &c, "forktree", "2", 0);
	cr_assert_eq(b.failed, 0);
	cr_assert_eq(b.ended, 3);
	lab_close(&l);
}

/* ---- what may not stay behind ---- */

Test(vm, two_hundred_lives)
{
	const unsigned rounds = pace_rounds(200, 30);
	struct footprint before = {0};
	struct image *image;
	struct vm *vm;
	struct lab l;
	struct vm_config c;

	lab_open(&l, POOL);
	c = lab_config(&l, 16 * MIB, 1, FAULTS_AUTO, NULL);
	vm = lab_boot(&c, "counter", "table=64K");
	lab_expect(vm, VM_READY, 0);
	image = lab_snapshot(vm);
	vm_destroy(vm);
	for (unsigned i = 0; i < rounds; i++) {
		unsigned cpus = 1 + i % 3;

		/* The first round of each kind fills caches of stacks and arenas. */
		if (i == 6)
			before = footprint_now();
		c = lab_config(&l, 16 * MIB, cpus, i % 2 ? FAULTS_UFFD : FAULTS_KERNEL, NULL);
		vm = lab_boot(&c, "hello", NULL);
		if (i % 5)
			lab_expect(vm, VM_EXITED, 0);
		vm_destroy(vm);
		vm = lab_clone(&l, image, i + 1, i % 2 ? FAULTS_KERNEL : FAULTS_UFFD, NULL);
		if (i % 7)
			lab_expect(vm, VM_EXITED, 0);
		vm_destroy(vm);
	}
	footprint_expect(before, 24);
	image_put(image);
	lab_close(&l);
}

/* ---- many at once ---- */

Test(vm, many_alive)
{
	static struct tape t, tapes[40];
	struct vm *vms[40];
	struct image *image;
	struct vm *vm;
	struct lab l;
	struct vm_config c;
	uint64_t nonce;

	lab_open(&l, POOL);
	c = lab_config(&l, 32 * MIB, 1, FAULTS_AUTO, &t);
	vm = lab_boot(&c, "counter", NULL);
	lab_expect(vm, VM_READY, 0);
	nonce = tape_hex(&t, "nonce");
	image = lab_snapshot(vm);
	for (unsigned i = 0; i < 40; i++)
		vms[i] = lab_clone(&l, image, i + 1, FAULTS_AUTO, &tapes[i]);
	image_put(image);
	for (unsigned i = 40; i-- > 0;)
		expect_counter(vms[i], &tapes[i], nonce, i + 1);
	expect_counter(vm, &t, nonce, 0);
	vm_destroy(vm);
	for (unsigned i = 0; i < 40; i++)
		vm_destroy(vms[i * 7 % 40]);
	lab_close(&l);
}
