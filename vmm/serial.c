// SPDX-License-Identifier: MIT
#include "vmm/serial.h"

#include <string.h>

/* Register offsets; DLAB in LCR turns the first two into the divisor. */
enum { RBR_THR_DLL, IER_DLM, IIR_FCR, LCR, MCR, LSR, MSR, SCR };

#define LCR_DLAB      0x80u
#define IER_RX        0x01u /* interrupt when there is input */
#define IER_TX        0x02u /* interrupt when the transmitter becomes empty */
#define IER_MASK      0x0fu
#define IIR_NONE      0x01u /* no interrupt pending */
#define IIR_TX        0x02u
#define IIR_RX        0x04u
#define IIR_FIFO      0xc0u /* FIFOs on */
#define FCR_ENABLE    0x01u
#define FCR_CLEAR_RX  0x02u
#define MCR_MASK      0x1fu
#define MCR_RTS       0x02u
#define MCR_OUT2      0x08u /* on a PC: lets the interrupt out of the chip */
#define MCR_LOOP      0x10u
#define LSR_RX_READY  0x01u
#define LSR_TX_EMPTY  0x60u /* holding and shift register empty */
#define MSR_CONNECTED 0xb0u /* carrier, data set ready, clear to send */

/* From the line into the FIFO, as far as there is room and the guest wants it. */
static void receive(struct serial *s)
{
	if ((s->regs.mcr & MCR_RTS) && !(s->regs.mcr & MCR_LOOP))
		s->received = s->count < SERIAL_FIFO ? s->count : SERIAL_FIFO;
}

static void drop_received(struct serial *s)
{
	s->head = (s->head + s->received) % SERIAL_QUEUE;
	s->count -= s->received;
	s->received = 0;
}

/* What the guest would read as the cause, the more urgent first. */
static uint8_t cause(const struct serial *s)
{
	if ((s->regs.ier & IER_RX) && s->received > 0)
		return IIR_RX;
	if ((s->regs.ier & IER_TX) && s->regs.thr_pending)
		return IIR_TX;
	return IIR_NONE;
}

/* Lock held. */
static void update_line(struct serial *s)
{
	bool line;

	receive(s);
	line = cause(s) != IIR_NONE && (s->regs.mcr & MCR_OUT2);

	if (line == s->line)
		return;
	s->line = line;
	if (s->irq)
		s->irq(s->irq_ctx, line);
}

static uint8_t take_input(struct serial *s)
{
	uint8_t v;

	if (s->received == 0)
		return 0;
	v = s->queue[s->head];
	s->head = (s->head + 1) % SERIAL_QUEUE;
	s->count--;
	s->received--;
	return v;
}

/* Reading the cause acknowledges "transmitter empty". */
static uint8_t read_cause(struct serial *s)
{
	uint8_t v = cause(s);

	if (v == IIR_TX)
		s->regs.thr_pending = 0;
	return s->regs.fcr & FCR_ENABLE ? v | IIR_FIFO : v;
}

/* In loopback the modem lines are the modem control outputs: drivers test for a chip so. */
static uint8_t modem_status(const struct serial_regs *r)
{
	if (!(r->mcr & MCR_LOOP))
		return MSR_CONNECTED;
	return (uint8_t)((r->mcr & 0x0cu) << 4 | (r->mcr & 0x02u) << 3 | (r->mcr & 0x01u) << 5);
}

static uint8_t get(struct serial *s, uint64_t reg)
{
	const struct serial_regs *r = &s->regs;
	bool dlab = r->lcr & LCR_DLAB;

	switch (reg) {
	case RBR_THR_DLL:
		return dlab ? r->dll : take_input(s);
	case IER_DLM:
		return dlab ? r->dlm : r->ier;
	case IIR_FCR:
		return read_cause(s);
	case LCR:
		return r->lcr;
	case MCR:
		return r->mcr;
	case LSR:
		return LSR_TX_EMPTY | (s->received > 0 ? LSR_RX_READY : 0);
	case MSR:
		return modem_status(r);
	default:
		return r->scr;
	}
}

static void set_ier(struct serial_regs *r, uint8_t v)
{
	/* The transmitter is empty: asking to be told of it is answered at once. */
	if ((v & IER_TX) && !(r->ier & IER_TX))
		r->thr_pending = 1;
	r->ier = v & IER_MASK;
}

/* True when `v` is to be sent. */
static bool set(struct serial *s, uint64_t reg, uint8_t v)
{
	struct serial_regs *r = &s->regs;
	bool dlab = r->lcr & LCR_DLAB;

	switch (reg) {
	case RBR_THR_DLL:
		if (dlab) {
			r->dll = v;
			return false;
		}
		r->thr_pending = 1; /* sent, and empty again */
		return !(r->mcr & MCR_LOOP);
	case IER_DLM:
		if (dlab)
			r->dlm = v;
		else
			set_ier(r, v);
		return false;
	case IIR_FCR:
		r->fcr = v;
		if (v & FCR_CLEAR_RX)
			drop_received(s);
		return false;
	case LCR:
		r->lcr = v;
		return false;
	case MCR:
		r->mcr = v & MCR_MASK;
		return false;
	case SCR:
		r->scr = v;
		return false;
	default: /* LSR and MSR are read-only */
		return false;
	}
}

static void serial_read(void *dev, const struct bus_access *a, void *data)
{
	struct serial *s = dev;
	uint8_t *out = data;

	memset(data, 0xff, a->len);
	pthread_mutex_lock(&s->lock);
	*out = get(s, a->offset);
	update_line(s);
	pthread_mutex_unlock(&s->lock);
}

static void serial_write(void *dev, const struct bus_access *a, const void *data)
{
	struct serial *s = dev;
	const uint8_t *in = data;
	bool send;

	/* A byte-wide device: the low byte counts. */
	pthread_mutex_lock(&s->lock);
	send = set(s, a->offset, *in);
	update_line(s);
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

void serial_connect(struct serial *s, serial_irq_fn *irq, void *ctx)
{
	s->irq = irq;
	s->irq_ctx = ctx;
}

void serial_drop_input(struct serial *s)
{
	pthread_mutex_lock(&s->lock);
	s->head = s->count = s->received = 0;
	memset(s->queue, 0, sizeof(s->queue));
	update_line(s);
	pthread_mutex_unlock(&s->lock);
}

size_t serial_input(struct serial *s, const void *data, size_t size)
{
	const uint8_t *in = data;
	size_t n = 0;

	pthread_mutex_lock(&s->lock);
	for (; n < size && s->count < SERIAL_QUEUE; n++) {
		s->queue[(s->head + s->count) % SERIAL_QUEUE] = in[n];
		s->count++;
	}
	update_line(s);
	pthread_mutex_unlock(&s->lock);
	return n;
}

void serial_save(struct serial *s, struct serial_regs *out)
{
	pthread_mutex_lock(&s->lock);
	*out = s->regs;
	pthread_mutex_unlock(&s->lock);
}

void serial_restore(struct serial *s, const struct serial_regs *in)
{
	pthread_mutex_lock(&s->lock);
	s->regs = *in;
	s->received = 0;
	update_line(s);
	pthread_mutex_unlock(&s->lock);
}
