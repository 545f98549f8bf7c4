// SPDX-License-Identifier: MIT
#include "vmm/cli_terminal.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <termios.h>
#include <unistd.h>

#define FULL_WAIT_MS 5 /* the guest has not read what it has: look again after this */

struct cli_terminal {
	struct vm *vm;
	pthread_t thread;
	int stop; /* eventfd */
	bool raw;
};

/* A signal handler has nowhere else to find what to put back. Set before the handlers are. */
static struct termios saved;

static const int ending_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
#define ENDING_SIGNALS (sizeof(ending_signals) / sizeof(ending_signals[0]))

static void put_back_and_die(int signal)
{
	tcsetattr(STDIN_FILENO, TCSANOW, &saved);
	/* The handler was good for one: this time the signal does what it always did. */
	raise(signal);
}

static bool make_raw(void)
{
	struct sigaction die = {.sa_handler = put_back_and_die,
	                        .sa_flags = (int)(SA_RESETHAND | SA_NODEFER)};
	struct termios raw;

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &saved) < 0)
		return false;
	for (size_t i = 0; i < ENDING_SIGNALS; i++)
		sigaction(ending_signals[i], &die, NULL);
	raw = saved;
	raw.c_iflag &= ~(tcflag_t)(ICRNL | INLCR | IXON);
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	return tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

/* Wait for stop for at most `ms`, and for stdin if `input`. Return: true to stop. */
static bool wait_for(const struct cli_terminal *t, bool input, int ms)
{
	struct pollfd fds[] = {
		{.fd = t->stop, .events = POLLIN},
		{.fd = input ? STDIN_FILENO : -1, .events = POLLIN},
	};

	while (poll(fds, 2, ms) < 0 && errno == EINTR)
		;
	return fds[0].revents != 0;
}

/* All of it, as fast as the guest takes it. Return: true to stop. */
static bool feed(const struct cli_terminal *t, const char *data, size_t size)
{
	while (size > 0) {
		size_t n = vm_input(t->vm, data, size);

		data += n;
		size -= n;
		if (size > 0 && wait_for(t, false, FULL_WAIT_MS))
			return true;
	}
	return false;
}

static void *reader(void *arg)
{
	const struct cli_terminal *t = arg;
	char data[256];

	while (!wait_for(t, true, -1)) {
		ssize_t n = read(STDIN_FILENO, data, sizeof(data));

		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0 || feed(t, data, (size_t)n))
			break;
	}
	return NULL;
}

struct cli_terminal *cli_terminal_start(struct vm *vm)
{
	struct cli_terminal *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->vm = vm;
	t->stop = eventfd(0, EFD_CLOEXEC);
	if (t->stop < 0)
		goto free_terminal;
	t->raw = make_raw();
	if (pthread_create(&t->thread, NULL, reader, t) == 0)
		return t;
	if (t->raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &saved);
	close(t->stop);
free_terminal:
	free(t);
	return NULL;
}

void cli_terminal_stop(struct cli_terminal *t)
{
	const uint64_t one = 1;

	if (!t)
		return;
	while (write(t->stop, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	pthread_join(t->thread, NULL);
	if (t->raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &saved);
	close(t->stop);
	free(t);
}
