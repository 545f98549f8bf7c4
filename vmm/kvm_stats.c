// SPDX-License-Identifier: MIT
/*
 * vmm/kvm_stats.c - reads KVM's statistics files.
 *
 * Does not: keep earlier values, or ask for what the tables below do not name.
 */
#include "vmm/kvm_stats.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/kvm.h"
#include "vmm/vm_internal.h"

/* More than any kernel has: a file that claims more is not what it should be. */
#define DESCRIPTORS_MAX 4096u
#define NAME_MAX_BYTES  256u

#define KVM_TABLE_BYTES 4096u

static const char *const names[KVM_COUNTERS] = {
	[KVM_COUNT_PAGES_4K] = "pages_4k",
	[KVM_COUNT_PAGES_2M] = "pages_2m",
	[KVM_COUNT_PAGES_1G] = "pages_1g",
	[KVM_COUNT_NX_LPAGE_SPLITS] = "nx_lpage_splits",
	[KVM_COUNT_PF_TAKEN] = "pf_taken",
	[KVM_COUNT_PF_FIXED] = "pf_fixed",
	[KVM_COUNT_PF_FAST] = "pf_fast",
	[KVM_COUNT_PF_SPURIOUS] = "pf_spurious",
	[KVM_COUNT_PF_EMULATE] = "pf_emulate",
	[KVM_COUNT_PF_MMIO_CREATED] = "pf_mmio_spte_created",
	[KVM_COUNT_PF_GUEST] = "pf_guest",
	[KVM_COUNT_TLB_FLUSH] = "tlb_flush",
	[KVM_COUNT_EXITS] = "exits",
	[KVM_COUNT_MMIO_EXITS] = "mmio_exits",
	[KVM_COUNT_IO_EXITS] = "io_exits",
	[KVM_COUNT_SIGNAL_EXITS] = "signal_exits",
	[KVM_COUNT_HALT_EXITS] = "halt_exits",
	[KVM_COUNT_MMU_CACHE_MISS] = "mmu_cache_miss",
	[KVM_COUNT_MMU_ZAPPED] = "mmu_shadow_zapped",
	[KVM_COUNT_INSN_EMULATION] = "insn_emulation",
};

const char *kvm_counter_name(enum kvm_counter c)
{
	return names[c];
}

void kvm_counters_add(struct kvm_counters *sum, const struct kvm_counters *more)
{
	for (unsigned i = 0; i < KVM_COUNTERS; i++) {
		sum->v[i] += more->v[i];
		sum->known[i] |= more->known[i];
	}
}

bool kvm_counters_any(const struct kvm_counters *c)
{
	for (unsigned i = 0; i < KVM_COUNTERS; i++)
		if (c->known[i])
			return true;
	return false;
}

int kvm_counters_table_bytes(const struct kvm_counters *c, uint64_t *out)
{
	uint64_t made = c->v[KVM_COUNT_MMU_CACHE_MISS], zapped = c->v[KVM_COUNT_MMU_ZAPPED];

	*out = 0;
	/* One that has run has at least one: where none was counted, none is. */
	if (!c->known[KVM_COUNT_MMU_CACHE_MISS] || !c->known[KVM_COUNT_MMU_ZAPPED] ||
	    made <= zapped)
		return -ENODATA;
	*out = (made - zapped) * KVM_TABLE_BYTES;
	return 0;
}

/* Return: 0 with all of it; -errno; -EPROTO when the file ends before. */
static int read_at(int fd, void *to, size_t size, uint64_t at)
{
	ssize_t n = pread(fd, to, size, (off_t)at);

	if (n < 0)
		return -errno;
	return (size_t)n == size ? 0 : -EPROTO;
}

/* A value of one 64-bit number under a name we look for; all others are passed over. */
static void note(const struct kvm_stats_desc *d, const char *name, uint32_t data,
                 struct kvm_stats_layout *layout)
{
	for (unsigned i = 0; i < KVM_COUNTERS; i++)
		if (d->size == 1 && strcmp(name, names[i]) == 0)
			layout->at[i] = data + d->offset;
}

static void note_all(const struct kvm_stats_header *h, const uint8_t *descriptors,
                     struct kvm_stats_layout *layout)
{
	const size_t each = sizeof(struct kvm_stats_desc) + h->name_size;
	char name[NAME_MAX_BYTES + 1] = "";
	struct kvm_stats_desc d;

	for (uint32_t i = 0; i < h->num_desc; i++, descriptors += each) {
		memcpy(&d, descriptors, sizeof(d));
		memcpy(name, descriptors + sizeof(d), h->name_size);
		note(&d, name, h->data_offset, layout);
	}
}

static int read_layout(int file, struct kvm_stats_layout *layout)
{
	struct kvm_stats_header h;
	uint8_t *descriptors;
	size_t size;
	int r = read_at(file, &h, sizeof(h), 0);

	if (r)
		return r;
	if (h.num_desc > DESCRIPTORS_MAX || h.name_size > NAME_MAX_BYTES || h.data_offset == 0)
		return -EPROTO;
	size = h.num_desc * (sizeof(struct kvm_stats_desc) + h.name_size);
	descriptors = malloc(size + 1);
	if (!descriptors)
		return -ENOMEM;
	r = read_at(file, descriptors, size, h.desc_offset);
	if (r == 0) {
		note_all(&h, descriptors, layout);
		layout->read = true;
	}
	free(descriptors);
	return r;
}

static int read_values(int file, const struct kvm_stats_layout *layout, struct kvm_counters *out)
{
	for (unsigned i = 0; i < KVM_COUNTERS; i++) {
		int r;

		if (layout->at[i] == 0)
			continue;
		r = read_at(file, &out->v[i], sizeof(out->v[i]), layout->at[i]);
		if (r)
			return r;
		out->known[i] = true;
	}
	return 0;
}

int kvm_stats_add(int fd, struct kvm_stats_layout *layout, struct kvm_counters *sum)
{
	struct kvm_counters found = {0};
	int file = kvm_ioctl_int(fd, KVM_GET_STATS_FD, 0);
	int r;

	if (file < 0)
		return file;
	r = layout->read ? 0 : read_layout(file, layout);
	if (r == 0)
		r = read_values(file, layout, &found);
	close(file);
	if (r == 0)
		kvm_counters_add(sum, &found);
	return r;
}

int kvm_counter_open(int fd, enum kvm_counter c, struct kvm_stats_layout *layout,
                     struct kvm_counter_file *out)
{
	int file = kvm_ioctl_int(fd, KVM_GET_STATS_FD, 0);
	int r;

	*out = (struct kvm_counter_file){0};
	if (file < 0)
		return file;
	r = layout->read ? 0 : read_layout(file, layout);
	if (r == 0 && layout->at[c] == 0)
		r = -ENOENT;
	if (r)
		close(file);
	else
		*out = (struct kvm_counter_file){file, layout->at[c]};
	return r;
}

int kvm_counter_read(const struct kvm_counter_file *f, uint64_t *out)
{
	return read_at(f->fd, out, sizeof(*out), f->at);
}

void kvm_counter_close(struct kvm_counter_file *f)
{
	if (f->at)
		close(f->fd);
	*f = (struct kvm_counter_file){0};
}

int vm_kvm_stats(struct vm *vm, struct kvm_counters *out)
{
	struct kvm_counters sum = {0};
	int r = vm->kvm->caps.stats_fd ? 0 : -ENOTSUP;

	*out = (struct kvm_counters){0};
	if (r == 0)
		r = kvm_stats_add(vm->fd, &vm->vm_stats, &sum);
	for (unsigned i = 0; r == 0 && i < vm->cpu_count; i++)
		r = kvm_stats_add(vm->vcpus[i].fd, &vm->vcpu_stats, &sum);
	if (r == 0)
		*out = sum;
	return r;
}
