// SPDX-License-Identifier: MIT
/*
 * tests/kvm/pace.h - how much tests do, and how long they wait, on a machine that is slow.
 *
 * Environment: COWSLIP_SLOWNESS=N (1): about N times as slow as hardware. Tests then go 1/N of
 * their rounds and wait N times as long for what they have no means to hear of. None is left out.
 */
#ifndef COWSLIP_TESTS_KVM_PACE_H
#define COWSLIP_TESTS_KVM_PACE_H

#include <stdint.h>

/* How many of `full` rounds to go; at least `least`. */
unsigned pace_rounds(unsigned full, unsigned least);

/* How long to wait where `time`, in any unit, is enough on hardware. */
uint64_t pace_patience(uint64_t time);

#endif
