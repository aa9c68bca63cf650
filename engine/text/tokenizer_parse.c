/* tokenizer_parse.c - JSON descriptions to stages.  A type, option or
 * combination that would not give the reference's result is refused here. */
#include "engine/text/tokenizer_load.h"

#include <string.h>
#include "engine/text/unicode.h"

#define SEQUENCE_DEPTH_MAX  4      /* Sequence in Sequence; files nest 1 */

static const char *
type_of(const cJSON *v)
{
    const char  *t = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(
                                              v, "type"));
    return t == NULL ? "" : t;
}

/* A field that is absent, null or a boolean. */
static bool
flag(const cJSON *v, const char *name, bool otherwise)
{
    const cJSON  *f = cJSON_GetObjectItemCaseSensitive(v, name);
    return cJSON_IsBool(f) ? cJSON_IsTrue(f) : otherwise;
}

/* A string field, copied into the arena; data NULL when absent. */
static struct str
text_field(struct tokenizer_load *l, const cJSON *v, const char *name)
{
    struct str  s = tokenizer_load_str(l, cJSON_GetObjectItemCaseSensitive(
                                              v, name));
    if (s.data == NULL) {
        return s;
    }
    char  *copy = arena_strdup(&l->tok->arena, s);
    return (struct str) { copy, copy == NULL ? 0 : s.len };
}

static int
unsupported(struct tokenizer_load *l, const char *part, const cJSON *v)
{
    return err_set(l->err, "%s type \"%s\" is not supported", part, type_of(v));
}

static int
missing(struct tokenizer_load *l, const cJSON *v, const char *field)
{
    return err_set(l->err, "%s needs a field \"%s\"", type_of(v), field);
}

/* {"String": s} -> *literal, {"Regex": r} -> *regex.  An empty literal is the
 * empty regex: it matches everywhere. */
static int
parse_pattern(struct tokenizer_load *l, const cJSON *v, struct str *literal,
              struct regex **regex)
{
    const cJSON  *p = cJSON_GetObjectItemCaseSensitive(v, "pattern");
    struct str    s = text_field(l, p, "String");

    *regex = NULL;
    *literal = s;
    if (s.data != NULL && s.len > 0) {
        return OK;
    }
    if (s.data == NULL) {
        s = tokenizer_load_str(l, cJSON_GetObjectItemCaseSensitive(p,
                                                                   "Regex"));
    }
    if (s.data == NULL) {
        return missing(l, v, "pattern");
    }
    literal->data = NULL;
    return regex_compile(regex, s, l->err);
}

/* ---- normalizer -------------------------------------------------------- */

static int
norm_fill(struct tokenizer_load *l, const cJSON *v, struct norm_step *s)
{
    const char  *t = type_of(v);

    if (strcmp(t, "NFC") == 0 || strcmp(t, "NFD") == 0
        || strcmp(t, "NFKC") == 0 || strcmp(t, "NFKD") == 0)
    {
        bool  compat = t[2] == 'K', composed = t[strlen(t) - 1] == 'C';
        s->kind = NORM_FORM;
        s->form = compat ? (composed ? UNICODE_NFKC : UNICODE_NFKD)
                         : (composed ? UNICODE_NFC : UNICODE_NFD);
    } else if (strcmp(t, "Lowercase") == 0) {
        s->kind = NORM_LOWERCASE;
    } else if (strcmp(t, "StripAccents") == 0) {
        s->kind = NORM_STRIP_ACCENTS;
    } else if (strcmp(t, "ByteLevel") == 0) {
        s->kind = NORM_BYTE_LEVEL;
    } else if (strcmp(t, "Strip") == 0) {
        s->kind = NORM_STRIP;
        s->left = flag(v, "strip_left", true);
        s->right = flag(v, "strip_right", true);
    } else if (strcmp(t, "Prepend") == 0) {
        s->kind = NORM_PREPEND;
        s->content = text_field(l, v, "prepend");
        return s->content.data == NULL ? missing(l, v, "prepend") : OK;
    } else if (strcmp(t, "Replace") == 0) {
        s->kind = NORM_REPLACE;
        s->content = text_field(l, v, "content");
        if (s->content.data == NULL) {
            return missing(l, v, "content");
        }
        return parse_pattern(l, v, &s->pattern, &s->regex);
    } else {
        return unsupported(l, "normalizer", v);
    }
    return OK;
}

/* Recursion is bounded by SEQUENCE_DEPTH_MAX; the file is the model's. */
static int
parse_normalizer(struct tokenizer_load *l, const cJSON *v, int depth)
{
    struct normalizer  *n = &l->tok->normalizer;
    const cJSON        *item;

    if (v == NULL || cJSON_IsNull(v)) {
        return OK;
    }
    if (strcmp(type_of(v), "Sequence") == 0 && depth < SEQUENCE_DEPTH_MAX) {
        cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(
                               v, "normalizers"))
        {
            if (parse_normalizer(l, item, depth + 1) != OK) {
                return ERROR;
            }
        }
        return OK;
    }
    if (n->num_steps == NORMALIZER_STEPS_MAX) {
        return err_set(l->err, "more than %d normalizers",
                       NORMALIZER_STEPS_MAX);
    }
    return norm_fill(l, v, &n->steps[n->num_steps++]);
}

int
tokenizer_parse_normalizer(struct tokenizer_load *l, const cJSON *v)
{
    return parse_normalizer(l, v, 0);
}

/* ---- pre-tokenizer ------------------------------------------------------- */

static struct pretok_stage *
stage_push(struct tokenizer_load *l)
{
    struct pretok  *p = &l->tok->pretok;

    if (p->num_stages == PRETOK_STAGES_MAX) {
        (void) err_set(l->err, "more than %d pre-tokenizer stages",
                       PRETOK_STAGES_MAX);
        return NULL;
    }
    return &p->stages[p->num_stages++];
}

static int
stage_chars(struct tokenizer_load *l, bool (*is_match)(uint32_t),
            enum split_behavior behavior)
{
    struct pretok_stage  *s = stage_push(l);
    if (s == NULL) {
        return ERROR;
    }
    *s = (struct pretok_stage) { .kind = PRETOK_SPLIT, .by = SPLIT_CHARS,
                                 .behavior = behavior, .is_match = is_match };
    return OK;
}

static int
parse_behavior(struct tokenizer_load *l, const cJSON *v,
               enum split_behavior *out)
{
    static const char *const  names[] = {
        [SPLIT_REMOVED] = "Removed", [SPLIT_ISOLATED] = "Isolated",
        [SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
        [SPLIT_CONTIGUOUS] = "Contiguous"
    };
    const cJSON  *b = cJSON_GetObjectItemCaseSensitive(v, "behavior");
    const char   *name = cJSON_GetStringValue(b);

    *out = SPLIT_ISOLATED;
    if (b == NULL && strcmp(type_of(v), "Punctuation") == 0) {
        return OK;
    }
    for (size_t i = 0; name != NULL && i < sizeof names / sizeof names[0];
         i++)
    {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum split_behavior) i;
            return OK;
        }
    }
    return err_set(l->err, "%s has no known \"behavior\"", type_of(v));
}

static int
pretok_split(struct tokenizer_load *l, const cJSON *v)
{
    struct pretok_stage  *s = stage_push(l);
    const cJSON          *p = cJSON_GetObjectItemCaseSensitive(v, "pattern");

    if (s == NULL) {
        return ERROR;
    }
    *s = (struct pretok_stage) { .kind = PRETOK_SPLIT };
    if (parse_behavior(l, v, &s->behavior) != OK) {
        return ERROR;
    }
    s->invert = flag(v, "invert", false);
    s->scan = scan_find(tokenizer_load_str(
                            l, cJSON_GetObjectItemCaseSensitive(p, "Regex")));
    if (s->scan != NULL) {
        s->by = SPLIT_SCAN;
        return OK;
    }
    if (parse_pattern(l, v, &s->content, &s->regex) != OK) {
        return ERROR;
    }
    s->by = s->regex == NULL ? SPLIT_LITERAL : SPLIT_REGEX;
    return OK;
}

static int
pretok_byte_level(struct tokenizer_load *l, const cJSON *v)
{
    struct pretok_stage  *s;

    if (flag(v, "add_prefix_space", true)) {
        if ((s = stage_push(l)) == NULL) {
            return ERROR;
        }
        *s = (struct pretok_stage) { .kind = PRETOK_PREFIX_SPACE };
    }
    if (flag(v, "use_regex", true)) {
        if ((s = stage_push(l)) == NULL) {
            return ERROR;
        }
        *s = (struct pretok_stage) { .kind = PRETOK_SPLIT, .by = SPLIT_SCAN,
                                     .behavior = SPLIT_ISOLATED,
                                     .scan = scan_gpt2 };
    }
    if ((s = stage_push(l)) == NULL) {
        return ERROR;
    }
    *s = (struct pretok_stage) { .kind = PRETOK_BYTE_LEVEL };
    return OK;
}

static int
pretok_metaspace(struct tokenizer_load *l, const cJSON *v)
{
    struct pretok_stage  *s = stage_push(l);
    const char           *scheme = cJSON_GetStringValue(
        cJSON_GetObjectItemCaseSensitive(v, "prepend_scheme"));

    if (s == NULL) {
        return ERROR;
    }
    *s = (struct pretok_stage) { .kind = PRETOK_METASPACE,
                                 .prepend = PREPEND_ALWAYS };
    s->content = text_field(l, v, "replacement");
    if (s->content.data == NULL || s->content.len == 0) {
        return missing(l, v, "replacement");
    }
    if (scheme == NULL) {              /* old files: add_prefix_space */
        s->prepend = flag(v, "add_prefix_space", true) ? PREPEND_ALWAYS
                                                       : PREPEND_NEVER;
    } else if (strcmp(scheme, "first") == 0) {
        s->prepend = PREPEND_FIRST;
    } else if (strcmp(scheme, "never") == 0) {
        s->prepend = PREPEND_NEVER;
    } else if (strcmp(scheme, "always") != 0) {
        return err_set(l->err, "Metaspace prepend_scheme \"%s\" is not known",
                       scheme);
    }
    if (!flag(v, "split", true)) {
        return OK;
    }
    struct str  mark = s->content;
    if ((s = stage_push(l)) == NULL) {
        return ERROR;
    }
    *s = (struct pretok_stage) { .kind = PRETOK_SPLIT, .by = SPLIT_LITERAL,
                                 .behavior = SPLIT_MERGED_WITH_NEXT,
                                 .content = mark };
    return OK;
}

static int
pretok_delimiter(struct tokenizer_load *l, const cJSON *v)
{
    struct pretok_stage  *s = stage_push(l);

    if (s == NULL) {
        return ERROR;
    }
    *s = (struct pretok_stage) { .kind = PRETOK_SPLIT, .by = SPLIT_LITERAL,
                                 .behavior = SPLIT_REMOVED };
    s->content = text_field(l, v, "delimiter");
    return s->content.data == NULL || s->content.len == 0
           ? missing(l, v, "delimiter") : OK;
}

static int
pretok_fill(struct tokenizer_load *l, const cJSON *v)
{
    const char           *t = type_of(v);
    enum split_behavior   behavior;
    struct pretok_stage  *s;

    if (strcmp(t, "Split") == 0) {
        return pretok_split(l, v);
    }
    if (strcmp(t, "ByteLevel") == 0) {
        return pretok_byte_level(l, v);
    }
    if (strcmp(t, "Metaspace") == 0) {
        return pretok_metaspace(l, v);
    }
    if (strcmp(t, "Digits") == 0) {
        return stage_chars(l, unicode_is_numeric,
                           flag(v, "individual_digits", false)
                           ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS);
    }
    if (strcmp(t, "Punctuation") == 0) {
        return parse_behavior(l, v, &behavior) != OK ? ERROR
               : stage_chars(l, unicode_is_punctuation, behavior);
    }
    if (strcmp(t, "WhitespaceSplit") == 0) {
        return stage_chars(l, unicode_is_space, SPLIT_REMOVED);
    }
    if (strcmp(t, "BertPreTokenizer") == 0) {
        return stage_chars(l, unicode_is_space, SPLIT_REMOVED) != OK ? ERROR
               : stage_chars(l, unicode_is_punctuation, SPLIT_ISOLATED);
    }
    if (strcmp(t, "CharDelimiterSplit") == 0) {
        return pretok_delimiter(l, v);
    }
    if (strcmp(t, "Whitespace") == 0) {
        if ((s = stage_push(l)) == NULL) {
            return ERROR;
        }
        *s = (struct pretok_stage) { .kind = PRETOK_SPLIT, .by = SPLIT_WORDS,
                                     .behavior = SPLIT_REMOVED,
                                     .invert = true };
        return OK;
    }
    return unsupported(l, "pre_tokenizer", v);
}

/* Recursion is bounded by SEQUENCE_DEPTH_MAX. */
static int
parse_pretok(struct tokenizer_load *l, const cJSON *v, int depth)
{
    const cJSON  *item;

    if (v == NULL || cJSON_IsNull(v)) {
        return OK;
    }
    if (strcmp(type_of(v), "Sequence") != 0 || depth >= SEQUENCE_DEPTH_MAX) {
        return pretok_fill(l, v);
    }
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(
                           v, "pretokenizers"))
    {
        if (parse_pretok(l, item, depth + 1) != OK) {
            return ERROR;
        }
    }
    return OK;
}

int
tokenizer_parse_pretok(struct tokenizer_load *l, const cJSON *v)
{
    return parse_pretok(l, v, 0);
}

/* ---- decoder --------------------------------------------------------------- */

static int
decode_strip(struct tokenizer_load *l, const cJSON *v, struct decode_step *s)
{
    const cJSON  *start = cJSON_GetObjectItemCaseSensitive(v, "start");
    const cJSON  *stop = cJSON_GetObjectItemCaseSensitive(v, "stop");

    s->kind = DECODE_STRIP;
    s->content = text_field(l, v, "content");
    if (s->content.data == NULL || s->content.len == 0) {
        return missing(l, v, "content");
    }
    if (!cJSON_IsNumber(start) || !cJSON_IsNumber(stop)
        || start->valuedouble < 0 || start->valuedouble > 1024
        || stop->valuedouble < 0 || stop->valuedouble > 1024)
    {
        return err_set(l->err, "Strip needs start and stop in 0..1024");
    }
    s->start = (uint32_t) start->valuedouble;
    s->stop = (uint32_t) stop->valuedouble;
    return OK;
}

static int
decode_fill(struct tokenizer_load *l, const cJSON *v, struct decode_step *s)
{
    const char  *t = type_of(v), *scheme;

    if (strcmp(t, "ByteLevel") == 0) {
        s->kind = DECODE_BYTE_LEVEL;
    } else if (strcmp(t, "ByteFallback") == 0) {
        s->kind = DECODE_BYTE_FALLBACK;
    } else if (strcmp(t, "Fuse") == 0) {
        s->kind = DECODE_FUSE;
    } else if (strcmp(t, "Strip") == 0) {
        return decode_strip(l, v, s);
    } else if (strcmp(t, "Replace") == 0) {
        s->kind = DECODE_REPLACE;
        s->content = text_field(l, v, "content");
        if (s->content.data == NULL) {
            return missing(l, v, "content");
        }
        return parse_pattern(l, v, &s->pattern, &s->regex);
    } else if (strcmp(t, "Metaspace") == 0) {
        s->kind = DECODE_METASPACE;
        s->content = text_field(l, v, "replacement");
        scheme = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(
                                          v, "prepend_scheme"));
        s->keep_first = scheme != NULL ? strcmp(scheme, "never") == 0
                        : !flag(v, "add_prefix_space", true);
        return s->content.len == 0 ? missing(l, v, "replacement") : OK;
    } else if (strcmp(t, "WordPiece") == 0) {
        s->kind = DECODE_WORDPIECE;
        s->content = text_field(l, v, "prefix");
        s->cleanup = flag(v, "cleanup", true);
        return s->content.data == NULL ? missing(l, v, "prefix") : OK;
    } else if (strcmp(t, "BPEDecoder") == 0) {
        s->kind = DECODE_SUFFIX;
        s->content = text_field(l, v, "suffix");
        return s->content.len == 0 ? missing(l, v, "suffix") : OK;
    } else {
        return unsupported(l, "decoder", v);
    }
    return OK;
}

/* Recursion is bounded by SEQUENCE_DEPTH_MAX. */
static int
parse_decoder(struct tokenizer_load *l, const cJSON *v, int depth)
{
    struct decoder  *d = &l->tok->decoder;
    const cJSON     *item;

    if (strcmp(type_of(v), "Sequence") == 0 && depth < SEQUENCE_DEPTH_MAX) {
        cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(
                               v, "decoders"))
        {
            if (parse_decoder(l, item, depth + 1) != OK) {
                return ERROR;
            }
        }
        return OK;
    }
    if (d->num_steps == DECODER_STEPS_MAX) {
        return err_set(l->err, "more than %d decoders", DECODER_STEPS_MAX);
    }
    return decode_fill(l, v, &d->steps[d->num_steps++]);
}

int
tokenizer_parse_decoder(struct tokenizer_load *l, const cJSON *v)
{
    l->tok->decoder.present = v != NULL && !cJSON_IsNull(v);
    if (l->tok->decoder.present && parse_decoder(l, v, 0) != OK) {
        return ERROR;
    }
    decoder_finish(&l->tok->decoder);
    return OK;
}

/* ---- post-processor -------------------------------------------------------- */

struct post_ids {
    int32_t ids[TOKENIZER_POST_IDS_MAX];
    size_t  num;
};

static int
post_push(struct tokenizer_load *l, struct post_ids *p, const cJSON *id)
{
    if (!cJSON_IsNumber(id) || id->valuedouble < 0
        || id->valuedouble >= TOKENIZER_VOCAB_MAX)
    {
        return err_set(l->err, "post_processor: a token id is missing or out "
                       "of range");
    }
    if (p->num == TOKENIZER_POST_IDS_MAX) {
        return err_set(l->err, "post_processor: more than %d ids",
                       TOKENIZER_POST_IDS_MAX);
    }
    p->ids[p->num++] = (int32_t) id->valuedouble;
    return OK;
}

/* A later processor wraps what an earlier one made. */
static int
post_wrap(struct tokenizer_load *l, const struct post_ids *before,
          const struct post_ids *after)
{
    struct tokenizer  *t = l->tok;

    if (t->num_before + before->num > TOKENIZER_POST_IDS_MAX
        || t->num_after + after->num > TOKENIZER_POST_IDS_MAX)
    {
        return err_set(l->err, "post_processor: more than %d ids",
                       TOKENIZER_POST_IDS_MAX);
    }
    memmove(t->before + before->num, t->before,
            t->num_before * sizeof t->before[0]);
    memcpy(t->before, before->ids, before->num * sizeof before->ids[0]);
    memcpy(t->after + t->num_after, after->ids,
           after->num * sizeof after->ids[0]);
    t->num_before += before->num;
    t->num_after += after->num;
    return OK;
}

static int
post_template(struct tokenizer_load *l, const cJSON *v)
{
    const cJSON      *specials = cJSON_GetObjectItemCaseSensitive(
        v, "special_tokens");
    const cJSON      *item, *id;
    struct post_ids   side[2] = { 0 };
    size_t            which = 0;

    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(v, "single")) {
        const cJSON  *seq = cJSON_GetObjectItemCaseSensitive(item, "Sequence");
        const cJSON  *tok = cJSON_GetObjectItemCaseSensitive(item,
                                                             "SpecialToken");
        const char   *name = cJSON_GetStringValue(
            cJSON_GetObjectItemCaseSensitive(seq != NULL ? seq : tok, "id"));
        if (name == NULL) {
            return err_set(l->err, "TemplateProcessing: an entry of \"single\" "
                           "is neither Sequence nor SpecialToken");
        }
        if (seq != NULL) {
            if (strcmp(name, "A") != 0 || which == 1) {
                return err_set(l->err, "TemplateProcessing: \"single\" must "
                               "hold the text once");
            }
            which = 1;
            continue;
        }
        const cJSON  *def = cJSON_GetObjectItemCaseSensitive(specials, name);
        if (def == NULL) {
            return err_set(l->err, "TemplateProcessing: special token \"%s\" "
                           "is not defined", name);
        }
        cJSON_ArrayForEach(id, cJSON_GetObjectItemCaseSensitive(def, "ids")) {
            if (post_push(l, &side[which], id) != OK) {
                return ERROR;
            }
        }
    }
    if (which == 0) {
        return err_set(l->err, "TemplateProcessing: \"single\" does not hold "
                       "the text");
    }
    return post_wrap(l, &side[0], &side[1]);
}

/* cls text sep, each ["token", id]. */
static int
post_roberta(struct tokenizer_load *l, const cJSON *v)
{
    struct post_ids  before = { 0 }, after = { 0 };

    if (post_push(l, &before, cJSON_GetArrayItem(
                      cJSON_GetObjectItemCaseSensitive(v, "cls"), 1)) != OK
        || post_push(l, &after, cJSON_GetArrayItem(
                         cJSON_GetObjectItemCaseSensitive(v, "sep"), 1)) != OK)
    {
        return ERROR;
    }
    return post_wrap(l, &before, &after);
}

/* Recursion is bounded by SEQUENCE_DEPTH_MAX. */
static int
parse_post(struct tokenizer_load *l, const cJSON *v, int depth)
{
    const char   *t = type_of(v);
    const cJSON  *item;

    if (v == NULL || cJSON_IsNull(v) || strcmp(t, "ByteLevel") == 0) {
        return OK;                       /* ByteLevel: offsets only */
    }
    if (strcmp(t, "TemplateProcessing") == 0) {
        return post_template(l, v);
    }
    if (strcmp(t, "RobertaProcessing") == 0
        || strcmp(t, "BertProcessing") == 0)
    {
        return post_roberta(l, v);
    }
    if (strcmp(t, "Sequence") != 0 || depth >= SEQUENCE_DEPTH_MAX) {
        return unsupported(l, "post_processor", v);
    }
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(v, "processors"))
    {
        if (parse_post(l, item, depth + 1) != OK) {
            return ERROR;
        }
    }
    return OK;
}

int
tokenizer_parse_post(struct tokenizer_load *l, const cJSON *v)
{
    return parse_post(l, v, 0);
}
