/* llm_ring.c - single-writer indices, checked before use, and two fences.
 *
 * Everything read from shared memory goes through load_*() or copy_in(), so
 * that a value is read once and the compiler cannot read it again after the
 * check. */
#include "wire/llm_ring.h"

#include <string.h>
#include "wire/llm_route.h"

/* ---- reading and writing words the peer sees ----------------------------- */
static uint64_t
load_u64(const uint64_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

/* The barrier keeps the compiler from going back to *src for a value that it
 * believes to have in *dst. */
static void
copy_in(void *dst, const void *src, size_t len)
{
    memcpy(dst, src, len);
    __asm__ volatile("" ::: "memory");
}

/* Publishes the index, then asks whether the peer sleeps: see llm_ring.h. */
static bool
publish(uint64_t *index, uint64_t value, const uint32_t *peer_sleeps)
{
    __atomic_store_n(index, value, __ATOMIC_SEQ_CST);
    return __atomic_load_n(peer_sleeps, __ATOMIC_SEQ_CST) != 0;
}

/* The sleeper's half: true when the peer's index still is `seen`. */
static bool
sleep_on(uint32_t *flag, const uint64_t *index, uint64_t seen)
{
    __atomic_store_n(flag, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(index, __ATOMIC_SEQ_CST) == seen) {
        return true;
    }
    __atomic_store_n(flag, 0, __ATOMIC_RELAXED);
    return false;
}

static uint64_t
align16(uint64_t n)
{
    return (n + 15) & ~(uint64_t) 15;
}

/* ---- SQ, worker's end ---------------------------------------------------- */
void
llm_ring_sq_init(struct llm_ring_sq *sq, const struct llm_geometry *g, void *w,
                 const void *e, uint64_t *marks)
{
    memset(sq, 0, sizeof *sq);
    sq->w = w;
    sq->e = e;
    sq->ring = (struct llm_sqe *) ((uint8_t *) w + g->sq_off);
    sq->arena = (uint8_t *) w + g->arena_off;
    sq->marks = marks;
    sq->entries = g->sq_entries;
    sq->arena_bytes = g->arena_bytes;
}

uint32_t
llm_ring_sq_chunk_max(const struct llm_ring_sq *sq)
{
    return (uint32_t) (sq->arena_bytes / 4);
}

/* Reads how far the engine is and takes back descriptors and their arena. */
static int
sq_refresh(struct llm_ring_sq *sq)
{
    uint64_t  head;

    if (sq->error != NULL) {
        return LLM_ERROR;
    }
    head = load_u64(&sq->e->sq_head);
    if (head == sq->head) {
        return LLM_OK;
    }
    if (head - sq->head > sq->tail - sq->head) {
        sq->error = "sq_head is outside of what was submitted";
        return LLM_ERROR;
    }
    sq->head = head;
    sq->arena_head = sq->marks[(head - 1) & (sq->entries - 1)];
    return LLM_OK;
}

uint32_t
llm_ring_sq_room(struct llm_ring_sq *sq)
{
    if (sq_refresh(sq) != LLM_OK) {
        return 0;
    }
    return sq->entries - (uint32_t) (sq->tail - sq->head);
}

void *
llm_ring_sq_reserve(struct llm_ring_sq *sq, uint32_t len)
{
    uint64_t  off, skip, need;

    sq->reserved_len = 0;
    if (len == 0 || len > llm_ring_sq_chunk_max(sq)
        || llm_ring_sq_room(sq) == 0)
    {
        return NULL;
    }
    off = sq->arena_tail % sq->arena_bytes;
    skip = len > sq->arena_bytes - off ? sq->arena_bytes - off : 0;
    need = skip + align16(len);
    if (need > sq->arena_bytes - (sq->arena_tail - sq->arena_head)) {
        return NULL;
    }
    sq->reserved_off = skip != 0 ? 0 : off;
    sq->reserved_len = len;
    return sq->arena + sq->reserved_off;
}

int
llm_ring_sq_push(struct llm_ring_sq *sq, struct llm_sqe *sqe)
{
    uint64_t  off;

    if (sq->error != NULL || sqe->len > sq->reserved_len) {
        return LLM_ERROR;
    }
    if (sq->tail - sq->head == sq->entries && llm_ring_sq_room(sq) == 0) {
        return sq->error != NULL ? LLM_ERROR : LLM_AGAIN;
    }
    sqe->arena_off = 0;
    if (sqe->len != 0) {
        sqe->arena_off = sq->reserved_off;
        off = sq->arena_tail % sq->arena_bytes;
        if (off != sq->reserved_off) {
            sq->arena_tail += sq->arena_bytes - off;
        }
        sq->arena_tail += align16(sqe->len);
        sq->reserved_len = 0;
    }
    sq->ring[sq->tail & (sq->entries - 1)] = *sqe;
    sq->marks[sq->tail & (sq->entries - 1)] = sq->arena_tail;
    sq->tail++;
    return LLM_OK;
}

bool
llm_ring_sq_publish(struct llm_ring_sq *sq)
{
    return publish(&sq->w->sq_tail, sq->tail, &sq->e->engine_sleeping);
}

bool
llm_ring_sq_wait(struct llm_ring_sq *sq)
{
    return sq->error == NULL
           && sleep_on(&sq->w->want_credit, &sq->e->sq_head, sq->head);
}

void
llm_ring_sq_unwait(struct llm_ring_sq *sq)
{
    __atomic_store_n(&sq->w->want_credit, 0, __ATOMIC_RELAXED);
}

/* ---- SQ, engine's end ---------------------------------------------------- */
void
llm_ring_sqc_init(struct llm_ring_sqc *c, const struct llm_geometry *g,
                  const void *w, void *e, uint32_t max_requests)
{
    memset(c, 0, sizeof *c);
    c->e = e;
    c->w = w;
    c->ring = (const struct llm_sqe *) ((const uint8_t *) w + g->sq_off);
    c->arena = (const uint8_t *) w + g->arena_off;
    c->entries = g->sq_entries;
    c->max_requests = max_requests;
    c->arena_bytes = g->arena_bytes;
}

static int
sqc_fail(struct llm_ring_sqc *c, const char *why)
{
    c->error = why;
    return LLM_ERROR;
}

static int
sqc_check_payload(struct llm_ring_sqc *c, const struct llm_sqe *d)
{
    if (d->len > c->arena_bytes / 4) {
        return sqc_fail(c, "payload longer than a quarter of the arena");
    }
    if (d->arena_off > c->arena_bytes || d->len > c->arena_bytes - d->arena_off) {
        return sqc_fail(c, "payload outside of the arena");
    }
    if (d->op == LLM_OP_CHUNK) {
        return d->len == 0 ? sqc_fail(c, "empty chunk") : LLM_OK;
    }
    if (d->route == LLM_ROUTE_NONE || d->route >= LLM_ROUTE_COUNT) {
        return sqc_fail(c, "route out of range");
    }
    if (d->meta_bytes > d->len || d->meta_bytes > LLM_META_BYTES_MAX) {
        return sqc_fail(c, "meta_bytes out of range");
    }
    if ((d->flags & LLM_SQE_MORE) != 0 ? d->total_bytes <= d->len
                                       : d->total_bytes != d->len)
    {
        return sqc_fail(c, "total_bytes does not fit len and MORE");
    }
    return LLM_OK;
}

static int
sqc_check(struct llm_ring_sqc *c, const struct llm_sqe *d)
{
    static const uint8_t  flags_of[LLM_OP_COUNT] = {
        [LLM_OP_SUBMIT] = LLM_SQE_FLAGS_KNOWN, [LLM_OP_CHUNK] = LLM_SQE_MORE
    };

    if (d->op == LLM_OP_NONE || d->op >= LLM_OP_COUNT) {
        return sqc_fail(c, "unknown op");
    }
    if ((d->flags & ~flags_of[d->op]) != 0) {
        return sqc_fail(c, "unknown flags");
    }
    if (d->op == LLM_OP_GOODBYE) {
        return d->req_id == 0 ? LLM_OK : sqc_fail(c, "GOODBYE with an id");
    }
    if (llm_req_slot(d->req_id) >= c->max_requests) {
        return sqc_fail(c, "slot out of range");
    }
    if (d->op == LLM_OP_SUBMIT || d->op == LLM_OP_CHUNK) {
        return sqc_check_payload(c, d);
    }
    if (d->len != 0) {
        return sqc_fail(c, "payload on a control op");
    }
    if (d->value >= (d->op == LLM_OP_CANCEL ? (uint64_t) LLM_FINISH_COUNT : 2)) {
        return sqc_fail(c, "value out of range");
    }
    return LLM_OK;
}

int
llm_ring_sqc_next(struct llm_ring_sqc *c, struct llm_sqe *sqe,
                  const uint8_t **payload)
{
    uint64_t  tail;

    if (c->error != NULL) {
        return LLM_ERROR;
    }
    if (c->head == c->tail) {
        tail = load_u64(&c->w->sq_tail);
        if (tail == c->tail) {
            return LLM_AGAIN;
        }
        if (tail - c->head > c->entries) {
            return sqc_fail(c, "sq_tail is more than a ring ahead");
        }
        c->tail = tail;
    }
    copy_in(sqe, &c->ring[c->head & (c->entries - 1)], sizeof *sqe);
    if (sqc_check(c, sqe) != LLM_OK) {
        return LLM_ERROR;
    }
    *payload = sqe->len != 0 ? c->arena + sqe->arena_off : NULL;
    return LLM_OK;
}

void
llm_ring_sqc_pop(struct llm_ring_sqc *c)
{
    c->head++;
}

bool
llm_ring_sqc_release(struct llm_ring_sqc *c)
{
    return publish(&c->e->sq_head, c->head, &c->w->want_credit);
}

bool
llm_ring_sqc_sleep(struct llm_ring_sqc *c)
{
    return c->head == c->tail
           && sleep_on(&c->e->engine_sleeping, &c->w->sq_tail, c->tail);
}

void
llm_ring_sqc_awake(struct llm_ring_sqc *c)
{
    __atomic_store_n(&c->e->engine_sleeping, 0, __ATOMIC_RELAXED);
}

/* ---- CQ, engine's end ---------------------------------------------------- */
void
llm_ring_cq_init(struct llm_ring_cq *q, const struct llm_geometry *g,
                 const void *w, void *e)
{
    memset(q, 0, sizeof *q);
    q->e = e;
    q->w = w;
    q->ring = (uint8_t *) e + g->cq_off;
    q->bytes = g->cq_bytes;
}

static int
cq_refresh(struct llm_ring_cq *q)
{
    uint64_t  head = load_u64(&q->w->cq_head);

    if (head - q->head > q->published - q->head || (head & 15) != 0) {
        q->error = "cq_head is outside of what was published";
        return LLM_ERROR;
    }
    q->head = head;
    return LLM_OK;
}

/* LLM_OK when `size` contiguous bytes are free after *pad wasted ones. */
static int
cq_room(struct llm_ring_cq *q, uint64_t size, uint64_t *pad)
{
    uint64_t  rest = q->bytes - (q->tail & (q->bytes - 1));

    *pad = size > rest ? rest : 0;
    if (*pad + size <= q->bytes - (q->tail - q->head)) {
        return LLM_OK;
    }
    if (cq_refresh(q) != LLM_OK) {
        return LLM_ERROR;
    }
    return *pad + size <= q->bytes - (q->tail - q->head) ? LLM_OK : LLM_AGAIN;
}

static uint8_t *
cq_header(struct llm_ring_cq *q, uint32_t len, enum llm_record type,
          uint64_t req_id)
{
    struct llm_cqe   h = { len, (uint16_t) type, 0, req_id };
    uint8_t         *p = q->ring + (q->tail & (q->bytes - 1));

    memcpy(p, &h, sizeof h);
    return p + sizeof h;
}

int
llm_ring_cq_push(struct llm_ring_cq *q, enum llm_record type, uint64_t req_id,
                 const void *data, uint32_t len)
{
    uint64_t   size = sizeof(struct llm_cqe) + align16(len), pad;
    uint8_t   *p;
    int        rc;

    if (q->error != NULL || len > LLM_PAYLOAD_BYTES_MAX) {
        return LLM_ERROR;
    }
    rc = cq_room(q, size, &pad);
    if (rc != LLM_OK) {
        return rc;
    }
    if (pad != 0) {
        (void) cq_header(q, (uint32_t) (pad - sizeof(struct llm_cqe)),
                         LLM_RECORD_PAD, 0);
        q->tail += pad;
    }
    p = cq_header(q, len, type, req_id);
    if (len != 0) {
        memcpy(p, data, len);
        memset(p + len, 0, (size_t) (align16(len) - len));
    }
    q->tail += size;
    return LLM_OK;
}

int64_t
llm_ring_cq_push_data(struct llm_ring_cq *q, uint64_t req_id, const void *data,
                      uint64_t len)
{
    const uint8_t  *p = data;
    uint64_t        done = 0;

    while (done < len) {
        uint32_t  n = len - done < LLM_PAYLOAD_BYTES_MAX
                      ? (uint32_t) (len - done) : LLM_PAYLOAD_BYTES_MAX;
        int       rc = llm_ring_cq_push(q, LLM_RECORD_DATA, req_id, p + done, n);
        if (rc == LLM_ERROR) {
            return -1;
        }
        if (rc == LLM_AGAIN) {
            break;
        }
        done += n;
    }
    return (int64_t) done;
}

bool
llm_ring_cq_publish(struct llm_ring_cq *q)
{
    if (q->tail == q->published) {
        return false;
    }
    q->published = q->tail;
    return publish(&q->e->cq_tail, q->tail, &q->w->worker_sleeping);
}

bool
llm_ring_cq_wait(struct llm_ring_cq *q)
{
    return q->error == NULL
           && sleep_on(&q->e->want_room, &q->w->cq_head, q->head);
}

void
llm_ring_cq_unwait(struct llm_ring_cq *q)
{
    __atomic_store_n(&q->e->want_room, 0, __ATOMIC_RELAXED);
}

/* ---- CQ, worker's end ---------------------------------------------------- */
void
llm_ring_cqc_init(struct llm_ring_cqc *c, const struct llm_geometry *g, void *w,
                  const void *e)
{
    memset(c, 0, sizeof *c);
    c->w = w;
    c->e = e;
    c->ring = (const uint8_t *) e + g->cq_off;
    c->bytes = g->cq_bytes;
}

static int
cqc_fail(struct llm_ring_cqc *c, const char *why)
{
    c->error = why;
    return LLM_ERROR;
}

static int
cqc_refresh(struct llm_ring_cqc *c)
{
    uint64_t  tail = load_u64(&c->e->cq_tail);

    if (tail == c->tail) {
        return LLM_AGAIN;
    }
    if (tail - c->head > c->bytes || (tail & 15) != 0
        || tail - c->tail > c->bytes)
    {
        return cqc_fail(c, "cq_tail is more than a ring ahead");
    }
    c->tail = tail;
    return LLM_OK;
}

static int
cqc_check(struct llm_ring_cqc *c, const struct llm_cqe *h)
{
    uint64_t  rest = c->bytes - (c->head & (c->bytes - 1));
    uint64_t  size = sizeof *h + align16(h->len);

    if (h->type >= LLM_RECORD_COUNT || h->flags != 0) {
        return cqc_fail(c, "unknown record type or flags");
    }
    if (h->type == LLM_RECORD_PAD ? size != rest
                                  : h->len > LLM_PAYLOAD_BYTES_MAX)
    {
        return cqc_fail(c, "record length out of range");
    }
    if (size > rest || size > c->tail - c->head) {
        return cqc_fail(c, "record reaches beyond what was published");
    }
    c->next = c->head + size;
    return LLM_OK;
}

int
llm_ring_cqc_next(struct llm_ring_cqc *c, struct llm_ring_record *rec)
{
    struct llm_cqe  h;
    uint64_t        off;

    if (c->error != NULL) {
        return LLM_ERROR;
    }
    for ( ;; ) {
        if (c->head == c->tail) {
            int  rc = cqc_refresh(c);
            if (rc != LLM_OK) {
                return rc;
            }
        }
        off = c->head & (c->bytes - 1);
        copy_in(&h, c->ring + off, sizeof h);
        if (cqc_check(c, &h) != LLM_OK) {
            return LLM_ERROR;
        }
        if (h.type != LLM_RECORD_PAD) {
            break;
        }
        c->head = c->next;
    }
    rec->type = h.type;
    rec->len = h.len;
    rec->req_id = h.req_id;
    rec->data = c->ring + off + sizeof h;
    return LLM_OK;
}

void
llm_ring_cqc_pop(struct llm_ring_cqc *c)
{
    c->head = c->next;
}

bool
llm_ring_cqc_release(struct llm_ring_cqc *c)
{
    return publish(&c->w->cq_head, c->head, &c->e->want_room);
}

bool
llm_ring_cqc_sleep(struct llm_ring_cqc *c)
{
    return c->head == c->tail && c->error == NULL
           && sleep_on(&c->w->worker_sleeping, &c->e->cq_tail, c->tail);
}

void
llm_ring_cqc_awake(struct llm_ring_cqc *c)
{
    __atomic_store_n(&c->w->worker_sleeping, 0, __ATOMIC_RELAXED);
}

/* ---- statistics ---------------------------------------------------------- */
#define EACH_STAT(X)                                                          \
    X(heartbeat_ns) X(progress_ns) X(steps) X(requests_total)                 \
    X(prompt_tokens_total) X(generation_tokens_total) X(preemptions_total)    \
    X(state) X(running) X(waiting) X(parked) X(kv_blocks_used)                \
    X(kv_blocks_total) X(queued) X(sessions) X(retry_after_s)

void
llm_ring_write_stats(struct llm_region_e *e, const struct llm_stats *s)
{
#define X(field) __atomic_store_n(&e->stats.field, s->field, __ATOMIC_RELAXED);
    EACH_STAT(X)
#undef X
}

void
llm_ring_read_stats(const struct llm_region_e *e, struct llm_stats *out)
{
    memset(out, 0, sizeof *out);
#define X(field) out->field = __atomic_load_n(&e->stats.field, __ATOMIC_RELAXED);
    EACH_STAT(X)
#undef X
}

int
llm_ring_check_region(const struct llm_region_e *e,
                      const struct llm_welcome *welcome, const char **why)
{
    struct llm_region_e  head;

    copy_in(&head, e, offsetof(struct llm_region_e, sq_head));
    if (head.magic != LLM_WIRE_MAGIC || head.version != LLM_WIRE_VERSION) {
        *why = "region E does not begin with magic and version";
        return LLM_ERROR;
    }
    if (head.epoch != welcome->epoch || head.session_id != welcome->session_id) {
        *why = "region E belongs to another epoch or session";
        return LLM_ERROR;
    }
    return LLM_OK;
}
