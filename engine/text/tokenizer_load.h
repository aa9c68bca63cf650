/* tokenizer_load.h - the pieces of tokenizer_open(), one file each:
 * tokenizer_load.c reads the files, the vocabulary and the merges;
 * tokenizer_parse.c builds normalizer, pre-tokenizer, decoder and
 * post-processor from their JSON.  Private to the two. */
#ifndef LLM_TEXT_TOKENIZER_LOAD_H
#define LLM_TEXT_TOKENIZER_LOAD_H

#include <stdbool.h>
#include <cjson/cJSON.h>
#include "engine/base/err.h"
#include "engine/text/tokenizer_int.h"

struct tokenizer_load {
    struct tokenizer *tok;
    struct err       *err;
    bool              has_nul;      /* U+FDD0 in strings stands for U+0000,
                                       which cJSON would cut the string at */
};

/* The string of a JSON string node (its key with tokenizer_load_key), as
 * UTF-8 with NULs put back.  Points into the cJSON tree or the arena; data
 * NULL when v is not a string or memory is out. */
struct str tokenizer_load_str(struct tokenizer_load *l, const cJSON *v);
struct str tokenizer_load_key(struct tokenizer_load *l, const cJSON *v);

/* v may be NULL or JSON null: then nothing is added.  ERROR names the type
 * that is not supported. */
int tokenizer_parse_normalizer(struct tokenizer_load *l, const cJSON *v);
int tokenizer_parse_pretok(struct tokenizer_load *l, const cJSON *v);
int tokenizer_parse_decoder(struct tokenizer_load *l, const cJSON *v);
int tokenizer_parse_post(struct tokenizer_load *l, const cJSON *v);

#endif
