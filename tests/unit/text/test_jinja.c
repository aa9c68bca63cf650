/* test_jinja.c - the language by cases, taint by its spans, limits by force. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include "engine/base/clock.h"
#include "engine/base/utf8.h"
#include "engine/text/jinja.h"

struct fixture {
    struct arena        arena;
    struct err          err;
    struct jinja_limits limits;
    struct jinja_text   text;
};

static int
setup(void **state)
{
    struct fixture  *f = calloc(1, sizeof *f);
    arena_init(&f->arena, 256u << 20);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture  *f = *state;
    arena_destroy(&f->arena);
    free(f);
    return 0;
}

/* Renders with the members of a JSON object as untrusted variables, and
 * `trusted` as a trusted one. */
static int
render(struct fixture *f, const char *source, const char *context)
{
    struct json       *in = NULL;
    struct jinja      *t;
    struct jinja_var   vars[16] = {
        { .name = STR("trusted"), .kind = JINJA_VAR_STR, .str = STR("<T>") },
    };
    size_t             num = 1;

    memset(&f->err, 0, sizeof f->err);
    assert_int_equal(json_parse(&in, str_from(context), &f->arena,
                                &json_limits_request, &f->err), OK);
    for (const struct json *v = in->child; v != NULL; v = v->next) {
        vars[num++] = (struct jinja_var) { .name = v->key, .json = v,
                                           .untrusted = true };
    }
    if (jinja_compile(&t, str_from(source), &f->err) != OK) {
        assert_null(t);
        return ERROR;
    }
    struct jinja_args  args = {
        .vars = vars, .num_vars = num, .arena = &f->arena,
        .limits = f->limits,
        .now = { .tm_year = 125, .tm_mon = 2, .tm_mday = 14, .tm_wday = 5 },
    };
    int  rc = jinja_render(t, &args, &f->text, &f->err);
    jinja_destroy(t);
    if (rc == OK) {
        assert_true(utf8_is_valid(f->text.data.data, f->text.data.len));
    } else {
        assert_int_equal(f->err.http_status, 400);
    }
    return rc;
}

static void
gives(struct fixture *f, const char *source, const char *context,
      const char *want)
{
    if (render(f, source, context) != OK) {
        fail_msg("%s: %s", source, f->err.message);
    }
    if (!str_eq(f->text.data, str_from(want))) {
        fail_msg("%s: \"%.*s\", not \"%s\"", source, STR_ARG(f->text.data),
                 want);
    }
}

static void
fails(struct fixture *f, const char *source, const char *context,
      const char *why)
{
    if (render(f, source, context) == OK) {
        fail_msg("%s: rendered \"%.*s\"", source, STR_ARG(f->text.data));
    }
    assert_int_equal(f->err.http_status, 400);
    if (strstr(f->err.message, why) == NULL) {
        fail_msg("%s: \"%s\" does not say \"%s\"", source, f->err.message,
                 why);
    }
}

/* ---- the language ---------------------------------------------------------- */

static void
white_space_follows_trim_and_lstrip_blocks(void **state)
{
    struct fixture  *f = *state;
    gives(f, "a\n  {% if true %}\n  b\n  {% endif %}\nc\n\n", "{}",
          "a\n  b\nc\n");
    gives(f, "a \n {%- if true -%} \n b \n {%- endif -%} \n c", "{}", "abc");
    gives(f, "a\n  {%+ if true %}b{% endif +%}\nc", "{}", "a\n  b\nc");
    gives(f, "a\r\nb\r{# c #}\nd\r\n", "{}", "a\nb\nd");
    gives(f, "x {{- ' y ' -}} z", "{}", "x y z");
    gives(f, "  {{ 1 }}\n", "{}", "  1");
    gives(f, "a {%- raw -%}  {{ b }}  {%- endraw -%} c", "{}", "a{{ b }}c");
}

static void
values_print_as_python_prints_them(void **state)
{
    struct fixture  *f = *state;
    gives(f, "{{ x }}",
          "{\"x\":[1,1.0,true,null,\"it's\",\"a\\\"b'\",{\"k\":\"\\n\\u0000\\u200b\"}]}",
          "[1, 1.0, True, None, \"it's\", 'a\"b\\'', {'k': '\\n\\x00\\u200b'}]");
    gives(f, "{{ 1e16 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1e100 }}",
          "{}", "1e+16 1000000000000000.0 0.0001 1e-05 1e+100");
    gives(f, "{{ x }} {{ x|tojson }} {{ x == x }}",
          "{\"x\":12345678901234567890}",
          "12345678901234567890 12345678901234567890 True");
    gives(f, "{{ () }}{{ (1,) }}{{ (1, 2) }}{{ {1: 2, none: 'x'} }}", "{}",
          "()(1,)(1, 2){1: 2, None: 'x'}");
}

static void
tojson_is_json_dumps(void **state)
{
    struct fixture  *f = *state;
    const char      *ctx = "{\"x\":{\"b\":[1.0,\"\\u00e9<>&'\\u2028\"],\"a\":{}}}";
    gives(f, "{{ x|tojson }}", ctx,
          "{\"b\": [1.0, \"\xC3\xA9<>&'\xE2\x80\xA8\"], \"a\": {}}");
    gives(f, "{{ x|tojson(indent=2) }}", ctx,
          "{\n  \"b\": [\n    1.0,\n    \"\xC3\xA9<>&'\xE2\x80\xA8\"\n  ],\n"
          "  \"a\": {}\n}");
    gives(f, "{{ x|tojson(ensure_ascii=true, sort_keys=true, "
             "separators=(',', ':')) }}", ctx,
          "{\"a\":{},\"b\":[1.0,\"\\u00e9<>&'\\u2028\"]}");
    fails(f, "{{ nope|tojson }}", "{}",
          "Object of type Undefined is not JSON serializable");
}

static void
undefined_prints_nothing_and_refuses_use(void **state)
{
    struct fixture  *f = *state;
    gives(f, "[{{ x }}{{ x|length }}{{ d.y }}{{ x ~ 'a' }}{{ not x }}]",
          "{\"d\":{}}", "[0aTrue]");
    fails(f, "\n{{ x.y }}", "{}", "line 2: 'x' is undefined");
    fails(f, "{{ x + 1 }}", "{}", "'x' is undefined");
    fails(f, "{{ x() }}", "{}", "'x' is undefined");
    fails(f, "{{ d.y.z }}", "{\"d\":{}}",
          "'dict object' has no attribute 'y'");
    fails(f, "{{ l[5].x }}", "{\"l\":[]}", "list object has no element 5");
    fails(f, "{{ n.x.y }}", "{\"n\":null}", "'None' has no attribute 'x'");
    fails(f, "{{ l.append(1) }}", "{\"l\":[]}",
          "access to attribute 'append' of 'list' object is unsafe.");
    fails(f, "{{ (1 if false) + 1 }}", "{}", "inline if-expression");
}

static void
type_errors_read_as_pythons(void **state)
{
    struct fixture  *f = *state;
    fails(f, "{{ 'a' + 1 }}", "{}",
          "can only concatenate str (not \"int\") to str");
    fails(f, "{{ 1 + 'a' }}", "{}",
          "unsupported operand type(s) for +: 'int' and 'str'");
    fails(f, "{{ none|length }}", "{}",
          "object of type 'NoneType' has no len()");
    fails(f, "{{ 1 < 'a' }}", "{}",
          "'<' not supported between instances of 'int' and 'str'");
    fails(f, "{% for x in 1 %}{% endfor %}", "{}",
          "'int' object is not iterable");
    fails(f, "{{ 1 // 0 }}", "{}", "integer division or modulo by zero");
    fails(f, "{% set a, b = [1] %}", "{}",
          "not enough values to unpack (expected 2, got 1)");
    fails(f, "{{ x|map('upper')|length }}", "{\"x\":[\"a\"]}",
          "object of type 'generator' has no len()");
}

static void
raise_exception_gives_its_text_alone(void **state)
{
    struct fixture  *f = *state;
    fails(f, "{{ raise_exception('Only ' ~ n ~ ' roles!') }}", "{\"n\":2}", "");
    assert_string_equal(f->err.message, "Only 2 roles!");
}

static void
markup_escapes_what_is_added_to_it(void **state)
{
    struct fixture  *f = *state;
    gives(f, "{{ '<a>' + (x|safe) }}|{{ '<a>' ~ (x|safe) }}|"
             "{{ (x|safe)|trim + '<' }}|{{ [x|safe, '<']|join }}|"
             "{{ (x|safe)|replace('b', '<') + '<' }}", "{\"x\":\"<b>\"}",
          "&lt;a&gt;<b>|<a><b>|<b>&lt;|<b><|<<><");
}

static void
scopes_are_jinja2s(void **state)
{
    struct fixture  *f = *state;
    gives(f, "{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}"
             "{% endfor %}{{ x }}", "{}", "231");
    gives(f, "{% if true %}{% set x = 1 %}{% endif %}{{ x }}", "{}", "1");
    gives(f, "{% set ns = namespace(n=0) %}{% for i in [1, 2] %}"
             "{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "{}", "3");
    gives(f, "{% macro m() %}{{ x }}{% endmacro %}{% set x = 1 %}"
             "{% for x in [5] %}{{ m() }}{% endfor %}", "{}", "1");
    gives(f, "{% set v %}{% set y = 1 %}t{% endset %}{{ v }}{{ y }}", "{}",
          "t");
    fails(f, "{% set d.x = 1 %}", "{\"d\":{}}",
          "cannot assign attribute on non-namespace object");
}

static void
macros_bind_arguments_as_python_functions(void **state)
{
    struct fixture  *f = *state;
    const char      *m = "{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}";
    char             s[256];

    (void) snprintf(s, sizeof s, "%s{{ m(1) }}{{ m(1, b=3) }}{{ m() }}", m);
    gives(f, s, "{}", "12132");
    (void) snprintf(s, sizeof s, "%s{{ m(1, 2, 3) }}", m);
    fails(f, s, "{}", "takes not more than 2 argument(s)");
    (void) snprintf(s, sizeof s, "%s{{ m(1, c=3) }}", m);
    fails(f, s, "{}", "takes no keyword argument 'c'");
    gives(f, "{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}"
             "{% endmacro %}{{ f(3) }}", "{}", "3210");
    gives(f, "{% macro t() %}<{{ caller(1) }}>{% endmacro %}"
             "{% call(x) t() %}[{{ x }}]{% endcall %}", "{}", "<[1]>");
    gives(f, "{% macro v() %}{{ varargs }}{{ kwargs }}{% endmacro %}"
             "{{ v(1, *[2], k=3, **{'z': 4}) }}", "{}",
          "(1, 2){'k': 3, 'z': 4}");
}

static void
a_final_sigma_looks_past_modifier_letters(void **state)
{
    struct fixture  *f = *state;
    /* U+02B0 is a letter and still no start of the word, as in Python. */
    gives(f, "{{ x|lower }},{{ y|lower }},{{ z|lower }}",
          "{\"x\":\"\\u02b0\\u03a3\",\"y\":\"A\\u02b0\\u03a3\","
          "\"z\":\"A\\u03a3\\u02b0\"}",
          "\u02b0\u03c3,a\u02b0\u03c2,a\u03c2\u02b0");
}

static void
loops_know_where_they_are(void **state)
{
    struct fixture  *f = *state;
    gives(f, "{% for x in l %}{{ loop.index }}{{ loop.revindex0 }}"
             "{{ loop.first }}{{ loop.last }}{{ loop.previtem }}"
             "{{ loop.nextitem }};{% endfor %}", "{\"l\":[7,8]}",
          "11TrueFalse8;20FalseTrue7;");
    gives(f, "{% for x in l if x > 1 %}{{ loop.length }}{{ x }}{% endfor %}",
          "{\"l\":[1,2,3]}", "2223");
    gives(f, "{% for x in range(9) %}{% if x == 1 %}{% continue %}{% endif %}"
             "{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}", "{}",
          "02");
    gives(f, "{% for x in [] %}a{% else %}b{% endfor %}", "{}", "b");
    gives(f, "{% set g = l|map('upper') %}{{ g|list }}{{ g|list }}",
          "{\"l\":[\"a\"]}", "['A'][]");
}

static void
in_place_appends_do_not_leak_into_older_values(void **state)
{
    struct fixture  *f = *state;
    gives(f, "{% set a = x + 'b' %}{% set c = a + 'c' %}{% set d = a + 'd' %}"
             "{{ a }} {{ c }} {{ d }} {{ a + 'e' }} {{ c }}", "{\"x\":\"a\"}",
          "ab abc abd abe abc");
    gives(f, "{% set a = x + [2] %}{% set b = a + [3] %}{% set c = a + [4] %}"
             "{{ a }}{{ b }}{{ c }}", "{\"x\":[1]}",
          "[1, 2][1, 2, 3][1, 2, 4]");
}

static void
unknown_filters_fail_where_jinja2_fails(void **state)
{
    struct fixture  *f = *state;
    fails(f, "{% for x in [] %}{{ x|nope }}{% endfor %}", "{}",
          "No filter named 'nope'");
    gives(f, "{% if false %}{{ x|nope }}{% endif %}ok", "{}", "ok");
    gives(f, "{{ 'a' if true else x|nope }}", "{}", "a");
    fails(f, "{% if true %}{{ x|nope }}{% endif %}", "{}",
          "No filter named 'nope' found.");
    fails(f, "{{ x is nope }}", "{}", "No test named 'nope'");
}

static void
syntax_errors_name_the_line(void **state)
{
    struct fixture  *f = *state;
    static const char *const  bad[] = {
        "{{ }}", "{{ 1 + }}", "{% if %}{% endif %}", "{% if x %}", "{{ 'a }}",
        "{% endif %}", "{% for x in %}{% endfor %}", "{{ (1 }}", "{{ ) }}",
        "{# open", "{% raw %}", "{% nope %}", "{{ a b }}", "{% break %}",
        "{% set 1 = 2 %}", "{{ f(a=1, 2) }}", "{{ x is string is none }}",
        "{% macro m(a=1, b) %}{% endmacro %}", "{%", "{{", "{{ $ }}", "{{ a. }}",
        "{% include 'x' %}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char  source[128];
        (void) snprintf(source, sizeof source, "a\nb\n%s", bad[i]);
        fails(f, source, "{}", "chat template line 3: ");
    }
}

static void
strftime_now_prints_the_time_given(void **state)
{
    struct fixture  *f = *state;
    gives(f, "{{ strftime_now('%d %b %Y %A %-m %% %Z%f') }}", "{}",
          "14 Mar 2025 Friday 3 % 000000");
}

/* ---- taint ------------------------------------------------------------------ */

/* Renders and shows untrusted bytes in [brackets]. */
static void
taints(struct fixture *f, const char *source, const char *context,
       const char *want)
{
    char    shown[512];
    size_t  n = 0, done = 0;

    assert_int_equal(render(f, source, context), OK);
    for (size_t i = 0; i < f->text.num_spans; i++) {
        const struct text_span  *s = &f->text.spans[i];
        assert_true(s->begin < s->end && s->end <= f->text.data.len);
        assert_true(i == 0 || s->begin > s[-1].end);
        n += (size_t) snprintf(shown + n, sizeof shown - n, "%.*s[%.*s]",
                               (int) (s->begin - done),
                               f->text.data.data + done,
                               (int) (s->end - s->begin),
                               f->text.data.data + s->begin);
        done = s->end;
    }
    (void) snprintf(shown + n, sizeof shown - n, "%.*s",
                    (int) (f->text.data.len - done), f->text.data.data + done);
    if (strcmp(shown, want) != 0) {
        fail_msg("%s: \"%s\", not \"%s\"", source, shown, want);
    }
}

static void
client_text_is_marked_in_the_output(void **state)
{
    struct fixture  *f = *state;
    taints(f, "<u>{{ c }}</u>{{ trusted }}", "{\"c\":\"hi\"}",
           "<u>[hi]</u><T>");
    taints(f, "{{ '' }}{{ 1 }}{{ n }}{{ e }}", "{\"n\":5,\"e\":\"\"}", "15");
}

static void
taint_passes_through_operators_filters_and_methods(void **state)
{
    struct fixture  *f = *state;
    const char      *ctx = "{\"c\":\" ab,cd \",\"l\":[\"x\",\"y\"],"
                           "\"d\":{\"k\":\"v\\n\"}}";
    taints(f, "{{ '<' + c + '>' }}", ctx, "<[ ab,cd ]>");
    taints(f, "{{ '<' ~ c ~ '>' }}", ctx, "<[ ab,cd ]>");
    taints(f, "{{ ('<' + c|trim + '>')|upper }}", ctx, "<[AB,CD]>");
    taints(f, "{{ ('<' + c + '>')[1:-1].strip() }}", ctx, "[ab,cd]");
    taints(f, "{{ ('<' + c + '>')[::-1] }}", ctx, ">[ dc,ba ]<");
    taints(f, "{{ c.split(',')|join('-') }}", ctx, "[ ab]-[cd ]");
    taints(f, "{{ c.strip().replace(',', ';') }}", ctx, "[ab];[cd]");
    taints(f, "{{ 'x-x'.replace('-', l[0]) }}", ctx, "x[x]x");
    taints(f, "{{ l|join('+') }}{{ l }}", ctx, "[x]+[y]['[x]', '[y]']");
    taints(f, "{{ d|tojson }}", ctx, "{\"[k]\": \"[v\\n]\"}");
    taints(f, "{{ '%s=%s' % ('a', c.strip()) }}", ctx, "a=[ab,cd]");
    taints(f, "{{ '{}:{}'.format('a', l[0]) }}", ctx, "a:[x]");
    taints(f, "{% set v %}<{{ c|trim }}>{% endset %}{{ v }}", ctx,
           "<[ab,cd]>");
    taints(f, "{% macro m(x) %}({{ x }}){% endmacro %}{{ m(l[0]) }}", ctx,
           "([x])");
    taints(f, "{% filter indent(1) %}a\n{{ c|trim }}{% endfilter %}", ctx,
           "a\n [ab,cd]");
    taints(f, "{% set ns = namespace(s='') %}{% for x in l %}"
              "{% set ns.s = ns.s + '<' + x %}{% endfor %}{{ ns.s }}", ctx,
           "<[x]<[y]");
    taints(f, "{{ l[0] * 2 }}{{ c|length }}{{ l|first|e }}", ctx, "[xx]7[x]");
    taints(f, "{% for k, v in d.items() %}{{ k }}={{ v|trim }}{% endfor %}",
           ctx, "[k]=[v]");
}

static void
known_roles_are_the_templates_own(void **state)
{
    struct fixture  *f = *state;
    const char      *ctx = "{\"m\":[{\"role\":\"user\"},{\"role\":\"<x>\"}],"
                           "\"role\":\"user\"}";
    taints(f, "{% for x in m %}<|{{ x.role }}|>{% endfor %}", ctx,
           "<|user|><|[<x>]|>");
}

/* ---- limits ------------------------------------------------------------------ */

static void
endless_work_is_stopped(void **state)
{
    struct fixture  *f = *state;
    f->limits.steps_max = 100000;
    fails(f, "{% for i in range(1000) %}{% for j in range(1000) %}"
             "{% endfor %}{% endfor %}", "{}", "steps");
    fails(f, "{% for i in range(100000) %}{{ s in s }}{% endfor %}",
          "{\"s\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}",
          "steps");
    f->limits.steps_max = 0;
    fails(f, "{{ range(100001) }}", "{}", "Range too big");
}

static int64_t  test_now;

static int64_t
test_clock(void)
{
    return test_now += 300 * NS_PER_MS;
}

static void
the_clock_is_looked_at(void **state)
{
    struct fixture  *f = *state;
    f->limits.now_ns = test_clock;
    fails(f, "{% for i in range(100000) %}{{ i }}{% endfor %}", "{}",
          "rendering takes too long");
}

static void
depth_is_bounded(void **state)
{
    struct fixture  *f = *state;
    fails(f, "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "{}",
          "calls nested more than 64 deep");
    fails(f, "{% set ns = namespace(l=[]) %}{% for i in range(2000) %}"
             "{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}", "{}",
          "nested more than 128 deep");
    fails(f, "{% set ns = namespace(a=[], b=[]) %}{% for i in range(5000) %}"
             "{% set ns.a = [ns.a] %}{% set ns.b = [ns.b] %}{% endfor %}"
             "{{ ns.a == ns.b }}", "{}", "deep");
    fails(f, "{% set ns = namespace(g=['a']) %}{% for i in range(5000) %}"
             "{% set ns.g = ns.g|map('upper') %}{% endfor %}{{ ns.g|list }}",
          "{}", "deep");
    char  source[3000];
    memset(source, '(', 2000);
    memcpy(source, "{{ ", 3);
    source[1000] = '\0';
    fails(f, source, "{}", "deep");
    memset(source + 3, '-', 2000);
    strcpy(source + 2003, "1 }}");
    fails(f, source, "{}", "nested more than 200 deep");
}

static void
doubling_values_run_into_a_limit(void **state)
{
    struct fixture  *f = *state;
    f->limits.output_bytes_max = 1 << 20;
    fails(f, "{% set ns = namespace(s='ab') %}{% for i in range(60) %}"
             "{% set ns.s = ns.s + ns.s %}{% endfor %}", "{}", "text of more");
    fails(f, "{{ 'x' * 100000000 }}", "{}", "text of more");
    fails(f, "{{ ('x' * 1000)|replace('', 'y' * 10000) }}", "{}",
          "text of more");
    fails(f, "{{ '%999999999d' % 1 ~ '%9999999d' % 1 ~ 'x'|center(99999999) }}",
          "{}", "text of more");
    /* A list that holds itself twice, sixty times over. */
    fails(f, "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}"
             "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}", "{}",
          "more than");
    fails(f, "{% set ns = namespace(l=[1], m=[1]) %}{% for i in range(60) %}"
             "{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}"
             "{% endfor %}{{ ns.l == ns.m }}", "{}", "more than");
}

static void
memory_is_bounded_by_the_arena(void **state)
{
    struct fixture  *f = *state;
    arena_destroy(&f->arena);
    arena_init(&f->arena, 1 << 20);
    fails(f, "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}"
             "{% set ns.l = [ns.l, i] %}{% endfor %}", "{}",
          "bytes of memory");
}

static void
appending_in_a_loop_is_linear(void **state)
{
    struct fixture  *f = *state;
    int64_t          t = clock_now_ns();
    assert_int_equal(render(f, "{% set ns = namespace(s='', l=[]) %}"
                            "{% for i in range(50000) %}"
                            "{% set ns.s = ns.s + 'xxxxxxxxxxxxxxxxxxxx' %}"
                            "{% set ns.l = ns.l + [i] %}{% endfor %}"
                            "{{ ns.s|length }}{{ ns.l|length }}", "{}"), OK);
    assert_true(str_eq(f->text.data, STR("100000050000")));
    /* Copying every time would move 25 GB. */
    assert_true(clock_now_ns() - t < 2 * NS_PER_S);
}

static void
source_and_nodes_are_bounded(void **state)
{
    struct fixture  *f = *state;
    size_t           len = JINJA_SOURCE_BYTES_MAX + 1;
    char            *source = malloc(len + 1);
    struct jinja    *t;

    memset(source, 'x', len);
    assert_int_equal(jinja_compile(&t, (struct str) { source, len }, &f->err),
                     ERROR);
    assert_non_null(strstr(f->err.message, "the limit is 262144"));
    len--;
    for (size_t i = 0; i + 5 <= len; i += 5) {
        memcpy(source + i, "{{1}}", 5);
    }
    assert_int_equal(jinja_compile(&t, (struct str) { source, len / 5 * 5 },
                                   &f->err), ERROR);
    assert_non_null(strstr(f->err.message, "nodes"));
    free(source);
    assert_int_equal(jinja_compile(&t, STR("\xFF"), &f->err), ERROR);
    assert_non_null(strstr(f->err.message, "UTF-8"));
    jinja_destroy(NULL);
}

/* ---- probing ------------------------------------------------------------------ */

static void
content_use_is_seen_through_names_and_macros(void **state)
{
    struct fixture  *f = *state;
    static const struct {
        const char  *source;
        bool         iterated, string_tested;
    } cases[] = {
        { "{% for m in messages %}{{ m.content }}{% endfor %}", false, false },
        { "{% for m in messages %}{% for c in m['content'] %}{{ c.text }}"
          "{% endfor %}{% endfor %}", true, false },
        { "{% set ms = messages[1:] %}{% for m in ms %}{% set c = m.content %}"
          "{% if c is string %}{{ c }}{% else %}{% for p in c %}{{ p.text }}"
          "{% endfor %}{% endif %}{% endfor %}", true, true },
        { "{% macro r(c) %}{% for p in c %}{{ p }}{% endfor %}{% endmacro %}"
          "{% for m in messages %}{{ r(m.content) }}{% endfor %}", true,
          false },
        { "{% for m in messages %}{{ m.content|selectattr('type', 'eq', "
          "'text')|map(attribute='text')|join }}{% endfor %}", true, false },
        { "{{ messages[0]['content'][0]['text'] }}", true, false },
        { "{% for m in messages %}{% for t in m.tool_calls %}{% endfor %}"
          "{{ m.content.split('x')[0] }}{% endfor %}", false, false },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct jinja  *t;
        assert_int_equal(jinja_compile(&t, str_from(cases[i].source), &f->err),
                         OK);
        struct jinja_content_use  use = jinja_probe_content(t);
        if (use.iterated != cases[i].iterated
            || use.string_tested != cases[i].string_tested)
        {
            fail_msg("%s: %d %d", cases[i].source, use.iterated,
                     use.string_tested);
        }
        assert_true(jinja_uses(t, "messages"));
        assert_false(jinja_uses(t, "tools"));
        jinja_destroy(t);
    }
}

#define T(name)  cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        T(white_space_follows_trim_and_lstrip_blocks),
        T(values_print_as_python_prints_them),
        T(tojson_is_json_dumps),
        T(undefined_prints_nothing_and_refuses_use),
        T(type_errors_read_as_pythons),
        T(raise_exception_gives_its_text_alone),
        T(markup_escapes_what_is_added_to_it),
        T(scopes_are_jinja2s),
        T(macros_bind_arguments_as_python_functions),
        T(a_final_sigma_looks_past_modifier_letters),
        T(loops_know_where_they_are),
        T(in_place_appends_do_not_leak_into_older_values),
        T(unknown_filters_fail_where_jinja2_fails),
        T(syntax_errors_name_the_line),
        T(strftime_now_prints_the_time_given),
        T(client_text_is_marked_in_the_output),
        T(taint_passes_through_operators_filters_and_methods),
        T(known_roles_are_the_templates_own),
        T(endless_work_is_stopped),
        T(the_clock_is_looked_at),
        T(depth_is_bounded),
        T(doubling_values_run_into_a_limit),
        T(memory_is_bounded_by_the_arena),
        T(appending_in_a_loop_is_linear),
        T(source_and_nodes_are_bounded),
        T(content_use_is_seen_through_names_and_macros),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
