#!/bin/sh
# run_fuzz.sh - runs one libFuzzer program for a while.
# usage: tools/run_fuzz.sh PROGRAM NAME SECONDS
# Seeds come from tests/fuzz/corpus/NAME and the dictionary tests/fuzz/NAME.dict
# if there; what it finds of interest goes to PROGRAM.corpus, crashes beside it.
set -eu
program=$1 name=$2 seconds=$3
mkdir -p "$program.corpus"
set -- "$program.corpus"
[ ! -d "tests/fuzz/corpus/$name" ] || set -- "$@" "tests/fuzz/corpus/$name"
[ ! -f "tests/fuzz/$name.dict" ] || set -- "$@" "-dict=tests/fuzz/$name.dict"
exec "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 \
     -artifact_prefix="$program." -print_final_stats=1 "$@"
