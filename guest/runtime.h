/* SPDX-License-Identifier: MIT */
/*
 * guest/runtime.h - what a guest program may use: console, arguments, heap, snapshots, vCPUs.
 *
 * A program defines guest_main(), which vCPU 0 runs, and, if its other vCPUs have work,
 * guest_cpu(). There is no C library. All code runs in user mode; an exception ends the guest with
 * a crash report.
 *
 * A console line costs no exit: text gathers in a buffer, which is written when it is full, at
 * guest_exit(), before guest_ready() and guest_fork(), before a crash report, and by print_flush().
 *
 * Concurrency: print() and print_flush() may be called by any vCPU, lines do not mix. Requests are
 * per vCPU. Everything else has no shared state.
 */
#ifndef COWSLIP_GUEST_RUNTIME_H
#define COWSLIP_GUEST_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest/abi.h"

#define GUEST_PAGE  UINT64_C(4096)
#define GUEST_BLOCK UINT64_C(0x200000)

/* Exit codes of the programs here. */
enum guest_code {
	GUEST_OK = 0,
	GUEST_USAGE = 2,    /* arguments, or too little RAM for them */
	GUEST_MISMATCH = 3, /* memory did not hold what it should */
	GUEST_LEAK = 4,     /* memory held what another VM wrote */
	GUEST_NO_FORK = 5,  /* the VMM could not fork */
};

/* One per vCPU, at the top of its stack: what is written together lies together. */
struct cpu {
	uint32_t index;
	uint32_t reserved;
	struct abi_request request;
};

/* ---- a program defines these ---- */

/* Runs on vCPU 0. Return: the guest's exit code, 0..255. */
int guest_main(void);

/*
 * Runs on every other vCPU, at once with guest_main(). Optional: without it they idle. What returns
 * spins until the guest ends.
 */
void guest_cpu(unsigned index);

/* ---- boot ---- */

/* Valid from the first instruction on. */
extern const struct abi_boot *guest_boot;

/* vCPUs that run, with stacks: abi_boot's, or the most there are stacks for. */
unsigned guest_cpus(void);

/* Index of the calling vCPU. */
unsigned guest_cpu_index(void);

/*
 * Free RAM behind the image, aligned to `align` (a power of two, >= 4096). Reads as zero.
 * Return: its start; *size is its length in whole pages, 0 when there is none.
 */
void *guest_heap(uint64_t align, uint64_t *size);

/* ---- requests to the VMM ---- */

/* Flush the console and end the guest. */
_Noreturn void guest_exit(int code);

/*
 * Flush the console and ring READY: in a clone the guest goes on from here.
 * Return: the outputs (clone, generation, entropy, args), in the vCPU's own request: valid until
 * its next guest_ready(), guest_identity(), guest_fork() or guest_next().
 */
const struct abi_request *guest_ready(void);

/*
 * Who this VM is now: another `generation` than before means that it has been forked meanwhile.
 * Return: as guest_ready(); `result` is not 0 where the VMM cannot say.
 */
const struct abi_request *guest_identity(void);

/*
 * Flush the console and fork this VM. *out as for guest_ready().
 * Return: 0 in the child, its number (> 0) in the parent, or -errno (Linux numbers).
 */
int guest_fork(const struct abi_request **out);

/*
 * Copy the VM's input from byte `offset` on, at most `size` bytes of it.
 * Return: how many were copied, fewer than `size` only at its end, or -errno (Linux numbers).
 */
int64_t guest_input(uint64_t offset, void *buf, uint64_t size);

/*
 * Hand `size` bytes (at most ABI_WRITE_MAX) to whoever runs the VM, at once: the console's
 * buffer is another matter. Return: 0, also when nobody listens, or -errno.
 */
int guest_output(const void *buf, uint64_t size);

/*
 * Give whole pages back to the host: they read as zero from now on. Waits while another vCPU's
 * request is served. Return: 0, or -errno (Linux numbers) as ABI_DISCARD, and nothing changed.
 */
int guest_discard(void *start, uint64_t size);

/*
 * Flush the console and say that this input is dealt with, `code` (0..255) how.
 * Return: whether there is another, where the VM is not reset for it; *out as for guest_ready().
 */
bool guest_next(int code, const struct abi_request **out);

/* ---- console ---- */

/*
 * Print. Understands % with flags 0 and -, a width, lengths l and ll and z, and d u x c s %.
 * Text, numbers and NULL for s ("(null)").
 */
__attribute__((format(printf, 1, 2))) void print(const char *format, ...);
void print_flush(void);

/* ---- arguments: words split by spaces; `key=value` or plain ---- */

/* The value of the first `key` ("size=") or NULL. Ends at a space or NUL. */
const char *arg_find(const char *key);

/* The n-th word that is not key=value, from 0, or NULL. */
const char *arg_word(unsigned n);

/* Whether the word at `p` is exactly `word`. false for NULL. */
bool word_is(const char *p, const char *word);

/*
 * Read a decimal number with an optional K, M or G (1024's) that ends its word.
 * Return: 0; -EINVAL (-22) for anything else, NULL or overflow.
 */
int parse_size(const char *p, uint64_t *out);

/*
 * *out = the number given for `key`, or `otherwise` when it is not given.
 * Return: false, after printing a line, when it is given and no number.
 */
bool arg_size(const char *key, uint64_t otherwise, uint64_t *out);

/*
 * Whether every word is one of `allowed`, a NULL-terminated list: "key=" for any value of it, "#"
 * for a plain number, else the word itself. Prints the first that is not.
 */
bool args_allowed(const char *const *allowed);

/* ---- small tools ---- */

/* A 64-bit mixing function: every input bit moves every output bit. One to one. */
static inline uint64_t mix64(uint64_t x)
{
	x = (x ^ (x >> 32)) * UINT64_C(0xd6e8feb86659fd93);
	x = (x ^ (x >> 32)) * UINT64_C(0xd6e8feb86659fd93);
	return x ^ (x >> 32);
}

/* A barrier for `cpus` vCPUs. Zeroed memory is a fresh one; it may be used again at once. */
struct barrier {
	uint32_t waiting;
	uint32_t phase;
};
void barrier_wait(struct barrier *b, unsigned cpus);

/* The usual four, because the compiler calls them; and two more. */
void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *a, const void *b, size_t size);
size_t strlen(const char *s);

#endif
