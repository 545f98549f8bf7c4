// SPDX-License-Identifier: MIT
#include "bench/clone_floor.h"

#include <string.h>

#include "mm/pool.h"
#include "mm/space.h"

#define POOL_BYTES (UINT64_C(64) << 20)

int floor_open(struct floor *f, const struct kvm *kvm, struct image *image, uint64_t timeout_ns,
               struct vm_error *err)
{
	struct vm_config c = {.kvm = kvm,
	                      .image = image,
	                      .number = 1,
	                      .console = guest_console,
	                      .console_ctx = &f->run};
	int e = bench_pool(POOL_BYTES, &f->pool, err);

	if (e)
		return e;
	c.pool = f->pool;
	f->run.timeout_ns = timeout_ns;
	e = vm_create(&c, &f->run.vm, err);
	if (e == 0)
		e = guest_run_until(&f->run, VM_EXITED, err);
	if (e)
		floor_close(f);
	return e;
}

int floor_run(struct floor *f, struct vm_times *out, struct vm_error *err)
{
	int e = space_reset(vm_space(f->run.vm));

	if (e)
		return bench_fail(err, e, "reset of memory: %s", strerror(-e));
	/* Its clock starts here: memory holds what it must, in pages that are there. */
	e = vm_rewind(f->run.vm, err);
	if (e == 0)
		e = guest_run_until(&f->run, VM_EXITED, err);
	if (e == 0)
		vm_times(f->run.vm, out);
	return e;
}

void floor_close(struct floor *f)
{
	vm_destroy(f->run.vm);
	pool_put(f->pool);
	*f = (struct floor){0};
}
