// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_ctl.c - `cowslip run --ctl` and `cowslip ctl` as their users have them.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/kvm/command.h"
#include "tests/kvm/lab.h"
#include "tests/kvm/pace.h"

TestSuite(ctl, .init = scratch_make, .fini = scratch_remove, .timeout = 600);

static bool is_there(const char *path)
{
	return access(path, F_OK) == 0;
}

/* A guest that runs, and the socket to ask it by. */
static struct running begin(const char *const *args, const char *sock)
{
	struct running r = start(args, NULL);

	for (unsigned i = 0; i < pace_patience(1000) && !is_there(sock); i++)
		usleep(10000);
	cr_assert(is_there(sock), "nobody listens on %s", sock);
	return r;
}

/* What is asked must be done; the reply is the caller's. */
static json_t *must(const char *const *args)
{
	struct said s = run(args);
	json_t *reply;

	cr_assert_eq(s.status, 0, "%s %s: %s", args[0], args[2], s.err);
	cr_assert_str_empty(s.err);
	cr_assert_eq(lines(s.out), 1, "%s", s.out);
	reply = last_json(s.out);
	cr_assert(json_is_true(json_object_get(reply, "ok")));
	said_free(&s);
	return reply;
}

/* The fork of `id`, which must be numbered so. Its pause may not be nothing. */
static void fork_of(const char *sock, const char *id, json_int_t child)
{
	json_t *reply = must(ARGS("ctl", sock, "fork", id));

	cr_assert_eq(json_at(reply, "id"), child);
	cr_assert_eq(json_at(reply, "parent"), strtoll(id, NULL, 10));
	cr_assert_gt(json_at(reply, "pause_us"), 0);
	cr_assert_geq(json_at(reply, "start_us"), json_at(reply, "pause_us"));
	json_decref(reply);
}

static size_t count_vms(const char *sock, const char *state)
{
	json_t *reply = must(ARGS("ctl", sock, "stats")), *vms = json_object_get(reply, "vms");
	size_t n = 0;

	for (size_t i = 0; i < json_array_size(vms); i++) {
		json_t *vm = json_array_get(vms, i);
		const char *is = json_string_value(json_object_get(vm, "state"));

		cr_assert_geq(json_at(vm, "shared_bytes"), 0);
		cr_assert_eq(json_at(vm, "cpus"), 1);
		n += strcmp(is, state) == 0;
	}
	json_decref(reply);
	return n;
}

/* Children's lines have their numbers; all end by themselves and were right. */
Test(ctl, forks)
{
	const char *sock = scratch("sock");
	char rounds[32], want[64];
	struct running r;
	unsigned count;
	struct said s;
	struct stat st;

	count = 30 + (unsigned)pace_patience(10);
	snprintf(rounds, sizeof(rounds), "rounds=%u", count);
	r = begin(ARGS("run", "--ctl", sock, "--mem", "16M", guest("stamp"), "--", "size=1M",
	               "rate=4000", rounds),
	          sock);
	cr_assert_eq(lstat(sock, &st), 0);
	cr_assert_eq(st.st_mode, S_IFSOCK | 0600);
	fork_of(sock, "0", 1);
	fork_of(sock, "1", 2);
	fork_of(sock, "0", 3);
	cr_assert_gt(count_vms(sock, "running"), 0);
	s = finish(&r);
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(lines(s.out), 4, "%s", s.out);
	for (unsigned i = 0; i <= 3; i++) {
		char lead[16] = "";

		if (i)
			snprintf(lead, sizeof(lead), "[%u] ", i);
		snprintf(want, sizeof(want), "%sstamps %u ok\n", lead, 256 * count);
		cr_assert_eq(lines_with(s.out, want), 1, "%s", s.out);
	}
	cr_assert(!is_there(sock));
	said_free(&s);
}

/* The child of a child of a child, all of them alive. */
Test(ctl, depth)
{
	const char *sock = scratch("sock");
	struct running r = begin(ARGS("run", "--ctl", sock, "--mem", "16M", guest("stamp"), "--",
	                              "size=4M", "rounds=0"),
	                         sock);
	struct said s;
	char id[16];

	for (int i = 0; i < 8; i++) {
		snprintf(id, sizeof(id), "%d", i);
		fork_of(sock, id, i + 1);
	}
	cr_assert_eq(count_vms(sock, "running"), 9);
	json_decref(must(ARGS("ctl", sock, "pause", "3")));
	cr_assert_eq(count_vms(sock, "paused"), 1);
	json_decref(must(ARGS("ctl", sock, "pause")));
	cr_assert_eq(count_vms(sock, "paused"), 9);
	json_decref(must(ARGS("ctl", sock, "resume", "all")));
	cr_assert_eq(count_vms(sock, "running"), 9);
	json_decref(must(ARGS("ctl", sock, "stop", "0")));
	cr_assert_eq(count_vms(sock, "running"), 8);
	refused(ARGS("ctl", sock, "fork"), "VM 0: there is none");
	json_decref(must(ARGS("ctl", sock, "stop")));
	s = finish(&r);
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_str_empty(s.err);
	said_free(&s);
}

/* The image is whole, and goes on where the guest was; the guest goes on as well. */
Test(ctl, save)
{
	const char *sock = scratch("sock"), *image = scratch("an image"), *again = scratch("b.cow");
	struct running r;
	char rounds[32];
	json_t *reply;
	struct said s;

	snprintf(rounds, sizeof(rounds), "rounds=%u", 20 + (unsigned)pace_patience(10));
	r = begin(ARGS("run", "--ctl", sock, "--cpus", "2", "--mem", "16M", guest("stamp"), "--",
	               "size=1M", "rate=4000", rounds),
	          sock);
	reply = must(ARGS("ctl", sock, "save", image));
	cr_assert_gt(json_at(reply, "pause_us"), 0);
	cr_assert_gt(json_at(reply, "write_us"), 0);
	cr_assert_str_eq(json_string_value(json_object_get(reply, "path")), image);
	json_decref(reply);
	fork_of(sock, "0", 1);
	json_decref(must(ARGS("ctl", sock, "save", again, "1")));
	refused(ARGS("ctl", sock, "save", scratch("nowhere/x.cow")), "No such file");
	refused(ARGS("ctl", sock, "save", again, "9"), "VM 9");
	s = finish(&r);
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(lines(s.out), 2, "%s", s.out);
	said_free(&s);
	/* Nothing half written is left. */
	cr_assert_eq(scratch_entries(), 2);
	for (unsigned i = 0; i < 2; i++) {
		const char *path = i ? again : image;

		s = run(ARGS("image", "verify", path));
		cr_assert_eq(s.status, 0, "%s", s.err);
		said_free(&s);
		s = run(ARGS("clone", "-n", "2", "-j", "1", path));
		cr_assert_eq(s.status, 0, "%s%s", s.out, s.err);
		cr_assert_eq(lines(s.out), 2, "%s", s.out);
		said_free(&s);
	}
}

/* What a guest has been told of itself: its lines `vm N generation G entropy E`. */
struct told {
	unsigned long vm;
	unsigned lines;
	char generation[17], entropy[17];
};

/* Of the VM whose lines begin with `lead`. */
static struct told told_by(const char *out, const char *lead)
{
	struct told t = {0};
	char start[32], *end;

	snprintf(start, sizeof(start), "%svm ", lead);
	for (const char *at = out; *at; at = strchr(at, '\n') + 1) {
		if (strncmp(at, start, strlen(start)) != 0)
			continue;
		t.lines++;
		t.vm = strtoul(at + strlen(start), &end, 10);
		cr_assert_eq(sscanf(end, " generation %16s entropy %16s", t.generation, t.entropy),
		             2, "%s", at);
	}
	return t;
}

/* A fork from outside is another VM, and learns so when it asks; its parent is who it was. */
Test(ctl, identity)
{
	const char *sock = scratch("sock");
	struct running r = begin(ARGS("run", "--ctl", sock, "--mem", "16M", guest("stamp"), "--",
	                              "size=1M", "who=1", "rate=20000", "rounds=0"),
	                         sock);
	struct told told[4];
	struct said s;

	fork_of(sock, "0", 1);
	fork_of(sock, "1", 2);
	fork_of(sock, "0", 3);
	usleep((unsigned)pace_patience(1) * 1000000);
	json_decref(must(ARGS("ctl", sock, "stop")));
	s = finish(&r);
	cr_assert_eq(s.status, 0, "%s", s.err);
	for (unsigned i = 0; i < 4; i++) {
		char lead[16] = "";

		if (i)
			snprintf(lead, sizeof(lead), "[%u] ", i);
		told[i] = told_by(s.out, lead);
		/* Forked between asking and telling, it first tells what its parent was told. */
		cr_assert(told[i].lines == 1 || (i > 0 && told[i].lines == 2), "%s", s.out);
		cr_assert_eq(told[i].vm, i, "%s", s.out);
		for (unsigned k = 0; k < i; k++) {
			cr_assert_str_neq(told[i].generation, told[k].generation);
			cr_assert_str_neq(told[i].entropy, told[k].entropy);
		}
	}
	said_free(&s);
}

/* The worst of all ends is the command's, and says whose it was. */
Test(ctl, status)
{
	const char *sock = scratch("sock"), *stats = scratch("stats");
	struct running r =
		begin(ARGS("run", "--ctl", sock, "--mem", "16M", "--timeout", "1", "--stats-file",
	                   stats, guest("stamp"), "--", "size=1M", "rounds=0"),
	              sock);
	struct said s;

	fork_of(sock, "0", 1);
	json_decref(must(ARGS("ctl", sock, "stop", "0")));
	s = finish(&r);
	cr_assert_eq(s.status, 124, "%s", s.err);
	cr_assert(lines(s.err) == 1 && strstr(s.err, "VM 1, a fork, ran"), "%s", s.err);
	cr_assert(is_there(stats));
	said_free(&s);
}

/* --save and --save-on are the first VM's, whatever is asked from outside. */
Test(ctl, with_save)
{
	const char *sock = scratch("sock"), *image = scratch("a.cow");
	struct running r = begin(ARGS("run", "--ctl", sock, "--mem", "16M", "--save", image,
	                              "--save-on", "round 400 ok", "--go-on", guest("stamp"), "--",
	                              "size=1M", "rounds=0", "every=400"),
	                         sock);
	struct said s;

	fork_of(sock, "0", 1);
	for (unsigned i = 0; i < pace_patience(1000) && !is_there(image); i++)
		usleep(10000);
	fork_of(sock, "0", 2);
	json_decref(must(ARGS("ctl", sock, "stop")));
	s = finish(&r);
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(lines_with(s.err, "saved "), 1, "%s", s.err);
	cr_assert_eq(lines_with(s.out, "round 400 ok\n"), 1, "%s", s.out);
	said_free(&s);
	s = run(ARGS("image", "verify", image));
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
}

/* ---- output that nobody reads ---- */

/* A guest that says a line each round, `rounds` of them (0: for ever), to a pipe. */
static struct running talk(const char *sock, const char *rounds, int *out)
{
	const char *const args[] = {"run", "--ctl",   sock,   "--mem",   "16M", guest("stamp"),
	                            "--",  "size=8K", rounds, "every=1", NULL};
	int ends[2];
	struct running r;

	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	r = start(args, &(struct circumstances){.out_fd = ends[1]});
	close(ends[1]);
	*out = ends[0];
	for (unsigned i = 0; i < pace_patience(1000) && !is_there(sock); i++)
		usleep(10000);
	cr_assert(is_there(sock), "nobody listens on %s", sock);
	return r;
}

/* Until the pipe is full, and what stands before it as well. */
static void wait_full(int fd)
{
	int last = -1, now = 0;

	for (unsigned i = 0; i < pace_patience(200) && now != last; i++) {
		last = now;
		usleep(300000);
		cr_assert_eq(ioctl(fd, FIONREAD, &now), 0);
		cr_assert_gt(now, 0);
	}
	cr_assert_eq(now, last);
	cr_assert_geq(now, 60 << 10, "%d bytes are no full pipe", now);
}

/* Done, and soon. */
static void soon(const char *const *args)
{
	struct said s = run(args);

	cr_assert_eq(s.status, 0, "%s: %s", args[2], s.err);
	cr_assert_lt(s.seconds, (double)pace_patience(1), "%s: %g s", args[2], s.seconds);
	said_free(&s);
}

/* All there is to read. The caller's. */
static char *read_all(int fd)
{
	FILE *f = fdopen(fd, "r");
	char *text = NULL;
	size_t room = 0;

	cr_assert_not_null(f);
	cr_assert_gt(getdelim(&text, &room, '\0', f), 0);
	fclose(f);
	return text;
}

/* Lines that begin so, `round N ok` behind it, without a gap from the first. Return: how many. */
static unsigned rounds_of(const char *text, const char *lead)
{
	unsigned count = 0, first = 0;
	char want[64];

	for (const char *at = text; *at; at = strchrnul(at, '\n'), at += *at == '\n') {
		if (strncmp(at, lead, strlen(lead)) != 0)
			continue;
		at += strlen(lead);
		if (strncmp(at, "round ", 6) != 0)
			continue;
		if (count == 0)
			first = (unsigned)strtoul(at + 6, NULL, 10);
		snprintf(want, sizeof(want), "round %u ok\n", first + count);
		cr_assert_eq(strncmp(at, want, strlen(want)), 0, "%s%.40s, not %s", lead, at, want);
		count++;
	}
	return count;
}

/* All that can be asked is answered, and the end does not wait for the reader. */
Test(ctl, nobody_reads)
{
	const char *sock = scratch("sock");
	struct running r;
	struct said s;
	int out;

	r = talk(sock, "rounds=0", &out);
	wait_full(out);
	soon(ARGS("ctl", sock, "stats"));
	soon(ARGS("ctl", sock, "fork"));
	soon(ARGS("ctl", sock, "fork", "1"));
	soon(ARGS("ctl", sock, "pause"));
	cr_assert_eq(count_vms(sock, "paused"), 3);
	soon(ARGS("ctl", sock, "resume"));
	soon(ARGS("ctl", sock, "save", scratch("a.cow"), "2"));
	soon(ARGS("ctl", sock, "stop", "1"));
	soon(ARGS("ctl", sock, "stop"));
	s = finish(&r);
	cr_assert_eq(s.status, 125, "%s", s.err);
	cr_assert(lines(s.err) == 1 && strstr(s.err, "bytes are lost"), "%s", s.err);
	cr_assert(!is_there(sock));
	close(out);
	said_free(&s);
}

/* A reader that comes late finds everything, in order, of each of them. */
Test(ctl, late_reader)
{
	const char *sock = scratch("sock");
	struct running r;
	struct said s;
	char *text;
	int out;

	r = talk(sock, "rounds=20000", &out);
	wait_full(out);
	fork_of(sock, "0", 1);
	fork_of(sock, "1", 2);
	wait_full(out);
	text = read_all(out);
	s = finish(&r);
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_str_empty(s.err);
	cr_assert_eq(rounds_of(text, ""), 20000);
	cr_assert(strncmp(text, "round 1 ok\n", 11) == 0, "%.40s", text);
	for (unsigned i = 0; i <= 2; i++) {
		char lead[16] = "", last[64];

		if (i)
			snprintf(lead, sizeof(lead), "[%u] ", i);
		if (i)
			cr_assert_gt(rounds_of(text, lead), 1000);
		snprintf(last, sizeof(last), "%sstamps 40000 ok\n", lead);
		cr_assert_eq(lines_with(text, last), 1);
	}
	free(text);
	said_free(&s);
}

/* Nor does a guest's time stand still. */
Test(ctl, time_runs_out_unread)
{
	const char *sock = scratch("sock");
	int ends[2];
	struct said s;

	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	/* Small, so that a guest fills it in a second on any machine. */
	cr_assert_geq(fcntl(ends[1], F_SETPIPE_SZ, 4096), 4096);
	s = run_in(ARGS("run", "--ctl", sock, "--mem", "16M", "--timeout", "1", guest("stamp"),
	                "--", "size=8K", "rounds=0", "every=1"),
	           &(struct circumstances){.out_fd = ends[1]});
	cr_assert_eq(s.status, 124, "%s", s.err);
	cr_assert_eq(lines(s.err), 2, "%s", s.err);
	cr_assert_lt(s.seconds, 5 * (double)pace_patience(1));
	close(ends[0]);
	close(ends[1]);
	said_free(&s);
}

/* Each row as often as asked, whatever the pauses are. */
Test(ctl, bench)
{
	static const struct {
		const char *name;
		unsigned count;
	} rows[] = {{"stop and go", 32}, {"first fork", 4},  {"first child", 4},
	            {"next fork", 12},   {"next child", 12}, {"first fork, 4k", 2}};
	struct said s = run(ARGS("bench", "fork", "--size", "8M", "-n", "2", "--forks", "3",
	                         "--every", "5", "--repeat", "2", "--json"));
	json_t *doc, *all;

	cr_assert_eq(s.status, 0, "%s", s.err);
	doc = json_loads(s.out, 0, NULL);
	all = json_object_get(doc, "rows");
	cr_assert_eq(json_array_size(all), 6);
	for (size_t i = 0; i < 6; i++) {
		json_t *row = json_array_get(all, i);

		cr_assert_str_eq(json_string_value(json_object_get(row, "name")), rows[i].name);
		cr_assert_eq(json_at(row, "count"), rows[i].count, "%s", rows[i].name);
		cr_assert_gt(json_number_value(json_object_get(row, "us_p50")), 0);
		cr_assert_geq(json_number_value(json_object_get(row, "us_max")),
		              json_number_value(json_object_get(row, "us_p50")));
	}
	json_decref(doc);
	said_free(&s);
	refused(ARGS("bench", "fork", "--size", "5000"), "4 KiB");
	refused(ARGS("bench", "fork", "--size", "1T"), "ask for less");
	refused(ARGS("bench", "fork", "--rate", "0"), "--rate 0");
}
