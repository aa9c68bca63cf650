/* test_kv_scales.c - scales of an fp8 cache are found by every known name, and
 * what is not one positive number is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "engine/model/kv_scales.h"

/* A safetensors file of one-number tensors, built as text. */
struct image {
    char   header[4096], data[256], file[8192];
    size_t header_len, data_len;
};

static void
image_add(struct image *m, const char *name, const char *dtype,
          const char *shape, const void *bytes, size_t num)
{
    m->header_len += (size_t) snprintf(
        m->header + m->header_len, sizeof m->header - m->header_len,
        "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
        m->header_len == 0 ? "{" : ",", name, dtype, shape, m->data_len,
        m->data_len + num);
    memcpy(m->data + m->data_len, bytes, num);
    m->data_len += num;
}

static void
add_f32(struct image *m, const char *format, int layer_idx, float x)
{
    char  name[128];
    int   len = snprintf(name, sizeof name, "model.layers.%d.self_attn.%s",
                         layer_idx, format);
    assert_true(len > 0);
    image_add(m, name, "F32", layer_idx % 2 ? "[1]" : "[]", &x, sizeof x);
}

static struct safetensors *
image_open(struct image *m)
{
    struct safetensors  *st;
    struct err           err = { 0 };
    uint64_t             len;
    m->header[m->header_len++] = '}';
    while (m->header_len % 8 != 0) {
        m->header[m->header_len++] = ' ';
    }
    len = m->header_len;
    memcpy(m->file, &len, 8);
    memcpy(m->file + 8, m->header, m->header_len);
    memcpy(m->file + 8 + m->header_len, m->data, m->data_len);
    assert_int_equal(safetensors_create(&st, &err), OK);
    if (safetensors_append(st, "x.safetensors", m->file,
                           8 + m->header_len + m->data_len, &err) != OK)
    {
        fail_msg("%s", err.message);
    }
    return st;
}

static void
test_every_known_name_is_found(void **state)
{
    static _Alignas(8) struct image  m;
    float                            scales[12];
    uint16_t                         bf16 = 0x3e80, f16 = 0x3400;   /* 0.25 */
    struct err                       err = { 0 };
    (void) state;
    m = (struct image) { .header_len = 0 };
    add_f32(&m, "k_scale", 0, 0.5f);
    add_f32(&m, "v_scale", 0, 0.75f);
    add_f32(&m, "attn.k_scale", 1, 1.5f);
    add_f32(&m, "attn.v_scale", 1, 1.75f);
    add_f32(&m, "k_proj.k_scale", 2, 2.5f);
    add_f32(&m, "v_proj.v_scale", 2, 2.75f);
    add_f32(&m, "k_proj.output_scale", 3, 3.5f);
    add_f32(&m, "v_proj.output_scale", 3, 3.75f);
    add_f32(&m, "kv_scale", 4, 4.5f);
    image_add(&m, "model.layers.5.self_attn.k_scale", "BF16", "[1]", &bf16, 2);
    image_add(&m, "model.layers.5.self_attn.v_scale", "F16", "[1]", &f16, 2);
    struct safetensors  *st = image_open(&m);
    kv_scales_find(scales, 6, st);
    static const float  want[] = { 0.5f, 0.75f, 1.5f, 1.75f, 2.5f, 2.75f, 3.5f,
                                   3.75f, 4.5f, 4.5f, 0.25f, 0.25f };
    assert_memory_equal(scales, want, sizeof want);
    for (size_t i = 0; i < safetensors_num_tensors(st); i++) {
        assert_true(safetensors_entry_at(st, i)->used);
    }
    assert_int_equal(kv_scales_complete(scales, 6, &err), OK);
    assert_memory_equal(scales, want, sizeof want);
    safetensors_close(st);
}

static void
test_absent_scales_become_1(void **state)
{
    static _Alignas(8) struct image  m;
    float                            scales[4];
    struct err                       err = { 0 };
    (void) state;
    m = (struct image) { .header_len = 0 };
    add_f32(&m, "v_scale", 1, 0.125f);
    struct safetensors  *st = image_open(&m);
    kv_scales_find(scales, 2, st);
    assert_true(scales[0] == 0.0f && scales[3] == 0.125f);
    assert_int_equal(kv_scales_complete(scales, 2, &err), OK);
    static const float  want[] = { 1.0f, 1.0f, 1.0f, 0.125f };
    assert_memory_equal(scales, want, sizeof want);
    safetensors_close(st);
}

static void
test_what_is_no_scale_is_refused_by_layer(void **state)
{
    static const float  bad[] = { 0.0f, -1.0f, INFINITY, NAN };
    static const float  two[] = { 1.0f, 1.0f };
    struct err          err = { 0 };
    (void) state;
    for (int i = 0; i < 6; i++) {
        static _Alignas(8) struct image  m;
        float                            scales[4];
        m = (struct image) { .header_len = 0 };
        if (i < 4) {
            add_f32(&m, "v_scale", 1, bad[i]);
        } else {
            image_add(&m, "model.layers.1.self_attn.v_scale",
                      i == 4 ? "F32" : "I64", i == 4 ? "[2]" : "[1]", two, 8);
        }
        struct safetensors  *st = image_open(&m);
        kv_scales_find(scales, 2, st);
        assert_int_equal(kv_scales_complete(scales, 2, &err), ERROR);
        assert_non_null(strstr(err.message, "layer 1: v_scale"));
        safetensors_close(st);
    }
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_every_known_name_is_found),
        cmocka_unit_test(test_absent_scales_become_1),
        cmocka_unit_test(test_what_is_no_scale_is_refused_by_layer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
