/* SPDX-License-Identifier: MIT */
/*
 * guest/contents.h - what each page of the walked memory holds, known at any time.
 *
 * A page holds zeros and one word, which follows from the page: zero at first, a stamp
 * once the memory is filled, another (with the clone's number) after a touch that writes. In a
 * chain of clones, the word behind it says which link wrote the page.
 *
 * Stamps are a multiplication each, so that working one out does not disturb what is measured.
 *
 * Concurrency: vCPUs may write and check at once; what a check finds in a page that another vCPU
 * writes is the old or the new (`once` not set).
 */
#ifndef COWSLIP_GUEST_CONTENTS_H
#define COWSLIP_GUEST_CONTENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/runtime.h"

#define PAGE_WORDS  (GUEST_PAGE / sizeof(uint64_t))
#define BLOCK_PAGES (GUEST_BLOCK / GUEST_PAGE)

/* The most links: each has a page of its own in every block. */
#define CONTENTS_LINKS (BLOCK_PAGES - 1)

struct contents {
	uint64_t *memory;
	uint64_t pages;
	bool once;          /* the walk touches no page twice */
	uint64_t old_mask;  /* all ones when the memory is filled before the walk, else 0 */
	uint64_t links;     /* written by contents_link(), at most CONTENTS_LINKS */
	uint64_t fill_salt; /* salts: contents_salt() */
	uint64_t link_salt;
	uint64_t walk_salt;
};

/* A word that is not what it should be. */
struct contents_error {
	uint64_t page, word, found, expected;
};

static inline uint64_t contents_salt(uint64_t x)
{
	return mix64(x) | UINT64_C(1) << 63;
}

/* One to one, and never 0: no page has a salt's highest bit. */
static inline uint64_t contents_stamp(uint64_t page, uint64_t salt)
{
	return (page ^ salt) * UINT64_C(0x9e3779b97f4a7c15);
}

/* Which word of the page is stamped. */
static inline uint64_t contents_word(const struct contents *c, uint64_t page)
{
	return contents_stamp(page, c->fill_salt) >> 55;
}

/* What is in it before the walk writes the page, and after. */
static inline uint64_t contents_before(const struct contents *c, uint64_t page)
{
	return contents_stamp(page, c->fill_salt) & c->old_mask;
}

static inline uint64_t contents_after(const struct contents *c, uint64_t page)
{
	return contents_stamp(page, c->walk_salt);
}

static inline volatile uint64_t *contents_at(const struct contents *c, uint64_t page, uint64_t word)
{
	return &c->memory[page * PAGE_WORDS + word];
}

/* Stamp the pages [from, to) as before the walk. */
void contents_fill(const struct contents *c, uint64_t from, uint64_t to);

/* Write one page of every block, for link `n` (1..CONTENTS_LINKS) of a chain. */
void contents_link(const struct contents *c, uint64_t n);

/*
 * Is a page all that it should be? `written`: the walk has written it, for certain; else it may
 * have, unless `once`. Return: true; false and *error.
 */
bool contents_check(const struct contents *c, uint64_t page, bool written,
                    struct contents_error *error);

#endif
