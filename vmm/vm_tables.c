// SPDX-License-Identifier: MIT
/*
 * vmm/vm_tables.c - do KVM's shadows of a guest's page tables outlive a reset?
 *
 * They would have to be right for what the reset puts back, and KVM sees only what the guest itself
 * writes. To drop them costs the next clone all its faults again. So they stay where it is proven,
 * from one reset to the next, that
 *
 *     KVM has shadows of the image's own tables only, and nobody has ever written to those.
 *
 * It holds when all shadows have been dropped. It goes on to hold over a run when
 *
 * 1. the pages of the image's tables are untouched (space_untouched): by the guest, by KVM, which
 *    sets accessed bits there, and by us, who answer requests there; and
 * 2. no other table was used. Either KVM has made no shadow at all, which it counts. Or the guest
 *    translated by the image's tables throughout, because to load another root takes code of the
 *    highest privilege. Where that is interpreted and counted (arch_interprets_privileged), a run
 *    had none of it if each KVM_RUN has interpreted one instruction when it came out for a device,
 *    and none when it came out for anything else. Looked at are single KVM_RUNs because the
 *    sum can be made to fit: a store of 16 bytes is one instruction and comes out twice.
 *
 * A vCPU that has run such code once is not believed any more: it may have set up ways into that
 * code which nobody counts. Its VM goes on as one that is not watched: shadows are dropped with
 * each reset. The same where a counter is missing or cannot be read.
 *
 * The image's tables are looked for once, after the first reset, when memory is the image's.
 *
 * Concurrency: a vCPU's thread notes its own exits; the rest is the owner's, with vCPUs stopped.
 */
#include "arch/arch.h"
#include "vmm/vm_internal.h"

/* A guest has a table for each GiB. */
#define TABLES_MAX 256u

/* ---- exits ---- */

void vm_tables_note(struct vcpu *v, int result)
{
	bool device = result == 0 && v->run->exit_reason == KVM_EXIT_MMIO;
	uint64_t now, was = v->interpreted;

	if (kvm_counter_read(&v->interpreting, &now) || now - was != device) {
		v->watched = false;
		return;
	}
	v->interpreted = now;
}

/* ---- the image's tables ---- */

static int read_memory(void *ctx, gpa_t from, void *to, size_t size)
{
	return space_read(ctx, from, to, size);
}

/* In ranges as long as they come. Return: 0; -ENOSPC. */
static int note_ranges(struct tables_watch *w, const gpa_t *pages, size_t count)
{
	w->count = 0;
	for (size_t i = 0; i < count; i++) {
		struct gpa_range *last = w->count ? &w->range[w->count - 1] : NULL;

		if (last && gpa_range_end(*last) == pages[i].v) {
			last->size += MM_PAGE_SIZE;
			continue;
		}
		if (w->count == TABLES_RANGES)
			return -ENOSPC;
		w->range[w->count++] = (struct gpa_range){pages[i], MM_PAGE_SIZE};
	}
	return 0;
}

static bool watched(const struct vm *vm)
{
	bool all = vm->tables.misses.at != 0;

	for (unsigned i = 0; i < vm->cpu_count; i++)
		all = all && vm->vcpus[i].watched;
	return all;
}

void vm_tables_learn(struct vm *vm)
{
	const struct arch_memory memory = {read_memory, vm->space};
	struct tables_watch *w = &vm->tables;
	gpa_t pages[TABLES_MAX];
	size_t count = 0;
	int r = 0;

	if (w->known || !watched(vm))
		return;
	for (unsigned i = 0; r == 0 && i < vm->cpu_count; i++)
		r = arch_vcpu_tables(vm->vcpus[i].fd, &memory, pages, TABLES_MAX, &count);
	if (r == 0)
		r = note_ranges(w, pages, count);
	w->known = r == 0;
	/* The next reset would find the same. */
	if (r)
		vm_tables_end(vm);
}

/* ---- the question ---- */

static bool untouched(struct vm *vm)
{
	for (size_t i = 0; i < vm->tables.count; i++)
		if (!space_untouched(vm->space, vm->tables.range[i]))
			return false;
	return true;
}

bool vm_tables_hold(struct vm *vm)
{
	struct tables_watch *w = &vm->tables;
	uint64_t made, before = w->made;

	if (w->misses.at == 0)
		return false;
	if (kvm_counter_read(&w->misses, &made)) {
		vm_tables_end(vm);
		return false;
	}
	w->made = made;
	return w->known && (made == before || watched(vm)) && untouched(vm);
}

/* ---- from when to when ---- */

/* Return: 0 or -errno. */
static int watch(struct vm *vm)
{
	int r = kvm_counter_open(vm->fd, KVM_COUNT_MMU_CACHE_MISS, &vm->vm_stats,
	                         &vm->tables.misses);

	for (unsigned i = 0; r == 0 && i < vm->cpu_count; i++) {
		struct vcpu *v = &vm->vcpus[i];

		r = kvm_counter_open(v->fd, KVM_COUNT_INSN_EMULATION, &vm->vcpu_stats,
		                     &v->interpreting);
		if (r == 0)
			r = kvm_counter_read(&v->interpreting, &v->interpreted);
		v->watched = r == 0;
	}
	return r;
}

void vm_tables_watch(struct vm *vm)
{
	if (vm->irqchip || !vm->kvm->caps.stats_fd || !arch_interprets_privileged())
		return;
	if (watch(vm))
		vm_tables_end(vm);
}

void vm_tables_end(struct vm *vm)
{
	for (unsigned i = 0; i < vm->cpu_count; i++) {
		vm->vcpus[i].watched = false;
		kvm_counter_close(&vm->vcpus[i].interpreting);
	}
	kvm_counter_close(&vm->tables.misses);
	vm->tables.known = false;
}
