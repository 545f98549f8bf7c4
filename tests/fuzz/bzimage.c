// SPDX-License-Identifier: MIT
/*
 * tests/fuzz/bzimage.c - libFuzzer on the loaders of operating systems' kernels, bzImage and PVH.
 *
 * The input is the file; its last two bytes also choose the size of RAM and of the initrd. What
 * must hold: nothing outside the file is read and nothing outside RAM written; a kernel that is
 * refused leaves a reason.
 */
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "mm/check.h"

#define INPUT_MAX (UINT64_C(1) << 18)
#define MIB       (UINT64_C(1) << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct source {
	const uint8_t *bytes;
	uint64_t size;
};

static int read_source(void *ctx, uint64_t offset, void *to, size_t size)
{
	const struct source *s = ctx;

	CHECK(offset <= s->size && size <= s->size - offset);
	if (size)
		memcpy(to, s->bytes + offset, size);
	return 0;
}

/* The sum is there for the bytes to be read. */
struct ram {
	uint64_t size;
	uint64_t sum;
};

static int write_ram(void *ctx, gpa_t to, const void *from, size_t size)
{
	const uint8_t *bytes = from;
	struct ram *r = ctx;

	CHECK(to.v <= r->size && size <= r->size - to.v);
	for (size_t i = 0; i < size; i += 61)
		r->sum += bytes[i];
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct source image = {data, size}, initrd = {data, size};
	struct ram ram = {0};
	struct ram_region region = {{{0}, 0}, PAGE_SIZE_AUTO};
	const struct arch_writer writer = {write_ram, &ram};
	struct arch_kernel k = {
		.image = {read_source, &image, size, "kernel"},
		.cmdline = "console=ttyS0",
		.ram = &region,
		.ram_count = 1,
		.cpus = 2,
	};
	struct arch_kernel_entry entry;
	const char *format;
	char why[256] = "";

	if (size < 2 || size > INPUT_MAX)
		return -1;
	ram.size = region.range.size = (2 + data[size - 1]) * MIB;
	initrd.size = data[size - 2] * size / 256;
	k.initrd = (struct arch_reader){read_source, &initrd, initrd.size, "initrd"};
	CHECK(arch_kernel_probe(&k.image, &format) == 0);
	if (arch_kernel_load(&writer, &k, &entry, why, sizeof(why)))
		CHECK(why[0] != '\0');
	else
		CHECK(entry.start.v < ram.size && entry.info.v < ram.size);
	return 0;
}
