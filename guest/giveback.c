// SPDX-License-Identifier: MIT
/*
 * guest/giveback.c - gives memory back to the host, and looks at what is left.
 *
 * usage: size=SIZE (of whole 4 KiB pages, at least sixteen; 8M)
 *
 * Writes SIZE bytes of its heap and rings READY; then all pages are written once more and given
 * back, written a third time, and given back but for some at either end. One word of output
 * after each step: a number of enum giveback_step. Exits 0; 2 for arguments that won't do, 3
 * when a page does not hold what it should or a range is taken that should not be.
 */
#include "guest/giveback.h"

#include "guest/runtime.h"

#define EDGE (3 * GUEST_PAGE)

struct area {
	uint8_t *start;
	uint64_t size;
};

static void fill(struct area a, uint64_t tag)
{
	for (uint64_t at = 0; at < a.size; at += GUEST_PAGE)
		*(volatile uint64_t *)(a.start + at) = tag + at;
}

/* Each page of [from, to): its first word `tag` and where it is, or nothing but zeros. */
static bool holds(struct area a, uint64_t from, uint64_t to, uint64_t tag)
{
	for (uint64_t at = from; at < to; at += GUEST_PAGE) {
		const uint64_t *word = (const uint64_t *)(a.start + at);

		if (word[0] != (tag ? tag + at : 0) || word[GUEST_PAGE / sizeof(*word) - 1] != 0) {
			print("page %lu holds 0x%lx\n", at / GUEST_PAGE, word[0]);
			return false;
		}
	}
	return true;
}

static void step(uint64_t number)
{
	(void)guest_output(&number, sizeof(number));
}

/* What is no run of whole pages of RAM is refused, and stays as it is. */
static bool refusals(struct area a)
{
	const int invalid = -22, fault = -14;
	uint8_t *end = (uint8_t *)(uintptr_t)guest_boot->ram_top;

	return guest_discard(a.start + 8, GUEST_PAGE) == invalid &&
	       guest_discard(a.start, GUEST_PAGE - 8) == invalid &&
	       guest_discard(a.start, 0) == invalid &&
	       guest_discard(end - GUEST_PAGE, 2 * GUEST_PAGE) == fault &&
	       guest_discard(a.start, -GUEST_PAGE) == invalid;
}

static int run(struct area a)
{
	fill(a, 1);
	(void)guest_ready();
	if (!holds(a, 0, a.size, 1))
		return GUEST_MISMATCH;
	fill(a, 2);
	step(GIVEBACK_FULL);
	if (!refusals(a) || !holds(a, 0, a.size, 2) || guest_discard(a.start, a.size))
		return GUEST_MISMATCH;
	step(GIVEBACK_GIVEN);
	if (!holds(a, 0, a.size, 0))
		return GUEST_MISMATCH;
	fill(a, 3);
	step(GIVEBACK_FULL_AGAIN);
	if (guest_discard(a.start + EDGE, a.size - 2 * EDGE))
		return GUEST_MISMATCH;
	step(GIVEBACK_GIVEN_AGAIN);
	return holds(a, 0, EDGE, 3) && holds(a, EDGE, a.size - EDGE, 0) &&
	                       holds(a, a.size - EDGE, a.size, 3)
	               ? GUEST_OK
	               : GUEST_MISMATCH;
}

int guest_main(void)
{
	static const char *const allowed[] = {"size=", NULL};
	struct area a;
	uint64_t room;

	if (!args_allowed(allowed) || !arg_size("size=", UINT64_C(8) << 20, &a.size))
		return GUEST_USAGE;
	a.start = guest_heap(GUEST_BLOCK, &room);
	if (a.size % GUEST_PAGE || a.size < 16 * GUEST_PAGE || a.size > room) {
		print("size= must be whole pages, 16 or more, and fit into %lu bytes\n", room);
		return GUEST_USAGE;
	}
	return run(a);
}
