// SPDX-License-Identifier: MIT
/*
 * vmm/serial.h - a 16550 UART, output side: enough for early consoles that poll.
 *
 * The transmitter is always empty, the receiver never has data, interrupts are not raised.
 * Registers hold what was written, so that drivers' probes of them pass. Source: National
 * Semiconductor PC16550D data sheet, section 8.
 *
 * Concurrency: register state under its own mutex; the console serialises output.
 */
#ifndef COWSLIP_VMM_SERIAL_H
#define COWSLIP_VMM_SERIAL_H

#include <pthread.h>
#include <stdint.h>

#include "vmm/bus.h"
#include "vmm/console.h"

#define SERIAL_SIZE 8u /* registers */

/* What a snapshot keeps of it. */
struct serial_regs {
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm, reserved;
};

struct serial {
	pthread_mutex_t lock;
	struct serial_regs regs; /* lock */
	struct console *console;
};

extern const struct device_ops serial_ops;

void serial_init(struct serial *s, struct console *console);
void serial_fini(struct serial *s);

/* The vCPUs are stopped. */
void serial_save(const struct serial *s, struct serial_regs *out);
void serial_restore(struct serial *s, const struct serial_regs *in);

#endif
