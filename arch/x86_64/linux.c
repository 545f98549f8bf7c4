// SPDX-License-Identifier: MIT
/*
 * arch/x86_64/linux.c - an operating-system kernel into memory, and the first vCPU at its start.
 *
 *     0x2000    GDT: the code and data segments that vCPU 0 starts in
 *     0x3000    boot information of PVH
 *     0x7000    boot information of bzImage (the zero page)
 *     0x8000    command line
 *     0x10000   page tables (boot.c), 64-bit start only
 *     0xe0000   ACPI tables
 *     1 MiB     the kernel where its header wants it
 *     ...       initrd, as high in low RAM as the kernel can reach
 *
 * Invariants:
 * 1. Everything is checked before the first write; only files that fail to be read, and guest
 *    memory that fails to be had, can end it later.
 * 2. What the kernel needs for itself, the initrd and the structures above never overlap: the
 *    first lies at or above 1 MiB, the second above the first.
 * 3. Memory that must be zero (bss) is not written, because it has never been written.
 *
 * Does not do: real-mode or 32-bit bzImage entry, EFI, several initrds, kernels above 3 GiB.
 */
#include "arch/x86_64/linux.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define COPY_CHUNK (UINT64_C(256) << 10)

#define SEL_CODE 0x10 /* as the boot protocol numbers them */
#define SEL_DATA 0x18
#define SEL_TSS  0x20

#define CR0_PE   UINT64_C(0x00000001)
#define CR0_ET   UINT64_C(0x00000010)
#define CR0_PG   UINT64_C(0x80000000)
#define CR4_PAE  UINT64_C(0x00000020)
#define EFER_LME UINT64_C(0x100)
#define EFER_LMA UINT64_C(0x400)

#define RFLAGS_ALWAYS 2u

#define MSR_MISC_ENABLE     0x1a0u
#define MISC_FAST_STRINGS   UINT64_C(1)
#define MSR_MTRR_DEFAULT    0x2ffu
#define MTRR_ALL_WRITE_BACK UINT64_C(0x806) /* on, write-back where nothing else is said */

static const struct x86_kernel_format *const formats[] = {&x86_bzimage, &x86_pvh};

#define FORMATS (sizeof(formats) / sizeof(formats[0]))

/* ---- what machine it is ---- */

static void map_add(struct x86_map *m, uint64_t start, uint64_t end, enum x86_memory type)
{
	if (start < end)
		m->entry[m->count++] = (struct x86_map_entry){start, end - start, type};
}

/* An empty bus, for the sake of persistent memory: see acpi.c. */
static bool has_pci(const struct arch_kernel *k)
{
	return k->pmem_count > 0;
}

/* The first region has the firmware's area in it. */
static int map_ram(struct x86_plan *p)
{
	const struct arch_kernel *k = p->k;

	if (k->ram_count == 0 || k->ram_count > ARCH_MAX_RAM_REGIONS ||
	    k->ram[0].range.start.v != 0 || x86_low_end(k) <= X86_LOAD_MIN)
		return x86_explain(p->why, -EINVAL, "RAM: it must begin at 0 and exceed 1 MiB");
	map_add(&p->map, 0, X86_LOW_RAM_END, X86_MEMORY_RAM);
	map_add(&p->map, X86_LOW_RAM_END, X86_TABLES_END, X86_MEMORY_RESERVED);
	map_add(&p->map, X86_ACPI, X86_LOAD_MIN, X86_MEMORY_RESERVED);
	map_add(&p->map, X86_LOAD_MIN, x86_low_end(k), X86_MEMORY_RAM);
	if (has_pci(k))
		map_add(&p->map, X86_PCI_CONFIG, X86_PCI_CONFIG + X86_PCI_SIZE,
		        X86_MEMORY_RESERVED);
	for (size_t i = 1; i < k->ram_count; i++)
		map_add(&p->map, k->ram[i].range.start.v, gpa_range_end(k->ram[i].range),
		        X86_MEMORY_RAM);
	return 0;
}

static int map_pmem(struct x86_plan *p)
{
	const struct arch_kernel *k = p->k;
	uint64_t floor = max_u64(X86_RAM_HIGH, gpa_range_end(k->ram[k->ram_count - 1].range));

	if (k->pmem_count > ARCH_MAX_PMEM)
		return x86_explain(p->why, -EINVAL, "%zu ranges of persistent memory, at most %u",
		                   k->pmem_count, ARCH_MAX_PMEM);
	for (size_t i = 0; i < k->pmem_count; i++) {
		const struct gpa_range *r = &k->pmem[i];

		if (r->start.v < floor || !is_aligned(r->start.v, X86_PMEM_ALIGN) || r->size == 0 ||
		    !is_aligned(r->size, MM_PAGE_SIZE) || r->size > UINT64_MAX - r->start.v)
			return x86_explain(p->why, -EINVAL,
			                   "persistent memory of %#" PRIx64 " bytes at %#" PRIx64
			                   ": out of place",
			                   r->size, r->start.v);
		floor = gpa_range_end(*r);
		map_add(&p->map, r->start.v, floor, X86_MEMORY_PMEM);
	}
	return 0;
}

static int check_machine(struct x86_plan *p)
{
	int err = map_ram(p);

	if (!err)
		err = map_pmem(p);
	if (err)
		return err;
	if (p->k->cpus == 0 || p->k->cpus > X86_ACPI_MAX_CPUS)
		return x86_explain(p->why, -EINVAL, "%u vCPUs: must be 1 to %u", p->k->cpus,
		                   X86_ACPI_MAX_CPUS);
	return 0;
}

/* ---- what is to be loaded ---- */

int x86_image_read(const struct x86_plan *p, uint64_t offset, void *to, size_t size)
{
	const struct arch_reader *file = &p->k->image;
	int err = file->read(file->ctx, offset, to, size);

	if (err)
		x86_explain(p->why, err, "%s cannot be read at offset %" PRIu64 ": %s", file->name,
		            offset, strerror(-err));
	return err;
}

static int find_format(const struct arch_reader *file, const struct x86_kernel_format **out)
{
	bool yes = false;

	*out = NULL;
	for (size_t i = 0; i < FORMATS; i++) {
		int err = formats[i]->probe(file, &yes);

		if (err)
			return err;
		if (yes) {
			*out = formats[i];
			break;
		}
	}
	return 0;
}

int arch_kernel_probe(const struct arch_reader *file, const char **format)
{
	const struct x86_kernel_format *f;
	int err = find_format(file, &f);

	*format = f ? f->name : NULL;
	return err;
}

static int place_initrd(struct x86_plan *p)
{
	const struct arch_reader *initrd = &p->k->initrd;
	uint64_t floor = gpa_range_end(p->kernel);
	uint64_t top = min_u64(x86_low_end(p->k), p->initrd_end);

	if (initrd->size == 0)
		return 0;
	if (top < floor || initrd->size > top - floor ||
	    align_down(top - initrd->size, MM_PAGE_SIZE) < floor)
		return x86_explain(p->why, -ENOSPC,
		                   "%s does not fit RAM: %" PRIu64 " bytes, between the kernel at "
		                   "%#" PRIx64 " and %#" PRIx64 " there are %" PRIu64
		                   "; more may help (--mem)",
		                   initrd->name, initrd->size, floor, top,
		                   top > floor ? top - floor : 0);
	p->initrd = align_down(top - initrd->size, MM_PAGE_SIZE);
	return 0;
}

static int check_cmdline(struct x86_plan *p)
{
	size_t length = strlen(p->k->cmdline);
	uint64_t max = min_u64(p->cmdline_max, X86_CMDLINE_END - X86_CMDLINE - 1);

	if (length > max)
		return x86_explain(p->why, -E2BIG,
		                   "the command line has %zu characters, %s takes %" PRIu64, length,
		                   p->k->image.name, max);
	return 0;
}

/* ---- loading ---- */

static int copy(const struct x86_plan *p, const struct arch_writer *w,
                const struct arch_reader *file, const struct x86_piece *piece, void *buffer)
{
	for (uint64_t done = 0; done < piece->size;) {
		size_t n = min_u64(piece->size - done, COPY_CHUNK);
		uint64_t to = piece->to + done;
		int err = file->read(file->ctx, piece->offset + done, buffer, n);

		if (err)
			return x86_explain(p->why, err,
			                   "%s cannot be read at offset %" PRIu64 ": %s",
			                   file->name, piece->offset + done, strerror(-err));
		err = w->write(w->ctx, (gpa_t){to}, buffer, n);
		if (err)
			return x86_explain(p->why, err, "%s cannot be loaded at %#" PRIx64 ": %s",
			                   file->name, to, strerror(-err));
		done += n;
	}
	return 0;
}

static int copy_files(const struct x86_plan *p, const struct arch_writer *w)
{
	const struct x86_piece initrd = {.size = p->k->initrd.size, .to = p->initrd};
	void *buffer = malloc(COPY_CHUNK);
	int err = 0;

	if (!buffer)
		return x86_explain(p->why, -ENOMEM, "%s cannot be loaded: %s", p->k->image.name,
		                   strerror(ENOMEM));
	for (size_t i = 0; i < p->pieces && !err; i++)
		err = copy(p, w, &p->k->image, &p->piece[i], buffer);
	if (!err)
		err = copy(p, w, &p->k->initrd, &initrd, buffer);
	free(buffer);
	return err;
}

static int write_gdt(const struct arch_writer *w, bool wide)
{
	/* Flat, 4 GiB, accessed: 64-bit or 32-bit code, data; no TSS but a place for it. */
	const uint64_t gdt[] = {
		0,
		0,
		wide ? UINT64_C(0x00af9b000000ffff) : UINT64_C(0x00cf9b000000ffff),
		UINT64_C(0x00cf93000000ffff),
		UINT64_C(0x00008b0000000067),
	};

	return w->write(w->ctx, (gpa_t){X86_GDT}, gdt, sizeof(gdt));
}

static int write_structures(const struct x86_plan *p, const struct arch_writer *w,
                            const struct x86_kernel_format *f)
{
	bool wide = f->mode == X86_START_LONG;
	int err = w->write(w->ctx, (gpa_t){X86_CMDLINE}, p->k->cmdline, strlen(p->k->cmdline) + 1);

	if (!err)
		err = write_gdt(w, wide);
	if (!err && wide)
		err = arch_write_boot(w, p->k->ram, p->k->ram_count);
	if (!err)
		err = x86_acpi_write(w, p->k->cpus, has_pci(p->k));
	if (!err)
		err = f->inform(p, w);
	if (err)
		x86_explain(p->why, err, "boot structures: %s", strerror(-err));
	return err;
}

static int load(struct x86_plan *p, const struct x86_kernel_format *f, const struct arch_writer *w)
{
	int err = check_machine(p);

	if (!err)
		err = f->plan(p);
	if (!err)
		err = place_initrd(p);
	if (!err)
		err = check_cmdline(p);
	if (!err)
		err = copy_files(p, w);
	return err ? err : write_structures(p, w, f);
}

int arch_kernel_load(const struct arch_writer *w, const struct arch_kernel *k,
                     struct arch_kernel_entry *out, char *why, size_t why_size)
{
	const struct x86_why explain = {why, why_size};
	const struct x86_kernel_format *f;
	struct x86_plan *p;
	int err;

	x86_explain(explain, 0, "%s", "");
	err = find_format(&k->image, &f);
	if (err)
		return x86_explain(explain, err, "%s cannot be read: %s", k->image.name,
		                   strerror(-err));
	if (!f)
		return x86_explain(explain, -ENOEXEC, "%s is not a kernel for this machine",
		                   k->image.name);
	p = calloc(1, sizeof(*p));
	if (!p)
		return x86_explain(explain, -ENOMEM, "%s cannot be loaded: %s", k->image.name,
		                   strerror(ENOMEM));
	p->k = k;
	p->why = explain;
	err = load(p, f, w);
	if (!err)
		*out = (struct arch_kernel_entry){{p->start}, {f->info}, f->mode};
	free(p);
	return err;
}

/* ---- starting ---- */

static struct kvm_segment segment(uint16_t selector, uint8_t type, bool code, bool wide)
{
	return (struct kvm_segment){
		.limit = UINT32_MAX,
		.selector = selector,
		.type = type,
		.present = 1,
		.s = 1,
		.l = code && wide,
		.db = !(code && wide),
		.g = 1,
	};
}

static int start_sregs(int vcpu_fd, bool wide)
{
	struct kvm_sregs s;
	int err = kvm_ioctl(vcpu_fd, KVM_GET_SREGS, &s);

	if (err)
		return err;
	s.cs = segment(SEL_CODE, 11, true, wide);
	s.ds = s.es = s.fs = s.gs = s.ss = segment(SEL_DATA, 3, false, wide);
	s.tr = (struct kvm_segment){.limit = 0x67, .selector = SEL_TSS, .type = 11, .present = 1};
	s.gdt = (struct kvm_dtable){.base = X86_GDT, .limit = SEL_TSS + 7};
	memset(&s.idt, 0, sizeof(s.idt));
	s.cr0 = CR0_PE | CR0_ET | (wide ? CR0_PG : 0);
	s.cr3 = wide ? X86_PAGE_TABLES : 0;
	s.cr4 = wide ? CR4_PAE : 0;
	s.efer = wide ? EFER_LME | EFER_LMA : 0;
	return kvm_ioctl(vcpu_fd, KVM_SET_SREGS, &s);
}

/* What a PC's firmware leaves behind, on every CPU: caches on, string instructions fast. */
static int start_msrs(int vcpu_fd)
{
	struct x86_msrs m = {.count = 1, .entries = {{.index = MSR_MISC_ENABLE}}};
	int got = kvm_ioctl_var(vcpu_fd, KVM_GET_MSRS, &m);

	if (got < 0)
		return got;
	m.entries[0].data |= MISC_FAST_STRINGS;
	m.entries[1] =
		(struct kvm_msr_entry){.index = MSR_MTRR_DEFAULT, .data = MTRR_ALL_WRITE_BACK};
	m.count = 2;
	got = kvm_ioctl_var(vcpu_fd, KVM_SET_MSRS, &m);
	if (got < 0)
		return got;
	return got == 2 ? 0 : -ENOTSUP;
}

int arch_vcpu_reset_kernel(const struct kvm *kvm, int vcpu_fd,
                           const struct arch_kernel_entry *entry, unsigned index)
{
	bool wide = entry->mode == X86_START_LONG;
	struct kvm_regs regs = {.rip = entry->start.v, .rflags = RFLAGS_ALWAYS};
	int err = start_msrs(vcpu_fd);

	(void)kvm;
	if (err || index > 0)
		return err;
	if (wide)
		regs.rsi = entry->info.v;
	else
		regs.rbx = entry->info.v;
	err = start_sregs(vcpu_fd, wide);
	return err ? err : kvm_ioctl(vcpu_fd, KVM_SET_REGS, &regs);
}
