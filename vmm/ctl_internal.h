// SPDX-License-Identifier: MIT
/*
 * vmm/ctl_internal.h - what the two ends of a control socket share.
 */
#ifndef COWSLIP_VMM_CTL_INTERNAL_H
#define COWSLIP_VMM_CTL_INTERNAL_H

#include <stdbool.h>
#include <sys/un.h>

#include "vmm/ctl.h"

/* Fill err->text, which names `path`, and hand the code on. */
int ctl_fail(struct vm_error *err, int code, const char *path, const char *why);

/* Return: 0; -ENAMETOOLONG with err->text. */
int ctl_address(const char *path, struct sockaddr_un *out, struct vm_error *err);

/* All of it. Return: 0; -errno of send; -EAGAIN when the peer does not read. */
int ctl_send(int fd, const char *data, size_t size);

#endif
