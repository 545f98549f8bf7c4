// SPDX-License-Identifier: MIT
#include "vmm/power.h"

#include <string.h>

#include "arch/arch.h"

#define SCI_EN         0x0001u /* ACPI is on, and was from the start */
#define SLP_TYP_SHIFT  10u
#define SLP_TYP_MASK   7u
#define SLP_EN         0x2000u
#define GPE_GENERATION 0x01u

/* Bytes of a little-endian register pair at `offset`, as many as are asked for. */
static uint64_t load(const void *data, unsigned len)
{
	uint64_t v = 0;

	memcpy(&v, data, len);
	return v;
}

static void end(struct power *p, unsigned cpu, uint64_t code)
{
	p->ended[cpu] = (int)(code & 0xff);
}

/* ---- PM1a status and enable ---- */

static void event_read(void *dev, const struct bus_access *a, void *data)
{
	struct power *p = dev;
	uint32_t v;

	pthread_mutex_lock(&p->lock);
	v = p->regs.status | (uint32_t)p->regs.enable << 16;
	pthread_mutex_unlock(&p->lock);
	v >>= 8 * a->offset;
	memset(data, 0, a->len);
	memcpy(data, &v, a->len < sizeof(v) ? a->len : sizeof(v));
}

/* Status bits are cleared by writing ones; nothing here ever sets one. */
static void event_write(void *dev, const struct bus_access *a, const void *data)
{
	struct power *p = dev;
	uint32_t v = (uint32_t)load(data, a->len) << (8 * a->offset);
	uint32_t mask = (uint32_t)(((UINT64_C(1) << (8 * a->len)) - 1) << (8 * a->offset));

	pthread_mutex_lock(&p->lock);
	p->regs.status &= (uint16_t)~v;
	p->regs.enable = (uint16_t)((p->regs.enable & ~(mask >> 16)) | (v >> 16));
	pthread_mutex_unlock(&p->lock);
}

static const struct device_ops event_ops = {
	.name = "pm-event",
	.read = event_read,
	.write = event_write,
};

/* ---- PM1a control ---- */

static void control_read(void *dev, const struct bus_access *a, void *data)
{
	struct power *p = dev;
	uint16_t v;

	pthread_mutex_lock(&p->lock);
	v = p->regs.control | SCI_EN;
	pthread_mutex_unlock(&p->lock);
	v >>= 8 * a->offset;
	memset(data, 0, a->len);
	memcpy(data, &v, a->len < sizeof(v) ? a->len : sizeof(v));
}

static void control_write(void *dev, const struct bus_access *a, const void *data)
{
	struct power *p = dev;
	uint16_t v = (uint16_t)(load(data, a->len) << (8 * a->offset));

	pthread_mutex_lock(&p->lock);
	p->regs.control = v & (uint16_t)~SLP_EN;
	pthread_mutex_unlock(&p->lock);
	if ((v & SLP_EN) && ((v >> SLP_TYP_SHIFT) & SLP_TYP_MASK) == arch_info.pm_off_type)
		end(p, a->cpu, 0);
}

static const struct device_ops control_ops = {
	.name = "pm-control",
	.read = control_read,
	.write = control_write,
};

/* ---- general-purpose events ---- */

/* Lock held. */
static void update_line(struct power *p)
{
	bool line = p->regs.gpe_status & p->regs.gpe_enable;

	if (line == p->line)
		return;
	p->line = line;
	if (p->irq)
		p->irq(p->irq_ctx, line);
}

static void gpe_read(void *dev, const struct bus_access *a, void *data)
{
	struct power *p = dev;
	uint8_t v[2];

	pthread_mutex_lock(&p->lock);
	v[0] = p->regs.gpe_status;
	v[1] = p->regs.gpe_enable;
	pthread_mutex_unlock(&p->lock);
	memcpy(data, v + a->offset, a->len);
}

/* Byte 0: ones clear status. Byte 1: enable. */
static void gpe_write(void *dev, const struct bus_access *a, const void *data)
{
	struct power *p = dev;
	const uint8_t *v = data;

	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < a->len; i++) {
		if (a->offset + i == 0)
			p->regs.gpe_status &= (uint8_t)~v[i];
		else
			p->regs.gpe_enable = v[i];
	}
	update_line(p);
	pthread_mutex_unlock(&p->lock);
}

static const struct device_ops gpe_ops = {
	.name = "gpe",
	.read = gpe_read,
	.write = gpe_write,
};

void power_new_generation(struct power *p)
{
	pthread_mutex_lock(&p->lock);
	p->regs.gpe_status |= GPE_GENERATION;
	update_line(p);
	pthread_mutex_unlock(&p->lock);
}

/* ---- reset and debug exit ---- */

/* A keyboard controller that is never busy and never has a key. */
static void zero_read(void *dev, const struct bus_access *a, void *data)
{
	(void)dev;
	memset(data, 0, a->len);
}

static void reset_write(void *dev, const struct bus_access *a, const void *data)
{
	const uint8_t *command = data;

	if (*command == arch_info.reset_value)
		end(dev, a->cpu, 0);
}

static const struct device_ops reset_ops = {
	.name = "reset",
	.read = zero_read,
	.write = reset_write,
};

static void exit_write(void *dev, const struct bus_access *a, const void *data)
{
	end(dev, a->cpu, load(data, a->len) << 1 | 1);
}

static const struct device_ops exit_ops = {
	.name = "debug-exit",
	.read = zero_read,
	.write = exit_write,
};

/* ---- the device ---- */

void power_init(struct power *p)
{
	*p = (struct power){0};
	pthread_mutex_init(&p->lock, NULL);
	for (unsigned i = 0; i < VM_MAX_CPUS; i++)
		p->ended[i] = -1;
}

void power_fini(struct power *p)
{
	pthread_mutex_destroy(&p->lock);
}

int power_attach(struct power *p, struct bus *ports, power_irq_fn *irq, void *ctx)
{
	const struct {
		uint64_t port, size;
		const struct device_ops *ops;
	} parts[] = {
		{arch_info.pm_event_port, 4, &event_ops},
		{arch_info.pm_control_port, 2, &control_ops},
		{arch_info.gpe_port, 2, &gpe_ops},
		{arch_info.reset_port, 1, &reset_ops},
		{POWER_DEBUG_EXIT, 4, &exit_ops},
	};

	p->irq = irq;
	p->irq_ctx = ctx;
	if (arch_info.pm_control_port == 0)
		return 0;
	for (unsigned i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		int r = bus_add(ports, parts[i].port, parts[i].size, parts[i].ops, p);

		if (r)
			return r;
	}
	return 0;
}

bool power_ended(struct power *p, unsigned cpu, int *code)
{
	*code = p->ended[cpu];
	p->ended[cpu] = -1;
	return *code >= 0;
}

void power_save(struct power *p, struct power_regs *out)
{
	pthread_mutex_lock(&p->lock);
	*out = p->regs;
	pthread_mutex_unlock(&p->lock);
}

void power_restore(struct power *p, const struct power_regs *in)
{
	pthread_mutex_lock(&p->lock);
	p->regs = *in;
	update_line(p);
	pthread_mutex_unlock(&p->lock);
}
