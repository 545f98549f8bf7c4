// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_inject.c - every call that may fail is made to fail, one at a time.
 *
 * A scenario builds a small world, and acts. For k = 1, 2, ... the world is built anew and the k-th
 * step of the act fails. Then either the act reports an error, and nothing may have changed:
 * audits, frames in use, every byte of every space; and the act succeeds when done again. Or it
 * succeeds all the same (it could do without), and must have done all of its work. The loop ends
 * when the act has fewer than k steps; the calls it must have met by then are part of the scenario.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mm/pagemap.h"
#include "mm/space.h"
#include "mm/space_internal.h"
#include "tests/unit/helpers.h"
#include "tests/unit/inject.h"
#include "tests/unit/reserve.h"

#define MET(call) (1u << INJECT_##call)
#define PAGES     1537u /* three blocks and a page */
#define RAM       (PAGES * PAGE)
#define STEPS_MAX 400u
/* Every step; where threads are what is looked at, some of them. */
#define STRIDE (SLOWDOWN > 10 ? 5u : 1u)

enum { SPACES = 2 };

/* What the tests expect the first word of each page to be; all else is zero. */
struct memory {
	uint64_t word[PAGES];
};

struct env {
	const struct scenario *sc;
	struct pool *pool;
	struct space *s[SPACES];
	struct memory want[SPACES];
	struct image *image; /* what s[1] is, or will be, a clone of */
	struct memory base;  /* what that holds */
	unsigned long free;  /* huge pages of the host's reserve, before */
	struct image *out;   /* published by the act */
};

struct scenario {
	const char *name;
	enum page_size page_size;
	enum fault_choice faults;
	void (*build)(struct env *e);
	/* 0 or -errno; leaves its results in the env. */
	int (*act)(struct env *e);
	unsigned meets; /* calls that must have been made to fail */
	unsigned least; /* steps there must have been */
	unsigned touch; /* page, for acts that touch one */
	bool populate;
	/* All but the last page is in huge pages that the host has set aside, of 2 MiB. */
	bool hugetlb;
	/* A failed act may leave a block OWNED that was not: within the limit, counted, as good. */
	bool may_own;
	/* The act gives blocks back: one that cannot be punched is retired. */
	bool may_retire;
};

/* --- worlds ---------------------------------------------------------------------------------- */

/* RAM in one region, or in two that touch. `ram` has room for them. */
static struct space_config fresh_config(const struct env *e, struct ram_region *ram)
{
	const uint64_t whole = align_down(RAM, BLOCK);

	ram[0] = ram_at(0, RAM, e->sc->page_size);
	if (e->sc->hugetlb) {
		ram[0] = ram_at(0, whole, PAGE_SIZE_2M);
		ram[1] = ram_at(whole, RAM - whole, PAGE_SIZE_AUTO);
	}
	return (struct space_config){.pool = e->pool,
	                             .ram = ram,
	                             .ram_count = e->sc->hugetlb ? 2 : 1,
	                             .faults = e->sc->faults,
	                             .hugetlb = e->sc->hugetlb,
	                             .populate = e->sc->populate};
}

static void store(struct env *e, unsigned i, unsigned page, uint64_t value)
{
	put(e->s[i], page * PAGE, value);
	e->want[i].word[page] = value;
}

static void build_nothing(struct env *e)
{
	(void)e;
}

static void build_fresh(struct env *e)
{
	struct ram_region ram[2];
	struct space_config c = fresh_config(e, ram);

	e->s[0] = make_space(&c);
}

/* Every block has been touched, none by more than a cluster. */
static void build_written(struct env *e)
{
	build_fresh(e);
	for (unsigned page = 5; page < PAGES; page += 300)
		store(e, 0, page, page);
}

/* The first block has a cluster; the next touch asks for a larger one. */
static void build_cluster(struct env *e)
{
	build_fresh(e);
	store(e, 0, 200, 1);
}

/* A walk: where it goes on, page 256, it makes the first block whole. */
static void build_clusters(struct env *e)
{
	build_cluster(e);
	store(e, 0, 230, 2);
	store(e, 0, 240, 3);
}

/* An image with holes between its extents; what it was made from is gone. */
static void build_image(struct env *e)
{
	static const unsigned pages[] = {3, 4, 100, 101, 102, 300, 511, 1500};

	e->s[1] = new_space(e->pool, RAM, FAULTS_UFFD);
	e->image = publish(e->s[1]);
	space_destroy(e->s[1]);
	e->s[1] = new_clone(e->pool, e->image, FAULTS_KERNEL);
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
		store(e, 1, pages[i], 900 + pages[i]);
	image_put(e->image);
	e->image = publish(e->s[1]);
	e->base = e->want[1];
	space_destroy(e->s[1]);
	e->s[1] = NULL;
}

static void build_clone(struct env *e)
{
	build_image(e);
	e->s[1] = new_clone(e->pool, e->image, e->sc->faults);
}

/* A clone with one private page here and there, and runs of them. */
static void build_private(struct env *e)
{
	build_written(e);
	e->image = publish(e->s[0]);
	e->base = e->want[1] = e->want[0];
	e->s[1] = new_clone(e->pool, e->image, e->sc->faults);
	for (unsigned page = 0; page < 40; page += 4)
		store(e, 1, page, 7000 + page);
	for (unsigned page = 600; page < 620; page++)
		store(e, 1, page, 7000 + page);
}

/* The same and a block with more private runs than is worth packing. */
static void build_scrappy(struct env *e)
{
	build_private(e);
	for (unsigned page = 1024; page < 1536; page += 3)
		store(e, 1, page, 8000 + page);
}

/* Most of a clone is private: more than is worth copying back. */
static void build_dirty(struct env *e)
{
	build_private(e);
	for (unsigned page = 0; page < PAGES; page++)
		if (page % 16)
			store(e, 1, page, 9000 + page);
}

/* A publish that failed late has left a block of a clone copied whole. */
static void build_owned_clone(struct env *e)
{
	struct image *out;

	build_scrappy(e);
	for (unsigned k = 1; space_block_state(e->s[1], (gpa_t){1024 * PAGE}) != BLOCK_OWNED; k++) {
		inject_arm_call(k, INJECT_CALLOC);
		cr_assert_neq(space_publish(e->s[1], NULL, 0, &out), 0);
		inject_disarm();
	}
}

/* A clone with cuts, and pages written over them. */
static void build_cut(struct env *e)
{
	static const struct gpa_range cuts[] = {
		{{0}, 2 * PAGE}, {{290 * PAGE}, 300 * PAGE}, {{1000 * PAGE}, 537 * PAGE}};

	build_private(e);
	for (size_t k = 0; k < sizeof(cuts) / sizeof(cuts[0]); k++) {
		cr_assert_eq(space_discard(e->s[1], cuts[k]), 0);
		for (uint64_t at = cuts[k].start.v; at < gpa_range_end(cuts[k]); at += PAGE)
			e->want[1].word[at / PAGE] = 0;
		store(e, 1, (unsigned)(cuts[k].start.v / PAGE) + 1, 77);
	}
}

/* Read-only pages here and there, private ones among them. */
static void build_protected(struct env *e)
{
	build_private(e);
	for (unsigned page = 0; page < 24; page += 6)
		cr_assert_eq(
			space_protect(e->s[1], (struct gpa_range){{page * PAGE}, PAGE}, PROTECT_RO),
			0);
}

/* A clone of an image that knows only one of its blocks; it has made the others its own. */
static void build_mixed(struct env *e)
{
	struct space *t;

	require_path(FAULTS_UFFD);
	t = new_space(e->pool, RAM, FAULTS_UFFD);
	put(t, 5 * PAGE, 55);
	e->image = publish(t);
	space_destroy(t);
	e->s[1] = new_clone(e->pool, e->image, e->sc->faults);
	e->base.word[5] = e->want[1].word[5] = 55;
	for (unsigned page = 0; page < 20; page += 4)
		store(e, 1, page, 7000 + page);
	store(e, 1, 700, 71);
	store(e, 1, PAGES - 1, 72);
}

static void env_open(struct env *e, const struct scenario *sc)
{
	memset(e, 0, sizeof(*e));
	e->sc = sc;
	e->pool = new_pool(32 * MIB);
	e->free = free_pages(PAGE_SIZE_2M);
	sc->build(e);
}

static void env_audit(const struct env *e)
{
	struct image *images[] = {e->image, e->out};

	expect_sound(&(struct world){e->pool, e->s, SPACES, images, 2});
}

/* Blocks of all spaces that are OWNED. */
static uint64_t owned_blocks(const struct env *e)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < SPACES; i++)
		if (e->s[i])
			n += count_owned(e->s[i], RAM);
	return n;
}

static void expect_memory(struct space *s, const struct memory *want)
{
	uint64_t page[PAGE / 8];

	for (unsigned i = 0; i < PAGES; i++) {
		cr_assert_eq(space_read(s, (gpa_t){i * PAGE}, page, PAGE), 0);
		cr_assert_eq(page[0], want->word[i], "page %u: %lu, not %lu", i,
		             (unsigned long)page[0], (unsigned long)want->word[i]);
		cr_assert_eq(first_nonzero(page + 1, PAGE - 8), PAGE - 8, "page %u", i);
	}
}

static void expect_contents(const struct env *e)
{
	for (unsigned i = 0; i < SPACES; i++)
		if (e->s[i])
			expect_memory(e->s[i], &e->want[i]);
	if (e->out) {
		struct space *clone = new_clone(e->pool, e->out, FAULTS_KERNEL);

		expect_memory(clone, &e->want[e->image ? 1 : 0]);
		space_destroy(clone);
	}
}

/* Everything can still be written to and taken down; no frame is left. */
static void env_close(struct env *e)
{
	struct pool_stats st;
	const struct gpa_range all = {{0}, RAM};

	for (unsigned i = 0; i < SPACES; i++)
		if (e->s[i])
			cr_assert_eq(space_protect(e->s[i], all, PROTECT_RW), 0);
	for (unsigned i = 0; i < SPACES; i++) {
		for (unsigned page = 0; e->s[i] && page < PAGES; page += 7)
			store(e, i, page, page + 1);
		if (e->s[i])
			expect_memory(e->s[i], &e->want[i]);
	}
	env_audit(e);
	for (unsigned i = 0; i < SPACES; i++)
		space_destroy(e->s[i]);
	image_put(e->image);
	image_put(e->out);
	if (e->sc->hugetlb)
		cr_assert_eq(free_pages(PAGE_SIZE_2M), e->free);
	pool_stats(e->pool, &st);
	if (e->sc->may_retire && st.retired_frames > 0) {
		cr_assert_eq(inject_failed_call(), INJECT_FALLOCATE);
		cr_assert_eq(st.retired_frames, 512);
		cr_assert_eq(st.used_frames, 0);
		cr_assert_eq(pool_audit(e->pool), 0);
		pool_put(e->pool);
		return;
	}
	expect_all_gone(e->pool);
}

static int act_publish(struct env *e);

/* --- the loop -------------------------------------------------------------------------------- */

static void check_failed(struct env *e, unsigned k, int r, uint64_t used, uint64_t owned)
{
	const char *call = inject_name(inject_failed_call());
	uint64_t now = used_frames(e->pool), grown = 512 * (owned_blocks(e) - owned);

	cr_assert_null(e->out, "%s: step %u, %s", e->sc->name, k, call);
	if (!e->sc->may_own)
		cr_assert_eq(grown, 0, "%s: step %u, %s: a block changed", e->sc->name, k, call);
	cr_assert_eq(now, used + grown, "%s: step %u, %s failed (%d): %lu frames were %lu",
	             e->sc->name, k, call, r, (unsigned long)now, (unsigned long)used);
	env_audit(e);
	expect_contents(e);
	/* A block left half way would lose this. */
	for (unsigned i = 0; i < SPACES && e->sc->act == act_publish; i++)
		for (unsigned page = 8; e->s[i] && page < PAGES; page += 76) {
			struct violation v = {{page * PAGE}, ACCESS_WRITE};

			if (e->s[i]->guard.count > 0)
				break;
			cr_assert_eq(space_violation(e->s[i], v), OUTCOME_RESOLVED);
			store(e, i, page, page + 3);
		}
	r = e->sc->act(e);
	cr_assert_eq(r, 0, "%s: step %u, %s failed; done again: %s", e->sc->name, k, call,
	             strerror(-r));
}

/* Return: true when the act has fewer than k steps. */
static bool fail_step(const struct scenario *sc, unsigned k, unsigned *met)
{
	static struct env e;
	uint64_t used, owned;
	unsigned steps;
	bool fired;
	int r;

	env_open(&e, sc);
	used = used_frames(e.pool);
	owned = owned_blocks(&e);
	inject_arm(k);
	r = sc->act(&e);
	steps = inject_disarm();
	fired = inject_fired();
	cr_assert_eq(fired, steps >= k, "%s: step %u of %u", sc->name, k, steps);
	if (fired)
		*met |= 1u << inject_failed_call();
	else
		cr_assert_eq(r, 0, "%s: nothing failed: %s", sc->name, strerror(-r));
	if (r)
		check_failed(&e, k, r, used, owned);
	env_audit(&e);
	expect_contents(&e);
	env_close(&e);
	return !fired;
}

/* With frames in a file that has huge pages, where such a one can be had, and in one without. */
static void run_scenario(const struct scenario *sc)
{
	unsigned met = 0;

	require_path(sc->faults);
	for (int plain = 0; plain < 2; plain++) {
		unsigned k = 1;

		inject_plain_pools(plain);
		while (!fail_step(sc, k, &met)) {
			k += STRIDE;
			cr_assert_lt(k, STEPS_MAX);
		}
		cr_assert_geq(k + STRIDE - 2, sc->least, "%s has only %u steps", sc->name, k - 1);
	}
	inject_plain_pools(false);
	for (unsigned c = 0; c < INJECT_MUNMAP && STRIDE == 1; c++)
		cr_assert(!(sc->meets & ~met & 1u << c), "%s never met %s", sc->name,
		          inject_name((enum inject_call)c));
}

/* --- acts ------------------------------------------------------------------------------------ */

static int act_pool(struct env *e)
{
	struct pool *p = NULL;
	int r = pool_create(4 * MIB, &p);

	(void)e;
	if (r == 0)
		pool_put(p);
	return r;
}

static int act_create(struct env *e)
{
	struct ram_region ram[2];
	struct space_config c = fresh_config(e, ram);

	return space_create(&c, &e->s[0]);
}

static int act_clone(struct env *e)
{
	struct space_config c = {.pool = e->pool, .image = e->image, .faults = e->sc->faults};

	return space_create(&c, &e->s[1]);
}

static int act_violation(struct env *e)
{
	struct space *s = e->s[1] ? e->s[1] : e->s[0];
	gpa_t a = {(e->sc->touch + 1) * PAGE - 1};

	switch (space_violation(s, (struct violation){a, ACCESS_WRITE})) {
	case OUTCOME_RESOLVED:
		return 0;
	case OUTCOME_RETRY:
		return -EAGAIN;
	case OUTCOME_NOMEM:
		return -ENOMEM;
	case OUTCOME_MMIO:
	case OUTCOME_DENIED:
		break;
	}
	cr_assert_fail("not an outcome of RAM");
	return -EFAULT;
}

/* Bytes that are there already: what is written is what is expected. */
static int act_write(struct env *e)
{
	unsigned i = e->s[1] ? 1 : 0;
	uint64_t buf[2 * PAGE / 8] = {e->want[i].word[511]};

	buf[PAGE / 8] = e->want[i].word[512];
	return space_write(e->s[i], (gpa_t){511 * PAGE}, buf, sizeof(buf));
}

static int act_publish(struct env *e)
{
	return space_publish(e->s[1] ? e->s[1] : e->s[0], "state", 6, &e->out);
}

static int act_publish_ahead(struct env *e)
{
	int r = space_publish_ahead(e->s[1]);

	return r < 0 ? r : 0;
}

static int act_copy_ahead(struct env *e)
{
	return space_copy_ahead(e->s[1], 4);
}

/* Back to what the image has, or to nothing. */
static int act_reset(struct env *e)
{
	unsigned i = e->s[1] ? 1 : 0;
	int r = space_reset(e->s[i]);

	if (r)
		return r;
	if (i == 0)
		memset(&e->want[0], 0, sizeof(e->want[0]));
	else
		memcpy(&e->want[1], &e->base, sizeof(e->base));
	return 0;
}

/* Parts of two blocks, and all of the third. */
static int act_discard(struct env *e)
{
	unsigned i = e->s[1] ? 1 : 0;
	const struct gpa_range r = {{99 * PAGE}, (1536 - 99) * PAGE};
	int x = space_discard(e->s[i], r);

	for (unsigned page = 99; x == 0 && page < 1536; page++)
		e->want[i].word[page] = 0;
	return x;
}

/* Parts of two blocks and all of a third, some of it forbidden before; then open again. */
static int act_protect(struct env *e)
{
	struct space *s = e->s[1] ? e->s[1] : e->s[0];
	const struct gpa_range r = {{99 * PAGE}, 1200 * PAGE};
	int x = space_protect(s, r, PROTECT_NONE);
	uint64_t stop;

	if (x) {
		cr_assert_eq(space_protection(s, (gpa_t){100 * PAGE}, RAM, &stop), PROTECT_RW);
		return x;
	}
	cr_assert_eq(space_violation(s, (struct violation){{100 * PAGE}, ACCESS_READ}),
	             OUTCOME_DENIED);
	x = space_protect(s, r, PROTECT_RW);
	if (x == 0)
		return 0;
	cr_assert_eq(space_protection(s, (gpa_t){100 * PAGE}, RAM, &stop), PROTECT_NONE);
	cr_assert_eq(stop, 1299 * PAGE);
	cr_assert_eq(space_protect(s, r, PROTECT_RW), 0);
	return x;
}

/* Parts of two blocks and all of a third. */
static int act_populate(struct env *e)
{
	return space_populate(e->s[1] ? e->s[1] : e->s[0],
	                      (struct gpa_range){{99 * PAGE}, 1200 * PAGE});
}

static int act_with_state(struct env *e)
{
	return image_with_state(e->image, "other", 6, &e->out);
}

/* --- the table ------------------------------------------------------------------------------- */

#define UFFD   .faults = FAULTS_UFFD
#define KERNEL .faults = FAULTS_KERNEL

static const struct scenario scenarios[] = {
	{"pool_create", KERNEL, build_nothing, act_pool, .least = 6,
         .meets = MET(CALLOC) | MET(FSOPEN) | MET(MEMFD_CREATE) | MET(FTRUNCATE) | MET(MMAP) |
                  MET(MADVISE)},
	{"create, kernel", KERNEL, build_nothing, act_create, .least = 4,
         .meets = MET(CALLOC) | MET(MMAP) | MET(MADVISE)},
	{"create, uffd", UFFD, build_nothing, act_create, .least = 8,
         .meets = MET(CALLOC) | MET(MMAP) | MET(IOCTL) | MET(EVENTFD) | MET(PTHREAD_CREATE)},
	{"create, populated by 4K, kernel", KERNEL, build_nothing, act_create, .least = 8,
         .populate = true, .page_size = PAGE_SIZE_4K, .meets = MET(MADVISE) | MET(MMAP)},
	{"create, populated, kernel", KERNEL, build_nothing, act_create, .least = 8,
         .populate = true, .meets = MET(MADVISE) | MET(MMAP)},
	{"create, populated by 4K, uffd", UFFD, build_nothing, act_create, .least = 10,
         .populate = true, .page_size = PAGE_SIZE_4K, .meets = MET(MADVISE) | MET(IOCTL)},
	{"clone, kernel", KERNEL, build_image, act_clone, .least = 8,
         .meets = MET(CALLOC) | MET(MMAP)},
	{"clone, uffd", UFFD, build_image, act_clone, .least = 8,
         .meets = MET(CALLOC) | MET(MMAP) | MET(IOCTL) | MET(EVENTFD) | MET(PTHREAD_CREATE)},

	{"violation: new cluster", UFFD, build_fresh, act_violation, .least = 3, .touch = 300,
         .may_own = true, .meets = MET(MMAP) | MET(IOCTL)},
	{"violation: new block of 4K", UFFD, build_fresh, act_violation, .least = 1, .touch = 300,
         .may_own = true, .page_size = PAGE_SIZE_4K, .meets = MET(MMAP)},
	{"violation: new cluster at the end", UFFD, build_fresh, act_violation, .least = 3,
         .touch = PAGES - 1, .may_own = true, .meets = MET(MMAP) | MET(IOCTL)},
	{"violation: second cluster", UFFD, build_cluster, act_violation, .least = 1, .touch = 320,
         .meets = MET(IOCTL)},
	{"violation: promotion", UFFD, build_clusters, act_violation, .least = 2, .touch = 256,
         .meets = MET(IOCTL) | MET(MADVISE)},
	{"violation: image block", UFFD, build_clone, act_violation, .least = 8, .touch = 511,
         .meets = MET(MMAP) | MET(IOCTL)},
	{"violation: image block, low page", UFFD, build_clone, act_violation, .least = 8,
         .touch = 50, .meets = MET(MMAP) | MET(IOCTL)},
	{"violation: image block, high extent", UFFD, build_clone, act_violation, .least = 2,
         .touch = 1535, .meets = MET(MMAP) | MET(IOCTL)},
	{"violation: block unknown to the image", UFFD, build_clone, act_violation, .least = 3,
         .touch = 700, .may_own = true, .meets = MET(MMAP) | MET(IOCTL)},
	{"write over two blocks", UFFD, build_fresh, act_write, .least = 5, .may_own = true,
         .meets = MET(MMAP)},
	{"write to an image block", UFFD, build_clone, act_write, .least = 8, .may_own = true,
         .meets = MET(MMAP)},

	{"publish: owned, kernel", KERNEL, build_written, act_publish, .least = 5,
         .meets = MET(REALLOC) | MET(MALLOC) | MET(CALLOC) | MET(MMAP)},
	{"publish: owned, uffd", UFFD, build_written, act_publish, .least = 5,
         .meets = MET(REALLOC) | MET(MALLOC) | MET(CALLOC) | MET(MMAP)},
	{"publish: clusters, uffd", UFFD, build_clusters, act_publish, .least = 5,
         .meets = MET(REALLOC) | MET(MALLOC) | MET(CALLOC) | MET(MMAP)},
	{"publish: private, kernel", KERNEL, build_private, act_publish, .least = 15,
         .meets = MET(OPEN) | MET(IOCTL) | MET(REALLOC) | MET(MALLOC) | MET(MMAP)},
	{"publish: private, uffd", UFFD, build_private, act_publish, .least = 15,
         .meets = MET(OPEN) | MET(IOCTL) | MET(REALLOC) | MET(MALLOC) | MET(MMAP)},
	{"publish: scrappy, kernel", KERNEL, build_scrappy, act_publish, .least = 18,
         .may_own = true, .meets = MET(OPEN) | MET(IOCTL) | MET(REALLOC) | MET(PREAD) | MET(MMAP)},
	{"publish: scrappy, uffd", UFFD, build_scrappy, act_publish, .least = 18, .may_own = true,
         .meets = MET(OPEN) | MET(IOCTL) | MET(REALLOC) | MET(PREAD) | MET(MMAP)},
	{"publish: owned and private", UFFD, build_mixed, act_publish, .least = 10,
         .meets = MET(OPEN) | MET(IOCTL) | MET(REALLOC) | MET(MALLOC) | MET(MMAP)},
	{"publish ahead: kernel", KERNEL, build_scrappy, act_publish_ahead, .least = 8,
         .meets = MET(OPEN) | MET(IOCTL) | MET(REALLOC) | MET(CALLOC) | MET(MADVISE)},
	{"publish ahead: uffd", UFFD, build_scrappy, act_publish_ahead, .least = 8,
         .meets = MET(OPEN) | MET(IOCTL) | MET(REALLOC) | MET(CALLOC) | MET(MADVISE)},
	{"publish ahead: copies, kernel", KERNEL, build_scrappy, act_copy_ahead, .least = 6,
         .may_own = true, .meets = MET(OPEN) | MET(IOCTL) | MET(REALLOC) | MET(PREAD) | MET(MMAP)},
	{"publish ahead: copies, uffd", UFFD, build_scrappy, act_copy_ahead, .least = 6,
         .may_own = true, .meets = MET(OPEN) | MET(IOCTL) | MET(REALLOC) | MET(PREAD) | MET(MMAP)},
	{"reset: owned, kernel", KERNEL, build_written, act_reset, .least = 1,
         .meets = MET(FALLOCATE)},
	{"reset: owned, uffd", UFFD, build_written, act_reset, .least = 2, .may_retire = true,
         .meets = MET(MMAP) | MET(IOCTL)},
	{"reset: clusters, uffd", UFFD, build_clusters, act_reset, .least = 2, .may_retire = true,
         .meets = MET(MMAP) | MET(IOCTL)},
	{"reset: few private, kernel", KERNEL, build_private, act_reset, .least = 3,
         .meets = MET(OPEN) | MET(IOCTL) | MET(REALLOC)},
	{"reset: many private, kernel", KERNEL, build_dirty, act_reset, .least = 10,
         .meets = MET(OPEN) | MET(IOCTL) | MET(REALLOC) | MET(MADVISE)},
	{"reset: many private, uffd", UFFD, build_dirty, act_reset, .least = 10,
         .meets = MET(OPEN) | MET(IOCTL) | MET(REALLOC) | MET(MADVISE)},
	{"reset: owned and private", UFFD, build_mixed, act_reset, .least = 5, .may_retire = true,
         .meets = MET(OPEN) | MET(IOCTL) | MET(REALLOC) | MET(MMAP)},
	{"reset: owned over an image, kernel", KERNEL, build_owned_clone, act_reset, .least = 5,
         .may_retire = true, .meets = MET(OPEN) | MET(IOCTL) | MET(MMAP)},
	{"reset: cuts, kernel", KERNEL, build_cut, act_reset, .least = 8,
         .meets = MET(OPEN) | MET(IOCTL) | MET(REALLOC) | MET(MMAP)},
	{"reset: cuts, uffd", UFFD, build_cut, act_reset, .least = 8,
         .meets = MET(OPEN) | MET(IOCTL) | MET(REALLOC) | MET(MMAP)},
	{"discard: owned, kernel", KERNEL, build_written, act_discard, .least = 3,
         .meets = MET(FALLOCATE)},
	{"discard: owned, uffd", UFFD, build_written, act_discard, .least = 5, .may_retire = true,
         .meets = MET(FALLOCATE) | MET(MMAP) | MET(IOCTL)},
	{"discard: clusters, uffd", UFFD, build_clusters, act_discard, .least = 1,
         .meets = MET(FALLOCATE)},
	{"discard: private, kernel", KERNEL, build_private, act_discard, .least = 4,
         .meets = MET(REALLOC) | MET(MMAP)},
	{"discard: private, uffd", UFFD, build_private, act_discard, .least = 4,
         .meets = MET(REALLOC) | MET(MMAP)},
	{"discard: owned and private", UFFD, build_mixed, act_discard, .least = 5,
         .may_retire = true, .meets = MET(REALLOC) | MET(MMAP) | MET(IOCTL) | MET(FALLOCATE)},
	{"discard: not decided yet", UFFD, build_clone, act_discard, .least = 1,
         .meets = MET(REALLOC)},
	{"protect: owned, kernel", KERNEL, build_written, act_protect, .least = 3,
         .meets = MET(REALLOC) | MET(MPROTECT)},
	{"protect: owned, uffd", UFFD, build_written, act_protect, .least = 3,
         .meets = MET(REALLOC) | MET(MPROTECT)},
	{"protect: fresh, uffd", UFFD, build_fresh, act_protect, .least = 6, .may_own = true,
         .meets = MET(REALLOC) | MET(MPROTECT) | MET(MMAP) | MET(IOCTL)},
	{"protect: private, kernel", KERNEL, build_private, act_protect, .least = 3,
         .meets = MET(REALLOC) | MET(MPROTECT)},
	{"protect: not decided yet", UFFD, build_clone, act_protect, .least = 8, .may_own = true,
         .meets = MET(REALLOC) | MET(MPROTECT) | MET(MMAP) | MET(IOCTL)},
	{"reset: with protections, kernel", KERNEL, build_protected, act_reset, .least = 3,
         .meets = MET(OPEN) | MET(IOCTL) | MET(MADVISE)},
	{"reset: with protections, uffd", UFFD, build_protected, act_reset, .least = 3,
         .meets = MET(OPEN) | MET(IOCTL) | MET(MADVISE)},
	{"publish: with protections, kernel", KERNEL, build_protected, act_publish, .least = 15,
         .meets = MET(OPEN) | MET(IOCTL) | MET(REALLOC) | MET(MALLOC) | MET(MMAP)},
	{"populate: fresh, uffd", UFFD, build_fresh, act_populate, .least = 6, .may_retire = true,
         .may_own = true, .meets = MET(CALLOC) | MET(MADVISE) | MET(MMAP)},
	{"populate: fresh 4K, uffd", UFFD, build_fresh, act_populate, .least = 6,
         .may_retire = true, .may_own = true, .page_size = PAGE_SIZE_4K,
         .meets = MET(CALLOC) | MET(MADVISE) | MET(MMAP)},
	{"populate: clusters, uffd", UFFD, build_clusters, act_populate, .least = 6,
         .may_retire = true, .may_own = true, .meets = MET(CALLOC) | MET(MADVISE) | MET(MMAP)},
	{"populate: written, kernel", KERNEL, build_written, act_populate, .least = 4,
         .meets = MET(CALLOC) | MET(MADVISE)},
	{"populate: private, kernel", KERNEL, build_private, act_populate, .least = 4,
         .meets = MET(CALLOC) | MET(MADVISE)},
	{"populate: image, uffd", UFFD, build_clone, act_populate, .least = 8, .may_retire = true,
         .may_own = true, .meets = MET(CALLOC) | MET(MADVISE) | MET(MMAP) | MET(IOCTL)},
	{"hugetlb: create, kernel", KERNEL, build_nothing, act_create, .least = 8, .hugetlb = true,
         .meets = MET(CALLOC) | MET(MEMFD_CREATE) | MET(FTRUNCATE) | MET(MMAP) | MET(FALLOCATE)},
	{"hugetlb: create, uffd", UFFD, build_nothing, act_create, .least = 8, .hugetlb = true,
         .meets = MET(CALLOC) | MET(MEMFD_CREATE) | MET(FTRUNCATE) | MET(MMAP) | MET(IOCTL)},
	{"hugetlb: create, populated, uffd", UFFD, build_nothing, act_create, .least = 8,
         .hugetlb = true, .populate = true, .meets = MET(FALLOCATE) | MET(MMAP)},
	{"hugetlb: violation", UFFD, build_fresh, act_violation, .least = 2, .touch = 700,
         .hugetlb = true, .meets = MET(FALLOCATE) | MET(MMAP)},
	{"hugetlb: populate", UFFD, build_fresh, act_populate, .least = 7, .hugetlb = true,
         .may_own = true, .meets = MET(CALLOC) | MET(FALLOCATE) | MET(MMAP)},
	{"hugetlb: publish, kernel", KERNEL, build_written, act_publish, .least = 15,
         .hugetlb = true, .may_own = true,
         .meets = MET(CALLOC) | MET(IOCTL) | MET(MMAP) | MET(REALLOC) | MET(MALLOC)},
	{"hugetlb: publish, uffd", UFFD, build_written, act_publish, .least = 15, .hugetlb = true,
         .may_own = true,
         .meets = MET(CALLOC) | MET(IOCTL) | MET(MMAP) | MET(REALLOC) | MET(MALLOC)},
	{"hugetlb: protect, kernel", KERNEL, build_written, act_protect, .least = 8,
         .hugetlb = true, .may_own = true,
         .meets = MET(CALLOC) | MET(IOCTL) | MET(MMAP) | MET(MPROTECT)},
	{"hugetlb: protect, uffd", UFFD, build_written, act_protect, .least = 8, .hugetlb = true,
         .may_own = true, .meets = MET(CALLOC) | MET(IOCTL) | MET(MMAP) | MET(MPROTECT)},
	{"hugetlb: discard, kernel", KERNEL, build_written, act_discard, .least = 2,
         .hugetlb = true, .meets = MET(MMAP) | MET(FALLOCATE)},
	{"hugetlb: discard, uffd", UFFD, build_written, act_discard, .least = 3, .hugetlb = true,
         .meets = MET(MMAP) | MET(IOCTL) | MET(FALLOCATE)},
	{"hugetlb: reset, kernel", KERNEL, build_written, act_reset, .least = 1, .hugetlb = true,
         .meets = MET(FALLOCATE)},
	{"hugetlb: reset, uffd", UFFD, build_written, act_reset, .least = 8, .hugetlb = true,
         .may_retire = true, .meets = MET(MMAP) | MET(IOCTL) | MET(FALLOCATE)},
	{"image_with_state", KERNEL, build_image, act_with_state, .least = 4,
         .meets = MET(CALLOC) | MET(MALLOC)},
};

#define SCENARIOS (sizeof(scenarios) / sizeof(scenarios[0]))

static void run_named(const char *prefix)
{
	unsigned n = 0;

	for (size_t i = 0; i < SCENARIOS; i++) {
		if (strncmp(scenarios[i].name, prefix, strlen(prefix)))
			continue;
		run_scenario(&scenarios[i]);
		n++;
	}
	cr_assert_gt(n, 0);
}

TestSuite(inject, .timeout = 120, .fini = release_pages);

/* Some worlds need a template filled by uffd: without it the test is skipped, with the reason. */
Test(inject, pool_create)
{
	run_named("pool_create");
}

Test(inject, create)
{
	run_named("create");
}

Test(inject, clone)
{
	require_path(FAULTS_UFFD);
	run_named("clone");
}

Test(inject, violation)
{
	run_named("violation");
}

Test(inject, host_write)
{
	run_named("write");
}

Test(inject, publish)
{
	run_named("publish:");
}

Test(inject, publish_ahead)
{
	run_named("publish ahead:");
}

Test(inject, reset)
{
	run_named("reset");
}

Test(inject, discard)
{
	run_named("discard");
}

Test(inject, protect)
{
	run_named("protect");
}

Test(inject, populate)
{
	run_named("populate");
}

Test(inject, hugetlb)
{
	require_path(FAULTS_UFFD);
	reserve_pages(PAGE_SIZE_2M, 4);
	run_named("hugetlb:");
	release_pages();
}

Test(inject, image_with_state)
{
	require_path(FAULTS_UFFD);
	run_named("image_with_state");
}

/* Every call of mm/ that can be made to fail is met by some scenario, by its own account. */
Test(inject, every_call_is_met)
{
	unsigned all = 0;

	for (size_t i = 0; i < SCENARIOS; i++)
		all |= scenarios[i].meets;
	/*
	 * But for punches, that is no failure of an act (unpunched_block_is_retired), and for what
	 * only a pool with huge pages does, see watched::each_step_fails.
	 */
	cr_assert_eq(all | MET(FALLOCATE) | MET(MREMAP), (1u << INJECT_OPENAT) - 1);
}

Test(inject, pagemap_by_words)
{
	struct page_runs runs = {0};
	uint8_t *at = malloc(64 * PAGE);
	unsigned k = 0;
	int r;

	cr_assert_not_null(at);
	memset(at, 1, 64 * PAGE);
	do {
		inject_arm(++k);
		r = pagemap_private(align_up((uintptr_t)at, PAGE), 60 * PAGE, PAGEMAP_WORDS, &runs);
		inject_disarm();
		cr_assert_eq(r != 0, inject_fired());
		cr_assert(r == 0 || r == -EMFILE || r == -EIO || r == -ENOMEM);
		if (r == 0)
			cr_assert_eq(page_runs_pages(&runs), 60);
		page_runs_fini(&runs);
	} while (r && k < 10);
	cr_assert_eq(r, 0);
	cr_assert_eq(inject_failures(INJECT_OPEN), 1);
	cr_assert_eq(inject_failures(INJECT_PREAD), 1);
	cr_assert_eq(inject_failures(INJECT_REALLOC), 1);
	free(at);
}

/* The end of a family while one punch after the other fails: audits stay clean. */
Test(inject, failed_punches_at_the_end)
{
	static const struct scenario sc = {"end", KERNEL, build_scrappy, act_publish, .least = 0};
	static struct env e;

	for (unsigned k = 1; k < 20; k++) {
		struct pool_stats st;
		unsigned n;

		env_open(&e, &sc);
		cr_assert_eq(act_publish(&e), 0);
		inject_arm_call(k, INJECT_FALLOCATE);
		for (unsigned i = 0; i < SPACES; i++)
			space_destroy(e.s[i]);
		image_put(e.image);
		image_put(e.out);
		n = inject_disarm();
		cr_assert_eq(pool_audit(e.pool), 0);
		pool_stats(e.pool, &st);
		cr_assert_eq(st.used_frames, 0);
		cr_assert_eq(st.retired_frames > 0, inject_fired());
		pool_put(e.pool);
		if (k > n) {
			cr_assert_gt(k, 3);
			return;
		}
	}
	cr_assert_fail("more blocks than there can be");
}
