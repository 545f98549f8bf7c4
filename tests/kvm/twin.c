// SPDX-License-Identifier: MIT
/*
 * tests/kvm/twin.c - everything that KVM and our own devices tell of a VM, compared, and changed.
 */
#include "tests/kvm/twin.h"

#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "tests/kvm/lab.h"
#include "tests/kvm/script.h"
#include "vmm/vm_internal.h"

#define PAGE     MM_PAGE_SIZE
#define MSRS_MAX 512u

struct msrs {
	uint32_t count, zero;
	struct kvm_msr_entry entries[MSRS_MAX];
};

/* Everything KVM gives away of a vCPU, but time. */
struct look {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_debugregs debug;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp;
	struct kvm_xcrs xcrs;
	struct kvm_lapic_state lapic;
	uint8_t xsave[16384];
	struct msrs msrs;
};

/* Of a VM with KVM's interrupt controllers. */
struct controllers {
	struct kvm_irqchip chip[3];
	struct kvm_pit_state2 pit;
};

static void look_at_controllers(const struct vm *vm, struct controllers *out)
{
	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < 3; i++) {
		out->chip[i].chip_id = i;
		cr_assert_eq(kvm_ioctl(vm->fd, KVM_GET_IRQCHIP, &out->chip[i]), 0);
	}
	cr_assert_eq(kvm_ioctl(vm->fd, KVM_GET_PIT2, &out->pit), 0);
	/* Host time. */
	for (unsigned i = 0; i < 3; i++)
		out->pit.channels[i].count_load_time = 0;
}

/* TSC and its deadline go on. Hyper-V's registers are not offered: no guest can reach them. */
static bool is_left_out(uint32_t msr)
{
	return msr == 0x10 || msr == 0x6e0 || (msr >= 0x40000000 && msr < 0x40000200);
}

/* All registers KVM names, and what it can read of them; 0 for the others. */
static void look_at_msrs(const struct kvm *kvm, int fd, struct msrs *out)
{
	struct {
		uint32_t count, indices[MSRS_MAX];
	} list = {.count = MSRS_MAX};

	cr_assert_eq(kvm_ioctl_var(kvm->fd, KVM_GET_MSR_INDEX_LIST, &list), 0);
	out->count = list.count;
	for (uint32_t i = 0; i < list.count; i++) {
		struct {
			uint32_t count, zero;
			struct kvm_msr_entry entry;
		} one = {.count = 1, .entry = {.index = list.indices[i]}};
		int r = is_left_out(list.indices[i]) ? 0 : kvm_ioctl_var(fd, KVM_GET_MSRS, &one);

		out->entries[i] = one.entry;
		if (r != 1)
			out->entries[i].data = 0;
	}
}

static void look_at(const struct vm *vm, unsigned cpu, struct look *out)
{
	const struct kvm *kvm = vm->kvm;
	int fd = vm->vcpus[cpu].fd;

	memset(out, 0, sizeof(*out));
	cr_assert_leq(kvm->caps.xsave_size, sizeof(out->xsave));
	cr_assert_eq(kvm_ioctl(fd, KVM_GET_REGS, &out->regs), 0);
	cr_assert_eq(kvm_ioctl(fd, KVM_GET_SREGS, &out->sregs), 0);
	cr_assert_eq(kvm_ioctl(fd, KVM_GET_DEBUGREGS, &out->debug), 0);
	cr_assert_eq(kvm_ioctl(fd, KVM_GET_VCPU_EVENTS, &out->events), 0);
	cr_assert_eq(kvm_ioctl(fd, KVM_GET_MP_STATE, &out->mp), 0);
	if (kvm->caps.xcrs)
		cr_assert_eq(kvm_ioctl(fd, KVM_GET_XCRS, &out->xcrs), 0);
	if (vm->irqchip)
		cr_assert_eq(kvm_ioctl(fd, KVM_GET_LAPIC, &out->lapic), 0);
	cr_assert_eq(
		kvm_ioctl_ptr(fd, kvm->caps.xsave2 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, out->xsave),
		0);
	look_at_msrs(kvm, fd, &out->msrs);
}

#define SAME(what, field)                                                                          \
	cr_assert_eq(memcmp(&a->field, &b->field, sizeof(a->field)), 0, "vCPU %u: " what, cpu)

static void same_vcpu(const struct vm *fresh, const struct vm *used, unsigned cpu)
{
	struct look *a = malloc(sizeof(*a)), *b = malloc(sizeof(*b));

	cr_assert(a && b);
	look_at(fresh, cpu, a);
	look_at(used, cpu, b);
	SAME("general registers", regs);
	SAME("system registers", sregs);
	SAME("debug registers", debug);
	SAME("events", events);
	SAME("run state", mp);
	SAME("XCR0", xcrs);
	for (size_t i = 0; i < sizeof(a->lapic.regs); i++)
		cr_assert_eq(a->lapic.regs[i], b->lapic.regs[i], "vCPU %u: local APIC, byte %#zx",
		             cpu, i);
	for (size_t i = 0; i < sizeof(a->xsave); i++)
		cr_assert_eq(a->xsave[i], b->xsave[i], "vCPU %u: vector byte %zu", cpu, i);
	for (uint32_t i = 0; i < a->msrs.count; i++)
		cr_assert_eq(a->msrs.entries[i].data, b->msrs.entries[i].data,
		             "vCPU %u: MSR %#x: %llx, %llx", cpu, a->msrs.entries[i].index,
		             a->msrs.entries[i].data, b->msrs.entries[i].data);
	cr_assert_eq(fresh->vcpus[cpu].halted, used->vcpus[cpu].halted);
	cr_assert_eq(fresh->ctl.bell[cpu], used->ctl.bell[cpu]);
	cr_assert(!used->vcpus[cpu].pending && !used->vcpus[cpu].deferred);
	cr_assert_eq(used->power.ended[cpu], -1);
	free(a);
	free(b);
}

static void same_controllers(const struct vm *fresh, const struct vm *used)
{
	struct controllers a, b;

	look_at_controllers(fresh, &a);
	look_at_controllers(used, &b);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_arr_eq(a.chip[i].chip.dummy, b.chip[i].chip.dummy,
		                 sizeof(a.chip[i].chip.dummy), "controller %u", i);
	cr_assert_eq(memcmp(&a.pit, &b.pit, sizeof(a.pit)), 0, "timer");
}

static void same_devices(struct vm *fresh, struct vm *used)
{
	struct serial_regs sa, sb;
	struct power_regs pa, pb;
	struct vm_exits exits;

	serial_save(&fresh->serial, &sa);
	serial_save(&used->serial, &sb);
	cr_assert_eq(memcmp(&sa, &sb, sizeof(sa)), 0);
	cr_assert_eq(used->serial.count + used->serial.received, 0);
	for (unsigned i = 0; i < SERIAL_QUEUE; i++)
		cr_assert_eq(used->serial.queue[i], 0, "byte %u of what was typed", i);
	cr_assert_eq(fresh->serial.line, used->serial.line);
	power_save(&fresh->power, &pa);
	power_save(&used->power, &pb);
	cr_assert_eq(memcmp(&pa, &pb, sizeof(pa)), 0);
	cr_assert_eq(fresh->power.line, used->power.line);
	cr_assert_eq(fresh->open.gpa, used->open.gpa);
	cr_assert_eq(vm_number(fresh), vm_number(used));
	cr_assert_eq(!fresh->arg, !used->arg);
	cr_assert(!fresh->arg || strcmp(fresh->arg, used->arg) == 0);
	if (fresh->irqchip)
		same_controllers(fresh, used);
	vm_exits(used, &exits);
	cr_assert_eq(exits.mmio + exits.io + exits.interrupted + exits.other, 0);
	cr_assert(!used->kicked && !used->nomem);
	cr_assert_eq(space_limit(vm_space(fresh)), space_limit(vm_space(used)));
	cr_assert_eq(used->console.bytes, 0);
}

/* Every page; all but the two random fields of the answer to READY, and the generation id. */
void twin_same_memory(struct vm *fresh, struct vm *used)
{
	const uint64_t mask = SCRIPT_REQUEST + offsetof(struct abi_request, generation);
	const uint64_t generation = arch_info.generation.v;
	uint8_t a[PAGE], b[PAGE];

	for (uint64_t at = 0; at < SCRIPT_RAM; at += PAGE) {
		cr_assert_eq(space_read(vm_space(fresh), (gpa_t){at}, a, PAGE), 0);
		cr_assert_eq(space_read(vm_space(used), (gpa_t){at}, b, PAGE), 0);
		if (at == SCRIPT_REQUEST) {
			memset(a + mask - at, 0, 8 + ABI_ENTROPY);
			memset(b + mask - at, 0, 8 + ABI_ENTROPY);
		}
		if (fresh->irqchip && at == generation - generation % PAGE) {
			memset(a + generation % PAGE, 0, 16);
			memset(b + generation % PAGE, 0, 16);
		}
		cr_assert_eq(memcmp(a, b, PAGE), 0, "page at %#lx", at);
	}
}

void twin_same(struct vm *fresh, struct vm *used)
{
	for (unsigned cpu = 0; cpu < vm_cpus(fresh); cpu++)
		same_vcpu(fresh, used, cpu);
	same_devices(fresh, used);
	twin_same_memory(fresh, used);
}

/* ---- and all that can be done to it ---- */

static void spoil_msrs(const struct kvm *kvm, int fd)
{
	struct msrs *m = malloc(sizeof(*m));

	cr_assert(m);
	look_at_msrs(kvm, fd, m);
	for (uint32_t i = 0; i < m->count; i++) {
		struct {
			uint32_t count, zero;
			struct kvm_msr_entry entry;
		} one = {.count = 1, .entry = m->entries[i]};

		/* What a register does not take it does not take. */
		for (unsigned bit = 0; bit < 48 && !is_left_out(one.entry.index); bit++) {
			one.entry.data = m->entries[i].data ^ (UINT64_C(1) << bit);
			if (kvm_ioctl_var(fd, KVM_SET_MSRS, &one) == 1)
				break;
		}
	}
	free(m);
}

/* A task priority, a logical address, a masked timer with a count. */
static void spoil_lapic(int fd)
{
	static const struct {
		unsigned at;
		uint32_t value;
	} regs[] = {{0x80, 0x20}, {0xd0, 0x5000000}, {0x320, 0x10077}, {0x3e0, 0xb}};
	struct kvm_lapic_state lapic;

	cr_assert_eq(kvm_ioctl(fd, KVM_GET_LAPIC, &lapic), 0);
	for (size_t i = 0; i < sizeof(regs) / sizeof(regs[0]); i++)
		memcpy(lapic.regs + regs[i].at, &regs[i].value, sizeof(regs[i].value));
	cr_assert_eq(kvm_ioctl(fd, KVM_SET_LAPIC, &lapic), 0);
}

static void spoil_vcpu(const struct vm *vm, unsigned cpu)
{
	const struct kvm_mp_state halted = {KVM_MP_STATE_HALTED};
	struct kvm_debugregs debug = {.db = {1, 2, 3, 4}, .dr6 = 0xffff0ff1, .dr7 = 0x400};
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;
	struct kvm_fpu fpu;
	struct kvm_regs regs;
	int fd = vm->vcpus[cpu].fd;

	memset(&regs, 0xa5, sizeof(regs));
	regs.rflags = 0x8d7;
	memset(&fpu, 0x5a, sizeof(fpu));
	fpu.mxcsr = 0x1fbf;
	cr_assert_eq(kvm_ioctl(fd, KVM_SET_REGS, &regs), 0);
	cr_assert_eq(kvm_ioctl(fd, KVM_SET_FPU, &fpu), 0);
	cr_assert_eq(kvm_ioctl(fd, KVM_SET_DEBUGREGS, &debug), 0);
	cr_assert_eq(kvm_ioctl(fd, KVM_GET_SREGS, &sregs), 0);
	sregs.gdt.base += 64;
	sregs.fs.base = 0x123456;
	sregs.cr2 = 0x777000;
	sregs.interrupt_bitmap[1] = 1;
	cr_assert_eq(kvm_ioctl(fd, KVM_SET_SREGS, &sregs), 0);
	spoil_msrs(vm->kvm, fd);
	cr_assert_eq(kvm_ioctl(fd, KVM_GET_VCPU_EVENTS, &events), 0);
	events.exception.injected = 1;
	events.exception.nr = 13;
	events.exception.has_error_code = 1;
	events.exception.error_code = 0x30;
	events.nmi.pending = 1;
	events.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING;
	cr_assert_eq(kvm_ioctl(fd, KVM_SET_VCPU_EVENTS, &events), 0);
	(void)kvm_ioctl(fd, KVM_SET_MP_STATE, (struct kvm_mp_state *)(uintptr_t)&halted);
	vm->vcpus[cpu].halted = true;
	if (vm->irqchip)
		spoil_lapic(fd);
}

/* Pins masked or not, priorities, a counter that runs. */
static void spoil_controllers(const struct vm *vm)
{
	struct controllers c;

	look_at_controllers(vm, &c);
	for (unsigned i = 0; i < 2; i++)
		c.chip[i].chip.pic.imr ^= 0x5a;
	for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
		c.chip[2].chip.ioapic.redirtbl[i].bits ^= 0x10000 | (0x30 + i);
	c.chip[2].chip.ioapic.ioregsel = 0x11;
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(kvm_ioctl(vm->fd, KVM_SET_IRQCHIP, &c.chip[i]), 0);
	c.pit.channels[2].count = 0x1234;
	c.pit.channels[2].mode = 3;
	c.pit.channels[2].gate = 1;
	cr_assert_eq(kvm_ioctl(vm->fd, KVM_SET_PIT2, &c.pit), 0);
}

/* Everything about a stopped VM that its last clone, or its owner, could have left changed. */
void twin_spoil(struct vm *vm, uint64_t *seed)
{
	const struct serial_regs serial = {1, 2, 3, 0x1b, 5, 6, 7, 1};
	const struct power_regs power = {1, 2, 3, 4, 5};
	uint8_t junk[200];

	for (unsigned cpu = 0; cpu < vm_cpus(vm); cpu++) {
		spoil_vcpu(vm, cpu);
		vm->ctl.bell[cpu] = 0x1000 * cpu;
		vm->vcpus[cpu].pending = vm->vcpus[cpu].deferred = true;
		vm->power.ended[cpu] = 3;
	}
	memset(junk, 0xdb, sizeof(junk));
	for (unsigned i = 0; i < 300; i++) {
		/* Not the page tables: that is another test. */
		gpa_t at = {0x100000 + lab_random(seed) % (SCRIPT_RAM - 0x100000 - 200)};

		cr_assert_eq(space_write(vm_space(vm), at, junk, sizeof(junk)), 0);
	}
	if (vm->irqchip)
		spoil_controllers(vm);
	serial_restore(&vm->serial, &serial);
	cr_assert_gt(vm_input(vm, junk, sizeof(junk)), 0);
	power_restore(&vm->power, &power);
	vm_set_input(vm, junk, sizeof(junk));
	vm->open = (struct open_request){0x4000, true};
	space_resume(vm_space(vm), space_limit(vm_space(vm)) / 2);
}
