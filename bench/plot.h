// SPDX-License-Identifier: MIT
/*
 * bench/plot.h - a document (bench/report.h) as a picture for a slide: SVG, made by gnuplot.
 *
 * faults: how latency is distributed (CDF, logarithmic time) beside throughput as bars. Other
 * commands: their times as bars with the quartiles. Every curve and bar carries its name; the
 * colours are told apart by colour-blind eyes, too, and a row keeps its colour from plot to plot.
 *
 * gnuplot is a program of its own, found on the PATH and run without a shell.
 * Concurrency: one thread; waits for the child.
 */
#ifndef COWSLIP_BENCH_PLOT_H
#define COWSLIP_BENCH_PLOT_H

#include <jansson.h>

#include "vmm/vm.h"

/*
 * Is there a gnuplot to make plots with? To be asked before the run.
 * Return: 0; -ENOENT; -errno of starting it. err->text says what, and what to do.
 */
int plot_ready(struct vm_error *err);

/*
 * Write the picture to `fd` (kept open).
 * Return: 0; -ENODATA when no row has what is to be drawn; -ENOENT (no gnuplot); -EIO when gnuplot
 * failed; -ENOMEM; -errno. err->text says what.
 */
int plot_svg(const json_t *doc, int fd, struct vm_error *err);

/* What gnuplot is given. Return: a string for free(); NULL with errno ENODATA or ENOMEM. */
char *plot_script(const json_t *doc);

#endif
