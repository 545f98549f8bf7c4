// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_bench_report.c - the document: building, judging noise, each rendering to the
 * letter.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/host.h"
#include "bench/report.h"
#include "bench/report_grid.h"
#include "tests/unit/bench_doc.h"

/* ---- renderings ---- */

static void expect_put(json_t *doc, enum report_form form, const char *expected)
{
	char *got = doc_put(doc, form);

	expect_text(got, expected);
	free(got);
	json_decref(doc);
}

/* As it comes out. */
/* clang-format off */
Test(bench_report, text)
{
	expect_put(
		doc_faults(), REPORT_TEXT,
"bench faults: pattern random, size 64M, vcpus 1, repeat 5\n"
"\n"
"row        us/page  IQR %    pages/s  x kernel-4k  IQR %  p50 us  p99 us  p99.9 us  max us\n"
"auto         0.900   22.2  1,111,111         27.5    4.0  0.0900   0.150       450     500\n"
"kernel-4k     24.8   40.4     40,404     baseline      -    24.7    31.0      45.0     123\n"
"\n"
"Latency by kind of touch\n"
"row   touch  touches  mean us  p50 us  p90 us  p99 us  p99.9 us  max us\n"
"auto  zero     1,000    0.900  0.0900   0.100   0.150       450     500\n"
"\n"
"What it took\n"
"row        violations  events  pf_taken  commit MiB  private MiB\n"
"auto               32      32        40        64.0            0\n"
"kernel-4k           0       0         -        64.0            0\n"
"\n"
"host    A CPU, 2 CPUs, load 0.50 0.25 0.12\n"
"kernel  Linux 6.18 x86_64, KVM svm (told by module kvm_amd), nx_huge_pages N\n"
"memory  1.0 GiB available of 2.0 GiB; THP madvise, in files never; hugetlb 3 x 2 MiB, 0 x 1 GiB\n"
"cgroup  /a, no limit of memory, 1.50 CPUs\n");
}

Test(bench_report, markdown)
{
	json_t *doc = doc_faults();

	cr_assert_eq(report_warn(doc, "cold %d", 7), 0);
	expect_put(
		doc, REPORT_MARKDOWN,
"bench faults: pattern random, size 64M, vcpus 1, repeat 5\n"
"\n"
"| row | us/page | IQR % | pages/s | x kernel-4k | IQR % | p50 us | p99 us | p99.9 us | max us |\n"
"|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
"| auto | 0.900 | 22.2 | 1,111,111 | 27.5 | 4.0 | 0.0900 | 0.150 | 450 | 500 |\n"
"| kernel-4k | 24.8 | 40.4 | 40,404 | baseline | - | 24.7 | 31.0 | 45.0 | 123 |\n"
"\n"
"Latency by kind of touch:\n"
"\n"
"| row | touch | touches | mean us | p50 us | p90 us | p99 us | p99.9 us | max us |\n"
"|:--|:--|--:|--:|--:|--:|--:|--:|--:|\n"
"| auto | zero | 1,000 | 0.900 | 0.0900 | 0.100 | 0.150 | 450 | 500 |\n"
"\n"
"What it took:\n"
"\n"
"| row | violations | events | pf_taken | commit MiB | private MiB |\n"
"|:--|--:|--:|--:|--:|--:|\n"
"| auto | 32 | 32 | 40 | 64.0 | 0 |\n"
"| kernel-4k | 0 | 0 | - | 64.0 | 0 |\n"
"\n"
"- host: A CPU, 2 CPUs, load 0.50 0.25 0.12\n"
"- kernel: Linux 6.18 x86_64, KVM svm (told by module kvm_amd), nx_huge_pages N\n"
"- memory: 1.0 GiB available of 2.0 GiB; THP madvise, in files never; hugetlb 3 x 2 MiB, "
"0 x 1 GiB\n"
"- cgroup: /a, no limit of memory, 1.50 CPUs\n"
"\n"
"- warning: cold 7\n");
}

Test(bench_report, clone_with_summary)
{
	expect_put(doc_of("{'schema':1,'command':'clone','parameters':{'count':100},'host':null,"
	                  "'warnings':['a','b'],'rows':[{'name':'first output','us_p50':1490,"
	                  "'us_p50_spread':[1480,1520],'us_p90':1900,'us_p99':null,'us_max':4000,"
	                  "'count':500}],'summary':{'clones_per_s':812.4,"
	                  "'clones_per_s_spread':[790,830],'workers':13}}"),
	           REPORT_TEXT,
"bench clone: count 100\n"
"\n"
"until         clones  p50 us  IQR %  p90 us  max us\n"
"first output     500   1,490    2.7   1,900   4,000\n"
"\n"
"clones_per_s: 812 (IQR 4.9 %)\n"
"workers: 13\n"
"\n"
"warning: a\n"
"warning: b\n");
}

/* Two baselines: every row against both. */
Test(bench_report, matrix_of_ratios)
{
	expect_put(doc_of("{'schema':1,'command':'snapshot','parameters':{},'baseline':'write',"
	                  "'host':null,'warnings':[],'rows':["
	                  "{'name':'save','us':10,'us_spread':[9,11],'bytes':1048576,"
	                  "'ratio_to':{'write':0.5,'load':0.25},"
	                  "'ratio_spread':{'write':[0.49,0.51],'load':[0.2,0.3]}},"
	                  "{'name':'write','us':5,'ratio_to':{'load':0.5}},"
	                  "{'name':'load','us':2.5,'bytes':524288}]}"),
	           REPORT_TEXT,
"bench snapshot\n"
"\n"
"operation    us  IQR %    MiB   x write  IQR %\n"
"save       10.0   20.0   1.00     0.500    4.0\n"
"write      5.00      -      -  baseline      -\n"
"load       2.50      -  0.500         -      -\n"
"\n"
"Times as fast\n"
"row     x write    x load  widest IQR %\n"
"save      0.500     0.250          40.0\n"
"write  baseline     0.500             -\n"
"load          -  baseline             -\n");
}

Test(bench_report, csv)
{
	expect_put(
		doc_of("{'schema':1,'command':'faults','parameters':{},'warnings':[],'rows':["
	               "{'name':'a','us_per_page':1.5,'us_per_page_spread':[1,2],"
	               "'latency_ns':{'p50':90,'p99.9':null},'cdf':[[1,0.5],[2,1.0]]},"
	               "{'name':'b, \\'quoted\\'','events':3,'us_per_page':2,"
	               "'ratio_to':{'a':0.75}}]}"),
		REPORT_CSV,
"name,us_per_page,us_per_page_spread.q1,us_per_page_spread.q3,latency_ns.p50,latency_ns.p99.9,"
"events,ratio_to.a\n"
"a,1.5,1,2,90,,,\n"
"\"b, \"\"quoted\"\"\",2,,,,,3,0.75\n");
}
/* clang-format on */

/* A row per line, and the same document again. */
Test(bench_report, json)
{
	json_t *doc = doc_faults(), *again;
	char *text = doc_put(doc, REPORT_JSON);
	unsigned lines = 0;

	again = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	cr_assert(json_equal(doc, again));
	for (const char *at = text; *at; at++)
		lines += *at == '\n';
	cr_assert_eq(lines, 2 + 9 + 2 + 1, "braces, keys, rows, the end of their list: %u", lines);
	free(text);
	json_decref(doc);
	json_decref(again);
}

static void expect_narrow(const char *text)
{
	for (const char *line = text; *line; line += strcspn(line, "\n") + 1)
		cr_assert_leq(strcspn(line, "\n"), GRID_WIDTH, "%.*s", (int)strcspn(line, "\n"),
		              line);
}

static void widen(json_t *row, const char *name)
{
	static const char *const counts[] = {"violations", "events", "committed_bytes",
	                                     "private_bytes"};
	static const char *const baselines[] = {"kernel-4k", "kernel-thp", "private-4k", "uffd-4k",
	                                        "populate"};
	struct spread s = {.median = 1234.5, .q1 = 1000, .q3 = 2000, .count = 5};

	cr_assert_eq(json_object_set_new(row, "name", json_string(name)), 0);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(json_object_set_new(row, counts[i], json_integer(1 << 29)), 0);
	for (unsigned i = 0; i < 5; i++)
		cr_assert_eq(report_set_ratio(row, baselines[i], &s), 0);
	cr_assert_eq(json_object_set_new(row, "prepare_us", json_integer(123456789)), 0);
	cr_assert_eq(json_object_set_new(
			     row, "kvm",
			     json_pack("{s:i, s:i}", "pf_taken", 1 << 29, "pf_fixed", 1 << 29)),
	             0);
}

/* All baselines at once, counters of nine digits, long words in a warning. */
Test(bench_report, fits_the_terminal)
{
	static const char *const names[] = {"auto",       "kernel-4k", "kernel-thp",
	                                    "private-4k", "uffd-4k",   "populate"};
	json_t *doc = doc_faults(), *rows = json_array();
	char *text;

	for (unsigned i = 0; i < 6; i++) {
		json_t *row = json_deep_copy(doc_row(doc, 0));

		widen(row, names[i]);
		cr_assert_eq(json_array_append_new(rows, row), 0);
	}
	cr_assert_eq(json_object_set_new(doc, "rows", rows), 0);
	cr_assert_eq(report_judge(doc), 0);
	text = doc_put(doc, REPORT_TEXT);
	expect_narrow(text);
	cr_assert(strstr(text, "x populate"), "five baselines are shown");
	cr_assert(strstr(text, "536,870,912"));
	free(text);
	json_decref(doc);
}

Test(bench_report, wrapped)
{
	char *text = NULL, *long_word = calloc(1, 131);
	size_t size;
	FILE *to = open_memstream(&text, &size);

	cr_assert(to && long_word);
	memset(long_word, 'x', 130);
	grid_put_wrapped("lead: ", "one  two", to);
	grid_put_wrapped("lead: ", "", to);
	grid_put_wrapped("> ", long_word, to);
	fclose(to);
	cr_assert_eq(strncmp(text, "lead: one two\nlead: \n> xxx", 26), 0, "%s", text);
	cr_assert_eq(size, 14 + 7 + 2 + 131, "the long word is whole");
	free(text);
	free(long_word);
}

Test(bench_report, numbers)
{
	static const struct {
		double v;
		const char *count, *number;
	} cases[] = {
		{0, "0", "0"},
		{0.00123, "0", "0.00123"},
		{0.0123, "0", "0.0123"},
		{0.0999, "0", "0.0999"},
		{0.09999, "0", "0.100"},
		{0.5, "0", "0.500"},
		{0.9996, "1", "1.00"},
		{9.994, "10", "9.99"},
		{9.996, "10", "10.0"},
		{99.94, "100", "99.9"},
		{99.96, "100", "100"},
		{999.6, "1,000", "1,000"},
		{1234567, "1,234,567", "1,234,567"},
		{-1234.4, "-1,234", "-1,234"},
	};
	char cell[GRID_TEXT];

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		grid_count(cases[i].v, cell);
		cr_assert_str_eq(cell, cases[i].count, "%g: %s", cases[i].v, cell);
		grid_number(cases[i].v, cell);
		cr_assert_str_eq(cell, cases[i].number, "%g: %s", cases[i].v, cell);
	}
}

Test(bench_report, nowhere_to_write)
{
	static const enum report_form forms[] = {REPORT_TEXT, REPORT_MARKDOWN, REPORT_CSV,
	                                         REPORT_JSON};
	json_t *doc = doc_faults();

	for (unsigned i = 0; i < 4; i++) {
		FILE *full = fopen("/dev/full", "we");

		cr_assert(full);
		cr_assert_eq(report_put(doc, forms[i], full), -EIO, "form %u", i);
		fclose(full);
	}
	json_decref(doc);
}

/* ---- building ---- */

Test(bench_report, built)
{
	struct spread s = {.median = 1.234567, .q1 = 1, .q3 = 2, .count = 3}, none = {0};
	struct host host;
	json_t *doc, *row = json_pack("{s:s}", "name", "auto");

	host_read(&host);
	doc = report_new("faults", json_pack("{s:i}", "repeat", 3), "kernel-4k", &host);
	cr_assert(doc);
	cr_assert_eq(report_set_figure(row, "us_per_page", &s), 0);
	cr_assert_eq(report_set_figure(row, "pages_per_s", &none), 0);
	cr_assert_eq(report_set_ratio(row, "kernel-4k", &s), 0);
	cr_assert_eq(report_set_ratio(row, "uffd-4k", &none), 0);
	cr_assert_eq(report_add_row(doc, row), 0);
	cr_assert_eq(json_integer_value(json_object_get(doc, "schema")), REPORT_SCHEMA);
	cr_assert(json_is_object(json_object_get(doc, "host")));
	cr_assert_float_eq(report_figure(row, "us_per_page").median, 1.2346, 1e-12, "five digits");
	cr_assert_eq(report_figure(row, "us_per_page").q3, 2);
	cr_assert_eq(report_figure(row, "us_per_page").count, SPREAD_LEAST);
	cr_assert_eq(report_figure(row, "pages_per_s").count, 0);
	cr_assert_eq(report_figure(row, "no_such").count, 0);
	cr_assert_eq(report_ratio(row, "kernel-4k").q1, 1);
	cr_assert_eq(report_ratio(row, "uffd-4k").count, 0);
	cr_assert(report_is_baseline(doc, "uffd-4k"), "a row was to be compared with it");
	cr_assert(!report_is_baseline(doc, "auto"));
	json_decref(doc);
}

/* Of one or two repeats there is a figure, and no spread: not in JSON, CSV or a table. */
Test(bench_report, no_spread_of_two_repeats)
{
	struct spread two = {.median = 5, .q1 = 4, .q3 = 6, .count = 2};
	struct spread three = {.median = 5, .q1 = 4, .q3 = 6, .count = 3};
	json_t *doc = doc_of("{'schema':1,'command':'snapshot','parameters':{'repeat':2},"
	                     "'host':null,'warnings':[],'rows':[{'name':'save'},{'name':'a'}]}");
	json_t *row = doc_row(doc, 0);
	char *text;

	cr_assert_eq(report_set_figure(row, "us", &two), 0);
	cr_assert_eq(report_set_ratio(row, "a", &two), 0);
	cr_assert(json_is_null(json_object_get(row, "us_spread")));
	cr_assert(json_is_null(json_object_get(json_object_get(row, "ratio_spread"), "a")));
	cr_assert_eq(report_figure(row, "us").count, 1);
	cr_assert(!spread_known(&two) && spread_known(&three));
	text = doc_put(doc, REPORT_TEXT);
	cr_assert_null(strstr(text, "IQR"), "%s", text);
	free(text);
	cr_assert_eq(report_set_figure(row, "us", &three), 0);
	text = doc_put(doc, REPORT_TEXT);
	cr_assert(strstr(text, "IQR %") && strstr(text, "40.0"), "%s", text);
	free(text);
	json_decref(doc);
}

/* ---- noise ---- */

static const char *warning(const json_t *doc, size_t i)
{
	return json_string_value(json_array_get(json_object_get(doc, "warnings"), i));
}

/* The times of both rows vary by more than a tenth; the ratio, which counts, by 4 %. */
Test(bench_report, steady_ratio)
{
	json_t *doc = doc_faults();

	cr_assert_eq(report_judge(doc), 0);
	cr_assert(!report_is_noisy(doc), "%s", warning(doc, 0));
	cr_assert_null(warning(doc, 0));
	json_decref(doc);
}

Test(bench_report, noisy_ratio)
{
	struct spread s = {.median = 20, .q1 = 18, .q3 = 21, .count = 5};
	json_t *doc = doc_faults();

	cr_assert_eq(report_set_ratio(doc_row(doc, 0), "kernel-4k", &s), 0);
	cr_assert_eq(report_judge(doc), 0);
	cr_assert(report_is_noisy(doc));
	cr_assert_str_eq(warning(doc, 0),
	                 "host too noisy: auto: ratio to kernel-4k: half of the repeats lie "
	                 "between 18.0 and 21.0, 15 % of the median 20.0");
	cr_assert_null(warning(doc, 1));
	json_decref(doc);
}

/* Without ratios it is the times that count, and the summary's figures. */
Test(bench_report, noisy_figure_and_summary)
{
	json_t *doc = doc_of("{'schema':1,'command':'clone','parameters':{'repeat':5},"
	                     "'noisy':false,'warnings':[],'rows':["
	                     "{'name':'exit','us_p50':100,'us_p50_spread':[95,104]},"
	                     "{'name':'created','us_p50':100,'us_p50_spread':[90,104]}],"
	                     "'summary':{'clones_per_s':10,'clones_per_s_spread':[5,11]}}");

	cr_assert_eq(report_judge(doc), 0);
	cr_assert(report_is_noisy(doc));
	cr_assert(strstr(warning(doc, 0), "created: us_p50: "), "%s", warning(doc, 0));
	cr_assert(strstr(warning(doc, 1), "summary: clones_per_s: "), "%s", warning(doc, 1));
	cr_assert_null(warning(doc, 2));
	json_decref(doc);
}

Test(bench_report, too_few_repeats)
{
	json_t *doc = doc_faults();

	cr_assert_eq(
		json_object_set_new(json_object_get(doc, "parameters"), "repeat", json_integer(2)),
		0);
	cr_assert_eq(report_judge(doc), 0);
	cr_assert(!report_is_noisy(doc));
	cr_assert(strstr(warning(doc, 0), "fewer than 3 repeats"), "%s", warning(doc, 0));
	json_decref(doc);
}
