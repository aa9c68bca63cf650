#!/bin/bash
# setup.sh - installs the Debian or Ubuntu packages that the project needs, and only those.
#
#     tools/setup.sh run     what `make run` needs: compiler, nginx, libraries
#     tools/setup.sh test    that, and what `make test` needs
#     tools/setup.sh fuzz    that of run, and clang's fuzzer
#
# Does nothing, in a few milliseconds, when all are there.  Otherwise installs
# them as root or with sudo; with neither it prints the line to run and stops.
# The names are the same in Debian 12 and Ubuntu 24.04.  Installing nginx does
# not start it as a service, so a taken port 80 does no harm.
# LLM_SKIP_SETUP=1 skips all of it, for systems that bring these things another way.
set -euo pipefail

run_set="gcc make libc6-dev nginx nginx-dev libcjson-dev libpcre2-dev curl"
test_set="$run_set git libcmocka-dev perl libtest-base-perl libtest-longstring-perl
          python3 python3-venv xz-utils procps openssl"
fuzz_set="$run_set clang libclang-rt-dev"

# For tests that are skipped, with a reason, where these cannot be had: promtool
# and a browser for the status page.
optional_set=

case "${1:-}" in
    run)  want=$run_set ;;
    test) want=$test_set; optional_set="prometheus chromium" ;;
    fuzz) want=$fuzz_set ;;
    *)    echo "usage: tools/setup.sh run|test|fuzz" >&2; exit 2 ;;
esac
[ "${LLM_SKIP_SETUP:-0}" = 0 ] || exit 0

if ! command -v dpkg-query >/dev/null; then
    echo "setup: this is neither Debian nor Ubuntu; install the equivalents of" >&2
    echo "setup:    " $want >&2
    echo "setup: and set LLM_SKIP_SETUP=1" >&2
    exit 1
fi

# shellcheck disable=SC2086
have=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' $want 2>/dev/null |
       awk '$2 == "installed" { print $1 }' || true)
missing=
for package in $want; do
    case $'\n'"$have"$'\n' in
        *$'\n'"$package"$'\n'*) ;;
        *) missing="$missing $package" ;;
    esac
done

# Not tried again at each start when no source offers it.
optional=
for package in $optional_set; do
    case $package in
        prometheus) program=promtool ;;
        *)          program=$package ;;
    esac
    if ! command -v $program >/dev/null && { [ -n "$missing" ] ||
       apt-cache policy $package 2>/dev/null | grep -q 'Candidate: [0-9]'; }
    then
        optional="$optional $package"
    fi
done
[ -n "$missing$optional" ] || exit 0

apt="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root=sudo
elif [ -z "$missing" ]; then
    echo "setup: without root, so tests that need these are skipped:$optional"
    exit 0
else
    echo "setup: packages are missing, and this is neither root nor a terminal with sudo; run" >&2
    echo >&2
    echo "    sudo apt-get update && sudo $apt" >&2
    echo >&2
    exit 1
fi

echo "setup: installing$missing$optional"
# As root: a policy-rc.d for the time of the installation keeps nginx's package
# from starting the service (and Prometheus's), and the unit is not left enabled for the next boot
# when it was us who brought it.
# shellcheck disable=SC2086
$as_root env MISSING="$missing" OPTIONAL="$optional" APT="$apt" bash -euc '
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap "rm -f $policy" EXIT
        printf "#!/bin/sh\n# of nginx-llm tools/setup.sh, for a moment\ncase \"\$1\" in nginx|prometheus*) exit 101 ;; esac\n" > $policy
        chmod 755 $policy
    fi
    apt-get -o DPkg::Lock::Timeout=120 -qq update ||
        echo "setup: apt-get update failed; trying with the lists there are" >&2
    [ -z "$MISSING" ] || apt-get -o DPkg::Lock::Timeout=120 -qq ${APT#apt-get} >/dev/null
    for package in $OPTIONAL; do
        apt-get -o DPkg::Lock::Timeout=120 -qq install -y --no-install-recommends $package \
            >/dev/null 2>&1 || {
                echo "setup: $package cannot be installed here; tests that need it are skipped"
                continue
            }
        if [ $package = prometheus ] && command -v systemctl >/dev/null; then
            systemctl --quiet disable prometheus >/dev/null 2>&1 || true
        fi
    done
    case "$MISSING " in
        *" nginx "*)
            if command -v systemctl >/dev/null; then
                systemctl --quiet disable nginx >/dev/null 2>&1 || true
                echo "setup: nginx is installed, not running and not enabled as a service"
            fi ;;
    esac
'
