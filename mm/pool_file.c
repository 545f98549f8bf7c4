// SPDX-License-Identifier: MIT
/*
 * mm/pool_file.c - the file behind a pool's frames: one that gives 2 MiB pages at first touch to
 * who asks, where such a file can be had, else a plain memfd.
 *
 * A private tmpfs mounted huge=advise, detached: it has no path, nobody sees the mount, and
 * it goes with the last descriptor. It heeds its own mount option, not the host's shmem_enabled
 * (which is "never" nearly everywhere). Mounting takes CAP_SYS_ADMIN. Not huge=always: then a
 * mapping would bring in huge pages from when it is made until it is told not to, and so would a
 * clone that reads where its image has nothing, and khugepaged by itself.
 *
 * Source: Linux Documentation/filesystems/tmpfs.rst and admin-guide/mm/transhuge.rst.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include "mm/pool_internal.h"

/* Return: 0; -errno: not permitted, or a kernel without huge pages in tmpfs. */
static int configure(int fs)
{
	if (fsconfig(fs, FSCONFIG_SET_STRING, "huge", "advise", 0) < 0)
		return -errno;
	/* Not the half of RAM that a tmpfs has by default: the pool has a limit of its own. */
	if (fsconfig(fs, FSCONFIG_SET_STRING, "size", "0", 0) < 0)
		return -errno;
	return fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0 ? -errno : 0;
}

static int open_huge(void)
{
	int fs = fsopen("tmpfs", FSOPEN_CLOEXEC);
	int mount, fd, r;

	if (fs < 0)
		return -errno;
	r = configure(fs);
	if (r)
		goto close_fs;
	mount = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	if (mount < 0) {
		r = -errno;
		goto close_fs;
	}
	fd = openat(mount, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	r = fd < 0 ? -errno : fd;
	/* The open file keeps the filesystem. */
	close(mount);
close_fs:
	close(fs);
	return r;
}

int pool_file_open(bool *huge)
{
	int fd = open_huge();

	*huge = fd >= 0;
	if (fd < 0)
		fd = memfd_create("cowslip-pool", MFD_CLOEXEC);
	return fd < 0 ? -errno : fd;
}
