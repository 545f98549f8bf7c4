// SPDX-License-Identifier: MIT
/*
 * vmm/version.h - what this build calls itself, on the command line and in the files it writes.
 */
#ifndef COWSLIP_VMM_VERSION_H
#define COWSLIP_VMM_VERSION_H

#define COWSLIP_BUILD "cowslip 0.1.0"

#endif
