// SPDX-License-Identifier: MIT
/*
 * vmm/fileio.h - positioned file reads and writes that deal with interrupted and short calls in one
 * place.
 */
#ifndef COWSLIP_VMM_FILEIO_H
#define COWSLIP_VMM_FILEIO_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

/*
 * Read `size` bytes at `offset`, or as many as there are before the end of the file; *got says
 * how many. Any thread; the file position is not used.
 * Return: 0 (with *got < size only at the end of the file); -errno of pread, never -EINTR.
 */
static inline int fileio_read_at(int fd, void *to, size_t size, uint64_t offset, size_t *got)
{
	char *p = to;

	*got = 0;
	while (*got < size) {
		ssize_t n = pread(fd, p + *got, size - *got, (off_t)(offset + *got));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		*got += (size_t)n;
	}
	return 0;
}

/*
 * Write `size` bytes at `offset`; the file position is not used. Any thread.
 * Return: 0; -errno of pwrite, never -EINTR, and *done bytes have been written.
 */
static inline int fileio_write_at(int fd, const void *from, size_t size, uint64_t offset,
                                  size_t *done)
{
	const char *p = from;

	*done = 0;
	while (*done < size) {
		ssize_t n = pwrite(fd, p + *done, size - *done, (off_t)(offset + *done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		*done += (size_t)n;
	}
	return 0;
}

#endif
