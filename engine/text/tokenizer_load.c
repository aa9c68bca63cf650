/* tokenizer_load.c - files, vocabulary, merges and added tokens.
 *
 * cJSON parses the file; objects are walked along ->child, because its lookup
 * by name is a list search (a vocabulary has 200,000 names).  cJSON ends
 * strings at U+0000, so an escaped one is replaced by U+FDD0 beforehand. */
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

#define NUL_STAND_IN  "\xEF\xB7\x90"     /* U+FDD0, a noncharacter */
#define PATH_BYTES    4096

struct str
tokenizer_load_key(struct tokenizer_load *l, const cJSON *v)
{
    cJSON  as_string = { .type = cJSON_String,
                         .valuestring = v == NULL ? NULL : v->string };
    return tokenizer_load_str(l, &as_string);
}

struct str
tokenizer_load_str(struct tokenizer_load *l, const cJSON *v)
{
    const char  *c = cJSON_GetStringValue(v);
    struct str   s = str_from(c);

    if (!l->has_nul || c == NULL || strstr(c, NUL_STAND_IN) == NULL) {
        return s;
    }
    char    *copy = arena_alloc(&l->tok->arena, s.len + 1);
    size_t   n = 0;
    if (copy == NULL) {
        return (struct str) { NULL, 0 };
    }
    for (size_t i = 0; i < s.len; ) {
        if (s.len - i >= 3 && memcmp(s.data + i, NUL_STAND_IN, 3) == 0) {
            copy[n++] = '\0';
            i += 3;
        } else {
            copy[n++] = s.data[i++];
        }
    }
    copy[n] = '\0';
    return (struct str) { copy, n };
}

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

/* Replaces each \u0000 by an escaped U+FDD0 in place; both are six bytes. */
static bool
hide_nuls(struct buf *text)
{
    bool   found = false;
    char  *p = text->data, *end = text->data + text->len;

    while ((p = memchr(p, '\\', (size_t) (end - p))) != NULL) {
        if (end - p >= 6 && memcmp(p, "\\u0000", 6) == 0) {
            memcpy(p, "\\uFDD0", 6);
            found = true;
        }
        p += end - p >= 2 ? 2 : 1;
    }
    return found;
}

/* Parses dir/name.  AGAIN when there is no such file. */
static int
load_json(struct tokenizer_load *l, const char *dir, const char *name,
          cJSON **out)
{
    char        path[PATH_BYTES];
    struct buf  text = { 0 };

    *out = NULL;
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= PATH_BYTES) {
        return err_set(l->err, "%s: path longer than %d bytes", name,
                       PATH_BYTES);
    }
    int  rc = read_file(path, &text, l->err);
    if (rc == OK && (memchr(text.data, '\0', text.len) != NULL
                     || !utf8_is_valid(text.data, text.len)))
    {
        rc = err_set(l->err, "%s: not UTF-8 text", path);
    }
    if (rc == OK) {
        bool  had = memmem(text.data, text.len, NUL_STAND_IN, 3) != NULL;
        l->has_nul = hide_nuls(&text);
        if (l->has_nul && had) {
            rc = err_set(l->err, "%s: holds both U+0000 and U+FDD0", path);
        }
    }
    if (rc == OK) {
        const char  *stop = NULL;
        *out = cJSON_ParseWithLengthOpts(text.data, text.len + 1, &stop, 1);
        if (*out == NULL) {
            rc = err_set(l->err, "%s: invalid JSON at byte %zu", path,
                         stop == NULL ? 0 : (size_t) (stop - text.data));
        } else if (!cJSON_IsObject(*out)) {
            rc = err_set(l->err, "%s: not a JSON object", path);
        }
    }
    buf_destroy(&text);
    return rc;
}

/* ---- model -------------------------------------------------------------- */

static int
load_vocab(struct tokenizer_load *l, const cJSON *vocab)
{
    const cJSON  *v;
    size_t        num = 0;

    if (!cJSON_IsObject(vocab)) {
        return err_set(l->err, "model.vocab is not an object");
    }
    cJSON_ArrayForEach(v, vocab) {
        num++;
    }
    if (num == 0 || num > TOKENIZER_VOCAB_MAX) {
        return err_set(l->err, "model.vocab has %zu tokens, the limits are 1 "
                       "and %d", num, TOKENIZER_VOCAB_MAX);
    }
    if (!vocab_init(&l->tok->model, num, TOKENIZER_FILE_BYTES_MAX)) {
        return err_set(l->err, "out of memory");
    }
    cJSON_ArrayForEach(v, vocab) {
        struct str  s = tokenizer_load_key(l, v);
        double      id = v->valuedouble;
        if (!cJSON_IsNumber(v) || id < 0 || id >= TOKENIZER_VOCAB_MAX
            || id != (double) (int32_t) id)
        {
            return err_set(l->err, "model.vocab: the id of \"%.*s\" is not an "
                           "integer in 0..%d", (int) (s.len < 64 ? s.len : 64),
                           s.data, TOKENIZER_VOCAB_MAX - 1);
        }
        if (s.data == NULL || !vocab_add(&l->tok->model, s, (int32_t) id)) {
            return err_set(l->err, "out of memory");
        }
    }
    return OK;
}

/* "a b" or ["a", "b"].  AGAIN for a "#version" line, which counts for
 * nothing. */
static int
merge_sides(struct tokenizer_load *l, const cJSON *m, struct str side[2])
{
    if (cJSON_IsArray(m)) {
        side[0] = tokenizer_load_str(l, cJSON_GetArrayItem(m, 0));
        side[1] = tokenizer_load_str(l, cJSON_GetArrayItem(m, 1));
        if (side[1].data != NULL && side[0].data != NULL
            && cJSON_GetArraySize(m) == 2)
        {
            return OK;
        }
        return ERROR;
    }
    struct str  s = tokenizer_load_str(l, m);
    if (s.data == NULL) {
        return ERROR;
    }
    if (str_starts_with(s, STR("#version"))) {
        return AGAIN;
    }
    const char  *space = memchr(s.data, ' ', s.len);
    if (space == NULL) {
        return ERROR;
    }
    side[0] = (struct str) { s.data, (size_t) (space - s.data) };
    side[1] = (struct str) { space + 1, s.len - side[0].len - 1 };
    return memchr(side[1].data, ' ', side[1].len) == NULL ? OK : ERROR;
}

static int
add_merge(struct tokenizer_load *l, const struct str side[2], uint32_t rank)
{
    struct tokenizer  *t = l->tok;
    struct str         right = side[1];
    char               small[256];
    int32_t            id[3];

    id[0] = vocab_find(&t->model, side[0].data, side[0].len);
    id[1] = vocab_find(&t->model, right.data, right.len);
    right.data += right.len < t->bpe.prefix.len ? right.len
                                                : t->bpe.prefix.len;
    right.len -= right.len < t->bpe.prefix.len ? right.len
                                               : t->bpe.prefix.len;
    size_t  len = side[0].len + right.len;
    char   *whole = len <= sizeof small ? small : malloc(len);
    if (whole == NULL) {
        return err_set(l->err, "out of memory");
    }
    memcpy(whole, side[0].data, side[0].len);
    memcpy(whole + side[0].len, right.data, right.len);
    id[2] = vocab_find(&t->model, whole, len);
    if (whole != small) {
        free(whole);
    }
    if (id[0] < 0 || id[1] < 0 || id[2] < 0) {
        const char  *what = id[0] < 0 ? "left side" : id[1] < 0 ? "right side"
                                                                : "result";
        return err_set(l->err, "model.merges[%u]: the %s of \"%.*s\" + "
                       "\"%.*s\" is not in model.vocab; the file is corrupt",
                       rank, what, (int) (side[0].len < 64 ? side[0].len : 64),
                       side[0].data,
                       (int) (side[1].len < 64 ? side[1].len : 64),
                       side[1].data);
    }
    bpe_add_pair(&t->bpe, id[0], id[1], rank, id[2]);
    return OK;
}

static int
load_merges(struct tokenizer_load *l, const cJSON *merges)
{
    const cJSON  *m;
    uint32_t      rank = 0;

    cJSON_ArrayForEach(m, merges) {
        struct str  side[2];
        int         rc = merge_sides(l, m, side);
        if (rc == AGAIN) {
            continue;
        }
        if (rc != OK) {
            return err_set(l->err, "model.merges[%u] is neither \"a b\" nor "
                           "[\"a\", \"b\"]", rank);
        }
        if (add_merge(l, side, rank) != OK) {
            return ERROR;
        }
        rank++;
    }
    return OK;
}

static bool
is_true(const cJSON *v, const char *name)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(v, name));
}

/* An optional string of the model, into the arena. */
static int
load_affix(struct tokenizer_load *l, const cJSON *model, const char *name,
           struct str *out)
{
    struct str  s = tokenizer_load_str(
        l, cJSON_GetObjectItemCaseSensitive(model, name));

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
static int
use_bytes(struct tokenizer_load *l)
{
    struct tokenizer  *t = l->tok;
    struct pretok     *p = &t->pretok;

    if (p->num_stages == 0
        || p->stages[p->num_stages - 1].kind != PRETOK_BYTE_LEVEL
        || t->bpe.prefix.len > 0 || t->bpe.suffix.len > 0)
    {
        return OK;
    }
    int32_t  ids[256];
    for (int i = 0; i < 256; i++) {
        char    c[4];
        int     n = utf8_encode(byte_map_char((uint8_t) i), c);
        ids[i] = vocab_find(&t->model, c, (size_t) n);
        if (ids[i] < 0) {
            return OK;
        }
    }
    memcpy(t->bpe.byte_ids, ids, sizeof ids);
    t->bpe.bytes = true;
    p->num_stages--;
    if (!t->bpe.ignore_merges) {
        return OK;
    }
    if (!vocab_init(&t->bpe.words, t->model.num_entries,
                    TOKENIZER_FILE_BYTES_MAX))
    {
        return err_set(l->err, "out of memory");
    }
    struct buf  bytes;
    buf_init(&bytes, TOKENIZER_FILE_BYTES_MAX);
    for (uint32_t i = 0; i < t->model.num_entries; i++) {
        const struct vocab_entry  *e = &t->model.entries[i];
        buf_reset(&bytes);
        if (byte_map_decode((struct str) { t->model.text.data + e->offset,
                                           e->len }, &bytes)
            && !vocab_add(&t->bpe.words, buf_str(&bytes), e->id))
        {
            buf_destroy(&bytes);
            return err_set(l->err, "out of memory");
        }
    }
    buf_destroy(&bytes);
    return OK;
}

static int
load_model_flags(struct tokenizer_load *l, const cJSON *model)
{
    struct bpe  *b = &l->tok->bpe;
    struct str   unk = tokenizer_load_str(
        l, cJSON_GetObjectItemCaseSensitive(model, "unk_token"));
    const cJSON *dropout = cJSON_GetObjectItemCaseSensitive(model, "dropout");

    if (cJSON_IsNumber(dropout) && dropout->valuedouble != 0) {
        return err_set(l->err, "model.dropout %g is not supported: encoding "
                       "would be random", dropout->valuedouble);
    }
    b->ignore_merges = is_true(model, "ignore_merges");
    b->byte_fallback = is_true(model, "byte_fallback");
    b->fuse_unk = is_true(model, "fuse_unk");
    if (unk.data != NULL) {
        b->unk_id = vocab_find(&l->tok->model, unk.data, unk.len);
        if (b->unk_id < 0) {
            return err_set(l->err, "model.unk_token \"%.*s\" is not in "
                           "model.vocab", (int) (unk.len < 64 ? unk.len : 64),
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
load_model(struct tokenizer_load *l, const cJSON *model)
{
    const char   *type = cJSON_GetStringValue(
        cJSON_GetObjectItemCaseSensitive(model, "type"));
    const cJSON  *merges = cJSON_GetObjectItemCaseSensitive(model, "merges");

    if (!cJSON_IsObject(model)) {
        return err_set(l->err, "\"model\" is missing");
    }
    /* Old files have no type; merges tell BPE from the others. */
    if (type != NULL && strcmp(type, "BPE") != 0) {
        return err_set(l->err, "model type \"%s\" is not supported, only BPE "
                       "is", type);
    }
    if (!cJSON_IsArray(merges)) {
        return err_set(l->err, "model.merges is missing: only BPE models are "
                       "supported");
    }
    size_t  num = (size_t) cJSON_GetArraySize(merges);
    if (num > BPE_MERGES_MAX) {
        return err_set(l->err, "model.merges has %zu entries, the limit is %u",
                       num, BPE_MERGES_MAX);
    }
    if (load_vocab(l, cJSON_GetObjectItemCaseSensitive(model, "vocab")) != OK) {
        return ERROR;
    }
    if (!bpe_init(&l->tok->bpe, &l->tok->model, (uint32_t) num)) {
        return err_set(l->err, "out of memory");
    }
    if (load_model_flags(l, model) != OK || load_merges(l, merges) != OK
        || use_bytes(l) != OK)
    {
        return ERROR;
    }
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
load_added_pass(struct tokenizer_load *l, const cJSON *list, bool special,
                struct tokenizer_scratch *scratch)
{
    const cJSON  *v;

    cJSON_ArrayForEach(v, list) {
        struct str  content = tokenizer_load_str(
            l, cJSON_GetObjectItemCaseSensitive(v, "content"));
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

static int
load_added(struct tokenizer_load *l, const cJSON *list)
{
    struct tokenizer  *t = l->tok;
    const cJSON       *v;
    int32_t            largest = -1;
    int                num = cJSON_GetArraySize(list);

    if (num > TOKENIZER_ADDED_MAX) {
        return err_set(l->err, "added_tokens has %d entries, the limit is %d",
                       num, TOKENIZER_ADDED_MAX);
    }
    if (!vocab_init(&t->added, (size_t) num, TOKENIZER_FILE_BYTES_MAX)) {
        return err_set(l->err, "out of memory");
    }
    cJSON_ArrayForEach(v, list) {
        struct str  s = tokenizer_load_str(
            l, cJSON_GetObjectItemCaseSensitive(v, "content"));
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
load_info(struct tokenizer_load *l, const cJSON *added)
{
    struct tokenizer  *t = l->tok;
    const cJSON       *v;

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
    cJSON_ArrayForEach(v, added) {
        struct str  s = tokenizer_load_str(
            l, cJSON_GetObjectItemCaseSensitive(v, "content"));
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

    for (size_t f = 0; f < 2; f++) {
        cJSON  *root;
        int     rc = load_json(l, dir, files[f], &root);
        if (rc == AGAIN) {
            continue;
        }
        if (rc != OK) {
            cJSON_Delete(root);
            return ERROR;
        }
        for (int i = 0; i < TOKENIZER_NUM_SPECIALS; i++) {
            const cJSON  *v = cJSON_GetObjectItemCaseSensitive(root, names[i]);
            if (cJSON_IsObject(v)) {
                v = cJSON_GetObjectItemCaseSensitive(v, "content");
            }
            struct str  s = tokenizer_load_str(l, v);
            if (s.data == NULL || l->tok->special_text[i].data != NULL) {
                continue;
            }
            char  *copy = arena_strdup(&l->tok->arena, s);
            l->tok->special_text[i] = (struct str) { copy, copy ? s.len : 0 };
            l->tok->special_id[i] = tokenizer_token_id(l->tok, s);
        }
        cJSON_Delete(root);
    }
    return OK;
}

/* ---- all of it ------------------------------------------------------------ */

static int
load_tokenizer_json(struct tokenizer_load *l, const cJSON *root)
{
    const cJSON  *added = cJSON_GetObjectItemCaseSensitive(root,
                                                           "added_tokens");

    if (tokenizer_parse_normalizer(l, cJSON_GetObjectItemCaseSensitive(
                                       root, "normalizer")) != OK
        || tokenizer_parse_pretok(l, cJSON_GetObjectItemCaseSensitive(
                                      root, "pre_tokenizer")) != OK
        || tokenizer_parse_decoder(l, cJSON_GetObjectItemCaseSensitive(
                                       root, "decoder")) != OK
        || tokenizer_parse_post(l, cJSON_GetObjectItemCaseSensitive(
                                    root, "post_processor")) != OK
        || load_model(l, cJSON_GetObjectItemCaseSensitive(root, "model")) != OK
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
    cJSON                  *root = NULL;

    *out = NULL;
    if (t == NULL) {
        return err_set(err, "out of memory");
    }
    arena_init(&t->arena, 2u * TOKENIZER_FILE_BYTES_MAX);
    for (int i = 0; i < TOKENIZER_NUM_SPECIALS; i++) {
        t->special_id[i] = -1;
    }
    int  rc = load_json(&l, model_dir, "tokenizer.json", &root);
    if (rc == AGAIN) {
        rc = err_set(err, "%s: no tokenizer.json", model_dir);
    } else if (rc == OK) {
        rc = load_tokenizer_json(&l, root);
        if (rc != OK) {
            (void) err_prefix(err, "%s/tokenizer.json", model_dir);
        }
    }
    cJSON_Delete(root);
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
