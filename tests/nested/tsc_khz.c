// SPDX-License-Identifier: MIT
/*
 * tests/nested/tsc_khz.c - prints the frequency of this host's time stamp counter, in kHz.
 *
 * QEMU's emulation hands the host's counter through. A kernel that finds out for itself how fast it
 * is, at boot, is wrong by factors where the emulator has to wait for a CPU just then; its clock
 * then runs fast for as long as it lives.
 *
 * Each end of the measurement is the tightest of several pairs of readings, so being interrupted
 * does no harm. Exit status: 0; 1 where there is no such clock. Concurrency: one thread.
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

#define TRIES      64
#define MEASURE_NS 100000000

struct reading {
	uint64_t ns, cycles;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	if (clock_gettime(CLOCK_MONOTONIC_RAW, &t))
		return 0;
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static struct reading read_both(void)
{
	struct reading best = {0, 0};
	uint64_t shortest = UINT64_MAX;

	for (int i = 0; i < TRIES; i++) {
		uint64_t before = __rdtsc(), ns = now_ns(), after = __rdtsc();

		if (after - before < shortest) {
			shortest = after - before;
			best = (struct reading){ns, before + shortest / 2};
		}
	}
	return best;
}

int main(void)
{
	const struct timespec pause = {.tv_nsec = MEASURE_NS};
	struct reading a = read_both(), b;

	nanosleep(&pause, NULL);
	b = read_both();
	if (b.ns <= a.ns || b.cycles <= a.cycles)
		return 1;
	printf("%lu\n", (b.cycles - a.cycles) * 1000000 / (b.ns - a.ns));
	return 0;
}
