// SPDX-License-Identifier: MIT
/*
 * vmm/elf.c - static ELF64 programs into guest memory.
 *
 * Two passes: the first reads headers and checks all of them into a small table of segments, the
 * second copies file bytes through a bounce buffer with space_write().
 *
 * Invariants:
 *   1. no byte of the file is believed before it is compared with the file's length, the RAM
 *      layout or the other segments
 *   2. the file is read, never mapped: one that shrinks meanwhile gives an error, not a signal
 *   3. a guest page that holds only bss is not touched; fresh memory reads as zero already
 *
 * Concurrency: keeps no state; one call belongs to one thread.
 *
 * Not done here: relocation, dynamic linking, symbols, notes, TLS set-up (the guest's runtime
 * has its own).
 */
#include "vmm/elf.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/fileio.h"
#include "vmm/hostlimit.h"

#define ELF_MAX_HEADERS 64u
#define ELF_COPY_CHUNK  (UINT64_C(256) << 10)

struct segment {
	struct gpa_range mem; /* memsz bytes at p_paddr */
	uint64_t vaddr;
	uint64_t offset; /* in the file */
	uint64_t filesz;
	bool exec;
};

struct loader {
	struct space *space;
	const char *path;
	int fd;
	uint64_t file_size;
	char *why;
	size_t why_size;

	Elf64_Ehdr ehdr;
	struct segment segments[ELF_MAX_HEADERS];
	size_t count;
};

/* ISA names for messages: a refused file should say what it is. */
static const struct {
	uint32_t isa;
	const char *name;
} isa_names[] = {
	{EM_386, "i386"},      {EM_X86_64, "x86_64"},
	{EM_ARM, "arm"},       {EM_AARCH64, "aarch64"},
	{EM_RISCV, "riscv"},   {EM_PPC64, "ppc64"},
	{EM_S390, "s390"},     {EM_MIPS, "mips"},
	{EM_SPARCV9, "sparc"}, {EM_LOONGARCH, "loongarch"},
};

static const char *isa_name(uint32_t isa)
{
	for (size_t i = 0; i < sizeof(isa_names) / sizeof(isa_names[0]); i++) {
		if (isa_names[i].isa == isa)
			return isa_names[i].name;
	}
	return "unknown";
}

/* Fill `why` with "<path> <text>" and pass `code` on. */
__attribute__((format(printf, 3, 4))) static int refuse(struct loader *l, int code,
                                                        const char *format, ...)
{
	va_list args;
	int n;

	if (l->why_size == 0)
		return code;
	n = snprintf(l->why, l->why_size, "%s ", l->path);
	if (n < 0 || (size_t)n >= l->why_size)
		return code;
	va_start(args, format);
	vsnprintf(l->why + n, l->why_size - (size_t)n, format, args);
	va_end(args);
	return code;
}

/* Read exactly `size` bytes; `what` names them in the message. */
static int read_exact(struct loader *l, void *to, size_t size, uint64_t offset, const char *what)
{
	size_t got;
	int err = fileio_read_at(l->fd, to, size, offset, &got);

	if (err)
		return refuse(l, err, "cannot be read at offset %" PRIu64 ": %s", offset,
		              strerror(-err));
	if (got < size)
		return refuse(l, -ENOEXEC,
		              "is truncated: %s ends at offset %" PRIu64 ", the file at %" PRIu64,
		              what, offset + size, offset + got);
	return 0;
}

static int check_ident(struct loader *l, size_t got)
{
	const unsigned char *id = l->ehdr.e_ident;

	if (got < SELFMAG || memcmp(id, ELFMAG, SELFMAG) != 0)
		return refuse(l, -ENOEXEC, "is not an ELF file");
	if (got < sizeof(l->ehdr))
		return refuse(l, -ENOEXEC, "is truncated: %zu bytes, the ELF header alone is %zu",
		              got, sizeof(l->ehdr));
	if (id[EI_CLASS] != ELFCLASS64)
		return refuse(l, -ENOEXEC, "is not a 64-bit ELF (class %u)", id[EI_CLASS]);
	if (id[EI_DATA] != ELFDATA2LSB)
		return refuse(l, -ENOEXEC, "is not a little-endian ELF (data encoding %u)",
		              id[EI_DATA]);
	if (id[EI_VERSION] != EV_CURRENT || l->ehdr.e_version != EV_CURRENT)
		return refuse(l, -ENOEXEC, "is an ELF of version %" PRIu32 ", known is %d",
		              l->ehdr.e_version, EV_CURRENT);
	return 0;
}

static int check_type(struct loader *l, uint32_t isa)
{
	const Elf64_Ehdr *e = &l->ehdr;

	if (e->e_machine != isa)
		return refuse(l, -ENOEXEC, "is an ELF for machine %u (%s), this is %s",
		              e->e_machine, isa_name(e->e_machine), isa_name(isa));
	if (e->e_type == ET_DYN)
		return refuse(l, -ENOEXEC,
		              "is position-independent (ET_DYN): "
		              "link it with -static -no-pie");
	if (e->e_type == ET_REL)
		return refuse(l, -ENOEXEC, "is an object file (ET_REL): link it first");
	if (e->e_type != ET_EXEC)
		return refuse(l, -ENOEXEC, "is not an executable (ELF type %u)", e->e_type);
	return 0;
}

static int check_header(struct loader *l, uint32_t isa)
{
	const Elf64_Ehdr *e = &l->ehdr;
	uint64_t table;
	size_t got;
	int err;

	err = fileio_read_at(l->fd, &l->ehdr, sizeof(l->ehdr), 0, &got);
	if (err)
		return refuse(l, err, "cannot be read: %s", strerror(-err));
	err = check_ident(l, got);
	if (err)
		return err;
	err = check_type(l, isa);
	if (err)
		return err;

	if (e->e_phnum == 0)
		return refuse(l, -ENOEXEC, "has no program headers: nothing to load");
	if (e->e_phentsize != sizeof(Elf64_Phdr))
		return refuse(l, -ENOEXEC, "has program headers of %u bytes, %zu expected",
		              e->e_phentsize, sizeof(Elf64_Phdr));
	if (e->e_phnum > ELF_MAX_HEADERS)
		return refuse(l, -ENOEXEC, "has %u program headers, at most %u are accepted",
		              e->e_phnum, ELF_MAX_HEADERS);
	table = (uint64_t)e->e_phnum * sizeof(Elf64_Phdr);
	if (e->e_phoff > l->file_size || table > l->file_size - e->e_phoff)
		return refuse(l, -ENOEXEC,
		              "is truncated: the program header table (offset %" PRIu64 ", %" PRIu64
		              " bytes) does not fit the file's %" PRIu64 " bytes",
		              e->e_phoff, table, l->file_size);
	return 0;
}

/* RAM may come in regions that touch: walk them with a cursor. */
static bool ram_covers(const struct space *s, struct gpa_range r)
{
	size_t count;
	const struct ram_region *ram = space_ram(s, &count);
	uint64_t at = r.start.v;

	for (size_t i = 0; i < count && at < gpa_range_end(r); i++) {
		if (gpa_range_has(ram[i].range, (gpa_t){at}))
			at = gpa_range_end(ram[i].range);
	}
	return at >= gpa_range_end(r);
}

static int check_overlap(struct loader *l, size_t index, struct gpa_range mem)
{
	for (size_t i = 0; i < l->count; i++) {
		if (gpa_range_overlaps(l->segments[i].mem, mem))
			return refuse(l, -ENOEXEC,
			              "program header %zu: segment at 0x%" PRIx64
			              " overlaps the one at 0x%" PRIx64,
			              index, mem.start.v, l->segments[i].mem.start.v);
	}
	return 0;
}

static int check_segment(struct loader *l, size_t index, const Elf64_Phdr *p, gpa_t load_min)
{
	struct gpa_range mem;
	int err;

	if (p->p_filesz > p->p_memsz)
		return refuse(l, -ENOEXEC,
		              "program header %zu: %" PRIu64 " bytes in the file do "
		              "not fit %" PRIu64 " in memory",
		              index, p->p_filesz, p->p_memsz);
	if (p->p_offset > l->file_size || p->p_filesz > l->file_size - p->p_offset)
		return refuse(l, -ENOEXEC,
		              "is truncated: program header %zu names %" PRIu64
		              " bytes at offset %" PRIu64 ", the file has %" PRIu64,
		              index, p->p_filesz, p->p_offset, l->file_size);
	if (p->p_memsz == 0)
		return 0;
	if (gpa_range_make(p->p_paddr, p->p_memsz, 1, &mem) || p->p_vaddr + p->p_memsz < p->p_vaddr)
		return refuse(l, -ENOEXEC,
		              "program header %zu: 0x%" PRIx64 " bytes at 0x%" PRIx64
		              " overflow the address space",
		              index, p->p_memsz, p->p_paddr);
	if (mem.start.v < load_min.v)
		return refuse(l, -ENOEXEC,
		              "program header %zu: segment at 0x%" PRIx64 " lies below 0x%" PRIx64
		              ", the lowest load address",
		              index, mem.start.v, load_min.v);
	if (!ram_covers(l->space, mem))
		return refuse(l, -ENOEXEC,
		              "program header %zu: segment 0x%" PRIx64 "..0x%" PRIx64
		              " lies outside RAM; more may help (--mem)",
		              index, mem.start.v, gpa_range_end(mem));
	err = check_overlap(l, index, mem);
	if (err)
		return err;
	l->segments[l->count++] = (struct segment){
		.mem = mem,
		.vaddr = p->p_vaddr,
		.offset = p->p_offset,
		.filesz = p->p_filesz,
		.exec = (p->p_flags & PF_X) != 0,
	};
	return 0;
}

static int check_segments(struct loader *l, gpa_t load_min)
{
	Elf64_Phdr table[ELF_MAX_HEADERS] = {0};
	size_t count = l->ehdr.e_phnum;
	int err;

	err = read_exact(l, table, count * sizeof(table[0]), l->ehdr.e_phoff,
	                 "the program header table");
	for (size_t i = 0; !err && i < count; i++) {
		if (table[i].p_type == PT_INTERP || table[i].p_type == PT_DYNAMIC)
			err = refuse(l, -ENOEXEC, "is dynamically linked: link it with -static");
		else if (table[i].p_type == PT_LOAD)
			err = check_segment(l, i, &table[i], load_min);
	}
	if (!err && l->count == 0)
		err = refuse(l, -ENOEXEC, "has no loadable segment");
	return err;
}

/*
 * e_entry is a virtual address by the gABI, but kernels linked high put the physical one there:
 * look among virtual addresses first. Only bytes that come from the file can be code.
 */
static int find_entry(struct loader *l, gpa_t *entry)
{
	uint64_t e = l->ehdr.e_entry;

	for (size_t i = 0; i < l->count; i++) {
		const struct segment *g = &l->segments[i];

		if (g->exec && e >= g->vaddr && e - g->vaddr < g->filesz) {
			entry->v = g->mem.start.v + (e - g->vaddr);
			return 0;
		}
	}
	for (size_t i = 0; i < l->count; i++) {
		const struct segment *g = &l->segments[i];

		if (g->exec && e >= g->mem.start.v && e - g->mem.start.v < g->filesz) {
			entry->v = e;
			return 0;
		}
	}
	return refuse(l, -ENOEXEC,
	              "has its entry point 0x%" PRIx64 " outside every executable segment", e);
}

static int put(struct loader *l, uint64_t to, const void *from, size_t size)
{
	int err = space_write(l->space, (gpa_t){to}, from, size);

	if (err)
		return refuse(l, err, "cannot be loaded at 0x%" PRIx64 ": %s", to, strerror(-err));
	return 0;
}

static int copy_segment(struct loader *l, const struct segment *g, void *buffer)
{
	uint64_t file_end = g->mem.start.v + g->filesz;
	uint64_t tail;

	for (uint64_t done = 0; done < g->filesz;) {
		size_t n = min_u64(g->filesz - done, ELF_COPY_CHUNK);
		int err = read_exact(l, buffer, n, g->offset + done, "a segment");

		if (!err)
			err = put(l, g->mem.start.v + done, buffer, n);
		if (err)
			return err;
		done += n;
	}
	if (g->filesz == 0)
		return 0;
	/* This page is touched anyway; whole pages of bss stay untouched. */
	tail = min_u64(-file_end & (MM_PAGE_SIZE - 1), gpa_range_end(g->mem) - file_end);
	if (tail == 0)
		return 0;
	memset(buffer, 0, tail);
	return put(l, file_end, buffer, tail);
}

static int copy_segments(struct loader *l, struct elf_image *out)
{
	void *buffer = malloc(ELF_COPY_CHUNK);
	int err = 0;

	if (!buffer)
		return refuse(l, -ENOMEM, "cannot be loaded: %s", strerror(ENOMEM));
	out->low = (gpa_t){UINT64_MAX};
	out->high = (gpa_t){0};
	for (size_t i = 0; !err && i < l->count; i++) {
		const struct segment *g = &l->segments[i];

		err = copy_segment(l, g, buffer);
		out->low.v = min_u64(out->low.v, g->mem.start.v);
		out->high.v = max_u64(out->high.v, gpa_range_end(g->mem));
	}
	free(buffer);
	return err;
}

/* O_NONBLOCK: a FIFO must not make us wait for a writer before we can refuse it. */
static int open_file(struct loader *l)
{
	char why[HOSTLIMIT_TEXT_MAX];
	struct stat st;
	int err;

	l->fd = open(l->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (l->fd < 0) {
		err = -errno;
		return refuse(l, err, "cannot be opened: %s", hostlimit_why(err, 0, why));
	}
	if (fstat(l->fd, &st)) {
		err = -errno;
		refuse(l, err, "cannot be examined: %s", strerror(-err));
		goto err_close;
	}
	if (!S_ISREG(st.st_mode)) {
		err = refuse(l, -ENOEXEC, "is not a regular file");
		goto err_close;
	}
	l->file_size = (uint64_t)st.st_size;
	return 0;

err_close:
	close(l->fd);
	return err;
}

int elf_load(struct space *s, const char *path, uint32_t isa, gpa_t load_min, struct elf_image *out,
             char *why, size_t why_size)
{
	struct loader l = {.space = s, .path = path, .why = why, .why_size = why_size};
	struct elf_image image;
	int err;

	err = open_file(&l);
	if (err)
		return err;
	err = check_header(&l, isa);
	if (!err)
		err = check_segments(&l, load_min);
	if (!err)
		err = find_entry(&l, &image.entry);
	if (!err)
		err = copy_segments(&l, &image);
	if (!err)
		*out = image;
	close(l.fd);
	return err;
}
