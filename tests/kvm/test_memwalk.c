// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_memwalk.c - memwalk by orders from outside: what it counts, whether its times add
 * up, what it finds wrong, and what it refuses.
 */
#include <stdlib.h>
#include <string.h>

#include "guest/memwalk.h"
#include "tests/kvm/lab.h"

#define POOL (512 * MIB)

/* Where the walked memory of a single vCPU starts, see guest/plan.h. */
#define WALKED UINT64_C(0x400000)

#define R  0u
#define W  MEMWALK_WRITE
#define P  MEMWALK_PAGE
#define PB (MEMWALK_PAGE | MEMWALK_BLOCK)

/* ---- a host of memwalk ---- */

struct host {
	struct lab lab;
	struct tape tape;
	unsigned kinds[8]; /* records in the order they came */
	unsigned records;
	struct memwalk_result result;
};

static void hear(void *ctx, const void *data, size_t size)
{
	struct host *h = ctx;
	struct memwalk_record r;

	cr_assert_geq(size, sizeof(r));
	memcpy(&r, data, sizeof(r));
	cr_assert_eq(r.size, size);
	cr_assert_lt(h->records, 8);
	h->kinds[h->records++] = r.kind;
	if (r.kind != MEMWALK_RESULT)
		return;
	cr_assert_eq(size, sizeof(h->result));
	memcpy(&h->result, data, size);
}

/* A file-wide one: it does not fit on a stack. Each test has a process of its own. */
static struct host host;

static struct vm_config config(uint64_t ram, unsigned cpus, enum fault_choice faults)
{
	struct vm_config c = lab_config(&host.lab, ram, cpus, faults, &host.tape);

	host.tape = (struct tape){0};
	host.records = 0;
	memset(&host.result, 0, sizeof(host.result));
	c.mailbox = (struct vm_mailbox){.output = hear, .ctx = &host};
	return c;
}

static void give(struct vm_config *c, const struct memwalk_order *o)
{
	c->mailbox.input = o;
	c->mailbox.input_size = sizeof(*o) + o->touches * sizeof(o->entries[0]);
}

/* The walk went well from its START to its RESULT. */
static void expect_records(unsigned cpus)
{
	cr_assert_eq(host.records, 3, "%s", host.tape.text);
	cr_assert_eq(host.kinds[0], MEMWALK_START);
	cr_assert_eq(host.kinds[1], MEMWALK_END);
	cr_assert_eq(host.kinds[2], MEMWALK_RESULT);
	cr_assert_eq(host.result.magic, MEMWALK_MAGIC);
	cr_assert_eq(host.result.version, MEMWALK_VERSION);
	cr_assert_eq(host.result.cpus, cpus);
	cr_assert_eq(host.result.errors, 0);
}

static void expect_counts(const uint64_t counts[MEMWALK_CLASSES])
{
	for (unsigned c = 0; c < MEMWALK_CLASSES; c++) {
		const struct memwalk_histogram *h = &host.result.classes[c];
		uint64_t in_buckets = 0;

		for (unsigned b = 0; b < MEMWALK_BUCKETS; b++)
			in_buckets += h->bucket[b];
		cr_assert_eq(h->count, counts[c], "class %u: %lu", c, h->count);
		cr_assert_eq(in_buckets, h->count);
		cr_assert(h->max <= h->sum && h->sum <= h->count * h->max);
	}
}

static struct memwalk_histogram all_classes(void)
{
	struct memwalk_histogram all = {0};

	for (unsigned c = 0; c < MEMWALK_CLASSES; c++)
		memwalk_histogram_merge(&all, &host.result.classes[c]);
	return all;
}

static uint64_t to_us(uint64_t cycles)
{
	cr_assert_gt(host.result.cycles_per_sec, 1000000);
	return cycles / (host.result.cycles_per_sec / 1000000);
}

/* ---- orders ---- */

#define ORDER(name, ...)                                                                           \
	static const uint32_t name##_entries[] = {__VA_ARGS__};                                    \
	struct memwalk_order *name =                                                               \
		make_order(name##_entries, sizeof(name##_entries) / sizeof(uint32_t))

/* To be freed. */
static struct memwalk_order *make_order(const uint32_t *entries, size_t count)
{
	struct memwalk_order *o = malloc(sizeof(*o) + count * sizeof(*entries));

	cr_assert(o);
	*o = (struct memwalk_order){
		.magic = MEMWALK_MAGIC, .version = MEMWALK_VERSION, .touches = count};
	memcpy(o->entries, entries, count * sizeof(*entries));
	return o;
}

/* ---- what is counted ---- */

TEST_BOTH_PATHS(memwalk, counts_by_class)
{
	static const uint64_t counts[] = {2, 1, 1, 3, 2, 1};
	struct vm_config c;
	struct vm *vm;

	/* Page 512 starts the second block, 1535 ends the third, where nothing follows. */
	ORDER(o, W | PB | 7, R | 7, W | 7, R | PB | 1535, R | P | 512, W | P | 0, W | P | 513,
	      W | 0, W | 1535, R | 513);

	lab_open(&host.lab, POOL);
	c = config(16 * MIB, 1, faults);
	give(&c, o);
	vm = lab_boot(&c, "memwalk", "size=6M order=input");
	lab_expect(vm, VM_EXITED, 0);
	expect_records(1);
	expect_counts(counts);
	cr_assert(strstr(host.tape.text, "memwalk: 10 touches, input order, 1 vCPU, clone 0: "),
	          "%s", host.tape.text);
	cr_assert(strstr(host.tape.text, "memwalk: every word ok\n"));
	lab_audit(&host.lab, vm);
	vm_destroy(vm);
	lab_close(&host.lab);
	free(o);
}

/* Touches are shared out to the last; a page that all write holds one of the values it may. */
TEST_BOTH_PATHS(memwalk, shares_of_many_vcpus)
{
	static const uint64_t counts[] = {9, 0, 0, 10, 2, 1};
	struct vm_config c;
	struct vm *vm;

	ORDER(o, W | PB | 0, W | 0, R | 0, W | 0, R | 0, W | 0, R | 0, W | P | 1, W | 1, R | 1,
	      W | 1, R | 1, W | 1, R | 1, W | 0, R | 0, W | 0, R | 0, W | 0, R | 0, W | P | 2,
	      W | 2);

	lab_open(&host.lab, POOL);
	for (unsigned cpus = 1; cpus <= 4; cpus++) {
		c = config(16 * MIB, cpus, faults);
		give(&c, o);
		vm = lab_boot(&c, "memwalk", "size=2M order=input");
		lab_expect(vm, VM_EXITED, 0);
		expect_records(cpus);
		expect_counts(counts);
		lab_audit(&host.lab, vm);
		vm_destroy(vm);
	}
	lab_close(&host.lab);
	free(o);
}

/* Orders of its own count each page once: 3 blocks, and a page of the next. */
TEST_BOTH_PATHS(memwalk, own_orders)
{
	static const char *const plans[] = {
		"size=6148K pattern=seq",
		"size=6148K pattern=random access=rw",
		"size=6148K pattern=stride:1000 access=read",
		"size=6148K pattern=stride:18446744073709551615",
	};
	static const uint64_t written[] = {0, 0, 0, 0, 1533, 4}, read[] = {0, 1533, 4, 0, 0, 0};

	lab_open(&host.lab, POOL);
	for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
		struct vm_config c = config(32 * MIB, 1, faults);
		struct vm *vm = lab_boot(&c, "memwalk", plans[i]);

		lab_expect(vm, VM_EXITED, 0);
		expect_records(1);
		expect_counts(strstr(plans[i], "access=read") ? read : written);
		lab_audit(&host.lab, vm);
		vm_destroy(vm);
	}
	lab_close(&host.lab);
}

/* An order larger than a call's worth of anything, in RAM just large enough by memwalk_ram(). */
Test(memwalk, large_order)
{
	enum { TOUCHES = 1500000, PAGES = 1024 };
	const uint64_t ram = memwalk_ram(PAGES * MEMWALK_PAGE_SIZE, TOUCHES, 2);
	static uint32_t entries[TOUCHES];
	struct memwalk_order *o;
	struct vm_config c;
	struct vm *vm;

	for (unsigned i = 0; i < TOUCHES; i++) {
		uint32_t page = i * 7u % PAGES;

		entries[i] = page | (i < PAGES ? P : R) | (i == 0 || page == 512 ? W : R);
	}
	entries[0] |= PB;
	o = make_order(entries, TOUCHES);
	lab_open(&host.lab, POOL);
	c = config(ram, 2, FAULTS_AUTO);
	give(&c, o);
	vm = lab_boot(&c, "memwalk", "size=4M order=input verify=0");
	lab_expect(vm, VM_EXITED, 0);
	expect_records(2);
	cr_assert_eq(all_classes().count, TOUCHES);
	cr_assert_eq(host.result.classes[MEMWALK_WRITE_BLOCK].count, 1);
	cr_assert_eq(host.result.classes[MEMWALK_WRITE_PAGE].count, 1);
	cr_assert_eq(host.result.classes[MEMWALK_READ_PAGE].count, PAGES - 2);
	vm_destroy(vm);
	lab_close(&host.lab);
	free(o);
}

/* ---- times ---- */

/* The host may take the processor away at a bad moment: not twenty times in a row. */
#define TRIES 20u

/* Return: whether only the delayed touch was slow, and as slow as it should be. */
static bool one_is_slow(const struct memwalk_order *o, enum fault_choice faults)
{
	struct vm_config c = config(16 * MIB, 1, faults);
	struct memwalk_histogram all;
	uint64_t slow, most;
	struct vm *vm;

	give(&c, o);
	vm = lab_boot(&c, "memwalk", "size=2M order=input verify=0 ready=1 delay=777:1000");
	lab_expect(vm, VM_READY, 0);
	lab_expect(vm, VM_EXITED, 0);
	expect_records(1);
	vm_destroy(vm);
	all = all_classes();
	cr_assert_eq(all.count, 1000);
	slow = to_us(memwalk_histogram_at(&all, 999000));
	most = to_us(all.max);
	cr_log_info("p99.9 %lu us, max %lu us", slow, most);
	cr_assert(slow >= 1000 && most >= slow, "p99.9 %lu us, max %lu us", slow, most);
	cr_assert_lt(to_us(memwalk_histogram_at(&all, 500000)), 100);
	return slow <= 1100 && most <= 1100 && to_us(memwalk_histogram_at(&all, 998000)) < 900;
}

/* One touch of a thousand that takes a millisecond is p99.9, and the longest. */
TEST_BOTH_PATHS(memwalk, one_slow_touch_in_a_thousand)
{
	uint32_t entries[1000] = {W | PB};
	struct memwalk_order *o = make_order(entries, 1000);
	unsigned tries = 1;

	lab_open(&host.lab, POOL);
	while (!one_is_slow(o, faults))
		cr_assert_lt(tries++, TRIES);
	lab_close(&host.lab);
	free(o);
}

/* Nothing is counted, and everything is touched: the check afterwards finds every word there. */
TEST_BOTH_PATHS(memwalk, walk_without_times)
{
	static const uint64_t none[MEMWALK_CLASSES];
	uint32_t entries[1000] = {W | PB};
	struct memwalk_order *o;
	struct vm_config c;
	struct vm *vm;

	for (unsigned i = 1; i < 1000; i++)
		entries[i] = i < 500 ? W | P | i : i - 500;
	o = make_order(entries, 1000);
	lab_open(&host.lab, POOL);
	c = config(32 * MIB, 2, faults);
	give(&c, o);
	vm = lab_boot(&c, "memwalk", "size=2M order=input times=0 ready=1");
	lab_expect(vm, VM_READY, 0);
	lab_expect(vm, VM_EXITED, 0);
	expect_records(2);
	expect_counts(none);
	cr_assert_eq(host.result.touches, 1000);
	cr_assert_eq(host.result.loop_cycles, 0);
	cr_assert_gt(host.result.walk_cycles, 0);
	cr_assert_null(strstr(host.tape.text, "p50"), "%s", host.tape.text);
	cr_assert_not_null(strstr(host.tape.text, "1000 touches"), "%s", host.tape.text);
	vm_destroy(vm);

	/* A delay would show nowhere. */
	c = config(32 * MIB, 1, faults);
	give(&c, o);
	vm = lab_boot(&c, "memwalk", "size=2M order=input times=0 delay=7:100");
	lab_expect(vm, VM_EXITED, 2);
	cr_assert_not_null(strstr(host.tape.text, "times=0"), "%s", host.tape.text);
	vm_destroy(vm);
	lab_close(&host.lab);
	free(o);
}

/*
 * Return: what is counted and what the loop costs beside it, as a fraction of the walk. `o` is for
 * order=input, or NULL.
 */
static double part_told(const char *args, const struct memwalk_order *o)
{
	struct vm_config c = config(128 * MIB, 1, FAULTS_KERNEL);
	struct memwalk_histogram all;
	struct vm *vm;
	double told;

	if (o)
		give(&c, o);
	vm = lab_boot(&c, "memwalk", args);
	lab_expect(vm, VM_EXITED, 0);
	expect_records(1);
	vm_destroy(vm);
	all = all_classes();
	cr_assert_eq(all.count, o ? o->touches : 64 * MIB / MEMWALK_PAGE_SIZE);
	cr_assert_gt(host.result.loop_cycles, 0);
	told = (double)(all.sum + all.count * host.result.loop_cycles);
	told /= (double)host.result.walk_cycles;
	cr_log_info("%s: %.4f, loop %lu cycles", args, told, host.result.loop_cycles);
	return told;
}

static void expect_whole(const char *args, const struct memwalk_order *o, double tolerance)
{
	double told = part_told(args, o);

	for (unsigned tries = 1; told < 1 - tolerance || told > 1 + tolerance; tries++) {
		cr_assert_lt(tries, TRIES, "%s: %.4f", args, told);
		told = part_told(args, o);
	}
}

Test(memwalk, times_add_up)
{
	lab_open(&host.lab, POOL);
	expect_whole("size=64M access=write verify=0", NULL, 0.05);
	expect_whole("size=64M access=rw pattern=random verify=0", NULL, 0.05);
	lab_close(&host.lab);
}

/*
 * One page again and again: next to nothing faults, so what is told is mostly the loop, and what
 * the host takes away is mostly taken from it. Short enough to escape that now and then.
 */
Test(memwalk, loop_adds_up)
{
	enum { TOUCHES = 20000 };
	static uint32_t entries[TOUCHES] = {W | PB};
	struct memwalk_order *o;

	for (unsigned i = 1; i < TOUCHES; i++)
		entries[i] = i % 3 ? R : W;
	o = make_order(entries, TOUCHES);
	lab_open(&host.lab, POOL);
	expect_whole("size=2M order=input verify=0", o, 0.2);
	lab_close(&host.lab);
	free(o);
}

/* ---- clones ---- */

/* A clone with this input, to its end. */
static void run_clone(struct image *image, uint64_t number, enum fault_choice faults,
                      const struct memwalk_order *o, const uint64_t *counts)
{
	struct vm_config c = config(0, 0, faults);
	struct vm *vm;

	c.image = image;
	c.number = number;
	give(&c, o);
	vm = lab_make(&c);
	lab_expect(vm, VM_EXITED, 0);
	expect_records(2);
	expect_counts(counts);
	cr_assert(strstr(host.tape.text, "every word ok"), "%s", host.tape.text);
	lab_audit(&host.lab, vm);
	vm_destroy(vm);
}

TEST_BOTH_PATHS(memwalk, each_clone_its_own_order)
{
	static const uint64_t first[] = {1, 1, 0, 0, 0, 1}, second[] = {0, 0, 2, 2, 0, 0};
	struct image *image;
	struct vm_config c;
	struct vm *vm;

	ORDER(a, W | PB | 3, R | P | 4, R | 3);
	ORDER(b, R | PB | 1023, R | PB | 3, W | 3, W | 1023);

	lab_open(&host.lab, POOL);
	c = config(32 * MIB, 2, faults);
	vm = lab_boot(&c, "memwalk", "size=4M order=input ready=1");
	lab_expect(vm, VM_READY, 0);
	image = lab_snapshot(vm);
	vm_destroy(vm);
	run_clone(image, 1, faults, a, first);
	run_clone(image, 2, faults, b, second);
	run_clone(image, 3, faults, a, first);
	image_put(image);
	lab_close(&host.lab);
	free(a);
	free(b);
}

/* ready=3: a chain of three clones, each with something of its own, all of it checked. */
TEST_BOTH_PATHS(memwalk, chain_of_clones)
{
	struct image *image;
	struct vm_config c;
	struct vm *vm;

	lab_open(&host.lab, POOL);
	c = config(32 * MIB, 2, faults);
	vm = lab_boot(&c, "memwalk", "size=9M pattern=random access=rw ready=3");
	for (uint64_t depth = 1; depth <= 3; depth++) {
		lab_expect(vm, VM_READY, 0);
		image = lab_snapshot(vm);
		vm_destroy(vm);
		c = config(0, 0, faults);
		c.image = image;
		c.number = depth;
		vm = lab_make(&c);
		image_put(image);
	}
	lab_expect(vm, VM_EXITED, 0);
	expect_records(2);
	cr_assert(strstr(host.tape.text, "clone 3: "), "%s", host.tape.text);
	cr_assert(strstr(host.tape.text, "every word ok"), "%s", host.tape.text);
	lab_audit(&host.lab, vm);
	vm_destroy(vm);
	lab_close(&host.lab);
}

/* ---- what it finds ---- */

/* One wrong byte in the memory of a guest that waits at READY is found, wherever it lies. */
static void expect_found(const char *args, uint64_t at, const char *where)
{
	struct vm_config c = config(16 * MIB, 1, FAULTS_AUTO);
	struct vm *vm = lab_boot(&c, "memwalk", args);
	const uint8_t wrong = 0xa5;

	lab_expect(vm, VM_READY, 0);
	cr_assert_eq(space_write(vm_space(vm), (gpa_t){at}, &wrong, 1), 0);
	lab_expect(vm, VM_EXITED, 3);
	cr_assert(strstr(host.tape.text, where), "%s: %s", args, host.tape.text);
	cr_assert_eq(host.records, 3);
	cr_assert_gt(host.result.errors, 0);
	vm_destroy(vm);
}

Test(memwalk, finds_what_is_wrong)
{
	lab_open(&host.lab, POOL);
	/* Two words: one of them at least should be 0. */
	for (uint64_t byte = 0; byte < 16; byte += 8)
		expect_found("size=2M ready=1 access=read", WALKED + 5 * 4096 + byte,
		             "page 5 word");
	expect_found("size=2M ready=1 access=read pattern=random", WALKED + 511 * 4096 + 4095,
	             "page 511 word 511");
	lab_close(&host.lab);
}

/* ---- what it refuses ---- */

static void expect_refused(const struct memwalk_order *o, size_t size, const char *why)
{
	struct vm_config c = config(16 * MIB, 2, FAULTS_AUTO);
	const char *end;
	struct vm *vm;

	c.mailbox.input = o;
	c.mailbox.input_size = size;
	vm = lab_boot(&c, "memwalk", "size=2M order=input");
	lab_expect(vm, VM_EXITED, 2);
	cr_assert(strstr(host.tape.text, why), "%s", host.tape.text);
	end = strchr(host.tape.text, '\n');
	cr_assert(end && end[1] == '\0', "not one line: %s", host.tape.text);
	cr_assert_eq(host.records, 0);
	vm_destroy(vm);
}

Test(memwalk, wrong_input)
{
	const size_t size = sizeof(struct memwalk_order) + 2 * sizeof(uint32_t);

	ORDER(o, W | PB | 0, W | P | 511);

	lab_open(&host.lab, POOL);
	expect_refused(NULL, 0, "entry 0: shorter than its head");
	expect_refused(o, sizeof(*o) - 1, "shorter than its head");
	expect_refused(o, size - 1, "not as long as it says");
	expect_refused(o, size - 4, "not as long as it says");
	o->magic ^= 1;
	expect_refused(o, size, "no order at all");
	o->magic ^= 1;
	o->version++;
	expect_refused(o, size, "another version's");
	o->version--;
	o->reserved = 1;
	expect_refused(o, size, "another version's");
	o->reserved = 0;
	o->touches = 0;
	expect_refused(o, size, "empty");
	o->touches = UINT64_C(1) << 62 | 2;
	expect_refused(o, size, "not as long as it says");
	o->touches = 2;
	o->entries[1] = W | P | 512;
	expect_refused(o, size, "entry 1: a page beyond size=");
	o->entries[1] = W | P | MEMWALK_INDEX;
	expect_refused(o, size, "entry 1: a page beyond size=");
	o->entries[1] = W | MEMWALK_BLOCK | 5;
	expect_refused(o, size, "entry 1: first of a block, but not of its page");
	lab_close(&host.lab);
	free(o);
}

Test(memwalk, more_input_than_room)
{
	const size_t size = 16 * MIB;
	struct memwalk_order *o = calloc(1, size);

	cr_assert(o);
	*o = (struct memwalk_order){.magic = MEMWALK_MAGIC,
	                            .version = MEMWALK_VERSION,
	                            .touches = (size - sizeof(*o)) / sizeof(uint32_t)};
	lab_open(&host.lab, POOL);
	expect_refused(o, size, "more than there is room for");
	lab_close(&host.lab);
	free(o);
}
