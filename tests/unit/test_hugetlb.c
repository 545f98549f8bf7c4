// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_hugetlb.c - memory in huge pages that the host has set aside.
 *
 * Each test has as many such pages as it says, for itself, or is skipped and says why. Random
 * operations on such memory: test_model.c; every call of theirs made to fail: test_inject.c.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "mm/hugetlb.h"
#include "mm/space.h"
#include "mm/space_internal.h"
#include "tests/unit/helpers.h"
#include "tests/unit/inject.h"
#include "tests/unit/reserve.h"

TestSuite(hugetlb, .timeout = 300, .fini = release_pages);

/* --- what the tests have in common ----------------------------------------------------------- */

/* Pages of one size, and the host's reserve before they were used. */
struct kind {
	enum page_size size;
	uint64_t bytes;
	unsigned long free;
};

static struct kind reserve(enum page_size size, unsigned pages)
{
	reserve_pages(size, pages);
	return (struct kind){size, page_size_bytes(size), free_pages(size)};
}

/* Who looks at every byte takes a minute for each GiB, and in one thread finds no race. */
static struct kind reserve_gib(unsigned pages)
{
	if (SLOWDOWN > 10)
		cr_skip_test("one thread, and too slow under ThreadSanitizer");
	return reserve(PAGE_SIZE_1G, pages);
}

static uint64_t taken(const struct kind *k)
{
	return k->free - free_pages(k->size);
}

/* One test for each fault path and page size. */
#define TEST_KINDS(name, pages_2m, pages_1g)                                                       \
	static void hugetlb_##name(enum fault_choice faults, struct kind k);                       \
	TEST_BOTH_PATHS(hugetlb, name##_2m)                                                        \
	{                                                                                          \
		hugetlb_##name(faults, reserve(PAGE_SIZE_2M, pages_2m));                           \
	}                                                                                          \
	TEST_BOTH_PATHS(hugetlb, name##_1g)                                                        \
	{                                                                                          \
		hugetlb_##name(faults, reserve_gib(pages_1g));                                     \
	}                                                                                          \
	static void hugetlb_##name(enum fault_choice faults, struct kind k)

static struct space *huge_space(struct pool *pool, const struct kind *k, unsigned pages,
                                enum fault_choice faults)
{
	struct ram_region ram = ram_at(0, pages * k->bytes, k->size);
	struct space_config c = {
		.pool = pool, .ram = &ram, .ram_count = 1, .faults = faults, .hugetlb = true};

	return make_space(&c);
}

static void close_space(struct pool *pool, struct space *s, const struct kind *k)
{
	space_destroy(s);
	expect_all_gone(pool);
	cr_assert_eq(taken(k), 0, "every page is the host's again");
}

static enum block_state state_at(struct space *s, uint64_t gpa)
{
	return space_block_state(s, (gpa_t){gpa});
}

static uint64_t page_bytes_at(struct space *s, uint64_t gpa)
{
	struct space_mapping m;

	cr_assert_eq(space_query(s, (gpa_t){gpa}, &m), 0);
	return m.page_bytes;
}

static struct gpa_range run(uint64_t start, uint64_t size)
{
	return (struct gpa_range){{start}, size};
}

/* Words here and there in [at, at + size), on all blocks' edges too: a GiB has many pages. */
static uint64_t step_of(uint64_t size)
{
	return size > 64 * MIB ? 37 * PAGE : PAGE;
}

static void scatter(struct space *s, uint64_t at, uint64_t size, uint64_t tag)
{
	for (uint64_t i = 0; i < size; i += step_of(size))
		guest_store(s, at + i + 8 * (i / PAGE % 512), tag + i);
}

static void expect_scatter(struct space *s, uint64_t at, uint64_t size, uint64_t tag)
{
	for (uint64_t i = 0; i < size; i += step_of(size))
		cr_assert_eq(get(s, at + i + 8 * (i / PAGE % 512)), tag + i, "page %lu",
		             (unsigned long)((at + i) / PAGE));
}

/* --- the pages ------------------------------------------------------------------------------- */

Test(hugetlb, arguments)
{
	struct hugetlb *h = NULL;

	cr_assert_eq(hugetlb_create(PAGE, BLOCK, &h), -EINVAL);
	cr_assert_eq(hugetlb_create(BLOCK, 0, &h), -EINVAL);
	cr_assert_eq(hugetlb_create(BLOCK, BLOCK + PAGE, &h), -EINVAL);
	cr_assert_eq(hugetlb_create(MM_HUGE_SIZE, BLOCK, &h), -EINVAL);
	cr_assert_null(h);
	hugetlb_destroy(NULL);
}

/* A page is zero each time it is taken, and the host's each time it is put. */
Test(hugetlb, pages_come_and_go)
{
	struct kind k = reserve(PAGE_SIZE_2M, 3);
	struct hugetlb *h;

	cr_assert_eq(hugetlb_create(k.bytes, 4 * k.bytes, &h), 0);
	cr_assert_eq(hugetlb_page_bytes(h), BLOCK);
	for (unsigned round = 0; round < 5; round++) {
		for (uint64_t i = 1; i < 4; i++) {
			cr_assert_eq(hugetlb_take(h, i * BLOCK), 0);
			cr_assert_eq(first_nonzero(hugetlb_ptr(h, i * BLOCK), BLOCK), BLOCK);
			memset(hugetlb_ptr(h, i * BLOCK), 0x5a, BLOCK);
		}
		cr_assert_eq(taken(&k), 3);
		cr_assert_eq(hugetlb_used(h), 3 * BLOCK);
		cr_assert_null(hugetlb_audit(h));
		for (uint64_t i = 1; i < 4; i++)
			hugetlb_put(h, i * BLOCK);
		cr_assert_eq(taken(&k), 0);
		cr_assert_null(hugetlb_audit(h));
	}
	hugetlb_destroy(h);
}

/* One that the host does not take back is zero all the same, and the next to be had there. */
Test(hugetlb, a_page_that_stays)
{
	struct kind k = reserve(PAGE_SIZE_2M, 1);
	struct hugetlb *h;

	cr_assert_eq(hugetlb_create(k.bytes, BLOCK, &h), 0);
	cr_assert_eq(hugetlb_take(h, 0), 0);
	memset(hugetlb_ptr(h, 0), 0x5a, BLOCK);
	inject_arm_call(1, INJECT_FALLOCATE);
	hugetlb_put(h, 0);
	inject_disarm();
	cr_assert(inject_fired());
	cr_assert_eq(hugetlb_used(h), 0);
	cr_assert_eq(taken(&k), 1);
	cr_assert_null(hugetlb_audit(h));
	cr_assert_eq(hugetlb_take(h, 0), 0);
	cr_assert_eq(first_nonzero(hugetlb_ptr(h, 0), BLOCK), BLOCK);
	cr_assert_null(hugetlb_audit(h));
	hugetlb_put(h, 0);
	cr_assert_eq(taken(&k), 0);
	hugetlb_destroy(h);
}

/* --- memory ---------------------------------------------------------------------------------- */

TEST_KINDS(touch, 3, 2)
{
	unsigned pages = k.size == PAGE_SIZE_1G ? 2 : 3;
	struct pool *pool = new_pool(pages * k.bytes);
	struct space *s = huge_space(pool, &k, pages, faults);
	bool lazy = faults == FAULTS_UFFD;
	struct space_stats st;

	cr_assert_eq(taken(&k), lazy ? 0 : pages);
	guest_store(s, k.bytes + 5 * PAGE, 1);
	guest_store(s, 2 * k.bytes - 8, 2);
	cr_assert_eq(taken(&k), lazy ? 1 : pages);
	cr_assert_eq(state_at(s, 2 * k.bytes - 1), BLOCK_HUGETLB);
	cr_assert_eq(state_at(s, 0), lazy ? BLOCK_EMPTY : BLOCK_HUGETLB);
	cr_assert_eq(page_bytes_at(s, k.bytes + 7 * PAGE), k.bytes);
	cr_assert_eq(get(s, k.bytes + 5 * PAGE), 1);
	cr_assert_eq(get(s, 2 * k.bytes - 8), 2);
	cr_assert_eq(space_stats(s, &st), 0);
	cr_assert_eq(st.reserve_frames, taken(&k) * (k.bytes / PAGE));
	cr_assert_eq(st.owned_frames, st.reserve_frames);
	cr_assert_eq(st.owned_committed, st.reserve_frames);
	cr_assert_eq(used_frames(pool), 0, "the pool has nothing to do with it");
	if (lazy)
		cr_assert_eq(st.events, 1);
	put(s, 3 * PAGE, 3);
	cr_assert_eq(guest_load(s, 3 * PAGE), 3);
	expect_sound_alone(pool, s);
	close_space(pool, s, &k);
}

/* What one space has written the next does not find, nor this one after it has given it back. */
TEST_KINDS(recycled_pages_are_zero, 2, 1)
{
	for (unsigned round = 0; round < 3; round++) {
		struct pool *pool = new_pool(k.bytes);
		struct space *s = huge_space(pool, &k, 1, faults);

		expect_zero(s, 0, k.bytes);
		memset((void *)space_hva(s, (gpa_t){0}).v, 0x77, k.bytes);
		cr_assert_eq(space_reset(s), 0);
		expect_sound_alone(pool, s);
		expect_zero(s, 0, k.bytes);
		memset((void *)space_hva(s, (gpa_t){0}).v, 0x77, k.bytes);
		cr_assert_eq(space_discard(s, run(0, k.bytes)), 0);
		cr_assert_eq(taken(&k), 0);
		expect_sound_alone(pool, s);
		guest_store(s, k.bytes / 2, 5);
		cr_assert_eq(taken(&k), faults == FAULTS_UFFD ? 1 : 0);
		cr_assert_eq(get(s, k.bytes / 2), 5);
		guest_store(s, k.bytes / 2, 0);
		expect_zero(s, k.bytes / 2 - BLOCK / 2, BLOCK);
		close_space(pool, s, &k);
	}
}

/* All or nothing, at creation, by populate, and one page at a time. */
Test(hugetlb, host_has_too_few)
{
	struct kind k = reserve(PAGE_SIZE_2M, 3);
	unsigned pages = (unsigned)k.free + 1;
	struct pool *pool = new_pool(pages * BLOCK);
	struct ram_region ram = ram_at(0, pages * BLOCK, PAGE_SIZE_2M);
	struct space_config c = {.pool = pool, .ram = &ram, .ram_count = 1, .hugetlb = true};
	struct space *s = NULL;

	require_path(FAULTS_UFFD);
	c.populate = true;
	cr_assert_eq(space_create(&c, &s), -ENOMEM);
	c.populate = false;
	c.faults = FAULTS_KERNEL;
	cr_assert_eq(space_create(&c, &s), -ENOMEM);
	cr_assert_eq(taken(&k), 0);
	c.faults = FAULTS_UFFD;
	s = make_space(&c);
	guest_store(s, 0, 4);
	cr_assert_eq(space_populate(s, ram.range), -ENOMEM);
	cr_assert_eq(taken(&k), 1);
	cr_assert_eq(get(s, 0), 4);
	cr_assert_eq(state_at(s, BLOCK), BLOCK_EMPTY);
	expect_sound_alone(pool, s);
	for (unsigned i = 1; i < pages; i++)
		cr_assert_eq(space_violation(s, (struct violation){{i * BLOCK}, ACCESS_WRITE}),
		             i + 1 < pages ? OUTCOME_RESOLVED : OUTCOME_NOMEM);
	cr_assert_eq(space_write(s, (gpa_t){(pages - 1) * BLOCK}, "x", 1), -ENOMEM);
	cr_assert_eq(space_discard(s, run(BLOCK, BLOCK)), 0);
	put(s, (pages - 1) * BLOCK, 9);
	expect_sound_alone(pool, s);
	close_space(pool, s, &k);
}

Test(hugetlb, limit)
{
	struct kind k = reserve(PAGE_SIZE_2M, 4);
	struct pool *pool = new_pool(4 * BLOCK);
	struct ram_region ram = ram_at(0, 4 * BLOCK, PAGE_SIZE_2M);
	struct space_config c = {.pool = pool,
	                         .ram = &ram,
	                         .ram_count = 1,
	                         .hugetlb = true,
	                         .limit_frames = 2 * 512};
	struct space *s;

	require_path(FAULTS_UFFD);
	s = make_space(&c);
	put(s, 0, 1);
	cr_assert_eq(space_populate(s, run(0, 3 * BLOCK)), -ENOMEM);
	cr_assert_eq(taken(&k), 1);
	put(s, 3 * BLOCK, 2);
	cr_assert_eq(space_violation(s, (struct violation){{BLOCK}, ACCESS_READ}), OUTCOME_NOMEM);
	cr_assert_eq(space_protect(s, run(0, PAGE), PROTECT_RO), 0, "what is there is no more");
	expect_sound_alone(pool, s);
	space_resume(s, 3 * 512);
	put(s, BLOCK, 3);
	expect_sound_alone(pool, s);
	close_space(pool, s, &k);
}

/* Regions of all sizes in one space; each is aligned in the host as in the guest. */
Test(hugetlb, regions_side_by_side)
{
	struct kind small = reserve(PAGE_SIZE_2M, 2), big = reserve(PAGE_SIZE_1G, 1);
	struct pool *pool = new_pool(2 * GIB);
	struct ram_region ram[] = {
		{{{6 * MIB}, 2 * BLOCK}, PAGE_SIZE_2M},
		{{{64 * MIB}, 5 * PAGE}, PAGE_SIZE_4K},
		{{{GIB}, GIB}, PAGE_SIZE_1G},
	};
	struct space_config c = {.pool = pool, .ram = ram, .ram_count = 3, .hugetlb = true};
	struct space *s = make_space(&c);

	cr_assert(is_aligned(space_hva(s, (gpa_t){GIB}).v, GIB));
	for (unsigned i = 0; i < 3; i++) {
		put(s, ram[i].range.start.v, i + 1);
		put(s, gpa_range_end(ram[i].range) - 8, i + 11);
	}
	cr_assert_eq(page_bytes_at(s, 6 * MIB), BLOCK);
	cr_assert_eq(page_bytes_at(s, 64 * MIB), PAGE);
	cr_assert_eq(page_bytes_at(s, GIB + 512 * MIB), GIB);
	expect_sound_alone(pool, s);
	cr_assert_eq(space_reset(s), 0);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(get(s, ram[i].range.start.v), 0);
	expect_sound_alone(pool, s);
	space_destroy(s);
	expect_all_gone(pool);
	cr_assert_eq(taken(&small) + taken(&big), 0);
}

/* Without --hugetlb, 2 MiB pages need nothing set aside. */
Test(hugetlb, only_where_asked_for)
{
	struct kind k = reserve(PAGE_SIZE_2M, 1);
	struct pool *pool = new_pool(4 * BLOCK);
	struct ram_region ram = ram_at(0, 2 * BLOCK, PAGE_SIZE_2M);
	struct space_config c = {.pool = pool, .ram = &ram, .ram_count = 1};
	struct space *s = make_space(&c);

	put(s, 0, 1);
	cr_assert_neq(state_at(s, 0), BLOCK_HUGETLB);
	cr_assert_eq(taken(&k), 0);
	close_space(pool, s, &k);
}

/* --- parts of a page ------------------------------------------------------------------------- */

/* Reads as zero at once, and the page stays one; all of it goes back. */
TEST_KINDS(discard, 2, 1)
{
	struct pool *pool = new_pool(k.bytes);
	struct space *s = huge_space(pool, &k, 1, faults);
	uint64_t mid = k.bytes / 2;

	scatter(s, 0, k.bytes, 100);
	cr_assert_eq(space_discard(s, run(mid - 3 * PAGE, 5 * PAGE)), 0);
	expect_zero(s, mid - 3 * PAGE, 5 * PAGE);
	expect_scatter(s, 0, mid - 3 * PAGE - (mid - 3 * PAGE) % step_of(k.bytes), 100);
	cr_assert_eq(taken(&k), 1);
	cr_assert_eq(page_bytes_at(s, mid), k.bytes);
	cr_assert_eq(space_discard(s, run(0, mid)), 0);
	expect_zero(s, 0, mid);
	guest_store(s, PAGE, 7);
	cr_assert_eq(space_discard(s, run(0, k.bytes)), 0);
	cr_assert_eq(taken(&k), 0);
	expect_sound_alone(pool, s);
	expect_zero(s, 0, k.bytes);
	expect_sound_alone(pool, s);
	if (k.size == PAGE_SIZE_2M) {
		cr_assert_eq(space_populate(s, run(0, k.bytes)), 0);
		cr_assert_eq(taken(&k), faults == FAULTS_UFFD ? 1 : 0);
		cr_assert_eq(private_frames(s), faults == FAULTS_UFFD ? 0 : k.bytes / PAGE);
		expect_sound_alone(pool, s);
	}
	close_space(pool, s, &k);
}

/* A part of a page is read-only, then nothing: ordinary frames, the same bytes. */
TEST_KINDS(protect_a_part, 3, 1)
{
	unsigned pages = k.size == PAGE_SIZE_1G ? 1 : 3;
	struct pool *pool = new_pool(pages * k.bytes);
	struct space *s = huge_space(pool, &k, pages, faults);
	struct gpa_range part = run(k.bytes - 2 * PAGE, PAGE);
	uint64_t stop;

	scatter(s, 0, k.bytes, 100);
	cr_assert_eq(taken(&k), faults == FAULTS_UFFD ? 1 : pages);
	cr_assert_eq(space_protect(s, part, PROTECT_RO), 0);
	cr_assert_eq(taken(&k), faults == FAULTS_UFFD ? 0 : pages - 1);
	cr_assert_eq(state_at(s, 0), BLOCK_OWNED);
	cr_assert_eq(used_frames(pool), k.bytes / PAGE);
	expect_sound_alone(pool, s);
	expect_scatter(s, 0, k.bytes, 100);
	cr_assert_eq(space_violation(s, (struct violation){part.start, ACCESS_WRITE}),
	             OUTCOME_DENIED);
	cr_assert_eq(space_protection(s, (gpa_t){0}, k.bytes, &stop), PROTECT_RW);
	cr_assert_eq(stop, part.start.v);
	cr_assert_eq(space_protect(s, run(0, k.bytes / 2), PROTECT_NONE), 0);
	cr_assert_eq(space_protect(s, run(0, k.bytes), PROTECT_RW), 0);
	expect_scatter(s, 0, k.bytes, 100);
	scatter(s, 0, k.bytes, 200);
	expect_scatter(s, 0, k.bytes, 200);
	expect_sound_alone(pool, s);
	cr_assert_eq(space_reset(s), 0);
	expect_sound_alone(pool, s);
	cr_assert_eq(get(s, 0), 0);
	if (faults == FAULTS_UFFD)
		cr_assert_eq(state_at(s, 0), BLOCK_HUGETLB, "a page again");
	close_space(pool, s, &k);
}

/* A whole page may be protected as one. */
TEST_KINDS(protect_a_page, 3, 2)
{
	unsigned pages = k.size == PAGE_SIZE_1G ? 2 : 3;
	struct pool *pool = new_pool(pages * k.bytes);
	struct space *s = huge_space(pool, &k, pages, faults);
	struct violation read = {{k.bytes + PAGE}, ACCESS_READ};
	struct violation write = {{k.bytes + PAGE}, ACCESS_WRITE};

	put(s, k.bytes + PAGE, 1);
	cr_assert_eq(space_protect(s, run(k.bytes, k.bytes), PROTECT_RO), 0);
	cr_assert_eq(page_bytes_at(s, k.bytes), k.bytes);
	cr_assert_eq(space_violation(s, read), OUTCOME_RESOLVED);
	cr_assert_eq(space_violation(s, write), OUTCOME_DENIED);
	cr_assert_eq(get(s, k.bytes + PAGE), 1);
	cr_assert_eq(space_protect(s, run(k.bytes, k.bytes), PROTECT_NONE), 0);
	cr_assert_eq(space_violation(s, read), OUTCOME_DENIED);
	expect_sound_alone(pool, s);
	cr_assert_eq(space_protect(s, run(0, 2 * k.bytes), PROTECT_RW), 0);
	cr_assert_eq(page_bytes_at(s, k.bytes), k.bytes);
	cr_assert_eq(get(s, k.bytes + PAGE), 1);
	cr_assert_eq(used_frames(pool), 0);
	expect_sound_alone(pool, s);
	close_space(pool, s, &k);
}

/* A hole in memory that nobody has touched is no reason to take a page. */
TEST_KINDS(protect_before_touch, 2, 1)
{
	struct pool *pool = new_pool(k.bytes + BLOCK);
	struct space *s = huge_space(pool, &k, 1, faults);

	cr_assert_eq(space_protect(s, run(PAGE, PAGE), PROTECT_RO), 0);
	cr_assert_eq(taken(&k), 0);
	put(s, 0, 1);
	put(s, k.bytes - 8, 2);
	cr_assert_eq(taken(&k), 0, "the rest is ordinary too");
	cr_assert_eq(get(s, PAGE), 0);
	expect_sound_alone(pool, s);
	close_space(pool, s, &k);
}

TEST_KINDS(unmap, 3, 2)
{
	unsigned pages = k.size == PAGE_SIZE_1G ? 2 : 3;
	struct pool *pool = new_pool(pages * k.bytes);
	struct space *s = huge_space(pool, &k, pages, faults);
	struct gpa_range part = run(k.bytes - BLOCK / 2, PAGE);
	uint8_t byte;

	scatter(s, 0, k.bytes, 300);
	put(s, k.bytes, 5);
	cr_assert_eq(space_unmap(s, part), 0);
	cr_assert_eq(space_read(s, part.start, &byte, 1), -EFAULT);
	expect_scatter(s, 0, k.bytes - BLOCK, 300);
	cr_assert_eq(get(s, k.bytes), 5);
	expect_sound_alone(pool, s);
	cr_assert_eq(space_unmap(s, run(k.bytes, k.bytes)), 0);
	cr_assert_eq(space_read(s, (gpa_t){k.bytes}, &byte, 1), -EFAULT);
	cr_assert_eq(taken(&k), faults == FAULTS_UFFD ? 0 : pages - 2);
	expect_sound_alone(pool, s);
	cr_assert_eq(space_reset(s), 0);
	expect_sound_alone(pool, s);
	close_space(pool, s, &k);
}

/* Any part of a page brings in all of it. */
TEST_KINDS(populate, 3, 2)
{
	unsigned pages = k.size == PAGE_SIZE_1G ? 2 : 3;
	struct pool *pool = new_pool(pages * k.bytes);
	struct space *s = huge_space(pool, &k, pages, faults);

	cr_assert_eq(space_populate(s, run(k.bytes - PAGE, 2 * PAGE)), 0);
	cr_assert_eq(taken(&k), faults == FAULTS_UFFD ? 2 : pages);
	cr_assert_eq(state_at(s, 0), BLOCK_HUGETLB);
	cr_assert_eq(state_at(s, 2 * k.bytes - 1), BLOCK_HUGETLB);
	put(s, PAGE, 1);
	cr_assert_eq(space_populate(s, run(0, pages * k.bytes)), 0);
	cr_assert_eq(taken(&k), pages);
	cr_assert_eq(get(s, PAGE), 1);
	expect_sound_alone(pool, s);
	close_space(pool, s, &k);
}

/* --- sharing --------------------------------------------------------------------------------- */

/* The image has ordinary frames, of what is not zero; the host has its pages back. */
TEST_KINDS(publish, 2, 1)
{
	unsigned pages = k.size == PAGE_SIZE_1G ? 1 : 2;
	uint64_t ram = pages * k.bytes, few = 4 * BLOCK;
	struct pool *pool = new_pool(ram + 8 * BLOCK);
	struct space *s = huge_space(pool, &k, pages, faults), *clone;
	struct image *image;

	few = min_u64(few, ram / 2);
	scatter(s, 0, few, 100);
	scatter(s, ram - BLOCK, BLOCK, 200);
	image = publish(s);
	cr_assert_eq(taken(&k), 0);
	cr_assert_leq(committed_frames(pool), (few + BLOCK) / PAGE, "zeros are not copied");
	clone = new_clone(pool, image, faults);
	for (unsigned i = 0; i < 2; i++) {
		struct space *each = i ? clone : s;

		expect_scatter(each, 0, few, 100);
		expect_scatter(each, ram - BLOCK, BLOCK, 200);
		expect_zero(each, few, min_u64(ram - BLOCK - few, 8 * BLOCK));
	}
	scatter(s, 0, BLOCK, 500);
	scatter(clone, 0, BLOCK, 600);
	expect_scatter(s, 0, BLOCK, 500);
	expect_scatter(clone, 0, BLOCK, 600);
	expect_scatter(clone, ram - BLOCK, BLOCK, 200);
	cr_assert_eq(taken(&k), 0, "a clone has no use for them");
	expect_sound(&(struct world){pool, (struct space *[]){s, clone}, 2, &image, 1});
	cr_assert_eq(space_reset(clone), 0);
	expect_scatter(clone, 0, few, 100);
	space_destroy(clone);
	image_put(image);
	expect_sound_alone(pool, s);
	close_space(pool, s, &k);
}

/* No run of frames in the pool for all of a page: refused, and nothing is lost. */
TEST_KINDS(publish_without_frames, 2, 1)
{
	struct pool *pool = new_pool(k.bytes);
	struct space *s = huge_space(pool, &k, 1, faults);
	struct image *image = NULL;
	frame_t f;

	scatter(s, 0, k.bytes, 100);
	cr_assert_eq(pool_alloc(pool, 0, FRAME_NONE, &f), 0);
	cr_assert_eq(space_publish(s, NULL, 0, &image), -ENOMEM);
	cr_assert_null(image);
	cr_assert_eq(space_protect(s, run(0, PAGE), PROTECT_RO), -ENOMEM);
	cr_assert_eq(page_bytes_at(s, 0), k.bytes);
	cr_assert_eq(used_frames(pool), 1);
	pool_unref(pool, f);
	expect_sound_alone(pool, s);
	expect_scatter(s, 0, k.bytes, 100);
	scatter(s, 0, k.bytes, 300);
	image = publish(s);
	expect_scatter(s, 0, k.bytes, 300);
	image_put(image);
	close_space(pool, s, &k);
}

/* As where userfaultfd cannot write-protect: the guest is stopped, and the page only read. */
TEST_BOTH_PATHS(hugetlb, copied_without_userfaultfd)
{
	struct kind k = reserve(PAGE_SIZE_2M, 1);
	struct pool *pool = new_pool(BLOCK);
	struct space *s = huge_space(pool, &k, 1, faults);
	frame_t f;

	scatter(s, 0, BLOCK, 100);
	cr_assert_eq(pool_alloc(pool, 0, FRAME_NONE, &f), 0);
	for (unsigned round = 0; round < 2; round++) {
		/* The question whether it can. */
		inject_arm_error(1, INJECT_IOCTL, EINVAL);
		cr_assert_eq(space_protect(s, run(0, PAGE), PROTECT_RO), round ? 0 : -ENOMEM);
		inject_disarm();
		cr_assert(inject_fired());
		guest_store(s, PAGE + 8, 100 + PAGE);
		cr_assert_eq(guest_load(s, PAGE + 8), 100 + PAGE, "as writable as before");
		if (round == 0)
			pool_unref(pool, f);
	}
	cr_assert_eq(state_at(s, 0), BLOCK_OWNED);
	expect_scatter(s, 0, BLOCK, 100);
	expect_sound_alone(pool, s);
	close_space(pool, s, &k);
}

/* A space that has copied blocks of its image finds the image there after a reset. */
Test(hugetlb, reset_of_what_was_published)
{
	struct kind k = reserve(PAGE_SIZE_2M, 2);
	struct pool *pool = new_pool(8 * BLOCK);
	struct space *s;
	struct image *image;

	require_path(FAULTS_UFFD);
	s = huge_space(pool, &k, 2, FAULTS_UFFD);
	scatter(s, 0, 2 * BLOCK, 100);
	image = publish(s);
	scatter(s, 0, BLOCK, 900);
	cr_assert_eq(space_copy_ahead(s, 4), 0);
	cr_assert_eq(state_at(s, 0), BLOCK_OWNED);
	cr_assert_eq(space_reset(s), 0);
	expect_scatter(s, 0, 2 * BLOCK, 100);
	expect_sound(&(struct world){pool, &s, 1, &image, 1});
	image_put(image);
	close_space(pool, s, &k);
}

/* --- many at once ---------------------------------------------------------------------------- */

enum { WRITERS = 2, PLACES = 16 };

struct writer {
	struct space *s;
	const struct kind *k;
	unsigned pages;
	unsigned number;
	_Atomic bool *stop;
	uint64_t last[PLACES];
	pthread_t thread;
};

/* Where writer `w` writes its word `i`: all over the pages. */
static uint64_t place(const struct writer *w, unsigned i)
{
	uint64_t all = w->pages * w->k->bytes;

	return align_down(all / PLACES * i, PAGE) + 8 * w->number;
}

static void *write_words(void *arg)
{
	struct writer *w = arg;

	for (uint64_t n = 1; !atomic_load(w->stop); n++)
		for (unsigned i = 0; i < PLACES; i++) {
			guest_store(w->s, place(w, i), n);
			w->last[i] = n;
		}
	return NULL;
}

/* Protect a part of each page while threads write to the rest: no store is lost. */
static void demote_under_writers(const struct kind *k, unsigned pages, unsigned rounds)
{
	for (unsigned round = 0; round < rounds; round++) {
		struct pool *pool = new_pool(pages * k->bytes);
		struct space *s = huge_space(pool, k, pages, FAULTS_UFFD);
		struct writer w[WRITERS];
		_Atomic bool stop = false;

		for (unsigned n = 0; n < WRITERS; n++) {
			w[n] = (struct writer){s, k, pages, n, &stop, {0}, 0};
			cr_assert_eq(pthread_create(&w[n].thread, NULL, write_words, &w[n]), 0);
		}
		for (unsigned i = 0; i < pages; i++) {
			uint64_t end = (i + 1) * k->bytes;

			/* Taken by now, by a writer or by this. */
			put(s, end - PAGE, 1);
			cr_assert_eq(space_protect(s, run(end - PAGE, PAGE), PROTECT_RO), 0);
			cr_assert_eq(state_at(s, end - BLOCK), BLOCK_OWNED);
		}
		atomic_store(&stop, true);
		for (unsigned n = 0; n < WRITERS; n++) {
			cr_assert_eq(pthread_join(w[n].thread, NULL), 0);
			for (unsigned i = 0; i < PLACES; i++)
				cr_assert_eq(get(s, place(&w[n], i)), w[n].last[i],
				             "round %u, writer %u, word %u", round, n, i);
		}
		expect_sound_alone(pool, s);
		close_space(pool, s, k);
	}
}

Test(hugetlb, writers_lose_nothing_2m)
{
	struct kind k;

	require_path(FAULTS_UFFD);
	k = reserve(PAGE_SIZE_2M, 8);
	demote_under_writers(&k, 8, 40 / SLOWDOWN);
}

Test(hugetlb, writers_lose_nothing_1g)
{
	struct kind k;

	require_path(FAULTS_UFFD);
	k = reserve(PAGE_SIZE_1G, 1);
	demote_under_writers(&k, 1, 2);
}

static void *touch_words(void *arg)
{
	struct writer *w = arg;

	for (unsigned i = 0; i < PLACES; i++)
		guest_store(w->s, place(w, i), 1000 * w->number + i);
	return NULL;
}

/* All want the same pages at once: each is taken once. */
Test(hugetlb, one_page_many_threads)
{
	enum { THREADS = 8 };
	struct kind k;

	require_path(FAULTS_UFFD);
	k = reserve(PAGE_SIZE_2M, 4);
	for (unsigned round = 0; round < 40 / SLOWDOWN; round++) {
		struct pool *pool = new_pool(4 * BLOCK);
		struct space *s = huge_space(pool, &k, 4, FAULTS_UFFD);
		struct writer w[THREADS];

		for (unsigned n = 0; n < THREADS; n++) {
			w[n] = (struct writer){s, &k, 4, n, NULL, {0}, 0};
			cr_assert_eq(pthread_create(&w[n].thread, NULL, touch_words, &w[n]), 0);
		}
		for (unsigned n = 0; n < THREADS; n++)
			cr_assert_eq(pthread_join(w[n].thread, NULL), 0);
		cr_assert_eq(taken(&k), 4);
		for (unsigned n = 0; n < THREADS; n++)
			for (unsigned i = 0; i < PLACES; i++)
				cr_assert_eq(get(s, place(&w[n], i)), 1000 * n + i);
		expect_sound_alone(pool, s);
		close_space(pool, s, &k);
	}
}

/* --- memory of the embedder's ---------------------------------------------------------------- */

/* It must be aligned as the regions are. */
Test(hugetlb, memory_is_aligned)
{
	struct pool *pool = new_pool(BLOCK);
	struct ram_region ram = ram_at(0, GIB, PAGE_SIZE_1G);
	uint8_t *map = mmap(NULL, 2 * GIB + BLOCK, PROT_READ | PROT_WRITE,
	                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *at = (uint8_t *)(uintptr_t)align_up((uintptr_t)map, GIB);
	struct space_config c = {.pool = pool, .ram = &ram, .ram_count = 1, .memory = at + BLOCK};
	struct space *s = NULL;

	cr_assert_neq(map, MAP_FAILED);
	cr_assert_eq(space_create(&c, &s), -EINVAL);
	c.memory = at;
	s = make_space(&c);
	cr_assert_eq(state_at(s, 0), BLOCK_LINEAR);
	put(s, 0, 1);
	space_destroy(s);
	ram = ram_at(0, GIB, PAGE_SIZE_2M);
	c.memory = at + BLOCK;
	s = make_space(&c);
	space_destroy(s);
	ram = ram_at(GIB + BLOCK, GIB, PAGE_SIZE_2M);
	s = make_space(&c);
	space_destroy(s);
	cr_assert_eq(munmap(map, 2 * GIB + BLOCK), 0);
	expect_all_gone(pool);
}
