// SPDX-License-Identifier: MIT
/*
 * tests/kvm/fleet.h - many clones run by the engine, and what became of each of them.
 *
 * Images go through a file, as they do for whoever clones them later. Everything here fails the
 * running test when it cannot do its work.
 */
#ifndef COWSLIP_TESTS_KVM_FLEET_H
#define COWSLIP_TESTS_KVM_FLEET_H

#include "tests/kvm/lab.h"
#include "tests/kvm/script.h"
#include "vmm/engine.h"

#define MOST 1024u /* numbers looked at one by one */

/* What became of the clones. */
struct fleet {
	struct kvm kvm;
	struct image *image;
	struct engine_config config;
	struct engine_summary summary;

	struct tape tapes[MOST]; /* by number */
	uint64_t hashes[MOST];   /* of all output */
	unsigned ends[MOST][CLONE_LOST + 1];
	struct clone_result last[MOST];
	unsigned messages[MOST];
	uint64_t message_bytes[MOST];
	unsigned reports;
	uint64_t spilt; /* bytes of output of VMs with higher numbers */

	/* What a test wants done when a clone is heard of; 0: nothing. */
	uint64_t act_on_output, act_on_end;
	void (*act)(struct fleet *f);
	pid_t victim;
};

uint64_t hash_bytes(uint64_t h, const uint8_t *p, size_t size);

/* ---- images; what they were made from is gone ---- */

/* Of a guest program that has just rung. */
struct image *guest_image(const char *guest, const char *args, uint64_t ram, enum vm_event event);

/* A scripted guest that rings READY and then does `steps`. */
struct scripted {
	struct lab l;
	struct vm *vm;
};

void script_make(struct scripted *s, const struct step *steps, size_t count);
struct image *script_image(struct scripted *s);

/* Says "up" and is busy for ever. */
struct image *busy_image(void);

/* ---- fleets ---- */

/* Takes the image. */
struct fleet *fleet_make(struct image *image, uint64_t count, unsigned jobs);
void fleet_free(struct fleet *f);

/* The engine must run to its end, and leave nothing. */
void fleet_run(struct fleet *f);
void no_children(void);

unsigned count_ends(const struct fleet *f, enum clone_end end);

/* Every number has one report, and it is this. */
void expect_all(const struct fleet *f, enum clone_end end);

/* Every clone of counter printed its own line, nonce and all. */
void expect_counters(const struct fleet *f);

#endif
