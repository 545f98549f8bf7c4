// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_cli_wrong.c - whatever is wrong: one clear line, the right status, nothing left.
 */
#include <criterion/criterion.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/kvm/command.h"

#define WHOLE  SIZE_MAX
#define NOBODY 65534

TestSuite(cli_wrong, .init = scratch_make, .fini = scratch_remove, .timeout = 60);

struct wrong {
	const char *args[6];
	const char *words;
};

static void all_refused(const struct wrong *w, size_t count)
{
	for (size_t i = 0; i < count; i++)
		refused(w[i].args, w[i].words);
}

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

Test(cli_wrong, commands)
{
	static const struct wrong wrongs[] = {
		{{"fly"}, "fly: unknown command"},
		{{"--fly"}, "--fly: unknown option"},
		{{"-x"}, "-x: unknown option"},
		{{"image"}, "no action given"},
		{{"image", "eat"}, "image eat: unknown"},
		{{"image", "info"}, "no image given"},
		{{"image", "verify"}, "no image given"},
		{{"image", "info", "a", "b"}, "b: one image at a time"},
		{{"doctor", "a"}, "a: doctor takes no argument"},
		{{"doctor", "--fly"}, "--fly: unknown option"},
	};
	const char *nothing[] = {NULL, NULL};

	refused(nothing, "no command given");
	all_refused(wrongs, COUNT(wrongs));
}

Test(cli_wrong, options_of_run)
{
	static const struct wrong wrongs[] = {
		{{"run"}, "no guest given"},
		{{"run", "--fly", "k"}, "--fly: unknown option"},
		{{"run", "-z", "k"}, "-z: unknown option"},
		{{"run", "--mem"}, "--mem: needs a value"},
		{{"run", "k", "--mem"}, "--mem: needs a value"},
		{{"run", "--populate=1", "k"}, "takes no value"},
		{{"run", "--s", "k"}, "several options"},
		{{"run", "--mem", "0", "k"}, "more than 0"},
		{{"run", "--mem", "0G", "k"}, "more than 0"},
		{{"run", "--mem", "-1", "k"}, "not a size"},
		{{"run", "--mem", "", "k"}, "not a size"},
		{{"run", "--mem", "64Q", "k"}, "not a size"},
		{{"run", "--mem", "64MM", "k"}, "not a size"},
		{{"run", "--mem", "1.5G", "k"}, "not a size"},
		{{"run", "--mem", "99999999999999999999", "k"}, "too large"},
		{{"run", "--mem", "99999999T", "k"}, "too large"},
		{{"run", "--mem", "9000T", "k"}, "too large"},
		{{"run", "--mem", "5000", "k"}, "not a multiple"},
		{{"run", "--mem", "4K", "k"}, "too small"},
		{{"run", "--page-size=2m", "--mem=65M", "k"}, "not a multiple"},
		{{"run", "--page-size=1g", "--mem=64M", "k"}, "not a multiple"},
		{{"run", "--page-size", "8k", "k"}, "one of auto, 4k, 2m, 1g"},
		{{"run", "--cpus", "0", "k"}, "from 1 to 64"},
		{{"run", "--cpus", "65", "k"}, "from 1 to 64"},
		{{"run", "--cpus", "1x", "k"}, "from 1 to 64"},
		{{"run", "--faults", "magic", "k"}, "one of auto, kernel, uffd"},
		{{"run", "--limit", "5000", "k"}, "not a multiple"},
		{{"run", "--timeout", "0", "k"}, "above 0"},
		{{"run", "--timeout", "-1", "k"}, "above 0"},
		{{"run", "--timeout", "soon", "k"}, "above 0"},
		{{"run", "--timeout", "nan", "k"}, "above 0"},
		{{"run", "--timeout", "inf", "k"}, "above 0"},
		{{"run", "--stats=xml", "k"}, "--stats=json"},
		{{"run", "--save-on", "x", "k"}, "--save"},
		{{"run", "--save", "", "k"}, "name is empty"},
		{{"run", "--go-on", "k"}, "--save"},
		{{"run", "k", "l"}, "after --"},
		{{"run", "--stats-file", "/nowhere/x", "k"}, "/nowhere/x"},
	};

	all_refused(wrongs, COUNT(wrongs));
}

/* Options that the file given makes no sense with. */
Test(cli_wrong, options_for_kernels)
{
	refused(ARGS("run", "--initrd", "f", guest("hello")), "leave them out");
	refused(ARGS("run", "--cmdline", "f", guest("hello")), "leave them out");
	refused(ARGS("run", "--pmem", "f", guest("hello")), "leave them out");
	refused(ARGS("run", "--save", "i", "--save-on", "(", guest("hello")), "expression");
}

Test(cli_wrong, options_of_clone)
{
	static const struct wrong wrongs[] = {
		{{"clone"}, "no image given"},
		{{"clone", "--fly", "i"}, "--fly: unknown option"},
		{{"clone", "-qn", "5", "i"}, "-q: unknown option"},
		{{"clone", "i", "-n"}, "-n: needs a value"},
		{{"clone", "-n", "0", "i"}, "-n 0"},
		{{"clone", "-n", "many", "i"}, "-n many"},
		{{"clone", "-n", "-3", "i"}, "-n -3"},
		{{"clone", "-j", "0", "i"}, "-j 0"},
		{{"clone", "--per-process", "0", "i"}, "--per-process 0"},
		{{"clone", "--hold=3", "i"}, "takes no value"},
		{{"clone", "i", "j"}, "one image at a time"},
		{{"clone", "--timeout", "x", "i"}, "above 0"},
		{{"clone", "--limit", "1", "i"}, "not a multiple"},
		{{"clone", "--output", "", "i"}, "name is empty"},
		{{"clone", "/nowhere/image"}, "/nowhere/image"},
	};
	char arg[1100];

	all_refused(wrongs, COUNT(wrongs));
	memset(arg, 'a', sizeof(arg) - 1);
	arg[sizeof(arg) - 1] = '\0';
	refused(ARGS("clone", "--arg", arg, "i"), "--arg: longer than");
	refused(ARGS("run", "k", "--", arg), "guest arguments: longer than");
	refused(ARGS("run", "--page-size", "1g", "--mem", "128G", guest("hello")),
	        "pages of 1 GiB");
	refused(ARGS("run", "--page-size", "1g", "--mem", "128G", guest("hello")),
	        "to /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages");
	refused(ARGS("run", "--page-size", "2m", "--hugetlb", "--mem", "128G", guest("hello")),
	        "pages of 2 MiB: 65536 wanted");
	refused(ARGS("run", "--hugetlb", guest("hello")), "add --page-size 2m or 1g");
	refused(ARGS("run", "--page-size", "1g", "--mem", "1G", "--limit", "100M", guest("hello")),
	        "less than one page of 1024 MiB");
}

/* ---- guests that are none ---- */

static const char *patched(const char *name, size_t at, const void *patch, size_t size)
{
	copy_patched(guest("hello"), scratch(name), WHOLE, at, patch, size);
	return scratch(name);
}

static Elf64_Phdr first_segment(size_t *at)
{
	int fd = open(guest("hello"), O_RDONLY | O_CLOEXEC);
	Elf64_Phdr p = {0};
	Elf64_Ehdr e;

	cr_assert_eq(pread(fd, &e, sizeof(e), 0), (ssize_t)sizeof(e));
	for (unsigned i = 0; i < e.e_phnum; i++) {
		*at = e.e_phoff + i * sizeof(p);
		cr_assert_eq(pread(fd, &p, sizeof(p), (off_t)*at), (ssize_t)sizeof(p));
		if (p.p_type == PT_LOAD && p.p_filesz > 0)
			break;
	}
	cr_assert_eq(p.p_type, PT_LOAD);
	close(fd);
	return p;
}

Test(cli_wrong, guests)
{
	static const uint16_t other_machine = EM_S390;
	static const uint64_t beyond = UINT64_C(1) << 30, overflow = UINT64_MAX - 4095;
	size_t at = 0;
	Elf64_Phdr p = first_segment(&at);
	const char *path;

	refused(ARGS("run", "/nowhere/kernel"), "/nowhere/kernel");
	refused(ARGS("run", "/etc/passwd"), "/etc/passwd is not an ELF file");
	refused(ARGS("run", scratch("")), "regular file");
	path = patched("machine", offsetof(Elf64_Ehdr, e_machine), &other_machine,
	               sizeof(other_machine));
	refused(ARGS("run", path), path);
	path = patched("outside", at + offsetof(Elf64_Phdr, p_paddr), &beyond, sizeof(beyond));
	refused(ARGS("run", path), path);
	path = patched("overflow", at + offsetof(Elf64_Phdr, p_paddr), &overflow, sizeof(overflow));
	refused(ARGS("run", path), path);
	copy_patched(guest("hello"), scratch("short"), p.p_offset + p.p_filesz / 2, 0, "\x7f", 1);
	refused(ARGS("run", scratch("short")), scratch("short"));
	copy_patched(guest("hello"), scratch("tiny"), 20, 0, "\x7f", 1);
	refused(ARGS("run", scratch("tiny")), scratch("tiny"));
}

/* ---- images that are none ---- */

static void make_image(const char *name)
{
	struct said s = run(ARGS("run", "--save", scratch(name), guest("counter")));

	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
}

static void image_refused(const char *name, const char *words)
{
	refused(ARGS("clone", scratch(name)), words);
	refused(ARGS("clone", "-n", "10", scratch(name)), words);
	refused(ARGS("image", "info", scratch(name)), words);
	refused(ARGS("image", "verify", scratch(name)), words);
}

Test(cli_wrong, images)
{
	static const uint32_t version = 77;

	make_image("t.cow");
	copy_patched(scratch("t.cow"), scratch("short"), 5000000, 0, "C", 1);
	image_refused("short", "truncated");
	copy_patched(scratch("t.cow"), scratch("stub"), 100, 0, "C", 1);
	image_refused("stub", "stub");
	copy_patched(scratch("t.cow"), scratch("version"), WHOLE, 8, &version, sizeof(version));
	image_refused("version", "version");
	copy_patched(scratch("t.cow"), scratch("magic"), WHOLE, 0, "X", 1);
	image_refused("magic", "magic");
	copy_patched(scratch("t.cow"), scratch("header"), WHOLE, 100, "\xff\xff", 2);
	image_refused("header", "header");
	image_refused("missing", "missing");
}

Test(cli_wrong, flipped_bit_is_found)
{
	struct stat st;

	make_image("t.cow");
	cr_assert_eq(stat(scratch("t.cow"), &st), 0);
	/* The counter's table fills the last extents. */
	copy_patched(scratch("t.cow"), scratch("flipped"), WHOLE,
	             (size_t)st.st_size - (4 << 20) + 9, "\xa5\x5a\xa5", 3);
	refused(ARGS("image", "verify", scratch("flipped")), "offset");
}

/* ---- saving ---- */

Test(cli_wrong, nothing_to_save)
{
	struct said s = run(ARGS("run", "--save", scratch("t.cow"), guest("hello")));

	cr_assert_eq(s.status, 125, "%d %s", s.status, s.err);
	cr_assert_eq(lines(s.err), 1, "%s", s.err);
	cr_assert_not_null(strstr(s.err, "nothing saved"), "%s", s.err);
	said_free(&s);
	s = run(ARGS("run", "--save", scratch("t.cow"), guest("crash"), "--", "triple"));
	cr_assert_eq(s.status, 126, "%d %s", s.status, s.err);
	said_free(&s);
	s = run(ARGS("run", "--timeout", "0.2", "--save", scratch("t.cow"), guest("crash"), "--",
	             "hang"));
	cr_assert_eq(s.status, 124, "%d %s", s.status, s.err);
	said_free(&s);
	cr_assert_eq(scratch_entries(), 0);
}

Test(cli_wrong, save_where_it_cannot_be)
{
	struct said s = run(ARGS("run", "--save", scratch("no/such/t.cow"), guest("counter")));

	cr_assert_eq(s.status, 125, "%d %s", s.status, s.err);
	cr_assert_eq(lines(s.err), 1, "%s", s.err);
	cr_assert_not_null(strstr(s.err, "No such file"), "%s", s.err);
	said_free(&s);
	s = run(ARGS("run", "--save", scratch(""), guest("counter")));
	cr_assert_eq(s.status, 125, "%d %s", s.status, s.err);
	cr_assert_eq(lines(s.err), 1, "%s", s.err);
	said_free(&s);
	cr_assert_eq(scratch_entries(), 0);
}

Test(cli_wrong, disk_full_keeps_the_old_image)
{
	char before[3] = "";
	struct said s;
	int fd;

	own_mounts();
	cr_assert_eq(mount("none", scratch(""), "tmpfs", 0, "size=2M"), 0, "%s", strerror(errno));
	fd = open(scratch("t.cow"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	cr_assert_eq(write(fd, "old", 3), 3);
	s = run(ARGS("run", "--save", scratch("t.cow"), guest("counter")));
	cr_assert_eq(s.status, 125, "%d %s", s.status, s.err);
	cr_assert_eq(lines(s.err), 1, "%s", s.err);
	cr_assert_not_null(strstr(s.err, "No space left"), "%s", s.err);
	said_free(&s);
	cr_assert_eq(scratch_entries(), 1);
	close(fd);
	fd = open(scratch("t.cow"), O_RDONLY | O_CLOEXEC);
	cr_assert_eq(read(fd, before, 3), 3);
	cr_assert_eq(memcmp(before, "old", 3), 0);
	close(fd);
	cr_assert_eq(umount(scratch("")), 0);
}

/* ---- no KVM ---- */

static void both_refused(const char *words, const struct circumstances *how)
{
	refused_in(ARGS("run", guest("hello")), words, how);
	refused_in(ARGS("clone", scratch("t.cow")), words, how);
}

static void doctor_says(const char *words, const struct circumstances *how)
{
	struct said s = run_in(ARGS("doctor"), how);

	cr_assert_eq(s.status, 125, "%d %s", s.status, s.out);
	cr_assert_not_null(strstr(s.out, "Guests cannot run here."), "%s", s.out);
	cr_assert_not_null(strstr(s.out, words), "%s", s.out);
	said_free(&s);
}

Test(cli_wrong, kvm_not_permitted)
{
	static const struct circumstances nobody = {.uid = NOBODY};

	own_mounts();
	copy_patched("/dev/null", scratch("locked"), 0, 0, "x", 1);
	cr_assert_eq(mount(scratch("locked"), "/dev/kvm", NULL, MS_BIND, NULL), 0, "%s",
	             strerror(errno));
	both_refused("group kvm", &nobody);
	doctor_says("group kvm", &nobody);
}

Test(cli_wrong, kvm_is_something_else)
{
	own_mounts();
	cr_assert_eq(mount("/dev/null", "/dev/kvm", NULL, MS_BIND, NULL), 0, "%s", strerror(errno));
	both_refused("not KVM's device", NULL);
	doctor_says("not KVM's device", NULL);
}

Test(cli_wrong, kvm_missing)
{
	own_mounts();
	cr_assert_eq(mount("none", "/dev", "tmpfs", 0, "size=64K"), 0, "%s", strerror(errno));
	both_refused("load the kvm module", NULL);
	doctor_says("modprobe", NULL);
}
