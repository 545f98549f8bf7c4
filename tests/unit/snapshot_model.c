// SPDX-License-Identifier: MIT
/*
 * tests/unit/snapshot_model.c - images for the snapshot tests, and what they must read as.
 */
#include "tests/unit/snapshot_model.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct ram_region st_ram[2] = {
	{{{0}, LOW_SIZE}, PAGE_SIZE_AUTO},
	{{{HIGH_START}, HIGH_SIZE}, PAGE_SIZE_4K},
};

const char st_state[37] = "what the VMM keeps beside the memory";

struct snap_test st;

uint64_t st_random(void)
{
	st.seed ^= st.seed << 13;
	st.seed ^= st.seed >> 7;
	st.seed ^= st.seed << 17;
	return st.seed;
}

void st_fill(uint8_t *to, size_t size)
{
	for (size_t i = 0; i < size; i += 8) {
		uint64_t r = st_random();

		memcpy(to + i, &r, 8);
	}
}

const char *st_path(const char *name)
{
	static char paths[16][128];
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", st.dir, name);
	for (size_t i = 0; i < 16; i++) {
		if (paths[i][0] == '\0')
			strcpy(paths[i], path);
		if (strcmp(paths[i], path) == 0)
			return paths[i];
	}
	cr_assert(false, "too many names in one test");
	return NULL;
}

void st_setup(void)
{
	strcpy(st.dir, "/tmp/cowslip-snapshot.XXXXXX");
	cr_assert_not_null(mkdtemp(st.dir));
	cr_assert_eq(pool_create(256 * MIB, &st.pool), 0);
	st.bytes = calloc(1, HIGH_START + HIGH_SIZE);
	cr_assert_not_null(st.bytes);
	st.seed = 0x9e3779b97f4a7c15;
}

void st_empty_dir(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *e;

	cr_assert_not_null(d);
	while ((e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (unlinkat(dirfd(d), e->d_name, 0))
			unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
	}
	closedir(d);
}

void st_teardown(void)
{
	st_empty_dir(st.dir);
	rmdir(st.dir);
	cr_expect_eq(pool_audit(st.pool), 0);
	pool_put(st.pool);
	free(st.bytes);
}

int st_count_files(const char *path)
{
	DIR *d = opendir(path);
	int n = -2; /* . and .. */

	cr_assert_not_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

void st_add_extent(struct extent e)
{
	size_t i = st.count;

	cr_assert_lt(st.count, MAX_EXTENTS);
	for (; i > 0 && st.extents[i - 1].gpa.v > e.gpa.v; i--)
		st.extents[i] = st.extents[i - 1];
	st.extents[i] = e;
	st.count++;
}

uint8_t *st_add_pages(uint64_t gpa, uint32_t pages)
{
	unsigned order = 0;
	frame_t f;

	while ((1u << order) < pages)
		order++;
	cr_assert_eq(pool_alloc(st.pool, order, FRAME_NONE, &f), 0);
	st_add_extent((struct extent){{gpa}, pages, f, pool_store(st.pool)});
	return pool_frame_ptr(st.pool, f);
}

void st_add_random(uint64_t gpa, uint32_t pages)
{
	st_fill(st.bytes + gpa, pages * PAGE);
	memcpy(st_add_pages(gpa, pages), st.bytes + gpa, pages * PAGE);
}

struct image *st_image(const void *state, size_t state_size)
{
	struct image_parts parts = {st_ram, 2, st.extents, st.count, state, state_size};
	struct image *image;

	cr_assert_eq(image_create(&parts, &image), 0);
	for (size_t i = 0; i < st.count; i++) {
		if (st.extents[i].store->pool)
			pool_unref(st.pool, st.extents[i].frame);
	}
	st.count = 0;
	return image;
}

struct image *st_mixed(void)
{
	uint8_t *p;

	st_add_random(0, 512);
	st_add_random(BLOCK + 3 * PAGE, 1);
	st_add_random(BLOCK + 4 * PAGE, 2);
	st_add_random(BLOCK + 100 * PAGE, 33);
	st_add_random(BLOCK + 511 * PAGE, 1);
	/* Touched, but zero but for one byte. */
	p = st_add_pages(3 * BLOCK, 512);
	memset(p, 0, 64 * PAGE);
	p[40 * PAGE + 17] = st.bytes[3 * BLOCK + 40 * PAGE + 17] = 0xa5;
	/* Nothing but zeros: no slot at all. */
	memset(st_add_pages(HIGH_START, 4), 0, 4 * PAGE);
	st_add_random(HIGH_START + 2 * BLOCK, 509);
	return st_image(st_state, sizeof(st_state));
}

/* What a guest of `image` would read at `gpa`. */
static void read_page(const struct image *image, uint64_t gpa, uint8_t *to)
{
	size_t count;
	const struct extent *e = image_extents(image, &count);
	size_t i = image_find(image, (gpa_t){gpa});
	uint64_t offset;

	memset(to, 0, PAGE);
	if (i == count || gpa < e[i].gpa.v)
		return;
	offset = ((uint64_t)e[i].frame.n << MM_PAGE_SHIFT) + (gpa - e[i].gpa.v);
	cr_assert_eq(pread(e[i].store->fd, to, PAGE, (off_t)offset), (ssize_t)PAGE);
}

void st_expect_memory(const struct image *image)
{
	uint8_t page[MM_PAGE_SIZE];

	for (size_t r = 0; r < 2; r++) {
		uint64_t end = gpa_range_end(st_ram[r].range);

		for (uint64_t a = st_ram[r].range.start.v; a < end; a += PAGE) {
			read_page(image, a, page);
			cr_assert_arr_eq(page, st.bytes + a, PAGE, "page 0x%" PRIx64 " differs", a);
		}
	}
}

void st_expect_state(const struct image *image, const void *want, size_t want_size)
{
	size_t size;
	const void *state = image_state(image, &size);

	cr_assert_eq(size, want_size);
	cr_assert(size == 0 || memcmp(state, want, size) == 0);
}

void st_save(const struct image *image, const char *path)
{
	int ret = snapshot_save(image, ISA, 2, path, &st.error);

	cr_assert_eq(ret, 0, "%d %s", ret, st.error.text);
}

void st_save_over(struct snapshot_base *base, const char *path)
{
	struct image *image = st_image(st_state, sizeof(st_state));
	struct snapshot_request r = {
		.image = image, .isa = ISA, .cpus = 1, .path = path, .base = base};

	cr_assert_eq(snapshot_write(&r, &st.error), 0, "%s", st.error.text);
	image_put(image);
	snapshot_base_free(base);
}

struct image *st_open(const char *path, struct snapshot_info *info)
{
	struct image *image = NULL;
	int ret = snapshot_open(path, ISA, &image, info, &st.error);

	cr_assert_eq(ret, 0, "%d %s", ret, st.error.text);
	cr_assert_eq(image_audit(image), 0);
	return image;
}

int st_open_bad(const char *path)
{
	struct image *image = NULL;
	int ret;

	st.error.text[0] = '\0';
	ret = snapshot_open(path, ISA, &image, NULL, &st.error);
	cr_assert_lt(ret, 0, "opened what is broken");
	cr_assert_null(image);
	cr_assert_not_null(strstr(st.error.text, path), "message: %s", st.error.text);
	cr_assert_null(strchr(st.error.text, '\n'));
	return ret;
}

void st_save_mixed(const char *path)
{
	struct image *image = st_mixed();

	st_save(image, path);
	image_put(image);
}

void st_read_at(const char *path, void *to, size_t size, uint64_t offset)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	cr_assert_eq(pread(fd, to, size, (off_t)offset), (ssize_t)size);
	close(fd);
}

void st_write_at(const char *path, const void *from, size_t size, uint64_t offset)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	cr_assert_eq(pwrite(fd, from, size, (off_t)offset), (ssize_t)size);
	close(fd);
}

int st_open_fds(void)
{
	return st_count_files("/proc/self/fd");
}
