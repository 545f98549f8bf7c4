// SPDX-License-Identifier: MIT
/*
 * vmm/vm_limit.c - a VM that may not have more: found in time, and said so that one knows why.
 *
 * Two ways lead here. A violation finds no frame: the fault path's thread says so (vm.c:on_nomem),
 * and the vCPU waits. Or the guest has copied more pages of its image than its limit permits, which
 * the host kernel does without asking: each vCPU looks at its ticks (vm_tick.c), so what a VM has
 * above its limit is what its vCPUs copy in one period of theirs each, of CPU time, and until the
 * last of them stands still. A period is the scheduler's, 1 to 10 ms, and a copy takes 2.5 us
 * or more: so at most 4,096 pages for each vCPU; 850 have been seen with periods of 4 ms.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vmm/hostlimit.h"
#include "vmm/vm_internal.h"

#define AMOUNT_SIZE 24u

static uint64_t ram_frames(const struct vm *vm)
{
	size_t count;
	const struct ram_region *ram = space_ram(vm->space, &count);
	uint64_t frames = 0;

	for (size_t i = 0; i < count; i++)
		frames += ram[i].range.size >> MM_PAGE_SHIFT;
	return frames;
}

uint64_t vm_limit_bytes(struct vm *vm)
{
	return min_u64(space_limit(vm->space), ram_frames(vm)) << MM_PAGE_SHIFT;
}

/* ---- why ---- */

enum vm_shortage vm_shortage_now(struct vm *vm)
{
	struct space_use use;

	/* What cannot be read counts as much as it may be. */
	if (space_use(vm->space, &use) == 0) {
		uint64_t used = use.owned_frames + (use.counts_copies ? use.copied_frames : 0);

		if (used + MM_BLOCK_PAGES > use.limit_frames && use.limit_frames < ram_frames(vm))
			return SHORT_OF_LIMIT;
	}
	return pool_free_frames(vm->made.pool) < MM_BLOCK_PAGES ? SHORT_OF_POOL : SHORT_OF_HOST;
}

/* "12 MiB", "21.1 MiB", "340 KiB" */
static const char *amount(uint64_t frames, char buf[AMOUNT_SIZE])
{
	uint64_t kib = frames << (MM_PAGE_SHIFT - 10), tenths = (10 * kib + 512) >> 10;

	if (kib < 1024)
		snprintf(buf, AMOUNT_SIZE, "%" PRIu64 " KiB", kib);
	else if (tenths % 10 == 0)
		snprintf(buf, AMOUNT_SIZE, "%" PRIu64 " MiB", tenths / 10);
	else
		snprintf(buf, AMOUNT_SIZE, "%" PRIu64 ".%" PRIu64 " MiB", tenths / 10, tenths % 10);
	return buf;
}

static void say_limit(struct vm *vm, char *buf, size_t size)
{
	char limit[AMOUNT_SIZE], used[AMOUNT_SIZE], own[AMOUNT_SIZE], copies[AMOUNT_SIZE];
	struct space_use use;
	uint64_t copied;

	(void)space_use(vm->space, &use);
	copied = use.counts_copies ? use.copied_frames : 0;
	snprintf(buf, size, "limit %s, in use %s: %s own, %s copies",
	         amount(use.limit_frames, limit), amount(use.owned_frames + copied, used),
	         amount(use.owned_frames, own), amount(copied, copies));
}

static void say_pool(struct vm *vm, char *buf, size_t size)
{
	char used[AMOUNT_SIZE], limit[AMOUNT_SIZE], own[AMOUNT_SIZE];
	struct space_use use;
	struct pool_stats ps;

	pool_stats(vm->made.pool, &ps);
	(void)space_use(vm->space, &use);
	snprintf(buf, size, "the pool is exhausted: %s of %s in use, %s of it by this VM",
	         amount(ps.used_frames, used), amount(ps.limit_frames, limit),
	         amount(use.owned_frames, own));
}

static void say_shortage(struct vm *vm, enum vm_shortage s, char *buf, size_t size)
{
	char why[HOSTLIMIT_TEXT_MAX];

	switch (s) {
	case SHORT_OF_LIMIT:
		say_limit(vm, buf, size);
		break;
	case SHORT_OF_POOL:
		say_pool(vm, buf, size);
		break;
	case SHORT_OF_HOST:
	case SHORT_OF_NOTHING:
		snprintf(buf, size, "the host has none: %s", hostlimit_why(-ENOMEM, 0, why));
		break;
	}
}

void vm_say_short(struct vm *vm, const char *what, enum vm_shortage s, struct vm_report *out)
{
	int n = snprintf(out->text, sizeof(out->text), "%s: ", what);

	out->short_of = s;
	say_shortage(vm, s, out->text + n, sizeof(out->text) - (size_t)n);
}

void vm_say_no_frame(struct vm *vm, gpa_t at, enum vm_shortage s, struct vm_report *out)
{
	char what[64];

	snprintf(what, sizeof(what), "no frame for guest address 0x%" PRIx64, at.v);
	vm_say_short(vm, what, s, out);
}

int vm_say_refused(struct vm *vm, int code, const char *what, struct vm_error *err)
{
	char why[HOSTLIMIT_TEXT_MAX];
	struct space_use use;
	int n = snprintf(err->text, sizeof(err->text), "%s: ", what);

	/* What it has copied is to be copied once more. */
	(void)space_use(vm->space, &use);
	if (code == -ENOMEM && pool_free_frames(vm->made.pool) < use.copied_frames)
		say_pool(vm, err->text + n, sizeof(err->text) - (size_t)n);
	else
		snprintf(err->text + n, sizeof(err->text) - (size_t)n, "%s",
		         hostlimit_why(code, 0, why));
	return code;
}

/* ---- copies ---- */

/* Return: whether it is over its limit; then *out says so. */
static bool check(struct vm *vm, struct vm_report *out)
{
	char why[HOSTLIMIT_TEXT_MAX];
	int r = space_check_limit(vm->space);

	if (r == 0)
		return false;
	out->short_of = SHORT_OF_LIMIT;
	if (r == -ENOMEM) {
		say_limit(vm, out->text, sizeof(out->text));
		return true;
	}
	out->short_of = SHORT_OF_HOST;
	snprintf(out->text, sizeof(out->text), "whether it is within its limit cannot be said: %s",
	         hostlimit_why(r, 0, why));
	return true;
}

bool vm_limit_wants(const struct vm *vm)
{
	return vm->limit_copies && space_limit(vm->space) < ram_frames(vm);
}

void vm_limit_tick(struct vcpu *v, uint64_t faults)
{
	struct vm_report found;

	/* Faults of others count as well, but each of those has ticks of its own. */
	(void)faults;
	if (check(v->vm, &found) && vcpu_post_event(v, VM_NOMEM, -ENOMEM)) {
		v->report.short_of = found.short_of;
		memcpy(v->report.text, found.text, sizeof(found.text));
		atomic_store(&v->vm->marked, true);
	}
}

bool vm_over_limit(struct vm *vm, struct vm_report *out)
{
	return vm_limit_wants(vm) && check(vm, out);
}
