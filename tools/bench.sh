#!/bin/bash
# bench.sh - every figure of docs/performance.md in one run: a table and bench.json.
#
#     tools/bench.sh all          `make bench`, under 4 minutes
#     tools/bench.sh nginx        `make bench-nginx`: nginx and wire, mock engine
#     tools/bench.sh clients      `make bench-clients`: many clients of one worker,
#                                 IDLE (10000) connections and STREAMS (2000)
#     tools/bench.sh tokenizer | model | demo         one part
#
# nginx has one worker on the first core; the load generator, the mock engine
# and what is compared with run on the second.  Figures that are compared are
# taken in turn, ROUNDS (3) times, and the table shows medians.  CPU times are
# what the kernel counted for the process, so other work on the machine moves
# them less than figures by the clock.  Real texts and tokenizers come from
# ../shared/data when that is there; a Python with `tokenizers` (PYTHON=...) adds
# Hugging Face's library.  Leaves nothing behind but $BUILD/bench.json.
set -euo pipefail
cd "$(dirname "$0")/.."

PART=${1:-all}
BUILD=${BUILD:-build} CONFIG=${CONFIG:-release} PYTHON=${PYTHON:-python3}
ROUNDS=${ROUNDS:-3} PORT=${PORT:-18180}
WINDOW_S=${WINDOW_S:-1}
bin=$(realpath "$BUILD/$CONFIG")
nginx=$(PATH=$PATH:/usr/sbin command -v nginx)
work=$(mktemp -d "${TMPDIR:-/tmp}/nginx-llm-bench.XXXXXX")
figures=$work/figures table=$work/table
touch "$figures" "$table"
pids=()
cores=$(nproc)
other=$((cores > 1 ? 1 : 0))
user=; [ "$(id -u)" != 0 ] || user='user root;'

say() { echo "bench: $*" >&2; }
fail() { say "$*"; exit 1; }
stop_pid() {
    [ -n "$1" ] && kill -TERM "$1" 2>/dev/null || return 0
    wait "$1" 2>/dev/null || true
}
finish() {
    for pid in "${pids[@]}"; do stop_pid "$pid"; done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM

# ---- figures: "name value" lines, several of one name are rounds ---------------
record() {      # record NAME FLAT_JSON
    printf '%s\n' "$2" | tr -d '{}"' | tr ',' '\n' | sed -n "s/^\([a-z0-9_]*\):/$1.\1 /p" >> "$figures"
}
put() { echo "$1 $2" >> "$figures"; }
median() {
    awk -v n="$1" '$1 == n { v[++k] = $2 + 0 }
        END { if (!k) { print "nan"; exit }
              for (i = 2; i <= k; i++) for (j = i; j > 1 && v[j] < v[j-1]; j--) { t = v[j]; v[j] = v[j-1]; v[j-1] = t }
              print k % 2 ? v[(k+1)/2] : (v[k/2] + v[k/2+1]) / 2 }' "$figures"
}
last() { awk -v n="$1" '$1 == n { v = $2 } END { print v }' "$figures"; }
calc() { awk "BEGIN { printf \"%.6g\", $1 }"; }
head_row() { printf '\n%s\n' "$1" >> "$table"; }
row() {         # row LABEL VALUE UNIT [BESIDE_LABEL BESIDE_VALUE [RATIO]]
    awk -v l="$1" -v v="$2" -v u="$3" -v bl="${4:-}" -v bv="${5:-}" -v r="${6:-}" 'BEGIN {
        printf "  %-50s %10s %-14s", l, show(v), u
        if (bl != "") printf " | %-34s %10s", bl, show(bv)
        if (r != "") printf " | %6s", sprintf("%.2f", r)
        printf "\n" }
        function show(x) { if (x !~ /^[-+0-9.e]+$/) return x
            x += 0; a = x < 0 ? -x : x; f = "%.2f"
            if (a >= 1000) f = "%.0f"; else if (a >= 100) f = "%.1f"
            return sprintf(f, x) }' >> "$table"
}

# ---- servers -------------------------------------------------------------------
escape() { printf '%s' "$1" | sed 's/[&|\\]/\\&/g'; }
fill() {        # fill TEMPLATE MODEL_OR_EMPTY > conf
    sed -e "s|@PREFIX@|$(escape "$work")|g" -e "s|@PORT@|$PORT|g" -e "s|@UPSTREAM@|$((PORT + 1))|g" \
        -e "s|@SOCKET@|$(escape "$work/mock.sock")|g" -e "s|@CPU_MASK@|1|g" -e "s|@USER@|$user|g" \
        -e "s|@MODULE@|$(escape "$bin/ngx_http_llm_module.so")|g" -e "s|@ANSWER@|$(printf 'x%.0s' {1..312})|g" \
        -e "s|@MODEL@|$(realpath models/demo)|g" -e "s|@ENGINE@|$(escape "$bin/nginx-llm-engine")|g" "$1"
}
ms_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", (b - a) * 1000 }'; }
get() { "$bin/nginx-llm-load" --port "$PORT" --method GET --path "$1" --warmup-ms 0 --requests 1 --seconds 2 \
            --output-json 2>/dev/null; }
start_nginx() {     # start_nginx CONF_TEMPLATE PATH; $nginx_pid, $worker, $start_ms until PATH answers 200
    local began
    mkdir -p "$work/logs"
    fill "$1" > "$work/nginx.conf"
    began=$EPOCHREALTIME
    "$nginx" -e "$work/logs/error.log" -p "$work/" -c "$work/nginx.conf" &
    nginx_pid=$!
    pids+=("$nginx_pid")
    until get "$2" | grep -q '"requests":1,.*"non_200":0'; do
        kill -0 "$nginx_pid" 2>/dev/null || { tail -n 5 "$work/logs/error.log" >&2; fail "nginx did not start"; }
        [ "${EPOCHREALTIME%.*}" -lt $((${began%.*} + 60)) ] || fail "nginx does not answer $2"
        sleep 0.001
    done
    start_ms=$(ms_since "$began")
    worker=
    for pid in $(cat "/proc/$nginx_pid/task/$nginx_pid/children"); do
        ! grep -q 'worker process' "/proc/$pid/cmdline" || worker=$pid
    done
    [ -n "$worker" ] || fail "nginx has no worker"
}
# Processes that a managed engine's supervisor consists of; they are nobody's child.
supervisors() { grep -lsa -- "[-]-supervise-socket=$work/" /proc/[0-9]*/cmdline | cut -d/ -f3; }
stop_nginx() {
    stop_pid "$nginx_pid"
    nginx_pid=
    for _ in $(seq 500); do
        [ -n "$(supervisors)" ] || return 0
        sleep 0.02
    done
    fail "the supervisor does not end"
}
start_mock() {
    taskset -c "$other" "$bin/nginx-llm-mock-engine" --socket "$work/mock.sock" --log-level error &
    mock=$!
    pids+=("$mock")
    until [ -S "$work/mock.sock" ]; do
        kill -0 "$mock" 2>/dev/null || fail "the mock engine does not start"
        sleep 0.01
    done
}
listens() { grep -q "$(printf ':%04X 00000000:0000 0A' "$1")" /proc/net/tcp; }
start_bare() {      # start_bare CPU OPTIONS...
    ! listens $((PORT + 1)) || fail "another program listens on port $((PORT + 1)): PORT=... chooses two others"
    taskset -c "$1" "$bin/nginx-llm-bare" --port $((PORT + 1)) "${@:2}" &
    bare=$!
    pids+=("$bare")
    until listens $((PORT + 1)); do
        kill -0 "$bare" 2>/dev/null || fail "the bare program does not start"
        sleep 0.01
    done
}
load() {            # load NAME WATCHED_PID OPTIONS...
    local out
    out=$(taskset -c "$other" "$bin/nginx-llm-load" --watch "worker=$2" --watch "mock=${mock:-$$}" \
          --output-json "${@:3}") || fail "no figures for $1"
    record "$1" "$out"
    [ "$(last "$1.errors")" = 0 ] && [ "$(last "$1.non_200")" = 0 ] ||
        say "$1: $(last "$1.errors") errors, $(last "$1.non_200") answers other than 200"
}
per() { put "$1.$4" "$(calc "$(last "$1.$2") / ($(last "$1.$3") + 1e-9) * 1e6")"; }

BODY='{"model":"mock","messages":[{"role":"user","content":"hi"}],"mock":{"tokens":5}}'
STREAM='{"model":"mock","stream":true,"messages":[{"role":"user","content":"hi"}],"mock":{"tokens":1000000'
CHAT=/v1/chat/completions

# ---- 1, 3: requests and latency -----------------------------------------------------
requests_part() {
    local r
    say "requests/s and latency, $ROUNDS rounds"
    start_bare "$other" --answer-bytes 312
    for r in $(seq "$ROUNDS"); do
        for name in llm:$CHAT plain:/plain proxied:/proxied; do
            load "req_${name%%:*}" "$worker" --port "$PORT" --path "${name#*:}" --body "$BODY" \
                 --connections 16 --seconds "$WINDOW_S" --warmup-ms 200
            per "req_${name%%:*}" worker_cpu_s requests cpu_us
            [ "${name%%:*}" != llm ] || per req_llm mock_cpu_s requests mock_cpu_us
        done
        for name in llm:$CHAT plain:/plain proxied:/proxied; do
            load "idle_${name%%:*}" "$worker" --port "$PORT" --path "${name#*:}" --body "$BODY" \
                 --pause-us 1000 --seconds "$WINDOW_S" --warmup-ms 100
        done
        record wire "$(taskset -c 0 "$bin/nginx-llm-bench_wire" "$work/mock.sock" "$BODY" 400)"
    done
    stop_pid "$bare"
    head_row "requests/s: POST, body of ${#BODY} bytes, answer of 312, 16 kept connections, one worker on one core"
    row "module + wire + mock engine" "$(median req_llm.requests_per_s)" "req/s" \
        "return 200 (discards the body)" "$(median req_plain.requests_per_s)" \
        "$(calc "$(median req_llm.requests_per_s) / $(median req_plain.requests_per_s)")"
    row "" "" "" "proxy_pass to a bare program" "$(median req_proxied.requests_per_s)" \
        "$(calc "$(median req_llm.requests_per_s) / $(median req_proxied.requests_per_s)")"
    row "requests a second of worker CPU" "$(calc "1e6 / $(median req_llm.cpu_us)")" "req/CPU s" \
        "return 200" "$(calc "1e6 / $(median req_plain.cpu_us)")" \
        "$(calc "$(median req_plain.cpu_us) / $(median req_llm.cpu_us)")"
    row "" "" "" "proxy_pass" "$(calc "1e6 / $(median req_proxied.cpu_us)")" \
        "$(calc "$(median req_proxied.cpu_us) / $(median req_llm.cpu_us)")"
    row "worker CPU a request" "$(median req_llm.cpu_us)" us "return 200" "$(median req_plain.cpu_us)" \
        "$(calc "$(median req_llm.cpu_us) / $(median req_plain.cpu_us)")"
    row "mock engine CPU a request" "$(median req_llm.mock_cpu_us)" us
    head_row "latency, one request at a time with 1 ms between, us"
    for q in p50 p99; do
        row "client to nginx to mock engine and back, $q" "$(median idle_llm.latency_${q}_us)" us \
            "return 200" "$(median idle_plain.latency_${q}_us)"
        row "" "" "" "proxy_pass to a bare program" "$(median idle_proxied.latency_${q}_us)"
        row "over wire/ without nginx, $q" "$(median wire.wire_${q}_us)" us \
            "the mock's work, direct call" "$(median wire.direct_${q}_us)"
        row "two wake-ups across cores, eventfd and nothing else, $q" "$(median wire.wake_${q}_us)" us
        row "added to a direct call by HTTP + nginx + wire, $q" \
            "$(calc "$(median idle_llm.latency_${q}_us) - $(median wire.direct_${q}_us)")" us
        row "added to nginx's own answer by module + wire, $q" \
            "$(calc "$(median idle_llm.latency_${q}_us) - $(median idle_plain.latency_${q}_us) - $(median wire.direct_${q}_us)")" us
    done
}

# ---- 2: streams -----------------------------------------------------------------------
streams_part() {
    local r mode delay event
    say "256 streams, $ROUNDS rounds"
    for r in $(seq "$ROUNDS"); do
        for mode in paced:10 fast:0; do
            delay=${mode#*:} name=${mode%%:*}
            load "stream_$name" "$worker" --port "$PORT" --path $CHAT --body "$STREAM,\"delay_ms\":$delay}}" \
                 --connections 256 --seconds "$(calc "$WINDOW_S + 1")" --warmup-ms 700
            per "stream_$name" worker_cpu_s events cpu_us
            per "stream_$name" mock_cpu_s events mock_cpu_us
            # The frame of a chunk: three digits of length and two line ends.
            event=$(calc "int($(last "stream_$name.bytes") / $(last "stream_$name.events") - 7)")
            start_bare 0 --stream --event-bytes "$event" --delay-ms "$delay"
            load "bare_$name" "$bare" --port $((PORT + 1)) --path $CHAT --body "$BODY" \
                 --connections 256 --seconds "$(calc "$WINDOW_S + 1")" --warmup-ms 700
            per "bare_$name" worker_cpu_s events cpu_us
            stop_pid "$bare"
        done
    done
    for mode in paced fast; do
        head_row "256 streams, $([ $mode = paced ] && echo 'a token every 10 ms' || echo 'as fast as possible'), one event = one write"
        row "events/s, nginx" "$(median stream_$mode.events_per_s)" "events/s" \
            "bare program" "$(median bare_$mode.events_per_s)" \
            "$(calc "$(median stream_$mode.events_per_s) / $(median bare_$mode.events_per_s)")"
        row "events a second of worker CPU" "$(calc "1e6 / $(median stream_$mode.cpu_us)")" "events/CPU s" \
            "bare program" "$(calc "1e6 / $(median bare_$mode.cpu_us)")"
        row "CPU an event, worker" "$(median stream_$mode.cpu_us)" us "bare program" "$(median bare_$mode.cpu_us)" \
            "$(calc "$(median stream_$mode.cpu_us) / $(median bare_$mode.cpu_us)")"
        row "CPU an event, mock engine" "$(median stream_$mode.mock_cpu_us)" us
        row "gap between two events, p50" "$(calc "$(median stream_$mode.gap_p50_us) / 1e3")" ms "bare program" "$(calc "$(median bare_$mode.gap_p50_us) / 1e3")"
        row "gap between two events, p99" "$(calc "$(median stream_$mode.gap_p99_us) / 1e3")" ms "bare program" "$(calc "$(median bare_$mode.gap_p99_us) / 1e3")"
        row "gap between two events, longest" "$(calc "$(median stream_$mode.gap_max_us) / 1e3")" ms "bare program" "$(calc "$(median bare_$mode.gap_max_us) / 1e3")"
    done
}

# ---- 7: memory a connection, a fresh worker each time -------------------------------------
memory_case() {     # memory_case NAME CONNECTIONS OPTIONS...
    local name=$1 num=$2
    start_nginx conf/bench.conf /plain
    put nginx_start_ms "$start_ms"
    # Now the session with the engine is there.
    load "mem_warm" "$worker" --port "$PORT" --path $CHAT --body "$BODY" --requests 20 --warmup-ms 0 --seconds 2
    load "mem_$name" "$worker" --port "$PORT" --connections "$num" --warmup-ms 0 "${@:3}"
    put "mem_$name.bytes_each" "$(calc "($(last "mem_$name.worker_anon_kb") - $(last "mem_$name.worker_anon_before_kb")) * 1024 / $num")"
    stop_nginx
}
memory_part() {
    say "memory a connection"
    memory_case idle 1000 --path /plain --body "$BODY" --requests-per-connection 1 --seconds 0.7
    memory_case idle_llm 1000 --path $CHAT --body "$BODY" --requests-per-connection 1 --seconds 1
    memory_case slow 500 --path $CHAT --body "$STREAM,\"delay_ms\":500}}" --seconds 2
    memory_case still 100 --path $CHAT --body "$STREAM,\"bytes\":8000}}" --no-read --seconds 3
    head_row "worker's own memory a connection (RssAnon before and with them)"
    row "idle, kept after an answer from the engine (1,000)" "$(median mem_idle_llm.bytes_each)" bytes \
        "after return 200" "$(median mem_idle.bytes_each)"
    row "open stream, a token every 500 ms (500)" "$(median mem_slow.bytes_each)" bytes
    row "stream of 8 KB tokens, client stopped reading (100)" "$(median mem_still.bytes_each)" bytes
    row "nginx start to first answer" "$(median nginx_start_ms)" ms
}

# ---- many clients: what they cost, and whether the event loop ever stands still -----------------
# A light request every 10 ms through the same worker; its longest answer is the
# longest stall, plus what the prober itself and the worker wait for a core.
fast=
! chrt -f 1 true 2>/dev/null || fast='chrt -f 1'
wait_ns() { cut -d' ' -f2 "/proc/$worker/schedstat"; }
probe() {           # probe NAME SECONDS [COMMAND...], which is begun a moment later; $held is its process
    local before out
    before=$(wait_ns)
    held=
    if [ $# -gt 2 ]; then
        { sleep 0.3; exec "${@:3}"; } > "$work/held" 2>&1 &
        held=$!
        pids+=("$held")
    fi
    out=$($fast taskset -c "$other" "$bin/nginx-llm-load" --port "$PORT" --method GET --path /plain --connections 1 \
          --pause-us 10000 --warmup-ms 0 --seconds "$2" --watch "worker=$worker" --output-json) || fail "no figures for $1"
    record "$1" "$out"
    put "$1.wait_ms" "$(calc "($(wait_ns) - $before) / 1e6")"
    [ "$(last "$1.errors")" = 0 ] || fail "$1: the prober has lost its connection"
}
hold() { echo taskset -c "$other" "$bin/nginx-llm-load" --port "$PORT" --warmup-ms 0 --seconds 300 "$@"; }
wait_fds() {        # until the worker has so many descriptors
    local n=0
    for _ in $(seq 500); do
        n=$(ls "/proc/$worker/fd" | wc -l)
        [ "$n" -lt "$1" ] || return 0
        sleep 0.02
    done
    fail "the worker has $n descriptors, not $1: see ulimit -Hn"
}
clients_part() {
    local idle=${IDLE:-10000} streams=${STREAMS:-2000} name label
    local body="$STREAM,\"delay_ms\":250}}"
    say "$idle idle connections and $streams streams"
    [ "$(ulimit -Hn)" = unlimited ] || [ "$(ulimit -Hn)" -gt $((idle + streams + 100)) ] ||
        fail "ulimit -Hn is $(ulimit -Hn): too few descriptors; IDLE and STREAMS make it smaller"
    start_mock
    start_nginx conf/bench.conf /plain
    load clients_warm "$worker" --port "$PORT" --path $CHAT --body "$BODY" --requests 20 --warmup-ms 0 --seconds 2
    probe clients_calm 3
    probe clients_idle_open 5 $(hold --path $CHAT --connections "$idle" --requests-per-connection 1) --body "$BODY"
    local idle_pid=$held
    wait_fds "$idle"
    probe clients_idle 2
    probe clients_open 4 $(hold --path $CHAT --connections "$streams") --body "$body"
    local streams_pid=$held
    wait_fds $((idle + streams))
    probe clients_steady 6
    probe clients_leave 3 kill -PIPE "$streams_pid"
    probe clients_idle_leave 3 kill -PIPE "$idle_pid"
    probe clients_after 2
    put clients_idle.bytes_each "$(calc "($(last clients_idle.worker_anon_kb) - $(last clients_calm.worker_anon_kb)) * 1024 / $idle")"
    put clients_steady.bytes_each "$(calc "($(last clients_steady.worker_anon_kb) - $(last clients_idle.worker_anon_kb)) * 1024 / $streams")"
    head_row "one worker, $idle idle connections (one answer each), $streams streams, a token every 250 ms each"
    row "worker memory, an idle connection" "$(last clients_idle.bytes_each)" bytes
    row "worker memory, a stream" "$(last clients_steady.bytes_each)" bytes
    row "worker memory when all have left" "$(calc "$(last clients_after.worker_anon_kb) / 1024")" MB \
        "before" "$(calc "$(last clients_calm.worker_anon_kb) / 1024")"
    row "worker CPU while the streams run" "$(calc "100 * $(last clients_steady.worker_cpu_s) / $(last clients_steady.seconds)")" "% of a core"
    head_row "a request for nginx's own answer every 10 ms through that worker; waits for a core in the column beside"
    for name in calm:"nobody else" idle_open:"$idle clients connect and ask" idle:"they idle" open:"$streams streams begin" \
                steady:"they run" leave:"they all leave at once" idle_leave:"the idle ones leave at once" after:"all have left"; do
        label=${name#*:} name=clients_${name%%:*}
        row "$label: longest (p99) $(calc "int($(last "$name.latency_p99_us") / 10) / 100") ms" \
            "$(calc "$(last "$name.latency_max_us") / 1e3")" ms "worker waited for a core, in all" "$(last "$name.wait_ms")"
    done
    stop_nginx
    stop_pid "$mock"
    mock=
}

# ---- 4, 7: the demo model ------------------------------------------------------------------
DEMO='{"model":"demo","stream":true,"stream_options":{"include_usage":true},"temperature":0,"ignore_eos":true,"max_tokens":64,"messages":[{"role":"user","content":"Tell me a short story."}]}'
demo_load() {       # demo_load NAME CONNECTIONS REQUESTS
    record "$1" "$("$bin/nginx-llm-load" --port "$PORT" --path $CHAT --body "$DEMO" --connections "$2" \
        --requests "$3" --warmup-ms 0 --seconds 20 --count-tokens --watch "worker=$worker" --watch "engine=$engine" \
        --output-json)"
}
demo_part() {
    local r pid child began
    say "the demo model"
    for r in $(seq "$ROUNDS"); do
        began=$EPOCHREALTIME
        "$bin/nginx-llm-engine" --model models/demo --socket "$work/alone.sock" 2> "$work/alone.log" &
        pid=$!
        pids+=("$pid")
        until grep -q 'ready after' "$work/alone.log"; do
            kill -0 "$pid" 2>/dev/null || { cat "$work/alone.log" >&2; fail "the engine does not start"; }
            sleep 0.002
        done
        put engine_start_ms "$(ms_since "$began")"
        stop_pid "$pid"
        start_nginx conf/demo.conf /health/ready
        put demo_start_ms "$start_ms"
        [ "$r" = "$ROUNDS" ] || stop_nginx
    done
    supervisor= engine=
    for pid in $(supervisors); do
        for child in $(cat "/proc/$pid/task/$pid/children"); do
            supervisor=$pid
            grep -qa -- '--supervise' "/proc/$child/cmdline" || engine=$child
        done
    done
    [ -n "$engine" ] || fail "there is no engine below the supervisor"
    demo_load demo_warm 1 1
    for r in $(seq "$ROUNDS"); do
        demo_load demo_1 1 6
        demo_load demo_32 32 96
        put step_ms "$("$bin/nginx-llm-bench_cpu" models/demo 0 200 | sed -n 's/^decode, batch 1 *\([0-9.]*\) ms.*/\1/p')"
    done
    head_row "demo model (5 M parameters, bf16) through HTTP, 64 tokens a stream, $cores threads"
    row "1 stream" "$(median demo_1.tokens_per_s)" "tokens/s" "in-process, best decode step" \
        "$(calc "1000 / $(median step_ms)")" "$(calc "$(median demo_1.tokens_per_s) * $(median step_ms) / 1000")"
    row "32 concurrent streams" "$(median demo_32.tokens_per_s)" "tokens/s" "1 stream" "$(median demo_1.tokens_per_s)" \
        "$(calc "$(median demo_32.tokens_per_s) / $(median demo_1.tokens_per_s)")"
    row "time to first event, 1 stream, p50" "$(calc "$(median demo_1.first_event_p50_us) / 1e3")" ms \
        "32 streams" "$(calc "$(median demo_32.first_event_p50_us) / 1e3")"
    row "engine CPU a token, 32 streams" "$(calc "$(median demo_32.engine_cpu_s) / $(median demo_32.tokens) * 1e6")" us \
        "worker CPU a token" "$(calc "$(median demo_32.worker_cpu_s) / $(median demo_32.tokens) * 1e6")"
    head_row "start and memory with the demo model"
    row "engine start to ready" "$(median engine_start_ms)" ms
    row "nginx start to ready (/health/ready is 200)" "$(median demo_start_ms)" ms
    for pid in "nginx master:$nginx_pid" "nginx worker:$worker" "supervisor:$supervisor" "engine after 32 streams:$engine"; do
        put "rss_mb.$(echo "${pid%:*}" | tr ' ' _)" "$(awk '/^VmRSS/ { print $2 / 1024 }' "/proc/${pid##*:}/status")"
        row "${pid%:*}, resident" "$(last "rss_mb.$(echo "${pid%:*}" | tr ' ' _)")" MiB \
            "proportional share (Pss)" "$(awk '/^Pss:/ { print $2 / 1024 }' "/proc/${pid##*:}/smaps_rollup")"
    done
    stop_nginx
}

# ---- 5: a 0.5B model ---------------------------------------------------------------------------
model_part() {
    local out
    say "random weights of Qwen2.5-0.5B's shapes"
    out=$("$bin/nginx-llm-bench_cpu" tests/model/qwen2.5-0.5b 0 24)
    put qwen.read_ms "$(echo "$out" | sed -n 's/^reading them once *\([0-9.]*\) ms.*/\1/p')"
    put qwen.decode_ms "$(echo "$out" | sed -n 's/^decode, batch 1 *\([0-9.]*\) ms.*/\1/p')"
    put qwen.decode_mean_ms "$(echo "$out" | sed -n 's/^decode.*(mean \([0-9.]*\)).*/\1/p')"
    put qwen.prefill_tokens_s "$(echo "$out" | sed -n 's/^prefill.* \([0-9.]*\) tokens\/s.*/\1/p')"
    head_row "random model of Qwen2.5-0.5B's shapes, bf16, 988 MB, $cores threads"
    row "a token at batch 1, best of 24 (mean $(last qwen.decode_mean_ms))" "$(last qwen.decode_ms)" ms \
        "reading the weights once" "$(last qwen.read_ms)" "$(calc "$(last qwen.read_ms) / $(last qwen.decode_ms)")"
    row "prefill of 128 tokens" "$(last qwen.prefill_tokens_s)" "tokens/s"
}

# ---- 6: tokenizers ----------------------------------------------------------------------------
tokenizer_part() {
    local dir name text what data=$BUILD/shared-data hf=0
    say "tokenizers"
    if [ -d ../shared/data ]; then
        mkdir -p "$data"
        for name in text tokenizers; do
            [ -d "$data/$name" ] || tar xJf "../shared/data/$name.tar.xz" -C "$data"
        done
    fi
    text=$work/text
    if [ -r "$data/text/war-and-peace.txt" ]; then
        what="War and Peace"
        head -n 18000 "$data/text/war-and-peace.txt" > "$text"
    else
        what="docs/*.md, repeated"
        for _ in $(seq 64); do cat docs/*.md; done > "$text"
        say "no ../shared/data: the text is docs/*.md 64 times, the demo tokenizer alone"
    fi
    "$PYTHON" -c 'import tokenizers' 2>/dev/null && hf=1 ||
        say "$PYTHON has no tokenizers library: no comparison"
    head_row "tokenizers, one thread, MB a second of CPU, best of 3, $what ($(calc "$(stat -c %s "$text") / 1e6") MB)"
    for dir in models/demo "$data"/tokenizers/{llama3,qwen3,gpt-oss,mistral-v3}; do
        [ -r "$dir/tokenizer.json" ] || continue
        name=tok_$(basename "$dir" | tr -c 'a-z0-9\n' _)
        record "$name" "$("$bin/nginx-llm-bench_tokenizer" "$dir" "$text" 3)"
        if [ $hf = 1 ]; then
            record "hf_$name" "$("$PYTHON" tools/bench_hf_tokenizers.py "$dir/tokenizer.json" "$text" 3)"
            [ "$(last "$name.tokens")" = "$(last "hf_$name.tokens")" ] ||
                say "$name: $(last "$name.tokens") tokens, Hugging Face's library has $(last "hf_$name.tokens")"
            row "$(basename "$dir"), pieces of 4 KB" "$(last "$name.pieces_mb_s")" MB/s "Hugging Face tokenizers" \
                "$(last "hf_$name.pieces_mb_s")" "$(calc "$(last "$name.pieces_mb_s") / $(last "hf_$name.pieces_mb_s")")"
            row "$(basename "$dir"), whole file" "$(last "$name.whole_mb_s")" MB/s "Hugging Face tokenizers" \
                "$(last "hf_$name.whole_mb_s")" "$(calc "$(last "$name.whole_mb_s") / $(last "hf_$name.whole_mb_s")")"
        else
            row "$(basename "$dir"), pieces of 4 KB" "$(last "$name.pieces_mb_s")" MB/s
            row "$(basename "$dir"), whole file" "$(last "$name.whole_mb_s")" MB/s
        fi
        row "$(basename "$dir"), whole file, word cache empty" "$(last "$name.first_mb_s")" MB/s
        row "$(basename "$dir"), decode" "$(last "$name.decode_mb_s")" MB/s "open the file, ms" "$(last "$name.open_ms")"
    done
}

# ---- all -----------------------------------------------------------------------------------------
nginx_part() {
    start_mock
    memory_part
    start_nginx conf/bench.conf /plain
    requests_part
    streams_part
    stop_nginx
    stop_pid "$mock"
    mock=
}
write_json() {
    awk -v commit="$commit" -v cpu="$cpu" -v cores="$cores" -v when="$(date -u +%FT%TZ)" '
        { if (!($1 in n)) order[++k] = $1
          list[$1] = list[$1] (n[$1]++ ? "," : "") ($2 == "" || $2 ~ /[^-+0-9.e]/ ? "null" : $2 + 0) }
        END { printf "{\"commit\":\"%s\",\"date\":\"%s\",\"cpu\":\"%s\",\"cores\":%d,\"figures\":{", commit, when, cpu, cores
              for (i = 1; i <= k; i++) printf "%s\n\"%s\":[%s]", (i == 1 ? "" : ","), order[i], list[order[i]]
              printf "\n}}\n" }' "$figures" > "$BUILD/bench.json"
}

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || commit=$commit-changed
cpu="$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)"
load_before=$(cut -d' ' -f1 /proc/loadavg)
began=$SECONDS
case $PART in
    all)       nginx_part; demo_part; model_part; tokenizer_part ;;
    nginx)     nginx_part ;;
    clients)   clients_part ;;
    demo)      demo_part ;;
    model)     model_part ;;
    tokenizer) tokenizer_part ;;
    *)         fail "unknown part \"$PART\": all, nginx, clients, demo, model or tokenizer" ;;
esac
write_json
echo "nginx-llm $commit, $(date -u +%F), $cpu, $cores cores, $("$nginx" -v 2>&1 | sed 's/.*: //')"
echo "load average $load_before before, $(cut -d' ' -f1 /proc/loadavg) after; $((SECONDS - began)) s; medians of $ROUNDS rounds; the last column is a ratio"
cat "$table"
