/* fuzz_safetensors.c - libFuzzer entry: any file image is refused with a
 * reason or gives tensors that lie inside it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "engine/base/check.h"
#include "engine/model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors  *st;
    struct err           err = { 0 };
    /* An exact copy, so that a read past the end is seen. */
    unsigned char       *copy = malloc(size == 0 ? 1 : size);
    memcpy(copy, data, size);
    check_eq(safetensors_create(&st, &err), OK);
    if (safetensors_append(st, "fuzz", copy, size, &err) == OK) {
        for (size_t i = 0; i < safetensors_num_tensors(st); i++) {
            const struct safetensors_entry  *e = safetensors_entry_at(st, i);
            const unsigned char             *p = e->tensor.data;
            size_t  bytes = dtype_bytes(e->tensor.dtype);
            for (int d = 0; d < e->tensor.ndim; d++) {
                bytes *= (size_t) e->tensor.shape[d];
            }
            check(p >= copy && p <= copy + size);
            check_le(bytes, (size_t) (copy + size - p));
            check(safetensors_find(st, e->name) != NULL);
        }
    } else {
        check(err.message[0] != '\0');
    }
    safetensors_close(st);
    free(copy);
    return 0;
}
