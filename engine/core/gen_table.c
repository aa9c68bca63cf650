/* gen_table.c - slots, a hash index by gen_id, two intrusive lists.
 *
 * The index is open addressing with linear probing, at most half full, and
 * deletes by shifting back, so it needs no tombstones and no allocation. */
#include "engine/core/gen_table.h"
#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/hash.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct slot_list {
    struct gen_slot *first, *last;
};

struct gen_table {
    pthread_mutex_t    lock;
    pthread_cond_t     changed;       /* the step thread sleeps on it */
    pthread_cond_t     readied;       /* the output thread */
    struct gen_slot   *slots;         /* [max_slots] */
    struct gen_slot  **free_slots;    /* [max_slots], a stack */
    int32_t            max_slots, num_free;
    int32_t            num_new;
    struct gen_slot  **index;         /* [index_size] */
    size_t             index_size;    /* a power of two, >= 2 * max_slots */
    struct slot_list   changes, ready;
    bool               stopping, ended;
};

int
gen_table_create(struct gen_table **out, int32_t max_slots, struct err *err)
{
    struct gen_table    *t = calloc(1, sizeof *t);
    pthread_condattr_t   attr;

    *out = NULL;
    if (t == NULL) {
        return err_set(err, "request table: out of memory");
    }
    (void) pthread_mutex_init(&t->lock, NULL);
    (void) pthread_condattr_init(&attr);
    (void) pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void) pthread_cond_init(&t->changed, &attr);
    (void) pthread_cond_init(&t->readied, &attr);
    (void) pthread_condattr_destroy(&attr);
    t->max_slots = max_slots;
    t->index_size = 2;
    while (t->index_size < 2 * (size_t) max_slots) {
        t->index_size *= 2;
    }
    t->slots = calloc((size_t) max_slots, sizeof *t->slots);
    t->free_slots = calloc((size_t) max_slots, sizeof *t->free_slots);
    t->index = calloc(t->index_size, sizeof *t->index);
    if (t->slots == NULL || t->free_slots == NULL || t->index == NULL) {
        gen_table_destroy(t);
        return err_set(err, "request table: out of memory for %d requests",
                       max_slots);
    }
    for (int32_t i = max_slots - 1; i >= 0; i--) {
        t->free_slots[t->num_free++] = &t->slots[i];
    }
    *out = t;
    return OK;
}

void
gen_table_destroy(struct gen_table *t)
{
    if (t == NULL) {
        return;
    }
    (void) pthread_cond_destroy(&t->changed);
    (void) pthread_cond_destroy(&t->readied);
    (void) pthread_mutex_destroy(&t->lock);
    free(t->slots);
    free(t->free_slots);
    free(t->index);
    free(t);
}

static void
table_lock(struct gen_table *t)
{
    (void) pthread_mutex_lock(&t->lock);
}

static void
table_unlock(struct gen_table *t)
{
    (void) pthread_mutex_unlock(&t->lock);
}

/* Waits under the lock; false when the time is over. */
static bool
table_sleep(struct gen_table *t, pthread_cond_t *cond, int64_t until_ns)
{
    struct timespec  until = {
        (time_t) (until_ns / NS_PER_S), (long) (until_ns % NS_PER_S)
    };

    if (until_ns < 0) {
        return pthread_cond_wait(cond, &t->lock) == 0;
    }
    return pthread_cond_timedwait(cond, &t->lock, &until) == 0;
}

static int64_t
sleep_until_ns(int64_t timeout_ns)
{
    return timeout_ns < 0 ? -1 : clock_now_ns() + timeout_ns;
}

/* ---- index by gen_id ---- */

static size_t
index_home(const struct gen_table *t, uint64_t gen_id)
{
    return (size_t) hash_mix64(gen_id) & (t->index_size - 1);
}

/* Where gen_id is, or where it would go. */
static size_t
index_find(const struct gen_table *t, uint64_t gen_id)
{
    size_t  i = index_home(t, gen_id);

    while (t->index[i] != NULL && t->index[i]->req.gen_id != gen_id) {
        i = (i + 1) & (t->index_size - 1);
    }
    return i;
}

static void
index_remove(struct gen_table *t, uint64_t gen_id)
{
    size_t  mask = t->index_size - 1;
    size_t  hole = index_find(t, gen_id);

    check(t->index[hole] != NULL);
    for (size_t i = (hole + 1) & mask; t->index[i] != NULL; i = (i + 1) & mask)
    {
        size_t  home = index_home(t, t->index[i]->req.gen_id);
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            t->index[hole] = t->index[i];
            hole = i;
        }
    }
    t->index[hole] = NULL;
}

/* ---- any thread ---- */

static void
table_change(struct gen_table *t, struct gen_slot *slot)
{
    if (slot->changed) {
        return;
    }
    slot->changed = true;
    slot->next_change = NULL;
    if (t->changes.first == NULL) {
        t->changes.first = slot;
    } else {
        t->changes.last->next_change = slot;
    }
    t->changes.last = slot;
}

static void
table_add(struct gen_table *t, const struct gen_request *request)
{
    size_t            i = index_find(t, request->gen_id);
    struct gen_slot  *slot = t->free_slots[--t->num_free];

    check(t->index[i] == NULL);              /* gen_id used twice */
    *slot = (struct gen_slot) {
        .req = *request, .stop_id = -1, .is_new = true
    };
    t->index[i] = slot;
    t->num_new++;
    table_change(t, slot);
}

int
gen_table_submit(struct gen_table *t, const struct gen_request *requests,
                 int num, struct err *err)
{
    int  rc = OK;

    table_lock(t);
    if (t->stopping) {
        rc = err_set_http(err, 503, "", "the engine is shutting down");
    } else if (num > t->num_free) {
        (void) err_set_http(err, 503, "", "%d of %d sequences are in use, %d "
                            "more do not fit; try again later",
                            t->max_slots - t->num_free, t->max_slots, num);
        rc = AGAIN;
    } else {
        for (int i = 0; i < num; i++) {
            table_add(t, &requests[i]);
        }
        (void) pthread_cond_signal(&t->changed);
    }
    table_unlock(t);
    return rc;
}

void
gen_table_cancel(struct gen_table *t, uint64_t gen_id,
                 enum finish_reason reason)
{
    table_lock(t);
    struct gen_slot  *slot = t->index[index_find(t, gen_id)];
    if (slot != NULL && slot->cancel == FINISH_NONE
        && slot->published_reason == FINISH_NONE)
    {
        slot->cancel = reason;
        table_change(t, slot);
        (void) pthread_cond_signal(&t->changed);
    }
    table_unlock(t);
}

void
gen_table_park(struct gen_table *t, uint64_t gen_id, bool parked)
{
    table_lock(t);
    struct gen_slot  *slot = t->index[index_find(t, gen_id)];
    if (slot != NULL && slot->parked != parked
        && slot->published_reason == FINISH_NONE)
    {
        slot->parked = parked;
        table_change(t, slot);
        (void) pthread_cond_signal(&t->changed);
    }
    table_unlock(t);
}

void
gen_table_stop(struct gen_table *t)
{
    table_lock(t);
    t->stopping = true;
    (void) pthread_cond_signal(&t->changed);
    table_unlock(t);
}

int32_t
gen_table_num_new(struct gen_table *t)
{
    table_lock(t);
    int32_t  num_new = t->num_new;
    table_unlock(t);
    return num_new;
}

/* ---- step thread ---- */

void
gen_table_wait(struct gen_table *t, int64_t timeout_ns)
{
    int64_t  until_ns = sleep_until_ns(timeout_ns);

    table_lock(t);
    while (t->changes.first == NULL && !t->stopping
           && table_sleep(t, &t->changed, until_ns))
    {
    }
    table_unlock(t);
}

int32_t
gen_table_take(struct gen_table *t, struct gen_change *changes, bool *stopping)
{
    int32_t  num = 0;

    table_lock(t);
    for (struct gen_slot *s = t->changes.first; s != NULL; s = s->next_change)
    {
        s->changed = false;
        /* Ended by itself since the mark was made: nothing to tell. */
        if (s->published_reason == FINISH_NONE) {
            changes[num++] = (struct gen_change) {
                s, s->is_new, s->parked, s->cancel
            };
        }
        s->is_new = false;
    }
    t->changes = (struct slot_list) { NULL, NULL };
    t->num_new = 0;
    *stopping = t->stopping;
    table_unlock(t);
    return num;
}

void
gen_table_publish(struct gen_table *t, struct gen_slot *const *slots,
                  int32_t num, int64_t now_ns)
{
    if (num == 0) {
        return;
    }
    table_lock(t);
    for (int32_t i = 0; i < num; i++) {
        struct gen_slot  *s = slots[i];
        s->num_published = s->num_output;
        s->published_reason = s->reason;
        s->published_ns = now_ns;
        if (s->ready) {
            continue;
        }
        s->ready = true;
        s->next_ready = NULL;
        if (t->ready.first == NULL) {
            t->ready.first = s;
        } else {
            t->ready.last->next_ready = s;
        }
        t->ready.last = s;
    }
    (void) pthread_cond_signal(&t->readied);
    table_unlock(t);
}

void
gen_table_end(struct gen_table *t)
{
    table_lock(t);
    t->ended = true;
    (void) pthread_cond_broadcast(&t->readied);
    table_unlock(t);
}

struct gen_slot *
gen_table_slot(struct gen_table *t, int32_t idx)
{
    return &t->slots[idx];
}

/* ---- output thread ---- */

/* The next event of a ready slot; false when it has none left. */
static bool
slot_event(struct gen_slot *s, struct gen_event *event)
{
    int32_t  num = s->num_published - s->num_popped;

    if (num == 0 && s->published_reason == FINISH_NONE) {
        return false;
    }
    *event = (struct gen_event) {
        .gen_id = s->req.gen_id, .user = s->req.user, .stop_id = -1,
        .scheduled_ns = s->scheduled_ns, .first_token_ns = s->first_token_ns,
        .now_ns = s->published_ns
    };
    if (num == 0) {
        event->type = GEN_FINISHED;
        event->reason = s->published_reason;
        event->stop_id = s->stop_id;
        return true;
    }
    event->type = GEN_TOKENS;
    while (event->num_tokens < num && event->num_tokens < GEN_EVENT_TOKENS_MAX)
    {
        event->token_ids[event->num_tokens++] =
            s->req.token_ids[s->req.num_prompt_tokens + s->num_popped++];
    }
    return true;
}

static void
table_unready(struct gen_table *t, struct gen_slot *slot)
{
    t->ready.first = slot->next_ready;
    slot->ready = false;
}

/* Its last event is popped.  A mark may still stand in the list of changes:
 * then the slot is taken out there, which is rare. */
static void
table_free(struct gen_table *t, struct gen_slot *slot)
{
    index_remove(t, slot->req.gen_id);
    if (slot->changed) {
        struct gen_slot  *before = NULL, *s = t->changes.first;
        while (s != slot) {
            before = s;
            s = s->next_change;
        }
        if (before == NULL) {
            t->changes.first = slot->next_change;
        } else {
            before->next_change = slot->next_change;
        }
        if (t->changes.last == slot) {
            t->changes.last = before;
        }
        slot->changed = false;
    }
    t->free_slots[t->num_free++] = slot;
}

int
gen_table_events(struct gen_table *t, struct gen_event *events, int max,
                 int64_t timeout_ns)
{
    int64_t  until_ns = sleep_until_ns(timeout_ns);
    int      num = 0;

    table_lock(t);
    while (t->ready.first == NULL && !t->ended && timeout_ns != 0
           && table_sleep(t, &t->readied, until_ns))
    {
    }
    while (num < max && t->ready.first != NULL) {
        struct gen_slot  *slot = t->ready.first;
        if (!slot_event(slot, &events[num])) {
            table_unready(t, slot);
        } else if (events[num++].type == GEN_FINISHED) {
            table_unready(t, slot);
            table_free(t, slot);
        }
    }
    if (num == 0 && t->ended) {
        num = ERROR;
    }
    table_unlock(t);
    return num;
}
