/* chan.c - a ring under a mutex. */
#include "engine/base/chan.h"
#include "engine/base/clock.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct chan {
    pthread_mutex_t  lock;
    pthread_cond_t   filled;
    size_t           elem_bytes, cap;
    size_t           head, len;     /* head: index of the oldest */
    bool             closed;
    unsigned char   *ring;          /* [cap][elem_bytes] */
};

int
chan_create(struct chan **out, size_t elem_bytes, size_t cap, struct err *err)
{
    struct chan         *c = calloc(1, sizeof *c);
    pthread_condattr_t   attr;

    *out = NULL;
    if (c == NULL || (c->ring = calloc(cap, elem_bytes)) == NULL) {
        free(c);
        return err_set(err, "channel of %zu x %zu bytes: out of memory", cap,
                       elem_bytes);
    }
    c->elem_bytes = elem_bytes;
    c->cap = cap;
    (void) pthread_mutex_init(&c->lock, NULL);
    (void) pthread_condattr_init(&attr);
    (void) pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void) pthread_cond_init(&c->filled, &attr);
    (void) pthread_condattr_destroy(&attr);
    *out = c;
    return OK;
}

void
chan_destroy(struct chan *c)
{
    if (c == NULL) {
        return;
    }
    (void) pthread_cond_destroy(&c->filled);
    (void) pthread_mutex_destroy(&c->lock);
    free(c->ring);
    free(c);
}

int
chan_push(struct chan *c, const void *elem)
{
    int  rc = OK;
    (void) pthread_mutex_lock(&c->lock);
    if (c->closed) {
        rc = ERROR;
    } else if (c->len == c->cap) {
        rc = AGAIN;
    } else {
        size_t  tail = (c->head + c->len) % c->cap;
        memcpy(c->ring + tail * c->elem_bytes, elem, c->elem_bytes);
        c->len++;
        (void) pthread_cond_signal(&c->filled);
    }
    (void) pthread_mutex_unlock(&c->lock);
    return rc;
}

/* Waits under the lock until an element, the close or the time-out. */
static void
chan_wait(struct chan *c, int64_t timeout_ns)
{
    struct timespec  until;

    if (timeout_ns == 0) {
        return;
    }
    if (timeout_ns > 0) {
        int64_t  t = clock_now_ns() + timeout_ns;
        until.tv_sec = (time_t) (t / NS_PER_S);
        until.tv_nsec = (long) (t % NS_PER_S);
    }
    while (c->len == 0 && !c->closed) {
        if (timeout_ns < 0) {
            (void) pthread_cond_wait(&c->filled, &c->lock);
        } else if (pthread_cond_timedwait(&c->filled, &c->lock, &until) != 0) {
            return;
        }
    }
}

int
chan_pop_many(struct chan *c, void *elems, int max, int64_t timeout_ns)
{
    unsigned char  *out = elems;
    int             n = 0;

    (void) pthread_mutex_lock(&c->lock);
    chan_wait(c, timeout_ns);
    while (n < max && c->len > 0) {
        memcpy(out + (size_t) n * c->elem_bytes,
               c->ring + c->head * c->elem_bytes, c->elem_bytes);
        c->head = (c->head + 1) % c->cap;
        c->len--;
        n++;
    }
    if (n == 0 && c->closed) {
        n = ERROR;
    }
    (void) pthread_mutex_unlock(&c->lock);
    return n;
}

int
chan_pop(struct chan *c, void *elem, int64_t timeout_ns)
{
    int  n = chan_pop_many(c, elem, 1, timeout_ns);
    return n == 1 ? OK : n == 0 ? AGAIN : ERROR;
}

void
chan_close(struct chan *c)
{
    (void) pthread_mutex_lock(&c->lock);
    c->closed = true;
    (void) pthread_cond_broadcast(&c->filled);
    (void) pthread_mutex_unlock(&c->lock);
}

size_t
chan_len(struct chan *c)
{
    (void) pthread_mutex_lock(&c->lock);
    size_t  n = c->len;
    (void) pthread_mutex_unlock(&c->lock);
    return n;
}
