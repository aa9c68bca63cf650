/* kv_blocks.h - which blocks of the KV pool are free, and who holds the rest.
 *
 * Only numbers: the memory is model/kv_pool's.  Block ids are 1 .. num_blocks
 * - 1; block 0 is the pool's null block and is never handed out.  Every held
 * block has a reference count equal to the number of block tables it stands
 * in; it is free again when the last one lets go.  A table that shares
 * another's block (a common prefix) takes its reference with
 * kv_blocks_share().
 *
 *     if (kv_blocks_append(kv, seq->block_table, &seq->num_blocks, want)) ...
 *     kv_blocks_release(kv, seq->block_table, &seq->num_blocks, 0);
 *
 * A block that a step in flight may still read or write is let go with that
 * step's number: it is fenced, neither held nor free, until
 * kv_blocks_step_done().
 *
 * One thread.  All calls are O(blocks asked for), the audit O(all blocks). */
#ifndef LLM_SCHED_KV_BLOCKS_H
#define LLM_SCHED_KV_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/base/err.h"

#define KV_BLOCKS_MAX  (1 << 24)     /* slot ids stay within int32 */

struct kv_blocks;

/* num_blocks counts the null block, as the pool does: at least 2. */
int kv_blocks_create(struct kv_blocks **out, int32_t num_blocks,
                     struct err *err);
void kv_blocks_destroy(struct kv_blocks *kv);     /* NULL is fine */

int32_t kv_blocks_num_free(const struct kv_blocks *kv);
int32_t kv_blocks_num_fenced(const struct kv_blocks *kv);
int32_t kv_blocks_num_total(const struct kv_blocks *kv);   /* without null */

/* Appends free blocks until the table has num_wanted entries; each gets
 * reference count 1.  All or nothing: false, and nothing changed, when too
 * few are free.  A table that is long enough already is left as it is. */
bool kv_blocks_append(struct kv_blocks *kv, int32_t *block_table,
                      int32_t *num_blocks, int32_t num_wanted);

/* One more reference on a held block, for the table it is written to next. */
void kv_blocks_share(struct kv_blocks *kv, int32_t block_id);

/* Lets go of every block of the table, last first, and empties it.  Those
 * that nobody else holds are free at once (step 0) or once that step is done;
 * steps of later calls are not smaller. */
void kv_blocks_release(struct kv_blocks *kv, int32_t *block_table,
                       int32_t *num_blocks, uint64_t step);

/* Frees what is fenced by this step or an earlier one. */
void kv_blocks_step_done(struct kv_blocks *kv, uint64_t step);

/* check()s the conservation laws against all block tables there are:
 *     kv_blocks_audit_begin(kv);
 *     for each table: kv_blocks_audit_table(kv, table, num_blocks);
 *     kv_blocks_audit_end(kv);
 * free + held + fenced == total; every reference count equals the number of tables
 * that hold the block; no block is free twice; block 0 is in no table. */
void kv_blocks_audit_begin(struct kv_blocks *kv);
void kv_blocks_audit_table(struct kv_blocks *kv, const int32_t *block_table,
                           int32_t num_blocks);
void kv_blocks_audit_end(const struct kv_blocks *kv);

#endif
