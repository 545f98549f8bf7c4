// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_hugetlb.c - guests on huge pages that the host has set aside: they run, fork,
 * give back, and are cloned; their clones need no such pages.
 */
#include <stdio.h>
#include <string.h>

#include "tests/kvm/command.h"
#include "tests/kvm/lab.h"
#include "tests/unit/reserve.h"

#define GIB UINT64_C(1073741824)

static void end(void)
{
	release_pages();
	scratch_remove();
}

TestSuite(hugetlb, .timeout = 300, .init = scratch_make, .fini = end);

/* A machine on one page of 1 GiB, or on sixteen of 2 MiB. */
static struct vm_config machine(const struct lab *l, enum page_size size, unsigned cpus,
                                enum fault_choice faults, struct tape *t)
{
	uint64_t ram = size == PAGE_SIZE_1G ? GIB : 32 * MIB;
	struct vm_config c = lab_config(l, ram, cpus, faults, t);

	c.page_size = size;
	c.hugetlb = true;
	return c;
}

static unsigned pages_of(enum page_size size)
{
	return size == PAGE_SIZE_1G ? 1 : 16;
}

/* One test for each fault path and page size. */
#define TEST_KINDS(name)                                                                           \
	static void hugetlb_##name(enum fault_choice faults, enum page_size size);                 \
	TEST_BOTH_PATHS(hugetlb, name##_2m)                                                        \
	{                                                                                          \
		reserve_pages(PAGE_SIZE_2M, pages_of(PAGE_SIZE_2M));                               \
		hugetlb_##name(faults, PAGE_SIZE_2M);                                              \
	}                                                                                          \
	TEST_BOTH_PATHS(hugetlb, name##_1g)                                                        \
	{                                                                                          \
		reserve_pages(PAGE_SIZE_1G, pages_of(PAGE_SIZE_1G));                               \
		hugetlb_##name(faults, PAGE_SIZE_1G);                                              \
	}                                                                                          \
	static void hugetlb_##name(enum fault_choice faults, enum page_size size)

/* Racing vCPUs find zeros, and what the others wrote. */
TEST_KINDS(smp)
{
	static struct tape t;
	unsigned long before = free_pages(size);
	struct space_mapping m;
	struct vm_config c;
	struct lab l;
	struct vm *vm;

	lab_open(&l, GIB + 256 * MIB);
	c = machine(&l, size, 4, faults, &t);
	vm = lab_boot(&c, "smp", "blocks=4");
	lab_expect(vm, VM_EXITED, 0);
	cr_assert_str_eq(t.text, "smp: 4 vCPUs ok\n");
	cr_assert_eq(space_query(vm_space(vm), (gpa_t){8 * MIB}, &m), 0);
	cr_assert_eq(m.state, BLOCK_HUGETLB);
	cr_assert_eq(m.page_bytes, page_size_bytes(size));
	lab_audit(&l, vm);
	vm_destroy(vm);
	cr_assert_eq(free_pages(size), before);
	lab_close(&l);
}

/* The guest looks at what it has given back, and at what it has not. */
TEST_KINDS(giveback)
{
	struct vm_config c;
	struct lab l;
	struct vm *vm;

	lab_open(&l, GIB + 256 * MIB);
	c = machine(&l, size, 1, faults, NULL);
	vm = lab_boot(&c, "giveback", "size=8M");
	lab_expect(vm, VM_READY, 0);
	lab_expect(vm, VM_EXITED, 0);
	lab_audit(&l, vm);
	vm_destroy(vm);
	lab_close(&l);
}

/* Parent and clone go on from the same point; each would notice the other's writes. */
TEST_KINDS(snapshot)
{
	static struct tape tapes[2];
	unsigned long before = free_pages(size);
	struct image *image;
	struct vm_config c;
	struct vm *vms[2];
	struct lab l;
	size_t count;

	memset(tapes, 0, sizeof(tapes));
	lab_open(&l, GIB + 256 * MIB);
	c = machine(&l, size, 2, faults, &tapes[0]);
	vms[0] = lab_boot(&c, "stamp", "size=4M rounds=3");
	lab_expect(vms[0], VM_READY, 0);
	image = lab_snapshot(vms[0]);
	cr_assert_eq(free_pages(size), before, "the image is in frames of the pool");
	cr_assert_eq(image_ram(image, &count)[0].page_size, size);
	vms[1] = lab_clone(&l, image, 1, faults, &tapes[1]);
	for (unsigned i = 0; i < 2; i++) {
		lab_expect(vms[i], VM_EXITED, 0);
		cr_assert(strstr(tapes[i].text, "stamps"), "%s", tapes[i].text);
		lab_audit(&l, vms[i]);
	}
	cr_assert_eq(free_pages(size), before);
	for (unsigned i = 0; i < 2; i++)
		vm_destroy(vms[i]);
	image_put(image);
	lab_close(&l);
}

/* No page may be taken any more: the guest is stopped, and goes on when one may. */
Test(hugetlb, out_of_pages)
{
	struct vm_config c;
	struct vm_report report;
	struct lab l;
	struct vm *vm;
	unsigned long before;

	require_path(FAULTS_UFFD);
	if (!lab_frames_can_wait())
		cr_skip_test("frames: this kernel cannot interrupt a vCPU that waits for one");
	reserve_pages(PAGE_SIZE_2M, 16);
	before = free_pages(PAGE_SIZE_2M);
	lab_open(&l, 256 * MIB);
	c = machine(&l, PAGE_SIZE_2M, 1, FAULTS_UFFD, NULL);
	c.limit_bytes = 4 * MIB;
	vm = lab_boot(&c, "memwalk", "size=8M");
	report = lab_run(vm);
	cr_assert_eq(report.event, VM_NOMEM, "%s", report.text);
	cr_assert_eq(free_pages(PAGE_SIZE_2M), before - 2);
	lab_audit(&l, vm);
	space_resume(vm_space(vm), 32 * MIB / MM_PAGE_SIZE);
	lab_expect(vm, VM_EXITED, 0);
	lab_audit(&l, vm);
	vm_destroy(vm);
	lab_close(&l);
}

/* From the command line: run, save, and clone where nothing is set aside any more. */
Test(hugetlb, command_line)
{
	const char *image = scratch("image");
	json_t *stats;
	char free[32];
	struct said s;

	reserve_pages(PAGE_SIZE_2M, 16);
	s = run(ARGS("run", "--page-size", "2m", "--hugetlb", "--mem", "32M", "--save", image,
	             "--stats=json", guest("counter")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	stats = last_json(s.err);
	/* Saved, they are in ordinary frames. */
	cr_assert_eq(json_at(stats, "frames.reserved"), 0);
	json_decref(stats);
	said_free(&s);
	s = run(ARGS("run", "--page-size", "2m", "--hugetlb", "--mem", "32M", "--stats=json",
	             guest("hello")));
	stats = last_json(s.err);
	cr_assert_geq(json_at(stats, "frames.reserved"), (json_int_t)MM_BLOCK_PAGES);
	json_decref(stats);
	said_free(&s);
	s = run(ARGS("doctor"));
	snprintf(free, sizeof(free), "of 2 MiB, %lu free", free_pages(PAGE_SIZE_2M));
	cr_assert(strstr(s.out, free), "%s", s.out);
	said_free(&s);
	release_pages();
	s = run(ARGS("clone", image));
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
}
