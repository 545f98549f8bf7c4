// SPDX-License-Identifier: MIT
/*
 * bench/memory.h - what may lie under a guest's RAM: the library's own memory, and what others do.
 *
 *     auto, kernel, uffd   the library's own space, by its fault path
 *     kernel-4k     anonymous memory of 4 KiB pages: the kernel fills each on its first touch
 *     kernel-thp    anonymous memory with transparent huge pages
 *     private-4k    MAP_PRIVATE over a memfd of 4 KiB pages that holds the image's bytes. Clones
 *                   only: who restores from a file has no file under fresh memory, and a write to a
 *                   hole of a memfd takes two pages, one of the memfd's and the copy
 *     uffd-4k       anonymous memory, and a thread that answers every missing page with one
 *                   UFFDIO_COPY: of the image's page, or of zeros
 *     populate      anonymous memory of 4 KiB pages, all of it filled before the guest starts: with
 *                   the image's bytes, or with zeros
 *
 * All but the library's are handed to the VM as memory of the embedder's (struct vm_config), so the
 * same VMM, vCPU loop and guest run on all of them.
 *
 * Concurrency: one owner; uffd-4k has a thread of its own, which only counts events and fills
 * pages, and ends with the memory.
 */
#ifndef COWSLIP_BENCH_MEMORY_H
#define COWSLIP_BENCH_MEMORY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mm/image.h"
#include "mm/space.h"

struct memory;

/* Zeroed is no kind. */
struct memory_kind {
	const char *name;

	/* Fill in `m` over its reserved stretch. Return: 0 or -errno with *step set. */
	int (*make)(struct memory *m, const char **step);

	enum fault_choice faults; /* of the library's */
	bool library;             /* no memory of ours: the space's own */
	bool fresh;               /* may be memory that nothing has written */
	bool clones;              /* can hold an image's contents */
	bool file;                /* maps the contents' memfd: not to be made without contents */
	bool huge;                /* is meant to give 2 MiB pages where the host has them */
};

/* Ordered as rows are; a kind without a name ends it. */
extern const struct memory_kind memory_kinds[];

/* NULL: there is no such kind. */
const struct memory_kind *memory_find(const char *name);

/* The bytes of an image as a guest's RAM has them, in a memfd of 4 KiB pages. Zeroed: none. */
struct contents {
	int fd;
	uint8_t *bytes; /* all of it, mapped for reading; NULL: none */
	size_t size;    /* of the window */
	struct image *image;
};

/*
 * Copy an image out. `size` is vm_memory_size()'s. Return: 0; -ENOMEM; -errno of memfd_create or of
 * reading the image.
 */
int contents_make(struct image *image, size_t size, struct contents *out);
void contents_fini(struct contents *c);

/* Of one run. Private but for the first four. */
struct memory {
	void *base; /* 2 MiB aligned, or NULL: the library's */
	size_t size;
	uint64_t prepare_ns;     /* spent on what kernels and handlers do not do later (populate) */
	_Atomic uint64_t events; /* answered by the thread */

	const struct memory_kind *kind;
	const struct contents *contents; /* NULL: fresh */
	void *reserved;
	size_t reserved_size;
	int uffd, stop; /* -1: none */
	pthread_t thread;
	bool running;
	uint8_t *zeros; /* a page */
};

/*
 * Make memory of `size` bytes, a multiple of 2 MiB. `contents` (NULL: fresh memory, zero) outlives
 * it. Of the library's kinds nothing is made.
 * Return: 0; -ENOMEM; -EPERM (userfaultfd not permitted); -errno. *step says at what.
 */
int memory_make(const struct memory_kind *kind, size_t size, const struct contents *contents,
                struct memory *m, const char **step);

/* No VM uses it any more. Zeroed is ignored. */
void memory_fini(struct memory *m);

/* What the host has put behind a stretch of this process's addresses, in bytes. */
struct memory_usage {
	uint64_t resident;
	uint64_t anonymous; /* of it: private pages, shared with nothing */
	uint64_t huge;      /* of it: mapped as 2 MiB pages */
};

/*
 * What the host has put behind it alone, in bytes: private pages, and what the image's memfd has
 * taken by being mapped (private-4k; so only a difference says something). As memory_usage().
 */
int memory_committed(const struct memory *m, uint64_t *bytes);

/* Reads smaps: not for hot paths. Return: 0; -errno of reading it. */
int memory_usage(const void *base, size_t size, struct memory_usage *out);

#endif
