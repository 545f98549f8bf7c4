// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_bench_pattern.c - orders of touches: every page where it should be, reproducible,
 * distributed as promised, the same again from a trace.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/pattern.h"
#include "tests/unit/helpers.h"

TestSuite(bench_pattern, .timeout = 60);

static struct order_spec spec(const char *pattern, const char *access, uint64_t pages)
{
	struct order_spec s = {.pages = pages, .seed = 1};

	cr_assert_eq(pattern_parse(pattern, &s.pattern), 0, "%s", pattern);
	cr_assert_eq(pattern_parse_access(access, &s.write_percent), 0, "%s", access);
	return s;
}

static struct memwalk_order *make(const struct order_spec *s)
{
	struct memwalk_order *o;
	struct pattern_error err;
	size_t size;

	cr_assert_eq(pattern_make(s, &o, &size, &err), 0, "%s", err.text);
	cr_assert_eq(o->magic, MEMWALK_MAGIC);
	cr_assert_eq(o->version, MEMWALK_VERSION);
	cr_assert_eq(size, sizeof(*o) + o->touches * sizeof(o->entries[0]));
	return o;
}

static struct memwalk_order *make_named(const char *pattern, const char *access, uint64_t pages)
{
	struct order_spec s = spec(pattern, access, pages);

	return make(&s);
}

static uint32_t page_of(const struct memwalk_order *o, uint64_t i)
{
	return o->entries[i] & MEMWALK_INDEX;
}

static void expect_refused(const struct order_spec *s, int code, const char *words)
{
	struct memwalk_order *o;
	struct pattern_error err;
	size_t size;

	cr_assert_eq(pattern_make(s, &o, &size, &err), code);
	cr_assert_not_null(strstr(err.text, words), "wanted '%s', got: %s", words, err.text);
	cr_assert_null(strchr(err.text, '\n'));
}

/* ---- words ---- */

Test(bench_pattern, words)
{
	static const char *const wrong[] = {
		"",           "sequence",
		"stride",     "stride:",
		"stride:0",   "stride:-1",
		"stride:1x",  "zipf:",
		"zipf:-1",    "zipf:11",
		"zipf:nan",   "zipf:1x",
		"random:1",   "trace",
		"trace:",     "seq:",
		"zipfy",      "stride: 1",
		"zipf:inf",   "stride:+1",
		"stride:1e3", "stride:99999999999999999999",
	};
	struct pattern p;
	unsigned percent;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		cr_assert_eq(pattern_parse(wrong[i], &p), -EINVAL, "%s", wrong[i]);
	cr_assert_eq(pattern_parse("zipf", &p), 0);
	cr_assert_eq(p.theta, PATTERN_THETA);
	cr_assert_eq(pattern_parse("zipf:1.25", &p), 0);
	cr_assert_eq(p.theta, 1.25);
	cr_assert(!pattern_once(&p));
	cr_assert_eq(pattern_parse("stride:17", &p), 0);
	cr_assert_eq(p.stride, 17);
	cr_assert(pattern_once(&p));
	cr_assert_eq(pattern_parse("trace:a:b", &p), 0);
	cr_assert_str_eq(p.path, "a:b");
	cr_assert_eq(pattern_parse_access("rw:30", &percent), 0);
	cr_assert_eq(percent, 30);
	cr_assert_eq(pattern_parse_access("rw:101", &percent), -EINVAL);
	cr_assert_eq(pattern_parse_access("rw", &percent), -EINVAL);
	cr_assert_eq(pattern_parse_access("rw:", &percent), -EINVAL);
	cr_assert_eq(pattern_parse_access("writes", &percent), -EINVAL);
}

/* ---- pages ---- */

Test(bench_pattern, seq_and_stride_are_what_they_say)
{
	static const uint32_t strided[] = {0, 3, 6, 1, 4, 7, 2, 5};
	struct memwalk_order *o = make_named("seq", "write", 1000);

	cr_assert_eq(o->touches, 1000);
	for (uint64_t i = 0; i < o->touches; i++)
		cr_assert_eq(page_of(o, i), i);
	free(o);
	o = make_named("stride:3", "write", 8);
	cr_assert_eq(o->touches, 8);
	for (uint64_t i = 0; i < o->touches; i++)
		cr_assert_eq(page_of(o, i), strided[i]);
	free(o);
}

/* No page twice, and all of them when there are as many touches. */
static void expect_once(const struct memwalk_order *o, uint64_t pages)
{
	uint8_t *seen = calloc(pages, 1);

	for (uint64_t i = 0; i < o->touches; i++) {
		cr_assert_lt(page_of(o, i), pages);
		cr_assert_eq(seen[page_of(o, i)]++, 0, "page %u twice", page_of(o, i));
	}
	free(seen);
}

Test(bench_pattern, once_means_once)
{
	static const char *const patterns[] = {"seq", "stride:7", "stride:512", "stride:5000",
	                                       "random"};

	for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
		for (uint64_t pages = 1; pages < 6000; pages += 997) {
			struct memwalk_order *o = make_named(patterns[i], "write", pages);

			cr_assert_eq(o->touches, pages);
			expect_once(o, pages);
			free(o);
		}
	}
}

Test(bench_pattern, random_is_reproducible_and_mixed)
{
	struct order_spec s = spec("random", "rw:50", 10000);
	struct memwalk_order *a = make(&s), *b = make(&s), *c, *d;
	uint64_t same = 0, in_order = 0;

	cr_assert_eq(memcmp(a, b, sizeof(*a) + a->touches * 4), 0);
	s.seed = 2;
	c = make(&s);
	for (uint64_t i = 0; i < a->touches; i++) {
		same += page_of(a, i) == page_of(c, i);
		in_order += i > 0 && page_of(a, i) > page_of(a, i - 1);
	}
	/* Of two shuffles one page in all lies at the same place; half of the steps go up. */
	cr_assert_lt(same, 10);
	cr_assert_gt(in_order, 4700);
	cr_assert_lt(in_order, 5300);
	s.seed = 1;
	s.touches = 100;
	d = make(&s);
	cr_assert_eq(d->touches, 100);
	expect_once(d, s.pages);
	free(a);
	free(b);
	free(c);
	free(d);
}

Test(bench_pattern, access_has_its_share_and_leaves_pages_alone)
{
	struct memwalk_order *reads = make_named("random", "read", 20000);
	struct memwalk_order *mixed = make_named("random", "rw:30", 20000);
	uint64_t writes = 0;

	for (uint64_t i = 0; i < mixed->touches; i++) {
		cr_assert_eq(page_of(reads, i), page_of(mixed, i));
		cr_assert_eq(reads->entries[i] & MEMWALK_WRITE, 0);
		writes += (mixed->entries[i] & MEMWALK_WRITE) != 0;
	}
	/* 6000 are expected; the standard deviation is 65. */
	cr_assert_gt(writes, 5740);
	cr_assert_lt(writes, 6260);
	free(reads);
	free(mixed);
}

/* First of its page, first of its block: by the definition, in the slowest way. */
Test(bench_pattern, flags_name_what_is_first)
{
	struct order_spec s = spec("zipf:0.5", "rw:50", 1500);
	struct memwalk_order *o;

	s.touches = 4000;
	o = make(&s);
	for (uint64_t i = 0; i < o->touches; i++) {
		bool page = true, block = true;

		for (uint64_t j = 0; j < i; j++) {
			page &= page_of(o, j) != page_of(o, i);
			block &= page_of(o, j) / 512 != page_of(o, i) / 512;
		}
		cr_assert_eq((o->entries[i] & MEMWALK_PAGE) != 0, page, "touch %zu", (size_t)i);
		cr_assert_eq((o->entries[i] & MEMWALK_BLOCK) != 0, block, "touch %zu", (size_t)i);
	}
	free(o);
}

/* ---- zipf ---- */

#define ZIPF_PAGES 10u

/*
 * Chi-squared, with ZIPF_PAGES - 1 degrees of freedom, of what was drawn against the law. Who is
 * whose favourite is not told: with so many draws it shows in the counts.
 */
static double chi_squared(const char *pattern, uint64_t seed, uint64_t touches, double theta)
{
	struct order_spec s = spec(pattern, "read", ZIPF_PAGES);
	double counts[ZIPF_PAGES] = {0}, total = 0, sum = 0;
	struct memwalk_order *o;

	s.seed = seed;
	s.touches = touches;
	o = make(&s);
	for (uint64_t i = 0; i < touches; i++)
		counts[page_of(o, i)]++;
	free(o);
	for (unsigned k = 1; k < ZIPF_PAGES; k++) {
		for (unsigned j = k; j > 0 && counts[j] > counts[j - 1]; j--) {
			double larger = counts[j];

			counts[j] = counts[j - 1];
			counts[j - 1] = larger;
		}
	}
	for (unsigned k = 0; k < ZIPF_PAGES; k++)
		total += pow(k + 1, -theta);
	for (unsigned k = 0; k < ZIPF_PAGES; k++) {
		double expected = (double)touches * pow(k + 1, -theta) / total;

		sum += (counts[k] - expected) * (counts[k] - expected) / expected;
	}
	return sum;
}

Test(bench_pattern, zipf_follows_its_law)
{
	/* 1 of 1,000 true samples is beyond it. */
	static const double critical = 27.88;

	for (uint64_t seed = 1; seed <= 20; seed++) {
		cr_assert_lt(chi_squared("zipf", seed, 200000, 0.99), critical);
		cr_assert_lt(chi_squared("zipf:2", seed, 200000, 2), critical);
	}
	/* The test can tell laws apart. */
	cr_assert_gt(chi_squared("zipf:0.9", 1, 200000, 0.99), critical);
	cr_assert_gt(chi_squared("zipf:0", 1, 200000, 0.99), critical);
}

Test(bench_pattern, zipf_reaches_far_and_scatters)
{
	struct order_spec s = spec("zipf", "write", 4096);
	uint32_t *counts = calloc(s.pages, sizeof(*counts));
	uint32_t most = 0, favourite = 0, touched = 0;
	struct memwalk_order *o;

	s.touches = 100000;
	o = make(&s);
	for (uint64_t i = 0; i < o->touches; i++)
		counts[page_of(o, i)]++;
	for (uint32_t p = 0; p < s.pages; p++) {
		touched += counts[p] > 0;
		favourite = counts[p] > most ? p : favourite;
		most = counts[p] > most ? counts[p] : most;
	}
	/* 1 / sum of k^-0.99 over 4096 is 11.0 %; most pages are touched at least once. */
	cr_assert_gt(most, 10600);
	cr_assert_lt(most, 11500);
	cr_assert_gt(touched, 3000);
	cr_assert_neq(favourite, 0, "favourites are not scattered");
	free(counts);
	free(o);
}

/* ---- traces ---- */

/* A file of this test's with `text` in it; the name is the caller's to unlink. */
static void write_trace(char *path, const char *text)
{
	int fd;

	strcpy(path, "/tmp/cowslip-trace-XXXXXX");
	fd = mkstemp(path);
	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static struct order_spec trace_spec(const char *path, uint64_t pages)
{
	return (struct order_spec){.pattern = {.kind = PATTERN_TRACE, .path = path},
	                           .pages = pages};
}

Test(bench_pattern, trace_round_trip)
{
	struct order_spec s = spec("zipf:1.2", "rw:40", 3000), t;
	struct memwalk_order *o, *again;
	struct pattern_error err;
	char path[64];

	s.touches = 7000;
	o = make(&s);
	write_trace(path, "what was there before");
	cr_assert_eq(pattern_record(o, s.pages, path, &err), 0, "%s", err.text);
	t = trace_spec(path, s.pages);
	again = make(&t);
	cr_assert_eq(again->touches, 7000);
	cr_assert_eq(memcmp(o, again, sizeof(*o) + 7000 * sizeof(o->entries[0])), 0);
	free(again);
	t.touches = 10;
	again = make(&t);
	cr_assert_eq(again->touches, 10);
	cr_assert_eq(memcmp(o->entries, again->entries, 10 * sizeof(o->entries[0])), 0);
	free(again);
	t.touches = 7001;
	expect_refused(&t, -EINVAL, "holds 7000 touches");
	unlink(path);
	free(o);
}

Test(bench_pattern, trace_by_hand)
{
	static const uint32_t want[] = {
		5 | MEMWALK_WRITE | MEMWALK_PAGE | MEMWALK_BLOCK,
		5,
		600 | MEMWALK_PAGE | MEMWALK_BLOCK,
		0 | MEMWALK_WRITE | MEMWALK_PAGE,
	};
	struct memwalk_order *o;
	struct order_spec s;
	char path[64];

	write_trace(path, "# by hand\n\n5 w\n 5\tr # again\n600 r\n0 w");
	s = trace_spec(path, 601);
	o = make(&s);
	cr_assert_eq(o->touches, 4);
	cr_assert_eq(memcmp(o->entries, want, sizeof(want)), 0);
	free(o);
	unlink(path);
}

Test(bench_pattern, bad_traces_name_the_line)
{
	static const struct {
		const char *text, *words;
	} wrongs[] = {
		{"", "holds no touch"},
		{"# nothing\n", "holds no touch"},
		{"1 w\n2\n", "line 2: not a touch"},
		{"1 w\nx r\n", "line 2: not a touch"},
		{"1 w\n\n-1 r\n", "line 3: not a touch"},
		{"1 x\n", "line 1: not a touch"},
		{"1 w 2\n", "line 1: not a touch"},
		{"100 w\n", "line 1: beyond the 100 pages"},
		{"99 w\n18446744073709551615 r\n", "line 2: beyond"},
	};
	struct order_spec s = trace_spec("/nowhere/trace", 100);

	expect_refused(&s, -ENOENT, "/nowhere/trace: No such file");
	s = trace_spec("/tmp", 100);
	expect_refused(&s, -EISDIR, "/tmp: Is a directory");
	for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
		char path[64];

		write_trace(path, wrongs[i].text);
		s = trace_spec(path, 100);
		expect_refused(&s, -EINVAL, wrongs[i].words);
		unlink(path);
	}
}

Test(bench_pattern, sizes_that_cannot_be)
{
	struct order_spec s = spec("seq", "write", 100);

	s.touches = 101;
	expect_refused(&s, -EINVAL, "at most 100");
	s = spec("random", "write", 100);
	s.touches = 101;
	expect_refused(&s, -EINVAL, "at most 100");
	s = spec("seq", "write", 0);
	expect_refused(&s, -EINVAL, "0 pages");
	s = spec("seq", "write", (uint64_t)MEMWALK_INDEX + 1);
	expect_refused(&s, -EINVAL, "must be 1 to");
}

Test(bench_pattern, record_says_why_not)
{
	struct memwalk_order *o = make_named("seq", "write", 10);
	struct pattern_error err;

	cr_assert_lt(pattern_record(o, 10, "/nowhere/trace", &err), 0);
	cr_assert_not_null(strstr(err.text, "/nowhere/trace"), "%s", err.text);
	free(o);
}
