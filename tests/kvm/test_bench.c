// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_bench.c - `cowslip bench` on real guests: what it counts is what happened, what it
 * says hangs together, what is wrong is refused in one line.
 *
 * Times are compared with nothing: the host is as busy as it is. Figures have five digits.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kvm/command.h"

#define SIZE     (UINT64_C(2) << 20)
#define TOUCHES  512
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

TestSuite(bench, .init = scratch_make, .fini = scratch_remove, .timeout = 180);

/* ---- looking at a document ---- */

/* A number by path, keys separated by '/'. The test fails when it is not there. */
static double at(const json_t *from, const char *path)
{
	char copy[128], *rest = copy, *key;

	snprintf(copy, sizeof(copy), "%s", path);
	while ((key = strsep(&rest, "/")))
		from = json_is_array(from) ? json_array_get(from, strtoul(key, NULL, 10))
		                           : json_object_get(from, key);
	cr_assert(json_is_number(from), "%s: no number", path);
	return json_number_value(from);
}

static const json_t *row_named(const json_t *doc, const char *name)
{
	const json_t *rows = json_object_get(doc, "rows");

	for (size_t i = 0; i < json_array_size(rows); i++) {
		const json_t *row = json_array_get(rows, i);

		if (strcmp(json_string_value(json_object_get(row, "name")), name) == 0)
			return row;
	}
	cr_assert_fail("no row %s", name);
	return NULL;
}

static double in_row(const json_t *doc, const char *row, const char *path)
{
	return at(row_named(doc, row), path);
}

/* Run a command that prints JSON and nothing else. */
static json_t *bench(const char *const *args)
{
	struct said s = run(args);
	json_t *doc;

	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(s.err_size, 0, "%s", s.err);
	doc = json_loads(s.out, 0, NULL);
	cr_assert_not_null(doc, "%s", s.out);
	cr_assert_eq(at(doc, "schema"), 1);
	cr_assert(json_is_object(json_object_get(doc, "host")));
	cr_assert(json_is_array(json_object_get(doc, "warnings")));
	said_free(&s);
	return doc;
}

/* The median lies between the quartiles; of one or two repeats there are none. */
static void expect_spread(const json_t *row, const char *key, unsigned repeat)
{
	char spread[64];

	snprintf(spread, sizeof(spread), "%s_spread", key);
	if (repeat < 3) {
		cr_assert(json_is_null(json_object_get(row, spread)), "%s", spread);
		return;
	}
	snprintf(spread, sizeof(spread), "%s_spread/0", key);
	cr_assert_leq(at(row, spread), at(row, key) * 1.000001);
	spread[strlen(spread) - 1] = '1';
	cr_assert_geq(at(row, spread) * 1.000001, at(row, key));
}

static void expect_latency(const json_t *l)
{
	static const char *const rising[] = {"p50", "p90", "p99", "p99.9", "max"};

	for (size_t i = 1; i < COUNT(rising); i++)
		cr_assert_leq(at(l, rising[i - 1]), at(l, rising[i]), "%s", rising[i]);
	cr_assert_gt(at(l, "mean"), 0);
}

static void expect_cdf(const json_t *cdf)
{
	double ns = -1, fraction = 0;
	size_t n = json_array_size(cdf);

	cr_assert_gt(n, 1);
	for (size_t i = 0; i < n; i++) {
		const json_t *point = json_array_get(cdf, i);

		cr_assert_gt(at(point, "0"), ns);
		cr_assert_geq(at(point, "1"), fraction);
		ns = at(point, "0");
		fraction = at(point, "1");
	}
	cr_assert_float_eq(fraction, 1, 1e-9);
}

/* What holds of any row. `repeat` walks of `touches` were made. */
static void expect_row(const json_t *row, uint64_t touches, unsigned repeat)
{
	const json_t *kinds = json_object_get(row, "kinds");
	const char *kind;
	json_t *of_kind;
	double sum = 0;

	cr_assert_eq(at(row, "touches"), (double)touches);
	cr_assert_eq(at(row, "latency_ns/count"), (double)touches * repeat);
	json_object_foreach((json_t *)(uintptr_t)kinds, kind, of_kind)
	{
		sum += at(of_kind, "count");
		expect_latency(of_kind);
	}
	cr_assert_eq(sum, (double)touches * repeat);
	expect_latency(json_object_get(row, "latency_ns"));
	expect_cdf(json_object_get(row, "cdf"));
	expect_spread(row, "us_per_page", repeat);
	expect_spread(row, "pages_per_s", repeat);
	cr_assert_gt(at(row, "us_per_page"), 0);
	cr_assert_leq(at(row, "events"), at(row, "touches"));
	cr_assert_geq(at(row, "prepare_us"), 0);
	cr_assert_geq(at(row, "committed_bytes"), 0);
}

/* Of an odd number of repeats: the median of reciprocals is the reciprocal of the median. */
static void expect_ratios(const json_t *doc, const char *a, const char *b)
{
	char to_a[64], to_b[64];

	snprintf(to_a, sizeof(to_a), "ratio_to/%s", a);
	snprintf(to_b, sizeof(to_b), "ratio_to/%s", b);
	cr_assert_float_eq(in_row(doc, a, to_a), 1, 1e-9);
	cr_assert_float_eq(in_row(doc, a, to_b) * in_row(doc, b, to_a), 1, 2e-4);
	snprintf(to_b, sizeof(to_b), "ratio_spread/%s/0", b);
	snprintf(to_a, sizeof(to_a), "ratio_to/%s", b);
	cr_assert_leq(in_row(doc, a, to_b), in_row(doc, a, to_a));
}

/* ---- faults ---- */

Test(bench, faults_on_fresh_memory)
{
	static const char *const names[] = {"auto", "kernel-4k", "kernel-thp", "uffd-4k",
	                                    "populate"};
	json_t *doc = bench(
		ARGS("bench", "faults", "--size", "2M", "--repeat", "3", "--json", "--seed", "9"));
	double kvm_faults;

	cr_assert_str_eq(json_string_value(json_object_get(doc, "command")), "faults");
	cr_assert_eq(at(doc, "parameters/size"), (double)SIZE);
	cr_assert_eq(at(doc, "parameters/seed"), 9);
	cr_assert_eq(json_array_size(json_object_get(doc, "rows")), COUNT(names));
	for (size_t i = 0; i < COUNT(names); i++) {
		const json_t *row = row_named(doc, names[i]);

		expect_row(row, TOUCHES, 3);
		cr_assert_float_eq(at(row, "us_per_page") * at(row, "pages_per_s"), 1e6, 200);
		cr_assert_eq(at(row, "prepare_us") > 0, strcmp(names[i], "populate") == 0);
		cr_assert_geq(at(row, "committed_bytes"), (double)SIZE, "%s", names[i]);
	}
	expect_ratios(doc, "kernel-4k", "uffd-4k");
	expect_ratios(doc, "kernel-thp", "populate");
	/* One event for each page, one page for each: exactly what was walked. */
	cr_assert_eq(in_row(doc, "uffd-4k", "events"), TOUCHES);
	cr_assert_eq(in_row(doc, "uffd-4k", "violations"), TOUCHES);
	cr_assert_eq(in_row(doc, "uffd-4k", "kinds/zero/count"), 3 * TOUCHES);
	cr_assert_eq(in_row(doc, "uffd-4k", "huge_bytes"), 0);
	cr_assert_eq(in_row(doc, "kernel-4k", "events"), 0);
	cr_assert_eq(in_row(doc, "kernel-4k", "committed_bytes"), (double)SIZE);
	if (json_is_object(json_object_get(row_named(doc, "kernel-4k"), "kvm"))) {
		kvm_faults = in_row(doc, "kernel-4k", "kvm/pf_fixed");
		cr_assert_geq(kvm_faults, TOUCHES);
		cr_assert_leq(kvm_faults, TOUCHES + 64);
	}
	json_decref(doc);
}

/* With one repeat a ratio is the quotient of the two times. */
Test(bench, ratio_is_a_quotient)
{
	json_t *doc = bench(ARGS("bench", "faults", "--size", "2M", "--repeat", "1", "--rows",
	                         "kernel,kernel-4k", "--json"));
	double quotient =
		in_row(doc, "kernel-4k", "us_per_page") / in_row(doc, "kernel", "us_per_page");

	cr_assert_eq(json_array_size(json_object_get(doc, "rows")), 2);
	cr_assert_float_eq(in_row(doc, "kernel", "ratio_to/kernel-4k") / quotient, 1, 2e-4);
	cr_assert_str_eq(json_string_value(json_object_get(doc, "baseline")), "kernel-4k");
	json_decref(doc);
}

/* Single touches and the loop make up the walk: only what is not the guest's time is missing. */
Test(bench, histograms_add_up_to_the_walk)
{
	json_t *doc = bench(ARGS("bench", "faults", "--size", "8M", "--repeat", "3", "--rows",
	                         "kernel-4k", "--json"));
	double latency = in_row(doc, "kernel-4k", "latency_ns/mean") / 1e3;

	cr_assert_float_eq(in_row(doc, "kernel-4k", "accounted"), 1, 0.05);
	/* The mean is over all repeats, the time a median of three. */
	cr_assert_lt(latency, in_row(doc, "kernel-4k", "us_per_page") * 3);
	cr_assert_lt(in_row(doc, "kernel-4k", "us_per_page"), latency * 3);
	json_decref(doc);
}

/* Then there are no times of touches, in no table, and the walk is all there is. */
Test(bench, walks_without_the_clock)
{
	struct said s;
	json_t *doc = bench(ARGS("bench", "faults", "--size", "4M", "--repeat", "1", "--memory",
	                         "clone", "--access", "read", "--rows", "auto,private-4k",
	                         "--no-latency", "--json"));
	const json_t *row = row_named(doc, "private-4k");

	cr_assert(json_is_false(json_object_get(json_object_get(doc, "parameters"), "latency")));
	cr_assert_eq(in_row(doc, "private-4k", "touches"), 2 * TOUCHES);
	cr_assert_eq(in_row(doc, "private-4k", "latency_ns/count"), 0);
	cr_assert_eq(json_object_size(json_object_get(row, "kinds")), 0);
	cr_assert_gt(in_row(doc, "private-4k", "us_per_page"), 0);
	json_decref(doc);

	s = run(ARGS("bench", "faults", "--size", "1M", "--repeat", "1", "--rows", "kernel-4k",
	             "--no-latency"));
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_null(strstr(s.out, "p50"), "%s", s.out);
	cr_assert_null(strstr(s.out, "Latency"), "%s", s.out);
	said_free(&s);
}

Test(bench, faults_on_a_clones_memory)
{
	static const char *const names[] = {"auto", "private-4k", "uffd-4k", "populate"};
	json_t *doc = bench(ARGS("bench", "faults", "--size", "2M", "--repeat", "1", "--memory",
	                         "clone", "--pattern", "random", "--json"));

	cr_assert_eq(json_array_size(json_object_get(doc, "rows")), COUNT(names));
	for (size_t i = 0; i < COUNT(names); i++)
		expect_row(row_named(doc, names[i]), TOUCHES, 1);
	cr_assert_eq(in_row(doc, "uffd-4k", "events"), TOUCHES);
	cr_assert_eq(in_row(doc, "uffd-4k", "kinds/cow/count"), TOUCHES);
	cr_assert_eq(in_row(doc, "private-4k", "committed_bytes"), (double)SIZE);
	/* On a slow machine it may look like a walk and be followed: what that costs is bounded. */
	cr_assert_geq(in_row(doc, "auto", "private_bytes"), (double)SIZE);
	cr_assert_leq(in_row(doc, "auto", "private_bytes"), (double)(2 * SIZE + (32UL << 20)));
	json_decref(doc);
}

Test(bench, reads_of_a_deep_clone_copy_nothing)
{
	json_t *doc =
		bench(ARGS("bench", "faults", "--size", "2M", "--repeat", "1", "--memory",
	                   "clone-depth:3", "--access", "read", "--faults", "kernel", "--json"));

	expect_row(row_named(doc, "kernel"), TOUCHES, 1);
	cr_assert_eq(in_row(doc, "kernel", "private_bytes"), 0);
	cr_assert_eq(in_row(doc, "private-4k", "committed_bytes"), 0);
	cr_assert_eq(in_row(doc, "private-4k", "kinds/shared/count"), TOUCHES);
	json_decref(doc);
}

Test(bench, several_vcpus_share_the_touches)
{
	json_t *doc = bench(ARGS("bench", "faults", "--size", "4M", "--repeat", "1", "--vcpus", "2",
	                         "--pattern", "zipf:1.1", "--access", "rw:50", "--touches", "5000",
	                         "--rows", "auto,uffd-4k", "--json"));

	expect_row(row_named(doc, "auto"), 5000, 1);
	expect_row(row_named(doc, "uffd-4k"), 5000, 1);
	cr_assert_gt(in_row(doc, "uffd-4k", "kinds/again/count"), 3000);
	cr_assert_eq(in_row(doc, "uffd-4k", "kinds/again/count") +
	                     in_row(doc, "uffd-4k", "kinds/zero/count"),
	             5000);
	cr_assert(json_is_null(json_object_get(row_named(doc, "auto"), "kvm")));
	json_decref(doc);
}

Test(bench, page_size_is_the_librarys)
{
	json_t *doc = bench(ARGS("bench", "faults", "--size", "4M", "--repeat", "1", "--rows",
	                         "uffd,kernel-4k", "--page-size", "2m", "--json"));

	/* A whole block for each event. */
	cr_assert_leq(in_row(doc, "uffd", "events"), 2);
	json_decref(doc);
}

/* ---- traces ---- */

static void record(const char *pattern, const char *seed, const char *to)
{
	struct said s = run(ARGS("bench", "faults", "--size", "1M", "--repeat", "1", "--rows",
	                         "kernel-4k", "--access", "rw:50", "--pattern", pattern, "--seed",
	                         seed, "--record-trace", to));

	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
}

static char *text_of(const char *path)
{
	FILE *f = fopen(path, "r");
	char *text = calloc(1, 65536);

	cr_assert_not_null(f, "%s", path);
	cr_assert_gt(fread(text, 1, 65535, f), 0);
	fclose(f);
	return text;
}

static bool same_text(const char *a, const char *b)
{
	char *one = text_of(a), *other = text_of(b);
	bool same = strcmp(one, other) == 0;

	free(one);
	free(other);
	return same;
}

Test(bench, traces_replay_what_was_recorded)
{
	char replay[512];
	struct said s;

	record("random", "7", scratch("a"));
	record("random", "7", scratch("b"));
	record("random", "8", scratch("c"));
	cr_assert(same_text(scratch("a"), scratch("b")), "same seed, other order");
	cr_assert(!same_text(scratch("a"), scratch("c")), "other seed, same order");
	snprintf(replay, sizeof(replay), "trace:%s", scratch("a"));
	s = run(ARGS("bench", "faults", "--size", "1M", "--repeat", "1", "--rows", "kernel-4k",
	             "--pattern", replay, "--record-trace", scratch("d")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert(same_text(scratch("a"), scratch("d")), "the replay is another");
	said_free(&s);
}

/* ---- where results go ---- */

Test(bench, tables_and_files)
{
	char json[512], csv[512];
	struct said s;
	json_t *doc;
	char *text;

	snprintf(json, sizeof(json), "--json=%s", scratch("r.json"));
	snprintf(csv, sizeof(csv), "--csv=%s", scratch("r.csv"));
	s = run(ARGS("bench", "faults", "--size", "1M", "--repeat", "3", "--rows", "auto,kernel-4k",
	             json, csv));
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(s.err_size, 0, "%s", s.err);
	cr_assert_eq(lines_with(s.out, "bench faults: "), 1, "%s", s.out);
	cr_assert_geq(lines_with(s.out, "kernel-4k "), 2, "%s", s.out);
	cr_assert_geq(lines_with(s.out, "host "), 1, "%s", s.out);
	said_free(&s);
	text = text_of(scratch("r.csv"));
	cr_assert_eq(lines(text), 3, "%s", text);
	cr_assert_eq(lines_with(text, "name,"), 1);
	free(text);
	doc = json_load_file(scratch("r.json"), 0, NULL);
	cr_assert_not_null(doc);
	expect_row(row_named(doc, "auto"), 256, 3);
	json_decref(doc);
	cr_assert_eq(scratch_entries(), 2);

	s = run(ARGS("bench", "faults", "--size", "1M", "--repeat", "3", "--rows", "auto,kernel-4k",
	             "--csv", "--compare", scratch("r.json")));
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(lines(s.out), 3, "%s", s.out);
	cr_assert_geq(lines(s.err), 1, "%s", s.err);
	said_free(&s);
	s = run(ARGS("bench", "faults", "--size", "2M", "--repeat", "3", "--rows", "auto,kernel-4k",
	             "--compare", scratch("r.json")));
	cr_assert_eq(s.status, 125);
	cr_assert_eq(lines(s.err), 1, "%s", s.err);
	cr_assert_not_null(strstr(s.err, "size"), "%s", s.err);
	said_free(&s);
}

/* ---- clone, snapshot ---- */

static const char *const phases[] = {"created", "first instruction", "first output", "exit"};

static const json_t *phase_row(const json_t *doc, const char *kind, size_t phase)
{
	char name[64];

	snprintf(name, sizeof(name), "%s: %s", kind, phases[phase]);
	return row_named(doc, name);
}

/* Phases follow one another; each was measured in all clones of this kind. */
static void expect_phases(const json_t *doc, const char *kind, double count, unsigned repeat)
{
	for (size_t i = 0; i < COUNT(phases); i++) {
		const json_t *row = phase_row(doc, kind, i);

		cr_assert_eq(at(row, "count"), count, "%s: %g", kind, at(row, "count"));
		cr_assert_leq(at(row, "us_p50"), at(row, "us_max"));
		cr_assert_leq(at(row, "us_p90"), at(row, "us_p99"));
		cr_assert_leq(at(row, "us_p99"), at(row, "us_max"));
		expect_spread(row, "us_p50", repeat);
		if (i > 0)
			cr_assert_leq(at(phase_row(doc, kind, i - 1), "us_p50"), at(row, "us_p50"));
	}
}

/* Each worker's first clone has a new machine, all others one that was used: none is in both. */
Test(bench, clones_by_new_and_by_reused_machines)
{
	json_t *doc = bench(ARGS("bench", "clone", "-n", "10", "-j", "2", "--per-process", "4",
	                         "--repeat", "3", "--dir", scratch("."), "--json"));
	const char *figures[] = {"new_clones_per_s", "reused_clones_per_s", "first_output_ratio",
	                         "floor_ratio"};
	double reused = at(doc, "summary/reused");

	cr_assert_eq(json_array_size(json_object_get(doc, "rows")), 3 * COUNT(phases));
	cr_assert_geq(reused, 3 * (10 - 2));
	cr_assert_leq(reused, 3 * (10 - 1));
	expect_phases(doc, "new", 30, 3);
	expect_phases(doc, "reused", reused, 3);
	expect_phases(doc, "floor", 30, 3);
	for (size_t i = 0; i < COUNT(figures); i++) {
		cr_assert_gt(at(json_object_get(doc, "summary"), figures[i]), 0);
		expect_spread(json_object_get(doc, "summary"), figures[i], 3);
	}
	json_decref(doc);
	cr_assert_eq(scratch_entries(), 0, "a file was left");
}

Test(bench, clones_of_one_kind)
{
	json_t *doc = bench(ARGS("bench", "clone", "-n", "4", "--depth", "3", "--mem", "256M",
	                         "--repeat", "1", "--no-reuse", "--dir", scratch("."), "--json"));

	expect_phases(doc, "new", 4, 1);
	cr_assert_eq(json_array_size(json_object_get(doc, "rows")), COUNT(phases));
	cr_assert(json_is_true(json_object_get(json_object_get(doc, "parameters"), "no_reuse")));
	cr_assert_eq(at(doc, "summary/reused"), 0);
	json_decref(doc);
	doc = bench(ARGS("bench", "clone", "-n", "4", "-j", "1", "--repeat", "1", "--reuse",
	                 "--dir", scratch("."), "--json"));
	expect_phases(doc, "reused", 3, 1);
	expect_phases(doc, "floor", 4, 1);
	cr_assert_eq(json_array_size(json_object_get(doc, "rows")), 2 * COUNT(phases));
	cr_assert_null(json_object_get(json_object_get(doc, "summary"), "new_clones_per_s"));
	json_decref(doc);
}

Test(bench, resets_of_all_rows)
{
	json_t *doc = bench(ARGS("bench", "reset", "--size", "4M", "-n", "10", "--dirty", "40",
	                         "--repeat", "3", "--dir", scratch("."), "--json"));
	const json_t *rows = json_object_get(doc, "rows");

	cr_assert_str_eq(json_string_value(json_object_get(doc, "baseline")), "memcpy");
	cr_assert_eq(json_array_size(rows), 7);
	for (size_t i = 0; i < json_array_size(rows); i++) {
		const json_t *row = json_array_get(rows, i);

		cr_assert_eq(at(row, "count"), 30);
		cr_assert_leq(at(row, "us_p50"), at(row, "us_max"));
		expect_spread(row, "us_p50", 3);
	}
	cr_assert_eq(in_row(doc, "memory x 2", "dirty_pages"), 80);
	cr_assert_gt(in_row(doc, "memory", "ratio_to/memcpy"), 0);
	expect_spread(json_object_get(doc, "summary"), "fixed_us", 3);
	json_decref(doc);
	cr_assert_eq(scratch_entries(), 0, "a file was left");
}

Test(bench, snapshot_saves_what_it_says)
{
	json_t *doc = bench(ARGS("bench", "snapshot", "--size", "2M", "--dirty", "50", "--repeat",
	                         "1", "--dir", scratch("."), "--json"));
	double saved = in_row(doc, "save", "bytes");

	cr_assert_geq(saved, (double)SIZE);
	cr_assert_leq(saved, (double)SIZE + 0x200000);
	cr_assert_eq(in_row(doc, "plain write", "bytes"), saved);
	cr_assert_float_eq(
		in_row(doc, "save", "gb_per_s") * in_row(doc, "save", "us") * 1e3 / saved, 1, 2e-4);
	cr_assert_geq(in_row(doc, "publish dirty", "bytes"), (double)SIZE / 2);
	cr_assert_gt(in_row(doc, "publish", "us"), 0);
	cr_assert_leq(in_row(doc, "load", "us"), in_row(doc, "first output", "us"));
	cr_assert_gt(in_row(doc, "save", "ratio_to/plain write"), 0);
	cr_assert_eq(scratch_entries(), 0, "a file was left");
	json_decref(doc);
}

/* ---- what cannot be ---- */

struct wrong {
	const char *args[8];
	const char *words;
};

static void expect_refused(const struct wrong *w)
{
	struct said s = run(w->args);

	cr_assert_eq(s.status, 125, "%s %s: %d", w->args[1], w->args[2], s.status);
	cr_assert_eq(lines(s.err), 1, "%s", s.err);
	cr_assert_eq(lines_with(s.err, "cowslip: "), 1, "%s", s.err);
	cr_assert_not_null(strstr(s.err, w->words), "wanted '%s', got: %s", w->words, s.err);
	cr_assert_eq(s.out_size, 0, "%s", s.out);
	said_free(&s);
}

Test(bench, wrong_parameters)
{
	static const struct wrong wrongs[] = {
		{{"bench"}, "nothing to measure"},
		{{"bench", "fly"}, "bench fly: unknown"},
		{{"bench", "faults", "now"}, "takes no argument"},
		{{"bench", "faults", "--fly"}, "unknown option"},
		{{"bench", "faults", "--size", "0"}, "more than 0"},
		{{"bench", "faults", "--size", "5000"}, "not a multiple"},
		{{"bench", "faults", "--size", "900G"}, "of this host's memory"},
		{{"bench", "faults", "--pattern", "zigzag"}, "must be one of seq, stride:N"},
		{{"bench", "faults", "--pattern", "stride:0"}, "must be one of seq, stride:N"},
		{{"bench", "faults", "--pattern", "trace:/nowhere/t"}, "/nowhere/t: No such file"},
		{{"bench", "faults", "--access", "rw:200"}, "must be one of read, write"},
		{{"bench", "faults", "--memory", "old"}, "must be one of fresh, clone"},
		{{"bench", "faults", "--memory", "clone-depth:0"}, "from 1 to"},
		{{"bench", "faults", "--page-size", "1g"}, "one of auto, 4k, 2m"},
		{{"bench", "faults", "--faults", "magic"}, "one of auto, kernel, uffd"},
		{{"bench", "faults", "--vcpus", "0"}, "from 1 to 64"},
		{{"bench", "faults", "--vcpus", "65"}, "from 1 to 64"},
		{{"bench", "faults", "--vcpus", "3", "--touches", "2"}, "more than the 2 touches"},
		{{"bench", "faults", "--size", "1M", "--touches", "257"}, "at most 256"},
		{{"bench", "faults", "--repeat", "0"}, "from 1 to 100"},
		{{"bench", "faults", "--rows", "auto,bare"}, "bare: no such row"},
		{{"bench", "faults", "--rows", "auto,auto"}, "auto twice"},
		{{"bench", "faults", "--rows", "auto,"}, "no such row"},
		{{"bench", "faults", "--memory", "clone", "--rows", "kernel-4k"},
	         "cannot hold an image"},
		{{"bench", "faults", "--rows", "auto,private-4k"}, "a mapping of an image's file"},
		{{"bench", "faults", "--json", "--csv"}, "both want standard output"},
		{{"bench", "faults", "--json=/nowhere/r"}, "/nowhere/r"},
		{{"bench", "faults", "--compare", "/nowhere/r"}, "/nowhere/r"},
		{{"bench", "faults", "--record-trace", "/nowhere/r"}, "/nowhere/r"},
		{{"bench", "faults", "--guest", "/nowhere/g.elf"}, "/nowhere/g.elf"},
		{{"bench", "clone", "image"}, "takes no argument"},
		{{"bench", "clone", "-n", "0"}, "from 1 to"},
		{{"bench", "clone", "-n", "2", "-j", "2"}, "no more clones than workers"},
		{{"bench", "clone", "--reuse", "--no-reuse"}, "nothing is left"},
		{{"bench", "reset", "--size", "5000"}, "not a multiple"},
		{{"bench", "reset", "--size", "1M", "--dir", "/nowhere"}, "/nowhere"},
		{{"bench", "clone", "--mem", "5000"}, "whole 4 KiB pages"},
		{{"bench", "clone", "--depth", "0"}, "from 1 to"},
		{{"bench", "clone", "--repeat", "1", "--dir", "/nowhere"}, "/nowhere"},
		{{"bench", "snapshot", "--size", "900G"}, "of this host's memory"},
		{{"bench", "snapshot", "--dirty", "101"}, "from 0 to 100"},
		{{"bench", "snapshot", "--size", "1M", "--dir", "/nowhere"}, "/nowhere"},
	};

	for (size_t i = 0; i < COUNT(wrongs); i++)
		expect_refused(&wrongs[i]);
}

Test(bench, wrong_traces)
{
	static const char text[] = "0 w\n300 r\n";
	char trace[512];
	const struct wrong beyond = {{"bench", "faults", "--size", "1M", "--pattern", trace},
	                             "line 2: beyond the 256"};
	const struct wrong twice = {{"bench", "faults", "--access", "read", "--pattern", trace},
	                            "a trace says itself"};
	FILE *f = fopen(scratch("t"), "w");

	cr_assert_not_null(f);
	fputs(text, f);
	fclose(f);
	snprintf(trace, sizeof(trace), "trace:%s", scratch("t"));
	expect_refused(&beyond);
	expect_refused(&twice);
}

Test(bench, guest_program_is_looked_for)
{
	const struct wrong elsewhere = {{"bench", "faults"}, "$COWSLIP_GUESTS"};

	setenv("COWSLIP_GUESTS", scratch("."), 1);
	expect_refused(&elsewhere);
}
