/* chan.h - bounded queue of fixed-size elements between threads.
 *
 * Many producers, many consumers, first in first out; elements are copied.
 * A full channel refuses (AGAIN) instead of blocking: the caller turns that
 * into back-pressure.  chan_close() wakes every waiter; what is queued can
 * still be popped.  A mutex and a condition variable: requests and events
 * travel at thousands a second, and an idle engine must not spin. */
#ifndef LLM_BASE_CHAN_H
#define LLM_BASE_CHAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/base/err.h"

struct chan;

int chan_create(struct chan **out, size_t elem_bytes, size_t cap,
                struct err *err);
void chan_destroy(struct chan *c);              /* NULL is fine */

/* OK, AGAIN when full, ERROR when closed. */
int chan_push(struct chan *c, const void *elem);

/* OK with *elem filled; AGAIN when empty after timeout_ns (0: do not wait,
 * -1: wait until an element or the close); ERROR when closed and empty. */
int chan_pop(struct chan *c, void *elem, int64_t timeout_ns);

/* Pops up to max elements at once; waits like chan_pop() for the first.
 * Returns how many, 0 on time-out, ERROR when closed and empty. */
int chan_pop_many(struct chan *c, void *elems, int max, int64_t timeout_ns);

void chan_close(struct chan *c);
size_t chan_len(struct chan *c);

#endif
