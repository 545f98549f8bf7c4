// SPDX-License-Identifier: MIT
#include "vmm/image_map.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "vmm/snapshot_format.h"

static int make_blocks(struct image_map *m, const struct snap_file *f, struct snapshot_error *err)
{
	uint64_t count = 0;

	for (uint32_t i = 0; i < f->header.region_count; i++)
		count += align_up(f->ram[i].range.size, MM_BLOCK_SIZE) >> MM_BLOCK_SHIFT;
	if (count > IMAGE_MAP_BLOCKS_MAX)
		return snap_fail(err, -E2BIG,
		                 "%s: %" PRIu64 " blocks of RAM are more than a map "
		                 "shows",
		                 f->path, count);
	m->block = calloc(count ? count : 1, sizeof(*m->block));
	if (!m->block)
		return snap_fail(err, -ENOMEM, "%s: no memory for a map of it", f->path);
	for (uint32_t i = 0; i < f->header.region_count; i++) {
		uint64_t end = gpa_range_end(f->ram[i].range);

		for (uint64_t a = f->ram[i].range.start.v; a < end; a += MM_BLOCK_SIZE)
			m->block[m->count++] = (struct image_block){
				.gpa = a,
				.pages = (uint16_t)(min_u64(end - a, MM_BLOCK_SIZE) >>
			                            MM_PAGE_SHIFT),
			};
	}
	return 0;
}

/* The block of `gpa`, at or above `i`: tables and blocks are in one order. */
static struct image_block *find_block(struct image_map *m, size_t *i, uint64_t gpa)
{
	while (*i + 1 < m->count && m->block[*i + 1].gpa <= gpa)
		++*i;
	return &m->block[*i];
}

static void count_pages(struct image_map *m, const struct snap_file *f)
{
	size_t at = 0;

	for (size_t i = 0; f->extents && i < f->header.extent_count; i++)
		find_block(m, &at, f->extents[i].gpa)->own = (uint16_t)f->extents[i].nonzero;
	at = 0;
	for (size_t i = 0; f->pieces && i < f->header.piece_count; i++) {
		const struct snap_piece *p = &f->pieces[i];

		if (p->layer > 0)
			find_block(m, &at, p->gpa)->shared += (uint16_t)p->pages;
	}
}

int image_map_read(const char *path, struct image_map *out, struct snapshot_error *err)
{
	struct snap_file f;
	int ret;

	*out = (struct image_map){0};
	ret = snap_file_open(&f, path, SNAP_ANY_ISA, err);
	if (ret)
		return ret;
	ret = make_blocks(out, &f, err);
	if (ret == 0) {
		count_pages(out, &f);
		snap_describe(&f, &out->info);
	}
	snap_file_close(&f);
	return ret;
}

void image_map_free(struct image_map *m)
{
	free(m->block);
	*m = (struct image_map){0};
}
