// SPDX-License-Identifier: MIT
/*
 * vmm/cli_run.c - `cowslip run`: boot a guest, and what it forks; save it when it is warm.
 *
 * The status is the guest's own code. Of several VMs, it is the one of the first, by number, that
 * did not end with 0.
 *
 * With --ctl all VMs run at once (vmm/ctl_herd.h), each line of what was forked has its number in
 * front, a socket takes requests (vmm/cli_ctl_run.h), and output that nobody reads keeps no VM from
 * answering them (vmm/cli_outlet.h). Else what a guest forks runs when its parent has ended
 * (vmm/family.h).
 *
 * Concurrency: hooks run on the calling thread, with --ctl on the VMs' own, one at a time; but
 * output, which a vCPU's thread may deliver, of several VMs at once.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "guest/abi.h"
#include "vmm/cli.h"
#include "vmm/cli_ctl_run.h"
#include "vmm/cli_image.h"
#include "vmm/cli_outlet.h"
#include "vmm/cli_save.h"
#include "vmm/cli_sink.h"
#include "vmm/cli_terminal.h"
#include "vmm/family.h"
#include "vmm/hostinfo.h"
#include "vmm/hostlimit.h"
#include "vmm/kernel.h"
#include "vmm/watch.h"

#define MIB         (UINT64_C(1) << 20)
#define DEFAULT_MEM (64 * MIB)
#define POOL_SPARE  (256 * MIB) /* for forks of a small guest */
#define POOL_FACTOR 4           /* ... and of a larger one: an ancestor's frames stay */
#define CTL_FACTOR  16u         /* ... and of one that others may fork as often as they like */
#define POOL_MOST   (UINT64_C(1) << 43)
#define NO_NUMBER   UINT64_MAX

/* For a reader of output that stands still, when the guests have been stopped. */
#define OUTPUT_PATIENCE_NS UINT64_C(1000000000)

struct run_command {
	/* As asked for. */
	uint64_t mem, limit, timeout_ns;
	uint64_t cpus;
	int page_size, faults;
	bool hugetlb, populate, go_on;
	const char *kernel, *initrd, *cmdline, *pmem;
	const char *save, *save_on, *ctl;
	char args[ABI_ARGS_MAX];
	size_t args_len;
	bool args_given;
	struct cli_stats stats;

	/* As it went. */
	struct kvm kvm;
	struct pool *pool;
	struct family *family; /* VMs one after the other; or, with --ctl: */
	struct herd *herd;     /* all at once */
	struct vm *root;       /* of either */
	struct outlet *outlet; /* with --ctl: what waits for stdout's reader */
	struct sink sink;      /* out_lock: output of what was forked, with --ctl */
	pthread_mutex_t out_lock;
	pthread_mutex_t save_lock; /* while an image is written */
	struct stats_run numbers;
	struct watch watch;
	struct cli_terminal *terminal;
	uint64_t started;
	bool watching, saved, save_failed;
	bool timed_out, output_lost;
	bool matched;           /* --save-on's has come; written with the console's lock held */
	uint64_t failed_number; /* of the first VM that did not end with 0 */
	int status;             /* and its status */
	enum kernel_kind kind;
};

/* ---- options ---- */

enum key {
	KEY_MEM = CLI_KEY_OWN,
	KEY_CPUS,
	KEY_PAGE_SIZE,
	KEY_HUGETLB,
	KEY_POPULATE,
	KEY_FAULTS,
	KEY_LIMIT,
	KEY_INITRD,
	KEY_CMDLINE,
	KEY_PMEM,
	KEY_SAVE,
	KEY_SAVE_ON,
	KEY_GO_ON,
	KEY_CTL,
	KEY_TIMEOUT,
	KEY_STATS,
	KEY_STATS_FILE,
};

static const struct argp_option options[] = {
	{"mem", KEY_MEM, "SIZE", 0, "Guest RAM (64M)", 1},
	{"cpus", KEY_CPUS, "N", 0, "Virtual CPUs (1)", 1},
	{"page-size", KEY_PAGE_SIZE, "SIZE", 0, "Frames behind the RAM: auto, 4k, 2m, 1g (auto)",
         1},
	{"hugetlb", KEY_HUGETLB, NULL, 0,
         "Frames of 2m from the pages that the host has set aside; those of 1g always are", 1},
	{"populate", KEY_POPULATE, NULL, 0, "Put memory behind all RAM before the guest starts", 1},
	{"faults", KEY_FAULTS, "PATH", 0, "Who resolves violations: auto, kernel, uffd (auto)", 1},
	{"limit", KEY_LIMIT, "SIZE", 0,
         "The most memory the guest may have, what it copies of an image included (all its RAM)",
         1},
	{"initrd", KEY_INITRD, "FILE", 0, "Initial RAM disk of an operating system's kernel", 2},
	{"cmdline", KEY_CMDLINE, "STRING", 0, "Command line of an operating system's kernel", 2},
	{"pmem", KEY_PMEM, "FILE", 0, "Map FILE copy-on-write as persistent memory (/dev/pmem0)",
         2},
	{"save", KEY_SAVE, "IMAGE", 0, "Save the guest when it says that it is ready, and end", 3},
	{"save-on", KEY_SAVE_ON, "REGEX", 0, "With --save: save when the console prints a match",
         3},
	{"go-on", KEY_GO_ON, NULL, 0, "With --save: go on after saving", 3},
	{"ctl", KEY_CTL, "SOCK", 0,
         "Listen on SOCK for `cowslip ctl`: fork the guest while it runs, save it, pause it", 4},
	{"timeout", KEY_TIMEOUT, "SECONDS", 0, "Stop a guest that runs longer (exit status 124)",
         4},
	{"stats", KEY_STATS, "json", OPTION_ARG_OPTIONAL, "Say what it cost, on stderr", 5},
	{"stats-file", KEY_STATS_FILE, "FILE", 0, "Write the statistics to FILE, as JSON", 5},
	CLI_COMMON_OPTIONS,
};

static int take_cpus(struct run_command *r, const char *arg)
{
	return cli_count("--cpus", arg, 1, VM_MAX_CPUS, &r->cpus);
}

static int take_option(void *to, int key, const char *arg)
{
	struct run_command *r = to;

	switch ((enum key)key) {
	case KEY_MEM:
		return cli_size("--mem", arg, &r->mem);
	case KEY_CPUS:
		return take_cpus(r, arg);
	case KEY_PAGE_SIZE:
		return cli_choose("--page-size", arg, cli_page_words, &r->page_size);
	case KEY_HUGETLB:
		r->hugetlb = true;
		return 0;
	case KEY_POPULATE:
		r->populate = true;
		return 0;
	case KEY_FAULTS:
		return cli_choose("--faults", arg, cli_fault_words, &r->faults);
	case KEY_LIMIT:
		return cli_size("--limit", arg, &r->limit);
	case KEY_INITRD:
		return cli_name("--initrd", arg, &r->initrd);
	case KEY_CMDLINE:
		r->cmdline = arg;
		return 0;
	case KEY_PMEM:
		return cli_name("--pmem", arg, &r->pmem);
	case KEY_SAVE_ON:
		r->save_on = arg;
		return 0;
	case KEY_SAVE:
		return cli_name("--save", arg, &r->save);
	case KEY_GO_ON:
		r->go_on = true;
		return 0;
	case KEY_CTL:
		return cli_name("--ctl", arg, &r->ctl);
	case KEY_TIMEOUT:
		return cli_seconds("--timeout", arg, &r->timeout_ns);
	case KEY_STATS:
		return cli_stats_choose(&r->stats, arg);
	case KEY_STATS_FILE:
		return cli_name("--stats-file", arg, &r->stats.path);
	}
	return -EINVAL;
}

static int add_guest_arg(struct run_command *r, const char *arg)
{
	size_t len = strlen(arg), blank = r->args_given;

	if (len + blank >= sizeof(r->args) - r->args_len) {
		cli_error("guest arguments: longer than %u bytes together; give fewer",
		          ABI_ARGS_MAX - 1);
		return -E2BIG;
	}
	if (blank)
		r->args[r->args_len++] = ' ';
	memcpy(r->args + r->args_len, arg, len + 1);
	r->args_len += len;
	r->args_given = true;
	return 0;
}

static int take_argument(void *to, unsigned index, bool after, const char *arg)
{
	struct run_command *r = to;

	(void)index;
	if (!r->kernel) {
		r->kernel = arg;
		return 0;
	}
	if (after)
		return add_guest_arg(r, arg);
	cli_error("%s: one guest at a time; arguments for the guest go after --", arg);
	return -EINVAL;
}

static const struct cli_command command = {
	.options = options,
	.args_doc = "KERNEL [-- GUEST-ARG...]",
	.doc = "Boot KERNEL: a static ELF64 guest, or an operating system's kernel (bzImage, PVH), "
	       "which gets stdin as its console's input. Its console is stdout, its exit code ours."
	       "\vSizes take K, M, G. Exit status: the guest's own code; 124 it ran out of time; "
	       "125 cowslip failed, or there was no memory for the guest (--limit); 126 the guest "
	       "crashed.",
	.option = take_option,
	.argument = take_argument,
};

/* ---- checks before anything is made ---- */

static const char *page_word(int page_size)
{
	const struct cli_word *w = cli_page_words;

	while (w->value != page_size)
		w++;
	return w->word;
}

static int check_mem(const struct run_command *r)
{
	struct ram_region regions[ARCH_MAX_RAM_REGIONS];
	uint64_t page = page_size_bytes(r->page_size);
	int n = arch_ram_layout(r->mem, r->page_size, regions);

	if (n >= 0)
		return 0;
	if (n == -EFBIG)
		cli_error("--mem %" PRIu64 ": too large; a guest may have at most %" PRIu64 " MiB",
		          r->mem, arch_info.max_ram / MIB);
	else if (!is_aligned(r->mem, page))
		cli_error("--mem %" PRIu64 ": not a multiple of the page size (%" PRIu64 " KiB for "
		          "--page-size %s); give whole pages",
		          r->mem, page >> 10, page_word(r->page_size));
	else
		cli_error("--mem %" PRIu64 ": too small; a guest needs at least %" PRIu64 " KiB",
		          r->mem, arch_info.load_min.v >> 10);
	return n;
}

/*
 * Enough huge pages, where they come from what the host has set aside: said now, for the guest
 * would be stopped by the first that is missing.
 */
static int check_reserve(const struct run_command *r)
{
	uint64_t page = page_size_bytes(r->page_size), want;
	const char *asked = page == MM_HUGE_SIZE ? "--page-size 1g" : "--hugetlb";
	struct hostinfo_huge h;

	if (r->hugetlb && page < MM_BLOCK_SIZE) {
		cli_error("--hugetlb: huge pages have 2 MiB or 1 GiB; add --page-size 2m or 1g");
		return -EINVAL;
	}
	if (!r->hugetlb && r->page_size != PAGE_SIZE_1G)
		return 0;
	if (r->limit && r->limit < page) {
		cli_error("--limit %" PRIu64 ": less than one page of %" PRIu64
		          " MiB, and those are had whole; allow more",
		          r->limit, page / MIB);
		return -EINVAL;
	}
	want = (r->limit ? min_u64(r->limit, r->mem) : r->mem) / page;
	if (hostinfo_huge("", page, &h)) {
		cli_error("%s: this host can set no such pages aside; leave it out", asked);
		return -ENOTSUP;
	}
	if (h.free >= want)
		return 0;
	cli_error("%s: pages of %s: %" PRIu64 " wanted, %" PRIu64 " free of %" PRIu64
	          " set aside; write %" PRIu64 " to %s",
	          asked, page == MM_HUGE_SIZE ? "1 GiB" : "2 MiB", want, h.free, h.all,
	          h.all + want - h.free, h.file);
	return -ENOMEM;
}

static int check(const struct run_command *r)
{
	if (!r->kernel) {
		cli_error("no guest given; `cowslip run KERNEL` boots a static ELF64 program");
		return -EINVAL;
	}
	if (r->go_on && !r->save) {
		cli_error("--go-on: only together with --save; add it or leave this out");
		return -EINVAL;
	}
	if (r->save_on && !r->save) {
		cli_error("--save-on: only together with --save; add it or leave this out");
		return -EINVAL;
	}
	if (r->save && cli_image_may_replace(r->save))
		return -EBUSY;
	if (!is_aligned(r->limit, MM_PAGE_SIZE)) {
		cli_error("--limit %" PRIu64 ": not a multiple of 4 KiB; give whole pages",
		          r->limit);
		return -EINVAL;
	}
	return check_mem(r) || check_reserve(r) ? -EINVAL : 0;
}

static int check_kind(struct run_command *r)
{
	char why[VM_TEXT_MAX];
	int e = kernel_probe(r->kernel, &r->kind, NULL, why, sizeof(why));

	if (e) {
		cli_error("%s", why);
		return e;
	}
	if (r->kind == KERNEL_PROGRAM && (r->initrd || r->cmdline || r->pmem)) {
		cli_error(
			"%s: a program, not an operating system's kernel: --initrd, --cmdline and "
			"--pmem are for those; leave them out",
			r->kernel);
		return -EINVAL;
	}
	if (r->kind == KERNEL_SYSTEM && r->args_given) {
		cli_error("%s: a kernel takes its arguments from --cmdline; leave out what follows "
		          "--",
		          r->kernel);
		return -EINVAL;
	}
	return 0;
}

static int check_watch(struct run_command *r)
{
	char why[VM_TEXT_MAX];

	if (!r->save_on)
		return 0;
	if (watch_init(&r->watch, r->save_on, why, sizeof(why))) {
		cli_error("--save-on %s: %s; give a POSIX extended regular expression", r->save_on,
		          why);
		return -EINVAL;
	}
	r->watching = true;
	return 0;
}

/* ---- while it runs ---- */

static void note_status(struct run_command *r, uint64_t number, int status)
{
	if (status == CLI_OK || number >= r->failed_number)
		return;
	r->failed_number = number;
	r->status = status;
}

/* What was forked from outside speaks at the same time as the first, and is told from it. */
static void on_output(void *ctx, uint64_t number, const void *data, size_t size)
{
	struct run_command *r = ctx;

	pthread_mutex_lock(&r->out_lock);
	if (r->herd && number != 0)
		sink_put(&r->sink, number, data, size);
	else if (r->outlet)
		outlet_put(r->outlet, data, size);
	else
		cli_put(data, size);
	pthread_mutex_unlock(&r->out_lock);
	if (r->watching && number == 0 && !r->matched && watch_feed(&r->watch, data, size)) {
		r->matched = true;
		vm_kick(r->root);
	}
}

static bool has_room(void *ctx, uint64_t wait_ns)
{
	const struct run_command *r = ctx;

	return !r->outlet || outlet_has_room(r->outlet, wait_ns);
}

/* Return: whether the guest goes on. */
static bool save_once(struct run_command *r, struct vm *vm)
{
	uint64_t start = clock_ns();
	struct snapshot_error err;
	int e;

	pthread_mutex_lock(&r->save_lock);
	e = cli_save(vm, r->save, NULL, &err);
	pthread_mutex_unlock(&r->save_lock);
	if (e) {
		cli_error("%s", err.text);
		r->save_failed = true;
		return false;
	}
	cli_say_saved(r->save, clock_ns() - start);
	r->saved = true;
	return r->go_on;
}

static bool on_ready(void *ctx, struct vm *vm)
{
	struct run_command *r = ctx;

	if (!r->save || r->save_on || r->saved)
		return true;
	return save_once(r, vm);
}

static bool on_kicked(void *ctx, struct vm *vm)
{
	struct run_command *r = ctx;

	/* Kicked for a match: only the first VM's console is watched. Others are for --ctl. */
	if (vm_number(vm) != 0 || !r->matched || r->saved)
		return true;
	return save_once(r, vm);
}

/* Who a message is about; the first VM needs no number. */
static const char *who(uint64_t number, char *buf, size_t size)
{
	if (number == 0)
		return "the guest";
	snprintf(buf, size, "VM %" PRIu64 ", a fork,", number);
	return buf;
}

static int end_status(const struct run_command *r, uint64_t number, const struct vm_report *report)
{
	char buf[64], lead[64] = "";
	const char *name = who(number, buf, sizeof(buf));

	switch (report->event) {
	case VM_EXITED:
		return report->code;
	case VM_CRASHED:
		if (number != 0)
			snprintf(lead, sizeof(lead), "VM %" PRIu64 ": ", number);
		cli_report(lead, report->text);
		return CLI_CRASHED;
	case VM_TIMEOUT:
		cli_error("%s ran for %g s and was stopped; allow more with --timeout", name,
		          (double)r->timeout_ns / 1e9);
		return CLI_TIMEOUT;
	case VM_NOMEM:
		cli_error("%s ran out of memory: %s%s", name, report->text,
		          cli_shortage_remedy(report->short_of));
		return CLI_FAILED;
	case VM_READY:
	case VM_FORK:
	case VM_KICKED:
	case VM_DENIED:
	case VM_NEXT:
	case VM_FAILED:
		break;
	}
	cli_error("%s cannot go on: %s", name, report->text);
	return CLI_FAILED;
}

/* With --ctl somebody can give it more. */
static bool on_starved(void *ctx, struct vm *vm, const struct vm_report *report)
{
	const struct run_command *r = ctx;
	uint64_t number = vm_number(vm);
	char buf[64], todo[64] = "";

	if (!r->herd)
		return false;
	if (report->short_of == SHORT_OF_LIMIT)
		snprintf(todo, sizeof(todo), "limit SIZE %" PRIu64 "` gives it more", number);
	else
		snprintf(todo, sizeof(todo), "resume %" PRIu64 "` when there is some", number);
	cli_error("%s stands still, out of memory: %s; `cowslip ctl %s %s",
	          who(number, buf, sizeof(buf)), report->text, r->ctl, todo);
	return true;
}

static bool on_ended(void *ctx, struct vm *vm, const struct vm_report *report)
{
	struct run_command *r = ctx;
	struct vm_times times;
	struct vm_exits exits;
	struct space_stats space;
	struct kvm_counters kvm;

	/* The one that stdin goes to is the first. */
	if (vm_number(vm) == 0) {
		cli_terminal_stop(r->terminal);
		r->terminal = NULL;
	} else if (r->herd) {
		pthread_mutex_lock(&r->out_lock);
		sink_end(&r->sink, vm_number(vm));
		pthread_mutex_unlock(&r->out_lock);
	}
	r->timed_out |= report->event == VM_TIMEOUT;
	note_status(r, vm_number(vm), end_status(r, vm_number(vm), report));
	if (cli_stats_wanted(&r->stats)) {
		vm_times(vm, &times);
		vm_exits(vm, &exits);
		/* Without pagemap the private frames are missing, and only they. */
		(void)space_stats(vm_space(vm), &space);
		/* Not every kernel counts. */
		(void)vm_kvm_stats(vm, &kvm);
		if (r->numbers.vms == 0)
			pool_stats(r->pool, &r->numbers.pool);
		stats_run_add(&r->numbers, &times, &space, &exits, &kvm);
	}
	return false;
}

static void on_failed(void *ctx, uint64_t number, int error, const char *why)
{
	struct run_command *r = ctx;

	(void)error;
	cli_error("VM %" PRIu64 ", forked by the guest, cannot be made: %s", number, why);
	note_status(r, number, CLI_FAILED);
}

/* ---- the command ---- */

static uint64_t pool_bytes(uint64_t ram, uint64_t factor)
{
	uint64_t most = ram < POOL_MOST / factor ? factor * ram : POOL_MOST;

	return min_u64(align_up(max_u64(most, ram + POOL_SPARE), MM_BLOCK_SIZE), POOL_MOST);
}

static struct vm_config vm_config(const struct run_command *r)
{
	return (struct vm_config){
		.kvm = &r->kvm,
		.pool = r->pool,
		.ram_bytes = r->mem,
		.cpus = (unsigned)r->cpus,
		.page_size = r->page_size,
		.hugetlb = r->hugetlb,
		.populate = r->populate,
		.faults = r->faults,
		.limit_bytes = r->limit,
		/* One that runs may be given a limit by `cowslip ctl`. */
		.limit_copies = r->limit || r->ctl,
		.irqchip = r->kind == KERNEL_SYSTEM,
		.pmem = r->pmem,
	};
}

static int boot(struct run_command *r, struct vm_error *err)
{
	const struct kernel_files files = {r->kernel, r->initrd, r->cmdline};
	int e;

	if (r->kind == KERNEL_PROGRAM)
		return vm_boot_elf(r->root, r->kernel, r->args, err);
	e = vm_boot_kernel(r->root, &files, err);
	if (e == 0)
		r->terminal = cli_terminal_start(r->root);
	return e;
}

static int make_root(struct run_command *r, const struct family_config *config,
                     struct vm_error *err)
{
	int e;

	if (r->ctl) {
		e = herd_create(config, &r->herd, err);
		r->root = e ? NULL : herd_root(r->herd);
	} else {
		e = family_create(config, &r->family, err);
		r->root = e ? NULL : family_root(r->family);
	}
	return e;
}

/*
 * What the guests have said is written, however long that takes its reader; but who has had them
 * stopped, or set them a time, does not wait for one that reads nothing.
 */
static void end_output(struct run_command *r, bool hurried)
{
	size_t lost = outlet_close(r->outlet, hurried ? OUTPUT_PATIENCE_NS : 0);

	r->outlet = r->sink.outlet = NULL;
	r->output_lost = lost > 0;
	if (lost > 0)
		cli_error("standard output: its reader takes nothing; the last %zu bytes are lost",
		          lost);
}

/* All VMs, from first to last. Return: 0; -errno with err->text, then none has run. */
static int run_family(struct run_command *r, struct vm_error *err)
{
	struct cli_ctl answers = {.herd = r->herd, .pool = r->pool, .save_lock = &r->save_lock};
	const struct ctl_config config = {r->ctl, cli_ctl_answer, &answers};
	struct ctl *ctl;
	int e;

	if (!r->ctl) {
		family_run(r->family);
		return 0;
	}
	e = outlet_open(&r->outlet);
	if (e) {
		snprintf(err->text, sizeof(err->text), "a thread for its output: %s", strerror(-e));
		return e;
	}
	r->sink.outlet = r->outlet;
	e = ctl_start(&config, &ctl, err);
	if (e == 0) {
		herd_run(r->herd);
		ctl_stop(ctl);
	}
	end_output(r, atomic_load(&answers.stopped) || r->timed_out);
	return e;
}

static int boot_and_run(struct run_command *r)
{
	const struct family_hooks hooks = {
		.ctx = r,
		.output = on_output,
		.room = has_room,
		.ready = on_ready,
		.kicked = on_kicked,
		.ended = on_ended,
		.starved = on_starved,
		.failed = on_failed,
	};
	struct family_config config = {
		.vm = vm_config(r),
		.timeout_ns = r->timeout_ns,
		.first_child = 1,
		.child_step = 1,
		.hooks = &hooks,
	};
	struct pool_stats at_end;
	struct vm_error err;
	int e;

	e = make_root(r, &config, &err);
	if (!e)
		e = boot(r, &err);
	if (!e)
		e = run_family(r, &err);
	if (e)
		cli_error("%s%s", err.text,
		          e == -ENOMEM && r->limit ? "; allow more with --limit" : "");
	/* Where no VM has run, nobody has ended the terminal's either. */
	cli_terminal_stop(r->terminal);
	pool_stats(r->pool, &at_end);
	r->numbers.pool.peak_frames = at_end.peak_frames;
	herd_destroy(r->herd);
	family_destroy(r->family);
	sink_close(&r->sink);
	return e;
}

static int run_guest(struct run_command *r)
{
	char why[HOSTLIMIT_TEXT_MAX];
	int e = cli_open_kvm(&r->kvm);

	if (e)
		return e;
	e = pool_create(pool_bytes(r->mem, r->ctl ? CTL_FACTOR : POOL_FACTOR), &r->pool);
	if (e) {
		cli_error("memory for the guest cannot be reserved: %s%s", hostlimit_why(e, 0, why),
		          e == -EFBIG    ? "; raise the limit on file sizes (ulimit -f)"
		          : e == -ENOMEM ? "; give it less with --mem"
		                         : "");
		goto close_kvm;
	}
	e = boot_and_run(r);
	pool_put(r->pool);
close_kvm:
	kvm_close(&r->kvm);
	return e;
}

static int put_stats(struct run_command *r)
{
	json_t *json;
	int e;

	if (!cli_stats_wanted(&r->stats) || r->numbers.vms == 0)
		return 0;
	r->numbers.total_ns = clock_ns() - r->started;
	if (r->stats.text)
		stats_run_text(&r->numbers, stderr);
	json = stats_run_json(&r->numbers);
	e = cli_stats_put(&r->stats, json);
	json_decref(json);
	return e;
}

static int final_status(struct run_command *r)
{
	if (r->save_failed || (r->output_lost && r->status == CLI_OK))
		return CLI_FAILED;
	if (r->save && !r->saved && r->status != CLI_CRASHED && r->status != CLI_TIMEOUT &&
	    r->status != CLI_FAILED) {
		cli_error("%s: nothing saved: the guest ended (%d) before %s", r->save, r->status,
		          r->save_on ? "its console printed a match of --save-on"
		                     : "it rang READY; save a guest that does, or use --save-on");
		return CLI_FAILED;
	}
	return r->status;
}

static int run_all(struct run_command *r)
{
	int status;

	if (check(r) || cli_stats_open(&r->stats))
		return CLI_FAILED;
	status = check_kind(r) || check_watch(r) || run_guest(r) ? CLI_FAILED : final_status(r);
	if (put_stats(r) && status == CLI_OK)
		status = CLI_FAILED;
	cli_stats_close(&r->stats);
	if (r->watching)
		watch_fini(&r->watch);
	return status;
}

int cli_run(int argc, char **argv)
{
	struct run_command *r = calloc(1, sizeof(*r));
	enum cli_parsed parsed;
	int status;

	if (!r) {
		cli_error("no memory to start");
		return CLI_FAILED;
	}
	r->mem = DEFAULT_MEM;
	r->cpus = 1;
	r->failed_number = NO_NUMBER;
	pthread_mutex_init(&r->out_lock, NULL);
	pthread_mutex_init(&r->save_lock, NULL);
	r->started = clock_ns();
	parsed = cli_parse(&command, argc, argv, r);
	status = parsed == CLI_GO ? run_all(r) : cli_parsed_status(parsed);
	free(r);
	return status;
}
