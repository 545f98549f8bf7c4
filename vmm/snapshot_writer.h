// SPDX-License-Identifier: MIT
/*
 * vmm/snapshot_writer.h - a snapshot file under construction: what snapshot_write.c (the file as a
 * whole) and snapshot_block.c (the memory, block by block) share. Private to these two.
 */
#ifndef COWSLIP_VMM_SNAPSHOT_WRITER_H
#define COWSLIP_VMM_SNAPSHOT_WRITER_H

#include <stdbool.h>

#include "vmm/atomic_file.h"
#include "vmm/snapshot_format.h"

/* A page's layer when the file that is written holds it, or nobody. */
#define OWN_LAYER 0u

struct writer {
	struct atomic_file out;
	const struct snapshot_request *request;
	const char *path; /* as asked for, for messages */
	const struct image *image;
	struct snapshot_error *err;
	struct snap_header header;
	struct snap_extent *table; /* header.extent_count of `cap` used */
	size_t cap;

	/* Layered images. */
	struct snap_piece *pieces; /* header.piece_count of `piece_cap` used; NULL: not layered */
	size_t piece_cap;
	uint8_t *layers;                    /* the section as it will be: entries, names */
	uint64_t names;                     /* where the next name goes in it */
	uint32_t layer[SNAPSHOT_FILES_MAX]; /* of request->base's files: number, OWN_LAYER: none */
	bool usable[SNAPSHOT_FILES_MAX];    /* ... may be built upon */

	/* The block at hand. */
	uint64_t block; /* gpa */
	uint8_t *buffer;
	bool data[MM_BLOCK_PAGES];          /* the page is in the buffer and not all zero */
	uint32_t owner[MM_BLOCK_PAGES];     /* its layer */
	uint64_t elsewhere[MM_BLOCK_PAGES]; /* where it lies in that layer's file */
};

/* ---- snapshot_write.c ---- */

/* Fill *err. Return: `code`. */
int writer_fail(struct writer *w, int code, const char *doing);

/* All of it. Return: 0; -errno with *err set. */
int writer_put(struct writer *w, const void *from, size_t size, uint64_t offset);

/*
 * The number of the layer that `s` is, given to it now if need be; OWN_LAYER when what lies in it
 * must be stored.
 */
uint32_t writer_layer(struct writer *w, const struct store *s);

/* ---- snapshot_block.c ---- */

/* Write all memory; fill the table and the pieces. Return: 0; -errno with *err set. */
int writer_put_memory(struct writer *w);

#endif
