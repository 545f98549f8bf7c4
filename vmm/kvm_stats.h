// SPDX-License-Identifier: MIT
/*
 * vmm/kvm_stats.h - KVM's own statistics of a VM: how its memory is mapped, how often it faulted.
 *
 * Source: KVM_GET_STATS_FD (Linux 5.14), Documentation/virt/kvm/api.rst. The VM and each vCPU has a
 * file of descriptors, which carry names, and of values. Which names there are is the kernel's
 * business: a counter it has not is unknown, never 0.
 *
 * With two-dimensional paging (EPT, NPT) the mappings are those of stage 2 and the pf_ counters
 * count stage-2 violations. With shadow paging (no such hardware, or a software KVM) the mappings
 * are those of the shadow tables, and the guest's own page faults come on top.
 *
 * A file is open for the length of a call, or as long as its owner keeps one counter open; kernels
 * before 6.5 do not keep a VM alive for it, so it is closed before the VM or vCPU is.
 *
 * Concurrency: none of its own.
 */
#ifndef COWSLIP_VMM_KVM_STATS_H
#define COWSLIP_VMM_KVM_STATS_H

#include <stdbool.h>
#include <stdint.h>

enum kvm_counter {
	/* Of the VM: mapped now, by size; 2 MiB that are in pieces because of nx_huge_pages. */
	KVM_COUNT_PAGES_4K,
	KVM_COUNT_PAGES_2M,
	KVM_COUNT_PAGES_1G,
	KVM_COUNT_NX_LPAGE_SPLITS,
	KVM_COUNT_MMU_CACHE_MISS, /* of the VM, since it was made: tables that KVM has made */
	KVM_COUNT_MMU_ZAPPED,     /* ... and taken away; a root that is in use counts twice */
	/* Of all vCPUs, since they were made. */
	KVM_COUNT_PF_TAKEN,    /* page faults that KVM saw (Linux 6.0, as all but two of these) */
	KVM_COUNT_PF_FIXED,    /* of them, made a mapping (any Linux) */
	KVM_COUNT_PF_FAST,     /* needed no lock */
	KVM_COUNT_PF_SPURIOUS, /* found a mapping */
	KVM_COUNT_PF_EMULATE,  /* had an instruction emulated, as every doorbell does */
	KVM_COUNT_PF_MMIO_CREATED, /* were the first in a page without memory */
	KVM_COUNT_PF_GUEST,        /* went on to the guest (any Linux) */
	KVM_COUNT_TLB_FLUSH,
	KVM_COUNT_EXITS, /* out of guest mode, whoever handled them */
	KVM_COUNT_MMIO_EXITS,
	KVM_COUNT_IO_EXITS,
	KVM_COUNT_SIGNAL_EXITS,
	KVM_COUNT_HALT_EXITS,
	KVM_COUNT_INSN_EMULATION, /* instructions that KVM has interpreted */
	KVM_COUNTERS,
};

/* Zeroed: nothing is known. */
struct kvm_counters {
	uint64_t v[KVM_COUNTERS]; /* 0 where not known */
	bool known[KVM_COUNTERS];
};

/* Where the counters stand in a statistics file. Zeroed: has not been read. */
struct kvm_stats_layout {
	uint32_t at[KVM_COUNTERS]; /* bytes from the start, 0: not there */
	bool read;
};

/* As the kernel calls it. */
const char *kvm_counter_name(enum kvm_counter c);

/* Add what is known of `more` to `sum`. */
void kvm_counters_add(struct kvm_counters *sum, const struct kvm_counters *more);

/*
 * KVM's page tables of a VM that are there now, at least, in bytes: those made less those taken
 * away, 4 KiB each, as SecPageTables of /proc/meminfo counts them for the whole host. What KVM
 * keeps beside a table (a word per entry where it shadows the guest's own, reverse maps) is not in
 * it. Of counters of one VM whose memory slots have not changed since it first ran: else the roots
 * that were taken away while in use make it too little.
 * Return: 0; -ENODATA when it cannot be told: another architecture's KVM, or one whose tables are
 * not of the kind that is counted (tdp_mmu).
 */
int kvm_counters_table_bytes(const struct kvm_counters *c, uint64_t *out);

/* Is anything known? */
bool kvm_counters_any(const struct kvm_counters *c);

/*
 * Add the counters of a VM or vCPU (its descriptor `fd`) to *sum. The layout is read the first time
 * and is the same for all vCPUs, and for all VMs. A vCPU must not be in KVM_RUN: the kernel waits
 * until it is out.
 * Return: 0; -ENOTTY, -EINVAL or another -errno when the kernel has no statistics; -EPROTO when
 * they are not as documented; -ENOMEM. Then *sum is as before.
 */
int kvm_stats_add(int fd, struct kvm_stats_layout *layout, struct kvm_counters *sum);

/* One counter that is read often: its file stays open. Zeroed: closed. */
struct kvm_counter_file {
	int fd;
	uint32_t at; /* 0: closed */
};

/*
 * Of the VM or vCPU `fd`, `c`. Return: 0; -ENOENT when the kernel does not have this one; as
 * kvm_stats_add().
 */
int kvm_counter_open(int fd, enum kvm_counter c, struct kvm_stats_layout *layout,
                     struct kvm_counter_file *out);

/* Return: 0 and *out; -errno or -EPROTO of reading. */
int kvm_counter_read(const struct kvm_counter_file *f, uint64_t *out);

/* Before the VM or vCPU is closed. Idempotent. */
void kvm_counter_close(struct kvm_counter_file *f);

#endif
