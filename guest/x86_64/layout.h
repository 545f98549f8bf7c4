/* SPDX-License-Identifier: MIT */
/*
 * guest/x86_64/layout.h - numbers that the assembler, the compiler and guest.ld share.
 *
 * Only #defines of plain numbers: start.S includes this. What C also sees as a struct is
 * checked against it in isa.c; what the linker places is checked by ASSERTs in guest.ld.
 */
#ifndef COWSLIP_GUEST_X86_64_LAYOUT_H
#define COWSLIP_GUEST_X86_64_LAYOUT_H

/* Where programs are linked, and what stands at fixed places there (see start.S). */
#define GUEST_BASE        0x200000
#define VECTORS           32
#define VECTORS_WITH_CODE 0x60227d00 /* bit per exception that pushes an error code */
#define UD_VECTOR         6          /* undefined instruction */
#define VECTOR_SIZE       16         /* bytes of one entry stub */
#define VECTORS_ADDR      GUEST_BASE /* entry stubs of the exceptions */
#define IDT_ADDR          (VECTORS_ADDR + VECTORS * VECTOR_SIZE) /* their table, 16 bytes each */
#define TSS_ADDR          (IDT_ADDR + VECTORS * 16) /* one task state segment per vCPU */
#define TSS_SIZE          104

#define GUEST_MAX_CPUS 64

/*
 * Ring-3 stacks: one per vCPU, aligned to its size, with a struct cpu at its top. Crash stacks: two
 * per vCPU, for ring 0, the second for a double fault.
 */
#define STACK_SHIFT      14
#define STACK_SIZE       (1 << STACK_SHIFT)
#define CPU_SIZE         1152 /* struct cpu of guest/runtime.h, a multiple of 16 */
#define CRASH_STACK_SIZE 512

/* Selectors. The VMM starts us with 0x08 and 0x10 already loaded, as if by this very table. */
#define SEL_CODE      0x08
#define SEL_DATA      0x10
#define SEL_USER_DATA 0x1b
#define SEL_USER_CODE 0x23
#define SEL_TSS       0x30 /* of vCPU 0; 16 bytes per vCPU */

/* guest/abi.h and struct console as start.S sees them. */
#define BOOT_DOORBELL  16
#define REQUEST_OP     0
#define REQUEST_VALUE  8
#define REQUEST_BUF    16
#define REQUEST_LENGTH 24
#define REQUEST_SIZEOF 1112
#define OP_WRITE       1
#define OP_CRASH       5
#define CRASH_TRAP     0
#define CRASH_CODE     8
#define CRASH_ADDRESS  16
#define CRASH_PC       24
#define CRASH_SP       32
#define CRASH_FLAGS    40
#define CRASH_REGS     48
#define CRASH_SIZEOF   240
#define CONSOLE_USED   8
#define CONSOLE_BYTES  16
#define CONSOLE_SIZE   8192

#endif
