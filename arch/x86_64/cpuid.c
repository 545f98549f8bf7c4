// SPDX-License-Identifier: MIT
/*
 * arch/x86_64/cpuid.c - what a vCPU is told about itself.
 *
 * Policy: start from everything KVM supports here (so KVM's own leaves 0x40000000/1, with the
 * paravirtual clock, stay), then by the tables below
 *     - say what is always true: a hypervisor is present, so many cores in a package;
 *     - hide what a snapshot does not carry: nested virtualization, performance counters,
 *       machine-check banks, enclaves, processor trace, last-branch stacks, shadow stacks, AMX
 *       tiles (their state needs a permission nobody asked for);
 *     - hide what needs a local APIC from a vCPU that has none;
 *     - hide asynchronous page faults: a vCPU that waits for a frame stays where it is, so that
 *       one that has been stopped and saved waits for nothing;
 *     - number the vCPU, because KVM reports the numbers of the host CPU it was asked on.
 *
 * Topology: every vCPU is a core of its own, local APIC id = index, 64 cores to a package. The
 * number of vCPUs does not come into it, so that it can be told before the last vCPU exists.
 *
 * Some hosts cannot intercept CPUID in user mode and let it tell the truth; there KVM adds what
 * the guest would see anyway, and hiding is a hint rather than a fence.
 *
 * Concurrency: tables are const, the rest is the caller's.
 */
#include <cpuid.h>
#include <errno.h>
#include <string.h>

#include "arch/x86_64/x86.h"

enum reg { EAX, EBX, ECX, EDX };

#define BIT(n) (UINT32_C(1) << (n))

#define CORE_BITS 6u
#define CORES     (1u << CORE_BITS)

/* Applied to `leaf`, sub-leaf `index`: bits cleared, then bits set. */
struct rule {
	uint32_t leaf;
	uint32_t index;
	enum reg reg;
	uint32_t clear;
	uint32_t set;
};

static const struct rule rules[] = {
	/* DS area and 64-bit DS, MONITOR, VMX, SMX, EST, TM2, PDCM; hypervisor present. */
	{1, 0, ECX, BIT(2) | BIT(3) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(15), BIT(31)},
	/* MCE, MCA, DS; HTT: the package has several logical processors. */
	{1, 0, EDX, BIT(7) | BIT(14) | BIT(21), BIT(28)},
	/* SGX, processor trace. */
	{7, 0, EBX, BIT(2) | BIT(25), 0},
	/* CET shadow stacks, SGX launch control. */
	{7, 0, ECX, BIT(7) | BIT(30), 0},
	/* PCONFIG, architectural LBR, CET branch tracking, AMX bf16, tile, int8. */
	{7, 0, EDX, BIT(18) | BIT(19) | BIT(20) | BIT(22) | BIT(24) | BIT(25), 0},
	/* AMX fp16, complex. */
	{7, 1, EAX, BIT(21), 0},
	{7, 1, EDX, BIT(8), 0},
	/* XCR0: tile configuration and data. */
	{0xd, 0, EAX, BIT(17) | BIT(18), 0},
	/* XFD; supervisor components: all belong to features hidden above. */
	{0xd, 1, EAX, BIT(4), 0},
	{0xd, 1, ECX, UINT32_MAX, 0},
	{0xd, 1, EDX, UINT32_MAX, 0},
	/* SVM, IBS, core, northbridge and last-level-cache counters. */
	{0x80000001, 0, ECX, BIT(2) | BIT(10) | BIT(23) | BIT(24) | BIT(28), 0},
};

/* With and without a local APIC: X2APIC and TSC deadline, APIC, KVM features that interrupt. */
static const struct rule lapic_rules[] = {
	{1, 0, ECX, 0, BIT(21) | BIT(24)},
	{1, 0, EDX, 0, BIT(9)},
	/* async page faults, in a nested guest, by interrupt */
	{0x40000001, 0, EAX, BIT(4) | BIT(10) | BIT(14), 0},
};
static const struct rule no_lapic_rules[] = {
	{1, 0, ECX, BIT(21) | BIT(24), 0},
	{1, 0, EDX, BIT(9), 0},
	/* async page faults, PV EOI, unhalt, TLB flush, IPI, yield, extended MSI ids. */
	{0x40000001, 0, EAX,
         BIT(4) | BIT(6) | BIT(7) | BIT(9) | BIT(10) | BIT(11) | BIT(13) | BIT(14) | BIT(15), 0},
};

/* Leaves left out altogether, every sub-leaf: what is missing reads as zeros. */
static const uint32_t dropped[] = {
	0xa,              /* performance counters */
	0xb,              /* topology: built anew */
	0x12,             /* SGX */
	0x14,             /* processor trace */
	0x1b,             /* PCONFIG */
	0x1c,             /* architectural LBR */
	0x1d,       0x1e, /* AMX */
	0x1f,             /* topology, second form: leaf 0xb says it all */
	0x23,             /* performance counters, extended */
	0x8000000a,       /* SVM */
	0x8000001b,       /* IBS */
	0x8000001f,       /* encrypted memory */
	0x80000022,       /* performance counters, extended */
	0x80000026,       /* topology, extended */
};

/* Words in which a bit is a promise of the CPU's. `ignore`: bits that only mirror our settings. */
static const struct word {
	uint32_t leaf;
	uint32_t index;
	enum reg reg;
	uint32_t ignore;
	const char *name;
} words[] = {
	/* X2APIC, TSC deadline, OSXSAVE, hypervisor */
	{1, 0, ECX, BIT(21) | BIT(24) | BIT(27) | BIT(31), "1:ecx"},
	{1, 0, EDX, BIT(9) | BIT(28), "1:edx"}, /* APIC, HTT */
	{6, 0, EAX, 0, "6:eax"},
	{7, 0, EBX, 0, "7:ebx"},
	{7, 0, ECX, BIT(4), "7:ecx"}, /* OSPKE */
	{7, 0, EDX, 0, "7:edx"},
	{7, 1, EAX, 0, "7.1:eax"},
	{0xd, 0, EAX, 0, "0xd:eax"},
	{0xd, 0, EDX, 0, "0xd:edx"},
	{0xd, 1, EAX, 0, "0xd.1:eax"},
	{0x40000001, 0, EAX, 0, "0x40000001:eax"},
	{0x80000001, 0, ECX, 0, "0x80000001:ecx"},
	{0x80000001, 0, EDX, 0, "0x80000001:edx"},
	{0x80000008, 0, EBX, 0, "0x80000008:ebx"},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static uint32_t *reg_of(struct kvm_cpuid_entry2 *e, enum reg reg)
{
	uint32_t *const regs[] = {&e->eax, &e->ebx, &e->ecx, &e->edx};

	return regs[reg];
}

static uint32_t reg_value(const struct kvm_cpuid_entry2 *e, enum reg reg)
{
	const uint32_t regs[] = {e->eax, e->ebx, e->ecx, e->edx};

	return regs[reg];
}

const struct kvm_cpuid_entry2 *x86_cpuid_find(const struct x86_cpuid *c, uint32_t leaf,
                                              uint32_t index)
{
	for (uint32_t i = 0; i < c->count; i++) {
		const struct kvm_cpuid_entry2 *e = &c->entries[i];
		bool indexed = e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

		if (e->function == leaf && (!indexed || e->index == index))
			return e;
	}
	return NULL;
}

int x86_cpuid_supported(const struct kvm *kvm, struct x86_cpuid *c)
{
	memset(c, 0, sizeof(*c));
	c->count = X86_CPUID_MAX;
	return kvm_ioctl_var(kvm->fd, KVM_GET_SUPPORTED_CPUID, c);
}

static bool is_blank(const struct kvm_cpuid_entry2 *e)
{
	static const struct kvm_cpuid_entry2 blank;

	return memcmp(e, &blank, sizeof(blank)) == 0;
}

void x86_cpuid_trim(struct x86_cpuid *c)
{
	while (c->count > 0 && is_blank(&c->entries[c->count - 1]))
		c->count--;
}

int x86_cpuid_get(int vcpu_fd, struct x86_cpuid *c)
{
	int err;

	memset(c, 0, sizeof(*c));
	c->count = X86_CPUID_MAX;
	err = kvm_ioctl_var(vcpu_fd, KVM_GET_CPUID2, c);
	if (!err)
		x86_cpuid_trim(c);
	return err;
}

static bool is_dropped(const struct kvm_cpuid_entry2 *e)
{
	/* AMX: the save areas of the hidden components. */
	if (e->function == 0xd && (e->index == 17 || e->index == 18))
		return true;
	for (size_t i = 0; i < COUNT(dropped); i++)
		if (e->function == dropped[i])
			return true;
	return false;
}

static void drop_leaves(struct x86_cpuid *c)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < c->count; i++)
		if (!is_dropped(&c->entries[i]))
			c->entries[kept++] = c->entries[i];
	c->count = kept;
}

static void apply(const struct rule *rule, size_t count, struct kvm_cpuid_entry2 *e)
{
	for (; count > 0; rule++, count--) {
		uint32_t *reg = reg_of(e, rule->reg);

		if (e->function == rule->leaf && e->index == rule->index)
			*reg = (*reg & ~rule->clear) | rule->set;
	}
}

static void set_field(uint32_t *reg, unsigned high, unsigned low, uint32_t value)
{
	uint32_t mask = (UINT32_MAX >> (31 - high)) & (UINT32_MAX << low);

	*reg = (*reg & ~mask) | ((value << low) & mask);
}

/* A cache: third level and beyond are the package's, the others a core's. */
static void share_cache(struct kvm_cpuid_entry2 *e)
{
	uint32_t type = e->eax & 0x1f, level = (e->eax >> 5) & 7;

	if (type != 0)
		set_field(&e->eax, 25, 14, level >= 3 ? CORES - 1 : 0);
}

/* Numbers of this vCPU and of its package, in every leaf that tells any. */
static void number(struct kvm_cpuid_entry2 *e, unsigned index)
{
	switch (e->function) {
	case 1:
		set_field(&e->ebx, 31, 24, index);
		set_field(&e->ebx, 23, 16, CORES);
		break;
	case 4:
		share_cache(e);
		if (e->eax & 0x1f)
			set_field(&e->eax, 31, 26, CORES - 1);
		break;
	case 0x80000008:
		set_field(&e->ecx, 15, 12, CORE_BITS);
		set_field(&e->ecx, 7, 0, CORES - 1);
		break;
	case 0x8000001d:
		share_cache(e);
		break;
	case 0x8000001e:
		e->eax = index;
		e->ebx = index & (CORES - 1); /* core; one thread in it */
		e->ecx = index >> CORE_BITS;  /* node; one in a package */
		break;
	default:
		break;
	}
}

/* Leaf 0xb: threads of a core (one), cores of a package, and the end of the list. */
static int add_topology(struct x86_cpuid *c, unsigned index)
{
	static const struct {
		uint32_t shift, count, type;
	} levels[] = {{0, 1, 1}, {CORE_BITS, CORES, 2}, {0, 0, 0}};

	if (c->count + COUNT(levels) > X86_CPUID_MAX)
		return -ENOSPC;
	for (uint32_t i = 0; i < COUNT(levels); i++)
		c->entries[c->count++] = (struct kvm_cpuid_entry2){
			.function = 0xb,
			.index = i,
			.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.eax = levels[i].shift,
			.ebx = levels[i].count,
			.ecx = levels[i].type << 8 | i,
			.edx = index,
		};
	return 0;
}

int x86_cpuid_policy(struct x86_cpuid *c, unsigned index, bool lapic)
{
	drop_leaves(c);
	for (uint32_t i = 0; i < c->count; i++) {
		struct kvm_cpuid_entry2 *e = &c->entries[i];

		apply(rules, COUNT(rules), e);
		if (lapic)
			apply(lapic_rules, COUNT(lapic_rules), e);
		else
			apply(no_lapic_rules, COUNT(no_lapic_rules), e);
		number(e, index);
	}
	return add_topology(c, index);
}

uint32_t x86_cpuid_apic_id(const struct x86_cpuid *c)
{
	const struct kvm_cpuid_entry2 *e = x86_cpuid_find(c, 0xb, 0);

	if (e)
		return e->edx;
	e = x86_cpuid_find(c, 1, 0);
	return e ? e->ebx >> 24 : 0;
}

static uint32_t native_word(const struct word *w)
{
	struct kvm_cpuid_entry2 e = {0};

	if (!__get_cpuid_count(w->leaf, w->index, &e.eax, &e.ebx, &e.ecx, &e.edx))
		return 0;
	return reg_value(&e, w->reg);
}

static uint32_t word_of(const struct x86_cpuid *c, const struct word *w)
{
	const struct kvm_cpuid_entry2 *e = x86_cpuid_find(c, w->leaf, w->index);

	return e ? reg_value(e, w->reg) : 0;
}

static int check_vendor(const struct x86_cpuid *saved, const struct x86_cpuid *host,
                        struct x86_why why)
{
	const struct kvm_cpuid_entry2 *a = x86_cpuid_find(saved, 0, 0);
	const struct kvm_cpuid_entry2 *b = x86_cpuid_find(host, 0, 0);

	if (!a || !b)
		return x86_explain(why, -ENOTSUP, "no CPU vendor is known");
	if (a->ebx != b->ebx || a->ecx != b->ecx || a->edx != b->edx)
		return x86_explain(why, -ENOTSUP, "saved on a CPU of another vendor");
	return 0;
}

/* A guest that runs XSAVE itself has components in memory where its own CPU put them. */
static int check_xsave(const struct x86_cpuid *saved, const struct x86_cpuid *host,
                       struct x86_why why)
{
	const struct kvm_cpuid_entry2 *all = x86_cpuid_find(saved, 0xd, 0);

	for (uint32_t i = 2; all && i < 32; i++) {
		const struct kvm_cpuid_entry2 *a = x86_cpuid_find(saved, 0xd, i);
		const struct kvm_cpuid_entry2 *b = x86_cpuid_find(host, 0xd, i);

		if (!(all->eax & BIT(i)) || !a)
			continue;
		if (!b || a->eax != b->eax || a->ebx != b->ebx)
			return x86_explain(why, -ENOTSUP,
			                   "XSAVE component %u lies elsewhere on this CPU", i);
	}
	return 0;
}

int x86_cpuid_check(const struct x86_cpuid *saved, const struct x86_cpuid *host, bool native,
                    struct x86_why why)
{
	int err = check_vendor(saved, host, why);

	for (size_t i = 0; i < COUNT(words) && !err; i++) {
		const struct word *w = &words[i];
		uint32_t have = word_of(host, w) | (native ? native_word(w) : 0);
		uint32_t lost = word_of(saved, w) & ~have & ~w->ignore;

		if (lost)
			err = x86_explain(why, -ENOTSUP,
			                  "this host's CPU or KVM lacks CPUID %s bits %#x", w->name,
			                  lost);
	}
	return err ? err : check_xsave(saved, host, why);
}
