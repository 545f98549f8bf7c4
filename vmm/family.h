// SPDX-License-Identifier: MIT
/*
 * vmm/family.h - run a VM and every VM it forks, one after the other, in this process.
 *
 * A guest's FORK (guest/abi.h) snapshots its VM; the child waits in a queue and starts when its
 * parent has ended, so ancestors are usually gone before their descendants run.
 *
 * Concurrency: everything happens on the calling thread (and the vCPU threads of the VM that runs).
 */
#ifndef COWSLIP_VMM_FAMILY_H
#define COWSLIP_VMM_FAMILY_H

#include "vmm/vm.h"

struct shells;

struct family_hooks {
	void *ctx;

	/* A VM's output; the bytes are gone when it returns. */
	void (*output)(void *ctx, uint64_t number, const void *data, size_t size);

	/*
	 * Is there room for more output, of any VM (console_room_fn)? NULL: always. Asked by a
	 * herd's VMs, which others want something of; a family's wait in `output`.
	 */
	bool (*room)(void *ctx, uint64_t wait_ns);

	/*
	 * The guest rang READY with all vCPUs stopped. Return true to go on, false to end this VM
	 * here (it then counts as exited with 0). NULL: go on.
	 */
	bool (*ready)(void *ctx, struct vm *vm);

	/*
	 * A VM has ended: report, and statistics while it is still there. Return true to keep
	 * it: the VM is then the caller's to destroy, before the family.
	 */
	bool (*ended)(void *ctx, struct vm *vm, const struct vm_report *report);

	/*
	 * vm_kick() was called on a running VM, which now stands still. Return true to go on,
	 * false to end it (as with ready). NULL: go on.
	 */
	bool (*kicked)(void *ctx, struct vm *vm);

	/*
	 * The guest rang NEXT: it is done with its input, `code` how. Return true to go on, with
	 * another input where vm_set_input() and vm_answer_next() were called; false to end it here
	 * (it then counts as exited with the code). NULL: go on, without.
	 */
	bool (*next)(void *ctx, struct vm *vm, int code);

	/*
	 * There is no memory for the VM (VM_NOMEM; report says why): it stands still. Return true
	 * where somebody can do something about it: a herd's VM waits for that (vmm/ctl_herd.h).
	 * Else it ends so; as it does if this is NULL, and in a family, where nobody waits.
	 */
	bool (*starved)(void *ctx, struct vm *vm, const struct vm_report *report);

	/* A VM could not be made: `number` as it would have had, why. */
	void (*failed)(void *ctx, uint64_t number, int error, const char *why);
};

struct family_config {
	struct vm_config vm;  /* template; console, image and number are filled in for children */
	uint64_t timeout_ns;  /* for each VM from its first run; 0: none */
	uint64_t first_child; /* number of the first child, >= 1 */
	uint64_t child_step;  /* and how far it is to the next; 0: 1 */
	struct shells
		*shells;      /* where the root's VM comes from and goes back to; NULL: a new one */
	unsigned max_members; /* FORK is refused with -EAGAIN beyond this many; 0: 4096 */
	const struct family_hooks *hooks;
};

/*
 * Make the console hooks of `c` deliver to hooks->output and create the root. Same errors as
 * vm_create(). The number is c->vm.number.
 */
struct family;
int family_create(const struct family_config *c, struct family **out, struct vm_error *err);

/* The root VM, to boot it. Borrowed; valid until family_run(). */
struct vm *family_root(struct family *f);

/* Run the root, then its descendants, until none is left. */
void family_run(struct family *f);

/* The number of the VM that runs. During family_run(); any of its vCPUs' threads. */
uint64_t family_running(const struct family *f);

/* Do others wait for the one that runs to end? */
bool family_has_more(const struct family *f);

/* The number the next child would have: for another family to go on from. */
uint64_t family_next_number(const struct family *f);

/*
 * For whoever runs VMs that fork: answer with the child's number, or -errno. Return: false when
 * there is no memory even for that; *report is then how the VM has ended.
 */
bool family_answer_fork(struct vm *vm, int result, struct vm_report *report);

/* NULL is ignored. */
void family_destroy(struct family *f);

#endif
