/* added_tokens.c - a trie walked from each position whose byte starts a token.
 *
 * Tokens are short and start with a few distinct bytes, so this is a table
 * scan at memory speed on ordinary text, and needs no failure links. */
#include "engine/text/added_tokens.h"

#include <stdlib.h>
#include "engine/text/unicode.h"

static uint32_t
added_child(const struct added_set *set, uint32_t node, uint8_t byte)
{
    uint32_t  n = set->nodes[node].child;
    while (n != 0 && set->nodes[n].byte != byte) {
        n = set->nodes[n].sibling;
    }
    return n;
}

/* 0 when out of memory. */
static uint32_t
added_node_create(struct added_set *set, uint8_t byte)
{
    if (set->num_nodes + 1 >= set->cap_nodes) {
        uint32_t            cap = set->cap_nodes == 0 ? 256
                                                      : set->cap_nodes * 2;
        struct added_node  *n = realloc(set->nodes, cap * sizeof *n);
        if (n == NULL) {
            return 0;
        }
        set->nodes = n;
        set->cap_nodes = cap;
        set->num_nodes = set->num_nodes == 0 ? 1 : set->num_nodes;
    }
    set->nodes[set->num_nodes] = (struct added_node) { .token = -1,
                                                       .byte = byte };
    return set->num_nodes++;
}

bool
added_set_add(struct added_set *set, const struct added_token *token,
              struct str content)
{
    if (content.len == 0) {
        return true;
    }
    struct added_token  *t = realloc(set->tokens, (set->num_tokens + 1)
                                                  * sizeof *t);
    if (t == NULL) {
        return false;
    }
    set->tokens = t;
    uint32_t  node = 0;
    for (size_t i = 0; i < content.len; i++) {
        uint8_t   b = (uint8_t) content.data[i];
        uint32_t  next = i == 0 ? set->root[b] : added_child(set, node, b);
        if (next == 0) {
            next = added_node_create(set, b);
            if (next == 0) {
                return false;
            }
            if (i == 0) {
                set->root[b] = next;
            } else {
                set->nodes[next].sibling = set->nodes[node].child;
                set->nodes[node].child = next;
            }
        }
        node = next;
    }
    if (set->nodes[node].token < 0) {
        set->nodes[node].token = (int32_t) set->num_tokens;
        set->tokens[set->num_tokens++] = *token;
    }
    return true;
}

void
added_set_destroy(struct added_set *set)
{
    free(set->tokens);
    free(set->nodes);
    *set = (struct added_set) { 0 };
}

/* [begin, end) touches an untrusted range.  Binary search: spans ascend. */
static bool
is_untrusted(const struct added_search *s, size_t begin, size_t end)
{
    size_t  lo = 0, hi = s->num_spans;
    while (lo < hi) {
        size_t  mid = (lo + hi) / 2;
        if (s->spans[mid].end <= begin) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < s->num_spans && s->spans[lo].begin < end;
}

/* Longest token at i that may be read there; its end, 0 when none. */
static size_t
added_longest(const struct added_set *set, struct added_search *s, size_t i)
{
    size_t    best = 0, at = i;
    uint32_t  node = set->root[(uint8_t) s->text.data[at]];

    while (node != 0) {
        at++;
        int32_t  t = set->nodes[node].token;
        if (t >= 0 && !(set->tokens[t].special && is_untrusted(s, i, at))) {
            best = at;
            s->token = &set->tokens[t];
        }
        if (at == s->text.len) {
            break;
        }
        node = added_child(set, node, (uint8_t) s->text.data[at]);
    }
    return best;
}

/* Start of the code point that ends before i > 0. */
static size_t
before(struct str text, size_t i)
{
    do {
        i--;
    } while (i > 0 && ((unsigned char) text.data[i] & 0xC0) == 0x80);
    return i;
}

static bool
is_single_word(struct str text, size_t begin, size_t end)
{
    uint32_t  cp;
    if (begin > 0) {
        (void) unicode_next(text.data + before(text, begin), &cp);
        if (unicode_is_word(cp)) {
            return false;
        }
    }
    if (end < text.len) {
        (void) unicode_next(text.data + end, &cp);
        if (unicode_is_word(cp)) {
            return false;
        }
    }
    return true;
}

bool
added_set_find(const struct added_set *set, struct added_search *s)
{
    uint32_t  cp;

    while (s->at < s->text.len) {
        if (set->root[(uint8_t) s->text.data[s->at]] == 0) {
            s->at++;
            continue;
        }
        size_t  begin = s->at, end = added_longest(set, s, begin);
        if (end == 0) {
            s->at++;
            continue;
        }
        s->at = end;
        if (s->token->single_word && !is_single_word(s->text, begin, end)) {
            continue;
        }
        if (s->token->lstrip) {
            while (begin > 0) {
                size_t  prev = before(s->text, begin);
                (void) unicode_next(s->text.data + prev, &cp);
                if (!unicode_is_space(cp)) {
                    break;
                }
                begin = prev;
            }
            begin = begin < s->done ? s->done : begin;
        }
        if (s->token->rstrip) {
            while (end < s->text.len) {
                size_t  n = unicode_next(s->text.data + end, &cp);
                if (!unicode_is_space(cp)) {
                    break;
                }
                end += n;
            }
        }
        s->begin = begin;
        s->end = end;
        return true;
    }
    return false;
}
