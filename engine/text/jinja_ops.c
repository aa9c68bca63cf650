/* jinja_ops.c - operators, attributes, subscripts and slices, as Python has
 * them under jinja2's undefined and Markup rules. */
#include "engine/text/jinja_int.h"

#include <math.h>
#include <stdio.h>

/* ---- undefined ------------------------------------------------------------ */

struct jv
jinja_undef_new(struct jinja_run *r, struct jv obj, struct jv name)
{
    struct jv_undef  *u = arena_calloc(r->arena, 1, sizeof *u);
    if (u == NULL) {
        return jinja_fail_memory(r);
    }
    u->obj = obj;
    u->name = name;
    return (struct jv) { .type = JV_UNDEFINED, .undef = u };
}

struct jv
jinja_undef_hint(struct jinja_run *r, const char *hint)
{
    struct jv  v = jinja_undef_new(r, jv_missing(), jv_none());
    if (!r->failed) {
        ((struct jv_undef *) v.undef)->hint = str_from(hint);
    }
    return v;
}

/* What using the undefined value raises. */
struct jv
jinja_undef_fail(struct jinja_run *r, struct jv undef)
{
    const struct jv_undef  *u = undef.undef;
    if (r->failed) {
        return jv_undefined();
    }
    if (u == NULL) {
        return jinja_fail(r, "undefined value");
    }
    if (u->hint.data != NULL) {
        return jinja_fail(r, "%.*s", STR_ARG(u->hint));
    }
    struct jv_room  *b = jv_room_new(r, 0);
    if (b == NULL) {
        return jv_undefined();
    }
    jv_print_repr(r, b, u->name);
    int          n = (int) (b->len > 200 ? 200 : b->len);
    const char  *type = u->obj.type == JV_NONE ? "None" : jv_type_name(u->obj);
    const char  *tail = u->obj.type == JV_NONE ? "" : " object";
    if (u->obj.type == JV_MISSING) {
        return jinja_fail(r, "%.*s is undefined", n, b->data);
    }
    if (u->name.type != JV_STR) {
        return jinja_fail(r, "%s%s has no element %.*s", type, tail, n,
                          b->data);
    }
    return jinja_fail(r, "'%s%s' has no attribute %.*s", type, tail, n,
                      b->data);
}

/* ---- arithmetic ----------------------------------------------------------- */

static const char *
jinja_op_text(enum jinja_kind op)
{
    switch (op) {
    case JN_ADD: return "+";
    case JN_SUB: return "-";
    case JN_MUL: return "*";
    case JN_DIV: return "/";
    case JN_FLOORDIV: return "//";
    case JN_MOD: return "%";
    default: return "** or pow()";
    }
}

static struct jv
jinja_bad_operands(struct jinja_run *r, enum jinja_kind op, struct jv a,
                   struct jv b)
{
    if (op == JN_ADD && (a.type == JV_STR || a.type == JV_LIST
                         || a.type == JV_TUPLE) && !(a.type == JV_STR
                                                     && a.str->markup))
    {
        return jinja_fail(r, "can only concatenate %s (not \"%s\") to %s",
                          jv_type_name(a), jv_type_name(b), jv_type_name(a));
    }
    if (op == JN_MUL && (a.type == JV_STR || a.type == JV_LIST
                         || b.type == JV_STR || b.type == JV_LIST))
    {
        bool  left = a.type == JV_STR || a.type == JV_LIST;
        return jinja_fail(r, "can't multiply sequence by non-int of type '%s'",
                          jv_type_name(left ? b : a));
    }
    return jinja_fail(r, "unsupported operand type(s) for %s: '%s' and '%s'",
                      jinja_op_text(op), jv_type_name(a), jv_type_name(b));
}

static struct jv
jinja_too_big(struct jinja_run *r)
{
    return jinja_fail(r, "integer result beyond 64 bits");
}

static struct jv
jinja_int_pow(struct jinja_run *r, int64_t a, int64_t b)
{
    int64_t  v = 1;

    if (b < 0) {
        if (a == 0) {
            return jinja_fail(r, "0.0 cannot be raised to a negative power");
        }
        return jv_float(pow((double) a, (double) b));
    }
    if (a == 0 || a == 1) {
        return jv_int(b == 0 ? 1 : a);
    }
    if (a == -1) {
        return jv_int(b % 2 == 0 ? 1 : -1);
    }
    for (int64_t i = 0; i < b; i++) {     /* at most 63 rounds */
        if (__builtin_mul_overflow(v, a, &v)) {
            return jinja_too_big(r);
        }
    }
    return jv_int(v);
}

static struct jv
jinja_int_op(struct jinja_run *r, enum jinja_kind op, int64_t a, int64_t b)
{
    int64_t  v;

    if ((op == JN_DIV || op == JN_FLOORDIV || op == JN_MOD) && b == 0) {
        return jinja_fail(r, op == JN_DIV ? "division by zero"
                             : "integer division or modulo by zero");
    }
    switch (op) {
    case JN_ADD:
        return __builtin_add_overflow(a, b, &v) ? jinja_too_big(r) : jv_int(v);
    case JN_SUB:
        return __builtin_sub_overflow(a, b, &v) ? jinja_too_big(r) : jv_int(v);
    case JN_MUL:
        return __builtin_mul_overflow(a, b, &v) ? jinja_too_big(r) : jv_int(v);
    case JN_DIV:
        return jv_float((double) a / (double) b);
    case JN_FLOORDIV:
        if (b == -1) {
            return a == INT64_MIN ? jinja_too_big(r) : jv_int(-a);
        }
        return jv_int(a / b - (a % b != 0 && (a < 0) != (b < 0)));
    case JN_MOD:
        if (b == -1) {
            return jv_int(0);
        }
        v = a % b;
        return jv_int(v != 0 && (v < 0) != (b < 0) ? v + b : v);
    default:
        return jinja_int_pow(r, a, b);
    }
}

static struct jv
jinja_float_op(struct jinja_run *r, enum jinja_kind op, double a, double b)
{
    double  m;

    if ((op == JN_DIV || op == JN_FLOORDIV || op == JN_MOD) && b == 0) {
        return jinja_fail(r, op == JN_DIV ? "float division by zero"
                             : op == JN_MOD ? "float modulo"
                             : "float floor division by zero");
    }
    switch (op) {
    case JN_ADD:
        return jv_float(a + b);
    case JN_SUB:
        return jv_float(a - b);
    case JN_MUL:
        return jv_float(a * b);
    case JN_DIV:
        return jv_float(a / b);
    case JN_POW:
        return jv_float(pow(a, b));
    default:
        m = fmod(a, b);
        if (m != 0 && (m < 0) != (b < 0)) {
            m += b;
        } else if (m == 0) {
            m = copysign(0, b);
        }
        if (op == JN_MOD) {
            return jv_float(m);
        }
        /* Python: (a - mod) / b, then to the nearest integer. */
        double  div = (a - m) / b;
        double  fl = floor(div);
        return jv_float(div == 0 ? copysign(0, a / b)
                                 : div - fl > 0.5 ? fl + 1 : fl);
    }
}

static double
jinja_double(struct jv v)
{
    double  f = 0;
    if (v.type == JV_BIG) {
        (void) jinja_parse_float(jv_text(v), &f);
        return f;
    }
    return v.type == JV_FLOAT ? v.f : v.type == JV_BOOL ? v.b : (double) v.i;
}

static struct jv
jinja_number_op(struct jinja_run *r, enum jinja_kind op, struct jv a,
                struct jv b)
{
    if (a.type == JV_FLOAT || b.type == JV_FLOAT) {
        return jinja_float_op(r, op, jinja_double(a), jinja_double(b));
    }
    if (a.type == JV_BIG || b.type == JV_BIG) {
        return jinja_too_big(r);
    }
    return jinja_int_op(r, op, a.type == JV_BOOL ? a.b : a.i,
                        b.type == JV_BOOL ? b.b : b.i);
}

static struct jv
jinja_repeat(struct jinja_run *r, struct jv seq, int64_t times)
{
    size_t  len = seq.type == JV_STR ? seq.str->len : seq.list->len * 16;

    if (times < 0 || len == 0) {
        times = 0;
    }
    if (times > 0 && (size_t) times > r->output_bytes_max / len) {
        return jinja_fail(r, "repeated text of more than %zu bytes",
                          r->output_bytes_max);
    }
    if (!jinja_charge(r, len * (size_t) times)) {
        return jv_undefined();
    }
    if (seq.type == JV_STR) {
        struct jv_room  *b = jv_room_new(r, len * (size_t) times);
        for (int64_t i = 0; i < times && b != NULL; i++) {
            jv_room_piece(r, b, seq.str, 0, seq.str->len);
        }
        return r->failed ? jv_undefined()
                         : jv_room_str(r, b, seq.str->markup);
    }
    struct jv  out = jv_list_new(r, seq.type, seq.list->len * (size_t) times);
    for (int64_t i = 0; i < times; i++) {
        for (size_t k = 0; k < seq.list->len; k++) {
            (void) jv_list_push(r, &out, seq.list->items[k]);
        }
    }
    return out;
}

/* str + str; a Markup on either side escapes the other. */
static struct jv
jinja_add_str(struct jinja_run *r, struct jv a, struct jv b)
{
    if (!a.str->markup && !b.str->markup) {
        return jv_str_concat(r, a.str, b.str);
    }
    a = jinja_escape(r, a);
    b = jinja_escape(r, b);
    if (r->failed) {
        return jv_undefined();
    }
    return jv_str_as_markup(r, jv_str_concat(r, a.str, b.str), true);
}

static bool
jinja_is_int(struct jv v)
{
    return v.type == JV_INT || v.type == JV_BOOL;
}

struct jv
jinja_binary(struct jinja_run *r, enum jinja_kind op, struct jv a, struct jv b)
{
    if (r->failed) {
        return jv_undefined();
    }
    if (op == JN_MOD && a.type == JV_STR) {
        return jinja_str_percent(r, a, b);
    }
    if (a.type == JV_UNDEFINED || b.type == JV_UNDEFINED) {
        return jinja_undef_fail(r, a.type == JV_UNDEFINED ? a : b);
    }
    if (jv_is_number(a) && jv_is_number(b)) {
        return jinja_number_op(r, op, a, b);
    }
    if (op == JN_ADD) {
        if (a.type == JV_STR && b.type == JV_STR) {
            return jinja_add_str(r, a, b);
        }
        if (a.type == b.type && (a.type == JV_LIST || a.type == JV_TUPLE)) {
            return jv_list_concat(r, a, b);
        }
    }
    if (op == JN_MUL) {
        bool  seq_a = a.type == JV_STR || a.type == JV_LIST
                      || a.type == JV_TUPLE;
        bool  seq_b = b.type == JV_STR || b.type == JV_LIST
                      || b.type == JV_TUPLE;
        if ((seq_a && jinja_is_int(b)) || (seq_b && jinja_is_int(a))) {
            struct jv  n = seq_a ? b : a;
            return jinja_repeat(r, seq_a ? a : b, n.type == JV_BOOL ? n.b
                                                                    : n.i);
        }
    }
    return jinja_bad_operands(r, op, a, b);
}

struct jv
jinja_unary(struct jinja_run *r, enum jinja_kind op, struct jv a)
{
    if (op == JN_NOT) {
        return jv_bool(!jv_truth(r, a));
    }
    if (a.type == JV_UNDEFINED) {
        return jinja_undef_fail(r, a);
    }
    if (a.type == JV_FLOAT) {
        return jv_float(op == JN_NEG ? -a.f : a.f);
    }
    if (jinja_is_int(a)) {
        int64_t  i = a.type == JV_BOOL ? a.b : a.i;
        if (op == JN_NEG && i == INT64_MIN) {
            return jinja_too_big(r);
        }
        return jv_int(op == JN_NEG ? -i : i);
    }
    if (a.type == JV_BIG) {
        return op == JN_POS ? a : jinja_too_big(r);
    }
    return jinja_fail(r, "bad operand type for unary %s: '%s'",
                      op == JN_NEG ? "-" : "+", jv_type_name(a));
}

/* ---- attributes and subscripts -------------------------------------------- */

static struct jv
jinja_unsafe(struct jinja_run *r, struct jv obj, struct str name)
{
    char  text[256];
    int   n = snprintf(text, sizeof text,
                       "access to attribute '%.*s' of '%s' object is unsafe.",
                       (int) (name.len > 100 ? 100 : name.len), name.data,
                       jv_type_name(obj));
    struct jv  copy = jv_str_copy(r, (struct str) { text, (size_t) n }, false);
    return r->failed ? copy : jinja_undef_hint(r, copy.str->data);
}

/* A Python attribute: methods and the few data attributes; MISSING if none. */
static struct jv
jinja_python_attr(struct jinja_run *r, struct jv obj, struct str name)
{
    bool  unsafe = false;

    switch (obj.type) {
    case JV_NAMESPACE: {
        const struct jv  *v = jv_dict_find_str(r, obj.dict, name);
        return v == NULL ? jv_missing() : *v;
    }
    case JV_LOOP: {
        struct jv  v = jinja_loop_attr(r, obj.loop, name);
        if (v.type != JV_MISSING) {
            return v;
        }
        break;
    }
    case JV_CYCLER:
        if (str_eq(name, STR("current"))) {
            return obj.cycler->items->items[obj.cycler->pos];
        }
        break;
    case JV_MACRO:
        if (str_eq(name, STR("name"))) {
            return jv_str_ref(r, obj.macro->name, false);
        }
        break;
    default:
        break;
    }
    const struct jinja_method  *m = jinja_method_find(obj.type, name, &unsafe);
    if (unsafe) {
        return jinja_unsafe(r, obj, name);
    }
    if (m == NULL) {
        return jv_missing();
    }
    struct jv_bound  *b = arena_alloc(r->arena, sizeof *b);
    if (b == NULL) {
        return jinja_fail_memory(r);
    }
    *b = (struct jv_bound) { obj, m };
    return (struct jv) { .type = JV_METHOD, .bound = b };
}

/* obj[key]; MISSING where Python raises LookupError, TypeError or the like. */
static struct jv
jinja_python_item(struct jinja_run *r, struct jv obj, struct jv key)
{
    int64_t  i, len;

    if (obj.type == JV_DICT) {
        const struct jv  *v = jv_dict_find(r, obj.dict, key, NULL);
        return v == NULL ? jv_missing() : *v;
    }
    if (!jinja_is_int(key)) {
        return jv_missing();
    }
    i = key.type == JV_BOOL ? key.b : key.i;
    switch (obj.type) {
    case JV_LIST:
    case JV_TUPLE:
        len = (int64_t) obj.list->len;
        i += i < 0 ? len : 0;
        return i < 0 || i >= len ? jv_missing() : obj.list->items[i];
    case JV_RANGE:
        len = (int64_t) obj.range->len;
        i += i < 0 ? len : 0;
        return i < 0 || i >= len ? jv_missing()
               : jv_int(obj.range->start + i * obj.range->step);
    case JV_STR: {
        len = (int64_t) (obj.str->ascii ? obj.str->len
                                        : jv_str_num_chars(r, obj.str));
        i += i < 0 ? len : 0;
        if (i < 0 || i >= len) {
            return jv_missing();
        }
        size_t  at = jv_str_offset(r, obj.str, (size_t) i);
        size_t  end = at + 1;
        while (end < obj.str->len
               && ((unsigned char) obj.str->data[end] & 0xC0) == 0x80)
        {
            end++;
        }
        return jv_str_piece(r, obj.str, at, end);
    }
    default:
        return jv_missing();
    }
}

/* obj.name: the Python attribute first, then the item. */
struct jv
jinja_getattr(struct jinja_run *r, struct jv obj, struct jv name)
{
    if (obj.type == JV_UNDEFINED) {
        return jinja_undef_fail(r, obj);
    }
    struct jv  v = jinja_python_attr(r, obj, jv_text(name));
    if (v.type == JV_MISSING) {
        v = jinja_python_item(r, obj, name);
    }
    return v.type == JV_MISSING ? jinja_undef_new(r, obj, name) : v;
}

/* obj[key]: the item first, then, for a string, the Python attribute. */
struct jv
jinja_getitem(struct jinja_run *r, struct jv obj, struct jv key)
{
    if (obj.type == JV_UNDEFINED) {
        return jinja_undef_fail(r, obj);
    }
    struct jv  v = jinja_python_item(r, obj, key);
    if (v.type == JV_MISSING && key.type == JV_STR) {
        v = jinja_python_attr(r, obj, jv_text(key));
    }
    return v.type == JV_MISSING ? jinja_undef_new(r, obj, key) : v;
}

/* ---- slices --------------------------------------------------------------- */

static bool
jinja_slice_bound(struct jinja_run *r, struct jv v, int64_t *out)
{
    if (v.type == JV_MISSING || v.type == JV_NONE) {
        return false;
    }
    if (!jinja_is_int(v)) {
        (void) jinja_fail(r, "slice indices must be integers or None or have "
                          "an __index__ method");
        return false;
    }
    *out = v.type == JV_BOOL ? v.b : v.i;
    return true;
}

/* Python's slice.indices(): clamps to [0, len] or [-1, len - 1]. */
static int64_t
jinja_slice_clamp(int64_t i, int64_t len, int64_t step)
{
    if (i < 0) {
        i += len;
        return i < 0 ? (step < 0 ? -1 : 0) : i;
    }
    return i >= len ? (step < 0 ? len - 1 : len) : i;
}

static struct jv
jinja_slice_str(struct jinja_run *r, const struct jv_str *s, int64_t start,
                int64_t num, int64_t step)
{
    if (step == 1) {
        size_t  begin = jv_str_offset(r, s, (size_t) start);
        size_t  end = s->ascii ? begin + (size_t) num
                      : jv_str_offset(r, s, (size_t) (start + num));
        return jv_str_piece(r, s, begin, end);
    }
    struct jv_room  *b = jv_room_new(r, s->len);
    if (b == NULL) {
        return jv_undefined();
    }
    /* Offsets once, so that s[::-1] is linear for any text. */
    size_t   chars = jv_str_num_chars(r, s);
    size_t  *at = arena_alloc(r->arena, (chars + 1) * sizeof *at);
    if (at == NULL) {
        return jinja_fail_memory(r);
    }
    size_t  k = 0;
    for (size_t i = 0; i < s->len; i++) {
        if (((unsigned char) s->data[i] & 0xC0) != 0x80) {
            at[k++] = i;
        }
    }
    at[k] = s->len;
    for (int64_t i = 0; i < num; i++) {
        size_t  c = (size_t) (start + i * step);
        jv_room_piece(r, b, s, at[c], at[c + 1]);
    }
    return r->failed ? jv_undefined() : jv_room_str(r, b, s->markup);
}

static struct jv
jinja_slice_range(struct jinja_run *r, const struct jv_range *g, int64_t start,
                  int64_t num, int64_t step)
{
    struct jv_range  *out = arena_calloc(r->arena, 1, sizeof *out);
    if (out == NULL) {
        return jinja_fail_memory(r);
    }
    out->start = g->start + start * g->step;
    out->step = g->step * step;
    out->len = (size_t) num;
    out->stop = out->start + num * out->step;
    return (struct jv) { .type = JV_RANGE, .range = out };
}

struct jv
jinja_slice(struct jinja_run *r, struct jv obj, const struct jv bound[3])
{
    size_t   size = 0;
    int64_t  start, stop, step = 1;

    if (obj.type == JV_UNDEFINED) {
        return jinja_undef_fail(r, obj);
    }
    if (obj.type == JV_DICT) {
        return jinja_fail(r, "unhashable type: 'slice'");
    }
    if (obj.type != JV_STR && obj.type != JV_LIST && obj.type != JV_TUPLE
        && obj.type != JV_RANGE)
    {
        return jinja_fail(r, "'%s' object is not subscriptable",
                          jv_type_name(obj));
    }
    (void) jv_len(r, obj, &size);
    int64_t  len = (int64_t) size;
    if (jinja_slice_bound(r, bound[2], &step) && step == 0) {
        return jinja_fail(r, "slice step cannot be zero");
    }
    if (step > INT32_MAX || step < -INT32_MAX) {
        step = step > 0 ? INT32_MAX : -INT32_MAX;
    }
    start = jinja_slice_bound(r, bound[0], &start)
            ? jinja_slice_clamp(start, len, step) : step < 0 ? len - 1 : 0;
    stop = jinja_slice_bound(r, bound[1], &stop)
           ? jinja_slice_clamp(stop, len, step) : step < 0 ? -1 : len;
    if (r->failed) {
        return jv_undefined();
    }
    int64_t  num = step > 0 ? (stop - start + step - 1) / step
                            : (start - stop - step - 1) / -step;
    num = num < 0 ? 0 : num;
    if (obj.type == JV_STR) {
        return num == 0 ? jv_str_piece(r, obj.str, 0, 0)
                        : jinja_slice_str(r, obj.str, start, num, step);
    }
    if (obj.type == JV_RANGE) {
        return jinja_slice_range(r, obj.range, start, num, step);
    }
    if (step == 1) {
        start = num == 0 ? 0 : start;
        return jv_list_slice(r, obj, (size_t) start, (size_t) (start + num));
    }
    struct jv  out = jv_list_new(r, obj.type, (size_t) num);
    (void) jinja_charge(r, (size_t) num * 8);
    for (int64_t i = 0; i < num; i++) {
        (void) jv_list_push(r, &out, obj.list->items[start + i * step]);
    }
    return out;
}
