// SPDX-License-Identifier: MIT
/*
 * tests/kvm/lab.h - real VMs for tests: KVM and a pool to make them from, consoles that remember,
 * and a look at what the process holds.
 *
 * Everything here fails the running test when it cannot do its work. Criterion runs each test in
 * a process of its own.
 */
#ifndef COWSLIP_TESTS_KVM_LAB_H
#define COWSLIP_TESTS_KVM_LAB_H

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/vm.h"

#define MIB    (UINT64_C(1) << 20)
#define SECOND UINT64_C(1000000000)

/* Skip the running test, with the reason, where userfaultfd cannot be had. */
void require_path(enum fault_choice faults);

/* One test for each fault path: the body that follows is a function of `faults`. */
#define TEST_BOTH_PATHS(suite, name)                                                               \
	static void suite##_##name(enum fault_choice faults);                                      \
	Test(suite, name##_kernel)                                                                 \
	{                                                                                          \
		suite##_##name(FAULTS_KERNEL);                                                     \
	}                                                                                          \
	Test(suite, name##_uffd)                                                                   \
	{                                                                                          \
		require_path(FAULTS_UFFD);                                                         \
		suite##_##name(FAULTS_UFFD);                                                       \
	}                                                                                          \
	static void suite##_##name(enum fault_choice faults)

/* ---- a console that remembers ---- */

#define TAPE_MAX 65536u

struct tape {
	char text[TAPE_MAX]; /* the first bytes, NUL-terminated */
	size_t size;
	uint64_t total; /* bytes written, kept or not */
};

/* A console_write_fn; ctx is a struct tape. */
void tape_write(void *ctx, const void *data, size_t size);

/* The hexadecimal number behind `word` and a blank on the tape. */
uint64_t tape_hex(const struct tape *t, const char *word);

/* ---- VMs ---- */

struct lab {
	struct kvm kvm;
	struct pool *pool;
};

void lab_open(struct lab *l, uint64_t pool_bytes);
/* All VMs and images are gone: so is every frame. */
void lab_close(struct lab *l);

/* Path of a guest program; valid until the next call. */
const char *lab_guest(const char *name);

/* A fresh machine of `ram` bytes. `t` may be NULL. */
struct vm_config lab_config(const struct lab *l, uint64_t ram, unsigned cpus,
                            enum fault_choice faults, struct tape *t);
struct vm *lab_make(const struct vm_config *c);
struct vm *lab_boot(const struct vm_config *c, const char *guest, const char *args);
struct vm *lab_clone(const struct lab *l, struct image *image, uint64_t number,
                     enum fault_choice faults, struct tape *t);

/* vm_run() with a deadline far away: TIMEOUT is a failure. */
struct vm_report lab_run(struct vm *vm);
/* The same for at most `ns`, whatever comes of it. */
struct vm_report lab_run_for(struct vm *vm, uint64_t ns);
/* It must end with `event`; for VM_EXITED with `code`. */
void lab_expect(struct vm *vm, enum vm_event event, int code);

/*
 * Can this kernel interrupt a vCPU that waits for a frame, so that a VM out of frames pauses and
 * goes on? From Linux 6.2 on. Before that it is reported once and given up.
 */
bool lab_frames_can_wait(void);
/* After VM_NOMEM, where frames cannot wait: nothing of the VM can be had, and it says so. */
void lab_expect_given_up(struct vm *vm);

struct image *lab_snapshot(struct vm *vm);
/* Audits of the VM's space and of the pool. */
void lab_audit(const struct lab *l, struct vm *vm);

/* From now on every ioctl `nr` of the calling thread fails with errno `error`. */
void lab_refuse_ioctl(unsigned long nr, int error);

/* ---- what the process holds ---- */

struct footprint {
	unsigned fds, threads, maps;
};

struct footprint footprint_now(void);
/*
 * As many descriptors and threads as before, and no more mappings but for the `slack` that an
 * allocator may take.
 */
void footprint_expect(struct footprint before, unsigned slack);

/* xorshift: the same sequence from the same seed (not 0). */
uint64_t lab_random(uint64_t *state);
/* COWSLIP_SEED, or one from the clock; printed, so that a failure can be repeated. */
uint64_t lab_seed(void);

#endif
