// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_arch_time.c - the guest's counter and clock over save and restore.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/kvm/bare_vm.h"

/*
 * Software KVM cannot intercept the reading of the counter, so guests see the host's and writes are
 * lost. What can be asked for there is that it never goes back.
 */
static bool counter_can_be_set(void)
{
	const uint64_t jump = UINT64_C(1) << 45;
	struct bare_vm m = bare_vm_make(1, false);
	uint64_t before = bare_vm_get_msr(&m, 0, MSR_TSC);
	bool moved;

	bare_vm_set_msr(&m, 0, MSR_TSC, before + jump);
	moved = bare_vm_get_msr(&m, 0, MSR_TSC) >= before + jump;
	bare_vm_free(&m);
	return moved;
}

Test(arch, counter_goes_on_from_where_it_was)
{
	static struct saved s;
	struct bare_vm a = bare_vm_warm(false);
	uint64_t per_ms = arch_cycles_per_sec(a.vcpu[0]) / 1000;
	const struct shared *found;
	struct bare_vm b;

	cr_assert_gt(per_ms, 100000);
	bare_vm_save(&a, &s);
	bare_vm_pause_ms(1500);
	b = bare_vm_copy(&a, &s);
	cr_assert_eq(bare_vm_ring(&b), RING_LAST);
	found = bare_vm_shared(&b);
	cr_assert_gt(found->tsc_after, found->tsc_before);
	/* The pause has not happened for the guest, where that can be had. */
	if (counter_can_be_set())
		cr_assert_lt(found->tsc_after - found->tsc_before, 1000 * per_ms);
	else
		cr_assert_gt(found->tsc_after - found->tsc_before, 1000 * per_ms);
	bare_vm_free(&a);
	bare_vm_free(&b);
}

/*
 * KVM takes a counter written within a second of what it would show for synchronisation and keeps
 * its own. A descriptor that served an earlier moment just before must not hold a later one back.
 */
Test(arch, counter_never_goes_back_in_a_reused_vcpu)
{
	static struct saved early, late;
	struct bare_vm a = bare_vm_warm(false);
	struct bare_vm b = bare_vm_make(1, false);
	bool settable = counter_can_be_set();
	uint64_t then;

	bare_vm_save(&a, &early);
	bare_vm_pause_ms(400);
	then = bare_vm_get_msr(&a, 0, MSR_TSC);
	bare_vm_save(&a, &late);
	for (int round = 0; round < 3; round++) {
		bare_vm_restore(&b, &early);
		cr_assert_eq(bare_vm_get_msr(&b, 0, MSR_TSC) < then, settable);
		bare_vm_restore(&b, &late);
		cr_assert_gt(bare_vm_get_msr(&b, 0, MSR_TSC), then);
	}
	bare_vm_free(&a);
	bare_vm_free(&b);
}

static int64_t tsc_offset(const struct bare_vm *m, unsigned vcpu)
{
	int64_t offset = 0;
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)&offset,
	};

	cr_assert_eq(kvm_ioctl(m->vcpu[vcpu], KVM_GET_DEVICE_ATTR, &attr), 0);
	return offset;
}

Test(arch, vcpus_of_a_vm_keep_one_time)
{
	static struct saved s;
	struct bare_vm a = bare_vm_boot(2, false);
	struct bare_vm b;
	uint64_t before;

	bare_vm_pause_ms(300);
	before = bare_vm_get_msr(&a, 0, MSR_TSC);
	bare_vm_save(&a, &s);
	b = bare_vm_make(2, false);
	for (int round = 0; round < 3; round++) {
		bare_vm_restore(&b, &s);
		cr_assert_eq(tsc_offset(&b, 0), tsc_offset(&b, 1));
		cr_assert_gt(bare_vm_get_msr(&b, 1, MSR_TSC), before);
		bare_vm_pause_ms(50);
	}
	bare_vm_free(&a);
	bare_vm_free(&b);
}

static uint64_t clock_of(const struct bare_vm *m)
{
	struct kvm_clock_data clock = {0};

	cr_assert_eq(kvm_ioctl(m->vm, KVM_GET_CLOCK, &clock), 0);
	return clock.clock;
}

Test(arch, clock_goes_on_from_where_it_was)
{
	static struct saved s;
	struct bare_vm a = bare_vm_warm(false);
	uint64_t before, restored;
	struct bare_vm b;

	bare_vm_pause_ms(700);
	before = clock_of(&a);
	bare_vm_save(&a, &s);
	bare_vm_pause_ms(700);
	b = bare_vm_copy(&a, &s);
	restored = clock_of(&b);
	cr_assert_geq(restored, before);
	cr_assert_lt(restored - before, UINT64_C(500000000));
	bare_vm_free(&a);
	bare_vm_free(&b);
}
