# SPDX-License-Identifier: MIT
#
# tests/nested/icount.awk - compares bench/icount.sh's table with its bounds; prints TAP.
#
# usage: awk -f tests/nested/icount.awk BOUNDS TABLE
#
# A line of BOUNDS is a row's name and the most instructions a touch of it may cost. A row without
# a bound, and a bound without a row, fail.

function name_of(last,  i, name) {
	name = $1
	for (i = 2; i <= last; i++)
		name = name " " $i
	return name
}

function result(good, text) {
	printf "%s %d - %s\n", good ? "ok" : "not ok", ++n, text
}

/^#/ || NF == 0 { next }
FNR == NR { bound[name_of(NF - 1)] = $NF; next }
FNR == 1 { next }
{
	name = name_of(NF - 4)
	cost = $(NF - 1)
	seen[name] = 1
	if (name in bound)
		result(cost + 0 > 0 && cost + 0 <= bound[name],
		       name ": " cost " instructions a touch, at most " bound[name])
	else
		result(0, name ": has no bound")
}
END {
	for (name in bound)
		if (!(name in seen))
			result(0, name ": was not measured")
	printf "1..%d\n", n
}
