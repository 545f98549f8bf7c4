// SPDX-License-Identifier: MIT
/*
 * bench/options.c - where a bench command's document goes.
 *
 * A file named on the command line is opened (under a temporary name) before the run, so that a
 * long run is not lost to a directory that cannot be written; it takes its name when it is whole.
 */
#include "bench/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/compare.h"
#include "bench/plot.h"
#include "bench/report.h"

static int take_file(struct bench_file *f, const char *option, const char *path)
{
	f->option = option;
	return cli_name(option, path, &f->path);
}

int bench_take_output(struct bench_output *o, int key, const char *arg)
{
	switch (key) {
	case BENCH_KEY_JSON:
		o->json |= !arg;
		return arg ? take_file(&o->json_file, "--json", arg) : 0;
	case BENCH_KEY_CSV:
		o->csv |= !arg;
		return arg ? take_file(&o->csv_file, "--csv", arg) : 0;
	case BENCH_KEY_MARKDOWN:
		return take_file(&o->markdown_file, "--markdown", arg);
	case BENCH_KEY_PLOT:
		return take_file(&o->plot_file, "--plot", arg);
	case BENCH_KEY_COMPARE:
		return cli_name("--compare", arg, &o->compare);
	case BENCH_KEY_GUEST:
		return cli_name("--guest", arg, &o->guest);
	default:
		return -ENOENT;
	}
}

int bench_check_output(const struct bench_output *o)
{
	if (o->json && o->csv) {
		cli_error("--json and --csv: both want standard output; give one of them a file");
		return -EINVAL;
	}
	return 0;
}

/* ---- before the run ---- */

static int load_before(struct bench_output *o, const json_t *doc)
{
	struct vm_error err;
	int e;

	if (!o->compare)
		return 0;
	e = compare_load(o->compare, &o->before, &err);
	if (e)
		cli_error("--compare %s", err.text);
	if (e)
		return e;
	e = compare_fits(o->before, doc, &err);
	if (e)
		cli_error("--compare %s: %s", o->compare, err.text);
	return e;
}

/* A report is no secret: readable as the user's other files are. */
static void set_mode(int fd)
{
	mode_t mask = umask(0);

	umask(mask);
	(void)fchmod(fd, 0666 & ~mask);
}

static int open_file(struct bench_file *f)
{
	const char *step;
	int e;

	if (!f->path)
		return 0;
	e = atomic_file_open(&f->file, f->path, NULL, &step);
	if (e) {
		cli_error("%s %s: %s: %s; name a file that can be written", f->option, f->path,
		          step, strerror(-e));
		return e;
	}
	f->opened = true;
	set_mode(f->file.fd);
	return 0;
}

static int look_for_gnuplot(const struct bench_output *o)
{
	struct vm_error err;
	int e = o->plot_file.path ? plot_ready(&err) : 0;

	if (e)
		cli_error("--plot %s: %s", o->plot_file.path, err.text);
	return e;
}

int bench_output_open(struct bench_output *o, const json_t *doc)
{
	int e = load_before(o, doc);

	if (e == 0)
		e = look_for_gnuplot(o);
	if (e == 0)
		e = open_file(&o->json_file);
	if (e == 0)
		e = open_file(&o->csv_file);
	if (e == 0)
		e = open_file(&o->markdown_file);
	if (e == 0)
		e = open_file(&o->plot_file);
	return e;
}

static void close_file(struct bench_file *f)
{
	if (f->opened)
		atomic_file_close(&f->file);
	f->opened = false;
}

void bench_output_close(struct bench_output *o)
{
	close_file(&o->json_file);
	close_file(&o->csv_file);
	close_file(&o->markdown_file);
	close_file(&o->plot_file);
	json_decref(o->before);
	o->before = NULL;
}

/* ---- after the run ---- */

static int put_form(const json_t *doc, enum report_form form, int fd)
{
	FILE *to = fdopen(dup(fd), "w");
	int e;

	if (!to)
		return -errno;
	e = report_put(doc, form, to);
	if (fclose(to) && e == 0)
		e = -EIO;
	return e;
}

static int finish_file(struct bench_file *f, int e)
{
	const char *step = "writing it";

	if (e == 0)
		e = atomic_file_commit(&f->file, &step);
	if (e)
		cli_error("%s %s: %s: %s; this part of the results is lost", f->option, f->path,
		          step, strerror(-e));
	return e;
}

static int put_file(struct bench_file *f, const json_t *doc, enum report_form form)
{
	if (!f->opened)
		return 0;
	return finish_file(f, put_form(doc, form, f->file.fd));
}

static int put_plot(struct bench_file *f, const json_t *doc)
{
	struct vm_error err;
	int e;

	if (!f->opened)
		return 0;
	e = plot_svg(doc, f->file.fd, &err);
	if (e == 0)
		return finish_file(f, 0);
	cli_error("%s %s: %s", f->option, f->path, err.text);
	return e;
}

static int put_comparison(const struct bench_output *o, const json_t *doc)
{
	FILE *to = o->json || o->csv ? stderr : stdout;
	int changed;

	if (!o->before)
		return 0;
	if (to == stdout)
		putchar('\n');
	changed = compare_put(o->before, doc, to);
	return changed < 0 ? changed : 0;
}

static enum report_form stdout_form(const struct bench_output *o)
{
	if (o->json)
		return REPORT_JSON;
	return o->csv ? REPORT_CSV : REPORT_TEXT;
}

int bench_output_put(struct bench_output *o, json_t *doc)
{
	int e = report_judge(doc);

	/* What cannot be written to stdout is for cli_flush_stdout() to say. */
	if (e == 0 && report_put(doc, stdout_form(o), stdout) == -ENOMEM)
		e = -ENOMEM;
	if (e) {
		cli_error("no memory for the report");
		return CLI_FAILED;
	}
	if (put_comparison(o, doc) == -ENOMEM)
		e = -ENOMEM;
	if (cli_flush_stdout() != CLI_OK)
		e = -EIO;
	/* Each is tried, whatever became of the others. */
	if (put_file(&o->json_file, doc, REPORT_JSON))
		e = -EIO;
	if (put_file(&o->csv_file, doc, REPORT_CSV))
		e = -EIO;
	if (put_file(&o->markdown_file, doc, REPORT_MARKDOWN))
		e = -EIO;
	if (put_plot(&o->plot_file, doc))
		e = -EIO;
	return e ? CLI_FAILED : CLI_OK;
}

/* ---- what runs ---- */

/* Where guests may be, relative to this program. */
static int find_beside(const char *name, char *path, size_t size)
{
	static const char *const places[] = {"guest", "../guest"};
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (n < 0)
		return -errno;
	self[n] = '\0';
	slash = strrchr(self, '/');
	if (slash)
		*slash = '\0';
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(path, size, "%s/%s/%s", self, places[i], name);
		if (access(path, R_OK) == 0)
			return 0;
	}
	return -ENOENT;
}

int bench_find_guest(const struct bench_output *o, const char *name, char *path, size_t size)
{
	const char *dir = getenv("COWSLIP_GUESTS");

	if (o->guest) {
		snprintf(path, size, "%s", o->guest);
		if (access(path, R_OK) == 0)
			return 0;
		cli_error("--guest %s: %s; name %s, which `make` builds", path, strerror(errno),
		          name);
		return -ENOENT;
	}
	if (dir && *dir) {
		snprintf(path, size, "%s/%s", dir, name);
		if (access(path, R_OK) == 0)
			return 0;
		cli_error("%s: %s; $COWSLIP_GUESTS should name the directory of guest programs, "
		          "build/guest",
		          path, strerror(errno));
		return -ENOENT;
	}
	if (find_beside(name, path, size) == 0)
		return 0;
	cli_error("%s: not found in guest/ beside this program; name it with --guest, or its "
	          "directory in $COWSLIP_GUESTS",
	          name);
	return -ENOENT;
}
