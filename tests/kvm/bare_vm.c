// SPDX-License-Identifier: MIT
/*
 * tests/kvm/bare_vm.c - the guest that has registers to lose, and the VM around it.
 */
#include "tests/kvm/bare_vm.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Runs at CODE whatever the linker thinks: jumps are relative, data has fixed addresses. */
__asm__("	.pushsection .rodata\n"
        "	.globl arch_test_guest, arch_test_guest_end\n"
        "arch_test_guest:\n"
        "	lgdt 0x180046\n"
        "	mov $0xc0000082, %ecx\n" /* LSTAR */
        "	mov $0xcafe1234, %eax\n"
        "	mov $0x00007fff, %edx\n"
        "	wrmsr\n"
        "	mov $0xc0000100, %ecx\n" /* FS base */
        "	mov $0x180200, %eax\n"
        "	xor %edx, %edx\n"
        "	wrmsr\n"
        "	mov $0x12345678, %eax\n"
        "	mov %rax, %db0\n"
        "	mov $0x190000, %esp\n"
        "	push $0x1b\n"
        "	push $0x18f000\n"
        "	push $2\n"
        "	push $0x23\n"
        "	lea 1f(%rip), %rax\n"
        "	push %rax\n"
        "	iretq\n"
        "1:	cmpq $0, 0x180058\n"
        "	je 1f\n"
        "	xor %ecx, %ecx\n"
        "	xgetbv\n"
        "	mov %rax, 0x180190\n"
        "1:	fldpi\n"
        "	ldmxcsr 0x180188\n"
        "	cmpq $0, 0x180050\n"
        "	je 1f\n"
        "	vmovdqu 0x180100, %ymm0\n"
        "	vmovdqu 0x180120, %ymm15\n"
        "	jmp 2f\n"
        "1:	movdqu 0x180100, %xmm0\n"
        "	movdqu 0x180120, %xmm15\n"
        "2:	rdtsc\n"
        "	shl $32, %rdx\n"
        "	or %rdx, %rax\n"
        "	mov %rax, 0x180060\n"
        "	movabs $0x1111111111111111, %rax\n"
        "	movabs $0x2222222222222222, %rbx\n"
        "	movabs $0x3333333333333333, %rcx\n"
        "	movabs $0x4444444444444444, %rdx\n"
        "	movabs $0x5555555555555555, %rsi\n"
        "	movabs $0x6666666666666666, %rdi\n"
        "	movabs $0x7777777777777777, %rbp\n"
        "	mov $0x188880, %esp\n"
        "	movabs $0x9999999999999999, %r8\n"
        "	movabs $0xaaaaaaaaaaaaaaaa, %r9\n"
        "	movabs $0xbbbbbbbbbbbbbbbb, %r10\n"
        "	movabs $0xcccccccccccccccc, %r11\n"
        "	movabs $0xdddddddddddddddd, %r12\n"
        "	movabs $0xeeeeeeeeeeeeeeee, %r13\n"
        "	movabs $0xffffffffffffffff, %r14\n"
        "	mov $0x55, %r15d\n"
        "	movabs %rax, 0xd0000000\n" /* first ring: saved here */
        "	mov %rax, 0x180080\n"
        "	mov %rbx, 0x180088\n"
        "	mov %rcx, 0x180090\n"
        "	mov %rdx, 0x180098\n"
        "	mov %rsi, 0x1800a0\n"
        "	mov %rdi, 0x1800a8\n"
        "	mov %rbp, 0x1800b0\n"
        "	mov %rsp, 0x1800b8\n"
        "	mov %r8, 0x1800c0\n"
        "	mov %r9, 0x1800c8\n"
        "	mov %r10, 0x1800d0\n"
        "	mov %r11, 0x1800d8\n"
        "	mov %r12, 0x1800e0\n"
        "	mov %r13, 0x1800e8\n"
        "	mov %r14, 0x1800f0\n"
        "	mov %r15, 0x1800f8\n"
        "	rdtsc\n"
        "	shl $32, %rdx\n"
        "	or %rdx, %rax\n"
        "	mov %rax, 0x180068\n"
        "	cmpq $0, 0x180050\n"
        "	je 1f\n"
        "	vmovdqu %ymm0, 0x180140\n"
        "	vmovdqu %ymm15, 0x180160\n"
        "	jmp 2f\n"
        "1:	movdqu %xmm0, 0x180140\n"
        "	movdqu %xmm15, 0x180160\n"
        "2:	fstpl 0x180180\n"
        "	stmxcsr 0x18018c\n"
        "	mov %fs:0, %rax\n"
        "	mov %rax, 0x180070\n"
        "	cmpq $0, 0x180058\n"
        "	je 1f\n"
        "	xor %ecx, %ecx\n"
        "	xgetbv\n"
        "	mov %rax, 0x180078\n"
        "1:	mov $2, %eax\n"
        "	movabs %rax, 0xd0000000\n" /* last ring */
        "1:	rdtsc\n"                   /* and for ever: the counter's value */
        "	shl $32, %rdx\n"
        "	or %rdx, %rax\n"
        "	movabs %rax, 0xd0000000\n"
        "	jmp 1b\n"
        "arch_test_guest_end:\n"
        "	.popsection\n");
extern const uint8_t arch_test_guest[], arch_test_guest_end[];

/* struct kvm_msrs with its one register. */
struct one_msr {
	uint32_t count, padding;
	struct kvm_msr_entry e;
};

struct shared *bare_vm_shared(const struct bare_vm *m)
{
	return (struct shared *)(void *)(m->mem + DATA);
}

/* A VM with memory and bare vCPUs: neither booted nor restored. */
struct bare_vm bare_vm_make(unsigned vcpus, bool irqchip)
{
	struct bare_vm m = {.irqchip = irqchip, .vcpus = vcpus};

	cr_assert_eq(kvm_open(&m.kvm, NULL), 0);
	m.vm = kvm_create_vm(&m.kvm);
	cr_assert_geq(m.vm, 0);
	cr_assert_eq(arch_vm_init(&m.kvm, m.vm, irqchip), 0);
	m.mem = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(m.mem, MAP_FAILED);
	cr_assert_eq(kvm_set_slot(m.vm, 0, 0, RAM_SIZE, (uintptr_t)m.mem, 0), 0);
	for (unsigned i = 0; i < vcpus; i++) {
		m.vcpu[i] = kvm_create_vcpu(m.vm, i);
		cr_assert_geq(m.vcpu[i], 0);
		cr_assert_eq(kvm_map_run(&m.kvm, m.vcpu[i], &m.run[i]), 0);
	}
	return m;
}

void bare_vm_free(struct bare_vm *m)
{
	for (unsigned i = 0; i < m->vcpus; i++) {
		munmap(m->run[i], m->kvm.run_size);
		close(m->vcpu[i]);
	}
	close(m->vm);
	munmap(m->mem, RAM_SIZE);
	kvm_close(&m->kvm);
}

static int write_mem(void *ctx, gpa_t to, const void *from, size_t size)
{
	struct bare_vm *m = ctx;

	cr_assert_leq(to.v + size, RAM_SIZE);
	memcpy(m->mem + to.v, from, size);
	return 0;
}

/* KVM may tell a vCPU more than it was asked to, so what it can use is read back. */
static bool told(const struct bare_vm *m, uint32_t ecx_bit)
{
	/* struct kvm_cpuid2 with room */
	struct {
		uint32_t count, padding;
		struct kvm_cpuid_entry2 e[256];
	} c = {.count = 256};

	cr_assert_eq(kvm_ioctl_var(m->vcpu[0], KVM_GET_CPUID2, &c), 0);
	for (uint32_t i = 0; i < c.count; i++)
		if (c.e[i].function == 1)
			return c.e[i].ecx & (1u << ecx_bit);
	return false;
}

static void fill_shared(const struct bare_vm *m)
{
	struct shared *s = bare_vm_shared(m);

	s->gdt[1] = 0x00af9b000000ffff;
	s->gdt[2] = 0x00cf93000000ffff;
	s->gdt[3] = 0x00cff3000000ffff;
	s->gdt[4] = 0x00affb000000ffff;
	s->gdt_limit[3] = sizeof(s->gdt) - 1;
	s->gdt_base = DATA;
	s->has_xgetbv = told(m, 26);
	s->has_avx = s->has_xgetbv && told(m, 28);
	s->mxcsr_set = 0x7f80; /* round towards zero: not what it starts with */
	s->fs_area = FS_VALUE;
	for (size_t i = 0; i < sizeof(s->pattern); i++)
		s->pattern[i] = (uint8_t)(0xa0 + 7 * i);
}

struct bare_vm bare_vm_boot(unsigned vcpus, bool irqchip)
{
	struct bare_vm m = bare_vm_make(vcpus, irqchip);
	const struct arch_writer w = {write_mem, &m};
	struct ram_region ram[ARCH_MAX_RAM_REGIONS];

	cr_assert_eq(arch_ram_layout(RAM_SIZE, PAGE_SIZE_AUTO, ram), 1);
	cr_assert_eq(arch_write_boot(&w, ram, 1), 0);
	memcpy(m.mem + CODE, arch_test_guest, (size_t)(arch_test_guest_end - arch_test_guest));
	for (unsigned i = 0; i < vcpus; i++) {
		cr_assert_eq(arch_vcpu_init(&m.kvm, m.vcpu[i], i), 0);
		cr_assert_eq(
			arch_vcpu_reset(&m.kvm, m.vcpu[i], (gpa_t){CODE}, arch_info.boot_info, i),
			0);
	}
	fill_shared(&m);
	return m;
}

/* Run to the next ring. Return: the value rung. */
uint64_t bare_vm_ring(struct bare_vm *m)
{
	struct kvm_run *run = m->run[0];
	char where[512];
	uint64_t value;
	int err = kvm_run_vcpu(m->vcpu[0]);

	arch_vcpu_describe(m->vcpu[0], where, sizeof(where));
	cr_assert_eq(err, 0, "run: %d, %s", err, where);
	cr_assert_eq(run->exit_reason, KVM_EXIT_MMIO, "exit %u, %s", run->exit_reason, where);
	cr_assert(run->mmio.is_write && run->mmio.len == 8);
	cr_assert_eq(run->mmio.phys_addr, arch_info.doorbell.v);
	memcpy(&value, run->mmio.data, 8);
	return value;
}

/* Finish the store that rang, without entering the guest. */
void bare_vm_settle(struct bare_vm *m)
{
	m->run[0]->immediate_exit = 1;
	cr_assert_eq(kvm_run_vcpu(m->vcpu[0]), -EINTR);
	m->run[0]->immediate_exit = 0;
}

void bare_vm_save(const struct bare_vm *m, struct saved *s)
{
	cr_assert_eq(arch_vm_save(&m->kvm, m->vm, m->irqchip, s->vm, STATE_MAX, &s->vm_size), 0);
	for (unsigned i = 0; i < m->vcpus; i++)
		cr_assert_eq(
			arch_vcpu_save(&m->kvm, m->vcpu[i], s->vcpu[i], STATE_MAX, &s->size[i]), 0);
}

void bare_vm_restore(const struct bare_vm *m, const struct saved *s)
{
	char why[256];

	cr_assert_eq(arch_vm_restore(&m->kvm, m->vm, m->irqchip, s->vm, s->vm_size), 0);
	for (unsigned i = 0; i < m->vcpus; i++) {
		int err = arch_vcpu_restore_why(&m->kvm, m->vcpu[i], s->vcpu[i], s->size[i], why,
		                                sizeof(why));

		cr_assert_eq(err, 0, "vCPU %u: %d, %s", i, err, why);
	}
}

/* Booted and stopped at its first ring. */
struct bare_vm bare_vm_warm(bool irqchip)
{
	struct bare_vm m = bare_vm_boot(1, irqchip);

	cr_assert_eq(bare_vm_ring(&m), RING_FIRST);
	bare_vm_settle(&m);
	return m;
}

struct bare_vm bare_vm_copy(const struct bare_vm *from, const struct saved *s)
{
	struct bare_vm m = bare_vm_make(from->vcpus, from->irqchip);

	memcpy(m.mem, from->mem, RAM_SIZE);
	bare_vm_restore(&m, s);
	return m;
}

uint64_t bare_vm_get_msr(const struct bare_vm *m, unsigned vcpu, uint32_t index)
{
	struct one_msr one = {.count = 1, .e.index = index};

	cr_assert_eq(kvm_ioctl_var(m->vcpu[vcpu], KVM_GET_MSRS, &one), 1);
	return one.e.data;
}

void bare_vm_set_msr(const struct bare_vm *m, unsigned vcpu, uint32_t index, uint64_t value)
{
	struct one_msr one = {.count = 1, .e = {.index = index, .data = value}};

	cr_assert_eq(kvm_ioctl_var(m->vcpu[vcpu], KVM_SET_MSRS, &one), 1);
}

void bare_vm_pause_ms(long ms)
{
	const struct timespec t = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&t, NULL);
}

/* The first record of `type` in saved state; *size is that of its payload. */
uint8_t *bare_vm_record(uint8_t *state, size_t total, uint32_t type, size_t *size)
{
	for (size_t at = 0; at + 16 <= total;) {
		uint32_t found;
		uint64_t length;

		memcpy(&found, state + at, 4);
		memcpy(&length, state + at + 8, 8);
		*size = length;
		if (found == type)
			return state + at + 16;
		at += 16 + align_up(length, 8);
	}
	cr_assert(false, "no record %u", type);
	return NULL;
}

void bare_vm_check_found(const struct bare_vm *m)
{
	const struct shared *s = bare_vm_shared(m);
	const double pi = 3.14159265358979323846;

	for (unsigned i = 0; i < 15; i++)
		cr_assert_eq(s->gpr_found[i], i == 7 ? RSP_VALUE : GPR_VALUE(i + 1),
		             "register %u: %#lx", i, s->gpr_found[i]);
	cr_assert_eq(s->gpr_found[15], 0x55);
	cr_assert_eq(s->fs_found, FS_VALUE);
	cr_assert_eq(s->mxcsr_found, s->mxcsr_set);
	cr_assert_arr_eq(&s->x87_found, &pi, 8);
	if (s->has_avx) {
		cr_assert_arr_eq(s->ymm_found, s->pattern, 64);
	} else {
		cr_assert_arr_eq(s->ymm_found, s->pattern, 16);
		cr_assert_arr_eq(s->ymm_found + 32, s->pattern + 32, 16);
	}
	cr_assert_eq(s->xcr0_found, s->xcr0_before);
}
