/* llm_route.h - which URI is which OpenAI route, and with which methods.
 *
 * A location serves every route below it, so the match is on the tail of the
 * normalised URI: "/llm/v1/chat/completions" and "/v1/chat/completions" are
 * the same route.  "/v1/models/{id}" takes the rest of the URI as the id, with
 * slashes (Hugging Face names have them), and is tried before the tails, so a
 * model called "health" can be asked for. */
#ifndef LLM_ROUTE_H
#define LLM_ROUTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum llm_route {
    LLM_ROUTE_NONE,
    LLM_ROUTE_CHAT_COMPLETIONS,
    LLM_ROUTE_COMPLETIONS,
    LLM_ROUTE_MODELS,              /* list, or one with LLM_META_MODEL */
    LLM_ROUTE_HEALTH,
    LLM_ROUTE_PING,
    LLM_ROUTE_VERSION,
    LLM_ROUTE_METRICS,
    LLM_ROUTE_TOKENIZE,
    LLM_ROUTE_DETOKENIZE,
    LLM_ROUTE_COUNT,
    /* numbers kept for later: EMBEDDINGS 32, RESPONSES 33, MESSAGES 34 */
};

#define LLM_METHOD_GET   0x1u      /* and HEAD */
#define LLM_METHOD_POST  0x2u

struct llm_route_match {
    uint16_t    route;             /* enum llm_route */
    uint32_t    methods;           /* LLM_METHOD_* */
    const char *allow;             /* for the Allow header: "GET, HEAD" */
    bool        json_body;         /* POST with a JSON document */
    size_t      prefix_len;        /* bytes of uri before the route's path */
    const char *model;             /* id in uri, NULL without */
    size_t      model_len;
};

/* LLM_ROUTE_NONE and a zeroed *out when nothing matches (404). */
enum llm_route llm_route_find(const char *uri, size_t len,
                              struct llm_route_match *out);

/* Fills *out for a route chosen by configuration (llm_endpoint); prefix_len 0. */
enum llm_route llm_route_by_id(uint32_t route, struct llm_route_match *out);

/* "chat_completions" ... and back; NULL / LLM_ROUTE_NONE when unknown. */
const char *llm_route_name(uint32_t route);
enum llm_route llm_route_by_name(const char *name, size_t len);

#endif
