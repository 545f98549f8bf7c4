// SPDX-License-Identifier: MIT
/*
 * guest/hello.c - the smallest guest: a greeting and what it runs on. Exits 0.
 */
#include "guest/runtime.h"

int guest_main(void)
{
	const struct abi_boot *boot = guest_boot;

	print("Hello from a cowslip guest\n");
	print("%u vCPU%s, %lu MiB RAM, arguments: \"%s\"\n", boot->cpus, boot->cpus == 1 ? "" : "s",
	      boot->ram_size >> 20, boot->args);
	return GUEST_OK;
}
