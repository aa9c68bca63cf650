#!/bin/bash
# run_e2e.sh - runs tests/e2e with real clients in a virtual environment of its own.
#
#     tools/run_e2e.sh [pytest arguments]
#
# The environment lies in $BUILD/venv and holds tests/e2e/requirements.txt from
# PyPI; it is made once and again when that file changes.  LLM_BASE_URL=http://...
# tests a server that runs already.  The last line is "N passed, N failed".
set -u
cd "$(dirname "$0")/.."
BUILD=${BUILD:-build}
export BUILD CONFIG=${CONFIG:-release}
venv=$BUILD/venv
wanted=tests/e2e/requirements.txt

if ! cmp -s "$wanted" "$venv/installed.txt"; then
    rm -rf "$venv"
    mkdir -p "$BUILD"
    "${PYTHON:-python3}" -m venv "$venv" &&
        "$venv/bin/pip" install -q --disable-pip-version-check -r "$wanted" &&
        cp "$wanted" "$venv/installed.txt" || {
            echo "not ok - e2e: PyPI gave no clients for $wanted"
            echo "0 passed, 1 failed"
            exit 1
        }
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$venv/bin/python" -m pytest -q -p no:cacheprovider tests/e2e "$@" 2>&1 | tee "$log"
rc=${PIPESTATUS[0]}
count() { tail -n 3 "$log" | grep -oE "[0-9]+ $1" | tail -n 1 | cut -d' ' -f1; }
passed=$(count passed)
failed=$(($(count failed || true) + $(count 'errors?' || true) + 0))
if [ "$rc" -ne 0 ] && [ "$failed" -eq 0 ]; then
    failed=1
fi
echo "${passed:-0} passed, $failed failed"
[ "$failed" -eq 0 ]
