// SPDX-License-Identifier: MIT
/*
 * bench/walk.h - one measurement: a guest walks memory once, on one kind of memory.
 *
 *     fresh    memwalk.elf is booted and walks memory that nothing has touched
 *     clone    a clone of a template walks: memwalk has filled the memory, and was saved
 *              when it was warm, DEPTH times over, each time from a clone of the last
 *
 * Counters are taken while the guest stands still, when it says that it is about to walk and when
 * it has walked; what is told is the difference. Making the VM, its template and its input is in no
 * figure, but for what memory_make() calls preparation.
 *
 * Concurrency: none; one walk at a time.
 */
#ifndef COWSLIP_BENCH_WALK_H
#define COWSLIP_BENCH_WALK_H

#include "bench/memory.h"
#include "guest/memwalk.h"
#include "vmm/cowslip.h"
#include "vmm/kvm_stats.h"

/* What all walks of a run have in common. Borrowed throughout. */
struct walk_spec {
	const struct kvm *kvm;
	const char *program; /* memwalk.elf */
	uint64_t size;       /* to be walked, bytes */
	unsigned cpus;
	enum page_size page_size; /* of the library's memory */
	bool untimed;             /* the guest times the walk, not each touch of it */
	const struct memwalk_order *order;
	size_t order_size;
	uint64_t timeout_ns;
};

/* What clones are made of. Zeroed: nothing, walks are fresh. */
struct walk_template {
	struct pool *pool;
	struct image *image;
	struct contents contents; /* the image's bytes, for memory that is not the library's */
};

struct walk_result {
	struct memwalk_result guest;
	uint64_t wall_ns;    /* of the walk, on the host's clock: with the two records' way out */
	uint64_t cpu_ns;     /* CPU time of all threads meanwhile, the guest in it */
	uint64_t prepare_ns; /* of the memory, before the VM was made */
	uint64_t violations, events; /* that reached user space during the walk */
	uint64_t private_bytes;      /* of the image's pages, copied by the walk (library only) */
	/* Memory that the host put behind the guest for this walk; populate: before it, too. */
	uint64_t committed_bytes;
	uint64_t huge_bytes; /* mapped as 2 MiB pages by the end, of all the guest's memory */
	uint64_t ram_bytes;
	/* KVM's own (vmm/kvm_stats.h), of one vCPU only. Mappings may become fewer. */
	int64_t kvm[KVM_COUNTERS];
	bool kvm_known[KVM_COUNTERS];
};

/* Bytes of RAM that a walk's VM has. */
uint64_t walk_ram(const struct walk_spec *s);

/*
 * Make a template of `depth` (>= 1) snapshots. The order's length is what counts of it. `copy`:
 * make template's contents, too. walk_template_fini() in any case.
 * Return: 0; -ECHILD when the guest did not do as it should; -errno. err->text says what.
 */
int walk_template_make(const struct walk_spec *s, unsigned depth, bool copy,
                       struct walk_template *out, struct vm_error *err);
void walk_template_fini(struct walk_template *t);

/*
 * Read all that the template holds, its copy too. Return: 0; -ENOMEM; -errno of reading.
 */
int walk_template_warm(const struct walk_template *t);

/*
 * Walk once on memory of `kind`; of a template that is not empty, by a clone of it.
 * Return: 0; -EBADMSG when the guest's records make no sense; -ECHILD when it ended otherwise than
 * well; -EUCLEAN when it found memory that was not what it should be; -errno. err->text says what.
 */
int walk_run(const struct walk_spec *s, const struct memory_kind *kind,
             const struct walk_template *t, struct walk_result *out, struct vm_error *err);

#endif
