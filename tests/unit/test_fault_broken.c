// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_fault_broken.c - a handler that dies or is stuck: said within the space's
 * patience, and who waits can be let go. A thread stands for a vCPU.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>
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

/* 8 MiB as `c` says, or fresh; `o` is told. */
static struct space *make_owned(struct owner *o, struct space_config *c)
{
	struct ram_region ram = ram_at(0, 8 * MIB, PAGE_SIZE_AUTO);
	struct space *s;

	require_path(FAULTS_UFFD);
	sem_init(&o->starving, 0, 0);
	sem_init(&o->go_on, 0, 0);
	c->ram = &ram;
	c->ram_count = 1;
	c->faults = FAULTS_UFFD;
	c->nomem = c->nomem ? c->nomem : on_nomem;
	c->broken = on_broken;
	c->patience_ms = c->patience_ms ? c->patience_ms : PATIENCE_MS;
	c->ctx = o;
	s = make_space(c);
	atomic_store(&o->s, s);
	return s;
}

static struct space *owned(struct owner *o, struct pool *pool, uint64_t limit_frames)
{
	return make_owned(o, &(struct space_config){.pool = pool, .limit_frames = limit_frames});
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

/* The first words of this program: a file whose mappings refuse to be disarmed. */
static struct image *file_image(void)
{
	struct ram_region ram = ram_at(0, 8 * MIB, PAGE_SIZE_AUTO);
	struct extent e[] = {{.gpa = {0}, .pages = 2}, {.gpa = {8 * PAGE}, .pages = 2}};
	struct image_parts parts = {.ram = &ram, .ram_count = 1, .extents = e, .extent_count = 2};
	struct store *store;
	struct image *image;

	cr_assert_eq(
		store_open_file(open("/proc/self/exe", O_RDONLY | O_CLOEXEC), 2 * PAGE, &store), 0);
	e[0].store = e[1].store = store;
	cr_assert_eq(image_create(&parts, &image), 0);
	store_put(store);
	return image;
}

static void *load_second_extent(void *arg)
{
	struct space *s = arg;

	(void)guest_load(s, 8 * PAGE);
	return NULL;
}

/* Stuck half way through a block of a clone: the half that is there refuses, the rest is freed. */
Test(fault_broken, stuck_half_way_through_a_block)
{
	struct owner o = {.stuck = false};
	struct pool *pool = new_pool(64 * MIB);
	struct image *image = file_image();
	struct space *s = make_owned(&o, &(struct space_config){.pool = pool, .image = image});
	pthread_t vcpu;

	image_put(image);
	inject_meanwhile(hang, &o);
	inject_arm_call_all(2, INJECT_MMAP);
	cr_assert_eq(pthread_create(&vcpu, NULL, load_second_extent, s), 0);
	wait_broken(&o, -ETIMEDOUT);
	cr_assert_eq(pthread_join(vcpu, NULL), 0);
	cr_assert(inject_fired());
	sem_post(&o.go_on);
	inject_disarm();
	space_destroy(s);
	expect_all_gone(pool);
}

/* Broken otherwise and stuck with the lock: nobody waits for that lock. */
Test(fault_broken, stuck_with_the_lock_and_broken)
{
	static struct owner o = {.stuck = false};
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = owned(&o, pool, 0);
	pthread_t vcpu;

	s->broken = NULL;
	inject_meanwhile(hang, &o);
	inject_arm_call_all(1, INJECT_MMAP);
	vcpu = launch(s);
	while (!inject_fired())
		sched_yield();
	uffd_break(s, -EIO);
	space_shutdown(s);
	cr_assert(s->fault.abandoned);
	cr_assert_eq(pthread_join(vcpu, NULL), 0);
	inject_disarm();
	space_destroy(s);
	pool_put(pool);
}

/* Long work with the lock, of which each step is short. */
Test(fault_broken, patience_is_not_for_who_waits_for_the_lock)
{
	const struct timespec step = {.tv_nsec = PATIENCE_MS * 1000000L / 16};
	struct owner o = {.stuck = false};
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = owned(&o, pool, 0);
	pthread_t vcpu;

	lock_take(&s->lock);
	vcpu = launch(s);
	for (unsigned i = 0; i < 4 * 16; i++) {
		nanosleep(&step, NULL);
		space_gets_on(s);
	}
	lock_drop(&s->lock);
	cr_assert_eq(pthread_join(vcpu, NULL), 0);
	cr_assert_eq(atomic_load(&o.times), 0);
	for (uint64_t at = 0; at < 8 * MIB; at += PAGE)
		cr_assert_eq(guest_load(s, at), 1);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Steps of that kind, with no event among them. */
static uint32_t steps_since(struct space *s, uint32_t *before)
{
	uint32_t now = atomic_load(&s->fault.beat), steps = (now - *before) / 2;

	cr_assert_eq((now - *before) % 2, 0);
	*before = now;
	return steps;
}

Test(fault_broken, what_takes_long_gets_on)
{
	struct owner o = {.stuck = false};
	struct pool *pool = new_pool(64 * MIB);
	struct space *s = owned(&o, pool, 0);
	uint32_t before = atomic_load(&s->fault.beat);
	struct image *image;

	cr_assert_eq(space_populate(s, (struct gpa_range){{0}, 8 * MIB}), 0);
	cr_assert_eq(steps_since(s, &before), 4);
	image = publish(s);
	cr_assert_geq(steps_since(s, &before), 4);
	image_put(image);
	space_destroy(s);
	expect_all_gone(pool);
}

/* Stuck for a while that is short, but for the time in which nothing of the process runs. */
static void slow_nomem(void *ctx, struct violation v)
{
	const struct timespec nap = {.tv_nsec = 10000000};
	struct owner *o = ctx;

	(void)v;
	sem_post(&o->starving);
	for (unsigned i = 0; i < 40; i++)
		nanosleep(&nap, NULL);
}

/* Return: whether the handler was left behind. */
static bool end_while_stopped(int ready)
{
	struct owner o = {.stuck = false};
	struct pool *pool = new_pool(64 * MIB);
	struct space *s;
	pthread_t vcpu;

	s = make_owned(&o, &(struct space_config){.pool = pool,
	                                          .limit_frames = MM_BLOCK_PAGES,
	                                          .nomem = slow_nomem,
	                                          .patience_ms = 2000});
	vcpu = launch(s);
	sem_wait(&o.starving);
	if (write(ready, "", 1) != 1)
		return true;
	space_shutdown(s);
	pthread_join(vcpu, NULL);
	return s->fault.abandoned;
}

Test(fault_broken, stopped_while_it_ends)
{
	const struct timespec a_bit = {.tv_nsec = 100000000};
	const struct timespec longer = {.tv_sec = 2, .tv_nsec = 500000000};
	int ready[2], status;
	char byte;
	pid_t child;

	require_path(FAULTS_UFFD);
	cr_assert_eq(pipe2(ready, O_CLOEXEC), 0);
	child = fork();
	cr_assert_geq(child, 0);
	if (child == 0)
		_exit(end_while_stopped(ready[1]));
	cr_assert_eq(read(ready[0], &byte, 1), 1);
	nanosleep(&a_bit, NULL);
	cr_assert_eq(kill(child, SIGSTOP), 0);
	nanosleep(&longer, NULL);
	cr_assert_eq(kill(child, SIGCONT), 0);
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "left behind");
}
