// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_linux_boot.c - a bzImage into memory: what is put where, and everything refused.
 *
 * One good image, then each refusal by one change to it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "tests/unit/boot_case.h"

TestSuite(linux_boot, .init = bc_make_bzimage, .fini = bc_free);

/* ---- bzImage ---- */

Test(linux_boot, payload_goes_where_it_prefers_to_be)
{
	bc_loads();
	cr_assert_eq(bc.entry.start.v, PREF + 0x200);
	cr_assert_eq(memcmp(bc.ram + PREF, bc.image + PAYLOAD, SYSSIZE * 16), 0);
	/* Not the signature behind it, nor the bss. */
	for (uint64_t a = PREF + SYSSIZE * 16; a < PREF + INIT_SIZE; a++)
		cr_assert_eq(bc.ram[a], 0, "%#lx", a);
	for (uint64_t page = (PREF + SYSSIZE * 16 + 4095) / 4096; page < (PREF + INIT_SIZE) / 4096;
	     page++)
		cr_assert_not(bc.written[page]);
}

Test(linux_boot, no_setup_sectors_means_four)
{
	bc.image[H_SECTS] = 0;
	bc_loads();
	cr_assert_eq(memcmp(bc.ram + PREF, bc.image + 5 * 512, SYSSIZE * 16), 0);
}

Test(linux_boot, zero_page_has_the_header_and_ours)
{
	uint64_t z, cmdline;

	bc_loads();
	z = bc.entry.info.v;
	cr_assert(z % 16 == 0 && z < MIB);
	/* The header from 0x1f1 to its own end, and nothing else of the file. */
	for (uint64_t a = 0; a < 0x1f1; a++)
		cr_assert_neq(bc.ram[z + a], 0xff, "%#lx", a);
	cr_assert_eq(bc_get(z + 0x1ef, 1), 0); /* the sentinel */
	cr_assert_eq(bc_get(z + H_MAGIC, 4), 0x53726448);
	cr_assert_eq(bc_get(z + H_PREF, 8), PREF);
	cr_assert_eq(bc_get(z + 0x268, 4), 0xabcd);
	for (uint64_t a = 0x26c; a < 0x290; a++)
		cr_assert_eq(bc.ram[z + a], 0, "%#lx", a);
	cr_assert_eq(bc_get(z + H_LOADER, 1), 0xff);
	cr_assert_eq(bc_get(z + H_LOADFLAGS, 1), 1);
	cr_assert_eq(memcmp(bc.ram + bc_get(z + Z_RSDP, 8), "RSD PTR ", 8), 0);
	cmdline = bc_get(z + H_CMDLINE, 4);
	cr_assert(cmdline > 0 && cmdline < MIB);
	cr_assert_str_eq((char *)bc.ram + cmdline, bc.kernel.cmdline);
}

Test(linux_boot, a_longer_header_stops_at_its_area)
{
	bc.image[H_JUMP] = 0xff;
	bc_loads();
	cr_assert_eq(bc_get(bc.entry.info.v + 0x28f, 1), 0xee);
	cr_assert_eq(bc_get(bc.entry.info.v + 0x290, 1), 0);
}

Test(linux_boot, initrd_is_at_the_top_of_ram)
{
	uint64_t at, top = RAM_SIZE;

	bc_loads();
	at = bc_get(bc.entry.info.v + H_RAMDISK, 4);
	cr_assert_eq(at, align_down(top - INITRD_SIZE, 4096));
	cr_assert_eq(bc_get(bc.entry.info.v + H_RD_SIZE, 4), INITRD_SIZE);
	cr_assert_eq(memcmp(bc.ram + at, bc.initrd, INITRD_SIZE), 0);
}

Test(linux_boot, initrd_stays_below_what_the_kernel_reaches)
{
	bc_put32(H_INITRD_MAX, 32 * MIB + 4095);
	bc_loads();
	cr_assert_eq(bc_get(bc.entry.info.v + H_RAMDISK, 4),
	             align_down(32 * MIB + 4096 - INITRD_SIZE, 4096));
}

Test(linux_boot, no_initrd_is_none)
{
	bc.kernel.initrd.size = 0;
	bc_loads();
	cr_assert_eq(bc_get(bc.entry.info.v + H_RAMDISK, 8), 0);
	cr_assert_not(bc.written[RAM_SIZE / 4096 - 1]);
}

/* Two pages between the kernel and the limit, and it needs both. */
Test(linux_boot, initrd_that_just_fits)
{
	bc_put32(H_INITRD_MAX, PREF + INIT_SIZE + sizeof(bc.initrd) - 1);
	bc.kernel.initrd.size = sizeof(bc.initrd);
	bc_loads();
	cr_assert_eq(bc_get(bc.entry.info.v + H_RAMDISK, 4), PREF + INIT_SIZE);
	cr_assert_eq(memcmp(bc.ram + PREF + INIT_SIZE, bc.initrd, sizeof(bc.initrd)), 0);
}

struct e820 {
	uint64_t start, size;
	uint32_t type;
};

static struct e820 e820(size_t i)
{
	uint64_t at = bc.entry.info.v + Z_E820 + i * 20;

	return (struct e820){bc_get(at, 8), bc_get(at + 8, 8), (uint32_t)bc_get(at + 16, 4)};
}

Test(linux_boot, memory_map_of_all_kinds)
{
	static const struct ram_region ram[] = {
		{{{0}, RAM_SIZE}, PAGE_SIZE_AUTO},
		{{{4 * GIB}, 1 * GIB}, PAGE_SIZE_AUTO},
	};
	static const struct gpa_range pmem[] = {{{5 * GIB}, 3 * MIB}, {{8 * GIB}, 4096}};
	static const struct e820 want[] = {
		{0, 0x9fc00, 1},          {0x9fc00, 0x400, 2},  {0xe0000, 0x20000, 2},
		{MIB, RAM_SIZE - MIB, 1}, {0xe0000000, MIB, 2}, {4 * GIB, 1 * GIB, 1},
		{5 * GIB, 3 * MIB, 12},   {8 * GIB, 4096, 12},
	};

	bc.kernel.ram = ram;
	bc.kernel.ram_count = 2;
	bc.kernel.pmem = pmem;
	bc.kernel.pmem_count = 2;
	bc_loads();
	cr_assert_eq(bc_get(bc.entry.info.v + Z_E820_COUNT, 1), 8);
	for (size_t i = 0; i < 8; i++)
		cr_assert(e820(i).start == want[i].start && e820(i).size == want[i].size &&
		                  e820(i).type == want[i].type,
		          "entry %zu: %#lx + %#lx, %u", i, e820(i).start, e820(i).size,
		          e820(i).type);
}

/* Whatever is written before the kernel runs must be memory, and each thing have its own pages. */
Test(linux_boot, everything_lies_below_the_kernel_or_is_the_initrd)
{
	bc_loads();
	for (uint64_t a = 0; a < RAM_SIZE; a += 4096) {
		bool low = a >= 0x1000 && a < 0xa0000, acpi = a >= 0xe0000 && a < MIB;
		bool ours = a >= PREF && a < PREF + INIT_SIZE;
		bool last = a >= align_down(RAM_SIZE - INITRD_SIZE, 4096);

		cr_assert(!bc.written[a / 4096] || low || acpi || ours || last, "%#lx", a);
	}
}

Test(linux_boot, bad_bzimages_are_refused)
{
	static const struct {
		size_t at, size;
		uint64_t value;
		int err;
		const char *said;
	} cases[] = {
		{H_VERSION, 2, 0x020b, -ENOEXEC, "protocol 2.11, 2.12"},
		{H_XLOADFLAGS, 2, 0xfffe, -ENOEXEC, "64-bit entry"},
		{H_LOADFLAGS, 1, 0xfe, -ENOEXEC, "64-bit entry"},
		{H_JUMP, 1, 0x61, -ENOEXEC, "header ends at offset 611"},
		{H_SYSSIZE, 4, 0, -ENOEXEC, "nothing in it"},
		{H_SYSSIZE, 4, 0x20, -ENOEXEC, "nothing in it"},
		{H_SYSSIZE, 4, (IMAGE_SIZE - PAYLOAD) / 16 + 1, -ENOEXEC, "vmlinuz is truncated"},
		{H_SYSSIZE, 4, UINT32_MAX, -ENOEXEC, "truncated"},
		{H_SECTS, 1, 255, -ENOEXEC, "truncated"},
		{H_ALIGN, 4, 0, -ENOEXEC, "damaged"},
		{H_ALIGN, 4, 0x300000, -ENOEXEC, "damaged"},
		{H_ALIGN, 4, 32 * MIB, -ENOEXEC, "damaged"},
		{H_PREF, 8, 0, -ENOEXEC, "damaged"},
		{H_PREF, 8, PREF + 4096, -ENOEXEC, "damaged"},
		{H_INIT_SIZE, 4, SYSSIZE * 16 - 1, -ENOEXEC, "damaged"},
		{H_PREF, 8, RAM_SIZE, -ENOSPC, "vmlinuz does not fit RAM"},
		{H_PREF, 8, RAM_SIZE + 2 * MIB, -ENOSPC, "does not fit RAM"},
		{H_PREF, 8, UINT64_MAX - 2 * MIB + 1, -ENOSPC, "does not fit RAM"},
		{H_INIT_SIZE, 4, RAM_SIZE - PREF + 1, -ENOSPC, "RAM ends at 64 MiB"},
		{H_INIT_SIZE, 4, UINT32_MAX, -ENOSPC, "does not fit RAM"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		bc_make_bzimage();
		memcpy(bc.image + cases[i].at, &cases[i].value, cases[i].size);
		bc_refused(cases[i].err, cases[i].said);
	}
}

Test(linux_boot, the_last_that_fit_do)
{
	bc_put32(H_INIT_SIZE, RAM_SIZE - PREF);
	bc.kernel.initrd.size = 0;
	bc_loads();
	bc_make_bzimage();
	bc_put32(H_SYSSIZE, (IMAGE_SIZE - PAYLOAD) / 16);
	bc_loads();
	bc_make_bzimage();
	bc.image[H_JUMP] = 0x62; /* a header of 2.12 */
	bc_put16(H_VERSION, 0x020c);
	bc_loads();
}

Test(linux_boot, a_file_cut_anywhere_is_refused)
{
	for (uint64_t size = 0; size < PAYLOAD + SYSSIZE * 16; size += size < 0x400 ? 1 : 997) {
		int err;

		bc_make_bzimage();
		bc.kernel.image.size = size;
		err = bc_load();
		cr_assert_eq(err, -ENOEXEC, "%lu bytes: %d", size, err);
		cr_assert(bc_untouched());
	}
}

Test(linux_boot, other_files_are_no_kernels)
{
	const char *format = "?";

	cr_assert_eq(arch_kernel_probe(&bc.kernel.image, &format), 0);
	cr_assert_str_eq(format, "bzImage");
	bc.image[H_MAGIC] = 'h';
	cr_assert_eq(arch_kernel_probe(&bc.kernel.image, &format), 0);
	cr_assert_null(format);
	bc_refused(-ENOEXEC, "vmlinuz is not a kernel");
	bc_make_bzimage();
	bc_put16(H_BOOT_FLAG, 0x55aa);
	bc_refused(-ENOEXEC, "vmlinuz is not a kernel");
	bc_make_bzimage();
	bc.reads_left = 0;
	cr_assert_eq(arch_kernel_probe(&bc.kernel.image, &format), -EREMOTEIO);
}

/* ---- what does not depend on the format ---- */

Test(linux_boot, initrds_that_do_not_fit_are_refused)
{
	uint64_t room = RAM_SIZE - PREF - INIT_SIZE;

	bc.kernel.initrd.size = room + 1;
	bc_refused(-ENOSPC, "initrd.img does not fit RAM");
	bc.kernel.initrd.size = UINT64_MAX;
	bc_refused(-ENOSPC, "initrd.img does not fit RAM");
	bc_put32(H_INITRD_MAX, PREF + INIT_SIZE + 8191);
	bc.kernel.initrd.size = 8193;
	bc_refused(-ENOSPC, "there are 8192");
	/* It would fit, but not on a page of its own. */
	bc_put32(H_INIT_SIZE, INIT_SIZE + 1);
	bc_put32(H_INITRD_MAX, PREF + INIT_SIZE + 4095);
	bc.kernel.initrd.size = 4095;
	bc_refused(-ENOSPC, "there are 4095");
	bc_put32(H_INITRD_MAX, PREF);
	bc.kernel.initrd.size = 1;
	bc_refused(-ENOSPC, "there are 0");
}

Test(linux_boot, command_lines_have_a_limit)
{
	static char line[40000];

	bc.kernel.cmdline = line;
	memset(line, 'x', 2047);
	bc_loads();
	cr_assert_str_eq((char *)bc.ram + bc_get(bc.entry.info.v + H_CMDLINE, 4), line);
	bc_make_bzimage();
	bc.kernel.cmdline = line;
	line[2047] = 'x';
	bc_refused(-E2BIG, "2048 characters, vmlinuz takes 2047");
	memset(line, 'x', sizeof(line) - 1);
	bc_put32(H_CMD_SIZE, UINT32_MAX);
	bc_refused(-E2BIG, "39999 characters");
}

Test(linux_boot, an_empty_command_line_is_one)
{
	bc_loads(); /* another in its place must not show through */
	bc.kernel.cmdline = "";
	bc_loads();
	cr_assert_neq(bc_get(bc.entry.info.v + H_CMDLINE, 4), 0);
	cr_assert_eq(bc_get(bc_get(bc.entry.info.v + H_CMDLINE, 4), 1), 0);
}

Test(linux_boot, machines_out_of_contract_are_refused)
{
	static const struct ram_region high[] = {{{{MIB}, RAM_SIZE}, PAGE_SIZE_AUTO}};
	static const struct ram_region tiny[] = {{{{0}, MIB}, PAGE_SIZE_AUTO}};
	static const struct gpa_range bad[] = {
		{{128 * MIB}, 4096},                          /* below pmem_min */
		{{4 * GIB + 4096}, 4096},                     /* not aligned */
		{{4 * GIB}, 0},                               /* nothing */
		{{4 * GIB}, 4095},                            /* not whole pages */
		{{UINT64_MAX & ~(128 * MIB - 1)}, 256 * MIB}, /* overflows */
	};
	static const struct gpa_range overlapping[] = {{{4 * GIB}, 256 * MIB},
	                                               {{4 * GIB + 128 * MIB}, 4096}};

	bc.kernel.cpus = 0;
	bc_refused(-EINVAL, "0 vCPUs");
	bc.kernel.cpus = 255;
	bc_refused(-EINVAL, "255 vCPUs");
	bc_make_bzimage();
	bc.kernel.ram = high;
	bc_refused(-EINVAL, "RAM");
	bc.kernel.ram = tiny;
	bc_refused(-EINVAL, "RAM");
	bc.kernel.ram_count = 0;
	bc_refused(-EINVAL, "RAM");
	bc_make_bzimage();
	bc.kernel.pmem_count = 1;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		bc.kernel.pmem = &bad[i];
		bc_refused(-EINVAL, "persistent memory");
	}
	bc.kernel.pmem = overlapping;
	bc.kernel.pmem_count = 2;
	bc_refused(-EINVAL, "persistent memory");
	bc.kernel.pmem_count = ARCH_MAX_PMEM + 1;
	bc_refused(-EINVAL, "9 ranges");
}

/* A failure at any write or read is passed on, with a line that says where. */
Test(linux_boot, failures_come_through)
{
	int failures = 0;

	for (int n = 0;; n++, failures++) {
		bc_make_bzimage();
		bc.writes_left = n;
		if (bc_load() == 0)
			break;
		cr_assert_eq(bc_load(), -EIO);
		cr_assert_gt(strlen(bc.why), 10);
	}
	cr_assert_geq(failures, 8, "%d", failures);
	for (int n = 0, reads = 0;; n++, reads++) {
		int err;

		bc_make_bzimage();
		bc.reads_left = n;
		err = bc_load();
		if (err == 0) {
			cr_assert_geq(reads, 4, "%d", reads);
			break;
		}
		cr_assert_eq(err, -EREMOTEIO);
		cr_assert(strstr(bc.why, "cannot be read"), "%s", bc.why);
	}
}
