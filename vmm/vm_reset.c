// SPDX-License-Identifier: MIT
/*
 * vmm/vm_reset.c - a VM goes back to the image it is a clone of, in place.
 *
 * What made it a VM stays: descriptors, vCPUs and their threads, memory slots, the window. Memory
 * goes back by space_reset(), the rest as in a clone that is being made: restored over what is
 * there. Devices are put to rest first, so that their interrupt lines start low as in a new VM.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
	return atomic_load(&vm->ruined) ? "the guest ran out of frames and was given up" : NULL;
}

/* Nothing that was about to happen happens. Input still waits on the line, unread. */
static void quiesce(struct vm *vm)
{
	serial_restore(&vm->serial, &(struct serial_regs){0});
	power_restore(&vm->power, &(struct power_regs){0});
	for (unsigned i = 0; i < vm->cpu_count; i++) {
		vm->vcpus[i].pending = false;
		vm->vcpus[i].deferred = false;
	}
	vm->open.gpa = BELL_SILENT;
	atomic_store(&vm->nomem, false);
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
	r = arg && !copy ? -ENOMEM : space_reset(vm->space);
	if (r) {
		snprintf(err->text, sizeof(err->text), "reset of memory: %s", strerror(-r));
		free(copy);
		return r;
	}
	free(vm->arg);
	vm->arg = copy;
	vm->number = number;
	quiesce(vm);
	r = vm_restore(vm, space_image(vm->space), err);
	if (r == 0)
		start_times(vm, asked);
	return r;
}
