// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_boot.c - RAM layouts and the page tables a guest starts on.
 *
 * The tables are written into a buffer and read back by a walker of our own that knows the
 * architecture's format and nothing of how boot.c goes about it.
 */
#include <criterion/criterion.h>
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

/* Where boot structures may be, and no further. */
#define LOW_SIZE (1 * MIB)
#define ROOT     UINT64_C(0x10000)

struct low_memory {
	uint8_t *bytes;
	bool touched[LOW_SIZE / 4096];
	int fail_after; /* writes that succeed, then -EIO; negative: all do */
};

static int write_low(void *ctx, gpa_t to, const void *from, size_t size)
{
	struct low_memory *low = ctx;

	if (low->fail_after == 0)
		return -EIO;
	if (low->fail_after > 0)
		low->fail_after--;
	cr_assert(to.v + size <= LOW_SIZE, "boot structure at %#lx", to.v);
	memcpy(low->bytes + to.v, from, size);
	for (uint64_t page = to.v / 4096; page <= (to.v + size - 1) / 4096; page++)
		low->touched[page] = true;
	return 0;
}

static struct low_memory low_make(void)
{
	struct low_memory low = {.bytes = malloc(LOW_SIZE), .fail_after = -1};

	cr_assert(low.bytes);
	/* The writer must not count on zeros. */
	memset(low.bytes, 0xff, LOW_SIZE);
	return low;
}

struct mapping {
	bool present;
	uint64_t gpa;
	uint64_t page;   /* bytes the leaf maps */
	uint64_t rights; /* bits set on every level: 1 present, 2 write, 4 user */
	bool executable;
	bool prepared; /* accessed on every level, dirty on the leaf */
};

/* Walk as the CPU does. */
static struct mapping walk(const struct low_memory *low, uint64_t va)
{
	struct mapping m = {.rights = 7, .executable = true, .prepared = true};
	uint64_t table = ROOT;

	for (int shift = 39; shift >= 12; shift -= 9) {
		uint64_t entry;

		cr_assert(table % 4096 == 0 && table + 4096 <= LOW_SIZE &&
		                  low->touched[table / 4096],
		          "table at %#lx for %#lx", table, va);
		memcpy(&entry, low->bytes + table + (va >> shift) % 512 * 8, 8);
		if (!(entry & 1))
			return (struct mapping){0};
		m.rights &= entry;
		m.executable &= !(entry >> 63);
		m.prepared &= (entry & 0x20) != 0;
		if (shift == 12 || (shift < 39 && (entry & 0x80))) {
			m.present = true;
			m.page = UINT64_C(1) << shift;
			cr_assert((entry & 0x000ffffffffff000) % m.page == 0, "leaf %#lx of %#lx",
			          entry, va);
			m.gpa = (entry & 0x000ffffffffff000) | (va & (m.page - 1));
			m.prepared &= (entry & 0x40) != 0;
			return m;
		}
		table = entry & 0x000ffffffffff000;
	}
	return m;
}

static bool in_ram(const struct ram_region *ram, int count, uint64_t a)
{
	for (int i = 0; i < count; i++)
		if (gpa_range_has(ram[i].range, (gpa_t){a}))
			return true;
	return false;
}

static void check_address(const struct low_memory *low, const struct ram_region *ram, int count,
                          uint64_t a)
{
	bool doorbell = align_down(a, 4096) == arch_info.doorbell.v;
	struct mapping m = walk(low, a);

	cr_assert_eq(m.present, doorbell || in_ram(ram, count, a), "address %#lx", a);
	if (!m.present)
		return;
	cr_assert_eq(m.gpa, a, "address %#lx maps to %#lx", a, m.gpa);
	cr_assert(m.rights == 7 && m.executable && m.prepared, "rights of %#lx", a);
}

/* Both sides of every edge, and a few in between. */
static void check_tables(uint64_t size)
{
	struct ram_region ram[ARCH_MAX_RAM_REGIONS];
	struct low_memory low = low_make();
	const struct arch_writer w = {write_low, &low};
	int count = arch_ram_layout(size, PAGE_SIZE_AUTO, ram);

	cr_assert_gt(count, 0);
	cr_assert_eq(arch_write_boot(&w, ram, (size_t)count), 0);
	cr_assert_not(low.touched[arch_info.boot_info.v / 4096]);
	for (int i = 0; i < count; i++) {
		uint64_t start = ram[i].range.start.v, end = gpa_range_end(ram[i].range);

		for (uint64_t a = start; a < end; a += max_u64(4096, (end - start) / 4096))
			check_address(&low, ram, count, a);
		for (uint64_t d = 1; d < 8 * MIB; d *= 2) {
			check_address(&low, ram, count, end - min_u64(d, end - start));
			check_address(&low, ram, count, end + d - 1);
			check_address(&low, ram, count, start + min_u64(d, end - start) - 1);
			if (start >= d)
				check_address(&low, ram, count, start - d);
		}
	}
	for (uint64_t d = 0; d < 4; d++)
		check_address(&low, ram, count, arch_info.doorbell.v + d * 4096 - 4096);
	check_address(&low, ram, count, arch_info.doorbell.v + 4095);
	free(low.bytes);
}

Test(boot, tables_map_ram_and_doorbell)
{
	static const uint64_t sizes[] = {
		1 * MIB,
		1 * MIB + 4 * KIB,
		2 * MIB,
		2 * MIB - 4 * KIB,
		64 * MIB,
		65 * MIB,
		255 * MIB + 12 * KIB,
		1 * GIB,
		3 * GIB - 4 * KIB,
		3 * GIB,
		3 * GIB + 4 * KIB,
		3 * GIB + 511 * MIB,
		4 * GIB,
		64 * GIB,
		64 * GIB + 2044 * KIB,
	};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		check_tables(sizes[i]);
	check_tables(arch_info.max_ram);
	check_tables(arch_info.max_ram - 4 * KIB);
}

Test(boot, whole_blocks_are_large_leaves)
{
	struct ram_region ram[ARCH_MAX_RAM_REGIONS];
	struct low_memory low = low_make();
	const struct arch_writer w = {write_low, &low};

	cr_assert_eq(arch_ram_layout(5 * MIB, PAGE_SIZE_4K, ram), 1);
	cr_assert_eq(arch_write_boot(&w, ram, 1), 0);
	cr_assert_eq(walk(&low, 3 * MIB).page, 2 * MIB);
	cr_assert_eq(walk(&low, 4 * MIB).page, 4 * KIB);
	cr_assert_eq(walk(&low, arch_info.doorbell.v).page, 4 * KIB);
	free(low.bytes);
}

Test(boot, writer_errors_come_through)
{
	struct ram_region ram[ARCH_MAX_RAM_REGIONS];
	int failures = 0;

	cr_assert_eq(arch_ram_layout(4 * GIB + 4 * KIB, PAGE_SIZE_AUTO, ram), 2);
	for (int n = 0;; n++, failures++) {
		struct low_memory low = low_make();
		const struct arch_writer w = {write_low, &low};
		int err;

		low.fail_after = n;
		err = arch_write_boot(&w, ram, 2);
		free(low.bytes);
		if (err == 0)
			break;
		cr_assert_eq(err, -EIO);
	}
	/* Root, top, four GiB with the doorbell's, two above, two tables of 4 KiB pages. */
	cr_assert_eq(failures, 10, "%d", failures);
}

Test(boot, more_than_the_tables_hold_is_refused)
{
	struct low_memory low = low_make();
	const struct arch_writer w = {write_low, &low};
	const struct ram_region far_away = {{{600 * GIB}, 4 * KIB}, PAGE_SIZE_AUTO};
	const struct ram_region vast = {{{0}, 400 * GIB}, PAGE_SIZE_AUTO};

	cr_assert_eq(arch_write_boot(&w, &far_away, 1), -EFBIG);
	cr_assert_eq(arch_write_boot(&w, &vast, 1), -EFBIG);
	free(low.bytes);
}

static void check_layout(uint64_t size, enum page_size page_size, int count, uint64_t low,
                         uint64_t high)
{
	struct ram_region ram[ARCH_MAX_RAM_REGIONS];

	cr_assert_eq(arch_ram_layout(size, page_size, ram), count, "size %#lx", size);
	cr_assert(ram[0].range.start.v == 0 && ram[0].range.size == low);
	cr_assert_eq(ram[0].page_size, page_size);
	if (count == 1)
		return;
	cr_assert(ram[1].range.start.v == 4 * GIB && ram[1].range.size == high);
	cr_assert_eq(ram[1].page_size, page_size);
}

Test(boot, ram_goes_around_the_hole)
{
	check_layout(1 * MIB, PAGE_SIZE_AUTO, 1, 1 * MIB, 0);
	check_layout(64 * MIB + 4 * KIB, PAGE_SIZE_4K, 1, 64 * MIB + 4 * KIB, 0);
	check_layout(3 * GIB, PAGE_SIZE_1G, 1, 3 * GIB, 0);
	check_layout(3 * GIB + 4 * KIB, PAGE_SIZE_AUTO, 2, 3 * GIB, 4 * KIB);
	check_layout(4 * GIB, PAGE_SIZE_1G, 2, 3 * GIB, 1 * GIB);
	check_layout(64 * GIB, PAGE_SIZE_2M, 2, 3 * GIB, 61 * GIB);
	check_layout(arch_info.max_ram, PAGE_SIZE_1G, 2, 3 * GIB, arch_info.max_ram - 3 * GIB);
}

Test(boot, odd_sizes_are_refused_not_rounded)
{
	static const struct {
		uint64_t size;
		enum page_size page_size;
		int err;
	} cases[] = {
		{0, PAGE_SIZE_AUTO, -EINVAL},
		{4 * KIB, PAGE_SIZE_AUTO, -EINVAL},
		{1 * MIB - 4 * KIB, PAGE_SIZE_AUTO, -EINVAL},
		{1 * MIB + 1, PAGE_SIZE_AUTO, -EINVAL},
		{64 * MIB + 2 * KIB, PAGE_SIZE_4K, -EINVAL},
		{1 * MIB, PAGE_SIZE_2M, -EINVAL},
		{65 * MIB, PAGE_SIZE_2M, -EINVAL},
		{3 * GIB + 1 * MIB, PAGE_SIZE_2M, -EINVAL},
		{512 * MIB, PAGE_SIZE_1G, -EINVAL},
		{3 * GIB + 512 * MIB, PAGE_SIZE_1G, -EINVAL},
		{UINT64_MAX, PAGE_SIZE_AUTO, -EFBIG},
		{UINT64_MAX & ~UINT64_C(4095), PAGE_SIZE_AUTO, -EFBIG},
	};
	struct ram_region ram[ARCH_MAX_RAM_REGIONS];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		cr_assert_eq(arch_ram_layout(cases[i].size, cases[i].page_size, ram), cases[i].err,
		             "case %zu", i);
	cr_assert_eq(arch_ram_layout(arch_info.max_ram + 4 * KIB, PAGE_SIZE_AUTO, ram), -EFBIG);
}

Test(boot, facts_fit_together)
{
	struct ram_region ram[ARCH_MAX_RAM_REGIONS];
	int count = arch_ram_layout(arch_info.max_ram, PAGE_SIZE_AUTO, ram);

	cr_assert_eq(arch_info.isa, EM_X86_64);
	cr_assert_str_eq(arch_info.name, "x86_64");
	cr_assert_geq(arch_info.max_ram, 64 * GIB);
	cr_assert_not(in_ram(ram, count, arch_info.doorbell.v));
	cr_assert(is_aligned(arch_info.doorbell.v, 4096));
	cr_assert(in_ram(ram, count, arch_info.boot_info.v));
	cr_assert_lt(arch_info.boot_info.v, arch_info.load_min.v);
	cr_assert_eq(arch_info.serial_port, 0x3f8);
}
