// SPDX-License-Identifier: MIT
/*
 * mm/backend_alloc.c - zeroed frames of the pool, brought in when first touched.
 *
 * A block is reserved whole (2 MiB of offsets) and then
 *
 *     cluster    mapped and armed; pages come in a few at a time
 *     watched    one 2 MiB page already, mapped and let in a few pages at a time, where it will
 *                most likely be walked through: to see whether it is
 *     granted    mapped and not armed: the kernel fills it at the touches to come, by 2 MiB pages
 *                where the pool has them and the block is mapped so, else by 4 KiB pages
 *     collapsed  made one 2 MiB page here, where only that makes them
 *
 * or it is left: no frames at all, disarmed, SHARED with no image behind it. The kernel then fills
 * it with anonymous pages, which takes it a fifth less time than pages of a file do; they
 * are private pages like any other, and published by copying them. Where a limit must
 * hold, and where 4 KiB frames were asked for, blocks are granted instead.
 *
 * The policy says which, and for how many blocks. Frames are placed so that neighbours in the guest
 * are neighbours in the pool: one mapping then serves all blocks of a grant.
 *
 * A grant counts as owned from the beginning, and costs no memory before it is touched. What never
 * was can be taken back, also from a running guest: see alloc_take_back().
 */
#include <sys/mman.h>

#include "mm/space_internal.h"

/* Of the blocks that the limit and the pool have left, one answer gives at most this part. */
#define GRANT_PART 4u

/* Proofs that are not tried with a huge page after there was none. */
#define UNWATCHED 16u

int alloc_frames(struct space *s, size_t block, unsigned order, frame_t *out)
{
	int64_t at = (int64_t)(block << MM_BLOCK_ORDER);
	frame_t hint = FRAME_NONE;
	int r;

	if (s->place + at >= 0 && s->place + at < UINT32_MAX)
		hint = (frame_t){(uint32_t)(s->place + at)};
	r = pool_alloc_blocks(s->pool, order, hint, out);
	if (r == 0)
		s->place = (int64_t)out->n - at;
	return r;
}

int alloc_reserve(struct space *s, const struct block *b, frame_t *out)
{
	if (limit_room(s, MM_BLOCK_PAGES) < MM_BLOCK_PAGES)
		return -ENOMEM;
	return alloc_frames(s, block_of(s, b), MM_BLOCK_ORDER, out);
}

void alloc_commit(struct space *s, struct block *b, frame_t f)
{
	*b = (struct block){.frame = f, .state = BLOCK_OWNED};
	s->owned_frames += MM_BLOCK_PAGES;
}

/*
 * An EMPTY block is mapped to frames from alloc_reserve() and becomes OWNED. Return: 0; -errno,
 * then the frames have been given back and nothing else has changed.
 */
static int map_reserved(struct space *s, struct block *b, frame_t f, bool huge)
{
	int r = window_map_owned(s, block_range(s, block_of(s, b)), f, huge);

	if (r)
		pool_unref(s->pool, f);
	else
		alloc_commit(s, b, f);
	return r;
}

/* ---- what the policy is asked ---- */

/*
 * Block `index` of `region` has no frames, and the image none for it. One that is protected is left
 * to itself: a run of blocks must be mapped by one call.
 */
static bool is_fresh(const struct space *s, const struct region *region, size_t index)
{
	struct gpa_range ram;

	if (index >= s->block_count || s->blocks[index].state != BLOCK_EMPTY) /* or below 0 */
		return false;
	ram = block_range(s, index);
	return ram.size > 0 && space_region(s, ram.start) == region && !image_has(s, ram) &&
	       guard_is_rw(s, ram.start.v, gpa_range_end(ram));
}

/* Not where reserved huge pages may still come: a block of one would spoil the next page. */
static bool looks_ahead(const struct region *region)
{
	return region->backend != &backend_hugetlb;
}

static uint32_t fresh_above(const struct space *s, const struct region *region, size_t index)
{
	uint32_t n = 0;

	while (looks_ahead(region) && n < POLICY_AHEAD - 1 && is_fresh(s, region, index + n + 1))
		n++;
	return n;
}

static uint32_t fresh_below(const struct space *s, const struct region *region, size_t index)
{
	uint32_t n = 0;

	while (looks_ahead(region) && n < POLICY_AHEAD - 1 && is_fresh(s, region, index - n - 1))
		n++;
	return n;
}

/* By what was last known of copies: good enough for how much to give. */
static uint64_t frames_left(const struct space *s)
{
	uint64_t used = s->owned_frames + (s->limit_copies ? s->copies.most : 0);

	return s->limit_frames - min_u64(used, s->limit_frames);
}

/* Blocks that one answer may give: where frames are scarce, it must not starve who comes next. */
static uint32_t grant_room(struct space *s)
{
	uint64_t left = frames_left(s), free = pool_free_frames(s->pool);
	uint64_t blocks = min_u64(left, free) >> MM_BLOCK_ORDER;

	if (limit_binds(s) || free < left)
		blocks /= GRANT_PART;
	return (uint32_t)max_u64(1, min_u64(blocks, POLICY_AROUND));
}

static struct policy_choice choose(struct space *s, const struct block *b, gpa_t a)
{
	const struct region *region = space_region(s, a);
	size_t index = block_of(s, b);
	struct policy_event e = {
		.page_size = region->ram.page_size,
		.page = (a.v - s->first.v) >> MM_PAGE_SHIFT,
		.fresh = b->state == BLOCK_EMPTY,
		.below = fresh_below(s, region, index),
		.above = fresh_above(s, region, index),
		.room = grant_room(s),
	};

	e.at_once = pool_huge(s->pool) ? e.room : 1;
	return policy_choose(&s->history, &e);
}

/* ---- grants ---- */

/*
 * Frames for EMPTY blocks from `first` on, below `end`, as far as they follow each other in the
 * pool. The first may be OWNED instead: then its own are the run's first.
 * Return: how many; -ENOMEM when there is not even one.
 */
static int reserve_run(struct space *s, size_t first, size_t end, frame_t *out)
{
	const struct block *b = &s->blocks[first];
	bool owned = b->state == BLOCK_OWNED;
	uint64_t room = limit_room(s, (end - first) << MM_BLOCK_ORDER) >> MM_BLOCK_ORDER;
	uint64_t most = room + owned;
	size_t n = 1;
	int r = 0;

	if (owned)
		*out = b->frame;
	else
		r = alloc_reserve(s, b, out);
	if (r)
		return r;
	for (; n < most && first + n < end; n++) {
		frame_t next;

		if (alloc_reserve(s, &s->blocks[first + n], &next))
			break;
		if (next.n != out->n + n * MM_BLOCK_PAGES) {
			pool_unref(s->pool, next);
			break;
		}
	}
	return (int)n;
}

/* A block of clusters of which nothing is armed any more: one 2 MiB page, if the host has one. */
static void make_whole(struct space *s, struct block *b)
{
	block_disarmed(b);
	if (!b->huge)
		b->huge = pool_collapse(s->pool, b->frame) == 0;
	if (!b->huge)
		window_keep_small(s, block_range(s, block_of(s, b)));
}

/* The run of `n` blocks from `first` on has been mapped to frames from `f` on. */
static void commit_run(struct space *s, size_t first, size_t n, frame_t f, bool huge)
{
	for (size_t i = first; i < first + n; i++, f.n += (uint32_t)MM_BLOCK_PAGES) {
		struct block *b = &s->blocks[i];

		if (b->state == BLOCK_OWNED) {
			make_whole(s, b);
			continue;
		}
		alloc_commit(s, b, f);
		b->huge = huge;
		b->granted = true;
	}
}

/* It has not. */
static void drop_run(struct space *s, size_t first, size_t n, frame_t f)
{
	for (size_t i = first; i < first + n; i++, f.n += (uint32_t)MM_BLOCK_PAGES)
		if (s->blocks[i].state != BLOCK_OWNED)
			pool_unref(s->pool, f);
}

/*
 * Give the kernel EMPTY blocks from `first` on, below `end`; where the pool gives huge pages the
 * first may be one of clusters. Return: how many, at least one; -errno, then nothing has changed.
 */
static int grant_run(struct space *s, size_t first, size_t end, bool huge)
{
	frame_t f;
	int n = reserve_run(s, first, end, &f), r;
	struct gpa_range all = {block_gpa(s, first), 0};

	if (n < 0)
		return n;
	all.size = gpa_range_end(block_range(s, first + (size_t)n - 1)) - all.start.v;
	r = window_map_owned(s, all, f, huge);
	if (r)
		drop_run(s, first, (size_t)n, f);
	else
		commit_run(s, first, (size_t)n, f, huge);
	return r ? r : n;
}

/* The kernel fills the rest of a block of clusters, 4 KiB by 4 KiB. Return: 0 or -errno. */
static int hand_back(struct space *s, struct block *b)
{
	int r = s->faults->disarm(s, block_range(s, block_of(s, b)));

	if (r == 0)
		block_disarmed(b);
	return r;
}

/*
 * A block of clusters becomes one 2 MiB page where the pool gives none: the mapping it has will
 * show it. Return: 0 or -errno.
 */
static int promote(struct space *s, struct block *b)
{
	int r = s->faults->disarm(s, block_range(s, block_of(s, b)));

	if (r == 0)
		make_whole(s, b);
	return r;
}

/* A new block as one huge page, or 4 KiB by 4 KiB where the host has none to give. */
static int collapse_new(struct space *s, struct block *b)
{
	struct gpa_range ram = block_range(s, block_of(s, b));
	frame_t f;
	bool huge;
	int r = alloc_reserve(s, b, &f);

	if (r)
		return r;
	huge = pool_collapse(s->pool, f) == 0;
	if (!huge)
		r = pool_fill(s->pool, f, (uint32_t)(ram.size >> MM_PAGE_SHIFT));
	if (r) {
		pool_unref(s->pool, f);
		return r;
	}
	r = map_reserved(s, b, f, huge);
	if (r == 0)
		b->huge = huge;
	return r;
}

/* How blocks are given to the kernel. */
enum give {
	GIVE_HUGE,  /* frames, by 2 MiB pages */
	GIVE_SMALL, /* frames, by 4 KiB pages */
	GIVE_ZERO,  /* no frames */
};

static enum give how_to_give(const struct space *s, const struct region *region,
                             enum policy_kind kind)
{
	if (kind == POLICY_WHOLE)
		return GIVE_HUGE;
	return limit_binds(s) || region->ram.page_size == PAGE_SIZE_4K ? GIVE_SMALL : GIVE_ZERO;
}

/* EMPTY blocks [first, end) become the kernel's to fill. Return: how many, or -errno. */
static int leave_run(struct space *s, size_t first, size_t end)
{
	struct gpa_range last = block_range(s, end - 1);
	struct gpa_range r = {block_gpa(s, first), gpa_range_end(last) - block_gpa(s, first).v};
	int e = s->faults->disarm(s, r);

	if (e)
		return e;
	for (size_t i = first; i < end; i++)
		s->blocks[i] = (struct block){.state = BLOCK_SHARED};
	return (int)(end - first);
}

/* EMPTY blocks from `first` on, below `end`. Return: how many, at least one; or -errno. */
static int give_run(struct space *s, size_t first, size_t end, enum give how)
{
	if (how == GIVE_ZERO)
		return leave_run(s, first, end);
	return grant_run(s, first, end, how == GIVE_HUGE);
}

static int give_block(struct space *s, struct block *b, enum give how)
{
	bool owned = b->state == BLOCK_OWNED;

	if (how == GIVE_HUGE && !pool_huge(s->pool))
		return owned ? promote(s, b) : collapse_new(s, b);
	if (how != GIVE_HUGE && owned)
		return hand_back(s, b);
	return give_run(s, block_of(s, b), block_of(s, b) + 1, how);
}

/* The end of the fresh blocks from `first` on, below `end`. */
static size_t fresh_end(const struct space *s, const struct region *region, size_t first,
                        size_t end)
{
	while (first < end && is_fresh(s, region, first))
		first++;
	return first;
}

/* How far one mapping may reach that begins with the touched block; below `end`. */
static size_t run_end(const struct space *s, const struct region *region, size_t touched,
                      size_t end, enum give how)
{
	struct gpa_range ram = block_range(s, touched);

	if (s->blocks[touched].state == BLOCK_EMPTY)
		return fresh_end(s, region, touched, end);
	if (how != GIVE_HUGE || !pool_huge(s->pool) ||
	    !guard_is_rw(s, ram.start.v, gpa_range_end(ram)))
		return touched;
	return fresh_end(s, region, touched + 1, end);
}

/* Fresh blocks of [first, end), and those that wait for small pages: what can be had of them. */
static void give_rest(struct space *s, const struct region *region, size_t first, size_t end,
                      enum give how)
{
	while (first < end) {
		struct block *b = &s->blocks[first];
		size_t stop = fresh_end(s, region, first, end);
		int n = 1;

		if (stop > first)
			n = give_run(s, first, stop, how);
		else if (how != GIVE_HUGE && b->state == BLOCK_OWNED && b->partial)
			(void)hand_back(s, b);
		if (n < 0)
			return;
		first += (size_t)n;
	}
}

/*
 * The touched block first, with what follows it where it is the first of a run: what else was
 * chosen is of no use to who waits now.
 */
static int give(struct space *s, struct block *b, struct policy_choice c)
{
	size_t touched = block_of(s, b), end = (size_t)min_u64(c.first + c.count, s->block_count);
	const struct region *region = space_region(s, block_gpa(s, touched));
	enum give how = how_to_give(s, region, c.kind);
	size_t stop = c.first == touched ? run_end(s, region, touched, end, how) : touched;
	int r;

	if (stop > touched + 1)
		r = give_run(s, touched, stop, how);
	else
		r = give_block(s, b, how);
	if (r < 0)
		return r;
	if (c.count > 1)
		give_rest(s, region, (size_t)c.first, end, how);
	return 0;
}

/* ---- clusters ---- */

/* The chosen pages, clipped to RAM. */
static struct gpa_range choice_range(const struct space *s, const struct block *b,
                                     struct policy_choice c)
{
	struct gpa_range ram = block_range(s, block_of(s, b));
	uint64_t start = s->first.v + (c.first << MM_PAGE_SHIFT);
	uint64_t end = start + (c.count << MM_PAGE_SHIFT);

	return (struct gpa_range){{start}, min_u64(end, gpa_range_end(ram)) - start};
}

/*
 * Map the block's frames and arm them. Between mapping and arming the kernel may resolve another
 * vCPU's touch itself: with the same zeros. Return: 0 or -errno, then nothing has changed.
 */
static int start_clusters(struct space *s, struct block *b)
{
	struct gpa_range ram = block_range(s, block_of(s, b));
	frame_t f;
	int r = alloc_reserve(s, b, &f);

	if (r == 0)
		r = map_reserved(s, b, f, false);
	if (r)
		return r;
	/* Refused: mapped and filled by the kernel on touch: as good, only not ours to watch. */
	b->partial = s->faults->arm(s, ram) == 0;
	b->granted = !b->partial;
	return 0;
}

/* Frames are there; a host out of memory now is retried with the next violation. */
static int fill_cluster(struct space *s, struct block *b, struct gpa_range r)
{
	int e = b->state == BLOCK_EMPTY ? start_clusters(s, b) : 0;

	if (e || !b->partial)
		return e;
	return b->watched ? s->faults->let_in(s, r) : s->faults->fill_zero(s, r);
}

/* A host that has no huge page is not asked for one at every proof. */
static bool may_watch(struct space *s)
{
	if (!s->fault.can_watch || !pool_huge(s->pool))
		return false;
	if (s->unwatched == 0)
		return true;
	s->unwatched--;
	return false;
}

/*
 * Mapped by small pages although it is a huge one: else it could not be let in bit by bit.
 * Return: 0, or -errno and nothing has changed: this host cannot.
 */
static int start_watched(struct space *s, struct block *b)
{
	struct gpa_range ram = block_range(s, block_of(s, b));
	frame_t f;
	int r = may_watch(s) ? alloc_reserve(s, b, &f) : -EOPNOTSUPP;

	if (r)
		return r;
	r = pool_collapse(s->pool, f);
	if (r) {
		s->unwatched = UNWATCHED;
		pool_unref(s->pool, f);
		return r;
	}
	r = map_reserved(s, b, f, false);
	if (r)
		return r;
	b->huge = true;
	b->partial = b->watched = s->faults->watch(s, ram) == 0;
	return 0;
}

/* ---- violations ---- */

static int carry_out(struct space *s, struct block *b, struct policy_choice c,
                     struct gpa_range *done)
{
	if (policy_in_pages(c.kind)) {
		*done = choice_range(s, b, c);
		if (c.kind == POLICY_PROOF && b->state == BLOCK_EMPTY)
			(void)start_watched(s, b);
		return fill_cluster(s, b, *done);
	}
	*done = block_range(s, block_of(s, b));
	return give(s, b, c);
}

int alloc_fill(struct space *s, struct block *b, struct violation v, struct gpa_range *done)
{
	const struct policy_history before = s->history;
	struct policy_choice c = choose(s, b, v.gpa);
	int r = carry_out(s, b, c, done);

	if (r && r != -EAGAIN && b->state == BLOCK_EMPTY && alloc_take_back(s, 1) > 0)
		r = carry_out(s, b, c, done);
	/* What was not answered comes again: it is no second touch. */
	if (r)
		s->history = before;
	return r;
}

int alloc_fill_known(struct space *s, struct block *b, struct gpa_range r)
{
	uint64_t page = (r.start.v - s->first.v) >> MM_PAGE_SHIFT;
	uint64_t end = (gpa_range_end(r) - s->first.v + MM_PAGE_SIZE - 1) >> MM_PAGE_SHIFT;
	enum page_size size = space_region(s, r.start)->ram.page_size;
	struct policy_choice c = policy_choose_known(size, page, end - page);
	struct gpa_range done;
	int e = carry_out(s, b, c, &done);

	if (e && b->state == BLOCK_EMPTY && alloc_take_back(s, 1) > 0)
		e = carry_out(s, b, c, &done);
	/* The VMM does not wait for frames: these are not to be taken back. */
	b->granted = false;
	return e;
}

/* ---- taking back ---- */

/* Return: whether `b` was granted and has not been touched so far; it knows from then on. */
static bool look_at_grant(struct space *s, struct block *b)
{
	b->granted = b->granted && pool_block_empty(s->pool, b->frame);
	return b->granted;
}

void alloc_look_at_grants(struct space *s)
{
	for (size_t i = 0; i < s->block_count; i++)
		(void)look_at_grant(s, &s->blocks[i]);
}

/* Blocks from `first` on that were granted and not touched so far. Return: where they end. */
static size_t untouched_run(struct space *s, size_t first)
{
	const struct region *region = space_region(s, block_gpa(s, first));
	size_t end = first;

	for (; end < s->block_count && s->blocks[end].granted; end++) {
		struct gpa_range ram = block_range(s, end);

		if (space_region(s, ram.start) != region ||
		    !guard_is_rw(s, ram.start.v, gpa_range_end(ram)))
			break;
		if (!look_at_grant(s, &s->blocks[end]))
			break;
	}
	return end;
}

static bool still_untouched(const struct space *s, size_t first, size_t end)
{
	while (first < end && pool_block_empty(s->pool, s->blocks[first].frame))
		first++;
	return first == end;
}

/* Of a private mapping of no file: no page is there, not even the zero page. */
static bool is_absent(const struct space *s, struct gpa_range r)
{
	unsigned char there[MM_BLOCK_PAGES];

	while (r.size > 0) {
		uint64_t n = min_u64(r.size, MM_BLOCK_SIZE);

		if (mincore(window_ptr(s, r.start), n, there) < 0)
			return false;
		for (uint64_t i = 0; i < n >> MM_PAGE_SHIFT; i++)
			if (there[i] & 1u)
				return false;
		r.start.v += n;
		r.size -= n;
	}
	return true;
}

/*
 * What zero memory that has just been mapped becomes. A vCPU may have been there before it was
 * armed: such pages must stay, and then the kernel may as well fill the rest.
 */
static enum block_state state_of_zero(struct space *s, struct gpa_range r)
{
	if (!s->faults->lazy || s->faults->arm(s, r))
		return BLOCK_SHARED;
	if (is_absent(s, r))
		return BLOCK_EMPTY;
	(void)s->faults->disarm(s, r);
	return BLOCK_SHARED;
}

/*
 * Armed in place first: from then on a touch waits for the lock, so what is found empty stays so
 * until it is mapped over. Return: the run has been taken back.
 */
static bool take_back_run(struct space *s, size_t first, size_t end)
{
	struct gpa_range last = block_range(s, end - 1);
	struct gpa_range r = {block_gpa(s, first), gpa_range_end(last) - block_gpa(s, first).v};
	enum block_state state;

	if (s->faults->arm(s, r))
		return false;
	if (!still_untouched(s, first, end) || window_map_zero(s, r)) {
		(void)s->faults->disarm(s, r);
		return false;
	}
	state = state_of_zero(s, r);
	for (; first < end; first++) {
		struct block *b = &s->blocks[first];

		pool_unref(s->pool, b->frame);
		*b = (struct block){.state = (uint8_t)state};
		s->owned_frames -= MM_BLOCK_PAGES;
	}
	return true;
}

size_t alloc_take_back(struct space *s, size_t least)
{
	size_t taken = 0;

	for (size_t i = 0; i < s->block_count;) {
		size_t end = untouched_run(s, i);

		if (end > i && end - i >= least && take_back_run(s, i, end))
			taken += end - i;
		i = end > i ? end : i + 1;
	}
	return taken;
}

const struct backend_ops backend_alloc = {
	.name = "alloc",
	.fill = alloc_fill,
};
