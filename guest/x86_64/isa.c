// SPDX-License-Identifier: MIT
/*
 * guest/x86_64/isa.c - guest/isa.h for x86-64; checks that start.S sees the same structs as C.
 */
#include "guest/isa.h"

#include "guest/x86_64/layout.h"

/* From start.S. */
extern char guest_stacks[];
extern char guest_idt[];
extern char guest_load_root[];

#define CHECK_OFFSET(type, field, offset)                                                          \
	_Static_assert(offsetof(type, field) == (offset), "layout.h: " #type "." #field)

CHECK_OFFSET(struct abi_boot, doorbell, BOOT_DOORBELL);
CHECK_OFFSET(struct abi_request, op, REQUEST_OP);
CHECK_OFFSET(struct abi_request, value, REQUEST_VALUE);
CHECK_OFFSET(struct abi_request, buf, REQUEST_BUF);
CHECK_OFFSET(struct abi_request, size, REQUEST_LENGTH);
CHECK_OFFSET(struct abi_crash, trap, CRASH_TRAP);
CHECK_OFFSET(struct abi_crash, code, CRASH_CODE);
CHECK_OFFSET(struct abi_crash, address, CRASH_ADDRESS);
CHECK_OFFSET(struct abi_crash, pc, CRASH_PC);
CHECK_OFFSET(struct abi_crash, sp, CRASH_SP);
CHECK_OFFSET(struct abi_crash, flags, CRASH_FLAGS);
CHECK_OFFSET(struct abi_crash, regs, CRASH_REGS);
CHECK_OFFSET(struct cpu, index, 0);
_Static_assert(sizeof(struct abi_request) == REQUEST_SIZEOF, "layout.h: REQUEST_SIZEOF");
_Static_assert(sizeof(struct abi_crash) == CRASH_SIZEOF, "layout.h: CRASH_SIZEOF");
_Static_assert(sizeof(struct cpu) <= CPU_SIZE && CPU_SIZE % 16 == 0, "layout.h: CPU_SIZE");
_Static_assert(ABI_WRITE == OP_WRITE && ABI_CRASH == OP_CRASH, "layout.h: OP_*");

unsigned isa_max_cpus(void)
{
	return GUEST_MAX_CPUS;
}

struct cpu *isa_cpu(void)
{
	uintptr_t stack = (uintptr_t)__builtin_frame_address(0);

	return (struct cpu *)((stack | (STACK_SIZE - 1)) + 1 - CPU_SIZE);
}

uint64_t isa_image_end(unsigned cpus)
{
	return (uintptr_t)guest_stacks + (uint64_t)cpus * STACK_SIZE;
}

void isa_ring(uint64_t doorbell, struct abi_request *request)
{
	__asm__ volatile("movq %1, (%0)" : : "r"(doorbell), "r"(request) : "memory");
}

uint64_t isa_cycles(void)
{
	uint32_t low, high;

	/* What is before it is done, what is after it has not begun. Not every CPU has RDTSCP. */
	__asm__ volatile("lfence\n\trdtsc\n\tlfence" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

void isa_store_wide(uint64_t at, uint64_t count)
{
	for (; count > 0; count--)
		__asm__ volatile("movups %%xmm0, (%0)" : : "r"(at) : "memory");
}

void isa_relax(void)
{
	__asm__ volatile("pause");
}

/* Ring 0 is behind a gate: that of UD2, which is made to lead to guest_load_root. */
void isa_load_root(uint64_t root)
{
	uint16_t *gate = (uint16_t *)(guest_idt + 16 * UD_VECTOR);

	gate[0] = (uint16_t)(uintptr_t)guest_load_root;
	gate[3] = (uint16_t)((uintptr_t)guest_load_root >> 16);
	__asm__ volatile("ud2" : : "D"(root) : "memory");
}

void isa_fault(enum isa_fault fault)
{
	switch (fault) {
	case ISA_FAULT_SILENT:
		/* RAM is ours to write: with no gate present, the fault's fault faults too. */
		memset(guest_idt, 0, (size_t)VECTORS * 16);
		__asm__ volatile("ud2");
		break;
	case ISA_FAULT_PORT:
		__asm__ volatile("inb $0x80, %%al" : : : "eax");
		break;
	case ISA_FAULT_PRIVILEGED:
		__asm__ volatile("hlt");
		break;
	case ISA_FAULT_ILLEGAL:
		__asm__ volatile("ud2");
		break;
	case ISA_FAULT_STACK:
		__asm__ volatile("movabs $0x123456789000, %%rsp\n\tpush %%rax" : : : "memory");
		break;
	}
}

/* String instructions: short, quick for pages, and no compiler makes them calls of themselves. */
void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
	void *d = to;

	__asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(size) : : "memory");
	return to;
}

void *memset(void *to, int byte, size_t size)
{
	void *d = to;

	__asm__ volatile("rep stosb" : "+D"(d), "+c"(size) : "a"(byte) : "memory");
	return to;
}
