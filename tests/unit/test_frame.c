// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_frame.c - the frame table and its buddy system, by numbers alone.
 *
 * A plain array says for each frame which block it should be in; every frame of the table is
 * looked up and compared with it.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "mm/frame.h"
#include "tests/unit/helpers.h"

#define FREE UINT32_MAX

/* head_of[f]: head of the block handed out that holds f, or FREE. */
struct oracle {
	struct frame_table t;
	uint32_t *head_of;
	uint32_t used;
};

static void setup(struct oracle *o, uint32_t count)
{
	cr_assert_eq(frame_table_init(&o->t, count), 0);
	o->head_of = malloc(count * sizeof(*o->head_of));
	cr_assert_not_null(o->head_of);
	memset(o->head_of, 0xff, count * sizeof(*o->head_of));
	o->used = 0;
}

static void teardown(struct oracle *o)
{
	cr_assert_eq(o->t.used, 0);
	frame_table_fini(&o->t);
	free(o->head_of);
}

static void mark(struct oracle *o, uint32_t head, unsigned order, uint32_t value)
{
	for (uint32_t i = 0; i < UINT32_C(1) << order; i++) {
		cr_assert_eq(o->head_of[head + i] == FREE, value != FREE);
		o->head_of[head + i] = value;
	}
}

static int take(struct oracle *o, unsigned order, frame_t hint, frame_t *out)
{
	int r = frame_alloc(&o->t, order, hint, out);

	if (r)
		return r;
	cr_assert(is_aligned(out->n, UINT64_C(1) << order), "order %u at %u", order, out->n);
	cr_assert_leq((uint64_t)out->n + (UINT64_C(1) << order), o->t.count);
	mark(o, out->n, order, out->n);
	o->used += UINT32_C(1) << order;
	return 0;
}

static void give(struct oracle *o, frame_t f)
{
	frame_t head;
	unsigned order;

	cr_assert(frame_unref(&o->t, f, &head, &order));
	cr_assert_eq(head.n, o->head_of[f.n]);
	mark(o, head.n, order, FREE);
	o->used -= UINT32_C(1) << order;
	frame_free(&o->t, head);
}

/* Every frame is found in the block it belongs to; the table's own audit and counters agree. */
static void compare(struct oracle *o)
{
	const char *wrong = frame_table_audit(&o->t);

	cr_assert_null(wrong, "%s", wrong);
	cr_assert_eq(o->t.used, o->used);
	for (uint32_t f = 0; f < o->t.count; f++) {
		frame_t head;
		const struct frame_info *e = frame_find(&o->t, (frame_t){f}, &head);

		if (f >= o->t.grown) {
			cr_assert_null(e);
			cr_assert_eq(o->head_of[f], FREE);
			continue;
		}
		cr_assert_not_null(e, "frame %u is in no block", f);
		cr_assert(f >= head.n && f - head.n < UINT32_C(1) << e->order);
		cr_assert_eq(e->state == FRAME_USED, o->head_of[f] != FREE);
		if (e->state == FRAME_USED)
			cr_assert_eq(head.n, o->head_of[f]);
	}
}

/* Only a block of which nothing is handed out can be recalled; the peak hears nothing of it. */
Test(frame, recall)
{
	struct oracle o;
	frame_t f, other;

	setup(&o, 4 * 512);
	cr_assert_eq(take(&o, 3, FRAME_NONE, &f), 0);
	cr_assert_not(frame_recall(&o.t, (frame_t){0}), "some of it is in use");
	compare(&o);
	give(&o, f);
	cr_assert_eq(take(&o, 0, (frame_t){512}, &other), 0);
	cr_assert(frame_recall(&o.t, (frame_t){0}));
	cr_assert_eq(o.t.used, 513);
	cr_assert_eq(o.t.peak, 8);
	cr_assert_not(frame_recall(&o.t, (frame_t){0}), "twice");
	cr_assert_not(frame_free(&o.t, (frame_t){0}), "it was whole");
	compare(&o);
	give(&o, other);
	compare(&o);
	cr_assert(frame_recall(&o.t, (frame_t){1024}), "in the middle of a larger free one");
	frame_free(&o.t, (frame_t){1024});
	cr_assert_eq(take(&o, 11, FRAME_NONE, &f), 0);
	give(&o, f);
	compare(&o);
	cr_assert_eq(o.t.peak, 2048);
	teardown(&o);
}

Test(frame, every_order_is_aligned_and_found)
{
	struct oracle o;

	setup(&o, 1u << 19);
	for (unsigned order = 0; order <= MM_HUGE_ORDER; order++) {
		frame_t f;

		cr_assert_eq(take(&o, order, FRAME_NONE, &f), 0);
		compare(&o);
		give(&o, f);
		compare(&o);
	}
	teardown(&o);
}

/* Two halves of a large block joined again: frames of the upper half are still found in it. */
Test(frame, joined_block_is_found_from_every_frame)
{
	struct oracle o;
	frame_t small, big;

	setup(&o, 2048);
	cr_assert_eq(take(&o, 0, (frame_t){700}, &small), 0);
	cr_assert_eq(small.n, 700);
	give(&o, small);
	compare(&o);
	cr_assert_eq(take(&o, 11, FRAME_NONE, &big), 0);
	compare(&o);
	cr_assert_eq(frame_ref(&o.t, (frame_t){700}), 0);
	cr_assert_eq(o.t.big[0].refs, 2);
	cr_assert_not(frame_unref(&o.t, (frame_t){1700}, &small, &(unsigned){0}));
	give(&o, (frame_t){700});
	cr_assert_eq(take(&o, 9, (frame_t){512}, &big), 0);
	cr_assert_eq(big.n, 512, "a hint into a joined block is taken");
	give(&o, big);
	teardown(&o);
}

Test(frame, hint_taken_when_free_and_aligned)
{
	struct oracle o;
	frame_t a, b;

	setup(&o, 1u << 14);
	cr_assert_eq(take(&o, 9, (frame_t){3 * 512}, &a), 0);
	cr_assert_eq(a.n, 3 * 512);
	cr_assert_eq(take(&o, 9, (frame_t){4 * 512}, &b), 0);
	cr_assert_eq(b.n, 4 * 512);
	give(&o, b);
	cr_assert_eq(take(&o, 9, (frame_t){3 * 512}, &b), 0, "one in use is passed over");
	cr_assert_neq(b.n, 3 * 512);
	give(&o, b);
	cr_assert_eq(take(&o, 9, (frame_t){4 * 512 + 1}, &b), 0, "so is one misaligned");
	give(&o, b);
	cr_assert_eq(take(&o, 9, (frame_t){1u << 14}, &b), 0, "and one beyond the limit");
	give(&o, b);
	give(&o, a);
	compare(&o);
	teardown(&o);
}

/* Limits that are no power of two, nor of 2 MiB: all of it can be had, and comes back whole. */
Test(frame, odd_limits)
{
	static const uint32_t limits[] = {1,    2,    3,    511,  512,        513,
	                                  1000, 1023, 1537, 5000, 262144 + 77};

	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		uint32_t n = limits[i];
		struct oracle o;
		frame_t f;

		setup(&o, n);
		for (uint32_t k = 0; k < n; k++)
			cr_assert_eq(take(&o, 0, FRAME_NONE, &f), 0, "%u of %u", k, n);
		cr_assert_eq(take(&o, 0, FRAME_NONE, &f), -ENOMEM);
		cr_assert_eq(o.t.used, n);
		cr_assert_eq(o.t.peak, n);
		compare(&o);
		for (uint32_t k = 0; k < n; k++)
			give(&o, (frame_t){(k & 1) ? n - 1 - k / 2 : k / 2});
		compare(&o);
		for (unsigned order = 0; order <= MM_HUGE_ORDER; order++) {
			bool fits = UINT32_C(1) << order <= n;

			cr_assert_eq(take(&o, order, FRAME_NONE, &f), fits ? 0 : -ENOMEM,
			             "order %u of %u frames", order, n);
			if (fits)
				give(&o, f);
		}
		teardown(&o);
	}
}

static void storm(struct rng *rng, uint32_t count, unsigned max_order, unsigned steps)
{
	struct oracle o;
	frame_t *live = calloc(count, sizeof(*live));
	uint32_t n = 0;
	unsigned every = 16 * SLOWDOWN;

	cr_assert_not_null(live);
	setup(&o, count);
	for (unsigned i = 0; i < steps; i++) {
		frame_t hint =
			rng_below(rng, 2) ? FRAME_NONE : (frame_t){rng_below(rng, count + 9)};

		if (rng_below(rng, 100) < 55) {
			n += take(&o, (unsigned)rng_below(rng, max_order + 1), hint, &live[n]) == 0;
		} else if (n > 0) {
			uint32_t k = (uint32_t)rng_below(rng, n);

			give(&o, live[k]);
			live[k] = live[--n];
		}
		if (i % every == 0)
			compare(&o);
		else
			cr_assert_null(frame_table_audit(&o.t));
	}
	while (n > 0)
		give(&o, live[--n]);
	compare(&o);
	teardown(&o);
	free(live);
}

/* Splitting and joining at random; afterwards the largest blocks are back. */
Test(frame, random_alloc_and_free, .timeout = 120)
{
	struct rng rng = {test_seed()};

	for (unsigned i = 0; i < 6; i++)
		storm(&rng, 1 + (uint32_t)rng_below(&rng, 9000), 11, 3000 / SLOWDOWN);
	storm(&rng, 8192, 0, 3000 / SLOWDOWN);
	storm(&rng, 1u << 14, 13, 3000 / SLOWDOWN);
}

Test(frame, count_overflow_is_refused)
{
	struct frame_table t;
	frame_t f, head;
	unsigned order;

	cr_assert_eq(frame_table_init(&t, 1024), 0);
	cr_assert_eq(frame_alloc(&t, 3, FRAME_NONE, &f), 0);
	frame_find(&t, f, &head)->refs = UINT32_MAX - 1;
	cr_assert_eq(frame_ref(&t, f), 0);
	cr_assert_eq(frame_ref(&t, f), -EOVERFLOW);
	cr_assert_eq(frame_find(&t, f, &head)->refs, UINT32_MAX, "nothing changed");
	cr_assert_not(frame_unref(&t, f, &head, &order));
	cr_assert_eq(frame_ref(&t, f), 0);
	frame_table_fini(&t);
}

Test(frame, retired_block_is_never_handed_out)
{
	struct frame_table t;
	frame_t f, other, head;
	unsigned order;

	cr_assert_eq(frame_table_init(&t, 16), 0);
	cr_assert_eq(frame_alloc(&t, 2, (frame_t){4}, &f), 0);
	cr_assert(frame_unref(&t, f, &head, &order));
	frame_retire(&t, head);
	cr_assert_eq(t.used, 0);
	cr_assert_eq(t.retired, 4);
	cr_assert_null(frame_table_audit(&t));
	for (unsigned i = 0; i < 12; i++) {
		cr_assert_eq(frame_alloc(&t, 0, (frame_t){4 + i % 4}, &other), 0);
		cr_assert(other.n < 4 || other.n > 7);
	}
	cr_assert_eq(frame_alloc(&t, 0, FRAME_NONE, &other), -ENOMEM);
	cr_assert_null(frame_table_audit(&t));
	frame_table_fini(&t);
}

/* The audit sees what is wrong: each planted error is reported. */
Test(frame, audit_finds_planted_errors)
{
	struct frame_table t;
	frame_t f, head;

	cr_assert_eq(frame_table_init(&t, 4096), 0);
	cr_assert_eq(frame_alloc(&t, 4, FRAME_NONE, &f), 0);
	cr_assert_null(frame_table_audit(&t));
	t.used++;
	cr_assert_not_null(frame_table_audit(&t));
	t.used--;
	t.retired++;
	cr_assert_not_null(frame_table_audit(&t));
	t.retired--;
	frame_find(&t, f, &head)->refs = 0;
	cr_assert_not_null(frame_table_audit(&t));
	frame_find(&t, f, &head)->refs = 1;
	frame_find(&t, f, &head)->order = 3;
	cr_assert_not_null(frame_table_audit(&t));
	frame_find(&t, f, &head)->order = 4;
	t.free_head[4] = UINT32_MAX;
	cr_assert_not_null(frame_table_audit(&t));
	frame_table_fini(&t);
}

Test(frame, reference_on_a_free_frame_aborts, .signal = SIGABRT)
{
	struct frame_table t;
	frame_t f, head;
	unsigned order;

	cr_assert_eq(frame_table_init(&t, 64), 0);
	cr_assert_eq(frame_alloc(&t, 0, FRAME_NONE, &f), 0);
	cr_assert(frame_unref(&t, f, &head, &order));
	(void)frame_ref(&t, f);
}

Test(frame, fini_takes_a_zeroed_table)
{
	struct frame_table t = {0};

	frame_table_fini(&t);
	cr_assert_null(t.big);
}
