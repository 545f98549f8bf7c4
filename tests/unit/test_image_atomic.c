// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_image_atomic.c - what is left of a file whose writer died, and who removes it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/snapshot_model.h"
#include "vmm/atomic_file.h"

TestSuite(image_atomic, .init = st_setup, .fini = st_teardown, .timeout = 60);

static const struct atomic_file_hook nobody;

static void begin(struct atomic_file *f, const char *path)
{
	const char *step;

	cr_assert_eq(atomic_file_open(f, path, &nobody, &step), 0, "%s", step);
}

static void touch(const char *name)
{
	int fd = open(st_path(name), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0);
	close(fd);
}

static bool is_there(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", st.dir, name);
	return access(path, F_OK) == 0;
}

Test(image_atomic, dead_writers_file_goes_with_the_next)
{
	const char *path = st_path("a.cow"), *step;
	struct atomic_file f;
	pid_t pid = fork();

	if (pid == 0) {
		begin(&f, path);
		_exit(write(f.fd, "half", 4) != 4);
	}
	cr_assert_eq(waitpid(pid, NULL, 0), pid);
	cr_assert_eq(st_count_files(st.dir), 1);
	/* Another name's writer leaves it alone. */
	begin(&f, st_path("b.cow"));
	cr_assert_eq(st_count_files(st.dir), 2);
	atomic_file_close(&f);
	cr_assert_eq(st_count_files(st.dir), 1);
	begin(&f, path);
	cr_assert_eq(st_count_files(st.dir), 1);
	cr_assert_eq(atomic_file_commit(&f, &step), 0);
	atomic_file_close(&f);
	cr_assert_eq(st_count_files(st.dir), 1);
	cr_assert(is_there("a.cow"));
}

/* Two at once: neither takes the other's for a dead one's; the last to commit wins. */
Test(image_atomic, living_writers_file_stays)
{
	const char *path = st_path("a.cow"), *step;
	struct atomic_file f, g;
	char byte;

	begin(&f, path);
	begin(&g, path);
	cr_assert_eq(st_count_files(st.dir), 2);
	cr_assert_eq(write(f.fd, "f", 1), 1);
	cr_assert_eq(write(g.fd, "g", 1), 1);
	cr_assert_eq(atomic_file_commit(&g, &step), 0);
	cr_assert_eq(atomic_file_commit(&f, &step), 0);
	atomic_file_close(&f);
	atomic_file_close(&g);
	cr_assert_eq(st_count_files(st.dir), 1);
	st_read_at(path, &byte, 1, 0);
	cr_assert_eq(byte, 'f');
}

Test(image_atomic, only_what_is_surely_a_temporary_goes)
{
	static const char *const stay[] = {
		".a.cow.0123456789ab.tm",   ".a.cow.0123456789aB.tmp", ".a.cow.0123456789a.tmp",
		".a.cow.0123456789abc.tmp", "xa.cow.0123456789ab.tmp", ".b.cow.0123456789ab.tmp",
		".a.cow.x.0123456789a.tmp",
	};
	struct atomic_file f;

	for (size_t i = 0; i < sizeof(stay) / sizeof(stay[0]); i++)
		touch(stay[i]);
	touch(".a.cow.0123456789ab.tmp");
	cr_assert_eq(mkdir(st_path(".a.cow.000000000000.tmp"), 0700), 0);
	begin(&f, st_path("a.cow"));
	atomic_file_close(&f);
	for (size_t i = 0; i < sizeof(stay) / sizeof(stay[0]); i++)
		cr_assert(is_there(stay[i]), "%s", stay[i]);
	cr_assert(is_there(".a.cow.000000000000.tmp"));
	cr_assert_not(is_there(".a.cow.0123456789ab.tmp"));
}

/* What follows a name of more than 200 bytes is cut: two such names share their temporaries. */
Test(image_atomic, long_names)
{
	char name[240], temp[256];
	struct atomic_file f;

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	cr_assert_eq(chdir(st.dir), 0);
	snprintf(temp, sizeof(temp), ".%.200s.0123456789ab.tmp", name);
	close(open(temp, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	cr_assert_eq(access(temp, F_OK), 0);
	begin(&f, name);
	cr_assert_neq(access(temp, F_OK), 0);
	cr_assert_eq(st_count_files("."), 1);
	atomic_file_close(&f);
	cr_assert_eq(chdir("/"), 0);
}

static void remember(void *ctx, int dir, const char *name)
{
	int *calls = ctx;

	++*calls;
	cr_assert_eq(name != NULL, *calls % 2 == 1);
	cr_assert_eq(fcntl(dir, F_GETFD), FD_CLOEXEC);
	cr_assert(!name || faccessat(dir, name, F_OK, 0) != 0, "told too late");
}

Test(image_atomic, hook_hears_of_every_temporary)
{
	const char *step;
	int calls = 0;
	const struct atomic_file_hook hook = {remember, &calls};
	struct atomic_file f;

	cr_assert_eq(atomic_file_open(&f, st_path("a.cow"), &hook, &step), 0);
	cr_assert_eq(calls, 1);
	atomic_file_close(&f);
	cr_assert_eq(calls, 2);
	cr_assert_eq(atomic_file_open(&f, st_path("a.cow"), &hook, &step), 0);
	cr_assert_eq(atomic_file_commit(&f, &step), 0);
	cr_assert_eq(calls, 4);
	atomic_file_close(&f);
	cr_assert_eq(calls, 4);
	cr_assert_eq(atomic_file_open(&f, st_path("none/a"), &hook, &step), -ENOENT);
	cr_assert_eq(calls, 4);
}

/* Whoever begins a file while others sweep gets one that stays. */
Test(image_atomic, sweepers_do_not_take_a_file_at_birth)
{
	const char *path = st_path("a.cow"), *step;
	struct atomic_file f;
	pid_t pid = fork();

	if (pid == 0) {
		for (;;) {
			if (atomic_file_open(&f, path, &nobody, &step) == 0)
				atomic_file_close(&f);
		}
	}
	for (int i = 0; i < 2000; i++) {
		struct stat now;

		begin(&f, path);
		cr_assert_eq(fstat(f.fd, &now), 0);
		cr_assert_eq(now.st_nlink, 1);
		cr_assert_eq(flock(f.fd, LOCK_EX | LOCK_NB), 0);
		atomic_file_close(&f);
	}
	kill(pid, SIGKILL);
	cr_assert_eq(waitpid(pid, NULL, 0), pid);
	begin(&f, path);
	atomic_file_close(&f);
	cr_assert_eq(st_count_files(st.dir), 0);
}
