#!/bin/bash
# gpu_report.sh - one table of what the engine does on this GPU, each figure with its ceiling of the same run.
#
#     make report-gpu                          about 8 minutes on an H200
#     make report-gpu A=--quick                the same rows, less of each, in 2 minutes
#     make report-gpu A='--only http'          ceilings, then one part: http, alone, steps, start, others, crowd
#
# Llama-3-8B's shapes with random weights in bf16; "others" are Qwen2.5-7B, Qwen3-8B, Llama-3.2-1B and
# Qwen2.5-0.5B.  Ceilings: a kernel that only reads memory, and cuBLASLt's best bf16 product; a step's floor is
# the bytes it must read at the one, plus the operations it must do at the other for prompts.
#
# BIN: folder with nginx-llm-engine, -bench, -cuda.so, time-steps, gpu-ceilings and the module (build/release);
# NGINX: nginx (from PATH); TOKENIZER: a Llama-3 tokenizer.json, without it prompts are token ids; WORK: where
# models, caches and logs go (a new folder in $TMPDIR, removed at the end).  A row that cannot be measured says
# why in the table.  Writes the table to $OUT, too, when that is set.
set -uo pipefail
export LC_ALL=C

quick="" only=""
while [ $# -gt 0 ]; do
    case $1 in
        --quick) quick=1 ;;
        --only) only=${2:?--only http|alone|steps|start|others|crowd}; shift ;;
        *) echo "usage: gpu_report.sh [--quick] [--only http|alone|steps|start|others|crowd]" >&2; exit 2 ;;
    esac
    shift
done
BIN=$(realpath "${BIN:-build/release}")
NGINX=${NGINX:-$(PATH=$PATH:/usr/sbin command -v nginx || true)}
TOKENIZER=${TOKENIZER:-}
PORT=${PORT:-18480}
own_work=""; [ -n "${WORK:-}" ] || { own_work=1; WORK=$(mktemp -d "${TMPDIR:-/tmp}/nginx-llm-gpu.XXXXXX"); }
WORK=$(realpath "$WORK")
figures=$WORK/figures table=$WORK/table nginx_pid="" child=""
: > "$figures"; : > "$table"

say() { echo "gpu_report: $*" >&2; }
wants() { [ -z "$only" ] || [ "$only" = "$1" ]; }
stop_nginx() {
    [ -n "$nginx_pid" ] || return 0
    kill -TERM "$nginx_pid" 2>/dev/null
    for _ in $(seq 200); do
        kill -0 "$nginx_pid" 2>/dev/null || [ -n "$(engine_pids)" ] || break
        sleep 0.1
    done
    wait "$nginx_pid" 2>/dev/null
    nginx_pid=
}
# limited SECONDS command...: in the background, so that a signal is heard at once.
limited() {
    timeout -k 10 "$@" &
    child=$!
    wait "$child"
    local rc=$?
    child=
    return $rc
}
finish() {
    [ -z "$child" ] || { kill -TERM "$child" 2>/dev/null; wait "$child" 2>/dev/null; }
    stop_nginx
    [ -z "$own_work" ] || rm -rf "$WORK"
}
trap finish EXIT
trap 'exit 1' INT TERM

put() { echo "$1 $2" >> "$figures"; }
get() { awk -v n="$1" '$1 == n { v = $2 } END { print v }' "$figures"; }
calc() { awk "BEGIN { printf \"%.5g\", $1 }" 2>/dev/null || echo '-'; }
row() {      # row FIGURE VALUE [CEILING [VALUE/CEILING, 1 is best]]
    printf '| %s | %s | %s | %s |\n' "$1" "${2:--}" "${3:-}" "${4:-}" | tee -a "$table"
}
# A line of a JSON result; keys are vLLM's.
json() { sed -n "s/.*\"$2\": *\([-0-9.eE+]*\).*/\1/p" "$1" 2>/dev/null | head -1 | awk '{ printf "%.6g", $1 }'; }

# ---- models --------------------------------------------------------------------
model() {    # model NAME ARCHITECTURE HIDDEN INTERMEDIATE LAYERS HEADS KV_HEADS HEAD_DIM VOCAB TIED
    mkdir -p "$WORK/$1"
    cat > "$WORK/$1/config.json" <<END
{"architectures": ["$2"], "dtype": "bfloat16", "hidden_size": $3, "intermediate_size": $4,
 "num_hidden_layers": $5, "num_attention_heads": $6, "num_key_value_heads": $7, "head_dim": $8,
 "vocab_size": $9, "max_position_embeddings": 40960, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
 "hidden_act": "silu", "tie_word_embeddings": ${10}}
END
}
model llama-3-8b LlamaForCausalLM 4096 14336 32 32 8 128 128256 false
model qwen2.5-7b Qwen2ForCausalLM 3584 18944 28 28 4 128 152064 false
model qwen3-8b Qwen3ForCausalLM 4096 12288 36 32 8 128 151936 false
model llama-3.2-1b LlamaForCausalLM 2048 8192 16 32 8 64 128256 true
model qwen2.5-0.5b Qwen2ForCausalLM 896 4864 24 14 2 64 151936 true
llama=$WORK/llama-3-8b
tokens=--random-as-tokens
skip=on
if [ -n "$TOKENIZER" ]; then
    ln -sf "$(realpath "$TOKENIZER")" "$llama/tokenizer.json"
    tokens="" skip=off
fi
cache=$WORK/gemm.cache

# ---- ceilings and steps ----------------------------------------------------------
ceilings() {
    limited 60 "$BIN/gpu-ceilings" >> "$figures" || say "gpu-ceilings failed: $(tail -1 "$figures")"
    row "reading memory, GB/s" "$(get read_gbps)"
    row "cuBLASLt, bf16, 8192 x 8192 x 8192, TFLOP/s" "$(get gemm_tflops)"
}
decode_rows() {     # decode_rows PREFIX LABEL BATCH.CONTEXT...
    local p=$1 label=$2 at batch context ms floor
    shift 2
    for at; do
        batch=${at%.*} context=${at#*.}
        ms=$(get "$p.decode.$at")
        floor=$(calc "($(get "$p.weights_bytes") + $batch * $context * $(get "$p.kv_bytes_token")) / ($(get read_gbps) * 1e6)")
        row "${label}decode step, batch $batch, context $context, ms" "$ms" "$floor ms to read" "$(calc "${ms:-0} / $floor")"
    done
}
prefill_rows() {    # prefill_rows PREFIX LABEL TOKENS...
    local p=$1 label=$2 n ms floor
    shift 2
    for n; do
        ms=$(get "$p.prefill.$n")
        floor=$(calc "($n * $(get "$p.linear_flops_token") + $n * $n / 2 * $(get "$p.attention_flops_pair")) / ($(get gemm_tflops) * 1e9)")
        row "${label}prefill of $n tokens, ms" "$ms" "$floor ms to multiply" "$(calc "${ms:-0} / $floor")"
    done
}
time_steps() {      # time_steps NAME all|short
    limited 150 "$BIN/time-steps" "$WORK/$1" "$2" "$cache" > "$WORK/steps.txt" 2>&1 \
        || say "time-steps $1: $(tail -1 "$WORK/steps.txt")"
    grep '^#' "$WORK/steps.txt" >&2
    sed -n "s/^\([a-z]\)/$1.\1/p" "$WORK/steps.txt" >> "$figures"
}
steps() {
    time_steps llama-3-8b all
    decode_rows llama-3-8b "" 1.512 8.1024 16.1024 32.1024 64.1024 128.1024 256.1024
    prefill_rows llama-3-8b "" 512 2048 8192 32768
    local a f
    a=$(get llama-3-8b.attention.decode.256) f=$(get llama-3-8b.attention.prefill.8192)
    row "decode attention, batch 256, context 1024, GB/s" "$a" "$(get read_gbps) GB/s" "$(calc "$a / $(get read_gbps)")"
    row "prefill attention, 8,192 causal, TFLOP/s" "$f" "$(get gemm_tflops) TFLOP/s" "$(calc "$f / $(get gemm_tflops)")"
}
others() {
    local m
    for m in qwen2.5-7b qwen3-8b llama-3.2-1b qwen2.5-0.5b; do
        [ -z "$quick" ] || [ "$m" = qwen2.5-0.5b ] || continue
        time_steps "$m" short
        decode_rows "$m" "$m: " 1.1024 64.1024 256.1024
        prefill_rows "$m" "$m: " 2048
    done
}

# ---- the engine in nginx-llm-bench -------------------------------------------------
engine_options=(--model "$llama" --load-format dummy --device cuda --max-model-len 4096 --log-level warn --gemm-cache "$cache")
bench() {           # bench SECONDS NAME arguments...; figures in $WORK/NAME.json, text in NAME.txt
    local limit=$1 name=$2
    shift 2
    limited "$limit" "$BIN/nginx-llm-bench" "$@" --output-json "$WORK/$name.json" > "$WORK/$name.txt" 2>&1 \
        || say "$name: $(grep -v ' requests after ' "$WORK/$name.txt" | tail -2 | tr '\n' ' ')"
    if grep -q '^Interrupted' "$WORK/$name.txt"; then say "$name was cut after $limit s"; fi
}
alone() {
    # The device's own clock, from a trace.  Long enough an answer that the last of the 256 is in before the
    # first has ended.
    bench 60 idle latency --batch-size 256 --input-len 900 --output-len 300 --num-iters-warmup 0 --num-iters 1 \
        --temperature 0 "${engine_options[@]}" --trace "$WORK/trace.json"
    awk -F'[:,]' '/"prefill_tokens":0,"decode_seqs":256,/ {
            for (i = 1; i < NF; i++) { if ($i == "\"wait_ns\"") w = $(i + 1); if ($i == "\"step_ns\"") s = $(i + 1) }
            host += s - w; turns++
            sub(/.*"device":\[/, ""); sub(/\],"issued_ns".*/, "")
            k = split($0, d, /[][,]+/)
            for (i = 2; i + 2 <= k; i += 3) { n++; idle += d[i + 1]; run += d[i + 2] } }
        END { if (n && turns) printf "idle.steps %d\nidle.share %.3f\nidle.host %.3f\nidle.ms %.3f\n", n,
                            100 * idle / (idle + run), host / turns / 1e6, (idle + run) / n / 1e6 }' "$WORK/trace.json" >> "$figures"
    [ -n "$(get idle.steps)" ] || say "idle: the trace has no step of 256 sequences"
    row "GPU idle between steps of batch 256, %; the host's own work a step, ms" \
        "$(get idle.share); $(get idle.host)" "$(get idle.ms) ms a step, $(get idle.steps) steps"
    local num=1000 out=1000 limit=150
    [ -z "$quick" ] || { num=256 out=60 limit=40; }
    bench $limit alone throughput --num-prompts $num --random-input-len 1000 --random-output-len $out \
        --disable-tqdm --temperature 0 "${engine_options[@]}"
    put alone.tps "$(json "$WORK/alone.json" output_tokens_per_second)"
    row "$num requests, 1,000 in / $out out, all at once, engine alone, output tokens/s" "$(get alone.tps)"
}

# ---- through nginx -------------------------------------------------------------------
# By the program's name, which is this run's own; and a master's children.
engine_pids() { grep -lsaE "^$WORK/nginx-llm-engine" /proc/[0-9]*/cmdline | cut -d/ -f3; }
children() { awk -v p="$1" '$4 == p { print $1 }' /proc/[0-9]*/stat 2>/dev/null; }
resident_mb() {
    local pid
    for pid in $nginx_pid $(children "$nginx_pid") $(engine_pids); do
        cat "/proc/$pid/smaps_rollup" 2>/dev/null
    done | awk '/^Pss:/ { s += $2 } END { printf "%.0f", s / 1024 }'
}
is_ready() {
    local answer
    exec 9<>"/dev/tcp/127.0.0.1/$PORT" || return 1
    printf 'GET /ready HTTP/1.0\r\n\r\n' >&9
    read -r answer <&9
    exec 9>&-
    [[ $answer = *" 200 "* ]]
} 2>/dev/null
start_nginx() {     # start_nginx MODEL_DIR dummy|auto; prints seconds to ready
    local user='' begin=$EPOCHREALTIME
    [ "$(id -u)" != 0 ] || user='user root;'
    ln -sf "$BIN/nginx-llm-engine" "$WORK/nginx-llm-engine"
    cat > "$WORK/nginx.conf" <<END
$user
load_module "$BIN/ngx_http_llm_module.so";
daemon off; worker_processes 2; pid "$WORK/nginx.pid"; error_log "$WORK/error.log" notice;
worker_rlimit_nofile 8192;
events { worker_connections 4096; }
http {
    access_log off;
    client_max_body_size 8m; client_body_buffer_size 1m;
    client_body_temp_path "$WORK/t1"; proxy_temp_path "$WORK/t2"; fastcgi_temp_path "$WORK/t3";
    uwsgi_temp_path "$WORK/t4"; scgi_temp_path "$WORK/t5";
    keepalive_requests 100000;
    llm_engine chat {
        binary "$WORK/nginx-llm-engine"; env LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-};
        model "$1"; served_model_name llama; load_format $2; device cuda; max_model_len 4096;
        skip_tokenizer_init $skip; gemm_cache "$cache"; hang_timeout 120s;
    }
    server {
        listen 127.0.0.1:$PORT backlog=4096;
        location / { llm_pass chat; }
        location = /ready { llm_health ready; }
    }
}
END
    # nginx takes a variable of this name for inherited sockets
    env -u NGINX "$NGINX" -p "$WORK" -e "$WORK/error.log" -c "$WORK/nginx.conf" &
    nginx_pid=$!
    until is_ready; do
        if ! kill -0 "$nginx_pid" 2>/dev/null || [ "${EPOCHREALTIME%.*}" -gt $((${begin%.*} + 60)) ]; then
            say "not ready: $(tail -3 "$WORK/error.log" | cut -c1-300)"
            stop_nginx
            return 1
        fi
        sleep 0.02
    done
    seconds=$(calc "$EPOCHREALTIME - $begin")
}
http_possible() {
    [ -x "${NGINX:-/nonexistent}" ] && [ -r "$BIN/ngx_http_llm_module.so" ] && return
    row "$1" "no nginx (NGINX=) or no module in $BIN"
    return 1
}
# Llama-3-8B's tensors as a sparse file, whose zeros then lie in the page cache.
write_checkpoint() {
    mkdir -p "$WORK/checkpoint"
    cp "$llama/config.json" "$WORK/checkpoint/"
    [ -z "$TOKENIZER" ] || ln -sf "$(realpath "$TOKENIZER")" "$WORK/checkpoint/tokenizer.json"
    awk 'function put(name, shape, num) {
             h = h sprintf("%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%.0f,%.0f]}", h == "" ? "{" : ",", name, shape, at, at + 2 * num)
             at += 2 * num }
         BEGIN { h = ""; at = 0; E = 4096; I = 14336; V = 128256
             put("model.embed_tokens.weight", V "," E, V * E)
             for (l = 0; l < 32; l++) { p = "model.layers." l "."
                 put(p "input_layernorm.weight", E, E); put(p "post_attention_layernorm.weight", E, E)
                 put(p "self_attn.q_proj.weight", E "," E, E * E); put(p "self_attn.k_proj.weight", "1024," E, 1024 * E)
                 put(p "self_attn.v_proj.weight", "1024," E, 1024 * E); put(p "self_attn.o_proj.weight", E "," E, E * E)
                 put(p "mlp.gate_proj.weight", I "," E, I * E); put(p "mlp.up_proj.weight", I "," E, I * E)
                 put(p "mlp.down_proj.weight", E "," I, I * E) }
             put("model.norm.weight", E, E); put("lm_head.weight", V "," E, V * E)
             h = h "}"; while (length(h) % 8) h = h " "
             n = length(h); printf "%.0f %.0f\n", n, 8 + n + at; printf "%s", h }' > "$WORK/header"
    local n total i file=$WORK/checkpoint/model.safetensors
    read -r n total < "$WORK/header"
    for i in 0 1 2 3 4 5 6 7; do
        # shellcheck disable=SC2059
        printf "\\x$(printf %02x $((n >> (8 * i) & 255)))"
    done > "$file"
    tail -n +2 "$WORK/header" >> "$file"
    truncate -s "$total" "$file"
    cat "$file" > /dev/null
}
start() {
    local cache=$WORK/gemm.start        # none yet
    http_possible "start to ready" || return
    if start_nginx "$llama" dummy; then
        row "start to ready, dummy weights, s" "$seconds" "floor 0.3 s"
        stop_nginx
    fi
    if start_nginx "$llama" dummy; then
        row "the same again, with its gemm cache, s" "$seconds"
        row "resident memory of nginx and engine, ready, MB" "$(resident_mb)"
        stop_nginx
    fi
    local free_kb
    free_kb=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)
    if [ "$free_kb" -lt 40000000 ]; then
        row "start to ready, 16 GB from page cache, s" "only $((free_kb >> 20)) GiB of memory for the page cache"
        return
    fi
    write_checkpoint
    if start_nginx "$WORK/checkpoint" auto; then
        row "start to ready, 16 GB from page cache, s" "$seconds" "floor 0.3 s"
        row "resident memory of nginx and engine then, MB" "$(resident_mb)"
        stop_nginx
    else
        row "start to ready, 16 GB from page cache, s" "failed"
    fi
    rm -rf "$WORK/checkpoint"
}
serve() {           # serve SECONDS NAME arguments...
    local limit=$1 name=$2
    shift 2
    # shellcheck disable=SC2086
    bench "$limit" "$name" serve --base-url "http://127.0.0.1:$PORT" --model llama --tokenizer "$llama" $tokens \
        --disable-tqdm --ignore-eos --temperature 0 --percentile-metrics ttft,tpot,itl,e2el --metric-percentiles 50,90,99 "$@"
    [ "$(json "$WORK/$name.json" failed)" = 0 ] || say "$name: $(json "$WORK/$name.json" failed) requests failed"
}
http() {
    local n1=30 n2=768 n3=4096
    [ -z "$quick" ] || { n1=8 n2=256 n3=2048; }
    http_possible "through nginx" || return
    start_nginx "$llama" dummy || { row "through nginx" "the engine did not start"; return; }
    put ready "$seconds"
    serve 60 warm --num-prompts 8 --random-input-len 64 --random-output-len 8 --max-concurrency 8
    serve 60 one --num-prompts $n1 --random-input-len 512 --random-output-len 128 --max-concurrency 1 --num-warmups 2
    row "HTTP, concurrency 1, 512 in / 128 out: TTFT p50, ms; TPOT p50, ms" \
        "$(json "$WORK/one.json" median_ttft_ms); $(json "$WORK/one.json" median_tpot_ms)"
    serve 90 many --num-prompts $n2 --random-input-len 1000 --random-output-len 250 --max-concurrency 256
    row "HTTP, concurrency 256, 1,000 in / 250 out: output tokens/s; ITL p99, ms" \
        "$(json "$WORK/many.json" output_throughput); $(json "$WORK/many.json" p99_itl_ms)"
    serve 60 short --num-prompts $n3 --random-input-len 16 --random-output-len 1 --max-concurrency 256
    row "HTTP, concurrency 256, 16 in / 1 out: requests/s" "$(json "$WORK/short.json" request_throughput)"
    row "resident memory of nginx and engine after it, MB" "$(resident_mb)"
    grep -hE '^(Load generator|WARNING)' "$WORK/many.txt" "$WORK/short.txt" >&2
    stop_nginx
}
crowd() {
    local num=1000 out=1000 limit=150 tps alone_tps
    [ -z "$quick" ] || { num=256 out=60 limit=40; }
    http_possible "the crowd through nginx" || return
    start_nginx "$llama" dummy || { row "the crowd through nginx" "the engine did not start"; return; }
    serve 60 warm --num-prompts 8 --random-input-len 64 --random-output-len 8 --max-concurrency 8
    serve $limit crowd --num-prompts $num --random-input-len 1000 --random-output-len $out
    tps=$(json "$WORK/crowd.json" output_throughput) alone_tps=$(get alone.tps)
    row "HTTP, $num requests, 1,000 in / $out out, all at once, output tokens/s" "$tps" \
        "${alone_tps:+$alone_tps alone}" "${alone_tps:+$(calc "${tps:-0} / $alone_tps")}"
    grep -hE '^(Load generator|WARNING)' "$WORK/crowd.txt" >&2
    stop_nginx
}

nvidia-smi --query-gpu=name,driver_version,memory.used,clocks.max.sm --format=csv,noheader 2>/dev/null \
    || { echo "SKIP: no GPU, or no nvidia-smi"; exit 0; }
printf '| figure | ours | ceiling, same run | ours / ceiling |\n|---|---|---|---|\n' | tee "$table"
ceilings
for part in http alone steps start others crowd; do
    if wants $part; then
        begin=$SECONDS
        $part
        say "$part: $((SECONDS - begin)) s"
    fi
done
[ -z "${OUT:-}" ] || cp "$table" "$OUT"
