// SPDX-License-Identifier: MIT
/*
 * tests/unit/helpers.h - what the memory tests have in common.
 *
 * Everything here fails the running test when it cannot do its work.
 *
 * Concurrency: guest_store() and guest_load() may be called from any thread, as a vCPU would access
 * memory; the rest belongs to the test's own thread.
 */
#ifndef COWSLIP_TESTS_UNIT_HELPERS_H
#define COWSLIP_TESTS_UNIT_HELPERS_H

#include <criterion/criterion.h>
#include <stddef.h>
#include <stdint.h>

#include "mm/image.h"
#include "mm/pool.h"
#include "mm/space.h"
#include "tests/unit/world.h"

/* Skip the running test, with the reason, where userfaultfd cannot be had. */
void require_path(enum fault_choice faults);

/*
 * One test for each fault path: the body that follows is a function of `faults`. (Criterion's
 * parameterized tests do not run under ThreadSanitizer.)
 */
#define TEST_BOTH_PATHS(suite, name, ...)                                                          \
	static void suite##_##name(enum fault_choice faults);                                      \
	Test(suite, name##_kernel, ##__VA_ARGS__)                                                  \
	{                                                                                          \
		suite##_##name(FAULTS_KERNEL);                                                     \
	}                                                                                          \
	Test(suite, name##_uffd, ##__VA_ARGS__)                                                    \
	{                                                                                          \
		require_path(FAULTS_UFFD);                                                         \
		suite##_##name(FAULTS_UFFD);                                                       \
	}                                                                                          \
	static void suite##_##name(enum fault_choice faults)

/* --- random numbers: the same sequence from the same seed ------------------------------------ */

struct rng {
	uint64_t s;
};

uint64_t rng_next(struct rng *r);
/* 0..n-1; n > 0. */
uint64_t rng_below(struct rng *r, uint64_t n);
/* COWSLIP_SEED, or one from the clock; printed, so that a failure can be repeated. */
uint64_t test_seed(void);

/* --- making things --------------------------------------------------------------------------- */

struct pool *new_pool(uint64_t bytes);
struct ram_region ram_at(uint64_t start, uint64_t size, enum page_size page_size);
/* Fresh memory of `bytes` from address 0 on, page size AUTO. */
struct space *new_space(struct pool *pool, uint64_t bytes, enum fault_choice faults);
struct space *new_clone(struct pool *pool, struct image *image, enum fault_choice faults);
/* space_create(), which must succeed. */
struct space *make_space(const struct space_config *config);
/* space_publish() without state, which must succeed; the caller holds the image. */
struct image *publish(struct space *s);

/* --- memory ---------------------------------------------------------------------------------- */

/* As the VMM does: space_write() and space_read(), which must succeed. */
void put(struct space *s, uint64_t gpa, uint64_t value);
uint64_t get(struct space *s, uint64_t gpa);

/* As a vCPU does: straight through the window. */
void guest_store(struct space *s, uint64_t gpa, uint64_t value);
uint64_t guest_load(struct space *s, uint64_t gpa);

/* A word at the start of each page of [gpa, gpa + size): `tag` and the page's number. */
void tag_pages(struct space *s, uint64_t gpa, uint64_t size, uint64_t tag);
void expect_tags(struct space *s, uint64_t gpa, uint64_t size, uint64_t tag);

void expect_zero(struct space *s, uint64_t gpa, uint64_t size);
/* Index of the first byte of `p` that is not 0, or `size`. */
size_t first_nonzero(const void *p, size_t size);

/* Blocks of [0, bytes) that are OWNED. */
unsigned count_owned(struct space *s, uint64_t bytes);

uint64_t used_frames(struct pool *p);
uint64_t committed_frames(struct pool *p);
uint64_t private_frames(struct space *s);

/* --- audits ---------------------------------------------------------------------------------- */

/* world_check(), which must find nothing. */
void expect_sound(const struct world *w);
/* The same for a space that shares its pool with nobody, and no image is held. */
void expect_sound_alone(struct pool *pool, struct space *s);

/* Nothing handed out, nothing retired, no memory behind anything; audits. Drops the pool. */
void expect_all_gone(struct pool *p);

#endif
