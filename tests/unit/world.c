// SPDX-License-Identifier: MIT
#include "tests/unit/world.h"

#include <stdio.h>
#include <stdlib.h>

#include "mm/space_internal.h"

struct recount {
	struct pool *pool;
	uint32_t *refs; /* by head */
	uint64_t frames;
	uint64_t used;
};

/* One more reference on the block that holds `f`. */
static const char *recount_add(struct recount *c, frame_t f)
{
	int order = pool_order(c->pool, f);
	uint32_t head;

	if (order < 0 || f.n >= c->frames)
		return "a free block is named";
	head = (uint32_t)align_down(f.n, UINT64_C(1) << order);
	if (c->refs[head]++ == 0)
		c->used += UINT64_C(1) << order;
	return NULL;
}

static const char *recount_image(struct recount *c, const struct image *image)
{
	size_t n;
	const struct extent *e = image_extents(image, &n);
	const char *wrong = image_audit(image) ? "image audit" : NULL;

	for (size_t i = 0; i < n && !wrong; i++)
		if (e[i].store == pool_store(c->pool))
			wrong = recount_add(c, e[i].frame);
	return wrong;
}

static const char *recount_space(struct recount *c, struct space *s)
{
	const char *wrong = space_audit(s) ? "space audit" : NULL;

	lock_take(&s->lock);
	for (size_t i = 0; i < s->block_count && !wrong; i++)
		if (s->blocks[i].state == BLOCK_OWNED)
			wrong = recount_add(c, s->blocks[i].frame);
	for (size_t i = 0; i < s->spare.blocks && !wrong; i++)
		wrong = recount_add(c, s->spare.block[i].frame);
	for (size_t i = 0; i < s->spare.packs && !wrong; i++)
		wrong = recount_add(c, s->spare.pack[i].frame);
	lock_drop(&s->lock);
	return wrong;
}

/* The k-th image anybody of the world holds, with repeats. */
static struct image *nth_image(const struct world *w, size_t k)
{
	if (k < w->image_count)
		return w->images[k];
	return w->spaces[k - w->image_count] ? space_image(w->spaces[k - w->image_count]) : NULL;
}

/* Each image once, with its own count compared to how often it is held. */
static const char *recount_images(struct recount *c, const struct world *w)
{
	size_t total = w->image_count + w->space_count;
	const char *wrong = NULL;

	for (size_t k = 0; k < total && !wrong; k++) {
		struct image *image = nth_image(w, k);
		uint32_t held = 0;
		bool seen = false;

		for (size_t j = 0; j < total && image; j++) {
			bool same = nth_image(w, j) == image;

			held += same;
			seen |= same && j < k;
		}
		if (!image || seen)
			continue;
		wrong = recount_image(c, image);
		if (!wrong && image_refs(image) != held)
			wrong = "an image's count";
	}
	return wrong;
}

static const char *compare(const struct recount *c, uint64_t used)
{
	for (uint32_t n = 0; n < c->frames; n++) {
		if (c->refs[n] && pool_refs(c->pool, (frame_t){n}) != c->refs[n]) {
			fprintf(stderr, "frame %u: counted %u, pool says %u\n", n, c->refs[n],
			        pool_refs(c->pool, (frame_t){n}));
			return "a block's count";
		}
	}
	return c->used == used ? NULL : "frames nobody names are in use";
}

const char *world_check(const struct world *w)
{
	struct recount c = {.pool = w->pool};
	const char *wrong = pool_audit(w->pool) ? "pool audit" : NULL;
	struct pool_stats st;

	pool_stats(w->pool, &st);
	c.frames = st.limit_frames;
	c.refs = calloc(c.frames, sizeof(*c.refs));
	if (!c.refs)
		return "no memory to count in";
	for (size_t i = 0; i < w->space_count && !wrong; i++)
		if (w->spaces[i])
			wrong = recount_space(&c, w->spaces[i]);
	if (!wrong)
		wrong = recount_images(&c, w);
	if (!wrong)
		wrong = compare(&c, st.used_frames);
	free(c.refs);
	return wrong;
}
