// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_snapshot.c - snapshot files: what is written comes back.
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mm/space.h"
#include "tests/unit/snapshot_model.h"
#include "vmm/snapshot_format.h"

TestSuite(snapshot, .init = st_setup, .fini = st_teardown, .timeout = 120);

Test(snapshot, round_trip)
{
	const char *path = st_path("a.cow");
	struct snapshot_info info;
	struct image *saved = st_mixed();
	struct image *opened;
	const struct ram_region *r;
	size_t count;

	st_save(saved, path);
	opened = st_open(path, &info);
	st_expect_memory(opened);
	st_expect_memory(saved);
	st_expect_state(opened, st_state, sizeof(st_state));
	r = image_ram(opened, &count);
	cr_assert_eq(count, 2);
	cr_assert_eq(r[1].range.start.v, HIGH_START);
	cr_assert_eq(r[1].range.size, HIGH_SIZE);
	cr_assert_eq(r[1].page_size, PAGE_SIZE_4K);

	cr_assert_eq(info.version, 1);
	cr_assert_eq(info.isa, ISA);
	cr_assert_eq(info.cpus, 2);
	cr_assert_eq(info.ram_bytes, RAM_SIZE);
	cr_assert_eq(info.ram_count, 2);
	cr_assert_eq(info.state_bytes, sizeof(st_state));
	cr_assert_eq(info.extents, 4, "%" PRIu64, info.extents);
	cr_assert_eq(info.data_bytes, (512 + 37 + 1 + 509) * PAGE);
	cr_assert_eq(info.file_bytes, BLOCK + 4 * BLOCK);
	cr_assert_leq(info.disk_bytes, info.data_bytes + 64 * 1024);
	cr_assert_neq(info.created, 0);
	cr_assert(info.build[0]);
	cr_assert_eq(snapshot_verify(path, ISA, &st.error), 0, "%s", st.error.text);
	cr_assert_eq(st_count_files(st.dir), 1);
	image_put(saved);
	st_expect_memory(opened);
	image_put(opened);
}

/* Neighbours in the guest are neighbours in the file: two blocks side by side are one run. */
Test(snapshot, neighbours_are_one_run)
{
	struct image *saved, *opened;
	const struct run *runs;
	size_t count;

	/* Other places in the pool than in the guest. */
	st_add_random(BLOCK, 512);
	st_add_random(3 * BLOCK, 512);
	st_add_random(0, 512);
	st_add_random(2 * BLOCK, 512);
	saved = st_image(NULL, 0);
	st_save(saved, st_path("a.cow"));
	opened = st_open(st_path("a.cow"), NULL);
	runs = image_runs(opened, &count);
	cr_assert_eq(count, 1);
	cr_assert_eq(runs[0].pages, 2048);
	cr_assert_eq(runs[0].frame.n % 512, 0);
	st_expect_memory(opened);
	image_put(opened);
	image_put(saved);
}

Test(snapshot, empty_image)
{
	struct image *saved = st_image(NULL, 0);
	struct snapshot_info info;
	struct image *opened;

	st_save(saved, st_path("a.cow"));
	opened = st_open(st_path("a.cow"), &info);
	cr_assert_eq(info.extents, 0);
	cr_assert_eq(info.data_bytes, 0);
	cr_assert_leq(info.disk_bytes, 16 * 1024);
	st_expect_memory(opened);
	st_expect_state(opened, NULL, 0);
	image_put(opened);
	image_put(saved);
}

Test(snapshot, state_of_any_size)
{
	static const size_t sizes[] = {1, 7, 8, 9, 4095, 4096, 4097, 3 * 1000 * 1000};
	uint8_t *state = malloc(3 * 1000 * 1000 + 8);

	st_fill(state, 3 * 1000 * 1000);
	st_add_random(PAGE, 2);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct image *saved, *opened;

		saved = st.count ? st_image(state, sizes[i]) : NULL;
		if (!saved) {
			st_add_random(PAGE, 2);
			saved = st_image(state, sizes[i]);
		}
		st_save(saved, st_path("a.cow"));
		opened = st_open(st_path("a.cow"), NULL);
		st_expect_state(opened, state, sizes[i]);
		st_expect_memory(opened);
		image_put(opened);
		image_put(saved);
	}
	free(state);
}

/* Saving looks for holes without filling them, and writes none of the zeros it finds. */
Test(snapshot, zeros_take_no_space)
{
	struct pool_stats before, after;
	struct snapshot_info info;
	struct image *saved, *opened;
	uint8_t *p;

	for (uint64_t a = 0; a < LOW_SIZE; a += BLOCK) {
		p = st_add_pages(a, 512);
		memset(p + 64 * PAGE, 0, 16 * PAGE);
		p[70 * PAGE] = st.bytes[a + 70 * PAGE] = 1;
	}
	saved = st_image(NULL, 0);
	pool_stats(st.pool, &before);
	st_save(saved, st_path("a.cow"));
	pool_stats(st.pool, &after);
	cr_assert_eq(before.committed_frames, after.committed_frames);
	opened = st_open(st_path("a.cow"), &info);
	cr_assert_eq(info.data_bytes, 4 * PAGE);
	cr_assert_leq(info.disk_bytes, 64 * 1024, "%" PRIu64, info.disk_bytes);
	st_expect_memory(opened);
	image_put(opened);
	image_put(saved);
}

/* As a space publishes it: extents of the file, cut open where pages have become private. */
static struct image *overlay(const struct image *base)
{
	size_t count;
	const struct extent *e = image_extents(base, &count);

	for (size_t i = 0; i < count; i++) {
		struct extent left = e[i], right = e[i];

		if (e[i].pages < 20) {
			st_add_extent(e[i]);
			continue;
		}
		left.pages = 10;
		right.gpa.v += 13 * PAGE;
		right.frame.n += 13;
		right.pages -= 13;
		st_add_extent(left);
		st_add_random(e[i].gpa.v + 10 * PAGE, 3);
		st_add_extent(right);
	}
	/* A block the file does not have, and zeros over one that it has. */
	st_add_random(2 * BLOCK + 7 * PAGE, 5);
	return st_image("second", 6);
}

Test(snapshot, image_of_a_file_with_private_pages)
{
	const char *a = st_path("a.cow"), *b = st_path("b.cow");
	struct image *base, *over, *opened;
	struct snapshot_info first, second;

	st_save_mixed(a);
	base = st_open(a, &first);
	over = overlay(base);
	image_put(base);
	st_save(over, b);
	opened = st_open(b, &second);
	st_expect_memory(opened);
	st_expect_state(opened, "second", 6);
	cr_assert_eq(snapshot_verify(b, ISA, &st.error), 0, "%s", st.error.text);
	cr_assert(first.id[0] != second.id[0] || first.id[1] != second.id[1]);
	cr_assert_neq(first.generation, second.generation);
	cr_assert_leq(second.disk_bytes, second.data_bytes + 64 * 1024);
	image_put(opened);
	/* Over the very file it lies in. */
	st_save(over, a);
	opened = st_open(a, NULL);
	st_expect_memory(opened);
	st_expect_memory(over);
	image_put(opened);
	image_put(over);
}

/* Pages of a block zeroed since it was saved become holes; a block all zero loses its slot. */
Test(snapshot, zeros_over_a_file)
{
	const char *path = st_path("a.cow");
	struct image *image, *opened;
	struct snapshot_info info;

	st_add_random(0, 512);
	st_add_random(BLOCK, 2);
	image = st_image(NULL, 0);
	st_save(image, path);
	image_put(image);
	image = st_open(path, NULL);
	st_add_extent(image_extents(image, &(size_t){0})[0]);
	st.extents[0].pages = 500;
	memset(st.bytes + 500 * PAGE, 0, 12 * PAGE);
	memset(st.bytes + BLOCK, 0, 2 * PAGE);
	memset(st_add_pages(BLOCK, 2), 0, 2 * PAGE);
	opened = st_image(NULL, 0);
	image_put(image);
	image = opened;
	st_save(image, path);
	opened = st_open(path, &info);
	cr_assert_eq(info.extents, 1);
	cr_assert_eq(info.data_bytes, 500 * PAGE);
	st_expect_memory(opened);
	image_put(opened);
	image_put(image);
}

Test(snapshot, replaced_while_open)
{
	const char *path = st_path("a.cow");
	struct image *old, *new, *opened;
	uint8_t *before = malloc(HIGH_START + HIGH_SIZE);
	uint8_t *now = st.bytes;

	st_save_mixed(path);
	memcpy(before, st.bytes, HIGH_START + HIGH_SIZE);
	old = st_open(path, NULL);
	memset(st.bytes, 0, HIGH_START + HIGH_SIZE);
	st_add_random(5 * PAGE, 9);
	new = st_image(NULL, 0);
	st_save(new, path);
	opened = st_open(path, NULL);
	st_expect_memory(opened);
	st.bytes = before;
	st_expect_memory(old);
	cr_assert_eq(unlink(path), 0);
	st_expect_memory(old);
	st.bytes = now;
	free(before);
	image_put(opened);
	image_put(new);
	image_put(old);
}

Test(snapshot, keeps_no_descriptor)
{
	const char *path = st_path("a.cow");
	int before = st_open_fds();
	struct image *image;

	st_save_mixed(path);
	cr_assert_eq(st_open_fds(), before);
	image = st_open(path, NULL);
	cr_assert_eq(st_open_fds(), before + 1);
	image_put(image);
	cr_assert_eq(st_open_fds(), before);
	st_write_at(path, "X", 1, SNAPSHOT_HEADER_SIZE);
	cr_assert_eq(st_open_bad(path), -EBADMSG);
	cr_assert_eq(truncate(path, 100), 0);
	cr_assert_eq(st_open_bad(path), -EBADMSG);
	cr_assert_eq(st_open_bad(st_path("none.cow")), -ENOENT);
	cr_assert_eq(st_open_fds(), before);
}

/* The way it is used: a space publishes, the file is opened, a clone reads and writes. */
Test(snapshot, from_space_to_clone)
{
	const char *path = st_path("a.cow");
	struct space_config config = {
		.pool = st.pool,
		.ram = st_ram,
		.ram_count = 2,
		.faults = FAULTS_KERNEL,
	};
	struct space *parent, *clone;
	struct image *published, *opened;
	uint8_t *back = malloc(HIGH_SIZE);
	uint64_t value = 0x1122334455667788;

	st_fill(st.bytes, 3 * MIB);
	st_fill(st.bytes + HIGH_START + HIGH_SIZE - 5 * PAGE, 5 * PAGE);
	cr_assert_eq(space_create(&config, &parent), 0);
	cr_assert_eq(space_write(parent, (gpa_t){0}, st.bytes, 3 * MIB), 0);
	cr_assert_eq(space_write(parent, (gpa_t){HIGH_START + HIGH_SIZE - 5 * PAGE},
	                         st.bytes + HIGH_START + HIGH_SIZE - 5 * PAGE, 5 * PAGE),
	             0);
	cr_assert_eq(space_publish(parent, "s", 1, &published), 0);
	st_save(published, path);
	st_expect_memory(published);
	image_put(published);
	space_destroy(parent);

	opened = st_open(path, NULL);
	st_expect_memory(opened);
	config.image = opened;
	cr_assert_eq(space_create(&config, &clone), 0);
	cr_assert_eq(space_read(clone, (gpa_t){HIGH_START}, back, HIGH_SIZE), 0);
	cr_assert_arr_eq(back, st.bytes + HIGH_START, HIGH_SIZE);
	/* A private page, saved over the file the clone runs from. */
	memcpy(st.bytes + BLOCK + 8, &value, sizeof(value));
	cr_assert_eq(space_write(clone, (gpa_t){BLOCK + 8}, &value, sizeof(value)), 0);
	cr_assert_eq(space_publish(clone, NULL, 0, &published), 0);
	st_save(published, path);
	image_put(opened);
	opened = st_open(path, NULL);
	st_expect_memory(opened);
	image_put(opened);
	image_put(published);
	cr_assert_eq(space_audit(clone), 0);
	space_destroy(clone);
	free(back);
}
