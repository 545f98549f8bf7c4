// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_image.c - images: what is refused, references, runs, saved state.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/frame.h"
#include "mm/image.h"
#include "mm/store.h"
#include "tests/unit/helpers.h"

enum { RAM_PAGES = 2048 + 5 };

static struct fixture {
	struct pool *pool;
	frame_t block[4]; /* order 9 */
	struct ram_region ram[2];
} fx;

static void setup(void)
{
	fx.pool = new_pool(16 * MIB);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(pool_alloc(fx.pool, 9, FRAME_NONE, &fx.block[i]), 0);
	fx.ram[0] = ram_at(0, RAM_PAGES * PAGE, PAGE_SIZE_AUTO);
	fx.ram[1] = ram_at(32 * MIB, 3 * PAGE, PAGE_SIZE_4K);
}

static void teardown(void)
{
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(pool_refs(fx.pool, fx.block[i]), 1, "a reference leaked");
		pool_unref(fx.pool, fx.block[i]);
	}
	expect_all_gone(fx.pool);
}

TestSuite(image, .init = setup, .fini = teardown);

static struct extent extent(uint64_t page, uint32_t pages, frame_t frame)
{
	return (struct extent){{page * PAGE}, pages, frame, pool_store(fx.pool)};
}

static struct image_parts parts(const struct extent *e, size_t count)
{
	return (struct image_parts){
		.ram = fx.ram, .ram_count = 2, .extents = e, .extent_count = count};
}

static int create(const struct extent *e, size_t count)
{
	struct image_parts p = parts(e, count);
	struct image *image = NULL;
	int r = image_create(&p, &image);

	if (r == 0)
		image_put(image);
	return r;
}

static int create_ram(const struct ram_region *ram, size_t count)
{
	struct image_parts p = {.ram = ram, .ram_count = count};
	struct image *image = NULL;
	int r = image_create(&p, &image);

	if (r == 0)
		image_put(image);
	return r;
}

/* Behind a good extent, so that what was taken for that one has to be given back. */
static void refuses(struct extent bad, const char *why)
{
	struct extent e[2] = {extent(0, 4, fx.block[0]), bad};

	cr_assert_eq(create(e, 2), -EINVAL, "%s", why);
	cr_assert_eq(pool_refs(fx.pool, fx.block[0]), 1, "%s", why);
}

Test(image, refuses_bad_extents)
{
	struct extent e;

	refuses(extent(8, 0, fx.block[1]), "empty");
	refuses(extent(3, 4, fx.block[1]), "overlap");
	refuses(extent(0, 4, fx.block[1]), "twice");
	refuses(extent(510, 4, fx.block[1]), "crosses 2 MiB");
	refuses(extent(512, 513, fx.block[1]), "longer than 2 MiB");
	refuses(extent(RAM_PAGES - 1, 2, fx.block[1]), "runs out of its region");
	refuses(extent(RAM_PAGES, 1, fx.block[1]), "in the gap");
	refuses(extent(32 * MIB / PAGE + 2, 2, fx.block[1]), "beyond all RAM");
	refuses(extent(UINT64_MAX / PAGE, 1, fx.block[1]), "at the end of the world");
	refuses(extent(8, UINT32_MAX, fx.block[1]), "as long as can be");
	refuses(extent(8, 1, (frame_t){16 * 256}), "beyond the store");
	refuses(extent(8, 2, (frame_t){16 * 256 - 1}), "runs out of the store");
	refuses(extent(8, 2, FRAME_NONE), "no frame");
	e = extent(8, 1, fx.block[1]);
	e.gpa.v += 512;
	refuses(e, "misaligned");
	e = extent(8, 1, fx.block[1]);
	e.store = NULL;
	refuses(e, "no store");
}

Test(image, refuses_unordered_extents)
{
	struct extent e[] = {extent(512, 4, fx.block[0]), extent(0, 4, fx.block[1])};

	cr_assert_eq(create(e, 2), -EINVAL);
}

Test(image, refuses_bad_ram)
{
	struct ram_region ok = ram_at(0, 4 * MIB, PAGE_SIZE_AUTO);
	struct ram_region many[IMAGE_MAX_REGIONS + 1];
	struct ram_region r[2] = {ok, ram_at(2 * MIB, 4 * MIB, PAGE_SIZE_AUTO)};

	for (size_t i = 0; i <= IMAGE_MAX_REGIONS; i++)
		many[i] = ram_at(i * 2 * MIB, 2 * MIB, PAGE_SIZE_AUTO);
	cr_assert_eq(create_ram(many, IMAGE_MAX_REGIONS), 0);
	cr_assert_eq(create_ram(many, IMAGE_MAX_REGIONS + 1), -EINVAL);
	cr_assert_eq(create_ram(&ok, 0), -EINVAL);
	cr_assert_eq(create_ram(r, 2), -EINVAL, "overlap");
	r[1] = ram_at(0, 2 * MIB, PAGE_SIZE_AUTO);
	cr_assert_eq(create_ram(r, 2), -EINVAL, "unordered");
	r[1] = ram_at(4 * MIB + PAGE, 2 * MIB, PAGE_SIZE_AUTO);
	cr_assert_eq(create_ram(r, 2), -EINVAL, "starts inside a block");
	r[1] = (struct ram_region){{{4 * MIB}, 0}, PAGE_SIZE_AUTO};
	cr_assert_eq(create_ram(r, 2), -EINVAL, "empty");
	r[1] = (struct ram_region){{{4 * MIB}, PAGE + 1}, PAGE_SIZE_AUTO};
	cr_assert_eq(create_ram(r, 2), -EINVAL, "not whole pages");
	r[1] = (struct ram_region){{{4 * MIB}, PAGE}, PAGE_SIZE_2M};
	cr_assert_eq(create_ram(r, 2), -EINVAL, "not whole pages of its size");
	r[1] = (struct ram_region){{{2 * MIB + GIB}, GIB}, PAGE_SIZE_1G};
	cr_assert_eq(create_ram(r, 2), -EINVAL, "not aligned to its page size");
	r[1] = (struct ram_region){{{UINT64_MAX - BLOCK + 1}, BLOCK}, PAGE_SIZE_AUTO};
	cr_assert_eq(create_ram(r, 2), -EINVAL, "ends beyond the last address");
	r[1] = (struct ram_region){{{UINT64_MAX - BLOCK + 1}, PAGE}, PAGE_SIZE_AUTO};
	cr_assert_eq(create_ram(r, 2), -EINVAL, "no guest has addresses that high");
}

/* The count of one block is full: what was taken before it is given back. */
Test(image, full_count_takes_nothing)
{
	struct extent e[] = {extent(0, 4, fx.block[0]), extent(512, 4, fx.block[0]),
	                     extent(1024, 4, fx.block[1])};
	struct image_parts p = parts(e, 3);
	struct image *images[300];
	uint32_t n = 0;

	while (n < 300) {
		cr_assert_eq(image_create(&p, &images[n]), 0);
		n++;
		cr_assert_eq(pool_refs(fx.pool, fx.block[0]), 1 + 2 * n);
		cr_assert_eq(pool_refs(fx.pool, fx.block[1]), 1 + n);
	}
	while (n > 0) {
		cr_assert_eq(image_audit(images[--n]), 0);
		image_put(images[n]);
		cr_assert_eq(pool_refs(fx.pool, fx.block[0]), 1 + 2 * n);
	}
}

Test(image, holds_its_frames)
{
	struct extent e = extent(7, 3, (frame_t){fx.block[0].n + 100});
	struct image_parts p = parts(&e, 1);
	struct image *image;
	struct pool *pool = new_pool(4 * MIB);
	frame_t f;

	cr_assert_eq(pool_alloc(pool, 9, FRAME_NONE, &f), 0);
	e.store = pool_store(pool);
	e.frame = f;
	cr_assert_eq(image_create(&p, &image), 0);
	memset(pool_frame_ptr(pool, f), 1, PAGE);
	pool_unref(pool, f);
	cr_assert_eq(used_frames(pool), 512, "the image keeps the block");
	pool_get(pool);
	pool_put(pool);
	image_put(image_get(image));
	cr_assert_eq(image_refs(image), 1);
	image_put(image);
	image_put(NULL);
	expect_all_gone(pool);
}

/* The image is the last to hold the pool: both go with it. */
Test(image, keeps_its_pool)
{
	struct pool *pool = new_pool(4 * MIB);
	struct extent e = {{0}, 1, {0}, pool_store(pool)};
	struct image_parts p = parts(&e, 1);
	struct image *image;

	cr_assert_eq(pool_alloc(pool, 0, FRAME_NONE, &e.frame), 0);
	cr_assert_eq(image_create(&p, &image), 0);
	pool_unref(pool, e.frame);
	pool_put(pool);
	cr_assert_eq(image_audit(image), 0);
	cr_assert_eq(pool_refs(image_extents(image, &(size_t){0})->store->pool, e.frame), 1);
	image_put(image);
}

Test(image, joins_neighbours_into_runs)
{
	const frame_t b0 = fx.block[0], b1 = fx.block[1];
	struct extent e[] = {
		extent(0, 10, b0),
		extent(10, 5, (frame_t){b0.n + 10}), /* joins */
		extent(15, 5, (frame_t){b0.n + 20}), /* a gap in the store */
		extent(21, 5, (frame_t){b0.n + 25}), /* a gap in the guest */
		extent(26, 2, (frame_t){b0.n + 24}), /* backwards */
		extent(510, 2, (frame_t){b0.n + 510}),
		extent(512, 512, b1), /* over a 2 MiB edge, when blocks adjoin */
		extent(32 * MIB / PAGE, 3, b1),
	};
	struct image_parts p = parts(e, 8);
	struct image *image;
	const struct run *run;
	size_t count, want = b1.n == b0.n + 512 ? 6 : 7;
	uint64_t pages = 0;

	cr_assert_eq(image_create(&p, &image), 0);
	run = image_runs(image, &count);
	cr_assert_eq(count, want, "%zu", count);
	cr_assert(run[0].pages == 15 && run[0].frame.n == b0.n);
	cr_assert(run[1].gpa.v == 15 * PAGE && run[1].pages == 5);
	for (size_t i = 0; i < count; i++)
		pages += run[i].pages;
	cr_assert_eq(pages, image_pages(image));
	cr_assert_eq(pages, 10 + 5 + 5 + 5 + 2 + 2 + 512 + 3);
	cr_assert_eq(image_audit(image), 0);
	image_put(image);
}

/* Two stores at the same frame are not neighbours. */
Test(image, runs_stay_in_one_store)
{
	struct pool *other = new_pool(4 * MIB);
	struct extent e[2] = {extent(0, 1, fx.block[0]), extent(1, 1, fx.block[0])};
	struct image_parts p = parts(e, 2);
	struct image *image;
	size_t count;
	frame_t f;

	cr_assert_eq(pool_alloc(other, 9, FRAME_NONE, &f), 0);
	e[1].store = pool_store(other);
	e[1].frame.n = f.n + 1;
	e[0].frame = (frame_t){f.n};
	cr_assert_eq(image_create(&p, &image), 0);
	image_runs(image, &count);
	cr_assert_eq(count, 2);
	image_put(image);
	pool_unref(other, f);
	expect_all_gone(other);
}

Test(image, find_is_the_first_that_ends_above)
{
	struct extent e[] = {extent(1, 2, fx.block[0]), extent(5, 1, fx.block[0]),
	                     extent(600, 10, fx.block[1])};
	struct image_parts p = parts(e, 3);
	struct image *image;

	cr_assert_eq(image_create(&p, &image), 0);
	for (uint64_t page = 0; page < 700; page++) {
		size_t want = 0;

		while (want < 3 && e[want].gpa.v / PAGE + e[want].pages <= page)
			want++;
		cr_assert_eq(image_find(image, (gpa_t){page * PAGE}), want, "page %lu",
		             (unsigned long)page);
		cr_assert_eq(image_find(image, (gpa_t){page * PAGE + PAGE - 1}), want);
	}
	image_put(image);
}

Test(image, empty_image)
{
	struct image_parts p = parts(NULL, 0);
	struct image *image;
	size_t count = 99;

	cr_assert_eq(image_create(&p, &image), 0);
	image_extents(image, &count);
	cr_assert_eq(count, 0);
	image_runs(image, &count);
	cr_assert_eq(count, 0);
	cr_assert_eq(image_find(image, (gpa_t){0}), 0);
	cr_assert_eq(image_pages(image), 0);
	cr_assert_eq(image_audit(image), 0);
	image_put(image);
}

Test(image, state_is_copied_and_exchanged)
{
	struct extent e = extent(0, 4, fx.block[0]);
	char saved[] = "registers";
	struct image_parts p = parts(&e, 1);
	struct image *a, *b;
	size_t size;

	p.state = saved;
	p.state_size = sizeof(saved);
	cr_assert_eq(image_create(&p, &a), 0);
	memset(saved, 0, sizeof(saved));
	cr_assert_str_eq(image_state(a, &size), "registers");
	cr_assert_eq(size, sizeof(saved));
	cr_assert_eq(image_with_state(a, "other", 6, &b), 0);
	cr_assert_eq(pool_refs(fx.pool, fx.block[0]), 3, "frames are shared");
	image_put(a);
	cr_assert_str_eq(image_state(b, &size), "other");
	image_ram(b, &size);
	cr_assert_eq(size, 2);
	cr_assert_eq(image_pages(b), 4);
	image_put(b);
}

/* A file's frames are not counted; the file is open as long as an extent names it. */
Test(image, over_a_file)
{
	int fd = memfd_create("cowslip-test", MFD_CLOEXEC);
	struct store *store;
	struct extent e = {{0}, 2, {0}, NULL};
	struct image_parts p = parts(&e, 1);
	struct image *image;

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, PAGE + 100), 0);
	cr_assert_eq(store_open_file(fd, 0, &store), -EINVAL);
	cr_assert_eq(store_open_file(-1, 100, &store), -EINVAL);
	cr_assert_eq(store_open_file(fd, PAGE + 100, &store), 0);
	e.store = store;
	cr_assert_eq(image_create(&p, &image), 0, "a last page that the file fills in part");
	store_put(store);
	e.pages = 3;
	cr_assert_eq(create(&e, 1), -EINVAL, "beyond the file");
	cr_assert_geq(fcntl(fd, F_GETFD), 0);
	image_put(image);
	cr_assert_lt(fcntl(fd, F_GETFD), 0, "closed with the last reference");
}

Test(image, audit_finds_a_freed_block)
{
	struct extent e = extent(0, 4, fx.block[0]);
	struct image_parts p = parts(&e, 1);
	struct image *image;

	cr_assert_eq(image_create(&p, &image), 0);
	/* Both references are dropped behind its back. */
	pool_unref(fx.pool, fx.block[0]);
	pool_unref(fx.pool, fx.block[0]);
	cr_assert_eq(image_audit(image), -EUCLEAN);
	cr_assert_eq(pool_alloc(fx.pool, 9, fx.block[0], &e.frame), 0);
	cr_assert_eq(e.frame.n, fx.block[0].n);
	cr_assert_eq(pool_ref(fx.pool, e.frame), 0);
	cr_assert_eq(image_audit(image), 0);
	image_put(image);
}
