// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_shell.c - VMs that are used again: a clone in one is to the bit what it would be
 * in a new VM, whatever the last one did and whatever was done to it.
 *
 * The guest is a script whose clones each do what their input says: the list they go on with.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "tests/kvm/lab.h"
#include "tests/kvm/pace.h"
#include "tests/kvm/script.h"
#include "tests/kvm/twin.h"
#include "vmm/shell.h"
#include "vmm/vm_internal.h"

#define POOL   (256 * MIB)
#define FETCH  (SCRIPT_REQUEST + 0x1000) /* the request for the list */
#define LEAVE  (SCRIPT_REQUEST + 0x2000)
#define SAY    (SCRIPT_REQUEST + 0x3000)
#define TELL   (SCRIPT_REQUEST + 0x4000)
#define FORK   (SCRIPT_REQUEST + 0x5000)
#define ERRAND UINT64_C(0x580000) /* where the list comes to lie */
#define PAGE   MM_PAGE_SIZE

/* ---- the image ---- */

/* At READY; then each clone does what its input says. The other vCPUs count. */
static struct image *errand_image_of(const struct lab *l, unsigned cpus, bool irqchip)
{
	const struct step first[] = {
		{STEP_RING, SCRIPT_REQUEST, 0}, {STEP_RING, FETCH, 0}, {STEP_GOTO, ERRAND, 0}};
	struct vm_config c = lab_config(l, SCRIPT_RAM, cpus, FAULTS_AUTO, NULL);
	struct image *image;
	struct vm *vm;

	c.irqchip = irqchip;
	vm = lab_make(&c);
	script_boot(vm);
	script_request(vm, SCRIPT_REQUEST, ABI_READY, 0, 0, 0);
	script_request(vm, FETCH, ABI_INPUT, 0, ERRAND, PAGE);
	script_request(vm, LEAVE, ABI_EXIT, 7, 0, 0);
	script_request(vm, SAY, ABI_WRITE, 0, SCRIPT_DATA, 6);
	script_request(vm, TELL, ABI_OUTPUT, 0, SCRIPT_DATA, 6);
	script_request(vm, FORK, ABI_FORK, 0, 0, 0);
	cr_assert_eq(space_write(vm_space(vm), (gpa_t){SCRIPT_DATA}, "hello\n", 6), 0);
	/* A page of each kind that a clone may change: with data, zero, never written. */
	for (uint64_t i = 0; i < 64; i++)
		script_set_word(vm, SCRIPT_DATA + (1 + i) * PAGE, 0x1234 + i);
	script_list(vm, 0, first, 3);
	for (unsigned cpu = 1; cpu < cpus; cpu++) {
		const struct step count[] = {
			{STEP_COUNT, SCRIPT_DATA + 0x800 + 8 * cpu, 0},
			{STEP_GOTO, SCRIPT_LIST(cpu), 0},
		};

		script_list(vm, cpu, count, 2);
	}
	lab_expect(vm, VM_READY, 0);
	image = lab_snapshot(vm);
	vm_destroy(vm);
	return image;
}

static struct image *errand_image(const struct lab *l, unsigned cpus)
{
	return errand_image_of(l, cpus, false);
}

/* Handed over by a guest. */
struct heard {
	unsigned messages;
	char last[8];
};

static void hear(void *ctx, const void *data, size_t size)
{
	struct heard *h = ctx;

	h->messages++;
	memcpy(h->last, data, size < 7 ? size : 7);
}

static const struct step just_leave[] = {{STEP_RING, LEAVE, 0}};

static struct vm_config clone_config(const struct lab *l, struct image *image, uint64_t number,
                                     enum fault_choice faults, struct tape *t)
{
	return (struct vm_config){
		.kvm = &l->kvm,
		.pool = l->pool,
		.image = image,
		.number = number,
		.faults = faults,
		.console = t ? tape_write : NULL,
		.console_ctx = t,
		.mailbox = {.input = just_leave, .input_size = sizeof(just_leave)},
	};
}

static struct vm *take(struct shells *s, const struct vm_config *c)
{
	struct vm_error err = {""};
	struct vm *vm = NULL;
	int r = shells_take(s, c, &vm, &err);

	cr_assert_eq(r, 0, "%d: %s", r, err.text);
	return vm;
}

static struct shells *store(unsigned most)
{
	struct shells *s;

	cr_assert_eq(shells_create(most, &s), 0);
	return s;
}

/* A store, and what its VMs are clones of. */
struct shop {
	struct lab l;
	struct image *image;
	struct vm_config c;
	struct shells *s;
};

static void shop_open(struct shop *p, unsigned most, enum fault_choice faults)
{
	p->s = store(most);
	lab_open(&p->l, POOL);
	p->image = errand_image(&p->l, 1);
	p->c = clone_config(&p->l, p->image, 1, faults, NULL);
}

static void shop_close(struct shop *p)
{
	shells_destroy(p->s);
	image_put(p->image);
	lab_close(&p->l);
}

static struct shells_stats stats_of(struct shells *s)
{
	struct shells_stats stats;

	shells_stats(s, &stats);
	return stats;
}

static void expect_stats(struct shells *s, uint64_t made, uint64_t reused, uint64_t refused,
                         unsigned idle)
{
	struct shells_stats is = stats_of(s);

	cr_assert(is.made == made && is.reused == reused && is.refused == refused &&
	                  is.idle == idle,
	          "made %lu, reused %lu, refused %lu, idle %u", is.made, is.reused, is.refused,
	          is.idle);
}

/* ---- to the bit ---- */

static void bit_for_bit(unsigned cpus, bool irqchip, enum fault_choice faults)
{
	/* Each page that is copied stops all other vCPUs for a moment: an emulator's is long. */
	const struct step busy[] = {
		{STEP_STORE, SCRIPT_DATA + 0x100, 0xabcdef},
		{STEP_TOUCH, SCRIPT_DATA + 2 * PAGE, 40},
		{STEP_TOUCH, SCRIPT_DATA + 4 * MIB, pace_rounds(600, 100)},
		{STEP_RING, SAY, 0},
		{STEP_PRINT, SCRIPT_DATA, 6},
		{STEP_RING, TELL, 0},
		{STEP_RING, LEAVE, 0},
	};
	static struct tape ta, tb;
	struct heard ha = {0}, hb = {0};
	struct shells *s = store(2);
	uint64_t seed = lab_seed();
	struct image *image;
	struct vm_config c;
	struct lab l;

	lab_open(&l, POOL);
	image = errand_image_of(&l, cpus, irqchip);
	for (unsigned round = 0; round < pace_rounds(6, 3); round++) {
		struct vm *fresh, *used;
		struct vm_error err;

		c = clone_config(&l, image, 100 + round, faults, &tb);
		c.mailbox = (struct vm_mailbox){busy, sizeof(busy), hear, &hb};
		c.arg = round % 2 ? "odd" : NULL;
		used = take(s, &c);
		c.console_ctx = &ta;
		c.mailbox.ctx = &ha;
		cr_assert_eq(vm_create(&c, &fresh, &err), 0, "%s", err.text);
		twin_same(fresh, used);
		ta = tb = (struct tape){0};
		ha = hb = (struct heard){0};
		lab_expect(fresh, VM_EXITED, 7);
		lab_expect(used, VM_EXITED, 7);
		if (cpus == 1)
			twin_same_memory(fresh, used);
		cr_assert_str_eq(ta.text, "hello\nhello\n");
		cr_assert_str_eq(tb.text, ta.text);
		cr_assert(hb.messages == 1 && strcmp(hb.last, "hello\n") == 0);
		cr_assert(ha.messages == 1);
		twin_spoil(used, &seed);
		shells_give(s, used, VM_EXITED);
		expect_stats(s, 1, round, 0, 1);
		vm_destroy(fresh);
	}
	shells_destroy(s);
	image_put(image);
	lab_close(&l);
}

TEST_BOTH_PATHS(shell, bit_for_bit)
{
	bit_for_bit(1, false, faults);
}

TEST_BOTH_PATHS(shell, bit_for_bit_of_three)
{
	bit_for_bit(3, false, faults);
}

TEST_BOTH_PATHS(shell, bit_for_bit_with_controllers)
{
	bit_for_bit(2, true, faults);
}

/* ---- whose VM is used again ---- */

static void expect_result(const struct lab *l, struct image *image, const struct step *steps,
                          size_t size, enum vm_event end, bool kept)
{
	struct shells *s = store(1);
	struct vm_config c = clone_config(l, image, 1, FAULTS_AUTO, NULL);
	struct vm_report r;
	struct vm *vm;

	c.mailbox.input = steps;
	c.mailbox.input_size = size;
	vm = take(s, &c);
	r = lab_run_for(vm, SECOND / 5);
	cr_assert_eq(r.event, end, "event %d, wanted %d: %s", r.event, end, r.text);
	shells_give(s, vm, r.event);
	expect_stats(s, 1, 0, !kept, kept);
	shells_destroy(s);
}

Test(shell, ends)
{
	static const struct step crash[] = {{STEP_RING, UINT64_C(0x123456789000), 0}};
	static const struct step busy[] = {{STEP_COUNT, SCRIPT_DATA, 0}, {STEP_GOTO, ERRAND, 0}};
	static const struct step fork[] = {{STEP_RING, FORK, 0}, {STEP_RING, LEAVE, 0}};
	struct image *child;
	struct vm_error err;
	struct shop p;
	struct vm *vm;

	shop_open(&p, 4, FAULTS_AUTO);
	expect_result(&p.l, p.image, just_leave, sizeof(just_leave), VM_EXITED, true);
	expect_result(&p.l, p.image, crash, sizeof(crash), VM_CRASHED, false);
	expect_result(&p.l, p.image, busy, sizeof(busy), VM_TIMEOUT, false);
	expect_result(&p.l, p.image, fork, sizeof(fork), VM_FORK, false);

	/* A VM that forked is a clone of another image now, however it ends. */
	p.c.mailbox = (struct vm_mailbox){.input = fork, .input_size = sizeof(fork)};
	vm = take(p.s, &p.c);
	lab_expect(vm, VM_FORK, 0);
	child = lab_snapshot(vm);
	cr_assert_eq(vm_answer_fork(vm, 2), 0);
	lab_expect(vm, VM_EXITED, 7);
	shells_give(p.s, vm, VM_EXITED);
	image_put(child);
	expect_stats(p.s, 1, 0, 1, 0);

	/* A kick may come late: nobody else's VM may get it. */
	p.c.mailbox = (struct vm_mailbox){.input = busy, .input_size = sizeof(busy)};
	vm = take(p.s, &p.c);
	vm_kick(vm);
	lab_expect(vm, VM_KICKED, 0);
	shells_give(p.s, vm, VM_EXITED);
	expect_stats(p.s, 2, 0, 2, 0);

	/* What its owner protected stays so. */
	vm = take(p.s, &p.c);
	cr_assert_eq(vm_protect(vm, (struct gpa_range){{SCRIPT_DATA}, PAGE}, PROTECT_RO, &err), 0);
	shells_give(p.s, vm, VM_READY);
	expect_stats(p.s, 3, 0, 3, 0);

	/* Never run at all. */
	shells_give(p.s, take(p.s, &p.c), VM_READY);
	expect_stats(p.s, 4, 0, 3, 1);
	shop_close(&p);
}

/* A kick that comes when nobody has the VM, or between a reset and the run after it. */
Test(shell, late_kicks)
{
	struct vm_error err;
	struct shop p;
	struct vm *vm;

	shop_open(&p, 1, FAULTS_AUTO);
	vm = take(p.s, &p.c);
	shells_give(p.s, vm, VM_READY);
	vm_kick(vm);
	vm = take(p.s, &p.c);
	lab_expect(vm, VM_EXITED, 7);
	shells_give(p.s, vm, VM_EXITED);
	expect_stats(p.s, 2, 0, 1, 1);
	vm = take(p.s, &p.c);
	vm_kick(vm);
	cr_assert_eq(vm_reset(vm, 1, NULL, &err), 0);
	lab_expect(vm, VM_EXITED, 7);
	/* Another one may be under way. */
	shells_give(p.s, vm, VM_EXITED);
	expect_stats(p.s, 2, 1, 2, 0);
	shop_close(&p);
}

/* What no VM takes throws none away. */
Test(shell, an_argument_too_long)
{
	static char arg[ABI_ARGS_MAX + 1];
	struct vm_error err;
	struct shop p;
	struct vm *vm;

	shop_open(&p, 2, FAULTS_AUTO);
	cr_assert_eq(shells_prepare(p.s, &p.c, 2, &err), 0);
	memset(arg, 'a', ABI_ARGS_MAX);
	p.c.arg = arg;
	cr_assert_eq(shells_take(p.s, &p.c, &vm, &err), -EINVAL);
	cr_assert_not_null(strstr(err.text, "argument longer than"), "%s", err.text);
	expect_stats(p.s, 2, 0, 0, 2);
	shop_close(&p);
}

/* Another image, path or limit wants another VM; more than may be kept are not. */
Test(shell, fits)
{
	struct vm_error err;
	struct vm_config other;
	struct image *second;
	struct shop p;
	struct vm *vm[3];

	shop_open(&p, 2, FAULTS_KERNEL);
	second = errand_image(&p.l, 1);
	cr_assert_eq(shells_prepare(p.s, &p.c, 5, &err), 0);
	expect_stats(p.s, 3, 0, 0, 2);
	other = p.c;
	other.image = second;
	shells_give(p.s, take(p.s, &other), VM_READY);
	expect_stats(p.s, 4, 0, 0, 2);
	other = p.c;
	other.limit_bytes = 4 * MIB;
	shells_give(p.s, take(p.s, &other), VM_READY);
	expect_stats(p.s, 5, 0, 0, 2);
	for (unsigned i = 0; i < 3; i++)
		vm[i] = take(p.s, &p.c);
	expect_stats(p.s, 6, 2, 0, 0);
	for (unsigned i = 0; i < 3; i++) {
		lab_expect(vm[i], VM_EXITED, 7);
		shells_give(p.s, vm[i], VM_EXITED);
	}
	expect_stats(p.s, 6, 2, 0, 2);
	image_put(second);
	shop_close(&p);
}

/* ---- done with an input ---- */

static void expect_answer(struct vm *vm, struct heard *h, const char *input, const char *answer)
{
	*h = (struct heard){0};
	vm_set_input(vm, input, strlen(input));
	lab_expect(vm, VM_NEXT, 0);
	cr_assert_eq(h->messages, 1);
	cr_assert_str_eq(h->last, answer);
}

/* One input after the other as it is, by resets, in a clone taken in between; and no more. */
Test(next, goes_on_or_back)
{
	struct heard h;
	struct vm_error err;
	struct vm_config c;
	struct image *image;
	struct vm *vm, *clone;
	struct lab l;

	lab_open(&l, POOL);
	c = lab_config(&l, SCRIPT_RAM, 1, FAULTS_AUTO, NULL);
	c.mailbox = (struct vm_mailbox){.output = hear, .ctx = &h};
	vm = lab_boot(&c, "parse", NULL);
	lab_expect(vm, VM_READY, 0);
	cr_assert_eq(vm_answer_next(vm), -EINVAL);
	image = lab_snapshot(vm);
	expect_answer(vm, &h, "1+1", "2\n");
	cr_assert_eq(vm_answer_fork(vm, 1), -EINVAL);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(vm_answer_next(vm), 0);
		cr_assert_eq(vm_answer_next(vm), -EINVAL);
		expect_answer(vm, &h, "7 *3", "21\n");
		cr_assert_eq(vm_reset(vm, 9 + i, NULL, &err), 0, "%s", err.text);
		expect_answer(vm, &h, "2-5", "-3\n");
	}
	image_put(image);

	/* A clone taken here goes on with an input of its own. */
	image = lab_snapshot(vm);
	c.image = image;
	c.number = 1;
	cr_assert_eq(vm_create(&c, &clone, &err), 0, "%s", err.text);
	expect_answer(clone, &h, "100", "100\n");
	lab_expect(clone, VM_EXITED, 0);
	vm_destroy(clone);
	image_put(image);

	/* Not answered: there is no more, and the guest ends itself. */
	lab_expect(vm, VM_EXITED, 0);
	vm_destroy(vm);
	lab_close(&l);
}

/* ---- many ---- */

struct burst {
	struct shells *shells;
	const struct lab *lab;
	struct image *image;
	uint64_t first, clones, nonce;
	unsigned wrong;
};

/* Counters, one after the other; each must find the template's values. */
static void *burst(void *arg)
{
	struct burst *b = arg;
	struct tape *t = malloc(sizeof(*t));

	for (uint64_t i = 0; t && i < b->clones; i++) {
		struct vm_config c = clone_config(b->lab, b->image, b->first + i, FAULTS_AUTO, t);
		char want[128];
		struct vm_report r;
		struct vm_error err;
		struct vm *vm;

		*t = (struct tape){0};
		if (shells_take(b->shells, &c, &vm, &err)) {
			b->wrong++;
			break;
		}
		vm_run(vm, clock_ns() + 60 * SECOND, &r);
		snprintf(want, sizeof(want), "nonce %016lx clone %lu increments %lu table ok\n",
		         b->nonce, c.number, c.number);
		b->wrong += r.event != VM_EXITED || r.code != 0 || strcmp(t->text, want) != 0;
		shells_give(b->shells, vm, r.event);
	}
	b->wrong += !t;
	free(t);
	return NULL;
}

/* Two threads clone from one image at once, out of one store. */
Test(shell, two_threads)
{
	static struct tape t;
	struct shells *s = store(2);
	struct footprint before;
	struct burst b[2];
	pthread_t threads[2];
	struct image *image;
	struct vm_config c;
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	before = footprint_now();
	c = lab_config(&l, 32 * MIB, 1, FAULTS_AUTO, &t);
	vm = lab_boot(&c, "counter", "table=1M");
	lab_expect(vm, VM_READY, 0);
	image = lab_snapshot(vm);
	vm_destroy(vm);
	for (unsigned i = 0; i < 2; i++) {
		b[i] = (struct burst){s, &l, image, 1 + 1000 * i, 500, tape_hex(&t, "nonce"), 0};
		cr_assert_eq(pthread_create(&threads[i], NULL, burst, &b[i]), 0);
	}
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(pthread_join(threads[i], NULL), 0);
		cr_assert_eq(b[i].wrong, 0, "%u clones of thread %u", b[i].wrong, i);
	}
	expect_stats(s, stats_of(s).made, 1000 - stats_of(s).made, 0, stats_of(s).idle);
	cr_assert(stats_of(s).made <= 2 && stats_of(s).idle >= 1);
	shells_destroy(s);
	image_put(image);
	footprint_expect(before, 16);
	lab_close(&l);
}
