// SPDX-License-Identifier: MIT
/*
 * tests/fuzz/pack.c - libFuzzer on the reader of packed images.
 *
 * The input is a byte and before it a packed file, as it is if the byte is odd. Else what follows
 * the front is what the frame shall hold: it is compressed, and checksums and hashes are made to
 * fit.
 *
 * What must hold: what is unpacked is an image, whole; else nothing is left. Nothing crashes,
 * leaks, or takes more memory than libFuzzer allows.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zstd.h>

#include "mm/check.h"
#include "tests/fuzz/sums.h"
#include "vmm/pack_format.h"

#define INPUT_MAX  (UINT64_C(1) << 18)
#define STREAM_MAX (UINT64_C(64) << 20) /* what a front may ask for here */
#define PATH_SIZE  400u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Where the files of this process are: made by the first input, gone with the process. */
static char dir[64];

/* Return: how many files there were. */
static unsigned empty_directory(void)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	CHECK(d);
	for (struct dirent *e = readdir(d); e; e = readdir(d))
		n += unlinkat(dirfd(d), e->d_name, 0) == 0;
	closedir(d);
	return n;
}

static void remove_directory(void)
{
	(void)empty_directory();
	rmdir(dir);
}

static void make_directory(void)
{
	if (dir[0] != '\0')
		return;
	strcpy(dir, "/dev/shm/cowslip-fuzz-XXXXXX");
	CHECK(mkdtemp(dir));
	atexit(remove_directory);
}

/* The front of each file that the stream has, and then the entry's. */
static void fix_entries(struct pack_table *t, uint8_t *stream, size_t size)
{
	size_t at = 0;

	t->header.stream_size = 0;
	for (uint32_t i = 0; i < t->header.file_count; i++) {
		struct pack_entry *e = &t->entry[i];
		struct snap_header h;

		t->header.stream_size += pack_entry_bytes(e);
		if (at > size || e->front < sizeof(h) || e->front > size - at)
			continue;
		fuzz_fix_sums(stream + at, e->front);
		memcpy(&h, stream + at, sizeof(h));
		snap_content_hash(&h, e->hash);
		at += min_u64(pack_entry_bytes(e), size);
	}
	memcpy(t->header.magic, PACK_MAGIC, sizeof(t->header.magic));
	t->header.version = PACK_VERSION;
	t->header.entry_size = sizeof(struct pack_entry);
	t->header.header_size = pack_table_size(t);
	t->header.header_sum = pack_table_sum(t);
}

static void put(int fd, const void *from, size_t size)
{
	CHECK(write(fd, from, size) == (ssize_t)size);
}

/* Front and compressed contents. Return: false when the input is none of that kind. */
static bool put_fixed(int fd, const uint8_t *data, size_t size)
{
	static struct pack_table t;
	size_t front, room;
	uint8_t *stream, *frame;

	if (size < sizeof(t.header))
		return false;
	memcpy(&t.header, data, sizeof(t.header));
	t.header.file_count = t.header.file_count % 4 + 1;
	front = pack_table_size(&t);
	if (size < front)
		return false;
	memcpy(t.entry, data + sizeof(t.header), front - sizeof(t.header));
	stream = malloc(size - front + 1);
	room = ZSTD_compressBound(size - front);
	frame = malloc(room);
	CHECK(stream && frame);
	memcpy(stream, data + front, size - front);
	fix_entries(&t, stream, size - front);
	room = ZSTD_compress(frame, room, stream, size - front, 1);
	put(fd, &t, front);
	put(fd, frame, room);
	free(frame);
	free(stream);
	return true;
}

/* Does the front ask for more than should be written here? */
static bool is_large(int fd)
{
	struct pack_header h;

	return pread(fd, &h, sizeof(h), 0) == (ssize_t)sizeof(h) && h.stream_size > STREAM_MAX;
}

static void unpack(int fd)
{
	char path[PATH_SIZE];
	struct unpack_request r = {.from = fd, .name = "input", .path = path};
	struct snapshot_error err;
	struct pack_info info;

	snprintf(path, sizeof(path), "%s/out.cow", dir);
	err.text[0] = '\0';
	if (unpack_image(&r, &info, &err)) {
		CHECK(err.text[0] != '\0');
		CHECK(empty_directory() == 0);
		return;
	}
	if (snapshot_verify(path, 0, &err))
		fprintf(stderr, "%s\n", err.text);
	CHECK(snapshot_verify(path, 0, NULL) == 0);
	CHECK(empty_directory() == info.files);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd;

	if (size-- == 0 || size > INPUT_MAX)
		return -1;
	make_directory();
	fd = memfd_create("input", MFD_CLOEXEC);
	CHECK(fd >= 0);
	if (data[size] & 1 || !put_fixed(fd, data, size))
		put(fd, data, size);
	if (!is_large(fd)) {
		CHECK(lseek(fd, 0, SEEK_SET) == 0);
		unpack(fd);
	}
	close(fd);
	return 0;
}
