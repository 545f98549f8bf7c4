// SPDX-License-Identifier: MIT
/*
 * mm/report.c - what a space says of itself: state and frames by address, statistics, the audit.
 *
 * Everything here is read when it is asked for; nothing is kept for it while the guest runs.
 */
#include <stdio.h>

#include "mm/pagemap.h"
#include "mm/space_internal.h"

enum block_state space_block_state(struct space *s, gpa_t a)
{
	enum block_state state = BLOCK_EMPTY;

	if (!space_region(s, a))
		return BLOCK_EMPTY;
	lock_take(&s->lock);
	state = (enum block_state)s->blocks[block_index(s, a)].state;
	lock_drop(&s->lock);
	return state;
}

/* ---- by address ---- */

/* One that was granted is none before it is touched. */
static bool is_huge(const struct space *s, const struct block *b)
{
	return b->huge && !(b->granted && pool_block_empty(s->pool, b->frame));
}

/* Where the private pages of a SHARED block begin or end. Return: 0 or -errno of pagemap. */
static int find_private(struct space *s, struct space_mapping *m)
{
	struct page_runs runs = {0};
	uintptr_t at = (uintptr_t)window_ptr(s, m->range.start);
	int r = pagemap_private(at, m->range.size, PAGEMAP_BEST, &runs);

	if (r == 0 && runs.count > 0) {
		m->is_private = runs.run[0].start == at;
		m->range.size =
			m->is_private ? runs.run[0].pages << MM_PAGE_SHIFT : runs.run[0].start - at;
	}
	page_runs_fini(&runs);
	return r;
}

/* What the image has there, or how far it has nothing. */
static void find_shared(const struct space *s, struct space_mapping *m)
{
	uint64_t at = m->range.start.v;
	struct image_piece p;

	if (!image_next(s, &at, gpa_range_end(m->range), &p))
		return;
	if (p.gpa.v > m->range.start.v) {
		m->range.size = p.gpa.v - m->range.start.v;
		return;
	}
	m->range.size = (uint64_t)p.pages << MM_PAGE_SHIFT;
	m->store = p.store;
	m->frame = p.frame;
	m->sharers = p.store->pool ? pool_refs(p.store->pool, p.frame) : 0;
}

/* Lock held; out->range lies inside one block. Return: 0 or -errno of pagemap. */
static int describe(struct space *s, struct space_mapping *m)
{
	const struct block *b = &s->blocks[block_index(s, m->range.start)];
	uint64_t skip = (m->range.start.v & (MM_BLOCK_SIZE - 1)) >> MM_PAGE_SHIFT;
	int r = 0;

	m->state = (enum block_state)b->state;
	switch (m->state) {
	case BLOCK_OWNED:
		m->store = pool_store(s->pool);
		m->frame = (frame_t){b->frame.n + (uint32_t)skip};
		m->page_bytes = is_huge(s, b) ? MM_BLOCK_SIZE : MM_PAGE_SIZE;
		m->sharers = 1;
		break;
	case BLOCK_HUGETLB:
		m->page_bytes = hugetlb_page_bytes(space_region(s, m->range.start)->huge);
		break;
	case BLOCK_SHARED:
		r = find_private(s, m);
		if (!m->is_private)
			find_shared(s, m);
		break;
	case BLOCK_EMPTY:
		find_shared(s, m);
		break;
	case BLOCK_LINEAR:
		break;
	}
	return r;
}

int space_query(struct space *s, gpa_t a, struct space_mapping *out)
{
	const struct region *region = space_region(s, a);
	uint64_t start = align_down(a.v, MM_PAGE_SIZE), end;
	enum protection protection;
	int r;

	if (!region)
		return -EFAULT;
	end = min_u64(gpa_range_end(region->ram.range),
	              align_down(start, MM_BLOCK_SIZE) + MM_BLOCK_SIZE);
	protection = space_protection(s, (gpa_t){start}, end, &end);
	*out = (struct space_mapping){
		.range = {{start}, end - start},
		.frame = FRAME_NONE,
		.page_bytes = MM_PAGE_SIZE,
		.protection = protection,
	};
	lock_take(&s->lock);
	r = describe(s, out);
	lock_drop(&s->lock);
	return r;
}

int space_next(struct space *s, gpa_t *at, struct space_mapping *out)
{
	int r;

	for (size_t i = 0; i < s->region_count; i++) {
		struct gpa_range ram = s->ram[i].range;

		if (gpa_range_end(ram) <= at->v)
			continue;
		r = space_query(s, (gpa_t){max_u64(at->v, ram.start.v)}, out);
		if (r == 0)
			at->v = gpa_range_end(out->range);
		return r;
	}
	return -ENOENT;
}

/* ---- statistics and audit ---- */

/* Scan each unbroken stretch of SHARED blocks once. */
int space_private_runs(struct space *s, struct page_runs *out)
{
	for (size_t i = 0; i < s->block_count;) {
		size_t first = i;
		int r;

		while (i < s->block_count && s->blocks[i].state == BLOCK_SHARED)
			i++;
		if (i == first) {
			i++;
			continue;
		}
		r = pagemap_private((uintptr_t)window_ptr(s, block_gpa(s, first)),
		                    (uint64_t)(i - first) << MM_BLOCK_SHIFT, PAGEMAP_BEST, out);
		if (r)
			return r;
	}
	return 0;
}

/* Lock held. What a discard has touched is cut, or was OWNED and is again. */
static bool untouched(struct space *s, struct gpa_range range)
{
	uint64_t start = range.start.v, end = gpa_range_end(range), stop;
	struct page_runs private = {0};
	bool none;

	if (gpa_map_get(&s->cut, start, end, &stop) || stop < end || !guard_is_rw(s, start, end))
		return false;
	for (uint64_t at = start; at < end; at = align_down(at, MM_BLOCK_SIZE) + MM_BLOCK_SIZE)
		if (s->blocks[block_index(s, (gpa_t){at})].state == BLOCK_OWNED)
			return false;
	none = pagemap_private((uintptr_t)window_ptr(s, range.start), range.size, PAGEMAP_BEST,
	                       &private) == 0 &&
	       private.count == 0;
	page_runs_fini(&private);
	return none;
}

bool space_untouched(struct space *s, struct gpa_range range)
{
	bool is;

	if (s->linear || space_check_range(s, range))
		return false;
	lock_take(&s->lock);
	is = s->image && untouched(s, range);
	lock_drop(&s->lock);
	return is;
}

/* Pages with data that the image has under block `index` and no cut hides. */
static uint64_t image_data(const struct space *s, size_t index)
{
	struct gpa_range ram = block_range(s, index);
	uint64_t at = ram.start.v, sum = 0;
	struct image_piece p;

	while (image_next(s, &at, gpa_range_end(ram), &p))
		sum += store_data_frames(p.store, p.frame, p.pages);
	return sum;
}

/* Pages with data that the image gives this space: all but those under OWNED blocks. */
static uint64_t count_shared(const struct space *s)
{
	size_t count;
	const struct run *run;
	uint64_t sum = 0;

	if (!s->image || s->linear)
		return 0;
	/* Block by block takes longer, but only so can what is cut be left out. */
	for (size_t i = 0; s->cut.count > 0 && i < s->block_count; i++)
		sum += s->blocks[i].state == BLOCK_OWNED ? 0 : image_data(s, i);
	if (s->cut.count > 0)
		return sum;
	run = image_runs(s->image, &count);
	for (size_t i = 0; i < count; i++)
		sum += store_data_frames(run[i].store, run[i].frame, run[i].pages);
	for (size_t i = 0; s->owned_frames > 0 && i < s->block_count; i++)
		if (s->blocks[i].state == BLOCK_OWNED)
			sum -= image_data(s, i);
	return sum;
}

static void count_owned(const struct space *s, struct space_stats *out)
{
	struct owned_run run;

	for (size_t i = 0; i < s->region_count; i++)
		if (s->regions[i].huge)
			out->reserve_frames += hugetlb_used(s->regions[i].huge) >> MM_PAGE_SHIFT;
	out->owned_committed = out->reserve_frames;
	for (size_t i = 0; next_owned(s, &i, s->block_count, &run);) {
		out->owned_committed += store_data_frames(pool_store(s->pool), run.frame,
		                                          run.ram.size >> MM_PAGE_SHIFT);
		for (size_t k = 0; k < run.count; k++)
			out->huge_blocks += is_huge(s, &s->blocks[run.first + k]);
	}
}

int space_stats(struct space *s, struct space_stats *out)
{
	struct page_runs private = {0};
	int r;

	lock_take(&s->lock);
	*out = (struct space_stats){
		.violations = atomic_load_explicit(&s->violations, memory_order_relaxed),
		.events = atomic_load_explicit(&s->events, memory_order_relaxed),
		.nomem = atomic_load_explicit(&s->nomems, memory_order_relaxed),
		.windows = atomic_load_explicit(&s->windows, memory_order_relaxed),
		.followed_blocks = atomic_load_explicit(&s->followed, memory_order_relaxed),
		.owned_frames = s->owned_frames,
		.shared_frames = count_shared(s),
		.fault_path = s->faults->name,
		.fault_why = s->faults_why,
	};
	count_owned(s, out);
	r = space_changed_runs(s, &private, &out->kept_frames);
	out->private_frames = page_runs_pages(&private);
	lock_drop(&s->lock);
	page_runs_fini(&private);
	return r;
}

/* A part of the block is protected otherwise than the rest. */
static bool guard_mixed(const struct space *s, size_t i)
{
	struct gpa_range ram = block_range(s, i);
	uint64_t end = gpa_range_end(ram), stop = end;

	if (ram.size > 0)
		(void)guard_get(s, ram.start.v, end, &stop);
	return stop != end;
}

static bool has_frames(const struct block *b)
{
	return b->state == BLOCK_OWNED || b->state == BLOCK_HUGETLB;
}

/* Of frames that it has, or had. */
static bool has_traces(const struct block *b)
{
	return b->partial || b->watched || b->mapped || b->huge || b->granted;
}

static const char *audit_block(struct space *s, size_t i)
{
	const struct block *b = &s->blocks[i];
	bool linear = s->linear && block_range(s, i).size > 0;

	if (linear != (b->state == BLOCK_LINEAR))
		return "block is LINEAR and its space is not, or the other way round";
	switch ((enum block_state)b->state) {
	case BLOCK_EMPTY:
		if (guard_mixed(s, i))
			return "EMPTY block with several protections";
		return has_traces(b) ? "EMPTY block with traces" : NULL;
	case BLOCK_LINEAR:
		return NULL;
	case BLOCK_HUGETLB:
		if (block_range(s, i).size == 0 || !space_region(s, block_gpa(s, i))->huge)
			return "HUGETLB block of a region that has no such pages";
		return has_traces(b) ? "HUGETLB block with traces" : NULL;
	case BLOCK_SHARED:
		return b->huge || b->granted || b->watched ? "SHARED block claims frames" : NULL;
	case BLOCK_OWNED:
		if (pool_refs(s->pool, b->frame) != 1)
			return "OWNED block's frames are not its alone";
		if (pool_order(s->pool, b->frame) != (int)MM_BLOCK_ORDER ||
		    !is_aligned(b->frame.n, MM_BLOCK_PAGES))
			return "OWNED block does not hold one whole 2 MiB block";
		return b->watched && !b->partial ? "OWNED block that is watched no more" : NULL;
	}
	return "block in no known state";
}

int space_audit(struct space *s)
{
	const char *wrong = NULL;
	uint64_t owned = 0;
	size_t i;
	int r;

	lock_take(&s->lock);
	for (i = 0; i < s->block_count && !wrong; i++) {
		wrong = audit_block(s, i);
		owned += has_frames(&s->blocks[i]) ? MM_BLOCK_PAGES : 0;
	}
	if (!wrong && owned != s->owned_frames)
		wrong = "count of owned frames";
	if (!wrong)
		wrong = huge_audit(s);
	if (!wrong && (!gpa_map_audit(&s->cut) || (s->cut.count > 0 && !s->image)))
		wrong = "cuts out of order, or of no image";
	if (!wrong && !gpa_map_audit(&s->guard))
		wrong = "protections out of order";
	r = !wrong && s->image ? image_audit(s->image) : 0;
	lock_drop(&s->lock);
	if (!wrong)
		return r;
	fprintf(stderr, "cowslip: space audit: %s (near block %zu)\n", wrong, i);
	return -EUCLEAN;
}
