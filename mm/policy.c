// SPDX-License-Identifier: MIT
#include "mm/policy.h"

/* A walk enters the next block within this many pages of the edge it shares with the last one. */
#define EDGE_PAGES 64u

/* Pages brought in by the first, second, ... event of a block; then the whole block. */
static const unsigned cluster_pages[] = {16, 64};
#define CLUSTERS (sizeof(cluster_pages) / sizeof(cluster_pages[0]))

static bool walks_in(const struct policy_input *in)
{
	return (in->before_full && in->page < EDGE_PAGES) ||
	       (in->after_full && in->page >= MM_BLOCK_PAGES - EDGE_PAGES);
}

static struct policy_choice cluster(unsigned page, unsigned pages)
{
	return (struct policy_choice){page & ~(pages - 1u), pages};
}

struct policy_choice policy_choose(const struct policy_input *in)
{
	const struct policy_choice whole = {0, MM_BLOCK_PAGES};

	switch (in->page_size) {
	case PAGE_SIZE_2M:
	case PAGE_SIZE_1G:
		return whole;
	case PAGE_SIZE_4K:
		return cluster(in->page, cluster_pages[0]);
	case PAGE_SIZE_AUTO:
		break;
	}
	if (in->events >= CLUSTERS || walks_in(in))
		return whole;
	return cluster(in->page, cluster_pages[in->events]);
}
