#!/bin/bash
# run_tests.sh - every test of the project; what `make test` runs after the set-up.
#
# Parts run one after the other, each within its time, and a part that fails
# does not stop the next.  The last line is "N passed, N failed" over all of
# them; the exit code is 0 if and only if nothing failed.  Logs: $BUILD/test-*.log
set -u
cd "$(dirname "$0")/.."
BUILD=${BUILD:-build} CONFIG=${CONFIG:-release}
mkdir -p "$BUILD"
unset MAKEFLAGS MAKELEVEL
make=(make -s -j"$(nproc)" BUILD="$BUILD" CONFIG="$CONFIG")
passed=0 failed=0 parts=

# part NAME SECONDS COMMAND...   The command's last line "N passed, N failed"
# is its result; a command that ends without one counts as one failure.
part() {
    local name=$1 limit=$2 log=$BUILD/test-$1.log start=$SECONDS rc line p=0 f=0
    shift 2
    echo "---- $name"
    timeout -k 20 "$limit" "$@" > "$log" 2>&1 < /dev/null
    rc=$?
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
    grep -vE '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n "${LINES_SHOWN:-400}"
    if [ -n "$line" ]; then
        p=${line%% *}
        f=${line#*, }
        f=${f%% *}
    fi
    if [ $rc -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1
    fi
    if [ $rc -eq 124 ] || [ $rc -eq 137 ]; then
        echo "not ok - $name did not end within $limit s"
    fi
    passed=$((passed + p))
    failed=$((failed + f))
    parts="$parts$(printf '%-8s %6d ok %4d not ok %5d s' "$name" "$p" "$f" $((SECONDS - start)))"$'\n'
}

# The build has no tests of its own, so a good one counts nothing.
part build 900 "${make[@]}" -k engine tools module mock-engine
part unit  420 make -k -j"$(nproc)" BUILD="$BUILD" CONFIG="$CONFIG" test-unit
# Compiles the kernels where there is nvcc, runs them where there is a GPU.
part cuda  300 "${make[@]}" test-gpu
part nginx 1500 tools/run_nginx_tests.pl t/standin/*.t t/*.t
part e2e   900 tools/run_e2e.sh
echo "----"
printf '%s' "$parts"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
