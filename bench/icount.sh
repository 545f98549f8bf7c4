#!/bin/sh
# SPDX-License-Identifier: MIT
#
# bench/icount.sh - how many instructions a stage-2 violation costs, by what backs the memory.
#
# usage: bench/icount.sh COWSLIP    run where the clock counts instructions: tests/nested/run --icount
#
# `cowslip bench faults` walks 8 MiB once for each row. There a nanosecond is an instruction, of host
# kernel, VMM and guest together, so the figures are the same on every machine and under any load.
# Prints a line for each: memory, access and row; touches; violations by KVM's count; instructions
# per touch and per violation, to three digits: the fourth is not always the same, because the
# interrupts of two threads do not always fall alike.
set -u

cowslip=${1:?usage: bench/icount.sh COWSLIP}
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT

measure() { # name, options of bench faults...
	name=$1
	shift
	"$cowslip" bench faults --size 8M --repeat 1 --csv "$@" >"$tmp/csv" || exit 1
	awk -F, -v name="$name" '
	function three(v,  unit) {
		for (unit = 1; v / unit >= 1000; unit *= 10)
			;
		return sprintf("%.0f", sprintf("%.0f", v / unit) * unit)
	}
	NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
	{
		cycles = $at["walk_us"] * 1000
		faults = $at["kvm.pf_taken"]
		touches = $at["touches"]
		printf "%-28s %7d %10d %10s %13s\n", name " " $at["name"], touches, faults,
			three(cycles / touches), three(cycles / faults)
	}' "$tmp/csv"
}

printf '%-28s %7s %10s %10s %13s\n' memory touches violations per-touch per-violation
measure "fresh write" --rows auto,kernel,kernel-4k,kernel-thp,uffd-4k
measure "fresh write 4k" --rows kernel,uffd --page-size 4k
measure "fresh write 2m" --rows kernel,uffd --page-size 2m
measure "fresh random" --rows auto,kernel-4k --pattern random --touches 512
measure "clone read" --memory clone --access read --rows auto,private-4k,uffd-4k
measure "clone write" --memory clone --access write --rows auto,private-4k,uffd-4k
measure "clone random" --memory clone --rows auto,private-4k --pattern random --touches 512
