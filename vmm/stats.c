// SPDX-License-Identifier: MIT
/*
 * vmm/stats.c - sums, percentiles, JSON and tables.
 *
 * Invariant: JSON and table say the same, from the same struct; neither computes what the other
 * does not have.
 * Does not: measure anything, or decide where the text goes.
 */
#include "vmm/stats.h"

#include <inttypes.h>

#define US_NS  UINT64_C(1000)
#define SEC_NS UINT64_C(1000000000)
#define MIB    (1024.0 * 1024.0)

/* In a series of bytes until it is sorted. */
#define UNKNOWN UINT64_MAX

/* ---- gathering ---- */

/* Later minus earlier of two times; 0 when one of them has not happened. */
static uint64_t span(uint64_t from, uint64_t to)
{
	return from && to > from ? to - from : 0;
}

static void space_add(struct space_stats *sum, const struct space_stats *s)
{
	sum->violations += s->violations;
	sum->events += s->events;
	sum->nomem += s->nomem;
	sum->owned_frames += s->owned_frames;
	sum->owned_committed += s->owned_committed;
	sum->shared_frames += s->shared_frames;
	sum->private_frames += s->private_frames;
	sum->huge_blocks += s->huge_blocks;
	sum->reserve_frames += s->reserve_frames;
	sum->followed_blocks += s->followed_blocks;
	sum->windows += s->windows;
}

void stats_run_add(struct stats_run *s, const struct vm_times *times,
                   const struct space_stats *space, const struct vm_exits *exits,
                   const struct kvm_counters *kvm)
{
	if (s->vms++ == 0) {
		s->times = *times;
		s->first = *space;
	}
	space_add(&s->sum, space);
	s->exits.mmio += exits->mmio;
	s->exits.io += exits->io;
	s->exits.doorbell += exits->doorbell;
	s->exits.interrupted += exits->interrupted;
	s->exits.other += exits->other;
	kvm_counters_add(&s->kvm, kvm);
}

static int add_span(struct series *s, uint64_t from, uint64_t to)
{
	return from && to >= from ? series_add(s, to - from) : 0;
}

static int add_bytes(struct stats_clone *s, const struct clone_result *r)
{
	const uint64_t bytes[BYTES_KINDS] = {
		[BYTES_SHARED] = r->space.shared_frames << MM_PAGE_SHIFT,
		[BYTES_PRIVATE] = r->space.private_frames << MM_PAGE_SHIFT,
		[BYTES_OWNED] = r->space.owned_committed << MM_PAGE_SHIFT,
		[BYTES_TABLES] = r->table_bytes,
		[BYTES_KVM_TABLES] = r->kvm_tables_known ? r->kvm_table_bytes : UNKNOWN,
		[BYTES_UNIQUE] = clone_unique_bytes(r),
	};
	int err = series_add(&s->numbers, r->number);

	for (unsigned i = 0; !err && i < BYTES_KINDS; i++)
		err = series_add(&s->bytes[i], bytes[i]);
	return err;
}

int stats_clone_add(struct stats_clone *s, const struct clone_result *r)
{
	const struct vm_times *t = &r->times;
	int err;

	if (!s->sum.fault_path) {
		s->sum.fault_path = r->space.fault_path;
		s->sum.fault_why = r->space.fault_why;
	}
	space_add(&s->sum, &r->space);
	s->exits += r->exits;
	err = add_bytes(s, r);
	if (err)
		return err;
	err = add_span(&s->create, t->asked, t->created);
	if (!err)
		err = add_span(&s->first_output, t->asked, t->first_output);
	if (!err)
		err = add_span(&s->run, t->running, t->ended);
	return err;
}

static json_t *number(uint64_t v)
{
	return json_integer((json_int_t)v);
}

static json_t *bytes_or_null(uint64_t bytes)
{
	return bytes == UNKNOWN ? json_null() : number(bytes);
}

static json_t *each_json(const struct stats_clone *s)
{
	json_t *all = json_array();

	for (size_t n = 0; all && n < s->bytes[BYTES_KINDS - 1].count; n++) {
		json_t *one = json_array();
		int err = json_array_append_new(one, number(s->numbers.v[n]));

		for (unsigned i = 0; !err && i < BYTES_KINDS; i++)
			err = json_array_append_new(one, bytes_or_null(s->bytes[i].v[n]));
		if (err || json_array_append(all, one)) {
			json_decref(all);
			all = NULL;
		}
		json_decref(one);
	}
	return all;
}

static void sort_known(struct series *s)
{
	series_sort(s);
	while (s->count > 0 && s->v[s->count - 1] == UNKNOWN)
		s->count--;
}

void stats_clone_finish(struct stats_clone *s)
{
	s->each = each_json(s);
	for (unsigned i = 0; i < BYTES_KINDS; i++)
		sort_known(&s->bytes[i]);
	series_sort(&s->create);
	series_sort(&s->first_output);
	series_sort(&s->run);
}

void stats_clone_fini(struct stats_clone *s)
{
	for (unsigned i = 0; i < BYTES_KINDS; i++)
		series_fini(&s->bytes[i]);
	series_fini(&s->numbers);
	json_decref(s->each);
	series_fini(&s->create);
	series_fini(&s->first_output);
	series_fini(&s->run);
}

/* ---- JSON ---- */

/* What is NULL because memory ran out makes the whole NULL: json_pack() sees to it. */
static json_t *us(uint64_t ns)
{
	return json_integer((json_int_t)((ns + US_NS / 2) / US_NS));
}

static json_t *us_or_null(uint64_t ns)
{
	return ns ? us(ns) : json_null();
}

static json_t *text_or_null(const char *text)
{
	return text ? json_string(text) : json_null();
}

static json_t *frames_json(const struct space_stats *s)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "owned", number(s->owned_frames),
	                 "owned_committed", number(s->owned_committed), "shared",
	                 number(s->shared_frames), "private", number(s->private_frames),
	                 "huge_blocks", number(s->huge_blocks), "reserved",
	                 number(s->reserve_frames), "followed_blocks", number(s->followed_blocks));
}

static json_t *run_pool_json(const struct pool_stats *p)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o}", "used", number(p->used_frames), "peak",
	                 number(p->peak_frames), "committed", number(p->committed_frames), "limit",
	                 number(p->limit_frames), "metadata_bytes", number(p->metadata_bytes));
}

static json_t *run_times_json(const struct stats_run *s)
{
	const struct vm_times *t = &s->times;

	return json_pack("{s:o, s:o, s:o, s:o}", "create", us_or_null(span(t->asked, t->created)),
	                 "first_output", us_or_null(span(t->asked, t->first_output)), "run",
	                 us_or_null(span(t->running, t->ended)), "total", us(s->total_ns));
}

static uint64_t all_exits(const struct vm_exits *e)
{
	return e->mmio + e->io + e->doorbell + e->interrupted + e->other;
}

static json_t *run_exits_json(const struct vm_exits *e)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "mmio", number(e->mmio), "io",
	                 number(e->io), "doorbell", number(e->doorbell), "interrupted",
	                 number(e->interrupted), "other", number(e->other), "total",
	                 number(all_exits(e)));
}

static json_t *kvm_json(const struct kvm_counters *c)
{
	json_t *o;

	if (!kvm_counters_any(c))
		return json_null();
	o = json_object();
	for (enum kvm_counter i = 0; o && i < KVM_COUNTERS; i++) {
		json_t *value = c->known[i] ? number(c->v[i]) : json_null();

		if (json_object_set_new(o, kvm_counter_name(i), value)) {
			json_decref(o);
			return NULL;
		}
	}
	return o;
}

json_t *stats_run_json(const struct stats_run *s)
{
	return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "command",
	                 "run", "fault_path", text_or_null(s->first.fault_path), "fault_path_why",
	                 text_or_null(s->first.fault_why), "violations", number(s->sum.violations),
	                 "events", number(s->sum.events), "nomem", number(s->sum.nomem), "vms",
	                 number(s->vms), "frames", frames_json(&s->first), "pool",
	                 run_pool_json(&s->pool), "time_us", run_times_json(s), "exits",
	                 run_exits_json(&s->exits), "kvm", kvm_json(&s->kvm));
}

static json_t *series_json(const struct series *s)
{
	if (s->count == 0)
		return json_pack("{s:n, s:n, s:n}", "p50", "p99", "max");
	return json_pack("{s:o, s:o, s:o}", "p50", us(series_rank(s, 50)), "p99",
	                 us(series_rank(s, 99)), "max", us(series_rank(s, 100)));
}

static json_t *clone_times_json(const struct stats_clone *s)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o}", "create", series_json(&s->create),
	                 "first_output", series_json(&s->first_output), "run", series_json(&s->run),
	                 "wall", us(s->engine.wall_ns), "total", us(s->total_ns));
}

static uint64_t clone_count(const struct stats_clone *s)
{
	return s->ok + s->failed + s->lost;
}

static double clones_per_sec(const struct stats_clone *s)
{
	uint64_t wall = s->engine.wall_ns;

	return wall ? (double)clone_count(s) * (double)SEC_NS / (double)wall : 0;
}

static json_t *counts_json(const struct stats_clone *s)
{
	return json_pack("{s:o, s:o, s:o, s:o}", "count", number(clone_count(s)), "ok",
	                 number(s->ok), "failed", number(s->failed), "lost", number(s->lost));
}

static json_t *memory_json(const struct engine_summary *e)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o}", "pss_bytes", number(e->pss_bytes),
	                 "private_bytes", number(e->private_bytes), "anonymous_bytes",
	                 number(e->anonymous_bytes), "page_table_bytes",
	                 number(e->page_table_bytes), "alive", number(e->alive));
}

static const char *const bytes_names[BYTES_KINDS] = {
	[BYTES_SHARED] = "shared", [BYTES_PRIVATE] = "private",       [BYTES_OWNED] = "owned",
	[BYTES_TABLES] = "tables", [BYTES_KVM_TABLES] = "kvm_tables", [BYTES_UNIQUE] = "unique",
};

static uint64_t total(const struct series *s)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < s->count; i++)
		sum += s->v[i];
	return sum;
}

static json_t *bytes_series_json(const struct series *b)
{
	if (b->count == 0)
		return json_pack("{s:n, s:n, s:n, s:n}", "p50", "p99", "max", "total");
	return json_pack("{s:o, s:o, s:o, s:o}", "p50", number(series_rank(b, 50)), "p99",
	                 number(series_rank(b, 99)), "max", number(series_rank(b, 100)), "total",
	                 number(total(b)));
}

static json_t *clone_bytes_json(const struct stats_clone *s)
{
	json_t *o = json_object();

	for (unsigned i = 0; o && i < BYTES_KINDS; i++) {
		json_t *one = bytes_series_json(&s->bytes[i]);

		if (json_object_set_new(o, bytes_names[i], one)) {
			json_decref(o);
			return NULL;
		}
	}
	return o;
}

/* 0: the kernel does not say. */
static json_t *said_or_null(uint64_t bytes)
{
	return bytes ? number(bytes) : json_null();
}

/* Kernel memory may be 0 before: only the kind that is 0 with all alive too was not said. */
static bool is_grown(uint64_t before, uint64_t held)
{
	return before || held;
}

/* More in use than before; it may be less. */
static json_t *grown(uint64_t before, uint64_t held)
{
	return is_grown(before, held) ? json_integer((json_int_t)(held - before)) : json_null();
}

/*
 * What else the kernel has for a clone, on average, in bytes: so much more kernel memory this
 * cgroup has than before, all page tables that are known aside. Return: -1: not known.
 */
static int64_t kernel_average(const struct stats_clone *s)
{
	const struct engine_summary *e = &s->engine;
	uint64_t told = e->page_table_bytes + total(&s->bytes[BYTES_KVM_TABLES]);

	if (!e->alive || !e->held.kernel_bytes ||
	    e->held.kernel_bytes < e->before.kernel_bytes + told)
		return -1;
	return (int64_t)((e->held.kernel_bytes - e->before.kernel_bytes - told) / e->alive);
}

static json_t *hostmem_json(const struct hostmem *h)
{
	/* There was no such moment. */
	if (!h->available_bytes)
		return json_null();
	return json_pack(
		"{s:o, s:o, s:o, s:o}", "available_bytes", said_or_null(h->available_bytes),
		"free_bytes", said_or_null(h->free_bytes), "kvm_tables_bytes",
		number(h->kvm_tables_bytes), "kernel_bytes", said_or_null(h->kernel_bytes));
}

static json_t *growth_json(const struct engine_summary *e)
{
	const struct hostmem *b = &e->before, *h = &e->held;

	if (!h->available_bytes)
		return json_pack("{s:n, s:n, s:n}", "available_bytes", "kvm_tables_bytes",
		                 "kernel_bytes");
	return json_pack("{s:o, s:o, s:o}", "available_bytes",
	                 grown(h->available_bytes, b->available_bytes), "kvm_tables_bytes",
	                 grown(b->kvm_tables_bytes, h->kvm_tables_bytes), "kernel_bytes",
	                 grown(b->kernel_bytes, h->kernel_bytes));
}

static json_t *host_memory_json(const struct stats_clone *s)
{
	const struct engine_summary *e = &s->engine;
	const int64_t average = kernel_average(s);
	json_t *o = json_pack("{s:o, s:o, s:o, s:o}", "before", hostmem_json(&e->before), "held",
	                      hostmem_json(&e->held), "after", hostmem_json(&e->after),
	                      "kernel_average_bytes",
	                      average < 0 ? json_null() : json_integer(average));
	json_t *growth = growth_json(e);

	if (!o || !growth || json_object_update(o, growth)) {
		json_decref(o);
		o = NULL;
	}
	json_decref(growth);
	return o;
}

static json_t *workers_json(const struct stats_clone *s)
{
	return json_pack("{s:o, s:o, s:o, s:o}", "started", number(s->engine.workers), "lost",
	                 number(s->engine.workers_lost), "per_process", number(s->per_process),
	                 "jobs", number(s->jobs));
}

static json_t *shells_json(const struct engine_summary *e)
{
	return json_pack("{s:o, s:o, s:o}", "made", number(e->shells_made), "reused",
	                 number(e->shells_reused), "refused", number(e->shells_refused));
}

static json_t *image_json(const struct snapshot_info *i)
{
	return json_pack("{s:o, s:o, s:o}", "ram_bytes", number(i->ram_bytes), "data_bytes",
	                 number(i->data_bytes), "frames", number(i->data_bytes >> MM_PAGE_SHIFT));
}

/* Committed frames and metadata are not summed over workers: nobody asked them. */
static json_t *clone_pool_json(const struct engine_summary *e)
{
	return json_pack("{s:o, s:o}", "used", number(e->pool_used_frames), "limit",
	                 number(e->pool_limit_frames));
}

/* What the clones have cost in memory. */
static json_t *bytes_json(const struct stats_clone *s)
{
	return json_pack("{s:o, s:O, s:o, s:o}", "clone_bytes", clone_bytes_json(s), "each",
	                 s->each, "memory", memory_json(&s->engine), "host_memory",
	                 host_memory_json(s));
}

json_t *stats_clone_json(const struct stats_clone *s)
{
	json_t *bytes = bytes_json(s);
	json_t *o = json_pack(
		"{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:f, s:o, s:o, s:o, s:{s:o}}",
		"command", "clone", "fault_path", text_or_null(s->sum.fault_path), "fault_path_why",
		text_or_null(s->sum.fault_why), "violations", number(s->sum.violations), "events",
		number(s->sum.events), "nomem", number(s->sum.nomem), "clones", counts_json(s),
		"frames", frames_json(&s->sum), "pool", clone_pool_json(&s->engine), "time_us",
		clone_times_json(s), "clones_per_sec", clones_per_sec(s), "workers",
		workers_json(s), "shells", shells_json(&s->engine), "image", image_json(&s->image),
		"exits", "total", number(s->exits));

	if (!o || !bytes || json_object_update(o, bytes)) {
		json_decref(o);
		o = NULL;
	}
	json_decref(bytes);
	return o;
}

/* ---- tables ---- */

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

static double frames_mib(uint64_t frames)
{
	return (double)(frames << MM_PAGE_SHIFT) / MIB;
}

static void put_path(const struct space_stats *s, FILE *to)
{
	if (s->fault_path)
		fprintf(to, "fault path     %s: %s\n", s->fault_path,
		        s->fault_why ? s->fault_why : "no reason given");
}

static void put_frames(const struct space_stats *s, FILE *to)
{
	fprintf(to,
	        "guest memory   shared %.1f MiB, private %.1f MiB, owned %.1f MiB (used %.1f)\n",
	        frames_mib(s->shared_frames), frames_mib(s->private_frames),
	        frames_mib(s->owned_frames), frames_mib(s->owned_committed));
	if (s->followed_blocks)
		fprintf(to, "               blocks copied ahead of a walk of writes: %" PRIu64 "\n",
		        s->followed_blocks);
}

static void put_violations(const struct space_stats *s, FILE *to)
{
	fprintf(to,
	        "violations     %" PRIu64 " resolved by us, from %" PRIu64
	        " events; out of memory %" PRIu64 "\n",
	        s->violations, s->events, s->nomem);
}

/* The counters that no kernel with statistics lacks. */
static void put_kvm(const struct kvm_counters *c, FILE *to)
{
	if (kvm_counters_any(c))
		fprintf(to,
		        "KVM            mappings of 4 KiB %" PRIu64 ", 2 MiB %" PRIu64
		        ", 1 GiB %" PRIu64 "; faults that made one %" PRIu64 "; exits %" PRIu64
		        "\n",
		        c->v[KVM_COUNT_PAGES_4K], c->v[KVM_COUNT_PAGES_2M],
		        c->v[KVM_COUNT_PAGES_1G], c->v[KVM_COUNT_PF_FIXED], c->v[KVM_COUNT_EXITS]);
}

void stats_run_text(const struct stats_run *s, FILE *to)
{
	const struct vm_times *t = &s->times;

	fprintf(to, "virtual machines %" PRIu64 "\n", s->vms);
	fprintf(to,
	        "time           create %.2f ms, first output %.2f ms, run %.2f ms, total %.2f ms\n",
	        ms(span(t->asked, t->created)), ms(span(t->asked, t->first_output)),
	        ms(span(t->running, t->ended)), ms(s->total_ns));
	put_frames(&s->first, to);
	fprintf(to, "pool           %.1f MiB used, %.1f MiB at most, %.1f MiB allowed\n",
	        frames_mib(s->pool.used_frames), frames_mib(s->pool.peak_frames),
	        frames_mib(s->pool.limit_frames));
	put_violations(&s->sum, to);
	fprintf(to, "VM exits       %" PRIu64 ", of them doorbell %" PRIu64 "\n",
	        all_exits(&s->exits), s->exits.doorbell);
	put_kvm(&s->kvm, to);
	put_path(&s->first, to);
}

static void put_series(const char *name, const struct series *s, FILE *to)
{
	if (s->count)
		fprintf(to, "%-14s p50 %.2f ms, p99 %.2f ms, max %.2f ms\n", name,
		        ms(series_rank(s, 50)), ms(series_rank(s, 99)), ms(series_rank(s, 100)));
	else
		fprintf(to, "%-14s none\n", name);
}

static double kib(uint64_t bytes)
{
	return (double)bytes / 1024;
}

/* Medians. */
static void put_clone_bytes(const struct stats_clone *s, FILE *to)
{
	const struct series *b = s->bytes;

	if (b[BYTES_UNIQUE].count == 0)
		return;
	fprintf(to, "bytes a clone  unique %.0f KiB: private %.0f, owned %.0f, page tables %.0f",
	        kib(series_rank(&b[BYTES_UNIQUE], 50)), kib(series_rank(&b[BYTES_PRIVATE], 50)),
	        kib(series_rank(&b[BYTES_OWNED], 50)), kib(series_rank(&b[BYTES_TABLES], 50)));
	if (b[BYTES_KVM_TABLES].count == b[BYTES_UNIQUE].count)
		fprintf(to, ", KVM's tables %.0f", kib(series_rank(&b[BYTES_KVM_TABLES], 50)));
	else
		fprintf(to, ", KVM's tables -");
	fprintf(to, "; shared %.0f (medians); unique in all %.1f MiB, at most %.0f KiB\n",
	        kib(series_rank(&b[BYTES_SHARED], 50)), (double)total(&b[BYTES_UNIQUE]) / MIB,
	        kib(series_rank(&b[BYTES_UNIQUE], 100)));
}

static void put_grown(const char *what, uint64_t before, uint64_t held, FILE *to)
{
	if (is_grown(before, held))
		fprintf(to, "%s %.1f MiB", what, (double)(int64_t)(held - before) / MIB);
}

static void put_host_memory(const struct stats_clone *s, FILE *to)
{
	const struct engine_summary *e = &s->engine;
	const struct hostmem *b = &e->before, *h = &e->held, *a = &e->after;

	if (!b->available_bytes)
		return;
	fprintf(to, "host memory    available %.1f MiB before", (double)b->available_bytes / MIB);
	if (h->available_bytes)
		fprintf(to, ", %.1f with all of them alive", (double)h->available_bytes / MIB);
	fprintf(to, ", %.1f after\n", (double)a->available_bytes / MIB);
	if (!e->alive || !h->available_bytes)
		return;
	put_grown("               with all of them alive: less available", h->available_bytes,
	          b->available_bytes, to);
	put_grown(", KVM's tables", b->kvm_tables_bytes, h->kvm_tables_bytes, to);
	put_grown(", kernel memory of this cgroup", b->kernel_bytes, h->kernel_bytes, to);
	if (kernel_average(s) >= 0)
		fprintf(to, " (all tables aside %.0f KiB a clone, on average)",
		        kib((uint64_t)kernel_average(s)));
	fprintf(to, "\n");
}

static void put_memory(const struct engine_summary *e, FILE *to)
{
	if (e->alive)
		fprintf(to,
		        "workers' PSS   %.1f MiB for %u clones alive at once (%.1f MiB private, "
		        "%.1f MiB page tables)\n",
		        (double)e->pss_bytes / MIB, e->alive, (double)e->private_bytes / MIB,
		        (double)e->page_table_bytes / MIB);
}

void stats_clone_text(const struct stats_clone *s, FILE *to)
{
	fprintf(to,
	        "clones         %" PRIu64 ": %" PRIu64 " ok, %" PRIu64 " failed, %" PRIu64
	        " lost\n",
	        clone_count(s), s->ok, s->failed, s->lost);
	fprintf(to, "wall time      %.1f ms, %.0f clones/s, %u workers (%u lost), %u at a time\n",
	        ms(s->engine.wall_ns), clones_per_sec(s), s->engine.workers, s->engine.workers_lost,
	        s->jobs);
	fprintf(to,
	        "machines       %" PRIu64 " made, %" PRIu64 " times used again, %" PRIu64
	        " not fit for it\n",
	        s->engine.shells_made, s->engine.shells_reused, s->engine.shells_refused);
	put_series("create", &s->create, to);
	put_series("first output", &s->first_output, to);
	put_series("run", &s->run, to);
	put_frames(&s->sum, to);
	put_clone_bytes(s, to);
	put_memory(&s->engine, to);
	put_host_memory(s, to);
	put_violations(&s->sum, to);
	put_path(&s->sum, to);
}
