// SPDX-License-Identifier: MIT
/*
 * bench/driver.h - what all bench commands do alike: parse, check, warm up, repeat, report.
 *
 * A command is a constant table of callbacks on a state of its own, which begins with a struct
 * bench_run. The driver calls them in this order, and ends with `fini` whatever happened:
 *
 *     defaults   the options' values as nobody has given them; bench_run's are filled in
 *     option     as in struct cli_command
 *     prepare    check what can be known without KVM; says what is wrong itself. Sets run->what,
 *                and run->steps where a round has several
 *     memory     how much of the host's memory the run takes at most, in bytes: checked, then
 *                touched and given back
 *     check      with KVM open; says what is wrong itself. May be NULL
 *     parameters, baseline    of the document (bench/report.h). baseline may be NULL
 *     set_up     once, before the rounds: no figure has it. May be NULL
 *     round      0 warms up and does not count, the others are the repeats
 *     finish     rows and summary. Return: 0; -ENOMEM
 *     fini       free what the state holds; a zeroed state is fine. May be NULL
 *
 * Where a callback has a `err`, the driver prints it.
 *
 * Concurrency: one thread.
 */
#ifndef COWSLIP_BENCH_DRIVER_H
#define COWSLIP_BENCH_DRIVER_H

#include "bench/host.h"
#include "bench/options.h"
#include "bench/progress.h"
#include "bench/report.h"
#include "mm/image.h"
#include "vmm/cowslip.h"

struct bench_run {
	uint64_t repeat;
	const char *dir; /* --dir */
	struct bench_output output;
	struct kvm kvm;
	struct host host;
	char program[4096]; /* the guest's */
	char what[64];      /* the option that says how much memory is used, for messages */
	json_t *doc;
	struct progress progress;
	unsigned steps, done; /* of progress: in a round, so far */
};

struct bench_command {
	struct cli_command cli; /* `argument` is the driver's */
	const char *name;
	const char *guest; /* "memwalk.elf" */
	size_t size;       /* of the state */

	void (*defaults)(void *state);
	int (*prepare)(void *state);
	uint64_t (*memory)(const void *state);
	int (*check)(void *state);
	json_t *(*parameters)(const void *state);
	const char *(*baseline)(const void *state);
	int (*set_up)(void *state, struct vm_error *err);
	int (*round)(void *state, unsigned round, struct vm_error *err);
	int (*finish)(void *state);
	void (*fini)(void *state);
};

extern const struct bench_command bench_faults, bench_clone, bench_reset, bench_fork,
	bench_snapshot;

/* argv[0] does not matter. Return: exit status. */
int bench_main(const struct bench_command *c, int argc, char **argv);

/* Tell who watches what is next in a round. */
void bench_step(struct bench_run *run, const char *what);

/*
 * --size: whole pages, and no more than the host has. Fills run->what. Return: 0, or -errno after
 * an error line.
 */
int bench_check_size(struct bench_run *run, uint64_t size);

/* Refuse a run that takes more than this host can give. Return: 0; -ENOMEM after an error line. */
int bench_check_memory(const struct bench_run *run, uint64_t needed);

/* A file for this run in --dir: its name ends in `suffix`. */
void bench_path(const struct bench_run *run, const char *suffix, char *path, size_t size);

/*
 * An image as `cowslip clone` has it: saved in --dir, opened, the name gone. A reference in *out.
 * Return: 0; as snapshot_save() and snapshot_open().
 */
int bench_through_file(const struct bench_run *run, const struct image *image, struct image **out,
                       struct vm_error *err);

#endif
