// SPDX-License-Identifier: MIT
/*
 * arch/x86_64/tables.c - which pages of the guest's are page tables.
 *
 * Long mode only, four levels or five: there the root changes by MOV to CR3 alone. (In 32-bit modes
 * a task switch loads it too, and KVM copies the four entries of a PAE root.)
 *
 * Every present entry that is no leaf leads to a table, also where reserved bits would make the CPU
 * refuse it: rather one page too many. A table may be reached twice, or contain itself; it
 * is read once for each level it is reached at.
 */
#include <string.h>

#include "arch/arch.h"
#include "arch/x86_64/x86.h"

#define CR0_PG   UINT64_C(0x80000000)
#define CR4_LA57 UINT64_C(0x00001000)
#define EFER_LMA UINT64_C(0x400)

#define PRESENT UINT64_C(0x001)
#define LARGE   UINT64_C(0x080) /* in an entry of the second and third level */

#define ENTRIES      512u
#define LEVELS       5u
#define LARGEST_LEAF 3u

struct walk {
	const struct arch_memory *memory;
	gpa_t *pages;
	size_t room, count;
	size_t reads; /* left: tables that lead to each other are no tree */
};

/* Return: 0, it is among the pages; -ENOSPC. */
static int note_page(struct walk *w, uint64_t page)
{
	for (size_t i = 0; i < w->count; i++)
		if (w->pages[i].v == page)
			return 0;
	if (w->count == w->room)
		return -ENOSPC;
	w->pages[w->count++] = (gpa_t){page};
	return 0;
}

/* The table of `level` at `page`, and all behind it. Return: as arch_vcpu_tables(). */
static int walk_table(struct walk *w, uint64_t page, unsigned level)
{
	uint64_t entry[ENTRIES];
	int err = note_page(w, page);

	if (!err && level > 1)
		err = w->reads-- > 0
		              ? w->memory->read(w->memory->ctx, (gpa_t){page}, entry, sizeof(entry))
		              : -ENOSPC;
	for (unsigned i = 0; i < ENTRIES && level > 1 && !err; i++) {
		bool leaf = level <= LARGEST_LEAF && (entry[i] & LARGE);

		if ((entry[i] & PRESENT) && !leaf)
			err = walk_table(w, entry[i] & X86_CR3_TABLE, level - 1);
	}
	return err;
}

int arch_vcpu_tables(int vcpu_fd, const struct arch_memory *m, gpa_t *pages, size_t room,
                     size_t *count)
{
	struct walk w = {m, pages, room, *count, LEVELS * room};
	struct kvm_sregs s;
	int err = kvm_ioctl(vcpu_fd, KVM_GET_SREGS, &s);

	if (err)
		return err;
	if (!(s.cr0 & CR0_PG) || !(s.efer & EFER_LMA))
		return -ENOTSUP;
	err = walk_table(&w, s.cr3 & X86_CR3_TABLE, s.cr4 & CR4_LA57 ? LEVELS : LEVELS - 1);
	if (!err)
		*count = w.count;
	return err;
}
