// SPDX-License-Identifier: MIT
#include "vmm/guestctl.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* The inputs of a request: what stands before the outputs. */
struct request_head {
	uint32_t op;
	int32_t result;
	uint64_t value, buf, size;
};
_Static_assert(sizeof(struct request_head) == offsetof(struct abi_request, clone),
               "the head is the start of struct abi_request");

static void ring_read(void *dev, const struct bus_access *a, void *data)
{
	(void)dev;
	memset(data, 0, a->len);
}

static void ring_write(void *dev, const struct bus_access *a, const void *data)
{
	struct guestctl *g = dev;

	/* Only the register at the page's start, only whole: anything else is no request. */
	if (a->offset == 0 && a->len == sizeof(g->bell[0]))
		memcpy(&g->bell[a->cpu], data, sizeof(g->bell[0]));
}

const struct device_ops guestctl_ops = {
	.name = "guestctl",
	.read = ring_read,
	.write = ring_write,
};

void guestctl_init(struct guestctl *g, struct space *space, struct console *console,
                   const struct vm_mailbox *mailbox)
{
	g->space = space;
	g->console = console;
	g->mailbox = *mailbox;
	for (size_t i = 0; i < VM_MAX_CPUS; i++)
		g->bell[i] = BELL_SILENT;
}

/* Straight from guest memory to the console, a contiguous run at a time. */
static int32_t write_console(struct guestctl *g, const struct request_head *r)
{
	uint64_t done = 0;

	if (r->size > ABI_WRITE_MAX)
		return -EMSGSIZE;
	while (done < r->size) {
		struct hold h;
		int e = space_hold(g->space, (gpa_t){r->buf + done}, r->size - done, ACCESS_READ,
		                   &h);

		if (e)
			return e;
		console_put(g->console, h.ptr, h.size);
		done += h.size;
		space_release(&h);
	}
	return (int32_t)done;
}

/* From the input to guest memory, all that is left of it and asked for. */
static int32_t read_input(struct guestctl *g, const struct request_head *r)
{
	const struct vm_mailbox *m = &g->mailbox;
	uint64_t left, size;
	int e;

	if (r->value >= m->input_size)
		return 0;
	left = m->input_size - r->value;
	size = r->size < left ? r->size : left;
	if (size > ABI_INPUT_MAX)
		size = ABI_INPUT_MAX;
	e = space_write(g->space, (gpa_t){r->buf}, (const uint8_t *)m->input + r->value, size);
	return e ? e : (int32_t)size;
}

/* A message arrives whole, or not at all. */
static int32_t send_output(struct guestctl *g, const struct request_head *r)
{
	const struct vm_mailbox *m = &g->mailbox;
	struct hold h;
	int e;

	if (r->size > ABI_WRITE_MAX)
		return -EMSGSIZE;
	if (r->size == 0)
		return 0;
	e = space_hold(g->space, (gpa_t){r->buf}, r->size, ACCESS_READ, &h);
	if (e)
		return e;
	if (h.size < r->size)
		e = -EFAULT;
	else if (m->output)
		m->output(m->ctx, h.ptr, h.size);
	space_release(&h);
	return e;
}

/* The request itself may lie in what is given back: its answer is written after that. */
static int32_t give_back(struct guestctl *g, const struct request_head *r)
{
	struct gpa_range range;
	int e = gpa_range_make(r->buf, r->size, MM_PAGE_SIZE, &range);

	return e ? e : space_discard(g->space, range);
}

static void describe_crash(struct guestctl *g, const struct request_head *r, struct vm_report *out)
{
	struct abi_crash c;
	size_t at;

	if (space_read(g->space, (gpa_t){r->buf}, &c, sizeof(c))) {
		snprintf(out->text, sizeof(out->text), "guest crashed: trap %" PRIu64, r->value);
		return;
	}
	at = (size_t)snprintf(out->text, sizeof(out->text),
	                      "guest crashed: trap %" PRIu64 ", error code 0x%" PRIx64
	                      ", address 0x%" PRIx64 "\n  pc 0x%" PRIx64 " sp 0x%" PRIx64
	                      " flags 0x%" PRIx64,
	                      c.trap, c.code, c.address, c.pc, c.sp, c.flags);
	for (size_t i = 0; i < 16 && at < sizeof(out->text); i++)
		at += (size_t)snprintf(out->text + at, sizeof(out->text) - at, "%sr%zu %016" PRIx64,
		                       i % 4 ? " " : "\n  ", i, c.regs[i]);
}

static void crash(struct vm_report *out, const char *what, uint64_t gpa)
{
	out->event = VM_CRASHED;
	snprintf(out->text, sizeof(out->text), "guest crashed: %s 0x%" PRIx64, what, gpa);
}

bool guestctl_serve(struct guestctl *g, unsigned cpu, struct vm_report *out, gpa_t *request)
{
	const struct guest_identity *told = NULL;
	struct guest_identity id;
	struct request_head r;
	int32_t result;

	if (g->bell[cpu] == BELL_SILENT)
		return false;
	*request = (gpa_t){g->bell[cpu]};
	g->bell[cpu] = BELL_SILENT;
	*out = (struct vm_report){.vcpu = cpu};
	if (space_read(g->space, *request, &r, sizeof(r))) {
		crash(out, "doorbell rung for a request outside RAM, at", request->v);
		return true;
	}
	switch ((enum abi_op)r.op) {
	case ABI_EXIT:
		out->event = VM_EXITED;
		out->code = r.value > 255 ? 255 : (int)r.value;
		return true;
	case ABI_READY:
		out->event = VM_READY;
		return true;
	case ABI_FORK:
		out->event = VM_FORK;
		return true;
	case ABI_NEXT:
		out->event = VM_NEXT;
		out->code = r.value > 255 ? 255 : (int)r.value;
		return true;
	case ABI_CRASH:
		out->event = VM_CRASHED;
		describe_crash(g, &r, out);
		return true;
	case ABI_WRITE:
		result = write_console(g, &r);
		break;
	case ABI_INPUT:
		result = read_input(g, &r);
		break;
	case ABI_OUTPUT:
		result = send_output(g, &r);
		break;
	case ABI_DISCARD:
		result = give_back(g, &r);
		break;
	case ABI_IDENTITY:
		result = guestctl_identity(g, &id);
		told = result == 0 ? &id : NULL;
		break;
	default:
		result = -ENOSYS;
		break;
	}
	if (guestctl_answer(g, *request, result, told) == 0)
		return false;
	crash(out, "no memory to answer the request at", request->v);
	return true;
}

int guestctl_answer(struct guestctl *g, gpa_t request, int32_t result,
                    const struct guest_identity *id)
{
	struct abi_request r = {.result = result};
	const size_t from = offsetof(struct abi_request, clone);
	size_t size;
	int e = space_write(g->space, (gpa_t){request.v + offsetof(struct abi_request, result)},
	                    &r.result, sizeof(r.result));

	if (e || !id)
		return e;
	r.clone = id->clone;
	r.generation = id->generation;
	memcpy(r.entropy, id->entropy, sizeof(r.entropy));
	if (id->arg) {
		r.args_len = (uint32_t)strnlen(id->arg, ABI_ARGS_MAX - 1);
		memcpy(r.args, id->arg, r.args_len);
	}
	/* No more of the argument than there is: it may lie on a page of its own. */
	size = offsetof(struct abi_request, args) + r.args_len + 1 - from;
	return space_write(g->space, (gpa_t){request.v + from}, &r.clone, size);
}

int guestctl_identity(const struct guestctl *g, struct guest_identity *out)
{
	*out = g->self;
	return getrandom(out->entropy, sizeof(out->entropy), 0) == (ssize_t)sizeof(out->entropy)
	               ? 0
	               : -errno;
}

int guest_identity_make(uint64_t number, const char *arg, struct guest_identity *out)
{
	*out = (struct guest_identity){.clone = number, .arg = arg};
	return getrandom(&out->generation, sizeof(out->generation), 0) ==
	                       (ssize_t)sizeof(out->generation)
	               ? 0
	               : -errno;
}
