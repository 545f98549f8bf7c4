// SPDX-License-Identifier: MIT
/*
 * tests/unit/bench_doc.h - results of the bench, small enough to be worked out by hand.
 *
 * Everything here fails the running test when it cannot do its work.
 */
#ifndef COWSLIP_TESTS_UNIT_BENCH_DOC_H
#define COWSLIP_TESTS_UNIT_BENCH_DOC_H

#include <jansson.h>

#include "bench/report.h"

/* JSON with ' for ", so that it can be read in C. The caller's reference. */
json_t *doc_of(const char *text);

/*
 * A result of `faults` with a baseline "kernel-4k" and a row "auto", on a host that is given; the
 * spread of auto's ratio is 4 %.
 */
json_t *doc_faults(void);

/* Row `index` of a document, borrowed. */
json_t *doc_row(json_t *doc, size_t index);

/* A rendering; for free(). */
char *doc_put(const json_t *doc, enum report_form form);

/* The same text, or the test fails at the first line that differs. */
void expect_text(const char *got, const char *expected);

#endif
