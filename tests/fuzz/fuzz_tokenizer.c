/* fuzz_tokenizer.c - libFuzzer entry: any tokenizer.json is refused or works.
 *
 * Input: a tokenizer.json, a byte 0xFF (never in UTF-8), a text.  A file that
 * opens must encode any UTF-8 text, every third byte of it untrusted, and
 * decode and stream any ids; byte-level streams join to the decode. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "engine/base/check.h"
#include "engine/base/utf8.h"
#include "engine/text/detok.h"
#include "engine/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
use(const struct tokenizer *tok, struct str text)
{
    struct tokenizer_scratch  *scratch = tokenizer_scratch_create(tok);
    struct text_span           spans[8];
    struct id_buf              ids;
    struct buf                 whole, chunks;
    struct detok               d;
    struct err                 err = { 0 };
    struct encode_args         args = { .text = text, .untrusted = spans,
                                        .add_special_tokens = true,
                                        .max_tokens = 100000 };

    check(scratch != NULL);
    for (size_t i = 0; i < 8 && 3 * i + 1 < text.len; i++) {
        spans[args.num_untrusted++] = (struct text_span) { 3 * i, 3 * i + 1 };
    }
    id_buf_init(&ids, 200000);
    buf_init(&whole, 64u << 20);
    buf_init(&chunks, 64u << 20);
    int  rc = tokenizer_encode(tok, scratch, &args, &ids, &err);
    check(rc == OK || rc == AGAIN || err.message[0] != '\0');
    for (int32_t id = -1; id < 40; id++) {
        id_buf_push(&ids, id * 7);
        (void) tokenizer_token_bytes(tok, id);
    }
    detok_init(&d, tok, text.len % 2 != 0);
    detok_prompt(&d, ids.ids, ids.len < 3 ? ids.len : 3);
    for (size_t i = 0; i < ids.len && i < 500; i++) {
        detok_push(&d, ids.ids[i], &chunks);
    }
    detok_finish(&d, &chunks);
    check(chunks.failed || utf8_is_valid(chunks.data, chunks.len));
    tokenizer_decode(tok, ids.ids, ids.len, false, &whole);
    check(whole.failed || utf8_is_valid(whole.data, whole.len));
    id_buf_destroy(&ids);
    buf_destroy(&whole);
    buf_destroy(&chunks);
    tokenizer_scratch_destroy(scratch);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char        dir[64], path[96];
    struct tokenizer  *tok;
    struct err         err = { 0 };

    if (dir[0] == '\0') {
        (void) snprintf(dir, sizeof dir, "/dev/shm/llm-fuzz-%d",
                        (int) getpid());
        (void) snprintf(path, sizeof path, "%s/tokenizer.json", dir);
        check(mkdir(dir, 0700) == 0 || access(dir, W_OK) == 0);
    }
    const uint8_t  *mark = memchr(data, 0xFF, size);
    size_t          len = mark == NULL ? size : (size_t) (mark - data);
    FILE           *f = fopen(path, "wb");
    check(f != NULL);
    check_eq(fwrite(data, 1, len, f), len);
    check_eq(fclose(f), 0);
    if (tokenizer_open(&tok, dir, &err) == OK) {
        /* An exact copy, so that a read past the end is seen. */
        size_t  n = mark == NULL ? 0 : size - len - 1;
        char   *text = malloc(n == 0 ? 1 : n);
        check(text != NULL);
        if (n > 0) {
            memcpy(text, mark + 1, n);
        }
        use(tok, (struct str) { text, n });
        free(text);
    } else {
        check(tok == NULL && err.message[0] != '\0');
    }
    tokenizer_destroy(tok);
    (void) unlink(path);
    (void) rmdir(dir);
    dir[0] = '\0';
    return 0;
}
