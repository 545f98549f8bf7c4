// SPDX-License-Identifier: MIT
/*
 * mm/publish_ahead.c - what makes a publish shorter, done while the guest runs.
 *
 *     space_publish_ahead()   frames, with memory behind them, for what a publish would have to
 *                             copy by now: spares. The guest runs
 *     space_copy_ahead()      blocks that a publish would copy whole are copied, a few at a time.
 *                             The guest stands still for each time
 *     space_share_ahead()     blocks with frames of their own give them to an image that nobody
 *                             else has. The guest runs: what it writes from then on is private
 *
 * None promises anything: spares that are not used are given back, and a publish does whatever
 * is left.
 */
#include <stdlib.h>

#include "mm/space_internal.h"

/* What is brought in at a time. */
#define AHEAD_BLOCKS 32u
#define AHEAD_PACKS  32u

/*
 * Blocks that change hands by one call, 2 MiB pages and others. While a part of the window is
 * mapped anew, vCPUs wait with their faults there: some 300 us for so many.
 */
#define SHARE_HUGE  64u
#define SHARE_SMALL 4u

static void drop_list(struct space *s, struct spare **list, size_t *count)
{
	while (*count > 0)
		pool_unref(s->pool, (*list)[--*count].frame);
	free(*list);
	*list = NULL;
}

void publish_drop_spares(struct space *s)
{
	drop_list(s, &s->spare.block, &s->spare.blocks);
	drop_list(s, &s->spare.pack, &s->spare.packs);
}

static bool has_spare(const struct space *s, size_t index)
{
	for (size_t i = 0; i < s->spare.blocks; i++)
		if (s->spare.block[i].index == index)
			return true;
	return false;
}

/* What space_publish_ahead() takes in one go. */
struct ahead {
	struct spare block[AHEAD_BLOCKS], pack[AHEAD_PACKS];
	size_t blocks, packs;
};

/* Frames for blocks that have none yet. Lock held. Return: how many blocks are wanted whole. */
static unsigned reserve_blocks(struct space *s, const struct page_runs *private, struct ahead *a)
{
	size_t at = 0, run = 0;
	unsigned count = 0;
	struct block *b;

	while ((b = publish_next_scrappy(s, private, &at, &run))) {
		struct spare *to = &a->block[a->blocks];

		count++;
		if (a->blocks == AHEAD_BLOCKS || s->spare.blocks + a->blocks >= AHEAD_BLOCKS ||
		    has_spare(s, block_of(s, b)) || !publish_has_room(s, private) ||
		    alloc_reserve(s, b, &to->frame))
			continue;
		to->index = block_of(s, b);
		a->blocks++;
	}
	return count;
}

/* Frames for the rest. Lock held. */
static void reserve_packs(struct space *s, const struct page_runs *private, unsigned whole,
                          struct ahead *a)
{
	uint64_t pages = page_runs_pages(private), in_blocks = whole * (uint64_t)MM_BLOCK_PAGES;
	uint64_t left = pages > in_blocks ? pages - in_blocks : 0;

	for (size_t i = 0; i < s->spare.packs; i++)
		left -= min_u64(left, UINT64_C(1) << s->spare.pack[i].order);
	while (left > 0 && s->spare.packs + a->packs < AHEAD_PACKS &&
	       publish_has_room(s, private)) {
		struct spare *to = &a->pack[a->packs];

		to->order = publish_pack_order(left);
		if (publish_alloc_pack(s, &to->order, &to->frame))
			break;
		left -= UINT64_C(1) << to->order;
		a->packs++;
	}
}

/* Memory behind what nobody else knows yet. No lock. What the host refuses comes in later. */
static void bring_in(struct space *s, struct ahead *a)
{
	for (size_t i = 0; i < a->blocks; i++) {
		struct spare *b = &a->block[i];

		b->huge = pool_collapse(s->pool, b->frame) == 0;
		/* A collapse leaves it unmapped. */
		*(volatile uint8_t *)pool_frame_ptr(s->pool, b->frame) = 0;
	}
	for (size_t i = 0; i < a->packs; i++)
		(void)pool_fill(s->pool, a->pack[i].frame, UINT32_C(1) << a->pack[i].order);
}

/* Lock held. What does not find room, or is there by now, is given back. */
static void add_spares(struct space *s, struct spare **list, size_t *count, size_t room,
                       const struct spare *more, size_t n)
{
	if (!*list)
		*list = calloc(room, sizeof(**list));
	for (size_t i = 0; i < n; i++) {
		bool twice = list == &s->spare.block && has_spare(s, more[i].index);

		if (*list && *count < room && !twice)
			(*list)[(*count)++] = more[i];
		else
			pool_unref(s->pool, more[i].frame);
	}
}

int space_publish_ahead(struct space *s)
{
	struct page_runs private = {0};
	struct ahead a = {0};
	unsigned whole = 0;
	int r;

	if (s->linear)
		return -ENOTSUP;
	lock_take(&s->lock);
	r = space_changed_runs(s, &private, NULL);
	if (r == 0) {
		whole = reserve_blocks(s, &private, &a);
		reserve_packs(s, &private, whole, &a);
	}
	lock_drop(&s->lock);
	bring_in(s, &a);
	lock_take(&s->lock);
	add_spares(s, &s->spare.block, &s->spare.blocks, AHEAD_BLOCKS, a.block, a.blocks);
	add_spares(s, &s->spare.pack, &s->spare.packs, AHEAD_PACKS, a.pack, a.packs);
	lock_drop(&s->lock);
	page_runs_fini(&private);
	return r ? r : (int)whole;
}

int space_copy_ahead(struct space *s, unsigned most)
{
	struct page_runs private = {0};
	int r;

	if (s->linear)
		return -ENOTSUP;
	lock_take(&s->lock);
	r = s->holds ? -EBUSY : space_changed_runs(s, &private, NULL);
	if (r == 0)
		publish_own_scrappy(s, &private, most);
	lock_drop(&s->lock);
	page_runs_fini(&private);
	return r;
}

/* ---- frames of its own, to an image ---- */

/* What can be mapped anew by one call, and surely holds something. */
static bool may_share(const struct space *s, size_t i)
{
	const struct block *b = &s->blocks[i];
	struct gpa_range ram = block_range(s, i);

	return b->state == BLOCK_OWNED && !b->partial && !b->granted && ram.size > 0 &&
	       guard_is_rw(s, ram.start.v, gpa_range_end(ram));
}

/* An image of all such blocks. Return: 0 and *out, NULL when there are none; -ENOMEM. */
static int image_of_owned(struct space *s, struct image **out)
{
	struct extent *list = malloc(s->block_count * sizeof(*list));
	struct image_parts parts = {.ram = s->ram, .ram_count = s->region_count, .extents = list};
	int r = 0;

	*out = NULL;
	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < s->block_count; i++)
		if (may_share(s, i))
			list[parts.extent_count++] = publish_extent(s, i);
	if (parts.extent_count > 0)
		r = image_create(&parts, out);
	free(list);
	return r;
}

/* Blocks from `first` on, which may be shared, that one call is to map. */
static void share_run(const struct space *s, size_t first, struct owned_run *out)
{
	size_t most = s->blocks[first].huge ? SHARE_HUGE : SHARE_SMALL, end = first + 1;

	while (end < s->block_count && end - first < most && may_share(s, end))
		end++;
	(void)next_owned(s, &first, end, out);
}

/*
 * The window reads the frames from now on; the guest's next write makes a private copy of a page.
 * Return: blocks mapped; -errno: none.
 */
static int share_blocks(struct space *s, size_t first)
{
	struct owned_run run;
	int r;

	share_run(s, first, &run);
	r = publish_map_run(s, &run);
	for (size_t i = 0; r == 0 && i < run.count; i++)
		publish_give_up(s, &s->blocks[run.first + i]);
	space_gets_on(s);
	return r ? r : (int)run.count;
}

/* All that `image` names. Return: 0; -errno: the rest, which `image` names no more, stays OWNED. */
static int share_all(struct space *s, struct image *image)
{
	for (size_t i = 0; i < s->block_count;) {
		int n = may_share(s, i) ? share_blocks(s, i) : 1;

		if (n < 0) {
			image_trim(image, block_gpa(s, i));
			return n;
		}
		i += (size_t)n;
	}
	return 0;
}

static int share_owned(struct space *s)
{
	struct image *image;
	int r;

	alloc_look_at_grants(s);
	r = image_of_owned(s, &image);
	if (r || !image)
		return r;
	r = share_all(s, image);
	if (image_pages(image) > 0)
		publish_take_image(s, image);
	image_put(image);
	return r;
}

/*
 * A space that has an image has little of its own, and reserved huge pages cannot be named by one.
 * All that is shared may be written to, and is then to be copied by a publish that needed no frame
 * before.
 */
static bool is_worth_sharing(const struct space *s)
{
	for (size_t i = 0; i < s->region_count; i++)
		if (s->regions[i].huge)
			return false;
	return !s->image && pool_free_frames(s->pool) >= s->owned_frames;
}

int space_share_ahead(struct space *s)
{
	int r = 0;

	if (s->linear)
		return -ENOTSUP;
	lock_take(&s->lock);
	if (is_worth_sharing(s))
		r = s->holds ? -EBUSY : share_owned(s);
	lock_drop(&s->lock);
	return r;
}
