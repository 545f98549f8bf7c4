// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_watched.c - blocks that are there whole and are let in a few pages at a time, to
 * see whether a walk goes through them: what they hold, and what can be done to them meanwhile.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "mm/space.h"
#include "mm/space_internal.h"
#include "tests/unit/helpers.h"
#include "tests/unit/inject.h"

TestSuite(watched, .timeout = 120);

#define SIZE   (48 * MIB)
#define BLOCKS (SIZE / BLOCK)

/* The first pages of a block that is watched are let in with it. */
#define LET_IN 4u

struct scene {
	struct pool *pool;
	struct space *s;
	size_t watched; /* the block */
};

static struct block block_at(struct space *s, size_t index)
{
	struct block b;

	lock_take(&s->lock);
	b = s->blocks[index];
	lock_drop(&s->lock);
	return b;
}

static bool is_watched(struct space *s, size_t index)
{
	struct block b = block_at(s, index);

	cr_assert(!b.watched || (b.partial && b.huge && b.state == BLOCK_OWNED));
	return b.watched;
}

static uint64_t at(size_t block, unsigned page)
{
	return block * BLOCK + page * PAGE;
}

/* A walk that writes the address to the pages it must come to, until a block of it is watched. */
static void open_scene(struct scene *c)
{
	*c = (struct scene){.pool = NULL};
	require_path(FAULTS_UFFD);
	c->pool = new_pool(2 * SIZE);
	c->s = new_space(c->pool, SIZE, FAULTS_UFFD);
	if (!pool_huge(c->pool))
		cr_skip_test("this host gives a file no huge pages");
	cr_assert_not_null(pool_twin_ptr(c->pool, (frame_t){0}));
	cr_assert(c->s->fault.can_watch, "every kernel since 5.14 can");
	for (; c->watched < BLOCKS; c->watched++) {
		unsigned page = 0;

		do {
			guest_store(c->s, at(c->watched, page), at(c->watched, page) + 1);
			if (is_watched(c->s, c->watched))
				return;
			page++;
		} while (block_at(c->s, c->watched).partial);
	}
	cr_assert(false, "no block was watched");
}

static void close_scene(struct scene *c)
{
	expect_sound_alone(c->pool, c->s);
	space_destroy(c->s);
	expect_all_gone(c->pool);
}

/* What the walk has written, and nothing beside it in the block that was watched. */
static void expect_walked(struct space *s, size_t watched)
{
	for (size_t i = 0; i <= watched; i++)
		cr_assert_eq(guest_load(s, at(i, 0)), at(i, 0) + 1, "block %zu", i);
	cr_assert_eq(guest_load(s, at(watched, 0) + 8), 0);
}

/* All of it is there, some is let in; the walk goes on, and it is given whole with its bytes. */
Test(watched, walked_through)
{
	struct scene c;
	struct block before;
	uint64_t events;
	struct space_stats stats;

	open_scene(&c);
	before = block_at(c.s, c.watched);
	cr_assert_eq(committed_frames(c.pool) % MM_BLOCK_PAGES, 0, "2 MiB pages and nothing else");
	cr_assert_eq(space_stats(c.s, &stats), 0);
	events = stats.events;
	for (unsigned page = 1; page < LET_IN; page++)
		guest_store(c.s, at(c.watched, page), page);
	cr_assert(is_watched(c.s, c.watched), "these were let in with the first");
	guest_store(c.s, at(c.watched, LET_IN), LET_IN);
	cr_assert(!block_at(c.s, c.watched).partial);
	cr_assert(block_at(c.s, c.watched).huge);
	cr_assert_eq(block_at(c.s, c.watched).frame.n, before.frame.n, "not copied");
	for (unsigned page = LET_IN + 1; page < MM_BLOCK_PAGES; page++)
		guest_store(c.s, at(c.watched, page), page);
	cr_assert_eq(space_stats(c.s, &stats), 0);
	cr_assert_eq(stats.events, events + 1);
	for (unsigned page = 1; page < MM_BLOCK_PAGES; page++)
		cr_assert_eq(guest_load(c.s, at(c.watched, page)), page);
	expect_walked(c.s, c.watched);
	close_scene(&c);
}

/* A walk that does not go on: other pages of the block come in as they are touched. */
Test(watched, touched_elsewhere)
{
	struct scene c;

	open_scene(&c);
	for (unsigned page = MM_BLOCK_PAGES - 1; page > LET_IN + 64; page -= 61)
		guest_store(c.s, at(c.watched, page), page);
	for (unsigned page = MM_BLOCK_PAGES - 1; page > LET_IN + 64; page -= 61) {
		cr_assert_eq(guest_load(c.s, at(c.watched, page)), page);
		cr_assert_eq(guest_load(c.s, at(c.watched, page) + 8), 0);
		cr_assert_eq(guest_load(c.s, at(c.watched, page - 30)), 0);
	}
	expect_walked(c.s, c.watched);
	close_scene(&c);
}

/* The VMM's own accesses, which go through the window. */
Test(watched, read_and_written_by_the_vmm)
{
	struct scene c;

	open_scene(&c);
	cr_assert_eq(get(c.s, at(c.watched, 0)), at(c.watched, 0) + 1);
	cr_assert_eq(get(c.s, at(c.watched, 100)), 0);
	tag_pages(c.s, at(c.watched, 200), 100 * PAGE, 9);
	expect_tags(c.s, at(c.watched, 200), 100 * PAGE, 9);
	expect_zero(c.s, at(c.watched, 300), 100 * PAGE);
	expect_walked(c.s, c.watched);
	close_scene(&c);
}

/* Parts of it, let in or not, read as zero from then on, and can be written. */
Test(watched, given_back_in_part)
{
	struct scene c;
	struct gpa_range parts[2];

	open_scene(&c);
	parts[0] = (struct gpa_range){{at(c.watched, 1)}, 8 * PAGE};
	parts[1] = (struct gpa_range){{at(c.watched, 100)}, 50 * PAGE};
	guest_store(c.s, at(c.watched, 1), 1);
	guest_store(c.s, at(c.watched, 120), 2);
	for (int i = 0; i < 2; i++)
		cr_assert_eq(space_discard(c.s, parts[i]), 0);
	for (int i = 0; i < 2; i++) {
		for (uint64_t a = parts[i].start.v; a < gpa_range_end(parts[i]); a += PAGE)
			cr_assert_eq(guest_load(c.s, a), 0);
		for (uint64_t a = parts[i].start.v; a < gpa_range_end(parts[i]); a += 2 * PAGE)
			guest_store(c.s, a, a + 1);
	}
	for (unsigned page = 160; page < 400; page++)
		guest_store(c.s, at(c.watched, page), page);
	for (int i = 0; i < 2; i++)
		for (uint64_t a = parts[i].start.v; a < gpa_range_end(parts[i]); a += 2 * PAGE)
			cr_assert_eq(guest_load(c.s, a), a + 1);
	expect_walked(c.s, c.watched);
	close_scene(&c);
}

Test(watched, given_back_whole)
{
	struct scene c;

	open_scene(&c);
	cr_assert_eq(space_discard(c.s, (struct gpa_range){{at(c.watched, 0)}, BLOCK}), 0);
	cr_assert_eq(space_block_state(c.s, (gpa_t){at(c.watched, 0)}), BLOCK_EMPTY);
	for (unsigned page = 0; page < MM_BLOCK_PAGES; page++)
		cr_assert_eq(guest_load(c.s, at(c.watched, page)), 0);
	guest_store(c.s, at(c.watched, 7), 7);
	cr_assert_eq(guest_load(c.s, at(c.watched, 7)), 7);
	close_scene(&c);
}

/* An image of it has all its bytes, and its clone and it go their own ways. */
Test(watched, published)
{
	struct scene c;
	struct image *image;
	struct space *clone;

	open_scene(&c);
	image = publish(c.s);
	clone = new_clone(c.pool, image, FAULTS_UFFD);
	guest_store(c.s, at(c.watched, 1), 1);
	guest_store(clone, at(c.watched, 2), 2);
	expect_walked(c.s, c.watched);
	expect_walked(clone, c.watched);
	cr_assert_eq(guest_load(clone, at(c.watched, 1)), 0);
	cr_assert_eq(guest_load(c.s, at(c.watched, 2)), 0);
	space_destroy(clone);
	image_put(image);
	close_scene(&c);
}

/* Permissions hold for pages that are let in later, and for the block when it is given whole. */
Test(watched, protected)
{
	struct scene c;
	struct gpa_range closed;

	open_scene(&c);
	closed = (struct gpa_range){{at(c.watched, 40)}, 4 * PAGE};
	cr_assert_eq(space_protect(c.s, closed, PROTECT_RO), 0);
	guest_store(c.s, at(c.watched, 45), 45); /* beside them, in one cluster */
	cr_assert(is_watched(c.s, c.watched));
	cr_assert_eq(guest_load(c.s, at(c.watched, 41)), 0);
	for (unsigned page = 0; page < 64; page++) {
		uint64_t a = at(c.watched, page);
		bool ro = page >= 40 && page < 44;

		cr_assert_eq(space_violation(c.s, (struct violation){{a}, ACCESS_WRITE}),
		             ro ? OUTCOME_DENIED : OUTCOME_RESOLVED, "page %u", page);
		if (!ro)
			guest_store(c.s, a + 16, page);
	}
	cr_assert_eq(guest_load(c.s, closed.start.v), 0);
	cr_assert_eq(space_write(c.s, closed.start, "x", 1), -EACCES);
	cr_assert_eq(space_protect(c.s, closed, PROTECT_RW), 0);
	guest_store(c.s, closed.start.v, 5);
	for (unsigned page = 0; page < 64; page++)
		cr_assert_eq(guest_load(c.s, at(c.watched, page) + 16),
		             page >= 40 && page < 44 ? 0 : page);
	expect_walked(c.s, c.watched);
	close_scene(&c);
}

/*
 * The next violations of the walk, on this thread, with the k-th step of them failing. Return:
 * whether there was such a step.
 */
static bool fail_step(unsigned k, unsigned *met)
{
	struct scene c;
	bool fired;

	open_scene(&c);
	/* The walk leaves this block, and comes to one that is to be watched. */
	space_destroy(c.s);
	c.s = new_space(c.pool, SIZE, FAULTS_UFFD);
	for (size_t i = 0; i < c.watched; i++) {
		unsigned page = 0;

		do {
			guest_store(c.s, at(i, page), at(i, page) + 1);
			page++;
		} while (block_at(c.s, i).partial);
	}
	inject_arm(k);
	for (unsigned page = 0; page <= LET_IN; page += LET_IN) {
		struct violation v = {{at(c.watched, page)}, ACCESS_WRITE};
		enum outcome o = space_violation(c.s, v);

		cr_assert(o == OUTCOME_RESOLVED || o == OUTCOME_NOMEM || o == OUTCOME_RETRY,
		          "step %u: %s", k, outcome_name(o));
	}
	inject_disarm();
	fired = inject_fired();
	if (fired)
		*met |= 1u << inject_failed_call();
	guest_store(c.s, at(c.watched, 0), at(c.watched, 0) + 1);
	for (unsigned page = 1; page < MM_BLOCK_PAGES; page++)
		guest_store(c.s, at(c.watched, page), page);
	for (unsigned page = 1; page < MM_BLOCK_PAGES; page++)
		cr_assert_eq(guest_load(c.s, at(c.watched, page)), page, "step %u", k);
	expect_walked(c.s, c.watched);
	close_scene(&c);
	return fired;
}

Test(watched, each_step_fails)
{
	const unsigned must = 1u << INJECT_MMAP | 1u << INJECT_MREMAP | 1u << INJECT_IOCTL;
	unsigned k = 1, met = 0;

	while (fail_step(k, &met))
		cr_assert_lt(k++, 100);
	cr_assert_geq(k, 5);
	cr_assert_eq(met & must, must, "met %x", met);
}

/* ---- those who wait in it ---- */

struct waiter {
	struct scene *c;
	_Atomic bool done;
	pthread_t thread;
};

static void *touch(void *arg)
{
	struct waiter *w = arg;

	guest_store(w->c->s, at(w->c->watched, 200), 200);
	atomic_store(&w->done, true);
	return NULL;
}

/* The handler has ended; who waits for an answer is let go, and finds what is in memory. */
Test(watched, let_go)
{
	struct scene c;
	struct waiter w = {.c = &c};

	open_scene(&c);
	uffd_break(c.s, -EIO);
	usleep(100000);
	cr_assert_eq(pthread_create(&w.thread, NULL, touch, &w), 0);
	usleep(100000);
	cr_assert(!atomic_load(&w.done), "a touch that nobody answers waits");
	space_let_go(c.s);
	for (unsigned i = 0; i < 1000 && !atomic_load(&w.done); i++)
		usleep(10000);
	cr_assert(atomic_load(&w.done), "nobody has woken who waits");
	cr_assert_eq(pthread_join(w.thread, NULL), 0);
	cr_assert_eq(guest_load(c.s, at(c.watched, 200)), 200);
	expect_walked(c.s, c.watched);
	close_scene(&c);
}

/* ---- many threads ---- */

enum { THREADS = 4 };

struct walker {
	struct space *s;
	unsigned number;
	uint64_t bad;
	pthread_t thread;
};

static uint64_t word_of(const struct walker *w, uint64_t a)
{
	return a + 8 * w->number;
}

/* All walk through all pages, each with a word of its own in them; late ones meet what is there. */
static void *walk(void *arg)
{
	struct walker *w = arg;

	for (uint64_t a = 0; a < SIZE; a += PAGE) {
		if (guest_load(w->s, word_of(w, a)) != 0)
			w->bad++;
		guest_store(w->s, word_of(w, a), a + w->number + 1);
	}
	return NULL;
}

/* No store is lost while blocks are let in, and given whole, under those who write to them. */
Test(watched, walks_side_by_side)
{
	require_path(FAULTS_UFFD);
	for (unsigned round = 0; round < 1 + 5 / SLOWDOWN; round++) {
		struct pool *pool = new_pool(2 * SIZE);
		struct space *s = new_space(pool, SIZE, FAULTS_UFFD);
		struct walker w[THREADS];

		for (unsigned i = 0; i < THREADS; i++) {
			w[i] = (struct walker){.s = s, .number = i};
			cr_assert_eq(pthread_create(&w[i].thread, NULL, walk, &w[i]), 0);
		}
		for (unsigned i = 0; i < THREADS; i++) {
			cr_assert_eq(pthread_join(w[i].thread, NULL), 0);
			cr_assert_eq(w[i].bad, 0);
		}
		for (uint64_t a = 0; a < SIZE; a += PAGE)
			for (unsigned i = 0; i < THREADS; i++)
				cr_assert_eq(guest_load(s, word_of(&w[i], a)), a + i + 1);
		expect_sound_alone(pool, s);
		space_destroy(s);
		expect_all_gone(pool);
	}
}
