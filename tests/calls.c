// SPDX-License-Identifier: MIT
/*
 * tests/calls.c - a library to be preloaded: where the time of a clone goes, by system call.
 *
 *     make breakdown      runs clones with it and prints one table for each worker process
 *
 * The calls that making, resetting and running VMs consists of are timed where a program enters
 * the C library, so nothing stops the process as a tracer would; a clock is read twice for each
 * call. Printed to stderr when a process ends by _exit(), as workers do: per call how often, the
 * median and the 90th percentile in microseconds, and the time in all.
 *
 * Concurrency: calls of several threads at once are counted; a table is printed by the last.
 */
#include <dlfcn.h>
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES 65536u
#define KINDS   64u

struct kind {
	const char *name;
	unsigned long nr; /* of an ioctl, else 0 */
	uint32_t count;
	uint32_t ns[SAMPLES];
};

static struct kind *kinds;
static unsigned kind_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static const struct {
	unsigned long nr;
	const char *name;
} ioctls[] = {
	{KVM_CREATE_VM, "KVM_CREATE_VM"},
	{KVM_CREATE_VCPU, "KVM_CREATE_VCPU"},
	{KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION"},
	{KVM_RUN, "KVM_RUN"},
	{KVM_SET_CPUID2, "KVM_SET_CPUID2"},
	{KVM_GET_TSC_KHZ, "KVM_GET_TSC_KHZ"},
	{KVM_SET_MP_STATE, "KVM_SET_MP_STATE"},
	{KVM_GET_SREGS, "KVM_GET_SREGS"},
	{KVM_SET_SREGS, "KVM_SET_SREGS"},
	{KVM_SET_SREGS2, "KVM_SET_SREGS2"},
	{KVM_SET_XCRS, "KVM_SET_XCRS"},
	{KVM_SET_XSAVE, "KVM_SET_XSAVE"},
	{KVM_SET_REGS, "KVM_SET_REGS"},
	{KVM_SET_MSRS, "KVM_SET_MSRS"},
	{KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS"},
	{KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS"},
	{KVM_SET_CLOCK, "KVM_SET_CLOCK"},
	{0xc0606610, "PAGEMAP_SCAN"},
};

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The real function behind a name. */
static void *next(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

static const char *ioctl_name(unsigned long nr)
{
	for (unsigned i = 0; i < sizeof(ioctls) / sizeof(ioctls[0]); i++)
		if (ioctls[i].nr == nr)
			return ioctls[i].name;
	return "other ioctl";
}

/* NULL: no more kinds. Lock held. */
static struct kind *find(const char *name)
{
	if (!kinds) {
		void *at = ((__typeof__(mmap) *)next("mmap"))(
			NULL, KINDS * sizeof(*kinds), PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (at == MAP_FAILED)
			return NULL;
		kinds = at;
	}
	for (unsigned i = 0; i < kind_count; i++)
		if (strcmp(kinds[i].name, name) == 0)
			return &kinds[i];
	if (kind_count == KINDS)
		return NULL;
	kinds[kind_count].name = name;
	return &kinds[kind_count++];
}

static void note(const char *name, uint64_t start)
{
	uint64_t ns = now() - start;
	int error = errno;
	struct kind *k;

	pthread_mutex_lock(&lock);
	k = find(name);
	if (k && k->count < SAMPLES)
		k->ns[k->count++] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
	pthread_mutex_unlock(&lock);
	errno = error;
}

static int by_time(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static void print_table(void)
{
	fprintf(stderr, "%-28s %8s %10s %10s %12s\n", "call", "times", "p50 us", "p90 us",
	        "in all us");
	for (unsigned i = 0; i < kind_count; i++) {
		struct kind *k = &kinds[i];
		uint32_t half = k->count / 2, most = (uint32_t)((uint64_t)k->count * 9 / 10);
		double sum = 0;

		for (uint32_t n = 0; n < k->count; n++)
			sum += k->ns[n];
		qsort(k->ns, k->count, sizeof(k->ns[0]), by_time);
		fprintf(stderr, "%-28s %8u %10.1f %10.1f %12.0f\n", k->name, k->count,
		        k->ns[half] / 1e3, k->ns[most] / 1e3, sum / 1e3);
	}
}

/* ---- what the program calls ---- */

/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name) the C library has its own */

int ioctl(int fd, unsigned long nr, ...)
{
	static int (*real)(int, unsigned long, void *);
	uint64_t start;
	va_list args;
	void *arg;
	int r;

	va_start(args, nr);
	arg = va_arg(args, void *);
	va_end(args);
	if (!real)
		real = (int (*)(int, unsigned long, void *))next("ioctl");
	start = now();
	r = real(fd, nr, arg);
	note(ioctl_name(nr), start);
	return r;
}

void *mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset)
{
	static __typeof__(mmap) *real;
	uint64_t start;
	void *r;

	if (!real)
		real = (__typeof__(mmap) *)next("mmap");
	start = now();
	r = real(at, size, prot, flags, fd, offset);
	note("mmap", start);
	return r;
}

int munmap(void *at, size_t size)
{
	static __typeof__(munmap) *real;
	uint64_t start;
	int r;

	if (!real)
		real = (__typeof__(munmap) *)next("munmap");
	start = now();
	r = real(at, size);
	note("munmap", start);
	return r;
}

/* The last descriptor of a VM is dear, others are not. */
int close(int fd)
{
	static __typeof__(close) *real;
	char path[64], what[64] = "";
	uint64_t start;
	int r;

	if (!real)
		real = (__typeof__(close) *)next("close");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (readlink(path, what, sizeof(what) - 1) < 0)
		what[0] = '\0';
	start = now();
	r = real(fd);
	note(strstr(what, "kvm-vm") ? "close of a VM" : "close", start);
	return r;
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
	static __typeof__(sendmsg) *real;
	uint64_t start;
	ssize_t r;

	if (!real)
		real = (__typeof__(sendmsg) *)next("sendmsg");
	start = now();
	r = real(fd, m, flags);
	note("sendmsg", start);
	return r;
}

ssize_t recv(int fd, void *to, size_t size, int flags)
{
	static __typeof__(recv) *real;
	uint64_t start;
	ssize_t r;

	if (!real)
		real = (__typeof__(recv) *)next("recv");
	start = now();
	r = real(fd, to, size, flags);
	note("recv", start);
	return r;
}

_Noreturn void _exit(int status)
{
	print_table();
	for (;;)
		syscall(SYS_exit_group, status);
}

/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */
