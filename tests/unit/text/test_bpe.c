/* test_bpe.c - every size of word gives what the plain definition gives.
 *
 * The definition: merge the pair of lowest rank, the leftmost of equals, until
 * there is none.  Vocabularies are random, with splits of a token that are
 * listed before the token can exist, as converted files have them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>
#include "engine/text/bpe.h"

#define LETTERS  6
#define WORD_MAX 9000

static uint64_t
next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static uint64_t
make_seed(void)
{
    uint64_t  seed = (uint64_t) time(NULL) * 2654435761u | 1;
    print_message("seed %llu\n", (unsigned long long) seed);
    return seed;
}

struct world {
    struct vocab        vocab;
    struct bpe          bpe;
    struct bpe_scratch *scratch;
};

static void
add_merge(struct world *w, const char *left, const char *right, uint32_t *rank)
{
    char     joined[256];
    int      n = snprintf(joined, sizeof joined, "%s%s", left, right);
    int32_t  a = vocab_find(&w->vocab, left, strlen(left));
    int32_t  b = vocab_find(&w->vocab, right, strlen(right));
    int32_t  c = vocab_find(&w->vocab, joined, (size_t) n);
    if (c < 0) {
        c = w->vocab.num_ids;
        assert_true(vocab_add(&w->vocab, str_from(joined), c));
    }
    if (a >= 0 && b >= 0
        && bpe_pair_find(&w->bpe, a, b) == NULL)
    {
        assert_true(bpe_add_pair(&w->bpe, a, b, (*rank)++, c));
    }
}

/* Tokens first, then every split of each in random order: many a merge comes
 * before those that make its sides. */
static void
add_shuffled(struct world *w, uint64_t *seed, int num)
{
    static char  pair[4096][2][16];
    size_t       num_pairs = 0;
    uint32_t     rank = 0;

    for (int k = 0; k < num; k++) {
        char    text[8];
        size_t  len = 2 + next_random(seed) % 4;
        for (size_t i = 0; i < len; i++) {
            text[i] = (char) ('a' + next_random(seed) % 3);
        }
        if (vocab_find(&w->vocab, text, len) < 0) {
            assert_true(vocab_add(&w->vocab, (struct str) { text, len },
                                  w->vocab.num_ids));
        }
    }
    for (int32_t id = LETTERS + 1; id < w->vocab.num_ids; id++) {
        struct str  t = vocab_token(&w->vocab, id);
        for (size_t cut = 1; cut < t.len && num_pairs < 4096; cut++) {
            (void) snprintf(pair[num_pairs][0], 16, "%.*s", (int) cut, t.data);
            (void) snprintf(pair[num_pairs++][1], 16, "%.*s",
                            (int) (t.len - cut), t.data + cut);
        }
    }
    for (size_t i = num_pairs; i > 1; i--) {
        size_t  k = next_random(seed) % i;
        char    tmp[2][16];
        memcpy(tmp, pair[k], sizeof tmp);
        memcpy(pair[k], pair[i - 1], sizeof tmp);
        memcpy(pair[i - 1], tmp, sizeof tmp);
    }
    for (size_t i = 0; i < num_pairs; i++) {
        add_merge(w, pair[i][0], pair[i][1], &rank);
    }
}

/* Letters a..f and num tokens: for an odd num shuffled, for an even one made of
 * earlier ones and, of some, every split. */
static void
world_create(struct world *w, uint64_t *seed, int num, bool bytes)
{
    uint32_t  rank = 0;
    char      text[2][128];

    *w = (struct world) { 0 };
    assert_true(vocab_init(&w->vocab, 64, 1u << 20));
    for (int i = 0; i < LETTERS; i++) {
        char  c = (char) ('a' + i);
        assert_true(vocab_add(&w->vocab, (struct str) { &c, 1 }, i));
    }
    assert_true(vocab_add(&w->vocab, STR("?"), LETTERS));
    assert_true(bpe_init(&w->bpe, &w->vocab));
    w->bpe.unk_id = LETTERS;
    w->bpe.bytes = bytes;
    for (int i = 0; i < 256; i++) {
        w->bpe.byte_ids[i] = bytes ? (i >= 'a' && i < 'a' + LETTERS ? i - 'a'
                                                                    : LETTERS)
                                   : -1;
    }
    if (num % 2 != 0) {
        add_shuffled(w, seed, num);
        num = 0;
    }
    for (int k = 0; k < num; k++) {
        for (int side = 0; side < 2; side++) {
            int32_t     id;
            struct str  t;
            do {
                id = (int32_t) (next_random(seed)
                                % (uint64_t) w->vocab.num_ids);
                t = vocab_token(&w->vocab, id);
            } while (id == LETTERS || t.len > 20);
            memcpy(text[side], t.data, t.len);
            text[side][t.len] = '\0';
        }
        char  whole[256];
        (void) snprintf(whole, sizeof whole, "%s%s", text[0], text[1]);
        if (next_random(seed) % 3 == 0) {
            for (size_t cut = 1; cut < strlen(whole); cut++) {
                char  left[256], right[256];
                (void) snprintf(left, sizeof left, "%.*s", (int) cut, whole);
                (void) snprintf(right, sizeof right, "%s", whole + cut);
                /* Sides that do not exist yet come into being: later ranks
                 * make them. */
                add_merge(w, left, right, &rank);
            }
        }
        add_merge(w, text[0], text[1], &rank);
    }
    assert_true(bpe_finish(&w->bpe));
    w->scratch = bpe_scratch_create();
    assert_non_null(w->scratch);
}

static void
world_destroy(struct world *w)
{
    bpe_scratch_destroy(w->scratch);
    bpe_destroy(&w->bpe);
    vocab_destroy(&w->vocab);
}

/* The definition. */
static size_t
plain_encode(const struct world *w, const char *word, size_t len, int32_t *ids)
{
    static uint32_t  rank[WORD_MAX];
    size_t           num = 0;

    for (size_t i = 0; i < len; i++) {
        int32_t  id = vocab_find(&w->vocab, word + i, 1);
        if (id < 0 && num > 0 && ids[num - 1] == LETTERS && w->bpe.fuse_unk) {
            continue;
        }
        ids[num++] = id < 0 ? LETTERS : id;
    }
    for (;;) {
        size_t    at = SIZE_MAX;
        uint32_t  best = UINT32_MAX;
        for (size_t i = 0; i + 1 < num; i++) {
            const struct bpe_pair  *p = bpe_pair_find(&w->bpe, ids[i],
                                                      ids[i + 1]);
            rank[i] = p == NULL ? UINT32_MAX : p->rank;
            if (rank[i] < best) {
                best = rank[i];
                at = i;
            }
        }
        if (at == SIZE_MAX) {
            return num;
        }
        /* All of this rank that nothing can come before: just the one. */
        ids[at] = bpe_pair_find(&w->bpe, ids[at], ids[at + 1])->new_id;
        memmove(ids + at + 1, ids + at + 2, (num - at - 2) * sizeof *ids);
        num--;
    }
}

static void
check_word(struct world *w, const char *word, size_t len)
{
    static int32_t  want[WORD_MAX];
    struct id_buf   got;
    struct err      err = { 0 };
    size_t          num = plain_encode(w, word, len, want);

    id_buf_init(&got, WORD_MAX);
    assert_int_equal(bpe_encode(&w->bpe, w->scratch, (struct str) { word, len },
                                &got, &err), OK);
    assert_int_equal(got.len, num);
    assert_memory_equal(got.ids, want, num * sizeof *want);
    id_buf_destroy(&got);
}

/* Runs, repeats and noise. */
static void
random_word(uint64_t *seed, char *word, size_t len, bool unknown)
{
    for (size_t i = 0; i < len; ) {
        uint64_t  r = next_random(seed);
        size_t    n = 1 + r % 9, period = 1 + (r >> 8) % 3;
        for (size_t k = 0; k < n && i < len; k++, i++) {
            word[i] = k >= period && (r & 64) != 0 ? word[i - period]
                : (char) ('a' + next_random(seed) % LETTERS);
            if (unknown && next_random(seed) % 16 == 0) {
                word[i] = 'z';
            }
        }
    }
}

static void
run_worlds(bool bytes, bool unknown, bool fuse)
{
    static char  word[WORD_MAX];
    uint64_t     seed = make_seed();

    for (int k = 0; k < 40; k++) {
        struct world  w;
        world_create(&w, &seed, 5 + k, bytes);
        w.bpe.fuse_unk = fuse;
        for (int i = 0; i < 200; i++) {
            size_t  len = next_random(&seed) % (i % 10 == 0 ? 400 : 40);
            random_word(&seed, word, len, unknown);
            check_word(&w, word, len);
            check_word(&w, word, len);           /* from the cache */
        }
        world_destroy(&w);
    }
}

static void
words_of_bytes_merge_by_the_definition(void **state)
{
    (void) state;
    run_worlds(true, false, false);
}

/* Also shows that cutting between characters no token joins changes nothing. */
static void
words_of_characters_merge_by_the_definition(void **state)
{
    (void) state;
    run_worlds(false, false, false);
}

static void
unknown_characters_are_fused_or_not(void **state)
{
    (void) state;
    run_worlds(false, true, true);
    run_worlds(false, true, false);
}

/* Long enough for the sweeps of bpe_rounds.c. */
static void
very_long_words_merge_by_the_definition(void **state)
{
    static char  word[WORD_MAX];
    uint64_t     seed = make_seed();

    (void) state;
    for (int k = 0; k < 8; k++) {
        struct world  w;
        world_create(&w, &seed, 10 + 7 * k, true);
        random_word(&seed, word, 8400, false);
        check_word(&w, word, 8400);
        for (int i = 0; i < 8400; i++) {
            word[i] = (char) ('a' + next_random(&seed) % 3);
        }
        check_word(&w, word, 8400);
        memset(word, 'a' + k % 3, 8300);
        check_word(&w, word, 8300);
        world_destroy(&w);
    }
}

static void
a_whole_word_in_the_vocabulary_wins_with_ignore_merges(void **state)
{
    struct world    w;
    uint64_t        seed = 1;
    struct id_buf   ids;
    struct err      err = { 0 };

    (void) state;
    world_create(&w, &seed, 0, false);
    assert_true(vocab_add(&w.vocab, STR("abc"), 40));
    w.bpe.ignore_merges = true;
    w.bpe.token_len_max = 3;
    w.bpe.cuts = false;
    id_buf_init(&ids, 100);
    assert_int_equal(bpe_encode(&w.bpe, w.scratch, STR("abc"), &ids, &err), OK);
    assert_int_equal(ids.len, 1);
    assert_int_equal(ids.ids[0], 40);
    id_buf_destroy(&ids);
    world_destroy(&w);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(words_of_bytes_merge_by_the_definition),
        cmocka_unit_test(words_of_characters_merge_by_the_definition),
        cmocka_unit_test(unknown_characters_are_fused_or_not),
        cmocka_unit_test(very_long_words_merge_by_the_definition),
        cmocka_unit_test(
            a_whole_word_in_the_vocabulary_wins_with_ignore_merges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
