#!/bin/sh
# cover.sh - line coverage per source file, from the counters of CONFIG=cover.
# usage: tools/cover.sh OBJECT_DIR
set -eu
find "$1" -name '*.gcda' | while read -r counters; do
    gcov -n "$counters" 2>/dev/null
done | awk '
/^File / { file = $2; gsub("\047", "", file); next }
/^Lines executed:/ && file !~ /^\/usr/ && file ~ /\.c$/ {
    split($0, part, /[:% ]+/)            # Lines executed 85.71 of 14
    covered = part[3] * $NF / 100
    if (!(file in lines) || covered > hit[file]) { hit[file] = covered; lines[file] = $NF }
    file = "/usr"
}
END {
    for (f in lines) {
        printf "%6.1f %% %5d lines  %s\n", 100 * hit[f] / lines[f], lines[f], f | "sort -n"
        all += lines[f]; sum += hit[f]
    }
    close("sort -n")
    if (all) printf "%6.1f %% %5d lines  all\n", 100 * sum / all, all
}'
