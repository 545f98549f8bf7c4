// SPDX-License-Identifier: MIT
/*
 * bench/memory.c - makes memory the way other VMMs do, each in the plainest form that is fair.
 *
 * Invariants:
 *   1. a stretch lies between pages that nobody may touch, so smaps never joins it with another
 *   2. nothing of it is shared with another run, but for the image's bytes
 *   3. what should be 4 KiB pages is made so against the host's defaults (MADV_NOHUGEPAGE)
 *
 * Does not: register anything with KVM, or know what a guest does.
 */
#include "bench/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/console.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

/* ---- the image's bytes ---- */

/* A hole in a memfd costs nothing: only what the image holds is written. */
static int copy_run(const struct contents *c, const struct run *r, uint64_t base, void *buf)
{
	uint64_t at = r->gpa.v - base;

	for (uint64_t done = 0; done < r->pages;) {
		uint64_t pages = min_u64(r->pages - done, MM_BLOCK_PAGES);
		size_t size = pages << MM_PAGE_SHIFT;
		int e = store_read(r->store, (frame_t){r->frame.n + (uint32_t)done}, pages, buf);

		if (e)
			return e;
		if (pwrite(c->fd, buf, size, (off_t)(at + (done << MM_PAGE_SHIFT))) !=
		    (ssize_t)size)
			return errno ? -errno : -EIO;
		done += pages;
	}
	return 0;
}

static int copy_image(const struct contents *c)
{
	size_t ram_count, count;
	uint64_t base = image_ram(c->image, &ram_count)[0].range.start.v;
	const struct run *runs = image_runs(c->image, &count);
	void *buf = malloc(MM_BLOCK_SIZE);
	int e = buf ? 0 : -ENOMEM;

	for (size_t i = 0; e == 0 && i < count; i++)
		e = copy_run(c, &runs[i], base, buf);
	free(buf);
	return e;
}

int contents_make(struct image *image, size_t size, struct contents *out)
{
	struct contents c = {.fd = memfd_create("cowslip-bench-image", MFD_CLOEXEC), .size = size};
	void *bytes;
	int e;

	if (c.fd < 0)
		return -errno;
	c.image = image_get(image);
	e = ftruncate(c.fd, (off_t)size) ? -errno : copy_image(&c);
	if (e)
		goto fini;
	bytes = mmap(NULL, size, PROT_READ, MAP_SHARED, c.fd, 0);
	if (bytes == MAP_FAILED) {
		e = -errno;
		goto fini;
	}
	c.bytes = bytes;
	*out = c;
	return 0;
fini:
	image_put(c.image);
	close(c.fd);
	return e;
}

void contents_fini(struct contents *c)
{
	if (!c->bytes)
		return;
	munmap(c->bytes, c->size);
	close(c->fd);
	image_put(c->image);
	*c = (struct contents){0};
}

/* ---- mappings ---- */

static int reserve(struct memory *m)
{
	size_t size = m->size + 3 * MM_BLOCK_SIZE;
	void *at = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		return -errno;
	m->reserved = at;
	m->reserved_size = size;
	m->base = (void *)align_up((uintptr_t)at + MM_BLOCK_SIZE, MM_BLOCK_SIZE);
	return 0;
}

/* Map `fd`, or anonymous memory for -1, over the stretch. */
static int map(struct memory *m, int fd, int advice)
{
	int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE | (fd < 0 ? MAP_ANONYMOUS : 0);

	if (mmap(m->base, m->size, PROT_READ | PROT_WRITE, flags, fd, 0) == MAP_FAILED)
		return -errno;
	/* Where the kernel knows no huge pages there is nothing to advise. */
	if (madvise(m->base, m->size, advice) && errno != EINVAL)
		return -errno;
	return 0;
}

static int make_small(struct memory *m, const char **step)
{
	*step = "mapping anonymous memory";
	return map(m, -1, MADV_NOHUGEPAGE);
}

static int make_huge(struct memory *m, const char **step)
{
	*step = "mapping anonymous memory";
	return map(m, -1, MADV_HUGEPAGE);
}

static int make_private(struct memory *m, const char **step)
{
	*step = "mapping the image's memfd";
	return map(m, m->contents->fd, MADV_NOHUGEPAGE);
}

static int fill_all(struct memory *m)
{
	if (m->contents)
		memcpy(m->base, m->contents->bytes, m->size);
	else if (madvise(m->base, m->size, MADV_POPULATE_WRITE))
		return -errno;
	return 0;
}

static int make_filled(struct memory *m, const char **step)
{
	int e = make_small(m, step);
	uint64_t start = clock_ns();

	*step = "filling memory";
	if (e == 0)
		e = fill_all(m);
	m->prepare_ns = clock_ns() - start;
	return e;
}

/* ---- uffd-4k: one event, one page ---- */

static const void *source_of(const struct memory *m, uint64_t address)
{
	if (!m->contents)
		return m->zeros;
	return m->contents->bytes + (address - (uintptr_t)m->base);
}

static void answer(struct memory *m, uint64_t address)
{
	uint64_t page = align_down(address, MM_PAGE_SIZE);
	struct uffdio_range range = {page, MM_PAGE_SIZE};
	struct uffdio_copy copy = {
		.dst = page, .src = (uintptr_t)source_of(m, page), .len = MM_PAGE_SIZE};

	while (ioctl(m->uffd, UFFDIO_COPY, &copy)) {
		if (errno == EAGAIN)
			continue;
		/* Another vCPU's event has brought the page. No memory: waking tries again. */
		(void)ioctl(m->uffd, UFFDIO_WAKE, &range);
		return;
	}
}

static void *handle_events(void *arg)
{
	struct memory *m = arg;
	struct pollfd wait[2] = {{.fd = m->uffd, .events = POLLIN},
	                         {.fd = m->stop, .events = POLLIN}};
	struct uffd_msg msg;

	for (;;) {
		if (poll(wait, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (wait[1].revents)
			return NULL;
		if (read(m->uffd, &msg, sizeof(msg)) != (ssize_t)sizeof(msg))
			continue;
		if (msg.event != UFFD_EVENT_PAGEFAULT)
			continue;
		atomic_fetch_add(&m->events, 1);
		answer(m, msg.arg.pagefault.address);
	}
}

static int open_uffd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	int dev;

	if (fd >= 0)
		return fd;
#ifdef USERFAULTFD_IOC_NEW
	/* Linux 6.1: a device, for who may open it. */
	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return -errno;
	fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		fd = -errno;
	close(dev);
	return fd;
#else
	(void)dev;
	return -errno;
#endif
}

static int arm(struct memory *m)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register reg = {.range = {(uintptr_t)m->base, m->size},
	                              .mode = UFFDIO_REGISTER_MODE_MISSING};

	m->uffd = open_uffd();
	if (m->uffd < 0)
		return m->uffd;
	if (ioctl(m->uffd, UFFDIO_API, &api) || ioctl(m->uffd, UFFDIO_REGISTER, &reg))
		return -errno;
	return 0;
}

/* What fails here is undone by memory_fini(). */
static int make_handled(struct memory *m, const char **step)
{
	int e = make_small(m, step);

	if (e)
		return e;
	*step = "userfaultfd";
	e = arm(m);
	if (e)
		return e;
	*step = "starting its handler";
	m->stop = eventfd(0, EFD_CLOEXEC);
	if (m->stop < 0)
		return -errno;
	m->zeros = aligned_alloc(MM_PAGE_SIZE, MM_PAGE_SIZE);
	if (!m->zeros)
		return -ENOMEM;
	memset(m->zeros, 0, MM_PAGE_SIZE);
	e = -pthread_create(&m->thread, NULL, handle_events, m);
	m->running = e == 0;
	return e;
}

/* ---- kinds ---- */

const struct memory_kind memory_kinds[] = {
	{.name = "auto", .library = true, .faults = FAULTS_AUTO, .fresh = true, .clones = true},
	{.name = "kernel", .library = true, .faults = FAULTS_KERNEL, .fresh = true, .clones = true},
	{.name = "uffd", .library = true, .faults = FAULTS_UFFD, .fresh = true, .clones = true},
	{.name = "kernel-4k", .make = make_small, .fresh = true},
	{.name = "kernel-thp", .make = make_huge, .fresh = true, .huge = true},
	{.name = "private-4k", .make = make_private, .file = true, .clones = true},
	{.name = "uffd-4k", .make = make_handled, .fresh = true, .clones = true},
	{.name = "populate", .make = make_filled, .fresh = true, .clones = true},
	{0},
};

const struct memory_kind *memory_find(const char *name)
{
	for (const struct memory_kind *k = memory_kinds; k->name; k++)
		if (strcmp(k->name, name) == 0)
			return k;
	return NULL;
}

int memory_make(const struct memory_kind *kind, size_t size, const struct contents *contents,
                struct memory *m, const char **step)
{
	int e;

	*m = (struct memory){
		.size = size, .kind = kind, .contents = contents, .uffd = -1, .stop = -1};
	if (kind->library)
		return 0;
	*step = "reserving addresses";
	e = reserve(m);
	if (e == 0)
		e = kind->make(m, step);
	if (e)
		memory_fini(m);
	return e;
}

static void stop_handler(const struct memory *m)
{
	const uint64_t one = 1;

	while (write(m->stop, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	pthread_join(m->thread, NULL);
}

void memory_fini(struct memory *m)
{
	if (!m->reserved)
		return;
	if (m->running)
		stop_handler(m);
	if (m->uffd >= 0)
		close(m->uffd);
	if (m->stop >= 0)
		close(m->stop);
	free(m->zeros);
	munmap(m->reserved, m->reserved_size);
	*m = (struct memory){0};
}

/* ---- what the host has put there ---- */

static void add_field(const char *line, struct memory_usage *out)
{
	static const struct {
		const char *name;
		size_t field;
	} fields[] = {
		{"Rss:", offsetof(struct memory_usage, resident)},
		{"Anonymous:", offsetof(struct memory_usage, anonymous)},
		{"AnonHugePages:", offsetof(struct memory_usage, huge)},
		{"ShmemPmdMapped:", offsetof(struct memory_usage, huge)},
		{"FilePmdMapped:", offsetof(struct memory_usage, huge)},
	};

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		size_t len = strlen(fields[i].name);

		if (strncmp(line, fields[i].name, len) == 0)
			*(uint64_t *)((char *)out + fields[i].field) +=
				strtoull(line + len, NULL, 10) << 10;
	}
}

/* "7f0000000000-7f0000200000 rw-p ...": a mapping. Other lines are "Name: ...". */
static bool parse_range(const char *line, uintptr_t *start, uintptr_t *end)
{
	char *at;

	*start = strtoul(line, &at, 16);
	if (*at != '-')
		return false;
	*end = strtoul(at + 1, &at, 16);
	return *at == ' ';
}

int memory_usage(const void *base, size_t size, struct memory_usage *out)
{
	uintptr_t start, end, from = (uintptr_t)base, to = from + size;
	FILE *f = fopen("/proc/self/smaps", "re");
	bool inside = false;
	size_t room = 0;
	char *line = NULL;

	*out = (struct memory_usage){0};
	if (!f)
		return -errno;
	while (getline(&line, &room, f) >= 0) {
		if (parse_range(line, &start, &end))
			inside = start < to && end > from;
		else if (inside)
			add_field(line, out);
	}
	free(line);
	fclose(f);
	return 0;
}

int memory_committed(const struct memory *m, uint64_t *bytes)
{
	struct memory_usage u;
	struct stat st;
	int e = memory_usage(m->base, m->size, &u);

	if (e)
		return e;
	*bytes = u.anonymous;
	if (!m->kind->file)
		return 0;
	if (fstat(m->contents->fd, &st))
		return -errno;
	*bytes += (uint64_t)st.st_blocks * 512;
	return 0;
}
