// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_storm.c - many sharers of one page that all write it, and clones made while their
 * parent goes on writing.
 *
 * Every page is a pattern of its own tag: a copy torn between two writers, or made of a page that
 * was being written, is no pattern of any tag.
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "mm/space.h"
#include "mm/space_internal.h"
#include "tests/unit/helpers.h"

TestSuite(storm, .timeout = 300);

enum { WRITERS = 4, WORDS = 4096 / 8 };

static uint64_t pattern(uint64_t tag, unsigned word)
{
	return (tag + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ word;
}

/* Words [from, to) of the page at `gpa`. */
static void paint(struct space *s, uint64_t gpa, uint64_t tag, unsigned from, unsigned to)
{
	for (unsigned w = from; w < to; w++)
		guest_store(s, gpa + 8u * w, pattern(tag, w));
}

static bool painted(struct space *s, uint64_t gpa, uint64_t tag, unsigned from, unsigned to)
{
	for (unsigned w = from; w < to; w++)
		if (guest_load(s, gpa + 8u * w) != pattern(tag, w))
			return false;
	return true;
}

/* --- sharers --------------------------------------------------------------------------------- */

struct storm {
	struct space **clone;
	unsigned sharers;
	_Atomic unsigned bad;
	pthread_barrier_t start;
	_Atomic unsigned next; /* writer */
};

#define HOT    (7 * PAGE)
#define NOBODY UINT64_C(1000000)

/* The upper half of the page stays the template's: the copy made at the first store has it. */
static void *write_hot(void *arg)
{
	struct storm *st = arg;
	unsigned me = atomic_fetch_add(&st->next, 1);

	pthread_barrier_wait(&st->start);
	for (unsigned i = me; i < st->sharers; i += WRITERS) {
		unsigned other = (i + 1) % st->sharers;
		uint64_t seen;

		st->bad += !painted(st->clone[i], HOT, NOBODY, 0, WORDS);
		paint(st->clone[i], HOT, i, 0, WORDS / 2);
		st->bad += !painted(st->clone[i], HOT, i, 0, WORDS / 2);
		st->bad += !painted(st->clone[i], HOT, NOBODY, WORDS / 2, WORDS);
		/* The neighbour's is its own or still the template's, whoever is at work on it. */
		seen = guest_load(st->clone[other], HOT);
		st->bad += seen != pattern(other, 0) && seen != pattern(NOBODY, 0);
	}
	return NULL;
}

static void race(struct storm *st)
{
	pthread_t t[WRITERS];

	cr_assert_eq(pthread_barrier_init(&st->start, NULL, WRITERS), 0);
	for (unsigned i = 0; i < WRITERS; i++)
		cr_assert_eq(pthread_create(&t[i], NULL, write_hot, st), 0);
	for (unsigned i = 0; i < WRITERS; i++)
		cr_assert_eq(pthread_join(t[i], NULL), 0);
	pthread_barrier_destroy(&st->start);
	cr_assert_eq(atomic_load(&st->bad), 0);
}

static void run_storm(unsigned sharers, enum fault_choice faults)
{
	struct pool *pool = new_pool(8 * MIB);
	struct space *s = new_space(pool, BLOCK, FAULTS_KERNEL);
	struct storm st = {.clone = calloc(sharers, sizeof(struct space *)), .sharers = sharers};
	struct rng rng = {test_seed()};
	struct image *image;
	frame_t frame;

	cr_assert_not_null(st.clone);
	for (uint64_t at = 0; at < 16 * PAGE; at += PAGE)
		paint(s, at, NOBODY, 0, WORDS);
	frame = s->blocks[0].frame;
	image = publish(s);
	for (unsigned i = 0; i < sharers; i++)
		st.clone[i] = new_clone(pool, image, faults);
	cr_assert_eq(image_refs(image), sharers + 2);
	race(&st);
	cr_assert_eq(pool_refs(pool, frame), 1, "an extent's, whoever shares the image");
	cr_assert_eq(used_frames(pool), 512, "copies are not the pool's");
	cr_assert(painted(s, HOT, NOBODY, 0, WORDS));
	for (unsigned i = 0; i < sharers; i++) {
		cr_assert(painted(st.clone[i], HOT, i, 0, WORDS / 2), "clone %u", i);
		cr_assert(painted(st.clone[i], HOT - PAGE, NOBODY, 0, WORDS));
		cr_assert_eq(space_audit(st.clone[i]), 0);
	}
	for (unsigned left = sharers; left > 0; left--) {
		unsigned k = (unsigned)rng_below(&rng, left);

		cr_assert_eq(image_refs(image), left + 2);
		space_destroy(st.clone[k]);
		st.clone[k] = st.clone[left - 1];
	}
	cr_assert(painted(s, HOT, NOBODY, 0, WORDS));
	space_destroy(s);
	image_put(image);
	free(st.clone);
	expect_all_gone(pool);
}

/* Where 8-bit counts end, and beyond. */
TEST_BOTH_PATHS(storm, around_255)
{
	static const unsigned sharers[] = {1, 2, 255, 256, 300};

	for (size_t i = 0; i < sizeof(sharers) / sizeof(sharers[0]); i++)
		if (sharers[i] < 10 || SLOWDOWN < 20)
			run_storm(sharers[i], faults);
}

/* Four mappings each come close to what a process may have. */
Test(storm, ten_thousand_sharers)
{
	run_storm(SLOWDOWN == 1 ? 10000 : 2000 / SLOWDOWN, FAULTS_KERNEL);
}

/* --- clones of a parent that goes on --------------------------------------------------------- */

#define RUN_PAGES 1500u

/* A vCPU that stamps pages in order, page 0 last word first of all, until it has done all. */
struct runner {
	struct space *s;
	pthread_t thread;
	pthread_mutex_t gate; /* held to stop it between two pages */
	_Atomic unsigned stamped;
	_Atomic unsigned pictures; /* it waits half-way until there is one */
};

static void *stamp(void *arg)
{
	struct runner *r = arg;

	for (unsigned page = 0; page < RUN_PAGES; page++) {
		while (page == RUN_PAGES / 2 && atomic_load(&r->pictures) == 0)
			sched_yield();
		pthread_mutex_lock(&r->gate);
		paint(r->s, page * PAGE, page, 0, WORDS);
		atomic_store(&r->stamped, page + 1);
		pthread_mutex_unlock(&r->gate);
	}
	return NULL;
}

/* All of what was stamped before it was taken, nothing of what was stamped after. */
static void check_moment(struct space *clone, unsigned stamped)
{
	for (unsigned page = 0; page < RUN_PAGES; page++) {
		if (page < stamped)
			cr_assert(painted(clone, page * PAGE, page, 0, WORDS), "page %u of %u",
			          page, stamped);
		else
			cr_assert_eq(guest_load(clone, page * PAGE), 0, "page %u of %u", page,
			             stamped);
	}
}

/* The parent stops for each picture only; clones are made, checked and written while it runs. */
TEST_BOTH_PATHS(storm, clones_of_a_running_parent)
{
	struct pool *pool = new_pool(64 * MIB);
	struct runner r = {.s = new_space(pool, 8 * MIB, faults)};
	struct image *image;
	unsigned stamped;

	pthread_mutex_init(&r.gate, NULL);
	cr_assert_eq(pthread_create(&r.thread, NULL, stamp, &r), 0);
	do {
		struct space *clone;

		pthread_mutex_lock(&r.gate);
		stamped = atomic_load(&r.stamped);
		image = publish(r.s);
		atomic_fetch_add(&r.pictures, 1);
		pthread_mutex_unlock(&r.gate);
		clone = new_clone(pool, image, faults);
		check_moment(clone, stamped);
		for (unsigned page = 0; page < RUN_PAGES; page += 50)
			guest_store(clone, page * PAGE, 1);
		image_put(image);
		space_destroy(clone);
	} while (stamped < RUN_PAGES);
	cr_assert_eq(pthread_join(r.thread, NULL), 0);
	cr_assert_geq(atomic_load(&r.pictures), 2);
	check_moment(r.s, RUN_PAGES);
	expect_sound(&(struct world){.pool = pool, .spaces = &r.s, .space_count = 1});
	space_destroy(r.s);
	pthread_mutex_destroy(&r.gate);
	expect_all_gone(pool);
}
