// SPDX-License-Identifier: MIT
/*
 * mm/fault_uffd.c - violations by userfaultfd: arming memory, and letting go of who waits in it.
 *
 * Armed memory is registered MISSING: the first access to an absent page parks the accessing thread
 * (a vCPU inside KVM_RUN, or our own copy into the guest) and queues an event, which the thread
 * in fault_uffd_handler.c answers. Mapping over an armed range disarms it, so a whole block costs
 * one event and no bookkeeping. Watched memory is registered MINOR: the same for pages that are in
 * the file, and not mapped yet.
 *
 * Source: Linux Documentation/admin-guide/mm/userfaultfd.rst.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mm/check.h"
#include "mm/space_internal.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00) /* Linux 6.1 */
#endif

static uint64_t range_hva(const struct space *s, struct gpa_range r)
{
	return (uint64_t)(uintptr_t)window_ptr(s, r.start);
}

static int open_device(void)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd, e;

	if (dev < 0)
		return -errno;
	fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	e = errno;
	close(dev);
	return fd < 0 ? -e : fd;
}

/*
 * The system call needs CAP_SYS_PTRACE or vm.unprivileged_userfaultfd; the device needs
 * permission on its node. Faults inside KVM_RUN are the kernel's: USER_MODE_ONLY won't do.
 */
int fault_uffd_open_for(uint64_t features)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	int e = errno;

	if (fd < 0) {
		fd = open_device();
		if (fd < 0)
			return -e;
	}
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		e = errno;
		close(fd);
		return -e;
	}
	return fd;
}

int fault_uffd_open(void)
{
	return fault_uffd_open_for(0);
}

static int uffd_register(struct space *s, struct gpa_range r, uint64_t mode)
{
	struct uffdio_register reg = {.range = {range_hva(s, r), r.size}, .mode = mode};

	if (atomic_load(&s->fault.gone))
		return -ESHUTDOWN;
	return ioctl(s->fault.uffd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

static int uffd_arm(struct space *s, struct gpa_range r)
{
	return uffd_register(s, r, UFFDIO_REGISTER_MODE_MISSING);
}

static int uffd_watch(struct space *s, struct gpa_range r)
{
	if (!s->fault.can_watch)
		return -EOPNOTSUPP;
	return uffd_register(s, r, UFFDIO_REGISTER_MODE_MINOR);
}

/*
 * Unregistering wakes who waits for an absent page, not who waits for one that is not mapped; and
 * may fail half way.
 */
static int uffd_disarm(struct space *s, struct gpa_range r)
{
	struct uffdio_range range = {range_hva(s, r), r.size};
	int e = ioctl(s->fault.uffd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;

	(void)ioctl(s->fault.uffd, UFFDIO_WAKE, &range);
	return e;
}

static void uffd_wake(struct space *s, struct gpa_range r)
{
	struct uffdio_range range = {range_hva(s, r), r.size};

	if (s->fault.uffd < 0)
		return;
	/* Nobody is woken, and nobody would be by the next: the descriptor is not ours any more. */
	if (ioctl(s->fault.uffd, UFFDIO_WAKE, &range) < 0)
		uffd_break(s, -errno);
}

/* Zero pages for [at, end). Return: bytes that came in; -errno of the first page. */
static int64_t zero_pages(int uffd, uint64_t at, uint64_t end)
{
	struct uffdio_zeropage z = {.range = {at, end - at}, .mode = UFFDIO_ZEROPAGE_MODE_DONTWAKE};

	if (ioctl(uffd, UFFDIO_ZEROPAGE, &z) == 0)
		return (int64_t)(end - at);
	return z.zeropage > 0 ? z.zeropage : -errno;
}

/*
 * The file's pages. Those that are not in memory any more, a part of the block having been given
 * back, are as good as mapped: the kernel brings them in. Return: as above.
 */
static int64_t map_pages(int uffd, uint64_t at, uint64_t end)
{
	struct uffdio_continue c = {.range = {at, end - at}, .mode = UFFDIO_CONTINUE_MODE_DONTWAKE};

	if (ioctl(uffd, UFFDIO_CONTINUE, &c) == 0)
		return (int64_t)(end - at);
	if (c.mapped > 0)
		return c.mapped;
	return errno == EFAULT ? -EEXIST : -errno;
}

/* Pages that are there already stop such a call with EEXIST: step over them one by one. */
static int fill_mapping(int uffd, uint64_t at, uint64_t end,
                        int64_t (*fill)(int uffd, uint64_t at, uint64_t end))
{
	while (at < end) {
		int64_t n = fill(uffd, at, end);

		if (n == -EEXIST)
			n = MM_PAGE_SIZE;
		if (n < 0)
			return (int)n;
		at += (uint64_t)n;
	}
	return 0;
}

/*
 * The calls take no range with several mappings in it, and each protection has one. Where nothing
 * is armed any more the kernel fills.
 */
static int fill_range(struct space *s, struct gpa_range r,
                      int64_t (*fill)(int uffd, uint64_t at, uint64_t end))
{
	uint64_t end = gpa_range_end(r);
	int e = 0;

	for (uint64_t at = r.start.v, stop; e == 0 && at < end; at = stop) {
		uint64_t from = range_hva(s, (struct gpa_range){{at}, 0});

		(void)guard_get(s, at, end, &stop);
		e = fill_mapping(s->fault.uffd, from, from + (stop - at), fill);
	}
	return atomic_load(&s->fault.gone) ? 0 : e;
}

static int uffd_fill_zero(struct space *s, struct gpa_range r)
{
	return fill_range(s, r, zero_pages);
}

static int uffd_let_in(struct space *s, struct gpa_range r)
{
	return fill_range(s, r, map_pages);
}

/* What may still be armed of a block; size 0: nothing. */
static struct gpa_range armed_range(const struct space *s, size_t index)
{
	const struct block *b = &s->blocks[index];
	struct gpa_range r = block_range(s, index);
	uint64_t skip = (uint64_t)b->mapped << MM_PAGE_SHIFT;

	if (r.size == 0 || !(block_undecided(b) || b->partial))
		return (struct gpa_range){r.start, 0};
	return (struct gpa_range){{r.start.v + skip}, r.size - skip};
}

/*
 * Disarming wakes who waits. Closing the descriptor would not do: the handler asleep in poll()
 * keeps the file open, and so does a process forked meanwhile. Mappings of image files
 * refuse to be disarmed, so a range with one of them in it is left out.
 */
static void disarm_all(struct space *s)
{
	struct gpa_range armed = {{0}, 0};

	for (size_t i = 0; i < s->block_count; i++) {
		struct gpa_range r = armed_range(s, i);

		if (r.size == 0)
			continue;
		if (armed.size > 0 && gpa_range_end(armed) == r.start.v) {
			armed.size += r.size;
			continue;
		}
		if (armed.size > 0)
			(void)uffd_disarm(s, armed);
		armed = r;
	}
	if (armed.size > 0)
		(void)uffd_disarm(s, armed);
}

/*
 * What is armed in `r`, inside one block, is its upper part: blocks are decided upwards. A range
 * with a mapping in it that refuses is refused as a whole, so the lowest that is not is looked for.
 */
static void disarm_top(struct space *s, struct gpa_range r)
{
	uint64_t low = r.start.v, end = gpa_range_end(r), from = low, armed_to = end;

	while (low < armed_to) {
		if (uffd_disarm(s, (struct gpa_range){{from}, end - from}) == 0)
			armed_to = from;
		else
			low = from + MM_PAGE_SIZE;
		from = align_down(low + (armed_to - low) / 2, MM_PAGE_SIZE);
	}
}

/*
 * The handler is stuck, perhaps with the lock: nothing may be looked at. What is not armed does not
 * mind.
 */
static void disarm_blindly(struct space *s)
{
	for (size_t i = 0; i < s->block_count; i++) {
		struct gpa_range r = block_range(s, i);

		if (r.size > 0)
			disarm_top(s, r);
	}
}

static void uffd_let_go(struct space *s)
{
	atomic_store(&s->fault.gone, true);
	if (s->fault.abandoned || atomic_load(&s->fault.error) == -ETIMEDOUT) {
		disarm_blindly(s);
		return;
	}
	lock_take(&s->lock);
	disarm_all(s);
	lock_drop(&s->lock);
}

static void close_fds(struct space *s)
{
	if (s->fault.stop >= 0)
		close(s->fault.stop);
	if (s->fault.uffd >= 0)
		close(s->fault.uffd);
	s->fault.stop = s->fault.uffd = -1;
}

static int uffd_attach(struct space *s)
{
	int r;

	r = fault_uffd_open_for(UFFD_FEATURE_MINOR_SHMEM); /* Linux 5.14 */
	s->fault.can_watch = r >= 0;
	if (r == -EINVAL)
		r = fault_uffd_open();
	if (r < 0)
		return r;
	s->fault.uffd = r;
	s->fault.stop = eventfd(0, EFD_CLOEXEC);
	if (s->fault.stop < 0) {
		r = -errno;
		goto fail;
	}
	for (size_t i = 0; i < s->region_count; i++) {
		r = uffd_arm(s, s->ram[i].range);
		if (r)
			goto fail;
	}
	r = uffd_start(s);
	if (r)
		goto fail;
	s->fault.running = true;
	return 0;

fail:
	close_fds(s);
	return r;
}

static void uffd_detach(struct space *s)
{
	if (s->fault.running) {
		uffd_stop(s);
		s->fault.running = false;
		uffd_let_go(s);
	}
	/* One that was left behind may come back to them. */
	if (!s->fault.abandoned)
		close_fds(s);
}

const struct fault_ops fault_uffd = {
	.name = "uffd",
	.lazy = true,
	.attach = uffd_attach,
	.let_go = uffd_let_go,
	.detach = uffd_detach,
	.arm = uffd_arm,
	.disarm = uffd_disarm,
	.fill_zero = uffd_fill_zero,
	.watch = uffd_watch,
	.let_in = uffd_let_in,
	.wake = uffd_wake,
};
