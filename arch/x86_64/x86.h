// SPDX-License-Identifier: MIT
/*
 * arch/x86_64/x86.h - what the files of this ISA share; included by nobody else.
 *
 * Saved state is a sequence of records, each padded with zeros to 8 bytes:
 *
 *     +0   u32 type      enum x86_record
 *     +4   u32 version   of this type's payload, 1 so far
 *     +8   u64 size      of the payload, without padding
 *     +16  payload       KVM's own structure, little-endian
 *
 * A type appears at most once. Readers refuse what they do not know: state half understood is
 * state half restored.
 *
 * Concurrency: no shared state.
 */
#ifndef COWSLIP_ARCH_X86_64_X86_H
#define COWSLIP_ARCH_X86_64_X86_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mm/types.h"
#include "vmm/kvm.h"

/* Guest-physical layout. Boot structures lie below load_min, devices in [RAM_LOW_END, 4 GiB). */
#define X86_BOOT_INFO   UINT64_C(0x1000)
#define X86_PAGE_TABLES UINT64_C(0x10000) /* up to X86_TABLES_END; the first is the root */
#define X86_TABLES_END  UINT64_C(0xa0000)
#define X86_LOAD_MIN    UINT64_C(0x100000)
#define X86_RAM_LOW_END (UINT64_C(3) << 30)
#define X86_RAM_HIGH    (UINT64_C(4) << 30)
#define X86_CR3_TABLE   UINT64_C(0x000ffffffffff000)
#define X86_DOORBELL    UINT64_C(0xd0000000)
#define X86_PCI_CONFIG  UINT64_C(0xe0000000) /* of bus 0, where nothing answers: see acpi.c */
#define X86_PCI_SIZE    (UINT64_C(1) << 20)
#define X86_TSS_ADDR    UINT64_C(0xfffbd000) /* three pages KVM needs on VMX, in the device hole */
#define X86_MAX_RAM     (UINT64_C(128) << 30)
#define X86_SERIAL_PORT 0x3f8
#define X86_SERIAL_IRQ  4u

/* What a kernel is given, below load_min and beside the page tables. */
#define X86_GDT         UINT64_C(0x2000)
#define X86_PVH_INFO    UINT64_C(0x3000)
#define X86_ZERO_PAGE   UINT64_C(0x7000)
#define X86_CMDLINE     UINT64_C(0x8000) /* up to X86_CMDLINE_END */
#define X86_CMDLINE_END UINT64_C(0x10000)
#define X86_LOW_RAM_END UINT64_C(0x9fc00)     /* what a PC's firmware keeps begins here */
#define X86_ACPI        UINT64_C(0xe0000)     /* up to load_min; the root pointer comes first */
#define X86_PMEM_ALIGN  (UINT64_C(128) << 20) /* a section of Linux's memory model */

#define X86_GENERATION (X86_ACPI + 64) /* 16 bytes: generation id of this clone */

/* Power management, as the ACPI tables tell it. */
#define X86_SCI_IRQ     9u
#define X86_GPE         0x608
#define X86_PM_EVENT    0x600
#define X86_PM_CONTROL  0x604
#define X86_PM_OFF_TYPE 5
#define X86_RESET_PORT  0x64
#define X86_RESET_VALUE 0xfe

#define X86_MSR_TSC          0x10u
#define X86_MSR_TSC_DEADLINE 0x6e0u

/* CPU identification as KVM exchanges it (struct kvm_cpuid2), with room for all KVM keeps. */
#define X86_CPUID_MAX 256u
struct x86_cpuid {
	uint32_t count;
	uint32_t padding;
	struct kvm_cpuid_entry2 entries[X86_CPUID_MAX];
};

/* Model-specific registers as KVM exchanges them (struct kvm_msrs). */
#define X86_MSRS_MAX 512u
struct x86_msrs {
	uint32_t count;
	uint32_t padding;
	struct kvm_msr_entry entries[X86_MSRS_MAX];
};

/* Numbers are for ever: they stand in files. */
enum x86_record {
	X86_REC_CPUID = 1,
	X86_REC_TSC_KHZ = 2,
	X86_REC_MP_STATE = 3,
	X86_REC_SREGS = 4,
	X86_REC_SREGS2 = 5,
	X86_REC_XCRS = 6,
	X86_REC_XSAVE = 7,
	X86_REC_REGS = 8,
	X86_REC_LAPIC = 9,
	X86_REC_MSRS = 10,
	X86_REC_DEBUGREGS = 11,
	X86_REC_EVENTS = 12,

	X86_REC_CLOCK = 32,
	X86_REC_PIC_MASTER = 33,
	X86_REC_PIC_SLAVE = 34,
	X86_REC_IOAPIC = 35,
	X86_REC_PIT = 36,
};

/* Where a failure is explained; text may be NULL. */
struct x86_why {
	char *text;
	size_t size;
};

/* Set the explanation and return `err`. */
__attribute__((format(printf, 3, 4))) int x86_explain(struct x86_why why, int err, const char *fmt,
                                                      ...);

/* Records being written. `used` runs on past `cap`, so that one pass tells the size needed. */
struct x86_out {
	uint8_t *buf;
	size_t cap;
	size_t used;
};

void x86_put(struct x86_out *out, uint32_t type, const void *payload, size_t size);

/* Set *size. Return: 0, or -ENOSPC when the buffer was too small. */
int x86_put_done(const struct x86_out *out, size_t *size);

/* What a reader expects of one type. */
struct x86_record_rule {
	uint32_t type;
	uint32_t min; /* bytes of payload */
	uint32_t max;
	uint32_t item; /* payload is `min` and then whole items of this size; 0: any size fits */
	bool required;
	const char *name; /* for explanations */
	/* ioctl numbers whose argument is the payload as it stands; 0: takes more than one call */
	unsigned long get, set;
};

/* A type that one ioctl reads and one sets: its size is in their numbers. */
#define X86_PLAIN(type_, required_, name_, get_, set_)                                             \
	{                                                                                          \
		.type = (type_), .min = _IOC_SIZE(set_), .max = _IOC_SIZE(set_),                   \
		.required = (required_), .name = (name_), .get = (get_), .set = (set_),            \
	}

/* A payload found in the bytes; data is NULL when there was none. */
struct x86_payload {
	const uint8_t *data;
	size_t size;
};

/*
 * Find the payload of each of `count` rules in `buf`, checking every bound, that every record is
 * known and none comes twice, and that required ones are there. found[i] belongs to rules[i].
 * Return: 0; -EBADMSG; -ENOTSUP for an unknown type or version.
 */
int x86_parse(const void *buf, size_t size, const struct x86_record_rule *rules, size_t count,
              struct x86_payload *found, struct x86_why why);

/*
 * Move a plain record between KVM and bytes. Return: 0 or -errno of KVM; on setting, what KVM finds
 * invalid in a well-formed payload is -ENOTSUP, explained.
 */
int x86_plain_save(int fd, const struct x86_record_rule *rule, struct x86_out *out);
int x86_plain_restore(int fd, const struct x86_record_rule *rule, const struct x86_payload *p,
                      struct x86_why why);

/* Explain that KVM answered `err` to the state `name`. Return: -ENOTSUP for -EINVAL, else err. */
int x86_refused(struct x86_why why, const char *name, int err);

/* cpuid.c */
/* The entry of a leaf, or NULL. */
const struct kvm_cpuid_entry2 *x86_cpuid_find(const struct x86_cpuid *c, uint32_t leaf,
                                              uint32_t index);
/* What KVM supports here, unchanged. Return: 0 or -errno. */
int x86_cpuid_supported(const struct kvm *kvm, struct x86_cpuid *c);
/*
 * Entries of zeros at the end do not count: Linux before 6.8 leaves the room it was given as the
 * number of entries. KVM compares the number too when it is told again what it knows.
 */
void x86_cpuid_trim(struct x86_cpuid *c);
/* What a vCPU has been told. Return: 0 or -errno. */
int x86_cpuid_get(int vcpu_fd, struct x86_cpuid *c);
/* Turn what is supported into what vCPU `index` is told. Return: 0, or -ENOSPC. */
int x86_cpuid_policy(struct x86_cpuid *c, unsigned index, bool lapic);
/* The local APIC id told to the vCPU: its index. */
uint32_t x86_cpuid_apic_id(const struct x86_cpuid *c);
/* Return: 0, or -ENOTSUP (explained) when `saved` has what `host` has not. */
int x86_cpuid_check(const struct x86_cpuid *saved, const struct x86_cpuid *host, bool native,
                    struct x86_why why);

/* msr.c */
/*
 * Read all registers a snapshot carries, in the order they are to be set: time last. `apic_id` is
 * the vCPU's, because vCPU 0 sets the time base. Return: 0 or -errno of KVM; -ENOSPC.
 */
int x86_msrs_save(const struct kvm *kvm, int vcpu_fd, uint32_t apic_id, struct x86_msrs *out);
/*
 * Set them. `size` is that of a struct x86_msrs cut off after its last entry, as the caller has
 * checked.
 * Return: 0; -ENOTSUP (explained) for a value this host cannot hold; -errno of KVM.
 */
int x86_msrs_restore(int vcpu_fd, const void *payload, size_t size, struct x86_why why);

/* acpi.c */
#define X86_ACPI_MAX_CPUS 254u /* 255 as an APIC id means all */
struct arch_writer;
/*
 * Write the ACPI tables of a machine with `cpus` vCPUs (1..X86_ACPI_MAX_CPUS), the root pointer
 * at X86_ACPI. `pci`: with the configuration space of an empty PCI bus at X86_PCI_CONFIG.
 * Return: 0 or the writer's -errno.
 */
int x86_acpi_write(const struct arch_writer *w, unsigned cpus, bool pci);

/* state.c: the saved CPU identification in a vCPU's bytes. Return: 0; -EBADMSG or -ENOTSUP. */
int x86_state_cpuid(const void *buf, size_t size, struct x86_cpuid *out, struct x86_why why);

#endif
