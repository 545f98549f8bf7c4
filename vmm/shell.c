// SPDX-License-Identifier: MIT
#include "vmm/shell.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/vm_internal.h"

struct shells {
	pthread_mutex_t lock;
	unsigned most; /* constant */
	struct shells_stats stats;
	struct vm **idle; /* [most], stats.idle of them: the one given back last is taken first */
};

int shells_create(unsigned most, struct shells **out)
{
	struct shells *s = calloc(1, sizeof(*s));

	if (s)
		s->idle = calloc(most ? most : 1, sizeof(struct vm *));
	if (!s || !s->idle) {
		free(s);
		return -ENOMEM;
	}
	s->most = most;
	pthread_mutex_init(&s->lock, NULL);
	*out = s;
	return 0;
}

void shells_destroy(struct shells *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < s->stats.idle; i++)
		vm_destroy(s->idle[i]);
	free(s->idle);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static bool fits(const struct vm *vm, const struct vm_config *c)
{
	return vm->made.image == c->image && vm->made.pool == c->pool && vm->kvm == c->kvm &&
	       vm->made.faults == c->faults && vm->made.limit_bytes == c->limit_bytes &&
	       vm->limit_copies == c->limit_copies;
}

/* Keep `vm`. Return: false when there are enough. */
static bool push(struct shells *s, struct vm *vm)
{
	bool room;

	pthread_mutex_lock(&s->lock);
	room = s->stats.idle < s->most;
	if (room)
		s->idle[s->stats.idle++] = vm;
	pthread_mutex_unlock(&s->lock);
	return room;
}

/* One that fits, the warmest; NULL: none. */
static struct vm *pop(struct shells *s, const struct vm_config *c)
{
	struct vm *vm = NULL;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = s->stats.idle; i-- > 0;) {
		if (!fits(s->idle[i], c))
			continue;
		vm = s->idle[i];
		s->idle[i] = s->idle[--s->stats.idle];
		break;
	}
	pthread_mutex_unlock(&s->lock);
	return vm;
}

static void note(struct shells *s, uint64_t *counter)
{
	pthread_mutex_lock(&s->lock);
	++*counter;
	pthread_mutex_unlock(&s->lock);
}

static void refuse(struct shells *s, struct vm *vm)
{
	note(s, &s->stats.refused);
	vm_destroy(vm);
}

static int make(struct shells *s, const struct vm_config *c, struct vm **out, struct vm_error *err)
{
	struct vm_config own = *c;
	int r;

	own.reset = s->most > 0;
	r = vm_create(&own, out, err);

	if (r == 0)
		note(s, &s->stats.made);
	return r;
}

static bool takes_arg(const struct vm_config *c)
{
	return !c->arg || strlen(c->arg) < ABI_ARGS_MAX;
}

int shells_take(struct shells *s, const struct vm_config *c, struct vm **out, struct vm_error *err)
{
	uint64_t asked = clock_ns();
	struct vm *vm;
	int r;

	/* What vm_create() would refuse costs no VM that is kept. */
	while (takes_arg(c) && (vm = pop(s, c))) {
		/* A kick may have come after it was given back: more may. */
		if (!atomic_load(&vm->marked) && vm_reuse(vm, c, err) == 0) {
			note(s, &s->stats.reused);
			*out = vm;
			return 0;
		}
		refuse(s, vm);
	}
	r = make(s, c, out, err);
	/* The wait for shells that were no good counts. */
	if (r == 0)
		(*out)->times.asked = asked;
	return r;
}

/* A reset keeps what vm_protect() and its like did; a new VM has none of it. */
static bool protected(const struct vm *vm)
{
	size_t count;
	const struct ram_region *ram = space_ram(vm->space, &count);

	for (size_t i = 0; i < count; i++) {
		uint64_t end = gpa_range_end(ram[i].range), stop;

		if (space_protection(vm->space, ram[i].range.start, end, &stop) != PROTECT_RW ||
		    stop < end)
			return true;
	}
	return false;
}

/* May another clone have it? */
static bool clean(struct vm *vm, enum vm_event end)
{
	if (end != VM_EXITED && end != VM_NEXT && end != VM_READY)
		return false;
	return vm->made.image && vm->made.image == space_image(vm->space) &&
	       !atomic_load(&vm->marked) && !atomic_load(&vm->ruined) && !protected(vm);
}

void shells_give(struct shells *s, struct vm *vm, enum vm_event end)
{
	struct vm_error err;

	/* What can be done of the next reset is done now, where no clone waits for it. */
	if (!clean(vm, end) || vm_forget(vm, &err))
		refuse(s, vm);
	else if (!push(s, vm))
		vm_destroy(vm);
}

int shells_prepare(struct shells *s, const struct vm_config *c, unsigned count,
                   struct vm_error *err)
{
	for (unsigned i = 0; i < count; i++) {
		struct vm *vm;
		int r = make(s, c, &vm, err);

		if (r)
			return r;
		if (!push(s, vm)) {
			vm_destroy(vm);
			break;
		}
	}
	return 0;
}

void shells_stats(struct shells *s, struct shells_stats *out)
{
	pthread_mutex_lock(&s->lock);
	*out = s->stats;
	pthread_mutex_unlock(&s->lock);
}
