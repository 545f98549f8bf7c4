// SPDX-License-Identifier: MIT
/*
 * bench/commands.h - the bench commands, each in a file of its own.
 *
 * argv[0] is the command's name as users type it. Return: exit status.
 */
#ifndef COWSLIP_BENCH_COMMANDS_H
#define COWSLIP_BENCH_COMMANDS_H

int bench_faults(int argc, char **argv);
int bench_clone(int argc, char **argv);
int bench_reset(int argc, char **argv);
int bench_snapshot(int argc, char **argv);

#endif
