// SPDX-License-Identifier: MIT
/*
 * mm/freeze.c - write-protection by userfaultfd, without anybody who reads its events: waking a
 * range wakes whoever waits there, whether or not the event has been read.
 *
 * Source: Linux Documentation/admin-guide/mm/userfaultfd.rst.
 */
#include "mm/freeze.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "mm/check.h"
#include "mm/space_internal.h"

#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12) /* Linux 5.19 */
#endif

static struct uffdio_range host_range(const struct space *s, struct gpa_range r)
{
	return (struct uffdio_range){(uint64_t)(uintptr_t)window_ptr(s, r.start), r.size};
}

/* Return: 0 or -errno, then nothing is registered. */
static int write_protect(int fd, struct uffdio_range range)
{
	struct uffdio_register reg = {.range = range, .mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_writeprotect wp = {.range = range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	int r;

	if (ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
		return -errno;
	do {
		r = ioctl(fd, UFFDIO_WRITEPROTECT, &wp) < 0 ? -errno : 0;
	} while (r == -EAGAIN);
	if (r)
		(void)ioctl(fd, UFFDIO_UNREGISTER, &range);
	return r;
}

/* Not permitted, or a kernel that cannot do this. */
static bool not_to_be_had(int fd)
{
	return fd == -EPERM || fd == -ENOSYS || fd == -EINVAL;
}

int space_freeze(struct space *s, struct gpa_range r, struct freeze *out)
{
	uint64_t stop;
	int fd, e;

	*out = (struct freeze){.range = r, .uffd = -1};
	if (guard_get(s, r.start.v, gpa_range_end(r), &stop) != PROTECT_RW)
		return 0;
	fd = fault_uffd_open_for(UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	if (not_to_be_had(fd)) {
		e = window_protect(s, r, PROTECT_RO);
		out->read_only = e == 0;
		return e;
	}
	if (fd < 0)
		return fd;
	e = write_protect(fd, host_range(s, r));
	if (e)
		close(fd);
	else
		out->uffd = fd;
	return e;
}

void space_thaw(struct space *s, const struct freeze *f, bool replaced)
{
	struct uffdio_range range = host_range(s, f->range);

	if (f->read_only && !replaced)
		CHECK(window_protect(s, f->range, PROTECT_RW) == 0);
	if (f->uffd < 0)
		return;
	/* This wakes too, but what has been mapped over is no longer registered. */
	if (!replaced)
		CHECK(ioctl(f->uffd, UFFDIO_UNREGISTER, &range) == 0);
	/* As in mm/fault_uffd.c: fails for no range of ours. */
	CHECK(ioctl(f->uffd, UFFDIO_WAKE, &range) == 0);
	close(f->uffd);
}
