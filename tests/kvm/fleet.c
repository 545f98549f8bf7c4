// SPDX-License-Identifier: MIT
#include "tests/kvm/fleet.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch/arch.h"
#include "vmm/snapshot.h"

uint64_t hash_bytes(uint64_t h, const uint8_t *p, size_t size)
{
	for (size_t i = 0; i < size; i++)
		h = (h ^ p[i]) * UINT64_C(0x100000001b3);
	return h;
}

static void on_output(void *ctx, uint64_t number, const void *data, size_t size)
{
	struct fleet *f = ctx;

	if (number >= MOST) {
		f->spilt += size;
		return;
	}
	tape_write(&f->tapes[number], data, size);
	f->hashes[number] = hash_bytes(f->hashes[number], data, size);
	if (number == f->act_on_output) {
		f->act_on_output = 0;
		f->act(f);
	}
}

static void on_end(void *ctx, const struct clone_result *r)
{
	struct fleet *f = ctx;

	cr_assert_lt(r->number, MOST, "number %lu", r->number);
	f->reports++;
	f->ends[r->number][r->end]++;
	f->last[r->number] = *r;
	if (r->number == f->act_on_end) {
		f->act_on_end = 0;
		f->act(f);
	}
}

/* ---- images ---- */

static struct image *through_file(struct image *image)
{
	char path[] = "/tmp/cowslip-fleet-XXXXXX";
	int fd = mkstemp(path);
	struct snapshot_error err;
	struct image *opened;
	int r;

	cr_assert_geq(fd, 0);
	close(fd);
	r = snapshot_save(image, arch_info.isa, 1, path, &err);
	cr_assert_eq(r, 0, "%s", err.text);
	r = snapshot_open(path, arch_info.isa, &opened, NULL, &err);
	cr_assert_eq(r, 0, "%s", err.text);
	unlink(path);
	return opened;
}

/* The image of a VM that has just rung; the VM and its pool are gone. */
static struct image *saved(struct lab *l, struct vm *vm, enum vm_event event)
{
	struct image *image, *opened;

	lab_expect(vm, event, 0);
	image = lab_snapshot(vm);
	vm_destroy(vm);
	opened = through_file(image);
	image_put(image);
	lab_close(l);
	return opened;
}

struct image *guest_image(const char *guest, const char *args, uint64_t ram, enum vm_event event)
{
	struct lab l;
	struct vm_config c;

	lab_open(&l, 512 * MIB);
	c = lab_config(&l, ram, 1, FAULTS_AUTO, NULL);
	return saved(&l, lab_boot(&c, guest, args), event);
}

void script_make(struct scripted *s, const struct step *steps, size_t count)
{
	struct step list[64] = {{STEP_RING, SCRIPT_REQUEST, 0}};
	struct vm_config c;

	cr_assert_lt(count, 63);
	memcpy(list + 1, steps, count * sizeof(*steps));
	lab_open(&s->l, 256 * MIB);
	c = lab_config(&s->l, SCRIPT_RAM, 1, FAULTS_AUTO, NULL);
	s->vm = lab_make(&c);
	script_boot(s->vm);
	script_request(s->vm, SCRIPT_REQUEST, ABI_READY, 0, 0, 0);
	script_list(s->vm, 0, list, count + 1);
}

struct image *script_image(struct scripted *s)
{
	return saved(&s->l, s->vm, VM_READY);
}

/* Says "up" and is busy for ever. */
struct image *busy_image(void)
{
	const uint64_t say = SCRIPT_REQUEST + 0x1000;
	const struct step steps[] = {
		{STEP_RING, say, 0},
		{STEP_COUNT, SCRIPT_DATA, 0},
		{STEP_GOTO, SCRIPT_LIST(0) + 2 * sizeof(struct step), 0},
	};
	struct scripted s;

	script_make(&s, steps, 3);
	cr_assert_eq(space_write(vm_space(s.vm), (gpa_t){SCRIPT_DATA + 64}, "up\n", 3), 0);
	script_request(s.vm, say, ABI_WRITE, 0, SCRIPT_DATA + 64, 3);
	return script_image(&s);
}

/* ---- fleets ---- */

struct fleet *fleet_make(struct image *image, uint64_t count, unsigned jobs)
{
	struct fleet *f = calloc(1, sizeof(*f));

	cr_assert(f);
	cr_assert_eq(kvm_open(&f->kvm, NULL), 0);
	f->image = image;
	f->config = (struct engine_config){
		.kvm = &f->kvm,
		.image = image,
		.count = count,
		.jobs = jobs,
		.timeout_ns = 60 * SECOND,
		.ctx = f,
		.output = on_output,
		.ended = on_end,
	};
	return f;
}

void no_children(void)
{
	cr_assert(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD, "a process is left");
}

void fleet_run(struct fleet *f)
{
	struct footprint before = footprint_now();
	struct vm_error err = {""};
	int r = engine_run(&f->config, &f->summary, &err);

	cr_assert_eq(r, 0, "%d: %s", r, err.text);
	no_children();
	footprint_expect(before, 16);
}

void fleet_free(struct fleet *f)
{
	cr_assert_eq(image_refs(f->image), 1);
	image_put(f->image);
	kvm_close(&f->kvm);
	free(f);
}

unsigned count_ends(const struct fleet *f, enum clone_end end)
{
	unsigned n = 0;

	for (unsigned i = 0; i < MOST; i++)
		n += f->ends[i][end];
	return n;
}

/* Every number has one report, and it is this. */
void expect_all(const struct fleet *f, enum clone_end end)
{
	cr_assert_eq(f->reports, f->config.count);
	for (uint64_t i = 1; i <= f->config.count; i++)
		cr_assert_eq(f->ends[i][end], 1, "clone %lu: end %d: %s", i, f->last[i].end,
		             f->last[i].text);
	cr_assert_eq(f->summary.workers_lost, 0);
}

/* Every clone printed its own line, nonce and all. */
void expect_counters(const struct fleet *f)
{
	uint64_t nonce = tape_hex(&f->tapes[1], "nonce");

	for (uint64_t i = 1; i <= f->config.count; i++) {
		char want[128];

		snprintf(want, sizeof(want), "nonce %016lx clone %lu increments %lu table ok%s\n",
		         nonce, i, i, f->config.arg ? " arg \"a b\"" : "");
		cr_assert_str_eq(f->tapes[i].text, want);
		cr_assert_eq(f->last[i].code, 0);
	}
}
