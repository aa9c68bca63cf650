
/*
 * ngx_http_llm_conf.c - turns directives into engines and locations, and
 * refuses what cannot work while nginx can still say so.
 */


#include "ngx_http_llm.h"


static char *ngx_http_llm_engine_option(ngx_conf_t *cf, ngx_command_t *dummy,
    void *conf);
static char *ngx_http_llm_engine_own_option(ngx_conf_t *cf,
    ngx_http_llm_engine_t *engine, ngx_uint_t *found);
static char *ngx_http_llm_engine_time(ngx_conf_t *cf,
    ngx_http_llm_engine_t *engine, ngx_str_t *value);
static char *ngx_http_llm_engine_reload(ngx_conf_t *cf,
    ngx_http_llm_engine_t *engine, ngx_str_t *value);
static char *ngx_http_llm_engine_path(ngx_conf_t *cf,
    ngx_http_llm_engine_t *engine, ngx_str_t *path);
static char *ngx_http_llm_push_string(ngx_conf_t *cf, ngx_array_t *array,
    const char *prefix, ngx_str_t *value);


/* lines of an engine that are meant for nginx */

static const char  *ngx_http_llm_engine_own[] = {
    "server", "binary", "socket", "user", "env", "reload", "hang_timeout",
    "shutdown_timeout", NULL
};


void *
ngx_http_llm_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_llm_main_conf_t  *mcf;

    mcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_llm_main_conf_t));
    if (mcf == NULL) {
        return NULL;
    }

    if (ngx_array_init(&mcf->engines, cf->pool, 2,
                       sizeof(ngx_http_llm_engine_t *))
        != NGX_OK)
    {
        return NULL;
    }

    if (ngx_array_init(&mcf->passes, cf->pool, 4,
                       sizeof(ngx_http_llm_loc_conf_t *))
        != NGX_OK)
    {
        return NULL;
    }

    if (ngx_array_init(&mcf->models, cf->pool, 4,
                       sizeof(ngx_http_llm_model_t *))
        != NGX_OK)
    {
        return NULL;
    }

    if (ngx_array_init(&mcf->limit_zones, cf->pool, 2, sizeof(void *))
        != NGX_OK)
    {
        return NULL;
    }

    mcf->connect_timeout = NGX_CONF_UNSET_MSEC;
    mcf->engine_timeout = NGX_CONF_UNSET_MSEC;
    mcf->queue = NGX_CONF_UNSET;

    return mcf;
}


char *
ngx_http_llm_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_http_llm_main_conf_t *mcf = conf;

    ngx_conf_init_msec_value(mcf->connect_timeout, 2000);
    ngx_conf_init_msec_value(mcf->engine_timeout, 10000);
    ngx_conf_init_value(mcf->queue, 1024);

    return NGX_CONF_OK;
}


void *
ngx_http_llm_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_llm_loc_conf_t  *llcf;

    llcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_llm_loc_conf_t));
    if (llcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     llcf->model = NULL;
     *     llcf->engine = NULL;
     *     llcf->next_engine = 0;
     *     llcf->pass = NULL;
     *     llcf->pass_name = { 0, NULL };
     *     llcf->route = LLM_ROUTE_NONE;
     *     llcf->health = NGX_HTTP_LLM_HEALTH_OFF;
     *     llcf->health_engine = { 0, NULL };
     *     llcf->status = NGX_HTTP_LLM_STATUS_OFF;
     *     llcf->retry_after = NULL;
     *     llcf->limits = NULL;  llcf->quotas = NULL;
     *     llcf->all_limits = NULL;
     *     llcf->max_tokens = NULL;  llcf->cache_salt = NULL;
     *     llcf->priority = NULL;
     */

    llcf->health_interval = NGX_CONF_UNSET_MSEC;
    llcf->health_timeout = NGX_CONF_UNSET_MSEC;
    llcf->read_timeout = NGX_CONF_UNSET_MSEC;
    llcf->send_timeout = NGX_CONF_UNSET_MSEC;
    llcf->buffer_size = NGX_CONF_UNSET_SIZE;
    llcf->balance = NGX_CONF_UNSET_UINT;
    llcf->next_tries = NGX_CONF_UNSET_UINT;
    llcf->next_timeout = NGX_CONF_UNSET_MSEC;
    llcf->prefix_bytes = NGX_CONF_UNSET_SIZE;
    llcf->read_body = NGX_CONF_UNSET;
    llcf->ignore_client_abort = NGX_CONF_UNSET;
    llcf->json_errors = NGX_CONF_UNSET;
    llcf->limit_expect = NGX_CONF_UNSET_UINT;
    llcf->limit_status = NGX_CONF_UNSET_UINT;
    llcf->limit_log_level = NGX_CONF_UNSET_UINT;
    llcf->limit_dry_run = NGX_CONF_UNSET;
    llcf->limit_headers = NGX_CONF_UNSET;
    llcf->deadline = NGX_CONF_UNSET_MSEC;

    return llcf;
}


char *
ngx_http_llm_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_llm_loc_conf_t *prev = parent;
    ngx_http_llm_loc_conf_t *conf = child;

    ngx_http_core_loc_conf_t   *clcf;
    ngx_http_llm_loc_conf_t   **llcfp;
    ngx_http_llm_main_conf_t   *mcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    /* "if" and limit_except blocks inherit the handler of their location */

    if (clcf->noname && conf->pass_name.len == 0 && conf->pass == NULL
        && (prev->pass_name.len || prev->pass))
    {
        conf->pass = prev->pass;
        conf->pass_name = prev->pass_name;
        conf->route = prev->route;
        conf->file = prev->file;
        conf->line = prev->line;

        if (conf->pass_name.len) {
            mcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_llm_module);

            llcfp = ngx_array_push(&mcf->passes);
            if (llcfp == NULL) {
                return NGX_CONF_ERROR;
            }

            *llcfp = conf;
        }

        if (clcf->lmt_excpt && clcf->handler == NULL) {
            clcf->handler = ngx_http_llm_handler;
        }
    }

    ngx_conf_merge_msec_value(conf->health_interval, prev->health_interval,
                              1000);
    ngx_conf_merge_msec_value(conf->health_timeout, prev->health_timeout,
                              5000);
    ngx_conf_merge_msec_value(conf->read_timeout, prev->read_timeout, 600000);
    ngx_conf_merge_msec_value(conf->send_timeout, prev->send_timeout, 60000);
    ngx_conf_merge_size_value(conf->buffer_size, prev->buffer_size, 65536);
    ngx_conf_merge_uint_value(conf->balance, prev->balance,
                              NGX_HTTP_LLM_LEAST_CONN);
    ngx_conf_merge_uint_value(conf->next_tries, prev->next_tries, 0);
    ngx_conf_merge_msec_value(conf->next_timeout, prev->next_timeout, 0);
    ngx_conf_merge_size_value(conf->prefix_bytes, prev->prefix_bytes, 1024);

    ngx_conf_merge_value(conf->read_body, prev->read_body, 0);

    ngx_conf_merge_bitmask_value(conf->next_engine, prev->next_engine,
                                 (NGX_CONF_BITMASK_SET
                                  |NGX_HTTP_LLM_NEXT_ERROR
                                  |NGX_HTTP_LLM_NEXT_TIMEOUT
                                  |NGX_HTTP_LLM_NEXT_BUSY));

    ngx_conf_merge_value(conf->ignore_client_abort,
                         prev->ignore_client_abort, 0);

    if (conf->retry_after == NULL) {
        conf->retry_after = prev->retry_after;
    }

    if (ngx_http_llm_limit_merge(cf, prev, conf) != NGX_CONF_OK) {
        return NGX_CONF_ERROR;
    }

    /* JSON errors are the rule below llm_pass and an option elsewhere */

    if (conf->json_errors == NGX_CONF_UNSET
        && prev->json_errors == NGX_CONF_UNSET
        && (conf->pass_name.len || conf->pass))
    {
        conf->json_errors = 1;
    }

    if (conf->json_errors == NGX_CONF_UNSET) {
        conf->json_errors = prev->json_errors;
    }

    return NGX_CONF_OK;
}


/*
 * llm_engine NAME { server unix:PATH; }        somebody else runs it
 * llm_engine NAME { model ...; option value; } nginx runs it
 *
 * A directive of nginx is a block or is not, so both forms are blocks.
 */

char *
ngx_http_llm_engine(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_main_conf_t *mcf = conf;

    char                    *rv;
    ngx_str_t               *value;
    ngx_conf_t               save;
    ngx_http_llm_engine_t   *engine, **enginep;

    value = cf->args->elts;

    if (value[1].len == 0 || ngx_strlchr(value[1].data,
                                         value[1].data + value[1].len, '/'))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid engine name \"%V\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (ngx_http_llm_find_engine(mcf, &value[1]) != NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "duplicate engine \"%V\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    engine = ngx_pcalloc(cf->pool, sizeof(ngx_http_llm_engine_t));
    if (engine == NULL) {
        return NGX_CONF_ERROR;
    }

    engine->name = value[1];
    engine->file = cf->conf_file->file.name.data;
    engine->line = cf->conf_file->line;
    engine->managed = 1;
    engine->grace = 60000;
    engine->hang = 30000;

    engine->options = ngx_array_create(cf->pool, 16, sizeof(ngx_str_t));
    engine->env = ngx_array_create(cf->pool, 4, sizeof(ngx_str_t));
    if (engine->options == NULL || engine->env == NULL) {
        return NGX_CONF_ERROR;
    }

    enginep = ngx_array_push(&mcf->engines);
    if (enginep == NULL) {
        return NGX_CONF_ERROR;
    }

    *enginep = engine;

    save = *cf;
    cf->handler = ngx_http_llm_engine_option;
    cf->handler_conf = (void *) engine;

    rv = ngx_conf_parse(cf, NULL);

    *cf = save;

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    if (!engine->managed && engine->has_options) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "engine \"%V\" has \"server\", so nginx does not "
                           "run it, and no other line can have an effect",
                           &engine->name);
        return NGX_CONF_ERROR;
    }

    if (engine->binary.len == 0) {
        ngx_str_set(&engine->binary, NGX_HTTP_LLM_ENGINE_PATH);
    }

    return NGX_CONF_OK;
}


/*
 * One line of a managed block.  What is not ours becomes an option of the
 * engine: "max_model_len 4096;" is "--max-model-len 4096", "name on;" and
 * "name;" are "--name", "name off;" is "--no-name".
 */

static char *
ngx_http_llm_engine_option(ngx_conf_t *cf, ngx_command_t *dummy, void *conf)
{
    ngx_http_llm_engine_t *engine = conf;

    u_char      *p;
    char        *rv;
    ngx_str_t   *value, name;
    ngx_uint_t   i, n, found;

    value = cf->args->elts;
    n = cf->args->nelts;

    if (ngx_strcmp(value[0].data, "include") == 0) {
        return ngx_conf_include(cf, dummy, conf);
    }

    found = 0;

    rv = ngx_http_llm_engine_own_option(cf, engine, &found);
    if (rv != NGX_CONF_OK || found) {
        return rv;
    }

    engine->has_options = 1;

    for (p = value[0].data; *p; p++) {

        if ((*p < 'a' || *p > 'z') && (*p < '0' || *p > '9') && *p != '_') {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid engine option \"%V\": options are "
                               "written in lower case with \"_\" for \"-\"",
                               &value[0]);
            return NGX_CONF_ERROR;
        }
    }

    name.len = value[0].len;
    name.data = ngx_pstrdup(cf->pool, &value[0]);
    if (name.data == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 0; i < name.len; i++) {
        if (name.data[i] == '_') {
            name.data[i] = '-';
        }
    }

    if (n == 2 && ngx_strcmp(value[1].data, "off") == 0) {
        return ngx_http_llm_push_string(cf, engine->options, "--no-", &name);
    }

    if (n == 2 && ngx_strcmp(value[1].data, "on") == 0) {
        n = 1;
    }

    rv = ngx_http_llm_push_string(cf, engine->options, "--", &name);

    for (i = 1; i < n && rv == NGX_CONF_OK; i++) {
        rv = ngx_http_llm_push_string(cf, engine->options, "", &value[i]);
    }

    return rv;
}


/* what is meant for nginx, not for the engine */

static char *
ngx_http_llm_engine_own_option(ngx_conf_t *cf, ngx_http_llm_engine_t *engine,
    ngx_uint_t *found)
{
    ngx_str_t    *value;
    ngx_uint_t    seen;
    const char  **name;

    value = cf->args->elts;

    for (name = ngx_http_llm_engine_own; *name; name++) {
        if (ngx_strcmp(value[0].data, *name) == 0) {
            break;
        }
    }

    if (*name == NULL) {
        return NGX_CONF_OK;
    }

    *found = 1;

    if (cf->args->nelts != 2 || value[1].len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" of an engine takes one value", &value[0]);
        return NGX_CONF_ERROR;
    }

    seen = (ngx_uint_t) 1 << (name - ngx_http_llm_engine_own);

    if ((engine->seen & seen) && ngx_strcmp(value[0].data, "env") != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "duplicate \"%V\" of engine \"%V\"", &value[0],
                           &engine->name);
        return NGX_CONF_ERROR;
    }

    engine->seen |= seen;

    if (ngx_strcmp(value[0].data, "server") == 0) {

        if (value[1].len <= 5 || ngx_strncmp(value[1].data, "unix:", 5) != 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"server\" of an engine takes \"unix:/path\","
                               " not \"%V\"", &value[1]);
            return NGX_CONF_ERROR;
        }

        value[1].data += 5;
        value[1].len -= 5;

        engine->managed = 0;

        return ngx_http_llm_engine_path(cf, engine, &value[1]);
    }

    engine->has_options = 1;

    switch (value[0].data[0]) {

    case 'b':
        if (ngx_conf_full_name(cf->cycle, &value[1], 0) != NGX_OK) {
            return NGX_CONF_ERROR;
        }

        engine->binary = value[1];
        return NGX_CONF_OK;

    case 'u':
        engine->user = value[1];
        return NGX_CONF_OK;

    case 'r':
        return ngx_http_llm_engine_reload(cf, engine, &value[1]);

    case 'e':
        return ngx_http_llm_push_string(cf, engine->env, "", &value[1]);

    default:
        break;
    }

    if (value[0].data[1] == 'o') {

        /* socket, with or without "unix:" */

        if (value[1].len > 5 && ngx_strncmp(value[1].data, "unix:", 5) == 0) {
            value[1].data += 5;
            value[1].len -= 5;
        }

        return ngx_http_llm_engine_path(cf, engine, &value[1]);
    }

    return ngx_http_llm_engine_time(cf, engine, value);
}


/* shutdown_timeout, hang_timeout */

static char *
ngx_http_llm_engine_time(ngx_conf_t *cf, ngx_http_llm_engine_t *engine,
    ngx_str_t *value)
{
    ngx_int_t  ms;

    ms = ngx_parse_time(&value[1], 0);
    if (ms == NGX_ERROR || ms > NGX_MAX_INT32_VALUE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"%V\" \"%V\"", &value[0], &value[1]);
        return NGX_CONF_ERROR;
    }

    if (value[0].data[0] == 'h') {

        if (ms != 0 && ms < NGX_HTTP_LLM_HANG_MIN) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"hang_timeout\" must be 0 (never) or at least "
                               "%d ms", NGX_HTTP_LLM_HANG_MIN);
            return NGX_CONF_ERROR;
        }

        engine->hang = (ngx_msec_t) ms;

        return NGX_CONF_OK;
    }

    engine->grace = (ngx_msec_t) ms;

    return NGX_CONF_OK;
}


static char *
ngx_http_llm_engine_reload(ngx_conf_t *cf, ngx_http_llm_engine_t *engine,
    ngx_str_t *value)
{
    if (ngx_strcmp(value->data, "beside") == 0) {
        engine->reload = NGX_HTTP_LLM_RELOAD_BESIDE;

    } else if (ngx_strcmp(value->data, "replace") == 0) {
        engine->reload = NGX_HTTP_LLM_RELOAD_REPLACE;

    } else if (ngx_strcmp(value->data, "keep") == 0) {
        engine->reload = NGX_HTTP_LLM_RELOAD_KEEP;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"reload\" of an engine takes \"beside\", "
                           "\"replace\" or \"keep\", not \"%V\"", value);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_llm_engine_path(ngx_conf_t *cf, ngx_http_llm_engine_t *engine,
    ngx_str_t *path)
{
    size_t              extra;
    struct sockaddr_un  sun;

    if (ngx_conf_full_name(cf->cycle, path, 0) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    extra = engine->managed ? NGX_HTTP_LLM_PATH_SUFFIX : 1;

    if (path->len + extra > sizeof(sun.sun_path)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "socket path \"%V\" has %uz bytes, the limit is "
                           "%uz", path, path->len,
                           sizeof(sun.sun_path) - extra);
        return NGX_CONF_ERROR;
    }

    engine->socket = *path;

    return NGX_CONF_OK;
}


static char *
ngx_http_llm_push_string(ngx_conf_t *cf, ngx_array_t *array,
    const char *prefix, ngx_str_t *value)
{
    u_char     *p;
    size_t      len;
    ngx_str_t  *s;

    s = ngx_array_push(array);
    if (s == NULL) {
        return NGX_CONF_ERROR;
    }

    len = ngx_strlen(prefix);

    s->data = ngx_pnalloc(cf->pool, len + value->len + 1);
    if (s->data == NULL) {
        return NGX_CONF_ERROR;
    }

    p = ngx_cpymem(s->data, prefix, len);
    p = ngx_cpymem(p, value->data, value->len);
    *p = '\0';

    s->len = len + value->len;

    return NGX_CONF_OK;
}


char *
ngx_http_llm_pass(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_loc_conf_t *llcf = conf;

    ngx_str_t                         *value;
    ngx_http_core_loc_conf_t          *clcf;
    ngx_http_llm_loc_conf_t          **llcfp;
    ngx_http_llm_main_conf_t          *mcf;
    ngx_http_compile_complex_value_t   ccv;

    if (llcf->pass_name.len || llcf->pass || llcf->health || llcf->status) {
        return "is duplicate";
    }

    value = cf->args->elts;
    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_llm_module);

    if (ngx_http_script_variables_count(&value[1])) {

        llcf->pass = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
        if (llcf->pass == NULL) {
            return NGX_CONF_ERROR;
        }

        ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

        ccv.cf = cf;
        ccv.value = &value[1];
        ccv.complex_value = llcf->pass;

        if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
            return NGX_CONF_ERROR;
        }

    } else {
        llcf->pass_name = value[1];
        llcf->file = cf->conf_file->file.name.data;
        llcf->line = cf->conf_file->line;

        llcfp = ngx_array_push(&mcf->passes);
        if (llcfp == NULL) {
            return NGX_CONF_ERROR;
        }

        *llcfp = llcf;
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_llm_handler;

    return NGX_CONF_OK;
}


char *
ngx_http_llm_prefix_bytes(ngx_conf_t *cf, void *post, void *data)
{
    size_t *bytes = data;

    if (*bytes == 0 || *bytes > NGX_HTTP_LLM_PREFIX_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"llm_prefix_bytes\" must be from 1 to %d",
                           NGX_HTTP_LLM_PREFIX_MAX);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/* an empty salt would be none, which is a mistake rather than a wish */

char *
ngx_http_llm_key_salt(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_main_conf_t *mcf = conf;

    ngx_str_t  *value;

    if (mcf->key_salt.len) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0) {
        return "must not be empty";
    }

    mcf->key_salt = value[1];

    return NGX_CONF_OK;
}


char *
ngx_http_llm_endpoint(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_loc_conf_t *llcf = conf;

    ngx_str_t  *value;

    if (llcf->route != LLM_ROUTE_NONE) {
        return "is duplicate";
    }

    value = cf->args->elts;

    llcf->route = llm_route_by_name((char *) value[1].data, value[1].len);

    if (llcf->route == LLM_ROUTE_NONE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown endpoint \"%V\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


char *
ngx_http_llm_health(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_loc_conf_t *llcf = conf;

    ngx_str_t                  *value;
    ngx_http_core_loc_conf_t   *clcf;
    ngx_http_llm_loc_conf_t   **llcfp;
    ngx_http_llm_main_conf_t   *mcf;

    if (llcf->health || llcf->pass || llcf->pass_name.len || llcf->status) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "live") == 0) {
        llcf->health = NGX_HTTP_LLM_HEALTH_LIVE;

    } else if (ngx_strcmp(value[1].data, "ready") == 0) {
        llcf->health = NGX_HTTP_LLM_HEALTH_READY;

    } else if (ngx_strcmp(value[1].data, "deep") == 0) {
        llcf->health = NGX_HTTP_LLM_HEALTH_DEEP;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"llm_health\" takes \"live\", \"ready\" or "
                           "\"deep\", not \"%V\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts == 3) {

        if (llcf->health == NGX_HTTP_LLM_HEALTH_LIVE) {
            return "takes no engine after \"live\", which looks at none";
        }

        llcf->health_engine = value[2];
        llcf->file = cf->conf_file->file.name.data;
        llcf->line = cf->conf_file->line;

        mcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_llm_module);

        llcfp = ngx_array_push(&mcf->passes);
        if (llcfp == NULL) {
            return NGX_CONF_ERROR;
        }

        *llcfp = llcf;
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_llm_health_handler;

    return NGX_CONF_OK;
}


char *
ngx_http_llm_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_loc_conf_t *llcf = conf;

    ngx_str_t                 *value;
    ngx_http_core_loc_conf_t  *clcf;
    ngx_http_llm_main_conf_t  *mcf;

    if (llcf->status || llcf->health || llcf->pass || llcf->pass_name.len) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 1) {
        llcf->status = NGX_HTTP_LLM_STATUS_ANY;

    } else if (ngx_strcmp(value[1].data, "prometheus") == 0) {
        llcf->status = NGX_HTTP_LLM_STATUS_PROMETHEUS;

    } else if (ngx_strcmp(value[1].data, "json") == 0) {
        llcf->status = NGX_HTTP_LLM_STATUS_JSON;

    } else if (ngx_strcmp(value[1].data, "html") == 0) {
        llcf->status = NGX_HTTP_LLM_STATUS_HTML;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"llm_status\" takes \"prometheus\", \"json\" or "
                           "\"html\", not \"%V\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_llm_module);
    mcf->status_used = 1;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_llm_status_handler;

    return NGX_CONF_OK;
}


char *
ngx_http_llm_status_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_main_conf_t *mcf = conf;

    ssize_t     size;
    ngx_str_t  *value;

    if (mcf->status_size) {
        return "is duplicate";
    }

    value = cf->args->elts;
    size = ngx_parse_size(&value[1]);

    if (size == NGX_ERROR || size < NGX_HTTP_LLM_STATUS_ZONE_MIN) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"llm_status_zone\" takes a size of at least %dk, "
                           "not \"%V\"", NGX_HTTP_LLM_STATUS_ZONE_MIN / 1024,
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    mcf->status_size = (size_t) size;

    return NGX_CONF_OK;
}


/* names may be used above their llm_engine, so they are looked up at the end */

ngx_int_t
ngx_http_llm_resolve_passes(ngx_conf_t *cf)
{
    ngx_str_t                  *name;
    ngx_uint_t                  i;
    ngx_http_llm_loc_conf_t   **llcfp, *llcf;
    ngx_http_llm_main_conf_t   *mcf;

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_llm_module);
    llcfp = mcf->passes.elts;

    for (i = 0; i < mcf->passes.nelts; i++) {
        llcf = llcfp[i];

        if (llcf->health) {
            name = &llcf->health_engine;
            llcf->engine = ngx_http_llm_find_engine(mcf, name);

        } else {
            name = &llcf->pass_name;
            llcf->model = ngx_http_llm_find_model(mcf, name);
        }

        if (llcf->engine == NULL && llcf->model == NULL) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "no \"llm_engine %V\" is defined, but \"%s\" "
                          "names it in %s:%ui", name,
                          llcf->health ? "llm_health" : "llm_pass",
                          llcf->file, llcf->line);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


ngx_http_llm_engine_t *
ngx_http_llm_find_engine(ngx_http_llm_main_conf_t *mcf, ngx_str_t *name)
{
    ngx_uint_t               i;
    ngx_http_llm_engine_t  **enginep;

    enginep = mcf->engines.elts;

    for (i = 0; i < mcf->engines.nelts; i++) {
        if (enginep[i]->name.len == name->len
            && ngx_strncmp(enginep[i]->name.data, name->data, name->len) == 0)
        {
            return enginep[i];
        }
    }

    return NULL;
}


/* NULL: the configuration has no http{} */

ngx_http_llm_main_conf_t *
ngx_http_llm_cycle_conf(ngx_cycle_t *cycle)
{
    if (ngx_get_conf(cycle->conf_ctx, ngx_http_module) == NULL) {
        return NULL;
    }

    return ngx_http_cycle_get_module_main_conf(cycle, ngx_http_llm_module);
}
