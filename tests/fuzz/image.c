// SPDX-License-Identifier: MIT
/*
 * tests/fuzz/image.c - libFuzzer on the reader of image files.
 *
 * The input is the front of a file: header, state, tables. The file is made as long as its header
 * says, as sparse as that is. Checksums would keep the fuzzer out, so they are made to fit, except
 * when the last bit of the input is set. Beside the file lies plain-v1.cow, so layers can be found.
 *
 * What must hold: an image that opens names nothing outside its files; nothing crashes, leaks, or
 * takes more memory than libFuzzer allows.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mm/check.h"
#include "mm/image.h"
#include "tests/fuzz/sums.h"
#include "vmm/image_diff.h"
#include "vmm/image_map.h"
#include "vmm/snapshot_format.h"
#include "vmm/vm.h"

#define INPUT_MAX   (UINT64_C(1) << 18)
#define PATH_SIZE   96u
#define LENGTH_MAX  (UINT64_C(1) << 40) /* of the sparse file */
#define EXTENTS_MAX 3u                  /* for the data to be read too: 2 MiB each */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct {
	uint64_t offset;
	const char *hex;
} base_rows[] = {
#include "tests/golden/plain-v1.inc"
};
#define BASE_ROWS (sizeof(base_rows) / sizeof(base_rows[0]))
#define BASE_SIZE (4 * MM_BLOCK_SIZE)

static void put(int fd, const void *from, size_t size, uint64_t at)
{
	CHECK(pwrite(fd, from, size, (off_t)at) == (ssize_t)size);
}

static void make_base(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0 && ftruncate(fd, (off_t)BASE_SIZE) == 0);
	for (size_t i = 0; i < BASE_ROWS; i++) {
		uint8_t row[32];

		for (size_t k = 0; k < sizeof(row); k++) {
			char two[3] = {base_rows[i].hex[2 * k], base_rows[i].hex[2 * k + 1], '\0'};

			row[k] = (uint8_t)strtoul(two, NULL, 16);
		}
		put(fd, row, sizeof(row), base_rows[i].offset);
	}
	close(fd);
}

/* Where the files of this process are: made by the first input, gone with the process. */
static char dir[64];

static void path_in(const char *name, char path[PATH_SIZE])
{
	snprintf(path, PATH_SIZE, "%s/%s", dir, name);
}

static void remove_directory(void)
{
	char path[PATH_SIZE];

	path_in("plain-v1.cow", path);
	unlink(path);
	path_in("input.cow", path);
	unlink(path);
	rmdir(dir);
}

static void make_directory(void)
{
	char path[PATH_SIZE];

	if (dir[0] != '\0')
		return;
	strcpy(dir, "/dev/shm/cowslip-fuzz-XXXXXX");
	CHECK(mkdtemp(dir));
	path_in("plain-v1.cow", path);
	make_base(path);
	atexit(remove_directory);
}

static uint64_t length_wanted(const uint8_t *data, size_t size)
{
	struct snap_header h;

	if (size < sizeof(h))
		return size;
	memcpy(&h, data, sizeof(h));
	return max_u64(size, min_u64(h.file_size, LENGTH_MAX));
}

static void use_image(const struct image *image, const struct snapshot_base *base,
                      const struct snapshot_info *info)
{
	const char *names[4];
	struct image_diff d;
	size_t count;
	const struct extent *e = image_extents(image, &count);
	struct stat st;

	CHECK(image_audit(image) == 0);
	for (size_t i = 0; i < count; i++) {
		uint64_t end = ((uint64_t)e[i].frame.n + e[i].pages) << MM_PAGE_SHIFT;

		CHECK(fstat(e[i].store->fd, &st) == 0 && end <= (uint64_t)st.st_size);
	}
	(void)vm_image_devices(image, names, 4);
	if (info->extents > EXTENTS_MAX || info->ram_bytes > 64 * MM_BLOCK_SIZE)
		return;
	(void)snapshot_verify_base(base, NULL, NULL);
	(void)image_diff(image, image, NULL, NULL, &d);
}

static void read_file(const char *path)
{
	struct snapshot_error err;
	struct snapshot_info info;
	struct snapshot_base *base;
	struct image *image;
	struct image_map map;

	if (snapshot_stat(path, &info, &err) == 0 && image_map_read(path, &map, &err) == 0)
		image_map_free(&map);
	if (snapshot_open_base(path, 0, &image, &base, &info, &err)) {
		CHECK(err.text[0] != '\0');
		return;
	}
	use_image(image, base, &info);
	image_put(image);
	snapshot_base_free(base);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[PATH_SIZE];
	uint8_t *copy;
	int fd;

	if (size == 0 || size > INPUT_MAX)
		return -1;
	copy = malloc(size);
	CHECK(copy);
	memcpy(copy, data, size);
	if (size >= SNAPSHOT_HEADER_SIZE && !(data[size - 1] & 1))
		fuzz_fix_sums(copy, size);
	make_directory();
	path_in("input.cow", path);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	put(fd, copy, size, 0);
	CHECK(ftruncate(fd, (off_t)length_wanted(copy, size)) == 0);
	close(fd);
	read_file(path);
	free(copy);
	return 0;
}
