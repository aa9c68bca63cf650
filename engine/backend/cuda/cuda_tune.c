/* cuda_tune.c - how to compute products, as timed, in a file.
 *
 * One line that says for which GPU, driver and libraries they are, the plans as
 * they are in memory, and a checksum of all that.  Anything else is ignored and
 * overwritten: another driver, a truncated file, another version of this one.
 * Written beside it and renamed, so that engines may share it. */
#include "engine/backend/cuda/cuda_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TUNE_VERSION  2
#define HEAD_BYTES    512
#define PATH_BYTES    4096

struct tune_file {
    char                  head[HEAD_BYTES];
    uint64_t              num_plans;
    struct cuda_gemm_plan plans[CUDA_GEMM_PLANS];
    uint64_t              checksum;      /* of what is before, in the file
                                            behind the last plan */
};

/* FNV-1a: against accidents. */
static uint64_t
checksum(const void *data, size_t bytes)
{
    const unsigned char  *p = data;
    uint64_t              h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < bytes; i++) {
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    }
    return h;
}

static void
fill_head(const struct cuda_backend *cb, char head[HEAD_BYTES])
{
    int  driver = 0, runtime = 0;
    (void) cudaDriverGetVersion(&driver);
    (void) cudaRuntimeGetVersion(&runtime);
    memset(head, 0, HEAD_BYTES);
    (void) snprintf(head, HEAD_BYTES, "nginx-llm gemm plans %d; %s; "
                    "%d sms; driver %d; runtime %d; cublasLt %zu; %zu bytes\n",
                    TUNE_VERSION, cb->name, cb->num_sms, driver, runtime,
                    cublasLtGetVersion(), sizeof(struct cuda_gemm_plan));
}

static size_t
body_bytes(const struct tune_file *f)
{
    return offsetof(struct tune_file, plans)
           + (size_t) f->num_plans * sizeof *f->plans;
}

/* False unless the file is whole and for this machine. */
static bool
read_file(const struct cuda_backend *cb, struct tune_file *f)
{
    char              want[HEAD_BYTES];
    size_t            head = offsetof(struct tune_file, plans), bytes;
    uint64_t          sum;
    FILE             *in = fopen(cb->tune_path, "rb");
    if (in == NULL) {
        return false;
    }
    fill_head(cb, want);
    bytes = fread(f, 1, sizeof *f, in);
    (void) fclose(in);
    if (bytes < head || f->num_plans > CUDA_GEMM_PLANS
        || bytes != body_bytes(f) + sizeof sum
        || memcmp(f->head, want, sizeof f->head) != 0)
    {
        return false;
    }
    memcpy(&sum, (const char *) f + body_bytes(f), sizeof sum);
    return sum == checksum(f, body_bytes(f));
}

void
cuda_tune_load(struct cuda_backend *cb)
{
    struct tune_file  *f;
    if (cb->tune_path == NULL) {
        return;
    }
    f = calloc(1, sizeof *f);
    if (f != NULL && read_file(cb, f)) {
        for (uint64_t i = 0; i < f->num_plans; i++) {
            if (f->plans[i].key.used == 1) {
                *cuda_gemm_place(cb, &f->plans[i].key) = f->plans[i];
            }
        }
    }
    free(f);
}

void
cuda_tune_save(struct cuda_backend *cb)
{
    char               path[PATH_BYTES];
    struct tune_file  *f;
    if (cb->tune_path == NULL || cb->tuned == cb->tuned_saved) {
        return;
    }
    cb->tuned_saved = cb->tuned;
    f = calloc(1, sizeof *f);
    int  n = snprintf(path, sizeof path, "%s.%ld", cb->tune_path,
                      (long) getpid());
    FILE  *out = f == NULL || n < 0 || (size_t) n >= sizeof path
                 ? NULL : fopen(path, "wb");
    if (out != NULL) {
        fill_head(cb, f->head);
        for (int i = 0; i < CUDA_GEMM_PLANS; i++) {
            if (cb->plans[i].key.used && cb->plans[i].found) {
                f->plans[f->num_plans++] = cb->plans[i];
            }
        }
        uint64_t  sum = checksum(f, body_bytes(f));
        bool  ok = fwrite(f, body_bytes(f), 1, out) == 1
                   && fwrite(&sum, sizeof sum, 1, out) == 1;
        ok = fclose(out) == 0 && ok;
        if (!ok || rename(path, cb->tune_path) != 0) {
            (void) remove(path);
        }
    }
    free(f);
}
