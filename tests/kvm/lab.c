// SPDX-License-Identifier: MIT
/*
 * tests/kvm/lab.c - real VMs for tests.
 */
#include "tests/kvm/lab.h"

#include <dirent.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "mm/fault.h"

void require_path(enum fault_choice faults)
{
	int fd;

	if (faults != FAULTS_UFFD)
		return;
	fd = fault_uffd_open();
	if (fd < 0)
		cr_skip_test("no userfaultfd here: %s", strerror(-fd));
	close(fd);
}

/* ---- consoles ---- */

void tape_write(void *ctx, const void *data, size_t size)
{
	struct tape *t = ctx;
	size_t room = sizeof(t->text) - 1 - t->size;
	size_t n = size < room ? size : room;

	memcpy(t->text + t->size, data, n);
	t->size += n;
	t->total += size;
}

uint64_t tape_hex(const struct tape *t, const char *word)
{
	const char *at = strstr(t->text, word);
	char *end;
	uint64_t value;

	cr_assert(at, "no \"%s\" in \"%s\"", word, t->text);
	at += strlen(word) + 1;
	value = strtoull(at, &end, 16);
	cr_assert(end > at, "no number behind \"%s\" in \"%s\"", word, t->text);
	return value;
}

/* ---- VMs ---- */

void lab_open(struct lab *l, uint64_t pool_bytes)
{
	cr_assert_eq(kvm_open(&l->kvm, NULL), 0);
	cr_assert_eq(pool_create(pool_bytes, &l->pool), 0);
}

void lab_close(struct lab *l)
{
	struct pool_stats ps;

	pool_stats(l->pool, &ps);
	cr_assert_eq(ps.used_frames, 0, "%lu frames left behind", ps.used_frames);
	cr_assert_eq(ps.retired_frames, 0);
	cr_assert_eq(pool_audit(l->pool), 0);
	pool_put(l->pool);
	kvm_close(&l->kvm);
}

const char *lab_guest(const char *name)
{
	static char path[512];
	const char *dir = getenv("COWSLIP_GUESTS");

	snprintf(path, sizeof(path), "%s/%s.elf", dir ? dir : "build/guest", name);
	return path;
}

struct vm_config lab_config(const struct lab *l, uint64_t ram, unsigned cpus,
                            enum fault_choice faults, struct tape *t)
{
	return (struct vm_config){
		.kvm = &l->kvm,
		.pool = l->pool,
		.ram_bytes = ram,
		.cpus = cpus,
		.faults = faults,
		.console = t ? tape_write : NULL,
		.console_ctx = t,
	};
}

struct vm *lab_make(const struct vm_config *c)
{
	struct vm_error err;
	struct vm *vm;
	int r = vm_create(c, &vm, &err);

	cr_assert_eq(r, 0, "%d: %s", r, err.text);
	return vm;
}

struct vm *lab_boot(const struct vm_config *c, const char *guest, const char *args)
{
	struct vm *vm = lab_make(c);
	struct vm_error err;
	int r = vm_boot_elf(vm, lab_guest(guest), args, &err);

	cr_assert_eq(r, 0, "%s", err.text);
	return vm;
}

struct vm *lab_clone(const struct lab *l, struct image *image, uint64_t number,
                     enum fault_choice faults, struct tape *t)
{
	struct vm_config c = lab_config(l, 0, 0, faults, t);

	c.image = image;
	c.number = number;
	return lab_make(&c);
}

struct vm_report lab_run_for(struct vm *vm, uint64_t ns)
{
	struct vm_report r;

	vm_run(vm, clock_ns() + ns, &r);
	return r;
}

struct vm_report lab_run(struct vm *vm)
{
	struct vm_report r = lab_run_for(vm, 60 * SECOND);

	cr_assert_neq(r.event, VM_TIMEOUT);
	return r;
}

void lab_expect(struct vm *vm, enum vm_event event, int code)
{
	struct vm_report r = lab_run(vm);

	cr_assert_eq(r.event, event, "event %d code %d: %s", r.event, r.code, r.text);
	if (event == VM_EXITED)
		cr_assert_eq(r.code, code, "exit code %d", r.code);
}

bool lab_frames_can_wait(void)
{
	unsigned long major, minor;
	struct utsname host;
	char *end;

	cr_assert_eq(uname(&host), 0);
	major = strtoul(host.release, &end, 10);
	minor = *end == '.' ? strtoul(end + 1, NULL, 10) : 0;
	return major > 6 || (major == 6 && minor >= 2);
}

void lab_expect_given_up(struct vm *vm)
{
	struct vm_report r = lab_run(vm);
	struct image *image;
	struct vm_error err;

	cr_assert_eq(r.event, VM_FAILED, "event %d: %s", r.event, r.text);
	cr_assert_eq(r.code, -ENOTRECOVERABLE);
	cr_assert(strstr(r.text, "out of frames"), "%s", r.text);
	cr_assert_eq(vm_snapshot(vm, &image, &err), -ENOTRECOVERABLE);
}

struct image *lab_snapshot(struct vm *vm)
{
	struct vm_error err;
	struct image *image;
	int r = vm_snapshot(vm, &image, &err);

	cr_assert_eq(r, 0, "%s", err.text);
	return image;
}

void lab_audit(const struct lab *l, struct vm *vm)
{
	cr_assert_eq(space_audit(vm_space(vm)), 0);
	cr_assert_eq(pool_audit(l->pool), 0);
}

void lab_refuse_ioctl(unsigned long nr, int error)
{
	const struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = {sizeof(code) / sizeof(code[0]),
	                                   (struct sock_filter *)(uintptr_t)code};

	cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	cr_assert_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

/* ---- what the process holds ---- */

static unsigned entries(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	cr_assert(d, "%s", path);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static unsigned lines(const char *path)
{
	FILE *f = fopen(path, "re");
	unsigned n = 0;
	int c;

	cr_assert(f, "%s", path);
	while ((c = getc(f)) != EOF)
		n += c == '\n';
	fclose(f);
	return n;
}

struct footprint footprint_now(void)
{
	return (struct footprint){
		.fds = entries("/proc/self/fd"),
		.threads = entries("/proc/self/task"),
		.maps = lines("/proc/self/maps"),
	};
}

void footprint_expect(struct footprint before, unsigned slack)
{
	struct footprint now = footprint_now();

	/* A thread that has been joined is still listed for a moment. */
	for (int i = 0; i < 100 && now.threads > before.threads; i++) {
		usleep(1000);
		now = footprint_now();
	}
	cr_assert_eq(now.fds, before.fds, "%u descriptors, were %u", now.fds, before.fds);
	cr_assert_eq(now.threads, before.threads, "%u threads, were %u", now.threads,
	             before.threads);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	slack += 500; /* sanitizers have mappings of their own, for what was freed too */
#endif
	cr_assert_leq(now.maps, before.maps + slack, "%u mappings, were %u", now.maps, before.maps);
}

uint64_t lab_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

uint64_t lab_seed(void)
{
	const char *given = getenv("COWSLIP_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 0) : clock_ns() | 1;

	fprintf(stderr, "COWSLIP_SEED=%lu\n", seed);
	return seed;
}
