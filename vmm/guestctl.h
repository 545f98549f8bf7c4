// SPDX-License-Identifier: MIT
/*
 * vmm/guestctl.h - the guest-control device: the doorbell page of guest/abi.h.
 *
 * A store to the doorbell only notes whose bell rang; the vCPU's run loop then calls
 * guestctl_serve(), which does console output, the mailbox and memory given back on the spot and
 * turns everything else into an event for the VM's owner. Requests are read and answered through
 * space_read/write.
 *
 * Concurrency: each vCPU has its own bell; vCPUs may ring at once. The mailbox changes only while
 * all of them are stopped.
 */
#ifndef COWSLIP_VMM_GUESTCTL_H
#define COWSLIP_VMM_GUESTCTL_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/abi.h"
#include "mm/space.h"
#include "vmm/bus.h"
#include "vmm/console.h"
#include "vmm/vm.h"

/* What the guest learns from READY and FORK, and when it asks. */
struct guest_identity {
	uint64_t clone;
	uint64_t generation;
	uint8_t entropy[ABI_ENTROPY]; /* handed out once, not kept */
	const char *arg;              /* may be NULL */
};

struct guestctl {
	struct space *space;
	struct console *console;
	struct vm_mailbox mailbox;
	uint64_t bell[VM_MAX_CPUS]; /* each vCPU's: gpa of a request to serve, or SILENT */
	struct guest_identity self; /* the owner's to set, vCPUs stopped */
};

#define BELL_SILENT UINT64_MAX

extern const struct device_ops guestctl_ops;

void guestctl_init(struct guestctl *g, struct space *space, struct console *console,
                   const struct vm_mailbox *mailbox);

/*
 * Serve what vCPU `cpu` rang. Return: true when it is an event: *out says which (VM_EXITED,
 * VM_READY, VM_FORK, VM_NEXT, VM_CRASHED) and *request where its request lies; false when the guest
 * just goes on.
 */
bool guestctl_serve(struct guestctl *g, unsigned cpu, struct vm_report *out, gpa_t *request);

/*
 * Write `result` and, where not NULL, the identity into a request. Return: 0 or as space_write().
 */
int guestctl_answer(struct guestctl *g, gpa_t request, int32_t result,
                    const struct guest_identity *id);

/* The VM's, with entropy that nobody else gets. Return: 0 or -errno of drawing it. */
int guestctl_identity(const struct guestctl *g, struct guest_identity *out);

/* A new identity for VM `number`: a generation that none has had. Return: 0 or -errno. */
int guest_identity_make(uint64_t number, const char *arg, struct guest_identity *out);

#endif
