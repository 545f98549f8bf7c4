// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_cli_image.c - images made and used by commands: saved, killed over, cloned again.
 *
 * TORTURE_TIMES in the environment says how often a save is killed; `make torture-save` sets it.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "arch/arch.h"
#include "tests/kvm/command.h"
#include "vmm/snapshot.h"

#define TORTURE_TIMES 24u /* by default */

TestSuite(cli_image, .init = scratch_make, .fini = scratch_remove, .timeout = 120);

static void sleep_us(long us)
{
	const struct timespec t = {us / 1000000, us % 1000000 * 1000};

	nanosleep(&t, NULL);
}

static void expect_whole(const char *path)
{
	struct snapshot_error err;

	cr_assert_eq(snapshot_verify(path, arch_info.isa, &err), 0, "%s", err.text);
}

static unsigned count_temporaries(const char *in)
{
	DIR *dir = opendir(in);
	unsigned n = 0;

	cr_assert_not_null(dir);
	for (struct dirent *e = readdir(dir); e; e = readdir(dir))
		n += strlen(e->d_name) > 4 && !strcmp(e->d_name + strlen(e->d_name) - 4, ".tmp");
	closedir(dir);
	return n;
}

/* A guest that rings READY `links` times, with 16 MiB of data; its first image is `name`. */
static void save_chain_guest(const char *name, const char *links)
{
	struct said s = run(
		ARGS("run", "--save", scratch(name), guest("memwalk"), "--", "size=16M", links));

	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
}

Test(cli_image, a_clone_is_saved_when_it_rings_again)
{
	struct said s;

	save_chain_guest("a.cow", "ready=3");
	s = run(ARGS("clone", scratch("a.cow"), "--save", scratch("b.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(lines_with(s.err, "saved "), 1, "%s", s.err);
	cr_assert_eq(s.out_size, 0, "%s", s.out);
	said_free(&s);
	/* Over its own parent. */
	s = run(ARGS("clone", "-n", "1", scratch("b.cow"), "--save", scratch("b.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	expect_whole(scratch("b.cow"));
	s = run(ARGS("clone", scratch("b.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(lines_with(s.out, "memwalk: every word ok"), 1, "%s", s.out);
	said_free(&s);
	cr_assert_eq(scratch_entries(), 2);
}

Test(cli_image, a_clone_that_is_not_saved_says_why)
{
	struct said s;

	save_chain_guest("a.cow", "ready=2");
	s = run(ARGS("clone", scratch("a.cow"), "--save", scratch("no/b.cow")));
	cr_assert_eq(s.status, 125, "%s", s.err);
	cr_assert_eq(lines(s.err), 1, "%s", s.err);
	cr_assert_not_null(strstr(s.err, "no/b.cow cannot be saved: opening its directory"), "%s",
	                   s.err);
	said_free(&s);
	s = run(ARGS("clone", scratch("a.cow"), "-n", "2", "--save", scratch("b.cow")));
	cr_assert_eq(s.status, 125);
	cr_assert_eq(lines(s.err), 1, "%s", s.err);
	said_free(&s);
	s = run(ARGS("clone", scratch("a.cow"), "--save", scratch("b.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	s = run(ARGS("clone", scratch("b.cow"), "--save", scratch("c.cow")));
	cr_assert_eq(s.status, 125, "%s", s.err);
	cr_assert_eq(lines(s.err), 1, "%s", s.err);
	cr_assert_not_null(strstr(s.err, "nothing saved"), "%s", s.err);
	said_free(&s);
	cr_assert_eq(scratch_entries(), 2);
}

/* Wait for a temporary to appear. Return: whether it did while the command ran. */
static bool wait_for_temporary(pid_t pid, const char *dir)
{
	siginfo_t ended = {.si_pid = 0};

	while (count_temporaries(dir) == 0) {
		waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT);
		if (ended.si_pid)
			return false;
		sleep_us(200);
	}
	return true;
}

/* Told to end while it writes, a command takes its unfinished file along. */
static unsigned signal_while_saving(int signal)
{
	struct running r = start(ARGS("run", "--save", scratch("t.cow"), guest("memwalk"), "--",
	                              "size=48M", "ready=1"),
	                         NULL);
	const char *dir = scratch("");
	bool seen = wait_for_temporary(r.pid, dir);
	struct said s;

	kill(r.pid, signal);
	s = finish(&r);
	cr_assert(s.status == 1000 + signal || s.status == 0, "%d %s", s.status, s.err);
	cr_assert_eq(count_temporaries(dir), 0);
	seen &= s.status != 0;
	said_free(&s);
	return seen;
}

Test(cli_image, signals_leave_no_temporary)
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
	unsigned seen = 0;

	for (unsigned i = 0; i < 12; i++)
		seen += signal_while_saving(signals[i % 4]);
	/* The rest came between two looks at the directory, or after the last byte. */
	cr_assert_geq(seen, 6);
}

/* ---- killed over and over ---- */

struct torture {
	const char *const *args;
	const char *dir, *target;
	double usual; /* seconds that it takes when nobody kills it */
	unsigned killed, inside, finished;
};

/* Orphaned workers come to us: wait for them too. */
static void reap_all(void)
{
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
}

static void kill_once(struct torture *t)
{
	struct running r = start(t->args, NULL);
	bool inside = random() % 4 && wait_for_temporary(r.pid, t->dir);
	double most = inside ? t->usual / 2 : t->usual;
	siginfo_t ended = {.si_pid = 0};

	sleep_us(random() % (long)(most * 1e6));
	waitid(P_PID, (id_t)r.pid, &ended, WEXITED | WNOHANG | WNOWAIT);
	kill(r.pid, SIGKILL);
	reap_all();
	close(r.out);
	close(r.err);
	t->killed++;
	t->finished += ended.si_pid != 0;
	t->inside += inside && !ended.si_pid;
	expect_whole(t->target);
	cr_assert_leq(count_temporaries(t->dir), 1, "the sweep of this save missed an older one");
}

static void complete(struct torture *t)
{
	struct said s = run(t->args);

	cr_assert_eq(s.status, 0, "%s", s.err);
	t->usual = s.seconds;
	said_free(&s);
	expect_whole(t->target);
	cr_assert_eq(count_temporaries(t->dir), 0);
}

static void torture(const char *const *args, const char *dir, const char *target)
{
	const char *times = getenv("TORTURE_TIMES");
	struct torture t = {.args = args, .dir = dir, .target = target};
	unsigned most = times ? (unsigned)strtoul(times, NULL, 10) : TORTURE_TIMES;

	cr_assert_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	complete(&t);
	for (unsigned i = 0; i < most / 2; i++) {
		kill_once(&t);
		if (i % 16 == 15)
			complete(&t);
	}
	complete(&t);
	cr_log_info("%u killed, %u of them while they wrote, %u had finished", t.killed, t.inside,
	            t.finished);
	cr_assert_gt(t.inside, 0);
}

Test(cli_image, killed_while_a_guest_is_saved, .timeout = 7200)
{
	const char *path = scratch("t.cow");

	torture(ARGS("run", "--save", path, guest("memwalk"), "--", "size=16M", "ready=1"),
	        scratch(""), path);
}

Test(cli_image, killed_while_a_clone_is_saved, .timeout = 7200)
{
	const char *path = scratch("t.cow"), *base = scratch("a.cow");

	save_chain_guest("a.cow", "ready=2");
	torture(ARGS("clone", base, "--save", path), scratch(""), path);
	expect_whole(base);
}
