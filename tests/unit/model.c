// SPDX-License-Identifier: MIT
#include "tests/unit/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mm/fault.h"
#include "mm/space_internal.h"
#include "mm/store.h"
#include "tests/unit/world.h"

enum { SPACES = 4, IMAGES = 3, REGIONS = 2 };

#define LOW_PAGES   (1024 + 3)
#define HIGH_PAGES  5
#define HIGH        (8 * MIB)
#define MODEL_BYTES ((LOW_PAGES + HIGH_PAGES) * PAGE)

/* Of one model after the other: memory that is there already is much the cheapest. */
struct model_bytes {
	uint8_t space[SPACES][MODEL_BYTES];
	uint8_t base[SPACES][MODEL_BYTES];
	uint8_t seen[SPACES][MODEL_BYTES];
	uint8_t guard[SPACES][MODEL_BYTES / PAGE];
	uint8_t image[IMAGES][MODEL_BYTES];
};

struct model {
	struct model_env env;
	uint64_t step;
	const char *op;
	struct pool *pool;
	struct ram_region ram[REGIONS];
	struct space *spaces[SPACES];
	struct image *images[IMAGES];
	struct image *base[SPACES]; /* what the space should be a clone of */
	uint8_t *space_bytes[SPACES];
	uint8_t *base_bytes[SPACES]; /* what that image holds */
	uint8_t *seen_bytes[SPACES]; /* the same, less what has been discarded */
	uint8_t *guard[SPACES];      /* enum protection, a byte for each page */
	uint8_t *image_bytes[IMAGES];
	uint64_t refused; /* operations that ran out of frames */
};

#define MODEL_ASSERT(m, cond)                                                                      \
	do {                                                                                       \
		if (!(cond))                                                                       \
			model_failed(m, #cond);                                                    \
	} while (0)

static _Noreturn void model_failed(const struct model *m, const char *what)
{
	char text[256];

	snprintf(text, sizeof(text), "step %llu, %s: %s", (unsigned long long)m->step, m->op, what);
	m->env.failed(m->env.ctx, text);
	abort();
}

/* 0..n-1 */
static uint64_t below(struct model *m, uint64_t n)
{
	return m->env.below(m->env.ctx, n);
}

/* Where a guest address lies in the flat array. */
static size_t flat(uint64_t gpa)
{
	return (size_t)(gpa < HIGH ? gpa : gpa - HIGH + LOW_PAGES * PAGE);
}

/* Of the page that holds `gpa`. */
static enum protection guard_at(const struct model *m, unsigned i, uint64_t gpa)
{
	return (enum protection)m->guard[i][flat(gpa) / PAGE];
}

/* What the first page of [r) that does not permit `access` makes of it: 0, -EACCES, -EFAULT. */
static int refusal(const struct model *m, unsigned i, struct gpa_range r, enum access access)
{
	for (uint64_t at = align_down(r.start.v, PAGE); at < gpa_range_end(r); at += PAGE) {
		enum protection p = guard_at(m, i, at);

		if (p == PROTECT_UNMAPPED)
			return -EFAULT;
		if ((unsigned)access & ~guard_permits(p))
			return -EACCES;
	}
	return 0;
}

/* --- comparing ------------------------------------------------------------------------------- */

/* What a reserved huge page holds of block `index`, whoever may see it. */
static const uint8_t *huge_bytes(struct space *s, size_t index)
{
	struct huge_page p = huge_page_of(s, index);

	return (const uint8_t *)hugetlb_ptr(p.huge, p.offset) +
	       (block_gpa(s, index).v - p.ram.start.v);
}

static bool block_matches(struct model *m, unsigned i, size_t index)
{
	static uint8_t buf[BLOCK];
	struct space *s = m->spaces[i];
	struct gpa_range r = block_range(s, index);
	const uint8_t *want = m->space_bytes[i] + flat(r.start.v);
	const struct block *b = &s->blocks[index];

	if (r.size == 0)
		return true;
	switch (space_block_state(s, r.start)) {
	case BLOCK_EMPTY:
		return memcmp(want, m->seen_bytes[i] + flat(r.start.v), r.size) == 0;
	case BLOCK_OWNED:
		if (store_read(pool_store(m->pool), b->frame, r.size / PAGE, buf))
			return false;
		return memcmp(want, buf, r.size) == 0;
	case BLOCK_SHARED:
		for (uint64_t at = 0; at < r.size; at += PAGE)
			if (!refusal(m, i, (struct gpa_range){{r.start.v + at}, PAGE},
			             ACCESS_READ) &&
			    memcmp(want + at, window_ptr(s, (gpa_t){r.start.v + at}), PAGE))
				return false;
		return true;
	case BLOCK_HUGETLB:
		return memcmp(want, huge_bytes(s, index), r.size) == 0;
	case BLOCK_LINEAR:
		break;
	}
	return false;
}

/* A walk covers all RAM once, and each run says where its bytes are. */
static void walk(struct model *m, unsigned i)
{
	static uint8_t buf[BLOCK];
	struct space *s = m->spaces[i];
	struct space_mapping map;
	gpa_t at = {0};
	uint64_t sum = 0, all = 0;

	for (unsigned k = 0; k < REGIONS; k++)
		all += m->ram[k].range.size;
	while (space_next(s, &at, &map) == 0) {
		const uint8_t *want = m->space_bytes[i] + flat(map.range.start.v);

		MODEL_ASSERT(m, map.state == space_block_state(s, map.range.start));
		MODEL_ASSERT(m, map.protection == guard_at(m, i, map.range.start.v));
		sum += map.range.size;
		if (map.state == BLOCK_HUGETLB) {
			MODEL_ASSERT(m, map.page_bytes == BLOCK && !map.store);
			continue;
		}
		if (map.is_private && !(guard_permits(map.protection) & ACCESS_READ))
			continue;
		if (map.is_private)
			memcpy(buf, window_ptr(s, map.range.start), map.range.size);
		else if (!map.store)
			memset(buf, 0, map.range.size);
		else
			MODEL_ASSERT(m, store_read(map.store, map.frame, map.range.size / PAGE,
			                           buf) == 0);
		MODEL_ASSERT(m, memcmp(want, buf, map.range.size) == 0);
	}
	MODEL_ASSERT(m, sum == all);
}

static bool reads_match(struct model *m, unsigned i)
{
	static uint8_t buf[MODEL_BYTES];
	struct space *s = m->spaces[i];

	for (unsigned k = 0; k < REGIONS; k++) {
		struct gpa_range r = m->ram[k].range;
		int want = refusal(m, i, r, ACCESS_READ);
		int e = space_read(s, r.start, buf + flat(r.start.v), r.size);

		if (e == -ENOMEM && !want)
			return true;
		if (e != want)
			return false;
		if (e)
			memcpy(buf + flat(r.start.v), m->space_bytes[i] + flat(r.start.v), r.size);
	}
	return memcmp(buf, m->space_bytes[i], MODEL_BYTES) == 0;
}

void model_audit(const struct model *m)
{
	struct world w = {m->pool, m->spaces, SPACES, m->images, IMAGES};
	const char *wrong = world_check(&w);

	if (wrong)
		model_failed(m, wrong);
}

void model_check(struct model *m, bool walks)
{
	model_audit(m);
	for (unsigned i = 0; i < SPACES; i++) {
		if (!m->spaces[i])
			continue;
		MODEL_ASSERT(m, space_image(m->spaces[i]) == m->base[i]);
		for (size_t b = 0; b < m->spaces[i]->block_count; b++)
			MODEL_ASSERT(m, block_matches(m, i, b));
		if (walks)
			walk(m, i);
	}
}

/* --- operations ------------------------------------------------------------------------------ */

/* An index at or after a random one for which `table` has (or has not) an entry; n when none. */
static unsigned pick(struct model *m, void *const *table, unsigned n, bool present)
{
	unsigned from = (unsigned)below(m, n);

	for (unsigned i = 0; i < n; i++)
		if ((table[(from + i) % n] != NULL) == present)
			return (from + i) % n;
	return n;
}

static unsigned pick_space(struct model *m, bool present)
{
	return pick(m, (void *const *)m->spaces, SPACES, present);
}

static unsigned pick_image(struct model *m, bool present)
{
	return pick(m, (void *const *)m->images, IMAGES, present);
}

static void new_in_slot(struct model *m, unsigned i, struct image *image, const uint8_t *bytes,
                        enum fault_choice faults)
{
	struct space_config c = {.pool = m->pool,
	                         .ram = m->ram,
	                         .ram_count = REGIONS,
	                         .image = image,
	                         .faults = faults,
	                         .hugetlb = m->env.hugetlb,
	                         .populate = !image && below(m, 8) == 0};
	int e = space_create(&c, &m->spaces[i]);

	MODEL_ASSERT(m, e == 0 || e == -ENOMEM);
	if (e) {
		MODEL_ASSERT(m, !m->spaces[i]);
		m->refused++;
		return;
	}
	m->base[i] = image;
	memset(m->guard[i], PROTECT_RW, MODEL_BYTES / PAGE);
	if (bytes) {
		memcpy(m->space_bytes[i], bytes, MODEL_BYTES);
		memcpy(m->base_bytes[i], bytes, MODEL_BYTES);
	} else {
		memset(m->space_bytes[i], 0, MODEL_BYTES);
		memset(m->base_bytes[i], 0, MODEL_BYTES);
	}
	memcpy(m->seen_bytes[i], m->base_bytes[i], MODEL_BYTES);
}

static void op_create(struct model *m, enum fault_choice faults)
{
	unsigned i = pick_space(m, false);

	if (i < SPACES)
		new_in_slot(m, i, NULL, NULL, faults);
}

static void op_clone(struct model *m, enum fault_choice faults)
{
	unsigned i = pick_space(m, false), k = pick_image(m, true);

	if (i < SPACES && k < IMAGES)
		new_in_slot(m, i, m->images[k], m->image_bytes[k], faults);
}

/* A run inside one region: mostly short, and often at a page's, a block's or the region's edge. */
static struct gpa_range random_run(struct model *m)
{
	struct gpa_range r = m->ram[below(m, 4) == 0].range;
	uint64_t at = below(m, r.size);
	uint64_t size = 1 + below(m, below(m, 10) ? 3 * PAGE : 400 * PAGE);

	switch (below(m, 6)) {
	case 0:
		at = align_down(at, PAGE);
		break;
	case 1:
		at = align_down(at, BLOCK);
		at -= at > 0 ? min_u64(at, below(m, 2 * PAGE)) : 0;
		break;
	case 2:
		at = r.size - min_u64(r.size, size);
		break;
	default:
		break;
	}
	return (struct gpa_range){{r.start.v + at}, min_u64(size, r.size - at)};
}

static void random_bytes(struct model *m, uint8_t *to, size_t size)
{
	uint8_t v = (uint8_t)below(m, 256), step = (uint8_t)below(m, 3);

	for (size_t i = 0; i < size; i++, v = (uint8_t)(v + step))
		to[i] = v;
}

static void op_host_write(struct model *m, enum fault_choice faults)
{
	static uint8_t buf[MODEL_BYTES];
	unsigned i = pick_space(m, true);
	struct gpa_range r = random_run(m);
	int e;

	(void)faults;
	if (i == SPACES)
		return;
	random_bytes(m, buf, r.size);
	e = space_write(m->spaces[i], r.start, buf, r.size);
	if (refusal(m, i, r, ACCESS_WRITE)) {
		MODEL_ASSERT(m, e == refusal(m, i, r, ACCESS_WRITE));
		return;
	}
	MODEL_ASSERT(m, e == 0 || e == -ENOMEM);
	if (e == 0)
		memcpy(m->space_bytes[i] + flat(r.start.v), buf, r.size);
	else
		m->refused++;
}

/* One store, as by a vCPU; asked for beforehand, because a vCPU that finds no frame waits. */
static void guest_byte(struct model *m, unsigned i, uint64_t gpa, uint8_t value)
{
	struct space *s = m->spaces[i];
	enum outcome o = space_violation(s, (struct violation){{gpa}, ACCESS_WRITE});

	switch (refusal(m, i, (struct gpa_range){{gpa}, 1}, ACCESS_WRITE)) {
	case -EFAULT:
		MODEL_ASSERT(m, o == OUTCOME_MMIO);
		return;
	case -EACCES:
		MODEL_ASSERT(m, o == OUTCOME_DENIED);
		return;
	default:
		break;
	}
	if (o != OUTCOME_RESOLVED) {
		m->refused++;
		return;
	}
	*(volatile uint8_t *)window_ptr(s, (gpa_t){gpa}) = value;
	m->space_bytes[i][flat(gpa)] = value;
}

static void op_guest_write(struct model *m, enum fault_choice faults)
{
	unsigned i = pick_space(m, true);

	(void)faults;
	for (uint64_t n = 1 + below(m, 20); i < SPACES && n > 0; n--)
		guest_byte(m, i, random_run(m).start.v, (uint8_t)below(m, 256));
}

/* So many single pages of a block that it is not worth packing them. */
static void op_scatter(struct model *m, enum fault_choice faults)
{
	unsigned i = pick_space(m, true);
	uint64_t at = BLOCK * below(m, 2) + PAGE * below(m, 4);

	(void)faults;
	for (unsigned n = 0; i < SPACES && n < 90; n++)
		guest_byte(m, i, at + n * 5 * PAGE, (uint8_t)(n + 1));
}

/* A walk comes to the start of a block, and is no more trusted: that one is to be watched. */
static void op_doubt(struct model *m, enum fault_choice faults)
{
	unsigned i = pick_space(m, true);
	uint64_t block = below(m, 2);
	struct policy_history *h;

	(void)faults;
	if (i == SPACES)
		return;
	h = &m->spaces[i]->history;
	h->streams[0] = (struct policy_stream){
		.high = block * MM_BLOCK_PAGES, .used = ++h->tick, .ahead = 1, .way = 1};
	h->unproven = 1000;
	for (uint64_t n = 1 + below(m, 3), page = 0; n > 0; n--, page += 1 + below(m, 5))
		guest_byte(m, i, block * BLOCK + page * PAGE, (uint8_t)below(m, 256));
}

/* Straight through the window, without asking: only what needs no frame. */
static void op_guest_read(struct model *m, enum fault_choice faults)
{
	unsigned i = pick_space(m, true);
	struct gpa_range r = random_run(m);

	(void)faults;
	if (i == SPACES || space_block_state(m->spaces[i], r.start) == BLOCK_EMPTY)
		return;
	r.size = min_u64(r.size, BLOCK - (r.start.v & (BLOCK - 1)));
	if (refusal(m, i, r, ACCESS_READ))
		return;
	MODEL_ASSERT(m, memcmp(window_ptr(m->spaces[i], r.start),
	                       m->space_bytes[i] + flat(r.start.v), r.size) == 0);
}

static void op_read_all(struct model *m, enum fault_choice faults)
{
	unsigned i = pick_space(m, true);

	(void)faults;
	if (i < SPACES && below(m, 4) == 0)
		MODEL_ASSERT(m, reads_match(m, i));
}

static void op_put_image(struct model *m, enum fault_choice faults)
{
	unsigned k = pick_image(m, true);

	(void)faults;
	if (k == IMAGES)
		return;
	image_put(m->images[k]);
	m->images[k] = NULL;
}

static void op_publish(struct model *m, enum fault_choice faults)
{
	unsigned i = pick_space(m, true), k;
	int e;

	if (pick_image(m, false) == IMAGES)
		op_put_image(m, faults);
	k = pick_image(m, false);
	if (i == SPACES)
		return;
	e = space_publish(m->spaces[i], &m->step, sizeof(m->step), &m->images[k]);
	MODEL_ASSERT(m, e == 0 || e == -ENOMEM);
	if (e) {
		MODEL_ASSERT(m, !m->images[k]);
		m->refused++;
		return;
	}
	m->base[i] = m->images[k];
	memcpy(m->image_bytes[k], m->space_bytes[i], MODEL_BYTES);
	memcpy(m->base_bytes[i], m->space_bytes[i], MODEL_BYTES);
	memcpy(m->seen_bytes[i], m->space_bytes[i], MODEL_BYTES);
}

/* While the guest runs, and stopped: no byte changes. */
static void op_publish_ahead(struct model *m, enum fault_choice faults)
{
	unsigned i = pick_space(m, true);
	int e;

	(void)faults;
	if (i == SPACES)
		return;
	e = space_publish_ahead(m->spaces[i]);
	MODEL_ASSERT(m, e >= 0 || e == -ENOMEM);
	if (below(m, 2))
		MODEL_ASSERT(m, space_copy_ahead(m->spaces[i], (unsigned)below(m, 3)) == 0);
}

/* No byte changes. Where a reset went back to nothing, it goes back to what changed hands. */
static void op_share_ahead(struct model *m, enum fault_choice faults)
{
	unsigned i = pick_space(m, true);
	const struct extent *e;
	size_t count;

	(void)faults;
	if (i == SPACES)
		return;
	MODEL_ASSERT(m, space_share_ahead(m->spaces[i]) == 0);
	if (m->base[i] == space_image(m->spaces[i]))
		return;
	MODEL_ASSERT(m, !m->base[i]);
	m->base[i] = space_image(m->spaces[i]);
	memset(m->base_bytes[i], 0, MODEL_BYTES);
	e = image_extents(m->base[i], &count);
	for (; count > 0; count--, e++)
		memcpy(m->base_bytes[i] + flat(e->gpa.v), m->space_bytes[i] + flat(e->gpa.v),
		       (size_t)e->pages * PAGE);
}

static void op_reset(struct model *m, enum fault_choice faults)
{
	unsigned i = pick_space(m, true);

	(void)faults;
	if (i == SPACES)
		return;
	MODEL_ASSERT(m, space_reset(m->spaces[i]) == 0);
	memcpy(m->space_bytes[i], m->base_bytes[i], MODEL_BYTES);
	for (size_t page = 0; page < MODEL_BYTES / PAGE; page++)
		if (m->guard[i][page] == PROTECT_UNMAPPED)
			memset(m->space_bytes[i] + page * PAGE, 0, PAGE);
	memcpy(m->seen_bytes[i], m->space_bytes[i], MODEL_BYTES);
}

/* Whole pages inside one region; sometimes whole blocks, or all of it. */
static struct gpa_range random_pages(struct model *m)
{
	struct gpa_range in = m->ram[below(m, 4) == 0].range;
	struct gpa_range r = random_run(m);
	uint64_t align = below(m, 4) ? PAGE : BLOCK;
	uint64_t end = min_u64(align_up(gpa_range_end(r), align), gpa_range_end(in));

	if (below(m, 20) == 0 || !gpa_range_has(in, r.start))
		return in;
	r.start.v = align_down(r.start.v, align);
	r.size = end - r.start.v;
	return r;
}

static void op_discard(struct model *m, enum fault_choice faults)
{
	unsigned i = pick_space(m, true);
	struct gpa_range r = random_pages(m);

	(void)faults;
	if (i == SPACES)
		return;
	MODEL_ASSERT(m, space_discard(m->spaces[i], r) == refusal(m, i, r, ACCESS_WRITE));
	if (refusal(m, i, r, ACCESS_WRITE))
		return;
	memset(m->space_bytes[i] + flat(r.start.v), 0, r.size);
	memset(m->seen_bytes[i] + flat(r.start.v), 0, r.size);
}

/* Mostly back to read-write, so that something can still be done with it. */
static void op_protect(struct model *m, enum fault_choice faults)
{
	static const enum protection kinds[] = {PROTECT_RW, PROTECT_RW, PROTECT_RW,
	                                        PROTECT_RO, PROTECT_RO, PROTECT_NONE};
	unsigned i = pick_space(m, true);
	enum protection p = kinds[below(m, sizeof(kinds) / sizeof(kinds[0]))];
	struct gpa_range r = p == PROTECT_RW ? m->ram[below(m, 2)].range : random_pages(m);
	int e;

	(void)faults;
	if (i == SPACES)
		return;
	e = space_protect(m->spaces[i], r, p);
	if (refusal(m, i, r, (enum access)0) || e) {
		MODEL_ASSERT(m, e == (refusal(m, i, r, (enum access)0) ? -EFAULT : -ENOMEM));
		return;
	}
	memset(m->guard[i] + flat(r.start.v) / PAGE, (int)p, r.size / PAGE);
}

static void op_populate(struct model *m, enum fault_choice faults)
{
	unsigned i = pick_space(m, true);
	struct gpa_range r = random_pages(m);
	int e;

	(void)faults;
	if (i == SPACES)
		return;
	e = space_populate(m->spaces[i], r);
	if (refusal(m, i, r, (enum access)0)) {
		MODEL_ASSERT(m, e == -EFAULT);
		return;
	}
	MODEL_ASSERT(m, e == 0 || e == -ENOMEM);
	m->refused += e != 0;
	if (e)
		return;
	for (uint64_t at = r.start.v; at < gpa_range_end(r); at += PAGE)
		MODEL_ASSERT(m, space_block_state(m->spaces[i], (gpa_t){at}) != BLOCK_EMPTY);
}

static void op_unmap(struct model *m, enum fault_choice faults)
{
	unsigned i = pick_space(m, true);
	struct gpa_range r = random_pages(m);
	int e;

	(void)faults;
	if (i == SPACES)
		return;
	r.size = min_u64(r.size, 16 * PAGE);
	e = space_unmap(m->spaces[i], r);
	if (refusal(m, i, r, (enum access)0) || e) {
		MODEL_ASSERT(m, e == (refusal(m, i, r, (enum access)0) ? -EFAULT : -ENOMEM));
		return;
	}
	memset(m->guard[i] + flat(r.start.v) / PAGE, PROTECT_UNMAPPED, r.size / PAGE);
	memset(m->space_bytes[i] + flat(r.start.v), 0, r.size);
	memset(m->seen_bytes[i] + flat(r.start.v), 0, r.size);
}

static void op_destroy(struct model *m, enum fault_choice faults)
{
	unsigned i = pick_space(m, true);

	(void)faults;
	if (i == SPACES)
		return;
	space_destroy(m->spaces[i]);
	m->spaces[i] = NULL;
	m->base[i] = NULL;
}

static const struct {
	const char *name;
	unsigned weight;
	void (*run)(struct model *m, enum fault_choice faults);
} ops[] = {
	{"create", 6, op_create},           {"clone", 14, op_clone},
	{"host write", 22, op_host_write},  {"guest write", 22, op_guest_write},
	{"scatter", 4, op_scatter},         {"doubt", 6, op_doubt},
	{"guest read", 10, op_guest_read},  {"read all", 4, op_read_all},
	{"publish", 10, op_publish},        {"publish ahead", 4, op_publish_ahead},
	{"share ahead", 3, op_share_ahead}, {"reset", 6, op_reset},
	{"discard", 12, op_discard},        {"protect", 8, op_protect},
	{"populate", 3, op_populate},       {"unmap", 1, op_unmap},
	{"put image", 3, op_put_image},     {"destroy", 7, op_destroy},
};

#define OPS (sizeof(ops) / sizeof(ops[0]))

void model_step(struct model *m)
{
	enum fault_choice faults = m->env.faults;
	unsigned total = 0;
	uint64_t turn;
	size_t o = 0;

	if (faults == FAULTS_AUTO)
		faults = below(m, 2) ? FAULTS_KERNEL : FAULTS_UFFD;
	for (size_t i = 0; i < OPS; i++)
		total += ops[i].weight;
	turn = below(m, total);
	while (turn >= ops[o].weight)
		turn -= ops[o++].weight;
	m->op = ops[o].name;
	m->step++;
	ops[o].run(m, faults);
}

/* --- life ------------------------------------------------------------------------------------ */

struct model *model_open(const struct model_env *env, uint64_t pool_bytes)
{
	static struct model_bytes bytes;
	struct model *m = calloc(1, sizeof(*m));

	if (!m)
		abort();
	m->env = *env;
	m->op = "start";
	MODEL_ASSERT(m, pool_create(pool_bytes, &m->pool) == 0);
	m->ram[0] = (struct ram_region){{{0}, LOW_PAGES * PAGE}, PAGE_SIZE_AUTO};
	if (env->hugetlb)
		m->ram[0] = (struct ram_region){{{0}, LOW_PAGES / 512 * BLOCK}, PAGE_SIZE_2M};
	m->ram[1] = (struct ram_region){{{HIGH}, HIGH_PAGES * PAGE}, PAGE_SIZE_4K};
	for (unsigned i = 0; i < SPACES; i++) {
		m->space_bytes[i] = bytes.space[i];
		m->base_bytes[i] = bytes.base[i];
		m->seen_bytes[i] = bytes.seen[i];
		m->guard[i] = bytes.guard[i];
	}
	for (unsigned k = 0; k < IMAGES; k++)
		m->image_bytes[k] = bytes.image[k];
	return m;
}

uint64_t model_close(struct model *m)
{
	uint64_t refused = m->refused;
	struct pool_stats st;

	for (unsigned i = 0; i < SPACES; i++)
		space_destroy(m->spaces[i]);
	for (unsigned k = 0; k < IMAGES; k++)
		image_put(m->images[k]);
	m->op = "end";
	pool_stats(m->pool, &st);
	MODEL_ASSERT(m, pool_audit(m->pool) == 0);
	MODEL_ASSERT(m, st.used_frames == 0);
	MODEL_ASSERT(m, st.retired_frames == 0);
	MODEL_ASSERT(m, st.committed_frames == 0);
	pool_put(m->pool);
	free(m);
	return refused;
}
