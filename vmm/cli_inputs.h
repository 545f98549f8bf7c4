// SPDX-License-Identifier: MIT
/*
 * vmm/cli_inputs.h - inputs for many clones, one each: the lines of a file or of stdin, or the
 * files of a directory.
 *
 * Everything is read before the first clone runs, because clones run in processes forked from this
 * one, which find it in memory. Inputs are bytes; a line's newline is not part of it.
 *
 * Concurrency: constant once read.
 */
#ifndef COWSLIP_VMM_CLI_INPUTS_H
#define COWSLIP_VMM_CLI_INPUTS_H

#include <stddef.h>
#include <stdint.h>

struct cli_input {
	const uint8_t *data;
	size_t size;
};

/* Zeroed: none. */
struct cli_inputs {
	struct cli_input *list; /* [count] */
	size_t count, room;
	uint8_t **blocks; /* what the data lies in */
	size_t block_count, block_room;
};

/*
 * Read `path`: "-" is stdin; a directory's regular files are taken in the order of their names.
 * Return: 0, or -errno after an error line; cli_inputs_free() in any case.
 */
int cli_inputs_read(struct cli_inputs *in, const char *path);

void cli_inputs_free(struct cli_inputs *in);

#endif
