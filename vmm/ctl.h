// SPDX-License-Identifier: MIT
/*
 * vmm/ctl.h - a socket through which others ask something of this process, line by line.
 *
 *     one request:  words, blanks between them, then a newline    fork 3
 *     one reply:    one JSON object, then a newline                {"ok":true,"id":4,...}
 *
 * A connection may ask as often as it likes, one at a time; what it sends early waits. What
 * requests there are is the embedder's (for `cowslip run --ctl`: vmm/cli_ctl_run.h). The reply to
 * what cannot be understood is an object like any other, and the connection stays. It ends when its
 * peer closes it, sends a line of more than CTL_LINE_MAX bytes, a NUL byte, or nothing whole for
 * CTL_PATIENCE_S seconds, or does not read its reply for that long.
 *
 * The socket is a file of mode 0600: who may open it may do everything. It is made under a lock on
 * its directory, so that of two that want one name one gets it; one that nobody listens on any more
 * is replaced.
 *
 * Concurrency: start and stop from one thread; a thread of its own for each connection, at most
 * CTL_CLIENTS of them (further ones are closed at once), and one that waits for new ones.
 */
#ifndef COWSLIP_VMM_CTL_H
#define COWSLIP_VMM_CTL_H

#include <stddef.h>

#include "vmm/vm.h"

#define CTL_LINE_MAX   4096u /* of a request, without its newline */
#define CTL_CLIENTS    64u
#define CTL_PATIENCE_S 30

struct ctl;

struct ctl_config {
	const char *path;
	/*
	 * Do what `line` asks (NULL: it was too long, or no text) and return the reply, one line
	 * without its newline, to be freed; NULL when there is no memory for one. Called by several
	 * threads at once.
	 */
	char *(*answer)(void *ctx, const char *line);
	void *ctx;
};

/*
 * Listen on c->path. Return: 0; -ENAMETOOLONG; -EADDRINUSE when somebody listens there; -EEXIST
 * when it is there and no socket; -EBUSY when its directory stays locked; -errno of the call that
 * failed. err->text is one line that names the path.
 */
int ctl_start(const struct ctl_config *c, struct ctl **out, struct vm_error *err);

/*
 * No new requests; those under way are answered, connections are closed (also those of peers that
 * do not read their reply for a second), the file is removed (if it is still ours). NULL is
 * ignored.
 */
void ctl_stop(struct ctl *c);

/*
 * The other side: ask one thing and wait for the reply, however long that takes; *reply, without
 * its newline, is the caller's to free. `line` has no newline.
 * Return: 0; -ENAMETOOLONG; -ECONNREFUSED, -ENOENT, ... when nobody listens there; -ECONNRESET
 * when the reply never came; -EMSGSIZE when it has no end; -ENOMEM. err->text is one line that
 * names the path.
 */
int ctl_ask(const char *path, const char *line, char **reply, struct vm_error *err);

#endif
