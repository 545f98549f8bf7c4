// SPDX-License-Identifier: MIT
/*
 * vmm/vm.h - one virtual machine: a space, vCPUs, devices, and what happens to them.
 *
 *     vm_create ── vm_boot_elf ──┐
 *                                ├── vm_run ──> event ──> (vm_snapshot) ──> vm_run ... vm_destroy
 *     vm_create (with an image) ─┤
 *     vm_reset ──────────────────┘
 *
 * vm_run() returns with every vCPU stopped, so whatever its owner does next (snapshot,
 * read memory, destroy) needs no further care. vCPU 0 runs on the caller's thread; the
 * others have threads of their own, parked between calls. The process's handler of SIGURG becomes
 * one that does nothing, and vm_run() lets that signal into the calling thread: it is how a vCPU is
 * stopped, so it must stay so (Go's runtime, for one, wants that signal for itself).
 *
 * Concurrency: one owner calls these functions, one at a time; vm_kick() may come from anywhere.
 * No globals: any number of VMs may live in a process.
 */
#ifndef COWSLIP_VMM_VM_H
#define COWSLIP_VMM_VM_H

#include <stdbool.h>
#include <stdint.h>

#include "mm/image.h"
#include "mm/pool.h"
#include "mm/space.h"
#include "vmm/console.h"
#include "vmm/kvm.h"

#define VM_MAX_CPUS 64u
#define VM_TEXT_MAX 640u

struct vm;

/*
 * What the VM's owner and a guest of guest/abi.h hand each other, beside the console: ABI_INPUT
 * reads `input`, each ABI_OUTPUT is one call of `output`.
 *
 * `output` runs on the thread of the vCPU that rang (vCPU 0's is the caller of vm_run()), those of
 * several vCPUs perhaps at once; the guest's vCPU stands still meanwhile. `data` is guest memory,
 * which other vCPUs may write: copy before you check. It calls nothing that wants the VM stopped.
 */
struct vm_mailbox {
	const void *input; /* borrowed: lives as long as the VM, or until the next vm_set_input() */
	size_t input_size;
	void (*output)(void *ctx, const void *data, size_t size); /* NULL: nobody listens */
	void *ctx;
};

struct vm_config {
	const struct kvm *kvm; /* outlives the VM */
	struct pool *pool;     /* the VM takes a reference */

	/* A clone: goes on where the image was taken. NULL: a fresh machine. */
	struct image *image;
	uint64_t number; /* of a clone, >= 1; 0 for a fresh machine */
	const char *arg; /* the clone's own argument, may be NULL; at most ABI_ARGS_MAX - 1 bytes */
	/*
	 * It will be reset again and again. Changes nothing but what that costs: where KVM has
	 * shadow page tables, they stay when they may, for which it takes a descriptor more and one
	 * for each vCPU.
	 */
	bool reset;

	/* A fresh machine; a clone has what its image says. */
	uint64_t ram_bytes;
	unsigned cpus;
	enum page_size page_size;
	bool hugetlb; /* 2 MiB pages from what the host has set aside; those of 1 GiB always are */
	bool populate;
	bool irqchip;     /* an operating system's machine, with an interrupt controller */
	const char *pmem; /* a file to map as persistent memory above RAM (vmm/pmem.h), or NULL */

	enum fault_choice faults;
	uint64_t limit_bytes; /* the most it may have; 0: as much as its RAM */
	/*
	 * The limit counts what the guest has copied of its image (space_config.limit_copies):
	 * over it, it stops with VM_NOMEM. vmm/vm_limit.c says how far above it may be by then.
	 */
	bool limit_copies;

	/*
	 * Memory of the caller's to run the guest on, or NULL: vm_memory_size() bytes that outlive
	 * the VM (what must hold of it: struct space_config). With an image the caller vouches that
	 * it holds the image's contents, private to this VM; the identity is written through it.
	 * Such a VM cannot be snapshotted, and has no pmem.
	 */
	void *memory;

	console_write_fn *console;     /* may be NULL */
	console_room_fn *console_room; /* may be NULL: there is always room */
	void *console_ctx;
	struct vm_mailbox mailbox; /* zeroed: no input, nobody listens */
};

/* CLOCK_MONOTONIC nanoseconds; 0: has not happened. */
struct vm_times {
	uint64_t asked;        /* vm_create() entered */
	uint64_t created;      /* and done: could run */
	uint64_t running;      /* first KVM_RUN entered */
	uint64_t first_output; /* first byte on the console */
	uint64_t ended;        /* vm_run() returned an ending event */
};

enum vm_event {
	VM_EXITED,  /* the guest ended itself; code */
	VM_CRASHED, /* the guest broke; text */
	VM_READY,   /* the guest rang READY; vm_run() goes on */
	VM_FORK,    /* the guest rang FORK; vm_answer_fork(), then vm_run() goes on */
	VM_TIMEOUT, /* the deadline passed; vm_run() would go on */
	VM_KICKED,  /* vm_kick(); vm_run() goes on */
	VM_NOMEM,   /* no frame for a violation, or over its limit; short_of, text. Where it is the
	               limit, space_resume() with more; vm_run() tries again. May be snapshotted */
	VM_DENIED,  /* an access that vm_protect() forbids; gpa, access, text. vm_run() would go on:
	               the write is dropped, the read finds all ones */
	VM_NEXT,    /* the guest is done with its input; code. vm_reset(), or vm_run() goes on */
	VM_FAILED,  /* KVM or the host failed; text */
};

/* What there is not enough of. */
enum vm_shortage {
	SHORT_OF_NOTHING,
	SHORT_OF_LIMIT, /* the VM's own */
	SHORT_OF_POOL,  /* frames of the pool, which others may share */
	SHORT_OF_HOST,  /* memory or mappings of the host */
};

struct vm_report {
	enum vm_event event;
	unsigned vcpu;
	int code;                  /* VM_EXITED, VM_NEXT: 0..255; VM_FAILED: -errno */
	gpa_t gpa;                 /* VM_DENIED */
	enum access access;        /* VM_DENIED: ACCESS_READ or ACCESS_WRITE */
	enum vm_shortage short_of; /* VM_NOMEM */
	char text[VM_TEXT_MAX];    /* one line or a few, without the last newline; may be empty */
};

/* Why an operation failed, one line. */
struct vm_error {
	char text[VM_TEXT_MAX];
};

/*
 * Bytes that `memory` must have for this configuration: of ram_bytes and page_size, or of the
 * image; holes in the guest's address space included.
 * Return: 0; -EINVAL, -EFBIG for a RAM size that vm_create() would refuse.
 */
int vm_memory_size(const struct vm_config *c, uint64_t *out, struct vm_error *err);

/*
 * Make a VM. With an image it is ready to run; without, boot it first.
 * Return: 0; -EINVAL (RAM size, cpus 0 or too many, arg too long, memory that cannot be used);
 * -ENOTSUP (image for other hardware);
 * -EBADMSG (image state damaged); -ENOMEM; -errno of KVM. err->text says what in one line.
 */
int vm_create(const struct vm_config *c, struct vm **out, struct vm_error *err);

/*
 * Can this host run clones of `image`? Asks what vm_create() takes for granted; once per image.
 * Return: 0; -EBADMSG; -ENOTSUP with err->text naming what is missing; -ENOMEM; -errno of KVM.
 */
int vm_check_image(const struct kvm *kvm, const struct image *image, struct vm_error *err);

/*
 * The devices that the machine saved in an image has, for people: constant strings, at most `room`.
 * Return: how many; -EBADMSG when the state is damaged, or not a machine's.
 */
int vm_image_devices(const struct image *image, const char *names[], unsigned room);

/* NULL is ignored. */
void vm_destroy(struct vm *vm);

/*
 * Load a static ELF program and set every vCPU to start it (guest/abi.h). `args` may be NULL.
 * Return: 0; -ENOEXEC; -E2BIG (args); -errno. err->text says what.
 */
int vm_boot_elf(struct vm *vm, const char *path, const char *args, struct vm_error *err);

/*
 * Load an operating system's kernel and set vCPU 0 to start it; the VM was made with irqchip.
 * `files` and its strings are borrowed for the call.
 * Return: 0; -EINVAL when the VM has no irqchip; as kernel_load(). err->text says what.
 */
struct kernel_files;
int vm_boot_kernel(struct vm *vm, const struct kernel_files *files, struct vm_error *err);

/*
 * Type on the guest's serial console. Return: how many bytes were taken, which may be none: the
 * guest has not read what it has. Any thread.
 */
size_t vm_input(struct vm *vm, const void *data, size_t size);

/*
 * From now on the guest finds this input (borrowed as in struct vm_mailbox; NULL and 0 for none),
 * whatever it has read of the last one. The VM is stopped.
 */
void vm_set_input(struct vm *vm, const void *data, size_t size);

/* Run until something happens. deadline_ns: CLOCK_MONOTONIC, 0: none. */
void vm_run(struct vm *vm, uint64_t deadline_ns, struct vm_report *out);

/*
 * Make a running vm_run() return VM_KICKED soon (or the next one at once). Any thread;
 * async-signal-safe.
 */
void vm_kick(struct vm *vm);

/*
 * The stopped VM becomes an image (memory shared, not copied); it may run on afterwards.
 * Return: 0; -ENOTRECOVERABLE when the guest was given up for want of frames; -ENOTSUP when its
 * memory is the embedder's; -errno of space_publish() or KVM, then the VM is as before.
 */
int vm_snapshot(struct vm *vm, struct image **out, struct vm_error *err);

/*
 * The stopped VM becomes a clone of its image again, clone `number` with argument `arg` (copied,
 * may be NULL): memory, vCPUs and devices, with a fresh identity, in whatever way it had ended. Its
 * descriptors, threads and slots stay; memory costs what was changed (space_reset). Its image is
 * what it was made from, or what vm_snapshot() last made of it. A kick that no vm_run() has seen is
 * forgotten.
 * Return: 0; -EINVAL when it has none, or arg is too long; -ENOTSUP when its memory is the
 * embedder's; -ENOTRECOVERABLE when it was given up for want of frames: it is as before. -errno of
 * space_reset(), of KVM or of answering: it can only be reset again or destroyed.
 */
int vm_reset(struct vm *vm, uint64_t number, const char *arg, struct vm_error *err);

/*
 * The same without memory, which stays as it is: what a reset is measured against. For a guest that
 * has been reset and has not run since, or can begin again on what it left. Return: as vm_reset().
 */
int vm_rewind(struct vm *vm, struct vm_error *err);

/*
 * What the stopped guest may do with a range of its RAM, whole pages of it, from now on: anything,
 * read and execute, nothing; UNMAPPED takes it away for good (space_unmap), and an access there is
 * one to no device. A forbidden access is VM_DENIED, with vCPU and address. The library's own
 * accesses are bound by it too: a doorbell request in such a range is a crash of the guest.
 * Return: 0; -ENOTSUP where KVM has no read-only slots; -ENOSPC when its slots are used up; as
 * space_protect(), then nothing changed; -errno of KVM: the VM can only be destroyed.
 */
int vm_protect(struct vm *vm, struct gpa_range range, enum protection p, struct vm_error *err);

/*
 * vm_reset() for another clone, of whom the last one leaves nothing: its number, argument, console
 * and mailbox are those of `c`, what was typed for the last one and its counters are gone, its
 * limit is what it was when the VM was made. The rest of `c` is what that was made with. Return: as
 * vm_reset().
 */
int vm_reuse(struct vm *vm, const struct vm_config *c, struct vm_error *err);

/*
 * After VM_FORK: tell the guest the child's number (1..INT32_MAX) or -errno. Without it the
 * guest finds -EAGAIN. Return: 0; -EINVAL when no FORK is open; as space_write().
 */
int vm_answer_fork(struct vm *vm, int32_t result);

/*
 * After VM_NEXT and vm_set_input(): the guest goes on with this input, as it is. Without it, it
 * finds that there is no more. Return: 0; -EINVAL when no NEXT is open; as space_write().
 */
int vm_answer_next(struct vm *vm);

struct space *vm_space(struct vm *vm); /* borrowed */

/* The most it may have: its limit now, or all its RAM. Any thread. */
uint64_t vm_limit_bytes(struct vm *vm);

unsigned vm_cpus(const struct vm *vm);
uint64_t vm_number(const struct vm *vm);
void vm_times(struct vm *vm, struct vm_times *out);

/* How often each kind of exit came, all vCPUs together. */
struct vm_exits {
	uint64_t mmio; /* doorbells included */
	uint64_t io;
	uint64_t doorbell;
	uint64_t interrupted; /* KVM_RUN ended by a signal */
	uint64_t other;
};
void vm_exits(struct vm *vm, struct vm_exits *out);

/*
 * KVM's own counters (vmm/kvm_stats.h), all vCPUs together. Between two vm_run(), and after the
 * last. Costs some 10 us for each vCPU.
 * Return: 0; -ENOTSUP when this kernel has none; as kvm_stats_add(). Then *out knows nothing.
 */
struct kvm_counters;
int vm_kvm_stats(struct vm *vm, struct kvm_counters *out);

#endif
