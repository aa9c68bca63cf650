/* gpu_side.c - the same model on several backends. */
#include "tests/gpu/gpu_side.h"

#include <stdio.h>
#include <stdlib.h>

#include "engine/base/check.h"
#include "tests/gpu/gpu_test.h"

static void
config_path(char *path, size_t bytes, const char *dir)
{
    (void) snprintf(path, bytes, "%s/config.json", dir);
}

void
config_write(char *dir, const char *config)
{
    char  path[300];
    require(mkdtemp(dir) == NULL ? ERROR : OK, &(struct err) { 0 }, "mkdtemp");
    config_path(path, sizeof path, dir);
    FILE  *out = need(fopen(path, "w"));
    (void) fputs(config, out);
    (void) fclose(out);
}

void
config_remove(const char *dir)
{
    char  path[300];
    config_path(path, sizeof path, dir);
    (void) remove(path);
    (void) remove(dir);
}

void
side_open(struct side *s, struct backend *be, const char *dir,
          const struct side_shape *shape)
{
    struct err  err = { 0 };
    check_le(shape->seq_blocks, SIDE_BLOCKS_MAX);
    s->be = be;
    s->shape = *shape;
    require(model_open(&s->m, &(struct model_options) {
        .path = dir, .load_format = LOAD_DUMMY, .dummy_seed = SEED,
        .block_size = SIDE_BLOCK_SIZE, .num_blocks = side_num_blocks(s),
        .max_num_batched_tokens = shape->max_num_batched_tokens,
        .max_num_seqs = shape->num_seqs, .max_num_logits = shape->num_seqs,
        .max_model_len = shape->max_model_len }, be, &err), &err, dir);
    require(batch_init(&s->batch, &s->m->limits, &err), &err, "batch");
}

void
side_close(struct side *s)
{
    batch_destroy(&s->batch);
    model_close(s->m);
}

int
side_num_blocks(const struct side *s)
{
    return 1 + s->shape.num_seqs * s->shape.seq_blocks;
}

void
side_append(struct side *s, int seq, const int32_t *ids, int num, int position)
{
    int32_t  blocks[SIDE_BLOCKS_MAX];
    for (int i = 0; i < s->shape.seq_blocks; i++) {
        blocks[i] = 1 + seq + s->shape.num_seqs
                              * ((i * 5 + seq) % s->shape.seq_blocks);
    }
    (void) batch_append(&s->batch, &(struct batch_seq) {
        .token_ids = ids, .query_len = num, .position = position,
        .block_ids = blocks, .block_size = SIDE_BLOCK_SIZE, .num_logits = 1 });
}

void
side_random_ids(int32_t *ids, int num)
{
    for (int i = 0; i < num; i++) {
        ids[i] = random_below(SIDE_VOCAB);
    }
}

static void
side_poison(struct side *s)
{
    struct tensor *const  all[] = { &s->m->hidden, &s->m->qkv, &s->m->attn,
                                    &s->m->mlp, &s->m->logits };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        s->be->ops->fill(s->be, all[i]->data, 0xff, tensor_bytes(all[i]));
    }
}

void
sides_step(struct side sides[2], const int *seqs, const int *nums, int num,
           const int32_t *ids, int *lens, const float *logits[2])
{
    struct err  err = { 0 };
    for (int b = 0; b < 2; b++) {
        side_poison(&sides[b]);
        batch_reset(&sides[b].batch);
        for (int i = 0; i < num; i++) {
            side_append(&sides[b], seqs[i], ids + i, nums[i], lens[seqs[i]]);
        }
        require(model_forward(sides[b].m, &sides[b].batch, &logits[b], &err),
                &err, "forward");
    }
    for (int i = 0; i < num; i++) {
        lens[seqs[i]] += nums[i];
    }
}
