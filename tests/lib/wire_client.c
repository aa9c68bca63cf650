/* wire_client.c - what ngx_http_llm_channel.c does, with poll() and patience. */
#include "tests/lib/wire_client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"

#define BODY_BYTES_MAX   (256u << 20)
#define HANDSHAKE_MS     5000
#define ROOM_MS          10000

static void
wire_client_init(struct wire_client *c)
{
    memset(c, 0, sizeof *c);
    c->w = c->e = MAP_FAILED;
    c->fd = c->kick_engine_fd = c->kick_worker_fd = -1;
    for (int i = 0; i < LLM_FD_COUNT; i++) {
        c->fds[i] = -1;
    }
}

static int
receive_welcome(struct wire_client *c, int fds[LLM_FD_COUNT], struct err *err)
{
    union {
        struct cmsghdr  align;
        char            bytes[CMSG_SPACE(sizeof(int) * LLM_FD_COUNT)];
    } control;
    char             bytes[512];
    struct iovec     iov = { bytes, sizeof bytes };
    struct msghdr    msg = { .msg_iov = &iov, .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes };
    struct pollfd    p = { c->fd, POLLIN, 0 };
    struct cmsghdr  *h;
    const char      *why = "";
    ssize_t          n;

    if (poll(&p, 1, HANDSHAKE_MS) != 1) {
        return err_set(err, "no WELCOME within %d ms", HANDSHAKE_MS);
    }
    n = recvmsg(c->fd, &msg, MSG_CMSG_CLOEXEC);
    if (n <= 0) {
        return err_set(err, "closed before WELCOME");
    }
    if (llm_wire_decode_welcome(&c->welcome, bytes, (size_t) n, &why) != LLM_OK) {
        return err_set(err, "%s", why);
    }
    if (c->welcome.status != LLM_WELCOME_OK) {
        return err_set(err, "refused (%u): %s", (unsigned) c->welcome.status,
                       c->welcome.text);
    }
    h = CMSG_FIRSTHDR(&msg);
    if (h == NULL || h->cmsg_type != SCM_RIGHTS
        || h->cmsg_len != CMSG_LEN(sizeof(int) * LLM_FD_COUNT))
    {
        return err_set(err, "WELCOME without four descriptors");
    }
    memcpy(fds, CMSG_DATA(h), sizeof(int) * LLM_FD_COUNT);
    return OK;
}

static int
map_regions(struct wire_client *c, const int *fds, struct err *err)
{
    const struct llm_geometry  *g = &c->welcome.geometry;
    struct stat  w, e;
    const char  *why = "";

    if (fstat(fds[LLM_FD_W], &w) == -1 || (uint64_t) w.st_size != g->w_bytes
        || fstat(fds[LLM_FD_E], &e) == -1 || (uint64_t) e.st_size != g->e_bytes)
    {
        return err_set(err, "a region has another size than announced");
    }
    c->w = mmap(NULL, g->w_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                fds[LLM_FD_W], 0);
    c->e = mmap(NULL, g->e_bytes, PROT_READ, MAP_SHARED, fds[LLM_FD_E], 0);
    if (c->w == MAP_FAILED || c->e == MAP_FAILED) {
        return err_set(err, "mmap: %s", strerror(errno));
    }
    if (llm_ring_check_region(c->e, &c->welcome, &why) != LLM_OK) {
        return err_set(err, "%s", why);
    }
    c->marks = calloc(g->sq_entries, sizeof *c->marks);
    c->answers = calloc(c->welcome.max_requests, sizeof *c->answers);
    c->generations = calloc(c->welcome.max_requests, sizeof *c->generations);
    check(c->marks != NULL && c->answers != NULL && c->generations != NULL);
    llm_ring_sq_init(&c->sq, g, c->w, c->e, c->marks);
    llm_ring_cqc_init(&c->cq, g, c->w, c->e);
    return OK;
}

int
wire_client_open(struct wire_client *c, const char *path,
                 const struct llm_hello *hello, struct err *err)
{
    struct sockaddr_un  addr = { .sun_family = AF_UNIX };
    struct llm_hello    plain;
    int                 rc;

    wire_client_init(c);
    check(strlen(path) < sizeof addr.sun_path);
    memcpy(addr.sun_path, path, strlen(path) + 1);
    c->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (c->fd == -1
        || connect(c->fd, (struct sockaddr *) &addr, sizeof addr) == -1)
    {
        (void) err_set(err, "%s: %s", path, strerror(errno));
        wire_client_close(c);
        return ERROR;
    }
    if (hello == NULL) {
        llm_wire_init_hello(&plain);
        plain.pid = (uint32_t) getpid();
        hello = &plain;
    }
    (void) send(c->fd, hello, sizeof *hello, MSG_NOSIGNAL);
    rc = receive_welcome(c, c->fds, err);
    if (rc == OK) {
        rc = map_regions(c, c->fds, err);
    }
    c->kick_engine_fd = c->fds[LLM_FD_KICK_ENGINE];
    c->kick_worker_fd = c->fds[LLM_FD_KICK_WORKER];
    if (rc != OK) {
        wire_client_close(c);
    }
    return rc;
}

void
wire_client_close(struct wire_client *c)
{
    if (c->answers != NULL) {
        for (uint32_t i = 0; i < c->welcome.max_requests; i++) {
            buf_destroy(&c->answers[i].body);
        }
    }
    if (c->w != MAP_FAILED) {
        (void) munmap(c->w, c->welcome.geometry.w_bytes);
    }
    if (c->e != MAP_FAILED) {
        (void) munmap(c->e, c->welcome.geometry.e_bytes);
    }
    free(c->marks);
    free(c->answers);
    free(c->generations);
    for (int i = 0; i < LLM_FD_COUNT; i++) {
        if (c->fds[i] != -1) {
            (void) close(c->fds[i]);
        }
    }
    if (c->fd != -1) {
        (void) close(c->fd);
    }
    wire_client_init(c);
}

static void
kick(struct wire_client *c)
{
    uint64_t  one = 1;

    c->num_kicks_sent++;
    (void) !write(c->kick_engine_fd, &one, sizeof one);
}

/* ---- requests ---------------------------------------------------------------- */
static struct wire_answer *
new_answer(struct wire_client *c)
{
    for (uint32_t slot = 0; slot < c->welcome.max_requests; slot++) {
        struct wire_answer  *a = &c->answers[slot];
        if (!a->used) {
            a->used = true;
            a->id = llm_req_id(slot, ++c->generations[slot]);
            buf_init(&a->body, BODY_BYTES_MAX);
            return a;
        }
    }
    return NULL;
}

static uint32_t
encode_meta(const struct wire_call *call, uint8_t *buf, uint32_t cap)
{
    uint32_t  len = 0;
    int       rc = LLM_OK;

    const struct { uint16_t tag; struct str value; }  texts[] = {
        { LLM_META_REQUEST_ID, call->request_id },
        { LLM_META_MODEL, call->model },
        { LLM_META_CACHE_SALT, call->cache_salt },
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct llm_bytes  v = { (const uint8_t *) texts[i].value.data,
                                (uint32_t) texts[i].value.len };
        if (v.len != 0) {
            rc |= llm_wire_encode_meta(buf, cap, &len, texts[i].tag, v);
        }
    }
    if (call->max_tokens != 0) {
        rc |= llm_wire_encode_meta_u32(buf, cap, &len, LLM_META_MAX_TOKENS,
                                       call->max_tokens);
    }
    check_eq(rc, LLM_OK);
    return len;
}

/* Room for len payload bytes, handling answers while waiting. */
static void *
reserve(struct wire_client *c, uint32_t len)
{
    int64_t  until_ns = clock_now_ns() + ROOM_MS * NS_PER_MS;
    void    *p;

    while ((p = llm_ring_sq_reserve(&c->sq, len)) == NULL) {
        if (clock_now_ns() > until_ns) {
            return NULL;
        }
        if (llm_ring_sq_publish(&c->sq)) {
            kick(c);
        }
        if (llm_ring_sq_wait(&c->sq) && wire_client_turn(c, 50, NULL) == ERROR) {
            return NULL;
        }
        llm_ring_sq_unwait(&c->sq);
    }
    return p;
}

/* Bytes [from, from + len) of meta followed by body. */
static void
copy_part(uint8_t *to, struct str meta, struct str body, uint64_t from,
          uint32_t len)
{
    for (uint32_t i = 0; i < len; ) {
        struct str  part = from < meta.len ? meta : body;
        uint64_t    off = from < meta.len ? from : from - meta.len;
        uint64_t    n = part.len - off < len - i ? part.len - off : len - i;
        memcpy(to + i, part.data + off, n);
        i += (uint32_t) n;
        from += n;
    }
}

uint64_t
wire_client_submit(struct wire_client *c, const struct wire_call *call)
{
    uint8_t              meta[LLM_META_BYTES_MAX];
    uint32_t             meta_len = encode_meta(call, meta, sizeof meta);
    uint32_t             chunk = llm_ring_sq_chunk_max(&c->sq);
    uint64_t             total = meta_len + call->body.len, sent = 0;
    struct wire_answer  *a = new_answer(c);

    if (a == NULL) {
        return 0;
    }
    if (call->chunk_bytes != 0 && call->chunk_bytes < chunk) {
        chunk = call->chunk_bytes;
    }
    do {
        uint32_t        n = total - sent < chunk ? (uint32_t) (total - sent)
                                                 : chunk;
        struct llm_sqe  d = { .op = sent == 0 ? LLM_OP_SUBMIT : LLM_OP_CHUNK,
                              .req_id = a->id, .len = n };
        void           *p = reserve(c, n == 0 ? 1 : n);
        if (p == NULL) {
            return 0;
        }
        copy_part(p, (struct str) { (char *) meta, meta_len }, call->body, sent,
                  n);
        if (sent == 0) {
            d.route = (uint16_t) call->route;
            d.flags = call->flags;
            d.meta_bytes = meta_len;
            d.total_bytes = total;
            d.priority = call->priority;
            d.deadline_ns = call->deadline_ns;
            d.arrival_ns = call->arrival_ns != 0 ? call->arrival_ns
                                                 : clock_now_ns();
        }
        sent += n;
        d.flags = (uint8_t) (d.flags | (sent < total ? LLM_SQE_MORE : 0));
        if (llm_ring_sq_push(&c->sq, &d) != LLM_OK) {
            return 0;
        }
    } while (sent < total);
    if (llm_ring_sq_publish(&c->sq)) {
        kick(c);
    }
    return a->id;
}

int
wire_client_control(struct wire_client *c, enum llm_op op, uint64_t id,
                    uint64_t value)
{
    struct llm_sqe  d = { .op = (uint8_t) op, .req_id = id, .value = value };

    if (reserve(c, 1) == NULL || llm_ring_sq_push(&c->sq, &d) != LLM_OK) {
        return ERROR;
    }
    if (llm_ring_sq_publish(&c->sq)) {
        kick(c);
    }
    return OK;
}

/* ---- answers ------------------------------------------------------------------- */
struct wire_answer *
wire_client_find(struct wire_client *c, uint64_t id)
{
    uint32_t  slot = llm_req_slot(id);

    if (slot >= c->welcome.max_requests || !c->answers[slot].used
        || c->answers[slot].id != id)
    {
        return NULL;
    }
    return &c->answers[slot];
}

void
wire_client_free(struct wire_client *c, struct wire_answer *a)
{
    (void) c;
    buf_destroy(&a->body);
    memset(a, 0, sizeof *a);
}

static int
on_record(struct wire_client *c, const struct llm_ring_record *rec)
{
    struct wire_answer  *a = wire_client_find(c, rec->req_id);

    c->num_records++;
    if (a == NULL || a->has_end) {
        c->num_unknown++;
        return OK;
    }
    switch (rec->type) {
    case LLM_RECORD_HEAD:
        a->num_heads++;
        a->has_head = true;
        return llm_wire_decode_head(&a->head, rec->data, rec->len, &c->error);
    case LLM_RECORD_PROMPT:
        a->has_prompt = true;
        return llm_wire_decode_prompt(&a->prompt, rec->data, rec->len, &c->error);
    case LLM_RECORD_DATA:
        a->num_data++;
        buf_append(&a->body, rec->data, rec->len);
        return OK;
    default:
        a->num_ends++;
        a->has_end = true;
        return llm_wire_decode_end(&a->end, rec->data, rec->len, &c->error);
    }
}

/* Everything in the ring now. */
static int
drain_cq(struct wire_client *c)
{
    struct llm_ring_record  rec;
    int                     rc;

    while ((rc = llm_ring_cqc_next(&c->cq, &rec)) == LLM_OK) {
        if (on_record(c, &rec) != LLM_OK) {
            return ERROR;
        }
        llm_ring_cqc_pop(&c->cq);
    }
    if (rc == LLM_ERROR) {
        c->error = c->cq.error;
        return ERROR;
    }
    if (llm_ring_cqc_release(&c->cq)) {
        kick(c);
    }
    return OK;
}

int
wire_client_turn(struct wire_client *c, int timeout_ms, const bool *done)
{
    int64_t   until_ns = clock_now_ns() + timeout_ms * NS_PER_MS;
    uint64_t  num_before = c->num_records;

    for ( ;; ) {
        struct pollfd  p[2] = { { c->kick_worker_fd, POLLIN, 0 },
                                { c->fd, POLLIN, 0 } };
        int64_t        left_ns;
        uint64_t       count;

        llm_ring_cqc_awake(&c->cq);
        if (c->error != NULL || drain_cq(c) != OK) {
            return ERROR;
        }
        if (done != NULL && *done) {
            return OK;
        }
        if (done == NULL && c->num_records != num_before) {
            return AGAIN;
        }
        left_ns = until_ns - clock_now_ns();
        if (left_ns <= 0) {
            return AGAIN;
        }
        if (c->closed) {
            return ERROR;
        }
        if (!llm_ring_cqc_sleep(&c->cq)) {
            continue;
        }
        (void) poll(p, 2, (int) (left_ns / NS_PER_MS) + 1);
        if (p[0].revents != 0) {
            c->num_wakeups++;
            (void) !read(c->kick_worker_fd, &count, sizeof count);
        }
        /* What was published before the end still counts: one more round. */
        c->closed = p[1].revents != 0;
        if (done == NULL && p[0].revents != 0) {
            num_before--;             /* a kick for room is news as well */
        }
    }
}

int
wire_client_wait(struct wire_client *c, uint64_t id, int timeout_ms,
                 struct wire_answer **out)
{
    struct wire_answer  *a = wire_client_find(c, id);

    *out = a;
    return a == NULL ? ERROR : wire_client_turn(c, timeout_ms, &a->has_end);
}
