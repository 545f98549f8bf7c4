// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_reset.c - real guests that go back to their image, again and again.
 */
#include <stdio.h>
#include <string.h>

#include "guest/abi.h"
#include "tests/kvm/lab.h"
#include "tests/kvm/pace.h"

#define POOL (256 * MIB)

static void reset(struct vm *vm, uint64_t number, const char *arg)
{
	struct vm_error err = {""};
	int r = vm_reset(vm, number, arg, &err);

	cr_assert_eq(r, 0, "%d: %s", r, err.text);
}

/* What a counter prints as clone `number`; from an empty tape. */
static void expect_counter(struct vm *vm, struct tape *t, uint64_t nonce, uint64_t number)
{
	char want[128];

	*t = (struct tape){0};
	lab_expect(vm, VM_EXITED, 0);
	snprintf(want, sizeof(want), "nonce %016lx clone %lu increments %lu table ok", nonce,
	         number, number);
	cr_assert(strncmp(t->text, want, strlen(want)) == 0, "want \"%s\", got \"%s\"", want,
	          t->text);
}

/* An image of a warm counter, and the nonce it has. */
static struct image *warm_counter(const struct lab *l, unsigned cpus, uint64_t *nonce)
{
	static struct tape t;
	struct vm_config c = lab_config(l, 32 * MIB, cpus, FAULTS_AUTO, &t);
	struct vm *vm;
	struct image *image;

	t = (struct tape){0};
	vm = lab_boot(&c, "counter", "check=all");
	lab_expect(vm, VM_READY, 0);
	*nonce = tape_hex(&t, "nonce");
	image = lab_snapshot(vm);
	vm_destroy(vm);
	return image;
}

/* Each round it is another clone, and nothing of the rounds before is left. */
TEST_BOTH_PATHS(reset, a_thousand_rounds)
{
	static struct tape t;
	struct footprint before;
	struct image *image;
	struct space_stats first, last;
	struct lab l;
	struct vm *vm;
	uint64_t nonce;

	lab_open(&l, POOL);
	image = warm_counter(&l, 1, &nonce);
	vm = lab_clone(&l, image, 5000, faults, &t);
	expect_counter(vm, &t, nonce, 5000);
	reset(vm, 1, NULL);
	cr_assert_eq(space_stats(vm_space(vm), &first), 0);
	before = footprint_now();
	for (uint64_t i = 1; i <= pace_rounds(1000, 200); i++) {
		expect_counter(vm, &t, nonce, i);
		cr_assert_eq(vm_number(vm), i);
		reset(vm, i + 1, NULL);
	}
	footprint_expect(before, 4);
	cr_assert_eq(space_stats(vm_space(vm), &last), 0);
	cr_assert_leq(last.private_frames, first.private_frames + 4);
	cr_assert_eq(last.owned_frames, first.owned_frames);
	lab_audit(&l, vm);
	image_put(image);
	vm_destroy(vm);
	lab_close(&l);
}

/* The argument is the round's own, and the times are. */
Test(reset, argument_and_times)
{
	static struct tape t;
	char longest[ABI_ARGS_MAX + 1];
	struct vm_error err;
	struct vm_times first, second;
	struct image *image;
	struct lab l;
	struct vm *vm;
	uint64_t nonce;

	lab_open(&l, POOL);
	image = warm_counter(&l, 1, &nonce);
	vm = lab_clone(&l, image, 1, FAULTS_AUTO, &t);
	expect_counter(vm, &t, nonce, 1);
	cr_assert_null(strstr(t.text, "arg"));
	vm_times(vm, &first);
	reset(vm, 2, "of its own");
	vm_times(vm, &second);
	cr_assert(second.asked >= first.ended && second.created > second.asked);
	cr_assert_eq(second.running + second.first_output + second.ended, 0);
	expect_counter(vm, &t, nonce, 2);
	cr_assert(strstr(t.text, "arg \"of its own\""), "%s", t.text);
	memset(longest, 'x', ABI_ARGS_MAX);
	longest[ABI_ARGS_MAX] = '\0';
	cr_assert_eq(vm_reset(vm, 3, longest, &err), -EINVAL);
	reset(vm, 3, NULL);
	expect_counter(vm, &t, nonce, 3);
	cr_assert_null(strstr(t.text, "arg"), "%s", t.text);
	image_put(image);
	vm_destroy(vm);
	lab_close(&l);
}

/* Stopped in the middle of its work, before it has run at all, and with vCPUs that race. */
TEST_BOTH_PATHS(reset, wherever_it_stands)
{
	static struct tape t;
	struct image *image;
	struct lab l;
	struct vm *vm;
	uint64_t nonce, seed = lab_seed();

	lab_open(&l, POOL);
	image = warm_counter(&l, 3, &nonce);
	vm = lab_clone(&l, image, 1, faults, &t);
	for (uint64_t i = 1; i <= 60; i++) {
		struct vm_report r;

		reset(vm, i, NULL);
		r = lab_run_for(vm, lab_random(&seed) % 3000000);
		cr_assert(r.event == VM_TIMEOUT || r.event == VM_EXITED, "%s", r.text);
		if (i % 10)
			continue;
		reset(vm, i, NULL);
		expect_counter(vm, &t, nonce, i);
		lab_audit(&l, vm);
	}
	image_put(image);
	vm_destroy(vm);
	lab_close(&l);
}

/* The VM an image was taken of goes back to it too; then to a later one. */
TEST_BOTH_PATHS(reset, template_and_later_image)
{
	static struct tape t;
	struct vm_error err;
	struct vm_config c;
	struct image *image;
	struct lab l;
	struct vm *vm;
	uint64_t nonce;

	lab_open(&l, POOL);
	c = lab_config(&l, 32 * MIB, 1, faults, &t);
	vm = lab_boot(&c, "counter", NULL);
	lab_expect(vm, VM_READY, 0);
	cr_assert_eq(vm_reset(vm, 1, NULL, &err), -EINVAL, "there is no image yet");
	nonce = tape_hex(&t, "nonce");
	image = lab_snapshot(vm);
	image_put(image); /* the VM holds it */
	expect_counter(vm, &t, nonce, 0);
	for (uint64_t i = 7; i < 10; i++) {
		reset(vm, i, NULL);
		expect_counter(vm, &t, nonce, i);
	}
	/* Answered as clone 4, then saved: who it is has become memory. */
	reset(vm, 4, NULL);
	image = lab_snapshot(vm);
	image_put(image);
	reset(vm, 5, NULL);
	expect_counter(vm, &t, nonce, 4);
	lab_audit(&l, vm);
	vm_destroy(vm);
	lab_close(&l);
}

/* A walk that dirties much: dropped, and the pool's frames as before. */
TEST_BOTH_PATHS(reset, much_memory)
{
	static struct tape t;
	struct vm_config c;
	struct image *image;
	struct pool_stats before = {0}, after;
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	c = lab_config(&l, 64 * MIB, 1, FAULTS_AUTO, &t);
	vm = lab_boot(&c, "memwalk", "size=16M pattern=random access=rw seed=3 ready=1");
	lab_expect(vm, VM_READY, 0);
	image = lab_snapshot(vm);
	vm_destroy(vm);
	vm = lab_clone(&l, image, 1, faults, &t);
	reset(vm, 1, NULL);
	for (uint64_t i = 1; i <= pace_rounds(5, 2); i++) {
		t = (struct tape){0};
		lab_expect(vm, VM_EXITED, 0);
		reset(vm, i, NULL);
		lab_audit(&l, vm);
		/* The first round's reads may put memory behind holes of the image, to stay. */
		if (i == 1)
			pool_stats(l.pool, &before);
	}
	pool_stats(l.pool, &after);
	cr_assert_leq(after.used_frames, before.used_frames);
	cr_assert_leq(after.committed_frames, before.committed_frames);
	image_put(image);
	vm_destroy(vm);
	lab_close(&l);
}
