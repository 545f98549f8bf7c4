// SPDX-License-Identifier: MIT
/*
 * guest/parse.c - a function as a guest: its input is an arithmetic expression, its output the
 * value.
 *
 *     expression   term { ("+" | "-") term }
 *     term         factor { ("*" | "/" | "%") factor }
 *     factor       "-" factor | "(" expression ")" | decimal number
 *
 * Blanks may stand anywhere between these. Values are 64 bits, signed, and wrap around; division is
 * towards zero. The output is one line: the value, or
 *
 *     error at BYTE: what is wrong
 *
 * Rings READY before its first input, and NEXT with 0 after each: run by `cowslip clone --reset` it
 * is reset in between, run by an owner that goes on it takes one after the other.
 * Exits 0; 2 when there is more input than INPUT_MAX; 4 when it wakes from READY and is not what it
 * was there (LEAK).
 */
#include "guest/runtime.h"

#define INPUT_MAX 65536u
#define DEPTH_MAX 100u /* of parentheses and signs: a stack is 16 KiB */
#define DIGITS    20u

struct parser {
	const char *text;
	size_t at, size;
	unsigned depth;
	const char *wrong; /* NULL: nothing so far */
	size_t where;
};

/* Lies in RAM across the snapshot. */
static char input[INPUT_MAX + 1];
static uint64_t served;

static uint64_t expression(struct parser *p);

/* ---- parsing ---- */

/* The first thing that is wrong counts. */
static uint64_t fail(struct parser *p, size_t where, const char *wrong)
{
	if (!p->wrong) {
		p->wrong = wrong;
		p->where = where;
	}
	p->at = p->size;
	return 0;
}

/* The next byte that is no blank, '\0' at the end. */
static char peek(struct parser *p)
{
	while (p->at < p->size && p->text[p->at] == ' ')
		p->at++;
	return p->at < p->size ? p->text[p->at] : '\0';
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static uint64_t number(struct parser *p)
{
	size_t start = p->at;
	uint64_t v = 0;

	for (; p->at < p->size && is_digit(p->text[p->at]); p->at++)
		if (__builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(p->text[p->at] - '0'), &v) ||
		    v > INT64_MAX)
			return fail(p, start, "number too large");
	return v;
}

static uint64_t parenthesis(struct parser *p)
{
	size_t open = p->at++;
	uint64_t v = expression(p);

	if (peek(p) != ')')
		return fail(p, open, "parenthesis not closed");
	p->at++;
	return v;
}

static uint64_t factor(struct parser *p)
{
	char c = peek(p);
	uint64_t v;

	if (++p->depth > DEPTH_MAX)
		return fail(p, p->at, "too deep");
	if (is_digit(c)) {
		v = number(p);
	} else if (c == '(') {
		v = parenthesis(p);
	} else if (c == '-') {
		p->at++;
		v = 0 - factor(p);
	} else {
		v = fail(p, p->at, c ? "no value" : "ends too early");
	}
	p->depth--;
	return v;
}

/* The quotient wraps where it is too large. */
static uint64_t divide(struct parser *p, size_t where, char op, uint64_t a, uint64_t b)
{
	if (b == 0)
		return fail(p, where, "division by zero");
	if (b == UINT64_MAX)
		return op == '/' ? 0 - a : 0;
	return (uint64_t)(op == '/' ? (int64_t)a / (int64_t)b : (int64_t)a % (int64_t)b);
}

static uint64_t term(struct parser *p)
{
	uint64_t v = factor(p);

	for (char op = peek(p); op == '*' || op == '/' || op == '%'; op = peek(p)) {
		size_t where = p->at++;
		uint64_t right = factor(p);

		if (p->wrong)
			return 0;
		v = op == '*' ? v * right : divide(p, where, op, v, right);
	}
	return v;
}

static uint64_t expression(struct parser *p)
{
	uint64_t v = term(p);

	for (char op = peek(p); op == '+' || op == '-'; op = peek(p)) {
		uint64_t right;

		p->at++;
		right = term(p);
		v = op == '+' ? v + right : v - right;
	}
	return v;
}

/* ---- answering ---- */

static size_t put_text(char *to, const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		to[n++] = *text;
	return n;
}

static size_t put_number(char *to, uint64_t v, bool negative)
{
	char digits[DIGITS];
	size_t at = DIGITS, n = 0;

	if (negative) {
		to[n++] = '-';
		v = 0 - v;
	}
	do {
		digits[--at] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	memcpy(to + n, digits + at, DIGITS - at);
	return n + DIGITS - at;
}

static int answer(size_t size)
{
	struct parser p = {.text = input, .size = size};
	uint64_t v = expression(&p);
	char line[128];
	size_t n = 0;

	if (peek(&p) != '\0')
		fail(&p, p.at, "what is that");
	if (p.wrong) {
		n += put_text(line, "error at ");
		n += put_number(line + n, p.where, false);
		n += put_text(line + n, ": ");
		n += put_text(line + n, p.wrong);
	} else {
		n += put_number(line, v, (int64_t)v < 0);
	}
	line[n++] = '\n';
	return guest_output(line, n);
}

static bool untouched(void)
{
	for (size_t i = 0; i < sizeof(input); i += 64)
		if (input[i])
			return false;
	return served == 0;
}

int guest_main(void)
{
	const struct abi_request *self = guest_ready();

	if (!untouched()) {
		print("clone %lu LEAK: %lu inputs served\n", self->clone, served);
		return GUEST_LEAK;
	}
	do {
		int64_t size = guest_input(0, input, sizeof(input));

		if (size < 0 || size > INPUT_MAX)
			return GUEST_USAGE;
		served++;
		if (answer((size_t)size))
			return GUEST_MISMATCH;
	} while (guest_next(GUEST_OK, &self));
	return GUEST_OK;
}
