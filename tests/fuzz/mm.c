// SPDX-License-Identifier: MIT
/*
 * tests/fuzz/mm.c - the memory manager's model (tests/unit/model.h), driven by a fuzzer's input.
 *
 * The first byte picks the pool and the fault paths; every number the model asks for takes the next
 * bytes, as many as its range needs. Input that runs out ends the run at the operation's end.
 * Counts are recomputed after each operation, bytes compared after some. Where userfaultfd is not
 * permitted, all spaces are on the kernel path.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "mm/fault.h"
#include "tests/unit/model.h"

enum { MAX_STEPS = 100, CHECK_EVERY = 8 };

struct input {
	const uint8_t *at, *end;
};

static uint64_t input_below(void *ctx, uint64_t n)
{
	struct input *in = ctx;
	uint64_t v = 0;

	for (uint64_t most = n - 1; most > 0 && in->at < in->end; most >>= 8)
		v = v << 8 | *in->at++;
	return v % n;
}

static void input_failed(void *ctx, const char *text)
{
	(void)ctx;
	fprintf(stderr, "model: %s\n", text);
	abort();
}

static enum fault_choice paths(uint8_t byte)
{
	static const enum fault_choice all[] = {FAULTS_AUTO, FAULTS_KERNEL, FAULTS_UFFD};
	int fd = fault_uffd_open();

	if (fd < 0)
		return FAULTS_KERNEL;
	close(fd);
	return all[byte % (sizeof(all) / sizeof(all[0]))];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, data + size};
	struct model_env env = {input_below, input_failed, &in, FAULTS_KERNEL, false};
	uint8_t first = (uint8_t)input_below(&in, 256);
	struct model *m;

	env.faults = paths(first >> 1);
	m = model_open(&env, first & 1 ? MODEL_POOL_SHORT : MODEL_POOL_ROOMY);
	for (unsigned i = 0; i < MAX_STEPS && in.at < in.end; i++) {
		model_step(m);
		model_audit(m);
		if (i % CHECK_EVERY == CHECK_EVERY - 1)
			model_check(m, false);
	}
	model_check(m, true);
	model_close(m);
	return 0;
}
