// SPDX-License-Identifier: MIT
#include "tests/unit/helpers.h"

#include <criterion/hooks.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mm/fault.h"
#include "mm/space_internal.h"

void require_path(enum fault_choice faults)
{
	int fd;

	if (faults != FAULTS_UFFD)
		return;
	fd = fault_uffd_open();
	if (fd < 0)
		cr_skip_test("userfaultfd: %s", strerror(-fd));
	close(fd);
}

/* splitmix64: any seed will do, also 0. */
uint64_t rng_next(struct rng *r)
{
	uint64_t z = (r->s += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint64_t rng_below(struct rng *r, uint64_t n)
{
	return rng_next(r) % n;
}

uint64_t test_seed(void)
{
	const char *text = getenv("COWSLIP_SEED");
	struct timespec now;
	uint64_t seed;

	clock_gettime(CLOCK_REALTIME, &now);
	seed = text ? strtoull(text, NULL, 0) : (uint64_t)now.tv_sec * 1000000007u + now.tv_nsec;
	fprintf(stderr, "COWSLIP_SEED=%" PRIu64 "\n", seed);
	return seed;
}

struct pool *new_pool(uint64_t bytes)
{
	struct pool *p = NULL;

	cr_assert_eq(pool_create(bytes, &p), 0);
	return p;
}

struct ram_region ram_at(uint64_t start, uint64_t size, enum page_size page_size)
{
	struct ram_region r = {.page_size = page_size};

	cr_assert_eq(gpa_range_make(start, size, PAGE, &r.range), 0);
	return r;
}

struct space *make_space(const struct space_config *config)
{
	struct space *s = NULL;
	int e = space_create(config, &s);

	cr_assert_eq(e, 0, "space_create: %s", strerror(-e));
	return s;
}

struct space *new_space(struct pool *pool, uint64_t bytes, enum fault_choice faults)
{
	struct ram_region ram = ram_at(0, bytes, PAGE_SIZE_AUTO);

	return make_space(&(struct space_config){
		.pool = pool, .ram = &ram, .ram_count = 1, .faults = faults});
}

struct space *new_clone(struct pool *pool, struct image *image, enum fault_choice faults)
{
	return make_space(&(struct space_config){.pool = pool, .image = image, .faults = faults});
}

struct image *publish(struct space *s)
{
	struct image *image = NULL;
	int e = space_publish(s, NULL, 0, &image);

	cr_assert_eq(e, 0, "space_publish: %s", strerror(-e));
	return image;
}

void put(struct space *s, uint64_t gpa, uint64_t value)
{
	int e = space_write(s, (gpa_t){gpa}, &value, sizeof(value));

	cr_assert_eq(e, 0, "space_write at %#" PRIx64 ": %s", gpa, strerror(-e));
}

uint64_t get(struct space *s, uint64_t gpa)
{
	uint64_t value = 0;
	int e = space_read(s, (gpa_t){gpa}, &value, sizeof(value));

	cr_assert_eq(e, 0, "space_read at %#" PRIx64 ": %s", gpa, strerror(-e));
	return value;
}

static _Atomic uint64_t *guest_word(const struct space *s, uint64_t gpa)
{
	return (_Atomic uint64_t *)space_hva(s, (gpa_t){gpa}).v;
}

void guest_store(struct space *s, uint64_t gpa, uint64_t value)
{
	atomic_store_explicit(guest_word(s, gpa), value, memory_order_relaxed);
}

uint64_t guest_load(struct space *s, uint64_t gpa)
{
	return atomic_load_explicit(guest_word(s, gpa), memory_order_relaxed);
}

void tag_pages(struct space *s, uint64_t gpa, uint64_t size, uint64_t tag)
{
	for (uint64_t at = gpa; at < gpa + size; at += PAGE)
		put(s, at, tag + (at >> MM_PAGE_SHIFT));
}

void expect_tags(struct space *s, uint64_t gpa, uint64_t size, uint64_t tag)
{
	for (uint64_t at = gpa; at < gpa + size; at += PAGE)
		cr_assert_eq(get(s, at), tag + (at >> MM_PAGE_SHIFT), "at %#" PRIx64, at);
}

size_t first_nonzero(const void *p, size_t size)
{
	const uint8_t *b = p;

	if (size == 0 || (b[0] == 0 && memcmp(b, b + 1, size - 1) == 0))
		return size;
	for (size_t i = 0; i < size; i++)
		if (b[i])
			return i;
	return size;
}

void expect_zero(struct space *s, uint64_t gpa, uint64_t size)
{
	uint8_t buf[4096];

	for (uint64_t done = 0; done < size; done += sizeof(buf)) {
		size_t n = (size_t)min_u64(size - done, sizeof(buf));

		cr_assert_eq(space_read(s, (gpa_t){gpa + done}, buf, n), 0);
		cr_assert_eq(first_nonzero(buf, n), n, "not zero in page %#" PRIx64, gpa + done);
	}
}

static struct pool_stats stats_of(struct pool *p)
{
	struct pool_stats st;

	pool_stats(p, &st);
	return st;
}

unsigned count_owned(struct space *s, uint64_t bytes)
{
	unsigned n = 0;

	for (uint64_t at = 0; at < bytes; at += BLOCK)
		n += space_block_state(s, (gpa_t){at}) == BLOCK_OWNED;
	return n;
}

uint64_t used_frames(struct pool *p)
{
	return stats_of(p).used_frames;
}

uint64_t committed_frames(struct pool *p)
{
	return stats_of(p).committed_frames;
}

uint64_t private_frames(struct space *s)
{
	struct space_stats st;

	cr_assert_eq(space_stats(s, &st), 0);
	return st.private_frames;
}

void expect_sound(const struct world *w)
{
	const char *wrong = world_check(w);

	cr_assert_null(wrong, "%s", wrong);
}

void expect_sound_alone(struct pool *pool, struct space *s)
{
	expect_sound(&(struct world){.pool = pool, .spaces = &s, .space_count = 1});
}

void expect_all_gone(struct pool *p)
{
	struct pool_stats st = stats_of(p);

	cr_assert_eq(pool_audit(p), 0);
	cr_assert_eq(st.used_frames, 0, "%" PRIu64 " frames leaked", st.used_frames);
	cr_assert_eq(st.retired_frames, 0);
	cr_assert_eq(st.committed_frames, 0, "%" PRIu64 " frames not given back",
	             st.committed_frames);
	pool_put(p);
}

#ifdef __SANITIZE_THREAD__
/*
 * A thread that touches a window waits in the kernel until the handler has mapped what it needs.
 * ThreadSanitizer takes a mapping call for a write to all of the range and cannot see that order.
 */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:map_fixed\n";
}
#endif

#ifdef __SANITIZE_ADDRESS__
/*
 * Leaks are looked for in the processes that run tests, not in the one that starts them:
 * libcriterion itself loses a few bytes there.
 */
static bool is_runner;

ReportHook(PRE_ALL)(struct criterion_test_set *tests)
{
	(void)tests;
	is_runner = true;
}

int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
	return is_runner;
}
#endif
