// SPDX-License-Identifier: MIT
/*
 * mm/backend_alloc.c - zeroed frames of the pool, brought in when first touched.
 *
 * A block is reserved whole (2 MiB of offsets) with its first violation and filled either at
 * once, as one huge page, or cluster by cluster until the policy finds that it is worth
 * the whole. Frames are placed so that neighbours in the guest are neighbours in the pool.
 */
#include "mm/policy.h"
#include "mm/space_internal.h"

int alloc_reserve(struct space *s, const struct block *b, frame_t *out)
{
	int64_t at = (int64_t)(block_of(s, b) << MM_BLOCK_ORDER);
	frame_t hint = FRAME_NONE;
	int r;

	if (s->owned_frames + MM_BLOCK_PAGES > s->limit_frames)
		return -ENOMEM;
	if (s->place + at >= 0 && s->place + at < UINT32_MAX)
		hint = (frame_t){(uint32_t)(s->place + at)};
	r = pool_alloc(s->pool, MM_BLOCK_ORDER, hint, out);
	if (r == 0)
		s->place = (int64_t)out->n - at;
	return r;
}

void alloc_commit(struct space *s, struct block *b, frame_t f)
{
	*b = (struct block){.frame = f, .state = BLOCK_OWNED};
	s->owned_frames += MM_BLOCK_PAGES;
}

static bool is_full(const struct space *s, size_t index)
{
	const struct block *b;

	if (index >= s->block_count) /* also one below 0 */
		return false;
	b = &s->blocks[index];
	return b->state == BLOCK_OWNED && !b->partial;
}

static struct policy_choice choose(const struct space *s, const struct block *b, gpa_t a)
{
	size_t index = block_of(s, b);
	struct policy_input in = {
		.page_size = space_region(s, a)->ram.page_size,
		.page = (unsigned)((a.v >> MM_PAGE_SHIFT) & (MM_BLOCK_PAGES - 1)),
		.events = b->events,
		.before_full = is_full(s, index - 1),
		.after_full = is_full(s, index + 1),
	};

	return policy_choose(&in);
}

/* The chosen pages, clipped to RAM. */
static struct gpa_range choice_range(const struct space *s, const struct block *b,
                                     struct policy_choice c)
{
	struct gpa_range ram = block_range(s, block_of(s, b));
	uint64_t start = ram.start.v + ((uint64_t)c.first << MM_PAGE_SHIFT);
	uint64_t end = start + ((uint64_t)c.pages << MM_PAGE_SHIFT);

	return (struct gpa_range){{start}, min_u64(end, gpa_range_end(ram)) - start};
}

/* A new block as one huge page, or 4 KiB by 4 KiB where the host has none to give. */
static int fill_new_whole(struct space *s, struct block *b, frame_t f, struct gpa_range ram)
{
	bool huge = pool_collapse(s->pool, f) == 0;
	int r = huge ? 0 : pool_fill(s->pool, f, (uint32_t)(ram.size >> MM_PAGE_SHIFT));

	if (r == 0)
		r = window_map_owned(s, ram, f);
	if (r)
		return r;
	alloc_commit(s, b, f);
	b->huge = huge;
	return 0;
}

/*
 * Map the block's frames, arm them and fill one cluster. Between mapping and arming the
 * kernel may resolve another vCPU's touch itself: with the same zeros.
 */
static int fill_new_cluster(struct space *s, struct block *b, frame_t f, struct gpa_range ram,
                            struct gpa_range cluster)
{
	int r = window_map_owned(s, ram, f);

	if (r)
		return r;
	r = s->faults->arm(s, ram);
	if (r) {
		/* Mapped and filled by the kernel on touch: as good, only not ours to watch. */
		alloc_commit(s, b, f);
		return 0;
	}
	alloc_commit(s, b, f);
	b->partial = true;
	b->events = 1;
	/* Frames are there; a host out of memory now is retried with the next violation. */
	return s->faults->fill_zero(s, cluster);
}

static int fill_new(struct space *s, struct block *b, struct policy_choice c,
                    struct gpa_range *done)
{
	struct gpa_range ram = block_range(s, block_of(s, b));
	frame_t f;
	int r = alloc_reserve(s, b, &f);

	if (r)
		return r;
	if (c.pages == MM_BLOCK_PAGES)
		r = fill_new_whole(s, b, f, ram);
	else
		r = fill_new_cluster(s, b, f, ram, *done);
	/* fill_new_cluster() may fail after the block has become ours: then it keeps its frames. */
	if (r && b->state == BLOCK_EMPTY)
		pool_unref(s->pool, f);
	return r;
}

/* A block that keeps being asked for: hand the rest to the kernel, as one huge page if it can. */
static int promote(struct space *s, struct block *b, struct gpa_range ram)
{
	int r = s->faults->disarm(s, ram);

	if (r)
		return r;
	b->partial = false;
	b->huge = pool_collapse(s->pool, b->frame) == 0;
	return 0;
}

int alloc_fill(struct space *s, struct block *b, struct violation v, struct gpa_range *done)
{
	struct policy_choice c = choose(s, b, v.gpa);

	*done = choice_range(s, b, c);
	if (b->state == BLOCK_EMPTY)
		return fill_new(s, b, c, done);
	if (c.pages == MM_BLOCK_PAGES)
		return promote(s, b, *done);
	if (b->events < UINT8_MAX)
		b->events++;
	return s->faults->fill_zero(s, *done);
}

const struct backend_ops backend_alloc = {
	.name = "alloc",
	.fill = alloc_fill,
};
