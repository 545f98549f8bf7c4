// SPDX-License-Identifier: MIT
/*
 * bench/bench.h - `cowslip bench`: what the command line knows of it.
 */
#ifndef COWSLIP_BENCH_BENCH_H
#define COWSLIP_BENCH_BENCH_H

/* argv[0] is "cowslip bench". Return: exit status. */
int cli_bench(int argc, char **argv);

#endif
