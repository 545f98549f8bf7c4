// SPDX-License-Identifier: MIT
/*
 * vmm/pmem.h - a file as persistent memory of a guest: mapped copy-on-write, shared by all clones.
 *
 * The file becomes the frames of a region above RAM, in an image that has nothing else; a fresh
 * machine that starts as a clone of that image finds empty RAM and, behind it, the file. Pages
 * the guest writes are its own; the file is never written.
 */
#ifndef COWSLIP_VMM_PMEM_H
#define COWSLIP_VMM_PMEM_H

#include <stddef.h>

#include "mm/image.h"
#include "vmm/vm.h"

/*
 * An image of `count` regions of empty RAM and one more region, above them where the ISA wants it,
 * that holds `path`; *pmem says where. What lies between the end of the file and the end of
 * the region (a 2 MiB boundary) reads as zero.
 * Return: 0; -errno of opening; -EINVAL when it is not a regular file or empty; -ENOMEM. err->text
 * says what in one line.
 */
int pmem_image(const struct ram_region *ram, size_t count, const char *path, struct image **out,
               struct gpa_range *pmem, struct vm_error *err);

#endif
