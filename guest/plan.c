// SPDX-License-Identifier: MIT
/*
 * guest/plan.c - reads memwalk's arguments; guest/memwalk.c lists them.
 */
#include "guest/plan.h"

#include "guest/runtime.h"

#define DELAY_MAX UINT64_C(10000000) /* us */

/* ---- arguments ---- */

static bool read_pattern(struct plan *p)
{
	static const char stride[] = "stride:";
	const char *value = arg_find("pattern=");

	p->own.stride = 1;
	p->order_name = "seq";
	if (!value || word_is(value, "seq"))
		return true;
	if (word_is(value, "random")) {
		p->own.random = true;
		p->order_name = "random";
		return true;
	}
	p->order_name = "stride";
	if (memcmp(value, stride, sizeof(stride) - 1) == 0 &&
	    parse_size(value + sizeof(stride) - 1, &p->own.stride) == 0 && p->own.stride > 0)
		return true;
	print("memwalk: pattern= wants seq, stride:N or random\n");
	return false;
}

static bool read_access(struct plan *p)
{
	static const struct {
		const char *name;
		bool write, read_first;
	} kinds[] = {
		{"write", true, false},
		{"read", false, false},
		{"rw", true, true},
	};
	const char *value = arg_find("access=");

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (value && !word_is(value, kinds[i].name))
			continue;
		p->own.write = kinds[i].write;
		p->read_first = kinds[i].read_first;
		p->touch_name = kinds[i].name;
		return true;
	}
	print("memwalk: access= wants read, write or rw\n");
	return false;
}

static bool read_order_args(struct plan *p)
{
	const char *value = arg_find("order=");

	p->input = value != NULL;
	p->contents.once = !p->input;
	if (!p->input)
		return read_pattern(p) && read_access(p);
	p->order_name = "input";
	p->touch_name = "order";
	if (word_is(value, "input") && !arg_find("pattern=") && !arg_find("access="))
		return true;
	print("memwalk: order= wants input, and then neither pattern= nor access=\n");
	return false;
}

/* INDEX:US. The index is read by hand: a number that parse_size() takes ends its word. */
static bool read_delay(struct plan *p)
{
	const char *value = arg_find("delay=");
	const uint64_t hz = guest_boot->cycles_per_sec;
	const char *start = value;
	uint64_t at = 0, us;

	p->delay_at = NO_DELAY;
	if (!value)
		return true;
	for (; *value >= '0' && *value <= '9' && at <= MEMWALK_INDEX; value++)
		at = at * 10 + (uint64_t)(*value - '0');
	if (value == start || *value != ':' || parse_size(value + 1, &us) || us == 0 ||
	    us > DELAY_MAX) {
		print("memwalk: delay= wants INDEX:US, at most 10 seconds\n");
		return false;
	}
	p->delay_at = at;
	p->delay_cycles = hz / 1000000 * us + hz % 1000000 * us / 1000000;
	if (p->delay_cycles == 0)
		print("memwalk: delay= wants a cycle counter of known frequency\n");
	return p->delay_cycles > 0;
}

/* ---- layout ---- */

static uint64_t round_up(uint64_t at, uint64_t to)
{
	return (at + to - 1) & ~(to - 1);
}

static uint64_t order_size(const struct plan *p, uint64_t pages)
{
	return p->input ? 0 : order_bytes(pages);
}

/* Where the walked memory starts when it has `pages` pages. */
static uint64_t memory_start(const struct plan *p, uint64_t pages)
{
	return round_up((uintptr_t)p->order + order_size(p, pages), GUEST_BLOCK);
}

/* Most pages there can be; `end` is the heap's. An order from the input wants a page at least. */
static uint64_t most_pages(const struct plan *p, uint64_t end)
{
	uint64_t start = memory_start(p, end / GUEST_PAGE);
	uint64_t stop = p->input ? (end - 1) & ~(GUEST_BLOCK - 1) : end;

	return stop > start ? (stop - start) / GUEST_PAGE : 0;
}

static bool lay_out(struct plan *p, uint64_t size)
{
	uint64_t room, end, pages, most;

	p->parts = guest_heap(GUEST_PAGE, &room);
	end = (uintptr_t)p->parts + room;
	p->warm = (struct warm *)(p->parts + p->cpus);
	p->order = p->warm + 1;
	most = most_pages(p, end);
	p->own.parts = p->cpus;
	p->own.pages = size / GUEST_PAGE / p->cpus;
	pages = p->input ? size / GUEST_PAGE : p->own.pages * p->cpus;
	if (pages == 0 || pages > most || pages - 1 > MEMWALK_INDEX) {
		print("memwalk: size of %lu KiB: wants a page per vCPU and at most %lu KiB here\n",
		      size >> 10, most * (GUEST_PAGE >> 10));
		return false;
	}
	p->contents.pages = pages;
	p->contents.memory = (uint64_t *)memory_start(p, pages);
	if (p->input) {
		uint64_t at = memory_start(p, pages) + pages * GUEST_PAGE;

		p->order = (void *)round_up(at, GUEST_BLOCK);
		p->room = end - (uintptr_t)p->order;
	}
	return true;
}

bool plan_make(struct plan *p)
{
	static const char *const allowed[] = {"size=", "pattern=", "access=", "order=", "verify=",
	                                      "seed=", "ready=",   "delay=",  "times=", NULL};
	struct contents *c = &p->contents;
	uint64_t size;

	p->cpus = guest_cpus();
	if (!args_allowed(allowed) || !arg_size("size=", 16u << 20, &size) ||
	    !arg_size("verify=", 1, &p->verify) || !arg_size("seed=", 1, &p->own.seed) ||
	    !arg_size("ready=", 0, &p->ready) || !arg_size("times=", 1, &p->times) ||
	    !read_order_args(p) || !read_delay(p) || !lay_out(p, size))
		return false;
	if (!p->times && p->delay_at != NO_DELAY) {
		print("memwalk: delay= shows in the times, and times=0 takes none\n");
		return false;
	}
	if (p->ready > CONTENTS_LINKS) {
		print("memwalk: ready= is at most %lu\n", CONTENTS_LINKS);
		return false;
	}
	c->old_mask = p->ready ? UINT64_MAX : 0;
	c->links = p->ready ? p->ready - 1 : 0;
	c->fill_salt = contents_salt(p->own.seed);
	c->link_salt = contents_salt(c->fill_salt);
	if (p->input)
		return true;
	order_make(&p->own, p->order);
	p->entries = p->order;
	p->touches = c->pages;
	return true;
}
