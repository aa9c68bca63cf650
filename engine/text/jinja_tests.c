/* jinja_tests.c - what may follow `is`. */
#include "engine/text/jinja_int.h"

#define TEST(name)                                                            \
    static bool                                                               \
    name(struct jinja_run *r, struct jv v, const struct jv_args *a)

#define TYPE_TEST(name, condition)                                            \
    TEST(name)                                                                \
    {                                                                         \
        (void) r;                                                             \
        (void) a;                                                             \
        return (condition);                                                   \
    }

TYPE_TEST(t_defined, v.type != JV_UNDEFINED)
TYPE_TEST(t_undefined, v.type == JV_UNDEFINED)
TYPE_TEST(t_none, v.type == JV_NONE)
TYPE_TEST(t_boolean, v.type == JV_BOOL)
TYPE_TEST(t_true, v.type == JV_BOOL && v.b)
TYPE_TEST(t_false, v.type == JV_BOOL && !v.b)
TYPE_TEST(t_integer, v.type == JV_INT || v.type == JV_BIG)
TYPE_TEST(t_float, v.type == JV_FLOAT)
TYPE_TEST(t_number, jv_is_number(v))
TYPE_TEST(t_string, v.type == JV_STR)
TYPE_TEST(t_mapping, v.type == JV_DICT)
TYPE_TEST(t_iterable, jv_is_iterable(v))
TYPE_TEST(t_sequence, v.type == JV_STR || v.type == JV_LIST
                      || v.type == JV_TUPLE || v.type == JV_DICT
                      || v.type == JV_RANGE || v.type == JV_UNDEFINED)
TYPE_TEST(t_callable, v.type == JV_MACRO || v.type == JV_METHOD
                      || v.type == JV_GLOBAL || v.type == JV_UNDEFINED
                      || v.type == JV_LOOP || v.type == JV_JOINER)
TYPE_TEST(t_escaped, v.type == JV_STR && v.str->markup)

TEST(t_eq)
{
    return jv_eq(r, v, a->pos[0]);
}

TEST(t_ne)
{
    return !jv_eq(r, v, a->pos[0]);
}

TEST(t_lt)
{
    return jv_compare(r, v, a->pos[0], "<") < 0 && !r->failed;
}

TEST(t_le)
{
    return jv_compare(r, v, a->pos[0], "<=") <= 0 && !r->failed;
}

TEST(t_gt)
{
    return jv_compare(r, v, a->pos[0], ">") > 0 && !r->failed;
}

TEST(t_ge)
{
    return jv_compare(r, v, a->pos[0], ">=") >= 0 && !r->failed;
}

TEST(t_in)
{
    return jv_contains(r, v, a->pos[0]);
}

/* Identity: the same object, or an equal one of the types Python shares. */
TEST(t_sameas)
{
    struct jv  o = a->pos[0];
    if (v.type != o.type) {
        return false;
    }
    switch (v.type) {
    case JV_NONE: case JV_BOOL: case JV_INT: case JV_FLOAT: case JV_STR:
        return jv_eq(r, v, o);
    default:
        return v.list == o.list;
    }
}

/* v % n == want */
static bool
jinja_test_modulo(struct jinja_run *r, struct jv v, struct jv n, int64_t want)
{
    struct jv  m = jinja_binary(r, JN_MOD, v, n);
    return !r->failed && jv_eq(r, m, jv_int(want));
}

TEST(t_odd)
{
    (void) a;
    return jinja_test_modulo(r, v, jv_int(2), 1);
}

TEST(t_even)
{
    (void) a;
    return jinja_test_modulo(r, v, jv_int(2), 0);
}

TEST(t_divisibleby)
{
    return jinja_test_modulo(r, v, a->pos[0], 0);
}

static bool
jinja_test_case(struct jinja_run *r, struct jv v, const char *method)
{
    bool             unsafe;
    struct jv_slots  s = { .args = NULL };

    v = jv_to_str(r, v);
    return !r->failed
           && jinja_method_find(JV_STR, str_from(method), &unsafe)
                  ->fn(r, v, &s).b;
}

TEST(t_lower)
{
    (void) a;
    return jinja_test_case(r, v, "islower");
}

TEST(t_upper)
{
    (void) a;
    return jinja_test_case(r, v, "isupper");
}

TEST(t_filter)
{
    (void) r;
    (void) a;
    return v.type == JV_STR && jinja_filter_find(jv_text(v)) != NULL;
}

TEST(t_test)
{
    (void) r;
    (void) a;
    return v.type == JV_STR && jinja_test_find(jv_text(v)) != NULL;
}

static const struct jinja_test  jinja_tests[] = {
    { "defined", t_defined, 0 }, { "string", t_string, 0 },
    { "none", t_none, 0 }, { "mapping", t_mapping, 0 },
    { "iterable", t_iterable, 0 }, { "undefined", t_undefined, 0 },
    { "sequence", t_sequence, 0 }, { "false", t_false, 0 },
    { "true", t_true, 0 }, { "boolean", t_boolean, 0 },
    { "number", t_number, 0 }, { "integer", t_integer, 0 },
    { "float", t_float, 0 }, { "callable", t_callable, 0 },
    { "escaped", t_escaped, 0 }, { "odd", t_odd, 0 }, { "even", t_even, 0 },
    { "divisibleby", t_divisibleby, 1 }, { "lower", t_lower, 0 },
    { "upper", t_upper, 0 }, { "sameas", t_sameas, 1 }, { "in", t_in, 1 },
    { "filter", t_filter, 0 }, { "test", t_test, 0 },
    { "==", t_eq, 1 }, { "eq", t_eq, 1 }, { "equalto", t_eq, 1 },
    { "!=", t_ne, 1 }, { "ne", t_ne, 1 },
    { ">", t_gt, 1 }, { "gt", t_gt, 1 }, { "greaterthan", t_gt, 1 },
    { ">=", t_ge, 1 }, { "ge", t_ge, 1 },
    { "<", t_lt, 1 }, { "lt", t_lt, 1 }, { "lessthan", t_lt, 1 },
    { "<=", t_le, 1 }, { "le", t_le, 1 },
};

const struct jinja_test *
jinja_test_find(struct str name)
{
    for (size_t i = 0; i < sizeof jinja_tests / sizeof jinja_tests[0]; i++) {
        if (str_eq(name, str_from(jinja_tests[i].name))) {
            return &jinja_tests[i];
        }
    }
    return NULL;
}
