// SPDX-License-Identifier: MIT
/*
 * arch/x86_64/state.c - a vCPU into bytes and back.
 *
 * The table is in the order in which things are set, because KVM checks each against those before:
 *
 *     CPUID        decides what every later value may contain
 *     TSC kHz      before the counter itself
 *     mp_state     also read first: asking makes KVM take pending INIT and SIPI
 *     sregs(2)     control registers, before what they switch on; local APIC's mode
 *     XCR0, XSAVE  the mask, then what it covers
 *     regs         clears pending exceptions, so before events
 *     local APIC   before its deadline timer
 *     MSRs         time last, see msr.c
 *     debug registers, events
 *
 * Each is one ioctl on the way back, none reads first but TSC kHz: a clone waits for them.
 * Setting the same CPUID again, as a reused vCPU gets, is a comparison inside KVM.
 *
 * Does not carry: nested virtualization and the like, which cpuid.c hides; an I/O instruction half
 * done, which the caller finishes (arch/arch.h).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "arch/x86_64/x86.h"

#define CPUID_HEAD offsetof(struct x86_cpuid, entries)
#define MSRS_HEAD  offsetof(struct x86_msrs, entries)

/* Components a payload can hold are bounded only by the CPU's imagination; this is plenty. */
#define XSAVE_LIMIT (1u << 16)

enum {
	PART_CPUID,
	PART_TSC_KHZ,
	PART_MP_STATE,
	PART_SREGS,
	PART_SREGS2,
	PART_XCRS,
	PART_XSAVE,
	PART_REGS,
	PART_LAPIC,
	PART_MSRS,
	PART_DEBUGREGS,
	PART_EVENTS,
	PARTS,
};

static const struct x86_record_rule parts[PARTS] = {
	[PART_CPUID] = {.type = X86_REC_CPUID,
                        .min = CPUID_HEAD,
                        .max = sizeof(struct x86_cpuid),
                        .item = sizeof(struct kvm_cpuid_entry2),
                        .required = true,
                        .name = "CPUID"},
	[PART_TSC_KHZ] = {.type = X86_REC_TSC_KHZ, .min = 8, .max = 8, .name = "TSC frequency"},
	[PART_MP_STATE] =
		X86_PLAIN(X86_REC_MP_STATE, true, "run state", KVM_GET_MP_STATE, KVM_SET_MP_STATE),
	[PART_SREGS] =
		X86_PLAIN(X86_REC_SREGS, false, "system registers", KVM_GET_SREGS, KVM_SET_SREGS),
	[PART_SREGS2] = X86_PLAIN(X86_REC_SREGS2, false, "system registers (2)", KVM_GET_SREGS2,
                                  KVM_SET_SREGS2),
	[PART_XCRS] = X86_PLAIN(X86_REC_XCRS, false, "XCR0", KVM_GET_XCRS, KVM_SET_XCRS),
	[PART_XSAVE] = {.type = X86_REC_XSAVE,
                        .min = sizeof(struct kvm_xsave),
                        .max = XSAVE_LIMIT,
                        .required = true,
                        .name = "vector registers"},
	[PART_REGS] =
		X86_PLAIN(X86_REC_REGS, true, "general registers", KVM_GET_REGS, KVM_SET_REGS),
	[PART_LAPIC] = X86_PLAIN(X86_REC_LAPIC, false, "local APIC", KVM_GET_LAPIC, KVM_SET_LAPIC),
	[PART_MSRS] = {.type = X86_REC_MSRS,
                       .min = MSRS_HEAD,
                       .max = sizeof(struct x86_msrs),
                       .item = sizeof(struct kvm_msr_entry),
                       .required = true,
                       .name = "MSRs"},
	[PART_DEBUGREGS] = X86_PLAIN(X86_REC_DEBUGREGS, true, "debug registers", KVM_GET_DEBUGREGS,
                                     KVM_SET_DEBUGREGS),
	[PART_EVENTS] = X86_PLAIN(X86_REC_EVENTS, true, "pending events", KVM_GET_VCPU_EVENTS,
                                  KVM_SET_VCPU_EVENTS),
};

static int save_cpuid(int vcpu_fd, struct x86_out *out, uint32_t *apic_id)
{
	struct x86_cpuid c;
	int err = x86_cpuid_get(vcpu_fd, &c);

	if (err)
		return err;
	*apic_id = x86_cpuid_apic_id(&c);
	x86_put(out, X86_REC_CPUID, &c, CPUID_HEAD + c.count * sizeof(c.entries[0]));
	return 0;
}

static int save_tsc_khz(int vcpu_fd, struct x86_out *out)
{
	int khz = kvm_ioctl_int(vcpu_fd, KVM_GET_TSC_KHZ, 0);
	uint64_t value = khz > 0 ? (uint64_t)khz : 0;

	/* An unstable host counter has no frequency to promise. */
	if (value > 0)
		x86_put(out, X86_REC_TSC_KHZ, &value, sizeof(value));
	return 0;
}

static int save_xsave(const struct kvm *kvm, int vcpu_fd, struct x86_out *out)
{
	size_t size = kvm->caps.xsave_size;
	void *area = calloc(1, size);
	int err;

	if (!area)
		return -ENOMEM;
	err = kvm_ioctl_ptr(vcpu_fd, kvm->caps.xsave2 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, area);
	if (!err)
		x86_put(out, X86_REC_XSAVE, area, size);
	free(area);
	return err;
}

static int save_msrs(const struct kvm *kvm, int vcpu_fd, uint32_t apic_id, struct x86_out *out)
{
	struct x86_msrs m;
	int err = x86_msrs_save(kvm, vcpu_fd, apic_id, &m);

	if (!err)
		x86_put(out, X86_REC_MSRS, &m, MSRS_HEAD + m.count * sizeof(m.entries[0]));
	return err;
}

static int save_part(const struct kvm *kvm, int vcpu_fd, int part, struct x86_out *out,
                     uint32_t *apic_id)
{
	int err;

	switch (part) {
	case PART_CPUID:
		return save_cpuid(vcpu_fd, out, apic_id);
	case PART_TSC_KHZ:
		return save_tsc_khz(vcpu_fd, out);
	case PART_XSAVE:
		return save_xsave(kvm, vcpu_fd, out);
	case PART_MSRS:
		return save_msrs(kvm, vcpu_fd, *apic_id, out);
	case PART_SREGS:
		return kvm->caps.sregs2 ? 0 : x86_plain_save(vcpu_fd, &parts[part], out);
	case PART_SREGS2:
		return kvm->caps.sregs2 ? x86_plain_save(vcpu_fd, &parts[part], out) : 0;
	case PART_XCRS:
		/*
		 * A CPU without XSAVE has no such register: KVM would read zeros and refuse them.
		 */
		return kvm->caps.xcrs ? x86_plain_save(vcpu_fd, &parts[part], out) : 0;
	case PART_LAPIC:
		/* -EINVAL is KVM's way to say that there is none. */
		err = x86_plain_save(vcpu_fd, &parts[part], out);
		return err == -EINVAL ? 0 : err;
	default:
		return x86_plain_save(vcpu_fd, &parts[part], out);
	}
}

int arch_vcpu_save(const struct kvm *kvm, int vcpu_fd, void *buf, size_t cap, size_t *size)
{
	struct x86_out out = {buf, cap, 0};
	uint32_t apic_id = 0;

	for (int part = 0; part < PARTS; part++) {
		int err = save_part(kvm, vcpu_fd, part, &out, &apic_id);

		if (err)
			return err;
	}
	return x86_put_done(&out, size);
}

static int restore_cpuid(int vcpu_fd, const struct x86_payload *p, struct x86_why why)
{
	struct x86_cpuid c;
	int err;

	memcpy(&c, p->data, p->size);
	x86_cpuid_trim(&c);
	err = kvm_ioctl_var(vcpu_fd, KVM_SET_CPUID2, &c);
	return err ? x86_refused(why, parts[PART_CPUID].name, err) : 0;
}

static int restore_tsc_khz(int vcpu_fd, const struct x86_payload *p, struct x86_why why)
{
	uint64_t khz;
	int err;

	memcpy(&khz, p->data, sizeof(khz));
	if (kvm_ioctl_int(vcpu_fd, KVM_GET_TSC_KHZ, 0) == (int)khz)
		return 0;
	/* KVM takes a small difference as it is, and a larger one where the CPU can scale. */
	err = kvm_ioctl_int(vcpu_fd, KVM_SET_TSC_KHZ, khz);
	return err < 0 ? x86_refused(why, parts[PART_TSC_KHZ].name, err) : 0;
}

static int restore_xsave(const struct kvm *kvm, int vcpu_fd, const struct x86_payload *p,
                         struct x86_why why)
{
	size_t size = kvm->caps.xsave_size;
	uint8_t *area = malloc(size);
	size_t common = p->size < size ? p->size : size;
	int err;

	if (!area)
		return -ENOMEM;
	/*
	 * Saved on a CPU with more, or fewer, components: what is there stands in the header
	 * inside, and KVM refuses a header that names a component it does not have.
	 */
	memcpy(area, p->data, common);
	memset(area + common, 0, size - common);
	err = kvm_ioctl_ptr(vcpu_fd, KVM_SET_XSAVE, area);
	free(area);
	return err ? x86_refused(why, parts[PART_XSAVE].name, err) : 0;
}

static int restore_part(const struct kvm *kvm, int vcpu_fd, int part, const struct x86_payload *p,
                        struct x86_why why)
{
	switch (part) {
	case PART_CPUID:
		return restore_cpuid(vcpu_fd, p, why);
	case PART_TSC_KHZ:
		return restore_tsc_khz(vcpu_fd, p, why);
	case PART_XSAVE:
		return restore_xsave(kvm, vcpu_fd, p, why);
	case PART_MSRS:
		return x86_msrs_restore(vcpu_fd, p->data, p->size, why);
	case PART_SREGS2:
		if (!kvm->caps.sregs2)
			return x86_refused(why, parts[part].name, -EINVAL);
		return x86_plain_restore(vcpu_fd, &parts[part], p, why);
	default:
		return x86_plain_restore(vcpu_fd, &parts[part], p, why);
	}
}

/* A payload that counts its items must have that many: KVM believes the count. */
static int check_count(int part, const struct x86_payload *p, struct x86_why why)
{
	uint32_t count;

	memcpy(&count, p->data, sizeof(count));
	if (p->size != parts[part].min + (uint64_t)count * parts[part].item)
		return x86_explain(why, -EBADMSG, "%s: not %u of them", parts[part].name, count);
	return 0;
}

static int check_tsc_khz(const struct x86_payload *p, struct x86_why why)
{
	uint64_t khz;

	if (!p->data)
		return 0;
	memcpy(&khz, p->data, sizeof(khz));
	if (khz == 0 || khz > INT32_MAX)
		return x86_explain(why, -EBADMSG, "TSC frequency %llu kHz is none",
		                   (unsigned long long)khz);
	return 0;
}

static int parse(const void *buf, size_t size, struct x86_payload *found, struct x86_why why)
{
	int err = x86_parse(buf, size, parts, PARTS, found, why);

	if (!err)
		err = check_count(PART_CPUID, &found[PART_CPUID], why);
	if (!err)
		err = check_count(PART_MSRS, &found[PART_MSRS], why);
	if (!err)
		err = check_tsc_khz(&found[PART_TSC_KHZ], why);
	if (err)
		return err;
	if (!found[PART_SREGS].data == !found[PART_SREGS2].data)
		return x86_explain(why, -EBADMSG, "system registers must be there once");
	return 0;
}

static int restore(const struct kvm *kvm, int vcpu_fd, const void *buf, size_t size,
                   struct x86_why why)
{
	struct x86_payload found[PARTS];
	int err = parse(buf, size, found, why);

	for (int part = 0; part < PARTS && !err; part++)
		if (found[part].data)
			err = restore_part(kvm, vcpu_fd, part, &found[part], why);
	return err;
}

int arch_vcpu_restore(const struct kvm *kvm, int vcpu_fd, const void *buf, size_t size)
{
	return restore(kvm, vcpu_fd, buf, size, (struct x86_why){NULL, 0});
}

int arch_vcpu_restore_why(const struct kvm *kvm, int vcpu_fd, const void *buf, size_t size,
                          char *why, size_t why_size)
{
	int err;

	x86_explain((struct x86_why){why, why_size}, 0, "%s", "");
	err = restore(kvm, vcpu_fd, buf, size, (struct x86_why){why, why_size});
	if (err && why_size > 0 && why[0] == '\0')
		x86_explain((struct x86_why){why, why_size}, err, "%s", strerror(-err));
	return err;
}

int x86_state_cpuid(const void *buf, size_t size, struct x86_cpuid *out, struct x86_why why)
{
	struct x86_payload found[PARTS];
	int err = parse(buf, size, found, why);

	if (!err)
		memcpy(out, found[PART_CPUID].data, found[PART_CPUID].size);
	return err;
}
