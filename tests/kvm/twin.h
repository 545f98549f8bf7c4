// SPDX-License-Identifier: MIT
/*
 * tests/kvm/twin.h - two VMs of scripted guests that should be alike, to the bit.
 *
 * What is left out is time, and what is drawn at random for each clone.
 */
#ifndef COWSLIP_TESTS_KVM_TWIN_H
#define COWSLIP_TESTS_KVM_TWIN_H

#include <stdint.h>

#include "vmm/vm.h"

/*
 * Registers, devices, interrupt controllers, memory; who they are, and what `used` has counted:
 * nothing. Both are stopped and have not run yet. The test fails when they differ.
 */
void twin_same(struct vm *fresh, struct vm *used);

/* The memory alone: every page of SCRIPT_RAM. */
void twin_same_memory(struct vm *fresh, struct vm *used);

/* Change everything about a stopped VM that its guest, or its owner, could have left changed. */
void twin_spoil(struct vm *vm, uint64_t *seed);

#endif
