#!/bin/sh
# SPDX-License-Identifier: MIT
#
# tests/breakdown.sh - where the time of a clone goes: a table of system calls (tests/calls.c) of
# 1,000 clones with a machine each, and of 1,000 in one that is reset.
#
# usage: tests/breakdown.sh COWSLIP GUESTS CALLS.SO
set -eu

cowslip=${1:?usage: tests/breakdown.sh COWSLIP GUESTS CALLS.SO}
guests=${2:?usage: tests/breakdown.sh COWSLIP GUESTS CALLS.SO}
calls=$(realpath "${3:?usage: tests/breakdown.sh COWSLIP GUESTS CALLS.SO}")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

"$cowslip" run --mem 256M --save "$dir/t.cow" "$guests/counter.elf" >"$dir/out" 2>&1
for how in --no-reuse --reset=1000; do
	count=
	[ "$how" = --no-reuse ] && count="-n 1000"
	echo "== clone $how"
	LD_PRELOAD=$calls "$cowslip" clone $count -j 1 "$how" --stats "$dir/t.cow" \
		2>&1 >"$dir/out"
done
