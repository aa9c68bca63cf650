/* stop.c - Aho-Corasick with child lists and failure links.
 *
 * The bytes held back are always the first `depth` bytes of some stop string,
 * the one the state lies on, so they are not copied: the set has them. */
#include "engine/text/stop.h"

#include <string.h>

struct stop_node {
    uint32_t child;      /* 0: none */
    uint32_t sibling;    /* 0: none */
    uint32_t fail;
    uint32_t depth;
    int32_t  match;      /* smallest index of a string that ends here, -1 */
    int32_t  string;     /* a string that runs through here */
    uint8_t  byte;
};

struct stop_set {
    struct stop_node *nodes;      /* [num_nodes]; 0 is the root */
    uint32_t          num_nodes;
    uint32_t          first[256]; /* the root's children, 0: none */
    struct str       *strings;    /* [num], in the arena */
    size_t            num;
};

static uint32_t
stop_child(const struct stop_set *set, uint32_t node, uint8_t byte)
{
    if (node == 0) {
        return set->first[byte];
    }
    uint32_t  n = set->nodes[node].child;
    while (n != 0 && set->nodes[n].byte != byte) {
        n = set->nodes[n].sibling;
    }
    return n;
}

static uint32_t
stop_step(const struct stop_set *set, uint32_t state, uint8_t byte)
{
    for (;;) {
        uint32_t  next = stop_child(set, state, byte);
        if (next != 0 || state == 0) {
            return next;
        }
        state = set->nodes[state].fail;
    }
}

static void
stop_insert(struct stop_set *set, int32_t index)
{
    struct str  s = set->strings[index];
    uint32_t    node = 0;

    for (size_t i = 0; i < s.len; i++) {
        uint8_t   b = (uint8_t) s.data[i];
        uint32_t  next = stop_child(set, node, b);
        if (next == 0) {
            next = set->num_nodes++;
            set->nodes[next] = (struct stop_node) {
                .depth = (uint32_t) i + 1, .match = -1, .string = index,
                .byte = b
            };
            if (node == 0) {
                set->first[b] = next;
            } else {
                set->nodes[next].sibling = set->nodes[node].child;
                set->nodes[node].child = next;
            }
        }
        node = next;
    }
    if (set->nodes[node].match < 0) {
        set->nodes[node].match = index;
    }
}

/* Breadth first, so that a node's failure target is finished before it. */
static void
stop_link(struct stop_set *set, uint32_t *queue)
{
    uint32_t  head = 0, tail = 0;

    for (int b = 0; b < 256; b++) {
        if (set->first[b] != 0) {
            queue[tail++] = set->first[b];
        }
    }
    while (head < tail) {
        uint32_t           n = queue[head++];
        struct stop_node  *node = &set->nodes[n];
        int32_t            longer = set->nodes[node->fail].match;
        if (longer >= 0 && (node->match < 0 || longer < node->match)) {
            node->match = longer;
        }
        for (uint32_t c = node->child; c != 0; c = set->nodes[c].sibling) {
            set->nodes[c].fail = stop_step(set, node->fail,
                                           set->nodes[c].byte);
            queue[tail++] = c;
        }
    }
}

static int
stop_check(const struct str *strings, size_t num, size_t *total,
           struct err *err)
{
    if (num > STOP_STRINGS_MAX) {
        return err_set_http(err, 400, "stop", "stop: %zu strings, the limit "
                            "is %d", num, STOP_STRINGS_MAX);
    }
    *total = 0;
    for (size_t i = 0; i < num; i++) {
        if (strings[i].len == 0) {
            return err_set_http(err, 400, "stop", "stop: string %zu is empty",
                                i);
        }
        if (strings[i].len > STOP_STRING_BYTES_MAX) {
            return err_set_http(err, 400, "stop", "stop: string %zu has %zu "
                                "bytes, the limit is %d", i, strings[i].len,
                                STOP_STRING_BYTES_MAX);
        }
        *total += strings[i].len;
    }
    if (*total > STOP_TOTAL_BYTES_MAX) {
        return err_set_http(err, 400, "stop", "stop: %zu bytes in all, the "
                            "limit is %d", *total, STOP_TOTAL_BYTES_MAX);
    }
    return OK;
}

int
stop_compile(struct stop_set **out, const struct str *strings, size_t num,
             struct arena *arena, struct err *err)
{
    size_t  total = 0;

    *out = NULL;
    if (stop_check(strings, num, &total, err) != OK) {
        return ERROR;
    }
    struct stop_set  *set = arena_calloc(arena, 1, sizeof *set);
    uint32_t         *queue = arena_alloc(arena, (total + 1) * sizeof *queue);
    if (set != NULL) {
        set->nodes = arena_alloc(arena, (total + 1) * sizeof *set->nodes);
        set->strings = arena_alloc(arena, (num + 1) * sizeof *set->strings);
    }
    if (set == NULL || queue == NULL || set->nodes == NULL
        || set->strings == NULL)
    {
        return err_set_http(err, 400, "stop", "stop: the request's memory is "
                            "used up");
    }
    set->nodes[0] = (struct stop_node) { .match = -1, .string = -1 };
    set->num_nodes = 1;
    for (size_t i = 0; i < num; i++) {
        set->strings[i] = arena_str(arena, strings[i]);
        if (set->strings[i].data == NULL) {
            return err_set_http(err, 400, "stop", "stop: the request's memory "
                                "is used up");
        }
        stop_insert(set, (int32_t) i);
    }
    set->num = num;
    stop_link(set, queue);
    *out = set;
    return OK;
}

void
stop_init(struct stop *s, const struct stop_set *set,
          bool include_stop_str_in_output)
{
    *s = (struct stop) { .set = set, .match_idx = -1,
                         .include = include_stop_str_in_output };
}

/* Appends bytes [from, to) of the text that state's string begins. */
static void
stop_emit_held(const struct stop *s, uint32_t state, size_t num,
               struct buf *out)
{
    if (num > 0) {
        buf_append(out, s->set->strings[s->set->nodes[state].string].data,
                   num);
    }
}

/* The stop string with index `match` has just ended; before this byte, state
 * `old` was held.  Everything before the string's start goes out. */
static void
stop_finish(struct stop *s, uint32_t old, int32_t match, struct buf *out)
{
    size_t  len = s->set->strings[match].len;
    size_t  held = s->set->nodes[old].depth;

    /* held + 1 bytes are in hand; the last len of them are the stop string. */
    stop_emit_held(s, old, held + 1 - len, out);
    s->match_idx = match;
    s->state = 0;
}

bool
stop_push(struct stop *s, struct str text, struct buf *out)
{
    if (s->match_idx >= 0) {
        return true;
    }
    if (s->set == NULL || s->set->num == 0) {
        buf_append_str(out, text);
        return false;
    }
    for (size_t i = 0; i < text.len; i++) {
        uint32_t  old = s->state;
        uint32_t  state = stop_step(s->set, old, (uint8_t) text.data[i]);
        int32_t   match = s->passes ? -1 : s->set->nodes[state].match;
        uint32_t  depth = s->set->nodes[state].depth;
        uint32_t  held = s->set->nodes[old].depth;
        if (s->include) {
            s->state = state;
            if (match >= 0) {
                buf_append(out, text.data, i + 1);
                s->match_idx = match;
                return true;
            }
            continue;
        }
        if (match >= 0) {
            stop_finish(s, old, match, out);
            return true;
        }
        /* The held bytes and this one, less what the new state holds. */
        size_t  free_bytes = (size_t) held + 1 - depth;
        size_t  from_held = free_bytes < held ? free_bytes : held;
        stop_emit_held(s, old, from_held, out);
        if (free_bytes > held) {
            buf_append_c(out, text.data[i]);
        }
        s->state = state;
    }
    if (s->include) {
        buf_append_str(out, text);
    }
    return false;
}

void
stop_flush(struct stop *s, struct buf *out)
{
    if (s->set == NULL || s->match_idx >= 0 || s->flushed || s->include) {
        return;
    }
    stop_emit_held(s, s->state, s->set->nodes[s->state].depth, out);
    s->state = 0;
    s->flushed = true;
}
