// SPDX-License-Identifier: MIT
/*
 * vmm/cli_ctl.c - `cowslip ctl`: asks something of a `cowslip run --ctl`, and prints what it says.
 *
 * The words are put into one line (vmm/cli_ctl_run.h) and the JSON reply goes to stdout as it is; a
 * refusal becomes the one error line that it is for every command.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli.h"
#include "vmm/ctl.h"

#define MOST_WORDS 4u

struct ctl_command {
	const char *word[MOST_WORDS]; /* SOCK, what to do, its arguments */
	size_t count;
};

static const struct argp_option options[] = {CLI_COMMON_OPTIONS};

static int take_argument(void *to, unsigned index, bool after, const char *arg)
{
	struct ctl_command *c = to;

	(void)after;
	if (index >= MOST_WORDS) {
		cli_error("%s: one thing at a time; `cowslip ctl --help` lists them", arg);
		return -EINVAL;
	}
	if (*arg == '\0' || strchr(arg, '\n')) {
		cli_error("an argument that is empty or has a line end; leave it out");
		return -EINVAL;
	}
	c->word[index] = arg;
	c->count = index + 1;
	return 0;
}

static const struct cli_command command = {
	.options = options,
	.args_doc = "SOCK fork|save|stats|pause|resume|stop|limit [ARGUMENT...]",
	.doc = "Ask something of the guests that `cowslip run --ctl SOCK` runs; print the answer, "
	       "one JSON object."
	       "\v  fork [ID]        fork a guest (0, the first): the child starts at once\n"
	       "  save FILE [ID]   save a guest (0) to FILE, while it goes on\n"
	       "  stats            all guests: state, parent, memory\n"
	       "  pause [ID|all]   stop the clock of a guest (all)\n"
	       "  resume [ID|all]  ... and start it again\n"
	       "  stop [ID|all]    end a guest (all), as if it had exited with 0\n"
	       "  limit SIZE [ID]  the most memory a guest (0) may have from now on; one that\n"
	       "                   stands still because it had too little goes on\n\n"
	       "pause_us is how long the guest stood still for it.\n\n"
	       "Exit status: 0; 125 when it could not be done.",
	.argument = take_argument,
};

/* ---- the request ---- */

/* Where we are, not where cowslip was started. NULL: it cannot be said. */
static char *whole_path(const char *path)
{
	char *dir = *path == '/' ? NULL : getcwd(NULL, 0);
	char *whole = NULL;

	if (*path != '/' && !dir)
		return NULL;
	if (asprintf(&whole, "%s%s%s", dir ? dir : "", dir ? "/" : "", path) < 0)
		whole = NULL; /* no memory, and asprintf() leaves it anything */
	free(dir);
	return whole;
}

/* Return: NULL after an error line. */
static char *save_line(const struct ctl_command *c)
{
	char *path, *line = NULL;

	if (c->count < 3) {
		cli_error("save: to what file? `cowslip ctl %s save FILE [ID]`", c->word[0]);
		return NULL;
	}
	path = whole_path(c->word[2]);
	if (!path)
		cli_error("%s: in a directory without a name; give the whole path", c->word[2]);
	else if (asprintf(&line, "save %s %s", c->count > 3 ? c->word[3] : "0", path) < 0)
		line = NULL;
	free(path);
	return line;
}

/* Return: NULL after an error line. */
static char *limit_line(const struct ctl_command *c)
{
	uint64_t bytes;
	char *line;

	if (c->count < 3) {
		cli_error("limit: to how much? `cowslip ctl %s limit SIZE [ID]`", c->word[0]);
		return NULL;
	}
	if (cli_size("limit", c->word[2], &bytes))
		return NULL;
	if (asprintf(&line, "limit %s %" PRIu64, c->count > 3 ? c->word[3] : "0", bytes) < 0)
		line = NULL;
	return line;
}

static char *make_line(const struct ctl_command *c)
{
	char *line;

	if (strcmp(c->word[1], "limit") == 0)
		return limit_line(c);
	if (strcmp(c->word[1], "save") == 0)
		return save_line(c);
	if (asprintf(&line, "%s%s%s%s%s", c->word[1], c->count > 2 ? " " : "",
	             c->count > 2 ? c->word[2] : "", c->count > 3 ? " " : "",
	             c->count > 3 ? c->word[3] : "") < 0)
		line = NULL;
	return line;
}

/* ---- the reply ---- */

static int show(const char *path, const char *reply)
{
	json_t *json = json_loads(reply, 0, NULL);
	const json_t *ok = json_object_get(json, "ok");
	const char *why = json_string_value(json_object_get(json, "error"));
	int status = CLI_FAILED;

	if (json_is_true(ok)) {
		printf("%s\n", reply);
		status = cli_flush_stdout();
	} else if (why) {
		cli_error("%s", why);
	} else {
		cli_error("%s: what listens there is no cowslip", path);
	}
	json_decref(json);
	return status;
}

static int ask(const struct ctl_command *c)
{
	char *line, *reply;
	struct vm_error err;
	int r, status;

	if (c->count < 2) {
		cli_error("ctl: %s; `cowslip ctl --help` says more",
		          c->count ? "what is to be done?" : "which socket?");
		return CLI_FAILED;
	}
	line = make_line(c);
	if (!line)
		return CLI_FAILED;
	r = ctl_ask(c->word[0], line, &reply, &err);
	free(line);
	if (r) {
		cli_error("%s%s", err.text,
		          r == -ENOENT || r == -ECONNREFUSED
		                  ? "; `cowslip run --ctl` makes a socket to ask"
		                  : "");
		return CLI_FAILED;
	}
	status = show(c->word[0], reply);
	free(reply);
	return status;
}

int cli_ctl(int argc, char **argv)
{
	struct ctl_command c = {0};
	enum cli_parsed parsed = cli_parse(&command, argc, argv, &c);

	return parsed == CLI_GO ? ask(&c) : cli_parsed_status(parsed);
}
