/* bench_dataset.h - prompts to measure with: random, sharegpt, prefix_repetition.
 *
 *     bench_dataset_make(&d, &options, err);
 *     d.prompts[i].ids / .text, .prompt_len, .output_len
 *     bench_dataset_destroy(&d);
 *
 * The data sets of `vllm bench`, drawn from --seed by our own generator, so
 * lengths agree with vLLM's and tokens do not.
 *
 * Random prompts run through the vocabulary in order from a random beginning.
 * As ids they have the wanted length by construction.  As text they must come
 * back from the server's tokenizer with that length, its BOS included: tokens
 * are taken from those that stand for a space and ASCII letters, which a
 * tokenizer keeps apart; the text is encoded again, and cut or filled up until
 * the length is right (num_inexact counts where it never was). */
#ifndef LLM_TOOLS_BENCH_DATASET_H
#define LLM_TOOLS_BENCH_DATASET_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/base/arena.h"
#include "engine/base/err.h"
#include "engine/text/tokenizer.h"
#include "tools/bench_options.h"

struct bench_prompt {
    const int32_t *ids;        /* [num_ids]; with text they are its encoding
                                  without special tokens */
    int32_t        num_ids;
    struct str     text;       /* data NULL: sent as ids */
    int32_t        prompt_len; /* tokens the model sees */
    int32_t        output_len; /* to generate */
};

struct bench_dataset_options {
    const struct bench_cli *cli;
    const struct tokenizer *tokenizer;     /* NULL: ids only */
    int32_t                 vocab_size;    /* of the model; ids stay below */
    bool                    want_text;     /* needs a tokenizer */
    uint64_t                seed;
};

struct bench_dataset {
    struct arena         arena;            /* holds all below */
    struct bench_prompt *prompts;          /* [num] */
    int                  num;
    int                  num_inexact;
};

/* What can be said before there is a tokenizer: is the file there, and does the
 * data set read one?  ERROR names the switch. */
int bench_dataset_check(const struct bench_cli *cli, struct err *err);

/* ERROR names the switch.  bench_dataset_destroy() in any case. */
int bench_dataset_make(struct bench_dataset *out,
                       const struct bench_dataset_options *o, struct err *err);
void bench_dataset_destroy(struct bench_dataset *d);

#endif
