// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_shell.c - VMs that are used again: a clone in one is to the bit what it would be
 * in a new VM, whatever the last one did and whatever was done to it.
 *
 * The guest is a script whose clones each do what their input says: the list they go on with.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "guest/poke.h"
#include "tests/kvm/lab.h"
#include "tests/kvm/pace.h"
#include "tests/kvm/script.h"
#include "vmm/shell.h"
#include "vmm/vm_internal.h"

#define POOL     (256 * MIB)
#define FETCH    (SCRIPT_REQUEST + 0x1000) /* the request for the list */
#define LEAVE    (SCRIPT_REQUEST + 0x2000)
#define SAY      (SCRIPT_REQUEST + 0x3000)
#define TELL     (SCRIPT_REQUEST + 0x4000)
#define FORK     (SCRIPT_REQUEST + 0x5000)
#define ERRAND   UINT64_C(0x580000) /* where the list comes to lie */
#define PAGE     MM_PAGE_SIZE
#define MSRS_MAX 512u

/* ---- the image ---- */

/* At READY; then each clone does what its input says. The other vCPUs count. */
static struct image *errand_image_of(const struct lab *l, unsigned cpus, bool irqchip)
{
	const struct step first[] = {
		{STEP_RING, SCRIPT_REQUEST, 0}, {STEP_RING, FETCH, 0}, {STEP_GOTO, ERRAND, 0}};
	struct vm_config c = lab_config(l, SCRIPT_RAM, cpus, FAULTS_AUTO, NULL);
	struct image *image;
	struct vm *vm;

	c.irqchip = irqchip;
	vm = lab_make(&c);
	script_boot(vm);
	script_request(vm, SCRIPT_REQUEST, ABI_READY, 0, 0, 0);
	script_request(vm, FETCH, ABI_INPUT, 0, ERRAND, PAGE);
	script_request(vm, LEAVE, ABI_EXIT, 7, 0, 0);
	script_request(vm, SAY, ABI_WRITE, 0, SCRIPT_DATA, 6);
	script_request(vm, TELL, ABI_OUTPUT, 0, SCRIPT_DATA, 6);
	script_request(vm, FORK, ABI_FORK, 0, 0, 0);
	cr_assert_eq(space_write(vm_space(vm), (gpa_t){SCRIPT_DATA}, "hello\n", 6), 0);
	/* A page of each kind that a clone may change: with data, zero, never written. */
	for (uint64_t i = 0; i < 64; i++)
		script_set_word(vm, SCRIPT_DATA + (1 + i) * PAGE, 0x1234 + i);
	script_list(vm, 0, first, 3);
	for (unsigned cpu = 1; cpu < cpus; cpu++) {
		const struct step count[] = {
			{STEP_COUNT, SCRIPT_DATA + 0x800 + 8 * cpu, 0},
			{STEP_GOTO, SCRIPT_LIST(cpu), 0},
		};

		script_list(vm, cpu, count, 2);
	}
	lab_expect(vm, VM_READY, 0);
	image = lab_snapshot(vm);
	vm_destroy(vm);
	return image;
}

static struct image *errand_image(const struct lab *l, unsigned cpus)
{
	return errand_image_of(l, cpus, false);
}

/* Handed over by a guest. */
struct heard {
	unsigned messages;
	char last[8];
};

static void hear(void *ctx, const void *data, size_t size)
{
	struct heard *h = ctx;

	h->messages++;
	memcpy(h->last, data, size < 7 ? size : 7);
}

static const struct step just_leave[] = {{STEP_RING, LEAVE, 0}};

static struct vm_config clone_config(const struct lab *l, struct image *image, uint64_t number,
                                     enum fault_choice faults, struct tape *t)
{
	return (struct vm_config){
		.kvm = &l->kvm,
		.pool = l->pool,
		.image = image,
		.number = number,
		.faults = faults,
		.console = t ? tape_write : NULL,
		.console_ctx = t,
		.mailbox = {.input = just_leave, .input_size = sizeof(just_leave)},
	};
}

static struct vm *take(struct shells *s, const struct vm_config *c)
{
	struct vm_error err = {""};
	struct vm *vm = NULL;
	int r = shells_take(s, c, &vm, &err);

	cr_assert_eq(r, 0, "%d: %s", r, err.text);
	return vm;
}

static struct shells *store(unsigned most)
{
	struct shells *s;

	cr_assert_eq(shells_create(most, &s), 0);
	return s;
}

static struct shells_stats stats_of(struct shells *s)
{
	struct shells_stats stats;

	shells_stats(s, &stats);
	return stats;
}

/* Can a VM of these machines be reset on this host? */
static void expect_stats(struct shells *s, uint64_t made, uint64_t reused, uint64_t refused,
                         unsigned idle)
{
	struct shells_stats is = stats_of(s);

	cr_assert(is.made == made && is.reused == reused && is.refused == refused &&
	                  is.idle == idle,
	          "made %lu, reused %lu, refused %lu, idle %u", is.made, is.reused, is.refused,
	          is.idle);
}

/* ---- all there is to see of a VM ---- */

struct msrs {
	uint32_t count, zero;
	struct kvm_msr_entry entries[MSRS_MAX];
};

/* Everything KVM gives away of a vCPU, but time. */
struct look {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_debugregs debug;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp;
	struct kvm_xcrs xcrs;
	struct kvm_lapic_state lapic;
	uint8_t xsave[16384];
	struct msrs msrs;
};

/* Of a VM with KVM's interrupt controllers. */
struct controllers {
	struct kvm_irqchip chip[3];
	struct kvm_pit_state2 pit;
};

static void look_at_controllers(const struct vm *vm, struct controllers *out)
{
	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < 3; i++) {
		out->chip[i].chip_id = i;
		cr_assert_eq(kvm_ioctl(vm->fd, KVM_GET_IRQCHIP, &out->chip[i]), 0);
	}
	cr_assert_eq(kvm_ioctl(vm->fd, KVM_GET_PIT2, &out->pit), 0);
	/* Host time. */
	for (unsigned i = 0; i < 3; i++)
		out->pit.channels[i].count_load_time = 0;
}

/* TSC and its deadline go on. Hyper-V's registers are not offered: no guest can reach them. */
static bool is_left_out(uint32_t msr)
{
	return msr == 0x10 || msr == 0x6e0 || (msr >= 0x40000000 && msr < 0x40000200);
}

/* All registers KVM names, and what it can read of them; 0 for the others. */
static void look_at_msrs(const struct kvm *kvm, int fd, struct msrs *out)
{
	struct {
		uint32_t count, indices[MSRS_MAX];
	} list = {.count = MSRS_MAX};

	cr_assert_eq(kvm_ioctl_var(kvm->fd, KVM_GET_MSR_INDEX_LIST, &list), 0);
	out->count = list.count;
	for (uint32_t i = 0; i < list.count; i++) {
		struct {
			uint32_t count, zero;
			struct kvm_msr_entry entry;
		} one = {.count = 1, .entry = {.index = list.indices[i]}};
		int r = is_left_out(list.indices[i]) ? 0 : kvm_ioctl_var(fd, KVM_GET_MSRS, &one);

		out->entries[i] = one.entry;
		if (r != 1)
			out->entries[i].data = 0;
	}
}

static void look_at(const struct vm *vm, unsigned cpu, struct look *out)
{
	const struct kvm *kvm = vm->kvm;
	int fd = vm->vcpus[cpu].fd;

	memset(out, 0, sizeof(*out));
	cr_assert_leq(kvm->caps.xsave_size, sizeof(out->xsave));
	cr_assert_eq(kvm_ioctl(fd, KVM_GET_REGS, &out->regs), 0);
	cr_assert_eq(kvm_ioctl(fd, KVM_GET_SREGS, &out->sregs), 0);
	cr_assert_eq(kvm_ioctl(fd, KVM_GET_DEBUGREGS, &out->debug), 0);
	cr_assert_eq(kvm_ioctl(fd, KVM_GET_VCPU_EVENTS, &out->events), 0);
	cr_assert_eq(kvm_ioctl(fd, KVM_GET_MP_STATE, &out->mp), 0);
	if (kvm->caps.xcrs)
		cr_assert_eq(kvm_ioctl(fd, KVM_GET_XCRS, &out->xcrs), 0);
	if (vm->irqchip)
		cr_assert_eq(kvm_ioctl(fd, KVM_GET_LAPIC, &out->lapic), 0);
	cr_assert_eq(
		kvm_ioctl_ptr(fd, kvm->caps.xsave2 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, out->xsave),
		0);
	look_at_msrs(kvm, fd, &out->msrs);
}

#define SAME(what, field)                                                                          \
	cr_assert_eq(memcmp(&a->field, &b->field, sizeof(a->field)), 0, "vCPU %u: " what, cpu)

static void same_vcpu(const struct vm *fresh, const struct vm *used, unsigned cpu)
{
	struct look *a = malloc(sizeof(*a)), *b = malloc(sizeof(*b));

	cr_assert(a && b);
	look_at(fresh, cpu, a);
	look_at(used, cpu, b);
	SAME("general registers", regs);
	SAME("system registers", sregs);
	SAME("debug registers", debug);
	SAME("events", events);
	SAME("run state", mp);
	SAME("XCR0", xcrs);
	for (size_t i = 0; i < sizeof(a->lapic.regs); i++)
		cr_assert_eq(a->lapic.regs[i], b->lapic.regs[i], "vCPU %u: local APIC, byte %#zx",
		             cpu, i);
	for (size_t i = 0; i < sizeof(a->xsave); i++)
		cr_assert_eq(a->xsave[i], b->xsave[i], "vCPU %u: vector byte %zu", cpu, i);
	for (uint32_t i = 0; i < a->msrs.count; i++)
		cr_assert_eq(a->msrs.entries[i].data, b->msrs.entries[i].data,
		             "vCPU %u: MSR %#x: %llx, %llx", cpu, a->msrs.entries[i].index,
		             a->msrs.entries[i].data, b->msrs.entries[i].data);
	cr_assert_eq(fresh->vcpus[cpu].halted, used->vcpus[cpu].halted);
	cr_assert_eq(fresh->ctl.bell[cpu], used->ctl.bell[cpu]);
	cr_assert(!used->vcpus[cpu].pending && !used->vcpus[cpu].deferred);
	cr_assert_eq(used->power.ended[cpu], -1);
	free(a);
	free(b);
}

static void same_controllers(const struct vm *fresh, const struct vm *used)
{
	struct controllers a, b;

	look_at_controllers(fresh, &a);
	look_at_controllers(used, &b);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(memcmp(&a.chip[i], &b.chip[i], sizeof(a.chip[i])), 0, "controller %u",
		             i);
	cr_assert_eq(memcmp(&a.pit, &b.pit, sizeof(a.pit)), 0, "timer");
}

static void same_devices(struct vm *fresh, struct vm *used)
{
	struct serial_regs sa, sb;
	struct power_regs pa, pb;
	struct vm_exits exits;

	serial_save(&fresh->serial, &sa);
	serial_save(&used->serial, &sb);
	cr_assert_eq(memcmp(&sa, &sb, sizeof(sa)), 0);
	cr_assert_eq(used->serial.count + used->serial.received, 0);
	for (unsigned i = 0; i < SERIAL_QUEUE; i++)
		cr_assert_eq(used->serial.queue[i], 0, "byte %u of what was typed", i);
	cr_assert_eq(fresh->serial.line, used->serial.line);
	power_save(&fresh->power, &pa);
	power_save(&used->power, &pb);
	cr_assert_eq(memcmp(&pa, &pb, sizeof(pa)), 0);
	cr_assert_eq(fresh->power.line, used->power.line);
	cr_assert_eq(fresh->open.gpa, used->open.gpa);
	cr_assert_eq(vm_number(fresh), vm_number(used));
	cr_assert_eq(!fresh->arg, !used->arg);
	cr_assert(!fresh->arg || strcmp(fresh->arg, used->arg) == 0);
	if (fresh->irqchip)
		same_controllers(fresh, used);
	vm_exits(used, &exits);
	cr_assert_eq(exits.mmio + exits.io + exits.interrupted + exits.other, 0);
	cr_assert(!used->kicked && !used->nomem);
	cr_assert_eq(space_limit(vm_space(fresh)), space_limit(vm_space(used)));
	cr_assert_eq(used->console.bytes, 0);
}

/* Every page; all but the two random fields of the answer to READY, and the generation id. */
static void same_memory(struct vm *fresh, struct vm *used)
{
	const uint64_t mask = SCRIPT_REQUEST + offsetof(struct abi_request, generation);
	const uint64_t generation = arch_info.generation.v;
	uint8_t a[PAGE], b[PAGE];

	for (uint64_t at = 0; at < SCRIPT_RAM; at += PAGE) {
		cr_assert_eq(space_read(vm_space(fresh), (gpa_t){at}, a, PAGE), 0);
		cr_assert_eq(space_read(vm_space(used), (gpa_t){at}, b, PAGE), 0);
		if (at == SCRIPT_REQUEST) {
			memset(a + mask - at, 0, 8 + ABI_ENTROPY);
			memset(b + mask - at, 0, 8 + ABI_ENTROPY);
		}
		if (fresh->irqchip && at == generation - generation % PAGE) {
			memset(a + generation % PAGE, 0, 16);
			memset(b + generation % PAGE, 0, 16);
		}
		cr_assert_eq(memcmp(a, b, PAGE), 0, "page at %#lx", at);
	}
}

static void same(struct vm *fresh, struct vm *used)
{
	for (unsigned cpu = 0; cpu < vm_cpus(fresh); cpu++)
		same_vcpu(fresh, used, cpu);
	same_devices(fresh, used);
	same_memory(fresh, used);
}

/* ---- and all that can be done to it ---- */

static void spoil_msrs(const struct kvm *kvm, int fd)
{
	struct msrs *m = malloc(sizeof(*m));

	cr_assert(m);
	look_at_msrs(kvm, fd, m);
	for (uint32_t i = 0; i < m->count; i++) {
		struct {
			uint32_t count, zero;
			struct kvm_msr_entry entry;
		} one = {.count = 1, .entry = m->entries[i]};

		/* What a register does not take it does not take. */
		for (unsigned bit = 0; bit < 48 && !is_left_out(one.entry.index); bit++) {
			one.entry.data = m->entries[i].data ^ (UINT64_C(1) << bit);
			if (kvm_ioctl_var(fd, KVM_SET_MSRS, &one) == 1)
				break;
		}
	}
	free(m);
}

/* A task priority, a logical address, a masked timer with a count. */
static void spoil_lapic(int fd)
{
	static const struct {
		unsigned at;
		uint32_t value;
	} regs[] = {{0x80, 0x20}, {0xd0, 0x5000000}, {0x320, 0x10077}, {0x3e0, 0xb}};
	struct kvm_lapic_state lapic;

	cr_assert_eq(kvm_ioctl(fd, KVM_GET_LAPIC, &lapic), 0);
	for (size_t i = 0; i < sizeof(regs) / sizeof(regs[0]); i++)
		memcpy(lapic.regs + regs[i].at, &regs[i].value, sizeof(regs[i].value));
	cr_assert_eq(kvm_ioctl(fd, KVM_SET_LAPIC, &lapic), 0);
}

static void spoil_vcpu(const struct vm *vm, unsigned cpu)
{
	const struct kvm_mp_state halted = {KVM_MP_STATE_HALTED};
	struct kvm_debugregs debug = {.db = {1, 2, 3, 4}, .dr6 = 0xffff0ff1, .dr7 = 0x400};
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;
	struct kvm_fpu fpu;
	struct kvm_regs regs;
	int fd = vm->vcpus[cpu].fd;

	memset(&regs, 0xa5, sizeof(regs));
	regs.rflags = 0x8d7;
	memset(&fpu, 0x5a, sizeof(fpu));
	fpu.mxcsr = 0x1fbf;
	cr_assert_eq(kvm_ioctl(fd, KVM_SET_REGS, &regs), 0);
	cr_assert_eq(kvm_ioctl(fd, KVM_SET_FPU, &fpu), 0);
	cr_assert_eq(kvm_ioctl(fd, KVM_SET_DEBUGREGS, &debug), 0);
	cr_assert_eq(kvm_ioctl(fd, KVM_GET_SREGS, &sregs), 0);
	sregs.gdt.base += 64;
	sregs.fs.base = 0x123456;
	sregs.cr2 = 0x777000;
	sregs.interrupt_bitmap[1] = 1;
	cr_assert_eq(kvm_ioctl(fd, KVM_SET_SREGS, &sregs), 0);
	spoil_msrs(vm->kvm, fd);
	cr_assert_eq(kvm_ioctl(fd, KVM_GET_VCPU_EVENTS, &events), 0);
	events.exception.injected = 1;
	events.exception.nr = 13;
	events.exception.has_error_code = 1;
	events.exception.error_code = 0x30;
	events.nmi.pending = 1;
	events.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING;
	cr_assert_eq(kvm_ioctl(fd, KVM_SET_VCPU_EVENTS, &events), 0);
	(void)kvm_ioctl(fd, KVM_SET_MP_STATE, (struct kvm_mp_state *)(uintptr_t)&halted);
	vm->vcpus[cpu].halted = true;
	if (vm->irqchip)
		spoil_lapic(fd);
}

/* Pins masked or not, priorities, a counter that runs. */
static void spoil_controllers(const struct vm *vm)
{
	struct controllers c;

	look_at_controllers(vm, &c);
	for (unsigned i = 0; i < 2; i++)
		c.chip[i].chip.pic.imr ^= 0x5a;
	for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
		c.chip[2].chip.ioapic.redirtbl[i].bits ^= 0x10000 | (0x30 + i);
	c.chip[2].chip.ioapic.ioregsel = 0x11;
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(kvm_ioctl(vm->fd, KVM_SET_IRQCHIP, &c.chip[i]), 0);
	c.pit.channels[2].count = 0x1234;
	c.pit.channels[2].mode = 3;
	c.pit.channels[2].gate = 1;
	cr_assert_eq(kvm_ioctl(vm->fd, KVM_SET_PIT2, &c.pit), 0);
}

/* Everything about a stopped VM that its last clone, or its owner, could have left changed. */
static void spoil(struct vm *vm, uint64_t *seed)
{
	const struct serial_regs serial = {1, 2, 3, 0x1b, 5, 6, 7, 1};
	const struct power_regs power = {1, 2, 3, 4, 5};
	uint8_t junk[200];

	for (unsigned cpu = 0; cpu < vm_cpus(vm); cpu++) {
		spoil_vcpu(vm, cpu);
		vm->ctl.bell[cpu] = 0x1000 * cpu;
		vm->vcpus[cpu].pending = vm->vcpus[cpu].deferred = true;
		vm->power.ended[cpu] = 3;
	}
	memset(junk, 0xdb, sizeof(junk));
	for (unsigned i = 0; i < 300; i++) {
		/* Not the page tables: that is another test. */
		gpa_t at = {0x100000 + lab_random(seed) % (SCRIPT_RAM - 0x100000 - 200)};

		cr_assert_eq(space_write(vm_space(vm), at, junk, sizeof(junk)), 0);
	}
	if (vm->irqchip)
		spoil_controllers(vm);
	serial_restore(&vm->serial, &serial);
	cr_assert_gt(vm_input(vm, junk, sizeof(junk)), 0);
	power_restore(&vm->power, &power);
	vm_set_input(vm, junk, sizeof(junk));
	vm->open = (struct open_request){0x4000, true};
	space_resume(vm_space(vm), space_limit(vm_space(vm)) / 2);
}

static void bit_for_bit(unsigned cpus, bool irqchip, enum fault_choice faults)
{
	/* Each page that is copied stops all other vCPUs for a moment: an emulator's is long. */
	const struct step busy[] = {
		{STEP_STORE, SCRIPT_DATA + 0x100, 0xabcdef},
		{STEP_TOUCH, SCRIPT_DATA + 2 * PAGE, 40},
		{STEP_TOUCH, SCRIPT_DATA + 4 * MIB, pace_rounds(600, 100)},
		{STEP_RING, SAY, 0},
		{STEP_PRINT, SCRIPT_DATA, 6},
		{STEP_RING, TELL, 0},
		{STEP_RING, LEAVE, 0},
	};
	static struct tape ta, tb;
	struct heard ha = {0}, hb = {0};
	struct shells *s = store(2);
	uint64_t seed = lab_seed();
	struct image *image;
	struct vm_config c;
	struct lab l;

	lab_open(&l, POOL);
	image = errand_image_of(&l, cpus, irqchip);
	for (unsigned round = 0; round < pace_rounds(6, 3); round++) {
		struct vm *fresh, *used;
		struct vm_error err;

		c = clone_config(&l, image, 100 + round, faults, &tb);
		c.mailbox = (struct vm_mailbox){busy, sizeof(busy), hear, &hb};
		c.arg = round % 2 ? "odd" : NULL;
		used = take(s, &c);
		c.console_ctx = &ta;
		c.mailbox.ctx = &ha;
		cr_assert_eq(vm_create(&c, &fresh, &err), 0, "%s", err.text);
		same(fresh, used);
		ta = tb = (struct tape){0};
		ha = hb = (struct heard){0};
		lab_expect(fresh, VM_EXITED, 7);
		lab_expect(used, VM_EXITED, 7);
		if (cpus == 1)
			same_memory(fresh, used);
		cr_assert_str_eq(ta.text, "hello\nhello\n");
		cr_assert_str_eq(tb.text, ta.text);
		cr_assert(hb.messages == 1 && strcmp(hb.last, "hello\n") == 0);
		cr_assert(ha.messages == 1);
		spoil(used, &seed);
		shells_give(s, used, VM_EXITED);
		expect_stats(s, 1, round, 0, 1);
		vm_destroy(fresh);
	}
	shells_destroy(s);
	image_put(image);
	lab_close(&l);
}

TEST_BOTH_PATHS(shell, bit_for_bit)
{
	bit_for_bit(1, false, faults);
}

TEST_BOTH_PATHS(shell, bit_for_bit_of_three)
{
	bit_for_bit(3, false, faults);
}

TEST_BOTH_PATHS(shell, bit_for_bit_with_controllers)
{
	bit_for_bit(2, true, faults);
}

/* ---- whose VM is used again ---- */

static void expect_result(const struct lab *l, struct image *image, const struct step *steps,
                          size_t size, enum vm_event end, bool kept)
{
	struct shells *s = store(1);
	struct vm_config c = clone_config(l, image, 1, FAULTS_AUTO, NULL);
	struct vm_report r;
	struct vm *vm;

	c.mailbox.input = steps;
	c.mailbox.input_size = size;
	vm = take(s, &c);
	r = lab_run_for(vm, SECOND / 5);
	cr_assert_eq(r.event, end, "event %d, wanted %d: %s", r.event, end, r.text);
	shells_give(s, vm, r.event);
	expect_stats(s, 1, 0, !kept, kept);
	shells_destroy(s);
}

Test(shell, ends)
{
	static const struct step crash[] = {{STEP_RING, UINT64_C(0x123456789000), 0}};
	static const struct step busy[] = {{STEP_COUNT, SCRIPT_DATA, 0}, {STEP_GOTO, ERRAND, 0}};
	static const struct step fork[] = {{STEP_RING, FORK, 0}, {STEP_RING, LEAVE, 0}};
	struct shells *s = store(4);
	struct vm_config c;
	struct image *image, *child;
	struct vm_error err;
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	image = errand_image(&l, 1);
	expect_result(&l, image, just_leave, sizeof(just_leave), VM_EXITED, true);
	expect_result(&l, image, crash, sizeof(crash), VM_CRASHED, false);
	expect_result(&l, image, busy, sizeof(busy), VM_TIMEOUT, false);
	expect_result(&l, image, fork, sizeof(fork), VM_FORK, false);

	/* A VM that forked is a clone of another image now, however it ends. */
	c = clone_config(&l, image, 1, FAULTS_AUTO, NULL);
	c.mailbox = (struct vm_mailbox){.input = fork, .input_size = sizeof(fork)};
	vm = take(s, &c);
	lab_expect(vm, VM_FORK, 0);
	child = lab_snapshot(vm);
	cr_assert_eq(vm_answer_fork(vm, 2), 0);
	lab_expect(vm, VM_EXITED, 7);
	shells_give(s, vm, VM_EXITED);
	image_put(child);
	expect_stats(s, 1, 0, 1, 0);

	/* A kick may come late: nobody else's VM may get it. */
	c.mailbox = (struct vm_mailbox){.input = busy, .input_size = sizeof(busy)};
	vm = take(s, &c);
	vm_kick(vm);
	lab_expect(vm, VM_KICKED, 0);
	shells_give(s, vm, VM_EXITED);
	expect_stats(s, 2, 0, 2, 0);

	/* What its owner protected stays so. */
	vm = take(s, &c);
	cr_assert_eq(vm_protect(vm, (struct gpa_range){{SCRIPT_DATA}, PAGE}, PROTECT_RO, &err), 0);
	shells_give(s, vm, VM_READY);
	expect_stats(s, 3, 0, 3, 0);

	/* Never run at all. */
	shells_give(s, take(s, &c), VM_READY);
	expect_stats(s, 4, 0, 3, 1);
	shells_destroy(s);
	image_put(image);
	lab_close(&l);
}

/* A kick that comes when nobody has the VM, or between a reset and the run after it. */
Test(shell, late_kicks)
{
	struct shells *s = store(1);
	struct vm_error err;
	struct vm_config c;
	struct image *image;
	struct vm *vm;
	struct lab l;

	lab_open(&l, POOL);
	image = errand_image(&l, 1);
	c = clone_config(&l, image, 1, FAULTS_AUTO, NULL);
	vm = take(s, &c);
	shells_give(s, vm, VM_READY);
	vm_kick(vm);
	vm = take(s, &c);
	lab_expect(vm, VM_EXITED, 7);
	shells_give(s, vm, VM_EXITED);
	expect_stats(s, 2, 0, 1, 1);
	vm = take(s, &c);
	vm_kick(vm);
	cr_assert_eq(vm_reset(vm, 1, NULL, &err), 0);
	lab_expect(vm, VM_EXITED, 7);
	/* Another one may be under way. */
	shells_give(s, vm, VM_EXITED);
	expect_stats(s, 2, 1, 2, 0);
	shells_destroy(s);
	image_put(image);
	lab_close(&l);
}

/* What no VM takes throws none away. */
Test(shell, an_argument_too_long)
{
	static char arg[ABI_ARGS_MAX + 1];
	struct shells *s = store(2);
	struct vm_error err;
	struct vm_config c;
	struct image *image;
	struct vm *vm;
	struct lab l;

	lab_open(&l, POOL);
	image = errand_image(&l, 1);
	c = clone_config(&l, image, 1, FAULTS_AUTO, NULL);
	cr_assert_eq(shells_prepare(s, &c, 2, &err), 0);
	memset(arg, 'a', ABI_ARGS_MAX);
	c.arg = arg;
	cr_assert_eq(shells_take(s, &c, &vm, &err), -EINVAL);
	cr_assert_not_null(strstr(err.text, "argument longer than"), "%s", err.text);
	expect_stats(s, 2, 0, 0, 2);
	shells_destroy(s);
	image_put(image);
	lab_close(&l);
}

/* Another image, path or limit wants another VM; more than may be kept are not. */
Test(shell, fits)
{
	struct shells *s = store(2);
	struct vm_error err;
	struct vm_config c, other;
	struct image *image, *second;
	struct lab l;
	struct vm *vm[3];

	lab_open(&l, POOL);
	image = errand_image(&l, 1);
	second = errand_image(&l, 1);
	c = clone_config(&l, image, 1, FAULTS_KERNEL, NULL);
	cr_assert_eq(shells_prepare(s, &c, 5, &err), 0);
	expect_stats(s, 3, 0, 0, 2);
	other = c;
	other.image = second;
	shells_give(s, take(s, &other), VM_READY);
	expect_stats(s, 4, 0, 0, 2);
	other = c;
	other.limit_bytes = 4 * MIB;
	shells_give(s, take(s, &other), VM_READY);
	expect_stats(s, 5, 0, 0, 2);
	for (unsigned i = 0; i < 3; i++)
		vm[i] = take(s, &c);
	expect_stats(s, 6, 2, 0, 0);
	for (unsigned i = 0; i < 3; i++) {
		lab_expect(vm[i], VM_EXITED, 7);
		shells_give(s, vm[i], VM_EXITED);
	}
	expect_stats(s, 6, 2, 0, 2);
	shells_destroy(s);
	image_put(second);
	image_put(image);
	lab_close(&l);
}

/* ---- page tables ---- */

/* The entry of `address` in the tables a guest is booted with, where 2 MiB are one. */
static uint64_t block_entry(struct vm *vm, uint64_t address)
{
	const uint64_t table = UINT64_C(0x000ffffffffff000);
	uint64_t root = arch_info.tables.start.v;
	uint64_t top = script_word(vm, root + 8 * (address >> 39)) & table;
	uint64_t middle = script_word(vm, top + 8 * ((address >> 30) & 511)) & table;

	return middle + 8 * ((address >> 21) & 511);
}

/* Tables at `root` and behind it that map all as those it was booted with do. */
static void copy_tables(struct vm *vm, uint64_t root, uint64_t last)
{
	const uint64_t boot = arch_info.tables.start.v, mask = UINT64_C(0x000ffffffffff000);
	const uint64_t from[] = {boot, script_word(vm, boot) & mask, last};
	uint8_t table[PAGE];

	for (unsigned i = 0; i < 3; i++) {
		uint64_t to = root + i * PAGE, first;

		cr_assert_eq(space_read(vm_space(vm), (gpa_t){from[i]}, table, PAGE), 0);
		memcpy(&first, table, 8);
		first = (first & ~mask) | (to + PAGE);
		if (i < 2)
			memcpy(table, &first, 8);
		cr_assert_eq(space_write(vm_space(vm), (gpa_t){to}, table, PAGE), 0);
	}
}

/* What the guest loaded. */
struct loaded {
	unsigned count;
	uint64_t value[8];
};

static void note_load(void *ctx, const void *data, size_t size)
{
	struct loaded *l = ctx;

	if (size == 8 && l->count < 8)
		memcpy(&l->value[l->count++], data, 8);
}

static void run_pokes(struct vm *vm, const struct poke *pokes, size_t size, struct loaded *l)
{
	l->count = 0;
	vm_set_input(vm, pokes, size);
	lab_expect(vm, VM_EXITED, 0);
}

#define BLOCK_AT  (10 * MIB)
#define ELSEWHERE (8 * MIB)
#define THIRD     (6 * MIB)
#define OWN_ROOT  (12 * MIB) /* and two tables behind it */

/* Three words that say where they are, and page tables that map the first to the second. */
static struct image *poke_image(const struct lab *l)
{
	struct vm_config c = lab_config(l, SCRIPT_RAM, 1, FAULTS_AUTO, NULL);
	struct vm *vm = lab_boot(&c, "poke", NULL);
	struct image *image;
	uint64_t entry;

	lab_expect(vm, VM_READY, 0);
	script_set_word(vm, BLOCK_AT + 0x80, 0xb10c);
	script_set_word(vm, ELSEWHERE + 0x80, 0xe15e);
	script_set_word(vm, THIRD + 0x80, 0x3333);
	entry = block_entry(vm, BLOCK_AT);
	copy_tables(vm, OWN_ROOT, entry & ~(uint64_t)(PAGE - 1));
	script_set_word(vm, OWN_ROOT + 2 * PAGE + entry % PAGE,
	                script_word(vm, entry) - BLOCK_AT + ELSEWHERE);
	image = lab_snapshot(vm);
	vm_destroy(vm);
	return image;
}

/* One clone in whatever VM there is. */
static void poke(struct shells *s, const struct vm_config *c, const struct poke *pokes, size_t size)
{
	struct vm *vm = take(s, c);

	run_pokes(vm, pokes, size, c->mailbox.ctx);
	shells_give(s, vm, VM_EXITED);
}

/*
 * One clone maps a block somewhere else, in user mode, as only a CPU translates; the next finds it
 * where it was, in the same VM.
 */
TEST_BOTH_PATHS(shell, page_tables)
{
	const struct poke look[] = {{BLOCK_AT + 0x80, POKE_LOAD, 0},
	                            {BLOCK_AT + 0x100, POKE_STORE, 0x5555},
	                            {BLOCK_AT + 0x100, POKE_LOAD, 0}};
	struct shells *s = store(1);
	struct loaded loaded;
	struct image *image;
	struct vm_config c;
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	image = poke_image(&l);
	c = clone_config(&l, image, 1, faults, NULL);
	c.mailbox = (struct vm_mailbox){.output = note_load, .ctx = &loaded};
	for (unsigned round = 0; round < 3; round++) {
		uint64_t entry, was;

		vm = take(s, &c);
		entry = block_entry(vm, BLOCK_AT);
		was = script_word(vm, entry);
		{
			const struct poke map[] = {
				{entry, POKE_STORE, was - BLOCK_AT + ELSEWHERE},
				{BLOCK_AT + 0x80, POKE_LOAD, 0},
				{BLOCK_AT + 0x200, POKE_STORE, 0x7777},
			};

			run_pokes(vm, map, sizeof(map), &loaded);
		}
		cr_assert_eq(loaded.count, 1);
		cr_assert_eq(loaded.value[0], 0xe15e, "the guest cannot map: %lx", loaded.value[0]);
		shells_give(s, vm, VM_EXITED);

		vm = take(s, &c);
		run_pokes(vm, look, sizeof(look), &loaded);
		cr_assert_eq(loaded.count, 2);
		cr_assert_eq(loaded.value[0], 0xb10c, "round %u: as the last clone mapped it",
		             round);
		cr_assert_eq(loaded.value[1], 0x5555);
		cr_assert_eq(script_word(vm, entry), was);
		cr_assert_eq(script_word(vm, BLOCK_AT + 0x100), 0x5555);
		cr_assert_eq(script_word(vm, ELSEWHERE + 0x100), 0);
		cr_assert_eq(script_word(vm, ELSEWHERE + 0x200), 0);
		shells_give(s, vm, VM_EXITED);
	}
	expect_stats(s, 1, 5, 0, 1);
	shells_destroy(s);
	image_put(image);
	lab_close(&l);
}

/*
 * The same in tables of its own, which lie in the image unused; it is back on those it was booted
 * with before it ends, and nothing of it shows.
 */
TEST_BOTH_PATHS(shell, own_page_tables)
{
	const uint64_t boot = arch_info.tables.start.v;
	struct shells *s = store(1);
	struct loaded loaded;
	struct image *image;
	struct vm_config c;
	struct lab l;
	struct vm *vm;
	uint64_t own, mapped;

	lab_open(&l, POOL);
	image = poke_image(&l);
	c = clone_config(&l, image, 1, faults, NULL);
	c.mailbox = (struct vm_mailbox){.output = note_load, .ctx = &loaded};
	vm = take(s, &c);
	own = OWN_ROOT + 2 * PAGE + block_entry(vm, BLOCK_AT) % PAGE;
	mapped = script_word(vm, own);
	shells_give(s, vm, VM_READY);
	{
		const struct poke map[] = {
			{own, POKE_STORE, mapped - ELSEWHERE + THIRD},
			{OWN_ROOT, POKE_ROOT, 0},
			{BLOCK_AT + 0x80, POKE_LOAD, 0},
			{boot, POKE_ROOT, 0},
			{BLOCK_AT + 0x80, POKE_LOAD, 0},
		};
		const struct poke look[] = {
			{OWN_ROOT, POKE_ROOT, 0},
			{BLOCK_AT + 0x80, POKE_LOAD, 0},
			{boot, POKE_ROOT, 0},
			{BLOCK_AT + 0x80, POKE_LOAD, 0},
		};

		for (unsigned round = 0; round < 3; round++) {
			poke(s, &c, map, sizeof(map));
			cr_assert_eq(loaded.count, 2);
			cr_assert_eq(loaded.value[0], 0x3333, "the guest cannot map: %lx",
			             loaded.value[0]);
			cr_assert_eq(loaded.value[1], 0xb10c);
			poke(s, &c, look, sizeof(look));
			cr_assert_eq(loaded.count, 2);
			cr_assert_eq(loaded.value[0], 0xe15e,
			             "round %u: as the last clone mapped it: %lx", round,
			             loaded.value[0]);
			cr_assert_eq(loaded.value[1], 0xb10c);
		}
	}
	expect_stats(s, 1, 6, 0, 1);
	shells_destroy(s);
	image_put(image);
	lab_close(&l);
}

/* ---- done with an input ---- */

static void expect_answer(struct vm *vm, struct heard *h, const char *input, const char *answer)
{
	*h = (struct heard){0};
	vm_set_input(vm, input, strlen(input));
	lab_expect(vm, VM_NEXT, 0);
	cr_assert_eq(h->messages, 1);
	cr_assert_str_eq(h->last, answer);
}

/* One input after the other as it is, by resets, in a clone taken in between; and no more. */
Test(next, goes_on_or_back)
{
	struct heard h;
	struct vm_error err;
	struct vm_config c;
	struct image *image;
	struct vm *vm, *clone;
	struct lab l;

	lab_open(&l, POOL);
	c = lab_config(&l, SCRIPT_RAM, 1, FAULTS_AUTO, NULL);
	c.mailbox = (struct vm_mailbox){.output = hear, .ctx = &h};
	vm = lab_boot(&c, "parse", NULL);
	lab_expect(vm, VM_READY, 0);
	cr_assert_eq(vm_answer_next(vm), -EINVAL);
	image = lab_snapshot(vm);
	expect_answer(vm, &h, "1+1", "2\n");
	cr_assert_eq(vm_answer_fork(vm, 1), -EINVAL);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(vm_answer_next(vm), 0);
		cr_assert_eq(vm_answer_next(vm), -EINVAL);
		expect_answer(vm, &h, "7 *3", "21\n");
		cr_assert_eq(vm_reset(vm, 9 + i, NULL, &err), 0, "%s", err.text);
		expect_answer(vm, &h, "2-5", "-3\n");
	}
	image_put(image);

	/* A clone taken here goes on with an input of its own. */
	image = lab_snapshot(vm);
	c.image = image;
	c.number = 1;
	cr_assert_eq(vm_create(&c, &clone, &err), 0, "%s", err.text);
	expect_answer(clone, &h, "100", "100\n");
	lab_expect(clone, VM_EXITED, 0);
	vm_destroy(clone);
	image_put(image);

	/* Not answered: there is no more, and the guest ends itself. */
	lab_expect(vm, VM_EXITED, 0);
	vm_destroy(vm);
	lab_close(&l);
}

/* ---- many ---- */

struct burst {
	struct shells *shells;
	const struct lab *lab;
	struct image *image;
	uint64_t first, clones, nonce;
	unsigned wrong;
};

/* Counters, one after the other; each must find the template's values. */
static void *burst(void *arg)
{
	struct burst *b = arg;
	struct tape *t = malloc(sizeof(*t));

	for (uint64_t i = 0; t && i < b->clones; i++) {
		struct vm_config c = clone_config(b->lab, b->image, b->first + i, FAULTS_AUTO, t);
		char want[128];
		struct vm_report r;
		struct vm_error err;
		struct vm *vm;

		*t = (struct tape){0};
		if (shells_take(b->shells, &c, &vm, &err)) {
			b->wrong++;
			break;
		}
		vm_run(vm, clock_ns() + 60 * SECOND, &r);
		snprintf(want, sizeof(want), "nonce %016lx clone %lu increments %lu table ok\n",
		         b->nonce, c.number, c.number);
		b->wrong += r.event != VM_EXITED || r.code != 0 || strcmp(t->text, want) != 0;
		shells_give(b->shells, vm, r.event);
	}
	b->wrong += !t;
	free(t);
	return NULL;
}

/* Two threads clone from one image at once, out of one store. */
Test(shell, two_threads)
{
	static struct tape t;
	struct shells *s = store(2);
	struct footprint before;
	struct burst b[2];
	pthread_t threads[2];
	struct image *image;
	struct vm_config c;
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	before = footprint_now();
	c = lab_config(&l, 32 * MIB, 1, FAULTS_AUTO, &t);
	vm = lab_boot(&c, "counter", "table=1M");
	lab_expect(vm, VM_READY, 0);
	image = lab_snapshot(vm);
	vm_destroy(vm);
	for (unsigned i = 0; i < 2; i++) {
		b[i] = (struct burst){s, &l, image, 1 + 1000 * i, 500, tape_hex(&t, "nonce"), 0};
		cr_assert_eq(pthread_create(&threads[i], NULL, burst, &b[i]), 0);
	}
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(pthread_join(threads[i], NULL), 0);
		cr_assert_eq(b[i].wrong, 0, "%u clones of thread %u", b[i].wrong, i);
	}
	expect_stats(s, stats_of(s).made, 1000 - stats_of(s).made, 0, stats_of(s).idle);
	cr_assert(stats_of(s).made <= 2 && stats_of(s).idle >= 1);
	shells_destroy(s);
	image_put(image);
	footprint_expect(before, 16);
	lab_close(&l);
}
