/* api_internal.h - what the files of api/ share and nobody else sees. */
#ifndef LLM_API_API_INTERNAL_H
#define LLM_API_API_INTERNAL_H

#include <stdatomic.h>
#include "engine/api/api.h"
#include "engine/base/json.h"
#include "engine/text/text_span.h"
#include "engine/text/tokenizer.h"

#define API_WORKER_ARENA_BYTES  (1u << 30)   /* parse + render, one request */
#define API_PROMPT_BYTES_MAX    (64u << 20)  /* rendered prompt */

struct api {
    struct api_options  options;
    int64_t             created_s;
    atomic_uint_fast64_t num_requests;   /* numbers ids and default seeds */
};

/* Scratch of one front-end thread: reset for each request. */
struct api_worker {
    struct api                *api;
    struct arena               arena;     /* JSON tree, template values */
    struct buf                 prompt;    /* rendered text */
    struct tokenizer_scratch  *tok;       /* NULL without a tokenizer */
    struct id_buf              ids;
};

/* Parses the body into the worker's arena; the root is an object. */
int api_parse_body(struct api_worker *w, struct str body,
                   const struct json **root, struct err *err);

/* Checks the model that the call, or else the "model" field, names against the
 * served names. */
int api_check_model(const struct api *api, const struct api_call *call,
                    const struct json *root, struct err *err);

/* Answers with an error document. */
void api_reply_err(struct api_reply *reply, const struct err *err);

/* messages + template -> w->prompt and the spans that came from the client. */
int api_render_chat(struct api_worker *w, const struct json *root,
                    struct text_span_list *untrusted, struct err *err);

/* text -> w->ids. */
int api_encode(struct api_worker *w, struct str text, bool add_special_tokens,
               const struct text_span_list *untrusted, struct err *err);

/* The routes without generation: reply is complete on return. */
void routes_answer(struct api *api, struct api_worker *w,
                   const struct api_call *call, struct api_reply *reply);

#endif
