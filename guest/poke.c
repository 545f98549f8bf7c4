// SPDX-License-Identifier: MIT
/*
 * guest/poke.c - loads and stores from outside, made in user mode: page tables included, which a
 * guest of this ABI may write like any memory.
 *
 * Rings READY; then its input is an array of struct poke. Each load is answered with eight bytes of
 * output. Exits 0; 2 when the input is no such array.
 */
#include "guest/poke.h"

#include "guest/isa.h"

int guest_main(void)
{
	static struct poke pokes[POKES_MAX];
	int64_t size;

	(void)guest_ready();
	size = guest_input(0, pokes, sizeof(pokes));
	if (size < 0 || size % (int64_t)sizeof(pokes[0]))
		return GUEST_USAGE;
	for (int64_t i = 0; i < size / (int64_t)sizeof(pokes[0]); i++) {
		const uint64_t value_at =
			(uint64_t)i * sizeof(pokes[0]) + offsetof(struct poke, value);
		volatile uint64_t *at = (volatile uint64_t *)(uintptr_t)pokes[i].at;

		if (pokes[i].kind == POKE_INPUT &&
		    guest_input(value_at, (void *)(uintptr_t)pokes[i].at, 8) != 8)
			return GUEST_MISMATCH;
		if (pokes[i].kind == POKE_WIDE)
			isa_store_wide(pokes[i].at, pokes[i].value);
		if (pokes[i].kind == POKE_ROOT)
			isa_load_root(pokes[i].at);
		if (pokes[i].kind == POKE_STORE)
			*at = pokes[i].value;
		if (pokes[i].kind != POKE_LOAD)
			continue;
		pokes[i].value = *at;
		if (guest_output(&pokes[i].value, sizeof(pokes[i].value)))
			return GUEST_MISMATCH;
	}
	return GUEST_OK;
}
