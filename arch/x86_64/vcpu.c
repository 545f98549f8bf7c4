// SPDX-License-Identifier: MIT
/*
 * arch/x86_64/vcpu.c - a vCPU's first state, and looking at a stopped one.
 *
 * Reset state: 64-bit mode at CPL 0 on the boot tables of boot.c, flat segments whose hidden
 * parts are filled in (there is no GDT in memory until the guest makes one), SSE and what AVX
 * there is switched on, interrupts off. KVM refuses control bits the vCPU's CPUID does not name,
 * so they are read back from the vCPU itself: some hosts tell it more than they were asked to.
 */
#include <stdio.h>
#include <string.h>

#include "arch/arch.h"
#include "arch/x86_64/x86.h"

#define CR0_PE UINT64_C(0x00000001)
#define CR0_MP UINT64_C(0x00000002)
#define CR0_ET UINT64_C(0x00000010)
#define CR0_NE UINT64_C(0x00000020)
#define CR0_WP UINT64_C(0x00010000)
#define CR0_PG UINT64_C(0x80000000)

#define CR4_PAE        UINT64_C(0x00000020)
#define CR4_PGE        UINT64_C(0x00000080)
#define CR4_OSFXSR     UINT64_C(0x00000200)
#define CR4_OSXMMEXCPT UINT64_C(0x00000400)
#define CR4_FSGSBASE   UINT64_C(0x00010000)
#define CR4_OSXSAVE    UINT64_C(0x00040000)

#define EFER_SCE UINT64_C(0x001)
#define EFER_LME UINT64_C(0x100)
#define EFER_LMA UINT64_C(0x400)
#define EFER_NXE UINT64_C(0x800)

#define XCR0_X87    UINT64_C(0x01)
#define XCR0_SSE    UINT64_C(0x02)
#define XCR0_AVX    UINT64_C(0x04)
#define XCR0_AVX512 UINT64_C(0xe0)

#define RFLAGS_ALWAYS 2u

#define SEL_CODE 0x08
#define SEL_DATA 0x10
#define SEL_TSS  0x18

#define TYPE_CODE     11 /* execute, read, accessed */
#define TYPE_DATA     3  /* read, write, accessed */
#define TYPE_TSS_BUSY 11

/* What the vCPU has been told it can do, as far as reset cares. */
struct features {
	bool xsave;
	bool fsgsbase;
	bool nx;
	uint64_t xcr0; /* components it may enable */
};

static bool cpuid_bit(const struct x86_cpuid *c, uint32_t leaf, size_t reg, unsigned bit)
{
	const struct kvm_cpuid_entry2 *e = x86_cpuid_find(c, leaf, 0);
	const uint32_t regs[] = {e ? e->eax : 0, e ? e->ebx : 0, e ? e->ecx : 0, e ? e->edx : 0};

	return regs[reg] & (1u << bit);
}

static int read_features(int vcpu_fd, struct features *f)
{
	const struct kvm_cpuid_entry2 *e;
	struct x86_cpuid c;
	int err = x86_cpuid_get(vcpu_fd, &c);

	if (err)
		return err;
	e = x86_cpuid_find(&c, 0xd, 0);
	f->xsave = cpuid_bit(&c, 1, 2, 26) && e;
	f->fsgsbase = cpuid_bit(&c, 7, 1, 0);
	f->nx = cpuid_bit(&c, 0x80000001, 3, 20);
	f->xcr0 = e ? e->eax & (XCR0_X87 | XCR0_SSE | XCR0_AVX) : 0;
	/* The three AVX-512 components go together or not at all. */
	if (e && (e->eax & XCR0_AVX512) == XCR0_AVX512 && cpuid_bit(&c, 7, 1, 16))
		f->xcr0 |= XCR0_AVX512;
	return 0;
}

static struct kvm_segment flat(uint16_t selector, uint8_t type, bool code)
{
	return (struct kvm_segment){
		.limit = UINT32_MAX,
		.selector = selector,
		.type = type,
		.present = 1,
		.s = 1,
		.l = code,
		.db = !code,
		.g = 1,
	};
}

static void set_segments(struct kvm_sregs *s)
{
	const struct kvm_segment data = flat(SEL_DATA, TYPE_DATA, false);

	s->cs = flat(SEL_CODE, TYPE_CODE, true);
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->tr = (struct kvm_segment){
		.limit = 0x67,
		.selector = SEL_TSS,
		.type = TYPE_TSS_BUSY,
		.present = 1,
	};
	s->ldt = (struct kvm_segment){.unusable = 1};
	memset(&s->gdt, 0, sizeof(s->gdt));
	memset(&s->idt, 0, sizeof(s->idt));
}

static int reset_sregs(int vcpu_fd, const struct features *f)
{
	struct kvm_sregs s;
	int err = kvm_ioctl(vcpu_fd, KVM_GET_SREGS, &s);

	if (err)
		return err;
	set_segments(&s);
	s.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	s.cr2 = 0;
	s.cr3 = X86_PAGE_TABLES;
	s.cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	s.cr4 |= f->xsave ? CR4_OSXSAVE : 0;
	s.cr4 |= f->fsgsbase ? CR4_FSGSBASE : 0;
	s.cr8 = 0;
	s.efer = EFER_SCE | EFER_LME | EFER_LMA;
	s.efer |= f->nx ? EFER_NXE : 0;
	memset(s.interrupt_bitmap, 0, sizeof(s.interrupt_bitmap));
	return kvm_ioctl(vcpu_fd, KVM_SET_SREGS, &s);
}

static int reset_xcr0(int vcpu_fd, const struct features *f)
{
	struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = f->xcr0}}};

	return f->xsave ? kvm_ioctl(vcpu_fd, KVM_SET_XCRS, &x) : 0;
}

int arch_vcpu_init(const struct kvm *kvm, int vcpu_fd, unsigned index)
{
	struct kvm_lapic_state lapic;
	struct x86_cpuid c;
	int err = x86_cpuid_supported(kvm, &c);

	if (err)
		return err;
	/* A vCPU has a local APIC exactly when the VM's interrupt controller is in the kernel. */
	err = x86_cpuid_policy(&c, index, kvm_ioctl(vcpu_fd, KVM_GET_LAPIC, &lapic) == 0);
	if (err)
		return err;
	return kvm_ioctl_var(vcpu_fd, KVM_SET_CPUID2, &c);
}

int arch_vcpu_reset(const struct kvm *kvm, int vcpu_fd, gpa_t entry, gpa_t boot_info,
                    unsigned index)
{
	struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};
	struct kvm_regs regs = {
		.rip = entry.v,
		.rdi = boot_info.v,
		.rsi = index,
		.rflags = RFLAGS_ALWAYS,
	};
	struct features f;
	int err;

	(void)kvm;
	err = read_features(vcpu_fd, &f);
	if (!err)
		err = reset_sregs(vcpu_fd, &f);
	if (!err)
		err = reset_xcr0(vcpu_fd, &f);
	if (!err)
		err = kvm_ioctl(vcpu_fd, KVM_SET_REGS, &regs);
	if (!err)
		err = kvm_ioctl(vcpu_fd, KVM_SET_MP_STATE, &mp);
	return err;
}

int arch_vcpu_forget(int vcpu_fd)
{
	struct kvm_sregs sregs;
	int err = kvm_ioctl(vcpu_fd, KVM_GET_SREGS, &sregs);

	if (err)
		return err;
	/*
	 * KVM drops what it has, and flushes, when CR3 comes out different: restoring the same
	 * value it would take for no change at all.
	 */
	sregs.cr3 ^= MM_PAGE_SIZE;
	return kvm_ioctl(vcpu_fd, KVM_SET_SREGS, &sregs);
}

uint64_t arch_vcpu_pc(int vcpu_fd)
{
	struct kvm_regs regs;

	return kvm_ioctl(vcpu_fd, KVM_GET_REGS, &regs) ? 0 : regs.rip;
}

int arch_vcpu_describe(int vcpu_fd, char *buf, size_t size)
{
	struct kvm_regs r;
	struct kvm_sregs s;
	int err = kvm_ioctl(vcpu_fd, KVM_GET_REGS, &r);

	if (size > 0)
		buf[0] = '\0';
	if (!err)
		err = kvm_ioctl(vcpu_fd, KVM_GET_SREGS, &s);
	if (err)
		return err;
	snprintf(buf, size,
	         "rip=%#llx rsp=%#llx rflags=%#llx cpl=%u rax=%#llx rbx=%#llx rcx=%#llx "
	         "rdx=%#llx rsi=%#llx rdi=%#llx rbp=%#llx cr2=%#llx cr3=%#llx cr4=%#llx",
	         r.rip, r.rsp, r.rflags, s.cs.selector & 3u, r.rax, r.rbx, r.rcx, r.rdx, r.rsi,
	         r.rdi, r.rbp, s.cr2, s.cr3, s.cr4);
	return 0;
}

uint64_t arch_cycles_per_sec(int vcpu_fd)
{
	int khz = kvm_ioctl_int(vcpu_fd, KVM_GET_TSC_KHZ, 0);

	return khz > 0 ? (uint64_t)khz * 1000 : 0;
}
