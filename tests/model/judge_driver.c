/* judge_driver.c - logits and greedy tokens of one model, for judge.py.
 *
 *     judge_driver DIR CHUNK NUM_GREEDY < "ID ID ...\n" > OUT
 *
 * One prompt a line.  OUT holds, in host byte order: int32 vocab_size, then a
 * prompt: float logits [num_ids, vocab_size], int32 greedy [NUM_GREEDY].  The
 * prompt is computed in chunks of CHUNK tokens.  Exit code 78: the model was
 * refused, with the reason on standard error. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/cpu/backend_cpu.h"
#include "engine/base/log.h"
#include "engine/model/model.h"

#define EXIT_CONFIG   78
#define IDS_MAX       4096
#define BLOCK_SIZE    16
#define BLOCKS_MAX    (IDS_MAX / BLOCK_SIZE)

struct driver {
    struct backend  *be;
    struct model    *m;
    struct batch     batch;
    int32_t          block_ids[BLOCKS_MAX];
};

static int
fail(const char *what)
{
    (void) fprintf(stderr, "judge_driver: %s\n", what);
    return EXIT_CONFIG;
}

static const float *
step(struct driver *d, const int32_t *ids, int num, int position, int num_logits)
{
    const float  *logits;
    struct err    err = { 0 };
    batch_reset(&d->batch);
    (void) batch_append(&d->batch, &(struct batch_seq) {
        .token_ids = ids, .query_len = num, .position = position,
        .block_ids = d->block_ids, .block_size = BLOCK_SIZE,
        .num_logits = num_logits });
    if (model_forward(d->m, &d->batch, &logits, &err) != OK) {
        exit(fail(err.message));
    }
    return logits;
}

static int32_t
argmax(const float *logits, int num)
{
    int32_t  best = 0;
    for (int i = 1; i < num; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

static void
prompt(struct driver *d, const int32_t *ids, int num, int chunk, int num_greedy)
{
    size_t   vocab = (size_t) d->m->config.vocab_size;
    int32_t  next = 0;
    for (int at = 0; at < num; at += chunk) {
        int           n = num - at < chunk ? num - at : chunk;
        const float  *logits = step(d, ids + at, n, at, n);
        (void) fwrite(logits, sizeof *logits, (size_t) n * vocab, stdout);
        next = argmax(logits + (size_t) (n - 1) * vocab, (int) vocab);
    }
    for (int i = 0; i < num_greedy; i++) {
        (void) fwrite(&next, sizeof next, 1, stdout);
        if (i + 1 < num_greedy) {
            next = argmax(step(d, &next, 1, num + i, 1), (int) vocab);
        }
    }
}

int
main(int argc, char **argv)
{
    static struct driver  d;
    static int32_t        ids[IDS_MAX];
    static char           line[IDS_MAX * 8];
    struct err            err = { 0 };

    if (argc != 4) {
        return fail("usage: judge_driver DIR CHUNK NUM_GREEDY");
    }
    int  chunk = atoi(argv[2]), num_greedy = atoi(argv[3]);
    if (chunk < 1 || num_greedy < 0) {
        return fail("CHUNK or NUM_GREEDY is out of range");
    }
    log_level = LOG_WARN;
    for (int i = 0; i < BLOCKS_MAX; i++) {      /* 77 is coprime to BLOCKS_MAX */
        d.block_ids[i] = 1 + (i * 77 + 5) % BLOCKS_MAX;
    }
    if (backend_cpu_create(&d.be, &(struct backend_cpu_options) {
            .num_threads = 2 }, &err) != OK
        || model_open(&d.m, &(struct model_options) {
               .path = argv[1], .num_blocks = BLOCKS_MAX + 1,
               .block_size = BLOCK_SIZE, .max_num_batched_tokens = chunk,
               .max_num_seqs = 1, .max_num_logits = chunk }, d.be, &err) != OK
        || batch_init(&d.batch, &d.m->limits, &err) != OK)
    {
        return fail(err.message);
    }
    (void) fwrite(&d.m->config.vocab_size, sizeof(int32_t), 1, stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        int  num = 0;
        for (char *p = strtok(line, " \n"); p != NULL && num < IDS_MAX;
             p = strtok(NULL, " \n"))
        {
            ids[num++] = (int32_t) atoi(p);
        }
        if (num < 1 || num + num_greedy > IDS_MAX) {
            return fail("a prompt is empty or too long");
        }
        prompt(&d, ids, num, chunk, num_greedy);
    }
    batch_destroy(&d.batch);
    model_close(d.m);
    d.be->ops->destroy(d.be);
    return ferror(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
}
