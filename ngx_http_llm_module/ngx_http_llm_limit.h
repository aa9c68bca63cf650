
/*
 * ngx_http_llm_limit.h - what the files of the token limits share.
 *
 *     _limit.c       a request: its keys, reserve, settle, refuse, headers
 *     _limit_zone.c  a zone in shared memory: keys, reservations, owners
 *     _limit_conf.c  llm_limit_*, llm_quota_*
 *     _quota.c       periods, and the state file of a quota zone
 *
 * A zone is one of two kinds.  In a limit zone each key has a bucket that
 * fills up with what is charged and leaks at the zone's rate; in a quota zone
 * it has a counter that begins again with each period.
 *
 * What a request may cost is charged before it runs (a reservation), and when
 * it has ended the difference is given back or charged too.  A reservation is
 * a record in the zone, in the list of the process that owns it: when that
 * process was killed, any other settles what it has left (sweep).  A node with
 * records is never evicted.
 *
 * A bucket counts in parts of a token, so that "t/s", "t/m" and "t/h" all leak
 * whole parts a millisecond.  A reservation leaks like everything else; what
 * of it has leaked by the time it is settled is not given back (see
 * ngx_http_llm_limit_record_settle()), so a bucket never promises the same
 * tokens twice.
 */


#ifndef _NGX_HTTP_LLM_LIMIT_H_INCLUDED_
#define _NGX_HTTP_LLM_LIMIT_H_INCLUDED_


#include "ngx_http_llm.h"


#define NGX_HTTP_LLM_LIMIT_PARTS    3600000     /* of a token: ms of an hour */
#define NGX_HTTP_LLM_LIMIT_RATE     1000000000  /* tokens, largest rate */
#define NGX_HTTP_LLM_LIMIT_BURST    1000000000000
#define NGX_HTTP_LLM_LIMIT_KEY      255         /* longer ones are hashed */
#define NGX_HTTP_LLM_LIMIT_LAYOUT   2           /* of what lies in the zone */

#define NGX_HTTP_LLM_LIMIT_TOTAL       0
#define NGX_HTTP_LLM_LIMIT_PROMPT      1
#define NGX_HTTP_LLM_LIMIT_COMPLETION  2


/* a key; follows the rbtree node, its "color" is the tree's */

typedef struct {
    u_char                        color;
    u_char                        dummy;
    u_short                       len;
    uint32_t                      nrecords;
    ngx_queue_t                   queue;      /* last used first */

    union {
        struct {                              /* bucket */
            ngx_msec_t            last;
            int64_t               excess;     /* parts, at "last" */
        };

        struct {                              /* quota, tokens */
            time_t                start;      /* of the period counted */
            int64_t               used;
            int64_t               reserved;
            int64_t               saved;      /* what the state file says */
            int64_t               printed;    /* what the save "seq" says */
            ngx_uint_t            seq;
        };
    };

    u_char                        data[1];
} ngx_http_llm_limit_node_t;


/* a process that has reservations here */

typedef struct {
    ngx_queue_t                   queue;
    ngx_queue_t                   records;
    ngx_pid_t                     pid;
    uint64_t                      started;    /* of /proc/PID/stat, 0: ? */
} ngx_http_llm_limit_owner_t;


typedef struct {
    ngx_queue_t                   queue;
    ngx_http_llm_limit_node_t    *node;
    int64_t                       amount;     /* tokens */
    int64_t                       lost;       /* tokens to be charged if the
                                                 owner dies; its own word */
    int64_t                       level;      /* bucket: parts, with it ... */
    ngx_msec_t                    time;       /* ... at this moment */
    time_t                        start;      /* quota */
} ngx_http_llm_limit_record_t;


typedef struct {
    ngx_uint_t                    layout;
    ngx_rbtree_t                  rbtree;
    ngx_rbtree_node_t             sentinel;
    ngx_queue_t                   queue;      /* of nodes */
    ngx_queue_t                   owners;
    ngx_msec_t                    swept;
    ngx_uint_t                    dirty;      /* not in the state file yet */
    ngx_uint_t                    seq;        /* of the last save begun */
    ngx_uint_t                    committed;  /* of the one in the file */
    uint64_t                      file_ino;   /* the file as we wrote it */
    uint64_t                      file_mtime;
} ngx_http_llm_limit_shctx_t;


/* a save under way: some keys at a time, see _quota.c */

typedef struct {
    ngx_fd_t                      lock;
    ngx_fd_t                      fd;
    time_t                        start;
    ngx_uint_t                    seq;
    uint32_t                      crc;
    u_char                       *buf;
    size_t                        key_len;
    u_char                        key[NGX_HTTP_LLM_LIMIT_KEY];
} ngx_http_llm_quota_save_t;


typedef struct {
    ngx_http_llm_limit_shctx_t   *sh;
    ngx_slab_pool_t              *shpool;
    ngx_shm_zone_t               *shm_zone;
    ngx_http_complex_value_t      key;
    ngx_uint_t                    quota;      /* 1: quota, 0: bucket */

    /* bucket */
    int64_t                       rate;       /* tokens a unit */
    int64_t                       leak;       /* parts a millisecond */
    const char                   *unit;       /* "second" ... */

    /* quota */
    time_t                        period;     /* seconds; 0: months */
    ngx_uint_t                    months;
    ngx_uint_t                    week;       /* begins on Monday */
    ngx_str_t                     period_text;
    ngx_str_t                     state;      /* file; ends with NUL */
    ngx_msec_t                    save;
    ngx_core_conf_t              *ccf;        /* whose the directory is */
    ngx_event_t                   timer;
    ngx_http_llm_quota_save_t    *saving;

    ngx_http_llm_limit_owner_t   *owner;      /* this process */
} ngx_http_llm_limit_zone_t;


/* one llm_limit or llm_quota of a location */

struct ngx_http_llm_limit_s {
    ngx_shm_zone_t               *shm_zone;
    ngx_uint_t                    type;
    int64_t                       burst;      /* 0: the rate's tokens */
    ngx_http_complex_value_t     *value;      /* of a quota */
    ngx_uint_t                    status;     /* of a quota */
    u_char                       *file;
    ngx_uint_t                    line;
};


/* the same for one request, with its key */

struct ngx_http_llm_limit_use_s {
    ngx_http_llm_limit_t         *limit;
    ngx_http_llm_limit_zone_t    *zone;
    ngx_str_t                     key;
    uint32_t                      hash;
    int64_t                       capacity;   /* tokens */

    /* while the zones are locked */
    ngx_http_llm_limit_node_t    *node;
    ngx_http_llm_limit_record_t  *record;
    int64_t                       cost;       /* tokens */
};


/* what became of a use */

typedef struct {
    int64_t                       used;       /* tokens, with reservations */
    int64_t                       remaining;
    ngx_msec_t                    reset;      /* until all is there again */
    ngx_msec_t                    wait;       /* until "cost" fits */
    unsigned                      fits:1;
    unsigned                      too_large:1;
} ngx_http_llm_limit_view_t;


/* _limit_zone.c; "locked": the caller holds the zone's mutex */

ngx_int_t ngx_http_llm_limit_init_zone(ngx_shm_zone_t *shm_zone, void *data);
void ngx_http_llm_limit_lock(ngx_http_llm_limit_zone_t *zone);
void ngx_http_llm_limit_unlock(ngx_http_llm_limit_zone_t *zone);
ngx_http_llm_limit_node_t *ngx_http_llm_limit_find_locked(
    ngx_http_llm_limit_zone_t *zone, ngx_str_t *key, uint32_t hash);
ngx_http_llm_limit_node_t *ngx_http_llm_limit_after_locked(
    ngx_http_llm_limit_zone_t *zone, ngx_str_t *key, uint32_t hash);
ngx_http_llm_limit_node_t *ngx_http_llm_limit_get_locked(
    ngx_http_llm_limit_zone_t *zone, ngx_str_t *key, uint32_t hash);
void ngx_http_llm_limit_update_locked(ngx_http_llm_limit_zone_t *zone,
    ngx_http_llm_limit_node_t *node);
void ngx_http_llm_limit_view_locked(ngx_http_llm_limit_zone_t *zone,
    ngx_http_llm_limit_node_t *node, int64_t capacity, int64_t cost,
    ngx_http_llm_limit_view_t *view);
ngx_http_llm_limit_record_t *ngx_http_llm_limit_record_alloc_locked(
    ngx_http_llm_limit_zone_t *zone, ngx_http_llm_limit_node_t *node);
void ngx_http_llm_limit_record_charge_locked(ngx_http_llm_limit_zone_t *zone,
    ngx_http_llm_limit_record_t *rec, int64_t cost);
void ngx_http_llm_limit_record_settle_locked(ngx_http_llm_limit_zone_t *zone,
    ngx_http_llm_limit_record_t *rec, int64_t cost);
void ngx_http_llm_limit_record_free_locked(ngx_http_llm_limit_zone_t *zone,
    ngx_http_llm_limit_record_t *rec);
ngx_uint_t ngx_http_llm_limit_sweep_locked(ngx_http_llm_limit_zone_t *zone);
void ngx_http_llm_limit_leave_locked(ngx_http_llm_limit_zone_t *zone);
int64_t ngx_http_llm_limit_cost(ngx_uint_t type, int64_t prompt,
    int64_t completion);

/* _quota.c */

time_t ngx_http_llm_quota_start(ngx_http_llm_limit_zone_t *zone, time_t now);
time_t ngx_http_llm_quota_next(ngx_http_llm_limit_zone_t *zone, time_t start);
void ngx_http_llm_quota_load(ngx_http_llm_limit_zone_t *zone, ngx_log_t *log);
void ngx_http_llm_quota_init_process(ngx_http_llm_limit_zone_t *zone,
    ngx_cycle_t *cycle);
void ngx_http_llm_quota_exit(ngx_http_llm_limit_zone_t *zone, ngx_log_t *log);


#endif /* _NGX_HTTP_LLM_LIMIT_H_INCLUDED_ */
