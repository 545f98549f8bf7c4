// SPDX-License-Identifier: MIT
/*
 * tests/kvm/command.c - see tests/kvm/command.h.
 *
 * Output is gathered in memfds, so nothing blocks however much there is.
 */
#include "tests/kvm/command.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SIGNALLED 1000
#define PATHS     64

static char scratch_dir[256];
static char paths[PATHS][512];
static unsigned next_path;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void scratch_make(void)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(scratch_dir, sizeof(scratch_dir), "%s/cowslip-test-XXXXXX", tmp ? tmp : "/tmp");
	cr_assert_not_null(mkdtemp(scratch_dir), "%s: %s", scratch_dir, strerror(errno));
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	(void)st;
	(void)kind;
	(void)at;
	return remove(path);
}

void scratch_remove(void)
{
	nftw(scratch_dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static const char *path_in(const char *dir, const char *name, const char *suffix)
{
	char *path = paths[next_path++ % PATHS];

	snprintf(path, sizeof(paths[0]), "%s/%s%s", dir, name, suffix);
	return path;
}

const char *scratch(const char *name)
{
	return path_in(scratch_dir, name, "");
}

const char *guest(const char *name)
{
	const char *dir = getenv("COWSLIP_GUESTS");

	return path_in(dir ? dir : "build/guest", name, ".elf");
}

unsigned scratch_entries(void)
{
	DIR *dir = opendir(scratch_dir);
	unsigned n = 0;

	cr_assert_not_null(dir);
	for (struct dirent *e = readdir(dir); e; e = readdir(dir))
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(dir);
	return n;
}

/* A pipe nobody reads, or the file asked for. */
static int special_stdout(const struct circumstances *how)
{
	int ends[2];

	if (how->out_path)
		return open(how->out_path, O_WRONLY);
	if (pipe(ends) < 0)
		return -1;
	close(ends[0]);
	return ends[1];
}

static _Noreturn void become(pid_t test, int program, const char *const *args,
                             const struct circumstances *how, int out, int err)
{
	char *argv[MAX_ARGS + 2] = {(char *)"cowslip"};

	for (size_t i = 0; args[i]; i++)
		argv[i + 1] = (char *)(uintptr_t)args[i];
	if (how->out_path || how->out_broken)
		out = special_stdout(how);
	else if (how->out_fd)
		out = how->out_fd;
	if (dup2(out, STDOUT_FILENO) < 0 || dup2(err, STDERR_FILENO) < 0)
		_exit(99);
	if (how->out_closed)
		close(STDOUT_FILENO);
	if (how->uid && (setgid(how->uid) < 0 || setuid(how->uid) < 0))
		_exit(99);
	/* A test that dies, of its time limit for one, leaves nothing behind. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != test)
		_exit(99);
	if (how->files && setrlimit(RLIMIT_NOFILE, &(struct rlimit){how->files, how->files}) < 0)
		_exit(99);
	signal(SIGPIPE, SIG_DFL);
	fexecve(program, argv, environ);
	_exit(99);
}

struct running start(const char *const *args, const struct circumstances *how)
{
	static const struct circumstances usual;
	const char *path = getenv("COWSLIP");
	struct running r = {.started = now()};
	pid_t test = getpid();
	int program;

	path = path ? path : "build/cowslip";
	program = open(path, O_PATH | O_CLOEXEC);
	cr_assert_geq(program, 0, "%s: %s", path, strerror(errno));
	r.out = memfd_create("stdout", MFD_CLOEXEC);
	r.err = memfd_create("stderr", MFD_CLOEXEC);
	cr_assert(r.out >= 0 && r.err >= 0);
	r.pid = fork();
	cr_assert_geq(r.pid, 0, "fork: %s", strerror(errno));
	if (r.pid == 0)
		become(test, program, args, how ? how : &usual, r.out, r.err);
	close(program);
	return r;
}

static char *contents(int fd, size_t *size)
{
	struct stat st;
	char *text;

	cr_assert_eq(fstat(fd, &st), 0);
	*size = (size_t)st.st_size;
	text = calloc(1, *size + 1);
	cr_assert_not_null(text);
	cr_assert_eq(pread(fd, text, *size, 0), (ssize_t)*size);
	close(fd);
	return text;
}

struct said finish(struct running *r)
{
	struct said s = {0};
	int status;

	while (waitpid(r->pid, &status, 0) < 0)
		cr_assert_eq(errno, EINTR);
	s.seconds = now() - r->started;
	s.status = WIFEXITED(status) ? WEXITSTATUS(status) : SIGNALLED + WTERMSIG(status);
	s.out = contents(r->out, &s.out_size);
	s.err = contents(r->err, &s.err_size);
	return s;
}

struct said run_in(const char *const *args, const struct circumstances *how)
{
	struct running r = start(args, how);

	return finish(&r);
}

struct said run(const char *const *args)
{
	return run_in(args, NULL);
}

void said_free(struct said *s)
{
	free(s->out);
	free(s->err);
}

void refused_in(const char *const *args, const char *words, const struct circumstances *how)
{
	unsigned before = scratch_entries();
	struct said s = run_in(args, how);

	cr_assert_eq(s.status, 125, "%s %s: status %d: %s", args[0], args[1] ? args[1] : "",
	             s.status, s.err);
	cr_assert_eq(lines(s.err), 1, "%s", s.err);
	cr_assert_eq(lines_with(s.err, "cowslip: "), 1, "%s", s.err);
	cr_assert_eq(s.err[s.err_size - 1], '\n');
	cr_assert_not_null(strstr(s.err, words), "wanted '%s', got: %s", words, s.err);
	cr_assert_eq(s.out_size, 0, "%s", s.out);
	cr_assert_eq(scratch_entries(), before, "something was left behind");
	said_free(&s);
}

void refused(const char *const *args, const char *words)
{
	refused_in(args, words, NULL);
}

unsigned lines(const char *text)
{
	return lines_with(text, "");
}

unsigned lines_with(const char *text, const char *lead)
{
	size_t len = strlen(lead);
	unsigned n = 0;

	while (*text) {
		n += strncmp(text, lead, len) == 0;
		text = strchrnul(text, '\n');
		text += *text == '\n';
	}
	return n;
}

json_t *last_json(const char *text)
{
	size_t len = strlen(text);
	const char *at = text + len;
	json_error_t error;
	json_t *root;

	cr_assert(len > 0 && text[len - 1] == '\n', "no whole last line in: %s", text);
	for (at--; at > text && at[-1] != '\n';)
		at--;
	root = json_loads(at, 0, &error);
	cr_assert_not_null(root, "%s in: %s", error.text, at);
	return root;
}

json_int_t json_at(json_t *root, const char *path)
{
	char copy[128], *rest = copy, *key;
	json_t *at = root;

	snprintf(copy, sizeof(copy), "%s", path);
	while ((key = strsep(&rest, ".")))
		at = json_object_get(at, key);
	cr_assert(json_is_integer(at), "%s: not a number", path);
	return json_integer_value(at);
}

size_t children_of(pid_t pid, pid_t *out, size_t room)
{
	char path[64];
	size_t n = 0;
	FILE *f;
	int child;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	f = fopen(path, "re");
	while (f && n < room && fscanf(f, "%d", &child) == 1) /* NOLINT(cert-err34-c) */
		out[n++] = child;
	if (f)
		fclose(f);
	return n;
}

void copy_patched(const char *from, const char *to, size_t size, size_t at, const void *patch,
                  size_t patch_size)
{
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	char buf[65536];
	ssize_t n;

	cr_assert(in >= 0 && out >= 0, "%s to %s: %s", from, to, strerror(errno));
	while (size > 0 && (n = read(in, buf, size < sizeof(buf) ? size : sizeof(buf))) > 0) {
		cr_assert_eq(write(out, buf, (size_t)n), n);
		size -= (size_t)n;
	}
	cr_assert_eq(pwrite(out, patch, patch_size, (off_t)at), (ssize_t)patch_size);
	close(in);
	close(out);
}

void own_mounts(void)
{
	if (unshare(CLONE_NEWNS) < 0)
		cr_skip_test("a mount namespace of its own needs root: %s", strerror(errno));
	cr_assert_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0, "%s", strerror(errno));
}
