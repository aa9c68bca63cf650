/* test_bench_dataset.c - prompts have the length that was asked for, and texts
 * come back from the tokenizer with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "tools/bench_dataset.h"

struct fixture {
    struct bench_cli              cli;
    struct bench_dataset_options  o;
    struct bench_dataset          d;
    struct tokenizer             *tok;
    struct tokenizer_scratch     *scratch;
    struct id_buf                 ids;
};

static void
open_fixture(struct fixture *f, const char *dataset, bool want_text)
{
    struct err     err = { 0 };
    struct option  table[BENCH_OPTIONS_MAX];
    char          *argv[] = { "bench" };

    memset(f, 0, sizeof *f);
    assert_int_equal(bench_options_table(table, BENCH_THROUGHPUT, &err), OK);
    assert_int_equal(options_parse(table, &f->cli, 1, argv, &err), OK);
    assert_int_equal(tokenizer_open(&f->tok, "models/demo", &err), OK);
    f->scratch = tokenizer_scratch_create(f->tok);
    id_buf_init(&f->ids, 1 << 20);
    f->cli.dataset_name = dataset;
    f->cli.num_prompts = 40;
    f->o = (struct bench_dataset_options) {
        .cli = &f->cli, .tokenizer = f->tok, .want_text = want_text,
        .vocab_size = tokenizer_vocab_size(f->tok), .seed = 5 };
}

static int
make(struct fixture *f, struct err *err)
{
    bench_dataset_destroy(&f->d);
    return bench_dataset_make(&f->d, &f->o, err);
}

static void
close_fixture(struct fixture *f)
{
    bench_dataset_destroy(&f->d);
    id_buf_destroy(&f->ids);
    tokenizer_scratch_destroy(f->scratch);
    tokenizer_destroy(f->tok);
}

/* As the server counts: special tokens included. */
static int
server_tokens(struct fixture *f, struct str text)
{
    struct encode_args  args = { .text = text, .add_special_tokens = true };

    id_buf_reset(&f->ids);
    assert_int_equal(tokenizer_encode(f->tok, f->scratch, &args, &f->ids, NULL),
                     OK);
    return (int) f->ids.len;
}

static void
random_texts_come_back_with_exactly_the_wanted_length(void **state)
{
    struct fixture  f;
    struct err      err = { 0 };
    (void) state;

    open_fixture(&f, "random", true);
    f.cli.random_input_len = 333;
    f.cli.random_output_len = 7;
    assert_int_equal(make(&f, &err), OK);
    assert_int_equal(f.d.num, 40);
    assert_int_equal(f.d.num_inexact, 0);
    for (int i = 0; i < f.d.num; i++) {
        assert_int_equal(server_tokens(&f, f.d.prompts[i].text), 333);
        assert_int_equal(f.d.prompts[i].prompt_len, 333);
        assert_int_equal(f.d.prompts[i].output_len, 7);
    }
    close_fixture(&f);
}

static void
random_ids_need_no_tokenizer_and_stay_in_the_vocabulary(void **state)
{
    struct fixture  f;
    struct err      err = { 0 };
    (void) state;

    open_fixture(&f, "random", false);
    f.o.tokenizer = NULL;
    f.o.vocab_size = 50;
    f.cli.random_range_ratio = 0.5;
    f.cli.random_input_len = 100;
    f.cli.random_output_len = 10;
    assert_int_equal(make(&f, &err), OK);
    bool  differ = false;
    for (int i = 0; i < f.d.num; i++) {
        const struct bench_prompt  *p = &f.d.prompts[i];
        assert_null(p->text.data);
        assert_in_range(p->num_ids, 50, 150);
        assert_in_range(p->output_len, 5, 15);
        assert_int_equal(p->prompt_len, p->num_ids);
        for (int32_t k = 0; k < p->num_ids; k++) {
            assert_in_range(p->ids[k], 0, 49);
        }
        differ = differ || p->num_ids != f.d.prompts[0].num_ids;
    }
    assert_true(differ);
    close_fixture(&f);
}

static void
a_seed_means_the_same_prompts(void **state)
{
    struct fixture  a, b;
    struct err      err = { 0 };
    (void) state;

    open_fixture(&a, "random", true);
    open_fixture(&b, "random", true);
    assert_int_equal(make(&a, &err), OK);
    assert_int_equal(make(&b, &err), OK);
    assert_true(str_eq(a.d.prompts[7].text, b.d.prompts[7].text));
    assert_false(str_eq(a.d.prompts[7].text, b.d.prompts[8].text));
    b.o.seed = 6;
    assert_int_equal(make(&b, &err), OK);
    assert_false(str_eq(a.d.prompts[7].text, b.d.prompts[7].text));
    close_fixture(&a);
    close_fixture(&b);
}

static void
prefixes_are_shared_by_equally_many_prompts(void **state)
{
    struct fixture  f;
    struct err      err = { 0 };
    int             same = 0;
    (void) state;

    open_fixture(&f, "prefix_repetition", true);
    f.cli.prefix_len = 64;
    f.cli.suffix_len = 16;
    f.cli.num_prefixes = 4;
    assert_int_equal(make(&f, &err), OK);
    assert_int_equal(f.d.num, 40);
    assert_int_equal(f.d.num_inexact, 0);
    const struct bench_prompt  *first = &f.d.prompts[0];
    for (int i = 0; i < f.d.num; i++) {
        const struct bench_prompt  *p = &f.d.prompts[i];
        assert_int_equal(server_tokens(&f, p->text), 80);
        same += memcmp(p->ids, first->ids, 60 * sizeof *p->ids) == 0;
        assert_true(i == 0 || !str_eq(p->text, first->text));
    }
    assert_int_equal(same, 10);
    f.cli.num_prompts = 3;
    assert_int_equal(make(&f, &err), ERROR);
    assert_non_null(strstr(err.message, "num-prefixes"));
    close_fixture(&f);
}

static int
compare_prefixes(const void *a, const void *b)
{
    const struct bench_prompt  *x = a, *y = b;
    return memcmp(x->ids, y->ids, 30 * sizeof *x->ids);
}

static void
prefixes_differ_however_many_they_are(void **state)
{
    struct fixture  f;
    struct err      err = { 0 };
    int             different = 1;
    (void) state;

    open_fixture(&f, "prefix_repetition", true);
    f.cli.num_prompts = f.cli.num_prefixes = 500;
    f.cli.prefix_len = 32;
    f.cli.suffix_len = 8;
    assert_int_equal(make(&f, &err), OK);
    qsort(f.d.prompts, 500, sizeof *f.d.prompts, compare_prefixes);
    for (int i = 1; i < 500; i++) {
        different += compare_prefixes(&f.d.prompts[i - 1],
                                      &f.d.prompts[i]) != 0;
    }
    assert_int_equal(different, 500);
    close_fixture(&f);
}

static const char  sharegpt[] =
    "[{\"conversations\":[{\"from\":\"human\",\"value\":"
    "\"What is the capital of Thailand, my friend?\"},"
    "{\"from\":\"gpt\",\"value\":\"The capital of Thailand is Bangkok.\"}]},"
    "{\"conversations\":[{\"from\":\"human\",\"value\":\"Hi\"},"
    "{\"from\":\"gpt\",\"value\":\"too short a prompt is left out\"}]},"
    "{\"conversations\":[{\"from\":\"human\",\"value\":\"Nobody answers this "
    "question of mine\"}]}, {\"id\":3}]";

static void
sharegpt_keeps_fitting_conversations_and_fills_up_with_them(void **state)
{
    struct fixture  f;
    struct err      err = { 0 };
    char            path[] = "/tmp/test_bench_dataset.XXXXXX";
    int             fd = mkstemp(path);
    (void) state;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, sharegpt, sizeof sharegpt - 1),
                     sizeof sharegpt - 1);
    open_fixture(&f, "sharegpt", true);
    f.cli.dataset_path = path;
    f.cli.num_prompts = 3;
    assert_int_equal(make(&f, &err), OK);
    assert_int_equal(f.d.num, 3);
    for (int i = 0; i < 3; i++) {
        const struct bench_prompt  *p = &f.d.prompts[i];
        assert_true(str_eq(p->text, STR("What is the capital of Thailand, my "
                                        "friend?")));
        assert_int_equal(p->prompt_len, server_tokens(&f, p->text));
        assert_int_equal(p->output_len,
            server_tokens(&f, STR("The capital of Thailand is Bangkok.")));
    }
    f.cli.sharegpt_output_len = 9;
    assert_int_equal(make(&f, &err), OK);
    assert_int_equal(f.d.prompts[0].output_len, 9);
    (void) ftruncate(fd, 20);
    assert_int_equal(make(&f, &err), ERROR);
    assert_non_null(strstr(err.message, path));
    f.cli.dataset_path = "/nonexistent.json";
    assert_int_equal(make(&f, &err), ERROR);
    assert_non_null(strstr(err.message, "No such file"));
    f.cli.dataset_path = NULL;
    assert_int_equal(make(&f, &err), ERROR);
    assert_non_null(strstr(err.message, "--dataset-path"));
    close_fixture(&f);
    (void) close(fd);
    (void) unlink(path);
}

/* Python reads such files, and the known collections hold them. */
static void
halves_of_emojis_do_not_spoil_the_file(void **state)
{
    static const char  file[] =
        "[{\"conversations\":[{\"value\":\"half \\ud83d and \\ude00, whole "
        "\\ud83d\\ude00, no escape \\\\ud83d, end \\ud83d\"},"
        "{\"value\":\"one two three four five\"}]}]";
    struct fixture  f;
    struct err      err = { 0 };
    char            path[] = "/tmp/test_bench_dataset.XXXXXX";
    int             fd = mkstemp(path);
    (void) state;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, file, sizeof file - 1), sizeof file - 1);
    open_fixture(&f, "sharegpt", true);
    f.cli.dataset_path = path;
    f.cli.num_prompts = 1;
    if (make(&f, &err) != OK) {
        fail_msg("%s", err.message);
    }
    assert_true(str_eq(f.d.prompts[0].text,
        STR("half \xef\xbf\xbd and \xef\xbf\xbd, whole \xf0\x9f\x98\x80, "
            "no escape \\ud83d, end \xef\xbf\xbd")));
    close_fixture(&f);
    (void) close(fd);
    (void) unlink(path);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(random_texts_come_back_with_exactly_the_wanted_length),
        cmocka_unit_test(random_ids_need_no_tokenizer_and_stay_in_the_vocabulary),
        cmocka_unit_test(a_seed_means_the_same_prompts),
        cmocka_unit_test(prefixes_are_shared_by_equally_many_prompts),
        cmocka_unit_test(prefixes_differ_however_many_they_are),
        cmocka_unit_test(
            sharegpt_keeps_fitting_conversations_and_fills_up_with_them),
        cmocka_unit_test(halves_of_emojis_do_not_spoil_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
