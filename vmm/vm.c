// SPDX-License-Identifier: MIT
/*
 * vmm/vm.c - life cycle of a VM: make, boot, snapshot, clone, destroy.
 *
 * Memory slots are set when the VM is made: one for each region of RAM, each the whole region's
 * stretch of the window. What backs the window may change (that is mm/'s business); the slots do
 * only when memory is protected (vm_slots.c).
 */
#include "vmm/vm.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "arch/arch.h"
#include "vmm/elf.h"
#include "vmm/hostlimit.h"
#include "vmm/kernel.h"
#include "vmm/pmem.h"
#include "vmm/vm_internal.h"

/* A vCPU that does not come out of its wait for a frame within this time never will. */
#define NOMEM_PATIENCE_NS UINT64_C(200000000)

/* Fill err->text and hand the code on. */
__attribute__((format(printf, 3, 4))) static int fail(struct vm_error *err, int code,
                                                      const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
	return code;
}

/* The same with why the host has refused `what`. */
static int fail_host(struct vm_error *err, int code, const char *what)
{
	char why[HOSTLIMIT_TEXT_MAX];

	return fail(err, code, "%s: %s", what, hostlimit_why(code, 0, why));
}

/* ---- making ---- */

/*
 * Everybody out of KVM_RUN, where some wait for memory that does not come. Before Linux 6.2 no
 * signal ends that wait: give up the guest rather than the host.
 */
static void get_vcpus_out(struct vm *vm)
{
	uint64_t run = atomic_load(&vm->epoch);
	uint64_t patience = clock_ns() + NOMEM_PATIENCE_NS;

	atomic_store(&vm->marked, true);
	for (unsigned i = 0; i < vm->cpu_count; i++)
		vcpu_kick(&vm->vcpus[i]);
	while (atomic_load(&vm->inside) > 0 && atomic_load(&vm->epoch) == run) {
		if (clock_ns() < patience) {
			usleep(1000);
			continue;
		}
		atomic_store(&vm->ruined, true);
		space_let_go(vm->space);
		return;
	}
}

/* The fault path's thread: someone waits for a frame that is not there. */
static void on_nomem(void *ctx, struct violation v)
{
	struct vm *vm = ctx;

	atomic_store(&vm->nomem_at, v.gpa.v);
	atomic_store(&vm->nomem_why, vm_shortage_now(vm));
	atomic_store(&vm->nomem, true);
	get_vcpus_out(vm);
}

/* Violations are answered no more, so this guest cannot go on, and its memory is not to be had. */
static void on_broken(void *ctx, int error)
{
	struct vm *vm = ctx;

	atomic_store(&vm->ruined, true);
	atomic_store(&vm->broken, error);
	get_vcpus_out(vm);
}

/* Return: number of regions, or -errno. */
static int lay_out_ram(const struct vm_config *c, struct ram_region *ram, struct vm_error *err)
{
	int r = arch_ram_layout(c->ram_bytes, c->page_size, ram);

	if (r == -EFBIG)
		return fail(err, r, "%" PRIu64 " bytes of RAM: the most is %" PRIu64 " GiB",
		            c->ram_bytes, arch_info.max_ram >> 30);
	if (r < 0)
		return fail(err, r,
		            "%" PRIu64 " bytes of RAM: must be at least %" PRIu64
		            " KiB and a multiple of the page size",
		            c->ram_bytes, arch_info.load_min.v >> 10);
	return r;
}

/* What a clone maps, and has unmapped again by the time that it has failed. */
static uint64_t mappings_of(const struct image *image)
{
	size_t count = 0;

	if (image)
		image_runs(image, &count);
	return 2 * (uint64_t)count;
}

static int space_failed(const struct vm_config *c, struct vm_error *err, int code)
{
	char why[HOSTLIMIT_TEXT_MAX];

	if (code == -EPERM)
		return fail(err, code,
		            "userfaultfd: not permitted; run as root, give access to "
		            "/dev/userfaultfd, or use --faults kernel");
	if (code == -ENOTSUP)
		return fail(err, code, "huge pages: this host can set none aside of that size");
	return fail(err, code, "guest memory: %s", hostlimit_why(code, mappings_of(c->image), why));
}

/*
 * RAM is empty although the space starts as a clone of an image: the image holds the file only. So
 * it is filled like a fresh machine's, a block at a time where that is permitted.
 */
static int make_pmem_space(struct vm *vm, const struct vm_config *c, struct space_config *sc,
                           struct vm_error *err)
{
	int r;

	if (c->hugetlb || c->page_size == PAGE_SIZE_1G)
		return fail(err, -EINVAL, "%s: persistent memory, not beside reserved huge pages",
		            c->pmem);
	r = pmem_image(sc->ram, sc->ram_count, c->pmem, &sc->image, &vm->pmem, err);
	if (r)
		return r;
	sc->populate = false;
	sc->faults = c->faults == FAULTS_AUTO ? FAULTS_UFFD : c->faults;
	r = space_create(sc, &vm->space);
	if (r == -EPERM && c->faults == FAULTS_AUTO) {
		sc->faults = FAULTS_KERNEL;
		r = space_create(sc, &vm->space);
	}
	image_put(sc->image);
	return r ? space_failed(c, err, r) : 0;
}

/* Of the caller's memory. Return: 0 or -EINVAL. */
static int check_memory(const struct vm_config *c, struct vm_error *err)
{
	uint64_t page = c->image ? MM_PAGE_SIZE : page_size_bytes(c->page_size);

	if (!c->memory)
		return 0;
	if (!is_aligned((uintptr_t)c->memory, max_u64(MM_BLOCK_SIZE, page)))
		return fail(err, -EINVAL,
		            "guest memory at %p: must start at a boundary of %" PRIu64 " MiB",
		            c->memory, max_u64(MM_BLOCK_SIZE, page) >> 20);
	if (c->faults == FAULTS_UFFD)
		return fail(err, -EINVAL,
		            "guest memory of the caller's: faults there are the kernel's alone");
	if (c->pmem)
		return fail(err, -EINVAL,
		            "guest memory of the caller's: %s cannot be mapped into it", c->pmem);
	return 0;
}

static int make_space(struct vm *vm, const struct vm_config *c, struct vm_error *err)
{
	struct ram_region ram[ARCH_MAX_RAM_REGIONS];
	struct space_config sc = {
		.pool = c->pool,
		.ram = ram,
		.image = c->image,
		.faults = c->faults,
		.populate = c->populate && !c->image,
		.hugetlb = c->hugetlb,
		.limit_frames = c->limit_bytes >> MM_PAGE_SHIFT,
		.limit_copies = c->limit_copies,
		.own_faults = !vm->irqchip,
		.nomem = on_nomem,
		.broken = on_broken,
		.ctx = vm,
		.memory = c->memory,
	};
	int r = check_memory(c, err);

	if (r)
		return r;
	if (!c->image) {
		r = lay_out_ram(c, ram, err);
		if (r < 0)
			return r;
		sc.ram_count = (size_t)r;
		if (c->pmem)
			return make_pmem_space(vm, c, &sc, err);
	}
	r = space_create(&sc, &vm->space);
	return r ? space_failed(c, err, r) : 0;
}

int vm_memory_size(const struct vm_config *c, uint64_t *out, struct vm_error *err)
{
	struct ram_region fresh[ARCH_MAX_RAM_REGIONS];
	const struct ram_region *ram = fresh;
	size_t count;
	int r;

	if (c->image) {
		ram = image_ram(c->image, &count);
	} else {
		r = lay_out_ram(c, fresh, err);
		if (r < 0)
			return r;
		count = (size_t)r;
	}
	*out = space_window_size(ram, count);
	return 0;
}

static int make_vcpu(struct vm *vm, unsigned index, struct vm_error *err)
{
	struct vcpu *v = &vm->vcpus[index];
	int r;

	v->fd = kvm_create_vcpu(vm->fd, index);
	if (v->fd < 0)
		return fail_host(err, v->fd, "a vCPU");
	r = kvm_map_run(vm->kvm, v->fd, &v->run);
	return r ? fail_host(err, r, "a vCPU") : 0;
}

static int make_vcpus(struct vm *vm, unsigned count, struct vm_error *err)
{
	if (count == 0 || count > VM_MAX_CPUS || count > vm->kvm->caps.max_vcpus)
		return fail(err, -EINVAL, "%u vCPUs: must be 1 to %u", count, VM_MAX_CPUS);
	vm->vcpus = calloc(count, sizeof(*vm->vcpus));
	if (!vm->vcpus)
		return fail(err, -ENOMEM, "out of memory");
	vm->cpu_count = count;
	for (unsigned i = 0; i < count; i++) {
		vm->vcpus[i].vm = vm;
		vm->vcpus[i].index = i;
		vm->vcpus[i].fd = -1;
	}
	for (unsigned i = 0; i < count; i++) {
		int r = make_vcpu(vm, i, err);

		if (r)
			return r;
	}
	return 0;
}

/* The serial port's line, as KVM's interrupt controller sees it. */
static void on_serial_irq(void *ctx, bool level)
{
	const struct vm *vm = ctx;

	(void)kvm_irq_line(vm->fd, arch_info.serial_irq, level);
}

static void on_power_irq(void *ctx, bool level)
{
	const struct vm *vm = ctx;

	(void)kvm_irq_line(vm->fd, arch_info.pm_irq, level);
}

static int make_devices(struct vm *vm, const struct vm_mailbox *mailbox, struct vm_error *err)
{
	int r = bus_add(&vm->mmio, arch_info.doorbell.v, MM_PAGE_SIZE, &guestctl_ops, &vm->ctl);

	guestctl_init(&vm->ctl, vm->space, &vm->console, mailbox);
	if (r == 0 && arch_info.serial_port)
		r = bus_add(&vm->ports, arch_info.serial_port, SERIAL_SIZE, &serial_ops,
		            &vm->serial);
	if (r == 0 && arch_info.serial_mmio.v)
		r = bus_add(&vm->mmio, arch_info.serial_mmio.v, SERIAL_SIZE, &serial_ops,
		            &vm->serial);
	if (r == 0 && vm->irqchip) {
		serial_connect(&vm->serial, on_serial_irq, vm);
		r = power_attach(&vm->power, &vm->ports, on_power_irq, vm);
	}
	return r ? fail(err, r, "devices: %s", strerror(-r)) : 0;
}

/* What only a fresh machine needs before it is booted. */
static int init_vcpus(struct vm *vm, struct vm_error *err)
{
	for (unsigned i = 0; i < vm->cpu_count; i++) {
		int r = arch_vcpu_init(vm->kvm, vm->vcpus[i].fd, i);

		if (r)
			return fail(err, r, "vCPU %u: %s", i, strerror(-r));
	}
	return 0;
}

/* A generation id that no machine has had before, where an operating system looks for it. */
static int new_generation(struct vm *vm, struct vm_error *err)
{
	uint8_t id[16];
	int r = 0;

	if (!vm->irqchip || arch_info.generation.v == 0)
		return 0;
	if (getrandom(id, sizeof(id), 0) != (ssize_t)sizeof(id))
		r = -errno;
	if (r == 0)
		r = space_write(vm->space, arch_info.generation, id, sizeof(id));
	return r ? fail(err, r, "generation id: %s", strerror(-r)) : 0;
}

/* It is another VM from now on. */
static int take_identity(struct vm *vm, struct vm_error *err)
{
	int r = guest_identity_make(vm->number, vm->arg, &vm->ctl.self);

	return r ? fail(err, r, "the identity: %s", strerror(-r)) : 0;
}

/* A clone goes on where the image was taken, knowing who it is. */
int vm_restore(struct vm *vm, const struct image *image, struct vm_error *err)
{
	size_t size;
	const void *state = image_state(image, &size);
	int r = vmstate_restore(vm, state, size, err);

	if (r == 0)
		r = new_generation(vm, err);
	if (r)
		return r;
	if (vm->irqchip)
		power_new_generation(&vm->power);
	r = take_identity(vm, err);
	if (r || vm->open.gpa == BELL_SILENT)
		return r;
	/* A clone taken at NEXT has an input of its own. */
	r = vm_answer(vm, vm->open.kind == OPEN_NEXT);
	return r ? fail(err, r, "the clone's identity: %s", strerror(-r)) : 0;
}

/* Return: 0 and *out; -EBADMSG when the image does not say. */
static int config_machine(const struct vm_config *c, struct machine *out, struct vm_error *err)
{
	size_t size;
	const void *state;

	*out = (struct machine){c->cpus, c->irqchip};
	if (!c->image)
		return 0;
	state = image_state(c->image, &size);
	if (vmstate_machine(state, size, out))
		return fail(err, -EBADMSG, "the image's machine state: damaged records");
	return 0;
}

static int make_machine(struct vm *vm, const struct vm_config *c, struct vm_error *err)
{
	struct machine machine;
	int r = config_machine(c, &machine, err);

	if (r)
		return r;
	vm->irqchip = machine.irqchip;
	r = vcpu_prepare_signals();
	if (r)
		return fail(err, r, "signals: %s", strerror(-r));
	vm->fd = kvm_create_vm(vm->kvm);
	if (vm->fd < 0)
		return fail_host(err, vm->fd, "KVM_CREATE_VM");
	r = arch_vm_init(vm->kvm, vm->fd, vm->irqchip);
	if (r)
		return fail_host(err, r, "VM");
	r = make_vcpus(vm, machine.cpus, err);
	if (r == 0)
		r = make_space(vm, c, err);
	if (r == 0)
		r = vm_lay_slots(vm, err);
	if (r == 0)
		r = make_devices(vm, &c->mailbox, err);
	if (r == 0)
		r = c->image ? vm_restore(vm, c->image, err) : init_vcpus(vm, err);
	if (r == 0 && !c->image)
		r = take_identity(vm, err);
	if (r)
		return r;
	r = vcpu_start_threads(vm);
	return r ? fail_host(err, r, "vCPU threads") : 0;
}

/* Waits with a limit count on the same clock as deadlines. */
static void init_changed(struct vm *vm)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&vm->changed, &attr);
	pthread_condattr_destroy(&attr);
}

int vm_create(const struct vm_config *c, struct vm **out, struct vm_error *err)
{
	uint64_t asked = clock_ns();
	struct vm *vm;
	int r;

	if (c->arg && strlen(c->arg) >= ABI_ARGS_MAX)
		return fail(err, -EINVAL, "argument longer than %u bytes", ABI_ARGS_MAX - 1);
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return fail(err, -ENOMEM, "out of memory");
	vm->kvm = c->kvm;
	vm->fd = -1;
	vm->number = c->number;
	vm->limit_copies = c->limit_copies;
	vm->open.gpa = BELL_SILENT;
	vm->made.pool = c->pool;
	vm->made.image = c->image;
	vm->made.faults = c->faults;
	vm->made.limit_bytes = c->limit_bytes;
	vm->times.asked = asked;
	lock_init(&vm->lock, LOCK_VM);
	init_changed(vm);
	console_init(&vm->console, c->console, c->console_room, c->console_ctx);
	serial_init(&vm->serial, &vm->console);
	power_init(&vm->power);
	vm->arg = c->arg ? strdup(c->arg) : NULL;
	r = c->arg && !vm->arg ? fail(err, -ENOMEM, "out of memory") : make_machine(vm, c, err);
	if (r) {
		vm_destroy(vm);
		return r;
	}
	vm->made.limit_frames = space_limit(vm->space);
	if (c->image && c->reset)
		vm_tables_watch(vm);
	vm->times.created = clock_ns();
	*out = vm;
	return 0;
}

/* Also for a VM that was made only in part. KVM lets go of the window before it is unmapped. */
void vm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	/* First of all: a vCPU that waits for a frame is let go, so that its thread can end. */
	if (vm->space)
		space_shutdown(vm->space);
	vcpu_end_threads(vm);
	vm_tables_end(vm);
	for (unsigned i = 0; i < vm->cpu_count; i++) {
		tick_fini(&vm->vcpus[i].tick);
		if (vm->vcpus[i].run)
			munmap(vm->vcpus[i].run, vm->kvm->run_size);
		if (vm->vcpus[i].fd >= 0)
			close(vm->vcpus[i].fd);
	}
	free(vm->vcpus);
	if (vm->fd >= 0)
		close(vm->fd);
	space_destroy(vm->space);
	power_fini(&vm->power);
	serial_fini(&vm->serial);
	console_fini(&vm->console);
	pthread_cond_destroy(&vm->changed);
	lock_fini(&vm->lock);
	free(vm->arg);
	free(vm);
}

/* ---- booting ---- */

static int write_guest(void *ctx, gpa_t to, const void *from, size_t size)
{
	struct vm *vm = ctx;

	return space_write(vm->space, to, from, size);
}

static int write_boot_info(struct vm *vm, const char *args, struct vm_error *err)
{
	size_t count, len = args ? strlen(args) : 0;
	const struct ram_region *ram = space_ram(vm->space, &count);
	struct abi_boot boot = {
		.magic = ABI_BOOT_MAGIC,
		.version = ABI_VERSION,
		.cpus = vm->cpu_count,
		.doorbell = arch_info.doorbell.v,
		.ram_top = gpa_range_end(ram[0].range),
		.cycles_per_sec = arch_cycles_per_sec(vm->vcpus[0].fd),
		.args_len = (uint32_t)len,
	};
	int r;

	if (len >= sizeof(boot.args))
		return fail(err, -E2BIG, "guest arguments: %zu bytes, the most is %zu", len,
		            sizeof(boot.args) - 1);
	memcpy(boot.args, args ? args : "", len);
	for (size_t i = 0; i < count; i++)
		boot.ram_size += ram[i].range.size;
	r = space_write(vm->space, arch_info.boot_info, &boot, sizeof(boot));
	return r ? fail(err, r, "boot information: %s", strerror(-r)) : 0;
}

int vm_boot_elf(struct vm *vm, const char *path, const char *args, struct vm_error *err)
{
	const struct arch_writer writer = {write_guest, vm};
	struct elf_image elf;
	size_t count;
	const struct ram_region *ram = space_ram(vm->space, &count);
	int r = elf_load(vm->space, path, arch_info.isa, arch_info.load_min, &elf, err->text,
	                 sizeof(err->text));

	if (r)
		return r;
	r = arch_write_boot(&writer, ram, count);
	if (r)
		return fail(err, r, "boot structures: %s", strerror(-r));
	r = write_boot_info(vm, args, err);
	for (unsigned i = 0; r == 0 && i < vm->cpu_count; i++) {
		r = arch_vcpu_reset(vm->kvm, vm->vcpus[i].fd, elf.entry, arch_info.boot_info, i);
		if (r)
			fail(err, r, "vCPU %u: %s", i, strerror(-r));
	}
	return r;
}

int vm_boot_kernel(struct vm *vm, const struct kernel_files *files, struct vm_error *err)
{
	size_t count;
	const struct ram_region *ram = space_ram(vm->space, &count);
	struct kernel_machine machine = {
		.ram = ram,
		.ram_count = vm->pmem.size ? count - 1 : count,
		.pmem = &vm->pmem,
		.pmem_count = vm->pmem.size ? 1 : 0,
		.cpus = vm->cpu_count,
	};
	struct arch_kernel_entry entry;
	int r;

	if (!vm->irqchip)
		return fail(err, -EINVAL, "%s: a kernel needs a machine with an irqchip",
		            files->path);
	r = kernel_load(vm->space, files, &machine, &entry, err->text, sizeof(err->text));
	if (r == 0)
		r = new_generation(vm, err);
	for (unsigned i = 0; r == 0 && i < vm->cpu_count; i++) {
		r = arch_vcpu_reset_kernel(vm->kvm, vm->vcpus[i].fd, &entry, i);
		if (r)
			fail(err, r, "vCPU %u: %s", i, strerror(-r));
	}
	return r;
}

size_t vm_input(struct vm *vm, const void *data, size_t size)
{
	return serial_input(&vm->serial, data, size);
}

void vm_set_input(struct vm *vm, const void *data, size_t size)
{
	vm->ctl.mailbox.input = data;
	vm->ctl.mailbox.input_size = size;
}

/* ---- snapshots ---- */

int vm_snapshot(struct vm *vm, struct image **out, struct vm_error *err)
{
	void *state;
	size_t size;
	int r;

	if (atomic_load(&vm->broken))
		return fail(err, -ENOTRECOVERABLE, "the guest's memory is answered for no more");
	if (atomic_load(&vm->ruined))
		return fail(err, -ENOTRECOVERABLE, "the guest ran out of frames and was given up");
	if (space_is_linear(vm->space))
		return fail(
			err, -ENOTSUP,
			"the guest runs on memory of the embedder's: there are no frames to share");
	r = vmstate_save(vm, &state, &size);
	if (r)
		return fail(err, r, "machine state: %s", strerror(-r));
	r = space_publish(vm->space, state, size, out);
	free(state);
	/* Its image is another one now; the old one may go, and its address come again. */
	if (r == 0) {
		vm->made.image = NULL;
		vm_tables_end(vm);
	}
	return r ? vm_say_refused(vm, r, "memory snapshot", err) : 0;
}

int vm_answer(struct vm *vm, int32_t result)
{
	struct guest_identity id;
	gpa_t request = {vm->open.gpa};
	int r = guestctl_identity(&vm->ctl, &id);

	if (r == 0)
		r = guestctl_answer(&vm->ctl, request, result, &id);
	if (r == 0)
		vm->open.gpa = BELL_SILENT;
	return r;
}

int vm_answer_fork(struct vm *vm, int32_t result)
{
	if (vm->open.gpa == BELL_SILENT || vm->open.kind != OPEN_FORK)
		return -EINVAL;
	return vm_answer(vm, result);
}

int vm_answer_next(struct vm *vm)
{
	if (vm->open.gpa == BELL_SILENT || vm->open.kind != OPEN_NEXT)
		return -EINVAL;
	return vm_answer(vm, 1);
}

/* ---- reports ---- */

struct space *vm_space(struct vm *vm)
{
	return vm->space;
}

unsigned vm_cpus(const struct vm *vm)
{
	return vm->cpu_count;
}

uint64_t vm_number(const struct vm *vm)
{
	return vm->number;
}

void vm_times(struct vm *vm, struct vm_times *out)
{
	*out = vm->times;
	pthread_mutex_lock(&vm->console.lock);
	out->first_output = vm->console.first_ns;
	pthread_mutex_unlock(&vm->console.lock);
}

void vm_exits(struct vm *vm, struct vm_exits *out)
{
	*out = (struct vm_exits){0};
	for (unsigned i = 0; i < vm->cpu_count; i++) {
		const struct vm_exits *e = &vm->vcpus[i].exits;

		out->mmio += e->mmio;
		out->io += e->io;
		out->doorbell += e->doorbell;
		out->interrupted += e->interrupted;
		out->other += e->other;
	}
}
