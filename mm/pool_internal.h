// SPDX-License-Identifier: MIT
/*
 * mm/pool_internal.h - what mm/store.c needs of a pool and nobody else does.
 */
#ifndef COWSLIP_MM_POOL_INTERNAL_H
#define COWSLIP_MM_POOL_INTERNAL_H

struct pool;

/* The last reference on the pool's store is gone: no block may be handed out (aborts otherwise). */
void pool_destroy(struct pool *p);

#endif
