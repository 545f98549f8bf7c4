// SPDX-License-Identifier: MIT
#include "vmm/pmem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "arch/arch.h"

/*
 * Open `path` as a store. O_NONBLOCK: a FIFO must not make us wait for a writer before we can
 * refuse it. Return: 0 or -errno.
 */
static int open_store(const char *path, struct store **out)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int r;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		r = -errno;
	else if (!S_ISREG(st.st_mode) || st.st_size == 0)
		r = -EINVAL;
	else
		r = store_open_file(fd, (uint64_t)st.st_size, out);
	if (r)
		close(fd);
	return r;
}

/* One extent for each 2 MiB block of the file. NULL: out of memory. */
static struct extent *list_extents(struct store *store, gpa_t at, size_t *count)
{
	uint64_t pages = align_up(store->size, MM_PAGE_SIZE) >> MM_PAGE_SHIFT;
	struct extent *e;

	*count = (size_t)((pages + MM_BLOCK_PAGES - 1) >> MM_BLOCK_ORDER);
	e = calloc(*count, sizeof(*e));
	for (size_t i = 0; e && i < *count; i++) {
		uint64_t first = (uint64_t)i << MM_BLOCK_ORDER;

		e[i] = (struct extent){
			.gpa = {at.v + (first << MM_PAGE_SHIFT)},
			.pages = (uint32_t)min_u64(pages - first, MM_BLOCK_PAGES),
			.frame = {(uint32_t)first},
			.store = store,
		};
	}
	return e;
}

static int make_image(const struct ram_region *ram, size_t count, struct store *store,
                      struct image **out, struct gpa_range *pmem)
{
	struct ram_region regions[IMAGE_MAX_REGIONS];
	struct image_parts parts = {.ram = regions, .ram_count = count + 1};
	struct extent *extents;
	int r;

	if (count == 0 || count >= IMAGE_MAX_REGIONS)
		return -EINVAL;
	memcpy(regions, ram, count * sizeof(*ram));
	pmem->start.v = align_up(max_u64(gpa_range_end(ram[count - 1].range), arch_info.pmem_min.v),
	                         max_u64(arch_info.pmem_align, MM_BLOCK_SIZE));
	pmem->size = align_up(store->size, MM_BLOCK_SIZE);
	regions[count] = (struct ram_region){*pmem, PAGE_SIZE_AUTO};
	extents = list_extents(store, pmem->start, &parts.extent_count);
	if (!extents)
		return -ENOMEM;
	parts.extents = extents;
	r = image_create(&parts, out);
	free(extents);
	return r;
}

int pmem_image(const struct ram_region *ram, size_t count, const char *path, struct image **out,
               struct gpa_range *pmem, struct vm_error *err)
{
	struct store *store = NULL;
	int r = open_store(path, &store);

	if (store) {
		r = make_image(ram, count, store, out, pmem);
		store_put(store); /* the image's extents hold it now, if there is one */
	}
	if (r)
		snprintf(err->text, sizeof(err->text), "%s: %s", path,
		         r == -EINVAL ? "not a regular file with something in it" : strerror(-r));
	return r;
}
