// SPDX-License-Identifier: MIT
/*
 * bench/report.c - building the document, reading figures back, judging noise; JSON.
 *
 * Figures are rounded to five digits as they are set: more of them would only be noise.
 */
#include "bench/report.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "bench/host.h"
#include "bench/report_grid.h"
#include "bench/report_internal.h"
#include "vmm/version.h"

#define TEXT_MAX 512u
#define KEY_MAX  64u

static const char spread_suffix[] = "_spread";

/* ---- building ---- */

static int done(int jansson)
{
	return jansson ? -ENOMEM : 0;
}

json_t *report_new(const char *command, json_t *parameters, const char *baseline,
                   const struct host *host)
{
	json_t *doc = json_pack("{s:i, s:s, s:s, s:o}", "schema", REPORT_SCHEMA, "command", command,
	                        "build", COWSLIP_BUILD, "parameters", parameters);

	if (!doc)
		return NULL;
	if ((baseline && json_object_set_new(doc, "baseline", json_string(baseline))) ||
	    json_object_set_new(doc, "host", host ? host_json(host) : json_null()) ||
	    json_object_set_new(doc, "noisy", json_false()) ||
	    json_object_set_new(doc, "warnings", json_array()) ||
	    json_object_set_new(doc, "rows", json_array())) {
		json_decref(doc);
		return NULL;
	}
	return doc;
}

int report_add_row(json_t *doc, json_t *row)
{
	return done(json_array_append_new(json_object_get(doc, "rows"), row));
}

int report_warn(json_t *doc, const char *format, ...)
{
	char text[TEXT_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return done(json_array_append_new(json_object_get(doc, "warnings"), json_string(text)));
}

void report_say(void *doc, const char *sentence)
{
	(void)report_warn(doc, "%s", sentence);
}

static json_t *rounded(double v)
{
	char text[32];

	snprintf(text, sizeof(text), "%.5g", v);
	return json_real(strtod(text, NULL));
}

static json_t *quartiles(const struct spread *s)
{
	return spread_known(s) ? json_pack("[o, o]", rounded(s->q1), rounded(s->q3)) : json_null();
}

static json_t *median(const struct spread *s)
{
	return s->count ? rounded(s->median) : json_null();
}

int report_set_figure(json_t *row, const char *key, const struct spread *s)
{
	char beside[KEY_MAX];

	snprintf(beside, sizeof(beside), "%s%s", key, spread_suffix);
	return done(json_object_set_new(row, key, median(s)) ||
	            json_object_set_new(row, beside, quartiles(s)));
}

int report_set(json_t *to, const char *key, json_t *value)
{
	return done(json_object_set_new(to, key, value));
}

static json_t *whole(const struct spread *s)
{
	return s->count ? json_integer(llround(s->median)) : json_null();
}

int report_set_items(json_t *row, const struct report_item *items, size_t count)
{
	int r = 0;

	for (const struct report_item *i = items; r == 0 && i < items + count; i++) {
		struct spread s = sample_spread(i->sample);

		if (i->form == ITEM_FIGURE)
			r = report_set_figure(row, i->key, &s);
		else
			r = report_set(row, i->key, i->form == ITEM_WHOLE ? whole(&s) : median(&s));
	}
	return r;
}

int report_set_summary(json_t *doc, const struct report_item *items, size_t count)
{
	json_t *summary = json_object();
	int r = report_set(doc, "summary", summary);

	return r ? r : report_set_items(summary, items, count);
}

/* The object `key` of a row, made when it is not there. Borrowed; NULL: no memory. */
static json_t *inner(json_t *row, const char *key)
{
	json_t *o = json_object_get(row, key);

	if (o)
		return o;
	return json_object_set_new(row, key, json_object()) ? NULL : json_object_get(row, key);
}

int report_set_ratio(json_t *row, const char *baseline, const struct spread *s)
{
	json_t *to = inner(row, "ratio_to"), *spread = inner(row, "ratio_spread");

	return done(!to || !spread || json_object_set_new(to, baseline, median(s)) ||
	            json_object_set_new(spread, baseline, quartiles(s)));
}

/* ---- reading back ---- */

static struct spread read_back(const json_t *figure, const json_t *ends)
{
	struct spread s = {0};

	if (!json_is_number(figure))
		return s;
	s.median = s.q1 = s.q3 = json_number_value(figure);
	s.count = 1;
	if (json_array_size(ends) == 2) {
		s.q1 = json_number_value(json_array_get(ends, 0));
		s.q3 = json_number_value(json_array_get(ends, 1));
		s.count = SPREAD_LEAST;
	}
	return s;
}

struct spread report_figure(const json_t *row, const char *key)
{
	char beside[KEY_MAX];

	snprintf(beside, sizeof(beside), "%s%s", key, spread_suffix);
	return read_back(json_object_get(row, key), json_object_get(row, beside));
}

struct spread report_ratio(const json_t *row, const char *baseline)
{
	return read_back(json_object_get(json_object_get(row, "ratio_to"), baseline),
	                 json_object_get(json_object_get(row, "ratio_spread"), baseline));
}

const char *report_name(const json_t *row)
{
	const char *name = json_string_value(json_object_get(row, "name"));

	return name ? name : "";
}

bool report_spread_key(const char *key, char *figure, size_t size)
{
	size_t len = strlen(key), tail = sizeof(spread_suffix) - 1;

	if (len <= tail || strcmp(key + len - tail, spread_suffix) != 0 ||
	    strcmp(key, "ratio_spread") == 0)
		return false;
	snprintf(figure, size, "%.*s", (int)(len - tail), key);
	return true;
}

bool report_is_baseline(const json_t *doc, const char *name)
{
	const char *named = json_string_value(json_object_get(doc, "baseline"));
	const json_t *row;
	size_t i;

	if (named && strcmp(named, name) == 0)
		return true;
	json_array_foreach(
		json_object_get(doc, "rows"), i,
		row) if (json_object_get(json_object_get(row, "ratio_to"), name)) return true;
	return false;
}

bool report_own_figures(const json_t *doc, const json_t *row)
{
	return json_object_size(json_object_get(row, "ratio_to")) == 0 &&
	       !report_is_baseline(doc, report_name(row));
}

/* ---- noise ---- */

/* The widest of those looked at. */
struct noise {
	double relative;
	struct spread spread;
	char what[2 * KEY_MAX];
};

static void look(struct noise *n, struct spread s, const char *what, const char *of)
{
	double relative = spread_relative(&s);

	if (relative <= n->relative)
		return;
	n->relative = relative;
	n->spread = s;
	snprintf(n->what, sizeof(n->what), "%s%s", what, of);
}

static struct noise ratio_noise(const json_t *row)
{
	struct noise n = {.relative = 0};
	const char *baseline;
	json_t *value;

	json_object_foreach(json_object_get(row, "ratio_to"), baseline,
	                    value) if (strcmp(baseline, report_name(row)) != 0)
		look(&n, report_ratio(row, baseline), "ratio to ", baseline);
	return n;
}

static struct noise figure_noise(const json_t *row)
{
	struct noise n = {.relative = 0};
	char figure[KEY_MAX];
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)row, key,
	                    value) if (report_spread_key(key, figure, sizeof(figure)))
		look(&n, report_figure(row, figure), "", figure);
	return n;
}

static int judge(json_t *doc, const char *name, const struct noise *n)
{
	char q1[GRID_TEXT], q3[GRID_TEXT], middle[GRID_TEXT];

	if (n->relative <= SPREAD_NOISY)
		return 0;
	grid_number(n->spread.q1, q1);
	grid_number(n->spread.q3, q3);
	grid_number(n->spread.median, middle);
	if (json_object_set_new(doc, "noisy", json_true()))
		return -ENOMEM;
	return report_warn(doc,
	                   "host too noisy: %s: %s: half of the repeats lie between %s and %s, "
	                   "%.0f %% of the median %s",
	                   name, n->what, q1, q3, 100 * n->relative, middle);
}

static int judge_row(json_t *doc, const json_t *row)
{
	struct noise n = report_own_figures(doc, row) ? figure_noise(row) : ratio_noise(row);

	return judge(doc, report_name(row), &n);
}

bool report_few_repeats(const json_t *doc)
{
	const json_t *repeat = json_object_get(json_object_get(doc, "parameters"), "repeat");

	return repeat && json_integer_value(repeat) < (json_int_t)SPREAD_LEAST;
}

int report_judge(json_t *doc)
{
	const json_t *row;
	struct noise n;
	size_t i;
	int r;

	if (report_few_repeats(doc))
		return report_warn(doc,
		                   "fewer than %u repeats: how much the figures vary is "
		                   "not known",
		                   SPREAD_LEAST);
	json_array_foreach(json_object_get(doc, "rows"), i, row)
	{
		r = judge_row(doc, row);
		if (r)
			return r;
	}
	n = figure_noise(json_object_get(doc, "summary"));
	return judge(doc, "summary", &n);
}

bool report_is_noisy(const json_t *doc)
{
	return json_is_true(json_object_get(doc, "noisy"));
}

/* ---- JSON ---- */

#define COMPACT (JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(12))

static int put_value(const json_t *value, FILE *to)
{
	return json_dumpf(value, to, COMPACT);
}

/* One element a line, so that rows can be read and compared by line. */
static int put_list(const json_t *list, FILE *to)
{
	const json_t *element;
	size_t i;
	int r = 0;

	fputc('[', to);
	json_array_foreach(list, i, element)
	{
		fputs(i ? ",\n    " : "\n    ", to);
		r |= put_value(element, to);
	}
	fputs(json_array_size(list) ? "\n  ]" : "]", to);
	return r;
}

static int put_json(const json_t *doc, FILE *to)
{
	const char *key;
	json_t *value;
	bool first = true;
	int r = 0;

	fputc('{', to);
	json_object_foreach((json_t *)doc, key, value)
	{
		fprintf(to, "%s\n  \"%s\": ", first ? "" : ",", key);
		r |= json_is_array(value) ? put_list(value, to) : put_value(value, to);
		first = false;
	}
	fputs("\n}\n", to);
	return done(r);
}

int report_put(const json_t *doc, enum report_form form, FILE *to)
{
	static int (*const forms[])(const json_t *doc, FILE *to) = {
		[REPORT_TEXT] = report_put_text,
		[REPORT_MARKDOWN] = report_put_markdown,
		[REPORT_CSV] = report_put_csv,
		[REPORT_JSON] = put_json,
	};
	int r = forms[form](doc, to);

	if (fflush(to) || ferror(to))
		return -EIO;
	return r;
}
