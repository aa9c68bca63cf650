/* llm_ring.h - the submission and the completion ring, both ends of each.
 *
 * Four small structs, one per end, in the owner's PRIVATE memory: geometry is
 * copied into them at init and shared memory is trusted for nothing.  No
 * function blocks, allocates or makes a system call; where one answers "kick",
 * the caller writes 1 to the peer's eventfd.
 *
 *   worker                                   engine
 *     llm_ring_sq_reserve, _push, _publish     llm_ring_sqc_next, _pop, _release
 *     llm_ring_cqc_next, _pop, _release        llm_ring_cq_reserve/_push, _publish
 *
 * Worker, one request:
 *     p = llm_ring_sq_reserve(&sq, len);         NULL: full, or sq.error
 *     memcpy(p, ...);  sqe.len = len;
 *     llm_ring_sq_push(&sq, &sqe);               fills sqe.arena_off
 *     if (llm_ring_sq_publish(&sq)) kick;        once for many pushes
 * Worker, on its eventfd (and once after attaching):
 *     llm_ring_cqc_awake(&cq);
 *     do {
 *         while (llm_ring_cqc_next(&cq, &rec) == LLM_OK) {
 *             copy rec.data[rec.len] ...; llm_ring_cqc_pop(&cq);
 *         }
 *         if (llm_ring_cqc_release(&cq)) kick;
 *     } while (!llm_ring_cqc_sleep(&cq));        true: nothing came meanwhile
 * To stop early (256 records an event), leave out _sleep and come back by a
 * posted event: while the sleeping flag is 0 the engine sends no kicks.
 *
 * Wake-up: the producer stores its index and then looks at the sleeper's flag;
 * the sleeper stores its flag and then looks at the index.  With a full fence
 * between the two on each side one of them must see the other.  The stores and
 * loads are sequentially consistent atomics, which is that fence: the same
 * locked instruction on x86, stlr/ldar on arm64, and ThreadSanitizer
 * understands them, which it does not for free-standing fences.
 *
 * Violations: LLM_ERROR or NULL and a static text in ->error, which stays; every
 * later call fails as well.  The caller closes the session. */
#ifndef LLM_RING_H
#define LLM_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "wire/llm_wire.h"

/* ---- SQ, worker's end ---------------------------------------------------- */
struct llm_ring_sq {
    struct llm_region_w       *w;
    const struct llm_region_e *e;
    struct llm_sqe *ring;
    uint8_t        *arena;
    uint64_t       *marks;        /* [entries], arena_tail after descriptor i */
    uint32_t        entries;
    uint64_t        arena_bytes;
    uint64_t        tail;         /* descriptors pushed */
    uint64_t        head;         /* last sq_head seen, checked */
    uint64_t        arena_tail;   /* free-running, includes skipped ends */
    uint64_t        arena_head;
    uint64_t        reserved_off; /* offset of the open reservation */
    uint32_t        reserved_len; /* 0: none open */
    const char     *error;
};

/* w and e are the mapped regions, g has been checked.  marks is caller's memory
 * of g->sq_entries words that lives as long as *sq. */
void llm_ring_sq_init(struct llm_ring_sq *sq, const struct llm_geometry *g,
                      void *w, const void *e, uint64_t *marks);

/* Largest payload of one descriptor: a quarter of the arena. */
uint32_t llm_ring_sq_chunk_max(const struct llm_ring_sq *sq);

/* Room for `len` (1..chunk_max) payload bytes and one descriptor; NULL when
 * there is none now (or on ->error).  The memory is the caller's until the next
 * llm_ring_sq_push(), which commits it.  A second reserve without a push
 * replaces the first. */
void *llm_ring_sq_reserve(struct llm_ring_sq *sq, uint32_t len);

/* Writes *sqe.  sqe->len must be 0, or at most what was reserved; arena_off is
 * filled in.  LLM_AGAIN: no descriptor is free.  Nothing is visible to the
 * engine before _publish. */
int llm_ring_sq_push(struct llm_ring_sq *sq, struct llm_sqe *sqe);

/* Makes all pushes visible.  true: kick the engine. */
bool llm_ring_sq_publish(struct llm_ring_sq *sq);

/* Descriptors free now; 0 also on ->error. */
uint32_t llm_ring_sq_room(struct llm_ring_sq *sq);

/* Asks for a kick at the next move of sq_head.  Call it when something did not
 * fit, with everything published.  true: sleep, the kick will come.  false:
 * sq_head has moved since the failed attempt, try again. */
bool llm_ring_sq_wait(struct llm_ring_sq *sq);
void llm_ring_sq_unwait(struct llm_ring_sq *sq);   /* no longer interested */

/* ---- SQ, engine's end ---------------------------------------------------- */
struct llm_ring_sqc {
    struct llm_region_e       *e;
    const struct llm_region_w *w;
    const struct llm_sqe *ring;
    const uint8_t  *arena;
    uint32_t        entries;
    uint32_t        max_requests;
    uint64_t        arena_bytes;
    uint64_t        head;        /* descriptors popped */
    uint64_t        tail;        /* last sq_tail seen, checked */
    const char     *error;
};

void llm_ring_sqc_init(struct llm_ring_sqc *c, const struct llm_geometry *g,
                       const void *w, void *e, uint32_t max_requests);

/* Copies the oldest descriptor to *sqe and checks every field of it; *payload
 * points to its sqe->len bytes in shared memory (the worker may rewrite them:
 * copy them before reading) or is NULL.  LLM_AGAIN: empty.  The descriptor
 * stays until _pop. */
int llm_ring_sqc_next(struct llm_ring_sqc *c, struct llm_sqe *sqe,
                      const uint8_t **payload);
void llm_ring_sqc_pop(struct llm_ring_sqc *c);

/* Gives back what was popped.  true: the worker waits for it, kick it. */
bool llm_ring_sqc_release(struct llm_ring_sqc *c);

/* Before going to sleep: asks for kicks, then looks again.  true: nothing is
 * there, sleep.  false: something came; the flag is off again. */
bool llm_ring_sqc_sleep(struct llm_ring_sqc *c);
void llm_ring_sqc_awake(struct llm_ring_sqc *c);

/* ---- CQ, engine's end ---------------------------------------------------- */
struct llm_ring_cq {
    struct llm_region_e       *e;
    const struct llm_region_w *w;
    uint8_t        *ring;
    uint64_t        bytes;
    uint64_t        tail;        /* bytes pushed */
    uint64_t        head;        /* last cq_head seen, checked */
    uint64_t        published;
    const char     *error;
};

/* One thread at a time (the engine holds the session's lock). */
void llm_ring_cq_init(struct llm_ring_cq *q, const struct llm_geometry *g,
                      const void *w, void *e);

/* Appends one record; len at most LLM_PAYLOAD_BYTES_MAX, data may be NULL when
 * len is 0.  LLM_AGAIN: no room.  Nothing is visible before _publish. */
int llm_ring_cq_push(struct llm_ring_cq *q, enum llm_record type,
                     uint64_t req_id, const void *data, uint32_t len);

/* As many bytes as fit, as DATA records; returns how many were taken (may be
 * less than len, 0 when full), -1 on ->error. */
int64_t llm_ring_cq_push_data(struct llm_ring_cq *q, uint64_t req_id,
                              const void *data, uint64_t len);

/* Makes all pushes visible.  true: kick the worker.  false also when nothing
 * was pushed. */
bool llm_ring_cq_publish(struct llm_ring_cq *q);

/* As llm_ring_sq_wait, for room in the CQ. */
bool llm_ring_cq_wait(struct llm_ring_cq *q);
void llm_ring_cq_unwait(struct llm_ring_cq *q);

/* ---- CQ, worker's end ---------------------------------------------------- */
struct llm_ring_cqc {
    struct llm_region_w       *w;
    const struct llm_region_e *e;
    const uint8_t  *ring;
    uint64_t        bytes;
    uint64_t        head;        /* bytes popped */
    uint64_t        tail;        /* last cq_tail seen, checked */
    uint64_t        next;        /* head after the record last returned */
    const char     *error;
};

struct llm_ring_record {
    uint16_t       type;         /* never PAD; below LLM_RECORD_COUNT */
    uint32_t       len;
    uint64_t       req_id;
    const uint8_t *data;         /* [len] in shared memory, contiguous */
};

void llm_ring_cqc_init(struct llm_ring_cqc *c, const struct llm_geometry *g,
                       void *w, const void *e);

/* The oldest record that is not PAD.  LLM_AGAIN: empty.  rec->data stays valid
 * until _release. */
int llm_ring_cqc_next(struct llm_ring_cqc *c, struct llm_ring_record *rec);
void llm_ring_cqc_pop(struct llm_ring_cqc *c);

/* Gives back what was popped.  true: kick the engine. */
bool llm_ring_cqc_release(struct llm_ring_cqc *c);

/* As llm_ring_sqc_sleep. */
bool llm_ring_cqc_sleep(struct llm_ring_cqc *c);
void llm_ring_cqc_awake(struct llm_ring_cqc *c);

/* ---- statistics ---------------------------------------------------------- */
void llm_ring_write_stats(struct llm_region_e *e, const struct llm_stats *s);
void llm_ring_read_stats(const struct llm_region_e *e, struct llm_stats *out);

/* LLM_OK when E begins with the magic, version, epoch and session of WELCOME. */
int llm_ring_check_region(const struct llm_region_e *e,
                          const struct llm_welcome *welcome,
                          const char **why);

#endif
