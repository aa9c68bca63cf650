/* cuda_plan.c - items of decode attention, smaller towards the end. */
#include "engine/backend/cuda/cuda_plan.h"

#include <stdbool.h>
#include "engine/base/check.h"

#define CUTS_PER_WARP  12      /* of a row of 2^15 tiles: ln(2^15 / 6) and one */

struct planner {
    const struct decode_plan_args *args;
    int64_t  left;           /* tiles of the step without an item */
    int      num_items, num_partials;
    bool     full;
};

static int
tiles_of(int32_t keys)
{
    return (keys + ATTENTION_DECODE_KEYS - 1) / ATTENTION_DECODE_KEYS;
}

int
decode_plan_items_max(int num_seqs, int num_kv_heads, int num_warps)
{
    return num_seqs * num_kv_heads + num_warps * CUTS_PER_WARP;
}

/* Tiles of the next item, of a row with `rest` tiles left. */
static int64_t
item_tiles(const struct planner *p, int64_t rest)
{
    int64_t  each = p->left / p->args->num_warps;

    if (each < DECODE_ITEM_MIN) {
        each = DECODE_ITEM_MIN;
    }
    return rest < each + each / 2 ? rest : each;
}

static void
plan_head(struct planner *p, int seq, int kv_head)
{
    const struct decode_plan_args  *a = p->args;
    int32_t  keys = a->context_lens[seq], begin = 0;
    int64_t  rest = tiles_of(keys);
    int      first = p->num_items;

    while (rest > 0) {
        int64_t  tiles = item_tiles(p, rest);
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
            .partial = p->num_partials
        };
        begin = end;
        rest -= tiles;
        p->left -= tiles;
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
    struct planner  p = { .args = a };

    check(a->num_warps >= 1 && a->num_kv_heads >= 1);
    for (int s = 0; s < a->num_seqs; s++) {
        p.left += a->rows[s] >= 0 ? tiles_of(a->context_lens[s]) : 0;
    }
    p.left *= a->num_kv_heads;
    for (int s = 0; s < a->num_seqs && !p.full; s++) {
        for (int h = 0; a->rows[s] >= 0 && h < a->num_kv_heads && !p.full;
             h++)
        {
            plan_head(&p, s, h);
        }
    }
    return p.full ? -1 : p.num_items;
}
