/* outbox.c - records into the ring, or in order into the list behind it. */
#include "engine/server/outbox.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"

#define OVER_CAP_MIN  65536u

/* Room for `bytes` more in the list; false: limit or memory. */
static bool
over_reserve(struct session *s, uint64_t bytes)
{
    struct outbox_over  *o = &s->over;
    uint64_t             live = o->len - o->head, cap = o->cap;
    uint8_t             *p;

    if (bytes > s->options->over_bytes_max
        || live > s->options->over_bytes_max - bytes)
    {
        return false;
    }
    if (o->len + bytes <= o->cap) {
        return true;
    }
    if (o->head != 0) {
        memmove(o->data, o->data + o->head, live);
        o->head = 0;
        o->len = live;
    }
    if (live + bytes <= cap) {
        return true;
    }
    if (cap < OVER_CAP_MIN) {
        cap = OVER_CAP_MIN;
    }
    while (cap < live + bytes) {
        cap *= 2;
    }
    p = realloc(o->data, cap);
    if (p == NULL) {
        return false;
    }
    o->data = p;
    o->cap = cap;
    return true;
}

static void
over_append(struct session *s, const struct llm_cqe *h, const void *data)
{
    struct outbox_over  *o = &s->over;

    if (!over_reserve(s, sizeof *h + h->len)) {
        session_doom(s, "the worker does not empty its completion ring");
        return;
    }
    memcpy(o->data + o->len, h, sizeof *h);
    if (h->len != 0) {
        memcpy(o->data + o->len + sizeof *h, data, h->len);
    }
    o->len += sizeof *h + h->len;
    s->starved = true;
    if (s->over_since_ns == 0) {
        s->over_since_ns = clock_now_ns();
    }
}

static void
emit(struct session *s, enum llm_record type, uint64_t id, const void *data,
     uint32_t len)
{
    struct llm_cqe  h = { len, (uint16_t) type, 0, id };
    int             rc = LLM_AGAIN;

    if (s->state != SESSION_OPEN || session_doomed(s) != NULL) {
        return;
    }
    if (!outbox_is_over(s)) {
        rc = llm_ring_cq_push(&s->cq, type, id, data, len);
    }
    if (rc == LLM_AGAIN) {
        over_append(s, &h, data);
    } else if (rc == LLM_ERROR) {
        session_doom(s, s->cq.error != NULL ? s->cq.error : "record too long");
    }
}

void
outbox_head(struct session *s, uint64_t id, const struct llm_head *head)
{
    emit(s, LLM_RECORD_HEAD, id, head, sizeof *head);
}

void
outbox_data(struct session *s, uint64_t id, const void *data, size_t len)
{
    const uint8_t  *p = data;

    while (len != 0) {
        uint32_t  n = len < LLM_PAYLOAD_BYTES_MAX ? (uint32_t) len
                                                  : LLM_PAYLOAD_BYTES_MAX;
        emit(s, LLM_RECORD_DATA, id, p, n);
        p += n;
        len -= n;
    }
}

void
outbox_prompt(struct session *s, uint64_t id, const struct llm_prompt *prompt)
{
    emit(s, LLM_RECORD_PROMPT, id, prompt, sizeof *prompt);
}

void
outbox_end(struct session *s, uint64_t id, const struct llm_end *end)
{
    uint8_t   bytes[LLM_END_BYTES_MAX];
    uint32_t  len = llm_wire_encode_end(bytes, end);

    emit(s, LLM_RECORD_END, id, bytes, len);
}

/* Moves records until the ring is full; false: it is. */
static bool
over_move(struct session *s)
{
    struct outbox_over  *o = &s->over;

    while (o->head != o->len) {
        struct llm_cqe  h;
        int             rc;

        memcpy(&h, o->data + o->head, sizeof h);
        rc = llm_ring_cq_push(&s->cq, (enum llm_record) h.type, h.req_id,
                              o->data + o->head + sizeof h, h.len);
        if (rc == LLM_ERROR) {
            session_doom(s, s->cq.error);
            return true;
        }
        if (rc == LLM_AGAIN) {
            return false;
        }
        o->head += sizeof h + h.len;
        s->over_since_ns = clock_now_ns();      /* it moves: not stuck */
    }
    o->head = o->len = 0;
    s->over_since_ns = 0;
    return true;
}

void
outbox_flush(struct session *s)
{
    if (s->state != SESSION_OPEN || session_doomed(s) != NULL || !outbox_is_over(s)) {
        return;
    }
    while (!over_move(s)) {
        if (llm_ring_cq_wait(&s->cq)) {
            return;                             /* the worker will kick */
        }
    }
    llm_ring_cq_unwait(&s->cq);
    session_wake_transport(s);                  /* it tells the layer above */
}

void
outbox_publish(struct session *s)
{
    if (s->state != SESSION_OPEN || session_doomed(s) != NULL) {
        return;
    }
    if (outbox_is_over(s)) {
        outbox_flush(s);
    }
    if (llm_ring_cq_publish(&s->cq)) {
        session_kick(s);
    }
}
