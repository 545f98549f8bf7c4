// SPDX-License-Identifier: MIT
/*
 * vmm/cli_image_diff.c - `cowslip image diff`.
 *
 * JSON: a, b (paths), equal, ram_differs, state_differs, pages: shared, equal, only_a, only_b,
 * changed, zero (of 4 KiB each); with --ranges also ranges: a list of kind, start, bytes.
 *
 * Exit status: 0 equal, 1 not, CLI_FAILED.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "vmm/cli_image.h"
#include "vmm/image_diff.h"

#define DIFFERENT 1

static const char *const kind_names[DIFF_KINDS] = {
	[DIFF_SHARED] = "shared", [DIFF_EQUAL] = "equal",   [DIFF_ZERO] = "zero",
	[DIFF_ONLY_A] = "only_a", [DIFF_ONLY_B] = "only_b", [DIFF_CHANGED] = "changed",
};

struct listing {
	bool text;
	json_t *list; /* NULL: none wanted, or no memory */
	bool failed;
};

static void add_range(void *ctx, enum image_diff_kind kind, gpa_t from, uint64_t pages)
{
	struct listing *l = ctx;
	uint64_t bytes = pages << MM_PAGE_SHIFT;

	if (l->text)
		printf("%#14" PRIx64 " .. %#-14" PRIx64 " %s\n", from.v, from.v + bytes,
		       kind_names[kind]);
	if (l->list &&
	    json_array_append_new(l->list,
	                          json_pack("{s:s, s:I, s:I}", "kind", kind_names[kind], "start",
	                                    (json_int_t)from.v, "bytes", (json_int_t)bytes)))
		l->failed = true;
}

static json_t *pages_json(const struct image_diff *d)
{
	json_t *o = json_object();

	for (unsigned k = 0; k < DIFF_KINDS; k++)
		json_object_set_new(o, kind_names[k], json_integer((json_int_t)d->pages[k]));
	return o;
}

static json_t *diff_json(const struct image_command *c, const struct image_diff *d, json_t *ranges)
{
	return json_pack("{s:s, s:s, s:b, s:b, s:b, s:o, s:o*}", "a", c->path[0], "b", c->path[1],
	                 "equal", !image_diff_any(d), "ram_differs", d->ram_differs,
	                 "state_differs", d->state_differs, "pages", pages_json(d), "ranges",
	                 ranges);
}

static int put_text(const struct image_command *c, const struct image_diff *d)
{
	printf("%s (a), %s (b), pages of 4 KiB:\n", c->path[0], c->path[1]);
	printf("  %12" PRIu64 "  shared, the same bytes of the same file\n", d->pages[DIFF_SHARED]);
	printf("  %12" PRIu64 "  equal, stored twice\n", d->pages[DIFF_EQUAL]);
	printf("  %12" PRIu64 "  zero in both\n", d->pages[DIFF_ZERO]);
	printf("  %12" PRIu64 "  changed\n", d->pages[DIFF_CHANGED]);
	printf("  %12" PRIu64 "  only in a, zero in b\n", d->pages[DIFF_ONLY_A]);
	printf("  %12" PRIu64 "  only in b, zero in a\n", d->pages[DIFF_ONLY_B]);
	if (d->ram_differs)
		printf("The machines' RAM is not laid out alike.\n");
	printf("Registers and devices are %s.\n", d->state_differs ? "different" : "equal");
	return cli_flush_stdout();
}

static int compare(const struct image_command *c, const struct image *a, const struct image *b)
{
	struct listing l = {.text = c->ranges && !c->json};
	struct image_diff d;
	int e, status;

	if (c->ranges && c->json)
		l.list = json_array();
	e = image_diff(a, b, c->ranges ? add_range : NULL, &l, &d);
	if (e || l.failed) {
		cli_error("%s and %s cannot be compared: %s", c->path[0], c->path[1],
		          strerror(e ? -e : ENOMEM));
		json_decref(l.list);
		return CLI_FAILED;
	}
	status = c->json ? cli_put_json(diff_json(c, &d, l.list)) : put_text(c, &d);
	return status == CLI_OK && image_diff_any(&d) ? DIFFERENT : status;
}

int cli_image_diff(const struct image_command *c)
{
	struct image *image[2] = {NULL, NULL};
	struct snapshot_error err;
	int status = CLI_OK;

	for (size_t i = 0; status == CLI_OK && i < 2; i++)
		if (snapshot_open(c->path[i], 0, &image[i], NULL, &err))
			status = cli_image_failed(&err);
	if (status == CLI_OK)
		status = compare(c, image[0], image[1]);
	image_put(image[0]);
	image_put(image[1]);
	return status;
}
