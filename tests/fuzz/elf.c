// SPDX-License-Identifier: MIT
/*
 * tests/fuzz/elf.c - libFuzzer on the loader of static programs.
 *
 * The input is the file. What must hold: a program that loads lies in RAM above the least address,
 * with its entry inside; one that does not leaves a reason; nothing crashes or leaks.
 */
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/check.h"
#include "mm/pool.h"
#include "mm/space.h"
#include "vmm/elf.h"
#include "vmm/kernel.h"

#define RAM_SIZE  (UINT64_C(8) << 20)
#define LOAD_MIN  (UINT64_C(1) << 20)
#define INPUT_MAX (UINT64_C(1) << 18)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void load(const char *path)
{
	static const struct ram_region ram = {{{0}, RAM_SIZE}, PAGE_SIZE_AUTO};
	struct space_config config = {.ram = &ram, .ram_count = 1, .faults = FAULTS_KERNEL};
	struct elf_image out;
	struct space *space;
	enum kernel_kind kind;
	char why[256] = "";

	(void)kernel_probe(path, &kind, NULL, why, sizeof(why));
	CHECK(pool_create(2 * RAM_SIZE, &config.pool) == 0);
	CHECK(space_create(&config, &space) == 0);
	if (elf_load(space, path, EM_X86_64, (gpa_t){LOAD_MIN}, &out, why, sizeof(why)) == 0)
		CHECK(out.low.v >= LOAD_MIN && out.low.v <= out.entry.v &&
		      out.entry.v < out.high.v && out.high.v <= RAM_SIZE);
	else
		CHECK(why[0] != '\0');
	CHECK(space_audit(space) == 0);
	space_destroy(space);
	pool_put(config.pool);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[64];
	int fd;

	if (size > INPUT_MAX)
		return -1;
	fd = memfd_create("fuzz", MFD_CLOEXEC);
	CHECK(fd >= 0 && (size == 0 || write(fd, data, size) == (ssize_t)size));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	load(path);
	close(fd);
	return 0;
}
