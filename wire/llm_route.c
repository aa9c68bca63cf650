/* llm_route.c - one table, matched from the end of the URI. */
#include "wire/llm_route.h"

#include <string.h>

struct route {
    const char *tail;
    const char *name;
    uint32_t    methods;
    bool        json_body;
};

/* [enum llm_route] */
static const struct route  routes[LLM_ROUTE_COUNT] = {
    [LLM_ROUTE_CHAT_COMPLETIONS] = { "/v1/chat/completions", "chat_completions",
                                     LLM_METHOD_POST, true },
    [LLM_ROUTE_COMPLETIONS] = { "/v1/completions", "completions",
                                LLM_METHOD_POST, true },
    [LLM_ROUTE_MODELS] = { "/v1/models", "models", LLM_METHOD_GET, false },
    [LLM_ROUTE_HEALTH] = { "/health", "health", LLM_METHOD_GET, false },
    [LLM_ROUTE_PING] = { "/ping", "ping", LLM_METHOD_GET | LLM_METHOD_POST,
                         false },
    [LLM_ROUTE_VERSION] = { "/version", "version", LLM_METHOD_GET, false },
    [LLM_ROUTE_METRICS] = { "/metrics", "metrics", LLM_METHOD_GET, false },
    [LLM_ROUTE_TOKENIZE] = { "/tokenize", "tokenize", LLM_METHOD_POST, true },
    [LLM_ROUTE_DETOKENIZE] = { "/detokenize", "detokenize", LLM_METHOD_POST,
                               true },
};

#define MODELS_DIR      "/v1/models/"
#define MODELS_DIR_LEN  (sizeof(MODELS_DIR) - 1)

static const char *
allow_of(uint32_t methods)
{
    switch (methods) {
    case LLM_METHOD_GET:
        return "GET, HEAD";
    case LLM_METHOD_POST:
        return "POST";
    default:
        return "GET, HEAD, POST";
    }
}

enum llm_route
llm_route_by_id(uint32_t route, struct llm_route_match *out)
{
    memset(out, 0, sizeof *out);
    if (route == LLM_ROUTE_NONE || route >= LLM_ROUTE_COUNT) {
        return LLM_ROUTE_NONE;
    }
    out->route = (uint16_t) route;
    out->methods = routes[route].methods;
    out->allow = allow_of(out->methods);
    out->json_body = routes[route].json_body;
    return (enum llm_route) route;
}

/* Finds "/v1/models/" with something after it. */
static bool
find_model(const char *uri, size_t len, struct llm_route_match *out)
{
    for (size_t i = 0; i + MODELS_DIR_LEN < len; i++) {
        if (memcmp(uri + i, MODELS_DIR, MODELS_DIR_LEN) == 0) {
            (void) llm_route_by_id(LLM_ROUTE_MODELS, out);
            out->prefix_len = i;
            out->model = uri + i + MODELS_DIR_LEN;
            out->model_len = len - i - MODELS_DIR_LEN;
            return true;
        }
    }
    return false;
}

enum llm_route
llm_route_find(const char *uri, size_t len, struct llm_route_match *out)
{
    if (find_model(uri, len, out)) {
        return LLM_ROUTE_MODELS;
    }
    for (uint32_t r = LLM_ROUTE_NONE + 1; r < LLM_ROUTE_COUNT; r++) {
        size_t  tail_len = strlen(routes[r].tail);
        if (len >= tail_len
            && memcmp(uri + len - tail_len, routes[r].tail, tail_len) == 0)
        {
            (void) llm_route_by_id(r, out);
            out->prefix_len = len - tail_len;
            return (enum llm_route) r;
        }
    }
    memset(out, 0, sizeof *out);
    return LLM_ROUTE_NONE;
}

const char *
llm_route_name(uint32_t route)
{
    return route < LLM_ROUTE_COUNT ? routes[route].name : NULL;
}

enum llm_route
llm_route_by_name(const char *name, size_t len)
{
    for (uint32_t r = LLM_ROUTE_NONE + 1; r < LLM_ROUTE_COUNT; r++) {
        if (strlen(routes[r].name) == len
            && memcmp(routes[r].name, name, len) == 0)
        {
            return (enum llm_route) r;
        }
    }
    return LLM_ROUTE_NONE;
}
