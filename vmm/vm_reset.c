// SPDX-License-Identifier: MIT
/*
 * vmm/vm_reset.c - a VM goes back to the image it is a clone of, in place.
 *
 * What made it a VM stays: descriptors, vCPUs and their threads, memory slots, the window. Memory
 * goes back by space_reset(), the rest as in a clone that is being made: restored over what is
 * there. Devices are put to rest first, so that their interrupt lines start low as in a new VM.
 *
 * Page tables of the guest are memory too, and what goes back may be a page table: nothing that was
 * translated by it may be used again. A CPU's translations are flushed (arch_vcpu_forget). Where
 * KVM translates through shadow tables, it drops all of them (vm_drop_shadows): it sees only what
 * the guest itself writes to its tables, and a guest may have had others than those it ended on.
 * Unless it is known that the guest had none but the image's, and left those alone (vm_tables.c):
 * then every translation is still right.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "vmm/vm_internal.h"

/* Why the VM cannot be reset, or NULL. *code: -errno. */
static const char *refusal(struct vm *vm, const char *arg, int *code)
{
	const struct image *image = space_image(vm->space);
	size_t size = 0;

	if (image)
		image_state(image, &size);
	*code = -EINVAL;
	if (size == 0)
		return "no clone: there is no image to go back to";
	if (arg && strlen(arg) >= ABI_ARGS_MAX)
		return "the argument is too long";
	if (space_is_linear(vm->space)) {
		*code = -ENOTSUP;
		return "the guest runs on memory of the embedder's";
	}
	*code = -ENOTRECOVERABLE;
	if (atomic_load(&vm->broken))
		return "the guest's memory is answered for no more";
	return atomic_load(&vm->ruined) ? "the guest ran out of frames and was given up" : NULL;
}

/* ---- translations ---- */

static enum paging find_paging(struct vm *vm)
{
	if (vm->paging == PAGING_UNKNOWN)
		vm->paging = arch_shadow_paging() ? PAGING_SHADOW : PAGING_TWO_STAGES;
	return vm->paging;
}

int vm_forget(struct vm *vm, struct vm_error *err)
{
	int r = 0;

	if (vm->forgotten)
		return 0;
	vm->forgotten = vm_tables_hold(vm);
	if (vm->forgotten)
		return 0;
	for (unsigned i = 0; r == 0 && i < vm->cpu_count; i++)
		r = arch_vcpu_forget(vm->vcpus[i].fd);
	if (r)
		snprintf(err->text, sizeof(err->text), "reset of a vCPU: %s", strerror(-r));
	else if (find_paging(vm) == PAGING_SHADOW)
		r = vm_drop_shadows(vm, err);
	vm->forgotten = r == 0;
	/* What KVM still has is of no use; and what it has from now on says nothing of that. */
	if (r)
		vm_tables_end(vm);
	return r;
}

/* ---- the rest ---- */

/* Nothing that was about to happen happens. Input still waits on the line, unread. */
static void quiesce(struct vm *vm)
{
	serial_restore(&vm->serial, &(struct serial_regs){0});
	power_restore(&vm->power, &(struct power_regs){0});
	for (unsigned i = 0; i < vm->cpu_count; i++) {
		int code;

		vm->vcpus[i].pending = false;
		vm->vcpus[i].deferred = false;
		(void)power_ended(&vm->power, i, &code);
	}
	vm->open.gpa = BELL_SILENT;
	atomic_store(&vm->nomem, false);
	atomic_store(&vm->kicked, false);
	vm->follow = (struct vm_follow){0};
}

/* Memory and machine; the VM is whose `number` and `arg` (the VM's now) say. */
static int go_back(struct vm *vm, uint64_t number, char *arg, struct vm_error *err)
{
	int r = vm_forget(vm, err);

	vm->forgotten = false;
	if (r == 0) {
		r = space_reset(vm->space);
		if (r)
			vm_say_refused(vm, r, "reset of memory", err);
	}
	if (r) {
		free(arg);
		return r;
	}
	free(vm->arg);
	vm->arg = arg;
	vm->number = number;
	quiesce(vm);
	r = vm_restore(vm, space_image(vm->space), err);
	if (r == 0)
		vm_tables_learn(vm);
	return r;
}

/* Timed as a clone is. */
static void start_times(struct vm *vm, uint64_t asked)
{
	vm->times = (struct vm_times){.asked = asked, .created = clock_ns()};
	pthread_mutex_lock(&vm->console.lock);
	vm->console.first_ns = 0;
	pthread_mutex_unlock(&vm->console.lock);
}

int vm_reset(struct vm *vm, uint64_t number, const char *arg, struct vm_error *err)
{
	uint64_t asked = clock_ns();
	int r;
	const char *why = refusal(vm, arg, &r);
	char *copy;

	if (why) {
		snprintf(err->text, sizeof(err->text), "reset: %s", why);
		return r;
	}
	copy = arg ? strdup(arg) : NULL;
	if (arg && !copy) {
		snprintf(err->text, sizeof(err->text), "reset: out of memory");
		return -ENOMEM;
	}
	r = go_back(vm, number, copy, err);
	if (r == 0)
		start_times(vm, asked);
	return r;
}

int vm_rewind(struct vm *vm, struct vm_error *err)
{
	uint64_t asked = clock_ns();
	int r;
	const char *why = refusal(vm, NULL, &r);

	if (why) {
		snprintf(err->text, sizeof(err->text), "rewind: %s", why);
		return r;
	}
	quiesce(vm);
	r = vm_restore(vm, space_image(vm->space), err);
	if (r == 0)
		start_times(vm, asked);
	return r;
}

int vm_reuse(struct vm *vm, const struct vm_config *c, struct vm_error *err)
{
	int r;

	/* What was typed for the last one is not for this one. */
	serial_drop_input(&vm->serial);
	console_redirect(&vm->console, c->console, c->console_room, c->console_ctx);
	vm->ctl.mailbox = c->mailbox;
	if (space_limit(vm->space) != vm->made.limit_frames)
		space_resume(vm->space, vm->made.limit_frames);
	r = vm_reset(vm, c->number, c->arg, err);
	for (unsigned i = 0; i < vm->cpu_count; i++)
		vm->vcpus[i].exits = (struct vm_exits){0};
	return r;
}
