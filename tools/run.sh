#!/bin/bash
# run.sh - builds everything, serves a model on 127.0.0.1, and leaves nothing behind.
#
#     tools/run.sh                                the demo model on port 8000
#     MODEL=/path/to/model PORT=8080 tools/run.sh
#     CONF=conf/keys.conf tools/run.sh            another file of conf/
#     ENGINE_LINES='max_num_seqs 8;' tools/run.sh     more lines in the llm_engine block
#
# The foreground process of `make run`.  Everything it writes at run time lies
# in a directory of its own under $TMPDIR, which goes at the end.  Ctrl-C stops
# nginx and, through the lifeline, the engine; a second Ctrl-C does not wait.
# BUILD and CONFIG choose the build as in the Makefile.  Exit codes: 0 stopped
# by a signal, 1 could not start or died.
set -euo pipefail
cd "$(dirname "$0")/.."

PORT=${PORT:-8000}
MODEL=${MODEL:-models/demo}
CONF=${CONF:-conf/demo.conf}
TLS_PORT=${TLS_PORT:-8443}
BUILD=${BUILD:-build}
CONFIG=${CONFIG:-release}
STOP_SECONDS=15

fail() { echo "run: $*" >&2; exit 1; }

case $PORT in
    ''|*[!0-9]*) fail "PORT=$PORT is no port number" ;;
esac
[ "$PORT" -ge 1 ] && [ "$PORT" -le 65535 ] || fail "PORT=$PORT is no port number (1 to 65535)"
[ -d "$MODEL" ] || fail "MODEL=$MODEL is no directory; give a Hugging Face model directory"
[ -r "$MODEL/config.json" ] || fail "$MODEL has no readable config.json; is it a Hugging Face model directory?"
MODEL=$(realpath "$MODEL")
[ -r "$CONF" ] || fail "CONF=$CONF is no readable file; conf/README.md lists what there is"

# Listening sockets (state 0A) of this port, whatever their address.
port_taken() {
    local hex
    hex=$(printf '%04X' "$PORT")
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
        awk -v p=":$hex\$" '$4 == "0A" && $2 ~ p { found = 1 } END { exit !found }'
}
port_taken && fail "port $PORT is already in use; stop what listens there or give PORT=another"

tools/setup.sh run
out=$(env -u MAKEFLAGS -u MAKELEVEL make -s -j"$(nproc)" BUILD="$BUILD" CONFIG="$CONFIG" \
      engine tools module 2>&1) || { echo "$out" >&2; fail "the build failed"; }
bin=$(realpath "$BUILD/$CONFIG")
"$bin/nginx-llm-tool" inspect "$MODEL" >/dev/null || fail "the engine cannot serve $MODEL"

prefix=$(mktemp -d "${TMPDIR:-/tmp}/nginx-llm.XXXXXX")
nginx_pid=

# nginx and the supervisor and engine, which are known by their program's name.
left_pids() {
    local file pid
    for file in $(grep -lsaE "^${prefix//./\\.}/" /proc/[0-9]*/cmdline) "/proc/$nginx_pid/"; do
        pid=${file#/proc/}
        pid=${pid%%/*}
        [ -z "$pid" ] || ! kill -0 "$pid" 2>/dev/null || echo "$pid"
    done
}

stop() {
    trap 'STOP_SECONDS=0' INT TERM HUP
    local end pid
    [ -z "$nginx_pid" ] || kill -TERM "$nginx_pid" 2>/dev/null || true
    end=$((SECONDS + STOP_SECONDS))
    while [ -n "$(left_pids)" ] || grep -qF "$prefix/" /proc/net/unix; do
        if [ "$SECONDS" -ge "$end" ] || [ "$STOP_SECONDS" = 0 ]; then
            for pid in $(left_pids); do
                echo "run: killing process $pid" >&2
                kill -KILL "$pid" 2>/dev/null || true
            done
            break
        fi
        sleep 0.1 || true
    done
    rm -rf "$prefix"
}
finish() { echo; echo "run: stopping"; exit 0; }
trap stop EXIT
trap finish INT TERM HUP

# The engine is started through a name in the prefix, see left_pids().
ln -s "$bin/nginx-llm-engine" "$prefix/nginx-llm-engine"
mkdir "$prefix/logs"

# root hands the work to nobody, as nginx does, unless nobody may not read the
# program and the model (a clone below /root): then it stays root, on loopback.
user=
if [ "$(id -u)" = 0 ]; then
    chmod 755 "$prefix"
    group=$(id -gn nobody)
    # shellcheck disable=SC2016
    if setpriv --reuid=nobody --regid="$group" --clear-groups \
            sh -c 'test -x "$1" && test -r "$2"' - "$bin/nginx-llm-engine" "$MODEL/config.json"; then
        user="user nobody $group;"
    else
        user="user root;"
    fi
fi

# conf/tls.conf says how; here for those who only want to see it run.
if grep -q '^[^#]*@PREFIX@/tls.crt' "$CONF"; then
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
        -keyout "$prefix/tls.key" -out "$prefix/tls.crt" 2>/dev/null \
        || fail "openssl makes no certificate for $CONF"
fi

escape() { printf '%s' "$1" | sed 's/[&|\\]/\\&/g'; }
sed -e "s|@PREFIX@|$(escape "$prefix")|g" -e "s|@PORT@|$PORT|g" \
    -e "s|@MODEL@|$(escape "$MODEL")|g" \
    -e "s|@ENGINE@|$(escape "$prefix/nginx-llm-engine")|g" \
    -e "s|@MODULE@|$(escape "$bin/ngx_http_llm_module.so")|g" \
    -e "s|^ *model .*|&${ENGINE_LINES:+ $(escape "$ENGINE_LINES")}|" \
    -e "s|@USER@|$(escape "$user")|g" -e "s|@CONF@|$(escape "$PWD/conf")|g" \
    -e "s|@TLS_PORT@|$TLS_PORT|g" "$CONF" > "$prefix/nginx.conf"

nginx=$(PATH=$PATH:/usr/sbin:/usr/local/sbin command -v nginx) || fail "there is no nginx; tools/setup.sh run installs it"
"$nginx" -e "$prefix/logs/error.log" -p "$prefix/" -c "$prefix/nginx.conf" &
nginx_pid=$!

url=http://127.0.0.1:$PORT
echo "run: loading $MODEL, log in $prefix/logs/error.log"
said=$SECONDS
until curl -fs -o /dev/null --max-time 2 "$url/health/ready"; do
    if ! kill -0 "$nginx_pid" 2>/dev/null; then
        tail -n 20 "$prefix/logs/error.log" >&2 || true
        fail "nginx did not start"
    fi
    if [ $((SECONDS - said)) -ge 15 ]; then
        said=$SECONDS
        echo "run: not ready yet, the log's last line: $(tail -n 1 "$prefix/logs/error.log")"
    fi
    sleep 0.1
done

name=$(curl -fs --max-time 5 "$url/v1/models" |
       sed -n 's/.*"id" *: *"\([^"]*\)".*/\1/p' | head -n 1) || true
cat <<END

ready on $url; try

    curl -N $url/v1/chat/completions -d '{"model":"${name:-demo}","stream":true,"messages":[{"role":"user","content":"What is the capital of Thailand?"}]}'

or look at $url/status

Ctrl-C stops it.
END

status=0
wait "$nginx_pid" || status=$?
tail -n 20 "$prefix/logs/error.log" >&2 || true
nginx_pid=
fail "nginx has ended with code $status"
