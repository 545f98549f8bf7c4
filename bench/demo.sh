#!/bin/sh
# SPDX-License-Identifier: MIT
#
# bench/demo.sh - saves a warm guest, forks a hundred clones of it, checks each, says what it cost.
#
# usage: bench/demo.sh [COWSLIP [GUESTS]]    the program (build/cowslip), its guests (build/guest)
#
# The guest draws a nonce that exists in its RAM only, and fills a table from it. Each clone must
# print the template's nonce, its own number and as many increments: exactly one line for each
# number. What differs ends the demo with status 1. Environment: CLONES (100), JOBS (2).
set -u

root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
cowslip=${1:-$root/build/cowslip}
guests=${2:-$root/build/guest}
clones=${CLONES:-100}
jobs=${JOBS:-2}

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

fail() { # words...
	printf 'demo: %s\n' "$*" >&2
	exit 1
}

# A number of the statistics: the key's, in the object that the section names.
number() { # section, key
	sed -n "s/.*\"$1\":{[^{}]*\"$2\":\\([0-9][0-9]*\\).*/\\1/p" "$tmp/stats.json"
}

text() { # key
	sed -n "s/.*\"$1\":\"\\([^\"]*\\)\".*/\\1/p" "$tmp/stats.json"
}

top() { # key, of the outermost object
	sed -n "s/.*[{,]\"$1\":\\([0-9][0-9]*\\).*/\\1/p" "$tmp/stats.json"
}

printf '1. boot a 64 MiB guest, let it warm up, save it\n'
"$cowslip" run --mem 64M --save "$tmp/template.cow" --timeout 60 "$guests/counter.elf" \
	>"$tmp/template.out" 2>"$tmp/template.err" ||
	fail "the template did not come to be (status $?): $(cat "$tmp/template.err")"
sed -n 's/^saved [^:]*: /   saved: /p' "$tmp/template.err"
nonce=$(sed -n 's/^template nonce \([0-9a-f]\{16\}\) .*/\1/p' "$tmp/template.out")
[ -n "$nonce" ] || fail "the template printed no nonce: $(cat "$tmp/template.out")"
printf '   its nonce, which is in its RAM only: %s\n' "$nonce"

printf '2. fork %s clones of it, all alive at once, %s workers running\n' "$clones" "$jobs"
"$cowslip" clone -n "$clones" -j "$jobs" --hold --timeout 60 --stats-file "$tmp/stats.json" \
	"$tmp/template.cow" >"$tmp/clones.out" || fail "clones failed (status $?)"

printf '3. check what each of them printed\n'
awk -v nonce="$nonce" -v clones="$clones" '
function bad(why)
{
	printf "demo: %s: %s\n", why, $0
	wrong++
}
{
	n = $5 + 0
	want = "[" n "] nonce " nonce " clone " n " increments " n " table ok"
	if ($0 != want)
		bad("not what a clone should print")
	else if (n < 1 || n > clones)
		bad("no such clone")
	else if (seen[n]++)
		bad("printed twice")
}
END {
	$0 = ""
	for (n = 1; n <= clones; n++)
		if (!seen[n])
			bad("clone " n " printed nothing")
	exit wrong > 0
}' "$tmp/clones.out" >&2 || fail "the clones are not what they should be"
printf '   %s clones: the template'\''s nonce, their own numbers, nothing of each other\n\n' \
	"$clones"

ok=$(number clones ok)
[ "$ok" = "$clones" ] || fail "the statistics speak of $ok good clones"
awk -v count="$clones" \
	-v first50="$(number first_output p50)" -v first99="$(number first_output p99)" \
	-v create50="$(number create p50)" -v create99="$(number create p99)" \
	-v wall="$(top wall)" -v shared="$(number frames shared)" \
	-v private="$(number frames private)" -v owned="$(number frames owned)" \
	-v pss="$(number memory pss_bytes)" -v tables="$(number memory page_table_bytes)" \
	-v alive="$(number memory alive)" -v ours="$(top violations)" \
	-v path="$(text fault_path)" -v why="$(text fault_path_why)" '
function mib(bytes)
{
	return sprintf("%.1f MiB", bytes / 1048576)
}
function row(name, value)
{
	printf "  %-34s %s\n", name, value
}
BEGIN {
	row("first output of a clone", sprintf("p50 %.2f ms, p99 %.2f ms after it was asked for",
	    first50 / 1000, first99 / 1000))
	row("ready to run", sprintf("p50 %.2f ms, p99 %.2f ms", create50 / 1000, create99 / 1000))
	row("clones per second", sprintf("%.0f (%d in %.0f ms)", count * 1e6 / wall, count,
	    wall / 1000))
	row("frames, all clones together", sprintf("%d shared, %d private, %d owned", shared,
	    private, owned))
	row("memory of " count " separate VMs", mib((shared + private + owned) * 4096))
	row("memory of these " alive, mib(pss) " (PSS of all workers), " mib(tables) \
	    " page tables")
	row("violations", ours " handled by cowslip, at least " private \
	    " (the private pages) by the host kernel")
	row("fault path", path ": " why)
}'
