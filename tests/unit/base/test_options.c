/* test_options.c - options.c: one table, defaults, and errors that help. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "engine/base/options.h"

struct sample {
    bool                chunked;
    int64_t             num;
    double              ratio;
    const char         *path;
    const char         *device;
    struct option_list  names;
    const char         *ahead;
    double              rate;
    struct option_words goals;
};

#define F(x)  offsetof(struct sample, x)

static const struct option  table[] = {
    { "enable-chunked", OPTION_BOOL, F(chunked), "true", NULL, "h", 0, 0, NULL },
    { "max-num", OPTION_INT, F(num), "256", "N", "h", 1, 1 << 20, NULL },
    { "ratio", OPTION_NUMBER, F(ratio), "0.5", NULL, "h", 0, 1, NULL },
    { "path", OPTION_STRING, F(path), NULL, "DIR", "h", 0, 0, NULL },
    { "device", OPTION_CHOICE, F(device), "auto", NULL, "h", 0, 0, "auto|cpu" },
    { "names", OPTION_LIST, F(names), NULL, NULL, "h", 0, 0, NULL },
    { "ahead", OPTION_CHOICE, F(ahead), "auto", NULL, "h", 0, 0,
      OPTION_AUTO_BOOL },
    { "rate", OPTION_NUMBER, F(rate), "inf", NULL, "h", 0, INFINITY, NULL },
    { "goals", OPTION_WORDS, F(goals), NULL, "K:V", "h", 0, 0, NULL },
    { NULL, OPTION_BOOL, 0, NULL, NULL, NULL, 0, 0, NULL }
};

static int
parse(struct sample *s, struct err *err, int argc, const char **args)
{
    char  *argv[16] = { "prog" };
    for (int i = 0; i < argc; i++) {
        argv[i + 1] = (char *) args[i];
    }
    memset(s, 0, sizeof *s);
    return options_parse(table, s, argc + 1, argv, err);
}

#define PARSE(...)                                                            \
    parse(&s, &err, (int) (sizeof((const char *[]) { __VA_ARGS__ })           \
                           / sizeof(char *)), (const char *[]) { __VA_ARGS__ })

static void
test_a_switch_can_be_left_to_the_program(void **state)
{
    struct sample  s;
    struct err     err;
    (void) state;
    assert_int_equal(parse(&s, &err, 0, NULL), OK);
    assert_string_equal(s.ahead, "auto");
    assert_int_equal(PARSE("--ahead", "--max-num", "3"), OK);
    assert_string_equal(s.ahead, "true");
    assert_int_equal(PARSE("--no-ahead"), OK);
    assert_string_equal(s.ahead, "false");
    assert_int_equal(PARSE("--no-ahead", "--ahead=auto"), OK);
    assert_string_equal(s.ahead, "auto");
    assert_int_equal(PARSE("--ahead=maybe"), ERROR);
}

static void
test_words_take_arguments_up_to_the_next_option(void **state)
{
    struct sample  s;
    struct err     err;
    (void) state;
    assert_int_equal(PARSE("--goals", "a:1", "b, c", "--max-num", "3",
                           "--goals=d"), OK);
    assert_int_equal(s.goals.num, 3);
    assert_string_equal(s.goals.items[1], "b, c");
    assert_string_equal(s.goals.items[2], "d");
    assert_int_equal(s.num, 3);
    assert_int_equal(PARSE("--goals"), ERROR);
}

static void
test_a_number_is_infinite_only_where_the_table_says_so(void **state)
{
    struct sample  s;
    struct err     err;
    (void) state;
    assert_int_equal(PARSE("--max-num", "3"), OK);
    assert_true(isinf(s.rate));
    assert_int_equal(PARSE("--rate", "2.5"), OK);
    assert_true(s.rate == 2.5);
    assert_int_equal(PARSE("--rate", "inf"), OK);
    assert_true(isinf(s.rate));
    assert_int_equal(PARSE("--rate", "-inf"), ERROR);
    assert_int_equal(PARSE("--rate", "nan"), ERROR);
    assert_int_equal(PARSE("--ratio", "inf"), ERROR);
}

static void
test_defaults_apply_without_arguments(void **state)
{
    struct sample  s;
    struct err     err;
    (void) state;
    assert_int_equal(parse(&s, &err, 0, NULL), OK);
    assert_true(s.chunked);
    assert_int_equal(s.num, 256);
    assert_string_equal(s.device, "auto");
    assert_null(s.path);
}

static void
test_all_spellings_are_the_same_option(void **state)
{
    struct sample  s;
    struct err     err;
    (void) state;
    assert_int_equal(PARSE("--max-num", "8"), OK);
    assert_int_equal(s.num, 8);
    assert_int_equal(PARSE("--max_num=9"), OK);
    assert_int_equal(s.num, 9);
    assert_int_equal(PARSE("--max-num=2k"), OK);
    assert_int_equal(s.num, 2000);
    assert_int_equal(PARSE("--max-num=2K"), OK);
    assert_int_equal(s.num, 2048);
    assert_int_equal(PARSE("--no-enable-chunked"), OK);
    assert_false(s.chunked);
    assert_int_equal(PARSE("--enable_chunked=false"), OK);
    assert_false(s.chunked);
}

static void
test_lists_repeat_and_split_at_commas(void **state)
{
    struct sample  s;
    struct err     err;
    (void) state;
    assert_int_equal(PARSE("--names", "a,b", "--names=c"), OK);
    assert_int_equal(s.names.num, 3);
    assert_string_equal(s.names.items[0], "a");
    assert_string_equal(s.names.items[1], "b");
    assert_string_equal(s.names.items[2], "c");
}

static void
test_errors_name_option_value_and_limit(void **state)
{
    struct sample  s;
    struct err     err;
    (void) state;
    assert_int_equal(PARSE("--max-num", "0"), ERROR);
    assert_non_null(strstr(err.message, "--max-num: 0"));
    assert_int_equal(PARSE("--max-num", "8x"), ERROR);
    assert_int_equal(PARSE("--max-num"), ERROR);
    assert_non_null(strstr(err.message, "needs a value"));
    assert_int_equal(PARSE("--device", "tpu"), ERROR);
    assert_non_null(strstr(err.message, "auto|cpu"));
    assert_int_equal(PARSE("--max-nmu", "8"), ERROR);
    assert_non_null(strstr(err.message, "did you mean --max-num"));
    assert_int_equal(PARSE("stray"), ERROR);
    assert_int_equal(PARSE("--ratio", "1.5"), ERROR);
    assert_int_equal(PARSE("--enable-chunked=maybe"), ERROR);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_words_take_arguments_up_to_the_next_option),
        cmocka_unit_test(test_a_number_is_infinite_only_where_the_table_says_so),
        cmocka_unit_test(test_defaults_apply_without_arguments),
        cmocka_unit_test(test_a_switch_can_be_left_to_the_program),
        cmocka_unit_test(test_all_spellings_are_the_same_option),
        cmocka_unit_test(test_lists_repeat_and_split_at_commas),
        cmocka_unit_test(test_errors_name_option_value_and_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
