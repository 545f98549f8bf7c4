// SPDX-License-Identifier: MIT
/*
 * vmm/stats.h - what a run or a set of clones has cost: gathered, summed, told as JSON or a table.
 *
 * JSON of `run` (one object; times in whole microseconds, null for what has not happened):
 *
 *     command        "run"
 *     fault_path     "kernel" or "uffd"; fault_path_why: a sentence. Of the first VM, here and
 *                    below: with --ctl, the first that ended
 *     violations     that reached us, over all VMs: on the kernel path none does
 *     events         messages read from the fault path, over all VMs
 *     nomem          violations that found no frame, over all VMs
 *     vms            how many ran: 1, and those the guest forked
 *     frames         of 4 KiB, of the first VM when it ended: owned (its alone, all of the block),
 *                    owned_committed (with memory behind them), shared (of an image), private
 *                    (copied on write), huge_blocks (2 MiB each), reserved (of owned: in huge pages
 *                    that the host has set aside)
 *     pool           frames: used and committed when the first VM ended, peak of the whole run,
 *                    limit; metadata_bytes
 *     time_us        of the first VM: create, first_output (since it was asked for), run; and
 *                    total, from start to end of the command
 *     exits          over all VMs: mmio, io, doorbell, interrupted, other, total
 *     kvm            KVM's own counters over all VMs and vCPUs, by KVM's names, when each VM ended:
 *                    pages_4k, pages_2m, pages_1g (mappings), nx_lpage_splits, mmu_cache_miss and
 *                    mmu_shadow_zapped (tables made, taken away); pf_taken, pf_fixed,
 *                    pf_fast, pf_spurious, pf_emulate, pf_mmio_spte_created, pf_guest, tlb_flush,
 *                    exits (those that KVM handled itself too), mmio_exits, io_exits,
 *                    signal_exits, halt_exits. null: this kernel does not count that; kvm itself is
 *                    null where there are no counters. vmm/kvm_stats.h says what they mean
 *
 * JSON of `clone`: command "clone", fault_path and fault_path_why (of the first clone to end),
 * violations, events, nomem and frames as above, each summed over all clones, and
 *
 *     pool           frames: used, limit, of the pools of all workers
 *     exits          total
 *     clones         count (with those that clones forked), ok, failed, lost
 *     time_us        create, first_output and run are {"p50", "p99", "max"} over all clones,
 *                    by series_rank(); wall: from the first worker's start to the last clone's
 *                    end; total
 *     clones_per_sec count / wall
 *     clone_bytes    of single clones when they ended: shared, private, owned, tables (page tables
 *                    of its worker), kvm_tables (KVM's page tables of its VM, at least; see
 *                    vmm/kvm_stats.h), unique (private + owned + tables + kvm_tables: what would
 *                    go with it, but for the rest that the kernel has for a VM, which no kernel
 *                    tells of one: host_memory.kernel_average_bytes), each {"p50", "p99", "max",
 *                    "total"}. With --no-reuse or --hold a clone's are its own; else those of the
 *                    machine it ran in, as the clones before it left it. kvm_tables are of those
 *                    of which they are known (never of a machine that is used again) and null
 *                    where they are of none; unique is then without
 *     each           an array of [number, shared, private, owned, tables, kvm_tables, unique], in
 *                    bytes, in the order in which they ended; null: not known
 *     memory         pss_bytes, private_bytes, anonymous_bytes, page_table_bytes of all workers
 *                    (the kernel's smaps_rollup and VmPTE), and alive: how many clones were alive
 *                    when they were taken. Zero without --hold. anonymous_bytes are the clones'
 *                    private bytes and the workers' own
 *     host_memory    before, held (with all clones alive; null without --hold) and after (the last
 *                    worker), each of available_bytes (MemAvailable), free_bytes (MemFree),
 *                    kvm_tables_bytes (SecPageTables: KVM's page tables, all VMs of the host) and
 *                    kernel_bytes (this cgroup's kernel memory; null: the kernel does not say).
 *                    Then by how much more was in use with all alive than before: available_bytes
 *                    (what was available less), kvm_tables_bytes, kernel_bytes. And
 *                    kernel_average_bytes: kernel_bytes, less the workers' page tables and the sum
 *                    of kvm_tables, divided by the clones alive: the VM, its vCPUs, a share of the
 *                    worker's process. An average, of no clone in particular. So the sum of unique
 *                    and so much for each clone is what may be compared with available_bytes.
 *                    Whatever else ran on the host, or in the cgroup, is in all of these; the host
 *                    takes some time to take back what has ended. null: the kernel does not say,
 *                    or no --hold
 *     workers        started, lost, per_process, jobs
 *     shells         virtual machines that workers made, how many clones got one that had been
 *                    another's (reused), how many machines were not fit for it (refused); of
 *                    workers that lived to the end
 *     image          ram_bytes, data_bytes (non-zero pages it holds), frames (data_bytes / 4096)
 *
 * Concurrency: none; one thread.
 */
#ifndef COWSLIP_VMM_STATS_H
#define COWSLIP_VMM_STATS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "mm/pool.h"
#include "mm/space.h"
#include "vmm/engine.h"
#include "vmm/kvm_stats.h"
#include "vmm/series.h"
#include "vmm/snapshot.h"
#include "vmm/vm.h"

/* Of `run`. Zeroed: nothing has run. */
struct stats_run {
	uint64_t vms;
	struct vm_times times;    /* of the first VM */
	struct space_stats first; /* of the first VM */
	struct space_stats sum;   /* counters over all VMs; the strings are NULL */
	struct vm_exits exits;    /* over all VMs */
	struct kvm_counters kvm;  /* over all VMs */
	struct pool_stats pool;
	uint64_t total_ns;
};

/* Count one VM that has ended. */
void stats_run_add(struct stats_run *s, const struct vm_times *times,
                   const struct space_stats *space, const struct vm_exits *exits,
                   const struct kvm_counters *kvm);

/* Return: a new reference, NULL when there is no memory. */
json_t *stats_run_json(const struct stats_run *s);
void stats_run_text(const struct stats_run *s, FILE *to);

/* Memory of one clone, in bytes. */
enum clone_bytes {
	BYTES_SHARED,
	BYTES_PRIVATE,
	BYTES_OWNED, /* with memory behind them */
	BYTES_TABLES,
	BYTES_KVM_TABLES, /* not known: UINT64_MAX until sorted, then left out */
	BYTES_UNIQUE,
	BYTES_KINDS,
};

/* Of `clone`. Zeroed: nothing has run. */
struct stats_clone {
	uint64_t ok, failed, lost;
	struct series create, first_output, run; /* ns; clones to which it happened */
	struct series bytes[BYTES_KINDS]; /* of clones in the order of `numbers` until sorted */
	struct series numbers;
	json_t *each;           /* made by stats_clone_finish(); NULL: no memory */
	struct space_stats sum; /* the strings are the first clone's */
	uint64_t exits;
	struct engine_summary engine;
	struct snapshot_info image;
	unsigned jobs, per_process;
	uint64_t total_ns;
};

/* Count the cost of one clone that has ended; not how it ended. Return: 0; -ENOMEM. */
int stats_clone_add(struct stats_clone *s, const struct clone_result *r);

/* Call series_sort() on the series first: stats_clone_finish() does. */
void stats_clone_finish(struct stats_clone *s);
json_t *stats_clone_json(const struct stats_clone *s);
void stats_clone_text(const struct stats_clone *s, FILE *to);
void stats_clone_fini(struct stats_clone *s);

#endif
