// SPDX-License-Identifier: MIT
/*
 * arch/x86_64/info.c - constants of the ISA, the RAM layout, and what runs the guests here.
 *
 *     0           boot_info, page tables (boot.c); what a kernel is given (linux.c)
 *     1 MiB       programs
 *     3 GiB       end of low RAM; doorbell, KVM's own pages, local and I/O APICs
 *     4 GiB       the rest of RAM
 */
#include <cpuid.h>
#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include "arch/arch.h"
#include "arch/x86_64/x86.h"

const struct arch_info arch_info = {
	.name = "x86_64",
	.isa = EM_X86_64,
	.doorbell = {X86_DOORBELL},
	.boot_info = {X86_BOOT_INFO},
	.load_min = {X86_LOAD_MIN},
	.tables = {{X86_PAGE_TABLES}, X86_TABLES_END - X86_PAGE_TABLES},
	.max_ram = X86_MAX_RAM,
	.serial_port = X86_SERIAL_PORT,
	.serial_irq = X86_SERIAL_IRQ,
	.pm_event_port = X86_PM_EVENT,
	.pm_control_port = X86_PM_CONTROL,
	.pm_off_type = X86_PM_OFF_TYPE,
	.gpe_port = X86_GPE,
	.pm_irq = X86_SCI_IRQ,
	.generation = {X86_GENERATION},
	.reset_port = X86_RESET_PORT,
	.reset_value = X86_RESET_VALUE,
	.pmem_min = {X86_RAM_HIGH},
	.pmem_align = X86_PMEM_ALIGN,
};

/* Both ends of the hole are aligned to the largest page, so one check of `size` covers all. */
_Static_assert(X86_RAM_LOW_END % MM_HUGE_SIZE == 0 && X86_RAM_HIGH % MM_HUGE_SIZE == 0, "hole");

int arch_ram_layout(uint64_t size, enum page_size page_size, struct ram_region *out)
{
	uint64_t low = min_u64(size, X86_RAM_LOW_END);
	uint64_t align = page_size_bytes(page_size);
	int err;

	if (size > X86_MAX_RAM)
		return -EFBIG;
	if (size < X86_LOAD_MIN)
		return -EINVAL;

	out[0].page_size = page_size;
	err = gpa_range_make(0, low, align, &out[0].range);
	if (err)
		return err;
	if (size == low)
		return 1;

	out[1].page_size = page_size;
	err = gpa_range_make(X86_RAM_HIGH, size - low, align, &out[1].range);
	return err ? err : 2;
}

static bool under_hypervisor(void)
{
	unsigned eax, ebx, ecx, edx;

	return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & (1u << 31));
}

struct kvm_module {
	const char *path;
	const char *bare, *nested;                 /* kind of KVM */
	const char *bare_told_by, *nested_told_by; /* what says so */
	const char *two_stages;                    /* its parameter: is there a second stage? */
	bool interprets;                           /* code at CPL 0, all of it */
};

/* The software one first: its host may have the others' modules loaded as well. */
static const struct kvm_module kvm_modules[] = {
	{"/sys/module/kvm_pvm", "pvm", "pvm", "module kvm_pvm", "module kvm_pvm", NULL, true},
	{"/sys/module/kvm_intel", "vmx", "nested-vmx", "module kvm_intel",
         "module kvm_intel under a hypervisor", "/sys/module/kvm_intel/parameters/ept", false},
	{"/sys/module/kvm_amd", "svm", "nested-svm", "module kvm_amd",
         "module kvm_amd under a hypervisor", "/sys/module/kvm_amd/parameters/npt", false},
};

static const struct kvm_module *loaded_module(void)
{
	for (size_t i = 0; i < sizeof(kvm_modules) / sizeof(kvm_modules[0]); i++)
		if (access(kvm_modules[i].path, F_OK) == 0)
			return &kvm_modules[i];
	return NULL;
}

/* Where nothing says that there is a second stage, there may be none. */
bool arch_shadow_paging(void)
{
	const struct kvm_module *m = loaded_module();
	char set = 'N';
	int fd = m && m->two_stages ? open(m->two_stages, O_RDONLY | O_CLOEXEC) : -1;

	if (fd < 0)
		return true;
	if (read(fd, &set, 1) != 1)
		set = 'N';
	close(fd);
	return set != 'Y' && set != '1';
}

bool arch_interprets_privileged(void)
{
	const struct kvm_module *m = loaded_module();

	return m && m->interprets;
}

const char *arch_kvm_kind(void)
{
	const struct kvm_module *m = loaded_module();

	if (!m)
		return "unknown";
	return under_hypervisor() ? m->nested : m->bare;
}

const char *arch_kvm_told_by(void)
{
	const struct kvm_module *m = loaded_module();

	if (!m)
		return "no module of it is known";
	return under_hypervisor() ? m->nested_told_by : m->bare_told_by;
}
