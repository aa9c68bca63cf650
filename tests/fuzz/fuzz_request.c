/* fuzz_request.c - libFuzzer entry: any body on any route is answered.
 *
 * The first byte chooses the route, the rest is the body.  The engine is a
 * double that accepts everything, then answers each sequence with two tokens
 * and an end, so that requests which pass also go through the stream's code.
 * Tokenizer and template are the demo model's: run from the repository root. */
#include "engine/text/chat.h"
#include "engine/text/tokenizer.h"
#include "engine/base/check.h"
#include "engine/core/metrics.h"
#include "engine/api/api.h"

#include <stdio.h>
#include <stdlib.h>

#define FUZZ_CHOICES_MAX  API_CHOICES_MAX

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct engine {
    struct gen_request  gens[FUZZ_CHOICES_MAX];
    int                 num_gens;
    uint64_t            next_id;
    struct metrics     *metrics;
};

static struct engine       fuzz_engine;
static struct api         *fuzz_api;
static struct api_worker  *fuzz_worker;

uint64_t
engine_next_id(struct engine *e)
{
    return ++e->next_id;
}

int
engine_submit(struct engine *e, const struct gen_request *requests, int num,
              struct err *err)
{
    (void) err;
    check_le(num, FUZZ_CHOICES_MAX);
    memcpy(e->gens, requests, (size_t) num * sizeof *requests);
    e->num_gens = num;
    return OK;
}

void
engine_cancel(struct engine *e, uint64_t gen_id, enum finish_reason reason)
{
    (void) e;
    (void) gen_id;
    (void) reason;
}

void
engine_park(struct engine *e, uint64_t gen_id, bool parked)
{
    (void) e;
    (void) gen_id;
    (void) parked;
}

void
engine_stats(struct engine *e, struct engine_stats *out)
{
    (void) e;
    memset(out, 0, sizeof *out);
}

struct metrics *
engine_metrics(struct engine *e)
{
    return e->metrics;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct err             err = { 0 };
    struct tokenizer      *tok;
    struct chat_template  *chat;
    struct metrics_options m = { 2048, 32, 64 };

    (void) argc;
    (void) argv;
    if (tokenizer_open(&tok, "models/demo", &err) != OK
        || chat_open_dir(&chat, "models/demo", &err) != OK
        || metrics_create(&fuzz_engine.metrics, &m, &err) != OK)
    {
        (void) fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    struct api_options  o = {
        .model_names = { "demo" }, .num_model_names = 1,
        .model_root = "models/demo", .max_model_len = 2048,
        .vocab_size = tokenizer_vocab_size(tok),
        .defaults = { .temperature = 1, .top_p = 1 },
        .tokenizer = tok, .chat = chat, .engine = &fuzz_engine, .seed = 1,
    };
    check_eq(api_create(&fuzz_api, &o, &err), OK);
    check_eq(api_worker_create(&fuzz_worker, fuzz_api, &err), OK);
    return 0;
}

/* Two tokens and an end for each sequence; the stream must be done after. */
static void
fuzz_answer(struct api_stream *s, struct api_reply *reply, uint8_t salt)
{
    struct engine  *e = &fuzz_engine;

    for (int i = 0; i < e->num_gens; i++) {
        struct gen_request  *g = &e->gens[i];
        struct gen_event     ev = { .gen_id = g->gen_id, .user = g->user,
                                    .type = GEN_TOKENS, .num_tokens = 1,
                                    .stop_id = -1, .now_ns = 10 };
        check_lt(g->num_prompt_tokens, g->token_cap);
        check_le(g->num_prompt_tokens + g->max_tokens, g->token_cap);
        ev.token_ids[0] = (salt * 37 + i) % 3000;
        g->token_ids[g->num_prompt_tokens] = ev.token_ids[0];
        check(!reply->done);
        api_event(s, &ev, reply);
        ev.type = GEN_FINISHED;
        ev.num_tokens = 0;
        ev.reason = FINISH_LENGTH;
        api_event(s, &ev, reply);
    }
    check(reply->done);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    char  *body = malloc(size);
    memcpy(body, data + 1, size - 1);
    struct api_call     call = { .route = (enum api_route) (data[0] % 9),
                                 .body = { body, size - 1 },
                                 .arrival_ns = 1 };
    struct api_reply    reply = { 0 };
    struct api_stream  *s;

    buf_init(&reply.body, 256u << 20);
    api_begin(fuzz_api, fuzz_worker, &call, &reply, &s);
    check(reply.done == (s == NULL));
    if (s != NULL) {
        api_submit(s, &reply);
        check(!reply.done);
        fuzz_answer(s, &reply, data[0]);
        api_stream_destroy(s);
    } else {
        check(reply.head && reply.status >= 200 && reply.status < 600);
    }
    check(!reply.body.failed);
    buf_destroy(&reply.body);
    free(body);
    return 0;
}
