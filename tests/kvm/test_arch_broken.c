// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_arch_broken.c - state that is damaged, or of a host unlike this one.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/kvm/bare_vm.h"

Test(arch, every_truncation_is_refused)
{
	static struct saved s;
	struct bare_vm a = bare_vm_warm(true);
	struct bare_vm b = bare_vm_make(1, true);

	bare_vm_save(&a, &s);
	for (size_t n = 0; n < s.size[0]; n++)
		cr_assert_eq(arch_vcpu_restore(&b.kvm, b.vcpu[0], s.vcpu[0], n), -EBADMSG,
		             "%zu of %zu bytes", n, s.size[0]);
	for (size_t n = 0; n < s.vm_size; n++)
		cr_assert_neq(arch_vm_restore(&b.kvm, b.vm, true, s.vm, n), 0, "%zu of %zu", n,
		              s.vm_size);
	cr_assert_eq(arch_vm_restore(&b.kvm, b.vm, true, s.vm, 0), -EBADMSG);
	bare_vm_restore(&b, &s);
	bare_vm_free(&a);
	bare_vm_free(&b);
}

static void check_head_bit(const struct bare_vm *b, uint8_t *state, size_t size, size_t bit,
                           bool vcpu)
{
	int err;

	state[bit / 8] ^= (uint8_t)(1u << bit % 8);
	err = vcpu ? arch_vcpu_restore(&b->kvm, b->vcpu[0], state, size)
	           : arch_vm_restore(&b->kvm, b->vm, true, state, size);
	state[bit / 8] ^= (uint8_t)(1u << bit % 8);
	cr_assert(err == -EBADMSG || err == -ENOTSUP, "bit %zu: %d", bit, err);
}

static void check_heads(const struct bare_vm *b, uint8_t *state, size_t size, bool vcpu)
{
	for (size_t at = 0; at < size;) {
		uint64_t length;

		memcpy(&length, state + at + 8, 8);
		for (size_t bit = 0; bit < 128; bit++)
			check_head_bit(b, state, size, 8 * at + bit, vcpu);
		at += 16 + align_up(length, 8);
	}
}

Test(arch, every_flip_in_a_head_is_refused)
{
	static struct saved s;
	struct bare_vm a = bare_vm_warm(true);
	struct bare_vm b = bare_vm_make(1, true);

	bare_vm_save(&a, &s);
	check_heads(&b, s.vcpu[0], s.size[0], true);
	check_heads(&b, s.vm, s.vm_size, false);
	bare_vm_restore(&b, &s);
	bare_vm_free(&a);
	bare_vm_free(&b);
}

/* Flips in payloads may pass (a register has no wrong values), but must not do harm. */
Test(arch, random_flips_do_no_harm)
{
	static struct saved s;
	struct bare_vm a = bare_vm_warm(false);
	struct bare_vm b = bare_vm_make(1, false);
	uint64_t seed = 20240607;
	unsigned refused = 0;

	bare_vm_save(&a, &s);
	for (unsigned i = 0; i < 1500; i++) {
		size_t bit;
		int err;

		seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
		bit = (seed >> 33) % (8 * s.size[0]);
		s.vcpu[0][bit / 8] ^= (uint8_t)(1u << bit % 8);
		err = arch_vcpu_restore(&b.kvm, b.vcpu[0], s.vcpu[0], s.size[0]);
		s.vcpu[0][bit / 8] ^= (uint8_t)(1u << bit % 8);
		cr_assert_leq(err, 0);
		refused += err < 0;
	}
	cr_assert_gt(refused, 0);
	bare_vm_free(&b);

	b = bare_vm_copy(&a, &s);
	cr_assert_eq(bare_vm_ring(&b), RING_LAST);
	bare_vm_check_found(&b);
	bare_vm_free(&a);
	bare_vm_free(&b);
}

/* ---- other hosts ---- */

/* Set the last register before time to something that does not exist. */
static void forge_msr(struct saved *s, uint32_t index, uint64_t data)
{
	size_t size;
	uint8_t *msrs = bare_vm_record(s->vcpu[0], s->size[0], REC_MSRS, &size);
	struct kvm_msr_entry e = {.index = index, .data = data};

	memcpy(msrs + 8 + 4 * sizeof(e), &e, sizeof(e));
}

Test(arch, msr_unknown_here_matters_when_not_zero)
{
	static struct saved s;
	struct bare_vm a = bare_vm_warm(false);
	struct bare_vm b = bare_vm_make(1, false);
	char why[128];

	bare_vm_save(&a, &s);
	forge_msr(&s, 0xdead0001, 0);
	bare_vm_restore(&b, &s);
	/* What came after the refused one was set all the same. */
	cr_assert_eq(bare_vm_get_msr(&b, 0, MSR_LSTAR), LSTAR_VALUE);
	forge_msr(&s, 0xdead0001, 7);
	cr_assert_eq(
		arch_vcpu_restore_why(&b.kvm, b.vcpu[0], s.vcpu[0], s.size[0], why, sizeof(why)),
		-ENOTSUP);
	cr_assert(strstr(why, "0xdead0001"), "%s", why);
	bare_vm_free(&a);
	bare_vm_free(&b);
}

static struct kvm_cpuid_entry2 forge_cpuid(struct saved *s, uint32_t leaf,
                                           const struct kvm_cpuid_entry2 *with)
{
	size_t size;
	uint8_t *cpuid = bare_vm_record(s->vcpu[0], s->size[0], REC_CPUID, &size);
	struct kvm_cpuid_entry2 e;

	for (size_t at = 8; at < size; at += sizeof(e)) {
		memcpy(&e, cpuid + at, sizeof(e));
		if (e.function != leaf || e.index != 0)
			continue;
		if (with)
			memcpy(cpuid + at, with, sizeof(e));
		return e;
	}
	cr_assert(false, "no leaf %#x", leaf);
	return e;
}

Test(arch, host_without_a_feature_is_told)
{
	static struct saved s;
	struct bare_vm a = bare_vm_warm(false);
	struct kvm_cpuid_entry2 real, forged;
	char why[128];

	bare_vm_save(&a, &s);
	cr_assert_eq(arch_vcpu_check(&a.kvm, s.vcpu[0], s.size[0], why, sizeof(why)), 0, "%s", why);
	cr_assert_str_empty(why);

	real = forged = forge_cpuid(&s, 7, NULL);
	forged.edx |= 1u << 17; /* reserved */
	forge_cpuid(&s, 7, &forged);
	cr_assert_eq(arch_vcpu_check(&a.kvm, s.vcpu[0], s.size[0], why, sizeof(why)), -ENOTSUP);
	cr_assert(strstr(why, "7:edx"), "%s", why);
	forge_cpuid(&s, 7, &real);

	real = forged = forge_cpuid(&s, 0, NULL);
	forged.ebx ^= 1;
	forge_cpuid(&s, 0, &forged);
	cr_assert_eq(arch_vcpu_check(&a.kvm, s.vcpu[0], s.size[0], why, sizeof(why)), -ENOTSUP);
	cr_assert(strstr(why, "vendor"), "%s", why);
	forge_cpuid(&s, 0, &real);

	cr_assert_eq(arch_vcpu_check(&a.kvm, s.vcpu[0], 100, why, sizeof(why)), -EBADMSG);
	cr_assert_str_not_empty(why);
	bare_vm_free(&a);
}

Test(arch, vcpus_are_numbered)
{
	static struct saved s;
	struct bare_vm m = bare_vm_boot(2, true);
	struct kvm_cpuid_entry2 e;

	bare_vm_save(&m, &s);
	memcpy(s.vcpu[0], s.vcpu[1], STATE_MAX);
	s.size[0] = s.size[1];
	e = forge_cpuid(&s, 1, NULL);
	cr_assert_eq(e.ebx >> 24, 1);
	cr_assert(e.ecx & (1u << 31), "hypervisor bit");
	e = forge_cpuid(&s, 0xb, NULL);
	cr_assert_eq(e.edx, 1);
	e = forge_cpuid(&s, 0x40000000, NULL);
	cr_assert_arr_eq(&e.ebx, "KVMK", 4);
	bare_vm_free(&m);
}
