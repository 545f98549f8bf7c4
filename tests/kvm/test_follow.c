// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_follow.c - clones whose guests write through their memory: blocks ahead of them
 * are copied while they run, and they find every word where they left it.
 *
 * How many blocks is the host's clock's to say; that there are some, and none for random writes,
 * is not.
 */
#include <pthread.h>
#include <string.h>

#include "tests/kvm/fleet.h"
#include "vmm/shell.h"

TestSuite(follow, .timeout = 300);

#define RAM (96 * MIB)

/* memwalk that has filled 64 MiB, by its own order, and waits at READY; then it walks. */
static const char up[] = "size=64M pattern=seq access=write ready=1";
static const char scattered[] = "size=64M pattern=random access=write ready=1";

static struct image *walker(const struct lab *l, unsigned cpus, const char *args)
{
	struct vm_config c = lab_config(l, RAM, cpus, FAULTS_AUTO, NULL);
	struct vm *vm = lab_boot(&c, "memwalk", args);
	struct image *image;

	lab_expect(vm, VM_READY, 0);
	image = lab_snapshot(vm);
	vm_destroy(vm);
	return image;
}

static struct space_stats stats(struct vm *vm)
{
	struct space_stats s;

	cr_assert_eq(space_stats(vm_space(vm), &s), 0);
	return s;
}

/* To its end. Return: blocks that were copied ahead of it. */
static uint64_t run_to_end(const struct lab *l, struct vm *vm, const struct tape *t)
{
	struct space_stats s;

	lab_expect(vm, VM_EXITED, 0);
	cr_assert(strstr(t->text, "every word ok"), "%s", t->text);
	lab_audit(l, vm);
	s = stats(vm);
	cr_assert_eq(s.owned_frames, 512 * s.followed_blocks);
	cr_log_info("%lu blocks followed, %lu pages private", s.followed_blocks, s.private_frames);
	return s.followed_blocks;
}

static uint64_t run_clone(const struct lab *l, struct image *image)
{
	static struct tape t;
	struct vm *vm;
	uint64_t n;

	t = (struct tape){0};
	vm = lab_clone(l, image, 1, FAULTS_AUTO, &t);
	n = run_to_end(l, vm, &t);
	vm_destroy(vm);
	return n;
}

static void expect_followed(unsigned cpus, const char *args)
{
	struct lab l;
	struct image *image;

	lab_open(&l, 512 * MIB);
	image = walker(&l, cpus, args);
	cr_assert_geq(run_clone(&l, image), 2);
	image_put(image);
	lab_close(&l);
}

Test(follow, a_walk)
{
	expect_followed(1, up);
}

Test(follow, a_walk_of_two_vcpus)
{
	expect_followed(2, up);
}

Test(follow, no_random_writes)
{
	struct lab l;
	struct image *image;

	lab_open(&l, 512 * MIB);
	image = walker(&l, 1, scattered);
	cr_assert_eq(run_clone(&l, image), 0);
	image_put(image);
	lab_close(&l);
}

/* The image's bytes come from its file. */
Test(follow, an_image_in_a_file)
{
	struct image *image = guest_image("memwalk", up, RAM, VM_READY);
	struct lab l;

	lab_open(&l, 512 * MIB);
	cr_assert_geq(run_clone(&l, image), 2);
	image_put(image);
	lab_close(&l);
}

/* In the middle of its walk: what has been copied is part of the image, and both walk on. */
Test(follow, saved_half_way)
{
	static struct tape t;
	struct lab l;
	struct image *image, *half;
	struct vm *vm;

	lab_open(&l, 768 * MIB);
	image = walker(&l, 1, up);
	vm = lab_clone(&l, image, 1, FAULTS_AUTO, &t);
	while (stats(vm).followed_blocks == 0)
		cr_assert_eq(lab_run_for(vm, SECOND / 30).event, VM_TIMEOUT);
	half = lab_snapshot(vm);
	cr_assert_eq(stats(vm).owned_frames, 0);
	lab_audit(&l, vm);
	(void)run_clone(&l, half);
	lab_expect(vm, VM_EXITED, 0);
	cr_assert(strstr(t.text, "every word ok"), "%s", t.text);
	lab_audit(&l, vm);
	vm_destroy(vm);
	image_put(half);
	image_put(image);
	lab_close(&l);
}

struct runner {
	const struct lab *l;
	struct vm *vm;
	const struct tape *t;
	uint64_t followed;
};

static void *run_elsewhere(void *arg)
{
	struct runner *r = arg;

	r->followed = run_to_end(r->l, r->vm, r->t);
	return NULL;
}

/* A shell that has been walked through is a new clone's, whichever thread runs it. */
Test(follow, shells_are_used_again)
{
	static struct tape t;
	struct vm_config c;
	struct shells_stats st;
	struct shells *shells;
	struct vm_error err;
	struct image *image;
	struct lab l;

	lab_open(&l, 512 * MIB);
	image = walker(&l, 1, up);
	cr_assert_eq(shells_create(1, &shells), 0);
	c = lab_config(&l, 0, 0, FAULTS_AUTO, &t);
	c.image = image;
	for (c.number = 1; c.number <= 3; c.number++) {
		struct runner r = {.l = &l, .t = &t};
		pthread_t thread;

		t = (struct tape){0};
		cr_assert_eq(shells_take(shells, &c, &r.vm, &err), 0, "%s", err.text);
		cr_assert_eq(stats(r.vm).followed_blocks, 0);
		cr_assert_eq(stats(r.vm).owned_frames, 0);
		cr_assert_eq(pthread_create(&thread, NULL, run_elsewhere, &r), 0);
		pthread_join(thread, NULL);
		cr_assert_geq(r.followed, 2);
		shells_give(shells, r.vm, VM_EXITED);
	}
	shells_stats(shells, &st);
	cr_assert_eq(st.made, 1);
	cr_assert_eq(st.reused, 2);
	shells_destroy(shells);
	image_put(image);
	lab_close(&l);
}
