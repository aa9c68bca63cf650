
/*
 * ngx_http_llm_limit_conf.c - llm_limit_zone, llm_limit, llm_quota_zone,
 * llm_quota: what they mean, and what they may not.
 */


#include "ngx_http_llm_limit.h"


static char *ngx_http_llm_limit_zone_create(ngx_conf_t *cf,
    ngx_http_llm_main_conf_t *mcf, ngx_http_llm_limit_zone_t **zonep);
static char *ngx_http_llm_limit_zone_rate(ngx_conf_t *cf,
    ngx_http_llm_limit_zone_t *zone, ngx_str_t *value);
static char *ngx_http_llm_quota_zone_period(ngx_conf_t *cf,
    ngx_http_llm_limit_zone_t *zone, ngx_str_t *value);
static char *ngx_http_llm_quota_zone_state(ngx_conf_t *cf,
    ngx_http_llm_main_conf_t *mcf, ngx_http_llm_limit_zone_t *zone,
    ngx_str_t *value);
static ngx_int_t ngx_http_llm_limit_show(ngx_conf_t *cf,
    ngx_http_llm_limit_zone_t *zone);
static ngx_uint_t ngx_http_llm_limit_figures(void *data,
    ngx_http_llm_status_figure_t *figures, ngx_uint_t max);
static ngx_str_t *ngx_http_llm_limit_param(ngx_conf_t *cf, ngx_uint_t i,
    const char *name, ngx_str_t *value);
static char *ngx_http_llm_limit_create(ngx_conf_t *cf, ngx_array_t **array,
    ngx_http_llm_limit_t **limitp);
static char *ngx_http_llm_limit_type(ngx_conf_t *cf, ngx_str_t *value,
    ngx_http_llm_limit_t *limit);
static char *ngx_http_llm_limit_invalid(ngx_conf_t *cf, ngx_str_t *value);
static char *ngx_http_llm_limit_merge_array(ngx_conf_t *cf, ngx_array_t *from,
    ngx_uint_t quota, ngx_array_t *to);


/* llm_limit_zone $key zone=NAME:SIZE rate=60000t/m */

char *
ngx_http_llm_limit_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_main_conf_t *mcf = conf;

    char                       *rv;
    ngx_str_t                  *args, v;
    ngx_uint_t                  i;
    ngx_http_llm_limit_zone_t  *zone;

    rv = ngx_http_llm_limit_zone_create(cf, mcf, &zone);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    args = cf->args->elts;

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_http_llm_limit_param(cf, i, "zone=", &v)) {
            continue;
        }

        if (ngx_http_llm_limit_param(cf, i, "rate=", &v)) {
            rv = ngx_http_llm_limit_zone_rate(cf, zone, &v);

        } else {
            rv = ngx_http_llm_limit_invalid(cf, &args[i]);
        }

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    if (zone->rate == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" must have a \"rate\" parameter",
                           &cmd->name);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/* llm_quota_zone $key zone=NAME:SIZE period=1d [state=FILE [save=10s]] */

char *
ngx_http_llm_quota_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_main_conf_t *mcf = conf;

    char                       *rv;
    ngx_str_t                  *args, v;
    ngx_uint_t                  i;
    ngx_http_llm_limit_zone_t  *zone;

    rv = ngx_http_llm_limit_zone_create(cf, mcf, &zone);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    zone->quota = 1;

    args = cf->args->elts;

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_http_llm_limit_param(cf, i, "zone=", &v)) {
            continue;
        }

        if (ngx_http_llm_limit_param(cf, i, "period=", &v)) {
            rv = ngx_http_llm_quota_zone_period(cf, zone, &v);

        } else if (ngx_http_llm_limit_param(cf, i, "state=", &v)) {
            rv = ngx_http_llm_quota_zone_state(cf, mcf, zone, &v);

        } else if (ngx_http_llm_limit_param(cf, i, "save=", &v)) {
            zone->save = ngx_parse_time(&v, 0);

            if (zone->save == (ngx_msec_t) NGX_ERROR || zone->save == 0) {
                rv = ngx_http_llm_limit_invalid(cf, &args[i]);
            }

        } else {
            rv = ngx_http_llm_limit_invalid(cf, &args[i]);
        }

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    if (zone->period_text.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" must have a \"period\" parameter",
                           &cmd->name);
        return NGX_CONF_ERROR;
    }

    if (zone->save != NGX_CONF_UNSET_MSEC && zone->state.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"save\" has no effect without \"state\"");
        return NGX_CONF_ERROR;
    }

    ngx_conf_init_msec_value(zone->save, 10000);

    return NGX_CONF_OK;
}


/* the key and "zone=NAME:SIZE" of both directives */

static char *
ngx_http_llm_limit_zone_create(ngx_conf_t *cf, ngx_http_llm_main_conf_t *mcf,
    ngx_http_llm_limit_zone_t **zonep)
{
    u_char                             *p;
    ssize_t                             size;
    ngx_str_t                          *value, name, s;
    ngx_uint_t                          i;
    ngx_shm_zone_t                     *shm_zone;
    ngx_http_llm_limit_zone_t          *zone, **zones;
    ngx_http_compile_complex_value_t    ccv;

    value = cf->args->elts;

    zone = ngx_pcalloc(cf->pool, sizeof(ngx_http_llm_limit_zone_t));
    if (zone == NULL) {
        return NGX_CONF_ERROR;
    }

    zone->save = NGX_CONF_UNSET_MSEC;

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &value[1];
    ccv.complex_value = &zone->key;

    if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    ngx_str_null(&name);
    size = 0;

    for (i = 2; i < cf->args->nelts; i++) {

        if (!ngx_http_llm_limit_param(cf, i, "zone=", &name)) {
            continue;
        }

        p = ngx_strlchr(name.data, name.data + name.len, ':');

        if (p == NULL || p == name.data) {
            return ngx_http_llm_limit_invalid(cf, &value[i]);
        }

        s.data = p + 1;
        s.len = name.data + name.len - s.data;
        name.len = p - name.data;

        size = ngx_parse_size(&s);

        if (size == NGX_ERROR) {
            return ngx_http_llm_limit_invalid(cf, &value[i]);
        }

        if (size < (ssize_t) (8 * ngx_pagesize)) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "zone \"%V\" is too small", &value[i]);
            return NGX_CONF_ERROR;
        }
    }

    if (name.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" must have a \"zone\" parameter",
                           &value[0]);
        return NGX_CONF_ERROR;
    }

    shm_zone = ngx_shared_memory_add(cf, &name, size, &ngx_http_llm_module);
    if (shm_zone == NULL) {
        return NGX_CONF_ERROR;
    }

    if (shm_zone->data) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "zone \"%V\" is already defined", &name);
        return NGX_CONF_ERROR;
    }

    shm_zone->init = ngx_http_llm_limit_init_zone;
    shm_zone->data = zone;
    zone->shm_zone = shm_zone;

    if (ngx_http_llm_limit_show(cf, zone) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    zones = ngx_array_push(&mcf->limit_zones);
    if (zones == NULL) {
        return NGX_CONF_ERROR;
    }

    *zones = zone;
    *zonep = zone;

    return NGX_CONF_OK;
}


/* of "llm_quota_zone" or "llm_limit_zone", by the directive's name */

static ngx_int_t
ngx_http_llm_limit_show(ngx_conf_t *cf, ngx_http_llm_limit_zone_t *zone)
{
    ngx_str_t  *value;

    value = cf->args->elts;

    return ngx_http_llm_status_add_zone(cf, value[0].data[4] == 'q' ? "quota"
                                                                    : "limit",
                                        &zone->shm_zone->shm.name,
                                        ngx_http_llm_limit_figures, zone);
}


/* for llm_status; a zone that is full evicts the keys that were idle longest */

static ngx_uint_t
ngx_http_llm_limit_figures(void *data, ngx_http_llm_status_figure_t *figures,
    ngx_uint_t max)
{
    ngx_http_llm_limit_zone_t *zone = data;

    if (max < 2 || zone->shpool == NULL) {
        return 0;
    }

    figures[0].name = "size_bytes";
    figures[0].help = "Size of a zone.";
    figures[0].value = (int64_t) zone->shm_zone->shm.size;
    figures[0].counter = 0;

    figures[1].name = "free_bytes";
    figures[1].help = "Free pages of a zone.";
    figures[1].value = (int64_t) (zone->shpool->pfree * ngx_pagesize);
    figures[1].counter = 0;

    return 2;
}


/* 60000t/m: tokens a second, minute or hour */

static char *
ngx_http_llm_limit_zone_rate(ngx_conf_t *cf, ngx_http_llm_limit_zone_t *zone,
    ngx_str_t *value)
{
    off_t    rate;
    u_char  *p;

    if (value->len < 4) {
        return ngx_http_llm_limit_invalid(cf, value);
    }

    p = value->data + value->len - 3;

    if (ngx_strncmp(p, "t/s", 3) == 0) {
        zone->leak = NGX_HTTP_LLM_LIMIT_PARTS / 1000;
        zone->unit = "second";

    } else if (ngx_strncmp(p, "t/m", 3) == 0) {
        zone->leak = NGX_HTTP_LLM_LIMIT_PARTS / 60000;
        zone->unit = "minute";

    } else if (ngx_strncmp(p, "t/h", 3) == 0) {
        zone->leak = NGX_HTTP_LLM_LIMIT_PARTS / 3600000;
        zone->unit = "hour";

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid rate \"%V\": tokens per time are written "
                           "like 60000t/m", value);
        return NGX_CONF_ERROR;
    }

    rate = ngx_atoof(value->data, value->len - 3);

    if (rate <= 0 || rate > NGX_HTTP_LLM_LIMIT_RATE) {
        return ngx_http_llm_limit_invalid(cf, value);
    }

    zone->rate = rate;
    zone->leak *= rate;

    return NGX_CONF_OK;
}


/* 1h, 1d, 30d, 1w; months of the calendar are 1M to 12M */

static char *
ngx_http_llm_quota_zone_period(ngx_conf_t *cf,
    ngx_http_llm_limit_zone_t *zone, ngx_str_t *value)
{
    ngx_int_t  n;

    if (value->len == 0) {
        return ngx_http_llm_limit_invalid(cf, value);
    }

    zone->period_text = *value;

    if (value->data[value->len - 1] == 'M') {
        n = ngx_atoi(value->data, value->len - 1);

        if (n < 1 || n > 12) {
            return ngx_http_llm_limit_invalid(cf, value);
        }

        zone->months = n;
        return NGX_CONF_OK;
    }

    zone->week = (value->data[value->len - 1] == 'w');
    zone->period = ngx_parse_time(value, 1);

    if (zone->period < 1 || zone->period > 366 * 86400) {
        return ngx_http_llm_limit_invalid(cf, value);
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_llm_quota_zone_state(ngx_conf_t *cf, ngx_http_llm_main_conf_t *mcf,
    ngx_http_llm_limit_zone_t *zone, ngx_str_t *value)
{
    ngx_uint_t                   i;
    ngx_http_llm_limit_zone_t  **zones;

    if (value->len == 0) {
        return ngx_http_llm_limit_invalid(cf, value);
    }

    zone->state = *value;

    if (ngx_conf_full_name(cf->cycle, &zone->state, 0) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    zone->ccf = (ngx_core_conf_t *) ngx_get_conf(cf->cycle->conf_ctx,
                                                 ngx_core_module);

    if (zone->state.len >= NGX_MAX_PATH) {
        return ngx_http_llm_limit_invalid(cf, value);
    }

    zones = mcf->limit_zones.elts;

    for (i = 0; i < mcf->limit_zones.nelts; i++) {

        if (zones[i] != zone
            && zones[i]->state.len == zone->state.len
            && ngx_strncmp(zones[i]->state.data, zone->state.data,
                           zone->state.len)
               == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "zone \"%V\" already has the state file \"%V\"",
                               &zones[i]->shm_zone->shm.name, &zone->state);
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


/* the value of "name=value", if argument i is that */

static ngx_str_t *
ngx_http_llm_limit_param(ngx_conf_t *cf, ngx_uint_t i, const char *name,
    ngx_str_t *value)
{
    size_t      len;
    ngx_str_t  *args;

    args = cf->args->elts;
    len = ngx_strlen(name);

    if (args[i].len < len || ngx_strncmp(args[i].data, name, len) != 0) {
        return NULL;
    }

    value->data = args[i].data + len;
    value->len = args[i].len - len;

    return value;
}


static char *
ngx_http_llm_limit_invalid(ngx_conf_t *cf, ngx_str_t *value)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid parameter \"%V\"",
                       value);

    return NGX_CONF_ERROR;
}


/* llm_limit zone=NAME [burst=N] [type=total|prompt|completion] */

char *
ngx_http_llm_limit(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_loc_conf_t *llcf = conf;

    char                  *rv;
    off_t                  n;
    ngx_str_t             *args, v;
    ngx_uint_t             i;
    ngx_http_llm_limit_t  *limit;

    rv = ngx_http_llm_limit_create(cf, &llcf->limits, &limit);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    args = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_http_llm_limit_param(cf, i, "zone=", &v)) {
            continue;
        }

        if (ngx_http_llm_limit_param(cf, i, "burst=", &v)) {
            n = ngx_atoof(v.data, v.len);

            if (n <= 0 || n > NGX_HTTP_LLM_LIMIT_BURST) {
                return ngx_http_llm_limit_invalid(cf, &args[i]);
            }

            limit->burst = n;
            continue;
        }

        if (ngx_http_llm_limit_param(cf, i, "type=", &v)) {
            rv = ngx_http_llm_limit_type(cf, &v, limit);

            if (rv != NGX_CONF_OK) {
                return rv;
            }

            continue;
        }

        return ngx_http_llm_limit_invalid(cf, &args[i]);
    }

    return NGX_CONF_OK;
}


/* llm_quota zone=NAME limit=N|$variable [type=...] [status=429] */

char *
ngx_http_llm_quota(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_loc_conf_t *llcf = conf;

    char                              *rv;
    off_t                              limited;
    ngx_int_t                          n;
    ngx_str_t                         *args, v;
    ngx_uint_t                         i;
    ngx_http_llm_limit_t              *limit;
    ngx_http_compile_complex_value_t   ccv;

    rv = ngx_http_llm_limit_create(cf, &llcf->quotas, &limit);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    args = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_http_llm_limit_param(cf, i, "zone=", &v)) {
            continue;
        }

        if (ngx_http_llm_limit_param(cf, i, "type=", &v)) {
            rv = ngx_http_llm_limit_type(cf, &v, limit);

            if (rv != NGX_CONF_OK) {
                return rv;
            }

            continue;
        }

        if (ngx_http_llm_limit_param(cf, i, "status=", &v)) {
            n = ngx_atoi(v.data, v.len);

            if (n < 400 || n > 599) {
                return ngx_http_llm_limit_invalid(cf, &args[i]);
            }

            limit->status = n;
            continue;
        }

        if (!ngx_http_llm_limit_param(cf, i, "limit=", &v) || v.len == 0) {
            return ngx_http_llm_limit_invalid(cf, &args[i]);
        }

        limit->value = ngx_pcalloc(cf->pool, sizeof(ngx_http_complex_value_t));
        if (limit->value == NULL) {
            return NGX_CONF_ERROR;
        }

        ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

        ccv.cf = cf;
        ccv.value = &v;
        ccv.complex_value = limit->value;

        if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
            return NGX_CONF_ERROR;
        }

        limited = ngx_atoof(v.data, v.len);

        if (limit->value->lengths == NULL
            && (limited == NGX_ERROR || limited > NGX_HTTP_LLM_LIMIT_BURST))
        {
            return ngx_http_llm_limit_invalid(cf, &args[i]);
        }
    }

    if (limit->value == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" must have a \"limit\" parameter",
                           &cmd->name);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_llm_limit_create(ngx_conf_t *cf, ngx_array_t **array,
    ngx_http_llm_limit_t **limitp)
{
    ngx_str_t              *value, name;
    ngx_uint_t              i;
    ngx_shm_zone_t         *shm_zone;
    ngx_http_llm_limit_t   *limit, **limits;

    value = cf->args->elts;
    ngx_str_null(&name);

    for (i = 1; i < cf->args->nelts; i++) {
        (void) ngx_http_llm_limit_param(cf, i, "zone=", &name);
    }

    if (name.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" must have a \"zone\" parameter",
                           &value[0]);
        return NGX_CONF_ERROR;
    }

    shm_zone = ngx_shared_memory_add(cf, &name, 0, &ngx_http_llm_module);
    if (shm_zone == NULL) {
        return NGX_CONF_ERROR;
    }

    if (*array == NULL) {
        *array = ngx_array_create(cf->pool, 2, sizeof(ngx_http_llm_limit_t *));
        if (*array == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    limits = (*array)->elts;

    for (i = 0; i < (*array)->nelts; i++) {
        if (limits[i]->shm_zone == shm_zone) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "duplicate zone \"%V\"", &name);
            return NGX_CONF_ERROR;
        }
    }

    limit = ngx_pcalloc(cf->pool, sizeof(ngx_http_llm_limit_t));
    if (limit == NULL) {
        return NGX_CONF_ERROR;
    }

    limits = ngx_array_push(*array);
    if (limits == NULL) {
        return NGX_CONF_ERROR;
    }

    *limits = limit;

    limit->shm_zone = shm_zone;
    limit->status = NGX_HTTP_TOO_MANY_REQUESTS;
    limit->file = cf->conf_file->file.name.data;
    limit->line = cf->conf_file->line;

    *limitp = limit;

    return NGX_CONF_OK;
}


static char *
ngx_http_llm_limit_type(ngx_conf_t *cf, ngx_str_t *value,
    ngx_http_llm_limit_t *limit)
{
    if (ngx_strcmp(value->data, "total") == 0) {
        limit->type = NGX_HTTP_LLM_LIMIT_TOTAL;

    } else if (ngx_strcmp(value->data, "prompt") == 0) {
        limit->type = NGX_HTTP_LLM_LIMIT_PROMPT;

    } else if (ngx_strcmp(value->data, "completion") == 0) {
        limit->type = NGX_HTTP_LLM_LIMIT_COMPLETION;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid type \"%V\": it is \"total\", \"prompt\" "
                           "or \"completion\"", value);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/* llm_limit_expect N or max */

char *
ngx_http_llm_limit_expect_slot(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_loc_conf_t *llcf = conf;

    ngx_int_t   n;
    ngx_str_t  *value;

    if (llcf->limit_expect != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "max") == 0) {
        llcf->limit_expect = NGX_HTTP_LLM_LIMIT_EXPECT_MAX;
        return NGX_CONF_OK;
    }

    n = ngx_atoi(value[1].data, value[1].len);

    if (n == NGX_ERROR || n == 0 || n > NGX_HTTP_LLM_LIMIT_RATE) {
        return "must be a number of tokens or \"max\"";
    }

    llcf->limit_expect = n;

    return NGX_CONF_OK;
}


/*
 * Limits are inherited from the level above if there are none of that kind on
 * this one.  Both kinds together are ordered by zone: the order of the locks.
 */

char *
ngx_http_llm_limit_merge(ngx_conf_t *cf, ngx_http_llm_loc_conf_t *prev,
    ngx_http_llm_loc_conf_t *conf)
{
    ngx_uint_t              i, j;
    ngx_http_llm_limit_t  **limits, *limit;

    ngx_conf_merge_uint_value(conf->limit_expect, prev->limit_expect, 4096);
    ngx_conf_merge_uint_value(conf->limit_status, prev->limit_status,
                              NGX_HTTP_TOO_MANY_REQUESTS);
    ngx_conf_merge_uint_value(conf->limit_log_level, prev->limit_log_level,
                              NGX_LOG_ERR);
    ngx_conf_merge_value(conf->limit_dry_run, prev->limit_dry_run, 0);
    ngx_conf_merge_value(conf->limit_headers, prev->limit_headers, 1);
    ngx_conf_merge_msec_value(conf->deadline, prev->deadline, 0);

    if (conf->max_tokens == NULL) {
        conf->max_tokens = prev->max_tokens;
    }

    if (conf->cache_salt == NULL) {
        conf->cache_salt = prev->cache_salt;
    }

    if (conf->priority == NULL) {
        conf->priority = prev->priority;
    }

    if (conf->limits == NULL) {
        conf->limits = prev->limits;
    }

    if (conf->quotas == NULL) {
        conf->quotas = prev->quotas;
    }

    if (conf->limits == NULL && conf->quotas == NULL) {
        return NGX_CONF_OK;
    }

    conf->all_limits = ngx_array_create(cf->pool, 4,
                                        sizeof(ngx_http_llm_limit_t *));
    if (conf->all_limits == NULL) {
        return NGX_CONF_ERROR;
    }

    if (ngx_http_llm_limit_merge_array(cf, conf->limits, 0, conf->all_limits)
        != NGX_CONF_OK
        || ngx_http_llm_limit_merge_array(cf, conf->quotas, 1,
                                          conf->all_limits)
           != NGX_CONF_OK)
    {
        return NGX_CONF_ERROR;
    }

    limits = conf->all_limits->elts;

    for (i = 1; i < conf->all_limits->nelts; i++) {
        limit = limits[i];

        for (j = i; j > 0; j--) {

            if (ngx_memn2cmp(limits[j - 1]->shm_zone->shm.name.data,
                             limit->shm_zone->shm.name.data,
                             limits[j - 1]->shm_zone->shm.name.len,
                             limit->shm_zone->shm.name.len)
                < 0)
            {
                break;
            }

            limits[j] = limits[j - 1];
        }

        limits[j] = limit;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_llm_limit_merge_array(ngx_conf_t *cf, ngx_array_t *from,
    ngx_uint_t quota, ngx_array_t *to)
{
    ngx_uint_t                  i;
    ngx_http_llm_limit_t      **limits, **p;
    ngx_http_llm_limit_zone_t  *zone;

    if (from == NULL) {
        return NGX_CONF_OK;
    }

    limits = from->elts;

    for (i = 0; i < from->nelts; i++) {
        zone = limits[i]->shm_zone->data;

        if (zone == NULL || zone->quota != quota) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "no \"%s\" is called \"%V\" in %s:%ui",
                          quota ? "llm_quota_zone" : "llm_limit_zone",
                          &limits[i]->shm_zone->shm.name,
                          limits[i]->file, limits[i]->line);
            return NGX_CONF_ERROR;
        }

        if (to->nelts == NGX_HTTP_LLM_LIMITS_MAX) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "more than %d limits and quotas in %s:%ui",
                          NGX_HTTP_LLM_LIMITS_MAX,
                          limits[i]->file, limits[i]->line);
            return NGX_CONF_ERROR;
        }

        p = ngx_array_push(to);
        if (p == NULL) {
            return NGX_CONF_ERROR;
        }

        *p = limits[i];
    }

    return NGX_CONF_OK;
}
