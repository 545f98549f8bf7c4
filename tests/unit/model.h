// SPDX-License-Identifier: MIT
/*
 * tests/unit/model.h - operations on spaces and images, each beside a flat array of bytes.
 *
 * Some spaces and images of one pool, each with a plain copy of what it should hold. Whoever drives
 * the model draws the numbers: a random generator, or a fuzzer's input. It knows no test framework.
 *
 * An audit recomputes all counts; a check also compares every byte of every space, without
 * touching what nobody has touched: an EMPTY block must equal the image's, an OWNED one is read
 * from the pool's file. An operation that runs out of frames must have changed nothing.
 *
 * Concurrency: one model at a time in a process, on one thread.
 */
#ifndef COWSLIP_TESTS_UNIT_MODEL_H
#define COWSLIP_TESTS_UNIT_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "mm/space.h"

/* Huge pages of 2 MiB that a model with `hugetlb` may use at once. */
#define MODEL_HUGE_PAGES 8u

/* A pool in which all that is asked for fits, almost always; one in which much does not. */
#define MODEL_POOL_ROOMY (UINT64_C(10247) << MM_PAGE_SHIFT)
#define MODEL_POOL_SHORT (UINT64_C(3333) << MM_PAGE_SHIFT)

struct model_env {
	/* The next number, 0..n-1; n > 0. Any sequence of numbers is a run. */
	uint64_t (*below)(void *ctx, uint64_t n);
	/* Something is not as it should be: `text` says at which step, what. Does not return. */
	void (*failed)(void *ctx, const char *text);
	void *ctx;
	enum fault_choice faults; /* of the spaces; AUTO: both, by the next number */
	bool hugetlb; /* most of their memory is in huge pages that the host set aside */
};

struct model;

/* Never fails but by env->failed(). */
struct model *model_open(const struct model_env *env, uint64_t pool_bytes);

/* One operation, as the next numbers have it. */
void model_step(struct model *m);

/* Every count is as it should be. */
void model_audit(const struct model *m);

/* So is every byte. `walks`: also space_next() says so, page by page. */
void model_check(struct model *m, bool walks);

/* All goes, and nothing is left in the pool. Return: operations that ran out of frames. */
uint64_t model_close(struct model *m);

#endif
