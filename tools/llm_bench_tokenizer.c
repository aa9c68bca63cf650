/* llm_bench_tokenizer.c - nginx-llm-bench_tokenizer: MB/s of one thread.
 *
 *   nginx-llm-bench_tokenizer DIR FILE [ROUNDS]
 *
 * Encodes FILE whole, and in pieces of 4 KB as prompts come, with the
 * tokenizer of DIR, and decodes the ids again.  CPU time, best of ROUNDS; the
 * first round, with an empty word cache, is printed too.  One flat JSON object. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/text/tokenizer.h"

#define ROUNDS_DEFAULT  3
#define PIECE_BYTES     4096

struct bench {
    struct tokenizer         *tok;
    struct tokenizer_scratch *scratch;
    struct str     text;
    struct id_buf  ids;
    struct buf     out;
    double         first_s, whole_s, pieces_s, decode_s;
    size_t         num_ids;
};

/* Time of this process on a CPU, so that other work does not count. */
static int64_t
cpu_now_ns(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (int64_t) ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

static double
seconds_since(int64_t start_ns)
{
    return (double) (cpu_now_ns() - start_ns) * 1e-9;
}

static double
smaller(double a, double b)
{
    return a == 0.0 || b < a ? b : a;
}

/* Cuts at character borders, because a text must be whole UTF-8. */
static int
encode_pieces(struct bench *b, struct err *err)
{
    for (size_t at = 0; at < b->text.len; ) {
        size_t  end = at + PIECE_BYTES < b->text.len ? at + PIECE_BYTES
                                                     : b->text.len;
        while (end < b->text.len && ((unsigned char) b->text.data[end] & 0xc0)
               == 0x80)
        {
            end--;
        }
        b->ids.len = 0;
        if (tokenizer_encode(b->tok, b->scratch, &(struct encode_args) {
                .text = { b->text.data + at, end - at } }, &b->ids, err) != OK)
        {
            return ERROR;
        }
        at = end;
    }
    return OK;
}

static int
bench_round(struct bench *b, struct err *err)
{
    int64_t  start_ns = cpu_now_ns();

    b->ids.len = 0;
    if (tokenizer_encode(b->tok, b->scratch, &(struct encode_args) {
            .text = b->text }, &b->ids, err) != OK)
    {
        return ERROR;
    }
    double  s = seconds_since(start_ns);
    b->first_s = b->first_s == 0.0 ? s : b->first_s;
    b->whole_s = smaller(b->whole_s, s);
    b->num_ids = b->ids.len;

    start_ns = cpu_now_ns();
    buf_reset(&b->out);
    tokenizer_decode(b->tok, b->ids.ids, b->ids.len, false, &b->out);
    b->decode_s = smaller(b->decode_s, seconds_since(start_ns));

    start_ns = cpu_now_ns();
    if (encode_pieces(b, err) != OK) {
        return ERROR;
    }
    b->pieces_s = smaller(b->pieces_s, seconds_since(start_ns));
    return OK;
}

static char *
read_file(const char *path, size_t *len)
{
    FILE  *f = fopen(path, "rb");
    char  *data = NULL;
    long   size;

    if (f == NULL) {
        return NULL;
    }
    if (fseek(f, 0, SEEK_END) == 0 && (size = ftell(f)) > 0) {
        rewind(f);
        data = malloc((size_t) size);
        if (data != NULL && fread(data, 1, (size_t) size, f) != (size_t) size) {
            free(data);
            data = NULL;
        }
        *len = (size_t) size;
    }
    (void) fclose(f);
    return data;
}

int
main(int argc, char **argv)
{
    struct bench  b = { 0 };
    struct err    err = { .message = "out of memory" };
    int           rounds = argc > 3 ? atoi(argv[3]) : ROUNDS_DEFAULT;
    char         *data = argc < 3 ? NULL : read_file(argv[2], &b.text.len);

    if (data == NULL || rounds < 1) {
        fprintf(stderr, "usage: %s DIR FILE [ROUNDS]; FILE must be readable\n",
                argv[0]);
        free(data);
        return 2;
    }
    b.text.data = data;
    int64_t  start_ns = cpu_now_ns();
    int      rc = tokenizer_open(&b.tok, argv[1], &err);
    double   open_s = seconds_since(start_ns);
    if (rc == OK) {
        b.scratch = tokenizer_scratch_create(b.tok);
        id_buf_init(&b.ids, TOKENIZER_IDS_MAX);
        buf_init(&b.out, TOKENIZER_TEXT_BYTES_MAX);
        rc = b.scratch == NULL ? ERROR : OK;
    }
    for (int i = 0; i < rounds && rc == OK; i++) {
        rc = bench_round(&b, &err);
    }
    if (rc == OK) {
        double  mb = (double) b.text.len * 1e-6;
        printf("{\"open_ms\":%.1f,\"tokens\":%zu,\"first_mb_s\":%.2f,"
               "\"whole_mb_s\":%.2f,\"pieces_mb_s\":%.2f,\"decode_mb_s\":%.2f}\n",
               open_s * 1e3, b.num_ids, mb / b.first_s, mb / b.whole_s,
               mb / b.pieces_s, mb / b.decode_s);
        buf_destroy(&b.out);
        id_buf_destroy(&b.ids);
    } else {
        fprintf(stderr, "%s: %s\n", argv[0], err.message);
    }
    tokenizer_scratch_destroy(b.scratch);
    tokenizer_destroy(b.tok);
    free(data);
    return rc == OK ? 0 : 1;
}
