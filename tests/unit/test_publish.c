// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_publish.c - publish and clone: what is shared, what is copied, who sees what,
 * and families that die in any order.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/space.h"
#include "mm/space_internal.h"
#include "tests/unit/helpers.h"

TestSuite(publish, .timeout = 120);

#define RAM (8 * MIB)

/* A published template whose every page is tagged `tag`. */
static struct space *template(struct pool *pool, enum fault_choice faults, uint64_t tag,
                              struct image **image)
{
	struct space *s = new_space(pool, RAM, faults);

	tag_pages(s, 0, RAM, tag);
	*image = publish(s);
	return s;
}

static size_t extent_count(const struct image *i)
{
	size_t n;

	image_extents(i, &n);
	return n;
}

TEST_BOTH_PATHS(publish, owned_blocks_change_hands_without_a_copy)
{
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = new_space(pool, RAM, faults);
	frame_t before[4];
	const struct extent *e;
	struct image *image;
	uint64_t used, committed;
	size_t n;

	tag_pages(s, 0, RAM, 1);
	for (unsigned i = 0; i < 4; i++)
		before[i] = s->blocks[i].frame;
	used = used_frames(pool);
	committed = committed_frames(pool);
	image = publish(s);
	cr_assert_eq(used_frames(pool), used);
	cr_assert_eq(committed_frames(pool), committed);
	e = image_extents(image, &n);
	cr_assert_eq(n, 4);
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(e[i].frame.n, before[i].n);
		cr_assert_eq(e[i].gpa.v, i * BLOCK);
		cr_assert_eq(e[i].pages, 512);
		cr_assert_eq(pool_refs(pool, before[i]), 1);
		cr_assert_eq(space_block_state(s, e[i].gpa), BLOCK_SHARED);
	}
	image_runs(image, &n);
	cr_assert_eq(n, 1, "neighbours in the guest are neighbours in the pool");
	expect_tags(s, 0, RAM, 1);
	expect_sound(&(struct world){pool, &s, 1, &image, 1});
	image_put(image);
	space_destroy(s);
	expect_all_gone(pool);
}

TEST_BOTH_PATHS(publish, nobody_sees_the_others_writes)
{
	struct pool *pool = new_pool(64 * MIB);
	struct image *image;
	struct space *s[3] = {template(pool, faults, 100, &image)};

	guest_store(s[0], 8, 111);
	s[1] = new_clone(pool, image, faults);
	guest_store(s[0], 16, 222);
	put(s[0], 3 * MIB, 333);
	cr_assert_eq(guest_load(s[1], 8), 0, "written before the clone was made, after the image");
	cr_assert_eq(guest_load(s[1], 16), 0);
	expect_tags(s[1], 0, RAM, 100);
	guest_store(s[1], PAGE, 444);
	put(s[1], 5 * MIB, 555);
	s[2] = new_clone(pool, image, faults);
	expect_tags(s[2], 0, RAM, 100);
	cr_assert_eq(guest_load(s[0], PAGE), 101);
	cr_assert_eq(get(s[0], 5 * MIB), 100 + 5 * MIB / PAGE);
	cr_assert_eq(get(s[0], 3 * MIB), 333);
	expect_sound(&(struct world){pool, s, 3, &image, 1});
	image_put(image);
	for (unsigned i = 0; i < 3; i++)
		space_destroy(s[i]);
	expect_all_gone(pool);
}

/* The VMM's writes break sharing as a guest's do: across pages, blocks and at the end. */
TEST_BOTH_PATHS(publish, host_writes_leave_siblings_alone)
{
	struct pool *pool = new_pool(64 * MIB);
	struct image *image;
	struct space *s[3] = {template(pool, faults, 9, &image), new_clone(pool, image, faults),
	                      new_clone(pool, image, faults)};
	uint8_t junk[3 * PAGE], back[3 * PAGE];
	struct hold h;

	memset(junk, 0xee, sizeof(junk));
	cr_assert_eq(space_write(s[1], (gpa_t){PAGE + 100}, junk, 2 * PAGE), 0);
	cr_assert_eq(space_write(s[1], (gpa_t){BLOCK - 50}, junk, 100), 0);
	cr_assert_eq(space_write(s[1], (gpa_t){RAM - 1}, junk, 1), 0);
	cr_assert_eq(space_hold(s[1], (gpa_t){2 * BLOCK - PAGE}, 2 * PAGE, ACCESS_WRITE, &h), 0);
	memset(h.ptr, 0xdd, h.size);
	space_release(&h);
	for (unsigned i = 0; i < 3; i += 2) {
		expect_tags(s[i], 0, RAM, 9);
		cr_assert_eq(space_read(s[i], (gpa_t){RAM - 1}, back, 1), 0);
		cr_assert_eq(back[0], 0);
	}
	cr_assert_eq(space_read(s[1], (gpa_t){PAGE + 100}, back, 2 * PAGE), 0);
	cr_assert_eq(memcmp(back, junk, 2 * PAGE), 0);
	cr_assert_eq(get(s[1], PAGE), 10, "the rest of a page partly written");
	cr_assert_eq(get(s[1], 2 * BLOCK), UINT64_C(0xdddddddddddddddd));
	cr_assert_eq(private_frames(s[1]), 3 + 2 + 1 + 2);
	image_put(image);
	for (unsigned i = 0; i < 3; i++)
		space_destroy(s[i]);
	expect_all_gone(pool);
}

TEST_BOTH_PATHS(publish, untouched_memory_is_an_empty_image)
{
	struct pool *pool = new_pool(64 * MIB);
	struct space *s[2] = {new_space(pool, RAM, faults)};
	struct image *image = publish(s[0]);

	if (faults == FAULTS_UFFD)
		cr_assert_eq(extent_count(image), 0);
	s[1] = new_clone(pool, image, faults);
	expect_zero(s[1], 0, RAM);
	tag_pages(s[1], 0, RAM, 3);
	expect_zero(s[0], 0, RAM);
	expect_tags(s[1], 0, RAM, 3);
	expect_sound(&(struct world){pool, s, 2, &image, 1});
	image_put(image);
	space_destroy(s[0]);
	space_destroy(s[1]);
	expect_all_gone(pool);
}

/* --- private pages --------------------------------------------------------------------------- */

/* N single pages of a clone become N frames, no more. */
TEST_BOTH_PATHS(publish, private_pages_are_packed)
{
	static const unsigned counts[] = {1, 2, 3, 31, 37};

	for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
		struct pool *pool = new_pool(64 * MIB);
		struct image *images[2];
		struct space *s[3] = {template(pool, faults, 50, &images[0])};
		uint64_t used = used_frames(pool);

		s[1] = new_clone(pool, images[0], faults);
		for (unsigned i = 0; i < counts[c]; i++)
			guest_store(s[1], (uint64_t)i * 13 * PAGE + 64, i + 1);
		cr_assert_eq(private_frames(s[1]), counts[c]);
		images[1] = publish(s[1]);
		cr_assert_eq(used_frames(pool), used + counts[c]);
		cr_assert_eq(committed_frames(pool), used + counts[c]);
		cr_assert_eq(private_frames(s[1]), 0, "the copies have been let go");
		cr_assert_eq(image_pages(images[1]), RAM / PAGE);
		s[2] = new_clone(pool, images[1], faults);
		for (unsigned i = 0; i < counts[c]; i++) {
			cr_assert_eq(guest_load(s[1], (uint64_t)i * 13 * PAGE + 64), i + 1);
			cr_assert_eq(guest_load(s[2], (uint64_t)i * 13 * PAGE + 64), i + 1);
		}
		expect_tags(s[1], 0, RAM, 50);
		expect_tags(s[2], 0, RAM, 50);
		cr_assert_eq(guest_load(s[0], 64), 0);
		expect_sound(&(struct world){pool, s, 3, images, 2});
		for (unsigned i = 0; i < 3; i++)
			space_destroy(s[i]);
		image_put(images[0]);
		image_put(images[1]);
		expect_all_gone(pool);
	}
}

/* A block of which every other page is private is copied whole: one extent, no scraps. */
TEST_BOTH_PATHS(publish, scrappy_block_is_copied_whole)
{
	struct pool *pool = new_pool(64 * MIB);
	struct image *images[2];
	struct space *s[3] = {template(pool, faults, 50, &images[0])};
	uint64_t used = used_frames(pool);
	const struct extent *e;
	size_t n;

	s[1] = new_clone(pool, images[0], faults);
	for (uint64_t a = BLOCK; a < 2 * BLOCK; a += 2 * PAGE)
		guest_store(s[1], a + 8, a);
	guest_store(s[1], 3 * BLOCK + 8, 1);
	images[1] = publish(s[1]);
	cr_assert_eq(used_frames(pool), used + 512 + 1);
	e = image_extents(images[1], &n);
	cr_assert_eq(n, 1 + 1 + 1 + 2, "%zu", n);
	cr_assert(e[1].gpa.v == BLOCK && e[1].pages == 512);
	s[2] = new_clone(pool, images[1], faults);
	for (unsigned i = 1; i < 3; i++) {
		expect_tags(s[i], 0, RAM, 50);
		for (uint64_t a = BLOCK; a < 2 * BLOCK; a += PAGE)
			cr_assert_eq(guest_load(s[i], a + 8), a % (2 * PAGE) ? 0 : a);
		cr_assert_eq(guest_load(s[i], 3 * BLOCK + 8), 1);
	}
	expect_sound(&(struct world){pool, s, 3, images, 2});
	for (unsigned i = 0; i < 3; i++)
		space_destroy(s[i]);
	image_put(images[0]);
	image_put(images[1]);
	expect_all_gone(pool);
}

/* A block copied whole over an image with holes: what was never written reads as zero. */
TEST_BOTH_PATHS(publish, copying_whole_over_holes)
{
	struct pool *pool = new_pool(64 * MIB);
	struct ram_region ram = ram_at(0, RAM, PAGE_SIZE_4K);
	struct space *s[2];
	struct image *images[2];

	s[0] = make_space(&(struct space_config){
		.pool = pool, .ram = &ram, .ram_count = 1, .faults = faults});
	put(s[0], 300 * PAGE, 77);
	images[0] = publish(s[0]);
	s[1] = new_clone(pool, images[0], faults);
	for (uint64_t i = 0; i < 200; i += 2)
		guest_store(s[1], i * PAGE, i + 1);
	images[1] = publish(s[1]);
	cr_assert_eq(extent_count(images[1]), extent_count(images[0]));
	cr_assert_eq(get(s[1], 300 * PAGE), 77);
	for (uint64_t i = 0; i < 200; i++)
		cr_assert_eq(get(s[1], i * PAGE), i % 2 ? 0 : i + 1);
	expect_sound(&(struct world){pool, s, 2, images, 2});
	for (unsigned i = 0; i < 2; i++) {
		space_destroy(s[i]);
		image_put(images[i]);
	}
	expect_all_gone(pool);
}

TEST_BOTH_PATHS(publish, nothing_new_takes_nothing)
{
	struct pool *pool = new_pool(64 * MIB);
	struct image *images[3];
	struct space *s = template(pool, faults, 4, &images[0]);
	uint64_t used = used_frames(pool);

	images[1] = publish(s);
	images[2] = publish(s);
	cr_assert_eq(used_frames(pool), used);
	cr_assert_eq(extent_count(images[2]), extent_count(images[0]));
	expect_tags(s, 0, RAM, 4);
	expect_sound(&(struct world){pool, &s, 1, images, 3});
	for (unsigned i = 0; i < 3; i++)
		image_put(images[i]);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Frames are left, but no two of them are neighbours. */
TEST_BOTH_PATHS(publish, packs_into_a_scattered_pool)
{
	struct pool *pool = new_pool(RAM + 2 * MIB);
	struct image *images[2];
	struct space *s[2] = {template(pool, faults, 4, &images[0])};
	frame_t f[512];

	for (unsigned i = 0; i < 512; i++)
		cr_assert_eq(pool_alloc(pool, 0, FRAME_NONE, &f[i]), 0);
	for (unsigned i = 0; i < 512; i += 2)
		pool_unref(pool, f[i]);
	s[1] = new_clone(pool, images[0], faults);
	for (uint64_t i = 0; i < 200; i++)
		guest_store(s[1], i / 50 * BLOCK + i % 50 * PAGE, i);
	images[1] = publish(s[1]);
	for (uint64_t i = 0; i < 200; i++)
		cr_assert_eq(get(s[1], i / 50 * BLOCK + i % 50 * PAGE), i);
	for (unsigned i = 1; i < 512; i += 2)
		pool_unref(pool, f[i]);
	expect_sound(&(struct world){pool, s, 2, images, 2});
	for (unsigned i = 0; i < 2; i++) {
		space_destroy(s[i]);
		image_put(images[i]);
	}
	expect_all_gone(pool);
}

/* Frames for what is private, but not for a scrappy block as a whole besides: all is packed. */
TEST_BOTH_PATHS(publish, packs_what_it_cannot_afford_to_copy_whole)
{
	struct pool *pool = new_pool(RAM + BLOCK);
	struct image *images[2];
	struct space *s[2] = {template(pool, faults, 4, &images[0])};

	s[1] = new_clone(pool, images[0], faults);
	for (uint64_t i = 0; i < 100; i++)
		guest_store(s[1], i * 2 * PAGE + 8, i);
	for (uint64_t i = 0; i < 5; i++)
		guest_store(s[1], 2 * BLOCK + i * 9 * PAGE + 8, i);
	images[1] = publish(s[1]);
	cr_assert_eq(used_frames(pool), RAM / PAGE + 105);
	expect_tags(s[1], 0, RAM, 4);
	for (uint64_t i = 0; i < 100; i++)
		cr_assert_eq(get(s[1], i * 2 * PAGE + 8), i);
	expect_sound(&(struct world){pool, s, 2, images, 2});
	for (unsigned i = 0; i < 2; i++) {
		space_destroy(s[i]);
		image_put(images[i]);
	}
	expect_all_gone(pool);
}

/* No frame for the copies: nothing happened, and it works once there are some. */
TEST_BOTH_PATHS(publish, out_of_frames_changes_nothing)
{
	struct pool *pool = new_pool(RAM + MIB);
	struct image *image, *none = NULL;
	struct space *s[2] = {template(pool, faults, 4, &image)};
	frame_t all;

	s[1] = new_clone(pool, image, faults);
	cr_assert_eq(pool_alloc(pool, 8, FRAME_NONE, &all), 0);
	for (uint64_t i = 0; i < 5; i++)
		guest_store(s[1], i * MIB, i);
	cr_assert_eq(space_publish(s[1], NULL, 0, &none), -ENOMEM);
	cr_assert_null(none);
	cr_assert_eq(private_frames(s[1]), 5);
	pool_unref(pool, all);
	expect_sound(&(struct world){pool, s, 2, &image, 1});
	none = publish(s[1]);
	for (uint64_t i = 0; i < 5; i++)
		cr_assert_eq(get(s[1], i * MIB), i);
	image_put(none);
	image_put(image);
	space_destroy(s[0]);
	space_destroy(s[1]);
	expect_all_gone(pool);
}

/* --- regions, stores, state ------------------------------------------------------------------ */

/* Several regions, and the last page of each is never written. */
TEST_BOTH_PATHS(publish, regions_with_clean_last_pages)
{
	struct pool *pool = new_pool(64 * MIB);
	struct ram_region ram[] = {ram_at(0, 3 * MIB + PAGE, PAGE_SIZE_AUTO),
	                           ram_at(4 * MIB, 2 * MIB, PAGE_SIZE_4K),
	                           ram_at(GIB, 2 * MIB + 2 * PAGE, PAGE_SIZE_AUTO)};
	struct space *s[3] = {make_space(&(struct space_config){
		.pool = pool, .ram = ram, .ram_count = 3, .faults = faults})};
	struct image *images[2];

	for (unsigned i = 0; i < 3; i++)
		tag_pages(s[0], ram[i].range.start.v, ram[i].range.size - PAGE, 8);
	for (unsigned k = 0; k < 2; k++) {
		images[k] = publish(s[k]);
		s[k + 1] = new_clone(pool, images[k], faults);
		for (unsigned i = 0; i < 3; i++) {
			uint64_t start = ram[i].range.start.v, end = gpa_range_end(ram[i].range);

			expect_tags(s[k + 1], start, ram[i].range.size - PAGE, 8);
			expect_zero(s[k + 1], end - PAGE, PAGE);
			guest_store(s[k + 1], start + PAGE + 8, 1);
		}
	}
	expect_sound(&(struct world){pool, s, 3, images, 2});
	for (unsigned k = 0; k < 3; k++)
		space_destroy(s[k]);
	image_put(images[0]);
	image_put(images[1]);
	expect_all_gone(pool);
}

/* A clone may take its own frames from another pool than its image's. */
TEST_BOTH_PATHS(publish, image_and_clone_of_different_pools)
{
	struct pool *a = new_pool(64 * MIB), *b = new_pool(64 * MIB);
	struct image *images[2];
	struct space *s[2] = {template(a, faults, 6, &images[0])};

	s[1] = new_clone(b, images[0], faults);
	space_destroy(s[0]);
	guest_store(s[1], MIB + 8, 5);
	images[1] = publish(s[1]);
	cr_assert_eq(used_frames(b), 1);
	cr_assert_eq(used_frames(a), RAM / PAGE);
	space_destroy(s[1]);
	image_put(images[0]);
	s[0] = new_clone(a, images[1], faults);
	image_put(images[1]);
	expect_tags(s[0], 0, RAM, 6);
	cr_assert_eq(get(s[0], MIB + 8), 5);
	space_destroy(s[0]);
	expect_all_gone(a);
	expect_all_gone(b);
}

/* An image over a read-only file, with a hole in it, as a saved one is. */
TEST_BOTH_PATHS(publish, clone_of_a_file)
{
	struct pool *pool = new_pool(64 * MIB);
	struct ram_region ram = ram_at(0, RAM, PAGE_SIZE_AUTO);
	struct extent e[2];
	struct image_parts parts = {.ram = &ram, .ram_count = 1, .extents = e, .extent_count = 2};
	struct image *images[2];
	struct space *s[2];
	struct store *file;
	int fd = memfd_create("cowslip-test", MFD_CLOEXEC);
	uint64_t word = 0;

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, 600 * PAGE), 0);
	for (uint64_t i = 0; i < 600; i += i == 100 ? 50 : 1) {
		word = i + 1;
		cr_assert_eq(pwrite(fd, &word, 8, (off_t)(i * PAGE)), 8);
	}
	cr_assert_eq(store_open_file(fd, 600 * PAGE, &file), 0);
	e[0] = (struct extent){{0}, 512, {0}, file};
	e[1] = (struct extent){{2 * BLOCK + 5 * PAGE}, 88, {512}, file};
	cr_assert_eq(image_create(&parts, &images[0]), 0);
	store_put(file);
	s[0] = new_clone(pool, images[0], faults);
	for (uint64_t i = 0; i < 512; i++)
		cr_assert_eq(get(s[0], i * PAGE), i > 100 && i < 150 ? 0 : i + 1);
	for (uint64_t i = 0; i < 88; i++)
		cr_assert_eq(get(s[0], 2 * BLOCK + (5 + i) * PAGE), 513 + i);
	expect_zero(s[0], BLOCK, BLOCK);
	expect_zero(s[0], 2 * BLOCK, 5 * PAGE);
	for (uint64_t i = 0; i < 512; i += 2)
		guest_store(s[0], i * PAGE, 7000 + i);
	images[1] = publish(s[0]);
	image_put(images[0]);
	s[1] = new_clone(pool, images[1], faults);
	for (uint64_t i = 0; i < 512; i++) {
		uint64_t want = i % 2 == 0 ? 7000 + i : i > 100 && i < 150 ? 0 : i + 1;

		cr_assert_eq(get(s[1], i * PAGE), want, "page %lu", (unsigned long)i);
	}
	expect_sound(&(struct world){pool, s, 2, &images[1], 1});
	image_put(images[1]);
	space_destroy(s[0]);
	space_destroy(s[1]);
	expect_all_gone(pool);
}

TEST_BOTH_PATHS(publish, state_goes_with_the_image)
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s = new_space(pool, MIB, faults);
	struct image *image;
	size_t size;

	cr_assert_eq(space_publish(s, "vcpu", 5, &image), 0);
	cr_assert_str_eq(image_state(image, &size), "vcpu");
	cr_assert_eq(size, 5);
	cr_assert_eq(space_image(s), image);
	image_put(image);
	space_destroy(s);
	expect_all_gone(pool);
}

/* --- families -------------------------------------------------------------------------------- */

enum { DEPTH = 20 };

/* Level k has its own word in page k and one page that every level overwrites. */
static void check_level(struct space *s, unsigned level)
{
	for (unsigned k = 0; k < DEPTH; k++)
		cr_assert_eq(get(s, BLOCK + k * 3 * PAGE + 16), k <= level ? k + 1 : 0,
		             "level %u, word %u", level, k);
	cr_assert_eq(get(s, 5 * PAGE + 16), level + 1);
	expect_tags(s, 0, RAM, 30);
}

static void write_level(struct space *s, unsigned level)
{
	guest_store(s, BLOCK + level * 3 * PAGE + 16, level + 1);
	put(s, 5 * PAGE + 16, level + 1);
}

/* A chain of clones of clones; `order` says who dies first. */
static void chain(enum fault_choice faults, const unsigned order[DEPTH])
{
	struct pool *pool = new_pool(64 * MIB);
	struct space *s[DEPTH] = {0};
	struct image *images[DEPTH] = {0};
	const struct world w = {pool, s, DEPTH, images, DEPTH};

	for (unsigned k = 0; k < DEPTH; k++) {
		s[k] = k ? new_clone(pool, images[k - 1], faults) : new_space(pool, RAM, faults);
		if (k == 0)
			tag_pages(s[0], 0, RAM, 30);
		write_level(s[k], k);
		images[k] = publish(s[k]);
	}
	expect_sound(&w);
	cr_assert_leq(used_frames(pool), RAM / PAGE + 2 * DEPTH, "each level has two pages");
	for (unsigned i = 0; i < DEPTH; i++) {
		for (unsigned k = 0; k < DEPTH; k += 1 + (SLOWDOWN > 1) * 6)
			if (s[k])
				check_level(s[k], k);
		space_destroy(s[order[i]]);
		image_put(images[order[i]]);
		s[order[i]] = NULL;
		images[order[i]] = NULL;
		expect_sound(&w);
	}
	expect_all_gone(pool);
}

TEST_BOTH_PATHS(publish, chain_oldest_first)
{
	unsigned order[DEPTH];

	for (unsigned i = 0; i < DEPTH; i++)
		order[i] = i;
	chain(faults, order);
}

TEST_BOTH_PATHS(publish, chain_youngest_first)
{
	unsigned order[DEPTH];

	for (unsigned i = 0; i < DEPTH; i++)
		order[i] = DEPTH - 1 - i;
	chain(faults, order);
}

TEST_BOTH_PATHS(publish, chain_middle_first)
{
	unsigned order[DEPTH];

	for (unsigned i = 0; i < DEPTH; i++)
		order[i] = (i & 1) ? DEPTH / 2 - 1 - i / 2 : DEPTH / 2 + i / 2;
	chain(faults, order);
}

TEST_BOTH_PATHS(publish, chain_at_random)
{
	struct rng rng = {test_seed()};
	unsigned order[DEPTH];

	for (unsigned i = 0; i < DEPTH; i++) {
		unsigned k = (unsigned)rng_below(&rng, i + 1);

		order[i] = order[k];
		order[k] = i;
	}
	chain(faults, order);
}

enum { FAMILY = 5 };

/* Grandparent, parent, two children, and the parent's image: each survivor is checked each time. */
static void family(enum fault_choice faults, const unsigned order[FAMILY])
{
	struct pool *pool = new_pool(16 * MIB);
	struct space *s[4];
	struct image *images[2];
	const struct world w = {pool, s, 4, images, 2};

	s[0] = new_space(pool, MIB, faults);
	tag_pages(s[0], 0, MIB, 1);
	images[0] = publish(s[0]);
	s[1] = new_clone(pool, images[0], faults);
	image_put(images[0]);
	images[0] = NULL;
	guest_store(s[1], 8, 21);
	images[1] = publish(s[1]);
	s[2] = new_clone(pool, images[1], faults);
	s[3] = new_clone(pool, images[1], faults);
	guest_store(s[0], 16, 40);
	guest_store(s[1], 16, 41);
	guest_store(s[2], 16, 42);
	guest_store(s[3], 16, 43);
	for (unsigned i = 0; i < FAMILY; i++) {
		unsigned dies = order[i];

		expect_sound(&w);
		for (unsigned k = 0; k < 4; k++) {
			if (!s[k])
				continue;
			cr_assert_eq(guest_load(s[k], 8), k ? 21 : 0);
			cr_assert_eq(guest_load(s[k], 16), 40 + k);
			cr_assert_eq(guest_load(s[k], MIB - PAGE), 1 + 255);
		}
		if (dies == 4) {
			image_put(images[1]);
			images[1] = NULL;
		} else {
			space_destroy(s[dies]);
			s[dies] = NULL;
		}
	}
	expect_all_gone(pool);
}

/* All 120 orders of dying (some of them where that takes too long). */
TEST_BOTH_PATHS(publish, family_in_every_order)
{
	unsigned order[FAMILY] = {0, 1, 2, 3, 4}, turn[FAMILY] = {0}, i = 0, n = 0;

	family(faults, order);
	while (i < FAMILY) {
		if (turn[i] < i) {
			unsigned k = (i & 1) ? turn[i] : 0, keep = order[k];

			order[k] = order[i];
			order[i] = keep;
			if (++n % SLOWDOWN == 0)
				family(faults, order);
			turn[i]++;
			i = 0;
		} else {
			turn[i++] = 0;
		}
	}
	cr_assert_eq(n, 119);
}

enum { SHARERS = 300 };

/* Many clones of one image, alive together, each writing one page: against an oracle of bytes. */
TEST_BOTH_PATHS(publish, three_hundred_sharers)
{
	struct pool *pool = new_pool(16 * MIB);
	static struct space *s[SHARERS];
	struct space *root = new_space(pool, 2 * MIB, faults);
	uint8_t oracle[PAGE], page[PAGE];
	struct image *image;

	tag_pages(root, 0, 2 * MIB, 60);
	for (unsigned i = 0; i < PAGE; i++)
		oracle[i] = (uint8_t)(i * 7 + i / 256);
	cr_assert_eq(space_write(root, (gpa_t){9 * PAGE}, oracle, PAGE), 0);
	image = publish(root);
	space_destroy(root);
	for (unsigned i = 0; i < SHARERS; i++)
		s[i] = new_clone(pool, image, faults);
	cr_assert_eq(image_refs(image), SHARERS + 1);
	cr_assert_eq(used_frames(pool), 512);
	for (unsigned i = 0; i < SHARERS; i++)
		guest_store(s[i], 9 * PAGE + 8 * (i % 500), i + 1000);
	for (unsigned i = 0; i < SHARERS; i++) {
		uint64_t mine = i + 1000;

		memcpy(page, oracle, PAGE);
		memcpy(page + 8 * (size_t)(i % 500), &mine, 8);
		cr_assert_eq(memcmp(page, (void *)space_hva(s[i], (gpa_t){9 * PAGE}).v, PAGE), 0,
		             "clone %u", i);
		cr_assert_eq(guest_load(s[i], 10 * PAGE), 70);
	}
	cr_assert_eq(used_frames(pool), 512);
	expect_sound(&(struct world){pool, s, SHARERS, &image, 1});
	image_put(image);
	for (unsigned i = 0; i < SHARERS; i++)
		space_destroy(s[(i * 7) % SHARERS]);
	expect_all_gone(pool);
}

/* Many pages, some in runs and some alone: over and over in a chain that keeps only its end. */
TEST_BOTH_PATHS(publish, ten_thousand_pages)
{
	enum { PAGES = 10000 / SLOWDOWN, ROUNDS = 3 };
	struct pool *pool = new_pool(256 * MIB);
	struct space *s = new_space(pool, PAGES * PAGE, faults);
	static uint64_t oracle[PAGES];
	struct rng rng = {test_seed()};

	memset(oracle, 0, sizeof(oracle));
	for (unsigned round = 0; round < ROUNDS; round++) {
		struct space *clone;
		struct image *image;

		for (unsigned k = 0; k < PAGES / 3; k++) {
			uint64_t page = rng_below(&rng, PAGES) / (round + 1);

			oracle[page] = rng_next(&rng);
			guest_store(s, page * PAGE + 32, oracle[page]);
		}
		image = publish(s);
		clone = new_clone(pool, image, faults);
		image_put(image);
		space_destroy(s);
		s = clone;
		for (uint64_t p = 0; p < PAGES; p++)
			cr_assert_eq(get(s, p * PAGE + 32), oracle[p], "page %lu",
			             (unsigned long)p);
		expect_sound(&(struct world){.pool = pool, .spaces = &s, .space_count = 1});
	}
	space_destroy(s);
	expect_all_gone(pool);
}
