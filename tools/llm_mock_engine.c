/* llm_mock_engine.c - an engine without a model, for tests of the module alone.
 *
 * It speaks wire/ with the real server's transport, session, inbox and outbox,
 * answers every OpenAI route with deterministic text in the real shapes
 * ("tok0 tok1 tok2 ..."), and misbehaves when asked to.  One thread.
 *
 *   nginx-llm-mock-engine [--socket PATH] [options]       or LISTEN_FDS ("llm")
 *   nginx-llm-mock-engine --supervise [options]           the real supervisor
 *
 * Options of its own (all others are accepted and ignored, so a managed
 * llm_engine block can name it as its binary):
 *   --start-delay MS      LOADING for so long: submits get 503, code "loading"
 *   --exit-after MS       exit so long after start
 *   --exit-code N         with what (default 3); also of "crash"
 *   --fail-start N        exit at once in the first N starts, counted in
 *   --fail-file PATH        this file
 *   --fail-delay MS         so long after the start
 *   --handshake refuse    WELCOME with a refusal
 *   --handshake version   WELCOME of another protocol version
 *   --handshake garbage   WELCOME of random size and content
 *   --handshake files     WELCOME with files, which it cuts, for memory
 *   --handshake silent    accept, never answer
 *   --handshake deaf      do not accept: connects wait in the backlog
 *   --no-heartbeat        heartbeat_ns stands still
 *   --ignore-term         SIGTERM, SIGINT and SIGQUIT do nothing
 *   --shutdown-timeout S  a drain takes at most so long (default 30)
 *   --max-body-bytes N    above: 413 (default 16 MiB)
 *   --cq-bytes N          ring per worker (default 1 MiB)
 *   --full-ms MS          a full ring ends the session after it (default 5000)
 *   --burst N             tokens of one request in one turn (default 1)
 *   --served-model-name M what answers say when nobody names a model ("mock")
 *   --name N              see "at" below
 *   --load N, --waiting N, --kv-used N   are added to what it publishes
 *   --log-level LEVEL     alert error warn notice info debug (default notice)
 *
 * Behaviour of one request: "mock" in its JSON body.  Unknown names are a 400.
 *   tokens N         5        bytes N       length of a token's text
 *   first_ms N       0        before the first token (and before the head)
 *   delay_ms N       0        between tokens; 0: as fast as possible
 *   status N         200      answer an error document of this status
 *   retry_after S    0        Retry-After of that answer
 *   refuse true               503, code "overloaded", Retry-After 1
 *   prompt_tokens N  3        cached_tokens N  0    in usage, PROMPT and END
 *   finish NAME      stop     END's reason: length, numeric_error, ...
 *   error_event true          the stream ends with an SSE error event
 *   no_done true              no [DONE]
 *   echo true                 the answer is a JSON document that shows what
 *                             arrived: route, flags, priority, max_tokens,
 *                             deadline_ms, request_id, cache_salt, model_id,
 *                             uri, key_id, worker, session, body_bytes, body
 *   crash before|head|mid     the process exits: before any record, after HEAD,
 *                             after half of the tokens;  exit_code N
 *   hang true|request         never answers (CANCEL is)
 *   hang steps                also progress_ns stands still: the step thread
 *                             seems to hang
 *   hang process              the whole process sleeps hang_ms (0: an hour)
 *   no_end true               everything but END
 *   ignore_cancel true        CANCEL changes nothing
 *   close true                closes the session instead of answering
 *   corrupt cq|len|id|tail|head|end|no_head|two_heads|two_ends|sq_head
 *                             after half of the tokens: a garbage record, a
 *                             length beyond the ring, an id of a slot that does
 *                             not exist, an index far ahead, a HEAD with status
 *                             7, an END with reason 999, DATA without HEAD (at
 *                             the start), a second HEAD, a second END with DATA
 *                             before it, sq_head beyond sq_tail
 *   at NAME                   all of these faults only in the engine started with
 *                             --name NAME; the others answer
 * WANT_PROMPT is honoured: PROMPT {prompt_tokens, max_tokens of the body or
 * else tokens}, then GO decides.  llm_max_tokens caps max_tokens and tokens.
 * Without a body ("GET"): /v1/models, /health, /ping, /version, /metrics. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/server/listen.h"
#include "engine/server/notify.h"
#include "engine/server/outbox.h"
#include "engine/server/transport.h"
#include "engine/supervise.h"
#include "tools/mock_cli.h"
#include "tools/mock_plan.h"
#include "tools/mock_reply.h"
#include "tools/mock_welcome.h"
#include "wire/llm_route.h"

#define CALLS_MAX         262144
#define REPLY_BYTES_MAX   (256u << 20)

/* One request that lives longer than its SUBMIT. */
struct call {
    struct request   *request;
    struct mock_plan  plan;
    struct mock_reply reply;
    int64_t  next_token;
    int64_t  due_ns;
    int32_t  heap_idx;      /* -1: not timed (held, parked, asked) */
    bool     held;          /* hangs: only CANCEL ends it */
};

struct mock {
    struct mock_cli    cli;
    struct transport  *transport;
    struct call      **heap;       /* by due_ns; [num_timed] */
    int32_t  num_timed, num_calls, num_step_hangs;
    int64_t  start_ns, progress_ns;
    uint64_t steps, requests_total, tokens_total;
    struct notify notify;
    bool     draining;
    int64_t  busy_ns;              /* retiring: when a request was last seen */
    int64_t  drain_ns;
    struct buf out;                /* scratch of one answer */
    uint32_t retry_after_s;        /* of the next answer */
};

static volatile sig_atomic_t  stop_requested, retire_requested;

/* ---- a heap of calls by time ---------------------------------------------- */
static void
heap_place(struct mock *m, int32_t i, struct call *c)
{
    m->heap[i] = c;
    c->heap_idx = i;
}

static void
heap_up(struct mock *m, int32_t i)
{
    struct call  *c = m->heap[i];

    while (i > 0 && m->heap[(i - 1) / 2]->due_ns > c->due_ns) {
        heap_place(m, i, m->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    heap_place(m, i, c);
}

static void
heap_down(struct mock *m, int32_t i)
{
    struct call  *c = m->heap[i];

    for ( ;; ) {
        int32_t  child = 2 * i + 1;
        if (child + 1 < m->num_timed
            && m->heap[child + 1]->due_ns < m->heap[child]->due_ns)
        {
            child++;
        }
        if (child >= m->num_timed || m->heap[child]->due_ns >= c->due_ns) {
            break;
        }
        heap_place(m, i, m->heap[child]);
        i = child;
    }
    heap_place(m, i, c);
}

static void
heap_push(struct mock *m, struct call *c, int64_t due_ns)
{
    c->due_ns = due_ns;
    if (c->heap_idx < 0) {
        heap_place(m, m->num_timed++, c);
    }
    heap_up(m, c->heap_idx);
    heap_down(m, c->heap_idx);
}

static void
heap_remove(struct mock *m, struct call *c)
{
    int32_t  i = c->heap_idx;

    if (i < 0) {
        return;
    }
    c->heap_idx = -1;
    m->num_timed--;
    if (i < m->num_timed) {
        heap_place(m, i, m->heap[m->num_timed]);
        heap_up(m, i);
        heap_down(m, m->heap[i]->heap_idx);
    }
}

/* ---- records ---------------------------------------------------------------- */
static void
send_head(struct request *r, int status, enum llm_content content, int64_t len,
          uint32_t retry_after_s)
{
    struct llm_head  head = { 0 };

    head.status = (uint16_t) status;
    head.content = (uint16_t) content;
    head.content_length = len;
    head.flags = content == LLM_CONTENT_SSE ? LLM_HEAD_STREAM : 0;
    head.retry_after_s = retry_after_s != 0 ? retry_after_s
                         : status == 503 ? 1 : 0;
    r->head_sent = true;
    outbox_head(r->session, r->id, &head);
}

static void
free_call(struct mock *m, struct call *c)
{
    heap_remove(m, c);
    if (c->plan.hang == MOCK_HANG_STEPS) {
        m->num_step_hangs--;
    }
    m->num_calls--;
    free(c);
}

/* Under lock: the end of a request, with or without a call. */
static void
end_request(struct mock *m, struct request *r, uint16_t reason)
{
    struct session  *s = r->session;
    struct call     *c = r->stream;
    struct llm_end   end = { .reason = reason };

    if (c != NULL) {
        end.prompt_tokens = (uint32_t) c->plan.prompt_tokens;
        end.cached_tokens = (uint32_t) c->plan.cached_tokens;
        end.completion_tokens = (uint32_t) c->next_token;
        end.queue_ns = 1 * NS_PER_MS;
        end.ttft_ns = 2 * NS_PER_MS + c->plan.first_ms * NS_PER_MS;
        end.decode_ns = c->next_token * c->plan.delay_ms * NS_PER_MS;
        end.model_len = (uint32_t) strlen(c->plan.model);
        memcpy(end.model, c->plan.model, end.model_len);
        free_call(m, c);
    }
    outbox_end(s, r->id, &end);
    request_free(r);
    session_unref(s);       /* the transport holds another one */
}

/* Under lock: a whole document and the end. */
static void
answer(struct mock *m, struct request *r, int status, enum llm_content content)
{
    send_head(r, status, content, (int64_t) m->out.len, m->retry_after_s);
    m->retry_after_s = 0;
    outbox_data(r->session, r->id, m->out.data, m->out.len);
    end_request(m, r, LLM_FINISH_NONE);
    buf_reset(&m->out);
}

static void
answer_error(struct mock *m, struct request *r, int status, const char *code)
{
    mock_reply_error(&m->out, status, code, code);
    answer(m, r, status, LLM_CONTENT_JSON);
}

/* ---- misbehaviour ------------------------------------------------------------ */
static void
put_u64(void *at, uint64_t value)
{
    __atomic_store_n((uint64_t *) at, value, __ATOMIC_SEQ_CST);
}

/* Writes behind the outbox's back; the session is unusable afterwards, and the
 * caller sends no more, which would overwrite a wrong index. */
static void
corrupt_ring(struct session *s, enum mock_corrupt how, uint64_t id)
{
    struct llm_region_e  *e = s->e;
    struct llm_ring_cq   *q = &s->cq;
    struct llm_cqe        h = { 16, LLM_RECORD_DATA, 0, id };
    uint8_t              *p;

    outbox_publish(s);
    p = q->ring + (q->tail & (q->bytes - 1));
    switch (how) {
    case MOCK_CORRUPT_CQ:
        memset(&h, 0xa5, sizeof h);
        break;
    case MOCK_CORRUPT_LEN:
        h.len = 0x7ffffff0;
        break;
    case MOCK_CORRUPT_TAIL:
        put_u64(&e->cq_tail, q->tail + 16 * q->bytes);
        session_kick(s);
        return;
    case MOCK_CORRUPT_SQ_HEAD:
        /* The mock's own reading stumbles over it at the next heartbeat, so the
         * worker sees a violation or, without submitting, the end. */
        s->sqc.head += 1000000;
        s->sqc.tail += 1000000;
        put_u64(&e->sq_head, s->sqc.head);
        session_kick(s);
        return;
    default:
        return;
    }
    memcpy(p, &h, sizeof h);
    q->tail += 32;
    q->published = q->tail;
    put_u64(&e->cq_tail, q->tail);
    session_kick(s);
}

/* Records that are well-formed and wrong. */
static void
corrupt_record(struct call *c, enum mock_corrupt how)
{
    struct request   *r = c->request;
    struct session   *s = r->session;
    struct llm_head   head = { .status = 200, .content_length = -1,
                               .content = LLM_CONTENT_SSE };
    struct llm_end    end = { 0 };

    switch (how) {
    case MOCK_CORRUPT_ID:
        outbox_data(s, llm_req_id(LLM_REQUESTS_MAX - 1, 77), "x", 1);
        break;
    case MOCK_CORRUPT_HEAD:
        head.status = 7;
        outbox_head(s, r->id, &head);
        break;
    case MOCK_CORRUPT_TWO_HEADS:
        outbox_head(s, r->id, &head);
        break;
    case MOCK_CORRUPT_END:
        end.reason = 999;
        outbox_end(s, r->id, &end);
        break;
    case MOCK_CORRUPT_TWO_ENDS:
        outbox_end(s, r->id, &end);
        outbox_data(s, r->id, "late", 4);
        outbox_end(s, r->id, &end);
        break;
    default:
        corrupt_ring(s, how, r->id);
        break;
    }
}

static void
crash(const struct mock *m, const struct call *c)
{
    log_error("mock: crashes as request %llu asked",
              (unsigned long long) c->request->id);
    _exit((int) (c->plan.exit_code != 0 ? c->plan.exit_code
                                        : m->cli.exit_code));
}

static void
hang_process(const struct call *c)
{
    int64_t          ms = c->plan.hang_ms == 0 ? 3600000 : c->plan.hang_ms;
    struct timespec  t = { (time_t) (ms / 1000), (long) (ms % 1000) * 1000000 };

    while (nanosleep(&t, &t) == -1 && errno == EINTR) {
    }
}

/* ---- tokens --------------------------------------------------------------------- */
static void
flush_out(struct mock *m, struct request *r)
{
    outbox_data(r->session, r->id, m->out.data, m->out.len);
    buf_reset(&m->out);
}

static void
finish_call(struct mock *m, struct call *c)
{
    struct request  *r = c->request;

    if (c->plan.stream) {
        mock_reply_finish(&m->out, &c->reply);
    } else {
        mock_reply_whole(&m->out, &c->reply);
        if (!r->head_sent) {
            send_head(r, 200, LLM_CONTENT_JSON, (int64_t) m->out.len, 0);
        }
    }
    flush_out(m, r);
    if (c->plan.no_end) {
        heap_remove(m, c);
        c->held = true;
        return;
    }
    end_request(m, r, c->plan.finish);
}

static void
start_tokens(struct mock *m, struct call *c)
{
    struct request  *r = c->request;

    if (c->plan.stream && !r->head_sent
        && c->plan.corrupt != MOCK_CORRUPT_NO_HEAD)
    {
        send_head(r, 200, LLM_CONTENT_SSE, -1, 0);
        mock_reply_role(&m->out, &c->reply);
        flush_out(m, r);
    }
    if (c->plan.crash == MOCK_CRASH_HEAD) {
        outbox_publish(r->session);
        crash(m, c);
    }
}

/* Faults after half of the tokens; false: nothing more shall be sent. */
static bool
middle_faults(struct mock *m, struct call *c)
{
    if (c->plan.crash == MOCK_CRASH_MID) {
        outbox_publish(c->request->session);
        crash(m, c);
    }
    if (c->plan.corrupt != MOCK_CORRUPT_NONE) {
        corrupt_record(c, c->plan.corrupt);
    }
    c->held = c->plan.corrupt == MOCK_CORRUPT_TAIL
              || c->plan.corrupt == MOCK_CORRUPT_SQ_HEAD;
    if (c->held) {
        heap_remove(m, c);
    }
    return !c->held;
}

/* Under lock: the next token or tokens of one call. */
static void
step_call(struct mock *m, struct call *c)
{
    struct request  *r = c->request;

    if (c->next_token == 0) {
        start_tokens(m, c);
    }
    for (int64_t i = 0; i < m->cli.burst && c->next_token < c->plan.tokens; i++) {
        if (c->next_token == c->plan.tokens / 2 && !middle_faults(m, c)) {
            return;
        }
        if (c->plan.stream) {
            mock_reply_token(&m->out, &c->reply, c->next_token);
            flush_out(m, r);
        }
        c->next_token++;
        m->tokens_total++;
        if (c->plan.delay_ms != 0) {
            break;
        }
    }
    if (c->next_token == c->plan.tokens) {
        finish_call(m, c);
    } else if (r->window_closed || outbox_is_over(r->session)) {
        heap_remove(m, c);          /* on_room() or WINDOW 1 resumes it */
    } else {
        heap_push(m, c, c->due_ns + c->plan.delay_ms * NS_PER_MS);
    }
}

/* One step: every call that is due gets its tokens, then each worker at most
 * one wake-up. */
static void
step(struct mock *m)
{
    int64_t  now_ns = clock_now_ns();

    if (m->num_timed == 0 || m->heap[0]->due_ns > now_ns) {
        return;
    }
    for (int32_t left = m->num_timed; left > 0 && m->num_timed > 0
         && m->heap[0]->due_ns <= now_ns; left--)
    {
        struct call     *c = m->heap[0];
        struct session  *s = c->request->session;
        /* Without a delay its turn comes again in the next step. */
        c->due_ns = c->plan.delay_ms != 0 ? c->due_ns : now_ns + 1;
        (void) pthread_mutex_lock(&s->lock);
        step_call(m, c);
        (void) pthread_mutex_unlock(&s->lock);
        s->touched = true;
    }
    m->steps++;
    for (struct session *s = transport_sessions(m->transport); s != NULL;
         s = s->next)
    {
        if (s->touched) {
            s->touched = false;
            (void) pthread_mutex_lock(&s->lock);
            outbox_publish(s);
            (void) pthread_mutex_unlock(&s->lock);
        }
    }
}

/* ---- submissions ------------------------------------------------------------------ */
static void
start_call(struct mock *m, struct call *c)
{
    struct request  *r = c->request;
    int64_t          now_ns = clock_now_ns();

    r->state = REQUEST_RUNNING;
    if (c->plan.crash == MOCK_CRASH_BEFORE) {
        crash(m, c);
    }
    if (c->plan.hang == MOCK_HANG_PROCESS) {
        hang_process(c);
    }
    if (c->plan.hang == MOCK_HANG_REQUEST || c->plan.hang == MOCK_HANG_STEPS) {
        c->held = true;
        return;
    }
    heap_push(m, c, now_ns + c->plan.first_ms * NS_PER_MS);
}

static void
accept_call(struct mock *m, struct request *r, const struct mock_plan *plan)
{
    struct call  *c;

    if (m->num_calls >= CALLS_MAX || (c = calloc(1, sizeof *c)) == NULL) {
        answer_error(m, r, 503, "overloaded");
        return;
    }
    c->request = r;
    c->plan = *plan;
    mock_plan_cap(&c->plan, r->meta.max_tokens);
    c->heap_idx = -1;
    c->reply = (struct mock_reply) {
        &c->plan, r, clock_wall_seconds(), r->route == LLM_ROUTE_CHAT_COMPLETIONS
    };
    r->stream = c;
    m->num_calls++;
    m->num_step_hangs += c->plan.hang == MOCK_HANG_STEPS;
    if ((r->flags & LLM_SQE_WANT_PROMPT) != 0) {
        struct llm_prompt  p = { (uint32_t) plan->prompt_tokens,
                                 (uint32_t) (c->plan.max_tokens != 0
                                             ? c->plan.max_tokens
                                             : c->plan.tokens) };
        r->state = REQUEST_ASKED;
        outbox_prompt(r->session, r->id, &p);
        return;
    }
    start_call(m, c);
}

/* As the real engine: what the module says, the body, the default. */
static void
set_model(const struct mock *m, const struct request *r, struct mock_plan *plan)
{
    struct llm_bytes  said = r->meta.model;

    if (said.data != NULL) {
        (void) snprintf(plan->model, sizeof plan->model, "%.*s", (int) said.len,
                        (const char *) said.data);
    }
    if (plan->model[0] == '\0') {
        (void) snprintf(plan->model, sizeof plan->model, "%s", m->cli.model);
    }
}

static void
generate(struct mock *m, struct request *r)
{
    struct mock_plan  plan;
    struct err        err = { 0 };
    int  rc = mock_plan_read(&plan, request_body(r), &err);

    if (plan.at[0] != '\0' && strcmp(plan.at, m->cli.name) != 0) {
        mock_plan_forget_faults(&plan);
    }
    set_model(m, r, &plan);
    if (rc != OK) {
        mock_reply_error(&m->out, 400, "invalid_request", err.message);
        answer(m, r, 400, LLM_CONTENT_JSON);
    } else if (plan.close) {
        session_doom(r->session, "a request asked for it");
        end_request(m, r, LLM_FINISH_NONE);
    } else if (plan.echo) {
        struct mock_reply  reply = { &plan, r, 0, false };
        mock_reply_echo(&m->out, &reply);
        answer(m, r, 200, LLM_CONTENT_JSON);
    } else if (plan.refuse || plan.status != 200) {
        int  status = plan.refuse ? 503 : (int) plan.status;
        mock_reply_error(&m->out, status, plan.refuse ? "overloaded"
                                                      : "mock_status", "refused");
        m->retry_after_s = (uint32_t) plan.retry_after_s;
        answer(m, r, status, LLM_CONTENT_JSON);
    } else {
        accept_call(m, r, &plan);
    }
}

static bool
is_loading(const struct mock *m)
{
    return clock_now_ns() - m->start_ns < m->cli.start_delay_ms * NS_PER_MS;
}

static void
plain_route(struct mock *m, struct request *r)
{
    bool  ready = !is_loading(m) && !m->draining;

    switch (r->route) {
    case LLM_ROUTE_MODELS:
        mock_reply_models(&m->out, (struct str) {
            (const char *) r->meta.model.data, r->meta.model.len });
        answer(m, r, 200, LLM_CONTENT_JSON);
        break;
    case LLM_ROUTE_VERSION:
        buf_append_lit(&m->out, "{\"version\":\"mock\"}");
        answer(m, r, 200, LLM_CONTENT_JSON);
        break;
    case LLM_ROUTE_METRICS:
        buf_appendf(&m->out, "vllm:num_requests_running %d\n"
                    "vllm:generation_tokens_total %llu\n", m->num_calls,
                    (unsigned long long) m->tokens_total);
        answer(m, r, 200, LLM_CONTENT_PROMETHEUS);
        break;
    case LLM_ROUTE_TOKENIZE:
    case LLM_ROUTE_DETOKENIZE:
        buf_appendf(&m->out, r->route == LLM_ROUTE_TOKENIZE
                    ? "{\"count\":%zu,\"max_model_len\":4096,\"tokens\":[]}"
                    : "{\"prompt\":\"%zu bytes\"}", request_body(r).len);
        answer(m, r, 200, LLM_CONTENT_JSON);
        break;
    default:
        answer(m, r, ready ? 200 : 503, LLM_CONTENT_NONE);
        break;
    }
}

static void
on_submit(struct mock *m, struct request *r)
{
    m->requests_total++;
    if (r->route == LLM_ROUTE_VERSION || r->route == LLM_ROUTE_HEALTH
        || r->route == LLM_ROUTE_PING)
    {
        plain_route(m, r);
    } else if (is_loading(m)) {
        answer_error(m, r, 503, "loading");
    } else if (m->draining) {
        answer_error(m, r, 503, "shutting_down");
    } else if (r->route == LLM_ROUTE_CHAT_COMPLETIONS
               || r->route == LLM_ROUTE_COMPLETIONS)
    {
        generate(m, r);
    } else {
        plain_route(m, r);
    }
}

static void
resume(struct mock *m, struct request *r)
{
    struct call  *c = r->stream;

    if (c != NULL && r->state == REQUEST_RUNNING && !c->held
        && c->heap_idx < 0 && !r->window_closed)
    {
        heap_push(m, c, clock_now_ns());
    }
}

/* Under lock: CANCEL, WINDOW or GO of a request that is alive. */
static void
on_control(struct mock *m, struct request *r, const struct inbox_event *event)
{
    struct call  *c = r->stream;

    switch (event->type) {
    case INBOX_CANCEL:
        if (c == NULL || !c->plan.ignore_cancel) {
            end_request(m, r, (uint16_t) event->value);
        }
        break;
    case INBOX_WINDOW:
        r->window_closed = event->value == 0;
        resume(m, r);
        break;
    case INBOX_GO:
        if (c == NULL || r->state != REQUEST_ASKED) {
            break;
        }
        if (event->value == 0) {
            end_request(m, r, LLM_FINISH_NONE);
        } else {
            start_call(m, c);
        }
        break;
    default:
        break;
    }
}

static void
on_event(void *user, struct session *s, struct inbox_event *event)
{
    struct mock     *m = user;
    struct request  *r = event->request;

    (void) pthread_mutex_lock(&s->lock);
    switch (event->type) {
    case INBOX_SUBMIT:
        on_submit(m, r);
        break;
    case INBOX_TOO_LARGE:
        answer_error(m, r, 413, "body_too_large");
        break;
    case INBOX_BUSY:
        answer_error(m, r, 503, "overloaded");
        break;
    case INBOX_GOODBYE:
        break;
    default:
        r = inbox_find(s, event->id);
        if (r != NULL) {
            on_control(m, r, event);
        }
        break;
    }
    outbox_publish(s);
    (void) pthread_mutex_unlock(&s->lock);
}

static void
on_room(void *user, struct session *s)
{
    for (struct request *r = s->requests; r != NULL; r = r->next) {
        resume(user, r);
    }
}

static void
on_close(void *user, struct session *s)
{
    struct request  *r, *next;

    for (r = s->requests; r != NULL; r = next) {
        next = r->next;
        if (r->state != REQUEST_RECEIVING) {
            end_request(user, r, LLM_FINISH_CLIENT_ABORT);
        }
    }
}

static void
on_beat(void *user, struct llm_stats *out)
{
    struct mock  *m = user;

    if (m->num_step_hangs == 0) {
        m->progress_ns = clock_now_ns();
    }
    out->progress_ns = m->progress_ns;
    out->steps = m->steps;
    out->requests_total = m->requests_total;
    out->generation_tokens_total = m->tokens_total;
    out->state = m->draining || retire_requested ? LLM_STATE_DRAINING
                 : is_loading(m) ? LLM_STATE_LOADING : LLM_STATE_READY;
    out->running = (uint32_t) (m->num_calls + m->cli.load);
    out->waiting = (uint32_t) m->cli.waiting;
    out->retry_after_s = 1;
    out->kv_blocks_total = 1000;
    out->kv_blocks_used = (uint32_t) (m->num_calls + m->cli.kv_used);
    notify_beat(&m->notify, out, clock_now_ns());
}

/* ---- hand-shake faults ---------------------------------------------------------- */
/* Answers every connection wrongly until a signal or --exit-after. */
static void
run_handshake_fault(const struct mock *m, int listen_fd)
{
    struct timespec  pause = { 0, 5000000 };

    while (!stop_requested
           && (m->cli.exit_after_ms == 0
               || clock_now_ns() - m->start_ns < m->cli.exit_after_ms * NS_PER_MS))
    {
        char  hello[512];
        int   fd = -1;
        (void) nanosleep(&pause, NULL);
        if (strcmp(m->cli.handshake, "deaf") != 0) {
            fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
        }
        if (fd == -1 || strcmp(m->cli.handshake, "silent") == 0) {
            continue;          /* silent: it stays open until the process ends */
        }
        (void) !recv(fd, hello, sizeof hello, 0);
        mock_welcome_send(fd, m->cli.handshake);
        (void) close(fd);
    }
}

/* ---- start and stop ------------------------------------------------------------------ */
static void
on_signal(int signo)
{
    if (signo == SUPERVISE_SIGRETIRE) {
        retire_requested = 1;
    } else {
        stop_requested = 1;
    }
}

static int
create_transport(struct mock *m, int listen_fd, struct err *err)
{
    struct transport_options  o = {
        .session = {
            .any_uid = true, .sq_entries = 1024, .arena_bytes = 4u << 20,
            .cq_bytes = (uint64_t) m->cli.cq_bytes, .max_requests = 16384,
            .body_bytes_max = (uint64_t) m->cli.max_body_bytes,
            .held_bytes_max = 1u << 30, .over_bytes_max = 64u << 20,
            .epoch = (uint64_t) clock_now_ns(),
        },
        .max_sessions = 256,
        .full_ns_max = m->cli.full_ms * NS_PER_MS,
        .no_heartbeat = m->cli.no_heartbeat,
    };
    struct transport_hooks  hooks = { m, on_event, on_room, on_close, on_beat };

    return transport_create(&m->transport, listen_fd, &o, &hooks, err);
}

/* false: the drain is over. */
static bool
drain(struct mock *m)
{
    int64_t  now_ns = clock_now_ns();

    if (!m->draining) {
        log_notice("mock: drains %d requests", m->num_calls);
        m->draining = true;
        m->drain_ns = now_ns + m->cli.shutdown_timeout_s * NS_PER_S;
        transport_stop_accepting(m->transport);
        transport_beat(m->transport);
    }
    if (m->num_calls != 0 && now_ns < m->drain_ns) {
        return true;
    }
    for (struct session *s = transport_sessions(m->transport); s != NULL;
         s = s->next)
    {
        struct request  *r, *next;
        (void) pthread_mutex_lock(&s->lock);
        for (r = s->requests; r != NULL; r = next) {
            next = r->next;
            if (r->state != REQUEST_RECEIVING) {
                end_request(m, r, LLM_FINISH_SHUTDOWN);
            }
        }
        outbox_publish(s);
        (void) pthread_mutex_unlock(&s->lock);
    }
    return false;
}

/* As the real engine: another one takes over, the workers leave when they can. */
static void
retire(struct mock *m, int64_t now_ns)
{
    if (m->busy_ns == 0) {
        log_notice("mock: another engine takes over");
        transport_beat(m->transport);
    }
    if (m->busy_ns == 0 || m->num_calls != 0) {
        m->busy_ns = now_ns;
    }
    if (now_ns - m->busy_ns > 10 * NS_PER_S
        || (now_ns - m->busy_ns > NS_PER_S
            && transport_num_staying(m->transport) == 0))
    {
        stop_requested = 1;
    }
}

static int
run(struct mock *m)
{
    bool  was_loading = m->cli.start_delay_ms != 0;

    for ( ;; ) {
        int64_t  now_ns = clock_now_ns(), wait_ns = -1;

        if (was_loading != is_loading(m)) {
            was_loading = false;
            transport_beat(m->transport);
        }
        if (m->num_timed != 0) {
            wait_ns = m->heap[0]->due_ns - now_ns;
            wait_ns = wait_ns < NS_PER_US ? 0 : wait_ns;
        }
        if (retire_requested && !stop_requested) {
            retire(m, now_ns);
        }
        if (stop_requested && wait_ns < 0) {
            wait_ns = NS_PER_MS;
        }
        transport_turn(m->transport, wait_ns);
        step(m);
        if (stop_requested && !drain(m)) {
            return 0;
        }
        if (m->cli.exit_after_ms != 0
            && now_ns - m->start_ns > m->cli.exit_after_ms * NS_PER_MS)
        {
            return (int) m->cli.exit_code;
        }
    }
}

static void
set_signals(const struct mock_cli *cli)
{
    struct sigaction  sa = { .sa_handler = cli->ignore_term ? SIG_IGN
                                                            : on_signal };

    (void) sigaction(SIGTERM, &sa, NULL);
    (void) sigaction(SIGINT, &sa, NULL);
    (void) sigaction(SIGQUIT, &sa, NULL);
    sa.sa_handler = on_signal;
    (void) sigaction(SUPERVISE_SIGRETIRE, &sa, NULL);
    (void) signal(SIGPIPE, SIG_IGN);
}

int
main(int argc, char **argv, char **envp)
{
    struct mock        m = { .draining = false };
    struct listen_env  env;
    struct listen      listening;
    struct err         err = { 0 };
    int                rc;

    if (supervise_wanted(argc, argv)) {
        return supervise_main(argc, argv);
    }
    if (mock_cli_read(&m.cli, argc, argv) != OK) {
        return 78;
    }
    if (mock_cli_shall_fail(&m.cli)) {
        (void) usleep((useconds_t) m.cli.fail_delay_ms * 1000);
        return (int) m.cli.exit_code;
    }
    m.start_ns = clock_now_ns();
    m.progress_ns = m.start_ns;
    m.heap = calloc(CALLS_MAX, sizeof *m.heap);
    buf_init(&m.out, REPLY_BYTES_MAX);
    set_signals(&m.cli);
    listen_env_init(&env, envp);
    notify_init(&m.notify, envp);
    if (m.heap == NULL || listen_open(&listening, &env, m.cli.socket, &err) != OK) {
        log_alert("mock: %s", err.message);
        return 78;
    }
    if (m.cli.handshake != NULL) {
        run_handshake_fault(&m, listening.fd);
        listen_close(&listening);
        return 0;
    }
    if (create_transport(&m, listening.fd, &err) != OK) {
        log_alert("mock: %s", err.message);
        return 1;
    }
    log_notice("mock: serves %s", listening.own ? listening.path : "LISTEN_FDS");
    rc = run(&m);
    transport_destroy(m.transport);
    listen_close(&listening);
    buf_destroy(&m.out);
    free(m.heap);
    return rc;
}
