#!/bin/sh
# shared_data.sh - unpacks test data that lies beside the repository, once.
# usage: tools/shared_data.sh NAME     NAME: tokenizers, templates, structured, text
# Exit 0: build/shared-data/NAME is there; 1: there is no such data here.
set -eu
name=$1
from=${LLM_SHARED_DATA:-../shared/data}
to=build/shared-data
[ -d "$to/$name" ] && exit 0
[ -f "$from/$name.tar.xz" ] || { echo "no $from/$name.tar.xz" >&2; exit 1; }
mkdir -p "$to"
tmp=$(mktemp -d "$to/.$name.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
tar xf "$from/$name.tar.xz" -C "$tmp"
# A rename is atomic: tests that start together see all of it or nothing.
mv "$tmp/$name" "$to/$name" 2>/dev/null || [ -d "$to/$name" ]
