// SPDX-License-Identifier: MIT
/*
 * vmm/power.h - the ways a guest with I/O ports ends itself: ACPI soft-off, reset, debug exit.
 *
 *     arch_info.pm_event_port     4 bytes  ACPI PM1a status and enable
 *     arch_info.pm_control_port   2 bytes  ACPI PM1a control; soft-off ends the guest with 0
 *     arch_info.gpe_port          2 bytes  ACPI general-purpose events: status, enable
 *     arch_info.reset_port        1 byte   a reset ends the guest with 0, too: one run, one life
 *     POWER_DEBUG_EXIT            4 bytes  value v: exit code (v << 1) | 1, low 8 bits, as QEMU's
 *                                          isa-debug-exit has it
 *
 * Event 0 says that the generation id has changed: this machine is a clone, or one more. An enabled
 * event raises arch_info.pm_irq, a level, until the guest clears its status.
 *
 * Source: ACPI 6.4, 4.8.3 (PM1) and 4.8.4 (general-purpose events).
 *
 * Concurrency: registers under the device's mutex; an ending is noted for the vCPU that asked.
 */
#ifndef COWSLIP_VMM_POWER_H
#define COWSLIP_VMM_POWER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/bus.h"
#include "vmm/vm.h"

#define POWER_DEBUG_EXIT 0xf4u

/* What a snapshot keeps. */
struct power_regs {
	uint16_t status, enable, control;
	uint8_t gpe_status, gpe_enable;
};

/* The interrupt line has changed. Must not call back into the device. */
typedef void power_irq_fn(void *ctx, bool level);

struct power {
	pthread_mutex_t lock;
	struct power_regs regs; /* lock */
	bool line;              /* lock */
	power_irq_fn *irq;      /* constant, as its context, once attached */
	void *irq_ctx;
	int ended[VM_MAX_CPUS]; /* exit code asked for by that vCPU, -1: none; by its thread */
};

void power_init(struct power *p);
void power_fini(struct power *p);

/*
 * Put the device's ports on a bus; none where the ISA names none. Before the first vCPU runs.
 * Return: 0 or as bus_add().
 */
int power_attach(struct power *p, struct bus *ports, power_irq_fn *irq, void *ctx);

/* Event 0: the generation id has changed. Any thread. */
void power_new_generation(struct power *p);

/* Has vCPU `cpu` just ended the guest? Return: true and its exit code. */
bool power_ended(struct power *p, unsigned cpu, int *code);

/* The vCPUs are stopped. */
void power_save(struct power *p, struct power_regs *out);
void power_restore(struct power *p, const struct power_regs *in);

#endif
