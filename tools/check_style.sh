#!/bin/sh
# check_style.sh - the rules of style that a machine can check; `make tidy`.
#
# usage: tools/check_style.sh [FILE...]     default: what git knows or would add
#
# In every file: its first lines name it ("name.c - thesis"), 1000 lines, no tabs
# but in Makefiles, no notes to self.  In C also: 100 columns, comments /* */,
# functions of 70 lines (the module 100) unless "/* long: reason */" stands
# above, no #if 0, no test code behind #ifdef, getenv() in base/options.c only,
# file-scope variables const or in tools/style_statics.txt, and the words of
# tools/style_words.txt.  Prints file:line: what; exit code 1 if there is any.
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || {
    # shellcheck disable=SC2046
    set -- $(git ls-files -co --exclude-standard -- '*.c' '*.h' '*.cu' '*.cuh' \
        '*.inc' '*.sh' '*.pl' '*.pm' '*.py' '*.t' '*.mk' '*.conf' Makefile config .ci/run)
}
files=
for f in "$@"; do
    [ ! -f "$f" ] || files="$files $f"
done
# shellcheck disable=SC2086
LC_ALL=C exec awk '
function bad(what) { print FILENAME ":" FNR ": " what; n++ }
function base(path) { sub(".*/", "", path); return path }

# The line without strings and comments, across lines.
function code(s,    out, i) {
    gsub(/\\\\/, "", s)
    gsub(/\\["\047]/, "", s)
    gsub(/"[^"]*"/, "\"\"", s)
    gsub(/\047[^\047]*\047/, "0", s)
    out = ""
    while (s != "") {
        if (in_comment) {
            i = index(s, "*/")
            if (!i) return out
            s = substr(s, i + 2)
            in_comment = 0
        } else {
            i = index(s, "/*")
            if (!i) return out s
            out = out substr(s, 1, i - 1)
            s = substr(s, i + 2)
            in_comment = 1
        }
    }
    return out
}

# A declaration at the left margin that makes a variable which may change.
function variable(line,    left, word, k) {
    if (line !~ /^[a-z_][a-zA-Z0-9_ *]*[ *][a-zA-Z_][a-zA-Z0-9_]*(\[[^=;]*)?[ ]*(=|;|\[)/) return
    if (line ~ /^(typedef|extern|return|goto|case|default|else|static_assert|_Static_assert)[^a-z_]/) return
    left = line
    sub(/[=;].*/, "", left)
    sub(/\[.*/, "", left)
    if (left ~ /[({]/ || left ~ /(^|[ *])const([ *]|$)/) return
    k = split(left, word, /[ *]+/)
    if (word[k] == "") k--
    if (k == 2 && word[1] ~ /^(struct|enum|union)$/) return
    if (!((FILENAME, word[k]) in allowed)) bad("variable " word[k] " at file scope: const, in a struct, or in tools/style_statics.txt with a reason")
}

FILENAME == "tools/style_words.txt" {
    if ($0 !~ /^#/ && split($0, w, "\t") == 2) { word[++words] = w[1]; say[words] = w[2]; any = any (words > 1 ? "|" : "") w[1] }
    next
}
FILENAME == "tools/style_statics.txt" {
    if ($0 !~ /^#/ && split($0, w, "\t") == 3) allowed[w[1], w[2]]
    next
}

FNR == 1 {
    named = generated = in_comment = func_line = marker = prev_long = 0
    is_c = FILENAME ~ /\.(c|h|cu|cuh|inc)$/
    generated = FILENAME ~ /\.inc$/
    limit = FILENAME ~ /^ngx_http_llm_module\// ? 100 : 70
    self = base(FILENAME)
}
FNR <= 5 && !named { named = index($0, self " - ") > 0 }
FNR == 5 && !named && self != "config" { bad("the first lines do not say \"" self " - what it is for\"") }
FNR == 1001 && !generated { bad("more than 1000 lines") }
/\t/ && FILENAME !~ /(\.mk|Makefile|\.t)$/ && FILENAME !~ /style_/ { bad("tab") }
/(^|[^A-Za-z_])(TO[D]O|FIX[M]E|X[X]X)([^A-Za-z_]|$)/ && FILENAME !~ /\.(pm|t|pl)$/ { bad("note to self: do it or file it") }
!is_c { next }

length($0) > 100 {
    wide = $0
    gsub(/[\200-\277]/, "", wide)
    if (length(wide) > 100 && !generated) bad("more than 100 columns")
}
/^[ \t]*#[ \t]*if[ \t]+0([^0-9x]|$)/ { bad("#if 0: dead code leaves") }
/^[ \t]*#[ \t]*if.*[^A-Z_](UNIT_)?TEST(ING|S)?([^A-Z_]|$)/ && FILENAME !~ /^tests\// { bad("test code behind a preprocessor condition") }
/\/\* long: [^ ]/ { marker = FNR }
{
    line = /["\047\/*]/ || in_comment ? code($0) : $0
}
line == "" { next }
index(line, "//") { bad("// comment: use /* */") }
line ~ /(^|[^a-z_])(secure_)?getenv[ ]*\(/ && FILENAME !~ /^(tests\/|engine\/base\/options\.c)/ { bad("getenv(): options have one place, engine/base/options.c") }
!generated && line ~ any {
    for (i = 1; i <= words; i++)
        if (line ~ word[i]) { match(line, word[i]); bad("\"" substr(line, RSTART, RLENGTH) "\": write " say[i]) }
}
line ~ /^[a-z_]/ {
    if (line ~ /^[a-zA-Z_][a-zA-Z0-9_ *]*\(/) { func_line = FNR; func_name = line; sub(/\(.*/, "", func_name) }
    else if (FILENAME !~ /^tests\//) variable(line)
}
line ~ /^\{/ && func_line { body = func_line }
line ~ /^\}/ {
    if (body && FNR - body + 1 > limit && !(marker && marker < body && marker >= body - 12))
        bad(func_name "() has " FNR - body + 1 " lines, the limit is " limit " or /* long: reason */ above it")
    body = func_line = 0
}
END { exit n > 0 }' tools/style_words.txt tools/style_statics.txt $files
