/* kv_scales.c - looks for the scales of an fp8 KV cache by every known name. */
#include "engine/model/kv_scales.h"
#include "engine/base/log.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define NAME_BYTES  128

static float
half_value(uint16_t h)
{
    int    exponent = h >> 10 & 31, fraction = h & 0x3ff;
    float  x = exponent == 0 ? ldexpf((float) fraction, -24)
                             : ldexpf((float) (1024 + fraction), exponent - 25);
    return exponent == 31 || (h & 0x8000) != 0 ? NAN : x;
}

/* NAN: not one finite number greater than 0. */
static float
scale_value(const struct tensor *t)
{
    uint32_t  u = 0;
    uint16_t  half = 0;
    float     x = NAN;
    for (int i = 0; i < t->ndim; i++) {
        if (t->shape[i] != 1) {
            return NAN;
        }
    }
    switch (t->dtype) {
    case DTYPE_F32:
        memcpy(&x, t->data, sizeof x);
        break;
    case DTYPE_BF16:
        memcpy(&half, t->data, sizeof half);
        u = (uint32_t) half << 16;
        memcpy(&x, &u, sizeof x);
        break;
    case DTYPE_F16:
        memcpy(&half, t->data, sizeof half);
        x = half_value(half);
        break;
    case DTYPE_F8_E4M3:
    case DTYPE_NONE:
        break;
    }
    return isfinite(x) && x > 0.0f ? x : NAN;
}

static float
find_scale(int layer_idx, bool is_v, struct safetensors *files)
{
    static const char *const  names[][2] = {
        { "k_scale", "v_scale" },
        { "attn.k_scale", "attn.v_scale" },
        { "k_proj.k_scale", "v_proj.v_scale" },
        { "k_proj.output_scale", "v_proj.output_scale" },
        { "kv_scale", "kv_scale" },
    };
    float  found = 0.0f;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char  name[NAME_BYTES];
        (void) snprintf(name, sizeof name, "model.layers.%d.self_attn.%s",
                        layer_idx, names[i][is_v]);
        const struct safetensors_entry  *e =
            safetensors_find(files, str_from(name));
        if (e != NULL && found == 0.0f) {
            found = scale_value(&e->tensor);
        }
    }
    return found;
}

void
kv_scales_find(float *scales, int num_layers, struct safetensors *files)
{
    for (int i = 0; i < num_layers; i++) {
        scales[2 * i] = find_scale(i, false, files);
        scales[2 * i + 1] = find_scale(i, true, files);
    }
}

int
kv_scales_complete(float *scales, int num_layers, struct err *err)
{
    int  absent = 0;
    for (int i = 0; i < 2 * num_layers; i++) {
        if (isnan(scales[i])) {
            return err_set(err, "layer %d: %s of the fp8 KV cache is not one "
                           "number greater than 0 (a scale for each head is "
                           "not supported)", i / 2,
                           i % 2 ? "v_scale" : "k_scale");
        }
        if (scales[i] == 0.0f) {
            scales[i] = 1.0f;
            absent++;
        }
    }
    if (absent > 0) {
        log_notice("fp8 KV cache: the checkpoint has %d of %d scales (k_scale, "
                   "v_scale); the others are 1: values beyond +-448 are cut "
                   "and small ones lose precision", 2 * num_layers - absent,
                   2 * num_layers);
    }
    return OK;
}
