// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_reset_cli.c - `clone --reset` and `--inputs`: many inputs through one machine that
 * is reset in between, each answer checked against one worked out here another way.
 *
 * Expressions are made as trees: their text goes to the guest, their value is the tree's. Nothing
 * here parses. COWSLIP_RESETS: how many (3,000; `make soak-reset` does 100,000).
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/kvm/command.h"
#include "tests/kvm/lab.h"
#include "tests/kvm/pace.h"

#define ANSWER_MAX 80u
#define TEXT_MAX   4096u
#define SAMPLES    100u

TestSuite(reset_cli, .init = scratch_make, .fini = scratch_remove, .timeout = 1800);

/* ---- expressions and their values ---- */

struct made {
	char text[TEXT_MAX];
	size_t size;
	uint64_t seed;
	bool zero_division;
};

static void put(struct made *m, const char *text)
{
	size_t n = strlen(text);

	cr_assert_lt(m->size + n, TEXT_MAX);
	memcpy(m->text + m->size, text, n + 1);
	m->size += n;
}

static uint64_t number(struct made *m)
{
	/* Small ones and large ones as often. */
	uint64_t v = (lab_random(&m->seed) & INT64_MAX) >> lab_random(&m->seed) % 63;
	char text[32];

	snprintf(text, sizeof(text), "%s%" PRIu64, lab_random(&m->seed) % 5 ? "" : " ", v);
	put(m, text);
	return v;
}

static uint64_t apply(struct made *m, char op, uint64_t a, uint64_t b)
{
	__int128 x = (int64_t)a, y = (int64_t)b;

	switch (op) {
	case '+':
		return (uint64_t)(x + y);
	case '-':
		return (uint64_t)(x - y);
	case '*':
		return (uint64_t)(x * y);
	default:
		if (y == 0) {
			m->zero_division = true;
			return 0;
		}
		return (uint64_t)(op == '/' ? x / y : x % y);
	}
}

/* Everything in parentheses, so that no rule of precedence is needed here. */
static uint64_t tree(struct made *m, unsigned depth)
{
	unsigned kind = (unsigned)(lab_random(&m->seed) % 8);
	char op[4] = " ? ";
	uint64_t a, b;

	if (depth == 0 || kind == 0)
		return number(m);
	if (kind == 1) {
		put(m, "-(");
		a = tree(m, depth - 1);
		put(m, ")");
		return 0 - a;
	}
	put(m, "(");
	a = tree(m, depth - 1);
	op[1] = "+-*/%"[lab_random(&m->seed) % 5];
	put(m, op);
	b = tree(m, depth - 1);
	put(m, ")");
	return apply(m, op[1], a, b);
}

/* Expression `n` of a seed, and what its answer starts with. */
static void make_expression(uint64_t seed, uint64_t n, struct made *m, char *answer)
{
	uint64_t v;

	m->seed = (seed + n) * UINT64_C(0x9e3779b97f4a7c15) | 1;
	m->size = 0;
	m->zero_division = false;
	v = tree(m, (unsigned)(n % 6));
	/* The least number has no text of its own: it is the negative of one too large. */
	if (n % 50 == 49)
		put(m, " +");
	if (n % 50 == 49 || m->zero_division)
		snprintf(answer, ANSWER_MAX, "error at ");
	else
		snprintf(answer, ANSWER_MAX, "%" PRId64 "\n", (int64_t)v);
}

/* ---- runs ---- */

static const char *write_inputs(const char *name, uint64_t seed, uint64_t count, uint64_t step)
{
	const char *path = scratch(name);
	FILE *f = fopen(path, "we");
	static struct made m;
	char answer[ANSWER_MAX];

	cr_assert(f);
	for (uint64_t n = 1; n <= count; n += step) {
		make_expression(seed, n, &m, answer);
		fprintf(f, "%s\n", m.text);
	}
	cr_assert_eq(fclose(f), 0);
	return path;
}

static const char *parser_image(void)
{
	const char *path = scratch("parse.cow");
	struct said s = run(ARGS("run", "--mem", "16M", "--save", path, guest("parse")));

	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	return path;
}

/* Lines "[number] text", in any order, into a table by number. Every number once. */
static char **by_number(char *text, uint64_t count)
{
	char **line = calloc(count + 1, sizeof(*line));
	char *next;

	cr_assert(line);
	for (char *at = text; *at; at = next) {
		char *end = strchr(at, '\n'), *rest;
		uint64_t n = strtoull(at + 1, &rest, 10);

		cr_assert(end && *at == '[' && strncmp(rest, "] ", 2) == 0, "%.80s", at);
		cr_assert(n >= 1 && n <= count && !line[n], "number %" PRIu64, n);
		next = end + 1;
		line[n] = rest + 2;
	}
	return line;
}

static uint64_t resets(void)
{
	const char *given = getenv("COWSLIP_RESETS");

	return given ? strtoull(given, NULL, 10) : pace_rounds(3000, 300);
}

/* Each answer is right; and a sample of them is what a new machine says. */
Test(reset_cli, many_inputs)
{
	uint64_t count = resets(), step = count / SAMPLES + 1, seed = lab_seed();
	const char *image = parser_image();
	const char *inputs = write_inputs("inputs", seed, count, 1);
	const char *sample = write_inputs("sample", seed, count, step);
	char number[32], answer[ANSWER_MAX];
	static struct made m;
	char **line, **again;
	struct said s, t;
	json_t *stats;

	snprintf(number, sizeof(number), "%" PRIu64, count);
	s = run(ARGS("clone", "--reset", number, "--inputs", inputs, "--stats=json", image));
	cr_assert_eq(s.status, 0, "%s", s.err);
	line = by_number(s.out, count);
	for (uint64_t n = 1; n <= count; n++) {
		make_expression(seed, n, &m, answer);
		cr_assert(line[n], "no answer to %" PRIu64, n);
		cr_assert_eq(strncmp(line[n], answer, strlen(answer)), 0,
		             "%" PRIu64 ": %s\nis %s, got %.60s", n, m.text, answer, line[n]);
	}
	stats = last_json(s.err);
	cr_assert_eq(json_at(stats, "shells.made"), 1);
	cr_assert_eq(json_at(stats, "shells.reused"), (json_int_t)count - 1);
	json_decref(stats);

	t = run(ARGS("clone", "--no-reuse", "--inputs", sample, image));
	cr_assert_eq(t.status, 0, "%s", t.err);
	again = by_number(t.out, 1 + (count - 1) / step);
	for (uint64_t i = 1; i <= 1 + (count - 1) / step; i++) {
		const char *a = line[1 + (i - 1) * step];

		cr_assert(again[i]);
		cr_assert_eq(strncmp(a, again[i], strcspn(a, "\n") + 1), 0, "%.60s, %.60s", a,
		             again[i]);
	}
	free(line);
	free(again);
	said_free(&s);
	said_free(&t);
}

/* From a directory, from stdin; fewer than there are; answers into files. */
Test(reset_cli, sources_and_sinks)
{
	static const char *const files[][2] = {
		{"b", "20 + 2\n"}, {"a", "1\n+\n1"}, {"c", ""}, {".hidden", "5"}};
	const char *image = parser_image(), *dir = scratch("in"), *out = scratch("out");
	char path[600], text[64] = "";
	struct said s;
	FILE *f;

	cr_assert_eq(mkdir(dir, 0700), 0);
	for (unsigned i = 0; i < 4; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, files[i][0]);
		f = fopen(path, "we");
		cr_assert(f && fputs(files[i][1], f) >= 0 && fclose(f) == 0);
	}
	/* A newline is a byte like any other, and no blank. */
	s = run(ARGS("clone", "--reset", "3", "--inputs", dir, image));
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_str_eq(s.out, "[1] error at 1: what is that\n"
	                        "[2] error at 6: what is that\n"
	                        "[3] error at 0: ends too early\n");
	said_free(&s);

	f = fopen(scratch("lines"), "we");
	cr_assert(f && fputs("1+1\n\n2*3", f) >= 0 && fclose(f) == 0);
	s = run(ARGS("clone", "--inputs", scratch("lines"), "--output", out, image));
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(s.out_size, 0);
	said_free(&s);
	snprintf(path, sizeof(path), "%s/clone-3.out", out);
	f = fopen(path, "re");
	cr_assert(f && fgets(text, sizeof(text), f));
	fclose(f);
	cr_assert_str_eq(text, "6\n");
	s = run(ARGS("clone", "-n", "1", "--inputs", scratch("lines"), image));
	cr_assert_str_eq(s.out, "2\n");
	said_free(&s);
}

/* A guest that does not ask for input is reset like any other; a crash costs a new machine. */
Test(reset_cli, without_inputs)
{
	const char *image = scratch("counter.cow");
	struct said s = run(
		ARGS("run", "--mem", "16M", "--save", image, guest("counter"), "--", "table=64K"));
	json_t *stats;

	cr_assert_eq(s.status, 0, "%s", s.err);
	said_free(&s);
	s = run(ARGS("clone", "--reset", "50", "-j", "2", "--stats=json", image));
	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(lines(s.out), 50);
	cr_assert_eq(lines_with(s.out, "[50] nonce "), 1);
	stats = last_json(s.err);
	cr_assert_eq(json_at(stats, "shells.made") + json_at(stats, "shells.reused"), 50);
	cr_assert_leq(json_at(stats, "shells.made"), 2);
	json_decref(stats);
	said_free(&s);
}

/* A plain run of such a guest has no input, and ends. */
Test(reset_cli, plain_run)
{
	struct said s = run(ARGS("run", "--mem", "16M", guest("parse")));

	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(s.out_size, 0);
	said_free(&s);
}

/* Every row is measured as often as asked, of as many pages; the line is a line. */
Test(reset_cli, bench)
{
	static const unsigned pages[] = {16, 16, 16, 16, 4, 8, 32};
	struct said s = run(ARGS("bench", "reset", "--size", "8M", "--dirty", "16", "-n", "20",
	                         "--repeat", "2", "--dir", scratch(""), "--json"));
	json_t *doc, *rows;

	cr_assert_eq(s.status, 0, "%s", s.err);
	doc = json_loads(s.out, 0, NULL);
	cr_assert(doc, "%s", s.out);
	rows = json_object_get(doc, "rows");
	cr_assert_eq(json_array_size(rows), 7);
	for (size_t i = 0; i < 7; i++) {
		json_t *row = json_array_get(rows, i);

		cr_assert_eq(json_at(row, "dirty_pages"), pages[i], "row %zu", i);
		cr_assert_eq(json_at(row, "count"), 40);
		cr_assert_gt(json_number_value(json_object_get(row, "us_p50")), 0);
	}
	cr_assert_gt(
		json_number_value(json_object_get(json_object_get(doc, "summary"), "us_per_page")),
		0);
	json_decref(doc);
	said_free(&s);
}

Test(reset_cli, wrong)
{
	const char *image = parser_image(), *empty = scratch("empty"), *two = scratch("two");
	FILE *f = fopen(empty, "we");

	cr_assert(f && fclose(f) == 0);
	f = fopen(two, "we");
	cr_assert(f && fputs("1\n2\n", f) >= 0 && fclose(f) == 0);
	refused(ARGS("clone", "--inputs", scratch("nowhere"), image), "No such file");
	refused(ARGS("clone", "--inputs", empty, image), "holds no input");
	refused(ARGS("clone", "--inputs", "", image), "empty");
	refused(ARGS("clone", "-n", "3", "--inputs", two, image), "2 inputs for 3 clones");
	refused(ARGS("clone", "--reset", "3", "--inputs", two, image), "2 inputs for 3 clones");
	refused(ARGS("clone", "--reset", "0", image), "--reset 0");
	refused(ARGS("clone", "--reset", "3", "-n", "3", image), "leave out -n");
	refused(ARGS("clone", "--reset", "3", "--hold", image), "leave out --hold");
	refused(ARGS("clone", "--reset", "3", "--no-reuse", image), "leave out --no-reuse");
	refused(ARGS("bench", "reset", "--size", "5000"), "4 KiB");
	refused(ARGS("bench", "reset", "--size", "1T"), "ask for less");
	refused(ARGS("bench", "reset", "--dir", scratch(""), "--size", "1M", "--dirty", "9999"),
	        "twice as many");
}
