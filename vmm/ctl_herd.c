// SPDX-License-Identifier: MIT
/*
 * vmm/ctl_herd.c - the members of a herd: their threads, from first to last.
 *
 * One lock for all that is known of the members, one condition for everything that changes. Neither
 * is held while a VM is made, runs, is worked on or destroyed; of a VM's own locks none is held
 * when this one is taken, but vm_kick() is called under it, which takes none.
 *
 * A member comes into the list before its VM is there and leaves it when its VM is gone: there is
 * room for another one. It is freed when its thread has ended and nobody waits for it any more;
 * herd_run() does that (reap).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/ctl_herd_internal.h"

int herd_say(struct vm_error *err, int code, const char *what)
{
	snprintf(err->text, sizeof(err->text), "%s", what);
	return code;
}

int herd_unknown(struct vm_error *err, uint64_t id, const char *why)
{
	snprintf(err->text, sizeof(err->text), "VM %" PRIu64 ": %s", id, why);
	return -ESRCH;
}

/* ---- members ---- */

static void deliver(void *ctx, const void *data, size_t size)
{
	struct member *m = ctx;
	const struct family_hooks *h = &m->herd->hooks;

	if (h->output)
		h->output(h->ctx, m->id, data, size);
}

static bool has_room(void *ctx, uint64_t wait_ns)
{
	const struct member *m = ctx;
	const struct family_hooks *h = &m->herd->hooks;

	return h->room(h->ctx, wait_ns);
}

/* Lock held. Return: NULL when there is no memory. */
static struct member *add_member(struct herd *h, uint64_t id, uint64_t parent, struct image *image)
{
	struct member *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	*m = (struct member){.herd = h,
	                     .id = id,
	                     .parent = parent,
	                     .image = image,
	                     .limit_bytes = h->config.vm.limit_bytes};
	m->last = &m->first;
	*h->last = m;
	h->last = &m->next;
	h->members++;
	return m;
}

/* Lock held. */
static void remove_member(struct herd *h, struct member *m)
{
	struct member **at = &h->first;

	while (*at != m)
		at = &(*at)->next;
	*at = m->next;
	if (h->last == &m->next)
		h->last = at;
	h->members--;
}

/* Lock held. From now on it is herd_run()'s to reap. */
static void leave(struct member *m)
{
	struct herd *h = m->herd;

	remove_member(h, m);
	m->gone = true;
	m->next = h->gone;
	h->gone = m;
	pthread_cond_broadcast(&h->changed);
}

struct member *herd_find(struct herd *h, uint64_t id)
{
	struct member *m = h->first;

	while (m && m->id != id)
		m = m->next;
	return m && m->state != HERD_ENDED ? m : NULL;
}

void herd_nudge(struct member *m)
{
	if (m->vm && m->state == HERD_RUNS)
		vm_kick(m->vm);
	pthread_cond_broadcast(&m->herd->changed);
}

static int make_vm(struct member *m, struct image *image, struct vm **out, struct vm_error *err)
{
	struct vm_config c = m->herd->config.vm;

	c.image = image;
	c.number = m->id;
	c.limit_bytes = m->limit_bytes;
	c.console = deliver;
	c.console_room = m->herd->hooks.room ? has_room : NULL;
	c.console_ctx = m;
	return vm_create(&c, out, err);
}

/* ---- what a member's thread does while the VM stands still ---- */

/* Lock held. It goes on, or waits for what comes next: the pause of these is over. */
static void complete(struct herd *h, struct request **done)
{
	uint64_t now = clock_ns();

	for (struct request *r = *done, *next; r; r = next) {
		next = r->next;
		r->pause_ns = r->asked_ns ? now - r->asked_ns : 0;
		r->done = true;
	}
	if (*done)
		pthread_cond_broadcast(&h->changed);
	*done = NULL;
}

/* Lock held. */
static struct request *next_request(struct member *m)
{
	struct request *r = m->first;

	if (!r)
		return NULL;
	m->first = r->next;
	if (!m->first)
		m->last = &m->first;
	return r;
}

/* Lock held, dropped meanwhile. */
static void wait_held(struct member *m)
{
	enum herd_state state = m->starved ? HERD_STARVED : HERD_PAUSED;
	struct herd *h = m->herd;

	if (!stands_still(m))
		m->held_ns = clock_ns();
	if (m->state != state) {
		m->state = state;
		pthread_cond_broadcast(&h->changed);
	}
	pthread_cond_wait(&h->changed, &h->lock);
}

/* Lock held. */
static void go_on(struct member *m)
{
	if (stands_still(m) && m->deadline_ns)
		m->deadline_ns += clock_ns() - m->held_ns;
	m->state = HERD_RUNS;
	pthread_cond_broadcast(&m->herd->changed);
}

/*
 * Do what has been asked for, and stand still as long as that is wanted. Return: false to end the
 * VM here.
 */
static bool serve(struct member *m)
{
	struct request *done = NULL, *r;
	struct herd *h = m->herd;
	bool stop;

	pthread_mutex_lock(&h->lock);
	while (!m->stop) {
		r = next_request(m);
		if (r) {
			pthread_mutex_unlock(&h->lock);
			r->result = r->work(r->ctx, m->vm, &r->err);
			pthread_mutex_lock(&h->lock);
			r->next = done;
			done = r;
			continue;
		}
		if (!m->hold && !m->starved)
			break;
		complete(h, &done);
		wait_held(m);
	}
	stop = m->stop;
	go_on(m);
	complete(h, &done);
	pthread_mutex_unlock(&h->lock);
	return !stop;
}

/* ---- a member's thread ---- */

static void *member_main(void *arg);

bool herd_has_room(const struct herd *h)
{
	return !h->stopping && h->members < h->config.max_members && h->next_number <= INT32_MAX;
}

int herd_start_child(struct herd *h, uint64_t parent, struct image *image, struct member **out)
{
	struct member *m = NULL;
	int r = -EAGAIN;

	pthread_mutex_lock(&h->lock);
	if (herd_has_room(h)) {
		m = add_member(h, h->next_number, parent, image);
		if (m && herd_find(h, parent))
			m->limit_bytes = herd_find(h, parent)->limit_bytes;
		r = m ? -pthread_create(&m->thread, NULL, member_main, m) : -ENOMEM;
	}
	if (r == 0) {
		r = (int)m->id;
		h->next_number += h->config.child_step ? h->config.child_step : 1;
		m->waiters = m->asked_for = out != NULL;
	} else if (m) {
		remove_member(h, m);
	}
	pthread_mutex_unlock(&h->lock);
	if (r < 0) {
		free(m);
		image_put(image);
	} else if (out) {
		*out = m;
	}
	return r;
}

/* The guest has asked for it. Return: the child's number, or -errno. */
static int fork_self(struct member *m)
{
	struct vm_error err;
	struct image *image;
	int r = vm_snapshot(m->vm, &image, &err);

	return r ? r : herd_start_child(m->herd, m->id, image, NULL);
}

/* A hook that may end the VM. Return: whether it goes on. */
static bool ask_hook(struct herd *h, bool (*hook)(void *ctx, struct vm *vm), struct vm *vm)
{
	bool on;

	if (!hook)
		return true;
	pthread_mutex_lock(&h->hook_lock);
	on = hook(h->hooks.ctx, vm);
	pthread_mutex_unlock(&h->hook_lock);
	return on;
}

static bool ask_next(struct herd *h, struct vm *vm, int code)
{
	bool on;

	if (!h->hooks.next)
		return true;
	pthread_mutex_lock(&h->hook_lock);
	on = h->hooks.next(h->hooks.ctx, vm, code);
	pthread_mutex_unlock(&h->hook_lock);
	return on;
}

/*
 * There is no memory for it. Return: true when it goes on, because somebody has done something;
 * false: *report says how it ended.
 */
static bool wait_fed(struct member *m, struct vm_report *report)
{
	struct herd *h = m->herd;
	bool waits = false;

	if (h->hooks.starved) {
		pthread_mutex_lock(&h->hook_lock);
		waits = h->hooks.starved(h->hooks.ctx, m->vm, report);
		pthread_mutex_unlock(&h->hook_lock);
	}
	if (!waits)
		return false;
	pthread_mutex_lock(&h->lock);
	m->starved = true;
	memcpy(m->why_starved, report->text, sizeof(m->why_starved));
	pthread_mutex_unlock(&h->lock);
	if (serve(m))
		return true;
	*report = (struct vm_report){.event = VM_EXITED};
	return false;
}

/* What an event asks for. Return: false when it was the last: *report says how it ended. */
static bool handle(struct member *m, struct vm_report *report)
{
	struct herd *h = m->herd;
	bool on = false;

	switch (report->event) {
	case VM_READY:
		on = ask_hook(h, h->hooks.ready, m->vm);
		break;
	case VM_KICKED:
		on = serve(m) && ask_hook(h, h->hooks.kicked, m->vm);
		break;
	case VM_FORK:
		return family_answer_fork(m->vm, fork_self(m), report);
	case VM_NEXT:
		on = ask_next(h, m->vm, report->code);
		if (!on)
			report->event = VM_EXITED;
		return on;
	case VM_NOMEM:
		return wait_fed(m, report);
	case VM_EXITED:
	case VM_CRASHED:
	case VM_TIMEOUT:
	case VM_DENIED:
	case VM_FAILED:
		return false;
	}
	if (!on)
		*report = (struct vm_report){.event = VM_EXITED};
	return on;
}

static void run_vm(struct member *m, struct vm_report *report)
{
	*report = (struct vm_report){.event = VM_EXITED};
	/* What was asked of it before it was there. */
	if (!serve(m))
		return;
	do
		vm_run(m->vm, m->deadline_ns, report);
	while (handle(m, report));
}

/* Is the VM there? Else why not is in the member. */
static bool come_alive(struct member *m)
{
	struct herd *h = m->herd;
	struct vm *vm = m->vm;
	struct vm_error err;
	int r = 0;

	if (!vm) {
		r = make_vm(m, m->image, &vm, &err);
		image_put(m->image);
		m->image = NULL;
	}
	pthread_mutex_lock(&h->lock);
	if (r == 0) {
		m->vm = vm;
		m->started_ns = clock_ns();
		if (h->config.timeout_ns)
			m->deadline_ns = m->started_ns + h->config.timeout_ns;
	} else {
		m->error = r;
		m->why = err;
	}
	pthread_mutex_unlock(&h->lock);
	return r == 0;
}

/* It does nothing any more, and nobody asks anything of it. */
static void end_requests(struct member *m)
{
	struct herd *h = m->herd;
	struct request *done = NULL, *r;

	pthread_mutex_lock(&h->lock);
	m->state = HERD_ENDED;
	while ((r = next_request(m))) {
		r->result = herd_unknown(&r->err, m->id, "it has ended");
		r->next = done;
		done = r;
	}
	complete(h, &done);
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
}

static void *member_main(void *arg)
{
	struct member *m = arg;
	struct herd *h = m->herd;
	struct vm_report report;
	bool alive = come_alive(m);
	struct vm *vm;

	if (alive)
		run_vm(m, &report);
	end_requests(m);
	pthread_mutex_lock(&h->hook_lock);
	if (alive)
		(void)h->hooks.ended(h->hooks.ctx, m->vm, &report);
	else if (!m->asked_for)
		h->hooks.failed(h->hooks.ctx, m->id, m->error, m->why.text);
	pthread_mutex_unlock(&h->hook_lock);

	pthread_mutex_lock(&h->lock);
	while (m->viewers > 0)
		pthread_cond_wait(&h->changed, &h->lock);
	vm = m->vm;
	m->vm = NULL;
	pthread_mutex_unlock(&h->lock);
	vm_destroy(vm);

	pthread_mutex_lock(&h->lock);
	leave(m);
	pthread_mutex_unlock(&h->lock);
	return NULL;
}

/* ---- the herd ---- */

int herd_create(const struct family_config *c, struct herd **out, struct vm_error *err)
{
	struct herd *h = calloc(1, sizeof(*h));
	struct member *root;
	int r;

	if (!h)
		return herd_say(err, -ENOMEM, "out of memory");
	h->config = *c;
	h->hooks = *c->hooks;
	h->last = &h->first;
	h->next_number = c->first_child;
	if (h->config.max_members == 0 || h->config.max_members > HERD_MOST)
		h->config.max_members = HERD_MOST;
	pthread_mutex_init(&h->lock, NULL);
	pthread_mutex_init(&h->hook_lock, NULL);
	pthread_cond_init(&h->changed, NULL);
	root = add_member(h, c->vm.number, c->vm.number, NULL);
	r = root ? make_vm(root, c->vm.image, &root->vm, err)
	         : herd_say(err, -ENOMEM, "out of memory");
	if (r) {
		herd_destroy(h);
		return r;
	}
	*out = h;
	return 0;
}

struct vm *herd_root(struct herd *h)
{
	return h->first->vm;
}

/* Lock held. Take out one that nobody waits for any more; NULL: there is none. */
static struct member *take_gone(struct herd *h)
{
	struct member **at = &h->gone, *m;

	while (*at && (*at)->waiters > 0)
		at = &(*at)->next;
	m = *at;
	if (m)
		*at = m->next;
	return m;
}

/* Lock held, dropped meanwhile. */
static void reap(struct herd *h, struct member *m)
{
	pthread_mutex_unlock(&h->lock);
	pthread_join(m->thread, NULL);
	free(m);
	pthread_mutex_lock(&h->lock);
}

void herd_run(struct herd *h)
{
	struct member *root = h->first, *m;
	int r = -pthread_create(&root->thread, NULL, member_main, root);

	if (r) {
		end_requests(root);
		h->hooks.failed(h->hooks.ctx, root->id, r, "no thread to run it on");
		/* Its end may be waited for by now. */
		pthread_mutex_lock(&h->lock);
		root->gone = true;
		pthread_cond_broadcast(&h->changed);
		pthread_mutex_unlock(&h->lock);
		return;
	}
	pthread_mutex_lock(&h->lock);
	while (h->first || h->gone) {
		m = take_gone(h);
		if (m)
			reap(h, m);
		else
			pthread_cond_wait(&h->changed, &h->lock);
	}
	/* A fork of one that has ended meanwhile comes too late. */
	h->stopping = true;
	pthread_mutex_unlock(&h->lock);
}

void herd_destroy(struct herd *h)
{
	struct member *m;

	if (!h)
		return;
	/* The root at most: it has never run. */
	while ((m = h->first)) {
		remove_member(h, m);
		vm_destroy(m->vm);
		free(m);
	}
	pthread_cond_destroy(&h->changed);
	pthread_mutex_destroy(&h->hook_lock);
	pthread_mutex_destroy(&h->lock);
	free(h);
}
