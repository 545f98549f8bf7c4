// SPDX-License-Identifier: MIT
/*
 * vmm/cli_image_svg.c - the picture of an image's address space.
 *
 *     title
 *     totals, legend
 *     address  [][][][][][][][]...
 *     address  [][][][]...
 *     (a gap, where a region of RAM ends and another begins)
 *
 * A cell is a 2 MiB block, filled from below: what this file stores, then what lies in others; what
 * stays empty is zero. Neighbours in a row that are filled alike are one rectangle, and the grid
 * over them is one pattern, so a picture of a large guest stays small. The fill is rounded to a
 * twelfth of a cell, but whatever is not nothing shows.
 */
#include <inttypes.h>
#include <stdio.h>

#include "vmm/cli_image.h"
#include "vmm/image_map.h"

#define MIB       (1024.0 * 1024.0)
#define LEFT      112u /* of the cells; addresses stand before them */
#define TOP       92u
#define MARGIN    20u
#define GAP       14u /* between regions */
#define STEPS     12u /* of a cell's fill */
#define OWN_LEAST 3u  /* one changed page is what one looks for: it takes a quarter */
#define WIDTH_MIN 560u

#define COLOR_ZERO   "#e9ebee"
#define COLOR_OWN    "#d9622b"
#define COLOR_SHARED "#4c84b6"
#define COLOR_INK    "#24292f"
#define COLOR_FAINT  "#6a737d"

struct picture {
	FILE *f;
	const struct image_map *m;
	unsigned columns;
	unsigned cell, line; /* pixels of a cell's side, and of the lines between cells */
	unsigned width, height;
};

/* A row of at most `columns` blocks without a gap. */
struct row {
	size_t first, count;
	unsigned y;
};

/* About as wide as high, in whole powers of two so that row addresses are round. */
static void choose_size(struct picture *p)
{
	static const struct {
		size_t blocks;
		unsigned columns, cell;
	} sizes[] = {
		{64, 16, 24}, {512, 32, 16}, {4096, 64, 11}, {32768, 128, 6}, {SIZE_MAX, 256, 3},
	};
	size_t i = 0;

	while (p->m->count > sizes[i].blocks)
		i++;
	p->columns = sizes[i].columns;
	p->cell = sizes[i].cell;
	p->line = p->cell > 8 ? 2 : 1;
	p->width = (unsigned)max_u64(LEFT + p->columns * p->cell + MARGIN, WIDTH_MIN);
}

/* The row after `r`; the first for a zeroed one. Return: false at the end. */
static bool next_row(const struct picture *p, struct row *r)
{
	const struct image_block *b = p->m->block;
	size_t i = r->first + r->count;

	if (i == p->m->count)
		return false;
	if (i == 0)
		r->y = TOP;
	else
		r->y += p->cell + p->line + (b[i].gpa == b[i - 1].gpa + MM_BLOCK_SIZE ? 0 : GAP);
	r->first = i;
	r->count = 1;
	while (i + r->count < p->m->count && r->count < p->columns &&
	       b[i + r->count].gpa == b[i + r->count - 1].gpa + MM_BLOCK_SIZE)
		r->count++;
	return true;
}

/* In steps of a cell; what is there shows by at least `least`, and never hides what else is. */
static unsigned fill(unsigned pages, unsigned least)
{
	unsigned steps = (pages * STEPS + MM_BLOCK_PAGES / 2) / MM_BLOCK_PAGES;

	if (pages && steps < least)
		return least;
	return pages < MM_BLOCK_PAGES && steps == STEPS ? STEPS - 1 : steps;
}

struct cell_fill {
	unsigned own, shared;
};

static struct cell_fill cell_fill(const struct image_block *b)
{
	struct cell_fill c = {fill(b->own, OWN_LEAST), fill(b->shared, 1)};

	if (c.own + c.shared > STEPS)
		c.shared = STEPS - c.own;
	return c;
}

static void put_rect(const struct picture *p, double x, double y, double w, double h,
                     const char *color)
{
	if (w > 0 && h > 0)
		fprintf(p->f,
		        "<rect x=\"%.4g\" y=\"%.6g\" width=\"%.5g\" height=\"%.4g\" "
		        "fill=\"%s\"/>\n",
		        x, y, w, h, color);
}

static void put_cells(const struct picture *p, const struct row *r, size_t from, size_t count)
{
	struct cell_fill c = cell_fill(&p->m->block[r->first + from]);
	double unit = (double)p->cell / STEPS;
	double x = LEFT + (double)from * p->cell, w = (double)count * p->cell;
	double bottom = r->y + p->cell;

	put_rect(p, x, bottom - c.own * unit, w, c.own * unit, COLOR_OWN);
	put_rect(p, x, bottom - (c.own + c.shared) * unit, w, c.shared * unit, COLOR_SHARED);
}

static void put_row(const struct picture *p, const struct row *r)
{
	const struct image_block *b = &p->m->block[r->first];

	put_rect(p, LEFT, r->y, (double)r->count * p->cell, p->cell, COLOR_ZERO);
	for (size_t i = 0; i < r->count;) {
		struct cell_fill c = cell_fill(&b[i]);
		size_t n = 1;

		while (i + n < r->count && cell_fill(&b[i + n]).own == c.own &&
		       cell_fill(&b[i + n]).shared == c.shared)
			n++;
		put_cells(p, r, i, n);
		i += n;
	}
	fprintf(p->f, "<rect x=\"%u\" y=\"%u\" width=\"%zu\" height=\"%u\" fill=\"url(#grid)\"/>\n",
	        LEFT, r->y, r->count * p->cell, p->cell);
}

/* Not more often than text is high. */
static void put_address(const struct picture *p, const struct row *r, unsigned *last)
{
	if (*last && r->y < *last + 14)
		return;
	fprintf(p->f,
	        "<text x=\"%u\" y=\"%u\" text-anchor=\"end\" class=\"faint\">0x%" PRIx64
	        "</text>\n",
	        LEFT - 8, r->y + (p->cell > 12 ? p->cell / 2 + 4 : 9), p->m->block[r->first].gpa);
	*last = r->y;
}

static void put_escaped(FILE *f, const char *text)
{
	for (; *text; text++) {
		switch (*text) {
		case '<':
			fputs("&lt;", f);
			break;
		case '&':
			fputs("&amp;", f);
			break;
		default:
			/* Control characters are no XML. */
			fputc((unsigned char)*text < 0x20 ? '?' : *text, f);
		}
	}
}

static void put_legend(const struct picture *p)
{
	uint64_t own = 0, shared = 0, pages = 0;
	unsigned x = MARGIN;

	for (size_t i = 0; i < p->m->count; i++) {
		own += p->m->block[i].own;
		shared += p->m->block[i].shared;
		pages += p->m->block[i].pages;
	}
	const struct {
		const char *color, *name;
		uint64_t pages;
	} keys[] = {
		{COLOR_OWN, "in this file", own},
		{COLOR_SHARED, "in others", shared},
		{COLOR_ZERO, "zero", pages - min_u64(pages, own + shared)},
	};
	for (size_t i = 0; i < 3; i++, x += 170) {
		put_rect(p, x, 60, 12, 12, keys[i].color);
		fprintf(p->f, "<text x=\"%u\" y=\"70\">%s, %.1f MiB</text>\n", x + 18, keys[i].name,
		        (double)(keys[i].pages << MM_PAGE_SHIFT) / MIB);
	}
}

static void put_head(const struct picture *p, const char *name)
{
	fprintf(p->f,
	        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" height=\"%u\" "
	        "viewBox=\"0 0 %u %u\" font-family=\"sans-serif\" font-size=\"12\" fill=\"%s\">\n",
	        p->width, p->height, p->width, p->height, COLOR_INK);
	fprintf(p->f,
	        "<style>.faint { fill: %s; font-family: monospace; font-size: 11px }</style>\n",
	        COLOR_FAINT);
	fprintf(p->f,
	        "<defs><pattern id=\"grid\" x=\"%u\" y=\"0\" width=\"%u\" height=\"%u\" "
	        "patternUnits=\"userSpaceOnUse\"><path d=\"M0 0V%u\" stroke=\"#fff\" "
	        "stroke-width=\"%u\"/></pattern></defs>\n",
	        LEFT, p->cell, p->height, p->height, p->line);
	fprintf(p->f, "<rect width=\"%u\" height=\"%u\" fill=\"#fff\"/>\n", p->width, p->height);
	fprintf(p->f, "<text x=\"%u\" y=\"28\" font-size=\"16\" font-weight=\"bold\">", MARGIN);
	put_escaped(p->f, name);
	fprintf(p->f,
	        "</text>\n<text x=\"%u\" y=\"47\" class=\"faint\">%.1f MiB RAM, a cell is 2 MiB",
	        MARGIN, (double)p->m->info.ram_bytes / MIB);
	if (p->m->info.parent[0]) {
		fprintf(p->f, ", cloned from ");
		put_escaped(p->f, p->m->info.parent);
	}
	fprintf(p->f, "</text>\n");
}

static unsigned total_height(const struct picture *p)
{
	struct row r = {0};
	unsigned y = TOP;

	while (next_row(p, &r))
		y = r.y + p->cell;
	return y + MARGIN;
}

void cli_image_svg(const char *name, const struct image_map *m, FILE *f)
{
	struct picture p = {.f = f, .m = m};
	struct row r = {0};
	unsigned last = 0;

	choose_size(&p);
	p.height = total_height(&p);
	put_head(&p, name);
	put_legend(&p);
	while (next_row(&p, &r)) {
		put_address(&p, &r, &last);
		put_row(&p, &r);
	}
	fprintf(f, "</svg>\n");
}
