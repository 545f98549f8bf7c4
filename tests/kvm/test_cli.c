// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_cli.c - the command line on real guests: run, save, clone, hold, statuses.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/kvm/command.h"
#include "tests/kvm/pace.h"

#define CLONES    100
#define NONCE_LEN 16

TestSuite(cli, .init = scratch_make, .fini = scratch_remove, .timeout = 120);

static void sleep_ms(long ms)
{
	const struct timespec t = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&t, NULL);
}

/* The counter guest, saved under `name`. Returns the nonce it printed. */
static void save_counter(const char *mem, const char *name, char nonce[NONCE_LEN + 1])
{
	struct said s = run(ARGS("run", "--mem", mem, "--save", scratch(name), guest("counter")));

	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(sscanf(s.out, "template nonce %16[0-9a-f] table 4 MiB\n", nonce), 1, "%s",
	             s.out);
	cr_assert_eq(lines(s.err), 1, "%s", s.err);
	cr_assert_eq(lines_with(s.err, "saved "), 1, "%s", s.err);
	cr_assert_not_null(strstr(s.err, "MiB RAM, "), "%s", s.err);
	said_free(&s);
}

/* Every clone's line exactly once: each has its own number and increments, and the nonce. */
static void check_clones(const char *text, const char *nonce, unsigned count)
{
	char want[160];

	cr_assert_eq(lines(text), count, "%s", text);
	for (unsigned n = 1; n <= count; n++) {
		snprintf(want, sizeof(want), "[%u] nonce %s clone %u increments %u table ok\n", n,
		         nonce, n, n);
		cr_assert_eq(lines_with(text, want), 1, "clone %u: %s", n, text);
	}
}

Test(cli, run_greets_and_counts)
{
	static const char *const keys[] = {
		"violations",
		"events",
		"nomem",
		"vms",
		"frames.owned",
		"frames.owned_committed",
		"frames.shared",
		"frames.private",
		"frames.huge_blocks",
		"frames.reserved",
		"pool.used",
		"pool.peak",
		"pool.limit",
		"pool.committed",
		"time_us.create",
		"time_us.first_output",
		"time_us.run",
		"time_us.total",
		"exits.total",
		"exits.doorbell",
		"exits.mmio",
		"kvm.pages_4k",
		"kvm.pages_2m",
		"kvm.pages_1g",
		"kvm.pf_fixed",
	};
	struct said s = run(ARGS("run", "--stats=json", guest("hello"), "--", "two", "words"));
	json_t *json;

	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(lines_with(s.out, "Hello from a cowslip guest"), 1, "%s", s.out);
	cr_assert_not_null(strstr(s.out, "64 MiB RAM, arguments: \"two words\""), "%s", s.out);
	json = last_json(s.err);
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		cr_assert_geq(json_at(json, keys[i]), 0, "%s", keys[i]);
	cr_assert_str_eq(json_string_value(json_object_get(json, "command")), "run");
	cr_assert_gt(strlen(json_string_value(json_object_get(json, "fault_path_why"))), 5);
	cr_assert_eq(json_at(json, "vms"), 1);
	cr_assert_gt(json_at(json, "frames.owned"), 0);
	cr_assert_gt(json_at(json, "exits.doorbell"), 1);
	cr_assert_eq(json_at(json, "kvm.mmio_exits"), json_at(json, "exits.mmio"));
	cr_assert_geq(json_at(json, "kvm.exits"), json_at(json, "exits.total"));
	cr_assert_geq(json_at(json, "time_us.total"), json_at(json, "time_us.run"));
	json_decref(json);
	said_free(&s);
}

static void check_fault_path(const char *path, bool counts)
{
	struct said s =
		run(ARGS("run", "--faults", path, "--stats-file", scratch(path), guest("hello")));
	json_t *json = json_load_file(scratch(path), 0, NULL);

	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(s.err_size, 0, "%s", s.err);
	cr_assert_not_null(json);
	cr_assert_str_eq(json_string_value(json_object_get(json, "fault_path")), path);
	cr_assert_eq(json_at(json, "violations") > 0, counts);
	json_decref(json);
	said_free(&s);
}

Test(cli, fault_path_is_the_one_asked_for)
{
	check_fault_path("kernel", false);
	check_fault_path("uffd", true);
}

Test(cli, save_then_a_hundred_clones)
{
	static const char *const keys[] = {
		"clones.count",
		"clones.failed",
		"clones.lost",
		"frames.owned",
		"frames.owned_committed",
		"pool.used",
		"pool.limit",
		"time_us.total",
		"time_us.wall",
		"time_us.create.p50",
		"time_us.create.p99",
		"time_us.create.max",
		"time_us.run.p50",
		"memory.pss_bytes",
		"memory.private_bytes",
		"memory.alive",
		"workers.started",
		"workers.lost",
		"workers.per_process",
		"workers.jobs",
		"memory.page_table_bytes",
		"violations",
		"events",
		"exits.total",
	};
	char nonce[NONCE_LEN + 1];
	struct said s;
	json_t *json;

	save_counter("256M", "t.cow", nonce);
	s = run(ARGS("clone", scratch("t.cow"), "-n", "100", "-j", "2", "--stats=json"));
	cr_assert_eq(s.status, 0, "%s", s.err);
	check_clones(s.out, nonce, CLONES);
	cr_assert_eq(lines(s.err), 1, "%s", s.err);
	json = last_json(s.err);
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		cr_assert_geq(json_at(json, keys[i]), 0, "%s", keys[i]);
	cr_assert_eq(json_at(json, "clones.ok"), CLONES);
	cr_assert_eq(json_at(json, "workers.jobs"), 2);
	cr_assert_gt(json_at(json, "time_us.first_output.p50"), 0);
	cr_assert_geq(json_at(json, "time_us.first_output.p99"),
	              json_at(json, "time_us.first_output.p50"));
	cr_assert_geq(json_at(json, "time_us.first_output.max"),
	              json_at(json, "time_us.first_output.p99"));
	/* Each clone writes its counters, and shares the 4 MiB table. */
	cr_assert_geq(json_at(json, "frames.private"), CLONES * 8);
	cr_assert_geq(json_at(json, "frames.shared"), CLONES * 1024);
	cr_assert_eq(scratch_entries(), 1);
	json_decref(json);
	said_free(&s);
}

Test(cli, one_clone_prints_as_it_is)
{
	char nonce[NONCE_LEN + 1], want[160];
	struct said s;

	save_counter("64M", "t.cow", nonce);
	s = run(ARGS("clone", "--arg", "some words", scratch("t.cow")));
	snprintf(want, sizeof(want), "nonce %s clone 1 increments 1 table ok arg \"some words\"\n",
	         nonce);
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_str_eq(s.out, want);
	cr_assert_eq(s.err_size, 0, "%s", s.err);
	said_free(&s);
}

Test(cli, output_directory_holds_a_file_for_each)
{
	char nonce[NONCE_LEN + 1], want[160], name[64], found[160] = "";
	struct said s;

	save_counter("64M", "t.cow", nonce);
	s = run(ARGS("clone", "-n", "9", "--output", scratch("out"), scratch("t.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(s.out_size, 0, "%s", s.out);
	for (unsigned n = 1; n <= 9; n++) {
		FILE *f;

		snprintf(name, sizeof(name), "out/clone-%u.out", n);
		snprintf(want, sizeof(want), "nonce %s clone %u increments %u table ok\n", nonce, n,
		         n);
		f = fopen(scratch(name), "re");
		cr_assert_not_null(f, "%s", name);
		cr_assert_not_null(fgets(found, sizeof(found), f));
		fclose(f);
		cr_assert_str_eq(found, want);
	}
	said_free(&s);
}

/* Of one clone: what it would take with it is the sum of what it has alone. */
static void check_each(const json_t *one, json_int_t *unique, json_int_t *kvm)
{
	json_int_t v[7];

	cr_assert_eq(json_array_size(one), 7);
	for (size_t i = 0; i < 7; i++)
		v[i] = json_integer_value(json_array_get(one, i));
	cr_assert_eq(v[6], v[2] + v[3] + v[4] + v[5]);
	cr_assert(json_is_null(json_array_get(one, 5)) || v[5] >= 4096);
	*unique += v[6];
	*kvm += v[5];
}

/* Values before, while and after, and sums that are those of the clones. */
static void check_memory(json_t *json)
{
	static const char *const moments[] = {"before", "held", "after"};
	json_t *each = json_object_get(json, "each"), *host = json_object_get(json, "host_memory");
	json_int_t unique = 0, kvm = 0;

	for (size_t i = 0; i < 3; i++) {
		json_t *then = json_object_get(host, moments[i]);

		cr_assert_gt(json_at(then, "available_bytes"), 0, "%s", moments[i]);
		cr_assert_gt(json_at(then, "free_bytes"), 0, "%s", moments[i]);
	}
	cr_assert_eq(json_at(host, "available_bytes"),
	             json_at(host, "before.available_bytes") -
	                     json_at(host, "held.available_bytes"));
	cr_assert_eq(json_array_size(each), CLONES);
	for (size_t i = 0; i < CLONES; i++)
		check_each(json_array_get(each, i), &unique, &kvm);
	cr_assert_eq(json_at(json, "clone_bytes.unique.total"), unique);
	if (kvm > 0)
		cr_assert_eq(json_at(json, "clone_bytes.kvm_tables.total"), kvm);
	if (!json_is_null(json_object_get(host, "kernel_average_bytes")))
		cr_assert_eq(json_at(host, "kernel_average_bytes"),
		             (json_at(host, "kernel_bytes") - kvm -
		              json_at(json, "memory.page_table_bytes")) /
		                     CLONES);
}

/* In a machine that is used again KVM's tables are nobody's, nor is any moment one of all alive. */
Test(cli, memory_that_cannot_be_told_is_null)
{
	char nonce[NONCE_LEN + 1];
	unsigned unknown = 0;
	json_t *json, *host;
	struct said s;

	save_counter("64M", "t.cow", nonce);
	s = run(ARGS("clone", "-n", "20", "-j", "1", "--stats=json", scratch("t.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	json = last_json(s.err);
	host = json_object_get(json, "host_memory");
	cr_assert_gt(json_at(host, "before.available_bytes"), 0);
	cr_assert_gt(json_at(host, "after.available_bytes"), 0);
	cr_assert(json_is_null(json_object_get(host, "held")));
	cr_assert(json_is_null(json_object_get(host, "available_bytes")));
	cr_assert(json_is_null(json_object_get(host, "kernel_average_bytes")));
	for (size_t i = 0; i < 20; i++)
		unknown += json_is_null(
			json_array_get(json_array_get(json_object_get(json, "each"), i), 5));
	cr_assert_geq(unknown, json_at(json, "shells.reused"));
	cr_assert_gt(json_at(json, "shells.reused"), 0);
	json_decref(json);
	said_free(&s);
}

Test(cli, held_clones_share_memory)
{
	char nonce[NONCE_LEN + 1];
	struct said s;
	json_t *json;

	save_counter("64M", "t.cow", nonce);
	s = run(ARGS("clone", "-n", "100", "-j", "2", "--hold", "--stats=json", scratch("t.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	check_clones(s.out, nonce, CLONES);
	json = last_json(s.err);
	cr_assert_eq(json_at(json, "memory.alive"), CLONES);
	cr_assert_gt(json_at(json, "memory.private_bytes"), CLONES * 8 * 4096);
	cr_assert_gt(json_at(json, "memory.pss_bytes"), json_at(json, "memory.private_bytes") / 2);
	/* What the template holds, and half a MiB for each. */
	cr_assert_lt(json_at(json, "memory.pss_bytes"),
	             json_at(json, "image.data_bytes") + CLONES * (512 << 10));
	check_memory(json);
	cr_assert_eq(json_at(json, "workers.started"),
	             (CLONES + json_at(json, "workers.per_process") - 1) /
	                     json_at(json, "workers.per_process"));
	json_decref(json);
	said_free(&s);
}

/* A warm guest whose clones walk through `mib` MiB: long enough to kill someone meanwhile. */
static void save_walker(const char *name, unsigned mib)
{
	char size_arg[32];
	struct said s;

	snprintf(size_arg, sizeof(size_arg), "size=%uM", mib);
	s = run(ARGS("run", "--mem", "128M", "--save", scratch(name), guest("memwalk"), "--",
	             size_arg, "ready=1", "pattern=random"));
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
}

/* The first worker, once it has something to lose. */
static pid_t first_worker(const struct running *r)
{
	pid_t worker;

	for (unsigned i = 0; i < pace_patience(1000); i++) {
		if (lseek(r->out, 0, SEEK_END) > 0 && children_of(r->pid, &worker, 1) == 1)
			return worker;
		sleep_ms(5);
	}
	return 0;
}

Test(cli, killed_worker_costs_its_own_clones)
{
	const unsigned count = 12;
	struct running r;
	struct said s;
	json_t *json;
	pid_t worker;
	json_int_t lost;

	save_walker("t.cow", pace_rounds(32, 4));
	r = start(ARGS("clone", "-n", "12", "-j", "1", "--per-process", "2", "--hold",
	               "--stats=json", scratch("t.cow")),
	          NULL);
	worker = first_worker(&r);
	cr_assert_gt(worker, 0);
	cr_assert_eq(kill(worker, SIGKILL), 0);
	s = finish(&r);
	cr_assert_eq(s.status, 125, "%d %s", s.status, s.err);
	json = last_json(s.err);
	lost = json_at(json, "clones.lost");
	cr_assert(lost == 1 || lost == 2, "%s", s.err);
	cr_assert_eq(json_at(json, "clones.ok"), count - lost, "%s", s.err);
	cr_assert_eq(json_at(json, "clones.count"), count);
	cr_assert_eq(json_at(json, "workers.lost"), 1);
	cr_assert_eq(json_at(json, "memory.alive"), count - lost);
	cr_assert_eq(lines_with(s.err, "cowslip: clone "), lost, "%s", s.err);
	cr_assert_eq(lines(s.err), lost + 1, "%s", s.err);
	cr_assert_not_null(strstr(s.err, "killed by signal 9"), "%s", s.err);
	json_decref(json);
	said_free(&s);
}

/* Workers end with their parent, however it ends. */
Test(cli, killed_parent_leaves_no_worker)
{
	pid_t workers[8];
	struct running r;
	struct said s;
	size_t n;

	save_walker("t.cow", pace_rounds(32, 8));
	r = start(ARGS("clone", "-n", "40", "-j", "2", scratch("t.cow")), NULL);
	cr_assert_gt(first_worker(&r), 0);
	n = children_of(r.pid, workers, 8);
	cr_assert_gt(n, 0);
	cr_assert_eq(kill(r.pid, SIGKILL), 0);
	s = finish(&r);
	cr_assert_eq(s.status, 1000 + SIGKILL);
	for (size_t i = 0; i < n; i++) {
		for (unsigned tries = 0; tries < pace_patience(400) && kill(workers[i], 0) == 0;
		     tries++)
			sleep_ms(5);
		cr_assert(kill(workers[i], 0) < 0 && errno == ESRCH, "worker %d lives on",
		          workers[i]);
	}
	said_free(&s);
}

static void check_forktree(const char *faults)
{
	char want[64];
	struct said s =
		run(ARGS("run", "--faults", faults, "--stats=json", guest("forktree"), "--", "16"));
	json_t *json;

	cr_assert_eq(s.status, 0, "%s%s", s.out, s.err);
	cr_assert_eq(lines(s.out), 17, "%s", s.out);
	for (unsigned level = 0; level <= 16; level++) {
		snprintf(want, sizeof(want), "level %u vm %u ok", level, level);
		cr_assert_eq(lines_with(s.out, want), 1, "%s: %s", want, s.out);
	}
	json = last_json(s.err);
	cr_assert_eq(json_at(json, "vms"), 17);
	json_decref(json);
	said_free(&s);
}

Test(cli, chain_of_forks_sixteen_deep)
{
	check_forktree("auto");
	check_forktree("kernel");
	check_forktree("uffd");
}

Test(cli, tree_of_forks)
{
	struct said s = run(ARGS("run", guest("forktree"), "--", "3", "3"));

	cr_assert_eq(s.status, 0, "%s%s", s.out, s.err);
	cr_assert_eq(lines(s.out), 1 + 3 + 9 + 27);
	cr_assert_eq(lines_with(s.out, "level 3 "), 27);
	said_free(&s);
}

static void check_guest(const char *const *args, const char *line)
{
	struct said s = run(args);

	cr_assert_eq(s.status, 0, "%s%s", s.out, s.err);
	cr_assert_not_null(strstr(s.out, line), "%s", s.out);
	cr_assert_eq(s.err_size, 0, "%s", s.err);
	said_free(&s);
}

/* The guests check it: what nobody wrote is zero, what was written stays. */
Test(cli, memory_holds_what_was_written)
{
	static const char *const faults[] = {"auto", "kernel", "uffd"};
	static const char *const pages[] = {"auto", "4k", "2m"};

	for (size_t f = 0; f < 3; f++) {
		for (size_t p = 0; p < 3; p++) {
			check_guest(ARGS("run", "--faults", faults[f], "--page-size", pages[p],
			                 guest("memwalk"), "--", "size=8M", "pattern=random",
			                 "access=rw"),
			            "every word ok");
		}
		check_guest(ARGS("run", "--faults", faults[f], "--cpus", "4", guest("smp")),
		            "4 vCPUs ok");
	}
	check_guest(ARGS("run", "--populate", guest("memwalk")), "every word ok");
}

Test(cli, exit_status_is_the_guests_own)
{
	static const int codes[] = {0, 1, 7, 125, 255};
	char text[16];

	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		struct said s;

		snprintf(text, sizeof(text), "%d", codes[i]);
		s = run(ARGS("run", guest("crash"), "--", "exit", text));
		cr_assert_eq(s.status, codes[i], "%d", s.status);
		cr_assert_eq(s.err_size, 0, "%s", s.err);
		said_free(&s);
	}
}

Test(cli, crash_is_reported)
{
	static const char *const crashes[] = {"triple",  "port",  "jump", "write",
	                                      "illegal", "stack", "halt", "mmio"};

	for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++) {
		struct said s = run(ARGS("run", guest("crash"), "--", crashes[i]));

		cr_assert_eq(s.status, 126, "%s: %d %s", crashes[i], s.status, s.err);
		cr_assert_eq(lines(s.out), 1, "%s", s.out);
		cr_assert_eq(lines_with(s.err, "cowslip: guest crashed: "), 1, "%s", s.err);
		cr_assert_eq(lines_with(s.err, "cowslip: "), lines(s.err), "%s", s.err);
		cr_assert(strstr(s.err, "pc 0x") || strstr(s.err, "rip=0x"), "%s", s.err);
		said_free(&s);
	}
}

Test(cli, endless_guest_runs_out_of_time)
{
	struct said s =
		run(ARGS("run", "--timeout", "0.4", "--cpus", "2", guest("crash"), "--", "hang"));

	cr_assert_eq(s.status, 124, "%d %s", s.status, s.err);
	cr_assert_str_eq(s.out, "crash: hang\nhanging\n");
	cr_assert_eq(lines(s.err), 1, "%s", s.err);
	cr_assert_not_null(strstr(s.err, "--timeout"), "%s", s.err);
	cr_assert(s.seconds >= 0.4 && s.seconds < 10, "%f", s.seconds);
	said_free(&s);
}

Test(cli, clones_run_out_of_time)
{
	struct said s;
	json_t *json;

	save_walker("t.cow", 96);
	s = run(ARGS("clone", "-n", "3", "--timeout", "0.01", "--stats=json", scratch("t.cow")));
	cr_assert_eq(s.status, 124, "%d %s", s.status, s.err);
	json = last_json(s.err);
	cr_assert_eq(json_at(json, "clones.failed"), 3);
	cr_assert_eq(lines_with(s.err, "cowslip: clone "), 3, "%s", s.err);
	json_decref(json);
	said_free(&s);
}

Test(cli, guest_over_its_limit)
{
	struct said s = run(ARGS("run", "--faults", "uffd", "--limit", "4M", guest("memwalk")));

	cr_assert_eq(s.status, 125, "%d %s", s.status, s.err);
	cr_assert_eq(lines(s.err), 1, "%s", s.err);
	cr_assert_not_null(strstr(s.err, "--limit"), "%s", s.err);
	said_free(&s);
}

Test(cli, saved_guest_may_go_on)
{
	struct said s = run(ARGS("run", "--save", scratch("t.cow"), "--go-on", guest("counter"),
	                         "--", "check=all"));

	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(lines(s.out), 2, "%s", s.out);
	cr_assert_not_null(strstr(s.out, " clone 0 increments 0 table ok"), "%s", s.out);
	said_free(&s);
	s = run(ARGS("clone", scratch("t.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_not_null(strstr(s.out, " clone 1 increments 1 table ok"), "%s", s.out);
	said_free(&s);
}

static void check_unwritable(const char *const *args, const struct circumstances *how)
{
	struct said s = run_in(args, how);

	cr_assert_eq(s.status, 125, "%d %s", s.status, s.err);
	cr_assert_eq(lines(s.err), 1, "%s", s.err);
	cr_assert_eq(lines_with(s.err, "cowslip: cannot write to standard output"), 1, "%s", s.err);
	said_free(&s);
}

Test(cli, output_that_cannot_be_written)
{
	static const struct circumstances hows[] = {
		{.out_broken = true}, {.out_closed = true}, {.out_path = "/dev/full"}};
	char nonce[NONCE_LEN + 1];

	save_counter("64M", "t.cow", nonce);
	for (size_t i = 0; i < sizeof(hows) / sizeof(hows[0]); i++) {
		check_unwritable(ARGS("run", guest("hello")), &hows[i]);
		check_unwritable(ARGS("clone", "-n", "20", scratch("t.cow")), &hows[i]);
		check_unwritable(ARGS("image", "info", scratch("t.cow")), &hows[i]);
		check_unwritable(ARGS("doctor"), &hows[i]);
		check_unwritable(ARGS("run", "--help"), &hows[i]);
	}
}

Test(cli, image_says_what_is_in_it)
{
	char nonce[NONCE_LEN + 1];
	struct said s;
	json_error_t error;
	json_t *json;

	save_counter("64M", "t.cow", nonce);
	s = run(ARGS("image", "info", "--json", scratch("t.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	json = json_loads(s.out, 0, &error);
	cr_assert_not_null(json, "%s", error.text);
	cr_assert_eq(json_at(json, "ram_bytes"), 64 << 20);
	cr_assert_geq(json_at(json, "data_bytes"), 4 << 20);
	cr_assert_lt(json_at(json, "data_bytes"), 6 << 20);
	cr_assert_eq(json_at(json, "cpus"), 1);
	json_decref(json);
	said_free(&s);
	check_guest(ARGS("image", "info", scratch("t.cow")), "64.0 MiB");
	check_guest(ARGS("image", "verify", scratch("t.cow")), "whole");
}

Test(cli, doctor_finds_this_host_fit)
{
	struct said s = run(ARGS("doctor", "--json"));
	json_error_t error;
	json_t *json = json_loads(s.out, 0, &error);

	cr_assert_eq(s.status, 0, "%s", s.out);
	cr_assert_not_null(json, "%s", error.text);
	cr_assert(json_is_true(json_object_get(json, "can_run")));
	cr_assert_geq(json_array_size(json_object_get(json, "checks")), 14);
	json_decref(json);
	said_free(&s);
	check_guest(ARGS("doctor"), "Guests can run here.");
}

Test(cli, version_and_help)
{
	check_guest(ARGS("--version"), "cowslip ");
	check_guest(ARGS("--help"), "Exit status");
	check_guest(ARGS("run", "--help"), "--page-size");
	check_guest(ARGS("clone", "--help"), "--per-process");
	check_guest(ARGS("image", "--help"), "verify");
	check_guest(ARGS("image", "verify", "--help"), "--json");
	check_guest(ARGS("doctor", "--help"), "--json");
	check_guest(ARGS("clone", "--version"), "cowslip ");
}
