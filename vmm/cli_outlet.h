// SPDX-License-Identifier: MIT
/*
 * vmm/cli_outlet.h - stdout for guests that must be within reach even when nobody reads it.
 *
 * Who has output hands it over and goes on; a thread of the outlet's own writes it, in order, and
 * waits for the reader. Who makes output asks for room before it makes more, in a place where it
 * can be called away: so what is kept is OUTLET_ROOM at most, and what each of them was at.
 *
 * A write(2) ends with a line's end where there is one in the first 4 KiB: so lines of that length
 * are whole for whoever else writes to the same pipe. The descriptor's flags are left alone, for it
 * may be others' too.
 *
 * Concurrency: any thread, but for outlet_close().
 */
#ifndef COWSLIP_VMM_CLI_OUTLET_H
#define COWSLIP_VMM_CLI_OUTLET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OUTLET_ROOM (UINT64_C(64) << 10)

struct outlet;

/* Return: 0; -ENOMEM; -EAGAIN: no thread to be had. */
int outlet_open(struct outlet **out);

/*
 * Take all of `size` bytes. No memory for them: an error line, and the process ends. So it does
 * when they cannot be written, as with cli_put(), but some time later.
 */
void outlet_put(struct outlet *o, const void *data, size_t size);

/* Is there room for more? Waits for it, for `wait_ns` at most. */
bool outlet_has_room(struct outlet *o, uint64_t wait_ns);

/*
 * Write what is there, and end. With `patience_ns` give up when the reader has taken nothing for so
 * long; 0: never. Nobody puts any more. NULL is ignored.
 * Return: bytes that were given up; then the thread, which is caught in write(2), and what it needs
 * stay until the process ends.
 */
size_t outlet_close(struct outlet *o, uint64_t patience_ns);

#endif
