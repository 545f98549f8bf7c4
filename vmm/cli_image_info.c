// SPDX-License-Identifier: MIT
/*
 * vmm/cli_image_info.c - `cowslip image info` and `verify`, and how images are told of.
 *
 * JSON of `image info`: path, version, isa, cpus, build, created (seconds since 1970), id,
 * generation, hash (hexadecimal strings), ram_bytes, data_bytes (of guest memory, stored in this
 * file), layer_bytes (in other files), file_bytes, disk_bytes, state_bytes, extents, pieces,
 * density (of the file's slots, how much is not zero: 0..1, null without slots), parent (null, or
 * name and hash), layers, ram (list of start, bytes), devices (list of names; null where what the
 * image lies in is missing). Of `image verify`: path, ok, and error where it is not.
 */
#include <elf.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vmm/cli_image.h"
#include "vmm/vm.h"

#define MIB       (1024.0 * 1024.0)
#define BAR_WIDTH 30u
#define REDRAW_NS UINT64_C(100000000)

int cli_image_failed(const struct snapshot_error *err)
{
	cli_error("%s", err->text);
	return CLI_FAILED;
}

const char *cli_isa_name(uint32_t isa)
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

const char *cli_when(uint64_t seconds, char *buf, size_t size)
{
	time_t t = (time_t)seconds;
	struct tm tm;

	if (!gmtime_r(&t, &tm) || strftime(buf, size, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0)
		snprintf(buf, size, "at an unknown time");
	return buf;
}

const char *cli_hash(const uint64_t hash[2], char buf[CLI_HASH_SIZE])
{
	snprintf(buf, CLI_HASH_SIZE, "%016" PRIx64 "%016" PRIx64, hash[1], hash[0]);
	return buf;
}

/* ---- info ---- */

/* Of the slots' bytes, how many are not in holes. */
static double density(const struct snapshot_info *i)
{
	return (double)i->data_bytes / ((double)i->extents * (double)MM_BLOCK_SIZE);
}

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

static json_t *parent_json(const struct snapshot_info *i)
{
	char hash[CLI_HASH_SIZE];

	if (!i->parent[0])
		return json_null();
	return json_pack("{s:s, s:s}", "name", i->parent, "hash", cli_hash(i->parent_hash, hash));
}

#define DEVICES_MAX 16u

struct devices {
	const char *name[DEVICES_MAX];
	int count; /* < 0: not known */
};

/* They are part of the state, which comes with an image whose files are all there. */
static struct devices find_devices(const char *path)
{
	struct devices d = {.count = -1};
	struct image *image;

	if (snapshot_open(path, 0, &image, NULL, NULL))
		return d;
	d.count = vm_image_devices(image, d.name, DEVICES_MAX);
	image_put(image);
	return d;
}

static json_t *devices_json(const struct devices *d)
{
	json_t *list = d->count < 0 ? json_null() : json_array();

	for (int n = 0; n < d->count; n++)
		json_array_append_new(list, json_string(d->name[n]));
	return list;
}

static json_t *info_json(const char *path, const struct snapshot_info *i, const struct devices *d)
{
	char id[33], generation[17], hash[CLI_HASH_SIZE];

	snprintf(id, sizeof(id), "%016" PRIx64 "%016" PRIx64, i->id[0], i->id[1]);
	snprintf(generation, sizeof(generation), "%016" PRIx64, i->generation);
	return json_pack(
		"{s:s, s:i, s:s, s:i, s:s, s:I, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, "
		"s:I, s:I, s:I, s:o, s:o, s:I, s:o, s:o}",
		"path", path, "version", (int)i->version, "isa", cli_isa_name(i->isa), "cpus",
		(int)i->cpus, "build", i->build, "created", (json_int_t)i->created, "id", id,
		"generation", generation, "hash", cli_hash(i->hash, hash), "ram_bytes",
		(json_int_t)i->ram_bytes, "data_bytes", (json_int_t)i->data_bytes, "layer_bytes",
		(json_int_t)i->layer_bytes, "file_bytes", (json_int_t)i->file_bytes, "disk_bytes",
		(json_int_t)i->disk_bytes, "state_bytes", (json_int_t)i->state_bytes, "extents",
		(json_int_t)i->extents, "pieces", (json_int_t)i->pieces, "density",
		i->extents ? json_real(density(i)) : json_null(), "parent", parent_json(i),
		"layers", (json_int_t)i->layers, "ram", ram_json(i), "devices", devices_json(d));
}

static void put_layers(const struct snapshot_info *i)
{
	char hash[CLI_HASH_SIZE];

	if (i->parent[0])
		printf("parent    %s, content %s\n", i->parent, cli_hash(i->parent_hash, hash));
	if (i->layered)
		printf("layers    %.1f MiB lie in %" PRIu32 " other file%s, %" PRIu64 " pieces\n",
		       (double)i->layer_bytes / MIB, i->layers, i->layers == 1 ? "" : "s",
		       i->pieces);
}

static int info_text(const char *path, const struct snapshot_info *i, const struct devices *d)
{
	char when[64], hash[CLI_HASH_SIZE];

	printf("image     %s, format %" PRIu32 "\n", path, i->version);
	printf("content   %s\n", cli_hash(i->hash, hash));
	printf("id        %016" PRIx64 "%016" PRIx64 "\n", i->id[0], i->id[1]);
	printf("created   %s by %s\n", cli_when(i->created, when, sizeof(when)), i->build);
	printf("machine   %s, %" PRIu32 " vCPU%s, %" PRIu64 " bytes of state\n",
	       cli_isa_name(i->isa), i->cpus, i->cpus == 1 ? "" : "s", i->state_bytes);
	for (int n = 0; n < d->count; n++)
		printf("%s%s%s", n ? ", " : "devices   ", d->name[n],
		       n + 1 == d->count ? "\n" : "");
	printf("RAM       %.1f MiB\n", (double)i->ram_bytes / MIB);
	for (uint32_t n = 0; n < i->ram_count; n++)
		printf("          %#" PRIx64 " .. %#" PRIx64 "\n", i->ram[n].range.start.v,
		       gpa_range_end(i->ram[n].range));
	printf("memory    %.1f MiB not zero, in %" PRIu64 " extents of 2 MiB",
	       (double)i->data_bytes / MIB, i->extents);
	if (i->extents)
		printf(", which are %.0f %% full", 100 * density(i));
	printf("\n");
	put_layers(i);
	printf("file      %.1f MiB long, %.1f MiB on disk\n", (double)i->file_bytes / MIB,
	       (double)i->disk_bytes / MIB);
	return cli_flush_stdout();
}

int cli_image_info(const struct image_command *c)
{
	struct snapshot_info i;
	struct snapshot_error err;
	struct devices d;

	if (snapshot_stat(c->path[0], &i, &err))
		return cli_image_failed(&err);
	d = find_devices(c->path[0]);
	return c->json ? cli_put_json(info_json(c->path[0], &i, &d))
	               : info_text(c->path[0], &i, &d);
}

/* ---- progress ---- */

static void draw(void *ctx, uint64_t done, uint64_t total)
{
	static const char full[] = "##############################";
	struct cli_bar *b = ctx;
	uint64_t now = clock_ns();
	char text[128];
	int n;

	if (now - b->drawn_ns < REDRAW_NS || total == 0)
		return;
	_Static_assert(sizeof(full) == BAR_WIDTH + 1, "a bar's width");
	n = snprintf(text, sizeof(text), "\r[%-*.*s] %.1f / %.1f MiB", (int)BAR_WIDTH,
	             (int)(done * BAR_WIDTH / total), full, (double)done / MIB,
	             (double)total / MIB);
	(void)cli_write(STDERR_FILENO, text, (size_t)n);
	b->there = true;
	b->drawn_ns = now;
}

struct snapshot_progress cli_bar_progress(struct cli_bar *b)
{
	return (struct snapshot_progress){isatty(STDERR_FILENO) ? draw : NULL, b};
}

void cli_bar_clear(struct cli_bar *b)
{
	static const char blank[] = "\r\033[K";

	if (b->there)
		(void)cli_write(STDERR_FILENO, blank, sizeof(blank) - 1);
	b->there = false;
}

/* ---- verify ---- */

static int put_whole(const char *path)
{
	struct snapshot_info i;
	struct snapshot_error err;

	if (snapshot_stat(path, &i, &err))
		return cli_image_failed(&err);
	printf("%s: whole: %.1f MiB of guest memory and %" PRIu64 " bytes of state match their "
	       "checksums",
	       path, (double)(i.data_bytes + i.layer_bytes) / MIB, i.state_bytes);
	if (i.layers)
		printf(", with what lies in %" PRIu32 " other file%s", i.layers,
		       i.layers == 1 ? "" : "s");
	printf("\n");
	return cli_flush_stdout();
}

int cli_image_verify(const struct image_command *c)
{
	struct cli_bar bar = {0};
	const struct snapshot_progress progress = cli_bar_progress(&bar);
	struct snapshot_error err = {.text = ""};
	int e = snapshot_verify_progress(c->path[0], 0, &progress, &err);

	cli_bar_clear(&bar);
	if (e)
		cli_error("%s", err.text);
	if (c->json && cli_put_json(json_pack("{s:s, s:b, s:s?}", "path", c->path[0], "ok", e == 0,
	                                      "error", e ? err.text : NULL)))
		return CLI_FAILED;
	if (e)
		return CLI_FAILED;
	return c->json ? CLI_OK : put_whole(c->path[0]);
}
