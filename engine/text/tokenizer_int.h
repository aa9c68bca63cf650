/* tokenizer_int.h - the inside of struct tokenizer, shared by tokenizer.c
 * (encode), tokenizer_load.c, tokenizer_decode.c and detok.c only. */
#ifndef LLM_TEXT_TOKENIZER_INT_H
#define LLM_TEXT_TOKENIZER_INT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/base/arena.h"
#include "engine/text/added_tokens.h"
#include "engine/text/bpe.h"
#include "engine/text/decoder.h"
#include "engine/text/normalize.h"
#include "engine/text/pretok.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocab.h"

#define TOKENIZER_POST_IDS_MAX   64     /* ids a post-processor adds, each side */
#define TOKENIZER_ADDED_MAX      65536  /* served models have up to 6,400 */
#define TOKENIZER_WORK_BYTES_MAX (4 * TOKENIZER_TEXT_BYTES_MAX)

#define TOKEN_SPECIAL  1    /* special=true added token */
#define TOKEN_ADDED    2
#define TOKEN_BYTE     4    /* <0xNN> of a ByteFallback decoder */
#define TOKEN_PRESENT  8

/* What an id stands for when decoding. */
struct token_info {
    uint32_t offset;        /* into bytes_text */
    uint32_t len;
    uint8_t  flags;         /* TOKEN_* */
};

struct tokenizer {
    struct arena       arena;          /* strings that the parts borrow */
    struct vocab       model;          /* the BPE model's own tokens */
    struct vocab       added;          /* added tokens, which go first */
    struct added_set   raw;            /* normalized=false */
    struct added_set   normalized;
    struct normalizer  normalizer;
    struct pretok      pretok;
    bool               pretok_rewrites;   /* words may lie in other buffers */
    struct bpe         bpe;
    bool               makes_specials;    /* BPE can make a special token's id
                                             of ordinary text */
    struct decoder     decoder;

    int32_t            before[TOKENIZER_POST_IDS_MAX];   /* post-processor */
    int32_t            after[TOKENIZER_POST_IDS_MAX];
    size_t             num_before;
    size_t             num_after;

    struct token_info *info;           /* [num_ids] */
    int32_t            num_ids;
    struct buf         bytes_text;
    size_t             token_bytes_max;

    struct str         special_text[TOKENIZER_NUM_SPECIALS];
    int32_t            special_id[TOKENIZER_NUM_SPECIALS];
};

struct tokenizer_scratch {
    struct bpe_scratch    *bpe;
    struct regex_scratch  *regex;
    struct pretok_scratch  pretok;
    struct buf             norm[2];
    struct buf             norm_shadow;
    struct text_span      *spans;      /* [cap_spans] of the piece at hand */
    size_t                 cap_spans;
};

#endif
