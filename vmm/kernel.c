// SPDX-License-Identifier: MIT
#include "vmm/kernel.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/fileio.h"
#include "vmm/hostlimit.h"

struct why {
	char *text;
	size_t size;
};

/* Say it in one line, and pass `code` on. */
__attribute__((format(printf, 3, 4))) static int refuse(struct why why, int code,
                                                        const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(why.text, why.size, format, args);
	va_end(args);
	return code;
}

/* arch_reader over a descriptor that is kept in the pointer's place. */
static int read_file(void *ctx, uint64_t offset, void *to, size_t size)
{
	const int *fd = ctx;
	size_t got;
	int err = fileio_read_at(*fd, to, size, offset, &got);

	if (err)
		return err;
	return got < size ? -ENODATA : 0;
}

/* O_NONBLOCK: a FIFO must not make us wait for a writer before we can refuse it. */
static int open_file(const char *path, int *fd, struct arch_reader *out, struct why why)
{
	char cause[HOSTLIMIT_TEXT_MAX];
	struct stat st;
	int err;

	*fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (*fd < 0) {
		err = -errno;
		return refuse(why, err, "%s cannot be opened: %s", path,
		              hostlimit_why(err, 0, cause));
	}
	if (fstat(*fd, &st)) {
		err = -errno;
		refuse(why, err, "%s cannot be examined: %s", path, strerror(-err));
		goto err_close;
	}
	if (!S_ISREG(st.st_mode)) {
		err = refuse(why, -ENOEXEC, "%s is not a regular file", path);
		goto err_close;
	}
	*out = (struct arch_reader){read_file, fd, (uint64_t)st.st_size, path};
	return 0;

err_close:
	close(*fd);
	*fd = -1;
	return err;
}

static bool is_elf(const struct arch_reader *file)
{
	unsigned char magic[SELFMAG];

	return file->size >= sizeof(magic) && file->read(file->ctx, 0, magic, sizeof(magic)) == 0 &&
	       memcmp(magic, ELFMAG, SELFMAG) == 0;
}

int kernel_probe(const char *path, enum kernel_kind *kind, const char **format, char *why,
                 size_t why_size)
{
	const struct why explain = {why, why_size};
	const char *name = NULL;
	struct arch_reader file;
	int fd, err;

	err = open_file(path, &fd, &file, explain);
	if (err)
		return err;
	err = arch_kernel_probe(&file, &name);
	*kind = name ? KERNEL_SYSTEM : KERNEL_PROGRAM;
	if (err)
		refuse(explain, err, "%s cannot be read: %s", path, strerror(-err));
	else if (!name && !is_elf(&file))
		err = refuse(explain, -ENOEXEC, "%s is not an ELF file or a kernel image", path);
	if (format)
		*format = name ? name : "ELF";
	close(fd);
	return err;
}

static int write_space(void *ctx, gpa_t to, const void *from, size_t size)
{
	return space_write(ctx, to, from, size);
}

static int open_initrd(const char *path, int *fd, struct arch_reader *out, struct why why)
{
	int err = open_file(path, fd, out, why);

	if (err || out->size > 0)
		return err;
	close(*fd);
	*fd = -1;
	return refuse(why, -ENOEXEC, "%s is empty: an initrd is wanted", path);
}

int kernel_load(struct space *s, const struct kernel_files *files,
                const struct kernel_machine *machine, struct arch_kernel_entry *out, char *why,
                size_t why_size)
{
	const struct arch_writer writer = {write_space, s};
	const struct why explain = {why, why_size};
	struct arch_kernel k = {
		.cmdline = files->cmdline ? files->cmdline : "",
		.ram = machine->ram,
		.ram_count = machine->ram_count,
		.pmem = machine->pmem,
		.pmem_count = machine->pmem_count,
		.cpus = machine->cpus,
	};
	int kernel_fd, initrd_fd = -1;
	int err = open_file(files->path, &kernel_fd, &k.image, explain);

	if (err)
		return err;
	if (files->initrd)
		err = open_initrd(files->initrd, &initrd_fd, &k.initrd, explain);
	if (!err)
		err = arch_kernel_load(&writer, &k, out, why, why_size);
	if (initrd_fd >= 0)
		close(initrd_fd);
	close(kernel_fd);
	return err;
}
