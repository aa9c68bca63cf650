/* bench_request.c - URL, header fields and bodies of the requests. */
#include "tools/bench_request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BODY_BYTES_MAX   (128u << 20)
#define HEAD_BYTES_MAX   65536
#define EXTRA_BYTES_MAX  (64u << 20)

/* ---- URL ---------------------------------------------------------------- */
static int
url_bad(const char *base_url, const char *why, struct err *err)
{
    return err_set(err, "--base-url %s: %s; it looks like "
                   "http://127.0.0.1:8000", base_url, why);
}

/* "HOST", "HOST:PORT", "[V6]:PORT" up to the end or a '/'; what follows. */
static const char *
url_authority(struct bench_url *out, const char *text)
{
    size_t       len = strcspn(text, "/");
    bool         v6 = text[0] == '[';
    const char  *begin = v6 ? text + 1 : text;
    size_t       host_len = strcspn(begin, v6 ? "]" : ":/");
    const char  *after = begin + host_len + (v6 && begin[host_len] == ']');

    if (host_len == 0 || (v6 && begin[host_len] != ']')
        || host_len >= sizeof out->host || after > text + len) {
        return NULL;
    }
    memcpy(out->host, begin, host_len);
    out->host[host_len] = '\0';
    if (after < text + len) {
        char  *end = NULL;
        long   port = *after == ':' ? strtol(after + 1, &end, 10) : 0;
        if (end != text + len || port < 1 || port > 65535) {
            return NULL;
        }
        (void) snprintf(out->port, sizeof out->port, "%ld", port);
    }
    return text + len;
}

int
bench_url_parse(struct bench_url *out, const char *base_url, const char *host,
                int64_t port, const char *endpoint, struct err *err)
{
    const char  *prefix = "";

    *out = (struct bench_url) { .port = "80" };
    if (base_url == NULL) {
        if (strlen(host) >= sizeof out->host) {
            return err_set(err, "--host is longer than %zu bytes",
                           sizeof out->host - 1);
        }
        (void) snprintf(out->host, sizeof out->host, "%s", host);
        (void) snprintf(out->port, sizeof out->port, "%lld", (long long) port);
    } else if (strncmp(base_url, "https://", 8) == 0) {
        return url_bad(base_url, "there is no TLS here; name a plain listener "
                       "of the server", err);
    } else if (strncmp(base_url, "http://", 7) != 0) {
        return url_bad(base_url, "no http:// at the beginning", err);
    } else {
        prefix = url_authority(out, base_url + 7);
        if (prefix == NULL) {
            return url_bad(base_url, "host or port is not understood", err);
        }
    }
    size_t  prefix_len = strlen(prefix);
    while (prefix_len > 0 && prefix[prefix_len - 1] == '/') {
        prefix_len--;
    }
    int  n = snprintf(out->path, sizeof out->path, "%.*s%s", (int) prefix_len,
                      prefix, endpoint);
    if (endpoint[0] != '/' || n < 0 || (size_t) n >= sizeof out->path
        || strpbrk(out->path, " \r\n\t") != NULL)
    {
        return err_set(err, "--endpoint %s: not a path like /v1/completions",
                       endpoint);
    }
    if (!str_ends_with(str_from(out->path), STR("completions"))) {
        return err_set(err, "--endpoint %s: neither /v1/completions nor "
                       "/v1/chat/completions", endpoint);
    }
    out->is_chat = str_ends_with(str_from(out->path), STR("chat/completions"));
    (void) snprintf(out->authority, sizeof out->authority,
                    strchr(out->host, ':') != NULL ? "[%s]:%s" : "%s:%s",
                    out->host, out->port);
    return OK;
}

/* ---- header fields ------------------------------------------------------ */
static int
add_header(struct bench_request *m, const char *word, struct err *err)
{
    size_t       len = strcspn(word, ":=");
    const char  *value = word + len + (word[len] != '\0');

    while (*value == ' ') {
        value++;
    }
    if (len == 0 || word[len] == '\0' || strpbrk(word, "\r\n") != NULL
        || strcspn(word, " \t") < len)
    {
        return err_set(err, "--header \"%s\" is not 'Name: value' or "
                       "Name=value", word);
    }
    buf_appendf(&m->head, "%.*s: %s\r\n", (int) len, word, value);
    return OK;
}

static int
make_head(struct bench_request *m, struct err *err)
{
    buf_appendf(&m->head, "POST %s HTTP/1.1\r\nHost: %s\r\n"
                "Content-Type: application/json\r\n"
                "Accept: text/event-stream\r\n", m->url->path,
                m->url->authority);
    for (int i = 0; i < m->cli->header.num; i++) {
        if (add_header(m, m->cli->header.items[i], err) != OK) {
            return ERROR;
        }
    }
    return m->head.failed ? err_set(err, "--header: more than %d bytes",
                                    HEAD_BYTES_MAX) : OK;
}

/* ---- body --------------------------------------------------------------- */
struct sampling_switch {
    const char *option, *field, *value;
};

#define NUM_SWITCHES  7

static void
sampling_switches(const struct bench_cli *cli,
                  struct sampling_switch out[NUM_SWITCHES])
{
    const struct sampling_switch  all[NUM_SWITCHES] = {
        { "temperature", "temperature", cli->temperature },
        { "top-p", "top_p", cli->top_p },
        { "top-k", "top_k", cli->top_k },
        { "min-p", "min_p", cli->min_p },
        { "frequency-penalty", "frequency_penalty", cli->frequency_penalty },
        { "presence-penalty", "presence_penalty", cli->presence_penalty },
        { "repetition-penalty", "repetition_penalty",
          cli->repetition_penalty },
    };
    memcpy(out, all, sizeof all);
}

static int
check_sampling(struct bench_request *m, struct err *err)
{
    struct sampling_switch  s[NUM_SWITCHES];
    struct json            *v;

    sampling_switches(m->cli, s);
    for (int i = 0; i < NUM_SWITCHES; i++) {
        if (s[i].value != NULL
            && (json_parse(&v, str_from(s[i].value), &m->arena,
                           &json_limits_file, NULL) != OK
                || (v->type != JSON_INT && v->type != JSON_FLOAT)))
        {
            return err_set(err, "--%s: \"%s\" is not a number", s[i].option,
                           s[i].value);
        }
    }
    return OK;
}

/* Begins a member unless --extra-body has one of this name. */
static bool
begin_member(struct bench_request *m, const char *name)
{
    if (json_find(m->extra, name) != NULL) {
        return false;
    }
    if (m->body.len > 1) {
        buf_append_c(&m->body, ',');
    }
    json_write_string(&m->body, str_from(name));
    buf_append_c(&m->body, ':');
    return true;
}

static void
put_raw(struct bench_request *m, const char *name, const char *value)
{
    if (begin_member(m, name)) {
        buf_append_str(&m->body, str_from(value));
    }
}

static void
put_prompt(struct bench_request *m, const struct bench_prompt *p)
{
    struct buf  *b = &m->body;

    if (m->url->is_chat) {
        if (begin_member(m, "messages")) {
            buf_append_lit(b, "[{\"role\":\"user\",\"content\":");
            json_write_string(b, p->text);
            buf_append_lit(b, "}]");
        }
        return;
    }
    if (!begin_member(m, "prompt")) {
        return;
    }
    if (p->text.data != NULL) {
        json_write_string(b, p->text);
        return;
    }
    for (int32_t i = 0; i < p->num_ids; i++) {
        buf_append_c(b, i == 0 ? '[' : ',');
        buf_append_i64(b, p->ids[i]);
    }
    buf_append_c(b, ']');
}

static bool
ignores_eos(const struct bench_cli *cli)
{
    return strcmp(cli->ignore_eos, "auto") == 0
           ? strcmp(cli->dataset_name, "random") == 0
           : strcmp(cli->ignore_eos, "true") == 0;
}

static void
make_body(struct bench_request *m, const struct bench_prompt *p)
{
    struct buf              *b = &m->body;
    struct sampling_switch   s[NUM_SWITCHES];

    buf_reset(b);
    buf_append_c(b, '{');
    if (begin_member(m, "model")) {
        json_write_string(b, str_from(m->model));
    }
    put_prompt(m, p);
    if (begin_member(m, m->url->is_chat ? "max_completion_tokens"
                                        : "max_tokens"))
    {
        buf_append_i64(b, p->output_len);
    }
    put_raw(m, "stream", "true");
    put_raw(m, "stream_options", "{\"include_usage\":true}");
    if (ignores_eos(m->cli)) {
        put_raw(m, "ignore_eos", "true");
    }
    sampling_switches(m->cli, s);
    for (int i = 0; i < NUM_SWITCHES; i++) {
        if (s[i].value != NULL) {
            put_raw(m, s[i].field, s[i].value);
        }
    }
    for (const struct json *e = m->extra == NULL ? NULL : m->extra->child;
         e != NULL; e = e->next)
    {
        if (b->len > 1) {
            buf_append_c(b, ',');
        }
        json_write_string(b, e->key);
        buf_append_c(b, ':');
        json_write(b, e);
    }
    buf_append_c(b, '}');
}

void
bench_request_write(void *maker, int i, struct buf *out)
{
    struct bench_request       *m = maker;
    const struct bench_prompt  *p = &m->data->prompts[i];

    make_body(m, p);
    buf_append_str(out, buf_str(&m->head));
    if (m->cli->request_id_prefix != NULL) {
        buf_appendf(out, "X-Request-Id: %s%d\r\n", m->cli->request_id_prefix,
                    i);
    }
    buf_appendf(out, "Content-Length: %zu\r\n\r\n", m->body.len);
    buf_append_str(out, buf_str(&m->body));
    out->failed = out->failed || m->body.failed;
}

int32_t
bench_request_prompt_tokens(void *maker, int i)
{
    const struct bench_request  *m = maker;
    return m->data->prompts[i].prompt_len;
}

int
bench_request_open(struct bench_request *m, const struct bench_cli *cli,
                   const struct bench_url *url,
                   const struct bench_dataset *data, struct err *err)
{
    *m = (struct bench_request) {
        .cli = cli, .url = url, .data = data,
        .model = cli->served_model_name != NULL ? cli->served_model_name
                                                : cli->engine.model,
    };
    arena_init(&m->arena, EXTRA_BYTES_MAX);
    buf_init(&m->head, HEAD_BYTES_MAX);
    buf_init(&m->body, BODY_BYTES_MAX);
    if (cli->request_id_prefix != NULL
        && strpbrk(cli->request_id_prefix, "\r\n") != NULL)
    {
        return err_set(err, "--request-id-prefix: not a header value");
    }
    if (cli->extra_body != NULL) {
        if (json_parse(&m->extra, str_from(cli->extra_body), &m->arena,
                       &json_limits_request, err) != OK)
        {
            return err_prefix(err, "--extra-body");
        }
        if (m->extra->type != JSON_OBJECT) {
            return err_set(err, "--extra-body: must be a JSON object");
        }
    }
    return check_sampling(m, err) != OK ? ERROR : make_head(m, err);
}

void
bench_request_close(struct bench_request *m)
{
    arena_destroy(&m->arena);
    buf_destroy(&m->head);
    buf_destroy(&m->body);
}
