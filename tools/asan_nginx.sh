#!/bin/bash
# asan_nginx.sh - t/*.t with module, mock engine and nginx under sanitizers.
#
#     tools/asan_nginx.sh [FILE.t ...]        default: all of t/*.t
#
# nginx itself is built too, with NGX_DEBUG_PALLOC: every ngx_palloc() is a
# malloc() of its own, so that what lies in a pool is watched like the rest.
# Its source is NGINX_SRC, or what `apt-get source nginx` gives (deb-src need
# not be enabled).  Without a source it is Debian's nginx with libasan
# preloaded, which sees only what is larger than a pool's block.
#
# Everything lies in $BUILD/asan.  Reports are the files $BUILD/asan/reports/*;
# one that names our code, or any of AddressSanitizer, is a failure.  Takes
# about ten minutes, and two more for the first build.
set -euo pipefail
cd "$(dirname "$0")/.."
BUILD=${BUILD:-build}
mkdir -p "$BUILD/asan"
out=$(cd "$BUILD/asan" && pwd)
reports=$out/reports
tree=$out/nginx-src
sanitize="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined"

# Private lists: the machine's own sources are not touched.  The newest version
# may be gone from the mirror that others are on, so older ones are tried too.
get_source() {
    local apt=$out/apt options version
    rm -rf "$apt" "$tree"
    mkdir -p "$apt/lists/partial" "$apt/get"
    cat /etc/apt/sources.list.d/{debian,ubuntu}.sources 2>/dev/null |
        sed 's/^Types:.*/Types: deb-src/' > "$apt/list.sources"
    [ -s "$apt/list.sources" ] || return 1
    options=(-qq -o Dir::Etc::sourcelist="$apt/list.sources" -o Dir::Etc::sourceparts=/dev/null
             -o Dir::State::lists="$apt/lists" -o APT::Sandbox::User=root)
    timeout 120 apt-get "${options[@]}" update >/dev/null || return 1
    for version in $(apt-cache "${options[@]}" showsrc nginx | sed -n 's/^Version: //p' | sort -rV); do
        if (cd "$apt/get" && timeout 120 apt-get "${options[@]}" source --download-only \
                "nginx=$version" >/dev/null 2>&1) &&
                dpkg-source --no-check -x "$apt/get"/nginx_"${version#*:}".dsc "$tree" >/dev/null 2>&1; then
            echo "nginx $version"
            rm -rf "$apt"
            return 0
        fi
    done
    return 1
}

# Dynamic as in production, configured as Debian's nginx-dev says if it is there.
build_nginx() {
    local root=$PWD build=$out/nginx stamp
    local NGX_CONF_FLAGS=(--with-debug --with-http_ssl_module --with-http_v2_module
                          --with-http_auth_request_module --with-http_stub_status_module)
    # shellcheck disable=SC1091
    [ ! -e /usr/share/nginx/src/conf_flags ] || . /usr/share/nginx/src/conf_flags
    gcc $sanitize -DLLM_ASAN_LOG="\"$reports/nginx\"" -c tests/asan/asan_options.c -o "$out/asan_options.o"
    stamp="$tree $sanitize $(sha1sum < "$root/config") $(sha1sum < "$0")"
    if [ "$(cat "$build/stamp" 2>/dev/null)" != "$stamp" ]; then
        rm -rf "$build"
        mkdir -p "$build"
        (cd "$tree"
         configure=./configure
         [ -e $configure ] || configure=auto/configure
         ASAN_OPTIONS=detect_leaks=0 $configure "${NGX_CONF_FLAGS[@]}" \
            --with-http_sub_module --with-http_addition_module --with-http_gunzip_module \
            --with-cc-opt="$sanitize -fPIC -Wno-error -DNGX_DEBUG_PALLOC=1 -DNGX_DEBUG_MALLOC=1" \
            --with-ld-opt="-fsanitize=address,undefined $out/asan_options.o" \
            --builddir="$build" --add-dynamic-module="$root") > "$out/configure.log" 2>&1 ||
            { tail -n 20 "$out/configure.log" >&2; return 1; }
        echo "$stamp" > "$build/stamp"
    fi
    (cd "$tree" && env -u MAKEFLAGS -u MAKELEVEL make -s -j2 -f "$build/Makefile" binary modules) \
        > "$out/make.log" 2>&1 || { grep -A8 'error' "$out/make.log" >&2; return 1; }
    cp -f "$build/ngx_http_llm_module.so" "$out/"
    export TEST_NGINX_BINARY=$build/nginx
}

# The second best: Debian's nginx with the library in front; no ubsan, whose
# library would have to be preloaded too.
preload_nginx() {
    echo "asan_nginx: no source of nginx; only Debian's with libasan preloaded"
    MODULE_CC_OPT="-O1 -g -fno-omit-frame-pointer -fsanitize=address -fPIC" \
        tools/build_module.sh /usr/share/nginx/src "$out/module-preloaded" "$out/ngx_http_llm_module.so"
    printf '#!/bin/sh\nLD_PRELOAD=%s ASAN_OPTIONS=%s exec %s "$@"\n' \
        "$(gcc -print-file-name=libasan.so)" "detect_leaks=0:detect_odr_violation=0:log_path=$reports/nginx" \
        "$(PATH=$PATH:/usr/sbin command -v nginx)" > "$out/nginx-preloaded"
    chmod +x "$out/nginx-preloaded"
    export TEST_NGINX_BINARY=$out/nginx-preloaded
}

[ -z "${NGINX_SRC:-}" ] || tree=$(cd "$NGINX_SRC" && pwd)
if [ -e "$tree/src/core/nginx.h" ] || get_source; then
    build_nginx
else
    preload_nginx
fi
make -s -j2 CONFIG=asan ASAN_LOG="$reports/engine" engine tools mock-engine
rm -rf "$reports"
mkdir -p "$reports"
chmod 1777 "$reports"

rc=0
[ $# -gt 0 ] || set -- t/*.t
CONFIG=asan TEST_LLM_SANITIZED=1 TEST_NGINX_FILE_SECONDS=${TEST_NGINX_FILE_SECONDS:-400} \
    tools/run_nginx_tests.pl "$@" || rc=$?

# nginx's own undefined behaviour (unaligned words, memcpy of nothing) is nginx's.
bad=$(grep -lE 'AddressSanitizer|(ngx_http_llm|llm_wire|llm_ring|llm_scan|llm_route)[a-z_]*\.[ch]:|/(engine|wire|tools)/' \
      "$reports"/* 2>/dev/null || true)
for f in $bad; do
    echo "---- $f"
    head -n 40 "$f"
done
echo "$(ls "$reports" | wc -l) reports, $(echo "$bad" | grep -c . || true) of them ours: $reports"
[ -z "$bad" ] && [ "$rc" -eq 0 ]
