// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_stage2.c - what KVM itself says of a guest's memory: how it is mapped, and that it
 * faulted as often as the design has it, no more.
 *
 * Where hardware pages in two dimensions, as it does in the nested machine, the numbers are exact.
 * KVM's other MMUs map the same, but may map neighbours in one fault. A software KVM interprets the
 * scripted guest, which is all ring 0, and maps none of what it touches: of KVM's counters nothing
 * can be expected there, of ours the same as anywhere.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "tests/kvm/lab.h"
#include "tests/kvm/script.h"
#include "tests/unit/reserve.h"
#include "vmm/kvm_stats.h"

#define POOL  (256 * MIB)
#define BLOCK UINT64_C(0x800000) /* a block of its own, which nothing else is in */
#define PAGES 512u               /* 4 KiB pages of it */

enum mmu {
	MMU_EXACT,    /* two-dimensional paging, each fault makes one mapping */
	MMU_AHEAD,    /* shadow paging, or KVM's older MMU: a fault may map neighbours too */
	MMU_SOFTWARE, /* neither Intel's nor AMD's virtualization: ring 0 is interpreted */
};

/* A switch of a module of KVM's. */
enum setting { SETTING_NONE, SETTING_OFF, SETTING_ON };

static enum setting setting(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char c;

	if (fd < 0)
		return SETTING_NONE;
	cr_assert_eq(read(fd, &c, 1), 1, "%s", path);
	close(fd);
	return c == 'Y' || c == '1' ? SETTING_ON : SETTING_OFF;
}

static enum mmu host_mmu(void)
{
	enum setting two = setting("/sys/module/kvm_amd/parameters/npt");

	if (two == SETTING_NONE)
		two = setting("/sys/module/kvm_intel/parameters/ept");
	if (two == SETTING_NONE)
		return MMU_SOFTWARE;
	if (two == SETTING_OFF || setting("/sys/module/kvm/parameters/tdp_mmu") != SETTING_ON)
		return MMU_AHEAD;
	return MMU_EXACT;
}

/* A VM between two of its steps, and what the last of them cost. */
struct watched {
	struct vm *vm;
	struct kvm_counters now, before;
	struct space_stats space, space_before;
};

/* Its guest goes on to its next READY. */
static void step(struct watched *w)
{
	w->before = w->now;
	w->space_before = w->space;
	lab_expect(w->vm, VM_READY, 0);
	cr_assert_eq(vm_kvm_stats(w->vm, &w->now), 0);
	cr_assert_eq(space_stats(vm_space(w->vm), &w->space), 0);
}

static int64_t change(const struct watched *w, enum kvm_counter c)
{
	cr_assert(w->now.known[c], "%s", kvm_counter_name(c));
	return (int64_t)(w->now.v[c] - w->before.v[c]);
}

/* Of many pages the host may move some meanwhile, and that takes their mappings away. */
static bool about(int64_t is, int64_t should)
{
	const int64_t moved = (should < 0 ? -should : should) / 64;

	return is >= should - moved && is <= should + moved;
}

/*
 * The last step changed so many mappings, made so many, and took `again` faults at most that made
 * none: those that waited for someone, or whose page was replaced meanwhile.
 */
static void expect_step(const struct watched *w, int64_t small, int64_t huge, int64_t made,
                        uint64_t again)
{
	const enum mmu mmu = host_mmu();

	if (mmu == MMU_SOFTWARE)
		return;
	cr_assert(about(change(w, KVM_COUNT_PAGES_4K), small), "4K %+ld",
	          change(w, KVM_COUNT_PAGES_4K));
	cr_assert_eq(change(w, KVM_COUNT_PAGES_2M), huge, "2M %+ld", change(w, KVM_COUNT_PAGES_2M));
	cr_assert_eq(change(w, KVM_COUNT_PAGES_1G), 0);
	cr_assert(about(change(w, KVM_COUNT_PF_FIXED), made) ||
	                  (mmu == MMU_AHEAD && change(w, KVM_COUNT_PF_FIXED) < made),
	          "made %+ld", change(w, KVM_COUNT_PF_FIXED));
	if (w->now.known[KVM_COUNT_PF_TAKEN])
		cr_assert_leq(change(w, KVM_COUNT_PF_TAKEN),
		              change(w, KVM_COUNT_PF_FIXED) + (int64_t)again, "took %+ld for %+ld",
		              change(w, KVM_COUNT_PF_TAKEN), change(w, KVM_COUNT_PF_FIXED));
}

static uint64_t events(const struct watched *w)
{
	return w->space.events - w->space_before.events;
}

static uint64_t made_private(const struct watched *w)
{
	return w->space.private_frames - w->space_before.private_frames;
}

/* Does `work`, an item at a time, and rings READY before the first and behind each. */
static struct watched watch(const struct lab *l, enum fault_choice faults, enum page_size page_size,
                            const struct step *work, size_t count)
{
	const struct step ring = {STEP_RING, SCRIPT_REQUEST, 0};
	struct vm_config c = lab_config(l, SCRIPT_RAM, 1, faults, NULL);
	struct step list[32] = {ring};
	struct watched w = {0};

	cr_assert_lt(2 * count + 1, 32);
	for (size_t i = 0; i < count; i++) {
		list[2 * i + 1] = work[i];
		list[2 * i + 2] = ring;
	}
	c.page_size = page_size;
	w.vm = lab_make(&c);
	script_boot(w.vm);
	script_request(w.vm, SCRIPT_REQUEST, ABI_READY, 0, 0, 0);
	script_list(w.vm, 0, list, 2 * count + 1);
	step(&w);
	return w;
}

/* A clone, behind its last READY. Its first step maps what it needs for itself. */
static struct watched watch_clone(const struct lab *l, struct watched *w, enum fault_choice faults)
{
	struct image *image = lab_snapshot(w->vm);
	struct watched clone = {.vm = lab_clone(l, image, 1, faults, NULL)};

	image_put(image);
	return clone;
}

/* ---- fresh memory ---- */

/* The kernel's own path: a violation for each page, and none besides. */
Test(stage2, each_page_is_one_violation)
{
	const struct step work[] = {
		{STEP_TOUCH, BLOCK, 1},
		{STEP_TOUCH, BLOCK, PAGES},
		{STEP_READ, BLOCK, PAGES},
	};
	struct watched w;
	struct lab l;

	lab_open(&l, POOL);
	w = watch(&l, FAULTS_KERNEL, PAGE_SIZE_4K, work, 3);
	step(&w);
	expect_step(&w, 1, 0, 1, 0);
	step(&w);
	expect_step(&w, PAGES - 1, 0, PAGES - 1, 0);
	step(&w);
	expect_step(&w, 0, 0, 0, 0);
	vm_destroy(w.vm);
	lab_close(&l);
}

/* A frame of 2 MiB is one mapping, made at the first touch: the rest of the block costs nothing. */
Test(stage2, a_huge_frame_is_one_mapping)
{
	const struct step work[] = {
		{STEP_TOUCH, BLOCK, 1},
		{STEP_TOUCH, BLOCK, PAGES},
		{STEP_TOUCH, BLOCK + MM_BLOCK_SIZE, PAGES},
	};
	struct watched w;
	struct lab l;

	require_path(FAULTS_UFFD);
	lab_open(&l, POOL);
	w = watch(&l, FAULTS_UFFD, PAGE_SIZE_2M, work, 3);
	step(&w);
	expect_step(&w, 0, 1, 1, 1);
	cr_assert_eq(events(&w), 1);
	step(&w);
	expect_step(&w, 0, 0, 0, 0);
	cr_assert_eq(events(&w), 0);
	step(&w);
	expect_step(&w, 0, 1, 1, 1);
	cr_assert_leq(events(&w), 1, "none where the first answer gave this block too");
	cr_assert_eq(w.space.huge_blocks - w.space_before.huge_blocks, 1);
	vm_destroy(w.vm);
	lab_close(&l);
}

/* Clusters of small frames: each page has its mapping; a fault that waited for us took another. */
Test(stage2, clusters_fault_no_more_than_we_hear)
{
	const struct step work = {STEP_TOUCH, BLOCK, PAGES};
	struct watched w;
	struct lab l;

	require_path(FAULTS_UFFD);
	lab_open(&l, POOL);
	w = watch(&l, FAULTS_UFFD, PAGE_SIZE_4K, &work, 1);
	step(&w);
	expect_step(&w, PAGES, 0, PAGES, events(&w));
	cr_assert(events(&w) > 0 && events(&w) <= PAGES / 2, "%lu events", events(&w));
	vm_destroy(w.vm);
	lab_close(&l);
}

/* ---- clones ---- */

/* Publishing takes every mapping away: the parent cannot write what it shares from then on. */
TEST_BOTH_PATHS(stage2, publishing_unmaps_all)
{
	const struct step work = {STEP_TOUCH, BLOCK, 2 * PAGES};
	struct kvm_counters after;
	struct watched w, clone;
	struct lab l;

	lab_open(&l, POOL);
	w = watch(&l, faults, PAGE_SIZE_4K, &work, 1);
	step(&w);
	clone = watch_clone(&l, &w, faults);
	cr_assert_eq(vm_kvm_stats(w.vm, &after), 0);
	cr_assert_eq(after.v[KVM_COUNT_PAGES_4K], 0, "%lu of 4K", after.v[KVM_COUNT_PAGES_4K]);
	cr_assert_eq(after.v[KVM_COUNT_PAGES_2M], 0, "%lu of 2M", after.v[KVM_COUNT_PAGES_2M]);
	if (host_mmu() != MMU_SOFTWARE)
		cr_assert_geq(w.now.v[KVM_COUNT_PAGES_4K] + 512 * w.now.v[KVM_COUNT_PAGES_2M],
		              2 * PAGES);
	vm_destroy(w.vm);
	vm_destroy(clone.vm);
	lab_close(&l);
}

/*
 * A clone of 2 MiB frames: reads share the frame in one mapping. A lone write copies one page and
 * breaks that mapping up; the other pages stay shared, one by one.
 */
TEST_BOTH_PATHS(stage2, a_lone_write_splits_a_shared_huge_frame)
{
	const struct step work[] = {
		{STEP_TOUCH, BLOCK, PAGES}, {STEP_READ, SCRIPT_DATA, 1},
		{STEP_READ, BLOCK, PAGES},  {STEP_TOUCH, BLOCK + 5 * MM_PAGE_SIZE, 1},
		{STEP_READ, BLOCK, PAGES},
	};
	struct watched w, clone;
	struct lab l;

	require_path(FAULTS_UFFD);
	lab_open(&l, POOL);
	w = watch(&l, FAULTS_UFFD, PAGE_SIZE_2M, work, 5);
	step(&w);
	clone = watch_clone(&l, &w, faults);
	vm_destroy(w.vm);
	step(&clone);
	step(&clone);
	expect_step(&clone, 0, 1, 1, events(&clone));
	cr_assert_eq(made_private(&clone), 0);
	step(&clone);
	expect_step(&clone, 1, -1, 1, 1);
	cr_assert_eq(made_private(&clone), 1);
	step(&clone);
	expect_step(&clone, PAGES - 1, 0, PAGES - 1, 0);
	cr_assert_eq(made_private(&clone), 0);
	vm_destroy(clone.vm);
	lab_close(&l);
}

/* A clone of small frames: a lone write replaces one mapping and disturbs no other. */
TEST_BOTH_PATHS(stage2, a_lone_write_replaces_a_small_mapping)
{
	const struct step work[] = {
		{STEP_TOUCH, BLOCK, PAGES}, {STEP_READ, SCRIPT_DATA, 1},
		{STEP_READ, BLOCK, PAGES},  {STEP_TOUCH, BLOCK + 5 * MM_PAGE_SIZE, 1},
		{STEP_READ, BLOCK, PAGES},
	};
	struct watched w, clone;
	struct lab l;

	lab_open(&l, POOL);
	w = watch(&l, faults, PAGE_SIZE_4K, work, 5);
	step(&w);
	clone = watch_clone(&l, &w, faults);
	vm_destroy(w.vm);
	step(&clone);
	step(&clone);
	expect_step(&clone, PAGES, 0, PAGES, events(&clone));
	cr_assert_eq(made_private(&clone), 0);
	step(&clone);
	expect_step(&clone, 0, 0, 1, 1);
	cr_assert_eq(made_private(&clone), 1);
	step(&clone);
	expect_step(&clone, 0, 0, 0, 0);
	cr_assert_eq(made_private(&clone), 0);
	vm_destroy(clone.vm);
	lab_close(&l);
}

/* ---- on any host ---- */

/* Of a guest in ring 3, as programs are, which every KVM maps memory for. */
static struct kvm_counters walk(const struct lab *l, enum fault_choice faults,
                                enum page_size page_size)
{
	struct vm_config c = lab_config(l, 32 * MIB, 1, faults, NULL);
	struct kvm_counters found;
	struct vm *vm;

	c.page_size = page_size;
	vm = lab_boot(&c, "memwalk", "size=8M");
	lab_expect(vm, VM_EXITED, 0);
	cr_assert_eq(vm_kvm_stats(vm, &found), 0);
	vm_destroy(vm);
	return found;
}

Test(stage2, page_size_is_the_one_asked_for)
{
	const uint64_t pages = 8 * MIB >> MM_PAGE_SHIFT, blocks = 8 * MIB / MM_BLOCK_SIZE;
	struct kvm_counters small, huge;
	struct lab l;

	require_path(FAULTS_UFFD);
	lab_open(&l, POOL);
	small = walk(&l, FAULTS_KERNEL, PAGE_SIZE_4K);
	huge = walk(&l, FAULTS_UFFD, PAGE_SIZE_2M);
	lab_close(&l);
	cr_assert_geq(small.v[KVM_COUNT_PAGES_4K], pages, "%lu", small.v[KVM_COUNT_PAGES_4K]);
	cr_assert_eq(small.v[KVM_COUNT_PAGES_2M], 0);
	cr_assert_geq(huge.v[KVM_COUNT_PAGES_2M], blocks, "%lu", huge.v[KVM_COUNT_PAGES_2M]);
	cr_assert_lt(huge.v[KVM_COUNT_PAGES_4K], pages / 8, "%lu", huge.v[KVM_COUNT_PAGES_4K]);
	cr_assert_lt(huge.v[KVM_COUNT_PF_FIXED], 8 * blocks, "%lu", huge.v[KVM_COUNT_PF_FIXED]);
	cr_assert_geq(huge.v[KVM_COUNT_EXITS],
	              huge.v[KVM_COUNT_PF_FIXED] + huge.v[KVM_COUNT_MMIO_EXITS]);
}

/* Four blocks of small mappings take a table each, which as many huge ones do not. */
Test(stage2, tables_are_told_where_they_can_be)
{
	const uint64_t blocks = 8 * MIB / MM_BLOCK_SIZE;
	uint64_t small_bytes, huge_bytes;
	struct kvm_counters small, huge;
	struct lab l;
	int r;

	require_path(FAULTS_UFFD);
	lab_open(&l, POOL);
	small = walk(&l, FAULTS_KERNEL, PAGE_SIZE_4K);
	huge = walk(&l, FAULTS_UFFD, PAGE_SIZE_2M);
	lab_close(&l);
	r = kvm_counters_table_bytes(&small, &small_bytes);
	cr_assert_eq(r, kvm_counters_table_bytes(&huge, &huge_bytes));
	if (r) {
		cr_assert_eq(r, -ENODATA);
		cr_assert_eq(host_mmu(), MMU_EXACT, "shadow tables are counted");
		cr_assert(small_bytes == 0 && huge_bytes == 0);
		return;
	}
	cr_assert_geq(huge_bytes, 4 * MM_PAGE_SIZE);
	cr_assert_geq(small_bytes, huge_bytes + blocks * MM_PAGE_SIZE, "%lu KiB, %lu KiB",
	              small_bytes >> 10, huge_bytes >> 10);
	cr_assert_leq(small_bytes, 64 * MM_PAGE_SIZE, "%lu KiB", small_bytes >> 10);
}

/* All of a machine's memory is one mapping, where the host has set a page that large aside. */
Test(stage2, a_gib_is_one_mapping, .fini = release_pages)
{
	struct kvm_counters found;
	struct vm_config c;
	struct lab l;
	struct vm *vm;

	require_path(FAULTS_UFFD);
	if (host_mmu() != MMU_EXACT)
		cr_skip_test("guest memory is not mapped by two-dimensional paging alone");
	reserve_pages(PAGE_SIZE_1G, 1);
	lab_open(&l, POOL);
	c = lab_config(&l, MM_HUGE_SIZE, 1, FAULTS_UFFD, NULL);
	c.page_size = PAGE_SIZE_1G;
	vm = lab_boot(&c, "memwalk", "size=64M pattern=random");
	lab_expect(vm, VM_EXITED, 0);
	cr_assert_eq(vm_kvm_stats(vm, &found), 0);
	vm_destroy(vm);
	lab_close(&l);
	cr_assert_eq(found.v[KVM_COUNT_PAGES_1G], 1, "%lu", found.v[KVM_COUNT_PAGES_1G]);
	cr_assert_eq(found.v[KVM_COUNT_PAGES_2M], 0, "%lu", found.v[KVM_COUNT_PAGES_2M]);
	cr_assert_eq(found.v[KVM_COUNT_PAGES_4K], 0, "%lu", found.v[KVM_COUNT_PAGES_4K]);
}

/* All vCPUs are in the sums, each fault of each: that is every mapping there is. */
TEST_BOTH_PATHS(stage2, vcpus_add_up)
{
	struct kvm_counters found;
	struct vm_exits ours;
	struct vm_config c;
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	c = lab_config(&l, SCRIPT_RAM, 4, faults, NULL);
	c.page_size = PAGE_SIZE_4K;
	vm = lab_make(&c);
	script_boot(vm);
	for (unsigned i = 0; i < 4; i++) {
		const struct step list[] = {
			{STEP_TOUCH, BLOCK + i * MIB, 256},
			{STEP_RING, SCRIPT_REQUEST + i * UINT64_C(0x1000), 0},
		};

		script_request(vm, list[1].a, ABI_WRITE, 0, BLOCK, 0);
		script_list(vm, i, list, 2);
	}
	lab_expect(vm, VM_CRASHED, 0); /* all have halted */
	cr_assert_eq(vm_kvm_stats(vm, &found), 0);
	vm_exits(vm, &ours);
	cr_assert_eq(ours.doorbell, 4);
	cr_assert_eq(found.v[KVM_COUNT_MMIO_EXITS], ours.mmio);
	cr_assert_geq(found.v[KVM_COUNT_EXITS], ours.mmio);
	if (host_mmu() == MMU_EXACT) {
		/* A block that changes hands meanwhile loses mappings, which are made again. */
		cr_assert_geq(found.v[KVM_COUNT_PF_FIXED], 4 * 256,
		              "made %lu; 4K %lu, 2M %lu, spurious %lu, taken %lu",
		              found.v[KVM_COUNT_PF_FIXED], found.v[KVM_COUNT_PAGES_4K],
		              found.v[KVM_COUNT_PAGES_2M], found.v[KVM_COUNT_PF_SPURIOUS],
		              found.v[KVM_COUNT_PF_TAKEN]);
		cr_assert_geq(found.v[KVM_COUNT_PF_FIXED], found.v[KVM_COUNT_PAGES_4K]);
	}
	vm_destroy(vm);
	lab_close(&l);
}

/* A kernel without them, and a VM's file that is none: said, and nothing is known. */
Test(stage2, no_statistics)
{
	struct kvm_stats_layout layout = {0};
	struct kvm_counters found = {.known = {true}};
	struct kvm without;
	struct vm_config c;
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	without = l.kvm;
	without.caps.stats_fd = false;
	c = lab_config(&l, SCRIPT_RAM, 1, FAULTS_AUTO, NULL);
	c.kvm = &without;
	vm = lab_make(&c);
	cr_assert_eq(vm_kvm_stats(vm, &found), -ENOTSUP);
	cr_assert(!kvm_counters_any(&found));
	cr_assert_lt(kvm_stats_add(l.kvm.fd, &layout, &found), 0);
	cr_assert(!kvm_counters_any(&found) && !layout.read);
	vm_destroy(vm);
	lab_close(&l);
}
