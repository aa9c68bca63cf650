/* tokenizer_load.h - the pieces of tokenizer_open(), one file each:
 * tokenizer_load.c reads the files, the vocabulary and the merges;
 * tokenizer_parse.c builds normalizer, pre-tokenizer, decoder and
 * post-processor from their JSON.  Private to the two. */
#ifndef LLM_TEXT_TOKENIZER_LOAD_H
#define LLM_TEXT_TOKENIZER_LOAD_H

#include <stdbool.h>
#include "engine/base/err.h"
#include "engine/base/json.h"
#include "engine/text/tokenizer_int.h"

struct tokenizer_load {
    struct tokenizer *tok;
    struct err       *err;
};

/* v may be NULL or JSON null: then nothing is added.  ERROR names the type
 * that is not supported. */
int tokenizer_parse_normalizer(struct tokenizer_load *l, const struct json *v);
int tokenizer_parse_pretok(struct tokenizer_load *l, const struct json *v);
int tokenizer_parse_decoder(struct tokenizer_load *l, const struct json *v);
int tokenizer_parse_post(struct tokenizer_load *l, const struct json *v);

#endif
