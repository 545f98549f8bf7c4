// SPDX-License-Identifier: MIT
/*
 * vmm/cowslip.h - libcowslip, for embedders: everything the command line is made of.
 *
 *     kvm.h        open /dev/kvm
 *     pool.h       where a process's guest memory comes from
 *     vm.h         one virtual machine: make, boot, run, snapshot, clone
 *     shell.h      virtual machines that are used again, reset, for the next clone
 *     family.h     a virtual machine and whatever it forks, one after the other
 *     ctl_herd.h   ... at once, each on a thread of its own, and forked while they run
 *     ctl.h        a socket to ask for that by
 *     snapshot.h   images as files
 *     pack.h       images compressed for transport
 *     engine.h     many clones, in worker processes
 *
 * Link with -lcowslip -lmm -lxxhash -lzstd -pthread. A minimal embedder: kvm_open(), pool_create(),
 * vm_create(), vm_boot_elf(), vm_run() until it returns an ending event, vm_destroy(), pool_put(),
 * kvm_close().
 */
#ifndef COWSLIP_VMM_COWSLIP_H
#define COWSLIP_VMM_COWSLIP_H

#include "mm/image.h"
#include "mm/pool.h"
#include "mm/space.h"
#include "vmm/ctl.h"
#include "vmm/ctl_herd.h"
#include "vmm/engine.h"
#include "vmm/family.h"
#include "vmm/kvm.h"
#include "vmm/pack.h"
#include "vmm/shell.h"
#include "vmm/snapshot.h"
#include "vmm/version.h"
#include "vmm/vm.h"

#endif
