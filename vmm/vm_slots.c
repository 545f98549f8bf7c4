// SPDX-License-Identifier: MIT
/*
 * vmm/vm_slots.c - the memory slots that KVM sees, laid out after what RAM permits.
 *
 * One slot for each region, as long as nothing is protected. Of what is, read-only ranges get a
 * KVM_MEM_READONLY slot of their own and the rest no slot at all: a forbidden access then leaves
 * KVM_RUN as MMIO, with its address, and the run loop makes VM_DENIED of it. (An access that only
 * the window's mapping refuses ends KVM_RUN with EFAULT and says nothing.)
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "arch/arch.h"
#include "vmm/vm_internal.h"

static int slot_failed(struct vm_error *err, unsigned slot, int code)
{
	snprintf(err->text, sizeof(err->text), "memory slot %u: %s", slot, strerror(-code));
	return code;
}

/* A slot for [start, end), if `p` wants one. Return: 0 or -errno of KVM. */
static int lay_slot(struct vm *vm, uint64_t start, uint64_t end, enum protection p)
{
	uint32_t flags = p == PROTECT_RO ? KVM_MEM_READONLY : 0;
	int r;

	if (p == PROTECT_NONE || p == PROTECT_UNMAPPED)
		return 0;
	r = kvm_set_slot(vm->fd, vm->slots, start, end - start,
	                 space_hva(vm->space, (gpa_t){start}).v, flags);
	if (r == 0)
		vm->slots++;
	return r;
}

int vm_lay_slots(struct vm *vm, struct vm_error *err)
{
	size_t count;
	const struct ram_region *ram = space_ram(vm->space, &count);

	for (; vm->slots > 0; vm->slots--) {
		int r = kvm_set_slot(vm->fd, vm->slots - 1, 0, 0, 0, 0);

		if (r)
			return slot_failed(err, vm->slots - 1, r);
	}
	for (size_t i = 0; i < count; i++) {
		uint64_t end = gpa_range_end(ram[i].range);

		for (uint64_t at = ram[i].range.start.v, stop; at < end; at = stop) {
			enum protection p = space_protection(vm->space, (gpa_t){at}, end, &stop);
			int r = lay_slot(vm, at, stop, p);

			if (r)
				return slot_failed(err, vm->slots, r);
		}
	}
	return 0;
}

int vm_drop_shadows(struct vm *vm, struct vm_error *err)
{
	uintptr_t page = space_hva(vm->space, (gpa_t){0}).v;
	int r = kvm_set_slot(vm->fd, vm->slots, arch_info.doorbell.v, MM_PAGE_SIZE, page, 0);

	if (r == 0)
		r = kvm_set_slot(vm->fd, vm->slots, 0, 0, 0, 0);
	return r ? slot_failed(err, vm->slots, r) : 0;
}

int vm_protect(struct vm *vm, struct gpa_range range, enum protection p, struct vm_error *err)
{
	int r;

	if (p == PROTECT_RO && !vm->kvm->caps.readonly_mem) {
		snprintf(err->text, sizeof(err->text), "KVM here has no read-only memory slots");
		return -ENOTSUP;
	}
	/* A range in the middle of a slot makes three of it; vm_drop_shadows() takes another. */
	if (vm->slots + 3 > vm->kvm->caps.max_slots) {
		snprintf(err->text, sizeof(err->text), "KVM has %u memory slots and no more",
		         vm->kvm->caps.max_slots);
		return -ENOSPC;
	}
	r = p == PROTECT_UNMAPPED ? space_unmap(vm->space, range)
	                          : space_protect(vm->space, range, p);
	if (r) {
		snprintf(err->text, sizeof(err->text), "protection of guest memory: %s",
		         strerror(-r));
		return r;
	}
	return vm_lay_slots(vm, err);
}
