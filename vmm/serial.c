// SPDX-License-Identifier: MIT
#include "vmm/serial.h"

#include <string.h>

/* Register offsets; DLAB in LCR turns the first two into the divisor. */
enum { RBR_THR_DLL, IER_DLM, IIR_FCR, LCR, MCR, LSR, MSR, SCR };

#define LCR_DLAB      0x80u
#define IIR_NONE      0x01u /* no interrupt pending */
#define IIR_FIFO      0xc0u /* FIFOs on */
#define FCR_ENABLE    0x01u
#define LSR_TX_EMPTY  0x60u /* holding and shift register empty */
#define MSR_CONNECTED 0xb0u /* carrier, data set ready, clear to send */

static uint8_t get(const struct serial_regs *r, uint64_t reg)
{
	bool dlab = r->lcr & LCR_DLAB;

	switch (reg) {
	case RBR_THR_DLL:
		return dlab ? r->dll : 0;
	case IER_DLM:
		return dlab ? r->dlm : r->ier;
	case IIR_FCR:
		return r->fcr & FCR_ENABLE ? IIR_NONE | IIR_FIFO : IIR_NONE;
	case LCR:
		return r->lcr;
	case MCR:
		return r->mcr;
	case LSR:
		return LSR_TX_EMPTY;
	case MSR:
		return MSR_CONNECTED;
	default:
		return r->scr;
	}
}

/* True when `v` is to be sent. */
static bool set(struct serial_regs *r, uint64_t reg, uint8_t v)
{
	bool dlab = r->lcr & LCR_DLAB;

	switch (reg) {
	case RBR_THR_DLL:
		if (!dlab)
			return true;
		r->dll = v;
		break;
	case IER_DLM:
		*(dlab ? &r->dlm : &r->ier) = dlab ? v : v & 0x0f;
		break;
	case IIR_FCR:
		r->fcr = v;
		break;
	case LCR:
		r->lcr = v;
		break;
	case MCR:
		r->mcr = v & 0x1f;
		break;
	case SCR:
		r->scr = v;
		break;
	default: /* LSR and MSR are read-only */
		break;
	}
	return false;
}

static void serial_read(void *dev, const struct bus_access *a, void *data)
{
	struct serial *s = dev;
	uint8_t *out = data;

	memset(data, 0xff, a->len);
	pthread_mutex_lock(&s->lock);
	*out = get(&s->regs, a->offset);
	pthread_mutex_unlock(&s->lock);
}

static void serial_write(void *dev, const struct bus_access *a, const void *data)
{
	struct serial *s = dev;
	const uint8_t *in = data;
	bool send;

	/* A byte-wide device: the low byte counts. */
	pthread_mutex_lock(&s->lock);
	send = set(&s->regs, a->offset, *in);
	pthread_mutex_unlock(&s->lock);
	if (send)
		console_put(s->console, in, 1);
}

const struct device_ops serial_ops = {
	.name = "serial",
	.read = serial_read,
	.write = serial_write,
};

void serial_init(struct serial *s, struct console *console)
{
	*s = (struct serial){.console = console};
	pthread_mutex_init(&s->lock, NULL);
}

void serial_fini(struct serial *s)
{
	pthread_mutex_destroy(&s->lock);
}

void serial_save(const struct serial *s, struct serial_regs *out)
{
	*out = s->regs;
}

void serial_restore(struct serial *s, const struct serial_regs *in)
{
	s->regs = *in;
}
