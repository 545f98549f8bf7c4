// SPDX-License-Identifier: MIT
/*
 * tests/unit/test_bench_host.c - the host's state, read from trees of files that are given.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/host.h"
#include "tests/unit/helpers.h"
#include "vmm/hostinfo.h"

/* A file and what is in it; the list ends with a NULL. */
struct file {
	const char *path, *text;
};

static void make_parents(char *path)
{
	for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
		*at = '\0';
		cr_assert(mkdir(path, 0700) == 0 || errno == EEXIST, "%s", path);
		*at = '/';
	}
}

static void make_root(char *root, const struct file *f)
{
	strcpy(root, "/tmp/cowslip-host-XXXXXX");
	cr_assert(mkdtemp(root));
	for (; f->path; f++) {
		char path[512];
		FILE *to;

		snprintf(path, sizeof(path), "%s%s", root, f->path);
		make_parents(path);
		to = fopen(path, "we");
		cr_assert(to, "%s", path);
		cr_assert(fputs(f->text, to) >= 0);
		cr_assert_eq(fclose(to), 0);
	}
}

static void drop_root(const char *root, const struct file *f)
{
	char path[512], *slash;

	for (; f->path; f++) {
		snprintf(path, sizeof(path), "%s%s", root, f->path);
		unlink(path);
		/* Folders go with their last file. */
		while ((slash = strrchr(path, '/')) && slash > path + strlen(root)) {
			*slash = '\0';
			rmdir(path);
		}
	}
	cr_assert_eq(rmdir(root), 0);
}

static void read_files(struct host *h, const struct file *f)
{
	char root[64];

	make_root(root, f);
	host_read_under(h, root);
	drop_root(root, f);
}

/* Sentences, one after the other, each with a newline. */
static void note(void *ctx, const char *sentence)
{
	char *all = ctx;

	strcat(strcat(all, sentence), "\n");
}

static const struct file unified[] = {
	{"/proc/cpuinfo", "processor\t: 0\nmodel name\t: A CPU  @ 2 GHz \nmodel name\t: another\n"},
	{"/proc/loadavg", "1.50 0.75 0.25 2/99 12345\n"},
	{"/proc/meminfo", "MemTotal:       16000 kB\nMemFree:  100 kB\nMemAvailable:    8000 kB\n"},
	{"/proc/self/cgroup", "0::/user/me\n"},
	{"/sys/devices/system/cpu/online", "0-3,5,8-9\n"},
	{"/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"},
	{"/sys/kernel/mm/transparent_hugepage/shmem_enabled",
         "always within_size advise [never]\n"},
	{"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "12\n"},
	{"/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "1\n"},
	{"/sys/module/kvm/parameters/nx_huge_pages", "Y\n"},
	{"/sys/fs/cgroup/user/me/memory.max", "max\n"},
	{"/sys/fs/cgroup/user/memory.max", "4096000\n"},
	{"/sys/fs/cgroup/user/me/cpu.max", "150000 100000\n"},
	{"/sys/fs/cgroup/user/cpu.max", "max 100000\n"},
	{0},
};

Test(bench_host, cgroup_version_2)
{
	struct host h;

	read_files(&h, unified);
	cr_assert_str_eq(h.cpu, "A CPU  @ 2 GHz");
	cr_assert_eq(h.cpus, 7);
	cr_assert_float_eq(h.load[0], 1.5, 1e-9);
	cr_assert_float_eq(h.load[2], 0.25, 1e-9);
	cr_assert_str_eq(h.thp, "madvise");
	cr_assert_str_eq(h.shmem_thp, "never");
	cr_assert_str_eq(h.nx_huge_pages, "Y");
	cr_assert_eq(h.huge_2m, 12);
	cr_assert_eq(h.huge_1g, 1);
	cr_assert_eq(h.memory_total, 16000 * 1024);
	cr_assert_eq(h.memory_available, 8000 * 1024);
	cr_assert_str_eq(h.cgroup, "/user/me");
	cr_assert_eq(h.memory_max, 4096000, "the one above has the limit");
	cr_assert_float_eq(h.cpu_max, 1.5, 1e-9);
	cr_assert_eq(host_memory_room(&h), 4096000);
	cr_assert_neq(h.kernel[0], '\0');
	cr_assert_neq(h.kvm[0], '\0');
	cr_assert_neq(h.kvm_told_by[0], '\0');
}

/* Hierarchies of their own, and the one of version 2 without controllers beside them. */
static const struct file split[] = {
	{"/proc/self/cgroup",
         "9:name=systemd:/\n4:memory:/box\n2:cpuacct,cpu:/box\n1:cpuset:/other\n0::/elsewhere\n"},
	{"/proc/meminfo", "MemTotal: 16000 kB\nMemAvailable: 1 kB\n"},
	{"/sys/fs/cgroup/memory/box/memory.limit_in_bytes", "8192000\n"},
	{"/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"},
	{"/sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "-1\n"},
	{"/sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n"},
	{"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n"},
	{"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"},
	{0},
};

Test(bench_host, cgroup_version_1)
{
	struct host h;

	read_files(&h, split);
	cr_assert_str_eq(h.cgroup, "/box");
	cr_assert_eq(h.memory_max, 8192000);
	cr_assert_float_eq(h.cpu_max, 0.5, 1e-9);
	cr_assert_eq(host_memory_room(&h), 1024, "less is available than allowed");
}

/* A host that shows nothing: nothing is made up. */
Test(bench_host, nothing_there)
{
	static const struct file none[] = {{0}};
	struct host h;
	json_t *j;

	read_files(&h, none);
	cr_assert_eq(h.cpus, 0);
	cr_assert_str_empty(h.cpu);
	cr_assert_eq(h.memory_max, UINT64_MAX);
	cr_assert_eq(h.cpu_max, 0);
	j = host_json(&h);
	cr_assert(json_is_null(json_object_get(j, "cpu")));
	cr_assert(json_is_null(json_object_get(j, "thp")));
	cr_assert(json_is_null(json_object_get(json_object_get(j, "cgroup"), "memory_max_bytes")));
	json_decref(j);
}

Test(bench_host, json)
{
	const json_t *part;
	struct host h;
	json_t *j;

	read_files(&h, unified);
	j = host_json(&h);
	cr_assert_str_eq(json_string_value(json_object_get(j, "thp")), "madvise");
	cr_assert_eq(json_integer_value(json_object_get(j, "cpus")), 7);
	part = json_object_get(j, "cgroup");
	cr_assert_eq(json_integer_value(json_object_get(part, "memory_max_bytes")), 4096000);
	cr_assert_float_eq(json_real_value(json_object_get(part, "cpu_max")), 1.5, 1e-9);
	part = json_object_get(j, "huge_pages");
	cr_assert_eq(json_integer_value(json_object_get(part, "2m")), 12);
	cr_assert_eq(json_array_size(json_object_get(j, "load")), 3);
	json_decref(j);
}

Test(bench_host, warnings)
{
	struct host h = {.cpus = 4, .load = {2.0, 9, 9}, .memory_max = UINT64_MAX};
	char said[1024] = "";

	host_warn(&h, note, said);
	cr_assert_str_empty(said, "%s", said);
	h.load[0] = 2.1;
	host_warn(&h, note, said);
	cr_assert_str_eq(said, "the host was busy before the run: load 2.10 on 4 CPUs\n");
	said[0] = '\0';
	h.load[0] = 0;
	h.cpu_max = 1.5;
	host_warn(&h, note, said);
	cr_assert(strstr(said, "1.50 of 4 CPUs"), "%s", said);
}

static void read_watch(struct host_watch *w, const char *stat)
{
	const struct file files[] = {{"/proc/stat", stat}, {0}};
	char root[64];

	make_root(root, files);
	host_watch_read(w, root);
	drop_root(root, files);
}

Test(bench_host, steal)
{
	struct host_watch before, little, much;
	char said[1024] = "";

	read_watch(&before, "cpu  100 0 100 800 0 0 0 0 50 0\ncpu0 1 2 3\n");
	read_watch(&little, "cpu  200 0 100 1680 0 0 0 20 60 0\n");
	read_watch(&much, "cpu  200 0 100 1650 0 0 0 50 60 0\n");
	cr_assert_eq(before.total, 1000, "guest time is in user's already");
	cr_assert_eq(much.steal, 50);
	host_watch_judge(&before, &little, note, said);
	cr_assert_str_empty(said, "20 of 1,000 ticks are not worth a word: %s", said);
	host_watch_judge(&before, &much, note, said);
	cr_assert(strstr(said, "took 5 %"), "%s", said);
	said[0] = '\0';
	host_watch_judge(&much, &much, note, said);
	cr_assert_str_empty(said);
}

Test(bench_host, this_one)
{
	struct host_watch w;
	struct host h;

	host_read(&h);
	host_watch_start(&w);
	cr_assert_gt(h.cpus, 0);
	cr_assert_gt(h.memory_total, h.memory_available);
	cr_assert_gt(h.memory_available, 0);
	cr_assert_gt(w.total, 0);
}

Test(bench_host, warm)
{
	cr_assert_eq(host_warm(65 * MIB), 0);
	cr_assert_eq(host_warm(UINT64_C(1) << 62), -ENOMEM);
}

Test(bench_host, chosen_word)
{
	char one[] = "[always] madvise", plain[] = "within_size", broken[] = "[always madvise";

	hostinfo_chosen(one);
	hostinfo_chosen(plain);
	hostinfo_chosen(broken);
	cr_assert_str_eq(one, "always");
	cr_assert_str_eq(plain, "within_size");
	cr_assert_str_eq(broken, "[always madvise");
}

Test(bench_host, lines_and_numbers)
{
	static const struct file files[] = {
		{"/number", "42 of them\n"}, {"/word", "none\n"}, {"/empty", ""}, {0}};
	char root[64], text[8];
	uint64_t n = 7;

	make_root(root, files);
	cr_assert_eq(hostinfo_number(root, "/number", &n), 0);
	cr_assert_eq(n, 42);
	cr_assert_eq(hostinfo_number(root, "/word", &n), -EINVAL);
	cr_assert_eq(hostinfo_number(root, "/empty", &n), -ENODATA);
	cr_assert_eq(hostinfo_number(root, "/missing", &n), -ENOENT);
	cr_assert_eq(hostinfo_line(root, "/number", text, sizeof(text)), 0);
	cr_assert_str_eq(text, "42 of t", "cut to the room there is");
	cr_assert_eq(hostinfo_field(root, "/number", "nothing", text, sizeof(text)), -ENOENT);
	cr_assert_str_empty(text);
	drop_root(root, files);
}
