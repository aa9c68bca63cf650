#!/bin/bash
# gpu_sanitize.sh - compute-sanitizer over test-backend-cuda --small.
#
# usage: BIN=build/release tools/gpu_sanitize.sh memcheck racecheck initcheck [-- NAME]
#
# NAME: the tests whose name contains it.  Each tool has LIMIT (600) seconds; a tool that takes longer has failed.
# Skips, and says so, where there is no compute-sanitizer or no GPU.
set -uo pipefail
BIN=${BIN:-build/release} LIMIT=${LIMIT:-600}
tools=() failed=0
while [ $# -gt 0 ] && [ "$1" != -- ]; do tools+=("$1"); shift; done
[ $# -eq 0 ] || shift
sanitizer=$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer) || { echo "SKIP: no compute-sanitizer"; exit 0; }
nvidia-smi -L >/dev/null 2>&1 || { echo "SKIP: no GPU"; exit 0; }
for tool in "${tools[@]}"; do
    begin=$SECONDS log=$(mktemp)
    timeout -k 5 "$LIMIT" "$sanitizer" --tool "$tool" --error-exitcode 9 --print-limit 5 \
        "$BIN/test-backend-cuda" --small "$@" > "$log" 2>&1
    rc=$?
    grep -E '^not ok|=========' "$log" | grep -v COMPUTE-SANITIZER | head -40
    tail -1 "$log" | cut -c1-200
    case $rc in 0) word=ok ;; 124) word="not ok (over $LIMIT s)" failed=1 ;; *) word="not ok ($rc)" failed=1 ;; esac
    echo "$word - $tool ($((SECONDS - begin)) s)"
    rm -f "$log"
done
exit $failed
