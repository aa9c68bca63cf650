/* jinja_value.c - strings with taint, lists, dicts; equality and order. */
#include "engine/text/jinja_int.h"
#include "engine/base/utf8.h"

#include <math.h>
#include <sys/random.h>

#define JV_DICT_LINEAR_MAX  8

/* ---- rooms: growing bytes with their untrusted spans ---------------------- */

struct jv_room *
jv_room_new(struct jinja_run *r, size_t cap)
{
    struct jv_room  *b = arena_calloc(r->arena, 1, sizeof *b);
    if (b == NULL || (cap > 0 && (b->data = arena_alloc(r->arena, cap))
                                 == NULL))
    {
        (void) jinja_fail_memory(r);
        return NULL;
    }
    b->cap = cap;
    return b;
}

bool
jv_room_reserve(struct jinja_run *r, struct jv_room *b, size_t bytes)
{
    if (b == NULL || r->failed) {
        return false;
    }
    if (b->cap - b->len >= bytes) {
        return true;
    }
    if (bytes > r->output_bytes_max || b->len > r->output_bytes_max - bytes) {
        (void) jinja_fail(r, "text of more than %zu bytes",
                          r->output_bytes_max);
        return false;
    }
    size_t  need = b->len + bytes;
    size_t  cap = b->cap < 128 ? 256 : b->cap * 2;
    if (cap < need) {
        cap = need;
    }
    char  *data = arena_alloc(r->arena, cap);
    if (data == NULL) {
        (void) jinja_fail_memory(r);
        return false;
    }
    if (b->len > 0) {
        memcpy(data, b->data, b->len);
    }
    b->data = data;
    b->cap = cap;
    return true;
}

static void
jv_room_span(struct jinja_run *r, struct jv_room *b, size_t begin, size_t end)
{
    if (begin == end || r->failed) {
        return;
    }
    if (b->num_spans > 0 && b->spans[b->num_spans - 1].end >= begin) {
        b->spans[b->num_spans - 1].end = end;
        return;
    }
    if (b->num_spans == b->cap_spans) {
        size_t             cap = b->cap_spans == 0 ? 4 : b->cap_spans * 2;
        struct text_span  *spans = arena_alloc(r->arena, cap * sizeof *spans);
        if (spans == NULL) {
            (void) jinja_fail_memory(r);
            return;
        }
        if (b->num_spans > 0) {
            memcpy(spans, b->spans, b->num_spans * sizeof *spans);
        }
        b->spans = spans;
        b->cap_spans = cap;
    }
    b->spans[b->num_spans++] = (struct text_span) { begin, end };
}

void
jv_room_bytes(struct jinja_run *r, struct jv_room *b, const char *data,
              size_t len, bool untrusted)
{
    if (len == 0 || !jv_room_reserve(r, b, len)) {
        return;
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
    if (untrusted) {
        jv_room_span(r, b, b->len - len, b->len);
    }
}

void
jv_room_piece(struct jinja_run *r, struct jv_room *b, const struct jv_str *s,
              size_t begin, size_t end)
{
    if (begin >= end || !jv_room_reserve(r, b, end - begin)) {
        return;
    }
    size_t  base = b->len;
    memcpy(b->data + base, s->data + begin, end - begin);
    b->len += end - begin;
    for (size_t i = 0; i < s->num_spans; i++) {
        size_t  from = s->spans[i].begin, to = s->spans[i].end;
        if (from >= end) {
            break;
        }
        from = from < begin ? begin : from;
        to = to > end ? end : to;
        if (from < to) {
            jv_room_span(r, b, base + from - begin, base + to - begin);
        }
    }
}

/* The room's content as a string that may be appended to in place. */
struct jv
jv_room_str(struct jinja_run *r, struct jv_room *b, bool markup)
{
    struct jv_str  *s = arena_calloc(r->arena, 1, sizeof *s);
    if (s == NULL || b == NULL) {
        return jinja_fail_memory(r);
    }
    s->data = b->data == NULL ? "" : b->data;
    s->len = b->len;
    s->spans = b->spans;
    s->num_spans = b->num_spans;
    s->room = b;
    s->markup = markup;
    return (struct jv) { .type = JV_STR, .str = s };
}

/* ---- strings ------------------------------------------------------------- */

struct jv
jv_str_ref(struct jinja_run *r, struct str text, bool untrusted)
{
    struct jv_str     *s = arena_calloc(r->arena, 1, sizeof *s);
    struct text_span  *span = NULL;

    if (s == NULL) {
        return jinja_fail_memory(r);
    }
    s->data = text.data == NULL ? "" : text.data;
    s->len = text.len;
    if (untrusted && text.len > 0) {
        span = arena_alloc(r->arena, sizeof *span);
        if (span == NULL) {
            return jinja_fail_memory(r);
        }
        *span = (struct text_span) { 0, text.len };
        s->num_spans = 1;
    }
    s->spans = span;
    return (struct jv) { .type = JV_STR, .str = s };
}

struct jv
jv_str_copy(struct jinja_run *r, struct str text, bool untrusted)
{
    char  *data = arena_alloc(r->arena, text.len + 1);
    if (data == NULL) {
        return jinja_fail_memory(r);
    }
    if (text.len > 0) {
        memcpy(data, text.data, text.len);
    }
    data[text.len] = '\0';    /* hints of undefined are C strings */
    return jv_str_ref(r, (struct str) { data, text.len }, untrusted);
}

struct jv
jv_str_lit(struct jinja_run *r, const char *s)
{
    return jv_str_ref(r, str_from(s), false);
}

bool
jv_str_untrusted(const struct jv_str *s)
{
    return s->num_spans > 0 && s->spans[0].begin < s->len;
}

/* A substring shares the bytes; its spans are shifted copies. */
struct jv
jv_str_piece(struct jinja_run *r, const struct jv_str *s, size_t begin,
             size_t end)
{
    bool            whole = s->num_spans == 1 && s->spans[0].begin <= begin
                            && s->spans[0].end >= end;
    struct jv       v = jv_str_ref(r, (struct str) { s->data + begin,
                                                     end - begin },
                                   whole && begin < end);
    if (r->failed) {
        return v;
    }
    struct jv_str  *p = (struct jv_str *) v.str;    /* ours, just made */
    p->markup = s->markup;
    p->ascii = s->ascii;
    if (whole || s->num_spans == 0) {
        return v;
    }
    struct text_span  *spans = arena_alloc(r->arena,
                                           s->num_spans * sizeof *spans);
    if (spans == NULL) {
        return jinja_fail_memory(r);
    }
    for (size_t i = 0; i < s->num_spans; i++) {
        size_t  from = s->spans[i].begin, to = s->spans[i].end;
        from = from < begin ? begin : from;
        to = to > end ? end : to;
        if (from < to) {
            spans[p->num_spans++] = (struct text_span) { from - begin,
                                                         to - begin };
        }
    }
    p->spans = spans;
    return v;
}

struct jv
jv_str_as_markup(struct jinja_run *r, struct jv v, bool markup)
{
    if (v.type != JV_STR || v.str->markup == markup) {
        return v;
    }
    struct jv_str  *s = arena_alloc(r->arena, sizeof *s);
    if (s == NULL) {
        return jinja_fail_memory(r);
    }
    *s = *v.str;
    s->markup = markup;
    return (struct jv) { .type = JV_STR, .str = s };
}

/* Appends in place when a is the newest string of its room; otherwise copies,
 * with space to grow when a has been appended to before. */
struct jv
jv_str_concat(struct jinja_run *r, const struct jv_str *a,
              const struct jv_str *b)
{
    struct jv_room  *room = a->room;
    bool             in_place = room != NULL && room->data == a->data
                                && room->len == a->len
                                && room->num_spans == a->num_spans
                                && room->cap - room->len >= b->len;
    if (!in_place) {
        size_t  len = a->len + b->len;
        if (len > r->output_bytes_max) {
            return jinja_fail(r, "text of more than %zu bytes",
                              r->output_bytes_max);
        }
        if (!jinja_charge(r, len)) {
            return jv_undefined();
        }
        bool  grown = room != NULL && room->data == a->data;
        room = jv_room_new(r, grown ? len * 2 : len);
        jv_room_piece(r, room, a, 0, a->len);
    }
    jv_room_piece(r, room, b, 0, b->len);
    return r->failed ? jv_undefined() : jv_room_str(r, room, false);
}

struct str
jv_text(struct jv v)
{
    return (struct str) { v.str->data, v.str->len };
}

bool
jv_str_is_ascii(const struct jv_str *s)
{
    if (s->ascii) {
        return true;
    }
    size_t    i = 0;
    uint64_t  w;
    for (; i + 8 <= s->len; i += 8) {
        memcpy(&w, s->data + i, 8);
        if ((w & 0x8080808080808080ULL) != 0) {
            return false;
        }
    }
    for (; i < s->len; i++) {
        if ((unsigned char) s->data[i] >= 0x80) {
            return false;
        }
    }
    return true;
}

size_t
jv_str_num_chars(struct jinja_run *r, const struct jv_str *s)
{
    size_t  num = 0;

    (void) jinja_charge(r, s->len);
    for (size_t i = 0; i < s->len; i++) {
        num += ((unsigned char) s->data[i] & 0xC0) != 0x80;
    }
    return num;
}

size_t
jv_str_offset(struct jinja_run *r, const struct jv_str *s, size_t idx)
{
    if (s->ascii) {
        return idx < s->len ? idx : s->len;
    }
    size_t  i = 0;
    while (i < s->len) {
        if (((unsigned char) s->data[i] & 0xC0) != 0x80) {
            if (idx == 0) {
                break;
            }
            idx--;
        }
        i++;
    }
    (void) jinja_charge(r, i);
    return i;
}

/* ---- lists --------------------------------------------------------------- */

struct jv
jv_list_new(struct jinja_run *r, enum jv_type type, size_t cap)
{
    struct jv_list       *l = arena_calloc(r->arena, 1, sizeof *l);
    struct jv_list_room  *room = arena_calloc(r->arena, 1, sizeof *room);

    if (l == NULL || room == NULL) {
        return jinja_fail_memory(r);
    }
    room->cap = cap;
    if (cap > 0) {
        room->items = arena_calloc(r->arena, cap, sizeof *room->items);
        if (room->items == NULL) {
            return jinja_fail_memory(r);
        }
    }
    l->items = room->items;
    l->room = room;
    return (struct jv) { .type = type, .list = l };
}

/* Only for a list that is still being made. */
bool
jv_list_push(struct jinja_run *r, struct jv *list, struct jv item)
{
    if (r->failed || (list->type != JV_LIST && list->type != JV_TUPLE)) {
        return false;
    }
    struct jv_list       *l = (struct jv_list *) list->list;
    struct jv_list_room  *room = l->room;
    if (room->len == room->cap) {
        size_t      cap = room->cap == 0 ? 4 : room->cap * 2;
        struct jv  *items = arena_calloc(r->arena, cap, sizeof *items);
        if (items == NULL) {
            (void) jinja_fail_memory(r);
            return false;
        }
        if (room->len > 0) {
            memcpy(items, room->items, room->len * sizeof *items);
        }
        room->items = items;
        room->cap = cap;
    }
    room->items[room->len++] = item;
    l->items = room->items;
    l->len = room->len;
    return true;
}

struct jv
jv_list_slice(struct jinja_run *r, struct jv list, size_t begin, size_t end)
{
    struct jv_list  *l = arena_calloc(r->arena, 1, sizeof *l);
    if (l == NULL) {
        return jinja_fail_memory(r);
    }
    l->items = list.list->len == 0 ? NULL : list.list->items + begin;
    l->len = end - begin;
    return (struct jv) { .type = list.type, .list = l };
}

/* Like strings: `l = l + [x]` in a loop appends in place. */
struct jv
jv_list_concat(struct jinja_run *r, struct jv a, struct jv b)
{
    const struct jv_list  *la = a.list, *lb = b.list;
    struct jv_list_room   *room = la->room;

    if (room == NULL || room->items != la->items || room->len != la->len
        || room->cap - room->len < lb->len)
    {
        size_t     len = la->len + lb->len;
        struct jv  v = jv_list_new(r, a.type, len * 2);
        if (r->failed || !jinja_charge(r, len * 8)) {
            return jv_undefined();
        }
        room = v.list->room;
        if (la->len > 0) {
            memcpy(room->items, la->items, la->len * sizeof *room->items);
        }
        room->len = la->len;
    }
    if (lb->len > 0) {
        memcpy(room->items + room->len, lb->items,
               lb->len * sizeof *room->items);
        room->len += lb->len;
    }
    struct jv_list  *l = arena_calloc(r->arena, 1, sizeof *l);
    if (l == NULL) {
        return jinja_fail_memory(r);
    }
    l->items = room->items;
    l->len = room->len;
    l->room = room;
    return (struct jv) { .type = a.type, .list = l };
}

/* ---- dicts --------------------------------------------------------------- */

/* A float with an integral value hashes and compares as that integer. */
static bool
jv_as_int(struct jv v, int64_t *out)
{
    if (v.type == JV_BOOL) {
        *out = v.b;
    } else if (v.type == JV_INT) {
        *out = v.i;
    } else if (v.type == JV_FLOAT && v.f >= -9.2e18 && v.f <= 9.2e18
               && floor(v.f) == v.f)
    {
        *out = (int64_t) v.f;
    } else {
        return false;
    }
    return true;
}

static bool
jv_hash(struct jinja_run *r, struct jv v, uint64_t *out)
{
    int64_t  i;

    if (!r->keyed) {
        if (getrandom(&r->key, sizeof r->key, 0) != (ssize_t) sizeof r->key) {
            (void) jinja_fail(r, "getrandom failed");
        }
        r->keyed = true;
    }
    if (jv_as_int(v, &i)) {
        *out = hash_mix64((uint64_t) i + 1);
        return true;
    }
    switch (v.type) {
    case JV_STR:
    case JV_BIG:
        *out = hash_keyed(&r->key, v.str->data, v.str->len);
        return true;
    case JV_FLOAT:
        *out = hash_keyed(&r->key, &v.f, sizeof v.f);
        return true;
    case JV_TUPLE: {
        uint64_t  h = 1, item;
        if (!jinja_enter(r)) {
            return false;
        }
        bool  ok = true;
        for (size_t k = 0; k < v.list->len && ok; k++) {
            ok = jv_hash(r, v.list->items[k], &item);
            h = hash_mix64(h ^ item);
        }
        jinja_leave(r);
        *out = h;
        return ok;
    }
    case JV_LIST:
    case JV_DICT:
        return false;
    default:
        *out = v.type;
        return true;
    }
}

struct jv
jv_dict_new(struct jinja_run *r, enum jv_type type)
{
    struct jv_dict  *d = arena_calloc(r->arena, 1, sizeof *d);
    if (d == NULL) {
        return jinja_fail_memory(r);
    }
    return (struct jv) { .type = type, .dict = d };
}

static void
jv_dict_index_add(struct jinja_run *r, struct jv_dict *d, size_t pos)
{
    uint64_t  h;
    if (!jv_hash(r, d->keys[pos], &h)) {
        return;
    }
    size_t  i = h & (d->index_cap - 1);
    while (d->index[i] != 0) {
        i = (i + 1) & (d->index_cap - 1);
    }
    d->index[i] = (uint32_t) pos + 1;
}

static bool
jv_dict_grow(struct jinja_run *r, struct jv_dict *d)
{
    size_t      cap = d->cap == 0 ? 4 : d->cap * 2;
    struct jv  *keys = arena_calloc(r->arena, cap, sizeof *keys);
    struct jv  *vals = arena_calloc(r->arena, cap, sizeof *vals);

    if (keys == NULL || vals == NULL) {
        (void) jinja_fail_memory(r);
        return false;
    }
    if (d->len > 0) {
        memcpy(keys, d->keys, d->len * sizeof *keys);
        memcpy(vals, d->vals, d->len * sizeof *vals);
    }
    d->keys = keys;
    d->vals = vals;
    d->cap = cap;
    if (cap <= JV_DICT_LINEAR_MAX) {
        return true;
    }
    d->index_cap = cap * 2;
    d->index = arena_calloc(r->arena, d->index_cap, sizeof *d->index);
    if (d->index == NULL) {
        (void) jinja_fail_memory(r);
        return false;
    }
    for (size_t i = 0; i < d->len; i++) {
        jv_dict_index_add(r, d, i);
    }
    return true;
}

struct jv *
jv_dict_find(struct jinja_run *r, const struct jv_dict *d, struct jv key,
             bool *unhashable)
{
    uint64_t  h;

    if (unhashable != NULL) {
        *unhashable = false;
    }
    if (d->index == NULL && key.type == JV_STR) {
        return jv_dict_find_str(r, d, jv_text(key));
    }
    if (!jv_hash(r, key, &h)) {
        if (unhashable != NULL) {
            *unhashable = true;
        }
        return NULL;
    }
    if (d->index == NULL) {
        for (size_t i = 0; i < d->len; i++) {
            if (jv_eq(r, d->keys[i], key)) {
                return &d->vals[i];
            }
        }
        return NULL;
    }
    for (size_t i = h & (d->index_cap - 1); d->index[i] != 0;
         i = (i + 1) & (d->index_cap - 1))
    {
        size_t  pos = d->index[i] - 1;
        if (jv_eq(r, d->keys[pos], key)) {
            return &d->vals[pos];
        }
    }
    return NULL;
}

struct jv *
jv_dict_find_str(struct jinja_run *r, const struct jv_dict *d, struct str key)
{
    if (d->index != NULL) {
        const struct jv_str  s = { .data = key.data, .len = key.len };
        return jv_dict_find(r, d, (struct jv) { .type = JV_STR, .str = &s },
                            NULL);
    }
    for (size_t i = 0; i < d->len; i++) {
        if (d->keys[i].type == JV_STR && str_eq(jv_text(d->keys[i]), key)) {
            return &d->vals[i];
        }
    }
    return NULL;
}

bool
jv_dict_set(struct jinja_run *r, struct jv_dict *d, struct jv key,
            struct jv val)
{
    bool        unhashable;
    struct jv  *slot = jv_dict_find(r, d, key, &unhashable);

    if (unhashable) {
        (void) jinja_fail(r, "unhashable type: '%s'", jv_type_name(key));
        return false;
    }
    if (slot != NULL) {
        *slot = val;
        return true;
    }
    if (r->failed || (d->len == d->cap && !jv_dict_grow(r, d))) {
        return false;
    }
    d->keys[d->len] = key;
    d->vals[d->len] = val;
    d->len++;
    if (d->index != NULL) {
        jv_dict_index_add(r, d, d->len - 1);
    }
    return true;
}

/* ---- types, truth, equality, order ---------------------------------------- */

const char *
jv_type_name(struct jv v)
{
    static const char *const  names[] = {
        [JV_MISSING] = "Undefined", [JV_UNDEFINED] = "Undefined",
        [JV_NONE] = "NoneType", [JV_BOOL] = "bool", [JV_INT] = "int",
        [JV_BIG] = "int", [JV_FLOAT] = "float", [JV_STR] = "str",
        [JV_LIST] = "list", [JV_TUPLE] = "tuple", [JV_DICT] = "dict",
        [JV_VIEW] = "dict_items", [JV_RANGE] = "range",
        [JV_GEN] = "generator", [JV_NAMESPACE] = "Namespace",
        [JV_MACRO] = "Macro", [JV_METHOD] = "builtin_function_or_method",
        [JV_GLOBAL] = "function", [JV_LOOP] = "LoopContext",
        [JV_CYCLER] = "Cycler", [JV_JOINER] = "Joiner",
    };
    if (v.type == JV_STR && v.str->markup) {
        return "Markup";
    }
    if (v.type == JV_GEN) {
        return v.gen->type_name;
    }
    if (v.type == JV_VIEW && v.view->kind != JV_VIEW_ITEMS) {
        return v.view->kind == JV_VIEW_KEYS ? "dict_keys" : "dict_values";
    }
    return names[v.type];
}

/* Whether len(v) exists, and what it is. */
bool
jv_len(struct jinja_run *r, struct jv v, size_t *out)
{
    switch (v.type) {
    case JV_MISSING:
    case JV_UNDEFINED:
        *out = 0;
        return true;
    case JV_STR:
        *out = v.str->ascii ? v.str->len : jv_str_num_chars(r, v.str);
        return true;
    case JV_LIST:
    case JV_TUPLE:
        *out = v.list->len;
        return true;
    case JV_DICT:
        *out = v.dict->len;
        return true;
    case JV_VIEW:
        *out = v.view->dict->len;
        return true;
    case JV_RANGE:
        *out = v.range->len;
        return true;
    case JV_LOOP: {
        struct jv  n = jinja_loop_attr(r, v.loop, STR("length"));
        *out = n.type == JV_INT ? (size_t) n.i : 0;
        return true;
    }
    default:
        return false;
    }
}

bool
jv_truth(struct jinja_run *r, struct jv v)
{
    size_t  len;

    switch (v.type) {
    case JV_MISSING:
    case JV_UNDEFINED:
    case JV_NONE:
        return false;
    case JV_BOOL:
        return v.b;
    case JV_INT:
        return v.i != 0;
    case JV_BIG:
        return true;
    case JV_FLOAT:
        return v.f != 0;
    case JV_STR:
        return v.str->len > 0;
    default:
        return !jv_len(r, v, &len) || len > 0;
    }
}

static double
jv_as_double(struct jv v)
{
    double  f = 0;

    switch (v.type) {
    case JV_BOOL:
        return v.b;
    case JV_INT:
        return (double) v.i;
    case JV_BIG:
        (void) jinja_parse_float(jv_text(v), &f);
        return f;
    default:
        return v.f;
    }
}

/* Decimal texts without leading zeros: sign, then length, then digits. */
static int
jv_compare_big(struct str a, struct str b)
{
    bool  an = a.data[0] == '-', bn = b.data[0] == '-';
    if (an != bn) {
        return an ? -1 : 1;
    }
    int  c = a.len != b.len ? (a.len < b.len ? -1 : 1)
                            : memcmp(a.data, b.data, a.len);
    return an ? -c : c;
}

static int
jv_compare_number(struct jv a, struct jv b)
{
    int64_t  x, y;
    if (jv_as_int(a, &x) && jv_as_int(b, &y)) {
        return x < y ? -1 : x > y;
    }
    if (a.type == JV_BIG && b.type == JV_BIG) {
        return jv_compare_big(jv_text(a), jv_text(b));
    }
    double  f = jv_as_double(a), g = jv_as_double(b);
    return f < g ? -1 : f > g;
}

static int
jv_compare_str(const struct jv_str *a, const struct jv_str *b)
{
    /* Byte order of UTF-8 is code point order. */
    size_t  n = a->len < b->len ? a->len : b->len;
    int     c = n == 0 ? 0 : memcmp(a->data, b->data, n);
    return c != 0 ? c : a->len < b->len ? -1 : a->len > b->len;
}

static bool
jv_eq_dict(struct jinja_run *r, const struct jv_dict *a,
           const struct jv_dict *b)
{
    if (a->len != b->len) {
        return false;
    }
    for (size_t i = 0; i < a->len && !r->failed; i++) {
        const struct jv  *other = jv_dict_find(r, b, a->keys[i], NULL);
        if (other == NULL || !jv_eq(r, a->vals[i], *other)) {
            return false;
        }
    }
    return true;
}

static bool
jv_eq_container(struct jinja_run *r, struct jv a, struct jv b)
{
    bool  eq = true;

    if (!jinja_enter(r)) {
        return false;
    }
    if (a.type == JV_DICT) {
        eq = jv_eq_dict(r, a.dict, b.dict);
    } else {
        eq = a.list->len == b.list->len;
        for (size_t i = 0; eq && i < a.list->len; i++) {
            eq = jv_eq(r, a.list->items[i], b.list->items[i]);
        }
    }
    jinja_leave(r);
    return eq;
}

bool
jv_eq(struct jinja_run *r, struct jv a, struct jv b)
{
    if (jv_is_number(a) && jv_is_number(b)) {
        if ((a.type == JV_FLOAT && isnan(a.f))
            || (b.type == JV_FLOAT && isnan(b.f)))
        {
            return false;
        }
        return jv_compare_number(a, b) == 0;
    }
    if (a.type != b.type) {
        return false;
    }
    switch (a.type) {
    case JV_NONE:
    case JV_MISSING:
    case JV_UNDEFINED:
        return true;
    case JV_STR:
        return a.str == b.str || str_eq(jv_text(a), jv_text(b));
    case JV_LIST:
    case JV_TUPLE:
    case JV_DICT:
        return a.list == b.list || jv_eq_container(r, a, b);
    case JV_RANGE:
        return a.range->len == b.range->len
               && (a.range->len == 0
                   || (a.range->start == b.range->start
                       && (a.range->len == 1
                           || a.range->step == b.range->step)));
    case JV_VIEW:
        return a.view->kind == b.view->kind && a.view->kind != JV_VIEW_VALUES
               && jv_eq_dict(r, a.view->dict, b.view->dict);
    default:
        return a.list == b.list;    /* identity: any pointer of the union */
    }
}

int
jv_compare(struct jinja_run *r, struct jv a, struct jv b, const char *op)
{
    if (a.type == JV_UNDEFINED || b.type == JV_UNDEFINED) {
        (void) jinja_undef_fail(r, a.type == JV_UNDEFINED ? a : b);
        return 0;
    }
    if (jv_is_number(a) && jv_is_number(b)) {
        return jv_compare_number(a, b);
    }
    if (a.type == JV_STR && b.type == JV_STR) {
        return jv_compare_str(a.str, b.str);
    }
    if (a.type != b.type || (a.type != JV_LIST && a.type != JV_TUPLE)) {
        (void) jinja_fail(r, "'%s' not supported between instances of '%s' and "
                          "'%s'", op, jv_type_name(a), jv_type_name(b));
        return 0;
    }
    if (!jinja_enter(r)) {
        return 0;
    }
    int     c = 0;
    size_t  n = a.list->len < b.list->len ? a.list->len : b.list->len;
    for (size_t i = 0; i < n && c == 0 && !r->failed; i++) {
        if (!jv_eq(r, a.list->items[i], b.list->items[i])) {
            c = jv_compare(r, a.list->items[i], b.list->items[i], op);
            break;
        }
    }
    jinja_leave(r);
    return c != 0 ? c : a.list->len < b.list->len ? -1
                        : a.list->len > b.list->len;
}

bool
jv_contains(struct jinja_run *r, struct jv needle, struct jv hay)
{
    struct jv_iter  it;
    struct jv       item;
    bool            unhashable;

    switch (hay.type) {
    case JV_STR:
        if (needle.type != JV_STR) {
            (void) jinja_fail(r, "'in <string>' requires string as left "
                              "operand, not %s", jv_type_name(needle));
            return false;
        }
        (void) jinja_charge(r, hay.str->len);
        return needle.str->len == 0
               || (hay.str->len > 0
                   && memmem(hay.str->data, hay.str->len, needle.str->data,
                             needle.str->len) != NULL);
    case JV_DICT: {
        const struct jv  *found = jv_dict_find(r, hay.dict, needle,
                                               &unhashable);
        if (unhashable) {
            (void) jinja_fail(r, "unhashable type: '%s'",
                              jv_type_name(needle));
        }
        return found != NULL;
    }
    default:
        if (!jv_is_iterable(hay)) {
            (void) jinja_fail(r, "argument of type '%s' is not iterable",
                              jv_type_name(hay));
            return false;
        }
        (void) jv_iter_init(r, &it, hay);
        while (jv_iter_next(r, &it, &item)) {
            if (jv_eq(r, item, needle)) {
                return true;
            }
        }
        return false;
    }
}
