/* cuda_plan.c - shares of keys: whole rows dealt out to blocks, or rows cut
 * where a warp's share ends. */
#include "engine/backend/cuda/cuda_plan.h"

#include <stdbool.h>
#include "engine/base/check.h"

/* Plans one kv head for groups of shares, one a kv head; give_to_heads() makes
 * shares of it. */
struct planner {
    const struct decode_plan_args *args;
    int64_t  share;          /* tiles of a share */
    int64_t  left;           /* of the present group's */
    int      at, num_groups; /* the present group */
    int      num_items, items_max, num_partials;
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

/* Tiles of the next item, at most `rest`: the first `done` tiles of this
 * sequence have their items. */
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

/* Counts an item's tiles; the next item belongs to the next group when this
 * one's shares are used up. */
static void
take(struct planner *p, int64_t tiles)
{
    p->left -= tiles;
    if (p->left <= 0 && p->at + 1 < p->num_groups) {
        p->at++;
        p->args->first[p->at] = p->num_items;
        p->left += p->share;
        if (p->left <= 0) {
            p->left = 1;           /* a chunk larger than a share */
        }
    }
}

static void
plan_seq(struct planner *p, int seq)
{
    const struct decode_plan_args  *a = p->args;
    int32_t  keys = a->context_lens[seq], begin = 0;
    int64_t  rest = tiles_of(keys), done = 0;
    int      first = p->num_items;

    while (rest > 0) {
        int64_t  tiles = item_tiles(p, done, rest);
        int32_t  end = begin + (int32_t) tiles * ATTENTION_DECODE_KEYS;
        if (p->num_items == p->items_max) {
            p->full = true;
            return;
        }
        a->items[p->num_items++] = (struct decode_item) {
            .seq = seq, .table = a->tables[seq], .row = a->rows[seq],
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
    p->full |= p->num_partials > a->partials_max / a->num_kv_heads;
}

/* Group g's items become those of shares g * num_kv_heads + 0, 1 ..; from the
 * last to the first, as they move up. */
static void
give_to_heads(const struct planner *p)
{
    const struct decode_plan_args  *a = p->args;
    int  heads = a->num_kv_heads;

    for (int s = p->num_groups * heads; s <= a->num_shares; s++) {
        a->first[s] = p->num_items * heads;
    }
    for (int g = p->num_groups - 1, end = p->num_items; g >= 0; g--) {
        int  first = a->first[g], num = end - first;
        for (int h = heads - 1; h >= 0; h--) {
            int  to = first * heads + h * num;
            for (int i = num - 1; i >= 0; i--) {
                struct decode_item  item = a->items[first + i];
                item.kv_head = h;
                item.partial = item.partial * heads + h * item.num_parts;
                a->items[to + i] = item;
            }
            a->first[g * heads + h] = to;
        }
        end = first;
    }
}

int
decode_plan(const struct decode_plan_args *a)
{
    int64_t         tiles = 0;
    int             heads = a->num_kv_heads;
    struct planner  p = { .args = a };

    check_le(1, heads);
    check_le(heads, a->num_shares);
    check_eq(a->chunk_keys % ATTENTION_DECODE_KEYS, 0);
    for (int s = 0; s < a->num_seqs; s++) {
        tiles += a->rows[s] >= 0 ? tiles_of(a->context_lens[s]) : 0;
    }
    p.num_groups = a->num_shares / heads;
    p.items_max = a->items_max / heads;
    p.share = (tiles + p.num_groups - 1) / p.num_groups;
    if (p.share < DECODE_SHARE_MIN) {
        p.share = DECODE_SHARE_MIN;
    }
    p.left = p.share;
    a->first[0] = 0;
    for (int s = 0; s < a->num_seqs && !p.full; s++) {
        if (a->rows[s] >= 0) {
            plan_seq(&p, s);
        }
    }
    if (p.full) {
        return -1;
    }
    p.num_groups = p.at + 1;
    give_to_heads(&p);
    return p.num_items * heads;
}

/* ---- whole rows --------------------------------------------------------------------- */

struct dealer {
    const struct decode_plan_args *args;
    int64_t  load[PLAN_BLOCKS_MAX];      /* tiles of each share */
    int      open[PLAN_BLOCKS_MAX];      /* shares that still get whole rows */
    int      num_open, turn;
    int      num_drafts, num_items, num_partials;
    bool     full;
};

/* Tiles [begin, begin + tiles) of a row to a share; -1: to be cut later. */
static void
deal(struct dealer *d, struct decode_item item, int64_t begin, int64_t tiles,
     int share)
{
    const struct decode_plan_args  *a = d->args;
    if (d->num_drafts == a->drafts_max
        || (share >= 0 && d->num_items == a->items_max))
    {
        d->full = true;
        return;
    }
    int32_t  end = (int32_t) (begin + tiles) * ATTENTION_DECODE_KEYS;
    item.key_begin = (int32_t) begin * ATTENTION_DECODE_KEYS;
    item.key_end = end <= item.position ? end : item.position + 1;
    a->drafts[d->num_drafts++] = (struct decode_draft) {
        .item = item, .share = share };
    if (share >= 0) {
        d->load[share] += tiles;
        d->num_items++;
    }
}

/* A whole row to the share whose turn it is, if it has room; one that has not
 * gets none any more. */
static void
deal_row(struct dealer *d, struct decode_item item, int64_t limit)
{
    int64_t  tiles = tiles_of(item.position + 1);
    int      share = -1;
    if (d->num_open > 0) {
        int  at = d->turn % d->num_open;
        if (d->load[d->open[at]] + tiles <= limit) {
            share = d->open[at];
            d->turn = at + 1;
        } else {
            d->num_open--;
            for (int i = at; i < d->num_open; i++) {
                d->open[i] = d->open[i + 1];
            }
            d->turn = at;
        }
    }
    deal(d, item, 0, tiles, share);
}

/* Cuts a row into what share *at and the following have room for; past the last
 * all get some more. */
static void
cut_row(struct dealer *d, struct decode_item item, int64_t *limit, int *at)
{
    int64_t  rest = tiles_of(item.position + 1), done = 0;
    int      first = d->num_drafts;
    while (rest > 0 && !d->full) {
        int64_t  room = *limit - d->load[*at];
        int64_t  least = rest < DECODE_SHARE_MIN ? rest : DECODE_SHARE_MIN;
        if (room < least) {
            if (++*at == d->args->num_shares) {
                *at = 0;
                *limit += *limit / 16 + DECODE_SHARE_MIN;
            }
            continue;
        }
        room = room < rest ? room : rest;
        deal(d, item, done, room, *at);
        done += room;
        rest -= room;
    }
    int  parts = d->num_drafts - first;
    for (int i = 0; i < parts; i++) {
        struct decode_item  *it = &d->args->drafts[first + i].item;
        it->partial = d->num_partials;
        it->part = i;
        it->num_parts = parts;
    }
    d->num_partials += parts > 1 ? parts : 0;
}

/* Drafts into the order of shares, those of a share backwards: what was cut
 * comes first. */
static void
place_items(const struct dealer *d)
{
    const struct decode_plan_args  *a = d->args;
    for (int s = 0; s <= a->num_shares; s++) {
        a->first[s] = 0;
    }
    for (int i = 0; i < d->num_drafts; i++) {
        if (a->drafts[i].share >= 0) {
            a->first[a->drafts[i].share]++;
        }
    }
    for (int s = 1; s <= a->num_shares; s++) {
        a->first[s] += a->first[s - 1];         /* ends */
    }
    for (int i = 0; i < d->num_drafts; i++) {
        if (a->drafts[i].share >= 0) {
            a->items[--a->first[a->drafts[i].share]] = a->drafts[i].item;
        }
    }
}

int
decode_plan_rows(const struct decode_plan_args *a)
{
    struct dealer  d = { .args = a, .num_open = a->num_shares };
    int64_t        tiles = 0;
    int            at = 0;

    check(a->num_shares >= 1 && a->num_kv_heads >= 1);
    check_le(a->num_shares, PLAN_BLOCKS_MAX);
    for (int s = 0; s < a->num_shares; s++) {
        d.open[s] = s;
    }
    for (int s = 0; s < a->num_seqs; s++) {
        tiles += a->rows[s] >= 0 ? tiles_of(a->context_lens[s]) : 0;
    }
    int64_t  share = (tiles * a->num_kv_heads + a->num_shares - 1)
                     / a->num_shares;
    share = share < PLAN_SHARE_MIN ? PLAN_SHARE_MIN : share;
    for (int s = 0; s < a->num_seqs && !d.full; s++) {
        for (int h = 0; a->rows[s] >= 0 && h < a->num_kv_heads && !d.full;
             h++)
        {
            deal_row(&d, (struct decode_item) {
                .seq = s, .table = a->tables[s], .row = a->rows[s],
                .kv_head = h, .position = a->context_lens[s] - 1,
                .num_parts = 1 }, share + PLAN_SLACK);
        }
    }
    int  whole = d.num_drafts;
    for (int i = 0; i < whole && !d.full; i++) {
        if (a->drafts[i].share < 0) {
            cut_row(&d, a->drafts[i].item, &share, &at);
        }
    }
    if (d.full || d.num_partials > a->partials_max) {
        return -1;
    }
    place_items(&d);
    return d.num_items;
}
