// SPDX-License-Identifier: MIT
/*
 * vmm/vm_internal.h - the inside of a VM, shared by vm.c (life cycle), vm_reset.c (back to the
 * image), vm_slots.c (memory slots), vm_limit.c (no more memory), vm_follow.c (walks of writes),
 * vm_tables.c (page tables), vcpu.c (running), vm_tick.c (what is done meanwhile), vmstate.c (saved
 * state) and kvm_stats.c (KVM's counters).
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
#include "vmm/tick.h"
#include "vmm/vm.h"

/*
 * The signal that makes a vCPU thread leave KVM_RUN. Its handler does nothing. Not one of those
 * that queue: sending them fails when a user has as many pending as he may (RLIMIT_SIGPENDING).
 * This one is ignored by whoever knows nothing of it.
 */
#define KICK_SIGNAL SIGURG

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

	/* Of whoever runs it. */
	struct tick tick;
	uint64_t faults; /* that its thread had taken at the last tick */
	uint64_t unseen; /* of those, since it last looked for a walk */

	/* Has it run code of the highest privilege (vm_tables.c)? */
	bool watched;         /* not since the VM was made; false also where nobody knows */
	uint64_t interpreted; /* instructions so far */
	struct kvm_counter_file interpreting;
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

/* What vm_tables.c knows of a VM. */
#define TABLES_RANGES 16u
struct tables_watch {
	struct kvm_counter_file misses; /* closed: the VM is not watched */
	uint64_t made;                  /* shadows of tables, as of the last vm_tables_hold() */
	bool known;                     /* the image's tables are these */
	size_t count;
	struct gpa_range range[TABLES_RANGES];
};

/* What a VM must have been made with for a saved state to fit it. */
struct machine {
	unsigned cpus;
	bool irqchip;
};

/* Looking for walks of writes (vm_follow.c). */
struct vm_follow {
	_Atomic bool busy;           /* a vCPU looks */
	_Atomic bool begun;          /* a tick has found faults before */
	_Atomic uint64_t not_before; /* when the next may, CLOCK_MONOTONIC */
	unsigned fruitless;          /* whoever is busy; looks in a row that found nothing */
};

struct vm {
	/* Constant once created. */
	const struct kvm *kvm;
	struct space *space;
	int fd; /* -1: none */
	unsigned cpu_count;
	unsigned slots;    /* memory slots in use, 0..slots-1; the owner's alone */
	bool irqchip;      /* an interrupt controller in KVM: an operating system's machine */
	bool limit_copies; /* as configured */
	struct vcpu *vcpus;
	struct bus ports, mmio;
	uint64_t number;
	char *arg;             /* owned, may be NULL */
	struct gpa_range pmem; /* size 0: none */

	struct vm_follow follow;

	struct console console;
	struct serial serial;
	struct power power;
	struct guestctl ctl;

	/* What it was made with: who may have it next (vmm/shell.c). */
	struct {
		struct pool *pool; /* its space's */
		/* Not held: only compared with the space's. NULL once it is a clone of another. */
		const struct image *image;
		enum fault_choice faults;
		uint64_t limit_bytes;
		uint64_t limit_frames; /* of its space, which space_resume() may change */
	} made;

	/* Owner's alone. */
	struct open_request open;
	struct vm_times times;
	enum paging paging; /* PAGING_UNKNOWN until the first reset */
	bool forgotten;     /* vm_forget(), and no vm_reset() since */
	struct tables_watch tables;
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
	_Atomic bool tick_due; /* vm_tick_ask_stopped(), not served yet */
	_Atomic bool nomem;    /* a violation found no frame; `nomem_at` says where */
	_Atomic uint64_t nomem_at;
	_Atomic enum vm_shortage nomem_why;
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

/*
 * An event that the VM survives, of `v`; its thread. Return: false when there is one already, of
 * whatever vCPU: then nothing was done.
 */
bool vcpu_post_event(struct vcpu *v, enum vm_event event, int code);

/* Everyone but `v` out of the guest, and not in again before the next round. A vCPU's thread. */
void vcpu_stop_others(struct vcpu *v);

/* Start and end the threads of vCPUs 1..n-1. start: 0 or -errno (none left running). */
int vcpu_start_threads(struct vm *vm);
void vcpu_end_threads(struct vm *vm);

/* ---- vm_tick.c ---- */

/*
 * Ticks from here on, if the VM has a use for them, and no more. The vCPU's thread. Return: 0, also
 * where there are none and the VM can do without; as tick_start().
 */
int vm_tick_start(struct vcpu *v);
void vm_tick_stop(struct vcpu *v);

/* KVM_RUN came out, and nothing was asked of `v`: it may have been a tick. Its thread. */
void vm_tick(struct vcpu *v);

/*
 * For a user of ticks: stop all vCPUs, call every user's `stopped`, go on. Of several that ask at
 * once, one stop serves all. The vCPU's thread, in its tick.
 */
void vm_tick_ask_stopped(struct vcpu *v);

/* All vCPUs have stopped: serve who asked. The owner's thread. */
void vm_tick_stopped(struct vm *vm);

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

/* ---- vm_limit.c ---- */

/* What a violation that has just found no frame is short of. */
enum vm_shortage vm_shortage_now(struct vm *vm);

/* out->text: `what`, and of what there is not enough; out->short_of. */
void vm_say_short(struct vm *vm, const char *what, enum vm_shortage s, struct vm_report *out);

/* The same: no frame for `at`. */
void vm_say_no_frame(struct vm *vm, gpa_t at, enum vm_shortage s, struct vm_report *out);

/* err->text: `what` was refused, with -ENOMEM for want of what. Return: code. */
int vm_say_refused(struct vm *vm, int code, const char *what, struct vm_error *err);

/* A user of ticks: a VM whose limit counts copies stops when it is over it. */
bool vm_limit_wants(const struct vm *vm);
void vm_limit_tick(struct vcpu *v, uint64_t faults);

/* Before it runs. Return: whether it is over its limit; then out->text and short_of say so. */
bool vm_over_limit(struct vm *vm, struct vm_report *out);

/* ---- vm_follow.c: a user of ticks ---- */

bool vm_follow_wants(const struct vm *vm);
void vm_follow_tick(struct vcpu *v, uint64_t faults);
void vm_follow_stopped(struct vm *vm);

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

/* ---- vm_tables.c ---- */

/*
 * KVM's shadows of page tables are to be kept over resets where they may be: watch the new VM, a
 * clone that has not run, for that. Takes a descriptor and one for each vCPU. Where it cannot be
 * done, shadows are dropped.
 */
void vm_tables_watch(struct vm *vm);

/* Watch it no longer. Idempotent. The last one before its descriptors are closed. */
void vm_tables_end(struct vm *vm);

/*
 * The VM has just been reset: its tables are the image's. When they are not known yet, all shadows
 * have been dropped since the VM last ran.
 */
void vm_tables_learn(struct vm *vm);

/* A vCPU that is watched has come out of KVM_RUN, which returned `result`. Its own thread. */
void vm_tables_note(struct vcpu *v, int result);

/*
 * Once between a run and the reset after it: will all shadows that KVM has be right when memory is
 * the image's again? If not, they must be dropped.
 */
bool vm_tables_hold(struct vm *vm);

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
