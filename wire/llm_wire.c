/* llm_wire.c - messages and payloads: copy, check, and only then believe. */
#include "wire/llm_wire.h"

#include <string.h>

static int
fail(const char **why, const char *reason)
{
    *why = reason;
    return LLM_ERROR;
}

/* The source may be shared memory: read once, see llm_ring.c. */
static void
copy_in(void *dst, const void *src, size_t len)
{
    memcpy(dst, src, len);
    __asm__ volatile("" ::: "memory");
}

static bool
is_pow2(uint64_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

/* ---- geometry ------------------------------------------------------------ */
static int
check_sizes(uint32_t sq_entries, uint64_t arena_bytes, uint64_t cq_bytes,
            const char **why)
{
    if (!is_pow2(sq_entries) || sq_entries < LLM_SQ_ENTRIES_MIN
        || sq_entries > LLM_SQ_ENTRIES_MAX)
    {
        return fail(why, "SQ entries: not a power of two in 16..65536");
    }
    if (arena_bytes % 4096 != 0 || arena_bytes < LLM_ARENA_BYTES_MIN
        || arena_bytes > LLM_ARENA_BYTES_MAX)
    {
        return fail(why, "arena: not a multiple of 4096 in 64k..1g");
    }
    if (!is_pow2(cq_bytes) || cq_bytes < LLM_CQ_BYTES_MIN
        || cq_bytes > LLM_CQ_BYTES_MAX)
    {
        return fail(why, "CQ: not a power of two in 64k..1g");
    }
    return LLM_OK;
}

int
llm_wire_layout(struct llm_geometry *out, uint32_t sq_entries,
                uint64_t arena_bytes, uint64_t cq_bytes, const char **why)
{
    memset(out, 0, sizeof *out);
    if (check_sizes(sq_entries, arena_bytes, cq_bytes, why) != LLM_OK) {
        return LLM_ERROR;
    }
    out->sq_off = LLM_REGION_HEAD_BYTES;
    out->sq_entries = sq_entries;
    out->arena_off = (out->sq_off + (uint64_t) sq_entries * sizeof(struct llm_sqe)
                      + 4095) & ~(uint64_t) 4095;
    out->arena_bytes = arena_bytes;
    out->w_bytes = out->arena_off + arena_bytes;
    out->cq_off = LLM_REGION_HEAD_BYTES;
    out->cq_bytes = cq_bytes;
    out->e_bytes = out->cq_off + cq_bytes;
    return LLM_OK;
}

/* `bytes` at `off` lie behind the header page and inside `total`. */
static bool
is_inside(uint64_t off, uint64_t bytes, uint64_t total)
{
    return off % 64 == 0 && off >= LLM_REGION_HEAD_BYTES && off <= total
           && bytes <= total - off;
}

int
llm_wire_check_geometry(const struct llm_geometry *g, const char **why)
{
    uint64_t  sq_bytes;

    if (check_sizes(g->sq_entries, g->arena_bytes, g->cq_bytes, why) != LLM_OK) {
        return LLM_ERROR;
    }
    sq_bytes = (uint64_t) g->sq_entries * sizeof(struct llm_sqe);
    if (!is_inside(g->sq_off, sq_bytes, g->w_bytes)
        || !is_inside(g->arena_off, g->arena_bytes, g->w_bytes)
        || !is_inside(g->cq_off, g->cq_bytes, g->e_bytes))
    {
        return fail(why, "geometry: a part lies outside of its region");
    }
    if (g->sq_off < g->arena_off + g->arena_bytes
        && g->arena_off < g->sq_off + sq_bytes)
    {
        return fail(why, "geometry: SQ and arena overlap");
    }
    return LLM_OK;
}

/* ---- hand-shake ---------------------------------------------------------- */
void
llm_wire_init_hello(struct llm_hello *out)
{
    memset(out, 0, sizeof *out);
    out->magic = LLM_WIRE_MAGIC;
    out->version = LLM_WIRE_VERSION;
    out->hello_bytes = sizeof *out;
    out->features = LLM_FEATURES_KNOWN;
}

void
llm_wire_init_welcome(struct llm_welcome *out, uint32_t status,
                      const char *text)
{
    size_t  len = text == NULL ? 0 : strlen(text);

    memset(out, 0, sizeof *out);
    out->magic = LLM_WIRE_MAGIC;
    out->version = LLM_WIRE_VERSION;
    out->welcome_bytes = sizeof *out;
    out->status = status;
    if (len >= sizeof out->text) {
        len = sizeof out->text - 1;
    }
    memcpy(out->text, text == NULL ? "" : text, len);
}

int
llm_wire_decode_hello(struct llm_hello *out, const void *data, size_t len,
                      uint32_t *status, const char **why)
{
    *status = LLM_WELCOME_BAD_HELLO;
    /* Magic, version and size stay where they are in every version, so that a
     * stranger and a newer worker get different answers. */
    if (len < offsetof(struct llm_hello, pid)) {
        return fail(why, "HELLO is too short");
    }
    memset(out, 0, sizeof *out);
    copy_in(out, data, len < sizeof *out ? len : sizeof *out);
    if (out->magic != LLM_WIRE_MAGIC) {
        return fail(why, "HELLO has another magic number");
    }
    if (out->version != LLM_WIRE_VERSION) {
        *status = LLM_WELCOME_VERSION;
        return fail(why, "HELLO is of another protocol version");
    }
    if (len != sizeof *out || out->hello_bytes != sizeof *out) {
        return fail(why, "HELLO has another size");
    }
    if (check_sizes(out->sq_entries == 0 ? LLM_SQ_ENTRIES_MIN : out->sq_entries,
                    out->arena_bytes == 0 ? LLM_ARENA_BYTES_MIN
                                          : out->arena_bytes,
                    out->cq_bytes == 0 ? LLM_CQ_BYTES_MIN : out->cq_bytes,
                    why) != LLM_OK)
    {
        return LLM_ERROR;
    }
    if (out->max_requests > LLM_REQUESTS_MAX) {
        return fail(why, "HELLO wants more than 2^20 requests");
    }
    return LLM_OK;
}

/* The text goes to a log: printable ASCII, terminated. */
static void
clean_text(char *text, size_t cap)
{
    text[cap - 1] = '\0';
    for (size_t i = 0; text[i] != '\0'; i++) {
        if (text[i] < 0x20 || text[i] > 0x7e) {
            text[i] = '?';
        }
    }
}

int
llm_wire_decode_welcome(struct llm_welcome *out, const void *data, size_t len,
                        const char **why)
{
    memset(out, 0, sizeof *out);
    if (len < offsetof(struct llm_welcome, max_requests)) {
        return fail(why, "WELCOME is too short");
    }
    copy_in(out, data, len < sizeof *out ? len : sizeof *out);
    clean_text(out->text, sizeof out->text);
    if (out->magic != LLM_WIRE_MAGIC) {
        return fail(why, "WELCOME has another magic number");
    }
    if (out->version != LLM_WIRE_VERSION) {
        return fail(why, "the engine speaks another protocol version");
    }
    if (len != sizeof *out || out->welcome_bytes != sizeof *out) {
        return fail(why, "WELCOME has another size");
    }
    if (out->status >= LLM_WELCOME_STATUS_COUNT) {
        return fail(why, "WELCOME has an unknown status");
    }
    if (out->status != LLM_WELCOME_OK) {
        return LLM_OK;
    }
    if (out->epoch == 0 || out->max_requests == 0
        || out->max_requests > LLM_REQUESTS_MAX
        || (out->features & ~LLM_FEATURES_KNOWN) != 0)
    {
        return fail(why, "WELCOME: epoch, requests or features out of range");
    }
    return llm_wire_check_geometry(&out->geometry, why);
}

/* ---- meta TLVs ----------------------------------------------------------- */
#define TLV_HEAD_BYTES  4u

static uint32_t
meta_bytes_max(uint16_t tag)
{
    switch (tag) {
    case LLM_META_REQUEST_ID:
        return LLM_REQUEST_ID_BYTES_MAX;
    case LLM_META_CACHE_SALT:
        return LLM_CACHE_SALT_BYTES_MAX;
    case LLM_META_MODEL:
        return LLM_MODEL_BYTES_MAX;
    case LLM_META_MAX_TOKENS:
        return sizeof(uint32_t);
    case LLM_META_URI:
        return LLM_URI_BYTES_MAX;
    case LLM_META_KEY_ID:
        return LLM_KEY_ID_BYTES_MAX;
    default:
        return UINT16_MAX;
    }
}

int
llm_wire_encode_meta(uint8_t *buf, uint32_t cap, uint32_t *len, uint16_t tag,
                     struct llm_bytes value)
{
    uint16_t  head[2] = { tag, (uint16_t) value.len };

    if (cap > LLM_META_BYTES_MAX) {
        cap = LLM_META_BYTES_MAX;
    }
    if (value.len > meta_bytes_max(tag) || *len > cap
        || value.len + TLV_HEAD_BYTES > cap - *len)
    {
        return LLM_ERROR;
    }
    memcpy(buf + *len, head, sizeof head);
    if (value.len != 0) {
        memcpy(buf + *len + sizeof head, value.data, value.len);
    }
    *len += TLV_HEAD_BYTES + value.len;
    return LLM_OK;
}

int
llm_wire_encode_meta_u32(uint8_t *buf, uint32_t cap, uint32_t *len,
                         uint16_t tag, uint32_t value)
{
    uint8_t  bytes[sizeof value];

    memcpy(bytes, &value, sizeof value);
    return llm_wire_encode_meta(buf, cap, len, tag,
                                (struct llm_bytes) { bytes, sizeof bytes });
}

static int
store_meta(struct llm_meta *out, uint16_t tag, struct llm_bytes value,
           const char **why)
{
    switch (tag) {
    case LLM_META_REQUEST_ID:
        out->request_id = value;
        break;
    case LLM_META_CACHE_SALT:
        out->cache_salt = value;
        break;
    case LLM_META_MODEL:
        out->model = value;
        break;
    case LLM_META_URI:
        out->uri = value;
        break;
    case LLM_META_KEY_ID:
        out->key_id = value;
        break;
    case LLM_META_MAX_TOKENS:
        if (value.len != sizeof out->max_tokens) {
            return fail(why, "meta MAX_TOKENS is not four bytes");
        }
        memcpy(&out->max_tokens, value.data, sizeof out->max_tokens);
        break;
    default:
        break;
    }
    return LLM_OK;
}

int
llm_wire_decode_meta(struct llm_meta *out, const uint8_t *data, uint32_t len,
                     const char **why)
{
    uint32_t  pos = 0, seen = 0;

    memset(out, 0, sizeof *out);
    while (pos < len) {
        uint16_t          head[2];
        struct llm_bytes  value;

        if (len - pos < TLV_HEAD_BYTES) {
            return fail(why, "meta ends inside a TLV header");
        }
        memcpy(head, data + pos, sizeof head);
        pos += TLV_HEAD_BYTES;
        if (head[1] > len - pos) {
            return fail(why, "meta ends inside a TLV");
        }
        if (head[1] > meta_bytes_max(head[0])) {
            return fail(why, "meta TLV is longer than its limit");
        }
        if (head[0] < 32) {
            if ((seen >> head[0] & 1) != 0) {
                return fail(why, "meta tag is given twice");
            }
            seen |= 1u << head[0];
        }
        value.data = data + pos;
        value.len = head[1];
        if (store_meta(out, head[0], value, why) != LLM_OK) {
            return LLM_ERROR;
        }
        pos += head[1];
    }
    return LLM_OK;
}

/* ---- completion payloads ------------------------------------------------- */
int
llm_wire_decode_head(struct llm_head *out, const void *data, uint32_t len,
                     const char **why)
{
    if (len != sizeof *out) {
        return fail(why, "HEAD has another size");
    }
    copy_in(out, data, sizeof *out);
    if (out->status < 200 || out->status > 599) {
        return fail(why, "HEAD: status outside of 200..599");
    }
    if (out->content >= LLM_CONTENT_COUNT) {
        return fail(why, "HEAD: unknown content type");
    }
    if ((out->flags & ~LLM_HEAD_FLAGS_KNOWN) != 0) {
        return fail(why, "HEAD: unknown flags");
    }
    if (out->content_length < -1) {
        return fail(why, "HEAD: negative length");
    }
    return LLM_OK;
}

int
llm_wire_decode_prompt(struct llm_prompt *out, const void *data, uint32_t len,
                       const char **why)
{
    if (len != sizeof *out) {
        return fail(why, "PROMPT has another size");
    }
    copy_in(out, data, sizeof *out);
    if (out->prompt_tokens > INT32_MAX || out->max_completion_tokens > INT32_MAX) {
        return fail(why, "PROMPT: count out of range");
    }
    return LLM_OK;
}

uint32_t
llm_wire_encode_end(uint8_t *buf, const struct llm_end *end)
{
    uint32_t  model_len = end->model_len < LLM_MODEL_BYTES_MAX
                          ? end->model_len : LLM_MODEL_BYTES_MAX;

    /* The first 44 bytes of the struct are the payload's, see the asserts. */
    memset(buf, 0, LLM_END_FIXED_BYTES);
    memcpy(buf, end, offsetof(struct llm_end, model_len));
    memcpy(buf + 40, &model_len, sizeof model_len);
    memcpy(buf + LLM_END_FIXED_BYTES, end->model, model_len);
    return LLM_END_FIXED_BYTES + model_len;
}

LLM_ASSERT_AT(llm_end, cached_tokens, 8);
LLM_ASSERT_AT(llm_end, queue_ns, 16);
LLM_ASSERT_AT(llm_end, decode_ns, 32);
LLM_ASSERT_AT(llm_end, model_len, 40);

int
llm_wire_decode_end(struct llm_end *out, const void *data, uint32_t len,
                    const char **why)
{
    uint8_t  copy[LLM_END_BYTES_MAX];

    if (len < LLM_END_FIXED_BYTES || len > sizeof copy) {
        return fail(why, "END has another size");
    }
    copy_in(copy, data, len);
    memset(out, 0, sizeof *out);
    memcpy(out, copy, offsetof(struct llm_end, model));
    if (out->model_len != len - LLM_END_FIXED_BYTES) {
        return fail(why, "END: model name does not fill the record");
    }
    if (out->reason >= LLM_FINISH_COUNT
        || (out->flags & ~LLM_END_FLAGS_KNOWN) != 0)
    {
        return fail(why, "END: unknown reason or flags");
    }
    if (out->prompt_tokens > INT32_MAX || out->cached_tokens > INT32_MAX
        || out->completion_tokens > INT32_MAX || out->queue_ns < 0
        || out->ttft_ns < 0 || out->decode_ns < 0)
    {
        return fail(why, "END: count or time out of range");
    }
    memcpy(out->model, copy + LLM_END_FIXED_BYTES, out->model_len);
    return LLM_OK;
}

/* ---- names --------------------------------------------------------------- */
const char *
llm_wire_finish_name(uint32_t reason)
{
    static const char *const  names[LLM_FINISH_COUNT] = {
        "none", "stop", "length", "tool_calls", "client_abort", "deadline",
        "slow_reader", "numeric_error", "grammar_dead_end", "engine_lost",
        "shutdown"
    };

    return reason < LLM_FINISH_COUNT ? names[reason] : "unknown";
}

const char *
llm_wire_content_type(uint32_t content)
{
    switch (content) {
    case LLM_CONTENT_JSON:
        return "application/json";
    case LLM_CONTENT_SSE:
        return "text/event-stream; charset=utf-8";
    case LLM_CONTENT_PROMETHEUS:
        return "text/plain; version=0.0.4; charset=utf-8";
    default:
        return NULL;
    }
}

const char *
llm_wire_state_name(uint32_t state)
{
    static const char *const  names[] = {
        "loading", "ready", "draining"
    };

    return state < sizeof names / sizeof names[0] ? names[state] : "unknown";
}
