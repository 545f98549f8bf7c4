#!/bin/sh
# SPDX-License-Identifier: MIT
#
# bench/standard.sh - the standard set of measurements, and a report of them.
#
# usage: bench/standard.sh COWSLIP DIR
#
# Leaves in DIR, for each measurement, NAME.json (cowslip bench ... --compare takes it) and NAME.svg,
# and report.md with all tables, plots and the command under each. bench/README.md says what the
# figures mean. Ends with status 1 when a measurement failed; a noisy host is told, not hidden.
#
# Environment: REPEAT (5), QUICK=1: sizes that take a minute, to try the script, not the host.
set -u

cowslip=${1:?usage: bench/standard.sh COWSLIP DIR}
dir=${2:?usage: bench/standard.sh COWSLIP DIR}
guests=${COWSLIP_GUESTS:-$(dirname "$cowslip")/guest}
repeat=${REPEAT:-5}
if [ "${QUICK:-0}" = 1 ]; then
	size=16M ram=64M big=256M touches=256 clones=20 depth=4 alive=20
else
	size=256M ram=1G big=16G touches=4096 clones=500 depth=64 alive=1000
fi

mkdir -p "$dir" || exit 1
report=$dir/report.md
failed=0
: >"$report.new" || exit 1

say() {
	printf '%s\n' "$@" >>"$report.new"
}

# One measurement. What is asked of cowslip is what the report says.
measure() { # name, title, options of cowslip bench...
	name=$1
	title=$2
	shift 2
	printf '== %s\n   cowslip bench %s\n' "$title" "$*"
	say "## $title" ""
	if "$cowslip" bench "$@" --json="$dir/$name.json" --markdown "$dir/$name.md" \
		--plot "$dir/$name.svg" >"$dir/$name.txt"; then
		cat "$dir/$name.txt"
		tail -n +2 "$dir/$name.md" >>"$report.new"
		say "" "![$title]($name.svg)"
	else
		failed=1
		say "This measurement failed."
	fi
	say "" "    cowslip bench $*" ""
}

# Clones that all live at once. What they cost is what --stats says of them.
alive() { # name, title, how many
	name=$1
	title=$2
	save="run --mem $size --save $dir/$name.cow $guests/counter.elf"
	clone="clone $dir/$name.cow -n $3 --hold --stats"
	printf '== %s\n   cowslip %s\n' "$title" "$clone"
	say "## $title" ""
	# shellcheck disable=SC2086 # lists of words
	if "$cowslip" $save >/dev/null && "$cowslip" $clone >/dev/null 2>"$dir/$name.txt"; then
		cat "$dir/$name.txt"
		sed 's/^/    /' "$dir/$name.txt" >>"$report.new"
	else
		failed=1
		say "This measurement failed."
	fi
	rm -f "$dir/$name.cow"
	say "" "    cowslip $save" "    cowslip $clone" ""
}

say "# What cowslip costs" ""
say "$("$cowslip" --version), $(date -u '+%Y-%m-%d'). How each figure is made: bench/README.md." ""

measure fresh-seq "Fresh memory, sequential writes" \
	faults --size $size --repeat "$repeat"
measure fresh-random "Fresh memory, lone writes at random" \
	faults --size $ram --pattern random --touches $touches --repeat "$repeat" \
	--rows auto,kernel-4k,kernel-thp
measure fresh-2cpus "Fresh memory, two vCPUs" \
	faults --size $size --vcpus 2 --repeat "$repeat" --rows auto,kernel-4k,kernel-thp
measure fresh-large "More fresh memory, sequential writes" \
	faults --size $ram --repeat "$repeat" --rows auto,kernel-thp
measure fresh-large-2cpus "More fresh memory, two vCPUs" \
	faults --size $ram --vcpus 2 --repeat "$repeat" --rows auto,kernel-thp
measure clone-read "Clone, sequential reads" \
	faults --memory clone --access read --size $size --repeat "$repeat"
measure clone-read-bare "Clone, sequential reads, single touches not timed" \
	faults --memory clone --access read --size $size --no-latency --repeat "$repeat"
measure clone-write "Clone, sequential writes" \
	faults --memory clone --size $size --repeat "$repeat"
measure clone-random "Clone, lone writes at random" \
	faults --memory clone --pattern random --touches $touches --size $size \
	--repeat "$repeat" --rows auto,private-4k
measure clones "Clones of a 64 MiB guest, with new and with reused virtual machines" \
	clone -n $clones -j 2 --repeat "$repeat"
measure clones-floor "A reused machine, and what no clone can do without" \
	clone -n $clones -j 1 --reuse --repeat "$repeat"
measure clones-big "Clones of a large, sparse guest" \
	clone -n $clones -j 2 --mem $big --repeat "$repeat"
measure clones-deep "Clones at the end of a long chain" \
	clone -n $clones -j 2 --depth $depth --repeat "$repeat"
alive alive "Clones that all live at once" $alive
measure reset "A clone back to its image" \
	reset --size $size --dir "$dir" --repeat "$repeat"
measure fork "A guest forked while it runs" \
	fork --size $ram --no-small --repeat "$repeat"
measure snapshot "Pausing, saving, loading" \
	snapshot --size $size --dir "$dir" --repeat "$repeat"

mv "$report.new" "$report" || exit 1
echo "The report: $report"
exit $failed
