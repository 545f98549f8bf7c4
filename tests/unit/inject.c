// SPDX-License-Identifier: MIT
#include "tests/unit/inject.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/types.h>

/* What a call fails with where one error is as good as another. */
static const struct {
	const char *name;
	int error;
} calls[INJECT_CALLS] = {
	[INJECT_MMAP] = {"mmap", ENOMEM},
	[INJECT_MREMAP] = {"mremap", ENOMEM},
	[INJECT_MPROTECT] = {"mprotect", ENOMEM},
	[INJECT_MADVISE] = {"madvise", ENOMEM},
	[INJECT_FALLOCATE] = {"fallocate", ENOSPC},
	[INJECT_MALLOC] = {"malloc", ENOMEM},
	[INJECT_CALLOC] = {"calloc", ENOMEM},
	[INJECT_REALLOC] = {"realloc", ENOMEM},
	[INJECT_IOCTL] = {"ioctl", ENOMEM},
	[INJECT_MEMFD_CREATE] = {"memfd_create", EMFILE},
	[INJECT_PTHREAD_CREATE] = {"pthread_create", EAGAIN},
	[INJECT_EVENTFD] = {"eventfd", EMFILE},
	[INJECT_OPEN] = {"open", EMFILE},
	[INJECT_PREAD] = {"pread", EIO},
	[INJECT_FTRUNCATE] = {"ftruncate", ENOMEM},
	[INJECT_FSOPEN] = {"fsopen", EPERM},
	[INJECT_OPENAT] = {"openat", EMFILE},
	[INJECT_PWRITE] = {"pwrite", ENOSPC},
	[INJECT_FSYNC] = {"fsync", EIO},
	[INJECT_RENAMEAT] = {"renameat", ENOSPC},
	[INJECT_MUNMAP] = {"munmap", 0},
};

enum { OFF, THIS_THREAD, ALL_THREADS };

/* State of a program, not of a library: the wrapped calls have no other way to find it. */
static _Atomic int mode;
static _Atomic int only;  /* an enum inject_call, or INJECT_CALLS */
static _Atomic int error; /* 0: what `calls` says */
static _Atomic unsigned fail_at, steps;
static _Atomic int failed; /* an enum inject_call, or -1 */
static _Atomic unsigned reached[INJECT_CALLS], failures[INJECT_CALLS];
static _Atomic bool plain_pools;
static _Thread_local bool armed_here;
static void (*at_step)(void *ctx);
static void *at_step_ctx;

const char *inject_name(enum inject_call call)
{
	return calls[call].name;
}

static void arm(int which, unsigned step, int call, int with)
{
	atomic_store(&error, with);
	atomic_store(&steps, 0);
	atomic_store(&fail_at, step);
	atomic_store(&failed, -1);
	atomic_store(&only, call);
	armed_here = true;
	atomic_store(&mode, which);
}

void inject_arm(unsigned step)
{
	arm(THIS_THREAD, step, INJECT_CALLS, 0);
}

void inject_arm_all(unsigned step)
{
	arm(ALL_THREADS, step, INJECT_CALLS, 0);
}

void inject_arm_call(unsigned step, enum inject_call call)
{
	arm(THIS_THREAD, step, (int)call, 0);
}

void inject_arm_call_all(unsigned step, enum inject_call call)
{
	arm(ALL_THREADS, step, (int)call, 0);
}

void inject_arm_error(unsigned step, enum inject_call call, int with)
{
	arm(THIS_THREAD, step, (int)call, with);
}

void inject_meanwhile(void (*meanwhile)(void *ctx), void *ctx)
{
	at_step = meanwhile;
	at_step_ctx = ctx;
}

unsigned inject_disarm(void)
{
	atomic_store(&mode, OFF);
	armed_here = false;
	at_step = NULL;
	return atomic_load(&steps);
}

bool inject_fired(void)
{
	return atomic_load(&failed) >= 0;
}

enum inject_call inject_failed_call(void)
{
	return (enum inject_call)atomic_load(&failed);
}

unsigned inject_reached(enum inject_call call)
{
	return atomic_load(&reached[call]);
}

unsigned inject_failures(enum inject_call call)
{
	return atomic_load(&failures[call]);
}

static bool watching(void)
{
	int m = atomic_load(&mode);

	return m == ALL_THREADS || (m == THIS_THREAD && armed_here);
}

void inject_plain_pools(bool plain)
{
	atomic_store(&plain_pools, plain);
}

/* True when this call is the one to fail; errno is set. */
static bool step(enum inject_call call)
{
	if (!watching())
		return false;
	atomic_fetch_add(&reached[call], 1);
	if (atomic_load(&only) != INJECT_CALLS && atomic_load(&only) != (int)call)
		return false;
	if (atomic_fetch_add(&steps, 1) + 1 != atomic_load(&fail_at))
		return false;
	atomic_store(&failed, (int)call);
	if (at_step)
		at_step(at_step_ctx);
	if (atomic_load(&error) == INJECT_PASS)
		return false;
	atomic_fetch_add(&failures[call], 1);
	errno = atomic_load(&error) ? atomic_load(&error) : calls[call].error;
	return true;
}

void *__real_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset)
{
	return step(INJECT_MMAP) ? MAP_FAILED : __real_mmap(at, size, prot, flags, fd, offset);
}

void *__real_mremap(void *old, size_t old_size, size_t size, int flags, void *to);
void *__wrap_mremap(void *old, size_t old_size, size_t size, int flags, ...);
void *__wrap_mremap(void *old, size_t old_size, size_t size, int flags, ...)
{
	va_list ap;
	void *to;

	va_start(ap, flags);
	to = va_arg(ap, void *);
	va_end(ap);
	return step(INJECT_MREMAP) ? MAP_FAILED : __real_mremap(old, old_size, size, flags, to);
}

int __real_munmap(void *at, size_t size);
int __wrap_munmap(void *at, size_t size);
int __wrap_munmap(void *at, size_t size)
{
	if (watching())
		atomic_fetch_add(&reached[INJECT_MUNMAP], 1);
	return __real_munmap(at, size);
}

int __real_mprotect(void *at, size_t size, int prot);
int __wrap_mprotect(void *at, size_t size, int prot);
int __wrap_mprotect(void *at, size_t size, int prot)
{
	return step(INJECT_MPROTECT) ? -1 : __real_mprotect(at, size, prot);
}

int __real_madvise(void *at, size_t size, int advice);
int __wrap_madvise(void *at, size_t size, int advice);
int __wrap_madvise(void *at, size_t size, int advice)
{
	return step(INJECT_MADVISE) ? -1 : __real_madvise(at, size, advice);
}

int __real_fallocate(int fd, int how, off_t offset, off_t size);
int __wrap_fallocate(int fd, int how, off_t offset, off_t size);
int __wrap_fallocate(int fd, int how, off_t offset, off_t size)
{
	return step(INJECT_FALLOCATE) ? -1 : __real_fallocate(fd, how, offset, size);
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
	return step(INJECT_MALLOC) ? NULL : __real_malloc(size);
}

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
	return step(INJECT_CALLOC) ? NULL : __real_calloc(count, size);
}

void *__real_realloc(void *p, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_realloc(void *p, size_t size)
{
	return step(INJECT_REALLOC) ? NULL : __real_realloc(p, size);
}

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	return request != UFFDIO_WAKE && step(INJECT_IOCTL) ? -1 : __real_ioctl(fd, request, arg);
}

int __real_memfd_create(const char *name, unsigned flags);
int __wrap_memfd_create(const char *name, unsigned flags);
int __wrap_memfd_create(const char *name, unsigned flags)
{
	return step(INJECT_MEMFD_CREATE) ? -1 : __real_memfd_create(name, flags);
}

int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg)
{
	return step(INJECT_PTHREAD_CREATE) ? errno : __real_pthread_create(t, a, f, arg);
}

int __real_eventfd(unsigned value, int flags);
int __wrap_eventfd(unsigned value, int flags);
int __wrap_eventfd(unsigned value, int flags)
{
	return step(INJECT_EVENTFD) ? -1 : __real_eventfd(value, flags);
}

int __real_open(const char *path, int flags, mode_t permissions);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t permissions;

	va_start(ap, flags);
	permissions = va_arg(ap, mode_t);
	va_end(ap);
	return step(INJECT_OPEN) ? -1 : __real_open(path, flags, permissions);
}

ssize_t __real_pread(int fd, void *to, size_t size, off_t offset);
ssize_t __wrap_pread(int fd, void *to, size_t size, off_t offset);
ssize_t __wrap_pread(int fd, void *to, size_t size, off_t offset)
{
	return step(INJECT_PREAD) ? -1 : __real_pread(fd, to, size, offset);
}

int __real_ftruncate(int fd, off_t size);
int __wrap_ftruncate(int fd, off_t size);
int __wrap_ftruncate(int fd, off_t size)
{
	return step(INJECT_FTRUNCATE) ? -1 : __real_ftruncate(fd, size);
}

int __real_openat(int dir, const char *path, int flags, mode_t permissions);
int __wrap_openat(int dir, const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...)
{
	va_list ap;
	mode_t permissions;

	va_start(ap, flags);
	permissions = va_arg(ap, mode_t);
	va_end(ap);
	return step(INJECT_OPENAT) ? -1 : __real_openat(dir, path, flags, permissions);
}

ssize_t __real_pwrite(int fd, const void *from, size_t size, off_t offset);
ssize_t __wrap_pwrite(int fd, const void *from, size_t size, off_t offset);
ssize_t __wrap_pwrite(int fd, const void *from, size_t size, off_t offset)
{
	if (!step(INJECT_PWRITE))
		return __real_pwrite(fd, from, size, offset);
	return errno == INJECT_SHORT ? __real_pwrite(fd, from, (size + 1) / 2, offset) : -1;
}

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
	return step(INJECT_FSYNC) ? -1 : __real_fsync(fd);
}

int __real_renameat(int from_dir, const char *from, int to_dir, const char *to);
int __wrap_renameat(int from_dir, const char *from, int to_dir, const char *to);
int __wrap_renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	return step(INJECT_RENAMEAT) ? -1 : __real_renameat(from_dir, from, to_dir, to);
}

int __real_fsopen(const char *type, unsigned flags);
int __wrap_fsopen(const char *type, unsigned flags);
int __wrap_fsopen(const char *type, unsigned flags)
{
	if (step(INJECT_FSOPEN))
		return -1;
	if (atomic_load(&plain_pools)) {
		errno = calls[INJECT_FSOPEN].error;
		return -1;
	}
	return __real_fsopen(type, flags);
}
