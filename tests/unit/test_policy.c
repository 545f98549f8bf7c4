// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_policy.c - how much one violation brings in: every input there is.
 */
#include <criterion/criterion.h>

#include "mm/policy.h"

static struct policy_choice choose(enum page_size size, unsigned page, unsigned events, bool before,
                                   bool after)
{
	struct policy_input in = {size, page, events, before, after};

	return policy_choose(&in);
}

Test(policy, always_covers_the_page)
{
	static const enum page_size sizes[] = {PAGE_SIZE_AUTO, PAGE_SIZE_4K, PAGE_SIZE_2M,
	                                       PAGE_SIZE_1G};

	for (unsigned i = 0; i < 4 * 512 * 5 * 4; i++) {
		unsigned page = i % 512, rest = i / 512;
		unsigned events = rest % 5 == 4 ? 255 : rest % 5;
		struct policy_choice c =
			choose(sizes[rest / 5 % 4], page, events, rest / 20 & 1, rest / 40 & 1);

		cr_assert(c.pages >= 1 && c.pages <= 512 && (c.pages & (c.pages - 1)) == 0);
		cr_assert_eq(c.first % c.pages, 0);
		cr_assert(c.first <= page && page < c.first + c.pages);
		cr_assert_leq(c.first + c.pages, 512);
	}
}

Test(policy, small_pages_are_never_promoted)
{
	for (unsigned events = 0; events < 256; events++)
		cr_assert_lt(choose(PAGE_SIZE_4K, 17, events, true, true).pages, 512);
}

Test(policy, large_pages_come_whole)
{
	cr_assert_eq(choose(PAGE_SIZE_2M, 300, 0, false, false).pages, 512);
	cr_assert_eq(choose(PAGE_SIZE_1G, 300, 0, false, false).pages, 512);
}

/* What a guest keeps asking for grows until it is whole; a lone touch stays small. */
Test(policy, clusters_grow)
{
	unsigned last = 0, events = 0;

	while (last < 512) {
		unsigned pages = choose(PAGE_SIZE_AUTO, 200, events++, false, false).pages;

		cr_assert_gt(pages, last);
		last = pages;
		cr_assert_leq(events, 8, "a block takes few events");
	}
	cr_assert_gt(events, 1);
}

Test(policy, a_walk_gets_whole_blocks)
{
	cr_assert_eq(choose(PAGE_SIZE_AUTO, 0, 0, true, false).pages, 512, "upwards");
	cr_assert_eq(choose(PAGE_SIZE_AUTO, 511, 0, false, true).pages, 512, "downwards");
	cr_assert_lt(choose(PAGE_SIZE_AUTO, 256, 0, true, true).pages, 512, "not from the middle");
	cr_assert_lt(choose(PAGE_SIZE_AUTO, 511, 0, true, false).pages, 512, "nor the far end");
}
