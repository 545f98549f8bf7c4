#!/bin/sh
# SPDX-License-Identifier: MIT
#
# tests/include_check.sh - the direction of includes, and that every header compiles alone.
#
# usage: tests/include_check.sh            check the tree this script stands in
#        tests/include_check.sh self-test  plant violations in a scratch tree; each must be caught
#
# Who may include whom is the table in rules(). Prints one line per violation.
# Exit status: 0 clean, 1 violations, 2 could not check.
set -u

CC=${CC:-gcc}
cd "$(dirname "$0")/.." || exit 2
script=$PWD/tests/include_check.sh

# One rule per line: module, what it is, extended regular expression for whole include names.
#   own:  "quoted" includes a file of that module may have, as paths from the root
#   sys:  <angle> includes it may have;  nosys: those it may not (sys first, nosys wins)
# A file's module is the first of these that matches its path: see module_of().
rules() {
	cat <<-'END'
	mm      own   mm/.*\.h
	mm      sys   .*
	mm      nosys (linux|asm)/kvm.*|jansson.*|xxhash.*|zstd.*|criterion/.*|argp.h
	arch    own   arch/.*\.h|vmm/kvm\.h|mm/types\.h
	arch    sys   .*
	arch    nosys jansson.*|criterion/.*|argp.h|linux/userfaultfd.h
	kvm     own   vmm/kvm\.h
	kvm     sys   .*
	kvm     nosys jansson.*|criterion/.*|argp.h
	vmm     own   mm/.*\.h|arch/arch\.h|guest/abi\.h|vmm/.*\.h
	vmm     sys   .*
	vmm     nosys criterion/.*|argp.h
	cli     own   mm/.*\.h|arch/arch\.h|guest/abi\.h|vmm/.*\.h|bench/bench\.h
	cli     sys   .*
	cli     nosys criterion/.*
	guest   own   guest/.*\.h
	guest   sys   (float|iso646|limits|stdalign|stdarg|stdbool|stddef|stdint|stdnoreturn)\.h
	guest   nosys -
	bench   own   mm/.*\.h|vmm/.*\.h|guest/memwalk\.h|bench/.*\.h
	bench   sys   .*
	bench   nosys (linux|asm)/kvm.*|criterion/.*
	command own   mm/.*\.h|vmm/.*\.h|arch/arch\.h|guest/memwalk\.h|bench/.*\.h
	command sys   .*
	command nosys (linux|asm)/kvm.*|criterion/.*
	tests   own   .*
	tests   sys   .*
	tests   nosys -
	END
}

sources() {
	find mm arch vmm guest bench tests -type f \( -name '*.[ch]' -o -name '*.S' \) 2>/dev/null |
		LC_ALL=C sort
}

check_direction() {
	RULES=$(rules)
	export RULES
	# shellcheck disable=SC2016 # awk's own $0, not the shell's
	sources | xargs awk '
	function module_of(path)
	{
		if (path ~ /^vmm\/kvm\.[ch]$/)
			return "kvm"
		if (path ~ /^vmm\/(cli.*|main)\.[ch]$/)
			return "cli"
		if (path ~ /^bench\/(bench|clone|driver|faults|fork|options|reset|snapshot)\.[ch]$/)
			return "command"
		sub(/\/.*/, "", path)
		return path
	}
	function whole(re)
	{
		return "^(" re ")$"
	}
	function exists(path, line, status)
	{
		status = (getline line < path)
		close(path)
		return status >= 0
	}
	function bad(why)
	{
		printf "%s:%d: %s\n", FILENAME, FNR, why
		failed = 1
	}
	BEGIN {
		n = split(ENVIRON["RULES"], row, "\n")
		for (i = 1; i <= n; i++) {
			split(row[i], col, /[ \t]+/)
			allow[col[1], col[2]] = col[3]
		}
	}
	/^[ \t]*#[ \t]*include/ {
		mod = module_of(FILENAME)
		name = $0
		if (match(name, /"[^"]*"/)) {
			name = substr(name, RSTART + 1, RLENGTH - 2)
			if (!exists(name))
				bad("\"" name "\" is not a path from the root of the tree")
			else if (name !~ whole(allow[mod, "own"]))
				bad(mod " may not include \"" name "\"")
			else if (name ~ /^vmm\/cli/ && mod !~ /^(cli|command|tests)$/)
				bad("\"" name "\" belongs to the command line alone")
		} else if (match(name, /<[^>]*>/)) {
			name = substr(name, RSTART + 1, RLENGTH - 2)
			if (name !~ whole(allow[mod, "sys"]) || name ~ whole(allow[mod, "nosys"]))
				bad(mod " may not include <" name ">")
		} else {
			bad("an include that names no file")
		}
	}
	END { exit failed }'
}

# As the first and only include of an empty file, with warnings as errors.
compile_alone() { # header
	case $1 in
	guest/*) mode=-ffreestanding ;;
	*) mode=-D_GNU_SOURCE ;;
	esac
	printf '#include "%s"\n' "$1" |
		$CC -std=gnu11 -Wall -Wextra -Werror "$mode" -I. -fsyntax-only -x c - ||
		{ echo "$1: does not compile alone"; return 1; }
}

check_headers() {
	sources | grep '\.h$' | xargs -P 2 -n 8 "$script" alone
}

check() {
	status=0
	[ -n "$(sources)" ] || { echo "no sources to check"; exit 2; }
	check_direction || status=1
	check_headers || status=1
	return $status
}

# Plant one violation: the checker must fail and say the words.
plant() { # words, path, contents
	mkdir -p "$(dirname "$scratch/$2")"
	[ ! -e "$scratch/$2" ] || { echo "self-test: $2 planted twice"; exit 2; }
	printf '%s\n' "$3" >"$scratch/$2"
	if output=$("$scratch/tests/include_check.sh" 2>&1); then
		echo "self-test: not caught: $2: $3"
		missed=1
	elif ! printf '%s' "$output" | grep -qF "$1"; then
		echo "self-test: $2: wanted '$1', got: $output"
		missed=1
	fi
	rm "$scratch/$2"
}

self_test() {
	scratch=$(mktemp -d) || exit 2
	trap 'rm -rf "$scratch"' EXIT
	missed=0
	for dir in mm arch/x86_64 vmm guest bench tests/unit; do
		mkdir -p "$scratch/$dir"
	done
	cp "$script" "$scratch/tests/"
	for header in mm/types.h mm/pool.h arch/arch.h arch/x86_64/regs.h vmm/kvm.h vmm/vm.h \
		vmm/cli.h guest/abi.h bench/bench.h tests/unit/help.h; do
		echo '#include <stdint.h>' >"$scratch/$header"
	done
	if ! output=$("$scratch/tests/include_check.sh" 2>&1); then
		echo "self-test: a clean tree was refused: $output"
		missed=1
	fi
	plant 'mm may not' mm/a.c '#include "vmm/kvm.h"'
	plant 'mm may not' mm/a.c '#  include <linux/kvm.h>'
	plant 'mm may not' mm/a.h '#include "guest/abi.h"'
	plant 'mm may not' mm/a.c '#include <jansson.h>'
	plant 'arch may not' arch/x86_64/a.c '#include "mm/pool.h"'
	plant 'arch may not' arch/x86_64/a.c '#include "vmm/vm.h"'
	plant 'kvm may not' vmm/kvm.c '#include "mm/types.h"'
	plant 'vmm may not' vmm/a.c '#include "arch/x86_64/regs.h"'
	plant 'vmm may not' vmm/a.c '#include "bench/bench.h"'
	plant 'command line alone' vmm/a.c '#include "vmm/cli.h"'
	plant 'command line alone' bench/a.c '#include "vmm/cli.h"'
	plant 'bench may not' bench/a.c '#include "arch/arch.h"'
	plant 'bench may not' bench/a.c '#include "guest/abi.h"'
	plant 'command may not' bench/faults.c '#include "arch/x86_64/regs.h"'
	plant 'guest may not' guest/a.c '#include "mm/types.h"'
	plant 'guest may not' guest/a.c '#include <string.h>'
	plant 'may not include "tests/' vmm/main.c '#include "tests/unit/help.h"'
	plant 'may not include "tests/' mm/a.c '#include "tests/unit/help.h"'
	plant 'not a path from the root' mm/a.c '#include "types.h"'
	plant 'names no file' mm/a.c '#include HEADER'
	plant 'does not compile alone' mm/a.h 'struct a { uint32_t v; };'
	plant 'does not compile alone' guest/a.h 'static int unused_and_static(void) { return x; }'
	[ $missed -eq 0 ] && echo "self-test: every planted violation was caught"
	return $missed
}

case ${1:-check} in
check) check ;;
self-test) self_test ;;
alone)
	shift
	status=0
	for header; do
		compile_alone "$header" || status=1
	done
	exit $status
	;;
*)
	sed -n 's/^# \{0,1\}//; 5,6p' "$script" >&2
	exit 2
	;;
esac
