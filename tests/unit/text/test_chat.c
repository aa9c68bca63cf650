/* test_chat.c - where templates come from, and what happens to messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "engine/text/chat.h"

#define PLAIN  "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n" \
               "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"

struct fixture {
    char                   dir[64];
    struct chat_template  *t;
    struct arena           arena;
    struct buf             out;
    struct text_span_list  spans;
    struct err             err;
    struct chat_args       args;
};

static int
setup(void **state)
{
    struct fixture  *f = calloc(1, sizeof *f);
    (void) snprintf(f->dir, sizeof f->dir, "/tmp/test_chat.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    arena_init(&f->arena, 64u << 20);
    buf_init(&f->out, 16u << 20);
    f->args.add_generation_prompt = true;
    f->args.arena = &f->arena;
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture  *f = *state;
    char             command[128];
    (void) snprintf(command, sizeof command, "rm -rf '%s'", f->dir);
    assert_int_equal(system(command), 0);
    chat_destroy(f->t);
    arena_destroy(&f->arena);
    buf_destroy(&f->out);
    free(f);
    return 0;
}

static void
put(struct fixture *f, const char *name, const char *text)
{
    char   path[160];
    (void) snprintf(path, sizeof path, "%s/%s", f->dir, name);
    FILE  *file = fopen(path, "wb");
    assert_non_null(file);
    (void) fputs(text, file);
    (void) fclose(file);
}

static void
open_dir(struct fixture *f)
{
    if (chat_open_dir(&f->t, f->dir, &f->err) != OK) {
        fail_msg("%s", f->err.message);
    }
}

static void
open_template(struct fixture *f, const char *source)
{
    put(f, "chat_template.jinja", source);
    open_dir(f);
}

static const struct json *
parse(struct fixture *f, const char *text)
{
    struct json  *v;
    if (json_parse(&v, str_from(text), &f->arena, &json_limits_request,
                   &f->err) != OK)
    {
        fail_msg("%s: %s", text, f->err.message);
    }
    return v;
}

static int
render(struct fixture *f, const char *messages)
{
    buf_reset(&f->out);
    memset(&f->err, 0, sizeof f->err);
    f->args.messages = parse(f, messages);
    return chat_render(f->t, &f->args, &f->out, &f->spans, &f->err);
}

static void
gives(struct fixture *f, const char *messages, const char *want)
{
    if (render(f, messages) != OK) {
        fail_msg("%s: %s", messages, f->err.message);
    }
    if (!str_eq(buf_str(&f->out), str_from(want))) {
        fail_msg("%s: \"%.*s\", not \"%s\"", messages,
                 STR_ARG(buf_str(&f->out)), want);
    }
}

static void
refuses(struct fixture *f, const char *messages, const char *param,
        const char *why)
{
    if (render(f, messages) == OK) {
        fail_msg("%s: rendered \"%.*s\"", messages, STR_ARG(buf_str(&f->out)));
    }
    assert_int_equal(f->err.http_status, 400);
    assert_string_equal(f->err.param, param);
    if (strstr(f->err.message, why) == NULL) {
        fail_msg("%s: \"%s\" does not say \"%s\"", messages, f->err.message,
                 why);
    }
}

/* ---- where templates come from ------------------------------------------------ */

static void
a_directory_without_a_template_says_so(void **state)
{
    struct fixture  *f = *state;
    assert_int_equal(chat_open_dir(&f->t, f->dir, &f->err), AGAIN);
    assert_null(f->t);
    put(f, "tokenizer_config.json", "{\"bos_token\":\"<s>\"}");
    assert_int_equal(chat_open_dir(&f->t, f->dir, &f->err), AGAIN);
    put(f, "tokenizer_config.json", "{\"chat_template\":null}");
    assert_int_equal(chat_open_dir(&f->t, f->dir, &f->err), AGAIN);
}

static void
the_configuration_may_hold_the_template(void **state)
{
    struct fixture  *f = *state;
    put(f, "tokenizer_config.json",
        "{\"chat_template\":\"{{ bos_token }}{{ messages[0].content }}"
        "{{ eos_token }}{{ pad_token is defined }}\","
        "\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"},"
        "\"pad_token\":null}");
    open_dir(f);
    gives(f, "[{\"role\":\"user\",\"content\":\"x\"}]", "<s>x</s>False");
}

static void
the_jinja_file_overrides_the_configuration(void **state)
{
    struct fixture  *f = *state;
    put(f, "tokenizer_config.json", "{\"chat_template\":\"old\"}");
    put(f, "chat_template.json", "{\"chat_template\":\"middle\"}");
    open_dir(f);
    gives(f, "[{\"role\":\"user\",\"content\":\"x\"}]", "middle");
    chat_destroy(f->t);
    open_template(f, "new");
    gives(f, "[{\"role\":\"user\",\"content\":\"x\"}]", "new");
}

static void
tools_choose_the_tool_use_template(void **state)
{
    struct fixture  *f = *state;
    const char      *m = "[{\"role\":\"user\",\"content\":\"x\"}]";
    put(f, "tokenizer_config.json",
        "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"T\"},"
        "{\"name\":\"default\",\"template\":\"D\"}]}");
    open_dir(f);
    gives(f, m, "D");
    f->args.tools = parse(f, "[{\"type\":\"function\"}]");
    gives(f, m, "T");
    f->args.tools = parse(f, "null");
    gives(f, m, "D");
    f->args.tools = parse(f, "{}");
    refuses(f, m, "tools", "must be a list");
    f->args.tools = NULL;

    char  folder[128];
    (void) snprintf(folder, sizeof folder, "%s/additional_chat_templates",
                    f->dir);
    assert_int_equal(mkdir(folder, 0700), 0);
    put(f, "additional_chat_templates/tool_use.jinja", "T2");
    chat_destroy(f->t);
    open_template(f, "D2");
    gives(f, m, "D2");
    f->args.tools = parse(f, "[]");
    gives(f, m, "T2");
}

static void
a_file_takes_special_tokens_from_the_caller(void **state)
{
    struct fixture             *f = *state;
    char                        path[128];
    const struct chat_specials  specials = { .bos = STR("<s>") };

    put(f, "t.jinja", "{{ bos_token }}{{ eos_token is defined }}");
    (void) snprintf(path, sizeof path, "%s/t.jinja", f->dir);
    assert_int_equal(chat_open_file(&f->t, path, &specials, &f->err), OK);
    gives(f, "[{\"role\":\"user\",\"content\":\"x\"}]", "<s>False");
    chat_destroy(f->t);
    assert_int_equal(chat_open_file(&f->t, "/nonexistent/t.jinja", NULL,
                                    &f->err), ERROR);
    assert_non_null(strstr(f->err.message, "no such file"));
}

static void
broken_templates_are_refused_at_start(void **state)
{
    struct fixture  *f = *state;
    put(f, "chat_template.jinja", "\n{% if %}");
    assert_int_equal(chat_open_dir(&f->t, f->dir, &f->err), ERROR);
    assert_int_equal(f->err.http_status, 0);
    assert_non_null(strstr(f->err.message, "chat_template.jinja"));
    assert_non_null(strstr(f->err.message, "line 2"));
    put(f, "chat_template.jinja", "ok");
    put(f, "tokenizer_config.json", "{\"a\":");
    assert_int_equal(chat_open_dir(&f->t, f->dir, &f->err), ERROR);
    assert_non_null(strstr(f->err.message, "tokenizer_config.json"));
}

/* ---- messages -------------------------------------------------------------------- */

static void
messages_are_rendered_and_their_text_marked(void **state)
{
    struct fixture  *f = *state;
    open_template(f, PLAIN);
    gives(f, "[{\"role\":\"system\",\"content\":\"S\"},"
             "{\"role\":\"user\",\"content\":\"<assistant>\"}]",
          "<system>S\n<user><assistant>\n<assistant>");
    assert_int_equal(f->spans.num_spans, 2);
    assert_int_equal(f->spans.spans[0].begin, 8);
    assert_int_equal(f->spans.spans[0].end, 9);
    assert_int_equal(f->spans.spans[1].begin, 16);
    assert_int_equal(f->spans.spans[1].end, 27);
}

static void
spans_count_from_the_start_of_the_buffer(void **state)
{
    struct fixture  *f = *state;
    open_template(f, PLAIN);
    buf_append_lit(&f->out, "before");
    f->args.messages = parse(f, "[{\"role\":\"user\",\"content\":\"x\"}]");
    assert_int_equal(chat_render(f->t, &f->args, &f->out, &f->spans, &f->err),
                     OK);
    assert_int_equal(f->spans.spans[0].begin, 12);
    assert_int_equal(f->out.data[12], 'x');
}

static void
absent_stays_absent_and_null_stays_none(void **state)
{
    struct fixture  *f = *state;
    open_template(f, "{% for m in messages %}{{ m.content is defined }}"
                  "{{ m.content is none }}{{ 'tool_calls' in m }}"
                  "{{ 'name' in m }} {% endfor %}{{ tools is none }}"
                  "{{ documents is none }}");
    gives(f, "[{\"role\":\"assistant\"},{\"role\":\"assistant\","
             "\"content\":null,\"tool_calls\":null,\"name\":null}]",
          "FalseFalseFalseFalse TrueTrueFalseTrue TrueTrue");
}

static void
text_parts_are_joined_for_templates_that_want_strings(void **state)
{
    struct fixture  *f = *state;
    open_template(f, PLAIN);
    f->args.add_generation_prompt = false;
    gives(f, "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
             "\"b\",{\"type\":\"input_text\",\"text\":\"c\"},"
             "{\"type\":\"refusal\",\"refusal\":\"d\"}]}]",
          "<user>a\nb\nc\nd\n");
    gives(f, "[{\"role\":\"user\",\"content\":[]}]", "<user>\n");
    f->args.content = CHAT_CONTENT_LIST;
    gives(f, "[{\"role\":\"user\",\"content\":[\"a\"]}]",
          "<user>[{'type': 'text', 'text': 'a'}]\n");
}

static void
text_parts_stay_a_list_for_templates_that_walk_over_them(void **state)
{
    struct fixture  *f = *state;
    open_template(f, "{% for m in messages %}{% for c in m.content %}"
                  "[{{ c.type }}:{{ c.text }}]{% endfor %}{% endfor %}");
    gives(f, "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
             "{\"type\":\"text\",\"text\":\"b\"}]}]", "[text:a][text:b]");
    /* This one cannot handle a string at all. */
    gives(f, "[{\"role\":\"user\",\"content\":\"ab\"}]", "[text:ab]");
    f->args.content = CHAT_CONTENT_STRING;
    gives(f, "[{\"role\":\"user\",\"content\":[\"a\"]}]", "[:]");
    chat_destroy(f->t);
    f->args.content = CHAT_CONTENT_AUTO;
    open_template(f, "{% for m in messages %}{% if m.content is string %}"
                  "s{{ m.content }}{% else %}{% for c in m.content %}"
                  "l{{ c.text }}{% endfor %}{% endif %}{% endfor %}");
    gives(f, "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\","
             "\"content\":[\"b\"]}]", "salb");
}

static void
other_parts_are_refused_by_name(void **state)
{
    struct fixture  *f = *state;
    open_template(f, PLAIN);
    static const char *const  types[] = { "image_url", "image", "input_audio",
                                          "file", "video_url", "x" };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        char  m[256];
        (void) snprintf(m, sizeof m, "[{\"role\":\"user\",\"content\":\"x\"},"
                        "{\"role\":\"user\",\"content\":[\"a\",{\"type\":"
                        "\"%s\",\"%s\":{\"url\":\"http://x\"}}]}]", types[i],
                        types[i]);
        refuses(f, m, "messages[1].content[1]", types[i]);
    }
    refuses(f, "[{\"role\":\"user\",\"content\":[{}]}]",
            "messages[0].content[0]", "type");
    refuses(f, "[{\"role\":\"user\",\"content\":[1]}]",
            "messages[0].content[0]", "integer");
    refuses(f, "[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]",
            "messages[0].content[0]", "\"text\" must be a string");
    refuses(f, "[{\"role\":\"user\",\"content\":{}}]", "messages[0].content",
            "object");
    refuses(f, "[{\"role\":\"user\",\"content\":5}]", "messages[0].content",
            "integer");
}

static void
malformed_messages_are_refused(void **state)
{
    struct fixture  *f = *state;
    open_template(f, PLAIN);
    refuses(f, "[]", "messages", "at least one");
    refuses(f, "{}", "messages", "at least one");
    refuses(f, "[1]", "messages[0]", "must be an object");
    refuses(f, "[{\"content\":\"x\"}]", "messages[0].role", "string");
    refuses(f, "[{\"role\":5}]", "messages[0].role", "string");
    refuses(f, "[{\"role\":\"<|x|>\"}]", "messages[0].role",
            "is not one of system");
    buf_reset(&f->out);
    struct buf  b;
    buf_init(&b, 1 << 20);
    buf_append_c(&b, '[');
    for (int i = 0; i <= CHAT_MESSAGES_MAX; i++) {
        buf_appendf(&b, "%s{\"role\":\"user\",\"content\":\"x\"}",
                    i == 0 ? "" : ",");
    }
    buf_append(&b, "]", 2);
    refuses(f, b.data, "messages", "the limit is 2048");
    buf_destroy(&b);
}

static void
tool_call_arguments_become_objects(void **state)
{
    struct fixture  *f = *state;
    open_template(f, "{% for m in messages %}{% for c in m.tool_calls %}"
                  "{{ c.id }}:{{ c.function.name }}({{ c.function.arguments"
                  "|tojson }}){% endfor %}{% endfor %}");
    gives(f, "[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"i\",\"function\":"
             "{\"name\":\"f\",\"arguments\":\"{\\\"a\\\": 1.0}\"}},{\"id\":\"j\","
             "\"function\":{\"name\":\"g\",\"arguments\":{\"b\":2}}},{\"id\":\"k\","
             "\"function\":{\"name\":\"h\",\"arguments\":\"\"}}]}]",
          "i:f({\"a\": 1.0})j:g({\"b\": 2})k:h({})");
    const char  *at = "messages[0].tool_calls[0].function.arguments";
    refuses(f, "[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":"
               "\"f\",\"arguments\":\"{bad\"}}]}]", at, "invalid JSON");
    refuses(f, "[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":"
               "\"f\",\"arguments\":\"5\"}}]}]", at, "must hold a JSON object");
    refuses(f, "[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":"
               "\"f\",\"arguments\":5}}]}]", at, "integer");
    refuses(f, "[{\"role\":\"assistant\",\"tool_calls\":[{}]}]",
            "messages[0].tool_calls[0]", "function");
    refuses(f, "[{\"role\":\"assistant\",\"tool_calls\":{}}]",
            "messages[0].tool_calls", "list");
}

static void
developer_is_system_where_the_template_knows_no_better(void **state)
{
    struct fixture  *f = *state;
    const char      *m = "[{\"role\":\"developer\",\"content\":\"x\"}]";
    f->args.add_generation_prompt = false;
    open_template(f, PLAIN);
    gives(f, m, "<system>x\n");
    chat_destroy(f->t);
    open_template(f, PLAIN "{# developer #}");
    gives(f, m, "<developer>x\n");
}

static void
reasoning_is_found_under_each_of_its_names(void **state)
{
    struct fixture  *f = *state;
    open_template(f, "{% for m in messages %}{{ m.reasoning_content }}"
                  "{{ m.reasoning }}{{ m.thinking }};{% endfor %}");
    gives(f, "[{\"role\":\"assistant\",\"reasoning\":\"r\"},"
             "{\"role\":\"assistant\",\"reasoning_content\":\"c\","
             "\"reasoning\":null},{\"role\":\"assistant\"}]", "rrr;ccc;;");
}

static void
kwargs_reach_the_template_but_not_what_is_reserved(void **state)
{
    struct fixture  *f = *state;
    const char      *m = "[{\"role\":\"user\",\"content\":\"x\"}]";
    put(f, "tokenizer_config.json", "{\"bos_token\":\"<s>\"}");
    open_template(f, "{{ enable_thinking }}{{ add_generation_prompt }}"
                  "{{ bos_token }}{{ z }}");
    f->args.kwargs = parse(f, "{\"enable_thinking\":false,"
                           "\"add_generation_prompt\":false,\"z\":\"<z>\","
                           "\"unused\":1}");
    gives(f, m, "FalseFalse<s><z>");
    assert_int_equal(f->spans.num_spans, 1);
    assert_int_equal(f->spans.spans[0].begin, 13);
    static const char *const  reserved[] = { "messages", "tools", "bos_token",
                                             "chat_template", "tokenize" };
    for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++) {
        char  kwargs[64];
        (void) snprintf(kwargs, sizeof kwargs, "{\"%s\":\"x\"}", reserved[i]);
        f->args.kwargs = parse(f, kwargs);
        refuses(f, m, "chat_template_kwargs", reserved[i]);
    }
    f->args.kwargs = parse(f, "[]");
    refuses(f, m, "chat_template_kwargs", "must be an object");
}

static void
the_final_message_can_be_continued(void **state)
{
    struct fixture  *f = *state;
    open_template(f, "{% for m in messages %}<{{ m.role }}>{{ m.content|trim }}"
                  "<end>{% endfor %}");
    f->args.continue_final_message = true;
    refuses(f, "[{\"role\":\"user\",\"content\":\"x\"}]",
            "continue_final_message", "not compatible");
    f->args.add_generation_prompt = false;
    gives(f, "[{\"role\":\"user\",\"content\":\"a b\"},"
             "{\"role\":\"assistant\",\"content\":\"a b \\n\"}]",
          "<user>a b<end><assistant>a b");
    assert_int_equal(f->spans.spans[f->spans.num_spans - 1].end, f->out.len);
    /* Text that is also in what follows it; text that is nothing. */
    gives(f, "[{\"role\":\"assistant\",\"content\":\" e\"}]", "<assistant>e");
    gives(f, "[{\"role\":\"assistant\",\"content\":\"end\"}]",
          "<assistant>end");
    gives(f, "[{\"role\":\"assistant\",\"content\":\"\"}]", "<assistant>");
    gives(f, "[{\"role\":\"assistant\",\"content\":[{\"type\":\"text\","
             "\"text\":\"a\"},{\"type\":\"text\",\"text\":\"s\"}]}]",
          "<assistant>a\ns");
    refuses(f, "[{\"role\":\"assistant\",\"content\":null}]", "messages",
            "no text to continue");
    chat_destroy(f->t);
    open_template(f, "{% for m in messages %}{{ m.content }}<end>{% endfor %}");
    gives(f, "[{\"role\":\"assistant\",\"content\":\"Sure, \\n\"}]", "Sure, \n");
    gives(f, "[{\"role\":\"assistant\",\"content\":[\"one\",\"two\"]}]",
          "one\ntwo");
    chat_destroy(f->t);
    open_template(f, "nothing");
    refuses(f, "[{\"role\":\"assistant\",\"content\":\"x y\"}]", "messages",
            "does not appear");
}

static void
a_template_error_is_a_400_with_its_text(void **state)
{
    struct fixture  *f = *state;
    open_template(f, "{{ raise_exception('Roles must alternate!') }}");
    refuses(f, "[{\"role\":\"user\",\"content\":\"x\"}]", "",
            "Roles must alternate!");
    assert_string_equal(f->err.message, "Roles must alternate!");
}

static void
an_object_is_rendered_as_hugging_face_does(void **state)
{
    struct fixture  *f = *state;
    open_template(f, PLAIN "{{ x }}{{ tools is none }}");
    buf_reset(&f->out);
    assert_int_equal(chat_render_object(f->t, parse(f,
        "{\"messages\":[{\"role\":\"odd\",\"content\":[1]}],\"x\":true}"),
        &f->arena, &f->out, &f->err), OK);
    assert_true(str_eq(buf_str(&f->out), STR("<odd>[1]\nTrueTrue")));
    assert_int_equal(chat_render_object(f->t, parse(f, "{}"), &f->arena,
                                        &f->out, &f->err), ERROR);
    assert_string_equal(f->err.param, "messages");
}

#define T(name)  cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        T(a_directory_without_a_template_says_so),
        T(the_configuration_may_hold_the_template),
        T(the_jinja_file_overrides_the_configuration),
        T(tools_choose_the_tool_use_template),
        T(a_file_takes_special_tokens_from_the_caller),
        T(broken_templates_are_refused_at_start),
        T(messages_are_rendered_and_their_text_marked),
        T(spans_count_from_the_start_of_the_buffer),
        T(absent_stays_absent_and_null_stays_none),
        T(text_parts_are_joined_for_templates_that_want_strings),
        T(text_parts_stay_a_list_for_templates_that_walk_over_them),
        T(other_parts_are_refused_by_name),
        T(malformed_messages_are_refused),
        T(tool_call_arguments_become_objects),
        T(developer_is_system_where_the_template_knows_no_better),
        T(reasoning_is_found_under_each_of_its_names),
        T(kwargs_reach_the_template_but_not_what_is_reserved),
        T(the_final_message_can_be_continued),
        T(a_template_error_is_a_400_with_its_text),
        T(an_object_is_rendered_as_hugging_face_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
