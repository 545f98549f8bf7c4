// SPDX-License-Identifier: MIT
/*
 * mm/freeze.h - nobody writes to a run of a window while it is copied (mm/ internal).
 *
 * The guest may run. Who writes there waits, inside the kernel, until the run is thawed, and then
 * tries again: on what the window maps by then. Reads go on. This is userfaultfd's
 * write-protection, on a descriptor of its own, so it is the same on every fault path.
 *
 * Where that is not to be had (no permission; Linux before 5.19) the run is read-only meanwhile:
 * then a write is no longer delayed but refused, and whoever may write must have been stopped.
 *
 * Concurrency: the space's lock is held from freeze to thaw.
 */
#ifndef COWSLIP_MM_FREEZE_H
#define COWSLIP_MM_FREEZE_H

#include "mm/types.h"

struct space;

struct freeze {
	struct gpa_range range;
	int uffd;       /* -1: none */
	bool read_only; /* the mapping was made so, and is to be what it was */
};

/*
 * `r` is one mapping of reserved huge pages, whole ones, all with the same protection.
 * Return: 0; -ENOMEM, -EMFILE, -ENFILE: nothing has changed.
 */
int space_freeze(struct space *s, struct gpa_range r, struct freeze *out);

/* Who waits goes on. `replaced`: something else is mapped there by now. Cannot fail. */
void space_thaw(struct space *s, const struct freeze *f, bool replaced);

#endif
