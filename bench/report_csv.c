// SPDX-License-Identifier: MIT
/*
 * bench/report_csv.c - rows as lines of comma-separated values.
 *
 * Each row is flattened into an object whose keys are whole paths; the columns are the union of
 * those keys. Both rely on objects keeping the order of insertion.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "bench/report_internal.h"

#define PATH_MAX_BYTES 160u

static int flatten(json_t *flat, const char *path, const json_t *value);

static int flatten_object(json_t *flat, const char *path, const json_t *object)
{
	char inner[PATH_MAX_BYTES];
	const char *key;
	json_t *value;
	int r = 0;

	json_object_foreach((json_t *)object, key, value)
	{
		if (strcmp(key, "cdf") == 0)
			continue;
		snprintf(inner, sizeof(inner), "%s%s%s", path, *path ? "." : "", key);
		r = flatten(flat, inner, value);
		if (r)
			break;
	}
	return r;
}

static int flatten_ends(json_t *flat, const char *path, const json_t *ends)
{
	char end[PATH_MAX_BYTES + 4];

	for (size_t i = 0; i < 2; i++) {
		snprintf(end, sizeof(end), "%s.%s", path, i ? "q3" : "q1");
		if (json_object_set(flat, end, json_array_get(ends, i)))
			return -ENOMEM;
	}
	return 0;
}

/* The depth is the document's own: three. */
static int flatten(json_t *flat, const char *path, const json_t *value)
{
	if (json_is_object(value))
		return flatten_object(flat, path, value);
	if (json_is_array(value))
		return json_array_size(value) == 2 ? flatten_ends(flat, path, value) : 0;
	return json_object_set(flat, path, (json_t *)value) ? -ENOMEM : 0;
}

static void put_string(const char *text, FILE *to)
{
	if (!strpbrk(text, ",\"\r\n")) {
		fputs(text, to);
		return;
	}
	fputc('"', to);
	for (; *text; text++) {
		if (*text == '"')
			fputc('"', to);
		fputc(*text, to);
	}
	fputc('"', to);
}

/* NULL and null are empty. */
static void put_value(const json_t *value, FILE *to)
{
	if (json_is_string(value))
		put_string(json_string_value(value), to);
	else if (json_is_integer(value))
		fprintf(to, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	else if (json_is_real(value))
		fprintf(to, "%.12g", json_real_value(value));
	else if (json_is_boolean(value))
		fputs(json_is_true(value) ? "true" : "false", to);
}

/* A row's values; `flat` NULL: the columns' names. */
static void put_line(json_t *columns, const json_t *flat, FILE *to)
{
	const char *path;
	json_t *unused;
	bool first = true;

	json_object_foreach(columns, path, unused)
	{
		if (!first)
			fputc(',', to);
		if (flat)
			put_value(json_object_get(flat, path), to);
		else
			put_string(path, to);
		first = false;
	}
	fputc('\n', to);
}

/* Every row flattened, in *flat; their keys, in *columns. */
static int flatten_rows(const json_t *doc, json_t *flat, json_t *columns)
{
	const json_t *row;
	size_t i;

	json_array_foreach(json_object_get(doc, "rows"), i, row)
	{
		json_t *one = json_object();

		if (json_array_append_new(flat, one) || flatten_object(one, "", row) ||
		    json_object_update_missing(columns, one))
			return -ENOMEM;
	}
	return 0;
}

int report_put_csv(const json_t *doc, FILE *to)
{
	json_t *flat = json_array(), *columns = json_object();
	const json_t *row;
	size_t i;
	int r = flat && columns ? flatten_rows(doc, flat, columns) : -ENOMEM;

	if (r == 0) {
		put_line(columns, NULL, to);
		json_array_foreach(flat, i, row) put_line(columns, row, to);
	}
	json_decref(flat);
	json_decref(columns);
	return r;
}
