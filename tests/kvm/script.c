// SPDX-License-Identifier: MIT
/*
 * tests/kvm/script.c - the scripted guest: a loop of a few instructions, in a file like any other.
 */
#include "tests/kvm/script.h"

#include <criterion/criterion.h>
#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arch/arch.h"

#define LOAD_AT UINT64_C(0x200000)

/* rdi: struct abi_boot, rsi: index of the vCPU. rbx: doorbell, rbp: next step. */
__asm__("	.pushsection .rodata\n"
        "	.globl script_guest, script_guest_end\n"
        "script_guest:\n"
        "	mov 16(%rdi), %rbx\n"
        "	mov %rsi, %rbp\n"
        "	shl $12, %rbp\n"
        "	add $0x400000, %rbp\n"
        "1:	mov (%rbp), %rax\n"
        "	mov 8(%rbp), %rsi\n"
        "	mov 16(%rbp), %rcx\n"
        "	add $24, %rbp\n"
        "	cmp $1, %rax\n"
        "	je 11f\n"
        "	cmp $2, %rax\n"
        "	je 12f\n"
        "	cmp $3, %rax\n"
        "	je 13f\n"
        "	cmp $4, %rax\n"
        "	je 14f\n"
        "	cmp $5, %rax\n"
        "	je 15f\n"
        "	cmp $6, %rax\n"
        "	je 16f\n"
        "	cmp $7, %rax\n"
        "	je 17f\n"
        "	cmp $8, %rax\n"
        "	je 18f\n"
        "	cmp $9, %rax\n"
        "	je 19f\n"
        "	hlt\n"
        "	movq $1, 0x3ff000\n"
        "2:	jmp 2b\n"
        "11:	mov %rsi, (%rbx)\n"
        "	jmp 1b\n"
        "12:	mov %esi, (%rbx)\n"
        "	jmp 1b\n"
        "13:	cmpq $0, (%rsi)\n"
        "	je 13b\n"
        "	jmp 1b\n"
        "14:	mov $0x3f8, %edx\n"
        "	rep outsb\n"
        "	jmp 1b\n"
        "15:	mov %rcx, (%rsi)\n"
        "	jmp 1b\n"
        "16:	mov %rsi, (%rsi)\n"
        "	add $4096, %rsi\n"
        "	dec %rcx\n"
        "	jnz 16b\n"
        "	jmp 1b\n"
        "17:	incq (%rsi)\n"
        "	jmp 1b\n"
        "18:	mov %rsi, %rbp\n"
        "	jmp 1b\n"
        "19:	mov (%rsi), %rax\n"
        "	add $4096, %rsi\n"
        "	dec %rcx\n"
        "	jnz 19b\n"
        "	jmp 1b\n"
        "script_guest_end:\n"
        "	.popsection\n");
extern const uint8_t script_guest[], script_guest_end[];

static void write_all(int fd, const void *data, size_t size)
{
	cr_assert_eq(write(fd, data, size), (ssize_t)size);
}

static void write_elf(int fd)
{
	const size_t size = (size_t)(script_guest_end - script_guest);
	const Elf64_Ehdr head = {
		.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
	                    EV_CURRENT},
		.e_type = ET_EXEC,
		.e_machine = (Elf64_Half)arch_info.isa,
		.e_version = EV_CURRENT,
		.e_entry = LOAD_AT,
		.e_phoff = sizeof(Elf64_Ehdr),
		.e_ehsize = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 1,
	};
	const Elf64_Phdr segment = {
		.p_type = PT_LOAD,
		.p_flags = PF_R | PF_X,
		.p_offset = 0x1000,
		.p_vaddr = LOAD_AT,
		.p_paddr = LOAD_AT,
		.p_filesz = size,
		.p_memsz = size,
		.p_align = 0x1000,
	};

	write_all(fd, &head, sizeof(head));
	write_all(fd, &segment, sizeof(segment));
	cr_assert_eq(lseek(fd, 0x1000, SEEK_SET), 0x1000);
	write_all(fd, script_guest, size);
}

void script_boot(struct vm *vm)
{
	char path[] = "/tmp/cowslip-script-XXXXXX";
	int fd = mkstemp(path);
	struct vm_error err;
	int r;

	cr_assert_geq(fd, 0);
	write_elf(fd);
	r = vm_boot_elf(vm, path, NULL, &err);
	close(fd);
	unlink(path);
	cr_assert_eq(r, 0, "%s", err.text);
}

void script_list(struct vm *vm, unsigned cpu, const struct step *steps, size_t count)
{
	const struct step halt = {STEP_HALT, 0, 0};
	gpa_t at = {SCRIPT_LIST(cpu)};

	cr_assert_leq((count + 1) * sizeof(*steps), 0x1000);
	cr_assert_eq(space_write(vm_space(vm), at, steps, count * sizeof(*steps)), 0);
	at.v += count * sizeof(*steps);
	cr_assert_eq(space_write(vm_space(vm), at, &halt, sizeof(halt)), 0);
}

void script_request(struct vm *vm, uint64_t at, uint32_t op, uint64_t value, uint64_t buf,
                    uint64_t size)
{
	const struct abi_request r = {
		.op = op, .result = -1, .value = value, .buf = buf, .size = size};

	/* The inputs only: the rest may lie where no RAM is. */
	cr_assert_eq(
		space_write(vm_space(vm), (gpa_t){at}, &r, offsetof(struct abi_request, clone)), 0);
}

void script_answer(struct vm *vm, uint64_t at, struct abi_request *out)
{
	cr_assert_eq(space_read(vm_space(vm), (gpa_t){at}, out, sizeof(*out)), 0);
}

int32_t script_result(struct vm *vm, uint64_t at)
{
	struct abi_request r;

	cr_assert_eq(space_read(vm_space(vm), (gpa_t){at}, &r, offsetof(struct abi_request, clone)),
	             0);
	return r.result;
}

uint64_t script_word(struct vm *vm, uint64_t at)
{
	uint64_t value;

	cr_assert_eq(space_read(vm_space(vm), (gpa_t){at}, &value, sizeof(value)), 0);
	return value;
}

void script_set_word(struct vm *vm, uint64_t at, uint64_t value)
{
	cr_assert_eq(space_write(vm_space(vm), (gpa_t){at}, &value, sizeof(value)), 0);
}
