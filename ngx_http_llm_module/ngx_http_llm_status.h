
/*
 * ngx_http_llm_status.h - what the files of llm_status share.
 *
 *     _status.c          directives, the zone, counting of a request
 *     _status_handler.c  llm_status: format, HTML page, output buffers
 *     _status_text.c     Prometheus' text format
 *     _status_json.c     JSON, which the page reads too
 *     _status_zone.c     figures of other zones
 *     _status_page.inc     the page; made of status.html, see there
 *
 * The zone lives as long as the master and survives reloads.  Its counters
 * belong to all workers and are added to atomically, once at the end of each
 * request and never for a token.  What is a moment's value (in flight,
 * waiting) lies in a record of each worker, which only that worker writes;
 * the record of a process that is dead does not count.
 */


#ifndef _NGX_HTTP_LLM_STATUS_H_INCLUDED_
#define _NGX_HTTP_LLM_STATUS_H_INCLUDED_


#include "ngx_http_llm.h"


#define NGX_HTTP_LLM_STATUS_ENGINES    64    /* 0: requests without engine */
#define NGX_HTTP_LLM_STATUS_WORKERS    128
#define NGX_HTTP_LLM_STATUS_NAME       128   /* of an engine, bytes shown */
#define NGX_HTTP_LLM_STATUS_BUCKETS    32
#define NGX_HTTP_LLM_STATUS_CODES      24
#define NGX_HTTP_LLM_STATUS_REASONS    24
#define NGX_HTTP_LLM_STATUS_FIGURES    16
#define NGX_HTTP_LLM_STATUS_ZONE_SIZE  (512 * 1024)

#define NGX_HTTP_LLM_STATUS_ROOM       4096  /* of one printf */

/* histograms */

#define NGX_HTTP_LLM_STATUS_TTFT        0
#define NGX_HTTP_LLM_STATUS_TPOT        1
#define NGX_HTTP_LLM_STATUS_DURATION    2
#define NGX_HTTP_LLM_STATUS_QUEUE       3
#define NGX_HTTP_LLM_STATUS_PROMPT      4
#define NGX_HTTP_LLM_STATUS_COMPLETION  5
#define NGX_HTTP_LLM_STATUS_HISTS       6


typedef struct {
    const char                *name;         /* Prometheus, after the prefix */
    const char                *key;          /* JSON */
    const char                *help;
    const int64_t             *bounds;       /* ns or tokens, ends with 0 */
    ngx_uint_t                 nbounds;
    unsigned                   seconds:1;
} ngx_http_llm_status_family_t;


/* buckets are counted one by one; the last one is above all bounds */

typedef struct {
    ngx_atomic_t               buckets[NGX_HTTP_LLM_STATUS_BUCKETS];
    ngx_atomic_t               sum;
} ngx_http_llm_status_hist_t;


/* one engine and model; "model" is empty for what never reached one */

typedef struct {
    ngx_uint_t                 engine;
    size_t                     model_len;
    u_char                     model[LLM_MODEL_BYTES_MAX];
    ngx_atomic_t               ends[NGX_HTTP_LLM_STATUS_CODES]
                                   [LLM_FINISH_COUNT];
    ngx_atomic_t               prompt_tokens;
    ngx_atomic_t               cached_tokens;
    ngx_atomic_t               completion_tokens;
    ngx_http_llm_status_hist_t hists[NGX_HTTP_LLM_STATUS_HISTS];
} ngx_http_llm_status_series_t;


typedef struct {
    size_t                     len;
    u_char                     name[NGX_HTTP_LLM_STATUS_NAME];
    ngx_atomic_t               connects;
    ngx_atomic_t               losses;
    ngx_atomic_t               refused[NGX_HTTP_LLM_STATUS_REASONS];
} ngx_http_llm_status_engine_t;


typedef struct {
    uint32_t                   in_flight;
    uint32_t                   waiting;
} ngx_http_llm_status_load_t;


typedef struct {
    ngx_atomic_t               pid;          /* 0: free */
    uint32_t                   worker;
    uint32_t                   in_flight;
    ngx_http_llm_status_load_t engines[NGX_HTTP_LLM_STATUS_ENGINES];
} ngx_http_llm_status_worker_t;


typedef struct {
    time_t                         start;
    ngx_uint_t                     nengines;
    ngx_uint_t                     max_series;
    ngx_atomic_t                   nseries;
    uint32_t                      *hashes;      /* [max_series] */
    ngx_http_llm_status_series_t  *series;      /* [max_series] */
    ngx_http_llm_status_engine_t   engines[NGX_HTTP_LLM_STATUS_ENGINES];
    ngx_http_llm_status_worker_t   workers[NGX_HTTP_LLM_STATUS_WORKERS];
} ngx_http_llm_status_sh_t;


/* what is being written: a chain of bufs that grows */

typedef struct {
    ngx_http_request_t        *request;
    ngx_http_llm_status_sh_t  *sh;
    ngx_chain_t               *out;
    ngx_chain_t              **last;
    ngx_buf_t                 *b;
    off_t                      size;
    unsigned                   failed:1;
} ngx_http_llm_status_out_t;


/* somebody else's zone, _zone.c */

typedef struct {
    const char                   *kind;
    ngx_str_t                     name;
    ngx_http_llm_status_zone_pt   handler;
    void                         *data;
    ngx_uint_t                    nfigures;
    ngx_http_llm_status_figure_t  figures[NGX_HTTP_LLM_STATUS_FIGURES];
} ngx_http_llm_status_zone_t;


/* an engine as this worker sees it */

typedef struct {
    const char                *state;
    struct llm_stats           stats;        /* zeroes unless .up */
    ngx_int_t                  pid;
    int64_t                    heartbeat;    /* age, ns */
    int64_t                    progress;
    ngx_uint_t                 in_flight;    /* of all workers */
    ngx_uint_t                 waiting;
    unsigned                   up:1;
} ngx_http_llm_status_view_t;


/* _status.c */

extern const ngx_http_llm_status_family_t  ngx_http_llm_status_families[];
extern const ngx_uint_t  ngx_http_llm_status_codes[];
extern const char *const  ngx_http_llm_status_reasons[];
extern const char *const  ngx_http_llm_status_states[];

ngx_http_llm_status_sh_t *ngx_http_llm_status_shared(void);
void ngx_http_llm_status_publish(void);
ngx_uint_t ngx_http_llm_status_alive(ngx_http_llm_status_worker_t *w);
void ngx_http_llm_status_view(ngx_http_llm_status_sh_t *sh,
    ngx_http_llm_engine_t *engine, ngx_http_llm_status_view_t *view);

/* _status_handler.c */

void ngx_http_llm_status_printf(ngx_http_llm_status_out_t *out,
    const char *fmt, ...);
void ngx_http_llm_status_seconds(ngx_http_llm_status_out_t *out, int64_t ns);

/* _status_zone.c */

void ngx_http_llm_status_zones_text(ngx_http_llm_status_out_t *out);
void ngx_http_llm_status_zones_json(ngx_http_llm_status_out_t *out);
ngx_int_t ngx_http_llm_status_clean(ngx_pool_t *pool, ngx_str_t *out,
    u_char *data, size_t len);

/* _status_text.c, _status_json.c */

void ngx_http_llm_status_text(ngx_http_llm_status_out_t *out);
void ngx_http_llm_status_json(ngx_http_llm_status_out_t *out);


#endif /* _NGX_HTTP_LLM_STATUS_H_INCLUDED_ */
