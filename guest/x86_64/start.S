/* SPDX-License-Identifier: MIT */
/*
 * guest/x86_64/start.S - ring 0 of a tiny guest: entry, exception vectors, crash report.
 *
 * The VMM starts every vCPU at guest_start in ring 0 (guest/abi.h, "Boot"). Where KVM is software,
 * ring 0 is interpreted instruction by instruction, so there is little of it: every table is a
 * link-time constant, and a vCPU reaches ring 3 after some 20 instructions. Nothing here uses SSE,
 * x87 or BMI, which such hosts do not interpret, nor SYSCALL or INT.
 *
 * What stands at fixed addresses (layout.h), so that descriptors can be assembled:
 *
 *     VECTORS_ADDR   32 entry stubs of 16 bytes
 *     IDT_ADDR       32 gates, all interrupt gates into ring 0
 *     TSS_ADDR       one TSS per vCPU, naming its two crash stacks
 *
 * Every exception is the end of the guest, but for UD2 in one that has asked for that
 * (isa_load_root): the first vCPU to take one flushes the console, stores its registers to a
 * struct abi_crash, rings ABI_CRASH, and halts. Each vCPU takes exceptions on a
 * stack of its own (IST 1), double faults on another (IST 2), so a broken ring-3 stack is reported
 * too.
 *
 * Not done: interrupts (they stay off in ring 3 too), return from an exception but for one.
 */
#include "guest/x86_64/layout.h"

/* ---- exception vectors: push a zero code where the CPU pushes none, then the number ---- */

	.section .fixed.vectors, "ax", @progbits
	.balign	VECTOR_SIZE
	.globl	guest_vectors
guest_vectors:
	.set	vector, 0
	.rept	VECTORS
	.balign	VECTOR_SIZE, 0x90
	.if	!(VECTORS_WITH_CODE >> vector & 1)
	pushq	$0
	.endif
	pushq	$vector
	jmp	crash
	.set	vector, vector + 1
	.endr
	.balign	VECTOR_SIZE, 0x90

/* ---- IDT ---- */

	.section .fixed.idt, "aw", @progbits
	.globl	guest_idt
guest_idt:
	.set	vector, 0
	.rept	VECTORS
	.set	entry, VECTORS_ADDR + vector * VECTOR_SIZE
	.word	entry & 0xffff
	.word	SEL_CODE
	.if	vector == 8
	.byte	2
	.else
	.byte	1
	.endif
	.byte	0x8e			/* present, ring 0, 64-bit interrupt gate */
	.word	entry >> 16
	.long	0, 0
	.set	vector, vector + 1
	.endr

/* ---- TSS: only the stacks matter; the I/O bitmap is beyond the limit, so no port is open ---- */

	.section .fixed.tss, "aw", @progbits
	.globl	guest_tss
guest_tss:
	.set	cpu, 0
	.rept	GUEST_MAX_CPUS
	.long	0
	.quad	crash_stacks + (2 * cpu + 1) * CRASH_STACK_SIZE		/* RSP0 */
	.quad	0, 0, 0
	.quad	crash_stacks + (2 * cpu + 1) * CRASH_STACK_SIZE		/* IST 1 */
	.quad	crash_stacks + (2 * cpu + 2) * CRASH_STACK_SIZE		/* IST 2 */
	.quad	0, 0, 0, 0, 0, 0
	.word	0, TSS_SIZE
	.set	cpu, cpu + 1
	.endr

/* ---- GDT: accessed bits are set already; only LTR writes to it, on the first data page ---- */

	.section .data.gdt, "aw", @progbits
	.balign	16
gdt:
	.quad	0
	.quad	0x00af9b000000ffff	/* SEL_CODE: ring 0, 64-bit */
	.quad	0x00cf93000000ffff	/* SEL_DATA */
	.quad	0x00cff3000000ffff	/* SEL_USER_DATA: ring 3 */
	.quad	0x00affb000000ffff	/* SEL_USER_CODE: ring 3, 64-bit */
	.quad	0
	.set	cpu, 0
	.rept	GUEST_MAX_CPUS
	.set	base, TSS_ADDR + cpu * TSS_SIZE
	.word	TSS_SIZE - 1
	.word	base & 0xffff
	.byte	(base >> 16) & 0xff
	.byte	0x89			/* present, ring 0, available 64-bit TSS */
	.byte	0
	.byte	(base >> 24) & 0xff
	.quad	0
	.set	cpu, cpu + 1
	.endr
gdt_end:

	.section .rodata.start, "a", @progbits
	.balign	8
gdt_pointer:
	.word	gdt_end - gdt - 1
	.quad	gdt
idt_pointer:
	.word	VECTORS * 16 - 1
	.quad	guest_idt

/* ---- entry: RDI = struct abi_boot, ESI = vCPU index, no stack ---- */

	.section .text.start, "ax", @progbits
	.weak	guest_cpu
	.globl	guest_start
	.type	guest_start, @function
guest_start:
	mov	%rdi, guest_boot		/* every vCPU stores the same; crash needs it */
	lgdt	gdt_pointer
	lidt	idt_pointer
	mov	%esi, %ecx
	jecxz	1f
	cmp	$GUEST_MAX_CPUS, %ecx
	jae	park
	mov	$guest_cpu, %eax		/* a program without it leaves these vCPUs idle */
	test	%eax, %eax
	jz	park
1:	lea	SEL_TSS(,%rcx,8), %eax
	lea	(%rax,%rcx,8), %eax
	ltr	%ax
	shl	$STACK_SHIFT, %ecx
	lea	guest_stacks + STACK_SIZE - CPU_SIZE(%rcx), %rsp
	mov	%rsp, %rax
	mov	%esi, (%rax)			/* struct cpu: index */
	pushq	$SEL_USER_DATA
	push	%rax
	pushq	$2				/* RFLAGS: interrupts off, IOPL 0 */
	pushq	$SEL_USER_CODE
	pushq	$user
	iretq

/* Ring 3 begins. DS and ES are null now, which 64-bit mode does not mind. */
user:
	xor	%ebp, %ebp
	call	guest_entry			/* (boot, index): does not return */
	ud2

/* Idle for ever. */
	.balign	16
park:
	hlt
	jmp	park
	.size	guest_start, . - guest_start

/*
 * An exception: trap, code, RIP, CS, RFLAGS, RSP, SS on the stack. Addresses are absolute: no
 * register is free until it has been stored.
 */
	.type	crash, @function
crash:
	push	%rax
	mov	$1, %eax
	xchg	%eax, crash_taken		/* the first vCPU to crash reports */
	test	%eax, %eax
	jnz	park
	pop	%rax
	mov	%rax, crash_record + CRASH_REGS + 8 * 0
	mov	%rcx, crash_record + CRASH_REGS + 8 * 1
	mov	%rdx, crash_record + CRASH_REGS + 8 * 2
	mov	%rbx, crash_record + CRASH_REGS + 8 * 3
	mov	%rbp, crash_record + CRASH_REGS + 8 * 5
	mov	%rsi, crash_record + CRASH_REGS + 8 * 6
	mov	%rdi, crash_record + CRASH_REGS + 8 * 7
	mov	%r8,  crash_record + CRASH_REGS + 8 * 8
	mov	%r9,  crash_record + CRASH_REGS + 8 * 9
	mov	%r10, crash_record + CRASH_REGS + 8 * 10
	mov	%r11, crash_record + CRASH_REGS + 8 * 11
	mov	%r12, crash_record + CRASH_REGS + 8 * 12
	mov	%r13, crash_record + CRASH_REGS + 8 * 13
	mov	%r14, crash_record + CRASH_REGS + 8 * 14
	mov	%r15, crash_record + CRASH_REGS + 8 * 15
	pop	%rbx				/* trap number, kept for the request */
	mov	%rbx, crash_record + CRASH_TRAP
	pop	%rax
	mov	%rax, crash_record + CRASH_CODE
	pop	%rax
	mov	%rax, crash_record + CRASH_PC
	pop	%rax				/* CS */
	pop	%rax
	mov	%rax, crash_record + CRASH_FLAGS
	pop	%rax
	mov	%rax, crash_record + CRASH_SP
	mov	%rax, crash_record + CRASH_REGS + 8 * 4
	cmp	$14, %ebx			/* only a page fault has an address */
	jne	1f
	mov	%cr2, %rax
	mov	%rax, crash_record + CRASH_ADDRESS
1:	mov	guest_boot, %rdx
	mov	BOOT_DOORBELL(%rdx), %rdx

	/* What the program printed comes first, unless the crash has ruined the buffer. */
	mov	guest_console + CONSOLE_USED, %rax
	test	%rax, %rax
	jz	2f
	cmp	$CONSOLE_SIZE, %rax
	ja	2f
	movl	$OP_WRITE, crash_request + REQUEST_OP
	movq	$guest_console + CONSOLE_BYTES, crash_request + REQUEST_BUF
	mov	%rax, crash_request + REQUEST_LENGTH
	mov	$crash_request, %eax
	mov	%rax, (%rdx)

2:	movl	$OP_CRASH, crash_request + REQUEST_OP
	mov	%rbx, crash_request + REQUEST_VALUE
	movq	$crash_record, crash_request + REQUEST_BUF
	movq	$CRASH_SIZEOF, crash_request + REQUEST_LENGTH
	mov	$crash_request, %eax
	mov	%rax, (%rdx)
	jmp	park
	.size	crash, . - crash

/* UD2 in a program that has its gate lead here: RDI is the page table to run on. */
	.balign	16
	.globl	guest_load_root
	.type	guest_load_root, @function
guest_load_root:
	mov	%rdi, %cr3
	addq	$2, (%rsp)			/* behind the UD2 */
	iretq
	.size	guest_load_root, . - guest_load_root

/* ---- memory: what every run writes lies together, stacks and the crash record last ---- */

	.section .bss.boot, "aw", @nobits
	.balign	8
	.globl	guest_boot
guest_boot:
	.skip	8

	.section .cold, "aw", @nobits
	.balign	16
crash_stacks:
	.skip	2 * GUEST_MAX_CPUS * CRASH_STACK_SIZE
crash_record:
	.skip	CRASH_SIZEOF
crash_request:
	.skip	REQUEST_SIZEOF
crash_taken:
	.skip	4

	.section .stacks, "aw", @nobits
	.balign	STACK_SIZE
	.globl	guest_stacks
guest_stacks:
	.skip	GUEST_MAX_CPUS * STACK_SIZE

	.section .note.GNU-stack, "", @progbits
