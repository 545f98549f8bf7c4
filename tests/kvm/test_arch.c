// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_arch.c - a vCPU goes from one VM into another in the middle of its work.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/kvm/bare_vm.h"

/* Saved bytes without what time changes. */
static void forget_time(uint8_t *state, size_t total)
{
	size_t size;
	uint8_t *msrs = bare_vm_record(state, total, REC_MSRS, &size);
	struct kvm_msr_entry e;

	for (size_t at = 8; at < size; at += sizeof(e)) {
		memcpy(&e, msrs + at, sizeof(e));
		if (e.index == MSR_TSC)
			e.data = 0;
		memcpy(msrs + at, &e, sizeof(e));
	}
}

Test(arch, vcpu_goes_on_in_another_vm)
{
	static struct saved s;
	struct bare_vm a = bare_vm_warm(false);
	struct kvm_debugregs debug;
	struct bare_vm b;

	cr_assert_eq(bare_vm_get_msr(&a, 0, MSR_LSTAR), LSTAR_VALUE);
	bare_vm_save(&a, &s);
	b = bare_vm_copy(&a, &s);
	bare_vm_free(&a);
	cr_assert_eq(bare_vm_get_msr(&b, 0, MSR_LSTAR), LSTAR_VALUE);
	cr_assert_eq(kvm_ioctl(b.vcpu[0], KVM_GET_DEBUGREGS, &debug), 0);
	cr_assert_eq(debug.db[0], DR0_VALUE);

	cr_assert_eq(bare_vm_ring(&b), RING_LAST);
	bare_vm_check_found(&b);
	bare_vm_free(&b);
}

/* A vCPU that has run and holds other values takes the state as a new one does. */
Test(arch, used_vcpu_takes_state_again)
{
	static struct saved s;
	struct bare_vm a = bare_vm_warm(false);
	struct bare_vm b;

	bare_vm_save(&a, &s);
	b = bare_vm_copy(&a, &s);
	for (int round = 0; round < 3; round++) {
		struct kvm_debugregs debug = {.db = {1, 2, 3, 4}, .dr6 = 0xffff0ff0, .dr7 = 0x400};

		cr_assert_eq(bare_vm_ring(&b), RING_LAST);
		bare_vm_check_found(&b);
		for (int i = 0; i < 3; i++)
			bare_vm_ring(&b);
		bare_vm_settle(&b);
		bare_vm_set_msr(&b, 0, MSR_LSTAR, 0x4444);
		cr_assert_eq(kvm_ioctl(b.vcpu[0], KVM_SET_DEBUGREGS, &debug), 0);

		memcpy(b.mem, a.mem, RAM_SIZE);
		bare_vm_restore(&b, &s);
		cr_assert_eq(bare_vm_get_msr(&b, 0, MSR_LSTAR), LSTAR_VALUE);
		cr_assert_eq(kvm_ioctl(b.vcpu[0], KVM_GET_DEBUGREGS, &debug), 0);
		cr_assert(debug.db[0] == DR0_VALUE && debug.db[1] == 0);
	}
	bare_vm_free(&a);
	bare_vm_free(&b);
}

/* What is saved from the copy is what was saved from the original, to the byte. */
static void check_same_again(bool irqchip)
{
	static struct saved s, again;
	struct bare_vm a = bare_vm_warm(irqchip);
	struct bare_vm b;

	bare_vm_save(&a, &s);
	b = bare_vm_copy(&a, &s);
	bare_vm_save(&b, &again);
	cr_assert_eq(s.size[0], again.size[0]);
	forget_time(s.vcpu[0], s.size[0]);
	forget_time(again.vcpu[0], again.size[0]);
	for (size_t i = 0; i < s.size[0]; i++)
		cr_assert_eq(s.vcpu[0][i], again.vcpu[0][i], "byte %zu of %zu", i, s.size[0]);
	bare_vm_free(&a);
	bare_vm_free(&b);
}

Test(arch, saving_a_copy_gives_the_same_bytes)
{
	check_same_again(false);
	check_same_again(true);
}

Test(arch, size_is_told_and_kept)
{
	static uint8_t buf[STATE_MAX];
	struct bare_vm m = bare_vm_warm(false);
	size_t size, written;

	cr_assert_eq(arch_vcpu_save(&m.kvm, m.vcpu[0], NULL, 0, &size), -ENOSPC);
	memset(buf, 0xee, sizeof(buf));
	cr_assert_eq(arch_vcpu_save(&m.kvm, m.vcpu[0], buf, size - 1, &written), -ENOSPC);
	cr_assert_eq(written, size);
	cr_assert_eq(buf[size - 1], 0xee);
	cr_assert_eq(arch_vcpu_save(&m.kvm, m.vcpu[0], buf, size, &written), 0);
	cr_assert_eq(written, size);
	cr_assert_eq(buf[size], 0xee);

	cr_assert_eq(arch_vm_save(&m.kvm, m.vm, false, NULL, 0, &size), -ENOSPC);
	cr_assert_eq(arch_vm_save(&m.kvm, m.vm, false, buf, size, &written), 0);
	bare_vm_free(&m);
}

/* ---- interrupt controllers ---- */

static struct kvm_irqchip chip_get(const struct bare_vm *m, uint32_t id)
{
	struct kvm_irqchip chip = {.chip_id = id};

	cr_assert_eq(kvm_ioctl(m->vm, KVM_GET_IRQCHIP, &chip), 0);
	return chip;
}

static void disturb_devices(const struct bare_vm *m)
{
	struct kvm_irqchip ioapic = chip_get(m, KVM_IRQCHIP_IOAPIC);
	struct kvm_irqchip pic = chip_get(m, KVM_IRQCHIP_PIC_MASTER);
	struct kvm_lapic_state lapic;
	struct kvm_pit_state2 pit;

	ioapic.chip.ioapic.redirtbl[5].fields.vector = 0x51;
	ioapic.chip.ioapic.redirtbl[5].fields.mask = 1;
	ioapic.chip.ioapic.id = 3;
	cr_assert_eq(kvm_ioctl(m->vm, KVM_SET_IRQCHIP, &ioapic), 0);
	pic.chip.pic.imr = 0xa5;
	pic.chip.pic.irq_base = 0x20;
	cr_assert_eq(kvm_ioctl(m->vm, KVM_SET_IRQCHIP, &pic), 0);
	cr_assert_eq(kvm_ioctl(m->vm, KVM_GET_PIT2, &pit), 0);
	pit.channels[2].count = 0x1234;
	pit.channels[2].mode = 3;
	cr_assert_eq(kvm_ioctl(m->vm, KVM_SET_PIT2, &pit), 0);
	cr_assert_eq(kvm_ioctl(m->vcpu[0], KVM_GET_LAPIC, &lapic), 0);
	lapic.regs[0x80] = 0x30; /* task priority */
	lapic.regs[0xf0] = 0xff; /* spurious vector, enabled */
	lapic.regs[0xf1] = 1;
	cr_assert_eq(kvm_ioctl(m->vcpu[0], KVM_SET_LAPIC, &lapic), 0);
}

Test(arch, interrupt_controllers_come_over)
{
	static const uint32_t chips[] = {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
	                                 KVM_IRQCHIP_IOAPIC};
	static struct saved s;
	struct bare_vm a = bare_vm_warm(true);
	struct kvm_lapic_state la, lb;
	struct kvm_pit_state2 pit;
	struct bare_vm b;

	disturb_devices(&a);
	bare_vm_save(&a, &s);
	b = bare_vm_copy(&a, &s);
	for (size_t i = 0; i < 3; i++) {
		struct kvm_irqchip ca = chip_get(&a, chips[i]), cb = chip_get(&b, chips[i]);

		cr_assert_arr_eq(&ca, &cb, sizeof(ca), "chip %u", chips[i]);
	}
	cr_assert_eq(chip_get(&b, KVM_IRQCHIP_IOAPIC).chip.ioapic.redirtbl[5].fields.vector, 0x51);
	cr_assert_eq(chip_get(&b, KVM_IRQCHIP_PIC_MASTER).chip.pic.imr, 0xa5);
	cr_assert_eq(kvm_ioctl(b.vm, KVM_GET_PIT2, &pit), 0);
	cr_assert(pit.channels[2].count == 0x1234 && pit.channels[2].mode == 3);
	cr_assert_eq(kvm_ioctl(a.vcpu[0], KVM_GET_LAPIC, &la), 0);
	cr_assert_eq(kvm_ioctl(b.vcpu[0], KVM_GET_LAPIC, &lb), 0);
	cr_assert_arr_eq(&la, &lb, sizeof(la));
	cr_assert_eq(lb.regs[0x80], 0x30);

	cr_assert_eq(bare_vm_ring(&b), RING_LAST);
	bare_vm_check_found(&b);
	bare_vm_free(&a);
	bare_vm_free(&b);
}

Test(arch, state_of_another_kind_of_vm_is_refused)
{
	static struct saved with, without;
	struct bare_vm a = bare_vm_warm(true);
	struct bare_vm b = bare_vm_warm(false);

	bare_vm_save(&a, &with);
	bare_vm_save(&b, &without);
	cr_assert_eq(arch_vm_restore(&b.kvm, b.vm, false, with.vm, with.vm_size), -ENOTSUP);
	cr_assert_eq(arch_vm_restore(&a.kvm, a.vm, true, without.vm, without.vm_size), -ENOTSUP);
	bare_vm_free(&a);
	bare_vm_free(&b);
}

/* ---- the rest ---- */

Test(arch, stopped_vcpu_can_be_described)
{
	struct bare_vm m = bare_vm_boot(1, false);
	char line[512], tiny[8];

	cr_assert_eq(arch_vcpu_pc(m.vcpu[0]), CODE);
	cr_assert_eq(arch_vcpu_pc(-1), 0);
	cr_assert_eq(arch_vcpu_describe(m.vcpu[0], line, sizeof(line)), 0);
	cr_assert(strstr(line, "rip=0x100000 ") && strstr(line, "cpl=0"), "%s", line);
	cr_assert_null(strchr(line, '\n'));
	cr_assert_eq(arch_vcpu_describe(m.vcpu[0], tiny, sizeof(tiny)), 0);
	cr_assert_eq(strlen(tiny), sizeof(tiny) - 1);
	cr_assert_eq(arch_vcpu_describe(-1, line, sizeof(line)), -EBADF);
	cr_assert_str_empty(line);
	cr_assert_eq(arch_cycles_per_sec(-1), 0);
	cr_assert_str_not_empty(arch_kvm_kind());
	cr_assert_str_neq(arch_kvm_kind(), "unknown");
	bare_vm_free(&m);
}

Test(arch, opening_says_what_is_wrong)
{
	struct kvm k;

	cr_assert_eq(kvm_open(&k, "/nonexistent/kvm"), -ENOENT);
	kvm_close(&k);
	cr_assert_eq(kvm_open(&k, "/dev/null"), -ENOTTY);
	cr_assert_eq(kvm_open(&k, NULL), 0);
	cr_assert_geq(k.run_size, sizeof(struct kvm_run));
	cr_assert_geq(k.caps.xsave_size, 4096);
	cr_assert_gt(k.caps.max_slots, 0);
	cr_assert_gt(k.caps.max_vcpus, 0);
	cr_assert(k.caps.immediate_exit);
	kvm_close(&k);
	kvm_close(&k);
	cr_assert_eq(k.fd, -1);
}
