/* SPDX-License-Identifier: MIT */
/*
 * guest/isa.h - what an instruction set must provide to the guest runtime.
 *
 * One directory under guest/ implements it: an entry that brings every vCPU into user mode on a
 * stack of its own and calls guest_entry(), a report of every exception by ABI_CRASH, and the
 * functions here. Everything is called in user mode.
 */
#ifndef COWSLIP_GUEST_ISA_H
#define COWSLIP_GUEST_ISA_H

#include <stdint.h>

#include "guest/runtime.h"

/* The most vCPUs a guest has stacks for; further ones idle for ever. */
unsigned isa_max_cpus(void);

/* The calling vCPU's own structure. Wrong on a stack that is not the one the entry gave. */
struct cpu *isa_cpu(void);

/* End of what the image needs when `cpus` vCPUs run: the free heap may start here. */
uint64_t isa_image_end(unsigned cpus);

/* Store the address of `request` to the doorbell at `doorbell`. Served when it returns. */
void isa_ring(uint64_t doorbell, struct abi_request *request);

/* The user-readable cycle counter, after everything before it has been executed. */
uint64_t isa_cycles(void);

/* Store `count` times 16 bytes to the device at `at`, each by one instruction. */
void isa_store_wide(uint64_t at, uint64_t count);

/* A pause for spin loops. */
void isa_relax(void);

/*
 * Run on the page tables at `root` from now on, which map the program as those before did. From the
 * first call on an undefined instruction is no crash any more.
 */
void isa_load_root(uint64_t root);

/* Accesses that end a guest. */
enum isa_fault {
	ISA_FAULT_SILENT, /* an exception that cannot be delivered, so not reported either */
	ISA_FAULT_PORT,   /* an I/O port access in user mode; ILLEGAL where there are no ports */
	ISA_FAULT_PRIVILEGED, /* a privileged instruction in user mode */
	ISA_FAULT_ILLEGAL,    /* an undefined instruction */
	ISA_FAULT_STACK,      /* a stack pointer that points nowhere, and its use */
};

/* Make one happen. Returns only if this machine does not mind. */
void isa_fault(enum isa_fault fault);

#endif
