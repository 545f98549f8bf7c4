// SPDX-License-Identifier: MIT
/*
 * tests/tsan_runner.c - runs Criterion-declared tests without Criterion's sandbox.
 *
 * Criterion starts each test in a worker that shares an arena mapped at a fixed address of its
 * own choice. ThreadSanitizer refuses fixed mappings outside the ranges it shadows, so
 * Criterion cannot start a single test under it. This file is linked instead of libcriterion for
 * that one build: it defines main() and the few functions that Criterion's macros call, forks a
 * child per test and writes the same TAP.
 *
 * Invariants:
 *  1. A test passes only if its child ended as the test declares (.exit_code, .signal; by default
 *     it reached the end of its body and of .fini, and exited with 0) and no assertion failed.
 *  2. The runner has one thread: what a child inherits is what a fresh process would have.
 *  3. A child leads a process group; when it ends or runs out of time the whole group is killed.
 *
 * Concurrency: assertions may fail in any thread of a child; the first ends the process.
 *
 * Not here: parameterized tests and theories, criterion/redirect.h, criterion/new/assert.h (they do
 * not link or are refused), and .fini after a failed assertion.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fnmatch.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Between a child and the runner, in memory they share. */
struct report {
	_Atomic int failures;
	_Atomic bool skipped;
	_Atomic bool finished;
	char message[256]; /* why it was skipped */
};

struct options {
	const char *tap;
	const char *filter; /* fnmatch over suite/name, with @(), !() and so on */
	double timeout;     /* seconds, of a test that names none */
	bool list;
};

struct tally {
	unsigned passed, failed, skipped;
};

extern struct criterion_test *__start_cr_tst[], *__stop_cr_tst[];
extern struct criterion_suite *__start_cr_sts[] __attribute__((weak));
extern struct criterion_suite *__stop_cr_sts[] __attribute__((weak));

/* What Criterion's macros look at and call. */
struct criterion_options criterion_options;

/* Set before the first fork: each child has it to itself. */
static struct report *report;
static const struct criterion_test *current;

static const struct criterion_test_extra_data *suite_of(const struct criterion_test *t)
{
	static const struct criterion_test_extra_data none;

	for (struct criterion_suite **s = __start_cr_sts; s < __stop_cr_sts; s++) {
		if (*s && strcmp((*s)->name, t->category) == 0 && (*s)->data)
			return (*s)->data;
	}
	return &none;
}

void criterion_send_assert(struct criterion_assert_stats *stats)
{
	if (stats->passed)
		return;
	atomic_fetch_add(&report->failures, 1);
	fprintf(stderr, "%s:%u: assertion failed: %s\n", stats->file, stats->line,
	        stats->message ? stats->message : "");
}

void criterion_abort_test(void)
{
	_exit(1);
}

void criterion_continue_test(void)
{
}

void criterion_skip_test(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(report->message, sizeof(report->message), format, ap);
	va_end(ap);
	atomic_store(&report->skipped, true);
	_exit(0);
}

void criterion_test_die(const char *msg, ...)
{
	va_list ap;

	va_start(ap, msg);
	vfprintf(stderr, msg, ap);
	va_end(ap);
	_exit(1);
}

void cri_asserts_passed_incr(void)
{
}

int cr_vasprintf(char **out, const char *format, va_list ap)
{
	return vasprintf(out, format, ap);
}

int cr_asprintf(char **out, const char *format, ...)
{
	va_list ap;
	int n;

	va_start(ap, format);
	n = vasprintf(out, format, ap);
	va_end(ap);
	if (n < 0)
		*out = NULL;
	return n;
}

void cr_asprintf_free(char *s)
{
	free(s);
}

/* The text of the condition is the first argument of every kind of message. */
char *cr_translate_assert_msg(int index, ...)
{
	const char *text;
	char *copy;
	va_list ap;

	va_start(ap, index);
	text = va_arg(ap, const char *);
	va_end(ap);
	copy = strdup(index == CRITERION_ASSERT_MSG_FAIL || !text ? "" : text);
	if (!copy)
		_exit(1);
	return copy;
}

void criterion_internal_test_setup(void)
{
	if (suite_of(current)->init)
		suite_of(current)->init();
	if (current->data->init)
		current->data->init();
}

void criterion_internal_test_main(void (*fn)(void))
{
	fn();
}

void criterion_internal_test_teardown(void)
{
	if (current->data->fini)
		current->data->fini();
	if (suite_of(current)->fini)
		suite_of(current)->fini();
}

static int wanted_signal(const struct criterion_test *t)
{
	return t->data->signal ? t->data->signal : suite_of(t)->signal;
}

static int wanted_exit(const struct criterion_test *t)
{
	return t->data->exit_code ? t->data->exit_code : suite_of(t)->exit_code;
}

static double time_limit(const struct criterion_test *t, const struct options *o)
{
	if (t->data->timeout > 0)
		return t->data->timeout;
	return suite_of(t)->timeout > 0 ? suite_of(t)->timeout : o->timeout;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Does not return. exit(), not _exit(): that is where the sanitizer reports. */
static void run_child(const struct criterion_test *t)
{
	setpgid(0, 0);
	current = t;
	t->test();
	atomic_store(&report->finished, true);
	exit(0);
}

/* Return: true and the wait status, or false when the child ran out of time. */
static bool await(pid_t pid, double deadline, int *status)
{
	const struct timespec nap = {.tv_nsec = 2000000};

	for (;;) {
		pid_t got = waitpid(pid, status, WNOHANG);

		if (got == pid)
			return true;
		if (got < 0 && errno != EINTR) {
			perror("waitpid");
			exit(2);
		}
		if (now() > deadline)
			return false;
		nanosleep(&nap, NULL);
	}
}

/* Return: NULL when the test did what it declares, or what it did instead. */
static const char *verdict(const struct criterion_test *t, int status, char *text, size_t size)
{
	if (atomic_load(&report->failures))
		return "assertion failed";
	if (atomic_load(&report->skipped) && WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return NULL;
	if (WIFSIGNALED(status)) {
		if (WTERMSIG(status) == wanted_signal(t))
			return NULL;
		snprintf(text, size, "unexpected signal %d", WTERMSIG(status));
		return text;
	}
	if (wanted_signal(t)) {
		snprintf(text, size, "signal %d did not come", wanted_signal(t));
		return text;
	}
	if (WEXITSTATUS(status) != wanted_exit(t)) {
		snprintf(text, size, "exit status %d", WEXITSTATUS(status));
		return text;
	}
	if (!wanted_exit(t) && !atomic_load(&report->finished))
		return "ended early";
	return NULL;
}

static void run_test(const struct criterion_test *t, const struct options *o, FILE *tap,
                     struct tally *tally)
{
	double start = now();
	char text[64];
	const char *why;
	int status = 0;
	pid_t pid;

	memset(report, 0, sizeof(*report));
	fflush(NULL);
	pid = fork();
	if (pid < 0) {
		perror("fork");
		exit(2);
	}
	if (pid == 0)
		run_child(t);
	if (await(pid, start + time_limit(t, o), &status)) {
		why = verdict(t, status, text, sizeof(text));
	} else {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		why = "timed out";
	}
	kill(-pid, SIGKILL);
	if (why) {
		tally->failed++;
		fprintf(stderr, "[FAIL] %s::%s: %s\n", t->category, t->name, why);
		fprintf(tap, "not ok - %s::%s %s\n", t->category, t->name, why);
	} else if (atomic_load(&report->skipped)) {
		tally->skipped++;
		fprintf(tap, "ok - %s::%s  # SKIP %s\n", t->category, t->name, report->message);
	} else {
		tally->passed++;
		fprintf(tap, "ok - %s::%s  (%.2fs)\n", t->category, t->name, now() - start);
	}
}

static bool selected(const struct criterion_test *t, const struct options *o)
{
	char id[256];

	snprintf(id, sizeof(id), "%s/%s", t->category, t->name);
	return !o->filter || fnmatch(o->filter, id, FNM_EXTMATCH) == 0;
}

static void run_all(const struct options *o, FILE *tap, struct tally *tally)
{
	unsigned count = 0;

	for (struct criterion_test **t = __start_cr_tst; t < __stop_cr_tst; t++)
		count += *t && selected(*t, o);
	fprintf(tap, "TAP version 13\n1..%u\n", count);
	for (struct criterion_test **t = __start_cr_tst; t < __stop_cr_tst; t++) {
		if (!*t || !selected(*t, o))
			continue;
		if ((*t)->data->kind_ != CR_TEST_NORMAL) {
			tally->failed++;
			fprintf(tap, "not ok - %s::%s parameterized tests do not run here\n",
			        (*t)->category, (*t)->name);
		} else if ((*t)->data->disabled || suite_of(*t)->disabled) {
			tally->skipped++;
			fprintf(tap, "ok - %s::%s  # SKIP disabled\n", (*t)->category, (*t)->name);
		} else {
			run_test(*t, o, tap, tally);
		}
	}
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{"tap", required_argument, NULL, 't'},     {"filter", required_argument, NULL, 'f'},
		{"timeout", required_argument, NULL, 's'}, {"list", no_argument, NULL, 'l'},
		{"jobs", required_argument, NULL, 'j'},    {NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "lj:", longs, NULL)) != -1) {
		switch (c) {
		case 't':
			o->tap = optarg;
			break;
		case 'f':
			o->filter = optarg;
			break;
		case 's':
			o->timeout = strtod(optarg, NULL);
			break;
		case 'l':
			o->list = true;
			break;
		case 'j': /* one at a time, always */
			break;
		default:
			return -EINVAL;
		}
	}
	return optind == argc && o->timeout > 0 ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
	struct options o = {.timeout = 120};
	struct tally tally = {0};
	FILE *tap = stdout;

	if (parse(argc, argv, &o)) {
		fprintf(stderr, "usage: %s [--tap=FILE] [--filter=GLOB] [--timeout=SEC] [--list]\n",
		        argv[0]);
		return 2;
	}
	if (o.list) {
		for (struct criterion_test **t = __start_cr_tst; t < __stop_cr_tst; t++) {
			if (*t)
				printf("%s/%s\n", (*t)->category, (*t)->name);
		}
		return 0;
	}
	report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
	              0);
	if (report == MAP_FAILED) {
		perror("mmap");
		return 2;
	}
	if (o.tap)
		tap = fopen(o.tap, "we");
	if (!tap) {
		perror(o.tap);
		return 2;
	}
	run_all(&o, tap, &tally);
	if (fclose(tap)) {
		perror("tap");
		return 2;
	}
	fprintf(stderr, "[====] Passing: %u | Failing: %u | Skipped: %u\n", tally.passed,
	        tally.failed, tally.skipped);
	return tally.failed ? 1 : 0;
}
