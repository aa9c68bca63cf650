/* stream.h - one HTTP request in flight, shared by the files of api/ only.
 *
 * Made by request.c on a front-end thread, then driven by stream.c on the
 * output thread; response.c writes its bytes.  Everything a stream points to
 * lives in its arena, but the detokenisers' and texts' buffers, which grow.
 *
 * A choice is one sequence:
 *
 *     OPEN -> ENDED      text is complete (stop, length): its last chunk is out
 *     OPEN, ENDED -> CLOSED   the engine's GEN_FINISHED has arrived
 *
 * The stream is done when every choice is CLOSED. */
#ifndef LLM_API_STREAM_H
#define LLM_API_STREAM_H

#include <stdatomic.h>
#include "engine/api/api.h"
#include "engine/text/detok.h"
#include "engine/text/stop.h"

enum choice_state { CHOICE_OPEN, CHOICE_ENDED, CHOICE_CLOSED };

struct api_choice {
    struct api_stream *stream;
    struct gen_request gen;
    struct detok       detok;
    struct stop        stop;
    struct buf         text;          /* whole answer, or what waits to be sent
                                         when streaming */
    int32_t            idx;           /* prompt_idx * n + i */
    int32_t            prompt_idx;
    int32_t            num_sent_tokens;   /* reported in earlier chunks, for
                                             return_token_ids */
    int32_t            num_tokens;        /* sampled so far */
    enum choice_state  state;
    bool               role_sent;     /* first chunk is out (streaming) */
    enum finish_reason reason;        /* from ENDED on */
    int32_t            stop_id;       /* stop_token_ids hit; -1: none or eos */
    int32_t            stop_string;   /* index; -1: none */
    int64_t            last_token_ns; /* for inter-token latency */
};

struct api_stream {
    struct api        *api;
    void              *user;
    struct arena       arena;
    struct buf         piece;         /* text of one token */
    bool               is_chat, stream, include_usage, continuous_usage;
    bool               return_token_ids, skip_special_tokens;
    bool               include_stop_str, ignore_eos;
    bool               head_sent, failed, submitted;
    int32_t            n;             /* choices a prompt */
    int32_t            num_prompts, num_choices, num_closed;
    struct api_choice *choices;       /* [num_choices] */
    struct stop_set   *stops;         /* NULL: none */
    struct str         stop_texts[API_STOP_STRINGS_MAX];
    struct str         id;            /* "chatcmpl-..." */
    struct str         echo_role;     /* role of answers: "assistant" */
    int32_t            num_prompt_tokens;  /* of all prompts */
    int64_t            created_s;
    int64_t            arrival_ns, scheduled_ns, first_token_ns, last_ns;
    int32_t            num_cached_tokens;
    int32_t            num_stop_token_ids;
    enum finish_reason reason;        /* worst of the choices, for END */
};

/* request.c: fills a stream from a request body.  ERROR carries the HTTP
 * status. */
struct api_worker;
int request_read(struct api_stream *s, struct api_worker *w,
                 const struct api_call *call, struct err *err);

/* response.c: appends to out. */
void response_head_json(struct api_stream *s, struct api_reply *reply);
void response_first_chunk(struct api_choice *c, struct buf *out);
void response_chunk(struct api_choice *c, struct str text, struct buf *out);
void response_usage_chunk(struct api_stream *s, struct buf *out);
void response_body(struct api_stream *s, struct buf *out);

#endif
