// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_fault_broken.c - a handler that dies or is stuck: said within the space's
 * patience, and who waits can be let go. A thread stands for a vCPU.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "mm/space_internal.h"
#include "tests/unit/helpers.h"
#include "tests/unit/inject.h"

TestSuite(fault_broken, .timeout = 120);

#define PATIENCE_MS 200u

/* What a space's owner does: it lets everyone go. */
struct owner {
	struct space *_Atomic s;
	_Atomic int error;
	_Atomic unsigned times;
	sem_t starving; /* posted by each NOMEM */
	sem_t go_on;    /* awaited in each NOMEM, where `stuck` */
	bool stuck;
};

static void on_broken(void *ctx, int error)
{
	struct owner *o = ctx;

	atomic_store(&o->error, error);
	atomic_fetch_add(&o->times, 1);
	space_let_go(atomic_load(&o->s));
}

static void on_nomem(void *ctx, struct violation v)
{
	struct owner *o = ctx;

	(void)v;
	sem_post(&o->starving);
	if (o->stuck)
		sem_wait(&o->go_on);
}

static struct space *owned(struct owner *o, struct pool *pool, uint64_t limit_frames)
{
	struct ram_region ram = ram_at(0, 8 * MIB, PAGE_SIZE_AUTO);
	struct space *s;

	require_path(FAULTS_UFFD);
	sem_init(&o->starving, 0, 0);
	sem_init(&o->go_on, 0, 0);
	s = make_space(&(struct space_config){.pool = pool,
	                                      .ram = &ram,
	                                      .ram_count = 1,
	                                      .faults = FAULTS_UFFD,
	                                      .limit_frames = limit_frames,
	                                      .nomem = on_nomem,
	                                      .broken = on_broken,
	                                      .patience_ms = PATIENCE_MS,
	                                      .ctx = o});
	atomic_store(&o->s, s);
	return s;
}

static void *touch_all(void *arg)
{
	struct space *s = arg;

	for (uint64_t at = 0; at < 8 * MIB; at += PAGE)
		guest_store(s, at, 1);
	return NULL;
}

static pthread_t launch(struct space *s)
{
	pthread_t t;

	cr_assert_eq(pthread_create(&t, NULL, touch_all, s), 0);
	return t;
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void wait_broken(struct owner *o, int error)
{
	const struct timespec nap = {.tv_nsec = 1000000};
	uint64_t until = now_ms() + 60000;

	while (atomic_load(&o->times) == 0 && now_ms() < until)
		nanosleep(&nap, NULL);
	cr_assert_eq(atomic_load(&o->times), 1);
	cr_assert_eq(atomic_load(&o->error), error, "%d", atomic_load(&o->error));
}

/* Behind ThreadSanitizer's back, which takes it for a race: that is what it stands for. */
static void replace_uffd(struct space *s, int with)
{
	cr_assert_geq(with, 0);
	cr_assert_eq(syscall(SYS_dup3, with, s->fault.uffd, O_CLOEXEC), s->fault.uffd);
	close(with);
}

/* A descriptor of which nothing can be read, however often one is told that it could. */
static void dies_of(int descriptor, int error)
{
	struct owner o = {.stuck = false};
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = owned(&o, pool, 0);
	pthread_t vcpu;

	replace_uffd(s, descriptor);
	vcpu = launch(s);
	wait_broken(&o, error);
	cr_assert_eq(pthread_join(vcpu, NULL), 0);
	space_destroy(s);
	cr_assert_eq(atomic_load(&o.times), 1, "said once");
	expect_all_gone(pool);
}

Test(fault_broken, end_of_file)
{
	dies_of(open("/dev/null", O_RDONLY | O_CLOEXEC), -EIO);
}

Test(fault_broken, unreadable)
{
	dies_of(open("/dev/null", O_WRONLY | O_CLOEXEC), -EBADF);
}

Test(fault_broken, closed)
{
	struct owner o = {.stuck = false};
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = owned(&o, pool, 0);
	int uffd = s->fault.uffd, stand_in = open("/dev/null", O_RDONLY | O_CLOEXEC);
	pthread_t vcpu;

	cr_assert_geq(stand_in, 0);
	cr_assert_eq(syscall(SYS_close, uffd), 0);
	vcpu = launch(s);
	wait_broken(&o, -EBADF);
	cr_assert_eq(pthread_join(vcpu, NULL), 0);
	cr_assert_eq(syscall(SYS_dup3, stand_in, uffd, O_CLOEXEC), uffd);
	close(stand_in);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Who waits for a frame cannot be woken when there is one. */
Test(fault_broken, cannot_wake)
{
	struct owner o = {.stuck = false};
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = owned(&o, pool, MM_BLOCK_PAGES);
	int uffd = dup(s->fault.uffd);
	pthread_t vcpu = launch(s);

	sem_wait(&o.starving);
	replace_uffd(s, open("/dev/null", O_RDONLY | O_CLOEXEC));
	space_resume(s, 4 * MM_BLOCK_PAGES);
	wait_broken(&o, -ENOTTY);
	close(uffd);
	cr_assert_eq(pthread_join(vcpu, NULL), 0);
	space_destroy(s);
	expect_all_gone(pool);
}

static int try_again(struct space *s, struct gpa_range r)
{
	(void)s;
	(void)r;
	return -EAGAIN;
}

/* A host that has every access tried again, for ever. */
Test(fault_broken, nothing_but_retries)
{
	struct fault_ops stubborn = fault_uffd;
	struct owner o = {.stuck = false};
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = owned(&o, pool, 0);
	pthread_t vcpu;

	stubborn.fill_zero = try_again;
	lock_take(&s->lock);
	s->faults = &stubborn;
	lock_drop(&s->lock);
	vcpu = launch(s);
	wait_broken(&o, -EAGAIN);
	cr_assert_eq(pthread_join(vcpu, NULL), 0);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Stuck in the owner's own call; it comes back in the end. */
Test(fault_broken, stuck_in_nomem)
{
	struct owner o = {.stuck = true};
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = owned(&o, pool, MM_BLOCK_PAGES);
	pthread_t vcpu = launch(s);

	wait_broken(&o, -ETIMEDOUT);
	cr_assert_eq(pthread_join(vcpu, NULL), 0);
	sem_post(&o.go_on);
	space_destroy(s);
	expect_all_gone(pool);
}

/* It never comes back: the space ends all the same, and leaves behind what it may still use. */
Test(fault_broken, stuck_for_good)
{
	static struct owner o = {.stuck = true};
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = owned(&o, pool, MM_BLOCK_PAGES);
	pthread_t vcpu = launch(s);
	uint64_t asked;

	wait_broken(&o, -ETIMEDOUT);
	cr_assert_eq(pthread_join(vcpu, NULL), 0);
	asked = now_ms();
	space_destroy(s);
	cr_assert_lt(now_ms() - asked, 10000);
	cr_assert_eq(used_frames(pool), MM_BLOCK_PAGES);
	pool_put(pool);
}

/* The same before the watch has found it. */
Test(fault_broken, stuck_and_ended_at_once)
{
	static struct owner o = {.stuck = true};
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = owned(&o, pool, MM_BLOCK_PAGES);
	pthread_t vcpu = launch(s);

	sem_wait(&o.starving);
	space_shutdown(s);
	cr_assert(s->fault.abandoned);
	cr_assert_eq(pthread_join(vcpu, NULL), 0);
	space_destroy(s);
	pool_put(pool);
}

static void hang(void *ctx)
{
	struct owner *o = ctx;

	sem_wait(&o->go_on);
}

/* Stuck in the middle of an answer, with the space's lock. */
Test(fault_broken, stuck_with_the_lock)
{
	struct owner o = {.stuck = false};
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = owned(&o, pool, 0);
	pthread_t vcpu;

	vcpu = launch(s);
	cr_assert_eq(pthread_join(vcpu, NULL), 0);
	cr_assert_eq(space_reset(s), 0);
	inject_meanwhile(hang, &o);
	inject_arm_call_all(1, INJECT_MMAP);
	vcpu = launch(s);
	wait_broken(&o, -ETIMEDOUT);
	cr_assert_eq(pthread_join(vcpu, NULL), 0);
	cr_assert(inject_fired());
	sem_post(&o.go_on);
	inject_disarm();
	space_destroy(s);
	expect_all_gone(pool);
}

/* Not broken: a guest that does not fault, one that waits for frames. */
Test(fault_broken, patience_is_not_for_idleness)
{
	const struct timespec nap = {.tv_nsec = 4 * PATIENCE_MS * 1000000L};
	struct owner o = {.stuck = false};
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = owned(&o, pool, MM_BLOCK_PAGES);
	pthread_t vcpu;

	nanosleep(&nap, NULL);
	vcpu = launch(s);
	sem_wait(&o.starving);
	nanosleep(&nap, NULL);
	cr_assert_eq(atomic_load(&o.times), 0);
	space_resume(s, 4 * MM_BLOCK_PAGES);
	cr_assert_eq(pthread_join(vcpu, NULL), 0);
	for (uint64_t at = 0; at < 8 * MIB; at += PAGE)
		cr_assert_eq(guest_load(s, at), 1);
	space_destroy(s);
	cr_assert_eq(atomic_load(&o.times), 0);
	expect_all_gone(pool);
}
