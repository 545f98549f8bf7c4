// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_arch_kernel.c - the smallest kernels there are, booted both ways.
 *
 * Each looks at the mode, segments and boot information it was started with, loads its segments
 * anew from the table in memory, and asks for soft-off; anything wrong is another value there.
 */
#include <criterion/criterion.h>
#include <elf.h>
#include <string.h>

#include "tests/kvm/bare_vm.h"

#define SOFT_OFF      0x3400u /* SLP_EN, and 5 as the type */
#define KERNEL        UINT64_C(0x100000)
#define PAYLOAD       1024u /* of a bzImage with one setup sector */
#define CODE_MAX      512u
#define MTRR_DEFAULT  0x2ffu
#define MISC_ENABLE   0x1a0u
#define UNINITIALIZED KVM_MP_STATE_UNINITIALIZED

/* The same text in both modes: \base is the register with the boot information. */
__asm__(".macro kernel_body base, magic_at, magic, rsdp_at\n"
        "	mov $1, %edi\n"
        "	cmpl $\\magic, \\magic_at(%\\base)\n"
        "	jne 1f\n"
        "	mov $2, %edi\n"
        "	mov \\rsdp_at(%\\base), %eax\n"
        "	cmpl $0x20445352, (%eax)\n" /* "RSD " */
        "	jne 1f\n"
        "	mov $3, %edi\n"
        "	mov %cs, %eax\n"
        "	cmp $0x10, %eax\n"
        "	jne 1f\n"
        "	mov $4, %edi\n"
        "	mov %ds, %ecx\n"
        "	mov %ss, %eax\n"
        "	cmp %eax, %ecx\n"
        "	jne 1f\n"
        "	mov %ecx, %ds\n"
        "	mov %ecx, %es\n"
        "	mov %ecx, %ss\n"
        "	mov $0x3400, %edi\n"
        "1:	mov %edi, %eax\n"
        "	mov $0x604, %edx\n"
        "	out %ax, %dx\n"
        ".endm\n"
        "	.pushsection .rodata\n"
        "arch_kernel_64:\n"
        "	.code64\n"
        "	kernel_body rsi, 0x202, 0x53726448, 0x70\n"
        "arch_kernel_32:\n"
        "	.code32\n"
        "	kernel_body ebx, 0, 0x336ec578, 32\n"
        "arch_kernel_end:\n"
        "	.code64\n"
        "	.popsection\n");
extern const uint8_t arch_kernel_64[], arch_kernel_32[], arch_kernel_end[];

static uint8_t image[4096];

static int read_image(void *ctx, uint64_t offset, void *to, size_t size)
{
	(void)ctx;
	memcpy(to, image + offset, size);
	return 0;
}

static int write_memory(void *ctx, gpa_t to, const void *from, size_t size)
{
	const struct bare_vm *m = ctx;

	cr_assert(to.v + size <= RAM_SIZE);
	memcpy(m->mem + to.v, from, size);
	return 0;
}

static void put(size_t at, uint64_t value, size_t size)
{
	memcpy(image + at, &value, size);
}

static void make_bzimage(void)
{
	put(0x1f1, 1, 1);                       /* setup sectors */
	put(0x1f4, (0x200 + CODE_MAX) / 16, 4); /* size */
	put(0x1fe, 0xaa55, 2);
	put(0x201, 0x6a, 1);
	put(0x202, 0x53726448, 4);
	put(0x206, 0x020f, 2);
	put(0x211, 1, 1);
	put(0x22c, 0x7fffffff, 4);
	put(0x230, 0x100000, 4); /* alignment */
	put(0x236, 1, 2);
	put(0x238, 255, 4);
	put(0x258, KERNEL, 8);
	put(0x260, 0x10000, 4); /* with bss */
	memcpy(image + PAYLOAD + 0x200, arch_kernel_64, (size_t)(arch_kernel_32 - arch_kernel_64));
}

static void make_pvh(void)
{
	const Elf64_Ehdr e = {
		.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_phoff = sizeof(e),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 2,
	};
	const Elf64_Phdr p[] = {
		{.p_type = PT_LOAD,
	         .p_offset = PAYLOAD,
	         .p_paddr = KERNEL,
	         .p_filesz = CODE_MAX,
	         .p_memsz = 0x10000},
		{.p_type = PT_NOTE, .p_offset = 512, .p_filesz = 20, .p_align = 4},
	};
	const struct {
		Elf64_Nhdr head;
		char owner[4];
		uint32_t entry;
	} note = {{4, 4, 18}, "Xen", KERNEL};

	memcpy(image, &e, sizeof(e));
	memcpy(image + sizeof(e), p, sizeof(p));
	memcpy(image + 512, &note, sizeof(note));
	memcpy(image + PAYLOAD, arch_kernel_32, (size_t)(arch_kernel_end - arch_kernel_32));
}

static void boot(struct bare_vm *m)
{
	static const struct ram_region ram[] = {{{{0}, RAM_SIZE}, PAGE_SIZE_AUTO}};
	const struct arch_writer w = {write_memory, m};
	const struct arch_kernel k = {
		.image = {read_image, NULL, sizeof(image), "image"},
		.cmdline = "",
		.ram = ram,
		.ram_count = 1,
		.cpus = m->vcpus,
	};
	struct arch_kernel_entry entry;
	char why[256];

	cr_assert_eq(arch_kernel_load(&w, &k, &entry, why, sizeof(why)), 0, "%s", why);
	for (unsigned i = 0; i < m->vcpus; i++) {
		cr_assert_eq(arch_vcpu_init(&m->kvm, m->vcpu[i], i), 0);
		cr_assert_eq(arch_vcpu_reset_kernel(&m->kvm, m->vcpu[i], &entry, i), 0);
	}
}

/* What it asks of the power register. */
static uint16_t run(struct bare_vm *m)
{
	struct kvm_run *run = m->run[0];
	uint16_t value;
	int err;

	do
		err = kvm_run_vcpu(m->vcpu[0]);
	while (err == -EINTR || err == -EAGAIN);
	cr_assert_eq(err, 0);
	cr_assert_eq(run->exit_reason, KVM_EXIT_IO, "exit %u", run->exit_reason);
	cr_assert(run->io.port == arch_info.pm_control_port && run->io.size == 2);
	memcpy(&value, (uint8_t *)run + run->io.data_offset, sizeof(value));
	return value;
}

static void check_boot(void)
{
	struct bare_vm m = bare_vm_make(MAX_VCPUS, true);
	struct kvm_mp_state mp;

	boot(&m);
	for (unsigned i = 0; i < m.vcpus; i++) {
		cr_assert_eq(bare_vm_get_msr(&m, i, MTRR_DEFAULT), 0x806);
		cr_assert(bare_vm_get_msr(&m, i, MISC_ENABLE) & 1);
		cr_assert_eq(kvm_ioctl(m.vcpu[i], KVM_GET_MP_STATE, &mp), 0);
		cr_assert_eq(mp.mp_state == UNINITIALIZED, i > 0, "vCPU %u: %u", i, mp.mp_state);
	}
	cr_assert_eq(run(&m), SOFT_OFF);
	bare_vm_free(&m);
}

Test(arch_kernel, sixty_four_bit_start)
{
	make_bzimage();
	check_boot();
}

Test(arch_kernel, pvh_start)
{
	make_pvh();
	check_boot();
}
