// SPDX-License-Identifier: MIT
/*
 * guest/contents.c - writes and checks whole pages of the walked memory.
 */
#include "guest/contents.h"

/* The word that a link writes: link n in page n of each block. */
static uint64_t link_word(const struct contents *c, uint64_t page)
{
	return (contents_word(c, page) + 1) % PAGE_WORDS;
}

static bool is_linked(const struct contents *c, uint64_t page)
{
	uint64_t n = page % BLOCK_PAGES;

	return n > 0 && n <= c->links;
}

void contents_fill(const struct contents *c, uint64_t from, uint64_t to)
{
	for (uint64_t page = from; page < to; page++)
		*contents_at(c, page, contents_word(c, page)) = contents_before(c, page);
}

void contents_link(const struct contents *c, uint64_t n)
{
	for (uint64_t page = n; page < c->pages; page += BLOCK_PAGES)
		*contents_at(c, page, link_word(c, page)) = contents_stamp(page, c->link_salt);
}

bool contents_check(const struct contents *c, uint64_t page, bool written,
                    struct contents_error *error)
{
	const uint64_t stamped = contents_word(c, page), after = contents_after(c, page);
	const uint64_t linked = is_linked(c, page) ? link_word(c, page) : PAGE_WORDS;
	const uint64_t old = contents_before(c, page);

	for (uint64_t i = 0; i < PAGE_WORDS; i++) {
		uint64_t found = *contents_at(c, page, i), expected = 0;

		if (i == stamped)
			expected = written || (!c->once && found == after) ? after : old;
		else if (i == linked)
			expected = contents_stamp(page, c->link_salt);
		if (found == expected)
			continue;
		*error = (struct contents_error){page, i, found, expected};
		return false;
	}
	return true;
}
