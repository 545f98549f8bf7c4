// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_vm_broken.c - VMs that cannot be made: bad wishes, a host that has nothing left,
 * machine state that was damaged. Each fails with its code and leaves nothing behind.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/kvm/lab.h"
#include "tests/kvm/pace.h"

#define POOL (256 * MIB)

/* What stands in saved state (vmm/vmstate.c): a head, then records. */
#define HEAD_SIZE   24u
#define RECORD_HEAD 16u

struct record {
	size_t at, size; /* with its head and padding */
	uint32_t type, index;
};

static struct image *warm_image(const struct lab *l, unsigned cpus)
{
	struct vm_config c = lab_config(l, 16 * MIB, cpus, FAULTS_AUTO, NULL);
	struct vm *vm = lab_boot(&c, "counter", "table=64K");
	struct image *image;

	lab_expect(vm, VM_READY, 0);
	image = lab_snapshot(vm);
	vm_destroy(vm);
	return image;
}

static uint8_t *state_copy(const struct image *image, size_t *size)
{
	const void *state = image_state(image, size);
	uint8_t *copy = malloc(2 * *size);

	cr_assert(copy);
	memcpy(copy, state, *size);
	return copy;
}

/*
 * Try to make a clone of `image` with other state. A VM that could be made is run for a moment:
 * its guest may do anything, the VMM may not. Return: of vm_create().
 */
static int try_state(const struct lab *l, const struct image *image, const void *state, size_t size)
{
	struct vm_config c = lab_config(l, 0, 0, FAULTS_KERNEL, NULL);
	struct vm_error err = {"?"};
	struct image *broken;
	struct vm *vm;
	int r;

	cr_assert_eq(image_with_state(image, state, size, &broken), 0);
	c.image = broken;
	c.number = 1;
	r = vm_create(&c, &vm, &err);
	if (r == 0) {
		(void)lab_run_for(vm, SECOND / 100);
		vm_destroy(vm);
	} else {
		cr_assert(r < 0 && err.text[0] && strcmp(err.text, "?") != 0, "%d: %s", r,
		          err.text);
	}
	image_put(broken);
	return r;
}

static struct record record_at(const uint8_t *state, size_t at)
{
	struct record r = {.at = at};
	uint64_t size;

	memcpy(&r.type, state + at, 4);
	memcpy(&r.index, state + at + 4, 4);
	memcpy(&size, state + at + 8, 8);
	r.size = RECORD_HEAD + (size_t)align_up(size, 8);
	return r;
}

/* ---- bad wishes ---- */

Test(vm_broken, bad_wishes)
{
	struct footprint before;
	struct vm_error err;
	struct lab l;
	struct vm_config good;
	struct vm *vm;

	lab_open(&l, POOL);
	before = footprint_now();
	good = lab_config(&l, 16 * MIB, 1, FAULTS_AUTO, NULL);
	const struct {
		uint64_t ram;
		unsigned cpus;
		enum page_size page_size;
		int want;
	} cases[] = {
		{0, 1, PAGE_SIZE_AUTO, -EINVAL},
		{4096, 1, PAGE_SIZE_AUTO, -EINVAL},
		{16 * MIB + 1, 1, PAGE_SIZE_AUTO, -EINVAL},
		{17 * MIB, 1, PAGE_SIZE_2M, -EINVAL},
		{UINT64_MAX & ~UINT64_C(4095), 1, PAGE_SIZE_AUTO, -EFBIG},
		{1023 * MIB, 1, PAGE_SIZE_1G, -EINVAL},
		{16 * MIB, 0, PAGE_SIZE_AUTO, -EINVAL},
		{16 * MIB, VM_MAX_CPUS + 1, PAGE_SIZE_AUTO, -EINVAL},
		{16 * MIB, UINT32_MAX, PAGE_SIZE_AUTO, -EINVAL},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct vm_config c = good;

		c.ram_bytes = cases[i].ram;
		c.cpus = cases[i].cpus;
		c.page_size = cases[i].page_size;
		err.text[0] = '\0';
		cr_assert_eq(vm_create(&c, &vm, &err), cases[i].want, "case %zu", i);
		cr_assert(err.text[0] && !strchr(err.text, '\n'));
	}
	footprint_expect(before, 8);
	lab_close(&l);
}

/* A machine nobody booted starts in nowhere, and that ends in a report. */
Test(vm_broken, never_booted)
{
	struct lab l;
	struct vm_config c;
	struct vm *vm;
	struct vm_report r;

	lab_open(&l, POOL);
	c = lab_config(&l, 16 * MIB, 1, FAULTS_AUTO, NULL);
	vm = lab_make(&c);
	r = lab_run_for(vm, SECOND);
	cr_assert(r.event == VM_CRASHED || r.event == VM_FAILED || r.event == VM_TIMEOUT,
	          "event %d", r.event);
	vm_destroy(vm);
	lab_close(&l);
}

/* ---- a host that has nothing left ---- */

Test(vm_broken, kvm_is_gone)
{
	struct footprint before;
	struct lab l;
	struct kvm broken;
	struct vm_error err;
	struct vm_config c;
	struct vm *vm;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	lab_open(&l, POOL);
	before = footprint_now();
	broken = l.kvm;
	c = lab_config(&l, 16 * MIB, 2, FAULTS_AUTO, NULL);
	c.kvm = &broken;
	broken.fd = -1;
	cr_assert_eq(vm_create(&c, &vm, &err), -EBADF);
	broken.fd = null;
	cr_assert_eq(vm_create(&c, &vm, &err), -ENOTTY);
	footprint_expect(before, 8);
	close(null);
	lab_close(&l);
}

/* One descriptor more each time, until there are enough: every step of making a VM fails once. */
static void few_descriptors(struct lab *l, const struct vm_config *c)
{
	struct footprint before = footprint_now();
	struct rlimit all, few;
	unsigned failed = 0;
	int free_fd = dup(0);

	cr_assert_geq(free_fd, 0);
	close(free_fd);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &all), 0);
	for (few = all;; failed++) {
		struct vm_error err = {""};
		struct vm *vm;
		int r;

		few.rlim_cur = (rlim_t)free_fd + failed;
		cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
		r = vm_create(c, &vm, &err);
		cr_assert_eq(setrlimit(RLIMIT_NOFILE, &all), 0);
		if (r == 0) {
			lab_audit(l, vm);
			vm_destroy(vm);
			break;
		}
		cr_assert_eq(r, -EMFILE, "%d: %s", r, err.text);
		cr_assert(err.text[0]);
		footprint_expect(before, 16);
		cr_assert_eq(pool_audit(l->pool), 0);
		cr_assert_lt(failed, 50);
	}
	/* The VM, its vCPUs, and on the uffd path two more. */
	cr_assert_geq(failed, 3);
	footprint_expect(before, 16);
}

TEST_BOTH_PATHS(vm_broken, few_descriptors)
{
	struct image *image;
	struct lab l;
	struct vm_config c;

	lab_open(&l, POOL);
	image = warm_image(&l, 3);
	c = lab_config(&l, 16 * MIB, 3, faults, NULL);
	few_descriptors(&l, &c);
	c.image = image;
	few_descriptors(&l, &c);
	image_put(image);
	lab_close(&l);
}

/* A pool too small for what the kernel path wants at once. */
Test(vm_broken, pool_too_small)
{
	struct footprint before;
	struct vm_error err;
	struct lab l;
	struct vm_config c;
	struct vm *vm;

	lab_open(&l, 8 * MIB);
	before = footprint_now();
	c = lab_config(&l, 16 * MIB, 1, FAULTS_KERNEL, NULL);
	cr_assert_eq(vm_create(&c, &vm, &err), -ENOMEM);
	cr_assert(strstr(err.text, "memory"), "%s", err.text);
	footprint_expect(before, 8);
	lab_close(&l);
}

/* ---- damaged state ---- */

Test(vm_broken, state_truncated)
{
	const size_t ends = pace_rounds(256, HEAD_SIZE + RECORD_HEAD); /* cut at every byte */
	struct footprint before;
	struct image *image;
	struct lab l;
	uint8_t *state;
	size_t size;

	lab_open(&l, POOL);
	image = warm_image(&l, 2);
	state = state_copy(image, &size);
	cr_assert_eq(try_state(&l, image, state, size), 0);
	before = footprint_now();
	for (size_t cut = 0; cut < size; cut += cut < ends || cut + ends > size ? 1 : 509)
		cr_assert_eq(try_state(&l, image, state, cut), -EBADMSG, "%zu of %zu bytes", cut,
		             size);
	cr_assert_eq(try_state(&l, image, state, size + 8), -EBADMSG, "8 bytes too many");
	footprint_expect(before, 16);
	free(state);
	image_put(image);
	lab_close(&l);
}

/* Every record once, each vCPU's in its turn: none missing, none doubled, none out of place. */
Test(vm_broken, state_records_out_of_place)
{
	struct footprint before;
	struct image *image;
	struct lab l;
	uint8_t *state, *other;
	size_t size, records = 0;

	lab_open(&l, POOL);
	image = warm_image(&l, 2);
	state = state_copy(image, &size);
	other = malloc(2 * size);
	cr_assert(other);
	cr_assert_eq(try_state(&l, image, state, size), 0);
	before = footprint_now();
	for (size_t at = HEAD_SIZE; at < size; records++) {
		const struct record r = record_at(state, at);
		const uint32_t wrong = r.index + 1, unknown = 1000;

		memcpy(other, state, at);
		memcpy(other + at, state + at + r.size, size - at - r.size);
		cr_assert_eq(try_state(&l, image, other, size - r.size), -EBADMSG,
		             "without record %zu of type %u", records, r.type);
		memcpy(other, state, size);
		memcpy(other + size, state + at, r.size);
		cr_assert_eq(try_state(&l, image, other, size + r.size), -EBADMSG,
		             "record %zu of type %u twice", records, r.type);
		memcpy(other, state, size);
		memcpy(other + at + 4, &wrong, 4);
		cr_assert_eq(try_state(&l, image, other, size), -EBADMSG,
		             "record %zu of type %u as another's", records, r.type);
		memcpy(other, state, size);
		memcpy(other + at, &unknown, 4);
		cr_assert_eq(try_state(&l, image, other, size), -ENOTSUP,
		             "record %zu of no known type", records);
		at += r.size;
	}
	cr_assert_geq(records, 3 + 2 * 2);
	footprint_expect(before, 16);
	free(other);
	free(state);
	image_put(image);
	lab_close(&l);
}

/* Numbers that would overrun something if they were believed. */
Test(vm_broken, state_sizes_that_lie)
{
	static const uint64_t sizes[] = {
		0,
		1,
		UINT64_MAX,
		UINT64_MAX - 7,
		UINT64_MAX - 15,
		UINT64_MAX - 16,
		UINT64_C(1) << 63,
	};
	static const uint32_t counts[] = {0, 1, 3, VM_MAX_CPUS, VM_MAX_CPUS + 1, UINT32_MAX};
	struct image *image;
	struct lab l;
	uint8_t *state;
	size_t size;

	lab_open(&l, POOL);
	image = warm_image(&l, 2);
	state = state_copy(image, &size);
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		memcpy(state + 12, &counts[i], 4);
		cr_assert_eq(try_state(&l, image, state, size), -EBADMSG, "%u vCPUs", counts[i]);
	}
	memcpy(state + 12, &(uint32_t){2}, 4);
	for (size_t at = HEAD_SIZE; at < size; at += record_at(state, at).size) {
		uint8_t keep[8];

		memcpy(keep, state + at + 8, 8);
		for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
			memcpy(state + at + 8, &sizes[i], 8);
			cr_assert_lt(try_state(&l, image, state, size), 0, "size %#lx at %zu",
			             sizes[i], at);
		}
		memcpy(state + at + 8, keep, 8);
	}
	cr_assert_eq(try_state(&l, image, state, size), 0);
	free(state);
	image_put(image);
	lab_close(&l);
}

/*
 * Flipped bits: whatever the guest then is, the VMM refuses it or survives it. Every other one is
 * in the head, where few are without a meaning.
 */
Test(vm_broken, state_bits_flipped)
{
	const unsigned rounds = pace_rounds(300, 40);
	uint64_t seed = lab_seed();
	unsigned refused = 0;
	struct footprint before = {0};
	struct image *image;
	struct lab l;
	uint8_t *state;
	size_t size;

	lab_open(&l, POOL);
	image = warm_image(&l, 2);
	state = state_copy(image, &size);
	for (unsigned i = 0; i < rounds; i++) {
		uint64_t bit = lab_random(&seed) % (8 * (i % 2 ? size : HEAD_SIZE));

		if (i == 20)
			before = footprint_now();
		state[bit / 8] ^= (uint8_t)(1u << bit % 8);
		refused += try_state(&l, image, state, size) != 0;
		state[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	cr_assert_gt(refused, 0);
	footprint_expect(before, 16);
	cr_assert_eq(try_state(&l, image, state, size), 0);
	free(state);
	image_put(image);
	lab_close(&l);
}
