// SPDX-License-Identifier: MIT
/*
 * arch/x86_64/pvh.c - an ELF kernel with a PVH entry point (Linux's vmlinux, some unikernels).
 *
 * What makes it one is a note, owner "Xen", type 18, whose value is the 32-bit physical address
 * to start at. Segments go to their physical addresses; the boot information is in three parts,
 * one after the other at X86_PVH_INFO:
 *
 *     hvm_start_info ── memory map ── module list (the initrd, when there is one)
 *
 * Source: Xen's public/arch-x86/hvm/start_info.h (the format, version 1) and System V gABI.
 */
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "arch/x86_64/linux.h"

#define HEADERS_MAX   64u
#define NOTES_MAX     4096u /* bytes of one segment; kernels have a few hundred */
#define NOTE_OWNER    "Xen"
#define NOTE_ENTRY_32 18u
#define START_MAGIC   0x336ec578u
#define CMDLINE_MAX   2047u /* what Linux keeps; the format has no field for it */
#define INITRD_END    (UINT64_C(1) << 32)

struct start_info {
	uint32_t magic, version, flags, modules;
	uint64_t module_list, cmdline, rsdp, map;
	uint32_t map_entries, reserved;
};

struct map_entry {
	uint64_t start, size;
	uint32_t type, reserved;
};

struct module {
	uint64_t start, size, cmdline, reserved;
};

struct info {
	struct start_info start;
	struct map_entry map[X86_MAP_MAX];
	struct module initrd;
};

_Static_assert(sizeof(struct start_info) == 56, "layout");
_Static_assert(sizeof(struct map_entry) == 24 && sizeof(struct module) == 32, "layout");
_Static_assert(X86_PVH_INFO + sizeof(struct info) <= X86_ZERO_PAGE, "place");

struct headers {
	Elf64_Ehdr e;
	Elf64_Phdr p[HEADERS_MAX];
};

/* ---- headers ---- */

static bool in_file(const struct arch_reader *file, uint64_t offset, uint64_t size)
{
	return offset <= file->size && size <= file->size - offset;
}

static bool is_ours(const Elf64_Ehdr *e)
{
	return memcmp(e->e_ident, ELFMAG, SELFMAG) == 0 && e->e_ident[EI_CLASS] == ELFCLASS64 &&
	       e->e_ident[EI_DATA] == ELFDATA2LSB && e->e_machine == EM_X86_64 &&
	       e->e_type == ET_EXEC && e->e_phentsize == sizeof(Elf64_Phdr) &&
	       e->e_phnum <= HEADERS_MAX;
}

/* Return: 0 and *yes (h filled in) when the file has headers like a kernel's; -errno. */
static int read_headers(const struct arch_reader *file, struct headers *h, bool *yes)
{
	int err;

	*yes = false;
	if (!in_file(file, 0, sizeof(h->e)))
		return 0;
	err = file->read(file->ctx, 0, &h->e, sizeof(h->e));
	if (err || !is_ours(&h->e))
		return err;
	if (!in_file(file, h->e.e_phoff, h->e.e_phnum * sizeof(h->p[0])))
		return 0;
	*yes = true;
	return file->read(file->ctx, h->e.e_phoff, h->p, h->e.e_phnum * sizeof(h->p[0]));
}

/* Look through the notes of one segment. Return: true and *entry. */
static bool search_notes(const uint8_t *notes, uint64_t size, uint64_t align, uint32_t *entry)
{
	Elf64_Nhdr n;
	uint64_t at = 0;

	while (size - at >= sizeof(n)) {
		uint64_t name, value;

		memcpy(&n, notes + at, sizeof(n));
		name = at + sizeof(n);
		value = align_up(name + n.n_namesz, align);
		if (value > size || n.n_descsz > size - value)
			return false;
		if (n.n_type == NOTE_ENTRY_32 && n.n_namesz == sizeof(NOTE_OWNER) &&
		    memcmp(notes + name, NOTE_OWNER, sizeof(NOTE_OWNER)) == 0 &&
		    n.n_descsz >= sizeof(*entry)) {
			memcpy(entry, notes + value, sizeof(*entry));
			return true;
		}
		at = min_u64(align_up(value + n.n_descsz, align), size);
	}
	return false;
}

static int find_entry(const struct arch_reader *file, const struct headers *h, bool *yes,
                      uint32_t *entry)
{
	uint8_t notes[NOTES_MAX];

	*yes = false;
	for (size_t i = 0; i < h->e.e_phnum && !*yes; i++) {
		const Elf64_Phdr *p = &h->p[i];
		int err;

		if (p->p_type != PT_NOTE || p->p_filesz > sizeof(notes) ||
		    !in_file(file, p->p_offset, p->p_filesz))
			continue;
		err = file->read(file->ctx, p->p_offset, notes, p->p_filesz);
		if (err)
			return err;
		*yes = search_notes(notes, p->p_filesz, p->p_align == 8 ? 8 : 4, entry);
	}
	return 0;
}

static int probe(const struct arch_reader *file, bool *yes)
{
	struct headers h;
	uint32_t entry;
	int err = read_headers(file, &h, yes);

	return err || !*yes ? err : find_entry(file, &h, yes, &entry);
}

/* ---- plan ---- */

/* Segments that take up no memory are not there. */
static bool is_loaded(const Elf64_Phdr *p)
{
	return p->p_type == PT_LOAD && p->p_memsz > 0;
}

static int check_segment(const struct x86_plan *p, const struct headers *h, size_t index)
{
	const Elf64_Phdr *s = &h->p[index];
	const char *name = p->k->image.name;

	if (!in_file(&p->k->image, s->p_offset, s->p_filesz))
		return x86_explain(p->why, -ENOEXEC,
		                   "%s is truncated: program header %zu names %" PRIu64
		                   " bytes at offset %" PRIu64 ", the file has %" PRIu64,
		                   name, index, s->p_filesz, s->p_offset, p->k->image.size);
	if (s->p_filesz > s->p_memsz || s->p_memsz > UINT64_MAX - s->p_paddr ||
	    s->p_paddr < X86_LOAD_MIN)
		return x86_explain(p->why, -ENOEXEC,
		                   "%s is a damaged kernel: program header %zu has %#" PRIx64
		                   " bytes at %#" PRIx64,
		                   name, index, s->p_memsz, s->p_paddr);
	if (s->p_paddr + s->p_memsz > x86_low_end(p->k))
		return x86_explain(p->why, -ENOSPC,
		                   "%s does not fit RAM: it needs memory up to %#" PRIx64
		                   ", RAM ends at %#" PRIx64 "; more may help (--mem)",
		                   name, s->p_paddr + s->p_memsz, x86_low_end(p->k));
	for (size_t i = 0; i < index; i++)
		if (is_loaded(&h->p[i]) && s->p_paddr < h->p[i].p_paddr + h->p[i].p_memsz &&
		    h->p[i].p_paddr < s->p_paddr + s->p_memsz)
			return x86_explain(p->why, -ENOEXEC,
			                   "%s is a damaged kernel: program headers %zu and %zu "
			                   "overlap",
			                   name, i, index);
	return 0;
}

static int plan_segments(struct x86_plan *p, const struct headers *h)
{
	uint64_t low = UINT64_MAX, high = 0;

	for (size_t i = 0; i < h->e.e_phnum; i++) {
		const Elf64_Phdr *s = &h->p[i];
		int err;

		if (!is_loaded(s))
			continue;
		err = check_segment(p, h, i);
		if (err)
			return err;
		if (p->pieces == X86_PIECES_MAX)
			return x86_explain(p->why, -ENOEXEC, "%s has more than %u segments",
			                   p->k->image.name, X86_PIECES_MAX);
		p->piece[p->pieces++] = (struct x86_piece){s->p_offset, s->p_filesz, s->p_paddr};
		low = min_u64(low, s->p_paddr);
		high = max_u64(high, s->p_paddr + s->p_memsz);
	}
	p->kernel = (struct gpa_range){{low}, high > low ? high - low : 0};
	return 0;
}

/* Only bytes of the file can be code. */
static int check_entry(const struct x86_plan *p)
{
	for (size_t i = 0; i < p->pieces; i++)
		if (p->start >= p->piece[i].to && p->start - p->piece[i].to < p->piece[i].size)
			return 0;
	return x86_explain(p->why, -ENOEXEC,
	                   "%s has its PVH entry point %#" PRIx64 " outside what is loaded",
	                   p->k->image.name, p->start);
}

static int plan(struct x86_plan *p)
{
	struct headers h;
	uint32_t entry = 0;
	bool yes;
	int err = read_headers(&p->k->image, &h, &yes);

	if (!err && yes)
		err = find_entry(&p->k->image, &h, &yes, &entry);
	if (err || !yes)
		return x86_explain(p->why, err ? err : -ENOEXEC, "%s changed while it was read",
		                   p->k->image.name);
	p->start = entry;
	p->initrd_end = INITRD_END;
	p->cmdline_max = CMDLINE_MAX;
	err = plan_segments(p, &h);
	return err ? err : check_entry(p);
}

/* ---- boot information ---- */

static int inform(const struct x86_plan *p, const struct arch_writer *w)
{
	struct info info = {
		.start =
			{
				.magic = START_MAGIC,
				.version = 1,
				.modules = p->initrd ? 1 : 0,
				.module_list =
					p->initrd ? X86_PVH_INFO + offsetof(struct info, initrd)
						  : 0,
				.cmdline = X86_CMDLINE,
				.rsdp = X86_ACPI,
				.map = X86_PVH_INFO + offsetof(struct info, map),
				.map_entries = (uint32_t)p->map.count,
			},
		.initrd = {.start = p->initrd, .size = p->k->initrd.size},
	};

	for (size_t i = 0; i < p->map.count; i++)
		info.map[i] = (struct map_entry){
			.start = p->map.entry[i].start,
			.size = p->map.entry[i].size,
			.type = p->map.entry[i].type,
		};
	return w->write(w->ctx, (gpa_t){X86_PVH_INFO}, &info, sizeof(info));
}

const struct x86_kernel_format x86_pvh = {
	.name = "PVH ELF",
	.mode = X86_START_PROTECTED,
	.info = X86_PVH_INFO,
	.probe = probe,
	.plan = plan,
	.inform = inform,
};
