// SPDX-License-Identifier: MIT
/*
 * guest/runtime.c - the guest runtime, the same on every ISA.
 *
 * The console is one buffer under a lock, and every vCPU has its own request, so only printing ever
 * waits for another vCPU. A fork or snapshot taken by one vCPU while another holds the lock is
 * harmless: both go on in the clone.
 *
 * Not done: allocation (a program carves guest_heap() up itself), floating point in print().
 */
#include "guest/runtime.h"

#include <stdarg.h>

#include "guest/isa.h"

#define CONSOLE_SIZE 8192u

/* start.S writes `bytes` out before it reports a crash: the layout is known there. */
struct console {
	uint32_t locked;
	uint32_t reserved;
	uint64_t used;
	char bytes[CONSOLE_SIZE];
};
_Static_assert(offsetof(struct console, used) == 8, "start.S: CONSOLE_USED");
_Static_assert(offsetof(struct console, bytes) == 16, "start.S: CONSOLE_BYTES");

__attribute__((section(".bss.hot"))) struct console guest_console;

void guest_entry(const struct abi_boot *boot, unsigned index);

/* The entry lets no other vCPU get here in a program without it. */
#pragma weak guest_cpu

/* ---- requests ---- */

static struct abi_request *ring(enum abi_op op, uint64_t value, const void *buf, uint64_t size)
{
	struct abi_request *r = &isa_cpu()->request;

	r->op = op;
	r->result = -1;
	r->value = value;
	r->buf = (uintptr_t)buf;
	r->size = size;
	isa_ring(guest_boot->doorbell, r);
	return r;
}

void guest_exit(int code)
{
	print_flush();
	for (;;)
		ring(ABI_EXIT, (uint64_t)code & 0xff, NULL, 0);
}

const struct abi_request *guest_ready(void)
{
	print_flush();
	return ring(ABI_READY, 0, NULL, 0);
}

const struct abi_request *guest_identity(void)
{
	return ring(ABI_IDENTITY, 0, NULL, 0);
}

int guest_fork(const struct abi_request **out)
{
	struct abi_request *r;

	print_flush();
	r = ring(ABI_FORK, 0, NULL, 0);
	*out = r;
	return r->result;
}

int64_t guest_input(uint64_t offset, void *buf, uint64_t size)
{
	uint64_t done = 0;

	while (done < size) {
		int32_t n = ring(ABI_INPUT, offset + done, (char *)buf + done, size - done)->result;

		if (n < 0)
			return n;
		if (n == 0)
			break;
		done += (uint64_t)n;
	}
	return (int64_t)done;
}

bool guest_next(int code, const struct abi_request **out)
{
	struct abi_request *r;

	print_flush();
	r = ring(ABI_NEXT, (uint64_t)code & 0xff, NULL, 0);
	*out = r;
	return r->result == 1;
}

int guest_output(const void *buf, uint64_t size)
{
	return ring(ABI_OUTPUT, 0, buf, size)->result;
}

int guest_discard(void *start, uint64_t size)
{
	const int busy = -16; /* -EBUSY */
	int r;

	do
		r = ring(ABI_DISCARD, 0, start, size)->result;
	while (r == busy);
	return r;
}

/* ---- boot ---- */

void guest_entry(const struct abi_boot *boot, unsigned index)
{
	if (index != 0) {
		guest_cpu(index);
		for (;;)
			isa_relax();
	}
	/* To a VMM that speaks another language a crash report is all that can be said. */
	if (boot->magic != ABI_BOOT_MAGIC || boot->version != ABI_VERSION)
		isa_fault(ISA_FAULT_ILLEGAL);
	guest_exit(guest_main());
}

unsigned guest_cpus(void)
{
	unsigned most = isa_max_cpus();

	return guest_boot->cpus < most ? guest_boot->cpus : most;
}

unsigned guest_cpu_index(void)
{
	return isa_cpu()->index;
}

void *guest_heap(uint64_t align, uint64_t *size)
{
	uint64_t start = (isa_image_end(guest_cpus()) + align - 1) & ~(align - 1);
	uint64_t end = guest_boot->ram_top & ~(GUEST_PAGE - 1);

	*size = end > start ? end - start : 0;
	return (void *)(uintptr_t)start;
}

/* ---- console ---- */

static void console_lock(void)
{
	while (__atomic_exchange_n(&guest_console.locked, 1, __ATOMIC_ACQUIRE))
		isa_relax();
}

static void console_unlock(void)
{
	__atomic_store_n(&guest_console.locked, 0, __ATOMIC_RELEASE);
}

/* Lock held. Nobody is there to hear of a failed write, so it is not looked at. */
static void console_flush(void)
{
	if (guest_console.used == 0)
		return;
	ring(ABI_WRITE, 0, guest_console.bytes, guest_console.used);
	guest_console.used = 0;
}

void print_flush(void)
{
	console_lock();
	console_flush();
	console_unlock();
}

static void put(char c)
{
	if (guest_console.used == CONSOLE_SIZE)
		console_flush();
	guest_console.bytes[guest_console.used++] = c;
}

/* How one conversion is laid out. */
struct field {
	bool left;
	bool zero;
	unsigned width;
	unsigned longs; /* l's, z counts as one */
};

static void put_field(const struct field *f, bool negative, const char *text, size_t len)
{
	size_t total = len + negative;
	size_t fill = f->width > total ? f->width - total : 0;

	if (!f->left && !f->zero)
		for (; fill; fill--)
			put(' ');
	if (negative)
		put('-');
	if (!f->left)
		for (; fill; fill--)
			put('0');
	while (len--)
		put(*text++);
	for (; fill; fill--)
		put(' ');
}

static void put_number(const struct field *f, uint64_t v, bool negative, unsigned base)
{
	char digits[20];
	size_t at = sizeof(digits);

	do {
		digits[--at] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	put_field(f, negative, digits + at, sizeof(digits) - at);
}

/* va_list is passed by address: it may be an array type, and the caller goes on with it. */
struct varargs {
	va_list ap;
};

static uint64_t next_unsigned(const struct field *f, struct varargs *v)
{
	return f->longs ? va_arg(v->ap, unsigned long) : va_arg(v->ap, unsigned);
}

static void put_signed(const struct field *f, struct varargs *v)
{
	int64_t n = f->longs ? va_arg(v->ap, long) : va_arg(v->ap, int);

	put_number(f, n < 0 ? -(uint64_t)n : (uint64_t)n, n < 0, 10);
}

static void put_string(struct field *f, const char *s)
{
	f->zero = false;
	if (!s)
		s = "(null)";
	put_field(f, false, s, strlen(s));
}

static void put_conversion(struct field *f, char conversion, struct varargs *v)
{
	char c;

	switch (conversion) {
	case 'd':
		put_signed(f, v);
		break;
	case 'u':
		put_number(f, next_unsigned(f, v), false, 10);
		break;
	case 'x':
		put_number(f, next_unsigned(f, v), false, 16);
		break;
	case 's':
		put_string(f, va_arg(v->ap, const char *));
		break;
	case 'c':
		c = (char)va_arg(v->ap, int);
		f->zero = false;
		put_field(f, false, &c, 1);
		break;
	default:
		put(conversion);
		break;
	}
}

/* Read flags, width and length at `p`. Return: where the conversion letter is. */
static const char *parse_field(const char *p, struct field *f)
{
	*f = (struct field){0};
	for (;; p++) {
		if (*p == '-')
			f->left = true;
		else if (*p == '0')
			f->zero = true;
		else
			break;
	}
	for (; *p >= '0' && *p <= '9'; p++)
		f->width = f->width * 10 + (unsigned)(*p - '0');
	for (; *p == 'l' || *p == 'z'; p++)
		f->longs++;
	return p;
}

void print(const char *format, ...)
{
	struct varargs v;
	struct field f;

	va_start(v.ap, format);
	console_lock();
	for (const char *p = format; *p; p++) {
		if (*p != '%') {
			put(*p);
			continue;
		}
		p = parse_field(p + 1, &f);
		if (!*p)
			break;
		put_conversion(&f, *p, &v);
	}
	console_unlock();
	va_end(v.ap);
}

/* ---- arguments ---- */

static bool word_ends(char c)
{
	return c == '\0' || c == ' ';
}

/* The first word at or after `p`, or NULL. */
static const char *word_at(const char *p)
{
	while (*p == ' ')
		p++;
	return *p ? p : NULL;
}

static const char *word_next(const char *word)
{
	while (!word_ends(*word))
		word++;
	return word_at(word);
}

static size_t word_len(const char *word)
{
	size_t n = 0;

	while (!word_ends(word[n]))
		n++;
	return n;
}

/* Where the word goes on after `prefix`, or NULL when it does not start with it. */
static const char *word_after(const char *word, const char *prefix)
{
	for (; *prefix; prefix++, word++)
		if (*word != *prefix)
			return NULL;
	return word;
}

bool word_is(const char *p, const char *word)
{
	const char *rest = p ? word_after(p, word) : NULL;

	return rest && word_ends(*rest);
}

const char *arg_find(const char *key)
{
	for (const char *w = word_at(guest_boot->args); w; w = word_next(w)) {
		const char *value = word_after(w, key);

		if (value)
			return value;
	}
	return NULL;
}

static bool is_plain(const char *word)
{
	for (; !word_ends(*word); word++)
		if (*word == '=')
			return false;
	return true;
}

const char *arg_word(unsigned n)
{
	for (const char *w = word_at(guest_boot->args); w; w = word_next(w))
		if (is_plain(w) && n-- == 0)
			return w;
	return NULL;
}

static unsigned unit_shift(char c)
{
	switch (c) {
	case 'K':
	case 'k':
		return 10;
	case 'M':
	case 'm':
		return 20;
	case 'G':
	case 'g':
		return 30;
	default:
		return 0;
	}
}

int parse_size(const char *p, uint64_t *out)
{
	uint64_t v = 0;
	unsigned shift;

	if (!p || *p < '0' || *p > '9')
		return -22;
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return -22;
	shift = unit_shift(*p);
	if (shift)
		p++;
	if (!word_ends(*p) || v > UINT64_MAX >> shift)
		return -22;
	*out = v << shift;
	return 0;
}

bool arg_size(const char *key, uint64_t otherwise, uint64_t *out)
{
	const char *value = arg_find(key);

	*out = otherwise;
	if (!value || parse_size(value, out) == 0)
		return true;
	print("bad argument: %s wants a number, with K, M or G if need be\n", key);
	return false;
}

static bool arg_allowed(const char *word, const char *pattern)
{
	uint64_t number;

	if (word_is(pattern, "#"))
		return parse_size(word, &number) == 0;
	if (pattern[strlen(pattern) - 1] == '=')
		return word_after(word, pattern) != NULL;
	return word_is(word, pattern);
}

bool args_allowed(const char *const *allowed)
{
	for (const char *w = word_at(guest_boot->args); w; w = word_next(w)) {
		const char *const *a = allowed;

		while (*a && !arg_allowed(w, *a))
			a++;
		if (*a)
			continue;
		print("unknown argument: ");
		for (size_t i = 0; i < word_len(w); i++)
			print("%c", w[i]);
		print("\n");
		return false;
	}
	return true;
}

/* ---- small tools ---- */

void barrier_wait(struct barrier *b, unsigned cpus)
{
	uint32_t phase = __atomic_load_n(&b->phase, __ATOMIC_ACQUIRE);

	if (__atomic_add_fetch(&b->waiting, 1, __ATOMIC_ACQ_REL) == cpus) {
		__atomic_store_n(&b->waiting, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&b->phase, phase + 1, __ATOMIC_RELEASE);
		return;
	}
	while (__atomic_load_n(&b->phase, __ATOMIC_ACQUIRE) == phase)
		isa_relax();
}

void *memmove(void *to, const void *from, size_t size)
{
	unsigned char *d = to;
	const unsigned char *s = from;

	if ((uintptr_t)to <= (uintptr_t)from || (uintptr_t)from + size <= (uintptr_t)to)
		return memcpy(to, from, size);
	while (size--)
		d[size] = s[size];
	return to;
}

int memcmp(const void *a, const void *b, size_t size)
{
	const unsigned char *x = a, *y = b;

	for (; size; size--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

size_t strlen(const char *s)
{
	const char *p = s;

	while (*p)
		p++;
	return (size_t)(p - s);
}
