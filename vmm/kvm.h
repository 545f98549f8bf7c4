// SPDX-License-Identifier: MIT
/*
 * vmm/kvm.h - the bare ioctl layer: the only place that spells KVM_ ioctl numbers with ioctl(2).
 *
 * Each wrapper checks at compile time that its argument has the size the kernel's number encodes,
 * captures errno at once and returns 0 (or a value >= 0) or -errno. EINTR is returned, not
 * retried: only the run loop knows what a signal meant. Includes nothing else of ours.
 *
 * Source: Linux Documentation/virt/kvm/api.rst; <linux/kvm.h> of 6.1, newer constants defined here
 * with the version that brought them.
 *
 * Concurrency: stateless but for struct kvm, which is constant after kvm_open().
 */
#ifndef COWSLIP_VMM_KVM_H
#define COWSLIP_VMM_KVM_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

#ifndef KVM_CAP_USER_MEMORY2
#define KVM_CAP_USER_MEMORY2 231 /* 6.8 */
#endif
#ifndef KVM_CAP_MEMORY_FAULT_INFO
#define KVM_CAP_MEMORY_FAULT_INFO 232 /* 6.8 */
#endif
#ifndef KVM_CAP_MEMORY_ATTRIBUTES
#define KVM_CAP_MEMORY_ATTRIBUTES 233 /* 6.8 */
#endif
#ifndef KVM_CAP_GUEST_MEMFD
#define KVM_CAP_GUEST_MEMFD 234 /* 6.8 */
#endif
#ifndef KVM_CAP_VM_TYPES
#define KVM_CAP_VM_TYPES 235 /* 6.8 */
#endif
#ifndef KVM_CAP_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY 236 /* 6.11 */
#endif
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39 /* 6.8 */
#endif

/* What this host's KVM can do, asked once. */
struct kvm_caps {
	unsigned max_vcpus;
	unsigned max_slots;
	size_t xsave_size; /* bytes of KVM_GET_XSAVE2 (4096 where the call does not exist) */
	bool xsave2;
	bool sregs2;
	bool xcrs;
	bool immediate_exit;
	bool irqchip;
	bool readonly_mem;
	bool pre_fault_memory;  /* 6.11 */
	bool guest_memfd;       /* 6.8 */
	bool memory_fault_info; /* 6.8 */
	bool stats_fd;
	bool dirty_ring;
};

struct kvm {
	int fd;          /* /dev/kvm */
	size_t run_size; /* bytes of the shared kvm_run mapping */
	struct kvm_caps caps;
};

/*
 * Open `path` (NULL: /dev/kvm), check the API version (12), read the capabilities.
 * Return: 0; -errno of open (-ENOENT, -EACCES, ...); -ENOTTY when the file is not KVM's; -ENOTSUP
 * when it speaks another version. On failure nothing is left open.
 */
int kvm_open(struct kvm *k, const char *path);
/*
 * Takes a zeroed or closed struct too. VMs and vCPUs made from it live on until their own
 * descriptors are closed.
 */
void kvm_close(struct kvm *k);

/*
 * ioctl with an argument of exactly the size its number encodes. Evaluates to a value >= 0 or
 * -errno. kvm_ioctl_var is for numbers whose argument has a trailing array; KVM_NONE-sized ones
 * take an integer.
 */
int kvm_ioctl_ptr(int fd, unsigned long nr, void *arg);
int kvm_ioctl_int(int fd, unsigned long nr, unsigned long arg);

#define kvm_ioctl(fd, nr, ptr)                                                                     \
	({                                                                                         \
		_Static_assert(_IOC_SIZE(nr) == sizeof(*(ptr)), "argument size of " #nr);          \
		kvm_ioctl_ptr((fd), (nr), (ptr));                                                  \
	})
#define kvm_ioctl_var(fd, nr, ptr)                                                                 \
	({                                                                                         \
		_Static_assert(_IOC_SIZE(nr) <= sizeof(*(ptr)), "argument size of " #nr);          \
		kvm_ioctl_ptr((fd), (nr), (ptr));                                                  \
	})

/* Value of a capability of the VM `fd` or of /dev/kvm, 0 when absent. */
int kvm_check(int fd, unsigned cap);

/* Switch a capability of a VM or vCPU on, with its first argument. Return: 0 or -errno. */
int kvm_enable_cap(int fd, unsigned cap, uint64_t arg0);

/* A new VM / vCPU descriptor (close-on-exec), or -errno. EINTR during creation is retried. */
int kvm_create_vm(const struct kvm *k);
int kvm_create_vcpu(int vm_fd, unsigned index);

/*
 * Map a vCPU's shared kvm_run page(s). Unmap with munmap(*out, k->run_size).
 * Return: 0 and *out, or -errno.
 */
int kvm_map_run(const struct kvm *k, int vcpu_fd, struct kvm_run **out);

/*
 * Fix slot `slot` to [gpa, gpa + size) at `hva`. flags: 0 or KVM_MEM_READONLY.
 * Return: 0 or -errno.
 */
int kvm_set_slot(int vm_fd, unsigned slot, uint64_t gpa, uint64_t size, uintptr_t hva,
                 uint32_t flags);

/* Set an input of the in-kernel interrupt controller. Any thread. Return: 0 or -errno. */
int kvm_irq_line(int vm_fd, unsigned irq, bool level);

/*
 * Enter the guest once.
 * Return: 0 with an exit to handle; -EINTR (signal or immediate_exit); -errno.
 */
int kvm_run_vcpu(int vcpu_fd);

#endif
