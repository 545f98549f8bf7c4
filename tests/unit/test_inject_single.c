// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_inject_single.c - single failures that need a closer look than the loop of
 * tests/unit/test_inject.c takes: of giving memory back, and in the handler's thread.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "mm/pool.h"
#include "mm/space.h"
#include "tests/unit/helpers.h"
#include "tests/unit/inject.h"

#define PAGES     1537u /* three blocks and a page */
#define RAM       (PAGES * PAGE)
#define STEPS_MAX 400u

TestSuite(inject_single, .timeout = 120);

/* A block that cannot be punched is not zero: it is set aside for good. */
Test(inject_single, unpunched_block_is_retired)
{
	struct pool *pool = new_pool(4 * MIB);
	struct pool_stats st;
	frame_t f, other;
	unsigned got = 0;

	cr_assert_eq(pool_alloc(pool, 4, FRAME_NONE, &f), 0);
	memset(pool_frame_ptr(pool, f), 0xaa, 16 * PAGE);
	inject_arm_call(1, INJECT_FALLOCATE);
	pool_unref(pool, f);
	inject_disarm();
	cr_assert(inject_fired());
	pool_stats(pool, &st);
	cr_assert_eq(st.retired_frames, 16);
	cr_assert_eq(st.used_frames, 0);
	cr_assert_eq(pool_audit(pool), 0);
	cr_assert_eq(pool_refs(pool, f), 0);
	cr_assert_eq(pool_alloc(pool, 4, f, &other), 0);
	cr_assert_neq(other.n, f.n, "not by hint either");
	pool_unref(pool, other);
	while (pool_alloc(pool, 0, FRAME_NONE, &other) == 0) {
		cr_assert(other.n < f.n || other.n >= f.n + 16);
		cr_assert_eq(first_nonzero(pool_frame_ptr(pool, other), PAGE), PAGE);
		got++;
	}
	cr_assert_eq(got, 1024 - 16);
	cr_assert_eq(pool_audit(pool), 0);
	for (uint32_t n = 0; n < 1024; n++)
		if (pool_refs(pool, (frame_t){n}))
			pool_unref(pool, (frame_t){n});
	cr_assert_eq(used_frames(pool), 0);
	pool_put(pool);
}

/* --- failures in the handler's thread -------------------------------------------------------- */

static struct {
	struct space *s;
	_Atomic bool go;
	uint64_t bad;
} vcpu;

static void *run_vcpu(void *arg)
{
	static const unsigned pages[] = {200, 400, 100, 50, 511, 700, 900, 513, 1100, 1300, 1536};

	(void)arg;
	while (!atomic_load(&vcpu.go))
		;
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
		vcpu.bad += guest_load(vcpu.s, pages[i] * PAGE) != 0;
		guest_store(vcpu.s, pages[i] * PAGE, pages[i]);
	}
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
		vcpu.bad += guest_load(vcpu.s, pages[i] * PAGE) != pages[i];
	return NULL;
}

static void try_again(void *ctx, struct violation v)
{
	(void)v;
	atomic_fetch_add((_Atomic unsigned *)ctx, 1);
	space_resume(vcpu.s, 0);
}

/* A vCPU whose violation could not be served is served when it tries again; no store is lost. */
Test(inject_single, handler_fails_and_goes_on)
{
	struct pool *pool = new_pool(32 * MIB);
	struct ram_region ram = ram_at(0, RAM, PAGE_SIZE_AUTO);
	_Atomic unsigned waits = 0;
	unsigned k = 0, steps;

	require_path(FAULTS_UFFD);
	do {
		pthread_t t;

		vcpu.s = make_space(&(struct space_config){.pool = pool,
		                                           .ram = &ram,
		                                           .ram_count = 1,
		                                           .faults = FAULTS_UFFD,
		                                           .nomem = try_again,
		                                           .ctx = &waits});
		atomic_store(&vcpu.go, false);
		cr_assert_eq(pthread_create(&t, NULL, run_vcpu, NULL), 0);
		inject_arm_all(++k);
		atomic_store(&vcpu.go, true);
		cr_assert_eq(pthread_join(t, NULL), 0);
		steps = inject_disarm();
		cr_assert_eq(vcpu.bad, 0);
		expect_sound(&(struct world){.pool = pool, .spaces = &vcpu.s, .space_count = 1});
		space_destroy(vcpu.s);
		cr_assert_lt(k, STEPS_MAX);
	} while (steps >= k);
	cr_assert_gt(k, 8);
	cr_assert_gt(waits, 0);
	expect_all_gone(pool);
}

/* --- what another thread does meanwhile --------------------------------------------- */

static void store_in_first(void *s)
{
	guest_store(s, 5 * PAGE, 42);
}

/*
 * The guest writes to a block between the steps by which it is given back. Zero or what was
 * written: what it reads afterwards it goes on reading.
 */
Test(inject_single, discard_races_with_a_store)
{
	static const enum inject_call steps[] = {INJECT_MMAP, INJECT_MADVISE, INJECT_IOCTL};

	require_path(FAULTS_UFFD);
	for (unsigned i = 0; i < 3; i++) {
		struct pool *pool = new_pool(16 * MIB);
		struct space *s = new_space(pool, 2 * BLOCK, FAULTS_UFFD);
		uint64_t seen;

		put(s, 0, 1);
		inject_arm_error(1, steps[i], INJECT_PASS);
		inject_meanwhile(store_in_first, s);
		cr_assert_eq(space_discard(s, (struct gpa_range){{0}, BLOCK}), 0);
		inject_disarm();
		cr_assert(inject_fired());
		seen = guest_load(s, 5 * PAGE);
		guest_store(s, 7 * PAGE, 7);
		guest_store(s, 300 * PAGE, 8);
		cr_assert_eq(guest_load(s, 5 * PAGE), seen, "%s", inject_name(steps[i]));
		cr_assert_eq(guest_load(s, 0), 0);
		expect_sound(&(struct world){pool, &s, 1, NULL, 0});
		space_destroy(s);
		expect_all_gone(pool);
	}
}

static void store_in_first_blocks(void *s)
{
	guest_store(s, 0, 1);
	guest_store(s, BLOCK + 5 * PAGE, 2);
}

/* The guest writes to blocks that are mapped while the next one cannot be: they stay. */
Test(inject_single, populate_keeps_what_is_mapped)
{
	const struct gpa_range all = {{0}, 4 * BLOCK};
	struct pool *pool;
	struct space *s;

	require_path(FAULTS_UFFD);
	inject_plain_pools(true); /* where a refused mapping is not tried in another way */
	pool = new_pool(16 * MIB);
	s = new_space(pool, all.size, FAULTS_UFFD);
	inject_arm_call(3, INJECT_MMAP);
	inject_meanwhile(store_in_first_blocks, s);
	cr_assert_eq(space_populate(s, all), -ENOMEM);
	inject_disarm();
	cr_assert(inject_fired());
	cr_assert_eq(guest_load(s, 0), 1);
	cr_assert_eq(guest_load(s, BLOCK + 5 * PAGE), 2);
	cr_assert_eq(used_frames(pool), 2 * 512);
	cr_assert_eq(space_block_state(s, (gpa_t){2 * BLOCK}), BLOCK_EMPTY);
	expect_sound(&(struct world){pool, &s, 1, NULL, 0});
	cr_assert_eq(space_populate(s, all), 0);
	cr_assert_eq(guest_load(s, BLOCK + 5 * PAGE), 2);
	space_destroy(s);
	expect_all_gone(pool);
}
