// SPDX-License-Identifier: MIT
/*
 * arch/x86_64/vm.c - what belongs to a VM and to none of its vCPUs.
 *
 * The clock: KVM's paravirtual clock is saved as its value and set to that value again. KVM can
 * also be given the wall-clock time of saving and move the clock on by what has passed since;
 * that is left out on purpose, because clones go on from one moment, whenever they start.
 *
 * Interrupt controllers before the vCPUs' local APICs: setting the I/O APIC may send what is
 * pending to them, and their own state, saved at the same instant, must have the last word.
 */
#include <errno.h>
#include <string.h>

#include "arch/arch.h"
#include "arch/x86_64/x86.h"

enum {
	PART_CLOCK,
	PART_PIC_MASTER,
	PART_PIC_SLAVE,
	PART_IOAPIC,
	PART_PIT,
	PARTS,
};

#define IRQCHIP_RECORD(type_, name_)                                                               \
	{                                                                                          \
		.type = (type_), .min = sizeof(struct kvm_irqchip),                                \
		.max = sizeof(struct kvm_irqchip), .name = (name_)                                 \
	}

static const struct x86_record_rule parts[PARTS] = {
	[PART_CLOCK] =
		{.type = X86_REC_CLOCK, .min = 8, .max = 8, .required = true, .name = "clock"},
	[PART_PIC_MASTER] = IRQCHIP_RECORD(X86_REC_PIC_MASTER, "first PIC"),
	[PART_PIC_SLAVE] = IRQCHIP_RECORD(X86_REC_PIC_SLAVE, "second PIC"),
	[PART_IOAPIC] = IRQCHIP_RECORD(X86_REC_IOAPIC, "I/O APIC"),
	[PART_PIT] = X86_PLAIN(X86_REC_PIT, false, "timer", KVM_GET_PIT2, KVM_SET_PIT2),
};

/* KVM's number of an interrupt controller. */
static uint32_t chip_of(int part)
{
	switch (part) {
	case PART_PIC_MASTER:
		return KVM_IRQCHIP_PIC_MASTER;
	case PART_PIC_SLAVE:
		return KVM_IRQCHIP_PIC_SLAVE;
	default:
		return KVM_IRQCHIP_IOAPIC;
	}
}

static int make_irqchip(const struct kvm *kvm, int vm_fd)
{
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	int err;

	if (!kvm->caps.irqchip)
		return -ENOTSUP;
	err = kvm_ioctl_int(vm_fd, KVM_CREATE_IRQCHIP, 0);
	return err ? err : kvm_ioctl(vm_fd, KVM_CREATE_PIT2, &pit);
}

int arch_vm_init(const struct kvm *kvm, int vm_fd, bool irqchip)
{
	int err = kvm_ioctl_int(vm_fd, KVM_SET_TSS_ADDR, X86_TSS_ADDR);

	if (err)
		return err;
	/*
	 * Both are refinements that older kernels lack: no counters behind the guest's back, and
	 * pending exceptions saved as pending. Without them nothing is lost that is promised.
	 */
	(void)kvm_enable_cap(vm_fd, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
	(void)kvm_enable_cap(vm_fd, KVM_CAP_EXCEPTION_PAYLOAD, 1);
	return irqchip ? make_irqchip(kvm, vm_fd) : 0;
}

static int save_clock(int vm_fd, struct x86_out *out)
{
	struct kvm_clock_data now = {0};
	uint64_t value;
	int err = kvm_ioctl(vm_fd, KVM_GET_CLOCK, &now);

	if (err)
		return err;
	value = now.clock;
	x86_put(out, X86_REC_CLOCK, &value, sizeof(value));
	return 0;
}

static int restore_clock(int vm_fd, const struct x86_payload *p, struct x86_why why)
{
	struct kvm_clock_data clock = {0};
	uint64_t value;
	int err;

	memcpy(&value, p->data, sizeof(value));
	clock.clock = value;
	err = kvm_ioctl(vm_fd, KVM_SET_CLOCK, &clock);
	return err ? x86_refused(why, parts[PART_CLOCK].name, err) : 0;
}

static int save_chip(int vm_fd, int part, struct x86_out *out)
{
	struct kvm_irqchip chip = {.chip_id = chip_of(part)};
	int err = kvm_ioctl(vm_fd, KVM_GET_IRQCHIP, &chip);

	if (!err)
		x86_put(out, parts[part].type, &chip, sizeof(chip));
	return err;
}

static int restore_chip(int vm_fd, int part, const struct x86_payload *p, struct x86_why why)
{
	struct kvm_irqchip chip;
	int err;

	memcpy(&chip, p->data, sizeof(chip));
	if (chip.chip_id != chip_of(part))
		return x86_explain(why, -EBADMSG, "%s is another chip's", parts[part].name);
	err = kvm_ioctl(vm_fd, KVM_SET_IRQCHIP, &chip);
	return err ? x86_refused(why, parts[part].name, err) : 0;
}

static int save_part(int vm_fd, int part, struct x86_out *out)
{
	switch (part) {
	case PART_CLOCK:
		return save_clock(vm_fd, out);
	case PART_PIT:
		return x86_plain_save(vm_fd, &parts[part], out);
	default:
		return save_chip(vm_fd, part, out);
	}
}

static int restore_part(int vm_fd, int part, const struct x86_payload *p, struct x86_why why)
{
	switch (part) {
	case PART_CLOCK:
		return restore_clock(vm_fd, p, why);
	case PART_PIT:
		return x86_plain_restore(vm_fd, &parts[part], p, why);
	default:
		return restore_chip(vm_fd, part, p, why);
	}
}

/* Without an interrupt controller the clock is all there is. */
static bool part_wanted(int part, bool irqchip)
{
	return part == PART_CLOCK || irqchip;
}

int arch_vm_save(const struct kvm *kvm, int vm_fd, bool irqchip, void *buf, size_t cap,
                 size_t *size)
{
	struct x86_out out = {buf, cap, 0};

	(void)kvm;
	for (int part = 0; part < PARTS; part++) {
		int err = part_wanted(part, irqchip) ? save_part(vm_fd, part, &out) : 0;

		if (err)
			return err;
	}
	return x86_put_done(&out, size);
}

int arch_vm_restore(const struct kvm *kvm, int vm_fd, bool irqchip, const void *buf, size_t size)
{
	const struct x86_why nobody = {NULL, 0};
	struct x86_payload found[PARTS];
	int err = x86_parse(buf, size, parts, PARTS, found, nobody);

	(void)kvm;
	for (int part = 0; part < PARTS && !err; part++)
		if (!found[part].data == part_wanted(part, irqchip))
			err = -ENOTSUP;
	for (int part = 0; part < PARTS && !err; part++)
		if (found[part].data)
			err = restore_part(vm_fd, part, &found[part], nobody);
	return err;
}

int arch_vcpu_check(const struct kvm *kvm, const void *buf, size_t size, char *why, size_t why_size)
{
	const struct x86_why explain = {why, why_size};
	struct x86_cpuid saved, host;
	int err;

	x86_explain(explain, 0, "%s", "");
	err = x86_state_cpuid(buf, size, &saved, explain);
	if (err)
		return err;
	err = x86_cpuid_supported(kvm, &host);
	if (err)
		return x86_explain(explain, err, "KVM does not say what it supports: %s",
		                   strerror(-err));
	/* Where CPUID cannot be intercepted, a vCPU was told what the CPU has. */
	return x86_cpuid_check(&saved, &host, strcmp(arch_kvm_kind(), "pvm") == 0, explain);
}
