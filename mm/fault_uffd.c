// SPDX-License-Identifier: MIT
/*
 * mm/fault_uffd.c - violations by userfaultfd, answered by one thread per space.
 *
 * Armed memory is registered MISSING: the first access to an absent page parks the accessing thread
 * (a vCPU inside KVM_RUN, or our own copy into the guest) and queues an event. The
 * thread here reads events in batches, decides each with violation_resolve() and wakes
 * the range that has been served. Events for what was served meanwhile resolve at once.
 *
 * An event that ends in NOMEM is not answered: its thread waits until space_resume() wakes it
 * or detach lets everyone go. Mapping over an armed range disarms it, so a whole block costs
 * one event and no bookkeeping.
 *
 * Source: Linux Documentation/admin-guide/mm/userfaultfd.rst.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mm/check.h"
#include "mm/space_internal.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00) /* Linux 6.1 */
#endif

#define EVENT_BATCH 32

/*
 * Of the handler thread. The default is megabytes, and where huge pages are given without being
 * asked for, one of them lies under every stack.
 */
#define HANDLER_STACK ((size_t)256 << 10)

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

static int uffd_arm(struct space *s, struct gpa_range r)
{
	struct uffdio_register reg = {
		.range = {range_hva(s, r), r.size},
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	if (s->fault.gone)
		return -ESHUTDOWN;
	return ioctl(s->fault.uffd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

static int uffd_disarm(struct space *s, struct gpa_range r)
{
	struct uffdio_range range = {range_hva(s, r), r.size};

	return ioctl(s->fault.uffd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

static void uffd_wake(struct space *s, struct gpa_range r)
{
	struct uffdio_range range = {range_hva(s, r), r.size};

	if (s->fault.uffd < 0)
		return;
	/* The only failure is a range that is none: ours was built by us. */
	CHECK(ioctl(s->fault.uffd, UFFDIO_WAKE, &range) == 0);
}

/* Pages that are there already stop the call with EEXIST: step over them one by one. */
static int fill_mapping(struct space *s, struct gpa_range r)
{
	uint64_t at = range_hva(s, r), end = at + r.size;

	while (at < end) {
		struct uffdio_zeropage z = {.range = {at, end - at},
		                            .mode = UFFDIO_ZEROPAGE_MODE_DONTWAKE};

		if (ioctl(s->fault.uffd, UFFDIO_ZEROPAGE, &z) == 0)
			return 0;
		if (z.zeropage > 0)
			at += (uint64_t)z.zeropage;
		else if (errno == EEXIST)
			at += MM_PAGE_SIZE;
		else
			return -errno;
	}
	return 0;
}

/* The call takes no range with several mappings in it, and each protection has one. */
static int uffd_fill_zero(struct space *s, struct gpa_range r)
{
	uint64_t end = gpa_range_end(r);
	int e = 0;

	for (uint64_t at = r.start.v, stop; e == 0 && at < end; at = stop) {
		(void)guard_get(s, at, end, &stop);
		e = fill_mapping(s, (struct gpa_range){{at}, stop - at});
	}
	return e;
}

static struct violation to_violation(const struct space *s, const struct uffd_msg *m)
{
	uintptr_t at = (uintptr_t)align_down(m->arg.pagefault.address, MM_PAGE_SIZE);
	bool write = m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE;

	return (struct violation){space_gpa(s, (hva_t){at}), write ? ACCESS_WRITE : ACCESS_READ};
}

static void answer(struct space *s, const struct uffd_msg *m)
{
	struct violation v = to_violation(s, m);
	struct gpa_range page = {v.gpa, MM_PAGE_SIZE};
	struct gpa_range done = page;

	switch (violation_resolve(s, v, &done)) {
	case OUTCOME_RESOLVED:
		uffd_wake(s, done);
		break;
	case OUTCOME_NOMEM:
		if (s->nomem)
			s->nomem(s->ctx, v);
		break;
	case OUTCOME_RETRY:
	case OUTCOME_MMIO:
	case OUTCOME_DENIED:
		uffd_wake(s, page);
		break;
	}
}

static void drain(struct space *s)
{
	struct uffd_msg msgs[EVENT_BATCH];
	ssize_t n = read(s->fault.uffd, msgs, sizeof(msgs));

	for (ssize_t i = 0; i * (ssize_t)sizeof(msgs[0]) < n; i++) {
		if (msgs[i].event != UFFD_EVENT_PAGEFAULT)
			continue;
		atomic_fetch_add_explicit(&s->events, 1, memory_order_relaxed);
		answer(s, &msgs[i]);
	}
}

static void *handler(void *arg)
{
	struct space *s = arg;
	struct pollfd fds[] = {
		{.fd = s->fault.uffd, .events = POLLIN},
		{.fd = s->fault.stop, .events = POLLIN},
	};

	for (;;) {
		if (poll(fds, 2, -1) < 0) {
			CHECK(errno == EINTR);
			continue;
		}
		if (fds[1].revents)
			return NULL;
		if (fds[0].revents)
			drain(s);
	}
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
static void uffd_let_go(struct space *s)
{
	struct gpa_range armed = {{0}, 0};

	lock_take(&s->lock);
	s->fault.gone = true;
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

static int start_handler(struct space *s)
{
	pthread_attr_t attr;
	int r = pthread_attr_init(&attr);

	if (r)
		return -r;
	r = pthread_attr_setstacksize(&attr, HANDLER_STACK);
	if (r == 0)
		r = pthread_create(&s->fault.thread, &attr, handler, s);
	pthread_attr_destroy(&attr);
	return -r;
}

static int uffd_attach(struct space *s)
{
	int r;

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
	r = start_handler(s);
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
	const uint64_t one = 1;

	if (s->fault.running) {
		CHECK(write(s->fault.stop, &one, sizeof(one)) == sizeof(one));
		pthread_join(s->fault.thread, NULL);
		s->fault.running = false;
		uffd_let_go(s);
	}
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
	.wake = uffd_wake,
};
