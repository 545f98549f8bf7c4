// SPDX-License-Identifier: MIT
/*
 * tests/kvm_probe.c - can this process make a VM with a vCPU here, and on which KVM?
 *
 * Prints one line: what KVM it is (exit status 0), or why it is not usable (exit status 1).
 * The test runner decides by it whether the KVM suite runs or is named as skipped.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "arch/arch.h"
#include "vmm/kvm.h"

static int refuse(const char *what, int err)
{
	printf("%s: %s\n", what, strerror(-err));
	return 1;
}

static int probe(const struct kvm *k)
{
	struct utsname host = {0};
	int vm, vcpu;

	vm = kvm_create_vm(k);
	if (vm < 0)
		return refuse("cannot create a VM", vm);
	vcpu = kvm_create_vcpu(vm, 0);
	close(vm);
	if (vcpu < 0)
		return refuse("cannot create a vCPU", vcpu);
	close(vcpu);
	uname(&host);
	printf("%s on %s, Linux %s\n", arch_kvm_kind(), arch_info.name, host.release);
	return 0;
}

int main(void)
{
	struct kvm k;
	int err, status;

	err = kvm_open(&k, NULL);
	if (err)
		return refuse("/dev/kvm", err);
	status = probe(&k);
	kvm_close(&k);
	return status;
}
