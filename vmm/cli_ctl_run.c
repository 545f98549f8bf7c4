// SPDX-License-Identifier: MIT
/*
 * vmm/cli_ctl_run.c - requests on the control socket of `cowslip run`, as words and as JSON.
 */
#include "vmm/cli_ctl_run.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "vmm/cli_image.h"
#include "vmm/cli_save.h"

#define BLANKS    " \t"
#define WORD_SIZE 32u

/* One request. */
struct asked {
	uint64_t id; /* or HERD_ALL */
	bool has_id;
	const char *rest; /* behind it, blanks gone */
};

static json_int_t us(uint64_t ns)
{
	return (json_int_t)((ns + 500) / 1000);
}

static json_int_t bytes(uint64_t frames)
{
	uint64_t n = frames << MM_PAGE_SHIFT;

	return (json_int_t)n;
}

__attribute__((format(printf, 1, 2))) static json_t *refuse(const char *format, ...)
{
	char text[VM_TEXT_MAX];
	va_list args;
	json_t *shown;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	shown = json_string(text);
	/* A word that was cut within a character. */
	for (char *c = text; !shown && *c; c++)
		*c = (char)(*c & 0x80 ? '?' : *c);
	return json_pack("{s:b, s:o}", "ok", 0, "error", shown ? shown : json_string(text));
}

/* May it stand in a reply? Else it would be done, and not be answered. */
static bool is_text(const char *line)
{
	json_t *json = json_string(line);

	json_decref(json);
	return json;
}

/* ---- words ---- */

/* The next word, cut to WORD_SIZE - 1 bytes: none that means anything is so long. */
static const char *next_word(const char *at, char word[WORD_SIZE])
{
	size_t len, keep;

	at += strspn(at, BLANKS);
	len = strcspn(at, BLANKS);
	keep = min_u64(len, WORD_SIZE - 1);
	memcpy(word, at, keep);
	word[keep] = '\0';
	at += len;
	return at + strspn(at, BLANKS);
}

static bool is_id(const char *word, uint64_t *id)
{
	uint64_t n = 0;

	if (strcmp(word, "all") == 0) {
		*id = HERD_ALL;
		return true;
	}
	if (*word == '\0' || strlen(word) > 18)
		return false;
	for (; *word; word++) {
		if (*word < '0' || *word > '9')
			return false;
		n = 10 * n + (uint64_t)(*word - '0');
	}
	*id = n;
	return true;
}

/* ---- what may be asked ---- */

typedef json_t *verb_fn(struct cli_ctl *c, const struct asked *a);

/* What there is no memory for is left out. */
static void add_pause(json_t *reply, const struct herd_pause *p)
{
	json_object_set_new(reply, "pause_us", json_integer(us(p->longest_ns)));
	json_object_set_new(reply, "stops", json_integer((json_int_t)p->stops));
	json_object_set_new(reply, "stopped_us", json_integer(us(p->total_ns)));
}

static json_t *do_fork(struct cli_ctl *c, const struct asked *a)
{
	struct herd_child child;
	struct vm_error err;
	json_t *reply;

	if (a->id == HERD_ALL)
		return refuse("fork all: one at a time; name a VM");
	if (herd_fork(c->herd, a->id, &child, &err))
		return refuse("fork: %s", err.text);
	reply = json_pack("{s:b, s:I, s:I}", "ok", 1, "id", (json_int_t)child.id, "parent",
	                  (json_int_t)a->id);
	add_pause(reply, &child.pause);
	json_object_set_new(reply, "start_us", json_integer(us(child.start_ns)));
	return reply;
}

/* Return: NULL, or why it was not written. */
static json_t *write_image(struct cli_ctl *c, const struct image *image, unsigned cpus,
                           const char *path)
{
	const struct snapshot_request r = {
		.image = image, .isa = arch_info.isa, .cpus = cpus, .path = path};
	struct snapshot_error err;
	int e;

	pthread_mutex_lock(c->save_lock);
	e = cli_write_image(&r, &err);
	pthread_mutex_unlock(c->save_lock);
	return e ? refuse("save: %s", err.text) : NULL;
}

static json_t *do_save(struct cli_ctl *c, const struct asked *a)
{
	struct herd_pause pause;
	char why[VM_TEXT_MAX];
	struct vm_error err;
	struct image *image;
	json_t *reply;
	unsigned cpus;
	uint64_t start;

	if (!a->has_id || a->id == HERD_ALL || a->rest[0] == '\0')
		return refuse("save: which VM, and to what file? `save ID FILE`");
	if (cli_image_why_not(a->rest, why, sizeof(why)))
		return refuse("save: %s", why);
	if (herd_snapshot(c->herd, a->id, &image, &cpus, &pause, &err))
		return refuse("save: %s", err.text);
	start = clock_ns();
	reply = write_image(c, image, cpus, a->rest);
	image_put(image);
	if (reply)
		return reply;
	reply = json_pack("{s:b, s:I, s:s}", "ok", 1, "id", (json_int_t)a->id, "path", a->rest);
	add_pause(reply, &pause);
	json_object_set_new(reply, "write_us", json_integer(us(clock_ns() - start)));
	return reply;
}

/* Whole pages. Return: 0 bytes for what is none. */
static uint64_t to_bytes(const char *text)
{
	char *end;
	uint64_t n = *text >= '0' && *text <= '9' ? strtoull(text, &end, 10) : 0;

	return n > 0 && *end == '\0' && n <= INT64_MAX && is_aligned(n, MM_PAGE_SIZE) ? n : 0;
}

static json_t *do_limit(struct cli_ctl *c, const struct asked *a)
{
	struct vm_error err;
	uint64_t size;

	if (a->has_id && a->id == HERD_ALL)
		return refuse("limit: one VM at a time; name it by its number");
	if (!a->has_id || a->rest[0] == '\0')
		return refuse("limit: of which VM, and how much? `limit ID BYTES`");
	size = to_bytes(a->rest);
	if (size == 0)
		return refuse("limit %s: not a number of bytes, in whole pages of 4 KiB", a->rest);
	if (herd_limit(c->herd, a->id, size, &err))
		return refuse("limit: %s", err.text);
	return json_pack("{s:b, s:I, s:I}", "ok", 1, "id", (json_int_t)a->id, "limit_bytes",
	                 (json_int_t)size);
}

static json_t *entry_json(const struct herd_entry *e)
{
	const struct space_stats *s = &e->space;
	json_t *j;

	j = json_pack("{s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "id", (json_int_t)e->id,
	              "parent", (json_int_t)e->parent, "state", herd_state_name(e->state), "cpus",
	              (json_int_t)e->cpus, "shared_bytes", bytes(s->shared_frames), "private_bytes",
	              bytes(s->private_frames), "owned_bytes", bytes(s->owned_committed),
	              "used_bytes", bytes(s->owned_frames + s->private_frames), "limit_bytes",
	              (json_int_t)e->limit_bytes);
	if (j && e->why[0])
		json_object_set_new(j, "why", json_string(e->why));
	return j;
}

static json_t *do_stats(struct cli_ctl *c, const struct asked *a)
{
	struct herd_entry *all;
	struct pool_stats pool;
	json_t *vms;
	size_t count;

	if (a->has_id)
		return refuse("stats: of all VMs; leave out what follows");
	all = calloc(HERD_MOST, sizeof(*all));
	vms = json_array();
	if (!all || !vms) {
		free(all);
		json_decref(vms);
		return NULL;
	}
	count = herd_list(c->herd, all);
	for (size_t i = 0; i < count; i++)
		json_array_append_new(vms, entry_json(&all[i]));
	free(all);
	pool_stats(c->pool, &pool);
	return json_pack("{s:b, s:o, s:{s:I, s:I}}", "ok", 1, "vms", vms, "pool", "used_bytes",
	                 bytes(pool.used_frames), "limit_bytes", bytes(pool.limit_frames));
}

typedef int order_fn(struct herd *h, uint64_t id, struct herd_touched *out, size_t *count,
                     struct vm_error *err);

static json_t *do_order(struct cli_ctl *c, const struct asked *a, order_fn *order, const char *name,
                        const char *key)
{
	struct herd_touched touched[HERD_MOST];
	struct vm_error err;
	json_t *vms;
	size_t count;

	if (order(c->herd, a->has_id ? a->id : HERD_ALL, touched, &count, &err))
		return refuse("%s: %s", name, err.text);
	vms = json_array();
	for (size_t i = 0; i < count; i++)
		json_array_append_new(vms, json_pack("{s:I, s:I}", "id", (json_int_t)touched[i].id,
		                                     key, us(touched[i].ns)));
	return json_pack("{s:b, s:o}", "ok", 1, "vms", vms);
}

static json_t *do_pause(struct cli_ctl *c, const struct asked *a)
{
	return do_order(c, a, herd_pause, "pause", "us");
}

static json_t *do_resume(struct cli_ctl *c, const struct asked *a)
{
	return do_order(c, a, herd_resume, "resume", "pause_us");
}

static json_t *do_stop(struct cli_ctl *c, const struct asked *a)
{
	/* Before it is: nobody may wait any more once it has been. */
	atomic_store(&c->stopped, true);
	return do_order(c, a, herd_stop, "stop", "us");
}

static const struct {
	const char *name;
	verb_fn *run;
	bool takes_rest; /* something may follow the VM's number */
} verbs[] = {
	{"fork", do_fork, false},   {"save", do_save, true},      {"stats", do_stats, false},
	{"pause", do_pause, false}, {"resume", do_resume, false}, {"stop", do_stop, false},
	{"limit", do_limit, true},
};
#define VERBS (sizeof(verbs) / sizeof(verbs[0]))

static json_t *run_verb(struct cli_ctl *c, size_t verb, const char *rest)
{
	const char *name = verbs[verb].name;
	struct asked a = {0};
	char word[WORD_SIZE];

	a.rest = next_word(rest, word);
	a.has_id = word[0] != '\0';
	if (a.has_id && !is_id(word, &a.id))
		return refuse("%s %s: not the number of a VM", name, word);
	if (a.rest[0] && !verbs[verb].takes_rest)
		return refuse("%s: one VM at a time; leave out what follows", name);
	return verbs[verb].run(c, &a);
}

static json_t *answer(struct cli_ctl *c, const char *line)
{
	char word[WORD_SIZE];
	const char *rest;

	if (!line)
		return refuse("a request is one line of text, of %u bytes at most", CTL_LINE_MAX);
	if (!is_text(line))
		return refuse("a request that is no UTF-8 text");
	rest = next_word(line, word);
	for (size_t i = 0; i < VERBS; i++)
		if (strcmp(word, verbs[i].name) == 0)
			return run_verb(c, i, rest);
	return refuse("%s: unknown; there are fork, save, stats, pause, resume, stop and limit",
	              word[0] ? word : "nothing asked");
}

char *cli_ctl_answer(void *ctx, const char *line)
{
	json_t *json = answer(ctx, line);
	char *text = json ? json_dumps(json, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;

	json_decref(json);
	return text;
}
