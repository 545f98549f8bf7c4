// SPDX-License-Identifier: MIT
/*
 * vmm/snapshot_block.c - an image's memory into a snapshot file, one 2 MiB block after the other.
 *
 * Find the block's non-zero pages, hash them, write them to the block's slot in as few calls as
 * their runs allow. Pages that lie in a file of the request's base are named by pieces instead,
 * unless that would leave the block in scraps.
 *
 * Invariant: stores are read through their descriptor, pool and file alike: read(2) gives zeros for
 * a hole, where a mapping would allocate the page and leave page tables behind.
 *
 * Concurrency: none. The position of a file store's descriptor is moved; nobody relies on it.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "mm/store.h"
#include "vmm/fileio.h"
#include "vmm/snapshot_writer.h"

/* Between looks for the next data: small, so that little of a sparse block is read for nothing. */
#define READ_CHUNK (UINT64_C(256) << 10)

/* Pieces of other files in one block, beyond which the block is stored whole. */
#define LAYER_PIECES_MOST 16u

/* `size` bytes of a store at `offset`, which are guest memory at `gpa` of the block at hand. */
static int read_pages(struct writer *w, const struct store *s, uint64_t offset, size_t size,
                      uint64_t gpa)
{
	size_t first = (gpa - w->block) >> MM_PAGE_SHIFT;
	uint8_t *to = w->buffer + (gpa - w->block);
	size_t got;
	int ret;

	ret = fileio_read_at(s->fd, to, size, offset, &got);
	if (!ret && got < size)
		ret = -EIO;
	if (ret)
		return snap_fail(w->err, ret,
		                 "%s cannot be saved: reading guest memory 0x%" PRIx64
		                 " from its store at offset %" PRIu64 ": %s",
		                 w->path, gpa, offset, strerror(-ret));
	for (size_t i = 0; i < size >> MM_PAGE_SHIFT; i++)
		w->data[first + i] = !snap_is_zero(to + i * MM_PAGE_SIZE, MM_PAGE_SIZE);
	return 0;
}

/* Beyond its end a file reads as a hole: one cut short must not pass for zeros. */
static int check_store_file(struct writer *w, const struct extent *e)
{
	struct stat st;
	int ret;

	if (fstat(e->store->fd, &st)) {
		ret = -errno;
		return writer_fail(w, ret, "examining the file below the memory");
	}
	if ((uint64_t)st.st_size < ((uint64_t)e->frame.n + e->pages) << MM_PAGE_SHIFT)
		return writer_fail(w, -EIO, "the file below the memory has been cut short");
	return 0;
}

/*
 * The first page with data at or after `from`; some offset at or after `end` when there is none.
 * SEEK_HOLE is not asked: it walks to the end of the data, which may be gigabytes away.
 */
static int next_data(const struct store *s, uint64_t from, uint64_t end, uint64_t *at)
{
	off_t data = lseek(s->fd, (off_t)from, SEEK_DATA);

	if (data >= 0)
		*at = align_down((uint64_t)data, MM_PAGE_SIZE);
	else if (errno == ENXIO)
		*at = end;
	else if (errno == EINVAL)
		*at = from; /* a file system that does not know its holes */
	else
		return -errno;
	return 0;
}

/* What lies in a layer is not read. */
static void note_layer(struct writer *w, const struct extent *e, uint32_t layer)
{
	size_t first = (e->gpa.v - w->block) >> MM_PAGE_SHIFT;

	for (size_t i = 0; i < e->pages; i++) {
		w->owner[first + i] = layer;
		w->elsewhere[first + i] = ((uint64_t)e->frame.n + i) << MM_PAGE_SHIFT;
	}
	((struct snap_layer *)w->layers)[layer - 1].pages += e->pages;
}

/* Read the pages of `e` that are not holes into the buffer. */
static int read_extent(struct writer *w, const struct extent *e)
{
	uint64_t start = (uint64_t)e->frame.n << MM_PAGE_SHIFT;
	uint64_t end = start + ((uint64_t)e->pages << MM_PAGE_SHIFT);
	uint64_t at = start;
	int ret = 0;

	while (!ret && at < end) {
		uint64_t size;

		ret = next_data(e->store, at, end, &at);
		if (ret)
			return writer_fail(w, ret, "looking for data in a store");
		if (at >= end)
			break;
		size = min_u64(end - at, READ_CHUNK);
		ret = read_pages(w, e->store, at, size, e->gpa.v + (at - start));
		at += size;
	}
	return ret;
}

static int collect(struct writer *w, const struct extent *e)
{
	uint32_t layer = writer_layer(w, e->store);
	int ret = e->store->pool ? 0 : check_store_file(w, e);

	if (ret || layer == OWN_LAYER)
		return ret ? ret : read_extent(w, e);
	note_layer(w, e, layer);
	return 0;
}

/* ---- a block into its slot ---- */

static uint32_t count_data(const struct writer *w, size_t pages)
{
	uint32_t n = 0;

	for (size_t i = 0; i < pages; i++)
		n += w->data[i];
	return n;
}

/* Pages nobody has read still hold the bytes of another block. */
static void zero_holes(struct writer *w, size_t pages)
{
	for (size_t i = 0; i < pages; i++) {
		if (!w->data[i])
			memset(w->buffer + i * MM_PAGE_SIZE, 0, MM_PAGE_SIZE);
	}
}

/* Each run of non-zero pages in one call. */
static int write_pages(struct writer *w, size_t pages, uint64_t slot)
{
	int ret = 0;

	for (size_t i = 0; !ret && i < pages;) {
		size_t first = i;

		while (i < pages && w->data[i])
			i++;
		ret = writer_put(w, w->buffer + first * MM_PAGE_SIZE, (i - first) * MM_PAGE_SIZE,
		                 slot + first * MM_PAGE_SIZE);
		while (i < pages && !w->data[i])
			i++;
	}
	return ret;
}

/* Pages of the block at hand that are RAM: a region starts with a block but may end inside one. */
static size_t block_pages(const struct writer *w)
{
	size_t count;
	const struct ram_region *ram = image_ram(w->image, &count);

	for (size_t i = 0; i < count; i++) {
		if (gpa_range_has(ram[i].range, (gpa_t){w->block}))
			return min_u64(gpa_range_end(ram[i].range) - w->block, MM_BLOCK_SIZE) >>
			       MM_PAGE_SHIFT;
	}
	return 0;
}

/* ---- pieces ---- */

/* Of the block at hand, those that lie in other files. */
static unsigned count_pieces(const struct writer *w)
{
	unsigned n = 0;

	for (size_t i = 0; i < MM_BLOCK_PAGES; i++)
		n += w->owner[i] != OWN_LAYER &&
		     (i == 0 || w->owner[i - 1] != w->owner[i] ||
		      w->elsewhere[i - 1] + MM_PAGE_SIZE != w->elsewhere[i]);
	return n;
}

/*
 * A block that a long line of images has left in scraps is stored whole: each piece is a mapping in
 * every clone, and their number would grow with the line. Extents [first, end) are the block's.
 */
static int own_scraps(struct writer *w, const struct extent *first, const struct extent *end)
{
	int ret = 0;

	if (!w->pieces || count_pieces(w) <= LAYER_PIECES_MOST)
		return 0;
	for (const struct extent *e = first; !ret && e < end; e++) {
		size_t at = (e->gpa.v - w->block) >> MM_PAGE_SHIFT;

		if (w->owner[at] == OWN_LAYER)
			continue;
		((struct snap_layer *)w->layers)[w->owner[at] - 1].pages -= e->pages;
		ret = read_extent(w, e);
	}
	memset(w->owner, 0, sizeof(w->owner));
	return ret;
}

static void add_piece(struct writer *w, size_t first, size_t end, uint64_t offset)
{
	w->pieces[w->header.piece_count++] = (struct snap_piece){
		.gpa = w->block + first * MM_PAGE_SIZE,
		.offset = offset,
		.pages = (uint32_t)(end - first),
		.layer = w->owner[first],
	};
}

/* The end of the pages from `i` on that are in one layer, one behind the other. */
static size_t layer_run(const struct writer *w, size_t i, size_t pages)
{
	size_t n = 1;

	while (i + n < pages && w->owner[i + n] == w->owner[i] &&
	       w->elsewhere[i + n] == w->elsewhere[i] + n * MM_PAGE_SIZE)
		n++;
	return i + n;
}

/*
 * Own pages from `i` on: one piece from the first to the last that is not zero. Zeros between them
 * are holes of the slot, and one piece is one mapping in every clone. Return: where they end.
 */
static size_t own_run(struct writer *w, size_t i, size_t pages, uint64_t slot)
{
	size_t first = pages, end = 0;

	for (; i < pages && w->owner[i] == OWN_LAYER; i++) {
		if (!w->data[i])
			continue;
		first = first < i ? first : i;
		end = i + 1;
	}
	if (end)
		add_piece(w, first, end, slot + first * MM_PAGE_SIZE);
	return i;
}

static void emit_pieces(struct writer *w, size_t pages, uint64_t slot)
{
	for (size_t i = 0; i < pages;) {
		size_t end;

		if (w->owner[i] == OWN_LAYER) {
			i = own_run(w, i, pages, slot);
			continue;
		}
		end = layer_run(w, i, pages);
		add_piece(w, i, end, w->elsewhere[i]);
		i = end;
	}
}

/* A slot, and an extent for it, unless all own pages of the block are zero. */
static int emit_block(struct writer *w)
{
	size_t pages = block_pages(w);
	struct snap_extent e = {
		.gpa = w->block,
		.offset = w->header.data_offset + w->header.data_size,
		.pages = (uint32_t)pages,
	};

	if (w->pieces)
		emit_pieces(w, pages, e.offset);
	e.nonzero = count_data(w, pages);
	if (e.nonzero == 0)
		return 0;
	zero_holes(w, pages);
	e.sum = XXH3_64bits(w->buffer, pages * MM_PAGE_SIZE);
	w->table[w->header.extent_count++] = e;
	w->header.data_pages += e.nonzero;
	w->header.data_size += MM_BLOCK_SIZE;
	return write_pages(w, pages, e.offset);
}

int writer_put_memory(struct writer *w)
{
	size_t count;
	const struct extent *e = image_extents(w->image, &count);
	size_t first;
	int ret = 0;

	for (size_t i = 0; !ret && i < count;) {
		w->block = align_down(e[i].gpa.v, MM_BLOCK_SIZE);
		memset(w->data, 0, sizeof(w->data));
		memset(w->owner, 0, sizeof(w->owner));
		first = i;
		for (; !ret && i < count && e[i].gpa.v - w->block < MM_BLOCK_SIZE; i++)
			ret = collect(w, &e[i]);
		if (!ret)
			ret = own_scraps(w, &e[first], &e[i]);
		if (!ret)
			ret = emit_block(w);
	}
	return ret;
}
