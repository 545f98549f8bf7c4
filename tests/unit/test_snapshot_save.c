// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_snapshot_save.c - a save that fails leaves the old file and nothing else.
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/snapshot_model.h"

TestSuite(snapshot_save, .init = st_setup, .fini = st_teardown, .timeout = 120);

/* A save that must fail with `want` over a good file: that one stays, and nothing else. */
static void expect_save_fails(const char *path, const struct image *image, int want)
{
	struct stat before, after;
	int had = stat(path, &before) == 0;
	int files = st_count_files(st.dir);
	int fds = st_open_fds();
	int ret = snapshot_save(image, ISA, 1, path, &st.error);

	cr_assert_eq(ret, want, "%d %s", ret, st.error.text);
	cr_assert_not_null(strstr(st.error.text, path), "%s", st.error.text);
	cr_assert_eq(st_count_files(st.dir), files, "something was left behind");
	cr_assert_eq(st_open_fds(), fds);
	cr_assert_eq(stat(path, &after) == 0, had);
	if (had) {
		cr_assert_eq(before.st_ino, after.st_ino);
		cr_assert_eq(before.st_size, after.st_size);
	}
}

/* The limit set at each place where a write may stop. */
Test(snapshot_save, no_room_for_the_file)
{
	const char *path = st_path("a.cow");
	static const uint64_t limits[] = {0,
	                                  1,
	                                  4096,
	                                  5000,
	                                  BLOCK,
	                                  BLOCK + 1,
	                                  BLOCK + 700 * 1000,
	                                  3 * BLOCK + 5,
	                                  5 * BLOCK - 3 * PAGE};
	struct rlimit all, limit;
	struct image *image;

	st_save_mixed(path);
	image = st_open(path, NULL);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &all);
	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		limit = (struct rlimit){limits[i], all.rlim_max};
		cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
		expect_save_fails(path, image, -EFBIG);
		expect_save_fails(st_path("new.cow"), image, -EFBIG);
		cr_assert_not_null(strstr(st.error.text, "at offset"), "%s", st.error.text);
		setrlimit(RLIMIT_FSIZE, &all);
		cr_assert_eq(snapshot_verify(path, ISA, &st.error), 0, "%s", st.error.text);
	}
	st_save(image, path);
	image_put(image);
}

/* A file system of 3 MiB of its own, gone with the process. Needs root; the test above does not. */
static int mount_small(const char *at)
{
	if (geteuid() != 0 || unshare(CLONE_NEWNS))
		return -1;
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -1;
	return mount("cowslip-test", at, "tmpfs", 0, "size=3m");
}

Test(snapshot_save, disk_full)
{
	const char *path;
	struct image *small, *big;

	if (mount_small(st.dir))
		cr_skip_test("mounting a small tmpfs needs root");
	path = st_path("a.cow");
	st_add_random(0, 100);
	small = st_image(NULL, 0);
	st_save(small, path);
	st_add_random(0, 512);
	st_add_random(BLOCK, 512);
	big = st_image(NULL, 0);
	expect_save_fails(path, big, -ENOSPC);
	cr_assert_eq(snapshot_verify(path, ISA, &st.error), 0, "%s", st.error.text);
	st_save(small, path);
	image_put(big);
	image_put(small);
	st_empty_dir(st.dir);
	umount2(st.dir, MNT_DETACH);
}

Test(snapshot_save, directory_not_writable)
{
	struct image *image = st_mixed();
	const char *path = st_path("a.cow");

	st_save(image, path);
	cr_assert_eq(chmod(st.dir, 0555), 0);
	if (geteuid() == 0)
		cr_assert_eq(seteuid(65534), 0);
	expect_save_fails(path, image, -EACCES);
	if (getuid() == 0)
		cr_assert_eq(seteuid(0), 0);
	chmod(st.dir, 0700);
	cr_assert_eq(snapshot_verify(path, ISA, &st.error), 0, "%s", st.error.text);
	image_put(image);
}

Test(snapshot_save, names_that_cannot_be_a_file)
{
	struct image *image = st_mixed();
	char slash[80];

	snprintf(slash, sizeof(slash), "%s/new/", st.dir);
	expect_save_fails(st_path("none/a.cow"), image, -ENOENT);
	expect_save_fails(slash, image, -EISDIR);
	expect_save_fails(st.dir, image, -EINVAL);
	cr_assert_eq(mkfifo(st_path("fifo"), 0600), 0);
	expect_save_fails(st_path("fifo"), image, -EINVAL);
	cr_assert_eq(snapshot_save(image, ISA, 1, "", &st.error), -EINVAL);
	image_put(image);
}

Test(snapshot_save, follows_a_link_and_takes_long_names)
{
	struct image *image = st_mixed();
	char name[250];
	struct stat found;

	st_save(image, st_path("real.cow"));
	cr_assert_eq(symlink("real.cow", st_path("link.cow")), 0);
	st_save(image, st_path("link.cow"));
	cr_assert_eq(lstat(st_path("link.cow"), &found), 0);
	cr_assert(S_ISLNK(found.st_mode));
	cr_assert_eq(lstat(st_path("real.cow"), &found), 0);
	cr_assert(S_ISREG(found.st_mode));
	cr_assert_eq(found.st_mode & 07777, 0600);
	cr_assert_eq(st_count_files(st.dir), 2);
	/* A bare name, in the directory we are in; the longest a file system takes. */
	cr_assert_eq(chdir(st.dir), 0);
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	st_save(image, name);
	cr_assert_eq(snapshot_verify(name, ISA, &st.error), 0, "%s", st.error.text);
	cr_assert_eq(chdir("/"), 0);
	image_put(image);
}

/* What lies beyond the end of a file would read as zeros: that must not be saved as truth. */
Test(snapshot_save, file_below_cut_short)
{
	const char *path = st_path("a.cow");
	struct image *image;

	st_save_mixed(path);
	image = st_open(path, NULL);
	cr_assert_eq(truncate(path, (off_t)(3 * BLOCK)), 0);
	expect_save_fails(st_path("b.cow"), image, -EIO);
	image_put(image);
}

/* Killed while it writes, a save leaves the old file under the name. */
Test(snapshot_save, killed_while_saving)
{
	const char *path = st_path("a.cow");
	struct image *image;
	int status;
	pid_t pid;

	st_save_mixed(path);
	image = st_open(path, NULL);
	for (useconds_t us = 0; us < 20000; us += 2000) {
		pid = fork();
		cr_assert_geq(pid, 0);
		if (pid == 0) {
			for (;;)
				snapshot_save(image, ISA, 1, path, NULL);
		}
		usleep(us);
		kill(pid, SIGKILL);
		cr_assert_eq(waitpid(pid, &status, 0), pid);
		cr_assert_eq(snapshot_verify(path, ISA, &st.error), 0, "%s", st.error.text);
	}
	image_put(image);
}
