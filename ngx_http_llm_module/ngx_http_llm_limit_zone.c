
/*
 * ngx_http_llm_limit_zone.c - a zone of token limits in shared memory: keys in
 * a tree and a queue, reservations in the lists of their owners.
 *
 * Nothing here blocks or calls out while a mutex is held, except for the
 * sweep, which asks /proc for processes that may be dead.
 */


#include "ngx_http_llm_limit.h"


#define NGX_HTTP_LLM_LIMIT_SWEEP   1000
#define NGX_HTTP_LLM_LIMIT_TRIES   64      /* nodes looked at to make room */
#define NGX_HTTP_LLM_LIMIT_EXCESS  (INT64_MAX / 4)


static void ngx_http_llm_limit_rbtree_insert_value(ngx_rbtree_node_t *temp,
    ngx_rbtree_node_t *node, ngx_rbtree_node_t *sentinel);
static void *ngx_http_llm_limit_alloc_locked(ngx_http_llm_limit_zone_t *zone,
    size_t size);
static ngx_uint_t ngx_http_llm_limit_expire_locked(
    ngx_http_llm_limit_zone_t *zone, ngx_uint_t force);
static ngx_http_llm_limit_owner_t *ngx_http_llm_limit_owner_locked(
    ngx_http_llm_limit_zone_t *zone);
static ngx_uint_t ngx_http_llm_limit_process_lives(
    ngx_http_llm_limit_owner_t *owner);
static uint64_t ngx_http_llm_limit_process_started(ngx_pid_t pid,
    ngx_uint_t *known);


ngx_int_t
ngx_http_llm_limit_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_http_llm_limit_zone_t *ozone = data;

    size_t                      len;
    ngx_http_llm_limit_zone_t  *zone;

    zone = shm_zone->data;

    if (ozone) {

        if (ozone->quota != zone->quota) {
            ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                          "zone \"%V\" cannot become a %s zone while nginx "
                          "runs", &shm_zone->shm.name,
                          zone->quota ? "quota" : "limit");
            return NGX_ERROR;
        }

        if (zone->key.value.len != ozone->key.value.len
            || ngx_strncmp(zone->key.value.data, ozone->key.value.data,
                           zone->key.value.len)
               != 0)
        {
            ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                          "zone \"%V\" uses the \"%V\" key while previously "
                          "it used the \"%V\" key", &shm_zone->shm.name,
                          &zone->key.value, &ozone->key.value);
            return NGX_ERROR;
        }

        if (ozone->sh->layout != NGX_HTTP_LLM_LIMIT_LAYOUT) {
            ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                          "zone \"%V\" was made by another version of the "
                          "module: restart nginx", &shm_zone->shm.name);
            return NGX_ERROR;
        }

        zone->sh = ozone->sh;
        zone->shpool = ozone->shpool;

        return NGX_OK;
    }

    zone->shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (shm_zone->shm.exists) {
        zone->sh = zone->shpool->data;
        return NGX_OK;
    }

    zone->sh = ngx_slab_calloc(zone->shpool,
                               sizeof(ngx_http_llm_limit_shctx_t));
    if (zone->sh == NULL) {
        return NGX_ERROR;
    }

    zone->shpool->data = zone->sh;

    zone->sh->layout = NGX_HTTP_LLM_LIMIT_LAYOUT;

    ngx_rbtree_init(&zone->sh->rbtree, &zone->sh->sentinel,
                    ngx_http_llm_limit_rbtree_insert_value);
    ngx_queue_init(&zone->sh->queue);
    ngx_queue_init(&zone->sh->owners);

    len = sizeof(" in llm zone \"\"") + shm_zone->shm.name.len;

    zone->shpool->log_ctx = ngx_slab_alloc(zone->shpool, len);
    if (zone->shpool->log_ctx == NULL) {
        return NGX_ERROR;
    }

    ngx_sprintf(zone->shpool->log_ctx, " in llm zone \"%V\"%Z",
                &shm_zone->shm.name);

    zone->shpool->log_nomem = 0;

    if (zone->state.len) {
        ngx_http_llm_quota_load(zone, shm_zone->shm.log);
    }

    return NGX_OK;
}


void
ngx_http_llm_limit_lock(ngx_http_llm_limit_zone_t *zone)
{
    ngx_shmtx_lock(&zone->shpool->mutex);
}


void
ngx_http_llm_limit_unlock(ngx_http_llm_limit_zone_t *zone)
{
    ngx_shmtx_unlock(&zone->shpool->mutex);
}


static void
ngx_http_llm_limit_rbtree_insert_value(ngx_rbtree_node_t *temp,
    ngx_rbtree_node_t *node, ngx_rbtree_node_t *sentinel)
{
    ngx_rbtree_node_t          **p;
    ngx_http_llm_limit_node_t   *lr, *lrt;

    for ( ;; ) {

        if (node->key < temp->key) {
            p = &temp->left;

        } else if (node->key > temp->key) {
            p = &temp->right;

        } else { /* node->key == temp->key */

            lr = (ngx_http_llm_limit_node_t *) &node->color;
            lrt = (ngx_http_llm_limit_node_t *) &temp->color;

            p = (ngx_memn2cmp(lr->data, lrt->data, lr->len, lrt->len) < 0)
                ? &temp->left : &temp->right;
        }

        if (*p == sentinel) {
            break;
        }

        temp = *p;
    }

    *p = node;
    node->parent = temp;
    node->left = sentinel;
    node->right = sentinel;
    ngx_rbt_red(node);
}


/*
 * The first node behind a key, in the order of the tree; NULL: there is none.
 * A walk through the zone goes on from here after the lock was given back.
 */

ngx_http_llm_limit_node_t *
ngx_http_llm_limit_after_locked(ngx_http_llm_limit_zone_t *zone,
    ngx_str_t *key, uint32_t hash)
{
    ngx_rbtree_node_t          *node, *sentinel;
    ngx_http_llm_limit_node_t  *ln, *found;

    node = zone->sh->rbtree.root;
    sentinel = zone->sh->rbtree.sentinel;
    found = NULL;

    while (node != sentinel) {
        ln = (ngx_http_llm_limit_node_t *) &node->color;

        if (key->len == 0
            || hash < node->key
            || (hash == node->key
                && ngx_memn2cmp(key->data, ln->data, key->len,
                                (size_t) ln->len)
                   < 0))
        {
            found = ln;
            node = node->left;

        } else {
            node = node->right;
        }
    }

    return found;
}


ngx_http_llm_limit_node_t *
ngx_http_llm_limit_find_locked(ngx_http_llm_limit_zone_t *zone,
    ngx_str_t *key, uint32_t hash)
{
    ngx_int_t                   rc;
    ngx_rbtree_node_t          *node, *sentinel;
    ngx_http_llm_limit_node_t  *ln;

    node = zone->sh->rbtree.root;
    sentinel = zone->sh->rbtree.sentinel;

    while (node != sentinel) {

        if (hash < node->key) {
            node = node->left;
            continue;
        }

        if (hash > node->key) {
            node = node->right;
            continue;
        }

        ln = (ngx_http_llm_limit_node_t *) &node->color;

        rc = ngx_memn2cmp(key->data, ln->data, key->len, (size_t) ln->len);

        if (rc == 0) {
            ngx_queue_remove(&ln->queue);
            ngx_queue_insert_head(&zone->sh->queue, &ln->queue);

            return ln;
        }

        node = (rc < 0) ? node->left : node->right;
    }

    return NULL;
}


/* NULL: the zone is full of keys that must not be forgotten */

ngx_http_llm_limit_node_t *
ngx_http_llm_limit_get_locked(ngx_http_llm_limit_zone_t *zone, ngx_str_t *key,
    uint32_t hash)
{
    size_t                      size;
    ngx_rbtree_node_t          *node;
    ngx_http_llm_limit_node_t  *ln;

    ln = ngx_http_llm_limit_find_locked(zone, key, hash);
    if (ln) {
        return ln;
    }

    /* two of the oldest may go for each new one, as in limit_req */

    if (ngx_http_llm_limit_expire_locked(zone, 0)) {
        (void) ngx_http_llm_limit_expire_locked(zone, 0);
    }

    size = offsetof(ngx_rbtree_node_t, color)
           + offsetof(ngx_http_llm_limit_node_t, data)
           + key->len;

    node = ngx_http_llm_limit_alloc_locked(zone, size);
    if (node == NULL) {
        return NULL;
    }

    node->key = hash;

    ln = (ngx_http_llm_limit_node_t *) &node->color;

    ln->dummy = 0;
    ln->len = (u_short) key->len;
    ln->nrecords = 0;

    if (zone->quota) {
        ln->start = ngx_http_llm_quota_start(zone, ngx_time());
        ln->used = 0;
        ln->reserved = 0;
        ln->saved = 0;
        ln->printed = 0;
        ln->seq = 0;

    } else {
        ln->last = ngx_current_msec;
        ln->excess = 0;
    }

    ngx_memcpy(ln->data, key->data, key->len);

    /* the address of a function in a module may change with a reload */

    zone->sh->rbtree.insert = ngx_http_llm_limit_rbtree_insert_value;

    ngx_rbtree_insert(&zone->sh->rbtree, node);
    ngx_queue_insert_head(&zone->sh->queue, &ln->queue);

    return ln;
}


static void *
ngx_http_llm_limit_alloc_locked(ngx_http_llm_limit_zone_t *zone, size_t size)
{
    void  *p;

    for ( ;; ) {
        p = ngx_slab_alloc_locked(zone->shpool, size);

        if (p || !ngx_http_llm_limit_expire_locked(zone, 1)) {
            return p;
        }
    }
}


/*
 * Removes the node that was used the longest ago, if it says nothing that a
 * new one would not.  By force a bucket goes even if it has not leaked empty;
 * a quota never: a flood of new keys must not give the others a fresh one.
 */

static ngx_uint_t
ngx_http_llm_limit_expire_locked(ngx_http_llm_limit_zone_t *zone,
    ngx_uint_t force)
{
    ngx_queue_t                *q;
    ngx_uint_t                  tries;
    ngx_rbtree_node_t          *node;
    ngx_http_llm_limit_node_t  *ln;

    tries = force ? NGX_HTTP_LLM_LIMIT_TRIES : 1;

    for (q = ngx_queue_last(&zone->sh->queue);
         q != ngx_queue_sentinel(&zone->sh->queue) && tries;
         q = ngx_queue_prev(q), tries--)
    {
        ln = ngx_queue_data(q, ngx_http_llm_limit_node_t, queue);

        if (ln->nrecords) {
            continue;
        }

        ngx_http_llm_limit_update_locked(zone, ln);

        if (zone->quota ? ln->used != 0 : (ln->excess != 0 && !force)) {
            continue;
        }

        ngx_queue_remove(q);

        node = (ngx_rbtree_node_t *)
                   ((u_char *) ln - offsetof(ngx_rbtree_node_t, color));

        ngx_rbtree_delete(&zone->sh->rbtree, node);
        ngx_slab_free_locked(zone->shpool, node);

        return 1;
    }

    return 0;
}


/* leaks, or begins a new period */

void
ngx_http_llm_limit_update_locked(ngx_http_llm_limit_zone_t *zone,
    ngx_http_llm_limit_node_t *node)
{
    time_t          start, length;
    ngx_msec_int_t  ms;

    if (!zone->quota) {
        ms = (ngx_msec_int_t) (ngx_current_msec - node->last);

        /* each worker has a clock of its own, a little behind another's */

        if (ms < 0) {
            if (ms < -60000) {
                node->last = ngx_current_msec;
            }

            return;
        }

        node->excess = (ms > node->excess / zone->leak)
                       ? 0 : node->excess - ms * zone->leak;
        node->last = ngx_current_msec;

        return;
    }

    start = ngx_http_llm_quota_start(zone, ngx_time());
    length = ngx_http_llm_quota_next(zone, start) - start;

    /* a clock that steps back over a boundary is no new period */

    if (start > node->start || node->start - start > length) {
        node->start = start;
        node->used = 0;
        node->reserved = 0;
        node->saved = 0;
        node->seq = 0;
    }
}


/* node: NULL for a key that is not known, all of whose tokens are there */

void
ngx_http_llm_limit_view_locked(ngx_http_llm_limit_zone_t *zone,
    ngx_http_llm_limit_node_t *node, int64_t capacity, int64_t cost,
    ngx_http_llm_limit_view_t *view)
{
    time_t   start;
    int64_t  over;

    ngx_memzero(view, sizeof(ngx_http_llm_limit_view_t));

    view->too_large = (cost > capacity && capacity > 0);

    if (!zone->quota) {
        over = node ? node->excess : 0;

        view->used = (over + NGX_HTTP_LLM_LIMIT_PARTS - 1)
                     / NGX_HTTP_LLM_LIMIT_PARTS;
        view->reset = (ngx_msec_t) ((over + zone->leak - 1) / zone->leak);

        over += (cost - capacity) * NGX_HTTP_LLM_LIMIT_PARTS;

        view->fits = (over <= 0);
        view->wait = view->fits ? 0 : (ngx_msec_t)
                                      ((over + zone->leak - 1) / zone->leak);

    } else {
        start = node ? node->start
                     : ngx_http_llm_quota_start(zone, ngx_time());

        view->used = node ? node->used + node->reserved : 0;
        view->reset = (ngx_msec_t) (ngx_http_llm_quota_next(zone, start)
                                    - ngx_time()) * 1000;
        view->fits = (view->used + cost <= capacity);
        view->wait = view->fits ? 0 : view->reset;
    }

    view->remaining = ngx_max(capacity - view->used, 0);
}


/* of this process, in the list of its own; charges nothing yet */

ngx_http_llm_limit_record_t *
ngx_http_llm_limit_record_alloc_locked(ngx_http_llm_limit_zone_t *zone,
    ngx_http_llm_limit_node_t *node)
{
    ngx_http_llm_limit_owner_t   *owner;
    ngx_http_llm_limit_record_t  *rec;

    node->nrecords++;

    owner = ngx_http_llm_limit_owner_locked(zone);
    rec = NULL;

    if (owner) {
        rec = ngx_http_llm_limit_alloc_locked(zone,
                                        sizeof(ngx_http_llm_limit_record_t));
    }

    if (rec == NULL) {
        node->nrecords--;
        return NULL;
    }

    ngx_memzero(rec, sizeof(ngx_http_llm_limit_record_t));

    rec->node = node;
    ngx_queue_insert_tail(&owner->records, &rec->queue);

    return rec;
}


void
ngx_http_llm_limit_record_charge_locked(ngx_http_llm_limit_zone_t *zone,
    ngx_http_llm_limit_record_t *rec, int64_t cost)
{
    ngx_http_llm_limit_node_t  *node;

    node = rec->node;

    rec->amount = cost;

    if (zone->quota) {
        node->reserved += cost;
        rec->start = node->start;
        return;
    }

    node->excess += cost * NGX_HTTP_LLM_LIMIT_PARTS;

    rec->level = node->excess;
    rec->time = node->last;
}


/*
 * Replaces the reservation by what the request has cost, and frees the record.
 *
 * A bucket leaks the oldest first, so what is left of a reservation is what
 * has not leaked of the level it once reached.  Only that is given back: the
 * rest has been promised to others in the meantime.
 */

void
ngx_http_llm_limit_record_settle_locked(ngx_http_llm_limit_zone_t *zone,
    ngx_http_llm_limit_record_t *rec, int64_t cost)
{
    int64_t                     back, left, leaked;
    ngx_msec_int_t              ms;
    ngx_http_llm_limit_node_t  *node;

    node = rec->node;

    ngx_http_llm_limit_update_locked(zone, node);

    if (zone->quota) {

        /* what began in another period was that one's */

        if (rec->start == node->start) {
            node->reserved -= rec->amount;
            node->used += cost;
            zone->sh->dirty = 1;
        }

        ngx_http_llm_limit_record_free_locked(zone, rec);
        return;
    }

    if (cost >= rec->amount) {
        node->excess += ngx_min(cost - rec->amount,
                                NGX_HTTP_LLM_LIMIT_BURST)
                        * NGX_HTTP_LLM_LIMIT_PARTS;
        node->excess = ngx_min(node->excess, NGX_HTTP_LLM_LIMIT_EXCESS);

    } else {
        back = (rec->amount - cost) * NGX_HTTP_LLM_LIMIT_PARTS;

        ms = (ngx_msec_int_t) (node->last - rec->time);
        ms = ngx_max(ms, 0);

        leaked = (ms > rec->level / zone->leak) ? rec->level
                                                : ms * zone->leak;
        left = rec->level - leaked;

        back = ngx_min(back, left);
        node->excess = ngx_max(node->excess - back, 0);
    }

    ngx_http_llm_limit_record_free_locked(zone, rec);
}


void
ngx_http_llm_limit_record_free_locked(ngx_http_llm_limit_zone_t *zone,
    ngx_http_llm_limit_record_t *rec)
{
    rec->node->nrecords--;

    ngx_queue_remove(&rec->queue);
    ngx_slab_free_locked(zone->shpool, rec);
}


int64_t
ngx_http_llm_limit_cost(ngx_uint_t type, int64_t prompt, int64_t completion)
{
    switch (type) {

    case NGX_HTTP_LLM_LIMIT_PROMPT:
        return prompt;

    case NGX_HTTP_LLM_LIMIT_COMPLETION:
        return completion;

    default: /* NGX_HTTP_LLM_LIMIT_TOTAL */
        return prompt + completion;
    }
}


static ngx_http_llm_limit_owner_t *
ngx_http_llm_limit_owner_locked(ngx_http_llm_limit_zone_t *zone)
{
    ngx_uint_t                   known;
    ngx_http_llm_limit_owner_t  *owner;

    /* without a master a reload makes a new zone of the same process */

    if (zone->owner && zone->owner->pid == ngx_pid) {
        return zone->owner;
    }

    owner = ngx_http_llm_limit_alloc_locked(zone,
                                          sizeof(ngx_http_llm_limit_owner_t));
    if (owner == NULL) {
        return NULL;
    }

    owner->pid = ngx_pid;
    owner->started = ngx_http_llm_limit_process_started(ngx_pid, &known);

    ngx_queue_init(&owner->records);
    ngx_queue_insert_tail(&zone->sh->owners, &owner->queue);

    zone->owner = owner;

    return owner;
}


/*
 * Settles what killed processes have left behind, at most once a second;
 * returns the number of reservations that are no more.
 */

ngx_uint_t
ngx_http_llm_limit_sweep_locked(ngx_http_llm_limit_zone_t *zone)
{
    ngx_uint_t                    n;
    ngx_queue_t                  *q, *next;
    ngx_http_llm_limit_owner_t   *owner;
    ngx_http_llm_limit_record_t  *rec;

    if (zone->sh->swept
        && (ngx_msec_t) (ngx_current_msec - zone->sh->swept)
           < NGX_HTTP_LLM_LIMIT_SWEEP)
    {
        return 0;
    }

    zone->sh->swept = ngx_current_msec;

    n = 0;

    for (q = ngx_queue_head(&zone->sh->owners);
         q != ngx_queue_sentinel(&zone->sh->owners);
         q = next)
    {
        next = ngx_queue_next(q);
        owner = ngx_queue_data(q, ngx_http_llm_limit_owner_t, queue);

        if (ngx_http_llm_limit_process_lives(owner)) {
            continue;
        }

        while (!ngx_queue_empty(&owner->records)) {
            rec = ngx_queue_data(ngx_queue_head(&owner->records),
                                 ngx_http_llm_limit_record_t, queue);

            ngx_http_llm_limit_record_settle_locked(zone, rec, rec->lost);
            n++;
        }

        ngx_queue_remove(q);
        ngx_slab_free_locked(zone->shpool, owner);
    }

    return n;
}


/* this process has settled everything and goes */

void
ngx_http_llm_limit_leave_locked(ngx_http_llm_limit_zone_t *zone)
{
    if (zone->owner && ngx_queue_empty(&zone->owner->records)) {
        ngx_queue_remove(&zone->owner->queue);
        ngx_slab_free_locked(zone->shpool, zone->owner);
        zone->owner = NULL;
    }
}


static ngx_uint_t
ngx_http_llm_limit_process_lives(ngx_http_llm_limit_owner_t *owner)
{
    uint64_t    started;
    ngx_uint_t  known;

    if (owner->pid == ngx_pid) {
        return 1;
    }

    if (kill(owner->pid, 0) == -1 && ngx_errno == NGX_ESRCH) {
        return 0;
    }

    /* a zombie, or another process of the same number */

    started = ngx_http_llm_limit_process_started(owner->pid, &known);

    return !known || (started != 0 && started == owner->started)
           || owner->started == 0;
}


/* in clock ticks since boot; 0: it is dead; not known: /proc does not say */

static uint64_t
ngx_http_llm_limit_process_started(ngx_pid_t pid, ngx_uint_t *known)
{
    u_char      buf[1024], *p, *last;
    ssize_t     n;
    ngx_fd_t    fd;
    uint64_t    value;
    ngx_uint_t  field;

    *known = 0;

    (void) ngx_snprintf(buf, sizeof(buf), "/proc/%P/stat%Z", pid);

    fd = open((const char *) buf, O_RDONLY|O_CLOEXEC);
    if (fd == -1) {
        return 0;
    }

    n = read(fd, buf, sizeof(buf) - 1);
    (void) close(fd);

    if (n <= 0) {
        return 0;
    }

    last = buf + n;
    *last = '\0';

    /* the name may hold anything; after the last ")" come state, ppid ... */

    p = (u_char *) strrchr((char *) buf, ')');
    if (p == NULL || last - p < 4) {
        return 0;
    }

    *known = 1;
    p += 2;

    if (*p == 'Z' || *p == 'X') {
        return 0;
    }

    for (field = 3; field < 22 && p < last; p++) {
        if (*p == ' ') {
            field++;
        }
    }

    for (value = 0; p < last && *p >= '0' && *p <= '9'; p++) {
        value = value * 10 + (*p - '0');
    }

    return value;
}
