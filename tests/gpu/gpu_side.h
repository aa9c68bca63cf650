/* gpu_side.h - the same model with random weights on several backends, through
 * the same steps.
 *
 * Sequence `seq` has seq_blocks blocks of its own, strewn over the cache, so a
 * block table that is read at the wrong place shows. */
#ifndef LLM_TESTS_GPU_GPU_SIDE_H
#define LLM_TESTS_GPU_GPU_SIDE_H

#include "engine/backend/backend.h"
#include "engine/model/model.h"

#define SIDE_VOCAB       1000       /* that the configs must have */
#define SIDE_BLOCK_SIZE  32
#define SIDE_BLOCKS_MAX  64         /* of a sequence */

struct side_shape {
    int num_seqs, seq_blocks;       /* seq_blocks is no multiple of 5 */
    int max_num_batched_tokens, max_model_len;
};

struct side {
    struct backend    *be;
    struct model      *m;
    struct batch       batch;
    struct side_shape  shape;
};

/* dir + "/config.json"; the X's of dir are replaced. */
void config_write(char *dir, const char *config);
void config_remove(const char *dir);

void side_open(struct side *s, struct backend *be, const char *dir,
               const struct side_shape *shape);
void side_close(struct side *s);
int side_num_blocks(const struct side *s);       /* with the null block */

/* To the batch: `num` tokens from `position` on, with logits of the last. */
void side_append(struct side *s, int seq, const int32_t *ids, int num,
                 int position);

void side_random_ids(int32_t *ids, int num);

/* One step on both, of nums[i] tokens of sequence seqs[i] from ids[i] on;
 * lens[seq] counts on.  Activations are NaN before it: garbage of an earlier
 * step must not show.  logits: [num, SIDE_VOCAB] each. */
void sides_step(struct side sides[2], const int *seqs, const int *nums, int num,
                const int32_t *ids, int *lens, const float *logits[2]);

#endif
