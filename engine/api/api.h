/* api.h - the OpenAI protocol: request bytes in, response bytes out.
 *
 * No sockets, no rings: the server, the offline batch tool and the tests call
 * the same five functions.  One api_stream is one HTTP request in flight.
 *
 *     api_begin(api, worker, &call, &reply, &stream)   front-end thread
 *       reply.done: a complete answer (an error, /v1/models ...); no stream
 *       else:       validated, rendered, tokenised, not yet in the engine
 *     api_submit(stream, &reply)                        front-end thread
 *       reply.done: it could not be queued (503); destroy the stream
 *     n = engine_events(...); for each event:           output thread
 *       api_event(api_stream_of(&event), &event, &reply)
 *       reply.done: the last bytes; destroy the stream
 *
 * Between api_begin and api_submit the caller may ask for the exact prompt
 * count (token limits: reserve, then go or destroy).  After api_submit the
 * stream belongs to the output thread, except api_cancel() and api_park().
 *
 * What a reply means: `head` says status, type and stream flag are valid and
 * must be sent before any body byte; body bytes are appended to reply->body,
 * which the caller empties; `done` is the exactly-one end.  Errors use
 * OpenAI's shape {"error":{"message","type","param","code"}} and type names
 * (invalid_request_error, server_error ...), with vLLM's texts where clients
 * look at them; after a stream's head an error is one SSE event without
 * [DONE]. */
#ifndef LLM_API_API_H
#define LLM_API_API_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/core/engine.h"
#include "engine/core/gen.h"

struct api;
struct api_stream;
struct api_worker;          /* scratch of one front-end thread */
struct chat_template;
struct tokenizer;

#define API_MODEL_NAMES_MAX    16
#define API_N_MAX              16        /* choices a prompt */
#define API_PROMPTS_MAX        128       /* prompts in one completions call */
#define API_CHOICES_MAX        256       /* prompts x n */
#define API_MESSAGES_MAX       2048
#define API_STOP_STRINGS_MAX   4         /* OpenAI's limit */
#define API_STOP_BYTES_MAX     4096      /* all stop strings together */
#define API_STREAM_ARENA_BYTES (512u << 20)   /* one request, at most */

enum api_route {
    API_CHAT_COMPLETIONS, API_COMPLETIONS, API_MODELS, API_HEALTH, API_PING,
    API_VERSION, API_METRICS, API_TOKENIZE, API_DETOKENIZE
};

enum api_content { API_CONTENT_NONE, API_CONTENT_JSON, API_CONTENT_SSE,
                   API_CONTENT_PROMETHEUS };

/* What <|im_end|> and its like in a client's own text mean. */
enum api_special_text {
    API_SPECIAL_TEXT,      /* ordinary text (the default) */
    API_SPECIAL_PARSE,     /* the special token, as in vLLM */
    API_SPECIAL_REJECT     /* a 400 */
};

/* What sampling uses when the request is silent: generation_config.json over
 * OpenAI's defaults (vLLM's --generation-config auto). */
struct api_defaults {
    float    temperature, top_p, min_p;
    int32_t  top_k;
    int32_t  num_eos_ids;
    int32_t  eos_ids[GEN_STOP_IDS_MAX];
};

struct api_options {
    const char *model_names[API_MODEL_NAMES_MAX];  /* --served-model-name;
                                                      [0] is what answers say */
    int32_t  num_model_names;
    const char *model_root;            /* path shown in /v1/models */
    int32_t  max_model_len;
    int32_t  vocab_size;               /* of the logits */
    struct api_defaults defaults;
    const struct tokenizer *tokenizer;     /* borrowed; NULL with
                                              --skip-tokenizer-init: completions
                                              by ids only */
    const struct chat_template *chat;      /* borrowed; NULL: no template, chat
                                              is answered 400 */
    struct engine *engine;                 /* borrowed */
    enum api_special_text special_tokens_in_content;
    uint64_t seed;                         /* for requests without a seed */
};

/* One HTTP request as the server hands it in; borrowed during api_begin(). */
struct api_call {
    enum api_route route;
    struct str  body;
    struct str  model_id;       /* of /v1/models/{id}; empty: the list.  With
                                   model_override: the model, whatever the
                                   body says; empty: the default one */
    bool        model_override;
    struct str  request_id;     /* shown in ids; may be empty */
    int64_t     arrival_ns;
    int64_t     deadline_ns;    /* 0: none */
    int32_t     priority;
    int32_t     max_tokens_cap; /* location's llm_max_tokens; 0: none */
    void       *user;           /* see api_stream_user() */
};

/* Caller's memory: body is buf_init()ed by the caller with its own limit. */
struct api_reply {
    struct buf  body;           /* bytes to send now */
    bool        head;           /* the next three are valid now, first time */
    int         status;         /* HTTP */
    enum api_content content;
    bool        stream;         /* length not known: chunks follow */
    int         retry_after_s;  /* with 429 and 503; 0: none */
    bool        done;
    enum finish_reason reason;  /* with done; FINISH_NONE for plain answers */
};

/* Numbers for END records, logs and token limits. */
struct api_usage {
    int32_t  prompt_tokens, cached_tokens, completion_tokens;
    int32_t  max_completion_tokens;    /* over all choices */
    int64_t  queue_ns, ttft_ns, decode_ns;   /* 0: not reached */
    bool     stream;
    const char *model;                 /* served name */
};

int api_create(struct api **out, const struct api_options *options,
               struct err *err);
void api_destroy(struct api *api);

int api_worker_create(struct api_worker **out, struct api *api,
                      struct err *err);
void api_worker_destroy(struct api_worker *w);

/* Never fails as a function: every failure is an answer in *reply. */
void api_begin(struct api *api, struct api_worker *w,
               const struct api_call *call, struct api_reply *reply,
               struct api_stream **stream);
void api_submit(struct api_stream *s, struct api_reply *reply);
void api_event(struct api_stream *s, const struct gen_event *event,
               struct api_reply *reply);
void api_stream_destroy(struct api_stream *s);   /* NULL is fine */

struct api_stream *api_stream_of(const struct gen_event *event);
void *api_stream_user(const struct api_stream *s);
void api_stream_usage(const struct api_stream *s, struct api_usage *out);

/* Any thread, while the caller knows the stream is alive.  The end arrives as
 * events. */
void api_cancel(struct api_stream *s, enum finish_reason reason);
void api_park(struct api_stream *s, bool parked);

/* Writes an error document; for the server's own refusals (loading, overload)
 * before a stream exists.  Sets head, status, done. */
void api_error(struct api_reply *reply, int status, const char *param,
               const char *code, const char *message);

#endif
