// SPDX-License-Identifier: MIT
/*
 * arch/x86_64/acpi.c - the firmware tables: how many CPUs, where interrupts go, how to end.
 *
 *     RSDP ── XSDT ─┬─ FADT ─┬─ FACS
 *                   │        └─ DSDT   \_S5, the way to soft-off; VGEN, the generation id; PCIC
 *                   ├─ MADT            local APICs, I/O APIC, exceptions to the ISA wiring
 *                   └─ MCFG            with persistent memory only: an empty PCI bus, see below
 *
 * The machine is a PC with full (not reduced) ACPI hardware that is in ACPI mode from the start.
 * It has PM1a event and control registers and a reset register, and of the older devices serial
 * port, PIT and PICs; no PM timer, no HPET, no keyboard controller beyond its reset command, no
 * CMOS clock, no VGA, no PCI: each is said to be missing, so that nobody spends time looking.
 *
 * Persistent memory: Linux enters what the memory map calls so into its resource tree, where the
 * driver looks for it, when it surveys PCI's, and it leaves that out where PCI cannot be
 * reached at all. So then there is an MCFG, which says where the configuration space of bus 0
 * would be, and a PCIC device, which reserves that space: Linux believes none without the other.
 * Nobody answers there, so the bus is empty, and without a host bridge nobody looks.
 *
 * Invariants:
 * 1. All tables lie in one run of bytes from X86_ACPI, each aligned to 64, below load_min.
 * 2. ISA interrupts meet the I/O APIC pin of the same number, as KVM routes them by default;
 *    the timer's too.
 *
 * Source: ACPI Specification 6.4, chapters 4.8, 5.2 and 20.
 */
#include <string.h>

#include "arch/arch.h"
#include "arch/x86_64/x86.h"

#define PACKED __attribute__((packed))

#define LOCAL_APIC 0xfee00000u
#define IO_APIC    0xfec00000u

/* FADT: IA-PC boot architecture flags */
#define BOOT_LEGACY_DEVICES 0x01u
#define BOOT_NO_VGA         0x04u
#define BOOT_NO_CMOS_RTC    0x20u

/* FADT: feature flags */
#define FEATURE_WBINVD       (1u << 0)
#define FEATURE_C1           (1u << 2)
#define FEATURE_NO_PWR_FIXED (1u << 4) /* no power button among the fixed events */
#define FEATURE_NO_SLP_FIXED (1u << 5) /* no sleep button either */
#define FEATURE_NO_RTC_FIXED (1u << 6) /* nor a wake alarm */
#define FEATURE_RESET        (1u << 10)

#define GAS_IO 1u /* a register in I/O space */

#define LATENCY_NO_C2 101u  /* above 100 us: there is no such state */
#define LATENCY_NO_C3 1001u /* above 1000 us */

struct PACKED gas {
	uint8_t space, width, offset, access;
	uint64_t address;
};

struct PACKED rsdp {
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t extended_checksum; /* of all */
	uint8_t reserved[3];
};

struct PACKED header {
	char signature[4];
	uint32_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem_id[6];
	char oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
};

struct PACKED xsdt {
	struct header h;
	uint64_t fadt, madt;
	uint64_t mcfg; /* not counted where there is none */
};

struct PACKED fadt {
	struct header h;
	uint32_t facs, dsdt;
	uint8_t reserved0, profile;
	uint16_t sci_irq;
	uint32_t smi_command;
	uint8_t acpi_enable, acpi_disable, s4bios, pstate_control;
	uint32_t pm1a_event, pm1b_event, pm1a_control, pm1b_control;
	uint32_t pm2_control, pm_timer, gpe0, gpe1;
	uint8_t pm1_event_len, pm1_control_len, pm2_control_len, pm_timer_len;
	uint8_t gpe0_len, gpe1_len, gpe1_base, cstate_control;
	uint16_t c2_latency, c3_latency, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
	uint16_t boot_flags;
	uint8_t reserved1;
	uint32_t features;
	struct gas reset;
	uint8_t reset_value;
	uint16_t arm_boot_flags;
	uint8_t minor;
	uint64_t x_facs, x_dsdt;
	struct gas x_pm1a_event, x_pm1b_event, x_pm1a_control, x_pm1b_control;
	struct gas x_pm2_control, x_pm_timer, x_gpe0, x_gpe1;
	struct gas sleep_control, sleep_status;
	uint64_t hypervisor;
};

struct PACKED facs {
	char signature[4];
	uint32_t length, hardware, waking, lock, flags;
	uint64_t x_waking;
	uint8_t version, reserved[31];
};

/* AML opcodes. A package length counts itself and what follows; two bytes of it from 64 on. */
#define AML_NAME       0x08
#define AML_BYTE       0x0a
#define AML_DWORD      0x0c
#define AML_STRING     0x0d
#define AML_BUFFER     0x11
#define AML_SCOPE      0x10
#define AML_PACKAGE    0x12
#define AML_METHOD     0x14
#define AML_EXT        0x5b
#define AML_EXT_DEVICE 0x82
#define AML_NOTIFY     0x86
#define AML_ROOT       '\\'
#define AML_TWO_NAMES  0x2e
#define AML_LENGTH2(n)                                                                             \
	{                                                                                          \
		0x40 | ((n)&0x0f), (n) >> 4                                                        \
	}
#define AML_NAMED_STRING(size)                                                                     \
	struct PACKED {                                                                            \
		uint8_t op, name[4], string;                                                       \
		char text[size];                                                                   \
	}

/* Name (_S5, Package () {type, type, 0, 0}), for PM1a and PM1b. */
struct PACKED aml_s5 {
	uint8_t op, name[4];
	uint8_t package_op, length, elements;
	uint8_t pm1a_prefix, pm1a_type, pm1b_prefix, pm1b_type;
	uint8_t zero[2];
};

/*
 * Scope (\_SB) { Device (VGEN) { _HID, _CID, _DDN; Name (ADDR, Package () {low, high}) } }
 * Source: Microsoft, Virtual Machine Generation ID, 2012.
 */
struct PACKED aml_vgen {
	uint8_t scope_op, scope_length[2], root, scope_name[4];
	uint8_t ext, device_op, device_length[2], device_name[4];
	AML_NAMED_STRING(9) hid;
	AML_NAMED_STRING(15) cid;
	AML_NAMED_STRING(15) ddn;
	uint8_t addr_op, addr_name[4], package_op, package_length, elements;
	uint8_t low_prefix;
	uint32_t low;
	uint8_t high_prefix;
	uint32_t high;
};

/* Scope (\_GPE) { Method (_E00) { Notify (\_SB.VGEN, 0x80) } } */
struct PACKED aml_gpe {
	uint8_t scope_op, scope_length, root, scope_name[4];
	uint8_t method_op, method_length, method_name[4], method_flags;
	uint8_t notify_op, notify_root, two_names, sb[4], vgen[4], value_prefix, value;
};

/* Scope (\_SB) { Device (PCIC) { _HID, Name (_CRS, Buffer () {32-bit memory range, end tag}) } } */
struct PACKED aml_pcic {
	uint8_t scope_op, scope_length, root, scope_name[4];
	uint8_t ext, device_op, device_length, device_name[4];
	AML_NAMED_STRING(8) hid;
	uint8_t crs_op, crs_name[4], buffer_op, buffer_length, size_prefix, size;
	uint8_t memory32;
	uint16_t memory32_length;
	uint8_t writable;
	uint32_t base, length;
	uint8_t end_tag, end_checksum; /* 0: not checked */
};

struct PACKED dsdt {
	struct header h;
	struct aml_s5 s5;
	struct aml_vgen vgen;
	struct aml_gpe gpe;
	struct aml_pcic pcic; /* not counted where there is none */
};

struct PACKED madt_cpu {
	uint8_t type, length, uid, apic_id;
	uint32_t flags;
};

struct PACKED madt_io_apic {
	uint8_t type, length, id, reserved;
	uint32_t address, first_interrupt;
};

struct PACKED madt_override {
	uint8_t type, length, bus, irq;
	uint32_t interrupt;
	uint16_t flags;
};

struct PACKED madt_nmi {
	uint8_t type, length, uid;
	uint16_t flags;
	uint8_t lint;
};

struct PACKED mcfg {
	struct header h;
	uint64_t reserved0;
	uint64_t address;
	uint16_t segment;
	uint8_t first_bus, last_bus;
	uint32_t reserved1;
};

/* The variable part comes last; what is beyond the vCPUs there are is not written. */
struct PACKED madt {
	struct header h;
	uint32_t local_apic, flags;
	struct madt_io_apic io_apic;
	struct madt_override sci;
	struct madt_nmi nmi;
	struct madt_cpu cpu[X86_ACPI_MAX_CPUS];
};

struct tables {
	_Alignas(64) struct rsdp rsdp;
	_Alignas(64) uint8_t generation[16]; /* zero: filled in for each machine */
	_Alignas(64) struct xsdt xsdt;
	_Alignas(64) struct fadt fadt;
	_Alignas(64) struct facs facs;
	_Alignas(64) struct dsdt dsdt;
	_Alignas(64) struct mcfg mcfg;
	_Alignas(64) struct madt madt;
};

_Static_assert(sizeof(struct rsdp) == 36 && sizeof(struct header) == 36, "layout");
_Static_assert(sizeof(struct gas) == 12 && sizeof(struct fadt) == 276, "layout");
_Static_assert(sizeof(struct facs) == 64 && sizeof(struct mcfg) == 60, "layout");
_Static_assert(X86_ACPI + sizeof(struct tables) <= X86_LOAD_MIN, "the tables' place");

_Static_assert(X86_GENERATION == X86_ACPI + offsetof(struct tables, generation), "its place");

#define PLACE(table) ((uint32_t)(X86_ACPI + offsetof(struct tables, table)))

static uint8_t checksum(const void *from, size_t size)
{
	const uint8_t *p = from;
	uint8_t sum = 0;

	while (size-- > 0)
		sum += *p++;
	return (uint8_t)-sum;
}

/* Head of a table whose body is filled in. */
static void seal(struct header *h, const char *signature, uint8_t revision, size_t length)
{
	memcpy(h->signature, signature, sizeof(h->signature));
	memcpy(h->oem_id, "COWSLP", sizeof(h->oem_id));
	memcpy(h->oem_table_id, "COWSLIP ", sizeof(h->oem_table_id));
	memcpy(h->creator_id, "COWS", sizeof(h->creator_id));
	h->revision = revision;
	h->length = (uint32_t)length;
	h->oem_revision = 1;
	h->creator_revision = 1;
	h->checksum = 0;
	h->checksum = checksum(h, length);
}

static void make_rsdp(struct rsdp *r)
{
	memcpy(r->signature, "RSD PTR ", sizeof(r->signature));
	memcpy(r->oem_id, "COWSLP", sizeof(r->oem_id));
	r->revision = 2;
	r->length = sizeof(*r);
	r->xsdt = PLACE(xsdt);
	r->checksum = checksum(r, offsetof(struct rsdp, length));
	r->extended_checksum = checksum(r, sizeof(*r));
}

static void make_fadt(struct fadt *f)
{
	f->facs = PLACE(facs);
	f->dsdt = PLACE(dsdt);
	f->x_dsdt = PLACE(dsdt);
	f->sci_irq = X86_SCI_IRQ;
	f->pm1a_event = X86_PM_EVENT;
	f->pm1_event_len = 4;
	f->pm1a_control = X86_PM_CONTROL;
	f->pm1_control_len = 2;
	f->x_pm1a_event = (struct gas){.space = GAS_IO, .width = 32, .address = X86_PM_EVENT};
	f->x_pm1a_control = (struct gas){.space = GAS_IO, .width = 16, .address = X86_PM_CONTROL};
	f->gpe0 = X86_GPE;
	f->gpe0_len = 2;
	f->x_gpe0 = (struct gas){.space = GAS_IO, .width = 16, .address = X86_GPE};
	f->c2_latency = LATENCY_NO_C2;
	f->c3_latency = LATENCY_NO_C3;
	f->boot_flags = BOOT_LEGACY_DEVICES | BOOT_NO_VGA | BOOT_NO_CMOS_RTC;
	f->features = FEATURE_WBINVD | FEATURE_C1 | FEATURE_NO_PWR_FIXED | FEATURE_NO_SLP_FIXED |
	              FEATURE_NO_RTC_FIXED | FEATURE_RESET;
	f->reset =
		(struct gas){.space = GAS_IO, .width = 8, .access = 1, .address = X86_RESET_PORT};
	f->reset_value = X86_RESET_VALUE;
	seal(&f->h, "FACP", 6, sizeof(*f));
}

/* From field `first` of an AML struct, which is the package length, to its end. */
#define LENGTH_FROM(type, first) (sizeof(struct type) - offsetof(struct type, first))

static const struct aml_s5 s5 = {
	.op = AML_NAME,
	.name = {'_', 'S', '5', '_'},
	.package_op = AML_PACKAGE,
	.length = LENGTH_FROM(aml_s5, length),
	.elements = 4,
	.pm1a_prefix = AML_BYTE,
	.pm1a_type = X86_PM_OFF_TYPE,
	.pm1b_prefix = AML_BYTE,
	.pm1b_type = X86_PM_OFF_TYPE,
};

static const struct aml_vgen vgen = {
	.scope_op = AML_SCOPE,
	.scope_length = AML_LENGTH2(LENGTH_FROM(aml_vgen, scope_length)),
	.root = AML_ROOT,
	.scope_name = {'_', 'S', 'B', '_'},
	.ext = AML_EXT,
	.device_op = AML_EXT_DEVICE,
	.device_length = AML_LENGTH2(LENGTH_FROM(aml_vgen, device_length)),
	.device_name = {'V', 'G', 'E', 'N'},
	.hid = {AML_NAME, {'_', 'H', 'I', 'D'}, AML_STRING, "COWS0001"},
	.cid = {AML_NAME, {'_', 'C', 'I', 'D'}, AML_STRING, "VM_Gen_Counter"},
	.ddn = {AML_NAME, {'_', 'D', 'D', 'N'}, AML_STRING, "VM_Gen_Counter"},
	.addr_op = AML_NAME,
	.addr_name = {'A', 'D', 'D', 'R'},
	.package_op = AML_PACKAGE,
	.package_length = LENGTH_FROM(aml_vgen, package_length),
	.elements = 2,
	.low_prefix = AML_DWORD,
	.low = X86_GENERATION,
	.high_prefix = AML_DWORD,
};

static const struct aml_gpe gpe = {
	.scope_op = AML_SCOPE,
	.scope_length = LENGTH_FROM(aml_gpe, scope_length),
	.root = AML_ROOT,
	.scope_name = {'_', 'G', 'P', 'E'},
	.method_op = AML_METHOD,
	.method_length = LENGTH_FROM(aml_gpe, method_length),
	.method_name = {'_', 'E', '0', '0'},
	.notify_op = AML_NOTIFY,
	.notify_root = AML_ROOT,
	.two_names = AML_TWO_NAMES,
	.sb = {'_', 'S', 'B', '_'},
	.vgen = {'V', 'G', 'E', 'N'},
	.value_prefix = AML_BYTE,
	.value = 0x80,
};

static const struct aml_pcic pcic = {
	.scope_op = AML_SCOPE,
	.scope_length = LENGTH_FROM(aml_pcic, scope_length),
	.root = AML_ROOT,
	.scope_name = {'_', 'S', 'B', '_'},
	.ext = AML_EXT,
	.device_op = AML_EXT_DEVICE,
	.device_length = LENGTH_FROM(aml_pcic, device_length),
	.device_name = {'P', 'C', 'I', 'C'},
	.hid = {AML_NAME, {'_', 'H', 'I', 'D'}, AML_STRING, "PNP0C02"},
	.crs_op = AML_NAME,
	.crs_name = {'_', 'C', 'R', 'S'},
	.buffer_op = AML_BUFFER,
	.buffer_length = LENGTH_FROM(aml_pcic, buffer_length),
	.size_prefix = AML_BYTE,
	.size = LENGTH_FROM(aml_pcic, memory32),
	.memory32 = 0x86,
	.memory32_length = LENGTH_FROM(aml_pcic, writable) - 2, /* without the end tag */
	.writable = 1,
	.base = X86_PCI_CONFIG,
	.length = X86_PCI_SIZE,
	.end_tag = 0x79,
};

static void make_dsdt(struct dsdt *d, bool pci)
{
	d->s5 = s5;
	d->vgen = vgen;
	d->gpe = gpe;
	d->pcic = pcic;
	seal(&d->h, "DSDT", 2, pci ? sizeof(*d) : offsetof(struct dsdt, pcic));
}

static size_t make_madt(struct madt *m, unsigned cpus)
{
	size_t length = offsetof(struct madt, cpu) + cpus * sizeof(m->cpu[0]);

	m->local_apic = LOCAL_APIC;
	m->flags = 1; /* there are PICs, to be switched off */
	m->io_apic = (struct madt_io_apic){.type = 1, .length = 12, .address = IO_APIC};
	/* Level-triggered and active high, unlike the rest of ISA's. */
	m->sci = (struct madt_override){.type = 2,
	                                .length = 10,
	                                .irq = X86_SCI_IRQ,
	                                .interrupt = X86_SCI_IRQ,
	                                .flags = 0x000d};
	/* Every CPU's LINT1. */
	m->nmi = (struct madt_nmi){.type = 4, .length = 6, .uid = 0xff, .lint = 1};
	for (unsigned i = 0; i < cpus; i++)
		m->cpu[i] = (struct madt_cpu){
			.length = 8, .uid = (uint8_t)i, .apic_id = (uint8_t)i, .flags = 1};
	seal(&m->h, "APIC", 5, length);
	return length;
}

static void make_xsdt(struct xsdt *x, bool pci)
{
	x->fadt = PLACE(fadt);
	x->madt = PLACE(madt);
	x->mcfg = pci ? PLACE(mcfg) : 0;
	seal(&x->h, "XSDT", 1, pci ? sizeof(*x) : offsetof(struct xsdt, mcfg));
}

int x86_acpi_write(const struct arch_writer *w, unsigned cpus, bool pci)
{
	struct tables t;
	size_t madt_length;

	memset(&t, 0, sizeof(t));
	make_rsdp(&t.rsdp);
	make_xsdt(&t.xsdt, pci);
	make_fadt(&t.fadt);
	memcpy(t.facs.signature, "FACS", sizeof(t.facs.signature));
	t.facs.length = sizeof(t.facs);
	t.facs.version = 2;
	make_dsdt(&t.dsdt, pci);
	if (pci) {
		t.mcfg.address = X86_PCI_CONFIG; /* segment 0, bus 0 only */
		seal(&t.mcfg.h, "MCFG", 1, sizeof(t.mcfg));
	}
	madt_length = make_madt(&t.madt, cpus);
	return w->write(w->ctx, (gpa_t){X86_ACPI}, &t, offsetof(struct tables, madt) + madt_length);
}
