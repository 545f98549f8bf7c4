// SPDX-License-Identifier: MIT
/*
 * vmm/cli_terminal.h - the user's terminal as a guest's serial line, input side.
 *
 * Concurrency: start and stop from one thread; a thread of its own reads stdin between them.
 */
#ifndef COWSLIP_VMM_CLI_TERMINAL_H
#define COWSLIP_VMM_CLI_TERMINAL_H

#include "vmm/vm.h"

struct cli_terminal;

/*
 * Feed stdin to `vm` until it ends or cli_terminal_stop(). A terminal is switched to pass every key
 * on as it is typed, without echo (the guest echoes); its signal keys stay the user's: ^C
 * ends cowslip, and the terminal is put back then, too.
 * Return: NULL when there is no stdin or no memory: the guest then has no input.
 */
struct cli_terminal *cli_terminal_start(struct vm *vm);

/* The VM gets no more input from us and may go. NULL is ignored. */
void cli_terminal_stop(struct cli_terminal *t);

#endif
