// SPDX-License-Identifier: MIT
/*
 * tests/unit/world.h - all that shares one pool, and every count of it recomputed.
 *
 * Knows no test framework, so that programs other than the test suites can use it too.
 *
 * Concurrency: none; nobody else uses the pool meanwhile.
 */
#ifndef COWSLIP_TESTS_UNIT_WORLD_H
#define COWSLIP_TESTS_UNIT_WORLD_H

#include <stddef.h>
#include <stdint.h>

#include "mm/image.h"
#include "mm/pool.h"
#include "mm/space.h"

#define MIB   (UINT64_C(1) << 20)
#define GIB   (UINT64_C(1) << 30)
#define PAGE  MM_PAGE_SIZE
#define BLOCK MM_BLOCK_SIZE

#if defined(__SANITIZE_THREAD__)
#define SLOWDOWN 20u
#elif defined(__SANITIZE_ADDRESS__)
#define SLOWDOWN 4u
#else
#define SLOWDOWN 1u
#endif

/*
 * All that holds frames of one pool. `images` are those the test holds one reference on each;
 * what spaces hold is found from them. NULL entries are passed over.
 */
struct world {
	struct pool *pool;
	struct space *const *spaces;
	size_t space_count;
	struct image *const *images;
	size_t image_count;
};

/*
 * The audits of the pool and of every space and image; then recompute from all extents and blocks
 * every block's count, every image's count and the pool's used frames.
 * Return: NULL or what is wrong (static text, details on stderr).
 */
const char *world_check(const struct world *w);

#endif
