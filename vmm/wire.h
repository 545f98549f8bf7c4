// SPDX-License-Identifier: MIT
/*
 * vmm/wire.h - what the engine and its workers say to each other (internal).
 *
 * One SOCK_SEQPACKET pair for each worker; a message is one struct wire, for OUTPUT followed by the
 * bytes. Both ends are the same program image, one forked from the other, so structs travel
 * as they are and pointers to constant strings stay valid.
 *
 *     engine -> worker    RUN number ...     RELEASE
 *     worker -> engine    OUTPUT* MESSAGE* ENDED (of the clone, then of what it forked; the last
 *                         says so)
 *                         SUMMARY (the answer to RELEASE and the last message)
 */
#ifndef COWSLIP_VMM_WIRE_H
#define COWSLIP_VMM_WIRE_H

#include "vmm/engine.h"
#include "vmm/shell.h"

enum wire_kind {
	WIRE_RUN,     /* run clone `number` */
	WIRE_RELEASE, /* let go of everything and end */
	WIRE_OUTPUT,  /* bytes of `number`'s console follow */
	WIRE_MESSAGE, /* bytes that `number` handed over follow; `more`: and more of them */
	WIRE_ENDED,   /* result */
	WIRE_SUMMARY, /* what this worker was, alive until now with all it held */
};

struct wire {
	enum wire_kind kind;
	uint64_t number;
	bool more; /* ENDED: of its family others are still to come; else the worker is done */
	union {
		struct clone_result result;
		struct {
			uint64_t used_frames, limit_frames; /* of its pool */
			struct shells_stats shells;
		} summary;
	};
};

/* Bytes of output in one message: well below a socket's default buffer. */
#define WIRE_OUTPUT_MAX 32768u

/* Clone numbers sent ahead of the one that runs: a worker never waits for a round trip. */
#define WIRE_DEPTH 4u

/*
 * The life of a worker process: serve `sock` until RELEASE or until the engine is gone.
 * `child_step` and `first_child` number the VMs that clones fork. Return: the process's exit
 * status.
 */
int worker_main(const struct engine_config *c, int sock, uint64_t first_child, uint64_t child_step);

#endif
