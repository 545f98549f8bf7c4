// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_bench_plot.c - plots: what gnuplot is told, and that it understands; the progress
 * line.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/plot.h"
#include "bench/progress.h"
#include "tests/unit/bench_doc.h"
#include "vmm/console.h"

static void require_gnuplot(void)
{
	struct vm_error err;

	if (plot_ready(&err))
		cr_skip_test("%s", err.text);
}

/* The picture of a document, which is taken; for free(). */
static char *picture(json_t *doc)
{
	int fd = memfd_create("picture", MFD_CLOEXEC);
	struct vm_error err = {""};
	struct stat st;
	char *text;

	cr_assert_geq(fd, 0);
	cr_assert_eq(plot_svg(doc, fd, &err), 0, "%s", err.text);
	cr_assert_eq(fstat(fd, &st), 0);
	text = calloc(1, (size_t)st.st_size + 1);
	cr_assert(text);
	cr_assert_eq(pread(fd, text, (size_t)st.st_size, 0), st.st_size);
	close(fd);
	json_decref(doc);
	return text;
}

static void expect_words(const char *text, const char *const *words)
{
	for (; *words; words++)
		cr_assert(strstr(text, *words), "'%s' is not in it", *words);
}

Test(bench_plot, faults)
{
	static const char *const words[] = {"<svg",
	                                    "</svg>",
	                                    "bench faults: pattern random",
	                                    "kernel-4k",
	                                    "99 %",
	                                    "1111k   27.5 x",
	                                    "40.4k   baseline",
	                                    "A CPU, Linux 6.18",
	                                    NULL};
	char *svg;

	require_gnuplot();
	svg = picture(doc_faults());
	expect_words(svg, words);
	cr_assert_null(strstr(svg, "NOISY"));
	free(svg);
}

Test(bench_plot, noise_is_said)
{
	json_t *doc = doc_faults();
	char *svg;

	require_gnuplot();
	json_object_set_new(doc, "noisy", json_true());
	svg = picture(doc);
	cr_assert(strstr(svg, "NOISY HOST"));
	free(svg);
}

/* Names are data: nothing in them is a command, and gnuplot gets what was meant. */
Test(bench_plot, names_are_quoted)
{
	static const char *const words[] = {"it&apos;s \"x\"; system", NULL};
	static const char *const plain[] = {"it's \"x\"; system", NULL};
	json_t *doc = doc_faults();
	char *svg;

	require_gnuplot();
	json_object_set_new(doc_row(doc, 0), "name",
	                    json_string("it's \"x\"; system('false')\n@{}_^"));
	svg = picture(doc);
	expect_words(svg, strstr(svg, "&apos;") ? words : plain);
	free(svg);
}

/* 0.5 and 0.99 on the scale of nines; of 1,000 touches it ends where ten are left. */
Test(bench_plot, scale_of_nines)
{
	json_t *doc = doc_faults();
	char *script = plot_script(doc);

	cr_assert(script);
	cr_assert(strstr(script, "\n0 0.09\n0.30103 0.09\n2 0.15\nEOD\n"), "%s", script);
	free(script);
	json_decref(doc);
}

/* Curves that end in the same place have names in different ones, in the order of their ends. */
Test(bench_plot, names_do_not_overlap)
{
	json_t *doc = doc_faults();
	char *script, *a, *b;
	double at_a, at_b;

	json_object_set(doc_row(doc, 1), "cdf", json_object_get(doc_row(doc, 0), "cdf"));
	script = plot_script(doc);
	a = strstr(script, "set label 'auto' at first 2.08, first ");
	b = strstr(script, "set label 'kernel-4k' at first 2.08, first ");
	cr_assert(a && b, "%s", script);
	at_a = strtod(a + strlen("set label 'auto' at first 2.08, first "), NULL);
	at_b = strtod(b + strlen("set label 'kernel-4k' at first 2.08, first "), NULL);
	cr_assert(at_a > 1.2 * at_b || at_b > 1.2 * at_a, "%g and %g", at_a, at_b);
	free(script);
	json_decref(doc);
}

Test(bench_plot, other_commands)
{
	static const char *const words[] = {"s start on a clone until", "first output",
	                                    "1.49 ms   p99 2.5 ms", NULL};
	char *svg;

	require_gnuplot();
	svg = picture(doc_of("{'command':'clone','parameters':{'repeat':5},'host':null,'rows':["
	                     "{'name':'first output','us_p50':1490,'us_p50_spread':[1480,1520],"
	                     "'us_p99':2500}]}"));
	expect_words(svg, words);
	free(svg);
}

Test(bench_plot, nothing_to_draw)
{
	json_t *doc = doc_of("{'command':'faults','parameters':{},'rows':[]}");
	struct vm_error err = {""};

	cr_assert_eq(plot_svg(doc, STDOUT_FILENO, &err), -ENODATA);
	cr_assert_str_eq(err.text, "no row has a figure to draw");
	json_decref(doc);
}

Test(bench_plot, no_gnuplot)
{
	json_t *doc = doc_faults();
	struct vm_error err = {""};

	setenv("PATH", "/nonexistent", 1);
	cr_assert_eq(plot_ready(&err), -ENOENT);
	cr_assert_str_eq(err.text,
	                 "gnuplot: not found on the PATH; install gnuplot-nox to make plots");
	err.text[0] = '\0';
	cr_assert_eq(plot_svg(doc, STDOUT_FILENO, &err), -ENOENT);
	cr_assert(strstr(err.text, "install gnuplot-nox"), "%s", err.text);
	json_decref(doc);
}

/* A gnuplot that fails: its last line is what is told. */
Test(bench_plot, gnuplot_fails)
{
	char dir[] = "/tmp/cowslip-plot-XXXXXX", path[64];
	json_t *doc = doc_faults();
	struct vm_error err = {""};
	FILE *f;

	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/gnuplot", dir);
	f = fopen(path, "we");
	cr_assert(f);
	fputs("#!/bin/sh\necho '   ^' >&2\necho 'line 3: no such thing' >&2\nexit 1\n", f);
	fclose(f);
	cr_assert_eq(chmod(path, 0700), 0);
	setenv("PATH", dir, 1);
	cr_assert_eq(plot_svg(doc, STDOUT_FILENO, &err), -EIO);
	cr_assert_str_eq(err.text, "gnuplot failed: line 3: no such thing");
	unlink(path);
	rmdir(dir);
	json_decref(doc);
}

/* ---- progress ---- */

Test(bench_progress, line)
{
	char line[128];

	progress_line(line, sizeof(line), 100, 0, 10, 0, "first");
	cr_assert_str_eq(line, "[....................] 0/10  first");
	progress_line(line, sizeof(line), 100, 4, 10, UINT64_C(8000000000), "random auto");
	cr_assert_str_eq(line, "[########............] 4/10  12 s left  random auto");
	progress_line(line, sizeof(line), 100, 10, 10, 1, "done");
	cr_assert_str_eq(line, "[####################] 10/10  done");
	progress_line(line, sizeof(line), 30, 4, 10, UINT64_C(8000000000), "random auto");
	cr_assert_eq(strlen(line), 30, "cut to the width");
	progress_line(line, 10, 100, 4, 10, 0, "random auto");
	cr_assert_eq(strlen(line), 9, "cut to the buffer");
}

static void run_progress(int fd)
{
	struct progress p;

	progress_start(&p, fd, 2);
	progress_step(&p, 0, "one");
	progress_step(&p, 1, "two");
	progress_end(&p);
	progress_end(&p);
}

/* Not a terminal: not a byte. */
Test(bench_progress, silent_elsewhere)
{
	int fd = memfd_create("progress", MFD_CLOEXEC);
	struct stat st;

	cr_assert_geq(fd, 0);
	run_progress(fd);
	cr_assert_eq(fstat(fd, &st), 0);
	cr_assert_eq(st.st_size, 0);
	close(fd);
}

/* A terminal hands on what it was given bit by bit. Until the line has been taken away. */
static void read_to_the_end(int master, char *got, size_t size)
{
	static const char end[] = "\r\033[K";
	struct pollfd p = {.fd = master, .events = POLLIN};
	size_t n = 0;

	do {
		ssize_t more;

		cr_assert_eq(poll(&p, 1, 10 * 1000), 1, "after %zu bytes", n);
		more = read(master, got + n, size - 1 - n);
		cr_assert_gt(more, 0);
		n += (size_t)more;
		got[n] = '\0';
	} while (!strstr(got, end));
}

/* On one: drawn once, unless the second step comes late, and taken away once. */
Test(bench_progress, on_a_terminal)
{
	const uint64_t soon_ns = 50 * 1000 * 1000;
	uint64_t took_ns = UINT64_MAX;
	char got[256];

	for (int i = 0; i < 20 && took_ns > soon_ns; i++) {
		uint64_t start_ns = clock_ns();
		int master, slave;

		cr_assert_eq(openpty(&master, &slave, NULL, NULL, NULL), 0);
		run_progress(slave);
		took_ns = clock_ns() - start_ns;
		read_to_the_end(master, got, sizeof(got));
		close(slave);
		close(master);
	}
	cr_assert_str_eq(got, "\r[....................] 0/2  one\033[K\r\033[K");
}
