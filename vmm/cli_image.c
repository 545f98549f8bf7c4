// SPDX-License-Identifier: MIT
/*
 * vmm/cli_image.c - `cowslip image`: look at saved guests, check that they are whole.
 *
 * JSON of `image info`: path, version, isa, cpus, build, created (seconds since 1970), id,
 * generation (hexadecimal strings), ram_bytes, data_bytes, file_bytes, disk_bytes, state_bytes,
 * extents, ram (list of start, bytes). Of `image verify`: path, ok, and error where it is not.
 *
 * Needs no KVM, and reads images of any ISA.
 */
#include <elf.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "arch/arch.h"
#include "vmm/cli.h"
#include "vmm/snapshot.h"

#define MIB (1024.0 * 1024.0)

struct image_command {
	const char *path;
	bool json;
};

enum key {
	KEY_JSON = CLI_KEY_OWN,
};

static const struct argp_option options[] = {
	{"json", KEY_JSON, NULL, 0, "Print JSON", 1},
	CLI_COMMON_OPTIONS,
};

static int take_option(void *to, int key, const char *arg)
{
	struct image_command *c = to;

	(void)key;
	(void)arg;
	c->json = true;
	return 0;
}

static int take_argument(void *to, unsigned index, bool after, const char *arg)
{
	struct image_command *c = to;

	(void)after;
	if (index > 0) {
		cli_error("%s: one image at a time", arg);
		return -1;
	}
	return cli_name("image", arg, &c->path);
}

static const char *isa_name(uint32_t isa)
{
	static const struct {
		uint32_t isa;
		const char *name;
	} names[] = {{EM_X86_64, "x86_64"}, {EM_AARCH64, "aarch64"}, {EM_RISCV, "riscv"}};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].isa == isa)
			return names[i].name;
	return "unknown";
}

/* ---- info ---- */

static json_t *ram_json(const struct snapshot_info *i)
{
	json_t *list = json_array();

	for (uint32_t n = 0; n < i->ram_count; n++) {
		const struct gpa_range *r = &i->ram[n].range;

		/* A list without memory for an entry shows in json_pack() below: it is NULL. */
		if (json_array_append_new(list,
		                          json_pack("{s:I, s:I}", "start", (json_int_t)r->start.v,
		                                    "bytes", (json_int_t)r->size))) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static json_t *info_json(const struct image_command *c, const struct snapshot_info *i)
{
	char id[33], generation[17];

	snprintf(id, sizeof(id), "%016" PRIx64 "%016" PRIx64, i->id[0], i->id[1]);
	snprintf(generation, sizeof(generation), "%016" PRIx64, i->generation);
	return json_pack(
		"{s:s, s:i, s:s, s:i, s:s, s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:o}",
		"path", c->path, "version", (int)i->version, "isa", isa_name(i->isa), "cpus",
		(int)i->cpus, "build", i->build, "created", (json_int_t)i->created, "id", id,
		"generation", generation, "ram_bytes", (json_int_t)i->ram_bytes, "data_bytes",
		(json_int_t)i->data_bytes, "file_bytes", (json_int_t)i->file_bytes, "disk_bytes",
		(json_int_t)i->disk_bytes, "state_bytes", (json_int_t)i->state_bytes, "extents",
		(json_int_t)i->extents, "ram", ram_json(i));
}

static int info_text(const struct image_command *c, const struct snapshot_info *i)
{
	time_t created = (time_t)i->created;
	char when[64] = "at an unknown time";
	struct tm tm;

	if (gmtime_r(&created, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", &tm);
	printf("image     %s, format %" PRIu32 "\n", c->path, i->version);
	printf("id        %016" PRIx64 "%016" PRIx64 "\n", i->id[0], i->id[1]);
	printf("created   %s by %s\n", when, i->build);
	printf("machine   %s, %" PRIu32 " vCPU%s, %" PRIu64 " bytes of state\n", isa_name(i->isa),
	       i->cpus, i->cpus == 1 ? "" : "s", i->state_bytes);
	printf("RAM       %.1f MiB, of it %.1f MiB not zero, in %" PRIu64 " extents\n",
	       (double)i->ram_bytes / MIB, (double)i->data_bytes / MIB, i->extents);
	for (uint32_t n = 0; n < i->ram_count; n++)
		printf("          %#" PRIx64 " .. %#" PRIx64 "\n", i->ram[n].range.start.v,
		       gpa_range_end(i->ram[n].range));
	printf("file      %.1f MiB long, %.1f MiB on disk\n", (double)i->file_bytes / MIB,
	       (double)i->disk_bytes / MIB);
	return cli_flush_stdout();
}

static int info(const struct image_command *c)
{
	struct snapshot_info i;
	struct snapshot_error err;

	if (snapshot_stat(c->path, &i, &err)) {
		cli_error("%s", err.text);
		return CLI_FAILED;
	}
	return c->json ? cli_put_json(info_json(c, &i)) : info_text(c, &i);
}

/* ---- verify ---- */

static int verify(const struct image_command *c)
{
	struct snapshot_info i;
	struct snapshot_error err = {.text = ""};
	int e = snapshot_stat(c->path, &i, &err);

	if (!e)
		e = snapshot_verify(c->path, i.isa, &err);
	if (e)
		cli_error("%s", err.text);
	if (c->json && cli_put_json(json_pack("{s:s, s:b, s:s?}", "path", c->path, "ok", e == 0,
	                                      "error", e ? err.text : NULL)))
		return CLI_FAILED;
	if (e)
		return CLI_FAILED;
	if (!c->json)
		printf("%s: whole: %.1f MiB of guest memory and %" PRIu64 " bytes of state match "
		       "their checksums\n",
		       c->path, (double)i.data_bytes / MIB, i.state_bytes);
	return cli_flush_stdout();
}

/* ---- the command ---- */

static const struct {
	const char *name;
	const char *full;
	int (*run)(const struct image_command *c);
	struct cli_command command;
} actions[] = {
	{"info",
         "cowslip image info",
         info,
         {options, "IMAGE", "Say what is in a saved guest.", take_option, take_argument}},
	{"verify",
         "cowslip image verify",
         verify,
         {options, "IMAGE", "Read a saved guest whole and compare every checksum.", take_option,
          take_argument}},
};
#define ACTIONS (sizeof(actions) / sizeof(actions[0]))

static int run_action(size_t n, int argc, char **argv)
{
	struct image_command c = {.path = NULL};
	enum cli_parsed p;

	argv[0] = (char *)(uintptr_t)actions[n].full;
	p = cli_parse(&actions[n].command, argc, argv, &c);
	if (p != CLI_GO)
		return cli_parsed_status(p);
	if (c.path)
		return actions[n].run(&c);
	cli_error("no image given; `%s IMAGE`", actions[n].full);
	return CLI_FAILED;
}

static const struct argp_option no_options[] = {CLI_COMMON_OPTIONS};

static int unknown_action(void *to, unsigned index, bool after, const char *arg)
{
	(void)to;
	(void)index;
	(void)after;
	cli_error("image %s: unknown; there are image info and image verify", arg);
	return -1;
}

static const struct cli_command top = {
	.options = no_options,
	.args_doc = "info|verify IMAGE",
	.doc = "Look at saved guests.\v  info IMAGE     what is in it\n"
	       "  verify IMAGE   read it whole and compare every checksum",
	.option = take_option,
	.argument = unknown_action,
};

int cli_image(int argc, char **argv)
{
	enum cli_parsed p;

	for (size_t n = 0; argc > 1 && n < ACTIONS; n++)
		if (strcmp(argv[1], actions[n].name) == 0)
			return run_action(n, argc - 1, argv + 1);
	p = cli_parse(&top, argc, argv, NULL);
	if (p != CLI_GO)
		return cli_parsed_status(p);
	cli_error("no action given; there are image info and image verify");
	return CLI_FAILED;
}
