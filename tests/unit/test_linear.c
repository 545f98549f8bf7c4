// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_linear.c - spaces over memory of the embedder's: where what lies, what is
 * refused, and that nothing is ever mapped there or unmapped.
 */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/space.h"
#include "mm/space_internal.h"
#include "tests/unit/helpers.h"

TestSuite(linear, .timeout = 60);

/* A 2 MiB-aligned mapping of the embedder's inside a reserved one that aligns it. */
struct own {
	uint8_t *at;
	size_t size;
	void *map;
	size_t map_size;
};

static struct own own_map(size_t size, int flags, int fd)
{
	struct own o = {.size = size, .map_size = size + BLOCK};
	uint8_t *at;

	o.map = mmap(NULL, o.map_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
	             0);
	cr_assert_neq(o.map, MAP_FAILED);
	at = (uint8_t *)(uintptr_t)align_up((uintptr_t)o.map, BLOCK);
	o.at = mmap(at, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
	cr_assert_eq((void *)o.at, (void *)at);
	return o;
}

static void own_unmap(struct own *o)
{
	cr_assert_eq(munmap(o->map, o->map_size), 0);
}

/* The two-region machine that most tests use: a hole of 3 MiB, and an end inside a block. */
static const struct ram_region two[] = {
	{{{2 * MIB}, 3 * MIB}, PAGE_SIZE_AUTO},
	{{{8 * MIB}, 5 * PAGE}, PAGE_SIZE_4K},
};
#define TWO_SIZE (8 * MIB)

static struct space_config two_config(struct pool *pool, void *memory)
{
	return (struct space_config){.pool = pool, .ram = two, .ram_count = 2, .memory = memory};
}

static int try_create(const struct space_config *c)
{
	struct space *s = NULL;
	int e = space_create(c, &s);

	space_destroy(s);
	return e;
}

Test(linear, window_size)
{
	static const struct ram_region odd = {{{2 * MIB}, PAGE}, PAGE_SIZE_AUTO};
	static const struct ram_region crooked = {{{PAGE}, PAGE}, PAGE_SIZE_AUTO};

	cr_assert_eq(space_window_size(two, 2), TWO_SIZE);
	cr_assert_eq(space_window_size(two, 1), 4 * MIB);
	cr_assert_eq(space_window_size(&odd, 1), BLOCK);
	cr_assert_eq(space_window_size(&crooked, 1), 0);
	cr_assert_eq(space_window_size(two, 0), 0);
}

/* What the guest has at an address lies where the layout says, in the caller's bytes. */
Test(linear, memory_is_the_callers)
{
	struct pool *pool = new_pool(4 * MIB);
	struct own o = own_map(TWO_SIZE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct space_config c = two_config(pool, o.at);
	struct space *s = make_space(&c);
	uint64_t word = 0;

	cr_assert_eq(space_hva(s, (gpa_t){8 * MIB + 8}).v, (uintptr_t)o.at + 6 * MIB + 8);
	cr_assert_eq(space_gpa(s, (hva_t){(uintptr_t)o.at + 5}).v, 2 * MIB + 5);
	put(s, 2 * MIB + 8, 11);
	put(s, 8 * MIB + 4 * PAGE, 12);
	guest_store(s, 4 * MIB, 13);
	memcpy(&word, o.at + 8, 8);
	cr_assert_eq(word, 11);
	memcpy(&word, o.at + 6 * MIB + 4 * PAGE, 8);
	cr_assert_eq(word, 12);
	memcpy(o.at + 6 * MIB, &word, 8);
	cr_assert_eq(get(s, 8 * MIB), 12);
	cr_assert_eq(space_read(s, (gpa_t){5 * MIB}, &word, 8), -EFAULT, "the hole is no RAM");
	expect_sound_alone(pool, s);
	space_destroy(s);
	memcpy(&word, o.at + 2 * MIB, 8);
	cr_assert_eq(word, 13, "still mapped, and as the guest left it");
	own_unmap(&o);
	expect_all_gone(pool);
}

Test(linear, states_and_outcomes)
{
	struct pool *pool = new_pool(4 * MIB);
	struct own o = own_map(TWO_SIZE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct space_config c = two_config(pool, o.at);
	struct space *s = make_space(&c);
	struct space_stats st;
	struct violation v = {{4 * MIB + 5}, ACCESS_WRITE};
	struct hold h;

	cr_assert(space_is_linear(s));
	cr_assert_eq(space_block_state(s, (gpa_t){2 * MIB}), BLOCK_LINEAR);
	cr_assert_eq(space_block_state(s, (gpa_t){8 * MIB}), BLOCK_LINEAR);
	cr_assert_eq(space_block_state(s, (gpa_t){6 * MIB}), BLOCK_EMPTY, "no RAM there");
	cr_assert_eq(space_violation(s, v), OUTCOME_RESOLVED);
	v.gpa.v = 6 * MIB;
	cr_assert_eq(space_violation(s, v), OUTCOME_MMIO);
	cr_assert_eq(space_hold(s, (gpa_t){4 * MIB}, 100 * MIB, ACCESS_WRITE, &h), 0);
	cr_assert_eq(h.size, MIB);
	cr_assert_eq(h.ptr, (void *)(o.at + 2 * MIB));
	space_release(&h);
	cr_assert_eq(space_stats(s, &st), 0);
	cr_assert_str_eq(st.fault_path, "kernel");
	cr_assert_gt(strlen(st.fault_why), 0);
	cr_assert_eq(st.owned_frames + st.shared_frames + st.private_frames, 0);
	cr_assert_eq(st.windows, 0, "no mapping was made");
	cr_assert_eq(used_frames(pool), 0);
	space_resume(s, 1);
	space_shutdown(s);
	space_destroy(s);
	own_unmap(&o);
	expect_all_gone(pool);
}

Test(linear, what_is_refused)
{
	struct pool *pool = new_pool(4 * MIB);
	struct own o = own_map(TWO_SIZE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct space_config c = two_config(pool, o.at);
	struct image *image = NULL;
	struct space *s;

	c.faults = FAULTS_UFFD;
	cr_assert_eq(try_create(&c), -EINVAL);
	c.faults = FAULTS_KERNEL;
	cr_assert_eq(try_create(&c), 0);
	c.memory = o.at + PAGE;
	cr_assert_eq(try_create(&c), -EINVAL, "misaligned");
	c.memory = o.at;
	c.ram_count = 0;
	cr_assert_eq(try_create(&c), -EINVAL);
	c.ram_count = 2;
	s = make_space(&c);
	put(s, 2 * MIB, 5);
	cr_assert_eq(space_publish(s, NULL, 0, &image), -ENOTSUP);
	cr_assert_null(image);
	cr_assert_eq(get(s, 2 * MIB), 5);
	expect_sound_alone(pool, s);
	space_destroy(s);
	own_unmap(&o);
	expect_all_gone(pool);
}

/* Pages of [at, at + size) that are in memory. */
static size_t resident(void *at, size_t size)
{
	static unsigned char vec[TWO_SIZE / PAGE];
	size_t n = 0;

	cr_assert_eq(mincore(at, size, vec), 0);
	for (size_t i = 0; i < size / PAGE; i++)
		n += vec[i] & 1u;
	return n;
}

Test(linear, populate_brings_in_ram_and_no_hole)
{
	struct pool *pool = new_pool(4 * MIB);
	struct own o = own_map(TWO_SIZE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct space_config c = two_config(pool, o.at);
	struct space *s;

	cr_assert_eq(madvise(o.at, o.size, MADV_NOHUGEPAGE), 0);
	s = make_space(&c);
	cr_assert_eq(resident(o.at, TWO_SIZE), 0, "not asked for");
	space_destroy(s);
	c.populate = true;
	s = make_space(&c);
	cr_assert_eq(resident(o.at, TWO_SIZE), 3 * MIB / PAGE + 5);
	cr_assert_eq(resident(o.at + 3 * MIB, 3 * MIB), 0);
	space_destroy(s);
	/* Nothing can be populated where nothing is mapped. */
	cr_assert_eq(munmap(o.at, o.size), 0);
	cr_assert_eq(try_create(&c), -ENOMEM);
	expect_all_gone(pool);
}

/* Two spaces over one memfd see each other; with an image only its layout is used. */
Test(linear, shared_between_spaces_and_image_layout)
{
	struct pool *pool = new_pool(16 * MIB);
	int fd = memfd_create("linear", MFD_CLOEXEC);
	struct own a, b;
	struct space_config c = two_config(pool, NULL);
	struct space *s, *t;
	struct image *image;

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, TWO_SIZE), 0);
	a = own_map(TWO_SIZE, MAP_SHARED, fd);
	b = own_map(TWO_SIZE, MAP_SHARED, fd);
	s = make_space(&c);
	put(s, 2 * MIB, 99);
	image = publish(s);
	space_destroy(s);
	c.memory = a.at;
	s = make_space(&c);
	t = make_space(&(struct space_config){
		.pool = pool, .image = image, .memory = b.at, .populate = true});
	cr_assert_eq(get(t, 2 * MIB), 0, "what the memory holds, not what the image does");
	put(s, 2 * MIB, 7);
	cr_assert_eq(get(t, 2 * MIB), 7);
	cr_assert_eq(space_image(t), image);
	expect_sound(&(struct world){.pool = pool,
	                             .spaces = (struct space *[]){s, t},
	                             .space_count = 2,
	                             .images = &image,
	                             .image_count = 1});
	space_destroy(s);
	space_destroy(t);
	image_put(image);
	own_unmap(&a);
	own_unmap(&b);
	close(fd);
	expect_all_gone(pool);
}

Test(linear, audit_finds_planted_errors)
{
	struct pool *pool = new_pool(4 * MIB);
	struct own o = own_map(TWO_SIZE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct space_config c = two_config(pool, o.at);
	struct space *s = make_space(&c);

	s->blocks[1].state = BLOCK_SHARED;
	cr_assert_eq(space_audit(s), -EUCLEAN);
	s->blocks[1].state = BLOCK_LINEAR;
	cr_assert_eq(space_audit(s), 0);
	s->blocks[2].state = BLOCK_LINEAR;
	cr_assert_eq(space_audit(s), -EUCLEAN, "a hole is not the embedder's");
	s->blocks[2].state = BLOCK_EMPTY;
	cr_assert_eq(space_audit(s), 0);
	space_destroy(s);
	own_unmap(&o);
	expect_all_gone(pool);
}
