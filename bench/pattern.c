// SPDX-License-Identifier: MIT
/*
 * bench/pattern.c - makes orders, and reads and writes them as traces.
 *
 * Every choice is drawn from its own stream of the seed (which page, who is whose favourite, read
 * or write), so that asking for another access leaves the pages as they were.
 *
 * Does not: know of vCPUs. Flags say what is first in the order as a whole; with several vCPUs a
 * page that is touched twice may be touched first by either.
 */
#include "bench/pattern.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mm/types.h"
#include "vmm/atomic_file.h"

/* Streams of a seed. */
enum stream {
	STREAM_PAGES = 1,
	STREAM_FAVOURITES,
	STREAM_ACCESS,
};

/* What makes an order, while it is made. */
struct maker {
	const struct order_spec *spec;
	struct memwalk_order *order;
	uint64_t touches;
	struct pattern_error *err;
};

__attribute__((format(printf, 3, 4))) static int fail(struct pattern_error *err, int code,
                                                      const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
	return code;
}

/* ---- parsing ---- */

/* A whole number that ends the text. */
static int parse_count(const char *text, uint64_t most, uint64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end != '\0' || errno || *out > most)
		return -EINVAL;
	return 0;
}

static int parse_theta(const char *text, double *out)
{
	char *end;

	*out = strtod(text, &end);
	if (end == text || *end != '\0' || !(*out >= 0 && *out <= PATTERN_THETA_MAX))
		return -EINVAL;
	return 0;
}

/* What follows `name` and a colon; "" for the bare name; NULL when it is another word. */
static const char *value_of(const char *text, const char *name)
{
	size_t len = strlen(name);

	if (strncmp(text, name, len) != 0)
		return NULL;
	if (text[len] == '\0')
		return text + len;
	return text[len] == ':' && text[len + 1] != '\0' ? text + len + 1 : NULL;
}

int pattern_parse(const char *text, struct pattern *out)
{
	const char *value;

	*out = (struct pattern){.stride = 1, .theta = PATTERN_THETA};
	if (strcmp(text, "seq") == 0)
		return 0;
	out->kind = PATTERN_RANDOM;
	if (strcmp(text, "random") == 0)
		return 0;
	out->kind = PATTERN_ZIPF;
	value = value_of(text, "zipf");
	if (value)
		return *value ? parse_theta(value, &out->theta) : 0;
	out->kind = PATTERN_STRIDE;
	value = value_of(text, "stride");
	if (value)
		return parse_count(value, MEMWALK_INDEX, &out->stride) || out->stride == 0 ? -EINVAL
		                                                                           : 0;
	out->kind = PATTERN_TRACE;
	out->path = value_of(text, "trace");
	return out->path && *out->path ? 0 : -EINVAL;
}

int pattern_parse_access(const char *text, unsigned *write_percent)
{
	const char *value = value_of(text, "rw");
	uint64_t percent = 0;

	if (strcmp(text, "write") == 0)
		percent = 100;
	else if (strcmp(text, "read") != 0 && (!value || parse_count(value, 100, &percent)))
		return -EINVAL;
	*write_percent = (unsigned)percent;
	return 0;
}

bool pattern_once(const struct pattern *p)
{
	return p->kind == PATTERN_SEQ || p->kind == PATTERN_STRIDE || p->kind == PATTERN_RANDOM;
}

/* ---- random numbers ---- */

/* Steps of a Weyl sequence, mixed: every state is a good one, so any seed will do. */
struct rng {
	uint64_t state;
};

static uint64_t rng_next(struct rng *r)
{
	uint64_t x = r->state += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static struct rng rng_of(uint64_t seed, enum stream stream)
{
	struct rng r = {seed};

	r.state = rng_next(&r) + (uint64_t)stream;
	r.state = rng_next(&r);
	return r;
}

/* 0..n-1, each as likely; n > 0. */
static uint64_t rng_below(struct rng *r, uint64_t n)
{
	uint64_t least = -n % n; /* 2^64 mod n: numbers below it would come once too often */
	uint64_t x;

	do {
		x = rng_next(r);
	} while (x < least);
	return x % n;
}

static double rng_unit(struct rng *r)
{
	return (double)(rng_next(r) >> 11) * 0x1p-53;
}

/* ---- pages, of patterns that are made up ---- */

static int fill_stride(struct maker *m)
{
	uint64_t step = m->spec->pattern.stride, page = 0, column = 0;

	for (uint64_t i = 0; i < m->touches; i++) {
		m->order->entries[i] = (uint32_t)page;
		page += step;
		if (page >= m->spec->pages)
			page = ++column;
	}
	return 0;
}

/* The numbers below `pages`, shuffled; free() it. NULL: out of memory. */
static uint32_t *shuffled(uint64_t pages, struct rng r)
{
	uint32_t *v = malloc(pages * sizeof(*v));

	for (uint64_t i = 0; v && i < pages; i++) {
		uint64_t j = rng_below(&r, i + 1);

		v[i] = (uint32_t)i;
		v[i] = v[j];
		v[j] = (uint32_t)i;
	}
	return v;
}

static int fill_random(struct maker *m)
{
	uint32_t *pages = shuffled(m->spec->pages, rng_of(m->spec->seed, STREAM_PAGES));

	if (!pages)
		return fail(m->err, -ENOMEM, "no memory for the order");
	memcpy(m->order->entries, pages, m->touches * sizeof(*pages));
	free(pages);
	return 0;
}

/* sum[k]: of the weights of favourites 0..k. NULL: out of memory. */
static double *zipf_sums(uint64_t pages, double theta)
{
	double *sum = malloc(pages * sizeof(*sum));
	double total = 0;

	for (uint64_t k = 0; sum && k < pages; k++)
		sum[k] = total += pow((double)(k + 1), -theta);
	return sum;
}

/* The first favourite whose sum is above `at`. */
static uint64_t zipf_find(const double *sum, uint64_t pages, double at)
{
	uint64_t low = 0, high = pages - 1;

	while (low < high) {
		uint64_t mid = low + (high - low) / 2;

		if (sum[mid] > at)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

static void draw_zipf(struct maker *m, const double *sum, const uint32_t *favourite)
{
	struct rng r = rng_of(m->spec->seed, STREAM_PAGES);
	uint64_t pages = m->spec->pages;

	for (uint64_t i = 0; i < m->touches; i++) {
		double at = rng_unit(&r) * sum[pages - 1];

		m->order->entries[i] = favourite[zipf_find(sum, pages, at)];
	}
}

static int fill_zipf(struct maker *m)
{
	uint64_t pages = m->spec->pages;
	double *sum = zipf_sums(pages, m->spec->pattern.theta);
	uint32_t *favourite = shuffled(pages, rng_of(m->spec->seed, STREAM_FAVOURITES));
	int e = 0;

	if (sum && favourite)
		draw_zipf(m, sum, favourite);
	else
		e = fail(m->err, -ENOMEM, "no memory for the order");
	free(favourite);
	free(sum);
	return e;
}

static void draw_access(struct maker *m)
{
	struct rng r = rng_of(m->spec->seed, STREAM_ACCESS);

	for (uint64_t i = 0; i < m->touches; i++)
		if (rng_below(&r, 100) < m->spec->write_percent)
			m->order->entries[i] |= MEMWALK_WRITE;
}

/* ---- traces ---- */

static char *skip_blanks(char *at)
{
	return at + strspn(at, " \t\r\n");
}

/* One line. Return: 1 with the touch in *entry; 0 when it says nothing; -EINVAL, -ERANGE. */
static int parse_line(char *line, uint64_t pages, uint32_t *entry)
{
	unsigned long long page;
	char *at, how;

	line[strcspn(line, "#")] = '\0';
	line = skip_blanks(line);
	if (*line == '\0')
		return 0;
	if (*line < '0' || *line > '9')
		return -EINVAL;
	page = strtoull(line, &at, 10); /* what is too long is too large */
	line = at;
	at = skip_blanks(at);
	how = *at;
	if (at == line || (how != 'r' && how != 'w') || *skip_blanks(at + 1))
		return -EINVAL;
	if (page >= pages)
		return -ERANGE;
	*entry = (uint32_t)page | (how == 'w' ? MEMWALK_WRITE : 0);
	return 1;
}

static int bad_line(const struct maker *m, uint64_t number, int code)
{
	if (code == -ERANGE)
		return fail(m->err, -EINVAL,
		            "%s: line %" PRIu64 ": beyond the %" PRIu64 " pages walked; walk more "
		            "with --size",
		            m->spec->pattern.path, number, m->spec->pages);
	return fail(m->err, -EINVAL,
	            "%s: line %" PRIu64 ": not a touch; a line is a page's number and r or w",
	            m->spec->pattern.path, number);
}

static int add_entry(struct maker *m, uint32_t entry, uint64_t *room)
{
	struct memwalk_order *o = m->order;

	if (m->touches == *room) {
		*room *= 2;
		o = realloc(o, sizeof(*o) + *room * sizeof(o->entries[0]));
		if (!o)
			return fail(m->err, -ENOMEM, "no memory for the order");
		m->order = o;
	}
	o->entries[m->touches++] = entry;
	return 0;
}

static int read_lines(struct maker *m, FILE *from)
{
	uint64_t wanted = m->spec->touches ? m->spec->touches : UINT64_MAX;
	uint64_t room = 1024, number = 0;
	size_t size = 0;
	char *line = NULL;
	int e = 0;

	while (e == 0 && m->touches < wanted && getline(&line, &size, from) >= 0) {
		uint32_t entry;
		int n = parse_line(line, m->spec->pages, &entry);

		number++;
		if (n < 0)
			e = bad_line(m, number, n);
		else if (n > 0)
			e = add_entry(m, entry, &room);
	}
	if (e == 0 && ferror(from)) {
		e = errno ? -errno : -EIO;
		fail(m->err, e, "%s: %s", m->spec->pattern.path, strerror(-e));
	}
	free(line);
	return e;
}

static int fill_trace(struct maker *m)
{
	const struct order_spec *s = m->spec;
	FILE *from = fopen(s->pattern.path, "re");
	int e;

	if (!from) {
		e = -errno;
		return fail(m->err, e, "%s: %s; name a trace that can be read", s->pattern.path,
		            strerror(-e));
	}
	e = read_lines(m, from);
	fclose(from);
	if (e)
		return e;
	if (m->touches == 0)
		return fail(m->err, -EINVAL, "%s: holds no touch", s->pattern.path);
	if (m->touches < s->touches)
		return fail(m->err, -EINVAL,
		            "%s: holds %" PRIu64 " touches, not the %" PRIu64 " asked for",
		            s->pattern.path, m->touches, s->touches);
	return 0;
}

/* ---- orders ---- */

static int check(const struct order_spec *s, struct pattern_error *err)
{
	if (s->pages == 0 || s->pages > MEMWALK_INDEX)
		return fail(err, -EINVAL, "%" PRIu64 " pages: must be 1 to %" PRIu64, s->pages,
		            (uint64_t)MEMWALK_INDEX);
	if (pattern_once(&s->pattern) && s->touches > s->pages)
		return fail(err, -EINVAL,
		            "%" PRIu64 " touches: a pattern that touches no page twice has at most "
		            "%" PRIu64 " here, one for each page",
		            s->touches, s->pages);
	return 0;
}

/* First of its page, first of its block; what has been seen is kept in `page` and `block`. */
static void mark_first(struct maker *m, bool *page, bool *block)
{
	for (uint64_t i = 0; i < m->touches; i++) {
		uint32_t *entry = &m->order->entries[i];
		uint32_t n = *entry & MEMWALK_INDEX;

		if (!page[n])
			*entry |= MEMWALK_PAGE;
		if (!block[n / MM_BLOCK_PAGES])
			*entry |= MEMWALK_BLOCK;
		page[n] = block[n / MM_BLOCK_PAGES] = true;
	}
}

static int set_flags(struct maker *m)
{
	bool *page = calloc(m->spec->pages, sizeof(*page));
	bool *block = calloc(m->spec->pages / MM_BLOCK_PAGES + 1, sizeof(*block));
	int e = 0;

	if (page && block)
		mark_first(m, page, block);
	else
		e = fail(m->err, -ENOMEM, "no memory for the order");
	free(block);
	free(page);
	return e;
}

static int fill(struct maker *m)
{
	switch (m->spec->pattern.kind) {
	case PATTERN_SEQ:
	case PATTERN_STRIDE:
		return fill_stride(m);
	case PATTERN_RANDOM:
		return fill_random(m);
	case PATTERN_ZIPF:
		return fill_zipf(m);
	case PATTERN_TRACE:
		return fill_trace(m);
	}
	return -EINVAL;
}

int pattern_make(const struct order_spec *s, struct memwalk_order **out, size_t *size,
                 struct pattern_error *err)
{
	bool trace = s->pattern.kind == PATTERN_TRACE;
	struct maker m = {.spec = s, .err = err};
	uint64_t room;
	int e = check(s, err);

	if (e)
		return e;
	m.touches = trace ? 0 : s->touches ? s->touches : s->pages;
	room = trace ? 1024 : m.touches;
	m.order = calloc(1, sizeof(*m.order) + room * sizeof(m.order->entries[0]));
	if (!m.order)
		return fail(err, -ENOMEM, "no memory for an order of %" PRIu64 " touches", room);
	e = fill(&m);
	if (e == 0 && !trace)
		draw_access(&m);
	if (e == 0)
		e = set_flags(&m);
	if (e) {
		free(m.order);
		return e;
	}
	*size = sizeof(*m.order) + m.touches * sizeof(m.order->entries[0]);
	m.order->magic = MEMWALK_MAGIC;
	m.order->version = MEMWALK_VERSION;
	m.order->reserved = 0;
	m.order->touches = m.touches;
	*out = m.order;
	return 0;
}

static int write_lines(const struct memwalk_order *o, uint64_t pages, int fd)
{
	FILE *to = fdopen(dup(fd), "w");
	int failed;

	if (!to)
		return -errno;
	fprintf(to, "# pages %" PRIu64 "\n", pages);
	for (uint64_t i = 0; i < o->touches; i++)
		fprintf(to, "%u %c\n", o->entries[i] & MEMWALK_INDEX,
		        o->entries[i] & MEMWALK_WRITE ? 'w' : 'r');
	failed = ferror(to);
	if (fclose(to) || failed)
		return errno ? -errno : -EIO;
	return 0;
}

int pattern_record(const struct memwalk_order *o, uint64_t pages, const char *path,
                   struct pattern_error *err)
{
	const char *step = "opening it";
	struct atomic_file f;
	int e = atomic_file_open(&f, path, NULL, &step);

	if (e)
		return fail(err, e, "%s: %s: %s", path, step, strerror(-e));
	step = "writing it";
	e = write_lines(o, pages, f.fd);
	if (e == 0)
		e = atomic_file_commit(&f, &step);
	if (e)
		fail(err, e, "%s: %s: %s", path, step, strerror(-e));
	atomic_file_close(&f);
	return e;
}
