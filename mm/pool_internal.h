// SPDX-License-Identifier: MIT
/*
 * mm/pool_internal.h - what mm/store.c and mm/pool.c need of each other and of mm/pool_file.c, and
 * nobody else does.
 */
#ifndef COWSLIP_MM_POOL_INTERNAL_H
#define COWSLIP_MM_POOL_INTERNAL_H

#include <stdbool.h>

struct pool;

/*
 * An empty, private file for frames, close-on-exec. *huge: a first touch through a mapping with
 * MADV_HUGEPAGE puts a whole 2 MiB page there. Return: a descriptor; -EMFILE, -ENFILE, -ENOMEM.
 */
int pool_file_open(bool *huge);

/* The last reference on the pool's store is gone: no block may be handed out (aborts otherwise). */
void pool_destroy(struct pool *p);

#endif
