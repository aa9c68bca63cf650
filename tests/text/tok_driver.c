/* tok_driver.c - a tokenizer on pipes, for compare_hf.py, and a stopwatch.
 *
 *     tok_driver serve DIR          requests on stdin, answers on stdout
 *     tok_driver bench DIR FILE     MB/s of encoding FILE, best of 5
 *     tok_driver load DIR           milliseconds to open
 *
 * serve: "e FLAG LEN\n" + LEN bytes -> "id id ...\n" (FLAG 1: special tokens);
 * "d FLAG LEN\n" + LEN bytes of decimal ids -> "LEN\n" + text (FLAG 1: skip
 * special tokens); "s FLAG LEN\n" -> one "LEN\n" + chunk per id and one for
 * finish. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "engine/text/detok.h"
#include "engine/text/tokenizer.h"

static double
now_ms(void)      /* CPU time: the machine may be busy */
{
    struct timespec  ts;
    (void) clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double) ts.tv_sec * 1e3 + (double) ts.tv_nsec / 1e6;
}

static void
put(struct buf *b)
{
    printf("%zu\n", b->len);
    (void) fwrite(b->data, 1, b->len, stdout);
    buf_reset(b);
}

static void
read_ids(char *text, struct id_buf *ids)
{
    id_buf_reset(ids);
    for (char *p = strtok(text, " "); p != NULL; p = strtok(NULL, " ")) {
        id_buf_push(ids, (int32_t) strtol(p, NULL, 10));
    }
}

static int
serve(const struct tokenizer *tok, struct tokenizer_scratch *scratch)
{
    char           op;
    int            flag;
    size_t         len;
    struct id_buf  ids;
    struct buf     out;
    struct err     err = { 0 };

    id_buf_init(&ids, TOKENIZER_IDS_MAX);
    buf_init(&out, 1u << 30);
    while (scanf("%c %d %zu", &op, &flag, &len) == 3 && getchar() == '\n') {
        char  *text = malloc(len + 1);
        if (text == NULL || fread(text, 1, len, stdin) != len) {
            return 1;
        }
        text[len] = '\0';
        if (op == 'e') {
            id_buf_reset(&ids);
            struct encode_args  a = { .text = { text, len },
                                      .add_special_tokens = flag != 0 };
            if (tokenizer_encode(tok, scratch, &a, &ids, &err) != OK) {
                printf("ERROR %s\n", err.message);
            } else {
                for (size_t i = 0; i < ids.len; i++) {
                    printf("%d ", ids.ids[i]);
                }
                printf("\n");
            }
        } else if (op == 'd') {
            read_ids(text, &ids);
            tokenizer_decode(tok, ids.ids, ids.len, flag != 0, &out);
            put(&out);
        } else {
            struct detok  d;
            read_ids(text, &ids);
            detok_init(&d, tok, flag != 0);
            for (size_t i = 0; i < ids.len; i++) {
                detok_push(&d, ids.ids[i], &out);
                put(&out);
            }
            detok_finish(&d, &out);
            put(&out);
        }
        free(text);
        (void) fflush(stdout);
    }
    id_buf_destroy(&ids);
    buf_destroy(&out);
    return 0;
}

static int
bench(const struct tokenizer *tok, struct tokenizer_scratch *scratch,
      const char *path)
{
    FILE          *f = fopen(path, "rb");
    struct id_buf  ids;
    double         best = 1e9, first = 0;

    if (f == NULL || fseek(f, 0, SEEK_END) != 0) {
        return 1;
    }
    size_t  len = (size_t) ftell(f);
    char   *text = malloc(len);
    rewind(f);
    if (text == NULL || fread(text, 1, len, f) != len) {
        return 1;
    }
    (void) fclose(f);
    id_buf_init(&ids, TOKENIZER_IDS_MAX);
    for (int k = 0; k < 5; k++) {
        struct encode_args  a = { .text = { text, len } };
        struct err          err = { 0 };
        id_buf_reset(&ids);
        double  t0 = now_ms();
        if (tokenizer_encode(tok, scratch, &a, &ids, &err) != OK) {
            fprintf(stderr, "%s\n", err.message);
            return 1;
        }
        double  t = now_ms() - t0;
        first = k == 0 ? t : first;
        best = t < best ? t : best;
    }
    printf("%zu bytes, %zu ids: first %.2f ms, best %.2f ms, %.1f MB/s\n", len,
           ids.len, first, best, (double) len / best / 1e3);
    free(text);
    id_buf_destroy(&ids);
    return 0;
}

int
main(int argc, char **argv)
{
    struct tokenizer  *tok;
    struct err         err = { 0 };

    if (argc < 3) {
        fprintf(stderr, "usage: tok_driver serve|bench|load DIR [FILE]\n");
        return 2;
    }
    double  t0 = now_ms();
    if (tokenizer_open(&tok, argv[2], &err) != OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    if (strcmp(argv[1], "load") == 0) {
        printf("%.1f ms\n", now_ms() - t0);
        tokenizer_destroy(tok);
        return 0;
    }
    struct tokenizer_scratch  *scratch = tokenizer_scratch_create(tok);
    if (scratch == NULL) {
        return 1;
    }
    int  rc = strcmp(argv[1], "serve") == 0 ? serve(tok, scratch)
              : argc > 3 ? bench(tok, scratch, argv[3]) : 2;
    tokenizer_scratch_destroy(scratch);
    tokenizer_destroy(tok);
    return rc;
}
