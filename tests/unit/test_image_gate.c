// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_image_gate.c - what an image needs of its host is asked before a clone is made,
 * and named when it is missing.
 *
 * The states are made by hand, without vCPUs: those need KVM (tests/kvm/test_vm_broken.c).
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "tests/unit/snapshot_model.h"
#include "vmm/vm.h"

/* vmm/vmstate.c draws it. */
struct hand_made {
	uint64_t magic;
	uint32_t version, cpus, flags, zero;
	uint32_t type, index;
	uint64_t size;
};

static const struct hand_made plain = {.magic = UINT64_C(0x6574617473776f63),
                                       .version = 1,
                                       .cpus = 4,
                                       .type = 6};

static int check(const struct hand_made *state, unsigned max_vcpus, bool irqchip,
                 struct vm_error *err)
{
	const struct kvm kvm = {.fd = -1, .caps = {.max_vcpus = max_vcpus, .irqchip = irqchip}};
	struct image *image = st_image(state, sizeof(*state));
	int r = vm_check_image(&kvm, image, err);

	image_put(image);
	return r;
}

TestSuite(image_gate, .init = st_setup, .fini = st_teardown, .timeout = 60);

Test(image_gate, what_is_missing_is_named)
{
	struct hand_made h = plain;
	struct vm_error err;

	cr_assert_eq(check(&h, 4, false, &err), 0, "%s", err.text);
	cr_assert_eq(check(&h, 3, true, &err), -ENOTSUP);
	cr_assert_not_null(strstr(err.text, "4 vCPUs"), "%s", err.text);
	h.flags = 1;
	cr_assert_eq(check(&h, 4, true, &err), 0, "%s", err.text);
	cr_assert_eq(check(&h, 4, false, &err), -ENOTSUP);
	cr_assert_not_null(strstr(err.text, "KVM_CAP_IRQCHIP"), "%s", err.text);
	h = plain;
	h.type = 77;
	cr_assert_eq(check(&h, 4, true, &err), -ENOTSUP);
	cr_assert_not_null(strstr(err.text, "state record 77"), "%s", err.text);
	h = plain;
	h.magic++;
	cr_assert_eq(check(&h, 4, true, &err), -EBADMSG);
}

Test(image_gate, devices_are_listed)
{
	const char *names[4];
	struct hand_made h = plain;
	struct image *image;

	h.flags = 1;
	image = st_image(&h, sizeof(h));
	cr_assert_eq(vm_image_devices(image, names, 4), 2);
	cr_assert_str_eq(names[0], "interrupt controller in KVM");
	cr_assert_str_eq(names[1], "power control");
	cr_assert_eq(vm_image_devices(image, names, 1), 1);
	image_put(image);
	image = st_image("no machine", 10);
	cr_assert_eq(vm_image_devices(image, names, 4), -EBADMSG);
	image_put(image);
}
