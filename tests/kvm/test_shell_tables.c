// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_shell_tables.c - page tables of a clone's are not those of the next one in the
 * same VM, whatever it did to them; and where nobody did anything, KVM's shadows of them stay.
 *
 * The guest is guest/poke.c. Its image has, beside the tables it was booted with, tables of its own
 * that are not in use yet and map BLOCK elsewhere. Both map LEAVES by 4 KiB, all else by 2 MiB.
 * Each clone says what it finds behind addresses whose words say where they are.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <string.h>

#include "arch/arch.h"
#include "guest/poke.h"
#include "tests/kvm/lab.h"
#include "tests/kvm/script.h"
#include "vmm/kvm_stats.h"
#include "vmm/shell.h"
#include "vmm/vm_internal.h"

#define POOL       (256 * MIB)
#define PAGE       MM_PAGE_SIZE
#define FRAME      UINT64_C(0x000ffffffffff000)
#define LARGE      UINT64_C(0x80) /* in an entry: a leaf of 2 MiB */
#define BLOCK      (10 * MIB)
#define ELSEWHERE  (8 * MIB)
#define THIRD      (6 * MIB)
#define OWN        (12 * MIB) /* a root, and three tables behind it */
#define LEAVES     (14 * MIB)
#define WORD       0x80 /* in each of them */
#define DEVICE     (arch_info.doorbell.v + 0x800)
#define OWN_BLOCKS (OWN + 2 * PAGE)
#define OWN_LEAVES (OWN + 3 * PAGE)

/* What the guest loaded. */
struct loaded {
	unsigned count;
	uint64_t value[8];
};

struct bed {
	struct lab l;
	struct image *image;
	struct shells *s;
	struct vm_config c;
	struct loaded loaded;
	/* Addresses of entries in the tables it was booted with and in its own; what is there. */
	uint64_t entry, was, own_entry, own_was, leaf, leaf_was;
	uint64_t clones;
};

static void note_load(void *ctx, const void *data, size_t size)
{
	struct loaded *l = ctx;

	if (size == 8 && l->count < 8)
		memcpy(&l->value[l->count++], data, 8);
}

/* ---- the image ---- */

/* The entry of `address` in the tables a guest is booted with, where 2 MiB are one. */
static uint64_t block_entry(struct vm *vm, uint64_t address)
{
	uint64_t root = arch_info.tables.start.v;
	uint64_t top = script_word(vm, root + 8 * (address >> 39)) & FRAME;
	uint64_t middle = script_word(vm, top + 8 * ((address >> 30) & 511)) & FRAME;

	return middle + 8 * ((address >> 21) & 511);
}

/* Tables at OWN that map all as those it was booted with do. */
static void copy_tables(struct vm *vm, uint64_t last)
{
	const uint64_t boot = arch_info.tables.start.v;
	const uint64_t from[] = {boot, script_word(vm, boot) & FRAME, last};
	uint8_t table[PAGE];

	for (unsigned i = 0; i < 3; i++) {
		uint64_t to = OWN + i * PAGE, first;

		cr_assert_eq(space_read(vm_space(vm), (gpa_t){from[i]}, table, PAGE), 0);
		memcpy(&first, table, 8);
		first = (first & ~FRAME) | (to + PAGE);
		if (i < 2)
			memcpy(table, &first, 8);
		cr_assert_eq(space_write(vm_space(vm), (gpa_t){to}, table, PAGE), 0);
	}
}

/* Both reach LEAVES through a fourth one. */
static void split_leaves(struct vm *vm)
{
	uint64_t at = block_entry(vm, LEAVES);
	uint64_t block = script_word(vm, at), split = (block & ~LARGE & ~FRAME) | OWN_LEAVES;

	for (uint64_t i = 0; i < 512; i++)
		script_set_word(vm, OWN_LEAVES + 8 * i, (block & ~LARGE) + i * PAGE);
	script_set_word(vm, at, split);
	script_set_word(vm, OWN_BLOCKS + at % PAGE, split);
}

static void make_image(struct bed *b)
{
	struct vm_config c = lab_config(&b->l, SCRIPT_RAM, 1, FAULTS_AUTO, NULL);
	struct vm *vm = lab_boot(&c, "poke", NULL);

	lab_expect(vm, VM_READY, 0);
	script_set_word(vm, BLOCK + WORD, 0xb10c);
	script_set_word(vm, ELSEWHERE + WORD, 0xe15e);
	script_set_word(vm, THIRD + WORD, 0x3333);
	script_set_word(vm, LEAVES + WORD, 0x1eaf);
	script_set_word(vm, LEAVES + PAGE + WORD, 0x2eaf);
	b->entry = block_entry(vm, BLOCK);
	b->was = script_word(vm, b->entry);
	copy_tables(vm, b->entry & ~(uint64_t)(PAGE - 1));
	split_leaves(vm);
	b->own_entry = OWN_BLOCKS + b->entry % PAGE;
	b->own_was = b->was - BLOCK + ELSEWHERE;
	script_set_word(vm, b->own_entry, b->own_was);
	b->leaf = OWN_LEAVES;
	b->leaf_was = script_word(vm, b->leaf);
	b->image = lab_snapshot(vm);
	vm_destroy(vm);
}

static void bed_open(struct bed *b, enum fault_choice faults)
{
	*b = (struct bed){0};
	lab_open(&b->l, POOL);
	make_image(b);
	cr_assert_eq(shells_create(1, &b->s), 0);
	b->c = (struct vm_config){
		.kvm = &b->l.kvm,
		.pool = b->l.pool,
		.image = b->image,
		.number = 1,
		.faults = faults,
		.mailbox = {.output = note_load, .ctx = &b->loaded},
	};
}

/* Every clone was in one and the same VM. */
static void bed_close(struct bed *b)
{
	struct shells_stats stats;

	shells_stats(b->s, &stats);
	cr_assert(stats.made == 1 && stats.reused == b->clones - 1 && stats.refused == 0);
	shells_destroy(b->s);
	image_put(b->image);
	lab_close(&b->l);
}

/* ---- clones ---- */

/* One clone, which makes these accesses. Return: shadows of tables that KVM made for it. */
static uint64_t run_clone(struct bed *b, const struct poke *pokes, size_t size)
{
	struct kvm_counters before, after;
	struct vm_error err = {""};
	struct vm *vm = NULL;

	b->c.number++;
	b->clones++;
	cr_assert_eq(shells_take(b->s, &b->c, &vm, &err), 0, "%s", err.text);
	(void)vm_kvm_stats(vm, &before);
	b->loaded.count = 0;
	vm_set_input(vm, pokes, size);
	lab_expect(vm, VM_EXITED, 0);
	(void)vm_kvm_stats(vm, &after);
	shells_give(b->s, vm, VM_EXITED);
	return after.v[KVM_COUNT_MMU_CACHE_MISS] - before.v[KVM_COUNT_MMU_CACHE_MISS];
}

static void expect_loads(const struct bed *b, const char *who, unsigned count,
                         const uint64_t *values)
{
	cr_assert_eq(b->loaded.count, count, "%s: %u loads", who, b->loaded.count);
	for (unsigned i = 0; i < count; i++)
		cr_assert_eq(b->loaded.value[i], values[i], "%s, load %u: %lx, not %lx", who, i,
		             b->loaded.value[i], values[i]);
}

/* A clone that touches no table. Return: as run_clone(). */
static uint64_t harmless(struct bed *b)
{
	const struct poke look[] = {{BLOCK + WORD, POKE_LOAD, 0},
	                            {BLOCK + 0x100, POKE_STORE, 0x5555},
	                            {BLOCK + 0x100, POKE_LOAD, 0},
	                            {LEAVES + WORD, POKE_LOAD, 0}};
	uint64_t made = run_clone(b, look, sizeof(look));

	expect_loads(b, "harmless", 3, (const uint64_t[]){0xb10c, 0x5555, 0x1eaf});
	return made;
}

/* Does this host keep shadows where they may be kept? */
static bool keeps(void)
{
	return arch_shadow_paging() && arch_interprets_privileged();
}

/* Until shadows stay: what comes next comes upon warm ones. */
static void warm_up(struct bed *b)
{
	for (unsigned i = 0; i < 3; i++)
		(void)harmless(b);
	if (keeps())
		cr_assert_eq(harmless(b), 0, "shadows did not stay");
}

/* Through own tables everything is as the image has it, and through those of the boot. */
static void look(struct bed *b)
{
	const struct poke pokes[] = {
		{BLOCK + WORD, POKE_LOAD, 0},
		{OWN, POKE_ROOT, 0},
		{BLOCK + WORD, POKE_LOAD, 0},
		{LEAVES + WORD, POKE_LOAD, 0},
		{arch_info.tables.start.v, POKE_ROOT, 0},
		{BLOCK + WORD, POKE_LOAD, 0},
	};

	(void)run_clone(b, pokes, sizeof(pokes));
	expect_loads(b, "look", 4, (const uint64_t[]){0xb10c, 0xe15e, 0x1eaf, 0xb10c});
}

#define TRY(b, pokes, ...)                                                                         \
	try(b, pokes, sizeof(pokes), (const uint64_t[]){__VA_ARGS__},                              \
	    sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

/*
 * A clone does this, upon shadows that stayed and then upon whatever there is, and finds that; the
 * next ones find nothing of it, some of them in their first access.
 */
static void try(struct bed *b, const struct poke *pokes, size_t size, const uint64_t *values,
                unsigned count)
{
	warm_up(b);
	for (unsigned round = 0; round < 3; round++) {
		(void)run_clone(b, pokes, size);
		expect_loads(b, "the guest itself", count, values);
		if (round != 1)
			(void)harmless(b);
		look(b);
	}
	(void)harmless(b);
	bed_close(b);
}

/* ---- what stays ---- */

TEST_BOTH_PATHS(tables, stay)
{
	struct bed b;

	bed_open(&b, faults);
	warm_up(&b);
	for (unsigned i = 0; keeps() && i < 20; i++)
		cr_assert_eq(harmless(&b), 0, "clone %u", i);
	bed_close(&b);
}

/* Blocks that no clone has touched before want new shadows: those stay as well. */
Test(tables, more_of_them)
{
	const struct poke further[] = {{THIRD + WORD, POKE_LOAD, 0},
	                               {ELSEWHERE + WORD, POKE_STORE, 5}};
	struct bed b;

	bed_open(&b, FAULTS_AUTO);
	warm_up(&b);
	if (keeps())
		cr_assert_gt(run_clone(&b, further, sizeof(further)), 0);
	for (unsigned i = 0; keeps() && i < 3; i++)
		cr_assert_eq(run_clone(&b, further, sizeof(further)), 0);
	look(&b);
	bed_close(&b);
}

/* A VM nobody wants to reset again is not watched, and no worse off. */
Test(tables, without_watching)
{
	const struct poke pokes[] = {{BLOCK + WORD, POKE_LOAD, 0}};
	struct kvm blind;
	struct bed b;

	bed_open(&b, FAULTS_AUTO);
	blind = b.l.kvm;
	blind.caps.stats_fd = false;
	b.c.kvm = &blind;
	for (unsigned i = 0; i < 4; i++)
		(void)run_clone(&b, pokes, sizeof(pokes));
	expect_loads(&b, "blind", 1, (const uint64_t[]){0xb10c});
	look(&b);
	bed_close(&b);
}

/* ---- what does not ---- */

/* In user mode, as only a CPU translates. */
TEST_BOTH_PATHS(tables, entry_of_its_own)
{
	struct bed b;

	bed_open(&b, faults);
	{
		const struct poke map[] = {{b.entry, POKE_STORE, b.own_was},
		                           {BLOCK + WORD, POKE_LOAD, 0},
		                           {BLOCK + 0x200, POKE_STORE, 0x7777}};

		TRY(&b, map, 0xe15e);
	}
}

/* The entry is written and never used: KVM drops its shadow, or has none. */
TEST_BOTH_PATHS(tables, entry_not_used)
{
	struct bed b;

	bed_open(&b, faults);
	{
		const struct poke map[] = {{b.entry, POKE_STORE, b.own_was},
		                           {THIRD + WORD, POKE_LOAD, 0}};

		TRY(&b, map, 0x3333);
	}
}

/* Used, and put back by the guest itself. */
TEST_BOTH_PATHS(tables, entry_put_back)
{
	struct bed b;

	bed_open(&b, faults);
	{
		const struct poke map[] = {{b.entry, POKE_STORE, b.own_was},
		                           {BLOCK + WORD, POKE_LOAD, 0},
		                           {b.entry, POKE_STORE, b.was},
		                           {THIRD + WORD, POKE_LOAD, 0}};

		TRY(&b, map, 0xe15e, 0x3333);
	}
}

/* Tables of its own, changed before they are used, and left again. */
TEST_BOTH_PATHS(tables, own)
{
	const uint64_t boot = arch_info.tables.start.v;
	struct bed b;

	bed_open(&b, faults);
	{
		const struct poke map[] = {
			{b.own_entry, POKE_STORE, b.was - BLOCK + THIRD},
			{OWN, POKE_ROOT, 0},
			{BLOCK + WORD, POKE_LOAD, 0},
			{boot, POKE_ROOT, 0},
			{BLOCK + WORD, POKE_LOAD, 0},
		};

		TRY(&b, map, 0x3333, 0xb10c);
	}
}

/* The same, and it ends on them; or they were left alone by this clone and are used by the next. */
TEST_BOTH_PATHS(tables, own_to_the_end)
{
	struct bed b;

	bed_open(&b, faults);
	{
		const struct poke map[] = {
			{OWN, POKE_ROOT, 0},
			{BLOCK + WORD, POKE_LOAD, 0},
			{b.own_entry, POKE_STORE, b.was - BLOCK + THIRD},
			{OWN, POKE_ROOT, 0},
			{BLOCK + WORD, POKE_LOAD, 0},
		};

		TRY(&b, map, 0xe15e, 0x3333);
	}
}

/* Written and not used at all; `look` uses them first. */
TEST_BOTH_PATHS(tables, own_not_used)
{
	struct bed b;

	bed_open(&b, faults);
	{
		const struct poke map[] = {{b.own_entry, POKE_STORE, b.was - BLOCK + THIRD},
		                           {THIRD + WORD, POKE_LOAD, 0}};

		TRY(&b, map, 0x3333);
	}
}

/*
 * KVM lets a guest write to a table of the last level and looks at it when the guest flushes: a
 * leaf that is changed, flushed, changed again, flushed, and one that is not.
 */
TEST_BOTH_PATHS(tables, leaves)
{
	const uint64_t boot = arch_info.tables.start.v;
	struct bed b;

	bed_open(&b, faults);
	{
		const uint64_t other = b.leaf_was - LEAVES + THIRD;
		const uint64_t another = b.leaf_was - LEAVES + ELSEWHERE;
		const struct poke map[] = {
			{OWN, POKE_ROOT, 0},           {LEAVES + WORD, POKE_LOAD, 0},
			{b.leaf, POKE_STORE, other},   {OWN, POKE_ROOT, 0},
			{LEAVES + WORD, POKE_LOAD, 0}, {b.leaf, POKE_STORE, another},
			{OWN, POKE_ROOT, 0},           {LEAVES + WORD, POKE_LOAD, 0},
			{b.leaf, POKE_STORE, other},   {boot, POKE_ROOT, 0},
		};

		TRY(&b, map, 0x1eaf, 0x3333, 0xe15e);
	}
}

/* The same without a flush, of pages that nobody has touched before: none of it is interpreted. */
TEST_BOTH_PATHS(tables, untouched_leaves)
{
	struct bed b;

	bed_open(&b, faults);
	{
		const struct poke map[] = {
			{b.leaf + 8, POKE_STORE, b.leaf_was - LEAVES + THIRD},
			{LEAVES + PAGE + WORD, POKE_LOAD, 0},
		};
		const struct poke next[] = {{LEAVES + PAGE + WORD, POKE_LOAD, 0}};

		warm_up(&b);
		for (unsigned round = 0; round < 3; round++) {
			(void)run_clone(&b, map, sizeof(map));
			expect_loads(&b, "the guest itself", 1, (const uint64_t[]){0x3333});
			(void)run_clone(&b, next, sizeof(next));
			expect_loads(&b, "the next", 1, (const uint64_t[]){0x2eaf});
		}
		bed_close(&b);
	}
}

/* Tables made anew by each clone, and not the same ones. */
TEST_BOTH_PATHS(tables, fresh)
{
	const uint64_t boot = arch_info.tables.start.v;
	const uint64_t targets[] = {THIRD, ELSEWHERE, BLOCK}, words[] = {0x3333, 0xe15e, 0xb10c};
	struct bed b;

	bed_open(&b, faults);
	warm_up(&b);
	for (unsigned i = 0; i < 9; i++) {
		const uint64_t root = OWN + (16 + i % 2) * PAGE;
		const struct poke map[] = {
			/* A root of its own over the image's other tables. */
			{root, POKE_STORE, (OWN + PAGE) | 0x67},
			{b.own_entry, POKE_STORE, b.was - BLOCK + targets[i % 3]},
			{root, POKE_ROOT, 0},
			{BLOCK + WORD, POKE_LOAD, 0},
			{boot, POKE_ROOT, 0},
		};

		(void)run_clone(&b, map, sizeof(map));
		expect_loads(&b, "fresh tables", 1, &words[i % 3]);
		if (i % 4 == 3)
			look(&b);
	}
	look(&b);
	bed_close(&b);
}

/* An answer of ours into a table: KVM does not see it, until the guest touches that block. */
TEST_BOTH_PATHS(tables, answered_into)
{
	struct bed b;

	bed_open(&b, faults);
	{
		const uint64_t entry = b.entry - 8 * ((BLOCK - THIRD) / MM_BLOCK_SIZE);
		const struct poke map[] = {{entry, POKE_INPUT, b.was},
		                           {THIRD + WORD, POKE_LOAD, 0}};
		const struct poke next[] = {{THIRD + WORD, POKE_LOAD, 0}};

		warm_up(&b);
		for (unsigned round = 0; round < 3; round++) {
			(void)run_clone(&b, map, sizeof(map));
			expect_loads(&b, "the guest itself", 1, (const uint64_t[]){0xb10c});
			(void)run_clone(&b, next, sizeof(next));
			expect_loads(&b, "the next", 1, (const uint64_t[]){0x3333});
		}
		bed_close(&b);
	}
}

/*
 * No fewer comings out of KVM_RUN than instructions that KVM has interpreted: a store of 16 bytes
 * to a device is one and comes out twice, which makes up for what was done in privileged mode.
 */
TEST_BOTH_PATHS(tables, sums_that_fit)
{
	const uint64_t boot = arch_info.tables.start.v;
	struct bed b;

	bed_open(&b, faults);
	{
		const struct poke map[] = {
			{DEVICE, POKE_WIDE, 8}, {b.own_entry, POKE_STORE, b.was - BLOCK + THIRD},
			{OWN, POKE_ROOT, 0},    {BLOCK + WORD, POKE_LOAD, 0},
			{boot, POKE_ROOT, 0},   {DEVICE, POKE_WIDE, 8},
		};

		TRY(&b, map, 0x3333);
	}
}

/* ---- what could not be dropped ---- */

struct refused_reset {
	struct vm *vm;
	int result;
};

static void *reset_without_slots(void *arg)
{
	struct refused_reset *r = arg;
	struct vm_error err;

	lab_refuse_ioctl(KVM_SET_USER_MEMORY_REGION, ENOMEM);
	r->result = vm_reset(r->vm, 2, NULL, &err);
	return NULL;
}

/* It loads `value`, once, and ends. */
static void run_in(struct bed *b, struct vm *vm, const struct poke *pokes, size_t size,
                   uint64_t value)
{
	b->loaded.count = 0;
	vm_set_input(vm, pokes, size);
	lab_expect(vm, VM_EXITED, 0);
	expect_loads(b, "run", 1, &value);
}

/* A reset that fails may be tried again, and then knows no better what KVM has. */
TEST_BOTH_PATHS(tables, reset_tried_again)
{
	struct bed b;

	bed_open(&b, faults);
	{
		const struct poke load[] = {{BLOCK + WORD, POKE_LOAD, 0}};
		const struct poke own[] = {{OWN, POKE_ROOT, 0}, {BLOCK + WORD, POKE_LOAD, 0}};
		const struct poke map[] = {{b.own_entry, POKE_STORE, b.was - BLOCK + THIRD},
		                           {OWN, POKE_ROOT, 0},
		                           {BLOCK + WORD, POKE_LOAD, 0}};
		struct refused_reset r = {0};
		struct vm_error err;
		pthread_t thread;

		b.c.reset = true;
		r.vm = lab_make(&b.c);
		for (unsigned i = 0; i < 3; i++) {
			run_in(&b, r.vm, load, sizeof(load), 0xb10c);
			cr_assert_eq(vm_reset(r.vm, 2, NULL, &err), 0);
		}
		run_in(&b, r.vm, map, sizeof(map), 0x3333);
		cr_assert_eq(pthread_create(&thread, NULL, reset_without_slots, &r), 0);
		pthread_join(thread, NULL);
		cr_assert_eq(r.result, arch_shadow_paging() ? -ENOMEM : 0, "%d", r.result);
		cr_assert_eq(vm_reset(r.vm, 2, NULL, &err), 0, "%s", err.text);
		run_in(&b, r.vm, own, sizeof(own), 0xe15e);
		vm_destroy(r.vm);
	}
	shells_destroy(b.s);
	image_put(b.image);
	lab_close(&b.l);
}
