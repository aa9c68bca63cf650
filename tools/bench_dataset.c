/* bench_dataset.c - draws lengths and tokens, and fits texts to them. */
#include "tools/bench_dataset.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "engine/sample/rng.h"

#define ARENA_BYTES_MAX  ((size_t) 16 << 30)
#define FIT_TRIES        20
#define WORDS_MIN        64      /* fewer words: all ordinary tokens are used */

/* sharegpt: what vLLM's is_valid_sequence() keeps */
#define SHAREGPT_LEN_MIN    4
#define SHAREGPT_PROMPT_MAX 1024
#define SHAREGPT_TOTAL_MAX  2048

struct maker {
    const struct bench_dataset_options *o;
    struct bench_dataset     *d;
    struct tokenizer_scratch *scratch;
    struct id_buf             words;       /* ids to draw from */
    struct id_buf             ids;         /* of the prompt at hand */
    struct buf                text;
    int32_t                   num_special; /* what the server adds to a text */
    uint64_t                  position;    /* of the generator */
    struct err               *err;
};

static int
out_of_memory(struct maker *m)
{
    return err_set(m->err, "the prompts need more memory than there is");
}

/* 0 .. limit - 1 */
static uint64_t
draw(struct maker *m, uint64_t limit)
{
    return rng_random(m->o->seed, m->position++) % limit;
}

/* len * (1 - ratio) .. len * (1 + ratio), at least 1 */
static int32_t
draw_len(struct maker *m, int64_t len, double ratio)
{
    int64_t  low = (int64_t) floor((double) len * (1 - ratio));
    int64_t  high = (int64_t) ceil((double) len * (1 + ratio));

    low = low < 1 ? 1 : low;
    high = high < low ? low : high;
    return (int32_t) (low + (int64_t) draw(m, (uint64_t) (high - low + 1)));
}

/* ---- words -------------------------------------------------------------- */
static bool
is_word(const struct tokenizer *tok, int32_t id)
{
    struct str  s = tokenizer_token_bytes(tok, id);

    if (s.len < 2 || s.data[0] != ' ' || tokenizer_is_added(tok, id)) {
        return false;
    }
    for (size_t i = 1; i < s.len; i++) {
        char  c = (char) (s.data[i] | 0x20);
        if (c < 'a' || c > 'z') {
            return false;
        }
    }
    return true;
}

static int
find_words(struct maker *m)
{
    const struct tokenizer  *tok = m->o->tokenizer;
    int32_t                  limit = m->o->vocab_size;

    if (tok != NULL && tokenizer_vocab_size(tok) < limit) {
        limit = tokenizer_vocab_size(tok);
    }
    for (int32_t id = 0; tok != NULL && m->o->want_text && id < limit; id++) {
        if (is_word(tok, id)) {
            id_buf_push(&m->words, id);
        }
    }
    if (m->words.len >= WORDS_MIN) {
        return m->words.failed ? out_of_memory(m) : OK;
    }
    id_buf_reset(&m->words);
    for (int32_t id = 0; id < limit; id++) {
        if (tok == NULL || (!tokenizer_is_special(tok, id)
                            && tokenizer_token_bytes(tok, id).len > 0))
        {
            id_buf_push(&m->words, id);
        }
    }
    return m->words.failed ? out_of_memory(m)
           : m->words.len > 0 ? OK
           : err_set(m->err, "the tokenizer has no ordinary tokens");
}

static int32_t
word_at(const struct maker *m, uint64_t i)
{
    return m->words.ids[i % m->words.len];
}

/* ---- a prompt of exactly so many tokens --------------------------------- */
static int
encode(struct maker *m, struct str text, bool add_special, struct id_buf *out)
{
    struct encode_args  args = { .text = text,
                                 .add_special_tokens = add_special };

    id_buf_reset(out);
    return tokenizer_encode(m->o->tokenizer, m->scratch, &args, out, m->err);
}

/* m->ids becomes `wanted` ids whose text, in m->text, encodes to them. */
static int
fit_text(struct maker *m, int32_t wanted)
{
    bool  exact = false;

    for (int i = 0; i < FIT_TRIES && !exact; i++) {
        while ((int32_t) m->ids.len < wanted && !m->ids.failed) {
            id_buf_push(&m->ids, word_at(m, draw(m, m->words.len)));
        }
        m->ids.len = (size_t) wanted;
        buf_reset(&m->text);
        tokenizer_decode(m->o->tokenizer, m->ids.ids, m->ids.len, false,
                         &m->text);
        if (m->text.failed || m->ids.failed) {
            return out_of_memory(m);
        }
        if (encode(m, buf_str(&m->text), false, &m->ids) != OK) {
            return ERROR;
        }
        exact = m->ids.len == (size_t) wanted;
    }
    m->d->num_inexact += !exact;
    return OK;
}

/* Ends the prompt whose ids are in m->ids. */
static int
add_prompt(struct maker *m, int32_t output_len)
{
    struct bench_prompt  *p = &m->d->prompts[m->d->num];
    int32_t               wanted = (int32_t) m->ids.len;

    if (m->o->want_text) {
        int32_t  inner = wanted - m->num_special;
        if (fit_text(m, inner < 1 ? 1 : inner) != OK) {
            return ERROR;
        }
        p->text = arena_str(&m->d->arena, buf_str(&m->text));
        wanted = (int32_t) m->ids.len + m->num_special;
    }
    int32_t  *ids = arena_alloc(&m->d->arena, m->ids.len * sizeof *ids);
    if (ids == NULL || m->ids.failed || m->d->arena.exhausted) {
        return out_of_memory(m);
    }
    memcpy(ids, m->ids.ids, m->ids.len * sizeof *ids);
    p->ids = ids;
    p->num_ids = (int32_t) m->ids.len;
    p->prompt_len = wanted;
    p->output_len = output_len;
    m->d->num++;
    return OK;
}

static void
push_words(struct maker *m, uint64_t offset, int64_t num)
{
    for (int64_t i = 0; i < num; i++) {
        id_buf_push(&m->ids, word_at(m, offset + (uint64_t) i));
    }
}

/* Words drawn one by one from `position` on: the same again for the same one. */
static void
push_drawn(struct maker *m, uint64_t position, int64_t num)
{
    uint64_t  after = m->position;

    m->position = position;
    for (int64_t i = 0; i < num; i++) {
        id_buf_push(&m->ids, word_at(m, draw(m, m->words.len)));
    }
    m->position = after > m->position ? after : m->position;
}

static int
make_random(struct maker *m)
{
    const struct bench_cli  *cli = m->o->cli;
    int64_t   input_len = cli->input_len > 0 ? cli->input_len
                          : cli->random_input_len;
    int64_t   output_len = cli->output_len > 0 ? cli->output_len
                           : cli->random_output_len;
    uint64_t  prefix = draw(m, m->words.len);

    for (int64_t i = 0; i < cli->num_prompts; i++) {
        int32_t   len = draw_len(m, input_len, cli->random_range_ratio);
        int32_t   out = draw_len(m, output_len, cli->random_range_ratio);
        uint64_t  offset = draw(m, m->words.len) + (uint64_t) i;
        id_buf_reset(&m->ids);
        push_words(m, prefix, cli->random_prefix_len);
        push_words(m, offset, len);
        if (add_prompt(m, out) != OK) {
            return ERROR;
        }
    }
    return OK;
}

static void
shuffle(struct maker *m)
{
    struct bench_prompt  *p = m->d->prompts;

    for (int i = m->d->num - 1; i > 0; i--) {
        int                  k = (int) draw(m, (uint64_t) i + 1);
        struct bench_prompt  swap = p[i];
        p[i] = p[k];
        p[k] = swap;
    }
}

static int
make_prefix_repetition(struct maker *m)
{
    const struct bench_cli  *cli = m->o->cli;
    int64_t   output_len = cli->output_len > 0 ? cli->output_len
                           : cli->prefix_output_len;

    if (cli->num_prompts < cli->num_prefixes) {
        return err_set(m->err, "--num-prompts %lld is less than "
                       "--prefix-repetition-num-prefixes %lld",
                       (long long) cli->num_prompts,
                       (long long) cli->num_prefixes);
    }
    /* As in vLLM each prefix is used equally often; the rest is left out. */
    int64_t  each = cli->num_prompts / cli->num_prefixes;
    for (int64_t i = 0; i < cli->num_prefixes; i++) {
        uint64_t  prefix = m->position;
        for (int64_t k = 0; k < each; k++) {
            id_buf_reset(&m->ids);
            push_drawn(m, prefix, cli->prefix_len);
            push_drawn(m, m->position, cli->suffix_len);
            if (add_prompt(m, (int32_t) output_len) != OK) {
                return ERROR;
            }
        }
    }
    shuffle(m);
    return OK;
}

/* ---- sharegpt ----------------------------------------------------------- */
/* The code unit of \uXXXX at p, -1: there is none. */
static int
escaped_unit(const char *p, const char *end)
{
    char   digits[5] = "";
    char  *stop;

    if (end - p < 6 || p[0] != '\\' || p[1] != 'u') {
        return -1;
    }
    memcpy(digits, p + 2, 4);
    int  unit = (int) strtol(digits, &stop, 16);
    return stop == digits + 4 ? unit : -1;
}

/* Collected chats hold halves of emojis, which our reader refuses: each becomes
 * U+FFFD, of the same length. */
static void
mend_surrogates(char *data, size_t len)
{
    const char  *end = data + len;

    for (char *p = data; (p = memchr(p, '\\', (size_t) (end - p))) != NULL; ) {
        int  unit = escaped_unit(p, end);
        if (unit >= 0xd800 && unit < 0xdc00) {
            int  low = escaped_unit(p + 6, end);
            if (low >= 0xdc00 && low < 0xe000) {
                p += 12;
                continue;
            }
        }
        if (unit >= 0xd800 && unit < 0xe000) {
            memcpy(p, "\\ufffd", 6);
        }
        p += unit >= 0 ? 6 : end - p >= 2 ? 2 : 1;
    }
}

static int
read_file(struct maker *m, const char *path, struct str *out)
{
    FILE  *f = fopen(path, "rb");
    char  *data = NULL;
    long   len = -1;

    if (f != NULL && fseek(f, 0, SEEK_END) == 0) {
        len = ftell(f);
        rewind(f);
        data = len < 0 ? NULL : arena_alloc(&m->d->arena, (size_t) len + 1);
    }
    if (data == NULL || fread(data, 1, (size_t) len, f) != (size_t) len) {
        (void) err_set(m->err, "--dataset-path %s: %s", path,
                       errno != 0 ? strerror(errno) : "cannot be read");
        if (f != NULL) {
            (void) fclose(f);
        }
        return ERROR;
    }
    (void) fclose(f);
    mend_surrogates(data, (size_t) len);
    *out = (struct str) { data, (size_t) len };
    return OK;
}

/* The text of conversations[i].value of one entry; data NULL: none. */
static struct str
turn_text(const struct json *entry, uint32_t i)
{
    const struct json  *turns = json_find(entry, "conversations");
    struct str          none = { NULL, 0 };

    if (turns == NULL || turns->type != JSON_ARRAY || turns->num_children < 2) {
        return none;
    }
    const struct json  *turn = i == 0 ? turns->child : turns->child->next;
    const struct json  *value = json_find(turn, "value");
    return value == NULL || value->type != JSON_STRING ? none : value->string;
}

/* Adds the entry if its lengths are fit for it. */
static int
add_conversation(struct maker *m, const struct json *entry)
{
    const struct bench_cli  *cli = m->o->cli;
    struct str               prompt = turn_text(entry, 0);
    struct str               answer = turn_text(entry, 1);
    int64_t   fixed_len = cli->output_len > 0 ? cli->output_len
                          : cli->sharegpt_output_len;

    if (prompt.data == NULL || answer.data == NULL
        || prompt.len > TOKENIZER_TEXT_BYTES_MAX
        || answer.len > TOKENIZER_TEXT_BYTES_MAX)
    {
        return OK;
    }
    if (encode(m, answer, false, &m->ids) != OK) {
        return ERROR;
    }
    int64_t  output_len = fixed_len > 0 ? fixed_len : (int64_t) m->ids.len;
    if (encode(m, prompt, true, &m->ids) != OK) {
        return ERROR;
    }
    int64_t  prompt_len = (int64_t) m->ids.len;
    if (prompt_len < SHAREGPT_LEN_MIN || prompt_len > SHAREGPT_PROMPT_MAX
        || (fixed_len == 0 && output_len < SHAREGPT_LEN_MIN)
        || prompt_len + output_len > SHAREGPT_TOTAL_MAX)
    {
        return OK;
    }
    struct bench_prompt  *p = &m->d->prompts[m->d->num++];
    int32_t  *ids = arena_alloc(&m->d->arena, m->ids.len * sizeof *ids);
    if (ids == NULL) {
        return out_of_memory(m);
    }
    memcpy(ids, m->ids.ids, m->ids.len * sizeof *ids);
    *p = (struct bench_prompt) {
        .ids = ids, .num_ids = (int32_t) prompt_len,
        .prompt_len = (int32_t) prompt_len, .output_len = (int32_t) output_len,
    };
    if (m->o->want_text) {
        p->text = prompt;
    }
    return OK;
}

/* The file's entries in random order. */
static int
shuffled_entries(struct maker *m, const struct json *root,
                 const struct json ***out)
{
    uint32_t             num = root->num_children, i = 0;
    const struct json  **e = arena_alloc(&m->d->arena, num * sizeof *e);

    if (e == NULL) {
        return out_of_memory(m);
    }
    for (const struct json *c = root->child; c != NULL; c = c->next) {
        e[i++] = c;
    }
    for (i = num; i-- > 1; ) {
        uint32_t            k = (uint32_t) draw(m, (uint64_t) i + 1);
        const struct json  *swap = e[i];
        e[i] = e[k];
        e[k] = swap;
    }
    *out = e;
    return OK;
}

static int
make_sharegpt(struct maker *m)
{
    const struct bench_cli   *cli = m->o->cli;
    struct json_limits        limits = json_limits_file;
    struct json              *root = NULL;
    const struct json       **entries = NULL;
    struct str                text;

    limits.values_max = UINT32_MAX;
    if (m->o->tokenizer == NULL) {
        return err_set(m->err, "--dataset-name sharegpt needs a tokenizer");
    }
    errno = 0;
    if (read_file(m, cli->dataset_path, &text) != OK) {
        return ERROR;
    }
    if (json_parse(&root, text, &m->d->arena, &limits, m->err) != OK) {
        return err_prefix(m->err, "--dataset-path %s", cli->dataset_path);
    }
    if (root->type != JSON_ARRAY) {
        return err_set(m->err, "--dataset-path %s: not a JSON array of "
                       "{\"conversations\": [...]}", cli->dataset_path);
    }
    if (shuffled_entries(m, root, &entries) != OK) {
        return ERROR;
    }
    for (uint32_t i = 0; i < root->num_children
         && m->d->num < cli->num_prompts; i++)
    {
        if (add_conversation(m, entries[i]) != OK) {
            return ERROR;
        }
    }
    if (m->d->num == 0) {
        return err_set(m->err, "--dataset-path %s: no conversation of fitting "
                       "length (prompt of %d to %d tokens, %d with the answer)",
                       cli->dataset_path, SHAREGPT_LEN_MIN, SHAREGPT_PROMPT_MAX,
                       SHAREGPT_TOTAL_MAX);
    }
    /* As in vLLM's oversampling. */
    for (int found = m->d->num; m->d->num < cli->num_prompts; m->d->num++) {
        m->d->prompts[m->d->num] =
            m->d->prompts[draw(m, (uint64_t) found)];
    }
    return OK;
}

/* ---- all ---------------------------------------------------------------- */
static int
prepare(struct maker *m)
{
    const struct bench_dataset_options  *o = m->o;

    m->d->prompts = arena_calloc(&m->d->arena, (size_t) o->cli->num_prompts,
                                 sizeof *m->d->prompts);
    if (m->d->prompts == NULL) {
        return out_of_memory(m);
    }
    if (o->tokenizer != NULL) {
        m->scratch = tokenizer_scratch_create(o->tokenizer);
        if (m->scratch == NULL) {
            return out_of_memory(m);
        }
        if (o->want_text) {
            if (encode(m, STR(""), true, &m->ids) != OK) {
                return ERROR;
            }
            m->num_special = (int32_t) m->ids.len;
        }
    }
    return find_words(m);
}

int
bench_dataset_check(const struct bench_cli *cli, struct err *err)
{
    if (strcmp(cli->dataset_name, "sharegpt") != 0) {
        return cli->dataset_path == NULL ? OK
               : err_set(err, "--dataset-path: --dataset-name %s reads no "
                         "file; sharegpt does", cli->dataset_name);
    }
    if (cli->dataset_path == NULL) {
        return err_set(err, "--dataset-name sharegpt needs --dataset-path "
                       "FILE, for instance "
                       "ShareGPT_V3_unfiltered_cleaned_split.json");
    }
    return access(cli->dataset_path, R_OK) == 0 ? OK
           : err_set(err, "--dataset-path %s: %s", cli->dataset_path,
                     strerror(errno));
}

int
bench_dataset_make(struct bench_dataset *out,
                   const struct bench_dataset_options *o, struct err *err)
{
    struct maker  m = { .o = o, .d = out, .err = err };
    const char   *name = o->cli->dataset_name;

    *out = (struct bench_dataset) { 0 };
    arena_init(&out->arena, ARENA_BYTES_MAX);
    id_buf_init(&m.words, TOKENIZER_VOCAB_MAX);
    id_buf_init(&m.ids, TOKENIZER_IDS_MAX);
    buf_init(&m.text, TOKENIZER_TEXT_BYTES_MAX);
    int  rc = bench_dataset_check(o->cli, err) == OK ? prepare(&m) : ERROR;
    if (rc == OK) {
        rc = strcmp(name, "sharegpt") == 0 ? make_sharegpt(&m)
             : strcmp(name, "prefix_repetition") == 0
             ? make_prefix_repetition(&m) : make_random(&m);
    }
    buf_destroy(&m.text);
    id_buf_destroy(&m.ids);
    id_buf_destroy(&m.words);
    tokenizer_scratch_destroy(m.scratch);
    return rc;
}

void
bench_dataset_destroy(struct bench_dataset *d)
{
    arena_destroy(&d->arena);
    *d = (struct bench_dataset) { 0 };
}
