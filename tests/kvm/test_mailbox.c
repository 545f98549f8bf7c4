// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_mailbox.c - input and output of a guest, beside its console: what arrives, and
 * what a guest that asks for too much gets.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kvm/lab.h"
#include "tests/kvm/script.h"

#define POOL     (256 * MIB)
#define MESSAGES 4u

/* What the guest handed over: how much, and the first messages. */
struct heard {
	_Atomic unsigned messages;
	_Atomic uint64_t bytes;
	struct {
		size_t size;
		uint8_t start[64], last;
	} message[MESSAGES];
};

static void hear(void *ctx, const void *data, size_t size)
{
	struct heard *h = ctx;
	unsigned n = atomic_fetch_add(&h->messages, 1);

	atomic_fetch_add(&h->bytes, size);
	if (n >= MESSAGES)
		return;
	h->message[n].size = size;
	h->message[n].last = ((const uint8_t *)data)[size - 1];
	memcpy(h->message[n].start, data, size < 64 ? size : 64);
}

static struct vm *scripted(const struct lab *l, unsigned cpus, enum fault_choice faults,
                           const struct vm_mailbox *mailbox)
{
	struct vm_config c = lab_config(l, SCRIPT_RAM, cpus, faults, NULL);
	struct vm *vm;

	c.mailbox = *mailbox;
	vm = lab_make(&c);
	script_boot(vm);
	return vm;
}

/* Where the n-th request of a list lies. */
static uint64_t request_at(size_t n)
{
	return SCRIPT_REQUEST + n * 0x1000;
}

/* vCPU 0 rings for the requests 0..count-1 and then ends the guest. */
static void ring_all(struct vm *vm, size_t count)
{
	struct step list[32];

	cr_assert_lt(count, 32);
	for (size_t i = 0; i <= count; i++)
		list[i] = (struct step){STEP_RING, request_at(i), 0};
	script_request(vm, request_at(count), ABI_EXIT, 0, 0, 0);
	script_list(vm, 0, list, count + 1);
	lab_expect(vm, VM_EXITED, 0);
}

static uint8_t *pattern_bytes(size_t size)
{
	uint8_t *bytes = malloc(size);

	cr_assert(bytes);
	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)(i * 7 + i / 251 + 1);
	return bytes;
}

/* ---- input ---- */

/* What is asked, and how many bytes the guest is told it got. */
TEST_BOTH_PATHS(mailbox, input_bounds)
{
	static const struct {
		uint64_t offset, buf, size;
		int32_t result;
	} cases[] = {
		{0, SCRIPT_DATA, 100, 100},
		{0, SCRIPT_DATA, 40, 40},
		{60, SCRIPT_DATA, 100, 40},
		{99, SCRIPT_DATA, UINT64_MAX, 1},
		{100, SCRIPT_DATA, 1, 0},
		{101, SCRIPT_DATA, 1, 0},
		{UINT64_MAX, SCRIPT_DATA, UINT64_MAX, 0},
		{0, SCRIPT_DATA, 0, 0},
		{0, SCRIPT_RAM - 100, UINT64_MAX, 100}, /* only what is copied must be RAM */
		{0, SCRIPT_RAM - 99, 100, -EFAULT},
		{0, SCRIPT_RAM, 1, -EFAULT},
		{0, UINT64_MAX - 10, 100, -EFAULT},
		{0, UINT64_C(0xd0000000), 8, -EFAULT},
		{100, SCRIPT_RAM, 1, 0},
	};
	const size_t count = sizeof(cases) / sizeof(cases[0]);
	uint8_t *input = pattern_bytes(100), got[256];
	struct vm_mailbox m = {.input = input, .input_size = 100};

	for (size_t i = 0; i < count; i++) {
		uint64_t at = cases[i].buf;
		struct lab l;
		struct vm *vm;

		lab_open(&l, POOL);
		vm = scripted(&l, 1, faults, &m);
		script_request(vm, request_at(0), ABI_INPUT, cases[i].offset, at, cases[i].size);
		ring_all(vm, 1);
		cr_assert_eq(script_result(vm, request_at(0)), cases[i].result, "case %zu: %d", i,
		             script_result(vm, request_at(0)));
		if (cases[i].result > 0) {
			size_t n = (size_t)cases[i].result;

			cr_assert_eq(space_read(vm_space(vm), (gpa_t){at}, got, n), 0);
			cr_assert_arr_eq(got, input + cases[i].offset, n);
			/* And not a byte more. */
			if (at + n < SCRIPT_RAM)
				cr_assert_eq(space_read(vm_space(vm), (gpa_t){at + n}, got, 1), 0);
			cr_assert(at + n == SCRIPT_RAM || got[0] == 0);
		} else if (cases[i].result == -EFAULT && at < SCRIPT_RAM) {
			cr_assert_eq(space_read(vm_space(vm), (gpa_t){at}, got, 1), 0);
			cr_assert_eq(got[0], 0, "copied in part");
		}
		lab_audit(&l, vm);
		vm_destroy(vm);
		lab_close(&l);
	}
	free(input);
}

/* 3 MiB and a bit, a piece at a time, over blocks nobody has touched. */
TEST_BOTH_PATHS(mailbox, large_input_in_pieces)
{
	const size_t size = 3 * MIB + 12345, piece = MIB - 77;
	const uint64_t to = SCRIPT_DATA + 13;
	uint8_t *input = pattern_bytes(size), *got = calloc(1, size + 1);
	struct vm_mailbox m = {.input = input, .input_size = size};
	struct lab l;
	struct vm *vm;

	cr_assert(got);
	lab_open(&l, POOL);
	vm = scripted(&l, 1, faults, &m);
	for (size_t i = 0; i < 5; i++)
		script_request(vm, request_at(i), ABI_INPUT, i * piece, to + i * piece, piece);
	ring_all(vm, 5);
	for (size_t i = 0; i < 3; i++)
		cr_assert_eq(script_result(vm, request_at(i)), (int32_t)piece);
	cr_assert_eq(script_result(vm, request_at(3)), (int32_t)(size - 3 * piece));
	cr_assert_eq(script_result(vm, request_at(4)), 0);
	cr_assert_eq(space_read(vm_space(vm), (gpa_t){to}, got, size + 1), 0);
	cr_assert(memcmp(got, input, size) == 0);
	cr_assert_eq(got[size], 0);
	lab_audit(&l, vm);
	vm_destroy(vm);
	lab_close(&l);
	free(input);
	free(got);
}

/* A VM without input; another input from READY on; and each clone has its own. */
Test(mailbox, input_changes)
{
	static const char first[] = "first", second[] = "the second", third[] = "3rd";
	const struct vm_mailbox none = {0};
	const struct step list[] = {
		{STEP_RING, request_at(0), 0},
		{STEP_RING, request_at(1), 0},
		{STEP_RING, request_at(2), 0},
		{STEP_RING, request_at(3), 0},
	};
	struct image *image;
	struct vm *vm, *clone;
	struct vm_config c;
	char got[16] = "";
	struct lab l;

	lab_open(&l, POOL);
	vm = scripted(&l, 1, FAULTS_AUTO, &none);
	script_request(vm, request_at(0), ABI_INPUT, 0, SCRIPT_DATA, 16);
	script_request(vm, request_at(1), ABI_READY, 0, 0, 0);
	script_request(vm, request_at(2), ABI_INPUT, 0, SCRIPT_DATA, 16);
	script_request(vm, request_at(3), ABI_EXIT, 0, 0, 0);
	script_list(vm, 0, list, 4);
	lab_expect(vm, VM_READY, 0);
	cr_assert_eq(script_result(vm, request_at(0)), 0);
	image = lab_snapshot(vm);

	vm_set_input(vm, first, sizeof(first));
	vm_set_input(vm, second, sizeof(second));
	lab_expect(vm, VM_EXITED, 0);
	cr_assert_eq(script_result(vm, request_at(2)), (int32_t)sizeof(second));
	cr_assert_eq(space_read(vm_space(vm), (gpa_t){SCRIPT_DATA}, got, sizeof(second)), 0);
	cr_assert_str_eq(got, second);

	c = lab_config(&l, 0, 0, FAULTS_AUTO, NULL);
	c.image = image;
	c.number = 1;
	c.mailbox = (struct vm_mailbox){.input = third, .input_size = sizeof(third)};
	clone = lab_make(&c);
	lab_expect(clone, VM_EXITED, 0);
	cr_assert_eq(script_result(clone, request_at(2)), (int32_t)sizeof(third));
	cr_assert_eq(space_read(vm_space(clone), (gpa_t){SCRIPT_DATA}, got, sizeof(third)), 0);
	cr_assert_str_eq(got, third);
	vm_destroy(clone);
	image_put(image);
	vm_destroy(vm);
	lab_close(&l);
}

/* ---- output ---- */

TEST_BOTH_PATHS(mailbox, output)
{
	static const struct {
		uint64_t buf, size;
		int32_t result;
		bool heard;
	} cases[] = {
		{SCRIPT_DATA, 64, 0, true},
		{SCRIPT_DATA + 100, ABI_WRITE_MAX, 0, true}, /* beyond what was ever written */
		{SCRIPT_DATA, ABI_WRITE_MAX + 1, -EMSGSIZE, false},
		{SCRIPT_DATA, 0, 0, false},
		{SCRIPT_RAM - 1, 1, 0, true},
		{SCRIPT_RAM - 1, 2, -EFAULT, false},
		{SCRIPT_RAM, 1, -EFAULT, false},
		{UINT64_MAX - 3, 64, -EFAULT, false},
		{SCRIPT_DATA, UINT64_MAX, -EMSGSIZE, false},
	};
	const size_t count = sizeof(cases) / sizeof(cases[0]);
	uint8_t *bytes = pattern_bytes(64);
	static struct heard h;
	struct vm_mailbox m = {.output = hear, .ctx = &h};
	unsigned n = 0;
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, 1, faults, &m);
	cr_assert_eq(space_write(vm_space(vm), (gpa_t){SCRIPT_DATA}, bytes, 64), 0);
	for (size_t i = 0; i < count; i++)
		script_request(vm, request_at(i), ABI_OUTPUT, 0, cases[i].buf, cases[i].size);
	ring_all(vm, count);
	for (size_t i = 0; i < count; i++) {
		cr_assert_eq(script_result(vm, request_at(i)), cases[i].result, "case %zu: %d", i,
		             script_result(vm, request_at(i)));
		if (cases[i].heard)
			cr_assert_eq(h.message[n++].size, cases[i].size);
	}
	cr_assert_eq(h.messages, n);
	cr_assert_arr_eq(h.message[0].start, bytes, 64);
	cr_assert_eq(h.message[0].last, bytes[63]);
	lab_audit(&l, vm);
	vm_destroy(vm);
	lab_close(&l);
	free(bytes);
}

Test(mailbox, nobody_listens)
{
	const struct vm_mailbox none = {0};
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, 1, FAULTS_AUTO, &none);
	script_request(vm, request_at(0), ABI_OUTPUT, 0, SCRIPT_DATA, 64);
	script_request(vm, request_at(1), ABI_OUTPUT, 0, SCRIPT_RAM, 64);
	script_request(vm, request_at(2), ABI_INPUT, 0, SCRIPT_DATA, 64);
	ring_all(vm, 3);
	cr_assert_eq(script_result(vm, request_at(0)), 0);
	cr_assert_eq(script_result(vm, request_at(1)), -EFAULT);
	cr_assert_eq(script_result(vm, request_at(2)), 0);
	vm_destroy(vm);
	lab_close(&l);
}

/* Four vCPUs hand over a hundred messages each, at once: all are heard. */
Test(mailbox, output_of_many)
{
	enum { CPUS = 4, EACH = 100, SIZE = 1000 };
	static struct heard h;
	const struct vm_mailbox m = {.output = hear, .ctx = &h};
	struct step list[EACH + 2];
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, CPUS, FAULTS_AUTO, &m);
	for (unsigned cpu = 0; cpu < CPUS; cpu++) {
		uint64_t own = request_at(cpu), done = SCRIPT_DATA + cpu * 0x1000;

		script_request(vm, own, ABI_OUTPUT, 0, SCRIPT_DATA + 0x10000 * cpu, SIZE);
		for (unsigned i = 0; i < EACH; i++)
			list[i] = (struct step){STEP_RING, own, 0};
		list[EACH] = (struct step){STEP_STORE, done, 1};
		script_list(vm, cpu, list, EACH + 1);
	}
	/* vCPU 0 ends the guest once the others are through. */
	for (unsigned cpu = 1; cpu < CPUS; cpu++)
		list[cpu - 1] = (struct step){STEP_WAIT, SCRIPT_DATA + cpu * 0x1000, 0};
	list[CPUS - 1] = (struct step){STEP_RING, request_at(CPUS), 0};
	script_request(vm, request_at(CPUS), ABI_EXIT, 0, 0, 0);
	script_list(vm, CPUS, list, CPUS);
	for (unsigned i = 0; i < EACH; i++)
		list[i] = (struct step){STEP_RING, request_at(0), 0};
	list[EACH] = (struct step){STEP_GOTO, SCRIPT_LIST(CPUS), 0};
	script_list(vm, 0, list, EACH + 1);
	lab_expect(vm, VM_EXITED, 0);
	cr_assert_eq(h.messages, CPUS * EACH);
	cr_assert_eq(h.bytes, CPUS * EACH * SIZE);
	vm_destroy(vm);
	lab_close(&l);
}
