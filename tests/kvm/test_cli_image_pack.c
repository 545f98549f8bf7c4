// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_cli_image_pack.c - `cowslip image pack` and `unpack`: files, pipes, signals, and
 * guests that go on from what was unpacked.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/kvm/command.h"

TestSuite(cli_image_pack, .init = scratch_make, .fini = scratch_remove, .timeout = 300);

static void succeed(const char *const *args, const char *lead)
{
	struct said s = run(args);

	cr_assert_eq(s.status, 0, "%d %s", s.status, s.err);
	cr_assert(!lead || lines_with(s.err, lead) == 1, "%s", s.err);
	said_free(&s);
}

/* a.cow, and b.cow that lies partly in it, both at a READY. */
static void save_pair(void)
{
	succeed(ARGS("run", "--save", scratch("a.cow"), guest("memwalk"), "--", "size=16M",
	             "ready=3"),
	        "saved ");
	succeed(ARGS("clone", scratch("a.cow"), "--save", scratch("b.cow")), "saved ");
}

static void make_directory(const char *name)
{
	cr_assert_eq(mkdir(scratch(name), 0700), 0);
}

static void expect_every_word(const char *image)
{
	struct said s = run(ARGS("clone", image));

	cr_assert_eq(s.status, 0, "%s", s.err);
	cr_assert_eq(lines_with(s.out, "memwalk: every word ok"), 1, "%s", s.out);
	said_free(&s);
}

/* "hash" of `image info --json`. */
static void hash_of(const char *image, char hash[64])
{
	struct said s = run(ARGS("image", "info", "--json", image));
	json_t *json = json_loads(s.out, 0, NULL);

	cr_assert_eq(s.status, 0, "%s", s.err);
	snprintf(hash, 64, "%s", json_string_value(json_object_get(json, "hash")));
	json_decref(json);
	said_free(&s);
}

Test(cli_image_pack, there_and_back)
{
	char there[64], back[64];
	struct stat packed;

	save_pair();
	make_directory("d");
	succeed(ARGS("image", "pack", scratch("b.cow"), "-o", scratch("b.pack")), "packed ");
	cr_assert_eq(stat(scratch("b.pack"), &packed), 0);
	/* Counted words: they compress well. */
	cr_assert_lt(packed.st_size, 4 << 20);
	succeed(ARGS("image", "unpack", scratch("b.pack"), "--output", scratch("d/c.cow")),
	        "saved ");
	succeed(ARGS("image", "diff", scratch("b.cow"), scratch("d/c.cow")), NULL);
	succeed(ARGS("image", "diff", scratch("a.cow"), scratch("d/a.cow")), NULL);
	succeed(ARGS("image", "verify", scratch("d/c.cow")), NULL);
	hash_of(scratch("b.cow"), there);
	hash_of(scratch("d/c.cow"), back);
	cr_assert_str_eq(there, back);
	/* Of the first pair nothing is needed. */
	cr_assert_eq(unlink(scratch("a.cow")), 0);
	cr_assert_eq(unlink(scratch("b.cow")), 0);
	expect_every_word(scratch("d/c.cow"));
}

Test(cli_image_pack, through_a_pipe)
{
	const char *cowslip = getenv("COWSLIP");
	char line[1024];
	int status;

	save_pair();
	make_directory("d");
	cowslip = cowslip ? cowslip : "build/cowslip";
	snprintf(line, sizeof(line),
	         "%s image pack --level 1 %s -o - 2>/dev/null | "
	         "%s image unpack - -o %s 2>/dev/null",
	         cowslip, scratch("b.cow"), cowslip, scratch("d/b.cow"));
	status = system(line);
	cr_assert_eq(status, 0, "%#x: %s", (unsigned)status, line);
	succeed(ARGS("image", "diff", scratch("b.cow"), scratch("d/b.cow")), NULL);
	/* Nobody reads: one line. */
	{
		struct said s = run_in(ARGS("image", "pack", scratch("b.cow"), "-o", "-"),
		                       &(struct circumstances){.out_broken = true});

		cr_assert_eq(s.status, 125);
		cr_assert_eq(lines(s.err), 1, "%s", s.err);
		cr_assert_not_null(strstr(s.err, "of the output: Broken pipe"), "%s", s.err);
		said_free(&s);
	}
}

Test(cli_image_pack, one_line_each)
{
	const char *a = scratch("a.cow"), *pack = scratch("a.pack");

	save_pair();
	succeed(ARGS("image", "pack", a, "-o", pack), "packed ");
	refused(ARGS("image", "pack", a), "no name to write to; `cowslip image pack IMAGE");
	refused(ARGS("image", "unpack", pack), "no name to write to; `cowslip image unpack FILE");
	refused(ARGS("image", "pack", a, "-o", ""), "the name is empty");
	refused(ARGS("image", "pack", a, "-o", pack, "--level", "20"), "from 1 to 19");
	refused(ARGS("image", "pack", a, "-o", scratch("b.cow")), "b.cow is an image");
	refused(ARGS("image", "pack", pack, "-o", scratch("x")), "not a cowslip image");
	refused(ARGS("image", "pack", scratch("none"), "-o", scratch("x")), "cannot be opened");
	refused(ARGS("image", "pack", a, "-o", scratch("no/x")), "opening its directory");
	refused(ARGS("image", "unpack", pack, "-o", "-"), "an image goes to a file");
	refused(ARGS("image", "unpack", pack, "-o", pack), "is a packed image");
	refused(ARGS("image", "unpack", pack, "-o", a), "b.cow lies partly in it");
	refused(ARGS("image", "unpack", a, "-o", scratch("x")), "is an image already");
	refused(ARGS("image", "unpack", scratch("none"), "-o", scratch("x")), "cannot be opened");
	refused(ARGS("image", "unpack", "/dev/null", "-o", scratch("x")), "no magic");
	refused(ARGS("image", "unpack", scratch(""), "-o", scratch("x")), "Is a directory");
	refused(ARGS("image", "info", pack), "not a cowslip image");
	refused(ARGS("clone", pack), "not a cowslip image");
	copy_patched(pack, scratch("cut"), 5000, 0, "C", 1);
	refused(ARGS("image", "unpack", scratch("cut"), "-o", scratch("x")),
	        "is truncated: it ends at offset 5000");
	cr_assert_eq(scratch_entries(), 4);
}

/* Told to end, it takes its unfinished files along: those of the layers too. */
Test(cli_image_pack, signals_leave_nothing)
{
	unsigned ended = 0;

	save_pair();
	make_directory("d");
	succeed(ARGS("image", "pack", scratch("b.cow"), "-o", scratch("b.pack")), "packed ");
	for (unsigned i = 0; i < 20; i++) {
		struct running r = start(
			ARGS("image", "unpack", scratch("b.pack"), "-o", scratch("d/b.cow")), NULL);
		struct said s;

		usleep(1000 * (random() % 60));
		kill(r.pid, i % 2 ? SIGTERM : SIGINT);
		s = finish(&r);
		cr_assert(s.status == 0 || s.status > 1000, "%d %s", s.status, s.err);
		ended += s.status > 1000;
		said_free(&s);
		/* There, whole, or not. */
		if (access(scratch("d/b.cow"), F_OK) == 0)
			succeed(ARGS("image", "verify", scratch("d/b.cow")), NULL);
		if (access(scratch("d/a.cow"), F_OK) == 0)
			succeed(ARGS("image", "verify", scratch("d/a.cow")), NULL);
		unlink(scratch("d/b.cow"));
		unlink(scratch("d/a.cow"));
		cr_assert_eq(rmdir(scratch("d")), 0, "something is left");
		make_directory("d");
	}
	cr_assert_gt(ended, 0);
}
