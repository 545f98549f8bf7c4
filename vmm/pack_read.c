// SPDX-License-Identifier: MIT
/*
 * vmm/pack_read.c - a packed file as a stream: its front, then the frame's contents in order.
 *
 * Invariants:
 *   1. nothing of the frame is touched before the front has been found good
 *   2. never more memory than the buffers and a window of PACK_WINDOW_LOG
 *
 * Concurrency: none; a reader belongs to one thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#include "vmm/fileio.h"
#include "vmm/pack_format.h"

#define IN_SIZE (UINT64_C(128) << 10)

struct pack_reader {
	int fd;
	const char *name; /* borrowed */
	uint64_t offset;  /* of the bytes read so far */
	ZSTD_DCtx *zstd;
	ZSTD_inBuffer in; /* of `buffer` */
	bool ended;       /* the frame has */
	uint8_t *buffer;  /* IN_SIZE */
	struct pack_table table;
};

uint64_t pack_table_sum(const struct pack_table *t)
{
	struct pack_header h = t->header;
	XXH3_state_t *state = XXH3_createState();
	uint64_t sum;

	if (!state)
		return 0;
	h.header_sum = 0;
	XXH3_64bits_reset(state);
	XXH3_64bits_update(state, &h, sizeof(h));
	XXH3_64bits_update(state, t->entry, h.file_count * sizeof(t->entry[0]));
	sum = XXH3_64bits_digest(state);
	XXH3_freeState(state);
	return sum;
}

void pack_describe(const struct pack_table *t, uint64_t packed_bytes, struct pack_info *out)
{
	*out = (struct pack_info){.files = t->header.file_count, .packed_bytes = packed_bytes};
	for (uint32_t i = 0; i < out->files; i++)
		out->data_bytes += t->entry[i].pages << MM_PAGE_SHIFT;
}

int pack_kind_of(const char *path, enum pack_kind *out)
{
	char magic[PACK_MAGIC_SIZE];
	size_t got = 0;
	int fd, ret;

	_Static_assert(PACK_MAGIC_SIZE == SNAPSHOT_MAGIC_SIZE, "compared alike");
	*out = PACK_OTHER;
	ret = snap_open_regular(path, &fd, NULL);
	if (ret)
		return ret == -ENOENT || ret == -EBADMSG ? 0 : ret;
	ret = fileio_read_at(fd, magic, sizeof(magic), 0, &got);
	close(fd);
	if (ret || got < sizeof(magic))
		return ret;
	if (memcmp(magic, SNAPSHOT_MAGIC, got) == 0)
		*out = PACK_IMAGE;
	else if (memcmp(magic, PACK_MAGIC, got) == 0)
		*out = PACK_PACKED;
	return 0;
}

/* ---- bytes ---- */

/* Some bytes, as many as there are; none at the end. Return: 0 or -errno. */
static int read_some(struct pack_reader *r, void *to, size_t size, size_t *got,
                     struct snapshot_error *err)
{
	struct pollfd wait = {.fd = r->fd, .events = POLLIN};
	ssize_t n;
	int ret;

	while ((n = read(r->fd, to, size)) < 0 && (errno == EINTR || errno == EAGAIN))
		if (errno == EAGAIN)
			(void)poll(&wait, 1, -1);
	if (n < 0) {
		ret = -errno;
		return snap_fail(err, ret, "%s cannot be read at offset %" PRIu64 ": %s", r->name,
		                 r->offset, strerror(-ret));
	}
	*got = (size_t)n;
	r->offset += *got;
	return 0;
}

static int fail_truncated(const struct pack_reader *r, struct snapshot_error *err)
{
	return snap_fail(err, -EBADMSG, "%s is truncated: it ends at offset %" PRIu64, r->name,
	                 r->offset);
}

/* Return: 0, *got < size at the end only; -errno. */
static int read_up_to(struct pack_reader *r, void *to, size_t size, size_t *got,
                      struct snapshot_error *err)
{
	uint8_t *at = to;
	size_t n = 1;
	int ret = 0;

	for (*got = 0; !ret && n > 0 && *got < size; *got += n) {
		n = 0;
		ret = read_some(r, at + *got, size - *got, &n, err);
	}
	return ret;
}

/* ---- the front ---- */

static int fail_front(const struct pack_reader *r, const char *what, struct snapshot_error *err)
{
	return snap_fail(err, -EBADMSG, "%s: the front's %s makes no sense", r->name, what);
}

/* Only a name that is a file's in any directory, and that a terminal can be shown. */
static bool is_name(const char *name)
{
	size_t size = strnlen(name, PACK_NAME_SIZE);

	if (size == 0 || size == PACK_NAME_SIZE || strcmp(name, ".") == 0 ||
	    strcmp(name, "..") == 0)
		return false;
	for (size_t i = 0; i < size; i++)
		if (name[i] == '/' || (unsigned char)name[i] < ' ' || name[i] == 0x7f)
			return false;
	return true;
}

/* What is wrong with entry `i`, or NULL. */
static const char *entry_fault(const struct pack_table *t, uint32_t i)
{
	const struct pack_entry *e = &t->entry[i];

	if (!is_name(e->name))
		return "name of a file";
	if (e->file_size > SNAPSHOT_FILE_MAX || e->front < SNAPSHOT_HEADER_SIZE ||
	    e->front > PACK_FRONT_MAX || e->front > e->file_size)
		return "size of a file";
	if (e->extents > e->file_size >> MM_BLOCK_SHIFT || e->pages < e->extents ||
	    e->pages > e->extents * MM_BLOCK_PAGES)
		return "number of a file's pages";
	for (uint32_t k = 0; k < i; k++)
		if (strcmp(t->entry[k].name, e->name) == 0)
			return "second file of a name";
	return NULL;
}

static int check_entries(const struct pack_reader *r, struct snapshot_error *err)
{
	const struct pack_table *t = &r->table;
	const char *fault = NULL;
	uint64_t bytes = 0;

	for (uint32_t i = 0; !fault && i < t->header.file_count; i++) {
		fault = entry_fault(t, i);
		bytes += pack_entry_bytes(&t->entry[i]);
	}
	if (!fault && bytes != t->header.stream_size)
		fault = "size";
	return fault ? fail_front(r, fault, err) : 0;
}

/* The first 64 bytes. Return: 0; -EBADMSG; -ENOTSUP; -errno. */
static int read_header(struct pack_reader *r, struct snapshot_error *err)
{
	struct pack_header *h = &r->table.header;
	size_t got = 0;
	int ret = read_up_to(r, h, sizeof(*h), &got, err);

	if (ret)
		return ret;
	if (got >= SNAPSHOT_MAGIC_SIZE && memcmp(h->magic, SNAPSHOT_MAGIC, sizeof(h->magic)) == 0)
		return snap_fail(err, -EBADMSG, "%s is an image already, not a packed one",
		                 r->name);
	if (got < sizeof(h->magic) || memcmp(h->magic, PACK_MAGIC, sizeof(h->magic)) != 0)
		return snap_fail(err, -EBADMSG, "%s is not a packed image: no magic at offset 0",
		                 r->name);
	if (got < sizeof(*h))
		return fail_truncated(r, err);
	if (h->version != PACK_VERSION)
		return snap_fail(err, -ENOTSUP,
		                 "%s has pack format version %" PRIu32 ", this cowslip reads %u",
		                 r->name, h->version, PACK_VERSION);
	if (h->entry_size != sizeof(struct pack_entry) || h->file_count == 0 ||
	    h->file_count > SNAPSHOT_FILES_MAX || h->header_size != pack_table_size(&r->table))
		return fail_front(r, "own size", err);
	return 0;
}

static int read_front(struct pack_reader *r, struct snapshot_error *err)
{
	const struct pack_header *h = &r->table.header;
	size_t size, got = 0;
	uint64_t sum;
	int ret = read_header(r, err);

	if (ret)
		return ret;
	size = h->file_count * sizeof(r->table.entry[0]);
	ret = read_up_to(r, r->table.entry, size, &got, err);
	if (ret)
		return ret;
	if (got < size)
		return fail_truncated(r, err);
	sum = pack_table_sum(&r->table);
	if (sum != h->header_sum)
		return snap_fail(err, -EBADMSG,
		                 "%s: the front (offset 0, %" PRIu32
		                 " bytes) is damaged: checksum %016" PRIx64
		                 ", should be %016" PRIx64,
		                 r->name, h->header_size, sum, h->header_sum);
	return check_entries(r, err);
}

int pack_reader_open(int fd, const char *name, struct pack_reader **out, struct snapshot_error *err)
{
	struct pack_reader *r = calloc(1, sizeof(*r));
	int ret = -ENOMEM;

	if (r) {
		r->fd = fd;
		r->name = name;
		r->buffer = malloc(IN_SIZE);
		r->zstd = ZSTD_createDCtx();
	}
	if (!r || !r->buffer || !r->zstd)
		snap_fail(err, ret, "%s cannot be unpacked: %s", name, strerror(-ret));
	else
		ret = read_front(r, err);
	if (ret) {
		pack_reader_close(r);
		return ret;
	}
	ZSTD_DCtx_setParameter(r->zstd, ZSTD_d_windowLogMax, PACK_WINDOW_LOG);
	*out = r;
	return 0;
}

const struct pack_table *pack_reader_table(const struct pack_reader *r)
{
	return &r->table;
}

uint64_t pack_reader_offset(const struct pack_reader *r)
{
	return r->offset;
}

void pack_reader_close(struct pack_reader *r)
{
	if (!r)
		return;
	ZSTD_freeDCtx(r->zstd);
	free(r->buffer);
	free(r);
}

/* ---- the frame ---- */

/* More of the frame. Return: 0; -EBADMSG at the end; -errno. */
static int refill(struct pack_reader *r, struct snapshot_error *err)
{
	size_t got = 0;
	int ret = read_some(r, r->buffer, IN_SIZE, &got, err);

	r->in = (ZSTD_inBuffer){.src = r->buffer, .size = got};
	return ret || got ? ret : fail_truncated(r, err);
}

/* Some more of the contents, or of the file to make them from. Return: 0; -EBADMSG; -errno. */
static int decompress(struct pack_reader *r, ZSTD_outBuffer *out, struct snapshot_error *err)
{
	size_t before = out->pos;
	size_t n = ZSTD_decompressStream(r->zstd, out, &r->in);

	if (ZSTD_isError(n))
		return snap_fail(err, -EBADMSG, "%s is damaged before offset %" PRIu64 ": %s",
		                 r->name, r->offset - (r->in.size - r->in.pos),
		                 ZSTD_getErrorName(n));
	r->ended = n == 0;
	if (r->ended || out->pos > before || r->in.pos < r->in.size)
		return 0;
	return refill(r, err);
}

int pack_reader_take(struct pack_reader *r, void *to, size_t size, struct snapshot_error *err)
{
	ZSTD_outBuffer out = {.dst = to, .size = size};
	int ret = 0;

	while (!ret && out.pos < size) {
		if (r->ended)
			return snap_fail(err, -EBADMSG, "%s holds less than its front says",
			                 r->name);
		ret = decompress(r, &out, err);
	}
	return ret;
}

int pack_reader_finish(struct pack_reader *r, struct snapshot_error *err)
{
	uint8_t byte;
	ZSTD_outBuffer out = {.dst = &byte, .size = 1};
	uint64_t end;
	size_t more;
	int ret = 0;

	while (!ret && !r->ended && out.pos == 0)
		ret = decompress(r, &out, err);
	if (ret)
		return ret;
	if (out.pos > 0)
		return snap_fail(err, -EBADMSG, "%s holds more than its front says", r->name);
	more = r->in.size - r->in.pos;
	end = r->offset - more;
	if (more == 0)
		ret = read_some(r, r->buffer, IN_SIZE, &more, err);
	if (!ret && more)
		return snap_fail(err, -EBADMSG, "%s: something follows its end at offset %" PRIu64,
		                 r->name, end);
	return ret;
}
