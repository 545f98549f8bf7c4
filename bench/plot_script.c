// SPDX-License-Identifier: MIT
/*
 * bench/plot_script.c - what gnuplot is told to draw.
 *
 * Latency is drawn as the inverse of its distribution: to the right the share of touches on a
 * scale of nines, upwards the time they took at most, logarithmic. A distribution over time would
 * press all beyond p99 into one line, and the tail is what tells memory managers apart.
 *
 * Names are written at the right end of their curves; those that would overlap are moved apart.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/plot.h"
#include "bench/report.h"

#define CURVES_MAX 16u
#define TEXT_MAX   256u
#define TITLE_MAX  96u  /* what fits the width */
#define NINES_MAX  5.0  /* 99.999 %: as far as the scale goes */
#define TAIL_LEAST 10.0 /* touches beyond the end of the scale: what fewer say is chance */
#define LABEL_GAP  0.05 /* of the plot's height, between names */

/* Okabe and Ito's colours, the light ones darkened so that words can be read in them. */
static const struct {
	const char *name, *colour;
} known[] = {
	{"auto", "#0072B2"},       {"kernel-4k", "#D55E00"}, {"kernel-thp", "#C08000"},
	{"private-4k", "#B5578F"}, {"uffd-4k", "#009E73"},   {"populate", "#3A9BD0"},
	{"kernel", "#000000"},     {"uffd", "#666666"},
};
#define KNOWN (sizeof(known) / sizeof(known[0]))

static const char *colour_of(const char *name, size_t index)
{
	for (size_t i = 0; i < KNOWN; i++)
		if (strcmp(known[i].name, name) == 0)
			return known[i].colour;
	return known[index % KNOWN].colour;
}

/* A text that grows; what does not fit is cut. */
struct line {
	char text[TEXT_MAX];
	size_t len;
};

static void add_word(struct line *l, const char *before, const char *word)
{
	int n = snprintf(l->text + l->len, sizeof(l->text) - l->len, "%s%s", l->len ? before : "",
	                 word);

	l->len += n < 0 ? 0 : (size_t)n;
	if (l->len >= sizeof(l->text))
		l->len = sizeof(l->text) - 1;
}

/* In gnuplot's single quotes, which know no escape but their own doubling. */
static void put_quoted(const char *text, FILE *to)
{
	fputc('\'', to);
	for (; *text; text++) {
		if (*text == '\'')
			fputc('\'', to);
		fputc((unsigned char)*text < ' ' ? ' ' : *text, to);
	}
	fputc('\'', to);
}

/* ---- curves ---- */

struct curve {
	const char *name, *colour;
	const json_t *points; /* [[ns, fraction], ...] */
	double nines;         /* where it ends */
	double us;            /* its value there */
	double label;         /* log10(us) of where its name stands */
};

struct curves {
	struct curve v[CURVES_MAX];
	size_t count;
	double nines;     /* the longest */
	double low, high; /* log10 of us: the scale, whole decades */
};

static double point(const json_t *points, size_t i, size_t which)
{
	return json_number_value(json_array_get(json_array_get(points, i), which));
}

static double us_at(const json_t *points, size_t i)
{
	double ns = point(points, i, 0);

	return (ns < 1 ? 1 : ns) / 1e3;
}

/* 0.9 -> 1, 0.99 -> 2; cut at `most`. */
static double nines(double fraction, double most)
{
	double n = fraction < 1 ? -log10(1 - fraction) : most;

	/* 1 - 0.99 is not quite 0.01. */
	return n < most - 1e-9 ? n : most;
}

/* How far a curve of so many touches goes. */
static double nines_of(double count)
{
	return fmin(fmax(log10(count / TAIL_LEAST), 1), NINES_MAX);
}

/* The first value at which the curve has come to its end. */
static double end_of(const struct curve *c)
{
	size_t n = json_array_size(c->points), i = 0;

	while (i + 1 < n && nines(point(c->points, i, 1), c->nines) < c->nines)
		i++;
	return us_at(c->points, i);
}

static void add_curve(struct curves *c, const json_t *row, size_t index)
{
	const json_t *points = json_object_get(row, "cdf");
	const json_t *count = json_object_get(json_object_get(row, "latency_ns"), "count");
	struct curve *at = &c->v[c->count];
	double first;

	if (json_array_size(points) == 0 || c->count == CURVES_MAX)
		return;
	*at = (struct curve){.name = report_name(row), .points = points};
	at->colour = colour_of(at->name, index);
	at->nines = nines_of(json_number_value(count));
	at->us = end_of(at);
	at->label = log10(at->us);
	first = log10(us_at(points, 0));
	c->nines = fmax(c->nines, at->nines);
	c->low = c->count ? fmin(c->low, first) : first;
	c->high = c->count ? fmax(c->high, at->label) : at->label;
	c->count++;
}

static int by_label(const void *a, const void *b)
{
	const struct curve *x = a, *y = b;

	return (x->label > y->label) - (x->label < y->label);
}

/* From the lowest up, each at least a gap above the one below; then from the top, down again. */
static void part_labels(struct curves *c)
{
	double gap = LABEL_GAP * (c->high - c->low), top = c->high;

	qsort(c->v, c->count, sizeof(c->v[0]), by_label);
	for (size_t i = 1; i < c->count; i++)
		c->v[i].label = fmax(c->v[i].label, c->v[i - 1].label + gap);
	for (size_t i = c->count; i-- > 0;) {
		c->v[i].label = fmin(c->v[i].label, top);
		top = c->v[i].label - gap;
	}
}

static void gather(struct curves *c, const json_t *doc)
{
	const json_t *row;
	size_t i;

	*c = (struct curves){.count = 0};
	json_array_foreach(json_object_get(doc, "rows"), i, row) add_curve(c, row, i);
	c->low = floor(c->low);
	c->high = fmax(ceil(c->high), c->low + 1);
	part_labels(c);
}

static void put_curve_data(const struct curve *c, size_t index, FILE *to)
{
	size_t n = json_array_size(c->points);
	double x = 0;

	/* fsteps draws a step from the point before, so the first needs one at 0. */
	fprintf(to, "$curve%zu << EOD\n0 %.6g\n", index, us_at(c->points, 0));
	for (size_t i = 0; i < n && x < c->nines; i++) {
		x = nines(point(c->points, i, 1), c->nines);
		fprintf(to, "%.6g %.6g\n", x, us_at(c->points, i));
	}
	fputs("EOD\n", to);
}

/* A name, and a line that leads to it from the end of its curve. */
static void put_curve_label(const struct curve *c, double right, FILE *to)
{
	double y = pow(10, c->label);

	fputs("set label ", to);
	put_quoted(c->name, to);
	fprintf(to, " at first %.6g, first %.6g offset 0.5, 0 left noenhanced tc rgb '%s'\n",
	        1.04 * right, y, c->colour);
	fprintf(to,
	        "set arrow from first %.6g, first %.6g to first %.6g, first %.6g nohead lw 1 "
	        "lc rgb '%s'\n",
	        c->nines, c->us, 1.04 * right, y, c->colour);
}

static void put_curves(const struct curves *c, FILE *to)
{
	static const char *const ticks[] = {"0 %%",    "90 %%",    "99 %%",
	                                    "99.9 %%", "99.99 %%", "99.999 %%"};

	fputs("set title 'Latency of a touch, as the guest feels it'\n"
	      "set xlabel 'share of touches that took at most this long'\n"
	      "set ylabel 'microseconds, logarithmic'\n"
	      "set logscale y 10\nset format y '%h'\nset grid\n"
	      "set lmargin at screen 0.085\nset rmargin at screen 0.445\n",
	      to);
	fprintf(to, "set xrange [0:%.6g]\nset yrange [%.6g:%.6g]\nset xtics (", c->nines,
	        pow(10, c->low), pow(10, c->high));
	for (unsigned i = 0; i < sizeof(ticks) / sizeof(ticks[0]) && i <= c->nines; i++)
		fprintf(to, "%s'%s' %u", i ? ", " : "", ticks[i], i);
	fputs(")\n", to);
	for (size_t i = 0; i < c->count; i++)
		put_curve_label(&c->v[i], c->nines, to);
	for (size_t i = 0; i < c->count; i++)
		fprintf(to, "%s$curve%zu using 1:2 with fsteps lw 2.5 lc rgb '%s' notitle",
		        i ? ", \\\n     " : "plot ", i, c->v[i].colour);
	fputs("\nunset label\nunset arrow\nunset logscale\nunset xtics\nunset grid\n", to);
}

/* ---- bars ---- */

/* What a command's bars show. */
static const struct chart {
	const char *command, *key, *title, *axis;
	double scale; /* of the figure, to the unit that the axis names */
	const char *unit;
	const char *tail; /* key of the slowest hundredth, told beside the figure; or NULL */
} charts[] = {
	{"faults", "pages_per_s", "Throughput", "thousand pages/s (medians; whiskers: quartiles)",
         1e-3, "k", NULL},
	{"clone", "us_p50", "From a worker's start on a clone until",
         "milliseconds (p50; whiskers: quartiles)", 1e-3, " ms", "us_p99"},
	{"reset", "us_p50", "Reset", "microseconds (p50; whiskers: quartiles)", 1, " us", "us_p99"},
	{"fork", "us_p50", "Live fork", "milliseconds (p50; whiskers: quartiles)", 1e-3, " ms",
         "us_p99"},
	{"snapshot", "us", "Time", "milliseconds (medians; whiskers: quartiles)", 1e-3, " ms",
         NULL},
};

static const struct chart *find_chart(const json_t *doc)
{
	const char *command = json_string_value(json_object_get(doc, "command"));

	for (size_t i = 0; command && i < sizeof(charts) / sizeof(charts[0]); i++)
		if (strcmp(charts[i].command, command) == 0)
			return &charts[i];
	return NULL;
}

static double largest(const json_t *rows, const struct chart *c)
{
	const json_t *row;
	double most = 0;
	size_t i;

	json_array_foreach(rows, i, row) most =
		fmax(most, report_figure(row, c->key).q3 * c->scale);
	return most;
}

static void add_figure(struct line *l, const char *before, double v, const char *unit)
{
	char text[TEXT_MAX];

	snprintf(text, sizeof(text), v < 100 ? "%.3g%s" : "%.0f%s", v, unit);
	add_word(l, before, text);
}

/* "27.9k   1.2 x": the figure, and how it compares where there is something to compare with. */
static void put_bar_label(const json_t *doc, const json_t *row, const struct chart *c, double v,
                          FILE *to)
{
	const char *baseline = json_string_value(json_object_get(doc, "baseline"));
	const json_t *tail = c->tail ? json_object_get(row, c->tail) : NULL;
	struct spread ratio = {0};
	struct line l = {.len = 0};

	add_figure(&l, "", v, c->unit);
	if (json_is_number(tail))
		add_figure(&l, "   p99 ", json_number_value(tail) * c->scale, c->unit);
	if (baseline && strcmp(baseline, report_name(row)) == 0)
		add_word(&l, "   ", "baseline");
	else if (baseline)
		ratio = report_ratio(row, baseline);
	if (ratio.count)
		add_figure(&l, "   ", ratio.median, " x");
	put_quoted(l.text, to);
}

/* Says once what every label leaves out: what the ratio is to. */
static void put_bar_title(const json_t *doc, const struct chart *c, FILE *to)
{
	const char *baseline = json_string_value(json_object_get(doc, "baseline"));
	char text[TEXT_MAX];

	snprintf(text, sizeof(text), "%s%s%s", c->title, baseline ? ", and times that of " : "",
	         baseline ? baseline : "");
	fputs("set title ", to);
	put_quoted(text, to);
	fputs(" noenhanced\n", to);
}

static void put_bar_data(const json_t *rows, const struct chart *c, FILE *to)
{
	const json_t *row;
	size_t i;

	fputs("$bars << EOD\n", to);
	json_array_foreach(rows, i, row)
	{
		struct spread s = report_figure(row, c->key);

		if (s.count)
			fprintf(to, "%zu %.6g %.6g %.6g %ld\n", i, s.median * c->scale,
			        s.q1 * c->scale, s.q3 * c->scale,
			        strtol(colour_of(report_name(row), i) + 1, NULL, 16));
	}
	fputs("EOD\n", to);
}

static void put_bar_labels(const json_t *doc, const json_t *rows, const struct chart *c, FILE *to)
{
	const json_t *row;
	size_t i;

	json_array_foreach(rows, i, row)
	{
		struct spread s = report_figure(row, c->key);

		if (s.count == 0)
			continue;
		fputs("set label ", to);
		put_bar_label(doc, row, c, s.median * c->scale, to);
		fprintf(to, " at first %.6g, first %zu offset 1, 0 left noenhanced\n",
		        s.q3 * c->scale, i);
	}
	fputs("set ytics (", to);
	json_array_foreach(rows, i, row)
	{
		fputs(i ? ", " : "", to);
		put_quoted(report_name(row), to);
		fprintf(to, " %zu", i);
	}
	fputs(") scale 0 noenhanced\n", to);
}

static void put_bars(const json_t *doc, const struct chart *c, double left, FILE *to)
{
	const json_t *rows = json_object_get(doc, "rows");
	double most = largest(rows, c);

	put_bar_title(doc, c, to);
	fprintf(to,
	        "set xlabel '%s'\nunset ylabel\nset format y\nset format x '%%h'\n"
	        "set lmargin at screen %.3g\nset rmargin at screen 0.975\n"
	        "set xrange [0:%.6g]\nset yrange [%zu.6:-0.6]\nset xtics autofreq nomirror\n"
	        "set grid x noy\n",
	        c->axis, left, most > 0 ? 1.5 * most : 1, json_array_size(rows) - 1);
	put_bar_labels(doc, rows, c, to);
	fputs("plot $bars using 2:1:(0):2:($1-0.32):($1+0.32):5 with boxxyerror fs solid 0.85 "
	      "noborder lc rgb variable notitle, \\\n"
	      "     $bars using 2:1:3:4 with xerrorbars pt -1 lw 1.5 lc rgb '#202020' notitle\n",
	      to);
}

/* ---- the whole ---- */

/* What was asked for, less what is as always or does not change what is measured. */
static void put_title(const json_t *doc, FILE *to)
{
	static const char *const passed_over[] = {"repeat", "seed", "touches", "vcpus"};
	struct line l = {.len = 0};
	char text[TITLE_MAX];

	report_describe(doc, passed_over, sizeof(passed_over) / sizeof(passed_over[0]), text,
	                sizeof(text));
	add_word(&l, "", "cowslip bench ");
	add_word(&l, "", text);
	put_quoted(l.text, to);
}

static void put_subtitle(const json_t *doc, FILE *to)
{
	const json_t *host = json_object_get(doc, "host");
	const char *cpu = json_string_value(json_object_get(host, "cpu"));
	const char *kernel = json_string_value(json_object_get(host, "kernel"));
	const char *kvm = json_string_value(json_object_get(json_object_get(host, "kvm"), "kind"));
	const json_t *repeat = json_object_get(json_object_get(doc, "parameters"), "repeat");
	struct line l = {.len = 0};
	char text[TEXT_MAX];

	if (cpu)
		add_word(&l, ", ", cpu);
	if (kernel)
		add_word(&l, ", ", kernel);
	if (kvm) {
		add_word(&l, ", ", "KVM ");
		add_word(&l, "", kvm);
	}
	if (repeat) {
		snprintf(text, sizeof(text), "%lld repeats", json_integer_value(repeat));
		add_word(&l, ", ", text);
	}
	if (report_is_noisy(doc))
		add_word(&l, "; ", "NOISY HOST: repeats differ by more than a tenth");
	put_quoted(l.text, to);
}

static void put_head(const json_t *doc, FILE *to)
{
	fputs("set terminal svg size 1280,560 dynamic font 'Helvetica,Arial,DejaVu Sans,16' "
	      "background '#ffffff'\n"
	      "set multiplot\n"
	      "set border 3 lc rgb '#606060'\nset tics nomirror tc rgb '#202020'\n"
	      "set tmargin at screen 0.79\nset bmargin at screen 0.15\n"
	      "set grid lc rgb '#d0d0d0' lw 1 lt 1\n"
	      "set label ",
	      to);
	put_title(doc, to);
	fputs(" at screen 0.02, 0.955 left noenhanced font ',20'\nset label ", to);
	put_subtitle(doc, to);
	fputs(" at screen 0.02, 0.905 left noenhanced font ',14' tc rgb '#505050'\n", to);
}

static bool has_bars(const json_t *doc, const struct chart *c)
{
	return c && largest(json_object_get(doc, "rows"), c) > 0;
}

static void put_script(const json_t *doc, const struct chart *chart, const struct curves *curves,
                       FILE *to)
{
	bool both = curves->count > 0;

	put_bar_data(json_object_get(doc, "rows"), chart, to);
	for (size_t i = 0; i < curves->count; i++)
		put_curve_data(&curves->v[i], i, to);
	put_head(doc, to);
	if (both)
		put_curves(curves, to);
	put_bars(doc, chart, both ? 0.645 : 0.2, to);
	fputs("unset multiplot\n", to);
}

char *plot_script(const json_t *doc)
{
	const struct chart *chart = find_chart(doc);
	struct curves curves;
	char *text = NULL;
	size_t size;
	FILE *to;

	if (!has_bars(doc, chart)) {
		errno = ENODATA;
		return NULL;
	}
	to = open_memstream(&text, &size);
	if (!to)
		return NULL;
	gather(&curves, doc);
	put_script(doc, chart, &curves, to);
	if (fclose(to) == 0)
		return text;
	free(text);
	errno = ENOMEM;
	return NULL;
}
