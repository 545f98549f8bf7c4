// SPDX-License-Identifier: MIT
#include "bench/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/console.h"

#define SEC_NS     UINT64_C(1000000000)
#define REDRAW_NS  (SEC_NS / 10)
#define BAR_CELLS  20u
#define LINE_BYTES 256u
#define WIDTH_ELSE 80u /* of a terminal that will not say */

void progress_line(char *line, size_t size, unsigned width, unsigned done, unsigned total,
                   uint64_t elapsed_ns, const char *what)
{
	unsigned cells = total ? (unsigned)((uint64_t)BAR_CELLS * done / total) : 0;
	char bar[BAR_CELLS + 1], left[32] = "";

	memset(bar, '.', BAR_CELLS);
	memset(bar, '#', cells < BAR_CELLS ? cells : BAR_CELLS);
	bar[BAR_CELLS] = '\0';
	if (done > 0 && done < total)
		snprintf(left, sizeof(left), "  %.0f s left",
		         (double)elapsed_ns / SEC_NS * (total - done) / done);
	snprintf(line, width < size ? width + 1 : size, "[%s] %u/%u%s  %s", bar, done, total, left,
	         what);
}

static unsigned width_of(int fd)
{
	struct winsize w;

	/* One column less than there are: a full line would wrap. */
	if (ioctl(fd, TIOCGWINSZ, &w) < 0 || w.ws_col < 2)
		return WIDTH_ELSE - 1;
	return w.ws_col - 1u;
}

/* Back to the first column, the line, and nothing behind it. */
static void draw(const struct progress *p, const char *line)
{
	char text[LINE_BYTES + 16];
	int n = snprintf(text, sizeof(text), "\r%s\033[K", line);

	/* Who watches misses one picture when it cannot be written. */
	if (write(p->fd, text, (size_t)n) < 0)
		return;
}

void progress_start(struct progress *p, int fd, unsigned total)
{
	*p = (struct progress){
		.fd = fd, .shown = isatty(fd) == 1, .total = total, .started_ns = clock_ns()};
}

void progress_step(struct progress *p, unsigned done, const char *what)
{
	uint64_t now = clock_ns();
	char line[LINE_BYTES];

	if (!p->shown || (p->drawn_ns && now - p->drawn_ns < REDRAW_NS))
		return;
	p->drawn_ns = now;
	progress_line(line, sizeof(line), width_of(p->fd), done, p->total, now - p->started_ns,
	              what);
	draw(p, line);
}

void progress_end(struct progress *p)
{
	if (p->shown && p->drawn_ns)
		draw(p, "");
	p->drawn_ns = 0;
}
