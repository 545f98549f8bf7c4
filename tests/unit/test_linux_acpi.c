// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_linux_acpi.c - the firmware tables that a kernel is given: lengths, checksums,
 * what each says, AML byte by byte.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/boot_case.h"

TestSuite(linux_acpi, .init = bc_make_bzimage, .fini = bc_free);

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

Test(linux_acpi, acpi_root_pointer)
{
	bc_loads();
	cr_assert(rsdp() % 16 == 0 && rsdp() >= 0xe0000 && rsdp() < MIB);
	cr_assert_eq(memcmp(bc.ram + rsdp(), "RSD PTR ", 8), 0);
	cr_assert_eq(sum(rsdp(), 20), 0);
	cr_assert_eq(sum(rsdp(), 36), 0);
	cr_assert_eq(bc_get(rsdp() + 15, 1), 2);
	cr_assert_eq(bc_get(rsdp() + 20, 4), 36);
}

Test(linux_acpi, acpi_fadt_names_the_ports)
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

static uint64_t find_dsdt(void)
{
	return bc_get(find_table("FACP") + 40, 4);
}

/* Name (_S5, Package (4) {type, type, 0, 0}), byte by byte, is the first thing in the DSDT. */
Test(linux_acpi, acpi_dsdt_says_how_to_power_off)
{
	const uint8_t type = arch_info.pm_off_type;
	const uint8_t want[] = {0x08, '_',  'S',  '5',  '_',  0x12, 0x08,
	                        0x04, 0x0a, type, 0x0a, type, 0,    0};
	uint64_t dsdt;

	bc_loads();
	dsdt = find_dsdt();
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
Test(linux_acpi, acpi_dsdt_has_the_generation_id)
{
	static const uint8_t path[] = {0x86, '\\', 0x2e, '_', 'S',  'B', '_',
	                               'V',  'G',  'E',  'N', 0x0a, 0x80};
	uint64_t at, end, scope, inner;

	bc_loads();
	at = find_dsdt();
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

Test(linux_acpi, acpi_fadt_names_the_general_purpose_events)
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

Test(linux_acpi, acpi_madt_has_every_cpu)
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

/* ---- persistent memory: an empty PCI bus ---- */

static void load_with_pmem(void)
{
	static const struct gpa_range pmem = {{4 * GIB}, 2 * MIB};

	bc_make_bzimage();
	bc.kernel.pmem = &pmem;
	bc.kernel.pmem_count = 1;
	bc_loads();
}

Test(linux_acpi, mcfg_comes_with_persistent_memory_only)
{
	uint64_t mcfg;

	bc_loads();
	cr_assert_eq(find_table("MCFG"), 0);
	load_with_pmem();
	mcfg = find_table("MCFG");
	cr_assert_neq(mcfg, 0);
	cr_assert_eq(table(mcfg, "MCFG"), 60);
	cr_assert_eq(bc_get(mcfg + 44, 8), 0xe0000000);
	cr_assert_eq(bc_get(mcfg + 52, 4), 0); /* segment 0, buses 0 to 0 */
	cr_assert(find_table("APIC") != 0 && find_table("FACP") != 0);
}

/* Without it the configuration space is not reserved by anybody, and Linux does not believe it. */
Test(linux_acpi, dsdt_reserves_the_configuration_space)
{
	static const uint8_t crs[] = {0x08, '_',  'C',  'R',  'S', 0x11, 0x11, 0x0a,
	                              0x0e, 0x86, 0x09, 0x00, 1,   0,    0,    0,
	                              0xe0, 0,    0,    0x10, 0,   0x79, 0};
	uint64_t plain, at, end, scope, inner;

	bc_loads();
	plain = table(find_dsdt(), "DSDT");
	load_with_pmem();
	at = find_dsdt();
	end = at + table(at, "DSDT");
	at += plain;
	cr_assert_eq(bc_get(at++, 1), 0x10);
	scope = package_end(&at);
	cr_assert_eq(scope, end);
	cr_assert_eq(memcmp(bc.ram + at, "\\_SB_\x5b\x82", 7), 0);
	at += 7;
	inner = package_end(&at);
	cr_assert_eq(inner, scope);
	cr_assert_eq(memcmp(bc.ram + at, "PCIC\x08_HID\x0dPNP0C02", 18), 0);
	at += 18;
	cr_assert_eq(inner - at, sizeof(crs));
	cr_assert_eq(memcmp(bc.ram + at, crs, sizeof(crs)), 0);
}
