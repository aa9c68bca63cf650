/* test_llm_route.c - every URI finds its route, whatever stands before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "wire/llm_route.h"

struct row {
    const char *uri;
    enum llm_route route;
    uint32_t methods;
    const char *model;
};

static const struct row  rows[] = {
    { "/v1/chat/completions", LLM_ROUTE_CHAT_COMPLETIONS, LLM_METHOD_POST, NULL },
    { "/a/b/v1/chat/completions", LLM_ROUTE_CHAT_COMPLETIONS, LLM_METHOD_POST, NULL },
    { "/v1/completions", LLM_ROUTE_COMPLETIONS, LLM_METHOD_POST, NULL },
    { "/v1/models", LLM_ROUTE_MODELS, LLM_METHOD_GET, NULL },
    { "/x/v1/models", LLM_ROUTE_MODELS, LLM_METHOD_GET, NULL },
    { "/v1/models/demo", LLM_ROUTE_MODELS, LLM_METHOD_GET, "demo" },
    { "/x/v1/models/a/b", LLM_ROUTE_MODELS, LLM_METHOD_GET, "a/b" },
    { "/v1/models/health", LLM_ROUTE_MODELS, LLM_METHOD_GET, "health" },
    { "/health", LLM_ROUTE_HEALTH, LLM_METHOD_GET, NULL },
    { "/ping", LLM_ROUTE_PING, LLM_METHOD_GET | LLM_METHOD_POST, NULL },
    { "/version", LLM_ROUTE_VERSION, LLM_METHOD_GET, NULL },
    { "/metrics", LLM_ROUTE_METRICS, LLM_METHOD_GET, NULL },
    { "/tokenize", LLM_ROUTE_TOKENIZE, LLM_METHOD_POST, NULL },
    { "/detokenize", LLM_ROUTE_DETOKENIZE, LLM_METHOD_POST, NULL },
    { "/v1/chat/completions/", LLM_ROUTE_NONE, 0, NULL },
    { "/v1/chat/completion", LLM_ROUTE_NONE, 0, NULL },
    { "/chat/completions", LLM_ROUTE_NONE, 0, NULL },
    { "/v1/models/", LLM_ROUTE_NONE, 0, NULL },
    { "health", LLM_ROUTE_NONE, 0, NULL },
    { "/xhealth", LLM_ROUTE_NONE, 0, NULL },
    { "/", LLM_ROUTE_NONE, 0, NULL },
    { "", LLM_ROUTE_NONE, 0, NULL },
};

static void
test_uri_tails_find_their_route(void **state)
{
    (void) state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct llm_route_match  m;
        size_t                  len = strlen(rows[i].uri);
        enum llm_route          r = llm_route_find(rows[i].uri, len, &m);

        print_message("%s\n", rows[i].uri);
        assert_int_equal(r, rows[i].route);
        assert_int_equal(m.route, rows[i].route);
        assert_int_equal(m.methods, rows[i].methods);
        if (rows[i].model == NULL) {
            assert_null(m.model);
        } else {
            assert_int_equal(m.model_len, strlen(rows[i].model));
            assert_memory_equal(m.model, rows[i].model, m.model_len);
        }
    }
}

static void
test_prefix_is_what_stands_before_the_path(void **state)
{
    static const char       uri[] = "/llm/x/v1/completions";
    struct llm_route_match  m;

    (void) state;
    (void) llm_route_find(uri, sizeof uri - 1, &m);
    assert_int_equal(m.prefix_len, 6);
    assert_true(m.json_body);
    assert_string_equal(m.allow, "POST");
}

static void
test_names_go_both_ways(void **state)
{
    (void) state;
    for (uint32_t r = 1; r < LLM_ROUTE_COUNT; r++) {
        const char              *name = llm_route_name(r);
        struct llm_route_match   m;
        assert_non_null(name);
        assert_int_equal(llm_route_by_name(name, strlen(name)), r);
        assert_int_equal(llm_route_by_id(r, &m), r);
        assert_non_null(m.allow);
    }
    assert_null(llm_route_name(LLM_ROUTE_COUNT));
    assert_int_equal(llm_route_by_name("nonsense", 8), LLM_ROUTE_NONE);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_uri_tails_find_their_route),
        cmocka_unit_test(test_prefix_is_what_stands_before_the_path),
        cmocka_unit_test(test_names_go_both_ways),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
