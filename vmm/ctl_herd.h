// SPDX-License-Identifier: MIT
/*
 * vmm/ctl_herd.h - VMs that run at once in this process, and are forked while they run.
 *
 *     herd_create ──> (boot herd_root) ──> herd_run .......................... herd_destroy
 *                                             |   ^
 *                              herd_fork, herd_do, herd_pause, ...: any other thread
 *
 * Each VM has a thread of its own, the owner of vmm/vm.h. What others want of a VM while it runs is
 * done by that thread, with all vCPUs stopped between two entries; then the guest goes on. A live
 * fork is that: stopped, made an image (its window is remapped, its own frames are not copied), on
 * again; the child is made from the image afterwards, on its own thread, and starts at once. It
 * does not know that it is one: no request of its was open. What a guest forks itself (ABI_FORK)
 * starts at once as well.
 *
 * Invariants:
 *   1. a VM is touched by its own thread only, but for vm_kick() and what looks at its space
 *   2. while somebody looks at a VM it is not destroyed; while somebody waits for one it is known
 *   3. what is asked of a VM is answered, if only with the news that it has ended
 *
 * Concurrency: any thread, but for create, run and destroy, which one thread calls, and none of
 * the functions from a hook. `output` is called by the vCPUs of several VMs at once; the other
 * hooks one at a time, each on its VM's thread.
 * A VM that there is no memory for stands still, if hooks->starved wants that, until it gets a
 * higher limit or is told to try again; images can be made of it meanwhile, and the others do not
 * notice.
 */
#ifndef COWSLIP_VMM_CTL_HERD_H
#define COWSLIP_VMM_CTL_HERD_H

#include "vmm/family.h"

struct herd;

/* Together with the ones that have not been made yet. */
#define HERD_MOST 1024u

/*
 * As family_create(). Of the configuration `shells` has no meaning, max_members counts those alive
 * (0: HERD_MOST), and the time a VM is paused by herd_pause() is not part of its timeout. `ended`
 * cannot keep a VM; `failed` is not called for what herd_fork() was asked for.
 */
int herd_create(const struct family_config *c, struct herd **out, struct vm_error *err);

/* The root VM, to boot it. Borrowed; valid until herd_run(). */
struct vm *herd_root(struct herd *h);

/* Run the root, and all that comes of it, until none is left. */
void herd_run(struct herd *h);

/* After herd_run(), or instead. NULL is ignored. */
void herd_destroy(struct herd *h);

/*
 * What is done to a VM that stands still, on its thread. Return: 0, or -errno with err->text.
 */
typedef int herd_work(void *ctx, struct vm *vm, struct vm_error *err);

/*
 * Stop VM `id`, do `work`, let it go on. *pause_ns: from the request to stop until it went on, 0
 * when it was paused anyway.
 * Return: what `work` says; -ESRCH when there is no such VM, or it ended before.
 */
int herd_do(struct herd *h, uint64_t id, herd_work *work, void *ctx, uint64_t *pause_ns,
            struct vm_error *err);

/* For how long a VM stood still to become an image. It may take several short stops. */
struct herd_pause {
	uint64_t longest_ns, total_ns; /* as herd_do(); the last stop makes the image */
	unsigned stops;
};

/*
 * VM `id` becomes an image, of which *out gets a reference, and goes on as a clone of it. What it
 * has copied since the last time must be copied once more: frames for that are brought in first,
 * while it runs, and where there is much it is copied a part at a time, with the guest running in
 * between.
 * Return: 0; as herd_do() with vm_snapshot().
 */
int herd_snapshot(struct herd *h, uint64_t id, struct image **out, unsigned *cpus,
                  struct herd_pause *pause, struct vm_error *err);

struct herd_child {
	uint64_t id;
	struct herd_pause pause; /* of its parent */
	uint64_t start_ns;       /* from the call until the child was about to enter the guest */
};

/*
 * Fork VM `id`, running or paused; the child runs.
 * Return: 0; as herd_snapshot(); -EAGAIN when there are too many or all are being stopped; as
 * vm_create(), or that of a thread: there is no child then.
 */
int herd_fork(struct herd *h, uint64_t id, struct herd_child *out, struct vm_error *err);

#define HERD_ALL UINT64_MAX

/* A VM that one of the following was about. */
struct herd_touched {
	uint64_t id;
	uint64_t ns; /* resume: how long it had been paused; else: how long it took */
};

/*
 * VM `id`, or HERD_ALL of them, stands still; goes on (a starved one tries again); ends, counted as
 * exited with 0. What is so already stays so. All: those of the moment; what is being forked
 * meanwhile is paused or resumed with the rest only if it was known by then, but never survives a
 * stop.
 * They return when it is done; *count of them in out[HERD_MOST].
 * Return: 0; -ESRCH when there is no such VM, or it ended of itself meanwhile (not of ALL).
 */
int herd_pause(struct herd *h, uint64_t id, struct herd_touched *out, size_t *count,
               struct vm_error *err);
int herd_resume(struct herd *h, uint64_t id, struct herd_touched *out, size_t *count,
                struct vm_error *err);
int herd_stop(struct herd *h, uint64_t id, struct herd_touched *out, size_t *count,
              struct vm_error *err);

/*
 * From now on VM `id` may have `bytes`, which are whole pages: more or less than before. If it
 * stood still for want of memory it goes on, which ends soon where that is not enough. Its children
 * start with what it may have by then.
 * Return: 0; as herd_do().
 */
int herd_limit(struct herd *h, uint64_t id, uint64_t bytes, struct vm_error *err);

enum herd_state {
	HERD_STARTS, /* it is being made */
	HERD_RUNS,
	HERD_PAUSED,
	HERD_STARVED, /* it stands still: there is no memory for it */
	HERD_ENDED,   /* about to go */
};

/* "starting", "running", "paused", "starved", "ended" */
const char *herd_state_name(enum herd_state s);

struct herd_entry {
	uint64_t id, parent; /* the root is its own parent */
	enum herd_state state;
	unsigned cpus;            /* 0: not known yet */
	struct space_stats space; /* of a guest that may run on meanwhile; zero without a VM */
	uint64_t limit_bytes;     /* the most it may have; 0 without a VM */
	char why[VM_TEXT_MAX];    /* STARVED: what of */
};

/* All VMs, in order of birth. They are not stopped. Return: how many, at most HERD_MOST. */
size_t herd_list(struct herd *h, struct herd_entry out[HERD_MOST]);

#endif
