// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_forktree_files.c - a guest that forks 64 times, each fork a file that lies partly
 * in those before it; each file is made and opened by a process of its own.
 *
 * File n is the image of level n of guest/forktree.c as it forked; a clone of it is level n + 1,
 * which knows what every word of memory must be: what each of its ancestors had last written there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch/arch.h"
#include "tests/kvm/command.h"
#include "tests/kvm/lab.h"
#include "vmm/image_dir.h"
#include "vmm/snapshot.h"

#define FILES 64u
#define POOL  (64 * MIB)
#define RAM   (8 * MIB)

TestSuite(forktree_files, .init = scratch_make, .fini = scratch_remove, .timeout = 600);

static const char *file(unsigned level)
{
	char name[32];

	snprintf(name, sizeof(name), "fork-%u.cow", level);
	return scratch(name);
}

/* In a process that is no test: what went wrong, by the line it is on. */
#define NEED(what)                                                                                 \
	do {                                                                                       \
		if (!(what)) {                                                                     \
			fprintf(stderr, "line %d: not so: %s\n", __LINE__, #what);                 \
			return __LINE__;                                                           \
		}                                                                                  \
	} while (0)

/* What is opened in a process, which ends with all of it. */
struct opened {
	struct kvm kvm;
	struct pool *pool;
	struct image *image;
	struct snapshot_base *base;
	struct vm *vm;
	struct tape tape;
};

/* The VM that a file holds, as a clone: level `level`. */
static int open_level(struct opened *o, unsigned level)
{
	struct vm_config c = {.kvm = &o->kvm,
	                      .number = level + 1,
	                      .console = tape_write,
	                      .console_ctx = &o->tape};
	struct snapshot_error why;
	struct vm_error err;

	NEED(kvm_open(&o->kvm, NULL) == 0);
	NEED(pool_create(POOL, &o->pool) == 0);
	NEED(snapshot_open_base(file(level - 1), arch_info.isa, &o->image, &o->base, NULL, &why) ==
	     0);
	c.pool = o->pool;
	c.image = o->image;
	NEED(vm_create(&c, &o->vm, &err) == 0);
	return 0;
}

static int run_to(struct opened *o, enum vm_event event)
{
	struct vm_report r;

	vm_run(o->vm, clock_ns() + 60 * SECOND, &r);
	if (r.event != event)
		fprintf(stderr, "event %d, code %d: %s%s\n", r.event, r.code, r.text, o->tape.text);
	NEED(r.event == event && r.code == 0);
	return 0;
}

/* Save the VM, which has forked, as what that level left; all but what it changed is elsewhere. */
static int save_fork(struct opened *o, unsigned level)
{
	struct snapshot_request r = {
		.isa = arch_info.isa, .cpus = 1, .path = file(level), .base = o->base};
	struct snapshot_error why = {""};
	struct vm_error err;
	struct image *image;

	NEED(vm_snapshot(o->vm, &image, &err) == 0);
	r.image = image;
	NEED(snapshot_write(&r, &why) == 0);
	return 0;
}

static int make_level(unsigned level)
{
	static struct opened o;
	int r = open_level(&o, level);

	if (r == 0)
		r = run_to(&o, VM_FORK);
	return r ? r : save_fork(&o, level);
}

/* Goes on without a child, to its end: it looks at all of its memory on the way. */
static int check_level(unsigned level)
{
	static struct opened o;
	char want[64];
	int r = open_level(&o, level);

	if (r == 0 && level < FILES)
		r = run_to(&o, VM_FORK);
	if (r)
		return r;
	NEED(level == FILES || vm_answer_fork(o.vm, INT32_MAX) == 0);
	r = run_to(&o, VM_EXITED);
	if (r)
		return r;
	snprintf(want, sizeof(want), "level %u vm %u ok\n", level, level + 1);
	NEED(strcmp(o.tape.text, want) == 0);
	return 0;
}

static void in_process(int (*work)(unsigned level), unsigned level)
{
	pid_t pid = fork();
	int status = -1;

	cr_assert_geq(pid, 0);
	if (pid == 0)
		_exit(work(level) ? 1 : 0);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0, "level %u: status %#x", level, (unsigned)status);
}

static int make_first(unsigned level)
{
	static struct opened o;
	struct vm_config c = {.kvm = &o.kvm,
	                      .ram_bytes = RAM,
	                      .cpus = 1,
	                      .console = tape_write,
	                      .console_ctx = &o.tape};
	struct vm_error err;
	int r;

	NEED(kvm_open(&o.kvm, NULL) == 0);
	NEED(pool_create(POOL, &o.pool) == 0);
	c.pool = o.pool;
	NEED(vm_create(&c, &o.vm, &err) == 0);
	NEED(vm_boot_elf(o.vm, guest("forktree"), "64", &err) == 0);
	r = run_to(&o, VM_FORK);
	return r ? r : save_fork(&o, level);
}

/* None that others lie in can be removed, alone or with some others. Return: how many are such. */
static unsigned expect_kept(void)
{
	struct snapshot_error why;
	struct image_dir d;
	unsigned used = 0;

	cr_assert_eq(image_dir_read(scratch(""), &d, &why), 0, "%s", why.text);
	cr_assert_eq(d.count, FILES);
	for (size_t i = 0; i < d.count; i++) {
		struct said s;

		if (image_dir_next_user(&d, i, 0) == IMAGE_DIR_NONE)
			continue;
		used++;
		s = run(ARGS("image", "rm", scratch(d.entry[i].name)));
		cr_assert_eq(s.status, 125, "%s: %s", d.entry[i].name, s.out);
		cr_assert_not_null(strstr(s.err, "partly in it"), "%s", s.err);
		said_free(&s);
	}
	image_dir_free(&d);
	cr_assert_eq(scratch_entries(), FILES);
	return used;
}

Test(forktree_files, a_line_of_sixty_four)
{
	in_process(make_first, 0);
	for (unsigned level = 1; level < FILES; level++)
		in_process(make_level, level);
	cr_assert_eq(scratch_entries(), FILES);
	/* Leaves first, and each from its file alone. */
	for (unsigned level = FILES; level > 0; level--)
		in_process(check_level, level);
	cr_assert_geq(expect_kept(), FILES / 2);
	in_process(check_level, FILES);
}

/* Packed, moved and unpacked, the leaf still has what all of its ancestors wrote. */
Test(forktree_files, a_leaf_by_post)
{
	struct said s;

	in_process(make_first, 0);
	for (unsigned level = 1; level < 8; level++)
		in_process(make_level, level);
	s = run(ARGS("image", "pack", file(7), "-o", scratch("leaf.pack")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	for (unsigned level = 0; level < 8; level++)
		cr_assert_eq(unlink(file(level)), 0);
	s = run(ARGS("image", "unpack", scratch("leaf.pack"), "-o", file(7)));
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	in_process(check_level, 8);
}
