// SPDX-License-Identifier: MIT
/*
 * bench/guest_run.c - runs guests to READY or to their end.
 */
#include "bench/guest_run.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "mm/types.h"
#include "vmm/console.h"

int bench_fail(struct vm_error *err, int code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
	return code;
}

int bench_pool(uint64_t bytes, struct pool **out, struct vm_error *err)
{
	int e = pool_create(align_up(bytes, MM_BLOCK_SIZE), out);

	return e ? bench_fail(err, e, "a pool of %" PRIu64 " MiB: %s", bytes >> 20, strerror(-e))
	         : 0;
}

void guest_console(void *ctx, const void *data, size_t size)
{
	struct guest_run *g = ctx;
	size_t n = min_u64(size, sizeof(g->said) - 1 - g->said_size);

	memcpy(g->said + g->said_size, data, n);
	g->said_size += n;
	g->said[g->said_size] = '\0';
}

int guest_run_until(struct guest_run *g, enum vm_event event, struct vm_error *err)
{
	struct vm_report report;

	g->said_size = 0;
	g->said[0] = '\0';
	vm_run(g->vm, clock_ns() + g->timeout_ns, &report);
	if (report.event == event && (event != VM_EXITED || report.code == 0))
		return 0;
	if (report.event == VM_TIMEOUT)
		return bench_fail(err, -ETIMEDOUT, "the guest did not end within %" PRIu64 " s",
		                  g->timeout_ns / 1000000000);
	return bench_fail(err, -ECHILD, "the guest ended early, with %d: %s%s%s", report.code,
	                  report.text, report.text[0] && g->said[0] ? "; it said: " : "", g->said);
}

static void end(struct guest_run *g)
{
	vm_destroy(g->vm);
	g->vm = NULL;
}

static int save_ready(struct guest_run *g, struct image **out, struct vm_error *err)
{
	int e = guest_run_until(g, VM_READY, err);

	return e ? e : vm_snapshot(g->vm, out, err);
}

static int first_link(const struct guest_chain *c, struct guest_run *g, struct image **out,
                      struct vm_error *err)
{
	struct vm_config config = c->vm;
	int e;

	config.console = guest_console;
	config.console_ctx = g;
	e = vm_create(&config, &g->vm, err);
	if (e == 0)
		e = vm_boot_elf(g->vm, c->program, c->args, err);
	if (e == 0)
		e = save_ready(g, out, err);
	end(g);
	return e;
}

/* From an image to that of its clone, warm once more; the older one is dropped. */
static int next_link(const struct guest_chain *c, struct guest_run *g, unsigned number,
                     struct image **image, struct vm_error *err)
{
	struct vm_config config = c->vm;
	struct image *next;
	int e;

	config.console = guest_console;
	config.console_ctx = g;
	config.image = *image;
	config.number = number;
	e = vm_create(&config, &g->vm, err);
	if (e == 0)
		e = save_ready(g, &next, err);
	end(g);
	if (e)
		return e;
	image_put(*image);
	*image = next;
	return 0;
}

int guest_chain_make(const struct guest_chain *c, struct image **out, struct vm_error *err)
{
	struct guest_run g = {.timeout_ns = c->timeout_ns};
	struct image *image;
	int e = first_link(c, &g, &image, err);

	if (e)
		return e;
	for (unsigned i = 1; e == 0 && i < c->depth; i++)
		e = next_link(c, &g, i, &image, err);
	if (e)
		image_put(image);
	else
		*out = image;
	return e;
}
