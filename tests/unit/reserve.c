// SPDX-License-Identifier: MIT
#include "tests/unit/reserve.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define HUGEPAGES "/sys/kernel/mm/hugepages"

enum { SIZES = PAGE_SIZE_1G + 1 };

/* Of a process, as the tests in it are. */
static int turn = -1;
static unsigned long before[SIZES];
static bool changed[SIZES];

static void path_of(enum page_size size, const char *name, char *path, size_t room)
{
	snprintf(path, room, HUGEPAGES "/hugepages-%lukB/%s",
	         (unsigned long)(page_size_bytes(size) >> 10), name);
}

/* Return: 0 or -errno. */
static int read_number(enum page_size size, const char *name, unsigned long *out)
{
	char path[128], text[32];
	FILE *f;
	int r;

	path_of(size, name, path, sizeof(path));
	f = fopen(path, "re");
	if (!f)
		return -errno;
	r = fgets(text, sizeof(text), f) ? 0 : -EIO;
	fclose(f);
	if (r == 0)
		*out = strtoul(text, NULL, 10);
	return r;
}

static int write_number(enum page_size size, unsigned long n)
{
	char path[128], text[32];
	int fd, r = 0;
	int length = snprintf(text, sizeof(text), "%lu", n);

	path_of(size, "nr_hugepages", path, sizeof(path));
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, text, (size_t)length) != length)
		r = -errno;
	close(fd);
	return r;
}

unsigned long free_pages(enum page_size size)
{
	unsigned long n = 0;

	(void)read_number(size, "free_hugepages", &n);
	return n;
}

static void take_turn(void)
{
	if (turn >= 0)
		return;
	turn = open(HUGEPAGES, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (turn < 0)
		cr_skip_test("huge pages: %s: %s", HUGEPAGES, strerror(errno));
	while (flock(turn, LOCK_EX) < 0)
		cr_assert_eq(errno, EINTR);
}

void reserve_pages(enum page_size size, unsigned pages)
{
	unsigned long lack;
	int r;

	take_turn();
	r = read_number(size, "nr_hugepages", &before[size]);
	lack = free_pages(size) < pages ? pages - free_pages(size) : 0;
	if (r == 0 && lack > 0) {
		r = write_number(size, before[size] + lack);
		changed[size] = r == 0;
	}
	if (r == 0 && free_pages(size) >= pages)
		return;
	release_pages();
	cr_skip_test("%u huge pages of %lu MiB: %s", pages,
	             (unsigned long)(page_size_bytes(size) >> 20),
	             r ? strerror(-r) : "the host has no memory left for them");
}

void release_pages(void)
{
	for (int size = 0; size < SIZES; size++)
		if (changed[size])
			(void)write_number((enum page_size)size, before[size]);
	memset(changed, 0, sizeof(changed));
	if (turn >= 0)
		close(turn);
	turn = -1;
}
