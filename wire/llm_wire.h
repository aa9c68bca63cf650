/* llm_wire.h - the contract between nginx workers and nginx-llm-engine.
 *
 * Both sides compile this folder and share nothing else.  It has layouts,
 * limits and pure encode/decode functions: no allocation, no I/O, no clock.
 * llm_ring.h moves descriptors and records; llm_route.h names the URIs.
 *
 * A session = one worker process.  It connects to the engine's SOCK_SEQPACKET
 * socket and sends one HELLO; the engine answers one WELCOME with four file
 * descriptors in SCM_RIGHTS, in the order of enum llm_fd.  After that the
 * socket carries nothing: its EOF says that the peer is gone.
 *
 *   worker                                                     engine
 *     | -- HELLO ------------------------------------------------> |
 *     | <- WELCOME + memfd W, memfd E, eventfd engine, eventfd worker
 *     | == region W: SQ descriptors, request arena ==============> |  read-only
 *     | <= region E: CQ records, heartbeat, statistics =========== |  there
 *
 * One request:  SUBMIT [CHUNK*] -> [PROMPT -> GO] -> [HEAD] DATA* END
 * Exactly one END for each accepted SUBMIT, also as the answer to CANCEL, and
 * nothing after it for that id.  END without HEAD: the request ended before
 * anything could be said (cancelled, engine stopping); the reason tells.
 *
 * All integers are in the machine's byte order: both ends are one machine.
 *
 * Trust: neither side believes the other.  Copy first, then check, then use;
 * the functions here take bytes that the peer may rewrite at any moment and
 * copy them before the first look.  A violation returns LLM_ERROR and a short
 * reason; the caller closes the session.  An id that is merely unknown or old
 * is no violation: late records and late cancels are normal and are dropped.
 *
 * A dead peer is a new session with a new epoch, never a repair.  What it
 * published before it died still counts: a worker that sees EOF first empties
 * the CQ, then fails what has no END. */
#ifndef LLM_WIRE_H
#define LLM_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The same numbers as nginx's and the engine's. */
#define LLM_OK      0
#define LLM_ERROR  (-1)
#define LLM_AGAIN  (-2)

#define LLM_WIRE_MAGIC     0x4d4c4c4eu   /* "NLLM" in memory order */
#define LLM_WIRE_VERSION   2             /* any change of layout or meaning */

/* ---- limits, all of them ------------------------------------------------ */
#define LLM_SQ_ENTRIES_MIN     16u
#define LLM_SQ_ENTRIES_MAX     65536u
#define LLM_ARENA_BYTES_MIN    (64u << 10)
#define LLM_ARENA_BYTES_MAX    (1u << 30)
#define LLM_CQ_BYTES_MIN       (64u << 10)
#define LLM_CQ_BYTES_MAX       (1u << 30)
#define LLM_SLOT_BITS          20
#define LLM_REQUESTS_MAX       (1u << LLM_SLOT_BITS)   /* of one session */
#define LLM_PAYLOAD_BYTES_MAX  (16u << 10)  /* of one CQ record: a quarter of
                                               the smallest ring */
#define LLM_META_BYTES_MAX     8192u        /* TLVs of one request */
#define LLM_REQUEST_ID_BYTES_MAX  128u
#define LLM_CACHE_SALT_BYTES_MAX  256u
#define LLM_MODEL_BYTES_MAX       256u
#define LLM_URI_BYTES_MAX         2048u
#define LLM_KEY_ID_BYTES_MAX      128u
#define LLM_WELCOME_TEXT_BYTES    96u

/* ---- ids ------------------------------------------------------------------
 * req_id = slot | generation << 20.  The worker chooses a slot below
 * welcome.max_requests and raises the slot's generation at every use, from 1.
 * A slot is free again only after END.  SUBMIT on a slot in use, or with a
 * generation that did not grow, is a violation. */
static inline uint64_t
llm_req_id(uint32_t slot, uint64_t generation)
{
    return (uint64_t) (slot & (LLM_REQUESTS_MAX - 1)) | generation << LLM_SLOT_BITS;
}

static inline uint32_t
llm_req_slot(uint64_t req_id)
{
    return (uint32_t) (req_id & (LLM_REQUESTS_MAX - 1));
}

static inline uint64_t
llm_req_generation(uint64_t req_id)
{
    return req_id >> LLM_SLOT_BITS;
}

/* ---- hand-shake -----------------------------------------------------------
 * Sizes the worker wishes are wishes: 0 takes the engine's default, and what
 * counts is what WELCOME says.
 *
 * HELLO, worker -> engine, 64 bytes
 *   OFFSET SIZE DESCRIPTION
 *     0     4   LLM_WIRE_MAGIC
 *     4     2   LLM_WIRE_VERSION
 *     6     2   64, the size of this message
 *     8     4   process id of the worker, for logs
 *    12     4   worker number
 *    16     8   features the worker knows, LLM_FEATURE_* bits
 *    24     8   generation of the nginx configuration, for logs
 *    32     4   wanted SQ entries, power of two, 0 default
 *    36     4   wanted requests in flight, 0 default
 *    40     8   wanted request arena bytes, multiple of 4096, 0 default
 *    48     8   wanted CQ bytes, power of two, 0 default
 *    56     8   0
 *
 * WELCOME, engine -> worker, 256 bytes
 *     0     4   LLM_WIRE_MAGIC
 *     4     2   LLM_WIRE_VERSION of the engine
 *     6     2   256
 *     8     4   status, enum llm_welcome_status; not 0: no descriptors, the
 *               text says why, the engine closes the socket
 *    12     4   requests in flight at most; slots are below it
 *    16     8   features both know
 *    24     8   session id, for logs
 *    32     8   epoch: a number of this engine process, never 0
 *    40    64   geometry, struct llm_geometry
 *   104     8   request body bytes at most
 *   112     4   process id of the engine
 *   116     4   refusal: milliseconds after which to ask again, 0 unknown
 *   120    40   0
 *   160    96   text, ends with NUL */
enum llm_fd {
    LLM_FD_W,             /* memfd of region W: the worker maps it read-write */
    LLM_FD_E,             /* memfd of region E: can be mapped read-only only */
    LLM_FD_KICK_ENGINE,   /* eventfd the worker writes */
    LLM_FD_KICK_WORKER,   /* eventfd the engine writes */
    LLM_FD_COUNT
};

enum llm_welcome_status {
    LLM_WELCOME_OK,
    LLM_WELCOME_BAD_HELLO,     /* magic, size or a wish out of range */
    LLM_WELCOME_VERSION,
    LLM_WELCOME_UID,           /* SO_PEERCRED user is not allowed */
    LLM_WELCOME_SESSIONS,      /* too many sessions */
    LLM_WELCOME_MEMORY,        /* memfd, mmap or descriptors ran out */
    LLM_WELCOME_SHUTDOWN,      /* the engine is going */
    LLM_WELCOME_DOWN,          /* there is no engine now, its supervisor says
                                  why; nothing is wrong with the worker */
    LLM_WELCOME_STATUS_COUNT
};

#define LLM_FEATURES_KNOWN  0ull    /* no version has optional parts yet */

struct llm_hello {
    uint32_t magic;
    uint16_t version;
    uint16_t hello_bytes;
    uint32_t pid;
    uint32_t worker;
    uint64_t features;
    uint64_t conf_generation;
    uint32_t sq_entries;
    uint32_t max_requests;
    uint64_t arena_bytes;
    uint64_t cq_bytes;
    uint64_t reserved;
};

/* Where things lie; fixed for the life of a session.  Offsets count from the
 * start of the region named. */
struct llm_geometry {
    uint64_t w_bytes;        /* size of region W */
    uint64_t e_bytes;        /* size of region E */
    uint64_t sq_off;         /* in W; 64-byte aligned */
    uint64_t arena_off;      /* in W; 64-byte aligned */
    uint64_t arena_bytes;
    uint64_t cq_off;         /* in E; 64-byte aligned */
    uint64_t cq_bytes;       /* power of two */
    uint32_t sq_entries;     /* power of two */
    uint32_t reserved;
};

struct llm_welcome {
    uint32_t magic;
    uint16_t version;
    uint16_t welcome_bytes;
    uint32_t status;
    uint32_t max_requests;
    uint64_t features;
    uint64_t session_id;
    uint64_t epoch;
    struct llm_geometry geometry;
    uint64_t body_bytes_max;
    uint32_t pid;
    uint32_t retry_ms;
    uint8_t  reserved[40];
    char     text[LLM_WELCOME_TEXT_BYTES];
};

/* ---- owner protocol (managed engine: nginx master -> supervisor) ----------
 * On the lifeline and on connections to PATH.owner.  A new connection to
 * PATH.owner first sends ATTACH and reads one ATTACHED; then, and on the
 * lifeline at once, the owner sends ORDERs and reads one ANSWER to each, but to
 * RETIRE.  EOF says that this owner has died.
 *
 * ATTACH 32 bytes: 0 4 magic | 4 2 version | 6 2 size | 8 8 generation |
 *                 16 16 key, the hash of (binary, arguments, socket, user)
 * ATTACHED 32 bytes: 0 4 magic | 4 2 version | 6 2 size | 8 4 status |
 *                 12 4 pid of the supervisor | 16 4 pid of the engine, 0 none |
 *                 20 12 zero
 * ORDER 32 bytes: 0 4 magic | 4 2 version | 6 2 size | 8 4 enum llm_order_op |
 *                 12 4 serial | 16 4 grace_ms | 20 4 hang_ms, 0 never |
 *                 24 8 zero; with CLAIM the log file may come in SCM_RIGHTS
 * ANSWER 256 bytes: 0 4 magic | 4 2 version | 6 2 size | 8 4 serial |
 *                 12 4 enum llm_supervised | 16 4 pid of the supervisor |
 *                 20 4 pid of the engine, 0 none | 24 4 1: this was the last
 *                 owner | 28 4 zero | 32 112 path of the engine that still
 *                 serves instead, or "" | 144 112 zero */
enum llm_order_op {
    LLM_ORDER_STATE,     /* only asks */
    LLM_ORDER_CLAIM,     /* a configuration was loaded and wants this engine: it
                            takes the two times and the log file, and an engine
                            that was given up is tried again */
    LLM_ORDER_RETIRE,    /* this owner needs it no more: the engine serves the
                            workers it has until they leave; the connection is
                            closed when it has ended */
    LLM_ORDER_QUIT,      /* this owner goes: the engine finishes what it has */
    LLM_ORDER_YIELD,     /* hand over the lifeline of the engine it was going
                            to replace, in SCM_RIGHTS */
    LLM_ORDER_COUNT
};

enum llm_supervised {
    LLM_SUPERVISED_LOADING,  /* has not been ready since it was started */
    LLM_SUPERVISED_READY,
    LLM_SUPERVISED_FAILED,   /* given up until the next CLAIM */
    LLM_SUPERVISED_LEAVING
};

#define LLM_SOCKET_PATH_BYTES  112u   /* sockaddr_un.sun_path and its NUL */

struct llm_order {
    uint32_t magic;
    uint16_t version;
    uint16_t order_bytes;
    uint32_t op;
    uint32_t serial;
    uint32_t grace_ms;
    uint32_t hang_ms;
    uint32_t reserved[2];
};

struct llm_answer {
    uint32_t magic;
    uint16_t version;
    uint16_t answer_bytes;
    uint32_t serial;
    uint32_t state;
    uint32_t supervisor_pid;
    uint32_t engine_pid;
    uint32_t last;
    uint32_t reserved0;
    char     previous[LLM_SOCKET_PATH_BYTES];
    uint8_t  reserved[112];
};

enum llm_attach_status {
    LLM_ATTACH_OK, LLM_ATTACH_BAD, LLM_ATTACH_VERSION, LLM_ATTACH_KEY,
    LLM_ATTACH_LEAVING       /* it is shutting down: start another one */
};

struct llm_attach {
    uint32_t magic;
    uint16_t version;
    uint16_t attach_bytes;
    uint64_t conf_generation;
    uint8_t  key[16];
};

struct llm_attached {
    uint32_t magic;
    uint16_t version;
    uint16_t attached_bytes;
    uint32_t status;
    uint32_t supervisor_pid;
    uint32_t engine_pid;
    uint32_t reserved[3];
};

/* ---- the two regions ------------------------------------------------------
 * Each begins with one page; every word that is written often has 128 bytes of
 * its own (two lines: x86 fetches neighbours in pairs).  Indices are u64 and
 * never wrap; mask them on use.  A word has one writer for ever.
 *
 * Region W, written by the worker
 *   OFFSET SIZE DESCRIPTION
 *      0     8  0
 *    128     8  sq_tail: descriptors published since the session began
 *    256     8  cq_head: bytes of the CQ consumed
 *    384     4  worker_sleeping: 1 = kick me when cq_tail moves
 *    512     4  want_credit:     1 = kick me when sq_head moves
 *   4096        SQ: sq_entries descriptors of 64 bytes; then the request arena
 *
 * Region E, written by the engine
 *      0     4  LLM_WIRE_MAGIC
 *      4     4  LLM_WIRE_VERSION
 *      8     8  epoch, as in WELCOME
 *     16     8  session id, as in WELCOME
 *    128     8  sq_head: descriptors consumed
 *    256     8  cq_tail: bytes of the CQ published
 *    384     4  engine_sleeping: 1 = kick me when sq_tail moves
 *    512     4  want_room:       1 = kick me when cq_head moves
 *    640   256  struct llm_stats
 *   4096        CQ: cq_bytes bytes */
#define LLM_REGION_HEAD_BYTES  4096u

#define LLM_LINE  __attribute__((aligned(128)))

struct llm_region_w {
    uint64_t reserved;
    LLM_LINE uint64_t sq_tail;
    LLM_LINE uint64_t cq_head;
    LLM_LINE uint32_t worker_sleeping;
    LLM_LINE uint32_t want_credit;
};

enum llm_engine_state {
    LLM_STATE_LOADING,       /* submits are answered 503 */
    LLM_STATE_READY,
    LLM_STATE_DRAINING       /* the running requests finish; whoever can goes
                                elsewhere.  An engine that cannot serve has
                                exited: see LLM_WELCOME_DOWN */
};

/* The engine's pulse and load, each word relaxed; a snapshot may mix two
 * moments.  Times are CLOCK_MONOTONIC.
 *   heartbeat_ns older than a few LLM_HEARTBEAT_MS: the process stands still.
 *   progress_ns  old while heartbeat_ns is fresh: the step thread hangs.  It is
 *                renewed whenever `steps` moved or there was nothing to do, so
 *                neither an idle engine nor a long queue looks hung; one step
 *                is the longest honest gap. */
#define LLM_HEARTBEAT_MS  250

struct llm_stats {
    int64_t  heartbeat_ns;
    int64_t  progress_ns;
    uint64_t steps;
    uint64_t requests_total;
    uint64_t prompt_tokens_total;
    uint64_t generation_tokens_total;
    uint64_t preemptions_total;
    uint32_t state;            /* enum llm_engine_state */
    uint32_t running;          /* sequences */
    uint32_t waiting;
    uint32_t parked;
    uint32_t kv_blocks_used;
    uint32_t kv_blocks_total;
    uint32_t queued;           /* requests before the scheduler */
    uint32_t sessions;
    uint32_t retry_after_s;    /* what a 503 should say now */
    uint32_t reserved0;
    uint64_t reserved[20];
};

struct llm_region_e {
    uint32_t magic;
    uint32_t version;
    uint64_t epoch;
    uint64_t session_id;
    LLM_LINE uint64_t sq_head;
    LLM_LINE uint64_t cq_tail;
    LLM_LINE uint32_t engine_sleeping;
    LLM_LINE uint32_t want_room;
    LLM_LINE struct llm_stats stats;
};

/* ---- submission -----------------------------------------------------------
 * Descriptor, 64 bytes
 *   OFFSET SIZE DESCRIPTION
 *     0     1   op, enum llm_op
 *     1     1   flags, LLM_SQE_*
 *     2     2   route, enum llm_route                     SUBMIT
 *     4     4   meta_bytes: the payload's first bytes are TLVs   SUBMIT
 *     8     8   req_id
 *    16     8   arena_off: offset in the arena            SUBMIT, CHUNK
 *    24     4   len: payload bytes there, contiguous      SUBMIT, CHUNK
 *    28     4   priority, higher runs first, default 0    SUBMIT
 *    32     8   total_bytes: TLVs and body of all chunks  SUBMIT
 *    40     8   deadline_ns, CLOCK_MONOTONIC, 0 none      SUBMIT
 *    48     8   arrival_ns, CLOCK_MONOTONIC               SUBMIT
 *    56     8   value                                     CANCEL, WINDOW, GO
 * Fields not named for an op are 0.
 *
 * A payload of more than a quarter of the arena travels as SUBMIT|MORE,
 * CHUNK|MORE ..., CHUNK.  All TLVs are in the first.  The engine copies a
 * payload before it moves sq_head over its descriptor, so arena memory comes
 * back in order with sq_head and needs no release records. */
enum llm_op {
    LLM_OP_NONE,
    LLM_OP_SUBMIT,
    LLM_OP_CHUNK,      /* more of a SUBMIT|MORE */
    LLM_OP_CANCEL,     /* value: enum llm_finish that END shall say, 0 means
                          LLM_FINISH_CLIENT_ABORT */
    LLM_OP_WINDOW,     /* value: 0 park the request, 1 let it run */
    LLM_OP_GO,         /* value: 1 go, 0 refuse (END with no HEAD follows);
                          the answer to PROMPT */
    LLM_OP_GOODBYE,    /* req_id 0; the worker submits no more; the session
                          ends when the socket closes */
    LLM_OP_COUNT
};

#define LLM_SQE_MORE         0x01u   /* a CHUNK of this id follows */
#define LLM_SQE_WANT_PROMPT  0x02u   /* SUBMIT: report PROMPT, wait for GO */
#define LLM_SQE_HEAD         0x04u   /* SUBMIT: the client's method was HEAD;
                                        the answer may leave out its body */
#define LLM_SQE_FLAGS_KNOWN  0x07u

struct llm_sqe {
    uint8_t  op;
    uint8_t  flags;
    uint16_t route;
    uint32_t meta_bytes;
    uint64_t req_id;
    uint64_t arena_off;
    uint32_t len;
    int32_t  priority;
    uint64_t total_bytes;
    int64_t  deadline_ns;
    int64_t  arrival_ns;
    uint64_t value;
};

/* Meta TLV: {tag u16, len u16, len bytes}, unaligned, in any order, each tag
 * at most once, unknown tags skipped. */
enum llm_meta_tag {
    LLM_META_REQUEST_ID = 1,   /* text, shown in answers and logs */
    LLM_META_CACHE_SALT,       /* bytes; tenants with different salts share no
                                  prefix cache */
    LLM_META_MODEL,            /* text: the {id} of /v1/models/{id}; with a body:
                                  counts instead of its "model", and empty
                                  means the engine's default */
    LLM_META_MAX_TOKENS,       /* u32: cap on max_tokens from llm_max_tokens */
    LLM_META_URI,              /* text, for logs */
    LLM_META_KEY_ID,           /* text, name of the API key, for logs */
    LLM_META_TAG_COUNT
};

/* Bytes borrowed from the caller's copy of the payload. */
struct llm_bytes {
    const uint8_t *data;
    uint32_t       len;
};

struct llm_meta {
    struct llm_bytes request_id, cache_salt, model, uri, key_id;
    uint32_t         max_tokens;     /* 0: none */
};

/* ---- completion -----------------------------------------------------------
 * Record: 16-byte header, payload, zero to 15 bytes of padding.  A record never
 * crosses the end of the ring: a PAD record fills the rest.
 *   OFFSET SIZE DESCRIPTION
 *     0     4   len: payload bytes; PAD: what is left of the ring after the
 *               header; others at most LLM_PAYLOAD_BYTES_MAX
 *     4     2   type, enum llm_record
 *     6     2   0
 *     8     8   req_id
 *
 * HEAD payload, 24 bytes: 0 2 HTTP status | 2 2 enum llm_content |
 *     4 4 flags | 8 8 content_length, -1 unknown | 16 4 retry_after_s, 0 none |
 *     20 4 zero.  At most once, before the first DATA.
 * DATA payload: bytes of the response body.
 * PROMPT payload, 8 bytes: 0 4 prompt tokens | 4 4 completion tokens at most.
 * END payload, 56 bytes + model: 0 2 enum llm_finish | 2 2 flags |
 *     4 4 prompt_tokens | 8 4 cached_tokens | 12 4 completion_tokens |
 *     16 8 queue_ns | 24 8 ttft_ns | 32 8 decode_ns | 40 4 model bytes |
 *     44 12 zero | 56 the served model's name, not terminated. */
enum llm_record {
    LLM_RECORD_PAD,
    LLM_RECORD_HEAD,
    LLM_RECORD_DATA,
    LLM_RECORD_PROMPT,
    LLM_RECORD_END,
    LLM_RECORD_COUNT
};

struct llm_cqe {
    uint32_t len;
    uint16_t type;
    uint16_t flags;
    uint64_t req_id;
};

enum llm_content {
    LLM_CONTENT_NONE,         /* no body, no Content-Type */
    LLM_CONTENT_JSON,         /* application/json */
    LLM_CONTENT_SSE,          /* text/event-stream */
    LLM_CONTENT_PROMETHEUS,   /* text/plain; version=0.0.4 */
    LLM_CONTENT_COUNT
};

#define LLM_HEAD_STREAM       0x1u   /* flush every DATA to the client */
#define LLM_HEAD_FLAGS_KNOWN  0x1u

struct llm_head {
    uint16_t status;          /* 200..599 */
    uint16_t content;         /* enum llm_content */
    uint32_t flags;           /* LLM_HEAD_* */
    int64_t  content_length;  /* -1: not known */
    uint32_t retry_after_s;
    uint32_t reserved;
};

struct llm_prompt {
    uint32_t prompt_tokens;
    uint32_t max_completion_tokens;   /* over all choices */
};

/* The closed set of endings; the numbers of engine/core/gen.h. */
enum llm_finish {
    LLM_FINISH_NONE,          /* a plain answer: error document, /v1/models */
    LLM_FINISH_STOP,
    LLM_FINISH_LENGTH,
    LLM_FINISH_TOOL_CALLS,
    LLM_FINISH_CLIENT_ABORT,
    LLM_FINISH_DEADLINE,
    LLM_FINISH_SLOW_READER,
    LLM_FINISH_NUMERIC_ERROR,
    LLM_FINISH_GRAMMAR_DEAD_END,
    LLM_FINISH_ENGINE_LOST,   /* said by the module itself, never on the wire
                                 by a healthy engine */
    LLM_FINISH_SHUTDOWN,
    LLM_FINISH_COUNT
};

#define LLM_END_NO_RETRY      0x1u   /* answer x-should-retry: false */
#define LLM_END_FLAGS_KNOWN   0x1u

/* END as decoded; times are 0 where the moment was not reached. */
struct llm_end {
    uint16_t reason;          /* enum llm_finish */
    uint16_t flags;           /* LLM_END_* */
    uint32_t prompt_tokens;
    uint32_t cached_tokens;
    uint32_t completion_tokens;
    int64_t  queue_ns;
    int64_t  ttft_ns;
    int64_t  decode_ns;
    uint32_t model_len;
    char     model[LLM_MODEL_BYTES_MAX];   /* not terminated */
};

#define LLM_END_FIXED_BYTES  56u
#define LLM_END_BYTES_MAX    (LLM_END_FIXED_BYTES + LLM_MODEL_BYTES_MAX)

/* ---- functions ------------------------------------------------------------
 * `why` (never NULL) gets a static string on LLM_ERROR.  `data` may lie in
 * shared memory and is read once.  Pure; any thread. */

/* Lays out both regions.  Sizes must be inside the limits above; arena_bytes a
 * multiple of 4096, the other two powers of two. */
int llm_wire_layout(struct llm_geometry *out, uint32_t sq_entries,
                    uint64_t arena_bytes, uint64_t cq_bytes,
                    const char **why);

/* Everything that has to hold before a geometry from the peer is mapped:
 * limits, alignment, nothing overlaps, all inside regions of w_bytes and
 * e_bytes (compare those with fstat() yourself). */
int llm_wire_check_geometry(const struct llm_geometry *g, const char **why);

/* Zeroes *out and fills magic, version and size. */
void llm_wire_init_hello(struct llm_hello *out);
void llm_wire_init_welcome(struct llm_welcome *out, uint32_t status,
                           const char *text);   /* text is cut to fit */

/* A HELLO as received.  LLM_ERROR and *status (enum llm_welcome_status) for the
 * refusal; wishes are checked against the limits. */
int llm_wire_decode_hello(struct llm_hello *out, const void *data, size_t len,
                          uint32_t *status, const char **why);

/* A WELCOME as received.  LLM_OK also for a refusal: look at out->status;
 * out->text is made printable and terminated.  With status 0 the geometry has
 * been checked.  Another version is LLM_ERROR. */
int llm_wire_decode_welcome(struct llm_welcome *out, const void *data,
                            size_t len, const char **why);

/* Appends one TLV at buf[*len]; LLM_ERROR when cap or the tag's limit would be
 * passed, and nothing is written then. */
int llm_wire_encode_meta(uint8_t *buf, uint32_t cap, uint32_t *len,
                         uint16_t tag, struct llm_bytes value);
int llm_wire_encode_meta_u32(uint8_t *buf, uint32_t cap, uint32_t *len,
                             uint16_t tag, uint32_t value);

/* Reads all TLVs of a PRIVATE copy; *out borrows from it. */
int llm_wire_decode_meta(struct llm_meta *out, const uint8_t *data,
                         uint32_t len, const char **why);

/* Payloads of CQ records. */
int llm_wire_decode_head(struct llm_head *out, const void *data, uint32_t len,
                         const char **why);
int llm_wire_decode_prompt(struct llm_prompt *out, const void *data,
                           uint32_t len, const char **why);
int llm_wire_decode_end(struct llm_end *out, const void *data, uint32_t len,
                        const char **why);

/* Writes the payload of END and returns its length; buf has
 * LLM_END_BYTES_MAX bytes. */
uint32_t llm_wire_encode_end(uint8_t *buf, const struct llm_end *end);

/* "stop", "length", "client_abort" ...; "none" for NONE, "unknown" outside. */
const char *llm_wire_finish_name(uint32_t reason);
const char *llm_wire_content_type(uint32_t content);   /* NULL for NONE */
const char *llm_wire_state_name(uint32_t state);       /* "loading" ... */

/* ---- the tables above, asserted ------------------------------------------ */
#define LLM_ASSERT_AT(type, field, off)                                       \
    _Static_assert(offsetof(struct type, field) == (off), #type "." #field)

_Static_assert(sizeof(struct llm_hello) == 64, "HELLO is 64 bytes");
_Static_assert(sizeof(struct llm_geometry) == 64, "geometry is 64 bytes");
_Static_assert(sizeof(struct llm_welcome) == 256, "WELCOME is 256 bytes");
_Static_assert(sizeof(struct llm_attach) == 32, "ATTACH is 32 bytes");
_Static_assert(sizeof(struct llm_attached) == 32, "ATTACHED is 32 bytes");
_Static_assert(sizeof(struct llm_order) == 32, "ORDER is 32 bytes");
_Static_assert(sizeof(struct llm_answer) == 256, "ANSWER is 256 bytes");
_Static_assert(sizeof(struct llm_sqe) == 64, "a descriptor is 64 bytes");
_Static_assert(sizeof(struct llm_cqe) == 16, "a record header is 16 bytes");
_Static_assert(sizeof(struct llm_head) == 24, "HEAD is 24 bytes");
_Static_assert(sizeof(struct llm_prompt) == 8, "PROMPT is 8 bytes");
_Static_assert(sizeof(struct llm_stats) == 256, "statistics are 256 bytes");
_Static_assert(sizeof(struct llm_region_w) <= LLM_REGION_HEAD_BYTES, "page");
_Static_assert(sizeof(struct llm_region_e) <= LLM_REGION_HEAD_BYTES, "page");
_Static_assert(4 * LLM_PAYLOAD_BYTES_MAX <= LLM_CQ_BYTES_MIN,
               "a record and the PAD before it always fit an empty ring");
_Static_assert(LLM_END_BYTES_MAX <= LLM_PAYLOAD_BYTES_MAX, "END is one record");
_Static_assert(4 * LLM_META_BYTES_MAX <= LLM_ARENA_BYTES_MIN,
               "the TLVs always fit the first chunk");
LLM_ASSERT_AT(llm_hello, conf_generation, 24);
LLM_ASSERT_AT(llm_hello, arena_bytes, 40);
LLM_ASSERT_AT(llm_welcome, epoch, 32);
LLM_ASSERT_AT(llm_welcome, geometry, 40);
LLM_ASSERT_AT(llm_welcome, body_bytes_max, 104);
LLM_ASSERT_AT(llm_welcome, text, 160);
LLM_ASSERT_AT(llm_region_w, sq_tail, 128);
LLM_ASSERT_AT(llm_region_w, cq_head, 256);
LLM_ASSERT_AT(llm_region_w, worker_sleeping, 384);
LLM_ASSERT_AT(llm_region_w, want_credit, 512);
LLM_ASSERT_AT(llm_region_e, sq_head, 128);
LLM_ASSERT_AT(llm_region_e, cq_tail, 256);
LLM_ASSERT_AT(llm_region_e, engine_sleeping, 384);
LLM_ASSERT_AT(llm_region_e, want_room, 512);
LLM_ASSERT_AT(llm_region_e, stats, 640);
LLM_ASSERT_AT(llm_sqe, req_id, 8);
LLM_ASSERT_AT(llm_sqe, len, 24);
LLM_ASSERT_AT(llm_sqe, total_bytes, 32);
LLM_ASSERT_AT(llm_sqe, value, 56);
LLM_ASSERT_AT(llm_cqe, req_id, 8);
LLM_ASSERT_AT(llm_head, content_length, 8);

#endif
