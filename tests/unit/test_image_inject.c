// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_image_inject.c - each call of a save made to fail in turn: the old image stays.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/unit/inject.h"
#include "tests/unit/snapshot_model.h"

TestSuite(image_inject, .init = st_setup, .fini = st_teardown, .timeout = 120);

struct scene {
	const char *path;
	struct image *old, *new;
	struct stat before;
	int fds;
};

static void set_scene(struct scene *c)
{
	c->path = st_path("a.cow");
	c->old = st_mixed();
	st_save(c->old, c->path);
	cr_assert_eq(stat(c->path, &c->before), 0);
	/* Extents of a file and of the pool: reading both can fail. */
	c->new = st_open(c->path, NULL);
	c->fds = st_open_fds();
}

static void clear_scene(struct scene *c)
{
	image_put(c->new);
	image_put(c->old);
}

/* Failed: nothing has changed and one line says why. Done: the new one is there, whole. */
static void check(const struct scene *c, int ret, const char *what)
{
	struct stat now;

	cr_assert_eq(stat(c->path, &now), 0);
	cr_assert_eq(now.st_ino == c->before.st_ino, ret != 0, "%s", what);
	cr_assert_eq(snapshot_verify(c->path, ISA, NULL), 0, "%s", what);
	cr_assert_eq(st_count_files(st.dir), 1, "%s: a temporary is left", what);
	cr_assert_eq(st_open_fds(), c->fds, "%s", what);
	if (ret == 0)
		return;
	cr_assert_eq(strncmp(st.error.text, c->path, strlen(c->path)), 0, "%s", st.error.text);
	cr_assert_not_null(strstr(st.error.text, strerror(-ret)), "%s", st.error.text);
	cr_assert_null(strchr(st.error.text, '\n'));
}

/* Return: how many steps there were. */
static unsigned fail_each(struct scene *c, enum inject_call call, int error, int want)
{
	unsigned k = 0;
	int ret;

	do {
		st.error.text[0] = '\0';
		inject_arm_error(++k, call, error);
		ret = snapshot_save(c->new, ISA, 1, c->path, &st.error);
		inject_disarm();
		cr_assert_eq(ret, inject_fired() ? want : 0, "%s %u: %d %s", inject_name(call), k,
		             ret, st.error.text);
		check(c, ret, inject_name(call));
		cr_assert_eq(stat(c->path, &c->before), 0);
	} while (inject_fired());
	return k - 1;
}

Test(image_inject, every_write)
{
	struct scene c;
	unsigned writes;

	set_scene(&c);
	writes = fail_each(&c, INJECT_PWRITE, ENOSPC, -ENOSPC);
	/* Four slots, of them one in three runs of pages; state, table and header. */
	cr_assert_geq(writes, 9, "%u", writes);
	cr_assert_eq(fail_each(&c, INJECT_PWRITE, EIO, -EIO), writes);
	cr_assert_eq(fail_each(&c, INJECT_PWRITE, EDQUOT, -EDQUOT), writes);
	cr_assert_eq(fail_each(&c, INJECT_PWRITE, EINTR, 0), writes);
	/* The half that was not written is a write of its own. */
	cr_assert_geq(fail_each(&c, INJECT_PWRITE, INJECT_SHORT, 0), writes);
	clear_scene(&c);
}

Test(image_inject, the_flush_and_the_rename)
{
	static const int errors[] = {EIO, ENOSPC, EDQUOT};
	struct scene c;

	set_scene(&c);
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		cr_assert_eq(fail_each(&c, INJECT_RENAMEAT, errors[i], -errors[i]), 1);
		cr_assert_eq(fail_each(&c, INJECT_FTRUNCATE, errors[i], -errors[i]), 1);
	}
	cr_assert_eq(fail_each(&c, INJECT_RENAMEAT, EINTR, 0), 1);
	cr_assert_eq(fail_each(&c, INJECT_FTRUNCATE, EINTR, 0), 1);
	cr_assert_eq(fail_each(&c, INJECT_FSYNC, EINTR, 0), 2);
	/* The first is of the file. */
	inject_arm_error(1, INJECT_FSYNC, EIO);
	cr_assert_eq(snapshot_save(c.new, ISA, 1, c.path, &st.error), -EIO);
	inject_disarm();
	check(&c, -EIO, "fsync");
	cr_assert_not_null(strstr(st.error.text, "flushing it to disk"), "%s", st.error.text);
	clear_scene(&c);
}

/* The name holds the new file by then, and whoever asked hears that it may not last. */
Test(image_inject, the_flush_of_the_directory)
{
	struct stat now;
	struct scene c;

	set_scene(&c);
	inject_arm_error(2, INJECT_FSYNC, EIO);
	cr_assert_eq(snapshot_save(c.new, ISA, 1, c.path, &st.error), -EIO);
	inject_disarm();
	cr_assert_not_null(strstr(st.error.text, "flushing its directory"), "%s", st.error.text);
	cr_assert_eq(stat(c.path, &now), 0);
	cr_assert_neq(now.st_ino, c.before.st_ino);
	cr_assert_eq(snapshot_verify(c.path, ISA, NULL), 0);
	cr_assert_eq(st_count_files(st.dir), 1);
	/* A file system whose directories cannot be flushed is not the user's trouble. */
	inject_arm_error(2, INJECT_FSYNC, EINVAL);
	cr_assert_eq(snapshot_save(c.new, ISA, 1, c.path, &st.error), 0);
	inject_disarm();
	clear_scene(&c);
}

Test(image_inject, reads_memory_and_descriptors)
{
	struct scene c;

	set_scene(&c);
	cr_assert_gt(fail_each(&c, INJECT_PREAD, EIO, -EIO), 3);
	cr_assert_gt(fail_each(&c, INJECT_PREAD, EINTR, 0), 3);
	cr_assert_geq(fail_each(&c, INJECT_MALLOC, ENOMEM, -ENOMEM), 1);
	cr_assert_geq(fail_each(&c, INJECT_CALLOC, ENOMEM, -ENOMEM), 1);
	cr_assert_eq(fail_each(&c, INJECT_OPEN, EMFILE, -EMFILE), 1);
	clear_scene(&c);
}

/* Looking for what others left may fail, the file itself may not. */
Test(image_inject, openat)
{
	struct scene c;

	set_scene(&c);
	inject_arm_error(1, INJECT_OPENAT, EACCES);
	cr_assert_eq(snapshot_save(c.new, ISA, 1, c.path, &st.error), 0, "%s", st.error.text);
	inject_disarm();
	cr_assert(inject_fired());
	check(&c, 0, "openat");
	cr_assert_eq(stat(c.path, &c.before), 0);
	inject_arm_error(2, INJECT_OPENAT, ENOSPC);
	cr_assert_eq(snapshot_save(c.new, ISA, 1, c.path, &st.error), -ENOSPC);
	inject_disarm();
	check(&c, -ENOSPC, "openat");
	inject_arm_error(2, INJECT_OPENAT, EINTR);
	cr_assert_eq(snapshot_save(c.new, ISA, 1, c.path, &st.error), 0);
	inject_disarm();
	check(&c, 0, "openat");
	clear_scene(&c);
}
