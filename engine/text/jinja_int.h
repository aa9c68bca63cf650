/* jinja_int.h - what the files of the interpreter share: values, tree, run.
 *
 * Errors are sticky, as in struct buf: the first jinja_fail() is remembered in
 * the run, the functions go on with undefined values, and every loop and every
 * step looks at r->failed.  So expressions read as expressions.
 *
 * Values are immutable except namespaces, loops, cyclers and generators.
 * Strings and lists are shared freely; a string or list that ends where its
 * room ends is appended to in place, so `s = s + x` in a loop is linear. */
#ifndef LLM_TEXT_JINJA_INT_H
#define LLM_TEXT_JINJA_INT_H

#include "engine/base/hash.h"
#include "engine/text/jinja.h"

/* ---- values -------------------------------------------------------------- */

enum jv_type {
    JV_MISSING,     /* no value: an argument not given, an unset name */
    JV_UNDEFINED, JV_NONE, JV_BOOL, JV_INT, JV_BIG, JV_FLOAT, JV_STR,
    JV_LIST, JV_TUPLE, JV_DICT, JV_VIEW, JV_RANGE, JV_GEN, JV_NAMESPACE,
    JV_MACRO, JV_METHOD, JV_GLOBAL, JV_LOOP, JV_CYCLER, JV_JOINER
};

struct jv_str; struct jv_list; struct jv_dict; struct jv_undef; struct jv_view;
struct jv_range; struct jv_gen; struct jv_macro; struct jv_bound;
struct jv_loop; struct jv_cycler; struct jv_joiner; struct jinja_global;

struct jv {
    enum jv_type  type;
    union {
        bool                       b;
        int64_t                    i;
        double                     f;
        const struct jv_str       *str;     /* STR; BIG: decimal text */
        const struct jv_list      *list;    /* LIST, TUPLE */
        struct jv_dict            *dict;    /* DICT, NAMESPACE */
        const struct jv_undef     *undef;   /* may be NULL */
        const struct jv_view      *view;
        const struct jv_range     *range;
        struct jv_gen             *gen;
        const struct jv_macro     *macro;
        const struct jv_bound     *bound;   /* METHOD */
        const struct jinja_global *global;
        struct jv_loop            *loop;
        struct jv_cycler          *cycler;
        struct jv_joiner          *joiner;
    };
};

/* Bytes and their untrusted spans, growing; also the append room of the
 * strings cut from it. */
struct jv_room {
    char             *data;
    size_t            len, cap;
    struct text_span *spans;
    size_t            num_spans, cap_spans;
};

/* A string that shares a room may see a last span longer than itself; readers
 * clip spans to len. */
struct jv_str {
    const char             *data;       /* valid UTF-8 */
    size_t                  len;
    const struct text_span *spans;
    size_t                  num_spans;
    struct jv_room         *room;       /* NULL: no room to append */
    bool                    markup;
    bool                    ascii;      /* known to be ASCII only */
};

struct jv_list_room {
    struct jv *items;
    size_t     len, cap;
};

struct jv_list {
    struct jv           *items;
    size_t               len;
    struct jv_list_room *room;
};

struct jv_dict {
    struct jv *keys, *vals;     /* insertion order */
    size_t     len, cap;
    uint32_t  *index;           /* NULL while small; position + 1 */
    size_t     index_cap;       /* power of two */
};

struct jv_undef {
    struct jv    obj;           /* MISSING: a name */
    struct jv    name;
    struct str   hint;          /* overrides the message when data != NULL */
};

enum jv_view_kind { JV_VIEW_KEYS, JV_VIEW_VALUES, JV_VIEW_ITEMS };

struct jv_view {
    struct jv_dict   *dict;
    enum jv_view_kind kind;
};

struct jv_range {
    int64_t start, stop, step;
    size_t  len;
};

struct jv_cycler {
    const struct jv_list *items;
    size_t                pos;
};

struct jv_joiner {
    struct jv sep;
    bool      used;
};

/* ---- the tree ------------------------------------------------------------ */

enum jinja_kind {
    /* expressions */
    JN_CONST, JN_NAME, JN_LIST, JN_TUPLE, JN_DICT, JN_PAIR, JN_GETATTR,
    JN_GETITEM, JN_SLICE, JN_CALL, JN_KEYWORD, JN_FILTER, JN_TEST, JN_NEG,
    JN_POS, JN_NOT, JN_ADD, JN_SUB, JN_MUL, JN_DIV, JN_FLOORDIV, JN_MOD,
    JN_POW, JN_CONCAT, JN_AND, JN_OR, JN_COMPARE, JN_OPERAND, JN_COND,
    JN_NSREF,
    /* statements */
    JN_DATA, JN_OUTPUT, JN_IF, JN_FOR, JN_SET, JN_SETBLOCK, JN_MACRO,
    JN_CALLBLOCK, JN_FILTERBLOCK, JN_WITH, JN_BREAK, JN_CONTINUE,
    JN_GENERATION
};

enum jinja_cmp {
    JCMP_EQ, JCMP_NE, JCMP_LT, JCMP_LE, JCMP_GT, JCMP_GE, JCMP_IN, JCMP_NOTIN
};

struct jinja_filter;
struct jinja_test;

/* One node for all kinds; the comment at each parse function says which child
 * is what.  Lists run through `next`. */
struct jinja_node {
    enum jinja_kind            kind;
    uint32_t                   line;
    uint32_t                   sym;      /* NAME, NSREF, MACRO, parameters */
    enum jinja_cmp             cmp;      /* OPERAND */
    bool                       flag;     /* TEST: negated; FOR: recursive */
    bool                       uses_caller, uses_varargs, uses_kwargs;
    struct str                 name;     /* attribute, keyword, filter, test */
    const struct jinja_filter *filter;
    const struct jinja_test   *test;
    struct jinja_node         *a, *b, *c, *d;
    struct jinja_node         *list, *list2;
    struct jinja_node         *next;
    struct jv                  val;      /* CONST, DATA */
};

struct jinja_sym {
    struct str                 name;
    const struct jinja_global *global;   /* built-in of that name, or NULL */
};

struct jinja {
    struct arena       arena;
    struct jinja_node *body;
    struct jinja_sym  *syms;
    uint32_t           num_syms, cap_syms;
    uint32_t           num_nodes;
    uint32_t           sym_loop, sym_caller, sym_varargs, sym_kwargs;
};

/* ---- a rendering --------------------------------------------------------- */

struct jinja_bind {
    uint32_t  sym;
    struct jv val;
};

struct jinja_scope {
    struct jinja_scope *parent;     /* NULL: the root, whose names are r->root */
    struct jinja_bind  *binds;
    size_t              len, cap;
};

struct jinja_run {
    const struct jinja      *t;
    const struct jinja_args *args;
    struct arena            *arena;
    struct err              *err;
    bool                     failed;
    uint32_t                 line;
    uint64_t                 steps, steps_max, steps_check;
    int64_t                  deadline_ns;
    int64_t                (*now_ns)(void);
    size_t                   output_bytes_max;
    int                      depth, call_depth;
    struct jv               *root;      /* [num_syms] */
    struct jinja_scope      *scope;     /* NULL: at the root */
    struct jv_room          *out;       /* where output goes now */
    bool                     keyed;
    struct hash_key          key;
};

struct jv_macro {
    const struct jinja_node *node;      /* MACRO or CALLBLOCK */
    struct str               name;
    struct jinja_scope      *scope;     /* where it was defined */
};

struct jv_args {
    struct jv  *pos;
    size_t      num;
    struct str *kw_names;
    struct jv  *kw;
    size_t      num_kw;
};

#define JINJA_SLOTS_MAX  6

/* Arguments bound to a function's parameters; MISSING where not given. */
struct jv_slots {
    struct jv             v[JINJA_SLOTS_MAX];
    const struct jv_args *args;         /* as written */
};

/* "a,b,c": parameter names; a trailing "*" passes everything through args;
 * a leading "/" refuses keywords. */
struct jinja_filter {
    const char *name;
    struct jv (*fn)(struct jinja_run *r, struct jv in, struct jv_slots *s);
    const char *params;
    int         num_required;
};

struct jinja_test {
    const char *name;
    bool      (*fn)(struct jinja_run *r, struct jv in, const struct jv_args *a);
    size_t      num_args;
};

struct jinja_global {
    const char *name;
    struct jv (*fn)(struct jinja_run *r, const struct jv_args *a);
};

struct jinja_method {
    const char *name;
    struct jv (*fn)(struct jinja_run *r, struct jv self, struct jv_slots *s);
    const char *params;
    int         num_required;
};

struct jv_bound {
    struct jv                  self;
    const struct jinja_method *method;
};

/* ---- iteration ----------------------------------------------------------- */

struct jv_iter {
    struct jv  src;
    size_t     pos;
    struct jv *rest;        /* items pushed back by loop.length */
    size_t     num_rest, rest_pos;
};

enum jv_gen_kind { JV_GEN_ITER, JV_GEN_MAP, JV_GEN_SELECT, JV_GEN_UNIQUE,
                   JV_GEN_BATCH, JV_GEN_SLICE };

struct jv_gen {
    enum jv_gen_kind           kind;
    const char                *type_name;  /* "generator", "list_reverseiterator" */
    struct jv_iter             it;
    bool                       need_mapping;  /* items: fails at first use */
    bool                       has_attr;
    struct jv                  attr;
    struct jv                  fallback;      /* default of map(attribute=);
                                                 what batch and slice fill
                                                 with */
    struct jv                  name;          /* of a filter or test that is
                                                 not there; else MISSING */
    int64_t                    num;           /* of batch and slice */
    const struct jinja_filter *filter;
    const struct jinja_test   *test;
    struct jv_args             args;
    bool                       negate;
    struct jv_dict            *seen;
    bool                       case_sensitive;
};

struct jv_loop {
    const struct jinja_node *node;      /* FOR */
    struct jinja_scope      *scope;     /* where the loop stands */
    struct jinja_scope      *test_scope;
    struct jv                iterable;
    struct jv_iter           it;
    size_t                   index0;
    int                      depth0;
    struct jv                before, current, after;  /* MISSING when none */
    bool                     exhausted;
    int64_t                  length;    /* -1: not known yet */
    const struct jv_list    *changed;   /* arguments of the last changed() */
};

/* jinja.c */
struct jv jinja_fail(struct jinja_run *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
struct jv jinja_fail_memory(struct jinja_run *r);
bool jinja_charge(struct jinja_run *r, size_t bytes);   /* false: failed */
bool jinja_enter(struct jinja_run *r);                  /* depth; pair with */
void jinja_leave(struct jinja_run *r);
struct jv jinja_from_json(struct jinja_run *r, const struct json *j,
                          bool untrusted);

/* jinja_parse.c, jinja_expr.c, jinja_lex.c: see jinja_parse.h */

/* jinja_value.c: making and comparing values */
static inline struct jv
jv_none(void)
{
    return (struct jv) { .type = JV_NONE };
}

static inline struct jv
jv_missing(void)
{
    return (struct jv) { .type = JV_MISSING };
}

static inline struct jv
jv_undefined(void)
{
    return (struct jv) { .type = JV_UNDEFINED, .undef = NULL };
}

static inline struct jv
jv_bool(bool b)
{
    return (struct jv) { .type = JV_BOOL, .b = b };
}

static inline struct jv
jv_int(int64_t i)
{
    return (struct jv) { .type = JV_INT, .i = i };
}

static inline struct jv
jv_float(double f)
{
    return (struct jv) { .type = JV_FLOAT, .f = f };
}

static inline bool
jv_is(struct jv v, enum jv_type type)
{
    return v.type == type;
}

static inline bool
jv_is_number(struct jv v)       /* an int, a float or a bool */
{
    return v.type == JV_INT || v.type == JV_FLOAT || v.type == JV_BOOL
           || v.type == JV_BIG;
}

struct jv jv_str_lit(struct jinja_run *r, const char *s);     /* trusted */
struct jv jv_str_copy(struct jinja_run *r, struct str s, bool untrusted);
struct jv jv_str_ref(struct jinja_run *r, struct str s, bool untrusted);
struct jv jv_str_piece(struct jinja_run *r, const struct jv_str *s, size_t begin,
                       size_t end);    /* bytes; keeps markup and taint */
struct jv jv_str_as_markup(struct jinja_run *r, struct jv s, bool markup);
struct jv jv_str_concat(struct jinja_run *r, const struct jv_str *a,
                        const struct jv_str *b);
struct str jv_text(struct jv v);       /* bytes of a STR or BIG */
bool jv_str_is_ascii(const struct jv_str *s);
size_t jv_str_num_chars(struct jinja_run *r, const struct jv_str *s);
/* Byte offset of code point `idx`; len when beyond. */
size_t jv_str_offset(struct jinja_run *r, const struct jv_str *s, size_t idx);
bool jv_str_untrusted(const struct jv_str *s);     /* any span */

struct jv_room *jv_room_new(struct jinja_run *r, size_t cap);
bool jv_room_reserve(struct jinja_run *r, struct jv_room *b, size_t bytes);
void jv_room_bytes(struct jinja_run *r, struct jv_room *b, const char *data,
                   size_t len, bool untrusted);
void jv_room_piece(struct jinja_run *r, struct jv_room *b,
                   const struct jv_str *s, size_t begin, size_t end);
#define jv_room_lit(r, b, lit)  \
    jv_room_bytes((r), (b), (lit), sizeof(lit) - 1, false)
struct jv jv_room_str(struct jinja_run *r, struct jv_room *b, bool markup);

struct jv jv_list_new(struct jinja_run *r, enum jv_type type, size_t cap);
bool jv_list_push(struct jinja_run *r, struct jv *list, struct jv item);
struct jv jv_list_slice(struct jinja_run *r, struct jv list, size_t begin,
                        size_t end);
struct jv jv_list_concat(struct jinja_run *r, struct jv a, struct jv b);

struct jv jv_dict_new(struct jinja_run *r, enum jv_type type);
bool jv_dict_set(struct jinja_run *r, struct jv_dict *d, struct jv key,
                 struct jv val);
/* NULL when absent or unhashable (then *unhashable). */
struct jv *jv_dict_find(struct jinja_run *r, const struct jv_dict *d,
                        struct jv key, bool *unhashable);
struct jv *jv_dict_find_str(struct jinja_run *r, const struct jv_dict *d,
                            struct str key);

bool jv_truth(struct jinja_run *r, struct jv v);
bool jv_eq(struct jinja_run *r, struct jv a, struct jv b);
/* <0, 0, >0; fails as Python does, naming op ("<"). */
int jv_compare(struct jinja_run *r, struct jv a, struct jv b, const char *op);
bool jv_contains(struct jinja_run *r, struct jv needle, struct jv hay);
const char *jv_type_name(struct jv v);             /* Python's: "str", "list" */
bool jv_len(struct jinja_run *r, struct jv v, size_t *out);  /* false: no len */

/* jinja_print.c: str(), repr(), json.dumps() */
struct jinja_json_style {
    bool         ascii, sort_keys;
    bool         pretty;
    struct jv    indent;             /* STR */
    struct jv    item_sep, key_sep;  /* STR */
};
void jv_print(struct jinja_run *r, struct jv_room *b, struct jv v);   /* str() */
void jv_print_repr(struct jinja_run *r, struct jv_room *b, struct jv v);
struct jv jv_to_str(struct jinja_run *r, struct jv v);   /* keeps Markup */
struct jv jv_to_plain(struct jinja_run *r, struct jv v);  /* str(v), no Markup */
struct jv jv_to_json(struct jinja_run *r, struct jv v,
                     const struct jinja_json_style *style);
void jinja_format_float(struct jv_room *b, struct jinja_run *r, double f);
struct jv jinja_escape(struct jinja_run *r, struct jv v);     /* to Markup */

/* jinja_iter.c */
bool jv_iter_init(struct jinja_run *r, struct jv_iter *it, struct jv v);
bool jv_iter_next(struct jinja_run *r, struct jv_iter *it, struct jv *out);
bool jv_is_iterable(struct jv v);
struct jv jv_to_list(struct jinja_run *r, struct jv v);
struct jv jv_gen_new(struct jinja_run *r, const struct jv_gen *g);
struct jv jinja_batch(struct jinja_run *r, const struct jv_gen *g);
struct jv jinja_slices(struct jinja_run *r, const struct jv_gen *g);
struct jv jinja_attr_path(struct jinja_run *r, struct jv item, struct jv path,
                          struct jv fallback);

/* jinja_ops.c */
struct jv jinja_binary(struct jinja_run *r, enum jinja_kind op, struct jv a,
                       struct jv b);
struct jv jinja_unary(struct jinja_run *r, enum jinja_kind op, struct jv a);
struct jv jinja_getattr(struct jinja_run *r, struct jv obj, struct jv name);
struct jv jinja_getitem(struct jinja_run *r, struct jv obj, struct jv key);
struct jv jinja_slice(struct jinja_run *r, struct jv obj, const struct jv b[3]);
struct jv jinja_undef_fail(struct jinja_run *r, struct jv undef);
struct jv jinja_undef_new(struct jinja_run *r, struct jv obj, struct jv name);
struct jv jinja_undef_hint(struct jinja_run *r, const char *hint);

/* jinja_eval.c */
struct jv jinja_eval(struct jinja_run *r, const struct jinja_node *n);
struct jv jinja_call(struct jinja_run *r, struct jv f, const struct jv_args *a);
struct jv jinja_apply_filter(struct jinja_run *r, const struct jinja_filter *f,
                             struct jv in, const struct jv_args *a);
bool jinja_apply_test(struct jinja_run *r, const struct jinja_test *t,
                      struct jv in, const struct jv_args *a);
bool jinja_bind_slots(struct jinja_run *r, const char *what, const char *params,
                      const struct jv_args *a, struct jv_slots *s);

/* jinja_exec.c */
enum jinja_flow { JFLOW_NEXT, JFLOW_BREAK, JFLOW_CONTINUE };
enum jinja_flow jinja_exec(struct jinja_run *r, const struct jinja_node *list);
struct jv jinja_call_macro(struct jinja_run *r, const struct jv_macro *m,
                           const struct jv_args *a);
struct jv jinja_loop_attr(struct jinja_run *r, struct jv_loop *l,
                          struct str name);
struct jv jinja_loop_recurse(struct jinja_run *r, struct jv_loop *l,
                             const struct jv_args *a);
void jinja_bind_name(struct jinja_run *r, uint32_t sym, struct jv v);
struct jv jinja_lookup(struct jinja_run *r, uint32_t sym);

/* jinja_filters.c, jinja_seq.c, jinja_tests.c, jinja_methods.c,
 * jinja_globals.c: tables */
extern const struct jinja_filter  jinja_seq_filters[];
const struct jinja_filter *jinja_filter_find(struct str name);
const struct jinja_test *jinja_test_find(struct str name);
const struct jinja_method *jinja_method_find(enum jv_type type,
                                             struct str name, bool *unsafe);
const struct jinja_global *jinja_global_find(struct str name);
struct jv jinja_str_percent(struct jinja_run *r, struct jv fmt, struct jv args);
struct jv jinja_str_format(struct jinja_run *r, struct jv self,
                           const struct jv_args *a);
struct jv jinja_str_strip(struct jinja_run *r, const struct jv_str *s,
                          struct jv chars, int sides);   /* 1 left, 2 right */
struct jv jinja_str_replace(struct jinja_run *r, const struct jv_str *s,
                            struct str old, const struct jv_str *with,
                            int64_t count);
enum jinja_case { JCASE_UPPER, JCASE_LOWER, JCASE_TITLE, JCASE_CAPITALIZE,
                  JCASE_SWAP, JCASE_FOLD, JCASE_WORDS };
struct jv jinja_str_case(struct jinja_run *r, const struct jv_str *s,
                         enum jinja_case how);
struct jv jinja_str_lines(struct jinja_run *r, const struct jv_str *s,
                          bool keep_ends);
bool jinja_parse_int(struct str s, int base, int64_t *out);
bool jinja_parse_float(struct str s, double *out);
bool jinja_arg_int(struct jinja_run *r, struct jv v, int64_t *out);

/* jinja_unicode.c: properties of one code point, Python's definitions */
bool jinja_is_space(uint32_t cp);         /* str.isspace */
bool jinja_is_printable(uint32_t cp);
bool jinja_is_alpha(uint32_t cp);
bool jinja_is_decimal(uint32_t cp);
bool jinja_is_digit(uint32_t cp);
bool jinja_is_numeric(uint32_t cp);
bool jinja_is_upper(uint32_t cp);
bool jinja_is_lower(uint32_t cp);
bool jinja_is_cased(uint32_t cp);
bool jinja_is_case_ignorable(uint32_t cp);
bool jinja_is_id_start(uint32_t cp);
bool jinja_is_id_continue(uint32_t cp);
/* Full mapping: writes 1..3 code points, returns how many. */
int jinja_to_upper(uint32_t cp, uint32_t out[3]);
int jinja_to_lower(uint32_t cp, uint32_t out[3]);
int jinja_to_title(uint32_t cp, uint32_t out[3]);
int jinja_to_fold(uint32_t cp, uint32_t out[3]);

#endif
