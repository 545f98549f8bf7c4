// SPDX-License-Identifier: MIT
/*
 * guest/memwalk.c - touches memory page by page, checks it, and times the walk and every touch.
 *
 * Arguments (defaults first):
 *     size=16M                        how much of the free heap, over all vCPUs, in equal parts
 *     pattern=seq|stride:N|random     order of the pages; every page once
 *     access=write|read|rw            what a touch does to one word of the page
 *     order=input                     instead: the VM's input says what to touch and how, any page
 *                                     any number of times (guest/memwalk.h). It is read after
 *                                     the last READY, so that each clone can get its own
 *     times=1|0                       time every touch; without, only the walk: touches do not wait
 *                                     for the clock, and a CPU has several of them under way
 *     verify=1|0                      check whole pages; after the walk, all once more
 *     seed=1                          of the random order and of what is written
 *     ready=0|N                       fill the memory first, ring READY N times (at most 511),
 *                                     walk afterwards: a clone walks a warm image. Between two
 *                                     READYs a page of every 2 MiB is written, so each clone
 *                                     of a chain adds something
 *     delay=INDEX:US                  touch INDEX of the order takes US microseconds longer, which
 *                                     the histogram must show
 *
 * To the walk only the walked memory is new: the order and the histograms have been touched
 * before, and each vCPU's histograms lie on pages of their own.
 *
 * Prints the mean and, where they are timed, the percentiles of a touch, and sends the records of
 * guest/memwalk.h. Times are the cycle counter's, less what reading it twice costs; a percentile is
 * the upper end of its histogram bucket (1/32 wide), max is exact.
 * Exits 0; 2 with a line about arguments or input; 3 with a line naming the first wrong page.
 */
#include "guest/isa.h"
#include "guest/plan.h"

static struct {
	struct plan plan;
	uint32_t planned; /* the plan stands: other vCPUs may look at it */
	struct barrier barrier;
	uint64_t errors;
} walk;

/* A vCPU's share of `n` things is [share(i), share(i + 1)). */
static uint64_t share(const struct plan *p, uint64_t n, unsigned index)
{
	return n * index / p->cpus;
}

__attribute__((noinline)) static void fail(const struct contents_error *e)
{
	if (__atomic_fetch_add(&walk.errors, 1, __ATOMIC_RELAXED) == 0)
		print("memwalk: page %lu word %lu holds %016lx, should be %016lx\n", e->page,
		      e->word, e->found, e->expected);
}

static void check_page(const struct plan *p, uint64_t page, bool written)
{
	struct contents_error e;

	if (!contents_check(&p->contents, page, written, &e))
		fail(&e);
}

/* ---- the walk ---- */

#define INLINE static inline __attribute__((always_inline))

INLINE uint64_t timed_touch(volatile uint64_t *word, bool load, bool store, uint64_t value,
                            uint64_t delay, uint64_t *found)
{
	uint64_t start = isa_cycles();

	if (load)
		*found = *word;
	if (store)
		*word = value;
	while (delay && isa_cycles() - start < delay)
		isa_relax();
	return isa_cycles() - start;
}

/* One touch. What kind it is has been decided before its time starts to count. */
INLINE void walk_entry(const struct plan *p, struct memwalk_histogram *classes, uint32_t entry,
                       uint64_t delay)
{
	const struct contents *c = &p->contents;
	uint64_t page = entry & MEMWALK_INDEX, word = contents_word(c, page);
	uint64_t old = contents_before(c, page), new = contents_after(c, page), found = old;
	volatile uint64_t *at = contents_at(c, page, word);
	uint64_t cycles;

	if (!(entry & MEMWALK_WRITE))
		cycles = timed_touch(at, true, false, 0, delay, &found);
	else if (p->read_first)
		cycles = timed_touch(at, true, true, new, delay, &found);
	else
		cycles = timed_touch(at, false, true, new, delay, &found);
	memwalk_histogram_add(&classes[memwalk_class_of(entry)],
	                      cycles > p->overhead ? cycles - p->overhead : 0);
	if (found != old && (c->once || found != new))
		fail(&(struct contents_error){page, word, found, old});
	if (p->verify)
		check_page(p, page, entry & MEMWALK_WRITE);
}

/* The same without the clock. */
INLINE void walk_untimed(const struct plan *p, uint32_t entry)
{
	const struct contents *c = &p->contents;
	uint64_t page = entry & MEMWALK_INDEX, word = contents_word(c, page);
	uint64_t old = contents_before(c, page), new = contents_after(c, page), found = old;
	volatile uint64_t *at = contents_at(c, page, word);

	if (!(entry & MEMWALK_WRITE) || p->read_first)
		found = *at;
	if (entry & MEMWALK_WRITE)
		*at = new;
	if (found != old && (c->once || found != new))
		fail(&(struct contents_error){page, word, found, old});
	if (p->verify)
		check_page(p, page, entry & MEMWALK_WRITE);
}

static void walk_entries(const struct plan *p, struct memwalk_histogram *classes, uint64_t from,
                         uint64_t to)
{
	for (uint64_t i = from; i < to; i++)
		walk_entry(p, classes, p->entries[i], 0);
}

/* The delayed touch has the loop's body to itself, so that the others know of no delay. */
static void walk_share(const struct plan *p, unsigned index)
{
	struct memwalk_histogram *classes = p->parts[index].result.classes;
	uint64_t from = share(p, p->touches, index), to = share(p, p->touches, index + 1);

	if (!p->times) {
		for (uint64_t i = from; i < to; i++)
			walk_untimed(p, p->entries[i]);
		return;
	}
	if (p->delay_at >= from && p->delay_at < to) {
		walk_entries(p, classes, from, p->delay_at);
		walk_entry(p, classes, p->entries[p->delay_at], p->delay_cycles);
		from = p->delay_at + 1;
	}
	walk_entries(p, classes, from, to);
}

/* Everything, now that nobody writes any more. */
static void check_share(const struct plan *p, unsigned index)
{
	const struct contents *c = &p->contents;
	const uint64_t pages = share(p, c->pages, index + 1);
	const uint64_t touches = share(p, p->touches, index + 1);

	for (uint64_t page = share(p, c->pages, index); page < pages; page++)
		check_page(p, page, c->once && p->own.write);
	for (uint64_t i = share(p, p->touches, index); i < touches && !c->once; i++) {
		uint64_t page = p->entries[i] & MEMWALK_INDEX, word = contents_word(c, page);
		uint64_t found = *contents_at(c, page, word), new = contents_after(c, page);

		if ((p->entries[i] & MEMWALK_WRITE) && found != new)
			fail(&(struct contents_error){page, word, found, new});
	}
}

/* ---- before the walk ---- */

static void ring_ready(struct plan *p)
{
	for (uint64_t n = 1; n <= p->ready; n++) {
		p->clone = guest_ready()->clone;
		if (n < p->ready)
			contents_link(&p->contents, n);
	}
}

static void read_order(struct plan *p)
{
	struct memwalk_order *order = p->order;
	int64_t size = guest_input(0, order, p->room);
	uint64_t at = 0;
	const char *wrong;
	uint8_t more;

	if (size < 0)
		wrong = "cannot be read";
	else if (guest_input((uint64_t)size, &more, sizeof(more)) > 0)
		wrong = "more than there is room for";
	else
		wrong = order_check(order, (uint64_t)size, p->contents.pages, &at);
	if (wrong) {
		print("memwalk: order from the input, entry %lu: %s\n", at, wrong);
		guest_exit(GUEST_USAGE);
	}
	p->entries = order->entries;
	p->touches = order->touches;
}

/* vCPU 0's alone: what can be known only after the last READY. */
static void settle(struct plan *p)
{
	struct contents *c = &p->contents;

	ring_ready(p);
	if (p->input)
		read_order(p);
	if (p->delay_at != NO_DELAY && p->delay_at >= p->touches) {
		print("memwalk: delay= names touch %lu of %lu\n", p->delay_at, p->touches);
		guest_exit(GUEST_USAGE);
	}
	c->walk_salt = contents_salt(c->fill_salt + 1 + p->clone);
}

/* Read the share of the order and write the histograms, so that the walk finds them there. */
static void prefault_share(const struct plan *p, unsigned index)
{
	const volatile uint32_t *entries = p->entries;
	const uint64_t last = share(p, p->touches, index + 1);
	const uint64_t step = GUEST_PAGE / sizeof(*entries);

	for (uint64_t i = share(p, p->touches, index); i < last; i += step)
		(void)entries[i];
	if (last > 0)
		(void)entries[last - 1];
	memset(&p->parts[index], 0, sizeof(p->parts[index]));
}

static uint64_t timer_overhead(void)
{
	uint64_t least = UINT64_MAX;

	for (unsigned i = 0; i < 64; i++) {
		uint64_t start = isa_cycles();
		uint64_t cycles = isa_cycles() - start;

		least = cycles < least ? cycles : least;
	}
	return least;
}

/*
 * What a touch costs beside the time that is counted for it: the start of the order, or all of it
 * again and again, with one page that is there in place of its pages.
 */
static uint64_t loop_cycles(const struct plan *p)
{
	struct memwalk_histogram *classes = p->parts[0].result.classes;
	struct plan warm = *p;
	uint64_t least = UINT64_MAX;

	for (uint64_t i = 0, from = 0; i < WARM_TOUCHES; i++) {
		p->warm->entries[i] = p->entries[from] & ~MEMWALK_INDEX;
		from = from + 1 < p->touches ? from + 1 : 0;
	}
	warm.entries = p->warm->entries;
	warm.contents.memory = p->warm->page;
	warm.contents.once = false;
	contents_fill(&warm.contents, 0, 1);
	for (unsigned round = 0; round < WARM_ROUNDS; round++) {
		uint64_t start = isa_cycles(), cycles;

		walk_entries(&warm, classes, 0, WARM_TOUCHES);
		cycles = isa_cycles() - start;
		for (unsigned c = 0; c < MEMWALK_CLASSES; c++)
			cycles -= classes[c].sum;
		least = cycles < least ? cycles : least;
		memset(classes, 0, sizeof(p->parts[0].result.classes));
	}
	return (least + WARM_TOUCHES / 2) / WARM_TOUCHES;
}

/* ---- every vCPU, once the plan stands ---- */

/* There is no one to hear of a record that nobody hears. */
static void send_record(enum memwalk_kind kind)
{
	const struct memwalk_record r = {.kind = kind, .size = sizeof(r)};

	(void)guest_output(&r, sizeof(r));
}

static void prepare(struct plan *p, unsigned index)
{
	const struct contents *c = &p->contents;

	if (p->ready)
		contents_fill(c, share(p, c->pages, index), share(p, c->pages, index + 1));
	barrier_wait(&walk.barrier, p->cpus);
	if (index == 0)
		settle(p);
	barrier_wait(&walk.barrier, p->cpus);
	prefault_share(p, index);
	if (index == 0) {
		p->overhead = timer_overhead();
		p->parts[0].result.loop_cycles = p->times ? loop_cycles(p) : 0;
	}
	barrier_wait(&walk.barrier, p->cpus);
}

static void take_part(unsigned index)
{
	struct plan *p = &walk.plan;
	uint64_t start;

	prepare(p, index);
	if (index == 0)
		send_record(MEMWALK_START);
	barrier_wait(&walk.barrier, p->cpus);
	start = isa_cycles();
	walk_share(p, index);
	barrier_wait(&walk.barrier, p->cpus);
	p->parts[index].result.walk_cycles = isa_cycles() - start;
	if (index == 0)
		send_record(MEMWALK_END);
	if (p->verify)
		check_share(p, index);
	barrier_wait(&walk.barrier, p->cpus);
}

void guest_cpu(unsigned index)
{
	/* The plan is vCPU 0's to make; only then is the number of vCPUs known to be right. */
	while (!__atomic_load_n(&walk.planned, __ATOMIC_ACQUIRE))
		isa_relax();
	take_part(index);
}

/* ---- report ---- */

/* Cycles as nanoseconds, or as they are when the counter's frequency is unknown. */
static uint64_t to_ns(uint64_t cycles)
{
	uint64_t hz = guest_boot->cycles_per_sec;

	if (hz == 0)
		return cycles;
	return cycles / hz * 1000000000 + cycles % hz * 1000000000 / hz;
}

/* All vCPUs' histograms into vCPU 0's part, and those into one. */
static void add_up(const struct plan *p, struct memwalk_histogram *all)
{
	struct memwalk_histogram *sums = p->parts[0].result.classes;

	for (unsigned c = 0; c < MEMWALK_CLASSES; c++) {
		for (unsigned i = 1; i < p->cpus; i++)
			memwalk_histogram_merge(&sums[c], &p->parts[i].result.classes[c]);
		memwalk_histogram_merge(all, &sums[c]);
	}
}

static void send_result(const struct plan *p)
{
	struct memwalk_result *r = &p->parts[0].result;

	r->record = (struct memwalk_record){MEMWALK_RESULT, sizeof(*r)};
	r->magic = MEMWALK_MAGIC;
	r->version = MEMWALK_VERSION;
	r->cpus = p->cpus;
	r->touches = p->touches;
	r->cycles_per_sec = guest_boot->cycles_per_sec;
	r->timer_overhead = p->overhead;
	r->errors = walk.errors;
	(void)guest_output(r, sizeof(*r));
}

static void report_times(const struct memwalk_histogram *all)
{
	print("memwalk: touch %s p50 %lu p90 %lu p99 %lu p99.9 %lu max %lu\n",
	      guest_boot->cycles_per_sec ? "ns" : "cycles",
	      to_ns(memwalk_histogram_at(all, 500000)), to_ns(memwalk_histogram_at(all, 900000)),
	      to_ns(memwalk_histogram_at(all, 990000)), to_ns(memwalk_histogram_at(all, 999000)),
	      to_ns(all->max));
}

static void report(const struct plan *p, const struct memwalk_histogram *all)
{
	const char *unit = p->input ? "touch" : "page";
	const struct memwalk_result *r = &p->parts[0].result;
	uint64_t mean = to_ns(p->times ? all->sum : r->walk_cycles * p->cpus) / p->touches;

	print("memwalk: %lu %s%s, %s", p->touches, unit, p->input ? "es" : "s", p->order_name);
	if (p->own.stride > 1)
		print(" %lu", p->own.stride);
	print(" %s, %u vCPU%s, clone %lu: %lu.%03lu us/%s\n", p->touch_name, p->cpus,
	      p->cpus == 1 ? "" : "s", p->clone, mean / 1000, mean % 1000, unit);
	if (p->times)
		report_times(all);
	print("memwalk: %s ok\n", p->verify ? "every word" : "touched words");
}

static int finish(const struct plan *p)
{
	struct memwalk_histogram all = {0};

	add_up(p, &all);
	send_result(p);
	if (walk.errors)
		return GUEST_MISMATCH;
	report(p, &all);
	return GUEST_OK;
}

int guest_main(void)
{
	struct plan *p = &walk.plan;

	if (!plan_make(p))
		return GUEST_USAGE;
	__atomic_store_n(&walk.planned, 1, __ATOMIC_RELEASE);
	take_part(0);
	return finish(p);
}
