
/*
 * ngx_http_llm_options.c - what a location asks of the engine for a request:
 * llm_max_tokens, llm_cache_salt, llm_priority, llm_deadline.
 */


#include "ngx_http_llm.h"
#include <ngx_sha1.h>


static ngx_int_t ngx_http_llm_options_number(ngx_http_request_t *r,
    ngx_http_complex_value_t *cv, const char *name, int64_t min, int64_t max,
    int64_t *number);


/* NGX_OK or a status; the values are kept in the context until SUBMIT */

ngx_int_t
ngx_http_llm_options(ngx_http_llm_ctx_t *ctx)
{
    int64_t                   n;
    ngx_http_request_t       *r;
    ngx_http_llm_loc_conf_t  *llcf;

    r = ctx->request;
    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);

    if (ngx_http_llm_options_number(r, llcf->max_tokens, "llm_max_tokens",
                                    0, 0x7fffffff, &n)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->max_tokens = (uint32_t) n;

    if (ngx_http_llm_options_number(r, llcf->priority, "llm_priority",
                                    -0x7fffffff, 0x7fffffff, &n)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->priority = (int32_t) n;

    if (llcf->cache_salt) {

        if (ngx_http_complex_value(r, llcf->cache_salt, &ctx->cache_salt)
            != NGX_OK
            || ngx_http_llm_shorten(r, &ctx->cache_salt,
                                    LLM_CACHE_SALT_BYTES_MAX)
               != NGX_OK)
        {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    if (llcf->deadline) {
        ctx->deadline = ctx->arrival + (int64_t) llcf->deadline * 1000000;
    }

    return NGX_OK;
}


/* empty: 0, as if the directive were not there */

static ngx_int_t
ngx_http_llm_options_number(ngx_http_request_t *r,
    ngx_http_complex_value_t *cv, const char *name, int64_t min, int64_t max,
    int64_t *number)
{
    off_t       n;
    size_t      minus;
    ngx_str_t   value;

    *number = 0;

    if (cv == NULL) {
        return NGX_OK;
    }

    if (ngx_http_complex_value(r, cv, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (value.len == 0) {
        return NGX_OK;
    }

    minus = (value.data[0] == '-');
    n = ngx_atoof(value.data + minus, value.len - minus);

    *number = minus ? -n : n;

    if (n == NGX_ERROR || *number < min || *number > max) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "invalid value \"%V\" of \"%s\"", &value, name);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* what is longer than max becomes its SHA-1: still itself and nobody else */

ngx_int_t
ngx_http_llm_shorten(ngx_http_request_t *r, ngx_str_t *s, size_t max)
{
    u_char      *p;
    ngx_sha1_t   sha1;

    if (s->len <= max) {
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, 20);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_sha1_init(&sha1);
    ngx_sha1_update(&sha1, s->data, s->len);
    ngx_sha1_final(p, &sha1);

    s->data = p;
    s->len = 20;

    return NGX_OK;
}


/* checks a constant at once; a variable can only be checked with a request */

char *
ngx_http_llm_options_number_slot(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    char                       *rv;
    off_t                       n;
    size_t                      minus;
    ngx_str_t                  *value;
    ngx_conf_num_bounds_t      *bounds;
    ngx_http_complex_value_t  **cv;

    rv = ngx_http_set_complex_value_slot(cf, cmd, conf);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    cv = (ngx_http_complex_value_t **) ((char *) conf + cmd->offset);

    if ((*cv)->lengths) {
        return NGX_CONF_OK;
    }

    value = cf->args->elts;
    bounds = cmd->post;

    minus = (value[1].len > 1 && value[1].data[0] == '-');
    n = ngx_atoof(value[1].data + minus, value[1].len - minus);

    if (n == NGX_ERROR
        || (minus ? -n : n) < bounds->low || (minus ? -n : n) > bounds->high)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" must be a number between %i and %i",
                           &value[0], bounds->low, bounds->high);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}
