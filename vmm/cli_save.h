// SPDX-License-Identifier: MIT
/*
 * vmm/cli_save.h - saving a VM to a file, for commands that do.
 *
 * While the file is written, a signal that ends the process (SIGINT, SIGTERM, SIGHUP, SIGQUIT)
 * first removes the unfinished file; then it does what it would have done. Signals that are
 * ignored stay ignored. What SIGKILL leaves goes with the next save of that name.
 *
 * Concurrency: one save at a time in a process.
 */
#ifndef COWSLIP_VMM_CLI_SAVE_H
#define COWSLIP_VMM_CLI_SAVE_H

#include "vmm/snapshot.h"
#include "vmm/vm.h"

/*
 * From here on signals that end the process first remove the temporaries that the hook has heard
 * of, up to the end.
 */
struct atomic_file_hook cli_guard_begin(void);
void cli_guard_end(void);

/* snapshot_write(), with the signals seen to; r->hook is ours. Return: as that. */
int cli_write_image(const struct snapshot_request *r, struct snapshot_error *err);

/*
 * Snapshot a stopped VM and write the image to `path`: all of it, or only what `base` does not
 * hold. The VM may go on.
 * Return: 0; as vm_snapshot() and snapshot_write(), with one line in err->text that names `path`.
 */
int cli_save(struct vm *vm, const char *path, const struct snapshot_base *base,
             struct snapshot_error *err);

/* Say on stderr what has been saved, and that it took `ns`. */
void cli_say_saved(const char *path, uint64_t ns);

#endif
