// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_cli_kernel.c - operating systems' kernels from the command line: whatever is wrong
 * with the files given, one clear line, status 125, nothing left.
 *
 * The kernels are the least that is one: they boot to a single instruction, soft-off. So each
 * refusal is one change to what is shown to work.
 */
#include <criterion/criterion.h>
#include <elf.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/kvm/command.h"

#define PREF      UINT64_C(0x1000000)
#define PAYLOAD   1024u /* one setup sector behind the first */
#define START_64  0x200u
#define FILE_SIZE 4096u

TestSuite(cli_kernel, .init = scratch_make, .fini = scratch_remove, .timeout = 60);

/* mov $0x3400, %eax; mov $0x604, %edx; out %ax, %dx; hlt: the same in 32 and 64-bit mode. */
static const uint8_t code[] = {0xb8, 0x00, 0x34, 0, 0, 0xba, 0x04, 0x06, 0, 0, 0x66, 0xef, 0xf4};

struct file {
	const char *name;
	uint8_t bytes[FILE_SIZE];
};

static void put(struct file *f, size_t at, uint64_t value, size_t size)
{
	memcpy(f->bytes + at, &value, size);
}

/* Write the first `size` bytes of it. Return: its path. */
static const char *write_out(const struct file *f, size_t size)
{
	const char *path = scratch(f->name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, f->bytes, size), (ssize_t)size);
	close(fd);
	return path;
}

/* A file of `size` bytes, all holes. */
static const char *blank(const char *name, off_t size)
{
	const char *path = scratch(name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, size), 0);
	close(fd);
	return path;
}

static struct file bzimage(void)
{
	struct file f = {.name = "vmlinuz"};

	put(&f, 0x1f1, 1, 1);                          /* setup sectors */
	put(&f, 0x1f4, (FILE_SIZE - PAYLOAD) / 16, 4); /* the payload's size */
	put(&f, 0x1fe, 0xaa55, 2);
	put(&f, 0x200, 0x6aeb, 2); /* where the header ends */
	put(&f, 0x202, 0x53726448, 4);
	put(&f, 0x206, 0x20f, 2);
	put(&f, 0x211, 1, 1);
	put(&f, 0x22c, 0x7fffffff, 4); /* the initrd's end */
	put(&f, 0x230, 0x200000, 4);
	put(&f, 0x236, 1, 2);    /* has a 64-bit entry point */
	put(&f, 0x238, 2047, 4); /* of the command line */
	put(&f, 0x258, PREF, 8);
	put(&f, 0x260, 0x100000, 4); /* memory it needs */
	memcpy(f.bytes + PAYLOAD + START_64, code, sizeof(code));
	return f;
}

#define NOTE_AT 512u
#define CODE_AT 1024u

static struct file pvh(void)
{
	struct file f = {.name = "vmlinux"};
	const Elf64_Ehdr e = {
		.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_entry = PREF,
		.e_phoff = sizeof(e),
		.e_ehsize = sizeof(e),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 2,
	};
	const Elf64_Phdr p[] = {
		{PT_LOAD, PF_R | PF_X, CODE_AT, PREF, PREF, 2048, 2048, 4096},
		{PT_NOTE, PF_R, NOTE_AT, 0, 0, 20, 20, 4},
	};
	const uint32_t note[] = {4, 4, 18, 0x006e6558, (uint32_t)PREF}; /* "Xen", the entry */

	memcpy(f.bytes, &e, sizeof(e));
	memcpy(f.bytes + sizeof(e), p, sizeof(p));
	memcpy(f.bytes + NOTE_AT, note, sizeof(note));
	memcpy(f.bytes + CODE_AT, code, sizeof(code));
	return f;
}

static void runs(const char *const *args)
{
	struct said s = run(args);

	cr_assert_eq(s.status, 0, "status %d: %s", s.status, s.err);
	cr_assert_eq(s.err_size, 0, "%s", s.err);
	said_free(&s);
}

/* What the others change one thing of. */
Test(cli_kernel, good_ones_run)
{
	struct file bz = bzimage(), elf = pvh();
	const char *vmlinuz = write_out(&bz, FILE_SIZE), *vmlinux = write_out(&elf, FILE_SIZE);
	const char *some = blank("some", 5000);

	runs(ARGS("run", "--timeout", "20", vmlinuz));
	runs(ARGS("run", "--timeout", "20", vmlinux));
	runs(ARGS("run", "--timeout", "20", "--initrd", some, "--cmdline", "a", "--pmem", some,
	          vmlinuz));
	runs(ARGS("run", "--timeout", "20", "--initrd", some, "--cmdline", "a", "--pmem", some,
	          vmlinux));
}

Test(cli_kernel, truncated_bzimages)
{
	static const size_t sizes[] = {FILE_SIZE - 1, PAYLOAD, 0x290};
	struct file f = bzimage();

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		refused(ARGS("run", write_out(&f, sizes[i])), "vmlinuz is truncated");
	/* So short that nothing says what it was to be. */
	refused(ARGS("run", write_out(&f, 0x28f)), "not an ELF file or a kernel image");
	refused(ARGS("run", write_out(&f, 0)), "not an ELF file or a kernel image");
}

Test(cli_kernel, damaged_bzimages)
{
	struct file f = bzimage();

	put(&f, 0x206, 0x20b, 2);
	refused(ARGS("run", write_out(&f, FILE_SIZE)), "2.12 or later is wanted");
	f = bzimage();
	put(&f, 0x236, 0, 2);
	refused(ARGS("run", write_out(&f, FILE_SIZE)), "without a 64-bit entry point");
	f = bzimage();
	put(&f, 0x260, 0x40000000, 4);
	refused(ARGS("run", write_out(&f, FILE_SIZE)), "does not fit RAM");
}

Test(cli_kernel, damaged_pvh)
{
	struct file f = pvh();

	refused(ARGS("run", write_out(&f, 2048)), "vmlinux is truncated");
	f = pvh();
	put(&f, NOTE_AT + 16, PREF - 1, 4);
	refused(ARGS("run", write_out(&f, FILE_SIZE)), "outside what is loaded");
	refused(ARGS("run", "--mem", "16M", write_out(&f, FILE_SIZE)), "does not fit RAM");
	/* Without its note it is a program, and those have no initrd. */
	f = pvh();
	put(&f, NOTE_AT + 8, 17, 4);
	refused(ARGS("run", "--initrd", "i", write_out(&f, FILE_SIZE)),
	        "not an operating system's kernel");
}

Test(cli_kernel, kernels_that_are_no_files)
{
	refused(ARGS("run", scratch("none")), "none cannot be opened: No such file");
	refused(ARGS("run", "/"), "/ is not a regular file");
	refused(ARGS("run", "/dev/null"), "/dev/null is not a regular file");
	cr_assert_eq(mkfifo(scratch("fifo"), 0600), 0);
	refused(ARGS("run", scratch("fifo")), "not a regular file");
}

Test(cli_kernel, bad_initrds)
{
	struct file f = bzimage();
	const char *vmlinuz = write_out(&f, FILE_SIZE);

	refused(ARGS("run", "--initrd", scratch("none"), vmlinuz),
	        "none cannot be opened: No such");
	refused(ARGS("run", "--initrd", "/", vmlinuz), "/ is not a regular file");
	refused(ARGS("run", "--initrd", blank("empty", 0), vmlinuz), "empty is empty");
	refused(ARGS("run", "--initrd", blank("huge", 65 << 20), vmlinuz),
	        "huge does not fit RAM: 68157440 bytes");
	refused(ARGS("run", "--initrd", blank("huge", 48 << 20), vmlinuz), "more may help (--mem)");
}

Test(cli_kernel, command_lines_too_long)
{
	static char line[2049];
	struct file bz = bzimage(), elf = pvh();
	const char *vmlinuz = write_out(&bz, FILE_SIZE), *vmlinux = write_out(&elf, FILE_SIZE);

	memset(line, 'x', 2048);
	refused(ARGS("run", "--cmdline", line, vmlinuz), "2048 characters");
	refused(ARGS("run", "--cmdline", line, vmlinux), "2048 characters");
	line[2047] = '\0';
	runs(ARGS("run", "--timeout", "20", "--cmdline", line, vmlinuz));
}

Test(cli_kernel, bad_persistent_memory)
{
	struct file f = bzimage();
	const char *vmlinuz = write_out(&f, FILE_SIZE);

	refused(ARGS("run", "--pmem", scratch("none"), vmlinuz), "none: No such file or directory");
	refused(ARGS("run", "--pmem", "/", vmlinuz), "/: not a regular file");
	refused(ARGS("run", "--pmem", "/dev/null", vmlinuz), "/dev/null: not a regular file");
	refused(ARGS("run", "--pmem", blank("empty", 0), vmlinuz),
	        "empty: not a regular file with");
	cr_assert_eq(mkfifo(scratch("fifo"), 0600), 0);
	refused(ARGS("run", "--pmem", scratch("fifo"), vmlinuz), "fifo: not a regular file");
}
