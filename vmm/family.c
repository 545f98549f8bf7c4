// SPDX-License-Identifier: MIT
#include "vmm/family.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/shell.h"

#define DEFAULT_MAX_MEMBERS 4096u

/* A VM, or one that waits to be made. */
struct member {
	struct family *family;
	struct member *next;
	uint64_t number;
	struct image *image; /* to make it from; NULL once made, or the root's */
	struct vm *vm;       /* NULL: not made yet */
	bool lent;           /* by the shells */
};

struct family {
	struct family_config config;
	struct member *first, **last; /* to run, in order of birth */
	struct member *gone;          /* ended; a kept VM's console may still name it */
	uint64_t next_number;
	unsigned members;
};

static void deliver(void *ctx, const void *data, size_t size)
{
	struct member *m = ctx;
	const struct family_hooks *h = m->family->config.hooks;

	if (h->output)
		h->output(h->ctx, m->number, data, size);
}

static struct member *add_member(struct family *f, uint64_t number, struct image *image)
{
	struct member *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	*m = (struct member){.family = f, .number = number, .image = image};
	*f->last = m;
	f->last = &m->next;
	f->members++;
	return m;
}

static int make_vm(struct member *m, struct image *image, struct vm_error *err)
{
	struct vm_config c = m->family->config.vm;

	c.image = image;
	c.number = m->number;
	c.console = deliver;
	c.console_ctx = m;
	/* A child is the only VM there will ever be of its image. */
	m->lent = m->family->config.shells && !m->image && image;
	return m->lent ? shells_take(m->family->config.shells, &c, &m->vm, err)
	               : vm_create(&c, &m->vm, err);
}

static void let_go(struct member *m, enum vm_event end)
{
	if (m->lent && m->vm)
		shells_give(m->family->config.shells, m->vm, end);
	else
		vm_destroy(m->vm);
	m->vm = NULL;
}

int family_create(const struct family_config *c, struct family **out, struct vm_error *err)
{
	struct family *f = calloc(1, sizeof(*f));
	struct member *root;
	int r;

	if (!f)
		goto no_memory;
	f->config = *c;
	f->last = &f->first;
	f->next_number = c->first_child;
	if (f->config.max_members == 0)
		f->config.max_members = DEFAULT_MAX_MEMBERS;
	root = add_member(f, c->vm.number, NULL);
	if (!root)
		goto no_memory;
	r = make_vm(root, c->vm.image, err);
	if (r) {
		family_destroy(f);
		return r;
	}
	*out = f;
	return 0;

no_memory:
	snprintf(err->text, sizeof(err->text), "out of memory");
	free(f);
	return -ENOMEM;
}

struct vm *family_root(struct family *f)
{
	return f->first->vm;
}

/* Snapshot the stopped parent and queue a child of it. Return: the child's number, or -errno. */
static int fork_member(struct family *f, struct vm *parent)
{
	struct vm_error err;
	struct image *image;
	uint64_t number = f->next_number;
	int r;

	if (f->members >= f->config.max_members || number > INT32_MAX)
		return -EAGAIN;
	r = vm_snapshot(parent, &image, &err);
	if (r)
		return r;
	if (!add_member(f, number, image)) {
		image_put(image);
		return -ENOMEM;
	}
	f->next_number += f->config.child_step ? f->config.child_step : 1;
	return (int)number;
}

bool family_answer_fork(struct vm *vm, int result, struct vm_report *report)
{
	if (vm_answer_fork(vm, result) == 0)
		return true;
	*report = (struct vm_report){.event = VM_FAILED, .code = -ENOMEM};
	snprintf(report->text, sizeof(report->text), "no memory to answer the guest's fork");
	return false;
}

/* Run one VM to its end. */
static void run_vm(struct family *f, struct vm *vm, struct vm_report *report)
{
	const struct family_hooks *h = f->config.hooks;
	uint64_t deadline = f->config.timeout_ns ? clock_ns() + f->config.timeout_ns : 0;

	for (;;) {
		vm_run(vm, deadline, report);
		switch (report->event) {
		case VM_READY:
			if (h->ready && !h->ready(h->ctx, vm)) {
				*report = (struct vm_report){.event = VM_EXITED};
				return;
			}
			break;
		case VM_FORK:
			if (!family_answer_fork(vm, fork_member(f, vm), report))
				return;
			break;
		case VM_NEXT:
			if (h->next && !h->next(h->ctx, vm, report->code)) {
				report->event = VM_EXITED;
				return;
			}
			break;
		case VM_KICKED:
			if (h->kicked && !h->kicked(h->ctx, vm)) {
				*report = (struct vm_report){.event = VM_EXITED};
				return;
			}
			break;
		case VM_EXITED:
		case VM_CRASHED:
		case VM_TIMEOUT:
		case VM_NOMEM:
		case VM_DENIED:
		case VM_FAILED:
			return;
		}
	}
}

/* Make the member's VM if need be, run it, tell, and let go of it. */
static void run_member(struct family *f, struct member *m)
{
	const struct family_hooks *h = f->config.hooks;
	struct vm_report report;
	struct vm_error err;
	int r = 0;

	if (!m->vm) {
		r = make_vm(m, m->image, &err);
		image_put(m->image);
		m->image = NULL;
	}
	if (r) {
		h->failed(h->ctx, m->number, r, err.text);
		return;
	}
	run_vm(f, m->vm, &report);
	if (!h->ended(h->ctx, m->vm, &report))
		let_go(m, report.event);
	m->vm = NULL;
}

/* The first of the queue goes behind those that are over. */
static void retire_first(struct family *f)
{
	struct member *m = f->first;

	f->first = m->next;
	if (!f->first)
		f->last = &f->first;
	m->next = f->gone;
	f->gone = m;
}

void family_run(struct family *f)
{
	while (f->first) {
		run_member(f, f->first);
		retire_first(f);
	}
}

uint64_t family_running(const struct family *f)
{
	return f->first->number;
}

bool family_has_more(const struct family *f)
{
	return f->first && f->first->next;
}

uint64_t family_next_number(const struct family *f)
{
	return f->next_number;
}

static void free_members(struct member *m)
{
	while (m) {
		struct member *next = m->next;

		let_go(m, VM_READY);
		image_put(m->image);
		free(m);
		m = next;
	}
}

void family_destroy(struct family *f)
{
	if (!f)
		return;
	free_members(f->first);
	free_members(f->gone);
	free(f);
}
