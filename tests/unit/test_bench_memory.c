// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_bench_memory.c - what memory as other VMMs have it takes of the host.
 */
#include <criterion/criterion.h>

#include "bench/memory.h"
#include "tests/unit/helpers.h"

#define SIZE (UINT64_C(4) << 20)

/* An image of which the second half is a hole. */
static struct image *half_image(struct pool *pool)
{
	struct space *s = new_space(pool, SIZE, FAULTS_UFFD);
	struct image *image;

	tag_pages(s, 0, SIZE / 2, 7);
	image = publish(s);
	space_destroy(s);
	return image;
}

static uint64_t committed(const struct memory *m)
{
	uint64_t bytes;

	cr_assert_eq(memory_committed(m, &bytes), 0);
	return bytes;
}

/* A copy of a page costs a page; of a page that the file does not have, one of the file's, too. */
Test(bench_memory, a_files_page_counts_beside_its_copy)
{
	struct pool *pool = new_pool(UINT64_C(64) << 20);
	struct image *image = half_image(pool);
	struct contents contents;
	struct memory m;
	const char *step;
	uint64_t before;

	cr_assert_eq(contents_make(image, SIZE, &contents), 0);
	cr_assert_eq(memory_make(memory_find("private-4k"), SIZE, &contents, &m, &step), 0);
	before = committed(&m);
	((volatile uint8_t *)m.base)[0] = 1;
	cr_assert_eq(committed(&m) - before, MM_PAGE_SIZE);
	((volatile uint8_t *)m.base)[SIZE / 2] = 1;
	cr_assert_eq(committed(&m) - before, 3 * MM_PAGE_SIZE, "%lu", committed(&m) - before);
	memory_fini(&m);
	contents_fini(&contents);
	image_put(image);
	pool_put(pool);
}

/* Anonymous memory: the copy alone. */
Test(bench_memory, anonymous_pages)
{
	const struct memory_kind *kind = memory_find("kernel-4k");
	struct memory m;
	const char *step;

	cr_assert_eq(memory_make(kind, SIZE, NULL, &m, &step), 0);
	cr_assert_eq(committed(&m), 0);
	((volatile uint8_t *)m.base)[MM_PAGE_SIZE] = 1;
	cr_assert_eq(committed(&m), MM_PAGE_SIZE);
	memory_fini(&m);
}

/* Which kinds may lie under what: a mapping of an image's file wants an image. */
Test(bench_memory, kinds)
{
	for (const struct memory_kind *k = memory_kinds; k->name; k++) {
		cr_assert(k->fresh || k->clones, "%s", k->name);
		cr_assert(!k->file || !k->fresh, "%s", k->name);
	}
	cr_assert(memory_find("private-4k")->file && !memory_find("kernel-4k")->clones);
	cr_assert_null(memory_find("private"));
}
