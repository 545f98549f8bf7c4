// SPDX-License-Identifier: MIT
/*
 * bench/report_grid.h - a table of texts, put as aligned columns or as Markdown; wrapped lines.
 *
 * A column that no row has a value in is left out. The first column is aligned to the left, the
 * others, which are numbers, to the right.
 *
 * Concurrency: none.
 */
#ifndef COWSLIP_BENCH_REPORT_GRID_H
#define COWSLIP_BENCH_REPORT_GRID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define GRID_WIDTH   100u /* columns of a terminal that lines may have */
#define GRID_COLUMNS 12u
#define GRID_TEXT    32u /* longer ones are cut */

/* Zeroed: empty. */
struct grid {
	unsigned columns;
	unsigned texts; /* leading columns of words, aligned to the left */
	char head[GRID_COLUMNS][GRID_TEXT];
	size_t rows;
	char (*cell)[GRID_COLUMNS][GRID_TEXT]; /* one array per row */
};

/* A column on the right of those there are; beyond GRID_COLUMNS it is dropped. */
void grid_head(struct grid *g, const char *head);

/* A row of empty cells. Return: the row; NULL when there is no memory. */
char (*grid_row(struct grid *g))[GRID_TEXT];

/* Does any row have a value in it? "-" and nothing are none. */
bool grid_column_used(const struct grid *g, unsigned column);

/* Nothing at all is put when no column but those of words is used. */
void grid_put_text(const struct grid *g, const char *title, FILE *to);
void grid_put_markdown(const struct grid *g, const char *title, FILE *to);

void grid_fini(struct grid *g);

/* A number for a cell of GRID_TEXT bytes: whole, "1,234,567"; or with three digits at least. */
void grid_count(double v, char *cell);
void grid_number(double v, char *cell);

/*
 * `text` in lines of at most GRID_WIDTH, broken at blanks; the first begins with `lead`, the others
 * with as many blanks. A word too long for a line gets one of its own.
 */
void grid_put_wrapped(const char *lead, const char *text, FILE *to);

#endif
