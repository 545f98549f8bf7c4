// SPDX-License-Identifier: MIT
/*
 * tests/nested/init.c - PID 1 of the nested machine: loads KVM, runs one program, hands back its
 * results.
 *
 * What the host put into the initramfs (tests/nested/run writes it):
 *     /modules/NAME.ko    loaded in the order of module_names[], with parameters from the kernel
 *                         command line: nested.npt=, nested.tdp_mmu=
 *     /bin/busybox        its commands are linked into /bin
 *     /job/argv, /job/env, /job/out    NUL-terminated strings: the program and its arguments, its
 *                         environment, names of files to hand back
 *     /stage              the folder it runs in, first in PATH
 *
 * Serial ports: ttyS0 kernel messages; ttyS1 the program's stdout and, with nested.stdin=1, its
 * stdin (line by line, ^D is the end); ttyS2 its stderr; ttyS3 what is read by the host:
 *     start\n                          first: stdin is heard from now on
 *     file SIZE NAME\n<SIZE bytes>     a file of /job/out, for each that exists
 *     exit STATUS\n                    last: the program ended, as the shell counts (128 + signal)
 *     error TEXT\n                     last: it could not be run
 * A host that reads neither of the two last lines knows that the machine died.
 *
 * Invariants: stdout and stderr are pipes for the program, as in any script; every byte it wrote
 * has left the machine before the last line does; nothing else writes to ttyS1, 2 and 3.
 *
 * Concurrency: one thread. Not here: a time limit (the host has it), networks, disks.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define DEBUG_EXIT_PORT 0xf4 /* of isa-debug-exit: writing n ends the machine with 2n + 1 */
#define STRINGS_MAX     256
#define NOT_FOUND       127 /* as shells say that a program cannot be started */

enum { ENDED = 0, BROKEN = 1 };

struct mount_point {
	const char *type, *path, *options;
};

static const struct mount_point mount_points[] = {
	{"devtmpfs", "/dev", NULL},
	{"proc", "/proc", NULL},
	{"sysfs", "/sys", NULL},
	{"tmpfs", "/dev/shm", "mode=1777"},
	{"devpts", "/dev/pts", NULL},
	{"tmpfs", "/tmp", "mode=1777,size=90%"},
	{"cgroup2", "/sys/fs/cgroup", NULL},
};

/* A module and the words of the kernel command line that are parameters of it. */
struct module {
	const char *name;
	const char *word, *parameter;
};

static const struct module modules[] = {
	{"irqbypass", NULL, NULL},
	{"kvm", "nested.tdp_mmu=", "tdp_mmu="},
	{"kvm-amd", "nested.npt=", "npt="},
};

/* A string file of /job in memory. */
struct strings {
	char *text;
	char *item[STRINGS_MAX + 1]; /* the last is NULL */
};

struct relay {
	int from, to;
};

/* Does not return. Serial ports are drained first: bytes on their way would be lost. */
static void end(int control, int how)
{
	sync();
	tcdrain(control);
	if (ioperm(DEBUG_EXIT_PORT, 1, 1) == 0)
		outb((unsigned char)how, DEBUG_EXIT_PORT);
	/* PID 1 that ends is a panic, and that ends the machine too. */
	_exit(1);
}

static void write_all(int fd, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t n = write(fd, data, size);

		if (n < 0 && errno != EINTR)
			return;
		if (n > 0) {
			data += n;
			size -= (size_t)n;
		}
	}
}

__attribute__((format(printf, 2, 3))) static void tell(int control, const char *format, ...)
{
	char line[512];
	va_list ap;

	va_start(ap, format);
	vsnprintf(line, sizeof(line), format, ap);
	va_end(ap);
	write_all(control, line, strlen(line));
}

static void give_up(int control, const char *what, const char *on)
{
	tell(control, "error %s %s: %s\n", what, on, strerror(errno));
	end(control, BROKEN);
}

/* Return: a serial port that passes bytes on as they are, or -errno. */
static int open_port(const char *path, bool lines_in)
{
	int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct termios t;

	if (fd < 0)
		return -errno;
	tcgetattr(fd, &t);
	cfmakeraw(&t);
	if (lines_in)
		t.c_lflag |= ICANON;
	t.c_cflag |= CLOCAL;
	cfsetspeed(&t, B115200);
	tcsetattr(fd, TCSANOW, &t);
	return fd;
}

/*
 * All of a file, with a NUL behind it. Read to its end: files of /proc claim to have no size.
 * Return: NULL with errno, or the caller's to free.
 */
static char *read_file(const char *path, size_t *size)
{
	size_t room = 4096, got = 0;
	char *text = malloc(room);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	while (text && fd >= 0) {
		ssize_t n = read(fd, text + got, room - got - 1);
		char *more;

		if (n <= 0)
			break;
		got += (size_t)n;
		if (got < room - 1)
			continue;
		room *= 2;
		more = realloc(text, room);
		if (!more)
			free(text);
		text = more;
	}
	if (fd < 0 || !text) {
		free(text);
		return NULL;
	}
	close(fd);
	text[got] = '\0';
	*size = got;
	return text;
}

static bool read_strings(const char *path, struct strings *s)
{
	size_t size, n = 0;

	s->text = read_file(path, &size);
	if (!s->text)
		return false;
	for (char *at = s->text; at < s->text + size && n < STRINGS_MAX; at += strlen(at) + 1)
		s->item[n++] = at;
	s->item[n] = NULL;
	return true;
}

static void mount_all(void)
{
	for (size_t i = 0; i < sizeof(mount_points) / sizeof(mount_points[0]); i++) {
		const struct mount_point *m = &mount_points[i];

		mkdir(m->path, 0755);
		/* Ports come with /dev: what does not mount shows when it is missed. */
		mount(m->type, m->path, m->type, 0, m->options);
	}
	symlink("/proc/self/fd", "/dev/fd");
	symlink("/proc/self/fd/0", "/dev/stdin");
	symlink("/proc/self/fd/1", "/dev/stdout");
	symlink("/proc/self/fd/2", "/dev/stderr");
}

/* The value of a word of the kernel command line, or NULL. For the caller's `buf`. */
static const char *command_line(const char *word, char *buf, size_t buf_size)
{
	size_t size;
	char *text = read_file("/proc/cmdline", &size);
	const char *at = text ? strstr(text, word) : NULL;
	const char *found = NULL;

	if (at) {
		at += strlen(word);
		snprintf(buf, buf_size, "%.*s", (int)strcspn(at, " \n"), at);
		found = buf;
	}
	free(text);
	return found;
}

static void load_modules(int control)
{
	for (size_t i = 0; i < sizeof(modules) / sizeof(modules[0]); i++) {
		const struct module *m = &modules[i];
		char path[64], value[16], parameters[64] = "";
		int fd;

		if (m->word && command_line(m->word, value, sizeof(value)))
			snprintf(parameters, sizeof(parameters), "%s%s", m->parameter, value);
		snprintf(path, sizeof(path), "/modules/%s.ko", m->name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd, parameters, 0))
			give_up(control, "cannot load", path);
		close(fd);
	}
}

/* Does not return. */
static void run_program(char *const argv[], char *const envp[], const int fds[3])
{
	for (int i = 0; i < 3; i++)
		dup2(fds[i], i);
	setsid();
	environ = (char **)envp;
	if (chdir("/stage") == 0)
		execvp(argv[0], argv);
	dprintf(2, "%s: %s\n", argv[0], strerror(errno));
	_exit(NOT_FOUND);
}

static pid_t start_program(const struct strings *argv, const struct strings *env, int in,
                           struct relay relays[2])
{
	int out[2] = {-1, -1}, err[2] = {-1, -1};
	pid_t pid = -1;

	if (pipe2(out, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0)
		pid = fork();
	if (pid == 0)
		run_program(argv->item, env->item, (int[3]){in, out[1], err[1]});
	close(out[1]);
	close(err[1]);
	relays[0].from = out[0];
	relays[1].from = err[0];
	return pid;
}

/* Pass on what is there. Closes a pipe that has ended. Return: bytes went through. */
static bool pump(struct relay relays[2], int timeout_ms)
{
	struct pollfd polls[2] = {{relays[0].from, POLLIN, 0}, {relays[1].from, POLLIN, 0}};
	char buf[4096];
	bool some = false;

	if (poll(polls, 2, timeout_ms) <= 0)
		return false;
	for (int i = 0; i < 2; i++) {
		ssize_t n;

		if (!polls[i].revents)
			continue;
		n = read(relays[i].from, buf, sizeof(buf));
		if (n > 0) {
			write_all(relays[i].to, buf, (size_t)n);
			some = true;
		} else {
			close(relays[i].from);
			relays[i].from = -1; /* poll() passes over it */
		}
	}
	return some;
}

/* Collect every orphan until the program itself ends. Return: its status, as shells count. */
static int await(pid_t program, struct relay relays[2])
{
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);

		if (pid == 0) {
			pump(relays, 50);
			continue;
		}
		if (pid != program && !(pid < 0 && errno != EINTR))
			continue;
		/* Also what others of it still had to say, but do not wait for them. */
		while (pump(relays, 0))
			;
		return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
}

static void hand_back(int control, const char *name)
{
	char path[512];
	size_t size;
	char *data;

	snprintf(path, sizeof(path), "%s%s", name[0] == '/' ? "" : "/stage/", name);
	data = read_file(path, &size);
	if (!data)
		return; /* the host says that it is missing */
	tell(control, "file %zu %s\n", size, name);
	write_all(control, data, size);
	free(data);
}

static void run_job(int control)
{
	struct strings argv, env, out;
	struct relay relays[2];
	char value[16];
	int in, status;
	pid_t pid;

	errno = 0;
	if (!read_strings("/job/argv", &argv) || !read_strings("/job/env", &env) ||
	    !read_strings("/job/out", &out) || !argv.item[0])
		give_up(control, "cannot read", "/job");
	relays[0].to = open_port("/dev/ttyS1", true);
	relays[1].to = open_port("/dev/ttyS2", false);
	if (command_line("nested.stdin=", value, sizeof(value)))
		in = relays[0].to;
	else
		in = open("/dev/null", O_RDONLY | O_CLOEXEC);
	tell(control, "start\n");
	pid = start_program(&argv, &env, in, relays);
	if (pid < 0)
		give_up(control, "cannot start", argv.item[0]);
	status = await(pid, relays);
	tcdrain(relays[0].to);
	tcdrain(relays[1].to);
	for (char **name = out.item; *name; name++)
		hand_back(control, *name);
	tell(control, "exit %d\n", status);
}

static void link_commands(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		execl("/bin/busybox", "busybox", "--install", "-s", "/bin", NULL);
		_exit(NOT_FOUND);
	}
	waitpid(pid, NULL, 0);
}

int main(void)
{
	int control;

	mount_all();
	control = open_port("/dev/ttyS3", false);
	link_commands();
	load_modules(control);
	run_job(control);
	end(control, ENDED);
}
