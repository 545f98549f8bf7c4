// SPDX-License-Identifier: MIT
/*
 * tests/nested/criterion_log.c - Criterion's logging call, for suites that are linked statically
 * with tests/tsan_runner.c in place of the library.
 *
 * Every message goes to stderr, whatever its severity. Concurrency: one write each.
 */
#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <stdarg.h>
#include <stdio.h>

void cr_log(enum criterion_severity severity, const char *msg, ...)
{
	char line[1024];
	va_list ap;

	(void)severity;
	va_start(ap, msg);
	vsnprintf(line, sizeof(line), msg, ap);
	va_end(ap);
	fprintf(stderr, "%s\n", line);
}
