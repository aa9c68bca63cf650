/* fuzz_model_config.c - libFuzzer entry: any config.json is refused with a
 * reason or gives sizes within the limits. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "engine/base/check.h"
#include "engine/model/model_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model_config  c;
    struct err           err = { 0 };
    char                *copy = malloc(size == 0 ? 1 : size);
    memcpy(copy, data, size);
    struct str  text = { copy, size };
    if (model_config_parse(&c, text, text, &err) == OK) {
        check(c.num_hidden_layers >= 1
              && c.num_hidden_layers <= MODEL_LAYERS_MAX);
        check(c.head_dim >= 2 && c.head_dim <= MODEL_HEAD_DIM_MAX);
        check_eq(c.num_attention_heads % c.num_key_value_heads, 0);
        check(c.num_eos_token_ids <= MODEL_EOS_IDS_MAX);
        check(model_config_num_parameters(&c) > 0);
        check(model_config_max_len(&c) >= 1);
    } else {
        check(err.message[0] != '\0');
    }
    free(copy);
    return 0;
}
