// SPDX-License-Identifier: MIT
/*
 * bench/compare.h - two documents (bench/report.h) of the same command: what changed beyond noise.
 *
 * Rows are matched by name. Of a row that has ratios to a baseline these are compared: they outlive
 * the host's moods and a change of host. The times and rates of the others (bench/report.h says
 * which) are compared only when both were measured on the same host (CPU, kernel, KVM). What counts
 * as a change is spread_change()'s to say. A figure whose spread one of the two does not know, for
 * want of repeats, is not judged, and that is told.
 *
 * Concurrency: none; one thread.
 */
#ifndef COWSLIP_BENCH_COMPARE_H
#define COWSLIP_BENCH_COMPARE_H

#include <jansson.h>
#include <stdio.h>

#include "vmm/vm.h"

/*
 * Read an older document.
 * Return: 0; -EBADMSG (not JSON, or none of ours); -ENOTSUP (another schema); -ENOMEM; -errno of
 * opening it. err->text says what, and begins with the path.
 */
int compare_load(const char *path, json_t **out, struct vm_error *err);

/*
 * May the two be compared? Wants no rows yet: to be asked before the run.
 * Return: 0; -EINVAL when command or parameters ("repeat" aside) differ. err->text names the first
 * difference.
 */
int compare_fits(const json_t *before, const json_t *now, struct vm_error *err);

/*
 * One line per change, then one that sums up; rows that only one of them has and another host are
 * told. The documents fit.
 * Return: how many figures changed beyond noise; -EIO when `to` cannot be written.
 */
int compare_put(const json_t *before, const json_t *now, FILE *to);

#endif
