// SPDX-License-Identifier: MIT
/*
 * vmm/kernel.h - operating-system kernels from files into a space.
 *
 * Says what a file is before a machine is made for it, because a kernel's machine has an
 * interrupt controller and a tiny guest's has none; then hands kernel and initrd to arch/, which
 * knows the boot protocols. Tiny guests are vmm/elf.h's.
 *
 * Concurrency: keeps no state; one call belongs to one thread.
 */
#ifndef COWSLIP_VMM_KERNEL_H
#define COWSLIP_VMM_KERNEL_H

#include <stddef.h>

#include "arch/arch.h"
#include "mm/space.h"
#include "mm/types.h"

enum kernel_kind {
	KERNEL_PROGRAM, /* an ELF file: a tiny guest, for elf_load() to accept or refuse */
	KERNEL_SYSTEM,  /* an operating system's kernel, for kernel_load() */
};

/*
 * What is `path`? *format (may be NULL) is a constant name, "ELF" for a program.
 * Return: 0; -ENOEXEC for a file that is neither, or not a regular one; -errno of open and read.
 * On failure `why` (of why_size bytes) is one line that names the path.
 */
int kernel_probe(const char *path, enum kernel_kind *kind, const char **format, char *why,
                 size_t why_size);

/* Paths and arrays are borrowed for the call. */
struct kernel_files {
	const char *path;
	const char *initrd;  /* NULL: none */
	const char *cmdline; /* NULL: empty */
};

struct kernel_machine {
	const struct ram_region *ram; /* without the ranges of `pmem` */
	size_t ram_count;
	const struct gpa_range *pmem; /* as in struct arch_kernel */
	size_t pmem_count;
	unsigned cpus;
};

/*
 * Load a kernel into `s`, whose RAM has not been written yet. Files are read, never mapped: one
 * that shrinks meanwhile gives an error, not a signal.
 * Return: 0 and what arch_vcpu_reset_kernel() wants; as arch_kernel_load(); -ENODATA for a file
 * that shrank; -ENOEXEC for an initrd that is empty or not a regular file; -errno of open and
 * read; as space_write(). On failure `why` is one line that names the file.
 */
int kernel_load(struct space *s, const struct kernel_files *files,
                const struct kernel_machine *machine, struct arch_kernel_entry *out, char *why,
                size_t why_size);

#endif
