// SPDX-License-Identifier: MIT
/*
 * tests/kvm/script.h - a guest whose every vCPU does what a list in its memory says, in the most
 * privileged mode: what no decent guest program would do can be written down in a test.
 *
 * The host puts lists, requests and data into guest memory through the VM's space; SCRIPT_LIST(n)
 * is where vCPU n starts to read. A step is three words.
 *
 * Everything here fails the running test when it cannot do its work.
 */
#ifndef COWSLIP_TESTS_KVM_SCRIPT_H
#define COWSLIP_TESTS_KVM_SCRIPT_H

#include <stddef.h>
#include <stdint.h>

#include "guest/abi.h"
#include "vmm/vm.h"

enum step_kind {
	STEP_HALT,   /* a vCPU that goes on after it stores 1 at SCRIPT_WOKEN */
	STEP_RING,   /* ring the doorbell for the request at a */
	STEP_RING32, /* the same with the lower half of a only */
	STEP_WAIT,   /* until the word at a is not 0 */
	STEP_PRINT,  /* b bytes at a, by a string instruction, to the serial port */
	STEP_STORE,  /* b at a */
	STEP_TOUCH,  /* the address itself into the first word of each of b pages from a on */
	STEP_COUNT,  /* add 1 to the word at a */
	STEP_GOTO,   /* go on with the list at a */
	STEP_READ,   /* the first word of each of b pages from a on */
};

struct step {
	uint64_t kind, a, b;
};

#define SCRIPT_RAM     (UINT64_C(16) << 20)
#define SCRIPT_LIST(n) (UINT64_C(0x400000) + (uint64_t)(n)*0x1000)
#define SCRIPT_WOKEN   UINT64_C(0x3ff000)
#define SCRIPT_REQUEST UINT64_C(0x500000) /* from here on the tests' own */
#define SCRIPT_DATA    UINT64_C(0x600000)

/* Boot the guest in a fresh VM of SCRIPT_RAM (or more) bytes. */
void script_boot(struct vm *vm);

/* The list of vCPU `cpu`, `count` steps; a halt is put behind it. */
void script_list(struct vm *vm, unsigned cpu, const struct step *steps, size_t count);

/* A request in guest memory; `result` starts as -1. */
void script_request(struct vm *vm, uint64_t at, uint32_t op, uint64_t value, uint64_t buf,
                    uint64_t size);

/* What the guest found as result, and all of the request. */
int32_t script_result(struct vm *vm, uint64_t at);
void script_answer(struct vm *vm, uint64_t at, struct abi_request *out);

uint64_t script_word(struct vm *vm, uint64_t at);
void script_set_word(struct vm *vm, uint64_t at, uint64_t value);

#endif
