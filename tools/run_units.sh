#!/bin/sh
# run_units.sh - runs each cmocka program given, each at most 300 s, and adds up.
# usage: tools/run_units.sh PROGRAM...
set -u
passed=0 failed=0
for p in "$@"; do
    log="$p.log"
    timeout 300 "$p" >"$log" 2>&1
    rc=$?
    ok=$(grep -c '^\[       OK \]' "$log")
    passed=$((passed + ok))
    if [ $rc -ne 0 ]; then
        # cmocka names them again in its summary
        bad=$(sed '/^\[==========\].* run\.$/q' "$log" | grep -c '^\[  FAILED  \]')
        [ "$bad" -gt 0 ] || bad=1
        failed=$((failed + bad))
        echo "not ok - $p (exit $rc)"
        tail -n 40 "$log"
    else
        echo "ok - $p ($ok)"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
