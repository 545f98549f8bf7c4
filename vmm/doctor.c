// SPDX-License-Identifier: MIT
/*
 * vmm/doctor.c - the checks, one function each, in the order they are told.
 *
 * A check that fails to find out says so; it does not guess.
 */
#include "vmm/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "arch/arch.h"
#include "mm/fault.h"
#include "mm/pagemap.h"
#include "mm/pool.h"
#include "vmm/console.h"
#include "vmm/hostinfo.h"
#include "vmm/kvm.h"

#define MIB            (UINT64_C(1) << 20)
#define CREATE_TRIES   5
#define CREATE_SLOW_NS UINT64_C(5000000)
#define FILES_FEW      4096u
#define MAPS_FEW       65530u
#define FREE_FEW       (512 * MIB)
#define TEXT_MAX       256u

/* ---- reporting ---- */

static struct doctor_finding *add(struct doctor_report *r, const char *check,
                                  enum doctor_level level)
{
	struct doctor_finding *f =
		&r->findings[r->count < DOCTOR_MAX ? r->count++ : DOCTOR_MAX - 1];

	*f = (struct doctor_finding){.check = check, .level = level};
	if (level == DOCTOR_FAIL)
		r->can_run = false;
	return f;
}

static void __attribute__((format(printf, 5, 6)))
tell(struct doctor_report *r, const char *check, enum doctor_level level, const char *advice,
     const char *format, ...)
{
	struct doctor_finding *f = add(r, check, level);
	va_list args;

	va_start(args, format);
	vsnprintf(f->found, sizeof(f->found), format, args);
	va_end(args);
	snprintf(f->advice, sizeof(f->advice), "%s", advice);
}

const char *doctor_level_name(enum doctor_level l)
{
	static const char *const names[] = {"ok", "note", "warn", "fail"};

	return names[l];
}

/* ---- KVM ---- */

static const char *open_advice(int err)
{
	switch (err) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return "modprobe kvm_intel or kvm_amd; in a virtual machine have nested "
		       "virtualization switched on";
	case EACCES:
	case EPERM:
		return "add yourself to group kvm (usermod -aG kvm USER; log in again) or run "
		       "as root";
	case ENOTTY:
		return "/dev/kvm is not KVM's device node; find out what put it there";
	default:
		return "guests need KVM with API version 12";
	}
}

static int compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* Median time of making a VM; closing it is not counted. Return: ns; 0 and *err when it failed. */
static uint64_t create_time(const struct kvm *k, int *err)
{
	uint64_t took[CREATE_TRIES], start;
	int fd;

	for (size_t i = 0; i < CREATE_TRIES; i++) {
		start = clock_ns();
		fd = kvm_create_vm(k);
		took[i] = clock_ns() - start;
		if (fd < 0) {
			*err = -fd;
			return 0;
		}
		close(fd);
	}
	qsort(took, CREATE_TRIES, sizeof(took[0]), compare);
	return took[CREATE_TRIES / 2];
}

static void check_create(struct doctor_report *r, const struct kvm *k)
{
	int err = 0;
	uint64_t ns = create_time(k, &err);

	if (ns == 0)
		tell(r, "making a VM", DOCTOR_FAIL,
		     "another hypervisor may hold the CPU's "
		     "virtualization; look at dmesg",
		     "%s", strerror(err));
	else
		tell(r, "making a VM", ns > CREATE_SLOW_NS ? DOCTOR_WARN : DOCTOR_OK,
		     ns > CREATE_SLOW_NS
		             ? "some cgroups make it slow: start from another one, or let "
		               "workers keep their VMs"
		             : "",
		     "%.2f ms (median of %d)", (double)ns / 1e6, CREATE_TRIES);
}

static void check_vcpu(struct doctor_report *r, const struct kvm *k)
{
	int vm = kvm_create_vm(k), vcpu;

	if (vm < 0)
		return; /* told already */
	vcpu = kvm_create_vcpu(vm, 0);
	if (vcpu < 0)
		tell(r, "making a vCPU", DOCTOR_FAIL, "look at dmesg", "%s", strerror(-vcpu));
	else
		close(vcpu);
	close(vm);
}

static void check_caps(struct doctor_report *r, const struct kvm_caps *c)
{
	const struct {
		const char *name;
		bool has;
	} caps[] = {
		{"immediate_exit", c->immediate_exit},
		{"irqchip", c->irqchip},
		{"sregs2", c->sregs2},
		{"xsave2", c->xsave2},
		{"readonly_mem", c->readonly_mem},
		{"pre_fault_memory", c->pre_fault_memory},
		{"guest_memfd", c->guest_memfd},
		{"memory_fault_info", c->memory_fault_info},
		{"stats_fd", c->stats_fd},
		{"dirty_ring", c->dirty_ring},
	};
	char has[TEXT_MAX] = "", hasnt[TEXT_MAX] = "";

	for (size_t i = 0; i < sizeof(caps) / sizeof(caps[0]); i++) {
		char *list = caps[i].has ? has : hasnt;
		size_t len = strlen(list);

		snprintf(list + len, TEXT_MAX - len, " %s", caps[i].name);
	}
	if (!c->immediate_exit)
		tell(r, "KVM capabilities", DOCTOR_FAIL, "needs Linux 4.13 or later",
		     "no immediate_exit: a running guest could not be stopped");
	else
		tell(r, "KVM capabilities", DOCTOR_OK, "",
		     "%u vCPUs, %u memory slots,%s; not there:%s", c->max_vcpus, c->max_slots, has,
		     hasnt[0] ? hasnt : " none");
}

static void check_kvm(struct doctor_report *r)
{
	struct kvm k;
	int e = kvm_open(&k, NULL);

	if (e) {
		tell(r, "/dev/kvm", DOCTOR_FAIL, open_advice(-e), "%s", strerror(-e));
		return;
	}
	tell(r, "/dev/kvm", DOCTOR_OK, "", "can be used; API version %d", KVM_API_VERSION);
	tell(r, "kind of KVM", DOCTOR_NOTE, "", "%s on %s", arch_kvm_kind(), arch_info.name);
	check_caps(r, &k.caps);
	check_create(r, &k);
	check_vcpu(r, &k);
	kvm_close(&k);
}

static void check_nx_huge(struct doctor_report *r)
{
	char text[TEXT_MAX];

	if (hostinfo_line("", "/sys/module/kvm/parameters/nx_huge_pages", text, sizeof(text)))
		return; /* this KVM has no such setting */
	if (text[0] == 'Y')
		tell(r, "nx_huge_pages", DOCTOR_WARN,
		     "on CPUs without the iTLB multihit erratum: kvm.nx_huge_pages=off",
		     "on: memory a guest runs code from is mapped 4 KiB by 4 KiB");
	else
		tell(r, "nx_huge_pages", DOCTOR_OK, "", "off");
}

/* ---- fault paths ---- */

static const char *uffd_advice(int err)
{
	if (err == ENOSYS)
		return "needs a kernel with CONFIG_USERFAULTFD";
	return "run as root, or sysctl vm.unprivileged_userfaultfd=1, or permission on "
	       "/dev/userfaultfd";
}

static void check_uffd(struct doctor_report *r)
{
	uint64_t open_to_all = 0;
	int fd = fault_uffd_open();
	const char *device = access("/dev/userfaultfd", R_OK | W_OK) == 0 ? "usable"
	                     : access("/dev/userfaultfd", F_OK) == 0      ? "no permission"
	                                                                  : "not there";

	(void)hostinfo_number("", "/proc/sys/vm/unprivileged_userfaultfd", &open_to_all);
	if (fd < 0) {
		tell(r, "userfaultfd", DOCTOR_WARN, uffd_advice(-fd),
		     "%s; device %s, sysctl %" PRIu64 ": only the kernel fault path, without "
		     "limits and records",
		     strerror(-fd), device, open_to_all);
		return;
	}
	close(fd);
	tell(r, "userfaultfd", DOCTOR_OK, "",
	     "can be used; device %s, sysctl %" PRIu64 ": both fault paths, kernel and uffd",
	     device, open_to_all);
}

static void check_pagemap(struct doctor_report *r)
{
	struct page_runs runs = {0};
	int e = pagemap_private((uintptr_t)r & ~(MM_PAGE_SIZE - 1), MM_PAGE_SIZE, PAGEMAP_IOCTL,
	                        &runs);

	page_runs_fini(&runs);
	if (e == 0)
		tell(r, "PAGEMAP_SCAN", DOCTOR_OK, "", "there");
	else
		tell(r, "PAGEMAP_SCAN", DOCTOR_NOTE, "Linux 6.7 or later has it",
		     "%s; private pages are found by reading pagemap, which is slower",
		     strerror(-e));
}

/* ---- huge pages ---- */

static void check_thp(struct doctor_report *r)
{
	char anon[TEXT_MAX], shmem[TEXT_MAX];

	if (hostinfo_line("", "/sys/kernel/mm/transparent_hugepage/enabled", anon, sizeof(anon))) {
		tell(r, "THP", DOCTOR_WARN, "a kernel with CONFIG_TRANSPARENT_HUGEPAGE",
		     "this kernel has no transparent huge pages: guests fault 4 KiB by 4 KiB");
		return;
	}
	(void)hostinfo_line("", "/sys/kernel/mm/transparent_hugepage/shmem_enabled", shmem,
	                    sizeof(shmem));
	hostinfo_chosen(anon);
	hostinfo_chosen(shmem);
	tell(r, "THP", DOCTOR_OK, "", "anonymous memory: %s; shared memory: %s", anon, shmem);
}

/* Not what a setting says: a block of a pool of ours, made huge. */
static void check_collapse(struct doctor_report *r)
{
	struct pool *pool;
	frame_t f;
	bool at_touch;
	int e = pool_create(MM_BLOCK_SIZE, &pool);

	if (e) {
		tell(r, "2 MiB frames", DOCTOR_FAIL,
		     "guests need memfd_create and some free memory",
		     "a pool of 2 MiB cannot be made: %s", strerror(-e));
		return;
	}
	at_touch = pool_huge(pool);
	e = pool_alloc(pool, MM_BLOCK_ORDER, FRAME_NONE, &f);
	if (!e) {
		e = pool_collapse(pool, f);
		pool_unref(pool, f);
	}
	pool_put(pool);
	if (e)
		tell(r, "2 MiB frames", DOCTOR_WARN,
		     "Linux 6.1 or later with THP, and free memory that is not in pieces",
		     "MADV_COLLAPSE: %s; guests fault 4 KiB by 4 KiB", strerror(-e));
	else if (at_touch)
		tell(r, "2 MiB frames", DOCTOR_OK, "", "at the first touch, in a tmpfs of our own");
	else
		tell(r, "2 MiB frames", DOCTOR_NOTE,
		     "with CAP_SYS_ADMIN (a tmpfs of our own) the first touch makes them",
		     "by MADV_COLLAPSE on a memfd, one block at a time");
}

static void huge_text(const char *size, uint64_t bytes, char *text, size_t room)
{
	struct hostinfo_huge h;

	if (hostinfo_huge("", bytes, &h))
		snprintf(text, room, "none of %s can be had", size);
	else
		snprintf(text, room, "%" PRIu64 " of %s, %" PRIu64 " free", h.all, size, h.free);
}

/* Nothing else needs any. */
static void check_hugetlb(struct doctor_report *r)
{
	char small[TEXT_MAX / 4], large[TEXT_MAX / 4];

	huge_text("2 MiB", MM_BLOCK_SIZE, small, sizeof(small));
	huge_text("1 GiB", MM_HUGE_SIZE, large, sizeof(large));
	tell(r, "pages set aside", DOCTOR_NOTE,
	     "for --hugetlb and --page-size 1g write a number to "
	     "/sys/kernel/mm/hugepages/hugepages-*kB/nr_hugepages",
	     "%s; %s", small, large);
}

/* ---- limits ---- */

static void check_maps(struct doctor_report *r)
{
	uint64_t n;

	if (hostinfo_number("", "/proc/sys/vm/max_map_count", &n))
		return;
	tell(r, "max_map_count", n < MAPS_FEW ? DOCTOR_WARN : DOCTOR_OK,
	     n < MAPS_FEW ? "sysctl vm.max_map_count=1048576" : "", "%" PRIu64, n);
}

static void limit_text(rlim_t v, char *text, size_t size)
{
	if (v == RLIM_INFINITY)
		snprintf(text, size, "unlimited");
	else
		snprintf(text, size, "%" PRIu64, (uint64_t)v);
}

static void check_files(struct doctor_report *r)
{
	struct rlimit l;
	char soft[32], hard[32];
	bool few;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return;
	limit_text(l.rlim_cur, soft, sizeof(soft));
	limit_text(l.rlim_max, hard, sizeof(hard));
	few = l.rlim_cur < FILES_FEW && l.rlim_max < FILES_FEW;
	tell(r, "open files", few ? DOCTOR_WARN : DOCTOR_OK,
	     few ? "raise the hard limit (ulimit -Hn) for many clones at once" : "",
	     "%s, at most %s; a virtual machine takes about 6", soft, hard);
}

static void check_memlock(struct doctor_report *r)
{
	struct rlimit l;
	char soft[32];

	if (getrlimit(RLIMIT_MEMLOCK, &l) < 0)
		return;
	limit_text(l.rlim_cur, soft, sizeof(soft));
	tell(r, "locked memory", DOCTOR_NOTE, "", "%s bytes; guests need none", soft);
}

static void check_cgroup(struct doctor_report *r)
{
	uint64_t limit = hostinfo_memory_limit("");

	if (limit == UINT64_MAX)
		tell(r, "cgroup memory", DOCTOR_OK, "", "no limit");
	else
		tell(r, "cgroup memory", limit < FREE_FEW ? DOCTOR_WARN : DOCTOR_NOTE,
		     "guests beyond it are killed: keep --mem and -n below", "%" PRIu64 " MiB",
		     limit / MIB);
}

static void check_memory(struct doctor_report *r)
{
	uint64_t available = hostinfo_meminfo("", "MemAvailable"),
		 total = hostinfo_meminfo("", "MemTotal");

	tell(r, "memory", available < FREE_FEW ? DOCTOR_WARN : DOCTOR_OK,
	     available < FREE_FEW ? "free some, or run small guests" : "",
	     "%" PRIu64 " MiB available of %" PRIu64 " MiB", available / MIB, total / MIB);
}

static void check_kernel(struct doctor_report *r)
{
	struct utsname host;
	unsigned major = 0, minor = 0;
	bool old;

	if (uname(&host) < 0)
		return;
	/* An unreadable version stays 0.0 and is called old: that is what it looks like. */
	(void)sscanf(host.release, "%u.%u", &major, &minor); /* NOLINT(cert-err34-c) */
	old = major < 6 || (major == 6 && minor < 1);
	tell(r, "kernel", old ? DOCTOR_WARN : DOCTOR_OK,
	     old ? "Linux 6.1 or later makes 2 MiB frames on demand (MADV_COLLAPSE)" : "",
	     "Linux %s", host.release);
}

void doctor_examine(struct doctor_report *r)
{
	static void (*const checks[])(struct doctor_report * r) = {
		check_kernel,  check_kvm,      check_nx_huge, check_uffd, check_pagemap,
		check_thp,     check_collapse, check_hugetlb, check_maps, check_files,
		check_memlock, check_cgroup,   check_memory,
	};

	*r = (struct doctor_report){.can_run = true};
	for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++)
		checks[i](r);
}
