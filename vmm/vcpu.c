// SPDX-License-Identifier: MIT
/*
 * vmm/vcpu.c - running: enter the guest, handle why it came out, stop when asked.
 *
 * A vCPU stops in one place only, between two entries, after whatever I/O it was doing is
 * finished; so a stopped vCPU can always be saved.
 *
 * Getting a thread out of KVM_RUN: say why (stop, kicked, nomem), set immediate_exit in its run
 * page, then signal it. A thread about to enter sees the flag, one inside sees the signal; both
 * come out with EINTR. Whoever clears the flag looks at the reasons afterwards, so that
 * none is lost, and a kick that comes late does not keep its vCPU out for ever.
 *
 * Events. At most one vCPU at a time has an event that the VM survives: it holds vm->claimed. A
 * bell rung meanwhile by another stays unserved, is saved so, and is served when that vCPU
 * next runs. What ends the VM needs no claim and is reported first.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "arch/arch.h"
#include "mm/check.h"
#include "vmm/vm_internal.h"

/* A deadline that finds the thread outside KVM_RUN must find it again. */
#define TIMER_AGAIN_NS 10000000

/* A vCPU that waits for room on the console looks so often whether something is asked of it. */
#define ROOM_LOOK_NS 5000000

static void ignore_kick(int signal)
{
	(void)signal;
}

int vcpu_prepare_signals(void)
{
	/* A kick that comes late disturbs nobody's system call; KVM_RUN is never restarted. */
	struct sigaction sa = {.sa_handler = ignore_kick, .sa_flags = SA_RESTART};

	return sigaction(KICK_SIGNAL, &sa, NULL) < 0 ? -errno : 0;
}

/* An embedder may have blocked it: then no vCPU on this thread could be stopped. */
static void let_kicks_in(void)
{
	sigset_t kick;

	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
}

void vcpu_kick(struct vcpu *v)
{
	struct vm *vm = v->vm;

	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	if (v->threaded)
		pthread_kill(v->thread, KICK_SIGNAL);
	else if (v->index == 0 && atomic_load(&vm->owner_runs))
		pthread_kill(atomic_load(&vm->owner), KICK_SIGNAL);
}

/* ---- events ---- */

static bool is_fatal(enum vm_event e)
{
	return e == VM_EXITED || e == VM_CRASHED || e == VM_FAILED;
}

/* Return: true when `v` may post an event that the VM survives. */
static bool claim(struct vcpu *v)
{
	return !atomic_exchange(&v->vm->claimed, true);
}

static void post(struct vcpu *v, enum vm_event event, int code)
{
	v->report = (struct vm_report){.event = event, .vcpu = v->index, .code = code};
	v->pending = true;
}

bool vcpu_post_event(struct vcpu *v, enum vm_event event, int code)
{
	if (v->pending || !claim(v))
		return false;
	post(v, event, code);
	return true;
}

__attribute__((format(printf, 2, 3))) static void say(struct vcpu *v, const char *format, ...)
{
	char where[256];
	size_t at;
	va_list args;

	va_start(args, format);
	vsnprintf(v->report.text, sizeof(v->report.text), format, args);
	va_end(args);
	if (arch_vcpu_describe(v->fd, where, sizeof(where)))
		return;
	at = strlen(v->report.text);
	snprintf(v->report.text + at, sizeof(v->report.text) - at, "\n  vCPU %u: %s", v->index,
	         where);
}

/* ---- exits ---- */

/* Handlers post an event or just return: then the guest goes on. */
typedef void exit_handler(struct vcpu *v);

/* Requests that wait for the owner's answer. */
static void note_open(struct vm *vm, enum vm_event event, gpa_t request)
{
	if (event == VM_READY)
		vm->open = (struct open_request){request.v, OPEN_READY};
	else if (event == VM_FORK)
		vm->open = (struct open_request){request.v, OPEN_FORK};
	else if (event == VM_NEXT)
		vm->open = (struct open_request){request.v, OPEN_NEXT};
}

/* Serve the bell of `v`, if it has rung; or leave it for later. */
static void serve_bell(struct vcpu *v)
{
	struct vm *vm = v->vm;
	struct vm_report report;
	gpa_t request;

	if (!guestctl_serve(&vm->ctl, v->index, &report, &request))
		return;
	if (!claim(v)) {
		vm->ctl.bell[v->index] = request.v;
		v->deferred = true;
		return;
	}
	note_open(vm, report.event, request);
	v->report = report;
	v->pending = true;
}

/* Needs no claim: nothing is open that another vCPU's event could get in the way of. */
static void post_denied(struct vcpu *v, gpa_t at, enum access access)
{
	post(v, VM_DENIED, -EACCES);
	v->report.gpa = at;
	v->report.access = access;
	say(v, "guest %s at 0x%" PRIx64 ": its memory's protection forbids it",
	    access == ACCESS_WRITE ? "write" : "read", at.v);
}

/*
 * KVM's emulator takes RAM for a device that it could not reach at once, because the access had to
 * wait for a frame and a kick came first; and RAM in no slot, or a read-only one, because it is
 * protected. It is RAM all the same.
 */
static void access_ram(struct vcpu *v)
{
	struct space *s = v->vm->space;
	struct kvm_run *run = v->run;
	gpa_t at = {run->mmio.phys_addr};
	int r;

	/* Who is stuck may have the lock of the guest's memory; and this guest goes on no more. */
	if (atomic_load(&v->vm->broken))
		return;
	r = run->mmio.is_write ? space_write(s, at, run->mmio.data, run->mmio.len)
	                       : space_read(s, at, run->mmio.data, run->mmio.len);
	if (r == 0 || r == -EFAULT)
		return;
	if (r == -EACCES) {
		post_denied(v, at, run->mmio.is_write ? ACCESS_WRITE : ACCESS_READ);
		return;
	}
	post(v, VM_FAILED, r);
	say(v, "guest access at 0x%" PRIx64 ": %s", at.v, strerror(-r));
}

static void on_mmio(struct vcpu *v)
{
	struct vm *vm = v->vm;
	struct kvm_run *run = v->run;
	bool taken;

	v->exits.mmio++;
	if (run->mmio.is_write) {
		taken = bus_write(&vm->mmio, run->mmio.phys_addr, run->mmio.len, v->index,
		                  run->mmio.data);
	} else {
		/* Nobody answers: all ones, as on a real bus. */
		memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
		taken = bus_read(&vm->mmio, run->mmio.phys_addr, run->mmio.len, v->index,
		                 run->mmio.data);
	}
	if (!taken) {
		access_ram(v);
		return;
	}
	if (vm->ctl.bell[v->index] == BELL_SILENT)
		return;
	v->exits.doorbell++;
	serve_bell(v);
}

static void on_io(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	int code;

	v->exits.io++;
	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		if (run->io.direction == KVM_EXIT_IO_OUT) {
			bus_write(&v->vm->ports, run->io.port, run->io.size, v->index, data);
			continue;
		}
		memset(data, 0xff, run->io.size);
		bus_read(&v->vm->ports, run->io.port, run->io.size, v->index, data);
	}
	if (power_ended(&v->vm->power, v->index, &code))
		post(v, VM_EXITED, code);
}

/* Nothing here can wake it, so it is done; the others may still be at work. */
static void on_halt(struct vcpu *v)
{
	v->halted = true;
}

static void on_shutdown(struct vcpu *v)
{
	post(v, VM_CRASHED, 0);
	say(v, "guest crashed: triple fault");
}

static void on_internal_error(struct vcpu *v)
{
	bool emulation = v->run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION;

	post(v, emulation ? VM_CRASHED : VM_FAILED, -EIO);
	say(v,
	    emulation ? "guest crashed: KVM cannot emulate an instruction (suberror %u)"
	              : "KVM internal error, suberror %u",
	    v->run->internal.suberror);
}

static void on_fail_entry(struct vcpu *v)
{
	post(v, VM_FAILED, -EIO);
	say(v, "KVM cannot enter the guest, hardware reason 0x%llx",
	    (unsigned long long)v->run->fail_entry.hardware_entry_failure_reason);
}

static void on_system_event(struct vcpu *v)
{
	if (v->run->system_event.type != KVM_SYSTEM_EVENT_CRASH) {
		post(v, VM_EXITED, 0);
		return;
	}
	post(v, VM_CRASHED, 0);
	say(v, "guest reported that it crashed");
}

static exit_handler *const exit_handlers[] = {
	[KVM_EXIT_MMIO] = on_mmio,
	[KVM_EXIT_IO] = on_io,
	[KVM_EXIT_HLT] = on_halt,
	[KVM_EXIT_SHUTDOWN] = on_shutdown,
	[KVM_EXIT_INTERNAL_ERROR] = on_internal_error,
	[KVM_EXIT_FAIL_ENTRY] = on_fail_entry,
	[KVM_EXIT_SYSTEM_EVENT] = on_system_event,
};
#define EXIT_HANDLERS (sizeof(exit_handlers) / sizeof(exit_handlers[0]))

static void handle_exit(struct vcpu *v)
{
	uint32_t reason = v->run->exit_reason;

	if (reason < EXIT_HANDLERS && exit_handlers[reason]) {
		exit_handlers[reason](v);
		return;
	}
	v->exits.other++;
	post(v, VM_FAILED, -ENOSYS);
	say(v, "KVM exit %u, which this VMM does not handle", reason);
}

/* What is asked of the VM as a whole, vCPU 0 answers. */
static void check_asked(struct vcpu *v)
{
	struct vm *vm = v->vm;

	if (v->index != 0 || v->pending)
		return;
	if (vm->deadline_ns && clock_ns() >= vm->deadline_ns) {
		if (claim(v))
			post(v, VM_TIMEOUT, 0);
	} else if (atomic_load(&vm->kicked) && claim(v)) {
		atomic_store(&vm->kicked, false);
		post(v, VM_KICKED, 0);
	}
}

/* KVM_RUN came back without an exit. */
static void handle_no_exit(struct vcpu *v, int error)
{
	if (error == -EINTR || error == -EAGAIN) {
		v->exits.interrupted++;
		__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		check_asked(v);
		if (!v->pending && !atomic_load(&v->vm->stop))
			vm_tick(v);
		return;
	}
	/* For the tables it makes: nothing has been done, and it may be tried again. */
	if (error == -ENOMEM) {
		if (vcpu_post_event(v, VM_NOMEM, error))
			vm_say_short(v->vm, "KVM_RUN", SHORT_OF_HOST, &v->report);
		return;
	}
	post(v, VM_FAILED, error);
	if (error == -EFAULT)
		say(v, "the host could not provide the memory of a guest access");
	else
		say(v, "KVM_RUN: %s", strerror(-error));
}

/* An NOMEM found by the fault path's thread becomes an event of the first vCPU to notice. */
static void take_nomem(struct vcpu *v)
{
	if (v->pending || !atomic_load(&v->vm->nomem) || !claim(v))
		return;
	atomic_store(&v->vm->nomem, false);
	post(v, VM_NOMEM, -ENOMEM);
	vm_say_no_frame(v->vm, (gpa_t){atomic_load(&v->vm->nomem_at)},
	                atomic_load(&v->vm->nomem_why), &v->report);
}

/* Nobody answers violations any more: the end of the VM, which needs no claim. */
static void take_broken(struct vcpu *v)
{
	int error = atomic_load(&v->vm->broken);

	if (!error || (v->pending && is_fatal(v->report.event)))
		return;
	post(v, VM_FAILED, error);
	snprintf(v->report.text, sizeof(v->report.text),
	         error == -ETIMEDOUT
	                 ? "guest memory: a violation has not been answered for too long (%s)"
	                 : "guest memory: violations can be answered no more (%s)",
	         strerror(-error));
}

/* What the fault path's threads found. */
static void take_memory_events(struct vcpu *v)
{
	take_broken(v);
	take_nomem(v);
}

/* KVM_RUN, counted: get_vcpus_out() must know whether a vCPU is in there. */
static int enter(struct vcpu *v)
{
	int r;

	atomic_fetch_add(&v->vm->inside, 1);
	r = kvm_run_vcpu(v->fd);
	atomic_fetch_sub(&v->vm->inside, 1);
	if (v->watched)
		vm_tables_note(v, r);
	return r;
}

/* An exit in the middle of an instruction. Return: false when it was another kind. */
static bool finish_exit(struct vcpu *v)
{
	switch (v->run->exit_reason) {
	case KVM_EXIT_MMIO:
		on_mmio(v);
		return true;
	case KVM_EXIT_IO:
		on_io(v);
		return true;
	default:
		handle_exit(v);
		return false;
	}
}

/*
 * Finish the instruction that was doing I/O, without going on to the next: one that moves much,
 * or a string, comes out again and again. KVM itself breaks up a string that is too long. Where
 * memory does not answer, all of it may look like devices: a guest that is over is left as it is.
 */
static void complete_io(struct vcpu *v)
{
	do
		__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	while (enter(v) == 0 && finish_exit(v) && !atomic_load(&v->vm->broken));
}

/* A limit that nobody looks at is none: without its timer a guest does not run. */
static void start_ticks(struct vcpu *v)
{
	int r = vm_tick_start(v);

	if (r == 0)
		return;
	post(v, VM_FAILED, r);
	say(v, "a timer for the limit: %s", strerror(-r));
}

/* A guest whose output nobody takes waits here, where it can be stopped, and has not gone on. */
static bool may_enter(struct vcpu *v)
{
	if (console_has_room(&v->vm->console, ROOM_LOOK_NS))
		return true;
	check_asked(v);
	take_nomem(v);
	return false;
}

void vcpu_run(struct vcpu *v)
{
	struct vm *vm = v->vm;

	v->deferred = false;
	if (!atomic_load(&vm->stop))
		serve_bell(v);
	if (!v->pending)
		start_ticks(v);
	while (!v->pending && !v->deferred && !v->halted && !atomic_load(&vm->stop)) {
		int r;

		if (!may_enter(v))
			continue;
		r = enter(v);
		if (r)
			handle_no_exit(v, r);
		else
			handle_exit(v);
		take_memory_events(v);
	}
	vm_tick_stop(v);
	complete_io(v);
}

/* ---- threads of the other vCPUs ---- */

void vcpu_stop_others(struct vcpu *v)
{
	struct vm *vm = v->vm;

	atomic_store(&vm->stop, true);
	for (unsigned i = 0; i < vm->cpu_count; i++)
		if (i != v->index)
			vcpu_kick(&vm->vcpus[i]);
}

static void *secondary(void *arg)
{
	struct vcpu *v = arg;
	struct vm *vm = v->vm;
	uint64_t seen = 0;

	let_kicks_in();
	lock_take(&vm->lock);
	for (;;) {
		while (vm->epoch == seen && !vm->quit)
			pthread_cond_wait(&vm->changed, &vm->lock.mutex);
		if (vm->quit)
			break;
		seen = vm->epoch;
		lock_drop(&vm->lock);
		vcpu_run(v);
		if (v->pending)
			vcpu_stop_others(v);
		lock_take(&vm->lock);
		vm->running--;
		pthread_cond_broadcast(&vm->changed);
	}
	lock_drop(&vm->lock);
	return NULL;
}

int vcpu_start_threads(struct vm *vm)
{
	for (unsigned i = 1; i < vm->cpu_count; i++) {
		struct vcpu *v = &vm->vcpus[i];
		int r = pthread_create(&v->thread, NULL, secondary, v);

		if (r) {
			vcpu_end_threads(vm);
			return -r;
		}
		v->threaded = true;
	}
	return 0;
}

void vcpu_end_threads(struct vm *vm)
{
	lock_take(&vm->lock);
	vm->quit = true;
	pthread_cond_broadcast(&vm->changed);
	lock_drop(&vm->lock);
	for (unsigned i = 1; i < vm->cpu_count; i++) {
		if (vm->vcpus[i].threaded)
			pthread_join(vm->vcpus[i].thread, NULL);
		vm->vcpus[i].threaded = false;
	}
}

/* ---- vm_run ---- */

/*
 * A timer that signals this thread from the deadline on, until it is deleted. Return: 0; -EAGAIN,
 * -ENOMEM (a user may have so many timers and no more).
 */
static int start_timer(uint64_t deadline_ns, timer_t *out)
{
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL};
	struct itimerspec when = {
		.it_value = {(time_t)(deadline_ns / 1000000000), (long)(deadline_ns % 1000000000)},
		.it_interval = {0, TIMER_AGAIN_NS},
	};

	ev._sigev_un._tid = (int)syscall(SYS_gettid);
	if (timer_create(CLOCK_MONOTONIC, &ev, out) < 0)
		return -errno;
	CHECK(timer_settime(*out, TIMER_ABSTIME, &when, NULL) == 0);
	return 0;
}

/* The vCPU whose event comes next: one that ends the VM, if there is any. */
static struct vcpu *with_event(struct vm *vm)
{
	struct vcpu *found = NULL;

	for (unsigned i = 0; i < vm->cpu_count; i++) {
		struct vcpu *v = &vm->vcpus[i];

		if (v->pending && (!found || is_fatal(v->report.event)))
			found = v;
	}
	return found;
}

static void go(struct vm *vm)
{
	lock_take(&vm->lock);
	atomic_store(&vm->stop, false);
	atomic_store(&vm->claimed, false);
	/* Who still has no frame asks again. */
	atomic_store(&vm->nomem, false);
	for (unsigned i = 0; i < vm->cpu_count; i++)
		__atomic_store_n(&vm->vcpus[i].run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	/* A kick that came before the flag was cleared. */
	if (atomic_load(&vm->kicked))
		__atomic_store_n(&vm->vcpus[0].run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	vm->running = vm->cpu_count - 1;
	vm->epoch++;
	pthread_cond_broadcast(&vm->changed);
	lock_drop(&vm->lock);
}

/* vCPU 0 has halted: its thread stands in for it, for what is asked of vCPU 0. */
static void wait_halted(struct vcpu *v)
{
	struct vm *vm = v->vm;
	unsigned running = 1;

	while (running > 0 && !v->pending && !atomic_load(&vm->stop)) {
		uint64_t until = clock_ns() + TIMER_AGAIN_NS;
		struct timespec when = {(time_t)(until / 1000000000), (long)(until % 1000000000)};

		lock_take(&vm->lock);
		if (vm->running > 0)
			pthread_cond_timedwait(&vm->changed, &vm->lock.mutex, &when);
		running = vm->running;
		lock_drop(&vm->lock);
		check_asked(v);
		take_memory_events(v);
	}
}

static void wait_stopped(struct vm *vm)
{
	lock_take(&vm->lock);
	while (vm->running > 0)
		pthread_cond_wait(&vm->changed, &vm->lock.mutex);
	lock_drop(&vm->lock);
}

static bool all_halted(const struct vm *vm)
{
	for (unsigned i = 0; i < vm->cpu_count; i++)
		if (!vm->vcpus[i].halted)
			return false;
	return true;
}

/* All vCPUs from started to stopped: an event is posted, or a tick wants them stopped. */
static void run_once(struct vm *vm, uint64_t deadline_ns)
{
	struct vcpu *first = &vm->vcpus[0];
	timer_t timer;
	int r = deadline_ns ? start_timer(deadline_ns, &timer) : 0;

	if (r) {
		post(first, VM_FAILED, r);
		say(first, "a timer for the deadline: %s", strerror(-r));
		return;
	}
	vm->deadline_ns = deadline_ns;
	atomic_store(&vm->owner, pthread_self());
	let_kicks_in();
	atomic_store(&vm->owner_runs, true);
	go(vm);
	vcpu_run(first);
	if (first->halted)
		wait_halted(first);
	vcpu_stop_others(first);
	wait_stopped(vm);
	if (deadline_ns)
		timer_delete(timer);
	atomic_store(&vm->owner_runs, false);
	if (!with_event(vm) && all_halted(vm)) {
		post(first, VM_CRASHED, 0);
		say(first, "guest halted with nothing that could wake it");
	}
}

/* Answer a request that is still open: a guest that cannot be told does not go on. */
static void answer_open(struct vm *vm)
{
	struct vcpu *first = &vm->vcpus[0];
	int r;

	if (vm->open.gpa == BELL_SILENT)
		return;
	/* A FORK nobody made a child for has failed; READY just returns; NEXT finds nothing. */
	r = vm_answer(vm, vm->open.kind == OPEN_FORK ? -EAGAIN : 0);
	if (r == 0)
		return;
	post(first, r == -ENOMEM ? VM_NOMEM : VM_CRASHED, r);
	if (r == -ENOMEM)
		vm_say_no_frame(vm, (gpa_t){vm->open.gpa}, vm_shortage_now(vm), &first->report);
	else
		snprintf(first->report.text, sizeof(first->report.text),
		         "the answer at 0x%" PRIx64 ": the request leaves RAM", vm->open.gpa);
}

/* One that is over its limit does not go on, not even for a tick. */
static void check_limit(struct vm *vm)
{
	struct vm_report over = {.event = VM_NOMEM, .code = -ENOMEM};

	if (with_event(vm) || !vm_over_limit(vm, &over))
		return;
	vm->vcpus[0].report = over;
	vm->vcpus[0].pending = true;
}

void vm_run(struct vm *vm, uint64_t deadline_ns, struct vm_report *out)
{
	struct vcpu *v;

	take_broken(&vm->vcpus[0]);
	if (!with_event(vm))
		answer_open(vm);
	check_limit(vm);
	if (vm->times.running == 0)
		vm->times.running = clock_ns();
	if (atomic_load(&vm->ruined) && !with_event(vm)) {
		post(&vm->vcpus[0], VM_FAILED, -ENOTRECOVERABLE);
		snprintf(vm->vcpus[0].report.text, sizeof(vm->vcpus[0].report.text),
		         "out of frames where the host cannot pause the guest (Linux before 6.2, "
		         "or code that KVM interprets)");
	}
	while (!(v = with_event(vm))) {
		run_once(vm, deadline_ns);
		vm_tick_stopped(vm);
	}
	v->pending = false;
	*out = v->report;
	if (is_fatal(out->event) || out->event == VM_TIMEOUT || out->event == VM_NEXT)
		vm->times.ended = clock_ns();
}

void vm_kick(struct vm *vm)
{
	atomic_store(&vm->marked, true);
	atomic_store(&vm->kicked, true);
	vcpu_kick(&vm->vcpus[0]);
}
