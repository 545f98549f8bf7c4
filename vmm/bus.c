// SPDX-License-Identifier: MIT
#include "vmm/bus.h"

#include <errno.h>

int bus_add(struct bus *b, uint64_t start, uint64_t size, const struct device_ops *ops, void *dev)
{
	if (size == 0 || start + size < start)
		return -EINVAL;
	for (size_t i = 0; i < b->count; i++)
		if (start < b->slot[i].start + b->slot[i].size && b->slot[i].start < start + size)
			return -EEXIST;
	if (b->count == BUS_MAX)
		return -ENOSPC;
	b->slot[b->count++] = (struct bus_slot){start, size, ops, dev};
	return 0;
}

static const struct bus_slot *find(const struct bus *b, uint64_t at, unsigned len)
{
	for (size_t i = 0; i < b->count; i++) {
		const struct bus_slot *s = &b->slot[i];

		if (at >= s->start && at - s->start < s->size && s->size - (at - s->start) >= len)
			return s;
	}
	return NULL;
}

bool bus_read(const struct bus *b, uint64_t at, unsigned len, unsigned cpu, void *data)
{
	const struct bus_slot *s = find(b, at, len);

	if (s)
		s->ops->read(s->dev, &(struct bus_access){at - s->start, len, cpu}, data);
	return s;
}

bool bus_write(const struct bus *b, uint64_t at, unsigned len, unsigned cpu, const void *data)
{
	const struct bus_slot *s = find(b, at, len);

	if (s)
		s->ops->write(s->dev, &(struct bus_access){at - s->start, len, cpu}, data);
	return s;
}
