// SPDX-License-Identifier: MIT
/*
 * vmm/cli_image.h - what the parts of `cowslip image` share.
 */
#ifndef COWSLIP_VMM_CLI_IMAGE_H
#define COWSLIP_VMM_CLI_IMAGE_H

#include "vmm/cli.h"
#include "vmm/snapshot.h"

#define CLI_IMAGE_PATHS 256u

/* One command as given. */
struct image_command {
	const char *path[CLI_IMAGE_PATHS];
	size_t count;
	bool json, cascade, ranges;
	const char *svg;
	const char *output; /* NULL: not given */
	uint64_t level;     /* 0: not given */
};

/* Each does what `cowslip image NAME` does. Return: exit status. */
int cli_image_info(const struct image_command *c);
int cli_image_verify(const struct image_command *c);
int cli_image_ls(const struct image_command *c);
int cli_image_rm(const struct image_command *c);
int cli_image_flatten(const struct image_command *c);
int cli_image_diff(const struct image_command *c);
int cli_image_map(const struct image_command *c);
int cli_image_pack(const struct image_command *c);
int cli_image_unpack(const struct image_command *c);

/* Draw a map as SVG. Errors of writing are left on `f`. */
struct image_map;
void cli_image_svg(const char *name, const struct image_map *m, FILE *f);

/* Print err->text. Return: CLI_FAILED. */
int cli_image_failed(const struct snapshot_error *err);

/* "x86_64" for an ELF machine number. */
const char *cli_isa_name(uint32_t isa);

/* "2026-11-22 15:04:05 UTC" */
const char *cli_when(uint64_t seconds, char *buf, size_t size);

/* 32 hexadecimal digits. */
#define CLI_HASH_SIZE 33u
const char *cli_hash(const uint64_t hash[2], char buf[CLI_HASH_SIZE]);

/* A bar on stderr when that is a terminal; else nothing. Zeroed, then `progress` passed on. */
struct cli_bar {
	uint64_t drawn_ns;
	bool there;
};
struct snapshot_progress cli_bar_progress(struct cli_bar *b);
void cli_bar_clear(struct cli_bar *b);

/*
 * May an image be saved to `path`? Not over one that others beside it lie in.
 * Return: 0, also when nothing is there; -EBUSY after an error line that names both.
 */
int cli_image_may_replace(const char *path);

/* The same without printing. Return: true when not, with one line in `why`. Any thread. */
bool cli_image_why_not(const char *path, char *why, size_t size);

#endif
