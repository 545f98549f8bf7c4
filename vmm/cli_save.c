// SPDX-License-Identifier: MIT
/*
 * vmm/cli_save.c - saving a VM to a file, and what becomes of the file when a signal comes.
 *
 * Invariant: a temporary names a file from before `there` is set until after it is cleared, and the
 * handlers are in place all that time.
 *
 * Concurrency: a handler may run on any thread; it touches nothing but what is said here.
 */
#include "vmm/cli_save.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

#include "arch/arch.h"

#define MIB (UINT64_C(1) << 20)

static const int ending_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
#define ENDING_SIGNALS (sizeof(ending_signals) / sizeof(ending_signals[0]))

/* An unpacked image has as many as an image may lie in files, each with a directory of its own. */
#define TEMPORARIES 260u

/* A signal handler has nowhere else to find what to remove and how to go on. */
static struct {
	atomic_bool there;
	int dir;
	char name[256];
} temporary[TEMPORARIES];
static struct sigaction before[ENDING_SIGNALS];

static void remove_and_go_on(int signal)
{
	for (size_t i = 0; i < TEMPORARIES; i++)
		if (atomic_load(&temporary[i].there))
			unlinkat(temporary[i].dir, temporary[i].name, 0);
	for (size_t i = 0; i < ENDING_SIGNALS; i++)
		if (ending_signals[i] == signal)
			sigaction(signal, &before[i], NULL);
	raise(signal);
}

static void install(void)
{
	const struct sigaction ours = {.sa_handler = remove_and_go_on, .sa_flags = SA_NODEFER};

	for (size_t i = 0; i < ENDING_SIGNALS; i++) {
		sigaction(ending_signals[i], NULL, &before[i]);
		if (before[i].sa_handler != SIG_IGN)
			sigaction(ending_signals[i], &ours, NULL);
	}
}

static void uninstall(void)
{
	for (size_t i = 0; i < ENDING_SIGNALS; i++)
		if (before[i].sa_handler != SIG_IGN)
			sigaction(ending_signals[i], &before[i], NULL);
}

/* Where a new one goes, or where that of `dir` is: each file has a descriptor of its own for it. */
static bool is_place(size_t i, int dir, bool is_new)
{
	bool there = atomic_load(&temporary[i].there);

	return is_new ? !there : there && temporary[i].dir == dir;
}

static void note_temporary(void *ctx, int dir, const char *name)
{
	size_t i = 0;

	(void)ctx;
	while (i < TEMPORARIES && !is_place(i, dir, name != NULL))
		i++;
	if (i == TEMPORARIES)
		return;
	if (!name) {
		atomic_store(&temporary[i].there, false);
		return;
	}
	temporary[i].dir = dir;
	snprintf(temporary[i].name, sizeof(temporary[i].name), "%s", name);
	atomic_store(&temporary[i].there, true);
}

struct atomic_file_hook cli_guard_begin(void)
{
	install();
	return (struct atomic_file_hook){.temporary = note_temporary};
}

void cli_guard_end(void)
{
	uninstall();
}

int cli_write_image(const struct snapshot_request *r, struct snapshot_error *err)
{
	struct snapshot_request ours = *r;
	int e;

	ours.hook = cli_guard_begin();
	e = snapshot_write(&ours, err);
	cli_guard_end();
	return e;
}

int cli_save(struct vm *vm, const char *path, const struct snapshot_base *base,
             struct snapshot_error *err)
{
	struct snapshot_request r = {
		.isa = arch_info.isa,
		.cpus = vm_cpus(vm),
		.path = path,
		.base = base,
	};
	struct image *image;
	struct vm_error why;
	int e = vm_snapshot(vm, &image, &why);

	if (e) {
		snprintf(err->text, sizeof(err->text),
		         "%s: the guest cannot be snapshotted: %.380s", path, why.text);
		return e;
	}
	r.image = image;
	e = cli_write_image(&r, err);
	image_put(image);
	return e;
}

void cli_say_saved(const char *path, uint64_t ns)
{
	struct snapshot_info info;
	struct snapshot_error err;

	if (snapshot_stat(path, &info, &err))
		return;
	fprintf(stderr, "saved %s: %" PRIu64 " MiB RAM, %.1f MiB in the file", path,
	        info.ram_bytes / MIB, (double)info.data_bytes / (double)MIB);
	if (info.layer_bytes)
		fprintf(stderr, " over %s", info.parent[0] ? info.parent : "others");
	fprintf(stderr, ", %" PRIu64 " ms\n", (ns + 500000) / 1000000);
}
