/* inbox.c - descriptors in, whole requests out.
 *
 * The payload is copied out of the arena before the descriptor is popped, and
 * everything after that works on the copy. */
#include "engine/server/inbox.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"

struct request *
inbox_find(struct session *s, uint64_t id)
{
    struct request  *r;

    if (llm_req_slot(id) >= s->max_requests) {
        return NULL;
    }
    r = s->slots[llm_req_slot(id)].request;
    return r != NULL && r->id == id ? r : NULL;
}

/* Under lock: a slot for the new request, or a violation. */
static int
take_slot(struct session *s, struct request *r, struct err *err)
{
    struct inbox_slot  *slot = &s->slots[llm_req_slot(r->id)];

    if (slot->request != NULL) {
        return err_set(err, "SUBMIT on a slot that is in use");
    }
    if (llm_req_generation(r->id) <= slot->generation) {
        return err_set(err, "SUBMIT with a generation that was used before");
    }
    slot->generation = llm_req_generation(r->id);
    slot->request = r;
    r->next = s->requests;
    if (s->requests != NULL) {
        s->requests->prev = r;
    }
    s->requests = r;
    s->num_requests++;
    return OK;
}

/* Times are the worker's word, too: differences with them must not overflow. */
static void
set_times(struct request *r, const struct llm_sqe *d)
{
    int64_t  now_ns = clock_now_ns();
    bool     plausible = d->arrival_ns >= 0 && d->arrival_ns <= now_ns;

    r->arrival_ns = plausible ? d->arrival_ns : now_ns;
    r->deadline_ns = d->deadline_ns < INT64_MAX / 2 ? d->deadline_ns
                                                    : INT64_MAX / 2;
}

static struct request *
new_request(struct session *s, const struct llm_sqe *d)
{
    struct request  *r = calloc(1, sizeof *r);

    if (r == NULL) {
        return NULL;
    }
    r->session = s;
    r->id = d->req_id;
    r->state = REQUEST_RECEIVING;
    r->route = d->route;
    r->flags = d->flags;
    r->priority = d->priority;
    set_times(r, d);
    r->total_bytes = d->total_bytes;
    r->meta_bytes = d->meta_bytes;
    return r;
}

/* Under lock: memory for the payload, inside the session's allowance. */
static enum inbox_type
reserve_payload(struct session *s, struct request *r)
{
    if (r->total_bytes - r->meta_bytes > s->options->body_bytes_max) {
        return INBOX_TOO_LARGE;
    }
    if (s->held_bytes + r->total_bytes > s->options->held_bytes_max) {
        return INBOX_BUSY;
    }
    /* One byte more: an empty payload has an address as well. */
    r->payload = malloc(r->total_bytes + 1);
    if (r->payload == NULL) {
        return INBOX_BUSY;
    }
    s->held_bytes += r->total_bytes;
    return INBOX_SUBMIT;
}

/* AGAIN: more chunks follow. */
static int
append_payload(struct request *r, const struct llm_sqe *d,
               const uint8_t *payload, struct err *err)
{
    bool  more = (d->flags & LLM_SQE_MORE) != 0;

    if (d->len > r->total_bytes - r->payload_len
        || more != (d->len < r->total_bytes - r->payload_len))
    {
        return err_set(err, "chunks do not add up to total_bytes");
    }
    if (d->len != 0) {
        memcpy(r->payload + r->payload_len, payload, d->len);
        r->payload_len += d->len;
    }
    return more ? AGAIN : OK;
}

/* The whole request is there: reads its TLVs. */
static int
complete(struct request *r, struct inbox_event *event, struct err *err)
{
    const char  *why = "";

    if (llm_wire_decode_meta(&r->meta, r->payload, r->meta_bytes, &why)
        != LLM_OK)
    {
        return err_set(err, "%s", why);
    }
    r->state = REQUEST_QUEUED;
    event->type = INBOX_SUBMIT;
    event->request = r;
    event->id = r->id;
    return OK;
}

/* OK: *event is set; AGAIN: nothing to report yet. */
static int
submit(struct session *s, const struct llm_sqe *d, const uint8_t *payload,
       struct inbox_event *event, struct err *err)
{
    struct request   *r = new_request(s, d);
    enum inbox_type   type;
    int               rc;

    if (r == NULL) {
        return err_set(err, "out of memory");
    }
    (void) pthread_mutex_lock(&s->lock);
    rc = take_slot(s, r, err);
    type = rc == OK ? reserve_payload(s, r) : INBOX_SUBMIT;
    (void) pthread_mutex_unlock(&s->lock);
    if (rc != OK) {
        free(r);
        return ERROR;
    }
    session_ref(s);
    if (type != INBOX_SUBMIT) {
        r->state = REQUEST_QUEUED;
        *event = (struct inbox_event) { type, r, r->id, 0 };
        return OK;
    }
    rc = append_payload(r, d, payload, err);
    return rc == OK ? complete(r, event, err) : rc;
}

static int
chunk(struct session *s, const struct llm_sqe *d, const uint8_t *payload,
      struct inbox_event *event, struct err *err)
{
    struct request  *r;
    int              rc;

    (void) pthread_mutex_lock(&s->lock);
    r = inbox_find(s, d->req_id);
    if (r != NULL && r->state != REQUEST_RECEIVING) {
        (void) pthread_mutex_unlock(&s->lock);
        return err_set(err, "CHUNK of a request that is complete");
    }
    (void) pthread_mutex_unlock(&s->lock);
    if (r == NULL) {
        return AGAIN;              /* refused or cancelled meanwhile */
    }
    /* RECEIVING belongs to this thread: no lock for the copy. */
    rc = append_payload(r, d, payload, err);
    return rc == OK ? complete(r, event, err) : rc;
}

static int
dispatch(struct session *s, const struct llm_sqe *d, const uint8_t *payload,
         struct inbox_event *event, struct err *err)
{
    switch (d->op) {
    case LLM_OP_SUBMIT:
        return s->leaving ? err_set(err, "SUBMIT after GOODBYE")
                          : submit(s, d, payload, event, err);
    case LLM_OP_CHUNK:
        return chunk(s, d, payload, event, err);
    case LLM_OP_CANCEL:
        event->type = INBOX_CANCEL;
        event->value = d->value == LLM_FINISH_NONE ? LLM_FINISH_CLIENT_ABORT
                                                   : d->value;
        return OK;
    case LLM_OP_WINDOW:
        event->type = INBOX_WINDOW;
        return OK;
    case LLM_OP_GO:
        event->type = INBOX_GO;
        return OK;
    default:
        s->leaving = true;
        event->type = INBOX_GOODBYE;
        return OK;
    }
}

int
inbox_next(struct session *s, int *budget, struct inbox_event *event,
           struct err *err)
{
    while (*budget > 0) {
        struct llm_sqe   d;
        const uint8_t   *payload;
        int              rc = llm_ring_sqc_next(&s->sqc, &d, &payload);

        if (rc == LLM_ERROR) {
            return err_set(err, "%s", s->sqc.error);
        }
        if (rc == LLM_AGAIN) {
            return AGAIN;
        }
        (*budget)--;
        *event = (struct inbox_event) { INBOX_GOODBYE, NULL, d.req_id, d.value };
        rc = dispatch(s, &d, payload, event, err);
        llm_ring_sqc_pop(&s->sqc);
        if (rc != AGAIN) {
            return rc;
        }
    }
    return AGAIN;
}

bool
inbox_rest(struct session *s)
{
    if (llm_ring_sqc_release(&s->sqc)) {
        session_kick(s);
    }
    return llm_ring_sqc_sleep(&s->sqc);
}
