// SPDX-License-Identifier: MIT
/*
 * tests/fuzz/replay.c - runs a fuzz target on files, without a fuzzer: any compiler will do.
 *
 * usage: PROGRAM FILE...
 *
 * For a target's corpus, and for what a fuzzer has found. One line of TAP for each file; an input
 * that fails ends the program, and the lines that are then missing count as failures.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define INPUT_MAX (64u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Return: 0, or -1 when the file cannot be read. */
static int replay(const char *path)
{
	FILE *f = fopen(path, "rbe");
	uint8_t *data = malloc(INPUT_MAX), *exact = NULL;
	size_t size = 0;
	int e = f && data ? 0 : -1;

	if (e == 0)
		size = fread(data, 1, INPUT_MAX, f);
	if (e == 0 && (ferror(f) || size == INPUT_MAX))
		e = -1;
	/* Not a byte more than there is, so that a sanitizer sees what reads beyond. */
	if (e == 0)
		exact = realloc(data, size ? size : 1);
	if (exact) {
		data = exact;
		LLVMFuzzerTestOneInput(data, size);
	}
	free(data);
	if (f)
		fclose(f);
	return exact ? 0 : -1;
}

int main(int argc, char **argv)
{
	int failed = 0;

	printf("1..%d\n", argc - 1);
	for (int i = 1; i < argc; i++) {
		int e = replay(argv[i]);

		printf("%s %d - %s\n", e ? "not ok" : "ok", i, argv[i]);
		fflush(stdout);
		failed |= e != 0;
	}
	return failed;
}
