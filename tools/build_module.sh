#!/bin/bash
# build_module.sh - builds ngx_http_llm_module.so against an nginx source tree.
#
#     tools/build_module.sh NGINX BUILD_DIR RESULT.so
#
# NGINX is the tree of Debian's nginx-dev (/usr/share/nginx/src), which also
# knows how the packaged nginx was configured, or an unpacked or cloned nginx,
# for which the module is built --with-compat.  Configures only when nginx or
# the add-on script have changed.  MODULE_CC_OPT replaces the compiler's flags
# against nginx-dev (tools/asan_nginx.sh).
set -euo pipefail

nginx=$1 build=$2 result=$3
root=$(cd "$(dirname "$0")/.." && pwd)

if [ ! -e "$nginx/auto/configure" ] && [ ! -e "$nginx/configure" ]; then
    echo "module: $nginx is no nginx source tree;" \
         "install nginx-dev (tools/setup.sh run) or give NGINX=/path/to/nginx" >&2
    exit 1
fi
mkdir -p "$build"
build=$(cd "$build" && pwd)
result=$(cd "$(dirname "$result")" && pwd)/$(basename "$result")
cd "$nginx"

configure=./configure
[ -e $configure ] || configure=auto/configure
flags=(--with-compat)
if [ -e conf_flags ]; then
    NGX_CONF_FLAGS=()
    # shellcheck disable=SC1091
    . ./conf_flags
    flags=(--with-cc-opt="${MODULE_CC_OPT:--g -O2 -fPIC}" --with-ld-opt=-fPIC "${NGX_CONF_FLAGS[@]}")
fi

stamp="${MODULE_CC_OPT:-} $PWD $root $(sha1sum < src/core/nginx.h) $(sha1sum < "$root/config")"
if [ ! -e "$build/Makefile" ] || [ "$(cat "$build/stamp" 2>/dev/null)" != "$stamp" ]; then
    rm -rf "${build:?}"/*
    if ! $configure "${flags[@]}" --add-dynamic-module="$root" --builddir="$build" \
            > "$build/configure.log" 2>&1; then
        tail -n 30 "$build/configure.log" >&2
        exit 1
    fi
    echo "$stamp" > "$build/stamp"
fi
env -u MAKEFLAGS -u MAKELEVEL make -f "$build/Makefile" -s modules > "$build/make.log" 2>&1 || {
    grep -E -A8 'error|warning|undefined' "$build/make.log" >&2 || tail -n 40 "$build/make.log" >&2
    exit 1
}
cp -f "$build/ngx_http_llm_module.so" "$result.new"
mv -f "$result.new" "$result"
