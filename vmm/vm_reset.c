// SPDX-License-Identifier: MIT
/*
 * vmm/vm_reset.c - a VM goes back to the image it is a clone of, in place.
 *
 * What made it a VM stays: descriptors, vCPUs and their threads, memory slots, the window. Memory
 * goes back by space_reset(), the rest as in a clone that is being made: restored over what is
 * there. Devices are put to rest first, so that their interrupt lines start low as in a new VM.
 *
 * Page tables of the guest are memory too, and what goes back may be a page table. A CPU's
 * translations are flushed (arch_vcpu_forget). Shadow tables cannot be: KVM would go on to
 * translate as the guest had it. So where KVM has shadow tables only a guest is reset that is on
 * the tables it was booted with, and has not written to them; their accessed bits are set
 * beforehand, so that no CPU writes there either. Tables of its own that lie in the image unused
 * are beyond this: such a guest wants new VMs there (guest/abi.h).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "mm/pagemap.h"
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

/* ---- page tables ---- */

static int changed_tables(struct vm_error *err)
{
	snprintf(err->text, sizeof(err->text),
	         "reset: the guest has page tables of its own, of which this host's KVM keeps "
	         "shadows");
	return -ESTALE;
}

/* Has the guest written to its tables since it became a clone? Return: 0; -ESTALE; -errno. */
static int check_written(struct vm *vm, struct vm_error *err)
{
	struct page_runs written = {0};
	uint64_t at = space_hva(vm->space, arch_info.tables.start).v;
	int r = pagemap_private(at, arch_info.tables.size, PAGEMAP_BEST, &written);
	bool any = written.count > 0;

	page_runs_fini(&written);
	if (r)
		snprintf(err->text, sizeof(err->text), "reset: pagemap: %s", strerror(-r));
	else if (any)
		r = changed_tables(err);
	return r;
}

static int kvm_refused(int r, struct vm_error *err)
{
	snprintf(err->text, sizeof(err->text), "reset of a vCPU: %s", strerror(-r));
	return r;
}

/* No translation outlives the memory it was made from. Return: 0; -ESTALE; -errno. */
static int forget(struct vm *vm, struct vm_error *err)
{
	bool shadow;

	if (vm->paging == PAGING_UNKNOWN)
		vm->paging = arch_shadow_paging() ? PAGING_SHADOW : PAGING_TWO_STAGES;
	shadow = vm->paging == PAGING_SHADOW;
	/* An operating system has tables without end. */
	if (shadow && vm->irqchip)
		return changed_tables(err);
	for (unsigned i = 0; i < vm->cpu_count; i++) {
		gpa_t root;
		int r = arch_vcpu_forget(vm->vcpus[i].fd, &root);

		if (r)
			return kvm_refused(r, err);
		if (shadow && root.v != arch_info.tables.start.v)
			return changed_tables(err);
	}
	return shadow ? check_written(vm, err) : 0;
}

/* Are these the tables that the image goes on with? Once per image. Return: as forget(). */
static int check_image(struct vm *vm, struct vm_error *err)
{
	const struct image *image = space_image(vm->space);

	if (vm->resettable == image)
		return 0;
	for (unsigned i = 0; vm->paging == PAGING_SHADOW && i < vm->cpu_count; i++) {
		gpa_t root;
		int r = arch_vcpu_root(vm->vcpus[i].fd, &root);

		if (r)
			return kvm_refused(r, err);
		if (root.v != arch_info.tables.start.v)
			return changed_tables(err);
	}
	vm->resettable = image;
	return 0;
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
}

/* Memory and machine; the VM is whose `number` and `arg` (the VM's now) say. */
static int go_back(struct vm *vm, uint64_t number, char *arg, struct vm_error *err)
{
	int r = forget(vm, err);

	if (r == 0) {
		r = space_reset(vm->space);
		if (r)
			snprintf(err->text, sizeof(err->text), "reset of memory: %s", strerror(-r));
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
	return r ? r : check_image(vm, err);
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
	console_redirect(&vm->console, c->console, c->console_ctx);
	vm->ctl.mailbox = c->mailbox;
	r = vm_reset(vm, c->number, c->arg, err);
	for (unsigned i = 0; i < vm->cpu_count; i++)
		vm->vcpus[i].exits = (struct vm_exits){0};
	return r;
}
