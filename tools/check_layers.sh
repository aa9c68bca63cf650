#!/bin/sh
# check_layers.sh - fails on an #include that tools/layers.txt does not allow.
# usage: tools/check_layers.sh     (from the repository root)
set -eu
list=tools/layers.txt
files=$(git ls-files -co --exclude-standard '*.c' '*.h' '*.cu' '*.cuh')
[ -n "$files" ] || exit 0
# shellcheck disable=SC2086
awk '
function bad(what) { print FILENAME ":" FNR ": " dir " may not include " what; n++ }
FNR == NR {
    if ($0 ~ /^#/ || NF == 0) next
    d = $1; sub(":", "", d); known[d]; ok[d, d]
    for (i = 2; i <= NF; i++) ok[d, $i]
    next
}
FNR == 1 { dir = FILENAME; sub("/[^/]*$", "", dir) }
!(dir in known) { next }
/^#include "/ && /\// {
    inc = $2; gsub("\"", "", inc); sub("/[^/]*$", "", inc)
    if (!((dir, inc) in ok)) bad(inc)
}
/^#include "\.\./ { bad($2 " (no relative paths)") }
/^#include <(cuda|cublas|nccl)/ && dir !~ /^(kernels|engine\/backend\/cuda)$/ { bad($2) }
/^#include <ngx_/ && dir != "ngx_http_llm_module" { bad($2) }
/^#include </ && dir == "wire" && $2 !~ /^<(stdint|stddef|stdbool|string)\.h>$/ { bad($2) }
END { exit n > 0 }' "$list" $files
# A cycle in the list would make the layers meaningless.
awk '
/^#/ || NF == 0 { next }
{ d = $1; sub(":", "", d); for (i = 2; i <= NF; i++) if ($i != d) print $i, d }' "$list" | tsort >/dev/null
