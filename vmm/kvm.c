// SPDX-License-Identifier: MIT
/*
 * vmm/kvm.c - the bare ioctl layer.
 *
 * Invariant: errno is read on the line after the call that set it, and nowhere else.
 * Concurrency: none of its own; the kernel serialises calls on one descriptor.
 * Does not: retry an interrupted run, keep a table of VMs, print.
 */
#include "vmm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

int kvm_ioctl_ptr(int fd, unsigned long nr, void *arg)
{
	int r = ioctl(fd, nr, arg);

	return r < 0 ? -errno : r;
}

int kvm_ioctl_int(int fd, unsigned long nr, unsigned long arg)
{
	int r = ioctl(fd, nr, arg);

	return r < 0 ? -errno : r;
}

int kvm_check(int fd, unsigned cap)
{
	int r = kvm_ioctl_int(fd, KVM_CHECK_EXTENSION, cap);

	return r < 0 ? 0 : r;
}

int kvm_enable_cap(int fd, unsigned cap, uint64_t arg0)
{
	struct kvm_enable_cap request = {.cap = cap, .args = {arg0}};

	return kvm_ioctl(fd, KVM_ENABLE_CAP, &request);
}

/* The values the kernel documents for a KVM too old to name its limits. */
#define DEFAULT_VCPUS 4
#define DEFAULT_SLOTS 32

static void read_caps(int fd, struct kvm_caps *c)
{
	int vcpus = kvm_check(fd, KVM_CAP_MAX_VCPUS);
	int slots = kvm_check(fd, KVM_CAP_NR_MEMSLOTS);
	int xsave = kvm_check(fd, KVM_CAP_XSAVE2);

	if (vcpus == 0)
		vcpus = kvm_check(fd, KVM_CAP_NR_VCPUS);
	*c = (struct kvm_caps){
		.max_vcpus = (unsigned)(vcpus > 0 ? vcpus : DEFAULT_VCPUS),
		.max_slots = (unsigned)(slots > 0 ? slots : DEFAULT_SLOTS),
		.xsave_size = xsave > 0 ? (size_t)xsave : sizeof(struct kvm_xsave),
		.xsave2 = xsave > 0,
		.xcrs = kvm_check(fd, KVM_CAP_XCRS) > 0,
		.sregs2 = kvm_check(fd, KVM_CAP_SREGS2) > 0,
		.immediate_exit = kvm_check(fd, KVM_CAP_IMMEDIATE_EXIT) > 0,
		.irqchip = kvm_check(fd, KVM_CAP_IRQCHIP) > 0,
		.readonly_mem = kvm_check(fd, KVM_CAP_READONLY_MEM) > 0,
		.pre_fault_memory = kvm_check(fd, KVM_CAP_PRE_FAULT_MEMORY) > 0,
		.guest_memfd = kvm_check(fd, KVM_CAP_GUEST_MEMFD) > 0,
		.memory_fault_info = kvm_check(fd, KVM_CAP_MEMORY_FAULT_INFO) > 0,
		.stats_fd = kvm_check(fd, KVM_CAP_BINARY_STATS_FD) > 0,
		.dirty_ring = kvm_check(fd, KVM_CAP_DIRTY_LOG_RING) > 0 ||
	                      kvm_check(fd, KVM_CAP_DIRTY_LOG_RING_ACQ_REL) > 0,
	};
}

int kvm_open(struct kvm *k, const char *path)
{
	int fd, version, size;
	int err;

	*k = (struct kvm){.fd = -1};
	fd = open(path ? path : "/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;

	version = kvm_ioctl_int(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		err = version < 0 ? version : -ENOTSUP;
		goto err_close;
	}
	size = kvm_ioctl_int(fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run)) {
		err = size < 0 ? size : -ENOTSUP;
		goto err_close;
	}
	k->fd = fd;
	k->run_size = (size_t)size;
	read_caps(fd, &k->caps);
	return 0;

err_close:
	close(fd);
	return err;
}

void kvm_close(struct kvm *k)
{
	/* A zeroed struct has fd 0, which is not ours: run_size tells an opened one. */
	if (k->run_size > 0)
		close(k->fd);
	*k = (struct kvm){.fd = -1};
}

int kvm_create_vm(const struct kvm *k)
{
	int fd;

	/* Registering the MMU notifier can be cut short by a signal; nothing was made then. */
	do
		fd = kvm_ioctl_int(k->fd, KVM_CREATE_VM, 0);
	while (fd == -EINTR);
	return fd;
}

int kvm_create_vcpu(int vm_fd, unsigned index)
{
	int fd;

	do
		fd = kvm_ioctl_int(vm_fd, KVM_CREATE_VCPU, index);
	while (fd == -EINTR);
	return fd;
}

int kvm_map_run(const struct kvm *k, int vcpu_fd, struct kvm_run **out)
{
	void *p = mmap(NULL, k->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, 0);

	if (p == MAP_FAILED)
		return -errno;
	*out = p;
	return 0;
}

int kvm_set_slot(int vm_fd, unsigned slot, uint64_t gpa, uint64_t size, uintptr_t hva,
                 uint32_t flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = hva,
	};

	return kvm_ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

int kvm_irq_line(int vm_fd, unsigned irq, bool level)
{
	struct kvm_irq_level line = {.irq = irq, .level = level};

	return kvm_ioctl(vm_fd, KVM_IRQ_LINE, &line);
}

int kvm_run_vcpu(int vcpu_fd)
{
	return kvm_ioctl_int(vcpu_fd, KVM_RUN, 0);
}
