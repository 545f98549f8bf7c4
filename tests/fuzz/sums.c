// SPDX-License-Identifier: MIT
#include "tests/fuzz/sums.h"

#include <string.h>
#include <xxhash.h>

#include "vmm/snapshot_format.h"

static uint64_t sum_of(const uint8_t *data, size_t size, uint64_t offset, uint64_t want)
{
	if (offset > size || want > size - offset)
		return 0;
	return XXH3_64bits(data + offset, want);
}

void fuzz_fix_sums(uint8_t *data, size_t size)
{
	struct snap_header h;

	memcpy(&h, data, sizeof(h));
	memcpy(h.magic, SNAPSHOT_MAGIC, sizeof(h.magic));
	h.version = SNAPSHOT_VERSION;
	h.state_sum = sum_of(data, size, h.state_offset, h.state_size);
	h.extents_sum = sum_of(data, size, h.extents_offset, h.extent_count * 32);
	h.pieces_sum = sum_of(data, size, h.pieces_offset, h.piece_count * 24);
	h.layers_sum = sum_of(data, size, h.layers_offset, h.layers_size);
	h.header_sum = snap_header_sum(&h);
	memcpy(data, &h, sizeof(h));
}
