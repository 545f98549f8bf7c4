// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_pvh_boot.c - PVH kernels into memory, and kernels of both kinds from files.
 *
 * One good image, then each refusal by one change to it.
 */
#include <criterion/criterion.h>
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mm/pool.h"
#include "mm/space.h"
#include "tests/unit/boot_case.h"
#include "vmm/kernel.h"

#define NOTES_OFF 0x400u
#define TEXT_OFF  0x1000u
#define TEXT_LEN  0x2345u
#define DATA_OFF  0x4000u
#define DATA_LEN  0x100u
#define DATA_MEM  0x9000u
#define TEXT      (2 * MIB)
#define DATA      (3 * MIB)
#define PVH_ENTRY (TEXT + 0x40)
#define E_PHNUM   offsetof(Elf64_Ehdr, e_phnum)
#define PH(n, f)  (sizeof(Elf64_Ehdr) + (n) * sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, f))

static void put_note(size_t *at, const char *owner, uint32_t type, const void *value, uint32_t size)
{
	uint32_t owner_size = (uint32_t)strlen(owner) + 1;

	bc_put32(*at, owner_size);
	bc_put32(*at + 4, size);
	bc_put32(*at + 8, type);
	memcpy(bc.image + *at + 12, owner, owner_size);
	*at += 12 + (owner_size + 3) / 4 * 4;
	memcpy(bc.image + *at, value, size);
	*at += (size + 3) / 4 * 4;
}

static void make_pvh(void)
{
	const uint64_t at_entry = PVH_ENTRY;
	size_t at = NOTES_OFF;
	Elf64_Ehdr e = {
		.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_entry = TEXT,
		.e_phoff = sizeof(e),
		.e_ehsize = sizeof(e),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 3,
	};
	Elf64_Phdr p[] = {
		{PT_LOAD, PF_R | PF_X, TEXT_OFF, UINT64_MAX - 2 * GIB + 1, TEXT, TEXT_LEN, TEXT_LEN,
	         4096},
		{PT_LOAD, PF_R | PF_W, DATA_OFF, 0, DATA, DATA_LEN, DATA_MEM, 4096},
		{PT_NOTE, PF_R, NOTES_OFF, 0, 0, 0, 0, 4},
	};

	bc_setup();
	/* Near misses first: another type, another owner. */
	put_note(&at, "GNU", 18, "abcdefg", 7);
	put_note(&at, "Xen", 17, "\1\2\3\4", 4);
	put_note(&at, "Xen", 18, &at_entry, 8);
	p[2].p_filesz = p[2].p_memsz = at - NOTES_OFF;
	memcpy(bc.image, &e, sizeof(e));
	memcpy(bc.image + sizeof(e), p, sizeof(p));
}

TestSuite(pvh_boot, .init = make_pvh, .fini = bc_free);

Test(pvh_boot, segments_and_entry)
{
	const char *format;

	make_pvh();
	cr_assert_eq(arch_kernel_probe(&bc.kernel.image, &format), 0);
	cr_assert_str_eq(format, "PVH ELF");
	bc_loads();
	cr_assert_eq(bc.entry.start.v, PVH_ENTRY);
	cr_assert_eq(memcmp(bc.ram + TEXT, bc.image + TEXT_OFF, TEXT_LEN), 0);
	cr_assert_eq(memcmp(bc.ram + DATA, bc.image + DATA_OFF, DATA_LEN), 0);
	cr_assert_not(bc.written[(DATA + 4096) / 4096], "bss");
	cr_assert_not(bc.written[0x10000 / 4096], "page tables it does not use");
}

Test(pvh_boot, segments_in_any_order)
{
	bc_put64(PH(1, p_paddr), TEXT - DATA_MEM);
	bc_loads();
	cr_assert_eq(memcmp(bc.ram + TEXT - DATA_MEM, bc.image + DATA_OFF, DATA_LEN), 0);
	bc_put64(PH(1, p_paddr), TEXT + TEXT_LEN);
	bc_loads();
	cr_assert_eq(memcmp(bc.ram + TEXT + TEXT_LEN, bc.image + DATA_OFF, DATA_LEN), 0);
	cr_assert_eq(memcmp(bc.ram + TEXT, bc.image + TEXT_OFF, TEXT_LEN), 0);
}

Test(pvh_boot, start_info)
{
	static const struct gpa_range pmem = {{4 * GIB}, 2 * MIB};
	uint64_t info, map, module;

	make_pvh();
	bc.kernel.pmem = &pmem;
	bc.kernel.pmem_count = 1;
	bc_loads();
	info = bc.entry.info.v;
	cr_assert_eq(bc_get(info, 4), 0x336ec578);
	cr_assert_eq(bc_get(info + 4, 4), 1);
	cr_assert_eq(bc_get(info + 8, 4), 0);
	cr_assert_eq(bc_get(info + 12, 4), 1);
	module = bc_get(info + 16, 8);
	cr_assert_eq(bc_get(module, 8), align_down(RAM_SIZE - INITRD_SIZE, 4096));
	cr_assert_eq(bc_get(module + 8, 8), INITRD_SIZE);
	cr_assert_eq(memcmp(bc.ram + bc_get(module, 8), bc.initrd, INITRD_SIZE), 0);
	cr_assert_str_eq((char *)bc.ram + bc_get(info + 24, 8), bc.kernel.cmdline);
	cr_assert_eq(memcmp(bc.ram + bc_get(info + 32, 8), "RSD PTR ", 8), 0);
	map = bc_get(info + 40, 8);
	cr_assert_eq(bc_get(info + 48, 4), 6);
	cr_assert(bc_get(map + 3 * 24, 8) == MIB && bc_get(map + 3 * 24 + 8, 8) == RAM_SIZE - MIB &&
	          bc_get(map + 3 * 24 + 16, 4) == 1);
	cr_assert(bc_get(map + 5 * 24, 8) == 4 * GIB && bc_get(map + 5 * 24 + 8, 8) == 2 * MIB &&
	          bc_get(map + 5 * 24 + 16, 4) == 12);
}

Test(pvh_boot, without_an_initrd)
{
	make_pvh();
	bc.kernel.initrd.size = 0;
	bc_loads();
	cr_assert_eq(bc_get(bc.entry.info.v + 12, 4), 0);
	cr_assert_eq(bc_get(bc.entry.info.v + 16, 8), 0);
}

/* Program headers of one note less are a plain program's. */
Test(pvh_boot, an_elf_without_the_note_is_a_program)
{
	static const struct {
		size_t at, size;
		uint64_t value;
	} cases[] = {
		{E_PHNUM, 2, 2},
		{PH(2, p_type), 4, PT_NULL},
		{PH(2, p_filesz), 8, 30},
		{PH(2, p_filesz), 8, 67},   /* a byte of the value is missing */
		{PH(2, p_filesz), 8, 4097}, /* more than notes ever are */
		{PH(2, p_filesz), 8, UINT64_MAX},
		{PH(2, p_offset), 8, IMAGE_SIZE},
		{PH(2, p_offset), 8, UINT64_MAX},
		{NOTES_OFF, 4, UINT32_MAX},     /* the first note's owner has no end */
		{NOTES_OFF + 4, 4, UINT32_MAX}, /* nor its value */
		{EI_CLASS, 1, ELFCLASS32},
		{EI_DATA, 1, ELFDATA2MSB},
		{offsetof(Elf64_Ehdr, e_machine), 2, EM_AARCH64},
		{offsetof(Elf64_Ehdr, e_type), 2, ET_DYN},
		{offsetof(Elf64_Ehdr, e_phentsize), 2, 32},
		{offsetof(Elf64_Ehdr, e_phoff), 8, IMAGE_SIZE},
		{offsetof(Elf64_Ehdr, e_phoff), 8, UINT64_MAX},
		{E_PHNUM, 2, 65},
		{E_PHNUM, 2, 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *format = "?";

		make_pvh();
		memcpy(bc.image + cases[i].at, &cases[i].value, cases[i].size);
		cr_assert_eq(arch_kernel_probe(&bc.kernel.image, &format), 0, "case %zu", i);
		cr_assert_null(format, "case %zu", i);
	}
}

Test(pvh_boot, bad_pvh_kernels_are_refused)
{
	static const struct {
		size_t at, size;
		uint64_t value;
		int err;
		const char *said;
	} cases[] = {
		{PH(0, p_offset), 8, IMAGE_SIZE, -ENOEXEC, "truncated: program header 0"},
		{PH(0, p_offset), 8, UINT64_MAX, -ENOEXEC, "truncated"},
		{PH(1, p_filesz), 8, IMAGE_SIZE, -ENOEXEC, "truncated: program header 1"},
		{PH(1, p_filesz), 8, DATA_MEM + 1, -ENOEXEC, "damaged"},
		{PH(1, p_memsz), 8, UINT64_MAX, -ENOEXEC, "damaged"},
		{PH(1, p_paddr), 8, MIB - 4096, -ENOEXEC, "damaged"},
		{PH(1, p_paddr), 8, 0, -ENOEXEC, "damaged"},
		{PH(1, p_paddr), 8, TEXT + TEXT_LEN - 1, -ENOEXEC, "0 and 1 overlap"},
		{PH(1, p_paddr), 8, TEXT - DATA_MEM + 1, -ENOEXEC, "0 and 1 overlap"},
		{PH(1, p_paddr), 8, RAM_SIZE - DATA_MEM + 1, -ENOSPC, "does not fit RAM"},
		{PH(1, p_paddr), 8, 3 * GIB, -ENOSPC, "does not fit RAM"},
		{PH(0, p_type), 4, PT_NULL, -ENOEXEC, "entry point"},
		{PH(0, p_filesz), 8, 0x40, -ENOEXEC, "entry point"},
		{PH(0, p_paddr), 8, PVH_ENTRY + 1, -ENOEXEC, "entry point"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		make_pvh();
		memcpy(bc.image + cases[i].at, &cases[i].value, cases[i].size);
		bc_refused(cases[i].err, cases[i].said);
	}
}

Test(pvh_boot, command_lines_have_a_limit)
{
	static char line[2049];

	make_pvh();
	bc.kernel.cmdline = line;
	memset(line, 'x', 2048);
	bc_refused(-E2BIG, "2048 characters");
	line[2047] = '\0';
	bc_loads();
}

/* ---- from files into a space ---- */

TestSuite(kernel_files, .init = bc_make_bzimage, .fini = bc_free);

static char paths[2][64];

static void write_file(int which, const void *bytes, size_t size)
{
	int fd;

	strcpy(paths[which], "/tmp/cowslip-bc.kernel.XXXXXX");
	fd = mkstemp(paths[which]);
	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, bytes, size), (ssize_t)size);
	close(fd);
}

static void expect_kind(int err, enum kernel_kind kind, const char *format)
{
	enum kernel_kind found = KERNEL_PROGRAM;
	const char *name = NULL;
	int got = kernel_probe(paths[0], &found, &name, bc.why, sizeof(bc.why));

	cr_assert_eq(got, err, "%d: %s", got, bc.why);
	unlink(paths[0]);
	if (err)
		return;
	cr_assert_eq(found, kind);
	cr_assert_str_eq(name, format);
}

Test(kernel_files, files_say_what_they_are)
{
	write_file(0, bc.image, IMAGE_SIZE);
	expect_kind(0, KERNEL_SYSTEM, "bzImage");
	make_pvh();
	write_file(0, bc.image, IMAGE_SIZE);
	expect_kind(0, KERNEL_SYSTEM, "PVH ELF");
	bc_put16(E_PHNUM, 2);
	write_file(0, bc.image, IMAGE_SIZE);
	expect_kind(0, KERNEL_PROGRAM, "ELF");
	write_file(0, "#!/bin/sh\n", 10);
	expect_kind(-ENOEXEC, KERNEL_PROGRAM, NULL);
	cr_assert_not_null(strstr(bc.why, "is not an ELF file"), "%s", bc.why);
	write_file(0, "", 0);
	expect_kind(-ENOEXEC, KERNEL_PROGRAM, NULL);
	strcpy(paths[0], "/nonexistent/vmlinuz");
	expect_kind(-ENOENT, KERNEL_PROGRAM, NULL);
	strcpy(paths[0], "/tmp");
	cr_assert_eq(kernel_probe("/tmp", &(enum kernel_kind){0}, NULL, bc.why, sizeof(bc.why)),
	             -ENOEXEC);
	cr_assert_str_eq(bc.why, "/tmp is not a regular file");
}

struct files_case {
	struct pool *pool;
	struct space *space;
	struct kernel_machine machine;
	struct kernel_files files;
};

static struct files_case files_make(const void *initrd_bytes, size_t size)
{
	struct files_case f = {
		.machine = {.ram = bc_one_region, .ram_count = 1, .cpus = 1},
		.files = {paths[0], paths[1], NULL},
	};
	struct space_config config = {
		.ram = bc_one_region, .ram_count = 1, .faults = FAULTS_KERNEL};

	write_file(0, bc.image, IMAGE_SIZE);
	write_file(1, initrd_bytes, size);
	cr_assert_eq(pool_create(RAM_SIZE, &f.pool), 0);
	config.pool = f.pool;
	cr_assert_eq(space_create(&config, &f.space), 0);
	return f;
}

static void files_free(struct files_case *f)
{
	unlink(paths[0]);
	unlink(paths[1]);
	cr_expect_eq(space_audit(f->space), 0);
	space_destroy(f->space);
	cr_expect_eq(pool_audit(f->pool), 0);
	pool_put(f->pool);
}

static int files_load(const struct files_case *f)
{
	return kernel_load(f->space, &f->files, &f->machine, &bc.entry, bc.why, sizeof(bc.why));
}

Test(kernel_files, files_into_a_space)
{
	struct files_case f = files_make(bc.initrd, INITRD_SIZE);
	uint8_t found[SYSSIZE * 16];
	uint32_t at = 0;

	cr_assert_eq(files_load(&f), 0, "%s", bc.why);
	cr_assert_eq(bc.entry.start.v, PREF + 0x200);
	cr_assert_eq(space_read(f.space, (gpa_t){PREF}, found, sizeof(found)), 0);
	cr_assert_eq(memcmp(found, bc.image + PAYLOAD, sizeof(found)), 0);
	cr_assert_eq(space_read(f.space, (gpa_t){bc.entry.info.v + H_RAMDISK}, &at, 4), 0);
	cr_assert_eq(space_read(f.space, (gpa_t){at}, found, INITRD_SIZE), 0);
	cr_assert_eq(memcmp(found, bc.initrd, INITRD_SIZE), 0);
	files_free(&f);
}

Test(kernel_files, files_that_are_not_there)
{
	struct files_case f = files_make(bc.initrd, INITRD_SIZE);

	f.files.initrd = "/nonexistent/initrd";
	cr_assert_eq(files_load(&f), -ENOENT);
	cr_assert_str_eq(bc.why, "/nonexistent/initrd cannot be opened: No such file or directory");
	f.files.initrd = "/dev/null";
	cr_assert_eq(files_load(&f), -ENOEXEC);
	cr_assert_str_eq(bc.why, "/dev/null is not a regular file");
	f.files.path = "/nonexistent/vmlinuz";
	cr_assert_eq(files_load(&f), -ENOENT);
	cr_assert_str_eq(bc.why,
	                 "/nonexistent/vmlinuz cannot be opened: No such file or directory");
	files_free(&f);
}

Test(kernel_files, an_empty_initrd_is_refused)
{
	struct files_case f = files_make(bc.initrd, 0);

	cr_assert_eq(files_load(&f), -ENOEXEC);
	cr_assert_not_null(strstr(bc.why, "is empty"), "%s", bc.why);
	files_free(&f);
}

/* A file of sysfs says it has a page of bytes and has a few: as one that shrank meanwhile. */
Test(kernel_files, a_file_shorter_than_it_was_is_refused)
{
	struct files_case f = files_make(bc.initrd, INITRD_SIZE);

	f.files.initrd = "/sys/kernel/uevent_seqnum";
	cr_assert_eq(files_load(&f), -ENODATA);
	cr_assert_not_null(strstr(bc.why, "uevent_seqnum cannot be read"), "%s", bc.why);
	files_free(&f);
}

/* RAM the loader is told of but the space does not have. */
Test(kernel_files, writes_beyond_the_space_fail)
{
	static const struct ram_region more[] = {{{{0}, 2 * RAM_SIZE}, PAGE_SIZE_AUTO}};
	struct files_case f = files_make(bc.initrd, INITRD_SIZE);

	f.machine.ram = more;
	cr_assert_eq(files_load(&f), -EFAULT);
	cr_assert_not_null(strstr(bc.why, "cannot be loaded at"), "%s", bc.why);
	files_free(&f);
}
