// SPDX-License-Identifier: MIT
/*
 * vmm/cli_image_map.c - `cowslip image map`: where an image's memory lies, as text, JSON or SVG.
 *
 * JSON: path, block_bytes, zero, own, shared (pages of all RAM), blocks: a list of start, pages,
 * own, shared, for each block that is not all zero.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/cli_image.h"
#include "vmm/image_map.h"

#define MIB        (1024.0 * 1024.0)
#define LINE_CELLS 64u /* of text: 128 MiB */

struct totals {
	uint64_t pages, own, shared, zero;
};

static struct totals sum(const struct image_map *m)
{
	struct totals t = {0};

	for (size_t i = 0; i < m->count; i++) {
		t.pages += m->block[i].pages;
		t.own += m->block[i].own;
		t.shared += m->block[i].shared;
	}
	t.zero = t.pages - min_u64(t.pages, t.own + t.shared);
	return t;
}

/* ---- text and JSON ---- */

static char cell_char(const struct image_block *b)
{
	if (b->own && b->shared)
		return 'x';
	if (b->own)
		return 'o';
	return b->shared ? 's' : '.';
}

static bool starts_line(const struct image_map *m, size_t i, size_t *cells)
{
	bool gap = i == 0 || m->block[i].gpa != m->block[i - 1].gpa + MM_BLOCK_SIZE;
	bool start = gap || *cells == LINE_CELLS;

	if (start)
		*cells = 0;
	++*cells;
	return start;
}

static int put_text(const struct image_command *c, const struct image_map *m)
{
	struct totals t = sum(m);
	size_t cells = 0;

	printf("%s: a character is 2 MiB: . zero, o stored in this file, s in others, x both",
	       c->path[0]);
	for (size_t i = 0; i < m->count; i++) {
		if (starts_line(m, i, &cells))
			printf("\n%#14" PRIx64 "  ", m->block[i].gpa);
		printf("%c", cell_char(&m->block[i]));
	}
	printf("\n%.1f MiB stored in this file, %.1f MiB in others, %.1f MiB zero\n",
	       (double)(t.own << MM_PAGE_SHIFT) / MIB, (double)(t.shared << MM_PAGE_SHIFT) / MIB,
	       (double)(t.zero << MM_PAGE_SHIFT) / MIB);
	return cli_flush_stdout();
}

static json_t *blocks_json(const struct image_map *m)
{
	json_t *list = json_array();

	for (size_t i = 0; i < m->count; i++) {
		const struct image_block *b = &m->block[i];

		if (!b->own && !b->shared)
			continue;
		if (json_array_append_new(list, json_pack("{s:I, s:i, s:i, s:i}", "start",
		                                          (json_int_t)b->gpa, "pages", b->pages,
		                                          "own", b->own, "shared", b->shared))) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static json_t *map_json(const struct image_command *c, const struct image_map *m)
{
	struct totals t = sum(m);

	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:o}", "path", c->path[0], "block_bytes",
	                 (json_int_t)MM_BLOCK_SIZE, "zero", (json_int_t)t.zero, "own",
	                 (json_int_t)t.own, "shared", (json_int_t)t.shared, "blocks",
	                 blocks_json(m));
}

/* ---- the command ---- */

static int put_svg(const struct image_command *c, const struct image_map *m)
{
	FILE *f = strcmp(c->svg, "-") == 0 ? stdout : fopen(c->svg, "we");
	int e;

	if (!f) {
		cli_error("%s cannot be written: %s", c->svg, strerror(errno));
		return CLI_FAILED;
	}
	cli_image_svg(c->path[0], m, f);
	if (f == stdout)
		return cli_flush_stdout();
	e = ferror(f) ? EIO : 0;
	if (fclose(f))
		e = errno;
	if (e)
		cli_error("%s cannot be written: %s", c->svg, strerror(e));
	return e ? CLI_FAILED : CLI_OK;
}

int cli_image_map(const struct image_command *c)
{
	struct snapshot_error err;
	struct image_map m;
	int status;

	if (image_map_read(c->path[0], &m, &err))
		return cli_image_failed(&err);
	if (c->svg)
		status = put_svg(c, &m);
	else
		status = c->json ? cli_put_json(map_json(c, &m)) : put_text(c, &m);
	image_map_free(&m);
	return status;
}
