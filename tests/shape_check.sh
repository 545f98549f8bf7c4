#!/bin/sh
# SPDX-License-Identifier: MIT
#
# tests/shape_check.sh - what clang-format leaves alone: licence line, line width, file length.
#
# usage: tests/shape_check.sh FILE...
#
# Lines end by column 100, tabs counted as eight, comments included. A file of more than 900 lines
# is missing a noun. Exit status: 0 clean, 1 not.
set -u

status=0
for file; do
	head -n 2 "$file" | grep -q 'SPDX-License-Identifier: MIT' ||
		{ echo "$file:1: no SPDX licence line"; status=1; }
	expand -t 8 "$file" | LC_ALL=C.UTF-8 grep -nE '^.{101,}' | cut -d: -f1 |
		sed "s|.*|$file:&: beyond column 100|" | grep . && status=1
	[ "$(wc -l <"$file")" -le 900 ] || { echo "$file: more than 900 lines"; status=1; }
done
exit $status
