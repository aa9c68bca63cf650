/* test_llm_wire.c - messages round-trip, and each wrong field is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "wire/llm_wire.h"

#define RANDOM_ROUNDS  200000

static uint64_t
next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/* ---- hand-shake --------------------------------------------------------------- */
static void
test_hello_round_trips(void **state)
{
    struct llm_hello  in, out;
    uint32_t          status;
    const char       *why = NULL;

    (void) state;
    llm_wire_init_hello(&in);
    in.pid = 7;
    in.worker = 3;
    in.sq_entries = 64;
    assert_int_equal(llm_wire_decode_hello(&out, &in, sizeof in, &status, &why),
                     LLM_OK);
    assert_memory_equal(&in, &out, sizeof in);
}

static uint32_t
refusal(const struct llm_hello *h, size_t len)
{
    struct llm_hello  out;
    uint32_t          status = 99;
    const char       *why = NULL;

    assert_int_equal(llm_wire_decode_hello(&out, h, len, &status, &why),
                     LLM_ERROR);
    assert_non_null(why);
    return status;
}

static void
test_hello_with_a_wrong_field_is_refused(void **state)
{
    struct llm_hello  good, bad;

    (void) state;
    llm_wire_init_hello(&good);
    for (size_t len = 0; len < sizeof good; len++) {
        assert_int_equal(refusal(&good, len), LLM_WELCOME_BAD_HELLO);
    }
    bad = good, bad.magic ^= 1;
    assert_int_equal(refusal(&bad, sizeof bad), LLM_WELCOME_BAD_HELLO);
    bad = good, bad.version++;
    assert_int_equal(refusal(&bad, sizeof bad), LLM_WELCOME_VERSION);
    assert_int_equal(refusal(&bad, 12), LLM_WELCOME_VERSION);
    bad = good, bad.hello_bytes = 65;
    assert_int_equal(refusal(&bad, sizeof bad), LLM_WELCOME_BAD_HELLO);
    bad = good, bad.sq_entries = 100;
    assert_int_equal(refusal(&bad, sizeof bad), LLM_WELCOME_BAD_HELLO);
    bad = good, bad.arena_bytes = 4097;
    assert_int_equal(refusal(&bad, sizeof bad), LLM_WELCOME_BAD_HELLO);
    bad = good, bad.cq_bytes = 1ull << 40;
    assert_int_equal(refusal(&bad, sizeof bad), LLM_WELCOME_BAD_HELLO);
    bad = good, bad.max_requests = LLM_REQUESTS_MAX + 1;
    assert_int_equal(refusal(&bad, sizeof bad), LLM_WELCOME_BAD_HELLO);
}

static void
make_welcome(struct llm_welcome *w)
{
    const char  *why = NULL;

    llm_wire_init_welcome(w, LLM_WELCOME_OK, "");
    w->epoch = 1;
    w->session_id = 2;
    w->max_requests = 100;
    assert_int_equal(llm_wire_layout(&w->geometry, 64, 1 << 20, 1 << 20, &why),
                     LLM_OK);
}

static int
decode_welcome(const struct llm_welcome *w, size_t len)
{
    struct llm_welcome  out;
    const char         *why = NULL;
    int                 rc = llm_wire_decode_welcome(&out, w, len, &why);

    assert_true(rc == LLM_OK || why != NULL);
    return rc;
}

static void
test_welcome_round_trips(void **state)
{
    struct llm_welcome  w, out;
    const char         *why = NULL;

    (void) state;
    make_welcome(&w);
    assert_int_equal(llm_wire_decode_welcome(&out, &w, sizeof w, &why), LLM_OK);
    assert_memory_equal(&w, &out, sizeof w);
    llm_wire_init_welcome(&w, LLM_WELCOME_SESSIONS, "too\nmany\x7f");
    assert_int_equal(llm_wire_decode_welcome(&out, &w, sizeof w, &why), LLM_OK);
    assert_int_equal(out.status, LLM_WELCOME_SESSIONS);
    assert_string_equal(out.text, "too?many?");
}

static void
test_welcome_with_a_wrong_field_is_refused(void **state)
{
    struct llm_welcome  good, bad;

    (void) state;
    make_welcome(&good);
    for (size_t len = 0; len < sizeof good; len++) {
        assert_int_equal(decode_welcome(&good, len), LLM_ERROR);
    }
#define BAD(change)                                                           \
    bad = good, change;                                                       \
    assert_int_equal(decode_welcome(&bad, sizeof bad), LLM_ERROR)
    BAD(bad.magic++);
    BAD(bad.version++);
    BAD(bad.welcome_bytes--);
    BAD(bad.status = LLM_WELCOME_STATUS_COUNT);
    BAD(bad.epoch = 0);
    BAD(bad.max_requests = 0);
    BAD(bad.max_requests = LLM_REQUESTS_MAX + 1);
    BAD(bad.features = 1);
    BAD(bad.geometry.sq_entries = 63);
    BAD(bad.geometry.sq_entries = 0);
    BAD(bad.geometry.sq_off = 0);
    BAD(bad.geometry.sq_off += 8);
    BAD(bad.geometry.sq_off = bad.geometry.w_bytes);
    BAD(bad.geometry.sq_off = UINT64_MAX - 63);
    BAD(bad.geometry.arena_off = bad.geometry.sq_off);
    BAD(bad.geometry.arena_off += 64);
    BAD(bad.geometry.arena_bytes *= 2);
    BAD(bad.geometry.arena_bytes = 0);
    BAD(bad.geometry.w_bytes -= 1);
    BAD(bad.geometry.e_bytes = 0);
    BAD(bad.geometry.cq_off = 64);
    BAD(bad.geometry.cq_bytes += 16);
    BAD(bad.geometry.cq_bytes = 1ull << 63);
#undef BAD
}

/* ---- meta ------------------------------------------------------------------------ */
static struct llm_bytes
bytes(const char *text)
{
    return (struct llm_bytes) { (const uint8_t *) text, (uint32_t) strlen(text) };
}

static void
test_meta_round_trips_and_skips_unknown_tags(void **state)
{
    uint8_t          buf[512];
    uint32_t         len = 0;
    struct llm_meta  m;
    const char      *why = NULL;

    (void) state;
    assert_int_equal(llm_wire_encode_meta(buf, sizeof buf, &len,
                                          LLM_META_REQUEST_ID, bytes("abc")), 0);
    assert_int_equal(llm_wire_encode_meta(buf, sizeof buf, &len, 999,
                                          bytes("future")), 0);
    assert_int_equal(llm_wire_encode_meta_u32(buf, sizeof buf, &len,
                                              LLM_META_MAX_TOKENS, 77), 0);
    assert_int_equal(llm_wire_encode_meta(buf, sizeof buf, &len,
                                          LLM_META_CACHE_SALT, bytes("")), 0);
    assert_int_equal(llm_wire_decode_meta(&m, buf, len, &why), LLM_OK);
    assert_int_equal(m.request_id.len, 3);
    assert_memory_equal(m.request_id.data, "abc", 3);
    assert_int_equal(m.max_tokens, 77);
    assert_int_equal(m.cache_salt.len, 0);
    /* Cut anywhere but between TLVs it is an error, and never read beyond. */
    for (uint32_t cut = 1; cut < len; cut++) {
        uint8_t  *copy = malloc(cut);
        memcpy(copy, buf, cut);
        (void) llm_wire_decode_meta(&m, copy, cut, &why);
        free(copy);
    }
    assert_int_equal(llm_wire_decode_meta(&m, buf, len - 1, &why), LLM_ERROR);
}

static void
test_meta_refuses_doubles_and_oversize(void **state)
{
    uint8_t          buf[LLM_META_BYTES_MAX], big[600] = { 0 };
    uint32_t         len = 0;
    struct llm_meta  m;
    const char      *why = NULL;
    uint16_t         head[2] = { LLM_META_KEY_ID, 129 };

    (void) state;
    (void) llm_wire_encode_meta(buf, sizeof buf, &len, LLM_META_URI, bytes("/"));
    (void) llm_wire_encode_meta(buf, sizeof buf, &len, LLM_META_URI, bytes("/"));
    assert_int_equal(llm_wire_decode_meta(&m, buf, len, &why), LLM_ERROR);
    memcpy(big, head, sizeof head);
    assert_int_equal(llm_wire_decode_meta(&m, big, 133, &why), LLM_ERROR);
    len = 0;
    assert_int_equal(llm_wire_encode_meta(buf, sizeof buf, &len, LLM_META_KEY_ID,
                     (struct llm_bytes) { big, 129 }), LLM_ERROR);
    assert_int_equal(llm_wire_encode_meta(buf, 10, &len, LLM_META_KEY_ID,
                     (struct llm_bytes) { big, 7 }), LLM_ERROR);
    assert_int_equal(len, 0);
}

/* ---- completion payloads ------------------------------------------------------------ */
static void
test_head_and_prompt_are_checked(void **state)
{
    struct llm_head    good = { .status = 200, .content = LLM_CONTENT_SSE,
                                .content_length = -1 }, bad, out;
    struct llm_prompt  p = { 5, 6 }, pout;
    const char        *why = NULL;

    (void) state;
    assert_int_equal(llm_wire_decode_head(&out, &good, sizeof good, &why), 0);
    assert_memory_equal(&good, &out, sizeof out);
#define BAD(change)                                                           \
    bad = good, change;                                                       \
    assert_int_equal(llm_wire_decode_head(&out, &bad, sizeof bad, &why),      \
                     LLM_ERROR)
    BAD(bad.status = 199);
    BAD(bad.status = 600);
    BAD(bad.content = LLM_CONTENT_COUNT);
    BAD(bad.flags = 2);
    BAD(bad.content_length = -2);
#undef BAD
    assert_int_equal(llm_wire_decode_head(&out, &good, 23, &why), LLM_ERROR);
    assert_int_equal(llm_wire_decode_prompt(&pout, &p, sizeof p, &why), 0);
    assert_int_equal(llm_wire_decode_prompt(&pout, &p, 7, &why), LLM_ERROR);
    p.prompt_tokens = UINT32_MAX;
    assert_int_equal(llm_wire_decode_prompt(&pout, &p, sizeof p, &why), LLM_ERROR);
}

static void
test_end_round_trips_and_is_checked(void **state)
{
    struct llm_end  good = { .reason = LLM_FINISH_STOP, .flags = LLM_END_NO_RETRY,
                             .prompt_tokens = 3, .cached_tokens = 2,
                             .completion_tokens = 9, .queue_ns = 1, .ttft_ns = 2,
                             .decode_ns = 3, .model_len = 4, .model = "demo" };
    struct llm_end  bad, out;
    uint8_t         buf[LLM_END_BYTES_MAX];
    uint32_t        len = llm_wire_encode_end(buf, &good);
    const char     *why = NULL;

    (void) state;
    assert_int_equal(len, 60);
    assert_int_equal(llm_wire_decode_end(&out, buf, len, &why), LLM_OK);
    assert_memory_equal(&good, &out, sizeof out);
    for (uint32_t cut = 0; cut < len; cut++) {
        assert_int_equal(llm_wire_decode_end(&out, buf, cut, &why), LLM_ERROR);
    }
#define BAD(change)                                                           \
    bad = good, change, len = llm_wire_encode_end(buf, &bad);                 \
    assert_int_equal(llm_wire_decode_end(&out, buf, len, &why), LLM_ERROR)
    BAD(bad.reason = LLM_FINISH_COUNT);
    BAD(bad.flags = 2);
    BAD(bad.prompt_tokens = UINT32_MAX);
    BAD(bad.ttft_ns = -1);
#undef BAD
}

static void
test_random_bytes_never_read_out_of_bounds(void **state)
{
    uint64_t  seed = (uint64_t) time(NULL) | 1, x = seed;

    (void) state;
    print_message("seed %llu\n", (unsigned long long) seed);
    for (int i = 0; i < RANDOM_ROUNDS; i++) {
        uint32_t            len = (uint32_t) (next_random(&x) % 320), status;
        uint8_t            *buf = malloc(len + 1);
        struct llm_meta     m;
        struct llm_end      e;
        struct llm_head     h;
        struct llm_hello    hello;
        struct llm_welcome  w;
        const char         *why;
        for (uint32_t k = 0; k < len; k++) {
            uint64_t  r = next_random(&x);
            buf[k] = (r & 7) != 0 ? (uint8_t) (r >> 8) % 9 : (uint8_t) (r >> 16);
        }
        buf = realloc(buf, len == 0 ? 1 : len);      /* exact size for ASan */
        if (llm_wire_decode_meta(&m, buf, len, &why) == LLM_OK) {
            assert_true(m.uri.len <= LLM_URI_BYTES_MAX);
        }
        (void) llm_wire_decode_end(&e, buf, len, &why);
        (void) llm_wire_decode_head(&h, buf, len, &why);
        (void) llm_wire_decode_hello(&hello, buf, len, &status, &why);
        (void) llm_wire_decode_welcome(&w, buf, len, &why);
        free(buf);
    }
}

static void
test_names_cover_every_number(void **state)
{
    (void) state;
    for (uint32_t i = 0; i < LLM_FINISH_COUNT; i++) {
        assert_string_not_equal(llm_wire_finish_name(i), "unknown");
    }
    assert_string_equal(llm_wire_finish_name(LLM_FINISH_COUNT), "unknown");
    assert_null(llm_wire_content_type(LLM_CONTENT_NONE));
    assert_non_null(llm_wire_content_type(LLM_CONTENT_PROMETHEUS));
    assert_string_equal(llm_wire_state_name(LLM_STATE_DRAINING), "draining");
    assert_string_equal(llm_wire_state_name(77), "unknown");
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_hello_round_trips),
        cmocka_unit_test(test_hello_with_a_wrong_field_is_refused),
        cmocka_unit_test(test_welcome_round_trips),
        cmocka_unit_test(test_welcome_with_a_wrong_field_is_refused),
        cmocka_unit_test(test_meta_round_trips_and_skips_unknown_tags),
        cmocka_unit_test(test_meta_refuses_doubles_and_oversize),
        cmocka_unit_test(test_head_and_prompt_are_checked),
        cmocka_unit_test(test_end_round_trips_and_is_checked),
        cmocka_unit_test(test_random_bytes_never_read_out_of_bounds),
        cmocka_unit_test(test_names_cover_every_number),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
