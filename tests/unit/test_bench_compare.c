// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_bench_compare.c - an older result against a new one.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/compare.h"
#include "tests/unit/bench_doc.h"

/* compare_load() of a file with this in it. */
static int load(const char *text, json_t **out, struct vm_error *err)
{
	char path[] = "/tmp/cowslip-compare-XXXXXX";
	int fd = mkstemp(path), r;

	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	r = compare_load(path, out, err);
	unlink(path);
	cr_assert(r == 0 || strncmp(err->text, path, strlen(path)) == 0, "names the file: %s",
	          err->text);
	return r;
}

static void expect_refused(const char *text, int code, const char *words)
{
	struct vm_error err = {""};
	json_t *doc = NULL;

	cr_assert_eq(load(text, &doc, &err), code, "%s", text);
	cr_assert_null(doc);
	cr_assert(strstr(err.text, words), "%s", err.text);
	cr_assert_null(strchr(err.text, '\n'));
}

Test(bench_compare, broken_files)
{
	struct vm_error err;
	json_t *doc;

	expect_refused("", -EBADMSG, "not JSON");
	expect_refused("{\"schema\":1,", -EBADMSG, "not JSON");
	expect_refused("[1,2]", -EBADMSG, "not a result of cowslip bench");
	expect_refused("{\"a\":1}", -EBADMSG, "not a result of cowslip bench");
	expect_refused("{\"schema\":\"1\"}", -EBADMSG, "not a result of cowslip bench");
	expect_refused("{\"schema\":1,\"command\":\"faults\",\"parameters\":{}}", -EBADMSG,
	               "not a whole result");
	expect_refused("{\"schema\":1,\"command\":\"faults\",\"parameters\":{},\"rows\":[{}]}",
	               -EBADMSG, "not a whole result");
	expect_refused("{\"schema\":2}", -ENOTSUP, "schema 2");
	cr_assert_eq(compare_load("/nonexistent/old.json", &doc, &err), -ENOENT);
	cr_assert(strstr(err.text, "/nonexistent/old.json: No such file"), "%s", err.text);
}

Test(bench_compare, what_was_put_is_loaded)
{
	json_t *doc = doc_faults(), *again;
	char *text = doc_put(doc, REPORT_JSON);
	struct vm_error err;

	cr_assert_eq(load(text, &again, &err), 0);
	cr_assert(json_equal(doc, again));
	cr_assert_eq(compare_fits(again, doc, &err), 0);
	free(text);
	json_decref(doc);
	json_decref(again);
}

/* ---- fitting ---- */

static void set_parameter(json_t *doc, const char *key, json_t *value)
{
	cr_assert_eq(json_object_set_new(json_object_get(doc, "parameters"), key, value), 0);
}

Test(bench_compare, parameters)
{
	json_t *old = doc_faults(), *now = doc_faults();
	struct vm_error err;

	set_parameter(now, "repeat", json_integer(50));
	set_parameter(now, "vcpus", json_real(1.0));
	set_parameter(now, "unset", json_null());
	cr_assert_eq(compare_fits(old, now, &err), 0, "these are the same");
	set_parameter(now, "size", json_integer(4096));
	cr_assert_eq(compare_fits(old, now, &err), -EINVAL);
	cr_assert(strstr(err.text, "size was 67108864, now is 4096"), "%s", err.text);
	set_parameter(now, "size", json_integer(67108864));
	set_parameter(now, "extra", json_string("x"));
	cr_assert_eq(compare_fits(old, now, &err), -EINVAL);
	cr_assert(strstr(err.text, "extra was nothing, now is \"x\""), "%s", err.text);
	cr_assert_eq(compare_fits(now, old, &err), -EINVAL, "whichever has it");
	json_decref(old);
	json_decref(now);
}

Test(bench_compare, other_command)
{
	json_t *old = doc_of("{'command':'clone','parameters':{}}"), *now = doc_faults();
	struct vm_error err;

	cr_assert_eq(compare_fits(old, now, &err), -EINVAL);
	cr_assert(strstr(err.text, "bench clone and bench faults"), "%s", err.text);
	json_decref(old);
	json_decref(now);
}

/* ---- comparing ---- */

static void expect_compared(json_t *old, json_t *now, int changes, const char *expected)
{
	char *text = NULL;
	size_t size;
	FILE *to = open_memstream(&text, &size);
	int r;

	cr_assert(to);
	r = compare_put(old, now, to);
	fclose(to);
	expect_text(text, expected);
	cr_assert_eq(r, changes);
	free(text);
	json_decref(old);
	json_decref(now);
}

static void set_ratio(json_t *doc, double q1, double median, double q3)
{
	struct spread s = {.median = median, .q1 = q1, .q3 = q3, .count = 5};

	cr_assert_eq(report_set_ratio(doc_row(doc, 0), "kernel-4k", &s), 0);
}

/* Times alone: between 95 and 104, or between 195 and 204, beside a baseline that has doubled. */
static json_t *doc_times(bool slower)
{
	char text[512];
	int f = slower ? 100 : 0;

	snprintf(text, sizeof(text),
	         "{'command':'clone','baseline':'b','parameters':{},'host':{'cpu':'A'},'rows':["
	         "{'name':'exit','us_p50':%d,'us_p50_spread':[%d,%d]},"
	         "{'name':'b','us_p50':%d,'us_p50_spread':[%d,%d]}]}",
	         100 + f, 95 + f, 104 + f, 100 + f, 95 + f, 104 + f);
	return doc_of(text);
}

Test(bench_compare, the_same)
{
	expect_compared(doc_faults(), doc_faults(), 0, "nothing changed beyond noise\n");
}

/* It was 27.5, between 27.0 and 28.1. */
Test(bench_compare, faster_beyond_noise)
{
	json_t *now = doc_faults();

	set_ratio(now, 32, 33, 34);
	expect_compared(doc_faults(), now, 1,
	                "auto: ratio to kernel-4k: 27.5 -> 33.0 (+20 %): better\n"
	                "1 figure changed beyond noise\n");
}

Test(bench_compare, slower_within_noise)
{
	json_t *now = doc_faults();

	set_ratio(now, 22, 24.75, 27.2);
	expect_compared(doc_faults(), now, 0, "nothing changed beyond noise\n");
}

/* Steady, and slower, but by 4 %. */
Test(bench_compare, too_little_to_matter)
{
	json_t *now = doc_faults();

	set_ratio(now, 26.3, 26.4, 26.5);
	expect_compared(doc_faults(), now, 0, "nothing changed beyond noise\n");
}

/* Of a time less is better. */
Test(bench_compare, times)
{
	expect_compared(doc_times(false), doc_times(true), 1,
	                "exit: us_p50: 100 -> 200 (+100 %): worse\n"
	                "1 figure changed beyond noise\n");
	expect_compared(doc_times(true), doc_times(false), 1,
	                "exit: us_p50: 200 -> 100 (-50 %): better\n"
	                "1 figure changed beyond noise\n");
}

/* Where there is a ratio, the time may have doubled: so may the host's own. */
Test(bench_compare, times_beside_ratios)
{
	struct spread s = {.median = 1.8, .q1 = 1.79, .q3 = 1.81, .count = 5};
	json_t *now = doc_faults();

	cr_assert_eq(report_set_figure(doc_row(now, 0), "us_per_page", &s), 0);
	cr_assert_eq(report_set_figure(doc_row(now, 1), "us_per_page", &s), 0);
	expect_compared(doc_faults(), now, 0, "nothing changed beyond noise\n");
}

Test(bench_compare, another_host)
{
	json_t *now = doc_times(true), *faults = doc_faults();

	json_object_set_new(json_object_get(now, "host"), "cpu", json_string("B"));
	expect_compared(doc_times(false), now, 0,
	                "another host: only ratios are compared, not times\n"
	                "nothing changed beyond noise\n");
	set_ratio(faults, 32, 33, 34);
	json_object_set_new(json_object_get(faults, "host"), "cpu", json_string("B"));
	expect_compared(doc_faults(), faults, 1,
	                "another host: only ratios are compared, not times\n"
	                "auto: ratio to kernel-4k: 27.5 -> 33.0 (+20 %): better\n"
	                "1 figure changed beyond noise\n");
}

Test(bench_compare, missing_rows)
{
	json_t *old = doc_faults(), *now = doc_faults();

	json_object_set_new(doc_row(old, 1), "name", json_string("gone"));
	expect_compared(old, now, 0,
	                "kernel-4k: only in the new result\n"
	                "gone: only in the old result\n"
	                "nothing changed beyond noise\n");
}

/* Twice as slow or not: of two repeats nobody knows. Older results have spreads even so. */
Test(bench_compare, too_few_repeats)
{
	json_t *old = doc_times(false), *now = doc_times(true);

	json_object_set_new(doc_row(now, 0), "us_p50_spread", json_null());
	expect_compared(old, now, 0,
	                "1 figure cannot be judged: that takes at least 3 repeats of both\n");
	old = doc_times(false);
	set_parameter(old, "repeat", json_integer(2));
	expect_compared(old, doc_times(true), 0,
	                "1 figure cannot be judged: that takes at least 3 repeats of both\n");
}

/* Of r2 and of ratios more is better. */
Test(bench_compare, more_is_better)
{
	static const char text[] = "{'command':'reset','parameters':{},'rows':[],'summary':"
				   "{'r2':%s,'r2_spread':[%s,%s]}}";
	char old[256], now[256];

	snprintf(old, sizeof(old), text, "0.5", "0.5", "0.51");
	snprintf(now, sizeof(now), text, "0.99", "0.98", "0.99");
	expect_compared(doc_of(old), doc_of(now), 1,
	                "summary: r2: 0.500 -> 0.990 (+98 %): better\n"
	                "1 figure changed beyond noise\n");
}

Test(bench_compare, noisy)
{
	json_t *now = doc_faults();

	json_object_set_new(now, "noisy", json_true());
	expect_compared(doc_faults(), now, 0,
	                "nothing changed beyond noise; the host was too noisy for small changes "
	                "to show\n");
}

Test(bench_compare, summary)
{
	static const char text[] = "{'command':'clone','parameters':{},'rows':[],'summary':"
				   "{'clones_per_s':%d,'clones_per_s_spread':[%d,%d]}}";
	char old[256], now[256];

	snprintf(old, sizeof(old), text, 100, 98, 102);
	snprintf(now, sizeof(now), text, 50, 48, 52);
	expect_compared(doc_of(old), doc_of(now), 1,
	                "summary: clones_per_s: 100 -> 50.0 (-50 %): worse\n"
	                "1 figure changed beyond noise\n");
}

Test(bench_compare, nowhere_to_write)
{
	json_t *doc = doc_faults();
	FILE *full = fopen("/dev/full", "we");

	cr_assert(full);
	cr_assert_eq(compare_put(doc, doc, full), -EIO);
	fclose(full);
	json_decref(doc);
}
