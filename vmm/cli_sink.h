// SPDX-License-Identifier: MIT
/*
 * vmm/cli_sink.h - where the output of many clones goes, and how each of them ended.
 *
 *     raw       one clone: its bytes, as they come
 *     lines     several: each line with the clone's number, `[17] text`. A line waits until it is
 *               whole, or SINK_LINE_MAX bytes long: then it is ended early. An unfinished last
 *               line gets a newline
 *     files     DIR/clone-17.out for each clone, raw, replaced if it was there; nothing on stdout
 *
 * Invariant: one record for each number, made by its first output or its end.
 * Concurrency: one thread. Output that cannot be written ends the process (cli_put()).
 */
#ifndef COWSLIP_VMM_CLI_SINK_H
#define COWSLIP_VMM_CLI_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct outlet;

#define SINK_LINE_MAX 65536u

enum sink_state {
	SINK_RUNS,
	SINK_OK,
	SINK_BAD,
	SINK_LOST,
};

/* One clone. */
struct sink_clone {
	uint64_t number;
	enum sink_state state;
	char *line; /* bytes of an unfinished line, or NULL */
	size_t len, room;
	int fd; /* of its file, -1: not open */
	bool has_file;
};

struct sink {
	const char *dir; /* NULL: stdout */
	bool raw;
	struct outlet *outlet; /* lines go through it; NULL: to stdout at once */
	void *clones;          /* a search tree of struct sink_clone, by number */
};

/* Make `dir` if it is not there. Return: 0, or -errno after an error line. */
int sink_open(struct sink *s, const char *dir, bool raw);

/* The record of a clone, made if need be. No memory: an error line, and the process ends. */
struct sink_clone *sink_find(struct sink *s, uint64_t number);

/* Output of a clone. */
void sink_put(struct sink *s, uint64_t number, const void *data, size_t size);

/* No more output comes from it: write what waits, close its file. May be called again. */
void sink_end(struct sink *s, uint64_t number);

/* Zeroed is fine. */
void sink_close(struct sink *s);

#endif
