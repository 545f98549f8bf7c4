// SPDX-License-Identifier: MIT
/*
 * vmm/cli_options.c - options by argp, and the values they take.
 *
 * argp's own messages are two lines and its own exit is final, so it runs silenced
 * (ARGP_NO_ERRS) and what went wrong is worked out from where it stopped. Arguments are taken in
 * order: that is what makes the place known, since nothing is permuted.
 *
 * Concurrency: no state.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "mm/space.h"
#include "vmm/cli.h"
#include "vmm/version.h"

#define SEC_NS UINT64_C(1000000000)

const struct cli_word cli_fault_words[] = {{"auto", FAULTS_AUTO},
                                           {"kernel", FAULTS_KERNEL},
                                           {"uffd", FAULTS_UFFD},
                                           {0}};

const struct cli_word cli_page_words[] = {{"auto", PAGE_SIZE_AUTO},
                                          {"4k", PAGE_SIZE_4K},
                                          {"2m", PAGE_SIZE_2M},
                                          {"1g", PAGE_SIZE_1G},
                                          {0}};

/* ---- parsing ---- */

struct parse {
	const struct cli_command *command;
	const char *name;
	void *to;
	int next;       /* index of the first word not yet taken */
	unsigned args;  /* arguments taken */
	bool explained; /* the error line is out */
	int wish;       /* CLI_KEY_HELP, CLI_KEY_VERSION or 0 */
};

static bool is_option(const struct argp_option *o)
{
	return o->name || o->key;
}

/* The option a "--word" means: its name, or the only one that starts so. NULL: none, or several. */
static const struct argp_option *find_long(const struct argp_option *o, const char *word,
                                           size_t len, unsigned *matches)
{
	const struct argp_option *found = NULL;

	*matches = 0;
	for (; is_option(o); o++) {
		if (!o->name || strncmp(o->name, word, len) != 0)
			continue;
		if (strlen(o->name) == len) {
			*matches = 1;
			return o;
		}
		found = o;
		++*matches;
	}
	return *matches == 1 ? found : NULL;
}

static void explain_long(const struct parse *p, const char *word)
{
	size_t len = strcspn(word, "=");
	unsigned matches;
	const struct argp_option *o = find_long(p->command->options, word + 2, len - 2, &matches);

	if (matches > 1)
		cli_error("%s: several options start so; write it out (`%s --help` lists them)",
		          word, p->name);
	else if (!o)
		cli_error("%s: unknown option; `%s --help` lists those there are", word, p->name);
	else if (o->arg)
		cli_error("--%s: needs a value (%s); `%s --help` says which", o->name, o->arg,
		          p->name);
	else
		cli_error("%s: takes no value; write --%s", word, o->name);
}

static const struct argp_option *find_short(const struct argp_option *o, char letter)
{
	for (; is_option(o); o++)
		if (o->key == letter)
			return o;
	return NULL;
}

/* Of several letters in one word, it is the first that is none, or wants a value and has none. */
static void explain_short(const struct parse *p, const char *word)
{
	const struct argp_option *o;

	for (const char *at = word + 1; *at; at++) {
		o = find_short(p->command->options, *at);
		if (o && o->arg) {
			cli_error("-%c: needs a value (%s); `%s --help` says which", *at, o->arg,
			          p->name);
			return;
		}
		if (!o) {
			cli_error("-%c: unknown option; `%s --help` lists those there are", *at,
			          p->name);
			return;
		}
	}
	cli_error("%s: not understood; `%s --help` lists the options", word, p->name);
}

static void explain(struct parse *p, const struct argp_state *state)
{
	const char *word = p->next < state->argc ? state->argv[p->next] : NULL;

	if (p->explained)
		return;
	p->explained = true;
	if (!word)
		cli_error("the options make no sense; `%s --help` lists them", p->name);
	else if (strncmp(word, "--", 2) == 0)
		explain_long(p, word);
	else
		explain_short(p, word);
}

static int take_option(struct parse *p, int key, const char *arg)
{
	if (key == CLI_KEY_HELP || key == CLI_KEY_VERSION) {
		p->wish = key;
		return 0;
	}
	return p->command->option ? p->command->option(p->to, key, arg) : -EINVAL;
}

static error_t take(int key, char *arg, struct argp_state *state)
{
	struct parse *p = state->input;
	int r;

	switch (key) {
	case ARGP_KEY_INIT:
	case ARGP_KEY_FINI:
	case ARGP_KEY_END:
	case ARGP_KEY_NO_ARGS:
	case ARGP_KEY_SUCCESS:
		return 0;
	case ARGP_KEY_ARGS:
		return ARGP_ERR_UNKNOWN;
	case ARGP_KEY_ERROR:
		explain(p, state);
		return 0;
	case ARGP_KEY_ARG:
		r = p->command->argument(p->to, p->args++, state->quoted != 0, arg);
		break;
	default:
		r = take_option(p, key, arg);
	}
	p->next = state->next;
	p->explained = r != 0;
	return r ? EINVAL : 0;
}

enum cli_parsed cli_parse(const struct cli_command *c, int argc, char **argv, void *to)
{
	const struct argp argp = {
		.options = c->options, .parser = take, .args_doc = c->args_doc, .doc = c->doc};
	struct parse p = {.command = c, .name = argv[0], .to = to, .next = 1};
	int r;

	r = argp_parse(&argp, argc, argv,
	               ARGP_NO_ERRS | ARGP_NO_HELP | ARGP_NO_EXIT | ARGP_IN_ORDER, NULL, &p);
	if (r && !p.explained)
		cli_error("options cannot be read: %s", strerror(r));
	if (r)
		return CLI_WRONG;
	if (p.wish == CLI_KEY_HELP)
		argp_help(&argp, stdout, ARGP_HELP_SHORT_USAGE | ARGP_HELP_LONG | ARGP_HELP_DOC,
		          argv[0]);
	else if (p.wish == CLI_KEY_VERSION)
		printf("%s\n", COWSLIP_BUILD);
	else
		return CLI_GO;
	return cli_flush_stdout() == CLI_OK ? CLI_DONE : CLI_WRONG;
}

int cli_parsed_status(enum cli_parsed p)
{
	return p == CLI_WRONG ? CLI_FAILED : CLI_OK;
}

/* ---- values ---- */

/* Digits only: no sign, no blank, no 0x. Return: 0; -EINVAL; -ERANGE. */
static int parse_number(const char *text, uint64_t *out, const char **end)
{
	uint64_t v = 0;
	const char *at = text;

	for (; *at >= '0' && *at <= '9'; at++) {
		if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*at - '0'), &v))
			return -ERANGE;
	}
	*out = v;
	*end = at;
	return at == text ? -EINVAL : 0;
}

/* Shift of a unit, 0 for none, -1 for what is not one. */
static int unit_shift(const char *unit)
{
	static const char letters[] = "KMGT";
	const char *at;

	if (*unit == '\0')
		return 0;
	at = strchr(letters, *unit & ~0x20);
	return at && unit[1] == '\0' ? 10 * (int)(at - letters + 1) : -1;
}

int cli_size(const char *option, const char *text, uint64_t *bytes)
{
	const char *end;
	uint64_t n;
	int r = parse_number(text, &n, &end);
	int shift = r ? -1 : unit_shift(end);

	if (r == -ERANGE || (shift > 0 && n > UINT64_MAX >> shift)) {
		cli_error("%s %s: too large; sizes go up to 16T", option, text);
		return -EINVAL;
	}
	if (shift < 0) {
		cli_error("%s %s: not a size; write a whole number and K, M, G or T, as in 64M",
		          option, text);
		return -EINVAL;
	}
	if (n == 0) {
		cli_error("%s %s: must be more than 0; as in 64M", option, text);
		return -EINVAL;
	}
	*bytes = n << shift;
	return 0;
}

int cli_count(const char *option, const char *text, uint64_t least, uint64_t most, uint64_t *out)
{
	const char *end;
	uint64_t n;
	int r = parse_number(text, &n, &end);

	if (r == 0 && *end == '\0' && n >= least && n <= most) {
		*out = n;
		return 0;
	}
	cli_error("%s %s: must be a whole number from %llu to %llu", option, text,
	          (unsigned long long)least, (unsigned long long)most);
	return -EINVAL;
}

int cli_seconds(const char *option, const char *text, uint64_t *ns)
{
	static const double most = 1e9;
	char *end;
	double v = strtod(text, &end);

	if (end == text || *end != '\0' || !isfinite(v) || v > most || v * SEC_NS < 1) {
		cli_error("%s %s: must be a number of seconds above 0, as in 2.5", option, text);
		return -EINVAL;
	}
	*ns = (uint64_t)(v * SEC_NS);
	return 0;
}

int cli_name(const char *option, const char *text, const char **out)
{
	if (*text == '\0') {
		cli_error("%s: the name is empty; give one", option);
		return -EINVAL;
	}
	*out = text;
	return 0;
}

int cli_choose(const char *option, const char *text, const struct cli_word *words, int *out)
{
	char list[128] = "";
	size_t len = 0;

	for (const struct cli_word *w = words; w->word; w++) {
		if (strcasecmp(w->word, text) == 0) {
			*out = w->value;
			return 0;
		}
		if (len < sizeof(list))
			len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%s",
			                        len ? ", " : "", w->word);
	}
	cli_error("%s %s: must be one of %s", option, text, list);
	return -EINVAL;
}
