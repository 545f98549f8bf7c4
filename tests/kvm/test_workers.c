// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_workers.c - workers that die, hang or cannot be had: each clone is reported once
 * all the same, and no process or descriptor left when it is over.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/kvm/fleet.h"
#include "tests/kvm/pace.h"

/* ---- workers that die ---- */

/* Children of process `of` except this one. Return: how many were stored. */
static unsigned children(pid_t of, pid_t not_this, pid_t *out, unsigned most)
{
	char path[64], line[1024] = "";
	unsigned n = 0;
	char *at, *end;
	FILE *list;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", of, of);
	list = fopen(path, "re");
	if (!list)
		return 0;
	at = fgets(line, sizeof(line), list);
	fclose(list);
	while (at && n < most) {
		pid_t pid = (pid_t)strtol(at, &end, 10);

		if (end == at)
			break;
		at = end;
		if (pid != not_this)
			out[n++] = pid;
	}
	return n;
}

static pid_t any_child(void)
{
	pid_t pid;

	cr_assert_eq(children(getpid(), 0, &pid, 1), 1);
	return pid;
}

static void kill_any(struct fleet *f)
{
	f->victim = any_child();
	kill(f->victim, SIGKILL);
}

/* Until process `pid` waits for a message. */
static void await_idle(pid_t pid)
{
	uint64_t deadline = clock_ns() + 20 * SECOND;
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	do {
		cr_assert_lt(clock_ns(), deadline, "worker %d does not come to rest", pid);
		usleep(1000);
		f = fopen(path, "re");
		cr_assert(f, "%s", path);
		if (!fgets(line, sizeof(line), f))
			line[0] = '\0';
		fclose(f);
	} while (strtol(line, NULL, 10) != SYS_recvfrom); /* "running" is 0: not that either */
}

static void stop_any(struct fleet *f)
{
	f->victim = any_child();
	kill(f->victim, SIGSTOP);
}

static void kill_worker_of_1(struct fleet *f)
{
	kill(f->last[1].worker, SIGKILL);
}

/* Killed while its clone runs: that clone is lost, every other runs. */
Test(workers, worker_killed)
{
	const unsigned count = pace_rounds(20, 6);
	struct fleet *f = fleet_make(busy_image(), count, 1);
	unsigned lost = 0;

	f->config.timeout_ns = pace_patience(SECOND / 10);
	f->act_on_output = count / 2;
	f->act = kill_any;
	fleet_run(f);
	cr_assert_eq(f->reports, count);
	for (unsigned i = 1; i <= count; i++) {
		cr_assert_eq(f->ends[i][CLONE_LOST] + f->ends[i][CLONE_TIMEOUT], 1, "clone %u", i);
		if (!f->ends[i][CLONE_LOST])
			continue;
		lost++;
		cr_assert_eq(f->last[i].worker, f->victim);
		cr_assert(strstr(f->last[i].text, "killed by signal 9"), "%s", f->last[i].text);
	}
	cr_assert_eq(lost, 1);
	cr_assert_eq(f->summary.workers_lost, 1);
	fleet_free(f);
}

/*
 * Killed with numbers in its queue that it has not read, and results that nobody has read yet:
 * what it had finished counts.
 */
static void wait_and_kill(struct fleet *f)
{
	await_idle(any_child()); /* the other clones in its queue have ended then */
	kill_any(f);
	usleep(50000);
}

Test(workers, worker_killed_unheard)
{
	const uint64_t leave = SCRIPT_REQUEST + 0x1000, say = SCRIPT_REQUEST + 0x2000;
	const struct step steps[] = {{STEP_RING, say, 0}, {STEP_RING, leave, 0}};
	struct scripted s;
	struct fleet *f;

	script_make(&s, steps, 2);
	cr_assert_eq(space_write(vm_space(s.vm), (gpa_t){SCRIPT_DATA}, "up\n", 3), 0);
	script_request(s.vm, say, ABI_WRITE, 0, SCRIPT_DATA, 3);
	script_request(s.vm, leave, ABI_EXIT, 0, 0, 0);
	f = fleet_make(script_image(&s), 4, 1);
	f->act_on_output = 1;
	f->act = wait_and_kill;
	fleet_run(f);
	/* All four had ended before; no number was lost and none was run again. */
	cr_assert_eq(f->reports, 4);
	for (unsigned i = 1; i <= 4; i++) {
		cr_assert_eq(f->ends[i][CLONE_EXITED], 1, "clone %u: %s", i, f->last[i].text);
		cr_assert_str_eq(f->tapes[i].text, "up\n");
	}
	cr_assert_eq(f->summary.workers_lost, 1);
	fleet_free(f);
}

/* The same with a clone under way: the one before it has ended, those behind it run elsewhere. */
static void kill_in_second(struct fleet *f)
{
	/* The first has timed out then, and the second is busy. */
	usleep((useconds_t)pace_patience(150000));
	kill_any(f);
	usleep(50000);
}

Test(workers, worker_killed_half_heard)
{
	struct fleet *f = fleet_make(busy_image(), 4, 1);

	f->config.timeout_ns = pace_patience(SECOND / 10);
	f->act_on_output = 1;
	f->act = kill_in_second;
	fleet_run(f);
	cr_assert_eq(f->reports, 4);
	cr_assert_eq(f->ends[1][CLONE_TIMEOUT], 1, "%s", f->last[1].text);
	cr_assert_eq(count_ends(f, CLONE_LOST), 1);
	cr_assert_eq(count_ends(f, CLONE_TIMEOUT), 3);
	for (unsigned i = 1; i <= 4; i++)
		if (f->ends[i][CLONE_TIMEOUT])
			cr_assert_str_eq(f->tapes[i].text, "up\n");
	fleet_free(f);
}

/* Killed while it holds clones: those are lost too, and only those. */
Test(workers, worker_killed_holding)
{
	struct fleet *f =
		fleet_make(guest_image("counter", "table=64K", 16 * MIB, VM_READY), 12, 1);

	f->config.hold = true;
	f->config.per_process = 3;
	f->act_on_end = 8;
	f->act = kill_worker_of_1;
	fleet_run(f);
	cr_assert_eq(f->reports, 12 + 3);
	cr_assert_eq(count_ends(f, CLONE_EXITED), 12);
	for (unsigned i = 1; i <= 12; i++)
		cr_assert_eq(f->ends[i][CLONE_LOST], i <= 3, "clone %u", i);
	cr_assert(f->summary.workers == 4 && f->summary.workers_lost == 1);
	cr_assert_eq(f->summary.alive, 9);
	fleet_free(f);
}

/* In a process of its own. */
static _Noreturn void kill_children(pid_t of, unsigned most)
{
	pid_t found[8];

	for (unsigned killed = 0; killed < most; usleep(500)) {
		unsigned n = children(of, getpid(), found, 8);

		for (unsigned i = 0; i < n; i++)
			killed += kill(found[i], SIGKILL) == 0;
	}
	_exit(0);
}

/* Killed as soon as they are born, for a while: every clone is reported once all the same. */
Test(workers, workers_killed_young)
{
	struct fleet *f =
		fleet_make(guest_image("counter", "table=64K", 16 * MIB, VM_READY), 60, 2);
	struct vm_error err;
	pid_t self = getpid(), killer = fork();

	cr_assert_geq(killer, 0);
	if (killer == 0)
		kill_children(self, 15);
	cr_assert_eq(engine_run(&f->config, &f->summary, &err), 0, "%s", err.text);
	kill(killer, SIGKILL);
	cr_assert_eq(waitpid(killer, NULL, 0), killer);
	no_children();
	cr_assert_eq(f->reports, 60);
	for (unsigned i = 1; i <= 60; i++)
		cr_assert_eq(f->ends[i][CLONE_LOST] + f->ends[i][CLONE_EXITED], 1, "clone %u", i);
	cr_assert_geq(f->summary.workers_lost, 1);
	/* One at most by each of them: those that were between two clones cost none. */
	cr_assert_leq(count_ends(f, CLONE_LOST), f->summary.workers_lost);
	fleet_free(f);
}

/* One that is stopped is given up some time after its clone's time was over. */
Test(workers, worker_stopped)
{
	struct fleet *f = fleet_make(busy_image(), 4, 2);

	f->config.timeout_ns = pace_patience(SECOND / 10);
	f->config.silence_ns = pace_patience(SECOND / 2);
	f->act_on_output = 2;
	f->act = stop_any;
	fleet_run(f);
	cr_assert_eq(f->reports, 4);
	cr_assert_eq(count_ends(f, CLONE_LOST), 1);
	cr_assert_eq(count_ends(f, CLONE_TIMEOUT), 3);
	for (unsigned i = 1; i <= 4; i++)
		if (f->ends[i][CLONE_LOST])
			cr_assert(strstr(f->last[i].text, "did not answer"), "%s", f->last[i].text);
	fleet_free(f);
}

/* ---- a host that has nothing left ---- */

Test(workers, no_process_to_be_had)
{
	struct fleet *f = fleet_make(guest_image("counter", "table=64K", 16 * MIB, VM_READY), 5, 2);
	const struct rlimit none = {0, 0};
	struct footprint before = footprint_now();
	struct vm_error err = {""};

	/* The limit is not for root. */
	cr_assert_eq(setrlimit(RLIMIT_NPROC, &none), 0);
	if (geteuid() == 0)
		cr_assert_eq(seteuid(65534) | setresuid(65534, 65534, 0), 0);
	cr_assert_eq(engine_run(&f->config, &f->summary, &err), -EAGAIN);
	cr_assert(strstr(err.text, "worker"), "%s", err.text);
	cr_assert_eq(f->reports, 0);
	cr_assert_eq(seteuid(0), 0);
	footprint_expect(before, 8);
	no_children();
	fleet_free(f);
}

/* From too few descriptors for one worker to enough: an error, or every clone reported once. */
Test(workers, few_descriptors)
{
	struct image *image = guest_image("counter", "table=64K", 16 * MIB, VM_READY);
	struct fleet *f = fleet_make(image, 5, 2);
	unsigned refused = 0, failed = 0, more = 0;
	int free_fd = dup(0);
	struct rlimit all, few;

	close(free_fd);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &all), 0);
	for (few = all;; more++) {
		struct footprint before = footprint_now();
		struct vm_error err = {""};
		int r;

		f->reports = 0;
		memset(f->ends, 0, sizeof(f->ends));
		few.rlim_cur = (rlim_t)free_fd + more;
		cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
		r = engine_run(&f->config, &f->summary, &err);
		cr_assert_eq(setrlimit(RLIMIT_NOFILE, &all), 0);
		no_children();
		footprint_expect(before, 16);
		if (r) {
			cr_assert_eq(r, -EMFILE, "%d: %s", r, err.text);
			refused++;
			continue;
		}
		cr_assert_eq(f->reports, 5, "%u more: %u reports", more, f->reports);
		if (count_ends(f, CLONE_EXITED) == 5)
			break;
		for (unsigned i = 1; i <= 5; i++)
			if (f->ends[i][CLONE_FAILED])
				cr_assert(f->last[i].text[0]);
		failed++;
		cr_assert_lt(more, 50);
	}
	cr_assert(refused > 0 && failed > 0, "%u refused, %u failed", refused, failed);
	fleet_free(f);
}
