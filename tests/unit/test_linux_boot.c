// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_linux_boot.c - a bzImage into memory: what is put where, the firmware tables,
 * and everything refused.
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
		{0, 0x9fc00, 1},          {0x9fc00, 0x400, 2},   {0xe0000, 0x20000, 2},
		{MIB, RAM_SIZE - MIB, 1}, {4 * GIB, 1 * GIB, 1}, {5 * GIB, 3 * MIB, 12},
		{8 * GIB, 4096, 12},
	};

	bc.kernel.ram = ram;
	bc.kernel.ram_count = 2;
	bc.kernel.pmem = pmem;
	bc.kernel.pmem_count = 2;
	bc_loads();
	cr_assert_eq(bc_get(bc.entry.info.v + Z_E820_COUNT, 1), 7);
	for (size_t i = 0; i < 7; i++)
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

/* ---- ACPI ---- */

static uint8_t sum(uint64_t at, size_t size)
{
	uint8_t s = 0;

	while (size-- > 0)
		s += bc.ram[at++];
	return s;
}

/* A table's length, after its signature and checksum have been checked. */
static uint32_t table(uint64_t at, const char *signature)
{
	uint32_t length = (uint32_t)bc_get(at + 4, 4);

	cr_assert(at >= 0xe0000 && at + length <= MIB, "%s at %#lx", signature, at);
	cr_assert_eq(memcmp(bc.ram + at, signature, 4), 0, "%s at %#lx", signature, at);
	cr_assert_eq(sum(at, length), 0, "checksum of %s", signature);
	return length;
}

static uint64_t rsdp(void)
{
	return bc_get(bc.entry.info.v + Z_RSDP, 8);
}

/* Every entry of the XSDT is a table with a good checksum; the one wanted, or 0. */
static uint64_t find_table(const char *signature)
{
	uint64_t xsdt = bc_get(rsdp() + 24, 8), found = 0;
	uint32_t length = table(xsdt, "XSDT");

	cr_assert_eq((length - 36) % 8, 0);
	for (uint64_t at = xsdt + 36; at < xsdt + length; at += 8) {
		char name[5] = {0};

		memcpy(name, bc.ram + bc_get(at, 8), 4);
		table(bc_get(at, 8), name);
		if (strcmp(name, signature) == 0)
			found = bc_get(at, 8);
	}
	return found;
}

Test(linux_boot, acpi_root_pointer)
{
	bc_loads();
	cr_assert(rsdp() % 16 == 0 && rsdp() >= 0xe0000 && rsdp() < MIB);
	cr_assert_eq(memcmp(bc.ram + rsdp(), "RSD PTR ", 8), 0);
	cr_assert_eq(sum(rsdp(), 20), 0);
	cr_assert_eq(sum(rsdp(), 36), 0);
	cr_assert_eq(bc_get(rsdp() + 15, 1), 2);
	cr_assert_eq(bc_get(rsdp() + 20, 4), 36);
}

Test(linux_boot, acpi_fadt_names_the_ports)
{
	uint64_t fadt, facs, dsdt;

	bc_loads();
	fadt = find_table("FACP");
	cr_assert_neq(fadt, 0);
	cr_assert_eq(table(fadt, "FACP"), 276);
	facs = bc_get(fadt + 36, 4);
	cr_assert(facs % 64 == 0 && memcmp(bc.ram + facs, "FACS", 4) == 0);
	cr_assert_eq(bc_get(facs + 4, 4), 64);
	dsdt = bc_get(fadt + 140, 8);
	cr_assert_eq(dsdt, bc_get(fadt + 40, 4));
	table(dsdt, "DSDT");
	cr_assert_eq(bc_get(fadt + 46, 2), 9); /* SCI */
	cr_assert_eq(bc_get(fadt + 48, 4), 0); /* in ACPI mode from the start */
	cr_assert_eq(bc_get(fadt + 56, 4), arch_info.pm_event_port);
	cr_assert_eq(bc_get(fadt + 64, 4), arch_info.pm_control_port);
	cr_assert_eq(bc_get(fadt + 88, 1), 4);
	cr_assert_eq(bc_get(fadt + 89, 1), 2);
	cr_assert_eq(bc_get(fadt + 148, 1), 1); /* the same in the extended form: I/O space */
	cr_assert_eq(bc_get(fadt + 149, 1), 32);
	cr_assert_eq(bc_get(fadt + 152, 8), arch_info.pm_event_port);
	cr_assert_eq(bc_get(fadt + 172, 1), 1);
	cr_assert_eq(bc_get(fadt + 173, 1), 16);
	cr_assert_eq(bc_get(fadt + 176, 8), arch_info.pm_control_port);
	cr_assert_eq(bc_get(fadt + 112, 4) & (1u << 10 | 1u << 20),
	             1u << 10); /* reset; full hardware */
	cr_assert_eq(bc_get(fadt + 116, 1), 1);
	cr_assert_eq(bc_get(fadt + 120, 8), arch_info.reset_port);
	cr_assert_eq(bc_get(fadt + 128, 1), arch_info.reset_value);
}

/* Name (_S5, Package (4) {type, type, 0, 0}), byte by byte, is the first thing in the DSDT. */
Test(linux_boot, acpi_dsdt_says_how_to_power_off)
{
	const uint8_t type = arch_info.pm_off_type;
	const uint8_t want[] = {0x08, '_',  'S',  '5',  '_',  0x12, 0x08,
	                        0x04, 0x0a, type, 0x0a, type, 0,    0};
	uint64_t dsdt;

	bc_loads();
	dsdt = bc_get(find_table("FACP") + 40, 4);
	cr_assert_geq(table(dsdt, "DSDT"), 36 + sizeof(want));
	cr_assert_eq(memcmp(bc.ram + dsdt + 36, want, sizeof(want)), 0);
}

/* Where the AML package whose length is encoded at `at` ends; *at moves behind the encoding. */
static uint64_t package_end(uint64_t *at)
{
	uint64_t start = *at, lead = bc_get(start, 1), extra = lead >> 6;
	uint64_t length = extra ? lead & 0x0f : lead & 0x3f;

	for (uint64_t i = 1; i <= extra; i++)
		length |= bc_get(start + i, 1) << (8 * i - 4);
	*at = start + 1 + extra;
	return start + length;
}

/* The scopes that follow: each package ends where what is in it ends, the last with the table. */
Test(linux_boot, acpi_dsdt_has_the_generation_id)
{
	static const uint8_t path[] = {0x86, '\\', 0x2e, '_', 'S',  'B', '_',
	                               'V',  'G',  'E',  'N', 0x0a, 0x80};
	uint64_t at, end, scope, inner;

	bc_loads();
	at = bc_get(find_table("FACP") + 40, 4);
	end = at + table(at, "DSDT");
	at += 36 + 14;
	cr_assert_eq(bc_get(at++, 1), 0x10);
	scope = package_end(&at);
	cr_assert_eq(memcmp(bc.ram + at, "\\_SB_\x5b\x82", 7), 0);
	at += 7;
	inner = package_end(&at);
	cr_assert_eq(inner, scope);
	cr_assert_eq(memcmp(bc.ram + at, "VGEN", 4), 0);
	cr_assert_not_null(memmem(bc.ram + at, inner - at, "_CID\rVM_Gen_Counter", 20));
	/* ADDR, Package (2) {DWord, DWord} */
	cr_assert_eq(memcmp(bc.ram + inner - 18,
	                    "\x08"
	                    "ADDR\x12\x0c\x02\x0c",
	                    9),
	             0);
	cr_assert_eq(bc_get(inner - 9, 4), arch_info.generation.v);
	cr_assert_eq(bc_get(inner - 5, 1), 0x0c);
	cr_assert_eq(bc_get(inner - 4, 4), arch_info.generation.v >> 32);

	at = scope;
	cr_assert_eq(bc_get(at++, 1), 0x10);
	scope = package_end(&at);
	cr_assert_eq(scope, end);
	cr_assert_eq(memcmp(bc.ram + at, "\\_GPE\x14", 6), 0);
	at += 6;
	cr_assert_eq(package_end(&at), scope);
	cr_assert_eq(memcmp(bc.ram + at, "_E00", 5), 0); /* and no arguments */
	cr_assert_eq(scope - (at + 5), sizeof(path));
	cr_assert_eq(memcmp(bc.ram + at + 5, path, sizeof(path)), 0);
}

Test(linux_boot, acpi_fadt_names_the_general_purpose_events)
{
	uint64_t fadt, id = arch_info.generation.v;

	bc_loads();
	fadt = find_table("FACP");
	cr_assert_eq(bc_get(fadt + 46, 2), arch_info.pm_irq);
	cr_assert_eq(bc_get(fadt + 80, 4), arch_info.gpe_port);
	cr_assert_eq(bc_get(fadt + 92, 1), 2);
	cr_assert(bc_get(fadt + 220, 1) == 1 && bc_get(fadt + 221, 1) == 16);
	cr_assert_eq(bc_get(fadt + 224, 8), arch_info.gpe_port);
	/* In the tables' reserved memory, not yet anybody's. */
	cr_assert(id >= 0xe0000 && id + 16 <= MIB && bc.written[id / 4096]);
	cr_assert(bc_get(id, 8) == 0 && bc_get(id + 8, 8) == 0);
}

struct madt_found {
	unsigned cpus, io_apics, overrides, nmis;
};

static struct madt_found walk_madt(void)
{
	struct madt_found f = {0};
	uint64_t madt = find_table("APIC"), end = madt + table(madt, "APIC"), at;

	cr_assert_neq(madt, 0);
	cr_assert_eq(bc_get(madt + 36, 4), 0xfee00000);
	for (at = madt + 44; at < end; at += bc_get(at + 1, 1)) {
		switch (bc_get(at, 1)) {
		case 0:
			cr_assert_eq(bc_get(at + 1, 1), 8);
			cr_assert_eq(bc_get(at + 3, 1), f.cpus);
			cr_assert_eq(bc_get(at + 4, 4), 1);
			f.cpus++;
			break;
		case 1:
			cr_assert_eq(bc_get(at + 4, 4), 0xfec00000);
			cr_assert_eq(bc_get(at + 8, 4), 0);
			f.io_apics++;
			break;
		case 2:
			cr_assert_eq(bc_get(at + 3, 1), 9);
			cr_assert_eq(bc_get(at + 4, 4), 9);
			cr_assert_eq(bc_get(at + 8, 2), 0xd);
			f.overrides++;
			break;
		case 4:
			f.nmis++;
			break;
		default:
			cr_assert_fail("MADT entry of type %lu", bc_get(at, 1));
		}
		cr_assert_gt(bc_get(at + 1, 1), 0);
	}
	cr_assert_eq(at, end);
	return f;
}

Test(linux_boot, acpi_madt_has_every_cpu)
{
	static const unsigned counts[] = {1, 2, 64, 254};

	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		struct madt_found f;

		bc_make_bzimage();
		bc.kernel.cpus = counts[i];
		bc_loads();
		f = walk_madt();
		cr_assert_eq(f.cpus, counts[i]);
		cr_assert(f.io_apics == 1 && f.overrides == 1 && f.nmis == 1);
	}
}
