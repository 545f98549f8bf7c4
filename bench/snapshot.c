// SPDX-License-Identifier: MIT
/*
 * bench/snapshot.c - `cowslip bench snapshot`: what it takes to save a guest, and to start from it.
 *
 *     publish        vm_snapshot(): how long a guest stands still while its memory becomes an
 *                    image. No page of it was shared before, and all of --size is written
 *     publish dirty  the same of a clone that has written PCT % of the image's pages (--dirty)
 *     save           snapshot_save(): the image as a file, on disk when it returns
 *     plain write    the same pages from one buffer into another file, write and fsync
 *     load           snapshot_open() and vm_create(): the file mapped, a clone of it ready to run
 *     first output   load, and on to the clone's first byte on the console
 *
 * Each repeat makes a guest, publishes, saves, writes and loads; whether save or plain write comes
 * first alternates. Loading finds the file in the page cache: it has just been written.
 *
 * Concurrency: one thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arch/arch.h"
#include "bench/driver.h"
#include "bench/guest_run.h"
#include "guest/memwalk.h"
#include "vmm/console.h"

#define DEFAULT_SIZE (UINT64_C(64) << 20)
#define TIMEOUT_NS   UINT64_C(600000000000) /* of one guest */
#define POOL_SPARE   (UINT64_C(64) << 20)
#define OWN_MEMORY   (UINT64_C(64) << 20)
#define CHUNK        (UINT64_C(4) << 20) /* of one plain write(2) */

enum operation {
	OP_PUBLISH,
	OP_DIRTY,
	OP_SAVE,
	OP_PLAIN,
	OP_LOAD,
	OP_OUTPUT,
	OPS,
};

static const char *const op_names[OPS] = {"publish",     "publish dirty", "save",
                                          "plain write", "load",          "first output"};

struct op_figures {
	struct sample us, gb_per_s;
	uint64_t bytes; /* 0: none to speak of */
};

struct snapshot_bench {
	struct bench_run run;

	/* As asked for. */
	uint64_t size, dirty;
	bool dirty_given;

	/* As it goes. */
	char image_path[4096], plain_path[4096];
	char args[64];
	struct memwalk_order *order; /* one touch: what the loaded clone does */
	struct op_figures ops[OPS];
	bool counts; /* this repeat's figures */
};

/* ---- options ---- */

enum key {
	KEY_SIZE = BENCH_KEY_OWN,
	KEY_DIRTY,
};

static const struct argp_option options[] = {
	{"size", KEY_SIZE, "SIZE", 0, "Memory that the guest has written (64M)", 1},
	{"dirty", KEY_DIRTY, "PCT", 0, "Also publish a clone that has written PCT % of it", 1},
	BENCH_DIR_OPTION,
	BENCH_COMMON_OPTIONS,
	CLI_COMMON_OPTIONS,
};

static int take_option(void *to, int key, const char *arg)
{
	struct snapshot_bench *b = to;

	switch ((enum key)key) {
	case KEY_SIZE:
		return cli_size("--size", arg, &b->size);
	case KEY_DIRTY:
		b->dirty_given = true;
		return cli_count("--dirty", arg, 0, 100, &b->dirty);
	}
	return -EINVAL;
}

/* ---- figures ---- */

/* `ns` since the operation started; `bytes` that it moved, 0 for none. */
static int note(struct snapshot_bench *b, enum operation op, uint64_t ns, uint64_t bytes)
{
	struct op_figures *f = &b->ops[op];
	int e;

	if (!b->counts)
		return 0;
	f->bytes = bytes;
	e = sample_add(&f->us, (double)ns / 1e3);
	if (e == 0 && bytes)
		e = sample_add(&f->gb_per_s, (double)bytes / (double)ns);
	return e;
}

/* ---- the guest ---- */

static uint64_t ram_bytes(const struct snapshot_bench *b)
{
	return memwalk_ram(b->size, 1, 1);
}

static int make_pool(const struct snapshot_bench *b, struct pool **out, struct vm_error *err)
{
	return bench_pool(2 * ram_bytes(b) + POOL_SPARE, out, err);
}

static struct vm_config vm_config(struct snapshot_bench *b, struct pool *pool, struct guest_run *g)
{
	return (struct vm_config){
		.kvm = &b->run.kvm,
		.pool = pool,
		.ram_bytes = ram_bytes(b),
		.cpus = 1,
		.console = guest_console,
		.console_ctx = g,
		.mailbox = {.input = b->order,
	                    .input_size = sizeof(*b->order) + sizeof(b->order->entries[0])},
	};
}

/* Time vm_snapshot(). */
static int publish(struct snapshot_bench *b, enum operation op, struct vm *vm, uint64_t bytes,
                   struct image **out, struct vm_error *err)
{
	uint64_t start = clock_ns();
	int e = vm_snapshot(vm, out, err);
	uint64_t ns = clock_ns() - start;

	return e ? e : note(b, op, ns, bytes);
}

static int publish_fresh(struct snapshot_bench *b, struct pool *pool, struct image **out,
                         struct vm_error *err)
{
	struct guest_run g = {.timeout_ns = TIMEOUT_NS};
	struct vm_config c = vm_config(b, pool, &g);
	int e = vm_create(&c, &g.vm, err);

	if (e)
		return e;
	e = vm_boot_elf(g.vm, b->run.program, b->args, err);
	if (e == 0)
		e = guest_run_until(&g, VM_READY, err);
	if (e == 0)
		e = publish(b, OP_PUBLISH, g.vm, 0, out, err);
	vm_destroy(g.vm);
	return e;
}

/* Write to every page of the image for which the share is due; they lie evenly. */
static int dirty_pages(const struct snapshot_bench *b, struct vm *vm, const struct image *image,
                       uint64_t *pages)
{
	size_t count;
	const struct extent *extents = image_extents(image, &count);
	const uint64_t word = 1;
	uint64_t due = 0;

	*pages = 0;
	for (size_t i = 0; i < count; i++) {
		for (uint64_t n = 0; n < extents[i].pages; n++) {
			gpa_t at = {extents[i].gpa.v + (n << MM_PAGE_SHIFT)};
			int e;

			due += b->dirty;
			if (due < 100)
				continue;
			due -= 100;
			++*pages;
			e = space_write(vm_space(vm), at, &word, sizeof(word));
			if (e)
				return e;
		}
	}
	return 0;
}

/* A clone that never runs, but has been written to, as it would have by its guest. */
static int publish_dirty(struct snapshot_bench *b, struct pool *pool, struct image *image,
                         struct vm_error *err)
{
	struct guest_run g = {.timeout_ns = TIMEOUT_NS};
	struct vm_config c = vm_config(b, pool, &g);
	struct image *second;
	uint64_t pages;
	int e;

	if (!b->dirty_given)
		return 0;
	c.image = image;
	c.number = 1;
	e = vm_create(&c, &g.vm, err);
	if (e)
		return e;
	e = dirty_pages(b, g.vm, image, &pages);
	if (e)
		bench_fail(err, e, "writing to a clone: %s", strerror(-e));
	else
		e = publish(b, OP_DIRTY, g.vm, pages << MM_PAGE_SHIFT, &second, err);
	vm_destroy(g.vm);
	if (e == 0)
		image_put(second);
	return e;
}

/* ---- files ---- */

static int save(struct snapshot_bench *b, const struct image *image, struct vm_error *err)
{
	uint64_t start = clock_ns(), ns;
	struct snapshot_info info;
	struct snapshot_error why;
	int e = snapshot_save(image, arch_info.isa, 1, b->image_path, &why);

	ns = clock_ns() - start;
	if (e == 0)
		e = snapshot_stat(b->image_path, &info, &why);
	if (e)
		return bench_fail(err, e, "%s", why.text);
	return note(b, OP_SAVE, ns, info.data_bytes);
}

/* Drop pages of zeros, which a saved image does not hold either. Return: bytes left. */
static size_t pack(uint8_t *bytes, size_t size)
{
	static const uint8_t zeros[MM_PAGE_SIZE];
	size_t left = 0;

	for (size_t at = 0; at < size; at += MM_PAGE_SIZE) {
		if (memcmp(bytes + at, zeros, MM_PAGE_SIZE) == 0)
			continue;
		if (left != at)
			memcpy(bytes + left, bytes + at, MM_PAGE_SIZE);
		left += MM_PAGE_SIZE;
	}
	return left;
}

/* The image's pages in one buffer, for free(). NULL: out of memory, or the store fails. */
static uint8_t *gather(const struct image *image, size_t *size)
{
	size_t count;
	const struct run *runs = image_runs(image, &count);
	uint8_t *bytes, *at;

	*size = image_pages(image) << MM_PAGE_SHIFT;
	bytes = at = malloc(*size);
	for (size_t i = 0; bytes && i < count; i++) {
		if (store_read(runs[i].store, runs[i].frame, runs[i].pages, at)) {
			free(bytes);
			return NULL;
		}
		at += runs[i].pages << MM_PAGE_SHIFT;
	}
	if (bytes)
		*size = pack(bytes, *size);
	return bytes;
}

static int write_all(int fd, const uint8_t *bytes, size_t size)
{
	int e = 0;

	for (size_t done = 0; e == 0 && done < size; done += CHUNK)
		e = cli_write(fd, bytes + done, min_u64(CHUNK, size - done));
	if (e == 0 && fsync(fd))
		e = -errno;
	return e;
}

static int plain_write(struct snapshot_bench *b, const struct image *image, struct vm_error *err)
{
	size_t size;
	uint8_t *bytes = gather(image, &size);
	uint64_t start, ns;
	int fd, e;

	if (!bytes)
		return bench_fail(err, -ENOMEM, "no memory for a copy of the image");
	start = clock_ns();
	fd = open(b->plain_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	e = fd < 0 ? -errno : write_all(fd, bytes, size);
	if (fd >= 0 && close(fd) && e == 0)
		e = -errno;
	ns = clock_ns() - start;
	(void)unlink(b->plain_path);
	free(bytes);
	if (e)
		return bench_fail(err, e, "%s: %s", b->plain_path, strerror(-e));
	return note(b, OP_PLAIN, ns, size);
}

static int save_and_write(struct snapshot_bench *b, const struct image *image, bool save_first,
                          struct vm_error *err)
{
	int e = save_first ? save(b, image, err) : plain_write(b, image, err);

	if (e)
		return e;
	return save_first ? plain_write(b, image, err) : save(b, image, err);
}

/* ---- starting from the file ---- */

static int first_output(struct snapshot_bench *b, struct guest_run *g, uint64_t start,
                        struct vm_error *err)
{
	struct vm_times times;
	int e = guest_run_until(g, VM_EXITED, err);

	if (e)
		return e;
	vm_times(g->vm, &times);
	if (times.first_output == 0)
		return bench_fail(err, -ECHILD, "the clone printed nothing");
	return note(b, OP_OUTPUT, times.first_output - start, 0);
}

static int load(struct snapshot_bench *b, struct vm_error *err)
{
	struct guest_run g = {.timeout_ns = TIMEOUT_NS};
	struct snapshot_error why;
	struct vm_config c;
	struct pool *pool;
	uint64_t start;
	int e = make_pool(b, &pool, err);

	if (e)
		return e;
	c = vm_config(b, pool, &g);
	c.number = 1;
	start = clock_ns();
	e = snapshot_open(b->image_path, arch_info.isa, &c.image, NULL, &why);
	if (e) {
		bench_fail(err, e, "%s", why.text);
	} else {
		e = vm_create(&c, &g.vm, err);
		image_put(c.image);
	}
	if (e == 0)
		e = note(b, OP_LOAD, clock_ns() - start, 0);
	if (e == 0)
		e = first_output(b, &g, start, err);
	vm_destroy(g.vm);
	pool_put(pool);
	return e;
}

/* ---- measuring ---- */

static int publish_and_save(struct snapshot_bench *b, struct pool *pool, bool save_first,
                            struct vm_error *err)
{
	struct image *image;
	int e = publish_fresh(b, pool, &image, err);

	if (e)
		return e;
	e = publish_dirty(b, pool, image, err);
	if (e == 0)
		e = save_and_write(b, image, save_first, err);
	image_put(image);
	return e;
}

static int run_round(void *state, unsigned round, struct vm_error *err)
{
	struct snapshot_bench *b = state;
	struct pool *pool;
	int e = make_pool(b, &pool, err);

	bench_step(&b->run, "snapshot");
	b->counts = round > 0;
	if (e == 0) {
		e = publish_and_save(b, pool, round % 2, err);
		pool_put(pool);
	}
	if (e == 0)
		e = load(b, err);
	(void)unlink(b->image_path);
	return e;
}

/* A guest's memory, a dirty clone's, the plain write's copy, and the page cache of both files. */
static uint64_t memory_needed(const void *state)
{
	return 5 * ram_bytes(state) + OWN_MEMORY;
}

/* ---- the document ---- */

static json_t *parameters_json(const void *state)
{
	const struct snapshot_bench *b = state;

	return json_pack("{s:I, s:o, s:I}", "size", (json_int_t)b->size, "dirty",
	                 b->dirty_given ? json_integer((json_int_t)b->dirty) : json_null(),
	                 "repeat", (json_int_t)b->run.repeat);
}

static const char *baseline(const void *state)
{
	(void)state;
	return op_names[OP_PLAIN];
}

/* Bytes per second against the plain write's. */
static int set_ratio(const struct snapshot_bench *b, json_t *row, enum operation op)
{
	struct spread s = sample_ratio(&b->ops[op].gb_per_s, &b->ops[OP_PLAIN].gb_per_s);

	if (op != OP_SAVE && op != OP_PLAIN)
		return 0;
	return report_set_ratio(row, op_names[OP_PLAIN], &s);
}

static int add_row(const struct snapshot_bench *b, enum operation op)
{
	const struct op_figures *f = &b->ops[op];
	const struct report_item items[] = {{"us", &f->us, ITEM_FIGURE},
	                                    {"gb_per_s", &f->gb_per_s, ITEM_FIGURE}};
	json_t *row;
	int e;

	if (f->us.count == 0)
		return 0;
	row = json_pack("{s:s}", "name", op_names[op]);
	e = row ? report_set_items(row, items, f->bytes ? 2 : 1) : -ENOMEM;
	if (e == 0 && f->bytes)
		e = report_set(row, "bytes", json_integer((json_int_t)f->bytes));
	if (e == 0)
		e = set_ratio(b, row, op);
	if (e == 0)
		return report_add_row(b->run.doc, row);
	json_decref(row);
	return e;
}

static int finish(void *state)
{
	int e = 0;

	for (unsigned op = 0; e == 0 && op < OPS; op++)
		e = add_row(state, (enum operation)op);
	return e;
}

/* ---- the command ---- */

static int check_ram(const struct snapshot_bench *b)
{
	struct ram_region ram[ARCH_MAX_RAM_REGIONS];

	if (arch_ram_layout(ram_bytes(b), PAGE_SIZE_AUTO, ram) == 1)
		return 0;
	cli_error("%s: too large; the guest wants its RAM in one piece, and %s has less; ask for "
	          "less",
	          b->run.what, arch_info.name);
	return -EFBIG;
}

static int prepare(void *state)
{
	struct snapshot_bench *b = state;
	int e = bench_check_size(&b->run, b->size);

	if (e == 0)
		e = check_ram(b);
	if (e)
		return e;
	bench_path(&b->run, "cow", b->image_path, sizeof(b->image_path));
	bench_path(&b->run, "plain", b->plain_path, sizeof(b->plain_path));
	snprintf(b->args, sizeof(b->args), "size=%" PRIu64 " order=input verify=0 ready=1",
	         b->size);
	b->order = calloc(1, sizeof(*b->order) + sizeof(b->order->entries[0]));
	if (!b->order) {
		cli_error("no memory to start");
		return -ENOMEM;
	}
	b->order->magic = MEMWALK_MAGIC;
	b->order->version = MEMWALK_VERSION;
	b->order->touches = 1;
	b->order->entries[0] = MEMWALK_WRITE | MEMWALK_PAGE | MEMWALK_BLOCK;
	return 0;
}

static void set_defaults(void *state)
{
	struct snapshot_bench *b = state;

	b->size = DEFAULT_SIZE;
}

static void fini(void *state)
{
	struct snapshot_bench *b = state;

	free(b->order);
}

const struct bench_command bench_snapshot = {
	.cli = {.options = options,
                .args_doc = "",
                .doc = "Save a guest and start from what was saved: how long it stands still, how "
                       "fast its memory is on disk beside a plain write of the same bytes, how "
                       "soon a clone speaks.\vExit status: 0; 125 when it cannot be measured.",
                .option = take_option},
	.name = "snapshot",
	.guest = "memwalk.elf",
	.size = sizeof(struct snapshot_bench),
	.defaults = set_defaults,
	.prepare = prepare,
	.memory = memory_needed,
	.parameters = parameters_json,
	.baseline = baseline,
	.round = run_round,
	.finish = finish,
	.fini = fini,
};
