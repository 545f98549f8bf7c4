// SPDX-License-Identifier: MIT
#include "bench/compare.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "bench/guest_run.h"
#include "bench/report.h"
#include "bench/report_grid.h"

#define TEXT_MAX 256u
#define KEY_MAX  64u

/* ---- reading ---- */

/* Has it what the rest of this file takes for granted? */
static bool is_ours(const json_t *doc)
{
	const json_t *row;
	size_t i;

	if (!json_is_string(json_object_get(doc, "command")) ||
	    !json_is_object(json_object_get(doc, "parameters")) ||
	    !json_is_array(json_object_get(doc, "rows")))
		return false;
	json_array_foreach(json_object_get(doc, "rows"), i,
	                   row) if (!json_is_string(json_object_get(row, "name"))) return false;
	return true;
}

static int check(const char *path, const json_t *doc, struct vm_error *err)
{
	const json_t *schema = json_object_get(doc, "schema");

	if (!json_is_integer(schema))
		return bench_fail(err, -EBADMSG,
		                  "%s: not a result of cowslip bench; make one with --json", path);
	if (json_integer_value(schema) != REPORT_SCHEMA)
		return bench_fail(err, -ENOTSUP,
		                  "%s: schema %" JSON_INTEGER_FORMAT
		                  ", this cowslip knows %d; run it anew",
		                  path, json_integer_value(schema), REPORT_SCHEMA);
	if (!is_ours(doc))
		return bench_fail(err, -EBADMSG,
		                  "%s: not a whole result of cowslip bench; make one with --json",
		                  path);
	return 0;
}

static int load_failed(const char *path, const json_error_t *e, struct vm_error *err)
{
	if (json_error_code(e) == json_error_out_of_memory)
		return bench_fail(err, -ENOMEM, "%s: no memory to read it", path);
	return bench_fail(err, -EBADMSG, "%s: not JSON: line %d: %s", path, e->line, e->text);
}

int compare_load(const char *path, json_t **out, struct vm_error *err)
{
	FILE *f = fopen(path, "re");
	json_error_t e;
	json_t *doc;
	int r;

	if (!f) {
		r = -errno;
		return bench_fail(err, r, "%s: %s", path, strerror(-r));
	}
	doc = json_loadf(f, JSON_REJECT_DUPLICATES, &e);
	fclose(f);
	r = doc ? check(path, doc, err) : load_failed(path, &e, err);
	if (r)
		json_decref(doc);
	else
		*out = doc;
	return r;
}

/* ---- fitting ---- */

static void value_text(const json_t *value, char *text, size_t size)
{
	size_t n = value ? json_dumpb(value, text, size - 1, JSON_ENCODE_ANY | JSON_COMPACT) : 0;

	text[n < size ? n : 0] = '\0';
	if (n == 0 || n >= size)
		snprintf(text, size, "%s", value ? "something else" : "nothing");
}

/* A number is the same whether it was written as 1 or as 1.0. */
static bool same(const json_t *a, const json_t *b)
{
	if (json_is_number(a) && json_is_number(b))
		return json_number_value(a) == json_number_value(b);
	return json_equal(a, b) || ((!a || json_is_null(a)) && (!b || json_is_null(b)));
}

/* Every parameter of `a` but "repeat" against `b`. Return: the key of the first that differs. */
static const char *first_difference(const json_t *a, const json_t *b)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)a, key,
	                    value) if (strcmp(key, "repeat") != 0 &&
	                               !same(value, json_object_get(b, key))) return key;
	return NULL;
}

int compare_fits(const json_t *before, const json_t *now, struct vm_error *err)
{
	const json_t *old = json_object_get(before, "parameters");
	const json_t *new = json_object_get(now, "parameters");
	const char *was = json_string_value(json_object_get(before, "command"));
	const char *is = json_string_value(json_object_get(now, "command"));
	const char *key = first_difference(old, new);
	char old_text[TEXT_MAX], new_text[TEXT_MAX];

	if (strcmp(was, is) != 0)
		return bench_fail(err, -EINVAL,
		                  "results of bench %s and bench %s cannot be compared", was, is);
	key = key ? key : first_difference(new, old);
	if (!key)
		return 0;
	value_text(json_object_get(old, key), old_text, sizeof(old_text));
	value_text(json_object_get(new, key), new_text, sizeof(new_text));
	return bench_fail(err, -EINVAL,
	                  "results with other parameters cannot be compared: %s was %s, now is %s",
	                  key, old_text, new_text);
}

/* ---- comparing ---- */

struct comparison {
	FILE *to;
	bool few; /* repeats, in one of the two: what older results have for spreads is none */
	int changes;
	int unknown; /* figures of both that could not be judged */
};

/* Figures of which more is better; of all others, which are times, less is. */
static bool is_rate(const char *figure)
{
	static const char *const ends[] = {"_per_s", "_ratio", "r2"};
	size_t len = strlen(figure);

	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		size_t tail = strlen(ends[i]);

		if (len >= tail && strcmp(figure + len - tail, ends[i]) == 0)
			return true;
	}
	return false;
}

static void tell(struct comparison *c, const char *row, const char *figure, bool more_is_better,
                 const struct spread *before, const struct spread *now)
{
	char was[GRID_TEXT], is[GRID_TEXT];
	int change;

	if (before->count == 0 || now->count == 0)
		return;
	if (c->few || !spread_known(before) || !spread_known(now)) {
		c->unknown++;
		return;
	}
	change = spread_change(before, now);
	if (change == 0)
		return;
	grid_number(before->median, was);
	grid_number(now->median, is);
	fprintf(c->to, "%s: %s: %s -> %s (%+.0f %%): %s\n", row, figure, was, is,
	        100 * (now->median / before->median - 1),
	        (change > 0) == more_is_better ? "better" : "worse");
	c->changes++;
}

static void compare_ratios(struct comparison *c, const json_t *before, const json_t *now)
{
	char figure[KEY_MAX];
	const char *baseline;
	json_t *value;

	json_object_foreach(json_object_get(now, "ratio_to"), baseline, value)
	{
		struct spread old = report_ratio(before, baseline);
		struct spread new = report_ratio(now, baseline);

		snprintf(figure, sizeof(figure), "ratio to %s", baseline);
		tell(c, report_name(now), figure, true, &old, &new);
	}
}

static void compare_figures(struct comparison *c, const char *row, const json_t *before,
                            const json_t *now)
{
	char figure[KEY_MAX];
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)now, key, value)
	{
		struct spread old, new;

		if (!report_spread_key(key, figure, sizeof(figure)))
			continue;
		old = report_figure(before, figure);
		new = report_figure(now, figure);
		tell(c, row, figure, is_rate(figure), &old, &new);
	}
}

static const json_t *find_row(const json_t *doc, const char *name)
{
	const json_t *row;
	size_t i;

	json_array_foreach(json_object_get(doc, "rows"), i,
	                   row) if (strcmp(report_name(row), name) == 0) return row;
	return NULL;
}

/* Names of rows that `a` has and `b` has not. */
static void tell_missing(struct comparison *c, const json_t *a, const json_t *b, const char *where)
{
	const json_t *row;
	size_t i;

	json_array_foreach(json_object_get(a, "rows"), i, row) if (!find_row(b, report_name(row)))
		fprintf(c->to, "%s: only in the %s result\n", report_name(row), where);
}

/* What decides how long something takes, less what changes from hour to hour. */
static bool same_host(const json_t *before, const json_t *now)
{
	static const char *const keys[] = {"kernel", "kvm", "cpu", "cpus"};
	const json_t *old = json_object_get(before, "host"), *new = json_object_get(now, "host");

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (!same(json_object_get(old, keys[i]), json_object_get(new, keys[i])))
			return false;
	return true;
}

static void sum_up(const struct comparison *c, const json_t *before, const json_t *now)
{
	bool noisy = report_is_noisy(before) || report_is_noisy(now);

	if (c->unknown)
		fprintf(c->to,
		        "%d figure%s cannot be judged: that takes at least %u repeats of both\n",
		        c->unknown, c->unknown == 1 ? "" : "s", SPREAD_LEAST);
	if (c->unknown && c->changes == 0)
		return;
	if (c->changes == 0)
		fputs("nothing changed beyond noise", c->to);
	else
		fprintf(c->to, "%d figure%s changed beyond noise", c->changes,
		        c->changes == 1 ? "" : "s");
	fputs(noisy ? "; the host was too noisy for small changes to show\n" : "\n", c->to);
}

int compare_put(const json_t *before, const json_t *now, FILE *to)
{
	struct comparison c = {.to = to,
	                       .few = report_few_repeats(before) || report_few_repeats(now)};
	bool times = same_host(before, now);
	const json_t *row;
	size_t i;

	if (!times)
		fputs("another host: only ratios are compared, not times\n", to);
	json_array_foreach(json_object_get(now, "rows"), i, row)
	{
		const json_t *old = find_row(before, report_name(row));

		compare_ratios(&c, old, row);
		if (times && report_own_figures(now, row))
			compare_figures(&c, report_name(row), old, row);
	}
	if (times)
		compare_figures(&c, "summary", json_object_get(before, "summary"),
		                json_object_get(now, "summary"));
	tell_missing(&c, now, before, "new");
	tell_missing(&c, before, now, "old");
	sum_up(&c, before, now);
	return fflush(to) || ferror(to) ? -EIO : c.changes;
}
