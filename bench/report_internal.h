// SPDX-License-Identifier: MIT
/*
 * bench/report_internal.h - the renderings that report_put() chooses from.
 *
 * Each returns 0 or -ENOMEM; a failed write stays in the stream, for report_put() to find.
 */
#ifndef COWSLIP_BENCH_REPORT_INTERNAL_H
#define COWSLIP_BENCH_REPORT_INTERNAL_H

#include <jansson.h>
#include <stdio.h>

int report_put_text(const json_t *doc, FILE *to);
int report_put_markdown(const json_t *doc, FILE *to);
int report_put_csv(const json_t *doc, FILE *to);

#endif
