// SPDX-License-Identifier: MIT
/*
 * vmm/cli_ctl_run.h - what `cowslip run --ctl` answers on its control socket (vmm/ctl.h).
 *
 *     fork [ID]           {"ok":true,"id":CHILD,"parent":ID, PAUSE,"start_us":N}
 *     save ID FILE        {"ok":true,"id":ID,"path":FILE, PAUSE,"write_us":N}
 *     stats               {"ok":true,"vms":[...],"pool":{...}}
 *     pause [ID|all]      {"ok":true,"vms":[{"id":ID,"us":N},...]}
 *     resume [ID|all]     {"ok":true,"vms":[{"id":ID,"pause_us":N},...]}
 *     stop [ID|all]       {"ok":true,"vms":[{"id":ID,"us":N},...]}
 *     limit ID BYTES      {"ok":true,"id":ID,"limit_bytes":BYTES}
 *     anything that fails {"ok":false,"error":"one line"}
 *
 * Without an ID, fork is of VM 0 and the others are of all. FILE is the rest of the line, blanks
 * included; a relative one is relative to where `cowslip run` was started. All is UTF-8. Times are
 * whole microseconds. PAUSE is "pause_us":N,"stops":N,"stopped_us":N: the guest's longest stop,
 * each from the request to stop until it went on, how many there were (vmm/ctl_herd.h; 0: it was
 * paused), and all together. start_us from the request until the child was about to enter its first
 * instruction; write_us for the file, which is written while the guest runs; us until all of the VM
 * stood still, or was gone.
 *
 * vms of stats, in order of birth: id, parent (the first is its own), state ("starting", "running",
 * "paused", "starved", "ended"), cpus, shared_bytes (of images, that it can see), private_bytes
 * (its copies of those), owned_bytes (its own frames, with memory behind them), used_bytes (of its
 * limit: its own frames, with or without, and its copies), limit_bytes (or its RAM). pool:
 * used_bytes, limit_bytes.
 *
 * A VM is starved that has more than its limit, or waits for memory that nobody has for it: why, of
 * stats, says which. It stands still. A higher limit lets it go on, and resume try again; it can be
 * saved, forked and stopped as if it were paused. BYTES are whole pages; a limit below what a
 * VM has takes nothing away and stops it. What a fork or a save makes an image of is no longer the
 * VM's, and not counted.
 *
 * Concurrency: any thread, several at once; files are written one at a time.
 */
#ifndef COWSLIP_VMM_CLI_CTL_RUN_H
#define COWSLIP_VMM_CLI_CTL_RUN_H

#include <pthread.h>
#include <stdatomic.h>

#include "mm/pool.h"
#include "vmm/ctl.h"
#include "vmm/ctl_herd.h"

struct cli_ctl {
	struct herd *herd;
	struct pool *pool;
	atomic_bool stopped;        /* somebody has asked for the end of a VM */
	pthread_mutex_t *save_lock; /* held while any image is written in this process */
};

/* A ctl_config's answer; ctx is a struct cli_ctl. */
char *cli_ctl_answer(void *ctx, const char *line);

#endif
