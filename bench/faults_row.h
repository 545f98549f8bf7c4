// SPDX-License-Identifier: MIT
/*
 * bench/faults_row.h - what the walks on one kind of memory came to, repeat by repeat.
 *
 *     us_per_page   cycles of the whole walk / touches: the loop's own cost is in it (a few
 *                   nanoseconds), and what was done beforehand is added (populate)
 *     latency       of each touch, as the guest timed it: without the loop, without what was done
 *                   beforehand; all repeats in one histogram
 *     kinds         zero    first touch of a page that nothing had written
 *                   shared  first touch of a page of the image, a read
 *                   cow     first touch of a page of the image, a write
 *                   huge    first touch of a 2 MiB block, where most of the walked memory was
 *                           mapped as 2 MiB pages by the end: what follows in the block does not
 *                           fault, and is counted as one of the above
 *                   again   a page touched before in this walk; its first write after reads may
 *                           fault once more
 *
 * Beside what bench/report.h names, a row of the document has
 *
 *     walk_us, wall_us   the walk by the guest's clock and by the host's, which also sees the two
 *                   records' way out
 *     off_cpu       share of the walk in which no thread of this process ran, less what several ran
 *                   at once: other programs' time, and that of waking a handler
 *     cpu_us_per_page    CPU time of all threads during the walk / touches (_spread): less at the
 *                   mercy of other programs than time; without what was done beforehand
 *     accounted     the times of all touches and the loop, as a share of the vCPUs' time: about 1
 *     huge_bytes    of the guest's memory, mapped as 2 MiB pages by the end
 *
 * Concurrency: none.
 */
#ifndef COWSLIP_BENCH_FAULTS_ROW_H
#define COWSLIP_BENCH_FAULTS_ROW_H

#include <jansson.h>

#include "bench/sample.h"
#include "bench/walk.h"

enum touch_kind {
	TOUCH_ZERO,
	TOUCH_SHARED,
	TOUCH_COW,
	TOUCH_HUGE,
	TOUCH_AGAIN,
	TOUCH_KINDS,
};

/* Zeroed but for `kind`: nothing has been measured. */
struct faults_row {
	const struct memory_kind *kind;
	uint64_t touches; /* of one walk */
	uint64_t cycles_per_sec;
	struct sample us_per_page, pages_per_s, cpu_us_per_page;
	struct sample violations, events, committed, private_bytes, huge_bytes;
	struct sample prepare_us, walk_us, wall_us;
	struct sample off_cpu;   /* share of the walk */
	struct sample accounted; /* times of all touches and the loop, of the walk's: about 1 */
	struct sample kvm[KVM_COUNTERS];
	struct memwalk_histogram kinds[TOUCH_KINDS];
};

/*
 * Add a walk of `size` bytes; `clone`: on an image's memory.
 * Return: 0; -ENOSPC, -EDOM (bench/sample.h); -EOVERFLOW (bench/hist.h).
 */
int faults_row_add(struct faults_row *r, const struct walk_result *w, uint64_t size, bool clone);

/*
 * The row of the document, ratios to each of `rows` that is a baseline included.
 * Return: a new reference; NULL when there is no memory.
 */
json_t *faults_row_json(const struct faults_row *r, const struct faults_row *rows, unsigned count);

#endif
