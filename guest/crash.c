// SPDX-License-Identifier: MIT
/*
 * guest/crash.c - ends in the way its argument names, to test what the VMM makes of it.
 *
 *     triple   an exception that cannot be delivered
 *     port     an I/O port access from user mode
 *     jump     to an address where nothing is mapped
 *     write    to such an address
 *     stack    a stack pointer that points nowhere, and a push
 *     halt     a privileged instruction
 *     illegal  an undefined instruction
 *     hang     for ever, in user mode
 *     mmio     reads beside the doorbell, where there is no RAM and may be no mapping
 *     exit N   no crash: the exit code N
 *
 * A program that lives on says so and exits 1.
 */
#include "guest/isa.h"

/* Far above any RAM; canonical, so that it is a matter of mappings alone. */
#define NOWHERE UINT64_C(0x123456789000)

static void crash_triple(void)
{
	print_flush(); /* nobody else will */
	isa_fault(ISA_FAULT_SILENT);
}

static void crash_port(void)
{
	isa_fault(ISA_FAULT_PORT);
}

static void crash_halt(void)
{
	isa_fault(ISA_FAULT_PRIVILEGED);
}

static void crash_illegal(void)
{
	isa_fault(ISA_FAULT_ILLEGAL);
}

static void crash_jump(void)
{
	((void (*)(void))NOWHERE)();
}

static void crash_write(void)
{
	*(volatile uint64_t *)NOWHERE = 1;
}

/* The stack pointer itself goes bad: the report must come by another stack. */
static void crash_stack(void)
{
	isa_fault(ISA_FAULT_STACK);
}

static void crash_mmio(void)
{
	uint64_t beside = guest_boot->doorbell + GUEST_BLOCK / 2;

	print("read %x\n", *(volatile uint32_t *)beside);
}

static void crash_hang(void)
{
	print("hanging\n");
	print_flush();
	for (;;)
		isa_relax();
}

static const struct {
	const char *name;
	void (*run)(void);
} crashes[] = {
	{"triple", crash_triple},   {"port", crash_port},   {"jump", crash_jump},
	{"write", crash_write},     {"hang", crash_hang},   {"halt", crash_halt},
	{"illegal", crash_illegal}, {"stack", crash_stack}, {"mmio", crash_mmio},
};

static int usage(void)
{
	print("crash: wants exit N, or one of:");
	for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
		print(" %s", crashes[i].name);
	print("\n");
	return GUEST_USAGE;
}

int guest_main(void)
{
	const char *word = arg_word(0);
	uint64_t code;

	if (word_is(word, "exit"))
		return parse_size(arg_word(1), &code) == 0 && code < 256 ? (int)code : usage();
	for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++) {
		if (!word_is(word, crashes[i].name))
			continue;
		print("crash: %s\n", crashes[i].name);
		crashes[i].run();
		print("crash: still here\n");
		return 1;
	}
	return usage();
}
