// SPDX-License-Identifier: MIT
/*
 * vmm/cli_doctor.c - `cowslip doctor`: says what vmm/doctor.c has found.
 *
 * JSON: {"can_run": bool, "checks": [{"check", "level", "found", "advice"}, ...]}; advice is null
 * where there is nothing to do.
 */
#include <errno.h>
#include <stdlib.h>

#include "vmm/cli.h"
#include "vmm/doctor.h"

struct doctor_command {
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
	struct doctor_command *c = to;

	(void)key;
	(void)arg;
	c->json = true;
	return 0;
}

static int take_argument(void *to, unsigned index, bool after, const char *arg)
{
	(void)to;
	(void)index;
	(void)after;
	cli_error("%s: doctor takes no argument; leave it out", arg);
	return -EINVAL;
}

static const struct cli_command command = {
	.options = options,
	.args_doc = NULL,
	.doc = "Say what this host offers to guests, and what to change."
	       "\vExit status: 0 when guests can run here, 125 when they cannot.",
	.option = take_option,
	.argument = take_argument,
};

static json_t *to_json(const struct doctor_report *r)
{
	json_t *list = json_array();

	for (size_t i = 0; i < r->count; i++) {
		const struct doctor_finding *f = &r->findings[i];

		if (json_array_append_new(
			    list, json_pack("{s:s, s:s, s:s, s:s?}", "check", f->check, "level",
		                            doctor_level_name(f->level), "found", f->found,
		                            "advice", f->advice[0] ? f->advice : NULL))) {
			json_decref(list);
			return NULL;
		}
	}
	return json_pack("{s:b, s:o}", "can_run", r->can_run, "checks", list);
}

static void put_table(const struct doctor_report *r)
{
	printf("%-18s %-5s %s\n", "check", "", "finding -> what to do");
	for (size_t i = 0; i < r->count; i++) {
		const struct doctor_finding *f = &r->findings[i];

		printf("%-18s %-5s %s\n", f->check, doctor_level_name(f->level), f->found);
		if (f->advice[0])
			printf("%-18s %-5s -> %s\n", "", "", f->advice);
	}
	printf("%s\n", r->can_run ? "Guests can run here." : "Guests cannot run here.");
}

int cli_doctor(int argc, char **argv)
{
	struct doctor_command c = {.json = false};
	struct doctor_report *r;
	enum cli_parsed p = cli_parse(&command, argc, argv, &c);
	int status;

	if (p != CLI_GO)
		return cli_parsed_status(p);
	r = malloc(sizeof(*r));
	if (!r) {
		cli_error("no memory to start");
		return CLI_FAILED;
	}
	doctor_examine(r);
	status = r->can_run ? CLI_OK : CLI_FAILED;
	if (c.json && cli_put_json(to_json(r)))
		status = CLI_FAILED;
	else if (!c.json)
		put_table(r);
	free(r);
	return cli_flush_stdout() == CLI_OK ? status : CLI_FAILED;
}
