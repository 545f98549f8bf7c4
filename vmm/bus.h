// SPDX-License-Identifier: MIT
/*
 * vmm/bus.h - which device an address belongs to. One bus for ports, one for MMIO.
 *
 * Concurrency: built before the first vCPU runs and constant afterwards; devices guard themselves.
 */
#ifndef COWSLIP_VMM_BUS_H
#define COWSLIP_VMM_BUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One access as a device sees it. */
struct bus_access {
	uint64_t offset; /* from the start of the device's range */
	unsigned len;    /* 1, 2, 4 or 8 bytes */
	unsigned cpu;    /* index of the vCPU that makes it */
};

struct device_ops {
	const char *name;
	void (*read)(void *dev, const struct bus_access *a, void *data);
	void (*write)(void *dev, const struct bus_access *a, const void *data);
};

#define BUS_MAX 8u

struct bus {
	struct bus_slot {
		uint64_t start, size;
		const struct device_ops *ops;
		void *dev;
	} slot[BUS_MAX];
	size_t count;
};

/*
 * Return: 0; -EEXIST when the range meets another's; -ENOSPC when the bus is full; -EINVAL when
 * empty.
 */
int bus_add(struct bus *b, uint64_t start, uint64_t size, const struct device_ops *ops, void *dev);

/* Return: true when a device took it (the whole access lies in its range). */
bool bus_read(const struct bus *b, uint64_t at, unsigned len, unsigned cpu, void *data);
bool bus_write(const struct bus *b, uint64_t at, unsigned len, unsigned cpu, const void *data);

#endif
