// SPDX-License-Identifier: MIT
/*
 * tests/kvm/bare_vm.h - a VM in plain mmap memory, for tests of arch/: nothing of mm/ or vmm/ but
 * the ioctl layer is needed.
 *
 * Its guest sets every kind of register, rings the doorbell, and after that only stores what it
 * finds and rings again, then for ever rings the cycle counter's value. Saved between the first
 * two rings, its second half can run in another VM on a copy of the memory.
 *
 * Everything here fails the running test instead of returning errors. Criterion runs each test in
 * a process of its own, so what a failed test leaves behind goes with it.
 */
#ifndef COWSLIP_TESTS_KVM_BARE_VM_H
#define COWSLIP_TESTS_KVM_BARE_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arch/arch.h"
#include "vmm/kvm.h"

#define RAM_SIZE  (UINT64_C(4) << 20)
#define CODE      UINT64_C(0x100000)
#define DATA      UINT64_C(0x180000)
#define STATE_MAX (64u << 10)
#define MAX_VCPUS 2u

#define MSR_TSC      0x10u
#define MSR_LSTAR    0xc0000082u
#define MSR_TSC_AUX  0xc0000103u
#define LSTAR_VALUE  UINT64_C(0x00007fffcafe1234)
#define DR0_VALUE    UINT64_C(0x12345678)
#define FS_VALUE     UINT64_C(0xf5f5f5f501020304)
#define GPR_VALUE(n) (UINT64_C(0x1111111111111111) * (n))
#define RSP_VALUE    UINT64_C(0x188880) /* software KVM interprets ring 3 on a wild stack */
#define RING_FIRST   GPR_VALUE(1)
#define RING_LAST    UINT64_C(2)

/* Types of records, as they stand in files. */
#define REC_CPUID 1u
#define REC_MSRS  10u

/* At DATA; the assembler below knows the offsets. */
struct shared {
	uint64_t gdt[8];        /* 0x000 */
	uint16_t gdt_limit[4];  /* 0x040: the limit is in the last of them, the base follows */
	uint64_t gdt_base;      /* 0x048 */
	uint64_t has_avx;       /* 0x050 */
	uint64_t has_xgetbv;    /* 0x058 */
	uint64_t tsc_before;    /* 0x060 */
	uint64_t tsc_after;     /* 0x068 */
	uint64_t fs_found;      /* 0x070 */
	uint64_t xcr0_found;    /* 0x078 */
	uint64_t gpr_found[16]; /* 0x080: rax rbx rcx rdx rsi rdi rbp rsp r8.. */
	uint8_t pattern[64];    /* 0x100: for ymm0 and ymm15 */
	uint8_t ymm_found[64];  /* 0x140 */
	uint64_t x87_found;     /* 0x180 */
	uint32_t mxcsr_set;     /* 0x188 */
	uint32_t mxcsr_found;   /* 0x18c */
	uint64_t xcr0_before;   /* 0x190 */
	uint64_t padding[13];   /* 0x198 */
	uint64_t fs_area;       /* 0x200 */
};
_Static_assert(offsetof(struct shared, gpr_found) == 0x80, "layout");
_Static_assert(offsetof(struct shared, x87_found) == 0x180, "layout");
_Static_assert(offsetof(struct shared, fs_area) == 0x200, "layout");

struct bare_vm {
	struct kvm kvm;
	int vm;
	bool irqchip;
	unsigned vcpus;
	int vcpu[MAX_VCPUS];
	struct kvm_run *run[MAX_VCPUS];
	uint8_t *mem;
};

struct saved {
	size_t vm_size;
	size_t size[MAX_VCPUS];
	uint8_t vm[STATE_MAX];
	uint8_t vcpu[MAX_VCPUS][STATE_MAX];
};

/* A VM with memory and bare vCPUs: neither booted nor restored. */
struct bare_vm bare_vm_make(unsigned vcpus, bool irqchip);
void bare_vm_free(struct bare_vm *m);

/* The same, ready to run the guest from its first instruction. */
struct bare_vm bare_vm_boot(unsigned vcpus, bool irqchip);

/* Booted and stopped at its first ring, with nothing half done. */
struct bare_vm bare_vm_warm(bool irqchip);

/* Run vCPU 0 to the next ring. Return: the value rung. */
uint64_t bare_vm_ring(struct bare_vm *m);

/* Finish the store that rang, without entering the guest. */
void bare_vm_settle(struct bare_vm *m);

void bare_vm_save(const struct bare_vm *m, struct saved *s);
void bare_vm_restore(const struct bare_vm *m, const struct saved *s);

/* A new VM with a copy of the memory, restored. */
struct bare_vm bare_vm_copy(const struct bare_vm *from, const struct saved *s);

struct shared *bare_vm_shared(const struct bare_vm *m);

/* After RING_LAST: did the guest find everything it had set? */
void bare_vm_check_found(const struct bare_vm *m);

uint64_t bare_vm_get_msr(const struct bare_vm *m, unsigned vcpu, uint32_t index);
void bare_vm_set_msr(const struct bare_vm *m, unsigned vcpu, uint32_t index, uint64_t value);
void bare_vm_pause_ms(long ms);

/* The payload of the first record of `type` in saved state, and its size. */
uint8_t *bare_vm_record(uint8_t *state, size_t total, uint32_t type, size_t *size);

#endif
