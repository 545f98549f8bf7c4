# SPDX-License-Identifier: MIT
#
# Cowslip. `make help` lists the targets.
#
# BUILD=release|test|debug|asan|tsan|clang|fuzz picks flags and compiler; each has its own tree,
# build/<BUILD>/. Sources are listed by name (`make check-lists` compares with the disk); tests are
# taken as found. Nothing here runs a compiler before `deps` has made sure there is one.

BUILD ?= release
ARCH ?= $(shell uname -m)

MAKEFLAGS += --no-builtin-rules --no-builtin-variables
ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(shell nproc)
endif
.DELETE_ON_ERROR:
.SUFFIXES:

# V=1 shows whole commands.
Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-5s %s\n' '$(1)' '$(2)')

# ---- sources ----

MM_SRCS := $(addprefix mm/, \
	access.c backend_alloc.c backend_hugetlb.c backend_image.c backend_linear.c check.c \
	discard.c fault_kernel.c fault_uffd.c fault_uffd_handler.c follow.c frame.c freeze.c \
	gpa_map.c hugetlb.c image.c kept.c limit.c lock.c own_block.c pagemap.c policy.c pool.c \
	pool_file.c populate.c protect.c publish.c publish_ahead.c report.c reset.c space.c \
	store.c violation.c window.c)

ARCH_SRCS_x86_64 := $(addprefix arch/x86_64/, \
	acpi.c boot.c bzimage.c cpuid.c info.c linux.c msr.c pvh.c record.c state.c tables.c \
	vcpu.c vm.c)
ARCH_SRCS := $(ARCH_SRCS_$(ARCH))

VMM_SRCS := $(addprefix vmm/, \
	atomic_file.c bus.c console.c ctl.c ctl_client.c ctl_herd.c ctl_herd_ask.c \
	elf.c engine.c family.c guestctl.c hostinfo.c hostlimit.c \
	image_diff.c image_dir.c image_map.c kernel.c kvm.c kvm_stats.c pack.c pack_read.c \
	pmem.c power.c procmem.c serial.c series.c shell.c snapshot.c snapshot_block.c \
	snapshot_layers.c snapshot_read.c snapshot_verify.c snapshot_write.c tick.c unpack.c \
	vcpu.c vm.c vm_follow.c vm_limit.c vm_reset.c vm_slots.c vm_tables.c vm_tick.c vmstate.c \
	watch.c worker.c)

CLI_SRCS := $(addprefix vmm/, \
	cli_clone.c cli_ctl.c cli_ctl_run.c \
	cli_doctor.c cli_image.c cli_image_diff.c cli_image_dir.c \
	cli_image_info.c cli_image_map.c cli_image_pack.c cli_image_svg.c cli_inputs.c \
	cli_options.c cli_outlet.c cli_output.c cli_run.c cli_save.c cli_sink.c cli_terminal.c \
	doctor.c main.c stats.c)

# What of bench/ needs no command line, and so can be linked to the unit tests, and the rest.
BENCH_LIB_SRCS := $(addprefix bench/, \
	compare.c faults_row.c guest_run.c hist.c host.c memory.c pattern.c plot.c plot_script.c \
	progress.c report.c report_csv.c report_grid.c report_table.c sample.c times.c walk.c)
BENCH_CLI_SRCS := $(addprefix bench/, \
	bench.c clone.c clone_floor.c driver.c faults.c fork.c options.c reset.c snapshot.c)
BENCH_SRCS := $(BENCH_LIB_SRCS) $(BENCH_CLI_SRCS)

# Linked into every guest program; guest/<program>.c are the programs.
GUEST_SRCS_x86_64 := guest/x86_64/start.S guest/x86_64/isa.c
GUEST_SRCS := guest/runtime.c $(GUEST_SRCS_$(ARCH))
GUEST_PROGRAMS := counter crash forktree giveback hello memwalk parse poke smp stamp
GUEST_LD := guest/$(ARCH)/guest.ld
# What one program is made of beside its own file.
MEMWALK_SRCS := $(addprefix guest/, contents.c order.c plan.c)

UNIT_SRCS := $(wildcard tests/unit/*.c)
# Both suites may have the host set huge pages aside.
KVM_SRCS := $(wildcard tests/kvm/*.c) tests/unit/reserve.c
# tests/fuzz/<target>.c, and what it is made of beside its own file.
FUZZ_TARGETS := image pack elf bzimage mm
FUZZ_SRCS_image := tests/fuzz/sums.c
FUZZ_SRCS_pack := tests/fuzz/sums.c
FUZZ_SRCS_mm := tests/unit/model.c tests/unit/world.c
FUZZ_FLAGS_mm := -len_control=0 -max_len=400

LISTED := $(MM_SRCS) $(ARCH_SRCS) $(VMM_SRCS) $(CLI_SRCS) $(BENCH_SRCS) $(GUEST_SRCS) \
	$(MEMWALK_SRCS) $(GUEST_PROGRAMS:%=guest/%.c)

# ---- builds ----

CC_clang := clang
CC_fuzz := clang
CC := $(or $(CC_$(BUILD)),gcc)
AR := ar

# release drops assert() and the lock order check; test is the same code with both.
OPT_release := -O2 -g -DNDEBUG
OPT_test := -O2 -g
OPT_debug := -Og -g
OPT_asan := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
OPT_tsan := -O1 -g -fno-omit-frame-pointer -fsanitize=thread
OPT_clang := -O2 -g
OPT_fuzz := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined,fuzzer-no-link \
	-fno-sanitize-recover=all
OPT := $(OPT_$(BUILD))
ifeq ($(OPT),)
$(error BUILD=$(BUILD): one of release, test, debug, asan, tsan, clang, fuzz is wanted)
endif

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wundef \
	-Wvla -Wwrite-strings -Werror
WARN_mm := -Wconversion
# What sanitizers put in makes gcc warn of paths that are not in the source.
ifneq ($(filter asan tsan,$(BUILD)),)
WARN += -Wno-format-truncation -Wno-maybe-uninitialized -Wno-stringop-overflow
WARN_mm :=
endif

CPPFLAGS := -I. -D_GNU_SOURCE
CFLAGS := -std=gnu11 -pthread $(OPT) $(WARN)
LDFLAGS := -pthread $(OPT)
LDLIBS := -ljansson -lxxhash -lzstd -lm

# Guests are the same whatever the build, but for the compiler that lint checks them with. No
# library, no red zone under exception frames. All C of a guest runs in ring 3: ring 0, which a
# software KVM interprets and where it knows no SSE, is assembler.
GUEST_CFLAGS_x86_64 := -mno-red-zone -fcf-protection=none
GUEST_CFLAGS := -std=gnu11 -O2 -ffreestanding -fno-stack-protector -fno-pic -fno-pie \
	-fno-asynchronous-unwind-tables $(GUEST_CFLAGS_$(ARCH)) $(WARN)
GUEST_LDFLAGS := -static -nostdlib -Wl,--build-id=none,-z,noexecstack,-z,norelro \
	-Wl,-z,max-page-size=4096,--fatal-warnings

# Calls that the unit tests make fail on demand: tests/unit/inject.c stands in for them.
INJECT_WRAPS := mmap munmap mremap mprotect madvise fallocate malloc calloc realloc ioctl \
	memfd_create pthread_create eventfd open pread ftruncate fsopen openat pwrite fsync renameat
INJECT := $(if $(filter tests/unit/inject.c,$(UNIT_SRCS)),$(INJECT_WRAPS:%=-Wl,--wrap=%))

B := build/$(BUILD)
G := $(if $(filter clang,$(BUILD)),$(B)/guest,build/guest)

objs = $(patsubst %,$(B)/obj/%.o,$(basename $(1)))
guest_objs = $(patsubst %,$(G)/obj/%.o,$(basename $(1)))

LIBMM := $(B)/libmm.a
LIBCOWSLIP := $(B)/libcowslip.a
GUESTS := $(GUEST_PROGRAMS:%=$(G)/%.elf)

# ---- what people ask for ----

.PHONY: all cowslip libs guests unit-tests kvm-tests tests
.PHONY: demo bench soak-clones soak-reset
.PHONY: test test-unit test-asan test-fuzz test-tsan test-kvm test-kvm-asan
.PHONY: lint lint-format lint-shape lint-tidy lint-gcc lint-clang tidy format
.PHONY: check-includes check-lists check-example
.PHONY: deps deps-lint deps-bench deps-fuzz clean help
.DEFAULT_GOAL := all

all: libs cowslip guests

libs: $(LIBMM) $(LIBCOWSLIP)
cowslip: $(B)/cowslip $(if $(filter release,$(BUILD)),build/cowslip)
guests: $(GUESTS)
unit-tests: $(B)/tests/unit
kvm-tests: $(B)/tests/kvm $(B)/tests/kvm_probe
tests: unit-tests kvm-tests

# Without a KVM of this host, in the nested machine.
demo: all $(B)/tests/kvm_probe
	+@if why=$$($(B)/tests/kvm_probe); then \
		bench/demo.sh; \
	else \
		echo "No usable KVM here ($$why): the demo runs in the nested machine."; \
		$(MAKE) --no-print-directory nested-demo; \
	fi

# The standard set: build/bench/report.md. On a host whose KVM is the one to be measured.
bench: all deps-bench
	@bench/standard.sh build/cowslip build/bench

help:
	@echo 'make [all]           build/cowslip, build/guest/*.elf, libmm.a and libcowslip.a'
	@echo 'make demo            forks a hundred clones of a warm guest and prints what it cost'
	@echo 'make bench           the standard measurements; writes build/bench/report.md'
	@echo 'make test            all test suites; the last line is "N passed, N failed"'
	@echo 'make test-unit       unit suite, release flags with assertions on'
	@echo 'make test-asan       unit suite under AddressSanitizer and UBSan'
	@echo 'make test-tsan       unit suite under ThreadSanitizer (TSAN_FILTER=glob)'
	@echo 'make test-kvm        the suite that runs real guests'
	@echo 'make test-kvm-asan   the same, cowslip and tests under AddressSanitizer and UBSan'
	@echo 'make torture-save    kills saves at random moments, TIMES=500'
	@echo 'make torture-image   flips bits of images and cuts them, TIMES=10000'
	@echo 'make fuzz            libFuzzer: TARGET=image|pack|elf|bzimage|mm, TIME=seconds (600)'
	@echo 'make test-fuzz       what fuzzing has kept, once more, under the sanitizers'
	@echo 'make golden          dumps of images by the present writer, for tests/golden'
	@echo 'make test-nested     the same in the nested machine, which needs no KVM of this host'
	@echo 'make test-nested-all the same on all kernels and MMUs, and the unit suite too'
	@echo 'make nested-soak     test-nested 20 times in a row (TIMES=N)'
	@echo 'make nested-icount   instructions per violation, by fault path and frame size'
	@echo 'make breakdown       where the time of a clone goes, by system call'
	@echo 'make soak-reset      100,000 inputs through one machine that is reset (RESETS=N)'
	@echo 'make soak-clones     100,000 clones, and nothing of them is left (CLONES=N)'
	@echo 'make soak-mm         1,000,000 random operations on memory, beside a model (STEPS=N)'
	@echo 'make nested-run      one command there: CMD="cowslip run guest/hello.elf"'
	@echo 'make lint            format, clang-tidy, gcc and clang warnings, includes: as errors'
	@echo 'make check-includes  direction of includes; every header compiles alone'
	@echo 'make check-example   the example of mm/README.md compiles and prints what it should'
	@echo 'make format          clang-format in place'
	@echo 'make deps            installs what is missing, or names the command that would'
	@echo 'make clean           removes build/'
	@echo 'BUILD=release|test|debug|asan|tsan|clang|fuzz   picks the build (release)'

deps:
	@.ci/deps build

deps-lint:
	@.ci/deps lint

deps-bench:
	@.ci/deps bench

deps-fuzz:
	@.ci/deps fuzz

clean:
	rm -rf build

# ---- tests ----

test: deps deps-bench
	+@MAKE='$(MAKE)' tests/run.sh includes unit asan fuzz tsan kvm kvm@nested-6.1 \
		linux@nested-6.1 icount@nested-6.1
test-unit test-asan test-fuzz test-tsan test-kvm test-kvm-asan: test-%: deps
	+@MAKE='$(MAKE)' tests/run.sh $*

# SIGKILL at random moments of a save, TIMES times: the name always holds a whole image.
.PHONY: torture-save
torture-save: deps
	+@$(MAKE) --no-print-directory BUILD=release all
	+@$(MAKE) --no-print-directory BUILD=test kvm-tests
	TORTURE_TIMES=$(or $(TIMES),500) COWSLIP=build/cowslip COWSLIP_GUESTS=build/guest \
		build/test/tests/kvm --filter='cli_image/killed_*' --verbose

# System calls of a worker, of clones with a machine each and of clones in one.
.PHONY: breakdown
breakdown: all build/calls.so
	@tests/breakdown.sh build/cowslip build/guest build/calls.so

build/calls.so: tests/calls.c Makefile | deps
	$(call say,LD,$@)
	$(Q)gcc $(CPPFLAGS) -std=gnu11 $(OPT_release) $(WARN) -fPIC -shared -o $@ $< -ldl

# RESETS: how many inputs.
soak-reset: deps
	+@$(MAKE) --no-print-directory BUILD=release all
	+@$(MAKE) --no-print-directory BUILD=test kvm-tests
	COWSLIP_RESETS=$(or $(RESETS),100000) COWSLIP=build/cowslip \
		COWSLIP_GUESTS=build/guest build/test/tests/kvm --filter=reset_cli/many_inputs

soak-clones: deps
	+@$(MAKE) --no-print-directory BUILD=release all
	+@$(MAKE) --no-print-directory BUILD=test kvm-tests
	COWSLIP_CLONES=$(or $(CLONES),100000) COWSLIP=build/cowslip COWSLIP_GUESTS=build/guest \
		build/test/tests/kvm --filter=engine/generations --timeout=3600

# The images of tests/golden that are still empty, by the present writer.
.PHONY: golden
golden: deps
	+@$(MAKE) --no-print-directory BUILD=test unit-tests
	COWSLIP_GOLDEN=tests/golden build/test/tests/unit --filter=image_golden/written_now

# Bits flipped and ends cut off at random, TIMES of the one and a tenth of the other.
.PHONY: torture-image
torture-image: deps
	+@$(MAKE) --no-print-directory BUILD=release all
	+@$(MAKE) --no-print-directory BUILD=test unit-tests kvm-tests
	TORTURE_TIMES=$(or $(TIMES),10000) build/test/tests/unit --filter='image_torture/*'
	TORTURE_TIMES=$(or $(TIMES),10000) COWSLIP=build/cowslip COWSLIP_GUESTS=build/guest \
		build/test/tests/kvm --filter='cli_image/commands_*'

# One target for TIME seconds, in JOBS processes. What it finds new stays in build/, what breaks it
# is named.
TARGET ?= image
.PHONY: fuzz fuzz-replays
fuzz: deps-fuzz
	+@$(MAKE) --no-print-directory BUILD=fuzz build/fuzz/tests/fuzz-$(TARGET)
	@mkdir -p build/fuzz/corpus/$(TARGET)
	build/fuzz/tests/fuzz-$(TARGET) -max_total_time=$(or $(TIME),600) -timeout=20 \
		-rss_limit_mb=2560 -artifact_prefix=build/fuzz/$(TARGET)- -print_final_stats=1 \
		$(FUZZ_FLAGS_$(TARGET)) $(if $(JOBS),-fork=$(JOBS)) \
		build/fuzz/corpus/$(TARGET) tests/fuzz/corpus/$(TARGET)

$(FUZZ_TARGETS:%=$(B)/tests/fuzz-%): $(B)/tests/fuzz-%: $(B)/obj/tests/fuzz/%.o $(LIBCOWSLIP)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS)

# The same without a fuzzer, on files that are named.
fuzz-replays: $(FUZZ_TARGETS:%=$(B)/tests/replay-%)
$(FUZZ_TARGETS:%=$(B)/tests/replay-%): $(B)/tests/replay-%: $(B)/obj/tests/fuzz/%.o \
	$(call objs,tests/fuzz/replay.c) $(LIBCOWSLIP)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS)

$(foreach t,$(FUZZ_TARGETS),$(eval \
	$(B)/tests/fuzz-$(t) $(B)/tests/replay-$(t): $(call objs,$(FUZZ_SRCS_$(t)))))

# STEPS: how many operations.
.PHONY: soak-mm
soak-mm: deps
	+@$(MAKE) --no-print-directory BUILD=test unit-tests
	COWSLIP_MODEL_STEPS=$(or $(STEPS),1000000) build/test/tests/unit --filter=model/soak -j1

check-includes: deps
	@tests/include_check.sh
	@tests/include_check.sh self-test

# ---- the nested machine ----

# tests/nested/run boots a machine that has a real two-dimensional KVM, under QEMU's emulation, for
# one static program. What runs in it is linked from the same objects as what runs here.
STATIC := -static -Wl,--strip-debug
STATIC_RUNNER := tests/tsan_runner.c tests/nested/criterion_log.c
INIT := build/nested/init
TSC_KHZ := build/nested/tsc_khz
NESTED_TOOLS := $(INIT) $(TSC_KHZ) $(B)/static/cowslip guests

.PHONY: nested-run nested-demo nested-icount nested-soak nested-tools nested-tests
.PHONY: test-nested test-nested-all

# NESTED: options of tests/nested/run. make itself says "Error N" and exits with 2 for a command
# that exits with N.
nested-run: $(NESTED_TOOLS)
	@[ -n '$(if $(CMD),1)' ] || { echo 'wanted: CMD="cowslip run guest/hello.elf"'; exit 2; }
	@tests/nested/run --stdin --in $(B)/static/cowslip --in $(G):guest $(NESTED) -- $(CMD)

nested-demo: $(NESTED_TOOLS)
	@tests/nested/run --mem 2G --time 900 --in $(B)/static/cowslip --in $(G):guest \
		--in bench/demo.sh --env 'CLONES=$(or $(CLONES),100)' $(NESTED) -- \
		sh ./demo.sh /stage/cowslip /stage/guest

# Instructions per violation: the same figures on every machine.
nested-icount: nested-tools
	@tests/nested/icount $(B)/static/cowslip

nested-tools: $(NESTED_TOOLS)
nested-tests: $(NESTED_TOOLS) $(B)/static/kvm $(B)/static/unit

test-nested: deps
	+@MAKE='$(MAKE)' tests/run.sh kvm@nested-6.1 linux@nested-6.1
test-nested-all: deps
	+@MAKE='$(MAKE)' tests/run.sh $(addprefix kvm@nested-,6.1 6.12 6.1-npt0 6.12-npt0 \
		6.1-tdp0 6.12-tdp0 6.1-plain) unit@nested-6.1 unit@nested-6.12
nested-soak: deps
	+@MAKE='$(MAKE)' tests/run.sh $(shell yes kvm@nested-6.1 | head -n $(or $(TIMES),20))

# The same whatever the build.
$(INIT) $(TSC_KHZ): build/nested/%: tests/nested/%.c Makefile | deps
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)gcc $(CPPFLAGS) -std=gnu11 $(OPT_release) $(WARN) -static -s -o $@ $<

$(B)/static/cowslip: $(call objs,$(CLI_SRCS) $(BENCH_SRCS)) $(LIBCOWSLIP)
$(B)/static/kvm: $(call objs,$(KVM_SRCS) $(STATIC_RUNNER)) $(LIBCOWSLIP)
$(B)/static/unit: $(call objs,$(UNIT_SRCS) $(BENCH_LIB_SRCS) $(STATIC_RUNNER)) $(LIBCOWSLIP)
$(B)/static/unit: STATIC += $(INJECT)
$(B)/static/cowslip $(B)/static/kvm $(B)/static/unit:
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) $(STATIC) -o $@ $^ $(LDLIBS)

# ---- lint ----

C_DIRS := mm arch arch/* vmm guest guest/* bench tests tests/*
C_FILES := $(sort $(wildcard $(C_DIRS:%=%/*.[ch])))
TIDY_FILES := $(filter %.c,$(LISTED)) $(UNIT_SRCS) $(KVM_SRCS) \
	tests/calls.c tests/kvm_probe.c tests/tsan_runner.c $(wildcard tests/fuzz/*.c) \
	$(wildcard tests/nested/*.c)

lint: lint-format lint-shape lint-gcc lint-clang lint-tidy check-includes check-lists

lint-format: deps-lint
	clang-format --dry-run -Werror $(C_FILES)

lint-shape:
	@tests/shape_check.sh Makefile .ci/* $(wildcard tests/*.sh guest/*/*.S guest/*/*.ld) \
		$(C_FILES)

format: deps-lint
	clang-format -i $(C_FILES)

lint-gcc: deps
	@$(MAKE) --no-print-directory BUILD=release all
	@$(MAKE) --no-print-directory BUILD=test all tests

lint-clang: deps-lint
	@$(MAKE) --no-print-directory BUILD=clang all tests

# After lint-clang, so that the two do not build the same objects at once.
lint-tidy: lint-clang
	@$(MAKE) --no-print-directory BUILD=clang tidy

tidy: $(TIDY_FILES:%.c=$(B)/tidy/%.ok)

$(B)/tidy/guest/%.ok: guest/%.c $(G)/obj/guest/%.o .clang-tidy
	@mkdir -p $(@D)
	$(call say,TIDY,$<)
	$(Q)clang-tidy --quiet $< -- -I. $(GUEST_CFLAGS) 2>$@.err || { cat $@.err; exit 1; }
	@mv $@.err $@

$(B)/tidy/%.ok: %.c $(B)/obj/%.o .clang-tidy tests/.clang-tidy
	@mkdir -p $(@D)
	$(call say,TIDY,$<)
	$(Q)clang-tidy --quiet $< -- $(CPPFLAGS) $(CFLAGS) 2>$@.err || { cat $@.err; exit 1; }
	@mv $@.err $@

# The first fenced C of the page is a program, what is fenced behind it is what that prints.
EXAMPLE := $(B)/mm_example
check-example: $(LIBMM)
	@awk '/^```/ { if (++n == 1 && $$0 != "```c") exit 1; next } n == 1' mm/README.md \
		>$(EXAMPLE).c
	@awk '/^```/ { n++; next } n == 3' mm/README.md >$(EXAMPLE).want
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -Wconversion -o $(EXAMPLE) $(EXAMPLE).c $(LIBMM)
	@$(EXAMPLE) >$(EXAMPLE).said
	@test -s $(EXAMPLE).want && diff -u $(EXAMPLE).want $(EXAMPLE).said

check-lists:
	@status=0; \
	for f in $(filter-out $(LISTED),$(wildcard mm/*.c arch/$(ARCH)/*.c vmm/*.c bench/*.c \
		guest/*.c guest/$(ARCH)/*.[cS])); do \
		echo "$$f: not in the Makefile's lists"; status=1; \
	done; exit $$status

# ---- rules ----

$(B)/obj/%.o: %.c Makefile | deps
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(WARN_$(firstword $(subst /, ,$<))) -MMD -MP -c \
		-o $@ $<

$(LIBMM): $(call objs,$(MM_SRCS))
$(LIBCOWSLIP): $(call objs,$(MM_SRCS) $(ARCH_SRCS) $(VMM_SRCS))
$(LIBMM) $(LIBCOWSLIP):
	@rm -f $@
	$(call say,AR,$@)
	$(Q)$(AR) rcs $@ $(filter %.o,$^)

$(B)/cowslip: $(call objs,$(CLI_SRCS) $(BENCH_SRCS)) $(LIBCOWSLIP)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

build/cowslip: build/release/cowslip
	$(Q)cp -f $< $@

# Criterion cannot start a test under ThreadSanitizer: tests/tsan_runner.c says why and does it.
CRITERION := $(if $(filter tsan,$(BUILD)),$(B)/obj/tests/tsan_runner.o,-lcriterion)

$(B)/tests/unit: $(call objs,$(UNIT_SRCS) $(BENCH_LIB_SRCS)) $(filter %.o,$(CRITERION)) \
	$(LIBCOWSLIP)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) $(INJECT) -o $@ $^ $(LDLIBS) $(filter -l%,$(CRITERION))

$(B)/tests/kvm: $(call objs,$(KVM_SRCS)) $(filter %.o,$(CRITERION)) $(LIBCOWSLIP)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(filter -l%,$(CRITERION))

$(B)/tests/kvm_probe: $(call objs,tests/kvm_probe.c) $(LIBCOWSLIP)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(G)/obj/%.o: %.c Makefile | deps
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) -I. $(GUEST_CFLAGS) -MMD -MP -c -o $@ $<

$(G)/obj/%.o: %.S Makefile | deps
	@mkdir -p $(@D)
	$(call say,AS,$@)
	$(Q)$(CC) -I. -MMD -MP -c -o $@ $<

$(GUESTS): $(G)/%.elf: $(G)/obj/guest/%.o $(call guest_objs,$(GUEST_SRCS)) $(GUEST_LD)
	$(call say,LD,$@)
	$(Q)$(CC) $(GUEST_LDFLAGS) -T $(GUEST_LD) -o $@ $(filter %.o,$^)

$(G)/memwalk.elf: $(call guest_objs,$(MEMWALK_SRCS))

-include $(patsubst %.o,%.d,$(call objs,$(filter-out guest/%,$(TIDY_FILES))) \
	$(call guest_objs,$(GUEST_SRCS) $(MEMWALK_SRCS) $(GUEST_PROGRAMS:%=guest/%.c)))
