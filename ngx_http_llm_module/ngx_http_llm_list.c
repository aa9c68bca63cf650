
/*
 * ngx_http_llm_list.c - what llm_model has made of the engines, told to
 * clients: GET /v1/models, and the 404 for a name that is none of them.
 */


#include "ngx_http_llm.h"


#define NGX_HTTP_LLM_NAMES_SHOWN  16         /* in "does not exist" */


static ngx_uint_t ngx_http_llm_is_utf8(ngx_str_t *s);
static size_t ngx_http_llm_card_size(ngx_str_t *name,
    ngx_http_llm_model_t *model);
static u_char *ngx_http_llm_card(u_char *p, ngx_str_t *name,
    ngx_http_llm_model_t *model, time_t created);
static u_char *ngx_http_llm_cards(u_char *p, ngx_http_llm_model_t *model,
    time_t created);


/*
 * The name that llm_pass has come to is nobody's.  What the client hears is
 * about the model it has asked for, and says what there is, for people who
 * have mistyped it; what the configuration has made of it is in the log.
 */

ngx_int_t
ngx_http_llm_no_model(ngx_http_llm_ctx_t *ctx, ngx_http_llm_main_conf_t *mcf,
    ngx_str_t *name)
{
    u_char                 *p, *message;
    size_t                  size;
    ngx_str_t               asked;
    ngx_uint_t              i, n;
    ngx_http_llm_model_t  **modelp;

    if (ngx_http_llm_scan(ctx) == NGX_ERROR) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    asked = ctx->model_id.len ? ctx->model_id : ctx->asked;

    if (name->len != asked.len
        || ngx_strncmp(name->data, asked.data, asked.len) != 0)
    {
        ngx_log_error(NGX_LOG_ERR, ctx->request->connection->log, 0,
                      "no \"llm_engine\" is called \"%V\"", name);

    } else {
        ngx_log_error(NGX_LOG_INFO, ctx->request->connection->log, 0,
                      "no model and no engine is called \"%V\"", name);
    }

    if (asked.len == 0 && name->len) {
        return ngx_http_llm_error(ctx, NGX_HTTP_NOT_FOUND, "engine_not_found",
                                  "No engine serves this request.");
    }

    modelp = mcf->models.elts;
    n = ngx_min(mcf->models.nelts, NGX_HTTP_LLM_NAMES_SHOWN);

    size = sizeof("The model `` does not exist. Models here: , ...")
           + asked.len * 6;

    for (i = 0; i < n; i++) {
        size += modelp[i]->name.len * 6 + 2;
    }

    message = ngx_pnalloc(ctx->request->pool, size);
    if (message == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (asked.len && ngx_http_llm_is_utf8(&asked)) {
        p = ngx_cpymem(message, "The model `", sizeof("The model `") - 1);
        p = (u_char *) ngx_escape_json(p, asked.data, asked.len);
        p = ngx_cpymem(p, "` does not exist.",
                       sizeof("` does not exist.") - 1);

    } else {
        p = ngx_sprintf(message, "%s", asked.len
                        ? "The model does not exist."
                        : "The request names no model.");
    }

    for (i = 0; i < n; i++) {
        p = ngx_sprintf(p, "%s", i ? ", " : " Models here: ");
        p = (u_char *) ngx_escape_json(p, modelp[i]->name.data,
                                       modelp[i]->name.len);
    }

    *p = '\0';

    ctx->error.param = "model";

    return ngx_http_llm_error(ctx, NGX_HTTP_NOT_FOUND, "model_not_found",
                              (char *) message);
}


static ngx_uint_t
ngx_http_llm_is_utf8(ngx_str_t *s)
{
    u_char  *p, *last;

    p = s->data;
    last = s->data + s->len;

    while (p < last) {

        if (*p < 0x80) {
            p++;
            continue;
        }

        if (ngx_utf8_decode(&p, last - p) > 0x10ffff) {
            return 0;
        }
    }

    return 1;
}


/*
 * /v1/models where llm_model is used; NGX_DECLINED: an engine answers.  With
 * a variable the list is of what can be asked for, which is every name.
 */

ngx_int_t
ngx_http_llm_list_models(ngx_http_llm_ctx_t *ctx)
{
    size_t                      size;
    ngx_buf_t                  *b;
    ngx_str_t                   name, *alias;
    ngx_uint_t                  i, j, n;
    ngx_http_request_t         *r;
    ngx_http_llm_model_t       *model, **modelp;
    ngx_http_llm_loc_conf_t    *llcf;
    ngx_http_llm_main_conf_t   *mcf;

    r = ctx->request;
    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);
    mcf = ngx_http_get_module_main_conf(r, ngx_http_llm_module);

    ngx_str_null(&name);
    model = llcf->model;

    if (llcf->pass) {

        if (ngx_http_complex_value(r, llcf->pass, &name) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        model = ngx_http_llm_find_model(mcf, &name);
    }

    if (mcf->models.nelts == 0 || (model && model->is_engine)) {
        return NGX_DECLINED;
    }

    if (ctx->model_id.len) {

        if (model && llcf->pass == NULL
            && ngx_http_llm_find_virtual(mcf, &ctx->model_id) != model)
        {
            model = NULL;
        }

        if (model == NULL) {
            return ngx_http_llm_no_model(ctx, mcf, &ctx->model_id);
        }

        b = ngx_create_temp_buf(r->pool,
                                ngx_http_llm_card_size(&ctx->model_id, model));
        if (b == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        b->last = ngx_http_llm_card(b->last, &ctx->model_id, model,
                                    mcf->created);

        return ngx_http_llm_send_json(r, NGX_HTTP_OK, b);
    }

    if (model) {
        modelp = &model;
        n = 1;

    } else {
        modelp = mcf->models.elts;
        n = mcf->models.nelts;
    }

    size = sizeof("{\"object\":\"list\",\"data\":[]}");

    for (i = 0; i < n; i++) {
        size += ngx_http_llm_card_size(&modelp[i]->name, modelp[i]);

        alias = modelp[i]->aliases->elts;

        for (j = 0; j < modelp[i]->aliases->nelts; j++) {
            size += ngx_http_llm_card_size(&alias[j], modelp[i]);
        }
    }

    b = ngx_create_temp_buf(r->pool, size);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b->last = ngx_sprintf(b->last, "{\"object\":\"list\",\"data\":[");

    for (i = 0; i < n; i++) {

        if (i) {
            *b->last++ = ',';
        }

        b->last = ngx_http_llm_cards(b->last, modelp[i], mcf->created);
    }

    b->last = ngx_sprintf(b->last, "]}");

    return ngx_http_llm_send_json(r, NGX_HTTP_OK, b);
}


static size_t
ngx_http_llm_card_size(ngx_str_t *name, ngx_http_llm_model_t *model)
{
    return sizeof("{\"id\":\"\",\"object\":\"model\",\"created\":,"
                  "\"owned_by\":\"nginx-llm\",\"root\":\"\","
                  "\"parent\":null,\"permission\":[]},")
           + NGX_TIME_T_LEN + (name->len + model->name.len) * 6;
}


static u_char *
ngx_http_llm_card(u_char *p, ngx_str_t *name, ngx_http_llm_model_t *model,
    time_t created)
{
    p = ngx_sprintf(p, "{\"id\":\"");
    p = (u_char *) ngx_escape_json(p, name->data, name->len);
    p = ngx_sprintf(p, "\",\"object\":\"model\",\"created\":%T,"
                    "\"owned_by\":\"nginx-llm\",\"root\":\"", created);
    p = (u_char *) ngx_escape_json(p, model->name.data, model->name.len);

    return ngx_sprintf(p, "\",\"parent\":null,\"permission\":[]}");
}


static u_char *
ngx_http_llm_cards(u_char *p, ngx_http_llm_model_t *model, time_t created)
{
    ngx_str_t   *alias;
    ngx_uint_t   i;

    p = ngx_http_llm_card(p, &model->name, model, created);

    alias = model->aliases->elts;

    for (i = 0; i < model->aliases->nelts; i++) {
        *p++ = ',';
        p = ngx_http_llm_card(p, &alias[i], model, created);
    }

    return p;
}
