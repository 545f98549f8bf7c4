/* SPDX-License-Identifier: MIT */
/*
 * guest/abi.h - what a tiny guest and the VMM agree on. The same on every ISA.
 *
 * Boot. Every vCPU starts at the ELF entry point, in the most privileged mode the guest runs in,
 * with all RAM and the doorbell page mapped one to one (readable, writable, executable,
 * user-accessible), and two arguments in the first two argument registers of the ISA's C calling
 * convention:
 *     1. address of struct abi_boot (read only by agreement)      2. index of this vCPU, from 0
 * There is no stack yet, and interrupts are off. A vCPU with nothing (more) to do halts with
 * interrupts off: that is no crash; it waits until the guest ends.
 *
 * Doorbell. The guest fills a struct abi_request anywhere in RAM and stores its
 * guest-physical address, 64 bits at once, to the doorbell address named in abi_boot. That one
 * store is one VM exit; when the guest goes on, the request has been served: `result` and the
 * outputs are written. The page lies outside RAM, so the store works from user mode, and
 * costs one exit whatever the buffer's size.
 *
 * All fields are little-endian. Addresses are guest-physical.
 */
#ifndef COWSLIP_GUEST_ABI_H
#define COWSLIP_GUEST_ABI_H

#include <stdint.h>

#define ABI_BOOT_MAGIC UINT64_C(0x31706c7377756f63) /* "couwslp1", little-endian */
#define ABI_VERSION    1u

#define ABI_ARGS_MAX   1024u
#define ABI_ENTROPY    32u
#define ABI_CRASH_REGS 24u
#define ABI_WRITE_MAX  (1u << 20) /* bytes one ABI_WRITE or ABI_OUTPUT may carry */
#define ABI_INPUT_MAX  (1u << 30) /* bytes one ABI_INPUT copies at most */

struct abi_boot {
	uint64_t magic;
	uint32_t version;
	uint32_t cpus;           /* how many vCPUs start */
	uint64_t doorbell;       /* address of the doorbell register */
	uint64_t ram_size;       /* bytes of RAM in all */
	uint64_t ram_top;        /* end of the RAM that starts at the image's lowest address: a free
	                            heap may run from the end of the ELF image to here */
	uint64_t cycles_per_sec; /* of the ISA's user-readable cycle counter (TSC); 0: unknown */
	uint32_t args_len;       /* bytes of args, without the NUL */
	uint32_t reserved;
	char args[ABI_ARGS_MAX]; /* guest arguments joined by single spaces, NUL-terminated */
};

enum abi_op {
	/* Write `size` bytes at `buf` to the console. */
	ABI_WRITE = 1,
	/* The guest is done; `value` (0..255) is its exit code. Does not return. */
	ABI_EXIT = 2,
	/*
	 * Warm: the place a snapshot is taken. In a plain run it returns at once. In a clone the
	 * guest goes on from here with the clone's identity. Outputs: see below.
	 */
	ABI_READY = 3,
	/*
	 * Snapshot this VM and start a child from it, like fork(2). `result` is 0 in the child and
	 * the child's number (> 0) in the parent, or -errno. Outputs as for ABI_READY.
	 */
	ABI_FORK = 4,
	/*
	 * The guest has crashed: `value` is the ISA's trap number, `buf` a struct abi_crash. Does
	 * not return.
	 */
	ABI_CRASH = 5,
	/*
	 * Copy what whoever runs the VM gave it as input, from byte `value` on, at most `size` and
	 * ABI_INPUT_MAX bytes, to `buf`. `result` is how many were copied, 0 at the input's end and
	 * where there is none; -EFAULT, and nothing is copied, when they would not all lie in RAM.
	 */
	ABI_INPUT = 6,
	/*
	 * Hand the `size` bytes at `buf`, which lie in one run of RAM, to whoever runs the VM.
	 * `result` is 0, also when nobody listens; -EMSGSIZE when there are more than
	 * ABI_WRITE_MAX; -EFAULT when they are not all RAM.
	 */
	ABI_OUTPUT = 7,
	/*
	 * Done with this input; `value` (0..255) says how it went. Whoever runs the VM may reset it
	 * to its image for the next one: then the guest does not return from here, but once more
	 * from where the image was taken. Or it may go on: `result` is 1 when there is another
	 * input now, 0 when there is none. Outputs as for ABI_READY.
	 */
	ABI_NEXT = 8,
	/*
	 * Give the `size` bytes at `buf`, whole 4 KiB pages, back to the host: they read as zero
	 * from now on, and cost the host memory again when they are next written. What another
	 * vCPU writes there meanwhile may be lost; a reset brings back what the image has.
	 * `result` is 0; -EINVAL when they are no whole pages, none, or go round; -EFAULT when
	 * they are not all RAM; -EACCES when any may not be written; -EBUSY while a request of
	 * another vCPU is served: try again; -EOPNOTSUPP where RAM is memory that cannot be given
	 * back; -ENOMEM. But for 0, nothing has changed.
	 */
	ABI_DISCARD = 9,
	/*
	 * Who am I, now? A VM can be forked from outside while its guest runs, and the guest is not
	 * told: it is another VM when `generation` is not what it was. Whoever draws random numbers
	 * from a state in RAM asks before it hands any out. `result` is 0. Outputs as for
	 * ABI_READY; the entropy is fresh each time.
	 */
	ABI_IDENTITY = 10,
};

struct abi_request {
	uint32_t op;    /* enum abi_op */
	int32_t result; /* out: >= 0, or -errno (Linux numbers) */
	uint64_t value; /* in: by op */
	uint64_t buf;   /* in: address of the bytes, of ABI_CRASH's struct abi_crash */
	uint64_t size;  /* in: their size */

	/* Outputs of ABI_READY, ABI_FORK, ABI_NEXT and ABI_IDENTITY. */
	uint64_t clone;      /* number of this VM: 0 for a VM that was booted, >= 1 for a clone */
	uint64_t generation; /* of a VM; differs in every one ever made from one image */
	uint8_t entropy[ABI_ENTROPY]; /* fresh random bytes, different in every clone */
	uint32_t args_len;
	uint32_t reserved;
	char args[ABI_ARGS_MAX]; /* the clone's own argument (clone --arg), NUL-terminated */
};

struct abi_crash {
	uint64_t trap;    /* the ISA's trap number */
	uint64_t code;    /* its error code, 0 where there is none */
	uint64_t address; /* faulting address, 0 where there is none */
	uint64_t pc;
	uint64_t sp;
	uint64_t flags;

	/* General, in the ISA's own order (x86-64: rax rcx rdx rbx rsp rbp rsi rdi r8..r15). */
	uint64_t regs[ABI_CRASH_REGS];
};

#endif
