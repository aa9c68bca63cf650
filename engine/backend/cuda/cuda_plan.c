/* cuda_plan.c - equal shares of keys, cut where a warp's share ends. */
#include "engine/backend/cuda/cuda_plan.h"

#include <stdbool.h>
#include "engine/base/check.h"

struct planner {
    const struct decode_plan_args *args;
    int64_t  share;          /* tiles of a share */
    int64_t  left;           /* of the present share */
    int      at;             /* the present share */
    int      num_items, num_partials;
    bool     full;
};

static int
tiles_of(int32_t keys)
{
    return (keys + ATTENTION_DECODE_KEYS - 1) / ATTENTION_DECODE_KEYS;
}

int
decode_plan_items_max(int num_seqs, int num_kv_heads, int num_shares)
{
    return num_seqs * num_kv_heads + num_shares;
}

/* Tiles of the next item, at most `rest`: the first `done` tiles of this kv
 * head of a sequence have their items. */
static int64_t
item_tiles(const struct planner *p, int64_t done, int64_t rest)
{
    int64_t  chunk = p->args->chunk_keys / ATTENTION_DECODE_KEYS;

    if (chunk > 0) {
        int64_t  to_cut = chunk - done % chunk;
        return rest < to_cut ? rest : to_cut;
    }
    return rest < p->left ? rest : p->left;
}

/* Counts an item's tiles; the next item belongs to the next share when this
 * one is used up. */
static void
take(struct planner *p, int64_t tiles)
{
    p->left -= tiles;
    if (p->left <= 0 && p->at + 1 < p->args->num_shares) {
        p->at++;
        p->args->first[p->at] = p->num_items;
        p->left += p->share;
        if (p->left <= 0) {
            p->left = 1;           /* a chunk larger than a share */
        }
    }
}

static void
plan_head(struct planner *p, int seq, int kv_head)
{
    const struct decode_plan_args  *a = p->args;
    int32_t  keys = a->context_lens[seq], begin = 0;
    int64_t  rest = tiles_of(keys), done = 0;
    int      first = p->num_items;

    while (rest > 0) {
        int64_t  tiles = item_tiles(p, done, rest);
        int32_t  end = begin + (int32_t) tiles * ATTENTION_DECODE_KEYS;
        if (p->num_items == a->items_max) {
            p->full = true;
            return;
        }
        a->items[p->num_items++] = (struct decode_item) {
            .seq = seq, .table = a->tables[seq], .row = a->rows[seq],
            .kv_head = kv_head,
            .position = keys - 1, .key_begin = begin,
            .key_end = end < keys ? end : keys,
            .partial = p->num_partials, .part = p->num_items - first
        };
        take(p, tiles);
        begin = end;
        done += tiles;
        rest -= tiles;
    }
    int  parts = p->num_items - first;
    for (int i = first; i < p->num_items; i++) {
        a->items[i].part = i - first;
        a->items[i].num_parts = parts;
    }
    p->num_partials += parts > 1 ? parts : 0;
    p->full |= p->num_partials > a->partials_max;
}

int
decode_plan(const struct decode_plan_args *a)
{
    int64_t         tiles = 0;
    struct planner  p = { .args = a };

    check(a->num_shares >= 1 && a->num_kv_heads >= 1);
    check_eq(a->chunk_keys % ATTENTION_DECODE_KEYS, 0);
    for (int s = 0; s < a->num_seqs; s++) {
        tiles += a->rows[s] >= 0 ? tiles_of(a->context_lens[s]) : 0;
    }
    tiles *= a->num_kv_heads;
    p.share = (tiles + a->num_shares - 1) / a->num_shares;
    if (p.share < DECODE_SHARE_MIN) {
        p.share = DECODE_SHARE_MIN;
    }
    p.left = p.share;
    a->first[0] = 0;
    for (int s = 0; s < a->num_seqs && !p.full; s++) {
        for (int h = 0; a->rows[s] >= 0 && h < a->num_kv_heads && !p.full;
             h++)
        {
            plan_head(&p, s, h);
        }
    }
    for (int b = p.at + 1; b <= a->num_shares; b++) {
        a->first[b] = p.num_items;
    }
    return p.full ? -1 : p.num_items;
}
