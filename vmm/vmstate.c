// SPDX-License-Identifier: MIT
/*
 * vmm/vmstate.c - everything of a VM beside its memory, as the bytes an image keeps.
 *
 *     +--------------------------------+
 *     | magic u64 | version u32 | cpus u32 | flags u32 (1: in-kernel irqchip) | zero u32
 *     +--------------------------------+
 *     | type u32 | index u32 | size u64 |  then `size` bytes, then zeros to a multiple of 8
 *     +--------------------------------+
 *     | ...                            |
 *
 * Little-endian. One record each of VM, SERIAL, POWER and REQUEST; for each vCPU, in ascending
 * order, one VCPU and one WAIT record. What VM and VCPU records hold is the ISA's (arch/arch.h).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "vmm/vm_internal.h"

#define STATE_MAGIC   UINT64_C(0x6574617473776f63) /* "cowstate" */
#define STATE_VERSION 1u

#define FLAG_IRQCHIP 1u

enum record_type {
	RECORD_VM = 1,
	RECORD_VCPU,
	RECORD_SERIAL,
	RECORD_REQUEST,
	RECORD_WAIT,
	RECORD_POWER,
};
#define RECORD_TYPES 7u

struct state_header {
	uint64_t magic;
	uint32_t version, cpus, flags, zero;
};

struct record_header {
	uint32_t type, index;
	uint64_t size;
};

/* What the guest waits for an answer to. */
struct request_record {
	uint64_t gpa;  /* BELL_SILENT: none */
	uint64_t kind; /* enum open_kind */
};

/* What a vCPU waits for that KVM does not know of. */
struct wait_record {
	uint64_t bell;   /* gpa of a request rung and not served yet; BELL_SILENT: none */
	uint64_t halted; /* 1: for good */
};

/* ---- saving ---- */

struct buffer {
	uint8_t *data;
	size_t size, room;
};

/* Room for `size` more bytes, zeroed. NULL: out of memory (what is there stays). */
static void *extend(struct buffer *b, size_t size)
{
	size_t need = b->size + size;
	void *at;

	if (need > b->room) {
		size_t room = need + need / 2;
		uint8_t *more = realloc(b->data, room);

		if (!more)
			return NULL;
		b->data = more;
		b->room = room;
	}
	at = b->data + b->size;
	memset(at, 0, size);
	b->size = need;
	return at;
}

/* Make a record; *payload is where its `size` bytes go. Return: 0 or -ENOMEM. */
static int add_record(struct buffer *b, enum record_type type, unsigned index, size_t size,
                      void **payload)
{
	struct record_header *h = extend(b, sizeof(*h) + (size_t)align_up(size, 8));

	if (!h)
		return -ENOMEM;
	*h = (struct record_header){(uint32_t)type, index, size};
	*payload = h + 1;
	return 0;
}

static int save_vm(struct vm *vm, struct buffer *b)
{
	size_t size = 0;
	void *to;
	int r = arch_vm_save(vm->kvm, vm->fd, vm->irqchip, NULL, 0, &size);

	if (r && r != -ENOSPC)
		return r;
	r = add_record(b, RECORD_VM, 0, size, &to);
	return r ? r : arch_vm_save(vm->kvm, vm->fd, vm->irqchip, to, size, &size);
}

static int save_vcpu(struct vm *vm, unsigned index, struct buffer *b)
{
	const struct wait_record wait = {vm->ctl.bell[index], vm->vcpus[index].halted};
	int fd = vm->vcpus[index].fd;
	size_t size = 0;
	void *to;
	int r = arch_vcpu_save(vm->kvm, fd, NULL, 0, &size);

	if (r && r != -ENOSPC)
		return r;
	r = add_record(b, RECORD_VCPU, index, size, &to);
	if (r == 0)
		r = arch_vcpu_save(vm->kvm, fd, to, size, &size);
	if (r == 0)
		r = add_record(b, RECORD_WAIT, index, sizeof(wait), &to);
	if (r == 0)
		memcpy(to, &wait, sizeof(wait));
	return r;
}

static int save_devices(struct vm *vm, struct buffer *b)
{
	struct request_record request = {vm->open.gpa, vm->open.kind};
	void *to;
	int r = add_record(b, RECORD_SERIAL, 0, sizeof(struct serial_regs), &to);

	if (r)
		return r;
	serial_save(&vm->serial, to);
	r = add_record(b, RECORD_POWER, 0, sizeof(struct power_regs), &to);
	if (r)
		return r;
	power_save(&vm->power, to);
	r = add_record(b, RECORD_REQUEST, 0, sizeof(request), &to);
	if (r == 0)
		memcpy(to, &request, sizeof(request));
	return r;
}

int vmstate_save(struct vm *vm, void **out, size_t *size)
{
	struct buffer b = {0};
	struct state_header *h = extend(&b, sizeof(*h));
	int r = h ? 0 : -ENOMEM;

	if (r == 0) {
		*h = (struct state_header){STATE_MAGIC, STATE_VERSION, vm->cpu_count,
		                           vm->irqchip ? FLAG_IRQCHIP : 0, 0};
		r = save_vm(vm, &b);
	}
	for (unsigned i = 0; r == 0 && i < vm->cpu_count; i++)
		r = save_vcpu(vm, i, &b);
	if (r == 0)
		r = save_devices(vm, &b);
	if (r) {
		free(b.data);
		return r;
	}
	*out = b.data;
	*size = b.size;
	return 0;
}

/* ---- restoring ---- */

struct reader {
	const uint8_t *at;
	size_t left;
};

static int open_state(const void *state, size_t size, struct reader *r, struct machine *out)
{
	struct state_header h;

	if (size < sizeof(h))
		return -EBADMSG;
	memcpy(&h, state, sizeof(h));
	if (h.magic != STATE_MAGIC || h.version != STATE_VERSION)
		return -EBADMSG;
	if (h.cpus == 0 || h.cpus > VM_MAX_CPUS || (h.flags & ~FLAG_IRQCHIP) || h.zero)
		return -EBADMSG;
	*r = (struct reader){(const uint8_t *)state + sizeof(h), size - sizeof(h)};
	*out = (struct machine){h.cpus, (h.flags & FLAG_IRQCHIP) != 0};
	return 0;
}

/* Return: 0; -ENOENT at the end; -EBADMSG. */
static int next_record(struct reader *r, struct record_header *h, const void **payload)
{
	uint64_t padded;

	if (r->left == 0)
		return -ENOENT;
	if (r->left < sizeof(*h))
		return -EBADMSG;
	memcpy(h, r->at, sizeof(*h));
	if (h->size > r->left - sizeof(*h))
		return -EBADMSG;
	padded = align_up(h->size, 8);
	if (padded > r->left - sizeof(*h))
		return -EBADMSG;
	*payload = r->at + sizeof(*h);
	r->at += sizeof(*h) + padded;
	r->left -= sizeof(*h) + padded;
	return 0;
}

int vmstate_machine(const void *state, size_t size, struct machine *out)
{
	struct reader r;

	return open_state(state, size, &r, out);
}

static int restore_request(struct vm *vm, const void *payload)
{
	struct request_record request;

	memcpy(&request, payload, sizeof(request));
	if (request.kind >= OPEN_KINDS)
		return -EBADMSG;
	vm->open = (struct open_request){request.gpa, (enum open_kind)request.kind};
	return 0;
}

static int restore_serial(struct vm *vm, const void *payload)
{
	struct serial_regs regs;

	memcpy(&regs, payload, sizeof(regs));
	serial_restore(&vm->serial, &regs);
	return 0;
}

static int restore_power(struct vm *vm, const void *payload)
{
	struct power_regs regs;

	memcpy(&regs, payload, sizeof(regs));
	power_restore(&vm->power, &regs);
	return 0;
}

static int restore_wait(struct vm *vm, unsigned index, const void *payload)
{
	struct wait_record wait;

	memcpy(&wait, payload, sizeof(wait));
	vm->ctl.bell[index] = wait.bell;
	vm->vcpus[index].halted = wait.halted != 0;
	return 0;
}

/* Each record once, those of vCPUs in order; `seen` counts the records of each type. */
static int check_place(const struct record_header *h, unsigned cpus, unsigned *seen)
{
	bool per_cpu = h->type == RECORD_VCPU || h->type == RECORD_WAIT;

	if (h->type >= RECORD_TYPES)
		return 0;
	if (h->index != (per_cpu ? seen[h->type] : 0) || seen[h->type] >= (per_cpu ? cpus : 1))
		return -EBADMSG;
	seen[h->type]++;
	return 0;
}

static int check_complete(unsigned cpus, const unsigned *seen)
{
	bool complete = seen[RECORD_VM] && seen[RECORD_SERIAL] && seen[RECORD_POWER] &&
	                seen[RECORD_REQUEST] && seen[RECORD_VCPU] == cpus &&
	                seen[RECORD_WAIT] == cpus;

	return complete ? 0 : -EBADMSG;
}

static int restore_record(struct vm *vm, const struct record_header *h, const void *payload,
                          struct vm_error *err)
{
	switch (h->type) {
	case RECORD_VM:
		return arch_vm_restore(vm->kvm, vm->fd, vm->irqchip, payload, h->size);
	case RECORD_VCPU:
		return arch_vcpu_restore_why(vm->kvm, vm->vcpus[h->index].fd, payload, h->size,
		                             err->text, sizeof(err->text));
	case RECORD_SERIAL:
		return h->size == sizeof(struct serial_regs) ? restore_serial(vm, payload)
		                                             : -EBADMSG;
	case RECORD_POWER:
		return h->size == sizeof(struct power_regs) ? restore_power(vm, payload) : -EBADMSG;
	case RECORD_REQUEST:
		return h->size == sizeof(struct request_record) ? restore_request(vm, payload)
		                                                : -EBADMSG;
	case RECORD_WAIT:
		return h->size == sizeof(struct wait_record) ? restore_wait(vm, h->index, payload)
		                                             : -EBADMSG;
	default:
		snprintf(err->text, sizeof(err->text), "unknown state record %u", h->type);
		return -ENOTSUP;
	}
}

int vmstate_restore(struct vm *vm, const void *state, size_t size, struct vm_error *err)
{
	struct record_header h;
	struct reader r;
	const void *payload;
	struct machine machine;
	unsigned seen[RECORD_TYPES] = {0};
	int e = open_state(state, size, &r, &machine);

	err->text[0] = '\0';
	if (e == 0 && (machine.cpus != vm->cpu_count || machine.irqchip != vm->irqchip))
		e = -EBADMSG;
	while (e == 0) {
		e = next_record(&r, &h, &payload);
		if (e)
			break;
		e = check_place(&h, machine.cpus, seen);
		if (e == 0)
			e = restore_record(vm, &h, payload, err);
	}
	if (e == -ENOENT)
		e = check_complete(machine.cpus, seen);
	if (e && err->text[0] == '\0')
		snprintf(err->text, sizeof(err->text), "the image's machine state: %s",
		         e == -EBADMSG ? "damaged records" : strerror(-e));
	return e;
}

static const char *const record_names[RECORD_TYPES] = {
	[RECORD_SERIAL] = "serial port",
	[RECORD_POWER] = "power control",
	[RECORD_REQUEST] = "doorbell",
};

/* What the host's KVM and this program must offer beside what the records themselves ask for. */
static int check_machine(const struct kvm *kvm, const struct machine *m, struct vm_error *err)
{
	if (m->cpus > kvm->caps.max_vcpus) {
		snprintf(err->text, sizeof(err->text),
		         "the image needs %u vCPUs, this host's KVM has at most %u", m->cpus,
		         kvm->caps.max_vcpus);
		return -ENOTSUP;
	}
	if (m->irqchip && !kvm->caps.irqchip) {
		snprintf(err->text, sizeof(err->text),
		         "the image needs an interrupt controller in KVM (KVM_CAP_IRQCHIP), which "
		         "this host lacks");
		return -ENOTSUP;
	}
	return 0;
}

static int check_record(const struct kvm *kvm, const struct record_header *h, const void *payload,
                        struct vm_error *err)
{
	if (h->type == RECORD_VCPU)
		return arch_vcpu_check(kvm, payload, h->size, err->text, sizeof(err->text));
	if (h->type != 0 && h->type < RECORD_TYPES)
		return 0;
	snprintf(err->text, sizeof(err->text),
	         "the image has a device that this cowslip does not know (state record %" PRIu32
	         ")",
	         h->type);
	return -ENOTSUP;
}

int vm_check_image(const struct kvm *kvm, const struct image *image, struct vm_error *err)
{
	size_t size;
	const void *state = image_state(image, &size);
	struct record_header h;
	struct reader r;
	const void *payload;
	struct machine machine;
	int e = open_state(state, size, &r, &machine);

	err->text[0] = '\0';
	if (e == 0)
		e = check_machine(kvm, &machine, err);
	while (e == 0) {
		e = next_record(&r, &h, &payload);
		if (e == 0)
			e = check_record(kvm, &h, payload, err);
	}
	if (e == -ENOENT)
		return 0;
	if (err->text[0] == '\0')
		snprintf(err->text, sizeof(err->text), "the image's machine state: %s",
		         e == -EBADMSG ? "damaged records" : strerror(-e));
	return e;
}

int vm_image_devices(const struct image *image, const char *names[], unsigned room)
{
	size_t size;
	const void *state = image_state(image, &size);
	struct record_header h;
	struct reader r;
	const void *payload;
	struct machine machine;
	unsigned n = 0;
	int e = open_state(state, size, &r, &machine);

	if (e == 0 && machine.irqchip && n < room)
		names[n++] = "interrupt controller in KVM";
	while (e == 0) {
		e = next_record(&r, &h, &payload);
		if (e == 0 && h.type < RECORD_TYPES && record_names[h.type] && n < room)
			names[n++] = record_names[h.type];
	}
	return e == -ENOENT ? (int)n : e;
}
