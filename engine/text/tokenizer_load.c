/* tokenizer_load.c - files, vocabulary, merges and added tokens.
 *
 * The two big lists are streamed (model_json.h), the rest of the file is a
 * small JSON tree.  Lookups of merges go in batches: they are cache misses,
 * and make up most of the time of loading. */
#include "engine/text/tokenizer_load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "engine/base/utf8.h"
#include "engine/text/byte_map.h"
#include "engine/text/model_json.h"

#define PATH_BYTES    4096
#define MERGE_BATCH   (VOCAB_BATCH_MAX / 3)

/* A file and what was read from it; strings point into both buffers. */
struct loaded_file {
    struct buf         text;
    struct model_json  parts;
    struct arena       arena;
    struct json       *root;
};

/* ---- files -------------------------------------------------------------- */

/* Reads the file whole, NUL-terminated.  AGAIN when there is none. */
static int
read_file(const char *path, struct buf *out, struct err *err)
{
    struct stat  st;
    int          rc = ERROR, fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        if (errno == ENOENT) {
            return AGAIN;
        }
        return err_set(err, "%s: cannot open: %s", path, strerror(errno));
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        (void) err_set(err, "%s: not a regular file", path);
        goto done;
    }
    if (st.st_size > TOKENIZER_FILE_BYTES_MAX) {
        (void) err_set(err, "%s: %lld bytes, the limit is %u", path,
                       (long long) st.st_size, TOKENIZER_FILE_BYTES_MAX);
        goto done;
    }
    buf_init(out, (size_t) TOKENIZER_FILE_BYTES_MAX + 1);
    if (!buf_reserve(out, (size_t) st.st_size + 1)) {
        (void) err_set(err, "%s: out of memory", path);
        goto done;
    }
    while (out->len < (size_t) st.st_size) {
        ssize_t  n = read(fd, out->data + out->len,
                          (size_t) st.st_size - out->len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            (void) err_set(err, "%s: cannot read: %s", path,
                           n < 0 ? strerror(errno) : "the file shrank");
            goto done;
        }
        out->len += (size_t) n;
    }
    buf_append_c(out, '\0');
    out->len--;
    rc = OK;

done:
    (void) close(fd);
    return rc;
}

/* Parses dir/name into *root; *text (the caller's to destroy) and the arena
 * hold it.  With parts, the model's big lists are left out.  AGAIN when there
 * is no such file. */
static int
load_json(struct tokenizer_load *l, const char *dir, const char *name,
          struct loaded_file *f)
{
    char  path[PATH_BYTES];

    *f = (struct loaded_file) { 0 };
    arena_init(&f->arena, TOKENIZER_FILE_BYTES_MAX);
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= PATH_BYTES) {
        return err_set(l->err, "%s: path longer than %d bytes", name,
                       PATH_BYTES);
    }
    int  rc = read_file(path, &f->text, l->err);
    if (rc != OK) {
        return rc;
    }
    if (!utf8_is_valid(f->text.data, f->text.len)) {
        return err_set(l->err, "%s: not UTF-8 text", path);
    }
    if (model_json_split(&f->parts, buf_str(&f->text), l->err) != OK
        || json_parse(&f->root, buf_str(&f->parts.rest), &f->arena,
                      &json_limits_file, l->err) != OK)
    {
        return err_prefix(l->err, "%s", path);
    }
    if (f->root->type != JSON_OBJECT) {
        return err_set(l->err, "%s: not a JSON object", path);
    }
    return OK;
}

static void
unload(struct loaded_file *f)
{
    arena_destroy(&f->arena);
    buf_destroy(&f->text);
    buf_destroy(&f->parts.rest);
}

static struct str
string_of(const struct json *v)
{
    return v != NULL && v->type == JSON_STRING ? v->string
                                               : (struct str) { NULL, 0 };
}

static const struct json *
items_of(const struct json *v)
{
    return v != NULL && v->type == JSON_ARRAY ? v->child : NULL;
}

/* For messages: not more than 64 bytes of s. */
static int
shown(struct str s)
{
    return (int) utf8_valid_len(s.data, s.len < 64 ? s.len : 64, NULL);
}

/* ---- model -------------------------------------------------------------- */

static int
load_vocab(struct tokenizer_load *l, struct str vocab)
{
    struct json_pull  p;
    int               rc;

    if (vocab.data == NULL) {
        return err_set(l->err, "model.vocab is not an object");
    }
    /* A member is at least "x":0, long: the estimate only sizes the table. */
    if (!vocab_init(&l->tok->model, vocab.len / 20, TOKENIZER_FILE_BYTES_MAX)) {
        return err_set(l->err, "out of memory");
    }
    json_pull_open(&p, vocab, l->err);
    do {
        struct str  tokens[VOCAB_BATCH_MAX];
        int32_t     ids[VOCAB_BATCH_MAX];
        size_t      num = 0;
        int64_t     id;
        while (num < VOCAB_BATCH_MAX
               && (rc = json_pull_token(&p, &tokens[num], &id)) == OK)
        {
            if (id >= TOKENIZER_VOCAB_MAX) {
                return err_set(l->err, "model.vocab: the id of \"%.*s\" is "
                               "%lld, the largest supported is %d",
                               shown(tokens[num]), tokens[num].data,
                               (long long) id, TOKENIZER_VOCAB_MAX - 1);
            }
            ids[num++] = (int32_t) id;
        }
        if (!vocab_add_batch(&l->tok->model, tokens, num, ids)) {
            return err_set(l->err, "out of memory");
        }
    } while (rc == OK);
    if (rc == AGAIN && l->tok->model.num_entries == 0) {
        return err_set(l->err, "model.vocab is empty");
    }
    return rc == AGAIN ? OK : ERROR;
}

/* Merges that wait for their lookups: left, right and joined text of each. */
struct merge_batch {
    struct str token[3 * MERGE_BATCH];
    int32_t    id[3 * MERGE_BATCH];
    size_t     num;
    uint32_t   rank;           /* of the first */
    struct buf joined;
};

/* "a b" in two; false when it is not of that form. */
static bool
merge_split(struct str side[2])
{
    struct str   s = side[0];
    const char  *space = memchr(s.data, ' ', s.len);

    if (space == NULL) {
        return false;
    }
    side[0] = (struct str) { s.data, (size_t) (space - s.data) };
    side[1] = (struct str) { space + 1, s.len - side[0].len - 1 };
    return memchr(side[1].data, ' ', side[1].len) == NULL;
}

static int
merge_flush(struct tokenizer_load *l, struct merge_batch *m)
{
    struct bpe  *b = &l->tok->bpe;

    /* `joined` may have moved while it grew. */
    size_t  at = 0;
    for (size_t i = 0; i < m->num; i++) {
        m->token[3 * i + 2].data = m->joined.data + at;
        at += m->token[3 * i + 2].len;
    }
    if (m->joined.failed) {
        return err_set(l->err, "out of memory");
    }
    vocab_find_batch(&l->tok->model, m->token, 3 * m->num, m->id);
    for (size_t i = 0; i < m->num; i++) {
        bpe_prefetch_pair(b, m->id[3 * i], m->id[3 * i + 1]);
    }
    for (size_t i = 0; i < m->num; i++) {
        const int32_t  *id = &m->id[3 * i];
        if (id[0] < 0 || id[1] < 0 || id[2] < 0) {
            struct str   left = m->token[3 * i], right = m->token[3 * i + 1];
            const char  *what = id[0] < 0 ? "left side"
                                : id[1] < 0 ? "right side" : "result";
            return err_set(l->err, "model.merges[%zu]: the %s of \"%.*s\" + "
                           "\"%.*s\" is not in model.vocab; the file is "
                           "corrupt", m->rank + i, what, shown(left),
                           left.data, shown(right), right.data);
        }
        if (!bpe_add_pair(b, id[0], id[1], m->rank + (uint32_t) i, id[2])) {
            return err_set(l->err, "model.merges: more than %u, or out of "
                           "memory", BPE_MERGES_MAX);
        }
    }
    m->rank += (uint32_t) m->num;
    m->num = 0;
    buf_reset(&m->joined);
    return OK;
}

/* The joined token leaves out the right side's continuing_subword_prefix. */
static int
merge_push(struct tokenizer_load *l, struct merge_batch *m,
           const struct str side[2])
{
    size_t  skip = l->tok->bpe.prefix.len;
    size_t  i = 3 * m->num++;

    skip = skip < side[1].len ? skip : side[1].len;
    m->token[i] = side[0];
    m->token[i + 1] = side[1];
    buf_append_str(&m->joined, side[0]);
    buf_append(&m->joined, side[1].data + skip, side[1].len - skip);
    m->token[i + 2] = (struct str) { NULL, side[0].len + side[1].len - skip };
    return m->num == MERGE_BATCH ? merge_flush(l, m) : OK;
}

static int
load_merges(struct tokenizer_load *l, struct str merges)
{
    struct json_pull    p;
    struct merge_batch  m = { .num = 0 };
    struct str          side[2];
    int                 rc;

    buf_init(&m.joined, TOKENIZER_FILE_BYTES_MAX);
    json_pull_open(&p, merges, l->err);
    while ((rc = json_pull_merge(&p, side)) == OK) {
        if (side[1].data == NULL
            && str_starts_with(side[0], STR("#version")))
        {
            continue;
        }
        if (side[1].data == NULL && !merge_split(side)) {
            rc = err_set(l->err, "model.merges[%zu] is neither \"a b\" nor "
                         "[\"a\", \"b\"]", m.rank + m.num);
            break;
        }
        if (merge_push(l, &m, side) != OK) {
            rc = ERROR;
            break;
        }
    }
    if (rc == AGAIN) {
        rc = merge_flush(l, &m);
    }
    buf_destroy(&m.joined);
    return rc;
}

static bool
is_true(const struct json *v, const char *name)
{
    const struct json  *f = json_find(v, name);
    return f != NULL && f->type == JSON_BOOL && f->b;
}

/* An optional string of the model, into the arena. */
static int
load_affix(struct tokenizer_load *l, const struct json *model, const char *name,
           struct str *out)
{
    struct str  s = string_of(json_find(model, name));

    *out = (struct str) { NULL, 0 };
    if (s.len > BPE_AFFIX_BYTES_MAX) {
        return err_set(l->err, "model.%s has %zu bytes, the limit is %d", name,
                       s.len, BPE_AFFIX_BYTES_MAX);
    }
    if (s.len > 0) {
        out->data = arena_strdup(&l->tok->arena, s);
        out->len = s.len;
        if (out->data == NULL) {
            return err_set(l->err, "out of memory");
        }
    }
    return OK;
}

/* With a complete byte alphabet BPE can work on raw bytes: drops the stage
 * that writes them as characters. */
static void
use_bytes(struct tokenizer *t)
{
    struct pretok     *p = &t->pretok;

    if (p->num_stages == 0
        || p->stages[p->num_stages - 1].kind != PRETOK_BYTE_LEVEL
        || t->bpe.prefix.len > 0 || t->bpe.suffix.len > 0)
    {
        return;
    }
    int32_t  ids[256];
    for (int i = 0; i < 256; i++) {
        char    c[4];
        int     n = utf8_encode(byte_map_char((uint8_t) i), c);
        ids[i] = vocab_find(&t->model, c, (size_t) n);
        if (ids[i] < 0) {
            return;
        }
    }
    memcpy(t->bpe.byte_ids, ids, sizeof ids);
    t->bpe.bytes = true;
    p->num_stages--;
}

static int
load_model_flags(struct tokenizer_load *l, const struct json *model)
{
    struct bpe  *b = &l->tok->bpe;
    struct str   unk = string_of(json_find(model, "unk_token"));
    const struct json *dropout = json_find(model, "dropout");

    if (dropout != NULL && dropout->f != 0) {
        return err_set(l->err, "model.dropout %g is not supported: encoding "
                       "would be random", dropout->f);
    }
    b->ignore_merges = is_true(model, "ignore_merges");
    b->byte_fallback = is_true(model, "byte_fallback");
    b->fuse_unk = is_true(model, "fuse_unk");
    if (unk.data != NULL) {
        b->unk_id = vocab_find(&l->tok->model, unk.data, unk.len);
        if (b->unk_id < 0) {
            return err_set(l->err, "model.unk_token \"%.*s\" is not in "
                           "model.vocab", shown(unk),
                           unk.data);
        }
    }
    if (load_affix(l, model, "continuing_subword_prefix", &b->prefix) != OK
        || load_affix(l, model, "end_of_word_suffix", &b->suffix) != OK)
    {
        return ERROR;
    }
    if (b->byte_fallback && (b->prefix.len > 0 || b->suffix.len > 0)) {
        return err_set(l->err, "model: byte_fallback together with "
                       "continuing_subword_prefix or end_of_word_suffix is "
                       "not supported");
    }
    return OK;
}

static int
load_model(struct tokenizer_load *l, const struct loaded_file *f)
{
    const struct json  *model = json_find(f->root, "model");
    struct str          type = string_of(json_find(model, "type"));

    if (model == NULL || model->type != JSON_OBJECT) {
        return err_set(l->err, "\"model\" is missing");
    }
    /* Old files have no type; merges tell BPE from the others. */
    if (type.data != NULL && !str_eq(type, STR("BPE"))) {
        return err_set(l->err, "model type \"%.*s\" is not supported, only BPE "
                       "is", shown(type), type.data);
    }
    if (f->parts.merges.data == NULL) {
        return err_set(l->err, "model.merges is missing: only BPE models are "
                       "supported");
    }
    if (load_vocab(l, f->parts.vocab) != OK) {
        return ERROR;
    }
    if (!bpe_init(&l->tok->bpe, &l->tok->model)) {
        return err_set(l->err, "out of memory");
    }
    if (load_model_flags(l, model) != OK
        || load_merges(l, f->parts.merges) != OK)
    {
        return ERROR;
    }
    use_bytes(l->tok);
    return bpe_finish(&l->tok->bpe) ? OK : err_set(l->err, "out of memory");
}

/* ---- added tokens --------------------------------------------------------- */

/* The id the reference gives: the model's own, else the next free one in file
 * order.  The file's "id" is not used. */
static int32_t
added_id(const struct tokenizer *t, struct str content, int32_t *largest)
{
    int32_t  id = vocab_find(&t->model, content.data, content.len);
    int32_t  size = (int32_t) t->model.num_entries;

    if (id < 0) {
        id = *largest >= size ? *largest + 1 : size;
    }
    *largest = id > *largest ? id : *largest;
    return id;
}

/* Puts the token into the set that looks for it. */
static int
add_to_set(struct tokenizer_load *l, const struct added_token *token,
           struct str content, struct tokenizer_scratch *scratch)
{
    struct added_set   *set = token->normalized ? &l->tok->normalized
                                                : &l->tok->raw;
    struct norm_result  r = { .text = content };

    if (token->normalized) {
        struct norm_args  args = {
            .text = content, .bufs = { &scratch->norm[0], &scratch->norm[1] },
            .shadow = &scratch->norm_shadow, .regex = scratch->regex
        };
        if (normalizer_run(&l->tok->normalizer, &args, &r, l->err) != OK) {
            return ERROR;
        }
    }
    return added_set_add(set, token, r.text) ? OK
           : err_set(l->err, "out of memory");
}

/* One pass takes special tokens, the other the rest: the reference looks for
 * special ones first when two have the same content. */
static int
load_added_pass(struct tokenizer_load *l, const struct json *list, bool special,
                struct tokenizer_scratch *scratch)
{
    const struct json  *v;

    for (v = items_of(list); v != NULL; v = v->next) {
        struct str  content = string_of(json_find(v, "content"));
        struct added_token  token = {
            .id = vocab_find(&l->tok->added, content.data, content.len),
            .special = is_true(v, "special"),
            .normalized = is_true(v, "normalized"),
            .lstrip = is_true(v, "lstrip"), .rstrip = is_true(v, "rstrip"),
            .single_word = is_true(v, "single_word")
        };
        if (content.len > 0 && token.special == special
            && add_to_set(l, &token, content, scratch) != OK)
        {
            return ERROR;
        }
    }
    return OK;
}

/* Sets makes_specials.  A word that is the token alone tells for all words:
 * where the token comes out, the same merges lead to it. */
static int
find_made_specials(struct tokenizer_load *l, const struct json *list,
                   struct tokenizer_scratch *scratch)
{
    struct tokenizer  *t = l->tok;
    struct buf         word;
    struct id_buf      ids;
    int                rc = OK;

    buf_init(&word, TOKENIZER_FILE_BYTES_MAX);
    id_buf_init(&ids, TOKENIZER_IDS_MAX);
    for (const struct json *v = items_of(list);
         rc == OK && v != NULL && !t->makes_specials; v = v->next)
    {
        struct str  s = string_of(json_find(v, "content"));
        int32_t     id = vocab_find(&t->model, s.data, s.len);
        if (id < 0 || id == t->bpe.unk_id || !is_true(v, "special")) {
            continue;
        }
        buf_reset(&word);
        id_buf_reset(&ids);
        if (t->bpe.bytes) {
            (void) byte_map_decode(s, &word);
        } else {
            buf_append_str(&word, s);
        }
        rc = bpe_encode(&t->bpe, scratch->bpe, buf_str(&word), &ids, l->err);
        for (size_t i = 0; i < ids.len; i++) {
            t->makes_specials = t->makes_specials || ids.ids[i] == id;
        }
    }
    if (rc == OK && (word.failed || ids.failed)) {
        rc = err_set(l->err, "out of memory");
    }
    buf_destroy(&word);
    id_buf_destroy(&ids);
    return rc;
}

static int
load_added(struct tokenizer_load *l, const struct json *list)
{
    struct tokenizer  *t = l->tok;
    const struct json       *v;
    int32_t            largest = -1;
    int                num = items_of(list) == NULL ? 0 : (int) list->num_children;

    if (num > TOKENIZER_ADDED_MAX) {
        return err_set(l->err, "added_tokens has %d entries, the limit is %d",
                       num, TOKENIZER_ADDED_MAX);
    }
    if (!vocab_init(&t->added, (size_t) num, TOKENIZER_FILE_BYTES_MAX)) {
        return err_set(l->err, "out of memory");
    }
    for (v = items_of(list); v != NULL; v = v->next) {
        struct str  s = string_of(json_find(v, "content"));
        if (s.data == NULL) {
            return err_set(l->err, "added_tokens: an entry has no \"content\"");
        }
        if (s.len == 0 || vocab_find(&t->added, s.data, s.len) >= 0) {
            continue;
        }
        int32_t  id = added_id(t, s, &largest);
        if (id >= TOKENIZER_VOCAB_MAX || !vocab_add(&t->added, s, id)) {
            return err_set(l->err, "added_tokens: too many, or out of memory");
        }
    }
    struct tokenizer_scratch  *scratch = tokenizer_scratch_create(t);
    if (scratch == NULL) {
        return err_set(l->err, "out of memory");
    }
    int  rc = load_added_pass(l, list, true, scratch);
    if (rc == OK) {
        rc = load_added_pass(l, list, false, scratch);
    }
    if (rc == OK) {
        rc = find_made_specials(l, list, scratch);
    }
    tokenizer_scratch_destroy(scratch);
    return rc;
}

/* ---- what ids decode to -------------------------------------------------- */

static void
token_bytes_fill(struct tokenizer *t, struct str token,
                 struct token_info *info)
{
    info->offset = (uint32_t) t->bytes_text.len;
    info->flags |= TOKEN_PRESENT;
    if (t->decoder.shape == DECODER_BYTES) {
        (void) byte_map_decode(token, &t->bytes_text);
    } else if (t->decoder.shape == DECODER_SPM) {
        decoder_replace_token(&t->decoder, token, &t->bytes_text);
        struct str  s = { t->bytes_text.data + info->offset,
                          t->bytes_text.len - info->offset };
        int  byte = t->decoder.byte_fallback ? decoder_byte_of(s) : -1;
        if (byte >= 0) {
            t->bytes_text.len = info->offset;
            buf_append_c(&t->bytes_text, (char) byte);
            info->flags |= TOKEN_BYTE;
        }
    } else {
        buf_append_str(&t->bytes_text, token);
    }
    info->len = (uint32_t) (t->bytes_text.len - info->offset);
    t->token_bytes_max = info->len > t->token_bytes_max ? info->len
                                                        : t->token_bytes_max;
}

static int
load_info(struct tokenizer_load *l, const struct json *added)
{
    struct tokenizer  *t = l->tok;
    const struct json       *v;

    t->num_ids = t->model.num_ids > t->added.num_ids ? t->model.num_ids
                                                     : t->added.num_ids;
    t->info = calloc((size_t) t->num_ids, sizeof *t->info);
    if (t->info == NULL) {
        return err_set(l->err, "out of memory");
    }
    buf_init(&t->bytes_text, TOKENIZER_FILE_BYTES_MAX * 2u);
    for (int32_t id = 0; id < t->num_ids; id++) {
        struct str  s = tokenizer_token(t, id);
        if (s.data != NULL) {
            token_bytes_fill(t, s, &t->info[id]);
        }
        if (vocab_token(&t->added, id).data != NULL) {
            t->info[id].flags |= TOKEN_ADDED;
        }
    }
    for (v = items_of(added); v != NULL; v = v->next) {
        struct str  s = string_of(json_find(v, "content"));
        int32_t     id = vocab_find(&t->added, s.data, s.len);
        if (id >= 0 && is_true(v, "special")) {
            t->info[id].flags |= TOKEN_SPECIAL;
        }
    }
    return t->bytes_text.failed ? err_set(l->err, "out of memory") : OK;
}

/* ---- names for templates ------------------------------------------------- */

static int
load_specials(struct tokenizer_load *l, const char *dir)
{
    static const char *const  names[TOKENIZER_NUM_SPECIALS] = {
        [TOKENIZER_BOS] = "bos_token", [TOKENIZER_EOS] = "eos_token",
        [TOKENIZER_UNK] = "unk_token", [TOKENIZER_PAD] = "pad_token"
    };
    static const char *const  files[] = { "tokenizer_config.json",
                                          "special_tokens_map.json" };

    for (size_t k = 0; k < 2; k++) {
        struct loaded_file  f;
        int                 rc = load_json(l, dir, files[k], &f);
        if (rc != OK) {
            unload(&f);
            if (rc == AGAIN) {
                continue;
            }
            return ERROR;
        }
        for (int i = 0; i < TOKENIZER_NUM_SPECIALS; i++) {
            const struct json  *v = json_find(f.root, names[i]);
            if (v != NULL && v->type == JSON_OBJECT) {
                v = json_find(v, "content");
            }
            struct str  s = string_of(v);
            if (s.data == NULL || l->tok->special_text[i].data != NULL) {
                continue;
            }
            char  *copy = arena_strdup(&l->tok->arena, s);
            l->tok->special_text[i] = (struct str) { copy, copy ? s.len : 0 };
            l->tok->special_id[i] = tokenizer_token_id(l->tok, s);
        }
        unload(&f);
    }
    return OK;
}

/* ---- all of it ------------------------------------------------------------ */

static int
load_tokenizer_json(struct tokenizer_load *l, const struct loaded_file *f)
{
    const struct json  *root = f->root;
    const struct json  *added = json_find(root, "added_tokens");

    if (tokenizer_parse_normalizer(l, json_find(
                                       root, "normalizer")) != OK
        || tokenizer_parse_pretok(l, json_find(
                                      root, "pre_tokenizer")) != OK
        || tokenizer_parse_decoder(l, json_find(
                                       root, "decoder")) != OK
        || tokenizer_parse_post(l, json_find(
                                    root, "post_processor")) != OK
        || load_model(l, f) != OK
        || load_added(l, added) != OK || load_info(l, added) != OK)
    {
        return ERROR;
    }
    for (size_t i = 0; i < l->tok->pretok.num_stages; i++) {
        if (l->tok->pretok.stages[i].kind != PRETOK_SPLIT) {
            l->tok->pretok_rewrites = true;
        }
    }
    return OK;
}

int
tokenizer_open(struct tokenizer **out, const char *model_dir, struct err *err)
{
    struct tokenizer       *t = calloc(1, sizeof *t);
    struct tokenizer_load   l = { .tok = t, .err = err };
    struct loaded_file      f;

    *out = NULL;
    if (t == NULL) {
        return err_set(err, "out of memory");
    }
    arena_init(&t->arena, 2u * TOKENIZER_FILE_BYTES_MAX);
    for (int i = 0; i < TOKENIZER_NUM_SPECIALS; i++) {
        t->special_id[i] = -1;
    }
    int  rc = load_json(&l, model_dir, "tokenizer.json", &f);
    if (rc == AGAIN) {
        rc = err_set(err, "%s: no tokenizer.json", model_dir);
    } else if (rc == OK) {
        rc = load_tokenizer_json(&l, &f);
        if (rc != OK) {
            (void) err_prefix(err, "%s/tokenizer.json", model_dir);
        }
    }
    unload(&f);
    if (rc == OK) {
        rc = load_specials(&l, model_dir);
    }
    if (rc == OK && t->arena.exhausted) {
        rc = err_set(err, "%s/tokenizer.json: out of memory", model_dir);
    }
    if (rc != OK) {
        tokenizer_destroy(t);
        return ERROR;
    }
    *out = t;
    return OK;
}

void
tokenizer_destroy(struct tokenizer *t)
{
    if (t == NULL) {
        return;
    }
    bpe_destroy(&t->bpe);
    vocab_destroy(&t->model);
    vocab_destroy(&t->added);
    added_set_destroy(&t->raw);
    added_set_destroy(&t->normalized);
    normalizer_destroy(&t->normalizer);
    pretok_destroy(&t->pretok);
    decoder_destroy(&t->decoder);
    free(t->info);
    buf_destroy(&t->bytes_text);
    arena_destroy(&t->arena);
    free(t);
}
