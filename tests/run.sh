#!/bin/sh
# SPDX-License-Identifier: MIT
#
# tests/run.sh - builds and runs the test suites and counts what they say.
#
# usage: tests/run.sh [includes|unit|asan|fuzz|tsan|kvm|kvm-asan|
#                      {unit,kvm,linux,icount}@nested-6.1...]...
#        (no names: all the native ones but kvm-asan, and {kvm,linux,icount}@nested-6.1)
#
# A suite's counts come from the TAP file its runner wrote, never from its exit status alone.
# What cannot be right counts as a failure: a build that breaks, no TAP, fewer results than
# planned, no tests at all, a runner that fails while every test passed, a sanitizer report
# that no test owned up to. The last line is `N passed, N failed[, N skipped (why)]`; the exit
# status is 0 only when nothing failed.
#
# Suites of the nested machine, which has one CPU, run beside the others; their lines begin with
# "nested: ".
#
# unit@nested-KERNEL and kvm@nested-KERNEL run in the nested machine (tests/nested/run), which needs
# no KVM of this host. Behind the kernel may stand: -npt0 (shadow paging), -tdp0 (KVM's older MMU),
# -plain (a CPU without XSAVE).
#
# Where this host has no usable KVM, kvm is what kvm@nested-6.1 says, which then runs once.
#
# Environment: MAKE; TEST_TIMEOUT (seconds, of a test that names none), SUITE_TIMEOUT (seconds),
# TSAN_FILTER (glob over suite/test; by default the suites that have threads). Set for the tests:
# COWSLIP (the program under test), COWSLIP_GUESTS (directory of guest programs) and, in the nested
# machine, COWSLIP_SLOWNESS: about how many times as slow as hardware it is. Tests then go fewer
# rounds and wait longer (tests/kvm/pace.h); none is left out. NESTED_SLOWNESS (5) is its value; 1
# goes all rounds.
set -u

cd "$(dirname "$0")/.." || exit 1
MAKE=${MAKE:-make}
TEST_TIMEOUT=${TEST_TIMEOUT:-120}
SUITE_TIMEOUT=${SUITE_TIMEOUT:-1500}
NESTED_SLOWNESS=${NESTED_SLOWNESS:-5}
# Suites of one thread have nothing to show to ThreadSanitizer, and take it minutes.
one_thread='bench_*|boot|elf|image_*|linux_*|pack|policy|pvh_boot|snapshot*'
TSAN_FILTER=${TSAN_FILTER:-!($one_thread)/*}

# One run at a time in a tree: builds and results would get into each other's way.
if [ "${1:-}" != --lane ] && [ -z "${COWSLIP_TESTS_LOCKED:-}" ]; then
	mkdir -p build || exit 1
	COWSLIP_TESTS_LOCKED=1 exec flock -o build/.tests.lock tests/run.sh "$@"
fi
unset COWSLIP_TESTS_LOCKED

passed=0
failed=0
skipped=0
reasons=
suites=$*
jobs=-j$(nproc)
case ${MAKEFLAGS:-} in
*-j*) jobs= ;; # make shares out its own
esac

say() {
	printf '%s\n' "$*"
}

# One more failure that no test reported.
broke() { # suite, what happened
	say "[FAIL] $1: $2"
	failed=$((failed + 1))
}

# One at a time: both lanes build in the same directories.
build() { # suite, make arguments...
	suite=$1
	shift
	say "== $suite: building"
	# shellcheck disable=SC2086 # $jobs is a word or none
	flock -o build/.builds.lock "$MAKE" $jobs --no-print-directory "$@" && return 0
	broke "$suite" "does not build"
	return 1
}

# passed, failed, skipped and planned results of a TAP file, as shell assignments.
tap_counts() {
	awk '
	/^1\.\.[0-9]+/ { plan = substr($0, 4) + 0; planned = 1 }
	/^not ok/ { bad++; next }
	/^ok/ { if (/# SKIP/) skip++; else good++ }
	END {
		printf "t_passed=%d t_failed=%d t_skipped=%d t_planned=%d\n",
		       good, bad, skip, planned ? plan : -1
	}' "$1"
}

# Fold a finished run into the totals.
count() { # suite, TAP file, runner's exit status
	t_passed=0 t_failed=0 t_skipped=0 t_planned=-1
	if [ ! -s "$2" ]; then
		broke "$1" "the runner left no results (exit status $3)"
		return
	fi
	eval "$(tap_counts "$2")"
	say "== $1: $t_passed passed, $t_failed failed, $t_skipped skipped"
	passed=$((passed + t_passed))
	failed=$((failed + t_failed))
	skipped=$((skipped + t_skipped))
	t_results=$((t_passed + t_failed + t_skipped))
	if [ "$t_skipped" -gt 0 ]; then
		grep '# SKIP' "$2"
		reasons="$reasons${reasons:+; }$t_skipped in $1"
	fi
	if [ "$t_results" -eq 0 ]; then
		broke "$1" "no tests in it"
	elif [ "$t_planned" -ne "$t_results" ]; then
		broke "$1" "$t_results results of $t_planned planned"
	elif [ "$3" -ne 0 ] && [ "$t_failed" -eq 0 ]; then
		broke "$1" "the runner failed with exit status $3"
	fi
}

# Sanitizers write a file per reporting process; Criterion ignores what happens after a
# test's end, which is when leaks are reported. Where tests failed already, these are the reasons.
sanitizer_reports() { # suite, prefix
	for log in "$2".*; do
		[ -s "$log" ] || continue
		sed -n 1,60p "$log"
		[ "$t_failed" -gt 0 ] || broke "$1" "sanitizer report: $log"
	done
}

run() { # suite, directory of the build, program, runner arguments...
	suite=$1
	dir=$2/results
	program=$2/tests/$3
	shift 3
	mkdir -p "$dir"
	rm -f "$dir/$suite".*
	say "== $suite: running"
	ASAN_OPTIONS="log_path=$dir/$suite.san:detect_stack_use_after_return=1" \
	UBSAN_OPTIONS=print_stacktrace=1 \
	TSAN_OPTIONS="log_path=$dir/$suite.san:second_deadlock_stack=1:history_size=4" \
		timeout -k 10 "$SUITE_TIMEOUT" "$program" --tap="$dir/$suite.tap" \
		--timeout="$TEST_TIMEOUT" "$@"
	status=$?
	count "$suite" "$dir/$suite.tap" $status
	sanitizer_reports "$suite" "$dir/$suite.san"
}

suite_includes() {
	say "== includes"
	for what in check self-test; do
		if tests/include_check.sh $what; then
			passed=$((passed + 1))
		else
			broke includes "$what"
		fi
	done
	build "the example of mm/README.md" BUILD=test check-example && passed=$((passed + 1))
}

suite_unit() {
	build unit BUILD=test unit-tests && run unit build/test unit -j2
}

suite_asan() {
	build unit-asan BUILD=asan unit-tests && run unit-asan build/asan unit -j2
}

# Every file of a fuzz target's corpus, and what fuzzing has found, once more.
suite_fuzz() {
	build fuzz BUILD=asan fuzz-replays || return
	mkdir -p build/asan/results
	for corpus in tests/fuzz/corpus/*/; do
		target=$(basename "$corpus")
		results=build/asan/results/fuzz-$target
		rm -f "$results".*
		say "== fuzz-$target: running"
		ASAN_OPTIONS="log_path=$results.san" UBSAN_OPTIONS=print_stacktrace=1 \
			timeout -k 10 "$SUITE_TIMEOUT" "build/asan/tests/replay-$target" \
			"$corpus"* >"$results.tap"
		count "fuzz-$target" "$results.tap" $?
		sanitizer_reports "fuzz-$target" "$results.san"
	done
}

suite_tsan() {
	build unit-tsan BUILD=tsan unit-tests &&
		run unit-tsan build/tsan unit --filter="$TSAN_FILTER"
}

# In the nested machine, whose results come on stdout as they happen: when it dies, they say where.
# One CPU, without CMPXCHG16B: QEMU 7.2 emulates that instruction, and two CPUs under SVM, wrongly.
run_nested() { # suite: PROGRAM@nested-KERNEL[-VARIANT]
	suite=$1
	program=${suite%%@*}
	kernel=${suite#*@nested-}
	variant=${kernel#"${kernel%%-*}"}
	kernel=${kernel%%-*}
	case $variant in
	'') variant='--cpu -cx16' ;;
	-npt0) variant='--cpu -cx16 --npt 0' ;;
	-tdp0) variant='--cpu -cx16 --tdp-mmu 0' ;;
	-plain) variant='--cpu -cx16,-xsave,-xsaveopt,-avx' ;;
	*)
		broke "$suite" "no such variant"
		return
		;;
	esac
	build "$suite" BUILD=test nested-tests || return
	results=build/test/results/$suite
	mkdir -p build/test/results
	rm -f "$results".*
	say "== $suite: running in the nested machine"
	# shellcheck disable=SC2086 # $variant is a list of words
	tests/nested/run --kernel "$kernel" $variant --mem 4G --huge 32:1 --time "$SUITE_TIMEOUT" \
		--in "build/test/static/$program" --in build/test/static/cowslip \
		--in build/guest:guest --env COWSLIP=/stage/cowslip \
		--env COWSLIP_GUESTS=/stage/guest \
		--env "COWSLIP_SLOWNESS=$NESTED_SLOWNESS" --console "$results.console" \
		-- "$program" --timeout="$TEST_TIMEOUT" >"$results.tap"
	count "$suite" "$results.tap" $?
}

# Debian's kernel as a guest, in the nested machine.
run_linux() { # suite: linux@nested-KERNEL
	build "$1" BUILD=test nested-tests || return
	results=build/test/results/$1
	mkdir -p build/test/results
	rm -f "$results".*
	say "== $1: running in the nested machine"
	tests/nested/linux build/test/static/cowslip "${1#*@nested-}" >"$results.tap"
	count "$1" "$results.tap" $?
}

# Path lengths: every row of bench/icount.sh against its bound in tests/nested/icount-bounds.
run_icount() { # suite: icount@nested-KERNEL
	build "$1" BUILD=release nested-tools || return
	results=build/test/results/$1
	mkdir -p build/test/results
	rm -f "$results".*
	say "== $1: running in the nested machine"
	tests/nested/icount build/release/static/cowslip "${1#*@nested-}" >"$results.table" ||
		{ broke "$1" "it has not run to its end"; return; }
	cat "$results.table"
	awk -f tests/nested/icount.awk tests/nested/icount-bounds "$results.table" >"$results.tap"
	count "$1" "$results.tap" $?
	grep '^not ok' "$results.tap"
}

# Without KVM the suite is still built, and the nested machine carries it. Sanitizers do not come
# along there: a suite that is asked for because of them counts as skipped.
run_kvm() { # suite, build, program under test
	build "$1" BUILD=release all && build "$1" "BUILD=$2" cowslip kvm-tests || return
	if kvm=$("build/$2/tests/kvm_probe"); then
		say "== $1: on KVM $kvm"
		COWSLIP=$3 COWSLIP_GUESTS=build/guest run "$1" "build/$2" kvm -j1
		return
	fi
	if [ "$1" = kvm ]; then
		say "== $1: in the nested machine: no usable KVM: $kvm"
		case " $suites " in
		*" kvm@nested-"*) ;;
		*) run_nested kvm@nested-6.1 ;;
		esac
		return
	fi
	n=$("build/$2/tests/kvm" --list |
		awk '/: [0-9]+ tests?$/ { n += $2 } END { print n + 0 }')
	[ "$n" -gt 0 ] || { broke "$1" "no tests in it"; return; }
	say "== $1: skipped: no usable KVM: $kvm"
	skipped=$((skipped + n))
	reasons="$reasons${reasons:+; }$1 suite: $kvm"
}

suite_kvm() {
	run_kvm kvm test build/cowslip
}

suite_kvm_asan() {
	run_kvm kvm-asan asan build/asan/cowslip
}

suite() { # name
	case $1 in
	includes) suite_includes ;;
	unit) suite_unit ;;
	asan) suite_asan ;;
	fuzz) suite_fuzz ;;
	tsan) suite_tsan ;;
	kvm) suite_kvm ;;
	kvm-asan) suite_kvm_asan ;;
	unit@nested-* | kvm@nested-*) run_nested "$1" ;;
	linux@nested-*) run_linux "$1" ;;
	icount@nested-*) run_icount "$1" ;;
	*) broke "$1" "no such suite" ;;
	esac
}

# Suites one after the other. What they come to is left in a file.
lane() { # file, names...
	totals=$1
	shift
	for name; do
		start=$(date +%s)
		suite "$name"
		say "== $name: $(($(date +%s) - start)) s"
	done
	printf '%s\n' "$passed" "$failed" "$skipped" "$reasons" >"$totals"
}

# Fold what a lane came to into the totals.
join() { # file, names
	if [ ! -s "$1" ]; then
		broke "$2" "did not come to their end"
		return
	fi
	{ read -r l_passed && read -r l_failed && read -r l_skipped && read -r l_reasons; } <"$1"
	passed=$((passed + l_passed))
	failed=$((failed + l_failed))
	skipped=$((skipped + l_skipped))
	[ -z "$l_reasons" ] || reasons="$reasons${reasons:+; }$l_reasons"
	rm -f "$1"
}

if [ "${1:-}" = --lane ]; then
	shift
	echo $$ >"$1.pid"
	lane "$@"
	exit
fi

[ $# -gt 0 ] ||
	set -- includes unit asan fuzz tsan kvm kvm@nested-6.1 linux@nested-6.1 icount@nested-6.1
suites=$*
here=
nested=
for name; do
	case $name in
	*@nested-*) nested="$nested $name" ;;
	includes | unit | asan | fuzz | tsan | kvm | kvm-asan) here="$here $name" ;;
	*)
		sed -n '6,7s/^# //p' "$0" >&2
		exit 2
		;;
	esac
done

# The nested lane is a session of its own, so that all of it can be ended: a shell that is not
# interactive has it ignore SIGINT.
totals=build/.lane-$$
end_nested() {
	[ ! -s "$totals-nested.pid" ] || kill -- "-$(cat "$totals-nested.pid")" 2>/dev/null
	rm -f "$totals"-*
}
trap 'end_nested' EXIT
trap 'exit 130' INT TERM
# shellcheck disable=SC2086 # lists of words
{
	setsid tests/run.sh --lane "$totals-nested" $nested 2>&1 | sed -u 's/^/nested: /' &
	(
		trap - EXIT
		lane "$totals-here" $here
	)
}
wait
join "$totals-here" "$here"
join "$totals-nested" "$nested"

closing="$passed passed, $failed failed"
[ "$skipped" -eq 0 ] || closing="$closing, $skipped skipped ($reasons)"
say "$closing"
[ "$failed" -eq 0 ]
