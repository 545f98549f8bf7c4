// SPDX-License-Identifier: MIT
/*
 * vmm/worker.c - one worker process: makes clones one after the other, and keeps them if told to.
 *
 * The pool belongs to the worker. Everything it knows goes to the engine as messages; when the
 * engine is gone the worker has nothing left to do and ends.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vmm/family.h"
#include "vmm/hostlimit.h"
#include "vmm/kvm_stats.h"
#include "vmm/wire.h"

#define POOL_MIN (UINT64_C(64) << 20)

/* A VM that stays alive. */
struct held {
	struct vm *vm;
	struct held *next;
};

struct worker_state {
	const struct engine_config *config;
	int sock;
	struct pool *pool;
	struct shells *shells;
	uint64_t number; /* of the clone that runs */
	bool reused;     /* it has one that was another's */
	uint64_t tables; /* bytes of page tables that are not the next VM's to answer for */
	uint64_t next_child, child_step;
	struct family *family; /* that runs; NULL: none */
	pthread_mutex_t message_lock;
	struct held *held;

	enum clone_ready ready; /* what engine_config.ready has said of the VM that runs */
	struct vm_error ready_why;
};

static int send_wire(const struct worker_state *w, const struct wire *m, const void *data,
                     size_t size)
{
	struct iovec iov[] = {{(void *)(uintptr_t)m, sizeof(*m)}, {(void *)(uintptr_t)data, size}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = size ? 2 : 1};
	ssize_t n;

	do {
		n = sendmsg(w->sock, &msg, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

/* Without it the engine would wait for ever; it hears of the worker's end. */
static void send_ended(const struct worker_state *w, const struct wire *m)
{
	if (send_wire(w, m, NULL, 0))
		_exit(1);
}

static void on_output(void *ctx, uint64_t number, const void *data, size_t size)
{
	const struct wire m = {.kind = WIRE_OUTPUT, .number = number};
	const uint8_t *at = data;

	while (size > 0) {
		size_t n = size < WIRE_OUTPUT_MAX ? size : WIRE_OUTPUT_MAX;

		/* An engine that is gone wants no output; recv() will find out. */
		if (send_wire(ctx, &m, at, n))
			return;
		at += n;
		size -= n;
	}
}

/*
 * A message that does not fit one of ours goes in several; vCPUs may hand over at once, so the lock
 * keeps them together.
 */
static void on_message(void *ctx, const void *data, size_t size)
{
	struct worker_state *w = ctx;
	struct wire m = {.kind = WIRE_MESSAGE, .number = family_running(w->family)};
	const uint8_t *at = data;

	pthread_mutex_lock(&w->message_lock);
	do {
		size_t n = size < WIRE_OUTPUT_MAX ? size : WIRE_OUTPUT_MAX;

		m.more = n < size;
		if (send_wire(w, &m, at, n))
			break;
		at += n;
		size -= n;
	} while (size > 0);
	pthread_mutex_unlock(&w->message_lock);
}

static enum clone_end end_of(enum vm_event e)
{
	switch (e) {
	case VM_EXITED:
		return CLONE_EXITED;
	case VM_CRASHED:
		return CLONE_CRASHED;
	case VM_TIMEOUT:
		return CLONE_TIMEOUT;
	case VM_READY:
	case VM_FORK:
	case VM_KICKED:
	case VM_NEXT:
	case VM_NOMEM:
	case VM_DENIED:
	case VM_FAILED:
		break;
	}
	return CLONE_FAILED;
}

/* What the VM has, now that it has ended. Of VMs that are held each adds its own to the tables. */
static void measure(struct worker_state *w, struct vm *vm, struct clone_result *out)
{
	uint64_t tables = procmem_tables();
	struct kvm_counters counters;

	(void)space_stats(vm_space(vm), &out->space);
	out->table_bytes = tables > w->tables ? tables - w->tables : 0;
	if (w->config->hold)
		w->tables = tables;
	/* Dropping shadows for the next clone takes roots away that are in use. */
	if (out->reused || vm_kvm_stats(vm, &counters))
		return;
	out->kvm_tables_known = kvm_counters_table_bytes(&counters, &out->kvm_table_bytes) == 0;
}

static void describe(struct worker_state *w, struct vm *vm, const struct vm_report *report,
                     struct clone_result *out)
{
	struct vm_exits exits;

	*out = (struct clone_result){
		.number = vm_number(vm),
		.end = end_of(report->event),
		.code = report->code,
		.short_of = report->event == VM_NOMEM ? report->short_of : SHORT_OF_NOTHING,
		.reused = w->reused && vm_number(vm) == w->number,
	};
	vm_times(vm, &out->times);
	vm_exits(vm, &exits);
	out->exits = exits.mmio + exits.io + exits.other;
	snprintf(out->text, sizeof(out->text), "%s", report->text);
	out->stopped = w->ready == CLONE_STOPS;
	if (w->ready == CLONE_FAILS) {
		out->end = CLONE_FAILED;
		snprintf(out->text, sizeof(out->text), "%s", w->ready_why.text);
	}
	if (!w->config->quick)
		measure(w, vm, out);
}

static bool on_ready(void *ctx, struct vm *vm)
{
	struct worker_state *w = ctx;

	if (w->config->ready)
		w->ready = w->config->ready(w->config->ctx, vm, &w->ready_why);
	return w->ready == CLONE_GOES_ON;
}

static bool on_ended(void *ctx, struct vm *vm, const struct vm_report *report)
{
	struct worker_state *w = ctx;
	struct wire m = {
		.kind = WIRE_ENDED, .number = vm_number(vm), .more = family_has_more(w->family)};
	struct held *h;

	describe(w, vm, report, &m.result);
	w->ready = CLONE_GOES_ON;
	send_ended(w, &m);
	if (!w->config->hold)
		return false;
	h = malloc(sizeof(*h));
	if (!h)
		return false;
	*h = (struct held){vm, w->held};
	w->held = h;
	return true;
}

/* An input for each clone, and no more. */
static bool on_next(void *ctx, struct vm *vm, int code)
{
	(void)ctx;
	(void)vm;
	(void)code;
	return false;
}

static void on_failed(void *ctx, uint64_t number, int error, const char *why)
{
	const struct worker_state *w = ctx;
	struct wire m = {.kind = WIRE_ENDED,
	                 .number = number,
	                 .more = w->family && family_has_more(w->family),
	                 .result = {.number = number, .end = CLONE_FAILED, .code = error}};

	snprintf(m.result.text, sizeof(m.result.text), "%s", why);
	send_ended(w, &m);
}

/* The next byte, or the clone's number, of an input text. Return: what to add; *at moves on. */
static const char *next_piece(const char **at, const char *number, char *one)
{
	if ((*at)[0] == '%' && (*at)[1] == 'n') {
		*at += 2;
		return number;
	}
	*at += (*at)[0] == '%' && (*at)[1] == '%';
	one[0] = *(*at)++;
	one[1] = '\0';
	return one;
}

/* Return: 0; -ENOSPC when the console holds no more. */
static int type_input(const struct worker_state *w, struct vm *vm)
{
	const char *at = w->config->input;
	char number[24], one[2];

	if (!at)
		return 0;
	snprintf(number, sizeof(number), "%" PRIu64, vm_number(vm));
	while (*at) {
		const char *piece = next_piece(&at, number, one);

		if (vm_input(vm, piece, strlen(piece)) < strlen(piece))
			return -ENOSPC;
	}
	return vm_input(vm, "\n", 1) == 1 ? 0 : -ENOSPC;
}

static uint64_t reuses(const struct worker_state *w)
{
	struct shells_stats stats;

	shells_stats(w->shells, &stats);
	return stats.reused;
}

static struct vm_mailbox mailbox_of(struct worker_state *w, uint64_t number)
{
	const struct engine_config *c = w->config;
	struct vm_mailbox m = {.output = c->message ? on_message : NULL, .ctx = w};

	if (c->letter)
		m.input = c->letter(c->ctx, number, &m.input_size);
	return m;
}

/* One clone and whatever it forks. */
static void run_clone(struct worker_state *w, uint64_t number)
{
	const struct engine_config *c = w->config;
	const struct family_hooks hooks = {.ctx = w,
	                                   .output = on_output,
	                                   .ready = on_ready,
	                                   .ended = on_ended,
	                                   .next = on_next,
	                                   .failed = on_failed};
	const struct family_config fc = {
		.vm = {.kvm = c->kvm,
	               .pool = w->pool,
	               .image = c->image,
	               .number = number,
	               .arg = c->arg,
	               .faults = c->faults,
	               .limit_bytes = c->limit_bytes,
	               .limit_copies = c->limit_bytes > 0,
	               .mailbox = mailbox_of(w, number)},
		.timeout_ns = c->timeout_ns,
		.first_child = w->next_child,
		.child_step = w->child_step,
		.shells = w->shells,
		.hooks = &hooks,
	};
	uint64_t reused = reuses(w);
	struct family *f;
	struct vm_error err;
	int r = family_create(&fc, &f, &err);

	w->number = number;
	w->reused = reuses(w) > reused;
	if (r == 0 && type_input(w, family_root(f))) {
		family_destroy(f);
		snprintf(err.text, sizeof(err.text), "input: more than a console holds");
		r = -ENOSPC;
	}
	if (r) {
		on_failed(w, number, r, err.text);
	} else {
		w->family = f;
		family_run(f);
		w->family = NULL;
		w->next_child = family_next_number(f);
		family_destroy(f);
	}
}

static void let_go(struct worker_state *w)
{
	while (w->held) {
		struct held *h = w->held;

		w->held = h->next;
		vm_destroy(h->vm);
		free(h);
	}
}

static void report_summary(struct worker_state *w)
{
	struct wire m = {.kind = WIRE_SUMMARY};
	struct pool_stats ps;

	pool_stats(w->pool, &ps);
	m.summary.used_frames = ps.peak_frames;
	m.summary.limit_frames = ps.limit_frames;
	shells_stats(w->shells, &m.summary.shells);
	(void)send_wire(w, &m, NULL, 0);
}

/* Room for every clone to own all its RAM twice over: snapshots of snapshots keep frames. */
static uint64_t pool_bytes(const struct engine_config *c)
{
	size_t count;
	const struct ram_region *ram = image_ram(c->image, &count);
	uint64_t bytes = 0, vms = c->hold ? 2 * (uint64_t)c->per_process : 4;

	for (size_t i = 0; i < count; i++)
		bytes += align_up(ram[i].range.size, MM_BLOCK_SIZE);
	return max_u64(POOL_MIN, min_u64(bytes * vms, UINT64_C(1) << 40));
}

/* Return: 0; as pool_create() and shells_create(). */
static int set_up(struct worker_state *w)
{
	const struct engine_config *c = w->config;
	int r = pool_create(pool_bytes(c), &w->pool);

	if (r)
		return r;
	pthread_mutex_init(&w->message_lock, NULL);
	if (!c->quick)
		w->tables = procmem_tables();
	r = shells_create(c->no_reuse ? 0 : c->per_process, &w->shells);
	if (r)
		pool_put(w->pool);
	return r;
}

/* A worker without what every clone needs: each hears why. Return: the process's exit status. */
static int refuse_all(struct worker_state *w, int error)
{
	struct wire m;
	char why[HOSTLIMIT_TEXT_MAX];
	ssize_t n;

	(void)hostlimit_why(error, 0, why);
	for (;;) {
		n = recv(w->sock, &m, sizeof(m), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n != (ssize_t)sizeof(m) || m.kind != WIRE_RUN)
			break;
		on_failed(w, m.number, error, why);
	}
	m = (struct wire){.kind = WIRE_SUMMARY};
	(void)send_wire(w, &m, NULL, 0);
	return 0;
}

int worker_main(const struct engine_config *c, int sock, uint64_t first_child, uint64_t child_step)
{
	struct worker_state w = {
		.config = c, .sock = sock, .next_child = first_child, .child_step = child_step};
	struct wire m;
	ssize_t n;
	int r = set_up(&w);

	if (r)
		return refuse_all(&w, r);
	for (;;) {
		n = recv(sock, &m, sizeof(m), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n != (ssize_t)sizeof(m) || m.kind != WIRE_RUN)
			break;
		run_clone(&w, m.number);
	}
	report_summary(&w);
	let_go(&w);
	shells_destroy(w.shells);
	pool_put(w.pool);
	return 0;
}
