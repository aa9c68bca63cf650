/* fuzz_wire.c - both consumers while a thread rewrites all that the peer may
 * write.
 *
 * The input seeds the regions and the mutator.  As the engine: region W is the
 * enemy's; descriptors are read, payloads copied, TLVs decoded, records pushed.
 * As the worker: region E is.  What is returned must lie inside the rings at
 * any time; the address sanitizer watches the rest.  An error is a fine end. */
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/check.h"
#include "wire/llm_ring.h"

#define ENTRIES   16u
#define ARENA     65536u
#define CQ        65536u
#define REQUESTS  8u
#define STEPS     400

struct mutator {
    uint8_t  *region;
    size_t    bytes;
    uint64_t  seed;
    bool      engine_side;    /* the region is W */
    bool      stop;           /* atomic */
};

static uint64_t
next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/* Mostly plausible lies: small steps of indices, single bytes of descriptors
 * and record headers. */
static void *
mutate(void *arg)
{
    struct mutator  *m = arg;
    uint64_t         x = m->seed;
    uint64_t        *index = (uint64_t *) (m->region + (m->engine_side ? 128 : 256));
    uint64_t        *other = (uint64_t *) (m->region + (m->engine_side ? 256 : 128));

    while (!__atomic_load_n(&m->stop, __ATOMIC_RELAXED)) {
        uint64_t  r = next_random(&x);
        switch (r & 7) {
        case 0:
            __atomic_fetch_add(index, m->engine_side ? 1 : (r >> 8 & 0x3f) * 16,
                               __ATOMIC_SEQ_CST);
            break;
        case 1:
            __atomic_fetch_add(other, (r >> 8 & 3) * 16, __ATOMIC_SEQ_CST);
            break;
        case 2:
            if ((r >> 8 & 0xff) == 0) {
                __atomic_store_n(index, r, __ATOMIC_SEQ_CST);
            }
            break;
        default:
            m->region[4096 + (r >> 8) % (m->bytes - 4096)] = (uint8_t) (r >> 3);
            m->region[4096 + (r >> 8) % 1024] = (uint8_t) (r >> 48) & 7;
            break;
        }
    }
    return NULL;
}

static void
run_engine(const struct llm_geometry *g, void *w, void *e)
{
    struct llm_ring_sqc   c;
    struct llm_ring_cq    q;
    static uint8_t        copy[ARENA];

    llm_ring_sqc_init(&c, g, w, e, REQUESTS);
    llm_ring_cq_init(&q, g, w, e);
    for (int i = 0; i < STEPS && c.error == NULL && q.error == NULL; i++) {
        struct llm_sqe   d;
        struct llm_meta  meta;
        const uint8_t   *payload;
        const char      *why;
        if (llm_ring_sqc_next(&c, &d, &payload) == LLM_OK) {
            check(llm_req_slot(d.req_id) < REQUESTS);
            check(d.op > 0 && d.op < LLM_OP_COUNT);
            if (payload != NULL) {
                const uint8_t  *arena = (const uint8_t *) w + g->arena_off;
                check(payload >= arena && d.len <= ARENA / 4);
                check(payload + d.len <= arena + ARENA);
                memcpy(copy, payload, d.len);
                check(d.meta_bytes <= d.len);
                if (llm_wire_decode_meta(&meta, copy, d.meta_bytes, &why)
                    == LLM_OK)
                {
                    check(meta.uri.len <= LLM_URI_BYTES_MAX);
                }
            }
            llm_ring_sqc_pop(&c);
        }
        (void) llm_ring_sqc_release(&c);
        (void) llm_ring_sqc_sleep(&c);
        llm_ring_sqc_awake(&c);
        (void) llm_ring_cq_push(&q, LLM_RECORD_DATA, 1, copy, (uint32_t) i * 7);
        (void) llm_ring_cq_publish(&q);
        (void) llm_ring_cq_wait(&q);
        llm_ring_cq_unwait(&q);
    }
}

static void
run_worker(const struct llm_geometry *g, void *w, void *e)
{
    struct llm_ring_cqc     c;
    struct llm_ring_sq      sq;
    struct llm_ring_record  rec;
    uint64_t                marks[ENTRIES];
    static uint8_t          copy[LLM_PAYLOAD_BYTES_MAX];

    llm_ring_cqc_init(&c, g, w, e);
    llm_ring_sq_init(&sq, g, w, e, marks);
    for (int i = 0; i < STEPS && c.error == NULL && sq.error == NULL; i++) {
        struct llm_head    head;
        struct llm_prompt  prompt;
        struct llm_end     end;
        struct llm_stats   stats;
        struct llm_sqe     d = { .op = LLM_OP_SUBMIT, .len = 100 };
        const char        *why;
        void              *p;
        if (llm_ring_cqc_next(&c, &rec) == LLM_OK) {
            const uint8_t  *ring = (const uint8_t *) e + g->cq_off;
            check(rec.type > 0 && rec.type < LLM_RECORD_COUNT);
            check(rec.data >= ring && rec.len <= LLM_PAYLOAD_BYTES_MAX);
            check(rec.data + rec.len <= ring + CQ);
            memcpy(copy, rec.data, rec.len);
            if (llm_wire_decode_head(&head, rec.data, rec.len, &why) == LLM_OK) {
                check(head.status >= 200 && head.content < LLM_CONTENT_COUNT);
            }
            (void) llm_wire_decode_prompt(&prompt, rec.data, rec.len, &why);
            if (llm_wire_decode_end(&end, rec.data, rec.len, &why) == LLM_OK) {
                check(end.reason < LLM_FINISH_COUNT
                      && end.model_len <= sizeof end.model);
            }
            llm_ring_cqc_pop(&c);
        }
        (void) llm_ring_cqc_release(&c);
        (void) llm_ring_cqc_sleep(&c);
        llm_ring_cqc_awake(&c);
        llm_ring_read_stats(e, &stats);
        p = llm_ring_sq_reserve(&sq, 100 + (uint32_t) i);
        if (p != NULL) {
            uint8_t  *arena = (uint8_t *) w + g->arena_off;
            check((uint8_t *) p >= arena && (uint8_t *) p + 100 + i <= arena + ARENA);
            memset(p, i, 100 + (size_t) i);
            (void) llm_ring_sq_push(&sq, &d);
        }
        (void) llm_ring_sq_publish(&sq);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct llm_geometry  g;
    struct mutator       m = { .seed = 1 };
    pthread_t            thread;
    const char          *why;
    uint8_t             *w, *e;

    if (size < 10) {
        return 0;
    }
    memcpy(&m.seed, data, sizeof m.seed);
    m.seed |= 1;
    m.engine_side = (data[8] & 1) != 0;
    check(llm_wire_layout(&g, ENTRIES, ARENA, CQ, &why) == LLM_OK);
    w = aligned_alloc(4096, g.w_bytes);
    e = aligned_alloc(4096, g.e_bytes);
    check(w != NULL && e != NULL);
    memset(w, 0, g.w_bytes);
    memset(e, 0, g.e_bytes);
    m.region = m.engine_side ? w : e;
    m.bytes = m.engine_side ? g.w_bytes : g.e_bytes;
    memcpy(m.region + 4096, data + 9, size - 9 < m.bytes - 4096 ? size - 9
                                                               : m.bytes - 4096);
    check(pthread_create(&thread, NULL, mutate, &m) == 0);
    if (m.engine_side) {
        run_engine(&g, w, e);
    } else {
        run_worker(&g, w, e);
    }
    __atomic_store_n(&m.stop, true, __ATOMIC_RELAXED);
    (void) pthread_join(thread, NULL);
    free(w);
    free(e);
    return 0;
}
