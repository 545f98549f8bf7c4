// SPDX-License-Identifier: MIT
/*
 * bench/report_table.c - the document for people: tables, then the host, then the warnings.
 *
 * What a table shows is data: columns of a head, a path into the row and how to show what is there.
 * Text and Markdown are the same tables.
 *
 * IQR is the distance of the quartiles over the repeats in per cent of the median: the figure that
 * report_judge() goes by.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "bench/report.h"
#include "bench/report_grid.h"
#include "bench/report_internal.h"

#define TEXT_MAX      512u
#define MIB           (1024.0 * 1024.0)
#define GIB           (1024.0 * MIB)
#define BASELINES_MAX 5u /* columns of ratios that fit */

static const char none[] = "-";

enum show {
	SHOW_TEXT,
	SHOW_NUMBER,   /* three digits or more */
	SHOW_COUNT,    /* whole */
	SHOW_NS_AS_US, /* the head says us */
	SHOW_US_AS_MS, /* the head says ms */
	SHOW_MIB,      /* of bytes */
	SHOW_IQR,      /* of the figure at the path */
	SHOW_RATIO,    /* to the document's baseline; no path */
	SHOW_RATIO_IQR,
};

/* `path`: keys with '/' between them, for some keys have a dot in them. */
struct column {
	const char *head; /* of a ratio: what stands before the baseline's name */
	const char *path;
	enum show show;
};

struct table {
	const char *command;
	const char *title; /* NULL: the main table */
	struct column columns[GRID_COLUMNS];
};

static const struct table tables[] = {
	{"faults",
         NULL,
         {{"row", "name", SHOW_TEXT},
          {"us/page", "us_per_page", SHOW_NUMBER},
          {"IQR %", "us_per_page", SHOW_IQR},
          {"pages/s", "pages_per_s", SHOW_COUNT},
          {"x ", NULL, SHOW_RATIO},
          {"IQR %", NULL, SHOW_RATIO_IQR},
          {"p50 us", "latency_ns/p50", SHOW_NS_AS_US},
          {"p99 us", "latency_ns/p99", SHOW_NS_AS_US},
          {"p99.9 us", "latency_ns/p99.9", SHOW_NS_AS_US},
          {"max us", "latency_ns/max", SHOW_NS_AS_US}}},
	{"faults",
         "What it took",
         {{"row", "name", SHOW_TEXT},
          {"violations", "violations", SHOW_COUNT},
          {"events", "events", SHOW_COUNT},
          {"pf_taken", "kvm/pf_taken", SHOW_COUNT},
          {"pf_fixed", "kvm/pf_fixed", SHOW_COUNT},
          {"commit MiB", "committed_bytes", SHOW_MIB},
          {"private MiB", "private_bytes", SHOW_MIB},
          {"prepare ms", "prepare_us", SHOW_US_AS_MS}}},
	{"clone",
         NULL,
         {{"until", "name", SHOW_TEXT},
          {"clones", "count", SHOW_COUNT},
          {"p50 us", "us_p50", SHOW_NUMBER},
          {"IQR %", "us_p50", SHOW_IQR},
          {"p90 us", "us_p90", SHOW_NUMBER},
          {"p99 us", "us_p99", SHOW_NUMBER},
          {"max us", "us_max", SHOW_NUMBER}}},
	{"reset",
         NULL,
         {{"row", "name", SHOW_TEXT},
          {"dirty pages", "dirty_pages", SHOW_COUNT},
          {"resets", "count", SHOW_COUNT},
          {"p50 us", "us_p50", SHOW_NUMBER},
          {"IQR %", "us_p50", SHOW_IQR},
          {"p90 us", "us_p90", SHOW_NUMBER},
          {"p99 us", "us_p99", SHOW_NUMBER},
          {"max us", "us_max", SHOW_NUMBER},
          {"x ", NULL, SHOW_RATIO},
          {"IQR %", NULL, SHOW_RATIO_IQR}}},
	{"fork",
         NULL,
         {{"row", "name", SHOW_TEXT},
          {"times", "count", SHOW_COUNT},
          {"p50 us", "us_p50", SHOW_NUMBER},
          {"IQR %", "us_p50", SHOW_IQR},
          {"p90 us", "us_p90", SHOW_NUMBER},
          {"p99 us", "us_p99", SHOW_NUMBER},
          {"max us", "us_max", SHOW_NUMBER}}},
	{"snapshot",
         NULL,
         {{"operation", "name", SHOW_TEXT},
          {"us", "us", SHOW_NUMBER},
          {"IQR %", "us", SHOW_IQR},
          {"MiB", "bytes", SHOW_MIB},
          {"GB/s", "gb_per_s", SHOW_NUMBER},
          {"IQR %", "gb_per_s", SHOW_IQR},
          {"x ", NULL, SHOW_RATIO},
          {"IQR %", NULL, SHOW_RATIO_IQR}}},
};

/* ---- cells ---- */

static void show_iqr(const struct spread *s, char *cell)
{
	if (spread_known(s))
		snprintf(cell, GRID_TEXT, "%.1f", 100 * spread_relative(s));
	else
		snprintf(cell, GRID_TEXT, "%s", none);
}

static const json_t *find(const json_t *row, const char *path)
{
	char key[GRID_TEXT];
	size_t len;

	for (; row && *path; path += len + (path[len] == '/')) {
		len = strcspn(path, "/");
		snprintf(key, sizeof(key), "%.*s", (int)len, path);
		row = json_object_get(row, key);
	}
	return row;
}

static double scale(enum show show)
{
	return show == SHOW_NS_AS_US || show == SHOW_US_AS_MS ? 1e-3
	       : show == SHOW_MIB                             ? 1 / MIB
	                                                      : 1;
}

static void show_value(const json_t *value, enum show show, char *cell)
{
	if (json_is_string(value))
		snprintf(cell, GRID_TEXT, "%s", json_string_value(value));
	else if (!json_is_number(value))
		snprintf(cell, GRID_TEXT, "%s", none);
	else if (show == SHOW_COUNT)
		grid_count(json_number_value(value), cell);
	else
		grid_number(json_number_value(value) * scale(show), cell);
}

static void show_ratio(const json_t *row, const char *baseline, char *cell)
{
	struct spread s = report_ratio(row, baseline);

	if (strcmp(report_name(row), baseline) == 0)
		snprintf(cell, GRID_TEXT, "baseline");
	else if (s.count == 0)
		snprintf(cell, GRID_TEXT, "%s", none);
	else
		grid_number(s.median, cell);
}

static void show_cell(const json_t *row, const struct column *c, const char *baseline, char *cell)
{
	struct spread s;

	switch (c->show) {
	case SHOW_RATIO:
		show_ratio(row, baseline, cell);
		return;
	case SHOW_RATIO_IQR:
		s = report_ratio(row, baseline);
		if (strcmp(report_name(row), baseline) == 0)
			s.count = 0;
		show_iqr(&s, cell);
		return;
	case SHOW_IQR:
		s = report_figure(row, c->path);
		show_iqr(&s, cell);
		return;
	default:
		show_value(find(row, c->path), c->show, cell);
	}
}

/* ---- tables ---- */

static bool needs_baseline(const struct column *c)
{
	return c->show == SHOW_RATIO || c->show == SHOW_RATIO_IQR;
}

static void fill_heads(struct grid *g, const struct table *t, const char *baseline)
{
	char head[GRID_TEXT];

	g->texts = 1;
	for (const struct column *c = t->columns; c < t->columns + GRID_COLUMNS && c->head; c++) {
		if (needs_baseline(c) && !baseline)
			continue;
		snprintf(head, sizeof(head), "%s%.20s", c->head,
		         c->show == SHOW_RATIO ? baseline : "");
		grid_head(g, head);
	}
}

/* What the rows of a grid are made from. */
struct filling {
	const struct table *table;
	const char *baseline;
	const char *names[BASELINES_MAX]; /* of rows that others are compared with */
	size_t count;
};

static int fill_row(struct grid *g, const json_t *row, const struct filling *f)
{
	char(*cells)[GRID_TEXT] = grid_row(g);
	const struct column *c = f->table->columns;
	unsigned n = 0;

	if (!cells)
		return -ENOMEM;
	for (unsigned i = 0; i < GRID_COLUMNS && c[i].head; i++)
		if (!needs_baseline(&c[i]) || f->baseline)
			show_cell(row, &c[i], f->baseline, cells[n++]);
	return 0;
}

/* How both renderings begin and put what they are made of. */
struct style {
	void (*table)(const struct grid *g, const char *title, FILE *to);
	void (*head)(const char *text, FILE *to);
	void (*line)(const char *lead, const char *text, FILE *to);
};

typedef int fill_fn(struct grid *g, const json_t *row, const struct filling *f);

/* The rows of a grid that has its heads; it is put and freed. Return: 0; -ENOMEM. */
static int put_grid(const json_t *doc, struct grid *g, fill_fn *fill, const struct filling *f,
                    const char *title, const struct style *style, FILE *to)
{
	const json_t *row;
	size_t i;
	int r = 0;

	json_array_foreach(json_object_get(doc, "rows"), i, row) r = r ? r : fill(g, row, f);
	if (r == 0)
		style->table(g, title, to);
	grid_fini(g);
	return r;
}

static int put_table(const json_t *doc, const struct table *t, const struct style *style, FILE *to)
{
	const char *baseline = json_string_value(json_object_get(doc, "baseline"));
	const struct filling f = {.table = t, .baseline = baseline};
	struct grid g = {0};

	fill_heads(&g, t, baseline);
	return put_grid(doc, &g, fill_row, &f, t->title, style, to);
}

/* In the order of the rows. */
static void find_baselines(const json_t *doc, struct filling *f)
{
	const json_t *row;
	size_t i;

	json_array_foreach(json_object_get(doc, "rows"), i,
	                   row) if (f->count < BASELINES_MAX &&
	                            report_is_baseline(doc, report_name(row)))
		f->names[f->count++] = report_name(row);
}

/* The row's ratio to each baseline, and the widest of their spreads. */
static int fill_ratios(struct grid *g, const json_t *row, const struct filling *f)
{
	char(*cells)[GRID_TEXT] = grid_row(g);
	struct spread widest = {0};

	if (!cells)
		return -ENOMEM;
	snprintf(cells[0], GRID_TEXT, "%s", report_name(row));
	for (size_t b = 0; b < f->count; b++) {
		struct spread s = report_ratio(row, f->names[b]);

		show_ratio(row, f->names[b], cells[1 + b]);
		if (spread_known(&s) && strcmp(report_name(row), f->names[b]) != 0 &&
		    (widest.count == 0 || spread_relative(&s) > spread_relative(&widest)))
			widest = s;
	}
	show_iqr(&widest, cells[1 + f->count]);
	return 0;
}

/* Every row against every baseline; with one baseline the main table has said it all. */
static int put_ratios(const json_t *doc, const struct style *style, FILE *to)
{
	struct grid g = {.texts = 1};
	struct filling f = {0};
	char head[GRID_TEXT];

	find_baselines(doc, &f);
	if (f.count < 2)
		return 0;
	grid_head(&g, "row");
	for (size_t i = 0; i < f.count; i++) {
		snprintf(head, sizeof(head), "x %.20s", f.names[i]);
		grid_head(&g, head);
	}
	grid_head(&g, "widest IQR %");
	return put_grid(doc, &g, fill_ratios, &f, "Times as fast", style, to);
}

/* ---- latency by kind of touch ---- */

static const struct column kind_columns[] = {
	{"touches", "count", SHOW_COUNT}, {"mean us", "mean", SHOW_NS_AS_US},
	{"p50 us", "p50", SHOW_NS_AS_US}, {"p90 us", "p90", SHOW_NS_AS_US},
	{"p99 us", "p99", SHOW_NS_AS_US}, {"p99.9 us", "p99.9", SHOW_NS_AS_US},
	{"max us", "max", SHOW_NS_AS_US},
};
#define KIND_COLUMNS (sizeof(kind_columns) / sizeof(kind_columns[0]))

static int fill_kinds(struct grid *g, const json_t *row, const struct filling *f)
{
	const char *kind;
	json_t *latency;

	(void)f;
	json_object_foreach(json_object_get(row, "kinds"), kind, latency)
	{
		char(*cells)[GRID_TEXT];

		if (json_integer_value(json_object_get(latency, "count")) == 0)
			continue;
		cells = grid_row(g);
		if (!cells)
			return -ENOMEM;
		snprintf(cells[0], GRID_TEXT, "%s", report_name(row));
		snprintf(cells[1], GRID_TEXT, "%s", kind);
		for (unsigned c = 0; c < KIND_COLUMNS; c++)
			show_cell(latency, &kind_columns[c], "", cells[2 + c]);
	}
	return 0;
}

static int put_kinds(const json_t *doc, const struct style *style, FILE *to)
{
	struct grid g = {.texts = 2};

	grid_head(&g, "row");
	grid_head(&g, "touch");
	for (unsigned c = 0; c < KIND_COLUMNS; c++)
		grid_head(&g, kind_columns[c].head);
	return put_grid(doc, &g, fill_kinds, NULL, "Latency by kind of touch", style, to);
}

/* ---- lines around the tables ---- */

struct text {
	char s[TEXT_MAX];
	size_t len;
};

static void __attribute__((format(printf, 2, 3))) add(struct text *t, const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(t->s + t->len, sizeof(t->s) - t->len, format, args);
	va_end(args);
	t->len += n < 0 ? 0 : (size_t)n;
	if (t->len >= sizeof(t->s))
		t->len = sizeof(t->s) - 1;
}

static bool listed(const char *key, const char *const *list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(list[i], key) == 0)
			return true;
	return false;
}

/* As one would write it on the command line: in the largest unit that is exact. */
static void add_size(struct text *t, const char *key, uint64_t bytes)
{
	static const char units[] = "KMGT";
	unsigned unit = 0;

	for (; units[unit] && bytes > 0 && bytes % 1024 == 0; unit++)
		bytes /= 1024;
	add(t, " %s %" PRIu64, key, bytes);
	if (unit > 0)
		add(t, "%c", units[unit - 1]);
}

/* What is null or false was not asked for. */
static void add_parameter(struct text *t, const char *key, const json_t *value)
{
	static const char *const sizes[] = {"size", "mem"};

	if (json_is_integer(value) && listed(key, sizes, 2))
		add_size(t, key, (uint64_t)json_integer_value(value));
	else if (json_is_string(value))
		add(t, " %s %s", key, json_string_value(value));
	else if (json_is_integer(value))
		add(t, " %s %" JSON_INTEGER_FORMAT, key, json_integer_value(value));
	else if (json_is_real(value))
		add(t, " %s %g", key, json_real_value(value));
	else if (json_is_true(value))
		add(t, " %s", key);
	else
		return;
	add(t, ",");
}

void report_describe(const json_t *doc, const char *const *without, size_t count, char *text,
                     size_t size)
{
	struct text t = {.len = 0};
	const char *key;
	json_t *value;

	add(&t, "%s:", json_string_value(json_object_get(doc, "command")));
	json_object_foreach(json_object_get(doc, "parameters"), key,
	                    value) if (!listed(key, without, count)) add_parameter(&t, key, value);
	/* The last comma, or the colon. */
	t.s[t.len - 1] = '\0';
	snprintf(text, size, "%s", t.s);
}

static void put_parameters(const json_t *doc, const struct style *style, FILE *to)
{
	char text[TEXT_MAX];

	report_describe(doc, NULL, 0, text, sizeof(text));
	style->head(text, to);
}

static void put_summary(const json_t *doc, const struct style *style, FILE *to)
{
	const json_t *summary = json_object_get(doc, "summary");
	char cell[GRID_TEXT], iqr[GRID_TEXT], figure[GRID_TEXT];
	const char *key;
	json_t *value;

	if (json_object_size(summary))
		fputc('\n', to);
	json_object_foreach((json_t *)summary, key, value)
	{
		struct text t = {.len = 0};
		struct spread s = report_figure(summary, key);

		if (report_spread_key(key, figure, sizeof(figure)))
			continue;
		show_value(value, json_is_integer(value) ? SHOW_COUNT : SHOW_NUMBER, cell);
		show_iqr(&s, iqr);
		add(&t, "%s", cell);
		if (spread_known(&s))
			add(&t, " (IQR %s %%)", iqr);
		snprintf(figure, sizeof(figure), "%.28s: ", key);
		style->line(figure, t.s, to);
	}
}

static const char *string_at(const json_t *object, const char *path, const char *otherwise)
{
	const char *text = json_string_value(find(object, path));

	return text ? text : otherwise;
}

static double number_at(const json_t *object, const char *path)
{
	return json_number_value(find(object, path));
}

static double load_at(const json_t *host, size_t which)
{
	return json_number_value(json_array_get(json_object_get(host, "load"), which));
}

static void put_limits(const json_t *host, const struct style *style, FILE *to)
{
	struct text t = {.len = 0};

	add(&t, "%s,", string_at(host, "cgroup/path", "none"));
	if (json_is_number(find(host, "cgroup/memory_max_bytes")))
		add(&t, " memory up to %.0f MiB,",
		    number_at(host, "cgroup/memory_max_bytes") / MIB);
	else
		add(&t, " no limit of memory,");
	if (json_is_number(find(host, "cgroup/cpu_max")))
		add(&t, " %.2f CPUs", number_at(host, "cgroup/cpu_max"));
	else
		add(&t, " none of CPU time");
	style->line("cgroup  ", t.s, to);
}

static void put_host(const json_t *host, const struct style *style, FILE *to)
{
	struct text cpu = {.len = 0}, kernel = {.len = 0}, memory = {.len = 0};

	if (!json_is_object(host))
		return;
	fputc('\n', to);
	add(&cpu, "%s, %.0f CPUs, load %.2f %.2f %.2f", string_at(host, "cpu", "unknown CPU"),
	    number_at(host, "cpus"), load_at(host, 0), load_at(host, 1), load_at(host, 2));
	add(&kernel, "%s, KVM %s (told by %s), nx_huge_pages %s", string_at(host, "kernel", ""),
	    string_at(host, "kvm/kind", ""), string_at(host, "kvm/told_by", ""),
	    string_at(host, "nx_huge_pages", "not there"));
	add(&memory,
	    "%.1f GiB available of %.1f GiB; THP %s, in files %s; hugetlb %.0f x 2 MiB, "
	    "%.0f x 1 GiB",
	    number_at(host, "memory/available_bytes") / GIB,
	    number_at(host, "memory/total_bytes") / GIB, string_at(host, "thp", "not there"),
	    string_at(host, "shmem_thp", "not there"), number_at(host, "huge_pages/2m"),
	    number_at(host, "huge_pages/1g"));
	style->line("host    ", cpu.s, to);
	style->line("kernel  ", kernel.s, to);
	style->line("memory  ", memory.s, to);
	put_limits(host, style, to);
}

static void put_warnings(const json_t *doc, const struct style *style, FILE *to)
{
	const json_t *warnings = json_object_get(doc, "warnings"), *w;
	size_t i;

	if (json_array_size(warnings))
		fputc('\n', to);
	json_array_foreach(warnings, i, w) style->line("warning: ", json_string_value(w), to);
}

static int put(const json_t *doc, const struct style *style, FILE *to)
{
	const char *command = json_string_value(json_object_get(doc, "command"));
	int r = 0;

	put_parameters(doc, style, to);
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]) && r == 0; i++) {
		if (strcmp(tables[i].command, command) != 0)
			continue;
		r = put_table(doc, &tables[i], style, to);
		if (r == 0 && !tables[i].title)
			r = put_ratios(doc, style, to);
		if (r == 0 && !tables[i].title)
			r = put_kinds(doc, style, to);
	}
	put_summary(doc, style, to);
	put_host(json_object_get(doc, "host"), style, to);
	put_warnings(doc, style, to);
	return r;
}

static void put_head(const char *text, FILE *to)
{
	grid_put_wrapped("bench ", text, to);
}

int report_put_text(const json_t *doc, FILE *to)
{
	static const struct style style = {grid_put_text, put_head, grid_put_wrapped};

	return put(doc, &style, to);
}

static void put_paragraph(const char *text, FILE *to)
{
	fprintf(to, "bench %s\n", text);
}

/* A list item: lead and text, the blanks that align the lead left out. */
static void put_item(const char *lead, const char *text, FILE *to)
{
	int len = (int)strlen(lead);

	while (len > 0 && lead[len - 1] == ' ')
		len--;
	fprintf(to, "- %.*s%s %s\n", len, lead, lead[len - 1] == ':' ? "" : ":", text);
}

int report_put_markdown(const json_t *doc, FILE *to)
{
	static const struct style style = {grid_put_markdown, put_paragraph, put_item};

	return put(doc, &style, to);
}
