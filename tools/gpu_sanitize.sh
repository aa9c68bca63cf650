#!/bin/bash
# gpu_sanitize.sh - compute-sanitizer over test-backend-cuda --small, every test by itself.
#
# usage: BIN=build/release tools/gpu_sanitize.sh memcheck racecheck initcheck [-- NAME ...]
#
# NAME: the tests whose name contains one of them.  JOBS (8) tests run at a time, each for at most LIMIT (240) seconds; one
# that takes longer has failed.  A report that a line of tools/gpu_sanitize.known explains does not fail its test;
# it is counted, and the reason printed.  Skips, and says so, where there is no compute-sanitizer or no GPU.
set -uo pipefail
BIN=${BIN:-build/release} LIMIT=${LIMIT:-240} JOBS=${JOBS:-8}
KNOWN=$(dirname "$0")/gpu_sanitize.known
tools=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do tools+=("$1"); shift; done
[ $# -eq 0 ] || shift
sanitizer=$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer) || { echo "SKIP: no compute-sanitizer"; exit 0; }
nvidia-smi -L >/dev/null 2>&1 || { echo "SKIP: no GPU"; exit 0; }
logs=$(mktemp -d "${TMPDIR:-/tmp}/gpu_sanitize.XXXXXX")
trap 'rm -rf "$logs"' EXIT

# judge TOOL TEST LOG: "unknown known" reports; the reasons of the known and the first unknown ones to LOG.text
judge() {
    awk -v tool="$1" -v test="$2" -v text="$3.text" '
        NR == FNR { if (!/^#/ && split($0, f, "\t") == 4 && f[1] == tool && test ~ f[2]) { re[++n] = f[3]; why[n] = f[4] } next }
        function end(    i) {
            if (report == "") return
            for (i = 1; i <= n; i++) if (report ~ re[i]) { known++; if (!told[i]++) print "    known: " why[i] > text; report = ""; return }
            if (++unknown <= 3) printf "%s", report > text
            report = "" }
        /^========= (Error|Warning|Uninitialized|Invalid|Program hit|Misaligned|Potential|Leaked|Host API)/ { end(); open = 1 }
        /^========= *$/ || /Saved host backtrace/ || /SUMMARY/ { open = 0 }
        open { report = report "    " $0 "\n" }
        END { end(); print unknown + 0, known + 0 }' "$KNOWN" "$3"
}

one() {      # one TOOL TEST
    local tool=$1 test=$2 log=$logs/$1.$2 begin=$SECONDS rc counts word
    timeout -k 5 "$LIMIT" "$sanitizer" --tool "$tool" --error-exitcode 9 --print-limit 20000 \
        "$BIN/test-backend-cuda" --small "$test" > "$log" 2>&1
    rc=$?
    counts=$(judge "$tool" "$test" "$log")
    case $rc in
        0) word=ok ;;
        9) word="not ok"; [ "${counts% *}" != 0 ] || [ "${counts#* }" = 0 ] || ! grep -q '^ok - ' "$log" || word=ok ;;
        124 | 137) word="not ok" counts="over $LIMIT s" ;;
        *) word="not ok" counts="exit status $rc" ;;
    esac
    case $counts in
        "0 0") counts="" ;;
        *[0-9]" "*[0-9]) counts=", ${counts% *} reports, ${counts#* } more that are known" ;;
        *) counts=", $counts" ;;
    esac
    {
        echo "$word - $tool $test ($((SECONDS - begin)) s$counts)"
        [ ! -s "$log.text" ] || cat "$log.text"
        [ "$word" = ok ] || grep -E '^not ok' "$log" | head -3
    } > "$log.said"
    cat "$log.said"      # in one piece: others write, too
    rm -f "$log"*
}
export -f one judge
export BIN LIMIT KNOWN sanitizer logs

[ $# -gt 0 ] || set -- ""
for name; do "$BIN/test-backend-cuda" --list "$name"; done > "$logs/names"
for tool in "${tools[@]}"; do
    sed "s/^/$tool /" "$logs/names"
done | xargs -P "$JOBS" -L 1 bash -c 'one "$0" "$1"' | tee "$logs/all"
passed=$(grep -c '^ok - ' "$logs/all") failed=$(grep -c '^not ok - ' "$logs/all")
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
