// SPDX-License-Identifier: MIT
/*
 * tests/kvm/command.h - runs the program under test as its users do, and keeps what it says.
 *
 * Environment: COWSLIP (the program; build/cowslip), COWSLIP_GUESTS (directory of guests;
 * build/guest). Each test has a scratch directory of its own, which goes with it.
 *
 * What cannot be done (no program, no fork) fails the test.
 */
#ifndef COWSLIP_TESTS_KVM_COMMAND_H
#define COWSLIP_TESTS_KVM_COMMAND_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MAX_ARGS 24

/* A NULL-terminated list of arguments, without the program's name. */
#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* What it said and how it ended. Texts are NUL-terminated beyond their size. */
struct said {
	int status; /* exit status; 1000 + signal when a signal ended it */
	char *out, *err;
	size_t out_size, err_size;
	double seconds;
};

/* How it is started. Zeroed: as the test is. */
struct circumstances {
	uid_t uid;            /* run as, 0: unchanged */
	const char *out_path; /* stdout goes there instead */
	bool out_closed;      /* stdout is a closed descriptor */
	bool out_broken;      /* stdout is a pipe without a reader */
	int out_fd;           /* stdout is this descriptor, 0: one of its own */
	unsigned files;       /* descriptors it may have, 0: as many as the test */
};

struct running {
	pid_t pid;
	int out, err;
	double started;
};

void scratch_make(void);
void scratch_remove(void);

/* Path of `name` in the scratch directory, or of a guest. Valid until the test's end. */
const char *scratch(const char *name);
const char *guest(const char *name);

/* Entries of the scratch directory, hidden ones included. */
unsigned scratch_entries(void);

struct running start(const char *const *args, const struct circumstances *how);
struct said finish(struct running *r);

/* start() and finish(). */
struct said run(const char *const *args);
struct said run_in(const char *const *args, const struct circumstances *how);

void said_free(struct said *s);

/* It ends with 125 and one line that holds `words`; stdout is empty, nothing is left behind. */
void refused(const char *const *args, const char *words);
void refused_in(const char *const *args, const char *words, const struct circumstances *how);

/* Lines of a text; those that start with `lead`. */
unsigned lines(const char *text);
unsigned lines_with(const char *text, const char *lead);

/* The last line of a text as JSON. The test fails when it is not. */
json_t *last_json(const char *text);

/* A number in a JSON object by path, "time_us.total". The test fails when it is not there. */
json_int_t json_at(json_t *root, const char *path);

/* Child processes of `pid`. Return: how many were found, at most `room` of them in `out`. */
size_t children_of(pid_t pid, pid_t *out, size_t room);

/* Copy a file, at most `size` bytes of it, and lay `patch_size` bytes over it at `at`. */
void copy_patched(const char *from, const char *to, size_t size, size_t at, const void *patch,
                  size_t patch_size);

/* A mount namespace of the test's own. Skips the test without the right to. */
void own_mounts(void);

#endif
