// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_reset_again.c - resets of a space whose faults are its process's own: when
 * nothing has faulted in between, what stayed private is not looked for; whoever faults is noticed.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/space.h"
#include "tests/unit/helpers.h"
#include "tests/unit/inject.h"

#define RAM (8 * MIB)
#define TAG 900u

struct bed {
	struct pool *pool;
	struct image *image;
	struct space *s;
};

/* The same bytes in a file, as another process would have them: every block an extent. */
static struct image *in_file(const struct image *image)
{
	struct ram_region ram = ram_at(0, RAM, PAGE_SIZE_AUTO);
	struct extent extents[RAM / BLOCK];
	struct image_parts parts = {
		.ram = &ram, .ram_count = 1, .extents = extents, .extent_count = RAM / BLOCK};
	int fd = memfd_create("image", MFD_CLOEXEC);
	size_t count;
	const struct run *run = image_runs(image, &count);
	uint8_t *bytes = malloc(RAM);
	struct store *store;
	struct image *out;

	cr_assert(bytes && fd >= 0 && count == 1 && run[0].pages == RAM / PAGE);
	cr_assert_eq(store_read(run[0].store, run[0].frame, run[0].pages, bytes), 0);
	cr_assert_eq(write(fd, bytes, RAM), (ssize_t)RAM);
	free(bytes);
	cr_assert_eq(store_open_file(fd, RAM, &store), 0);
	for (uint32_t i = 0; i < RAM / BLOCK; i++)
		extents[i] = (struct extent){.gpa = {i * BLOCK},
		                             .pages = MM_BLOCK_PAGES,
		                             .store = store,
		                             .frame = {i * (uint32_t)MM_BLOCK_PAGES}};
	cr_assert_eq(image_create(&parts, &out), 0);
	store_put(store);
	return out;
}

static struct bed make_bed(bool file)
{
	struct bed b = {.pool = new_pool(32 * MIB)};
	struct space *s = new_space(b.pool, RAM, FAULTS_KERNEL);
	struct space_config c = {.pool = b.pool, .faults = FAULTS_KERNEL, .own_faults = true};

	tag_pages(s, 0, RAM, TAG);
	b.image = publish(s);
	space_destroy(s);
	if (file) {
		struct image *image = in_file(b.image);

		image_put(b.image);
		b.image = image;
	}
	c.image = b.image;
	b.s = make_space(&c);
	return b;
}

static void free_bed(struct bed *b)
{
	image_put(b->image);
	space_destroy(b->s);
	expect_all_gone(b->pool);
}

/* Return: how often private pages were looked for, which takes the opening of a file. */
static unsigned reset(struct space *s)
{
	unsigned before;
	int e;

	inject_arm(0);
	before = inject_reached(INJECT_OPEN);
	e = space_reset(s);
	before = inject_reached(INJECT_OPEN) - before;
	inject_disarm();
	cr_assert_eq(e, 0);
	return before;
}

static void expect_image(struct space *s)
{
	for (uint64_t at = 0; at < RAM; at += PAGE) {
		const uint64_t *word = (const uint64_t *)space_hva(s, (gpa_t){at}).v;

		cr_assert_eq(word[0], TAG + at / PAGE, "at %#lx", at);
		for (unsigned i = 1; i < PAGE / 8; i++)
			cr_assert_eq(word[i], 0, "at %#lx, word %u: %lx", at, i, word[i]);
	}
}

static void store_at(struct space *s, uint64_t at)
{
	*(volatile uint64_t *)(space_hva(s, (gpa_t){at}).v + 8) = ~UINT64_C(0);
}

static void steady(bool file)
{
	struct bed b = make_bed(file);
	unsigned scans = 0;

	expect_image(b.s);
	for (unsigned round = 0; round < 50; round++) {
		for (uint64_t at = 0; at < RAM; at += 37 * PAGE)
			store_at(b.s, at);
		scans += reset(b.s);
		expect_image(b.s);
	}
	/* The first, and where this process happened to fault over something of its own. */
	cr_assert(scans >= 1 && scans <= 40, "%u", scans);
	free_bed(&b);
}

Test(reset_again, same_pages)
{
	steady(false);
}

Test(reset_again, same_pages_of_a_file)
{
	steady(true);
}

/* ---- whoever makes a page private ---- */

static void by_this_thread(struct space *s, uint64_t at)
{
	store_at(s, at);
}

struct errand {
	struct space *s;
	uint64_t at;
};

static void *errand(void *arg)
{
	const struct errand *e = arg;

	store_at(e->s, e->at);
	return NULL;
}

static void by_another_thread(struct space *s, uint64_t at)
{
	struct errand e = {s, at};
	pthread_t t;

	cr_assert_eq(pthread_create(&t, NULL, errand, &e), 0);
	cr_assert_eq(pthread_join(t, NULL), 0);
}

/* The kernel copies to the page, in a system call. */
static void by_the_kernel(struct space *s, uint64_t at)
{
	static const char bytes[] = "through a pipe";
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	cr_assert_eq(write(ends[1], bytes, sizeof(bytes)), (ssize_t)sizeof(bytes));
	cr_assert_eq(read(ends[0], (void *)(space_hva(s, (gpa_t){at}).v + 64), sizeof(bytes)),
	             (ssize_t)sizeof(bytes));
	close(ends[0]);
	close(ends[1]);
}

/* The kernel takes the page without a fault of a CPU's, as KVM does. */
static void by_populating(struct space *s, uint64_t at)
{
	uint8_t *page = (uint8_t *)space_hva(s, (gpa_t){at}).v;

	cr_assert_eq(madvise(page, PAGE, 23 /* MADV_POPULATE_WRITE */), 0);
	page[100] = 1;
}

static void by_space_write(struct space *s, uint64_t at)
{
	put(s, at + 8, 5);
}

static void *by_hold(struct space *s, uint64_t at)
{
	struct hold h;

	cr_assert_eq(space_hold(s, (gpa_t){at}, 64, ACCESS_WRITE, &h), 0);
	((uint8_t *)h.ptr)[9] = 1;
	space_release(&h);
	return NULL;
}

static void by_holding(struct space *s, uint64_t at)
{
	(void)by_hold(s, at);
}

Test(reset_again, every_way)
{
	static void (*const ways[])(struct space *, uint64_t) = {
		by_this_thread, by_another_thread, by_the_kernel,
		by_populating,  by_space_write,    by_holding,
	};
	struct bed b = make_bed(false);
	struct rng rng = {test_seed()};

	for (unsigned round = 0; round < 300; round++) {
		unsigned way = round % 6;

		/* One known, one perhaps new; now and then none at all. */
		store_at(b.s, 0);
		if (round % 7)
			ways[way](b.s, rng_below(&rng, RAM / PAGE) * PAGE);
		reset(b.s);
		expect_image(b.s);
	}
	free_bed(&b);
}

/* What was done to the space in between is not what is remembered. */
Test(reset_again, other_operations)
{
	struct bed b = make_bed(false);
	struct gpa_range page = {{5 * PAGE}, PAGE};
	struct image *second;

	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = 0; i < 10; i++)
			store_at(b.s, i * PAGE);
		reset(b.s);
		expect_image(b.s);
		switch (round) {
		case 0:
			cr_assert_eq(space_discard(b.s, page), 0);
			break;
		case 1:
			cr_assert_eq(space_protect(b.s, page, PROTECT_RO), 0);
			cr_assert_eq(space_protect(b.s, page, PROTECT_RW), 0);
			break;
		default:
			break;
		}
		reset(b.s);
		expect_image(b.s);
	}
	store_at(b.s, 0);
	second = publish(b.s);
	reset(b.s);
	cr_assert_eq(*(uint64_t *)(space_hva(b.s, (gpa_t){0}).v + 8), ~UINT64_C(0));
	store_at(b.s, PAGE);
	reset(b.s);
	cr_assert_eq(*(uint64_t *)(space_hva(b.s, (gpa_t){PAGE}).v + 8), 0);
	image_put(second);
	free_bed(&b);
}

/* Of more pages than can stay, those that do are written again without a fault, others with. */
Test(reset_again, more_than_are_kept)
{
	struct bed b = make_bed(false);
	struct space_stats st;

	for (unsigned round = 0; round < 6; round++) {
		uint64_t end = round % 3 == 1 ? RAM / 2 : RAM;

		for (uint64_t at = 0; at < end; at += 2 * PAGE)
			store_at(b.s, at);
		cr_assert_eq(space_stats(b.s, &st), 0);
		cr_assert_eq(st.private_frames, end / (2 * PAGE), "round %u", round);
		reset(b.s);
		expect_image(b.s);
		cr_assert_eq(space_stats(b.s, &st), 0);
		cr_assert_eq(st.private_frames, 0);
		cr_assert_eq(st.kept_frames, 512);
	}
	free_bed(&b);
}
