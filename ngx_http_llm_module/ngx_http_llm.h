
/*
 * ngx_http_llm.h - what the files of ngx_http_llm_module share.
 *
 * The module moves bytes: a request body to the engine, response bytes back.
 * It knows no tokens, and of JSON only where a body says "model".  Who calls
 * whom:
 *
 *     _module.c     directives, life-cycle hooks
 *     _conf.c       configuration, managed block
 *     _process.c    owns managed engines: claim, attach, start, release
 *     _owner.c      what a master says to a supervisor
 *     _spawn.c      sockets, fork and exec of one supervisor
 *     _handler.c    checks a request, reads its body       -> _request.c
 *     _scan.c       "model" and prompt hash of a body       -> wire/
 *     _model.c      llm_model: names, aliases, fallbacks
 *     _list.c       /v1/models, and the 404 for other names
 *     _balance.c    which engine of a model, by their load
 *     _next.c       what has failed goes to another engine -> _request.c
 *     _request.c    slots, submission, cancel              -> wire/
 *     _record.c     what the engine says, in two passes    -> _output.c
 *     _channel.c    one session per worker and engine      -> _re*.c
 *     _pulse.c      is an engine alive, and what is said about it
 *     _handover.c   from an engine to the one that replaces it
 *     _output.c     records to the client, slow readers
 *     _client.c     a client that leaves: cancel, wait for END, let go
 *     _options.c    llm_max_tokens and others that go with SUBMIT
 *     _limit*.c     token limits, see _limit.h; _quota.c: their state files
 *     _error.c      JSON errors, ours and nginx's own (filters)
 *     _health.c     llm_health
 *     _probe.c      llm_health deep: asks an engine for one token
 *     _status*.c    llm_status: counters of all workers, see _status.h
 *     _variables.c  $llm_*
 *     _key.c        the API key of a request and its id
 *
 * Everything runs in nginx's one thread per process.
 */


#ifndef _NGX_HTTP_LLM_H_INCLUDED_
#define _NGX_HTTP_LLM_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>

#include "wire/llm_wire.h"
#include "wire/llm_ring.h"
#include "wire/llm_route.h"
#include "wire/llm_scan.h"


#define NGX_HTTP_LLM_RECORDS_PER_EVENT  256
#define NGX_HTTP_LLM_BUF_SIZE           1024
#define NGX_HTTP_LLM_BIG_BUF_SIZE       16384
#define NGX_HTTP_LLM_PENDING_MAX        (64 * 1024 * 1024)
#define NGX_HTTP_LLM_RETRY_MIN          250      /* ms, reconnect */
#define NGX_HTTP_LLM_RETRY_MAX          4000
#define NGX_HTTP_LLM_EXEC_TIMEOUT       2000     /* ms, init_module waits */
#define NGX_HTTP_LLM_OWNER_TIMEOUT      1000     /* ms, attach and release */
#define NGX_HTTP_LLM_END_TIMEOUT        1000     /* ms, from CANCEL to END */

/* of a socket: what is put behind the configured path, at most, and NUL */
#define NGX_HTTP_LLM_PATH_SUFFIX        sizeof(".01234567.owner")

#define NGX_HTTP_LLM_MODEL_ENGINES      64       /* engines of one llm_model */
#define NGX_HTTP_LLM_LIMITS_MAX         8        /* of one request */
#define NGX_HTTP_LLM_NO_SLOT            ((uint32_t) -1)
#define NGX_HTTP_LLM_KEY_ID_LEN         16       /* hex digits */

#define NGX_HTTP_LLM_HEALTH_OFF         0
#define NGX_HTTP_LLM_HEALTH_LIVE        1
#define NGX_HTTP_LLM_HEALTH_READY       2
#define NGX_HTTP_LLM_HEALTH_DEEP        3

#define NGX_HTTP_LLM_STATUS_OFF         0
#define NGX_HTTP_LLM_STATUS_ANY         1
#define NGX_HTTP_LLM_STATUS_PROMETHEUS  2
#define NGX_HTTP_LLM_STATUS_JSON        3
#define NGX_HTTP_LLM_STATUS_HTML        4

#define NGX_HTTP_LLM_STATUS_ZONE_MIN    (256 * 1024)

#define NGX_HTTP_LLM_PROBE_TEXT         32

/* an engine whose options have changed, at a reload */
#define NGX_HTTP_LLM_RELOAD_BESIDE      0
#define NGX_HTTP_LLM_RELOAD_REPLACE     1
#define NGX_HTTP_LLM_RELOAD_KEEP        2

#define NGX_HTTP_LLM_HANG_MIN           2000     /* ms */

#define NGX_HTTP_LLM_LEAST_CONN         0
#define NGX_HTTP_LLM_PREFIX_HASH        1
#define NGX_HTTP_LLM_ROUND_ROBIN        2

#define NGX_HTTP_LLM_PREFIX_MAX         (1024 * 1024)

#define NGX_HTTP_LLM_NEXT_ERROR         0x0002
#define NGX_HTTP_LLM_NEXT_TIMEOUT       0x0004
#define NGX_HTTP_LLM_NEXT_BUSY          0x0008
#define NGX_HTTP_LLM_NEXT_OFF           0x0010

#ifndef NGX_HTTP_LLM_ENGINE_PATH
#define NGX_HTTP_LLM_ENGINE_PATH  "/usr/lib/nginx-llm/nginx-llm-engine"
#endif


typedef struct ngx_http_llm_session_s  ngx_http_llm_session_t;
typedef struct ngx_http_llm_ctx_s      ngx_http_llm_ctx_t;
typedef struct ngx_http_llm_model_s    ngx_http_llm_model_t;

typedef struct ngx_http_llm_limit_s        ngx_http_llm_limit_t;
typedef struct ngx_http_llm_limit_use_s    ngx_http_llm_limit_use_t;
typedef struct ngx_http_llm_reservation_s  ngx_http_llm_reservation_t;


#define NGX_HTTP_LLM_LIMIT_EXPECT_MAX        ((ngx_uint_t) -2)

#define NGX_HTTP_LLM_LIMIT_PASSED            1
#define NGX_HTTP_LLM_LIMIT_REJECTED          2
#define NGX_HTTP_LLM_LIMIT_REJECTED_DRY_RUN  3


/* one llm_engine directive */

typedef struct {
    ngx_str_t                  name;
    ngx_str_t                  socket;       /* as configured, with NUL */
    ngx_str_t                  path;         /* where to connect, with NUL */
    ngx_str_t                  previous;     /* whom it takes over from */
    ngx_str_t                  binary;
    ngx_str_t                  user;
    ngx_array_t               *options;      /* of ngx_str_t, with NUL */
    ngx_array_t               *env;          /* of ngx_str_t, with NUL */
    ngx_msec_t                 grace;
    ngx_msec_t                 hang;
    ngx_uint_t                 reload;
    ngx_uint_t                 seen;         /* of nginx's own lines */
    ngx_uint_t                 line;
    u_char                    *file;
    ngx_uid_t                  uid;
    ngx_gid_t                  gid;
    u_char                     key[16];      /* set by init_module */
    ngx_http_llm_session_t    *session;      /* set by init_process */
    ngx_http_llm_model_t      *model;        /* this engine and no other */
    ngx_uint_t                 status;       /* place in the status zone */
    unsigned                   managed:1;
    unsigned                   has_options:1;
    unsigned                   drop:1;       /* change the user id */
    unsigned                   replace:1;    /* the one before ends first */
} ngx_http_llm_engine_t;


/* one llm_model directive, or an engine that llm_pass calls by its name */

struct ngx_http_llm_model_s {
    ngx_str_t                  name;
    ngx_str_t                  sent;         /* empty: the engine's default */
    ngx_array_t               *names;        /* ngx_str_t, of the engines */
    ngx_array_t               *aliases;      /* ngx_str_t */
    ngx_array_t               *others;       /* ngx_str_t, of the fallbacks */
    ngx_http_llm_engine_t    **engines;
    ngx_uint_t                 nengines;
    ngx_http_llm_model_t     **fallbacks;
    ngx_uint_t                 nfallbacks;
    ngx_uint_t                 turn;         /* of this process */
    ngx_uint_t                 line;
    u_char                    *file;
    unsigned                   is_engine:1;  /* "model" goes as it came */
};


typedef struct {
    ngx_array_t                engines;      /* ngx_http_llm_engine_t * */
    ngx_array_t                models;       /* ngx_http_llm_model_t * */
    ngx_http_llm_model_t      *default_model;
    time_t                     created;      /* shown in /v1/models */
    ngx_msec_t                 connect_timeout;
    ngx_msec_t                 engine_timeout;
    ngx_int_t                  queue;
    ngx_array_t                passes;       /* loc confs that name an engine */
    ngx_array_t                limit_zones;  /* ngx_http_llm_limit_zone_t * */
    ngx_str_t                  key_salt;
    ngx_shm_zone_t            *status;       /* NULL: no llm_status */
    size_t                     status_size;
    ngx_flag_t                 status_used;
    ngx_array_t               *status_zones; /* ngx_http_llm_status_zone_t */
} ngx_http_llm_main_conf_t;


typedef struct {
    ngx_http_llm_model_t      *model;        /* llm_pass NAME */
    ngx_http_llm_engine_t     *engine;       /* llm_health ready NAME */
    ngx_http_complex_value_t  *pass;         /* llm_pass $variable */
    ngx_str_t                  pass_name;
    ngx_uint_t                 route;        /* llm_endpoint, 0: by URI */
    ngx_uint_t                 health;
    ngx_str_t                  health_engine;
    ngx_msec_t                 health_interval;
    ngx_msec_t                 health_timeout;
    ngx_uint_t                 status;       /* NGX_HTTP_LLM_STATUS_* */
    ngx_msec_t                 read_timeout;
    ngx_msec_t                 send_timeout;
    size_t                     buffer_size;
    ngx_uint_t                 balance;
    ngx_uint_t                 next_engine;  /* NGX_HTTP_LLM_NEXT_* */
    ngx_uint_t                 next_tries;
    ngx_msec_t                 next_timeout;
    size_t                     prefix_bytes;
    ngx_flag_t                 read_body;
    ngx_flag_t                 ignore_client_abort;
    ngx_flag_t                 json_errors;
    ngx_http_complex_value_t  *retry_after;  /* NULL: a second */

    ngx_array_t               *limits;       /* ngx_http_llm_limit_t * */
    ngx_array_t               *quotas;       /* ngx_http_llm_limit_t * */
    ngx_array_t               *all_limits;   /* both, in order of zones */
    ngx_uint_t                 limit_expect;
    ngx_uint_t                 limit_status;
    ngx_uint_t                 limit_log_level;
    ngx_flag_t                 limit_dry_run;
    ngx_flag_t                 limit_headers;

    ngx_http_complex_value_t  *max_tokens;
    ngx_http_complex_value_t  *cache_salt;
    ngx_http_complex_value_t  *priority;
    ngx_msec_t                 deadline;

    ngx_uint_t                 line;         /* where an engine is named */
    u_char                    *file;
} ngx_http_llm_loc_conf_t;


/* an engine that has had the request, llm_next_engine */

typedef struct {
    ngx_http_llm_engine_t     *engine;
    ngx_http_llm_session_t    *session;
} ngx_http_llm_try_t;


/* a request in the engine has a slot; it is free again only after END */

typedef struct {
    ngx_http_llm_ctx_t        *ctx;          /* NULL: the client is gone */
    uint64_t                   generation;
    uint32_t                   next;         /* free slots */
    ngx_http_llm_reservation_t  *reservation;
    uint8_t                    cancel;       /* enum llm_finish, to be sent */
    uint8_t                    go;           /* value + 1, to be sent */
    unsigned                   asked:1;      /* PROMPT has come */
    unsigned                   busy:1;
    unsigned                   probe:1;      /* asked by _probe.c */
} ngx_http_llm_slot_t;


typedef enum {
    NGX_HTTP_LLM_DOWN = 0,
    NGX_HTTP_LLM_CONNECTING,
    NGX_HTTP_LLM_UP
} ngx_http_llm_session_state_e;


/* the session of this process with one engine; lives outside of any cycle */

struct ngx_http_llm_session_s {
    ngx_queue_t                    queue;        /* all sessions */
    ngx_str_t                      path;
    ngx_http_llm_session_state_e   state;
    ngx_log_t                      log;

    ngx_connection_t              *control;
    ngx_connection_t              *kick;         /* the engine's eventfd */
    ngx_fd_t                       kick_engine;
    ngx_event_t                    timer;        /* handshake or reconnect */
    ngx_event_t                    pulse;        /* heartbeat check */
    ngx_event_t                    failure;      /* posted by a broken ring */
    ngx_event_t                    handover;
    ngx_msec_t                     retry;

    ngx_msec_t                     connect_timeout;
    ngx_msec_t                     engine_timeout;
    ngx_uint_t                     queue_max;

    struct llm_geometry            geometry;
    struct llm_region_w           *w;
    const struct llm_region_e     *e;
    uint64_t                      *marks;
    struct llm_ring_sq             sq;
    struct llm_ring_cqc            cq;
    uint64_t                       epoch;
    uint64_t                       body_max;
    ngx_int_t                      engine_pid;

    ngx_http_llm_slot_t           *slots;
    uint32_t                       nslots;
    uint32_t                       free_slot;
    uint64_t                       serial;       /* generations grow for ever */
    ngx_uint_t                     busy;         /* slots in use */
    int64_t                        beat;         /* heartbeat last seen, */
    ngx_int_t                      since;        /* and what is new since */

    ngx_queue_t                    waiting;      /* ctx: not yet (all) sent */
    ngx_uint_t                     nwaiting;
    ngx_uint_t                     ncancels;     /* slots with ->cancel */
    ngx_queue_t                    touched;      /* ctx: to be flushed */
    ngx_http_llm_session_t        *before;       /* serves until we can */
    ngx_http_llm_session_t        *after;        /* we serve until it can */
    ngx_http_llm_session_t        *newer;        /* as after, but kept */
    const char                    *why;
    u_char                         reason[LLM_WELCOME_TEXT_BYTES];
    u_char                         message[LLM_WELCOME_TEXT_BYTES + 32];
    ngx_err_t                      refused_err;  /* logged last */

    ngx_event_t                    probe_timer;
    ngx_msec_t                     probe_time;   /* of the last result */
    uint32_t                       probe_slot;
    uint16_t                       probe_status; /* HEAD's */
    char                           probe_text[NGX_HTTP_LLM_PROBE_TEXT];
    unsigned                       probing:1;    /* has probe_slot */
    unsigned                       probe_late:1; /* has not kept its time */
    unsigned                       probed:1;     /* there is a result */

    unsigned                       unpublished:1;
    unsigned                       removed:1;    /* dropped by a reload */
    unsigned                       suspect:1;    /* does not accept us */
    unsigned                       hung:1;
    unsigned                       refused_logged:1;
    unsigned                       goodbye:1;    /* was said */
};


typedef struct {
    ngx_uint_t                 status;
    ngx_uint_t                 retry_after;
    const char                *code;
    const char                *param;        /* NULL: null */
    const char                *type;         /* NULL: by the status */
    ngx_str_t                  message;
    ngx_str_t                  allow;
    ngx_str_t                  body;         /* the JSON document */
    unsigned                   no_retry:1;   /* X-Should-Retry: false */
} ngx_http_llm_error_t;


typedef struct {
    ngx_uint_t                 status;       /* 0: nothing is lost */
    const char                *code;
    const char                *message;
} ngx_http_llm_lost_t;


struct ngx_http_llm_ctx_s {
    ngx_http_request_t        *request;
    ngx_http_llm_session_t    *session;
    ngx_http_llm_engine_t     *engine;
    ngx_http_llm_model_t      *model;            /* whose engine it is */
    uint32_t                   slot;
    uint64_t                   req_id;
    ngx_uint_t                 route;
    ngx_str_t                  request_id;
    ngx_str_t                  model_id;         /* of /v1/models/{id} */

    /* routing */
    ngx_str_t                  asked;            /* the body's "model" */
    uint64_t                   prefix_hash;      /* 0: none */
    ngx_http_llm_model_t      *first_model;
    ngx_http_llm_try_t        *tried;            /* [ntried], then engine */
    ngx_uint_t                 ntried;
    ngx_msec_t                 first_try;

    ngx_queue_t                waiting;
    ngx_queue_t                touched;
    ngx_event_t                timer;            /* llm_read_timeout */

    /* submission */
    ngx_chain_t               *in;               /* what is left of the body */
    off_t                      in_off;           /* bytes taken of in->buf */
    off_t                      body_size;
    off_t                      body_sent;
    int64_t                    arrival;          /* ns */
    int64_t                    deadline;         /* ns, 0: none */
    uint32_t                   max_tokens;       /* 0: no cap */
    int32_t                    priority;
    ngx_str_t                  cache_salt;

    /* limits */
    ngx_http_llm_limit_use_t  *limits;
    ngx_uint_t                 nlimits;
    struct llm_prompt          prompt;
    ngx_uint_t                 limit_status;     /* 0: not limited */
    int64_t                    reserved_tokens;
    int64_t                    limit_tokens;     /* of the tightest limit */
    int64_t                    limit_remaining;
    ngx_msec_t                 limit_reset;
    int64_t                    ended;            /* ns, END was read */

    /* response */
    struct llm_head            head;
    struct llm_end             end;
    ngx_chain_t               *pending;
    ngx_chain_t              **last_pending;
    ngx_buf_t                 *tail;             /* last buf of pending */
    ngx_chain_t               *free;
    ngx_chain_t               *busy;
    size_t                     pending_bytes;
    int64_t                    first_data;       /* ns, 0: none yet */
    uint64_t                   body_bytes;
    off_t                      progress;         /* c->sent when last looked */
    ngx_uint_t                 finish;           /* enum llm_finish */

    ngx_http_llm_error_t       error;
    ngx_http_llm_lost_t        lost;             /* said when END is there */

    unsigned                   is_waiting:1;
    unsigned                   is_touched:1;
    unsigned                   submitted:1;      /* SUBMIT was pushed */
    unsigned                   have_head:1;
    unsigned                   have_end:1;
    unsigned                   parked:1;         /* WINDOW 0 was sent */
    unsigned                   closing:1;        /* what is there is the end */
    unsigned                   last_sent:1;      /* last_buf, to the filters */
    unsigned                   finalized:1;
    unsigned                   cancelled:1;      /* CANCEL was sent, or waits */
    unsigned                   lingering:1;      /* in r->main->blocked */
    unsigned                   json_error:1;     /* filter replaces the body */
    unsigned                   json_error_sent:1;
    unsigned                   send_body:1;
    unsigned                   at_event:1;       /* the last DATA ended one */
    unsigned                   failed:1;         /* no memory for a record */
    unsigned                   scanned:1;        /* asked and prefix_hash */
    unsigned                   reading:1;        /* llm_read_body */
    unsigned                   want_prompt:1;
    unsigned                   prompted:1;       /* GO is to be decided */
    unsigned                   limit_shown:1;    /* limit_tokens ... are set */
    unsigned                   limit_headers:1;  /* are added */
    unsigned                   status_open:1;    /* llm_status counts it */
    unsigned                   status_seen:1;    /* or has done so */
};


/* a figure of another zone that llm_status shows */

typedef struct {
    const char                *name;         /* Prometheus, after the prefix */
    const char                *help;
    int64_t                    value;
    unsigned                   counter:1;    /* never falls; else a gauge */
} ngx_http_llm_status_figure_t;

/* fills at most max figures and returns how many there are */

typedef ngx_uint_t (*ngx_http_llm_status_zone_pt)(void *data,
    ngx_http_llm_status_figure_t *figures, ngx_uint_t max);


extern ngx_module_t  ngx_http_llm_module;


/* _conf.c */

void *ngx_http_llm_create_main_conf(ngx_conf_t *cf);
char *ngx_http_llm_init_main_conf(ngx_conf_t *cf, void *conf);
void *ngx_http_llm_create_loc_conf(ngx_conf_t *cf);
char *ngx_http_llm_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child);
char *ngx_http_llm_engine(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_llm_pass(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_llm_prefix_bytes(ngx_conf_t *cf, void *post, void *data);
char *ngx_http_llm_key_salt(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_llm_endpoint(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_llm_health(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_llm_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_llm_status_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
ngx_int_t ngx_http_llm_resolve_passes(ngx_conf_t *cf);
ngx_http_llm_engine_t *ngx_http_llm_find_engine(
    ngx_http_llm_main_conf_t *mcf, ngx_str_t *name);
ngx_http_llm_main_conf_t *ngx_http_llm_cycle_conf(ngx_cycle_t *cycle);

/* _process.c, _spawn.c */

ngx_int_t ngx_http_llm_process_init_module(ngx_cycle_t *cycle);
void ngx_http_llm_process_forget(ngx_cycle_t *cycle);
void ngx_http_llm_process_exit_master(ngx_cycle_t *cycle);
ngx_fd_t ngx_http_llm_spawn(ngx_cycle_t *cycle, ngx_http_llm_engine_t *engine,
    ngx_fd_t previous, ngx_str_t *previous_path);
ngx_fd_t ngx_http_llm_spawn_log(ngx_cycle_t *cycle);

/* _owner.c */

ngx_fd_t ngx_http_llm_owner_attach(ngx_cycle_t *cycle,
    ngx_http_llm_engine_t *engine);
ngx_int_t ngx_http_llm_owner_ask(ngx_fd_t s, ngx_uint_t op,
    ngx_http_llm_engine_t *engine, ngx_cycle_t *cycle,
    struct llm_answer *answer, ngx_fd_t *fd);
void ngx_http_llm_owner_wait(ngx_fd_t s);
void ngx_http_llm_owner_sweep(ngx_str_t *socket);
void ngx_http_llm_owner_path(struct sockaddr_un *sun, ngx_str_t *path);

/* _channel.c */

ngx_int_t ngx_http_llm_channel_update(ngx_cycle_t *cycle);
void ngx_http_llm_channel_exit(ngx_cycle_t *cycle);
void ngx_http_llm_session_fail(ngx_http_llm_session_t *s, const char *why);
void ngx_http_llm_session_fail_later(ngx_http_llm_session_t *s,
    const char *why);
void ngx_http_llm_session_shut(ngx_http_llm_session_t *s);
ngx_int_t ngx_http_llm_session_connect(ngx_http_llm_session_t *s);
int64_t ngx_http_llm_now(void);

/* _pulse.c */

void ngx_http_llm_session_pulse_handler(ngx_event_t *ev);
const char *ngx_http_llm_session_trouble(ngx_http_llm_session_t *s);
ngx_uint_t ngx_http_llm_session_hung(ngx_http_llm_session_t *s,
    const char **why);
void ngx_http_llm_session_set_reason(ngx_http_llm_session_t *s,
    const char *text, ngx_uint_t down);
const char *ngx_http_llm_session_reason(ngx_http_llm_session_t *s);
const char *ngx_http_llm_session_message(ngx_http_llm_session_t *s);
void ngx_http_llm_session_watch_pulse(ngx_http_llm_session_t *s);
ngx_uint_t ngx_http_llm_session_retry_after(ngx_http_llm_session_t *s);

/* _handover.c */

void ngx_http_llm_handover_begin(ngx_http_llm_session_t *s,
    ngx_http_llm_session_t *before);
ngx_http_llm_session_t *ngx_http_llm_handover_choose(
    ngx_http_llm_engine_t *engine);
void ngx_http_llm_handover_gone(ngx_http_llm_session_t *s);
void ngx_http_llm_handover_watch(ngx_http_llm_session_t *s);
void ngx_http_llm_handover_handler(ngx_event_t *ev);
void ngx_http_llm_session_release(ngx_http_llm_session_t *s);

/* _request.c */

void ngx_http_llm_request_submit(ngx_http_llm_ctx_t *ctx);
void ngx_http_llm_request_reset(ngx_http_llm_ctx_t *ctx);
void ngx_http_llm_request_window(ngx_http_llm_ctx_t *ctx, ngx_uint_t open);
ngx_int_t ngx_http_llm_request_cancel(ngx_http_llm_ctx_t *ctx,
    ngx_uint_t finish);
void ngx_http_llm_request_go(ngx_http_llm_ctx_t *ctx, ngx_uint_t go);
void ngx_http_llm_request_detach(ngx_http_llm_ctx_t *ctx, ngx_uint_t finish);
void ngx_http_llm_request_publish(ngx_http_llm_session_t *s);
void ngx_http_llm_slot_cancel(ngx_http_llm_session_t *s, uint32_t slot,
    ngx_uint_t finish);
void ngx_http_llm_slot_free(ngx_http_llm_session_t *s, uint32_t slot);
void ngx_http_llm_session_push_waiting(ngx_http_llm_session_t *s);

/* _record.c */

void ngx_http_llm_session_drain(ngx_http_llm_session_t *s);
void ngx_http_llm_session_flush(ngx_http_llm_session_t *s);

/* _handler.c */

ngx_int_t ngx_http_llm_handler(ngx_http_request_t *r);
ngx_int_t ngx_http_llm_set_request_id(ngx_http_llm_ctx_t *ctx);
ngx_int_t ngx_http_llm_send_json(ngx_http_request_t *r, ngx_uint_t status,
    ngx_buf_t *b);
ngx_table_elt_t *ngx_http_llm_find_header(ngx_http_request_t *r,
    const char *name, size_t len);

/* _scan.c */

ngx_int_t ngx_http_llm_scan(ngx_http_llm_ctx_t *ctx);
ngx_uint_t ngx_http_llm_is_name(const char *name, size_t len);
ngx_int_t ngx_http_llm_read_body(ngx_http_request_t *r);
ngx_int_t ngx_http_llm_model_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
ngx_int_t ngx_http_llm_prefix_hash_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);

/* _model.c */

char *ngx_http_llm_model(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
ngx_int_t ngx_http_llm_resolve_models(ngx_conf_t *cf);
ngx_http_llm_model_t *ngx_http_llm_find_model(ngx_http_llm_main_conf_t *mcf,
    ngx_str_t *name);
ngx_http_llm_model_t *ngx_http_llm_find_virtual(ngx_http_llm_main_conf_t *mcf,
    ngx_str_t *name);
ngx_int_t ngx_http_llm_select_model(ngx_http_llm_ctx_t *ctx);

/* _list.c */

ngx_int_t ngx_http_llm_list_models(ngx_http_llm_ctx_t *ctx);
ngx_int_t ngx_http_llm_no_model(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_main_conf_t *mcf, ngx_str_t *name);

/* _balance.c */

ngx_int_t ngx_http_llm_check_engines(ngx_http_llm_ctx_t *ctx);
ngx_int_t ngx_http_llm_choose(ngx_http_llm_ctx_t *ctx);
void ngx_http_llm_session_count(ngx_http_llm_session_t *s, ngx_int_t change);

/* _next.c */

ngx_int_t ngx_http_llm_next(ngx_http_llm_ctx_t *ctx, ngx_uint_t reason);
ngx_uint_t ngx_http_llm_next_answer(ngx_http_llm_ctx_t *ctx);
void ngx_http_llm_session_fail_requests(ngx_http_llm_session_t *s);
void ngx_http_llm_request_fail(ngx_http_llm_ctx_t *ctx, ngx_uint_t reason,
    ngx_uint_t status, const char *code, const char *message);
ngx_int_t ngx_http_llm_engine_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);

/* _output.c */

ngx_int_t ngx_http_llm_output_append(ngx_http_llm_ctx_t *ctx,
    const u_char *data, size_t len);
void ngx_http_llm_output_drop(ngx_http_llm_ctx_t *ctx);
void ngx_http_llm_output_records(ngx_http_llm_ctx_t *ctx);
void ngx_http_llm_write_handler(ngx_http_request_t *r);
void ngx_http_llm_output_lost(ngx_http_llm_ctx_t *ctx, ngx_uint_t status,
    const char *code, const char *message);
ngx_int_t ngx_http_llm_add_header(ngx_http_request_t *r, const char *name,
    ngx_str_t *value);

void ngx_http_llm_output_lost_now(ngx_http_llm_ctx_t *ctx);

/* _client.c */

ngx_int_t ngx_http_llm_client_watch(ngx_http_llm_ctx_t *ctx);
ngx_uint_t ngx_http_llm_client_taken(ngx_http_llm_ctx_t *ctx);
void ngx_http_llm_client_cleanup(void *data);
void ngx_http_llm_client_release(ngx_http_llm_ctx_t *ctx);
void ngx_http_llm_client_timeout_handler(ngx_event_t *ev);

/* _options.c */

ngx_int_t ngx_http_llm_options(ngx_http_llm_ctx_t *ctx);
ngx_int_t ngx_http_llm_shorten(ngx_http_request_t *r, ngx_str_t *s, size_t max);
char *ngx_http_llm_options_number_slot(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* _limit.c */

ngx_int_t ngx_http_llm_limit_check(ngx_http_llm_ctx_t *ctx);
void ngx_http_llm_limit_answer(ngx_http_llm_ctx_t *ctx);
void ngx_http_llm_limit_data(ngx_http_llm_reservation_t *res,
    const u_char *data, size_t len);
void ngx_http_llm_limit_settle(ngx_http_llm_reservation_t *res,
    struct llm_end *end);
ngx_int_t ngx_http_llm_limit_headers(ngx_http_llm_ctx_t *ctx);
void ngx_http_llm_limit_init_process(ngx_cycle_t *cycle);
void ngx_http_llm_limit_exit_process(ngx_cycle_t *cycle);

/* _limit_conf.c */

char *ngx_http_llm_limit_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_llm_quota_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_llm_limit(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_llm_quota(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_llm_limit_expect_slot(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_llm_limit_merge(ngx_conf_t *cf, ngx_http_llm_loc_conf_t *prev,
    ngx_http_llm_loc_conf_t *conf);

/* _error.c */

ngx_int_t ngx_http_llm_error(ngx_http_llm_ctx_t *ctx, ngx_uint_t status,
    const char *code, const char *message);
ngx_int_t ngx_http_llm_error_filter_init(ngx_conf_t *cf);
char *ngx_http_llm_retry_after(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
const char *ngx_http_llm_error_type(ngx_uint_t status);
const char *ngx_http_llm_error_code(ngx_uint_t status);

/* _health.c */

ngx_int_t ngx_http_llm_health_handler(ngx_http_request_t *r);
ngx_int_t ngx_http_llm_health_answer(ngx_http_request_t *r,
    ngx_http_llm_engine_t **engines, const char **states, ngx_uint_t n);
const char *ngx_http_llm_health_state(ngx_http_llm_engine_t *engine);

/* _probe.c */

ngx_int_t ngx_http_llm_probe_handler(ngx_http_request_t *r,
    ngx_http_llm_engine_t **engines, const char **states, ngx_uint_t n);
const char *ngx_http_llm_probe_record(ngx_http_llm_session_t *s,
    struct llm_ring_record *rec);
void ngx_http_llm_probe_lost(ngx_http_llm_session_t *s);

/* _status*.c */

ngx_int_t ngx_http_llm_status_init(ngx_conf_t *cf);
void ngx_http_llm_status_init_process(ngx_cycle_t *cycle);
void ngx_http_llm_status_exit_process(void);
ngx_int_t ngx_http_llm_status_handler(ngx_http_request_t *r);
void ngx_http_llm_status_begin(ngx_http_llm_ctx_t *ctx);
void ngx_http_llm_status_end(ngx_http_llm_ctx_t *ctx);
void ngx_http_llm_status_session(ngx_http_llm_session_t *s, ngx_uint_t up);
ngx_int_t ngx_http_llm_status_add_zone(ngx_conf_t *cf, const char *kind,
    ngx_str_t *name, ngx_http_llm_status_zone_pt handler, void *data);

/* _variables.c */

ngx_int_t ngx_http_llm_add_variables(ngx_conf_t *cf);
ngx_int_t ngx_http_llm_set_variable(ngx_http_variable_value_t *v,
    u_char *data, size_t len);

/* _key.c */

ngx_int_t ngx_http_llm_key(ngx_http_request_t *r, ngx_str_t *key);
ngx_int_t ngx_http_llm_key_id(ngx_http_request_t *r, u_char *id);


#endif /* _NGX_HTTP_LLM_H_INCLUDED_ */
