// SPDX-License-Identifier: MIT
#include "mm/frame.h"

#include <sys/mman.h>

#include "mm/check.h"

#define NONE UINT32_MAX

static uint32_t frames_of(unsigned order)
{
	return UINT32_C(1) << order;
}

/* Where a head of `order` at frame `n` is described. */
static struct frame_info *entry(const struct frame_table *t, uint32_t n, unsigned order)
{
	return order >= MM_BLOCK_ORDER ? &t->big[n >> MM_BLOCK_ORDER] : &t->small[n];
}

static bool is_head(const struct frame_info *e)
{
	return e->state != FRAME_NO_HEAD && e->state != FRAME_SPLIT;
}

static void *table_map(size_t entries)
{
	void *p = mmap(NULL, entries * sizeof(struct frame_info), PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	/* Entries are touched far apart: a huge page for each would not be "until used". */
	madvise(p, entries * sizeof(struct frame_info), MADV_NOHUGEPAGE);
	return p;
}

static size_t big_entries(const struct frame_table *t)
{
	return (t->count + MM_BLOCK_PAGES - 1) >> MM_BLOCK_ORDER;
}

int frame_table_init(struct frame_table *t, uint32_t count)
{
	*t = (struct frame_table){.count = count};
	for (unsigned o = 0; o <= MM_HUGE_ORDER; o++)
		t->free_head[o] = NONE;
	t->big = table_map(big_entries(t));
	if (!t->big)
		return -ENOMEM;
	t->small = table_map(count);
	if (!t->small) {
		frame_table_fini(t);
		return -ENOMEM;
	}
	return 0;
}

void frame_table_fini(struct frame_table *t)
{
	if (t->big)
		munmap(t->big, big_entries(t) * sizeof(*t->big));
	if (t->small)
		munmap(t->small, (size_t)t->count * sizeof(*t->small));
	*t = (struct frame_table){0};
}

static void list_add(struct frame_table *t, uint32_t n, unsigned order)
{
	struct frame_info *e = entry(t, n, order);
	uint32_t next = t->free_head[order];

	*e = (struct frame_info){
		.prev = NONE, .next = next, .order = (uint8_t)order, .state = FRAME_FREE};
	if (next != NONE)
		entry(t, next, order)->prev = n;
	t->free_head[order] = n;
}

/* Take a free head out of its list and forget it. */
static void list_del(struct frame_table *t, uint32_t n, unsigned order)
{
	struct frame_info *e = entry(t, n, order);

	CHECK(e->state == FRAME_FREE && e->order == order);
	if (e->prev != NONE)
		entry(t, e->prev, order)->next = e->next;
	else
		t->free_head[order] = e->next;
	if (e->next != NONE)
		entry(t, e->next, order)->prev = e->prev;
	*e = (struct frame_info){0};
}

/* Bring in the next chunk: the largest aligned one that fits below the limit. */
static bool grow(struct frame_table *t)
{
	unsigned order = MM_HUGE_ORDER;

	if (t->grown == t->count)
		return false;
	while (!is_aligned(t->grown, frames_of(order)) || frames_of(order) > t->count - t->grown)
		order--;
	list_add(t, t->grown, order);
	t->grown += frames_of(order);
	return true;
}

/* Halve the free block at `n` until a block of `order` holds `want`; that one is taken out. */
static void carve(struct frame_table *t, uint32_t n, unsigned from, unsigned order, uint32_t want)
{
	list_del(t, n, from);
	while (from > order) {
		uint32_t half = frames_of(--from);

		if (from + 1 == MM_BLOCK_ORDER)
			t->big[n >> MM_BLOCK_ORDER].state = FRAME_SPLIT;
		if (want >= n + half) {
			list_add(t, n, from);
			n += half;
		} else {
			list_add(t, n + half, from);
		}
	}
	CHECK(n == want);
	*entry(t, n, order) =
		(struct frame_info){.refs = 1, .order = (uint8_t)order, .state = FRAME_USED};
	t->used += frames_of(order);
	if (t->used > t->peak)
		t->peak = t->used;
}

static bool alloc_at(struct frame_table *t, unsigned order, uint32_t want)
{
	frame_t head;
	const struct frame_info *e;

	if (!is_aligned(want, frames_of(order)) || want >= t->count)
		return false;
	while (want >= t->grown)
		grow(t);
	e = frame_find(t, (frame_t){want}, &head);
	if (!e || e->state != FRAME_FREE || e->order < order)
		return false;
	carve(t, head.n, e->order, order, want);
	return true;
}

int frame_alloc(struct frame_table *t, unsigned order, frame_t hint, frame_t *out)
{
	if (hint.n != NONE && alloc_at(t, order, hint.n)) {
		*out = hint;
		return 0;
	}
	do {
		for (unsigned o = order; o <= MM_HUGE_ORDER; o++) {
			uint32_t n = t->free_head[o];

			if (n == NONE)
				continue;
			carve(t, n, o, order, n);
			*out = (frame_t){n};
			return 0;
		}
	} while (grow(t));
	return -ENOMEM;
}

static struct frame_info *find_small(struct frame_table *t, uint32_t n, frame_t *head)
{
	for (unsigned o = 0; o < MM_BLOCK_ORDER; o++) {
		uint32_t h = (uint32_t)align_down(n, frames_of(o));
		struct frame_info *e = &t->small[h];

		if (is_head(e) && e->order >= o) {
			*head = (frame_t){h};
			return e;
		}
	}
	return NULL;
}

struct frame_info *frame_find(struct frame_table *t, frame_t f, frame_t *head)
{
	if (f.n >= t->grown)
		return NULL;
	if (t->big[f.n >> MM_BLOCK_ORDER].state == FRAME_SPLIT)
		return find_small(t, f.n, head);
	for (unsigned o = MM_BLOCK_ORDER; o <= MM_HUGE_ORDER; o++) {
		uint32_t h = (uint32_t)align_down(f.n, frames_of(o));
		struct frame_info *e = entry(t, h, o);

		if (is_head(e) && e->order >= o) {
			*head = (frame_t){h};
			return e;
		}
	}
	/* The limit's tail may be brought in as blocks below 2 MiB without a split. */
	return find_small(t, f.n, head);
}

int frame_ref(struct frame_table *t, frame_t f)
{
	frame_t head;
	struct frame_info *e = frame_find(t, f, &head);

	CHECK(e && e->state == FRAME_USED);
	if (e->refs == UINT32_MAX)
		return -EOVERFLOW;
	e->refs++;
	return 0;
}

void frame_split(struct frame_table *t, frame_t head)
{
	const struct frame_info *e = entry(t, head.n, MM_BLOCK_ORDER);
	uint32_t end;

	CHECK(e->state == FRAME_USED && e->order >= MM_BLOCK_ORDER && e->refs == 1);
	end = head.n + frames_of(e->order);
	for (uint32_t n = head.n; n < end; n += frames_of(MM_BLOCK_ORDER))
		*entry(t, n, MM_BLOCK_ORDER) = (struct frame_info){
			.refs = 1, .order = MM_BLOCK_ORDER, .state = FRAME_USED};
}

bool frame_unref(struct frame_table *t, frame_t f, frame_t *head, unsigned *order)
{
	struct frame_info *e = frame_find(t, f, head);

	CHECK(e && e->state == FRAME_USED && e->refs > 0);
	*order = e->order;
	if (--e->refs > 0)
		return false;
	e->state = FRAME_DYING;
	return true;
}

bool frame_free(struct frame_table *t, frame_t head)
{
	frame_t h;
	struct frame_info *e = frame_find(t, head, &h);
	unsigned order;
	bool whole = false;
	uint32_t n = head.n;

	CHECK(e && h.n == head.n && e->state == FRAME_DYING);
	order = e->order;
	t->used -= frames_of(order);
	*e = (struct frame_info){0};
	while (order < MM_HUGE_ORDER) {
		uint32_t buddy = n ^ frames_of(order);
		const struct frame_info *b;

		if ((uint64_t)buddy + frames_of(order) > t->grown)
			break;
		b = entry(t, buddy, order);
		if (b->state != FRAME_FREE || b->order != order)
			break;
		list_del(t, buddy, order);
		n &= ~frames_of(order);
		order++;
		/* Not split any more, also where the block goes on to join one below it. */
		if (order == MM_BLOCK_ORDER) {
			t->big[n >> MM_BLOCK_ORDER] = (struct frame_info){0};
			whole = true;
		}
	}
	list_add(t, n, order);
	return whole;
}

bool frame_recall(struct frame_table *t, frame_t head)
{
	uint32_t peak = t->peak;

	if (!alloc_at(t, MM_BLOCK_ORDER, head.n))
		return false;
	t->peak = peak;
	*entry(t, head.n, MM_BLOCK_ORDER) =
		(struct frame_info){.order = MM_BLOCK_ORDER, .state = FRAME_DYING};
	return true;
}

void frame_retire(struct frame_table *t, frame_t head)
{
	frame_t h;
	struct frame_info *e = frame_find(t, head, &h);

	CHECK(e && h.n == head.n && e->state == FRAME_DYING);
	e->state = FRAME_RETIRED;
	t->used -= frames_of(e->order);
	t->retired += frames_of(e->order);
}

static const char *audit_free_lists(const struct frame_table *t, uint64_t *free_frames)
{
	for (unsigned o = 0; o <= MM_HUGE_ORDER; o++) {
		uint32_t prev = NONE;

		for (uint32_t n = t->free_head[o]; n != NONE; n = entry(t, n, o)->next) {
			const struct frame_info *e = entry(t, n, o);

			if (e->state != FRAME_FREE || e->order != o || e->prev != prev)
				return "free list: entry does not belong";
			if (!is_aligned(n, frames_of(o)) || n + frames_of(o) > t->grown)
				return "free list: block misaligned or out of bounds";
			*free_frames += frames_of(o);
			prev = n;
		}
	}
	return NULL;
}

const char *frame_table_audit(const struct frame_table *t)
{
	uint64_t in_state[FRAME_SPLIT + 1] = {0};
	uint64_t listed = 0;
	const char *wrong = audit_free_lists(t, &listed);

	if (wrong)
		return wrong;
	for (uint32_t n = 0; n < t->grown;) {
		frame_t head;
		/* frame_find() only reads; it returns a writable entry for its other callers. */
		const struct frame_info *e =
			frame_find((struct frame_table *)(uintptr_t)t, (frame_t){n}, &head);

		if (!e || head.n != n)
			return "frame table: frame outside any block";
		if ((e->state == FRAME_USED) != (e->refs > 0))
			return "frame table: count and state disagree";
		in_state[e->state] += frames_of(e->order);
		n += frames_of(e->order);
	}
	if (in_state[FRAME_FREE] != listed)
		return "free lists and table disagree";
	if (in_state[FRAME_USED] + in_state[FRAME_DYING] != t->used)
		return "used counter and table disagree";
	if (in_state[FRAME_RETIRED] != t->retired)
		return "retired counter and table disagree";
	return NULL;
}
