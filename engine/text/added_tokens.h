/* added_tokens.h - finds added tokens ("<|im_end|>") in text.
 *
 * Two sets, as in the reference: tokens with normalized=false are looked for
 * in the raw text, those with normalized=true in the normalised text, by their
 * normalised content.  A match is leftmost, then longest; single_word drops a
 * match inside a word; lstrip and rstrip extend it over white space.
 *
 * Built once, then immutable; find is pure.  Linear time but for the length
 * of the longest token. */
#ifndef LLM_TEXT_ADDED_TOKENS_H
#define LLM_TEXT_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/base/str.h"
#include "engine/text/text_span.h"

struct added_token {
    int32_t id;
    bool    special;
    bool    normalized;
    bool    lstrip;
    bool    rstrip;
    bool    single_word;
};

struct added_node {
    uint32_t child;      /* first child, 0: none */
    uint32_t sibling;    /* next one, 0: none */
    int32_t  token;      /* index into tokens, -1: none ends here */
    uint8_t  byte;
};

struct added_set {
    struct added_token *tokens;      /* [num_tokens], owned */
    uint32_t            num_tokens;
    struct added_node  *nodes;       /* [num_nodes], owned; 0 is unused */
    uint32_t            num_nodes;
    uint32_t            cap_nodes;
    uint32_t            root[256];   /* node of a first byte, 0: none */
};

/* Adds token with what is looked for.  Empty content and content that is
 * there already are ignored.  False when out of memory. */
bool added_set_add(struct added_set *set, const struct added_token *token,
                   struct str content);
void added_set_destroy(struct added_set *set);

/* A position in a text that is being searched.  spans as in encode_args, in
 * the coordinates of text. */
struct added_search {
    struct str              text;
    const struct text_span *spans;
    size_t                  num_spans;
    size_t                  at;          /* search goes on here */
    size_t                  done;        /* end of the last match, stripping
                                            included; text before is used up */
    size_t                  begin, end;  /* the match found */
    bool                    at_origin;   /* the caller's: text starts the whole
                                            input */
    const struct added_token *token;
};

/* Finds the next match; false when there is none. */
bool added_set_find(const struct added_set *set, struct added_search *s);

#endif
