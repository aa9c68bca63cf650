/* kv_blocks.c - a stack of free ids, a reference count per block, a
 * queue of fenced ids.
 *
 * Ids go out lowest first from a new pool and last-freed first later: a block
 * just freed is the one most likely still in a cache. */
#include "engine/sched/kv_blocks.h"
#include "engine/base/check.h"

#include <stdlib.h>
#include <string.h>

struct kv_blocks {
    int32_t   num_blocks;   /* with the null block */
    int32_t   num_free;
    int32_t  *free_ids;     /* [num_blocks - 1], a stack of num_free */
    int32_t  *ref_counts;   /* [num_blocks], 0: free or fenced */
    int32_t  *fenced_ids;   /* [num_blocks], a ring, fences ascending */
    int32_t   num_fenced, first_fenced;
    uint64_t *fences;       /* [num_blocks] by id: the step to wait for */
    int32_t  *seen;         /* [num_blocks], references the audit has met */
};

int
kv_blocks_create(struct kv_blocks **out, int32_t num_blocks, struct err *err)
{
    struct kv_blocks  *kv;

    *out = NULL;
    if (num_blocks < 2 || num_blocks > KV_BLOCKS_MAX) {
        return err_set(err, "KV cache: %d blocks, must be 2 to %d (one is the "
                       "null block); give it more memory or a shorter "
                       "max_model_len", num_blocks, KV_BLOCKS_MAX);
    }
    kv = calloc(1, sizeof *kv);
    if (kv != NULL) {
        kv->num_blocks = num_blocks;
        kv->free_ids = calloc((size_t) num_blocks, sizeof *kv->free_ids);
        kv->ref_counts = calloc((size_t) num_blocks, sizeof *kv->ref_counts);
        kv->fenced_ids = calloc((size_t) num_blocks, sizeof *kv->fenced_ids);
        kv->fences = calloc((size_t) num_blocks, sizeof *kv->fences);
        kv->seen = calloc((size_t) num_blocks, sizeof *kv->seen);
    }
    if (kv == NULL || kv->free_ids == NULL || kv->ref_counts == NULL
        || kv->fenced_ids == NULL || kv->fences == NULL || kv->seen == NULL)
    {
        kv_blocks_destroy(kv);
        return err_set(err, "KV cache: out of memory for the tables of %d "
                       "blocks", num_blocks);
    }
    for (int32_t id = num_blocks - 1; id >= 1; id--) {
        kv->free_ids[kv->num_free++] = id;
    }
    *out = kv;
    return OK;
}

void
kv_blocks_destroy(struct kv_blocks *kv)
{
    if (kv == NULL) {
        return;
    }
    free(kv->free_ids);
    free(kv->ref_counts);
    free(kv->fenced_ids);
    free(kv->fences);
    free(kv->seen);
    free(kv);
}

int32_t
kv_blocks_num_free(const struct kv_blocks *kv)
{
    return kv->num_free;
}

int32_t
kv_blocks_num_fenced(const struct kv_blocks *kv)
{
    return kv->num_fenced;
}

int32_t
kv_blocks_num_total(const struct kv_blocks *kv)
{
    return kv->num_blocks - 1;
}

bool
kv_blocks_append(struct kv_blocks *kv, int32_t *block_table,
                 int32_t *num_blocks, int32_t num_wanted)
{
    if (num_wanted - *num_blocks > kv->num_free) {
        return false;
    }
    while (*num_blocks < num_wanted) {
        int32_t  id = kv->free_ids[--kv->num_free];
        check_eq(kv->ref_counts[id], 0);
        kv->ref_counts[id] = 1;
        block_table[(*num_blocks)++] = id;
    }
    return true;
}

static void
kv_blocks_check_held(const struct kv_blocks *kv, int32_t block_id)
{
    check_lt(0, block_id);
    check_lt(block_id, kv->num_blocks);
    check_lt(0, kv->ref_counts[block_id]);
}

void
kv_blocks_share(struct kv_blocks *kv, int32_t block_id)
{
    kv_blocks_check_held(kv, block_id);
    kv->ref_counts[block_id]++;
}

static int32_t *
fenced_at(const struct kv_blocks *kv, int32_t i)
{
    return &kv->fenced_ids[(kv->first_fenced + i) % kv->num_blocks];
}

static void
kv_blocks_fence(struct kv_blocks *kv, int32_t block_id, uint64_t step)
{
    if (kv->num_fenced > 0) {
        check_le(kv->fences[*fenced_at(kv, kv->num_fenced - 1)], step);
    }
    kv->fences[block_id] = step;
    *fenced_at(kv, kv->num_fenced++) = block_id;
}

void
kv_blocks_release(struct kv_blocks *kv, int32_t *block_table,
                  int32_t *num_blocks, uint64_t step)
{
    while (*num_blocks > 0) {
        int32_t  id = block_table[--*num_blocks];
        kv_blocks_check_held(kv, id);
        if (--kv->ref_counts[id] > 0) {
            continue;
        }
        if (step > 0) {
            kv_blocks_fence(kv, id, step);
        } else {
            kv->free_ids[kv->num_free++] = id;
        }
    }
}

void
kv_blocks_step_done(struct kv_blocks *kv, uint64_t step)
{
    while (kv->num_fenced > 0 && kv->fences[*fenced_at(kv, 0)] <= step) {
        kv->free_ids[kv->num_free++] = *fenced_at(kv, 0);
        kv->first_fenced = (kv->first_fenced + 1) % kv->num_blocks;
        kv->num_fenced--;
    }
}

void
kv_blocks_audit_begin(struct kv_blocks *kv)
{
    memset(kv->seen, 0, (size_t) kv->num_blocks * sizeof *kv->seen);
}

void
kv_blocks_audit_table(struct kv_blocks *kv, const int32_t *block_table,
                      int32_t num_blocks)
{
    for (int32_t i = 0; i < num_blocks; i++) {
        kv_blocks_check_held(kv, block_table[i]);
        kv->seen[block_table[i]]++;
    }
}

void
kv_blocks_audit_end(const struct kv_blocks *kv)
{
    int32_t  num_held = 0;

    check_eq(kv->ref_counts[0], 0);
    for (int32_t id = 1; id < kv->num_blocks; id++) {
        check_eq(kv->ref_counts[id], kv->seen[id]);
        num_held += kv->ref_counts[id] > 0;
    }
    check_eq(kv->num_free + num_held + kv->num_fenced, kv->num_blocks - 1);
    /* Distinct ids: the sum above cannot see one id twice and another
     * missing. */
    for (int32_t i = 0; i < kv->num_free + kv->num_fenced; i++) {
        int32_t  id = i < kv->num_free ? kv->free_ids[i]
                                       : *fenced_at(kv, i - kv->num_free);
        check_lt(0, id);
        check_lt(id, kv->num_blocks);
        check_eq(kv->seen[id], 0);
        kv->seen[id] = -1;
    }
}
