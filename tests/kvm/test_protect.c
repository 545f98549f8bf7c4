// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_protect.c - guests that do what the protection of their memory forbids: who did
 * it, where, and what comes of it, on both fault paths.
 */
#include <string.h>

#include "tests/kvm/lab.h"
#include "tests/kvm/script.h"

#define POOL (128 * MIB)
#define PAGE MM_PAGE_SIZE
#define OPEN (SCRIPT_DATA + 0x40000)
#define STORE(at, value)                                                                           \
	{                                                                                          \
		STEP_STORE, (at), (value)                                                          \
	}
#define EXIT                                                                                       \
	{                                                                                          \
		STEP_RING, SCRIPT_REQUEST, 0                                                       \
	}

static void protect(struct vm *vm, uint64_t start, uint64_t size, enum protection p)
{
	struct vm_error err = {""};
	int r = vm_protect(vm, (struct gpa_range){{start}, size}, p, &err);

	cr_assert_eq(r, 0, "%d: %s", r, err.text);
}

static void expect_denied(struct vm *vm, unsigned cpu, uint64_t gpa, enum access access)
{
	struct vm_report r = lab_run(vm);

	cr_assert_eq(r.event, VM_DENIED, "event %d: %s", r.event, r.text);
	cr_assert_eq(r.vcpu, cpu);
	cr_assert_eq(r.gpa.v, gpa, "at %#lx", r.gpa.v);
	cr_assert_eq(r.access, access);
	cr_assert(strstr(r.text, access == ACCESS_WRITE ? "write" : "read"), "%s", r.text);
}

static struct vm *scripted(const struct lab *l, unsigned cpus, enum fault_choice faults)
{
	struct vm_config c = lab_config(l, SCRIPT_RAM, cpus, faults, NULL);
	struct vm *vm = lab_make(&c);

	script_boot(vm);
	script_request(vm, SCRIPT_REQUEST, ABI_EXIT, 0, 0, 0);
	return vm;
}

/* Each forbidden write is reported and dropped; those beside it land. */
TEST_BOTH_PATHS(protect, read_only_pages)
{
	const struct step steps[] = {
		STORE(SCRIPT_DATA, 1),
		STORE(SCRIPT_DATA + PAGE, 2),
		STORE(SCRIPT_DATA + 2 * PAGE - 8, 3),
		STORE(SCRIPT_DATA + 2 * PAGE, 4),
		{STEP_WAIT, SCRIPT_DATA + PAGE + 8, 0},
		EXIT,
	};
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, 1, faults);
	script_list(vm, 0, steps, sizeof(steps) / sizeof(steps[0]));
	script_set_word(vm, SCRIPT_DATA + PAGE + 8, 77);
	protect(vm, SCRIPT_DATA + PAGE, PAGE, PROTECT_RO);
	expect_denied(vm, 0, SCRIPT_DATA + PAGE, ACCESS_WRITE);
	expect_denied(vm, 0, SCRIPT_DATA + 2 * PAGE - 8, ACCESS_WRITE);
	lab_expect(vm, VM_EXITED, 0);
	cr_assert_eq(script_word(vm, SCRIPT_DATA), 1);
	cr_assert_eq(script_word(vm, SCRIPT_DATA + PAGE), 0);
	cr_assert_eq(script_word(vm, SCRIPT_DATA + PAGE + 8), 77, "it was read by the guest");
	cr_assert_eq(script_word(vm, SCRIPT_DATA + 2 * PAGE), 4);
	lab_audit(&l, vm);
	vm_destroy(vm);
	lab_close(&l);
}

/* No access: reads are reported too, and find ones; then read-write again, and all is as before. */
TEST_BOTH_PATHS(protect, no_access_and_back)
{
	const struct step steps[] = {{STEP_WAIT, SCRIPT_DATA, 0},
	                             STORE(SCRIPT_DATA, 5),
	                             {STEP_COUNT, SCRIPT_DATA, 0},
	                             EXIT};
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	for (unsigned round = 0; round < 3; round++) {
		vm = scripted(&l, 1, faults);
		script_set_word(vm, SCRIPT_DATA, 40);
		script_list(vm, 0, steps, 4);
		protect(vm, SCRIPT_DATA, PAGE << round, PROTECT_NONE);
		expect_denied(vm, 0, SCRIPT_DATA, ACCESS_READ);
		expect_denied(vm, 0, SCRIPT_DATA, ACCESS_WRITE);
		protect(vm, SCRIPT_DATA, PAGE << round, PROTECT_RW);
		cr_assert_eq(script_word(vm, SCRIPT_DATA), 40);
		lab_expect(vm, VM_EXITED, 0);
		cr_assert_eq(script_word(vm, SCRIPT_DATA), 41);
		vm_destroy(vm);
	}
	lab_close(&l);
}

/* The report says which vCPU it was. */
TEST_BOTH_PATHS(protect, which_vcpu)
{
	const struct step waits[] = {{STEP_WAIT, OPEN, 0}, EXIT};
	const struct step writes[] = {STORE(SCRIPT_DATA, 1), STORE(OPEN, 1)};
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, 2, faults);
	script_list(vm, 0, waits, 2);
	script_list(vm, 1, writes, 2);
	protect(vm, SCRIPT_DATA, 2 * PAGE, PROTECT_RO);
	expect_denied(vm, 1, SCRIPT_DATA, ACCESS_WRITE);
	lab_expect(vm, VM_EXITED, 0);
	vm_destroy(vm);
	lab_close(&l);
}

/* A clone's writes to shared frames are forbidden and allowed like any; its template's are not. */
TEST_BOTH_PATHS(protect, clones)
{
	const struct step steps[] = {
		{STEP_RING, SCRIPT_REQUEST + PAGE, 0}, STORE(SCRIPT_DATA, 9), EXIT};
	struct image *image;
	struct lab l;
	struct vm *vm, *clone;

	lab_open(&l, POOL);
	vm = scripted(&l, 1, FAULTS_AUTO);
	script_request(vm, SCRIPT_REQUEST + PAGE, ABI_READY, 0, 0, 0);
	script_list(vm, 0, steps, 3);
	script_set_word(vm, SCRIPT_DATA, 8);
	lab_expect(vm, VM_READY, 0);
	image = lab_snapshot(vm);
	clone = lab_clone(&l, image, 1, faults, NULL);
	image_put(image);
	protect(clone, SCRIPT_DATA, PAGE, PROTECT_RO);
	expect_denied(clone, 0, SCRIPT_DATA, ACCESS_WRITE);
	lab_expect(clone, VM_EXITED, 0);
	cr_assert_eq(script_word(clone, SCRIPT_DATA), 8);
	lab_expect(vm, VM_EXITED, 0);
	cr_assert_eq(script_word(vm, SCRIPT_DATA), 9);
	lab_audit(&l, clone);
	vm_destroy(vm);
	vm_destroy(clone);
	lab_close(&l);
}

/* RAM that has been taken away is nobody's: the write is lost and the guest goes on. */
TEST_BOTH_PATHS(protect, unmapped)
{
	const struct step steps[] = {STORE(SCRIPT_DATA, 1), STORE(OPEN, 2), EXIT};
	struct vm_error err;
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, 1, faults);
	script_list(vm, 0, steps, 3);
	protect(vm, SCRIPT_DATA, 4 * PAGE, PROTECT_UNMAPPED);
	lab_expect(vm, VM_EXITED, 0);
	cr_assert_eq(script_word(vm, OPEN), 2);
	cr_assert_eq(vm_protect(vm, (struct gpa_range){{SCRIPT_DATA}, PAGE}, PROTECT_RW, &err),
	             -EFAULT);
	cr_assert(strlen(err.text) > 0);
	lab_audit(&l, vm);
	vm_destroy(vm);
	lab_close(&l);
}
