// SPDX-License-Identifier: MIT
/*
 * tests/unit/snapshot_model.h - images for the snapshot tests, with the bytes a guest must see.
 *
 * Images are built from pool frames and mirrored in a flat byte array, which every reader is
 * compared with. Guest memory is read back through the store's descriptor, so that the file itself
 * is tested and not a space over it. One model in a process: a Criterion test has its own.
 */
#ifndef COWSLIP_TESTS_UNIT_SNAPSHOT_MODEL_H
#define COWSLIP_TESTS_UNIT_SNAPSHOT_MODEL_H

#include <elf.h>
#include <stddef.h>
#include <stdint.h>

#include "mm/image.h"
#include "mm/pool.h"
#include "vmm/snapshot.h"

#define ISA         EM_X86_64
#define PAGE        MM_PAGE_SIZE
#define BLOCK       MM_BLOCK_SIZE
#define MIB         (UINT64_C(1) << 20)
#define MAX_EXTENTS 512u

/* Two regions with a hole between them; the second ends inside a block. */
#define LOW_SIZE   (8 * MIB)
#define HIGH_START (16 * MIB)
#define HIGH_SIZE  (6 * MIB - 3 * PAGE)
#define HIGH_END   (HIGH_START + HIGH_SIZE)
#define RAM_SIZE   (LOW_SIZE + HIGH_SIZE)

extern const struct ram_region st_ram[2];
extern const char st_state[37];

/* An image under construction and the bytes a guest would see. */
struct snap_test {
	char dir[64]; /* of this test's files */
	struct pool *pool;
	uint8_t *bytes; /* indexed by gpa, HIGH_END of them */
	struct extent extents[MAX_EXTENTS];
	size_t count;
	uint64_t seed;
	struct snapshot_error error; /* of the last operation */
};
extern struct snap_test st;

void st_setup(void);
void st_teardown(void);

uint64_t st_random(void);
/* `size` is a multiple of 8. */
void st_fill(uint8_t *to, size_t size);

/* A path in the test's directory; the same pointer for the same name. */
const char *st_path(const char *name);
void st_empty_dir(const char *path);
int st_count_files(const char *path);
int st_open_fds(void);
void st_read_at(const char *path, void *to, size_t size, uint64_t offset);
void st_write_at(const char *path, const void *from, size_t size, uint64_t offset);

/* Insert by gpa. The model's reference on a pool block is dropped by st_image(). */
void st_add_extent(struct extent e);
/* Frames from the pool, not yet written; where to write them. */
uint8_t *st_add_pages(uint64_t gpa, uint32_t pages);
/* Random bytes in frames from the pool and in st.bytes. */
void st_add_random(uint64_t gpa, uint32_t pages);
/* An image of all that has been added; starts over. */
struct image *st_image(const void *state, size_t state_size);
/* Random data with holes at all scales: whole blocks, ends of blocks, single pages. 4 slots. */
struct image *st_mixed(void);

void st_expect_memory(const struct image *image);
void st_expect_state(const struct image *image, const void *want, size_t want_size);

/* These must succeed. */
void st_save(const struct image *image, const char *path);
void st_save_mixed(const char *path);
/* What has been added, as an image that may lie in files of `base`, which is freed. */
void st_save_over(struct snapshot_base *base, const char *path);
struct image *st_open(const char *path, struct snapshot_info *info);

/* The code of an open that must be refused, with one line that names the path. */
int st_open_bad(const char *path);

#endif
