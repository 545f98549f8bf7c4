// SPDX-License-Identifier: MIT
/*
 * vmm/image_map.h - where an image's memory lies, block by block, without reading it.
 */
#ifndef COWSLIP_VMM_IMAGE_MAP_H
#define COWSLIP_VMM_IMAGE_MAP_H

#include <stddef.h>

#include "vmm/snapshot.h"

/* A 2 MiB block of RAM. Pages in neither count are zero. */
struct image_block {
	uint64_t gpa;
	uint16_t pages;  /* 512, fewer at the end of a region */
	uint16_t own;    /* stored in this file, not all zero */
	uint16_t shared; /* lie in other files; zeros among them are not known to be zero */
};

struct image_map {
	struct image_block *block; /* by gpa; all RAM */
	size_t count;
	struct snapshot_info info;
};

/* The most blocks that are worth a picture: 4 TiB. */
#define IMAGE_MAP_BLOCKS_MAX (UINT64_C(1) << 21)

/*
 * Return: 0; -E2BIG for more RAM than that; -ENOMEM; as snapshot_stat(). *err says it.
 * image_map_free() ends it.
 */
int image_map_read(const char *path, struct image_map *out, struct snapshot_error *err);

void image_map_free(struct image_map *m);

#endif
