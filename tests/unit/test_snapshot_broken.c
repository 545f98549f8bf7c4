// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_snapshot_broken.c - what is not a good snapshot is refused, with the right code.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "tests/unit/snapshot_model.h"
#include "vmm/snapshot_format.h"

static void flip(const char *path, uint64_t offset)
{
	uint8_t b;

	st_read_at(path, &b, 1, offset);
	b ^= (uint8_t)(1u << (offset % 8));
	st_write_at(path, &b, 1, offset);
}

static struct snap_header read_header(const char *path)
{
	struct snap_header h;

	st_read_at(path, &h, sizeof(h), 0);
	return h;
}

/* A header someone took care to make look right. */
static void write_header(const char *path, struct snap_header h)
{
	h.header_sum = snap_header_sum(&h);
	st_write_at(path, &h, sizeof(h), 0);
}

TestSuite(snapshot_broken, .init = st_setup, .fini = st_teardown, .timeout = 120);

Test(snapshot_broken, truncated_anywhere)
{
	const char *path = st_path("a.cow");
	struct snap_header h;
	uint64_t at[64];
	size_t n = 0;

	st_save_mixed(path);
	h = read_header(path);
	at[n++] = h.file_size - 1;
	for (uint64_t o = h.file_size - BLOCK; o >= h.data_offset; o -= BLOCK) {
		at[n++] = o + BLOCK / 2;
		at[n++] = o + 1;
		at[n++] = o;
	}
	at[n++] = h.extents_offset + h.extent_count * 32;
	at[n++] = h.extents_offset + 33;
	at[n++] = h.extents_offset;
	at[n++] = h.state_offset + h.state_size;
	at[n++] = h.state_offset + 1;
	at[n++] = h.state_offset;
	at[n++] = 4095;
	at[n++] = 9;
	at[n++] = 8;
	at[n++] = 7;
	at[n++] = 1;
	at[n++] = 0;
	for (size_t i = 0; i < n; i++) {
		char want[64];

		cr_assert_eq(truncate(path, (off_t)at[i]), 0);
		cr_assert_eq(st_open_bad(path), -EBADMSG);
		if (at[i] >= 4096) {
			snprintf(want, sizeof(want), "%" PRIu64 " bytes of %" PRIu64, at[i],
			         h.file_size);
			cr_assert_not_null(strstr(st.error.text, want), "%s", st.error.text);
		} else if (at[i] >= 8) {
			cr_assert_not_null(strstr(st.error.text, "truncated"), "%s", st.error.text);
		}
		cr_assert_eq(snapshot_verify(path, ISA, &st.error), -EBADMSG);
	}
}

Test(snapshot_broken, every_header_byte)
{
	const char *path = st_path("a.cow");
	int fd;

	st_save_mixed(path);
	fd = open(path, O_RDWR | O_CLOEXEC);
	for (off_t i = 0; i < 4096; i++) {
		uint8_t good, bad;
		int want = i >= 8 && i < 12 ? -ENOTSUP : -EBADMSG;
		int got;

		cr_assert_eq(pread(fd, &good, 1, i), 1);
		bad = good ^ (uint8_t)(1u << (i % 8));
		cr_assert_eq(pwrite(fd, &bad, 1, i), 1);
		got = st_open_bad(path);
		cr_assert_eq(got, want, "byte %jd: %d", (intmax_t)i, got);
		cr_assert_eq(pwrite(fd, &good, 1, i), 1);
	}
	close(fd);
	image_put(st_open(path, NULL));
}

Test(snapshot_broken, every_metadata_byte)
{
	const char *path = st_path("a.cow");
	struct snap_header h;
	char want[32];

	st_save_mixed(path);
	h = read_header(path);
	for (uint64_t i = 0; i < h.state_size; i++) {
		flip(path, h.state_offset + i);
		cr_assert_eq(st_open_bad(path), -EBADMSG);
		flip(path, h.state_offset + i);
	}
	snprintf(want, sizeof(want), "offset %" PRIu64, h.state_offset);
	cr_assert_not_null(strstr(st.error.text, want), "%s", st.error.text);
	for (uint64_t i = 0; i < h.extent_count * sizeof(struct snap_extent); i++) {
		flip(path, h.extents_offset + i);
		cr_assert_eq(st_open_bad(path), -EBADMSG);
		flip(path, h.extents_offset + i);
	}
	snprintf(want, sizeof(want), "offset %" PRIu64, h.extents_offset);
	cr_assert_not_null(strstr(st.error.text, want), "%s", st.error.text);
	image_put(st_open(path, NULL));
}

/* Open does not read the data; verify does, holes included, and says where. */
Test(snapshot_broken, verify_finds_flipped_data)
{
	const char *path = st_path("a.cow");
	struct snap_header h;

	st_save_mixed(path);
	h = read_header(path);
	for (uint64_t slot = h.data_offset; slot < h.file_size; slot += BLOCK) {
		uint64_t at = slot + st_random() % (500 * PAGE);
		char want[32];

		flip(path, at);
		image_put(st_open(path, NULL));
		cr_assert_eq(snapshot_verify(path, ISA, &st.error), -EBADMSG);
		snprintf(want, sizeof(want), "%" PRIu64, slot);
		cr_assert_not_null(strstr(st.error.text, want), "%s", st.error.text);
		flip(path, at);
		cr_assert_eq(snapshot_verify(path, ISA, &st.error), 0, "%s", st.error.text);
	}
}

Test(snapshot_broken, other_version_isa_and_features)
{
	const char *path = st_path("a.cow");
	struct snapshot_info info;
	struct image *image;
	struct snap_header good, h;

	st_save_mixed(path);
	good = read_header(path);
	h = good;
	h.version = 7;
	write_header(path, h);
	cr_assert_eq(st_open_bad(path), -ENOTSUP);
	cr_assert_not_null(strstr(st.error.text, "format version 7"), "%s", st.error.text);
	h = good;
	h.features_required = 4;
	write_header(path, h);
	cr_assert_eq(st_open_bad(path), -ENOTSUP);
	h = good;
	h.features_optional = UINT64_MAX;
	write_header(path, h);
	image_put(st_open(path, NULL));
	cr_assert_eq(snapshot_open(path, EM_AARCH64, &image, NULL, &st.error), -ENOTSUP);
	cr_assert_not_null(strstr(st.error.text, "machine 62"), "%s", st.error.text);
	cr_assert_eq(snapshot_verify(path, EM_AARCH64, NULL), -ENOTSUP);
	cr_assert_eq(snapshot_stat(path, &info, &st.error), 0);
	cr_assert_eq(info.isa, ISA);
}

/* One header field at a time set to nonsense, with the checksum made to fit. */
Test(snapshot_broken, crafted_header_fields)
{
#define F(field) offsetof(struct snap_header, field), sizeof(good.field)
	const char *path = st_path("a.cow");
	struct snap_header good, swapped;
	const struct {
		size_t at, size;
		uint64_t value;
	} cases[] = {
		{F(header_size), 8192},
		{F(page_size), 16384},
		{F(block_size), 4096},
		{F(ram_bytes), 1},
		{F(state_offset), 0},
		{F(state_offset), UINT64_MAX - 10},
		{F(state_size), UINT64_MAX},
		{F(state_size), UINT64_MAX - 4095},
		{F(state_size), SNAPSHOT_STATE_MAX},
		{F(extents_offset), 4},
		{F(extents_offset), 0},
		{F(extents_offset), UINT64_MAX - 7},
		{F(extents_offset), BLOCK},
		{F(extent_count), UINT64_MAX},
		{F(extent_count), UINT64_C(1) << 59},
		{F(extent_count), BLOCK / 32},
		{F(extent_count), 5},
		{F(extent_count), 3},
		{F(data_offset), 0},
		{F(data_offset), 4096},
		{F(data_offset), 2 * BLOCK},
		{F(data_offset), UINT64_MAX - BLOCK + 1},
		{F(data_size), UINT64_MAX - BLOCK + 1},
		{F(data_size), 3 * BLOCK},
		{F(data_size), 4096},
		{F(data_pages), 0},
		{F(file_size), 0},
		{F(file_size), UINT64_MAX},
		{F(extent_size), 31},
		{F(extent_size), 0},
		{F(region_count), 0},
		{F(region_count), 17},
		{F(region_count), UINT32_MAX},
		{F(region_count), 1},
		{F(regions[0].start), PAGE},
		{F(regions[0].start), UINT64_MAX - 4095},
		{F(regions[0].size), 0},
		{F(regions[0].size), 1},
		{F(regions[0].size), UINT64_MAX - 4095},
		{F(regions[1].start), BLOCK},
		{F(regions[1].page_shift), 13},
		{F(regions[1].page_shift), 30},
		{F(build[63]), 'x'},
	};
#undef F

	st_save_mixed(path);
	good = read_header(path);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct snap_header h = good;
		int ret;

		memcpy((char *)&h + cases[i].at, &cases[i].value, cases[i].size);
		write_header(path, h);
		ret = st_open_bad(path);
		cr_assert_eq(ret, -EBADMSG, "case %zu: %d %s", i, ret, st.error.text);
	}
	swapped = good;
	swapped.regions[0] = good.regions[1];
	swapped.regions[1] = good.regions[0];
	write_header(path, swapped);
	cr_assert_eq(st_open_bad(path), -EBADMSG);
	cr_assert_not_null(strstr(st.error.text, "order of RAM regions"), "%s", st.error.text);
	write_header(path, good);
	image_put(st_open(path, NULL));
}

static void write_extents(const char *path, struct snap_header h, const struct snap_extent *e)
{
	h.extents_sum = XXH3_64bits(e, h.extent_count * sizeof(*e));
	st_write_at(path, e, h.extent_count * sizeof(*e), h.extents_offset);
	write_header(path, h);
}

/* The same for the entries of the extent table. */
Test(snapshot_broken, crafted_extents)
{
	const char *path = st_path("a.cow");
	struct snap_extent good[4], e[4];
	struct snap_header h;

	st_save_mixed(path);
	h = read_header(path);
	cr_assert_eq(h.extent_count, 4);
	st_read_at(path, good, sizeof(good), h.extents_offset);
#define BROKEN(change)                                                                             \
	do {                                                                                       \
		memcpy(e, good, sizeof(e));                                                        \
		change;                                                                            \
		write_extents(path, h, e);                                                         \
		cr_assert_eq(st_open_bad(path), -EBADMSG, #change);                                \
		cr_assert_not_null(strstr(st.error.text, "extent "), "%s", st.error.text);         \
	} while (0)
	BROKEN(e[0].gpa = PAGE);
	BROKEN(e[0].gpa = 1);
	BROKEN(e[0].gpa = BLOCK);
	BROKEN(e[1].gpa = 0);
	BROKEN(e[3].gpa = LOW_SIZE);
	BROKEN(e[3].gpa = UINT64_MAX - BLOCK + 1);
	BROKEN(e[3].pages = 512);
	BROKEN(e[0].pages = 0);
	BROKEN(e[0].pages = 511);
	BROKEN(e[0].pages = UINT32_MAX);
	BROKEN(e[0].nonzero = 0);
	BROKEN(e[0].nonzero = 513);
	BROKEN(e[0].offset = 0);
	BROKEN(e[0].offset += PAGE);
	BROKEN(e[0].offset += BLOCK);
	BROKEN(e[3].offset = h.file_size);
	BROKEN(e[3].offset = UINT64_MAX - BLOCK + 1);
	BROKEN(e[2].offset = e[1].offset);
	BROKEN(e[2] = e[1]);
#undef BROKEN
	write_extents(path, h, good);
	image_put(st_open(path, NULL));
	cr_assert_eq(snapshot_verify(path, ISA, &st.error), 0, "%s", st.error.text);
	/* What only the data can tell. */
	memcpy(e, good, sizeof(e));
	e[1].nonzero++;
	e[0].nonzero--;
	write_extents(path, h, e);
	image_put(st_open(path, NULL));
	cr_assert_eq(snapshot_verify(path, ISA, &st.error), -EBADMSG);
	cr_assert_not_null(strstr(st.error.text, "the 511 pages"), "%s", st.error.text);
}

/* Many random changes at once, checksums made to fit: any code, but nothing worse. */
Test(snapshot_broken, crafted_at_random)
{
	const char *path = st_path("a.cow");
	struct snap_extent extents[4], e[4];
	struct snap_header good;
	unsigned opened = 0;

	st_save_mixed(path);
	good = read_header(path);
	st_read_at(path, extents, sizeof(extents), good.extents_offset);
	for (int round = 0; round < 4000; round++) {
		struct snap_header h = good;
		struct image *image;
		int changes = 1 + (int)(st_random() % 3);

		memcpy(e, extents, sizeof(e));
		while (changes--) {
			uint8_t *at = st_random() % 2 ? (uint8_t *)&h + 0x18 : (uint8_t *)e;
			size_t size = at == (uint8_t *)e ? sizeof(e) : 0x130 - 0x18;

			at[st_random() % size] ^= (uint8_t)(1u << (st_random() % 8));
		}
		h.extents_sum = XXH3_64bits(e, sizeof(e));
		st_write_at(path, e, sizeof(e), good.extents_offset);
		write_header(path, h);
		if (snapshot_open(path, ISA, &image, NULL, &st.error) == 0) {
			cr_assert_eq(image_audit(image), 0);
			image_put(image);
			opened++;
		}
	}
	/* Some fields mean nothing to a reader: both outcomes must have been seen. */
	cr_assert(opened > 0 && opened < 4000, "%u", opened);
}

Test(snapshot_broken, not_a_snapshot)
{
	const char *path = st_path("a.cow");
	FILE *f = fopen(path, "we");

	fputs("#!/bin/sh\necho no\n", f);
	fclose(f);
	cr_assert_eq(st_open_bad(path), -EBADMSG);
	cr_assert_not_null(strstr(st.error.text, "not a cowslip image"), "%s", st.error.text);
	cr_assert_eq(st_open_bad(st.dir), -EBADMSG);
	cr_assert_eq(mkfifo(st_path("fifo"), 0600), 0);
	cr_assert_eq(st_open_bad(st_path("fifo")), -EBADMSG);
	cr_assert_eq(st_open_bad(st_path("none")), -ENOENT);
	cr_assert_eq(st_open_bad("/dev/null"), -EBADMSG);
	cr_assert_eq(snapshot_open(path, ISA, &(struct image *){NULL}, NULL, NULL), -EBADMSG);
}
