// SPDX-License-Identifier: MIT
/*
 * vmm/engine.c - the parent of the workers: hands out clone numbers, gathers what comes back.
 *
 *     to do ──assign──> worker's queue ──ENDED──> over
 *        ^                    │
 *        └── worker died ─────┘   all but the first of the queue: that one was running and is LOST
 *
 * A worker runs its queue in order, so the first unfinished number is the one its death
 * interrupted. What a worker holds is its own to lose until it has answered RELEASE: a death may be
 * heard of long after it happened.
 */
#include "vmm/engine.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/hostlimit.h"
#include "vmm/procmem.h"
#include "vmm/wire.h"

/* A worker silent for this long, beyond what a clone may run, hangs or is stopped: it is killed. */
#define SILENCE_NS UINT64_C(10000000000) /* by default */

/* Messages taken from one worker before the others are heard. */
#define RECEIVE_BATCH 64u

struct worker {
	pid_t pid;
	int sock;                   /* -1: gone */
	uint64_t queue[WIRE_DEPTH]; /* assigned, not over; first is running */
	unsigned queued;
	bool first_reported; /* queue[0] has ENDED, but others that it forked have not */
	uint64_t given;      /* numbers ever assigned */
	uint64_t *held;      /* hold: numbers that are alive in it */
	size_t held_count;
	uint8_t *message; /* the part of one that has come so far */
	size_t message_size, message_room;
	uint64_t heard_ns; /* when it last had something to say, or something new to do */
	bool hung;         /* killed for its silence */
	bool released;
};

struct engine {
	const struct engine_config *config;
	struct engine_summary *summary;
	struct worker *workers;
	size_t worker_count, worker_room;
	uint64_t next;   /* lowest number never assigned */
	uint64_t *again; /* numbers to assign again, a worker died over them */
	size_t again_count;
	uint64_t unfinished; /* numbers not over and not LOST */
	uint8_t buffer[sizeof(struct wire) + WIRE_OUTPUT_MAX];
};

/*
 * --- workers
 * --------------------------------------------------------------------------------------
 */

/* In the child: nothing of the siblings, and an end with the parent. */
static _Noreturn void become_worker(struct engine *e, int sock, pid_t parent, size_t index)
{
	const struct engine_config *c = e->config;

	for (size_t i = 0; i < e->worker_count; i++)
		if (e->workers[i].sock >= 0)
			close(e->workers[i].sock);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	/* Numbers of forked VMs: above all clones, interleaved between workers. */
	_exit(worker_main(c, sock, c->count + 1 + index, c->count + 1));
}

static int grow_workers(struct engine *e)
{
	size_t room = e->worker_room ? 2 * e->worker_room : 16;
	struct worker *more;

	if (e->worker_count < e->worker_room)
		return 0;
	more = realloc(e->workers, room * sizeof(*more));
	if (!more)
		return -ENOMEM;
	e->workers = more;
	e->worker_room = room;
	return 0;
}

static int spawn(struct engine *e)
{
	pid_t self = getpid(), pid;
	uint64_t *held = NULL;
	int pair[2];
	int r = grow_workers(e);

	if (r)
		return r;
	if (e->config->hold) {
		held = calloc(e->config->per_process, sizeof(*held));
		if (!held)
			return -ENOMEM;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		r = -errno;
		goto free_held;
	}
	pid = fork();
	if (pid < 0) {
		r = -errno;
		goto close_pair;
	}
	if (pid == 0) {
		close(pair[0]);
		become_worker(e, pair[1], self, e->worker_count);
	}
	close(pair[1]);
	e->workers[e->worker_count++] = (struct worker){.pid = pid, .sock = pair[0], .held = held};
	e->summary->workers++;
	return 0;

close_pair:
	close(pair[0]);
	close(pair[1]);
free_held:
	free(held);
	return r;
}

/* "killed by signal 9 (Killed)", "exited with status 1" */
static void describe_status(int status, char *out, size_t size)
{
	if (WIFSIGNALED(status))
		snprintf(out, size, "killed by signal %d (%s)", WTERMSIG(status),
		         strsignal(WTERMSIG(status)));
	else
		snprintf(out, size, "exited with status %d", WEXITSTATUS(status));
}

static void report_lost(struct engine *e, const struct worker *w, uint64_t number, const char *how)
{
	struct clone_result result = {.number = number, .end = CLONE_LOST, .worker = w->pid};

	snprintf(result.text, sizeof(result.text), "its worker process %d was lost: %s",
	         (int)w->pid, how);
	e->config->ended(e->config->ctx, &result);
}

/* `again` has room for every number: none is in it twice. */
static void assign_again(struct engine *e, uint64_t number)
{
	e->again[e->again_count++] = number;
}

static void on_worker_gone(struct engine *e, struct worker *w)
{
	char how[128];
	int status = 0;

	close(w->sock);
	w->sock = -1;
	while (waitpid(w->pid, &status, 0) < 0 && errno == EINTR)
		;
	if (w->released && status == 0)
		return;
	e->summary->workers_lost++;
	if (w->hung)
		snprintf(how, sizeof(how), "it did not answer any more and was killed");
	else
		describe_status(status, how, sizeof(how));
	for (size_t i = 0; i < w->held_count; i++)
		report_lost(e, w, w->held[i], how);
	w->held_count = 0;
	if (w->queued == 0)
		return;
	/* In hold mode the first may just have been listed as held. */
	if (!e->config->hold || !w->first_reported)
		report_lost(e, w, w->queue[0], how);
	e->unfinished--;
	for (unsigned i = 1; i < w->queued; i++)
		assign_again(e, w->queue[i]);
	w->queued = 0;
}

/*
 * --- messages
 * --------------------------------------------------------------------------------------
 */

/* The first of the queue, and all that it forked, are over. */
static void finish_first(struct engine *e, struct worker *w)
{
	w->queued--;
	memmove(w->queue, w->queue + 1, w->queued * sizeof(w->queue[0]));
	w->first_reported = false;
	e->unfinished--;
}

static void on_ended(struct engine *e, struct worker *w, struct wire *m)
{
	m->result.worker = w->pid;
	if (w->queued > 0 && w->queue[0] == m->number) {
		w->first_reported = true;
		if (e->config->hold && w->held_count < e->config->per_process)
			w->held[w->held_count++] = m->number;
	}
	e->config->ended(e->config->ctx, &m->result);
	if (!m->more && w->queued > 0)
		finish_first(e, w);
}

/* Return: 0 or -ENOMEM, then the message is as it was. */
static int keep_part(struct worker *w, const uint8_t *bytes, size_t size)
{
	size_t want = w->message_size + size;
	uint8_t *more;

	if (want > w->message_room) {
		more = realloc(w->message, 2 * want);
		if (!more)
			return -ENOMEM;
		w->message = more;
		w->message_room = 2 * want;
	}
	memcpy(w->message + w->message_size, bytes, size);
	w->message_size = want;
	return 0;
}

/* Whole, as a guest handed it over. Return: 0 or -ENOMEM. */
static int on_message_part(struct engine *e, struct worker *w, const struct wire *m,
                           const uint8_t *bytes, size_t size)
{
	int r;

	if (!m->more && w->message_size == 0) {
		e->config->message(e->config->ctx, m->number, bytes, size);
		return 0;
	}
	r = keep_part(w, bytes, size);
	if (r || m->more)
		return r;
	e->config->message(e->config->ctx, m->number, w->message, w->message_size);
	w->message_size = 0;
	return 0;
}

/* It was alive to the end: what it held has done all it had to. */
static void on_summary(struct engine *e, struct worker *w, const struct wire *m)
{
	struct engine_summary *s = e->summary;

	s->alive += (unsigned)w->held_count;
	w->held_count = 0;
	s->pool_used_frames += m->summary.used_frames;
	s->pool_limit_frames += m->summary.limit_frames;
	s->shells_made += m->summary.shells.made;
	s->shells_reused += m->summary.shells.reused;
	s->shells_refused += m->summary.shells.refused;
}

static void on_wire(struct engine *e, struct worker *w, struct wire *m, const uint8_t *bytes,
                    size_t size)
{
	switch (m->kind) {
	case WIRE_OUTPUT:
		e->config->output(e->config->ctx, m->number, bytes, size);
		break;
	case WIRE_MESSAGE:
		/* A message in part is none: rather no worker than a clone that lost one. */
		if (on_message_part(e, w, m, bytes, size))
			kill(w->pid, SIGKILL);
		break;
	case WIRE_ENDED:
		on_ended(e, w, m);
		break;
	case WIRE_SUMMARY:
		on_summary(e, w, m);
		break;
	case WIRE_RUN:
	case WIRE_RELEASE:
		break;
	}
}

/*
 * What a worker has sent so far, or a part of it: poll() says if there is more. A worker that died
 * with numbers unread makes for one ECONNRESET; what it had sent comes after that.
 */
static void receive(struct engine *e, struct worker *w)
{
	struct wire m;

	w->heard_ns = clock_ns();
	for (unsigned i = 0; i < RECEIVE_BATCH; i++) {
		ssize_t n = recv(w->sock, e->buffer, sizeof(e->buffer), MSG_DONTWAIT);

		if (n < 0 && (errno == EINTR || errno == ECONNRESET))
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < (ssize_t)sizeof(m)) {
			on_worker_gone(e, w);
			return;
		}
		memcpy(&m, e->buffer, sizeof(m));
		on_wire(e, w, &m, e->buffer + sizeof(m), (size_t)n - sizeof(m));
	}
}

/* A worker that cannot be told is gone: its socket will say so. */
static void tell(const struct worker *w, enum wire_kind kind, uint64_t number)
{
	const struct wire m = {.kind = kind, .number = number};

	while (send(w->sock, &m, sizeof(m), MSG_NOSIGNAL) < 0 && errno == EINTR)
		;
}

/*
 * --- handing out
 * ------------------------------------------------------------------------------------
 */

static bool have_work(const struct engine *e)
{
	return e->again_count > 0 || e->next <= e->config->count;
}

static unsigned active_workers(const struct engine *e)
{
	unsigned n = 0;

	for (size_t i = 0; i < e->worker_count; i++)
		n += e->workers[i].sock >= 0 && e->workers[i].queued > 0;
	return n;
}

static bool has_room(const struct engine *e, const struct worker *w)
{
	if (w->sock < 0 || w->queued == WIRE_DEPTH)
		return false;
	if (!e->config->hold)
		return true;
	return w->given < e->config->per_process;
}

/*
 * Would one more worker be of use? In hold mode those there are may have room for all that is left,
 * in their queues or not: then each clone waits for one of them, and shares a process.
 */
static bool wants_worker(const struct engine *e)
{
	const struct engine_config *c = e->config;
	uint64_t left = c->count - (e->next - 1) + e->again_count, room = 0;
	unsigned alive = 0;

	for (size_t i = 0; c->hold && i < e->worker_count; i++) {
		const struct worker *w = &e->workers[i];

		if (w->sock < 0)
			continue;
		alive++;
		room += c->per_process - min_u64(w->given, c->per_process);
	}
	return !c->hold || alive < c->jobs || left > room;
}

/* Who gets the next number: the worker with the shortest queue. NULL: nobody has room. */
static struct worker *choose(const struct engine *e)
{
	struct worker *best = NULL;

	for (size_t i = 0; i < e->worker_count; i++) {
		struct worker *w = &e->workers[i];

		if (has_room(e, w) && (!best || w->queued < best->queued))
			best = w;
	}
	return best;
}

static void assign(struct engine *e, struct worker *w)
{
	uint64_t number = e->again_count ? e->again[--e->again_count] : e->next++;

	if (w->queued == 0)
		w->heard_ns = clock_ns();
	w->queue[w->queued++] = number;
	w->given++;
	tell(w, WIRE_RUN, number);
}

/* Give out what there is to do. Return: 0, or -errno when nobody is there to do it. */
static int hand_out(struct engine *e)
{
	while (have_work(e)) {
		struct worker *w = choose(e);
		bool idle = w && w->queued == 0;
		unsigned active = active_workers(e);

		if (!idle && active < e->config->jobs && wants_worker(e)) {
			int r = spawn(e);

			if (r == 0)
				continue;
			if (active == 0)
				return r;
			/* Fewer will do. The list of workers may have moved. */
			w = choose(e);
		}
		if (!w || (idle && active >= e->config->jobs))
			return 0;
		assign(e, w);
	}
	return 0;
}

/* When a worker will have been silent for too long; UINT64_MAX: never. */
static uint64_t patience_ends(const struct engine *e, const struct worker *w)
{
	uint64_t timeout = e->config->timeout_ns;

	if (w->sock < 0 || w->hung)
		return UINT64_MAX;
	if (w->released)
		return w->heard_ns + e->config->silence_ns;
	if (w->queued == 0 || timeout == 0 || timeout > UINT64_MAX / 2)
		return UINT64_MAX;
	return w->heard_ns + timeout + e->config->silence_ns;
}

static void kill_silent(struct engine *e)
{
	uint64_t now = clock_ns();

	for (size_t i = 0; i < e->worker_count; i++) {
		struct worker *w = &e->workers[i];

		if (now < patience_ends(e, w))
			continue;
		w->hung = true;
		kill(w->pid, SIGKILL);
	}
}

/* For poll(): until the first worker has been silent for too long. */
static int wait_ms(const struct engine *e)
{
	uint64_t now = clock_ns(), first = UINT64_MAX;

	for (size_t i = 0; i < e->worker_count; i++)
		first = min_u64(first, patience_ends(e, &e->workers[i]));
	if (first == UINT64_MAX)
		return -1;
	return first < now ? 0 : (int)min_u64((first - now) / 1000000 + 1, INT_MAX);
}

/* Wait for any worker, then hear all of them. Return: 0 or -errno. */
static int hear(struct engine *e)
{
	size_t count = e->worker_count;
	struct pollfd *fds;
	int r = 0;

	if (count == 0)
		return 0;
	fds = calloc(count, sizeof(*fds));
	if (!fds)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		fds[i] = (struct pollfd){.fd = e->workers[i].sock, .events = POLLIN};
	if (poll(fds, count, wait_ms(e)) < 0 && errno != EINTR)
		r = -errno;
	for (size_t i = 0; r == 0 && i < count; i++)
		if (fds[i].fd >= 0 && fds[i].revents)
			receive(e, &e->workers[i]);
	kill_silent(e);
	free(fds);
	return r;
}

/*
 * --- the end
 * ----------------------------------------------------------------------------------------
 */

static void measure(struct engine *e)
{
	struct engine_summary *s = e->summary;

	if (e->config->hold && !e->config->quick)
		hostmem_read(&s->held);
	for (size_t i = 0; i < e->worker_count; i++) {
		const struct worker *w = &e->workers[i];
		struct procmem mem;

		if (!e->config->hold || w->sock < 0 || procmem_read(w->pid, &mem))
			continue;
		s->pss_bytes += mem.pss_bytes;
		s->private_bytes += mem.private_bytes;
		s->anonymous_bytes += mem.anonymous_bytes;
		s->page_table_bytes += mem.page_table_bytes;
	}
}

/* After a failure: no worker outlives the call. */
static void kill_workers(struct engine *e)
{
	for (size_t i = 0; i < e->worker_count; i++) {
		if (e->workers[i].sock < 0)
			continue;
		kill(e->workers[i].pid, SIGKILL);
		close(e->workers[i].sock);
		while (waitpid(e->workers[i].pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
}

static bool any_left(const struct engine *e)
{
	for (size_t i = 0; i < e->worker_count; i++)
		if (e->workers[i].sock >= 0)
			return true;
	return false;
}

/* They may all have died already: then there is nobody to hear. */
static void release(struct engine *e)
{
	for (size_t i = 0; i < e->worker_count; i++) {
		if (e->workers[i].sock < 0)
			continue;
		tell(&e->workers[i], WIRE_RELEASE, 0);
		e->workers[i].released = true;
		e->workers[i].heard_ns = clock_ns();
	}
	while (any_left(e)) {
		if (hear(e) == 0)
			continue;
		kill_workers(e);
		return;
	}
}

static void engine_fini(struct engine *e)
{
	for (size_t i = 0; i < e->worker_count; i++) {
		free(e->workers[i].held);
		free(e->workers[i].message);
	}
	free(e->workers);
	free(e->again);
	free(e);
}

static int run(struct engine *e)
{
	uint64_t start = clock_ns();
	int r = 0;

	while (r == 0 && e->unfinished > 0) {
		r = hand_out(e);
		if (r == 0)
			r = hear(e);
	}
	e->summary->wall_ns = clock_ns() - start;
	if (r) {
		kill_workers(e);
		return r;
	}
	measure(e);
	release(e);
	if (!e->config->quick)
		hostmem_read(&e->summary->after);
	return 0;
}

int engine_run(const struct engine_config *given, struct engine_summary *out, struct vm_error *err)
{
	struct engine_config c = *given;
	char why[HOSTLIMIT_TEXT_MAX];
	struct engine *e;
	int r;

	*out = (struct engine_summary){0};
	if (c.jobs == 0)
		c.jobs = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	if (c.per_process == 0)
		c.per_process = ENGINE_PER_PROCESS;
	if (c.count == 0 || c.count > INT32_MAX / 2 || !c.ended || !c.output) {
		snprintf(err->text, sizeof(err->text), "%llu clones: must be 1 to %d",
		         (unsigned long long)c.count, INT32_MAX / 2);
		return -EINVAL;
	}
	if (c.silence_ns == 0)
		c.silence_ns = SILENCE_NS;
	if (c.per_process > c.count)
		c.per_process = (unsigned)c.count;
	r = vm_check_image(c.kvm, c.image, err);
	if (r)
		return r;
	e = calloc(1, sizeof(*e));
	if (e)
		e->again = calloc(c.count, sizeof(*e->again));
	if (!e || !e->again) {
		free(e);
		snprintf(err->text, sizeof(err->text), "out of memory");
		return -ENOMEM;
	}
	e->config = &c;
	e->summary = out;
	if (!c.quick)
		hostmem_read(&out->before);
	e->next = 1;
	e->unfinished = c.count;
	r = run(e);
	if (r)
		snprintf(err->text, sizeof(err->text), "worker processes: %s",
		         hostlimit_why(r, 0, why));
	engine_fini(e);
	return r;
}
