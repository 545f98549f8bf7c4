// SPDX-License-Identifier: MIT
/*
 * vmm/ctl_herd_ask.c - what other threads want of a herd's members: work, images, children, stops.
 *
 * Who waits for a member has counted itself as a waiter, who looks at its VM as a viewer; what is
 * asked lies on the asker's stack until it is done.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/ctl_herd_internal.h"
#include "vmm/hostlimit.h"

/*
 * Blocks that are copied in one stop: some 0.2 ms each. A guest that copies as fast as it can takes
 * several milliseconds for one, so a few slices leave little. Where there is not less to do after
 * some of them, the host's memory comes in more slowly than the guest writes: then it is stopped
 * for what is left.
 */
#define SLICE_BLOCKS 4u
#define VAIN_SLICES  4u

#define SHARE_TRIES    20u
#define SHARE_PAUSE_US 50u

/* A look that took longer, for memory was slow to come in, has not seen what was written since. */
#define LOOK_NS UINT64_C(2000000)

int herd_do(struct herd *h, uint64_t id, herd_work *work, void *ctx, uint64_t *pause_ns,
            struct vm_error *err)
{
	struct request r = {.work = work, .ctx = ctx};
	struct member *m;

	pthread_mutex_lock(&h->lock);
	m = herd_find(h, id);
	if (!m) {
		pthread_mutex_unlock(&h->lock);
		return herd_unknown(err, id, "there is none, or it has ended");
	}
	if (m->state == HERD_RUNS)
		r.asked_ns = clock_ns();
	*m->last = &r;
	m->last = &r.next;
	herd_nudge(m);
	while (!r.done)
		pthread_cond_wait(&h->changed, &h->lock);
	pthread_mutex_unlock(&h->lock);
	*pause_ns = r.pause_ns;
	if (r.result)
		*err = r.err;
	return r.result;
}

/* ---- images of running VMs ---- */

/* Somebody's hold is a matter of microseconds. */
static void share_ahead(struct space *s)
{
	for (unsigned i = 0; i < SHARE_TRIES && space_share_ahead(s) == -EBUSY; i++)
		usleep(SHARE_PAUSE_US);
}

/*
 * With the guest running. Return: how many blocks of its memory would have to be copied whole, 0
 * where that is of no interest: it stands still, or there is none.
 */
static unsigned look_ahead(struct herd *h, uint64_t id)
{
	struct member *m;
	int n;

	pthread_mutex_lock(&h->lock);
	m = herd_find(h, id);
	if (m && m->state == HERD_RUNS)
		m->viewers++;
	else
		m = NULL;
	pthread_mutex_unlock(&h->lock);
	if (!m)
		return 0;
	share_ahead(vm_space(m->vm));
	n = space_publish_ahead(vm_space(m->vm));
	pthread_mutex_lock(&h->lock);
	m->viewers--;
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
	return n > 0 ? (unsigned)n : 0;
}

static int settle(void *ctx, struct vm *vm, struct vm_error *err)
{
	char why[HOSTLIMIT_TEXT_MAX];
	int r = space_copy_ahead(vm_space(vm), SLICE_BLOCKS);

	(void)ctx;
	return r ? herd_say(err, r, hostlimit_why(r, 0, why)) : 0;
}

struct taken {
	struct image *image;
	unsigned cpus;
};

static int take(void *ctx, struct vm *vm, struct vm_error *err)
{
	struct taken *t = ctx;

	t->cpus = vm_cpus(vm);
	return vm_snapshot(vm, &t->image, err);
}

static int stop_for(struct herd *h, uint64_t id, herd_work *work, void *ctx,
                    struct herd_pause *pause, struct vm_error *err)
{
	uint64_t ns = 0;
	int r = herd_do(h, id, work, ctx, &ns, err);

	pause->longest_ns = max_u64(pause->longest_ns, ns);
	pause->total_ns += ns;
	pause->stops += ns > 0;
	return r;
}

int herd_snapshot(struct herd *h, uint64_t id, struct image **out, unsigned *cpus,
                  struct herd_pause *pause, struct vm_error *err)
{
	unsigned least = UINT_MAX, vain = 0;
	struct taken t = {0};
	int r = 0;

	*pause = (struct herd_pause){0};
	while (r == 0 && vain < VAIN_SLICES) {
		uint64_t start = clock_ns();
		unsigned n = look_ahead(h, id);

		vain = n < least ? 0 : vain + 1;
		least = n < least ? n : least;
		if (n > SLICE_BLOCKS)
			r = stop_for(h, id, settle, NULL, pause, err);
		else if (clock_ns() - start < LOOK_NS)
			break;
	}
	if (r == 0)
		r = stop_for(h, id, take, &t, pause, err);
	if (r)
		return r;
	*out = t.image;
	*cpus = t.cpus;
	return 0;
}

/* The waiter that herd_start_child() has counted. Return: as herd_fork(). */
static int wait_started(struct herd *h, struct member *m, uint64_t asked_ns, uint64_t *start_ns,
                        struct vm_error *err)
{
	int r;

	pthread_mutex_lock(&h->lock);
	while (m->started_ns == 0 && m->error == 0)
		pthread_cond_wait(&h->changed, &h->lock);
	r = m->error;
	if (r)
		*err = m->why;
	else
		*start_ns = m->started_ns - asked_ns;
	m->waiters--;
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
	return r;
}

static int say_no_child(struct vm_error *err, int r)
{
	char why[HOSTLIMIT_TEXT_MAX];

	if (r != -EAGAIN)
		return herd_say(err, r, hostlimit_why(r, 0, why));
	return herd_say(err, r,
	                "no child: there are too many VMs or threads, or all are being stopped");
}

/* No VM is stopped for a child that cannot be. One that is not there is reported as such. */
static bool hopeless(struct herd *h, uint64_t id)
{
	bool is;

	pthread_mutex_lock(&h->lock);
	is = herd_find(h, id) && !herd_has_room(h);
	pthread_mutex_unlock(&h->lock);
	return is;
}

int herd_fork(struct herd *h, uint64_t id, struct herd_child *out, struct vm_error *err)
{
	uint64_t asked_ns = clock_ns();
	struct image *image;
	struct member *m;
	unsigned cpus;
	int r;

	if (hopeless(h, id))
		return say_no_child(err, -EAGAIN);
	r = herd_snapshot(h, id, &image, &cpus, &out->pause, err);
	if (r)
		return r;
	r = herd_start_child(h, id, image, &m);
	if (r < 0)
		return say_no_child(err, r);
	out->id = m->id;
	return wait_started(h, m, asked_ns, &out->start_ns, err);
}

/* What pause, resume and stop differ in. Called with the lock held. */
struct order {
	void (*give)(struct member *m);
	bool (*obeyed)(const struct member *m);
};

static void give_hold(struct member *m)
{
	m->hold = true;
}

/* Somebody may want it to go on by now. */
static bool holds(const struct member *m)
{
	return stands_still(m) || !m->hold;
}

static void give_release(struct member *m)
{
	m->hold = m->starved = false;
}

static bool runs(const struct member *m)
{
	return !stands_still(m) || m->hold || m->starved;
}

static void give_stop(struct member *m)
{
	m->stop = true;
}

static bool is_gone(const struct member *m)
{
	return m->gone;
}

static const struct order pause_order = {give_hold, holds}, resume_order = {give_release, runs},
			  stop_order = {give_stop, is_gone};

/* Lock held. Whom it is about, each with a waiter. Return: how many. */
static size_t give_order(struct herd *h, uint64_t id, const struct order *o, struct member *to[])
{
	size_t n = 0;

	for (struct member *m = h->first; m; m = m->next) {
		if (m->state == HERD_ENDED || (id != HERD_ALL && m->id != id))
			continue;
		m->waiters++;
		to[n++] = m;
		o->give(m);
		herd_nudge(m);
	}
	return n;
}

/* Lock held, dropped meanwhile. Return: whether it has obeyed, rather than ended before. */
static bool wait_obeyed(struct herd *h, struct member *m, const struct order *o)
{
	while (!o->obeyed(m) && !m->gone)
		pthread_cond_wait(&h->changed, &h->lock);
	return o->obeyed(m);
}

static int give_and_wait(struct herd *h, uint64_t id, const struct order *o,
                         struct herd_touched *out, size_t *count, struct vm_error *err)
{
	struct member *to[HERD_MOST];
	uint64_t asked_ns = clock_ns(), held_ns[HERD_MOST];
	size_t n;

	*count = 0;
	pthread_mutex_lock(&h->lock);
	if (o == &stop_order && id == HERD_ALL)
		h->stopping = true;
	n = give_order(h, id, o, to);
	for (size_t i = 0; i < n; i++)
		held_ns[i] = stands_still(to[i]) ? to[i]->held_ns : 0;
	for (size_t i = 0; i < n; i++) {
		uint64_t since = asked_ns;

		if (o == &resume_order)
			since = held_ns[i] ? held_ns[i] : clock_ns();
		if (wait_obeyed(h, to[i], o))
			out[(*count)++] = (struct herd_touched){to[i]->id, clock_ns() - since};
		to[i]->waiters--;
	}
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
	if (id == HERD_ALL || *count > 0)
		return 0;
	return herd_unknown(err, id, n ? "it ended of itself" : "there is none, or it has ended");
}

int herd_pause(struct herd *h, uint64_t id, struct herd_touched *out, size_t *count,
               struct vm_error *err)
{
	return give_and_wait(h, id, &pause_order, out, count, err);
}

int herd_resume(struct herd *h, uint64_t id, struct herd_touched *out, size_t *count,
                struct vm_error *err)
{
	return give_and_wait(h, id, &resume_order, out, count, err);
}

int herd_stop(struct herd *h, uint64_t id, struct herd_touched *out, size_t *count,
              struct vm_error *err)
{
	return give_and_wait(h, id, &stop_order, out, count, err);
}

/* ---- limits ---- */

struct new_limit {
	struct herd *herd;
	uint64_t id, bytes;
};

/* The member's thread does it, so that what it is told afterwards is not undone. */
static int set_limit(void *ctx, struct vm *vm, struct vm_error *err)
{
	const struct new_limit *n = ctx;
	struct member *m;

	(void)err;
	space_resume(vm_space(vm), n->bytes >> MM_PAGE_SHIFT);
	pthread_mutex_lock(&n->herd->lock);
	m = herd_find(n->herd, n->id);
	m->limit_bytes = n->bytes;
	m->starved = false;
	pthread_mutex_unlock(&n->herd->lock);
	return 0;
}

int herd_limit(struct herd *h, uint64_t id, uint64_t bytes, struct vm_error *err)
{
	struct new_limit n = {h, id, bytes};
	uint64_t ns;

	return herd_do(h, id, set_limit, &n, &ns, err);
}

/* ---- reports ---- */

const char *herd_state_name(enum herd_state s)
{
	static const char *const names[] = {
		[HERD_STARTS] = "starting", [HERD_RUNS] = "running", [HERD_PAUSED] = "paused",
		[HERD_STARVED] = "starved", [HERD_ENDED] = "ended",
	};

	return names[s];
}

size_t herd_list(struct herd *h, struct herd_entry out[HERD_MOST])
{
	struct member *seen[HERD_MOST];
	struct vm *vms[HERD_MOST];
	size_t n = 0;

	pthread_mutex_lock(&h->lock);
	for (struct member *m = h->first; m; m = m->next) {
		out[n] = (struct herd_entry){.id = m->id, .parent = m->parent, .state = m->state};
		if (m->state == HERD_STARVED)
			memcpy(out[n].why, m->why_starved, sizeof(out[n].why));
		m->viewers++;
		m->waiters++;
		vms[n] = m->vm;
		seen[n++] = m;
	}
	pthread_mutex_unlock(&h->lock);
	for (size_t i = 0; i < n; i++) {
		if (!vms[i])
			continue;
		out[i].cpus = vm_cpus(vms[i]);
		out[i].limit_bytes = vm_limit_bytes(vms[i]);
		/* Without pagemap the private frames are missing, and only they. */
		(void)space_stats(vm_space(vms[i]), &out[i].space);
	}
	pthread_mutex_lock(&h->lock);
	for (size_t i = 0; i < n; i++) {
		seen[i]->viewers--;
		seen[i]->waiters--;
	}
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
	return n;
}
