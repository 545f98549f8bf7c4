// SPDX-License-Identifier: MIT
/*
 * mm/fault_kernel.c - the path on which nothing reaches us: the host kernel resolves it all.
 */
#include <errno.h>

#include "mm/space_internal.h"

static int nothing(struct space *s)
{
	(void)s;
	return 0;
}

static void nothing_to_stop(struct space *s)
{
	(void)s;
}

static int nothing_in(struct space *s, struct gpa_range r)
{
	(void)s;
	(void)r;
	return 0;
}

static int cannot(struct space *s, struct gpa_range r)
{
	(void)s;
	(void)r;
	return -EOPNOTSUPP;
}

static void nobody_waits(struct space *s, struct gpa_range r)
{
	(void)s;
	(void)r;
}

const struct fault_ops fault_kernel = {
	.name = "kernel",
	.lazy = false,
	.attach = nothing,
	.let_go = nothing_to_stop,
	.detach = nothing_to_stop,
	.arm = nothing_in,
	.disarm = nothing_in,
	.fill_zero = nothing_in,
	.watch = cannot,
	.let_in = cannot,
	.wake = nobody_waits,
};
