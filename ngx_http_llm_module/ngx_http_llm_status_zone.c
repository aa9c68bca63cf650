
/*
 * ngx_http_llm_status_zone.c - figures of other zones in llm_status: who has
 * one calls ngx_http_llm_status_add_zone() at configuration, and is asked when
 * somebody looks.  Also the cleaning of names.
 *
 * A zone's figure NAME becomes nginx_llm_zone_NAME{kind="..",zone=".."} and a
 * member of an object in "zones" of the JSON document.
 */


#include "ngx_http_llm_status.h"


static ngx_uint_t ngx_http_llm_status_zone_names(ngx_array_t *zones,
    const char **names, const char **helps, unsigned *counters);


/* may be called before or without llm_status; the name must stay */

ngx_int_t
ngx_http_llm_status_add_zone(ngx_conf_t *cf, const char *kind,
    ngx_str_t *name, ngx_http_llm_status_zone_pt handler, void *data)
{
    size_t                       i;
    ngx_http_llm_main_conf_t    *mcf;
    ngx_http_llm_status_zone_t  *zone;

    for (i = 0; i < name->len; i++) {
        if (name->data[i] == '"' || name->data[i] == '\\'
            || name->data[i] <= 0x20 || name->data[i] >= 0x7f)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid zone name \"%V\"", name);
            return NGX_ERROR;
        }
    }

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_llm_module);

    if (mcf->status_zones == NULL) {
        mcf->status_zones = ngx_array_create(cf->pool, 4,
                                           sizeof(ngx_http_llm_status_zone_t));
        if (mcf->status_zones == NULL) {
            return NGX_ERROR;
        }
    }

    zone = ngx_array_push(mcf->status_zones);
    if (zone == NULL) {
        return NGX_ERROR;
    }

    zone->kind = kind;
    zone->name = *name;
    zone->handler = handler;
    zone->data = data;
    zone->nfigures = 0;

    return NGX_OK;
}


/* all figures are read once, then written family by family */

void
ngx_http_llm_status_zones_text(ngx_http_llm_status_out_t *out)
{
    unsigned                     counters[NGX_HTTP_LLM_STATUS_FIGURES];
    const char                  *names[NGX_HTTP_LLM_STATUS_FIGURES];
    const char                  *helps[NGX_HTTP_LLM_STATUS_FIGURES];
    ngx_uint_t                   i, k, n, f;
    ngx_http_llm_main_conf_t    *mcf;
    ngx_http_llm_status_zone_t  *zone;

    mcf = ngx_http_get_module_main_conf(out->request, ngx_http_llm_module);

    if (mcf->status_zones == NULL) {
        return;
    }

    n = ngx_http_llm_status_zone_names(mcf->status_zones, names, helps,
                                       counters);
    zone = mcf->status_zones->elts;

    for (f = 0; f < n; f++) {
        ngx_http_llm_status_printf(out, "# HELP nginx_llm_zone_%s %s\n"
                                   "# TYPE nginx_llm_zone_%s %s\n",
                                   names[f], helps[f], names[f],
                                   counters[f] ? "counter" : "gauge");

        for (i = 0; i < mcf->status_zones->nelts; i++) {
            for (k = 0; k < zone[i].nfigures; k++) {

                if (ngx_strcmp(zone[i].figures[k].name, names[f]) == 0) {
                    ngx_http_llm_status_printf(out, "nginx_llm_zone_%s{kind="
                                               "\"%s\",zone=\"%V\"} %L\n",
                                               names[f], zone[i].kind,
                                               &zone[i].name,
                                               zone[i].figures[k].value);
                }
            }
        }
    }
}


void
ngx_http_llm_status_zones_json(ngx_http_llm_status_out_t *out)
{
    unsigned                     counters[NGX_HTTP_LLM_STATUS_FIGURES];
    const char                  *names[NGX_HTTP_LLM_STATUS_FIGURES];
    const char                  *helps[NGX_HTTP_LLM_STATUS_FIGURES];
    ngx_uint_t                   i, k;
    ngx_http_llm_main_conf_t    *mcf;
    ngx_http_llm_status_zone_t  *zone;

    mcf = ngx_http_get_module_main_conf(out->request, ngx_http_llm_module);

    if (mcf->status_zones == NULL) {
        return;
    }

    (void) ngx_http_llm_status_zone_names(mcf->status_zones, names, helps,
                                          counters);
    zone = mcf->status_zones->elts;

    for (i = 0; i < mcf->status_zones->nelts; i++) {
        ngx_http_llm_status_printf(out, "%s{\"kind\":\"%s\",\"zone\":\"%V\"",
                                   i ? "," : "", zone[i].kind, &zone[i].name);

        for (k = 0; k < zone[i].nfigures; k++) {
            ngx_http_llm_status_printf(out, ",\"%s\":%L",
                                       zone[i].figures[k].name,
                                       zone[i].figures[k].value);
        }

        ngx_http_llm_status_printf(out, "}");
    }
}


/* asks each zone; the names of all figures, each once */

static ngx_uint_t
ngx_http_llm_status_zone_names(ngx_array_t *zones, const char **names,
    const char **helps, unsigned *counters)
{
    ngx_uint_t                   i, k, f, n;
    ngx_http_llm_status_zone_t  *zone;

    n = 0;
    zone = zones->elts;

    for (i = 0; i < zones->nelts; i++) {

        zone[i].nfigures = zone[i].handler(zone[i].data, zone[i].figures,
                                           NGX_HTTP_LLM_STATUS_FIGURES);

        for (k = 0; k < zone[i].nfigures; k++) {

            for (f = 0; f < n; f++) {
                if (ngx_strcmp(names[f], zone[i].figures[k].name) == 0) {
                    break;
                }
            }

            if (f == n && n < NGX_HTTP_LLM_STATUS_FIGURES) {
                names[n] = zone[i].figures[k].name;
                helps[n] = zone[i].figures[k].help;
                counters[n] = zone[i].figures[k].counter;
                n++;
            }
        }
    }

    return n;
}


/* UTF-8 without control characters, at most so long that a line holds it */

ngx_int_t
ngx_http_llm_status_clean(ngx_pool_t *pool, ngx_str_t *out, u_char *data,
    size_t len)
{
    u_char    *p, *last, *from, *dst;
    uint32_t   c;

    dst = ngx_pnalloc(pool, len + 1);
    if (dst == NULL) {
        return NGX_ERROR;
    }

    out->data = dst;
    p = data;
    last = data + len;

    while (p < last && dst - out->data < LLM_MODEL_BYTES_MAX) {
        from = p;

        if (*p < 0x80) {
            *dst++ = (*p < 0x20 || *p == 0x7f) ? '?' : *p;
            p++;
            continue;
        }

        c = ngx_utf8_decode(&p, last - p);

        if (c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) {
            *dst++ = '?';
            p = from + 1;
            continue;
        }

        dst = ngx_cpymem(dst, from, p - from);
    }

    out->len = dst - out->data;

    return NGX_OK;
}
