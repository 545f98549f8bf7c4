// SPDX-License-Identifier: MIT
/*
 * tests/fuzz/sums.h - checksums that would keep a fuzzer out, made to fit.
 */
#ifndef COWSLIP_TESTS_FUZZ_SUMS_H
#define COWSLIP_TESTS_FUZZ_SUMS_H

#include <stddef.h>
#include <stdint.h>

/* Of the front of an image, at least a header long: magic, version and all checksums but data's. */
void fuzz_fix_sums(uint8_t *data, size_t size);

#endif
