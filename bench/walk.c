// SPDX-License-Identifier: MIT
/*
 * bench/walk.c - boots or clones memwalk, and reads what it says.
 *
 * Every walk has a pool of its own, so no row finds frames that another has warmed; clones also
 * hold the template's. The order of teardown matters: the VM goes before the memory under it.
 *
 * Concurrency: records come on the thread that runs vCPU 0, which is the caller's.
 */
#include "bench/walk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/guest_run.h"
#include "bench/hist.h"
#include "vmm/console.h"

#define ARGS_MAX   128u
#define POOL_SPARE (UINT64_C(64) << 20) /* what a space keeps beside the RAM's blocks */
#define POOL_LINK  (UINT64_C(4) << 20)

/* Counters, as they stood at one moment. */
struct moment {
	uint64_t ns;
	uint64_t violations, events, committed, private_pages;
	uint64_t cpu_ns;
	struct kvm_counters kvm;
};

struct walk {
	const struct walk_spec *spec;
	struct pool *pool;
	struct memory memory;
	struct guest_run run;
	struct moment start, end;
	unsigned records; /* seen, of START, END, RESULT in this order */
	bool confused;    /* something else came */
	struct memwalk_result *result;
};

uint64_t walk_ram(const struct walk_spec *s)
{
	return memwalk_ram(s->size, s->order->touches, s->cpus);
}

/* ---- counters ---- */

static uint64_t window_size(const struct walk *w)
{
	size_t count;
	const struct ram_region *ram = space_ram(vm_space(w->run.vm), &count);

	return space_window_size(ram, count);
}

static const void *window_base(const struct walk *w)
{
	size_t count;
	const struct ram_region *ram = space_ram(vm_space(w->run.vm), &count);

	return (const void *)space_hva(vm_space(w->run.vm), ram[0].range.start).v;
}

/* The library's counts are its space's; other memory has what smaps says, and its own events. */
static void count_library(const struct walk *w, struct moment *m)
{
	struct space_stats s;

	/* Without pagemap the private pages are missing, and only they. */
	(void)space_stats(vm_space(w->run.vm), &s);
	m->violations = s.violations;
	m->events = s.events;
	m->private_pages = s.private_frames;
	/* What a clone owns has taken the place of the image's, or of private pages. */
	if (space_image(vm_space(w->run.vm)))
		m->private_pages += s.owned_committed;
	m->committed = (s.owned_committed + s.private_frames) << MM_PAGE_SHIFT;
}

static void count_given(const struct walk *w, struct moment *m)
{
	m->events = m->violations = atomic_load(&w->memory.events);
	(void)memory_committed(&w->memory, &m->committed);
}

/* Of all threads of this process, guest included. */
static uint64_t cpu_ns(void)
{
	struct timespec t = {0};

	(void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void count(const struct walk *w, struct moment *m)
{
	if (w->memory.base)
		count_given(w, m);
	else
		count_library(w, m);
	/* Other vCPUs are inside KVM_RUN, waiting for this one: KVM would wait for them. */
	if (w->spec->cpus == 1)
		(void)vm_kvm_stats(w->run.vm, &m->kvm);
}

static void subtract_kvm(const struct moment *start, const struct moment *end,
                         struct walk_result *out)
{
	for (unsigned i = 0; i < KVM_COUNTERS; i++) {
		out->kvm_known[i] = start->kvm.known[i] && end->kvm.known[i];
		out->kvm[i] = (int64_t)(end->kvm.v[i] - start->kvm.v[i]);
	}
}

/* ---- the guest's records ---- */

/* What goes on with time is read as near to the walk as can be. */
static void on_start(struct walk *w)
{
	count(w, &w->start);
	w->start.cpu_ns = cpu_ns();
	w->start.ns = clock_ns();
}

static void on_end(struct walk *w)
{
	w->end.ns = clock_ns();
	w->end.cpu_ns = cpu_ns();
	count(w, &w->end);
}

static bool take_record(struct walk *w, const struct memwalk_record *r, const void *data,
                        size_t size)
{
	static const enum memwalk_kind order[] = {MEMWALK_START, MEMWALK_END, MEMWALK_RESULT};
	size_t wanted = r->kind == MEMWALK_RESULT ? sizeof(*w->result) : sizeof(*r);

	if (w->records >= sizeof(order) / sizeof(order[0]) || r->kind != order[w->records] ||
	    size != wanted || r->size != wanted)
		return false;
	w->records++;
	if (r->kind == MEMWALK_START)
		on_start(w);
	else if (r->kind == MEMWALK_END)
		on_end(w);
	else
		memcpy(w->result, data, size);
	return true;
}

static void on_output(void *ctx, const void *data, size_t size)
{
	struct walk *w = ctx;
	struct memwalk_record r = {0};

	memcpy(&r, data, min_u64(size, sizeof(r)));
	if (!take_record(w, &r, data, size))
		w->confused = true;
}

static int check_result(const struct walk *w, struct vm_error *err)
{
	const struct memwalk_result *r = w->result;
	const uint64_t wanted = w->spec->order->touches;
	uint64_t timed = 0;

	if (w->confused || w->records != 3)
		return bench_fail(err, -EBADMSG,
		                  "%s: not the memwalk that belongs to this cowslip: "
		                  "its records differ",
		                  w->spec->program);
	for (unsigned c = 0; c < MEMWALK_CLASSES; c++) {
		if (hist_check(&r->classes[c]))
			return bench_fail(err, -EBADMSG, "%s: its histogram %u does not add up",
			                  w->spec->program, c);
		timed += r->classes[c].count;
	}
	if (r->magic != MEMWALK_MAGIC || r->version != MEMWALK_VERSION || r->touches != wanted ||
	    timed != (w->spec->untimed ? 0 : wanted) || r->cycles_per_sec == 0)
		return bench_fail(err, -EBADMSG,
		                  "%s: says it made %" PRIu64 " touches of %" PRIu64
		                  " and timed %" PRIu64 ", at %" PRIu64 " cycles a second",
		                  w->spec->program, r->touches, wanted, timed, r->cycles_per_sec);
	if (r->errors)
		return bench_fail(err, -EUCLEAN, "the guest found %" PRIu64 " wrong words: %s",
		                  r->errors, w->run.said);
	return 0;
}

/* ---- virtual machines ---- */

static struct vm_config base_config(struct walk *w)
{
	const struct walk_spec *s = w->spec;

	return (struct vm_config){
		.kvm = s->kvm,
		.pool = w->pool,
		.ram_bytes = walk_ram(s),
		.cpus = s->cpus,
		.page_size = s->page_size,
		.console = guest_console,
		.console_ctx = &w->run,
		.mailbox = {.input = s->order,
	                    .input_size = s->order_size,
	                    .output = on_output,
	                    .ctx = w},
	};
}

/* Each link of a chain of clones writes a page in every block, and a few of its own. */
static int make_pool(struct walk *w, unsigned links, struct vm_error *err)
{
	uint64_t link = walk_ram(w->spec) / MM_BLOCK_PAGES + POOL_LINK;

	return bench_pool(walk_ram(w->spec) + links * link + POOL_SPARE, &w->pool, err);
}

static void write_args(const struct walk_spec *s, unsigned ready, char *args, size_t size)
{
	snprintf(args, size, "size=%" PRIu64 " order=input verify=0 times=%d ready=%u", s->size,
	         !s->untimed, ready);
}

/* ---- templates ---- */

static int copy_out(struct walk_template *t, struct vm_error *err)
{
	struct vm_config c = {.image = t->image};
	uint64_t size;
	int e = vm_memory_size(&c, &size, err);

	if (e)
		return e;
	e = contents_make(t->image, size, &t->contents);
	return e ? bench_fail(err, e, "a copy of the template: %s", strerror(-e)) : 0;
}

int walk_template_make(const struct walk_spec *s, unsigned depth, bool copy,
                       struct walk_template *out, struct vm_error *err)
{
	struct walk w = {.spec = s};
	struct guest_chain chain;
	char args[ARGS_MAX];
	int e;

	*out = (struct walk_template){0};
	e = make_pool(&w, depth - 1, err);
	if (e)
		return e;
	chain = (struct guest_chain){
		.vm = base_config(&w),
		.program = s->program,
		.args = args,
		.depth = depth,
		.timeout_ns = s->timeout_ns,
	};
	out->pool = w.pool;
	write_args(s, depth, args, sizeof(args));
	e = guest_chain_make(&chain, &out->image, err);
	if (e == 0 && copy)
		e = copy_out(out, err);
	return e;
}

void walk_template_fini(struct walk_template *t)
{
	contents_fini(&t->contents);
	image_put(t->image);
	if (t->pool)
		pool_put(t->pool);
	*t = (struct walk_template){0};
}

/* In pieces of a block. Return: 0; -errno. */
static int read_run(const struct store *store, frame_t f, uint64_t pages, void *buf)
{
	int e = 0;

	for (uint64_t n; e == 0 && pages > 0; pages -= n, f.n += (uint32_t)n) {
		n = min_u64(pages, MM_BLOCK_PAGES);
		e = store_read(store, f, n, buf);
	}
	return e;
}

static int read_contents(const struct contents *c, void *buf)
{
	for (size_t at = 0; at < c->size; at += MM_BLOCK_SIZE)
		if (pread(c->fd, buf, MM_BLOCK_SIZE, (off_t)at) < 0)
			return -errno;
	return 0;
}

int walk_template_warm(const struct walk_template *t)
{
	size_t count = 0;
	const struct extent *e = t->image ? image_extents(t->image, &count) : NULL;
	void *buf = malloc(MM_BLOCK_SIZE);
	int r = buf ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < count; i++)
		r = read_run(e[i].store, e[i].frame, e[i].pages, buf);
	if (r == 0 && t->contents.bytes)
		r = read_contents(&t->contents, buf);
	free(buf);
	return r;
}

/* ---- walks ---- */

static int make_memory(struct walk *w, const struct memory_kind *kind,
                       const struct walk_template *t, struct vm_config *c, struct vm_error *err)
{
	const char *step;
	uint64_t size;
	int e = vm_memory_size(c, &size, err);

	if (e)
		return e;
	e = memory_make(kind, size, t->image ? &t->contents : NULL, &w->memory, &step);
	if (e)
		return bench_fail(err, e, "%s: %s: %s", kind->name, step, strerror(-e));
	c->memory = w->memory.base;
	c->faults = kind->faults;
	return 0;
}

static int make_vm(struct walk *w, const struct memory_kind *kind, const struct walk_template *t,
                   struct vm_error *err)
{
	struct vm_config c = base_config(w);
	char args[ARGS_MAX];
	int e;

	c.image = t->image;
	c.number = t->image ? 1 : 0;
	e = make_memory(w, kind, t, &c, err);
	if (e == 0)
		e = vm_create(&c, &w->run.vm, err);
	if (e || t->image)
		return e;
	write_args(w->spec, 0, args, sizeof(args));
	return vm_boot_elf(w->run.vm, w->spec->program, args, err);
}

static void tell(const struct walk *w, struct walk_result *out)
{
	bool filled = w->memory.prepare_ns > 0;
	struct memory_usage u;

	out->wall_ns = w->end.ns - w->start.ns;
	out->prepare_ns = w->memory.prepare_ns;
	out->cpu_ns = w->end.cpu_ns - w->start.cpu_ns;
	out->violations = w->end.violations - w->start.violations;
	out->events = w->end.events - w->start.events;
	out->private_bytes = (w->end.private_pages - w->start.private_pages) << MM_PAGE_SHIFT;
	out->committed_bytes = w->end.committed - (filled ? 0 : w->start.committed);
	out->ram_bytes = walk_ram(w->spec);
	subtract_kvm(&w->start, &w->end, out);
	if (memory_usage(window_base(w), window_size(w), &u) == 0)
		out->huge_bytes = u.huge;
}

int walk_run(const struct walk_spec *s, const struct memory_kind *kind,
             const struct walk_template *t, struct walk_result *out, struct vm_error *err)
{
	struct walk w = {.spec = s, .result = &out->guest, .run.timeout_ns = s->timeout_ns};
	int e;

	*out = (struct walk_result){0};
	e = make_pool(&w, 0, err);
	if (e)
		return e;
	e = make_vm(&w, kind, t, err);
	if (e == 0)
		e = guest_run_until(&w.run, VM_EXITED, err);
	if (e == 0)
		e = check_result(&w, err);
	if (e == 0)
		tell(&w, out);
	vm_destroy(w.run.vm);
	memory_fini(&w.memory);
	pool_put(w.pool);
	return e;
}
