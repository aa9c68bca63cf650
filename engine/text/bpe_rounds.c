/* bpe_rounds.c - one list of places per rank, and a heap of the ranks that
 * have places.
 *
 * A list may hold places that are stale: rank[i] is the current rank of symbol
 * i and its successor, and tells. */
#include "engine/text/bpe_rounds.h"

#include <stdlib.h>
#include <string.h>

#define NO_RANK  UINT32_MAX
#define NONE     UINT32_MAX
#define RADIX    2048
#define AHEAD    8        /* places to prefetch */

/* A symbol and what changes with it, on one cache line. */
struct symbol {
    int32_t  id;          /* -1: joined to the left */
    uint32_t rank;        /* of the pair with its successor, or NO_RANK */
    uint32_t next;        /* NONE: last */
    uint32_t prev;
};

/* A place in a rank's list. */
struct node {
    uint32_t at;
    uint32_t next;        /* index + 1, 0: last */
};

struct rounds {
    const struct bpe *b;
    struct symbol    *sym;        /* [num] */
    struct node      *nodes;      /* [cap_nodes] */
    size_t            num_nodes;
    size_t            cap_nodes;
    struct list {
        uint32_t head, tail;      /* node index + 1, 0: empty */
    }                *lists;      /* [num_ranks] */
    uint32_t         *heap;       /* ranks with places */
    size_t            heap_len;
    size_t            heap_cap;
    uint32_t         *places;     /* [num] of the rank at hand */
    uint32_t         *done;       /* [num] merged in this sweep; room to sort */
    uint64_t         *urgent;     /* heap of rank << 32 | place: pairs that go
                                     before the rest of the sweep */
    size_t            urgent_len;
    size_t            urgent_cap;
    bool              failed;
};

/* ---- the heap of ranks ---------------------------------------------------- */

static void
heap_push(struct rounds *r, uint32_t rank)
{
    if (r->heap_len == r->heap_cap) {
        size_t     cap = r->heap_cap == 0 ? 1024 : r->heap_cap * 2;
        uint32_t  *heap = realloc(r->heap, cap * sizeof *heap);
        if (heap == NULL) {
            r->failed = true;
            return;
        }
        r->heap = heap;
        r->heap_cap = cap;
    }
    size_t  i = r->heap_len++;
    while (i > 0 && r->heap[(i - 1) / 2] > rank) {
        r->heap[i] = r->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    r->heap[i] = rank;
}

static uint32_t
heap_pop(struct rounds *r)
{
    uint32_t  top = r->heap[0], x = r->heap[--r->heap_len];
    size_t    i = 0, c;

    while ((c = 2 * i + 1) < r->heap_len) {
        c += c + 1 < r->heap_len && r->heap[c + 1] < r->heap[c];
        if (r->heap[c] >= x) {
            break;
        }
        r->heap[i] = r->heap[c];
        i = c;
    }
    r->heap[i] = x;
    return top;
}

/* ---- places ------------------------------------------------------------------ */

/* Looks the pair at i up and puts it into its rank's list. */
static void
place_add(struct rounds *r, uint32_t i)
{
    uint32_t                right = r->sym[i].next;
    const struct bpe_pair  *p = right == NONE ? NULL
        : bpe_pair_find(r->b, r->sym[i].id, r->sym[right].id);

    r->sym[i].rank = p == NULL ? NO_RANK : p->rank;
    if (p == NULL) {
        return;
    }
    if (r->num_nodes == r->cap_nodes) {
        size_t        cap = r->cap_nodes * 2;
        struct node  *nodes = realloc(r->nodes, cap * sizeof *nodes);
        if (nodes == NULL) {
            r->failed = true;
            return;
        }
        r->nodes = nodes;
        r->cap_nodes = cap;
    }
    struct list  *l = &r->lists[p->rank];
    r->nodes[r->num_nodes++] = (struct node) { i, 0 };
    if (l->head == 0) {
        l->head = (uint32_t) r->num_nodes;
        heap_push(r, p->rank);
    } else {
        r->nodes[l->tail - 1].next = (uint32_t) r->num_nodes;
    }
    l->tail = (uint32_t) r->num_nodes;
}

/* Least significant digit first, three digits of 11 bits. */
static void
places_sort(uint32_t *a, uint32_t *tmp, size_t num)
{
    for (int shift = 0; shift < 33; shift += 11) {
        size_t  at[RADIX + 1] = { 0 };
        for (size_t i = 0; i < num; i++) {
            at[(a[i] >> shift & (RADIX - 1)) + 1]++;
        }
        for (size_t k = 1; k <= RADIX; k++) {
            at[k] += at[k - 1];
        }
        for (size_t i = 0; i < num; i++) {
            tmp[at[a[i] >> shift & (RADIX - 1)]++] = a[i];
        }
        memcpy(a, tmp, num * sizeof *a);
    }
}

static void
places_insert(uint32_t *a, size_t num)
{
    for (size_t i = 1; i < num; i++) {
        uint32_t  x = a[i];
        size_t    k = i;
        for (; k > 0 && a[k - 1] > x; k--) {
            a[k] = a[k - 1];
        }
        a[k] = x;
    }
}

/* The places of rank that are not stale, ascending. */
static size_t
places_take(struct rounds *r, uint32_t rank)
{
    size_t  num = 0;
    bool    sorted = true;

    for (uint32_t n = r->lists[rank].head; n != 0; n = r->nodes[n - 1].next) {
        uint32_t  at = r->nodes[n - 1].at;
        if (r->sym[at].rank == rank) {
            sorted = sorted && (num == 0 || r->places[num - 1] < at);
            r->places[num++] = at;
        }
    }
    r->lists[rank] = (struct list) { 0, 0 };
    if (!sorted && num > 64) {
        places_sort(r->places, r->done, num);
    } else if (!sorted) {
        places_insert(r->places, num);
    }
    return num;
}

/* Joins symbol i and its successor.  Pairs that change have no rank until they
 * are looked up. */
static void
join(struct rounds *r, uint32_t i)
{
    uint32_t  right = r->sym[i].next, after = r->sym[right].next;

    r->sym[i].id = bpe_pair_find(r->b, r->sym[i].id, r->sym[right].id)->new_id;
    r->sym[right].id = -1;
    r->sym[i].rank = r->sym[right].rank = NO_RANK;
    r->sym[i].next = after;
    if (after != NONE) {
        r->sym[after].prev = i;
    }
    if (r->sym[i].prev != NONE) {
        r->sym[r->sym[i].prev].rank = NO_RANK;
    }
}

/* Puts the pair at i among the urgent ones if its rank is not above `rank`. */
static void
urgent_add(struct rounds *r, uint32_t i, uint32_t rank)
{
    uint32_t                right = i == NONE ? NONE : r->sym[i].next;
    const struct bpe_pair  *p = right == NONE ? NULL
        : bpe_pair_find(r->b, r->sym[i].id, r->sym[right].id);

    if (p == NULL || p->rank > rank) {
        return;
    }
    if (r->urgent_len == r->urgent_cap) {
        size_t     cap = r->urgent_cap == 0 ? 64 : r->urgent_cap * 2;
        uint64_t  *urgent = realloc(r->urgent, cap * sizeof *urgent);
        if (urgent == NULL) {
            r->failed = true;
            return;
        }
        r->urgent = urgent;
        r->urgent_cap = cap;
    }
    uint64_t  x = (uint64_t) p->rank << 32 | i;
    size_t    k = r->urgent_len++;
    r->sym[i].rank = p->rank;
    while (k > 0 && r->urgent[(k - 1) / 2] > x) {
        r->urgent[k] = r->urgent[(k - 1) / 2];
        k = (k - 1) / 2;
    }
    r->urgent[k] = x;
}

static uint64_t
urgent_pop(struct rounds *r)
{
    uint64_t  top = r->urgent[0], x = r->urgent[--r->urgent_len];
    size_t    i = 0, c;

    while ((c = 2 * i + 1) < r->urgent_len) {
        c += c + 1 < r->urgent_len && r->urgent[c + 1] < r->urgent[c];
        if (r->urgent[c] >= x) {
            break;
        }
        r->urgent[i] = r->urgent[c];
        i = c;
    }
    r->urgent[i] = x;
    return top;
}

/* Joins at i, and what must be joined before any later place of rank.  The
 * places concerned are at or before i, so before the rest of the sweep. */
static size_t
join_all(struct rounds *r, uint32_t i, uint32_t rank, size_t num_done)
{
    for (;;) {
        join(r, i);
        r->done[num_done++] = i;
        if (r->b->min_use[r->sym[i].id] <= rank) {
            urgent_add(r, r->sym[i].prev, rank);
            urgent_add(r, i, rank);
        }
        for (;;) {
            if (r->urgent_len == 0 || r->failed) {
                return num_done;
            }
            uint64_t  top = urgent_pop(r);
            i = (uint32_t) top;
            if (r->sym[i].rank == (uint32_t) (top >> 32)) {
                break;
            }
        }
    }
}

static inline void
prefetch_pair(const struct rounds *r, uint32_t i)
{
    uint32_t  right = r->sym[i].next;
    if (right != NONE) {
        __builtin_prefetch(&r->b->pairs[bpe_pair_home(
            r->b, bpe_pair_key(r->sym[i].id, r->sym[right].id))]);
    }
}

/* Merges all places of one rank, then looks up the pairs they now form. */
static void
sweep(struct rounds *r, uint32_t rank)
{
    size_t    num = places_take(r, rank), num_done = 0;
    uint32_t  last = NONE;

    for (size_t k = 0; k < num && !r->failed; k++) {
        if (k + AHEAD < num) {
            __builtin_prefetch(&r->sym[r->places[k + AHEAD]], 1);
        }
        /* Another rank: its left side was merged away. */
        if (r->sym[r->places[k]].rank == rank) {
            num_done = join_all(r, r->places[k], rank, num_done);
        }
    }
    for (size_t k = 0; k < num_done && !r->failed; k++) {
        if (k + AHEAD < num_done) {
            prefetch_pair(r, r->done[k + AHEAD]);
        }
        uint32_t  i = r->done[k], before = r->sym[i].prev;
        if (r->sym[i].id < 0) {
            continue;                    /* joined to its left since */
        }
        if (before != NONE && before != last) {
            place_add(r, before);
        }
        place_add(r, i);
        last = i;
    }
}

static bool
rounds_create(struct rounds *r, size_t num)
{
    r->sym = malloc(num * sizeof *r->sym);
    r->places = malloc(2 * num * sizeof *r->places);
    r->done = malloc(num * sizeof *r->done);
    r->cap_nodes = 2 * num;
    r->nodes = malloc(r->cap_nodes * sizeof *r->nodes);
    r->lists = calloc((size_t) r->b->num_ranks + 1, sizeof *r->lists);
    return r->sym != NULL && r->places != NULL && r->done != NULL
           && r->nodes != NULL && r->lists != NULL;
}

static void
rounds_destroy(struct rounds *r)
{
    free(r->sym);
    free(r->places);
    free(r->done);
    free(r->urgent);
    free(r->nodes);
    free(r->lists);
    free(r->heap);
}

size_t
bpe_rounds(const struct bpe *b, int32_t *ids, size_t num)
{
    struct rounds  r = { .b = b };
    size_t         len = 0;

    if (!rounds_create(&r, num)) {
        rounds_destroy(&r);
        return SIZE_MAX;
    }
    for (size_t i = 0; i < num; i++) {
        r.sym[i] = (struct symbol) {
            .id = ids[i], .rank = NO_RANK,
            .next = i + 1 == num ? NONE : (uint32_t) i + 1,
            .prev = i == 0 ? NONE : (uint32_t) i - 1
        };
    }
    for (size_t i = 0; i < num && !r.failed; i++) {
        place_add(&r, (uint32_t) i);
    }
    while (r.heap_len > 0 && !r.failed) {
        sweep(&r, heap_pop(&r));
    }
    for (uint32_t i = 0; i != NONE; i = r.sym[i].next) {
        ids[len++] = r.sym[i].id;
    }
    bool  failed = r.failed;
    rounds_destroy(&r);
    return failed ? SIZE_MAX : len;
}
