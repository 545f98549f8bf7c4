// SPDX-License-Identifier: MIT
#include "mm/check.h"

#include <stdio.h>
#include <stdlib.h>

void mm_check_failed(const char *what, const char *file, int line)
{
	fprintf(stderr, "cowslip: broken invariant: %s (%s:%d)\n", what, file, line);
	abort();
}
