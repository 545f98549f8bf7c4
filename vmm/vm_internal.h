// SPDX-License-Identifier: MIT
/*
 * vmm/vm_internal.h - the inside of a VM, shared by vm.c (life cycle), vm_reset.c (back to the
 * image), vm_slots.c (memory slots), vcpu.c (running), vmstate.c (saved state) and kvm_stats.c
 * (KVM's counters).
 */
#ifndef COWSLIP_VMM_VM_INTERNAL_H
#define COWSLIP_VMM_VM_INTERNAL_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "mm/lock.h"
#include "vmm/bus.h"
#include "vmm/console.h"
#include "vmm/guestctl.h"
#include "vmm/kvm_stats.h"
#include "vmm/power.h"
#include "vmm/serial.h"
#include "vmm/vm.h"

/* The signal that makes a vCPU thread leave KVM_RUN. Its handler does nothing. */
#define KICK_SIGNAL (SIGRTMIN + 1)

struct vcpu {
	struct vm *vm;
	unsigned index;
	int fd;              /* -1: none */
	struct kvm_run *run; /* NULL: not mapped */
	pthread_t thread;    /* index > 0 */
	bool threaded;       /* `thread` exists */

	/* Written by the vCPU's thread while it runs, read by the owner while it is stopped. */
	bool pending;  /* `report` waits to be returned by vm_run() */
	bool deferred; /* its bell waits until another vCPU's event is over */
	bool halted;   /* it has nothing to do and nothing will ever wake it */
	struct vm_report report;
	struct vm_exits exits;
};

/* What waits for an answer. As it is saved. */
enum open_kind {
	OPEN_READY,
	OPEN_FORK,
	OPEN_NEXT,
	OPEN_KINDS,
};

/* A request that has not been answered: part of the saved state. */
struct open_request {
	uint64_t gpa; /* BELL_SILENT: none */
	enum open_kind kind;
};

/* How this host's KVM translates. */
enum paging {
	PAGING_UNKNOWN,
	PAGING_TWO_STAGES,
	PAGING_SHADOW, /* through tables that it makes from the guest's */
};

/* What a VM must have been made with for a saved state to fit it. */
struct machine {
	unsigned cpus;
	bool irqchip;
};

struct vm {
	/* Constant once created. */
	const struct kvm *kvm;
	struct space *space;
	int fd; /* -1: none */
	unsigned cpu_count;
	unsigned slots; /* memory slots in use, 0..slots-1; the owner's alone */
	bool irqchip;   /* an interrupt controller in KVM: an operating system's machine */
	struct vcpu *vcpus;
	struct bus ports, mmio;
	uint64_t number;
	char *arg;             /* owned, may be NULL */
	struct gpa_range pmem; /* size 0: none */

	struct console console;
	struct serial serial;
	struct power power;
	struct guestctl ctl;

	/* What it was made with: who may have it next (vmm/shell.c). */
	struct {
		const struct pool *pool;
		/* Not held: only compared with the space's. NULL once it is a clone of another. */
		const struct image *image;
		enum fault_choice faults;
		uint64_t limit_bytes;
		uint64_t limit_frames; /* of its space, which space_resume() may change */
	} made;

	/* Owner's alone. */
	struct open_request open;
	struct vm_times times;
	enum paging paging;                           /* PAGING_UNKNOWN until the first reset */
	bool forgotten;                               /* vm_forget(), and no vm_reset() since */
	uint64_t deadline_ns;                         /* of the vm_run() under way, 0: none */
	struct kvm_stats_layout vm_stats, vcpu_stats; /* of this VM's and of its vCPUs' files */

	/* Starting and stopping the other vCPUs' threads. */
	struct lock lock;
	pthread_cond_t changed;
	_Atomic uint64_t epoch; /* written under lock; +1 with every vm_run(): the start signal */
	unsigned running;       /* lock; threads that have not stopped yet */
	bool quit;              /* lock */

	_Atomic bool stop;       /* vCPUs leave their loops */
	_Atomic bool claimed;    /* a vCPU has the event of this vm_run() */
	_Atomic unsigned inside; /* vCPUs that are in KVM_RUN */
	_Atomic bool ruined; /* the guest has seen memory it should not have: never run it again */
	_Atomic bool kicked; /* vm_kick() */
	_Atomic bool marked; /* it was kicked or out of frames once: not for others (vmm/shell.c) */
	_Atomic bool nomem;  /* a violation found no frame; `nomem_at` says where */
	_Atomic uint64_t nomem_at;
	_Atomic int broken;      /* -errno: nobody answers violations any more; 0: somebody does */
	_Atomic bool owner_runs; /* `owner` is inside vm_run() */
	_Atomic pthread_t owner;
};

/* ---- vcpu.c ---- */

/* Let the kick signal interrupt KVM_RUN in this process. Idempotent. Return: 0 or -errno. */
int vcpu_prepare_signals(void);

/* Make vCPU `v`'s thread leave KVM_RUN, or not enter it. Any thread. */
void vcpu_kick(struct vcpu *v);

/*
 * Run until vm->stop, an event or a halt; then the vCPU is at an instruction boundary. Its own
 * thread.
 */
void vcpu_run(struct vcpu *v);

/* Start and end the threads of vCPUs 1..n-1. start: 0 or -errno (none left running). */
int vcpu_start_threads(struct vm *vm);
void vcpu_end_threads(struct vm *vm);

/* ---- vm.c ---- */

/*
 * Answer the open request with `result` and this VM's identity. Return: 0, it is open no more; as
 * space_write() or -errno of drawing an identity, it is as before.
 */
int vm_answer(struct vm *vm, int32_t result);

/*
 * Put the image's machine state into a VM whose memory is the image's, under an identity of its
 * own. Return: 0; as vmstate_restore() and vm_answer(), then the VM must not run.
 */
int vm_restore(struct vm *vm, const struct image *image, struct vm_error *err);

/* ---- vm_slots.c ---- */

/*
 * Memory slots after what RAM permits, instead of those there are. vCPUs stopped. Return: 0 or
 * -errno of KVM.
 */
int vm_lay_slots(struct vm *vm, struct vm_error *err);

/*
 * No shadow of a page table that KVM has made is used again. vCPUs stopped.
 *
 * KVM drops all of them when a slot goes, any slot; so one is laid and taken away, of a page and
 * where the guest has none. The slots of RAM cost more: KVM keeps books of each of their pages.
 * Return: 0 or -errno of KVM.
 */
int vm_drop_shadows(struct vm *vm, struct vm_error *err);

/* ---- vm_reset.c ---- */

/*
 * The stopped VM will be reset, and nothing else: registers are not what they were, and nothing is
 * translated any more as it was. vm_reset() does it where nobody has; beforehand it costs the next
 * clone no time. Return: 0 or -errno of KVM.
 */
int vm_forget(struct vm *vm, struct vm_error *err);

/* ---- vmstate.c ---- */

/*
 * All state beside memory as bytes (malloc'ed). vCPUs stopped. Return: 0; -ENOMEM; -errno of KVM.
 */
int vmstate_save(struct vm *vm, void **out, size_t *size);

/* What machine the bytes are of. Return: 0; -EBADMSG. */
int vmstate_machine(const void *state, size_t size, struct machine *out);

/* Put the bytes into a VM that has as many vCPUs. Return: 0; -EBADMSG; -ENOTSUP; -errno of KVM. */
int vmstate_restore(struct vm *vm, const void *state, size_t size, struct vm_error *err);

#endif
