// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_vm_stuck.c - a VM whose violations nobody answers any more ends with an error,
 * never by waiting for ever.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/kvm/lab.h"

#define POOL (256 * MIB)

TestSuite(vm_stuck, .timeout = 120);

/* The one userfaultfd of this process. */
static int find_uffd(void)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;
	int found = -1;

	cr_assert_not_null(d);
	while ((e = readdir(d))) {
		char path[300], to[64] = "";

		snprintf(path, sizeof(path), "/proc/self/fd/%s", e->d_name);
		if (readlink(path, to, sizeof(to) - 1) > 0 && strstr(to, "[userfaultfd]")) {
			cr_assert_eq(found, -1);
			found = (int)strtol(e->d_name, NULL, 10);
		}
	}
	closedir(d);
	cr_assert_geq(found, 0);
	return found;
}

/* It says so, and nothing more can be had of the VM. */
static void expect_failed(struct vm *vm, int code)
{
	struct vm_report r = lab_run(vm);
	struct image *image;
	struct vm_error err;

	cr_assert_eq(r.event, VM_FAILED, "event %d: %s", r.event, r.text);
	cr_assert_eq(r.code, code, "%s", r.text);
	cr_assert(strstr(r.text, "guest memory: "), "%s", r.text);
	cr_assert_eq(lab_run(vm).event, VM_FAILED);
	cr_assert_eq(vm_snapshot(vm, &image, &err), -ENOTRECOVERABLE);
}

/* The handler dies at the first event; with it the file goes, and the kernel lets go who waits. */
Test(vm_stuck, handler_dies)
{
	struct lab l;

	require_path(FAULTS_UFFD);
	lab_open(&l, POOL);
	for (unsigned cpus = 1; cpus <= 2; cpus++) {
		struct vm_config c = lab_config(&l, 64 * MIB, cpus, FAULTS_UFFD, NULL);
		struct vm *vm = lab_boot(&c, "memwalk", "size=32M");
		int uffd = find_uffd();
		int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

		cr_assert_eq(dup2(null, uffd), uffd);
		close(null);
		expect_failed(vm, -EIO);
		vm_destroy(vm);
	}
	lab_close(&l);
}
