// SPDX-License-Identifier: MIT
/*
 * arch/arch.h - what an instruction set must provide to the VMM.
 *
 * One directory under arch/ implements all of this for one ISA; the VMM links exactly one.
 * Nothing here names a register or a table format. An implementation talks to KVM through
 * vmm/kvm.h's ioctl layer and knows of mm/ only its types.
 *
 * The life of a machine, in the order KVM wants it:
 *
 *     booted     kvm_create_vm  arch_vm_init  kvm_create_vcpu  arch_vcpu_init
 *                arch_vcpu_reset (a tiny guest) or arch_vcpu_reset_kernel (an operating system)
 *     restored   kvm_create_vm  arch_vm_init  kvm_create_vcpu  memory slots
 *                arch_vm_restore  arch_vcpu_restore of vCPU 0, then of the others
 *     reused     arch_vm_restore  arch_vcpu_restore ... again, into the same descriptors
 *
 * A vCPU that left KVM_RUN for I/O has that instruction half done. Before its state is saved the
 * caller finishes it: put the result in the run page, set immediate_exit, and call
 * kvm_run_vcpu() once more, which returns -EINTR without entering the guest.
 *
 * Errors: int, 0 or -errno. Concurrency: functions on one vCPU are called by one thread at a
 * time, while that vCPU does not run; nothing here keeps global state.
 */
#ifndef COWSLIP_ARCH_ARCH_H
#define COWSLIP_ARCH_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mm/types.h"
#include "vmm/kvm.h"

/* Facts about the ISA, constant. */
struct arch_info {
	const char *name;        /* "x86_64": as in a snapshot file */
	uint32_t isa;            /* EM_ number of the ELF header: identifies the ISA in files */
	gpa_t doorbell;          /* page of the guest-control device, outside any RAM layout */
	gpa_t boot_info;         /* where struct abi_boot is put, inside RAM, below load_min */
	gpa_t load_min;          /* programs are loaded at or above this */
	struct gpa_range tables; /* where arch_write_boot() puts page tables, the root first */
	uint64_t max_ram;        /* bytes, the most that boot structures can map */
	uint16_t serial_port;    /* I/O port of the first 16550, 0 where it is memory-mapped */
	gpa_t serial_mmio;       /* its page where it is memory-mapped */
	unsigned serial_irq;     /* its interrupt, a line of the in-kernel controller */

	/*
	 * What the firmware tables tell an operating system about ending itself, I/O ports; the
	 * VMM puts devices there. Soft-off is asked for by writing pm_off_type to bits 10..12 of
	 * the control register together with bit 13.
	 */
	uint16_t pm_event_port;   /* 4 bytes: status, enable */
	uint16_t pm_control_port; /* 2 bytes; bit 0 reads as one */
	uint8_t pm_off_type;
	uint16_t gpe_port;   /* 2 bytes: general-purpose event status, enable */
	unsigned pm_irq;     /* raised, as a level, by an enabled general-purpose event */
	uint8_t reset_value; /* written to reset_port (1 byte) resets the machine */
	uint16_t reset_port;

	/*
	 * Where an operating system reads the machine's generation id: 16 bytes that differ in
	 * every clone. It looks again when general-purpose event 0 comes.
	 */
	gpa_t generation;

	/* Ranges of persistent memory start at or above this and at multiples of the alignment. */
	gpa_t pmem_min;
	uint64_t pmem_align; /* bytes, a power of two */
};
extern const struct arch_info arch_info;

#define ARCH_MAX_RAM_REGIONS 2u

/*
 * Lay `size` bytes of RAM out around the ISA's device hole. Nothing is rounded.
 * Return: number of regions (1..ARCH_MAX_RAM_REGIONS) written to `out`; -EINVAL when size is not
 * a multiple of page_size (4 KiB for AUTO) or below what the boot structures need (load_min);
 * -EFBIG above max_ram.
 */
int arch_ram_layout(uint64_t size, enum page_size page_size, struct ram_region *out);

/* How the boot structures are written: into guest memory, by whoever owns it. */
struct arch_writer {
	/* Return: 0 or -errno, passed through. */
	int (*write)(void *ctx, gpa_t to, const void *from, size_t size);
	void *ctx;
};

/*
 * Write what a tiny guest needs before its first instruction (page tables mapping all RAM and the
 * doorbell page one to one, user-accessible) below load_min. Whole pages are written, so it
 * does not matter what the memory held.
 * Return: 0; -EFBIG for RAM beyond what the tables can map; the writer's -errno.
 */
int arch_write_boot(const struct arch_writer *w, const struct ram_region *ram, size_t ram_count);

/* ---- operating-system kernels ---- */

/* A file, read piece by piece. */
struct arch_reader {
	/*
	 * Read exactly `size` bytes at `offset`; the range lies inside `size` below. Return: 0 or
	 * -errno, passed through.
	 */
	int (*read)(void *ctx, uint64_t offset, void *to, size_t size);
	void *ctx;
	uint64_t size;    /* bytes; 0: there is no such file */
	const char *name; /* for messages */
};

#define ARCH_MAX_PMEM 8u

/* A machine about to boot a kernel. Everything is borrowed for the call. */
struct arch_kernel {
	struct arch_reader image;
	struct arch_reader initrd;    /* size 0: none */
	const char *cmdline;          /* "" for none */
	const struct ram_region *ram; /* ordered, not overlapping, the first at address 0 */
	size_t ram_count;
	/*
	 * Ranges the kernel is told of as persistent memory: ordered, above RAM and pmem_min,
	 * starts aligned to pmem_align, sizes whole pages.
	 */
	const struct gpa_range *pmem;
	size_t pmem_count; /* at most ARCH_MAX_PMEM */
	unsigned cpus;
};

/* How vCPU 0 starts it. */
struct arch_kernel_entry {
	gpa_t start;   /* first instruction */
	gpa_t info;    /* the boot information it is handed */
	uint32_t mode; /* private to the ISA */
};

/*
 * Is the file a kernel that arch_kernel_load() knows? Only that: one that is damaged is still a
 * kernel.
 * Return: 0 and *format, a constant name for messages ("bzImage", ...), NULL when it is none;
 * the reader's -errno.
 */
int arch_kernel_probe(const struct arch_reader *file, const char **format);

/*
 * Load a kernel, with its initrd, command line, memory map and firmware tables, into memory that
 * has not been written yet: what must be zero is not written. Nothing is written until everything
 * but the bytes to be copied has been checked.
 * Return: 0; -ENOEXEC for an image that is not a kernel, or truncated, or wants another machine;
 * -ENOSPC when kernel or initrd do not fit RAM; -E2BIG for the command line; -EINVAL for
 * cpus or pmem ranges beyond the contract; -ENOMEM; -errno of reader and writer. On failure
 * `why` (of why_size bytes) is one line that names the file.
 */
int arch_kernel_load(const struct arch_writer *w, const struct arch_kernel *k,
                     struct arch_kernel_entry *out, char *why, size_t why_size);

/*
 * Once per VM, before vCPUs. `irqchip`: make the in-kernel interrupt controller and timer.
 * Return: 0; -ENOTSUP when the host's KVM has no interrupt controller; -errno of KVM.
 */
int arch_vm_init(const struct kvm *kvm, int vm_fd, bool irqchip);

/*
 * Once per vCPU that is booted: CPU identification policy and what KVM wants set before the
 * first run. Not needed, and dear, for a vCPU that is about to be restored.
 * Return: 0; -ENOMEM; -errno of KVM.
 */
int arch_vcpu_init(const struct kvm *kvm, int vcpu_fd, unsigned index);

/*
 * Set the state a tiny guest starts in (guest/abi.h, "Boot"): runnable, whatever `index` is.
 * For a vCPU that has been through arch_vcpu_init() and has not run yet. Return: 0 or -errno.
 */
int arch_vcpu_reset(const struct kvm *kvm, int vcpu_fd, gpa_t entry, gpa_t boot_info,
                    unsigned index);

/*
 * Set the state a kernel starts in: vCPU 0 at `entry`, the others as they are, waiting for it to
 * start them. For a vCPU of a VM with an interrupt controller that has been through
 * arch_vcpu_init() and has not run yet.
 * Return: 0; -ENOTSUP where KVM does not take a register it should; -errno of KVM.
 */
int arch_vcpu_reset_kernel(const struct kvm *kvm, int vcpu_fd,
                           const struct arch_kernel_entry *entry, unsigned index);

/*
 * Save and restore are complete: a vCPU restored from the bytes goes on as if nothing had
 * happened, its cycle counter included. The bytes are versioned records private to the ISA.
 *
 * save: writes at most `cap` bytes to `buf`; *size is what was written (or would be: pass cap 0
 * to learn it). Return: 0; -ENOSPC when cap is too small (size set, nothing useful in buf);
 * -ENOMEM; -errno of KVM.
 *
 * restore: all bytes are checked before the first part is set, but a failure after that leaves
 * the vCPU partly restored: use it for another restore, or close it. Memory slots must be in
 * place, because some state makes KVM write guest memory. vCPU 0 is restored first; the others
 * within a second of it, so that their cycle counters agree. A vCPU that has run takes only state
 * saved from vCPUs with the same identification. `buf` is not modified and needs no alignment.
 * Return: 0; -EBADMSG for bytes that are not such records; -ENOTSUP when this host
 * cannot hold a part of the state; -ENOMEM; -errno of KVM.
 */
int arch_vcpu_save(const struct kvm *kvm, int vcpu_fd, void *buf, size_t cap, size_t *size);
int arch_vcpu_restore(const struct kvm *kvm, int vcpu_fd, const void *buf, size_t size);

/*
 * The same restore, and on failure one line in `why` (of why_size bytes, always terminated) that
 * names the part. Return: as arch_vcpu_restore().
 */
int arch_vcpu_restore_why(const struct kvm *kvm, int vcpu_fd, const void *buf, size_t size,
                          char *why, size_t why_size);

/*
 * Does this host offer everything the saved vCPU has been told it has? KVM itself does not ask, and
 * asking costs some hundred microseconds: call it once per image, not once per clone.
 * Return: 0; -EBADMSG; -ENOTSUP with one line in `why` naming what is missing; -ENOMEM;
 * -errno of KVM.
 */
int arch_vcpu_check(const struct kvm *kvm, const void *buf, size_t size, char *why,
                    size_t why_size);

/*
 * The same for what belongs to the VM: clock, interrupt controllers and timer where made
 * (`irqchip` as given to arch_vm_init()). The guest's clock goes on from its saved value. Return:
 * as above, and -ENOTSUP when the state was saved with the other value of `irqchip`.
 */
int arch_vm_save(const struct kvm *kvm, int vm_fd, bool irqchip, void *buf, size_t cap,
                 size_t *size);
int arch_vm_restore(const struct kvm *kvm, int vm_fd, bool irqchip, const void *buf, size_t size);

/*
 * Does KVM translate through shadow tables here, made from the guest's page tables and kept like
 * them by watching what the guest writes? What the VMM itself writes there it does not see. Also
 * true where it is not known.
 */
bool arch_shadow_paging(void);

/*
 * Is code of the highest privilege interpreted by KVM here, each of its instructions counted as
 * KVM_COUNT_INSN_EMULATION? Only such code can have a vCPU translate by other page tables.
 */
bool arch_interprets_privileged(void);

/* How page tables are read: guest memory, by whoever owns it. */
struct arch_memory {
	/* Return: 0 or -errno, passed through. */
	int (*read)(void *ctx, gpa_t from, void *to, size_t size);
	void *ctx;
};

/*
 * The guest's pages that a stopped vCPU translates by: its root and every table that an entry leads
 * to, whether or not it is ever used. Each that is not among the first *count of `pages` is
 * appended.
 * Return: 0; -ENOSPC when there are more than `room`; -ENOTSUP in a mode whose tables this does not
 * know; -errno of KVM and of the reader, -EFAULT for a table outside RAM among them.
 */
int arch_vcpu_tables(int vcpu_fd, const struct arch_memory *m, gpa_t *pages, size_t room,
                     size_t *count);

/*
 * Before a vCPU that has run is restored into memory that has changed behind its back: no
 * translation that KVM or the CPU remembers of it is used again, but for shadow tables (above).
 * Registers are not what they were. Return: 0 or -errno of KVM.
 */
int arch_vcpu_forget(int vcpu_fd);

/* Program counter of a stopped vCPU, for crash reports; 0 when KVM won't say. */
uint64_t arch_vcpu_pc(int vcpu_fd);

/*
 * One line with the key registers of a stopped vCPU, always terminated, cut to `size`.
 * Return: 0 or -errno of KVM (`buf` then holds an empty string).
 */
int arch_vcpu_describe(int vcpu_fd, char *buf, size_t size);

/* Frequency of the guest's cycle counter in Hz, 0 when unknown. */
uint64_t arch_cycles_per_sec(int vcpu_fd);

/*
 * What this host's KVM runs on, for reports: "vmx", "svm", "pvm" (software), "nested-vmx",
 * "nested-svm" or "unknown".
 */
const char *arch_kvm_kind(void);

/* What arch_kvm_kind() went by, for reports: "module kvm_amd under a hypervisor". */
const char *arch_kvm_told_by(void);

#endif
