// SPDX-License-Identifier: MIT
/*
 * vmm/cli_image.c - `cowslip image`: finds the action, parses its options, runs it.
 *
 * Nothing here needs KVM, and images of any ISA will do.
 */
#include "vmm/cli_image.h"

#include <errno.h>
#include <string.h>

#include "vmm/pack.h"

enum key {
	KEY_JSON = CLI_KEY_OWN,
	KEY_CASCADE,
	KEY_RANGES,
	KEY_SVG,
	KEY_LEVEL,
};

/* clang-format off */
#define JSON_OPTION {"json", KEY_JSON, NULL, 0, "Print JSON", 1}
/* clang-format on */

static const struct argp_option no_options[] = {CLI_COMMON_OPTIONS};
static const struct argp_option json_options[] = {JSON_OPTION, CLI_COMMON_OPTIONS};
static const struct argp_option rm_options[] = {
	{"cascade", KEY_CASCADE, NULL, 0, "Remove the images that lie in it too", 1},
	CLI_COMMON_OPTIONS,
};
static const struct argp_option diff_options[] = {
	{"ranges", KEY_RANGES, NULL, 0, "List the guest addresses that differ", 1},
	JSON_OPTION,
	CLI_COMMON_OPTIONS,
};
static const struct argp_option map_options[] = {
	{"svg", KEY_SVG, "FILE", 0, "Draw it into FILE; - is stdout", 1},
	JSON_OPTION,
	CLI_COMMON_OPTIONS,
};

static const struct argp_option pack_options[] = {
	{"output", 'o', "FILE", 0, "Write to FILE; - is stdout", 1},
	{"level", KEY_LEVEL, "N", 0, "From 1, quick, to 19, small (3)", 1},
	CLI_COMMON_OPTIONS,
};
static const struct argp_option unpack_options[] = {
	{"output", 'o', "IMAGE", 0, "Where the image goes; what it lies in goes beside it", 1},
	CLI_COMMON_OPTIONS,
};

static int take_option(void *to, int key, const char *arg)
{
	struct image_command *c = to;

	if (key == 'o')
		return cli_name("--output", arg, &c->output);
	switch ((enum key)key) {
	case KEY_JSON:
		c->json = true;
		return 0;
	case KEY_CASCADE:
		c->cascade = true;
		return 0;
	case KEY_RANGES:
		c->ranges = true;
		return 0;
	case KEY_SVG:
		return cli_name("--svg", arg, &c->svg);
	case KEY_LEVEL:
		return cli_count("--level", arg, PACK_LEVEL_LEAST, PACK_LEVEL_MOST, &c->level);
	}
	return -EINVAL;
}

static int take_argument(void *to, unsigned index, bool after, const char *arg)
{
	struct image_command *c = to;

	(void)after;
	if (index == CLI_IMAGE_PATHS) {
		cli_error("%s: more than %u images; name fewer at once", arg, CLI_IMAGE_PATHS);
		return -E2BIG;
	}
	c->count = index + 1;
	return cli_name("image", arg, &c->path[index]);
}

static const struct {
	const char *name;
	const char *full;
	int (*run)(const struct image_command *c);
	size_t least, most; /* arguments */
	struct cli_command command;
} actions[] = {
	{"info",
         "cowslip image info",
         cli_image_info,
         1,
         1,
         {json_options, "IMAGE", "Say what is in a saved guest.", take_option, take_argument}},
	{"verify",
         "cowslip image verify",
         cli_image_verify,
         1,
         1,
         {json_options, "IMAGE",
          "Read a saved guest whole, with every file it lies in, and compare every checksum.",
          take_option, take_argument}},
	{"ls",
         "cowslip image ls",
         cli_image_ls,
         0,
         1,
         {json_options, "[DIR]",
          "List the saved guests of a directory (this one), each below the one it was cloned "
          "from. OWN is guest memory stored in the file, DISK what the file takes, SHARED what "
          "lies in others, USED the number of images that lie partly in it.",
          take_option, take_argument}},
	{"rm",
         "cowslip image rm",
         cli_image_rm,
         1,
         CLI_IMAGE_PATHS,
         {rm_options, "IMAGE...",
          "Remove saved guests, unless others beside them lie partly in them. Running clones "
          "are not disturbed.",
          take_option, take_argument}},
	{"flatten",
         "cowslip image flatten",
         cli_image_flatten,
         2,
         2,
         {no_options, "IMAGE NEW", "Copy a saved guest into one file that needs no other.",
          take_option, take_argument}},
	{"diff",
         "cowslip image diff",
         cli_image_diff,
         2,
         2,
         {diff_options, "A B",
          "Compare the memory of two saved guests.\vExit status: 0 when all is equal, 1 when "
          "something differs, 125 when cowslip failed.",
          take_option, take_argument}},
	{"map",
         "cowslip image map",
         cli_image_map,
         1,
         1,
         {map_options, "IMAGE",
          "Show where guest memory lies, by blocks of 2 MiB: `.` nothing but zeros, `o` all "
          "stored in this file, `s` all in others, `x` some of both.",
          take_option, take_argument}},
	{"pack",
         "cowslip image pack",
         cli_image_pack,
         1,
         1,
         {pack_options, "IMAGE -o FILE",
          "Compress a saved guest, and every file it lies in, into one file for transport. "
          "Every checksum is compared.",
          take_option, take_argument}},
	{"unpack",
         "cowslip image unpack",
         cli_image_unpack,
         1,
         1,
         {unpack_options, "FILE -o IMAGE",
          "Make the saved guest of a packed FILE (- is stdin), and beside it the files it lies "
          "in, as they were. Nothing appears before everything has been checked.",
          take_option, take_argument}},
};
#define ACTIONS (sizeof(actions) / sizeof(actions[0]))

#define ACTION_NAMES "info, verify, ls, rm, flatten, diff, map, pack, unpack"

static int run_action(size_t n, int argc, char **argv)
{
	struct image_command c = {.count = 0};
	enum cli_parsed p;

	argv[0] = (char *)(uintptr_t)actions[n].full;
	p = cli_parse(&actions[n].command, argc, argv, &c);
	if (p != CLI_GO)
		return cli_parsed_status(p);
	if (c.count > actions[n].most) {
		cli_error("%s: %s; `%s %s`", c.path[actions[n].most],
		          actions[n].most == 1 ? "one image at a time" : "one too many",
		          actions[n].full, actions[n].command.args_doc);
		return CLI_FAILED;
	}
	if (c.count >= actions[n].least)
		return actions[n].run(&c);
	cli_error("%s; `%s %s`", c.count ? "another image is wanted" : "no image given",
	          actions[n].full, actions[n].command.args_doc);
	return CLI_FAILED;
}

static int unknown_action(void *to, unsigned index, bool after, const char *arg)
{
	(void)to;
	(void)index;
	(void)after;
	cli_error("image %s: unknown; there are " ACTION_NAMES, arg);
	return -1;
}

static const struct cli_command top = {
	.options = no_options,
	.args_doc = "ACTION [ARGUMENT...]",
	.doc = "Look at saved guests, and look after them."
	       "\v  info IMAGE          what is in it\n"
	       "  verify IMAGE        read it whole and compare every checksum\n"
	       "  ls [DIR]            the images of a directory, each below its parent\n"
	       "  rm IMAGE...         remove them, unless others lie in them\n"
	       "  flatten IMAGE NEW   copy one into a file that needs no other\n"
	       "  diff A B            compare the memory of two\n"
	       "  map IMAGE           where its memory lies; --svg FILE draws it\n"
	       "  pack IMAGE -o FILE  compress one, with all it lies in, for transport\n"
	       "  unpack FILE -o IMAGE",
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
	cli_error("no action given; there are " ACTION_NAMES);
	return CLI_FAILED;
}
