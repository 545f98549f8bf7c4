// SPDX-License-Identifier: MIT
#include "bench/report_grid.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void grid_head(struct grid *g, const char *head)
{
	if (g->columns < GRID_COLUMNS)
		snprintf(g->head[g->columns++], GRID_TEXT, "%s", head);
}

char (*grid_row(struct grid *g))[GRID_TEXT]
{
	void *more = reallocarray(g->cell, g->rows + 1, sizeof(*g->cell));

	if (!more)
		return NULL;
	g->cell = more;
	memset(g->cell[g->rows], 0, sizeof(g->cell[g->rows]));
	return g->cell[g->rows++];
}

void grid_fini(struct grid *g)
{
	free(g->cell);
	*g = (struct grid){0};
}

bool grid_column_used(const struct grid *g, unsigned column)
{
	for (size_t r = 0; r < g->rows; r++)
		if (g->cell[r][column][0] && strcmp(g->cell[r][column], "-") != 0)
			return true;
	return false;
}

static bool worth_it(const struct grid *g)
{
	for (unsigned c = g->texts; c < g->columns; c++)
		if (grid_column_used(g, c))
			return true;
	return false;
}

/* ---- text ---- */

static unsigned max_unsigned(unsigned a, size_t b)
{
	return a > b ? a : (unsigned)b;
}

static unsigned column_width(const struct grid *g, unsigned column)
{
	unsigned width = max_unsigned(0, strlen(g->head[column]));

	for (size_t r = 0; r < g->rows; r++)
		width = max_unsigned(width, strlen(g->cell[r][column]));
	return width;
}

static void put_line(const struct grid *g, const char (*cells)[GRID_TEXT], const unsigned *width,
                     FILE *to)
{
	for (unsigned c = 0; c < g->columns; c++) {
		bool left = c < g->texts;

		if (width[c])
			fprintf(to, "%s%*s", c ? "  " : "", left ? -(int)width[c] : (int)width[c],
			        cells[c]);
	}
	fputc('\n', to);
}

void grid_put_text(const struct grid *g, const char *title, FILE *to)
{
	unsigned width[GRID_COLUMNS] = {0};

	if (!worth_it(g))
		return;
	for (unsigned c = 0; c < g->columns; c++)
		width[c] = grid_column_used(g, c) ? column_width(g, c) : 0;
	fputc('\n', to);
	if (title)
		fprintf(to, "%s\n", title);
	put_line(g, g->head, width, to);
	for (size_t r = 0; r < g->rows; r++)
		put_line(g, (const char(*)[GRID_TEXT])g->cell[r], width, to);
}

/* ---- Markdown ---- */

static void put_cells(const struct grid *g, const char (*cells)[GRID_TEXT], const bool *used,
                      FILE *to)
{
	for (unsigned c = 0; c < g->columns; c++) {
		if (!used[c])
			continue;
		fputs("| ", to);
		for (const char *at = cells[c]; *at; at++)
			fprintf(to, "%s%c", *at == '|' ? "\\" : "", *at);
		fputc(' ', to);
	}
	fputs("|\n", to);
}

static void put_rule(const struct grid *g, const bool *used, FILE *to)
{
	for (unsigned c = 0; c < g->columns; c++)
		if (used[c])
			fputs(c < g->texts ? "|:--" : "|--:", to);
	fputs("|\n", to);
}

void grid_put_markdown(const struct grid *g, const char *title, FILE *to)
{
	bool used[GRID_COLUMNS] = {0};

	if (!worth_it(g))
		return;
	for (unsigned c = 0; c < g->columns; c++)
		used[c] = grid_column_used(g, c);
	if (title)
		fprintf(to, "\n%s:\n", title);
	fputc('\n', to);
	put_cells(g, g->head, used, to);
	put_rule(g, used, to);
	for (size_t r = 0; r < g->rows; r++)
		put_cells(g, (const char(*)[GRID_TEXT])g->cell[r], used, to);
}

/* ---- numbers ---- */

void grid_count(double v, char *cell)
{
	char digits[GRID_TEXT];
	size_t len, out = 0;

	snprintf(digits, sizeof(digits), "%.0f", fabs(v));
	len = strlen(digits);
	if (v < 0 && strcmp(digits, "0") != 0)
		cell[out++] = '-';
	for (size_t i = 0; i < len && out + 2 < GRID_TEXT; i++) {
		cell[out++] = digits[i];
		if (i + 1 < len && (len - i) % 3 == 1)
			cell[out++] = ',';
	}
	cell[out] = '\0';
}

void grid_number(double v, char *cell)
{
	static const struct {
		double least; /* that is rounded to this many digits behind the point */
		int digits;
	} steps[] = {{9.995, 1}, {0.9995, 2}, {0.09995, 3}, {0.009995, 4}, {0, 5}};
	double size = fabs(v);
	unsigned i = 0;

	if (size == 0 || size >= 99.95) {
		grid_count(v, cell);
		return;
	}
	while (size < steps[i].least)
		i++;
	snprintf(cell, GRID_TEXT, "%.*f", steps[i].digits, v);
}

/* ---- running text ---- */

void grid_put_wrapped(const char *lead, const char *text, FILE *to)
{
	size_t indent = strlen(lead), at = indent;

	fputs(lead, to);
	for (;;) {
		size_t len;

		text += strspn(text, " ");
		len = strcspn(text, " ");
		if (len == 0)
			break;
		if (at > indent && at + 1 + len > GRID_WIDTH) {
			fprintf(to, "\n%*s", (int)indent, "");
			at = indent;
		}
		at += (size_t)fprintf(to, "%s%.*s", at > indent ? " " : "", (int)len, text);
		text += len;
	}
	fputc('\n', to);
}
