// SPDX-License-Identifier: MIT
/*
 * vmm/engine.h - run many clones of one image in worker processes, a few VMs in each.
 *
 * The calling process runs no guest. It forks workers (the image, already open, is shared by the
 * fork), hands them clone numbers in batches over a socket and gathers output and
 * results. A worker that dies costs the clone it was running, and in hold mode those it kept
 * alive; every other clone still runs, in another worker.
 *
 *     jobs           workers that run guests at the same time
 *     per_process    clones that have a VM in one worker at the same time, at most: the one that
 *                    runs and those held; also how many VMs are kept there for the next clone.
 *                    VMs that clones fork come on top, each for as long as it runs (or is held)
 *     hold           every clone stays alive, stopped at its end, until all have ended; so there
 *                    are count / per_process workers, or `jobs` if that is more, of which `jobs`
 *                    run guests at a time
 *
 * Concurrency: engine_run() must be called by a process with one thread (it forks). Callbacks run
 * on that thread.
 */
#ifndef COWSLIP_VMM_ENGINE_H
#define COWSLIP_VMM_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "mm/image.h"
#include "mm/space.h"
#include "vmm/procmem.h"
#include "vmm/vm.h"

/* Why a clone ended; the first four as a VM says it. */
enum clone_end {
	CLONE_EXITED,  /* code */
	CLONE_CRASHED, /* text */
	CLONE_TIMEOUT,
	CLONE_FAILED, /* the VMM or the host failed it; text */
	CLONE_LOST,   /* its worker died; text says how */
};

struct clone_result {
	uint64_t number; /* 1..count; above: forked by another clone */
	enum clone_end end;
	int code;                  /* CLONE_EXITED: exit code */
	enum vm_shortage short_of; /* CLONE_FAILED: there was no memory for it; of what not */
	bool stopped;              /* CLONE_EXITED: by engine_config.ready, not by itself */
	pid_t worker;
	struct vm_times times;    /* CLOCK_MONOTONIC is the same in every process */
	struct space_stats space; /* fault_path and fault_why are valid strings */
	uint64_t table_bytes;     /* page tables of its worker that are there because of its VM */
	uint64_t kvm_table_bytes; /* KVM's page tables of its VM, at least (vmm/kvm_stats.h) */
	bool kvm_tables_known;    /* else they cannot be told: of a reused machine never */
	uint64_t exits;           /* VM exits handled */
	bool reused;              /* it had a shell, not a VM made for it */
	char text[VM_TEXT_MAX];
};

/* What becomes of a clone that has rung READY again. */
enum clone_ready {
	CLONE_GOES_ON,
	CLONE_STOPS, /* ends as if it had exited with 0 */
	CLONE_FAILS,
};

struct engine_config {
	const struct kvm *kvm;
	struct image *image;
	uint64_t count;       /* clones, numbered from 1 */
	unsigned jobs;        /* 0: one per online CPU */
	unsigned per_process; /* 0: the default (ENGINE_PER_PROCESS) */
	bool hold;
	bool no_reuse;   /* a VM made for each clone, none used again (vmm/shell.h) */
	const char *arg; /* passed to every clone, may be NULL */
	/*
	 * Typed on each clone's serial console when it starts, then a newline; %n is its number,
	 * %% a %. May be NULL.
	 */
	const char *input;
	/*
	 * What clone `number`, and all that it forks, find in the mailbox (ABI_INPUT). Called in a
	 * worker process: what it returns was there before engine_run() and stays. May be NULL:
	 * nothing. A clone that says it is done with its input (ABI_NEXT) has ended with that code.
	 */
	const void *(*letter)(void *ctx, uint64_t number, size_t *size);
	uint64_t timeout_ns; /* per clone; 0: none */
	uint64_t silence_ns; /* a worker silent for this much longer is killed; 0: 10 s */
	enum fault_choice faults;
	uint64_t limit_bytes; /* per clone, what it copies included; 0: as much as its RAM */
	bool quick;           /* leave space and tables of results empty: some 50 us a clone */

	void *ctx;
	/* Output of one clone, in order; of different clones interleaved. */
	void (*output)(void *ctx, uint64_t number, const void *data, size_t size);
	/* A message that a clone handed over (ABI_OUTPUT), whole. May be NULL: nobody listens. */
	void (*message)(void *ctx, uint64_t number, const void *data, size_t size);
	/*
	 * Once for each number 1..count, and once for each VM forked by a clone. A clone that
	 * has been reported is reported again, as LOST, when its worker dies while the clone is
	 * held alive (until the worker has heard that all have ended) or VMs it forked have not
	 * all ended.
	 */
	void (*ended)(void *ctx, const struct clone_result *result);
	/*
	 * Called in the worker process when a VM (clone or forked by one) rings READY; it stands
	 * still. What it writes to memory the engine's process does not see. CLONE_FAILS: *why says
	 * why, one line. NULL: all go on.
	 */
	enum clone_ready (*ready)(void *ctx, struct vm *vm, struct vm_error *why);
};

/*
 * Memory that is only there because of this clone, and would go with it, as far as it can be told
 * of one clone: KVM's tables where they are known, and not what else KVM keeps for a VM. Of a
 * result with space.
 */
static inline uint64_t clone_unique_bytes(const struct clone_result *r)
{
	return ((r->space.private_frames + r->space.owned_committed) << MM_PAGE_SHIFT) +
	       r->table_bytes + r->kvm_table_bytes;
}

#define ENGINE_PER_PROCESS 8u

/* What all workers together cost, taken when all clones had ended (hold: were alive). */
struct engine_summary {
	unsigned workers;            /* processes started */
	unsigned workers_lost;       /* of them, died */
	unsigned alive;              /* clones held to the end */
	uint64_t pss_bytes;          /* sum of the workers' Pss; hold mode only, else 0 */
	uint64_t private_bytes;      /* of it, private pages (Private_Dirty + Private_Clean) */
	uint64_t anonymous_bytes;    /* pages of no file */
	uint64_t page_table_bytes;   /* VmPTE of those workers */
	struct hostmem before, held; /* before the first worker; hold: when all were alive */
	struct hostmem after;        /* when the last worker had gone; none of these if quick */
	uint64_t pool_used_frames;   /* pools of all workers */
	uint64_t pool_limit_frames;
	uint64_t shells_made; /* VMs made for the clones asked for; workers that died do not say */
	uint64_t shells_reused;  /* clones that got one which had been another's */
	uint64_t shells_refused; /* VMs not fit to be used again */
	uint64_t wall_ns;        /* from the call to the last clone's end */
};

/*
 * Run all clones. Return: 0 when every clone was reported (however it ended); -EINVAL; -ENOMEM;
 * -errno of fork or socketpair when no worker at all could be started (err says it).
 */
int engine_run(const struct engine_config *given, struct engine_summary *out, struct vm_error *err);

#endif
