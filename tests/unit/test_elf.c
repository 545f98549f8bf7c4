// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_elf.c - the ELF loader: what it loads, where, and everything it must refuse.
 *
 * Files are made here byte by byte: one good program, then each refusal by one change to it.
 */
#include <criterion/criterion.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mm/pool.h"
#include "mm/space.h"
#include "vmm/elf.h"

#define LOAD_MIN UINT64_C(0x100000)
#define TEXT     UINT64_C(0x200000) /* where the good program's text goes */
#define DATA     UINT64_C(0x301800)
#define TEXT_LEN 5000u
#define DATA_LEN 0x900u   /* ends inside a page */
#define DATA_MEM 0x12000u /* with bss */
#define TEXT_OFF 0x1000u
#define DATA_OFF 0x3000u
#define FILE_LEN (DATA_OFF + DATA_LEN)
#define HEADERS  8u

/* Two regions that touch, and one apart. */
static const struct ram_region ram[] = {
	{{{0}, 4u << 20}, PAGE_SIZE_AUTO},
	{{{4u << 20}, 4u << 20}, PAGE_SIZE_AUTO},
	{{{16u << 20}, 4u << 20}, PAGE_SIZE_AUTO},
};

static struct pool *pool;
static struct space *space;
static char path[64];
static char why[256];
static struct elf_image image;

/* The file: headers by name, all of it by byte. */
static union {
	struct {
		Elf64_Ehdr e;
		Elf64_Phdr p[HEADERS];
	};
	uint8_t bytes[FILE_LEN];
} file;

static void make_good(void)
{
	for (size_t i = 0; i < FILE_LEN; i++)
		file.bytes[i] = (uint8_t)(i * 7 + i / 251 + 1);
	memset(&file.e, 0, sizeof(file.e));
	memset(file.p, 0, sizeof(file.p));
	memcpy(file.e.e_ident, ELFMAG, SELFMAG);
	file.e.e_ident[EI_CLASS] = ELFCLASS64;
	file.e.e_ident[EI_DATA] = ELFDATA2LSB;
	file.e.e_ident[EI_VERSION] = EV_CURRENT;
	file.e.e_type = ET_EXEC;
	file.e.e_machine = EM_X86_64;
	file.e.e_version = EV_CURRENT;
	file.e.e_entry = TEXT + 16;
	file.e.e_phoff = sizeof(file.e);
	file.e.e_ehsize = sizeof(file.e);
	file.e.e_phentsize = sizeof(Elf64_Phdr);
	file.e.e_phnum = 3;
	file.p[0] =
		(Elf64_Phdr){PT_LOAD, PF_R | PF_X, TEXT_OFF, TEXT, TEXT, TEXT_LEN, TEXT_LEN, 4096};
	file.p[1] =
		(Elf64_Phdr){PT_LOAD, PF_R | PF_W, DATA_OFF, DATA, DATA, DATA_LEN, DATA_MEM, 4096};
	file.p[2].p_type = PT_GNU_STACK;
}

/* A new file each time: some file systems flush one that is truncated and written again. */
static void write_file(size_t size)
{
	FILE *f;

	unlink(path);
	f = fopen(path, "we");
	cr_assert_not_null(f);
	cr_assert_eq(fwrite(file.bytes, 1, size, f), size);
	fclose(f);
}

static void setup(void)
{
	struct space_config config = {.ram = ram, .ram_count = 3, .faults = FAULTS_KERNEL};
	int fd;

	strcpy(path, "/tmp/cowslip-elf.XXXXXX");
	fd = mkstemp(path);
	cr_assert_geq(fd, 0);
	close(fd);
	cr_assert_eq(pool_create(64u << 20, &pool), 0);
	config.pool = pool;
	cr_assert_eq(space_create(&config, &space), 0);
	make_good();
}

static void teardown(void)
{
	unlink(path);
	space_destroy(space);
	cr_expect_eq(pool_audit(pool), 0);
	pool_put(pool);
}

static int load_as_is(void)
{
	why[0] = '\0';
	return elf_load(space, path, EM_X86_64, (gpa_t){LOAD_MIN}, &image, why, sizeof(why));
}

static int load(void)
{
	write_file(FILE_LEN);
	return load_as_is();
}

/* Frames with memory behind them: what has been touched, however frames are handed out. */
static uint64_t frames_touched(void)
{
	struct pool_stats s;

	pool_stats(pool, &s);
	return s.committed_frames;
}

static void expect_said(const char *text)
{
	cr_assert_not_null(strstr(why, text), "said: %s", why);
	cr_assert_not_null(strstr(why, path), "said: %s", why);
	cr_assert_null(strchr(why, '\n'));
}

/* Refused, with a word of the reason, and before any guest memory was touched. */
static void expect_refused(const char *text)
{
	int ret = load();

	cr_assert_eq(ret, -ENOEXEC, "%d %s", ret, why);
	expect_said(text);
	cr_assert_eq(frames_touched(), 0);
	make_good();
}

static void expect_bytes(uint64_t gpa, const uint8_t *want, size_t size)
{
	uint8_t *got = malloc(size);

	cr_assert_eq(space_read(space, (gpa_t){gpa}, got, size), 0);
	cr_assert_arr_eq(got, want, size, "at 0x%lx", (unsigned long)gpa);
	free(got);
}

TestSuite(elf, .init = setup, .fini = teardown, .timeout = 60);

Test(elf, loads)
{
	static const uint8_t zeros[DATA_MEM - DATA_LEN];

	cr_assert_eq(load(), 0, "%s", why);
	cr_assert_eq(image.entry.v, TEXT + 16);
	cr_assert_eq(image.low.v, TEXT);
	cr_assert_eq(image.high.v, DATA + DATA_MEM);
	expect_bytes(TEXT, file.bytes + TEXT_OFF, TEXT_LEN);
	expect_bytes(DATA, file.bytes + DATA_OFF, DATA_LEN);
	expect_bytes(DATA + DATA_LEN, zeros, sizeof(zeros));
	cr_assert_eq(space_audit(space), 0);
}

/* bss alone is not touched: no frame is taken for it. */
Test(elf, leaves_bss_alone)
{
	struct space_stats stats;

	file.p[1].p_filesz = 0;
	file.p[1].p_paddr = file.p[1].p_vaddr = 16u << 20;
	file.p[1].p_memsz = 4u << 20;
	cr_assert_eq(load(), 0, "%s", why);
	cr_assert_eq(image.high.v, 20u << 20);
	/* TEXT_LEN takes two pages, or a huge one. */
	cr_assert(frames_touched() > 0 && frames_touched() <= 512);
	cr_assert_eq(space_stats(space, &stats), 0);
	cr_assert_leq(stats.owned_committed, 512);
}

/* The page in which the file's bytes end: zeros up to the segment's end and not beyond. */
Test(elf, zeroes_the_tail_of_a_page)
{
	uint8_t dirty[4096], want[4096];

	memset(dirty, 0xee, sizeof(dirty));
	memcpy(want, dirty, sizeof(want));
	cr_assert_eq(space_write(space, (gpa_t){0x302000}, dirty, sizeof(dirty)), 0);
	file.p[1].p_memsz = DATA_LEN + 0x40;
	memcpy(want, file.bytes + DATA_OFF + 0x800, 0x100);
	memset(want + 0x100, 0, 0x40);
	cr_assert_eq(load(), 0, "%s", why);
	expect_bytes(0x302000, want, sizeof(want));
}

/* Longer than one copy, across two regions that touch. */
Test(elf, crosses_regions_that_touch)
{
	const size_t size = 1u << 20;
	uint8_t *big = malloc(size);
	FILE *f;

	for (size_t i = 0; i < size; i++)
		big[i] = (uint8_t)(i * 31 + (i >> 13));
	file.p[1].p_offset = FILE_LEN;
	file.p[1].p_paddr = (4u << 20) - 12345;
	file.p[1].p_filesz = file.p[1].p_memsz = size;
	write_file(FILE_LEN);
	f = fopen(path, "ae");
	cr_assert_eq(fwrite(big, 1, size, f), size);
	fclose(f);
	cr_assert_eq(load_as_is(), 0, "%s", why);
	expect_bytes((4u << 20) - 12345, big, size);
	free(big);
}

/* Linked to run elsewhere than it is loaded: the entry is given as a physical address. */
Test(elf, entry_is_physical)
{
	file.p[0].p_vaddr = UINT64_C(0xffffffff80000000);
	file.e.e_entry = UINT64_C(0xffffffff80000100);
	cr_assert_eq(load(), 0, "%s", why);
	cr_assert_eq(image.entry.v, TEXT + 0x100);
	file.e.e_entry = TEXT + 0x20;
	cr_assert_eq(load(), 0, "%s", why);
	cr_assert_eq(image.entry.v, TEXT + 0x20);
}

Test(elf, empty_segments_are_skipped)
{
	file.p[2] = (Elf64_Phdr){PT_LOAD, PF_R, 0, 0, 0, 0, 0, 1};
	cr_assert_eq(load(), 0, "%s", why);
	cr_assert_eq(image.low.v, TEXT);
}

Test(elf, refuses_what_is_no_elf)
{
	file.e.e_ident[0] = '#';
	expect_refused("not an ELF file");
	write_file(3);
	cr_assert_eq(load_as_is(), -ENOEXEC);
	expect_said("not an ELF file");
	write_file(0);
	cr_assert_eq(load_as_is(), -ENOEXEC);
	expect_said("not an ELF file");
	file.e.e_ident[EI_CLASS] = ELFCLASS32;
	expect_refused("64-bit");
	file.e.e_ident[EI_DATA] = ELFDATA2MSB;
	expect_refused("little-endian");
	file.e.e_ident[EI_VERSION] = 2;
	expect_refused("version");
	file.e.e_version = 9;
	expect_refused("version 9");
}

Test(elf, refuses_other_machines_and_types)
{
	file.e.e_machine = EM_AARCH64;
	expect_refused("is an ELF for machine 183 (aarch64), this is x86_64");
	file.e.e_machine = 0x1234;
	expect_refused("machine 4660 (unknown)");
	file.e.e_type = ET_DYN;
	expect_refused("-static -no-pie");
	file.e.e_type = ET_REL;
	expect_refused("object file");
	file.e.e_type = ET_CORE;
	expect_refused("not an executable");
	file.p[2].p_type = PT_INTERP;
	expect_refused("dynamically linked");
	file.p[2].p_type = PT_DYNAMIC;
	expect_refused("dynamically linked");
}

Test(elf, refuses_bad_header_tables)
{
	file.e.e_phnum = 0;
	expect_refused("no program headers");
	file.e.e_phnum = 65;
	expect_refused("at most 64");
	file.e.e_phnum = PN_XNUM;
	expect_refused("at most 64");
	file.e.e_phentsize = 32;
	expect_refused("program headers of 32 bytes");
	file.e.e_phoff = FILE_LEN - 3 * sizeof(Elf64_Phdr) + 1;
	expect_refused("truncated");
	file.e.e_phoff = FILE_LEN + 1;
	expect_refused("truncated");
	file.e.e_phoff = UINT64_MAX - 8;
	expect_refused("truncated");
	file.p[0].p_type = file.p[1].p_type = PT_NOTE;
	expect_refused("no loadable segment");
}

Test(elf, refuses_segments_beyond_the_file)
{
	file.p[1].p_offset++;
	expect_refused("truncated");
	file.p[1].p_offset = FILE_LEN + 1;
	file.p[1].p_filesz = 0;
	expect_refused("truncated");
	file.p[1].p_offset = UINT64_MAX - 16;
	expect_refused("truncated");
	file.p[0].p_filesz = file.p[0].p_memsz = UINT64_MAX - TEXT_OFF + 1;
	expect_refused("truncated");
	file.p[0].p_filesz = TEXT_LEN + 1;
	expect_refused("do not fit");
}

Test(elf, refuses_segments_outside_ram)
{
	file.p[1].p_paddr = LOAD_MIN - 1;
	expect_refused("below 0x100000");
	file.p[1].p_paddr = 0;
	expect_refused("below 0x100000");
	file.p[1].p_paddr = (8u << 20) - DATA_MEM + 1;
	expect_refused("outside RAM");
	file.p[1].p_paddr = 9u << 20;
	expect_refused("outside RAM");
	file.p[1].p_paddr = (20u << 20) - DATA_MEM + 1;
	expect_refused("outside RAM");
	file.p[1].p_paddr = (16u << 20) - 1;
	expect_refused("outside RAM");
	/* Both ends in RAM, the middle not. */
	file.p[1].p_paddr = 7u << 20;
	file.p[1].p_memsz = 10u << 20;
	expect_refused("outside RAM");
	file.p[1].p_memsz = UINT64_MAX;
	expect_refused("overflow");
	file.p[1].p_paddr = UINT64_MAX - 100;
	expect_refused("overflow");
	file.p[1].p_vaddr = UINT64_MAX - 100;
	expect_refused("overflow");
}

Test(elf, refuses_overlap)
{
	file.p[1].p_paddr = TEXT + TEXT_LEN - 1;
	expect_refused("overlaps");
	file.p[1].p_paddr = TEXT - DATA_MEM + 1;
	expect_refused("overlaps");
	file.p[1].p_paddr = TEXT - 16;
	expect_refused("overlaps");
	file.p[1].p_paddr = TEXT + 16;
	file.p[1].p_filesz = file.p[1].p_memsz = 16;
	expect_refused("overlaps");
	/* Touching is not overlapping. */
	file.p[1].p_paddr = TEXT + TEXT_LEN;
	cr_assert_eq(load(), 0, "%s", why);
	file.p[1].p_paddr = TEXT - DATA_MEM;
	cr_assert_eq(load(), 0, "%s", why);
}

Test(elf, refuses_entry_outside_code)
{
	file.e.e_entry = TEXT - 1;
	expect_refused("entry point 0x1fffff");
	file.e.e_entry = TEXT + TEXT_LEN;
	expect_refused("entry point");
	file.e.e_entry = DATA + 4;
	expect_refused("entry point");
	file.e.e_entry = 0;
	expect_refused("entry point 0x0");
	/* In memory, but not among the bytes that come from the file. */
	file.p[1].p_flags |= PF_X;
	file.e.e_entry = DATA + DATA_LEN;
	expect_refused("entry point");
}

/* Cut anywhere, a file is refused: never a crash, never half a program. */
Test(elf, refuses_every_truncation)
{
	for (size_t size = 0; size < FILE_LEN; size += size < 512 ? 1 : 61) {
		write_file(size);
		cr_assert_eq(load_as_is(), -ENOEXEC, "%zu bytes", size);
		cr_assert_eq(frames_touched(), 0);
	}
}

/* Every single bit of the headers: loaded or refused, with a reason, and nothing worse. */
Test(elf, survives_every_flipped_bit)
{
	unsigned loaded = 0, refused = 0;

	for (size_t bit = 0; bit < 8 * (sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr)); bit++) {
		int ret;

		file.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		ret = load();
		cr_assert(ret == 0 || ret == -ENOEXEC, "bit %zu: %d %s", bit, ret, why);
		cr_assert(ret == 0 || why[0] != '\0');
		loaded += ret == 0;
		refused += ret != 0;
		file.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
	cr_assert(loaded > 0 && refused > 0);
	cr_assert_eq(space_audit(space), 0);
}

Test(elf, refuses_what_cannot_be_read)
{
	char good[64];

	strcpy(good, path);
	strcpy(path, "/tmp");
	cr_assert_eq(load_as_is(), -ENOEXEC);
	expect_said("not a regular file");
	snprintf(path, sizeof(path), "%s.none", good);
	cr_assert_eq(load_as_is(), -ENOENT);
	expect_said("No such file");
	cr_assert_eq(mkfifo(path, 0600), 0);
	cr_assert_eq(load_as_is(), -ENOEXEC);
	unlink(path);
	strcpy(path, good);
	chmod(path, 0);
	if (geteuid() == 0)
		cr_assert_eq(seteuid(65534), 0);
	cr_assert_eq(load_as_is(), -EACCES);
	expect_said("Permission denied");
	if (getuid() == 0)
		cr_assert_eq(seteuid(0), 0);
}

/* The reason is cut to the room there is. */
Test(elf, reason_fits_its_buffer)
{
	char small[20];

	write_file(3);
	for (size_t size = 0; size <= sizeof(small); size++) {
		memset(small, 'x', sizeof(small));
		cr_assert_eq(
			elf_load(space, path, EM_X86_64, (gpa_t){LOAD_MIN}, &image, small, size),
			-ENOEXEC);
		cr_assert(size == 0 || memchr(small, '\0', size));
		cr_assert(size == sizeof(small) || small[size] == 'x');
	}
}

/* No frames left: the loader says so and the space stays whole. */
Test(elf, out_of_frames)
{
	struct space_config config = {.ram = ram, .ram_count = 3, .faults = FAULTS_UFFD};
	int ret;

	space_destroy(space);
	config.pool = pool;
	config.limit_frames = 512;
	ret = space_create(&config, &space);
	if (ret == -EPERM)
		cr_skip_test("userfaultfd is not permitted");
	cr_assert_eq(ret, 0);
	file.p[1].p_paddr = file.p[1].p_vaddr = 6u << 20;
	ret = load();
	cr_assert_eq(ret, -ENOMEM, "%d %s", ret, why);
	expect_said("cannot be loaded at 0x600000");
	cr_assert_eq(space_audit(space), 0);
}
