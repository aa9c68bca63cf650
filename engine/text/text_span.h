/* text_span.h - byte ranges of a prompt that came from the client.
 *
 * The chat template renderer knows which bytes of the prompt are the
 * template's own and which were copied out of the request (message content,
 * tool arguments and results, names, tool schemas).  It hands the latter to
 * the tokenizer as a list of spans: sorted by begin, non-empty, disjoint and
 * not touching (adjacent ranges are merged).  The tokenizer then refuses to
 * read a special token such as <|im_end|> out of any of these bytes. */
#ifndef LLM_TEXT_TEXT_SPAN_H
#define LLM_TEXT_TEXT_SPAN_H

#include <stddef.h>

struct text_span {
    size_t begin;   /* first byte */
    size_t end;     /* one past the last byte; > begin */
};

struct text_span_list {
    struct text_span *spans;   /* owned by whoever filled the list */
    size_t            num_spans;
};

#endif
