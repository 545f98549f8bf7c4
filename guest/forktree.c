// SPDX-License-Identifier: MIT
/*
 * guest/forktree.c - forks of forks: every level sees its ancestors' memory as of their forks.
 *
 * The VM that boots is level 0. At each level a VM
 *   1. checks every page: what its ancestors wrote before they forked, nothing they wrote after
 *   2. writes its level's nonce to the log and overwrites some pages, keeping the others
 *   3. forks WIDTH children, which go on one level deeper; after each fork its own pages must be
 *      unchanged
 *   4. scribbles over all pages, which no child may ever see
 *   5. prints `level 3 vm 7 ok`
 * so that data of every age lies in one set of pages.
 *
 * Arguments: DEPTH (default 4) and WIDTH (default 1), plain numbers.
 * Exits 0; 3 for a page that is wrong, 4 for one that holds an ancestor's later scribble (LEAK), 5
 * when the VMM does not fork.
 */
#include "guest/isa.h"

#define MAX_DEPTH  64u
#define PAGES      32u
#define PAGE_WORDS (GUEST_PAGE / sizeof(uint64_t))

struct tree {
	uint64_t depth;
	uint64_t width;
	uint64_t vm;                 /* number of this VM */
	unsigned level;              /* of this VM */
	uint64_t *pages;             /* PAGES of them, in the heap */
	uint64_t log[MAX_DEPTH + 1]; /* nonce of each level, 0: not written yet */
};

static struct tree tree;

static bool level_writes(unsigned level, uint64_t page)
{
	return level == 0 || mix64(level * PAGES + page) % 3 == 0;
}

/* The level whose data `page` holds in a VM of level `level` once it has written its own. */
static unsigned writer_of(unsigned level, uint64_t page)
{
	while (!level_writes(level, page))
		level--;
	return level;
}

static uint64_t data(uint64_t nonce, uint64_t position)
{
	return mix64(nonce + position);
}

static uint64_t scribble(uint64_t nonce, uint64_t position)
{
	return mix64(~nonce - position);
}

static bool is_scribble(uint64_t found, uint64_t position)
{
	for (unsigned l = 0; l < tree.level; l++)
		if (found == scribble(tree.log[l], position))
			return true;
	return false;
}

static int report(uint64_t position, uint64_t found, unsigned writer)
{
	bool leak = is_scribble(found, position);

	print("level %u vm %lu %s page %lu word %lu: found %016lx, ", tree.level, tree.vm,
	      leak ? "LEAK" : "MISMATCH", position / PAGE_WORDS, position % PAGE_WORDS, found);
	print("level %u had written %016lx\n", writer, data(tree.log[writer], position));
	return leak ? GUEST_LEAK : GUEST_MISMATCH;
}

/* Check every word of every page against what levels 0..`level` wrote. Return: an exit code. */
static int verify(unsigned level)
{
	for (uint64_t i = 0; i < PAGES * PAGE_WORDS; i++) {
		unsigned writer = writer_of(level, i / PAGE_WORDS);

		if (tree.pages[i] != data(tree.log[writer], i))
			return report(i, tree.pages[i], writer);
	}
	for (unsigned l = 0; l <= tree.depth; l++) {
		if ((tree.log[l] != 0) == (l <= level))
			continue;
		print("level %u vm %lu MISMATCH log of level %u is %016lx\n", tree.level, tree.vm,
		      l, tree.log[l]);
		return GUEST_MISMATCH;
	}
	return GUEST_OK;
}

static void write_level(void)
{
	uint64_t nonce = mix64(isa_cycles() + mix64(tree.vm)) | 1;

	tree.log[tree.level] = nonce;
	for (uint64_t i = 0; i < PAGES * PAGE_WORDS; i++)
		if (level_writes(tree.level, i / PAGE_WORDS))
			tree.pages[i] = data(nonce, i);
}

static int scribble_all(void)
{
	uint64_t nonce = tree.log[tree.level];

	for (uint64_t i = 0; i < PAGES * PAGE_WORDS; i++)
		tree.pages[i] = scribble(nonce, i);
	for (uint64_t i = 0; i < PAGES * PAGE_WORDS; i++) {
		if (tree.pages[i] == scribble(nonce, i))
			continue;
		print("level %u vm %lu MISMATCH own scribble, page %lu\n", tree.level, tree.vm,
		      i / PAGE_WORDS);
		return GUEST_MISMATCH;
	}
	return GUEST_OK;
}

/* What a child finds. Return: an exit code. */
static int become_child(const struct abi_request *self)
{
	tree.level++;
	if (self->clone == 0 || self->clone == tree.vm) {
		print("level %u MISMATCH child of vm %lu is called vm %lu\n", tree.level, tree.vm,
		      self->clone);
		return GUEST_MISMATCH;
	}
	tree.vm = self->clone;
	return verify(tree.level - 1);
}

enum step {
	STEP_FAILED,
	STEP_PARENT, /* all children forked, own data intact */
	STEP_CHILD,  /* we are a child, and found our ancestors' data right */
};

/* Fork the children of this level. *code is set when it failed. */
static enum step fork_children(int *code)
{
	const struct abi_request *self;

	for (uint64_t i = 0; i < tree.width; i++) {
		int child = guest_fork(&self);

		if (child < 0) {
			print("level %u vm %lu fork failed: errno %d\n", tree.level, tree.vm,
			      -child);
			*code = GUEST_NO_FORK;
			return STEP_FAILED;
		}
		*code = child ? verify(tree.level) : become_child(self);
		if (*code != GUEST_OK)
			return STEP_FAILED;
		if (!child)
			return STEP_CHILD;
	}
	return STEP_PARENT;
}

static bool set_up(void)
{
	static const char *const allowed[] = {"#", NULL};
	uint64_t room;

	tree.depth = 4;
	tree.width = 1;
	if (!args_allowed(allowed))
		return false;
	parse_size(arg_word(0), &tree.depth);
	parse_size(arg_word(1), &tree.width);
	tree.pages = guest_heap(GUEST_PAGE, &room);
	if (tree.depth <= MAX_DEPTH && room >= PAGES * GUEST_PAGE)
		return true;
	print("forktree: wants a depth of at most %u, and %lu KiB of heap (there are %lu)\n",
	      MAX_DEPTH, PAGES * GUEST_PAGE >> 10, room >> 10);
	return false;
}

int guest_main(void)
{
	enum step step = STEP_CHILD;
	int code = GUEST_OK;

	if (!set_up())
		return GUEST_USAGE;
	while (step == STEP_CHILD) {
		write_level();
		code = verify(tree.level);
		if (code != GUEST_OK)
			return code;
		step = tree.level < tree.depth ? fork_children(&code) : STEP_PARENT;
	}
	if (step == STEP_PARENT)
		code = verify(tree.level);
	if (code == GUEST_OK)
		code = scribble_all();
	if (code == GUEST_OK)
		print("level %u vm %lu ok\n", tree.level, tree.vm);
	return code;
}
