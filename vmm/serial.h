// SPDX-License-Identifier: MIT
/*
 * vmm/serial.h - a 16550 UART: output to the console, input from whoever feeds it, interrupts.
 *
 * The transmitter is always empty, so output never waits. Input waits on the line until the guest
 * is ready to receive (RTS), as a driver says when it opens the port; then it enters the receiver's
 * FIFO as there is room. So what is typed before is not lost. The interrupt line is a level: it
 * follows what is pending and enabled, and is reported when it changes. Source: National
 * Semiconductor PC16550D data sheet, section 8.
 *
 * Concurrency: all state under the device's own mutex, taken by vCPU threads and by the thread
 * that feeds input. The interrupt callback is called with it held; the console's is not.
 */
#ifndef COWSLIP_VMM_SERIAL_H
#define COWSLIP_VMM_SERIAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/bus.h"
#include "vmm/console.h"

#define SERIAL_SIZE  8u    /* registers */
#define SERIAL_QUEUE 4096u /* bytes of input that may wait on the line */
#define SERIAL_FIFO  16u   /* of them, received */

/* What a snapshot keeps of it. Input that waits is the outside's, not the guest's: not kept. */
struct serial_regs {
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
	uint8_t thr_pending; /* "transmitter empty" has not been acknowledged */
};

/* The line has changed. Must not call back into the device. */
typedef void serial_irq_fn(void *ctx, bool level);

struct serial {
	pthread_mutex_t lock;
	struct serial_regs regs;
	uint8_t queue[SERIAL_QUEUE];
	unsigned head, count; /* of input in all */
	unsigned received;    /* of it, in the FIFO */
	bool line;
	struct console *console; /* constant, as the next two once set */
	serial_irq_fn *irq;      /* NULL: a polled device */
	void *irq_ctx;
};

extern const struct device_ops serial_ops;

void serial_init(struct serial *s, struct console *console);
void serial_fini(struct serial *s);

/* Before the first vCPU runs. */
void serial_connect(struct serial *s, serial_irq_fn *irq, void *ctx);

/* Input that waits, on the line and in the FIFO, was for another. */
void serial_drop_input(struct serial *s);

/* Feed input. Return: how many of `size` bytes were taken; the queue holds SERIAL_QUEUE. */
size_t serial_input(struct serial *s, const void *data, size_t size);

/*
 * The vCPUs are stopped. restore empties the receiver back onto the line, and sets the interrupt
 * line as the registers say.
 */
void serial_save(struct serial *s, struct serial_regs *out);
void serial_restore(struct serial *s, const struct serial_regs *in);

#endif
