// SPDX-License-Identifier: MIT
/*
 * arch/x86_64/boot.c - the page tables a tiny guest starts on.
 *
 * Four levels, identity, every leaf present, writable, executable and open to user mode:
 *
 *     root, one 512 GiB table, one table per GiB in use     2 MiB leaves
 *     a 2 MiB block that RAM fills partly, the doorbell     a fourth table with 4 KiB leaves
 *
 * Invariants:
 * 1. Nothing but RAM and the doorbell page is mapped: a stray access faults in the guest.
 * 2. Accessed and dirty bits are set beforehand. A CPU that sets them would write page-table
 *    pages, and each such page would be one more private copy in every clone.
 * 3. Tables lie in [X86_PAGE_TABLES, X86_TABLES_END), in the order they are first needed.
 *
 * Does not use 1 GiB leaves: the tables do not know what the vCPU will be told it
 * supports, and 2 MiB is also the unit in which the host shares and copies memory.
 */
#include "arch/arch.h"
#include "arch/x86_64/x86.h"

#define PTE_PRESENT  UINT64_C(0x001)
#define PTE_WRITE    UINT64_C(0x002)
#define PTE_USER     UINT64_C(0x004)
#define PTE_UNCACHED UINT64_C(0x018) /* PWT | PCD */
#define PTE_ACCESSED UINT64_C(0x020)
#define PTE_DIRTY    UINT64_C(0x040)
#define PTE_LARGE    UINT64_C(0x080)

#define TABLE_FLAGS (PTE_PRESENT | PTE_WRITE | PTE_USER | PTE_ACCESSED)
#define LEAF_FLAGS  (TABLE_FLAGS | PTE_DIRTY)

#define ENTRIES    512u
#define GIB_SHIFT  30u
#define TABLE_SIZE (ENTRIES * sizeof(uint64_t))

struct table {
	uint64_t entry[ENTRIES];
};

struct tables {
	const struct arch_writer *writer;
	const struct ram_region *ram;
	size_t ram_count;
	uint64_t next; /* address of the next free table */
};

/*
 * Root, top, a table per GiB of the largest RAM and of the hole, fourth tables: one for the
 * doorbell and one at each end of each region.
 */
_Static_assert(X86_PAGE_TABLES +
                               (2 + (X86_MAX_RAM >> GIB_SHIFT) + 1 + 1 + 2 * ARCH_MAX_RAM_REGIONS) *
                                       TABLE_SIZE <=
                       X86_TABLES_END,
               "the largest RAM must be mappable");

static int table_alloc(struct tables *t, uint64_t *at)
{
	if (t->next + TABLE_SIZE > X86_TABLES_END)
		return -EFBIG;
	*at = t->next;
	t->next += TABLE_SIZE;
	return 0;
}

static int table_write(const struct tables *t, uint64_t at, const struct table *table)
{
	return t->writer->write(t->writer->ctx, (gpa_t){at}, table, sizeof(*table));
}

static bool ram_covers(const struct tables *t, uint64_t start, uint64_t size)
{
	for (size_t i = 0; i < t->ram_count; i++) {
		const struct gpa_range *r = &t->ram[i].range;

		if (start >= r->start.v && start + size <= gpa_range_end(*r))
			return true;
	}
	return false;
}

/* Is anything to be mapped in this range? */
static bool range_used(const struct tables *t, uint64_t start, uint64_t size)
{
	const struct gpa_range wanted = {{start}, size};

	if (gpa_range_has(wanted, (gpa_t){X86_DOORBELL}))
		return true;
	for (size_t i = 0; i < t->ram_count; i++)
		if (gpa_range_overlaps(wanted, t->ram[i].range))
			return true;
	return false;
}

/* 4 KiB leaves of one 2 MiB block; *entry is what points to them. */
static int map_pages(struct tables *t, uint64_t start, uint64_t *entry)
{
	struct table pages = {0};
	uint64_t at;
	int err = table_alloc(t, &at);

	if (err)
		return err;
	for (unsigned i = 0; i < ENTRIES; i++) {
		uint64_t page = start + i * MM_PAGE_SIZE;

		if (page == X86_DOORBELL)
			pages.entry[i] = page | LEAF_FLAGS | PTE_UNCACHED;
		else if (ram_covers(t, page, MM_PAGE_SIZE))
			pages.entry[i] = page | LEAF_FLAGS;
	}
	*entry = at | TABLE_FLAGS;
	return table_write(t, at, &pages);
}

/* One GiB in 2 MiB leaves. */
static int map_gib(struct tables *t, uint64_t start, uint64_t *entry)
{
	struct table blocks = {0};
	uint64_t at;
	int err = table_alloc(t, &at);

	for (unsigned i = 0; i < ENTRIES && !err; i++) {
		uint64_t block = start + i * MM_BLOCK_SIZE;

		if (ram_covers(t, block, MM_BLOCK_SIZE))
			blocks.entry[i] = block | LEAF_FLAGS | PTE_LARGE;
		else if (range_used(t, block, MM_BLOCK_SIZE))
			err = map_pages(t, block, &blocks.entry[i]);
	}
	if (err)
		return err;
	*entry = at | TABLE_FLAGS;
	return table_write(t, at, &blocks);
}

int arch_write_boot(const struct arch_writer *w, const struct ram_region *ram, size_t ram_count)
{
	struct tables t = {w, ram, ram_count, X86_PAGE_TABLES};
	struct table root = {0}, top = {0};
	uint64_t root_at, top_at;
	int err;

	for (size_t i = 0; i < ram_count; i++)
		if (gpa_range_end(ram[i].range) > (uint64_t)ENTRIES << GIB_SHIFT)
			return -EFBIG;
	err = table_alloc(&t, &root_at);
	if (!err)
		err = table_alloc(&t, &top_at);
	for (uint64_t i = 0; i < ENTRIES && !err; i++)
		if (range_used(&t, i << GIB_SHIFT, MM_HUGE_SIZE))
			err = map_gib(&t, i << GIB_SHIFT, &top.entry[i]);
	if (err)
		return err;

	err = table_write(&t, top_at, &top);
	if (err)
		return err;
	root.entry[0] = top_at | TABLE_FLAGS;
	return table_write(&t, root_at, &root);
}
