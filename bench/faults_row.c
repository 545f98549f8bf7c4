// SPDX-License-Identifier: MIT
/*
 * bench/faults_row.c - sums walks up and makes rows of them.
 */
#include "bench/faults_row.h"

#include <errno.h>

#include "bench/hist.h"
#include "bench/report.h"

static const char *const kind_names[TOUCH_KINDS] = {"zero", "shared", "cow", "huge", "again"};

/* ---- adding ---- */

/* Which of the above a class of touches is; `huge`: a block came as one page. */
static enum touch_kind kind_of(enum memwalk_class c, bool clone, bool huge)
{
	switch (c) {
	case MEMWALK_READ_REPEAT:
	case MEMWALK_WRITE_REPEAT:
		return TOUCH_AGAIN;
	case MEMWALK_READ_BLOCK:
	case MEMWALK_WRITE_BLOCK:
		if (huge)
			return TOUCH_HUGE;
		break;
	default:
		break;
	}
	if (!clone)
		return TOUCH_ZERO;
	return c == MEMWALK_READ_PAGE || c == MEMWALK_READ_BLOCK ? TOUCH_SHARED : TOUCH_COW;
}

static int add_kinds(struct faults_row *r, const struct walk_result *w, uint64_t size, bool clone)
{
	bool huge = w->huge_bytes >= size / 2;
	int e = 0;

	for (int c = 0; e == 0 && c < MEMWALK_CLASSES; c++) {
		enum touch_kind k = kind_of((enum memwalk_class)c, clone, huge);

		e = hist_merge(&r->kinds[k], &w->guest.classes[c]);
	}
	return e;
}

static int add_kvm(struct faults_row *r, const struct walk_result *w)
{
	int e = 0;

	for (unsigned i = 0; e == 0 && i < KVM_COUNTERS; i++)
		if (w->kvm_known[i])
			e = sample_add(&r->kvm[i], (double)w->kvm[i]);
	return e;
}

/* How much of vCPU time the histograms and the loop account for; 1 where there are none. */
static double accounted(const struct memwalk_result *g)
{
	double cycles = (double)g->touches * (double)g->loop_cycles;
	uint64_t timed = 0;

	for (unsigned c = 0; c < MEMWALK_CLASSES; c++) {
		timed += g->classes[c].count;
		cycles += (double)g->classes[c].sum;
	}
	return timed ? cycles / ((double)g->walk_cycles * g->cpus) : 1;
}

static double off_cpu(const struct walk_result *w)
{
	if (w->cpu_ns >= w->wall_ns)
		return 0;
	return 1 - (double)w->cpu_ns / (double)w->wall_ns;
}

int faults_row_add(struct faults_row *r, const struct walk_result *w, uint64_t size, bool clone)
{
	const struct memwalk_result *g = &w->guest;
	double walk_us = hist_ns((double)g->walk_cycles, g->cycles_per_sec) / 1e3;
	double prepare_us = (double)w->prepare_ns / 1e3;
	double us = 0;
	int e = add_kinds(r, w, size, clone);

	r->touches = g->touches;
	r->cycles_per_sec = g->cycles_per_sec;
	us = (walk_us + prepare_us) / (double)r->touches;
	const struct {
		struct sample *to;
		double v;
	} figures[] = {
		{&r->us_per_page, us},
		{&r->pages_per_s, 1e6 / us},
		{&r->violations, (double)w->violations},
		{&r->events, (double)w->events},
		{&r->committed, (double)w->committed_bytes},
		{&r->private_bytes, (double)w->private_bytes},
		{&r->huge_bytes, (double)w->huge_bytes},
		{&r->prepare_us, prepare_us},
		{&r->walk_us, walk_us},
		{&r->wall_us, (double)w->wall_ns / 1e3},
		{&r->off_cpu, off_cpu(w)},
		{&r->cpu_us_per_page, (double)w->cpu_ns / 1e3 / (double)r->touches},
		{&r->accounted, accounted(g)},
	};

	for (size_t i = 0; e == 0 && i < sizeof(figures) / sizeof(figures[0]); i++)
		e = sample_add(figures[i].to, figures[i].v);
	return e ? e : add_kvm(r, w);
}

/* ---- telling ---- */

static int set_ratios(json_t *row, const struct faults_row *r, const struct faults_row *rows,
                      unsigned count)
{
	int e = 0;

	for (unsigned i = 0; e == 0 && i < count; i++) {
		struct spread s = sample_ratio(&rows[i].us_per_page, &r->us_per_page);

		if (!rows[i].kind->library)
			e = report_set_ratio(row, rows[i].kind->name, &s);
	}
	return e;
}

/* Kinds that did not occur are left out. */
static json_t *kinds_json(const struct faults_row *r)
{
	json_t *kinds = json_object();

	for (unsigned k = 0; k < TOUCH_KINDS; k++) {
		if (r->kinds[k].count == 0)
			continue;
		if (report_set(kinds, kind_names[k],
		               hist_latency_json(&r->kinds[k], r->cycles_per_sec))) {
			json_decref(kinds);
			return NULL;
		}
	}
	return kinds;
}

/* Counters that this KVM does not have are left out; null: it has none. */
static json_t *kvm_json(const struct faults_row *r)
{
	struct report_item items[KVM_COUNTERS];
	size_t count = 0;
	json_t *kvm;

	for (unsigned i = 0; i < KVM_COUNTERS; i++)
		if (r->kvm[i].count)
			items[count++] = (struct report_item){kvm_counter_name((enum kvm_counter)i),
			                                      &r->kvm[i], ITEM_WHOLE};
	if (count == 0)
		return json_null();
	kvm = json_object();
	if (!kvm || report_set_items(kvm, items, count) == 0)
		return kvm;
	json_decref(kvm);
	return NULL;
}

/* Return: 0; -ENOMEM. */
static int set_latency(json_t *row, const struct faults_row *r)
{
	struct memwalk_histogram all = {0};
	int e = 0;

	/* What the parts could hold, repeat by repeat, the whole can, too: counts of touches. */
	for (unsigned k = 0; e == 0 && k < TOUCH_KINDS; k++)
		e = hist_merge(&all, &r->kinds[k]);
	if (e == 0)
		e = report_set(row, "latency_ns", hist_latency_json(&all, r->cycles_per_sec));
	if (e == 0)
		e = report_set(row, "kinds", kinds_json(r));
	if (e == 0)
		e = report_set(row, "cdf", hist_cdf_json(&all, r->cycles_per_sec));
	return e;
}

static int set_items(json_t *row, const struct faults_row *r)
{
	const struct report_item items[] = {
		{"us_per_page", &r->us_per_page, ITEM_FIGURE},
		{"pages_per_s", &r->pages_per_s, ITEM_FIGURE},
		{"cpu_us_per_page", &r->cpu_us_per_page, ITEM_FIGURE},
		{"prepare_us", &r->prepare_us, ITEM_MEDIAN},
		{"walk_us", &r->walk_us, ITEM_MEDIAN},
		{"wall_us", &r->wall_us, ITEM_MEDIAN},
		{"off_cpu", &r->off_cpu, ITEM_MEDIAN},
		{"accounted", &r->accounted, ITEM_MEDIAN},
		{"violations", &r->violations, ITEM_WHOLE},
		{"events", &r->events, ITEM_WHOLE},
		{"committed_bytes", &r->committed, ITEM_WHOLE},
		{"huge_bytes", &r->huge_bytes, ITEM_WHOLE},
		{"private_bytes", &r->private_bytes, ITEM_WHOLE},
	};

	return report_set_items(row, items, REPORT_COUNT(items));
}

json_t *faults_row_json(const struct faults_row *r, const struct faults_row *rows, unsigned count)
{
	json_t *row =
		json_pack("{s:s, s:I}", "name", r->kind->name, "touches", (json_int_t)r->touches);
	int e = row ? set_items(row, r) : -ENOMEM;

	if (e == 0)
		e = set_ratios(row, r, rows, count);
	if (e == 0)
		e = set_latency(row, r);
	if (e == 0)
		e = report_set(row, "kvm", kvm_json(r));
	if (e == 0)
		return row;
	json_decref(row);
	return NULL;
}
