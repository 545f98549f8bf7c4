// SPDX-License-Identifier: MIT
/*
 * arch/x86_64/bzimage.c - Linux's own image, entered by the 64-bit boot protocol.
 *
 *     file     setup code (skipped), then the payload: syssize 16-byte units
 *     memory   [pref_address, + init_size): payload at its start, start_64 0x200 further on
 *
 * The kernel is put where it prefers to be, so that it need not move itself. Whatever comes after
 * the payload in the file (a signature) is none of its business.
 *
 * Source: Linux Documentation/arch/x86/boot.rst; <asm/bootparam.h>.
 */
#include <asm/bootparam.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "arch/x86_64/linux.h"

#define HEADER    offsetof(struct boot_params, hdr) /* the same in the file and the zero page */
#define SIGNATURE UINT32_C(0x53726448)              /* HdrS */
#define BOOT_FLAG 0xaa55u
#define OLDEST    0x020cu /* the first with a 64-bit entry point */

#define SECTOR          512u
#define DEFAULT_SECTORS 4u
#define START_64        0x200u
#define LOADER_UNKNOWN  0xffu
#define VIDEO_NORMAL    0xffffu

/* A header of the oldest version reaches this far. */
#define HEADER_LEAST (HEADER + offsetof(struct setup_header, handover_offset))

_Static_assert(sizeof(struct boot_params) == MM_PAGE_SIZE, "the zero page is one");
_Static_assert(offsetof(struct boot_params, edd_mbr_sig_buffer) == X86_HEADER_MAX, "header's end");
_Static_assert(X86_MAP_MAX <= E820_MAX_ENTRIES_ZEROPAGE, "memory map");

static struct setup_header header_of(const uint8_t *bytes)
{
	struct setup_header h;

	memcpy(&h, bytes + HEADER, sizeof(h));
	return h;
}

static int probe(const struct arch_reader *file, bool *yes)
{
	uint8_t bytes[X86_HEADER_MAX];
	struct setup_header h;
	int err;

	*yes = false;
	if (file->size < sizeof(bytes))
		return 0;
	err = file->read(file->ctx, 0, bytes, sizeof(bytes));
	if (err)
		return err;
	h = header_of(bytes);
	*yes = h.boot_flag == BOOT_FLAG && h.header == SIGNATURE;
	return 0;
}

/* Where the header ends is in the jump instruction that skips it. */
static size_t header_end(const struct setup_header *h)
{
	return HEADER + offsetof(struct setup_header, header) + (h->jump >> 8);
}

static int check_header(const struct x86_plan *p, const struct setup_header *h)
{
	const char *name = p->k->image.name;

	if (h->version < OLDEST)
		return x86_explain(p->why, -ENOEXEC,
		                   "%s is a bzImage of boot protocol %u.%02u, 2.12 or later is "
		                   "wanted",
		                   name, h->version >> 8, h->version & 0xffu);
	if (header_end(h) < HEADER_LEAST)
		return x86_explain(p->why, -ENOEXEC,
		                   "%s is a damaged bzImage: its header ends at offset %zu", name,
		                   header_end(h));
	if (!(h->loadflags & LOADED_HIGH) || !(h->xloadflags & XLF_KERNEL_64))
		return x86_explain(p->why, -ENOEXEC, "%s is a bzImage without a 64-bit entry point",
		                   name);
	return 0;
}

static int plan_payload(struct x86_plan *p, const struct setup_header *h)
{
	const struct arch_reader *file = &p->k->image;
	uint64_t sectors = h->setup_sects ? h->setup_sects : DEFAULT_SECTORS;
	uint64_t offset = (sectors + 1) * SECTOR, size = (uint64_t)h->syssize * 16;

	if (size <= START_64)
		return x86_explain(p->why, -ENOEXEC, "%s is a bzImage with nothing in it",
		                   file->name);
	if (offset > file->size || size > file->size - offset)
		return x86_explain(p->why, -ENOEXEC,
		                   "%s is truncated: its kernel ends at offset %" PRIu64
		                   ", the file at %" PRIu64,
		                   file->name, offset + size, file->size);
	p->piece[p->pieces++] = (struct x86_piece){offset, size, h->pref_address};
	return 0;
}

static int plan_place(struct x86_plan *p, const struct setup_header *h)
{
	const char *name = p->k->image.name;
	uint64_t at = h->pref_address, align = h->kernel_alignment;

	if (align == 0 || (align & (align - 1)) != 0 || !is_aligned(at, align) ||
	    at < X86_LOAD_MIN || h->init_size < p->piece[0].size)
		return x86_explain(p->why, -ENOEXEC,
		                   "%s is a damaged bzImage: %#" PRIx32 " bytes at %#" PRIx64
		                   ", aligned to %#" PRIx64,
		                   name, h->init_size, at, align);
	if (at > x86_low_end(p->k) || h->init_size > x86_low_end(p->k) - at)
		return x86_explain(p->why, -ENOSPC,
		                   "%s does not fit RAM: it needs %" PRIu64 " KiB at %" PRIu64
		                   " MiB, RAM ends at %" PRIu64 " MiB; more may help (--mem)",
		                   name, (uint64_t)h->init_size >> 10, at >> 20,
		                   x86_low_end(p->k) >> 20);
	p->kernel = (struct gpa_range){{at}, h->init_size};
	p->start = at + START_64;
	return 0;
}

static int plan(struct x86_plan *p)
{
	struct setup_header h;
	int err = x86_image_read(p, 0, p->header, sizeof(p->header));

	if (err)
		return err;
	h = header_of(p->header);
	err = check_header(p, &h);
	if (!err)
		err = plan_payload(p, &h);
	if (!err)
		err = plan_place(p, &h);
	p->initrd_end = (uint64_t)h.initrd_addr_max + 1;
	p->cmdline_max = h.cmdline_size;
	return err;
}

/* The header as the file has it, as far as it goes, and then our part of it. */
static void fill_header(const struct x86_plan *p, struct boot_params *bp)
{
	struct setup_header h = header_of(p->header);
	size_t end = min_u64(header_end(&h), X86_HEADER_MAX);

	memcpy((uint8_t *)bp + HEADER, p->header + HEADER, end - HEADER);
	bp->hdr.type_of_loader = LOADER_UNKNOWN;
	bp->hdr.vid_mode = VIDEO_NORMAL;
	bp->hdr.cmd_line_ptr = X86_CMDLINE;
	bp->hdr.ramdisk_image = (uint32_t)p->initrd;
	bp->hdr.ramdisk_size = (uint32_t)p->k->initrd.size;
	bp->acpi_rsdp_addr = X86_ACPI;
}

static int inform(const struct x86_plan *p, const struct arch_writer *w)
{
	struct boot_params bp;

	memset(&bp, 0, sizeof(bp));
	fill_header(p, &bp);
	bp.e820_entries = (uint8_t)p->map.count;
	for (size_t i = 0; i < p->map.count; i++)
		bp.e820_table[i] = (struct boot_e820_entry){
			.addr = p->map.entry[i].start,
			.size = p->map.entry[i].size,
			.type = p->map.entry[i].type,
		};
	return w->write(w->ctx, (gpa_t){X86_ZERO_PAGE}, &bp, sizeof(bp));
}

const struct x86_kernel_format x86_bzimage = {
	.name = "bzImage",
	.mode = X86_START_LONG,
	.info = X86_ZERO_PAGE,
	.probe = probe,
	.plan = plan,
	.inform = inform,
};
