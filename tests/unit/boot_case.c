// SPDX-License-Identifier: MIT
#include "tests/unit/boot_case.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct boot_case bc;

const struct ram_region bc_one_region[] = {{{{0}, RAM_SIZE}, PAGE_SIZE_AUTO}};

static int write_ram(void *ctx, gpa_t to, const void *from, size_t size)
{
	(void)ctx;
	if (bc.writes_left == 0)
		return -EIO;
	bc.writes_left -= bc.writes_left > 0;
	cr_assert(to.v < RAM_SIZE && size <= RAM_SIZE - to.v, "%#lx + %zu", to.v, size);
	memcpy(bc.ram + to.v, from, size);
	for (uint64_t page = to.v / 4096; size > 0 && page <= (to.v + size - 1) / 4096; page++)
		bc.written[page] = true;
	return 0;
}

static const struct arch_writer writer = {write_ram, NULL};

/* Holds the loader to its promise: nothing beyond the file's end is asked for. */
static int read_bytes(void *ctx, uint64_t offset, void *to, size_t size)
{
	uint64_t length = ctx == bc.image ? bc.kernel.image.size : bc.kernel.initrd.size;

	if (bc.reads_left == 0)
		return -EREMOTEIO;
	bc.reads_left -= bc.reads_left > 0;
	cr_assert(offset <= length && size <= length - offset, "%#lx + %zu", offset, size);
	memcpy(to, (uint8_t *)ctx + offset, size);
	return 0;
}

void bc_put16(size_t at, uint16_t v)
{
	memcpy(bc.image + at, &v, sizeof(v));
}

void bc_put32(size_t at, uint32_t v)
{
	memcpy(bc.image + at, &v, sizeof(v));
}

void bc_put64(size_t at, uint64_t v)
{
	memcpy(bc.image + at, &v, sizeof(v));
}

uint64_t bc_get(uint64_t at, size_t size)
{
	uint64_t v = 0;

	memcpy(&v, bc.ram + at, size);
	return v;
}

static void fill(uint8_t *to, size_t size, unsigned seed)
{
	for (size_t i = 0; i < size; i++)
		to[i] = (uint8_t)(i * 7 + i / 251 + seed);
}

void bc_setup(void)
{
	free(bc.ram);
	bc.ram = calloc(1, RAM_SIZE);
	cr_assert_not_null(bc.ram);
	memset(bc.written, 0, sizeof(bc.written));
	bc.writes_left = bc.reads_left = -1;
	fill(bc.initrd, sizeof(bc.initrd), 9);
	fill(bc.image, sizeof(bc.image), 1);
	bc.kernel = (struct arch_kernel){
		.image = {read_bytes, bc.image, IMAGE_SIZE, "vmlinuz"},
		.initrd = {read_bytes, bc.initrd, INITRD_SIZE, "initrd.img"},
		.cmdline = "console=ttyS0 a=b",
		.ram = bc_one_region,
		.ram_count = 1,
		.cpus = 3,
	};
	bc.entry = (struct arch_kernel_entry){0};
}

void bc_make_bzimage(void)
{
	bc_setup();
	memset(bc.image, 0xff, 0x1f1); /* none of it may get into the zero page */
	memset(bc.image + 0x1f1, 0, 0x290 - 0x1f1);
	bc.image[H_SECTS] = SECTS;
	bc_put32(H_SYSSIZE, SYSSIZE);
	bc_put16(H_BOOT_FLAG, 0xaa55);
	bc.image[0x200] = 0xeb;
	bc.image[H_JUMP] = 0x6a;
	bc_put32(H_MAGIC, 0x53726448);
	bc_put16(H_VERSION, 0x020f);
	bc.image[H_LOADFLAGS] = 1;
	bc_put32(H_INITRD_MAX, 0x7fffffff);
	bc_put32(H_ALIGN, 2 * MIB);
	bc_put16(H_XLOADFLAGS, 1);
	bc_put32(H_CMD_SIZE, 2047);
	bc_put64(H_PREF, PREF);
	bc_put32(H_INIT_SIZE, INIT_SIZE);
	bc_put32(0x268, 0xabcd); /* a field of ours must come through as it is */
	memset(bc.image + 0x26c, 0xee, 0x290 - 0x26c); /* and what follows the header must not */
}

void bc_free(void)
{
	free(bc.ram);
	bc.ram = NULL;
}

int bc_load(void)
{
	memset(bc.why, 0x55, sizeof(bc.why));
	return arch_kernel_load(&writer, &bc.kernel, &bc.entry, bc.why, sizeof(bc.why));
}

bool bc_untouched(void)
{
	for (size_t i = 0; i < RAM_SIZE / 4096; i++)
		if (bc.written[i])
			return false;
	return true;
}

void bc_refused(int err, const char *said)
{
	int got = bc_load();

	cr_assert_eq(got, err, "%d instead of %d, \"%s\" wanted: %s", got, err, said, bc.why);
	cr_assert_not_null(strstr(bc.why, said), "\"%s\" instead of \"%s\"", bc.why, said);
	cr_assert_null(strchr(bc.why, '\n'));
	cr_assert(bc_untouched(), "%s", bc.why);
}

void bc_loads(void)
{
	cr_assert_eq(bc_load(), 0, "%s", bc.why);
	cr_assert_eq(bc.why[0], '\0');
}
