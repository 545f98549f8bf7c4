// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_ctl_wrong.c - control sockets: what cannot be, and clients that misbehave.
 * Whatever one does, others are served, and the guest ends well.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/kvm/command.h"
#include "tests/kvm/lab.h"
#include "tests/kvm/pace.h"
#include "vmm/ctl.h"

TestSuite(ctl_wrong, .init = scratch_make, .fini = scratch_remove, .timeout = 600);

static struct running begin(const char *sock)
{
	struct running r = start(ARGS("run", "--ctl", sock, "--mem", "16M", guest("stamp"), "--",
	                              "size=1M", "rounds=0"),
	                         NULL);

	for (unsigned i = 0; i < pace_patience(1000) && access(sock, F_OK); i++)
		usleep(10000);
	return r;
}

static void stop(struct running *r, const char *sock)
{
	struct said s = run(ARGS("ctl", sock, "stop"));

	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	s = finish(r);
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_str_empty(s.err);
	said_free(&s);
	cr_assert_neq(access(sock, F_OK), 0);
}

/* ---- the first moment ---- */

static char *no_answer(void *ctx, const char *line)
{
	(void)ctx;
	(void)line;
	return strdup("{}");
}

/* Connect as soon as it is there. Return: why that failed, when it was there. */
static void *connect_early(void *arg)
{
	const struct sockaddr_un *address = arg;
	int e;

	do {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

		e = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? errno : 0;
		close(fd);
	} while (e == ENOENT);
	return (void *)(intptr_t)e;
}

/* Whoever finds the socket is not refused, however early. */
Test(ctl_wrong, early)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const struct ctl_config config = {.path = scratch("sock"), .answer = no_answer};

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", config.path);
	for (unsigned i = 0; i < pace_rounds(500, 20); i++) {
		struct vm_error err;
		struct ctl *ctl;
		pthread_t early;
		void *e;

		cr_assert_eq(pthread_create(&early, NULL, connect_early, &address), 0);
		cr_assert_eq(ctl_start(&config, &ctl, &err), 0, "%s", err.text);
		cr_assert_eq(pthread_join(early, &e), 0);
		cr_assert_null(e, "round %u: %s", i, strerror((int)(intptr_t)e));
		ctl_stop(ctl);
		cr_assert_eq(scratch_entries(), 0);
	}
}

/* A name as long as a name of a socket can be. */
Test(ctl_wrong, long_name)
{
	struct vm_error err;
	struct ctl_config config = {.answer = no_answer};
	char name[sizeof(((struct sockaddr_un *)NULL)->sun_path)], *reply;
	size_t len = strlen(scratch("")), room = sizeof(name) - 1 - len;
	struct ctl *ctl;

	memset(name, 'n', room);
	name[room] = '\0';
	config.path = scratch(name);
	cr_assert_eq(strlen(config.path), sizeof(name) - 1);
	cr_assert_eq(ctl_start(&config, &ctl, &err), 0, "%s", err.text);
	cr_assert_eq(ctl_ask(config.path, "x", &reply, &err), 0, "%s", err.text);
	free(reply);
	cr_assert_eq(scratch_entries(), 1);
	ctl_stop(ctl);
}

static void works(const char *sock)
{
	struct said s = run(ARGS("ctl", sock, "stats"));

	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
}

static void works_soon(const char *sock)
{
	for (unsigned i = 0; i < pace_patience(500); i++) {
		struct said s = run(ARGS("ctl", sock, "stats"));
		bool served = s.status == 0;

		said_free(&s);
		if (served)
			break;
		usleep(10000);
	}
	works(sock);
}

/* ---- the file ---- */

static void put_file(const char *path)
{
	FILE *f = fopen(path, "we");

	cr_assert(f && fputs("precious", f) >= 0 && fclose(f) == 0);
}

Test(ctl_wrong, paths)
{
	const char *file = scratch("file"), *link = scratch("link"), *sock = scratch("sock");
	char path[300];
	struct running r;
	struct stat st;

	snprintf(path, sizeof(path), "%s/%0200d", scratch(""), 1);
	refused(ARGS("run", "--ctl", path, guest("hello")), "too long for a socket");
	refused(ARGS("ctl", path, "stats"), "too long for a socket");
	refused(ARGS("run", "--ctl", "", guest("hello")), "--ctl");
	refused(ARGS("run", "--ctl", scratch("none/sock"), guest("hello")), "No such file");
	put_file(file);
	refused(ARGS("run", "--ctl", file, guest("hello")), "no socket");
	cr_assert(stat(file, &st) == 0 && st.st_size == 8);
	refused(ARGS("ctl", file, "stats"), "nobody listens");
	refused(ARGS("ctl", scratch("none"), "stats"), "No such file");
	cr_assert_eq(symlink(file, link), 0);
	refused(ARGS("run", "--ctl", link, guest("hello")), "no socket");

	r = begin(sock);
	refused(ARGS("run", "--ctl", sock, guest("hello")), "another cowslip listens");
	works(sock);
	/* Killed, it leaves its file: nobody listens, and the next one takes the name. */
	kill(r.pid, SIGKILL);
	cr_assert_eq(waitpid(r.pid, NULL, 0), r.pid);
	cr_assert_eq(access(sock, F_OK), 0);
	refused(ARGS("ctl", sock, "stats"), "nobody listens");
	r = begin(sock);
	works_soon(sock);
	stop(&r, sock);
}

/* A file that has taken the name's place is not ours to remove. */
Test(ctl_wrong, name_taken_over)
{
	const char *sock = scratch("sock"), *away = scratch("away");
	struct running r = begin(sock);
	struct said s;

	cr_assert_eq(rename(sock, away), 0);
	put_file(sock);
	s = run(ARGS("ctl", away, "stop"));
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	s = finish(&r);
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	cr_assert_eq(access(sock, F_OK), 0);
}

/* Nothing that a test has started outlives it, however the test ends. */
Test(ctl_wrong, dies_with_its_test)
{
	const char *sock = scratch("sock");
	pid_t *started = mmap(NULL, sizeof(*started), PROT_READ | PROT_WRITE,
	                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status = 0, ended = 0;
	pid_t test;

	cr_assert_neq(started, MAP_FAILED);
	/* Orphans become ours to wait for. */
	cr_assert_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	test = fork();
	cr_assert_geq(test, 0);
	if (test == 0) {
		*started = begin(sock).pid;
		_exit(0);
	}
	cr_assert_eq(waitpid(test, NULL, 0), test);
	for (unsigned i = 0; i < pace_patience(1000) && ended == 0; i++) {
		ended = waitpid(*started, &status, WNOHANG);
		usleep(10000);
	}
	if (ended == 0)
		kill(*started, SIGKILL);
	cr_assert_eq(ended, *started);
	cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	munmap(started, sizeof(*started));
}

/* ---- words ---- */

Test(ctl_wrong, words)
{
	const char *sock = scratch("sock");
	struct running r = begin(sock);

	refused(ARGS("ctl"), "which socket");
	refused(ARGS("ctl", sock), "what is to be done");
	refused(ARGS("ctl", sock, "spoon"), "spoon: unknown");
	refused(ARGS("ctl", sock, ""), "empty");
	refused(ARGS("ctl", sock, "fork", "x"), "fork x: not the number");
	refused(ARGS("ctl", sock, "fork", "-1"), "-1: unknown option");
	refused(ARGS("ctl", sock, "fork", "1\n2"), "line end");
	refused(ARGS("ctl", sock, "fork", "all"), "one at a time");
	refused(ARGS("ctl", sock, "fork", "99"), "VM 99: there is none");
	refused(ARGS("ctl", sock, "fork", "99999999999999999999"), "not the number");
	refused(ARGS("ctl", sock, "fork", "0", "1"), "leave out what follows");
	refused(ARGS("ctl", sock, "fork", "0", "1", "2"), "one thing at a time");
	refused(ARGS("ctl", sock, "stats", "0"), "leave out what follows");
	refused(ARGS("ctl", sock, "pause", "7"), "VM 7: there is none");
	refused(ARGS("ctl", sock, "resume", "7"), "VM 7: there is none");
	refused(ARGS("ctl", sock, "stop", "7"), "VM 7: there is none");
	refused(ARGS("ctl", sock, "save"), "to what file");
	refused(ARGS("ctl", sock, "save", scratch("x"), "all"), "which VM");
	refused(ARGS("ctl", sock, "save", scratch("")), "not a regular file");
	stop(&r, sock);
}

/* ---- clients ---- */

/* The file is there a moment before anybody listens. */
static int connect_to(const char *sock)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), r = ECONNREFUSED;

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", sock);
	for (unsigned i = 0; i < pace_patience(500); i++) {
		r = connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? errno : 0;
		if (r != ECONNREFUSED)
			break;
		usleep(10000);
	}
	cr_assert_eq(r, 0, "%s: %s", sock, strerror(r));
	return fd;
}

/* Up to `size` bytes until the other side ends the connection or a line. */
static size_t hear(int fd, char *text, size_t size)
{
	size_t n = 0;
	ssize_t got;

	while (n < size - 1 && (got = recv(fd, text + n, size - 1 - n, 0)) > 0) {
		n += (size_t)got;
		if (text[n - 1] == '\n')
			break;
	}
	text[n] = '\0';
	return n;
}

/* Has the other side ended it? */
static void expect_end(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char rest[64];

	cr_assert_eq(poll(&p, 1, (int)pace_patience(10000)), 1);
	cr_assert_leq(recv(fd, rest, sizeof(rest), 0), 0);
	close(fd);
}

static void send_all(int fd, const void *data, size_t size)
{
	cr_assert_eq(send(fd, data, size, MSG_NOSIGNAL), (ssize_t)size);
}

/* Several requests on one connection; what cannot be understood ends nothing. */
Test(ctl_wrong, one_connection)
{
	static const char *const lines_sent[][2] = {
		{"\n", "nothing asked"},
		{"   \n", "nothing asked"},
		{"fork\r\n", "\"ok\":true"},
		{"\tstats \n", "\"vms\""},
		{"\xff\xfe\n", "UTF-8"},
		{"fork fork fork fork\n", "not the number"},
		{"FORK\n", "unknown"},
		{"save 0\n", "to what file"},
		{"save / 0\n", "not the number"},
		{"save 0 \xff\n", "UTF-8"},
		{"fork aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\xc3\xa4\n", "not the number"},
		{"stop 1\n", "\"ok\":true"},
	};
	const char *sock = scratch("sock");
	struct running r = begin(sock);
	int fd = connect_to(sock);
	char text[4096];

	for (size_t i = 0; i < sizeof(lines_sent) / sizeof(lines_sent[0]); i++) {
		const char *line = lines_sent[i][0];

		/* In two pieces. */
		send_all(fd, line, strlen(line) / 2);
		usleep(2000);
		send_all(fd, line + strlen(line) / 2, strlen(line) - strlen(line) / 2);
		hear(fd, text, sizeof(text));
		cr_assert(strstr(text, lines_sent[i][1]), "to %zu: %s", i, text);
	}
	/* And all in one. */
	send_all(fd, "stats\nbogus\nstats\n", 18);
	for (unsigned i = 0; i < 3; i++) {
		char *end = text;

		while (end < text + sizeof(text) - 1 && recv(fd, end, 1, 0) == 1 && *end != '\n')
			end++;
		*end = '\0';
		cr_assert(strstr(text, i == 1 ? "unknown" : "\"vms\""), "%u: %s", i, text);
	}
	close(fd);
	stop(&r, sock);
}

Test(ctl_wrong, garbage)
{
	static const char zeros[100], nul_line[] = "fork\0 0\n";
	const char *sock = scratch("sock");
	struct running r = begin(sock);
	char *much = malloc(MIB), text[4096];
	int fd;

	cr_assert_not_null(much);
	memset(much, 'x', MIB);
	/* A line without end: one word about it, then no more. */
	fd = connect_to(sock);
	for (size_t sent = 0; sent < MIB;) {
		ssize_t n = send(fd, much + sent, MIB - sent, MSG_NOSIGNAL);

		if (n <= 0)
			break;
		sent += (size_t)n;
	}
	hear(fd, text, sizeof(text));
	cr_assert(strstr(text, "4096 bytes at most"), "%s", text);
	expect_end(fd);
	/* The longest that is one: unknown, no more. */
	fd = connect_to(sock);
	much[4096] = '\n';
	send_all(fd, much, 4097);
	hear(fd, text, sizeof(text));
	cr_assert(strstr(text, "unknown"), "%s", text);
	close(fd);
	/* No text. */
	fd = connect_to(sock);
	send_all(fd, nul_line, sizeof(nul_line) - 1);
	hear(fd, text, sizeof(text));
	cr_assert(strstr(text, "one line of text"), "%s", text);
	expect_end(fd);
	fd = connect_to(sock);
	send_all(fd, zeros, sizeof(zeros));
	close(fd);
	works(sock);
	free(much);
	stop(&r, sock);
}

/* They hang, or go, at every point there is; nobody else is kept waiting, nor the end. */
Test(ctl_wrong, hangs)
{
	const char *sock = scratch("sock");
	struct running r = begin(sock);
	int hanging[32];

	for (unsigned i = 0; i < 32; i++) {
		hanging[i] = connect_to(sock);
		if (i % 4 == 1)
			send_all(hanging[i], "for", 3);
		if (i % 4 == 2)
			send_all(hanging[i], "stats\n", 6);
		if (i % 4 == 3)
			send_all(hanging[i], "stats\nst", 8);
	}
	works(sock);
	for (unsigned i = 0; i < 16; i++)
		close(hanging[i]);
	works(sock);
	stop(&r, sock);
	for (unsigned i = 16; i < 32; i++)
		close(hanging[i]);
}

/* One that asks and asks and reads nothing. It waits for its 30 seconds, but the end does not. */
Test(ctl_wrong, does_not_read)
{
	const char *sock = scratch("sock");
	struct running r = begin(sock);
	struct pollfd p = {.fd = connect_to(sock), .events = POLLOUT};
	struct timespec from, to;

	while (poll(&p, 1, 500) == 1)
		cr_assert_gt(send(p.fd, "stats\n", 6, MSG_NOSIGNAL | MSG_DONTWAIT), 0);
	works(sock);
	clock_gettime(CLOCK_MONOTONIC, &from);
	stop(&r, sock);
	clock_gettime(CLOCK_MONOTONIC, &to);
	cr_assert_lt(to.tv_sec - from.tv_sec, 20);
	close(p.fd);
}

/* More than are served at once. */
Test(ctl_wrong, too_many)
{
	const char *sock = scratch("sock");
	struct running r = begin(sock);
	int fd[64];

	for (unsigned i = 0; i < 64; i++)
		fd[i] = connect_to(sock);
	refused(ARGS("ctl", sock, "stats"), "without an answer");
	for (unsigned i = 0; i < 64; i++)
		close(fd[i]);
	works_soon(sock);
	stop(&r, sock);
}

/* Asks for what takes long, and goes: it is done all the same, whole or not at all. */
Test(ctl_wrong, asks_and_goes)
{
	const char *sock = scratch("sock"), *image = scratch("a.cow");
	struct running r = begin(sock);
	char line[600];
	struct said s;
	int fd;

	snprintf(line, sizeof(line), "save 0 %s\nfork 0\nfork 0\n", image);
	fd = connect_to(sock);
	send_all(fd, line, strlen(line));
	close(fd);
	for (unsigned i = 0; i < pace_patience(1000) && access(image, F_OK); i++)
		usleep(10000);
	works(sock);
	stop(&r, sock);
	s = run(ARGS("image", "verify", image));
	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
}

/* ---- a server that is none ---- */

static const char *served_line;

static pid_t serve(const char *sock)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), c;
	char text[64];
	pid_t pid;

	unlink(sock);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", sock);
	cr_assert(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 1) == 0);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0) {
		c = accept(fd, NULL, NULL);
		hear(c, text, sizeof(text));
		(void)!write(c, served_line, strlen(served_line));
		_exit(0);
	}
	close(fd);
	return pid;
}

Test(ctl_wrong, not_a_cowslip)
{
	static const char *const replies[][2] = {
		{"", "without an answer"},          {"half a", "without an answer"},
		{"hello\n", "is no cowslip"},       {"{}\n", "is no cowslip"},
		{"[1,2]\n", "is no cowslip"},       {"{\"ok\":1}\n", "is no cowslip"},
		{"{\"ok\":false}\n", "no cowslip"}, {"{\"error\":\"so\"}\n", "so"},
	};
	const char *sock = scratch("sock");

	for (size_t i = 0; i < sizeof(replies) / sizeof(replies[0]); i++) {
		pid_t pid;

		served_line = replies[i][0];
		pid = serve(sock);
		refused(ARGS("ctl", sock, "stats"), replies[i][1]);
		cr_assert_eq(waitpid(pid, NULL, 0), pid);
	}
}
