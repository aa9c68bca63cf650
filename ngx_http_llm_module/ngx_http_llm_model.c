
/*
 * ngx_http_llm_model.c - llm_model: the names that clients may ask for, and
 * the engines that stand behind each of them.
 *
 * llm_pass finds a model by its name or an alias, then an engine by its name.
 * The engines of a model get the name that they know it by, whatever the body
 * says, so nothing in a body is ever rewritten.
 */


#include "ngx_http_llm.h"


static char *ngx_http_llm_model_option(ngx_conf_t *cf,
    ngx_http_llm_main_conf_t *mcf, ngx_http_llm_model_t *model,
    ngx_str_t *value);
static char *ngx_http_llm_model_names(ngx_conf_t *cf, ngx_array_t *names,
    ngx_str_t *list);
static char *ngx_http_llm_model_check(ngx_conf_t *cf,
    ngx_http_llm_main_conf_t *mcf, ngx_http_llm_model_t *model);
static ngx_http_llm_model_t *ngx_http_llm_model_of_engine(ngx_conf_t *cf,
    ngx_http_llm_engine_t *engine);
static ngx_int_t ngx_http_llm_resolve_model(ngx_conf_t *cf,
    ngx_http_llm_main_conf_t *mcf, ngx_http_llm_model_t *model);
static ngx_uint_t ngx_http_llm_has_name(ngx_array_t *names, ngx_str_t *name);


/* llm_model NAME ENGINE ... [model=] [alias=,] [fallback=,] [default] */

char *
ngx_http_llm_model(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_main_conf_t *mcf = conf;

    char                   *rv;
    ngx_str_t              *value, *name;
    ngx_uint_t              i;
    ngx_http_llm_model_t   *model, **modelp;

    value = cf->args->elts;

    model = ngx_pcalloc(cf->pool, sizeof(ngx_http_llm_model_t));
    if (model == NULL) {
        return NGX_CONF_ERROR;
    }

    model->name = value[1];
    model->file = cf->conf_file->file.name.data;
    model->line = cf->conf_file->line;

    model->names = ngx_array_create(cf->pool, 4, sizeof(ngx_str_t));
    model->aliases = ngx_array_create(cf->pool, 4, sizeof(ngx_str_t));
    model->others = ngx_array_create(cf->pool, 4, sizeof(ngx_str_t));

    if (model->names == NULL || model->aliases == NULL
        || model->others == NULL)
    {
        return NGX_CONF_ERROR;
    }

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_strcmp(value[i].data, "default") == 0
            || ngx_strlchr(value[i].data, value[i].data + value[i].len, '='))
        {
            rv = ngx_http_llm_model_option(cf, mcf, model, &value[i]);
            if (rv != NGX_CONF_OK) {
                return rv;
            }

            continue;
        }

        if (ngx_http_llm_has_name(model->names, &value[i])) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "model \"%V\" has the engine \"%V\" twice",
                               &model->name, &value[i]);
            return NGX_CONF_ERROR;
        }

        name = ngx_array_push(model->names);
        if (name == NULL) {
            return NGX_CONF_ERROR;
        }

        *name = value[i];
    }

    rv = ngx_http_llm_model_check(cf, mcf, model);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    modelp = ngx_array_push(&mcf->models);
    if (modelp == NULL) {
        return NGX_CONF_ERROR;
    }

    *modelp = model;

    return NGX_CONF_OK;
}


static char *
ngx_http_llm_model_option(ngx_conf_t *cf, ngx_http_llm_main_conf_t *mcf,
    ngx_http_llm_model_t *model, ngx_str_t *value)
{
    ngx_str_t  s;

    if (ngx_strcmp(value->data, "default") == 0) {

        if (mcf->default_model) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "the default model is \"%V\" already",
                               &mcf->default_model->name);
            return NGX_CONF_ERROR;
        }

        mcf->default_model = model;
        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value->data, "model=", 6) == 0) {
        model->sent.data = value->data + 6;
        model->sent.len = value->len - 6;

        if (model->sent.len == 0 || model->sent.len > LLM_MODEL_BYTES_MAX) {
            goto invalid;
        }

        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value->data, "alias=", 6) == 0) {
        s.data = value->data + 6;
        s.len = value->len - 6;

        return ngx_http_llm_model_names(cf, model->aliases, &s);
    }

    if (ngx_strncmp(value->data, "fallback=", 9) == 0) {
        s.data = value->data + 9;
        s.len = value->len - 9;

        return ngx_http_llm_model_names(cf, model->others, &s);
    }

invalid:

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid parameter \"%V\" of model \"%V\"",
                       value, &model->name);
    return NGX_CONF_ERROR;
}


/* a,b,c */

static char *
ngx_http_llm_model_names(ngx_conf_t *cf, ngx_array_t *names, ngx_str_t *list)
{
    u_char     *p, *last, *comma;
    ngx_str_t   one, *name;

    p = list->data;
    last = list->data + list->len;

    for ( ;; ) {
        comma = ngx_strlchr(p, last, ',');

        one.data = p;
        one.len = (comma ? comma : last) - p;

        if (one.len == 0 || ngx_http_llm_has_name(names, &one)) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               one.len ? "\"%V\" has a name twice"
                                       : "\"%V\" has an empty name", list);
            return NGX_CONF_ERROR;
        }

        name = ngx_array_push(names);
        if (name == NULL) {
            return NGX_CONF_ERROR;
        }

        *name = one;

        if (comma == NULL) {
            return NGX_CONF_OK;
        }

        p = comma + 1;
    }
}


/* what can be said before all names are known */

static char *
ngx_http_llm_model_check(ngx_conf_t *cf, ngx_http_llm_main_conf_t *mcf,
    ngx_http_llm_model_t *model)
{
    ngx_str_t              *name;
    ngx_uint_t              i;
    ngx_http_llm_model_t   *other;

    if (model->names->nelts == 0
        || model->names->nelts > NGX_HTTP_LLM_MODEL_ENGINES)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "model \"%V\" has %ui engines, 1 to %d are "
                           "allowed", &model->name, model->names->nelts,
                           NGX_HTTP_LLM_MODEL_ENGINES);
        return NGX_CONF_ERROR;
    }

    name = model->aliases->elts;

    for (i = 0; i <= model->aliases->nelts; i++) {

        if (i == model->aliases->nelts) {
            name = &model->name;

        } else {
            name = (ngx_str_t *) model->aliases->elts + i;
        }

        if (name->len == 0 || name->len > LLM_MODEL_BYTES_MAX) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "model name \"%V\" has %uz bytes, 1 to %ud "
                               "are allowed", name, name->len,
                               LLM_MODEL_BYTES_MAX);
            return NGX_CONF_ERROR;
        }

        other = ngx_http_llm_find_virtual(mcf, name);

        if (other || (name != &model->name
                      && name->len == model->name.len
                      && ngx_strncmp(name->data, model->name.data, name->len)
                         == 0))
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "duplicate model name \"%V\"", name);
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


/* every name is known now: engines, models and aliases */

ngx_int_t
ngx_http_llm_resolve_models(ngx_conf_t *cf)
{
    ngx_uint_t                  i;
    ngx_http_llm_model_t      **modelp;
    ngx_http_llm_engine_t     **enginep;
    ngx_http_llm_main_conf_t   *mcf;

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_llm_module);

    mcf->created = ngx_time();

    enginep = mcf->engines.elts;

    for (i = 0; i < mcf->engines.nelts; i++) {
        enginep[i]->model = ngx_http_llm_model_of_engine(cf, enginep[i]);
        if (enginep[i]->model == NULL) {
            return NGX_ERROR;
        }
    }

    modelp = mcf->models.elts;

    for (i = 0; i < mcf->models.nelts; i++) {
        if (ngx_http_llm_resolve_model(cf, mcf, modelp[i]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_http_llm_model_t *
ngx_http_llm_model_of_engine(ngx_conf_t *cf, ngx_http_llm_engine_t *engine)
{
    ngx_http_llm_model_t  *model;

    model = ngx_pcalloc(cf->pool, sizeof(ngx_http_llm_model_t));
    if (model == NULL) {
        return NULL;
    }

    model->engines = ngx_palloc(cf->pool, sizeof(ngx_http_llm_engine_t *));
    if (model->engines == NULL) {
        return NULL;
    }

    model->name = engine->name;
    model->engines[0] = engine;
    model->nengines = 1;
    model->is_engine = 1;

    return model;
}


static ngx_int_t
ngx_http_llm_resolve_model(ngx_conf_t *cf, ngx_http_llm_main_conf_t *mcf,
    ngx_http_llm_model_t *model)
{
    ngx_str_t   *name;
    ngx_uint_t   i, j;

    model->engines = ngx_palloc(cf->pool, model->names->nelts
                                          * sizeof(ngx_http_llm_engine_t *));
    model->fallbacks = ngx_palloc(cf->pool, (model->others->nelts + 1)
                                          * sizeof(ngx_http_llm_model_t *));
    if (model->engines == NULL || model->fallbacks == NULL) {
        return NGX_ERROR;
    }

    name = model->names->elts;

    for (i = 0; i < model->names->nelts; i++) {
        model->engines[i] = ngx_http_llm_find_engine(mcf, &name[i]);

        if (model->engines[i] == NULL) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "no \"llm_engine %V\" is defined, but model \"%V\" "
                          "names it in %s:%ui",
                          &name[i], &model->name, model->file, model->line);
            return NGX_ERROR;
        }
    }

    model->nengines = model->names->nelts;

    name = model->others->elts;

    for (i = 0; i < model->others->nelts; i++) {
        model->fallbacks[i] = ngx_http_llm_find_virtual(mcf, &name[i]);

        if (model->fallbacks[i] == NULL || model->fallbacks[i] == model) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "fallback \"%V\" of model \"%V\" is %s in %s:%ui",
                          &name[i], &model->name,
                          model->fallbacks[i] ? "the model itself"
                                              : "no \"llm_model\"",
                          model->file, model->line);
            return NGX_ERROR;
        }

        for (j = 0; j < i; j++) {
            if (model->fallbacks[j] == model->fallbacks[i]) {
                ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                              "fallback \"%V\" of model \"%V\" stands there "
                              "twice in %s:%ui", &name[i], &model->name,
                              model->file, model->line);
                return NGX_ERROR;
            }
        }
    }

    model->nfallbacks = model->others->nelts;

    return NGX_OK;
}


static ngx_uint_t
ngx_http_llm_has_name(ngx_array_t *names, ngx_str_t *name)
{
    ngx_str_t   *s;
    ngx_uint_t   i;

    s = names->elts;

    for (i = 0; i < names->nelts; i++) {
        if (s[i].len == name->len
            && ngx_strncmp(s[i].data, name->data, name->len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


/* by the name of an llm_model or by an alias */

ngx_http_llm_model_t *
ngx_http_llm_find_virtual(ngx_http_llm_main_conf_t *mcf, ngx_str_t *name)
{
    ngx_uint_t              i;
    ngx_http_llm_model_t  **modelp;

    modelp = mcf->models.elts;

    for (i = 0; i < mcf->models.nelts; i++) {

        if ((modelp[i]->name.len == name->len
             && ngx_strncmp(modelp[i]->name.data, name->data, name->len) == 0)
            || ngx_http_llm_has_name(modelp[i]->aliases, name))
        {
            return modelp[i];
        }
    }

    return NULL;
}


ngx_http_llm_model_t *
ngx_http_llm_find_model(ngx_http_llm_main_conf_t *mcf, ngx_str_t *name)
{
    ngx_http_llm_model_t   *model;
    ngx_http_llm_engine_t  *engine;

    model = ngx_http_llm_find_virtual(mcf, name);
    if (model) {
        return model;
    }

    engine = ngx_http_llm_find_engine(mcf, name);

    return engine ? engine->model : NULL;
}


/* the body is there; NGX_OK: ctx->model, else a status */

ngx_int_t
ngx_http_llm_select_model(ngx_http_llm_ctx_t *ctx)
{
    ngx_str_t                  name;
    ngx_http_request_t        *r;
    ngx_http_llm_loc_conf_t   *llcf;
    ngx_http_llm_main_conf_t  *mcf;

    r = ctx->request;
    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);

    if (llcf->pass == NULL) {
        ctx->model = llcf->model;
        return NGX_OK;
    }

    if (ngx_http_complex_value(r, llcf->pass, &name) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    mcf = ngx_http_get_module_main_conf(r, ngx_http_llm_module);

    ctx->model = name.len ? ngx_http_llm_find_model(mcf, &name)
                          : mcf->default_model;

    if (ctx->model == NULL) {
        return ngx_http_llm_no_model(ctx, mcf, &name);
    }

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "llm: \"%V\" is model \"%V\"", &name, &ctx->model->name);

    return NGX_OK;
}
