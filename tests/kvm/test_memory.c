// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_memory.c - guests that run on memory of the embedder's.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/kvm/lab.h"

#define POOL (256 * MIB)
#define RAM  (32 * MIB)

static void *own_map(size_t size)
{
	/* A block more than asked for, to align it; it goes with the test's process. */
	uint8_t *at = mmap(NULL, size + MM_BLOCK_SIZE, PROT_READ | PROT_WRITE,
	                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(at, MAP_FAILED);
	return (void *)(uintptr_t)align_up((uintptr_t)at, MM_BLOCK_SIZE);
}

static uint64_t memory_size(const struct vm_config *c)
{
	struct vm_error err;
	uint64_t size = 0;
	int r = vm_memory_size(c, &size, &err);

	cr_assert_eq(r, 0, "%s", err.text);
	return size;
}

static void expect_counter(struct vm *vm, const struct tape *t, uint64_t nonce, uint64_t number)
{
	char want[128];

	lab_expect(vm, VM_EXITED, 0);
	snprintf(want, sizeof(want), "nonce %016lx clone %lu increments %lu table ok", nonce,
	         number, number);
	cr_assert(strstr(t->text, want), "want \"%s\" in \"%s\"", want, t->text);
}

Test(memory, fresh_guest_runs_on_the_callers)
{
	static struct tape t;
	struct vm_error err;
	struct vm_config c;
	struct image *image = NULL;
	struct lab l;
	struct vm *vm;
	void *at;

	lab_open(&l, POOL);
	c = lab_config(&l, RAM, 2, FAULTS_AUTO, &t);
	at = own_map(memory_size(&c));
	c.memory = at;
	vm = lab_boot(&c, "counter", "check=all");
	lab_expect(vm, VM_READY, 0);
	cr_assert_eq(space_hva(vm_space(vm), (gpa_t){0}).v, (uintptr_t)at);
	cr_assert_eq(vm_snapshot(vm, &image, &err), -ENOTSUP);
	cr_assert(strstr(err.text, "embedder"), "%s", err.text);
	cr_assert_null(image);
	expect_counter(vm, &t, tape_hex(&t, "nonce"), 0);
	lab_audit(&l, vm);
	vm_destroy(vm);
	memset(at, 0, memory_size(&c)); /* still mapped */
	lab_close(&l);
}

/* The image's bytes put there by the caller: the clone goes on, with an identity of its own. */
Test(memory, clone_runs_on_the_callers)
{
	static struct tape t, clone_tape;
	struct vm_config c;
	struct image *image;
	struct lab l;
	struct vm *vm;
	uint64_t nonce;

	lab_open(&l, POOL);
	c = lab_config(&l, RAM, 1, FAULTS_AUTO, &t);
	vm = lab_boot(&c, "counter", "check=all");
	lab_expect(vm, VM_READY, 0);
	nonce = tape_hex(&t, "nonce");
	image = lab_snapshot(vm);
	c = lab_config(&l, 0, 0, FAULTS_KERNEL, &clone_tape);
	c.image = image;
	c.number = 9;
	cr_assert_eq(memory_size(&c), RAM);
	c.memory = own_map(RAM);
	cr_assert_eq(space_read(vm_space(vm), (gpa_t){0}, c.memory, RAM), 0);
	vm_destroy(vm);
	vm = lab_make(&c);
	expect_counter(vm, &clone_tape, nonce, 9);
	cr_assert_eq(space_block_state(vm_space(vm), (gpa_t){0}), BLOCK_LINEAR);
	lab_audit(&l, vm);
	vm_destroy(vm);
	image_put(image);
	lab_close(&l);
}

/* Each refusal says what is wrong with the memory. */
Test(memory, what_is_refused)
{
	struct vm_error err;
	struct vm_config c;
	struct lab l;
	struct vm *vm = NULL;
	uint64_t size;

	lab_open(&l, POOL);
	c = lab_config(&l, RAM, 1, FAULTS_UFFD, NULL);
	c.memory = own_map(RAM);
	cr_assert_eq(vm_create(&c, &vm, &err), -EINVAL);
	cr_assert(strstr(err.text, "kernel's alone"), "%s", err.text);
	c.faults = FAULTS_AUTO;
	c.memory = (uint8_t *)c.memory + MM_PAGE_SIZE;
	cr_assert_eq(vm_create(&c, &vm, &err), -EINVAL);
	cr_assert(strstr(err.text, "2 MiB"), "%s", err.text);
	c.memory = own_map(RAM);
	c.pmem = "/dev/null";
	cr_assert_eq(vm_create(&c, &vm, &err), -EINVAL);
	cr_assert(strstr(err.text, "/dev/null"), "%s", err.text);
	cr_assert_null(vm);
	c.ram_bytes = 5;
	cr_assert_eq(vm_memory_size(&c, &size, &err), -EINVAL);
	lab_close(&l);
}

Test(memory, populated)
{
	static struct tape t;
	struct vm_config c;
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	c = lab_config(&l, RAM, 1, FAULTS_AUTO, &t);
	c.memory = own_map(RAM);
	c.populate = true;
	vm = lab_boot(&c, "hello", "x");
	lab_expect(vm, VM_EXITED, 0);
	cr_assert(t.total > 0);
	vm_destroy(vm);
	lab_close(&l);
}
