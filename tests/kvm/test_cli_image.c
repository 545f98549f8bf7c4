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
#include "tests/kvm/pace.h"
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

/* ---- lines of images ---- */

static void save_clone(const char *from, const char *to)
{
	struct said s = run(ARGS("clone", scratch(from), "--save", scratch(to)));

	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
}

static json_t *json_of(const char *const *args, int status)
{
	struct said s = run(args);
	json_error_t error;
	json_t *json;

	cr_assert_eq(s.status, status, "%d %s", s.status, s.err);
	json = json_loads(s.out, 0, &error);
	cr_assert_not_null(json, "%s in: %s", error.text, s.out);
	said_free(&s);
	return json;
}

static json_t *entry(json_t *list, const char *name)
{
	size_t i;
	json_t *e;

	json_array_foreach(list, i, e) if (!strcmp(json_string_value(json_object_get(e, "name")),
	                                           name)) return e;
	cr_assert(false, "%s is not listed", name);
	return NULL;
}

static const char *level(int n)
{
	char name[32];

	snprintf(name, sizeof(name), "level-%d.cow", n);
	return scratch(name);
}

/* None that another lies in can be removed; all but a few of a line are such. */
static void keep_used_levels(int levels)
{
	json_t *list = json_of(ARGS("image", "ls", "--json", scratch("")), 0);
	unsigned kept = 0;

	for (int n = 0; n <= levels; n++) {
		const char *path = level(n);

		if (json_at(entry(list, strrchr(path, '/') + 1), "used") == 0)
			continue;
		refused(ARGS("image", "rm", path), "partly in it");
		kept++;
	}
	json_decref(list);
	cr_assert_geq(kept, (unsigned)levels - 8, "%u", kept);
}

/* Sixty-four; each in a process of its own, and the guest knows what every word must be. */
Test(cli_image, a_long_line, .timeout = 600)
{
	const int levels = (int)pace_rounds(64, 16);
	struct said s = run(ARGS("run", "--mem", "32M", "--save", level(0), guest("memwalk"), "--",
	                         "size=4M", "ready=65"));

	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	for (int n = 1; n <= levels; n++) {
		s = run(ARGS("clone", level(n - 1), "--save", level(n)));
		cr_assert_eq(s.status, 0, "%s", s.err);
		said_free(&s);
	}
	for (int n = 0; n <= levels; n++) {
		s = run(ARGS("clone", level(n)));
		cr_assert_eq(s.status, 0, "level %d: %s", n, s.err);
		cr_assert_eq(lines_with(s.out, "memwalk: every word ok"), 1, "%s", s.out);
		said_free(&s);
	}
	keep_used_levels(levels);
	expect_whole(level(levels));
	cr_assert_eq(scratch_entries(), (unsigned)levels + 1);
	/* Flat, the last needs none of the others. */
	s = run(ARGS("image", "flatten", level(levels), scratch("flat.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	for (int n = 0; n <= levels; n++) {
		if (access(level(n), F_OK))
			continue;
		s = run(ARGS("image", "rm", "--cascade", level(n)));
		cr_assert_eq(s.status, 0, "%s", s.err);
		said_free(&s);
	}
	cr_assert_eq(scratch_entries(), 1);
	s = run(ARGS("clone", "-n", "3", scratch("flat.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
}

/* a <- b <- c and a <- d, in which all lie partly in a, and c in b. */
static void make_tree(void)
{
	save_chain_guest("a.cow", "ready=4");
	save_clone("a.cow", "b.cow");
	save_clone("b.cow", "c.cow");
	save_clone("a.cow", "d.cow");
}

Test(cli_image, info_tells_of_parent_and_devices)
{
	json_t *json;
	struct said s;

	make_tree();
	s = run(ARGS("image", "info", scratch("c.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(lines_with(s.out, "parent    b.cow, content "), 1, "%s", s.out);
	cr_assert_eq(lines_with(s.out, "devices   serial port, power control, doorbell"), 1, "%s",
	             s.out);
	said_free(&s);
	/* Without the file it lies in, there is still something to tell. */
	cr_assert_eq(unlink(scratch("a.cow")), 0);
	json = json_of(ARGS("image", "info", "--json", scratch("c.cow")), 0);
	cr_assert(json_is_null(json_object_get(json, "devices")));
	cr_assert_eq(json_at(json, "layers"), 2);
	json_decref(json);
}

Test(cli_image, ls_shows_the_tree)
{
	struct said s;
	json_t *list;
	FILE *f;

	make_tree();
	f = fopen(scratch("notes"), "we");
	fputs("not an image\n", f);
	fclose(f);
	copy_patched(scratch("d.cow"), scratch("x.cow"), 8192, 5000, "?", 1);
	s = run(ARGS("image", "ls", scratch("")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(lines(s.out), 6, "%s", s.out);
	cr_assert_not_null(strstr(s.out, "\na.cow "), "%s", s.out);
	cr_assert_not_null(strstr(s.out, "\n  b.cow "), "%s", s.out);
	cr_assert_not_null(strstr(s.out, "\n    c.cow "), "%s", s.out);
	cr_assert_not_null(strstr(s.out, "\n  d.cow "), "%s", s.out);
	cr_assert_not_null(strstr(s.out, "\nx.cow "), "%s", s.out);
	said_free(&s);
	list = json_of(ARGS("image", "ls", "--json", scratch("")), 0);
	cr_assert_eq(json_array_size(list), 5);
	cr_assert_eq(json_at(entry(list, "a.cow"), "used"), 3);
	cr_assert_eq(json_at(entry(list, "b.cow"), "used"), 1);
	cr_assert_eq(json_at(entry(list, "c.cow"), "used"), 0);
	cr_assert_gt(json_at(entry(list, "a.cow"), "data_bytes"), 16 << 20);
	cr_assert_lt(json_at(entry(list, "c.cow"), "disk_bytes"), 1 << 20);
	cr_assert_gt(json_at(entry(list, "c.cow"), "layer_bytes"), 15 << 20);
	cr_assert_str_eq(json_string_value(json_object_get(entry(list, "c.cow"), "parent")),
	                 "b.cow");
	cr_assert_not_null(json_object_get(entry(list, "x.cow"), "error"));
	json_decref(list);
	refused(ARGS("image", "ls", scratch("none")), "none");
}

Test(cli_image, rm_keeps_what_others_lie_in)
{
	struct said s;

	make_tree();
	refused(ARGS("image", "rm", scratch("a.cow")), "a.cow: b.cow and 2 more lie partly in it");
	refused(ARGS("image", "rm", scratch("b.cow")), "b.cow: c.cow lies partly in it");
	refused(ARGS("image", "rm", scratch("a.cow"), scratch("b.cow"), scratch("c.cow")),
	        "partly in it");
	refused(ARGS("image", "rm", scratch("e.cow")), "e.cow");
	cr_assert_eq(scratch_entries(), 4);
	s = run(ARGS("image", "rm", scratch("b.cow"), scratch("c.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_not_null(strstr(s.out, "c.cow\nremoved "), "the user first: %s", s.out);
	said_free(&s);
	cr_assert_eq(scratch_entries(), 2);
	s = run(ARGS("image", "rm", "--cascade", scratch("a.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	cr_assert_eq(scratch_entries(), 0);
}

/* Nor is an image saved over one that others lie in. */
Test(cli_image, saves_keep_what_others_lie_in)
{
	make_tree();
	refused(ARGS("run", "--save", scratch("a.cow"), guest("counter")), "partly in it");
	refused(ARGS("clone", scratch("c.cow"), "--save", scratch("b.cow")), "partly in it");
	refused(ARGS("image", "flatten", scratch("d.cow"), scratch("a.cow")), "partly in it");
	save_clone("b.cow", "d.cow");
	save_clone("b.cow", "c.cow");
	for (const char *name = "abcd"; *name; name++) {
		char file[] = {*name, '.', 'c', 'o', 'w', '\0'};

		expect_whole(scratch(file));
	}
}

Test(cli_image, missing_parent_is_one_line)
{
	make_tree();
	cr_assert_eq(rename(scratch("a.cow"), scratch("z")), 0);
	refused(ARGS("clone", scratch("c.cow")), "c.cow lies partly in a.cow, which is missing");
	refused(ARGS("image", "verify", scratch("c.cow")), "a.cow, which is missing");
	cr_assert_eq(rename(scratch("d.cow"), scratch("a.cow")), 0);
	refused(ARGS("clone", scratch("c.cow")), "is not that image any more");
	refused(ARGS("image", "flatten", scratch("c.cow"), scratch("f.cow")), "a.cow");
}

Test(cli_image, diff_and_map)
{
	struct said s;
	json_t *json;

	make_tree();
	json = json_of(
		ARGS("image", "diff", "--json", "--ranges", scratch("a.cow"), scratch("b.cow")), 1);
	cr_assert_gt(json_at(json, "pages.shared"), 4000);
	cr_assert_gt(json_at(json, "pages.changed"), 0);
	cr_assert_lt(json_at(json, "pages.changed"), 200);
	cr_assert_gt(json_array_size(json_object_get(json, "ranges")), 0);
	json_decref(json);
	s = run(ARGS("image", "flatten", scratch("c.cow"), scratch("f.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	s = run(ARGS("image", "diff", scratch("c.cow"), scratch("f.cow")));
	cr_assert_eq(s.status, 0, "%s%s", s.out, s.err);
	said_free(&s);
	refused(ARGS("image", "diff", scratch("c.cow")), "another image is wanted");
	s = run(ARGS("image", "map", scratch("c.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	/* The first block holds page tables: where the CPU walks them itself, it writes there. */
	cr_assert(strstr(s.out, "  sx") || strstr(s.out, "  xx"), "%s", s.out);
	said_free(&s);
	json = json_of(ARGS("image", "map", "--json", scratch("f.cow")), 0);
	cr_assert_eq(json_at(json, "shared"), 0);
	cr_assert_gt(json_at(json, "own"), 4000);
	json_decref(json);
	s = run(ARGS("image", "map", scratch("c.cow"), "--svg", "-"));
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(lines_with(s.out, "<svg "), 1);
	cr_assert_eq(lines_with(s.out, "</svg>"), 1);
	said_free(&s);
	refused(ARGS("image", "map", scratch("c.cow"), "--svg", scratch("no/m.svg")), "no/m.svg");
}

/* ---- damage, and files that change under their users ---- */

/* A byte of the first page of data that is stored at or above `from`. */
static void damage(const char *path, long from)
{
	FILE *f = fopen(path, "r+e");
	int byte;

	cr_assert_not_null(f);
	fseek(f, from, SEEK_SET);
	while ((byte = fgetc(f)) == 0)
		;
	cr_assert_neq(byte, EOF);
	fseek(f, -1, SEEK_CUR);
	fputc(byte ^ 4, f);
	fclose(f);
}

Test(cli_image, eager_finds_damage_before_it_is_used)
{
	struct said s;

	make_tree();
	s = run(ARGS("clone", "--verify=eager", scratch("c.cow")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	damage(scratch("a.cow"), 6 << 20);
	refused(ARGS("clone", "--verify=eager", scratch("a.cow")), "a.cow is damaged between off");
	refused(ARGS("clone", "--verify", "eager", scratch("c.cow")), "a.cow is damaged between");
	refused(ARGS("image", "verify", scratch("d.cow")), "a.cow is damaged between");
	refused(ARGS("clone", "--verify=soon", scratch("a.cow")), "--verify");
	/* Asked for nothing, nothing is read: the guest itself finds the wrong word. */
	s = run(ARGS("clone", "--verify=later", scratch("c.cow")));
	cr_assert_neq(s.status, 125, "%s", s.err);
	said_free(&s);
}

/* ---- commands on damaged images ---- */

/* Every command on `path`: an answer or one error line, never a crash. */
static void all_commands(const char *path, const char *whole)
{
	const char *const *const commands[] = {
		ARGS("image", "info", path),
		ARGS("image", "verify", path),
		ARGS("image", "ls", scratch("")),
		ARGS("image", "map", path),
		ARGS("image", "diff", whole, path),
		ARGS("image", "flatten", path, scratch("f.cow")),
		ARGS("clone", "--timeout", "10", path),
		ARGS("clone", "--verify=eager", path),
	};

	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		struct said s = run(commands[i]);

		cr_assert_lt(s.status, 1000, "%s %s: signal %d: %s", commands[i][0], commands[i][1],
		             s.status - 1000, s.err);
		if (s.status == 125 && i < 6)
			cr_assert_eq(lines(s.err), 1, "%s", s.err);
		said_free(&s);
	}
}

Test(cli_image, commands_survive_damage, .timeout = 7200)
{
	const char *times = getenv("TORTURE_TIMES");
	unsigned most = times ? (unsigned)strtoul(times, NULL, 10) / 20 : 10;
	struct stat st;
	uint8_t bytes[16384];
	FILE *f;

	save_chain_guest("a.cow", "ready=2");
	save_clone("a.cow", "b.cow");
	cr_assert_eq(stat(scratch("b.cow"), &st), 0);
	f = fopen(scratch("b.cow"), "re");
	cr_assert_eq(fread(bytes, 1, sizeof(bytes), f), sizeof(bytes));
	fclose(f);
	for (unsigned i = 0; i < most; i++) {
		size_t at = (size_t)random() % (i % 2 ? 700 : sizeof(bytes));
		uint8_t bad = bytes[at] ^ (uint8_t)(1u << random() % 8);

		/* Some are cut short as well. */
		copy_patched(scratch("b.cow"), scratch("x.cow"),
		             i % 5 ? (size_t)st.st_size : (size_t)random() % (size_t)st.st_size, at,
		             &bad, 1);
		all_commands(scratch("x.cow"), scratch("b.cow"));
	}
}

/* Every line of a command's clones has the nonce of the image that it opened. */
static void one_nonce(const struct said *s, unsigned count)
{
	char first[17], nonce[17];
	const char *line = s->out;

	cr_assert_eq(s->status, 0, "%s", s->err);
	cr_assert_eq(lines(s->out), count, "%s", s->out);
	cr_assert_eq(sscanf(line, "[%*u] nonce %16[0-9a-f]", first), 1, "%s", line);
	for (; *line; line = strchr(line, '\n') + 1) {
		cr_assert_eq(sscanf(line, "[%*u] nonce %16[0-9a-f]", nonce), 1, "%s", line);
		cr_assert_str_eq(nonce, first);
	}
}

Test(cli_image, replaced_and_removed_under_many_processes)
{
	const char *path = scratch("t.cow");
	struct running r[6];
	struct said s;

	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 6; i++) {
			if (i % 3 == 0) {
				s = run(ARGS("run", "--save", path, guest("counter")));
				cr_assert_eq(s.status, 0, "%s", s.err);
				said_free(&s);
			}
			r[i] = start(ARGS("clone", "-n", "12", "--hold", path), NULL);
		}
		/* They have it open soon: then the name means nothing to them. */
		sleep_us(random() % 40000);
		if (round == 2)
			unlink(path);
		for (unsigned i = 0; i < 6; i++) {
			s = finish(&r[i]);
			if (round < 2 || s.status != 125)
				one_nonce(&s, 12);
			else
				cr_assert_not_null(strstr(s.err, "cannot be opened"), "%s", s.err);
			said_free(&s);
		}
	}
}

/* ---- signals ---- */

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
