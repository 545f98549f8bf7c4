// SPDX-License-Identifier: MIT
/*
 * arch/x86_64/msr.c - model-specific registers, the time-stamp counter among them.
 *
 * Which: what KVM_GET_MSR_INDEX_LIST names, and the MTRRs, which it does not, less what the table
 * below leaves out. A register the vCPU cannot be asked for is left out too.
 *
 * In which order: as listed, and time last, since a deadline means nothing without the counter it
 * is compared with (and the local APIC, which is set before).
 *
 * How fast: one KVM_SET_MSRS. That call stops at the first register it refuses, so what this
 * very host would refuse is found and left out when saving: zeros are written back over zeros.
 *
 * Refused on restore: a host may not have a register the other had. If its value was zero nothing
 * is lost, and if the vCPU already holds the value nothing needs setting; anything else is
 * -ENOTSUP.
 *
 * The counter: KVM takes a write within a second of what the counter would show for an attempt to
 * synchronise vCPUs, and keeps the time base it has. That is wanted between the vCPUs of one
 * restored VM, and wrong for its first one, whose descriptor may have served another clone just
 * before: its counter would go back by up to a second. So for vCPU 0 two writes are saved: one
 * far off, which cannot be taken for synchronisation by the next, then the value.
 *
 * Software KVM cannot put an offset between the host's counter and what user mode reads: there a
 * guest sees the host's counter and both writes are without effect. It still never goes back
 * while the host is up.
 *
 * Concurrency: none.
 */
#include <errno.h>
#include <string.h>

#include "arch/x86_64/x86.h"

/* Cycles; many hundred seconds at any frequency, and the kernel's limit is one. */
#define FAR_OFF (UINT64_C(1) << 42)

/* KVM lists fewer; a longer list would be cut off, so it is refused (-E2BIG). */
#define LIST_MAX 448u

struct index_list {
	uint32_t count;
	uint32_t indices[LIST_MAX];
};

/* [first, last], left out of snapshots. */
static const struct {
	uint32_t first, last;
} skipped[] = {
	{0x10, 0x12},             /* the counter: below; KVM clock: old numbers of 0x4b564d00/1 */
	{0x8c, 0x8f},             /* SGX */
	{0xc1, 0xc8},             /* performance counters, hidden by cpuid.c */
	{0x186, 0x18d},           /* the same */
	{0x309, 0x30c},           /* the same */
	{0x345, 0x345},           /* the same */
	{0x38d, 0x391},           /* the same */
	{0x3f1, 0x3f1},           /* the same */
	{0x480, 0x493},           /* VMX */
	{0x4c1, 0x4c8},           /* performance counters */
	{0x560, 0x58f},           /* processor trace */
	{0x600, 0x600},           /* debug store */
	{0x6e0, 0x6e0},           /* TSC deadline: below */
	{0x14ce, 0x14cf},         /* architectural LBR */
	{0x40000000, 0x400001ff}, /* Hyper-V's interface, never offered */
	{0xc0000104, 0xc0000104}, /* SVM */
	{0xc0000300, 0xc0000303}, /* performance counters */
	{0xc0010000, 0xc0010007}, /* the same */
	{0xc0010117, 0xc0010117}, /* SVM */
	{0xc0010200, 0xc001020b}, /* performance counters */
};

/* MTRRs: eight variable pairs, the fixed ones, the default. */
static const uint32_t unlisted[] = {
	0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209,
	0x20a, 0x20b, 0x20c, 0x20d, 0x20e, 0x20f, 0x250, 0x258, 0x259, 0x268,
	0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, 0x2ff,
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static bool is_skipped(uint32_t index)
{
	for (size_t i = 0; i < COUNT(skipped); i++)
		if (index >= skipped[i].first && index <= skipped[i].last)
			return true;
	return false;
}

static int add(struct x86_msrs *m, uint32_t index, uint64_t data)
{
	if (m->count == X86_MSRS_MAX)
		return -ENOSPC;
	m->entries[m->count++] = (struct kvm_msr_entry){.index = index, .data = data};
	return 0;
}

static bool has(const struct x86_msrs *m, uint32_t index)
{
	for (uint32_t i = 0; i < m->count; i++)
		if (m->entries[i].index == index)
			return true;
	return false;
}

static int choose(const struct kvm *kvm, struct x86_msrs *m)
{
	struct index_list list = {.count = LIST_MAX};
	int err = kvm_ioctl_var(kvm->fd, KVM_GET_MSR_INDEX_LIST, &list);

	for (uint32_t i = 0; i < list.count && !err; i++)
		if (!is_skipped(list.indices[i]))
			err = add(m, list.indices[i], 0);
	for (size_t i = 0; i < COUNT(unlisted) && !err; i++)
		if (!has(m, unlisted[i]))
			err = add(m, unlisted[i], 0);
	return err;
}

/* KVM_GET_MSRS or KVM_SET_MSRS of entries [from, to). Return: how many it took, or -errno. */
static int exchange(int vcpu_fd, unsigned long nr, struct x86_msrs *m, uint32_t from, uint32_t to)
{
	struct x86_msrs part = {.count = to - from};
	size_t size = part.count * sizeof(part.entries[0]);
	int done;

	memcpy(part.entries, &m->entries[from], size);
	done = kvm_ioctl_ptr(vcpu_fd, nr, &part);
	memcpy(&m->entries[from], part.entries, size);
	return done;
}

static void remove_at(struct x86_msrs *m, uint32_t i)
{
	m->count--;
	memmove(&m->entries[i], &m->entries[i + 1], (m->count - i) * sizeof(m->entries[0]));
}

/* Fill in values; what the vCPU cannot be asked for goes. */
static int read_all(int vcpu_fd, struct x86_msrs *m)
{
	uint32_t i = 0;

	while (i < m->count) {
		int done = exchange(vcpu_fd, KVM_GET_MSRS, m, i, m->count);

		if (done < 0)
			return done;
		i += (uint32_t)done;
		if (i < m->count)
			remove_at(m, i);
	}
	return 0;
}

/* A run of zeros from `i` on; its end. */
static uint32_t zeros_end(const struct x86_msrs *m, uint32_t i)
{
	while (i < m->count && m->entries[i].data == 0)
		i++;
	return i;
}

/* A zero that cannot be set to zero need not be carried: it would break up the one call. */
static int drop_unsettable(int vcpu_fd, struct x86_msrs *m)
{
	uint32_t i = 0;

	while (i < m->count) {
		uint32_t end = zeros_end(m, i);
		int done;

		if (end == i) {
			i++;
			continue;
		}
		done = exchange(vcpu_fd, KVM_SET_MSRS, m, i, end);
		if (done < 0)
			return done;
		i += (uint32_t)done;
		if (i < end)
			remove_at(m, i);
	}
	return 0;
}

/* One register; *there is whether the vCPU has it. */
static int read_one(int vcpu_fd, uint32_t index, uint64_t *value, bool *there)
{
	struct x86_msrs one = {.count = 1, .entries = {{.index = index}}};
	int done = kvm_ioctl_var(vcpu_fd, KVM_GET_MSRS, &one);

	*value = one.entries[0].data;
	*there = done == 1;
	return done < 0 ? done : 0;
}

/* The counter last of all, so that it is read as late as can be. */
static int add_time(int vcpu_fd, uint32_t apic_id, struct x86_msrs *m)
{
	uint64_t deadline, tsc, far;
	bool has_deadline, has_tsc;
	int err = read_one(vcpu_fd, X86_MSR_TSC_DEADLINE, &deadline, &has_deadline);

	if (!err)
		err = read_one(vcpu_fd, X86_MSR_TSC, &tsc, &has_tsc);
	if (err)
		return err;
	if (!has_tsc)
		return -EIO;
	far = tsc >= FAR_OFF ? tsc - FAR_OFF : tsc + FAR_OFF;
	if (apic_id == 0)
		err = add(m, X86_MSR_TSC, far);
	if (!err)
		err = add(m, X86_MSR_TSC, tsc);
	if (!err && has_deadline)
		err = add(m, X86_MSR_TSC_DEADLINE, deadline);
	return err;
}

int x86_msrs_save(const struct kvm *kvm, int vcpu_fd, uint32_t apic_id, struct x86_msrs *out)
{
	int err;

	memset(out, 0, sizeof(*out));
	err = choose(kvm, out);
	if (!err)
		err = read_all(vcpu_fd, out);
	if (!err)
		err = drop_unsettable(vcpu_fd, out);
	return err ? err : add_time(vcpu_fd, apic_id, out);
}

/* KVM refused this one: does it matter? */
static int judge_refused(int vcpu_fd, const struct kvm_msr_entry *e, struct x86_why why)
{
	uint64_t now;
	bool there;
	int err;

	if (e->data == 0)
		return 0;
	err = read_one(vcpu_fd, e->index, &now, &there);
	if (err || (there && now == e->data))
		return err;
	return x86_explain(why, -ENOTSUP, "this host cannot set MSR %#x to %#llx", e->index,
	                   (unsigned long long)e->data);
}

/* The registers from `from` on, one refusal at a time. */
static int restore_slowly(int vcpu_fd, struct x86_msrs *m, uint32_t from, struct x86_why why)
{
	while (from < m->count) {
		int err = judge_refused(vcpu_fd, &m->entries[from], why);
		int done;

		if (err)
			return err;
		from++;
		done = from < m->count ? exchange(vcpu_fd, KVM_SET_MSRS, m, from, m->count) : 0;
		if (done < 0)
			return done;
		from += (uint32_t)done;
	}
	return 0;
}

int x86_msrs_restore(int vcpu_fd, const void *payload, size_t size, struct x86_why why)
{
	struct x86_msrs m;
	int done;

	memcpy(&m, payload, size);
	if (m.count == 0)
		return 0;
	done = kvm_ioctl_var(vcpu_fd, KVM_SET_MSRS, &m);
	if (done < 0)
		return done;
	return (uint32_t)done == m.count ? 0 : restore_slowly(vcpu_fd, &m, (uint32_t)done, why);
}
