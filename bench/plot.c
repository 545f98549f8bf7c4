// SPDX-License-Identifier: MIT
/*
 * bench/plot.c - gnuplot as a child: script in, picture out.
 *
 * The script lies in a memfd and so do gnuplot's complaints: no pipe can fill up or break.
 */
#include "bench/plot.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static int say_missing(struct vm_error *err, int e)
{
	snprintf(err->text, sizeof(err->text), "gnuplot: %s; install gnuplot-nox to make plots",
	         e == ENOENT ? "not found on the PATH" : strerror(e));
	return -e;
}

/* Return: 0; -EIO when the child failed; -errno of starting it. */
static int run(const char *const *argv, int in, int out, int complaints)
{
	posix_spawn_file_actions_t files;
	int e = posix_spawn_file_actions_init(&files), status;
	pid_t child;

	if (e)
		return -e;
	e = posix_spawn_file_actions_adddup2(&files, in, STDIN_FILENO);
	if (!e)
		e = posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
	if (!e)
		e = posix_spawn_file_actions_adddup2(&files, complaints, STDERR_FILENO);
	if (!e)
		e = posix_spawnp(&child, argv[0], &files, NULL, (char *const *)argv, environ);
	posix_spawn_file_actions_destroy(&files);
	if (e)
		return -e;
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

int plot_ready(struct vm_error *err)
{
	static const char *const version[] = {"gnuplot", "--version", NULL};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), r;

	if (null < 0) {
		r = -errno;
		snprintf(err->text, sizeof(err->text), "/dev/null: %s", strerror(-r));
		return r;
	}
	r = run(version, null, null, null);
	close(null);
	return r ? say_missing(err, -r) : 0;
}

/* A file in memory that holds `text`, to be read from its start. Return: fd or -errno. */
static int memory_file(const char *text)
{
	int fd = memfd_create("cowslip-plot", MFD_CLOEXEC);
	size_t size = strlen(text);

	if (fd < 0)
		return -errno;
	/* By position, so that its reader begins at 0. Memory takes it whole, or there is none. */
	if (pwrite(fd, text, size, 0) == (ssize_t)size)
		return fd;
	close(fd);
	return -ENOSPC;
}

/* gnuplot shows the line and a mark beneath it before it says what is wrong: the last line. */
static void say_failed(struct vm_error *err, int complaints)
{
	char text[512];
	ssize_t n = pread(complaints, text, sizeof(text) - 1, 0);
	char *last;

	while (n > 0 && text[n - 1] == '\n')
		n--;
	text[n > 0 ? n : 0] = '\0';
	last = strrchr(text, '\n');
	snprintf(err->text, sizeof(err->text), "gnuplot failed: %s", last ? last + 1 : text);
}

static int draw(const char *script, int fd, struct vm_error *err)
{
	static const char *const gnuplot[] = {"gnuplot", "--default-settings", "-", NULL};
	int in = memory_file(script), complaints = memory_file(""), r;

	if (in < 0 || complaints < 0) {
		r = in < 0 ? in : complaints;
		snprintf(err->text, sizeof(err->text), "no room for a plot: %s", strerror(-r));
		goto close_files;
	}
	r = run(gnuplot, in, fd, complaints);
	if (r == -EIO)
		say_failed(err, complaints);
	else if (r)
		(void)say_missing(err, -r);
close_files:
	if (in >= 0)
		close(in);
	if (complaints >= 0)
		close(complaints);
	return r;
}

int plot_svg(const json_t *doc, int fd, struct vm_error *err)
{
	char *script = plot_script(doc);
	int r;

	if (!script) {
		r = -errno;
		snprintf(err->text, sizeof(err->text), "%s",
		         r == -ENODATA ? "no row has a figure to draw" : strerror(-r));
		return r;
	}
	r = draw(script, fd, err);
	free(script);
	return r;
}
