#!/bin/sh
# gen_status_page.sh - makes ngx_http_llm_status_page.inc of status.html.
#
#     tools/gen_status_page.sh            writes it
#     tools/gen_status_page.sh --check    exit code 1 when it is not up to date
#
# The result is committed, so that the module builds like any nginx add-on; a
# line of the page is a line of the array.
set -eu
cd "$(dirname "$0")/../ngx_http_llm_module"
page=ngx_http_llm_status_page.inc

make_page() {
    printf '\n/*\n * %s - status.html as an array.\n * Made by tools/gen_status_page.sh; edit status.html.\n */\n\n\n' $page
    printf 'static const u_char  ngx_http_llm_status_page_text[] =\n'
    LC_ALL=C sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/.*/    "&\\n"/' -e '$s/$/;/' status.html
}

if [ "${1:-}" = --check ]; then
    make_page | cmp -s - $page || {
        echo "$page is not made of status.html: run tools/gen_status_page.sh" >&2
        exit 1
    }
    exit 0
fi
make_page > $page.new
mv $page.new $page
